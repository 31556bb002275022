//! Clock: the wall clock of one node jumps, jumps to and fro, or runs too fast. Its monotonic clock stays true.
//!
//! A node under libfaketime reads how its clock is bent from a file, once a second. That it did is seen in the dates
//! of its HTTP server.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use futures_util::future::BoxFuture;
use rand::RngExt;
use rand::rngs::StdRng;

use super::{Done, Nemesis, done, targets};
use crate::cluster::{Cluster, Reservation, TRUE_CLOCK};

/// Jumps: more than the second that dates are told in, less than tokens live.
const JUMP_S: std::ops::RangeInclusive<u64> = 10..=1_200;
/// A clock that runs so many times too fast.
const DRIFT: std::ops::RangeInclusive<u32> = 3..=10;
/// Between two jumps of a strobe: a node reads the file once a second.
const STROBE: Duration = Duration::from_millis(1_300);
/// A date this far from the harness's is a bent one.
const BENT: Duration = Duration::from_secs(3);
/// Longest wait for such a date: one told by a clock that went back does not move until the clock is there again.
const PATIENCE: Duration = Duration::from_secs(8);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(200);

/// How a clock is bent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Bend {
    /// once
    Jump,
    /// to and fro
    Strobe,
    /// faster and faster from the truth
    Drift,
}

/// A bent clock.
#[derive(Debug)]
pub(super) struct Clock {
    bend: Bend,
    bent: Option<Reservation>,
    strobe: Option<tokio::task::JoinHandle<()>>,
}

impl Clock {
    pub(super) fn boxed(bend: Bend) -> Box<dyn Nemesis> {
        Box::new(Self { bend, bent: None, strobe: None })
    }

    fn words(&self, rng: &mut StdRng) -> String {
        match self.bend {
            Bend::Jump | Bend::Strobe => {
                let sign = if rng.random_bool(0.5) { '+' } else { '-' };
                format!("{sign}{}", rng.random_range(JUMP_S))
            }
            Bend::Drift => format!("+0 x{}", rng.random_range(DRIFT)),
        }
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.strobe.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Nemesis for Clock {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            if !cluster.config().bendable_clocks {
                return Done::skipped("the cluster was started with true clocks");
            }
            let nodes: Vec<String> = cluster.nodes().iter().map(|node| node.name.clone()).collect();
            let Some(name) = targets::one(rng, &nodes) else { return Done::skipped("there are no nodes") };
            // The clock is another thing than the process: a node may be killed while its clock is wrong.
            let Some(reserved) = cluster.reserve(&[format!("clock of {name}")]) else {
                return Done::skipped(format!("another fault works on the clock of {name}"));
            };
            self.bent = Some(reserved);
            let words = self.words(rng);
            let targets = [name.clone()];
            let seen = async {
                set(cluster, name, &words)?;
                let off = off_by(cluster, name).await?;
                Ok(format!("{:?} {words}, seen {} s from the truth", self.bend, off.as_secs()))
            };
            let done = Done::of(&targets, seen.await);
            if self.bend == Bend::Strobe {
                self.strobe = Some(tokio::spawn(strobe(cluster.clone(), name.clone(), words)));
            }
            done
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(reserved) = self.bent.take() else { return done::nothing_to_undo() };
            if let Some(strobe) = self.strobe.take() {
                strobe.abort();
                // It may be in the middle of a write of its own.
                let _ = strobe.await;
            }
            let name = reserved.names()[0].trim_start_matches("clock of ").to_owned();
            let healed = set(cluster, &name, TRUE_CLOCK).map(|()| "true again within a second".to_owned());
            Done::of(&[name], healed)
        })
    }
}

async fn strobe(cluster: Cluster, name: String, words: String) {
    for turn in 1_u64.. {
        tokio::time::sleep(STROBE).await;
        // A turn that cannot be written leaves the clock where it is.
        let _ = set(&cluster, &name, if turn % 2 == 1 { TRUE_CLOCK } else { &words });
    }
}

fn set(cluster: &Cluster, name: &str, words: &str) -> anyhow::Result<()> {
    // Beside and renamed: the node may read at any time.
    let path = cluster.clock_file(name);
    let beside = path.with_extension("new");
    std::fs::write(&beside, format!("{}\n", words.trim()))
        .and_then(|()| std::fs::rename(&beside, &path))
        .with_context(|| format!("write {}", path.display()))
}

/// Waits until the node tells another time than the harness.
async fn off_by(cluster: &Cluster, name: &str) -> anyhow::Result<Duration> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(theirs) = cluster.wall_clock(name).await {
            let ours = SystemTime::now();
            let off = theirs.duration_since(ours).or_else(|_| ours.duration_since(theirs)).unwrap_or_default();
            if off >= BENT {
                return Ok(off);
            }
        }
        ensure!(Instant::now() < deadline, "the clock was bent, but {name} still tells the time within {BENT:?}");
        tokio::time::sleep(POLL).await;
    }
}
