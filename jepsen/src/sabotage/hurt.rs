//! Hurt: what a scenario does to the cluster while clients work, step by step, each written down as a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;

use super::scenario::Hurt;
use super::wal;
use crate::cluster::{Cluster, Flow, Role};
use crate::history::{Act, Effect, Fault, HistoryWriter};
use crate::workload::Clock;

/// How long clients work before anything is done, and between two rounds.
const WORK: Duration = Duration::from_secs(3);
/// Longer than a lease and the time until its slots are taken.
const PAST_LEASE: Duration = Duration::from_millis(4_500);
/// Others hold its slots for some seconds, and it ends just before the kernel's fifth try (0.2, 0.6, 1.4, 3.0 and 6.2 s).
const UNTIL_FIFTH_TRY: Duration = Duration::from_millis(5_600);
/// While a follower sleeps: shorter than the leader needs to forget it.
const LAG: Duration = Duration::from_millis(1_500);
/// Longest wait until the cluster serves again between two rounds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(200);

/// Hurts one cluster.
pub(crate) struct Hand<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) clock: Clock,
    pub(crate) faults: &'a HistoryWriter,
    pub(crate) numbers: AtomicU64,
    /// nodes whose files were changed behind their backs: that they say so is no finding
    pub(crate) damaged: Mutex<Vec<String>>,
}

