//! Log store: the logs of a store's replicas, as openraft sees them.
//!
//! An append is in the replica's tail cache when it returns, and on disk when the writer says so. Reads are served
//! from the cache, and from log.db for what is older. Votes go to the watermark file.
//!
//! # Invariants
//! I6: an entry that is not on disk yet never leaves the cache, and its callback is not called.
//! The stored log has no hole: `[first, end)`, with `first` right behind what was purged.
//!
//! # Failure
//! A replica whose log ends below what was promised, or has a hole or a damaged record, is rotten: it is not
//! started, does not vote, and is rebuilt under a new replica id.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, ControlFlow, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use seriatim_proto::chaos::{self, Point, Sabotage};
use seriatim_proto::{codec, limits};

use super::codec::{LogIdRow, entry_of, record_of};
use super::types::{Entry, LogId, Payload, TypeConfig, Vote};
use crate::fatal::FatalSignal;
use crate::log_record::{Record, RecordError, ReplicaKey, chain_seed};
use crate::log_writer::{LogCommand, LogSender, LogStats, LogWriter};
use crate::rocks::log_db::{LogDb, LogDbError, LogMeta};
use crate::rocks::{is_damage, is_damage_io};
use crate::watermark::{Watermark, WatermarkError};

/// Bytes of a replica's newest entries that stay in memory once they are on disk.
const CACHE_BYTES_MAX: usize = 16 << 20;
/// What an entry costs in memory beside its payload.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// All logs of a store: log.db, the watermark file and the writer.
pub(crate) struct LogStores {
    db: Arc<LogDb>,
    mark: Arc<Watermark>,
    writer: LogWriter,
}

/// Why the logs of a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogOpenError {
    /// log.db
    #[error(transparent)]
    Db(#[from] LogDbError),
    /// the watermark file
    #[error(transparent)]
    Watermark(#[from] WatermarkError),
    /// no thread for the writer
    #[error("start the log writer")]
    Thread(#[source] io::Error),
    /// log.db cannot be read
    #[error("read the log of {key}")]
    Read {
        /// whose log
        key: ReplicaKey,
        /// why
        #[source]
        source: io::Error,
    },
    /// One replica's log is not what was promised.
    #[error(
        "{key} is rotten: {rot}; it is not started and does not vote: remove it and rebuild it under a new replica id"
    )]
    Rot {
        /// whose log
        key: ReplicaKey,
        /// what is wrong
        rot: Rot,
    },
}

impl LogOpenError {
    /// Are the files that all logs share damaged?
    pub(crate) fn is_rot(&self) -> bool {
        match self {
            LogOpenError::Db(LogDbError::Rot { .. })
            | LogOpenError::Watermark(WatermarkError::Damaged { .. } | WatermarkError::Missing { .. }) => true,
            LogOpenError::Db(LogDbError::Open { source, .. }) => is_damage(source),
            LogOpenError::Read { source, .. } => is_damage_io(source),
            LogOpenError::Watermark(WatermarkError::Io { .. } | WatermarkError::Version { .. })
            | LogOpenError::Thread(_)
            | LogOpenError::Rot { .. } => false,
        }
    }
}

/// What is wrong with a rotten log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Rot {
    /// It ends too early.
    #[error("its log was promised up to {promised} and ends at {end:?}")]
    Short {
        /// the watermark
        promised: u64,
        /// highest of log end, purged and applied
        end: Option<u64>,
    },
    /// The rows that the purged entries made are not there.
    #[error("its log begins behind entry {purged}, and its rows reach {applied:?}")]
    Behind {
        /// last purged entry
        purged: u64,
        /// last applied entry on disk
        applied: Option<u64>,
    },
    /// Its rows are there, and no log, no vote and no mark: what a crash leaves of a removal.
    #[error("there are rows of it, and neither log nor vote")]
    Rows,
    /// Entries are missing inside.
    #[error("entry {expected} is missing, {found} is there")]
    Hole {
        /// what should come
        expected: u64,
        /// what came
        found: u64,
    },
    /// A record is not what was written.
    #[error("entry {index}: {error}")]
    Record {
        /// which
        index: u64,
        /// why
        error: RecordError,
    },
    /// Checked bytes that are no entry.
    #[error("entry {index} cannot be decoded")]
    Entry {
        /// which
        index: u64,
    },
}

