//! Connection: the driver of one device's connection. One task: bytes in, bytes out, events on, timer.
//!
//! No rule of the protocol is here: [`Session`] has them all. Every wake-up takes all that is there, asks the
//! router once, and writes each stream once.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes};
use quinn::{Connection, ReadError, RecvStream, SendStream, VarInt, WriteError};
use seriatim_gateway_core::{
    Admission, RequestId, RouterEvent, Session, SessionEvent, SessionLimits, StreamId, Transmit,
};
use seriatim_proto::chaos::{self, Point};
use seriatim_proto::error::Refusal;
use seriatim_proto::ids::DeviceId;
use seriatim_proto::token::{Verified, Verifier};
use tokio::time::Sleep;
use tracing::debug;

use crate::hub::Hub;
use crate::mailbox::{Letter, Mailbox};
use crate::metrics::CodeLabel;

/// Bytes read from a stream at once.
const READ_BYTES: usize = 8 << 10;
/// Rounds of one wake-up before other tasks get their turn.
const ROUNDS_MAX: u32 = 16;
/// A token that ends later counts as ending then: far beyond any connection.
const TOKEN_LIFE_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// Serves the connection to its end.
pub(crate) async fn drive(connection: Connection, hub: Arc<Hub>, verifier: Arc<Verifier>) {
    let (session_id, mailbox) = hub.enter();
    let mut driver = Driver {
        session: Session::new(Instant::now(), SessionLimits::default()),
        session_id,
        connection: connection.clone(),
        hub,
        verifier,
        mailbox,
        letters: Vec::new(),
        readers: Vec::new(),
        writers: BTreeMap::new(),
        bidi_next: 0,
        awaiting_ready: None,
        asked_at: BTreeMap::new(),
        queued_bytes: 0,
        lagging_count: 0,
        timer_at: None,
    };
    let mut accept = std::pin::pin!(connection.accept_bi());
    let mut closed = std::pin::pin!(connection.closed());
    let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    std::future::poll_fn(|cx| {
        if closed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        for _ in 0..ROUNDS_MAX {
            // Streams are accepted only when they may be read: what waits costs the device, not us.
            let mut progress = false;
            while driver.session.wants_data(StreamId::Bidi(driver.bidi_next)) {
                match accept.as_mut().poll(cx) {
                    Poll::Ready(Ok((send, recv))) => {
                        driver.take_stream(send, recv);
                        accept.set(connection.accept_bi());
                        progress = true;
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            match driver.round(cx, timer.as_mut()) {
                Round::Progress => progress = true,
                Round::Idle => {}
                Round::Over => return Poll::Ready(()),
            }
            if !progress {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

enum Round {
    Progress,
    Idle,
    Over,
}

struct Reader {
    id: StreamId,
    recv: RecvStream,
}

struct Writer {
    send: SendStream,
    pending: Bytes,
    finish: bool,
}

struct Driver {
    session: Session,
    session_id: u64,
    connection: Connection,
    hub: Arc<Hub>,
    verifier: Arc<Verifier>,
    mailbox: Arc<Mailbox>,
    letters: Vec<Letter>,
    readers: Vec<Reader>,
    writers: BTreeMap<StreamId, Writer>,
    bidi_next: u64,
    /// Verified, but no logic node has said the generation yet.
    awaiting_ready: Option<(Verified, DeviceId, String)>,
    asked_at: BTreeMap<RequestId, Instant>,
    queued_bytes: i64,
    lagging_count: u64,
    timer_at: Option<Instant>,
}

impl Driver {
    fn take_stream(&mut self, send: SendStream, recv: RecvStream) {
        let id = StreamId::Bidi(self.bidi_next);
        self.bidi_next += 1;
        self.readers.push(Reader { id, recv });
        self.writers.insert(id, Writer { send, pending: Bytes::new(), finish: false });
    }

    /// Everything in, everything out.
    fn round(&mut self, cx: &mut Context<'_>, timer: Pin<&mut Sleep>) -> Round {
        let now = Instant::now();
        let mut progress = self.read_mailbox(cx, now);
        progress |= self.read_streams(cx, now);
        progress |= self.poll_timer(cx, now, timer);
        let close = self.take_events(now);
        let wrote = self.write_streams(cx, now);
        self.count();
        if let Some((code, reason)) = close {
            debug!(code, %reason, "connection closed");
            self.hub.metrics.closed.get_or_create(&CodeLabel { code }).inc();
            self.connection.close(VarInt::from_u32(code), reason.as_bytes());
            return Round::Over;
        }
        if progress || wrote { Round::Progress } else { Round::Idle }
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
            }
        }
        self.letters = letters;
        any
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

    fn read_streams(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut any = false;
        let mut buffer = [0; READ_BYTES];
        let (session, metrics) = (&mut self.session, &self.hub.metrics);
        self.readers.retain_mut(|Reader { id, recv }| {
            while session.wants_data(*id) {
                let Poll::Ready(read) = recv.poll_read(cx, &mut buffer) else { return true };
                any = true;
                match read {
                    Ok(0) => {
                        session.handle_stream_end(now, *id);
                        return false;
                    }
                    Ok(count) => {
                        metrics.received_bytes.inc_by(count as u64);
                        session.handle_stream_data(now, *id, &buffer[..count]);
                    }
                    Err(ReadError::Reset(_)) => {
                        session.handle_stream_reset(*id);
                        return false;
                    }
                    // The connection is gone: so is the driver, at its next turn.
                    Err(_) => return false,
                }
            }
            true
        });
        any
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
                        SessionEvent::Authenticate { .. } | SessionEvent::Close { .. } => {}
                    }
                }
            });
        }
        close
    }

    fn authenticate(&mut self, now: Instant, token: String, device: DeviceId) {
        match self.verifier.verify(&token) {
            Ok(verified) => {
                chaos::hit(Point::GatewayHello);
                self.awaiting_ready = Some((verified.of_device(device.as_str()), device, token));
                self.admit(now);
            }
            Err(refusal) => self.refuse(now, refusal),
        }
    }

    fn refuse(&mut self, now: Instant, refusal: Refusal) {
        self.session.handle_verdict(now, Err(refusal));
    }

    /// Admits a verified device, once the generation is known.
    fn admit(&mut self, now: Instant) {
        let (hub, session_id) = (self.hub.clone(), self.session_id);
        let Some(generation) = hub.with_router(|router| router.generation()) else { return };
        let Some((verified, device, token)) = self.awaiting_ready.take() else { return };
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let life = Duration::from_secs(verified.expires_at_s).saturating_sub(wall).min(TOKEN_LIFE_MAX);
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
            router.open_session(session_id, admission.tenant, &admission.user, device, token);
        });
        self.session.handle_verdict(now, Ok(admission));
    }

    fn write_streams(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut any = false;
        let blocked: Vec<_> = self.writers.iter().filter(|(_, writer)| writer.is_busy()).map(|(id, _)| *id).collect();
        for id in blocked {
            any |= self.write(cx, id);
        }
        while let Some(Transmit { stream, bytes, finish }) = self.session.poll_transmit(now) {
            if let StreamId::Inbox(_) = stream
                && !self.writers.contains_key(&stream)
                && !self.open_inbox(cx, stream)
            {
                continue;
            }
            let Some(writer) = self.writers.get_mut(&stream) else { continue };
            writer.pending = bytes;
            writer.finish = finish;
            any = true;
            self.write(cx, stream);
        }
        any
    }

    /// The inbox stream opens with its first bytes. A device that allows no streams does not want pushes.
    fn open_inbox(&mut self, cx: &mut Context<'_>, id: StreamId) -> bool {
        let open = std::pin::pin!(self.connection.open_uni());
        match open.poll(cx) {
            Poll::Ready(Ok(send)) => {
                self.writers.insert(id, Writer { send, pending: Bytes::new(), finish: false });
                true
            }
            Poll::Ready(Err(_)) | Poll::Pending => {
                self.session.handle_stream_reset(id);
                false
            }
        }
    }

    /// Writes what is pending of a stream; tells the session whether it takes more.
    fn write(&mut self, cx: &mut Context<'_>, id: StreamId) -> bool {
        let Some(writer) = self.writers.get_mut(&id) else { return false };
        let mut any = false;
        while !writer.pending.is_empty() {
            match Pin::new(&mut writer.send).poll_write(cx, &writer.pending) {
                Poll::Ready(Ok(count)) => {
                    self.hub.metrics.sent_bytes.inc_by(count as u64);
                    writer.pending.advance(count);
                    any = true;
                }
                Poll::Ready(Err(WriteError::Stopped(_))) => {
                    self.drop_stream(id);
                    self.session.handle_stream_reset(id);
                    return true;
                }
                // The connection is gone: so is the driver, at its next turn.
                Poll::Ready(Err(_)) => {
                    self.drop_stream(id);
                    return true;
                }
                Poll::Pending => {
                    self.session.handle_blocked(id);
                    return any;
                }
            }
        }
        if writer.finish {
            let _ = writer.send.finish();
            self.drop_stream(id);
        } else {
            self.session.handle_writable(id);
        }
        any
    }

    fn drop_stream(&mut self, id: StreamId) {
        self.writers.remove(&id);
        self.readers.retain(|reader| reader.id != id);
    }

    fn count(&mut self) {
        let metrics = &self.hub.metrics;
        let lagging = self.session.lagging_count();
        metrics.lagging.inc_by(lagging - self.lagging_count);
        self.lagging_count = lagging;
        let pending: usize = self.writers.values().map(|writer| writer.pending.len()).sum();
        let queued = i64::try_from(self.session.queued_bytes() + pending).unwrap_or(i64::MAX);
        metrics.queued_bytes.inc_by(queued - self.queued_bytes);
        self.queued_bytes = queued;
    }
}

impl Writer {
    fn is_busy(&self) -> bool {
        !self.pending.is_empty()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.hub.metrics.queued_bytes.dec_by(self.queued_bytes);
        self.hub.leave(self.session_id);
    }
}
