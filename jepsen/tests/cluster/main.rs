//! Clusters of real processes: they start, can be hurt, and leave nothing behind.
//!
//! The binaries are looked for in `$SERIATIM_BIN`, else beside the test's own target folder; without them the tests
//! are skipped, and say so.

mod faults;
mod start;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use seriatim_jepsen::cluster::{Cluster, ClusterConfig, NetworkMode};

/// Longest wait for a level that must come about.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for a connection on one machine, short enough to wait for one that must fail.
const CONNECT_PATIENCE: Duration = Duration::from_millis(700);

fn binaries() -> Option<PathBuf> {
    let told = std::env::var_os("SERIATIM_BIN").map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned());
    let folder = told.or_else(beside)?;
    let complete = ["seriatim", "raftctl"].iter().all(|name| folder.join(name).is_file());
    if !complete {
        eprintln!("skipped: there are no binaries seriatim and raftctl in {}; set SERIATIM_BIN", folder.display());
    }
    complete.then_some(folder)
}

/// A small cluster in a folder that goes with the test; `None` without binaries.
async fn small(network: NetworkMode) -> Option<(tempfile::TempDir, Cluster)> {
    small_with(ClusterConfig { network, ..ClusterConfig::default() }).await
}

/// The same, bent by what the test needs.
async fn small_with(config: ClusterConfig) -> Option<(tempfile::TempDir, Cluster)> {
    let bin = binaries()?;
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().to_owned();
    let config = ClusterConfig { stores: 3, logic: 2, gateways: 1, groups: 2, folder: path, bin, ..config };
    Some((folder, Cluster::start(config).await.expect("the cluster starts")))
}

async fn wait_until(what: &str, mut level: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !level().await {
        assert!(Instant::now() < deadline, "{what}: not after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
