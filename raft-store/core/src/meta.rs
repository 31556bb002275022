//! Meta: group 0: which cluster, which stores, groups and nodes, the next ids, and what tenants may ask.
//!
//! # Invariants
//! I1, I15: ids of replicas and nodes are given once; they carry the generation in their high bits.

use std::collections::BTreeMap;

use seriatim_proto::command::{Outcome, SlotRange};
use seriatim_proto::ids::{ClusterId, Generation, GroupId, NodeId, ReplicaId, StoreId, TenantId};
use seriatim_proto::limits;
use seriatim_proto::meta::{
    GroupRecord, Limit, MetaCommand, MetaOutcome, MetaRefusal, NodeKind, NodeRecord, ReplicaRecord, StoreRecord,
    TenantRecord,
};

use crate::apply::{At, Event, No, wrong_kind};
use crate::key::{GroupItem, Key, Scan, TENANT_NONE};
use crate::lease;
use crate::placement;
use crate::row::{ClusterRow, Row};
use crate::view::{Fatal, Reader, Rows, View};

/// Applies a command of group 0.
pub(crate) fn meta(
    view: &mut impl View,
    at: At,
    command: &MetaCommand,
    events: &mut Vec<Event>,
) -> Result<Outcome, No> {
    if at.group != GroupId::META {
        return Err(wrong_kind(at));
    }
    let outcome = match (view.cluster_row()?, command) {
        (row, MetaCommand::Init { cluster, generation, stores, replicas }) => {
            init(view, row, (*cluster, *generation), stores, replicas, events)?
        }
        (None, _) => MetaOutcome::Refused(MetaRefusal::NotInitialised),
        (Some(row), MetaCommand::CreateGroup { id, slots, stores }) => {
            create_group(view, row, *id, slots, stores, events)?
        }
        (Some(_), MetaCommand::CloseGroup { id }) => close_group(view, *id, events)?,
        (Some(row), MetaCommand::OpenNode { kind, address }) => open_node(view, at, row, *kind, address, events)?,
        (Some(_), MetaCommand::SetTenant { id, changes }) => set_tenant(view, *id, changes, events)?,
        (Some(row), MetaCommand::AddStore { address, token }) => {
            placement::add_store(view, row, address, *token, events)?
        }
        (Some(_), MetaCommand::SetDraining { store, draining }) => {
            placement::set_draining(view, *store, *draining, events)?
        }
        (Some(_), MetaCommand::RemoveStore { store }) => placement::remove_store(view, *store, events)?,
        (Some(row), MetaCommand::BeginMove { group, from, to }) => {
            placement::begin_move(view, row, *group, (*from, *to), events)?
        }
        (Some(_), MetaCommand::CancelMove { moved }) => placement::cancel_move(view, moved, events)?,
        (Some(_), MetaCommand::EndMove { moved }) => placement::end_move(view, moved, events)?,
        (Some(_), MetaCommand::ReportRot { group, replica, what }) => {
            placement::report_rot(view, *group, *replica, what, events)?
        }
        (Some(row), MetaCommand::BeginRebuild { group, replica }) => {
            placement::begin_rebuild(view, row, *group, *replica, events)?
        }
        (Some(_), MetaCommand::SetDomain { store, domain }) => {
            placement::set_domain(view, *store, domain.as_deref(), events)?
        }
        (Some(_), MetaCommand::SetVoters { voters }) => placement::set_voters(view, *voters, events)?,
        (Some(_), MetaCommand::WithdrawRot { group, replica }) => {
            placement::withdraw_rot(view, *group, *replica, events)?
        }
    };
    Ok(Outcome::Meta(outcome))
}

