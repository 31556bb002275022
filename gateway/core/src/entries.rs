//! Entries: stored, pushed and synced entries as wire messages.

use bytes::Bytes;
use seriatim_proto::codec;
use seriatim_proto::command::{Content, EntryRef, Kind, pin_of, reaction_of};
use seriatim_proto::ids::{ConversationId, Seq, UserId};
use seriatim_proto::logic::{Body, HistoryEntry, PushEntry, SyncEntry};
use seriatim_proto::wire::{self, v1};

/// A pushed entry as `user` sees it.
pub(crate) fn pushed(entry: &PushEntry, user: &UserId) -> v1::Entry {
    let mut out = header(&entry.entry, &entry.conversation, user);
    out.seq = entry.seq.get();
    out.prev_seq = wire::seq_to_wire(entry.prev_seq);
    out.ordinal = entry.ordinal;
    put_content(&mut out, entry.entry.kind, &entry.salt, &entry.body);
    out
}

/// A synced entry as `user` sees it, chain included.
pub(crate) fn synced(entry: &SyncEntry, user: &UserId) -> v1::Entry {
    let inbox = &entry.entry;
    let mut out = header(&inbox.entry, &inbox.conversation, user);
    out.seq = inbox.seq.get();
    out.prev_seq = wire::seq_to_wire(inbox.prev_seq);
    out.ordinal = inbox.ordinal;
    out.chain = Bytes::copy_from_slice(&inbox.chain.0);
    match &entry.body {
        Body::Here { salt, body } => put_content(&mut out, inbox.entry.kind, salt, body),
        Body::Erased => out.body_state = v1::entry::Body::Erased.into(),
        Body::Trimmed => out.body_state = v1::entry::Body::Trimmed.into(),
        Body::Unavailable => out.body_state = v1::entry::Body::Unavailable.into(),
    }
    out
}

/// An entry of a conversation as `user` sees it: its places in inboxes stay 0.
pub(crate) fn of_history(entry: &HistoryEntry, conversation: &ConversationId, user: &UserId) -> v1::Entry {
    let message = &entry.message;
    let mut out = header(&message.entry, conversation, user);
    out.ordinal = message.ordinal;
    match message.erased {
        true => out.body_state = v1::entry::Body::Erased.into(),
        false => put_content(&mut out, message.entry.kind, &message.salt, &message.body),
    }
    out
}

fn header(entry: &EntryRef, conversation: &ConversationId, user: &UserId) -> v1::Entry {
    v1::Entry {
        conversation: Some(wire::conversation_to_wire(conversation, user)),
        conversation_seq: entry.seq.get(),
        kind: wire::kind_to_wire(entry.kind).into(),
        sender: entry.sender.as_str().to_owned(),
        message_id: Bytes::copy_from_slice(&entry.message_id.0),
        at_ms: entry.at_ms,
        body_hash: Bytes::copy_from_slice(&entry.body_hash.0),
        target: wire::seq_to_wire(entry.kind.target()),
        ..Default::default()
    }
}

fn put_content(out: &mut v1::Entry, kind: Kind, salt: &Bytes, body: &Bytes) {
    out.body_state = v1::entry::Body::Here.into();
    // What cannot be read is shown as missing, never as empty.
    let read = match kind {
        Kind::Message | Kind::Edit { .. } => {
            out.salt = salt.clone();
            out.body = body.clone();
            true
        }
        Kind::Create | Kind::Members => put_members(out, body),
        Kind::Recall { .. } => body.is_empty(),
        Kind::Reaction { .. } => match reaction_of(body) {
            Some((emoji, set)) => {
                out.emoji = emoji.as_str().to_owned();
                out.unset = !set;
                true
            }
            None => false,
        },
        // Their header says it all.
        Kind::Read => true,
        Kind::Mute { on } | Kind::Archive { on } => {
            out.unset = !on;
            true
        }
        Kind::Pin { .. } => match pin_of(body) {
            Some(set) => {
                out.unset = !set;
                true
            }
            None => false,
        },
    };
    if !read {
        out.body_state = v1::entry::Body::Unavailable.into();
    }
}

fn put_members(out: &mut v1::Entry, body: &Bytes) -> bool {
    let names = |users: Vec<UserId>| users.iter().map(|user| user.as_str().to_owned()).collect();
    match codec::decode::<Content>(body) {
        Ok(Content::Create { members }) => out.added = names(members),
        Ok(Content::Members { add, remove }) => {
            out.added = names(add);
            out.removed = names(remove);
        }
        Ok(Content::Message { .. } | Content::Amend { .. }) | Err(_) => return false,
    }
    true
}

/// At least what the entry takes in a frame.
pub(crate) fn bytes_of(entry: &v1::Entry) -> usize {
    let names = |names: &[String]| names.iter().map(|name| name.len() + 2).sum::<usize>();
    HEADER_BYTES + entry.body.len() + names(&entry.added) + names(&entry.removed)
}

/// More than all fields but body and members ever take: four names, five ids of 16 bytes, a salt, numbers and tags.
const HEADER_BYTES: usize = 456;

/// Cuts entries so that they fit `bytes_max`; the first always stays. Says whether something was cut.
pub(crate) fn cut(entries: &mut Vec<v1::Entry>, bytes_max: usize) -> bool {
    let mut bytes = 0;
    let fitting = entries.iter().take_while(|entry| {
        bytes += bytes_of(entry);
        bytes <= bytes_max
    });
    let keep = fitting.count().max(1);
    let cut = keep < entries.len();
    entries.truncate(keep);
    cut
}

/// First seq behind the last of these conversation entries.
pub(crate) fn end_of(seq: u64) -> Option<Seq> {
    Seq::new(seq).map(Seq::next)
}
