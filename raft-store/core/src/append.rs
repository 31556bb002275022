//! Append: an entry of a conversation, and the inbox entries of members in the same slot.
//!
//! Checks first, in the order of design.md §3.7: dedupe, follows, membership, seq; then all writes. So a rejected
//! append writes nothing. What an amendment may do is `amend.rs`'s, between membership and seq. Rows touched by a direct message: conversation, dedupe, message; and for the co-located
//! user inbox, inbox entry and `last`.
//!
//! # Invariants
//! I1, I2, I5 through `NamespaceRow`; I7: dedupe is written with the message; I8: inboxes take entries in the
//! order of the conversation; I9: a member in the same slot gets the entry here, or by a delivery, never both.

use std::collections::BTreeSet;

use seriatim_proto::command::{
    Act, Append, Appended, Content, DeliveryRecord, EntryRef, Kind, LocalOutcome, Outcome, Reject, Segment, identity,
};
use seriatim_proto::guard::{self, Guard};
use seriatim_proto::ids::{BodyHash, Owner, Seq, UserId};
use seriatim_proto::store::StoredMessage;
use seriatim_proto::{chain, limits};

use crate::amend;
use crate::apply::{Held, No};
use crate::inbox::Inbox;
use crate::input;
use crate::key::{Item, Key};
use crate::membership::{self, Owed, Place, Roll};
use crate::namespace::{TakeError, checked};
use crate::row::{ConversationRow, DedupeRow, Row};
use crate::view::{Reader, Rows, View};

/// Appends an entry, or says why not.
pub(crate) fn append(view: &mut impl View, held: Held, append: &Append) -> Result<Outcome, No> {
    if !is_valid(held, append) {
        return Err(Reject::Malformed.into());
    }
    let place = Place { slot: held.slot, tenant: append.tenant, conversation: &append.conversation };
    let key = tenant_key(held, append, Item::Namespace(Owner::Conversation(append.conversation.clone())));
    let found = view.conversation_row(held.slot, append.tenant, &append.conversation)?;
    let mut row = found.unwrap_or_else(ConversationRow::new);
    let before = checked(&key, row.namespace)?;
    if append.delivered.as_ref().is_some_and(|record| !record_is_valid(record, before.last_seq)) {
        return Err(Reject::Malformed.into());
    }

    let (salt, body) = append.content.stored();
    let body_hash = chain::body_hash(&salt, &body);
    if let Some(seq) = check_dedupe(view, held, append, before.trim, body_hash)? {
        return Ok(Outcome::Appended(duplicate(append, seq)));
    }
    let roll = membership::plan(view, place, &row, &append.sender, &append.content)?;
    let at_ms = append.at_ms.max(row.at_ms);
    let amended = amend::plan(view, place, append, at_ms)?;
    let (seq, segment) = row.namespace.allot(held, append.place, 1)?;
    let locals = plan_locals(view, held, append, &roll, before.last_seq)?;

    // Nothing is refused from here on.
    let (sender, message_id) = (append.sender.clone(), append.message_id);
    let entry = EntryRef { seq, kind: append.content.kind(), sender, message_id, body_hash, at_ms };
    write_message(view, held, append, &mut row, &entry, (salt, body));
    amended.write(view, seq);
    if let Some(record) = &append.delivered {
        row.delivered = record.clone();
    }
    let (owed_here, owed_elsewhere) = (roll.owed_here, roll.owed_elsewhere);
    roll.write(view, place, &mut row, seq);
    let local: Vec<LocalOutcome> = locals.into_iter().map(|local| local.write(view, &entry)).collect();
    let written = local.iter().filter(|outcome| outcome.written.is_some()).count();
    assert!(written <= owed_here as usize, "I9: only members get the entry");
    if !row.pending && (owed_elsewhere > 0 || written < owed_here as usize) {
        row.pending = true;
        view.put(Key::pending(held.slot, append.tenant, append.conversation.clone()), Row::Pending);
    }
    view.put(key, Row::Conversation(row));
    let prev_seq = before.last_seq;
    Ok(Outcome::Appended(Appended { seq, duplicate: false, entry: Some(entry), prev_seq, segment, local }))
}

fn tenant_key(held: Held, append: &Append, item: Item) -> Key {
    Key::tenant(held.slot, append.tenant, item)
}

fn is_valid(held: Held, append: &Append) -> bool {
    let content_is_valid = match &append.content {
        Content::Message { salt, body } => {
            salt.len() <= limits::SALT_BYTES_MAX as usize && body.len() <= limits::MESSAGE_BYTES_MAX as usize
        }
        Content::Create { members } => members.iter().all(input::user_is_valid),
        Content::Members { add, remove } => add.iter().chain(remove).all(input::user_is_valid),
        Content::Amend { target, act } => input::seq_is_valid(*target) && act_is_valid(act),
    };
    let locals_are_valid = append
        .local
        .iter()
        .all(|local| input::inbox_is_in(held.slot, append.tenant, &local.user) && input::place_is_valid(local.place));
    let locals_are_distinct = append.local.len() < 2
        || append.local.iter().map(|local| &local.user).collect::<BTreeSet<_>>().len() == append.local.len();
    input::conversation_is_in(held.slot, append.tenant, &append.conversation)
        && input::user_is_valid(&append.sender)
        && input::place_is_valid(append.place)
        && append.known.is_none_or(input::seq_is_valid)
        && content_is_valid
        && locals_are_valid
        && locals_are_distinct
}

