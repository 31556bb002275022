//! Limits of tenants and users, on a real cluster.

use std::time::Duration;

use crate::common::Cluster;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use seriatim_client::{Client, Conversation};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::Seq;
use seriatim_proto::playground::PlaygroundRole;

fn raftctl(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut all = vec!["--playground", cluster.data().to_str().unwrap(), "tenant"];
    all.extend(arguments);
    crate::common::run(&crate::common::sibling("raftctl"), &all)
}

/// `(limit, what is set, what was before)` of one answer.
fn limits(cluster: &Cluster, arguments: &[&str]) -> Vec<(String, Option<u64>, Option<u64>)> {
    let mut all = vec!["-o", "json"];
    all.extend(arguments);
    let (exit, out, error) = raftctl(cluster, &all);
    assert_eq!(exit, Some(0), "{error}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    let items = answer["items"].as_array().unwrap().iter();
    items
        .map(|item| (item["limit"].as_str().unwrap().to_owned(), item["perSecond"].as_u64(), item["before"].as_u64()))
        .collect()
}

fn set_ones(limits: Vec<(String, Option<u64>, Option<u64>)>) -> Vec<(String, u64)> {
    limits.into_iter().filter_map(|(name, rate, _)| Some((name, rate?))).collect()
}

/// What the logic nodes have refused because of a limit.
fn over_quota(cluster: &Cluster, limit: &str) -> u64 {
    let label = format!("_over_quota_total{{limit=\"{limit}\"}} ");
    let nodes = cluster.about.nodes.iter().filter(|node| node.role == PlaygroundRole::Logic);
    let counts = nodes.map(|node| {
        let text = crate::common::metrics(&node.metrics);
        assert!(text.contains("seriatim_logic_slots_held"), "{text}");
        let line = text.lines().find_map(|line| line.split_once(&label));
        line.map_or(0, |(_, count)| count.parse::<u64>().unwrap())
    });
    counts.sum()
}

async fn entries(client: &Client) -> Vec<String> {
    let (mut texts, mut cursor) = (Vec::new(), None);
    loop {
        let page = client.sync(cursor, 1_000).await.unwrap();
        texts.extend(page.entries.iter().filter_map(|entry| match &entry.body {
            seriatim_client::EntryBody::Here { body, .. } => Some(String::from_utf8(body.to_vec()).unwrap()),
            _ => None,
        }));
        cursor = Some(page.upto);
        if !page.more {
            return texts;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_a_tenant_hold_on_all_nodes_lose_nothing_and_survive_a_restart() {
    let mut cluster = Cluster::start();
    // Nothing is set: every limit is named.
    let (exit, out, _) = raftctl(&cluster, &["ls"]);
    assert!(exit == Some(0) && !out.contains("per-s"), "{out}");
    assert_eq!(set_ones(limits(&cluster, &["show", "1"])), []);
    let (_, out, _) = raftctl(&cluster, &["show", "1"]);
    for limit in seriatim_proto::meta::Limit::ALL {
        assert!(out.contains(limit.name()) && out.contains(limit.help()), "{out}");
    }

    // What cannot be meant says so and changes nothing.
    for (arguments, code, text) in [
        (&["set", "1"][..], 2, "NAME=VALUE"),
        (&["set", "1", "speed=5"], 2, "tenant-writes-per-s"),
        (&["set", "1", "user-writes-per-s=-5"], 2, "no number"),
        (&["set", "1", "user-writes-per-s"], 2, "NAME=VALUE"),
        (&["set", "1", "user-writes-per-s=5", "user-writes-per-s=6"], 2, "twice"),
        (&["set", "4294967295", "user-writes-per-s=5"], 2, "no tenant"),
        (&["show", "acme"], 2, "acme"),
    ] {
        let (exit, _, error) = raftctl(&cluster, arguments);
        assert!(exit == Some(code) && error.contains(text), "{arguments:?}: {exit:?} {error}");
    }
    let plan = limits(&cluster, &["set", "1", "user-writes-per-s=5", "--dry-run"]);
    assert!(plan.contains(&("user-writes-per-s".to_owned(), Some(5), None)), "{plan:?}");
    assert_eq!(set_ones(limits(&cluster, &["show", "1"])), []);

    // A user over his limit is held up, and nothing of his is lost or doubled; the SDK does the waiting.
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let peer = Conversation::peer("bob").unwrap();
    alice.send(peer.clone(), "before").await.unwrap();
    assert_eq!(over_quota(&cluster, "user-writes-per-s"), 0);
    limits(&cluster, &["set", "1", "user-writes-per-s=5", "tenant-bytes-per-s=1000000"]);
    let mut sent = vec!["before".to_owned()];
    crate::common::wait_until_async("the limit is felt", async || {
        let burst: Vec<String> = (0..12).map(|n| format!("{}", sent.len() + n)).collect();
        let outcomes = join_all(burst.iter().map(|text| alice.send(peer.clone(), text.clone()))).await;
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        sent.extend(burst);
        over_quota(&cluster, "user-writes-per-s") > 0
    })
    .await;
    crate::common::wait_until_async("bob has it all", async || entries(&bob).await.len() >= sent.len()).await;
    let mut got = entries(&bob).await;
    got.sort();
    sent.sort();
    assert_eq!(got, sent);
    // Nobody else felt it: another tenant's alice has the nodes' own limits.
    assert_eq!(set_ones(limits(&cluster, &["show", "2"])), []);
    let refused = over_quota(&cluster, "user-writes-per-s");
    let other = cluster.builder("phone").token(cluster.token_of(2, "alice")).connect().await.unwrap();
    let outcomes = join_all((0..40).map(|n| other.send(peer.clone(), n.to_string()))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(over_quota(&cluster, "user-writes-per-s"), refused);
    assert_eq!(over_quota(&cluster, "tenant-bytes-per-s"), 0);

    // 0 refuses everything, at once and with its code; what is not limited goes on.
    let before = limits(&cluster, &["set", "1", "user-writes-per-s=0"]);
    assert!(before.contains(&("user-writes-per-s".to_owned(), Some(0), Some(5))), "{before:?}");
    let hasty = cluster.builder("desk").token(cluster.token("alice", 3600)).request_timeout(Duration::from_secs(2));
    let hasty = hasty.connect().await.unwrap();
    let mut through = Vec::new();
    crate::common::wait_until_async("writes are refused", async || {
        let text = format!("late {}", through.len());
        match hasty.send(peer.clone(), text.clone()).await {
            Ok(_) => through.push(text),
            Err(error) => {
                assert_eq!(error.refusal().code, ErrorCode::QuotaExceeded, "{error}");
                assert!(error.to_string().contains("user-writes-per-s=0"), "{error}");
                return true;
            }
        }
        false
    })
    .await;
    // Wherever the conversation lives: both nodes know by then.
    let peers = (0..12).map(|n| Conversation::peer(&format!("peer-{n}")).unwrap());
    let outcomes = join_all(peers.map(|peer| hasty.send(peer, Bytes::from_static(b"never")))).await;
    for outcome in outcomes {
        let refused = outcome.unwrap_err();
        assert_eq!(refused.refusal().code, ErrorCode::QuotaExceeded, "{refused}");
        assert!(!refused.is_unknown(), "nothing of it happened: {refused}");
    }
    other.send(peer.clone(), "the other tenant goes on").await.unwrap();
    sent.extend(through);
    sent.sort();
    crate::common::wait_until_async("bob has it all", async || entries(&bob).await.len() >= sent.len()).await;
    let (exit, _, error) = {
        let playground = cluster.data().to_str().unwrap();
        let arguments = ["--playground", playground, "--timeout", "3s", "send", "--as", "alice", "--to", "bob", "x"];
        crate::common::run(&crate::common::sibling("raftctl"), &arguments)
    };
    assert!(exit == Some(6) && error.contains("QUOTA_EXCEEDED"), "{exit:?} {error}");

    // Limits survive a restart of everything, and a new node knows them from its first request on.
    drop((alice, bob, hasty, other));
    cluster.restart();
    let set = vec![("tenant-bytes-per-s".to_owned(), 1_000_000), ("user-writes-per-s".to_owned(), 0)];
    assert_eq!(set_ones(limits(&cluster, &["show", "1"])), set);
    let (_, out, _) = raftctl(&cluster, &["ls"]);
    assert!(out.contains("tenant-bytes-per-s=1000000 user-writes-per-s=0"), "{out}");
    let hasty = cluster.builder("desk").token(cluster.token("alice", 3600)).request_timeout(Duration::from_secs(2));
    let hasty = hasty.connect().await.unwrap();
    let refused = hasty.send(peer.clone(), "never").await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::QuotaExceeded, "{refused}");

    // A subscription that may read nothing waits, and has everything once it may.
    let (bob, desk) = (cluster.device("bob", "phone").await, cluster.device("bob", "desk").await);
    limits(&cluster, &["set", "1", "user-reads-per-s=0"]);
    crate::common::wait_until_async("reads are refused", async || {
        let short = cluster.builder("watch").token(cluster.token("bob", 3600)).request_timeout(Duration::from_secs(2));
        let read = short.connect().await.unwrap().sync(None, 1).await;
        read.is_err_and(|error| error.refusal().code == ErrorCode::QuotaExceeded)
    })
    .await;
    let refused = over_quota(&cluster, "user-reads-per-s");
    let mut pushed = desk.subscribe(Seq::FIRST, None);
    crate::common::wait_until("the subscription's reads are refused", || {
        over_quota(&cluster, "user-reads-per-s") > refused
    });
    limits(&cluster, &["set", "1", "user-reads-per-s=default"]);
    for _ in &sent {
        tokio::time::timeout(crate::common::PATIENCE, pushed.next()).await.unwrap().unwrap().unwrap();
    }
    drop((bob, desk));

    // Back: everything goes through again.
    let after = limits(&cluster, &["reset", "1"]);
    assert!(after.contains(&("user-writes-per-s".to_owned(), None, Some(0))), "{after:?}");
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    alice.send(peer, "after").await.unwrap();
    sent.push("after".to_owned());
    sent.sort();
    crate::common::wait_until_async("bob has it all", async || entries(&bob).await.len() >= sent.len()).await;
    let mut got = entries(&bob).await;
    got.sort();
    assert_eq!(got, sent);
}
