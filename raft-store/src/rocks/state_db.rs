//! State database: state.db, the rows of all groups of a store in one RocksDB without a WAL.
//!
//! The Raft log is its WAL: every batch holds the rows of applied chunks *and* the position that they reach, in
//! one column family, so a flush always keeps an exact prefix. What a crash takes away is applied again from the
//! log, which therefore is purged only up to the flushed position.
//!
//! ```text
//! apply ── GroupRows (rows of many chunks) ── spill: one WriteBatch ── memtable ── flush
//!                                                                         └ flushed_position: ReadTier::Persisted
//! ```
//! Views and flushes spill first, so that they have everything that was applied before them.
//!
//! # Failure
//! A snapshot is installed under an intent file: a crash in between finds the file at the next start and installs
//! it again from the checked, durable copy. Rows that do not decode are [`Fatal`].

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, ReadOptions, ReadTier,
    WriteBatch, WriteOptions,
};
use tokio::sync::{mpsc, oneshot};

use seriatim_proto::chaos::{self, Point, Sabotage};
use seriatim_proto::codec;
use seriatim_proto::ids::{GroupId, SlotId};
use seriatim_proto::store::RowsDigest;
use seriatim_store_core::{Fatal, GroupItem, Item, Key, Reader, Row, Scan, Scope};

use crate::config::Tuning;
use crate::identity::write_durable;
use crate::keys;
use crate::raft::snapshot::{BlockWriter, KeyRange, ReceivedSnapshot, SnapshotBlocks, SnapshotHeader};
use crate::rocks::group_rows::GroupRows;

/// state.db.
pub(crate) struct StateDb {
    db: DB,
    write_options: WriteOptions,
    /// Where received snapshots and intents are kept.
    snapshots: PathBuf,
    /// Bytes of log entries applied since the last flush that was asked for.
    unflushed_bytes: AtomicU64,
    /// Rows that are applied and perhaps not written.
    groups: Mutex<BTreeMap<GroupId, Arc<GroupRows>>>,
}

