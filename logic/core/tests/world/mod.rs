//! World: holders of several slots against the real apply, over a network that loses, doubles and reorders.
#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests: not every file uses all")]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use seriatim_logic_core::{
    Cancel, Clock, Effect, Event, HolderLimits, RequestId, Send, SessionKey, SlotHolder, SourceId,
};
use seriatim_proto::codec;
use seriatim_proto::command::{Command, Content, DeliveryOutcome, Outcome, Reject, SlotRange};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::hash;
use seriatim_proto::ids::*;
use seriatim_proto::limits;
use seriatim_proto::logic::{CallError, PushEntry, Reply, SendState, SlotDeliveries};
use seriatim_proto::store::{InboxEntry, Read, ReadOutcome, StoredMessage};
use seriatim_store_core::{At, MemoryView, apply, read};

pub(crate) const TENANT: TenantId = TenantId(1);
const GROUP: GroupId = GroupId(1);

/// What is on its way.
#[derive(Clone, Debug)]
pub(crate) enum Wire {
    Propose { slot: SlotId, epoch: Epoch, n: u64, command: Bytes },
    Outcome { slot: SlotId, epoch: Epoch, n: u64, outcome: Result<Outcome, Refusal> },
    Read { slot: SlotId, epoch: Epoch, id: u64, read: Read },
    Deliver { source: SlotId, epoch: Epoch, batch: u64, deliveries: SlotDeliveries },
    Answer { source: SlotId, epoch: Epoch, batch: u64, outcomes: Option<Vec<DeliveryOutcome>> },
}

/// What happens to the next message.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Fate {
    Arrives,
    /// nothing happens, the sender learns that it failed
    Lost,
    /// it happens, the answer is lost
    AnswerLost,
    /// it happens once more later
    Doubled,
    /// the sender gives up; it happens later
    Late,
}

