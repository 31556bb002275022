//! Hurt: what a scenario does to the cluster while clients work, step by step, each written down as a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;

use super::scenario::Hurt;
use super::{sighting, wal};
use crate::cluster::{Cluster, Flow, Role};
use crate::history::{Act, Effect, Fault, HistoryWriter};
use crate::workload::Clock;

/// How long clients work before anything is done, and between two rounds.
const WORK: Duration = Duration::from_secs(3);
/// Longer than a lease and the time until its slots are taken.
const PAST_LEASE: Duration = Duration::from_millis(4_500);
/// A store is away for so long that a short log has left it behind.
const PAST_LOG: Duration = Duration::from_secs(4);
/// Leaders that are killed at most until a certain store leads.
const LEADERS_KILLED_MAX: u32 = 6;
/// How a store counts the snapshots that it installed.
const SNAPSHOTS: &str = "seriatim_store_snapshots_installed_total";
/// While a follower sleeps: shorter than the leader needs to forget it.
const LAG: Duration = Duration::from_millis(1_500);
/// Longest wait until the cluster serves again between two rounds.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest time in which a store that starts finds out what is wrong with its logs.
const REPLAY: Duration = Duration::from_secs(3);

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
            Hurt::KillAllLeadersLast { times } => self.repeat(times, async || self.kill_all().await).await?,
            Hurt::KillAll { seconds, times } => self.repeat(times, async || self.kill_at(seconds).await).await?,
            Hurt::PowerCutAll { times } => self.repeat(times, async || self.cut_all().await).await?,
            Hurt::LaggingFollower { times } => self.repeat(times, async || self.lag().await).await?,
            Hurt::LeadFromSnapshot { times } => self.repeat(times, async || self.lead_from_snapshot().await).await?,
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

    async fn kill_at(&self, seconds: u64) -> anyhow::Result<()> {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let stores = self.cluster.names(Role::Store);
        self.noted("kill-all-stores", &stores, self.kill(&stores)).await?;
        self.start(&stores).await
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

    async fn lead_from_snapshot(&self) -> anyhow::Result<()> {
        let leader = self.leading().await?.remove(0);
        let follower = self.cluster.names(Role::Store).into_iter().find(|name| *name != leader);
        let follower = follower.context("there is one store only")?;
        self.noted("kill-store", std::slice::from_ref(&follower), self.cluster.kill(&follower)).await?;
        tokio::time::sleep(PAST_LOG).await;
        self.cluster.start_node(&follower).await?;
        let installed = async {
            // It was started anew, and counts from 0.
            while !self.cluster.metrics(&follower).await.is_ok_and(|metrics| metrics.get(SNAPSHOTS) > Some(&0.0)) {
                tokio::time::sleep(POLL).await;
            }
        };
        let installed = tokio::time::timeout(PATIENCE, installed).await;
        installed.with_context(|| format!("wait until {follower} has installed a snapshot"))?;
        tokio::time::sleep(WORK).await;
        for _ in 0..LEADERS_KILLED_MAX {
            let leader = self.leading().await?.remove(0);
            if leader == follower {
                tokio::time::sleep(WORK).await;
                return Ok(());
            }
            self.noted("kill-leader", std::slice::from_ref(&leader), self.cluster.kill(&leader)).await?;
            let others: Vec<String> =
                self.cluster.names(Role::Store).into_iter().filter(|name| *name != leader).collect();
            let led = self.led_by(&others).await;
            self.cluster.start_node(&leader).await?;
            led?;
        }
        anyhow::bail!("{follower} did not come to lead")
    }

    async fn cut_log(&self) -> anyhow::Result<()> {
        let leader = self.leading().await?.remove(0);
        let mut others = self.cluster.names(Role::Store);
        others.retain(|name| *name != leader);
        let [lags, cut] = <[String; 2]>::try_from(others).ok().context("it needs three stores")?;
        // Not only asleep: what it was sent would wait for it in its sockets.
        self.noted("kill-store", std::slice::from_ref(&lags), self.cluster.kill(&lags)).await?;
        // What is written now is on the leader and on the one whose log is cut.
        tokio::time::sleep(WORK).await;
        let data = self.cluster.data_dir(&cut);
        let harm = async {
            self.cluster.kill(&cut).await?;
            self.cluster.kill(&leader).await?;
            wal::cut(&data)
        };
        self.damaged.lock().push(cut.clone());
        self.noted("damage-truncate", std::slice::from_ref(&cut), harm).await?;
        self.cluster.allow_end(&cut, true)?;
        let sees_it = self.sees_its_damage(&cut).await;
        self.cluster.allow_end(&cut, false)?;
        if sees_it? {
            // As it should. It told nobody anything: with its old files it is what it was.
            wal::mend(&data)?;
            self.cluster.start_node(&cut).await?;
        }
        self.cluster.start_node(&lags).await?;
        self.led_by(&[lags, cut]).await?;
        tokio::time::sleep(WORK).await;
        self.start(std::slice::from_ref(&leader)).await
    }

    /// Starts a store whose files were changed where nobody hears it: does it refuse to start, or one of its replicas?
    async fn sees_its_damage(&self, store: &str) -> anyhow::Result<bool> {
        let mut flows = BTreeSet::new();
        for other in self.cluster.nodes().iter().filter(|node| node.name != store) {
            flows.extend([between(store, &other.name), between(&other.name, store)]);
        }
        let path = self.cluster.log_path(store);
        let read = || std::fs::read(&path).with_context(|| format!("read {}", path.display()));
        let before = read()?.len();
        let hidden = self.cluster.cut(&flows, 100).await?;
        let mut sees_it = self.cluster.start_node(store).await.is_err();
        // Of some of its groups it knows only when it has replayed another's log.
        let deadline = Instant::now() + REPLAY;
        while !sees_it && Instant::now() < deadline {
            let log = read()?;
            let said = String::from_utf8_lossy(log.get(before..).unwrap_or_default()).into_owned();
            sees_it = sighting::alarm(store, &said).is_some();
            tokio::time::sleep(POLL).await;
        }
        if sees_it && self.cluster.is_running(store) {
            self.cluster.kill(store).await?;
        }
        self.cluster.mend(hidden).await?;
        Ok(sees_it)
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
