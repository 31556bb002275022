//! Start, stop, kill and pause, without a nemesis.

use std::time::Instant;

use seriatim_jepsen::cluster::{NetworkKind, NetworkMode, Role, leftovers};

use super::{CONNECT_PATIENCE, PATIENCE, small, wait_until};

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
