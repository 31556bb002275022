//! Watermark: what a store promised about its logs, kept outside of RocksDB.
//!
//! A log whose newest file lost its end looks healthy to every database. So each replica's vote and the index up to
//! which its log was promised are kept here too, in a small file that is written twice.
//!
//! ```text
//!  offset 0      region A: magic 8, version 1, generation 8, length 4, crc32c 4, marks (proto codec)
//!  offset 64 KiB region B: the same
//! ```
//! A vote or a lowered mark goes to one region, is synced, and then to the other and is synced again, before it
//! counts: the loss of either region loses no promise. A raised mark goes to the older region only, in the
//! background: it may lag behind the log by [`LAG_MS`].
//!
//! # Invariants
//! I6: the file never claims less than what was promised at its last sync. Votes live only here.
//!
//! # Failure
//! A crash while a region is written leaves the other one, which holds everything that was acknowledged.
//! A failed write or sync is fatal and never acknowledged.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use seriatim_proto::chaos::{self, Point};
use seriatim_proto::codec;
use seriatim_proto::ids::{GroupId, ReplicaId};

use crate::fatal::FatalSignal;
use crate::log_record::ReplicaKey;

/// How long a raised mark may wait for its sync.
const LAG_MS: u64 = 10;
const REGION_BYTES: u64 = 64 << 10;
const MAGIC: &[u8; 8] = b"SRTMMARK";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 25;

/// A vote as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct MarkVote {
    /// term voted in
    pub(crate) term: u64,
    /// replica voted for
    pub(crate) node: u64,
    /// that replica is known to lead
    pub(crate) committed: bool,
}

/// What was promised for one replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// its vote
    pub(crate) vote: Option<MarkVote>,
    /// its log was on disk up to here
    pub(crate) durable: Option<u64>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WatermarkError {
    /// The operating system's own refusal.
    #[error("open the watermark file {path}")]
    Io {
        /// the file
        path: PathBuf,
        /// why
        #[source]
        source: io::Error,
    },
    /// Neither copy is what was written.
    #[error(
        "both copies in the watermark file {path} are damaged: this store's votes are lost, rebuild it under a new id"
    )]
    Damaged {
        /// the file
        path: PathBuf,
    },
    /// Another version of this program wrote it: nothing is lost.
    #[error(
        "the watermark file {path} is of version {found}, this program reads {VERSION}: run the program that wrote it"
    )]
    Version {
        /// the file
        path: PathBuf,
        /// in both copies
        found: u8,
    },
    /// The log has records, so there was a file.
    #[error(
        "the watermark file {path} is missing, but the log is not empty: this store's votes are lost, rebuild it under a new id"
    )]
    Missing {
        /// the file
        path: PathBuf,
    },
}

type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The file's owner: a thread of its own writes it.
pub(crate) struct Watermark {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    marks: BTreeMap<(u32, u64), Mark>,
    /// wait for both regions
    waiting: Vec<Done>,
    raised: bool,
    stopping: bool,
    failed: bool,
}

