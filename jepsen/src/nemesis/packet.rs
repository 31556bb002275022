//! Packet: packets of one node come late, twice, in another order, or spoiled, as the switch's counters tell.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Done, Nemesis, done, targets};
use crate::cluster::{Cluster, Direction, Disturbance, Trouble, Troubled};

/// Longest wait for the first packet that a trouble hits: of a quiet node's few packets one in a thousand.
const PATIENCE: Duration = Duration::from_secs(4);
/// Pause between two looks at the counters.
const POLL: Duration = Duration::from_millis(20);
/// From what is hardly felt to what a heartbeat hardly survives.
const DELAY_MS: std::ops::RangeInclusive<u64> = 5..=200;
/// Below it nothing is felt.
const JITTER_MS: std::ops::RangeInclusive<u64> = 5..=100;
/// Of packets that come twice, or are overtaken.
const OFTEN_PER_MILLE: std::ops::RangeInclusive<u32> = 50..=300;
/// Of spoiled packets: more would be a cut.
const SELDOM_PER_MILLE: std::ops::RangeInclusive<u32> = 1..=50;

/// What happens to packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mishap {
    Delay,
    Jitter,
    Duplicate,
    Reorder,
    Corrupt,
}

impl Mishap {
    /// Draws how bad it is.
    fn draw(self, rng: &mut StdRng) -> Trouble {
        let ms = Duration::from_millis;
        match self {
            Mishap::Delay => Trouble::Delay(ms(rng.random_range(DELAY_MS))),
            Mishap::Jitter => Trouble::Jitter(ms(rng.random_range(JITTER_MS))),
            Mishap::Duplicate => Trouble::Duplicate(rng.random_range(OFTEN_PER_MILLE)),
            Mishap::Reorder => Trouble::Reorder(rng.random_range(OFTEN_PER_MILLE)),
            Mishap::Corrupt => Trouble::Corrupt(rng.random_range(SELDOM_PER_MILLE)),
        }
    }
}

/// A mishap of one node's packets.
#[derive(Debug)]
pub(super) struct Packet {
    mishap: Mishap,
    at_work: Option<AtWork>,
}

#[derive(Debug)]
struct AtWork {
    disturbance: Disturbance,
    name: String,
    /// refused by the kernels before it began
    checksum_errors: u64,
}

impl Packet {
    pub(super) fn boxed(mishap: Mishap) -> Box<dyn Nemesis> {
        Box::new(Self { mishap, at_work: None })
    }

    async fn disturb(&mut self, cluster: &Cluster, rng: &mut StdRng) -> Done {
        let nodes: Vec<String> = cluster.nodes().iter().map(|node| node.name.clone()).collect();
        let Some(name) = targets::one(rng, &nodes).cloned() else { return Done::skipped("there are no nodes") };
        let (directions, what) = match rng.random_range(0..4) {
            0 => (&[Direction::FromNode][..], format!("what {name} sends")),
            1 => (&[Direction::ToNode][..], format!("what {name} is sent")),
            _ => (Direction::BOTH, format!("what {name} sends and is sent")),
        };
        let trouble = self.mishap.draw(rng);
        let checksum_errors = match self.checksum_errors(cluster).await {
            Ok(count) => count,
            Err(error) => return Done::skipped(format!("{error:#}")),
        };
        let disturbance = match cluster.disturb(&name, directions, trouble) {
            Ok(disturbance) => disturbance,
            Err(error) => return Done::skipped(format!("{error:#}")),
        };
        let hit = first_hit(cluster, &disturbance).await;
        self.at_work = Some(AtWork { disturbance, name: name.clone(), checksum_errors });
        Done::of(&[name], hit.map(|()| format!("{what}: {}", tell(trouble))))
    }

    /// What the kernels refuse matters for spoiled packets only.
    async fn checksum_errors(&self, cluster: &Cluster) -> anyhow::Result<u64> {
        if self.mishap == Mishap::Corrupt { cluster.checksum_errors().await } else { Ok(0) }
    }

    async fn calm(&self, cluster: &Cluster, at_work: AtWork) -> anyhow::Result<String> {
        let Troubled { frames, hit, disguised } = cluster.calm(at_work.disturbance)?;
        let counted = format!("{hit} of {frames} packets were hit");
        if self.mishap != Mishap::Corrupt {
            return Ok(counted);
        }
        let refused = cluster.checksum_errors().await?.saturating_sub(at_work.checksum_errors);
        Ok(format!("{counted}, {disguised} of them with a right checksum; the kernels refused {refused}"))
    }
}

impl Nemesis for Packet {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(self.disturb(cluster, rng))
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(at_work) = self.at_work.take() else { return done::nothing_to_undo() };
            let targets = [at_work.name.clone()];
            Done::of(&targets, self.calm(cluster, at_work).await)
        })
    }
}

/// Waits until a packet was hit.
async fn first_hit(cluster: &Cluster, disturbance: &Disturbance) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Troubled { frames, hit, .. } = cluster.troubled(disturbance)?;
        if hit > 0 {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{frames} packets came by in {PATIENCE:?}, and none was hit");
        tokio::time::sleep(POLL).await;
    }
}

fn tell(trouble: Trouble) -> String {
    let percent = |per_mille: u32| f64::from(per_mille) / 10.0;
    match trouble {
        Trouble::Delay(by) => format!("{by:?} late"),
        Trouble::Jitter(most) => format!("up to {most:?} late"),
        Trouble::Duplicate(per_mille) => format!("{} % twice", percent(per_mille)),
        Trouble::Reorder(per_mille) => format!("{} % held back behind others", percent(per_mille)),
        Trouble::Corrupt(per_mille) => format!("{} % with flipped bits", percent(per_mille)),
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn mishaps_are_as_bad_as_they_may_be() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..2_000 {
            for mishap in [Mishap::Delay, Mishap::Jitter, Mishap::Duplicate, Mishap::Reorder, Mishap::Corrupt] {
                let within = match mishap.draw(&mut rng) {
                    Trouble::Delay(by) => (5..=200).contains(&by.as_millis()),
                    Trouble::Jitter(most) => (5..=100).contains(&most.as_millis()),
                    Trouble::Duplicate(per_mille) | Trouble::Reorder(per_mille) => (50..=300).contains(&per_mille),
                    Trouble::Corrupt(per_mille) => (1..=50).contains(&per_mille),
                };
                assert!(within, "{mishap:?}");
            }
        }
    }

    #[test]
    fn magnitudes_are_told_in_percent() {
        assert_eq!(tell(Trouble::Corrupt(1)), "0.1 % with flipped bits");
        assert_eq!(tell(Trouble::Duplicate(300)), "30 % twice");
    }
}
