//! Run: one run from its options to its verdict.
//!
//! ```text
//!  options ─▶ plan ─▶ folder ─▶ cluster ─▶ act: clients and faults, healing, last reads ─▶ stop ─▶ check ─▶ report
//!  refused here, before anything starts                          Ctrl-C: straight to ─▶ stop
//! ```
//!
//! # Failure
//! Whatever goes wrong, the cluster is stopped and its network removed; a harness that failed is `broken`, which is
//! neither good nor bad news of the product.

mod act;
mod again;
mod counters;
mod folder;
mod machine;
mod options;
mod outcome;
mod reign;
mod stop;
pub(crate) mod verify;

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::{Value, json};

use act::Acted;
use folder::RunFolder;

use crate::check::{self, CheckOptions, Evidence, Findings, Outcome, Rule, Verdict};
use crate::cluster::{Cluster, ClusterConfig, clocks_can_be_bent};
use crate::nemesis::{Catalogue, Kind};
use crate::report;

pub use again::check_again;
pub use options::{Plan, RunOptions};
pub use outcome::RunOutcome;
pub use stop::{Interrupted, interrupted};

/// Where runs are kept and binaries are found.
#[derive(Clone, Debug)]
pub struct Places {
    /// folder of all runs
    pub root: PathBuf,
    /// folder with `seriatim` and `raftctl`
    pub bin: PathBuf,
    /// what stays of a good run besides its report; all of any other run stays
    pub keep: Keep,
}

/// What stays of a good run.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Keep {
    /// what it was, and what came of it
    Verdict,
    /// also what clients saw
    Histories,
    /// also the nodes' data
    Everything,
}

/// Options of an earlier run, to do it again.
pub fn options_of(run: &Path) -> anyhow::Result<RunOptions> {
    RunFolder::options_of(run)
}

/// Runs once. Options that were not refused by [`RunOptions::plan`] end in an outcome, whatever happens.
pub async fn run(options: &RunOptions, plan: &Plan, places: &Places) -> RunOutcome {
    let mut folder = match RunFolder::make(&places.root, options) {
        Ok(folder) => folder,
        Err(error) => return RunOutcome::broken(&error, &places.root),
    };
    match play(options, plan, places, &mut folder).await {
        Ok((verdict, acted)) => {
            let mut outcome = RunOutcome::of(&verdict, folder.path());
            outcome.text.push_str(&format!("  took {}\n  nodes counted: {}\n", acted.phases_text(), acted.counters));
            if verdict.outcome == Outcome::Ok
                && let Err(error) = folder.thin_out(places.keep)
            {
                outcome.text.push_str(&format!("  {error:#}\n"));
            }
            outcome
        }
        Err(error) => {
            folder.note(again::BROKEN, json!(format!("{error:#}")));
            if let Err(unsaved) = folder.save() {
                tracing::error!(error = format!("{unsaved:#}"), "run.json not written");
            }
            RunOutcome::broken(&error, folder.path())
        }
    }
}

/// The verdict, and what it rests on besides the files.
async fn play(
    options: &RunOptions,
    plan: &Plan,
    places: &Places,
    folder: &mut RunFolder,
) -> anyhow::Result<(Verdict, Acted)> {
    let other = options.other.as_deref();
    folder.note("made_with", Value::Object(machine::about(&places.bin, other, plan.build.program()).await));
    let cluster = tokio::select! {
        started = Cluster::start(config(options, plan, places, folder)) => started?,
        interrupted = interrupted() => return Err(interrupted.into()),
    };
    note_cluster(folder, &cluster, plan)?;
    let acted = tokio::select! {
        acted = act::act(&cluster, options, plan, folder.path()) => acted,
        interrupted = interrupted() => Err(interrupted.into()),
    };
    let exits = cluster.shutdown().await.context("stop the cluster");
    let mut acted = acted?;
    let exits = exits?;
    for end in exits.ended_by_themselves {
        if !acted.own_ends.contains(&end) {
            acted.own_ends.push(end);
        }
    }
    folder.note("killed_at_the_end", json!(exits.killed));
    note_acted(folder, &acted);
    folder.save()?;

    let (path, acked_min) = (folder.path().to_owned(), options.acked_min());
    let check_options = CheckOptions { acked_min, ..CheckOptions::default() };
    let checked = tokio::task::spawn_blocking(move || check::check_run(&path, &check_options));
    let mut verdict = checked.await.context("the checkers ended")?.context("check the run")?;
    judge(&acted, !plan.kinds.is_empty(), &mut verdict);
    folder.note("verdict", json!(verdict.outcome.word()));
    folder.save()?;
    folder.keep_verdict(&verdict)?;
    report::write_report(folder.path(), &verdict).context("write the report")?;
    Ok((verdict, acted))
}

