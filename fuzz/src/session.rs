//! Session: the gateway's session core, driven as its shell drives it, by a device, a transport and logic nodes that do
//! whatever the bytes say.
//!
//! The device's side is modelled by what it said and heard on each stream; the inbox by a list of entries that only
//! grows, of which pushes may be lost or come twice. Logic nodes answer truthfully, refuse, or are silent for long.
//!
//! Asserts, at every step:
//! - the session takes any order of events without a panic, and bytes in any pieces;
//! - one question about the token, and one at a time about a fresh one, by which nobody becomes another; one `Welcome`, and nothing but an error before it;
//! - no answer to what was not asked, none twice, none on another stream;
//! - calls have rising ids, and no more of them are under way than the limit of requests and one;
//! - nothing is written to a stream that is blocked, forgotten or finished;
//! - what waits to be written stays below a bound that follows from the limits;
//! - the inbox is given in order, without a gap and without one entry twice, and no more of it than there is credit for;
//! - a timer that fires moves on: a shell that obeys it does not spin;
//! - a close is said once, on the control stream too, and nothing comes behind it.
//!
//! At the end, if nobody closed it: every question has its answer, and the inbox arrives as far as credit goes.

mod device;
mod truth;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arbitrary::Unstructured;
use bytes::Bytes;
use seriatim_gateway_core::{
    Admission, Renewal, RenewalEnd, RequestId, Session, SessionEvent, SessionLimits, StreamId,
};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{Generation, TenantId};
use seriatim_proto::logic::{Call, Scopes};
use seriatim_proto::wire::v1::server_frame::Body as Said;

use device::Device;
use truth::Truth;

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut driver = Driver::new(Unstructured::new(data));
    while !driver.u.is_empty() && driver.steps < STEPS_MAX {
        driver.step();
        driver.settle();
    }
    driver.finish();
}

/// More steps find nothing that fewer do not.
const STEPS_MAX: u32 = 400;
/// Streams that the device opens at most.
const STREAMS_MAX: u64 = 24;
/// Rounds in which everything must have come to rest.
const ROUNDS_MAX: u32 = 200;
const LIMITS: SessionLimits = SessionLimits {
    requests_max: 40,
    lanes_max: 3,
    answer_bytes_max: 2 << 10,
    push_bytes_max: 16 << 10,
    hello_timeout: Duration::from_secs(10),
    renew_pause: Duration::from_secs(1),
};
/// What a page, or what is pushed at once, takes at most: see [`truth::BATCH_MAX`] and [`truth::BODY_MAX`].
const PAGE_BYTES_MAX: usize = truth::BATCH_MAX * (truth::BODY_MAX + 600);
/// Answers up to the limit, and then those of what is already asked: each small, or one of two pages.
const ANSWERS_MAX: usize = LIMITS.answer_bytes_max + LIMITS.requests_max as usize * 600 + 3 * PAGE_BYTES_MAX;
/// Pushes up to the limit, and a batch and a page more, for the subscription and for those that are being finished.
const QUEUED_MAX: usize = ANSWERS_MAX + 4 * (LIMITS.push_bytes_max + 2 * PAGE_BYTES_MAX);

struct Driver<'a> {
    u: Unstructured<'a>,
    session: Session,
    now: Instant,
    steps: u32,
    device: Device,
    truth: Truth,
    calls: BTreeMap<RequestId, Call>,
    call_last: RequestId,
    /// The token waits for its verdict.
    authenticating: bool,
    authenticated: bool,
    /// The token of a Renew waits for its verdict.
    renewing: bool,
    closed: Option<u32>,
    /// Nothing is lost and nobody refuses any more.
    calm: bool,
}

