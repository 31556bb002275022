//! Lease: one scope's grants, and the commits under them.
//!
//! Grants have an order of their own (`lo`), commits too (`seq`), and epochs tie both together:
//! ```text
//!  grants    e1 [1,10)        e1 [10,20)                 e2 [20,30)
//!  commits       ╰▶ e1:3  e1:8     ╰▶ e1:12 ─────────────▶│  ╰▶ e2:21
//!  refused                                                 ╰▶ e1:13, only behind a newer epoch
//! ```
//! Each operation needs a moment between its call and its return that agrees with these arrows. The earliest such
//! moment is the latest of its call and the moments before it; if that lies behind its return, there is none.
//!
//! A grant of unknown outcome may have raised the epoch or the range: what it could explain is not held against anybody.
//!
//! # Invariants
//! F1, F2 (I3), from outside. A commit of the right epoch between two of its segments is let pass.

use std::collections::BTreeMap;

use super::rule::Rule;
use super::tape::Track;
use super::verdict::Findings;
use crate::history::{Ended, Function, Op};

/// A moment, and the operation whose call it is.
type Moment = (u64, usize);

/// Judges a scope.
pub(crate) fn check(track: &Track, findings: &mut Findings) {
    let scope = Scope::of(track);
    if scope.check_grants(findings) & scope.check_commits(findings) {
        scope.check_moments(findings);
    }
    scope.check_refused(findings);
}

struct Scope<'a> {
    track: &'a Track,
    /// by `lo`
    grants: Vec<usize>,
    /// accepted ones, by seq
    commits: Vec<usize>,
    refused: Vec<usize>,
    /// the first call of a grant whose outcome is unknown
    unknown_from: u64,
}

impl<'a> Scope<'a> {
    fn of(track: &'a Track) -> Self {
        let mut scope =
            Self { track, grants: Vec::new(), commits: Vec::new(), refused: Vec::new(), unknown_from: u64::MAX };
        for (index, noted) in track.ops.iter().enumerate() {
            let op = &noted.op;
            match (op.f, op.ended) {
                (Function::Lease, Ended::Ok) => scope.grants.push(index),
                (Function::Lease, Ended::Info) => scope.unknown_from = scope.unknown_from.min(op.call),
                (Function::Commit, Ended::Ok | Ended::Fail) if op.reject == Some(true) => scope.refused.push(index),
                (Function::Commit, Ended::Ok) => scope.commits.push(index),
                _ => {}
            }
        }
        let op = |index: &usize| &track.ops[*index].op;
        scope.grants.sort_by_key(|index| (op(index).lo, op(index).epoch));
        scope.commits.sort_by_key(|index| op(index).seq);
        scope
    }

