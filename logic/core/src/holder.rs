//! Holder: one slot under one claim.
//!
//! Call [`SlotHolder::handle`] with whatever happened, then [`SlotHolder::poll`] until it returns `None`, then ask
//! [`SlotHolder::poll_timeout`] when to come again with [`Event::Timer`]. Numbering, deliveries and reservations are
//! gathered in `poll`, so that several events handled in a row become few commands.
//!
//! # Invariants
//! I3: nothing is sent under an epoch after [`Effect::Ended`], and nothing is taken after `Release` was sent.
//! I12: a registration is answered with a tail that was read after it was made, and what is pushed starts there.
//!
//! # Failure
//! A holder that dies leaves its durable state only. The next one reads the pending table, loads those conversations
//! and resumes their deliveries from the durable cursors; inboxes skip what they have.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use seriatim_proto::command::{DeliveredRecord, HolderOp, Want};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::hash;
use seriatim_proto::ids::{ConversationId, Epoch, Namespace, NodeId, SlotId, TenantId};
use seriatim_proto::limits;
use seriatim_proto::logic::{CallError, Reply};
use seriatim_proto::store::{Read, ReadOutcome};

use crate::allocator::Allocator;
use crate::conversation::{Conversation, ConversationName, Load};
use crate::counter::{Counter, CounterKey};
use crate::delivery::Batch;
use crate::event::{Cancel, Clock, Effect, Event, RequestId, Send};
use crate::inbox::{Inbox, InboxName};
use crate::incoming::Incoming;
use crate::mark::Marks;
use crate::pipeline::{Note, Pipeline, Standing};

/// Pause before a failed read is made again.
const READ_RETRY_MS: u64 = 100;
/// Period of the command that writes the delivery cursors of idle conversations.
const RECORD_MS: u64 = 1_000;
/// A conversation without an append for this long is idle.
const IDLE_MS: u64 = 400;
/// Rows of one read of the pending table: a takeover reads those of many slots at once.
const PENDING_ROWS: u32 = 64;
/// What was not used for this long is dropped from memory.
pub(crate) const EVICT_MS: u64 = 60_000;

/// Bounds of one holder.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HolderLimits {
    /// requests and incoming batches that wait
    pub queue_max: usize,
    /// commands sent and not answered
    pub in_flight_max: usize,
    /// counters of the sequence service in memory
    pub counters_max: usize,
    /// undelivered entries of a conversation
    pub undelivered_max: u64,
    /// bytes of recent entries kept for deliveries
    pub recent_bytes_max: usize,
}

