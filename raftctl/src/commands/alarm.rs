//! `raftctl alarm ls|withdraw`: what a human should know of, and what is done about it.

use serde_json::json;
use seriatim_proto::ids::{GroupId, ReplicaId, StoreId};
use seriatim_proto::meta::{Directory, MetaCommand, ReplicaRecord, RotRecord};

use super::moves::addresses;
use crate::failure::{Exit, Failure};
use crate::output::{List, number};
use crate::store;
use crate::survey::Survey;
use crate::target::Target;

/// `alarm ls`
pub(super) async fn ls(target: &Target) -> Result<Exit, Failure> {
    let directory = store::directory(target.stores()?, &target.link).await?;
    let survey = Survey::take(&addresses(&directory), &target.link).await;
    let mut list = List::new("AlarmList", &["alarm", "store", "group", "replica", "what", "state"]);
    let rot = |group: GroupId, replica: ReplicaId, store: u64, what: &str, state: &str| {
        (
            vec![
                "rot".to_owned(),
                store.to_string(),
                group.to_string(),
                replica.to_string(),
                what.to_owned(),
                state.to_owned(),
            ],
            json!({
                "alarm": "rot",
                "store": number(store),
                "group": group.0,
                "replica": number(replica.0),
                "what": what,
                "state": state,
            }),
        )
    };
    for found in &directory.rotten {
        let state = state(&directory, found.group, found.replica.id);
        let (row, item) = rot(found.group, found.replica.id, found.replica.store.0, &found.what, &state);
        list.push(row, item);
    }
    for (store, what) in silent(&directory, &survey) {
        let state = "nothing is known of its replicas and its disk";
        let row = ["silent", &store.to_string(), "-", "-", &what, state].map(str::to_owned);
        list.push(row.to_vec(), json!({"alarm": "silent", "store": number(store.0), "what": what, "state": state}));
    }
    for status in survey.statuses().filter(|status| status.cluster == Some(directory.cluster)) {
        let Some(id) = status.store else { continue };
        let unknown = |rot: &&seriatim_proto::store::RottenStatus| !directory.is_rotten(rot.group, rot.replica);
        for found in status.rotten.iter().filter(unknown) {
            let state = "group 0 has not noted it yet";
            let (row, item) = rot(found.group, found.replica, id.0, &found.what, state);
            list.push(row, item);
        }
        if status.read_only {
            let (what, state) = ("the disk is almost full", "writes are refused until there is room");
            let row = ["read-only", &id.to_string(), "-", "-", what, state].map(str::to_owned);
            list.push(row.to_vec(), json!({"alarm": "read-only", "store": number(id.0), "what": what, "state": state}));
        }
    }
    let exit = if list.items.is_empty() { Exit::Ok } else { Exit::Unhealthy };
    list.print(target.output)?;
    Ok(exit)
}

/// Stores of the cluster that did not answer as such, and what came instead: no alarm of theirs is known.
fn silent(directory: &Directory, survey: &Survey) -> Vec<(StoreId, String)> {
    let of = |address: &String| survey.answers.iter().find(|(endpoint, _)| endpoint == address);
    let stores = directory.stores.iter().filter_map(|store| {
        let what = match &of(&store.address)?.1 {
            Err(failure) => failure.message.clone(),
            Ok(status) if (status.cluster, status.store) == (Some(directory.cluster), Some(store.id)) => return None,
            Ok(_) => format!("at {} there is another store", store.address),
        };
        Some((store.id, what))
    });
    stores.collect()
}

/// `alarm withdraw`
pub(super) async fn withdraw(
    target: &Target,
    group: GroupId,
    replica: ReplicaId,
    (dry_run, confirm): (bool, Option<u64>),
) -> Result<Exit, Failure> {
    let directory = store::directory(target.stores()?, &target.link).await?;
    let found = reported(&directory, group, replica)?;
    eprintln!(
        "replica {replica} of group {group}, on store {}, would count as sound again, and others may copy it; it was said \
         of it: {}",
        found.replica.store, found.what
    );
    if dry_run {
        return Ok(Exit::Ok);
    }
    check_confirmed(replica, confirm)?;
    let act = format!("failed to withdraw the report of replica {replica} of group {group}");
    let withdrawn = store::tell_meta(target, &act, MetaCommand::WithdrawRot { group, replica }).await;
    withdrawn.map_err(|failure| match failure.exit {
        Exit::Precondition => failure.hint("raftctl raft moves: another is made in its place, or moves"),
        _ => failure,
    })?;
    eprintln!("withdrawn; if its store still finds it rotten, it reports again");
    Ok(Exit::Ok)
}

