//! Counts: what a replica's rows say about an inbox beside its entries, counted again from the entries.
//!
//! How many messages of its conversation an entry comes with, the user's list of conversations, and how much of each
//! is read: unread is a subtraction of these, and nothing else would show that one is wrong.

use std::collections::BTreeMap;

use seriatim_proto::command::{Kind, Listed};
use seriatim_proto::ids::{ConversationId, Seq};
use seriatim_proto::store::InboxEntry;

use super::Report;

/// A user's list of conversations, as a replica has it.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    /// all rows
    pub(super) list: Vec<Listed>,
    /// messages that are read, of all conversations, as the replica sums them up
    pub(super) read: u64,
}

/// What the entries of one conversation make.
#[derive(Default)]
struct Made {
    messages: u64,
    /// the newest that came from the conversation
    newest: Option<(Seq, Seq)>,
}

/// Counts again. `entries` and `listing` are of one moment. Of what was trimmed nobody can: the first entry that is
/// kept of each conversation is believed then.
pub(super) fn count(entries: &[InboxEntry], trim: Seq, listing: &Listing, report: &mut Report) {
    let is_whole = entries.first().map_or(trim == Seq::FIRST, |first| first.prev_seq.is_none());
    let mut made: BTreeMap<&ConversationId, Made> = BTreeMap::new();
    for entry in entries {
        let is_known = is_whole || made.contains_key(&entry.conversation);
        let of = made.entry(&entry.conversation).or_default();
        let messages = of.messages + u64::from(entry.entry.kind == Kind::Message);
        if is_known && entry.messages != messages {
            report.find(format!(
                "entry {}: it is message {} of {}, there are {messages}",
                entry.seq, entry.messages, entry.conversation
            ));
        }
        // Goes on from what the entry says, so that one break is one finding.
        of.messages = entry.messages;
        if !entry.entry.kind.is_mark() {
            of.newest = Some((entry.seq, entry.entry.seq));
        }
    }
    let mut read_of_all = 0;
    for listed in &listing.list {
        let of = made.remove(&listed.conversation);
        read_of_all += listed.read.map_or(0, |read| read.messages);
        if is_whole || of.is_some() {
            compare(listed, &of.unwrap_or_default(), entries, trim, report);
        }
    }
    for conversation in made.keys() {
        report.find(format!("{conversation} is in the inbox, and not in the list"));
    }
    if read_of_all != listing.read {
        report.find(format!("{} messages are read, the list's read marks make {read_of_all}", listing.read));
    }
}

