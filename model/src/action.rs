//! Action: what may happen next.

use seriatim_proto::command::Command;
use seriatim_proto::ids::{Epoch, SlotId};
use seriatim_store_core::{Key, MemoryView, Row};

use crate::model::Check;
use crate::scene::{Scene, lease};
use crate::state::{NODES, State, Under, Wire};

/// One step.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A client's next attempt of a request reaches a node.
    Issue {
        /// which request
        request: usize,
        /// which node
        node: usize,
    },
    /// A message arrives: a command is committed, a read takes effect, an answer is heard.
    Arrive {
        /// its place
        wire: usize,
        /// where, if it could be several
        node: usize,
    },
    /// An answer, or a question that changes nothing, never arrives; whoever waits for it hears so.
    Lose {
        /// its place
        wire: usize,
    },
    /// Whoever waits for it gives up, and it arrives later or never.
    Late {
        /// its place
        wire: usize,
    },
    /// A delivery arrives, and arrives again later.
    Double {
        /// its place
        wire: usize,
        /// where
        node: usize,
    },
    /// A holder's timer is due.
    Timer {
        /// which node
        node: usize,
        /// which holder
        slot: SlotId,
    },
    /// A node's clock passes the end of its lease.
    Lapse {
        /// which
        node: usize,
    },
    /// A lease that had passed at its node is renewed.
    Renew {
        /// whose
        node: usize,
    },
    /// The leader ends a lease.
    Expire {
        /// whose
        node: usize,
    },
    /// A node proposes to claim a slot.
    Claim {
        /// who
        node: usize,
        /// what
        slot: SlotId,
    },
    /// A holder is told to give its slot back.
    Release {
        /// which node
        node: usize,
        /// what
        slot: SlotId,
    },
    /// A node hears that its claim is over.
    Learn {
        /// who
        node: usize,
        /// what
        slot: SlotId,
    },
    /// A node is killed.
    Crash {
        /// which
        node: usize,
    },
    /// Another store leads: what was proposed may still be committed, and nobody is answered.
    LeaderChange,
}

/// Epoch of a slot, and whether a live lease holds it.
pub(crate) fn standing(rows: &MemoryView, slot: SlotId) -> (Epoch, bool) {
    let Some(Row::Holder(row)) = rows.rows.get(&Key::holder(slot)) else {
        unreachable!("every slot of the scene is owned")
    };
    (row.epoch, (0..NODES).any(|node| row.lease == Some(lease(node)) && has_lease(rows, node)))
}

pub(crate) fn has_lease(rows: &MemoryView, node: usize) -> bool {
    let key = Key::group(crate::scene::GROUP, seriatim_store_core::GroupItem::Lease(lease(node)));
    rows.rows.contains_key(&key)
}

pub(crate) fn claim_command(node: usize, slot: SlotId, seen: Epoch) -> Command {
    Command::Claim { slot, lease: lease(node), seen }
}

impl Check {
    pub(crate) fn collect(&self, state: &State, actions: &mut Vec<Action>) {
        if state.broken.is_some() {
            return;
        }
        let Scene { bounds, .. } = &self.scene;
        self.collect_issues(state, actions);
        self.collect_wires(state, actions);
        for node in 0..NODES {
            self.collect_node(state, node, actions);
        }
        let waits = |wire: &Wire| !wire.is_ghost() && !matches!(wire, Wire::Deliver { .. } | Wire::Answer { .. });
        if state.spent.leader_changes < bounds.leader_changes && state.wires.iter().any(|wire| waits(wire)) {
            actions.push(Action::LeaderChange);
        }
    }

    fn collect_issues(&self, state: &State, actions: &mut Vec<Action>) {
        for (request, asked) in self.scene.requests.iter().enumerate() {
            let attempts = state.clients.attempts[request].len();
            let slot = self.scene.slot_of(asked.ask);
            if attempts < asked.attempts {
                let nodes = (0..NODES).filter(|node| state.nodes[*node].holders.contains_key(&slot));
                actions.extend(nodes.map(|node| Action::Issue { request, node }));
            }
            if attempts == 0 {
                break;
            }
        }
    }

