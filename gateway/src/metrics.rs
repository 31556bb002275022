//! Metrics of a gateway: names, units and labels.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// A way in.
#[expect(clippy::enum_variant_names, reason = "WebTransport is its name")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Transport {
    Quic,
    WebSocket,
    WebTransport,
}

/// Label of what each way in has.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct TransportLabel {
    pub(crate) transport: Transport,
}

/// Label of what ended: the way in and the close code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ClosedLabel {
    pub(crate) transport: Transport,
    /// as docs/protocol.md has them; on a WebSocket without the 4000
    pub(crate) code: u32,
}

/// Why somebody did not get as far as a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Why {
    /// too many of the address
    Address,
    /// no end of the handshake in time
    Deadline,
    /// the process has no more descriptors for TCP
    Descriptors,
    /// an operator sends all devices elsewhere
    Draining,
    /// too many sessions or handshakes
    Full,
    /// TLS, or what comes behind it, went wrong
    Handshake,
    /// a request that is not for us, or not as it should be
    Request,
}

/// Label of who was turned away.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RefusedLabel {
    pub(crate) transport: Transport,
    pub(crate) why: Why,
}

/// Label of a token or client certificate that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    /// as `TokenError::reason` and `CertificateError::reason` have them
    pub(crate) reason: &'static str,
}

/// By what a device was admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum By {
    Certificate,
    Token,
}

/// Label of an admitted session.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByLabel {
    pub(crate) by: By,
}

/// What a Renew came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(crate) enum Outcome {
    /// the session lives on by the new token
    Renewed,
    /// the token is no good: `tokens_refused` says why
    Refused,
    /// the token is of another user or tenant
    OtherUser,
}

/// Label of a Renew.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    pub(crate) outcome: Outcome,
}

/// Label of a certificate that an operator had read anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReloadLabel {
    /// `yes` or `no`
    pub(crate) taken: &'static str,
}

/// Bytes of one connection, counted for its way in too.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    all: Counter,
    own: Arc<AtomicU64>,
}

impl Tally {
    pub(crate) fn inc_by(&self, bytes: u64) {
        self.all.inc_by(bytes);
        self.own.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Of this connection.
    pub(crate) fn own(&self) -> u64 {
        self.own.load(Ordering::Relaxed)
    }
}

/// Bytes of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) received: Tally,
    pub(crate) sent: Tally,
}

#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) connections: Family<TransportLabel, Gauge>,
    pub(crate) connections_accepted: Family<TransportLabel, Counter>,
    pub(crate) handshakes_refused: Family<RefusedLabel, Counter>,
    pub(crate) handshake_seconds: Family<TransportLabel, Histogram, fn() -> Histogram>,
    pub(crate) rtt_seconds: Family<TransportLabel, Histogram, fn() -> Histogram>,
    pub(crate) closed: Family<ClosedLabel, Counter>,
    pub(crate) received_bytes: Family<TransportLabel, Counter>,
    pub(crate) sent_bytes: Family<TransportLabel, Counter>,
    pub(crate) calls: Counter,
    pub(crate) calls_refused: Counter,
    pub(crate) call_seconds: Histogram,
    pub(crate) pushes: Counter,
    pub(crate) lagging: Counter,
    pub(crate) queued_bytes: Gauge,
    pub(crate) links: Gauge,
    pub(crate) certificates_refused: Counter,
    pub(crate) certificate_end_s: Gauge,
    pub(crate) tcp_connections_max: Gauge,
    pub(crate) tokens_refused: Family<ReasonLabel, Counter>,
    pub(crate) client_certificates_refused: Family<ReasonLabel, Counter>,
    pub(crate) admitted: Family<ByLabel, Counter>,
    pub(crate) renewals: Family<OutcomeLabel, Counter>,
    pub(crate) kicks: Counter,
    pub(crate) drains: Counter,
    pub(crate) certificate_reloads: Family<ReloadLabel, Counter>,
}