impl LogStores {
    /// Opens log.db and the watermark file in `folder`, and starts the writer. Of replicas that are being `removed`
    /// some may be missing.
    pub(crate) fn open(
        folder: &Path,
        removed: &BTreeSet<ReplicaKey>,
        fatal: &FatalSignal,
    ) -> Result<Self, LogOpenError> {
        let mark_path = folder.join("watermark");
        // The torn end of log.db may be cut only if what is left reaches the watermark. That file does not depend
        // on log.db but for this question: whether it may begin.
        let shortage = |db: &LogDb| match Watermark::open(&mark_path, false, fatal.clone()) {
            Ok(mark) => shortage(db, &mark, removed),
            Err(error) => Some(error.to_string()),
        };
        let db = Arc::new(LogDb::open(&folder.join("log.db"), shortage)?);
        let empty = db.is_empty().map_err(|error| LogDbError::Open { path: folder.join("log.db"), source: error })?;
        let mark = Arc::new(Watermark::open(&mark_path, empty, fatal.clone())?);
        let writer =
            LogWriter::start(Arc::clone(&db), Arc::clone(&mark), fatal.clone()).map_err(LogOpenError::Thread)?;
        Ok(Self { db, mark, writer })
    }

    /// Opens one replica's log; checks all of it, and that it reaches what was promised. `applied` is the index
    /// that the state machine has on disk: entries up to there may be missing.
    pub(crate) async fn open_replica(&self, key: ReplicaKey, applied: Option<u64>) -> Result<LogStore, LogOpenError> {
        let log = load(&self.db, key).map_err(|error| error.of(key))?;
        let end = log.log.last.map(|id| id.index).max(applied);
        if let Some(promised) = self.mark.mark(key).durable
            && end < Some(promised)
            && !chaos::sabotaged(Sabotage::WalCut)
        {
            return Err(LogOpenError::Rot { key, rot: Rot::Short { promised, end } });
        }
        if let Some(purged) = log.log.purged.map(|id| id.index)
            && applied < Some(purged)
        {
            return Err(LogOpenError::Rot { key, rot: Rot::Behind { purged, applied } });
        }
        let nothing = log.log.last.is_none() && log.log.purged.is_none() && self.mark.mark(key).vote.is_none();
        if nothing && applied.is_some() {
            return Err(LogOpenError::Rot { key, rot: Rot::Rows });
        }
        let sender = self.writer.sender();
        let open = LogCommand::Open { key, chain: log.chain };
        sender.send(open).await.map_err(|source| LogOpenError::Read { key, source })?;
        let shared =
            Shared { key, db: Arc::clone(&self.db), mark: Arc::clone(&self.mark), sender, log: Mutex::new(log.log) };
        Ok(LogStore(Arc::new(shared)))
    }

    /// Reads and checks records of a replica's log from entry `from` on, about `bytes_max`; what is not there any more
    /// is no fault.
    pub(crate) async fn scrub(&self, key: ReplicaKey, from: u64, bytes_max: usize) -> Result<Scrubbed, LogOpenError> {
        let db = Arc::clone(&self.db);
        let scrubbed = tokio::task::spawn_blocking(move || scrub(&db, key, from, bytes_max)).await;
        scrubbed.map_err(io::Error::other).flatten().map_err(|source| LogOpenError::Read { key, source })
    }

    /// The writer's numbers.
    pub(crate) fn stats(&self) -> LogStats {
        self.writer.stats()
    }

    /// Has the replica ever saved a vote?
    pub(crate) fn has_voted(&self, key: ReplicaKey) -> bool {
        self.mark.mark(key).vote.is_some()
    }

