//! Link: the cable of one node: slowed down, or pulled and plugged again.
//!
//! On a bridge `tc` and `ip` do it on the bridge's end of the cable; a switch does it itself.

use std::path::Path;

use anyhow::Context;

use super::Cluster;
use super::namespaces::node_port;
use super::tool::must;

impl Cluster {
    /// What a node is sent comes at so many kbit/s at most.
    pub async fn slow_link(&self, name: &str, kbit: u32) -> anyhow::Result<()> {
        let (index, made) = (self.index(name)?, self.inner.network.namespaces()?);
        if let Some(switch) = made.switch() {
            switch.check()?;
            switch.set_rate(node_port(index), Some(kbit));
            return Ok(());
        }
        let (link, rate) = (made.link(index), format!("{kbit}kbit"));
        let words = ["qdisc", "add", "dev", &link, "root", "tbf", "rate", &rate, "burst", "8kb", "latency", "400ms"];
        must("tc", &words).await.map(|_| ())
    }

    /// Packets that a slow link has held back or dropped.
    pub async fn packets_held_back(&self, name: &str) -> anyhow::Result<u64> {
        let (index, made) = (self.index(name)?, self.inner.network.namespaces()?);
        if let Some(switch) = made.switch() {
            return Ok(switch.held_back(node_port(index)));
        }
        let listed = must("tc", &["-s", "-j", "qdisc", "show", "dev", &made.link(index)]).await?;
        let listed: serde_json::Value = serde_json::from_str(&listed).context("read the counters of tc")?;
        let count = |name: &str| listed.pointer(&format!("/0/{name}")).and_then(serde_json::Value::as_u64).unwrap_or(0);
        Ok(count("overlimits") + count("drops"))
    }

    /// Ends [`Cluster::slow_link`].
    pub async fn restore_link(&self, name: &str) -> anyhow::Result<()> {
        let (index, made) = (self.index(name)?, self.inner.network.namespaces()?);
        if let Some(switch) = made.switch() {
            switch.set_rate(node_port(index), None);
            return Ok(());
        }
        must("tc", &["qdisc", "del", "dev", &made.link(index), "root"]).await.map(|_| ())
    }

    /// Pulls a node's cable, or plugs it again.
    pub async fn pull_link(&self, name: &str, pulled: bool) -> anyhow::Result<()> {
        let (index, made) = (self.index(name)?, self.inner.network.namespaces()?);
        if let Some(switch) = made.switch() {
            switch.check()?;
            switch.set_pulled(node_port(index), pulled);
            return Ok(());
        }
        must("ip", &["link", "set", &made.link(index), if pulled { "down" } else { "up" }]).await.map(|_| ())
    }

    /// Is it out?
    pub fn link_is_pulled(&self, name: &str) -> anyhow::Result<bool> {
        let (index, made) = (self.index(name)?, self.inner.network.namespaces()?);
        if let Some(switch) = made.switch() {
            return Ok(switch.is_pulled(node_port(index)));
        }
        let file = Path::new("/sys/class/net").join(made.link(index)).join("operstate");
        Ok(std::fs::read_to_string(file).context("read the link's state")?.trim() == "down")
    }
}
