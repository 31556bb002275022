//! Disk: a store whose disk is full, fails, is slow, or stands still; and power cuts, which take what was not fsynced.

use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, join_all};
use rand::RngExt;
use rand::rngs::StdRng;

use super::kill::{failures, start_again};
use super::targets::{Target, pick};
use super::{Done, Nemesis, done};
use crate::cluster::{Cluster, Mood, Reservation};

/// Longest wait until the store feels its disk.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a store that stops takes at most.
const ON_ITS_WAY: Duration = Duration::from_secs(3);
/// Longest wait, once it felt a failed fsync, until it stops: it must, and at once.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(20);
/// Of a slow disk's fsync.
const DELAY_MS: std::ops::RangeInclusive<u64> = 50..=500;

/// What ails a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Illness {
    /// ENOSPC
    Full,
    /// EIO on fsync
    FsyncFails,
    /// fsyncs take long
    Slow,
    /// nothing ends
    Stalled,
}

/// A sick disk.
#[derive(Debug)]
pub(super) struct Disk {
    illness: Illness,
    target: Target,
    sick: Option<Reservation>,
}

impl Disk {
    pub(super) fn boxed(illness: Illness, target: Target) -> Box<dyn Nemesis> {
        Box::new(Self { illness, target, sick: None })
    }

    /// A store may end when its disk is full, and must when it fails; it must live when it is only slow.
    fn may_end_it(&self) -> bool {
        matches!(self.illness, Illness::Full | Illness::FsyncFails)
    }

    async fn infect(&self, cluster: &Cluster, name: &str, mood: Mood) -> anyhow::Result<String> {
        cluster.allow_end(name, self.may_end_it())?;
        cluster.set_disk(name, mood)?;
        let deadline = Instant::now() + PATIENCE;
        while cluster.disk_felt(name)? == 0 {
            anyhow::ensure!(Instant::now() < deadline, "{mood:?}, but the store felt nothing of it");
            tokio::time::sleep(POLL).await;
        }
        if self.illness != Illness::FsyncFails {
            return Ok(format!("{mood:?}, felt"));
        }
        let stopped = cluster.wait_until_gone(name, STOP_PATIENCE).await;
        anyhow::ensure!(stopped.is_ok(), "an fsync of {name} failed, and it runs on: it must stop");
        Ok(format!("{mood:?}, felt, and it stopped"))
    }

    async fn cure(&self, cluster: &Cluster, name: &str) -> anyhow::Result<String> {
        let felt = cluster.disk_felt(name)?;
        cluster.set_disk(name, Mood::Well)?;
        if self.illness == Illness::Full {
            // A store whose log has met the end of the disk is on its way out, whatever the disk says now. One that met it
            // elsewhere runs on.
            let _ = cluster.wait_until_gone(name, ON_ITS_WAY).await;
        }
        let mut detail = format!("well again; felt {felt} times");
        if !cluster.is_running(name) {
            if self.illness == Illness::FsyncFails {
                // What a failed fsync was to save is lost: pages are clean after it, and never written.
                detail += &format!("; it had stopped, and {} bytes were lost", cluster.cut_power(name).await?);
            }
            cluster.start_node(name).await?;
            detail += "; started again";
        }
        Ok(detail)
    }
}

impl Nemesis for Disk {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let mood = match self.illness {
                Illness::Full => Mood::Full,
                Illness::FsyncFails => Mood::FsyncFails,
                Illness::Slow => Mood::Slow(Duration::from_millis(rng.random_range(DELAY_MS))),
                Illness::Stalled => Mood::Stalled,
            };
            let victims = match pick(cluster, rng, self.target).await {
                Ok(victims) => victims,
                Err(skipped) => return skipped,
            };
            let names = victims.names().to_vec();
            if let Err(error) = cluster.disk_felt(&names[0]) {
                return Done::skipped(format!("{error:#}"));
            }
            self.sick = Some(victims);
            Done::of(&names, self.infect(cluster, &names[0], mood).await)
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(victims) = self.sick.take() else { return done::nothing_to_undo() };
            let names = victims.names();
            let cured = self.cure(cluster, &names[0]).await;
            if self.may_end_it() {
                let _ = cluster.allow_end(&names[0], false);
            }
            Done::of(names, cured)
        })
    }
}

/// Stores that are killed and lose what they had not fsynced.
#[derive(Debug)]
pub(super) struct PowerCut {
    target: Target,
    dark: Option<Reservation>,
}

impl PowerCut {
    pub(super) fn boxed(target: Target) -> Box<dyn Nemesis> {
        Box::new(Self { target, dark: None })
    }
}

impl Nemesis for PowerCut {
    fn inject<'a>(&'a mut self, cluster: &'a Cluster, rng: &'a mut StdRng) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let victims = match pick(cluster, rng, self.target).await {
                Ok(victims) => victims,
                Err(skipped) => return skipped,
            };
            let names = victims.names().to_vec();
            if let Err(error) = cluster.disk_felt(&names[0]) {
                return Done::skipped(format!("{error:#}"));
            }
            self.dark = Some(victims);
            let errors = failures(join_all(names.iter().map(|name| cluster.kill(name))).await);
            if !errors.is_empty() {
                return Done::indeterminate(&names, errors);
            }
            let cuts = join_all(names.iter().map(|name| cluster.cut_power(name))).await;
            let lost = cuts.into_iter().sum::<anyhow::Result<u64>>();
            Done::of(&names, lost.map(|lost| format!("killed; {lost} bytes were not fsynced and are lost")))
        })
    }

    fn heal<'a>(&'a mut self, cluster: &'a Cluster) -> BoxFuture<'a, Done> {
        Box::pin(async move {
            let Some(victims) = self.dark.take() else { return done::nothing_to_undo() };
            start_again(cluster, victims.names()).await
        })
    }
}