    /// Waits until all votes are on disk.
    pub(crate) async fn settle(&self) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // Nobody waits any more if the store stops.
        self.mark.settle(move |result| drop(sender.send(result)));
        receiver.await.map_err(|_| io::Error::other("the store stops"))?
    }

    /// Removes the log, the vote and the mark of a replica that does not run and never will again; on disk at return.
    pub(crate) async fn forget(&self, key: ReplicaKey) -> io::Result<()> {
        let gone = || io::Error::other("the store stops");
        // The log first: what the writer has yet to do for this replica raises its mark.
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // Nobody waits any more if the store stops.
        let done = Box::new(move |result| drop(sender.send(result)));
        self.writer.sender().send(LogCommand::Forget { key, done }).await?;
        receiver.await.map_err(|_| gone())??;
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.mark.forget(key, move |result| drop(sender.send(result)));
        receiver.await.map_err(|_| gone())?
    }

    /// Writes what is left and ends the writer. The replicas must have been shut down.
    pub(crate) async fn close(&self) {
        self.writer.stop().await;
    }
}

/// What the whole database lacks of what was promised.
fn shortage(db: &LogDb, mark: &Watermark, removed: &BTreeSet<ReplicaKey>) -> Option<String> {
    if chaos::sabotaged(Sabotage::WalCut) {
        return None;
    }
    for (key, promised) in mark.marks().into_iter().filter(|(key, _)| !removed.contains(key)) {
        let Some(promised) = promised.durable else { continue };
        let end = db.last_index(key).ok()?.max(purged(db, key).ok()?.map(|id| id.index));
        if end < Some(promised) {
            return Some(format!("{key}: {}", Rot::Short { promised, end }));
        }
    }
    None
}

/// What is known of a log at its opening.
struct Loaded {
    log: Log,
    chain: u32,
}

enum LoadError {
    Read(io::Error),
    Rot(Rot),
}

impl LoadError {
    fn of(self, key: ReplicaKey) -> LogOpenError {
        match self {
            LoadError::Read(source) => LogOpenError::Read { key, source },
            LoadError::Rot(rot) => LogOpenError::Rot { key, rot },
        }
    }
}

