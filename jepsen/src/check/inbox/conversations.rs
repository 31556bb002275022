//! Conversations: all entries of each, put together from everything that anybody was given, and who was a member when.
//!
//! A stay runs from the joining to the leaving entry, both included. The users of a direct conversation are members
//! for ever. A group's stays are known if somebody who was there from the first entry on, and never left, read it all.
//!
//! # Invariants
//! S1, S2, I8 (all copies of an entry agree).

use std::collections::{BTreeMap, HashMap};

use super::contents::Contents;
use super::records::Records;
use crate::check::rule::Rule;
use crate::check::verdict::Findings;

/// A conversation seq to which a stay reaches, included; `u64::MAX` for one that goes on.
type Left = u64;

/// One conversation.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) number: u32,
    /// contents, rising by conversation seq
    pub(crate) entries: Vec<u32>,
    /// by user; absent if they cannot be known
    pub(crate) stays: Option<BTreeMap<u32, Vec<(u64, Left)>>>,
    /// did a member who may see all of it read it at the end?
    pub(crate) is_read: bool,
}

impl Conversation {
    /// Was the user a member at this entry? `true` if that cannot be known.
    pub(crate) fn is_owed(&self, user: u32, conversation_seq: u64) -> bool {
        let Some(stays) = &self.stays else { return true };
        stays.get(&user).is_some_and(|stays| {
            stays.iter().any(|(joined, left)| *joined <= conversation_seq && conversation_seq <= *left)
        })
    }
    /// Is he a member of all of it?
    pub(crate) fn sees_all(&self, contents: &Contents, user: u32) -> bool {
        let first = self.entries.first().map_or(0, |entry| contents.of(*entry).conversation_seq);
        let stays = self.stays.as_ref().and_then(|stays| stays.get(&user));
        stays.is_some_and(|stays| matches!(stays[..], [(joined, u64::MAX)] if joined <= first))
    }
}

/// All conversations, by name's number; tells where copies differ.
pub(crate) fn all(records: &Records, findings: &mut Findings) -> BTreeMap<u32, Conversation> {
    let contents = &records.contents;
    let mut by_conversation: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (number, content) in (0u32..).zip(&contents.list) {
        by_conversation.entry(content.conversation).or_default().push(number);
    }
    let mut conversations = BTreeMap::new();
    for (number, mut entries) in by_conversation {
        entries.sort_by_key(|entry| (contents.of(*entry).conversation_seq, contents.first[*entry as usize].at, *entry));
        check_seqs(contents, number, &entries, findings);
        check_ids(contents, number, &entries, findings);
        // Of two that claim one place the first is taken: the contradiction was told.
        entries.dedup_by_key(|entry| contents.of(*entry).conversation_seq);
        let stays = stays_of(contents, number, &entries);
        conversations.insert(number, Conversation { number, entries, stays, is_read: false });
    }
    for reading in &records.readings {
        let Some(conversation) = conversations.get_mut(&reading.conversation) else { continue };
        conversation.is_read |= conversation.sees_all(contents, reading.user);
    }
    for conversation in conversations.values_mut() {
        let is_direct = contents.names.text(conversation.number).starts_with("direct:");
        // A change of members that nobody was given would make the stays wrong.
        if !is_direct && !conversation.is_read {
            conversation.stays = None;
        }
    }
    conversations
}

fn check_seqs(contents: &Contents, number: u32, entries: &[u32], findings: &mut Findings) {
    for pair in entries.windows(2) {
        let (one, other) = (contents.of(pair[0]), contents.of(pair[1]));
        if one.conversation_seq != other.conversation_seq {
            continue;
        }
        let is_other_message = (one.sender, one.id) != (other.sender, other.id);
        let rule = if is_other_message { Rule::S1 } else { Rule::I8 };
        findings.add(rule, contents.names.text(number), contents.first[pair[1] as usize].at, || {
            let what = if is_other_message { "names two messages" } else { "was given with two headers" };
            let evidence = pair.iter().map(|entry| contents.evidence(*entry)).collect();
            (format!("conversation seq {} {what}", one.conversation_seq), evidence)
        });
    }
}

fn check_ids(contents: &Contents, number: u32, entries: &[u32], findings: &mut Findings) {
    let mut places: HashMap<(u32, u32), u32> = HashMap::new();
    for entry in entries {
        let content = contents.of(*entry);
        let other = *places.entry((content.sender, content.id)).or_insert(*entry);
        let first = contents.of(other).conversation_seq;
        if first != content.conversation_seq {
            findings.add(Rule::S2, contents.names.text(number), contents.first[*entry as usize].at, || {
                let id = contents.names.text(content.id);
                let text = format!("message {id} lies at {first} and at {}", content.conversation_seq);
                (text, vec![contents.evidence(other), contents.evidence(*entry)])
            });
        }
    }
}

/// Who was a member when, from the entries themselves.
fn stays_of(contents: &Contents, number: u32, entries: &[u32]) -> Option<BTreeMap<u32, Vec<(u64, Left)>>> {
    let mut stays: BTreeMap<u32, Vec<(u64, Left)>> = BTreeMap::new();
    if let Some(users) = contents.names.text(number).strip_prefix("direct:") {
        for user in users.split(':') {
            // Who was never heard of has no inbox to judge either.
            if let Some(user) = contents.names.find(user) {
                stays.insert(user, vec![(0, u64::MAX)]);
            }
        }
        return Some(stays);
    }
    let is_created = entries.first().is_some_and(|first| contents.names.text(contents.of(*first).kind) == "create");
    if !is_created {
        return None;
    }
    for entry in entries {
        let content = contents.of(*entry);
        let seq = content.conversation_seq;
        let kind = contents.names.text(content.kind);
        let nobody = (Vec::new(), Vec::new());
        let (added, removed) = match contents.change(*entry) {
            Some(change) => change,
            // The creator may be alone.
            None if kind == "create" => &nobody,
            // Nobody could say who came or went.
            None if kind == "members" => return None,
            // Messages, and what is said about them.
            None => continue,
        };
        let creator = (kind == "create").then_some(content.sender);
        for user in removed {
            if let Some(stay) = stays.get_mut(user).and_then(|stays| stays.last_mut()).filter(|stay| stay.1 == u64::MAX)
            {
                stay.1 = seq;
            }
        }
        // Who goes with an entry does not come with the same.
        for user in added.iter().chain(&creator) {
            let stays = stays.entry(*user).or_default();
            if stays.last().is_none_or(|(_, left)| *left < seq) {
                stays.push((seq, u64::MAX));
            }
        }
    }
    Some(stays)
}
