//! Cluster: real processes of the product, each in a network namespace of its own, that a harness can hurt.
//!
//! ```text
//!  start: sweep dead runs → network → keys → disks → stores → raftctl cluster init → logic → gateways → serving?
//! ```
//! It knows names, addresses and processes; what the cluster does, it learns from `raftctl` and /metrics. It restarts
//! nobody by itself: a node that ends although nobody ended it is a finding ([`OwnEnd`]).
//!
//! # Failure
//! Dropping the last handle kills the processes and removes namespaces, tables and mounts. A harness that is killed
//! takes its nodes with it, by the pipe that they hold; the rest goes when the next cluster starts.
//!
//! # Reading order
//! [`ClusterConfig`] → [`Cluster::start`] → [`NodeInfo`] → `process` → `namespaces` → `firewall` → `switch`.

mod bad_disk;
mod build;
mod config;
mod disk;
mod firewall;
mod keys;
mod layout;
mod link;
mod membership;
mod metrics;
mod namespaces;
mod netns;
mod network;
mod node;
mod process;
mod raftctl;
mod ready;
mod reserve;
mod switch;
mod tool;
mod trouble;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::future::{join_all, try_join_all};

pub use bad_disk::Mood;
pub use build::{Build, CHAOS_PROGRAM, CHAOS_VARIABLE, low_limits};
pub use config::{ClusterConfig, DiskKind, Links, NetworkKind, NetworkMode};
pub use firewall::{Cut, Flow};
pub use keys::TokenClaims;
pub use layout::clocks_can_be_bent;
pub use membership::Moving;
pub use namespaces::leftovers;
pub use node::{NodeInfo, OwnEnd, Role};
pub use raftctl::{LogBounds, RaftctlAnswer};
pub use reserve::Reservation;
pub use switch::{Direction, Trouble, Troubled};
pub use trouble::Disturbance;

pub(crate) use tool::must;

use keys::Keys;
use network::Network;
use process::Process;

/// Longest start until everything serves.
const START_PATIENCE: Duration = Duration::from_secs(90);

/// What a clock file says of a clock that is not bent.
pub(crate) const TRUE_CLOCK: &str = "+0\n";

/// A running cluster; clones are handles of the same one.
#[derive(Clone, Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

/// Fields are dropped in this order: processes end before their network and disks go.
#[derive(Debug)]
struct Inner {
    config: ClusterConfig,
    nodes: Vec<NodeInfo>,
    processes: Vec<Arc<Process>>,
    keys: Keys,
    disks: Vec<Option<Arc<bad_disk::BadDisk>>>,
    stores_by_id: OnceLock<BTreeMap<u64, String>>,
    reserved: Arc<reserve::Reserved>,
    frail: OnceLock<String>,
    network: Network,
}

