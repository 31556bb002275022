//! A store whose files are damaged, or come from another time, is rebuilt from the others while writes go on.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::placement::{PATIENCE, Writer, directory, meta, short_logs, wait_for, wait_settled};
use crate::common::{Cluster, status};
use seriatim_proto::ids::{GroupId, ReplicaId, StoreId};
use seriatim_proto::meta::{Directory, MetaCommand};
use seriatim_store::Tuning;

const GROUPS: u32 = 2;

/// The replicas that the directory names on a store, with their groups.
fn replicas(directory: &Directory, store: StoreId) -> BTreeSet<(GroupId, ReplicaId)> {
    let of = |group: &seriatim_proto::meta::GroupRecord| {
        let ours = group.replicas.iter().filter(|replica| replica.store == store);
        ours.map(|replica| (group.id, replica.id)).collect::<Vec<_>>()
    };
    directory.groups.iter().flat_map(of).collect()
}

/// Files of a database whose names end so, the newest last.
fn files(database: &Path, end: &str) -> Vec<PathBuf> {
    let names = fs::read_dir(database).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<PathBuf> = names.filter(|path| path.to_str().unwrap().ends_with(end)).collect();
    found.retain(|path| path.metadata().unwrap().len() > 0);
    found.sort();
    found
}

fn flip(path: &Path) {
    flip_at(path, path.metadata().unwrap().len() / 2);
}

