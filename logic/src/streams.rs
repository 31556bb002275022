//! Streams: the outgoing queues of all gateways that are connected.
//!
//! Bounded. A push that does not fit is dropped: the device sees the gap, or is told so when its registration is
//! renewed. Anything else that does not fit ends the stream: the gateway connects again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use seriatim_proto::logic::GatewayResponse;
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// Frames that wait for one gateway, and up to where pushes may fill the queue.
pub(crate) const STREAM_FRAMES: usize = 65_536;
const PUSH_FRAMES: usize = STREAM_FRAMES / 2;

#[derive(Debug)]
pub(crate) struct Streams {
    queues: RwLock<HashMap<u64, mpsc::Sender<GatewayResponse>>>,
    next: AtomicU64,
    metrics: Metrics,
}

impl Streams {
    /// None yet.
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self { queues: RwLock::default(), next: AtomicU64::new(1), metrics }
    }

    /// Adds a stream; its number is never 0 and never reused.
    pub(crate) fn open(&self, queue: mpsc::Sender<GatewayResponse>) -> u64 {
        let stream = self.next.fetch_add(1, Ordering::Relaxed);
        self.queues.write().insert(stream, queue);
        self.metrics.gateways.inc();
        stream
    }

    /// Removes a stream.
    pub(crate) fn close(&self, stream: u64) {
        if self.queues.write().remove(&stream).is_some() {
            self.metrics.gateways.dec();
        }
    }

    /// Removes all streams: gateways connect again.
    pub(crate) fn close_all(&self) {
        let count = self.queues.write().drain().count();
        self.metrics.gateways.dec_by(i64::try_from(count).unwrap_or(0));
    }

    /// Is it still open?
    pub(crate) fn is_open(&self, stream: u64) -> bool {
        self.queues.read().contains_key(&stream)
    }

    /// Sends one frame, or ends the stream.
    pub(crate) fn send(&self, stream: u64, response: GatewayResponse) {
        let full = match self.queues.read().get(&stream) {
            Some(queue) => queue.try_send(response).is_err(),
            None => false,
        };
        if full {
            self.close(stream);
        }
    }

    /// Sends a push, or drops it.
    pub(crate) fn push(&self, stream: u64, push: GatewayResponse, entries: u64) {
        let queues = self.queues.read();
        let Some(queue) = queues.get(&stream) else { return };
        if queue.capacity() > STREAM_FRAMES - PUSH_FRAMES && queue.try_send(push).is_ok() {
            self.metrics.pushes.inc_by(entries);
        } else {
            self.metrics.pushes_dropped.inc_by(entries);
        }
    }

    /// Sends one frame to all.
    pub(crate) fn broadcast(&self, response: &GatewayResponse) {
        let full: Vec<u64> = {
            let queues = self.queues.read();
            queues.iter().filter(|(_, queue)| queue.try_send(response.clone()).is_err()).map(|(id, _)| *id).collect()
        };
        full.into_iter().for_each(|stream| self.close(stream));
    }
}
