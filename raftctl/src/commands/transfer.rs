//! `raftctl raft transfer`: another store of a group is made its leader.

use std::time::{Duration, Instant};

use serde_json::json;
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::ids::{GroupId, StoreId};

use super::moves::addresses;
use crate::failure::{Exit, Failure};
use crate::link::Link;
use crate::output::{List, number};
use crate::store;
use crate::survey::Survey;
use crate::target::Target;

/// Pause between two looks at who leads.
const LOOK: Duration = Duration::from_millis(100);
/// Looks before the leader is asked once more: the other may have lost its election.
const LOOKS_MAX: u32 = 20;

/// `raft transfer`
pub(super) async fn transfer(target: &Target, group: GroupId, to: StoreId, dry_run: bool) -> Result<Exit, Failure> {
    let act = format!("failed to give group {group} to store {to}");
    let directory = store::directory(target.stores()?, &target.link).await?;
    let record = directory.groups.iter().find(|record| record.id == group);
    let record =
        record.ok_or_else(|| Failure::not_found(format!("there is no group {group}")).hint("raftctl raft groups"))?;
    if !record.replicas.iter().any(|replica| replica.store == to) {
        let stores = record.replicas.iter().map(|replica| replica.store.to_string()).collect::<Vec<_>>().join(", ");
        return Err(Failure::precondition(format!("{act}: the group is on the stores {stores}")));
    }
    let (addresses, deadline) = (addresses(&directory), Instant::now() + target.link.timeout);
    let mut first = None;
    loop {
        let (leader, term) = leader(&addresses, group, &target.link).await?;
        let before = *first.get_or_insert(leader);
        if leader == to || dry_run {
            eprintln!("plan: group {group}: leader {before} -> {to}");
            return print(target, group, leader, before, term);
        }
        let stores = directory.stores.iter().find(|store| store.id == leader);
        let address = &stores.ok_or_else(|| Failure::internal(format!("{act}: store {leader} is unknown")))?.address;
        let asked = store::admin(address, &AdminRequest::Transfer { group, to }, &target.link).await;
        let refusal = match asked {
            Ok(AdminResponse::Transferring) => None,
            // Who leads since a moment has not heard of all others yet; who leads no more is not asked again.
            Err(failure) if failure.exit == Exit::NoQuorum => Some(failure),
            Err(failure) => return Err(failure),
            Ok(other) => return Err(Failure::internal(format!("{act}: another answer than asked for: {other:?}"))),
        };
        if Instant::now() >= deadline {
            let text = format!("{act}: store {leader} still leads it after {:?}", target.link.timeout);
            return Err(refusal.unwrap_or_else(|| Failure::no_quorum(text)).hint("raftctl raft groups"));
        }
        for _ in 0..LOOKS_MAX {
            tokio::time::sleep(LOOK).await;
            if view(&addresses, group, &target.link).await.is_some_and(|(leader, _)| leader == to) {
                break;
            }
        }
    }
}

/// Who leads it, and in which term.
async fn leader(addresses: &[String], group: GroupId, link: &Link) -> Result<(StoreId, u64), Failure> {
    let leaderless = || Failure::no_quorum(format!("group {group} has no leader")).hint("raftctl raft groups");
    view(addresses, group, link).await.ok_or_else(leaderless)
}

async fn view(addresses: &[String], group: GroupId, link: &Link) -> Option<(StoreId, u64)> {
    let mut groups = Survey::take(addresses, link).await.groups();
    let view = groups.remove(&group)?;
    view.leader().map(|(store, replica)| (store, replica.term))
}

fn print(target: &Target, group: GroupId, leader: StoreId, before: StoreId, term: u64) -> Result<Exit, Failure> {
    let mut list = List::new("LeaderList", &["group", "leader", "before", "term"]);
    list.push(
        vec![group.to_string(), leader.to_string(), before.to_string(), term.to_string()],
        json!({"group": group.0, "leader": number(leader.0), "before": number(before.0), "term": number(term)}),
    );
    list.print(target.output)?;
    Ok(Exit::Ok)
}
