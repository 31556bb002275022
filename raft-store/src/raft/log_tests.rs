//! What the log store promises across restarts and damage.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use tempfile::TempDir;

use super::codec::log_id;
use super::log_store::{LogOpenError, LogStore, LogStores, Rot, Scrubbed};
use super::types::{CommandBatch, Entry, Payload, TypeConfig, Vote};
use crate::fatal::FatalSignal;
use crate::log_record::ReplicaKey;
use crate::rocks::log_db::{LogBatch, LogDb, test_key};

const KEY: fn() -> ReplicaKey = || test_key(1, 7);

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let batch = CommandBatch { count: 1, bytes: Bytes::from(vec![u8::try_from(index % 251).unwrap(); bytes]) };
    Entry { log_id: log_id(term, 7, index), payload: Payload::Normal(batch) }
}

fn open(folder: &Path) -> Result<LogStores, LogOpenError> {
    LogStores::open(folder, &BTreeSet::new(), &FatalSignal::new())
}

async fn append(log: &mut LogStore, entries: Vec<Entry>) -> io::Result<()> {
    let (sender, receiver) = TypeConfig::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await?;
    tokio::time::timeout(Duration::from_secs(30), receiver).await.expect("an fsync takes less").expect("completed")
}

/// A folder with 200 entries of one replica, closed.
async fn filled() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let logs = open(folder.path()).unwrap();
    let mut log = logs.open_replica(KEY(), None).await.unwrap();
    for index in 0..200 {
        append(&mut log, vec![entry(1, index, 1000)]).await.unwrap();
    }
    logs.close().await;
    folder
}

/// The newest WAL file: the live one when the process ended.
fn wal(folder: &Path) -> PathBuf {
    let files = std::fs::read_dir(folder.join("log.db")).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|ending| ending == "log")).max().unwrap()
}

#[tokio::test]
async fn a_reopened_log_has_the_same_entries_vote_and_commit() {
    let folder = tempfile::tempdir().unwrap();
    let entries: Vec<Entry> = (0..50).map(|index| entry(2, index, 100)).collect();
    let vote = Vote::new_committed(3, 9);
    {
        let logs = open(folder.path()).unwrap();
        let mut log = logs.open_replica(KEY(), None).await.unwrap();
        log.save_vote(&vote).await.unwrap();
        append(&mut log, entries[..40].to_vec()).await.unwrap();
        log.save_committed(Some(log_id(2, 7, 39))).await.unwrap();
        append(&mut log, entries[40..].to_vec()).await.unwrap();
        log.purge(log_id(2, 7, 9)).await.unwrap();
        logs.close().await;
    }
    let logs = open(folder.path()).unwrap();
    // Rows that do not reach what was purged are lost for good.
    for applied in [None, Some(8)] {
        let refused = logs.open_replica(KEY(), applied).await.err().expect("rot");
        assert!(matches!(refused, LogOpenError::Rot { rot: Rot::Behind { purged: 9, .. }, .. }), "{refused}");
    }
    let mut log = logs.open_replica(KEY(), Some(9)).await.unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(2, 7, 39)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(2, 7, 9)), Some(log_id(2, 7, 49))));
    assert_eq!(log.try_get_log_entries(..).await.unwrap(), entries[10..]);
    logs.close().await;
}

#[tokio::test]
async fn what_replaces_a_truncated_end_survives_a_restart() {
    let folder = filled().await;
    {
        let logs = open(folder.path()).unwrap();
        let mut log = logs.open_replica(KEY(), None).await.unwrap();
        log.truncate_after(Some(log_id(1, 7, 149))).await.unwrap();
        append(&mut log, (150..160).map(|index| entry(2, index, 10)).collect()).await.unwrap();
        logs.close().await;
    }
    let logs = open(folder.path()).unwrap();
    let mut log = logs.open_replica(KEY(), None).await.unwrap();
    let entries = log.try_get_log_entries(148..).await.unwrap();
    let terms: Vec<_> = entries.iter().map(|entry| (entry.log_id.leader_id.term, entry.log_id.index)).collect();
    let expected: Vec<_> = [(1, 148), (1, 149)].into_iter().chain((150..160).map(|index| (2, index))).collect();
    assert_eq!(terms, expected);
    logs.close().await;
}

