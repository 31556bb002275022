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
//! Open, it may show a fresh token (Renew): its end moves.
//!
//! It reads no more than it can answer: ask [`Session::wants_data`] before reading a stream. Nothing is buffered
//! without a bound: requests by weight, answers by bytes, pushes by credit and bytes.
//!
//! # Failure
//! A crash forgets everything here; the device comes back with its cursor and its message ids.
//!
//! # Reading order
//! [`Session::handle_stream_data`] → `asked` (frames in) → `said` (frames out) → [`Session::handle_reply`] → [`Session::handle_push`] →
//! `subscription`.

mod asked;
mod event;
mod renewal;
mod said;
mod subscription;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{ConversationId, Seq, TenantId, UserId};
use seriatim_proto::limits;
use seriatim_proto::logic::{PushEntry, Reply, Scopes};
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};

use crate::frames;
use crate::inbox::Inbox;
use crate::stream::{Role, Stream, StreamId, Transmit};

use renewal::Renewals;

pub use event::{Admission, Renewal, RenewalEnd, RequestId, SessionEvent, SessionLimits};

#[derive(Debug)]
enum State {
    AwaitHello { deadline: Instant },
    Authenticating { minor: u32, request_id: u64, deadline: Instant },
    Open { tenant: TenantId, user: UserId, expires_at: Instant, scopes: Scopes },
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
    /// Inbox streams that are over, but whose last bytes are still with the transport.
    leaving: BTreeSet<u64>,
    drain_at: Option<Instant>,
    renewals: Renewals,
    writable: VecDeque<StreamId>,
    events: VecDeque<SessionEvent>,
    /// Room was given back where no time is at hand: what stalled is read on at the next poll.
    room_is_back: bool,
    /// Lagging frames, for the metrics.
    lagging_count: u64,
}

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
            leaving: BTreeSet::new(),
            drain_at: None,
            renewals: Renewals::default(),
            writable: VecDeque::new(),
            events: VecDeque::new(),
            room_is_back: false,
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
                self.leaving.remove(&id);
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

    /// The transport takes no more of this stream, or keeps the last bytes of one that is over.
    pub fn handle_blocked(&mut self, stream: StreamId) {
        match (self.streams.get_mut(&stream), stream) {
            (Some(found), _) => found.blocked = true,
            (None, StreamId::Inbox(id)) if id <= self.subscription_last => drop(self.leaving.insert(id)),
            (None, StreamId::Inbox(_) | StreamId::Bidi(_)) => {}
        }
    }

    /// The transport takes more of this stream again, or has written the last bytes of one that is over.
    pub fn handle_writable(&mut self, stream: StreamId) {
        if let StreamId::Inbox(id) = stream {
            self.leaving.remove(&id);
        }
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
                let welcome = Said::Welcome(self.welcome(now, minor, &admission));
                let Admission { tenant, user, expires_at, scopes, .. } = admission;
                self.state = State::Open { tenant, user, expires_at, scopes };
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

    /// The gateway goes down: the device has `drain` to go elsewhere. Said again, the earlier end counts.
    pub fn handle_drain(&mut self, now: Instant, drain: Duration) {
        if self.is_closed() || self.drain_at.is_some_and(|at| at <= now + drain) {
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
        if std::mem::take(&mut self.room_is_back) {
            self.read_all(now);
        }
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
        self.requests.is_empty() && self.renewals.request_id.is_none() && self.writable.is_empty()
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

    fn welcome(&self, now: Instant, minor: u32, admission: &Admission) -> v1::Welcome {
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
            expires_in_ms: renewal::millis_until(now, admission.expires_at),
        }
    }
}
