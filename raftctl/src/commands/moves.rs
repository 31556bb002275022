//! `raftctl raft moves|move|cancel-move`: replicas that go from one store to another.

use serde_json::json;
use seriatim_proto::ids::{GroupId, StoreId};
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, MoveRecord, ReplicaRecord};

use crate::failure::{Exit, Failure};
use crate::output::{self, List};
use crate::store;
use crate::survey::Survey;
use crate::target::Target;

/// `raft moves`
pub(super) async fn moves(target: &Target) -> Result<Exit, Failure> {
    let stores = target.stores()?;
    let directory = store::directory(stores, &target.link).await?;
    let survey = Survey::take(&addresses(&directory), &target.link).await;
    let mut list = List::new("MoveList", &["group", "joining", "leaving", "turned back", "applied", "leader has"]);
    let groups = survey.groups();
    for moved in &directory.moves {
        let view = groups.iter().find(|(group, _)| **group == moved.group).map(|(_, view)| view);
        let has = view.and_then(|view| view.leader()).map(|(_, leader)| leader.applied_index);
        let joining = moved.joining.and_then(|joining| view?.replicas.get(&joining.store));
        let applied = joining.map(|replica| replica.applied_index);
        list.push(
            vec![
                moved.group.to_string(),
                place(moved.joining),
                place(moved.leaving),
                turned(moved).to_owned(),
                output::dash(applied),
                output::dash(has),
            ],
            item(moved, applied, has),
        );
    }
    list.print(target.output)?;
    Ok(Exit::Ok)
}

/// `raft move`
pub(super) async fn begin(
    target: &Target,
    group: GroupId,
    (from, to): (Option<StoreId>, Option<StoreId>),
    dry_run: bool,
) -> Result<Exit, Failure> {
    if group == GroupId::META {
        return Err(Failure::usage("group 0 stays on the stores that `cluster init` named"));
    }
    let directory = store::directory(target.stores()?, &target.link).await?;
    let record = directory.groups.iter().find(|record| record.id == group);
    let record =
        record.ok_or_else(|| Failure::not_found(format!("there is no group {group}")).hint("raftctl raft groups"))?;
    let before = record.replicas.len();
    let after = before + usize::from(to.is_some()) - usize::from(from.is_some()).min(before);
    eprintln!(
        "plan: group {group}: voters {before} -> {after}, may lose {} -> {} of them and go on",
        before.saturating_sub(1) / 2,
        after.saturating_sub(1) / 2
    );
    let stays = record.replicas.iter().map(|replica| replica.store).filter(|store| Some(*store) != from);
    let label = |store: StoreId| directory.domains.get(&store);
    if let Some(to) = to
        && let Some(domain) = label(to)
        && stays.clone().any(|store| label(store) == Some(domain))
    {
        eprintln!("warning: two voters of the group would be in the domain {domain}");
    }
    if to.is_none() && after < 3 {
        eprintln!("note: the group gets a third replica again by itself, as soon as a store can take one");
    }
    if dry_run {
        return Ok(Exit::Ok);
    }
    let act = format!("failed to move a replica of group {group}");
    match store::tell_meta(target, &act, MetaCommand::BeginMove { group, from, to }).await? {
        MetaOutcome::Moving(moved) => print(target, &moved),
        other => Err(Failure::internal(format!("{act}: another answer than asked for: {other:?}"))),
    }
}

/// `raft cancel-move`
pub(super) async fn cancel(target: &Target, group: GroupId) -> Result<Exit, Failure> {
    let act = format!("failed to turn a move of group {group} back");
    let directory = store::directory(target.stores()?, &target.link).await?;
    let Some(moved) = directory.moves.into_iter().find(|moved| moved.group == group) else {
        eprintln!("nothing of group {group} moves");
        return Ok(Exit::Ok);
    };
    match store::tell_meta(target, &act, MetaCommand::CancelMove { moved }).await? {
        MetaOutcome::Moving(moved) => print(target, &moved),
        _ => {
            eprintln!("nothing of group {group} moves");
            Ok(Exit::Ok)
        }
    }
}

fn print(target: &Target, moved: &MoveRecord) -> Result<Exit, Failure> {
    let mut list = List::new("MoveList", &["group", "joining", "leaving", "turned back"]);
    let row = vec![moved.group.to_string(), place(moved.joining), place(moved.leaving), turned(moved).to_owned()];
    list.push(row, item(moved, None, None));
    list.print(target.output)?;
    Ok(Exit::Ok)
}

fn item(moved: &MoveRecord, applied: Option<u64>, has: Option<u64>) -> serde_json::Value {
    let replica = |replica: Option<ReplicaRecord>| {
        replica.map(|replica| json!({"replica": replica.id.0.to_string(), "store": replica.store.0.to_string()}))
    };
    json!({
        "group": moved.group.0,
        "joining": replica(moved.joining),
        "leaving": replica(moved.leaving),
        "turnedBack": moved.back,
        "appliedIndex": output::maybe_number(applied),
        "leaderAppliedIndex": output::maybe_number(has),
    })
}

fn turned(moved: &MoveRecord) -> &'static str {
    if moved.back { "yes" } else { "no" }
}

fn place(replica: Option<ReplicaRecord>) -> String {
    replica.map_or_else(|| "-".to_owned(), |replica| format!("{} on store {}", replica.id, replica.store))
}

/// All stores of the cluster, named on the command line or not.
pub(super) fn addresses(directory: &Directory) -> Vec<String> {
    directory.stores.iter().map(|store| store.address.clone()).collect()
}
