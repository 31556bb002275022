//! Incoming: deliveries from conversations of other slots, on their way into inboxes of this one.
//!
//! Each delivery takes seqs of its inbox; many become one command. What comes twice is skipped by apply.

use seriatim_proto::command::{Delivery, DeliveryOutcome, HolderOp, Place};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::hash;
use seriatim_proto::ids::Namespace;
use seriatim_proto::logic::{CallError, DeliveryBody, PushEntry};

use crate::event::{Clock, Effect, SourceId};
use crate::holder::{Phase, SlotHolder};
use crate::inbox::Inbox;
use crate::pipeline::Note;

/// Most deliveries and entries of one command.
const DELIVERIES_MAX: usize = 512;
const ENTRIES_MAX: usize = 4_096;

/// Deliveries that arrived together, until all have an outcome.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Incoming {
    pub(crate) source: SourceId,
    /// taken out while they are in the pipeline
    deliveries: Vec<Option<Delivery>>,
    bodies: Vec<BodyOf>,
    outcomes: Vec<Option<DeliveryOutcome>>,
    missing: usize,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct BodyOf(
    seriatim_proto::ids::TenantId,
    seriatim_proto::ids::ConversationId,
    seriatim_proto::ids::Seq,
    bytes::Bytes,
    bytes::Bytes,
);

impl SlotHolder {
    pub(crate) fn on_deliver(&mut self, source: SourceId, deliveries: Vec<Delivery>, bodies: Vec<DeliveryBody>) {
        let foreign = deliveries.iter().any(|delivery| hash::inbox_slot(delivery.tenant, &delivery.user) != self.slot);
        if self.phase != Phase::Serving || foreign {
            self.effects.push_back(Effect::DeliverAnswer { source, result: self.not_holder() });
            return;
        }
        if self.sends.len() + self.incoming.len() >= self.limits.queue_max || self.pipeline.blocked().is_some() {
            let refusal = Refusal::later(ErrorCode::Busy, "too many requests wait for this slot", 50);
            self.effects.push_back(Effect::DeliverAnswer { source, result: Err(CallError::Refused(refusal)) });
            return;
        }
        let id = self.id();
        let missing = deliveries.len();
        if missing == 0 {
            self.effects.push_back(Effect::DeliverAnswer { source, result: Ok(Vec::new()) });
            return;
        }
        self.ready_incoming.extend((0..missing).map(|place| (id, place)));
        let bodies = bodies
            .into_iter()
            .map(|body| BodyOf(body.tenant, body.conversation, body.seq, body.salt, body.body))
            .collect();
        self.incoming.insert(
            id,
            Incoming {
                source,
                deliveries: deliveries.into_iter().map(Some).collect(),
                bodies,
                outcomes: vec![None; missing],
                missing,
            },
        );
    }

    pub(crate) fn number_incoming(&mut self, clock: &Clock) {
        let epoch = self.epoch;
        while !self.ready_incoming.is_empty() && self.pipeline.is_open() {
            let (mut deliveries, mut places, mut entries) = (Vec::new(), Vec::new(), 0);
            while let Some((id, place)) = self.ready_incoming.pop_front() {
                let Some(slot) = self.incoming.get_mut(&id).and_then(|incoming| incoming.deliveries.get_mut(place))
                else {
                    continue;
                };
                let Some(delivery) = slot.as_mut() else { continue };
                let count = delivery.entries.len() as u64;
                let name = (delivery.tenant, delivery.user.clone());
                let inbox = self.inboxes.entry(name).or_insert_with(|| Inbox::new(epoch));
                let Some(at) = inbox.allocator.take(clock.now_ms, count.max(1)) else {
                    self.stalled_incoming.push_back((id, place));
                    continue;
                };
                if let Some(seqs) = inbox.allocator.want(clock.now_ms) {
                    self.wants.push((Namespace::inbox(delivery.tenant, delivery.user.clone()), seqs));
                }
                delivery.place = at;
                entries += delivery.entries.len();
                deliveries.extend(slot.take());
                places.push((id, place));
                if deliveries.len() >= DELIVERIES_MAX || entries >= ENTRIES_MAX {
                    break;
                }
            }
            if !deliveries.is_empty() {
                self.submit(HolderOp::Deliver { deliveries }, Note::Incoming(places));
            }
        }
    }

