//! Rot: data that is not what was promised, from its discovery to its end.
//!
//! ```text
//! one replica's log or rows ──▶ Rotten in IDENTITY ──┐
//! a whole database, ROTTEN ──▶ all replicas Rotten ──┼─▶ ReportRot ─▶ BeginRebuild ─▶ a new replica here (host.rs)
//!                           └▶ its files to rotten/n │                                └▶ the old one is in no record:
//! group 0 says so (check.rs) ────────────────────────┘                                   removed, rotten/ too
//! ```
//! What is found while the store runs stops no replica: its vote is good, and its group may need it. Group 0 is told, and
//! says when another is made in its place. A damaged database is noted in the file `ROTTEN`; once the groups of all
//! replicas here can do without them, the process stops, and the next start sets the database aside. So it does, by the
//! same question, after a process that could not go on without what is damaged.
//!
//! # Invariants
//! I15: a replica is noted as rotten before anything of it goes, and never runs again; its place is taken under a new id.
//! I6: nothing that a majority may need is deleted before group 0 has let go of the replica.
//!
//! # Failure
//! The note in `ROTTEN` stays until all is set aside, so a crash in between goes on where it was. A row that checks and
//! does not make sense is no rot but a bug of ours or another version's row: all replicas would have it, and are kept.
//! One that apply misses is rot: it goes on without it, as the others do with it. Were it a bug of ours, all would be
//! reported, and none could be spared.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use seriatim_proto::chaos::{self, Point};
use seriatim_proto::ids::{GroupId, ReplicaId};
use seriatim_proto::limits;
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, StoreRecord};
use seriatim_store_core::plan::can_spare;

use crate::host::Host;
use crate::identity::{self, DataFolder, Identity, IdentityError, write_durable};
use crate::moves;
use crate::remote::Remote;

/// Notes that a database of the folder is damaged. The next start sets it aside.
pub(crate) fn note(folder: &Path, what: &str) -> io::Result<()> {
    write_durable(folder, NOTE, what.as_bytes())
}

