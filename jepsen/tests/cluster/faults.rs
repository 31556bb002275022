//! Faults: each is seen to take effect, and to be over when it is healed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::SeedableRng;
use rand::rngs::StdRng;
use seriatim_jepsen::cluster::{
    Cluster, ClusterConfig, DiskKind, Flow, NetworkKind, NetworkMode, clocks_can_be_bent, leftovers,
};
use seriatim_jepsen::history::{Act, Effect, Fault};
use seriatim_jepsen::nemesis::{Catalogue, Done, Schedule, run_schedule};

use super::{CONNECT_PATIENCE, PATIENCE, binaries, small, small_with};

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_between_two_nodes_cuts_and_is_over_when_mended() {
    let Some((_folder, cluster)) = small(NetworkMode::Namespaces).await else { return };
    let connects = async |from: &str, to: &str| cluster.connects(from, to, CONNECT_PATIENCE).await.unwrap();
    let flow = |from: &str, to: &str| Flow::Between { from: from.to_owned(), to: to.to_owned() };
    assert!(connects("store-1", "store-2").await);
    let cut =
        cluster.cut(&BTreeSet::from([flow("store-1", "store-2"), flow("store-2", "store-1")]), 100).await.unwrap();
    assert!(!connects("store-1", "store-2").await && !connects("store-2", "store-1").await);
    assert!(connects("store-1", "store-3").await && connects("store-3", "store-2").await);
    // Two cuts overlap: mending one leaves the other.
    let other = cluster.cut(&BTreeSet::from([flow("store-2", "store-1")]), 100).await.unwrap();
    assert!(cluster.mend(cut).await.unwrap() > 0);
    assert!(!connects("store-1", "store-2").await);
    assert!(cluster.mend(other).await.unwrap() > 0);
    assert!(connects("store-1", "store-2").await && connects("store-2", "store-1").await);
    cluster.shutdown().await.unwrap();
}

