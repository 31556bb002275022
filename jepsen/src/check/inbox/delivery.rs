//! Delivery: every member has every entry of his stays, and nobody has another.
//!
//! # Invariants
//! I9 (exactly once: that none is twice is the timeline's), A1.

use std::collections::{BTreeMap, HashSet};

use super::conversations::Conversation;
use super::pages;
use super::records::Records;
use super::timeline::Timeline;
use crate::check::rule::Rule;
use crate::check::verdict::Findings;

/// Judges all inboxes against all conversations; a user whose final sync is not complete goes into `unsynced`.
pub(crate) fn check(
    records: &Records,
    conversations: &BTreeMap<u32, Conversation>,
    timelines: &BTreeMap<u32, Timeline>,
    unsynced: &mut Vec<String>,
    findings: &mut Findings,
) {
    check_foreign(records, conversations, timelines, findings);
    let mut owed: BTreeMap<u32, Vec<&Conversation>> = BTreeMap::new();
    for conversation in conversations.values() {
        for user in conversation.stays.iter().flat_map(BTreeMap::keys) {
            owed.entry(*user).or_default().push(conversation);
        }
    }
    for (user, conversations) in owed {
        let timeline = timelines.get(&user);
        let inbox = records.inboxes.get(&user);
        let (Some(timeline), Some(inbox)) = (timeline, inbox.filter(|inbox| pages::is_final_complete(inbox))) else {
            unsynced.push(records.contents.names.text(user).to_owned());
            continue;
        };
        // What was trimmed is not missing.
        let trimmed = inbox.pages.iter().any(|page| page.trim > 1);
        let has: HashSet<u32> = timeline.entries.iter().map(|entry| entry.content).collect();
        for conversation in conversations {
            if !trimmed {
                check_owed(records, conversation, user, &has, findings);
            }
        }
    }
}

fn check_owed(records: &Records, conversation: &Conversation, user: u32, has: &HashSet<u32>, findings: &mut Findings) {
    let contents = &records.contents;
    for entry in &conversation.entries {
        if has.contains(entry) || !conversation.is_owed(user, contents.of(*entry).conversation_seq) {
            continue;
        }
        let key = contents.names.text(user);
        findings.add(Rule::I9, key, contents.first[*entry as usize].at, || {
            let text = format!("{} is not in the inbox of {key}", contents.describe(*entry));
            let last = records.inboxes[&user].pages.iter().filter(|page| page.last).max_by_key(|page| page.upto);
            let page = last.map(|page| records.page_evidence(user, page));
            (text, [contents.evidence(*entry)].into_iter().chain(page).collect())
        });
    }
}

fn check_foreign(
    records: &Records,
    conversations: &BTreeMap<u32, Conversation>,
    timelines: &BTreeMap<u32, Timeline>,
    findings: &mut Findings,
) {
    let contents = &records.contents;
    for (user, timeline) in timelines {
        for sight in &timeline.entries {
            let content = contents.of(sight.content);
            if conversations[&content.conversation].is_owed(*user, content.conversation_seq) {
                continue;
            }
            let key = contents.names.text(*user);
            findings.add(Rule::A1, key, sight.at, || {
                let text = format!("{} is in the inbox of {key}, and is not his", contents.describe(sight.content));
                (text, vec![records.evidence(*user, sight)])
            });
        }
    }
}
