//! Every named point of the test build is passed by some node of a short run: one that is passed by nobody could hide
//! a crash there for ever.
//!
//! The binaries are looked for in `$SERIATIM_BIN`, else beside the test's own target folder; without them, and without
//! network namespaces, the test is skipped, and says so.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use seriatim_jepsen::cluster::{Build, CHAOS_PROGRAM, Cluster, ClusterConfig, Flow, NetworkKind, Role};
use seriatim_jepsen::workload::{Clock, Site, Workload, WorkloadKind, WorkloadOptions};
use seriatim_proto::chaos::Point;
use seriatim_proto::limits;

/// Operations that are answered before the first step.
const ANSWERED: u64 = 1_000;
/// Longest wait for a point that must be passed, and for what a step needs.
const PATIENCE: Duration = Duration::from_secs(10);
/// Times that a leader is cut off until it has entries that nobody else has.
const CUTS_MAX: u32 = 3;
/// Pause between two looks.
const POLL: Duration = Duration::from_millis(200);

fn binaries() -> Option<PathBuf> {
    let told = std::env::var_os("SERIATIM_BIN").map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned());
    let folder = told.or_else(beside)?;
    let found = [CHAOS_PROGRAM, "raftctl"].iter().all(|name| folder.join(name).is_file());
    if !found {
        eprintln!("skipped: there are no binaries {CHAOS_PROGRAM} (cargo build --features chaos) and raftctl");
    }
    found.then_some(folder)
}

/// A cluster, and which points its nodes were seen to pass.
struct Watched {
    cluster: Cluster,
    passed: BTreeMap<Point, BTreeSet<String>>,
}

impl Watched {
    /// Looks at all nodes that answer. Before a node ends: what it counted ends with it.
    async fn look(&mut self) {
        for node in self.cluster.nodes() {
            let Ok(metrics) = self.cluster.metrics(&node.name).await else { continue };
            for point in Point::ALL {
                let sample = format!("chaos_hits_total{{point=\"{}\"}}", point.name());
                if metrics.iter().any(|(name, count)| name.ends_with(&sample) && *count > 0.0) {
                    self.passed.entry(*point).or_default().insert(node.name.clone());
                }
            }
        }
    }

    fn has_passed(&self, point: Point) -> bool {
        self.passed.contains_key(&point)
    }

    fn missing(&self) -> Vec<&'static str> {
        Point::ALL.iter().filter(|point| !self.has_passed(**point)).map(|point| point.name()).collect()
    }

    /// The store that leads group 1.
    async fn leader(&self) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(leader) = self.cluster.leaders().await.remove(&1) {
                return leader;
            }
            assert!(Instant::now() < deadline, "nobody leads group 1");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn until(&self, what: &str, mut holds: impl AsyncFnMut(&Cluster) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(&self.cluster).await {
            assert!(Instant::now() < deadline, "never: {what}");
            tokio::time::sleep(POLL).await;
        }
    }

    async fn wait_for(&mut self, point: Point) {
        let deadline = Instant::now() + PATIENCE;
        while !self.has_passed(point) && Instant::now() < deadline {
            self.look().await;
            tokio::time::sleep(POLL).await;
        }
    }

    /// A follower comes back behind the end of the log.
    async fn leave_behind(&mut self) -> anyhow::Result<()> {
        let leader = self.leader().await;
        let follower = self.cluster.names(Role::Store).into_iter().find(|name| *name != leader);
        let follower = follower.context("there is one store only")?;
        self.look().await;
        let has = self.cluster.logs().await.get(&(1, follower.clone())).context("find its log")?.last;
        self.cluster.kill(&follower).await?;
        let purged = async |cluster: &Cluster| {
            cluster.logs().await.get(&(1, leader.clone())).is_some_and(|log| log.purged > has)
        };
        self.until("the leader purges what the follower lacks", purged).await;
        self.cluster.start_node(&follower).await?;
        self.wait_for(Point::SnapshotInstalled).await;
        Ok(())
    }

    /// A leader goes on alone, and must take back what it wrote.
    async fn depose(&mut self) -> anyhow::Result<()> {
        let leader = self.leader().await;
        let others = self.cluster.names(Role::Store).into_iter().filter(|name| *name != leader);
        let flow = |from: &str, to: &str| Flow::Between { from: from.to_owned(), to: to.to_owned() };
        let flows = others.flat_map(|other| [flow(&leader, &other), flow(&other, &leader)]).collect();
        let cut = self.cluster.cut(&flows, 100).await?;
        let deposed = async |cluster: &Cluster| cluster.leaders().await.get(&1).is_some_and(|now| *now != leader);
        self.until("another leads", deposed).await;
        let others = self.cluster.logs().await;
        let reached = others.iter().filter(|((group, _), _)| *group == 1).map(|(_, log)| log.last).max();
        let reached = reached.context("find the logs")?;
        self.cluster.mend(cut).await?;
        // Then it has taken back what it wrote alone.
        let followed = async |cluster: &Cluster| {
            let leads = cluster.leaders().await.get(&1).is_none_or(|now| *now == leader);
            !leads && cluster.logs().await.get(&(1, leader.clone())).is_some_and(|log| log.last > reached)
        };
        self.until("it follows", followed).await;
        self.look().await;
        Ok(())
    }

    /// A holder is gone past its lease.
    async fn take_over(&mut self) -> anyhow::Result<()> {
        self.look().await;
        self.cluster.kill("logic-1").await?;
        let taken = async |cluster: &Cluster| {
            cluster.slot_holders().await.get("logic-2").is_some_and(|held| *held == u32::from(limits::SLOTS))
        };
        self.until("the other one holds every slot", taken).await;
        self.cluster.start_node("logic-1").await?;
        self.wait_for(Point::LeaseExpire).await;
        Ok(())
    }

    /// A store has lost its log: each of its replicas is found rotten and is rebuilt. Then it has lost its votes too: all
    /// of it is set aside.
    async fn rot(&mut self) -> anyhow::Result<()> {
        let leader = self.leader().await;
        let follower = self.cluster.names(Role::Store).into_iter().find(|name| *name != leader);
        let follower = follower.context("there is one store only")?;
        self.look().await;
        self.cluster.kill(&follower).await?;
        let data = self.cluster.data_dir(&follower);
        std::fs::remove_dir_all(data.join("log.db"))?;
        self.cluster.start_node(&follower).await?;
        self.wait_for(Point::ReplicaRotten).await;
        self.wait_for(Point::ReplicaRetired).await;
        self.cluster.kill(&follower).await?;
        std::fs::OpenOptions::new().write(true).open(data.join("watermark"))?.set_len(10)?;
        self.cluster.start_node(&follower).await?;
        self.wait_for(Point::StoreSetAside).await;
        Ok(())
    }

    /// A leader stops in order, and gives its groups away.
    async fn hand_over(&mut self) -> anyhow::Result<()> {
        let leader = self.leader().await;
        self.look().await;
        self.cluster.stop(&leader).await?;
        self.cluster.start_node(&leader).await?;
        self.wait_for(Point::TransferReceive).await;
        Ok(())
    }
}

