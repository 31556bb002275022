//! Playground: what a playground tells the tools beside it: the file `playground.json` in its data folder, and the
//! JSON lines of its control socket. Both are for people and scripts of one machine, not for clusters.

use serde::{Deserialize, Serialize};

/// Name of the description in the data folder.
pub const FILE: &str = "playground.json";
/// Name of the control socket in the data folder.
pub const SOCKET: &str = "control.sock";
/// Version of [`Playground`].
pub const VERSION: u32 = 1;

/// A playground, as its file says. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Playground {
    /// [`VERSION`]
    pub version: u32,
    /// the cluster, once it exists
    pub cluster: Option<String>,
    /// of the supervising process
    pub pid: u32,
    /// data groups
    pub groups: u32,
    /// all processes; addresses stay the same over restarts
    pub nodes: Vec<PlaygroundNode>,
    /// certificate of the development CA that gateways are signed by
    pub ca_certificate: String,
    /// private key that tokens are signed with: this is a playground
    pub token_private_key: String,
    /// its public half
    pub token_public_key: String,
    /// tenant of everything that tools do here unless told otherwise
    pub tenant: u32,
    /// an operator's certificate for the nodes; `None`: they speak without TLS
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<PlaygroundTls>,
}

/// Files of TLS between processes. Paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaygroundTls {
    /// the CA of the nodes
    pub ca: String,
    /// certificate
    pub certificate: String,
    /// its private key
    pub key: String,
}

/// One process of a playground.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaygroundNode {
    /// `store-1`, `logic-2`, `gateway-1`
    pub name: String,
    /// what it is
    pub role: PlaygroundRole,
    /// where it listens; UDP for a gateway
    pub address: String,
    /// of /metrics and /healthz
    pub metrics: String,
    /// gateways: the door for operators; `None`: made before there were any
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operators: Option<String>,
}

/// What a process of a playground is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaygroundRole {
    /// `seriatim store`
    Store,
    /// `seriatim logic`
    Logic,
    /// `seriatim gateway`
    Gateway,
}

/// One line to the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum ControlRequest {
    /// How is everybody?
    Status,
    /// SIGKILL; answered when the process is gone.
    Kill {
        /// its name
        node: String,
    },
    /// Starts it again; answered when it is ready.
    Start {
        /// its name
        node: String,
    },
    /// Stops everything in order; answered before.
    Stop,
}

/// One line from the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlResponse {
    /// was it done?
    pub ok: bool,
    /// why not
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// `Status`: all processes
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeState>,
}

/// A process of a playground now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// its name
    pub name: String,
    /// what it is
    pub role: PlaygroundRole,
    /// where it listens
    pub address: String,
    /// of /metrics and /healthz
    pub metrics: String,
    /// `None`: it does not run
    pub pid: Option<u32>,
    /// stores: groups that it leads, as it says; `None`: it did not answer
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leads: Option<Vec<u32>>,
}