/// Reads and checks all records of a replica. The newest stay in the cache.
fn load(db: &LogDb, key: ReplicaKey) -> Result<Loaded, LoadError> {
    let purged = purged(db, key).map_err(LoadError::Read)?;
    let committed = read_row(db, key, LogMeta::Committed).map_err(LoadError::Read)?;
    let first = purged.map_or(0, |id| id.index + 1);
    let mut log = Log { purged, last: purged, first, end: first, committed, ..Log::default() };
    let mut chain = None;
    let mut rot = None;
    db.scan(key, first, u64::MAX, |index, bytes| {
        if index != log.end {
            rot = Some(Rot::Hole { expected: log.end, found: index });
            return ControlFlow::Break(());
        }
        // The first record's predecessor is gone, but for a log that starts at its beginning.
        let previous = if index == 0 { Some(chain_seed(key)) } else { chain };
        match Record::read_linked(index, bytes, previous) {
            Err(error) => rot = Some(Rot::Record { index, error }),
            Ok((record, next)) => match entry_of(record) {
                Err(_) => rot = Some(Rot::Entry { index }),
                Ok(entry) => {
                    chain = Some(next);
                    log.push(entry);
                    log.durable_end = log.end;
                    log.evict();
                }
            },
        }
        if rot.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .map_err(|error| LoadError::Read(io::Error::other(error)))?;
    match rot {
        Some(rot) => Err(LoadError::Rot(rot)),
        None => Ok(Loaded { log, chain: chain.unwrap_or_else(|| chain_seed(key)) }),
    }
}

/// What a part of a log is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scrubbed {
    /// what was written
    Sound {
        /// where to go on, if there is more
        next: Option<u64>,
        /// read
        bytes: u64,
    },
    /// not what was written, and why
    Rot(String),
}

pub(super) fn scrub(db: &LogDb, key: ReplicaKey, from: u64, bytes_max: usize) -> io::Result<Scrubbed> {
    let (mut chain, mut last, mut bytes, mut rot, mut more) = (None, None, 0, None, false);
    db.scan(key, from, u64::MAX, |index, record| {
        if bytes >= bytes_max {
            more = true;
            return ControlFlow::Break(());
        }
        bytes += record.len();
        // All of one moment: what was purged or truncated meanwhile makes no hole.
        let expected = last.map_or(index, |last| last + 1);
        rot = match Record::read_linked(index, record, chain) {
            _ if index != expected => Some(Rot::Hole { expected, found: index }),
            Err(error) => Some(Rot::Record { index, error }),
            Ok((_, next)) => {
                (chain, last) = (Some(next), Some(index));
                return ControlFlow::Continue(());
            }
        };
        ControlFlow::Break(())
    })
    .map_err(io::Error::other)?;
    Ok(match rot {
        Some(rot) => Scrubbed::Rot(rot.to_string()),
        // The last one is read again, so that the next one's link to it is checked; but not one that fills all alone.
        None => {
            let next = last.filter(|_| more).map(|last: u64| if last > from { last } else { last + 1 });
            Scrubbed::Sound { next, bytes: bytes as u64 }
        }
    })
}

fn purged(db: &LogDb, key: ReplicaKey) -> io::Result<Option<LogId>> {
    read_row(db, key, LogMeta::Purged)
}

fn read_row(db: &LogDb, key: ReplicaKey, meta: LogMeta) -> io::Result<Option<LogId>> {
    match db.read_meta(key, meta).map_err(io::Error::other)? {
        Some(bytes) => Ok(Some(codec::decode::<LogIdRow>(&bytes).map_err(io::Error::other)?.into())),
        None => Ok(None),
    }
}

/// One replica's log. Cheap to clone; clones are the same log.
#[derive(Clone)]
pub(crate) struct LogStore(Arc<Shared>);

struct Shared {
    key: ReplicaKey,
    db: Arc<LogDb>,
    mark: Arc<Watermark>,
    sender: LogSender,
    log: Mutex<Log>,
}

/// What is in memory of a log.
///
/// Invariant: the stored log is `[first, end)`, the cache is its end, and what is not on disk is in the cache.
#[derive(Default)]
struct Log {
    purged: Option<LogId>,
    /// last entry, or what was purged last
    last: Option<LogId>,
    first: u64,
    end: u64,
    cache: VecDeque<Entry>,
    cache_bytes: usize,
    /// behind the last entry on disk
    durable_end: u64,
    /// newest commit that openraft wanted to be saved
    committed: Option<LogId>,
    /// and the one that the writer was told
    committed_told: Option<LogId>,
    /// counts what removed entries
    removals: u64,
    /// counts truncations: a completion from before one says nothing about what is there now
    truncations: u64,
}

impl Log {
    fn cache_first(&self) -> u64 {
        self.end - self.cache.len() as u64
    }

    fn push(&mut self, entry: Entry) {
        self.last = Some(entry.log_id);
        self.end = entry.log_id.index + 1;
        self.cache_bytes += entry_bytes(&entry);
        self.cache.push_back(entry);
    }

    /// Drops the oldest cached entries that are on disk until the cache is within its bound.
    fn evict(&mut self) {
        while self.cache_bytes > CACHE_BYTES_MAX && self.cache_first() < self.durable_end {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= entry_bytes(&entry);
        }
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    ENTRY_OVERHEAD_BYTES
        + match &entry.payload {
            Payload::Normal(batch) => batch.bytes.len(),
            _ => 0,
        }
}

impl Shared {
    /// Entries of `[start, end)` that exist; stops early behind `bytes_max`, but not without any entry.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        loop {
            let (stored, cached, removals) = {
                let log = self.log.lock();
                let (start, end) = (start.max(log.first), end.min(log.end));
                if start >= end {
                    return Ok(Vec::new());
                }
                let split = log.cache_first().clamp(start, end);
                let mut budget = bytes_max;
                let cached: Vec<Entry> = if split > start && bytes_max != usize::MAX {
                    // What is stored fills the budget; the caller comes back for the rest.
                    Vec::new()
                } else {
                    // A range that ends before the cache begins takes nothing from it.
                    let from = usize::try_from(split.saturating_sub(log.cache_first())).map_err(io::Error::other)?;
                    let count = usize::try_from(end - split).map_err(io::Error::other)?;
                    log.cache.iter().skip(from).take(count).take_while(within(&mut budget)).cloned().collect()
                };
                (start..split, cached, log.removals)
            };
            if stored.is_empty() {
                return Ok(cached);
            }
            let expected = stored.end - stored.start;
            let (mut entries, cut) = self.read_stored(stored.start, stored.end, bytes_max)?;
            if self.log.lock().removals != removals {
                continue; // Entries went while we read: look again.
            }
            if cut {
                return Ok(entries);
            }
            if entries.len() as u64 != expected {
                let found = entries.len();
                return Err(invalid(format!("{}: {found} of {expected} entries from {}", self.key, stored.start)));
            }
            entries.extend(cached);
            return Ok(entries);
        }
    }

    /// Reads from log.db. Says whether it stopped early because of `bytes_max`.
    fn read_stored(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<(Vec<Entry>, bool)> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut wrong = None;
        let mut cut = false;
        let mut budget = bytes_max;
        let mut fits = within(&mut budget);
        let mut visit = |index: u64, bytes: Bytes| -> io::Result<bool> {
            if index != start + entries.len() as u64 {
                return Ok(false); // the caller finds too few
            }
            let entry = decode_stored(index, bytes)?;
            if !fits(&&entry) {
                cut = true;
                return Ok(false);
            }
            entries.push(entry);
            Ok(true)
        };
        self.db
            .scan(self.key, start, end, |index, bytes| match visit(index, bytes) {
                Ok(true) => ControlFlow::Continue(()),
                Ok(false) => ControlFlow::Break(()),
                Err(error) => {
                    wrong = Some(error);
                    ControlFlow::Break(())
                }
            })
            .map_err(io::Error::other)?;
        match wrong {
            Some(error) => Err(error),
            None => Ok((entries, cut)),
        }
    }

    /// The entry's id, wherever the entry is.
    fn log_id_at(&self, index: u64) -> io::Result<Option<LogId>> {
        let purged = self.log.lock().purged;
        match purged {
            Some(purged) if purged.index == index => Ok(Some(purged)),
            _ => Ok(self.read(index, index + 1, usize::MAX)?.first().map(|entry| entry.log_id)),
        }
    }
}