fn check_confirmed(replica: ReplicaId, confirm: Option<u64>) -> Result<(), Failure> {
    let what = || format!("what is wrong with replica {replica} may be copied to others: say --confirm {replica}");
    if confirm == Some(replica.0) { Ok(()) } else { Err(Failure::usage(what())) }
}

fn reported(directory: &Directory, group: GroupId, replica: ReplicaId) -> Result<&RotRecord, Failure> {
    let found = directory.rotten.iter().find(|rot| (rot.group, rot.replica.id) == (group, replica));
    let none = || Failure::not_found(format!("nobody said that replica {replica} of group {group} is rotten"));
    found.ok_or_else(|| none().hint("raftctl alarm ls"))
}

/// What is done about a rotten replica.
fn state(directory: &Directory, group: GroupId, replica: ReplicaId) -> String {
    let moved = directory.moves.iter().find(|moved| moved.group == group);
    if let Some(moved) = moved.filter(|moved| moved.goes().is_some_and(|goes| goes.id == replica)) {
        return match moved.comes() {
            Some(comes) => format!("replica {} on store {} takes its place", comes.id, comes.store),
            None => "it is removed".to_owned(),
        };
    }
    let of_group = directory.groups.iter().filter(|record| record.id == group).flat_map(|record| &record.replicas);
    let (rotten, sound): (Vec<&ReplicaRecord>, Vec<&ReplicaRecord>) =
        of_group.partition(|known| directory.is_rotten(group, known.id));
    if sound.len() <= rotten.len() {
        return "no majority of its group is sound: it cannot be rebuilt; keep the files in rotten/".to_owned();
    }
    "waits to be rebuilt".to_owned()
}

#[cfg(test)]
mod tests {
    use seriatim_proto::ids::{ClusterId, Generation, StoreId};
    use seriatim_proto::meta::{GroupRecord, MoveRecord};

    use super::*;

    #[test]
    fn a_report_is_withdrawn_only_by_who_names_the_replica_twice() {
        assert!(check_confirmed(ReplicaId(7), Some(7)).is_ok());
        for other in [None, Some(8)] {
            assert_eq!(check_confirmed(ReplicaId(7), other).unwrap_err().exit, Exit::Usage);
        }
    }

    #[test]
    fn the_state_says_what_is_done() {
        let replica = |id| ReplicaRecord { id: ReplicaId(id), store: StoreId(id) };
        let rot = |id| RotRecord { group: GroupId(1), replica: replica(id), what: String::new() };
        let group =
            GroupRecord { id: GroupId(1), slots: vec![], replicas: [1, 2, 3].map(replica).to_vec(), closed: true };
        let mut directory = Directory {
            cluster: ClusterId([1; 16]),
            generation: Generation(0),
            revision: 1,
            stores: vec![],
            groups: vec![group],
            nodes: vec![],
            tenants: vec![],
            moves: vec![],
            draining: vec![],
            replica_next: ReplicaId(9),
            rotten: vec![rot(2)],
            domains: [].into(),
            voters: 3,
        };
        let said = |directory: &Directory| state(directory, GroupId(1), ReplicaId(2));
        assert_eq!(said(&directory), "waits to be rebuilt");
        directory.rotten.push(rot(3));
        assert!(said(&directory).starts_with("no majority"));
        let joining = Some(ReplicaRecord { id: ReplicaId(8), store: StoreId(2) });
        let moved = MoveRecord { group: GroupId(1), joining, leaving: Some(replica(2)), back: false, revision: 1 };
        directory.moves.push(moved);
        assert_eq!(said(&directory), "replica 8 on store 2 takes its place");
        assert_eq!(reported(&directory, GroupId(1), ReplicaId(3)).unwrap(), &rot(3));
        for (group, replica) in [(1, 1), (2, 2)] {
            assert_eq!(reported(&directory, GroupId(group), ReplicaId(replica)).unwrap_err().exit, Exit::NotFound);
        }
    }
}
