//! Codec: openraft's values as values of ours, which the proto codec writes.
//!
//! openraft's own serde forms are not used: what is on disk and on the wire must not change with its version.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use seriatim_proto::codec::{self, CodecError};

use super::types::{
    CommandBatch, Entry, LeaderId, LogId, Membership, Node, Payload, SnapshotMeta, StoredMembership, Vote,
};
use crate::log_record::{Record, RecordKind};
use crate::watermark::MarkVote;

/// A log id as it is stored and sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct LogIdRow {
    term: u64,
    node: u64,
    index: u64,
}

/// A membership as it is stored and sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MembershipRow {
    configs: Vec<Vec<u64>>,
    nodes: Vec<(u64, Node)>,
}

/// A membership and the entry that made it, as they are stored and sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct StoredMembershipRow {
    log_id: Option<LogIdRow>,
    membership: MembershipRow,
}

/// What a snapshot contains, as it is sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SnapshotMetaRow {
    last: Option<LogIdRow>,
    membership: StoredMembershipRow,
}

impl From<LogId> for LogIdRow {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, node: id.leader_id.node_id, index: id.index }
    }
}

impl From<LogIdRow> for LogId {
    fn from(row: LogIdRow) -> Self {
        log_id(row.term, row.node, row.index)
    }
}

impl From<Vote> for MarkVote {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<MarkVote> for Vote {
    fn from(vote: MarkVote) -> Self {
        Self { leader_id: LeaderId { term: vote.term, node_id: vote.node }, committed: vote.committed }
    }
}

impl From<&Membership> for MembershipRow {
    fn from(membership: &Membership) -> Self {
        Self {
            configs: membership.get_joint_config().iter().map(|voters| voters.iter().copied().collect()).collect(),
            nodes: membership.nodes().map(|(id, node)| (*id, node.clone())).collect(),
        }
    }
}

impl MembershipRow {
    /// The membership, if it is one.
    pub(crate) fn membership(self) -> Result<Membership, CodecError> {
        let nodes: std::collections::BTreeMap<u64, Node> = self.nodes.into_iter().collect();
        let configs: Vec<_> = self.configs.into_iter().map(|voters| voters.into_iter().collect()).collect();
        if configs.is_empty() {
            return Ok(Membership::default());
        }
        Membership::new(configs, nodes).map_err(|_| CodecError::Empty)
    }
}

impl From<&StoredMembership> for StoredMembershipRow {
    fn from(stored: &StoredMembership) -> Self {
        Self { log_id: (*stored.log_id()).map(LogIdRow::from), membership: stored.membership().into() }
    }
}

impl StoredMembershipRow {
    /// The membership, if it is one.
    pub(crate) fn stored(self) -> Result<StoredMembership, CodecError> {
        Ok(StoredMembership::new(self.log_id.map(LogId::from), self.membership.membership()?))
    }
}

impl From<&SnapshotMeta> for SnapshotMetaRow {
    fn from(meta: &SnapshotMeta) -> Self {
        Self { last: meta.last_log_id.map(LogIdRow::from), membership: (&meta.last_membership).into() }
    }
}

impl SnapshotMetaRow {
    /// The meta, if it is one.
    pub(crate) fn meta(self) -> Result<SnapshotMeta, CodecError> {
        Ok(SnapshotMeta { last_log_id: self.last.map(LogId::from), last_membership: self.membership.stored()? })
    }
}

/// A log id from its three numbers.
pub(crate) fn log_id(term: u64, node: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: node }, index }
}

/// An entry as it is stored and sent.
pub(crate) fn record_of(entry: &Entry) -> Record {
    let (kind, count, payload) = match &entry.payload {
        Payload::Blank => (RecordKind::Blank, 0, Bytes::new()),
        Payload::Normal(batch) => (RecordKind::Commands, batch.count, batch.bytes.clone()),
        Payload::Membership(membership) => {
            (RecordKind::Membership, 0, codec::encode_bytes(&MembershipRow::from(membership)))
        }
    };
    let LeaderId { term, node_id: node } = entry.log_id.leader_id;
    Record { index: entry.log_id.index, term, node, kind, count, payload }
}

/// The entry of a record.
pub(crate) fn entry_of(record: Record) -> Result<Entry, CodecError> {
    let payload = match record.kind {
        RecordKind::Blank => Payload::Blank,
        RecordKind::Commands => Payload::Normal(CommandBatch { count: record.count, bytes: record.payload }),
        RecordKind::Membership => Payload::Membership(codec::decode::<MembershipRow>(&record.payload)?.membership()?),
    };
    Ok(Entry { log_id: log_id(record.term, record.node, record.index), payload })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn entries_round_trip() {
        let nodes: BTreeMap<u64, Node> =
            [1, 2, 3].map(|id| (id, Node { store: id + 10, address: format!("host:{id}") })).into();
        let configs = vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])];
        let payloads = [
            Payload::Blank,
            Payload::Normal(CommandBatch { count: 3, bytes: Bytes::from_static(b"abc") }),
            Payload::Membership(Membership::new(configs, nodes).unwrap()),
        ];
        for payload in payloads {
            let entry = Entry { log_id: log_id(4, 5, 6), payload };
            assert_eq!(entry_of(record_of(&entry)).unwrap(), entry);
        }
    }
}
