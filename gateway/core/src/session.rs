//! Session: the public protocol of one connection, sans-IO.
//!
//! Bytes of its streams come in by [`Session::handle_stream_data`], what the logic nodes say by
//! [`Session::handle_reply`], [`Session::handle_push`] and [`Session::handle_tail`]. After every `handle_*`, take
//! [`Session::poll_event`] and [`Session::poll_transmit`] until `None`, and arm [`Session::poll_timeout`].
//!
//! ```text
//! AwaitHello ─ Hello ─▶ Authenticating ─ verdict ─▶ Open ─ drain ─▶ Open, draining ─▶ Closed
//!     │ HELLO_TIMEOUT        │ refused, HELLO_TIMEOUT │ token ends, a rule broken       ▲
//!     └──────────────────────┴────────────────────────┴────────────────────────────────┘
//! ```
//!
//! It reads no more than it can answer: ask [`Session::wants_data`] before reading a stream. Nothing is buffered
//! without a bound: requests by weight, answers by bytes, pushes by credit and bytes.
//!
//! # Failure
//! A crash forgets everything here; the device comes back with its cursor and its message ids.
//!
//! # Reading order
//! [`Session::handle_stream_data`] → `handle_frame` → [`Session::handle_reply`] → [`Session::handle_push`].

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::{Duration, Instant};

use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{ConversationId, DeviceId, Generation, Seq, TenantId, UserId};
use seriatim_proto::limits;
use seriatim_proto::logic::{Call, PushEntry, Reply, Scopes};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, FrameError, v1};

use crate::entries;
use crate::frames::{self, PAGE_BYTES_MAX, server_frame};
use crate::inbox::{Given, Inbox};
use crate::stream::{Role, Stream, StreamId, Transmit};

/// A call of a session, unique within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// The bounds of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// weight of requests in flight at which it stops reading
    pub requests_max: u32,
    /// send lanes
    pub lanes_max: u32,
    /// answers waiting to be written, at which it stops reading
    pub answer_bytes_max: usize,
    /// pushed bytes waiting to be written, at which the push stops
    pub push_bytes_max: usize,
    /// time for Hello, and then for the verdict on its token
    pub hello_timeout: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            requests_max: limits::SESSION_REQUESTS_MAX,
            lanes_max: limits::SESSION_LANES_MAX,
            answer_bytes_max: limits::SESSION_PUSH_BYTES_MAX as usize,
            push_bytes_max: limits::SESSION_PUSH_BYTES_MAX as usize,
            hello_timeout: Duration::from_millis(limits::HELLO_TIMEOUT_MS),
        }
    }
}

/// The verdict on a token or certificate that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// chosen by the gateway
    pub session_id: u64,
    /// from the token or certificate
    pub tenant: TenantId,
    /// from the token or certificate
    pub user: UserId,
    /// of the cluster
    pub generation: Generation,
    /// Unix milliseconds, for people
    pub server_time_ms: u64,
    /// when the token or certificate ends
    pub expires_at: Instant,
    /// what it allows
    pub scopes: Scopes,
}

/// What the session asks of its shell.
#[derive(Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// Check the token, then [`Session::handle_verdict`].
    Authenticate {
        /// as it came; empty: the device relies on its certificate ([`Session::certified`])
        token: String,
        /// checked
        device: DeviceId,
    },
    /// Ask a logic node, then [`Session::handle_reply`].
    Call {
        /// of the answer
        request: RequestId,
        /// what
        call: Call,
    },
    /// Have the inbox pushed from here on.
    Register {
        /// first seq that the device does not have
        position: Seq,
    },
    /// No more pushes.
    Unregister,
    /// Write what [`Session::poll_transmit`] still gives, as far as it goes, then close.
    Close {
        /// QUIC application close code
        code: u32,
        /// for people only
        reason: String,
    },
}

