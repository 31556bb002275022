//! Live: what a group's apply tells the rest of the process, kept in memory beside the rows.
//!
//! Leases that exist, and events for those who watch. Everything here follows from the rows: it is loaded when the
//! group starts, kept up by the events of apply, and loaded again when a snapshot was installed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use seriatim_proto::ids::{GroupId, LeaseId, NodeId, ReplicaId, StoreId};
use seriatim_proto::meta::Directory;
use seriatim_proto::store::{HolderRow, Read, ReadOutcome, RowsDigest, StoreEvent};
use seriatim_store_core::{Event, Fatal, GroupItem, Key, Reader, Row};

use crate::identity::write_durable;

/// Where events of all groups of a store come together. Cheap to clone.
///
/// A watcher that is too slow loses events and is told so: it takes full tables again.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    events: broadcast::Sender<Arc<StoreEvent>>,
    directory: Arc<watch::Sender<Option<Arc<Directory>>>>,
}

impl Events {
    /// Nobody watches yet.
    pub(crate) fn new() -> Self {
        Self { events: broadcast::Sender::new(EVENTS_KEPT), directory: Arc::new(watch::Sender::new(None)) }
    }

    /// Everything that happens from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<StoreEvent>> {
        self.events.subscribe()
    }

    /// The newest directory that this store has applied, and its changes.
    pub(crate) fn directory(&self) -> watch::Receiver<Option<Arc<Directory>>> {
        self.directory.subscribe()
    }

    /// Another store has shown its directory. True if it is newer than what was known.
    pub(crate) fn learn(&self, directory: Directory) -> bool {
        let age = |directory: &Directory| (directory.generation, directory.revision);
        let newer = self.directory.send_if_modified(|known| {
            let newer = known.as_ref().is_none_or(|known| age(&directory) > age(known));
            if newer {
                *known = Some(Arc::new(directory.clone()));
            }
            newer
        });
        if newer {
            self.send(StoreEvent::Directory(directory));
        }
        newer
    }

    /// Another store leads a group, as this store sees it.
    pub(crate) fn leader(&self, group: GroupId, leader: Option<StoreId>) {
        self.send(StoreEvent::Leader { group, leader });
    }

    fn send(&self, event: StoreEvent) {
        // No receiver: nobody watches.
        let _ = self.events.send(Arc::new(event));
    }
}

/// The file that says over restarts that a replica runs with a hole in its rows: until it is replaced, nobody may take
/// it for sound.
#[derive(Debug)]
pub(crate) struct HoleNote {
    folder: PathBuf,
    name: String,
}

impl HoleNote {
    /// In the store's data folder. Replica ids are never given twice.
    pub(crate) fn of(folder: &Path, group: GroupId, replica: ReplicaId) -> Self {
        Self { folder: folder.to_owned(), name: format!("HOLE-{group}-{replica}") }
    }

