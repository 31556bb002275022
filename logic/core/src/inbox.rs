//! Inbox: what a holder keeps in memory of one user of its slot: seqs, registered sessions and device cursors.
//!
//! # Invariants
//! I11: cursors only rise; apply sees to it, and an `Ack` is answered only once durable.
//! I12: a session is pushed to only after it was told a tail that was known after it registered; everything from that
//! tail on is pushed, or the session is told that it lags.

use std::collections::BTreeMap;

use seriatim_proto::command::{CursorOutcome, CursorWrite, HolderOp};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{DeviceId, Epoch, Seq, TenantId, UserId};
use seriatim_proto::limits;
use seriatim_proto::logic::{CallError, Reply};
use seriatim_proto::store::NamespaceState;

use crate::allocator::Allocator;
use crate::event::{Clock, Effect, RequestId, SessionKey};
use crate::holder::{Phase, ReadFor, SlotHolder};
use crate::pipeline::Note;

/// One write a second and device.
const ACK_MS: u64 = 1_000;
/// Cursors are written at multiples of this, so that those of all slots of a group share a Raft entry: nobody waits
/// for a cursor, and an entry costs the stores far more than a cursor in it.
const ACK_GATHER_MS: u64 = 100;
/// Most cursors of one command.
const CURSORS_MAX: usize = 1_024;

