//! Group rows: what apply reads and writes between two writes of state.db.
//!
//! ```text
//! apply ── Chunk ──▶ unwritten rows of many chunks ── spill: one WriteBatch, rows + position ──▶ state.db
//!            └ RowCache (hot rows)                      ▲ enough rows, a view, a flush, a snapshot
//! ```
//! State.db needs no row before someone looks: the log has everything. So the rows of applied chunks gather here,
//! and a hot row is encoded and put into RocksDB's memtable once, however many commands touched it. Hot rows that
//! were written are in a bounded cache, so that the common command reads nothing from RocksDB.
//!
//! # Invariants
//! What is written reaches exactly one position: rows of whole chunks and their position go out in one batch.
//! A view is at least as new as every chunk that was kept before it. The cache never differs from state.db: it is
//! filled from there or by what was written, and dropped when a snapshot is installed.
//!
//! # Failure
//! A chunk that is not kept leaves the group torn: nothing of it may be seen, so every later use is [`Fatal`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use foldhash::fast::RandomState;
use parking_lot::{Mutex, MutexGuard};
use rocksdb::WriteBatch;

use seriatim_proto::chaos::{self, Point};
use seriatim_proto::codec;
use seriatim_proto::ids::GroupId;
use seriatim_store_core::{Fatal, GroupItem, Item, Key, Reader, Row, Scan, Scope, SlotItem, View};

use crate::keys;
use crate::rocks::state_db::{DbReader, StateDb};

/// Rows that a group's commands touch again and again. Two generations: the old one goes when the young is full.
#[derive(Default)]
pub(crate) struct RowCache {
    young: HashMap<Key, Row, RandomState>,
    old: HashMap<Key, Row, RandomState>,
}

impl RowCache {
    fn get(&mut self, key: &Key) -> Option<Row> {
        if let Some(row) = self.young.get(key) {
            return Some(row.clone());
        }
        let (key, row) = self.old.remove_entry(key)?;
        self.insert(key, row.clone());
        Some(row)
    }

    fn insert(&mut self, key: Key, row: Row) {
        self.old.remove(&key);
        self.young.insert(key, row);
        if self.young.len() >= GENERATION_ROWS {
            self.old = std::mem::take(&mut self.young);
        }
    }

    fn remove(&mut self, key: &Key) {
        self.young.remove(key);
        self.old.remove(key);
    }
}

/// Is it worth a place in the cache?
fn is_hot(key: &Key) -> bool {
    match &key.scope {
        Scope::Tenant(_, item) => match item {
            Item::Namespace(_) | Item::Last(..) | Item::Member(..) => true,
            Item::Cursor(..)
            | Item::Dedupe(..)
            | Item::Amended(..)
            | Item::Inbox(..)
            | Item::Mark(..)
            | Item::Message(..)
            | Item::Reading(..)
            | Item::Pin(..)
            | Item::Reaction(..)
            | Item::Tombstone(..) => false,
        },
        Scope::Slot(SlotItem::Holder) => true,
        Scope::Slot(SlotItem::Pending(..)) => false,
        Scope::Group(GroupItem::Lease(_) | GroupItem::Owned) => true,
        Scope::Group(_) => false,
    }
}

/// One group's rows: what state.db has, and what it does not have yet. State.db keeps it.
pub(crate) struct GroupRows {
    group: GroupId,
    held: Mutex<Held>,
}

/// What is held in memory.
#[derive(Default)]
struct Held {
    cache: RowCache,
    unwritten: Unwritten,
    /// A chunk is being applied, or failed to be.
    torn: bool,
    /// The replica was removed: nothing is written any more.
    discarded: bool,
}

/// The rows of whole chunks, each key once, and what they reach.
#[derive(Default)]
struct Unwritten {
    /// those that apply gets by their keys only
    rows: HashMap<Key, Option<Row>, RandomState>,
    /// those of which it reads ranges
    ranged: BTreeMap<Key, Option<Row>>,
    position: Option<Vec<u8>>,
    log_bytes: u64,
}

impl Unwritten {
    fn get(&self, key: &Key) -> Option<&Option<Row>> {
        if is_ranged(key) { self.ranged.get(key) } else { self.rows.get(key) }
    }

    fn set(&mut self, key: Key, row: Option<Row>) {
        if is_ranged(&key) {
            self.ranged.insert(key, row)
        } else {
            self.rows.insert(key, row)
        };
    }

    fn len(&self) -> usize {
        self.rows.len() + self.ranged.len()
    }

