//! Verdict: what the checkers say of a run, as data; the report and the command line print it.
//!
//! Bounded: all violations are counted, the first few of each rule are kept with their evidence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rule::Rule;
use crate::history::{Ended, Op};

/// What the checkers say of a run, in its folder.
pub const VERDICT_FILE: &str = "verdict.json";

/// Exit code of a run without a violation.
pub const EXIT_OK: u8 = 0;
/// Exit code of a run that proves nothing.
pub const EXIT_INVALID: u8 = 11;
/// Exit code of a run that found a violation.
pub const EXIT_VIOLATION: u8 = 12;
/// Exit code of a harness that broke: nothing was judged.
pub const EXIT_BROKEN: u8 = 70;

/// Characters of a record that are kept as evidence.
const EVIDENCE_CHARS_MAX: usize = 1_500;

/// The word for a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// enough was done, and nothing was wrong
    #[default]
    Ok,
    /// a rule is broken
    Violation,
    /// nothing was wrong, but too little was tried to say anything
    Invalid,
    /// the harness itself failed
    Broken,
}

impl Outcome {
    /// As in the JSON of a run.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Violation => "violation",
            Self::Invalid => "invalid",
            Self::Broken => "broken",
        }
    }
    /// The exit code of a command that ends with it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Ok => EXIT_OK,
            Self::Violation => EXIT_VIOLATION,
            Self::Invalid => EXIT_INVALID,
            Self::Broken => EXIT_BROKEN,
        }
    }
}

/// How operations of a kind ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OpCounts {
    /// took effect
    pub ok: u64,
    /// surely had none
    pub fail: u64,
    /// nobody knows
    pub info: u64,
}

/// How often a kind of fault was injected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FaultCounts {
    /// seen to take effect
    pub installed: u64,
    /// not done
    pub skipped: u64,
    /// unknown
    pub indeterminate: u64,
}

/// What devices were given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SeenCounts {
    /// pages of sync
    pub pages: u64,
    /// pages of the final sync
    pub final_pages: u64,
    /// pushed entries
    pub pushes: u64,
    /// cursors acknowledged or read
    pub cursors: u64,
    /// attempts that had to be refused
    pub denied: u64,
    /// entries in pages and pushes
    pub entries: u64,
    /// conversations as members read them at the end
    pub conversation_reads: u64,
}

/// A record that a violation rests on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Evidence {
    /// which file of the run
    pub file: String,
    /// line, from 1
    pub line: u64,
    /// the record as JSON, cut if long
    pub record: String,
}

impl Evidence {
    /// A record of a file.
    pub fn new(file: &str, line: u64, record: &impl Serialize) -> Self {
        let mut text = serde_json::to_string(record).expect("records serialise: they have no maps and no floats");
        if let Some((cut, _)) = text.char_indices().nth(EVIDENCE_CHARS_MAX) {
            text.truncate(cut);
            text.push('…');
        }
        Self { file: file.to_owned(), line, record: text }
    }
}

/// A broken rule, with the smallest counterexample that the checker found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Violation {
    /// which rule
    pub rule: Rule,
    /// the invariant that it serves
    pub invariant: String,
    /// conversation, counter, register, scope or user
    pub key: String,
    /// for people
    pub text: String,
    /// around when, ns since the run began
    pub at: u64,
    /// what it rests on
    pub evidence: Vec<Evidence>,
}

/// What the checkers say of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// the word
    pub outcome: Outcome,
    /// operations that changed something and were acked
    pub acked: u64,
    /// operations of unknown outcome
    pub unknown: u64,
    /// writes under a fence that was over, all refused unless a rule says otherwise
    #[serde(default)]
    pub fenced_writes: u64,
    /// numbers out of order while a clock was further off than leases allow for: no violations
    #[serde(default)]
    pub excused: u64,
    /// operations by function
    pub ops: BTreeMap<String, OpCounts>,
    /// what devices were given
    pub seen: SeenCounts,
    /// faults by kind
    pub faults: BTreeMap<String, FaultCounts>,
    /// keys of each model: `log`, `seq`, `register`, `lease`, `inbox`
    pub keys: BTreeMap<String, u64>,
    /// how many violations there are
    pub violation_count: u64,
    /// and of each rule
    pub violations_by_rule: BTreeMap<Rule, u64>,
    /// the first of each rule
    pub violations: Vec<Violation>,
    /// why the run proves too little
    pub vacuous: Vec<String>,
}

