//! Mark: what a user says about a conversation to his own devices, and how much he has not read.
//!
//! A mark is a register beside the inbox: it says how far the conversation is read, whether it is muted, archived. One
//! that changes something writes an entry into the user's own inbox in the same command, so that his other devices
//! learn of it as of everything else; one that does not is answered and writes nothing.
//!
//! ```text
//! unread of a conversation = messages of it in the inbox   - messages up to its read mark
//! unread of all            = messages in the inbox         - the sum of those up to each read mark
//! ```
//! Both are subtractions: an entry of the inbox knows how many messages of its conversation came up to it.
//!
//! # Invariants
//! I11: a read mark never goes back.

use seriatim_proto::command::{EntryRef, Kind, Listed, Mark, MarkOutcome, MarkWrite, Outcome, ReadUpto, Reject};
use seriatim_proto::ids::{ConversationId, MessageId, SlotId, TenantId, UserId};
use seriatim_proto::store::InboxEntry;
use seriatim_proto::{chain, limits};

use crate::apply::{Held, No};
use crate::inbox::Inbox;
use crate::input;
use crate::key::{Item, Key, Scan, Scope};
use crate::row::{LastRow, MarkRow, Row};
use crate::view::{Fatal, Reader, Rows, View};

/// Sets marks, each with an outcome of its own.
pub(crate) fn set_marks(view: &mut impl View, held: Held, marks: &[MarkWrite]) -> Result<Outcome, No> {
    let is_valid = |write: &MarkWrite| {
        let seq_is_valid = match write.mark {
            Mark::Read { upto } => input::seq_is_valid(upto),
            Mark::Mute { .. } | Mark::Archive { .. } => true,
        };
        input::inbox_is_in(held.slot, write.tenant, &write.user)
            && input::conversation_is_valid(&write.conversation)
            && input::place_is_valid(write.place)
            && seq_is_valid
    };
    if marks.len() > limits::MARKS_MAX as usize || !marks.iter().all(is_valid) {
        return Err(Reject::Malformed.into());
    }
    let outcomes = marks.iter().map(|write| set_mark(view, held, write));
    Ok(Outcome::MarksSet(outcomes.collect::<Result<_, Fatal>>()?))
}

fn set_mark(view: &mut impl View, held: Held, write: &MarkWrite) -> Result<MarkOutcome, Fatal> {
    let MarkWrite { tenant, user, conversation, mark, place, at_ms } = write;
    let Some(last) = view.last_row(held.slot, *tenant, user, conversation)? else { return Ok(MarkOutcome::NotFound) };
    let before = view.mark_row(held.slot, *tenant, user, conversation)?.unwrap_or_default();
    let mut row = before;
    let (kind, seq) = match mark {
        Mark::Read { upto } => {
            let found = view.inbox_entry_row(held.slot, *tenant, user, *upto)?;
            // An entry of a mark says where the conversation was read, not how far it had come.
            let is_of_it = |entry: &InboxEntry| entry.conversation == *conversation && !entry.entry.kind.is_mark();
            let read = match found.filter(is_of_it) {
                Some(entry) => ReadUpto { inbox_seq: *upto, seq: entry.entry.seq, messages: entry.messages },
                // The newest of the conversation, which the list names, may have been trimmed.
                None if last.inbox_seq == Some(*upto) => {
                    ReadUpto { inbox_seq: *upto, seq: last.last, messages: last.messages }
                }
                None => return Ok(MarkOutcome::NotFound),
            };
            if before.read.is_none_or(|before| before.inbox_seq < read.inbox_seq) {
                row.read = Some(read);
            }
            (Kind::Read, read.seq)
        }
        Mark::Mute { on } => {
            row.muted = *on;
            (Kind::Mute { on: *on }, last.last)
        }
        Mark::Archive { on } => {
            row.archived = *on;
            (Kind::Archive { on: *on }, last.last)
        }
    };
    let listed = listed(conversation.clone(), last, row);
    if row == before {
        return Ok(MarkOutcome::Set { listed, written: None, segment: None });
    }
    let mut inbox = Inbox::load(view, held.slot, *tenant, user, conversation)?;
    let Ok((at, segment)) = inbox.row.allot(held, *place, 1) else { return Ok(MarkOutcome::SeqRefused) };
    raise_reading(view, held.slot, *tenant, user, before.read, row.read)?;
    let (message_id, body_hash) = (MessageId([0; 16]), chain::body_hash(&[], &[]));
    let entry = EntryRef { seq, kind, sender: user.clone(), message_id, body_hash, at_ms: *at_ms };
    let written = inbox.note(view, at, &entry);
    inbox.save_row(view);
    view.put(Key::tenant(held.slot, *tenant, Item::Mark(user.clone(), conversation.clone())), Row::Mark(row));
    Ok(MarkOutcome::Set { listed, written: Some((written, entry)), segment })
}

/// The sum over all read marks follows the one that rises.
fn raise_reading(
    view: &mut impl View,
    slot: SlotId,
    tenant: TenantId,
    user: &UserId,
    before: Option<ReadUpto>,
    after: Option<ReadUpto>,
) -> Result<(), Fatal> {
    let messages = |read: Option<ReadUpto>| read.map_or(0, |read| read.messages);
    let Some(risen) = messages(after).checked_sub(messages(before)) else {
        // The row that counts the conversation's messages was gone when the later entry came.
        view.miss("a later entry of a conversation counts fewer messages than an earlier one");
        return Ok(());
    };
    if risen > 0 {
        let sum = view.reading_row(slot, tenant, user)?.unwrap_or(0) + risen;
        view.put(Key::tenant(slot, tenant, Item::Reading(user.clone())), Row::Reading(sum));
    }
    Ok(())
}

fn listed(conversation: ConversationId, last: LastRow, mark: MarkRow) -> Listed {
    let LastRow { last, inbox_seq, messages } = last;
    let MarkRow { read, muted, archived } = mark;
    Listed { conversation, last, inbox_seq, messages, read, muted, archived }
}

/// A page of a user's conversations.
pub(crate) fn list(
    view: &impl Reader,
    slot: SlotId,
    tenant: TenantId,
    user: &UserId,
    after: Option<ConversationId>,
    limit: usize,
) -> Result<Vec<Listed>, Fatal> {
    let scan = Scan::Lasts { slot, tenant, user: user.clone(), after };
    let one = |(key, row): (Key, Row)| match (&key.scope, row) {
        (Scope::Tenant(_, Item::Last(_, conversation)), Row::Last(last)) => {
            let mark = view.mark_row(slot, tenant, user, conversation)?.unwrap_or_default();
            Ok(listed(conversation.clone(), last, mark))
        }
        _ => Err(Fatal::broken(&key, "a row of another kind")),
    };
    view.scan(&scan, limit)?.into_iter().map(one).collect()
}
