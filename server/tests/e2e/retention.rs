//! What a tenant does not keep, on a real cluster: what devices and operators are told of it.

use crate::common::Cluster;
use futures_util::StreamExt;
use futures_util::future::join_all;
use seriatim_client::{Client, Conversation, EntryBody, SendRequest, SendStatus, SyncPage};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{ConversationKey, Seq, UserId};
use seriatim_proto::limits;
use seriatim_proto::playground::PlaygroundRole;

const KEPT: u64 = limits::RETENTION_MESSAGES_MIN as u64;

fn raftctl(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut all = vec!["--playground", cluster.data().to_str().unwrap()];
    all.extend(arguments);
    crate::common::run(&crate::common::sibling("raftctl"), &all)
}

fn set(cluster: &Cluster, limits: &[&str]) {
    let (exit, _, error) = raftctl(cluster, &[&["tenant", "set", "1", "--confirm", "1"], limits].concat());
    assert_eq!(exit, Some(0), "{error}");
}

fn sum(cluster: &Cluster, role: PlaygroundRole, name: &str) -> f64 {
    let nodes = cluster.about.nodes.iter().filter(|node| node.role == role);
    nodes.map(|node| crate::common::metric(&node.metrics, name).unwrap_or_else(|| panic!("{name}"))).sum()
}

