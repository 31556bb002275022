//! Pilot: the one task of a client: keeps a connection, brings requests out and answers in, repairs the subscription.
//!
//! ```text
//! Waiting ─ pause over ─▶ Dialing ─ Welcome ─▶ Up ─ connection lost ─▶ Waiting …
//!                             └─ refused for good ─▶ Dead: everything open ends
//! ```

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{Generation, Seq, TenantId, UserId};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{error_from_wire, v1};
use tokio::sync::oneshot;
use tokio::time::Sleep;
use tracing::{debug, info};

use crate::builder::Options;
use crate::entry::{Conversation, Entry, Identity, SyncPage};
use crate::error::ConnectError;
use crate::inbox::{Inbox, Need};
use crate::renewal::Renewal;
use crate::requests::{Requests, Way};
use crate::shared::{Shared, Wish};
use crate::wire::{self, DialError, Incoming, Wire};

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Dials with fresh tokens that are refused as expired, before the client gives up.
const EXPIRED_MAX: u32 = 3;
/// Time of a page for the subscription until it is asked for anew.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// The request id of every `Subscribe`; requests count up from 1.
const SUBSCRIBE_ID: u64 = u64::MAX;
/// The request id of every `Renew`.
const RENEW_ID: u64 = u64::MAX - 1;
const STREAM_PAUSE: Duration = Duration::from_millis(20);
/// Rounds of one wake-up before other tasks get their turn.
const ROUNDS_MAX: u32 = 16;

type Dialing = BoxFuture<'static, Result<(Wire, v1::Welcome), DialError>>;

enum Link {
    Waiting(Instant),
    Dialing(Dialing),
    Up(Wire),
    Dead,
}

struct Pilot {
    shared: Arc<Shared>,
    options: Arc<Options>,
    first: Option<oneshot::Sender<Result<(), ConnectError>>>,
    first_until: Instant,
    link: Link,
    attempt: usize,
    expired: u32,
    pause: Duration,
    /// When the connection that there is, or was, said Welcome.
    up_since: Option<Instant>,
    /// The gateway goes down, and there is another one.
    leaving: bool,
    renewal: Renewal,
    requests: Requests,
    inbox: Option<Inbox>,
    /// A `Subscribe` has no answer yet.
    subscribing: bool,
    subscription_id: u64,
    incoming: Vec<Incoming>,
}

/// Serves a client until its handles are gone.
pub(crate) async fn fly(shared: Arc<Shared>, options: Arc<Options>, first: oneshot::Sender<Result<(), ConnectError>>) {
    let now = Instant::now();
    let mut pilot = Pilot {
        first_until: now + options.connect_timeout,
        shared,
        options,
        first: Some(first),
        link: Link::Waiting(now),
        attempt: 0,
        expired: 0,
        pause: PAUSE_MIN,
        up_since: None,
        leaving: false,
        renewal: Renewal::new(),
        requests: Requests::default(),
        inbox: None,
        subscribing: false,
        subscription_id: 0,
        incoming: Vec::new(),
    };
    let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
    std::future::poll_fn(|cx| pilot.poll(cx, timer.as_mut())).await;
}