    fn collect_wires(&self, state: &State, actions: &mut Vec<Action>) {
        let faulty = state.spent.faults < self.scene.bounds.faults;
        for (place, wire) in state.wires.iter().enumerate() {
            if place > 0 && state.wires[place - 1] == *wire {
                continue;
            }
            match &**wire {
                Wire::Deliver { deliveries, .. } | Wire::GhostDeliver(deliveries) => {
                    let nodes = (0..NODES).filter(|node| state.nodes[*node].holders.contains_key(&deliveries.slot));
                    for node in nodes {
                        actions.push(Action::Arrive { wire: place, node });
                        if faulty && !wire.is_ghost() {
                            actions.push(Action::Double { wire: place, node });
                        }
                    }
                }
                _ => actions.push(Action::Arrive { wire: place, node: 0 }),
            }
            match &**wire {
                Wire::Propose { .. } | Wire::Claim { .. } | Wire::Deliver { .. } if faulty => {
                    actions.push(Action::Late { wire: place })
                }
                Wire::Outcome { .. } | Wire::Read { .. } | Wire::Answer { .. } | Wire::Claimed { .. } if faulty => {
                    actions.push(Action::Lose { wire: place })
                }
                _ => {}
            }
        }
    }

    fn collect_node(&self, state: &State, node: usize, actions: &mut Vec<Action>) {
        let (bounds, spent, this) = (&self.scene.bounds, &state.spent, &state.nodes[node]);
        let leased = has_lease(&state.rows, node);
        let passed = this.lapsed || !this.up;
        let holds = self.scene.slots.keys().any(|slot| holds(&state.rows, node, *slot));
        if spent.expiries < bounds.expiries && leased && holds && (passed || !bounds.time_rule) {
            actions.push(Action::Expire { node });
        }
        if !this.up {
            return;
        }
        if spent.crashes < bounds.crashes {
            actions.push(Action::Crash { node });
        }
        let watched = bounds.expiries > 0 && (bounds.time_rule || self.scene.has_counters());
        if watched && !this.lapsed && !this.holders.is_empty() {
            actions.push(Action::Lapse { node });
        }
        if this.lapsed && leased && spent.renewals < bounds.renewals {
            actions.push(Action::Renew { node });
        }
        for (slot, holder) in &this.holders {
            let (epoch, _) = standing(&state.rows, *slot);
            let due = holder.poll_timeout().is_some_and(|at| at < crate::scene::BEGIN_MS + bounds.horizon_ms);
            if due && spent.timers < bounds.timers {
                actions.push(Action::Timer { node, slot: *slot });
            }
            if holder.epoch() < epoch || !leased {
                actions.push(Action::Learn { node, slot: *slot });
            }
            if spent.releases < bounds.releases && !holder.is_leaving() {
                actions.push(Action::Release { node, slot: *slot });
            }
        }
        if spent.claims < bounds.claims && leased {
            let slots = self.scene.slots.keys().filter(|slot| self.may_claim(state, node, **slot));
            actions.extend(slots.map(|slot| Action::Claim { node, slot: *slot }));
        }
    }

    fn may_claim(&self, state: &State, node: usize, slot: SlotId) -> bool {
        let (epoch, held) = standing(&state.rows, slot);
        let under = Under { node, slot, epoch };
        let claiming = |wire: &Wire| {
            matches!(wire, Wire::Claim { node: who, slot: what, .. } | Wire::Claimed { node: who, slot: what, .. }
                if *who == node && *what == slot)
        };
        let own = state.nodes[node].started.get(&slot) != Some(&epoch) && holds(&state.rows, node, slot);
        let free = !held || own;
        (free || self.scene.bounds.bold_claims)
            && state.holder(under).is_none()
            && !state.wires.iter().any(|wire| claiming(wire))
    }
}

/// Does the slot's row name this node's lease?
fn holds(rows: &MemoryView, node: usize, slot: SlotId) -> bool {
    matches!(rows.rows.get(&Key::holder(slot)), Some(Row::Holder(row)) if row.lease == Some(lease(node)))
}
