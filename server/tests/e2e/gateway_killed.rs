//! A gateway killed under a thousand connections while messages flow: every device ends with every entry, in order, and
//! none of them twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{Cluster, PATIENCE, wait_until_async};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use rustix::process::Signal;
use seriatim_client::{Client, Conversation, Endpoint, Entry, EntryBody, Transport, verify_page};
use seriatim_proto::ids::{Chain, MessageId, Seq, UserId};
use seriatim_proto::playground::PlaygroundRole;
use tokio::sync::watch;

/// Each of them writes to the next one.
const USERS: usize = 20;
/// Of each user, below the 64 that he may have.
const DEVICES: usize = 50;
const _: () = assert!(USERS * DEVICES == 1_000);
/// Of each user.
const MESSAGES: usize = 50;
/// Of all users, before the gateway is killed.
const BEFORE: usize = USERS * 10;
/// Of each user, up to which he goes before the kill: the rest is sent behind it for certain.
const WAITING: usize = 40;
/// Connections that are made at the same time.
const AT_ONCE: usize = 64;

/// What must be the same on all devices.
type Seen = Vec<(Seq, Option<Seq>, MessageId, Bytes)>;

fn user(number: usize) -> String {
    format!("user-{}", number % USERS)
}

fn text(sender: usize, number: usize) -> String {
    format!("{} of {}", number, user(sender))
}

fn seen(entry: Entry) -> (Seq, Option<Seq>, MessageId, Bytes) {
    let EntryBody::Here { body, .. } = entry.body else { panic!("no body at {}", entry.seq) };
    (entry.seq, entry.prev_seq, entry.message_id, body)
}

/// So many entries, and then the last one; whatever came between them would be in its place.
async fn read(client: Client, count: usize) -> (Client, Seen) {
    let inbox = client.subscribe(Seq::FIRST, None);
    let entries = inbox.take(count).map_ok(seen).try_collect::<Seen>();
    let entries = tokio::time::timeout(PATIENCE, entries).await.expect("every entry in time").unwrap();
    (client, entries)
}

/// The inbox as the cluster has it, and its chain proves.
async fn truth(client: &Client, name: &str) -> Seen {
    let (mut from, mut chain, mut all) = (None, Chain::default(), Seen::new());
    loop {
        let page = client.sync(from, 0).await.unwrap();
        chain = verify_page(&UserId::new(name).unwrap(), chain, &page).unwrap();
        (from, all) = (Some(page.upto), all.into_iter().chain(page.entries.into_iter().map(seen)).collect());
        if !page.more {
            return all;
        }
    }
}

async fn send(client: &Client, sender: usize, number: usize) {
    let to = Conversation::peer(&user(sender + 1)).unwrap();
    client.send(to, text(sender, number)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_under_a_thousand_connections_costs_no_device_an_entry() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with(folder.path().to_owned(), &["--gateways", "2"]);
    let gateways = cluster.nodes(PlaygroundRole::Gateway);
    let (killed, other) = (cluster.gateway(), gateways[1].parse().unwrap());
    let ca = std::fs::read(&cluster.about.ca_certificate).unwrap();
    let endpoint = Endpoint::new(killed, &ca).unwrap();

    let clients: Vec<Client> = stream::iter(0..USERS * DEVICES)
        .map(|number| {
            let device = format!("device-{}", number / USERS);
            let builder = cluster.builder(&device).address(other).endpoint(&endpoint).transport(Transport::Quic);
            builder.token(cluster.token(&user(number), 3_600)).connect()
        })
        .buffered(AT_ONCE)
        .try_collect()
        .await
        .unwrap();
    let node = cluster.status().into_iter().find(|node| node.address == gateways[0]).unwrap();
    let connections =
        |metrics: &str| crate::common::metric(metrics, "seriatim_gateway_connections{transport=\"Quic\"}");
    assert_eq!(connections(&node.metrics), Some(1_000.0), "all of them are under the one that is killed");

    let senders: Vec<Client> = clients[..USERS].to_vec();
    // Of one inbox: what is written to him, and what he writes.
    let readers: Vec<_> = clients.into_iter().map(|client| tokio::spawn(read(client, 2 * MESSAGES + 2))).collect();
    let (committed, dead) = (Arc::new(AtomicUsize::new(0)), watch::Sender::new(false));
    let writers: Vec<_> = senders
        .iter()
        .cloned()
        .enumerate()
        .map(|(sender, client)| {
            let (committed, mut dead) = (committed.clone(), dead.subscribe());
            tokio::spawn(async move {
                for number in 0..MESSAGES {
                    if number == WAITING {
                        dead.wait_for(|dead| *dead).await.unwrap();
                    }
                    send(&client, sender, number).await;
                    committed.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    wait_until_async("messages flow", async || committed.load(Ordering::Relaxed) >= BEFORE).await;
    crate::common::signal(node.pid.unwrap(), Signal::KILL);
    dead.send_replace(true);
    for writer in writers {
        writer.await.unwrap();
    }
    for (sender, client) in senders.iter().enumerate() {
        send(client, sender, MESSAGES).await;
    }

    let mut ends: Vec<(Client, Seen)> = Vec::new();
    for reader in readers {
        ends.push(reader.await.unwrap());
    }
    for number in 0..USERS {
        let truth = truth(&ends[number].0, &user(number)).await;
        let before = (number + USERS - 1) % USERS;
        for sender in [before, number] {
            let own = user(sender);
            let bodies: Vec<_> = truth.iter().filter(|(.., body)| body.ends_with(own.as_bytes())).collect();
            let wanted = (0..=MESSAGES).map(|number| text(sender, number));
            assert!(bodies.iter().map(|(.., body)| body.clone()).eq(wanted.map(Bytes::from)), "{bodies:?} of {own}");
        }
        assert!(truth.is_sorted_by(|(one, ..), (two, ..)| one < two));
        for (device, (client, seen)) in ends.iter().enumerate().skip(number).step_by(USERS) {
            assert_eq!(*seen, truth, "device {device}");
            assert!(client.connections() > 1, "device {device} was under the one that was killed");
        }
    }
    let node = cluster.status().into_iter().find(|node| node.address == gateways[1]).unwrap();
    assert_eq!(connections(&node.metrics), Some(1_000.0), "all of them went to the other one");
}
