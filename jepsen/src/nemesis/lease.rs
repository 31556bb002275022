//! Lease: a holder that sleeps past the end of its lease and wakes up believing: it must be fenced.

use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::BoxFuture;
use rand::rngs::StdRng;

use super::targets::{Target, pick};
use super::{Done, Nemesis, done};
use crate::cluster::{Cluster, Reservation};

/// Longest wait after the waking for the node to find out.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two looks at its metrics.
const POLL: Duration = Duration::from_millis(100);
/// What a logic node counts when it learns that it is no holder any more.
const SIGNS: [&str; 2] = ["seriatim_logic_leases_lost_total", "seriatim_logic_holders_ended_total"];

/// Pauses the node that holds most slots. It lasts longer than a lease, so others take its slots meanwhile.
#[derive(Debug, Default)]
pub(super) struct ZombieHolder {
    paused: Option<(Reservation, f64)>,
}

impl Nemesis for ZombieHolder {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let victims = match pick(cluster, rng, Target::Holder).await {
                Ok(victims) => victims,
                Err(skipped) => return skipped,
            };
            let name = victims.names()[0].clone();
            let signs = match signs(cluster, &name).await {
                Ok(signs) => signs,
                Err(error) => return Done::skipped(format!("{error:#}")),
            };
            self.paused = Some((victims, signs));
            let paused = cluster.pause(&name).await.map(|()| "the kernel says stopped".to_owned());
            Done::of(&[name], paused)
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some((victims, before)) = self.paused.take() else { return done::nothing_to_undo() };
            Done::of(victims.names(), wake(cluster, &victims.names()[0], before).await)
        })
    }
}

async fn wake(cluster: &Cluster, name: &str, before: f64) -> anyhow::Result<String> {
    cluster.resume(name).await?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = signs(cluster, name).await;
        match now {
            Ok(now) if now > before => return Ok(format!("lost {} leases and slots as a zombie", now - before)),
            _ if Instant::now() >= deadline => {
                anyhow::bail!("resumed, but it lost no lease: a pause too short, or nobody took its slots")
            }
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

async fn signs(cluster: &Cluster, name: &str) -> anyhow::Result<f64> {
    let metrics = cluster.metrics(name).await?;
    let found = SIGNS.iter().map(|sign| metrics.get(*sign).with_context(|| format!("{name} has no metric {sign}")));
    found.sum::<anyhow::Result<f64>>()
}