    fn op(&self, index: usize) -> &'a Op {
        &self.track.ops[index].op
    }
    fn epoch(&self, index: usize) -> u64 {
        self.op(index).epoch.unwrap_or(0)
    }
    fn lo(&self, index: usize) -> u64 {
        self.op(index).lo.unwrap_or(0)
    }
    fn hi(&self, index: usize) -> u64 {
        self.op(index).hi.unwrap_or(0)
    }

    fn tell(&self, findings: &mut Findings, rule: Rule, text: String, indices: &[usize]) {
        let at = indices.iter().map(|index| self.op(*index).ret).max().unwrap_or(0);
        findings.add(rule, &self.track.key, at, || {
            (text, indices.iter().map(|index| self.track.evidence(*index)).collect())
        });
    }

    /// Rising, never overlapping, epochs never falling. True if so.
    fn check_grants(&self, findings: &mut Findings) -> bool {
        let mut is_fine = true;
        for pair in self.grants.windows(2) {
            let (one, other) = (pair[0], pair[1]);
            let text = if self.hi(one) > self.lo(other) {
                let (lo, hi) = (self.lo(one), self.hi(one));
                format!("grants [{lo}, {hi}) and [{}, {}) overlap", self.lo(other), self.hi(other))
            } else if self.epoch(one) > self.epoch(other) {
                format!(
                    "a grant from {} on has epoch {}, one below it {}",
                    self.lo(other),
                    self.epoch(other),
                    self.epoch(one)
                )
            } else {
                continue;
            };
            is_fine = false;
            self.tell(findings, Rule::F1, text, pair);
        }
        is_fine
    }

    /// Inside the range of their epoch, each seq once, epochs never falling. True if so.
    fn check_commits(&self, findings: &mut Findings) -> bool {
        let mut is_fine = true;
        for index in &self.commits {
            let op = self.op(*index);
            if self.grant_of(*index).is_none() && op.ret < self.unknown_from {
                is_fine = false;
                let text = format!(
                    "commit {} was accepted outside of all ranges of epoch {}",
                    op.seq.unwrap_or(0),
                    self.epoch(*index)
                );
                self.tell(findings, Rule::F2, text, &[*index]);
            }
        }
        for pair in self.commits.windows(2) {
            let seq = |index: usize| self.op(index).seq.unwrap_or(0);
            let text = if seq(pair[0]) == seq(pair[1]) {
                format!("commit {} was accepted twice", seq(pair[0]))
            } else if self.epoch(pair[0]) > self.epoch(pair[1]) {
                format!(
                    "commit {} has epoch {}, one below it {}",
                    seq(pair[1]),
                    self.epoch(pair[1]),
                    self.epoch(pair[0])
                )
            } else {
                continue;
            };
            is_fine = false;
            self.tell(findings, Rule::F2, text, pair);
        }
        is_fine
    }

    /// The first grant of the commit's epoch that reaches beyond its seq, if its epoch begins below it.
    fn grant_of(&self, commit: usize) -> Option<usize> {
        let (epoch, seq) = (self.epoch(commit), self.op(commit).seq.unwrap_or(0));
        // Grants are sorted by `lo`, and where they are judged by it their epochs and ends rise as well.
        let start = self.grants.partition_point(|index| self.epoch(*index) < epoch);
        let end = self.grants.partition_point(|index| self.epoch(*index) <= epoch);
        let of_epoch = self.grants.get(start..end)?;
        let begins = of_epoch.first().is_some_and(|first| self.lo(*first) <= seq);
        let place = of_epoch.partition_point(|index| self.hi(*index) <= seq);
        of_epoch.get(place).copied().filter(|_| begins)
    }

    /// Is there a moment for each grant and each accepted commit?
    fn check_moments(&self, findings: &mut Findings) {
        let mut order: Vec<(u64, u8, u64, usize)> = Vec::new();
        order.extend(self.grants.iter().map(|index| (self.epoch(*index), 0, self.lo(*index), *index)));
        order
            .extend(self.commits.iter().map(|index| (self.epoch(*index), 1, self.op(*index).seq.unwrap_or(0), *index)));
        order.sort_unstable();
        let mut moments: BTreeMap<usize, Moment> = BTreeMap::new();
        let (mut granted, mut committed): (Option<Moment>, Option<Moment>) = (None, None);
        // What was committed under older epochs lies before the first grant of a newer one.
        let mut older: (u64, Option<Moment>) = (0, None);
        for (epoch, rank, _, index) in order {
            if epoch > older.0 {
                older = (epoch, committed);
            }
            let op = self.op(index);
            let own = Some((op.call, index));
            let before = if rank == 0 {
                [granted, older.1]
            } else {
                [committed, self.grant_of(index).and_then(|grant| moments.get(&grant).copied())]
            };
            let moment = before.into_iter().chain([own]).flatten().max().expect("its own call is one");
            moments.insert(index, moment);
            *(if rank == 0 { &mut granted } else { &mut committed }) = Some(moment);
            if moment.0 > op.ret {
                let is_grant = |index: usize| self.op(index).f == Function::Lease;
                let rule = if is_grant(index) && is_grant(moment.1) { Rule::F1 } else { Rule::F2 };
                let text = match rule {
                    Rule::F1 => "a grant ended before one that lies below it was asked for".to_owned(),
                    _ => format!("an operation of epoch {epoch} ended before one that precedes it was called"),
                };
                self.tell(findings, rule, text, &[index, moment.1]);
            }
        }
    }

    /// A refused commit is older than an epoch that could have been granted before it ended.
    fn check_refused(&self, findings: &mut Findings) {
        // The newest epoch that could have been granted by a time.
        let mut by_call: Vec<(u64, u64)> =
            self.grants.iter().map(|index| (self.op(*index).call, self.epoch(*index))).collect();
        by_call.sort_unstable();
        let mut newest = 0;
        for (_, epoch) in &mut by_call {
            newest = newest.max(*epoch);
            *epoch = newest;
        }
        for index in &self.refused {
            let op = self.op(*index);
            let count = by_call.partition_point(|(call, _)| *call <= op.ret);
            let newest = count.checked_sub(1).map_or(0, |last| by_call[last].1);
            if newest <= self.epoch(*index) && op.ret < self.unknown_from {
                let text =
                    format!("a commit of epoch {} was refused, but no newer one was granted", self.epoch(*index));
                self.tell(findings, Rule::F2, text, &[*index]);
            }
        }
    }
}
