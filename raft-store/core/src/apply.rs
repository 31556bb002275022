//! Apply: one replicated command, its outcome and its writes.
//!
//! Deterministic: the result follows from the rows and the command alone. Commands of a Raft entry are applied in
//! their order; those of a slot strictly in the order of `n`. A rejected command writes nothing, but for its `n`.
//!
//! # Reading order
//! [`apply`], then `fence.rs`, then the file of each operation.

use seriatim_proto::command::{Command, HolderOp, Outcome, Reject};
use seriatim_proto::ids::{Epoch, Fence, Generation, GroupId, LeaseId, LogIndex, NodeId, SlotId};
use seriatim_proto::store::HolderRow;

use crate::key::Key;
use crate::view::{Fatal, View};
use crate::{append, cancel, claim, cursor, deliver, fence, lease, mark, meta, namespace, trim};

/// Where a command stands in its group's log.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct At {
    /// the group that applies
    pub group: GroupId,
    /// of the entry
    pub term: u64,
    /// of the entry
    pub index: LogIndex,
    /// of the command in the entry
    pub place: u32,
}

/// What a command changed that others watch. Rows say the same; events spare a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// `Own`: the group has slots now.
    Owned,
    /// A slot was claimed or released.
    Holder(HolderRow),
    /// A lease was opened.
    LeaseOpened {
        /// which
        lease: LeaseId,
        /// whose
        node: NodeId,
    },
    /// A lease ended: all slots that it holds are free (see [`crate::holder_rows`]).
    LeaseEnded {
        /// which
        lease: LeaseId,
        /// whose
        node: NodeId,
    },
    /// Group 0's directory changed.
    Directory,
}

/// What a holder's operation may rely on after its fence was admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
    pub(crate) generation: Generation,
}

/// Why an operation stops.
#[derive(Debug)]
pub(crate) enum No {
    /// A verdict.
    Reject(Reject),
    /// No verdict.
    Fatal(Fatal),
}

impl From<Reject> for No {
    fn from(reject: Reject) -> No {
        No::Reject(reject)
    }
}
impl From<Fatal> for No {
    fn from(fatal: Fatal) -> No {
        No::Fatal(fatal)
    }
}

/// Applies one command. `Err` is never a verdict on the command: the process must stop and drop the chunk.
pub fn apply(view: &mut impl View, at: At, command: &Command, events: &mut Vec<Event>) -> Result<Outcome, Fatal> {
    let result = match command {
        Command::Own { generation, slots } => lease::own(view, at, *generation, slots, events),
        Command::OpenLease { node } => lease::open(view, at, *node, events),
        Command::ExpireLease { lease } | Command::CloseLease { lease } => lease::end(view, at, *lease, events),
        Command::Claim { slot, lease, seen } => claim::claim(view, at, *slot, *lease, *seen, events),
        Command::Held { fence, op } => held(view, at, *fence, op, events),
        Command::Meta(command) => meta::meta(view, at, command, events),
        Command::Trim { namespace, upto } => trim::trim(view, at, namespace, *upto),
    };
    match result {
        Ok(outcome) => Ok(outcome),
        Err(No::Reject(reject)) => Ok(Outcome::Rejected(reject)),
        Err(No::Fatal(fatal)) => Err(fatal),
    }
}

fn held(view: &mut impl View, at: At, fence: Fence, op: &HolderOp, events: &mut Vec<Event>) -> Result<Outcome, No> {
    let held = fence::admit(view, at, fence)?;
    match op {
        HolderOp::Release { heir } => claim::release(view, held, *heir, events),
        HolderOp::Reserve { wants } => namespace::reserve(view, held, wants),
        HolderOp::Append(command) => append::append(view, held, command),
        HolderOp::Deliver { deliveries } => deliver::deliver(view, held, deliveries),
        HolderOp::Delivered { records } => deliver::delivered(view, held, records),
        HolderOp::SetCursors { cursors } => cursor::set_cursors(view, held, cursors),
        HolderOp::SetMarks { marks } => mark::set_marks(view, held, marks),
        HolderOp::CancelSend(command) => cancel::cancel_send(view, held, command),
    }
}

/// The verdict on a command for another kind of group.
pub(crate) fn wrong_kind(at: At) -> No {
    Reject::WrongGroup(Key::system_slot(at.group)).into()
}