    fn read(&self) -> io::Result<Option<String>> {
        match std::fs::read(self.folder.join(&self.name)) {
            Ok(what) => Ok(Some(String::from_utf8_lossy(&what).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, what: &str) -> io::Result<()> {
        write_durable(&self.folder, &self.name, what.as_bytes())
    }

    /// The replica is no more.
    pub(crate) fn remove(&self) -> io::Result<()> {
        match std::fs::remove_file(self.folder.join(&self.name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// One group's.
#[derive(Debug)]
pub(crate) struct GroupLive {
    group: GroupId,
    leases: Mutex<BTreeMap<LeaseId, NodeId>>,
    slots: AtomicU32,
    /// Rows are being replaced: stale reads must not look.
    installing: AtomicBool,
    /// openraft has read what it starts from.
    started: AtomicBool,
    /// What applies is gone.
    ended: watch::Sender<bool>,
    /// The entry at which replicas are compared last, and the digest of the last one that is done.
    compared: Mutex<(u64, Option<RowsDigest>)>,
    /// A digest was begun last; before the first, the replica started.
    compared_at: Mutex<Instant>,
    /// What apply found to be lost of the replica's rows.
    rot: OnceLock<String>,
    /// Where that is noted.
    holes: OnceLock<HoleNote>,
    events: Events,
}

impl GroupLive {
    /// From the rows.
    pub(crate) fn load(group: GroupId, reader: &impl Reader, events: Events) -> Result<Self, Fatal> {
        let live = Self {
            group,
            leases: Mutex::default(),
            slots: AtomicU32::new(0),
            installing: AtomicBool::new(false),
            started: AtomicBool::new(false),
            ended: watch::Sender::new(false),
            compared: Mutex::default(),
            compared_at: Mutex::new(Instant::now()),
            rot: OnceLock::new(),
            holes: OnceLock::new(),
            events,
        };
        live.reload(reader)?;
        Ok(live)
    }

    /// All over again, after the rows were replaced. Watchers get full tables.
    pub(crate) fn reload(&self, reader: &impl Reader) -> Result<(), Fatal> {
        let leases = seriatim_store_core::read::live_leases(reader, self.group)?;
        *self.leases.lock() = leases;
        self.publish_all(reader)
    }

    /// What a chunk changed.
    pub(crate) fn publish(&self, reader: &impl Reader, events: Vec<Event>) -> Result<(), Fatal> {
        let mut rows: Vec<HolderRow> = Vec::new();
        let mut all = false;
        let mut directory = false;
        for event in events {
            match event {
                Event::Owned => all = true,
                Event::Holder(row) => rows.push(row),
                Event::LeaseOpened { lease, node } => {
                    self.leases.lock().insert(lease, node);
                }
                Event::LeaseEnded { lease, .. } => {
                    self.leases.lock().remove(&lease);
                    all = true;
                }
                Event::Directory => directory = true,
            }
        }
        if all {
            self.publish_holders(reader)?;
        } else if !rows.is_empty() {
            self.events.send(StoreEvent::Holders { group: self.group, rows });
        }
        if directory {
            self.publish_directory(reader)?;
        }
        Ok(())
    }

    /// Leases that exist.
    pub(crate) fn leases(&self) -> Vec<LeaseId> {
        self.leases.lock().keys().copied().collect()
    }

    /// Does it exist?
    pub(crate) fn has_lease(&self, lease: LeaseId) -> bool {
        self.leases.lock().contains_key(&lease)
    }

    /// How many exist.
    pub(crate) fn lease_count(&self) -> u32 {
        u32::try_from(self.leases.lock().len()).unwrap_or(u32::MAX)
    }

    /// How many slots the group owns.
    pub(crate) fn slot_count(&self) -> u32 {
        self.slots.load(Ordering::Relaxed)
    }

    /// Rows are about to be replaced, or were.
    pub(crate) fn set_installing(&self, installing: bool) {
        self.installing.store(installing, Ordering::Release);
    }

    /// Are rows being replaced?
    pub(crate) fn installing(&self) -> bool {
        self.installing.load(Ordering::Acquire)
    }

    /// openraft has read what it starts from.
    pub(crate) fn set_started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Has openraft read what it starts from?
    pub(crate) fn started(&self) -> bool {
        self.started.load(Ordering::Acquire)
    }

    /// A digest is made at this entry from now on; one at an older entry is of no use any more.
    pub(crate) fn begin_digest(&self, index: u64) {
        self.compared.lock().0 = index;
        *self.compared_at.lock() = Instant::now();
    }

    /// When a digest was begun last, by whoever led then; before the first, when the replica started.
    pub(crate) fn compared_at(&self) -> Instant {
        *self.compared_at.lock()
    }

    /// Is it still wanted?
    pub(crate) fn wants_digest(&self, index: u64) -> bool {
        self.compared.lock().0 == index && !*self.ended.borrow()
    }

    /// Has one been begun that is not done?
    pub(crate) fn is_digesting(&self) -> bool {
        self.compared().1.is_some()
    }

    /// The last that is done, and the entry of one that has been begun and is not.
    pub(crate) fn compared(&self) -> (Option<RowsDigest>, Option<u64>) {
        let (begun, done) = *self.compared.lock();
        let is_done = begun == 0 || done.is_some_and(|digest| digest.index == begun);
        (done, (!is_done).then_some(begun))
    }

    /// It will not be done: somebody may begin another one.
    pub(crate) fn give_digest_up(&self, index: u64) {
        let mut compared = self.compared.lock();
        if compared.0 == index {
            compared.0 = compared.1.map_or(0, |digest| digest.index);
        }
    }

    /// It is done.
    pub(crate) fn set_digest(&self, digest: RowsDigest) {
        let mut compared = self.compared.lock();
        if compared.0 == digest.index {
            compared.1 = Some(digest);
        }
    }

    /// Does a rotten replica of the group wait for its digests?
    pub(crate) fn is_digest_urgent(&self) -> bool {
        let directory = self.events.directory.borrow();
        directory.as_ref().is_some_and(|known| known.rotten.iter().any(|rot| rot.group == self.group))
    }

    /// The last that is done.
    pub(crate) fn digest(&self) -> Option<RowsDigest> {
        self.compared().0
    }

    /// Holes are noted there; one of before a restart counts from now on.
    pub(crate) fn note_holes(&self, note: HoleNote) -> io::Result<()> {
        if let Some(what) = note.read()? {
            self.rot.get_or_init(|| what);
        }
        self.holes.get_or_init(|| note);
        Ok(())
    }

    /// Apply has met a hole in the replica's rows. The first one counts: the replica is rebuilt as a whole. It is noted
    /// before anything of the chunk that met it may be on disk: what comes behind need not meet it again.
    pub(crate) fn set_rot(&self, what: &'static str) -> io::Result<()> {
        if self.rot.get().is_none() {
            self.holes.get().map_or(Ok(()), |note| note.write(what))?;
            self.rot.get_or_init(|| what.to_owned());
        }
        Ok(())
    }

    /// What apply found to be lost of the replica's rows, if anything.
    pub(crate) fn rot(&self) -> Option<&str> {
        self.rot.get().map(String::as_str)
    }

    /// What applies is gone: nothing of the group's is touched any more.
    pub(crate) fn set_machine_ended(&self) {
        self.ended.send_replace(true);
    }

    /// Waits for that.
    pub(crate) async fn until_machine_ended(&self) {
        // The sender is here: it cannot go away before.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn publish_all(&self, reader: &impl Reader) -> Result<(), Fatal> {
        self.publish_holders(reader)?;
        if self.group == GroupId::META {
            self.publish_directory(reader)?;
        }
        Ok(())
    }

    fn publish_holders(&self, reader: &impl Reader) -> Result<(), Fatal> {
        let key = Key::group(self.group, GroupItem::Owned);
        let slots = match reader.get(&key)? {
            Some(Row::Owned(owned)) => owned.slots.iter().map(|range| u32::from(range.end.0 - range.first.0)).sum(),
            _ => 0,
        };
        self.slots.store(slots, Ordering::Relaxed);
        if self.group != GroupId::META {
            let rows = seriatim_store_core::holder_rows(reader, self.group)?;
            self.events.send(StoreEvent::Holders { group: self.group, rows });
        }
        Ok(())
    }

    fn publish_directory(&self, reader: &impl Reader) -> Result<(), Fatal> {
        if let ReadOutcome::Directory(Some(directory)) =
            seriatim_store_core::read(reader, GroupId::META, &Read::Directory)?
        {
            // Another store may have shown a newer one.
            self.events.learn(directory);
        }
        Ok(())
    }
}

/// Events that a watcher may be behind before it takes full tables again.
const EVENTS_KEPT: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_known_after_a_restart_and_forgotten_with_the_replica() {
        let folder = tempfile::tempdir().unwrap();
        let of = |replica| {
            let live = GroupLive::load(GroupId(1), &seriatim_store_core::MemoryView::default(), Events::new()).unwrap();
            live.note_holes(HoleNote::of(folder.path(), GroupId(1), ReplicaId(replica))).unwrap();
            live
        };
        let live = of(7);
        assert_eq!(live.rot(), None);
        live.set_rot("an edit is gone").unwrap();
        live.set_rot("another one is gone").unwrap();
        assert_eq!(live.rot(), Some("an edit is gone"));
        assert_eq!((of(7).rot(), of(8).rot()), (Some("an edit is gone"), None));
        HoleNote::of(folder.path(), GroupId(1), ReplicaId(7)).remove().unwrap();
        HoleNote::of(folder.path(), GroupId(1), ReplicaId(7)).remove().unwrap();
        assert_eq!(of(7).rot(), None);
        // What cannot be noted is said, and apply goes no further.
        let gone = GroupLive::load(GroupId(1), &seriatim_store_core::MemoryView::default(), Events::new()).unwrap();
        gone.note_holes(HoleNote::of(&folder.path().join("nowhere"), GroupId(1), ReplicaId(7))).unwrap();
        assert!(gone.set_rot("an edit is gone").is_err());
        assert_eq!(gone.rot(), None);
    }

    #[test]
    fn a_digest_that_failed_is_not_waited_for() {
        let rows = seriatim_store_core::MemoryView::default();
        let live = GroupLive::load(GroupId(1), &rows, Events::new()).unwrap();
        live.begin_digest(7);
        assert_eq!(live.compared(), (None, Some(7)));
        live.give_digest_up(6);
        assert!(live.is_digesting(), "another one");
        live.give_digest_up(7);
        assert_eq!(live.compared(), (None, None));
        live.begin_digest(9);
        let digest = RowsDigest { index: 9, rows: 0, bytes: 0, hash: [0; 32] };
        live.set_digest(digest);
        live.begin_digest(11);
        live.give_digest_up(11);
        assert_eq!(live.compared(), (Some(digest), None));
    }
}
