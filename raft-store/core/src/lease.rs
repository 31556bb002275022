//! Lease: a logic node's session with one group, and what the group owns.
//!
//! A lease's id is the place where it was opened, so it never repeats. Ending one is O(1): a slot row keeps the
//! lease's id, and a slot whose lease has no row is free to claim.

use seriatim_proto::command::{Outcome, Reject, SlotRange};
use seriatim_proto::ids::{Epoch, Generation, GroupId, LeaseId, NodeId, SlotId};
use seriatim_proto::limits;

use crate::apply::{At, Event, No, wrong_kind};
use crate::key::{GroupItem, Key};
use crate::meta;
use crate::row::{LeaseRow, OwnedRow, Row, SlotRow};
use crate::view::{Fatal, Rows, View};

/// Makes the group owner of its slots. The same again changes nothing; another content is refused.
pub(crate) fn own(
    view: &mut impl View,
    at: At,
    generation: Generation,
    slots: &[SlotRange],
    events: &mut Vec<Event>,
) -> Result<Outcome, No> {
    if at.group == GroupId::META {
        return Err(wrong_kind(at));
    }
    if !ranges_are_valid(slots) || generation.0 > GENERATION_LAST {
        return Err(Reject::Malformed.into());
    }
    let owned = OwnedRow { generation, slots: slots.to_vec() };
    match view.owned_row(at.group)? {
        Some(row) if row == owned => return Ok(Outcome::Owned),
        Some(_) => return Err(Reject::Malformed.into()),
        None => {}
    }
    for slot in slots.iter().flat_map(|range| range.first.0..range.end.0).map(SlotId) {
        let epoch = Epoch::first_of(generation);
        let row = SlotRow { group: at.group, generation, epoch, lease: None, next_n: 0, heir: None };
        view.put(Key::holder(slot), Row::Holder(row));
    }
    view.put(Key::group(at.group, GroupItem::Owned), Row::Owned(owned));
    events.push(Event::Owned);
    Ok(Outcome::Owned)
}

/// Opens a lease of a data group. In group 0 leases come with `OpenNode`.
pub(crate) fn open(view: &mut impl View, at: At, node: NodeId, events: &mut Vec<Event>) -> Result<Outcome, No> {
    if at.group == GroupId::META {
        return Err(wrong_kind(at));
    }
    // Before `Own` the group does not know its generation, so it has no lease ids to give.
    let Some(owned) = view.owned_row(at.group)? else { return Err(wrong_kind(at)) };
    Ok(Outcome::Leased(grant(view, at, owned.generation, node, events)?))
}

/// Writes a lease.
pub(crate) fn grant(
    view: &mut impl View,
    at: At,
    generation: Generation,
    node: NodeId,
    events: &mut Vec<Event>,
) -> Result<LeaseId, Fatal> {
    let lease = LeaseId { generation, index: at.index, place: at.place };
    view.put(Key::group(at.group, GroupItem::Lease(lease)), Row::Lease(LeaseRow { node }));
    events.push(Event::LeaseOpened { lease, node });
    Ok(lease)
}

/// Ends a lease, and in group 0 the node with it.
pub(crate) fn end(view: &mut impl View, at: At, lease: LeaseId, events: &mut Vec<Event>) -> Result<Outcome, No> {
    if let Some(row) = view.lease_row(at.group, lease)? {
        view.delete(Key::group(at.group, GroupItem::Lease(lease)));
        events.push(Event::LeaseEnded { lease, node: row.node });
        if at.group == GroupId::META {
            meta::remove_node(view, row.node, events)?;
        }
    }
    Ok(Outcome::LeaseEnded)
}

/// Not empty, inside the slots, rising and without overlap.
pub(crate) fn ranges_are_valid(ranges: &[SlotRange]) -> bool {
    let inside = ranges.iter().all(|range| range.first < range.end && range.end.0 <= limits::SLOTS);
    !ranges.is_empty() && inside && ranges.windows(2).all(|pair| pair[0].end <= pair[1].first)
}

/// The last generation whose seqs fit below `limits::SEQ_END`.
pub(crate) const GENERATION_LAST: u16 = (limits::SEQ_END >> limits::GENERATION_SHIFT) as u16 - 1;
