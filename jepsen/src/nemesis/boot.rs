//! Boot: the boot time of one node, by which leases are measured, runs at another rate or jumps. Test build only.
//!
//! ```text
//!  a store says 2,000 ms, a holder 1,600: together they may be off by 25 %
//!  within   rates of 0.95 to 1.06 and jumps forward, as after a sleep: nothing may be seen of it
//!  beyond   a store six to ten times too fast, a logic node four to ten times too slow: its holders answer from memory
//!           beside those who took their slots. What two of them answer is in no order; all else must be
//! ```
//! It is seen in the node's own metrics: how far the clock is from the truth.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Done, Nemesis, done, targets};
use crate::cluster::{Cluster, Reservation, Role};

/// Rates in thousandths of the true one, within what leases allow for: also one node at each end of it.
const WITHIN: [std::ops::RangeInclusive<u64>; 2] = [950..=980, 1_020..=1_060];
/// Of a store, beyond it: its leases end before they can be renewed.
const STORE_BEYOND: std::ops::RangeInclusive<u64> = 6_000..=10_000;
/// Of a logic node, beyond it.
const LOGIC_BEYOND: std::ops::RangeInclusive<u64> = 100..=250;
/// Jumps, ms.
const JUMP_MS: std::ops::RangeInclusive<u64> = 100..=5_000;
/// The true rate.
const TRUE: u64 = 1_000;
/// A clock has moved this far from where it was: more than a look takes.
const SEEN_MS: f64 = 60.0;
/// Longest wait for that.
const PATIENCE: Duration = Duration::from_secs(8);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(100);

/// How the boot time is bent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BootBend {
    /// a little too fast or too slow
    Within,
    /// forward, once
    Jump,
    /// far too fast or too slow
    Beyond,
}

/// A bent boot time.
#[derive(Debug)]
pub(super) struct Boot {
    bend: BootBend,
    bent: Option<(Reservation, String)>,
}

impl Boot {
    pub(super) fn boxed(bend: BootBend) -> Box<dyn Nemesis> {
        Box::new(Self { bend, bent: None })
    }
}

impl Nemesis for Boot {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let measuring = |role: &Role| matches!(role, Role::Store | Role::Logic);
            let nodes = cluster.nodes().iter().filter(|node| measuring(&node.role));
            let nodes: Vec<String> = nodes.map(|node| node.name.clone()).collect();
            let Some(name) = targets::one(rng, &nodes).cloned() else { return Done::skipped("there are no nodes") };
            let Some(reserved) = cluster.reserve(&[format!("boot time of {name}")]) else {
                return Done::skipped(format!("another fault works on the boot time of {name}"));
            };
            // What is told is what is seen: a node that does not answer shows nothing.
            let before = match off(cluster, &name).await {
                Ok(before) => before,
                Err(error) => return Done::skipped(format!("{error:#}")),
            };
            let is_store = cluster.names(Role::Store).contains(&name);
            let within = WITHIN[rng.random_range(0..WITHIN.len())].clone();
            let (rate, jump) = match self.bend {
                BootBend::Within => (rng.random_range(within), 0),
                BootBend::Jump => (TRUE, rng.random_range(JUMP_MS)),
                BootBend::Beyond if is_store => (rng.random_range(STORE_BEYOND), 0),
                BootBend::Beyond => (rng.random_range(LOGIC_BEYOND), 0),
            };
            self.bent = Some((reserved, name.clone()));
            let bent = async {
                let (_, jumped) = told(cluster, &name)?;
                tell(cluster, &name, rate, jumped + jump)?;
                let moved = moved(cluster, &name, before).await?;
                Ok(format!("rate {rate}/{TRUE}, jump {jump} ms; seen {moved:+} ms off"))
            };
            Done::of(std::slice::from_ref(&name), bent.await)
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some((_reserved, name)) = self.bent.take() else { return done::nothing_to_undo() };
            let healed = told(cluster, &name).and_then(|(_, jumped)| tell(cluster, &name, TRUE, jumped));
            Done::of(&[name], healed.map(|()| "true again within 50 ms".to_owned()))
        })
    }
}

/// What the node was told last.
fn told(cluster: &Cluster, name: &str) -> anyhow::Result<(u64, u64)> {
    let path = cluster.boot_file(name);
    if !path.exists() {
        return Ok((TRUE, 0));
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let (rate, jumped) = text.trim().split_once(' ').with_context(|| format!("{} says {text:?}", path.display()))?;
    Ok((rate.parse().context("read the rate")?, jumped.parse().context("read the jumps")?))
}

fn tell(cluster: &Cluster, name: &str, rate: u64, jumped: u64) -> anyhow::Result<()> {
    // Beside and renamed: the node may read at any time.
    let path = cluster.boot_file(name);
    let beside = path.with_added_extension("new");
    std::fs::write(&beside, format!("{rate} {jumped}\n"))
        .and_then(|()| std::fs::rename(&beside, &path))
        .with_context(|| format!("write {}", path.display()))
}

/// How far a node's boot time is ahead of the truth, ms.
async fn off(cluster: &Cluster, name: &str) -> anyhow::Result<f64> {
    let metrics = cluster.metrics(name).await?;
    let found = metrics.iter().find(|(metric, _)| metric.ends_with("chaos_boot_off_ms"));
    found.map(|(_, off)| *off).with_context(|| format!("{name} does not say how far its boot time is off"))
}

/// Waits until it is elsewhere; how far it moved.
async fn moved(cluster: &Cluster, name: &str, before: f64) -> anyhow::Result<f64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(now) = off(cluster, name).await
            && (now - before).abs() >= SEEN_MS
        {
            return Ok(now - before);
        }
        ensure!(Instant::now() < deadline, "its boot time was bent, but {name} shows nothing of it in {PATIENCE:?}");
        tokio::time::sleep(POLL).await;
    }
}
