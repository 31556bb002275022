//! Disk: how much room is left, and whether writes may go on.
//!
//! A full disk would stop the log writer and with it the process. So writes are refused early, while reads and
//! the cleaning up go on, and they are taken again as soon as there is room. It recovers a little above the mark,
//! so that it does not flap.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The room of one file system.
#[derive(Debug)]
pub(crate) struct DiskGuard {
    folder: PathBuf,
    reserve_bytes: u64,
    free_bytes: AtomicU64,
    read_only: AtomicBool,
}

impl DiskGuard {
    /// Looks for the first time.
    pub(crate) fn new(folder: PathBuf, reserve_bytes: u64) -> io::Result<Self> {
        let guard = Self { folder, reserve_bytes, free_bytes: AtomicU64::new(0), read_only: AtomicBool::new(false) };
        guard.check()?;
        Ok(guard)
    }

    /// Looks again. Answers whether writes are refused from now on.
    pub(crate) fn check(&self) -> io::Result<bool> {
        let stat = rustix::fs::statvfs(&self.folder)?;
        Ok(self.note(stat.f_bavail.saturating_mul(stat.f_frsize)))
    }

    /// Are writes refused?
    pub(crate) fn read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Writes are refused below this.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes
    }

    /// Free bytes when last looked.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free_bytes.load(Ordering::Relaxed)
    }

    fn note(&self, free_bytes: u64) -> bool {
        self.free_bytes.store(free_bytes, Ordering::Relaxed);
        let was = self.read_only();
        // An eighth of the reserve as hysteresis.
        let mark = if was { self.reserve_bytes.saturating_add(self.reserve_bytes / 8) } else { self.reserve_bytes };
        let now = free_bytes < mark;
        if now != was {
            self.read_only.store(now, Ordering::Relaxed);
            if now {
                tracing::error!(free_bytes, reserve_bytes = self.reserve_bytes, "disk nearly full: writes are refused");
            } else {
                tracing::info!(free_bytes, "disk has room again: writes are taken");
            }
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_refused_below_the_reserve_and_taken_again_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let guard = DiskGuard::new(dir.path().to_owned(), 800).unwrap();
        assert!(!guard.note(800));
        assert!(guard.note(799));
        assert!(guard.note(850), "a little above the mark is not enough");
        assert!(!guard.note(900));
    }

    #[test]
    fn a_reserve_beyond_the_disk_refuses_at_once() {
        let dir = tempfile::tempdir().unwrap();
        assert!(DiskGuard::new(dir.path().to_owned(), u64::MAX).unwrap().read_only());
    }
}
