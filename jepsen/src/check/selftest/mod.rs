//! Selftest: the checkers are checked.
//!
//! Valid histories are made up from seeds, by a small model of a system that makes no mistake: all must be accepted.
//! Then one wrong is put into each, in every way that we could think of: all must be refused, and by the rule that
//! should find it.
//!
//! # Reading order
//! [`selftest`] → `story` → `talk`, `bare` → `mutation`.

mod bare;
mod long;
mod mutation;
mod reader;
mod story;
mod talk;
mod wrong_bare;
mod wrong_inbox;
mod wrong_log;

use std::ops::Range;
use std::path::Path;

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::StdRng;

use serde::Serialize;

pub use long::{LongReport, judge_long};

use super::Outcome;

/// What the checkers did with histories whose truth is known.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct SelftestReport {
    /// valid histories that were judged
    pub valid: u64,
    /// of them: accepted
    pub accepted: u64,
    /// mutated histories, by mutation
    pub mutations: Vec<MutationReport>,
    /// what was wrong with the checkers, for people
    pub failures: Vec<String>,
}

/// What the checkers did with one kind of mutation.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct MutationReport {
    /// which
    pub name: String,
    /// histories that it could be applied to
    pub applied: u64,
    /// refused for the right reason
    pub caught: u64,
}

impl SelftestReport {
    fn fail(&mut self, text: String) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(text);
        }
    }

    /// All valid histories accepted, all mutated ones refused for the right reason?
    pub fn is_good(&self) -> bool {
        self.failures.is_empty()
            && self.accepted == self.valid
            && self.mutations.iter().all(|mutation| mutation.applied > 0 && mutation.caught == mutation.applied)
    }
}

/// Told failures of each kind.
const FAILURES_MAX: usize = 20;

/// Judges valid and mutated histories of these seeds.
pub fn selftest(seeds: Range<u64>) -> SelftestReport {
    let options = super::CheckOptions::default();
    let mut report = SelftestReport::default();
    for mutation in mutation::ALL {
        report.mutations.push(MutationReport { name: mutation.name.to_owned(), ..MutationReport::default() });
    }
    for seed in seeds {
        let valid = story::Story::valid(seed);
        let verdict = valid.judge(&options);
        report.valid += 1;
        if verdict.outcome == Outcome::Ok {
            report.accepted += 1;
        } else {
            let first = verdict.violations.first().map(|violation| format!("{}: {}", violation.rule, violation.text));
            report.fail(format!("seed {seed} is valid and was refused: {first:?} {:?}", verdict.vacuous));
        }
        for (place, mutation) in mutation::ALL.iter().enumerate() {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut wrong = valid.clone();
            if !(mutation.apply)(&mut wrong, &mut rng) {
                continue;
            }
            report.mutations[place].applied += 1;
            let verdict = wrong.judge(&options);
            if mutation.rules.iter().any(|rule| verdict.violations_by_rule.contains_key(rule)) {
                report.mutations[place].caught += 1;
            } else {
                let found = verdict.violations_by_rule;
                report.fail(format!("seed {seed}, {}: not caught, found {found:?}", mutation.name));
            }
        }
    }
    report
}

/// Writes a made-up run's files into a folder: a valid one, or one with the named wrong in it.
///
/// # Errors
/// No such wrong, no place for it in this seed's story, or files that cannot be written.
pub fn write_sample(folder: &Path, seed: u64, wrong: Option<&str>) -> anyhow::Result<()> {
    let mut story = story::Story::valid(seed);
    if let Some(name) = wrong {
        let mutation = mutation::ALL.iter().find(|mutation| mutation.name == name);
        let mutation = mutation.with_context(|| format!("find the wrong {name:?}"))?;
        let is_wrong = (mutation.apply)(&mut story, &mut StdRng::seed_from_u64(seed));
        anyhow::ensure!(is_wrong, "the story of seed {seed} has no place for {name:?}");
    }
    story.write(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn valid_histories_are_accepted_and_mutated_ones_refused() {
        let report = selftest(0..100);
        assert!(report.is_good(), "{:#?}", report);
        assert!(report.mutations.len() >= 40);
    }

    #[test]
    fn a_seed_tells_the_same_story_twice() {
        assert_eq!(story::Story::valid(7), story::Story::valid(7));
    }
}