/// Ends the process that it holds.
struct Held(std::process::Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A task that panics could otherwise be caught by its runtime, and a store that broke a rule go on answering.
#[test]
fn a_broken_rule_ends_a_store_at_once() {
    let Some(folder) = binaries() else { return };
    let data = tempfile::tempdir().unwrap();
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let program = folder.join(CHAOS_PROGRAM);
    let store = std::process::Command::new(&program)
        .args(["store", "--insecure-plaintext", "--listen", &address, "--data-dir"])
        .arg(data.path())
        .env("SERIATIM_CHAOS", "seed=1;log.write.before=panic@1/1")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn();
    let mut store = Held(store.unwrap());
    let mut ready = String::new();
    std::io::BufReader::new(store.0.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
    assert!(ready.contains("ready"), "{ready}");
    // It makes the store write its first log entry, of which there will be no answer.
    let made =
        std::process::Command::new(&program).args(["init", "--insecure-plaintext", "--stores", &address]).spawn();
    let _made = Held(made.unwrap());
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = store.0.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "a store whose log writer panicked is still there");
        std::thread::sleep(POLL);
    };
    let said = std::io::read_to_string(store.0.stderr.take().unwrap()).unwrap();
    assert_eq!(status.signal(), Some(6), "{status}: {said}");
    assert!(said.contains("chaos: panicked at log.write.before"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_point_is_passed_by_some_node() {
    let Some(bin) = binaries() else { return };
    let began = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let config = ClusterConfig {
        stores: 3,
        logic: 2,
        gateways: 1,
        groups: 2,
        folder: folder.path().join("cluster"),
        bin,
        program: Build::ChaosLow.program().to_owned(),
        env: Build::ChaosLow.env(1),
        ..ClusterConfig::default()
    };
    let cluster = Cluster::start(config).await.expect("the cluster starts");
    if cluster.network() == NetworkKind::Loopback {
        eprintln!("skipped: a leader cannot be cut off on the loopback");
        return;
    }
    let options = WorkloadOptions { kind: WorkloadKind::Mix, seed: 1, rate: 500, keys: 6, users: 12 };
    let site = Site::of(&cluster).unwrap();
    let mut workload = Workload::new(options, site, Clock::start(), folder.path()).unwrap();
    workload.prepare().await.unwrap();
    workload.begin();
    let mut watched = Watched { cluster, passed: BTreeMap::new() };
    watched.until("clients are answered", async |_: &Cluster| workload.counts()[0] >= ANSWERED).await;
    watched.leave_behind().await.unwrap();
    for _ in 0..CUTS_MAX {
        if !watched.has_passed(Point::LogTruncate) {
            watched.depose().await.unwrap();
        }
    }
    watched.take_over().await.unwrap();
    watched.hand_over().await.unwrap();
    watched.rot().await.unwrap();
    workload.stop().await.unwrap();
    watched.look().await;
    let (missing, ends) = (watched.missing(), watched.cluster.ended_by_themselves());
    eprintln!("{} of {} points after {:?}", watched.passed.len(), Point::ALL.len(), began.elapsed());
    watched.cluster.shutdown().await.unwrap();
    assert!(ends.is_empty(), "nobody was told to crash: {ends:?}");
    assert!(missing.is_empty(), "passed by nobody: {}", missing.join(", "));
}
