//! Clock: `CLOCK_BOOTTIME`, which counts suspend (design.md §3.3), and the wall clock, which only people read.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};
use seriatim_proto::chaos;

/// Milliseconds of `CLOCK_BOOTTIME`; test builds can bend it.
pub(crate) fn boot_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let ms = u64::try_from(now.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000;
    chaos::boot_ms(ms)
}

/// Unix milliseconds.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
