//! Metrics of a logic node: names, units and labels, nowhere else.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::logic::CallError;

/// A code of the one table of errors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CodeLabel {
    code: &'static str,
}

/// Everything that a logic node counts. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) slots_held: Gauge,
    pub(crate) claims: Counter,
    pub(crate) releases: Counter,
    pub(crate) fenced: Counter,
    pub(crate) alarms: Counter,
    pub(crate) leases_lost: Counter,
    pub(crate) renewals: Counter,
    pub(crate) committed: Counter,
    pub(crate) propose_seconds: Histogram,
    pub(crate) entry_commands: Histogram,
    pub(crate) proposals_failed: Counter,
    pub(crate) read_seconds: Histogram,
    pub(crate) deliveries: Counter,
    pub(crate) deliveries_failed: Counter,
    pub(crate) delivery_seconds: Histogram,
    pub(crate) pushes: Counter,
    pub(crate) pushes_dropped: Counter,
    pub(crate) lagging: Counter,
    pub(crate) syncs: Counter,
    pub(crate) bodies_missing: Counter,
    pub(crate) sessions: Gauge,
    pub(crate) gateways: Gauge,
    refusals: Family<CodeLabel, Counter>,
}

impl Metrics {
    /// Registers all of them under `logic_`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let times = || Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        let metrics = Self {
            slots_held: Gauge::default(),
            claims: Counter::default(),
            releases: Counter::default(),
            fenced: Counter::default(),
            alarms: Counter::default(),
            leases_lost: Counter::default(),
            renewals: Counter::default(),
            committed: Counter::default(),
            propose_seconds: times(),
            entry_commands: Histogram::new(exponential_buckets(1.0, 2.0, 13)),
            proposals_failed: Counter::default(),
            read_seconds: times(),
            deliveries: Counter::default(),
            deliveries_failed: Counter::default(),
            delivery_seconds: times(),
            pushes: Counter::default(),
            pushes_dropped: Counter::default(),
            lagging: Counter::default(),
            syncs: Counter::default(),
            bodies_missing: Counter::default(),
            sessions: Gauge::default(),
            gateways: Gauge::default(),
            refusals: Family::default(),
        };
        metrics.describe(registry.sub_registry_with_prefix("logic"));
        metrics
    }

    fn describe(&self, registry: &mut Registry) {
        registry.register("slots_held", "Slots held", self.slots_held.clone());
        registry.register("claims", "Slots claimed", self.claims.clone());
        registry.register("releases", "Slots given back", self.releases.clone());
        registry.register("fenced", "Slots lost to another epoch or with a lease", self.fenced.clone());
        registry.register("alarms", "Things that no correct cluster does", self.alarms.clone());
        registry.register("leases_lost", "Leases that ended without our wish", self.leases_lost.clone());
        registry.register("renewals", "Lease renewals noted by stores", self.renewals.clone());
        registry.register("committed", "Sends answered as committed", self.committed.clone());
        let (propose, read) = (self.propose_seconds.clone(), self.read_seconds.clone());
        registry.register_with_unit("propose", "From proposing an entry to its outcomes", Unit::Seconds, propose);
        registry.register("entry_commands", "Commands of one proposed entry", self.entry_commands.clone());
        registry.register("proposals_failed", "Entries without outcomes", self.proposals_failed.clone());
        registry.register_with_unit("read", "From asking a store to its answer", Unit::Seconds, read);
        registry.register("deliveries", "Ranges delivered to slots", self.deliveries.clone());
        registry.register("deliveries_failed", "Batches of deliveries without an answer", self.deliveries_failed.clone());
        let delivery = self.delivery_seconds.clone();
        registry.register_with_unit("delivery", "From sending deliveries to their answer", Unit::Seconds, delivery);
        registry.register("pushes", "Entries pushed to gateways", self.pushes.clone());
        registry.register("pushes_dropped", "Pushes dropped because a gateway was too slow", self.pushes_dropped.clone());
        registry.register("lagging", "Sessions told that they lag", self.lagging.clone());
        registry.register("syncs", "Syncs served", self.syncs.clone());
        registry.register("bodies_missing", "Bodies that should be there and are not", self.bodies_missing.clone());
        registry.register("sessions", "Sessions open on all streams", self.sessions.clone());
        registry.register("gateways", "Streams of gateways", self.gateways.clone());
        registry.register("refusals", "Calls refused, by code", self.refusals.clone());
    }

    /// Counts a call's no.
    pub(crate) fn refused(&self, error: &CallError) {
        let code = match error {
            CallError::NotHolder { .. } => ErrorCode::NotHolder,
            CallError::Refused(refusal) => refusal.code,
        };
        self.refusals.get_or_create(&CodeLabel { code: code.name() }).inc();
    }
}