/// Why state.db cannot be opened or used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateDbError {
    /// RocksDB's refusal.
    #[error("open the state database in {path}")]
    Open {
        /// its folder
        path: PathBuf,
        /// why
        #[source]
        source: rocksdb::Error,
    },
    /// An interrupted install could not be completed.
    #[error("finish installing the snapshot {path}")]
    Install {
        /// the received snapshot
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// The folder of snapshots.
    #[error("use the folder {path}")]
    Folder {
        /// which
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
}

impl StateDbError {
    /// Are its files damaged?
    pub(crate) fn is_rot(&self) -> bool {
        match self {
            StateDbError::Open { source, .. } => super::is_damage(source),
            StateDbError::Install { source, .. } => {
                source.kind() == io::ErrorKind::InvalidData || super::is_damage_io(source)
            }
            StateDbError::Folder { .. } => false,
        }
    }
}

impl StateDb {
    /// Opens it in `folder/state.db`, completing an install that a crash interrupted.
    pub(crate) fn open(folder: &Path, tuning: &Tuning) -> Result<Self, StateDbError> {
        let path = folder.join("state.db");
        let snapshots = folder.join("snapshots");
        fs::create_dir_all(&snapshots).map_err(|source| StateDbError::Folder { path: snapshots.clone(), source })?;
        let db = DB::open(&options(tuning), &path).map_err(|source| StateDbError::Open { path, source })?;
        let mut write_options = WriteOptions::default();
        write_options.disable_wal(true);
        let state = Self { db, write_options, snapshots, unflushed_bytes: AtomicU64::new(0), groups: Mutex::default() };
        state.finish_installs()?;
        Ok(state)
    }

    /// Where received snapshots are written.
    #[cfg(test)]
    pub(crate) fn snapshot_folder(&self) -> &Path {
        &self.snapshots
    }

    /// A group's rows as apply has them.
    pub(crate) fn rows(&self, group: GroupId) -> Arc<GroupRows> {
        Arc::clone(self.groups.lock().entry(group).or_insert_with(|| Arc::new(GroupRows::new(group))))
    }

    /// How many groups share what may gather.
    pub(crate) fn group_count(&self) -> usize {
        self.groups.lock().len()
    }

    /// The rows that are written.
    pub(crate) fn reader(&self) -> DbReader<'_> {
        DbReader { db: &self.db, snapshot: None }
    }

    /// A group's rows at one moment, with everything that was applied before the call.
    pub(crate) fn view(&self, group: GroupId) -> Result<DbReader<'_>, Fatal> {
        self.rows(group).spill(self)?;
        Ok(DbReader { db: &self.db, snapshot: Some(self.db.snapshot()) })
    }

    /// Writes rows and the position that they reach.
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), Fatal> {
        self.db.write_opt(batch, &self.write_options).map_err(storage)
    }

    /// Entries of so many bytes were applied.
    pub(crate) fn note_applied(&self, log_bytes: u64) {
        self.unflushed_bytes.fetch_add(log_bytes, Ordering::Relaxed);
    }

    /// The group's position: what [`StateDb::write`] last wrote under [`keys::position_key`].
    pub(crate) fn position(&self, group: GroupId) -> Result<Option<Vec<u8>>, Fatal> {
        self.db.get(keys::position_key(group)).map_err(unread)
    }

    /// The position that a crash now would leave: purge must not pass it.
    pub(crate) fn flushed_position(&self, group: GroupId) -> Result<Option<Vec<u8>>, Fatal> {
        let mut read = ReadOptions::default();
        read.set_read_tier(ReadTier::Persisted);
        self.db.get_opt(keys::position_key(group), &read).map_err(unread)
    }

    /// Log bytes applied since the last [`StateDb::flush`].
    pub(crate) fn unflushed_bytes(&self) -> u64 {
        self.unflushed_bytes.load(Ordering::Relaxed)
    }

    /// Makes everything that is applied durable. Blocks.
    pub(crate) fn flush(&self) -> Result<(), Fatal> {
        self.unflushed_bytes.store(0, Ordering::Relaxed);
        let groups: Vec<_> = self.groups.lock().values().cloned().collect();
        for rows in groups {
            rows.spill(self)?;
        }
        chaos::hit(Point::FlushBefore);
        self.db.flush().map_err(storage)?;
        chaos::hit(Point::FlushAfter);
        Ok(())
    }

    /// Removes all rows of a group whose replica was removed from here, or is about to be born. Durable at return.
    /// Blocks.
    pub(crate) fn remove_group(&self, group: GroupId) -> Result<(), Fatal> {
        // From here on nobody who still has the old rows in memory writes them.
        let removed = self.groups.lock().remove(&group);
        if let Some(rows) = removed {
            rows.discard();
        }
        let mut batch = WriteBatch::default();
        for (from, end) in self.ranges(&self.reader(), group)? {
            batch.delete_range(from, end);
        }
        self.write(batch)?;
        self.db.flush().map_err(storage)
    }

    /// Reads rows from `from` on, about `bytes_max`, so that RocksDB checks their blocks. Where to go on, if there is
    /// more, and how much was read. Blocks.
    pub(crate) fn scrub(&self, from: &[u8], bytes_max: usize) -> Result<(Option<Vec<u8>>, u64), Fatal> {
        let mut read = ReadOptions::default();
        read.set_verify_checksums(true);
        read.fill_cache(false);
        let mut bytes = 0;
        for item in self.db.iterator_opt(IteratorMode::From(from, Direction::Forward), read) {
            let (key, value) = item.map_err(unread)?;
            if bytes >= bytes_max {
                return Ok((Some(key.into_vec()), bytes as u64));
            }
            bytes += key.len() + value.len();
        }
        Ok((None, bytes as u64))
    }

    /// What all replicas of a group have in common, as it is when `seen` is called. `pause` is told now and then how
    /// many bytes were read, and may wait; it ends the work with `false`. Blocks.
    pub(crate) fn digest(
        &self,
        group: GroupId,
        index: u64,
        seen: impl FnOnce(),
        mut pause: impl FnMut(u64) -> bool,
    ) -> Result<Option<RowsDigest>, Fatal> {
        let view = self.view(group)?;
        let ranges = self.ranges(&view, group)?;
        seen();
        let position = keys::position_key(group);
        let mut hasher = blake3::Hasher::new();
        let (mut rows, mut bytes, mut unpaid) = (0, 0, 0);
        for (from, end) in ranges {
            let mut read = view.read_options();
            read.set_verify_checksums(true);
            read.fill_cache(false);
            read.set_iterate_upper_bound(end);
            for item in self.db.iterator_opt(IteratorMode::From(&from, Direction::Forward), read) {
                let (key, value) = item.map_err(unread)?;
                if *key == *position {
                    continue;
                }
                let length = |part: &[u8]| u32::try_from(part.len()).expect("rows are smaller than an entry");
                hasher.update(&length(&key).to_be_bytes());
                hasher.update(&length(&value).to_be_bytes());
                hasher.update(&key);
                hasher.update(&value);
                rows += 1;
                let size = (key.len() + value.len()) as u64;
                (bytes, unpaid) = (bytes + size, unpaid + size);
                if unpaid >= DIGEST_PAUSE_BYTES {
                    if !pause(unpaid) {
                        return Ok(None);
                    }
                    unpaid = 0;
                }
            }
        }
        Ok(pause(unpaid).then(|| RowsDigest { index, rows, bytes, hash: *hasher.finalize().as_bytes() }))
    }

    /// Changes a row of a group so that it is whole and wrong.
    #[cfg(test)]
    pub(crate) fn spoil(&self, group: GroupId) {
        drop(self.view(group).unwrap());
        let (from, end) = self.ranges(&self.reader(), group).unwrap().remove(0);
        let mut read = ReadOptions::default();
        read.set_iterate_upper_bound(end);
        let (key, value) =
            self.db.iterator_opt(IteratorMode::From(&from, Direction::Forward), read).next().unwrap().unwrap();
        let Row::Holder(mut row) = codec::decode(&value).unwrap() else { panic!("a slot's holder comes first") };
        row.next_n += 1;
        self.db.put_opt(key, codec::encode(&Row::Holder(row)), &self.write_options).unwrap();
    }

    /// Loses a row of a group.
    #[cfg(test)]
    pub(crate) fn lose(&self, group: GroupId, key: &Key) {
        drop(self.view(group).unwrap());
        assert!(self.reader().get(key).unwrap().is_some());
        let mut bytes = Vec::new();
        keys::encode_into(key, &mut bytes);
        self.db.delete_opt(bytes, &self.write_options).unwrap();
    }

    /// The key ranges `[from, end)` of all rows of a group.
    fn ranges(&self, reader: &DbReader<'_>, group: GroupId) -> Result<Vec<KeyRange>, Fatal> {
        let key = Key::group(group, GroupItem::Owned);
        let mut ranges = Vec::new();
        match reader.get(&key)? {
            None => (),
            Some(Row::Owned(owned)) => {
                ranges.extend(
                    owned.slots.iter().map(|slots| (keys::slot_start(slots.first), keys::slot_start(slots.end))),
                );
            }
            Some(_) => return Err(Fatal::broken(&key, "a row of another kind")),
        }
        let system = Key::system_slot(group);
        ranges.push((keys::slot_start(system), slot_end(system)));
        Ok(ranges)
    }

    /// Starts making a snapshot of one moment, which is now: apply goes on meanwhile. Answers the position that
    /// it has reached, `None` if nothing was ever applied.
    pub(crate) async fn send_snapshot(
        self: &Arc<Self>,
        group: GroupId,
        applied_index: impl Fn(&[u8]) -> io::Result<u64> + Send + 'static,
    ) -> io::Result<Option<(Vec<u8>, SnapshotBlocks)>> {
        let (tx, blocks) = SnapshotBlocks::channel();
        let (at_tx, at_rx) = oneshot::channel::<io::Result<_>>();
        let state = Arc::clone(self);
        // A thread of the runtime, so that a store that stops waits for it.
        tokio::task::spawn_blocking(move || {
            let header = || -> io::Result<_> {
                let view = state.view(group).map_err(fatal_io)?;
                let Some(position) = view.get_bytes(&keys::position_key(group)).map_err(fatal_io)? else {
                    return Ok(None);
                };
                let ranges = state.ranges(&view, group).map_err(fatal_io)?;
                Ok(Some((SnapshotHeader { group, applied_index: applied_index(&position)?, ranges }, position, view)))
            };
            match header() {
                Err(error) => drop(at_tx.send(Err(error))),
                Ok(None) => drop(at_tx.send(Ok(None))),
                Ok(Some((header, position, view))) => {
                    if at_tx.send(Ok(Some(position))).is_ok() {
                        send_blocks(&view, &header, &tx);
                    }
                }
            }
        });
        let position = at_rx.await.map_err(|_| io::Error::other("the snapshot thread ended"))??;
        Ok(position.map(|position| (position, blocks)))
    }

    /// Replaces all rows of a group by those of a snapshot. Durable when it returns. Blocks.
    pub(crate) fn install(&self, group: GroupId, mut snapshot: ReceivedSnapshot) -> io::Result<()> {
        if snapshot.header().group != group {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a snapshot of another group"));
        }
        let name = snapshot.path().file_name().and_then(|name| name.to_str()).expect("snapshot files have plain names");
        let intent = intent_name(group);
        // The ranges to replace are those of everything that was applied.
        drop(self.view(group).map_err(fatal_io)?);
        write_durable(&self.snapshots, &intent, name.as_bytes())?;
        chaos::hit(Point::SnapshotIntent);
        // Whatever fails from here on is done again from the file at the next start.
        snapshot.keep(true);
        self.replace(group, &snapshot)?;
        chaos::hit(Point::SnapshotInstalled);
        fs::remove_file(self.snapshots.join(&intent))?;
        fs::File::open(&self.snapshots)?.sync_all()?;
        snapshot.keep(false);
        Ok(())
    }

    fn replace(&self, group: GroupId, snapshot: &ReceivedSnapshot) -> io::Result<()> {
        let mut batch = WriteBatch::default();
        let old = self.ranges(&self.reader(), group).map_err(fatal_io)?;
        for (from, end) in old.iter().chain(&snapshot.header().ranges) {
            batch.delete_range(from, end);
        }
        snapshot.for_each_row(|key, value| {
            if !snapshot.header().ranges.iter().any(|(from, end)| from.as_slice() <= key && key < end.as_slice()) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a row outside the group's ranges"));
            }
            batch.put(key, value);
            if batch.size_in_bytes() >= INSTALL_BATCH_BYTES {
                chaos::hit(Point::SnapshotReplace);
                self.db.write_opt(std::mem::take(&mut batch), &self.write_options).map_err(io::Error::other)?;
            }
            Ok(())
        })?;
        self.db.write_opt(batch, &self.write_options).map_err(io::Error::other)?;
        chaos::hit(Point::SnapshotReplace);
        self.db.flush().map_err(io::Error::other)
    }

    fn finish_installs(&self) -> Result<(), StateDbError> {
        let folder = |source| StateDbError::Folder { path: self.snapshots.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.snapshots).map_err(folder)? {
            names.push(entry.map_err(folder)?.file_name().to_string_lossy().into_owned());
        }
        for name in &names {
            let Some(group) = intent_group(name) else { continue };
            let file = fs::read_to_string(self.snapshots.join(name)).map_err(folder)?;
            let path = self.snapshots.join(file);
            tracing::warn!(group = group.0, "finishing the install of a snapshot that was interrupted");
            ReceivedSnapshot::open(&path)
                .and_then(|snapshot| self.install(group, snapshot))
                .map_err(|source| StateDbError::Install { path, source })?;
        }
        for name in names {
            let path = self.snapshots.join(&name);
            if path.exists() {
                fs::remove_file(&path).map_err(folder)?;
            }
        }
        Ok(())
    }
}

