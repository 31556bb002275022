//! Act: a run while the cluster is up: clients and faults, then healing, then the last reads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::counters::Counters;
use super::reign::Reign;
use super::verify::{self, Compared, Verification};
use super::{Plan, RunOptions};
use crate::cluster::{Cluster, OwnEnd};
use crate::history::{Act, Effect, Fault, HistoryWriter, NEMESIS_FILE};
use crate::nemesis::{Schedule, run_schedule};
use crate::workload::{Clock, Site, Workload};

/// How long each step of the end may take once everything is healed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long replicas may go on moving: they do it one at a time.
const MOVES_PATIENCE: Duration = Duration::from_secs(120);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

/// What is known of a run before its files are judged.
#[derive(Debug, Default)]
pub(crate) struct Acted {
    /// what must not be, and no file shows, each with the rule that it breaks
    pub(crate) findings: Vec<String>,
    pub(crate) verification: Verification,
    /// replicas whose rows were found to be the same as those of the others of their group
    pub(crate) compared: usize,
    /// nodes that ended although nobody ended them
    pub(crate) own_ends: Vec<OwnEnd>,
    /// how long the parts took, s
    pub(crate) phases: Vec<(&'static str, f64)>,
    /// faults whose moment did not allow them, by kind: nothing was tried, so they are no faults of the run
    pub(crate) passed_over: BTreeMap<String, u64>,
    pub(crate) counters: Counters,
}

/// Clients and faults for the time that was asked for, and everything behind it.
pub(crate) async fn act(cluster: &Cluster, options: &RunOptions, plan: &Plan, folder: &Path) -> anyhow::Result<Acted> {
    let mut acted = Acted::default();
    let nemesis_path = folder.join(NEMESIS_FILE);
    let faults =
        HistoryWriter::create(&nemesis_path).with_context(|| format!("failed to make {}", nemesis_path.display()))?;
    let clock = Clock::start();
    let mut workload = Workload::new(plan.workload, Site::of(cluster)?, clock, folder)?;
    let began = Instant::now();
    workload.prepare().await.context("prepare the workload")?;
    acted.phase("prepare", began);

    let began = Instant::now();
    workload.begin();
    let until = began + options.time();
    let heal_at = until - options.settle_time();
    let schedule = Schedule::new(plan.kinds.clone(), options.seed).apart(options.apart);
    let unwritten = Mutex::new(None);
    let passed_over = Mutex::new(PassedOver::default());
    let hurt = run_schedule(cluster, schedule, clock.origin(), heal_at, |fault| {
        if !passed_over.lock().takes(&fault)
            && let Err(error) = faults.write(&fault)
        {
            unwritten.lock().get_or_insert(error);
        }
    });
    let reign =
        options.apart.then(|| Reign::create(folder)).transpose().context("failed to make the file of leaders")?;
    let counters = &acted.counters;
    let watched = async {
        match &reign {
            Some(reign) => reign.watch(cluster, counters, clock).await,
            None => {
                counters.watch(cluster).await;
                Ok(())
            }
        }
    };
    tokio::select! {
        () = async { hurt.await; tokio::time::sleep_until(until.into()).await } => {}
        () = progress(&workload, began) => {}
        watched = watched => watched.context("failed to write down who leads")?,
    }
    reign.map_or(Ok(()), |reign| reign.sync()).context("failed to write down who leads")?;
    unwritten
        .into_inner()
        .map_or(Ok(()), Err)
        .and_then(|()| faults.sync())
        .context("failed to write the faults down")?;
    acted.passed_over = passed_over.into_inner().kinds;
    acted.phase("clients", began);

    let began = Instant::now();
    workload.stop().await?;
    acted.own_ends = cluster.ended_by_themselves();
    revive(cluster).await;
    // A cluster with a rotten replica says that it is not well, so this comes first.
    if let Err(error) = cluster.wait_until_sound(MOVES_PATIENCE).await {
        acted.findings.push(format!("L1: after everything was healed not all rotten replicas are rebuilt: {error:#}"));
    }
    if let Err(error) = cluster.wait_until_serving(PATIENCE).await {
        acted.findings.push(format!("L1: after everything was healed the cluster does not serve: {error:#}"));
    }
    if let Err(error) = cluster.wait_until_nothing_moves(MOVES_PATIENCE).await {
        acted.findings.push(format!("L1: after everything was healed replicas do not come to rest: {error:#}"));
    }
    acted.phase("heal", began);

    let began = Instant::now();
    workload.finale(PATIENCE).await?;
    acted.phase("finale", began);

    let began = Instant::now();
    acted.counters.look(cluster).await;
    if acted.counters.alarms() > 0 {
        acted.findings.push(format!("I12: logic nodes raised {} alarms; see their logs", acted.counters.alarms()));
    }
    let users = workload.users();
    acted.verification = verify::verify(cluster, &users, options.seed).await;
    acted.phase("verify", began);

    let began = Instant::now();
    match verify::compare(cluster).await {
        Compared::Same(replicas) => acted.compared = replicas,
        Compared::Differ(what) => acted.findings.push(format!("I13: raftctl check replicas: {what}")),
        Compared::Unknown(why) => acted.verification.unproved.push(format!("replicas: {why}")),
    }
    acted.phase("compare", began);
    acted.findings.extend(workload.finish()?);
    Ok(acted)
}

/// Faults that were not even tried, because another one was at work on the same nodes, or nobody led at that moment.
/// What a cluster can never be done is left out of the plan from the start.
#[derive(Debug, Default)]
struct PassedOver {
    numbers: BTreeSet<u64>,
    kinds: BTreeMap<String, u64>,
}

impl PassedOver {
    /// Is it one? Then its healing is one too.
    fn takes(&mut self, fault: &Fault) -> bool {
        match fault.act {
            Act::Inject if fault.effect == Effect::Skipped => {
                self.numbers.insert(fault.number);
                *self.kinds.entry(fault.kind.clone()).or_default() += 1;
                true
            }
            Act::Inject => false,
            Act::Heal => self.numbers.remove(&fault.number),
        }
    }
}

/// A node that ended by itself is noted; the last reads need it all the same.
async fn revive(cluster: &Cluster) {
    for node in cluster.nodes() {
        if !cluster.is_running(&node.name)
            && let Err(error) = cluster.start_node(&node.name).await
        {
            tracing::warn!(node = node.name, error = format!("{error:#}"), "does not start again");
        }
    }
}

/// Says how it goes, for ever.
async fn progress(workload: &Workload, began: Instant) {
    let mut before = 0;
    loop {
        tokio::time::sleep(PROGRESS).await;
        let [ok, fail, info] = workload.counts();
        let per_s = (ok - before) as f64 / PROGRESS.as_secs_f64();
        let at = began.elapsed().as_secs();
        eprintln!("{at:>5} s  {ok:>8} ok  {fail:>6} fail  {info:>5} info  {per_s:>7.0} ok/s");
        before = ok;
    }
}

impl Acted {
    fn phase(&mut self, name: &'static str, began: Instant) {
        self.phases.push((name, began.elapsed().as_secs_f64()));
    }

