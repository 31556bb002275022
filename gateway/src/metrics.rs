//! Metrics of a gateway: names, units and labels.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Label of what ended or was refused: the close code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CodeLabel {
    /// QUIC application close code
    pub(crate) code: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) connections_accepted: Counter,
    pub(crate) handshakes_refused: Counter,
    pub(crate) closed: Family<CodeLabel, Counter>,
    pub(crate) received_bytes: Counter,
    pub(crate) sent_bytes: Counter,
    pub(crate) calls: Counter,
    pub(crate) calls_refused: Counter,
    pub(crate) call_seconds: Histogram,
    pub(crate) pushes: Counter,
    pub(crate) lagging: Counter,
    pub(crate) queued_bytes: Gauge,
    pub(crate) links: Gauge,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            connections: Gauge::default(),
            connections_accepted: Counter::default(),
            handshakes_refused: Counter::default(),
            closed: Family::default(),
            received_bytes: Counter::default(),
            sent_bytes: Counter::default(),
            calls: Counter::default(),
            calls_refused: Counter::default(),
            call_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            pushes: Counter::default(),
            lagging: Counter::default(),
            queued_bytes: Gauge::default(),
            links: Gauge::default(),
        };
        metrics.describe(registry);
        metrics
    }

    fn describe(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register("connections", "Connections of devices", self.connections.clone());
        registry.register("connections_accepted", "Handshakes begun", self.connections_accepted.clone());
        registry.register("handshakes_refused", "Handshakes refused at a bound", self.handshakes_refused.clone());
        registry.register("closed", "Connections closed by the gateway, by close code", self.closed.clone());
        registry.register("received_bytes", "Stream bytes from devices", self.received_bytes.clone());
        registry.register("sent_bytes", "Stream bytes to devices", self.sent_bytes.clone());
        registry.register("calls", "Calls of sessions", self.calls.clone());
        registry.register("calls_refused", "Calls answered with an error", self.calls_refused.clone());
        registry.register("call_seconds", "Time of a call, retries included", self.call_seconds.clone());
        registry.register("pushes", "Entries pushed to sessions", self.pushes.clone());
        registry.register("lagging", "Times that a device was told to sync", self.lagging.clone());
        registry.register("queued_bytes", "Bytes waiting for devices", self.queued_bytes.clone());
        registry.register("links", "Links to logic nodes that are up", self.links.clone());
    }
}