impl Metrics {
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            connections: Family::default(),
            connections_accepted: Family::default(),
            handshakes_refused: Family::default(),
            handshake_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_5, 2.0, 16))),
            rtt_seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_1, 2.0, 16))),
            closed: Family::default(),
            received_bytes: Family::default(),
            sent_bytes: Family::default(),
            calls: Counter::default(),
            calls_refused: Counter::default(),
            call_seconds: Histogram::new(exponential_buckets(0.000_5, 2.0, 16)),
            pushes: Counter::default(),
            lagging: Counter::default(),
            queued_bytes: Gauge::default(),
            links: Gauge::default(),
            certificates_refused: Counter::default(),
            certificate_end_s: Gauge::default(),
            tcp_connections_max: Gauge::default(),
            tokens_refused: Family::default(),
            client_certificates_refused: Family::default(),
            admitted: Family::default(),
            renewals: Family::default(),
            kicks: Counter::default(),
            drains: Counter::default(),
            certificate_reloads: Family::default(),
        };
        metrics.describe(registry);
        metrics
    }

    /// The bytes of a new connection of a way in.
    pub(crate) fn traffic(&self, transport: Transport) -> Traffic {
        let label = TransportLabel { transport };
        Traffic {
            received: Tally { all: self.received_bytes.get_or_create(&label).clone(), own: Arc::default() },
            sent: Tally { all: self.sent_bytes.get_or_create(&label).clone(), own: Arc::default() },
        }
    }

    /// Somebody was turned away.
    pub(crate) fn refused(&self, transport: Transport, why: Why) {
        self.handshakes_refused.get_or_create(&RefusedLabel { transport, why }).inc();
    }

    fn describe(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("gateway");
        registry.register("connections", "Connections of devices, by way in", self.connections.clone());
        registry.register("connections_accepted", "Handshakes that ended well", self.connections_accepted.clone());
        registry.register(
            "handshakes_refused",
            "Turned away before a session, by reason",
            self.handshakes_refused.clone(),
        );
        registry.register(
            "handshake_seconds",
            "Time from the first byte to a connection that is ready for Hello",
            self.handshake_seconds.clone(),
        );
        registry.register(
            "rtt_seconds",
            "Round-trip times over QUIC and WebTransport, of up to 256 connections a second in turn",
            self.rtt_seconds.clone(),
        );
        registry.register("closed", "Connections closed by the gateway, by way in and close code", self.closed.clone());
        registry.register("received_bytes", "Stream bytes from devices", self.received_bytes.clone());
        registry.register("sent_bytes", "Stream bytes to devices", self.sent_bytes.clone());
        registry.register("calls", "Calls of sessions", self.calls.clone());
        registry.register("calls_refused", "Calls answered with an error", self.calls_refused.clone());
        registry.register("call_seconds", "Time of a call, retries included", self.call_seconds.clone());
        registry.register("pushes", "Entries pushed to sessions", self.pushes.clone());
        registry.register("lagging", "Times that a device was told to sync", self.lagging.clone());
        registry.register("queued_bytes", "Bytes waiting for devices", self.queued_bytes.clone());
        registry.register(
            "certificates_refused",
            "Times that new certificate files could not be used",
            self.certificates_refused.clone(),
        );
        registry.register(
            "certificate_end_timestamp_seconds",
            "When the first certificate of the gateway's chain ends, in seconds since 1970",
            self.certificate_end_s.clone(),
        );
        registry.register(
            "tcp_connections_max",
            "TCP connections that the process has descriptors for",
            self.tcp_connections_max.clone(),
        );
        registry.register(
            "client_certificates_refused",
            "Client certificates refused, in the handshake or at Hello, by reason",
            self.client_certificates_refused.clone(),
        );
        registry.register("admitted", "Sessions admitted, by what the device showed", self.admitted.clone());
        registry.register("renewals", "Tokens shown by sessions under way, by outcome", self.renewals.clone());
        registry.register("tokens_refused", "Tokens refused, by reason", self.tokens_refused.clone());
        registry.register("kicks", "Sessions that operators ended", self.kicks.clone());
        registry.register("drains", "Times that an operator sent all devices elsewhere", self.drains.clone());
        registry.register(
            "certificate_reloads",
            "Times that an operator had the certificate read anew, by whether it was taken",
            self.certificate_reloads.clone(),
        );
        registry.register("links", "Links to logic nodes that are up", self.links.clone());
    }
}
