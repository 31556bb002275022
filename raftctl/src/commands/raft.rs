//! `raftctl raft groups`: every replica, how far it is, and how far behind its leader.

use serde_json::json;
use seriatim_proto::store::StoreStatus;

use crate::failure::{Exit, Failure};
use crate::output::{self, List, number};
use crate::survey::Survey;
use crate::target::Target;

/// `raft groups`
pub(super) async fn groups(target: &Target) -> Result<Exit, Failure> {
    let stores = target.stores()?;
    let survey = Survey::take(stores, &target.link).await;
    let groups = survey.groups();
    for (_, answer) in &survey.answers {
        if let Err(failure) = answer {
            eprintln!("warning: {}", failure.message);
            if groups.is_empty() {
                return Err(failure.clone());
            }
        }
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
    for status in survey.statuses().filter(|status| status.cluster != survey.cluster()) {
        eprintln!("warning: the store at {} is not of this cluster", status.address);
        exit = Exit::Unhealthy;
    }
    for (group, view) in groups {
        let leader = view.leader().map(|(store, _)| store);
        let committed = view.leader().map(|(_, replica)| replica.committed_index);
        if let Some(why) = view.without_leader() {
            eprintln!("warning: group {group}: {why}");
            exit = Exit::Unhealthy;
        }
        for (store, replica) in &view.replicas {
            let behind = committed.map(|committed| committed.saturating_sub(replica.applied_index));
            let lag = match behind {
                _ if leader == Some(*store) => "leads".to_owned(),
                Some(behind) => format!("trails leader by {behind}"),
                None => "no leader".to_owned(),
            };
            list.push(
                vec![
                    group.to_string(),
                    store.to_string(),
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
                    "store": number(store.0),
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
        for store in view.missing() {
            // It answers and has none, or it does not answer.
            let is_rotten = |status: &&StoreStatus| status.rotten.iter().any(|rot| rot.group == group);
            let (state, why) = match survey.store(store) {
                Some(status) if is_rotten(&status) => ("rotten", "has a rotten replica of it: raftctl alarm ls"),
                Some(_) => ("missing", "has no replica of it"),
                None => ("unreachable", "does not answer, or is not named"),
            };
            eprintln!("warning: group {group}: store {store} {why}");
            exit = Exit::Unhealthy;
            let mut row = vec!["-".to_owned(); 12];
            (row[0], row[1], row[3]) = (group.to_string(), store.to_string(), state.to_owned());
            list.push(row, json!({"group": group.0, "store": number(store.0), "role": state}));
        }
    }
    list.print(target.output)?;
    Ok(exit)
}
