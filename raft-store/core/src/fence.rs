//! Fence: may this write of a holder be applied, and is it its turn?
//!
//! ```text
//! slot owned? ─▶ epoch? ─▶ n lower: Passed ─▶ released? ─▶ n higher: Expected ─▶ admitted: n is consumed
//! ```
//!
//! # Invariants
//! I3: no write under a stale epoch is applied, and each `n` of an epoch is applied once, in order.

use seriatim_proto::chaos::{self, Sabotage};
use seriatim_proto::command::Reject;
use seriatim_proto::guard::{self, Guard};
use seriatim_proto::ids::{Fence, SlotId};

use crate::apply::{At, Held, No};
use crate::key::Key;
use crate::row::{Row, SlotRow};
use crate::view::{Fatal, Rows, View};

/// Checks the fence and consumes its `n`.
pub(crate) fn admit(view: &mut impl View, at: At, fence: Fence) -> Result<Held, No> {
    let Some(mut row) = owned_slot(view, at, fence.slot)? else { return Err(Reject::WrongGroup(fence.slot).into()) };
    let unfenced = chaos::sabotaged(Sabotage::FenceAtDoorOnly) || guard::is_out(Guard::FenceEpoch);
    if fence.epoch != row.epoch && unfenced {
        return Ok(Held { slot: fence.slot, epoch: fence.epoch, generation: row.generation });
    }
    if fence.epoch != row.epoch {
        return Err(Reject::Fenced { current: row.epoch }.into());
    }
    let in_order = !guard::is_out(Guard::FenceN);
    if fence.n < row.next_n && in_order {
        return Err(Reject::Passed.into());
    }
    if row.lease.is_none() {
        return Err(Reject::Fenced { current: row.epoch }.into());
    }
    if fence.n > row.next_n && in_order {
        return Err(Reject::Expected { n: row.next_n }.into());
    }
    row.next_n += 1;
    view.put(Key::holder(fence.slot), Row::Holder(row));
    Ok(Held { slot: fence.slot, epoch: row.epoch, generation: row.generation })
}

/// The row of a slot that this group owns.
pub(crate) fn owned_slot(view: &impl View, at: At, slot: SlotId) -> Result<Option<SlotRow>, Fatal> {
    Ok(view.slot_row(slot)?.filter(|row| row.group == at.group))
}
