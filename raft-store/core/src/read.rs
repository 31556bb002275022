//! Read: answers from the rows. The shell decides how fresh they are.
//!
//! What is asked comes from outside: limits are capped, and what cannot exist is answered as a slot that nobody owns.

use std::collections::BTreeMap;

use seriatim_proto::ids::{
    ConversationId, DeviceId, GroupId, LeaseId, Namespace, NodeId, Owner, Seq, SlotId, TenantId, UserId,
};
use seriatim_proto::meta::Directory;
use seriatim_proto::store::{
    Amendments, ConversationState, HolderRow, InboxEntry, Read, ReadOutcome, Stay, StoredMessage,
};
use seriatim_proto::{hash, limits};

use crate::input;
use crate::key::{GroupItem, Item, Key, Scan, Scope, SlotItem};
use crate::mark;
use crate::meta::read_groups;
use crate::namespace::checked;
use crate::placement;
use crate::row::{ConversationRow, DedupeRow, Row};
use crate::view::{Fatal, Reader, Rows};

/// Answers one read from the rows of a group.
pub fn read(view: &impl Reader, group: GroupId, read: &Read) -> Result<ReadOutcome, Fatal> {
    match read {
        Read::Holder(slot) => holder(view, group, *slot),
        Read::Holders => Ok(ReadOutcome::Holders(holder_rows(view, group)?)),
        Read::Directory => {
            Ok(if group == GroupId::META { ReadOutcome::Directory(directory(view)?) } else { ReadOutcome::WrongGroup })
        }
        Read::Pending { slot, after, limit } => pending(view, group, *slot, after, *limit),
        Read::Namespace(namespace) => of_namespace(view, group, namespace, |slot| {
            Ok(ReadOutcome::Namespace(match view.get(&Key::namespace(slot, namespace.clone()))? {
                None => None,
                Some(Row::Namespace(row)) => Some(row.state()),
                Some(Row::Conversation(row)) => Some(row.namespace.state()),
                Some(_) => {
                    return Err(Fatal::broken(&Key::namespace(slot, namespace.clone()), "a row of another kind"));
                }
            }))
        }),
        Read::Conversation { tenant, conversation } => of_conversation(view, group, *tenant, conversation, |slot| {
            Ok(ReadOutcome::Conversation(conversation_state(view, slot, *tenant, conversation)?))
        }),
        Read::Messages { tenant, conversation, from, limit, bytes_max } => {
            of_conversation(view, group, *tenant, conversation, |slot| {
                let bounds = (*from, capped(*limit), u64::from(*bytes_max));
                Ok(ReadOutcome::Messages(messages(view, slot, *tenant, conversation, bounds)?))
            })
        }
        Read::MessagesAt { tenant, conversation, seqs } => {
            of_conversation(view, group, *tenant, conversation, |slot| {
                Ok(ReadOutcome::Messages(messages_at(view, slot, *tenant, conversation, seqs)?))
            })
        }
        Read::Dedupe { tenant, conversation, sender, message_id } => {
            of_conversation(view, group, *tenant, conversation, |slot| {
                if !input::user_is_valid(sender) {
                    return Ok(ReadOutcome::Dedupe(None));
                }
                let row = view.dedupe_row(slot, *tenant, conversation, sender, *message_id)?;
                Ok(match row {
                    None => ReadOutcome::Dedupe(None),
                    Some(DedupeRow::Committed { seq, .. }) => ReadOutcome::Dedupe(Some(seq)),
                    Some(DedupeRow::Cancelled { .. }) => ReadOutcome::Cancelled,
                })
            })
        }
        Read::Inbox { tenant, user, from, limit } => {
            of_inbox(view, group, *tenant, user, |slot| inbox(view, slot, *tenant, user, *from, capped(*limit)))
        }
        Read::Last { tenant, user, conversation } => of_inbox(view, group, *tenant, user, |slot| {
            if !input::conversation_is_valid(conversation) {
                return Ok(ReadOutcome::Last(None));
            }
            Ok(ReadOutcome::Last(view.last_row(slot, *tenant, user, conversation)?.map(|row| row.last)))
        }),
        Read::Cursors { tenant, user } => {
            of_inbox(view, group, *tenant, user, |slot| Ok(ReadOutcome::Cursors(cursors(view, slot, *tenant, user)?)))
        }
        Read::Amendments { tenant, conversation, target } => {
            of_conversation(view, group, *tenant, conversation, |slot| {
                Ok(ReadOutcome::Amendments(amendments(view, slot, *tenant, conversation, *target)?))
            })
        }
        Read::List { tenant, user, after, limit } => of_inbox(view, group, *tenant, user, |slot| {
            if after.as_ref().is_some_and(|after| !input::conversation_is_valid(after)) {
                return Ok(ReadOutcome::WrongGroup);
            }
            let state = view.inbox_row(slot, *tenant, user)?.map(|row| row.state());
            let read = view.reading_row(slot, *tenant, user)?.unwrap_or(0);
            let list = mark::list(view, slot, *tenant, user, after.clone(), capped(*limit))?;
            Ok(ReadOutcome::List { state, read, list })
        }),
        Read::Pins { tenant, conversation } => of_conversation(view, group, *tenant, conversation, |slot| {
            Ok(ReadOutcome::Pins(pins(view, slot, *tenant, conversation)?))
        }),
    }
}

