//! Act: a run while the cluster is up: clients and faults, then healing, then the last reads.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::verify::{self, Verification};
use super::{Plan, RunOptions};
use crate::cluster::{Cluster, OwnEnd};
use crate::history::{HistoryWriter, NEMESIS_FILE};
use crate::nemesis::{Schedule, run_schedule};
use crate::workload::{Clock, Site, Workload};

/// How long each step of the end may take once everything is healed.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);

/// What is known of a run before its files are judged.
#[derive(Debug, Default)]
pub(crate) struct Acted {
    /// what must not be, and no file shows, each with the rule that it breaks
    pub(crate) findings: Vec<String>,
    pub(crate) verification: Verification,
    /// nodes that ended although nobody ended them
    pub(crate) own_ends: Vec<OwnEnd>,
    /// how long the parts took, s
    pub(crate) phases: Vec<(&'static str, f64)>,
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
    let schedule = Schedule::new(plan.kinds.clone(), options.seed);
    let hurt = run_schedule(cluster, schedule, clock.origin(), heal_at, |fault| {
        tracing::info!(kind = fault.kind, act = ?fault.act, effect = ?fault.effect, targets = ?fault.targets, "fault");
        if let Err(error) = faults.write(&fault) {
            tracing::error!(%error, "fault not written down");
        }
    });
    tokio::select! {
        () = async { hurt.await; tokio::time::sleep_until(until.into()).await } => {}
        () = progress(&workload, began) => {}
    }
    faults.sync().context("failed to bring the faults to disk")?;
    acted.phase("clients", began);

    let began = Instant::now();
    workload.stop().await?;
    acted.own_ends = cluster.ended_by_themselves();
    revive(cluster).await;
    if let Err(error) = cluster.wait_until_serving(PATIENCE).await {
        acted.findings.push(format!("L1: after everything was healed the cluster does not serve: {error:#}"));
    }
    acted.phase("heal", began);

    let began = Instant::now();
    workload.finale(PATIENCE).await?;
    acted.phase("finale", began);

    let began = Instant::now();
    let users = workload.users();
    acted.verification = verify::verify(cluster, &users, options.seed).await;
    acted.phase("verify", began);
    acted.findings.extend(workload.finish()?);
    Ok(acted)
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

    /// For `run.json`.
    pub(crate) fn phases_json(&self) -> Value {
        Value::Object(self.phases.iter().map(|(name, seconds)| ((*name).to_owned(), json!(seconds))).collect())
    }
}
