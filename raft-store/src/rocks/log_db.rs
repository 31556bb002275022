//! Log database: log.db, the logs of all replicas of a store in one RocksDB with its WAL on.
//!
//! ```text
//!  key                                                    | value
//!  group:u32 replica:u64 index:u64                        | log record (log_record.rs)
//!  0xFFFF_FFFF group:u32 replica:u64 letter:u8            | 'p' last purged, 'c' last saved commit (bytes of the caller)
//! ```
//! Integers are big-endian. One column family, so that a lost piece of WAL is never a hole between families.
//!
//! # Failure
//! A torn tail (a record that was being written when the machine lost power) is cut. A damaged record in front of
//! valid ones is rot: RocksDB refuses to open. It also refuses a torn last record of zeros, which may be harmless:
//! then the log is read up to the damage, and accepted only if it still reaches everything that was promised.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rocksdb::{
    DB, DBCompressionType, DBRecoveryMode, Direction, ErrorKind, IteratorMode, Options, ReadOptions, WriteBatch,
    WriteOptions,
};

use crate::log_record::ReplicaKey;

/// Group number of the rows that are no log records. No group may have it.
const META_GROUP: u32 = u32::MAX;

/// Rows of a replica beside its records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LogMeta {
    /// the last purged entry
    Purged,
    /// the last commit that was saved
    Committed,
}

/// log.db.
pub(crate) struct LogDb {
    db: DB,
}

/// Why log.db cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogDbError {
    /// RocksDB's own refusal.
    #[error("open the log database in {path}")]
    Open {
        /// its folder
        path: PathBuf,
        /// why
        #[source]
        source: rocksdb::Error,
    },
    /// The log's end is damaged, and what is left does not reach what was promised.
    #[error("the log database in {path} is damaged, and less is left than was promised: {shortage}")]
    Rot {
        /// its folder
        path: PathBuf,
        /// what is missing
        shortage: String,
        /// what RocksDB said
        #[source]
        source: rocksdb::Error,
    },
}

/// Writes that go to disk together.
#[derive(Default)]
pub(crate) struct LogBatch(WriteBatch);

impl LogBatch {
    /// Stores a record.
    pub(crate) fn put(&mut self, key: ReplicaKey, index: u64, record: &[u8]) {
        self.0.put(record_key(key, index), record);
    }

    /// Removes the records `[first, end)`.
    pub(crate) fn delete(&mut self, key: ReplicaKey, first: u64, end: u64) {
        const POINT_DELETES_MAX: u64 = 64;
        if end.saturating_sub(first) <= POINT_DELETES_MAX {
            for index in first..end {
                self.0.delete(record_key(key, index));
            }
        } else {
            self.0.delete_range(record_key(key, first), record_key(key, end));
        }
    }

    /// Removes everything of a replica.
    pub(crate) fn forget(&mut self, key: ReplicaKey) {
        self.0.delete_range(record_key(key, 0), record_key(key, u64::MAX));
        self.0.delete(meta_key(key, LogMeta::Purged));
        self.0.delete(meta_key(key, LogMeta::Committed));
    }