    /// Deliveries have their outcomes.
    pub(crate) fn on_delivered(
        &mut self,
        deliveries: Vec<Delivery>,
        places: Vec<(u64, usize)>,
        outcomes: Vec<DeliveryOutcome>,
    ) {
        let mut closed = false;
        for ((delivery, (id, place)), outcome) in deliveries.into_iter().zip(places).zip(outcomes) {
            let name = (delivery.tenant, delivery.user.clone());
            let segment = match &outcome {
                DeliveryOutcome::Accepted { segment, .. } | DeliveryOutcome::Jump { segment, .. } => *segment,
                DeliveryOutcome::SeqRefused => None,
            };
            if let Some(inbox) = self.inboxes.get_mut(&name) {
                if matches!(delivery.place, Place::Open { .. }) {
                    inbox.allocator.installed(segment);
                    closed = true;
                }
                if outcome == DeliveryOutcome::SeqRefused {
                    self.effects.push_back(Effect::Alarm("apply refused a seq or a command of ours"));
                    inbox.allocator.forget();
                    closed = true;
                }
            }
            self.push_delivered(&delivery, id, &outcome);
            if let Some(incoming) = self.incoming.get_mut(&id) {
                if incoming.outcomes[place].replace(outcome).is_none() {
                    incoming.missing -= 1;
                }
                if incoming.missing == 0
                    && let Some(incoming) = self.incoming.remove(&id)
                {
                    let outcomes = incoming.outcomes.into_iter().flatten().collect();
                    self.effects.push_back(Effect::DeliverAnswer { source: incoming.source, result: Ok(outcomes) });
                }
            }
        }
        if closed {
            self.unstall();
        }
    }

    fn push_delivered(&mut self, delivery: &Delivery, id: u64, outcome: &DeliveryOutcome) {
        let DeliveryOutcome::Accepted { written, .. } = outcome else { return };
        let Some(newest) = written.last() else { return };
        let Some(inbox) = self.inboxes.get_mut(&(delivery.tenant, delivery.user.clone())) else { return };
        let sessions = inbox.written(newest.seq);
        if sessions.is_empty() {
            return;
        }
        let tail = newest.seq.next();
        let bodies = self.incoming.get(&id).map_or(&[][..], |incoming| &incoming.bodies);
        let mut entries = Vec::with_capacity(written.len());
        for written in written {
            let entry = delivery.entries.iter().find(|entry| entry.seq == written.conversation_seq);
            let body = bodies.iter().find(|body| {
                body.2 == written.conversation_seq && body.1 == delivery.conversation && body.0 == delivery.tenant
            });
            let (Some(entry), Some(body)) = (entry, body) else { break };
            entries.push(PushEntry {
                seq: written.seq,
                prev_seq: written.prev_seq,
                ordinal: written.ordinal,
                conversation: delivery.conversation.clone(),
                entry: entry.clone(),
                salt: body.3.clone(),
                body: body.4.clone(),
            });
        }
        let whole = entries.len() == written.len();
        if !entries.is_empty() {
            self.effects.push_back(Effect::Push { sessions: sessions.clone(), entries });
        }
        if !whole {
            // Without a body there is nothing to show: the device asks.
            self.effects.extend(sessions.into_iter().map(|session| Effect::Lagging { session, tail }));
        }
    }

    /// The outcomes of these deliveries are not known, or the command was refused: the source sends again.
    pub(crate) fn on_deliver_lost(&mut self, deliveries: &[Delivery], places: &[(u64, usize)]) {
        for delivery in deliveries {
            if matches!(delivery.place, Place::Open { .. })
                && let Some(inbox) = self.inboxes.get_mut(&(delivery.tenant, delivery.user.clone()))
            {
                inbox.allocator.failed();
            }
        }
        for (id, _) in places {
            if let Some(incoming) = self.incoming.remove(id) {
                let refusal = Refusal::new(ErrorCode::Unavailable, "the outcome of the delivery is not known");
                self.effects.push_back(Effect::DeliverAnswer {
                    source: incoming.source,
                    result: Err(CallError::Refused(refusal)),
                });
            }
        }
        self.unstall();
    }
}
