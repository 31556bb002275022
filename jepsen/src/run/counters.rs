//! Counters: what nodes count of themselves, added up over the run and over their restarts. For `run.json`: it tells
//! whether the rare things happened at all. Only alarms, which no correct cluster raises, weigh in the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::cluster::Cluster;

/// Between two looks. What a node counts between the last look and its death is lost.
const PERIOD: Duration = Duration::from_secs(2);
/// What is added up: a name, and how `/metrics` names it.
const COUNTED: [(&str, &str); 11] = [
    (ALARMS, "seriatim_logic_alarms_total"),
    ("snapshots sent", "seriatim_store_snapshots_built_total"),
    ("leases expired", "seriatim_store_lease_expiries_total"),
    ("leases lost", "seriatim_logic_leases_lost_total"),
    ("holders fenced or released", "seriatim_logic_holders_ended_total"),
    (CLAIMS, "seriatim_logic_claims_total"),
    ("batches without an outcome", "seriatim_logic_proposals_failed_total"),
    (ROT_FOUND, "seriatim_store_rot_found_total"),
    ("replicas rebuilt", "seriatim_store_rebuilt_replicas_total"),
    ("snapshots installed", "seriatim_store_snapshots_installed_total"),
    ("calls refused by NOT_HOLDER", "seriatim_logic_refusals_total{code=\"NOT_HOLDER\"}"),
];
const ALARMS: &str = "alarms";
const CLAIMS: &str = "claims";
const ROT_FOUND: &str = "rot found";

/// Sums so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    /// by node and counter: what was last read
    last: BTreeMap<(String, &'static str), f64>,
    sums: BTreeMap<&'static str, f64>,
}

impl Counters {
    /// Looks again and again, for ever.
    pub(crate) async fn watch(&self, cluster: &Cluster) {
        loop {
            self.look(cluster).await;
            tokio::time::sleep(PERIOD).await;
        }
    }

    /// Looks once, and says who answered. Who does not is left out.
    pub(crate) async fn look(&self, cluster: &Cluster) -> BTreeSet<String> {
        let names = cluster.nodes().iter().map(|node| node.name.clone());
        let read = names.map(|name| async move { (cluster.metrics(&name).await, name) });
        let mut answered = BTreeSet::new();
        for (metrics, name) in join_all(read).await {
            if let Ok(metrics) = metrics {
                self.sums.lock().add(&name, &metrics);
                answered.insert(name);
            }
        }
        answered
    }

    /// How many alarms were raised.
    pub(crate) fn alarms(&self) -> u64 {
        self.sums.lock().sums.get(ALARMS).map_or(0, |sum| *sum as u64)
    }

    /// How many rotten replicas stores found.
    pub(crate) fn rot_found(&self) -> u64 {
        self.sums.lock().sums.get(ROT_FOUND).map_or(0, |sum| *sum as u64)
    }

    /// How many slots were claimed.
    pub(crate) fn claims(&self) -> u64 {
        self.sums.lock().sums.get(CLAIMS).map_or(0, |sum| *sum as u64)
    }

    pub(crate) fn to_json(&self) -> Value {
        json!(self.sums.lock().sums)
    }
}

impl std::fmt::Display for Counters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sums = &self.sums.lock().sums;
        let told: Vec<String> =
            sums.iter().filter(|(_, sum)| **sum > 0.0).map(|(name, sum)| format!("{sum} {name}")).collect();
        if told.is_empty() { f.write_str("nothing") } else { f.write_str(&told.join(", ")) }
    }
}

impl Sums {
    fn add(&mut self, node: &str, metrics: &BTreeMap<String, f64>) {
        for (name, metric) in COUNTED {
            let Some(now) = metrics.get(metric).copied() else { continue };
            let last = self.last.insert((node.to_owned(), name), now).unwrap_or(0.0);
            // A process that was restarted counts from 0 again.
            *self.sums.entry(name).or_default() += if now < last { now } else { now - last };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_does_not_take_back_what_was_counted() {
        let mut sums = Sums::default();
        for (node, value) in [("store-1", 3.0), ("store-2", 10.0), ("store-1", 5.0), ("store-1", 1.0)] {
            let metrics = BTreeMap::from([("seriatim_store_lease_expiries_total".to_owned(), value)]);
            sums.add(node, &metrics);
        }
        assert_eq!(sums.sums["leases expired"], 16.0);
    }
}
