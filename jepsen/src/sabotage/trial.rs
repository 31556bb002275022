//! Trial: one scenario played once, with its bug or without it, and judged.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::Context;
use parking_lot::Mutex;
use seriatim_proto::chaos::Sabotage;

use super::hurt::Hand;
use super::scenario::Scenario;
use super::{SabotageOptions, Sighting, sighting};
use crate::check::{CheckOptions, Verdict, check_run};
use crate::cluster::{CHAOS_PROGRAM, CHAOS_VARIABLE, Cluster, ClusterConfig, OwnEnd};
use crate::history::{HistoryWriter, NEMESIS_FILE};
use crate::run::verify::verify;
use crate::workload::{Clock, Site, Workload};

/// How long each step of the end may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest time of all that is done to the cluster.
const HURT_PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks at what nodes say.
const LOOK: Duration = Duration::from_millis(500);
/// Fewer acked operations than this prove nothing.
const ACKED_MIN: u64 = 100;

/// What one trial saw before its files were judged.
#[derive(Debug, Default)]
struct Seen {
    findings: Vec<String>,
    proofs: Vec<String>,
    alarms: Vec<String>,
    unproved: Vec<String>,
    /// nodes whose files the scenario changed: they may stay out
    damaged: Vec<String>,
    ends: Vec<OwnEnd>,
    /// why the scenario was not played to its end, if it was not
    unplayed: Option<String>,
    serves: bool,
    /// a node said that its own state is wrong, and the trial ended there
    diagnosed: bool,
}

/// Plays it, and says what was seen.
pub(crate) async fn play(options: &SabotageOptions, scenario: &Scenario, planted: bool) -> Sighting {
    match played(options, scenario, planted).await {
        Ok(sighting) => sighting,
        Err(error) => Sighting::Broken(format!("{error:#}")),
    }
}

async fn played(options: &SabotageOptions, scenario: &Scenario, planted: bool) -> anyhow::Result<Sighting> {
    let word = if planted { "planted" } else { "control" };
    let folder = options.root.join(format!("sabotage-{}-{}-{word}", scenario.sabotage.name(), options.seed));
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let cluster = Cluster::start(config(options, scenario, planted, &folder)).await?;
    let acted = act(&cluster, scenario, options.seed, &folder).await;
    cluster.shutdown().await.context("stop the cluster")?;
    let seen = acted?;
    let check_options = CheckOptions { acked_min: ACKED_MIN, finals_wanted: seen.serves, ..CheckOptions::default() };
    let path = folder.clone();
    let checked = tokio::task::spawn_blocking(move || check_run(&path, &check_options));
    let mut verdict = checked.await.context("the checkers ended")?.context("check the run")?;
    doubt(&mut verdict, &seen);
    let text = serde_json::to_string_pretty(&verdict).context("make JSON of the verdict")?;
    std::fs::write(folder.join("verdict.json"), text).context("write the verdict down")?;
    Ok(Sighting::of(&verdict, &seen.proofs, &seen.alarms, &seen.ends, &seen.findings))
}

fn config(options: &SabotageOptions, scenario: &Scenario, planted: bool, folder: &Path) -> ClusterConfig {
    ClusterConfig {
        stores: 3,
        logic: scenario.logic,
        gateways: scenario.gateways,
        groups: scenario.groups,
        folder: folder.join("cluster"),
        bin: options.bin.clone(),
        program: CHAOS_PROGRAM.to_owned(),
        env: vec![(
            CHAOS_VARIABLE.to_owned(),
            chaos(options.seed, scenario.chaos, planted.then_some(scenario.sabotage)),
        )],
        seed: options.seed,
        disk: scenario.disk,
        ..ClusterConfig::default()
    }
}

/// What the test build is told.
fn chaos(seed: u64, parts: &str, sabotage: Option<Sabotage>) -> String {
    let planted = sabotage.map_or(String::new(), |sabotage| format!(";sabotage={}", sabotage.name()));
    format!("seed={seed};{parts}{planted}")
}

