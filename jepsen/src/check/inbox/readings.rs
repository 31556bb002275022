//! Readings: a conversation as its members read it after everything was healed.
//!
//! # Invariants
//! S4 (nothing that was known is missing), A1 (nobody reads beyond his stays), I5 and I8 (one order, one count).

use std::collections::{BTreeMap, HashMap};

use super::conversations::Conversation;
use super::records::{Reading, Records};
use crate::check::Evidence;
use crate::check::rule::Rule;
use crate::check::verdict::Findings;
use crate::history::CONVERSATION_FILE;

/// Judges all readings.
pub(crate) fn check(records: &Records, conversations: &BTreeMap<u32, Conversation>, findings: &mut Findings) {
    let mut ordinals: HashMap<u32, u64> = HashMap::new();
    for reading in &records.readings {
        // A conversation that is empty in all readings has no entry to judge.
        let Some(conversation) = conversations.get(&reading.conversation) else { continue };
        check_order(records, reading, findings);
        check_ordinals(records, conversation, reading, &mut ordinals, findings);
        check_whole(records, conversation, reading, findings);
    }
}

fn evidence(records: &Records, reading: &Reading) -> Evidence {
    let names = &records.contents.names;
    let (user, conversation) = (names.text(reading.user), names.text(reading.conversation));
    let told = format!("{user} read {conversation}: {} entries", reading.entries.len());
    Evidence::new(CONVERSATION_FILE, reading.line, &told)
}

fn check_order(records: &Records, reading: &Reading, findings: &mut Findings) {
    let contents = &records.contents;
    let seq = |entry: &(u64, u32)| contents.of(entry.1).conversation_seq;
    if let Some(pair) = reading.entries.windows(2).find(|pair| seq(&pair[0]) >= seq(&pair[1])) {
        findings.add(Rule::I8, contents.names.text(reading.conversation), reading.ret, || {
            let text = format!("a reader is given {} and then {}", seq(&pair[0]), seq(&pair[1]));
            (text, vec![evidence(records, reading)])
        });
    }
}

/// The ordinal of an entry is the same for everybody, and counts messages.
fn check_ordinals(
    records: &Records,
    conversation: &Conversation,
    reading: &Reading,
    ordinals: &mut HashMap<u32, u64>,
    findings: &mut Findings,
) {
    let contents = &records.contents;
    let key = contents.names.text(reading.conversation);
    for (ordinal, content) in &reading.entries {
        let known = *ordinals.entry(*content).or_insert(*ordinal);
        if known != *ordinal {
            findings.add(Rule::I8, key, reading.ret, || {
                let text = format!("{} has ordinal {known} and ordinal {ordinal}", contents.describe(*content));
                (text, vec![evidence(records, reading)])
            });
        }
    }
    for pair in reading.entries.windows(2) {
        let (before, entry) = (pair[0], pair[1]);
        let counted = u64::from(contents.is_message(entry.1));
        // Between two stays of the reader there is more than he may see.
        let seq = contents.of(entry.1).conversation_seq;
        let place = conversation.entries.partition_point(|other| contents.of(*other).conversation_seq < seq);
        let follows = place > 0 && conversation.entries[place - 1] == before.1;
        if follows && entry.0 != before.0 + counted {
            findings.add(Rule::I5, key, reading.ret, || {
                let text =
                    format!("{} has ordinal {} behind ordinal {}", contents.describe(entry.1), entry.0, before.0);
                (text, vec![evidence(records, reading)])
            });
        }
    }
}

/// All that the reader may see and that was known before he asked, and nothing else.
fn check_whole(records: &Records, conversation: &Conversation, reading: &Reading, findings: &mut Findings) {
    let contents = &records.contents;
    let key = contents.names.text(reading.conversation);
    let seq = |content: u32| contents.of(content).conversation_seq;
    if let Some((_, foreign)) =
        reading.entries.iter().find(|(_, content)| !conversation.is_owed(reading.user, seq(*content)))
    {
        findings.add(Rule::A1, key, reading.ret, || {
            let user = contents.names.text(reading.user);
            let text = format!("{user} reads {}, which is not his", contents.describe(*foreign));
            (text, vec![contents.evidence(*foreign), evidence(records, reading)])
        });
    }
    if conversation.stays.is_none() {
        return;
    }
    let mut given: Vec<u64> = reading.entries.iter().map(|(_, content)| seq(*content)).collect();
    given.sort_unstable();
    let last = given.last().copied().unwrap_or(0);
    // What lies higher and was known proves that this one was there as well.
    let mut known_from = u64::MAX;
    let mut missing = None;
    for entry in conversation.entries.iter().rev() {
        known_from = known_from.min(contents.known_at[*entry as usize]);
        let was_there = known_from < reading.call || seq(*entry) < last;
        if was_there && conversation.is_owed(reading.user, seq(*entry)) && given.binary_search(&seq(*entry)).is_err() {
            missing = Some(*entry);
        }
    }
    if let Some(missing) = missing {
        findings.add(Rule::S4, key, reading.ret, || {
            let user = contents.names.text(reading.user);
            let text = format!("{} is missing where {user} reads at the end", contents.describe(missing));
            (text, vec![contents.evidence(missing), evidence(records, reading)])
        });
    }
}
