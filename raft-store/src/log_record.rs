//! Log record: one entry of a group's log as it is stored in log.db.
//!
//! ```text
//!  0  version 1   1  kind 1   2  crc32c 4   6  chain 4   10 index 8   18 term 8   26 node 8   34 count 4   38 payload
//! ```
//! Integers are big-endian. `crc` covers everything but itself and the chain. `chain` is the crc32c of the previous
//! record's chain and this record's crc: a record that is exchanged, lost or moved breaks it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use seriatim_proto::ids::{GroupId, ReplicaId};

/// Version of the layout above.
const VERSION: u8 = 1;
/// Bytes in front of the payload.
pub(crate) const HEADER_BYTES: usize = 38;

/// Whose log: one replica of one group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct ReplicaKey {
    /// which group
    pub(crate) group: GroupId,
    /// which of its replicas
    pub(crate) replica: ReplicaId,
}

impl std::fmt::Display for ReplicaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "replica {} of group {}", self.replica, self.group)
    }
}

/// What a record's payload is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum RecordKind {
    /// nothing: a leader's first entry
    Blank,
    /// a batch of commands
    Commands,
    /// a membership
    Membership,
}

impl RecordKind {
    fn letter(self) -> u8 {
        match self {
            RecordKind::Blank => b'b',
            RecordKind::Commands => b'c',
            RecordKind::Membership => b'm',
        }
    }

    fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'b' => Some(RecordKind::Blank),
            b'c' => Some(RecordKind::Commands),
            b'm' => Some(RecordKind::Membership),
            _ => None,
        }
    }
}

/// An entry without its place in the chain: as it travels and as it waits for the writer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    /// its index
    pub(crate) index: u64,
    /// term of the leader that proposed it
    pub(crate) term: u64,
    /// replica of the leader that proposed it
    pub(crate) node: u64,
    /// what the payload is
    pub(crate) kind: RecordKind,
    /// commands in the payload
    pub(crate) count: u32,
    /// the payload
    pub(crate) payload: Bytes,
}

/// Why bytes are no record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum RecordError {
    /// Shorter than its header.
    #[error("a record of {0} bytes is too short")]
    Short(usize),
    /// Written by another version of this program, or damaged.
    #[error("record version {0}, this program reads {VERSION}")]
    Version(u8),
    /// An unknown kind.
    #[error("record kind {0}")]
    Kind(u8),
    /// The bytes are not those that were written.
    #[error("checksum mismatch")]
    Checksum,
    /// The record is not the one that follows the one before it.
    #[error("the chain is broken")]
    Chain,
    /// The record is not where its index says.
    #[error("a record of index {found} in the place of {expected}")]
    Place {
        /// where it was found
        expected: u64,
        /// what it says
        found: u64,
    },
}

impl Record {
    /// Checksum of everything that the record says.
    pub(crate) fn crc(&self) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.header()), &self.payload)
    }

    /// Bytes when stored.
    pub(crate) fn stored_bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// Appends the stored form to `out` and returns the new chain.
    pub(crate) fn write(&self, previous: u32, out: &mut Vec<u8>) -> u32 {
        let header = self.header();
        let crc = crc32c::crc32c_append(crc32c::crc32c(&header), &self.payload);
        let chain = link(previous, crc);
        out.reserve(self.stored_bytes());
        out.extend_from_slice(&header[..2]);
        out.extend_from_slice(&crc.to_be_bytes());
        out.extend_from_slice(&chain.to_be_bytes());
        out.extend_from_slice(&header[2..]);
        out.extend_from_slice(&self.payload);
        chain
    }

    /// Reads a stored record, found in the place `index`, and its chain.
    pub(crate) fn read(index: u64, bytes: Bytes) -> Result<(Record, u32), RecordError> {
        let head: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or(RecordError::Short(bytes.len()))?;
        if head[0] != VERSION {
            return Err(RecordError::Version(head[0]));
        }
        let record = Record {
            index: u64_at(head, 10),
            term: u64_at(head, 18),
            node: u64_at(head, 26),
            kind: RecordKind::from_letter(head[1]).ok_or(RecordError::Kind(head[1]))?,
            count: u32_at(head, 34),
            payload: bytes.slice(HEADER_BYTES..),
        };
        let chain = u32_at(head, 6);
        if record.crc() != u32_at(head, 2) {
            return Err(RecordError::Checksum);
        }
        if record.index != index {
            return Err(RecordError::Place { expected: index, found: record.index });
        }
        Ok((record, chain))
    }

    /// As [`Record::read`], and checks the chain against the record before it, if that is known.
    pub(crate) fn read_linked(index: u64, bytes: Bytes, previous: Option<u32>) -> Result<(Record, u32), RecordError> {
        let (record, chain) = Self::read(index, bytes)?;
        match previous {
            Some(previous) if link(previous, record.crc()) != chain => Err(RecordError::Chain),
            _ => Ok((record, chain)),
        }
    }

    fn header(&self) -> [u8; HEADER_BYTES - 8] {
        let mut header = [0; HEADER_BYTES - 8];
        header[0] = VERSION;
        header[1] = self.kind.letter();
        header[2..10].copy_from_slice(&self.index.to_be_bytes());
        header[10..18].copy_from_slice(&self.term.to_be_bytes());
        header[18..26].copy_from_slice(&self.node.to_be_bytes());
        header[26..30].copy_from_slice(&self.count.to_be_bytes());
        header
    }
}

/// The chain in front of a replica's first record.
pub(crate) fn chain_seed(key: ReplicaKey) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&key.group.0.to_be_bytes()), &key.replica.0.to_be_bytes())
}

fn link(previous: u32, crc: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&previous.to_be_bytes()), &crc.to_be_bytes())
}

fn u64_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes of a fixed header"))
}

fn u32_at(bytes: &[u8; HEADER_BYTES], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes of a fixed header"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(index: u64) -> Record {
        let payload = Bytes::from_static(b"payload");
        Record { index, term: 3, node: 7, kind: RecordKind::Commands, count: 2, payload }
    }

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        record(0x0102).write(5, &mut out);
        assert_eq!(&out[..2], b"\x01c");
        assert_eq!(&out[10..38], b"\0\0\0\0\0\0\x01\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x07\0\0\0\x02");
        assert_eq!(&out[38..], b"payload");
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let mut out = Vec::new();
        let chain = record(9).write(5, &mut out);
        assert_eq!(Record::read_linked(9, out.clone().into(), Some(5)), Ok((record(9), chain)));
        for bit in 0..out.len() * 8 {
            let mut bad = out.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(Record::read_linked(9, bad.into(), Some(5)).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_in_another_place_or_behind_another_record_is_refused() {
        let mut out = Vec::new();
        record(9).write(5, &mut out);
        assert_eq!(Record::read(8, out.clone().into()), Err(RecordError::Place { expected: 8, found: 9 }));
        assert_eq!(Record::read_linked(9, out.into(), Some(6)), Err(RecordError::Chain));
    }
}
