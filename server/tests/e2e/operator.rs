//! Operators at gateways: `raftctl gateway` and `raftctl session` against two real gateways.

use std::path::Path;

use crate::common::{Cluster, wait_until_async};
use futures_util::StreamExt;
use serde_json::Value;
use seriatim_client::{Client, Conversation, RequestError, Transport};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::Seq;
use seriatim_proto::playground::PlaygroundRole;

const TWO: [&str; 6] = ["--stores", "1", "--logic", "1", "--gateways", "2"];

struct Said {
    exit: Option<i32>,
    items: Vec<Value>,
    error: String,
}

fn raftctl(cluster: &Cluster, arguments: &[&str]) -> Said {
    let playground = cluster.data().to_str().unwrap();
    let all = [&["--playground", playground, "-o", "json"], arguments].concat();
    let (exit, out, error) = crate::common::run(&crate::common::sibling("raftctl"), &all);
    let json: Value = serde_json::from_str(&out).unwrap_or(Value::Null);
    Said { exit, items: json["items"].as_array().cloned().unwrap_or_default(), error }
}

/// Asks until the answer is right: a gateway learns of a connection's end a moment later.
async fn until(cluster: &Cluster, what: &str, arguments: &[&str], right: impl Fn(&Said) -> bool) -> Said {
    let mut last = None;
    wait_until_async(what, async || {
        let said = raftctl(cluster, arguments);
        let is_right = right(&said);
        last = Some(said);
        is_right
    })
    .await;
    last.unwrap()
}

/// A device at the gateway of this place; it knows the others.
async fn device(cluster: &Cluster, place: usize, (user, device): (&str, &str), way: Transport) -> Client {
    let mut gateways = cluster.nodes(PlaygroundRole::Gateway);
    gateways.rotate_left(place);
    let mut addresses = gateways.iter().map(|address| address.parse().unwrap());
    let mut builder = Client::builder(addresses.next().unwrap(), "localhost");
    for other in addresses {
        builder = builder.address(other);
    }
    builder
        .ca_pem(&std::fs::read(&cluster.about.ca_certificate).unwrap())
        .device(device)
        .transport(way)
        .token(cluster.token(user, 3_600))
        .connect_timeout(crate::common::PATIENCE)
        .request_timeout(crate::common::PATIENCE)
        .connect()
        .await
        .unwrap()
}

