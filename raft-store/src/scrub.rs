//! Scrub: reads everything that lies on this store's disk, slowly, so that damage is found while others are whole.
//!
//! ```text
//! pass ── state.db, all rows ── log.db, all records of each replica ── pause ── pass …
//!         RocksDB's checksums     and each record's own, and its link to the one before
//! ```
//! What a checksum cannot see, rows that are whole and wrong, is found by comparing replicas (check.rs), at the same
//! pace.
//!
//! # Failure
//! What is found stops nobody: nothing of it is needed just now, and a vote may be. It is reported, and group 0 says when
//! the replica is replaced (rot.rs). A pass that a restart ends begins again from the start, and so does one in which
//! something could not be read.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use seriatim_proto::ids::{GroupId, StoreId};
use seriatim_proto::limits;

use crate::host::Host;
use crate::raft::log_store::Scrubbed;

/// How fast a store reads for nobody: one of the scrub, and one that all digests share.
#[derive(Debug)]
pub(crate) struct Pace {
    bytes_per_s: u64,
    /// when what was taken so far is paid for
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    /// Half of so many bytes a second: the scrub has one half, and digests the other. 0 is the default's, for what is
    /// asked for by hand.
    pub(crate) fn half_of(bytes_per_s: u64) -> Self {
        let bytes_per_s = if bytes_per_s == 0 { limits::SCRUB_BYTES_PER_S } else { bytes_per_s };
        Self { bytes_per_s: (bytes_per_s / 2).max(1), free_at: Mutex::new(None) }
    }

    /// So many bytes were read at `now`: how long to wait before the next.
    pub(crate) fn take(&self, now: Instant, bytes: u64) -> Duration {
        let mut free_at = self.free_at.lock();
        let begins = free_at.map_or(now, |free_at| free_at.max(now));
        let paid = begins + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s as f64);
        *free_at = Some(paid);
        paid.saturating_duration_since(now)
    }
}

/// How fast a store makes digests: all that nobody waits for share one pace, and those that a rebuild waits for
/// another one, which is [`limits::DIGEST_URGENCY`] times faster and waits for none of the first.
#[derive(Debug)]
pub(crate) struct DigestPace {
    ordinary: Pace,
    urgent: Pace,
}

impl DigestPace {
    /// [`Pace::half_of`] so many bytes a second for the ordinary ones.
    pub(crate) fn half_of(bytes_per_s: u64) -> Self {
        let ordinary = Pace::half_of(bytes_per_s);
        let bytes_per_s = ordinary.bytes_per_s.saturating_mul(limits::DIGEST_URGENCY);
        Self { ordinary, urgent: Pace { bytes_per_s, free_at: Mutex::new(None) } }
    }

    /// As [`Pace::take`].
    pub(crate) fn take(&self, now: Instant, bytes: u64, is_urgent: bool) -> Duration {
        let pace = if is_urgent { &self.urgent } else { &self.ordinary };
        pace.take(now, bytes)
    }
}

/// Passes over everything, for as long as the store runs. Runs until it is dropped.
pub(crate) async fn run(host: Arc<Host>) {
    if !host.scrubs() {
        return;
    }
    let period = host.tuning().scrub_period;
    // A store that starts has something better to do.
    tokio::time::sleep(period).await;
    let identity = loop {
        match host.identity() {
            Some(identity) => break identity,
            None => tokio::time::sleep(period).await,
        }
    };
    // What stores find at once, their groups can do nothing about.
    tokio::time::sleep(phase(identity.store, period)).await;
    let mut tick = tokio::time::interval(period);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let began = Instant::now();
        if scrub_state(&host).await && scrub_logs(&host).await {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            host.metrics().scrub_passes.inc();
            host.metrics().scrub_pass_at.set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
            tracing::info!(took = ?began.elapsed(), "everything on disk was read, and is whole");
        }
    }
}

/// When in each period a store begins its pass.
fn phase(store: StoreId, period: Duration) -> Duration {
    let nth = u32::try_from(store.0 % u64::from(PHASES)).expect("fewer than PHASES");
    period / PHASES * nth
}

