//! `raftctl node`: all nodes, as group 0 knows them; stores that join, are drained and leave.

use std::time::{Duration, Instant};

use serde_json::json;
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::ids::{GroupId, ReplicaId, StoreId};
use seriatim_proto::meta::{Directory, GroupRecord, MetaCommand, MetaOutcome, NodeKind, StoreRecord};

use crate::failure::{Exit, Failure};
use crate::output::{self, List, number};
use crate::store;
use crate::target::Target;

/// `node ls`
pub(super) async fn ls(target: &Target) -> Result<Exit, Failure> {
    let directory = store::directory(target.stores()?, &target.link).await?;
    let mut list = List::new("NodeList", &["role", "id", "address", "domain", "state", "groups"]);
    for found in &directory.stores {
        let groups = groups_of(&directory, found.id);
        let state = if directory.draining.contains(&found.id) { "draining" } else { "active" };
        list.push(
            vec![
                "store".to_owned(),
                found.id.to_string(),
                found.address.clone(),
                output::dash(directory.domains.get(&found.id)),
                state.to_owned(),
                format!("{groups:?}"),
            ],
            json!({
                "role": "store",
                "id": number(found.id.0),
                "address": found.address,
                "domain": directory.domains.get(&found.id),
                "state": state,
                "groups": groups,
            }),
        );
    }
    for node in &directory.nodes {
        let role = match node.kind {
            NodeKind::Logic => "logic",
            NodeKind::Gateway => "gateway",
        };
        list.push(
            vec![
                role.to_owned(),
                node.id.to_string(),
                node.address.clone(),
                "-".to_owned(),
                "active".to_owned(),
                "-".to_owned(),
            ],
            json!({"role": role, "id": number(node.id.0), "address": node.address, "lease": node.lease.to_string()}),
        );
    }
    list.print(target.output)?;
    warn_crowded(&directory);
    Ok(Exit::Ok)
}

/// Says where voters of one group may fail together, and whether the cluster can mend it.
fn warn_crowded(directory: &Directory) {
    let domains = |stores: &mut dyn Iterator<Item = StoreId>| {
        let label = |store: StoreId| directory.domains.get(&store).cloned().unwrap_or_else(|| format!("store {store}"));
        stores.map(label).collect::<std::collections::BTreeSet<_>>().len()
    };
    let there_are = domains(&mut directory.stores.iter().map(|store| store.id));
    for group in &directory.groups {
        let voters = group.replicas.len();
        let used = domains(&mut group.replicas.iter().map(|replica| replica.store));
        if used < voters {
            let (id, why) =
                (group.id, if there_are < voters { "there are no more" } else { "it is spread when it can be" });
            eprintln!("warning: group {id}: {voters} voters in {used} domains: {why}");
        }
    }
}

/// `node join`
pub(super) async fn join(target: &Target, address: &str) -> Result<Exit, Failure> {
    let act = format!("failed to take the store at {address} into the cluster");
    let directory = store::directory(target.stores()?, &target.link).await?;
    let status = store::status(address, &target.link).await?;
    match (status.cluster, status.store) {
        (Some(cluster), Some(id)) if cluster == directory.cluster => {
            if !directory.stores.iter().any(|store| store.id == id) {
                let text = format!("{act}: it was store {id} of this cluster and was removed");
                return Err(Failure::precondition(text).hint("start it on an empty data folder"));
            }
            eprintln!("the store at {address} is store {id} of this cluster already");
            return ls(target).await;
        }
        (Some(_), _) => {
            return Err(Failure::precondition(format!("{act}: it belongs to another cluster"))
                .hint("start it on an empty data folder"));
        }
        _ => (),
    }
    if status.address != address {
        let text = format!("{act}: it says that others reach it at {}", status.address);
        return Err(Failure::precondition(text).hint(format!("raftctl node join {}", status.address)));
    }
    let command = MetaCommand::AddStore { address: address.to_owned(), token: status.token };
    let record = match store::tell_meta(target, &act, command).await? {
        MetaOutcome::StoreAdded(record) => record,
        other => return Err(Failure::internal(format!("{act}: another answer than asked for: {other:?}"))),
    };
    // A crash before this line leaves a store that the same command completes.
    let meta = directory.groups.iter().find(|group| group.id == GroupId::META);
    let replicas = meta.map(|group| group.replicas.clone()).unwrap_or_default();
    let of_meta = |store: &&StoreRecord| replicas.iter().any(|replica| replica.store == store.id);
    let mut stores: Vec<StoreRecord> = directory.stores.iter().filter(of_meta).cloned().collect();
    stores.push(record.clone());
    let adopt = AdminRequest::Adopt {
        cluster: directory.cluster,
        store: record.id,
        replica: ReplicaId(0),
        token: status.token,
        stores,
        replicas,
    };
    match store::admin(address, &adopt, &target.link).await? {
        AdminResponse::Adopted => {
            eprintln!("the store at {address} is store {} now", record.id);
            ls(target).await
        }
        other => Err(Failure::internal(format!("{act}: an unexpected answer: {other:?}"))),
    }
}

