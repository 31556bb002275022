//! Boot: `BootTime` bent: the clock that leases are measured by, made to run at another rate or to jump.
//!
//! ```text
//!  file = "RATE JUMPED"      RATE in thousandths of the true one; JUMPED: all jumps so far, ms, which only rises
//! ```
//! The file is read again every 50 ms of true time; none, or one that says nothing, changes nothing. What a bent rate
//! has brought stays when the rate is true again, as between two machines; and the clock never goes back.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Between two looks at the file, ms.
const LOOK_MS: u64 = 50;
/// The true rate.
const TRUE: u64 = 1_000;

/// A clock that can be bent.
#[derive(Debug)]
pub(super) struct Boot {
    file: PathBuf,
    state: Mutex<Option<State>>,
}

/// How it is bent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct State {
    /// true time of the last look at the file
    looked_at: u64,
    /// true time since which the rate has been what it is
    since: u64,
    /// bent time then
    bent: u64,
    rate: u64,
    jumped: u64,
}

impl State {
    /// Not bent yet; jumps of before it was there are no jumps.
    fn begin(now: u64, jumped: u64) -> Self {
        Self { looked_at: now, since: now, bent: now, rate: TRUE, jumped }
    }

    fn at(&self, now: u64) -> u64 {
        self.bent + now.saturating_sub(self.since) * self.rate / TRUE
    }

    /// From now on another rate; and it has jumped so far.
    fn turn(&mut self, now: u64, rate: u64, jumped: u64) {
        let bent = self.at(now) + jumped.saturating_sub(self.jumped);
        let jumped = self.jumped.max(jumped);
        *self = Self { looked_at: self.looked_at, since: now, bent, rate, jumped };
    }
}

impl Boot {
    pub(super) fn new(file: PathBuf) -> Self {
        Self { file, state: Mutex::default() }
    }

    /// Bent time, of a true one in ms.
    pub(super) fn at(&self, now: u64) -> u64 {
        // What a thread that panicked left is whole: it is copied in and out.
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = guard.unwrap_or_else(|| State::begin(now, self.read().map_or(0, |(_, jumped)| jumped)));
        if guard.is_none() || now.saturating_sub(state.looked_at) >= LOOK_MS {
            state.looked_at = now;
            if let Some((rate, jumped)) = self.read()
                && (rate, jumped) != (state.rate, state.jumped)
            {
                state.turn(now, rate, jumped);
            }
        }
        *guard = Some(state);
        state.at(now)
    }

    fn read(&self) -> Option<(u64, u64)> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        let (rate, jumped) = text.trim().split_once(' ')?;
        let rate = rate.parse().ok().filter(|rate| *rate > 0)?;
        Some((rate, jumped.parse().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bent_clock_is_true_again_and_never_goes_back() {
        let mut state = State::begin(10_000, 300);
        assert_eq!(state.at(11_000), 11_000, "jumps of before are no jumps");
        state.turn(11_000, 2_000, 300);
        assert_eq!(state.at(12_000), 13_000);
        state.turn(12_000, 1_000, 300);
        assert_eq!(state.at(13_000), 14_000, "it keeps what it is ahead");
        state.turn(13_000, 500, 1_300);
        assert_eq!(state.at(13_000), 15_000, "it jumps at once");
        assert_eq!(state.at(15_000), 16_000);
        state.turn(15_000, 1_000, 0);
        assert_eq!(state.at(15_000), 16_000, "a file that takes jumps back takes nothing back");
    }

    #[test]
    fn the_file_is_looked_at_again_and_nonsense_changes_nothing() {
        let file = std::env::temp_dir().join(format!("seriatim-boot-{}", std::process::id()));
        let boot = Boot::new(file.clone());
        assert_eq!(boot.at(1_000), 1_000, "no file, no bend");
        std::fs::write(&file, "3000 0\n").unwrap();
        assert_eq!(boot.at(1_049), 1_049, "not looked at yet");
        assert_eq!(boot.at(1_060), 1_060);
        assert_eq!(boot.at(1_080), 1_120);
        for nonsense in ["", "fast", "0 0", "-1 0", "1000"] {
            std::fs::write(&file, nonsense).unwrap();
            let before = boot.at(5_000);
            assert!(boot.at(5_100) > before + 200, "{nonsense:?}");
        }
        std::fs::remove_file(&file).unwrap();
    }
}