impl Drop for Inner {
    fn drop(&mut self) {
        for process in &self.processes {
            process.kill_now();
        }
    }
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
        let cluster = Cluster::prepare(config).context("prepare a cluster")?;
        let started = cluster.start_all().await;
        if let Err(error) = started {
            // In order, so that its network can be removed at once.
            cluster.stop_all().await;
            return Err(error.context("start a cluster"));
        }
        Ok(cluster)
    }

    fn prepare(mut config: ClusterConfig) -> anyhow::Result<Cluster> {
        layout::check(&config)?;
        layout::make_folders(&config)?;
        for path in [&mut config.folder, &mut config.bin].into_iter().chain(&mut config.other) {
            *path = path.canonicalize().with_context(|| format!("open {}", path.display()))?;
        }
        let network = Network::make(config.network, config.seed, layout::short_names(&config))?;
        let mut keys = Keys::make(&config.folder.join("keys"))?;
        let nodes = layout::nodes(&config, &network);
        if config.links == Links::Mtls {
            keys.make_links(&config.folder.join("keys/nodes"), &nodes)?;
        }
        let disks = disk::mount_all(&config, &network, &nodes)?;
        let specs = (0..nodes.len()).map(|index| layout::spec(&config, &network, &keys, &nodes, index));
        let processes = specs.map(Process::new).collect();
        let (stores_by_id, frail, reserved) = (OnceLock::new(), OnceLock::new(), Arc::default());
        Ok(Cluster {
            inner: Arc::new(Inner { config, nodes, processes, keys, disks, stores_by_id, frail, reserved, network }),
        })
    }

    async fn start_all(&self) -> anyhow::Result<()> {
        self.start_role(Role::Store).await?;
        self.initialise().await?;
        self.start_role(Role::Logic).await?;
        self.start_role(Role::Gateway).await?;
        self.wait_until_serving(START_PATIENCE).await
    }

    async fn start_role(&self, role: Role) -> anyhow::Result<()> {
        try_join_all(self.of_role(role).map(Process::start)).await.map(|_| ())
    }

    /// How it was asked for; paths are absolute.
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
        self.inner.network.kind()
    }

    /// What its namespaces, links, tables and mounts are named by; `None` on the loopback.
    pub fn prefix(&self) -> Option<&str> {
        self.inner.network.namespaces().ok().map(namespaces::Namespaces::prefix)
    }

    /// SIGKILL; returns when the process is gone.
    pub async fn kill(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.kill().await
    }

    /// Starts a node that does not run; returns when it is ready.
    pub async fn start_node(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.start().await
    }

    /// The same, with other values of some variables of its environment, for this one process.
    pub async fn start_node_with(&self, name: &str, env: &[(String, String)]) -> anyhow::Result<()> {
        self.process(name)?.start_with(env).await
    }

    /// The same, of the other version, for this one process.
    ///
    /// # Errors
    /// There is no other version; it does not start, or something else runs.
    pub async fn start_node_as_other(&self, name: &str) -> anyhow::Result<()> {
        let program = self.inner.config.other_program().context("there is no other version")?;
        self.process(name)?.start_as(&program).await?;
        let runs = self.pid(name).and_then(process::program_of).with_context(|| format!("{name} is gone"))?;
        ensure!(runs == program.canonicalize()?, "{name} runs {} and not {}", runs.display(), program.display());
        Ok(())
    }

    /// SIGTERM; returns when the process is gone. One that does not go in time is killed, and that is an error.
    pub async fn stop(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.stop().await
    }

    /// SIGSTOP; returns when the kernel says that it is stopped.
    pub async fn pause(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.pause().await
    }

    /// SIGCONT.
    pub async fn resume(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.resume().await
    }

    /// Does its process exist (paused ones do)?
    pub fn is_running(&self, name: &str) -> bool {
        self.pid(name).is_some()
    }

    /// Is its process stopped by a signal?
    pub fn is_paused(&self, name: &str) -> bool {
        self.process(name).is_ok_and(|process| process.is_paused())
    }

    /// Its process, if there is one.
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.process(name).ok()?.pid()
    }

    /// Waits until a node has no process any more.
    pub async fn wait_until_gone(&self, name: &str, patience: Duration) -> anyhow::Result<()> {
        self.process(name)?.gone(patience).await
    }

    /// While a fault is under way that may end the node: its end is no finding then.
    pub fn allow_end(&self, name: &str, allowed: bool) -> anyhow::Result<()> {
        self.process(name)?.allow_end(allowed);
        Ok(())
    }

    /// The end that was seen last of this node had another cause than the one that it was allowed for.
    pub fn blame_end(&self, name: &str) -> anyhow::Result<()> {
        self.process(name)?.blame_end();
        Ok(())
    }

    /// Does a TCP connection from one node to the address of another come about within `patience`?
    pub async fn connects(&self, from: &str, to: &str, patience: Duration) -> anyhow::Result<bool> {
        let namespace = self.inner.network.namespace_file(self.index(from)?);
        netns::connects(namespace, self.nodes()[self.index(to)?].address, patience).await
    }

    /// Names and addresses of all gateways, whether they run or not.
    pub fn gateways(&self) -> Vec<(String, SocketAddr)> {
        let gateways = self.nodes().iter().filter(|node| node.role == Role::Gateway);
        gateways.map(|node| (node.name.clone(), node.address)).collect()
    }

    /// Certificate of the CA that signed the gateways'.
    pub fn ca_pem(&self) -> Vec<u8> {
        self.inner.keys.ca_pem.clone()
    }

    /// The words by which `raftctl` speaks with nodes.
    pub(crate) fn operator_words(&self) -> Vec<String> {
        self.inner.keys.operator_words()
    }

    /// The certificates of the nodes for each other; `None`: they speak plaintext.
    pub(crate) fn rotated(&self) -> Option<&keys::Rotated> {
        self.inner.keys.rotated()
    }

    /// How somebody speaks with stores who says that it is a logic node.
    pub(crate) fn pretender(&self) -> anyhow::Result<seriatim_mtls::Mtls> {
        self.inner.keys.pretender()
    }

    /// Name that the gateways' certificate is for.
    pub fn server_name(&self) -> &str {
        keys::SERVER_NAME
    }

    /// A token of tenant 1, valid for an hour; no scopes: a device of the user.
    pub fn token(&self, user: &str, scopes: Option<&[&str]>) -> String {
        let scopes = scopes.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        self.token_for(&TokenClaims { scopes, ..TokenClaims::of(user) })
    }

    /// A token that says whatever is wanted.
    pub fn token_for(&self, claims: &TokenClaims) -> String {
        self.inner.keys.token(claims)
    }

    /// Folder of a store's data.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        data_dir(&self.inner.config.folder, name)
    }

    /// File of a node's log.
    pub fn log_path(&self, name: &str) -> PathBuf {
        log_path(&self.inner.config.folder, name)
    }

    /// File by which a node's wall clock is bent, where clocks can be bent.
    pub fn clock_file(&self, name: &str) -> PathBuf {
        clock_file(&self.inner.config.folder, name)
    }

    /// File by which a node's boot time is bent, if it is of the test build.
    pub fn boot_file(&self, name: &str) -> PathBuf {
        boot_file(&self.inner.config.folder, name)
    }

    /// Nodes that ended although nobody ended them, so far.
    pub fn ended_by_themselves(&self) -> Vec<OwnEnd> {
        self.inner.processes.iter().flat_map(|process| process.own_ends()).collect()
    }

    /// Stops all in order, and removes namespaces, bridge, tables and mounts once the last handle is dropped.
    pub async fn shutdown(self) -> anyhow::Result<ExitReport> {
        let ended_by_themselves = self.ended_by_themselves();
        let killed = self.stop_all().await;
        Ok(ExitReport { ended_by_themselves, killed })
    }

    /// Doors first, stores last; answers who had to be killed.
    async fn stop_all(&self) -> Vec<String> {
        let mut killed = Vec::new();
        // A store on a stalled disk cannot even be killed.
        self.heal_disks();
        for role in [Role::Gateway, Role::Logic, Role::Store] {
            let running = self.of_role(role).filter(|process| process.pid().is_some());
            let stopped = join_all(running.map(|process| async move { (process.name(), process.stop().await) })).await;
            for (name, result) in stopped {
                if let Err(error) = result {
                    tracing::warn!(node = name, error = format!("{error:#}"), "no ordered stop");
                    killed.push(name.to_owned());
                }
            }
        }
        killed
    }

    fn of_role(&self, role: Role) -> impl Iterator<Item = &Arc<Process>> {
        self.nodes()
            .iter()
            .zip(&self.inner.processes)
            .filter(move |(node, _)| node.role == role)
            .map(|(_, found)| found)
    }

    fn index(&self, name: &str) -> anyhow::Result<usize> {
        let index = self.nodes().iter().position(|node| node.name == name);
        index.with_context(|| format!("find the node `{name}`: there is none of this name"))
    }

    fn process(&self, name: &str) -> anyhow::Result<&Arc<Process>> {
        Ok(&self.inner.processes[self.index(name)?])
    }
}

fn data_dir(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}

fn log_path(folder: &Path, name: &str) -> PathBuf {
    folder.join("logs").join(format!("{name}.log"))
}

fn boot_file(folder: &Path, name: &str) -> PathBuf {
    folder.join("clocks").join(format!("{name}.boot"))
}

fn clock_file(folder: &Path, name: &str) -> PathBuf {
    folder.join("clocks").join(name)
}
