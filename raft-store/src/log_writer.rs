//! Log writer: the one thread that writes the logs of all groups of a store.
//!
//! It drains its channel into one batch, writes it with one fsync, and then completes what was in it, in the order
//! in which it came. While the disk works, the next batch gathers in the channel; where the processor is short, a few
//! milliseconds longer ([`Pause`]). A batch is bounded in bytes, for each group and as a whole, so that a busy group cannot starve the others.
//!
//! # Invariants
//! I6: nothing is completed before it is on disk. A group's commands are written in the order in which they came.
//!
//! # Failure
//! A failed write or fsync is never retried: nothing of the batch and nothing after it is acknowledged, and the
//! process stops.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use seriatim_proto::chaos::{self, Point, Sabotage};
use tokio::sync::mpsc;

use crate::fatal::FatalSignal;
use crate::log_record::{Record, ReplicaKey, chain_seed};
use crate::rocks::is_damage;
use crate::rocks::log_db::{LogBatch, LogDb, LogMeta};
use crate::watermark::Watermark;

/// Most commands of one batch.
const BATCH_COMMANDS_MAX: usize = 4096;
/// Bytes of one batch; it may overshoot by one append.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// Bytes of one group in one batch; a single larger append is allowed.
const GROUP_BYTES_MAX: usize = 4 << 20;
/// Commands that wait for the thread.
const QUEUE_MAX: usize = 4096;
/// Fsyncs that the percentiles look back on.
const FSYNCS_KEPT: usize = 1024;
/// Longest time that commands gather after a batch.
const PAUSE_MAX: Duration = Duration::from_millis(5);
/// Pause for each unit of time that the thread runs late. 10 halves the batches of a busy machine; 20 costs throughput
/// (docs/benchmarks.md).
const PAUSE_PER_LATE: u32 = 10;
/// What Linux adds to a sleep on an idle machine.
const TIMER_SLACK: Duration = Duration::from_micros(60);
/// Wake-ups that the mean of the lateness looks back on.
const LATE_MEAN_OF: u32 = 32;

/// How long a writer that is dropped waits for a disk that does not answer.
const DROP_PATIENCE: Duration = Duration::from_secs(5);

/// Hears when an append is on disk.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What the writer does.
pub(crate) enum LogCommand {
    /// Begin with a replica whose last record has this chain.
    Open {
        /// whose log
        key: ReplicaKey,
        /// chain of its last record
        chain: u32,
    },
    /// Write records, and tell when they are on disk.
    Append {
        /// whose log
        key: ReplicaKey,
        /// rising by one
        records: Vec<Record>,
        /// when it was sent
        sent: Instant,
        /// called once, in order
        done: Done,
    },
    /// Remove the records `(after, last]`.
    Truncate {
        /// whose log
        key: ReplicaKey,
        /// last that stays, `None`: none
        after: Option<u64>,
        /// last there is
        last: u64,
    },
    /// Remove the records `[first, upto]`.
    Purge {
        /// whose log
        key: ReplicaKey,
        /// first there is
        first: u64,
        /// last to go
        upto: u64,
        /// the row that remembers it
        row: Vec<u8>,
    },
    /// Remove everything of a replica that was removed, and tell when that is on disk.
    Forget {
        /// whose log
        key: ReplicaKey,
        /// called once
        done: Done,
    },
    /// Remember the commit index, without a sync.
    Committed {
        /// whose log
        key: ReplicaKey,
        /// the row that remembers it
        row: Vec<u8>,
    },
    /// End.
    Stop,
}

impl LogCommand {
    fn key(&self) -> Option<ReplicaKey> {
        match self {
            LogCommand::Open { key, .. }
            | LogCommand::Append { key, .. }
            | LogCommand::Truncate { key, .. }
            | LogCommand::Purge { key, .. }
            | LogCommand::Forget { key, .. }
            | LogCommand::Committed { key, .. } => Some(*key),
            LogCommand::Stop => None,
        }
    }
}

/// Numbers of the writer, for operators.
#[derive(Clone)]
pub(crate) struct LogStats {
    fsync_us: Arc<Mutex<VecDeque<u32>>>,
    fsync_seconds: Histogram,
    batches: Counter,
    appends: Counter,
    bytes: Counter,
    pause_seconds: Gauge<f64, AtomicU64>,
}

