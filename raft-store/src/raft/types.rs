//! Types: what openraft is told about us, and the aliases that the rest of this module uses.
//!
//! Written by hand instead of with openraft's macro, which cannot name a generic responder.
//!
//! # Invariants
//! I15: Raft's node id is the replica id, which is never reused.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use seriatim_proto::command::Outcome;
use seriatim_proto::ids::{ReplicaId, StoreId};

/// Tells openraft our types.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

/// Who proposed an entry: term and replica.
pub(crate) type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, u64>;
/// Where an entry is, and who proposed it.
pub(crate) type LogId = openraft::LogId<LeaderId>;
/// A vote.
pub(crate) type Vote = openraft::Vote<LeaderId>;
/// What an entry carries.
pub(crate) type Payload = openraft::EntryPayload<CommandBatch, u64, Node>;
/// An entry of a group's log.
pub(crate) type Entry = openraft::Entry<LeaderId, Payload>;
/// Voters and learners.
pub(crate) type Membership = openraft::Membership<u64, Node>;
/// Voters and learners, with the entry that made them so.
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, Node>;
/// What a snapshot contains.
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, Node>;
/// A snapshot.
pub(crate) type Snapshot<D> = openraft::Snapshot<LeaderId, u64, Node, D>;

#[allow(deprecated, reason = "the runtime's crate is a private dependency of openraft; its re-export is all we need")]
impl openraft::RaftTypeConfig for TypeConfig {
    type D = CommandBatch;
    type R = Vec<Outcome>;
    type NodeId = u64;
    type Node = Node;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = openraft::impls::TokioRuntime;
    type Responder<T>
        = Reply<T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// A batch of commands as it was received: `codec::encode(&Vec<Command>)`. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CommandBatch {
    /// how many commands
    pub(crate) count: u32,
    /// the encoded commands
    pub(crate) bytes: Bytes,
}

impl fmt::Display for CommandBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} commands, {} bytes", self.count, self.bytes.len())
    }
}

impl fmt::Debug for CommandBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where a replica lives.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Node {
    /// on which store
    pub(crate) store: u64,
    /// where others reach that store, `host:port`
    pub(crate) address: String,
}

/// A member of a group, as its record in group 0 says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Member {
    /// Raft's node id
    pub(crate) replica: ReplicaId,
    /// on which store
    pub(crate) store: StoreId,
    /// where others reach that store, `host:port`
    pub(crate) address: String,
}

/// An answer that goes straight from apply to a callback: no task and no channel for each request.
///
/// A reply that is dropped unanswered (the group stopped) calls the callback with `None`.
pub(crate) struct Reply<T>(Option<Callback<T>>);

type Callback<T> = Box<dyn FnOnce(Option<T>) + Send>;

impl<T> Reply<T> {
    /// Calls `callback` exactly once.
    pub(crate) fn new(callback: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }
}

impl<T: Send + 'static> openraft::raft::responder::Responder<TypeConfig, T> for Reply<T> {
    fn on_complete(mut self, result: T) {
        if let Some(callback) = self.0.take() {
            callback(Some(result));
        }
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(None);
        }
    }
}
