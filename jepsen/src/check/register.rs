//! Register: one register, by a search over what its open operations may have done.
//!
//! Time runs once through the history. Kept are all *configurations*: a value, and which of the open operations have
//! taken effect already. When an operation ends, those configurations survive in which it has, or can have. None left:
//! no order explains what was seen.
//!
//! Cheap, because few operations are open at once: a read takes effect as soon as it can, and a write or cas of unknown
//! outcome that nobody can have seen is left out. The number of configurations is bounded; where the bound is hit the
//! answer is *unknown*, never *fine*.
//!
//! # Invariants
//! V6.

use std::collections::{BTreeSet, HashSet};

use super::rule::Rule;
use super::tape::Track;
use super::verdict::Findings;
use crate::history::{Ended, Function, Op};

/// Registers start with it.
const INITIAL: u64 = 0;
/// Operations that may be open at once: bits of a word.
const OPEN_MAX: usize = 64;
/// Operations that ended before the one in question and are shown with it.
const BEFORE_SHOWN: usize = 3;

/// Could the search be finished?
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Search {
    Finished,
    /// too many configurations, or too many operations open at once
    Unknown,
}

/// A value, and the open operations that have taken effect, as bits.
type Configuration = (u64, u64);

/// Judges a register.
pub(crate) fn check(track: &Track, configurations_max: u64, findings: &mut Findings) -> Search {
    let mut walk = Walk::new(track, configurations_max);
    for (_, is_end, index) in events(track) {
        let step = if is_end { walk.end(index) } else { walk.begin(index) };
        match step {
            Step::On => {}
            Step::Unknown => return Search::Unknown,
            Step::Stuck => {
                walk.tell(index, findings);
                return Search::Finished;
            }
        }
    }
    Search::Finished
}

/// Beginnings and ends in time; what begins when another ends is beside it.
fn events(track: &Track) -> Vec<(u64, bool, usize)> {
    let observed = observed(track);
    let mut events = Vec::new();
    for (index, noted) in track.ops.iter().enumerate() {
        let op = &noted.op;
        let is_write = matches!(op.f, Function::Write | Function::Cas);
        match op.ended {
            Ended::Ok if is_write || op.f == Function::Read => {
                events.push((op.call, false, index));
                events.push((op.ret, true, index));
            }
            // It takes effect at any time, or never; if nobody can have seen it, never is as good.
            Ended::Info if is_write && op.seq.is_some_and(|value| observed.contains(&value)) => {
                events.push((op.call, false, index));
            }
            Ended::Ok | Ended::Info | Ended::Fail => {}
        }
    }
    events.sort_unstable();
    events
}

/// Values that somebody read or compared with.
fn observed(track: &Track) -> HashSet<u64> {
    let seen = track.ops.iter().filter_map(|noted| match (noted.op.f, noted.op.ended) {
        (Function::Read, Ended::Ok) => noted.op.seq,
        (Function::Cas, Ended::Ok | Ended::Info) => noted.op.old,
        _ => None,
    });
    seen.collect()
}

enum Step {
    On,
    Stuck,
    Unknown,
}

struct Walk<'a> {
    track: &'a Track,
    configurations: HashSet<Configuration>,
    /// the operation of each bit
    open: [Option<usize>; OPEN_MAX],
    ended: Vec<usize>,
    visited: u64,
    visited_max: u64,
}

impl<'a> Walk<'a> {
    fn new(track: &'a Track, visited_max: u64) -> Self {
        let configurations = HashSet::from([(INITIAL, 0)]);
        Self { track, configurations, open: [None; OPEN_MAX], ended: Vec::new(), visited: 0, visited_max }
    }

