//! Verify: what `raftctl user verify` says of inboxes at the end: the product's own proof, from every replica.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::stream::{self, StreamExt};
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use crate::cluster::{Cluster, RaftctlAnswer, Role};

/// All users are verified up to this many, else so many of them.
const USERS_MAX: usize = 50;
/// Verifications at the same time.
const VERIFYING: usize = 2;
/// How long replicas may take to be readable after everything is healed.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one comparison of all replicas may take: a store makes its digests one behind the other at 2 MiB/s, and one
/// that has a replica of every group has some fifty MiB after three minutes of the mix.
const COMPARISON: &str = "120s";
/// How long the tool may take for it in all.
const COMPARISON_MAX: Duration = Duration::from_secs(150);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// What `raftctl` exits with if it found something.
const EXIT_VIOLATION: i32 = 12;
/// What it exits with if there is no such inbox.
const EXIT_NOT_FOUND: i32 = 3;
/// `raftctl help exit-codes`: it answered, and a replica was not read.
const EXIT_UNHEALTHY: i32 = 10;

/// What came of verifying all or some users.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Verification {
    /// how many inboxes were verified, from all replicas
    pub(crate) proved: u64,
    /// whose inbox is not in order, and what was found
    pub(crate) findings: Vec<String>,
    /// whose inbox could not be verified, and why
    pub(crate) unproved: Vec<String>,
}

/// What one verification came to.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Proof {
    Proved,
    Found(String),
    /// not now
    Unread(String),
}

/// What a comparison of all replicas came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Compared {
    /// so many are the same as the others of their groups
    Same(usize),
    Differ(String),
    /// not all were compared
    Unknown(String),
}

/// Has every group compare the rows of its replicas at one entry, and waits for what comes of it.
pub(crate) async fn compare(cluster: &Cluster) -> Compared {
    let until = Instant::now() + PATIENCE;
    loop {
        let words = ["check", "replicas", "--wait", COMPARISON];
        let compared = match cluster.raftctl_answer_within(&words, COMPARISON_MAX).await {
            Ok(answer) => judge_comparison(&answer),
            Err(error) => Compared::Unknown(format!("{error:#}")),
        };
        if !matches!(compared, Compared::Unknown(_)) || Instant::now() >= until {
            return compared;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn judge_comparison(answer: &RaftctlAnswer) -> Compared {
    let items = || answer.json.get("items").and_then(Value::as_array).into_iter().flatten();
    let verdict = |item: &Value| item.get("verdict").and_then(Value::as_str).unwrap_or_default().to_owned();
    match answer.exit {
        EXIT_VIOLATION => {
            let wrong: Vec<String> = items().filter(|item| verdict(item) != "same").map(Value::to_string).collect();
            Compared::Differ(wrong.join(", "))
        }
        0 if items().next().is_some() && items().all(|item| verdict(item) == "same") => Compared::Same(items().count()),
        exit => {
            Compared::Unknown(format!("raftctl check replicas exits with {exit}: {} {}", answer.stderr, answer.json))
        }
    }
}

/// Verifies all users, or some of them.
pub(crate) async fn verify(cluster: &Cluster, users: &[String], seed: u64) -> Verification {
    let mut rng = StdRng::seed_from_u64(seed);
    let sample: Vec<String> = users.sample(&mut rng, USERS_MAX.min(users.len())).cloned().collect();
    let until = Instant::now() + PATIENCE;
    let proofs = stream::iter(sample.into_iter().map(|user| verify_one(cluster, user, until)));
    let mut verification = Verification::default();
    for (user, proof) in proofs.buffer_unordered(VERIFYING).collect::<Vec<_>>().await {
        match proof {
            Proof::Proved => verification.proved += 1,
            Proof::Found(what) => verification.findings.push(format!("{user}: {what}")),
            Proof::Unread(why) => verification.unproved.push(format!("{user}: {why}")),
        }
    }
    verification
}

async fn verify_one(cluster: &Cluster, user: String, until: Instant) -> (String, Proof) {
    loop {
        let proof = match raftctl(cluster, &user).await {
            Ok((exit, said)) => judge(exit, &said),
            Err(error) => Proof::Unread(format!("{error:#}")),
        };
        let Proof::Unread(_) = &proof else { return (user, proof) };
        if Instant::now() >= until {
            return (user, proof);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Runs `raftctl user verify`: what it exits with, and what it says on stderr.
///
/// The tool asks a gateway's certificate for the name it dials, and the certificate is for [`Cluster::server_name`]:
/// so it dials that name, in a mount namespace whose `/etc/hosts` leads to the gateway.
async fn raftctl(cluster: &Cluster, user: &str) -> anyhow::Result<(i32, String)> {
    let (_, gateway) = cluster.gateways().first().cloned().context("the cluster has no gateway")?;
    let stores = cluster.nodes().iter().filter(|node| node.role == Role::Store);
    let stores = stores.map(|node| node.address.to_string()).collect::<Vec<_>>().join(",");
    let (folder, name) = (&cluster.config().folder, cluster.server_name());
    let hosts = folder.join("hosts");
    std::fs::write(&hosts, format!("{} {name}\n", gateway.ip())).context("write the hosts file")?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", r#"mount --bind "$1" /etc/hosts && shift && exec "$@""#, "sh"])
        .arg(&hosts)
        .arg(cluster.config().bin.join("raftctl"))
        .args(["user", "verify", user, "--output", "json", "--endpoints", &stores])
        .args(["--gateway", &format!("{name}:{}", gateway.port())])
        .arg("--ca")
        .arg(folder.join("keys/ca.pem"))
        .arg("--dev-key")
        .arg(folder.join("keys/token-key.pem"))
        .args(cluster.operator_words());
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.context("raftctl does not come to an end")?;
    let output = output.context("run raftctl")?;
    Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn judge(exit: i32, said: &str) -> Proof {
    match exit {
        0 => Proof::Proved,
        // Nothing ever came: whether something should have is for the checkers, which know what was sent.
        EXIT_NOT_FOUND => Proof::Proved,
        EXIT_VIOLATION => Proof::Found(said.to_owned()),
        EXIT_UNHEALTHY => Proof::Unread(said.to_owned()),
        exit => Proof::Unread(format!("raftctl exits with {exit}: {said}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_proof_is_a_proof() {
        assert_eq!(judge(0, ""), Proof::Proved);
        assert_eq!(judge(3, "no inbox"), Proof::Proved);
        assert_eq!(judge(12, "FOUND it"), Proof::Found("FOUND it".to_owned()));
        assert_eq!(judge(10, "warning"), Proof::Unread("warning".to_owned()));
        assert!(matches!(judge(6, "no answer"), Proof::Unread(_)));
    }

    #[test]
    fn only_replicas_that_are_all_the_same_are_the_same() {
        let answer = |exit, verdicts: &[&str]| {
            let items: Vec<Value> = verdicts.iter().map(|verdict| json!({"group": 1, "verdict": verdict})).collect();
            judge_comparison(&RaftctlAnswer { exit, json: json!({"items": items}), stderr: String::new() })
        };
        assert_eq!(answer(0, &["same", "same", "same"]), Compared::Same(3));
        let Compared::Differ(what) = answer(12, &["same", "differs", "rotten"]) else { panic!() };
        assert!(what.contains("differs") && what.contains("rotten") && !what.contains("same"), "{what}");
        for (exit, verdicts) in [(0, &[][..]), (0, &["same", "no digest"]), (10, &["same"]), (6, &[])] {
            assert!(matches!(answer(exit, verdicts), Compared::Unknown(_)), "{exit} {verdicts:?}");
        }
    }
}
