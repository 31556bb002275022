//! Link: the cable of one node: a trickle of bandwidth, or pulled and plugged again.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Done, Nemesis, done, targets};
use crate::cluster::{Cluster, Reservation, must};

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
fn pick(cluster: &Cluster, rng: &mut StdRng) -> Result<(Reservation, String, String), Done> {
    let nodes: Vec<String> = cluster.nodes().iter().map(|node| node.name.clone()).collect();
    let name = targets::one(rng, &nodes).cloned().ok_or_else(|| Done::skipped("there are no nodes"))?;
    let link = cluster.link(&name).map_err(|error| Done::skipped(format!("{error:#}")))?;
    // The link is another thing than the process: a node may be killed behind a bad link.
    let reserved = cluster.reserve(&[format!("link of {name}")]);
    let reserved = reserved.ok_or_else(|| Done::skipped(format!("another fault works on the link of {name}")))?;
    Ok((reserved, name, link))
}

/// A token bucket on the way to one node.
#[derive(Debug, Default)]
pub(super) struct Rate {
    shaped: Option<(Reservation, String, String)>,
}

impl Nemesis for Rate {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let (reserved, name, link) = match pick(cluster, rng) {
                Ok(picked) => picked,
                Err(skipped) => return skipped,
            };
            let rate = format!("{}kbit", rng.random_range(RATE_KBIT));
            let words =
                ["qdisc", "add", "dev", &link, "root", "tbf", "rate", &rate, "burst", "8kb", "latency", "400ms"];
            if let Err(error) = must("tc", &words).await {
                return Done::skipped(format!("{error:#}"));
            }
            let held_back = held_back(&link).await.map(|()| format!("{name} is sent at most {rate}/s"));
            self.shaped = Some((reserved, name.clone(), link));
            Done::of(&[name], held_back)
        })
    }

    fn heal<'a>(&'a mut self, _cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some((_reserved, name, link)) = self.shaped.take() else { return done::nothing_to_undo() };
            let removed = must("tc", &["qdisc", "del", "dev", &link, "root"]).await;
            Done::of(&[name], removed.map(|_| "at full rate again".to_owned()))
        })
    }
}

/// Waits until the shaper has held back or dropped a packet.
async fn held_back(link: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listed = must("tc", &["-s", "-j", "qdisc", "show", "dev", link]).await?;
        let listed: serde_json::Value = serde_json::from_str(&listed).context("read the counters of tc")?;
        let count = |name: &str| listed.pointer(&format!("/0/{name}")).and_then(serde_json::Value::as_u64).unwrap_or(0);
        if count("overlimits") + count("drops") > 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the rate was set, but no packet had to wait for {PATIENCE:?}");
        tokio::time::sleep(POLL).await;
    }
}

/// A link that goes down, several times.
#[derive(Debug, Default)]
pub(super) struct Flap {
    pulled: Option<(Reservation, String, String)>,
}

impl Nemesis for Flap {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let (reserved, name, link) = match pick(cluster, rng) {
                Ok(picked) => picked,
                Err(skipped) => return skipped,
            };
            self.pulled = Some((reserved, name.clone(), link.clone()));
            Done::of(&[name], flap(&link).await)
        })
    }

    fn heal<'a>(&'a mut self, _cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some((_reserved, name, link)) = self.pulled.take() else { return done::nothing_to_undo() };
            Done::of(&[name], set(&link, "up").await.map(|()| "plugged again".to_owned()))
        })
    }
}

async fn flap(link: &str) -> anyhow::Result<String> {
    for _ in 0..FLAPS {
        set(link, "down").await?;
        tokio::time::sleep(FLAP).await;
        set(link, "up").await?;
        tokio::time::sleep(FLAP).await;
    }
    set(link, "down").await?;
    let state = std::fs::read_to_string(format!("/sys/class/net/{link}/operstate")).context("read the link's state")?;
    ensure!(state.trim() == "down", "the link was pulled, but it is {}", state.trim());
    Ok(format!("pulled {FLAPS} times, and left out"))
}

async fn set(link: &str, state: &str) -> anyhow::Result<()> {
    must("ip", &["link", "set", link, state]).await.map(|_| ())
}