fn compare(listed: &Listed, made: &Made, entries: &[InboxEntry], trim: Seq, report: &mut Report) {
    let conversation = &listed.conversation;
    if listed.messages != made.messages {
        let (said, there) = (listed.messages, made.messages);
        report.find(format!("the list counts {said} messages of {conversation}, there are {there}"));
    }
    // The newest may be trimmed, and a mark of the conversation be kept.
    let newest_is_trimmed = made.newest.is_none() && listed.inbox_seq.is_some_and(|seq| seq < trim);
    if !newest_is_trimmed && listed.inbox_seq != made.newest.map(|(seq, _)| seq) {
        report.find(format!("the list does not name the newest entry of {conversation}"));
    }
    if made.newest.is_some_and(|(_, of_conversation)| of_conversation > listed.last) {
        report.find(format!("the list ends {conversation} at {}, and its entries go on", listed.last));
    }
    let Some(read) = listed.read else { return };
    let found = entries.binary_search_by_key(&read.inbox_seq, |entry| entry.seq).ok().map(|nth| &entries[nth]);
    let is_trimmed = entries.first().is_none_or(|first| first.prev_seq.is_some() && read.inbox_seq < first.seq);
    match found {
        Some(entry) if entry.conversation != *conversation => {
            report.find(format!("{conversation} is read up to {}, an entry of another one", read.inbox_seq));
        }
        Some(entry) if entry.messages != read.messages => report.find(format!(
            "{conversation} is read up to {}: that is {} messages, the mark says {}",
            read.inbox_seq, entry.messages, read.messages
        )),
        Some(_) => {}
        None if is_trimmed => {}
        None => report.find(format!("{conversation} is read up to {}, where nothing is", read.inbox_seq)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::walk::tests::inbox;
    use super::*;
    use seriatim_proto::command::ReadUpto;

    /// Five messages, of which three are read.
    fn sound() -> (Vec<InboxEntry>, Listing) {
        let entries = inbox(5);
        let read = ReadUpto { inbox_seq: entries[2].seq, seq: entries[2].entry.seq, messages: 3 };
        let listed = Listed {
            conversation: entries[0].conversation.clone(),
            last: entries[4].entry.seq,
            inbox_seq: Some(entries[4].seq),
            messages: 5,
            read: Some(read),
            muted: false,
            archived: false,
        };
        (entries, Listing { list: vec![listed], read: 3 })
    }

    fn findings(entries: &[InboxEntry], listing: &Listing) -> Vec<String> {
        // What is missing at its start was trimmed.
        let trim = entries.first().filter(|first| first.prev_seq.is_some()).map_or(Seq::FIRST, |first| first.seq);
        findings_behind(entries, trim, listing)
    }

    fn findings_behind(entries: &[InboxEntry], trim: Seq, listing: &Listing) -> Vec<String> {
        let mut report = Report::default();
        count(entries, trim, listing, &mut report);
        report.all
    }

    #[test]
    fn sound_counts_have_no_findings_also_behind_a_trim() {
        let (entries, listing) = sound();
        assert_eq!(findings(&entries, &listing), [""; 0]);
        assert_eq!(findings(&entries[1..], &listing), [""; 0]);
        assert_eq!(findings(&entries[4..], &listing), [""; 0], "the mark's entry is trimmed");
        assert_eq!(findings(&[], &Listing::default()), [""; 0]);
        let all = entries[4].seq.next();
        assert_eq!(findings_behind(&[], all, &listing), [""; 0], "everything is trimmed");
        // A mark is kept, and the newest message of its conversation is not.
        let mut mark = entries[4].clone();
        (mark.seq, mark.prev_seq, mark.entry.kind) = (all, Some(entries[4].seq), Kind::Read);
        assert_eq!(findings_behind(&[mark.clone()], all, &listing), [""; 0]);
        let said = findings_behind(&[mark], entries[4].seq, &listing);
        assert!(said.iter().any(|finding| finding.contains("newest")), "it is not trimmed: {said:?}");
    }

    #[test]
    fn each_wrong_count_is_found() {
        type Change = fn(&mut Vec<InboxEntry>, &mut Listing);
        let changes: [(&str, Change); 9] = [
            ("it is message 9 of", |entries, _| {
                entries[1].messages = 9;
                entries[2].messages = 10;
                entries[3].messages = 11;
                entries[4].messages = 12;
            }),
            ("the list counts 4 messages", |_, listing| listing.list[0].messages = 4),
            ("does not name the newest entry", |_, listing| listing.list[0].inbox_seq = None),
            ("its entries go on", |_, listing| listing.list[0].last = Seq::FIRST),
            ("the mark says 2", |_, listing| {
                listing.list[0].read.as_mut().unwrap().messages = 2;
                listing.read = 2;
            }),
            ("where nothing is", |_, listing| {
                listing.list[0].read.as_mut().unwrap().inbox_seq = Seq::FIRST;
            }),
            ("the list's read marks make 3", |_, listing| listing.read = 4),
            ("and not in the list", |_, listing| *listing = Listing::default()),
            ("the list counts 5 messages", |entries, _| entries.clear()),
        ];
        for (says, change) in changes {
            let (mut entries, mut listing) = sound();
            change(&mut entries, &mut listing);
            let found = findings(&entries, &listing);
            assert!(found.iter().any(|finding| finding.contains(says)), "{says}: {found:?}");
        }
    }
}