/// Rows to read, now or at one moment.
pub(crate) struct DbReader<'a> {
    db: &'a DB,
    snapshot: Option<rocksdb::Snapshot<'a>>,
}

impl DbReader<'_> {
    fn read_options(&self) -> ReadOptions {
        let mut read = ReadOptions::default();
        if let Some(snapshot) = &self.snapshot {
            read.set_snapshot(snapshot);
        }
        read
    }

    /// The bytes of a row.
    pub(crate) fn get_bytes(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        match &self.snapshot {
            Some(snapshot) => snapshot.get(key).map_err(unread),
            None => self.db.get(key).map_err(unread),
        }
    }

    fn pinned<T>(&self, key: &[u8], with: impl FnOnce(Option<&[u8]>) -> Result<T, Fatal>) -> Result<T, Fatal> {
        let row = match &self.snapshot {
            Some(snapshot) => snapshot.get_pinned(key).map_err(unread)?,
            None => self.db.get_pinned(key).map_err(unread)?,
        };
        with(row.as_deref())
    }
}

impl Reader for DbReader<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, Fatal> {
        self.pinned(&keys::encode(key), |bytes| bytes.map(|bytes| decode_row(key, bytes)).transpose())
    }

    fn scan(&self, scan: &Scan, limit: usize) -> Result<Vec<(Key, Row)>, Fatal> {
        let (start, excluded) = scan.start();
        let start_bytes = keys::encode(&start);
        let mut rows = Vec::new();
        if limit == 0 {
            return Ok(rows);
        }
        let iter = self.db.iterator_opt(IteratorMode::From(&start_bytes, Direction::Forward), self.read_options());
        for item in iter {
            let (key_bytes, value) = item.map_err(unread)?;
            // A row that is no typed one (a position) ends every range.
            let Some(key) = keys::decode(&key_bytes) else { break };
            if !scan.contains(&key) {
                break;
            }
            if excluded && key == start {
                continue;
            }
            let row = decode_row(&key, &value)?;
            rows.push((key, row));
            if rows.len() == limit {
                break;
            }
        }
        Ok(rows)
    }
}

