//! Holders: events go in, effects come out and are carried out.

use seriatim_logic_core::{Effect, Event, HolderLimits, SlotHolder};
use seriatim_proto::chaos::{self, Point};
use seriatim_proto::ids::{Epoch, SlotId};
use seriatim_proto::logic::{CallError, GatewayResponse, Reply};
use seriatim_proto::store::HolderRow;

use super::{Brain, Held, HolderKey, stores};
use crate::batcher::CommandOf;
use crate::clock;

impl Brain {
    /// A claim of ours was applied.
    pub(super) fn start_holder(&mut self, slot: SlotId, epoch: Epoch, seen: Epoch) {
        let Some(group) = self.stores.topology.group_of(slot) else { return };
        // A repeated claim returns the same epoch: what was served under it, or ended, is not begun again.
        if self.started.get(&slot).is_some_and(|started| *started >= epoch) {
            return;
        }
        self.started.insert(slot, epoch);
        chaos::hit(Point::ClaimApplied);
        let holder = SlotHolder::new(clock::boot_ms(), slot, epoch, seen, HolderLimits::default());
        self.end_holder(slot);
        self.holders.insert(slot, Held { holder, group, timer: None });
        self.touched.insert(slot);
        self.metrics.claims.inc();
        self.metrics.slots_held.set(self.holders.len() as i64);
    }

    /// A holder of an older claim, if there is one, ends and answers everybody.
    fn end_holder(&mut self, slot: SlotId) {
        if self.holders.contains_key(&slot) {
            self.handle(slot, Event::LeaseGone);
            self.poll_holder(slot);
            self.drop_holder(slot);
        }
    }

    fn drop_holder(&mut self, slot: SlotId) {
        if let Some(held) = self.holders.remove(&slot) {
            if let Some(at) = held.timer {
                self.timers.remove(&(at, slot));
            }
            self.metrics.holders_ended.inc();
            self.metrics.slots_held.set(self.holders.len() as i64);
        }
    }

    /// Hands an event to the slot's holder; false if this node holds it not.
    pub(super) fn handle(&mut self, slot: SlotId, event: Event) -> bool {
        let Some(group) = self.holders.get(&slot).map(|held| held.group) else { return false };
        let clock = self.clock(group);
        if let Some(held) = self.holders.get_mut(&slot) {
            held.holder.handle(&clock, event);
            self.touched.insert(slot);
        }
        true
    }

    /// As [`Self::handle`], but only under this claim: answers to an older one are dropped.
    pub(super) fn handle_under(&mut self, key: HolderKey, event: Event) {
        if self.holders.get(&key.slot).is_some_and(|held| held.holder.epoch() == key.epoch) {
            self.handle(key.slot, event);
        }
    }

    pub(super) fn poll_holder(&mut self, slot: SlotId) {
        let Some(held) = self.holders.get(&slot) else { return };
        let (group, key) = (held.group, HolderKey { slot, epoch: held.holder.epoch() });
        let clock = self.clock(group);
        loop {
            let Some(held) = self.holders.get_mut(&slot).filter(|held| held.holder.epoch() == key.epoch) else {
                return;
            };
            let Some(effect) = held.holder.poll(&clock) else { break };
            self.carry_out(key, group, effect);
        }
        if let Some(held) = self.holders.get_mut(&slot) {
            let timer = held.holder.poll_timeout();
            if held.timer != timer {
                if let Some(at) = held.timer {
                    self.timers.remove(&(at, slot));
                }
                held.timer = timer;
                if let Some(at) = timer {
                    self.timers.insert((at, slot));
                }
            }
        }
    }

    fn carry_out(&mut self, key: HolderKey, group: seriatim_proto::ids::GroupId, effect: Effect) {
        match effect {
            Effect::Propose { n, command } => {
                self.batcher.push(group, CommandOf { slot: key.slot, epoch: key.epoch, n }, command);
            }
            Effect::Read { id, read } => self.ask_read(group, stores::ReadOf { key, id }, read),
            Effect::Reply { request, result } => {
                chaos::hit(Point::CallReply);
                match &result {
                    Ok(reply) => {
                        self.metrics.replies.inc();
                        if let Reply::Numbers { count, .. } = reply {
                            self.metrics.sequence_numbers.inc_by(u64::from(*count));
                        }
                    }
                    Err(error) => self.metrics.refused(error),
                }
                let result = result.map_err(|error| self.with_row(error));
                self.respond(request.stream, GatewayResponse::Reply { id: request.id, result });
            }
            Effect::Registered { request, result } => {
                let result = result.map_err(|error| self.with_row(error));
                self.respond(request.stream, GatewayResponse::Registered { id: request.id, result });
            }
            Effect::Push { sessions, entries } => self.push(&sessions, entries),
            Effect::Lagging { session, tail } => self.lagging(session, tail),
            Effect::Unregistered { session } => self.unregistered(session),
            Effect::Deliver { batch, deliveries } => self.deliver(key, batch, deliveries),
            Effect::DeliverAnswer { source, result } => {
                let result = result.map_err(|error| self.with_row(error));
                self.answer_source(source, result);
            }
            Effect::Alarm(what) => {
                self.metrics.alarms.inc();
                tracing::error!(slot = %key.slot, epoch = %key.epoch, what, "alarm");
            }
            Effect::Ended { released } => {
                tracing::debug!(slot = %key.slot, epoch = %key.epoch, released, "holder ended");
                self.drop_holder(key.slot);
                self.free_own_row(key.slot);
            }
        }
    }

    /// The row says that this node holds the slot, but no holder is there: to be claimed again.
    pub(super) fn free_own_row(&mut self, slot: SlotId) {
        if self.claiming.contains(&slot) {
            return;
        }
        let me = self.standing.borrow().map(|standing| standing.node);
        let Some(row) = self.rows.get(&slot).copied().filter(|row| row.holder.is_some() && row.holder == me) else {
            return;
        };
        if let Some(placement) = &mut self.placement {
            placement.set_row(clock::boot_ms(), HolderRow { holder: None, lease: None, heir: None, ..row });
        }
    }

    pub(super) fn with_row(&self, error: CallError) -> CallError {
        match error {
            CallError::NotHolder { slot, row: None } => {
                CallError::NotHolder { slot, row: self.rows.get(&slot).copied() }
            }
            error => error,
        }
    }
}
