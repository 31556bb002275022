//! Meta: what this store does because group 0 says so, and what its leaders owe group 0.
//!
//! ```text
//! directory (applied here) ──▶ replicas that should run here
//! leader of an open group  ──▶ Own{slots} ──▶ all replicas have it ──▶ CloseGroup at group 0's leader
//! every second             ──▶ disk, flush, purge, streams to the other stores
//! when all was calm        ──▶ a leader that is not on its group's preferred store gives leadership away (balance.rs)
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::ids::{Generation, GroupId, StoreId};
use seriatim_proto::meta::{Directory, GroupRecord, MetaCommand};
use seriatim_store_core::plan::preferred_leaders;

use crate::balance::{Balance, Led};
use crate::host::{Host, Wanted};
use crate::identity::{BornReplica, Stage};
use crate::moves;
use crate::raft::types::Member;
use crate::replica::Replica;

/// Bears and starts the replicas that the directory names, whenever it changes. Runs until it is dropped.
pub(crate) async fn follow_directory(host: Arc<Host>) {
    let mut changes = host.events().directory();
    loop {
        let directory = changes.borrow_and_update().clone();
        let mut is_done = true;
        if let Some(directory) = directory {
            heed_rot(&host, &directory).await;
            is_done = remove_unnamed(&host, &directory).await;
            start_named(&host, &directory).await;
        }
        let changed = changes.changed();
        let is_over = match is_done {
            true => changed.await.is_err(),
            false => matches!(tokio::time::timeout(CONFIRM_RETRY, changed).await, Ok(Err(_))),
        };
        if is_over {
            return;
        }
    }
}

/// Stops the rotten replicas that group 0 has others made for: until then their groups may need them.
async fn heed_rot(host: &Arc<Host>, directory: &Directory) {
    let Some(identity) = host.identity() else { return };
    let ours = directory.rotten.iter().filter(|rot| rot.replica.store == identity.store);
    for rot in ours.filter(|rot| directory.is_replaced(rot.group, rot.replica.id)) {
        host.heed_rot(rot).await;
    }
}

/// Removes the replicas that lived here and are in no record any more, and what a crash left of one. False if group 0
/// does not say now whether that is so: a directory that another store has shown is no reason to delete anything.
async fn remove_unnamed(host: &Arc<Host>, directory: &Directory) -> bool {
    let Some(identity) = host.identity() else { return true };
    for born in identity.born.iter().filter(|born| born.stage == Stage::Removed) {
        host.remove(born.group, born.replica).await;
    }
    let unnamed = |born: &&BornReplica| born.stage != Stage::Removed && directory.is_removed(born.group, born.replica);
    let unnamed: Vec<_> = identity.born.iter().filter(unnamed).collect();
    if unnamed.is_empty() {
        return true;
    }
    let Ok(directory) = host.remote().read_directory(directory).await else { return false };
    for born in unnamed.into_iter().filter(|born| directory.is_removed(born.group, born.replica)) {
        host.remove(born.group, born.replica).await;
    }
    true
}

/// Starts all replicas that the directory names for this store, concurrently.
pub(crate) async fn start_named(host: &Arc<Host>, directory: &Directory) {
    let Some(identity) = host.identity() else { return };
    let wanted = directory.groups.iter().filter_map(|record| wanted(directory, record, identity.store));
    // Group 0's replica is started by the identity alone, unless it is a rebuilt one that has not taken part yet.
    let by_identity =
        |wanted: &Wanted| wanted.group == GroupId::META && identity.meta_replica() == Some(wanted.replica);
    let wanted = wanted.filter(|wanted| !by_identity(wanted));
    futures_util::future::join_all(wanted.map(|wanted| host.want(wanted))).await;
}