/// Names an inbox within a slot.
pub(crate) type InboxName = (TenantId, UserId);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Inbox {
    pub(crate) allocator: Allocator,
    /// committed tail, as far as known under this claim
    pub(crate) tail: Option<Seq>,
    reading: bool,
    sessions: BTreeMap<SessionKey, Registration>,
    devices: BTreeMap<DeviceId, Device>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Registration {
    /// to be answered once the tail is known
    request: Option<RequestId>,
    /// the tail at its last renewal: what lies below was pushed a while ago
    seen: Option<Seq>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Device {
    durable: Option<Seq>,
    writing: bool,
    wrote_at_ms: Option<u64>,
    waiters: Vec<(RequestId, Seq)>,
}

impl Device {
    /// When the next write of its cursor goes out.
    fn due_ms(&self, clock: &Clock) -> u64 {
        let earliest_ms = self.wrote_at_ms.map_or(0, |wrote| wrote - wrote % ACK_GATHER_MS + ACK_MS);
        earliest_ms.max(clock.now_ms + 1).next_multiple_of(ACK_GATHER_MS)
    }
}

impl Inbox {
    pub(crate) fn new(epoch: Epoch) -> Self {
        Self {
            allocator: Allocator::cold(epoch),
            tail: None,
            reading: false,
            sessions: BTreeMap::new(),
            devices: BTreeMap::new(),
        }
    }

    /// An entry was written; returns who must hear of it.
    pub(crate) fn written(&mut self, seq: Seq) -> Vec<SessionKey> {
        self.tail = self.tail.max(Some(seq.next()));
        self.active()
    }

    /// Sessions that were told where their push starts.
    pub(crate) fn active(&self) -> Vec<SessionKey> {
        self.sessions
            .iter()
            .filter(|(_, registration)| registration.request.is_none())
            .map(|(session, _)| *session)
            .collect()
    }

    pub(crate) fn refuse_acks(&mut self) -> Vec<RequestId> {
        self.devices
            .values_mut()
            .filter(|device| !device.writing)
            .flat_map(|device| device.waiters.drain(..))
            .map(|(request, _)| request)
            .collect()
    }

    /// The holder ends: also whose write is under way.
    pub(crate) fn drain_acks(&mut self) -> Vec<RequestId> {
        self.devices.values_mut().flat_map(|device| device.waiters.drain(..)).map(|(request, _)| request).collect()
    }

    /// A write of this device's cursor was refused: whoever waits for it hears so.
    pub(crate) fn fail_acks(&mut self, device: &DeviceId) -> Vec<RequestId> {
        let Some(device) = self.devices.get_mut(device) else { return Vec::new() };
        device.writing = false;
        device.waiters.drain(..).map(|(request, _)| request).collect()
    }

    pub(crate) fn refuse_registrations(&mut self) -> Vec<RequestId> {
        std::mem::take(&mut self.sessions).into_values().filter_map(|registration| registration.request).collect()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.sessions.is_empty()
            && !self.reading
            && !self.allocator.fetching()
            && self.devices.values().all(|device| !device.writing && device.waiters.is_empty())
    }

    /// Forgets what an unknown outcome may have changed; says whether the tail must be read.
    pub(crate) fn reset(&mut self) -> bool {
        self.allocator.forget();
        self.tail = None;
        self.reading = !self.sessions.is_empty();
        self.reading
    }
}

impl SlotHolder {
    pub(crate) fn inbox(&mut self, name: &InboxName) -> &mut Inbox {
        let epoch = self.epoch;
        self.inboxes.entry(name.clone()).or_insert_with(|| Inbox::new(epoch))
    }

    // --- registrations

    pub(crate) fn on_register(
        &mut self,
        clock: &Clock,
        request: RequestId,
        session: SessionKey,
        name: InboxName,
        _position: Seq,
    ) {
        if self.phase != Phase::Serving
            || clock.now_ms >= clock.lease_until_ms
            || seriatim_proto::hash::inbox_slot(name.0, &name.1) != self.slot
        {
            self.effects.push_back(Effect::Registered { request, result: self.not_holder() });
            return;
        }
        let settling = self.settling;
        let inbox = self.inbox(&name);
        match inbox.tail.filter(|_| !settling) {
            Some(tail) => {
                inbox.sessions.insert(session, Registration { request: None, seen: Some(tail) });
                self.effects.push_back(Effect::Registered { request, result: Ok(tail) });
            }
            None => {
                inbox.sessions.insert(session, Registration { request: Some(request), seen: None });
                if !inbox.reading && !settling {
                    inbox.reading = true;
                    self.read(ReadFor::Tail(name));
                }
            }
        }
    }

    pub(crate) fn on_tail_read(&mut self, name: &InboxName, state: Option<NamespaceState>) {
        let Some(inbox) = self.inboxes.get_mut(name) else { return };
        inbox.reading = false;
        let read = state.map_or(Seq::FIRST, |state| state.tail);
        let tail = inbox.tail.map_or(read, |tail| tail.max(read));
        inbox.tail = Some(tail);
        for (session, registration) in &mut inbox.sessions {
            match registration.request.take() {
                Some(request) => {
                    registration.seen = Some(tail);
                    self.effects.push_back(Effect::Registered { request, result: Ok(tail) });
                }
                // Read anew after lost outcomes: some of it may never have been pushed.
                None if registration.seen.is_none() => {
                    registration.seen = Some(tail);
                    self.effects.push_back(Effect::Lagging { session: *session, tail });
                }
                None => {}
            }
        }
    }

    pub(crate) fn on_renew(&mut self, clock: &Clock, session: SessionKey, name: &InboxName, position: Seq) {
        let serving = self.phase == Phase::Serving && clock.now_ms < clock.lease_until_ms;
        let registration =
            self.inboxes.get_mut(name).and_then(|inbox| Some((inbox.tail, inbox.sessions.get_mut(&session)?)));
        match registration {
            Some((tail, registration)) if serving => {
                // What was pushed since the last renewal may still be on its way: only what is older counts.
                let seen = registration.seen.filter(|seen| *seen > position);
                if registration.request.is_none() && tail.is_some() {
                    registration.seen = tail;
                }
                if let (Some(_), Some(tail)) = (seen, tail) {
                    self.effects.push_back(Effect::Lagging { session, tail });
                }
            }
            _ => self.effects.push_back(Effect::Unregistered { session }),
        }
    }

    pub(crate) fn on_unregister(&mut self, session: SessionKey, name: &InboxName) {
        if let Some(inbox) = self.inboxes.get_mut(name) {
            inbox.sessions.remove(&session);
        }
    }

    /// Outcomes were lost: nobody knows what was pushed, so the tails are read anew.
    pub(crate) fn reset_inboxes(&mut self) {
        let mut reads = Vec::new();
        for (name, inbox) in &mut self.inboxes {
            if inbox.reset() {
                for registration in inbox.sessions.values_mut() {
                    registration.seen = None;
                }
                reads.push(name.clone());
            }
        }
        for name in reads {
            self.read(ReadFor::Tail(name));
        }
    }

    // --- device cursors

    pub(crate) fn on_ack(&mut self, clock: &Clock, request: RequestId, name: InboxName, device: DeviceId, cursor: Seq) {
        if self.phase != Phase::Serving || seriatim_proto::hash::inbox_slot(name.0, &name.1) != self.slot {
            self.effects.push_back(Effect::Reply { request, result: self.not_holder() });
            return;
        }
        if let Some(refusal) = self.pipeline.blocked() {
            let result = Err(CallError::Refused(refusal.clone()));
            self.effects.push_back(Effect::Reply { request, result });
            return;
        }
        let state = self.inbox(&name).devices.entry(device.clone()).or_default();
        if let Some(durable) = state.durable.filter(|durable| *durable >= cursor) {
            self.effects.push_back(Effect::Reply { request, result: Ok(Reply::Acked(durable)) });
            return;
        }
        state.waiters.push((request, cursor));
        if !state.writing {
            let due_ms = state.due_ms(clock);
            self.write_cursor_at(due_ms, name, device);
        }
    }

    fn write_cursor_at(&mut self, due_ms: u64, name: InboxName, device: DeviceId) {
        self.cursors_at.entry(due_ms).or_default().insert((name, device));
        self.wake(due_ms);
    }

    /// Devices whose time has come.
    pub(crate) fn due_cursors(&mut self, clock: &Clock) {
        while let Some(first) = self.cursors_at.first_entry() {
            if *first.key() > clock.now_ms {
                let due_ms = *first.key();
                self.wake(due_ms);
                return;
            }
            self.cursors_due.append(&mut first.remove());
        }
    }

    pub(crate) fn number_cursors(&mut self, clock: &Clock) {
        while !self.cursors_due.is_empty() && self.pipeline.is_open() {
            let mut cursors = Vec::new();
            while let Some((name, device)) = self.cursors_due.pop_first() {
                let Some(state) = self.inboxes.get_mut(&name).and_then(|inbox| inbox.devices.get_mut(&device)) else {
                    continue;
                };
                let Some(cursor) = state.waiters.iter().map(|(_, cursor)| *cursor).max() else { continue };
                if state.writing {
                    continue;
                }
                state.writing = true;
                state.wrote_at_ms = Some(clock.now_ms);
                cursors.push(CursorWrite { tenant: name.0, user: name.1, device, cursor });
                if cursors.len() >= CURSORS_MAX {
                    break;
                }
            }
            if !cursors.is_empty() {
                self.submit(HolderOp::SetCursors { cursors }, Note::None);
            }
        }
    }

    /// Cursors have their outcomes; `None`: the outcomes were lost, or the command was refused.
    pub(crate) fn on_cursors_set(
        &mut self,
        clock: &Clock,
        cursors: Vec<CursorWrite>,
        outcomes: Option<Vec<CursorOutcome>>,
    ) {
        for (place, write) in cursors.into_iter().enumerate() {
            let name = (write.tenant, write.user);
            let Some(state) = self.inboxes.get_mut(&name).and_then(|inbox| inbox.devices.get_mut(&write.device)) else {
                continue;
            };
            state.writing = false;
            let outcome = outcomes.as_ref().and_then(|outcomes| outcomes.get(place)).copied();
            let verdict: Box<dyn Fn(Seq) -> Option<Result<Reply, CallError>>> = match outcome {
                Some(CursorOutcome::At(durable)) => {
                    state.durable = state.durable.max(Some(durable));
                    Box::new(move |cursor| (cursor <= durable).then_some(Ok(Reply::Acked(durable))))
                }
                Some(CursorOutcome::Ahead { tail }) => Box::new(move |cursor| {
                    let refusal = Refusal::new(
                        ErrorCode::CursorAhead,
                        format!("a cursor from the future: the inbox ends at {tail}"),
                    );
                    (cursor > tail).then_some(Err(CallError::Refused(refusal)))
                }),
                Some(CursorOutcome::DevicesFull) => Box::new(|_| {
                    let text = format!("a user has at most {} devices", limits::DEVICES_MAX);
                    Some(Err(CallError::Refused(Refusal::new(ErrorCode::Busy, text))))
                }),
                // A cursor is written again: it only rises.
                None => Box::new(|_| None),
            };
            let (answered, waiting): (Vec<_>, Vec<_>) = state
                .waiters
                .drain(..)
                .map(|(request, cursor)| (request, cursor, verdict(cursor)))
                .partition(|(_, _, verdict)| verdict.is_some());
            state.waiters = waiting.into_iter().map(|(request, cursor, _)| (request, cursor)).collect();
            let again = !state.waiters.is_empty();
            let at_once = !matches!(outcome, Some(CursorOutcome::At(_)));
            let due_ms = state.due_ms(clock);
            self.effects.extend(
                answered
                    .into_iter()
                    .filter_map(|(request, _, verdict)| Some(Effect::Reply { request, result: verdict? })),
            );
            if again && at_once {
                self.cursors_due.insert((name, write.device));
            } else if again {
                self.write_cursor_at(due_ms, name, write.device);
            }
        }
    }
}
