//! Unsynced: what a power cut would take from one file.
//!
//! Writes go through to the backing file at once. What they covered is kept here until the next fsync, so that a cut
//! can put it back: the length, and every byte below it that was overwritten.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Of one file, since its last fsync.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    /// length at the last fsync; `None`: nothing changed since
    synced_len: Option<u64>,
    /// bytes as they were, in the order in which they were covered
    covered: Vec<(u64, Vec<u8>)>,
}

impl Unsynced {
    /// A file that did not exist before.
    pub(super) fn of_new_file() -> Self {
        Self { synced_len: Some(0), covered: Vec::new() }
    }

    /// To be called before `length` bytes are written at `offset`.
    pub(super) fn before_write(&mut self, file: &File, offset: u64, length: u64) -> io::Result<()> {
        self.keep(file, offset, offset.saturating_add(length))
    }

    /// To be called before the file gets this length.
    pub(super) fn before_resize(&mut self, file: &File, length: u64) -> io::Result<()> {
        self.keep(file, length, u64::MAX)
    }

    fn keep(&mut self, file: &File, from: u64, to: u64) -> io::Result<()> {
        let length = file.metadata()?.len();
        let synced_len = *self.synced_len.get_or_insert(length);
        // What lies above was never synced, so nothing of it would come back; what is not there cannot be covered.
        let to = to.min(synced_len).min(length);
        if from < to {
            let count = usize::try_from(to - from).map_err(io::Error::other)?;
            let mut bytes = vec![0; count];
            file.read_exact_at(&mut bytes, from)?;
            self.covered.push((from, bytes));
        }
        Ok(())
    }

    /// The file is on disk.
    pub(super) fn synced(&mut self) {
        *self = Self::default();
    }

    /// Is there nothing to lose?
    pub(super) fn is_clean(&self) -> bool {
        self.synced_len.is_none()
    }

    /// The power is cut: the file is as at its last fsync. Answers how many bytes were lost or put back.
    pub(super) fn lose(&mut self, file: &File) -> io::Result<u64> {
        let Some(synced_len) = self.synced_len else { return Ok(0) };
        let mut lost = file.metadata()?.len().saturating_sub(synced_len);
        file.set_len(synced_len)?;
        // The oldest of what covered one place is what was synced, so it goes back last.
        for (offset, bytes) in self.covered.drain(..).rev() {
            file.write_all_at(&bytes, offset)?;
            lost += bytes.len() as u64;
        }
        file.sync_all()?;
        self.synced();
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Act {
        Write(u64, Vec<u8>),
        Resize(u64),
        Sync,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let write =
            (0..64_u64, prop::collection::vec(any::<u8>(), 1..24)).prop_map(|(at, bytes)| Act::Write(at, bytes));
        prop::collection::vec(
            prop_oneof![6 => write, 2 => (0..64_u64).prop_map(Act::Resize), 1 => Just(Act::Sync)],
            1..40,
        )
    }

    proptest! {
        #[test]
        fn a_cut_leaves_exactly_what_was_synced(acts in acts()) {
            let file = tempfile::tempfile().unwrap();
            let mut unsynced = Unsynced::of_new_file();
            let mut synced = Vec::new();
            let content = |file: &File| {
                let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                bytes
            };
            for act in acts {
                match act {
                    Act::Write(offset, bytes) => {
                        unsynced.before_write(&file, offset, bytes.len() as u64).unwrap();
                        file.write_all_at(&bytes, offset).unwrap();
                    }
                    Act::Resize(length) => {
                        unsynced.before_resize(&file, length).unwrap();
                        file.set_len(length).unwrap();
                    }
                    Act::Sync => {
                        unsynced.synced();
                        synced = content(&file);
                    }
                }
            }
            unsynced.lose(&file).unwrap();
            prop_assert_eq!(content(&file), synced);
            prop_assert!(unsynced.is_clean());
        }
    }
}