impl Default for HolderLimits {
    fn default() -> Self {
        Self {
            queue_max: limits::SLOT_QUEUE_MAX as usize,
            in_flight_max: limits::SLOT_IN_FLIGHT_MAX as usize,
            counters_max: limits::SLOT_COUNTERS_MAX as usize,
            undelivered_max: limits::UNDELIVERED_MAX,
            recent_bytes_max: 512 << 10,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Phase {
    Serving,
    /// Takes nothing new; releases when all replies are there.
    Releasing {
        heir: Option<NodeId>,
    },
    /// `Release` was sent.
    Released,
    Ended,
}

/// What a read is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum ReadFor {
    Pending {
        after: Option<ConversationName>,
    },
    Conversation(ConversationName),
    Backlog {
        name: ConversationName,
        target: SlotId,
    },
    Tail(InboxName),
    Ceiling(CounterKey),
    /// What became of a send whose outcome was lost.
    Settle(u64),
}

/// A send from its arrival to its reply.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct SendOp {
    pub(crate) requests: Vec<RequestId>,
    /// taken out while it is in the pipeline
    pub(crate) send: Option<Send>,
}

/// The holder of one slot.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SlotHolder {
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
    pub(crate) limits: HolderLimits,
    pub(crate) phase: Phase,
    /// Nobody ever wrote to this slot before: what is not in memory does not exist.
    pub(crate) virgin: bool,
    /// Outcomes were lost: nothing is numbered until all is settled, then memory is read anew.
    pub(crate) settling: bool,
    pub(crate) settle_reads: usize,
    pub(crate) pipeline: Pipeline,
    pub(crate) conversations: BTreeMap<ConversationName, Conversation>,
    pub(crate) inboxes: BTreeMap<InboxName, Inbox>,
    pub(crate) counters: BTreeMap<CounterKey, Counter>,
    /// requests of all counters that wait
    pub(crate) counters_waiting: usize,
    pub(crate) sends: BTreeMap<u64, SendOp>,
    pub(crate) incoming: BTreeMap<u64, Incoming>,
    pub(crate) batches: BTreeMap<u64, Batch>,
    pub(crate) reads: BTreeMap<u64, ReadFor>,
    pub(crate) reads_due: BTreeMap<u64, (u64, ReadFor)>,
    pub(crate) next_id: u64,
    /// conversations with sends that could be numbered
    pub(crate) ready: BTreeSet<ConversationName>,
    /// conversations whose sends wait for a segment
    pub(crate) stalled: BTreeSet<ConversationName>,
    /// incoming deliveries that could be numbered, and those that wait for a segment
    pub(crate) ready_incoming: VecDeque<(u64, usize)>,
    pub(crate) stalled_incoming: VecDeque<(u64, usize)>,
    /// conversations whose deliveries must be looked at
    pub(crate) dirty: BTreeSet<ConversationName>,
    /// conversations whose durable cursors are behind
    pub(crate) unrecorded: BTreeSet<ConversationName>,
    pub(crate) recorded_at_ms: u64,
    pub(crate) wants: Vec<(Namespace, u32)>,
    /// wants of a reservation that was refused as a whole
    pub(crate) wants_alone: VecDeque<Want>,
    /// devices whose cursors should be written now
    pub(crate) cursors_due: BTreeSet<(InboxName, seriatim_proto::ids::DeviceId)>,
    /// devices with an ack that waits for its time, in ms
    pub(crate) cursors_at: BTreeMap<u64, BTreeSet<(InboxName, seriatim_proto::ids::DeviceId)>>,
    /// wait for an `n`
    pub(crate) cancels: VecDeque<(RequestId, Cancel)>,
    pub(crate) cancels_in_flight: usize,
    pub(crate) marks: Marks,
    pub(crate) recent_bytes: usize,
    pub(crate) effects: VecDeque<Effect>,
    /// `Ended`, until it was said: whatever comes between the end and then is still answered, and answers go first
    pub(crate) over: Option<bool>,
    pub(crate) wake_at_ms: Option<u64>,
    pub(crate) evicted_at_ms: u64,
}

impl SlotHolder {
    /// A holder whose claim was applied. `seen` is the epoch before it.
    pub fn new(now_ms: u64, slot: SlotId, epoch: Epoch, seen: Epoch, limits: HolderLimits) -> Self {
        let virgin = seen == Epoch::NONE && epoch == Epoch::NONE.next();
        let mut holder = Self {
            slot,
            epoch,
            limits,
            phase: Phase::Serving,
            virgin,
            settling: false,
            settle_reads: 0,
            pipeline: Pipeline::new(slot, epoch, limits.in_flight_max),
            conversations: BTreeMap::new(),
            inboxes: BTreeMap::new(),
            counters: BTreeMap::new(),
            counters_waiting: 0,
            sends: BTreeMap::new(),
            incoming: BTreeMap::new(),
            batches: BTreeMap::new(),
            reads: BTreeMap::new(),
            reads_due: BTreeMap::new(),
            next_id: 0,
            ready: BTreeSet::new(),
            stalled: BTreeSet::new(),
            ready_incoming: VecDeque::new(),
            stalled_incoming: VecDeque::new(),
            dirty: BTreeSet::new(),
            unrecorded: BTreeSet::new(),
            recorded_at_ms: now_ms,
            wants: Vec::new(),
            wants_alone: VecDeque::new(),
            cursors_due: BTreeSet::new(),
            cursors_at: BTreeMap::new(),
            cancels: VecDeque::new(),
            cancels_in_flight: 0,
            marks: Marks::default(),
            recent_bytes: 0,
            effects: VecDeque::new(),
            over: None,
            wake_at_ms: None,
            evicted_at_ms: now_ms,
        };
        if !virgin {
            holder.scan_pending(None);
        }
        holder
    }

    /// The slot.
    pub fn slot(&self) -> SlotId {
        self.slot
    }
    /// The claim.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }
    /// Is it over, or about to be?
    pub fn is_leaving(&self) -> bool {
        self.phase != Phase::Serving
    }

