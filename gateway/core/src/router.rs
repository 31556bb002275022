//! Router: brings the calls and registrations of all sessions of a gateway to the logic nodes that serve them.
//!
//! A call goes to the holder of its slot, or to any node where that is allowed. A refusal that says "not here" or
//! "not now", and a lost link, are no answer yet: the call waits and is sent again, with the same message id, until
//! [`RouterLimits::call_timeout`]. Everything that a session asks is idempotent, so that this is safe.
//! A registration is kept alive: sent again when the slot's epoch changes, when its link drops, when the node says
//! that it does not know it, and when the node has been silent for too long.
//!
//! ```text
//! call ─▶ holder known and linked? ── yes ─▶ sent ─▶ answered ─▶ event Reply
//!              │ no        ▲                  │ NotHolder, Unavailable, link lost
//!              ▼           │ row, link, pause over │
//!           waiting ───────┴──────────────────┘     time over ─▶ Timeout or Unavailable (unknown)
//! ```
//!
//! # Reading order
//! [`Router::call`] → `send` → [`Router::handle_response`] → [`Router::handle_tick`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seriatim_proto::codec;
use seriatim_proto::error::{Certainty, ErrorCode, Refusal};
use seriatim_proto::hash;
use seriatim_proto::ids::{ClusterId, DeviceId, Generation, Namespace, NodeId, Seq, SlotId, TenantId, UserId};
use seriatim_proto::limits;
use seriatim_proto::logic::{
    Call, CallError, Credential, GatewayRequest, GatewayResponse, HolderTable, LogicWelcome, PushEntry, Reply,
};
use seriatim_proto::store::HolderRow;

use crate::session::RequestId;
use crate::table::Table;

/// One connection to one logic node; a reconnect is another link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// The bounds of a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterLimits {
    /// time of a call until its outcome counts as unknown
    pub call_timeout: Duration,
    /// bytes of calls without an answer, above which new ones are refused
    pub call_bytes_max: usize,
    /// silence of a link after which its registrations are renewed
    pub silence: Duration,
    /// period of renewals
    pub renew: Duration,
}

impl Default for RouterLimits {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_millis(limits::REQUEST_TIMEOUT_MS),
            call_bytes_max: 64 << 20,
            silence: Duration::from_millis(limits::WATCH_SILENCE_MS),
            renew: Duration::from_secs(1),
        }
    }
}

/// What the shell must do.
#[derive(Clone, PartialEq, Eq)]
pub enum RouterEffect {
    /// Send a frame (an encoded `GatewayRequest`) on a link.
    Send {
        /// where
        link: LinkId,
        /// encoded
        frame: Bytes,
    },
    /// Tell a session.
    Session {
        /// which
        session: u64,
        /// what
        event: RouterEvent,
    },
    /// These are the live logic nodes' addresses: keep links to them.
    Nodes(Vec<String>),
    /// The first logic node answered: the generation is known.
    Ready,
}

impl std::fmt::Debug for RouterEffect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Frames hold tokens and bodies.
        match self {
            RouterEffect::Send { link, frame } => write!(f, "Send({link:?}, {} bytes)", frame.len()),
            RouterEffect::Session { session, .. } => write!(f, "Session({session})"),
            RouterEffect::Nodes(nodes) => write!(f, "Nodes({nodes:?})"),
            RouterEffect::Ready => f.write_str("Ready"),
        }
    }
}

/// What a session is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouterEvent {
    /// for `Session::handle_reply`
    Reply {
        /// of the call
        request: RequestId,
        /// its answer
        result: Result<Reply, Refusal>,
    },
    /// for `Session::handle_push`
    Push(Arc<[PushEntry]>),
    /// for `Session::handle_registered`
    Registered(Seq),
    /// for `Session::handle_tail`
    Tail(Seq),
    /// for `Session::handle_refusal`: the logic nodes do not accept the token or certificate
    Refused(Refusal),
}

/// Where a call may be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    /// By the holder of the slot only.
    Holder(SlotId),
    /// Anywhere, best by the holder of the slot.
    Any(SlotId),
}

#[derive(Debug)]
struct PendingCall {
    session: u64,
    request: RequestId,
    target: Target,
    /// Encoded, with its id: sent again as it is.
    frame: Bytes,
    deadline: Instant,
    link: Option<LinkId>,
    /// Where it failed last: another node is tried before this one, where any may serve it.
    avoid: Option<LinkId>,
    /// An attempt may have happened.
    uncertain: bool,
}

