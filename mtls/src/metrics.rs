//! Metrics of TLS between our own processes.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::files::Current;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    /// `New`, `Same`, `Refused`
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    /// `Plaintext`, `Handshake`, `Late`, `Unnamed`, `Role`, `Crowded`
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dial {
    role: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    door: &'static str,
    role: &'static str,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    end_s: Gauge,
    cas: Gauge,
    ca_end_s: Gauge,
    reads: Family<Outcome, Counter>,
    connections_refused: Family<Reason, Counter>,
    dials_refused: Family<Dial, Counter>,
    calls_refused: Family<Call, Counter>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "When this process's certificate for the others ends, in seconds since 1970";
        registry.register("tls_certificate_end_timestamp_seconds", help, metrics.end_s.clone());
        registry.register("tls_cas", "CAs whose certificates are taken now", metrics.cas.clone());
        let help = "When the first of the CAs of the others ends, in seconds since 1970";
        registry.register("tls_ca_end_timestamp_seconds", help, metrics.ca_end_s.clone());
        registry.register("tls_reads", "Looks at the certificate's files, by outcome", metrics.reads.clone());
        let help = "Connections of others that were refused before they asked anything, by reason";
        registry.register("tls_connections_refused", help, metrics.connections_refused.clone());
        let help = "Connections to others that failed over a certificate, by the role that was dialled";
        registry.register("tls_dials_refused", help, metrics.dials_refused.clone());
        let help = "Calls at a door that is not for the caller's role";
        registry.register("tls_calls_refused", help, metrics.calls_refused.clone());
        metrics
    }

    pub(crate) fn took(&self, current: &Current) {
        self.end_s.set(current.end_s);
        self.cas.set(i64::try_from(current.cas).unwrap_or(i64::MAX));
        self.ca_end_s.set(current.ca_end_s);
    }

    pub(crate) fn read(&self, outcome: &'static str) {
        self.reads.get_or_create(&Outcome { outcome }).inc();
    }

    pub(crate) fn refuse_connection(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&Reason { reason }).inc();
    }

    pub(crate) fn refuse_dial(&self, role: &'static str) {
        self.dials_refused.get_or_create(&Dial { role }).inc();
    }

    pub(crate) fn refuse_call(&self, door: &'static str, role: &'static str) {
        self.calls_refused.get_or_create(&Call { door, role }).inc();
    }
}
