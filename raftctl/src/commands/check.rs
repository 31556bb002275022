//! `raftctl check replicas`: do the replicas of each group have the same rows at the same entry?

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::json;
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::ids::{GroupId, ReplicaId, StoreId};
use seriatim_proto::store::RowsDigest;

use super::moves::addresses;
use crate::failure::{Exit, Failure};
use crate::output::{List, dash, maybe_number, number};
use crate::store;
use crate::survey::Survey;
use crate::target::Target;

/// What is known of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    store: StoreId,
    digest: Option<RowsDigest>,
    is_rotten: bool,
}

type Replicas = BTreeMap<(GroupId, ReplicaId), Seen>;

/// `check replicas`
pub(super) async fn replicas(target: &Target, groups: Vec<u32>, wait: Duration) -> Result<Exit, Failure> {
    let groups: Vec<GroupId> = groups.into_iter().map(GroupId).collect();
    let directory = store::directory(target.stores()?, &target.link).await?;
    if let Some(unknown) = groups.iter().find(|group| !directory.groups.iter().any(|record| record.id == **group)) {
        return Err(Failure::not_found(format!("there is no group {unknown}")).hint("raftctl raft groups"));
    }
    let stores = addresses(&directory);
    let before = look(&Survey::take(&stores, &target.link).await, Replicas::new());
    let old = |group: GroupId| {
        let of_group = before.iter().filter(move |((of, _), _)| *of == group);
        of_group.filter_map(|(_, seen)| seen.digest).map(|digest| digest.index).max().unwrap_or(0)
    };
    let mut begun = BTreeSet::new();
    for address in &stores {
        match store::admin(address, &AdminRequest::Compare { groups: groups.clone() }, &target.link).await {
            Ok(AdminResponse::Comparing(led)) => begun.extend(led),
            Ok(other) => return Err(Failure::internal(format!("{address}: an unexpected answer: {other:?}"))),
            Err(failure) => eprintln!("warning: {}", failure.message),
        }
    }
    let mut exit = Exit::Ok;
    let wanted = directory.groups.iter().map(|record| record.id).filter(|id| groups.is_empty() || groups.contains(id));
    for group in wanted.filter(|group| !begun.contains(group)) {
        eprintln!("warning: group {group}: nobody leads it");
        exit = Exit::Unhealthy;
    }
    let deadline = Instant::now() + wait;
    let mut seen = Replicas::new();
    loop {
        // What was seen of a replica stays: one that differs is stopped soon afterwards.
        seen = look(&Survey::take(&stores, &target.link).await, seen);
        let done = |group: &GroupId| {
            let mut of_group = seen.iter().filter(|((of, _), _)| of == group).map(|(_, seen)| seen).peekable();
            let is_new = |seen: &Seen| seen.digest.is_some_and(|digest| digest.index > old(*group));
            of_group.peek().is_some() && of_group.all(|seen| seen.is_rotten || is_new(seen))
        };
        if begun.iter().all(done) || Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let columns = ["group", "store", "replica", "entry", "rows", "bytes", "digest", "verdict"];
    let mut list = List::new("ReplicaCheckList", &columns);
    for group in &begun {
        let of_group: Replicas =
            seen.iter().filter(|((of, _), _)| of == group).map(|(key, seen)| (*key, *seen)).collect();
        for ((group, replica), found) in &of_group {
            let verdict = verdict(&of_group, found, old(*group));
            exit = match (verdict, exit) {
                ("differs" | "rotten", _) | (_, Exit::Violation) => Exit::Violation,
                ("no digest", _) => Exit::Unhealthy,
                _ => exit,
            };
            let digest = found.digest.filter(|digest| digest.index > old(*group));
            let hash = digest.map(|digest| digest.hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
            list.push(
                vec![
                    group.to_string(),
                    found.store.to_string(),
                    replica.to_string(),
                    dash(digest.map(|digest| digest.index)),
                    dash(digest.map(|digest| digest.rows)),
                    dash(digest.map(|digest| digest.bytes)),
                    hash.as_ref().map_or_else(|| "-".to_owned(), |hash| hash[..16].to_owned()),
                    verdict.to_owned(),
                ],
                json!({
                    "group": group.0,
                    "store": number(found.store.0),
                    "replica": number(replica.0),
                    "entry": maybe_number(digest.map(|digest| digest.index)),
                    "rows": maybe_number(digest.map(|digest| digest.rows)),
                    "bytes": maybe_number(digest.map(|digest| digest.bytes)),
                    "digest": hash,
                    "verdict": verdict,
                }),
            );
        }
    }
    list.print(target.output)?;
    if exit == Exit::Violation {
        eprintln!("warning: replicas differ; those that differ from a majority are rebuilt: raftctl alarm ls");
    }
    Ok(exit)
}

/// What the stores say now, over what they said before.
fn look(survey: &Survey, mut seen: Replicas) -> Replicas {
    for status in survey.statuses().filter(|status| status.cluster == survey.cluster()) {
        let Some(store) = status.store else { continue };
        for group in &status.groups {
            let known =
                seen.entry((group.group, group.replica)).or_insert(Seen { store, digest: None, is_rotten: false });
            known.digest = group.digest.or(known.digest);
        }
        for rot in &status.rotten {
            let known = seen.entry((rot.group, rot.replica)).or_insert(Seen { store, digest: None, is_rotten: true });
            known.is_rotten = true;
        }
    }
    seen
}

fn verdict(of_group: &Replicas, found: &Seen, old: u64) -> &'static str {
    let Some(digest) = found.digest.filter(|digest| digest.index > old) else {
        return if found.is_rotten { "rotten" } else { "no digest" };
    };
    let others = of_group.values().filter_map(|seen| seen.digest).filter(|other| other.index == digest.index);
    let (same, other): (Vec<RowsDigest>, Vec<RowsDigest>) = others.partition(|other| *other == digest);
    match (same.len(), other.len()) {
        (_, 0) => "same",
        (same, other) if same > other => "same",
        _ => "differs",
    }
}

/// How often the stores are asked whether they are done.
const LOOK: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_judged_by_those_at_the_same_entry() {
        let seen = |index, hash: u8| Seen {
            store: StoreId(1),
            digest: Some(RowsDigest { index, rows: 1, bytes: 1, hash: [hash; 32] }),
            is_rotten: false,
        };
        let of = |all: &[Seen]| {
            let replicas: Replicas = (1..).zip(all).map(|(id, seen)| ((GroupId(1), ReplicaId(id)), *seen)).collect();
            all.iter().map(|found| verdict(&replicas, found, 5)).collect::<Vec<_>>()
        };
        assert_eq!(of(&[seen(7, 1), seen(7, 1), seen(7, 1)]), ["same"; 3]);
        assert_eq!(of(&[seen(7, 1), seen(7, 2), seen(7, 1)]), ["same", "differs", "same"]);
        assert_eq!(of(&[seen(7, 1), seen(7, 2)]), ["differs"; 2], "nobody knows which");
        assert_eq!(of(&[seen(7, 1), seen(5, 2), seen(8, 3)]), ["same", "no digest", "same"]);
        let rotten = Seen { digest: None, is_rotten: true, ..seen(7, 1) };
        assert_eq!(of(&[seen(7, 1), rotten, seen(7, 1)]), ["same", "rotten", "same"]);
    }
}