impl Pilot {
    fn poll(&mut self, cx: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<()> {
        for _ in 0..ROUNDS_MAX {
            let now = Instant::now();
            let wishes = self.shared.take(cx.waker());
            if self.shared.is_closed() {
                self.end(&Refusal::new(ErrorCode::Shutdown, "the client is closed"));
                return Poll::Ready(());
            }
            let mut progress = !wishes.is_empty();
            for wish in wishes {
                self.handle_wish(wish);
            }
            progress |= self.poll_link(cx, now);
            progress |= self.poll_renewal(cx, now);
            self.requests.handle_timeout(now);
            progress |= self.poll_inbox(cx, now);
            self.send(cx);
            progress |= self.poll_leave(now);
            if progress {
                continue;
            }
            let Some(at) = self.poll_timeout(now) else { return Poll::Pending };
            // A timer that goes off too early costs less than one that is set anew for every request.
            if timer.is_elapsed() || timer.deadline() > at.into() {
                timer.as_mut().reset(at.into());
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        let link = match self.link {
            Link::Waiting(until) => Some(until),
            // No stream to be had for a request: nobody says when there is one.
            Link::Up(_) if self.requests.has_ready() => Some(now + STREAM_PAUSE),
            Link::Dialing(_) | Link::Up(_) | Link::Dead => None,
        };
        let inbox = self.inbox.as_ref().and_then(Inbox::poll_timeout);
        [link, self.requests.poll_timeout(), self.renewal.poll_timeout(), inbox].into_iter().flatten().min()
    }

    fn handle_wish(&mut self, wish: Wish) {
        match wish {
            Wish::Request(request) => self.requests.add(*request),
            Wish::Subscribe(queue) => {
                if let Some(old) = self.inbox.replace(Inbox::new(queue)) {
                    old.replace();
                }
            }
        }
        if matches!(self.link, Link::Dead) {
            self.end(&Refusal::new(ErrorCode::Shutdown, "the gateway refused this client for good"));
        }
    }

    /// Nothing will be answered any more.
    fn end(&mut self, refusal: &Refusal) {
        self.link = Link::Dead;
        self.renewal.stop();
        self.requests.handle_end(refusal);
        if let Some(inbox) = &mut self.inbox {
            inbox.end(refusal);
        }
    }

    // ---- the link ----

    fn poll_link(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        match &mut self.link {
            Link::Waiting(until) if *until <= now => {
                let (options, attempt) = (self.options.clone(), self.attempt);
                self.attempt += 1;
                self.link = Link::Dialing(Box::pin(async move { wire::dial(&options, attempt).await }));
                true
            }
            Link::Waiting(_) | Link::Dead => false,
            Link::Dialing(dialing) => match dialing.as_mut().poll(cx) {
                Poll::Ready(Ok((wire, welcome))) => {
                    self.handle_welcome(now, wire, &welcome);
                    true
                }
                Poll::Ready(Err(error)) => {
                    self.handle_dial_error(now, error);
                    true
                }
                Poll::Pending => false,
            },
            Link::Up(wire) => {
                if let Poll::Ready(error) = wire.poll_closed(cx) {
                    debug!(?error, "connection lost");
                    self.handle_lost(now, error);
                    return true;
                }
                let mut incoming = std::mem::take(&mut self.incoming);
                let read = wire.poll_in(cx, &mut incoming);
                let any = !incoming.is_empty() || read.is_err();
                for one in incoming.drain(..) {
                    self.handle_incoming(now, one);
                }
                self.incoming = incoming;
                if let Err(wire::Broken(why)) = read {
                    debug!(why, "connection given up");
                    self.lose(now);
                }
                any
            }
        }
    }

    fn handle_welcome(&mut self, now: Instant, wire: Wire, welcome: &v1::Welcome) {
        if let Ok(user) = UserId::new(&welcome.user) {
            let generation = Generation(u16::try_from(welcome.generation).unwrap_or(u16::MAX));
            let identity = Identity { tenant: TenantId(welcome.tenant), user, generation };
            *self.shared.identity.lock() = Some(identity);
        }
        self.shared.count_connection();
        self.up_since = Some(now);
        self.expired = 0;
        self.subscribing = false;
        self.subscription_id = 0;
        self.leaving = false;
        self.renewal.begin(now, &self.options, welcome.expires_in_ms);
        self.link = Link::Up(wire);
        if let Some(first) = self.first.take() {
            // A caller that no longer waits drops its handle too.
            let _ = first.send(Ok(()));
        }
    }

    fn handle_dial_error(&mut self, now: Instant, error: DialError) {
        let text = match error {
            DialError::Fatal(error) => return self.die(error),
            // Whoever never came in is told; whoever was in waits for a new one, as long as one may come by itself.
            DialError::Ended(error) if self.first.is_some() || !self.options.endpoint.is_renewed() => {
                return self.die(error);
            }
            DialError::Ended(error) => error.to_string(),
            // The certificate's, which ended behind the handshake.
            DialError::Expired(refusal) if self.first.is_none() && self.options.certificate_renewed => {
                refusal.to_string()
            }
            DialError::Expired(refusal) => {
                self.expired += 1;
                if self.options.token_fixed || self.expired >= EXPIRED_MAX {
                    return self.die(ConnectError::Refused(refusal));
                }
                refusal.to_string()
            }
            DialError::Retry(text) => text,
        };
        debug!(error = %text, "dial failed");
        if self.first.is_some() && now >= self.first_until {
            return self.die(ConnectError::Timeout(text));
        }
        self.wait(now);
    }

    fn handle_lost(&mut self, now: Instant, error: DialError) {
        match error {
            // A fresh token may do; a fixed one fails at the dial.
            DialError::Retry(_) | DialError::Expired(_) | DialError::Ended(_) => self.lose(now),
            DialError::Fatal(error) => self.die(error),
        }
    }

    fn lose(&mut self, now: Instant) {
        self.renewal.stop();
        self.requests.handle_lost();
        if let Some(inbox) = &mut self.inbox {
            inbox.handle_lost();
        }
        self.wait(now);
    }

    /// Leaves a gateway that goes down once what is under way is answered: nothing is tried twice for it.
    fn poll_leave(&mut self, now: Instant) -> bool {
        let leaves = self.leaving && matches!(self.link, Link::Up(_)) && !self.requests.has_sent();
        if leaves {
            debug!("the gateway goes down: on to another one");
            self.lose(now);
        }
        leaves
    }

    /// A connection that was up for as long as the longest pause begins the pauses anew: a gateway that lets a device in
    /// and throws it out is not asked without end.
    fn wait(&mut self, now: Instant) {
        if self.up_since.take().is_some_and(|since| now.saturating_duration_since(since) >= PAUSE_MAX) {
            self.pause = PAUSE_MIN;
        }
        let pause = self.pause.mul_f64(rand::random_range(0.5..1.0));
        self.link = Link::Waiting(now + pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn die(&mut self, error: ConnectError) {
        info!(%error, "client refused for good");
        let refusal = match &error {
            ConnectError::Refused(refusal) => refusal.clone(),
            ConnectError::Setup(_)
            | ConnectError::Missing(_)
            | ConnectError::Handshake(_)
            | ConnectError::Timeout(_) => Refusal::new(ErrorCode::Unavailable, error.to_string()),
        };
        self.end(&refusal);
        if let Some(first) = self.first.take() {
            let _ = first.send(Err(error));
        }
    }

    // ---- what comes in ----

    fn handle_incoming(&mut self, now: Instant, incoming: Incoming) {
        match incoming {
            Incoming::Said { request_id: SUBSCRIBE_ID, body } => {
                self.subscribing = false;
                match (body, &mut self.inbox) {
                    (Said::Subscribed(subscribed), _) => self.subscription_id = subscribed.subscription_id,
                    (Said::Error(error), Some(inbox)) => {
                        inbox.handle_subscribe_refused(now, &error_from_wire(&error), error.retry);
                    }
                    _ => {}
                }
            }
            Incoming::Said { request_id: RENEW_ID, body } => self.renewal.handle_answer(now, &self.options, &body),
            Incoming::Said { request_id: 0, body: Said::GoAway(_) } => self.leaving = self.options.addresses.len() > 1,
            // Why the connection ends is in its close code.
            Incoming::Said { request_id: 0, .. } => {}
            Incoming::Said { request_id, body } => self.requests.handle_answer(now, request_id, body),
            Incoming::CallBroken { request_id } => self.requests.handle_broken(now, request_id),
            Incoming::Inbox { body } => self.handle_inbox_frame(body),
            Incoming::InboxEnd { subscription_id } => {
                let replaced = self.subscribing || subscription_id < self.subscription_id;
                if let Some(inbox) = self.inbox.as_mut().filter(|_| !replaced) {
                    inbox.handle_stream_end();
                }
            }
        }
        while let Some(repair) = self.requests.next_repair() {
            let Some(inbox) = &mut self.inbox else { continue };
            match repair.map(SyncPage::from_wire) {
                Ok(Ok(page)) => {
                    self.shared.saw(places(&page.entries));
                    inbox.handle_page(page);
                }
                Ok(Err(error)) => inbox.end(&Refusal::new(ErrorCode::Malformed, error.to_string())),
                Err(refusal) => inbox.handle_page_refused(now, &refusal),
            }
        }
    }

    fn handle_inbox_frame(&mut self, body: Said) {
        let Some(inbox) = &mut self.inbox else { return };
        match body {
            Said::Deliver(deliver) => {
                let entries: Result<Vec<_>, _> = deliver.entries.into_iter().map(Entry::from_wire).collect();
                match entries {
                    Ok(entries) => {
                        self.shared.saw(places(&entries));
                        inbox.handle_entries(entries);
                    }
                    Err(error) => inbox.end(&Refusal::new(ErrorCode::Malformed, error.to_string())),
                }
            }
            Said::Lagging(lagging) => {
                if let Some(upto) = Seq::new(lagging.upto) {
                    inbox.handle_lagging(upto);
                }
            }
            Said::Error(error) => inbox.end(&error_from_wire(&error)),
            _ => {}
        }
    }

    // ---- what goes out ----

    fn poll_inbox(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut any = false;
        if let Some(inbox) = &mut self.inbox {
            inbox.handle_timeout(now);
        }
        loop {
            // Behind or over: what the stream would still bring is not wanted.
            if let (Some(inbox), Link::Up(wire)) = (&self.inbox, &mut self.link)
                && !inbox.is_live()
                && let Some(subscription_id) = wire.subscription_id()
            {
                wire.drop_inboxes();
                let body = Asked::Unsubscribe(v1::Unsubscribe { subscription_id });
                wire.put(cx, Way::Control, &wire::frame(0, body));
            }
            let Some(inbox) = &mut self.inbox else { return any };
            let connected = matches!(self.link, Link::Up(_)) && !self.leaving;
            let pushed = matches!(&self.link, Link::Up(wire) if wire.subscription_id().is_some());
            let Some(need) = inbox.need(connected, pushed) else { return any };
            any = true;
            match need {
                Need::Page { from } => self.requests.add_repair(from, now + REPAIR_TIMEOUT),
                Need::Subscribe { from, cursor, credit } => {
                    self.subscribing = true;
                    let cursor = cursor.map_or(0, Seq::get);
                    let body = Asked::Subscribe(v1::Subscribe { from: from.get(), cursor, credit });
                    self.put_control(cx, SUBSCRIBE_ID, body);
                }
                Need::Credit { entries } => {
                    if let Link::Up(wire) = &self.link
                        && let Some(subscription_id) = wire.subscription_id()
                    {
                        let body = Asked::Credit(v1::Credit { subscription_id, entries });
                        self.put_control(cx, 0, body);
                    }
                }
                Need::Unsubscribe => {}
            }
        }
    }

    /// Shows a fresh token when it is time.
    fn poll_renewal(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let Some(token) = self.renewal.poll(cx, now, &self.options) else { return false };
        self.put_control(cx, RENEW_ID, Asked::Renew(v1::Renew { token }));
        true
    }

    fn put_control(&mut self, cx: &mut Context<'_>, request_id: u64, body: Asked) {
        if let Link::Up(wire) = &mut self.link {
            wire.put(cx, Way::Control, &wire::frame(request_id, body));
        }
    }

    fn send(&mut self, cx: &mut Context<'_>) {
        let Link::Up(wire) = &mut self.link else { return };
        // What is not under way yet is for the next gateway.
        if self.requests.has_ready() && !self.leaving {
            let (mut lane_full, mut calls_full) = (false, false);
            for id in self.requests.ready().collect::<Vec<_>>() {
                let Some((way, frame)) = self.requests.frame(id) else { continue };
                let full = match way {
                    Way::Control => false,
                    Way::Lane => lane_full,
                    Way::Call => calls_full,
                };
                if full {
                    continue;
                }
                if wire.put(cx, way, frame) {
                    self.requests.sent(id);
                } else {
                    lane_full |= way == Way::Lane;
                    calls_full |= way == Way::Call;
                }
            }
        }
        wire.poll_out(cx);
    }
}

/// Where in their conversations entries are.
pub(crate) fn places(entries: &[Entry]) -> impl Iterator<Item = (&Conversation, Seq)> {
    entries.iter().map(|entry| (&entry.conversation, entry.conversation_seq))
}
