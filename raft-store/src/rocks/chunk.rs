//! Chunk: what apply reads and writes between two writes of state.db.
//!
//! All writes of a chunk stay in an overlay, so a hot row is encoded and written once however many commands touch
//! it. Hot rows of earlier chunks are in a bounded cache, so that the common command reads nothing from RocksDB.
//!
//! # Invariants
//! The cache never differs from state.db: it is filled from there or by a chunk that was written, and dropped when
//! a snapshot is installed.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;
use rocksdb::WriteBatch;

use seriatim_proto::codec;
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
            Item::Cursor(..) | Item::Dedupe(..) | Item::Inbox(..) | Item::Message(..) => false,
        },
        Scope::Slot(SlotItem::Holder) => true,
        Scope::Slot(SlotItem::Pending(..)) => false,
        Scope::Group(GroupItem::Lease(_) | GroupItem::Owned) => true,
        Scope::Group(_) => false,
    }
}

/// Reads through the overlay and the cache, writes to the overlay.
pub(crate) struct Chunk<'a> {
    reader: DbReader<'a>,
    cache: RefCell<&'a mut RowCache>,
    writes: HashMap<Key, Option<Row>, RandomState>,
    gets: std::cell::Cell<u64>,
    hits: std::cell::Cell<u64>,
}

impl<'a> Chunk<'a> {
    /// Nothing written yet.
    pub(crate) fn new(state: &'a StateDb, cache: &'a mut RowCache) -> Self {
        Self {
            reader: state.reader(),
            cache: RefCell::new(cache),
            writes: HashMap::default(),
            gets: std::cell::Cell::new(0),
            hits: std::cell::Cell::new(0),
        }
    }

    /// Gets that went to RocksDB, and those that did not.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.gets.get(), self.hits.get())
    }

    /// The writes: each key once, so their order is of no account.
    pub(crate) fn batch(&self) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for (key, row) in &self.writes {
            match row {
                Some(row) => batch.put(keys::encode(key), codec::encode(row)),
                None => batch.delete(keys::encode(key)),
            }
        }
        batch
    }

    /// The batch was written: hot rows go to the cache.
    pub(crate) fn written(self) {
        let cache = self.cache.into_inner();
        for (key, row) in self.writes {
            match row {
                Some(row) if is_hot(&key) => cache.insert(key, row),
                Some(_) => (),
                None => cache.remove(&key),
            }
        }
    }
}

impl Reader for Chunk<'_> {
    fn get(&self, key: &Key) -> Result<Option<Row>, Fatal> {
        if let Some(row) = self.writes.get(key) {
            return Ok(row.clone());
        }
        let hot = is_hot(key);
        if hot && let Some(row) = self.cache.borrow_mut().get(key) {
            self.hits.set(self.hits.get() + 1);
            return Ok(Some(row));
        }
        self.gets.set(self.gets.get() + 1);
        let row = self.reader.get(key)?;
        if hot && let Some(row) = &row {
            self.cache.borrow_mut().insert(key.clone(), row.clone());
        }
        Ok(row)
    }

    fn scan(&self, scan: &Scan, limit: usize) -> Result<Vec<(Key, Row)>, Fatal> {
        let (start, excluded) = scan.start();
        let behind = |key: &Key| if excluded { *key > start } else { *key >= start };
        // Scans are rare in apply, and a chunk is small.
        let written: Vec<_> = self.writes.iter().filter(|(key, _)| behind(key) && scan.contains(key)).collect();
        if written.is_empty() {
            return self.reader.scan(scan, limit);
        }
        // Each written key hides at most one stored row.
        let stored = self.reader.scan(scan, limit.saturating_add(written.len()))?;
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
        self.writes.insert(key, Some(row));
    }
    fn delete(&mut self, key: Key) {
        self.writes.insert(key, None);
    }
}

/// Rows of one generation of a group's cache.
const GENERATION_ROWS: usize = 32 << 10;