/// Once; the same cluster again changes nothing.
fn init(
    view: &mut impl View,
    before: Option<ClusterRow>,
    (cluster, generation): (ClusterId, Generation),
    stores: &[StoreRecord],
    replicas: &[ReplicaRecord],
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    match before {
        Some(row) if row.cluster == cluster => return Ok(MetaOutcome::Initialised),
        Some(_) => return Ok(MetaOutcome::Refused(MetaRefusal::OtherCluster)),
        None => {}
    }
    let distinct_stores = (1..stores.len()).all(|i| stores[..i].iter().all(|other| other.id != stores[i].id));
    let distinct_replicas = (1..replicas.len())
        .all(|i| replicas[..i].iter().all(|other| other.id != replicas[i].id && other.store != replicas[i].store));
    let known = replicas.iter().all(|replica| stores.iter().any(|store| store.id == replica.store));
    let highest_store = stores.iter().map(|store| store.id.0).max();
    let highest_replica = replicas.iter().map(|replica| replica.id.0).max();
    let (Some(highest_store), Some(highest_replica)) = (highest_store, highest_replica) else {
        return Ok(MetaOutcome::Refused(MetaRefusal::Malformed));
    };
    let in_range = highest_store < ID_END && highest_replica < ID_END && generation.0 <= lease::GENERATION_LAST;
    if !(distinct_stores && distinct_replicas && known && in_range) {
        return Ok(MetaOutcome::Refused(MetaRefusal::Malformed));
    }
    let first = (u64::from(generation.0) << limits::GENERATION_SHIFT) + 1;
    put_cluster(
        view,
        ClusterRow {
            cluster,
            generation,
            store_next: StoreId(first.max(highest_store + 1)),
            replica_next: ReplicaId(first.max(highest_replica + 1)),
            node_next: NodeId(first),
        },
    );
    for store in stores {
        view.put(group_key(GroupItem::Store(store.id)), Row::Store(store.clone()));
    }
    put_group(view, GroupRecord { id: GroupId::META, slots: Vec::new(), replicas: replicas.to_vec(), closed: true });
    changed(view, events)?;
    Ok(MetaOutcome::Initialised)
}

/// Gives replica ids. The same group again returns its record.
fn create_group(
    view: &mut impl View,
    mut cluster: ClusterRow,
    id: GroupId,
    slots: &[SlotRange],
    stores: &[StoreId],
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    let id_is_valid = id != GroupId::META && id <= Key::GROUP_LAST && id.0 <= limits::GROUPS_MAX;
    let stores_are_valid = !stores.is_empty() && stores.windows(2).all(|pair| pair[0] < pair[1]);
    if !id_is_valid || !stores_are_valid || !lease::ranges_are_valid(slots) {
        return Ok(MetaOutcome::Refused(MetaRefusal::Malformed));
    }
    let groups = read_groups(view)?;
    if let Some(group) = groups.iter().find(|group| group.id == id) {
        // Replicas of a closed group may have moved since.
        let same_stores = group.replicas.iter().map(|replica| replica.store).eq(stores.iter().copied());
        let same = (same_stores || group.closed) && group.slots == slots;
        return Ok(if same { MetaOutcome::Created(group.clone()) } else { MetaOutcome::Refused(MetaRefusal::Overlap) });
    }
    for store in stores {
        if view.get(&group_key(GroupItem::Store(*store)))?.is_none() {
            return Ok(MetaOutcome::Refused(MetaRefusal::Unknown));
        }
    }
    let overlap = |one: &SlotRange, other: &SlotRange| one.first < other.end && other.first < one.end;
    let taken = groups.iter().flat_map(|group| &group.slots);
    if taken.into_iter().any(|range| slots.iter().any(|wanted| overlap(range, wanted))) {
        return Ok(MetaOutcome::Refused(MetaRefusal::Overlap));
    }
    let mut replicas = Vec::with_capacity(stores.len());
    for store in stores {
        replicas.push(ReplicaRecord { id: cluster.replica_next, store: *store });
        cluster.replica_next.0 += 1;
    }
    put_cluster(view, cluster);
    let group = GroupRecord { id, slots: slots.to_vec(), replicas, closed: false };
    put_group(view, group.clone());
    changed(view, events)?;
    Ok(MetaOutcome::Created(group))
}

fn close_group(view: &mut impl View, id: GroupId, events: &mut Vec<Event>) -> Result<MetaOutcome, Fatal> {
    let key = group_key(GroupItem::Group(id));
    match view.get(&key)? {
        None => Ok(MetaOutcome::Refused(MetaRefusal::Unknown)),
        Some(Row::Group(group)) if group.closed => Ok(MetaOutcome::Closed),
        Some(Row::Group(group)) => {
            put_group(view, GroupRecord { closed: true, ..group });
            changed(view, events)?;
            Ok(MetaOutcome::Closed)
        }
        Some(_) => Err(Fatal::broken(&key, "a row of another kind")),
    }
}

