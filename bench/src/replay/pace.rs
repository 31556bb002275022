//! Pace: an offered load: so many sends a second, spread evenly.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Gives every send its moment.
#[derive(Debug)]
pub(crate) struct Pace {
    /// the first turn: a clock that runs while devices connect would let all they missed go at once
    began: OnceLock<Instant>,
    every: Option<Duration>,
    given: AtomicU64,
}

impl Pace {
    /// `None`: as fast as it goes.
    pub(crate) fn new(per_s: Option<u32>) -> Self {
        let every = per_s.map(|per_s| Duration::from_secs(1) / per_s.max(1));
        Self { began: OnceLock::new(), every, given: AtomicU64::new(0) }
    }

    /// Waits for the next moment.
    pub(crate) async fn turn(&self) {
        let Some(every) = self.every else { return };
        let place = self.given.fetch_add(1, Ordering::Relaxed);
        let moment = *self.began.get_or_init(Instant::now)
            + Duration::from_nanos((every.as_nanos() as u64).saturating_mul(place));
        tokio::time::sleep_until(moment).await;
    }
}