impl<'a> Driver<'a> {
    #[allow(clippy::disallowed_methods, reason = "the beginning of the target's own time")]
    fn new(u: Unstructured<'a>) -> Self {
        let now = Instant::now();
        Self {
            u,
            session: Session::new(now, LIMITS),
            now,
            steps: 0,
            device: Device::default(),
            truth: Truth::default(),
            calls: BTreeMap::new(),
            call_last: RequestId(0),
            authenticating: false,
            authenticated: false,
            renewing: false,
            closed: None,
            calm: false,
        }
    }

    // ---- what happens ----

    fn step(&mut self) {
        self.steps += 1;
        match self.byte() % 24 {
            0 => self.greet(),
            1 => self.judge(),
            2..=5 => self.ask(),
            6 => self.device.say_raw(&mut self.u),
            7 => self.device.end(&mut self.u),
            8 => self.reset(),
            9..=11 => self.answer_one(),
            12 => self.truth.grow(&mut self.u),
            13..=14 => {
                let entries = self.truth.pushed(&mut self.u);
                self.session.handle_push(self.now, &entries);
            }
            15 => self.session.handle_tail(self.now, self.truth.tail()),
            16 => self.session.handle_registered(self.now, self.truth.tail()),
            17 => self.device.jam(&mut self.u),
            18 => self.unjam(),
            19..=20 => {
                let ms = [1, 20, 200, 1_000, 10_000, 60_000][usize::from(self.byte()) % 6];
                self.now += Duration::from_millis(ms);
            }
            21 => self.device.credit(&mut self.u),
            22 => self.device.hold = self.byte(),
            _ => self.rare(),
        }
    }

    fn byte(&mut self) -> u8 {
        self.u.arbitrary().unwrap_or_default()
    }

    fn greet(&mut self) {
        let minor = u32::from(self.byte() / 250);
        self.device.greet(minor);
    }

    fn ask(&mut self) {
        if self.authenticating && !self.byte().is_multiple_of(4) {
            self.judge();
        }
        self.device.ask(&mut self.u, &self.truth);
    }

    /// What a life has few of.
    fn rare(&mut self) {
        match self.byte() % 16 {
            0 => {
                let drain = Duration::from_millis(u64::from(self.byte()) * 100);
                self.session.handle_drain(self.now, drain);
            }
            1 => self.session.handle_refusal(Refusal::new(ErrorCode::WrongStream, "from outside")),
            // Answers to what was never asked.
            2 => self.session.handle_reply(self.now, RequestId(u64::MAX), Err(busy(0))),
            3 => self.session.handle_timeout(self.now),
            4 => self.session.handle_blocked(StreamId::Bidi(u64::MAX)),
            5 => self.session.handle_writable(StreamId::Inbox(u64::MAX)),
            6 => self.session.handle_stream_reset(StreamId::Inbox(u64::MAX)),
            7..=9 => self.judge_renewal(),
            _ => {}
        }
    }

    /// The verdict on a Renew's token; also one that nobody waits for.
    fn judge_renewal(&mut self) {
        let kind = self.byte() % 16;
        let verdict = match kind {
            0 => Err(Refusal::new(ErrorCode::AuthFailed, "no")),
            _ => Ok(Renewal {
                tenant: TenantId(if kind == 1 { 2 } else { 1 }),
                user: if kind == 2 { truth::peer() } else { truth::me() },
                expires_at: self.now + if kind == 3 { Duration::ZERO } else { Duration::from_secs(3_600) },
                scopes: if kind == 4 { Scopes::SEQUENCE } else { Scopes::DEVICE },
            }),
        };
        let expected = match kind {
            _ if !self.renewing || self.closed.is_some() => RenewalEnd::Gone,
            0 | 3 => RenewalEnd::Refused,
            1 | 2 => RenewalEnd::OtherUser,
            _ => RenewalEnd::Renewed,
        };
        self.renewing = false;
        let ends_at = self.session.poll_timeout();
        assert_eq!(self.session.handle_renewal(self.now, verdict), expected);
        if expected != RenewalEnd::Renewed && self.closed.is_none() {
            assert_eq!(self.session.poll_timeout(), ends_at, "a token that is refused moves nothing");
        }
    }

