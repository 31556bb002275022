//! Pace: turns for all clients together, spread evenly over time.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Turns that were missed for longer than this are not made up for: after a fault the cluster meets the same rate as
/// before, not a flood.
const LATE_MAX: Duration = Duration::from_millis(250);

/// Gives out turns.
#[derive(Debug)]
pub(crate) struct Pace {
    period: Duration,
    next_at: Mutex<Instant>,
}

impl Pace {
    /// So many turns a second, from now on.
    pub(crate) fn new(rate: u32) -> Self {
        Self { period: Duration::from_secs(1) / rate.max(1), next_at: Mutex::new(Instant::now()) }
    }

    /// When the next turn is, which is the caller's.
    fn take(&self, now: Instant) -> Instant {
        let mut next_at = self.next_at.lock();
        let earliest = now.checked_sub(LATE_MAX).unwrap_or(now);
        let at = (*next_at).max(earliest);
        *next_at = at + self.period;
        at
    }

    /// Waits for a turn.
    pub(crate) async fn turn(&self) {
        let at = self.take(Instant::now());
        tokio::time::sleep_until(at.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_evenly() {
        let pace = Pace::new(100);
        let now = Instant::now();
        let turns: Vec<_> = (0..5).map(|_| pace.take(now)).collect();
        for pair in turns.windows(2) {
            assert_eq!(pair[1] - pair[0], Duration::from_millis(10));
        }
    }

    #[test]
    fn a_long_pause_is_not_made_up_for() {
        let pace = Pace::new(100);
        let later = Instant::now() + Duration::from_secs(60);
        let made_up = (0..1_000).filter(|_| pace.take(later) < later).count();
        assert_eq!(made_up, 25);
    }
}
