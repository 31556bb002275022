//! Metrics of a logic node: names, units and what they count, nowhere else.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use seriatim_proto::certificate::CertificateError;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::logic::CallError;
use seriatim_proto::meta::Limit;
use seriatim_proto::token::TokenError;

/// A code of the one table of errors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CodeLabel {
    code: &'static str,
}

/// A limit of tenants and users.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct LimitLabel {
    limit: &'static str,
}

/// Why a token or client certificate is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    reason: &'static str,
}

macro_rules! metrics {
    ($($kind:ident $name:ident $help:literal;)*) => {
        /// All of them; clones share the numbers.
        #[derive(Clone, Debug)]
        pub(crate) struct Metrics {
            $(pub(crate) $name: $kind,)*
            /// from a batch's sending to its outcomes
            pub(crate) proposal_seconds: Histogram,
            /// from sending deliveries to a peer to its answer
            pub(crate) delivery_seconds: Histogram,
            refusals: Family<CodeLabel, Counter>,
            over_quota: Family<LimitLabel, Counter>,
            tokens_refused: Family<ReasonLabel, Counter>,
            client_certificates_refused: Family<ReasonLabel, Counter>,
        }

        impl Metrics {
            pub(crate) fn register(registry: &mut Registry) -> Self {
                let times = || Histogram::new(exponential_buckets(0.000_5, 2.0, 14));
                let metrics = Self {
                    $($name: $kind::default(),)*
                    proposal_seconds: times(),
                    delivery_seconds: times(),
                    refusals: Family::default(),
                    over_quota: Family::default(),
                    tokens_refused: Family::default(),
                    client_certificates_refused: Family::default(),
                };
                let sub = registry.sub_registry_with_prefix("logic");
                $(sub.register(stringify!($name), $help, metrics.$name.clone());)*
                let (proposal, delivery) = (metrics.proposal_seconds.clone(), metrics.delivery_seconds.clone());
                sub.register_with_unit("proposal", "From a batch's sending to its outcomes", Unit::Seconds, proposal);
                let help = "From sending deliveries to a peer to its answer";
                sub.register_with_unit("delivery", help, Unit::Seconds, delivery);
                sub.register("refusals", "Calls refused, by code", metrics.refusals.clone());
                let help = "Calls refused because of a limit of a tenant or user, by limit";
                sub.register("over_quota", help, metrics.over_quota.clone());
                sub.register("tokens_refused", "Tokens refused, by reason", metrics.tokens_refused.clone());
                let help = "Client certificates refused, by reason";
                sub.register("client_certificates_refused", help, metrics.client_certificates_refused.clone());
                metrics
            }

            /// Counts calls beyond a limit.
            pub(crate) fn over_quota(&self, limit: Limit, calls: u64) {
                self.over_quota.get_or_create(&LimitLabel { limit: limit.name() }).inc_by(calls);
            }

            /// Counts a token that is not taken.
            pub(crate) fn token_refused(&self, error: TokenError) {
                self.tokens_refused.get_or_create(&ReasonLabel { reason: error.reason() }).inc();
            }

            /// Counts a client certificate that is not taken.
            pub(crate) fn client_certificate_refused(&self, error: CertificateError) {
                self.client_certificates_refused.get_or_create(&ReasonLabel { reason: error.reason() }).inc();
            }

            /// Counts a call's no.
            pub(crate) fn refused(&self, error: &CallError) {
                let code = match error {
                    CallError::NotHolder { .. } => ErrorCode::NotHolder,
                    CallError::Refused(refusal) => refusal.code,
                };
                self.refused_many(code, 1);
            }

            /// Counts calls that are refused together.
            pub(crate) fn refused_many(&self, code: ErrorCode, calls: u64) {
                self.refusals.get_or_create(&CodeLabel { code: code.name() }).inc_by(calls);
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
    Counter delivery_batches "Delivery batches sent to slots";
    Counter deliveries_unanswered "Delivery batches without an answer";
    Counter pushed_entries "Entries pushed to sessions";
    Counter pushes_dropped "Pushed entries that a slow gateway did not get";
    Counter bodies_missing "Bodies that should be there and are not";
    Gauge sessions "Sessions open on all streams";
    Gauge gateways "Streams of gateways";
    Counter reads "Reads sent to stores";
    Counter syncs "Sync pages served";
    Counter cancels "Requests to settle a message id that came to this node's holders";
    Counter amendments "Edits, recalls, reactions and pins that sessions asked this node for";
    Counter marks "Read marks, mutes and archives that came to this node's holders";
    Counter bodies_erased "Bodies in sync pages that were erased";
    Counter bodies_absent "Bodies in sync pages that must be there and are not: an alarm";
    Counter sequence_requests "Requests of the sequence service that came to this node's holders";
    Counter sequence_calls "Calls that came on streams of the sequence service";
    Gauge sequence_streams "Streams of calls of the sequence service";
    Counter sequence_numbers "Numbers given out by the sequence service";
    Counter registrations_ended "Registrations for pushes whose token or certificate ended before they did";
    Counter streams_dropped "Gateway streams ended because they did not keep up";
    Counter alarms "Things that no correct cluster does";
}
