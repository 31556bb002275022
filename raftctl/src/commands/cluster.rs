//! `raftctl cluster`: make one, and see how it is.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use serde_json::json;
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::ids::GroupId;

use crate::failure::{Exit, Failure};
use crate::output::{self, List, number};
use crate::store;
use crate::target::Target;

/// `cluster init`
pub(super) async fn init(target: &Target, groups: u32) -> Result<Exit, Failure> {
    let stores = target.stores()?;
    let request = AdminRequest::InitCluster { stores: stores.to_vec(), groups };
    let answer = store::admin(&stores[0], &request, target.timeout.max(std::time::Duration::from_secs(30))).await?;
    let AdminResponse::Initialised { cluster } = answer else {
        return Err(Failure::internal(format!("an unexpected answer to init: {answer:?}")));
    };
    let mut list = List::new("Cluster", &["cluster", "stores", "groups"]);
    list.push(
        vec![cluster.to_string(), stores.len().to_string(), groups.to_string()],
        json!({"cluster": cluster.to_string(), "stores": stores, "groups": groups}),
    );
    list.print(target.output)?;
    Ok(Exit::Ok)
}

/// `cluster status`
pub(super) async fn status(target: &Target) -> Result<Exit, Failure> {
    let stores = target.stores()?;
    let answers = join_all(stores.iter().map(|store| store::status(store, target.timeout))).await;
    let mut list = List::new(
        "StoreStatusList",
        &["endpoint", "store", "health", "leads", "groups", "fsync p50", "fsync p99", "disk free", "version"],
    );
    let mut leaders: BTreeMap<GroupId, bool> = BTreeMap::new();
    let mut clusters = BTreeSet::new();
    let mut healthy = true;
    for (endpoint, answer) in stores.iter().zip(&answers) {
        let status = match answer {
            Ok(status) => status,
            Err(failure) => {
                healthy = false;
                eprintln!("warning: {}", failure.message);
                let mut row = vec!["-".to_owned(); 9];
                (row[0], row[2]) = (endpoint.clone(), "unreachable".to_owned());
                list.push(row, json!({"endpoint": endpoint, "health": "unreachable", "error": failure.message}));
                continue;
            }
        };
        clusters.insert(status.cluster.map(|cluster| cluster.to_string()));
        let leads: Vec<u32> =
            status.groups.iter().filter(|group| group.role == "leader").map(|group| group.group.0).collect();
        for group in &status.groups {
            *leaders.entry(group.group).or_default() |= group.role == "leader";
        }
        let health = match (status.cluster, status.read_only) {
            (None, _) => "no cluster",
            (_, true) => "read-only",
            _ => "ok",
        };
        healthy &= health == "ok";
        let ms = |us: u64| format!("{:.2} ms", us as f64 / 1000.0);
        list.push(
            vec![
                endpoint.clone(),
                output::dash(status.store),
                health.to_owned(),
                leads.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
                status.groups.len().to_string(),
                ms(status.fsync_us_p50),
                ms(status.fsync_us_p99),
                output::bytes(status.disk_free_bytes),
                status.version.clone(),
            ],
            json!({
                "endpoint": endpoint,
                "store": output::maybe_number(status.store.map(|store| store.0)),
                "cluster": status.cluster.map(|cluster| cluster.to_string()),
                "health": health,
                "leads": leads,
                "groups": status.groups.len(),
                "fsyncUsP50": number(status.fsync_us_p50),
                "fsyncUsP99": number(status.fsync_us_p99),
                "diskFreeBytes": number(status.disk_free_bytes),
                "version": status.version,
            }),
        );
    }
    list.print(target.output)?;
    let leaderless: Vec<String> =
        leaders.iter().filter(|(_, led)| !**led).map(|(group, _)| group.to_string()).collect();
    if !leaderless.is_empty() {
        eprintln!("warning: no leader in group {}", leaderless.join(", "));
    }
    if clusters.len() > 1 {
        eprintln!("warning: these stores are not of one cluster");
    }
    Ok(if healthy && leaderless.is_empty() && clusters.len() == 1 { Exit::Ok } else { Exit::Unhealthy })
}
