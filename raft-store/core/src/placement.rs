//! Placement: which stores there are, and where replicas of groups move to.
//!
//! ```text
//! AddStore ─▶ a store without replicas
//! BeginMove{from, to} ─▶ Move{joining, leaving} ─▶ the group's leader: learner → promote → remove ─▶ EndMove
//!                      BeginMove ▲│ CancelMove: turned back ─▶ the members as they were ─▶ EndMove
//! SetDraining ─▶ its replicas move away ─▶ RemoveStore
//! ReportRot ─▶ BeginRebuild ─▶ Move{joining, leaving} on one store ─▶ as above; the end takes the report away
//! WithdrawRot ─▶ it was none
//! ```
//! The group's own membership decides who votes; group 0 says where it should go, and learns when it is there.
//!
//! # Invariants
//! I15: a replica gets its id here, once. Once its move has ended without it, it is in no record, and its id is below
//! `replica_next`: whoever has this directory listens to it no more.

use seriatim_proto::ids::{GroupId, ReplicaId, StoreId};
use seriatim_proto::limits;
use seriatim_proto::meta::{
    GroupRecord, MetaOutcome, MetaRefusal, MoveRecord, ReplicaRecord, RotRecord, StoreRecord, StoreToken,
};

use crate::apply::Event;
use crate::key::{GroupItem, Scan};
use crate::meta::{ID_END, changed, group_key, put_cluster, put_group, read_groups};
use crate::row::{ClusterRow, Row, StandingRow};
use crate::view::{Fatal, Reader, View};

fn refused(refusal: MetaRefusal) -> Result<MetaOutcome, Fatal> {
    Ok(MetaOutcome::Refused(refusal))
}

/// Gives a store id. A folder that was wiped comes with another token, and gets none while the old store is known.
pub(crate) fn add_store(
    view: &mut impl View,
    mut cluster: ClusterRow,
    address: &str,
    token: StoreToken,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    if address.is_empty() || cluster.store_next.0 >= ID_END {
        return refused(MetaRefusal::Malformed);
    }
    for (key, row) in view.scan(&Scan::Stores, usize::MAX)? {
        let Row::Store(store) = row else { return Err(Fatal::broken(&key, "a row of another kind")) };
        if store.address == address {
            let same = standing(view, store.id)?.token == Some(token);
            return if same { Ok(MetaOutcome::StoreAdded(store)) } else { refused(MetaRefusal::AddressTaken) };
        }
    }
    let store = StoreRecord { id: cluster.store_next, address: address.to_owned() };
    cluster.store_next.0 += 1;
    put_cluster(view, cluster);
    view.put(group_key(GroupItem::Store(store.id)), Row::Store(store.clone()));
    put_standing(view, store.id, StandingRow { token: Some(token), draining: false });
    changed(view, events)?;
    Ok(MetaOutcome::StoreAdded(store))
}

/// Notes that the store's replicas should move away, or not any more.
pub(crate) fn set_draining(
    view: &mut impl View,
    store: StoreId,
    draining: bool,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    if view.get(&group_key(GroupItem::Store(store)))?.is_none() {
        return refused(MetaRefusal::Unknown);
    }
    let before = standing(view, store)?;
    if before.draining != draining {
        put_standing(view, store, StandingRow { draining, ..before });
        changed(view, events)?;
    }
    Ok(MetaOutcome::DrainingSet)
}

/// Notes what a store fails together with.
pub(crate) fn set_domain(
    view: &mut impl View,
    store: StoreId,
    domain: Option<&str>,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    let is_name = |name: &str| {
        !name.is_empty() && name.len() <= limits::DOMAIN_BYTES_MAX as usize && !name.chars().any(char::is_control)
    };
    if domain.is_some_and(|name| !is_name(name)) {
        return refused(MetaRefusal::Malformed);
    }
    if view.get(&group_key(GroupItem::Store(store)))?.is_none() {
        return refused(MetaRefusal::Unknown);
    }
    let key = group_key(GroupItem::Domain(store));
    let after = domain.map(|name| Row::Domain(name.to_owned()));
    if view.get(&key)? != after {
        match after {
            Some(row) => view.put(key, row),
            None => view.delete(key),
        }
        changed(view, events)?;
    }
    Ok(MetaOutcome::PlacementSet)
}

