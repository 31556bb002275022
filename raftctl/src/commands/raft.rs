//! `raftctl raft groups`: every replica, how far it is, and how far behind its leader.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::json;
use seriatim_proto::ids::{GroupId, StoreId};
use seriatim_proto::store::GroupStatus;

use crate::failure::{Exit, Failure};
use crate::output::{self, List, number};
use crate::store;
use crate::target::Target;

/// `raft groups`
pub(super) async fn groups(target: &Target) -> Result<Exit, Failure> {
    let stores = target.stores()?;
    let answers = join_all(stores.iter().map(|store| store::status(store, target.timeout))).await;
    let mut replicas: BTreeMap<GroupId, Vec<(Option<StoreId>, GroupStatus)>> = BTreeMap::new();
    let mut failed = None;
    for answer in answers {
        match answer {
            Ok(status) => {
                for group in status.groups {
                    replicas.entry(group.group).or_default().push((status.store, group));
                }
            }
            Err(failure) => {
                eprintln!("warning: {}", failure.message);
                failed = Some(failure);
            }
        }
    }
    if let (true, Some(failure)) = (replicas.is_empty(), failed) {
        return Err(failure);
    }
    let mut list = List::new(
        "ReplicaList",
        &[
            "group",
            "store",
            "replica",
            "role",
            "term",
            "last",
            "committed",
            "applied",
            "purged",
            "slots",
            "leases",
            "lag",
        ],
    );
    let mut exit = Exit::Ok;
    for (group, mut found) in replicas {
        found.sort_by_key(|(store, _)| *store);
        let leader =
            found.iter().filter(|(_, replica)| replica.role == "leader").max_by_key(|(_, replica)| replica.term);
        let committed = leader.map(|(_, replica)| replica.committed_index);
        if committed.is_none() {
            eprintln!("warning: no leader of group {group} answers");
            exit = Exit::Unhealthy;
        }
        for (store, replica) in &found {
            let behind = committed.map(|committed| committed.saturating_sub(replica.applied_index));
            let lag = match (replica.role.as_str(), behind) {
                ("leader", _) => "leads".to_owned(),
                (_, Some(behind)) => format!("trails leader by {behind}"),
                (_, None) => "no leader".to_owned(),
            };
            list.push(
                vec![
                    group.to_string(),
                    output::dash(*store),
                    replica.replica.to_string(),
                    replica.role.clone(),
                    replica.term.to_string(),
                    replica.last_index.to_string(),
                    replica.committed_index.to_string(),
                    replica.applied_index.to_string(),
                    replica.purged_index.to_string(),
                    replica.slots.to_string(),
                    replica.leases.to_string(),
                    lag,
                ],
                json!({
                    "group": group.0,
                    "store": output::maybe_number(store.map(|store| store.0)),
                    "replica": number(replica.replica.0),
                    "role": replica.role,
                    "leader": output::maybe_number(replica.leader.map(|store| store.0)),
                    "term": number(replica.term),
                    "lastIndex": number(replica.last_index),
                    "committedIndex": number(replica.committed_index),
                    "appliedIndex": number(replica.applied_index),
                    "snapshotIndex": number(replica.snapshot_index),
                    "purgedIndex": number(replica.purged_index),
                    "slots": replica.slots,
                    "leases": replica.leases,
                    "voters": replica.voters.iter().map(|voter| number(voter.0)).collect::<Vec<_>>(),
                    "trailsLeaderBy": output::maybe_number(behind),
                }),
            );
        }
    }
    list.print(target.output)?;
    Ok(exit)
}
