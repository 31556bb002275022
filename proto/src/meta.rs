//! Meta: the commands and records of group 0: registry, placement, ids. Never on a message's way.

use serde::{Deserialize, Serialize};

use crate::command::SlotRange;
use crate::ids::{ClusterId, Generation, GroupId, LeaseId, NodeId, ReplicaId, StoreId};

/// What kind of process a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub enum NodeKind {
    /// the message service
    Logic,
    /// the door for devices
    Gateway,
}

/// A command of group 0.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum MetaCommand {
    /// The first command of a cluster: its id and its first stores. Applied once; a repeat changes nothing.
    Init {
        /// fixed at `cluster init`
        cluster: ClusterId,
        /// generation of the new cluster
        generation: Generation,
        /// the stores of group 0, with the ids that `cluster init` gave them
        stores: Vec<StoreRecord>,
        /// the replicas of group 0
        replicas: Vec<ReplicaRecord>,
    },
    /// Makes a group. Ids of replicas are given by apply; overlapping slots are refused.
    CreateGroup {
        /// not 0
        id: GroupId,
        /// owned from the start
        slots: Vec<SlotRange>,
        /// where its replicas live; rising, distinct
        stores: Vec<StoreId>,
    },
    /// The group's first leader has proposed `Own`; replicas may no longer be born.
    CloseGroup {
        /// which
        id: GroupId,
    },
    /// A logic node or gateway starts: gives it a node id and a lease in group 0.
    OpenNode {
        /// what it is
        kind: NodeKind,
        /// where others reach it, `host:port`
        address: String,
    },
}

/// A store process.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct StoreRecord {
    /// kept with its data
    pub id: StoreId,
    /// where others reach it, `host:port`
    pub address: String,
}

/// A replica of a group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct ReplicaRecord {
    /// Raft's node id
    pub id: ReplicaId,
    /// where it lives
    pub store: StoreId,
}

/// A group, as group 0 knows it. The slots are a directory; the group's own state decides.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct GroupRecord {
    /// which
    pub id: GroupId,
    /// owned from the start
    pub slots: Vec<SlotRange>,
    /// where it lives
    pub replicas: Vec<ReplicaRecord>,
    /// no replica may be born any more
    pub closed: bool,
}

/// A logic node or gateway.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct NodeRecord {
    /// never reused
    pub id: NodeId,
    /// its session with group 0; it lives as long as this
    pub lease: LeaseId,
    /// what it is
    pub kind: NodeKind,
    /// where others reach it
    pub address: String,
}

/// Everything that group 0 knows, as one read returns it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Directory {
    /// which cluster
    pub cluster: ClusterId,
    /// generation
    pub generation: Generation,
    /// all stores
    pub stores: Vec<StoreRecord>,
    /// all groups, group 0 first
    pub groups: Vec<GroupRecord>,
    /// live logic nodes and gateways
    pub nodes: Vec<NodeRecord>,
}

/// What group 0 answers.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum MetaOutcome {
    /// `Init`
    Initialised,
    /// `CreateGroup`, first time or repeated
    Created(GroupRecord),
    /// `CloseGroup`
    Closed,
    /// `OpenNode`
    Opened(NodeRecord),
    /// a deterministic no
    Refused(MetaRefusal),
}

/// Why group 0 says no.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, thiserror::Error)]
pub enum MetaRefusal {
    /// `Init` must come first.
    #[error("the cluster is not initialised")]
    NotInitialised,
    /// Initialised as another cluster.
    #[error("the cluster is initialised under another id")]
    OtherCluster,
    /// Another group owns one of the slots, or the id is taken.
    #[error("the group overlaps another")]
    Overlap,
    /// No such group or store.
    #[error("no such group or store")]
    Unknown,
    /// Empty or out of range.
    #[error("malformed command")]
    Malformed,
}