    /// Takes one event. Call [`Self::poll`] afterwards.
    pub fn handle(&mut self, clock: &Clock, event: Event) {
        match event {
            Event::Send { request, send } => self.on_send(clock, request, send),
            Event::Cancel { request, cancel } => self.on_cancel(request, cancel),
            Event::Ack { request, tenant, user, device, cursor } => {
                self.on_ack(clock, request, (tenant, user), device, cursor)
            }
            Event::Mark { request, tenant, user, conversation, mark } => {
                self.on_mark(clock, request, (tenant, user), conversation, mark)
            }
            Event::Register { request, session, tenant, user, position } => {
                self.on_register(clock, request, session, (tenant, user), position)
            }
            Event::Renew { session, tenant, user, position } => {
                self.on_renew(clock, session, &(tenant, user), position)
            }
            Event::Unregister { session, tenant, user } => self.on_unregister(session, &(tenant, user)),
            Event::Next { request, tenant, counter, count } => self.on_next(clock, request, (tenant, counter), count),
            Event::Current { request, tenant, counter } => self.on_current(clock, request, (tenant, counter)),
            Event::Deliver { source, deliveries, bodies } => self.on_deliver(source, deliveries, bodies),
            Event::DeliverAnswered { batch, outcomes } => self.on_deliver_answered(clock, batch, outcomes),
            Event::Outcome { n, outcome } => match self.pipeline.outcome(clock.now_ms, n, outcome) {
                Standing::Goes => self.settle_commands(clock),
                Standing::Over => self.end(false),
            },
            Event::ProposeFailed { n, refusal } => {
                self.pipeline.failed(clock.now_ms, n, refusal);
                if self.pipeline.blocked().is_some() {
                    self.count_waiting(clock);
                }
            }
            Event::ReadDone { id, outcome } => self.on_read(clock, id, outcome),
            Event::Release { heir } => {
                if self.phase == Phase::Serving {
                    self.phase = Phase::Releasing { heir };
                    self.refuse_unnumbered();
                }
            }
            Event::LeaseGone => self.end(false),
            Event::Timer => self.on_timer(clock),
        }
    }

    /// The next thing to do, until `None`.
    pub fn poll(&mut self, clock: &Clock) -> Option<Effect> {
        if self.effects.is_empty() {
            self.flush(clock);
        }
        self.effects.pop_front().or_else(|| self.over.take().map(|released| Effect::Ended { released }))
    }

    /// When `Event::Timer` is due. Ask after `poll` has returned `None`.
    pub fn poll_timeout(&self) -> Option<u64> {
        [self.wake_at_ms, self.pipeline.timeout()].into_iter().flatten().min()
    }

    fn flush(&mut self, clock: &Clock) {
        if self.phase == Phase::Ended {
            return;
        }
        self.pipeline.resend(clock.now_ms, &mut self.effects);
        if self.settling {
            self.finish_settling(clock);
            return;
        }
        if self.pipeline.is_open() && self.phase != Phase::Released {
            self.number_cancels();
            self.number_sends(clock);
            self.number_incoming(clock);
            self.number_wants();
            self.number_wants_alone();
            self.number_cursors(clock);
            self.number_marks(clock);
            self.number_records(clock);
        }
        if self.phase == Phase::Serving {
            self.deliver(clock);
        }
        if let Phase::Releasing { heir } = self.phase {
            self.release(heir);
        }
    }

    fn on_timer(&mut self, clock: &Clock) {
        self.wake_at_ms = None;
        let due: Vec<u64> =
            self.reads_due.iter().filter(|(_, (at, _))| *at <= clock.now_ms).map(|(id, _)| *id).collect();
        for id in due {
            if let Some((_, what)) = self.reads_due.remove(&id) {
                self.read(what);
            }
        }
        if let Some(at) = self.reads_due.values().map(|(at, _)| *at).min() {
            self.wake(at);
        }
        let retry = self
            .conversations
            .iter()
            .filter(|(_, conversation)| conversation.targets.values().any(|target| target.retry_at_ms > 0));
        self.dirty.extend(retry.map(|(name, _)| name.clone()).collect::<Vec<_>>());
        self.due_cursors(clock);
        self.due_marks(clock);
        if !self.unrecorded.is_empty() {
            self.wake(self.recorded_at_ms + RECORD_MS);
        }
        self.evict(clock);
    }