impl LogStats {
    fn new() -> Self {
        Self {
            fsync_us: Arc::default(),
            fsync_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 14)),
            batches: Counter::default(),
            appends: Counter::default(),
            bytes: Counter::default(),
            pause_seconds: Gauge::default(),
        }
    }

    /// Puts the writer's metrics into a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        let seconds = self.fsync_seconds.clone();
        registry.register_with_unit("log_fsync", "Time of one synced write of the log", Unit::Seconds, seconds);
        registry.register("log_batches", "Synced writes of the log", self.batches.clone());
        registry.register("log_appends", "Appends in them", self.appends.clone());
        registry.register_with_unit("log_written", "Bytes in them", Unit::Bytes, self.bytes.clone());
        let pause = self.pause_seconds.clone();
        registry.register_with_unit("log_pause", "Time that appends gather after a synced write", Unit::Seconds, pause);
    }

    /// Median and 99th percentile of recent fsyncs, in microseconds.
    pub(crate) fn fsync_us(&self) -> (u64, u64) {
        let mut recent: Vec<u32> = self.fsync_us.lock().iter().copied().collect();
        recent.sort_unstable();
        let at = |percent: usize| recent.get((recent.len() * percent / 100).min(recent.len().saturating_sub(1)));
        (at(50).map_or(0, |us| u64::from(*us)), at(99).map_or(0, |us| u64::from(*us)))
    }

    fn note(&self, began: Instant, appends: usize, bytes: usize) {
        let took = began.elapsed();
        self.fsync_seconds.observe(took.as_secs_f64());
        self.batches.inc();
        self.appends.inc_by(appends as u64);
        self.bytes.inc_by(bytes as u64);
        let mut recent = self.fsync_us.lock();
        if recent.len() == FSYNCS_KEPT {
            recent.pop_front();
        }
        recent.push_back(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
    }
}

/// The door to the writer. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogSender(mpsc::Sender<LogCommand>);

impl LogSender {
    /// Hands over a command. Waits while the writer is behind.
    pub(crate) async fn send(&self, command: LogCommand) -> io::Result<()> {
        self.0.send(command).await.map_err(|_| io::Error::other("the log writer has stopped"))
    }
}

/// The running writer.
///
/// Dropped without [`LogWriter::stop`], it writes what came before, and its thread and hold of log.db are gone at return:
/// C++ destroys what RocksDB's threads use when the process ends, and aborts it if they are still there.
pub(crate) struct LogWriter {
    sender: LogSender,
    stats: LogStats,
    thread: Mutex<Option<Thread>>,
}

struct Thread {
    handle: JoinHandle<()>,
    /// disconnected when the thread has let go of everything
    ended: std::sync::mpsc::Receiver<()>,
}