/// The replica of a group that should run on a store.
pub(crate) fn wanted(directory: &Directory, record: &GroupRecord, store: StoreId) -> Option<Wanted> {
    let joins = directory.moves.iter().filter(|moved| moved.group == record.id).find_map(|moved| moved.joining);
    let joins = joins.filter(|replica| replica.store == store);
    // Where a rotten one is rebuilt, the new one runs and the old one never again.
    let ours = joins.or_else(|| record.replicas.iter().find(|replica| replica.store == store).copied())?;
    Some(Wanted {
        group: record.id,
        replica: ours.id,
        members: members(directory, record),
        closed: record.closed,
        joining: joins == Some(ours),
        is_confirmed: false,
    })
}

fn members(directory: &Directory, record: &GroupRecord) -> Vec<Member> {
    let replicas = record.replicas.iter();
    replicas
        .map(|replica| Member {
            replica: replica.id,
            store: replica.store,
            address: address(directory, replica.store).unwrap_or_default(),
        })
        .collect()
}

pub(crate) fn address(directory: &Directory, store: StoreId) -> Option<String> {
    directory.stores.iter().find(|record| record.id == store).map(|record| record.address.clone())
}

/// The regular work of a store. Runs until it is dropped.
pub(crate) async fn tend(host: Arc<Host>) {
    let closing = Arc::new(Mutex::new(BTreeSet::new()));
    let mut tick = tokio::time::interval(TEND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut balance = Balance::default();
    let moving = Arc::new(Mutex::new(BTreeSet::new()));
    let mut looked_at: Option<Instant> = None;
    loop {
        tick.tick().await;
        close_groups(&host, &closing);
        moves::carry_out(&host, &moving);
        if looked_at.is_none_or(|at| at.elapsed() >= LOOK) {
            looked_at = Some(Instant::now());
            look(&host).await;
            balance_leaders(&host, &mut balance).await;
        }
    }
}

/// Disk, numbers, and the flush that lets the log be purged.
async fn look(host: &Arc<Host>) {
    match host.disk().check() {
        Ok(read_only) => {
            host.metrics().read_only.set(i64::from(read_only));
        }
        Err(error) => tracing::warn!(%error, "the free disk cannot be read"),
    };
    host.metrics().disk_free_bytes.set(i64::try_from(host.disk().free_bytes()).unwrap_or(i64::MAX));
    host.replicas().iter().for_each(|replica| replica.keep_links());
    let led: Vec<_> = host.replicas().into_iter().filter(|replica| replica.leadership().is_some()).collect();
    let directory = host.events().directory().borrow().clone();
    if let Some(directory) = directory {
        // Others can be sure of their rows.
        let is_rotten = |replica: &Replica| {
            // What apply has met here counts before group 0 knows of it.
            replica.live.rot().is_some() || directory.is_rotten(replica.group, replica.id())
        };
        for rotten in led.iter().filter(|replica| is_rotten(replica)) {
            rotten.hand_over(&directory).await;
        }
    }
    host.metrics().leaders.set(i64::try_from(led.len()).unwrap_or(i64::MAX));
    host.metrics().leases.set(led.iter().map(|replica| i64::from(replica.live.lease_count())).sum());
    if host.state().unflushed_bytes() < host.tuning().flush_log_bytes {
        return;
    }
    let state = Arc::clone(host.state());
    match tokio::task::spawn_blocking(move || state.flush()).await {
        Ok(Ok(())) => (),
        Ok(Err(fatal)) => return host.fatal().raise_of(format_args!("state.db cannot be flushed"), &fatal),
        // The runtime is going down.
        Err(_) => return,
    }
    let directory = host.events().directory().borrow().clone();
    let joins = |group: GroupId| {
        directory
            .iter()
            .flat_map(|directory| &directory.moves)
            .any(|moved| moved.group == group && moved.comes().is_some())
    };
    // Only while there is room: a log that fills the disk would make the store read-only.
    let has_room = host.disk().free_bytes() >= host.disk().reserve_bytes().saturating_mul(ROOM_RESERVES);
    for replica in host.replicas().into_iter().filter(|replica| !(has_room && joins(replica.group))) {
        replica.note_flushed().await;
    }
}

/// Gives one leadership away that belongs elsewhere, if it is time.
async fn balance_leaders(host: &Arc<Host>, balance: &mut Balance) {
    let (Some(identity), Some(directory)) = (host.identity(), host.events().directory().borrow().clone()) else {
        return;
    };
    let leaders = preferred_leaders(&directory.groups);
    let mut led = Vec::new();
    for replica in host.replicas() {
        let Some(term) = replica.leadership() else { continue };
        let preferred = leaders.get(&replica.group).copied();
        let is_rotten = |store: StoreId| {
            directory.rotten.iter().any(|rot| rot.group == replica.group && rot.replica.store == store)
        };
        if let Some(preferred) = preferred.filter(|preferred| *preferred != identity.store && !is_rotten(*preferred)) {
            let calm = !replica.has_doubtful_lease() && replica.follows_closely(preferred);
            led.push((Led { group: replica.group, term, calm }, preferred, replica));
        }
    }
    let due = balance.look(Instant::now(), led.iter().map(|(led, ..)| *led));
    if let Some((_, preferred, replica)) = led.into_iter().find(|(led, ..)| Some(led.group) == due) {
        replica.transfer_to(preferred).await;
    }
}

/// For each open group that is led here: own its slots, then have its record closed.
fn close_groups(host: &Arc<Host>, closing: &Arc<Mutex<BTreeSet<GroupId>>>) {
    let Some(directory) = host.events().directory().borrow().clone() else { return };
    for replica in host.replicas() {
        let record = directory.groups.iter().find(|record| record.id == replica.group && !record.closed);
        let (Some(record), Some(term)) = (record, replica.leadership()) else { continue };
        if !closing.lock().insert(replica.group) {
            continue;
        }
        let (host, record, generation) = (Arc::clone(host), record.clone(), directory.generation);
        let closing = Arc::clone(closing);
        tokio::spawn(async move {
            if let Err(what) = own_and_close(&host, &replica, term, generation, &record).await {
                tracing::warn!(group = replica.group.0, what, "the group's record is not closed yet");
            }
            closing.lock().remove(&replica.group);
        });
    }
}

async fn own_and_close(
    host: &Arc<Host>,
    replica: &Arc<Replica>,
    term: u64,
    generation: Generation,
    record: &GroupRecord,
) -> Result<(), String> {
    let (tx, rx) = oneshot::channel();
    let own = Command::Own { generation, slots: record.slots.clone() };
    // Nobody may wait any more: then the answer is not wanted.
    replica.propose_as_leader(term, &[own], move |result| drop(tx.send(result))).await;
    match rx.await.map_err(|_| "no answer")?.map_err(|refusal| refusal.to_string())?.first() {
        Some(Outcome::Owned) => (),
        other => return Err(format!("another verdict than `Owned`: {other:?}")),
    }
    // A replica that has nothing when the record closes counts as rot: give each the time to take part.
    let index = replica.last_index();
    let deadline = Instant::now() + ALL_HAVE_TIMEOUT;
    while !replica.all_have(index) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if replica.leadership() != Some(term) {
            return Err("the leadership ended".into());
        }
    }
    let directory = host.events().directory().borrow().clone().ok_or("no directory")?;
    host.remote().tell_meta(&directory, MetaCommand::CloseGroup { id: replica.group }).await.map(drop)
}

/// Free disk, in reserves, above which a group's log is kept whole for a replica that joins.
const ROOM_RESERVES: u64 = 4;
/// Pause before group 0 is asked again whether a replica here is no more.
const CONFIRM_RETRY: Duration = Duration::from_millis(500);
const TEND: Duration = Duration::from_millis(100);
/// Period of looking at disk, flush and leaders.
const LOOK: Duration = Duration::from_secs(1);
/// Time for slow replicas to take part before a group's record is closed without them.
const ALL_HAVE_TIMEOUT: Duration = Duration::from_secs(10);