    /// The rows of a range, in any order. How many rows were looked at for it.
    fn of(&self, scan: &Scan) -> (Vec<(&Key, &Option<Row>)>, usize) {
        let (start, excluded) = scan.start();
        // A range is of one kind, which is that of its start.
        if is_ranged(&start) {
            let start = if excluded { Bound::Excluded(&start) } else { Bound::Included(&start) };
            let behind = self.ranged.range::<Key, _>((start, Bound::Unbounded));
            let found: Vec<_> = behind.take_while(|(key, _)| scan.contains(key)).collect();
            let visited = found.len() + 1;
            return (found, visited);
        }
        // Messages and inboxes, by trims: a tree would cost each append more than that costs them.
        let is_behind = |key: &Key| if excluded { *key > start } else { *key >= start };
        (self.rows.iter().filter(|(key, _)| is_behind(key) && scan.contains(key)).collect(), self.rows.len())
    }
}

/// Does apply read ranges of its kind? A scan per command that looked at all unwritten rows would make a chunk cost the
/// square of its commands.
fn is_ranged(key: &Key) -> bool {
    match &key.scope {
        Scope::Tenant(_, item) => match item {
            Item::Cursor(..) | Item::Pin(..) | Item::Reaction(..) | Item::Tombstone(..) => true,
            Item::Namespace(_)
            | Item::Dedupe(..)
            | Item::Amended(..)
            | Item::Inbox(..)
            | Item::Mark(..)
            | Item::Last(..)
            | Item::Message(..)
            | Item::Reading(..)
            | Item::Member(..) => false,
        },
        Scope::Slot(_) => false,
        Scope::Group(_) => true,
    }
}

impl GroupRows {
    /// As state.db has them.
    pub(crate) fn new(group: GroupId) -> Self {
        Self { group, held: Mutex::default() }
    }

    /// Starts a chunk. No view and no second chunk of the group comes between its begin and its end.
    pub(crate) fn chunk<'a>(&'a self, state: &'a StateDb) -> Result<Chunk<'a>, Fatal> {
        let mut held = self.held.lock();
        if held.torn {
            return Err(torn(self.group));
        }
        held.torn = true;
        let (held, reader) = (RefCell::new(held), state.reader());
        let (gets, hits, visits) = (Cell::new(0), Cell::new(0), Cell::new(0));
        Ok(Chunk { state, reader, held, gets, hits, visits, missed: None })
    }

    /// Writes what has gathered, if that is a lot. How many rows were written.
    pub(crate) fn spill_if_full(&self, state: &StateDb) -> Result<usize, Fatal> {
        // Rows that are written again and again until then are written once: the more gathers, the less is written.
        let (rows_max, log_bytes_max) = gathered_max(state.group_count());
        let mut held = self.held.lock();
        let unwritten = &held.unwritten;
        if unwritten.len() < rows_max && unwritten.log_bytes < log_bytes_max {
            return Ok(0);
        }
        self.write(state, &mut held)
    }

    /// Writes what has gathered. How many rows were written.
    pub(crate) fn spill(&self, state: &StateDb) -> Result<usize, Fatal> {
        self.write(state, &mut self.held.lock())
    }

    /// The rows were replaced: what is known of them is out of date. Nothing is applied meanwhile.
    pub(crate) fn replaced(&self) {
        let mut held = self.held.lock();
        *held = Held { discarded: held.discarded, ..Held::default() };
    }

    /// The replica was removed: whatever is applied yet is written nowhere.
    pub(crate) fn discard(&self) {
        *self.held.lock() = Held { discarded: true, ..Held::default() };
    }

    fn write(&self, state: &StateDb, held: &mut Held) -> Result<usize, Fatal> {
        if held.discarded {
            held.unwritten = Unwritten::default();
            return Ok(0);
        }
        if held.torn {
            return Err(torn(self.group));
        }
        let Some(position) = held.unwritten.position.take() else { return Ok(0) };
        // Until they are written, the rows are nowhere: after a failure or a panic in between the group stays torn.
        held.torn = true;
        let Unwritten { rows, ranged, log_bytes, .. } = std::mem::take(&mut held.unwritten);
        let count = rows.len() + ranged.len();
        // About what the rows of so much log take.
        let mut batch = WriteBatch::with_capacity_bytes(usize::try_from(log_bytes).unwrap_or(0) * 2);
        let mut row_bytes = Vec::new();
        // In the order of their keys: a memtable finds the place of a row fast near that of the row before.
        let mut all_keys = Vec::with_capacity(count * 64);
        let mut order = Vec::with_capacity(count);
        for (key, row) in rows.iter().chain(&ranged) {
            let from = all_keys.len();
            keys::encode_into(key, &mut all_keys);
            order.push((from, all_keys.len(), row));
        }
        order.sort_unstable_by(|one, other| all_keys[one.0..one.1].cmp(&all_keys[other.0..other.1]));
        for (from, end, row) in order {
            let key_bytes = &all_keys[from..end];
            match row {
                Some(row) => {
                    row_bytes = codec::encode_in(row, row_bytes);
                    batch.put(key_bytes, &row_bytes);
                }
                None => batch.delete(key_bytes),
            }
        }
        batch.put(keys::position_key(self.group), position);
        chaos::hit(Point::SpillBefore);
        state.write(batch)?;
        chaos::hit(Point::SpillAfter);
        held.torn = false;
        for (key, row) in rows.into_iter().chain(ranged) {
            match row {
                Some(row) if is_hot(&key) => held.cache.insert(key, row),
                Some(_) => (),
                None => held.cache.remove(&key),
            }
        }
        Ok(count)
    }
}

