//! Node: the processes of a playground: start until ready, kill, stop.
//!
//! One lock per process, held over a whole start or kill, so that two orders to one process come one after another.
//!
//! # Failure
//! A child that ends by itself is reported and stays down. If the playground dies, the pipe to each child breaks and
//! the child ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use seriatim_mtls::{Mtls, Own, development};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::playground::{NodeState, PlaygroundNode, PlaygroundRole};
use seriatim_proto::store::GroupStatus;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use super::layout::{Layout, OPERATOR, nodes_folder};
use crate::admin;

/// Longest wait for a ready line.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Who holds a node longer than this has an order for it.
const ORDER_PATIENCE: Duration = Duration::from_millis(100);
/// Longest ordered stop of a child.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a child's log that are shown when it does not start.
const LOG_LINES: usize = 8;

/// All processes.
pub(crate) struct Nodes {
    nodes: Vec<Node>,
    mtls: Mtls,
}

struct Node {
    about: PlaygroundNode,
    arguments: Vec<String>,
    mtls: Mtls,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Nodes {
    /// Knows how to start each; starts none.
    pub(crate) fn new(layout: &Layout) -> anyhow::Result<Nodes> {
        let own = Own { role: NodeRole::Admin, hosts: Vec::new() };
        let mtls = match &layout.file.tls {
            Some(_) => {
                let files = development::files(&nodes_folder(&layout.data), OPERATOR);
                Mtls::once(&files, own).context("use the operator's certificate")?
            }
            None => Mtls::plaintext(),
        };
        let nodes = layout
            .file
            .nodes
            .iter()
            .map(|about| Node {
                arguments: arguments(layout, about),
                mtls: mtls.clone(),
                log: layout.data.join("logs").join(format!("{}.log", about.name)),
                about: about.clone(),
                child: Mutex::new(None),
            })
            .collect();
        Ok(Nodes { nodes, mtls })
    }

    /// How an operator speaks with them.
    pub(crate) fn mtls(&self) -> &Mtls {
        &self.mtls
    }

    /// Starts all of a role, side by side.
    pub(crate) async fn start_all(&self, role: PlaygroundRole) -> anyhow::Result<()> {
        let starts = self.nodes.iter().filter(|node| node.about.role == role).map(Node::start);
        futures_util::future::try_join_all(starts).await.map(|_| ())
    }

    /// Starts one that does not run.
    pub(crate) async fn start(&self, name: &str) -> anyhow::Result<()> {
        self.find(name)?.start().await
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) async fn kill(&self, name: &str) -> anyhow::Result<()> {
        let node = self.find(name)?;
        let mut slot = node.child.lock().await;
        let Some(child) = slot.as_mut() else { bail!("kill {name}: it does not run") };
        child.kill().await.with_context(|| format!("kill {name}"))?;
        *slot = None;
        tracing::info!(node = name, "killed");
        Ok(())
    }

    /// Everybody's state; stores are asked what they lead.
    pub(crate) async fn status(&self) -> Vec<NodeState> {
        futures_util::future::join_all(self.nodes.iter().map(Node::state)).await
    }

    /// Reports children that end by themselves; never returns.
    pub(crate) async fn watch(&self) {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tick.tick().await;
            for node in &self.nodes {
                // A node under an order is not watched just now.
                let Ok(mut slot) = node.child.try_lock() else { continue };
                if let Some(Ok(Some(status))) = slot.as_mut().map(Child::try_wait) {
                    *slot = None;
                    let name = node.about.name.as_str();
                    tracing::warn!(node = name, %status, log = %node.log.display(), "ended by itself; not restarted");
                }
            }
        }
    }

    /// Stops everything in order: doors first, stores last.
    pub(crate) async fn stop_all(&self) {
        for role in [PlaygroundRole::Gateway, PlaygroundRole::Logic, PlaygroundRole::Store] {
            let stops = self.nodes.iter().filter(|node| node.about.role == role).map(Node::stop);
            futures_util::future::join_all(stops).await;
        }
    }

    fn find(&self, name: &str) -> anyhow::Result<&Node> {
        let names = || self.nodes.iter().map(|node| node.about.name.as_str()).collect::<Vec<_>>().join(", ");
        self.nodes
            .iter()
            .find(|node| node.about.name == name)
            .with_context(|| format!("find `{name}`: there are {}", names()))
    }
}

