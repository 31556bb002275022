//! Cluster: real processes of the product, each in a network namespace of its own, that a harness can hurt.
//!
//! # Reading order
//! [`ClusterConfig`] → [`Cluster::start`] → [`NodeInfo`].

mod config;
mod node;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use config::{ClusterConfig, DiskKind, NetworkKind, NetworkMode};
pub use node::{NodeInfo, OwnEnd, Role};

/// A running cluster; clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: ClusterConfig,
    nodes: Vec<NodeInfo>,
}

/// What a token says, for tokens that should be refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenClaims {
    /// user
    pub user: String,
    /// tenant; everything of a run is of tenant 1
    pub tenant: u32,
    /// what it allows; `None`: a device of the user
    pub scopes: Option<Vec<String>>,
    /// audience; `seriatim` is the right one
    pub audience: String,
    /// seconds from now to its end; negative: it ended
    pub expires_in_s: i64,
    /// signed by a key that the cluster does not know
    pub foreign_key: bool,
}

/// What `raftctl` said.
#[derive(Clone, PartialEq, Debug)]
pub struct RaftctlAnswer {
    /// exit code
    pub exit: i32,
    /// what it printed on stdout, `Null` if that was no JSON
    pub json: serde_json::Value,
    /// what it printed on stderr
    pub stderr: String,
}

/// How a cluster ended.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct ExitReport {
    /// nodes that had ended although nobody ended them: a finding, unless it was allowed
    pub ended_by_themselves: Vec<OwnEnd>,
    /// nodes that did not stop in order and were killed
    pub killed: Vec<String>,
}

impl Cluster {
    /// Makes the network and the keys, starts everything, and waits until every slot is held and a send works.
    pub async fn start(config: ClusterConfig) -> anyhow::Result<Cluster> {
        let _ = Cluster { inner: Arc::new(Inner { config, nodes: Vec::new() }) };
        anyhow::bail!("start a cluster: not built yet")
    }

    /// How it was asked for.
    pub fn config(&self) -> &ClusterConfig {
        &self.inner.config
    }

    /// All nodes: stores, logic nodes, gateways.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.inner.nodes
    }

    /// Names of all nodes of a role.
    pub fn names(&self, role: Role) -> Vec<String> {
        self.nodes().iter().filter(|node| node.role == role).map(|node| node.name.clone()).collect()
    }

    /// How nodes reach each other.
    pub fn network(&self) -> NetworkKind {
        NetworkKind::Loopback
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&self, name: &str) -> anyhow::Result<()> {
        anyhow::bail!("kill {name}: not built yet")
    }

    /// Starts a node that does not run; returns when it is ready.
    pub async fn start_node(&self, name: &str) -> anyhow::Result<()> {
        anyhow::bail!("start {name}: not built yet")
    }

    /// SIGTERM; returns when the process is gone, and kills it if it does not go.
    pub async fn stop(&self, name: &str) -> anyhow::Result<()> {
        anyhow::bail!("stop {name}: not built yet")
    }

    /// SIGSTOP; returns when the kernel says that it is stopped.
    pub async fn pause(&self, name: &str) -> anyhow::Result<()> {
        anyhow::bail!("pause {name}: not built yet")
    }

    /// SIGCONT.
    pub async fn resume(&self, name: &str) -> anyhow::Result<()> {
        anyhow::bail!("resume {name}: not built yet")
    }

    /// Does its process exist (paused ones do)?
    pub fn is_running(&self, name: &str) -> bool {
        self.pid(name).is_some()
    }

    /// Its process, if there is one.
    pub fn pid(&self, _name: &str) -> Option<u32> {
        None
    }

    /// Names and addresses of all gateways, whether they run or not.
    pub fn gateways(&self) -> Vec<(String, SocketAddr)> {
        let gateways = self.nodes().iter().filter(|node| node.role == Role::Gateway);
        gateways.map(|node| (node.name.clone(), node.address)).collect()
    }

    /// Certificate of the CA that signed the gateways'.
    pub fn ca_pem(&self) -> Vec<u8> {
        Vec::new()
    }

    /// Name that the gateways' certificate is for.
    pub fn server_name(&self) -> &str {
        "localhost"
    }

    /// A token of tenant 1, valid for an hour; `None`: a device of the user.
    pub fn token(&self, _user: &str, _scopes: Option<&[&str]>) -> String {
        String::new()
    }

    /// A token that says whatever is wanted.
    pub fn token_for(&self, _claims: &TokenClaims) -> String {
        String::new()
    }

    /// Runs `raftctl -o json` against all stores; an error unless it exits 0 or 10 (unhealthy, which has data too).
    pub async fn raftctl(&self, args: &[&str]) -> anyhow::Result<serde_json::Value> {
        anyhow::bail!("run raftctl {args:?}: not built yet")
    }

    /// Runs `raftctl -o json` against all stores, whatever it exits with.
    pub async fn raftctl_answer(&self, args: &[&str]) -> anyhow::Result<RaftctlAnswer> {
        anyhow::bail!("run raftctl {args:?}: not built yet")
    }

    /// Which store leads each group, as far as stores answer.
    pub async fn leaders(&self) -> BTreeMap<u32, String> {
        BTreeMap::new()
    }

    /// How many slots each logic node that answers holds.
    pub async fn slot_holders(&self) -> BTreeMap<String, u32> {
        BTreeMap::new()
    }

    /// What a node's /metrics says: `name` or `name{label="value"}` to number.
    pub async fn metrics(&self, name: &str) -> anyhow::Result<BTreeMap<String, f64>> {
        anyhow::bail!("read the metrics of {name}: not built yet")
    }

    /// Folder of a store's data.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.inner.config.folder.join(name)
    }

    /// File of a node's log.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.inner.config.folder.join("logs").join(format!("{name}.log"))
    }

    /// Nodes that ended although nobody ended them, so far.
    pub fn ended_by_themselves(&self) -> Vec<OwnEnd> {
        Vec::new()
    }

    /// Waits until every slot is held and a send works.
    pub async fn wait_until_serving(&self, _patience: std::time::Duration) -> anyhow::Result<()> {
        Ok(())
    }

    /// Stops all in order, and removes namespaces, bridge and mounts.
    pub async fn shutdown(self) -> anyhow::Result<ExitReport> {
        Ok(ExitReport::default())
    }
}
