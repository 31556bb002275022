//! Trouble: packets of one node delayed, doubled, reordered or spoiled by the switch, and what the kernels say of it.

use std::io;

use anyhow::Context;
use futures_util::future::join_all;

use super::namespaces::node_port;
use super::switch::{Direction, Trouble, TroubleId, Troubled};
use super::{Cluster, netns};

/// A trouble at work, until it is calmed.
#[derive(Debug)]
#[must_use = "a trouble that nobody calms stays until the cluster is shut down"]
pub struct Disturbance(TroubleId);

impl Cluster {
    /// Troubles these directions of a node's link from now on; an error unless the nodes are on a switch.
    pub fn disturb(&self, name: &str, directions: &[Direction], trouble: Trouble) -> anyhow::Result<Disturbance> {
        let (switch, port) = (self.inner.network.switch()?, node_port(self.index(name)?));
        switch.check()?;
        Ok(Disturbance(switch.trouble(port, directions, trouble)))
    }

    /// What it did so far.
    pub fn troubled(&self, disturbance: &Disturbance) -> anyhow::Result<Troubled> {
        Ok(self.inner.network.switch()?.troubled(disturbance.0))
    }

    /// Ends it; answers what it did. Packets that it delays still come late.
    pub fn calm(&self, disturbance: Disturbance) -> anyhow::Result<Troubled> {
        Ok(self.inner.network.switch()?.calm(disturbance.0))
    }

    /// Packets that the kernels of all nodes and of the harness have refused for their checksum so far.
    pub async fn checksum_errors(&self) -> anyhow::Result<u64> {
        let namespaces = (0..self.nodes().len()).map(|index| self.inner.network.namespace_file(index)).chain([None]);
        let read = join_all(namespaces.map(|namespace| netns::within(namespace, checksum_errors_here))).await;
        read.into_iter().sum::<anyhow::Result<u64>>().context("read the kernels' counters")
    }
}

/// Of this thread's network namespace.
pub(crate) fn checksum_errors_here() -> io::Result<u64> {
    // Not `/proc/net`, which is the namespace of the process.
    Ok(checksum_errors_in(&std::fs::read_to_string("/proc/thread-self/net/snmp")?))
}

/// Sum over all protocols; each has a line of names and one of numbers.
fn checksum_errors_in(snmp: &str) -> u64 {
    let lines: Vec<&str> = snmp.lines().collect();
    let (pairs, _) = lines.as_chunks::<2>();
    let named = pairs.iter().flat_map(|[names, numbers]| names.split_whitespace().zip(numbers.split_whitespace()));
    named.filter(|(name, _)| *name == "InCsumErrors").filter_map(|(_, number)| number.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_errors_of_all_protocols_are_added() {
        let snmp = "Ip: Forwarding InHdrErrors\nIp: 1 9\nTcp: InErrs OutRsts InCsumErrors\nTcp: 5 7 3\n\
                    Udp: InDatagrams InCsumErrors MemErrors\nUdp: 100 4 1\n";
        assert_eq!(checksum_errors_in(snmp), 7);
    }
}