async fn act(cluster: &Cluster, scenario: &Scenario, seed: u64, folder: &Path) -> anyhow::Result<Seen> {
    let mut seen = Seen::default();
    let faults = HistoryWriter::create(&folder.join(NEMESIS_FILE)).context("make the file of faults")?;
    let clock = Clock::start();
    let mut workload = Workload::new(scenario.workload(seed), Site::of(cluster)?, clock, folder)?;
    workload.prepare().await.context("prepare the workload")?;
    workload.begin();
    let (numbers, damaged) = (AtomicU64::new(1), Mutex::default());
    let hand = Hand { cluster, clock, faults: &faults, workload: &workload, rate: scenario.rate, numbers, damaged };
    tokio::select! {
        hurt = tokio::time::timeout(HURT_PATIENCE, hand.hurt(scenario.hurt)) => seen.unplayed = match hurt {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("{error:#}")),
            Err(_) => Some(format!("no end in {HURT_PATIENCE:?}")),
        },
        () = diagnosed(cluster, &hand.damaged) => seen.diagnosed = true,
    }
    seen.damaged = hand.damaged.into_inner();
    faults.sync().context("write the faults down")?;
    workload.stop().await?;
    seen.ends = cluster.ended_by_themselves();
    if !seen.diagnosed {
        read_all(cluster, &workload, seed, &mut seen).await?;
    }
    seen.findings.extend(workload.finish()?);
    seen.alarms = alarms(cluster, &seen.damaged)?;
    for end in cluster.ended_by_themselves() {
        if !seen.ends.contains(&end) {
            seen.ends.push(end);
        }
    }
    Ok(seen)
}

/// Waits until a node says that its own state is wrong: then nothing needs to be read any more.
async fn diagnosed(cluster: &Cluster, damaged: &Mutex<Vec<String>>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let damaged = damaged.lock().clone();
        // A log that cannot be read is an error at the end.
        let alarmed = alarms(cluster, &damaged).is_ok_and(|alarms| !alarms.is_empty());
        if alarmed || cluster.ended_by_themselves().iter().any(|end| sighting::diagnosis(end).is_some()) {
            return;
        }
    }
}

/// What nodes say of rot and of broken invariants; of those with damaged files nothing is asked.
fn alarms(cluster: &Cluster, damaged: &[String]) -> anyhow::Result<Vec<String>> {
    let mut alarms = Vec::new();
    for node in cluster.nodes().iter().filter(|node| !damaged.contains(&node.name)) {
        let path = cluster.log_path(&node.name);
        let log = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        alarms.extend(sighting::alarm(&node.name, &String::from_utf8_lossy(&log)));
    }
    Ok(alarms)
}

/// Brings everybody back, and reads everything once more.
async fn read_all(cluster: &Cluster, workload: &Workload, seed: u64, seen: &mut Seen) -> anyhow::Result<()> {
    for node in cluster.nodes() {
        if cluster.is_paused(&node.name) {
            cluster.resume(&node.name).await?;
        }
        if !cluster.is_running(&node.name)
            && let Err(error) = cluster.start_node(&node.name).await
        {
            tracing::warn!(node = node.name, error = format!("{error:#}"), "does not start again");
        }
    }
    match cluster.wait_until_serving(PATIENCE).await {
        Ok(()) => seen.serves = true,
        Err(error) => seen.findings.push(format!("L1: at the end the cluster does not serve: {error:#}")),
    }
    if seen.serves {
        workload.finale(PATIENCE).await?;
        let verification = verify(cluster, &workload.users(), seed).await;
        seen.proofs = verification.findings;
        seen.unproved = verification.unproved;
    }
    Ok(())
}

/// What makes a clean trial doubtful.
fn doubt(verdict: &mut Verdict, seen: &Seen) {
    if let Some(why) = &seen.unplayed {
        verdict.invalidate(format!("the scenario was not played to its end: {why}"));
    }
    if !seen.unproved.is_empty() && seen.damaged.is_empty() {
        verdict.invalidate(format!("{} inboxes were not verified: {}", seen.unproved.len(), seen.unproved[0]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_is_the_same_without_the_bug() {
        assert_eq!(chaos(7, "limit.keep=9", Some(Sabotage::NoFsync)), "seed=7;limit.keep=9;sabotage=no-fsync");
        assert_eq!(chaos(7, "limit.keep=9", None), "seed=7;limit.keep=9");
    }

    #[test]
    fn a_scenario_that_was_cut_short_is_not_clean() {
        let mut verdict = Verdict::default();
        verdict.settle();
        doubt(&mut verdict, &Seen { unplayed: Some("no leader".to_owned()), ..Seen::default() });
        assert!(
            matches!(Sighting::of(&verdict, &[], &[], &[], &[]), Sighting::Vacuous(why) if why.contains("no leader"))
        );
    }
}
