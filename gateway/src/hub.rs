//! Hub: the router behind one lock, and the doors to what it speaks to: mailboxes of sessions, outboxes of links.
//!
//! The lock is held for a handful of map operations, never across I/O or an await. Drivers and links call
//! [`Hub::with_router`]; whatever the router wants done is handed on before the lock is released, so that frames
//! leave in the order in which the router decided.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use seriatim_gateway_core::{LinkId, Router, RouterEffect, RouterLimits};
use seriatim_proto::operator::SessionFilter;
use tokio::sync::watch;

use crate::mailbox::{Letter, Mailbox};
use crate::metrics::{Metrics, Transport, TransportLabel};
use crate::outbox::Outbox;
use crate::roster::Roster;

/// Connections whose round-trip time is noted at once.
const RTT_SAMPLES: usize = 256;

struct State {
    router: Router,
    mailboxes: HashMap<u64, Arc<Mailbox>>,
    outboxes: HashMap<LinkId, Arc<Outbox>>,
    /// Set while the gateway goes down or is drained: when the devices must be gone.
    drained_at: Option<Instant>,
}

pub(crate) struct Hub {
    state: Mutex<State>,
    /// Addresses of logic nodes that should be linked, besides the configured ones.
    nodes: watch::Sender<Vec<String>>,
    session_last: AtomicU64,
    link_last: AtomicU64,
    /// Nobody new is taken.
    draining: AtomicBool,
    pub(crate) roster: Roster,
    pub(crate) metrics: Metrics,
}

