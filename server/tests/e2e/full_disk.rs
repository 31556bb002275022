//! A full disk under the stores: writes are refused with a clear code, reads go on, and nothing is lost.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::Cluster;
use seriatim_client::{Client, Conversation, RequestError, SendRequest};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::MessageId;
use seriatim_proto::playground::PlaygroundRole;

/// Size of the file system under all stores of a test.
const SHARED: &str = "1500m";
/// Size of one store's own.
const OWN: &str = "300m";

/// A small file system of its own; gone with the test.
struct Disk(PathBuf);

impl Disk {
    /// `None` where mounting is not allowed.
    fn mount(folder: &Path, size: &str) -> Option<Disk> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "seriatim-test"])
            .arg(folder)
            .status();
        let mounted = mounted.is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("skipped: mounting a small file system is not allowed here (root is needed)");
        }
        mounted.then(|| Disk(folder.to_owned()))
    }

    /// Leaves `free_bytes` to the others.
    fn fill(&self, free_bytes: u64) {
        let stat = Command::new("df").args(["--output=avail", "-B1"]).arg(&self.0).output().unwrap();
        let text = String::from_utf8(stat.stdout).unwrap();
        let available: u64 = text.lines().last().unwrap().trim().parse().unwrap();
        let length = available.saturating_sub(free_bytes).to_string();
        let done = Command::new("fallocate").args(["-l", &length]).arg(self.0.join("ballast")).status();
        assert!(done.unwrap().success());
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// How many entries an inbox has.
async fn everything(device: &Client) -> usize {
    let (mut count, mut from) = (0, None);
    loop {
        let page = device.sync(from, 0).await.unwrap();
        count += page.entries.len();
        from = Some(page.upto);
        if !page.more {
            return count;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::mount(folder.path(), SHARED) else { return };
    let cluster = Cluster::start_in(folder.path().to_owned());
    let alice = cluster.device("alice", "phone").await;
    let to_bob = || Conversation::peer("bob").unwrap();
    alice.send(to_bob(), "before").await.unwrap();

    disk.fill(16 << 20);
    let hasty = cluster.builder("hasty").token(cluster.token("alice", 3600)).request_timeout(Duration::from_secs(2));
    let hasty = hasty.connect().await.unwrap();
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    let mut acked = 1;
    // A send that had its number when the disk filled keeps it and waits: its outcome is unknown until it is sent
    // again under its id.
    let mut unknown = Vec::new();
    let refusal = loop {
        let request = hasty.prepare(to_bob(), "while full");
        match hasty.send_request(request.clone()).await {
            Ok(_) => acked += 1,
            Err(RequestError::Rejected(refusal)) => break refusal,
            Err(RequestError::Unknown(_)) => unknown.push(request),
        }
        assert!(std::time::Instant::now() < deadline, "the full disk is noticed");
    };
    assert_eq!(refusal.code, ErrorCode::ReadOnly, "{refusal}");
    // Reads go on. Every ack is in the conversation; inboxes follow when there is space again.
    let (mut history, mut from) = (0, None);
    loop {
        let page = alice.history(&to_bob(), from, 0).await.unwrap();
        history += page.entries.len();
        from = Some(page.upto);
        if !page.more {
            break;
        }
    }
    assert!((acked..=acked + unknown.len()).contains(&history), "{acked} acked, {history} there");
    assert!(alice.sync(None, 0).await.unwrap().entries.len() <= history);

    disk.empty();
    for request in unknown {
        alice.send_request(request).await.unwrap();
        acked += 1;
    }
    alice.send(to_bob(), "after").await.unwrap();
    let bob = cluster.device("bob", "phone").await;
    crate::common::wait_until_async("bob has everything", async || everything(&bob).await > acked).await;
    assert_eq!(everything(&bob).await, acked + 1);
    drop(cluster);
}

/// Stores that run.
fn running(cluster: &Cluster) -> Vec<String> {
    let nodes = cluster.status().into_iter();
    nodes.filter(|node| node.role == PlaygroundRole::Store && node.pid.is_some()).map(|node| node.name).collect()
}

/// Sends large messages one after another until `enough`; those that are acked go to `acked`, those of which nobody
/// knows to `unknown`.
async fn send_until(
    sender: &Client,
    acked: &mut Vec<SendRequest>,
    unknown: &mut Vec<SendRequest>,
    mut enough: impl FnMut(usize) -> bool,
) {
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    let begun = acked.len();
    while !enough(acked.len() - begun) {
        assert!(std::time::Instant::now() < deadline, "waited too long; {} acked", acked.len() - begun);
        let request = sender.prepare(Conversation::peer("bob").unwrap(), vec![b'x'; 60_000]);
        match sender.send_request(request.clone()).await {
            Ok(_) => acked.push(request),
            Err(RequestError::Rejected(refusal)) => assert!(
                [ErrorCode::Busy, ErrorCode::Unavailable, ErrorCode::Backlogged].contains(&refusal.code),
                "{refusal}"
            ),
            Err(RequestError::Unknown(_)) => unknown.push(request),
        }
    }
}

/// Nothing holds the writes back before the disk does: what the reserve is there to prevent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_without_a_byte_left_stops_and_nothing_acked_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let mut disks = Vec::new();
    for store in ["store-1", "store-2", "store-3"] {
        std::fs::create_dir(folder.path().join(store)).unwrap();
        let Some(disk) = Disk::mount(&folder.path().join(store), OWN) else { return };
        disks.push(disk);
    }
    let cluster = Cluster::start_with(folder.path().to_owned(), &["--disk-reserve-bytes", "0"]);
    let sender = cluster.builder("phone").token(cluster.token("alice", 3600)).request_timeout(Duration::from_secs(2));
    let sender = sender.connect().await.unwrap();
    let (mut acked, mut unknown) = (Vec::new(), Vec::new());
    send_until(&sender, &mut acked, &mut unknown, |count| count >= 20).await;

    // One of three: it stops at the first write that fails, and says why. The others go on.
    disks[0].fill(0);
    send_until(&sender, &mut acked, &mut unknown, |_| running(&cluster) == ["store-2", "store-3"]).await;
    send_until(&sender, &mut acked, &mut unknown, |count| count >= 20).await;
    let said = std::fs::read_to_string(folder.path().join("logs/store-1.log")).unwrap();
    assert!(said.contains("No space left on device") && said.contains("failed to go on as a store"), "{said}");

    // A second: no majority, no acks.
    disks[1].fill(0);
    send_until(&sender, &mut acked, &mut unknown, |_| running(&cluster) == ["store-3"]).await;
    let had = acked.len();
    let lost = sender.send(Conversation::peer("bob").unwrap(), "to nobody").await;
    assert!(lost.is_err() && acked.len() == had, "{lost:?}");

    // With room they come back by themselves, with everything that was acked, once.
    for (disk, store) in disks.iter().zip(["store-1", "store-2"]) {
        disk.empty();
        cluster.start_node(store);
    }
    let patient = cluster.device("alice", "laptop").await;
    for request in unknown.drain(..) {
        patient.send_request(request.clone()).await.unwrap();
        acked.push(request);
    }
    let bob = cluster.device("bob", "phone").await;
    let ids: HashSet<_> = acked.iter().map(|request| request.message_id).collect();
    let mut seen: Vec<_> = Vec::new();
    crate::common::wait_until_async("bob has everything", async || {
        seen = messages(&bob).await;
        ids.iter().all(|id| seen.contains(id))
    })
    .await;
    // The one to nobody may have come, or not.
    assert!(seen.len() <= ids.len() + 1, "{} for {}", seen.len(), ids.len());
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len(), "each once");
    drop(cluster);
}

/// Ids of all messages of an inbox, in its order.
async fn messages(device: &Client) -> Vec<MessageId> {
    let (mut ids, mut from) = (Vec::new(), None);
    loop {
        let page = device.sync(from, 0).await.unwrap();
        ids.extend(page.entries.iter().map(|entry| entry.message_id));
        from = Some(page.upto);
        if !page.more {
            return ids;
        }
    }
}
