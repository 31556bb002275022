//! Device: the driver of one device's connection. One task: bytes in, bytes out, events on, timer.
//!
//! No rule of the protocol is here: [`Session`] has them all. No way in is here either: a [`Carrier`] moves the bytes
//! of the session's streams, whatever carries them. Every wake-up takes all that is there, asks the router once, and
//! writes each stream once.
//!
//! A device comes by a token, or without one by the client certificate of its handshake; the logic nodes are given
//! whichever it was.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use seriatim_gateway_core::{
    Admission, Renewal, RenewalEnd, RequestId, RouterEvent, Session, SessionEvent, SessionLimits,
};
use seriatim_proto::certificate::{CertificateError, ClientCa, NameProblem};
use seriatim_proto::chaos::{self, Point};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::DeviceId;
use seriatim_proto::logic::{CertificateProof, Credential};
use seriatim_proto::operator::{InboxLive, SessionLive, SessionOwner};
use seriatim_proto::token::{TokenError, Verified, Verifier};
use tokio::time::Sleep;
use tracing::debug;

use crate::client_certificate::Shown;
use crate::hub::Hub;
use crate::mailbox::{Letter, Mailbox};
use crate::metrics::{By, ByLabel, ClosedLabel, Outcome, OutcomeLabel, ReasonLabel, Transport};
use crate::operator::ms;
use crate::transport::{Came, Carrier, Line};

/// Rounds of one wake-up before other tasks get their turn.
const ROUNDS_MAX: u32 = 16;
/// A token or certificate that ends later counts as ending then: far beyond any connection.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// Time that a device gets to take in why its connection ends.
const LINGER: Duration = Duration::from_secs(1);

/// What every connection of a gateway needs.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) hub: Arc<Hub>,
    pub(crate) verifier: Verifier,
    pub(crate) client_ca: Option<ClientCa>,
}

