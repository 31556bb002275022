//! Certificate: all nodes get certificates of a new CA while they work, and the old CA is taken away from them.
//!
//! ```text
//!  inject   both CAs are taken ──seen──▶ certificates of the new CA, both CAs are taken ──seen──┐
//!  heal     only the new CA is taken ──seen──┘
//! ```
//! It is seen in the nodes' own metrics: they took new files, and the certificate that they have is not the one they had.
//! A node that is paused or down in between takes what is there when it comes back.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use futures_util::future::{BoxFuture, join_all};
use rand::rngs::StdRng;

use super::{Done, Nemesis, done};
use crate::cluster::{Cluster, Reservation};

/// Longest wait for nodes to take new files: they look every 5 s, on a machine that may have better to do.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(250);

/// A change of the CA.
#[derive(Debug, Default)]
pub(super) struct Certificate {
    begun: Option<(Reservation, PathBuf)>,
}

impl Nemesis for Certificate {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, _rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(rotated) = cluster.rotated() else { return Done::skipped("the nodes speak plaintext") };
            let Some(reserved) = cluster.reserve(&["certificates".to_owned()]) else {
                return Done::skipped("certificates are being changed already");
            };
            let changed = async {
                let (old, new) = (rotated.now()?, rotated.new_set()?);
                self.begun = Some((reserved, new.clone()));
                let before = taken(cluster).await;
                rotated.show_with_both(&old, &new)?;
                took(cluster, &before).await?;
                let before = taken(cluster).await;
                rotated.show_with_both(&new, &old)?;
                let seen = took(cluster, &before).await?;
                Ok(format!("{seen} nodes show certificates of a new CA"))
            };
            Done::of(&all(cluster), changed.await)
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let (Some(rotated), Some((_reserved, new))) = (cluster.rotated(), self.begun.take()) else {
                return done::nothing_to_undo();
            };
            let ended = async {
                let before = taken(cluster).await;
                rotated.point_at(&new)?;
                let seen = took(cluster, &before).await?;
                Ok(format!("{seen} nodes take the new CA only"))
            };
            Done::of(&all(cluster), ended.await)
        })
    }
}

fn all(cluster: &Cluster) -> Vec<String> {
    cluster.nodes().iter().map(|node| node.name.clone()).collect()
}

/// What a process of a node has taken.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Taken {
    pid: u32,
    /// how often it took new files
    count: f64,
}

/// How often each node's process took new files, as far as nodes answer.
async fn taken(cluster: &Cluster) -> BTreeMap<String, Taken> {
    let ask = async |name: String| {
        let pid = cluster.pid(&name)?;
        let count = cluster.metrics(&name).await.ok().and_then(|found| count(&found))?;
        // Another process may have answered.
        (cluster.pid(&name) == Some(pid)).then_some((name, Taken { pid, count }))
    };
    let asked = join_all(cluster.nodes().iter().map(|node| ask(node.name.clone()))).await;
    asked.into_iter().flatten().collect()
}

fn count(metrics: &BTreeMap<String, f64>) -> Option<f64> {
    // Before the first new file there is no count.
    metrics.keys().any(|name| name.contains("tls_reads_total")).then(|| {
        metrics.iter().find(|(name, _)| name.contains("tls_reads_total{outcome=\"New\"}")).map_or(0.0, |(_, it)| *it)
    })
}

/// Of the nodes that answered before, how many have taken new files since, and which have not and still could: who is
/// gone cannot, and a process that was started since has read what is there.
fn compare<'a>(before: &'a BTreeMap<String, Taken>, now: &BTreeMap<String, Taken>) -> (usize, Vec<&'a str>) {
    let same = before.iter().filter_map(|(name, before)| {
        let now = now.get(name).filter(|now| now.pid == before.pid)?;
        Some((name.as_str(), now.count > before.count))
    });
    let (took, waiting): (Vec<_>, Vec<_>) = same.partition(|(_, took)| *took);
    (took.len(), waiting.into_iter().map(|(name, _)| name).collect())
}

/// Waits until all processes that answered before have taken new files, or are gone. How many took them.
async fn took(cluster: &Cluster, before: &BTreeMap<String, Taken>) -> anyhow::Result<usize> {
    ensure!(!before.is_empty(), "no node answers");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = taken(cluster).await;
        let (took, waiting) = compare(before, &now);
        if took > 0 && waiting.is_empty() {
            return Ok(took);
        }
        if Instant::now() >= deadline {
            ensure!(!waiting.is_empty(), "nobody who answered before is there any more, after {PATIENCE:?}");
            bail!("no new files were taken in {PATIENCE:?} by: {}", waiting.join(", "));
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(taken: &[(&str, u32, f64)]) -> BTreeMap<String, Taken> {
        taken.iter().map(|(name, pid, count)| ((*name).to_owned(), Taken { pid: *pid, count: *count })).collect()
    }

    /// Seed 7 of the mix: a store that was restarted meanwhile counted none, as before, and was waited for in vain.
    #[test]
    fn seed_7_a_process_that_was_started_since_is_not_waited_for() {
        let before = nodes(&[("store-1", 11, 0.0), ("store-2", 12, 3.0), ("logic-1", 13, 0.0), ("gateway-1", 14, 1.0)]);
        let now = nodes(&[("store-1", 99, 0.0), ("store-2", 98, 3.0), ("logic-1", 13, 1.0), ("gateway-1", 14, 1.0)]);
        assert_eq!(compare(&before, &now), (1, vec!["gateway-1"]));
        let now = nodes(&[("store-1", 99, 0.0), ("logic-1", 13, 1.0)]);
        assert_eq!(compare(&before, &now), (1, vec![]), "who is gone cannot take anything");
        assert_eq!(compare(&before, &before), (0, vec!["gateway-1", "logic-1", "store-1", "store-2"]));
    }
}