/// Reads a row's value.
pub(crate) fn decode_row(key: &Key, bytes: &[u8]) -> Result<Row, Fatal> {
    codec::decode(bytes).map_err(|_| Fatal::broken(key, "a value that does not decode"))
}

fn is_dedupe(key: &[u8]) -> bool {
    keys::decode(key).is_some_and(|key| matches!(key.scope, Scope::Tenant(_, Item::Dedupe(..))))
}

fn send_blocks(view: &DbReader<'_>, header: &SnapshotHeader, tx: &mpsc::Sender<io::Result<Bytes>>) {
    chaos::hit(Point::SnapshotBuild);
    let (first, mut writer) = BlockWriter::new(header);
    if tx.blocking_send(Ok(first)).is_err() {
        return;
    }
    for (from, end) in &header.ranges {
        let mut read = view.read_options();
        read.set_iterate_upper_bound(end.clone());
        read.fill_cache(false);
        for item in view.db.iterator_opt(IteratorMode::From(from, Direction::Forward), read) {
            let block = match item {
                Ok((key, _)) if chaos::sabotaged(Sabotage::SnapshotWithoutDedupe) && is_dedupe(&key) => None,
                Ok((key, value)) => writer.row(&key, &value),
                Err(error) => {
                    let _ = tx.blocking_send(Err(io::Error::other(error)));
                    return;
                }
            };
            if let Some(block) = block
                && tx.blocking_send(Ok(block)).is_err()
            {
                return;
            }
        }
    }
    for block in writer.finish() {
        if tx.blocking_send(Ok(block)).is_err() {
            return;
        }
    }
}

