//! Firewall: packets between nodes dropped on the bridge or in the switch, outside the nodes.
//!
//! On a bridge every cut is an nft table of its own, so cuts come and go atomically and overlap without knowing of each
//! other: a packet that any of them drops is dropped. The tables' counters say whether a cut met any packet. On a switch
//! a cut is a rule of it, and the same holds.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};

use super::namespaces::{HARNESS_PORT, node_port};
use super::switch::{CutId, Port};
use super::{Cluster, tool};

/// Packets in one direction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Flow {
    /// from a node to another
    Between {
        /// name of a node
        from: String,
        /// name of a node
        to: String,
    },
    /// from the harness and its clients to a node
    ToNode(String),
    /// from a node to the harness and its clients
    FromNode(String),
}

/// Dropped packets, until it is mended.
#[derive(Debug)]
#[must_use = "a cut that nobody mends stays until the cluster is shut down"]
pub struct Cut(Place);

#[derive(Debug)]
enum Place {
    /// name of an nft table
    Table(String),
    Switch(CutId),
}

impl Cluster {
    /// Drops so many percent of the packets of these flows, from now on.
    pub async fn cut(&self, flows: &BTreeSet<Flow>, percent: u8) -> anyhow::Result<Cut> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        ensure!((1..=100).contains(&percent), "drop {percent} percent of packets");
        if let Ok(switch) = self.inner.network.switch() {
            switch.check()?;
            let pairs = flows.iter().map(|flow| self.ports(flow)).collect::<anyhow::Result<_>>()?;
            return Ok(Cut(Place::Switch(switch.cut(pairs, percent))));
        }
        let table = format!("{}_{}", self.inner.network.namespaces()?.prefix(), NEXT.fetch_add(1, Ordering::Relaxed));
        let text = self.table(&table, flows, percent)?;
        nft(&["-f", "-"], text).await.context("cut the network")?;
        Ok(Cut(Place::Table(table)))
    }

    /// Packets that a cut has dropped so far.
    pub async fn packets_dropped(&self, cut: &Cut) -> anyhow::Result<u64> {
        match &cut.0 {
            Place::Table(table) => {
                let listed = nft(&["list", "table", "bridge", table], String::new()).await;
                Ok(counted(&listed.context("read the counters")?))
            }
            Place::Switch(id) => self.inner.network.switch()?.dropped(*id),
        }
    }

    /// Ends a cut; answers how many packets it dropped.
    pub async fn mend(&self, cut: Cut) -> anyhow::Result<u64> {
        let dropped = self.packets_dropped(&cut).await;
        match cut.0 {
            Place::Table(table) => {
                nft(&["delete", "table", "bridge", &table], String::new()).await.context("mend the network")?;
            }
            Place::Switch(id) => self.inner.network.switch()?.mend(id),
        }
        dropped
    }

    fn ports(&self, flow: &Flow) -> anyhow::Result<(Port, Port)> {
        let port = |name: &str| Ok::<_, anyhow::Error>(node_port(self.index(name)?));
        Ok(match flow {
            Flow::Between { from, to } => (port(from)?, port(to)?),
            Flow::ToNode(to) => (HARNESS_PORT, port(to)?),
            Flow::FromNode(from) => (port(from)?, HARNESS_PORT),
        })
    }

    fn table(&self, table: &str, flows: &BTreeSet<Flow>, percent: u8) -> anyhow::Result<String> {
        let made = self.inner.network.namespaces()?;
        let link = |name: &str| Ok::<_, anyhow::Error>(made.link(self.index(name)?));
        let (mut forward, mut input, mut output) = (String::new(), String::new(), String::new());
        let verdict = match percent {
            100 => "counter drop".to_owned(),
            percent => format!("numgen random mod 100 < {percent} counter drop"),
        };
        for flow in flows {
            // Writing to a string cannot fail.
            let _ = match flow {
                Flow::Between { from, to } => {
                    let (from, to) = (link(from)?, link(to)?);
                    writeln!(forward, "    iifname \"{from}\" oifname \"{to}\" {verdict}")
                }
                Flow::FromNode(from) => writeln!(input, "    iifname \"{}\" {verdict}", link(from)?),
                Flow::ToNode(to) => writeln!(output, "    oifname \"{}\" {verdict}", link(to)?),
            };
        }
        let mut text = format!("table bridge {table} {{\n");
        for (hook, rules) in [("forward", forward), ("input", input), ("output", output)] {
            let head = format!("type filter hook {hook} priority 0; policy accept;");
            let _ = writeln!(text, "  chain {hook} {{\n    {head}\n{rules}  }}");
        }
        Ok(text + "}\n")
    }
}

async fn nft(arguments: &[&str], input: String) -> anyhow::Result<String> {
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    let ran = tokio::task::spawn_blocking(move || {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        tool::must_now("nft", &words, &input)
    });
    ran.await.context("run nft")?
}

/// Sum of `counter packets N` in a listing.
fn counted(listing: &str) -> u64 {
    let words: Vec<&str> = listing.split_whitespace().collect();
    let counters = words.windows(3).filter(|words| words[..2] == ["counter", "packets"]);
    counters.filter_map(|words| words[2].parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_counters_of_a_table_are_added() {
        let listing = "chain forward {\n iifname \"a\" oifname \"b\" counter packets 3 bytes 180 drop\n \
                       iifname \"b\" counter packets 4 bytes 9 drop\n}";
        assert_eq!(counted(listing), 7);
    }
}
