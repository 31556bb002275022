//! `raftctl user show`: where an inbox lives, its numbers, its devices.

use serde_json::json;
use seriatim_proto::hash;
use seriatim_proto::ids::{Namespace, UserId};
use seriatim_proto::meta::Directory;
use seriatim_proto::store::{HolderRow, Read, ReadOutcome};

use crate::failure::{Exit, Failure};
use crate::output::{List, dash, maybe_number, number};
use crate::store;
use crate::target::Target;

/// A user's name as typed.
pub(super) fn user_id(name: &str) -> Result<UserId, Failure> {
    UserId::new(name).map_err(|error| Failure::usage(format!("`{name}` is no user: {error}")))
}

/// The answer to every verb about a user whose inbox nobody ever wrote to.
pub(super) fn nothing_arrived(target: &Target, user: &UserId) -> Failure {
    Failure::not_found(format!("nothing ever arrived for {user} (tenant {})", target.tenant))
        .hint(format!("raftctl send --as someone --to {user} hello"))
}

/// A slot's holder, for people: which node, where, under which epoch.
pub(super) fn holder_text(directory: &Directory, row: &HolderRow) -> String {
    row.holder.map_or_else(
        || "-".to_owned(),
        |id| {
            let node = directory.nodes.iter().find(|node| node.id == id);
            format!("{id} ({}, epoch {})", dash(node.map(|node| &node.address)), row.epoch)
        },
    )
}

/// `user show`
pub(super) async fn show(target: &Target, name: &str) -> Result<Exit, Failure> {
    let user = user_id(name)?;
    let stores = target.stores()?;
    let directory = store::directory(stores, &target.link).await?;
    let slot = hash::inbox_slot(target.tenant, &user);
    let group = store::group_of(&directory, slot)?;
    let reads = [
        Read::Namespace(Namespace::inbox(target.tenant, user.clone())),
        Read::Cursors { tenant: target.tenant, user: user.clone() },
        Read::Holder(slot),
        Read::List { tenant: target.tenant, user: user.clone(), after: None, limit: 0 },
    ];
    let outcomes = store::read_at_leader(stores, group, &reads, &target.link).await?;
    let [
        ReadOutcome::Namespace(inbox),
        ReadOutcome::Cursors(devices),
        ReadOutcome::Holder(holder),
        ReadOutcome::List { read, .. },
    ] = &outcomes[..]
    else {
        return Err(Failure::internal(format!("group {group} answered something else than was asked")));
    };
    let Some(inbox) = inbox else {
        return Err(nothing_arrived(target, &user));
    };
    let unread = inbox.ordinal.saturating_sub(*read);
    let mut list = List::new("User", &["what", "value"]);
    let rows = [
        ("user", user.to_string()),
        ("tenant", target.tenant.to_string()),
        ("slot", slot.to_string()),
        ("group", group.to_string()),
        ("holder", holder_text(&directory, holder)),
        ("trim", inbox.trim.to_string()),
        ("tail", inbox.tail.to_string()),
        ("ceiling", inbox.ceiling.to_string()),
        ("last seq", dash(inbox.last_seq)),
        ("messages", inbox.ordinal.to_string()),
        ("unread", unread.to_string()),
        ("chain", inbox.chain.to_string()),
    ];
    list.rows.extend(rows.into_iter().map(|(what, value)| vec![what.to_owned(), value]));
    for (device, cursor) in devices {
        list.rows.push(vec![format!("device {device}"), format!("cursor {cursor}")]);
    }
    list.items.push(json!({
        "user": user.as_str(),
        "tenant": target.tenant.0,
        "slot": slot.0,
        "group": group.0,
        "holder": maybe_number(holder.holder.map(|holder| holder.0)),
        "epoch": number(holder.epoch.0),
        "trim": number(inbox.trim.get()),
        "tail": number(inbox.tail.get()),
        "ceiling": number(inbox.ceiling.get()),
        "lastSeq": maybe_number(inbox.last_seq.map(|seq| seq.get())),
        "messages": number(inbox.ordinal),
        "unread": number(unread),
        "chain": inbox.chain.to_string(),
        "devices": devices.iter().map(|(device, cursor)| json!({"device": device.as_str(), "cursor": number(cursor.get())})).collect::<Vec<_>>(),
    }));
    list.print(target.output)?;
    Ok(Exit::Ok)
}