fn options(tuning: &Tuning) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_bloom_filter(10.0, false);
    table.set_block_cache(&Cache::new_lru_cache(tuning.block_cache_bytes));
    table.set_format_version(6);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size(tuning.memtable_bytes);
    // Groups write one after another, a batch each: the simple insert is the faster one.
    options.set_allow_concurrent_memtable_write(false);
    options.set_max_write_buffer_number(3);
    // Most gets of apply are for rows that do not exist yet (message ids): the filters answer them.
    options.set_memtable_prefix_bloom_ratio(0.05);
    options.set_memtable_whole_key_filtering(true);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_background_jobs(2);
    options.set_max_open_files(super::files::most());
    options.set_keep_log_file_num(4);
    // What was trimmed or removed takes space until its deletions meet it: files full of them are compacted at once.
    options.add_compact_on_deletion_collector_factory(DELETIONS_WINDOW, DELETIONS_WINDOW / 2, 0.5);
    options
}

fn slot_end(slot: SlotId) -> Vec<u8> {
    match slot.0.checked_add(1) {
        Some(next) => keys::slot_start(SlotId(next)),
        // Letters of keys are ASCII: nothing of the last slot is above this.
        None => vec![0xFF; 3],
    }
}

fn intent_name(group: GroupId) -> String {
    format!("INSTALL.{}", group.0)
}