fn decode_stored(index: u64, bytes: Bytes) -> io::Result<Entry> {
    let (record, _) = Record::read(index, bytes).map_err(|error| invalid(format!("entry {index}: {error}")))?;
    entry_of(record).map_err(|error| invalid(format!("entry {index}: {error}")))
}

/// Takes entries while the budget lasts; the first always.
fn within(budget: &mut usize) -> impl FnMut(&&Entry) -> bool {
    let mut first = true;
    move |entry| {
        let bytes = entry_bytes(entry);
        let fits = first || bytes <= *budget;
        *budget = budget.saturating_sub(bytes);
        first = false;
        fits
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end + 1,
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + openraft::OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = bounds(&range);
        self.0.read(start, end, usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.mark.mark(self.0.key).vote.map(Vote::from))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.0.read(start, end, limits::APPEND_BYTES_MAX as usize)
    }

    /// In pieces, so that a long way to catch up is never in memory as a whole.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + openraft::OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + openraft::OptionalSend,
    {
        let (start, end) = bounds(&range);
        let state = (Arc::clone(&self.0), start, Vec::new().into_iter());
        Box::pin(stream::unfold(state, move |(shared, next, mut piece)| async move {
            if let Some(entry) = piece.next() {
                return Some((Ok(entry), (shared, next, piece)));
            }
            match shared.read(next, end, limits::APPEND_BYTES_MAX as usize) {
                Ok(entries) => {
                    let last = entries.last()?.log_id.index;
                    let mut piece = entries.into_iter();
                    piece.next().map(|entry| (Ok(entry), (shared, last + 1, piece)))
                }
                Err(error) => Some((Err(error), (shared, end, Vec::new().into_iter()))),
            }
        }))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let log = self.0.log.lock();
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: log.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let done = move |result| {
            // The group may have been stopped in between.
            let _ = sender.send(result);
        };
        self.0.mark.save_vote(self.0.key, (*vote).into(), done);
        receiver.await.map_err(|_| io::Error::other("the watermark thread is gone"))?
    }

    /// Only noted: it goes to disk, unsynced, with the next append.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.0.log.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.log.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + openraft::OptionalSend,
        I::IntoIter: openraft::OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let records: Vec<Record> = entries.iter().map(record_of).collect();
        let key = self.0.key;
        let (truncations, end, committed) = {
            let mut log = self.0.log.lock();
            for entry in entries {
                let index = entry.log_id.index;
                if log.first == log.end && log.purged.is_none() {
                    // A log may begin anywhere; openraft lets it begin at 0 or behind a snapshot.
                    (log.first, log.end) = (index, index);
                }
                if index != log.end {
                    return Err(invalid(format!("{key}: entry {index} cannot follow, {} is due", log.end)));
                }
                log.push(entry);
            }
            log.evict();
            let committed = (log.committed != log.committed_told).then_some(log.committed).flatten();
            log.committed_told = log.committed;
            (log.truncations, log.end, committed)
        };
        if let Some(id) = committed {
            self.0.sender.send(LogCommand::Committed { key, row: codec::encode(&LogIdRow::from(id)) }).await?;
        }
        let shared = Arc::clone(&self.0);
        let done = move |result: io::Result<()>| {
            if result.is_ok() {
                let mut log = shared.log.lock();
                if log.truncations == truncations {
                    log.durable_end = log.durable_end.max(end);
                    log.evict();
                }
            }
            callback.io_completed(result);
        };
        self.0
            .sender
            .send(LogCommand::Append { key, records, sent: std::time::Instant::now(), done: Box::new(done) })
            .await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let after = last_log_id.map(|id| id.index);
        let stay_end = after.map_or(0, |index| index + 1);
        let kept = match after {
            Some(index) => self.0.log_id_at(index)?,
            None => None,
        };
        let last = {
            let mut log = self.0.log.lock();
            if stay_end >= log.end {
                return Ok(());
            }
            let last = log.end - 1;
            while log.end > stay_end
                && let Some(entry) = log.cache.pop_back()
            {
                log.end -= 1;
                log.cache_bytes -= entry_bytes(&entry);
            }
            log.end = stay_end.max(log.first);
            log.last = kept.or(log.purged);
            log.durable_end = log.durable_end.min(log.end);
            log.removals += 1;
            log.truncations += 1;
            last
        };
        self.0.sender.send(LogCommand::Truncate { key: self.0.key, after, last }).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let first = {
            let mut log = self.0.log.lock();
            if log.purged >= Some(log_id) {
                return Ok(());
            }
            let first = log.first.min(log_id.index);
            let next = log_id.index + 1;
            log.purged = Some(log_id);
            while log.cache_first() < next && !log.cache.is_empty() {
                log.drop_front();
            }
            log.first = log.first.max(next);
            if next >= log.end {
                log.end = log.first;
                log.last = Some(log_id);
                log.durable_end = log.end;
            }
            log.removals += 1;
            first
        };
        chaos::hit(Point::LogPurge);
        let row = codec::encode(&LogIdRow::from(log_id));
        let purge = LogCommand::Purge { key: self.0.key, first, upto: log_id.index, row };
        self.0.sender.send(purge).await
    }
}