fn act_is_valid(act: &Act) -> bool {
    match act {
        Act::Edit { salt, body, .. } => {
            salt.len() <= limits::SALT_BYTES_MAX as usize && body.len() <= limits::MESSAGE_BYTES_MAX as usize
        }
        Act::React { emoji, .. } => input::name_is_valid(emoji.as_str()),
        Act::Recall { .. } | Act::Pin { .. } => true,
    }
}

/// Delivery cursors name entries that exist, and slots once that are not before `all`.
pub(crate) fn record_is_valid(record: &DeliveryRecord, last_seq: Option<Seq>) -> bool {
    record.all <= last_seq
        && record.behind.len() <= limits::DELIVERY_SLOTS_BEHIND_MAX as usize
        && record.behind.iter().all(|(slot, position)| slot.0 < limits::SLOTS && *position <= record.all)
        && record.behind.windows(2).all(|pair| pair[0].0 < pair[1].0)
}

/// I7: the place of an earlier attempt; or a no, if this message id cannot be settled now.
fn check_dedupe(
    view: &impl Reader,
    held: Held,
    append: &Append,
    trim: Seq,
    body_hash: BodyHash,
) -> Result<Option<Seq>, No> {
    let body_hash = identity(append.content.kind(), body_hash);
    let find = |id| view.dedupe_row(held.slot, append.tenant, &append.conversation, &append.sender, id);
    let found = if guard::is_out(Guard::Dedupe) { None } else { find(append.message_id)? };
    match found {
        Some(DedupeRow::Committed { seq, body_hash: committed }) if committed == body_hash => return Ok(Some(seq)),
        Some(DedupeRow::Committed { .. }) => return Err(Reject::Conflict.into()),
        Some(DedupeRow::Cancelled { .. }) => return Err(Reject::Cancelled.into()),
        // A device that knew nothing knew the tail of an empty conversation.
        None if append.known.unwrap_or(Seq::FIRST) < trim => return Err(Reject::Expired.into()),
        None => {}
    }
    match append.follows {
        Some(before) if find(before)?.is_none() => Err(Reject::OutOfOrder.into()),
        _ => Ok(None),
    }
}

fn duplicate(append: &Append, seq: Seq) -> Appended {
    let local = append.local.iter().map(|_| LocalOutcome { written: None, segment: None }).collect();
    Appended { seq, duplicate: true, entry: None, prev_seq: None, segment: None, local }
}

fn write_message(
    view: &mut impl View,
    held: Held,
    append: &Append,
    row: &mut ConversationRow,
    entry: &EntryRef,
    (salt, body): (bytes::Bytes, bytes::Bytes),
) {
    let counted = entry.kind == Kind::Message;
    let before = row.namespace;
    let mut message = StoredMessage {
        entry: entry.clone(),
        prev_seq: before.last_seq,
        ordinal: before.ordinal + u64::from(counted),
        chain: before.chain,
        salt,
        body,
        erased: false,
    };
    message.chain = message.link_from(before.chain);
    row.namespace.enter(entry.seq, counted, message.chain);
    assert_eq!(row.namespace.ordinal, message.ordinal, "I5: the row counts what the entry counts");
    assert!(row.at_ms <= entry.at_ms, "times of a conversation never fall");
    row.at_ms = entry.at_ms;
    row.first_seq.get_or_insert(entry.seq);
    view.put(tenant_key(held, append, Item::Message(append.conversation.clone(), entry.seq)), Row::Message(message));
    let committed = DedupeRow::Committed { seq: entry.seq, body_hash: identity(entry.kind, entry.body_hash) };
    let item = Item::Dedupe(append.conversation.clone(), append.sender.clone(), append.message_id);
    view.put(tenant_key(held, append, item), Row::Dedupe(committed));
}

/// A co-located inbox: what will be written to it.
struct Local<'a> {
    inbox: Inbox<'a>,
    /// where the entry goes, `None` if it must be delivered or is not owed
    seq: Option<Seq>,
    segment: Option<Segment>,
}

impl Local<'_> {
    fn write(mut self, view: &mut impl View, entry: &EntryRef) -> LocalOutcome {
        let written = self.seq.map(|seq| self.inbox.enter(view, seq, entry));
        if written.is_some() || self.segment.is_some() {
            self.inbox.save_row(view);
        }
        if written.is_some() {
            self.inbox.save_last(view);
        }
        LocalOutcome { written, segment: self.segment }
    }
}

/// Plans the co-located inboxes. One whose user is not owed the entry, or that lacks entries before it, is left
/// to deliveries; a seq that an inbox cannot take refuses the whole append.
fn plan_locals<'a>(
    view: &impl Reader,
    held: Held,
    append: &'a Append,
    roll: &Roll,
    prev_seq: Option<Seq>,
) -> Result<Vec<Local<'a>>, No> {
    let place = Place { slot: held.slot, tenant: append.tenant, conversation: &append.conversation };
    let plan = |user: &'a UserId, wanted| {
        let mut inbox = Inbox::load(view, held.slot, append.tenant, user, &append.conversation)?;
        let write = match roll.owed(view, place, prev_seq, user)? {
            Owed::No => false,
            Owed::After(after) => after <= inbox.last(),
        };
        match inbox.row.allot(held, wanted, 1) {
            Ok((seq, segment)) => Ok(Local { inbox, seq: write.then_some(seq), segment }),
            Err(TakeError::Refused) if write => Err(Reject::SeqRefused.into()),
            // Nothing to write here, or nothing left in the generation: the entry is delivered, or fails there.
            Err(TakeError::Refused | TakeError::Exhausted) => Ok(Local { inbox, seq: None, segment: None }),
        }
    };
    append.local.iter().map(|local| plan(&local.user, local.place)).collect()
}