    pub(crate) fn wake(&mut self, at_ms: u64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |wake| wake.min(at_ms)));
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(crate) fn submit(&mut self, op: HolderOp, note: Note) {
        let effect = self.pipeline.submit(op, note);
        self.effects.push_back(effect);
    }

    pub(crate) fn reply(&mut self, requests: &[RequestId], result: &Result<Reply, CallError>) {
        self.effects.extend(requests.iter().map(|request| Effect::Reply { request: *request, result: result.clone() }));
    }

    pub(crate) fn not_holder<T>(&self) -> Result<T, CallError> {
        Err(CallError::NotHolder { slot: self.slot, row: None })
    }

    /// Some namespace got its segment, or none: whoever waited may try again.
    pub(crate) fn unstall(&mut self) {
        self.ready.append(&mut self.stalled);
        self.ready_incoming.extend(self.stalled_incoming.drain(..));
        self.marks.unstall();
    }

    pub(crate) fn allocator(&mut self, namespace: &Namespace) -> Option<&mut Allocator> {
        use seriatim_proto::ids::Owner;
        match &namespace.owner {
            Owner::Inbox(user) => {
                self.inboxes.get_mut(&(namespace.tenant, user.clone())).map(|inbox| &mut inbox.allocator)
            }
            Owner::Conversation(id) => self
                .conversations
                .get_mut(&(namespace.tenant, id.clone()))
                .map(|conversation| &mut conversation.allocator),
            Owner::Counter(name) => {
                self.counters.get_mut(&(namespace.tenant, name.clone())).map(|counter| &mut counter.allocator)
            }
        }
    }

    fn number_wants(&mut self) {
        while !self.wants.is_empty() && self.pipeline.is_open() {
            let count = self.wants.len().min(limits::RESERVE_NAMESPACES_MAX as usize);
            let wants = self.wants.drain(..count).map(|(namespace, seqs)| Want { namespace, seqs }).collect();
            self.submit(HolderOp::Reserve { wants }, Note::None);
        }
    }

    fn number_records(&mut self, clock: &Clock) {
        if self.unrecorded.is_empty() {
            return;
        }
        let due_ms = self.recorded_at_ms + RECORD_MS;
        if clock.now_ms < due_ms && self.phase == Phase::Serving {
            self.wake(due_ms);
            return;
        }
        self.recorded_at_ms = clock.now_ms;
        let leaving = self.phase != Phase::Serving;
        let mut records = Vec::new();
        let mut busy = BTreeSet::new();
        for name in std::mem::take(&mut self.unrecorded) {
            let Some(conversation) = self.conversations.get_mut(&name) else { continue };
            let record = conversation.record();
            if record == conversation.recorded && !(conversation.pending && conversation.is_delivered()) {
                continue;
            }
            let idle = leaving || conversation.appended_at_ms + IDLE_MS <= clock.now_ms;
            if conversation.in_flight > 0 || !idle || records.len() >= limits::RESERVE_NAMESPACES_MAX as usize {
                busy.insert(name);
                continue;
            }
            conversation.recorded = record.clone();
            // Apply removes it from the pending table if this record says that everybody has everything.
            conversation.pending &= !conversation.is_delivered();
            records.push(DeliveredRecord { tenant: name.0, conversation: name.1, record });
        }
        self.unrecorded.append(&mut busy);
        if !records.is_empty() {
            self.submit(HolderOp::Delivered { records }, Note::None);
        }
        if !self.unrecorded.is_empty() {
            self.wake(clock.now_ms + RECORD_MS);
        }
    }

    // --- reads

    pub(crate) fn read(&mut self, what: ReadFor) {
        let read = match &what {
            ReadFor::Pending { after } => Read::Pending { slot: self.slot, after: after.clone(), limit: PENDING_ROWS },
            ReadFor::Conversation((tenant, conversation)) => {
                Read::Conversation { tenant: *tenant, conversation: conversation.clone() }
            }
            ReadFor::Backlog { name, target } => {
                let cursor = self
                    .conversations
                    .get(name)
                    .and_then(|conversation| conversation.targets.get(target))
                    .and_then(|target| target.cursor);
                Read::Messages {
                    tenant: name.0,
                    conversation: name.1.clone(),
                    from: cursor.map_or(seriatim_proto::ids::Seq::FIRST, seriatim_proto::ids::Seq::next),
                    limit: limits::DELIVERY_ENTRIES_MAX,
                    bytes_max: crate::delivery::BATCH_BYTES_MAX as u32,
                }
            }
            ReadFor::Ceiling((tenant, counter)) => Read::Namespace(Namespace::counter(*tenant, counter.clone())),
            ReadFor::Tail((tenant, user)) => Read::Namespace(Namespace::inbox(*tenant, user.clone())),
            ReadFor::Settle(send) => {
                let Some(send) = self.sends.get(send).and_then(|op| op.send.as_ref()) else { return };
                Read::Dedupe {
                    tenant: send.tenant,
                    conversation: send.conversation.clone(),
                    sender: send.sender.clone(),
                    message_id: send.message_id,
                }
            }
        };
        let id = self.id();
        self.reads.insert(id, what);
        self.effects.push_back(Effect::Read { id, read });
    }

    fn on_read(&mut self, clock: &Clock, id: u64, outcome: Option<ReadOutcome>) {
        let Some(what) = self.reads.remove(&id) else { return };
        match (what, outcome) {
            (what, None | Some(ReadOutcome::WrongGroup)) => {
                let at = clock.now_ms + READ_RETRY_MS;
                self.reads_due.insert(id, (at, what));
                self.wake(at);
            }
            (ReadFor::Pending { .. }, Some(ReadOutcome::Pending(names))) => {
                if names.len() >= PENDING_ROWS as usize {
                    self.scan_pending(names.last().cloned());
                }
                for name in names {
                    self.ensure_conversation(&name);
                }
            }
            (ReadFor::Conversation(name), Some(ReadOutcome::Conversation(state))) => {
                let Some(conversation) = self.conversations.get_mut(&name) else { return };
                conversation.loaded(state);
                if conversation.pending || !conversation.is_delivered() {
                    self.dirty.insert(name.clone());
                    self.unrecorded.insert(name.clone());
                }
                self.ready.insert(name);
            }
            (ReadFor::Backlog { name, target }, Some(ReadOutcome::Messages(messages))) => {
                self.on_backlog_read(clock, name, target, messages)
            }
            (ReadFor::Tail(name), Some(ReadOutcome::Namespace(state))) => self.on_tail_read(&name, state),
            (ReadFor::Ceiling(key), Some(ReadOutcome::Namespace(state))) => self.on_ceiling_read(clock, &key, state),
            (ReadFor::Settle(send), Some(outcome)) => self.on_settle_read(send, outcome),
            (what, Some(_)) => {
                self.effects.push_back(Effect::Alarm("a read was answered with something else"));
                let at = clock.now_ms + READ_RETRY_MS;
                self.reads_due.insert(id, (at, what));
                self.wake(at);
            }
        }
    }

    pub(crate) fn scan_pending(&mut self, after: Option<ConversationName>) {
        self.read(ReadFor::Pending { after });
    }

    /// Makes sure that the conversation is in memory, or will be.
    pub(crate) fn ensure_conversation(&mut self, name: &ConversationName) {
        if self.conversations.contains_key(name) {
            return;
        }
        let mut conversation = Conversation::loading(self.epoch);
        if self.virgin {
            conversation.load = Load::Loaded;
            self.conversations.insert(name.clone(), conversation);
        } else {
            self.conversations.insert(name.clone(), conversation);
            self.read(ReadFor::Conversation(name.clone()));
        }
    }

    // --- endings

    fn release(&mut self, heir: Option<NodeId>) {
        let quiet = self.marks.is_quiet()
            && self.pipeline.is_empty()
            && self.sends.is_empty()
            && self.incoming.is_empty()
            && self.unrecorded.is_empty();
        if quiet && self.pipeline.is_open() {
            self.phase = Phase::Released;
            self.submit(HolderOp::Release { heir }, Note::None);
        }
    }

    /// What has no `n` did not happen: the next holder takes it.
    fn refuse_unnumbered(&mut self) {
        for conversation in self.conversations.values_mut() {
            for id in std::mem::take(&mut conversation.waiting) {
                if let Some(op) = self.sends.remove(&id) {
                    if let Some(send) = &op.send {
                        conversation.joins.remove(&(send.sender.clone(), send.message_id));
                    }
                    for request in op.requests {
                        self.effects.push_back(Effect::Reply {
                            request,
                            result: Err(CallError::NotHolder { slot: self.slot, row: None }),
                        });
                    }
                }
            }
        }
        self.ready.clear();
        self.stalled.clear();
        let waiting: BTreeSet<u64> =
            self.ready_incoming.drain(..).chain(self.stalled_incoming.drain(..)).map(|(id, _)| id).collect();
        for id in waiting {
            if let Some(incoming) = self.incoming.remove(&id) {
                self.effects.push_back(Effect::DeliverAnswer { source: incoming.source, result: self.not_holder() });
            }
        }
        self.wants.clear();
        self.wants_alone.clear();
        self.refuse_cancels();
        self.refuse_marks();
        self.refuse_counters();
        let waiting = self.inboxes.values_mut().flat_map(|inbox| inbox.refuse_acks()).collect::<Vec<_>>();
        for request in waiting {
            self.effects.push_back(Effect::Reply { request, result: self.not_holder() });
        }
        let sessions = self.inboxes.values_mut().flat_map(Inbox::refuse_registrations).collect::<Vec<_>>();
        for request in sessions {
            self.effects.push_back(Effect::Registered { request, result: self.not_holder() });
        }
        self.cursors_due.clear();
        self.cursors_at.clear();
    }

    pub(crate) fn end(&mut self, released: bool) {
        if self.phase == Phase::Ended {
            return;
        }
        self.refuse_unnumbered();
        let unknown = || {
            Err(CallError::Refused(Refusal::new(ErrorCode::Unavailable, "the slot moved before the outcome was known")))
        };
        for op in std::mem::take(&mut self.sends).into_values() {
            self.reply(&op.requests, &unknown());
        }
        for incoming in std::mem::take(&mut self.incoming).into_values() {
            self.effects.push_back(Effect::DeliverAnswer { source: incoming.source, result: self.not_holder() });
        }
        let acks: Vec<RequestId> = self.inboxes.values_mut().flat_map(Inbox::drain_acks).collect();
        self.reply(&acks, &unknown());
        let asked = self.pipeline.drain_notes().flat_map(|(_, note)| match note {
            Note::Cancel(request) => vec![request],
            Note::Marks(keys) => keys.into_iter().flat_map(|(_, asked)| asked).map(|(request, _)| request).collect(),
            Note::None | Note::Send(_) | Note::Incoming(_) => Vec::new(),
        });
        let asked: Vec<RequestId> = asked.collect();
        self.reply(&asked, &unknown());
        self.conversations.clear();
        self.inboxes.clear();
        self.counters.clear();
        self.batches.clear();
        self.reads.clear();
        self.reads_due.clear();
        self.wake_at_ms = None;
        self.phase = Phase::Ended;
        self.over = Some(released);
    }

    fn evict(&mut self, clock: &Clock) {
        if clock.now_ms < self.evicted_at_ms + EVICT_MS {
            return;
        }
        self.evicted_at_ms = clock.now_ms;
        let since_ms = clock.now_ms.saturating_sub(EVICT_MS);
        let before = self.conversations.len();
        let (slot_bytes, unrecorded) = (&mut self.recent_bytes, &self.unrecorded);
        self.conversations.retain(|name, conversation| {
            let keep =
                !conversation.is_idle() || conversation.allocator.used_at_ms() > since_ms || unrecorded.contains(name);
            if !keep {
                *slot_bytes -= conversation.recent.bytes;
            }
            keep
        });
        self.virgin &= self.conversations.len() == before;
        self.marks.forget(since_ms);
        self.forget_counters(since_ms);
        self.inboxes.retain(|_, inbox| !inbox.is_idle() || inbox.allocator.used_at_ms() > since_ms);
    }

    /// Does this conversation live here?
    pub(crate) fn owns(&self, tenant: TenantId, conversation: &ConversationId) -> bool {
        hash::conversation_slot(tenant, conversation) == self.slot
    }
}