impl Watermark {
    /// Reads the file, or begins with an empty one if `may_begin` (the log is empty).
    pub(crate) fn open(path: &Path, may_begin: bool, fatal: FatalSignal) -> Result<Self, WatermarkError> {
        let refusal = |source| WatermarkError::Io { path: path.to_owned(), source };
        let found = path.try_exists().map_err(refusal)?;
        if !found && !may_begin {
            return Err(WatermarkError::Missing { path: path.to_owned() });
        }
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(refusal)?;
        let length = file.metadata().map_err(refusal)?.len();
        let mut pen = Pen { file, generation: 0, next: Region::A };
        let mut marks = BTreeMap::new();
        if length == 0 && may_begin {
            // Also the state after a crash in the middle of the first start: nothing was promised yet.
            pen.write_both(&marks).map_err(refusal)?;
            sync_folder(path).map_err(refusal)?;
        } else {
            let (a, b) = (pen.read(Region::A).map_err(refusal)?, pen.read(Region::B).map_err(refusal)?);
            let newest = match (a, b) {
                (Some(a), Some(b)) if a.0 >= b.0 => (a, Region::B),
                (Some(_), Some(b)) => (b, Region::A),
                (Some(a), None) => (a, Region::B),
                (None, Some(b)) => (b, Region::A),
                // A crash in the middle of the very first write: no region was ever complete.
                (None, None) if may_begin && length <= REGION_BYTES => ((0, BTreeMap::new()), Region::A),
                (None, None) => {
                    let versions = (pen.version(Region::A).map_err(refusal)?, pen.version(Region::B).map_err(refusal)?);
                    return Err(match versions {
                        (Some(found), Some(other)) if found == other && found != VERSION => {
                            WatermarkError::Version { path: path.to_owned(), found }
                        }
                        _ => WatermarkError::Damaged { path: path.to_owned() },
                    });
                }
            };
            ((pen.generation, marks), pen.next) = newest;
            // Both regions hold the newest state before anything new is promised.
            pen.write_both(&marks).map_err(refusal)?;
        }
        let shared = Arc::new(Shared { state: Mutex::new(State { marks, ..State::default() }), wake: Condvar::new() });
        let thread = std::thread::Builder::new()
            .name("watermark".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.run(pen, &fatal)
            })
            .map_err(refusal)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What was promised for a replica.
    pub(crate) fn mark(&self, key: ReplicaKey) -> Mark {
        self.shared.state.lock().marks.get(&place(key)).copied().unwrap_or_default()
    }

    /// All replicas that were ever promised anything.
    pub(crate) fn marks(&self) -> Vec<(ReplicaKey, Mark)> {
        let key = |(group, replica): (u32, u64)| ReplicaKey { group: GroupId(group), replica: ReplicaId(replica) };
        self.shared.state.lock().marks.iter().map(|(place, mark)| (key(*place), *mark)).collect()
    }

    /// Stores a vote; `done` hears when it is on disk twice.
    pub(crate) fn save_vote(
        &self,
        key: ReplicaKey,
        vote: MarkVote,
        done: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        self.promise(key, |mark| mark.vote = Some(vote), Box::new(done));
    }

    /// Notes that the log is on disk up to `index`. Written in the background.
    pub(crate) fn raise(&self, marks: &[(ReplicaKey, u64)]) {
        let mut state = self.shared.state.lock();
        for (key, index) in marks {
            state.marks.entry(place(*key)).or_default().durable = Some(*index);
        }
        let idle = !std::mem::replace(&mut state.raised, true);
        drop(state);
        if idle {
            self.shared.wake.notify_one();
        }
    }

    /// Lowers the mark before a truncation removes what is behind `index` (`None`: everything). Waits for the disk.
    pub(crate) fn lower(&self, key: ReplicaKey, index: Option<u64>) -> io::Result<()> {
        if self.mark(key).durable <= index {
            return Ok(());
        }
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let done = move |result| {
            // The receiver waits below.
            let _ = sender.send(result);
        };
        self.promise(key, |mark| mark.durable = index, Box::new(done));
        receiver.recv().unwrap_or_else(|_| Err(io::Error::other("the watermark thread is gone")))
    }

    /// `done` hears when everything that is known now is on disk twice.
    pub(crate) fn settle(&self, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        self.write_soon(|_| (), Box::new(done));
    }

    /// Forgets a replica that was removed; `done` hears when that is on disk twice.
    pub(crate) fn forget(&self, key: ReplicaKey, done: impl FnOnce(io::Result<()>) + Send + 'static) {
        let change = |marks: &mut Marks| {
            marks.remove(&place(key));
        };
        self.write_soon(change, Box::new(done));
    }

    fn promise(&self, key: ReplicaKey, change: impl FnOnce(&mut Mark), done: Done) {
        self.write_soon(|marks| change(marks.entry(place(key)).or_default()), done);
    }