/// All slots of a group and who holds them.
pub fn holder_rows(view: &impl Reader, group: GroupId) -> Result<Vec<HolderRow>, Fatal> {
    let leases = live_leases(view, group)?;
    let owned = view.owned_row(group)?.map(|row| row.slots).unwrap_or_default();
    let slots = owned.iter().flat_map(|range| range.first.0..range.end.0).map(SlotId);
    let mut rows = Vec::new();
    for slot in slots {
        let row = view.slot_row(slot)?.ok_or_else(|| Fatal::broken(&Key::holder(slot), "an owned slot has no row"))?;
        if row.group == group {
            let node = row.lease.and_then(|lease| leases.get(&lease).copied());
            rows.push(row.holder_row(slot, node));
        }
    }
    Ok(rows)
}

/// All live leases of a group and whose they are.
pub fn live_leases(view: &impl Reader, group: GroupId) -> Result<BTreeMap<LeaseId, NodeId>, Fatal> {
    use crate::key::GroupItem;
    let lease = |(key, row): (Key, Row)| match (&key.scope, row) {
        (Scope::Group(GroupItem::Lease(lease)), Row::Lease(row)) => Ok((*lease, row.node)),
        _ => Err(Fatal::broken(&key, "a row of another kind")),
    };
    view.scan(&Scan::Leases(group), usize::MAX)?.into_iter().map(lease).collect()
}

fn capped(limit: u32) -> usize {
    limit.min(limits::READ_ROWS_MAX) as usize
}

fn owns(view: &impl Reader, group: GroupId, slot: SlotId) -> Result<bool, Fatal> {
    Ok(view.slot_row(slot)?.is_some_and(|row| row.group == group))
}

type Answer = Result<ReadOutcome, Fatal>;

fn of_namespace(
    view: &impl Reader,
    group: GroupId,
    namespace: &Namespace,
    answer: impl FnOnce(SlotId) -> Answer,
) -> Answer {
    match input::slot_of(namespace) {
        Some(slot) if owns(view, group, slot)? => answer(slot),
        _ => Ok(ReadOutcome::WrongGroup),
    }
}

fn of_conversation(
    view: &impl Reader,
    group: GroupId,
    tenant: TenantId,
    conversation: &ConversationId,
    answer: impl FnOnce(SlotId) -> Answer,
) -> Answer {
    let namespace = Namespace { tenant, owner: Owner::Conversation(conversation.clone()) };
    of_namespace(view, group, &namespace, answer)
}

fn of_inbox(
    view: &impl Reader,
    group: GroupId,
    tenant: TenantId,
    user: &UserId,
    answer: impl FnOnce(SlotId) -> Answer,
) -> Answer {
    of_namespace(view, group, &Namespace::inbox(tenant, user.clone()), answer)
}

fn holder(view: &impl Reader, group: GroupId, slot: SlotId) -> Answer {
    let Some(row) = view.slot_row(slot)?.filter(|row| row.group == group) else { return Ok(ReadOutcome::WrongGroup) };
    let lease = match row.lease {
        Some(lease) => view.lease_row(group, lease)?,
        None => None,
    };
    Ok(ReadOutcome::Holder(row.holder_row(slot, lease.map(|lease| lease.node))))
}

