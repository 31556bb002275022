//! Hurt: what a scenario does to the cluster while clients work, step by step, each written down as a fault.
//!
//! Steps wait for what they need (so many operations answered, slots taken, a log purged), each for [`PATIENCE`] at most;
//! only how long a fault itself lasts is a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;
use seriatim_proto::chaos::Point;
use seriatim_proto::limits;

use super::scenario::Hurt;
use super::{sighting, wal};
use crate::cluster::{Cluster, Flow, LogBounds, Role};
use crate::history::{Act, Effect, Fault, HistoryWriter};
use crate::workload::{Clock, Workload};

/// So much work lies between two steps: what clients do in so many seconds while nothing holds them up.
const WORK_S: u64 = 2;
/// Leaders that are killed at most until a certain store leads.
const LEADERS_KILLED_MAX: u32 = 6;
/// How a store counts the snapshots that it installed.
const SNAPSHOTS: &str = "seriatim_store_snapshots_installed_total";
/// While a follower sleeps: shorter than the leader needs to forget it.
const LAG: Duration = Duration::from_millis(1_500);
/// What a logic node counts when it learns that it is no holder any more.
const SLOTS_LOST: [&str; 2] = ["seriatim_logic_leases_lost_total", "seriatim_logic_holders_ended_total"];
/// The group of a scenario with one of them that has the messages; group 0 is the cluster's own.
const DATA: u32 = 1;
/// Longest wait for one condition; a machine that does other things too may need it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for holders that fall asleep by chance.
const ASLEEP_PATIENCE: Duration = Duration::from_secs(90);

/// Longest time in which a store that starts finds out what is wrong with its logs.
const REPLAY: Duration = Duration::from_secs(3);

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(200);

/// Hurts one cluster.
pub(crate) struct Hand<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) clock: Clock,
    pub(crate) faults: &'a HistoryWriter,
    pub(crate) workload: &'a Workload,
    pub(crate) rate: u32,
    pub(crate) numbers: AtomicU64,
    /// nodes whose files were changed behind their backs: that they say so is no finding
    pub(crate) damaged: Mutex<Vec<String>>,
}