#[tokio::test]
async fn old_entries_are_read_from_disk_and_a_limited_read_stops_early_but_not_empty() {
    let folder = tempfile::tempdir().unwrap();
    let logs = open(folder.path()).unwrap();
    let mut log = logs.open_replica(KEY(), None).await.unwrap();
    let entries: Vec<Entry> = (0..40).map(|index| entry(1, index, 1 << 20)).collect();
    for entry in &entries {
        append(&mut log, vec![entry.clone()]).await.unwrap();
    }
    // More than the cache holds: the first are on disk only.
    assert_eq!(log.try_get_log_entries(0..40).await.unwrap(), entries);
    for start in [0, 39] {
        let some = log.limited_get_log_entries(start, 40).await.unwrap();
        assert!(!some.is_empty() && some.len() < 6);
        assert_eq!(some, entries[start as usize..][..some.len()]);
    }
    logs.close().await;
}

/// Found by a replay of the whole corpus: a store that was killed after 150,000 messages panicked at every restart,
/// because its replay reads ranges that end long before the cached end of the log.
#[tokio::test]
async fn a_range_that_ends_before_the_cache_begins_is_read_from_disk() {
    let folder = tempfile::tempdir().unwrap();
    let logs = open(folder.path()).unwrap();
    let mut log = logs.open_replica(KEY(), None).await.unwrap();
    for first in (0..60).step_by(10) {
        append(&mut log, (first..first + 10).map(|index| entry(1, index, 1 << 20)).collect()).await.unwrap();
    }
    for range in [0..1, 0..5, 3..20, 0..60, 59..60] {
        let read = log.try_get_log_entries(range.clone()).await.unwrap();
        assert_eq!(read.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), range.collect::<Vec<_>>());
    }
    logs.close().await;
}

#[tokio::test]
async fn a_torn_record_that_nobody_was_promised_is_cut() {
    for zeros in [false, true] {
        let folder = filled().await;
        // A record that was being written when the power went: the watermark does not know it.
        let db = LogDb::open(&folder.path().join("log.db"), |_| None).unwrap();
        let mut batch = LogBatch::default();
        batch.put(KEY(), 200, &[7; 1000]);
        db.write(batch, true).unwrap();
        drop(db);
        let file = OpenOptions::new().write(true).open(wal(folder.path())).unwrap();
        let length = file.metadata().unwrap().len();
        file.set_len(length - 500).unwrap();
        if zeros {
            // RocksDB refuses this one; what is left reaches the watermark.
            file.set_len(length).unwrap();
        }
        let logs = open(folder.path()).unwrap();
        let mut log = logs.open_replica(KEY(), None).await.unwrap();
        assert_eq!(log.try_get_log_entries(..).await.unwrap().len(), 200);
        append(&mut log, vec![entry(2, 200, 10)]).await.unwrap();
        logs.close().await;
    }
}

#[tokio::test]
async fn a_log_that_lost_its_end_is_rotten() {
    let folder = filled().await;
    let file = OpenOptions::new().write(true).open(wal(folder.path())).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    // RocksDB is content with half of the log, the watermark is not.
    let logs = open(folder.path()).unwrap();
    let refused = logs.open_replica(KEY(), None).await.err().expect("rot");
    assert!(matches!(refused, LogOpenError::Rot { rot: Rot::Short { promised: 199, .. }, .. }), "{refused}");
    assert!(refused.to_string().contains("replica 7 of group 1"), "{refused}");
    // Entries that are applied and on disk there may be missing here.
    assert!(logs.open_replica(KEY(), Some(199)).await.is_ok());
    logs.close().await;
}

#[tokio::test]
async fn a_damaged_last_record_that_was_promised_is_refused() {
    let folder = filled().await;
    let file = OpenOptions::new().write(true).open(wal(folder.path())).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(&[0; 200], length - 200).unwrap();
    let refused = open(folder.path()).err().expect("refused");
    assert!(refused.to_string().contains("less is left than was promised"), "{refused}");
    // But of a replica that was being removed when the power went nobody wants anything.
    let logs = LogStores::open(folder.path(), &BTreeSet::from([KEY()]), &FatalSignal::new()).unwrap();
    logs.close().await;
}