fn directory(view: &impl Reader) -> Result<Option<Directory>, Fatal> {
    let Some(cluster) = view.cluster_row()? else { return Ok(None) };
    let mut directory = Directory {
        cluster: cluster.cluster,
        generation: cluster.generation,
        revision: crate::meta::revision(view)?,
        stores: Vec::new(),
        groups: read_groups(view)?,
        nodes: Vec::new(),
        tenants: Vec::new(),
        moves: Vec::new(),
        draining: Vec::new(),
        replica_next: cluster.replica_next,
        rotten: Vec::new(),
        domains: BTreeMap::new(),
        voters: placement::voters(view)?,
    };
    let mut rows = view.scan(&Scan::Stores, usize::MAX)?;
    rows.extend(view.scan(&Scan::Nodes, usize::MAX)?);
    rows.extend(view.scan(&Scan::Tenants, usize::MAX)?);
    rows.extend(view.scan(&Scan::Moves, usize::MAX)?);
    rows.extend(view.scan(&Scan::Standings, usize::MAX)?);
    rows.extend(view.scan(&Scan::Rotten, usize::MAX)?);
    rows.extend(view.scan(&Scan::Domains, usize::MAX)?);
    for (key, row) in rows {
        match row {
            Row::Store(store) => directory.stores.push(store),
            Row::Node(node) => directory.nodes.push(node),
            Row::Tenant(tenant) => directory.tenants.push(tenant),
            Row::Move(moved) => directory.moves.push(moved),
            Row::Rotten(rot) => directory.rotten.push(rot),
            Row::Domain(domain) => {
                if let Scope::Group(GroupItem::Domain(store)) = key.scope {
                    directory.domains.insert(store, domain);
                }
            }
            Row::Standing(standing) => {
                if let (Scope::Group(GroupItem::Standing(store)), true) = (&key.scope, standing.draining) {
                    directory.draining.push(*store);
                }
            }
            _ => return Err(Fatal::broken(&key, "a row of another kind")),
        }
    }
    Ok(Some(directory))
}

fn pending(
    view: &impl Reader,
    group: GroupId,
    slot: SlotId,
    after: &Option<(TenantId, ConversationId)>,
    limit: u32,
) -> Answer {
    let after_is_valid = after.as_ref().is_none_or(|(_, conversation)| input::conversation_is_valid(conversation));
    if !after_is_valid || !owns(view, group, slot)? {
        return Ok(ReadOutcome::WrongGroup);
    }
    let rows = view.scan(&Scan::Pending { slot, after: after.clone() }, capped(limit))?;
    let name = |(key, _): (Key, Row)| match key.scope {
        Scope::Slot(SlotItem::Pending(tenant, conversation)) => (tenant, conversation),
        _ => unreachable!("a scan returns what it contains"),
    };
    Ok(ReadOutcome::Pending(rows.into_iter().map(name).collect()))
}

fn conversation_state(
    view: &impl Reader,
    slot: SlotId,
    tenant: TenantId,
    conversation: &ConversationId,
) -> Result<Option<ConversationState>, Fatal> {
    let Some(row) = view.conversation_row(slot, tenant, conversation)? else { return Ok(None) };
    let key = Key::tenant(slot, tenant, Item::Namespace(Owner::Conversation(conversation.clone())));
    checked(&key, row.namespace)?;
    let ConversationRow { namespace, first_seq: Some(first), pending, delivered, .. } = row else { return Ok(None) };
    let stays = match conversation {
        ConversationId::Direct(a, b) => {
            let stay = |user: &UserId| Stay {
                slot: hash::inbox_slot(tenant, user),
                user: user.clone(),
                joined: first,
                left: None,
            };
            let mut stays = vec![stay(a), stay(b)];
            stays.sort();
            stays.dedup();
            stays
        }
        ConversationId::Group(_) => {
            let scan = Scan::Members { slot, tenant, conversation: conversation.clone() };
            view.scan(&scan, usize::MAX)?.into_iter().map(stays_of).collect::<Result<Vec<_>, _>>()?.concat()
        }
    };
    Ok(Some(ConversationState { namespace: namespace.state(), stays, delivered, pending }))
}

fn stays_of((key, row): (Key, Row)) -> Result<Vec<Stay>, Fatal> {
    match (&key.scope, row) {
        (Scope::Tenant(_, Item::Member(_, slot, user)), Row::Member(member)) => {
            let stay = |(joined, left)| Stay { slot: *slot, user: user.clone(), joined, left };
            Ok(member.stays.into_iter().map(stay).collect())
        }
        _ => Err(Fatal::broken(&key, "a row of another kind")),
    }
}

fn messages(
    view: &impl Reader,
    slot: SlotId,
    tenant: TenantId,
    conversation: &ConversationId,
    (from, limit, bytes_max): (Seq, usize, u64),
) -> Result<Vec<StoredMessage>, Fatal> {
    // Below lie deletions at most.
    let trim = view.conversation_row(slot, tenant, conversation)?.map_or(Seq::FIRST, |row| row.namespace.trim);
    let (mut found, mut bytes, mut next) = (Vec::new(), 0u64, from.max(trim));
    // In steps, so that long bodies are not read only to be dropped.
    while found.len() < limit && bytes < bytes_max {
        let step = (limit - found.len()).min(MESSAGES_STEP);
        let scan = Scan::Messages { slot, tenant, conversation: conversation.clone(), from: next };
        let rows = view.scan(&scan, step)?;
        let is_last = rows.len() < step;
        for row in rows {
            let message = message(row)?;
            next = message.entry.seq.next();
            bytes += message.body.len() as u64;
            found.push(message);
            if bytes >= bytes_max {
                break;
            }
        }
        if is_last {
            break;
        }
    }
    Ok(found)
}