fn config(options: &RunOptions, plan: &Plan, places: &Places, folder: &RunFolder) -> ClusterConfig {
    ClusterConfig {
        stores: options.stores,
        founders: options.founders,
        logic: options.logic,
        gateways: options.gateways,
        groups: options.groups,
        folder: folder.cluster(),
        bin: places.bin.clone(),
        program: plan.build.program().to_owned(),
        other: options.other.clone(),
        env: plan.build.env(options.seed),
        network: plan.network,
        links: plan.links,
        seed: options.seed,
        disk: plan.disk,
        // Costs a library under every process: only where a fault wants it.
        bendable_clocks: clocks_can_be_bent() && plan.kinds.iter().any(|kind| kind.family == "clock"),
        ..ClusterConfig::default()
    }
}

fn note_cluster(folder: &mut RunFolder, cluster: &Cluster, plan: &Plan) -> anyhow::Result<()> {
    let nodes = cluster.nodes().iter().map(|node| (node.name.clone(), json!(node.address.to_string())));
    folder.note("nodes", Value::Object(nodes.collect()));
    folder.note("network", json!(cluster.network().to_string()));
    let (possible, impossible) = Catalogue::possible(&plan.kinds, cluster);
    folder.note(again::FAULTS, json!(possible.iter().map(|kind| kind.name).collect::<Vec<_>>()));
    let unmet = |kind: &&'static Kind| (kind.name, "no client of this workload is a device at a gateway".to_owned());
    let left_out: Vec<_> = plan.left_out.iter().map(unmet).chain(impossible).collect();
    for (kind, why) in &left_out {
        eprintln!("left out: {kind}: {why}");
    }
    let left_out = left_out.iter().map(|(kind, why)| (kind.to_string(), json!(why.to_string())));
    folder.note("left_out", Value::Object(left_out.collect()));
    folder.save()
}

fn note_acted(folder: &mut RunFolder, acted: &Acted) {
    folder.note(again::ENDED, json!(acted.own_ends));
    folder.note(again::VERIFY, json!(acted.verification));
    folder.note(again::FINDINGS, json!(acted.findings));
    folder.note("counters", acted.counters.to_json());
    folder.note("passed_over", json!(acted.passed_over));
    folder.note("phases_s", acted.phases_json());
}

/// What the files do not show weighs as much as what they show.
fn judge(acted: &Acted, hurt: bool, verdict: &mut Verdict) {
    let mut findings = Findings::new(CheckOptions::default().examples_max);
    for finding in &acted.findings {
        findings.add(rule_of(finding), "the harness", 0, || (finding.clone(), evidence(finding)));
    }
    for finding in &acted.verification.findings {
        let (user, text) = finding.split_once(": ").unwrap_or(("", finding));
        findings.add(Rule::I5, user, 0, || (format!("raftctl user verify: {text}"), evidence(finding)));
    }
    findings.finish(verdict);
    verdict.settle();
    for end in acted.own_ends.iter().filter(|end| !end.allowed) {
        verdict.invalidate(format!("{} ended although nobody ended it ({})", end.node, end.status));
    }
    for user in &acted.verification.unproved {
        verdict.invalidate(format!("an inbox was not verified: {user}"));
    }
    if hurt && verdict.fault_kinds_effective() == 0 {
        verdict.invalidate("no fault took effect".to_owned());
    }
    let damages = damages(verdict);
    if damages >= DAMAGES_UNSEEN_MAX && acted.counters.rot_found() == 0 {
        verdict.invalidate(format!("files were damaged {damages} times, and no store found anything rotten"));
    }
}