    fn op(&self, index: usize) -> &'a Op {
        &self.track.ops[index].op
    }

    fn begin(&mut self, index: usize) -> Step {
        match self.open.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => {
                *slot = Some(index);
                Step::On
            }
            None => Step::Unknown,
        }
    }

    /// Keeps the configurations in which the operation can have taken effect, and forgets it.
    fn end(&mut self, index: usize) -> Step {
        let bit =
            self.open.iter().position(|slot| *slot == Some(index)).expect("what ends has begun: times are sorted");
        let mut left = BTreeSet::new();
        let mut seen: HashSet<Configuration> = HashSet::new();
        let mut todo: Vec<Configuration> = self.configurations.drain().collect();
        while let Some(configuration) = todo.pop() {
            let configuration = self.with_reads(configuration);
            if !seen.insert(configuration) {
                continue;
            }
            self.visited += 1;
            if self.visited > self.visited_max {
                return Step::Unknown;
            }
            if configuration.1 & (1 << bit) != 0 {
                left.insert((configuration.0, configuration.1 & !(1 << bit)));
                continue;
            }
            todo.extend(self.successors(configuration));
        }
        if left.is_empty() {
            return Step::Stuck;
        }
        self.open[bit] = None;
        self.ended.push(index);
        self.configurations = left.into_iter().collect();
        self.forget_settled();
        Step::On
    }

    /// All open reads that see this value have taken effect: waiting would not help them.
    fn with_reads(&self, (value, mut done): Configuration) -> Configuration {
        for (bit, slot) in self.open.iter().enumerate() {
            let Some(op) = slot.map(|index| self.op(index)) else { continue };
            if op.f == Function::Read && op.seq.unwrap_or(INITIAL) == value {
                done |= 1 << bit;
            }
        }
        (value, done)
    }

    fn successors(&self, (value, done): Configuration) -> Vec<Configuration> {
        let mut successors = Vec::new();
        for (bit, slot) in self.open.iter().enumerate() {
            let Some(op) = slot.map(|index| self.op(index)).filter(|_| done & (1 << bit) == 0) else { continue };
            let may = match op.f {
                Function::Write => true,
                Function::Cas => op.old.unwrap_or(INITIAL) == value,
                _ => false,
            };
            if may {
                successors.push((op.seq.unwrap_or(INITIAL), done | (1 << bit)));
            }
        }
        successors
    }

    /// An operation of unknown outcome that has taken effect in all configurations is open no more.
    fn forget_settled(&mut self) {
        let settled = self.configurations.iter().fold(u64::MAX, |settled, (_, done)| settled & done);
        for bit in 0..OPEN_MAX {
            let is_info = self.open[bit].is_some_and(|index| self.op(index).ended == Ended::Info);
            if settled & (1 << bit) != 0 && is_info {
                self.open[bit] = None;
                self.configurations =
                    self.configurations.iter().map(|(value, done)| (*value, done & !(1 << bit))).collect();
            }
        }
    }

    fn tell(&self, index: usize, findings: &mut Findings) {
        let op = self.op(index);
        findings.add(Rule::V6, &self.track.key, op.ret, || {
            let what = match op.f {
                Function::Read => format!("reads {}", op.seq.unwrap_or(INITIAL)),
                Function::Cas => format!("finds {}", op.old.unwrap_or(INITIAL)),
                _ => format!("writes {}", op.seq.unwrap_or(INITIAL)),
            };
            let text = format!("no order of the operations explains that client {} {what}", op.proc);
            let before = self.ended.iter().rev().take(BEFORE_SHOWN).rev();
            let beside = self.open.iter().flatten().filter(|other| **other != index);
            let all = before.chain(beside).chain([&index]);
            (text, all.map(|index| self.track.evidence(*index)).collect())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tape::Tape;
    use crate::check::verdict::Verdict;

    fn op(f: Function, seq: u64, call: u64, ret: u64, ended: Ended) -> Op {
        Op { seq: Some(seq), ..Op::new(1, "r", f, (call, ret), ended) }
    }

    fn is_fine(ops: &[Op]) -> bool {
        let tape = Tape::of(ops, &mut Verdict::default());
        let mut findings = Findings::new(1);
        assert_eq!(check(&tape.tracks[0], 1_000, &mut findings), Search::Finished);
        findings.is_empty()
    }

    #[test]
    fn a_write_of_unknown_outcome_may_take_effect_late_but_once() {
        let unknown = op(Function::Write, 1, 0, 10, Ended::Info);
        let write = op(Function::Write, 2, 20, 30, Ended::Ok);
        let read = |seq, call| op(Function::Read, seq, call, call + 5, Ended::Ok);
        assert!(is_fine(&[unknown.clone(), write.clone(), read(2, 40), read(1, 50)]));
        assert!(!is_fine(&[unknown, write, read(1, 40), read(2, 50)]), "what was overwritten does not come back");
    }

    #[test]
    fn a_cas_needs_what_it_expects() {
        let cas = |old, seq, call| Op { old: Some(old), ..op(Function::Cas, seq, call, call + 5, Ended::Ok) };
        assert!(is_fine(&[cas(0, 7, 0), cas(7, 8, 10)]));
        assert!(!is_fine(&[cas(0, 7, 0), cas(0, 8, 10)]));
        assert!(is_fine(&[cas(0, 7, 0), cas(7, 0, 3), cas(0, 8, 10)]), "beside each other in either order");
    }

    #[test]
    fn a_search_that_grows_too_large_is_unknown() {
        let writes = (1..20).map(|value| op(Function::Write, value, value, 100, Ended::Info));
        let reads = (1..20).map(|value| op(Function::Read, value, 200, 300 + value, Ended::Ok));
        let ops: Vec<Op> = writes.chain(reads).collect();
        let tape = Tape::of(&ops, &mut Verdict::default());
        assert_eq!(check(&tape.tracks[0], 1_000, &mut Findings::new(1)), Search::Unknown);
    }
}