#[derive(Debug)]
struct SessionState {
    tenant: TenantId,
    device: DeviceId,
    credential: Credential,
    inbox_slot: SlotId,
    opened: BTreeSet<LinkId>,
    /// Those of them that could not say yet whether the credential holds: the next request shows it again.
    undecided: BTreeSet<LinkId>,
    registration: Option<Registration>,
    calls: BTreeSet<u64>,
}

#[derive(Debug)]
struct Registration {
    /// Everything below it was given to the session, or told as a tail.
    position: Seq,
    link: Option<LinkId>,
    /// The request that is under way.
    asked: Option<u64>,
    retry_at: Option<Instant>,
}

#[derive(Debug)]
struct Link {
    heard_at: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Router {
    limits: RouterLimits,
    table: Table,
    links: BTreeMap<LinkId, Link>,
    sessions: BTreeMap<u64, SessionState>,
    calls: BTreeMap<u64, PendingCall>,
    /// Calls for any node that wait for one.
    waiting_any: BTreeSet<u64>,
    registers: BTreeMap<u64, u64>,
    /// Sessions that want to be registered and are not.
    unregistered: BTreeSet<u64>,
    id_last: u64,
    call_bytes: usize,
    renew_at: Option<Instant>,
    cluster: Option<ClusterId>,
    generation: Option<Generation>,
    effects: VecDeque<RouterEffect>,
}

/// Pause before a registration is tried again.
const REGISTER_PAUSE: Duration = Duration::from_millis(50);
/// Registrations in one `Renew`.
const RENEW_SESSIONS_MAX: usize = 8_192;

impl Router {
    /// Knows nobody yet.
    pub fn new(limits: RouterLimits) -> Self {
        Self {
            limits,
            table: Table::new(),
            links: BTreeMap::new(),
            sessions: BTreeMap::new(),
            calls: BTreeMap::new(),
            waiting_any: BTreeSet::new(),
            registers: BTreeMap::new(),
            unregistered: BTreeSet::new(),
            id_last: 0,
            call_bytes: 0,
            renew_at: None,
            cluster: None,
            generation: None,
            effects: VecDeque::new(),
        }
    }

    /// The generation, once a logic node has said it.
    pub fn generation(&self) -> Option<Generation> {
        self.generation
    }

    /// The cluster, once a logic node has said it: others are refused from then on.
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// Calls without an answer.
    pub fn calls(&self) -> usize {
        self.calls.len()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<RouterEffect> {
        self.effects.pop_front()
    }

    // ---- sessions ----

    /// A session was admitted.
    pub fn open_session(
        &mut self,
        session: u64,
        tenant: TenantId,
        user: &UserId,
        device: DeviceId,
        credential: Credential,
    ) {
        let inbox_slot = hash::inbox_slot(tenant, user);
        let state = SessionState {
            tenant,
            device,
            credential,
            inbox_slot,
            opened: BTreeSet::new(),
            undecided: BTreeSet::new(),
            registration: None,
            calls: BTreeSet::new(),
        };
        self.sessions.insert(session, state);
    }

    /// A session has a fresh credential: the nodes that know it are told, in front of what it asks from now on.
    pub fn renew_session(&mut self, now: Instant, session: u64, credential: Credential) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.credential = credential;
        state.undecided.clear();
        let frame = state.credential.open(session, state.device.clone());
        let registers = state.registration.as_ref().is_some_and(|registration| registration.asked.is_some());
        for link in state.opened.clone() {
            self.send_frame(link, &frame);
        }
        // What the registration under way comes to is said of the token before.
        if registers {
            self.register_again(session, None);
            self.try_register(now, session);
        }
    }

    /// A session ended.
    pub fn close_session(&mut self, session: u64) {
        self.unregister(session);
        let Some(state) = self.sessions.remove(&session) else { return };
        for id in state.calls {
            self.remove_call(id);
        }
        for link in state.opened {
            self.send_frame(link, &GatewayRequest::Close { session });
        }
    }