/// Serves the connection to its end.
pub(crate) async fn drive<C: Carrier>(carrier: C, transport: Transport, line: Line, shown: Shown, desk: Desk) {
    let Desk { hub, verifier, client_ca } = desk;
    let (session_id, mailbox) = hub.enter(transport);
    hub.roster.enter(session_id, transport, line.clone(), mailbox.clone());
    let begun = Instant::now();
    let session = Session::new(begun, SessionLimits::default());
    let mut driver = Driver {
        session: if shown.proof().is_some() { session.certified() } else { session },
        shown,
        client_ca,
        session_id,
        transport,
        line,
        heard_at: begun,
        carrier,
        hub,
        verifier,
        mailbox,
        letters: Vec::new(),
        awaiting_keys: None,
        awaiting_ready: None,
        device: None,
        asked_at: BTreeMap::new(),
        queued_bytes: 0,
        lagging_count: 0,
        timer_at: None,
    };
    let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    std::future::poll_fn(|cx| {
        for _ in 0..ROUNDS_MAX {
            match driver.round(cx, timer.as_mut()) {
                Round::Progress => {}
                Round::Idle => return Poll::Pending,
                Round::Over => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
    // Whoever ended it, the last words are said. A device that does not listen is not waited for.
    let _ = tokio::time::timeout(LINGER, std::future::poll_fn(|cx| driver.carrier.poll_close(cx))).await;
}

enum Round {
    Progress,
    Idle,
    Over,
}

struct Driver<C> {
    session: Session,
    shown: Shown,
    client_ca: Option<ClientCa>,
    session_id: u64,
    transport: Transport,
    line: Line,
    /// When something came from the device.
    heard_at: Instant,
    carrier: C,
    hub: Arc<Hub>,
    verifier: Verifier,
    mailbox: Arc<Mailbox>,
    letters: Vec<Letter>,
    /// Signed with a key that is not known: the keys are read anew first.
    awaiting_keys: Option<AwaitingKeys>,
    /// Verified, but no logic node has said the generation yet.
    awaiting_ready: Option<(Verified, DeviceId, Credential)>,
    /// As the device named itself, once it is verified.
    device: Option<DeviceId>,
    asked_at: BTreeMap<RequestId, Instant>,
    queued_bytes: i64,
    lagging_count: u64,
    timer_at: Option<Instant>,
}

/// A token that is checked again when the keys were read anew.
struct AwaitingKeys {
    refresh: Pin<Box<dyn Future<Output = bool> + Send>>,
    token: String,
    wants: Wants,
}

/// What a device shows a token for.
enum Wants {
    /// To come in, as this device.
    Entry(DeviceId),
    /// To stay.
    Renewal,
}

impl<C: Carrier> Driver<C> {
    /// Everything in, everything out.
    fn round(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Round {
        let now = Instant::now();
        let mut progress = self.read_mailbox(cx, now);
        match self.carrier.poll_in(cx, now, &mut self.session) {
            Came::Over => return Round::Over,
            Came::Something => (progress, self.heard_at) = (true, now),
            Came::Nothing => {}
        }
        progress |= self.poll_keys(cx, now);
        progress |= self.poll_timer(cx, now, timer);
        let close = self.take_events(now);
        progress |= self.write(cx, now);
        self.count();
        if let Some((code, reason)) = close {
            debug!(code, %reason, "connection closed");
            self.hub.metrics.closed.get_or_create(&ClosedLabel { transport: self.transport, code }).inc();
            self.carrier.close(code, &reason);
            return Round::Over;
        }
        if progress { Round::Progress } else { Round::Idle }
    }

    fn read_mailbox(&mut self, cx: &Context<'_>, now: Instant) -> bool {
        let mut letters = std::mem::take(&mut self.letters);
        self.mailbox.take(cx.waker(), &mut letters);
        let any = !letters.is_empty();
        for letter in letters.drain(..) {
            match letter {
                Letter::Router(event) => self.handle_router_event(now, event),
                Letter::Ready => self.admit(now),
                Letter::Drain(drain) => self.session.handle_drain(now, drain),
                Letter::Kick => {
                    let text = "the session was ended by an operator";
                    self.session.handle_refusal(Refusal::new(ErrorCode::Kicked, text));
                }
                // Whoever asked may have gone.
                Letter::Report(answer) => drop(answer.send(self.report(now))),
            }
        }
        self.letters = letters;
        any
    }

    fn report(&self, now: Instant) -> SessionLive {
        let inbox = self.session.inbox_progress();
        SessionLive {
            expires_ms: self.session.expires_at().map(|at| ms(at.saturating_duration_since(now))),
            heard_ms: ms(now.saturating_duration_since(self.heard_at)),
            rtt_us: self.line.rtt().map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            received_bytes: self.line.traffic.received.own(),
            sent_bytes: self.line.traffic.sent.own(),
            queued_bytes: (self.session.queued_bytes() + self.carrier.queued_bytes()) as u64,
            requests: self.session.requests() as u64,
            inbox: inbox.map(|(position, credit, lag)| InboxLive { position: position.get(), credit, lag }),
        }
    }

    fn handle_router_event(&mut self, now: Instant, event: RouterEvent) {
        let metrics = &self.hub.metrics;
        match event {
            RouterEvent::Reply { request, result } => {
                if let Some(asked_at) = self.asked_at.remove(&request) {
                    metrics.call_seconds.observe(now.saturating_duration_since(asked_at).as_secs_f64());
                }
                if result.is_err() {
                    metrics.calls_refused.inc();
                }
                self.session.handle_reply(now, request, result);
            }
            RouterEvent::Push(entries) => {
                metrics.pushes.inc_by(entries.len() as u64);
                self.session.handle_push(now, &entries);
            }
            RouterEvent::Registered(tail) => self.session.handle_registered(now, tail),
            RouterEvent::Tail(tail) => self.session.handle_tail(now, tail),
            RouterEvent::Refused(refusal) => self.session.handle_refusal(refusal),
        }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, now: Instant, mut timer: Pin<&mut Sleep>) -> bool {
        let Some(at) = self.session.poll_timeout() else { return false };
        if at <= now {
            self.session.handle_timeout(now);
            return true;
        }
        if self.timer_at != Some(at) {
            self.timer_at = Some(at);
            timer.as_mut().reset(at.into());
        }
        let fired = timer.poll(cx).is_ready();
        if fired {
            self.timer_at = None;
        }
        fired
    }

    /// Hands the session's wishes on; `Some` is a close.
    fn take_events(&mut self, now: Instant) -> Option<(u32, String)> {
        let mut for_router = Vec::new();
        let mut close = None;
        while let Some(event) = self.session.poll_event() {
            match event {
                SessionEvent::Authenticate { token, device } => self.authenticate(now, token, device),
                SessionEvent::Renew { token } => self.check_token(now, token, Wants::Renewal),
                SessionEvent::Close { code, reason } => close = Some((code, reason)),
                event => for_router.push(event),
            }
        }
        if !for_router.is_empty() {
            let (hub, session) = (self.hub.clone(), self.session_id);
            hub.with_router(|router| {
                for event in for_router {
                    match event {
                        SessionEvent::Call { request, call } => {
                            self.asked_at.insert(request, now);
                            hub.metrics.calls.inc();
                            chaos::hit(Point::GatewayCall);
                            router.call(now, session, request, call);
                        }
                        SessionEvent::Register { position } => router.register(now, session, position),
                        SessionEvent::Unregister => router.unregister(session),
                        SessionEvent::Authenticate { .. } | SessionEvent::Renew { .. } | SessionEvent::Close { .. } => {
                        }
                    }
                }
            });
        }
        close
    }

    fn authenticate(&mut self, now: Instant, token: String, device: DeviceId) {
        if token.is_empty() {
            return self.authenticate_by_certificate(now, device);
        }
        self.check_token(now, token, Wants::Entry(device));
    }

    fn check_token(&mut self, now: Instant, token: String, wants: Wants) {
        let verified = self.verifier.check(&token);
        let unknown = matches!(verified, Err(TokenError::UnknownKey));
        match unknown.then(|| self.verifier.refresh()).flatten() {
            Some(refresh) => self.awaiting_keys = Some(AwaitingKeys { refresh, token, wants }),
            None => self.handle_verified(now, verified, token, wants),
        }
    }

    /// The CA may have gone, or the certificate's time, since the handshake.
    fn authenticate_by_certificate(&mut self, now: Instant, device: DeviceId) {
        let Some(proof) = self.shown.proof().cloned() else {
            // The session lets nobody come with neither.
            return self.session.handle_verdict(now, Err(TokenError::Malformed.into()));
        };
        match self.check_certificate(&proof) {
            Ok(verified) => self.take(now, verified, device, Credential::Certificate(proof)),
            Err(error) => self.refuse_certificate(now, error),
        }
    }

    fn check_certificate(&self, proof: &CertificateProof) -> Result<Verified, CertificateError> {
        self.client_ca.as_ref().ok_or(CertificateError::NotTaken)?.check(proof)
    }

    fn refuse_certificate(&mut self, now: Instant, error: CertificateError) {
        let label = ReasonLabel { reason: error.reason() };
        self.hub.metrics.client_certificates_refused.get_or_create(&label).inc();
        self.session.handle_verdict(now, Err(error.into()));
    }

    /// A token counts beside a certificate only if they are of the same user; one that names nobody says nothing.
    fn check_beside(&self, verified: &Verified) -> Result<(), Refusal> {
        let Some(proof) = self.shown.proof() else { return Ok(()) };
        match self.check_certificate(proof) {
            Ok(named) if (named.tenant, &named.user) == (verified.tenant, &verified.user) => Ok(()),
            Ok(_) => {
                let text = "the token is of another user than the client certificate";
                Err(Refusal::new(ErrorCode::AuthFailed, text))
            }
            Err(CertificateError::Name(NameProblem::Missing)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Checks a token again whose key was not known, once the keys were read anew.
    fn poll_keys(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let Some(awaiting) = &mut self.awaiting_keys else { return false };
        let Poll::Ready(are_read) = awaiting.refresh.as_mut().poll(cx) else { return false };
        let Some(AwaitingKeys { token, wants, .. }) = self.awaiting_keys.take() else { return false };
        let verified = self.verifier.check_again(&token, are_read);
        self.handle_verified(now, verified, token, wants);
        true
    }

    fn handle_verified(&mut self, now: Instant, verified: Result<Verified, TokenError>, token: String, wants: Wants) {
        if let Err(error) = &verified {
            self.hub.metrics.tokens_refused.get_or_create(&ReasonLabel { reason: error.reason() }).inc();
        }
        let device = match wants {
            Wants::Entry(device) => device,
            Wants::Renewal => return self.renew(now, verified, token),
        };
        match verified {
            Ok(verified) => match self.check_beside(&verified) {
                Ok(()) => self.take(now, verified, device, Credential::Token(token)),
                Err(refusal) => {
                    let label = ReasonLabel { reason: "beside_certificate" };
                    self.hub.metrics.tokens_refused.get_or_create(&label).inc();
                    self.session.handle_verdict(now, Err(refusal));
                }
            },
            // No verdict: another gateway may have one.
            Err(error @ TokenError::KeysUnreadable) => {
                self.session.handle_verdict(now, Err(Refusal::new(ErrorCode::HelloTimeout, error.to_string())));
            }
            Err(error) => self.session.handle_verdict(now, Err(error.into())),
        }
    }

    /// A certificate beside it was compared with the session's user when that came in; the token is compared with it now.
    fn renew(&mut self, now: Instant, verified: Result<Verified, TokenError>, token: String) {
        let verdict = verified.map_err(Refusal::from).map(|verified| {
            let verified = verified.of_device(self.device.as_ref().map_or("", DeviceId::as_str));
            let expires_at = now + life_of(&verified, wall());
            Renewal { tenant: verified.tenant, user: verified.user, expires_at, scopes: verified.scopes }
        });
        let outcome = match self.session.handle_renewal(now, verdict) {
            RenewalEnd::Renewed => Outcome::Renewed,
            RenewalEnd::Refused => Outcome::Refused,
            RenewalEnd::OtherUser => Outcome::OtherUser,
            RenewalEnd::Gone => return,
        };
        self.hub.metrics.renewals.get_or_create(&OutcomeLabel { outcome }).inc();
        if outcome == Outcome::Renewed {
            let session = self.session_id;
            self.hub.with_router(|router| router.renew_session(now, session, Credential::Token(token)));
        }
    }

    fn take(&mut self, now: Instant, verified: Verified, device: DeviceId, credential: Credential) {
        chaos::hit(Point::GatewayHello);
        self.device = Some(device.clone());
        self.awaiting_ready = Some((verified.of_device(device.as_str()), device, credential));
        self.admit(now);
    }

    /// Admits a verified device, once the generation is known.
    fn admit(&mut self, now: Instant) {
        let (hub, session_id) = (self.hub.clone(), self.session_id);
        let Some(generation) = hub.with_router(|router| router.generation()) else { return };
        let Some((verified, device, credential)) = self.awaiting_ready.take() else { return };
        let wall = wall();
        let life = life_of(&verified, wall);
        let by = match credential {
            Credential::Token(_) => By::Token,
            Credential::Certificate(_) => By::Certificate,
        };
        hub.metrics.admitted.get_or_create(&ByLabel { by }).inc();
        let owner = SessionOwner {
            tenant: verified.tenant.0,
            user: verified.user.as_str().to_owned(),
            device: device.as_str().to_owned(),
        };
        hub.roster.admit(session_id, owner);
        let admission = Admission {
            session_id,
            tenant: verified.tenant,
            user: verified.user,
            generation,
            server_time_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
            expires_at: now + life,
            scopes: verified.scopes,
        };
        hub.with_router(|router| {
            router.open_session(session_id, admission.tenant, &admission.user, device, credential);
        });
        self.session.handle_verdict(now, Ok(admission));
    }

    fn write(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut any = self.carrier.poll_out(cx, &mut self.session);
        while self.carrier.has_room() {
            let Some(transmit) = self.session.poll_transmit(now) else { break };
            self.carrier.put(cx, &mut self.session, transmit);
            any = true;
        }
        any | self.carrier.poll_flush(cx)
    }

    fn count(&mut self) {
        let metrics = &self.hub.metrics;
        let lagging = self.session.lagging_count();
        metrics.lagging.inc_by(lagging - self.lagging_count);
        self.lagging_count = lagging;
        let queued = self.session.queued_bytes() + self.carrier.queued_bytes();
        let queued = i64::try_from(queued).unwrap_or(i64::MAX);
        metrics.queued_bytes.inc_by(queued - self.queued_bytes);
        self.queued_bytes = queued;
    }
}

impl<C> Drop for Driver<C> {
    fn drop(&mut self) {
        self.hub.metrics.queued_bytes.dec_by(self.queued_bytes);
        self.hub.leave(self.session_id, self.transport);
    }
}

/// Since the Unix epoch.
fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// From `wall` to the end of what was verified.
fn life_of(verified: &Verified, wall: Duration) -> Duration {
    Duration::from_secs(verified.expires_at_s).saturating_sub(wall).min(TOKEN_LIFE_MAX)
}