    /// For people.
    pub(crate) fn phases_text(&self) -> String {
        let told: Vec<String> = self.phases.iter().map(|(name, seconds)| format!("{name} {seconds:.1} s")).collect();
        told.join(", ")
    }

    /// For `run.json`.
    pub(crate) fn phases_json(&self) -> Value {
        Value::Object(self.phases.iter().map(|(name, seconds)| ((*name).to_owned(), json!(seconds))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(number: u64, act: Act, effect: Effect) -> Fault {
        let (kind, detail, targets) = ("kill-leader".to_owned(), String::new(), Vec::new());
        Fault { number, kind, act, began: 0, ended: 0, targets, effect, detail }
    }

    #[test]
    fn what_was_not_tried_is_no_fault_and_neither_is_its_healing() {
        let mut passed_over = PassedOver::default();
        assert!(!passed_over.takes(&fault(1, Act::Inject, Effect::Installed)));
        assert!(passed_over.takes(&fault(2, Act::Inject, Effect::Skipped)));
        assert!(passed_over.takes(&fault(2, Act::Heal, Effect::Skipped)));
        assert!(!passed_over.takes(&fault(1, Act::Heal, Effect::Installed)));
        assert!(!passed_over.takes(&fault(3, Act::Inject, Effect::Indeterminate)));
        assert_eq!(passed_over.kinds, BTreeMap::from([("kill-leader".to_owned(), 1)]));
    }
}