/// Injects and heals every kind of these families once, one after another.
async fn inject_each(cluster: &Cluster, families: &[&str]) {
    let (kinds, impossible) = Catalogue::possible(&Catalogue::select(families).expect("families"), cluster);
    eprintln!("not on three stores: {impossible:?}");
    assert!(!kinds.is_empty());
    for (seed, kind) in kinds.into_iter().enumerate() {
        let mut rng = StdRng::seed_from_u64(seed as u64);
        let mut nemesis = (kind.make)();
        let began = Instant::now();
        let injected = nemesis.inject(cluster, &mut rng).await;
        tokio::time::sleep(kind.hold.min).await;
        let healed = nemesis.heal(cluster).await;
        eprintln!("{:<18} {:>6.2?}  {injected:?}  {healed:?}", kind.name, began.elapsed());
        assert_eq!(injected.effect, Effect::Installed, "{}: {injected:?}", kind.name);
        assert_eq!(healed.effect, Effect::Installed, "{}: {healed:?}", kind.name);
        assert!(!injected.targets.is_empty() && injected.targets == healed.targets, "{}", kind.name);
        cluster.wait_until_serving(PATIENCE).await.expect(kind.name);
    }
    assert!(cluster.ended_by_themselves().iter().all(|end| end.allowed), "{:?}", cluster.ended_by_themselves());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kill_and_pause_takes_effect_and_heals() {
    let Some((_folder, cluster)) = small(NetworkMode::Auto).await else { return };
    inject_each(&cluster, &["kill", "pause", "lease"]).await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_the_network_takes_effect_and_heals() {
    let Some((_folder, cluster)) = small(NetworkMode::Namespaces).await else { return };
    let probing = probe(&cluster);
    inject_each(&cluster, &["partition", "loss", "loss-clients", "flap"]).await;
    probing.abort();
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_the_network_takes_effect_and_heals_on_a_switch() {
    let Some((_folder, cluster)) = small(NetworkMode::Switch).await else { return };
    assert_eq!(cluster.network(), NetworkKind::Switch);
    let prefix = cluster.prefix().unwrap().to_owned();
    let probing = probe(&cluster);
    inject_each(&cluster, &["partition", "loss", "loss-clients", "flap"]).await;
    inject_each(&cluster, &["delay", "jitter", "duplicate", "reorder", "corrupt"]).await;
    probing.abort();
    let _ = probing.await;
    cluster.shutdown().await.unwrap();
    assert_eq!(leftovers(&prefix), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_bridge_packets_are_not_spoiled_and_it_is_said_why() {
    let Some((_folder, cluster)) = small(NetworkMode::Namespaces).await else { return };
    let kinds = Catalogue::select(&["packet"]).unwrap();
    let (possible, impossible) = Catalogue::possible(&kinds, &cluster);
    assert_eq!(possible.iter().map(|kind| kind.name).collect::<Vec<_>>(), ["loss", "loss-clients", "rate", "flap"]);
    assert_eq!(impossible.len(), 5);
    assert!(impossible.iter().all(|(_, why)| why.contains("--network switch")), "{impossible:?}");
    cluster.shutdown().await.unwrap();
}

/// Packets that a fault of the network can meet, also on the clients' side.
fn probe(cluster: &Cluster) -> tokio::task::JoinHandle<()> {
    let cluster = cluster.clone();
    tokio::spawn(async move {
        loop {
            let _ = cluster.wait_until_serving(PATIENCE).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_act_of_an_operator_completes() {
    let Some((_folder, cluster)) = small(NetworkMode::Auto).await else { return };
    inject_each(&cluster, &["restart", "certificate"]).await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bent_clocks_are_told_by_the_nodes() {
    let bendable_clocks = clocks_can_be_bent();
    if !bendable_clocks {
        return eprintln!("skipped: libfaketime is not installed");
    }
    let Some((_folder, cluster)) = small_with(ClusterConfig { bendable_clocks, ..ClusterConfig::default() }).await
    else {
        return;
    };
    inject_each(&cluster, &["clock"]).await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_disks_are_felt_and_power_cuts_are_survived() {
    let config = ClusterConfig { disk: DiskKind::Fuse, ..ClusterConfig::default() };
    let Some((_folder, cluster)) = small_with(config).await else { return };
    let prefix = cluster.prefix().unwrap().to_owned();
    assert_eq!(leftovers(&prefix).iter().filter(|left| left.starts_with("mount")).count(), 3);
    // Something to write for a store whose disk is sick.
    let probing = probe(&cluster);
    inject_each(&cluster, &["disk", "power"]).await;
    probing.abort();
    let _ = probing.await;
    cluster.shutdown().await.unwrap();
    assert_eq!(leftovers(&prefix), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_disk_fills_up_and_is_freed() {
    let config = ClusterConfig { disk: DiskKind::Tmpfs { mib: 256 }, ..ClusterConfig::default() };
    let Some((_folder, cluster)) = small_with(config).await else { return };
    inject_each(&cluster, &["disk-fill"]).await;
    cluster.shutdown().await.unwrap();
}

/// The same program from another file: the kernel says which one runs.
#[tokio::test(flavor = "multi_thread")]
async fn every_node_runs_another_version_and_gets_its_own_back() {
    let Some(bin) = binaries() else { return };
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(bin.join("seriatim"), other.path().join("seriatim")).unwrap();
    let config = ClusterConfig { other: Some(other.path().to_owned()), ..ClusterConfig::default() };
    let Some((_folder, cluster)) = small_with(config).await else { return };
    inject_each(&cluster, &["version"]).await;
    let runs = |name: &str| std::fs::read_link(format!("/proc/{}/exe", cluster.pid(name).unwrap())).unwrap();
    for node in cluster.nodes() {
        assert_eq!(runs(&node.name), bin.canonicalize().unwrap().join("seriatim"), "{}", node.name);
    }
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_start_is_no_fault_that_took_effect() {
    let other = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/bin/false", other.path().join("seriatim")).unwrap();
    let config = ClusterConfig { other: Some(other.path().to_owned()), ..ClusterConfig::default() };
    let Some((_folder, cluster)) = small_with(config).await else { return };
    let kind = Catalogue::select(&["other-store"]).unwrap()[0];
    let mut nemesis = (kind.make)();
    let injected = nemesis.inject(&cluster, &mut StdRng::seed_from_u64(1)).await;
    assert_eq!(injected.effect, Effect::Indeterminate, "{injected:?}");
    assert!(injected.detail.contains("it ended before it was ready"), "{injected:?}");
    let healed = nemesis.heal(&cluster).await;
    assert_eq!((healed.effect, &healed.targets), (Effect::Installed, &injected.targets), "{healed:?}");
    // Nobody ended it: the run in which it happens is not good.
    assert_eq!(cluster.ended_by_themselves().len(), 1);
    cluster.wait_until_serving(PATIENCE).await.unwrap();
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_its_disk_gets_it_back() {
    let Some((_folder, cluster)) = small(NetworkMode::Auto).await else { return };
    inject_each(&cluster, &["damage-lost"]).await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_heals_everything_that_it_injects() {
    let Some((_folder, cluster)) = small(NetworkMode::Namespaces).await else { return };
    let prefix = cluster.prefix().unwrap().to_owned();
    let faults: Mutex<Vec<Fault>> = Mutex::default();
    let kinds = Catalogue::select(&["kill", "pause", "partition", "packet"]).unwrap();
    let origin = Instant::now();
    let until = origin + Duration::from_secs(20);
    run_schedule(&cluster, Schedule::new(kinds, 7), origin, until, |fault| faults.lock().push(fault)).await;
    let faults = faults.into_inner();
    let numbers = |act: Act| -> BTreeSet<u64> {
        faults.iter().filter(|fault| fault.act == act).map(|fault| fault.number).collect()
    };
    assert!(numbers(Act::Inject).len() >= 3, "{faults:?}");
    assert_eq!(numbers(Act::Inject), numbers(Act::Heal));
    assert!(faults.iter().any(|fault| fault.effect == Effect::Installed), "{faults:?}");
    assert!(!leftovers(&prefix).iter().any(|left| left.starts_with("table")), "{:?}", leftovers(&prefix));
    cluster.wait_until_serving(PATIENCE).await.unwrap();
    let report = cluster.shutdown().await.unwrap();
    assert_eq!(report.ended_by_themselves, Vec::new());
    assert_eq!(leftovers(&prefix), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_loopback_faults_of_the_network_are_skipped_not_claimed() {
    let Some((_folder, cluster)) = small(NetworkMode::Loopback).await else { return };
    for kind in Catalogue::select(&["partition", "packet"]).unwrap() {
        let mut nemesis = (kind.make)();
        let Done { effect, detail, .. } = nemesis.inject(&cluster, &mut StdRng::seed_from_u64(1)).await;
        assert_eq!(effect, Effect::Skipped, "{}: {detail}", kind.name);
        assert_eq!(nemesis.heal(&cluster).await.effect, Effect::Skipped);
    }
    cluster.shutdown().await.unwrap();
}
