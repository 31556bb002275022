//! Snapshot: a group's rows on their way from one store to another.
//!
//! A snapshot is a sequence of blocks. The sender makes them from one view of state.db while apply goes on; the
//! receiver writes them to a file, checking each, and hands over only what was complete. Nothing that did not
//! check ever reaches the state.
//!
//! ```text
//! block   crc32c:u32 BE over the rest ‖ kind:u8 ‖ body
//! kinds   0 header: codec(SnapshotHeader)   1 rows: (key len:u16 BE, value len:u32 BE, key, value)*   2 end: codec(SnapshotEnd)
//! file    (block len:u32 BE ‖ block)*, named g<group>.<number>, in `snapshots/`
//! ```

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use seriatim_proto::codec;
use seriatim_proto::ids::GroupId;

/// What openraft hands around: blocks to send, or a file that was received and checked.
#[derive(Debug)]
pub(crate) enum SnapshotData {
    /// Made here, to be sent away.
    Sending(SnapshotBlocks),
    /// Received, complete and checked.
    Received(ReceivedSnapshot),
}

impl SnapshotData {
    /// The next block to send; `None` at the end.
    pub(crate) async fn next_block(&mut self) -> Option<io::Result<Bytes>> {
        match self {
            Self::Sending(blocks) => blocks.0.recv().await,
            Self::Received(_) => Some(Err(invalid("a received snapshot is installed, never sent on"))),
        }
    }
}

/// Blocks as a thread makes them, at most two ahead of who takes them. Dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct SnapshotBlocks(mpsc::Receiver<io::Result<Bytes>>);

impl SnapshotBlocks {
    /// The blocks, and where the thread puts them.
    pub(crate) fn channel() -> (mpsc::Sender<io::Result<Bytes>>, Self) {
        let (tx, rx) = mpsc::channel(2);
        (tx, Self(rx))
    }

    /// No blocks: where only the position of a snapshot matters.
    pub(crate) fn nothing() -> Self {
        Self::channel().1
    }
}

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    /// whose
    pub(crate) group: GroupId,
    /// index of the last entry in it
    pub(crate) applied_index: u64,
    /// key ranges `[from, end)` that belong to the group: all that is there is replaced
    pub(crate) ranges: Vec<KeyRange>,
}

/// Keys `[from, end)`.
pub(crate) type KeyRange = (Vec<u8>, Vec<u8>);

/// Proves that nothing is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct SnapshotEnd {
    rows: u64,
    blocks: u64,
}

/// Makes blocks from rows.
#[derive(Debug)]
pub(crate) struct BlockWriter {
    body: Vec<u8>,
    rows: u64,
    blocks: u64,
}

impl BlockWriter {
    /// The first block, and the writer of those behind it.
    pub(crate) fn new(header: &SnapshotHeader) -> (Bytes, Self) {
        (seal(HEADER, &codec::encode(header)), Self { body: Vec::new(), rows: 0, blocks: 0 })
    }

    /// Adds a row; a block when one is full.
    pub(crate) fn row(&mut self, key: &[u8], value: &[u8]) -> Option<Bytes> {
        let key_len = u16::try_from(key.len()).expect("keys are made of bounded names and numbers");
        let value_len = u32::try_from(value.len()).expect("rows are smaller than an entry");
        self.body.extend_from_slice(&key_len.to_be_bytes());
        self.body.extend_from_slice(&value_len.to_be_bytes());
        self.body.extend_from_slice(key);
        self.body.extend_from_slice(value);
        self.rows += 1;
        (self.body.len() >= BLOCK_BYTES).then(|| self.take())
    }

    /// The last blocks.
    pub(crate) fn finish(mut self) -> Vec<Bytes> {
        let mut blocks = Vec::new();
        if !self.body.is_empty() {
            blocks.push(self.take());
        }
        blocks.push(seal(END, &codec::encode(&SnapshotEnd { rows: self.rows, blocks: self.blocks })));
        blocks
    }

    fn take(&mut self) -> Bytes {
        self.blocks += 1;
        let block = seal(ROWS, &self.body);
        self.body.clear();
        block
    }
}

/// Takes blocks from another store into a file.
#[derive(Debug)]
pub(crate) struct SnapshotReceiver {
    path: PathBuf,
    file: BufWriter<File>,
    header: Option<SnapshotHeader>,
    rows: u64,
    blocks: u64,
    ended: bool,
    kept: bool,
}

