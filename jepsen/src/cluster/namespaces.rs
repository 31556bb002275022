//! Namespaces: one network namespace per node, joined by a bridge or by our own [`Switch`]; the harness and its clients
//! reach them over it.
//!
//! ```text
//!  harness, clients, raftctl ── 10.a.b.1 [bridge sj<pid>xb] ┬─ sj<pid>xs1 ══ eth0 10.a.b.11  (netns sj<pid>xs1: store-1)
//!                                                           ├─ sj<pid>xs2 ══ eth0 10.a.b.12
//!                                                           └─ sj<pid>xg1 ══ eth0 10.a.b.19  …
//!
//!  harness, clients, raftctl ── 10.a.b.1 [TAP sj<pid>xh] ══ switch ══ [TAP] eth0 10.a.b.11  (netns sj<pid>xs1: store-1)  …
//! ```
//! Every name begins with `sj`, the harness's process id and a letter, so that what a dead harness left is known by
//! its names alone.
//!
//! # Failure
//! Dropping it removes everything. A harness that is killed removes nothing: the next one does ([`sweep`]).

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};

use super::switch::{Port, Switch, Tap};
use super::tool::must_now;

/// Where `ip netns` keeps its files.
const NETNS_FOLDER: &str = "/run/netns";
/// Last byte of the first node's address; the harness has 1.
const FIRST_NODE: u8 = 11;
/// Most nodes of a cluster.
pub(crate) const NODES_MAX: usize = 200;
/// Clusters that one process ever makes.
const CLUSTERS_MAX: u32 = 26;

/// The network of one cluster.
#[derive(Debug)]
pub(crate) struct Namespaces {
    prefix: String,
    subnet: [u8; 3],
    nodes: Vec<String>,
    /// `None`: a bridge
    switch: Option<Switch>,
}

/// Port of the harness and its clients on a switch.
pub(crate) const HARNESS_PORT: Port = Port(0);

/// Port of a node, by its place in the list.
pub(crate) fn node_port(index: usize) -> Port {
    Port(1 + index)
}

impl Namespaces {
    /// Makes namespaces for nodes of these short names (`s1`, `l2`, `g1`) on a bridge.
    pub(crate) fn bridged(short_names: Vec<String>) -> anyhow::Result<Namespaces> {
        // From here on a failure drops `made`, which removes the half that exists.
        let made = Namespaces::named(short_names)?;
        let bridge = made.bridge();
        let mut batch = vec![
            format!("link add {bridge} type bridge"),
            format!("addr add {}/24 dev {bridge}", made.address(0, 1)),
            format!("link set {bridge} up"),
        ];
        for index in 0..made.nodes.len() {
            let name = made.link(index);
            batch.push(format!("netns add {name}"));
            batch.push(format!("link add {name} type veth peer name eth0 netns {name}"));
            batch.push(format!("link set {name} master {bridge} up"));
        }
        ip(&[], &batch)?;
        made.set_up_nodes()?;
        Ok(made)
    }

    /// The same on a switch of our own.
    pub(crate) fn switched(short_names: Vec<String>, seed: u64) -> anyhow::Result<Namespaces> {
        let mut made = Namespaces::named(short_names)?;
        let own = format!("{}h", made.prefix);
        let mut taps = vec![Tap::make(&own)?];
        let mut batch = vec![format!("addr add {}/24 dev {own}", made.address(0, 1)), format!("link set {own} up")];
        for index in 0..made.nodes.len() {
            let name = made.link(index);
            taps.push(Tap::make(&name)?);
            batch.push(format!("netns add {name}"));
            batch.push(format!("link set {name} netns {name} name eth0"));
        }
        ip(&[], &batch)?;
        made.set_up_nodes()?;
        made.switch = Some(Switch::start(taps, seed)?);
        Ok(made)
    }

    fn named(short_names: Vec<String>) -> anyhow::Result<Namespaces> {
        anyhow::ensure!(short_names.len() <= NODES_MAX, "make {} namespaces: too many", short_names.len());
        Ok(Namespaces { prefix: next_prefix()?, subnet: free_subnet()?, nodes: short_names, switch: None })
    }

    fn set_up_nodes(&self) -> anyhow::Result<()> {
        for index in 0..self.nodes.len() {
            let address = format!("addr add {}/24 dev eth0", self.node_address(index));
            let inside = [address, "link set eth0 up".to_owned(), "link set lo up".to_owned()];
            ip(&["-n", &self.link(index)], &inside)?;
        }
        Ok(())
    }

    /// What joins the nodes, unless it is a bridge.
    pub(crate) fn switch(&self) -> Option<&Switch> {
        self.switch.as_ref()
    }

    /// What all names of this cluster begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Address of a node, by its place in the list.
    pub(crate) fn node_address(&self, index: usize) -> Ipv4Addr {
        self.address(index, FIRST_NODE)
    }

    /// Name of a node's namespace, and of its link on a bridge's side.
    pub(crate) fn link(&self, index: usize) -> String {
        format!("{}{}", self.prefix, self.nodes[index])
    }

    /// File of a node's namespace.
    pub(crate) fn file(&self, index: usize) -> PathBuf {
        Path::new(NETNS_FOLDER).join(self.link(index))
    }

    fn bridge(&self) -> String {
        format!("{}b", self.prefix)
    }

    fn address(&self, index: usize, first: u8) -> Ipv4Addr {
        let last = first + u8::try_from(index).expect("there are at most 200 nodes");
        Ipv4Addr::new(self.subnet[0], self.subnet[1], self.subnet[2], last)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Its TAPs go with it.
        self.switch = None;
        if let Err(error) = remove(&self.prefix) {
            tracing::warn!(prefix = self.prefix, error = format!("{error:#}"), "network not removed");
        }
    }
}

