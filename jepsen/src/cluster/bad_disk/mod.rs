//! Bad disk: a file system in user space over a folder, which can fail, fill up, stall, and lose what was not fsynced.
//!
//! ```text
//!  store ──▶ <run>/store-1 (FUSE) ──▶ our threads ──▶ <run>/backing/store-1
//!                                       │ mood: EIO on fsync, ENOSPC, slow, stalled
//!                                       └ unsynced: what a power cut takes back
//! ```
//! A power cut takes from each file what was written since its last fsync. Names (files made, deleted, renamed) are
//! durable at once: losing those needs a real machine to lose its power.
//!
//! # Failure
//! The mount lives in the harness's process; if that dies, the stores get errors and end, and the next harness
//! removes the mount.
//!
//! # Reading order
//! [`BadDisk`] → `controls` → `unsynced` → `tree` → `filesystem`.

mod controls;
mod filesystem;
mod tree;
mod unsynced;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use parking_lot::Mutex;

pub use controls::Mood;

use filesystem::{PassThrough, Shared};

/// Threads that serve one disk: an fsync and the writes of others go side by side.
const THREADS: usize = 3;
/// Longest wait until the kernel lets go of a mount whose user is gone.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two tries.
const POLL: Duration = Duration::from_millis(20);

/// The disk of one store.
pub(crate) struct BadDisk {
    source: String,
    mount_point: PathBuf,
    backing: PathBuf,
    live: Mutex<Option<(Arc<Shared>, BackgroundSession)>>,
}

impl std::fmt::Debug for BadDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BadDisk({})", self.mount_point.display())
    }
}

impl BadDisk {
    /// Mounts it; both folders exist.
    pub(crate) fn mount(source: String, backing: PathBuf, mount_point: PathBuf) -> anyhow::Result<Self> {
        let disk = Self { source, mount_point, backing, live: Mutex::new(None) };
        *disk.live.lock() = Some(disk.session()?);
        Ok(disk)
    }

    fn session(&self) -> anyhow::Result<(Arc<Shared>, BackgroundSession)> {
        let shared = Arc::new(Shared::new(self.backing.clone()));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName(self.source.clone()), MountOption::DefaultPermissions];
        config.acl = SessionACL::All;
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(PassThrough::new(Arc::clone(&shared)), &self.mount_point, &config);
        let session = session.with_context(|| format!("mount a file system on {}", self.mount_point.display()))?;
        Ok((shared, session))
    }

    /// How it behaves from now on.
    pub(crate) fn set(&self, mood: Mood) {
        if let Some((shared, _)) = &*self.live.lock() {
            shared.controls.set(mood);
        }
    }

    /// How often the mood of now was felt by its store.
    pub(crate) fn felt(&self) -> u64 {
        self.live.lock().as_ref().map_or(0, |(shared, _)| shared.controls.felt())
    }

    /// The power is cut while nobody uses the disk: its store must be gone. Answers how many bytes that took.
    pub(crate) fn cut(&self) -> anyhow::Result<u64> {
        let mut live = self.live.lock();
        let (shared, session) = live.take().context("cut the power: the disk is not mounted")?;
        shared.controls.set(Mood::Well);
        session.umount_and_join().with_context(|| format!("unmount {}", self.mount_point.display()))?;
        let deadline = Instant::now() + UNMOUNT_PATIENCE;
        while is_mounted(&self.mount_point) {
            ensure!(Instant::now() < deadline, "unmount {}: it is in use", self.mount_point.display());
            std::thread::sleep(POLL);
        }
        let lost = shared.lose();
        *live = Some(self.session()?);
        lost
    }
}

impl Drop for BadDisk {
    fn drop(&mut self) {
        // A stalled disk would keep its store, and with it the mount.
        self.set(Mood::Well);
    }
}

fn is_mounted(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|point| Path::new(point) == path))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A disk over a temporary folder, and where it is mounted; `None` where nothing can be mounted.
    fn disk() -> Option<(tempfile::TempDir, BadDisk, PathBuf)> {
        let folder = tempfile::tempdir().unwrap();
        let (backing, mounted) = (folder.path().join("backing"), folder.path().join("mounted"));
        for path in [&backing, &mounted] {
            fs::create_dir(path).unwrap();
        }
        match BadDisk::mount("jepsen-test".to_owned(), backing, mounted.clone()) {
            Ok(disk) => Some((folder, disk, mounted)),
            Err(error) => {
                eprintln!("skipped: {error:#}");
                None
            }
        }
    }

    #[test]
    fn a_power_cut_takes_what_was_not_fsynced_and_nothing_else() {
        let Some((_folder, disk, mounted)) = disk() else { return };
        let mut log = File::create(mounted.join("log")).unwrap();
        log.write_all(b"synced").unwrap();
        log.sync_data().unwrap();
        log.write_all(b" and not").unwrap();
        log.write_all_at(b"S", 0).unwrap();
        fs::write(mounted.join("never"), b"synced").unwrap();
        assert_eq!(fs::read(mounted.join("log")).unwrap(), b"Synced and not");
        drop(log);
        assert_eq!(disk.cut().unwrap(), 8 + 1 + 6);
        assert_eq!(fs::read(mounted.join("log")).unwrap(), b"synced");
        assert_eq!(fs::read(mounted.join("never")).unwrap(), b"");
    }

    #[test]
    fn what_was_renamed_before_its_fsync_is_empty_after_a_cut() {
        let Some((_folder, disk, mounted)) = disk() else { return };
        fs::write(mounted.join("new"), b"careless").unwrap();
        fs::rename(mounted.join("new"), mounted.join("current")).unwrap();
        disk.cut().unwrap();
        assert_eq!(fs::read(mounted.join("current")).unwrap(), b"");
    }

    #[test]
    fn a_full_or_failing_disk_says_so_and_recovers() {
        let Some((_folder, disk, mounted)) = disk() else { return };
        let mut file = File::create(mounted.join("file")).unwrap();
        disk.set(Mood::Full);
        assert_eq!(file.write_all(b"x").unwrap_err().kind(), std::io::ErrorKind::StorageFull);
        disk.set(Mood::FsyncFails);
        file.write_all(b"x").unwrap();
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
        assert_eq!(disk.felt(), 1);
        disk.set(Mood::Well);
        file.sync_data().unwrap();
    }
}