async fn send(client: &Client, to: &Conversation, count: u64) {
    let outcomes = join_all((0..count).map(|n| client.send(to.clone(), n.to_string()))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

/// The last page says how it ends.
async fn everything(client: &Client) -> (Vec<seriatim_client::Entry>, SyncPage) {
    let (mut entries, mut from) = (Vec::new(), None);
    loop {
        let mut page = client.sync(from, 1_000).await.unwrap();
        entries.append(&mut page.entries);
        from = Some(page.upto);
        if !page.more {
            return (entries, page);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_away_is_told_and_nobody_sends_twice() {
    let cluster = Cluster::start();
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let peer = Conversation::peer("bob").unwrap();
    let first = alice.prepare(peer.clone(), "first");
    alice.send_request(first.clone()).await.unwrap();
    send(&alice, &peer, KEPT + 29).await;
    crate::common::wait_until_async("bob has it all", async || everything(&bob).await.0.len() as u64 == KEPT + 30)
        .await;
    let old = bob.sync(None, 10).await.unwrap().upto;

    // What cannot be meant is refused, and nothing goes.
    for (limit, text) in [("retention-s=5", "from 60 to"), ("retention-inbox-messages=99", "from 100 to")] {
        let (exit, _, error) = raftctl(&cluster, &["tenant", "set", "1", limit]);
        assert!(exit == Some(2) && error.contains(text), "{limit}: {exit:?} {error}");
    }
    let (exit, _, error) = raftctl(&cluster, &["tenant", "set", "1", "retention-inbox-messages=100"]);
    assert!(exit == Some(2) && error.contains("--confirm 1"), "{exit:?} {error}");
    assert_eq!(everything(&bob).await.0.len() as u64, KEPT + 30);

    // A hundred are kept, of inboxes and of the conversation.
    set(&cluster, &["retention-inbox-messages=100", "retention-conversation-messages=100"]);
    crate::common::wait_until_async("all but a hundred went", async || {
        let (inbox, _) = everything(&bob).await;
        let history = bob.history(&Conversation::peer("alice").unwrap(), None, 1_000).await.unwrap();
        inbox.len() as u64 == KEPT && history.entries.len() as u64 == KEPT
    })
    .await;
    let (entries, page) = everything(&bob).await;
    assert!(entries.iter().all(|entry| matches!(entry.body, EntryBody::Here { .. })), "of all that is kept");
    assert!(!page.too_long && entries[0].seq >= page.trim);
    let away = bob.sync(Some(old), 10).await.unwrap();
    assert!(away.too_long && away.trim == page.trim, "{away:?}");
    assert_eq!(away.entries.first().map(|entry| entry.seq), entries.first().map(|entry| entry.seq));

    // A retry that is too late is no second message, and is told so; the same of one that was never sent.
    let refused = alice.send_request(first.clone()).await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::Expired, "{refused}");
    let asked = alice.query_send(&peer, first.message_id, first.known).await.unwrap();
    assert_eq!(asked, SendStatus::Expired);
    let late = SendRequest { known: Seq::new(2), ..SendRequest::new(peer.clone(), "late") };
    let refused = alice.send_request(late).await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::Expired, "{refused}");
    // A new device learns the tail by History, and then it sends.
    let desk = cluster.device("alice", "desk").await;
    let refused = desk.send(peer.clone(), "from the desk").await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::Expired, "{refused}");
    desk.history(&peer, None, 1_000).await.unwrap();
    desk.send(peer.clone(), "from the desk").await.unwrap();
    let counted = |entries: &[seriatim_client::Entry]| entries.last().map(|entry| entry.ordinal);
    crate::common::wait_until_async("bob has it", async || counted(&everything(&bob).await.0) == Some(KEPT + 31)).await;

    // Inboxes keep more than the conversation: what they refer to is trimmed, and said to be.
    set(&cluster, &["retention-inbox-messages=default"]);
    send(&alice, &peer, 19).await;
    crate::common::wait_until_async("bob has it", async || counted(&everything(&bob).await.0) == Some(KEPT + 50)).await;
    set(&cluster, &["retention-inbox-messages=500"]);
    crate::common::wait_until_async("bodies are trimmed", async || {
        let (entries, _) = everything(&bob).await;
        let trimmed = entries.iter().filter(|entry| matches!(entry.body, EntryBody::Trimmed)).count();
        (entries.len() as u64, trimmed) == (KEPT + 20, 20)
    })
    .await;
    // A new device begins with what is kept.
    let fresh = cluster.device("bob", "desk").await;
    let mut pushed = fresh.subscribe(Seq::FIRST, None);
    let first = tokio::time::timeout(crate::common::PATIENCE, pushed.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(Some(first.seq), everything(&bob).await.0.first().map(|entry| entry.seq));
    assert!(fresh.sync(Some(Seq::FIRST), 1).await.is_ok_and(|page| !page.too_long && page.entries.len() == 1));
    for who in ["alice", "bob"] {
        let (exit, out, error) = raftctl(&cluster, &["user", "verify", who]);
        assert_eq!(exit, Some(0), "{who}: {out} {error}");
    }
    // Fifty of the conversation and thirty of bob's inbox; alice's may have been spared by the change of limits.
    let gone = sum(&cluster, PlaygroundRole::Store, "seriatim_store_retention_entries_total");
    assert!(gone >= 80.0, "{gone}");
    assert_eq!(sum(&cluster, PlaygroundRole::Logic, "seriatim_logic_bodies_absent_total"), 0.0);
    assert_eq!(sum(&cluster, PlaygroundRole::Store, "seriatim_store_retention_clock_doubts_total"), 0.0);

    // A group of which entries were given up changes its members as ever.
    let key = ConversationKey([7; 16]);
    let group = Conversation::Group(key);
    let (bob_id, carol) = (UserId::new("bob").unwrap(), UserId::new("carol").unwrap());
    alice.create_group(key, std::slice::from_ref(&bob_id)).await.unwrap();
    send(&alice, &group, KEPT + 10).await;
    crate::common::wait_until_async("bob has it", async || {
        everything(&bob).await.0.iter().filter(|entry| entry.conversation == group).count() as u64 == KEPT + 11
    })
    .await;
    set(&cluster, &["retention-inbox-messages=501"]);
    crate::common::wait_until_async("the group is trimmed", async || {
        alice.history(&group, None, 1_000).await.unwrap().entries.len() as u64 == KEPT
    })
    .await;
    alice.change_members(key, std::slice::from_ref(&carol), &[bob_id]).await.unwrap();
    let carols = cluster.device("carol", "phone").await;
    carols.history(&group, None, 1_000).await.unwrap();
    carols.change_members(key, &[], &[carol]).await.unwrap();
}
