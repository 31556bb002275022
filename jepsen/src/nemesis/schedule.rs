//! Schedule: which faults, when and how long, from a seed; and the task that carries it out.

use std::time::Instant;

use super::Kind;
use crate::cluster::Cluster;
use crate::history::Fault;

/// A plan without end.
#[derive(Debug)]
pub struct Schedule {
    kinds: Vec<&'static Kind>,
    seed: u64,
}

impl Schedule {
    /// A plan of these kinds; the same seed is the same plan.
    pub fn new(kinds: Vec<&'static Kind>, seed: u64) -> Self {
        Self { kinds, seed }
    }
}

/// Injects and heals until `until`, then heals all. Times of the records are ns since `origin`. It may be dropped at
/// any time; then what is injected stays until the cluster is shut down.
pub async fn run_schedule(
    _cluster: &Cluster,
    schedule: Schedule,
    _origin: Instant,
    until: Instant,
    _record: impl Fn(Fault) + Send + Sync,
) {
    tracing::debug!(kinds = schedule.kinds.len(), seed = schedule.seed, "not built yet");
    tokio::time::sleep_until(until.into()).await;
}
