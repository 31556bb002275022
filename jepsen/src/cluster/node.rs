//! Node: a process of the cluster under test, as others see it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// `seriatim store`
    Store,
    /// `seriatim logic`
    Logic,
    /// `seriatim gateway`
    Gateway,
}

impl Role {
    /// All, in the order in which they start.
    pub const ALL: [Role; 3] = [Role::Store, Role::Logic, Role::Gateway];

    /// Name of the subcommand, and prefix of the nodes' names.
    pub fn name(self) -> &'static str {
        match self {
            Role::Store => "store",
            Role::Logic => "logic",
            Role::Gateway => "gateway",
        }
    }
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeInfo {
    /// `store-1`, `logic-2`, `gateway-1`
    pub name: String,
    /// what it is
    pub role: Role,
    /// where it listens; UDP for a gateway; reachable from the harness
    pub address: SocketAddr,
    /// of /metrics: on the loopback of the node's own namespace, so ask [`super::Cluster::metrics`]
    pub metrics: SocketAddr,
}

/// A node that ended although nobody ended it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OwnEnd {
    /// which
    pub node: String,
    /// how, such as `exit status: 1`
    pub status: String,
    /// last lines of its log
    pub log: String,
    /// a fault was under way that may end it, such as a failing disk
    pub allowed: bool,
}
