//! Walk: recomputes every link, count and hash along an inbox.

use std::collections::HashMap;

use seriatim_proto::chain::body_hash;
use seriatim_proto::command::Kind;
use seriatim_proto::ids::{Chain, ConversationId, MessageId, Seq, UserId};
use seriatim_proto::store::InboxEntry;

use super::Report;
use crate::device::Body;

/// Has an entry the body that it should have?
pub(super) fn check_body(entry: &InboxEntry, body: &Body, report: &mut Report) {
    let at = format!("entry {} ({} seq {})", entry.seq, entry.conversation, entry.entry.seq);
    match body {
        Body::Here { salt, body }
            if entry.entry.kind.has_own_body() && body_hash(salt, body) != entry.entry.body_hash =>
        {
            report.find(format!("{at}: the body does not have the hash of its reference"));
        }
        // What was recalled is proved by its header alone: the hash stays, and the chain binds it.
        Body::Missing("erased") if entry.entry.kind.has_own_body() => {}
        // Its conversation says whether that is so (recalls.rs).
        Body::Missing("trimmed") => {}
        Body::Missing(why) => report.find(format!("{at}: the body is {why}")),
        Body::Here { .. } => {}
    }
}

/// Recomputes links and counts along an inbox.
#[derive(Default)]
pub(super) struct Walk {
    /// entries below were trimmed: the first that is kept is believed
    trim: Option<Seq>,
    last: Option<Seq>,
    pub(super) chain: Chain,
    ordinal: u64,
    conversations: HashMap<ConversationId, Seq>,
    messages: HashMap<(ConversationId, UserId, MessageId), Seq>,
}

impl Walk {
    /// Along what is kept from `trim` on.
    pub(super) fn from(trim: Seq) -> Self {
        Self { trim: Some(trim).filter(|trim| *trim > Seq::FIRST), ..Self::default() }
    }

    /// Does it know the chain at the place where it is?
    pub(super) fn knows_chain(&self) -> bool {
        self.trim.is_none() || self.last.is_some()
    }

    pub(super) fn step(&mut self, entry: &InboxEntry, report: &mut Report) {
        let at = format!("entry {}", entry.seq);
        if self.last.is_some_and(|last| entry.seq <= last) {
            report.find(format!("{at}: out of order, it comes behind {}", self.last.unwrap_or(entry.seq)));
        }
        let is_first_kept = self.last.is_none() && entry.prev_seq.is_some() && entry.prev_seq < self.trim;
        if is_first_kept {
            self.ordinal = entry.ordinal.saturating_sub(u64::from(entry.entry.kind == Kind::Message));
        } else if entry.prev_seq != self.last {
            report
                .find(format!("{at}: its link leads to {:?}, the entry before it is {:?}", entry.prev_seq, self.last));
        }
        let ordinal = self.ordinal + u64::from(entry.entry.kind == Kind::Message);
        if entry.ordinal != ordinal {
            report.find(format!("{at}: it counts {} messages, there are {ordinal}", entry.ordinal));
        }
        if !is_first_kept && entry.link_from(self.chain) != entry.chain {
            report.find(format!("{at}: the chain is broken"));
        }
        // Marks come from no conversation, and have no ids.
        if entry.entry.kind.is_mark() {
            (self.last, self.chain, self.ordinal) = (Some(entry.seq), entry.chain, entry.ordinal);
            return;
        }
        let before = self.conversations.insert(entry.conversation.clone(), entry.entry.seq);
        if before.is_some_and(|before| entry.entry.seq <= before) {
            report.find(format!("{at}: {} goes back to seq {}", entry.conversation, entry.entry.seq));
        }
        let key = (entry.conversation.clone(), entry.entry.sender.clone(), entry.entry.message_id);
        if let Some(first) = self.messages.insert(key, entry.seq) {
            report.find(format!("{at}: message {} is there twice, first at {first}", entry.entry.message_id));
        }
        // Goes on from what the entry says, so that one break is one finding.
        (self.last, self.chain, self.ordinal) = (Some(entry.seq), entry.chain, entry.ordinal);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use seriatim_proto::command::EntryRef;
    use seriatim_proto::ids::BodyHash;

    pub(in super::super) fn inbox(count: u64) -> Vec<InboxEntry> {
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let mut entries: Vec<InboxEntry> = Vec::new();
        for number in 1..=count {
            let mut entry = InboxEntry {
                seq: Seq::new(number * 2).unwrap(),
                prev_seq: entries.last().map(|last| last.seq),
                ordinal: number,
                chain: Chain::default(),
                conversation: ConversationId::direct(alice.clone(), bob.clone()),
                entry: EntryRef {
                    seq: Seq::new(number).unwrap(),
                    kind: Kind::Message,
                    sender: alice.clone(),
                    message_id: MessageId([u8::try_from(number).unwrap(); 16]),
                    body_hash: BodyHash::default(),
                    at_ms: number,
                },
                messages: number,
            };
            entry.chain = entry.link_from(entries.last().map_or_else(Chain::default, |last| last.chain));
            entries.push(entry);
        }
        entries
    }

    fn findings(entries: &[InboxEntry]) -> usize {
        let (mut walk, mut report) = (Walk::default(), Report::default());
        entries.iter().for_each(|entry| walk.step(entry, &mut report));
        report.all.len()
    }

    #[test]
    fn what_is_kept_behind_a_trim_is_sound_and_what_was_lost_is_not() {
        let entries = inbox(6);
        let findings = |kept: &[InboxEntry], trim: u64| {
            let (mut walk, mut report) = (Walk::from(Seq::new(trim).unwrap()), Report::default());
            kept.iter().for_each(|entry| walk.step(entry, &mut report));
            report.all.len()
        };
        // Their seqs are 2, 4, 6 …
        assert_eq!([findings(&entries, 1), findings(&entries[2..], 6), findings(&entries[2..], 5)], [0; 3]);
        assert_eq!(findings(&entries, 6), 0, "they were read before they were trimmed");
        assert!(findings(&entries[2..], 1) > 0, "nothing was trimmed, and two are gone");
        assert!(findings(&entries[3..], 5) > 0, "trimmed up to the third, and that is gone");
        let mut wrong = entries.clone();
        wrong[4].chain = Chain::default();
        assert!(findings(&wrong[2..], 6) > 0);
        assert!(!Walk::from(Seq::new(6).unwrap()).knows_chain() && Walk::from(Seq::FIRST).knows_chain());
    }

    #[test]
    fn a_whole_inbox_has_no_findings() {
        assert_eq!(findings(&inbox(5)), 0);
    }

    #[test]
    fn a_missing_entry_is_found() {
        let mut entries = inbox(5);
        entries.remove(2);
        assert!(findings(&entries) > 0);
    }

    #[test]
    fn a_doubled_entry_is_found() {
        let mut entries = inbox(5);
        entries.insert(2, entries[2].clone());
        assert!(findings(&entries) > 0);
    }

    #[test]
    fn a_changed_header_breaks_the_chain() {
        let mut entries = inbox(5);
        entries[2].entry.at_ms += 1;
        assert_eq!(findings(&entries), 1);
    }

    #[test]
    fn swapped_entries_are_found() {
        let mut entries = inbox(5);
        entries.swap(1, 2);
        assert!(findings(&entries) > 0);
    }
}