/// Damage that took effect so often is found: some of it may have hit what nobody reads any more.
const DAMAGES_UNSEEN_MAX: u64 = 3;

fn damages(verdict: &Verdict) -> u64 {
    let is_damage = |name: &str| Catalogue::kinds().any(|kind| kind.family == "damage" && kind.name == name);
    verdict.faults.iter().filter(|(name, _)| is_damage(name)).map(|(_, counts)| counts.installed).sum()
}

/// The rule that a finding names. Liveness (L1: it serves, L2: every door acks, L5: nobody stays behind) has no rule of
/// its own: that everybody gets everything is I12.
fn rule_of(finding: &str) -> Rule {
    let name = finding.split(':').next().unwrap_or_default();
    Rule::ALL.into_iter().find(|rule| rule.to_string() == name).unwrap_or(Rule::I12)
}

fn evidence(finding: &str) -> Vec<Evidence> {
    vec![Evidence::new(crate::history::RUN_FILE, 1, &finding)]
}

#[cfg(test)]
mod tests {
    use super::verify::Verification;
    use super::*;
    use crate::check::FaultCounts;
    use crate::cluster::OwnEnd;

    #[test]
    fn a_node_that_died_by_itself_spoils_a_good_run() {
        let end = OwnEnd { node: "store-2".to_owned(), status: "signal: 6".to_owned(), ..own_end() };
        let mut verdict = Verdict::default();
        judge(&Acted { own_ends: vec![end.clone()], ..Acted::default() }, false, &mut verdict);
        assert_eq!(verdict.outcome, Outcome::Invalid);
        assert!(verdict.vacuous[0].contains("store-2"));
        let mut verdict = Verdict::default();
        judge(&Acted { own_ends: vec![OwnEnd { allowed: true, ..end }], ..Acted::default() }, false, &mut verdict);
        assert_eq!(verdict.outcome, Outcome::Ok);
    }

    #[test]
    fn damage_that_no_store_found_proves_nothing() {
        let kind = Catalogue::kinds().find(|kind| kind.family == "damage").unwrap();
        let judged = |installed| {
            let counts = FaultCounts { installed, ..FaultCounts::default() };
            let mut verdict = Verdict { faults: [(kind.name.to_owned(), counts)].into(), ..Verdict::default() };
            judge(&Acted::default(), true, &mut verdict);
            verdict.outcome
        };
        assert_eq!(judged(DAMAGES_UNSEEN_MAX - 1), Outcome::Ok);
        assert_eq!(judged(DAMAGES_UNSEEN_MAX), Outcome::Invalid);
    }

    #[test]
    fn a_finding_of_verify_is_a_violation_and_an_unread_replica_none() {
        let found = Verification { findings: vec!["u001: a hole".to_owned()], ..Verification::default() };
        let mut verdict = Verdict::default();
        judge(&Acted { verification: found, ..Acted::default() }, false, &mut verdict);
        assert_eq!((verdict.outcome, verdict.violation_count), (Outcome::Violation, 1));
        assert_eq!(verdict.violations[0].key, "u001");
        let unread = Verification { unproved: vec!["u001: unread".to_owned()], ..Verification::default() };
        let mut verdict = Verdict::default();
        judge(&Acted { verification: unread, ..Acted::default() }, false, &mut verdict);
        assert_eq!(verdict.outcome, Outcome::Invalid);
    }

    #[test]
    fn a_finding_counts_under_the_rule_that_it_names() {
        assert_eq!(rule_of("A1: shown to a stranger"), Rule::A1);
        assert_eq!(rule_of("I11: a cursor fell"), Rule::I11);
        assert_eq!(rule_of("L2: no ack"), Rule::I12);
    }

    fn own_end() -> OwnEnd {
        OwnEnd { node: String::new(), status: String::new(), log: String::new(), allowed: false }
    }
}