    /// Stores a row beside the records.
    pub(crate) fn put_meta(&mut self, key: ReplicaKey, meta: LogMeta, value: &[u8]) {
        self.0.put(meta_key(key, meta), value);
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> usize {
        self.0.size_in_bytes()
    }

    /// Nothing in it?
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl LogDb {
    /// Opens or makes log.db. `shortage` says what is missing in a database whose end was cut; it is asked only if
    /// RocksDB refuses the database as it is.
    pub(crate) fn open(path: &Path, shortage: impl FnOnce(&LogDb) -> Option<String>) -> Result<Self, LogDbError> {
        let refusal = |source| LogDbError::Open { path: path.to_owned(), source };
        let source = match DB::open(&options(DBRecoveryMode::TolerateCorruptedTailRecords), path) {
            Ok(db) => return Ok(Self { db }),
            Err(error) if error.kind() == ErrorKind::Corruption => error,
            Err(error) => return Err(refusal(error)),
        };
        // Reading only, so that nothing is cut before we know that it may be.
        let cut = options(DBRecoveryMode::PointInTime);
        let probe = Self { db: DB::open_for_read_only(&cut, path, false).map_err(refusal)? };
        if let Some(shortage) = shortage(&probe) {
            return Err(LogDbError::Rot { path: path.to_owned(), shortage, source });
        }
        drop(probe);
        tracing::warn!(path = %path.display(), error = %source, "cut a torn tail of the log that nobody was promised");
        Ok(Self { db: DB::open(&cut, path).map_err(refusal)? })
    }

    /// Writes a batch, all or nothing; on disk at return if `sync`.
    pub(crate) fn write(&self, batch: LogBatch, sync: bool) -> Result<(), rocksdb::Error> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(batch.0, &options)
    }

    /// Calls `visit` for the records from `first` on, in order, with bytes of their own.
    pub(crate) fn scan(
        &self,
        key: ReplicaKey,
        first: u64,
        end: u64,
        mut visit: impl FnMut(u64, Bytes) -> ControlFlow<()>,
    ) -> Result<(), rocksdb::Error> {
        let from = record_key(key, first);
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(from.to_vec());
        read.set_iterate_upper_bound(record_key(key, end).to_vec());
        for item in self.db.iterator_opt(IteratorMode::From(&from, Direction::Forward), read) {
            let (found, value) = item?;
            if visit(index_of(&found), Bytes::from(value)).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// One record.
    pub(crate) fn read(&self, key: ReplicaKey, index: u64) -> Result<Option<Bytes>, rocksdb::Error> {
        Ok(self.db.get(record_key(key, index))?.map(Bytes::from))
    }

    /// Index of the last record.
    pub(crate) fn last_index(&self, key: ReplicaKey) -> Result<Option<u64>, rocksdb::Error> {
        let upper = record_key(key, u64::MAX);
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(record_key(key, 0).to_vec());
        match self.db.iterator_opt(IteratorMode::From(&upper, Direction::Reverse), read).next() {
            Some(item) => Ok(Some(index_of(&item?.0))),
            None => Ok(None),
        }
    }

    /// A row beside the records.
    pub(crate) fn read_meta(&self, key: ReplicaKey, meta: LogMeta) -> Result<Option<Vec<u8>>, rocksdb::Error> {
        self.db.get(meta_key(key, meta))
    }

    /// Has nothing ever been stored (and kept)?
    pub(crate) fn is_empty(&self) -> Result<bool, rocksdb::Error> {
        Ok(self.db.iterator(IteratorMode::Start).next().transpose()?.is_none())
    }
}

fn options(mode: DBRecoveryMode) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_wal_recovery_mode(mode);
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_compression_type(DBCompressionType::None);
    // Records are read back for a short time and then purged: few, large files and late compaction.
    options.set_write_buffer_size(64 << 20);
    // One thread writes.
    options.set_allow_concurrent_memtable_write(false);
    options.set_max_write_buffer_number(4);
    options.set_target_file_size_base(64 << 20);
    options.set_max_bytes_for_level_base(512 << 20);
    options.set_level_zero_file_num_compaction_trigger(8);
    options.set_level_zero_slowdown_writes_trigger(40);
    options.set_level_zero_stop_writes_trigger(60);
    options.set_max_background_jobs(2);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_open_files(super::files::most());
    options.set_keep_log_file_num(4);
    options.set_max_log_file_size(4 << 20);
    options
}

fn record_key(key: ReplicaKey, index: u64) -> [u8; 20] {
    let mut out = [0; 20];
    out[..4].copy_from_slice(&key.group.0.to_be_bytes());
    out[4..12].copy_from_slice(&key.replica.0.to_be_bytes());
    out[12..].copy_from_slice(&index.to_be_bytes());
    out
}

fn meta_key(key: ReplicaKey, meta: LogMeta) -> [u8; 17] {
    let mut out = [0; 17];
    out[..4].copy_from_slice(&META_GROUP.to_be_bytes());
    out[4..8].copy_from_slice(&key.group.0.to_be_bytes());
    out[8..16].copy_from_slice(&key.replica.0.to_be_bytes());
    out[16] = match meta {
        LogMeta::Purged => b'p',
        LogMeta::Committed => b'c',
    };
    out
}

fn index_of(key: &[u8]) -> u64 {
    u64::from_be_bytes(*key.last_chunk().expect("a key inside a replica's bounds ends with its index"))
}

/// A key for tests.
#[cfg(test)]
pub(crate) fn test_key(group: u32, replica: u64) -> ReplicaKey {
    use seriatim_proto::ids::{GroupId, ReplicaId};
    ReplicaKey { group: GroupId(group), replica: ReplicaId(replica) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_keys_sort_by_group_replica_index() {
        let key = test_key(1, 2);
        assert_eq!(record_key(key, 3), *b"\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03");
        assert_eq!(meta_key(key, LogMeta::Purged), *b"\xff\xff\xff\xff\0\0\0\x01\0\0\0\0\0\0\0\x02p");
        let rising = [(0, 9, 9), (1, 0, 9), (1, 1, 0), (1, 1, 1), (1, 1, u64::MAX), (2, 0, 0)];
        let keys: Vec<_> = rising.iter().map(|(g, r, i)| record_key(test_key(*g, *r), *i)).collect();
        assert!(keys.is_sorted());
    }

    #[test]
    fn a_scan_stays_inside_its_replica() {
        let folder = tempfile::tempdir().unwrap();
        let db = LogDb::open(folder.path(), |_| None).unwrap();
        assert!(db.is_empty().unwrap());
        let mut batch = LogBatch::default();
        for (group, replica) in [(1, 1), (1, 2), (1, 3), (2, 2)] {
            for index in 0..200 {
                batch.put(test_key(group, replica), index, format!("{group}.{replica}.{index}").as_bytes());
            }
        }
        db.write(batch, true).unwrap();
        let mut batch = LogBatch::default();
        batch.delete(test_key(1, 2), 0, 150);
        batch.delete(test_key(1, 2), 198, 200);
        db.write(batch, false).unwrap();
        let mut seen = Vec::new();
        let collect = |index, value: Bytes| {
            seen.push((index, value));
            ControlFlow::Continue(())
        };
        db.scan(test_key(1, 2), 0, u64::MAX, collect).unwrap();
        let expected: Vec<_> = (150..198).map(|index| (index, Bytes::from(format!("1.2.{index}")))).collect();
        assert_eq!(seen, expected);
        assert_eq!(db.last_index(test_key(1, 2)).unwrap(), Some(197));
        assert_eq!(db.last_index(test_key(1, 3)).unwrap(), Some(199));
        assert_eq!(db.last_index(test_key(1, 4)).unwrap(), None);
    }
}