/// `node drain`
pub(super) async fn drain(target: &Target, id: StoreId, wait: Option<Duration>) -> Result<Exit, Failure> {
    set_draining(target, id, true).await?;
    let deadline = Instant::now() + wait.unwrap_or_default();
    loop {
        let directory = store::directory(target.stores()?, &target.link).await?;
        let left = groups_of(&directory, id);
        if left.is_empty() {
            eprintln!("store {id} has no replicas any more: raftctl node remove {id} --confirm {id}");
            return Ok(Exit::Ok);
        }
        if Instant::now() >= deadline {
            eprintln!("store {id} still has replicas of groups {left:?}");
            if left == [0] {
                eprintln!("group 0 stays on the stores that `cluster init` named");
            } else if !can_leave(&directory, id) {
                eprintln!("warning: there are too few other stores to take them: raftctl node join");
            }
            return Ok(Exit::Unhealthy);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// `node undrain`
pub(super) async fn undrain(target: &Target, id: StoreId) -> Result<Exit, Failure> {
    set_draining(target, id, false).await?;
    ls(target).await
}

async fn set_draining(target: &Target, id: StoreId, draining: bool) -> Result<(), Failure> {
    let act = format!("failed to {} store {id}", if draining { "drain" } else { "undrain" });
    store::tell_meta(target, &act, MetaCommand::SetDraining { store: id, draining }).await.map(drop)
}

/// `node remove`
pub(super) async fn remove(target: &Target, id: StoreId, confirm: Option<u64>) -> Result<Exit, Failure> {
    if confirm != Some(id.0) {
        return Err(Failure::usage(format!("store {id} is forgotten for ever: say --confirm {id}")));
    }
    let directory = store::directory(target.stores()?, &target.link).await?;
    if !directory.stores.iter().any(|store| store.id == id) {
        return Err(Failure::not_found(format!("there is no store {id}")).hint("raftctl node ls"));
    }
    let act = format!("failed to remove store {id}");
    let removed = store::tell_meta(target, &act, MetaCommand::RemoveStore { store: id }).await;
    removed.map_err(|failure| match failure.exit {
        Exit::Precondition => failure.hint(format!("raftctl node drain {id}")),
        _ => failure,
    })?;
    ls(target).await
}

fn groups_of(directory: &Directory, store: StoreId) -> Vec<u32> {
    let lives = |group: &&GroupRecord| group.replicas.iter().any(|replica| replica.store == store);
    directory.groups.iter().filter(lives).map(|group| group.id.0).collect()
}

/// Is there another store for each of its replicas?
fn can_leave(directory: &Directory, store: StoreId) -> bool {
    let takers = directory.stores.iter().filter(|other| !directory.draining.contains(&other.id)).count();
    let most = directory.groups.iter().filter(|group| group.id != GroupId::META).map(|group| group.replicas.len());
    takers >= most.max().unwrap_or(0) && directory.draining.contains(&store)
}

/// How often a drained store is looked at.
const LOOK: Duration = Duration::from_millis(500);
