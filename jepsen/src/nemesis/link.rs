//! Link: the cable of one node: a trickle of bandwidth, or pulled and plugged again.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Done, Nemesis, done, targets};
use crate::cluster::{Cluster, Reservation};

/// Of a trickle: below what a loaded node is sent, above what keeps its heartbeats alive.
const RATE_KBIT: std::ops::RangeInclusive<u32> = 200..=2_000;
/// Longest wait until the shaper has held a packet back.
const PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);
/// Pulls before the last one, which lasts until it heals.
const FLAPS: u32 = 3;
/// Length of one of these.
const FLAP: Duration = Duration::from_millis(150);

/// Draws a node whose link nobody else works on.
fn pick(cluster: &Cluster, rng: &mut StdRng) -> Result<(Reservation, String), Done> {
    let nodes: Vec<String> = cluster.nodes().iter().map(|node| node.name.clone()).collect();
    let name = targets::one(rng, &nodes).cloned().ok_or_else(|| Done::skipped("there are no nodes"))?;
    cluster.link_is_pulled(&name).map_err(|error| Done::skipped(format!("{error:#}")))?;
    // The link is another thing than the process: a node may be killed behind a bad link.
    let reserved = cluster.reserve(&[format!("link of {name}")]);
    let reserved = reserved.ok_or_else(|| Done::skipped(format!("another fault works on the link of {name}")))?;
    Ok((reserved, name))
}

/// A token bucket on the way to one node.
#[derive(Debug, Default)]
pub(super) struct Rate {
    shaped: Option<(Reservation, String)>,
}

impl Nemesis for Rate {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let (reserved, name) = match pick(cluster, rng) {
                Ok(picked) => picked,
                Err(skipped) => return skipped,
            };
            let kbit = rng.random_range(RATE_KBIT);
            if let Err(error) = cluster.slow_link(&name, kbit).await {
                return Done::skipped(format!("{error:#}"));
            }
            let held_back = held_back(cluster, &name).await.map(|()| format!("{name} is sent at most {kbit}kbit/s"));
            self.shaped = Some((reserved, name.clone()));
            Done::of(&[name], held_back)
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some((_reserved, name)) = self.shaped.take() else { return done::nothing_to_undo() };
            let restored = cluster.restore_link(&name).await;
            Done::of(&[name], restored.map(|()| "at full rate again".to_owned()))
        })
    }
}

/// Waits until the shaper has held back or dropped a packet.
async fn held_back(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while cluster.packets_held_back(name).await? == 0 {
        ensure!(Instant::now() < deadline, "the rate was set, but no packet had to wait for {PATIENCE:?}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// A link that goes down, several times.
#[derive(Debug, Default)]
pub(super) struct Flap {
    pulled: Option<(Reservation, String)>,
}

impl Nemesis for Flap {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let (reserved, name) = match pick(cluster, rng) {
                Ok(picked) => picked,
                Err(skipped) => return skipped,
            };
            self.pulled = Some((reserved, name.clone()));
            let flapped = flap(cluster, &name).await;
            Done::of(&[name], flapped)
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some((_reserved, name)) = self.pulled.take() else { return done::nothing_to_undo() };
            let plugged = cluster.pull_link(&name, false).await;
            Done::of(&[name], plugged.map(|()| "plugged again".to_owned()))
        })
    }
}

async fn flap(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    for _ in 0..FLAPS {
        cluster.pull_link(name, true).await?;
        tokio::time::sleep(FLAP).await;
        cluster.pull_link(name, false).await?;
        tokio::time::sleep(FLAP).await;
    }
    cluster.pull_link(name, true).await?;
    ensure!(cluster.link_is_pulled(name)?, "the link was pulled, but it is not down");
    Ok(format!("pulled {FLAPS} times, and left out"))
}
