//! Clock: the one monotonic clock of a run: nanoseconds since it began.

use std::time::Instant;

/// Begins with the run.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }

    /// When the run began.
    pub fn origin(self) -> Instant {
        self.origin
    }

    /// Nanoseconds since the run began.
    pub fn now(self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).expect("no run lasts five hundred years")
    }
}