/// Notes how many voters each group should have.
pub(crate) fn set_voters(view: &mut impl View, voters: u32, events: &mut Vec<Event>) -> Result<MetaOutcome, Fatal> {
    if voters == 0 || voters > limits::VOTERS_MAX {
        return refused(MetaRefusal::Malformed);
    }
    if self::voters(view)? != voters {
        view.put(group_key(GroupItem::Voters), Row::Voters(voters));
        changed(view, events)?;
    }
    Ok(MetaOutcome::PlacementSet)
}

/// How many voters each group should have.
pub(crate) fn voters(view: &impl Reader) -> Result<u32, Fatal> {
    let key = group_key(GroupItem::Voters);
    match view.get(&key)? {
        None => Ok(limits::VOTERS_DEFAULT),
        Some(Row::Voters(voters)) => Ok(voters),
        Some(_) => Err(Fatal::broken(&key, "a row of another kind")),
    }
}

/// Forgets a store that nothing lives on. Repeated, it changes nothing.
pub(crate) fn remove_store(
    view: &mut impl View,
    store: StoreId,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    let key = group_key(GroupItem::Store(store));
    if view.get(&key)?.is_none() {
        return Ok(MetaOutcome::StoreRemoved);
    }
    let lives = read_groups(view)?.iter().any(|group| group.replicas.iter().any(|replica| replica.store == store));
    let moves = read_moves(view)?;
    let mut moving = moves.iter().flat_map(|moved| moved.joining.iter().chain(&moved.leaving));
    if lives || moving.any(|replica| replica.store == store) {
        return refused(MetaRefusal::NotEmpty);
    }
    view.delete(key);
    for item in [GroupItem::Standing(store), GroupItem::Domain(store)] {
        let key = group_key(item);
        if view.get(&key)?.is_some() {
            view.delete(key);
        }
    }
    changed(view, events)?;
    Ok(MetaOutcome::StoreRemoved)
}

/// Gives the new replica its id. The same move again returns its record.
pub(crate) fn begin_move(
    view: &mut impl View,
    mut cluster: ClusterRow,
    group: GroupId,
    (from, to): (Option<StoreId>, Option<StoreId>),
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    if group == GroupId::META || (from.is_none() && to.is_none()) || from == to {
        return refused(MetaRefusal::Malformed);
    }
    let Some(record) = group_record(view, group)? else { return refused(MetaRefusal::Unknown) };
    if let Some(moved) = move_of(view, group)? {
        let store = |replica: &Option<ReplicaRecord>| replica.map(|replica| replica.store);
        if (store(&moved.leaving), store(&moved.joining)) != (from, to) {
            return refused(MetaRefusal::Moving);
        }
        return if moved.back { turn(view, moved, events) } else { Ok(MetaOutcome::Moving(moved)) };
    }
    let of = |store: StoreId| record.replicas.iter().find(|replica| replica.store == store).copied();
    let leaving = match from.map(of) {
        None => None,
        Some(Some(replica)) => Some(replica),
        Some(None) => return refused(MetaRefusal::Misplaced),
    };
    if let Some(to) = to {
        if view.get(&group_key(GroupItem::Store(to)))?.is_none() {
            return refused(MetaRefusal::Unknown);
        }
        if standing(view, to)?.draining {
            return refused(MetaRefusal::Draining);
        }
    }
    // An open group is still being born; a group without a replica would be lost.
    let left = record.replicas.len() - usize::from(leaving.is_some()) + usize::from(to.is_some());
    if !record.closed || left == 0 || to.is_some_and(|to| of(to).is_some()) {
        return refused(MetaRefusal::Misplaced);
    }
    if cluster.replica_next.0 >= ID_END {
        return refused(MetaRefusal::Malformed);
    }
    let joining = to.map(|store| ReplicaRecord { id: cluster.replica_next, store });
    if joining.is_some() {
        cluster.replica_next.0 += 1;
        put_cluster(view, cluster);
    }
    let moved = MoveRecord { group, joining, leaving, back: false, revision: changed(view, events)? };
    put_move(view, moved.clone());
    Ok(MetaOutcome::Moving(moved))
}

