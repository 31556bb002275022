//! Sighting: what was seen of a bug in one trial, by whatever saw it.

use std::sync::LazyLock;

use crate::check::{Outcome, Verdict};
use crate::cluster::OwnEnd;

/// Words by which a node that ended says that it found its own state wrong.
const DIAGNOSES: [&str; 7] = [
    "corrupt",
    "checksum",
    "does not verify",
    "promised",
    "cannot follow",
    "Failed to get log entries",
    "Cannot re-apply logs",
];
/// How a store says that one of its replicas is not what it promised to be.
const ROT: &str = "ALARM: rot";
/// The invariants of `docs/invariants.md`, as an assertion names them: `I9: `.
static INVARIANTS: LazyLock<Vec<String>> = LazyLock::new(|| (1..=15).map(|number| format!("I{number}: ")).collect());

/// What came of one trial.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sighting {
    /// something is wrong: by which rule, and what
    Caught {
        /// rules, or who else saw it
        by: String,
        /// the first of it, for people
        what: String,
    },
    /// all was well
    Clean,
    /// nothing was wrong, but it proves too little
    Vacuous(String),
    /// the harness failed
    Broken(String),
}

impl Sighting {
    /// Was something wrong?
    pub fn is_caught(&self) -> bool {
        matches!(self, Sighting::Caught { .. })
    }

    /// The strongest of what was seen: a broken rule, then `raftctl user verify`, then a replica or a node that
    /// stopped itself because it found its own state wrong, then what clients found by themselves.
    pub(crate) fn of(
        verdict: &Verdict,
        proofs: &[String],
        alarms: &[String],
        ends: &[OwnEnd],
        findings: &[String],
    ) -> Sighting {
        let rules: Vec<String> =
            verdict.violations_by_rule.iter().map(|(rule, count)| format!("{rule} ×{count}")).collect();
        if let (Some(first), false) = (verdict.violations.first(), rules.is_empty()) {
            let what = format!("{} of {}: {}", first.rule, first.key, first.text);
            return Sighting::Caught { by: rules.join(" "), what };
        }
        if let Some(proof) = proofs.first() {
            return Sighting::Caught { by: "user verify".to_owned(), what: proof.clone() };
        }
        if let Some(alarm) = alarms.first() {
            return Sighting::Caught { by: "a store's own alarm".to_owned(), what: alarm.clone() };
        }
        if let Some((end, diagnosis)) = ends.iter().find_map(|end| Some((end, diagnosis(end)?))) {
            return Sighting::Caught { by: format!("{} stopped itself", end.node), what: diagnosis };
        }
        if let Some(finding) = findings.first() {
            let rule = finding.split_once(':').map_or("clients", |(rule, _)| rule);
            return Sighting::Caught { by: rule.to_owned(), what: finding.clone() };
        }
        if let Some(end) = ends.iter().find(|end| !end.allowed) {
            return Sighting::Vacuous(format!("{} ended by itself ({}): {}", end.node, end.status, end.log));
        }
        match verdict.outcome {
            Outcome::Ok => Sighting::Clean,
            _ => Sighting::Vacuous(verdict.vacuous.join("; ")),
        }
    }
}

/// What a node's log says of replicas that are rotten, or of an invariant that was about to be broken.
pub(crate) fn alarm(node: &str, log: &str) -> Option<String> {
    let tells = |line: &&str| line.contains(ROT) || INVARIANTS.iter().any(|name| line.starts_with(name));
    log.lines().find(tells).map(|line| format!("{node}: {line}"))
}

/// The line of its log in which a node says that its own state is wrong.
pub(crate) fn diagnosis(end: &OwnEnd) -> Option<String> {
    // What a fault may do to a node is no diagnosis of a bug.
    let lines = end.log.lines().filter(|_| !end.allowed);
    let names = |line: &&str| {
        INVARIANTS.iter().any(|name| line.contains(name)) || DIAGNOSES.iter().any(|word| line.contains(word))
    };
    lines.rev().find(names).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Findings, Rule};

    fn end(log: &str, allowed: bool) -> OwnEnd {
        OwnEnd { node: "store-1".to_owned(), status: "signal: 6".to_owned(), log: log.to_owned(), allowed }
    }

    fn ok() -> Verdict {
        Verdict { outcome: Outcome::Ok, ..Verdict::default() }
    }

    #[test]
    fn a_broken_rule_is_told_before_all_else() {
        let mut verdict = Verdict::default();
        let mut findings = Findings::new(1);
        findings.add(Rule::S1, "counter-1", 0, || ("twice".to_owned(), Vec::new()));
        findings.finish(&mut verdict);
        verdict.settle();
        let seen = Sighting::of(&verdict, &["u1: a hole".to_owned()], &[], &[end("I9: twice", false)], &[]);
        assert_eq!(seen, Sighting::Caught { by: "S1 ×1".to_owned(), what: "S1 of counter-1: twice".to_owned() });
    }

    #[test]
    fn an_end_counts_only_if_it_names_what_is_wrong() {
        let named = Sighting::of(&ok(), &[], &[], &[end("panicked\nI9: 7 is in the inbox already", false)], &[]);
        assert!(matches!(named, Sighting::Caught { by, .. } if by == "store-1 stopped itself"));
        assert!(matches!(Sighting::of(&ok(), &[], &[], &[end("out of memory", false)], &[]), Sighting::Vacuous(_)));
        assert_eq!(Sighting::of(&ok(), &[], &[], &[end("I9: it was told to", true)], &[]), Sighting::Clean);
    }

    #[test]
    fn a_replica_that_found_itself_rotten_counts() {
        let log = "all is well\nERROR ALARM: rot: the replica is not started and does not vote group=0\n";
        let alarms: Vec<String> = alarm("store-1", log).into_iter().collect();
        let seen = Sighting::of(&ok(), &[], &alarms, &[], &[]);
        assert!(matches!(seen, Sighting::Caught { by, .. } if by == "a store's own alarm"));
        assert_eq!(alarm("store-1", "all is well"), None);
        assert!(alarm("store-1", "thread panicked at fence.rs\nI3: reserved under an epoch").is_some());
    }

    #[test]
    fn a_run_that_proves_too_little_is_not_clean() {
        let mut verdict = Verdict::default();
        verdict.invalidate("no acks".to_owned());
        assert_eq!(Sighting::of(&verdict, &[], &[], &[], &[]), Sighting::Vacuous("no acks".to_owned()));
    }
}
