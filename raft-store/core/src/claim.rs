//! Claim: who holds a slot (design.md §3.2).
//!
//! # Invariants
//! I3: each claim raises the epoch, so at most one lease owns each epoch.

use seriatim_proto::command::{Outcome, Reject};
use seriatim_proto::guard::{self, Guard};
use seriatim_proto::ids::{Epoch, LeaseId, NodeId, SlotId};

use crate::apply::{At, Event, Held, No};
use crate::fence::owned_slot;
use crate::key::Key;
use crate::row::Row;
use crate::view::{Fatal, Rows, View};

/// Claims a slot for a live lease. A repeat by the same lease returns the same and resets nothing.
pub(crate) fn claim(
    view: &mut impl View,
    at: At,
    slot: SlotId,
    lease: LeaseId,
    seen: Epoch,
    events: &mut Vec<Event>,
) -> Result<Outcome, No> {
    let Some(mut row) = owned_slot(view, at, slot)? else { return Err(Reject::WrongGroup(slot).into()) };
    let Some(claimant) = view.lease_row(at.group, lease)? else { return Err(Reject::LeaseGone.into()) };
    if row.lease == Some(lease) && seen.0.checked_add(1) == Some(row.epoch.0) {
        return Ok(Outcome::Claimed { epoch: row.epoch });
    }
    let holder = match row.lease {
        Some(held) if held != lease => view.lease_row(at.group, held)?.map(|row| row.node),
        _ => None,
    };
    if seen != row.epoch || holder.is_some() && !guard::is_out(Guard::ClaimOfHeld) {
        return Err(Reject::ClaimRefused { epoch: row.epoch, holder }.into());
    }
    row.epoch = seen.next();
    row.lease = Some(lease);
    row.next_n = 0;
    row.heir = None;
    view.put(Key::holder(slot), Row::Holder(row));
    events.push(Event::Holder(row.holder_row(slot, Some(claimant.node))));
    Ok(Outcome::Claimed { epoch: row.epoch })
}

/// Gives the slot back: nothing more is applied under its epoch.
pub(crate) fn release(
    view: &mut impl View,
    held: Held,
    heir: Option<NodeId>,
    events: &mut Vec<Event>,
) -> Result<Outcome, No> {
    let key = Key::holder(held.slot);
    let mut row = view.slot_row(held.slot)?.ok_or_else(|| Fatal::broken(&key, "gone after its fence"))?;
    row.lease = None;
    row.heir = heir;
    view.put(key, Row::Holder(row));
    events.push(Event::Holder(row.holder_row(held.slot, None)));
    Ok(Outcome::Released)
}