fn devices(said: &Said) -> Vec<String> {
    let name = |item: &Value| format!("{}@{}", item["device"].as_str().unwrap(), item["gateway"].as_str().unwrap());
    let mut names: Vec<_> = said.items.iter().map(name).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_sessions_over_all_gateways_and_end_some() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with(folder.path().join("cluster"), &TWO);
    let phone = device(&cluster, 0, ("alice", "phone"), Transport::Quic).await;
    let laptop = device(&cluster, 1, ("alice", "laptop"), Transport::WebSocket).await;
    let bob = device(&cluster, 1, ("bob", "phone"), Transport::Quic).await;
    let mut inbox = laptop.subscribe(Seq::FIRST, None);
    bob.send(Conversation::peer("alice").unwrap(), "hello").await.unwrap();
    inbox.next().await.unwrap().unwrap();

    let ls = |more: &[&str]| raftctl(&cluster, &[&["session", "ls"], more].concat());
    let all = ls(&[]);
    assert_eq!(all.exit, Some(0), "{}", all.error);
    assert_eq!(devices(&all), ["laptop@gateway-2", "phone@gateway-1", "phone@gateway-2"]);
    assert_eq!(devices(&ls(&["--user", "alice"])), ["laptop@gateway-2", "phone@gateway-1"]);
    assert_eq!(devices(&ls(&["--gw", "gateway-2"])), ["laptop@gateway-2", "phone@gateway-2"]);
    assert_eq!(devices(&ls(&["--transport", "websocket"])), ["laptop@gateway-2"]);
    assert_eq!(devices(&ls(&["--device", "phone", "--user", "bob"])), ["phone@gateway-2"]);
    assert_eq!(devices(&ls(&["--tenant", "2"])), [""; 0]);
    let one = ls(&["--limit", "1"]);
    assert!(one.items.len() == 1 && one.error.contains("more than 1"), "{}", one.error);

    let websocket = &ls(&["--transport", "websocket"]).items[0];
    let id = websocket["id"].as_str().unwrap();
    let shown = raftctl(&cluster, &["session", "show", id]);
    let item = &shown.items[0];
    assert_eq!((shown.exit, &item["inbox"]["position"]), (Some(0), &"2".into()), "{} {item}", shown.error);
    assert_eq!((&item["inbox"]["lag"], &item["user"]), (&"0".into(), &"alice".into()), "{item}");
    let left: u64 = item["tokenLeftMs"].as_str().unwrap().parse().unwrap();
    assert!((3_000_000..=3_600_000).contains(&left), "{left}");
    let sent: u64 = item["sentBytes"].as_str().unwrap().parse().unwrap();
    assert!((1..100_000).contains(&sent), "{sent}");
    assert!(item["rttUs"].is_null() && ls(&["--transport", "quic"]).items[0]["rttUs"].is_string());

    // Nothing is done without a yes, nor for a plan, nor for what is wrong.
    let kick = |more: &[&str]| raftctl(&cluster, &[&["session", "kick"], more].concat());
    let stale = format!("{}-999999", id.rsplit_once('-').unwrap().0);
    for (arguments, exit, why) in [
        (&["--user", "alice"][..], 2, "say --yes"),
        (&["--user", "alice", "--dry-run"], 0, "plan: end gateway-1/"),
        (&[], 2, "required"),
        (&["--device", "phone", "--yes"], 2, "required"),
        (&["--user", "nobody", "--yes"], 3, "no session of user `nobody` in tenant 1"),
        (&["--user", "alice", "--tenant", "2", "--yes"], 3, "in tenant 2"),
        (&["17", "--yes"], 2, "is no id of a session"),
        (&[&stale, "--yes"], 3, "there is no session"),
        (&["gateway-1/0000x-1", "--yes"], 2, "is no id of a session"),
        (&["gateway-9/0000-1", "--yes"], 3, "there is no gateway `gateway-9`"),
    ] {
        let said = kick(arguments);
        assert!(said.exit == Some(exit) && said.error.contains(why), "{arguments:?}: {:?} {}", said.exit, said.error);
    }
    assert_eq!(ls(&[]).items.len(), 3);

    // One device goes and stays away, the others stay; what was acknowledged is there.
    phone.send(Conversation::peer("bob").unwrap(), "one").await.unwrap();
    let said = kick(&["--user", "alice", "--device", "phone", "--yes"]);
    assert_eq!((said.exit, &said.items[0]["state"]), (Some(0), &"ended".into()), "{}", said.error);
    until(&cluster, "the phone is gone", &["session", "ls", "--user", "alice"], |said| said.items.len() == 1).await;
    let refused = phone.send(Conversation::peer("bob").unwrap(), "two").await.unwrap_err();
    let code = match &refused {
        RequestError::Rejected(refusal) | RequestError::Unknown(refusal) => refusal.code,
    };
    assert!([ErrorCode::Kicked, ErrorCode::Shutdown].contains(&code), "{refused}");
    assert_eq!(devices(&ls(&[])), ["laptop@gateway-2", "phone@gateway-2"]);
    laptop.send(Conversation::peer("bob").unwrap(), "three").await.unwrap();
    wait_until_async("bob has both", async || bob.sync(None, 0).await.unwrap().entries.len() >= 3).await;

    // By its id, over a WebSocket.
    assert_eq!(kick(&[id, "--yes"]).exit, Some(0));
    until(&cluster, "the laptop is gone", &["session", "ls", "--user", "alice"], |said| said.items.is_empty()).await;
    // A device that comes back by its user's will is taken.
    device(&cluster, 0, ("alice", "phone"), Transport::Quic).await;

    // A gateway that is silent is named, and the others are shown.
    cluster.kill("gateway-1");
    let partial = ls(&[]);
    assert_eq!((partial.exit, devices(&partial)), (Some(6), vec!["phone@gateway-2".to_owned()]), "{}", partial.error);
    let door = cluster.about.nodes.iter().find(|node| node.name == "gateway-1").unwrap().operators.clone().unwrap();
    assert!(partial.error.contains(&door), "{}", partial.error);
    let gateways = raftctl(&cluster, &["gateway", "ls"]);
    assert_eq!((gateways.exit, &gateways.items[1]["state"]), (Some(10), &"unreachable".into()), "{}", gateways.error);
    assert_eq!(raftctl(&cluster, &["gateway", "show", "gateway-1"]).exit, Some(6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_gateway_loses_and_doubles_nothing_and_certificates_are_read_anew() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with(folder.path().join("cluster"), &TWO);
    let alice = device(&cluster, 0, ("alice", "phone"), Transport::Quic).await;
    let bob = device(&cluster, 0, ("bob", "phone"), Transport::WebSocket).await;
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    let raftctl = |arguments: &[&str]| raftctl(&cluster, arguments);

    // Nothing is done without a yes, nor for a plan.
    for (arguments, exit, why) in [
        (&["gateway", "drain", "gateway-1"][..], 2, "say --yes"),
        (&["gateway", "drain", "gateway-1", "--dry-run"], 0, "plan: gateway-1 takes nobody new and sends 2"),
        (&["gateway", "drain", "gateway-1", "--deadline", "2h"], 2, "no duration"),
        (&["gateway", "drain", "gateway-1", "--deadline", "3601s"], 2, "at most an hour"),
        (&["gateway", "drain", "gateway-9", "--yes"], 3, "there is no gateway `gateway-9`, but gateway-1, gateway-2"),
        (&["gateway", "show", ""], 3, "there is no gateway"),
        (&["gateway", "reload-cert", "gateway-9"], 3, "there is no gateway"),
    ] {
        let said = raftctl(arguments);
        assert!(said.exit == Some(exit) && said.error.contains(why), "{arguments:?}: {:?} {}", said.exit, said.error);
    }
    assert_eq!(raftctl(&["gateway", "show", "gateway-1"]).items[0]["state"], "ready");

    // Messages go on over a drain.
    let sending = tokio::spawn(async move {
        for number in 0..60 {
            let text = format!("message {number}");
            alice.send(Conversation::peer("bob").unwrap(), text).await.unwrap();
        }
        alice
    });
    // They know of the other one, and go by themselves, long before they must.
    let began = std::time::Instant::now();
    let drained = raftctl(&["gateway", "drain", "gateway-1", "--deadline", "300s", "--yes"]);
    assert!(began.elapsed() < std::time::Duration::from_secs(150), "nobody went until he was closed");
    assert_eq!((drained.exit, &drained.items[0]["state"]), (Some(0), &"drained".into()), "{}", drained.error);
    let alice = sending.await.unwrap();
    let (mut texts, mut last) = (Vec::new(), 0);
    while texts.len() < 60 {
        let entry = inbox.next().await.unwrap().unwrap();
        assert!(entry.seq.get() > last, "in order");
        last = entry.seq.get();
        if let seriatim_client::EntryBody::Here { body, .. } = &entry.body {
            texts.push(String::from_utf8(body.to_vec()).unwrap());
        }
    }
    let wanted: Vec<_> = (0..60).map(|number| format!("message {number}")).collect();
    assert_eq!(texts, wanted);
    let moved = |said: &Said| devices(said) == ["phone@gateway-2", "phone@gateway-2"];
    until(&cluster, "both are at the other gateway", &["session", "ls"], moved).await;

    // Nobody new is taken until it is undone; those who know of another gateway go there.
    device(&cluster, 0, ("carol", "phone"), Transport::Quic).await;
    assert!(raftctl(&["session", "ls", "--gw", "gateway-1"]).items.is_empty());
    let undone = raftctl(&["gateway", "drain", "gateway-1", "--undo"]);
    assert_eq!((undone.exit, &undone.items[0]["state"]), (Some(0), &"ready".into()), "{}", undone.error);
    let dave = device(&cluster, 0, ("dave", "phone"), Transport::WebSocket).await;
    assert_eq!(devices(&raftctl(&["session", "ls", "--user", "dave"])), ["phone@gateway-1"]);

    // A certificate that cannot be used changes nothing; a good one is served at once.
    let keys = Path::new(&cluster.about.ca_certificate).parent().unwrap();
    let (chain, key) = (keys.join("gateway.pem"), keys.join("gateway-key.pem"));
    let served = || {
        let mut served = raftctl(&["gateway", "show", "gateway-1"]).items[0]["certificate"].clone();
        assert!(served.as_object_mut().unwrap().remove("secondsLeft").is_some(), "time goes on between two looks");
        served
    };
    let before = served();
    let good = std::fs::read(&chain).unwrap();
    for (bad, why) in [("garbage", "certificate"), ("", "certificate")] {
        std::fs::write(&chain, bad).unwrap();
        let said = raftctl(&["gateway", "reload-cert", "gateway-1"]);
        assert!(said.exit == Some(4) && said.error.contains(why), "{:?} {}", said.exit, said.error);
        assert!(said.error.contains("is served on"), "{}", said.error);
    }
    std::fs::remove_file(&chain).unwrap();
    let said = raftctl(&["gateway", "reload-cert", "gateway-1"]);
    assert!(said.exit == Some(4) && said.error.contains(chain.to_str().unwrap()), "{:?} {}", said.exit, said.error);
    assert_eq!(served(), before);
    std::fs::write(&chain, &good).unwrap();
    let same = raftctl(&["gateway", "reload-cert", "gateway-1"]);
    assert!(same.exit == Some(0) && same.error.contains("the same certificate"), "{:?} {}", same.exit, same.error);
    let other = tempfile::tempdir().unwrap();
    let others = seriatim_gateway::dev_ca::ensure_dev_ca(other.path()).unwrap();
    std::fs::copy(&others.gateway, &chain).unwrap();
    let said = raftctl(&["gateway", "reload-cert", "gateway-1"]);
    assert!(said.exit == Some(4) && said.error.contains("use the certificate"), "{:?} {}", said.exit, said.error);
    std::fs::copy(&others.gateway_key, &key).unwrap();
    let said = raftctl(&["gateway", "reload-cert", "gateway-1"]);
    assert!(said.exit == Some(0) && said.error.contains("a new certificate"), "{:?} {}", said.exit, said.error);
    assert_ne!(said.items[0]["certificate"]["serial"], before["serial"]);
    // Sessions that are up stay.
    dave.send(Conversation::peer("bob").unwrap(), "still here").await.unwrap();
    alice.close();
}
