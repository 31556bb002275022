//! The way of a message through a real cluster.

use std::collections::HashSet;
use std::time::Duration;

use crate::common::{Cluster, PATIENCE};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use rustix::process::Signal;
use seriatim_client::{
    Client, Conversation, Entry, EntryBody, Kind, SendRequest, SendStatus, SubscriptionError, verify_page,
};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{Chain, ConversationKey, Seq, UserId};
use seriatim_proto::playground::{NodeState, PlaygroundRole};

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn body(entry: &Entry) -> String {
    match &entry.body {
        EntryBody::Here { body, .. } => String::from_utf8(body.to_vec()).unwrap(),
        other => panic!("the body is {other:?}"),
    }
}

/// The next entries of a subscription.
async fn take(inbox: &mut (impl Stream<Item = Result<Entry, SubscriptionError>> + Unpin), count: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    while entries.len() < count {
        let next = tokio::time::timeout(PATIENCE, inbox.next()).await;
        let next = next.unwrap_or_else(|_| panic!("{} of {count} entries came", entries.len()));
        entries.push(next.unwrap().unwrap());
    }
    entries
}

/// Everything by sync, its chain verified.
async fn read_all(client: &Client, name: &str) -> Vec<Entry> {
    let (mut entries, mut from, mut chain) = (Vec::new(), None, Chain::default());
    loop {
        let page = client.sync(from, 7).await.unwrap();
        chain = verify_page(&user(name), chain, &page).unwrap();
        entries.extend(page.entries);
        if !page.more {
            return entries;
        }
        from = Some(page.upto);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_every_device_once_and_in_order() {
    let mut cluster = Cluster::start();
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let tablet = cluster.device("bob", "tablet").await;
    let (mut at_alice, mut at_bob) = (alice.subscribe(Seq::FIRST, None), bob.subscribe(Seq::FIRST, None));
    let mut at_tablet = tablet.subscribe(Seq::FIRST, None);

    // Direct, both ways.
    for number in 0..20 {
        let (from, to) = if number % 2 == 0 { (&alice, "bob") } else { (&bob, "alice") };
        from.send(Conversation::peer(to).unwrap(), format!("direct {number}")).await.unwrap();
    }
    // A group, and somebody who joins and leaves.
    let key = ConversationKey([7; 16]);
    let carol = cluster.device("carol", "phone").await;
    alice.create_group(key, &[user("bob")]).await.unwrap();
    alice.send(Conversation::Group(key), "before carol").await.unwrap();
    alice.change_members(key, &[user("carol")], &[]).await.unwrap();
    bob.send(Conversation::Group(key), "with carol").await.unwrap();
    alice.change_members(key, &[], &[user("carol")]).await.unwrap();
    alice.send(Conversation::Group(key), "after carol").await.unwrap();

    let expected = 20 + 6;
    let (seen, other, third) =
        (take(&mut at_alice, expected).await, take(&mut at_bob, expected).await, take(&mut at_tablet, expected).await);
    let places = |entries: &[Entry], own: &str| -> Vec<_> {
        entries
            .iter()
            .map(|entry| (entry.conversation.id_for(&user(own)), entry.conversation_seq, entry.message_id))
            .collect()
    };
    let of = |entries: &[Entry], own: &str, group: bool| -> Vec<_> {
        let mut found = places(entries, own);
        found.retain(|(id, ..)| (*id == Conversation::Group(key).id_for(&user(own))) == group);
        found
    };
    assert_eq!(third, other, "both devices of a user see the same");
    for group in [false, true] {
        let (one, two) = (of(&seen, "alice", group), of(&other, "bob", group));
        assert_eq!(one, two, "members see one order");
        assert!(one.windows(2).all(|pair| pair[0].1 < pair[1].1), "conversation seqs rise");
    }
    let ids: HashSet<_> = seen.iter().map(|entry| entry.message_id).collect();
    assert_eq!(ids.len(), expected, "nothing twice");

    // Carol has her stay, joining and leaving entry included, and nothing else.
    let mut at_carol = carol.subscribe(Seq::FIRST, None);
    let stay = take(&mut at_carol, 3).await;
    let kinds: Vec<_> = stay.iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [Kind::Members, Kind::Message, Kind::Members]);
    assert_eq!(body(&stay[1]), "with carol");

    // Sync says the same as the push, and the chain holds.
    let synced = read_all(&bob, "bob").await;
    assert_eq!(places(&synced, "bob"), places(&other, "bob"));
    assert_eq!(read_all(&carol, "carol").await.len(), 3);

    // A cursor is kept.
    let cursor = synced.last().unwrap().seq.next();
    assert_eq!(bob.ack(cursor).await.unwrap(), cursor);
    let status = bob.status().await.unwrap();
    assert!(status.devices.iter().any(|(device, at)| device.as_str() == "phone" && *at == cursor), "{status:?}");

    // All of it survives a restart of everything.
    drop((alice, carol, tablet));
    cluster.restart();
    let bob = cluster.device("bob", "phone").await;
    assert_eq!(places(&read_all(&bob, "bob").await, "bob"), places(&synced, "bob"));
    assert_eq!(bob.status().await.unwrap().devices, status.devices);
    let next = bob.send(Conversation::peer("alice").unwrap(), "again").await.unwrap();
    assert!(
        next.seq
            > other
                .iter()
                .filter(|entry| entry.conversation == Conversation::peer("alice").unwrap())
                .map(|entry| entry.conversation_seq)
                .max()
                .unwrap()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_died_is_noticed_before_quics_idle_timeout() {
    let cluster = Cluster::start();
    // The idle timeout is ten seconds: a request that waited for it would end as unknown.
    let hasty = cluster.builder("phone").token(cluster.token("alice", 3600)).request_timeout(Duration::from_secs(8));
    let (alice, bob) = (hasty.connect().await.unwrap(), cluster.device("bob", "phone").await);
    let peer = Conversation::peer("bob").unwrap();
    let mut at_bob = bob.subscribe(Seq::FIRST, None);
    alice.send(peer.clone(), "before").await.unwrap();
    assert_eq!(body(&take(&mut at_bob, 1).await[0]), "before");
    cluster.kill("gateway-1");
    cluster.start_node("gateway-1");
    alice.send(peer, "after").await.unwrap();
    // Who only listens notices it too, a few seconds later, and goes on where he was.
    assert_eq!(body(&take(&mut at_bob, 1).await[0]), "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_under_the_same_id_makes_no_second_message() {
    let cluster = Cluster::start();
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let request = SendRequest::new(Conversation::peer("bob").unwrap(), Bytes::from_static(b"once"));
    let first = alice.send_request(request.clone()).await.unwrap();
    let second = alice.send_request(request.clone()).await.unwrap();
    assert_eq!((first.seq, first.duplicate), (second.seq, false));
    assert!(second.duplicate);
    // Also over a kill of the holder's process: whoever serves it next knows.
    cluster.kill("logic-1");
    let third = alice.send_request(request).await.unwrap();
    assert_eq!((third.seq, third.duplicate), (first.seq, true));
    cluster.start_node("logic-1");
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    take(&mut inbox, 1).await;
    assert_eq!(read_all(&bob, "bob").await.len(), 1);
}

/// Sends and cancels of the same ids, one behind the other and at the same time, while a logic node and then a leading
/// store are killed: each id has one verdict, which everybody hears and which stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_id_is_committed_or_cancelled_and_stays_so() {
    let mut cluster = Cluster::start();
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let peer = Conversation::peer("bob").unwrap();
    let request = |place: usize| SendRequest::new(peer.clone(), format!("message {place}"));

    // Before the first attempt, and after it.
    let (never, sent) = (request(1_000), request(1_001));
    assert_eq!(alice.cancel_send(&peer, never.message_id, None).await.unwrap(), SendStatus::Cancelled);
    let refused = alice.send_request(never.clone()).await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::Cancelled);
    let after = SendRequest { follows: Some(never.message_id), ..sent.clone() };
    let committed = alice.send_request(after).await.unwrap();
    let late = alice.cancel_send(&peer, sent.message_id, None).await.unwrap();
    assert_eq!(late, SendStatus::Committed(committed.seq));

    // At the same time, and with faults.
    let requests: Vec<SendRequest> = (0..240).map(request).collect();
    let mut verdicts = Vec::new();
    for (round, part) in requests.chunks(60).enumerate() {
        let down = match round {
            1 => Some("logic-1".to_owned()),
            3 => {
                cluster.status().into_iter().find(|node| node.leads.iter().flatten().count() > 1).map(|node| node.name)
            }
            _ => None,
        };
        let both = part.iter().enumerate().map(|(place, request)| {
            let (alice, peer) = (&alice, &peer);
            let send = alice.send_request(request.clone());
            let cancel = alice.cancel_send(peer, request.message_id, None);
            async move {
                match place % 3 {
                    0 => {
                        let cancelled = cancel.await;
                        (send.await, cancelled)
                    }
                    1 => (send.await, cancel.await),
                    // At the same time: whoever comes first.
                    _ => futures_util::future::join(send, cancel).await,
                }
            }
        });
        let faults = async {
            if let Some(node) = &down {
                cluster.kill(node);
                cluster.start_node(node);
            }
        };
        let (heard, ()) = futures_util::future::join(futures_util::future::join_all(both), faults).await;
        verdicts.extend(heard);
    }
    let mut committed_seqs = vec![committed.seq];
    for (request, (sent, cancelled)) in requests.iter().zip(verdicts) {
        match (sent, cancelled.unwrap()) {
            (Ok(sent), SendStatus::Committed(seq)) => {
                assert_eq!(sent.seq, seq);
                committed_seqs.push(seq);
            }
            (Err(error), SendStatus::Cancelled) => assert_eq!(error.refusal().code, ErrorCode::Cancelled, "{error}"),
            (sent, cancelled) => panic!("{}: {sent:?}, but {cancelled:?}", request.message_id),
        }
    }
    committed_seqs.sort_unstable();
    let committed = committed_seqs.len() - 1;
    assert!((80..=160).contains(&committed), "{committed}: a third is sent first, a third is cancelled first");
    let places = async |bob: &Client| -> Vec<Seq> {
        read_all(bob, "bob").await.iter().map(|entry| entry.conversation_seq).collect()
    };
    crate::common::wait_until_async("bob has it all", async || places(&bob).await == committed_seqs).await;

    // A stranger settles nothing.
    let group = Conversation::Group(ConversationKey([3; 16]));
    alice.create_group(ConversationKey([3; 16]), &[]).await.unwrap();
    let refused = bob.cancel_send(&group, never.message_id, None).await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::NotFound);

    // The operator's way.
    let raftctl = |verb: &str, id: &str| {
        let playground = cluster.data().to_str().unwrap();
        let arguments = ["--playground", playground, "-o", "json", "msg", verb, "--as", "alice", "--to", "bob", id];
        crate::common::run(&crate::common::sibling("raftctl"), &arguments)
    };
    let (exit, out, error) = raftctl("status", &never.message_id.to_string());
    assert!(exit == Some(0) && out.contains(r#""state":"cancelled""#), "{exit:?} {out} {error}");
    let (exit, out, error) = raftctl("cancel", &sent.message_id.to_string());
    assert!(exit == Some(4) && out.contains(r#""state":"committed""#), "{exit:?} {out} {error}");
    let (exit, out, _) = raftctl("status", "00000000000000000000000000000001");
    assert!(exit == Some(0) && out.contains(r#""state":"not yet""#), "{exit:?} {out}");
    let (exit, _, error) = raftctl("cancel", "17");
    assert!(exit == Some(2) && error.contains("no message id"), "{exit:?} {error}");

    // All of it survives a restart of everything.
    drop((alice, bob));
    cluster.restart();
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let refused = alice.send_request(never.clone()).await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::Cancelled);
    assert_eq!(alice.query_send(&peer, never.message_id, None).await.unwrap(), SendStatus::Cancelled);
    assert_eq!(places(&bob).await, committed_seqs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_of_stores_down_is_not_felt_for_long() {
    let cluster = Cluster::start();
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    for store in 1..=cluster.nodes(PlaygroundRole::Store).len() {
        let name = format!("store-{store}");
        cluster.kill(&name);
        for number in 0..5 {
            alice.send(Conversation::peer("bob").unwrap(), format!("{number} without {name}")).await.unwrap();
        }
        let entries = take(&mut inbox, 5).await;
        assert_eq!(body(&entries[4]), format!("4 without {name}"));
        cluster.start_node(&name);
        // The next kill must leave a majority that is up to date.
        crate::common::wait_until("every store leads or follows again", || {
            let stores = cluster.status();
            let leads: usize = stores.iter().filter_map(|node| node.leads.as_ref().map(Vec::len)).sum();
            leads == 5 && stores.iter().all(|node| node.pid.is_some())
        });
    }
    assert_eq!(read_all(&bob, "bob").await.len(), 15);
}

/// Twice pauses the process that `pick` names while 40 users are written to, and wakes it up: everybody has everything
/// once and in order.
async fn pause_twice(pick: impl Fn(&[NodeState]) -> u32) {
    let cluster = Cluster::start();
    let alice = cluster.device("alice", "phone").await;
    let names: Vec<String> = (0..40).map(|number| format!("user-{number}")).collect();
    let round = async |text: &str| {
        let sends = names.iter().map(|name| alice.send(Conversation::peer(name).unwrap(), text.to_owned()));
        futures_util::future::try_join_all(sends).await.unwrap();
    };
    round("before").await;
    for _ in 0..2 {
        let pid = pick(&cluster.status());
        crate::common::signal(pid, Signal::STOP);
        round("meanwhile").await;
        crate::common::signal(pid, Signal::CONT);
        round("after").await;
    }
    for name in &names {
        let client = cluster.device(name, "phone").await;
        crate::common::wait_until_async("the inbox has it all", async || read_all(&client, name).await.len() >= 5)
            .await;
        let bodies: Vec<_> = read_all(&client, name).await.iter().map(body).collect();
        assert_eq!(bodies, ["before", "meanwhile", "after", "meanwhile", "after"], "{name}");
    }
}

/// A logic node that was paused for longer than its lease wakes up under an old id, with answers of its old life on the
/// way. It comes back under a new id, and every slot has a holder that others can reach.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_logic_node_comes_back_and_every_slot_is_served() {
    pause_twice(|nodes| nodes.iter().find(|node| node.role == PlaygroundRole::Logic).unwrap().pid.unwrap()).await;
}

/// A paused leader still has its connections, so nobody hears that it is gone: what it owes is taken for lost after a
/// while, asked of the next leader, and answered again when it wakes up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_loses_nothing_and_its_late_answers_count_for_nothing() {
    let leads = |node: &NodeState| node.leads.as_ref().map_or(0, Vec::len);
    pause_twice(|nodes| {
        let leader = nodes.iter().max_by_key(|node| leads(node)).unwrap();
        assert!(leads(leader) > 0);
        leader.pid.unwrap()
    })
    .await;
}

/// Without a majority there is no answer, and the device is told so; nothing is lost by asking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_requests_end_with_an_error_and_work_again_later() {
    let cluster = Cluster::start();
    let alice = cluster.device("alice", "phone").await;
    let bob = cluster.builder("phone").token(cluster.token("bob", 3600));
    let bob = bob.request_timeout(Duration::from_secs(8)).connect().await.unwrap();
    alice.send(Conversation::peer("bob").unwrap(), "before").await.unwrap();
    crate::common::wait_until_async("it is there", async || read_all(&bob, "bob").await.len() == 1).await;
    let nodes = cluster.status();
    let stores: Vec<_> = nodes.iter().filter(|node| node.role == PlaygroundRole::Store).take(2).collect();
    stores.iter().for_each(|store| crate::common::signal(store.pid.unwrap(), Signal::STOP));
    let (read, sent) = tokio::join!(bob.sync(None, 10), bob.send(Conversation::peer("alice").unwrap(), "perhaps"));
    let (read, sent) = (read.unwrap_err(), sent.unwrap_err());
    assert!(sent.is_unknown(), "it may be in a log: {sent}");
    for error in [read, sent] {
        let code = error.refusal().code;
        assert!(matches!(code, ErrorCode::Unavailable | ErrorCode::Timeout | ErrorCode::Busy), "{error}");
    }
    stores.iter().for_each(|store| crate::common::signal(store.pid.unwrap(), Signal::CONT));
    crate::common::wait_until_async("a send goes through", async || {
        alice.send(Conversation::peer("bob").unwrap(), "after").await.is_ok()
    })
    .await;
    crate::common::wait_until_async("it is there", async || {
        let page = bob.sync(None, 10).await;
        page.is_ok_and(|page| page.entries.iter().any(|entry| body(entry) == "after"))
    })
    .await;
}

/// Reads that no quorum answers wait at a logic node, up to their number: the others are told to come later, and
/// nobody waits for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_beyond_their_number_are_busy_and_later_all_are_served() {
    let cluster = Cluster::start();
    let connect = async |device: &str| {
        let device = cluster.builder(device).token(cluster.token("alice", 3600));
        device.request_timeout(Duration::from_secs(2)).connect().await.unwrap()
    };
    // Of one user, so that both ask the same node.
    let devices = [connect("phone").await, connect("tablet").await];
    let peer = Conversation::peer("bob").unwrap();
    let request = SendRequest::new(peer.clone(), "hello");
    let id = request.message_id;
    devices[0].send_request(request).await.unwrap();
    let nodes = cluster.status();
    let stores: Vec<_> = nodes.iter().filter(|node| node.role == PlaygroundRole::Store).take(2).collect();
    stores.iter().for_each(|store| crate::common::signal(store.pid.unwrap(), Signal::STOP));
    let asked = (0..200).flat_map(|_| &devices).map(|device| device.query_send(&peer, id, None));
    let codes: HashSet<_> = futures_util::future::join_all(asked)
        .await
        .into_iter()
        .map(|result| result.unwrap_err().refusal().code)
        .collect();
    stores.iter().for_each(|store| crate::common::signal(store.pid.unwrap(), Signal::CONT));
    assert!(codes.contains(&ErrorCode::Busy), "400 reads at once: {codes:?}");
    let expected = [ErrorCode::Busy, ErrorCode::Timeout, ErrorCode::Unavailable];
    assert!(codes.iter().all(|code| expected.contains(code)), "{codes:?}");
    crate::common::wait_until_async("reads are served", async || devices[1].query_send(&peer, id, None).await.is_ok())
        .await;
    let asked = (0..100).flat_map(|_| &devices).map(|device| device.query_send(&peer, id, None));
    futures_util::future::try_join_all(asked).await.unwrap();
}

/// A parent that stops a child closes its stdin and signals: that is one order, not two.
#[test]
fn the_end_of_stdin_and_a_signal_are_one_order() {
    let mut cluster = Cluster::start();
    let (status, logs) = cluster.stop_twice();
    assert_eq!(status.code(), Some(0));
    assert!(logs.contains("stopping"), "{logs}");
    assert!(!logs.contains("without order"), "{logs}");
}