fn torn(group: GroupId) -> Fatal {
    Fatal::Storage(format!("group {group} stopped in the middle of a chunk"))
}

/// Reads what is unwritten, then the cache, then state.db; writes to what is unwritten.
pub(crate) struct Chunk<'a> {
    state: &'a StateDb,
    reader: DbReader<'a>,
    held: RefCell<MutexGuard<'a, Held>>,
    gets: Cell<u64>,
    hits: Cell<u64>,
    /// unwritten rows that scans have looked at
    visits: Cell<u64>,
    /// the first thing that was lost, if anything was
    missed: Option<&'static str>,
}

impl Chunk<'_> {
    /// Gets that went to RocksDB, and those that did not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.gets.get(), self.hits.get())
    }

    /// What this replica has lost of its rows, as far as the chunk's commands met it.
    pub(crate) fn missed(&self) -> Option<&'static str> {
        self.missed
    }

    /// The chunk is whole and reaches `position`; it took `log_bytes` of the log.
    pub(crate) fn keep(self, position: Vec<u8>, log_bytes: u64) {
        let mut held = self.held.into_inner();
        held.unwritten.position = Some(position);
        held.unwritten.log_bytes += log_bytes;
        self.state.note_applied(log_bytes);
        held.torn = false;
    }
}

impl Reader for Chunk<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, Fatal> {
        let mut held = self.held.borrow_mut();
        if let Some(row) = held.unwritten.get(key) {
            self.hits.set(self.hits.get() + 1);
            return Ok(row.clone());
        }
        let hot = is_hot(key);
        if hot && let Some(row) = held.cache.get(key) {
            self.hits.set(self.hits.get() + 1);
            return Ok(Some(row));
        }
        self.gets.set(self.gets.get() + 1);
        let row = self.reader.get(key)?;
        if hot && let Some(row) = &row {
            held.cache.insert(key.clone(), row.clone());
        }
        Ok(row)
    }

    fn scan(&self, scan: &Scan, limit: usize) -> Result<Vec<(Key, Row)>, Fatal> {
        let held = self.held.borrow();
        let (written, visited) = held.unwritten.of(scan);
        self.visits.set(self.visits.get() + visited as u64);
        if written.is_empty() {
            return self.reader.scan(scan, limit);
        }
        // Each deleted key hides at most one stored row; the others take its place, or come besides.
        let deleted = written.iter().filter(|(_, row)| row.is_none()).count();
        let stored = self.reader.scan(scan, limit.saturating_add(deleted))?;
        let mut merged: BTreeMap<Key, Row> = stored.into_iter().collect();
        for (key, row) in written {
            match row {
                Some(row) => drop(merged.insert(key.clone(), row.clone())),
                None => drop(merged.remove(key)),
            }
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}

impl View for Chunk<'_> {
    fn put(&mut self, key: Key, row: Row) {
        self.held.get_mut().unwritten.set(key, Some(row));
    }
    fn delete(&mut self, key: Key) {
        self.held.get_mut().unwritten.set(key, None);
    }
    fn miss(&mut self, what: &'static str) {
        self.missed.get_or_insert(what);
    }
}

/// Rows of one generation of a group's cache.
const GENERATION_ROWS: usize = 32 << 10;
/// Unwritten rows and their log bytes at which a group's are written, when so many groups share the memory.
fn gathered_max(groups: usize) -> (usize, u64) {
    let rows = (GATHERED_ROWS / groups.max(1)).clamp(GATHERED_ROWS_GROUP_MIN, GATHERED_ROWS_GROUP_MAX);
    (rows, rows as u64 * GATHERED_BYTES_PER_ROW)
}