impl LogWriter {
    /// Starts the thread.
    pub(crate) fn start(db: Arc<LogDb>, mark: Arc<Watermark>, fatal: FatalSignal) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let stats = LogStats::new();
        let writer = Writer {
            db,
            mark,
            fatal,
            stats: stats.clone(),
            chains: HashMap::new(),
            batch: LogBatch::default(),
            done: Vec::new(),
            marks: Vec::new(),
            bytes: 0,
            scratch: Vec::new(),
            must_sync: false,
            failed: false,
        };
        let (ending, ended) = std::sync::mpsc::channel();
        let handle = std::thread::Builder::new().name("log-writer".to_owned()).spawn(move || {
            writer.run(receiver);
            drop(ending);
        })?;
        Ok(Self { sender: LogSender(sender), stats, thread: Mutex::new(Some(Thread { handle, ended })) })
    }

    /// The door.
    pub(crate) fn sender(&self) -> LogSender {
        self.sender.clone()
    }

    /// Its numbers.
    pub(crate) fn stats(&self) -> LogStats {
        self.stats.clone()
    }

    /// Writes what came before, and ends the thread.
    pub(crate) async fn stop(&self) {
        let Some(thread) = self.thread.lock().take() else { return };
        // An error means that the thread has ended already.
        let _ = self.sender.send(LogCommand::Stop).await;
        let joined = tokio::task::spawn_blocking(move || thread.handle.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::error!("the log writer ended with a panic");
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        let Some(thread) = self.thread.get_mut().take() else { return };
        // Replicas may still hold the door, so that its end alone does not end the thread.
        let deadline = Instant::now() + DROP_PATIENCE;
        while let Err(mpsc::error::TrySendError::Full(_)) = self.sender.0.try_send(LogCommand::Stop) {
            if Instant::now() >= deadline {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(RecvTimeoutError::Timeout) = thread.ended.recv_timeout(left) {
            tracing::error!("the log writer does not end: its disk does not answer");
        }
    }
}

/// How long the thread lets commands gather after a batch: nothing on an idle machine, up to `PAUSE_MAX` on a busy one.
///
/// A batch wakes threads on every replica, and where the processor is short, that costs more than the wait. Whether it
/// is short shows in how late the thread itself runs after somebody woke it. So this is PostgreSQL's `commit_delay`
/// with a delay that finds itself.
#[derive(Debug, Default)]
struct Pause {
    /// moving mean over about `LATE_MEAN_OF` wake-ups
    late: Duration,
    wrote: Option<Instant>,
}

impl Pause {
    /// The thread slept, and ran so long after a command was sent or its time was over.
    fn woken(&mut self, late: Duration) {
        self.late = (self.late * (LATE_MEAN_OF - 1) + late.min(PAUSE_MAX)) / LATE_MEAN_OF;
    }

    fn wrote(&mut self, now: Instant) {
        self.wrote = Some(now);
    }

    fn length(&self) -> Duration {
        (self.late * PAUSE_PER_LATE).min(PAUSE_MAX)
    }

    /// What is left of it at `now`.
    fn left(&self, now: Instant) -> Duration {
        self.wrote.map_or(Duration::ZERO, |wrote| (wrote + self.length()).saturating_duration_since(now))
    }
}

struct Writer {
    db: Arc<LogDb>,
    mark: Arc<Watermark>,
    fatal: FatalSignal,
    stats: LogStats,
    /// chain of each replica's last record
    chains: HashMap<ReplicaKey, u32>,
    // the batch that is being built
    batch: LogBatch,
    done: Vec<Done>,
    marks: Vec<(ReplicaKey, u64)>,
    bytes: usize,
    scratch: Vec<u8>,
    /// the batch has something beside appends that is waited for
    must_sync: bool,
    failed: bool,
}

impl Writer {
    fn run(mut self, mut receiver: mpsc::Receiver<LogCommand>) {
        let mut queue = VecDeque::new();
        let mut pause = Pause::default();
        loop {
            if queue.is_empty() {
                let Some(command) = Self::next(&mut receiver, &mut pause) else { return };
                queue.push_back(command);
                let began = Instant::now();
                let left = pause.left(began);
                if !left.is_zero() {
                    std::thread::sleep(left);
                    pause.woken(began.elapsed().saturating_sub(left + TIMER_SLACK));
                }
            }
            while queue.len() < BATCH_COMMANDS_MAX
                && let Ok(command) = receiver.try_recv()
            {
                queue.push_back(command);
            }
            if self.write_batch(&mut queue) {
                return;
            }
            pause.wrote(Instant::now());
            self.stats.pause_seconds.set(pause.length().as_secs_f64());
        }
    }

    fn next(receiver: &mut mpsc::Receiver<LogCommand>, pause: &mut Pause) -> Option<LogCommand> {
        if let Ok(command) = receiver.try_recv() {
            return Some(command);
        }
        let command = receiver.blocking_recv()?;
        if let LogCommand::Append { sent, .. } = &command {
            pause.woken(sent.elapsed());
        }
        Some(command)
    }

    /// Takes from the queue what fits one batch and writes it. Says whether to stop.
    fn write_batch(&mut self, queue: &mut VecDeque<LogCommand>) -> bool {
        let mut group_bytes: HashMap<ReplicaKey, usize> = HashMap::new();
        let mut held: HashSet<ReplicaKey> = HashSet::new();
        let mut later = VecDeque::new();
        let mut stop = false;
        while let Some(command) = queue.pop_front() {
            let Some(key) = command.key() else {
                // What came before it is written first.
                stop = later.is_empty();
                if !stop {
                    later.push_back(command);
                }
                break;
            };
            if held.contains(&key) {
                later.push_back(command);
                continue;
            }
            if let LogCommand::Append { records, .. } = &command {
                let bytes: usize = records.iter().map(Record::stored_bytes).sum();
                let used = group_bytes.entry(key).or_default();
                if *used > 0 && *used + bytes > GROUP_BYTES_MAX {
                    held.insert(key);
                    later.push_back(command);
                    continue;
                }
                *used += bytes;
            }
            self.add(command);
            if self.batch.bytes() >= BATCH_BYTES_MAX {
                break;
            }
        }
        later.append(queue);
        *queue = later;
        self.commit();
        stop
    }

    fn add(&mut self, command: LogCommand) {
        match command {
            LogCommand::Open { key, chain } => {
                self.chains.insert(key, chain);
            }
            LogCommand::Append { key, records, done, .. } => {
                let chain = self.chains.entry(key).or_insert_with(|| chain_seed(key));
                for record in &records {
                    self.scratch.clear();
                    *chain = record.write(*chain, &mut self.scratch);
                    self.bytes += self.scratch.len();
                    self.batch.put(key, record.index, &self.scratch);
                }
                if let Some(last) = records.last() {
                    self.marks.push((key, last.index));
                }
                self.done.push(done);
            }
            LogCommand::Truncate { key, after, last } => self.truncate(key, after, last),
            LogCommand::Purge { key, first, upto, row } => {
                self.batch.delete(key, first, upto + 1);
                self.batch.put_meta(key, LogMeta::Purged, &row);
            }
            LogCommand::Forget { key, done } => {
                self.chains.remove(&key);
                self.batch.forget(key);
                self.must_sync = true;
                self.done.push(done);
            }
            LogCommand::Committed { key, row } => self.batch.put_meta(key, LogMeta::Committed, &row),
            LogCommand::Stop => {}
        }
    }

    /// What was promised is lowered, on disk, before anything is removed.
    fn truncate(&mut self, key: ReplicaKey, after: Option<u64>, last: u64) {
        self.commit();
        if self.failed {
            return;
        }
        if let Err(error) = self.mark.lower(key, after) {
            return self.fail(error);
        }
        chaos::hit(Point::LogTruncate);
        let chain = match after.map(|index| (index, self.db.read(key, index))) {
            Some((index, Ok(Some(bytes)))) => Record::read(index, bytes).map_err(|error| error.to_string()),
            Some((_, Err(error))) => Err(error.to_string()),
            // What stays is purged already, or nothing stays.
            Some((_, Ok(None))) | None => {
                self.chains.insert(key, chain_seed(key));
                self.batch.delete(key, after.map_or(0, |index| index + 1), last + 1);
                return;
            }
        };
        match chain {
            Ok((_, chain)) => {
                self.chains.insert(key, chain);
                self.batch.delete(key, after.map_or(0, |index| index + 1), last + 1);
            }
            Err(error) => self.fail(error),
        }
    }

    /// Writes the batch, and completes what was in it.
    fn commit(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let marks = std::mem::take(&mut self.marks);
        let bytes = std::mem::take(&mut self.bytes);
        let must_sync = std::mem::take(&mut self.must_sync);
        if !self.failed && !batch.is_empty() {
            let sync = !marks.is_empty() || must_sync;
            let began = Instant::now();
            chaos::hit(Point::LogWriteBefore);
            match self.db.write(batch, sync && !chaos::sabotaged(Sabotage::NoFsync)) {
                Ok(()) if sync => {
                    chaos::hit(Point::LogWriteAfter);
                    self.stats.note(began, marks.len(), bytes);
                    self.mark.raise(&marks);
                }
                Ok(()) => {}
                Err(error) if is_damage(&error) => {
                    self.failed = true;
                    self.fatal.raise_rot(format!("write the log: {error}"));
                }
                Err(error) => self.fail(error),
            }
        }
        for done in self.done.drain(..) {
            done(if self.failed { Err(io::Error::other("the log could not be written")) } else { Ok(()) });
        }
    }

    fn fail(&mut self, error: impl std::fmt::Display) {
        self.failed = true;
        self.fatal.raise(format!("write the log: {error}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::log_record::RecordKind;
    use crate::rocks::log_db::test_key;

    fn record(index: u64, bytes: usize) -> Record {
        let payload = Bytes::from(vec![7; bytes]);
        Record { index, term: 1, node: 1, kind: RecordKind::Commands, count: 1, payload }
    }

    #[test]
    fn a_thread_that_runs_in_time_hardly_waits_and_one_that_runs_late_waits_up_to_the_bound() {
        let mut pause = Pause::default();
        let began = Instant::now();
        assert_eq!(pause.left(began), Duration::ZERO);
        let after = |pause: &mut Pause, late: Duration| {
            (0..200).for_each(|_| pause.woken(late));
            pause.wrote(began);
            pause.left(began)
        };
        assert!(after(&mut pause, Duration::from_micros(30)) <= Duration::from_micros(300));
        assert_eq!(after(&mut pause, Duration::from_secs(9)), PAUSE_MAX);
        assert_eq!(pause.left(began + PAUSE_MAX / 2), PAUSE_MAX / 2);
        assert_eq!(pause.left(began + PAUSE_MAX), Duration::ZERO);
        // One late wake-up among many does not change much.
        after(&mut pause, Duration::from_micros(30));
        pause.woken(Duration::from_secs(9));
        assert!(pause.length() < PAUSE_MAX / 2, "{pause:?}");
    }

    #[tokio::test]
    async fn a_dropped_writer_has_written_what_came_and_let_go_of_the_database() {
        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(LogDb::open(&folder.path().join("log.db"), |_| None).unwrap());
        let fatal = FatalSignal::new();
        let mark = Arc::new(Watermark::open(&folder.path().join("watermark"), true, fatal.clone()).unwrap());
        let writer = LogWriter::start(Arc::clone(&db), mark, fatal).unwrap();
        // As a replica that outlives the writer.
        let door = writer.sender();
        let (told, hears) = std::sync::mpsc::channel();
        for index in 0..200 {
            let told = told.clone();
            let done: Done = Box::new(move |result| told.send((index, result)).unwrap());
            let append = LogCommand::Append {
                key: test_key(1, 1),
                records: vec![record(index, 10)],
                sent: Instant::now(),
                done,
            };
            door.send(append).await.unwrap();
        }
        drop(writer);
        assert_eq!(Arc::strong_count(&db), 1, "the thread holds the database no more");
        let done: Vec<u64> = hears.try_iter().map(|(index, result)| result.map(|()| index).unwrap()).collect();
        assert_eq!(done, (0..200).collect::<Vec<_>>());
        let late = LogCommand::Committed { key: test_key(1, 1), row: Vec::new() };
        assert!(door.send(late).await.is_err());
    }

    #[tokio::test]
    async fn appends_complete_in_order_and_on_disk_even_beyond_the_group_cap() {
        let folder = tempfile::tempdir().unwrap();
        let db = Arc::new(LogDb::open(&folder.path().join("log.db"), |_| None).unwrap());
        let fatal = FatalSignal::new();
        let mark = Arc::new(Watermark::open(&folder.path().join("watermark"), true, fatal.clone()).unwrap());
        let writer = LogWriter::start(Arc::clone(&db), Arc::clone(&mark), fatal.clone()).unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let keys = [test_key(1, 1), test_key(2, 2)];
        for index in 0..20_u64 {
            for key in keys {
                let (order, db) = (Arc::clone(&order), Arc::clone(&db));
                let done = move |result: io::Result<()>| {
                    result.unwrap();
                    assert!(db.read(key, index).unwrap().is_some());
                    order.lock().push((key, index));
                };
                let records = vec![record(index, if key == keys[0] { 1 << 20 } else { 10 })];
                writer
                    .sender()
                    .send(LogCommand::Append { key, records, sent: Instant::now(), done: Box::new(done) })
                    .await
                    .unwrap();
            }
        }
        let stats = writer.stats();
        // Writes what is left first.
        tokio::time::timeout(Duration::from_secs(30), writer.stop()).await.unwrap();
        for key in keys {
            let seen: Vec<u64> = order.lock().iter().filter(|(of, _)| *of == key).map(|(_, index)| *index).collect();
            assert_eq!(seen, (0..20).collect::<Vec<_>>());
            assert_eq!(mark.mark(key).durable, Some(19));
        }
        assert!(stats.fsync_us().0 > 0);
        assert!(fatal.reason().is_none());
    }
}
