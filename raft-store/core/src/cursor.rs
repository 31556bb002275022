//! Cursor: what a device has acknowledged.
//!
//! # Invariants
//! I11: a cursor never goes back. It is never above the inbox's tail.

use seriatim_proto::command::{CursorOutcome, CursorWrite, Outcome, Reject};
use seriatim_proto::ids::Seq;
use seriatim_proto::limits;

use crate::apply::{Held, No};
use crate::input;
use crate::key::{Item, Key, Scan};
use crate::row::Row;
use crate::view::{Fatal, Rows, View};

/// Raises cursors, each with an outcome of its own.
pub(crate) fn set_cursors(view: &mut impl View, held: Held, cursors: &[CursorWrite]) -> Result<Outcome, No> {
    let is_valid = |write: &CursorWrite| {
        input::inbox_is_in(held.slot, write.tenant, &write.user)
            && input::name_is_valid(write.device.as_str())
            && input::seq_is_valid(write.cursor)
    };
    if !cursors.iter().all(is_valid) {
        return Err(Reject::Malformed.into());
    }
    let outcomes = cursors.iter().map(|write| set_cursor(view, held, write));
    Ok(Outcome::CursorsSet(outcomes.collect::<Result<_, Fatal>>()?))
}

fn set_cursor(view: &mut impl View, held: Held, write: &CursorWrite) -> Result<CursorOutcome, Fatal> {
    let CursorWrite { tenant, user, device, cursor } = write;
    let tail = view.inbox_row(held.slot, *tenant, user)?.map_or(Seq::FIRST, |row| row.tail);
    if *cursor > tail {
        return Ok(CursorOutcome::Ahead { tail });
    }
    let key = Key::tenant(held.slot, *tenant, Item::Cursor(user.clone(), device.clone()));
    let before = match view.get(&key)? {
        Some(Row::Cursor(before)) => Some(before),
        Some(_) => return Err(Fatal::broken(&key, "a row of another kind")),
        None => None,
    };
    match before {
        Some(before) if *cursor <= before => return Ok(CursorOutcome::At(before)),
        Some(_) => {}
        None => {
            let scan = Scan::Cursors { slot: held.slot, tenant: *tenant, user: user.clone() };
            if view.scan(&scan, limits::DEVICES_MAX as usize)?.len() == limits::DEVICES_MAX as usize {
                return Ok(CursorOutcome::DevicesFull);
            }
        }
    }
    view.put(key, Row::Cursor(*cursor));
    Ok(CursorOutcome::At(*cursor))
}
