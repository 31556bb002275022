//! `raftctl cluster`: make one, and see how it is.

use std::collections::BTreeSet;

use serde_json::json;
use seriatim_proto::admin::{AdminRequest, AdminResponse};

use crate::failure::{Exit, Failure};
use crate::output::{self, List, number};
use crate::store;
use crate::survey::Survey;
use crate::target::Target;

/// `cluster init`
pub(super) async fn init(target: &Target, groups: u32, replicas: Option<u32>) -> Result<Exit, Failure> {
    let stores = target.stores()?;
    let request = AdminRequest::InitCluster { stores: stores.to_vec(), groups, voters: replicas };
    let link = target.link.within(target.link.timeout.max(std::time::Duration::from_secs(30)));
    let answer = store::admin(&stores[0], &request, &link).await?;
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
    let survey = Survey::take(stores, &target.link).await;
    let groups = survey.groups();
    let mut list = List::new(
        "StoreStatusList",
        &["endpoint", "store", "health", "leads", "groups", "fsync p50", "fsync p99", "disk free", "version"],
    );
    let mut clusters = BTreeSet::new();
    let mut healthy = true;
    for (endpoint, answer) in &survey.answers {
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
        let is_ours = status.cluster == survey.cluster();
        let led = groups.iter().filter(|(_, group)| is_ours && group.leader().map(|(store, _)| store) == status.store);
        let leads: Vec<u32> = led.map(|(id, _)| id.0).collect();
        let health = match (status.cluster, status.read_only) {
            (None, _) => "no cluster",
            (_, true) => "read-only",
            _ if !status.rotten.is_empty() => "rotten",
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
    let leaderless = survey.leaderless();
    for group in &leaderless {
        eprintln!("warning: {group}");
    }
    if clusters.len() > 1 {
        eprintln!("warning: these stores are not of one cluster");
    }
    Ok(if healthy && leaderless.is_empty() && clusters.len() == 1 { Exit::Ok } else { Exit::Unhealthy })
}
