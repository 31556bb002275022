//! Metrics: the names, units and labels of the store, nowhere else. Cheap to clone.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use seriatim_proto::error::ErrorCode;

/// Everything that a store counts.
#[derive(Debug, Clone)]
pub(crate) struct StoreMetrics {
    /// `Propose` frames taken
    pub(crate) proposals: Counter,
    /// bytes of the batches in them
    pub(crate) proposal_bytes: Counter,
    /// times in them that ran too far ahead, and were lowered
    pub(crate) times_bounded: Counter,
    pub(crate) clock_doubted: Gauge,
    /// refusals by code
    refusals: Family<CodeLabel, Counter>,
    /// commands applied, on leaders and followers
    pub(crate) applied_commands: Counter,
    /// commands of one applied chunk
    pub(crate) apply_chunk_commands: Histogram,
    /// time of one applied chunk, with the write of what has gathered if that was due
    pub(crate) apply_seconds: Histogram,
    /// groups led here
    pub(crate) leaders: Gauge,
    /// live leases of the groups led here
    pub(crate) leases: Gauge,
    /// leases ended for want of renewals
    pub(crate) lease_expiries: Counter,
    /// renewals noted
    pub(crate) lease_renewals: Counter,
    /// snapshots sent away
    pub(crate) snapshots_built: Counter,
    /// snapshots installed
    pub(crate) snapshots_installed: Counter,
    /// reads answered
    pub(crate) reads: Counter,
    /// ReadIndex rounds run for them
    pub(crate) read_index_rounds: Counter,
    /// 1 while writes are refused for want of disk
    pub(crate) read_only: Gauge,
    /// free bytes of the data folder's file system
    pub(crate) disk_free_bytes: Gauge,
    /// moves of replicas that this store began or turned back, as the leader of group 0
    pub(crate) moves: Counter,
    /// replicas of this store that are rotten and not replaced yet
    pub(crate) rotten: Gauge,
    /// replicas of this store that were found rotten
    pub(crate) rot_found: Counter,
    /// leaderships that rotten replicas of this store gave to sound ones
    pub(crate) rot_handovers: Counter,
    /// rotten replicas of this store that were replaced
    pub(crate) rebuilt: Counter,
    /// bytes read to find damage
    pub(crate) scrub_bytes: Counter,
    /// passes over everything that found none
    pub(crate) scrub_passes: Counter,
    /// when the last of them ended
    pub(crate) scrub_pass_at: Gauge,
    /// comparisons of replicas that a leader here has judged
    pub(crate) compares: Counter,
    /// replicas that differed in them
    pub(crate) compare_differences: Counter,
    pub(crate) retention_entries: Counter,
    pub(crate) retention_looks: Counter,
    pub(crate) retention_held: Gauge,
    pub(crate) retention_doubts: Counter,
    /// rows that apply had to read from RocksDB
    pub(crate) state_gets: Counter,
    /// rows that apply found in memory
    pub(crate) state_cache_hits: Counter,
    /// rows written to RocksDB because enough had gathered
    pub(crate) state_rows_written: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

impl StoreMetrics {
    /// Registers all of them under `store_`.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("store");
        let sizes = || Histogram::new(exponential_buckets(1.0, 2.0, 14));
        let times = || Histogram::new(exponential_buckets(0.000_05, 2.0, 16));
        let metrics = Self {
            proposals: Counter::default(),
            proposal_bytes: Counter::default(),
            times_bounded: Counter::default(),
            clock_doubted: Gauge::default(),
            refusals: Family::default(),
            applied_commands: Counter::default(),
            apply_chunk_commands: sizes(),
            apply_seconds: times(),
            leaders: Gauge::default(),
            leases: Gauge::default(),
            lease_expiries: Counter::default(),
            lease_renewals: Counter::default(),
            snapshots_built: Counter::default(),
            snapshots_installed: Counter::default(),
            reads: Counter::default(),
            read_index_rounds: Counter::default(),
            read_only: Gauge::default(),
            disk_free_bytes: Gauge::default(),
            moves: Counter::default(),
            rotten: Gauge::default(),
            rot_found: Counter::default(),
            rot_handovers: Counter::default(),
            rebuilt: Counter::default(),
            scrub_bytes: Counter::default(),
            scrub_passes: Counter::default(),
            scrub_pass_at: Gauge::default(),
            compares: Counter::default(),
            compare_differences: Counter::default(),
            retention_entries: Counter::default(),
            retention_looks: Counter::default(),
            retention_held: Gauge::default(),
            retention_doubts: Counter::default(),
            state_gets: Counter::default(),
            state_cache_hits: Counter::default(),
            state_rows_written: Counter::default(),
        };
        registry.register("proposals", "Propose frames taken", metrics.proposals.clone());
        registry.register_with_unit("proposals", "Bytes proposed", Unit::Bytes, metrics.proposal_bytes.clone());
        registry.register("times_bounded", "Times brought to a minute of this clock", metrics.times_bounded.clone());
        registry.register(
            "clock_doubted",
            "1 while a majority of stores shows another time",
            metrics.clock_doubted.clone(),
        );
        registry.register("refusals", "Refusals by code", metrics.refusals.clone());
        registry.register("applied_commands", "Commands applied", metrics.applied_commands.clone());
        registry.register("apply_chunk_commands", "Commands of a chunk", metrics.apply_chunk_commands.clone());
        registry.register_with_unit("apply", "Time of a chunk", Unit::Seconds, metrics.apply_seconds.clone());
        registry.register("leaders", "Groups led here", metrics.leaders.clone());
        registry.register("leases", "Live leases of groups led here", metrics.leases.clone());
        registry.register("lease_expiries", "Leases ended for want of renewals", metrics.lease_expiries.clone());
        registry.register("lease_renewals", "Renewals noted", metrics.lease_renewals.clone());
        registry.register("snapshots_built", "Snapshots sent away", metrics.snapshots_built.clone());
        registry.register("snapshots_installed", "Snapshots installed", metrics.snapshots_installed.clone());
        registry.register("reads", "Reads answered", metrics.reads.clone());
        registry.register("read_index_rounds", "ReadIndex rounds", metrics.read_index_rounds.clone());
        registry.register("read_only", "1 while writes are refused", metrics.read_only.clone());
        registry.register(
            "moves",
            "Moves of replicas begun or turned back by this leader of group 0",
            metrics.moves.clone(),
        );
        registry.register_with_unit("disk_free", "Free disk", Unit::Bytes, metrics.disk_free_bytes.clone());
        registry.register("rotten_replicas", "Replicas that are rotten and not replaced yet", metrics.rotten.clone());
        registry.register("rot_found", "Replicas that were found rotten", metrics.rot_found.clone());
        let rot_handovers = metrics.rot_handovers.clone();
        registry.register("rot_handovers", "Leaderships that rotten replicas gave to sound ones", rot_handovers);
        registry.register("rebuilt_replicas", "Rotten replicas that were replaced", metrics.rebuilt.clone());
        registry.register_with_unit("scrub", "Bytes read to find damage", Unit::Bytes, metrics.scrub_bytes.clone());
        registry.register("scrub_passes", "Passes over everything that found no damage", metrics.scrub_passes.clone());
        registry.register_with_unit(
            "scrub_last_pass_end",
            "Unix time at which the last of them ended",
            Unit::Seconds,
            metrics.scrub_pass_at.clone(),
        );
        registry.register("compares", "Comparisons of replicas judged by leaders here", metrics.compares.clone());
        registry.register("compare_differences", "Replicas that differed", metrics.compare_differences.clone());
        let (entries, looks) = (metrics.retention_entries.clone(), metrics.retention_looks.clone());
        registry.register(
            "retention_entries",
            "Entries given up by leaders here for their tenants' retention",
            entries,
        );
        registry.register("retention_looks", "Looks at all conversations and inboxes of a group led here", looks);
        registry.register(
            "retention_held",
            "Conversations found due and not delivered everywhere, at the last looks at the groups led here",
            metrics.retention_held.clone(),
        );
        registry.register(
            "retention_clock_doubts",
            "Looks that gave up nothing by age, for want of a majority of clocks that agree",
            metrics.retention_doubts.clone(),
        );
        registry.register("state_gets", "Rows read from RocksDB by apply", metrics.state_gets.clone());
        registry.register("state_cache_hits", "Rows apply found in memory", metrics.state_cache_hits.clone());
        registry.register("state_rows_written", "Rows spilled to RocksDB", metrics.state_rows_written.clone());
        metrics
    }

    /// A refusal went out.
    pub(crate) fn refused(&self, code: ErrorCode) {
        self.refusals.get_or_create(&CodeLabel { code: code.name() }).inc();
    }
}