impl fmt::Debug for SessionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither tokens nor bodies belong into a log.
        match self {
            SessionEvent::Authenticate { device, .. } => write!(f, "Authenticate({device})"),
            SessionEvent::Call { request, .. } => write!(f, "Call({request:?})"),
            SessionEvent::Register { position } => write!(f, "Register({position:?})"),
            SessionEvent::Unregister => f.write_str("Unregister"),
            SessionEvent::Close { code, reason } => write!(f, "Close({code}, {reason})"),
        }
    }
}

#[derive(Debug)]
enum State {
    AwaitHello { deadline: Instant },
    Authenticating { minor: u32, request_id: u64, deadline: Instant },
    Open { user: UserId, expires_at: Instant, scopes: Scopes },
    Closed,
}

/// Whom an answer is for.
#[derive(Debug)]
struct Request {
    weight: u32,
    purpose: Purpose,
}

#[derive(Debug)]
enum Purpose {
    Device {
        stream: StreamId,
        request_id: u64,
        conversation: Option<ConversationId>,
    },
    /// A page for the subscription with this id.
    Pull {
        subscription: u64,
    },
}

/// One connection. See the module.
#[derive(Debug)]
pub struct Session {
    limits: SessionLimits,
    /// The device has shown a certificate: it may come without a token.
    certified: bool,
    state: State,
    streams: BTreeMap<StreamId, Stream>,
    lanes: u32,
    requests: BTreeMap<RequestId, Request>,
    request_last: u64,
    /// Weight of the requests in flight.
    weight: u32,
    /// Bytes of answers that wait to be written.
    answer_bytes: usize,
    inbox: Option<Inbox>,
    /// A pull is under way, perhaps of a subscription that is over: another one waits for its answer.
    pulling: bool,
    subscription_last: u64,
    drain_at: Option<Instant>,
    writable: VecDeque<StreamId>,
    events: VecDeque<SessionEvent>,
    /// Lagging frames, for the metrics.
    lagging_count: u64,
}

/// Inbox streams with something left to write, the subscription's own included, above which there is no new one.
const INBOX_STREAMS_MAX: usize = 4;
/// Bytes that one [`Transmit`] carries at most, unless a single frame is larger.
const TRANSMIT_BYTES_MAX: usize = 64 << 10;

impl Session {
    /// A new connection.
    pub fn new(now: Instant, limits: SessionLimits) -> Self {
        let state = State::AwaitHello { deadline: now + limits.hello_timeout };
        Self {
            limits,
            certified: false,
            state,
            streams: BTreeMap::from([(StreamId::CONTROL, Stream::new(Role::Control))]),
            lanes: 0,
            requests: BTreeMap::new(),
            request_last: 0,
            weight: 0,
            answer_bytes: 0,
            inbox: None,
            pulling: false,
            subscription_last: 0,
            drain_at: None,
            writable: VecDeque::new(),
            events: VecDeque::new(),
            lagging_count: 0,
        }
    }

    /// The device has shown a client certificate, good or bad: its Hello may have no token.
    #[must_use]
    pub fn certified(mut self) -> Self {
        self.certified = true;
        self
    }

    // ---- what comes from the device ----

    /// Bytes of a stream that the device opened.
    pub fn handle_stream_data(&mut self, now: Instant, stream: StreamId, bytes: &[u8]) {
        if self.is_closed() {
            return;
        }
        self.stream_mut(stream).decoder.push(bytes);
        self.read_frames(now, stream);
    }

    /// The device sends no more on this stream.
    pub fn handle_stream_end(&mut self, now: Instant, stream: StreamId) {
        if self.is_closed() {
            return;
        }
        self.stream_mut(stream).ended = true;
        self.read_frames(now, stream);
    }

    /// The device reset this stream, or takes no more of it.
    pub fn handle_stream_reset(&mut self, stream: StreamId) {
        if self.is_closed() {
            return;
        }
        match stream {
            StreamId::CONTROL => self.close_control_gone(),
            StreamId::Bidi(_) => self.forget_stream(stream),
            StreamId::Inbox(id) => {
                self.unsubscribe(id);
                // Nothing more is written to it, not even its end.
                self.forget_stream(stream);
            }
        }
    }