/// Notes that a replica is rotten. Of one that is no more, nothing is kept.
pub(crate) fn report_rot(
    view: &mut impl View,
    group: GroupId,
    replica: ReplicaId,
    what: &str,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    if what.len() > limits::ROT_REASON_BYTES_MAX as usize {
        return refused(MetaRefusal::Malformed);
    }
    let Some(record) = group_record(view, group)? else { return refused(MetaRefusal::Unknown) };
    let moved = move_of(view, group)?;
    let joining = moved.and_then(|moved| moved.joining);
    let found = record.replicas.iter().copied().chain(joining).find(|known| known.id == replica);
    let key = group_key(GroupItem::Rotten(group, replica));
    if let (Some(replica), None) = (found, view.get(&key)?) {
        view.put(key, Row::Rotten(RotRecord { group, replica, what: what.to_owned() }));
        changed(view, events)?;
    }
    Ok(MetaOutcome::RotNoted)
}

/// Forgets that a replica was said to be rotten. Not while its group moves: a move goes by what is known to be rotten.
pub(crate) fn withdraw_rot(
    view: &mut impl View,
    group: GroupId,
    replica: ReplicaId,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    if group_record(view, group)?.is_none() {
        return refused(MetaRefusal::Unknown);
    }
    if move_of(view, group)?.is_some() {
        return refused(MetaRefusal::Moving);
    }
    let key = group_key(GroupItem::Rotten(group, replica));
    if view.get(&key)?.is_some() {
        view.delete(key);
        changed(view, events)?;
    }
    Ok(MetaOutcome::RotWithdrawn)
}

/// Gives the new replica its id, on the store of the rotten one. The same again returns the move. Group 0 too: its
/// replicas stay on their stores.
pub(crate) fn begin_rebuild(
    view: &mut impl View,
    mut cluster: ClusterRow,
    group: GroupId,
    replica: ReplicaId,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    let Some(record) = group_record(view, group)? else { return refused(MetaRefusal::Unknown) };
    let leaving = record.replicas.iter().copied().find(|known| known.id == replica);
    if let Some(moved) = move_of(view, group)? {
        if !moved.is_rebuild() || moved.leaving != leaving {
            return refused(MetaRefusal::Moving);
        }
        return if moved.back { turn(view, moved, events) } else { Ok(MetaOutcome::Moving(moved)) };
    }
    let is_rotten = view.get(&group_key(GroupItem::Rotten(group, replica)))?.is_some();
    let Some(leaving) = leaving.filter(|_| is_rotten && record.closed) else { return refused(MetaRefusal::Misplaced) };
    if standing(view, leaving.store)?.draining && group != GroupId::META {
        return refused(MetaRefusal::Draining);
    }
    if cluster.replica_next.0 >= ID_END {
        return refused(MetaRefusal::Malformed);
    }
    let joining = ReplicaRecord { id: cluster.replica_next, store: leaving.store };
    cluster.replica_next.0 += 1;
    put_cluster(view, cluster);
    let revision = changed(view, events)?;
    let moved = MoveRecord { group, joining: Some(joining), leaving: Some(leaving), back: false, revision };
    put_move(view, moved.clone());
    Ok(MetaOutcome::Moving(moved))
}

/// The other way round from now on. The record stays until the members are so: some of the move may have happened.
fn turn(view: &mut impl View, moved: MoveRecord, events: &mut Vec<Event>) -> Result<MetaOutcome, Fatal> {
    let turned = MoveRecord { back: !moved.back, revision: changed(view, events)?, ..moved };
    put_move(view, turned.clone());
    Ok(MetaOutcome::Moving(turned))
}