impl Hand<'_> {
    /// Does all of it; clients work on for a while behind it.
    pub(crate) async fn hurt(&self, hurt: Hurt) -> anyhow::Result<()> {
        // Holders that may sleep only so often do it from the start.
        if !matches!(hurt, Hurt::HoldersAsleep { .. }) {
            self.worked(WORK_S).await?;
        }
        match hurt {
            Hurt::Nothing { work_s } => self.worked(work_s).await?,
            Hurt::HoldersAsleep { times } => self.holders_asleep(times).await?,
            Hurt::RestartHolders => self.restart_holders().await?,
            Hurt::LonelyHolder { times } => self.repeat(times, async || self.lonely().await).await?,
            Hurt::KillAllLeadersLast { times } => self.repeat(times, async || self.kill_all().await).await?,
            Hurt::KillAllPurged { times } => self.repeat(times, async || self.kill_purged().await).await?,
            Hurt::PowerCutAll { times } => self.repeat(times, async || self.cut_all().await).await?,
            Hurt::LaggingFollower { times } => self.repeat(times, async || self.lag().await).await?,
            Hurt::LeadFromSnapshot { times } => self.repeat(times, async || self.lead_from_snapshot().await).await?,
            Hurt::CutLog => self.cut_log().await?,
        }
        self.worked(WORK_S).await
    }

    async fn repeat(&self, times: u32, round: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<()> {
        for _ in 0..times {
            round().await?;
            self.cluster.wait_until_serving(PATIENCE).await?;
            self.worked(WORK_S).await?;
        }
        Ok(())
    }

    /// Waits until clients have done what they do in so many seconds while nothing holds them up.
    async fn worked(&self, work_s: u64) -> anyhow::Result<()> {
        let [before, ..] = self.workload.counts();
        let wanted = work_s * u64::from(self.rate);
        let enough = async || self.workload.counts()[0] >= before + wanted;
        wait_until(&format!("{wanted} operations are answered"), enough).await
    }

    async fn restart_holders(&self) -> anyhow::Result<()> {
        for name in self.cluster.names(Role::Logic) {
            self.noted("kill-logic", std::slice::from_ref(&name), self.cluster.kill(&name)).await?;
            self.cluster.start_node(&name).await?;
            self.worked(WORK_S).await?;
        }
        Ok(())
    }

    /// Logic nodes fall asleep by themselves: waits until so many times one woke up and had lost slots.
    async fn holders_asleep(&self, times: u32) -> anyhow::Result<()> {
        let names = self.cluster.names(Role::Logic);
        let mut lost = BTreeMap::new();
        for name in &names {
            lost.insert(name.clone(), self.slots_lost(name).await.unwrap_or_default());
        }
        let mut seen = 0;
        let enough = async || {
            for name in &names {
                // One that sleeps has nothing to say.
                let Ok(now) = self.slots_lost(name).await else { continue };
                let before = lost.insert(name.clone(), now).unwrap_or_default();
                seen += u32::from(now > before);
            }
            seen >= times
        };
        wait_longer(ASLEEP_PATIENCE, &format!("holders lost slots in their sleep {times} times"), enough).await
    }

    async fn slots_lost(&self, name: &str) -> anyhow::Result<f64> {
        let metrics = self.cluster.metrics(name).await?;
        Ok(SLOTS_LOST.iter().filter_map(|sign| metrics.get(*sign)).sum())
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
        let cutting = async {
            let cut = self.cluster.cut(&flows, 100).await?;
            // Then the old holder goes on for a while beside the new ones, and gives out numbers if it can.
            let taken = match self.taken_by(&peers).await {
                Ok(()) => self.worked(WORK_S).await,
                untaken => untaken,
            };
            let dropped = self.cluster.mend(cut).await?;
            anyhow::ensure!(dropped > 0, "no packet met the cut");
            taken
        };
        self.noted("cut-logic", std::slice::from_ref(&holder), cutting).await
    }

    /// Waits until these hold every slot.
    async fn taken_by(&self, holders: &[String]) -> anyhow::Result<()> {
        let all = async || {
            let held = self.cluster.slot_holders().await;
            holders.iter().filter_map(|name| held.get(name)).sum::<u32>() == u32::from(limits::SLOTS)
        };
        wait_until(&format!("{} hold every slot", holders.join(" and ")), all).await
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
        self.worked(WORK_S).await?;
        self.start(&last).await
    }

    /// All at once, when each has purged its log once more since its start.
    async fn kill_purged(&self) -> anyhow::Result<()> {
        let stores = self.cluster.names(Role::Store);
        let purged = async || {
            for store in &stores {
                if self.passed(store, Point::LogPurge).await == 0.0 {
                    return false;
                }
            }
            true
        };
        wait_until("every store has purged its log", purged).await?;
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
        self.worked(WORK_S).await?;
        self.cluster.start_node(&leader).await
    }

    async fn lead_from_snapshot(&self) -> anyhow::Result<()> {
        let leader = self.leading().await?.remove(0);
        let follower = self.cluster.names(Role::Store).into_iter().find(|name| *name != leader);
        let follower = follower.context("there is one store only")?;
        let logs = self.cluster.logs().await;
        self.noted("kill-store", std::slice::from_ref(&follower), self.cluster.kill(&follower)).await?;
        self.left_behind(&leader, &follower, &logs).await?;
        self.cluster.start_node(&follower).await?;
        // It was started anew, and counts from 0.
        let installed =
            async || self.cluster.metrics(&follower).await.is_ok_and(|metrics| metrics.get(SNAPSHOTS) > Some(&0.0));
        wait_until(&format!("{follower} has installed a snapshot"), installed).await?;
        self.worked(WORK_S).await?;
        for _ in 0..LEADERS_KILLED_MAX {
            let leader = self.leading().await?.remove(0);
            if leader == follower {
                return self.worked(WORK_S).await;
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

    /// Waits until a follower that is away lacks entries of the data's group that the leader has purged.
    async fn left_behind(
        &self,
        leader: &str,
        follower: &str,
        logs: &BTreeMap<(u32, String), LogBounds>,
    ) -> anyhow::Result<()> {
        let has = logs.get(&(DATA, follower.to_owned())).with_context(|| format!("find the log of {follower}"))?.last;
        let purged = async || {
            let logs = self.cluster.logs().await;
            logs.get(&(DATA, leader.to_owned())).is_some_and(|bounds| bounds.purged > has)
        };
        wait_until(&format!("{leader} has purged more than the {has} entries of {follower}"), purged).await
    }

    /// How often a node came by a point since its start; 0 if it does not say so.
    async fn passed(&self, name: &str, point: Point) -> f64 {
        let sample = format!("chaos_hits_total{{point=\"{}\"}}", point.name());
        let metrics = self.cluster.metrics(name).await.unwrap_or_default();
        metrics.iter().find(|(name, _)| name.ends_with(&sample)).map_or(0.0, |(_, count)| *count)
    }

    async fn cut_log(&self) -> anyhow::Result<()> {
        let leader = self.leading().await?.remove(0);
        let mut others = self.cluster.names(Role::Store);
        others.retain(|name| *name != leader);
        let [lags, cut] = <[String; 2]>::try_from(others).ok().context("it needs three stores")?;
        // Not only asleep: what it was sent would wait for it in its sockets.
        self.noted("kill-store", std::slice::from_ref(&lags), self.cluster.kill(&lags)).await?;
        // What is written now is on the leader and on the one whose log is cut.
        self.worked(WORK_S).await?;
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
        self.worked(WORK_S).await?;
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
        let led = async || {
            let leaders = self.cluster.leaders().await;
            leaders.values().filter(|store| stores.contains(store)).count() >= groups
        };
        wait_until(&format!("{} lead every group", stores.join(" and ")), led).await
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

/// Waits for what a scenario needs.
async fn wait_until(what: &str, holds: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    wait_longer(PATIENCE, what, holds).await
}

async fn wait_longer(patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let held = async {
        while !holds().await {
            tokio::time::sleep(POLL).await;
        }
    };
    tokio::time::timeout(patience, held).await.with_context(|| format!("wait until {what}: not in {patience:?}"))
}

fn most(counts: BTreeMap<String, u32>) -> Option<String> {
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(name, _)| name)
}

fn between(from: &str, to: &str) -> Flow {
    Flow::Between { from: from.to_owned(), to: to.to_owned() }
}