impl SnapshotReceiver {
    /// A new file in `folder`, which is made if it is not there.
    pub(crate) fn create(folder: &Path, group: GroupId) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(folder)?;
        let path = folder.join(format!("g{}.{}", group.0, NUMBER.fetch_add(1, Ordering::Relaxed)));
        let file = BufWriter::new(File::create(&path)?);
        Ok(Self { path, file, header: None, rows: 0, blocks: 0, ended: false, kept: false })
    }

    /// Checks and writes one block.
    pub(crate) fn write(&mut self, block: &[u8]) -> io::Result<()> {
        if self.ended {
            return Err(invalid("a block behind the end"));
        }
        let (kind, body) = open(block)?;
        match (kind, &self.header) {
            (HEADER, None) => self.header = Some(decode(body)?),
            (ROWS, Some(_)) => {
                self.rows += Rows(body).try_fold(0u64, |count, row| row.map(|_| count + 1))?;
                self.blocks += 1;
            }
            (END, Some(_)) => {
                if decode::<SnapshotEnd>(body)? != (SnapshotEnd { rows: self.rows, blocks: self.blocks }) {
                    return Err(invalid("blocks or rows are missing"));
                }
                self.ended = true;
            }
            _ => return Err(invalid("a block out of its place")),
        }
        let len = u32::try_from(block.len()).map_err(|_| invalid("a block is too long"))?;
        self.file.write_all(&len.to_be_bytes())?;
        self.file.write_all(block)
    }

    /// What was received, durable, if it is complete.
    pub(crate) fn finish(mut self) -> io::Result<SnapshotData> {
        if !self.ended {
            return Err(invalid("the snapshot ends too early"));
        }
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        let header = self.header.take().ok_or_else(|| invalid("no header"))?;
        self.kept = true;
        Ok(SnapshotData::Received(ReceivedSnapshot { path: self.path.clone(), header, kept: false }))
    }
}

impl Drop for SnapshotReceiver {
    fn drop(&mut self) {
        if !self.kept {
            // Left-overs are removed at the next start too.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A complete, checked snapshot in a file, which goes with this value.
#[derive(Debug)]
pub(crate) struct ReceivedSnapshot {
    path: PathBuf,
    header: SnapshotHeader,
    kept: bool,
}

impl Drop for ReceivedSnapshot {
    fn drop(&mut self) {
        if !self.kept {
            // Left-overs are removed at the next start too.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl ReceivedSnapshot {
    /// A file that an earlier run of the process had received. Checks all of it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut header = None;
        let mut ended = false;
        for block in Blocks::open(path)? {
            let block = block?;
            let (kind, body) = open(&block)?;
            match kind {
                HEADER => header = Some(decode(body)?),
                END => ended = true,
                _ => (),
            }
        }
        match header {
            Some(header) if ended => Ok(Self { path: path.to_owned(), header, kept: true }),
            _ => Err(invalid("the snapshot file is incomplete")),
        }
    }

    /// What it is of.
    pub(crate) fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// From now on the file outlives this value (`true`), or not.
    pub(crate) fn keep(&mut self, kept: bool) {
        self.kept = kept;
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `each` with every row, in key order.
    pub(crate) fn for_each_row(&self, mut each: impl FnMut(&[u8], &[u8]) -> io::Result<()>) -> io::Result<()> {
        for block in Blocks::open(&self.path)? {
            let block = block?;
            let (kind, body) = open(&block)?;
            if kind == ROWS {
                for row in Rows(body) {
                    let (key, value) = row?;
                    each(key, value)?;
                }
            }
        }
        Ok(())
    }
}

/// Blocks of a file.
struct Blocks(BufReader<File>);

impl Blocks {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(BufReader::new(File::open(path)?)))
    }
}

impl Iterator for Blocks {
    type Item = io::Result<Vec<u8>>;
    fn next(&mut self) -> Option<Self::Item> {
        let mut len = [0; 4];
        match self.0.read_exact(&mut len) {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Err(error) => return Some(Err(error)),
        }
        let mut block = vec![0; u32::from_be_bytes(len) as usize];
        Some(self.0.read_exact(&mut block).map(|()| block))
    }
}

/// Rows of a block.
struct Rows<'a>(&'a [u8]);

impl<'a> Iterator for Rows<'a> {
    type Item = io::Result<(&'a [u8], &'a [u8])>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let parsed = (|| {
            let (key_len, rest) = self.0.split_first_chunk::<2>()?;
            let (value_len, rest) = rest.split_first_chunk::<4>()?;
            let (key, rest) = rest.split_at_checked(u16::from_be_bytes(*key_len) as usize)?;
            let (value, rest) = rest.split_at_checked(u32::from_be_bytes(*value_len) as usize)?;
            Some((key, value, rest))
        })();
        match parsed {
            Some((key, value, rest)) => {
                self.0 = rest;
                Some(Ok((key, value)))
            }
            None => {
                self.0 = &[];
                Some(Err(invalid("a row is cut short")))
            }
        }
    }
}

fn seal(kind: u8, body: &[u8]) -> Bytes {
    let mut block = Vec::with_capacity(body.len() + 5);
    block.extend_from_slice(&[0; 4]);
    block.push(kind);
    block.extend_from_slice(body);
    let crc = crc32c::crc32c(&block[4..]);
    block[..4].copy_from_slice(&crc.to_be_bytes());
    block.into()
}

fn open(block: &[u8]) -> io::Result<(u8, &[u8])> {
    let (crc, rest) = block.split_first_chunk::<4>().ok_or_else(|| invalid("a block is cut short"))?;
    if crc32c::crc32c(rest) != u32::from_be_bytes(*crc) {
        return Err(invalid("the checksum of a block does not match"));
    }
    let (kind, body) = rest.split_first().ok_or_else(|| invalid("a block is cut short"))?;
    Ok((*kind, body))
}

fn decode<T: serde::de::DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    codec::decode(body).map_err(|error| invalid(&error.to_string()))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("snapshot: {what}"))
}