/// False if it is damaged or cannot be read just now, or the runtime is going down.
async fn scrub_state(host: &Arc<Host>) -> bool {
    let mut from = Some(Vec::new());
    while let Some(key) = from {
        let state = Arc::clone(host.state());
        match tokio::task::spawn_blocking(move || state.scrub(&key, CHUNK_BYTES)).await {
            Ok(Ok((next, bytes))) => {
                from = next;
                pay(host, bytes).await;
            }
            Ok(Err(fatal)) => {
                host.fatal().note_damage_of(format_args!("scrub the rows"), &fatal);
                return false;
            }
            Err(_) => return false,
        }
    }
    true
}

async fn scrub_logs(host: &Arc<Host>) -> bool {
    let mut is_whole = true;
    for replica in host.replicas() {
        let (group, id) = (replica.group, replica.id());
        let mut from = 0;
        loop {
            match host.raft().scrub_log(group, id, from, CHUNK_BYTES).await {
                Ok(Scrubbed::Sound { next, bytes }) => {
                    pay(host, bytes).await;
                    match next {
                        Some(next) => from = next,
                        None => break,
                    }
                }
                // Unless it was removed meanwhile, with its log.
                Ok(Scrubbed::Rot(what)) if is_running(host, group, id) => {
                    host.suspect(group, id, &what);
                    is_whole = false;
                    break;
                }
                Ok(Scrubbed::Rot(_)) => break,
                Err(error) if error.is_rot() => {
                    host.fatal().note_damage(format!("scrub the log: {error}"));
                    return false;
                }
                // Such as no descriptor left: the next pass begins again.
                Err(error) => {
                    tracing::error!(%error, "the log cannot be scrubbed");
                    return false;
                }
            }
        }
    }
    is_whole
}

fn is_running(host: &Host, group: GroupId, replica: seriatim_proto::ids::ReplicaId) -> bool {
    host.replicas().iter().any(|running| running.group == group && running.id() == replica)
}

async fn pay(host: &Host, bytes: u64) {
    host.metrics().scrub_bytes.inc_by(bytes);
    tokio::time::sleep(host.scrub_pace().take(Instant::now(), bytes)).await;
}

/// Stores whose ids follow each other begin at so many different times.
const PHASES: u32 = 8;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_do_not_scrub_at_the_same_time() {
        let phases: std::collections::BTreeSet<_> =
            (1..=5).map(|store| phase(StoreId(store), Duration::from_secs(80))).collect();
        assert_eq!(phases.len(), 5);
        assert!(phases.iter().all(|phase| *phase < Duration::from_secs(80)));
    }

    #[test]
    fn who_reads_for_nobody_keeps_to_its_pace() {
        let pace = Pace::half_of(2_000);
        let now = Instant::now();
        assert_eq!(pace.take(now, 500), Duration::from_millis(500));
        assert_eq!(pace.take(now, 500), Duration::from_secs(1));
        // What was not used is not saved up.
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.take(later, 100), Duration::from_millis(100));
        assert_eq!(Pace::half_of(0).take(now, limits::SCRUB_BYTES_PER_S), Duration::from_secs(2));
        assert_eq!(Pace::half_of(1).take(now, 1), Duration::from_secs(1));
    }

    #[test]
    fn a_digest_that_a_rebuild_waits_for_waits_for_no_other() {
        let pace = DigestPace::half_of(2 * limits::DIGEST_URGENCY);
        let now = Instant::now();
        let hour = Duration::from_secs(3_600);
        assert_eq!(pace.take(now, 3_600 * limits::DIGEST_URGENCY, false), hour);
        assert_eq!(pace.take(now, limits::DIGEST_URGENCY * limits::DIGEST_URGENCY, true), Duration::from_secs(1));
        assert_eq!(pace.take(now, limits::DIGEST_URGENCY * limits::DIGEST_URGENCY, true), Duration::from_secs(2));
        assert_eq!(pace.take(now, 0, false), hour);
    }
}