impl Hand<'_> {
    /// Does all of it; clients work on for a while behind it.
    pub(crate) async fn hurt(&self, hurt: Hurt) -> anyhow::Result<()> {
        tokio::time::sleep(WORK).await;
        match hurt {
            Hurt::Nothing { seconds } => tokio::time::sleep(Duration::from_secs(seconds)).await,
            Hurt::RestartHolders => self.restart_holders().await?,
            Hurt::LonelyHolder { times } => self.repeat(times, async || self.lonely().await).await?,
            Hurt::LateCommands { times } => self.repeat(times, async || self.late().await).await?,
            Hurt::KillAllLeadersLast { times } => self.repeat(times, async || self.kill_all().await).await?,
            Hurt::PowerCutAll { times } => self.repeat(times, async || self.cut_all().await).await?,
            Hurt::LaggingFollower { times } => self.repeat(times, async || self.lag().await).await?,
            Hurt::CutLog => self.cut_log().await?,
        }
        tokio::time::sleep(WORK).await;
        Ok(())
    }

    async fn repeat(&self, times: u32, round: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
        for _ in 0..times {
            round().await?;
            self.cluster.wait_until_serving(PATIENCE).await?;
            tokio::time::sleep(WORK).await;
        }
        Ok(())
    }

    async fn restart_holders(&self) -> anyhow::Result<()> {
        for name in self.cluster.names(Role::Logic) {
            self.noted("kill-logic", std::slice::from_ref(&name), self.cluster.kill(&name)).await?;
            self.cluster.start_node(&name).await?;
            tokio::time::sleep(WORK).await;
        }
        Ok(())
    }

    /// Its gateway knows nobody else, so it is asked on.
    async fn lonely(&self) -> anyhow::Result<()> {
        let holder = self.holder().await?;
        let gateway = self.cluster.names(Role::Gateway).remove(0);
        let peers: Vec<String> = self.cluster.names(Role::Logic).into_iter().filter(|name| *name != holder).collect();
        let mut flows = BTreeSet::new();
        for other in self.cluster.names(Role::Store).iter().chain(&peers) {
            flows.extend([between(&holder, other), between(other, &holder)]);
        }
        for peer in &peers {
            flows.extend([between(&gateway, peer), between(peer, &gateway)]);
        }
        self.cut("cut-logic", &holder, &flows, PAST_LEASE).await
    }

    /// What it sent is sent again by the kernel once the cut is mended.
    async fn late(&self) -> anyhow::Result<()> {
        let holder = self.holder().await?;
        let flows = self.cluster.names(Role::Store).iter().map(|store| between(&holder, store)).collect();
        self.cut("cut-logic-one-way", &holder, &flows, UNTIL_FIFTH_TRY).await
    }

    async fn cut(&self, kind: &str, target: &str, flows: &BTreeSet<Flow>, hold: Duration) -> anyhow::Result<()> {
        let cutting = async {
            let cut = self.cluster.cut(flows, 100).await?;
            tokio::time::sleep(hold).await;
            let dropped = self.cluster.mend(cut).await?;
            anyhow::ensure!(dropped > 0, "no packet met the cut");
            Ok(())
        };
        self.noted(kind, &[target.to_owned()], cutting).await
    }

    /// The logic node that holds most slots.
    async fn holder(&self) -> anyhow::Result<String> {
        most(self.cluster.slot_holders().await).context("no logic node says what it holds")
    }

    async fn kill_all(&self) -> anyhow::Result<()> {
        let stores = self.cluster.names(Role::Store);
        let leaders = self.leading().await?;
        self.noted("kill-all-stores", &stores, self.kill(&stores)).await?;
        let (last, first): (Vec<String>, Vec<String>) = stores.into_iter().partition(|name| leaders[0] == *name);
        self.start(&first).await?;
        // Those who did not lead are a majority, and know of no other history than theirs.
        self.led_by(&first).await?;
        tokio::time::sleep(WORK).await;
        self.start(&last).await
    }

    async fn cut_all(&self) -> anyhow::Result<()> {
        let stores = self.cluster.names(Role::Store);
        let cut = async {
            self.kill(&stores).await?;
            try_join_all(stores.iter().map(|name| self.cluster.cut_power(name))).await.map(drop)
        };
        self.noted("power-cut-all", &stores, cut).await?;
        self.start(&stores).await
    }

    async fn lag(&self) -> anyhow::Result<()> {
        let leader = self.leading().await?.remove(0);
        let follower = self.cluster.names(Role::Store).into_iter().find(|name| *name != leader);
        let follower = follower.context("there is one store only")?;
        self.noted("pause-store", std::slice::from_ref(&follower), self.cluster.pause(&follower)).await?;
        tokio::time::sleep(LAG).await;
        self.noted("kill-leader", std::slice::from_ref(&leader), self.cluster.kill(&leader)).await?;
        self.cluster.resume(&follower).await?;
        tokio::time::sleep(WORK).await;
        self.cluster.start_node(&leader).await
    }

    async fn cut_log(&self) -> anyhow::Result<()> {
        let leader = self.leading().await?.remove(0);
        let mut others = self.cluster.names(Role::Store);
        others.retain(|name| *name != leader);
        let [lags, cut] = <[String; 2]>::try_from(others).ok().context("it needs three stores")?;
        self.noted("pause-store", std::slice::from_ref(&lags), self.cluster.pause(&lags)).await?;
        // What is written now is on the leader and on the one whose log is cut.
        tokio::time::sleep(WORK).await;
        let log = self.cluster.data_dir(&cut).join("log.db");
        let harm = async {
            self.cluster.kill(&cut).await?;
            self.cluster.kill(&leader).await?;
            wal::cut(&log)
        };
        self.damaged.lock().push(cut.clone());
        self.noted("damage-truncate", std::slice::from_ref(&cut), harm).await?;
        self.cluster.resume(&lags).await?;
        // A refusal to start is what should come of it, or to vote.
        self.cluster.allow_end(&cut, true)?;
        if self.cluster.start_node(&cut).await.is_err() {
            // It did not run with the damage: with its old log it is what it was.
            wal::mend(&log)?;
            self.start(std::slice::from_ref(&cut)).await?;
        } else if self.led_by(&[lags, cut.clone()]).await.is_ok() {
            tokio::time::sleep(WORK).await;
        }
        self.cluster.allow_end(&cut, false)?;
        self.start(std::slice::from_ref(&leader)).await
    }

    /// Waits until some of these lead every group.
    async fn led_by(&self, stores: &[String]) -> anyhow::Result<()> {
        let groups = self.cluster.config().groups as usize + 1;
        let led = async {
            while self.cluster.leaders().await.values().filter(|store| stores.contains(store)).count() < groups {
                tokio::time::sleep(POLL).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, led).await;
        waited.with_context(|| format!("wait until {} lead every group", stores.join(" and ")))
    }

    /// Stores that lead, the one that leads most groups first.
    async fn leading(&self) -> anyhow::Result<Vec<String>> {
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        // The directory's group (0) weighs less than the data's.
        for (group, store) in self.cluster.leaders().await {
            *counts.entry(store).or_default() += if group == 0 { 1 } else { 2 };
        }
        let mut leading: Vec<(String, u32)> = counts.into_iter().collect();
        leading.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        anyhow::ensure!(!leading.is_empty(), "no store says that it leads");
        Ok(leading.into_iter().map(|(name, _)| name).collect())
    }

    async fn kill(&self, names: &[String]) -> anyhow::Result<()> {
        join_all(names.iter().map(|name| self.cluster.kill(name))).await.into_iter().collect()
    }

    async fn start(&self, names: &[String]) -> anyhow::Result<()> {
        try_join_all(names.iter().map(|name| self.cluster.start_node(name))).await.map(drop)
    }

    /// Does it, and writes it down.
    async fn noted(
        &self,
        kind: &str,
        targets: &[String],
        doing: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        let began = self.clock.now();
        let done = doing.await;
        let (effect, detail) = match &done {
            Ok(()) => (Effect::Installed, String::new()),
            Err(error) => (Effect::Indeterminate, format!("{error:#}")),
        };
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (kind, targets) = (kind.to_owned(), targets.to_vec());
        let fault = Fault { number, kind, act: Act::Inject, began, ended: self.clock.now(), targets, effect, detail };
        self.faults.write(&fault).context("write the fault down")?;
        done
    }
}

fn most(counts: BTreeMap<String, u32>) -> Option<String> {
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name)
}

fn between(from: &str, to: &str) -> Flow {
    Flow::Between { from: from.to_owned(), to: to.to_owned() }
}