impl Hub {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let router = Router::new(RouterLimits::default());
        Self {
            state: Mutex::new(State { router, mailboxes: HashMap::new(), outboxes: HashMap::new(), drained_at: None }),
            nodes: watch::Sender::new(Vec::new()),
            session_last: AtomicU64::new(0),
            link_last: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            roster: Roster::new(),
            metrics,
        }
    }

    /// Asks the router something, and does what it wants done.
    pub(crate) fn with_router<R>(&self, ask: impl FnOnce(&mut Router) -> R) -> R {
        let mut state = self.state.lock();
        let answer = ask(&mut state.router);
        while let Some(effect) = state.router.poll_effect() {
            self.perform(&state, effect);
        }
        answer
    }

    fn perform(&self, state: &State, effect: RouterEffect) {
        match effect {
            RouterEffect::Send { link, frame } => {
                if let Some(outbox) = state.outboxes.get(&link) {
                    outbox.put(frame);
                }
            }
            RouterEffect::Session { session, event } => {
                if let Some(mailbox) = state.mailboxes.get(&session) {
                    mailbox.put(Letter::Router(event));
                }
            }
            RouterEffect::Nodes(addresses) => {
                self.nodes.send_if_modified(|nodes| {
                    let changed = *nodes != addresses;
                    *nodes = addresses;
                    changed
                });
            }
            RouterEffect::Ready => {
                for mailbox in state.mailboxes.values() {
                    mailbox.put(Letter::Ready);
                }
            }
        }
    }

    // ---- sessions ----

    /// A new connection: its session's number and its mailbox. One that comes while the gateway goes down is told so.
    pub(crate) fn enter(&self, transport: Transport) -> (u64, Arc<Mailbox>) {
        let session = self.session_last.fetch_add(1, Ordering::Relaxed) + 1;
        let mailbox = Arc::new(Mailbox::default());
        let mut state = self.state.lock();
        state.mailboxes.insert(session, mailbox.clone());
        if let Some(at) = state.drained_at {
            mailbox.put(Letter::Drain(at.saturating_duration_since(Instant::now())));
        }
        drop(state);
        self.metrics.connections.get_or_create(&TransportLabel { transport }).inc();
        (session, mailbox)
    }

    /// The connection is gone.
    pub(crate) fn leave(&self, session: u64, transport: Transport) {
        self.with_router(|router| router.close_session(session));
        self.state.lock().mailboxes.remove(&session);
        self.roster.leave(session);
        self.metrics.connections.get_or_create(&TransportLabel { transport }).dec();
    }

    /// Connections now.
    pub(crate) fn connections(&self) -> usize {
        self.state.lock().mailboxes.len()
    }

    /// Tells all devices to go elsewhere.
    pub(crate) fn drain(&self, drain: Duration) {
        self.draining.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.drained_at = Some(Instant::now() + drain);
        for mailbox in state.mailboxes.values() {
            mailbox.put(Letter::Drain(drain));
        }
    }

    /// Takes devices again. Those that were told to go still go.
    pub(crate) fn undrain(&self) {
        self.draining.store(false, Ordering::Relaxed);
        self.state.lock().drained_at = None;
    }

    /// Is nobody new taken? And how long may those stay that are here?
    pub(crate) fn draining(&self) -> (bool, Option<Duration>) {
        if !self.draining.load(Ordering::Relaxed) {
            return (false, None);
        }
        let at = self.state.lock().drained_at;
        (true, at.and_then(|at| at.checked_duration_since(Instant::now())))
    }

    /// Notes the round-trip times of the next connections above `after`, and says above which to go on.
    pub(crate) fn sample_rtt(&self, after: u64) -> u64 {
        let everybody = SessionFilter::default();
        let (entries, next) = self.roster.page(after, RTT_SAMPLES, RTT_SAMPLES, &everybody);
        for entry in entries {
            if let Some(rtt) = entry.line.rtt() {
                let label = TransportLabel { transport: entry.transport };
                self.metrics.rtt_seconds.get_or_create(&label).observe(rtt.as_secs_f64());
            }
        }
        next.unwrap_or(0)
    }

    /// May devices be sent here?
    pub(crate) fn is_ready(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && self.metrics.links.get() > 0
    }

    // ---- links ----

    /// A new link, not yet up: its number, and the outbox that holds its `Hello`.
    pub(crate) fn begin_link(&self) -> (LinkId, Arc<Outbox>) {
        let link = LinkId(self.link_last.fetch_add(1, Ordering::Relaxed) + 1);
        let outbox = Arc::new(Outbox::default());
        let mut state = self.state.lock();
        outbox.put(state.router.hello());
        state.outboxes.insert(link, outbox.clone());
        (link, outbox)
    }

    /// The link is gone, whether it was up or not.
    pub(crate) fn end_link(&self, link: LinkId) {
        if let Some(outbox) = self.state.lock().outboxes.remove(&link) {
            outbox.close();
        }
        self.with_router(|router| router.handle_link_down(Instant::now(), link));
    }

    /// Which logic nodes should be linked; changes as they come and go.
    pub(crate) fn nodes(&self) -> watch::Receiver<Vec<String>> {
        self.nodes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    #[test]
    fn who_comes_during_a_drain_is_told_so_at_once() {
        let hub = Hub::new(Metrics::new(&mut Default::default()));
        let told = |mailbox: &Mailbox| {
            let mut letters = Vec::new();
            mailbox.take(Waker::noop(), &mut letters);
            letters.iter().find_map(|letter| match letter {
                Letter::Drain(drain) => Some(*drain),
                _ => None,
            })
        };
        let (_, early) = hub.enter(Transport::Quic);
        assert_eq!((told(&early), hub.draining()), (None, (false, None)));
        let drain = Duration::from_secs(1_000);
        hub.drain(drain);
        let (_, late) = hub.enter(Transport::WebSocket);
        assert_eq!(told(&early), Some(drain));
        let left = told(&late).unwrap();
        assert!(left <= drain && left > drain / 2, "{left:?}");
        assert!(hub.draining().0);
        hub.undrain();
        let (_, after) = hub.enter(Transport::Quic);
        assert_eq!((told(&after), hub.draining()), (None, (false, None)));
    }
}
