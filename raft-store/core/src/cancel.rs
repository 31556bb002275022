//! Cancel: a message id is settled without its message.
//!
//! A tombstone under the id makes every later attempt of the send a no; an attempt that was there before makes the
//! cancel a no. Whichever is applied first decides, for ever (design.md §4).
//!
//! # Invariants
//! I7: one message id has one verdict. A tombstone never replaces a message, nor a message a tombstone.

use seriatim_proto::command::{CancelSend, Outcome, Reject};
use seriatim_proto::ids::Seq;

use crate::apply::{Held, No};
use crate::input;
use crate::key::{Item, Key};
use crate::membership::{self, Place};
use crate::row::{DedupeRow, Row};
use crate::view::{Rows, View};

/// Settles a message id, or says why not.
pub(crate) fn cancel_send(view: &mut impl View, held: Held, command: &CancelSend) -> Result<Outcome, No> {
    let CancelSend { tenant, conversation, sender, message_id, known } = command;
    let is_valid = input::conversation_is_in(held.slot, *tenant, conversation)
        && input::user_is_valid(sender)
        && known.is_none_or(input::seq_is_valid);
    if !is_valid {
        return Err(Reject::Malformed.into());
    }
    match view.dedupe_row(held.slot, *tenant, conversation, sender, *message_id)? {
        Some(DedupeRow::Committed { seq, .. }) => return Ok(Outcome::SendSettled(Some(seq))),
        Some(DedupeRow::Cancelled { .. }) => return Ok(Outcome::SendSettled(None)),
        None => {}
    }
    let row = view.conversation_row(held.slot, *tenant, conversation)?;
    let (trim, tail) = row.map_or((Seq::FIRST, Seq::FIRST), |row| (row.namespace.trim, row.namespace.tail));
    // Strangers learn nothing, and leave no rows in groups.
    if !membership::was_member(view, Place { slot: held.slot, tenant: *tenant, conversation }, sender)? {
        return Err(Reject::NotFound.into());
    }
    // Its row may have gone with its message: nobody knows any more.
    let known = known.unwrap_or(Seq::FIRST);
    if known < trim {
        return Err(Reject::Expired.into());
    }
    // As long as an attempt with this `known` is no `Expired`, the row stays.
    let place = tail.max(known);
    let item = Item::Dedupe(conversation.clone(), sender.clone(), *message_id);
    view.put(Key::tenant(held.slot, *tenant, item), Row::Dedupe(DedupeRow::Cancelled { place }));
    let item = Item::Tombstone(conversation.clone(), place, sender.clone(), *message_id);
    view.put(Key::tenant(held.slot, *tenant, item), Row::Tombstone);
    Ok(Outcome::SendSettled(None))
}