    /// The verdict on the token; also one that nobody waits for.
    fn judge(&mut self) {
        let verdict = match self.byte() % 16 {
            0 => Err(Refusal::new(ErrorCode::AuthFailed, "no")),
            kind => Ok(Admission {
                session_id: 4,
                tenant: TenantId(1),
                user: truth::me(),
                generation: Generation(0),
                server_time_ms: 1,
                expires_at: self.now + if kind == 1 { Duration::ZERO } else { Duration::from_secs(3_600) },
                scopes: if kind == 2 { Scopes::SEQUENCE } else { Scopes::DEVICE },
            }),
        };
        if self.authenticating && self.closed.is_none() {
            self.authenticated |= verdict.is_ok();
            self.authenticating = false;
        }
        self.session.handle_verdict(self.now, verdict);
    }

    /// A reset of a stream of either side.
    fn reset(&mut self) {
        let choice = self.byte();
        // The control stream only now and then: it ends everything.
        let id = match (choice & 1, choice >> 1) {
            (0, 0) => StreamId::CONTROL,
            (0, number) => StreamId::Bidi(1 + u64::from(number) % STREAMS_MAX),
            (_, number) => StreamId::Inbox(1 + u64::from(number) % 4),
        };
        if self.device.forget(id) {
            self.session.handle_stream_reset(id);
        }
    }

    fn unjam(&mut self) {
        if let Some(id) = self.device.unjam(&mut self.u) {
            self.session.handle_writable(id);
        }
    }

    fn answer_one(&mut self) {
        let Some(place) = usize::from(self.byte()).checked_rem(self.calls.len()) else { return };
        let request = *self.calls.keys().nth(place).expect("it is one of them");
        let call = self.calls.remove(&request).expect("it is there");
        let result = match self.byte() % 8 {
            0 if !self.calm => Err(busy(u32::from(self.byte()))),
            _ => self.truth.answer(&mut self.u, &call, self.calm),
        };
        self.session.handle_reply(self.now, request, result);
    }