    fn write_soon(&self, change: impl FnOnce(&mut Marks), done: Done) {
        let mut state = self.shared.state.lock();
        if state.failed || state.stopping {
            drop(state);
            return done(Err(io::Error::other("the watermark file failed earlier")));
        }
        change(&mut state.marks);
        state.waiting.push(done);
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl Drop for Watermark {
    /// Writes what is left.
    fn drop(&mut self) {
        self.shared.state.lock().stopping = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in the thread has been reported by its own hook.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// The thread: takes what changed, writes it, answers those who wait.
    fn run(&self, mut pen: Pen, fatal: &FatalSignal) {
        let mut synced_at: Option<Instant> = None;
        loop {
            let mut state = self.state.lock();
            while state.waiting.is_empty() && !state.stopping {
                match synced_at.map(|at| Duration::from_millis(LAG_MS).saturating_sub(at.elapsed())) {
                    Some(rest) if state.raised && !rest.is_zero() => {
                        self.wake.wait_for(&mut state, rest);
                    }
                    _ if state.raised => break,
                    _ => self.wake.wait(&mut state),
                }
            }
            if state.waiting.is_empty() && !state.raised {
                return; // stopping, and nothing is left
            }
            let waiting = std::mem::take(&mut state.waiting);
            let marks = state.marks.clone();
            state.raised = false;
            drop(state);
            let result = if waiting.is_empty() { pen.write_raised(&marks) } else { pen.write_both(&marks) };
            synced_at = Some(Instant::now());
            if let Err(error) = &result {
                fatal.raise(format!("write the watermark file: {error}"));
                let mut state = self.state.lock();
                state.failed = true;
                let late = std::mem::take(&mut state.waiting);
                drop(state);
                for done in waiting.into_iter().chain(late) {
                    done(Err(io::Error::new(error.kind(), error.to_string())));
                }
                return;
            }
            for done in waiting {
                done(Ok(()));
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Region {
    A,
    B,
}

impl Region {
    fn offset(self) -> u64 {
        match self {
            Region::A => 0,
            Region::B => REGION_BYTES,
        }
    }

    fn other(self) -> Self {
        match self {
            Region::A => Region::B,
            Region::B => Region::A,
        }
    }
}

type Marks = BTreeMap<(u32, u64), Mark>;

/// The open file and where to write next.
struct Pen {
    file: File,
    generation: u64,
    next: Region,
}

impl Pen {
    fn write_both(&mut self, marks: &Marks) -> io::Result<()> {
        chaos::hit(Point::VoteWriteBefore);
        self.write_one(marks)?;
        chaos::hit(Point::VoteWriteBetween);
        self.write_one(marks)?;
        chaos::hit(Point::VoteWriteAfter);
        Ok(())
    }

    fn write_raised(&mut self, marks: &Marks) -> io::Result<()> {
        chaos::hit(Point::MarkWriteBefore);
        self.write_one(marks)?;
        chaos::hit(Point::MarkWriteAfter);
        Ok(())
    }

    fn write_one(&mut self, marks: &Marks) -> io::Result<()> {
        self.generation += 1;
        let body = codec::encode(marks);
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        if HEADER_BYTES as u64 + u64::from(length) > REGION_BYTES {
            return Err(io::Error::other("too many replicas for the watermark file"));
        }
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &body);
        bytes.extend_from_slice(&crc.to_be_bytes());
        bytes.extend_from_slice(&body);
        self.file.write_all_at(&bytes, self.next.offset())?;
        self.file.sync_data()?;
        self.next = self.next.other();
        Ok(())
    }

    /// The version of a region that begins as one does.
    fn version(&self, region: Region) -> io::Result<Option<u8>> {
        let mut head = [0; MAGIC.len() + 1];
        let is_there = read_full(&self.file, &mut head, region.offset())? && head.starts_with(MAGIC);
        Ok(is_there.then_some(head[MAGIC.len()]))
    }

    /// A region's generation and marks, `None` if it is damaged or was never written.
    fn read(&self, region: Region) -> io::Result<Option<(u64, Marks)>> {
        let mut header = [0; HEADER_BYTES];
        if !read_full(&self.file, &mut header, region.offset())? {
            return Ok(None);
        }
        let length = u32::from_be_bytes(header[17..21].try_into().expect("four bytes of a fixed header"));
        if &header[..8] != MAGIC || header[8] != VERSION || u64::from(length) > REGION_BYTES {
            return Ok(None);
        }
        let mut body = vec![0; length as usize];
        if !read_full(&self.file, &mut body, region.offset() + HEADER_BYTES as u64)? {
            return Ok(None);
        }
        let crc = u32::from_be_bytes(header[21..].try_into().expect("four bytes of a fixed header"));
        if crc32c::crc32c_append(crc32c::crc32c(&header[..21]), &body) != crc {
            return Ok(None);
        }
        let generation = u64::from_be_bytes(header[9..17].try_into().expect("eight bytes of a fixed header"));
        Ok(codec::decode(&body).ok().map(|marks| (generation, marks)))
    }
}

fn read_full(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
    match file.read_exact_at(bytes, offset) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a new file's name durable.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn place(key: ReplicaKey) -> (u32, u64) {
    (key.group.0, key.replica.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rocks::log_db::test_key;

    fn open(path: &Path) -> Result<Watermark, WatermarkError> {
        Watermark::open(path, false, FatalSignal::new())
    }

    fn vote(mark: &Watermark, key: ReplicaKey, term: u64) {
        let (sender, receiver) = std::sync::mpsc::channel();
        mark.save_vote(key, MarkVote { term, node: 1, committed: false }, move |result| sender.send(result).unwrap());
        receiver.recv_timeout(Duration::from_secs(10)).unwrap().unwrap();
    }

    fn damage(path: &Path, region: Region) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[0xff], region.offset() + HEADER_BYTES as u64 + 2).unwrap();
    }

    #[test]
    fn a_vote_survives_the_loss_of_either_copy() {
        for region in [Region::A, Region::B] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("watermark");
            let key = test_key(1, 2);
            let mark = Watermark::open(&path, true, FatalSignal::new()).unwrap();
            vote(&mark, key, 1);
            mark.raise(&[(key, 7)]);
            vote(&mark, key, 2);
            drop(mark);
            damage(&path, region);
            let mark = open(&path).unwrap();
            assert_eq!(mark.mark(key).vote.unwrap().term, 2);
            assert_eq!(mark.mark(key).durable, Some(7));
        }
    }

    #[test]
    fn the_loss_of_both_copies_or_of_the_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("watermark");
        assert!(matches!(open(&path), Err(WatermarkError::Missing { .. })));
        let mark = Watermark::open(&path, true, FatalSignal::new()).unwrap();
        vote(&mark, test_key(1, 2), 1);
        drop(mark);
        damage(&path, Region::A);
        damage(&path, Region::B);
        assert!(matches!(open(&path), Err(WatermarkError::Damaged { .. })));
        // Of another version nothing is damaged: it must not be taken for rot.
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[VERSION + 1], MAGIC.len() as u64).unwrap();
        assert!(matches!(open(&path), Err(WatermarkError::Damaged { .. })), "one copy may be a flipped bit");
        file.write_all_at(&[VERSION + 1], REGION_BYTES + MAGIC.len() as u64).unwrap();
        assert!(matches!(open(&path), Err(WatermarkError::Version { found, .. }) if found == VERSION + 1));
    }

    #[test]
    fn a_lowered_mark_is_on_disk_at_return() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("watermark");
        let key = test_key(1, 2);
        let mark = Watermark::open(&path, true, FatalSignal::new()).unwrap();
        mark.raise(&[(key, 100)]);
        mark.lower(key, Some(40)).unwrap();
        let pen = Pen { file: File::open(&path).unwrap(), generation: 0, next: Region::A };
        for region in [Region::A, Region::B] {
            assert_eq!(pen.read(region).unwrap().unwrap().1[&(1, 2)].durable, Some(40));
        }
    }
}
