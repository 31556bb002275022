//! Delivery: from a conversation's log to the slots of its members.
//!
//! Nothing is queued: each target slot has a cursor, and what lies between the cursor and the last entry is owed. The
//! newest entries are in memory; older ones are read again. One range per conversation and target slot is under way
//! at a time; a slot that does not answer holds up nobody else.
//!
//! # Invariants
//! I8, I9: a range is `(after, upto]` of one member and holds all that this member is owed in it; a cursor moves only
//! when every member of the slot has accepted.
//! I14: no range of a member ends behind what he was owed.

use std::collections::BTreeMap;

use seriatim_proto::command::{Delivery, DeliveryOutcome, Place};
use seriatim_proto::ids::{Seq, SlotId};
use seriatim_proto::limits;
use seriatim_proto::logic::{DeliveryBody, SlotDeliveries};
use seriatim_proto::store::StoredMessage;

use crate::conversation::{ConversationName, Load, RecentEntry, Target};
use crate::event::{Clock, Effect};
use crate::holder::{ReadFor, SlotHolder};

/// Bytes of one batch of deliveries, and of one read for them.
pub(crate) const BATCH_BYTES_MAX: usize = 512 << 10;
/// Shortest and longest pause before a slot is tried again.
const RETRY_MS_MIN: u64 = 25;
const RETRY_MS_MAX: u64 = 400;

/// What was sent to one slot and not answered.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Batch {
    target: SlotId,
    parts: Vec<Part>,
}

/// The part of one conversation in a batch.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Part {
    name: ConversationName,
    upto: Seq,
    entries: u64,
    deliveries: usize,
}

/// What gathers for one slot during one poll.
struct Outgoing {
    deliveries: SlotDeliveries,
    parts: Vec<Part>,
    bytes: usize,
}

impl SlotHolder {
    /// Sends what is owed, to every slot that has nothing under way.
    pub(crate) fn deliver(&mut self, clock: &Clock) {
        if self.dirty.is_empty() {
            return;
        }
        let mut outgoing = BTreeMap::new();
        for name in std::mem::take(&mut self.dirty) {
            self.deliver_conversation(clock, &name, &mut outgoing);
        }
        for (target, gathered) in outgoing {
            self.send_batch(target, gathered);
        }
    }

    fn deliver_conversation(
        &mut self,
        clock: &Clock,
        name: &ConversationName,
        outgoing: &mut BTreeMap<SlotId, Outgoing>,
    ) {
        let Some(conversation) = self.conversations.get_mut(name) else { return };
        if conversation.load != Load::Loaded {
            return;
        }
        let Some(last) = conversation.last else { return };
        let (mut wake, mut reads, mut full) = (None::<u64>, Vec::new(), Vec::new());
        for (slot, target) in &mut conversation.targets {
            if target.busy || target.cursor >= Some(last) {
                continue;
            }
            if target.retry_at_ms > clock.now_ms {
                wake = Some(wake.map_or(target.retry_at_ms, |wake| wake.min(target.retry_at_ms)));
                continue;
            }
            if target.cursor < conversation.recent.after {
                target.busy = true;
                conversation.backlog_reads += 1;
                reads.push(*slot);
                continue;
            }
            let recent = &conversation.recent.entries;
            let gathered = outgoing.entry(*slot).or_insert_with(|| Outgoing::new(*slot));
            loop {
                let before = target.cursor;
                let from = recent.partition_point(|recent| Some(recent.entry.seq) <= before);
                gathered.add(name, target, last, recent.range(from..));
                // A range that nobody there is owed only moves the cursor: what follows it may be owed.
                if target.busy || target.cursor >= Some(last) || target.cursor == before {
                    break;
                }
            }
            if gathered.bytes >= BATCH_BYTES_MAX {
                full.extend(outgoing.remove_entry(slot));
            }
        }
        let delivered = conversation.delivered_until();
        self.recent_bytes -= conversation.recent.drop_until(delivered);
        if let Some(wake) = wake {
            self.wake(wake);
        }
        for target in reads {
            self.read(ReadFor::Backlog { name: name.clone(), target });
        }
        for (target, gathered) in full {
            self.send_batch(target, gathered);
        }
    }

    fn send_batch(&mut self, target: SlotId, gathered: Outgoing) {
        if gathered.parts.is_empty() {
            return;
        }
        let batch = self.id();
        self.batches.insert(batch, Batch { target, parts: gathered.parts });
        self.effects.push_back(Effect::Deliver { batch, deliveries: gathered.deliveries });
    }

    /// Entries that were no longer in memory.
    pub(crate) fn on_backlog_read(
        &mut self,
        clock: &Clock,
        name: ConversationName,
        slot: SlotId,
        messages: Vec<StoredMessage>,
    ) {
        let Some(conversation) = self.conversations.get_mut(&name) else { return };
        let mut entries = conversation.backlog_read(messages);
        let (last, Some(target)) = (conversation.last, conversation.targets.get_mut(&slot)) else { return };
        target.busy = false;
        // Entries whose outcome is still on its way to us may bring members that we do not know yet.
        entries.retain(|recent| Some(recent.entry.seq) <= last);
        let Some(last) = last else { return };
        if entries.is_empty() {
            self.effects.push_back(Effect::Alarm("entries that were committed are not in the log"));
            target.retry_at_ms = clock.now_ms + RETRY_MS_MAX;
            self.wake(clock.now_ms + RETRY_MS_MAX);
            return;
        }
        let mut gathered = Outgoing::new(slot);
        gathered.add(&name, target, last, entries.iter());
        self.send_batch(slot, gathered);
        self.dirty.insert(name);
    }