/// Unwritten rows of all groups, some 20 MiB in memory, unless they are many.
const GATHERED_ROWS: usize = 32 << 10;
/// Of one group at least, however many there are: below, rows are hardly ever met twice.
const GATHERED_ROWS_GROUP_MIN: usize = 2 << 10;
/// Of one group at most: a view waits until they are written, some 15 ms.
const GATHERED_ROWS_GROUP_MAX: usize = 8 << 10;
/// Log bytes for each row at which a group's rows are written though they are fewer: bodies are of many sizes.
const GATHERED_BYTES_PER_ROW: u64 = 512;

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use seriatim_proto::ids::{ConversationId, Emoji, MessageId, Seq, SlotId, TenantId, UserId};
    use seriatim_store_core::MemoryView;

    use super::*;
    use crate::config::Tuning;

    const GROUP: GroupId = GroupId(1);
    const SLOT: SlotId = SlotId(7);
    const TENANT: TenantId = TenantId(1);

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn seq(value: u64) -> Seq {
        Seq::new(value).unwrap()
    }

    fn conversation() -> ConversationId {
        ConversationId::Direct(user("alice"), user("bob"))
    }

    fn key(item: Item) -> Key {
        Key::tenant(SLOT, TENANT, item)
    }

    /// Scans and writes as apply does for reactions, to `count` messages in one chunk. How many unwritten rows the scans
    /// looked at.
    fn react(count: u64) -> (u64, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDb::open(folder.path(), &Tuning::default()).unwrap();
        let rows = state.rows(GROUP);
        let mut chunk = rows.chunk(&state).unwrap();
        let started = Instant::now();
        for target in (1..=count).map(seq) {
            let (conversation, whose) = (conversation(), user("bob"));
            let (slot, tenant, user) = (SLOT, TENANT, Some(whose.clone()));
            let scan = Scan::Reactions { slot, tenant, conversation: conversation.clone(), target, user };
            assert_eq!(chunk.scan(&scan, 8).unwrap(), []);
            let id = MessageId(u128::from(target.get()).to_be_bytes());
            chunk.put(key(Item::Message(conversation.clone(), target)), Row::Reaction(target));
            chunk.put(key(Item::Dedupe(conversation.clone(), whose.clone(), id)), Row::Reaction(target));
            chunk.put(key(Item::Inbox(whose.clone(), target)), Row::Reaction(target));
            let emoji = Emoji::new("+").unwrap();
            chunk.put(key(Item::Reaction(conversation, target, whose, emoji)), Row::Reaction(target));
        }
        (chunk.visits.get(), started.elapsed())
    }

    #[test]
    fn a_scan_looks_at_no_unwritten_row_beside_its_range() {
        assert_eq!(react(500).0, 500, "one for each reaction, which ends its empty range");
    }

    #[test]
    #[ignore = "measures: cargo nextest run --release -p seriatim-store --run-ignored only --no-capture measured"]
    fn reactions_in_one_chunk_are_measured() {
        for count in [1_000, 10_000] {
            let (visits, took) = react(count);
            eprintln!("{count} reactions in one chunk: {visits} rows looked at, {took:?}");
        }
    }

    #[test]
    fn a_range_is_the_same_whether_its_kind_is_kept_in_order_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDb::open(folder.path(), &Tuning::default()).unwrap();
        let rows = state.rows(GROUP);
        let mut memory = MemoryView::default();
        let another = ConversationId::Direct(user("alice"), user("carol"));
        let pin = |of: &ConversationId, at| key(Item::Pin(of.clone(), seq(at)));
        let message = |of: &ConversationId, at| key(Item::Message(of.clone(), seq(at)));
        let changes: [&[(u64, bool)]; 2] =
            [&[(1, true), (2, true), (3, true), (5, true)], &[(1, false), (3, true), (4, true), (5, false), (7, true)]];
        for changes in changes {
            rows.spill(&state).unwrap();
            let mut chunk = rows.chunk(&state).unwrap();
            for (at, is_set) in changes {
                for of in [&conversation(), &another] {
                    for key in [pin(of, *at), message(of, *at)] {
                        if *is_set {
                            chunk.put(key.clone(), Row::Pin(seq(*at)));
                            memory.put(key, Row::Pin(seq(*at)));
                        } else {
                            chunk.delete(key.clone());
                            memory.delete(key);
                        }
                    }
                }
            }
            chunk.keep(vec![1], 1);
        }
        let chunk = rows.chunk(&state).unwrap();
        let (slot, tenant) = (SLOT, TENANT);
        for of in [conversation(), another] {
            let from = |from| Scan::Messages { slot, tenant, conversation: of.clone(), from: seq(from) };
            let scans = [Scan::Pins { slot, tenant, conversation: of.clone() }, from(1), from(3), from(4)];
            for (scan, limit) in scans.iter().flat_map(|scan| (1..6).map(move |limit| (scan, limit))) {
                assert_eq!(chunk.scan(scan, limit).unwrap(), memory.scan(scan, limit).unwrap(), "{limit} of {scan:?}");
            }
        }
        chunk.keep(vec![2], 1);
        assert_eq!(rows.spill(&state).unwrap(), 20, "of two kinds in two conversations");
    }
}
