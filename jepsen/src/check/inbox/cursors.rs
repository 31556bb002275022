//! Cursors: a device's cursor only rises.
//!
//! An acked write says that the cursor is there or beyond from its end on; a read says where it is. A read may show a
//! write of unknown outcome, but nothing that nobody asked for.
//!
//! # Invariants
//! I11.

use super::records::{CursorOp, Inbox, Records};
use crate::check::Evidence;
use crate::check::order::{Placed, sweep};
use crate::check::rule::Rule;
use crate::check::verdict::Findings;
use crate::history::INBOX_FILE;

/// Judges all cursors of a user.
pub(crate) fn check(records: &Records, user: u32, inbox: &Inbox, findings: &mut Findings) {
    for (device, ops) in &inbox.cursors {
        let key = format!("{}/{}", records.contents.names.text(user), records.contents.names.text(*device));
        let placed = ops.iter().filter_map(|op| {
            // A write of less than what is there is answered all the same: it says nothing of what lies above.
            let call = if op.wanted.is_some() { 0 } else { op.call };
            Some(Placed { place: (op.answered?, 0), call, ret: op.ret, what: op })
        });
        sweep(placed.collect(), |breach| {
            findings.add(Rule::I11, &key, breach.low.ret, || {
                let text = format!("the cursor of {key} fell from {} to {}", breach.high.place.0, breach.low.place.0);
                (text, vec![evidence(&key, breach.high.what), evidence(&key, breach.low.what)])
            });
        });
        check_wanted(&key, ops, findings);
    }
}

/// A device that never acknowledged anything may be said to stand at the first seq.
const UNSET_MAX: u64 = 1;

/// Nobody reads a cursor above all that had been asked for.
fn check_wanted(key: &str, ops: &[CursorOp], findings: &mut Findings) {
    let mut wanted: Vec<(u64, u64)> = ops.iter().filter_map(|op| Some((op.call, op.wanted?))).collect();
    wanted.sort_unstable();
    let mut highest = 0;
    for (_, want) in &mut wanted {
        highest = highest.max(*want);
        *want = highest;
    }
    for op in ops.iter().filter(|op| op.wanted.is_none()) {
        let count = wanted.partition_point(|(call, _)| *call <= op.ret);
        let highest = count.checked_sub(1).map_or(0, |last| wanted[last].1);
        if let Some(answered) = op.answered.filter(|answered| *answered > highest.max(UNSET_MAX)) {
            findings.add(Rule::I11, key, op.ret, || {
                let text = format!("the cursor of {key} is {answered}, but no more than {highest} was asked for");
                (text, vec![evidence(key, op)])
            });
        }
    }
}

fn evidence(key: &str, op: &CursorOp) -> Evidence {
    let (wanted, answered) = (op.wanted, op.answered);
    let told = format!("cursor {key}: wanted {wanted:?}, answered {answered:?}, {} to {}", op.call, op.ret);
    Evidence::new(INBOX_FILE, op.line, &told)
}
