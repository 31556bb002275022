//! Outcome: what is said of a run in the end: a line of JSON for programs, a paragraph for people, an exit code.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::check::{Outcome, Verdict};

/// Violations and reasons that are told to people; the report has all.
const TOLD_MAX: usize = 10;

/// What came of a run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct RunOutcome {
    /// the word
    pub verdict: Outcome,
    /// operations that changed something and were acked
    pub acked: u64,
    /// operations of unknown outcome
    pub unknown: u64,
    /// broken rules
    pub violations: u64,
    /// kinds of fault that were seen to take effect
    pub fault_kinds_effective: u64,
    /// writes under a fence that was over, and refused
    pub fenced_writes: u64,
    /// its folder
    pub run: PathBuf,
    /// for people
    #[serde(skip)]
    pub text: String,
}

impl RunOutcome {
    /// What a verdict comes to.
    pub fn of(verdict: &Verdict, run: &Path) -> RunOutcome {
        RunOutcome {
            verdict: verdict.outcome,
            acked: verdict.acked,
            unknown: verdict.unknown,
            violations: verdict.violation_count,
            fault_kinds_effective: verdict.fault_kinds_effective(),
            fenced_writes: verdict.fenced_writes,
            run: run.to_owned(),
            text: tell(verdict),
        }
    }

    /// The harness itself failed: nothing was judged.
    pub fn broken(error: &anyhow::Error, run: &Path) -> RunOutcome {
        RunOutcome {
            verdict: Outcome::Broken,
            acked: 0,
            unknown: 0,
            violations: 0,
            fault_kinds_effective: 0,
            fenced_writes: 0,
            run: run.to_owned(),
            text: format!("broken: {error:#}\n"),
        }
    }

    /// One object on one line.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("words, numbers and a path are JSON")
    }
}

/// A paragraph.
fn tell(verdict: &Verdict) -> String {
    let mut text = String::new();
    let mut line = |said: String| {
        text.push_str(&said);
        text.push('\n');
    };
    line(format!(
        "{}: {} acked, {} unknown, {} violations, {} kinds of fault took effect",
        verdict.outcome.word(),
        verdict.acked,
        verdict.unknown,
        verdict.violation_count,
        verdict.fault_kinds_effective()
    ));
    for (function, counts) in &verdict.ops {
        line(format!("  {function:<8} {:>8} ok {:>6} fail {:>6} info", counts.ok, counts.fail, counts.info));
    }
    let seen = &verdict.seen;
    line(format!(
        "  devices: {} pages, {} pushed entries, {} cursors; {} intrusions judged; {} last pages, {} last conversations",
        seen.pages, seen.pushes, seen.cursors, seen.denied, seen.final_pages, seen.conversation_reads
    ));
    if verdict.excused > 0 {
        line(format!("  {} numbers out of order while a clock was beyond the drift margin", verdict.excused));
    }
    if verdict.fenced_writes > 0 {
        line(format!("  {} writes under a fence that was over were refused", verdict.fenced_writes));
    }
    for (kind, counts) in &verdict.faults {
        let (skipped, indeterminate) = (counts.skipped, counts.indeterminate);
        line(format!("  fault {kind}: {} times, {skipped} skipped, {indeterminate} indeterminate", counts.installed));
    }
    for reason in verdict.vacuous.iter().take(TOLD_MAX) {
        line(format!("  proves too little: {reason}"));
    }
    for violation in verdict.violations.iter().take(TOLD_MAX) {
        line(format!(
            "  VIOLATION {} ({}) of {}: {}",
            violation.rule, violation.invariant, violation.key, violation.text
        ));
    }
    let untold = verdict.violation_count.saturating_sub(TOLD_MAX as u64);
    if untold > 0 {
        line(format!("  and {untold} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_one_object_of_the_promised_names() {
        let mut verdict = Verdict { acked: 7, unknown: 1, ..Verdict::default() };
        verdict.invalidate("too little".to_owned());
        let line = RunOutcome::of(&verdict, Path::new("/tmp/run")).json();
        let expected = r#"{"verdict":"invalid","acked":7,"unknown":1,"violations":0,"fault_kinds_effective":0,"fenced_writes":0,"run":"/tmp/run"}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn a_broken_harness_says_why() {
        let error = anyhow::anyhow!("no disk").context("failed to start");
        let outcome = RunOutcome::broken(&error, Path::new("/tmp/run"));
        assert_eq!(outcome.verdict, Outcome::Broken);
        assert!(outcome.text.contains("failed to start: no disk"));
    }
}
