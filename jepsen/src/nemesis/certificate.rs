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

/// Longest wait for nodes to take new files: they look every 5 s.
const PATIENCE: Duration = Duration::from_secs(12);
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

/// How often each node took new files, as far as nodes answer.
async fn taken(cluster: &Cluster) -> BTreeMap<String, f64> {
    let ask = async |name: String| (cluster.metrics(&name).await.ok().and_then(|found| count(&found)), name);
    let asked = join_all(cluster.nodes().iter().map(|node| ask(node.name.clone()))).await;
    asked.into_iter().filter_map(|(count, name)| Some((name, count?))).collect()
}

fn count(metrics: &BTreeMap<String, f64>) -> Option<f64> {
    // Before the first new file there is no count.
    metrics.keys().any(|name| name.contains("tls_reads_total")).then(|| {
        metrics.iter().find(|(name, _)| name.contains("tls_reads_total{outcome=\"New\"}")).map_or(0.0, |(_, it)| *it)
    })
}

/// Waits until all nodes that answered before have taken new files, or are gone or new: a node that starts reads what is
/// there. How many took them.
async fn took(cluster: &Cluster, before: &BTreeMap<String, f64>) -> anyhow::Result<usize> {
    ensure!(!before.is_empty(), "no node answers");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = taken(cluster).await;
        let took = before.iter().filter(|(name, count)| now.get(*name).is_some_and(|it| it > count)).count();
        // One that was started anew counts from nothing.
        let waits = before.iter().filter(|(name, count)| now.get(*name).is_some_and(|it| it == *count)).count();
        if took > 0 && waits == 0 {
            return Ok(took);
        }
        if Instant::now() >= deadline {
            let waiting = before.iter().filter(|(name, count)| now.get(*name) == Some(count));
            let waiting: Vec<_> = waiting.map(|(name, _)| name.as_str()).collect();
            bail!("no new files were taken in {PATIENCE:?} by: {}", waiting.join(", "));
        }
        tokio::time::sleep(POLL).await;
    }
}