    /// A slot has answered, or not.
    pub(crate) fn on_deliver_answered(&mut self, clock: &Clock, batch: u64, outcomes: Option<Vec<DeliveryOutcome>>) {
        let Some(batch) = self.batches.remove(&batch) else { return };
        let expected: usize = batch.parts.iter().map(|part| part.deliveries).sum();
        let outcomes = outcomes.filter(|outcomes| outcomes.len() == expected);
        let mut place = 0;
        for part in batch.parts {
            let outcomes = outcomes.as_ref().map(|outcomes| &outcomes[place..place + part.deliveries]);
            place += part.deliveries;
            let Some(conversation) = self.conversations.get_mut(&part.name) else { continue };
            let last = conversation.last;
            let Some(target) = conversation.targets.get_mut(&batch.target) else { continue };
            target.busy = false;
            target.answered(clock, &part, outcomes, last);
            let retry_at_ms = target.retry_at_ms;
            let delivered = conversation.delivered_until();
            self.recent_bytes -= conversation.recent.drop_until(delivered);
            if conversation.is_delivered() {
                self.unrecorded.insert(part.name);
            } else {
                self.unrecorded.insert(part.name.clone());
                self.dirty.insert(part.name);
            }
            if retry_at_ms > clock.now_ms {
                self.wake(retry_at_ms);
            }
        }
        if !self.unrecorded.is_empty() {
            self.wake(self.recorded_at_ms + 1_000);
        }
    }
}

impl Outgoing {
    fn new(slot: SlotId) -> Self {
        Self {
            deliveries: SlotDeliveries { slot, deliveries: Vec::new(), bodies: Vec::new() },
            parts: Vec::new(),
            bytes: 0,
        }
    }

    /// Adds what the members of one slot are owed of `entries`, which follow the slot's cursor without a hole. Moves
    /// the cursor at once over what nobody there is owed.
    fn add<'a>(
        &mut self,
        name: &ConversationName,
        target: &mut Target,
        last: Seq,
        entries: impl Iterator<Item = &'a RecentEntry>,
    ) {
        let mut range = Vec::new();
        let mut bytes = 0;
        for recent in entries.take(limits::DELIVERY_ENTRIES_MAX as usize) {
            bytes += recent.bytes();
            range.push(recent);
            if bytes >= BATCH_BYTES_MAX {
                break;
            }
        }
        let Some(upto) = range.last().map(|recent| recent.entry.seq) else { return };
        let (mut deliveries, mut owed) = (0, vec![false; range.len()]);
        for member in &target.members {
            let mut refs = Vec::new();
            for (recent, owed) in range.iter().zip(&mut owed) {
                if member.owes(recent.entry.seq) {
                    refs.push(recent.entry.clone());
                    *owed = true;
                }
            }
            if refs.is_empty() {
                continue;
            }
            self.bytes += refs.len() * 100;
            self.deliveries.deliveries.push(Delivery {
                tenant: name.0,
                user: member.user.clone(),
                conversation: name.1.clone(),
                after: member.owed_until(target.cursor),
                // His list shows how far it goes: no further than his stay did.
                upto: member.owed_until(Some(upto)).expect("who is owed an entry of the range came before its end"),
                entries: refs,
                place: Place::Open { segment: 0 },
            });
            deliveries += 1;
        }
        if deliveries == 0 {
            target.cursor = Some(upto);
            target.backlog = if upto >= last { 0 } else { target.backlog.saturating_sub(range.len() as u64) };
            return;
        }
        for (recent, _) in range.iter().zip(&owed).filter(|(_, owed)| **owed) {
            self.bytes += recent.bytes();
            self.deliveries.bodies.extend(recent.body.as_ref().map(|stored| DeliveryBody {
                tenant: name.0,
                conversation: name.1.clone(),
                seq: recent.entry.seq,
                salt: stored.salt.clone(),
                body: stored.body.clone(),
            }));
        }
        target.busy = true;
        self.parts.push(Part { name: name.clone(), upto, entries: range.len() as u64, deliveries });
    }
}

impl Target {
    fn answered(&mut self, clock: &Clock, part: &Part, outcomes: Option<&[DeliveryOutcome]>, last: Option<Seq>) {
        let mut jump: Option<Option<Seq>> = None;
        let mut refused = outcomes.is_none();
        for outcome in outcomes.unwrap_or_default() {
            match outcome {
                DeliveryOutcome::Accepted { .. } => {}
                DeliveryOutcome::Jump { last, .. } => jump = Some(jump.map_or(*last, |jump| jump.min(*last))),
                DeliveryOutcome::SeqRefused => refused = true,
            }
        }
        if refused {
            self.retry_at_ms = clock.now_ms + (RETRY_MS_MIN << self.failures.min(6)).min(RETRY_MS_MAX);
            self.failures += 1;
            return;
        }
        self.retry_at_ms = 0;
        self.failures = 0;
        self.answered_at_ms = Some(clock.now_ms);
        match jump {
            Some(back) => self.cursor = back.min(self.cursor),
            None => {
                self.cursor = self.cursor.max(Some(part.upto));
                self.backlog = if self.cursor >= last { 0 } else { self.backlog.saturating_sub(part.entries) };
            }
        }
    }
}