    /// May this stream be read now? Asks for a stream's data only when it can be answered.
    pub fn wants_data(&self, stream: StreamId) -> bool {
        match self.state {
            State::AwaitHello { .. } => stream == StreamId::CONTROL,
            State::Authenticating { .. } | State::Closed => false,
            State::Open { .. } => self.has_room() && self.streams.get(&stream).is_none_or(|stream| !stream.ended),
        }
    }

    /// The transport takes no more of this stream.
    pub fn handle_blocked(&mut self, stream: StreamId) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.blocked = true;
        }
    }

    /// The transport takes more of this stream again.
    pub fn handle_writable(&mut self, stream: StreamId) {
        if let Some(found) = self.streams.get_mut(&stream) {
            found.blocked = false;
            self.list(stream);
        }
    }

    // ---- what comes from the gateway and the logic nodes ----

    /// The verdict on the token.
    pub fn handle_verdict(&mut self, now: Instant, verdict: Result<Admission, Refusal>) {
        let State::Authenticating { minor, request_id, .. } = self.state else { return };
        match verdict {
            Ok(admission) if admission.expires_at <= now => self.close_expired(),
            Ok(admission) => {
                let welcome = Said::Welcome(self.welcome(minor, &admission));
                self.state =
                    State::Open { user: admission.user, expires_at: admission.expires_at, scopes: admission.scopes };
                self.say(StreamId::CONTROL, request_id, welcome);
                if let Some(at) = self.drain_at {
                    self.say_go_away(at.saturating_duration_since(now));
                }
                self.read_all(now);
            }
            Err(refusal) => self.close(refusal),
        }
    }

    /// The answer to a call.
    pub fn handle_reply(&mut self, now: Instant, request: RequestId, result: Result<Reply, Refusal>) {
        let Some(Request { weight, purpose }) = self.requests.remove(&request) else { return };
        let was_full = !self.has_room();
        self.weight -= weight;
        match purpose {
            Purpose::Pull { subscription } => {
                self.pulling = false;
                self.handle_page(now, subscription, result);
            }
            Purpose::Device { stream, request_id, conversation } => {
                let State::Open { user, .. } = &self.state else { return };
                let said = match result {
                    Ok(reply) => frames::answer(reply, user, conversation.as_ref()),
                    Err(refusal) => Said::Error(wire::error_to_wire(&refusal)),
                };
                if let Some(found) = self.streams.get_mut(&stream) {
                    found.requests -= 1;
                    self.say(stream, request_id, said);
                    self.maybe_finish(stream);
                }
            }
        }
        if was_full && self.has_room() {
            self.read_all(now);
        }
    }

    /// New entries of the inbox, rising by seq.
    pub fn handle_push(&mut self, now: Instant, entries: &[PushEntry]) {
        self.with_inbox(now, |inbox, user, room| inbox.handle_push(entries, user, room));
    }

    /// The inbox reaches up to `tail`; what lies below and was not pushed must be fetched.
    pub fn handle_tail(&mut self, now: Instant, tail: Seq) {
        self.with_inbox(now, |inbox, _, room| inbox.handle_tail(tail, room));
    }

    /// The registration was taken; the inbox reached up to `tail` then.
    pub fn handle_registered(&mut self, now: Instant, tail: Seq) {
        self.with_inbox(now, |inbox, _, room| inbox.handle_registered(tail, room));
    }

    /// The gateway goes down: the device has `drain` to go elsewhere.
    pub fn handle_drain(&mut self, now: Instant, drain: Duration) {
        if self.drain_at.is_some() || self.is_closed() {
            return;
        }
        self.drain_at = Some(now + drain);
        // Who is not in yet is told behind Welcome.
        if matches!(self.state, State::Open { .. }) {
            self.say_go_away(drain);
        }
    }

    /// The connection must end, for a reason from outside.
    pub fn handle_refusal(&mut self, refusal: Refusal) {
        self.close(refusal);
    }

    /// The time of [`Session::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.drain_at.is_some_and(|at| at <= now) {
            return self.close(Refusal::new(ErrorCode::Shutdown, "the gateway goes down"));
        }
        match &self.state {
            State::AwaitHello { deadline } if *deadline <= now => {
                self.close(Refusal::new(ErrorCode::HelloTimeout, "no Hello in time"));
            }
            State::Authenticating { deadline, .. } if *deadline <= now => {
                self.close(Refusal::new(ErrorCode::HelloTimeout, "no verdict on the token in time"));
            }
            State::Open { expires_at, .. } if *expires_at <= now => self.close_expired(),
            State::AwaitHello { .. } | State::Authenticating { .. } | State::Open { .. } | State::Closed => {
                self.pull(now);
            }
        }
    }

    // ---- what goes out ----

    /// The next thing to do for the shell.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// The next bytes to write.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        while let Some(id) = self.writable.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.listed = false;
            let Some(transmit) = stream.take(id, TRANSMIT_BYTES_MAX) else { continue };
            let more = !stream.out.is_empty();
            match id {
                StreamId::Bidi(_) => {
                    let was_full = !self.has_room();
                    self.answer_bytes -= transmit.bytes.len();
                    if was_full && self.has_room() {
                        self.read_all(now);
                    }
                }
                StreamId::Inbox(_) => self.pull(now),
            }
            if more {
                self.list(id);
            }
            if transmit.finish {
                self.forget_stream(id);
            }
            return Some(transmit);
        }
        None
    }

    /// When [`Session::handle_timeout`] must be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match self.state {
            State::AwaitHello { deadline } | State::Authenticating { deadline, .. } => Some(deadline),
            State::Open { expires_at, .. } => Some(expires_at),
            State::Closed => return None,
        };
        let inbox = self.inbox.as_ref().and_then(|inbox| inbox.poll_timeout(self.pull_room(inbox.id)));
        [own, self.drain_at, inbox].into_iter().flatten().min()
    }

    /// It is over.
    pub fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Nothing is asked and not answered, nothing waits to be written.
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.writable.is_empty()
    }

    /// `Lagging` frames so far.
    pub fn lagging_count(&self) -> u64 {
        self.lagging_count
    }

    /// When the token or certificate ends; `None`: nobody is admitted.
    pub fn expires_at(&self) -> Option<Instant> {
        match &self.state {
            State::Open { expires_at, .. } => Some(*expires_at),
            _ => None,
        }
    }

    /// Requests without an answer, of the device and of the subscription.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// How far the subscription is, if there is one: the first seq that was not given, the entries that the device
    /// still takes, and the seqs that are known to be missing.
    pub fn inbox_progress(&self) -> Option<(Seq, u64, u64)> {
        self.inbox.as_ref().map(Inbox::progress)
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.streams.values().map(|stream| stream.out.len()).sum()
    }

    // ---- frames ----

    fn read_all(&mut self, now: Instant) {
        let ids: Vec<_> = self.streams.keys().copied().collect();
        for id in ids {
            self.read_frames(now, id);
        }
    }

    fn read_frames(&mut self, now: Instant, id: StreamId) {
        loop {
            let open = match self.state {
                State::AwaitHello { .. } => id == StreamId::CONTROL,
                State::Open { .. } => self.has_room(),
                State::Authenticating { .. } | State::Closed => false,
            };
            let Some(stream) = self.streams.get_mut(&id).filter(|_| open) else { return };
            match stream.decoder.next_frame::<v1::ClientFrame>() {
                Ok(Some(frame)) => self.handle_frame(now, id, frame),
                Ok(None) => return self.maybe_ended(id),
                Err(error) => return self.close(frame_refusal(&error)),
            }
        }
    }

    /// All frames of the stream are read: is that its end?
    fn maybe_ended(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id).filter(|stream| stream.ended) else { return };
        if let Err(error) = stream.decoder.finish() {
            self.close(frame_refusal(&error));
        } else if id == StreamId::CONTROL {
            self.close_control_gone();
        } else {
            self.maybe_finish(id);
        }
    }

    fn handle_frame(&mut self, now: Instant, id: StreamId, frame: v1::ClientFrame) {
        let Some(body) = frame.body else {
            return self.handle_unknown(id, frame.request_id, frame.optional);
        };
        if matches!(self.state, State::AwaitHello { .. }) {
            return match body {
                Asked::Hello(hello) => self.handle_hello(now, frame.request_id, hello),
                _ => self.close_wrong_stream("the first frame must be Hello"),
            };
        }
        let role = frames::role_of(&body);
        if !self.take_role(id, role, frame.request_id) {
            return;
        }
        match body {
            Asked::Hello(_) => self.close_wrong_stream("a second Hello"),
            Asked::Ping(ping) => {
                self.say(id, frame.request_id, Said::Pong(v1::Pong { nonce: ping.nonce }));
            }
            Asked::Subscribe(subscribe) => self.handle_subscribe(now, frame.request_id, &subscribe),
            Asked::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe.subscription_id),
            Asked::Credit(credit) => self.handle_credit(now, &credit),
            Asked::Ack(_)
            | Asked::Send(_)
            | Asked::QuerySend(_)
            | Asked::CancelSend(_)
            | Asked::CreateGroup(_)
            | Asked::ChangeMembers(_)
            | Asked::Amend(_)
            | Asked::Mark(_)
            | Asked::List(_)
            | Asked::Sync(_)
            | Asked::History(_)
            | Asked::Status(_)
            | Asked::Next(_)
            | Asked::Current(_) => self.handle_call(id, frame.request_id, body),
        }
    }

    fn handle_unknown(&mut self, id: StreamId, request_id: u64, optional: bool) {
        if optional {
            return;
        }
        let refusal = Refusal::new(ErrorCode::Unsupported, "an unknown frame");
        if matches!(self.state, State::AwaitHello { .. }) {
            return self.close(refusal);
        }
        self.say(id, request_id, Said::Error(wire::error_to_wire(&refusal)));
    }

    /// Gives the stream its role by its first frame, and checks it at every other.
    fn take_role(&mut self, id: StreamId, role: Role, request_id: u64) -> bool {
        let lanes_full = self.lanes >= self.limits.lanes_max;
        let stream = self.stream_mut(id);
        let named = match (stream.role, role) {
            (Role::Unnamed, Role::Lane) if lanes_full => {
                let refusal = Refusal::new(ErrorCode::Busy, "too many lanes");
                self.say(id, request_id, Said::Error(wire::error_to_wire(&refusal)));
                return false;
            }
            (Role::Unnamed, Role::Lane | Role::Call) => true,
            (known, asked) if known == asked => false,
            _ => {
                self.close_wrong_stream("a frame that does not belong on this stream");
                return false;
            }
        };
        if role == Role::Call && std::mem::replace(&mut stream.asked, true) {
            self.close_wrong_stream("a second question on a call stream");
            return false;
        }
        if named {
            stream.role = role;
            self.lanes += u32::from(role == Role::Lane);
        }
        true
    }

    fn handle_hello(&mut self, now: Instant, request_id: u64, hello: v1::Hello) {
        let Some(minor) = highest_common([hello.min_minor, hello.max_minor], [wire::MINOR_MIN, wire::MINOR_MAX]) else {
            let text = format!("minor versions {} to {} are spoken here", wire::MINOR_MIN, wire::MINOR_MAX);
            return self.close(Refusal::new(ErrorCode::Unsupported, text));
        };
        let is_missing = hello.token.is_empty() && !self.certified;
        if is_missing || hello.token.len() > limits::TOKEN_BYTES_MAX as usize {
            return self.close(Refusal::new(ErrorCode::AuthFailed, "the token is missing or too long"));
        }
        match DeviceId::new(&hello.device) {
            Ok(device) => {
                let deadline = now + self.limits.hello_timeout;
                self.state = State::Authenticating { minor, request_id, deadline };
                self.events.push_back(SessionEvent::Authenticate { token: hello.token, device });
            }
            Err(error) => self.close(Refusal::new(ErrorCode::Malformed, format!("the device: {error}"))),
        }
    }

    fn handle_call(&mut self, id: StreamId, request_id: u64, body: Asked) {
        let State::Open { user, .. } = &self.state else { return };
        match frames::call_of(body, user) {
            Ok(call) => {
                let conversation = match &call {
                    Call::History { conversation, .. } => Some(conversation.clone()),
                    _ => None,
                };
                self.stream_mut(id).requests += 1;
                let weight = frames::weight_of(&call);
                self.ask(weight, Purpose::Device { stream: id, request_id, conversation }, call);
            }
            Err(refusal) => {
                self.say(id, request_id, Said::Error(wire::error_to_wire(&refusal)));
                self.maybe_finish(id);
            }
        }
    }

    fn ask(&mut self, weight: u32, purpose: Purpose, call: Call) {
        let request = self.request_next();
        self.weight += weight;
        self.requests.insert(request, Request { weight, purpose });
        self.events.push_back(SessionEvent::Call { request, call });
    }

    fn request_next(&mut self) -> RequestId {
        self.request_last += 1;
        RequestId(self.request_last)
    }

    // ---- the inbox ----

    fn handle_subscribe(&mut self, now: Instant, request_id: u64, subscribe: &v1::Subscribe) {
        let from = match wire::seq_from_wire(subscribe.from) {
            Ok(from) => from.unwrap_or(Seq::FIRST),
            Err(refusal) => {
                return self.say(StreamId::CONTROL, request_id, Said::Error(wire::error_to_wire(&refusal)));
            }
        };
        if !matches!(&self.state, State::Open { scopes, .. } if scopes.device) {
            let refusal = Refusal::new(ErrorCode::Forbidden, "the token's scopes do not name a device");
            return self.say(StreamId::CONTROL, request_id, Said::Error(wire::error_to_wire(&refusal)));
        }
        // Those that are over, but whose device has not taken what was written: they hold bytes.
        let unfinished = self.streams.keys().filter(|id| matches!(id, StreamId::Inbox(_))).count();
        if unfinished >= INBOX_STREAMS_MAX {
            let refusal = Refusal::later(ErrorCode::Busy, "inbox streams that are over are not read to their end", 100);
            return self.say(StreamId::CONTROL, request_id, Said::Error(wire::error_to_wire(&refusal)));
        }
        // One subscription per session: a new one takes the old one's place.
        if let Some(old) = self.inbox.take() {
            self.finish(StreamId::Inbox(old.id));
        }
        self.subscription_last += 1;
        let id = self.subscription_last;
        self.inbox = Some(Inbox::new(id, from, subscribe.credit));
        self.streams.insert(StreamId::Inbox(id), Stream::new(Role::Inbox));
        self.say(StreamId::CONTROL, request_id, Said::Subscribed(v1::Subscribed { subscription_id: id }));
        let State::Open { user, .. } = &self.state else { return };
        let header = v1::StreamHeader { subscription_id: id, user: user.as_str().to_owned(), from: from.get() };
        self.say(StreamId::Inbox(id), 0, Said::StreamHeader(header));
        self.events.push_back(SessionEvent::Register { position: from });
        self.pull(now);
    }

    fn unsubscribe(&mut self, id: u64) {
        if self.inbox.as_ref().is_some_and(|inbox| inbox.id == id) {
            self.inbox = None;
            self.finish(StreamId::Inbox(id));
            self.events.push_back(SessionEvent::Unregister);
        }
    }

    fn handle_credit(&mut self, now: Instant, credit: &v1::Credit) {
        if let Some(inbox) = self.inbox.as_mut().filter(|inbox| inbox.id == credit.subscription_id) {
            inbox.add_credit(credit.entries);
            self.pull(now);
        }
    }

    fn with_inbox(&mut self, now: Instant, handle: impl FnOnce(&mut Inbox, &UserId, bool) -> Given) {
        let State::Open { user, .. } = &self.state else { return };
        let Some(inbox) = &mut self.inbox else { return };
        let id = inbox.id;
        let room = inbox_room(&self.streams, id, self.limits.push_bytes_max);
        let given = handle(inbox, user, room);
        self.give(id, given);
        self.pull(now);
    }

    fn handle_page(&mut self, now: Instant, subscription: u64, result: Result<Reply, Refusal>) {
        // The subscription may have ended or been replaced meanwhile.
        let Some(inbox) = self.inbox.as_mut().filter(|inbox| inbox.id == subscription) else {
            return self.pull(now);
        };
        match result {
            Ok(Reply::Sync(page)) => {
                self.with_inbox(now, |inbox, user, room| inbox.handle_page(now, &page, user, room));
            }
            Err(refusal) if refusal.code == ErrorCode::CursorAhead => {
                self.say(StreamId::Inbox(subscription), 0, Said::Error(wire::error_to_wire(&refusal)));
                self.unsubscribe(subscription);
            }
            Ok(_) => inbox.handle_pull_failed(now, Duration::ZERO),
            Err(refusal) => {
                inbox.handle_pull_failed(now, Duration::from_millis(u64::from(refusal.retry_after_ms)));
            }
        }
    }

    fn give(&mut self, id: u64, given: Given) {
        let mut frame = Vec::new();
        let mut bytes = 0;
        for entry in given.entries {
            let more = entries::bytes_of(&entry);
            if bytes + more > PAGE_BYTES_MAX && !frame.is_empty() {
                let entries = std::mem::take(&mut frame);
                self.say(StreamId::Inbox(id), 0, Said::Deliver(v1::Deliver { entries }));
                bytes = 0;
            }
            bytes += more;
            frame.push(entry);
        }
        if !frame.is_empty() {
            self.say(StreamId::Inbox(id), 0, Said::Deliver(v1::Deliver { entries: frame }));
        }
        if let Some(upto) = given.lagging {
            self.lagging_count += 1;
            let lagging = v1::Lagging { subscription_id: id, upto: upto.get() };
            self.say(StreamId::Inbox(id), 0, Said::Lagging(lagging));
        }
        if given.ended {
            self.unsubscribe(id);
        }
    }

    fn pull(&mut self, now: Instant) {
        if self.pulling {
            return;
        }
        let request = RequestId(self.request_last + 1);
        let Some(id) = self.inbox.as_ref().map(|inbox| inbox.id) else { return };
        let room = self.pull_room(id);
        let Some(inbox) = self.inbox.as_mut().filter(|_| matches!(self.state, State::Open { .. })) else { return };
        let Some((from, limit)) = inbox.maybe_pull(now, request, room) else { return };
        let subscription = inbox.id;
        self.pulling = true;
        self.ask(0, Purpose::Pull { subscription }, Call::Sync { from: Some(from), limit });
    }

    /// Does the stream of the subscription take a page?
    fn pull_room(&self, id: u64) -> bool {
        inbox_room(&self.streams, id, self.limits.push_bytes_max / 2)
    }

    // ---- streams ----

    fn stream_mut(&mut self, id: StreamId) -> &mut Stream {
        self.streams.entry(id).or_insert_with(|| Stream::new(Role::Unnamed))
    }

    fn say(&mut self, id: StreamId, request_id: u64, body: Said) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let before = stream.out.len();
        wire::encode_frame(&server_frame(request_id, body), &mut stream.out);
        if matches!(id, StreamId::Bidi(_)) {
            self.answer_bytes += stream.out.len() - before;
        }
        self.list(id);
    }

    fn list(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let has_news = !stream.out.is_empty() || stream.finish;
        if has_news && !stream.blocked && !std::mem::replace(&mut stream.listed, true) {
            self.writable.push_back(id);
        }
    }

    fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.finish = true;
            self.list(id);
        }
    }

    /// Finishes our side when everything was asked and answered.
    fn maybe_finish(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get(&id) else { return };
        let asked_all = match stream.role {
            Role::Call => stream.asked,
            Role::Lane | Role::Unnamed => stream.ended && stream.decoder.buffered() == 0,
            Role::Control | Role::Inbox => false,
        };
        if asked_all && stream.requests == 0 {
            self.finish(id);
        }
    }

    fn forget_stream(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.lanes -= u32::from(stream.role == Role::Lane);
            if matches!(id, StreamId::Bidi(_)) {
                self.answer_bytes -= stream.out.len();
            }
        }
    }

    fn has_room(&self) -> bool {
        self.weight < self.limits.requests_max && self.answer_bytes < self.limits.answer_bytes_max
    }

    // ---- ends ----

    fn close(&mut self, refusal: Refusal) {
        if self.is_closed() {
            return;
        }
        self.say(StreamId::CONTROL, 0, Said::Error(wire::error_to_wire(&refusal)));
        self.state = State::Closed;
        self.requests.clear();
        self.weight = 0;
        self.inbox = None;
        self.events.clear();
        let reason = format!("{}: {}", refusal.code, refusal.message);
        self.events.push_back(SessionEvent::Close { code: refusal.code.close_code(), reason });
    }

    fn say_go_away(&mut self, drain: Duration) {
        let drain_ms = u32::try_from(drain.as_millis()).unwrap_or(u32::MAX);
        self.say(StreamId::CONTROL, 0, Said::GoAway(v1::GoAway { drain_ms }));
    }

    fn close_wrong_stream(&mut self, text: &str) {
        self.close(Refusal::new(ErrorCode::WrongStream, text));
    }

    fn close_control_gone(&mut self) {
        self.close(Refusal::new(ErrorCode::CriticalStreamClosed, "the control stream was closed"));
    }

    fn close_expired(&mut self) {
        self.close(Refusal::new(ErrorCode::AuthExpired, "the time of the token or certificate is over"));
    }

    fn welcome(&self, minor: u32, admission: &Admission) -> v1::Welcome {
        v1::Welcome {
            minor,
            features: Vec::new(),
            session_id: admission.session_id,
            server_time_ms: admission.server_time_ms,
            limits: Some(v1::Limits {
                frame_bytes: limits::FRAME_BYTES_MAX,
                message_bytes: limits::MESSAGE_BYTES_MAX,
                requests: self.limits.requests_max,
                lanes: self.limits.lanes_max,
                sync_entries: limits::SYNC_ENTRIES_MAX,
                idle_timeout_ms: u32::try_from(limits::IDLE_TIMEOUT_MS).unwrap_or(u32::MAX),
            }),
            tenant: admission.tenant.0,
            user: admission.user.as_str().to_owned(),
            generation: u32::from(admission.generation.0),
        }
    }
}

/// The highest number that lies in both ranges, ends included.
fn highest_common([min, max]: [u32; 2], [other_min, other_max]: [u32; 2]) -> Option<u32> {
    let highest = max.min(other_max);
    (min.max(other_min) <= highest).then_some(highest)
}

fn inbox_room(streams: &BTreeMap<StreamId, Stream>, id: u64, bytes_max: usize) -> bool {
    streams.get(&StreamId::Inbox(id)).is_some_and(|stream| stream.out.len() < bytes_max)
}

fn frame_refusal(error: &FrameError) -> Refusal {
    let code = match error {
        FrameError::TooLarge { .. } => ErrorCode::FrameTooLarge,
        FrameError::Length | FrameError::Malformed(_) | FrameError::Truncated => ErrorCode::Malformed,
    };
    Refusal::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_minor_is_spoken() {
        assert_eq!(highest_common([0, 5], [2, 3]), Some(3));
        assert_eq!(highest_common([2, 2], [0, 3]), Some(2));
        assert_eq!(highest_common([4, 5], [0, 3]), None);
        assert_eq!(highest_common([3, 1], [0, 9]), None);
    }
}