fn flip_at(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

/// Both copies of them.
fn lose_votes(folder: &Path) {
    OpenOptions::new().write(true).open(folder.join("watermark")).unwrap().set_len(10).unwrap();
}

fn cut(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
}

/// Waits until nothing of what a store had is left, and everything is whole under new ids.
async fn wait_rebuilt(cluster: &Cluster, store: StoreId, before: &BTreeSet<(GroupId, ReplicaId)>) {
    let whole = |directory: &Directory| {
        let now = replicas(directory, store);
        directory.moves.is_empty()
            && directory.rotten.is_empty()
            && now.len() == GROUPS as usize + 1
            && now.is_disjoint(before)
            && before.iter().all(|(group, replica)| directory.is_removed(*group, *replica))
    };
    wait_for(cluster, "the store is rebuilt", whole).await;
    wait_settled(cluster).await;
    let address = &cluster.nodes[store.0 as usize - 1].address.to_string();
    let deadline = Instant::now() + PATIENCE;
    while !status(address).await.rotten.is_empty() {
        assert!(Instant::now() < deadline, "the alarm goes on");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Each store can go: so all three hold everything, and vote.
async fn check_each_counts(cluster: &mut Cluster, writer: &mut Writer) {
    for nth in 0..3 {
        cluster.kill(nth);
        writer.write(cluster, 2).await;
        cluster.restart(nth).await;
    }
    writer.check(cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_damaged_files_is_rebuilt_while_writes_go_on() {
    let mut cluster = Cluster::start(3, GROUPS, short_logs()).await;
    let mut writer = Writer::new(&cluster, GROUPS).await;
    writer.write(&cluster, 200).await;
    type Harm = fn(&Path);
    // Whether it takes every replica of the store, and what is done.
    let harms: [(&str, bool, Harm); 6] = [
        ("the log's end is cut off", false, |folder| cut(files(&folder.join("log.db"), ".log").last().unwrap())),
        ("a bit of the log", true, |folder| flip(files(&folder.join("log.db"), ".log").last().unwrap())),
        ("half of a file of rows", true, |folder| cut(&files(&folder.join("state.db"), ".sst")[0])),
        ("the rows are gone", false, |folder| fs::remove_dir_all(folder.join("state.db")).unwrap()),
        ("the votes are gone", true, lose_votes),
        ("a bit of the file that names all others", true, |folder| {
            let manifests = fs::read_dir(folder.join("log.db")).unwrap().map(|entry| entry.unwrap().path());
            flip(&manifests.filter(|path| path.to_str().unwrap().contains("MANIFEST")).max().unwrap());
        }),
    ];
    for (round, (what, takes_all, harm)) in harms.into_iter().enumerate() {
        eprintln!("{what}");
        let nth = round % 3;
        let store = StoreId(nth as u64 + 1);
        let all = replicas(&directory(&cluster).await, store);
        assert_eq!(all.len(), GROUPS as usize + 1, "group 0 too");
        // Without a flush: what is cut off the log then is nowhere else.
        writer.write(&cluster, 50).await;
        cluster.kill(nth);
        cluster.wait_ended(nth).await;
        harm(cluster.nodes[nth].folder.path());
        writer.write(&cluster, 5).await;
        cluster.restart(nth).await;
        let deadline = Instant::now() + PATIENCE;
        let is_rotten = |replica: &&(GroupId, ReplicaId), now: &Directory| now.is_removed(replica.0, replica.1);
        loop {
            let now = directory(&cluster).await;
            let gone = all.iter().filter(|replica| is_rotten(replica, &now)).count();
            if now.moves.is_empty() && now.rotten.is_empty() && gone >= if takes_all { all.len() } else { 1 } {
                break;
            }
            // A little at a time: what is written has to be compared and copied.
            writer.write(&cluster, 2).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            let status = status(&cluster.nodes[nth].address.to_string()).await;
            assert!(Instant::now() < deadline, "not rebuilt: {what}: {status:?} {:?} {:?}", now.moves, now.rotten);
        }
        let now = directory(&cluster).await;
        let gone = all.iter().filter(|replica| is_rotten(replica, &now)).copied().collect();
        wait_rebuilt(&cluster, store, &gone).await;
        let aside = cluster.nodes[nth].folder.path().join("rotten");
        crate::common::wait_until("what was set aside is gone", async || !aside.exists()).await;
        writer.check(&cluster).await;
    }
    check_each_counts(&mut cluster, &mut writer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_survives_deaths_and_doubts_at_any_time() {
    let mut cluster = Cluster::start(3, GROUPS, short_logs()).await;
    let mut writer = Writer::new(&cluster, GROUPS).await;
    writer.write(&cluster, 200).await;
    let store = StoreId(3);
    let before = replicas(&directory(&cluster).await, store);
    cluster.stop(2).await;
    cluster.wait_ended(2).await;
    lose_votes(cluster.nodes[2].folder.path());
    cluster.restart(2).await;
    // Each time another stage of it: the store itself dies, group 0's leader dies, somebody turns it back twice.
    for (round, pause_ms) in [0, 700, 30, 1_100, 200, 60, 1_500, 400, 900].into_iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        match round % 3 {
            0 => {
                cluster.kill(2);
                cluster.restart(2).await;
            }
            1 => {
                if let Some(moved) = directory(&cluster).await.moves.first().cloned() {
                    let back = meta(&cluster, MetaCommand::CancelMove { moved: moved.clone() }).await;
                    let again = meta(&cluster, MetaCommand::CancelMove { moved }).await;
                    eprintln!("turned back: {back:?} {again:?}");
                }
            }
            _ => {
                let victim = cluster.leader(GroupId::META).await;
                cluster.kill(victim);
                cluster.restart(victim).await;
            }
        }
        writer.write(&cluster, 2).await;
    }
    wait_rebuilt(&cluster, store, &before).await;
    check_each_counts(&mut cluster, &mut writer).await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_from_before_its_rebuilding_is_heard_under_no_old_id() {
    let mut cluster = Cluster::start(3, GROUPS, short_logs()).await;
    let mut writer = Writer::new(&cluster, GROUPS).await;
    writer.write(&cluster, 100).await;
    let store = StoreId(2);
    let first = replicas(&directory(&cluster).await, store);
    cluster.stop(1).await;
    cluster.wait_ended(1).await;
    let folder = cluster.nodes[1].folder.path().to_owned();
    let old = tempfile::tempdir().unwrap();
    copy(&folder, old.path());
    lose_votes(&folder);
    cluster.restart(1).await;
    wait_rebuilt(&cluster, store, &first).await;
    writer.write(&cluster, 50).await;

    // Somebody puts the copy back.
    let second = replicas(&directory(&cluster).await, store);
    cluster.stop(1).await;
    cluster.wait_ended(1).await;
    fs::remove_dir_all(&folder).unwrap();
    copy(old.path(), &folder);
    cluster.restart(1).await;
    let gone: BTreeSet<_> = first.union(&second).copied().collect();
    let whole = |directory: &Directory| {
        let now = replicas(directory, store);
        directory.moves.is_empty() && directory.rotten.is_empty() && now.len() == 3 && now.is_disjoint(&gone)
    };
    wait_for(&cluster, "it is rebuilt once more", whole).await;
    wait_settled(&cluster).await;
    writer.write(&cluster, 20).await;
    check_each_counts(&mut cluster, &mut writer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_in_rows_that_nobody_reads_is_found_by_the_scrub() {
    let tuning = Tuning { scrub_period: Duration::from_millis(300), ..short_logs() };
    let mut cluster = Cluster::start(3, GROUPS, tuning).await;
    let mut writer = Writer::new(&cluster, GROUPS).await;
    writer.write(&cluster, 300).await;
    let store = StoreId(3);
    let before = replicas(&directory(&cluster).await, store);
    cluster.stop(2).await;
    cluster.wait_ended(2).await;
    let folder = cluster.nodes[2].folder.path().to_owned();
    let tables = files(&folder.join("state.db"), ".sst");
    let largest = tables.iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    flip_at(largest, largest.metadata().unwrap().len() / 4);
    cluster.restart(2).await;
    // The process ends once its groups can do without it, and would be started again; unless the start has found it
    // already.
    let noted = folder.join("ROTTEN");
    let is_new = async |cluster: &Cluster| replicas(&directory(cluster).await, store).is_disjoint(&before);
    crate::common::wait_until("it is found", async || noted.exists() || is_new(&cluster).await).await;
    writer.write(&cluster, 5).await;
    let deadline = Instant::now() + PATIENCE;
    while noted.exists() {
        assert!(Instant::now() < deadline, "it is not set aside");
        cluster.kill(2);
        cluster.restart(2).await;
    }
    wait_rebuilt(&cluster, store, &before).await;
    writer.write(&cluster, 5).await;
    check_each_counts(&mut cluster, &mut writer).await;
}