fn intent_group(name: &str) -> Option<GroupId> {
    name.strip_prefix("INSTALL.")?.parse().ok().map(GroupId)
}

fn storage(error: rocksdb::Error) -> Fatal {
    match super::is_damage(&error) {
        true => Fatal::Corrupt(error.to_string()),
        false => Fatal::Storage(error.to_string()),
    }
}

/// As [`storage`], of a read.
fn unread(error: rocksdb::Error) -> Fatal {
    match super::is_damage_on_read(&error) {
        true => Fatal::Corrupt(error.to_string()),
        false => Fatal::Storage(error.to_string()),
    }
}

fn fatal_io(fatal: Fatal) -> io::Error {
    io::Error::other(fatal)
}

/// Rows in a row of a file, of which half are deletions when it is compacted.
const DELETIONS_WINDOW: usize = 4_096;
/// Bytes of a digest between two pauses.
const DIGEST_PAUSE_BYTES: u64 = 256 << 10;
/// Bytes of one write while a snapshot is installed.
const INSTALL_BATCH_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::snapshot::{SnapshotData, SnapshotReceiver};
    use seriatim_proto::command::SlotRange;
    use seriatim_proto::ids::{Epoch, Generation, LeaseId, LogIndex, NodeId};
    use seriatim_store_core::View;
    use seriatim_store_core::row::{LeaseRow, OwnedRow, SlotRow};

    const GROUP: GroupId = GroupId(1);

    fn open(folder: &Path) -> Arc<StateDb> {
        Arc::new(StateDb::open(folder, &Tuning::default()).unwrap())
    }

    fn slot_row(next_n: u64) -> Row {
        Row::Holder(SlotRow {
            group: GROUP,
            generation: Generation(0),
            epoch: Epoch::NONE,
            lease: None,
            next_n,
            heir: None,
        })
    }

    fn lease(index: u64) -> Key {
        Key::group(GROUP, GroupItem::Lease(LeaseId { generation: Generation(0), index: LogIndex(index), place: 0 }))
    }

    /// Applies a chunk that reaches `position`.
    fn keep(state: &StateDb, position: u8, changes: &[(Key, Option<Row>)]) {
        let rows = state.rows(GROUP);
        let mut chunk = rows.chunk(state).unwrap();
        for (key, row) in changes {
            match row {
                Some(row) => chunk.put(key.clone(), row.clone()),
                None => chunk.delete(key.clone()),
            }
        }
        chunk.keep(vec![position], 1);
    }

    fn own(first: u16, end: u16) -> (Key, Option<Row>) {
        let slots = vec![SlotRange { first: SlotId(first), end: SlotId(end) }];
        (Key::group(GROUP, GroupItem::Owned), Some(Row::Owned(OwnedRow { generation: Generation(0), slots })))
    }

    #[test]
    fn only_what_is_flushed_is_promised() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        let rows = state.rows(GROUP);
        assert_eq!(state.flushed_position(GROUP).unwrap(), None);
        keep(&state, 1, &[(Key::holder(SlotId(0)), Some(slot_row(1)))]);
        assert_eq!(state.position(GROUP).unwrap(), None, "nobody has looked");
        assert_eq!(state.unflushed_bytes(), 1);
        assert_eq!(rows.spill(&state).unwrap(), 1);
        assert_eq!(state.flushed_position(GROUP).unwrap(), None);
        assert_eq!(state.position(GROUP).unwrap(), Some(vec![1]));
        state.flush().unwrap();
        keep(&state, 2, &[(Key::holder(SlotId(0)), Some(slot_row(2)))]);
        rows.spill(&state).unwrap();
        assert_eq!(state.flushed_position(GROUP).unwrap(), Some(vec![1]));
        assert_eq!(state.position(GROUP).unwrap(), Some(vec![2]));
    }

    #[test]
    fn a_flush_and_a_view_have_everything_that_was_applied() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        let rows = state.rows(GROUP);
        for position in 1..=5 {
            keep(&state, position, &[(Key::holder(SlotId(0)), Some(slot_row(u64::from(position))))]);
        }
        let view = state.view(GROUP).unwrap();
        keep(&state, 6, &[(Key::holder(SlotId(0)), None)]);
        assert_eq!(view.get(&Key::holder(SlotId(0))).unwrap(), Some(slot_row(5)));
        assert_eq!(view.get_bytes(&keys::position_key(GROUP)).unwrap(), Some(vec![5]));
        state.flush().unwrap();
        assert_eq!(state.flushed_position(GROUP).unwrap(), Some(vec![6]));
        assert_eq!(state.reader().get(&Key::holder(SlotId(0))).unwrap(), None);
        assert_eq!(rows.chunk(&state).unwrap().get(&Key::holder(SlotId(0))).unwrap(), None);
    }

    #[test]
    fn nothing_of_a_chunk_that_failed_is_ever_seen() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        let rows = state.rows(GROUP);
        keep(&state, 1, &[(Key::holder(SlotId(0)), Some(slot_row(1)))]);
        let mut chunk = rows.chunk(&state).unwrap();
        chunk.put(Key::holder(SlotId(0)), slot_row(2));
        drop(chunk);
        assert!(rows.chunk(&state).is_err());
        assert!(rows.spill(&state).is_err());
        assert!(rows.spill_if_full(&state).is_ok(), "nothing to do yet");
        assert!(state.view(GROUP).is_err());
        assert!(state.flush().is_err());
        assert_eq!(state.reader().get(&Key::holder(SlotId(0))).unwrap(), None);
    }

    #[test]
    fn many_rows_or_many_bytes_are_written_by_themselves() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        let rows = state.rows(GROUP);
        // What may gather is shared by the groups.
        (2..=11).for_each(|group| drop(state.rows(GroupId(group))));
        keep(&state, 1, &(0..2_900).map(|slot| (Key::holder(SlotId(slot)), Some(slot_row(1)))).collect::<Vec<_>>());
        assert_eq!(rows.spill_if_full(&state).unwrap(), 0);
        drop(state.rows(GroupId(12)));
        assert_eq!(rows.spill_if_full(&state).unwrap(), 2_900);
        assert_eq!(rows.spill_if_full(&state).unwrap(), 0);
        let chunk = rows.chunk(&state).unwrap();
        chunk.keep(vec![2], 2 << 20);
        assert_eq!(state.position(GROUP).unwrap(), Some(vec![1]));
        assert_eq!(rows.spill_if_full(&state).unwrap(), 0, "no rows, but a position");
        assert_eq!(state.position(GROUP).unwrap(), Some(vec![2]));
    }

    #[test]
    fn a_chunk_shows_its_own_writes_in_gets_and_scans() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        let rows = state.rows(GROUP);
        let row = |node| Some(Row::Lease(LeaseRow { node: NodeId(node) }));
        for written in [true, false] {
            keep(&state, 1, &[(lease(1), row(1)), (lease(2), row(2)), (lease(3), None), (lease(4), row(4))]);
            if written {
                rows.spill(&state).unwrap();
            }
            let mut chunk = rows.chunk(&state).unwrap();
            chunk.put(lease(3), row(3).unwrap());
            chunk.delete(lease(1));
            chunk.put(lease(4), row(44).unwrap());
            let scanned = chunk.scan(&Scan::Leases(GROUP), 2).unwrap();
            assert_eq!(scanned, [(lease(2), row(2).unwrap()), (lease(3), row(3).unwrap())]);
            assert_eq!(chunk.scan(&Scan::Leases(GROUP), 9).unwrap().last(), Some(&(lease(4), row(44).unwrap())));
            assert_eq!(chunk.get(&lease(1)).unwrap(), None);
            assert_eq!(chunk.get(&lease(2)).unwrap(), row(2));
            assert_eq!(chunk.counts(), (0, 2), "a row of the chunk before is in memory");
            chunk.keep(vec![2], 1);
        }
        let view = state.view(GROUP).unwrap();
        assert_eq!(
            view.scan(&Scan::Leases(GROUP), 9).unwrap(),
            rows.chunk(&state).unwrap().scan(&Scan::Leases(GROUP), 9).unwrap()
        );
    }

    /// A snapshot of `GROUP` as another store would receive it.
    fn transfer(source: &Arc<StateDb>, target: &StateDb) -> ReceivedSnapshot {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let sent = source.send_snapshot(GROUP, |position| Ok(u64::from(position[0]))).await.unwrap().unwrap();
            let mut data = SnapshotData::Sending(sent.1);
            let mut receiver = SnapshotReceiver::create(target.snapshot_folder(), GROUP).unwrap();
            while let Some(block) = data.next_block().await {
                receiver.write(&block.unwrap()).unwrap();
            }
            match receiver.finish().unwrap() {
                SnapshotData::Received(received) => received,
                SnapshotData::Sending(_) => panic!("received"),
            }
        })
    }

    fn source(dir: &Path) -> Arc<StateDb> {
        let source = open(dir);
        let mut rows = vec![own(10, 20)];
        rows.extend((10..20).map(|slot| (Key::holder(SlotId(slot)), Some(slot_row(7)))));
        // A row of another group, which must not travel.
        rows.push((Key::holder(SlotId(20)), Some(slot_row(99))));
        keep(&source, 9, &rows);
        source
    }

    fn check_installed(state: &StateDb) {
        let reader = state.reader();
        assert_eq!(state.position(GROUP).unwrap(), Some(vec![9]));
        assert_eq!(state.flushed_position(GROUP).unwrap(), Some(vec![9]));
        assert_eq!(reader.get(&Key::holder(SlotId(12))).unwrap(), Some(slot_row(7)));
        assert_eq!(reader.get(&Key::holder(SlotId(5))).unwrap(), None, "rows of before are gone");
        assert_eq!(reader.get(&Key::holder(SlotId(20))).unwrap(), Some(slot_row(1)), "others stay");
        assert_eq!(fs::read_dir(state.snapshot_folder()).unwrap().count(), 0);
    }

    fn target(dir: &Path) -> Arc<StateDb> {
        let target = open(dir);
        let rows =
            [own(5, 15), (Key::holder(SlotId(5)), Some(slot_row(3))), (Key::holder(SlotId(20)), Some(slot_row(1)))];
        keep(&target, 3, &rows);
        target.flush().unwrap();
        target
    }

    #[test]
    fn an_installed_snapshot_replaces_the_groups_rows_and_no_others() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, target) = (source(one.path()), target(other.path()));
        let received = transfer(&source, &target);
        target.install(GROUP, received).unwrap();
        check_installed(&target);
    }

    #[test]
    fn an_interrupted_install_is_completed_at_the_next_start() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, target) = (source(one.path()), target(other.path()));
        let mut received = transfer(&source, &target);
        // As `install` does, up to the middle of the writes: the old rows are gone for good, the new ones not there.
        let name = received.path().file_name().unwrap().to_str().unwrap().to_owned();
        write_durable(target.snapshot_folder(), &intent_name(GROUP), name.as_bytes()).unwrap();
        received.keep(true);
        let mut batch = WriteBatch::default();
        batch.delete_range(keys::slot_start(SlotId(5)), keys::slot_start(SlotId(15)));
        batch.delete(keys::position_key(GROUP));
        target.write(batch).unwrap();
        target.flush().unwrap();
        drop(received);
        drop(target);
        check_installed(&open(other.path()));
    }

    #[test]
    fn left_overs_of_a_transfer_are_removed_at_the_next_start() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (source, target) = (source(one.path()), target(other.path()));
        let mut received = transfer(&source, &target);
        received.keep(true);
        drop(received);
        drop(target);
        let state = open(other.path());
        assert_eq!(state.position(GROUP).unwrap(), Some(vec![3]));
        assert_eq!(fs::read_dir(state.snapshot_folder()).unwrap().count(), 0);
    }
}