/// Gives a node id, and a lease in group 0 with which the node lives and dies.
fn open_node(
    view: &mut impl View,
    at: At,
    mut cluster: ClusterRow,
    kind: NodeKind,
    address: &str,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    if address.is_empty() {
        return Ok(MetaOutcome::Refused(MetaRefusal::Malformed));
    }
    let id = cluster.node_next;
    cluster.node_next.0 += 1;
    put_cluster(view, cluster);
    let lease = lease::grant(view, at, cluster.generation, id, events)?;
    let node = NodeRecord { id, lease, kind, address: address.to_owned() };
    view.put(group_key(GroupItem::Node(id)), Row::Node(node.clone()));
    changed(view, events)?;
    Ok(MetaOutcome::Opened(node))
}

/// A tenant has a row while something of it differs from the nodes' own.
fn set_tenant(
    view: &mut impl View,
    id: TenantId,
    changes: &BTreeMap<Limit, Option<u32>>,
    events: &mut Vec<Event>,
) -> Result<MetaOutcome, Fatal> {
    let too_low = |(limit, rate): (&Limit, &Option<u32>)| rate.is_some_and(|rate| rate < limit.least());
    if id == TENANT_NONE || changes.iter().any(too_low) {
        return Ok(MetaOutcome::Refused(MetaRefusal::Malformed));
    }
    let key = group_key(GroupItem::Tenant(id));
    let before = match view.get(&key)? {
        None => TenantRecord { id, limits: BTreeMap::new() },
        Some(Row::Tenant(record)) => record,
        Some(_) => return Err(Fatal::broken(&key, "a row of another kind")),
    };
    let mut after = before.clone();
    for (limit, rate) in changes {
        match rate {
            Some(rate) => after.limits.insert(*limit, *rate),
            None => after.limits.remove(limit),
        };
    }
    if after == before {
        return Ok(MetaOutcome::TenantSet(after));
    }
    if after.limits.is_empty() {
        view.delete(key);
    } else {
        let full = limits::TENANTS_LIMITED_MAX as usize;
        if before.limits.is_empty() && view.scan(&Scan::Tenants, full)?.len() == full {
            return Ok(MetaOutcome::Refused(MetaRefusal::Full));
        }
        view.put(key, Row::Tenant(after.clone()));
    }
    changed(view, events)?;
    Ok(MetaOutcome::TenantSet(after))
}

/// The node's lease ended.
pub(crate) fn remove_node(view: &mut impl View, node: NodeId, events: &mut Vec<Event>) -> Result<(), Fatal> {
    view.delete(group_key(GroupItem::Node(node)));
    changed(view, events).map(drop)
}

/// The directory is another one now, of the revision answered. It lets others tell an older one, whoever shows it.
pub(crate) fn changed(view: &mut impl View, events: &mut Vec<Event>) -> Result<u64, Fatal> {
    let next = revision(view)? + 1;
    view.put(group_key(GroupItem::Revision), Row::Revision(next));
    events.push(Event::Directory);
    Ok(next)
}

/// How often the directory changed.
pub(crate) fn revision(view: &impl Reader) -> Result<u64, Fatal> {
    let key = group_key(GroupItem::Revision);
    match view.get(&key)? {
        None => Ok(0),
        Some(Row::Revision(revision)) => Ok(revision),
        Some(_) => Err(Fatal::broken(&key, "a row of another kind")),
    }
}

/// All groups, group 0 first.
pub(crate) fn read_groups(view: &impl Reader) -> Result<Vec<GroupRecord>, Fatal> {
    let rows = view.scan(&Scan::Groups, usize::MAX)?;
    let record = |(key, row)| match row {
        Row::Group(group) => Ok(group),
        _ => Err(Fatal::broken(&key, "a row of another kind")),
    };
    rows.into_iter().map(record).collect()
}

pub(crate) fn group_key(item: GroupItem) -> Key {
    Key::group(GroupId::META, item)
}

pub(crate) fn put_cluster(view: &mut impl View, row: ClusterRow) {
    view.put(group_key(GroupItem::Cluster), Row::Cluster(row));
}

pub(crate) fn put_group(view: &mut impl View, group: GroupRecord) {
    view.put(group_key(GroupItem::Group(group.id)), Row::Group(group));
}

/// Ids stay below this, so that the generations' bits have room.
pub(crate) const ID_END: u64 = limits::SEQ_END;
