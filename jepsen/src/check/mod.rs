//! Check: judges a run from its files alone.
//!
//! It knows nothing of the product but the promise: no wire, no client, no clock but the run's. Every checker works per
//! key in `O(n log n)`; seqs are the order, so that no search is needed, but for registers.
//! # Reading order
//! [`check_run`] → [`rule`] → [`verdict`].

mod clocks;
mod denied;
mod inbox;
mod lease;
mod log;
mod order;
mod register;
pub mod rule;
pub mod selftest;
mod seq;
mod tape;
mod vacuity;
pub mod verdict;

use std::path::Path;

use anyhow::Context;
use clocks::BentClocks;
use inbox::{InboxEnd, Records};
use log::LogEnd;
pub use rule::Rule;
use tape::{Model, Tape, Track};
pub use verdict::{
    EXIT_BROKEN, EXIT_INVALID, EXIT_OK, EXIT_VIOLATION, Evidence, FaultCounts, Findings, OpCounts, Outcome, SeenCounts,
    VERDICT_FILE, Verdict, Violation,
};

use crate::history::HISTORY_FILE;

/// What the checkers are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckOptions {
    /// fewer acked operations than this prove nothing
    pub acked_min: u64,
    /// violations of each rule that are kept with their evidence
    pub examples_max: u64,
    /// configurations that the search over one register may visit
    pub register_configurations_max: u64,
    /// must every user and conversation have been read after the faults were healed?
    pub finals_wanted: bool,
    /// do bodies say `<sender>|<conversation>|<id>`?
    pub bodies_embedded: bool,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            acked_min: 1,
            examples_max: 20,
            register_configurations_max: 2_000_000,
            finals_wanted: true,
            bodies_embedded: true,
        }
    }
}

/// Judges a run's folder: its history, and of the other files those that are there.
///
/// # Errors
/// A file that cannot be read or holds a line that is no record: then nothing was judged.
pub fn check_run(folder: &Path, options: &CheckOptions) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::default();
    let mut findings = Findings::new(options.examples_max);
    let mut tape = Tape::read(&folder.join(HISTORY_FILE), &mut verdict).context("read the history")?;
    tape.clocks = BentClocks::read(folder).context("read the faults")?;
    let mut records = Records::read(folder, options, &mut findings).context("read what devices were given")?;
    records.learn_acks(&tape);
    vacuity::count_faults(folder, &mut verdict).context("read the faults")?;
    judge(&tape, Some(&records), options, findings, &mut verdict);
    Ok(verdict)
}

/// Judges a bare history, ours or somebody else's.
///
/// # Errors
/// As for [`check_run`].
pub fn check_history(path: &Path, options: &CheckOptions) -> anyhow::Result<Verdict> {
    let mut verdict = Verdict::default();
    let tape = Tape::read(path, &mut verdict).context("read the history")?;
    judge(&tape, None, options, Findings::new(options.examples_max), &mut verdict);
    Ok(verdict)
}

/// Everything behind the reading of files.
pub(crate) fn judge(
    tape: &Tape,
    records: Option<&Records>,
    options: &CheckOptions,
    mut findings: Findings,
    verdict: &mut Verdict,
) {
    let end = records.map(|records| {
        verdict.seen = records.counts;
        verdict.keys.insert("inbox".to_owned(), records.inboxes.len() as u64);
        inbox::check(records, &mut findings)
    });
    let mut unknown_registers = Vec::new();
    for track in &tape.tracks {
        let model = track.model();
        *verdict.keys.entry(model.word().to_owned()).or_default() += 1;
        match model {
            // With what the inboxes say of them, below.
            Model::Log => {}
            Model::Seq => verdict.excused += seq::check(track, &tape.clocks, &mut findings),
            Model::Lease => lease::check(track, &mut findings),
            Model::Register => {
                let search = register::check(track, options.register_configurations_max, &mut findings);
                if search == register::Search::Unknown {
                    unknown_registers.push(track.key.clone());
                }
            }
        }
    }
    let logs = judge_logs(tape, records, end.as_ref(), &mut findings);
    vacuity::check(verdict, &logs, end.as_ref(), &unknown_registers, options);
    findings.finish(verdict);
    verdict.settle();
}

/// All conversations, those too that are only seen in inboxes.
fn judge_logs(
    tape: &Tape,
    records: Option<&Records>,
    end: Option<&InboxEnd>,
    findings: &mut Findings,
) -> Vec<(String, LogEnd)> {
    let mut witnesses = match (records, end) {
        (Some(records), Some(end)) => inbox::witnesses(records, end),
        _ => Default::default(),
    };
    let unasked = witnesses.keys().filter(|key| tape.track(key).is_none());
    let mut unasked: Vec<Track> = unasked.map(|key| Track { key: (*key).to_owned(), ops: Vec::new() }).collect();
    unasked.sort_by(|one, other| one.key.cmp(&other.key));
    let tracks = tape.tracks.iter().filter(|track| track.model() == Model::Log).chain(&unasked);
    let mut logs = Vec::new();
    for track in tracks {
        let (others, unsent) = witnesses.remove(track.key.as_str()).unwrap_or_default();
        logs.push((track.key.clone(), log::check(track, others, &unsent, findings)));
    }
    logs
}
