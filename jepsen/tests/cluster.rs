//! Clusters of real processes: they start, can be hurt, and leave nothing behind.
//!
//! The binaries are looked for in `$SERIATIM_BIN`, else beside the test's own target folder; without them the tests
//! are skipped, and say so.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use seriatim_jepsen::cluster::{Cluster, ClusterConfig, NetworkKind, NetworkMode, Role, leftovers};

/// Longest wait for a level that must come about.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for a connection on one machine, short enough to wait for one that must fail.
const CONNECT_PATIENCE: Duration = Duration::from_millis(700);

fn binaries() -> Option<PathBuf> {
    let told = std::env::var_os("SERIATIM_BIN").map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned());
    let folder = told.or_else(beside)?;
    ["seriatim", "raftctl"].iter().all(|name| folder.join(name).is_file()).then_some(folder)
}

/// A small cluster in a folder that goes with the test, or `None` and why.
async fn small(network: NetworkMode) -> Option<(tempfile::TempDir, Cluster)> {
    let Some(bin) = binaries() else {
        eprintln!("skipped: there are no binaries seriatim and raftctl; set SERIATIM_BIN");
        return None;
    };
    let folder = tempfile::tempdir().unwrap();
    let config = ClusterConfig {
        stores: 3,
        logic: 2,
        gateways: 1,
        groups: 2,
        folder: folder.path().to_owned(),
        bin,
        network,
        ..ClusterConfig::default()
    };
    Some((folder, Cluster::start(config).await.unwrap()))
}

async fn wait_until(what: &str, mut level: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !level().await {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_in_namespaces_serves_and_leaves_nothing_behind() {
    let began = Instant::now();
    let Some((_folder, cluster)) = small(NetworkMode::Namespaces).await else { return };
    eprintln!("serves after {:?}", began.elapsed());
    assert_eq!(cluster.network(), NetworkKind::Namespaces);
    let prefix = cluster.prefix().unwrap().to_owned();
    // Six namespaces and links, and a bridge.
    assert!(leftovers(&prefix).len() >= 13, "{:?}", leftovers(&prefix));
    let leaders = cluster.leaders().await;
    assert_eq!(leaders.keys().copied().collect::<Vec<_>>(), [0, 1, 2]);
    assert!(leaders.values().all(|name| cluster.names(Role::Store).contains(name)), "{leaders:?}");
    let report = cluster.shutdown().await.unwrap();
    assert_eq!((report.ended_by_themselves, report.killed), (Vec::new(), Vec::new()));
    assert_eq!(leftovers(&prefix), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_and_comes_back() {
    let Some((_folder, cluster)) = small(NetworkMode::Auto).await else { return };
    let victim = cluster.leaders().await.remove(&1).unwrap();
    cluster.kill(&victim).await.unwrap();
    assert!(!cluster.is_running(&victim));
    wait_until("another leader of group 1", async || {
        cluster.leaders().await.get(&1).is_some_and(|leader| *leader != victim)
    })
    .await;
    cluster.start_node(&victim).await.unwrap();
    cluster.wait_until_serving(PATIENCE).await.unwrap();
    let report = cluster.shutdown().await.unwrap();
    assert_eq!(report.ended_by_themselves, Vec::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_node_answers_nobody_until_it_is_resumed() {
    let Some((_folder, cluster)) = small(NetworkMode::Auto).await else { return };
    let node = "logic-1";
    cluster.metrics(node).await.unwrap();
    cluster.pause(node).await.unwrap();
    assert!(cluster.is_paused(node) && cluster.is_running(node));
    cluster.metrics(node).await.unwrap_err();
    cluster.resume(node).await.unwrap();
    assert!(!cluster.is_paused(node));
    cluster.metrics(node).await.unwrap();
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn loopback_serves_where_namespaces_are_not_wanted() {
    let Some((_folder, cluster)) = small(NetworkMode::Loopback).await else { return };
    assert_eq!(cluster.network(), NetworkKind::Loopback);
    cluster.wait_until_serving(PATIENCE).await.unwrap();
    assert!(cluster.connects("logic-1", "store-1", CONNECT_PATIENCE).await.unwrap());
    cluster.shutdown().await.unwrap();
}