    /// A session asks. Its answer comes as [`RouterEvent::Reply`], always.
    pub fn call(&mut self, now: Instant, session: u64, request: RequestId, call: Call) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if self.call_bytes > self.limits.call_bytes_max {
            let refusal = Refusal::later(ErrorCode::Busy, "too much is under way at this gateway", 100);
            return self.tell(session, RouterEvent::Reply { request, result: Err(refusal) });
        }
        let target = match &call {
            Call::Send { conversation, .. }
            | Call::CancelSend { conversation, .. }
            | Call::CreateGroup { conversation, .. }
            | Call::ChangeMembers { conversation, .. }
            | Call::Amend { conversation, .. } => Target::Holder(hash::conversation_slot(state.tenant, conversation)),
            Call::Ack { .. } | Call::Mark { .. } => Target::Holder(state.inbox_slot),
            Call::Next { counter, .. } | Call::Current { counter } => {
                Target::Holder(hash::slot(&Namespace::counter(state.tenant, counter.clone())))
            }
            Call::QuerySend { .. } | Call::Sync { .. } | Call::History { .. } | Call::List { .. } | Call::Status => {
                Target::Any(state.inbox_slot)
            }
        };
        self.id_last += 1;
        let id = self.id_last;
        state.calls.insert(id);
        let frame = codec::encode_bytes(&GatewayRequest::Call { id, session, call });
        self.call_bytes += frame.len();
        let deadline = now + self.limits.call_timeout;
        let pending =
            PendingCall { session, request, target, frame, deadline, link: None, avoid: None, uncertain: false };
        self.calls.insert(id, pending);
        match target {
            Target::Holder(slot) => {
                let state = self.table.slot(slot);
                let free = state.waiting.is_empty() && state.retry_at.is_none_or(|at| at <= now);
                match self.table.may_send(slot).filter(|_| free) {
                    Some(link) => self.send_call(id, link),
                    None => self.table.wait(slot, id),
                }
            }
            Target::Any(_) => self.send_any(id),
        }
    }

    /// A session wants its inbox pushed from `position` on.
    pub fn register(&mut self, now: Instant, session: u64, position: Seq) {
        self.unregister(session);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.registration = Some(Registration { position, link: None, asked: None, retry_at: None });
        let slot = state.inbox_slot;
        self.table.slot(slot).sessions.insert(session);
        self.unregistered.insert(session);
        self.try_register(now, session);
    }

