//! Admin frames: what operators ask of a store.

use serde::{Deserialize, Serialize};

use crate::error::Refusal;
use crate::ids::{ClusterId, GroupId, ReplicaId, StoreId};
use crate::meta::{ReplicaRecord, StoreRecord, StoreToken};
use crate::store::StoreStatus;

/// Operator → store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum AdminRequest {
    /// Makes a cluster of the named stores (this one among them), with `groups` data groups. Nothing else ever
    /// initialises one. Repeating it on the same stores completes what was begun.
    InitCluster {
        /// addresses of all stores, `host:port`
        stores: Vec<String>,
        /// data groups
        groups: u32,
    },
    /// Store → store, while a cluster is made: take this identity and bear the replica of group 0.
    /// Refused by a store that has another one.
    Adopt {
        /// the new cluster
        cluster: ClusterId,
        /// the id that this store takes
        store: StoreId,
        /// its replica of group 0
        replica: ReplicaId,
        /// what the store said that its folder's is: a folder that was wiped since takes nothing
        token: StoreToken,
        /// all stores of group 0
        stores: Vec<StoreRecord>,
        /// all replicas of group 0
        replicas: Vec<ReplicaRecord>,
    },
    /// What this store is and does.
    Status,
    /// Give the leadership of a group, which this store leads, to another of its stores.
    /// Refused with `NOT_LEADER` by a store that does not lead it, `NOT_FOUND` for a store without a voter of it, and
    /// `UNAVAILABLE` for one that does not answer or has not almost all of the log: the group would be without a
    /// leader for no good.
    Transfer {
        /// which
        group: GroupId,
        /// who should lead it
        to: StoreId,
    },
}

/// Store → operator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum AdminResponse {
    /// `InitCluster`
    Initialised {
        /// the cluster
        cluster: ClusterId,
    },
    /// `Adopt`
    Adopted,
    /// `Status`
    Status(StoreStatus),
    /// why not
    Refused(Refusal),
    /// `Transfer`: the other store was asked to stand; whether it won, its status says.
    Transferring,
}