/// Bytes of rows in one block.
const BLOCK_BYTES: usize = 512 << 10;
const HEADER: u8 = 0;
const ROWS: u8 = 1;
const END: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SnapshotHeader {
        SnapshotHeader { group: GroupId(1), applied_index: 9, ranges: vec![(vec![0], vec![1])] }
    }

    fn blocks(rows: u32) -> Vec<Bytes> {
        let (first, mut writer) = BlockWriter::new(&header());
        let mut blocks = vec![first];
        blocks.extend((0..rows).filter_map(|n| writer.row(&n.to_be_bytes(), &[7; 4_000])));
        blocks.extend(writer.finish());
        blocks
    }

    #[test]
    fn rows_come_back_as_they_went() {
        let dir = tempfile::tempdir().unwrap();
        let mut receiver = SnapshotReceiver::create(dir.path(), GroupId(1)).unwrap();
        let blocks = blocks(1_000);
        assert!(blocks.len() > 4);
        blocks.iter().for_each(|block| receiver.write(block).unwrap());
        let SnapshotData::Received(received) = receiver.finish().unwrap() else { panic!("received") };
        let received = ReceivedSnapshot::open(received.path()).unwrap();
        assert_eq!(received.header(), &header());
        let mut count = 0u32;
        received
            .for_each_row(|key, value| {
                assert_eq!((key, value), (&count.to_be_bytes()[..], &[7; 4_000][..]));
                count += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(count, 1_000);
    }

    #[test]
    fn what_is_damaged_or_incomplete_is_refused_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let whole = blocks(300);
        for damage in 0..whole.len() {
            let mut receiver = SnapshotReceiver::create(dir.path(), GroupId(1)).unwrap();
            let missing = whole.iter().enumerate().filter(|(at, _)| *at != damage);
            let written = missing.map(|(_, block)| receiver.write(block)).collect::<io::Result<Vec<_>>>();
            assert!(written.is_err() || receiver.finish().is_err(), "block {damage} missing");
            let mut flipped = whole[damage].to_vec();
            let last = flipped.len() - 1;
            flipped[last] ^= 1;
            let mut receiver = SnapshotReceiver::create(dir.path(), GroupId(1)).unwrap();
            let mut results = whole[..damage].iter().map(|block| receiver.write(block)).collect::<Vec<_>>();
            results.push(receiver.write(&flipped));
            assert!(results.last().unwrap().is_err());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