/// What was to join leaves; what was to leave stays.
pub(crate) fn cancel_move(
    view: &mut impl View,
    moved: &MoveRecord,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    if group_record(view, moved.group)?.is_none() {
        return refused(MetaRefusal::Unknown);
    }
    let same = |current: &MoveRecord| (current.joining, current.leaving) == (moved.joining, moved.leaving);
    match move_of(view, moved.group)? {
        None => Ok(MetaOutcome::NothingMoves),
        Some(current) if same(&current) && current.back => Ok(MetaOutcome::Moving(current)),
        Some(current) if current == *moved => turn(view, current, events),
        Some(_) => refused(MetaRefusal::Moving),
    }
}

/// The membership is what the move wants. A move that was turned back meanwhile does not end like this.
pub(crate) fn end_move(
    view: &mut impl View,
    moved: &MoveRecord,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    let Some(mut record) = group_record(view, moved.group)? else { return refused(MetaRefusal::Unknown) };
    match move_of(view, moved.group)? {
        None => return Ok(MetaOutcome::NothingMoves),
        Some(current) if current != *moved => return refused(MetaRefusal::Moving),
        Some(_) => (),
    }
    record.replicas = voters_wanted(&record, moved);
    record.replicas.sort_unstable_by_key(|replica| replica.store);
    put_group(view, record);
    view.delete(group_key(GroupItem::Move(moved.group)));
    if let Some(gone) = moved.goes() {
        let report = group_key(GroupItem::Rotten(moved.group, gone.id));
        if view.get(&report)?.is_some() {
            view.delete(report);
        }
    }
    changed(view, events)?;
    Ok(MetaOutcome::NothingMoves)
}

/// The voters that a group should have once its move is done.
pub fn voters_wanted(record: &GroupRecord, moved: &MoveRecord) -> Vec<ReplicaRecord> {
    let stays = record.replicas.iter().copied().filter(|replica| Some(*replica) != moved.goes());
    let comes = moved.comes().filter(|replica| !record.replicas.contains(replica));
    stays.chain(comes).collect()
}

fn group_record(view: &impl Reader, group: GroupId) -> Result<Option<GroupRecord>, Fatal> {
    let key = group_key(GroupItem::Group(group));
    match view.get(&key)? {
        None => Ok(None),
        Some(Row::Group(record)) => Ok(Some(record)),
        Some(_) => Err(Fatal::broken(&key, "a row of another kind")),
    }
}

fn read_moves(view: &impl Reader) -> Result<Vec<MoveRecord>, Fatal> {
    let moved = |(key, row)| match row {
        Row::Move(moved) => Ok(moved),
        _ => Err(Fatal::broken(&key, "a row of another kind")),
    };
    view.scan(&Scan::Moves, usize::MAX)?.into_iter().map(moved).collect()
}

fn move_of(view: &impl Reader, group: GroupId) -> Result<Option<MoveRecord>, Fatal> {
    let key = group_key(GroupItem::Move(group));
    match view.get(&key)? {
        None => Ok(None),
        Some(Row::Move(moved)) => Ok(Some(moved)),
        Some(_) => Err(Fatal::broken(&key, "a row of another kind")),
    }
}

fn put_move(view: &mut impl View, moved: MoveRecord) {
    view.put(group_key(GroupItem::Move(moved.group)), Row::Move(moved));
}

fn standing(view: &impl Reader, store: StoreId) -> Result<StandingRow, Fatal> {
    let key = group_key(GroupItem::Standing(store));
    match view.get(&key)? {
        None => Ok(StandingRow::default()),
        Some(Row::Standing(standing)) => Ok(standing),
        Some(_) => Err(Fatal::broken(&key, "a row of another kind")),
    }
}

fn put_standing(view: &mut impl View, store: StoreId, standing: StandingRow) {
    view.put(group_key(GroupItem::Standing(store)), Row::Standing(standing));
}