fn ip(options: &[&str], batch: &[String]) -> anyhow::Result<()> {
    let words = [options, &["-batch", "-"]].concat();
    must_now("ip", &words, &(batch.join("\n") + "\n")).map(|_| ())
}

/// Removes what harnesses left that are gone: processes, namespaces, links, bridges, tables, mounts.
pub(crate) fn sweep() {
    for prefix in found() {
        let dead = owner(&prefix).is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists());
        if dead {
            tracing::info!(prefix, "removing what a dead harness left");
            if let Err(error) = remove(&prefix) {
                tracing::warn!(prefix, error = format!("{error:#}"), "not removed");
            }
        }
    }
}

/// Everything of ours on this machine that carries the prefix, for tests and reports.
pub fn leftovers(prefix: &str) -> Vec<String> {
    let mut left = Vec::new();
    left.extend(namespaces().into_iter().map(|name| format!("namespace {name}")));
    left.extend(links().into_iter().map(|name| format!("link {name}")));
    left.extend(tables().into_iter().map(|name| format!("table {name}")));
    left.extend(mounts().into_iter().map(|(name, path)| format!("mount {name} on {path}")));
    left.retain(|text| text.split(' ').nth(1).is_some_and(|name| prefix_of(name) == Some(prefix)));
    left
}

fn remove(prefix: &str) -> anyhow::Result<()> {
    let ours = |name: &String| prefix_of(name) == Some(prefix);
    for name in namespaces().into_iter().filter(ours) {
        // Processes of a dead harness that were paused did not see its end.
        for pid in must_now("ip", &["netns", "pids", &name], "").unwrap_or_default().split_whitespace() {
            let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
        }
    }
    for (_, path) in mounts().into_iter().filter(|(name, _)| ours(name)) {
        must_now("umount", &["-l", &path], "")?;
    }
    for name in tables().into_iter().filter(ours) {
        must_now("nft", &["delete", "table", "bridge", &name], "")?;
    }
    // Links first: a namespace that a dying process still holds keeps its side for a while, and so ours.
    for name in links().into_iter().filter(ours) {
        // A veth may go with its other end between the listing and now.
        if let Err(error) = must_now("ip", &["link", "del", &name], "")
            && Path::new("/sys/class/net").join(&name).exists()
        {
            return Err(error);
        }
    }
    for name in namespaces().into_iter().filter(ours) {
        must_now("ip", &["netns", "del", &name], "")?;
    }
    Ok(())
}

fn found() -> Vec<String> {
    let mut names = namespaces();
    names.extend(links());
    names.extend(tables());
    names.extend(mounts().into_iter().map(|(name, _)| name));
    let mut prefixes: Vec<String> = names.iter().filter_map(|name| prefix_of(name)).map(str::to_owned).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

/// `sj1234a` of `sj1234as1`.
fn prefix_of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("sj")?;
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let letter = rest.as_bytes().get(digits)?;
    (digits > 0 && letter.is_ascii_lowercase()).then(|| &name[..2 + digits + 1])
}

fn owner(prefix: &str) -> Option<u32> {
    prefix.strip_prefix("sj")?.trim_end_matches(|letter: char| letter.is_ascii_lowercase()).parse().ok()
}

fn namespaces() -> Vec<String> {
    names_in(NETNS_FOLDER)
}

fn links() -> Vec<String> {
    names_in("/sys/class/net")
}

fn names_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| prefix_of(name).is_some()).collect()
}

fn tables() -> Vec<String> {
    // Without nft there are no tables of ours.
    let text = must_now("nft", &["list", "tables", "bridge"], "").unwrap_or_default();
    let names = text.lines().filter_map(|line| line.strip_prefix("table bridge "));
    names.filter(|name| prefix_of(name).is_some()).map(str::to_owned).collect()
}

/// Sources and mount points of ours, the newest first.
fn mounts() -> Vec<(String, String)> {
    let text = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut found: Vec<_> = fields
        .filter(|fields| fields.len() > 1 && prefix_of(fields[0]).is_some())
        .map(|fields| (fields[0].to_owned(), fields[1].to_owned()))
        .collect();
    found.reverse();
    found
}

fn next_prefix() -> anyhow::Result<String> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let letter = (number < CLUSTERS_MAX).then(|| char::from_digit(10 + number, 36)).flatten();
    let letter = letter.with_context(|| format!("make a network: this process made {CLUSTERS_MAX} already"))?;
    Ok(format!("sj{}{letter}", std::process::id()))
}

/// A /24 below 10 that no link of this machine has.
fn free_subnet() -> anyhow::Result<[u8; 3]> {
    let taken = must_now("ip", &["-o", "-4", "addr"], "")? + &must_now("ip", &["-4", "route"], "")?;
    let start = std::process::id();
    for step in 0..1_000_u32 {
        let [.., middle, last] = start.wrapping_mul(41).wrapping_add(step).to_be_bytes();
        // The upper half only: the lower one is where people's own networks are.
        let subnet = [10, 128 | middle, last];
        if !taken.contains(&format!(" {}.{}.{}.", subnet[0], subnet[1], subnet[2])) {
            return Ok(subnet);
        }
    }
    bail!("find a free /24 below 10.128.0.0/9")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_harness() {
        assert_eq!(prefix_of("sj1234as1"), Some("sj1234a"));
        assert_eq!(prefix_of("sj1234a_7"), Some("sj1234a"));
        assert_eq!(owner("sj1234a"), Some(1234));
    }

    #[test]
    fn names_of_others_are_left_alone() {
        for name in ["sj", "sjx", "sj12", "sj12_1", "eth0", "docker0", "sjaelland"] {
            assert_eq!(prefix_of(name), None, "{name}");
        }
    }
}
