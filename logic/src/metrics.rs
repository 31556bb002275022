//! Metrics of a logic node: names, units and what they count, nowhere else.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

macro_rules! metrics {
    ($($kind:ident $name:ident $help:literal;)*) => {
        /// All of them; clones share the numbers.
        #[derive(Clone, Debug)]
        pub(crate) struct Metrics {
            $(pub(crate) $name: $kind,)*
            /// from a batch's sending to its outcomes
            pub(crate) proposal_seconds: Histogram,
        }

        impl Metrics {
            pub(crate) fn register(registry: &mut Registry) -> Self {
                let proposal_seconds = Histogram::new(exponential_buckets(0.000_5, 2.0, 14));
                let metrics = Self { $($name: $kind::default(),)* proposal_seconds };
                let sub = registry.sub_registry_with_prefix("logic");
                $(sub.register(stringify!($name), $help, metrics.$name.clone());)*
                let help = "Seconds from a batch's sending to its outcomes";
                sub.register("proposal_seconds", help, metrics.proposal_seconds.clone());
                metrics
            }
        }
    };
}

metrics! {
    Gauge slots_held "Slots that this node holds";
    Counter claims "Claims that were applied for this node";
    Counter holders_ended "Holders that were fenced or released";
    Counter leases_lost "Leases that a store had ended";
    Counter renewals "Leases renewed";
    Counter proposals "Batches proposed";
    Counter commands "Commands proposed";
    Counter proposals_failed "Batches without an outcome";
    Counter replies "Calls answered";
    Counter refusals "Calls refused";
    Counter delivery_batches "Delivery batches sent to slots";
    Counter deliveries_unanswered "Delivery batches without an answer";
    Counter pushed_entries "Entries pushed to sessions";
    Counter reads "Reads sent to stores";
    Counter syncs "Sync pages served";
    Counter streams_dropped "Gateway streams ended because they did not keep up";
    Counter alarms "Things that no correct cluster does";
}