/// What was noted, if it was.
pub(crate) fn noted(folder: &Path) -> io::Result<Option<String>> {
    match fs::read(folder.join(NOTE)) {
        Ok(what) => Ok(Some(String::from_utf8_lossy(&what).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes all replicas of the folder out of service, and moves its databases away, to a folder of their own under
/// [`ASIDE`]. Nothing is deleted: what somebody takes for rot may be a newer version's files. `what` is why.
///
/// # Errors
/// Without an identity nothing is touched: nobody could say which replicas are to be rebuilt, and when that is done.
pub(crate) fn set_aside(folder: &mut DataFolder, what: &str) -> Result<(), IdentityError> {
    let path = folder.path().to_owned();
    if folder.identity().is_none() {
        return Err(IdentityError::Nobodys { path });
    }
    let io = |source| IdentityError::Io { path: path.clone(), source };
    tracing::error!(
        what,
        "ALARM: rot: all replicas of this store are rebuilt; its files are kept in {ASIDE} meanwhile"
    );
    note(&path, what).map_err(io)?;
    let aside = aside_for(&path).map_err(io)?;
    // As it is before the replicas are noted as rotten: who takes everything back needs it (docs/operating.md).
    keep_identity(&path, &aside).map_err(io)?;
    folder.note_all_rotten()?;
    for name in DATABASES {
        let (from, to) = (path.join(name), aside.join(name));
        if from.exists() {
            fs::rename(&from, &to).map_err(io)?;
            chaos::hit(Point::StoreSetAside);
        }
    }
    for folder in [&aside, &path] {
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
    }
    fs::remove_file(path.join(NOTE)).map_err(io)?;
    fs::File::open(&path).and_then(|folder| folder.sync_all()).map_err(io)
}

/// The folder that takes what goes now: the one that a crash left incomplete, or a new one. What is in one stays.
fn aside_for(path: &Path) -> io::Result<PathBuf> {
    let all = path.join(ASIDE);
    fs::create_dir_all(&all)?;
    fs::File::open(path)?.sync_all()?;
    let mut last = 0;
    for entry in fs::read_dir(&all)? {
        last = entry?.file_name().to_str().and_then(|name| name.parse().ok()).unwrap_or(0_u64).max(last);
    }
    let of = |nth: u64| all.join(nth.to_string());
    let goes_on = last > 0 && !DATABASES.iter().any(|name| of(last).join(name).exists() && path.join(name).exists());
    let aside = of(if goes_on { last } else { last + 1 });
    fs::create_dir_all(&aside)?;
    fs::File::open(&all)?.sync_all()?;
    Ok(aside)
}

fn keep_identity(path: &Path, aside: &Path) -> io::Result<()> {
    match fs::read(path.join(identity::FILE)) {
        Ok(_) if aside.join(identity::FILE).exists() => Ok(()),
        Ok(bytes) => write_durable(aside, identity::FILE, &bytes),
        Err(error) => Err(error),
    }
}

/// Removes what was set aside, once nothing of it may be needed any more: by the `directory`, which was read
/// linearizably, all replicas that the files are of are no more. What is nobody's is kept.
fn remove_aside(folder: &Path, directory: &Directory) {
    let aside = folder.join(ASIDE);
    if !is_let_go(&aside, directory).unwrap_or(false) {
        tracing::debug!(path = %aside.display(), "rotten files may be needed");
        return;
    }
    if let Err(error) = fs::remove_dir_all(&aside) {
        tracing::warn!(path = %aside.display(), %error, "rotten files that nobody needs any more cannot be removed");
    }
}

/// Has group 0 let go of all replicas that were set aside?
fn is_let_go(aside: &Path, directory: &Directory) -> Result<bool, IdentityError> {
    let io = |source| IdentityError::Io { path: aside.to_owned(), source };
    for entry in fs::read_dir(aside).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let is_done = match identity::read(&path.join(identity::FILE))? {
            Some(kept) => {
                let is_removed = |born: &identity::BornReplica| directory.is_removed(born.group, born.replica);
                kept.cluster == directory.cluster && kept.born.iter().all(is_removed)
            }
            // A crash came before anything was.
            None => fs::read_dir(&path).map_err(io)?.next().is_none(),
        };
        if !is_done {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Tells group 0 of the rotten replicas of this store until it knows. Runs until it is dropped.
pub(crate) async fn report(host: Arc<Host>) {
    let mut tick = tokio::time::interval(REPORT);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let mut rotten = host.rotten();
        if let Some(what) = host.fatal().damage() {
            host.replicas().iter().for_each(|replica| host.suspect(replica.group, replica.id(), &what));
        }
        for replica in host.replicas() {
            if let Some(what) = replica.live.rot() {
                host.suspect(replica.group, replica.id(), what);
            }
        }
        rotten.extend(host.suspected());
        host.metrics().rotten.set(i64::try_from(rotten.len()).unwrap_or(i64::MAX));
        let Some(directory) = host.events().directory().borrow().clone() else { continue };
        if rotten.is_empty() {
            let folder = host.data_dir().to_owned();
            // A directory that another store has shown is no reason to delete anything.
            if host.identity().is_some()
                && folder.join(ASIDE).exists()
                && let Ok(directory) = host.remote().read_directory(&directory).await
            {
                // The runtime is going down, or it is done.
                let _ = tokio::task::spawn_blocking(move || remove_aside(&folder, &directory)).await;
            }
            continue;
        }
        for rot in rotten {
            let (group, replica) = (rot.group, rot.replica);
            if directory.is_rotten(group, replica) || directory.is_removed(group, replica) {
                continue;
            }
            let what = shortened(rot.what);
            if let Err(why) = host.remote().tell_meta(&directory, MetaCommand::ReportRot { group, replica, what }).await
            {
                tracing::info!(group = group.0, replica = replica.0, why, "group 0 does not know of the rot yet");
            }
        }
        if let (Some(what), Some(identity)) = (host.fatal().damage(), host.identity())
            && all_can_spare(host.remote(), &identity, &moves::meta_stores(&directory), &what).await
        {
            host.fatal().raise(format!("the next start sets damaged data aside: {what}"));
        }
    }
}

/// Can the groups of all replicas that live here do without them? `stores` are those of group 0 that are asked. Group 0
/// is told of the rot first: of two stores that ask at once, neither counts on the other.
pub(crate) async fn all_can_spare(remote: &Remote, identity: &Identity, stores: &[StoreRecord], what: &str) -> bool {
    let lives = |directory: &Directory| -> Vec<(GroupId, ReplicaId)> {
        // One that joins may vote already.
        let named = |group: GroupId, replica: ReplicaId| {
            let of_group = directory.groups.iter().filter(|record| record.id == group);
            let joins = directory.moves.iter().filter(|moved| moved.group == group).flat_map(|moved| &moved.joining);
            of_group.flat_map(|record| &record.replicas).chain(joins).any(|known| known.id == replica)
        };
        let born = identity.born.iter().filter(|born| !born.is_dead() && named(born.group, born.replica));
        born.map(|born| (born.group, born.replica)).collect()
    };
    if identity.born.iter().all(|born| born.is_dead()) {
        return true;
    }
    let Ok(directory) = remote.read_directory_of(identity.cluster, stores).await else { return false };
    let new = lives(&directory).into_iter().filter(|(group, replica)| !directory.is_rotten(*group, *replica));
    for (group, replica) in new {
        let report = MetaCommand::ReportRot { group, replica, what: shortened(what.to_owned()) };
        if remote.tell_meta_of(identity.cluster, stores, report).await != Ok(MetaOutcome::RotNoted) {
            return false;
        }
    }
    let Ok(directory) = remote.read_directory_of(identity.cluster, stores).await else { return false };
    let others = |store| store != identity.store;
    let before = remote.statuses(&directory, others).await;
    let now = remote.statuses(&directory, others).await;
    lives(&directory).into_iter().all(|(group, replica)| can_spare(&directory, group, replica, &before, &now))
}

/// As [`all_can_spare`], before this store serves anybody.
pub(crate) async fn all_can_spare_at_start(remote: &Remote, folder: &DataFolder, what: &str) -> bool {
    let Some(identity) = folder.identity() else { return true };
    let others = identity.meta_stores.iter().filter(|store| store.id != identity.store);
    let others: Vec<_> = others.cloned().collect();
    let asked = async {
        // What this store led when it stopped is led by others in a moment.
        while !all_can_spare(remote, identity, &others, what).await {
            tokio::time::sleep(REPORT).await;
        }
    };
    tokio::time::timeout(START_PATIENCE, asked).await.is_ok()
}

/// What fits a report.
fn shortened(mut what: String) -> String {
    let mut end = what.len().min(limits::ROT_REASON_BYTES_MAX as usize);
    while !what.is_char_boundary(end) {
        end -= 1;
    }
    what.truncate(end);
    what
}

/// Says that a database is damaged; the rest is why.
const NOTE: &str = "ROTTEN";
/// Where damaged databases are until everything is rebuilt: in `1`, `2` …, with the identity as it was before.
const ASIDE: &str = "rotten";
/// What goes there. The log and the votes belong together, and to the rows.
const DATABASES: [&str; 4] = ["log.db", "watermark", "state.db", "snapshots"];
/// How long a start waits for the others to say that they can do without this store's replicas.
const START_PATIENCE: Duration = Duration::from_secs(5);
/// How often group 0 is told what it does not know yet.
const REPORT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use seriatim_proto::ids::{ClusterId, StoreId};
    use seriatim_proto::meta::{GroupRecord, ReplicaRecord};

    use super::*;
    use crate::identity::Stage;
    use crate::raft::testing::directory_of_a_rebuild;

    fn folder_with_data(path: &Path) -> DataFolder {
        let mut folder = DataFolder::open(path).unwrap();
        folder
            .adopt(Identity {
                cluster: ClusterId([1; 16]),
                store: StoreId(1),
                address: "a:1".into(),
                poisoned: false,
                meta_stores: vec![],
                meta_replicas: vec![ReplicaRecord { id: ReplicaId(1), store: StoreId(1) }],
                born: vec![],
            })
            .unwrap();
        folder.note_born(GroupId(0), ReplicaId(1)).unwrap();
        folder.note_born(GroupId(3), ReplicaId(9)).unwrap();
        folder.note_removing(GroupId(3), ReplicaId(9)).unwrap();
        fill(path);
        folder
    }

    fn fill(path: &Path) {
        for name in ["log.db", "state.db", "snapshots"] {
            fs::create_dir(path.join(name)).unwrap();
            fs::write(path.join(name).join("1"), name).unwrap();
        }
        fs::write(path.join("watermark"), "w").unwrap();
    }

    #[test]
    fn what_is_set_aside_is_kept_and_its_replicas_never_run_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = folder_with_data(dir.path());
        let before = fs::read(dir.path().join(identity::FILE)).unwrap();
        set_aside(&mut folder, "a bit").unwrap();
        assert_eq!(noted(dir.path()).unwrap(), None);
        let first = dir.path().join(ASIDE).join("1");
        for name in DATABASES {
            assert!(!dir.path().join(name).exists() && first.join(name).exists(), "{name}");
        }
        assert_eq!(fs::read(first.join(identity::FILE)).unwrap(), before, "as it was");
        let stage = |folder: &DataFolder, group, replica| {
            folder.identity().unwrap().born(GroupId(group), ReplicaId(replica)).map(|born| born.stage)
        };
        assert_eq!(stage(&folder, 0, 1), Some(Stage::Rotten));
        assert_eq!(stage(&folder, 3, 9), Some(Stage::Removed), "it was on its way out already");
        drop(folder);

        // A crash after any step is gone on from at the next start, and nothing of the first time is touched.
        let mut folder = DataFolder::open(dir.path()).unwrap();
        fill(dir.path());
        note(dir.path(), "another bit").unwrap();
        let second = aside_for(dir.path()).unwrap();
        assert_eq!(second, dir.path().join(ASIDE).join("2"));
        fs::rename(dir.path().join("log.db"), second.join("log.db")).unwrap();
        assert_eq!(noted(dir.path()).unwrap().unwrap(), "another bit");
        set_aside(&mut folder, "another bit").unwrap();
        assert!(DATABASES.iter().all(|name| first.join(name).exists() && second.join(name).exists()));
        assert_eq!(fs::read_dir(dir.path().join(ASIDE)).unwrap().count(), 2);
        let mut directory = directory_of_a_rebuild();
        let first = ReplicaRecord { id: ReplicaId(1), store: StoreId(1) };
        let meta = GroupRecord { id: GroupId(0), slots: vec![], replicas: vec![first], closed: true };
        directory.groups.push(meta);
        remove_aside(dir.path(), &directory);
        assert!(dir.path().join(ASIDE).join("1").exists(), "group 0 still names one of the replicas");
        directory.groups.pop();
        let other = Directory { cluster: ClusterId([2; 16]), ..directory.clone() };
        remove_aside(dir.path(), &other);
        assert!(dir.path().join(ASIDE).join("1").exists(), "another cluster says nothing about them");
        remove_aside(dir.path(), &directory);
        remove_aside(dir.path(), &directory);
        assert!(!dir.path().join(ASIDE).exists());
    }

    #[test]
    fn what_is_nobodys_is_neither_set_aside_nor_removed() {
        let dir = tempfile::tempdir().unwrap();
        drop(folder_with_data(dir.path()));
        fs::remove_file(dir.path().join(identity::FILE)).unwrap();
        let mut folder = DataFolder::open(dir.path()).unwrap();
        assert!(matches!(set_aside(&mut folder, "a bit"), Err(IdentityError::Nobodys { .. })));
        assert!(DATABASES.iter().all(|name| dir.path().join(name).exists()));
        // It was lost when they had been set aside.
        let aside = dir.path().join(ASIDE).join("1");
        fs::create_dir_all(&aside).unwrap();
        fs::rename(dir.path().join("log.db"), aside.join("log.db")).unwrap();
        remove_aside(dir.path(), &directory_of_a_rebuild());
        assert!(aside.join("log.db").exists());
        // A crash left nothing but the folder.
        fs::remove_dir_all(aside.join("log.db")).unwrap();
        remove_aside(dir.path(), &directory_of_a_rebuild());
        assert!(!aside.exists());
    }

    #[test]
    fn a_report_is_as_long_as_group_0_takes_it() {
        let long = "ä".repeat(400);
        let short = shortened(long.clone());
        assert!(short.len() <= limits::ROT_REASON_BYTES_MAX as usize && long.starts_with(&short));
        assert_eq!(shortened("short".to_owned()), "short");
    }
}