impl Node {
    async fn start(&self) -> anyhow::Result<()> {
        let name = self.about.name.as_str();
        let mut slot = self.child.lock().await;
        if let Some(child) = slot.as_mut() {
            match child.try_wait() {
                Ok(None) => bail!("start {name}: it runs already"),
                _ => *slot = None,
            }
        }
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("open {}", self.log.display()))?;
        let program = std::env::current_exe().context("find our own program")?;
        let mut child = Command::new(program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // A Ctrl-C in the terminal is for the playground, which stops its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines();
        match tokio::time::timeout(READY_PATIENCE, lines.next_line()).await {
            Ok(Ok(Some(_ready))) => {}
            Ok(_) => bail!(
                "start {name}: it ended at once; its log ({}) ends with:\n{}",
                self.log.display(),
                last_lines(&self.log)
            ),
            Err(_) => bail!("start {name}: not ready after {READY_PATIENCE:?}; see {}", self.log.display()),
        }
        tracing::info!(node = name, pid = child.id(), address = %self.about.address, "ready");
        *slot = Some(child);
        Ok(())
    }

    async fn stop(&self) {
        let mut slot = self.child.lock().await;
        let Some(child) = slot.as_mut() else { return };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        if tokio::time::timeout(STOP_PATIENCE, child.wait()).await.is_err() {
            tracing::warn!(node = self.about.name, "did not stop in time, killed");
            let _ = child.kill().await;
        }
        *slot = None;
    }

    async fn state(&self) -> NodeState {
        // A node under an order counts as not running. The watch and others who ask hold it for a moment only.
        let slot = tokio::time::timeout(ORDER_PATIENCE, self.child.lock()).await;
        let pid = slot.ok().and_then(|slot| slot.as_ref().and_then(Child::id));
        let leads = match (self.about.role, pid) {
            (PlaygroundRole::Store, Some(_)) => {
                let asked =
                    tokio::time::timeout(Duration::from_secs(2), admin::status(&self.mtls, &self.about.address)).await;
                asked.ok().and_then(Result::ok).map(|status| status.groups.iter().filter_map(led).collect())
            }
            _ => None,
        };
        let PlaygroundNode { name, role, address, metrics, operators: _ } = self.about.clone();
        NodeState { name, role, address, metrics, pid, leads }
    }
}

fn led(group: &GroupStatus) -> Option<u32> {
    (group.role == "leader").then_some(group.group.0)
}

fn last_lines(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

fn arguments(layout: &Layout, node: &PlaygroundNode) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    let client_ca = layout.client_ca.as_ref().map(|path| path.display().to_string());
    if let Some(path) = client_ca.filter(|_| node.role != PlaygroundRole::Store) {
        flag("client-ca", path);
    }
    // All processes share this machine: each takes its part of the cores.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    flag("threads", (cores / layout.file.nodes.len().max(1)).max(1).to_string());
    flag("listen", node.address.clone());
    flag("metrics", node.metrics.clone());
    let role = match node.role {
        PlaygroundRole::Store => {
            flag("data-dir", layout.data.join(&node.name).display().to_string());
            flag("disk-reserve-bytes", layout.disk_reserve_bytes.to_string());
            "store"
        }
        PlaygroundRole::Logic => {
            flag("stores", layout.addresses(PlaygroundRole::Store).join(","));
            flag("token-public-key", layout.file.token_public_key.clone());
            "logic"
        }
        PlaygroundRole::Gateway => {
            flag("name", node.name.clone());
            if let Some(operators) = &node.operators {
                flag("operators", operators.clone());
            }
            flag("logic", layout.addresses(PlaygroundRole::Logic).join(","));
            flag("certificate-chain", layout.gateway_certificate.0.display().to_string());
            flag("private-key", layout.gateway_certificate.1.display().to_string());
            flag("token-public-key", layout.file.token_public_key.clone());
            "gateway"
        }
    };
    if layout.file.tls.is_some() {
        let files = development::files(&nodes_folder(&layout.data), &node.name);
        flag("tls-ca", files.ca.display().to_string());
        flag("tls-cert", files.certificate.display().to_string());
        flag("tls-key", files.key.display().to_string());
    } else {
        arguments.push("--insecure-plaintext".to_owned());
    }
    arguments.insert(0, role.to_owned());
    arguments.push("--exit-with-parent".to_owned());
    arguments
}
