//! State: two logic nodes, the rows that Raft agreed on, what is on its way, and what the clients know.

use std::collections::BTreeMap;

use bytes::Bytes;
use seriatim_logic_core::SlotHolder;
use seriatim_proto::command::{DeliveryOutcome, Outcome};
use seriatim_proto::ids::{Epoch, SlotId};
use seriatim_proto::logic::SlotDeliveries;
use seriatim_proto::store::{Read, ReadOutcome};
use seriatim_store_core::MemoryView;

use crate::broken::Broken;
use crate::shared::Shared;

/// Logic nodes.
pub(crate) const NODES: usize = 2;

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct State {
    /// what the committed entries have made
    pub(crate) rows: Shared<MemoryView>,
    pub(crate) nodes: [Node; NODES],
    /// in the order of their hashes: who overtakes whom is the checker's choice
    pub(crate) wires: Vec<Shared<Wire>>,
    pub(crate) clients: Shared<Clients>,
    pub(crate) spent: Spent,
    /// I2 of `Next` and `Current` does not hold. It rests on the clocks: without the time rule all others must hold
    /// all the same, so a run goes on.
    pub(crate) disordered: bool,
    /// An invariant does not hold; nothing follows.
    pub(crate) broken: Option<Broken>,
}

/// A logic node. Paused is one that nobody moves: its clock may pass its lease meanwhile ([`Node::lapsed`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Node {
    pub(crate) up: bool,
    /// Its clock has passed the end of its lease.
    pub(crate) lapsed: bool,
    /// its own clock; moves only by its own timers
    pub(crate) now_ms: u64,
    pub(crate) holders: BTreeMap<SlotId, Shared<SlotHolder>>,
    /// the last epoch that it began to serve: never twice
    pub(crate) started: BTreeMap<SlotId, Epoch>,
}

/// A holder: which claim, at which node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Under {
    pub(crate) node: usize,
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
}

/// Something on its way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Wire {
    /// a command for the Raft list
    Propose {
        from: Under,
        n: u64,
        command: Bytes,
    },
    /// a command that nobody waits for any more; it may still be committed
    Ghost(Bytes),
    Outcome {
        to: Under,
        n: u64,
        outcome: Outcome,
    },
    Read {
        from: Under,
        id: u64,
        read: Read,
    },
    ReadDone {
        to: Under,
        id: u64,
        outcome: ReadOutcome,
    },
    /// to whichever node holds the target slot, or thinks so
    Deliver {
        from: Under,
        batch: u64,
        deliveries: SlotDeliveries,
    },
    /// deliveries whose source does not wait any more
    GhostDeliver(SlotDeliveries),
    Answer {
        to: Under,
        batch: u64,
        outcomes: Option<Vec<DeliveryOutcome>>,
    },
    Claim {
        node: usize,
        slot: SlotId,
        seen: Epoch,
    },
    Claimed {
        node: usize,
        slot: SlotId,
        seen: Epoch,
        outcome: Outcome,
    },
}

impl Wire {
    /// Does nobody wait for it? Such a one may never arrive, so it takes no place among those in flight.
    pub(crate) fn is_ghost(&self) -> bool {
        matches!(self, Wire::Ghost(_) | Wire::GhostDeliver(_))
    }
}

/// What the clients did and heard.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Clients {
    /// of each request of the scene, its attempts
    pub(crate) attempts: Vec<Vec<Attempt>>,
    /// of each request, what lay below it before its first attempt began (I2)
    pub(crate) floors: Vec<u64>,
    /// all that was answered lies below
    pub(crate) bound: u64,
    /// numbers that were given, rising, joined where they touch
    pub(crate) given: Vec<(u64, u64)>,
}

/// One attempt of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Attempt {
    /// at this node, without an answer
    Waits(usize),
    /// answered with `Unknown`, or the node crashed
    Unknown,
    /// answered with `DidNotHappen`
    Not,
    /// a send that was committed there
    Committed(u64),
    /// numbers were given
    Served,
}

/// What happened already, against the bounds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) faults: u8,
    pub(crate) claims: u8,
    pub(crate) crashes: u8,
    pub(crate) expiries: u8,
    pub(crate) leader_changes: u8,
    pub(crate) releases: u8,
    pub(crate) renewals: u8,
    pub(crate) timers: u8,
}

impl State {
    /// What does not hold in this state, if anything.
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.wires.iter().filter(|wire| !wire.is_ghost()).count()
    }

    pub(crate) fn push_wire(&mut self, wire: Wire) {
        let wire = Shared::new(wire);
        let place = self.wires.partition_point(|other| *other <= wire);
        self.wires.insert(place, wire);
    }

    pub(crate) fn break_with(&mut self, broken: Broken) {
        self.broken.get_or_insert(broken);
    }

    /// The holder, if it is still there.
    pub(crate) fn holder(&self, under: Under) -> Option<&SlotHolder> {
        let node = &self.nodes[under.node];
        node.holders.get(&under.slot).map(|holder| &**holder).filter(|holder| node.up && holder.epoch() == under.epoch)
    }

    /// A holder is no more: nobody waits for its answers, and what it proposed may still be committed.
    pub(crate) fn orphan(&mut self, under: Under) {
        for wire in std::mem::take(&mut self.wires) {
            match &*wire {
                Wire::Propose { from, command, .. } if *from == under => self.push_wire(Wire::Ghost(command.clone())),
                Wire::Deliver { from, deliveries, .. } if *from == under => {
                    self.push_wire(Wire::GhostDeliver(deliveries.clone()))
                }
                Wire::Read { from, .. } if *from == under => {}
                Wire::Outcome { to, .. } | Wire::ReadDone { to, .. } | Wire::Answer { to, .. } if *to == under => {}
                _ => {
                    let place = self.wires.partition_point(|other| *other <= wire);
                    self.wires.insert(place, wire);
                }
            }
        }
    }
}
