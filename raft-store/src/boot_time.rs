//! Boot time: the clock that leases are measured by. It does not jump with the wall clock, and it goes on while the
//! machine sleeps. Test builds can bend it.

use rustix::time::{ClockId, clock_gettime};
use seriatim_proto::chaos;

/// Milliseconds since the machine started.
pub(crate) fn now_ms() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let ms = now.tv_sec * 1_000 + now.tv_nsec / 1_000_000;
    chaos::boot_ms(u64::try_from(ms).expect("the boot time is never negative"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn time_never_goes_back() {
        let first = super::now_ms();
        assert!(first > 0 && first <= super::now_ms());
    }
}