#[tokio::test]
async fn of_a_replica_that_was_removed_nothing_is_left() {
    let folder = filled().await;
    let logs = open(folder.path()).unwrap();
    let mut log = logs.open_replica(KEY(), None).await.unwrap();
    log.save_vote(&Vote::new(3, 7)).await.unwrap();
    logs.settle().await.unwrap();
    assert!(logs.has_voted(KEY()));
    // What the writer has yet to do when the replica is forgotten does not bring its mark back.
    let late = append(&mut log, vec![entry(1, 200, 1000)]);
    let (late, forgotten) = tokio::join!(late, logs.forget(KEY()));
    late.unwrap();
    forgotten.unwrap();
    logs.close().await;
    drop((log, logs));
    let logs = open(folder.path()).unwrap();
    assert!(!logs.has_voted(KEY()));
    let mut log = logs.open_replica(KEY(), None).await.expect("no rot, but nothing");
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, None);
    logs.close().await;
}

#[tokio::test]
async fn a_flipped_bit_inside_the_log_is_refused() {
    let folder = filled().await;
    let path = wal(folder.path());
    let length = std::fs::metadata(&path).unwrap().len();
    let byte = std::fs::read(&path).unwrap()[length as usize / 2];
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[byte ^ 1], length / 2).unwrap();
    assert!(open(folder.path()).is_err());
}

#[tokio::test]
async fn a_missing_watermark_beside_a_log_is_refused() {
    let folder = filled().await;
    std::fs::remove_file(folder.path().join("watermark")).unwrap();
    assert!(matches!(open(folder.path()), Err(LogOpenError::Watermark(_))));
}

/// Reads a whole log as the scrub does; how many bytes it has, or what is wrong.
async fn scrub(logs: &LogStores) -> Result<u64, String> {
    let (mut from, mut total, mut steps) = (0, 0, 0);
    loop {
        steps += 1;
        assert!(steps < 1_000, "it comes to an end");
        match logs.scrub(KEY(), from, 3_000).await.unwrap() {
            Scrubbed::Sound { next: Some(next), bytes } => (from, total) = (next, total + bytes),
            Scrubbed::Sound { next: None, bytes } => return Ok(total + bytes),
            Scrubbed::Rot(what) => return Err(what),
        }
    }
}

#[tokio::test]
async fn a_scrub_reads_every_record_and_finds_one_that_is_another() {
    let folder = filled().await;
    let logs = open(folder.path()).unwrap();
    assert!(scrub(&logs).await.unwrap() > 200 * 1_000);
    // A purge meanwhile makes no hole.
    let mut log = logs.open_replica(KEY(), None).await.unwrap();
    log.purge(log_id(1, 7, 99)).await.unwrap();
    append(&mut log, vec![entry(1, 200, 10)]).await.unwrap();
    let sound = scrub(&logs).await.unwrap();
    assert!(sound > 100 * 1_000 && sound < 200 * 1_000, "{sound}");
    logs.close().await;
    drop((log, logs));

    // Each of these is whole for RocksDB.
    for index in [100, 150, 199] {
        let db = LogDb::open(&folder.path().join("log.db"), |_| None).unwrap();
        let before = db.read(KEY(), index).unwrap().unwrap();
        let other = db.read(KEY(), index + 1).unwrap().unwrap();
        for (what, spoilt) in
            [("a bit", [&before[..60], &[before[60] ^ 1], &before[61..]].concat()), ("another", other.to_vec())]
        {
            let mut batch = LogBatch::default();
            batch.put(KEY(), index, &spoilt);
            db.write(batch, true).unwrap();
            let found = super::log_store::scrub(&db, KEY(), 0, 1 << 30).unwrap();
            assert!(matches!(&found, Scrubbed::Rot(why) if why.contains(&index.to_string())), "{what}: {found:?}");
        }
        let mut batch = LogBatch::default();
        batch.delete(KEY(), index, index + 1);
        db.write(batch, true).unwrap();
        if index > 100 {
            let found = super::log_store::scrub(&db, KEY(), 0, 1 << 30).unwrap();
            assert!(matches!(&found, Scrubbed::Rot(why) if why.contains("is missing")), "{found:?}");
        }
        let mut batch = LogBatch::default();
        batch.put(KEY(), index, &before);
        db.write(batch, true).unwrap();
        assert!(matches!(super::log_store::scrub(&db, KEY(), 0, 1 << 30).unwrap(), Scrubbed::Sound { next: None, .. }));
    }
}