pub(crate) struct World {
    pub(crate) view: MemoryView,
    index: u64,
    pub(crate) now_ms: u64,
    lease: LeaseId,
    pub(crate) holders: BTreeMap<SlotId, SlotHolder>,
    /// holders that slept through their lease, and when it ended; they know nothing of their successors
    pub(crate) sleepers: Vec<(u64, SlotHolder)>,
    pub(crate) wires: Vec<Wire>,
    pub(crate) ghosts: Vec<Wire>,
    pub(crate) replies: BTreeMap<RequestId, Result<Reply, CallError>>,
    pub(crate) registered: BTreeMap<RequestId, Result<Seq, CallError>>,
    pub(crate) pushes: Vec<(Vec<SessionKey>, Vec<PushEntry>)>,
    pub(crate) lagging: Vec<(SessionKey, Seq)>,
    pub(crate) unregistered: Vec<SessionKey>,
    pub(crate) ended: Vec<(SlotId, bool)>,
    /// requests of all answers to deliveries
    pub(crate) answers: Vec<u64>,
    pub(crate) proposed: Vec<(SlotId, Epoch, u64, Bytes)>,
    pub(crate) limits: HolderLimits,
    pub(crate) lease_until_ms: u64,
    requests: u64,
    turn: Option<BTreeSet<SlotId>>,
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub(crate) fn message(text: &str) -> Content {
    Content::Message { salt: Bytes::from_static(b"s"), body: Bytes::copy_from_slice(text.as_bytes()) }
}

pub(crate) fn send(sender: &str, conversation: &ConversationId, id: u8, content: Content) -> Send {
    Send {
        tenant: TENANT,
        conversation: conversation.clone(),
        sender: user(sender),
        message_id: MessageId([id; 16]),
        known: None,
        follows: None,
        content,
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let lease = LeaseId { generation: Generation(0), index: LogIndex(0), place: 0 };
        let mut world = Self {
            view: MemoryView::default(),
            index: 0,
            now_ms: 1_000,
            lease,
            holders: BTreeMap::new(),
            sleepers: Vec::new(),
            wires: Vec::new(),
            ghosts: Vec::new(),
            replies: BTreeMap::new(),
            registered: BTreeMap::new(),
            pushes: Vec::new(),
            lagging: Vec::new(),
            unregistered: Vec::new(),
            ended: Vec::new(),
            answers: Vec::new(),
            proposed: Vec::new(),
            limits: HolderLimits::default(),
            lease_until_ms: u64::MAX,
            requests: 0,
            turn: None,
        };
        world.apply(&Command::Own {
            generation: Generation(0),
            slots: vec![SlotRange { first: SlotId(0), end: SlotId(limits::SLOTS) }],
        });
        world.open_lease();
        world
    }

    fn open_lease(&mut self) {
        match self.apply(&Command::OpenLease { node: NodeId(self.index + 1) }) {
            Outcome::Leased(lease) => self.lease = lease,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        let at = At { group: GROUP, term: 1, index: LogIndex(self.index), place: 0 };
        apply(&mut self.view, at, command, &mut Vec::new()).unwrap()
    }

    pub(crate) fn read(&self, what: &Read) -> ReadOutcome {
        read(&self.view, GROUP, what).unwrap()
    }

    pub(crate) fn clock(&self) -> Clock {
        Clock { now_ms: self.now_ms, unix_ms: 1_700_000_000_000 + self.now_ms, lease_until_ms: self.lease_until_ms }
    }

    /// Claims a slot for a new holder, if it has none.
    pub(crate) fn claim(&mut self, slot: SlotId) {
        if self.holders.contains_key(&slot) {
            return;
        }
        let mut seen = Epoch::NONE;
        let epoch = loop {
            let lease = self.lease;
            match self.apply(&Command::Claim { slot, lease, seen }) {
                Outcome::Claimed { epoch } => break epoch,
                Outcome::Rejected(Reject::ClaimRefused { epoch, .. }) if epoch != seen => seen = epoch,
                other => panic!("{other:?}"),
            }
        };
        self.holders.insert(slot, SlotHolder::new(self.now_ms, slot, epoch, seen, self.limits));
        self.poll(slot);
    }

    /// All holders die with their lease; new ones take over.
    pub(crate) fn crash_all(&mut self) {
        let slots: Vec<SlotId> = std::mem::take(&mut self.holders).into_keys().collect();
        let lease = self.lease;
        self.apply(&Command::ExpireLease { lease });
        self.open_lease();
        for slot in slots {
            self.claim(slot);
        }
    }

    /// All holders are paused beyond their lease, with all that they know; new ones take over.
    pub(crate) fn sleep_all(&mut self) {
        let asleep: Vec<_> = self.holders.values().cloned().map(|holder| (self.now_ms, holder)).collect();
        self.crash_all();
        self.sleepers.extend(asleep);
    }

    /// One that was paused wakes up and reads what waited in its socket, before it hears of anything else.
    pub(crate) fn wake(&mut self, place: usize, event: Event) {
        let (lease_until_ms, holder) = &mut self.sleepers[place];
        let clock = Clock { now_ms: self.now_ms, unix_ms: 0, lease_until_ms: *lease_until_ms };
        holder.handle(&clock, event);
        while let Some(effect) = holder.poll(&clock) {
            // What it proposes is fenced.
            if let Effect::Reply { request, result } = effect {
                self.replies.insert(request, result);
            }
        }
    }

    pub(crate) fn handle(&mut self, slot: SlotId, event: Event) {
        let clock = self.clock();
        if let Some(holder) = self.holders.get_mut(&slot) {
            holder.handle(&clock, event);
            match &mut self.turn {
                Some(touched) => drop(touched.insert(slot)),
                None => self.poll(slot),
            }
        }
    }

    /// Everything until [`Self::end_turn`] is handled before anybody is polled, as a node takes its queue in batches.
    pub(crate) fn begin_turn(&mut self) {
        self.turn = Some(BTreeSet::new());
    }

    pub(crate) fn end_turn(&mut self) {
        for slot in self.turn.take().unwrap_or_default() {
            self.poll(slot);
        }
    }

    pub(crate) fn poll(&mut self, slot: SlotId) {
        let clock = self.clock();
        loop {
            let Some(holder) = self.holders.get_mut(&slot) else { return };
            let epoch = holder.epoch();
            let Some(effect) = holder.poll(&clock) else { return };
            match effect {
                Effect::Propose { n, command } => {
                    self.proposed.push((slot, epoch, n, command.clone()));
                    self.wires.push(Wire::Propose { slot, epoch, n, command });
                }
                Effect::Read { id, read } => self.wires.push(Wire::Read { slot, epoch, id, read }),
                Effect::Reply { request, result } => {
                    assert!(self.replies.insert(request, result).is_none(), "one reply per request")
                }
                Effect::Registered { request, result } => assert!(self.registered.insert(request, result).is_none()),
                Effect::Push { sessions, entries } => self.pushes.push((sessions, entries)),
                Effect::Lagging { session, tail } => self.lagging.push((session, tail)),
                Effect::Unregistered { session } => self.unregistered.push(session),
                Effect::Deliver { batch, deliveries } => {
                    self.wires.push(Wire::Deliver { source: slot, epoch, batch, deliveries })
                }
                Effect::DeliverAnswer { source, result } => {
                    self.answers.push(source.request);
                    let (of, epoch) = (SlotId(u16::try_from(source.index).unwrap()), Epoch(source.stream));
                    self.wires.push(Wire::Answer { source: of, epoch, batch: source.request, outcomes: result.ok() });
                }
                Effect::Alarm(text) => panic!("{text}"),
                Effect::Ended { released } => {
                    self.holders.remove(&slot);
                    self.ended.push((slot, released));
                }
            }
        }
    }

    fn to(&mut self, slot: SlotId, epoch: Epoch, event: Event) {
        if self.holders.get(&slot).is_some_and(|holder| holder.epoch() == epoch) {
            self.handle(slot, event);
        }
    }

    /// One message on its way meets its fate.
    pub(crate) fn step(&mut self, wire: Wire, fate: Fate) {
        match wire.clone() {
            Wire::Propose { slot, epoch, n, command } => {
                let unknown = Err(Refusal::new(ErrorCode::Timeout, ""));
                let mut framed = vec![codec::VERSION];
                framed.extend_from_slice(&command);
                let command: Command = codec::decode(&framed).unwrap();
                let outcome = match fate {
                    Fate::Lost => unknown,
                    Fate::Late => {
                        self.ghosts.push(wire);
                        unknown
                    }
                    Fate::AnswerLost => {
                        self.apply(&command);
                        unknown
                    }
                    Fate::Doubled => {
                        self.ghosts.push(wire);
                        Ok(self.apply(&command))
                    }
                    Fate::Arrives => Ok(self.apply(&command)),
                };
                self.wires.push(Wire::Outcome { slot, epoch, n, outcome });
            }
            Wire::Outcome { slot, epoch, n, outcome } => {
                let event = match outcome {
                    Ok(outcome) => Event::Outcome { n, outcome },
                    Err(refusal) => Event::ProposeFailed { n, refusal },
                };
                self.to(slot, epoch, event);
            }
            Wire::Read { slot, epoch, id, read } => {
                let outcome = (fate == Fate::Arrives).then(|| self.read(&read));
                self.to(slot, epoch, Event::ReadDone { id, outcome });
            }
            Wire::Deliver { source, epoch, batch, deliveries } => {
                if fate == Fate::Lost || fate == Fate::Late || !self.holders.contains_key(&deliveries.slot) {
                    if fate == Fate::Late {
                        self.ghosts.push(wire);
                    }
                    return self.to(source, epoch, Event::DeliverAnswered { batch, outcomes: None });
                }
                if fate == Fate::Doubled {
                    self.ghosts.push(wire);
                }
                if fate == Fate::AnswerLost {
                    self.to(source, epoch, Event::DeliverAnswered { batch, outcomes: None });
                }
                let id = SourceId { stream: epoch.0, request: batch, index: u32::from(source.0) };
                self.handle(
                    deliveries.slot,
                    Event::Deliver { source: id, deliveries: deliveries.deliveries, bodies: deliveries.bodies },
                );
            }
            Wire::Answer { source, epoch, batch, outcomes } => {
                let outcomes = outcomes.filter(|_| fate == Fate::Arrives);
                self.to(source, epoch, Event::DeliverAnswered { batch, outcomes });
            }
        }
    }

    /// One of the first few messages on their way meets the fate of this number: most arrive.
    pub(crate) fn nudge(&mut self, place: usize, fate: u8) {
        if self.wires.is_empty() {
            return;
        }
        let wire = self.wires.remove(place % self.wires.len().min(8));
        let fate = match fate {
            0 => Fate::Lost,
            1 => Fate::AnswerLost,
            2 => Fate::Doubled,
            3 => Fate::Late,
            _ => Fate::Arrives,
        };
        self.step(wire, fate);
    }

    /// One of those that were given up, or doubled, happens now.
    pub(crate) fn haunt_one(&mut self, place: usize) {
        if !self.ghosts.is_empty() {
            let ghost = self.ghosts.remove(place % self.ghosts.len());
            self.haunt(ghost);
        }
    }

    /// Several messages arrive before anybody does anything.
    pub(crate) fn turn(&mut self, count: usize) {
        self.begin_turn();
        for _ in 0..count.min(self.wires.len()) {
            let wire = self.wires.remove(0);
            self.step(wire, Fate::Arrives);
        }
        self.end_turn();
    }

    /// Something that was given up, or doubled, happens now.
    pub(crate) fn haunt(&mut self, ghost: Wire) {
        match ghost {
            Wire::Propose { command, .. } => {
                let mut framed = vec![codec::VERSION];
                framed.extend_from_slice(&command);
                let command: Command = codec::decode(&framed).unwrap();
                self.apply(&command);
            }
            Wire::Deliver { deliveries, .. } => {
                let nobody = SourceId { stream: 0, request: 0, index: 0 };
                self.handle(
                    deliveries.slot,
                    Event::Deliver { source: nobody, deliveries: deliveries.deliveries, bodies: deliveries.bodies },
                );
            }
            _ => {}
        }
    }

    pub(crate) fn advance(&mut self, ms: u64) {
        self.now_ms += ms;
        let due: Vec<SlotId> = self
            .holders
            .iter()
            .filter(|(_, holder)| holder.poll_timeout().is_some_and(|at| at <= self.now_ms))
            .map(|(slot, _)| *slot)
            .collect();
        for slot in due {
            self.handle(slot, Event::Timer);
        }
    }

    /// Everything arrives, in order, for so long.
    pub(crate) fn run(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            while !self.wires.is_empty() {
                let wire = self.wires.remove(0);
                self.step(wire, Fate::Arrives);
            }
            self.advance(5);
        }
    }

    pub(crate) fn request(&mut self) -> RequestId {
        self.requests += 1;
        RequestId { stream: 1, id: self.requests }
    }

    pub(crate) fn send(&mut self, send: Send) -> RequestId {
        let request = self.request();
        let slot = hash::conversation_slot(TENANT, &send.conversation);
        self.claim(slot);
        self.handle(slot, Event::Send { request, send });
        request
    }

    /// Asks to settle the message id of a send.
    pub(crate) fn cancel(&mut self, send: &Send) -> RequestId {
        let request = self.request();
        let slot = hash::conversation_slot(TENANT, &send.conversation);
        self.claim(slot);
        let Send { tenant, conversation, sender, message_id, known, .. } = send.clone();
        let cancel = Cancel { tenant, conversation, sender, message_id, known };
        self.handle(slot, Event::Cancel { request, cancel });
        request
    }

    /// What a cancel was answered with, if it was not refused.
    pub(crate) fn settled(&self, request: RequestId) -> Option<SendState> {
        match self.replies.get(&request) {
            Some(Ok(Reply::SendStatus(state))) => Some(*state),
            _ => None,
        }
    }

    pub(crate) fn committed(&self, request: RequestId) -> Option<Seq> {
        match self.replies.get(&request) {
            Some(Ok(Reply::Committed { seq, .. })) => Some(*seq),
            _ => None,
        }
    }

    pub(crate) fn inbox(&self, name: &str) -> Vec<InboxEntry> {
        match self.read(&Read::Inbox { tenant: TENANT, user: user(name), from: None, limit: 4_096 }) {
            ReadOutcome::Inbox { entries, .. } => entries,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn log(&self, conversation: &ConversationId) -> Vec<StoredMessage> {
        let read = Read::Messages {
            tenant: TENANT,
            conversation: conversation.clone(),
            from: Seq::FIRST,
            limit: 4_096,
            bytes_max: u32::MAX,
        };
        match self.read(&read) {
            ReadOutcome::Messages(messages) => messages,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn is_pending(&self, conversation: &ConversationId) -> bool {
        match self.read(&Read::Conversation { tenant: TENANT, conversation: conversation.clone() }) {
            ReadOutcome::Conversation(state) => state.is_some_and(|state| state.pending),
            other => panic!("{other:?}"),
        }
    }

    /// I8, I9: the inbox has exactly these entries of the conversation, in the conversation's order.
    pub(crate) fn assert_inbox(&self, name: &str, conversation: &ConversationId, expected: &[Seq]) {
        let has: Vec<Seq> = self
            .inbox(name)
            .into_iter()
            .filter(|entry| entry.conversation == *conversation)
            .map(|entry| entry.entry.seq)
            .collect();
        assert_eq!(has, expected, "inbox of {name} for {conversation}");
    }
}