    /// A session wants no more pushes.
    pub fn unregister(&mut self, session: u64) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if let Some(id) = state.registration.take().and_then(|registration| registration.asked) {
            self.registers.remove(&id);
        }
        let slot = state.inbox_slot;
        self.table.slot(slot).sessions.remove(&session);
        self.unregistered.remove(&session);
    }

    // ---- links ----

    /// The `Hello` for a new link.
    pub fn hello(&self) -> Bytes {
        codec::encode_bytes(&GatewayRequest::Hello { cluster: self.cluster })
    }

    /// A link is up and its node has said who it is. Another cluster's node is refused.
    pub fn handle_link_up(&mut self, now: Instant, link: LinkId, welcome: &LogicWelcome) -> Result<(), Refusal> {
        if self.cluster.is_some_and(|cluster| cluster != welcome.cluster) {
            return Err(Refusal::new(ErrorCode::WrongCluster, "the logic node belongs to another cluster"));
        }
        self.cluster = Some(welcome.cluster);
        let first = self.generation.is_none();
        self.generation = self.generation.max(Some(welcome.generation));
        self.links.insert(link, Link { heard_at: now });
        self.table.link_up(welcome.node, link);
        if first {
            self.effects.push_back(RouterEffect::Ready);
        }
        self.flush(now);
        Ok(())
    }

    /// A link is gone: what was asked on it is asked again elsewhere.
    pub fn handle_link_down(&mut self, now: Instant, link: LinkId) {
        if self.links.remove(&link).is_none() {
            return;
        }
        self.table.link_down(link);
        let lost = self.calls.iter().filter(|(_, call)| call.link == Some(link)).map(|(id, _)| *id);
        for id in lost.collect::<Vec<_>>() {
            self.wait_again(now, id, true, false);
        }
        let mut registered = Vec::new();
        for (session, state) in &mut self.sessions {
            state.opened.remove(&link);
            state.undecided.remove(&link);
            if state.registration.as_ref().is_some_and(|registration| registration.link == Some(link)) {
                registered.push(*session);
            }
        }
        for session in registered {
            self.register_again(session, None);
        }
        self.flush(now);
    }

    /// A frame of a logic node.
    pub fn handle_response(&mut self, now: Instant, link: LinkId, response: GatewayResponse) {
        let Some(state) = self.links.get_mut(&link) else { return };
        state.heard_at = now;
        match response {
            // Taken by the shell before the link counts as up.
            GatewayResponse::Welcome { .. } => {}
            GatewayResponse::Opened { session, result } => {
                if let Err(refusal) = result {
                    self.handle_not_opened(session, link, refusal);
                }
            }
            GatewayResponse::Reply { id, result } => self.handle_reply(now, link, id, result),
            GatewayResponse::Registered { id, result } => self.handle_registered(now, link, id, result),
            GatewayResponse::Push { sessions, entries } => self.handle_push(&sessions, entries),
            GatewayResponse::Lagging { sessions } => {
                for (session, tail) in sessions {
                    self.handle_lagging(session, tail);
                }
            }
            GatewayResponse::Unregistered { sessions } => {
                for session in sessions {
                    if self.registered_on(session, link) {
                        self.register_again(session, Some(now + REGISTER_PAUSE));
                    }
                }
            }
            GatewayResponse::Table(table) => self.handle_table(now, table),
        }
    }

    fn handle_not_opened(&mut self, session: u64, link: LinkId, refusal: Refusal) {
        match refusal.code {
            ErrorCode::AuthExpired | ErrorCode::AuthFailed | ErrorCode::Kicked => {
                self.tell(session, RouterEvent::Refused(refusal));
            }
            // Anything else passes. An older credential of the session may hold there.
            _ => {
                if let Some(state) = self.sessions.get_mut(&session).filter(|state| state.opened.contains(&link)) {
                    state.undecided.insert(link);
                }
            }
        }
    }

    /// Called about every 20 ms: repeats, renews and ends what is due.
    pub fn handle_tick(&mut self, now: Instant) {
        while let Some((id, call)) = self.calls.first_key_value() {
            if call.deadline > now {
                break;
            }
            // In flight, or once in flight with an unknown end: it may have happened.
            let code = if call.link.is_some() || call.uncertain { ErrorCode::Timeout } else { ErrorCode::Unavailable };
            let refusal = Refusal::new(code, "no answer in time");
            self.answer(*id, Err(refusal));
        }
        self.flush(now);
        self.notice_silence(now);
        if self.renew_at.is_none_or(|at| at <= now) {
            self.renew_at = Some(now + self.limits.renew);
            self.renew();
        }
    }

    // ---- calls ----

    fn handle_reply(&mut self, now: Instant, link: LinkId, id: u64, result: Result<Reply, CallError>) {
        let Some(call) = self.calls.get(&id).filter(|call| call.link == Some(link)) else { return };
        let target = call.target;
        // Reads happen as often as they like.
        let uncertain = call.uncertain && matches!(target, Target::Holder(_));
        match result {
            Ok(reply) => {
                if let Target::Holder(slot) = target {
                    self.table.served(slot);
                }
                self.answer(id, Ok(reply));
            }
            Err(CallError::NotHolder { row, .. }) => {
                let newer = row.is_some_and(|row| self.take_row(row));
                self.wait_again(now, id, false, newer);
            }
            Err(CallError::Refused(refusal)) if is_elsewhere(refusal.code) => {
                let uncertain = refusal.code.certainty() == Certainty::Unknown;
                self.wait_again(now, id, uncertain, false);
            }
            // The refusal is this attempt's; the one before may have happened.
            Err(CallError::Refused(refusal)) if uncertain && !refusal.code.settles() => {
                let text = format!("an earlier attempt may have happened; the last one: {refusal}");
                let refusal = Refusal::later(ErrorCode::Unavailable, text, refusal.retry_after_ms);
                self.answer(id, Err(refusal));
            }
            Err(CallError::Refused(refusal)) => self.answer(id, Err(refusal)),
        }
        if let Target::Holder(slot) = target {
            self.flush_slot(now, slot);
        }
    }

    fn answer(&mut self, id: u64, result: Result<Reply, Refusal>) {
        let Some(call) = self.remove_call(id) else { return };
        if let Some(session) = self.sessions.get_mut(&call.session) {
            session.calls.remove(&id);
        }
        self.tell(call.session, RouterEvent::Reply { request: call.request, result });
    }

    fn remove_call(&mut self, id: u64) -> Option<PendingCall> {
        let call = self.calls.remove(&id)?;
        self.call_bytes -= call.frame.len();
        match call.target {
            Target::Holder(slot) if call.link.is_some() => self.table.answered(slot),
            Target::Holder(slot) => self.table.forget(slot, id),
            Target::Any(_) => {
                self.waiting_any.remove(&id);
            }
        }
        Some(call)
    }

    /// The attempt is over without an answer.
    fn wait_again(&mut self, now: Instant, id: u64, uncertain: bool, at_once: bool) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.uncertain |= uncertain;
        let was_on = call.link.take();
        call.avoid = was_on;
        match call.target {
            Target::Holder(slot) => {
                if was_on.is_some() {
                    self.table.answered(slot);
                }
                if at_once {
                    self.table.resume(slot);
                } else {
                    self.table.pause(slot, now);
                }
                self.table.wait(slot, id);
            }
            Target::Any(_) => {
                self.waiting_any.insert(id);
            }
        }
    }

    fn send_call(&mut self, id: u64, link: LinkId) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        call.link = Some(link);
        let (session, frame) = (call.session, call.frame.clone());
        if let Target::Holder(slot) = call.target {
            self.table.sent(slot, link);
        }
        self.open_on(session, link);
        self.effects.push_back(RouterEffect::Send { link, frame });
    }

    fn send_any(&mut self, id: u64) {
        let Some(call) = self.calls.get(&id) else { return };
        let Target::Any(slot) = call.target else { return };
        let not = call.avoid;
        let best = self.table.link_of(slot).filter(|link| Some(*link) != not);
        match best.or_else(|| self.table.any_link(not)) {
            Some(link) => self.send_call(id, link),
            None => {
                self.waiting_any.insert(id);
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        for slot in self.table.due(now) {
            self.flush_slot(now, slot);
        }
        for id in std::mem::take(&mut self.waiting_any) {
            self.send_any(id);
        }
        for session in self.unregistered.iter().copied().collect::<Vec<_>>() {
            self.try_register(now, session);
        }
    }

    fn flush_slot(&mut self, now: Instant, slot: SlotId) {
        while self.table.slot(slot).retry_at.is_none_or(|at| at <= now) {
            let Some(link) = self.table.may_send(slot) else { return };
            let Some(id) = self.table.next_waiting(slot) else { return };
            self.send_call(id, link);
        }
    }

    // ---- pushes ----

    fn handle_push(&mut self, sessions: &[u64], entries: Vec<PushEntry>) {
        let Some(end) = entries.last().map(|entry| entry.seq.next()) else { return };
        let entries: Arc<[PushEntry]> = entries.into();
        for session in sessions {
            let registration = self.sessions.get_mut(session).and_then(|state| state.registration.as_mut());
            if let Some(registration) = registration {
                registration.position = registration.position.max(end);
                self.tell(*session, RouterEvent::Push(entries.clone()));
            }
        }
    }

    fn handle_lagging(&mut self, session: u64, tail: Seq) {
        let registration = self.sessions.get_mut(&session).and_then(|state| state.registration.as_mut());
        if let Some(registration) = registration.filter(|registration| registration.position < tail) {
            registration.position = tail;
            self.tell(session, RouterEvent::Tail(tail));
        }
    }

    fn try_register(&mut self, now: Instant, session: u64) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        let slot = state.inbox_slot;
        let Some(registration) = &mut state.registration else { return };
        if registration.asked.is_some() || registration.retry_at.is_some_and(|at| at > now) {
            return;
        }
        let Some(link) = self.table.link_of(slot) else { return };
        self.id_last += 1;
        let id = self.id_last;
        registration.asked = Some(id);
        registration.link = Some(link);
        let position = registration.position;
        self.registers.insert(id, session);
        self.unregistered.remove(&session);
        self.open_on(session, link);
        self.send_frame(link, &GatewayRequest::Register { id, session, position });
    }

    fn handle_registered(&mut self, now: Instant, link: LinkId, id: u64, result: Result<Seq, CallError>) {
        let Some(session) = self.registers.remove(&id) else { return };
        let registration = self.sessions.get_mut(&session).and_then(|state| state.registration.as_mut());
        let Some(registration) = registration.filter(|registration| registration.asked == Some(id)) else { return };
        match result {
            Ok(tail) => {
                registration.asked = None;
                registration.link = Some(link);
                registration.position = registration.position.max(tail);
                self.tell(session, RouterEvent::Registered(tail));
            }
            // The node's clock says so, which counts a suspend: ours may not.
            Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::AuthExpired => {
                self.register_again(session, Some(now + REGISTER_PAUSE));
                self.tell(session, RouterEvent::Refused(refusal));
            }
            Err(error) => {
                let row = match error {
                    CallError::NotHolder { row, .. } => row,
                    CallError::Refused(_) => None,
                };
                if let Some(row) = row {
                    self.take_row(row);
                }
                self.register_again(session, Some(now + REGISTER_PAUSE));
            }
        }
    }

    fn registered_on(&self, session: u64, link: LinkId) -> bool {
        let registration = self.sessions.get(&session).and_then(|state| state.registration.as_ref());
        registration.is_some_and(|registration| registration.link == Some(link) && registration.asked.is_none())
    }

    fn register_again(&mut self, session: u64, retry_at: Option<Instant>) {
        let registration = self.sessions.get_mut(&session).and_then(|state| state.registration.as_mut());
        let Some(registration) = registration else { return };
        if let Some(id) = registration.asked.take() {
            self.registers.remove(&id);
        }
        registration.link = None;
        registration.retry_at = retry_at;
        self.unregistered.insert(session);
    }

    fn renew(&mut self) {
        let mut positions: BTreeMap<LinkId, Vec<(u64, Seq)>> = BTreeMap::new();
        for (session, state) in &self.sessions {
            if let Some(Registration { position, link: Some(link), asked: None, .. }) = &state.registration {
                positions.entry(*link).or_default().push((*session, *position));
            }
        }
        for (link, positions) in positions {
            for part in positions.chunks(RENEW_SESSIONS_MAX) {
                self.send_frame(link, &GatewayRequest::Renew { positions: part.to_vec() });
            }
        }
    }

    /// A watch that is silent may have missed anything.
    fn notice_silence(&mut self, now: Instant) {
        let silence = self.limits.silence;
        let mut silent = BTreeSet::new();
        for (id, link) in &mut self.links {
            if now.saturating_duration_since(link.heard_at) >= silence {
                link.heard_at = now;
                silent.insert(*id);
            }
        }
        if silent.is_empty() {
            return;
        }
        let on_silent = |state: &SessionState| {
            state
                .registration
                .as_ref()
                .and_then(|registration| registration.link)
                .is_some_and(|link| silent.contains(&link))
        };
        let sessions: Vec<_> =
            self.sessions.iter().filter(|(_, state)| on_silent(state)).map(|(session, _)| *session).collect();
        for session in sessions {
            self.register_again(session, None);
            self.try_register(now, session);
        }
    }

    // ---- the table ----

    fn handle_table(&mut self, now: Instant, table: HolderTable) {
        for row in table.rows {
            self.take_row(row);
        }
        if let Some(nodes) = table.nodes {
            let addresses = nodes.into_iter().map(|(_, address): (NodeId, String)| address).collect();
            self.effects.push_back(RouterEffect::Nodes(addresses));
        }
        self.flush(now);
    }

    /// Takes a row; if it says something new, the slot's calls and registrations move.
    fn take_row(&mut self, row: HolderRow) -> bool {
        let slot = row.slot;
        if !self.table.put(row) {
            return false;
        }
        self.table.resume(slot);
        for session in self.table.slot(slot).sessions.clone() {
            self.register_again(session, None);
        }
        true
    }

    // ---- frames ----

    fn open_on(&mut self, session: u64, link: LinkId) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        if state.opened.insert(link) | state.undecided.remove(&link) {
            let frame = state.credential.open(session, state.device.clone());
            self.send_frame(link, &frame);
        }
    }

    fn send_frame(&mut self, link: LinkId, request: &GatewayRequest) {
        self.effects.push_back(RouterEffect::Send { link, frame: codec::encode_bytes(request) });
    }

    fn tell(&mut self, session: u64, event: RouterEvent) {
        self.effects.push_back(RouterEffect::Session { session, event });
    }
}

/// Refusals that say "not here" or "not now": the gateway tries again by itself.
fn is_elsewhere(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NotHolder
            | ErrorCode::NotLeader
            | ErrorCode::Shutdown
            | ErrorCode::Unavailable
            | ErrorCode::WrongGroup
    )
}