impl Verdict {
    /// Kinds of fault that were seen to take effect.
    pub fn fault_kinds_effective(&self) -> u64 {
        self.faults.values().filter(|counts| counts.installed > 0).count() as u64
    }

    /// A finding of somebody else: a process that died by itself, a failed `raftctl user verify`.
    pub fn invalidate(&mut self, reason: String) {
        self.vacuous.push(reason);
        self.settle();
    }

    /// Counts an operation.
    pub fn count(&mut self, op: &Op) {
        let counts = self.ops.entry(op.f.word().to_owned()).or_default();
        match op.ended {
            Ended::Ok => counts.ok += 1,
            Ended::Fail => counts.fail += 1,
            Ended::Info => counts.info += 1,
        }
        let is_refused = op.reject == Some(true);
        self.unknown += u64::from(op.ended == Ended::Info);
        self.acked += u64::from(op.ended == Ended::Ok && op.f.changes() && !is_refused);
        self.fenced_writes += u64::from(is_refused);
    }

    /// Finds the word, once all is counted. A violation weighs more than a reason to doubt.
    pub fn settle(&mut self) {
        self.outcome = match (self.violation_count, self.vacuous.is_empty()) {
            (0, true) => Outcome::Ok,
            (0, false) => Outcome::Invalid,
            _ => Outcome::Violation,
        };
    }
}

/// Collects violations: counts all, keeps the first of each rule.
#[derive(Debug)]
pub struct Findings {
    examples_max: u64,
    by_rule: BTreeMap<Rule, u64>,
    kept: Vec<Violation>,
}

impl Findings {
    /// Keeps at most so many of each rule.
    pub fn new(examples_max: u64) -> Self {
        Self { examples_max, by_rule: BTreeMap::new(), kept: Vec::new() }
    }

    /// Notes a violation; text and evidence are made only if they are kept.
    pub fn add(&mut self, rule: Rule, key: &str, at: u64, tell: impl FnOnce() -> (String, Vec<Evidence>)) {
        let count = self.by_rule.entry(rule).or_default();
        *count += 1;
        if *count <= self.examples_max {
            let (text, evidence) = tell();
            let (invariant, key) = (rule.invariant().to_owned(), key.to_owned());
            self.kept.push(Violation { rule, invariant, key, text, at, evidence });
        }
    }

    /// Is there any?
    pub fn is_empty(&self) -> bool {
        self.by_rule.is_empty()
    }

    /// Hands them to the verdict.
    pub fn finish(self, verdict: &mut Verdict) {
        for (rule, count) in self.by_rule {
            *verdict.violations_by_rule.entry(rule).or_default() += count;
            verdict.violation_count += count;
        }
        verdict.violations.extend(self.kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_weighs_more_than_a_reason_to_doubt() {
        let mut verdict = Verdict::default();
        verdict.settle();
        assert_eq!(verdict.outcome, Outcome::Ok);
        verdict.invalidate("no acks".to_owned());
        assert_eq!(verdict.outcome.exit_code(), EXIT_INVALID);
        let mut findings = Findings::new(1);
        for _ in 0..3 {
            findings.add(Rule::S1, "k", 0, || (String::new(), Vec::new()));
        }
        findings.finish(&mut verdict);
        verdict.settle();
        assert_eq!(verdict.outcome.exit_code(), EXIT_VIOLATION);
        assert_eq!((verdict.violation_count, verdict.violations.len()), (3, 1), "all are counted, one is kept");
    }

    #[test]
    fn long_evidence_is_cut_between_characters() {
        let long = "ä".repeat(EVIDENCE_CHARS_MAX * 2);
        let evidence = Evidence::new("history.jsonl", 7, &long);
        assert_eq!(evidence.record.chars().count(), EVIDENCE_CHARS_MAX + 1);
    }
}