    // ---- what the shell does after each ----

    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < ROUNDS_MAX, "the session comes to no rest");
            let mut progress = self.read();
            progress |= self.time();
            progress |= self.take_events();
            progress |= self.write();
            if !progress {
                break;
            }
        }
        self.check();
    }

    /// Hands the device's bytes on, as far as the session wants them.
    fn read(&mut self) -> bool {
        let mut any = false;
        for id in self.device.lanes() {
            while self.session.wants_data(id) {
                match self.device.next_piece(id) {
                    Some(Piece::Bytes(bytes)) => self.session.handle_stream_data(self.now, id, &bytes),
                    Some(Piece::End) => self.session.handle_stream_end(self.now, id),
                    None => break,
                }
                any = true;
            }
        }
        any
    }

    fn time(&mut self) -> bool {
        let Some(at) = self.session.poll_timeout().filter(|at| *at <= self.now) else { return false };
        let before = (self.session.queued_bytes(), self.session.lagging_count());
        self.session.handle_timeout(self.now);
        let moved = self.session.poll_timeout() != Some(at) || self.session.is_closed();
        let did = (self.session.queued_bytes(), self.session.lagging_count()) != before;
        assert!(moved || did, "a timer that stays in the past");
        true
    }

    fn take_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.session.poll_event() {
            any = true;
            assert!(self.closed.is_none(), "{event:?} behind the close");
            match event {
                SessionEvent::Authenticate { token, device } => {
                    assert!(!self.authenticating && !self.authenticated, "a second question about a token");
                    assert!(!token.is_empty() && !device.as_str().is_empty());
                    self.authenticating = true;
                }
                SessionEvent::Renew { token } => {
                    assert!(self.authenticated && !self.renewing, "a second Renew at the same time, or of nobody");
                    assert!(!token.is_empty());
                    self.renewing = true;
                }
                SessionEvent::Call { request, call } => {
                    assert!(self.authenticated, "a call of nobody");
                    assert!(request > self.call_last, "ids of calls rise");
                    self.call_last = request;
                    self.calls.insert(request, call);
                }
                SessionEvent::Register { position } => self.device.registered(position),
                SessionEvent::Unregister => self.device.unregistered(),
                SessionEvent::Close { code, .. } => {
                    assert!(self.session.is_closed());
                    self.closed = Some(code);
                    // Whoever still works on these is not listened to any more.
                    self.calls.clear();
                }
            }
        }
        any
    }

    fn write(&mut self) -> bool {
        let mut any = false;
        while let Some(transmit) = self.session.poll_transmit(self.now) {
            any = true;
            let id = transmit.stream;
            let blocked = self.device.hear(&transmit, self.authenticated, &self.truth);
            if blocked {
                self.session.handle_blocked(id);
            } else if !transmit.finish {
                self.session.handle_writable(id);
            }
        }
        any
    }

    fn check(&self) {
        let queued = self.session.queued_bytes();
        assert!(queued <= QUEUED_MAX, "{queued} bytes wait, {QUEUED_MAX} may");
        // The device's own, of which every one weighs at least 1, and a pull.
        let calls = self.calls.len();
        assert!(calls <= LIMITS.requests_max as usize + 1, "{calls} calls are under way");
        if self.closed.is_some() {
            assert!(self.session.is_closed());
            assert_eq!(self.session.poll_timeout(), None, "a timer of a closed session");
            assert!(!self.session.wants_data(StreamId::CONTROL));
        } else {
            assert!(!self.session.is_closed(), "closed without a word to the shell");
        }
    }

    // ---- the end ----

    fn finish(&mut self) {
        self.calm = true;
        self.device.hold = 0;
        if self.authenticating && self.closed.is_none() {
            self.judge();
            self.settle();
        }
        for round in 0.. {
            // A shell hears of a close before it has the next verdict.
            self.settle();
            if self.renewing {
                self.judge_renewal();
            }
            assert!(round < ROUNDS_MAX, "what is asked is never answered");
            for id in self.device.unjam_all() {
                self.session.handle_writable(id);
            }
            self.settle();
            if self.calls.is_empty() && round > TIMERS {
                break;
            }
            // Pauses end; the last of the inbox is told.
            self.now += Duration::from_millis(300);
            self.session.handle_tail(self.now, self.truth.tail());
            while !self.calls.is_empty() {
                self.answer_one();
            }
        }
        self.device.check_end(self.closed, self.authenticated, &self.truth);
        if let Some(code) = self.closed {
            assert_eq!(self.device.last_words(), Some(code), "the close code is said on the control stream too");
        }
    }
}

/// Pauses of a pull that were begun before the end, and the tries that a body which is not there is given.
const TIMERS: u32 = 16;

/// What a stream brings next.
enum Piece {
    Bytes(Bytes),
    End,
}

fn busy(retry_after_ms: u32) -> Refusal {
    Refusal::later(ErrorCode::Busy, "not now", retry_after_ms)
}

fn is_answer(said: &Said) -> bool {
    match said {
        Said::Pong(_)
        | Said::Subscribed(_)
        | Said::Acked(_)
        | Said::Committed(_)
        | Said::SendStatus(_)
        | Said::SyncPage(_)
        | Said::HistoryPage(_)
        | Said::StatusPage(_)
        | Said::Error(_)
        | Said::Numbers(_)
        | Said::CurrentNumber(_)
        | Said::Marked(_)
        | Said::ListPage(_)
        | Said::Renewed(_) => true,
        Said::Welcome(_) | Said::StreamHeader(_) | Said::Deliver(_) | Said::Lagging(_) | Said::GoAway(_) => false,
    }
}

/// Did the device open it?
fn is_own(id: StreamId) -> bool {
    matches!(id, StreamId::Bidi(_))
}
