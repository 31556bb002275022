//! Inbox: what devices were given, against the conversations and against itself.
//!
//! ```text
//!  inbox.jsonl, conversation.jsonl ─▶ records ─▶ contents       each entry once, all copies agree
//!                                        │ ├──▶ conversations   all entries, who was a member when
//!                                        │ ├──▶ timelines       one per user, from all his devices
//!                                        │ └──▶ pages, sessions, cursors, readings
//!                                        └────▶ delivery        conversations × timelines
//! ```
//! # Reading order
//! [`records`] → [`conversations`] → [`timeline`] → [`pages`] → [`delivery`].

mod contents;
mod conversations;
mod cursors;
mod delivery;
mod pages;
mod readings;
mod records;
mod sessions;
mod timeline;

use std::collections::{BTreeMap, HashMap};

pub(crate) use records::Records;

use super::log::Shown;
use super::verdict::Findings;
use contents::Contents;
use conversations::Conversation;
use timeline::Timeline;

/// What the inboxes left to say.
#[derive(Debug, Default)]
pub(crate) struct InboxEnd {
    /// users whose final sync is not there or not complete
    pub(crate) unsynced: Vec<String>,
    /// conversations that nobody who may see all of it read at the end
    pub(crate) unread: Vec<String>,
    /// bodies that the final sync did not bring
    pub(crate) bodies_missing: u64,
    pub(crate) conversations: BTreeMap<u32, Conversation>,
}

/// Judges everything that devices were given.
pub(crate) fn check(records: &Records, findings: &mut Findings) -> InboxEnd {
    let conversations = conversations::all(records, findings);
    readings::check(records, &conversations, findings);
    let mut timelines = BTreeMap::new();
    for (user, inbox) in &records.inboxes {
        let timeline = Timeline::of(records, *user, inbox, findings);
        timeline.check(records, *user, findings);
        pages::check(records, *user, inbox, &timeline, findings);
        sessions::check(records, *user, inbox, findings);
        cursors::check(records, *user, inbox, findings);
        timelines.insert(*user, timeline);
    }
    let mut end = InboxEnd::default();
    delivery::check(records, &conversations, &timelines, &mut end.unsynced, findings);
    let unread = conversations.values().filter(|conversation| !conversation.is_read);
    end.unread = unread.map(|conversation| records.contents.names.text(conversation.number).to_owned()).collect();
    let finals = records.inboxes.values().flat_map(|inbox| &inbox.pages).filter(|page| page.last);
    end.bodies_missing = finals.map(|page| page.bodies_missing).sum();
    end.conversations = conversations;
    end
}

/// Of one conversation: what was shown of it, and the ids that are no messages.
pub(crate) type Witness<'a> = (Vec<Shown<'a>>, Vec<&'a str>);

/// What the inboxes and readings have to say about each conversation's log, by its name.
pub(crate) fn witnesses<'a>(records: &'a Records, end: &InboxEnd) -> HashMap<&'a str, Witness<'a>> {
    let contents = &records.contents;
    let mut witnesses: HashMap<&str, Witness<'a>> = HashMap::new();
    for (place, content) in contents.list.iter().enumerate() {
        let (shown, unsent) = witnesses.entry(contents.names.text(content.conversation)).or_default();
        let first = &contents.first[place];
        let id = contents.names.text(content.id);
        shown.push(Shown {
            from: 0,
            limit: 0,
            is_read: false,
            call: first.call,
            ret: first.at,
            items: vec![(content.conversation_seq, id)],
            file: first.file,
            line: first.line,
        });
        if contents.names.text(content.kind) != "message" {
            unsent.push(id);
        }
    }
    for reading in &records.readings {
        let conversation = end.conversations.get(&reading.conversation);
        // Of others it is no read of the whole: they see their stays.
        if conversation.is_some_and(|conversation| conversation.sees_all(contents, reading.user)) {
            let (shown, _) = witnesses.entry(contents.names.text(reading.conversation)).or_default();
            shown.push(whole_read(contents, reading));
        }
    }
    witnesses
}

fn whole_read<'a>(contents: &'a Contents, reading: &records::Reading) -> Shown<'a> {
    let item = |content: u32| {
        let content = contents.of(content);
        (content.conversation_seq, contents.names.text(content.id))
    };
    Shown {
        from: 0,
        limit: 0,
        is_read: true,
        call: reading.call,
        ret: reading.ret,
        items: reading.entries.iter().map(|(_, content)| item(*content)).collect(),
        file: crate::history::CONVERSATION_FILE,
        line: reading.line,
    }
}
