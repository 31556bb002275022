//! A full disk under the stores: writes are refused with a clear code, reads go on, and nothing is lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::Cluster;
use seriatim_client::{Client, Conversation, RequestError};
use seriatim_proto::error::ErrorCode;

/// Size of the file system under the test.
const DISK: &str = "1500m";

/// A small file system of its own; gone with the test.
struct Disk(PathBuf);

impl Disk {
    /// `None` where mounting is not allowed.
    fn mount(folder: &Path) -> Option<Disk> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "seriatim-test"])
            .arg(folder)
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Disk(folder.to_owned()))
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
    let Some(disk) = Disk::mount(folder.path()) else {
        eprintln!("skipped: mounting a small file system is not allowed here (root is needed)");
        return;
    };
    let cluster = Cluster::start_in(folder.path().to_owned());
    let alice = cluster.device("alice", "phone").await;
    let to_bob = || Conversation::peer("bob").unwrap();
    alice.send(to_bob(), "before").await.unwrap();

    disk.fill(16 << 20);
    let hasty = cluster.builder("hasty").token(cluster.token("alice", 3600)).request_timeout(Duration::from_secs(2));
    let hasty = hasty.connect().await.unwrap();
    let deadline = std::time::Instant::now() + common::PATIENCE;
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
    common::wait_until_async("bob has everything", async || everything(&bob).await > acked).await;
    assert_eq!(everything(&bob).await, acked + 1);
    drop(cluster);
}
