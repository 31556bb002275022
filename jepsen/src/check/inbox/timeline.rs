//! Timeline: one user's inbox, put together from all that his devices were given.
//!
//! There is one timeline: whatever two devices were given at one seq is the same entry. Links say what lies between.
//!
//! # Invariants
//! V2, I5, I8 (his conversations' entries come in their order), I9 (none twice).

use std::collections::HashMap;

use super::records::{Inbox, Records, Sight};
use crate::check::rule::Rule;
use crate::check::verdict::Findings;

/// An inbox's entries, rising by seq.
#[derive(Debug)]
pub(crate) struct Timeline {
    /// of each seq the copy that came first
    pub(crate) entries: Vec<Sight>,
    /// when this entry, or one above it, was first seen
    pub(crate) seen_from: Vec<u64>,
}

impl Timeline {
    /// Merges all copies, and tells where they differ.
    pub(crate) fn of(records: &Records, user: u32, inbox: &Inbox, findings: &mut Findings) -> Self {
        let mut sights = inbox.sights.clone();
        sights.sort_by_key(|sight| (sight.seq, sight.at, sight.line));
        let key = records.contents.names.text(user);
        let mut entries: Vec<Sight> = Vec::new();
        for copies in sights.chunk_by(|one, other| one.seq == other.seq) {
            let first = copies[0];
            let is_same =
                |copy: &&Sight| (copy.prev, copy.ordinal, copy.content) == (first.prev, first.ordinal, first.content);
            if let Some(other) = copies.iter().find(|copy| !is_same(copy)) {
                findings.add(Rule::V2, key, other.at, || {
                    let text = format!("two devices of {key} were given different entries at seq {}", first.seq);
                    (text, vec![records.evidence(user, &first), records.evidence(user, other)])
                });
            }
            entries.push(first);
        }
        let mut seen_from: Vec<u64> = entries.iter().map(|entry| entry.at).collect();
        for place in (1..seen_from.len()).rev() {
            seen_from[place - 1] = seen_from[place - 1].min(seen_from[place]);
        }
        Self { entries, seen_from }
    }

    /// Where the entries at and above a seq begin.
    pub(crate) fn place(&self, seq: u64) -> usize {
        self.entries.partition_point(|entry| entry.seq < seq)
    }

    /// Entries of the timeline against each other.
    pub(crate) fn check(&self, records: &Records, user: u32, findings: &mut Findings) {
        let key = records.contents.names.text(user);
        for pair in self.entries.windows(2) {
            check_link(records, user, &pair[0], &pair[1], findings);
        }
        let mut placed: HashMap<u32, &Sight> = HashMap::new();
        let mut last: HashMap<u32, &Sight> = HashMap::new();
        for entry in &self.entries {
            let content = records.contents.of(entry.content);
            if let Some(other) = placed.insert(entry.content, entry) {
                findings.add(Rule::I9, key, entry.at, || {
                    let what = records.contents.describe(entry.content);
                    let text = format!("{what} is in the inbox of {key} twice, at {} and {}", other.seq, entry.seq);
                    (text, vec![records.evidence(user, other), records.evidence(user, entry)])
                });
                continue;
            }
            let before = last.insert(content.conversation, entry);
            let Some(before) = before else { continue };
            if records.contents.of(before.content).conversation_seq >= content.conversation_seq {
                findings.add(Rule::I8, key, entry.at, || {
                    let what = records.contents.describe(entry.content);
                    let text = format!("{what} comes behind a later entry of its conversation in the inbox of {key}");
                    (text, vec![records.evidence(user, before), records.evidence(user, entry)])
                });
            }
        }
    }
}

/// Two entries that follow one another in what was seen. If the second names the first as its predecessor, its
/// ordinal follows; if it names one in between, that one was seen by nobody, which the pages judge.
fn check_link(records: &Records, user: u32, before: &Sight, entry: &Sight, findings: &mut Findings) {
    let counted = u64::from(records.contents.is_message(entry.content));
    let text = if entry.prev < before.seq {
        format!("seq {} says that {} is before it, but {} is between", entry.seq, entry.prev, before.seq)
    } else if entry.prev == before.seq && entry.ordinal != before.ordinal + counted {
        format!("seq {} has ordinal {} behind ordinal {}", entry.seq, entry.ordinal, before.ordinal)
    } else {
        return;
    };
    findings.add(Rule::I5, records.contents.names.text(user), entry.at, || {
        (text, vec![records.evidence(user, before), records.evidence(user, entry)])
    });
}
