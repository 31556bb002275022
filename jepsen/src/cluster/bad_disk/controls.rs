//! Controls: how a disk behaves now, and how often that was felt.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How a disk behaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mood {
    /// as it should
    #[default]
    Well,
    /// every fsync fails with EIO
    FsyncFails,
    /// every write fails with ENOSPC
    Full,
    /// every fsync takes so much longer
    Slow(Duration),
    /// no write and no fsync ends until the mood changes
    Stalled,
}

/// What a write or an fsync meets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    Go,
    Eio,
    Enospc,
}

/// A mood that is shared by who sets it and who feels it.
#[derive(Debug, Default)]
pub(super) struct Controls {
    mood: Mutex<Mood>,
    changed: Condvar,
    felt: AtomicU64,
    waiting: AtomicU32,
}

impl Controls {
    /// Sets how it behaves from now on, and counts anew how often that is felt.
    pub(super) fn set(&self, mood: Mood) {
        let mut current = self.mood.lock();
        *current = mood;
        self.felt.store(0, Ordering::Relaxed);
        self.changed.notify_all();
    }

    pub(super) fn mood(&self) -> Mood {
        *self.mood.lock()
    }

    /// How often the mood of now was felt by the store.
    pub(super) fn felt(&self) -> u64 {
        self.felt.load(Ordering::Relaxed)
    }

    fn feel(&self) {
        self.felt.fetch_add(1, Ordering::Relaxed);
    }

    /// To be asked before a write, or whatever takes space.
    pub(super) fn before_write(&self) -> Verdict {
        match self.past_stall() {
            Mood::Full => {
                self.feel();
                Verdict::Enospc
            }
            Mood::Well | Mood::FsyncFails | Mood::Slow(_) | Mood::Stalled => Verdict::Go,
        }
    }

    /// To be asked before an fsync.
    pub(super) fn before_fsync(&self) -> Verdict {
        match self.past_stall() {
            Mood::FsyncFails => {
                self.feel();
                Verdict::Eio
            }
            Mood::Slow(delay) => {
                self.feel();
                // A healed disk need not finish its delays.
                let mut mood = self.mood.lock();
                let _ = self.changed.wait_while_for(&mut mood, |mood| *mood == Mood::Slow(delay), delay);
                Verdict::Go
            }
            Mood::Well | Mood::Full | Mood::Stalled => Verdict::Go,
        }
    }

    /// Waits until the disk does not stall.
    fn past_stall(&self) -> Mood {
        let mut mood = self.mood.lock();
        if *mood == Mood::Stalled {
            self.feel();
            self.waiting.fetch_add(1, Ordering::Relaxed);
            self.changed.wait_while(&mut mood, |mood| *mood == Mood::Stalled);
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        *mood
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn each_mood_is_felt_where_it_hurts_and_counted() {
        let controls = Controls::default();
        for (mood, write, fsync, felt) in [
            (Mood::Well, Verdict::Go, Verdict::Go, 0),
            (Mood::FsyncFails, Verdict::Go, Verdict::Eio, 1),
            (Mood::Full, Verdict::Enospc, Verdict::Go, 1),
            (Mood::Slow(Duration::from_millis(1)), Verdict::Go, Verdict::Go, 1),
        ] {
            controls.set(mood);
            assert_eq!((controls.before_write(), controls.before_fsync()), (write, fsync), "{mood:?}");
            assert_eq!(controls.felt(), felt, "{mood:?}");
        }
    }

    #[test]
    fn a_stall_lasts_until_it_is_lifted() {
        let controls = Arc::new(Controls::default());
        controls.set(Mood::Stalled);
        let stalled = std::thread::spawn({
            let controls = Arc::clone(&controls);
            move || controls.before_write()
        });
        while controls.waiting.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        assert!(!stalled.is_finished());
        controls.set(Mood::Well);
        assert_eq!(stalled.join().unwrap(), Verdict::Go);
    }
}