fn message((key, row): (Key, Row)) -> Result<StoredMessage, Fatal> {
    match row {
        Row::Message(message) => Ok(message),
        _ => Err(Fatal::broken(&key, "a row of another kind")),
    }
}

fn messages_at(
    view: &impl Reader,
    slot: SlotId,
    tenant: TenantId,
    conversation: &ConversationId,
    seqs: &[Seq],
) -> Result<Vec<StoredMessage>, Fatal> {
    let mut found = Vec::with_capacity(seqs.len().min(limits::READ_ROWS_MAX as usize));
    for seq in seqs.iter().take(limits::READ_ROWS_MAX as usize) {
        let key = Key::tenant(slot, tenant, Item::Message(conversation.clone(), *seq));
        if let Some(row) = view.get(&key)? {
            found.push(message((key, row))?);
        }
    }
    Ok(found)
}

fn inbox(view: &impl Reader, slot: SlotId, tenant: TenantId, user: &UserId, from: Option<Seq>, limit: usize) -> Answer {
    let Some(row) = view.inbox_row(slot, tenant, user)? else {
        return Ok(ReadOutcome::Inbox { state: None, entries: Vec::new() });
    };
    let row = checked(&Key::namespace(slot, Namespace::inbox(tenant, user.clone())), row)?;
    let scan = Scan::Inbox { slot, tenant, user: user.clone(), from: from.map_or(row.trim, |from| from.max(row.trim)) };
    let entry = |(key, row): (Key, Row)| match row {
        Row::Inbox(entry) => Ok(entry),
        _ => Err(Fatal::broken(&key, "a row of another kind")),
    };
    let entries = view.scan(&scan, limit)?.into_iter().map(entry).collect::<Result<Vec<InboxEntry>, _>>()?;
    Ok(ReadOutcome::Inbox { state: Some(row.state()), entries })
}

fn cursors(view: &impl Reader, slot: SlotId, tenant: TenantId, user: &UserId) -> Result<Vec<(DeviceId, Seq)>, Fatal> {
    let scan = Scan::Cursors { slot, tenant, user: user.clone() };
    let cursor = |(key, row): (Key, Row)| match (&key.scope, row) {
        (Scope::Tenant(_, Item::Cursor(_, device)), Row::Cursor(cursor)) => Ok((device.clone(), cursor)),
        _ => Err(Fatal::broken(&key, "a row of another kind")),
    };
    view.scan(&scan, limits::READ_ROWS_MAX as usize)?.into_iter().map(cursor).collect()
}

fn amendments(
    view: &impl Reader,
    slot: SlotId,
    tenant: TenantId,
    conversation: &ConversationId,
    target: Seq,
) -> Result<Amendments, Fatal> {
    let row = view.amended_row(slot, tenant, conversation, target)?.unwrap_or_default();
    let scan = Scan::Reactions { slot, tenant, conversation: conversation.clone(), target, user: None };
    let reaction = |(key, row): (Key, Row)| match (&key.scope, row) {
        (Scope::Tenant(_, Item::Reaction(_, _, user, emoji)), Row::Reaction(seq)) => {
            Ok((user.clone(), emoji.clone(), seq))
        }
        _ => Err(Fatal::broken(&key, "a row of another kind")),
    };
    let rows = view.scan(&scan, limits::READ_ROWS_MAX as usize)?;
    let reactions = rows.into_iter().map(reaction).collect::<Result<_, _>>()?;
    let pinned = view.pin_row(slot, tenant, conversation, target)?;
    Ok(Amendments { edits: row.edits, recalled: row.recalled, reactions, pinned })
}

fn pins(
    view: &impl Reader,
    slot: SlotId,
    tenant: TenantId,
    conversation: &ConversationId,
) -> Result<Vec<(Seq, Seq)>, Fatal> {
    let scan = Scan::Pins { slot, tenant, conversation: conversation.clone() };
    let pin = |(key, row): (Key, Row)| match (&key.scope, row) {
        (Scope::Tenant(_, Item::Pin(_, target)), Row::Pin(seq)) => Ok((*target, seq)),
        _ => Err(Fatal::broken(&key, "a row of another kind")),
    };
    view.scan(&scan, limits::PINS_MAX as usize)?.into_iter().map(pin).collect()
}

/// Messages that one scan of a bounded read takes.
const MESSAGES_STEP: usize = 64;
