//! Bad input: each kind has a clear code, and loses nothing.

use std::path::Path;

use crate::common::{Cluster, SERIATIM, run, sibling, wait_until_async};
use bytes::Bytes;
use seriatim_client::{Client, ConnectError, Conversation, RequestError, SendRequest};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{ConversationKey, MessageId, Seq, UserId};
use seriatim_proto::limits;
use seriatim_proto::playground::PlaygroundRole;

fn code<T: std::fmt::Debug>(result: Result<T, RequestError>) -> ErrorCode {
    match result.unwrap_err() {
        RequestError::Rejected(refusal) => refusal.code,
        RequestError::Unknown(refusal) => panic!("the outcome is unknown: {refusal}"),
    }
}

async fn entries(client: &Client) -> usize {
    client.sync(None, 0).await.unwrap().entries.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_has_its_code_and_leaves_no_trace() {
    let cluster = Cluster::start_plaintext();
    let (alice, bob, eve) = (
        cluster.device("alice", "phone").await,
        cluster.device("bob", "phone").await,
        cluster.device("eve", "phone").await,
    );
    let key = ConversationKey([1; 16]);
    alice.create_group(key, &[UserId::new("bob").unwrap()]).await.unwrap();
    alice.send(Conversation::Group(key), "hello").await.unwrap();

    // Somebody else's conversation, and one that does not exist: the same answer.
    let (theirs, nowhere) = (Conversation::Group(key), Conversation::Group(ConversationKey([9; 16])));
    assert_eq!(code(eve.send(theirs.clone(), "let me in").await), ErrorCode::NotFound);
    assert_eq!(code(eve.send(nowhere.clone(), "anybody?").await), ErrorCode::NotFound);
    assert_eq!(code(eve.history(&theirs, None, 0).await), code(eve.history(&nowhere, None, 0).await));
    let join = eve.change_members(key, &[UserId::new("eve").unwrap()], &[]).await;
    assert_eq!(code(join), ErrorCode::NotFound);

    // Another body under one message id.
    let id = MessageId([3; 16]);
    let send = |text: &'static str| SendRequest {
        message_id: id,
        ..SendRequest::new(Conversation::Group(key), Bytes::from_static(text.as_bytes()))
    };
    let first = alice.send_request(send("one")).await.unwrap();
    assert_eq!(code(alice.send_request(send("two")).await), ErrorCode::Conflict);

    // A body over the limit.
    let long = Bytes::from(vec![b'x'; limits::MESSAGE_BYTES_MAX as usize + 1]);
    let refused = alice.send_request(SendRequest::new(Conversation::Group(key), long)).await;
    assert_eq!(code(refused), ErrorCode::MessageTooLarge);
    let longest = Bytes::from(vec![b'x'; limits::MESSAGE_BYTES_MAX as usize]);
    alice.send_request(SendRequest::new(Conversation::Group(key), longest)).await.unwrap();

    // A cursor and a position from the future.
    let tail = bob.sync(None, 0).await.unwrap().tail;
    assert_eq!(code(bob.ack(tail.plus(1_000_000)).await), ErrorCode::CursorAhead);
    assert_eq!(code(bob.sync(Some(tail.plus(1_000_000)), 0).await), ErrorCode::CursorAhead);

    // Nothing was lost, and nothing of it left a trace.
    wait_until_async("all inboxes have it", async || entries(&alice).await + entries(&bob).await >= 8).await;
    assert_eq!((entries(&alice).await, entries(&bob).await, entries(&eve).await), (4, 4, 0));
    let page = bob.sync(None, 0).await.unwrap();
    assert!(page.entries.iter().any(|entry| entry.conversation_seq == first.seq && entry.body_matches()));
    assert_eq!(bob.ack(tail).await.unwrap(), tail);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_or_expired_token_does_not_enter() {
    let cluster = Cluster::start_plaintext();
    let to_bob = || Conversation::peer("bob").unwrap();
    let alice = cluster.device("alice", "laptop").await;
    let first = alice.send(to_bob(), "before").await.unwrap();
    let good = cluster.token("alice", 3600);
    let forged = Cluster::start_plaintext().token("alice", 3600);
    let mut cut = good.clone();
    cut.truncate(good.len() - 4);
    let cases = [
        (cluster.token("alice", -60), ErrorCode::AuthExpired),
        (forged, ErrorCode::AuthFailed),
        (cut, ErrorCode::AuthFailed),
        ("no token at all".to_owned(), ErrorCode::AuthFailed),
    ];
    for (token, expected) in cases {
        match cluster.builder("phone").token(token).connect().await {
            Err(ConnectError::Refused(refusal)) => assert_eq!(refusal.code, expected),
            other => panic!("expected {expected}, got {other:?}"),
        }
    }
    // Who was in stays in, the same device enters with a good token, and both have everything.
    let second = alice.send(to_bob(), "after").await.unwrap();
    assert_eq!(alice.connections(), 1);
    let phone = cluster.builder("phone").token(good).connect().await.unwrap();
    let bob = cluster.device("bob", "phone").await;
    for device in [&alice, &phone, &bob] {
        wait_until_async("both entries are there", async || entries(device).await == 2).await;
        let page = device.sync(None, 0).await.unwrap();
        let seqs: Vec<_> = page.entries.iter().map(|entry| entry.conversation_seq).collect();
        assert_eq!(seqs, [first.seq, second.seq]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data").display().to_string();
    let arguments = ["store", "--data-dir", &data, "--listen", &address, "--insecure-plaintext"];
    let (exit, stdout, stderr) = run(Path::new(SERIATIM), &arguments);
    assert_eq!(exit, Some(1));
    assert!(stdout.is_empty() && stderr.contains(&address) && stderr.contains("ADDRESS_IN_USE"), "{stderr}");
    assert!(!Path::new(&data).exists(), "a start that fails makes nothing");

    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let cluster = Cluster::start_plaintext();
    let alice = cluster.device("alice", "phone").await;
    alice.send(Conversation::peer("bob").unwrap(), "before").await.unwrap();
    let keys = cluster.data().join("keys");
    let path = |name: &str| keys.join(name).display().to_string();
    let (chain, key, public) = (path("gateway.pem"), path("gateway-key.pem"), path("token-public.pem"));
    let logic = cluster.nodes(PlaygroundRole::Logic).join(",");
    let arguments = [
        "gateway",
        "--listen",
        &address,
        "--logic",
        &logic,
        "--certificate-chain",
        &chain,
        "--private-key",
        &key,
        "--token-public-key",
        &public,
        "--insecure-plaintext",
    ];
    let (exit, stdout, stderr) = run(Path::new(SERIATIM), &arguments);
    assert_eq!(exit, Some(1));
    assert!(stdout.is_empty() && stderr.contains(&address) && stderr.contains("ADDRESS_IN_USE"), "{stderr}");

    // A running store's port: who has it keeps it, with everything.
    let store = cluster.nodes(PlaygroundRole::Store)[0].clone();
    let arguments = ["store", "--data-dir", &data, "--listen", &store, "--insecure-plaintext"];
    let (exit, _, stderr) = run(Path::new(SERIATIM), &arguments);
    assert!(exit == Some(1) && stderr.contains(&store) && stderr.contains("ADDRESS_IN_USE"), "{stderr}");
    alice.send(Conversation::peer("bob").unwrap(), "after").await.unwrap();
    let bob = cluster.device("bob", "phone").await;
    wait_until_async("bob has both", async || entries(&bob).await == 2).await;
    assert_eq!(alice.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_of_its_own_makes_a_development_ca_on_first_start() {
    let cluster = Cluster::start_plaintext();
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca").display().to_string();
    let logic = cluster.nodes(PlaygroundRole::Logic).join(",");
    let public = cluster.data().join("keys/token-public.pem").display().to_string();
    let arguments =
        ["gateway", "--logic", &logic, "--development-ca", &ca, "--insecure-plaintext", "--exit-with-parent"];
    let start = |more: &[&str]| crate::common::Process::start(&[&arguments, more].concat());

    // With a certificate of one's own it would be a contradiction; a start that is refused makes nothing.
    let bare = ["gateway", "--logic", &logic, "--development-ca", &ca, "--listen", "127.0.0.1:0"];
    let (exit, _, stderr) = run(Path::new(SERIATIM), &bare);
    assert!(exit == Some(1) && stderr.contains("--insecure-plaintext"), "{stderr}");
    let refused = [&arguments[..], &["--listen", "127.0.0.1:0", "--private-key", &public]].concat();
    for arguments in [&refused[..], &arguments[..]] {
        let (exit, _, stderr) = run(Path::new(SERIATIM), arguments);
        assert!(exit == Some(1) && stderr.contains("failed to start: --"), "{stderr}");
    }
    assert!(!Path::new(&ca).exists());

    // The cluster's tokens, the gateway's own certificate; the second start finds what the first one made.
    let pem = || std::fs::read(Path::new(&ca).join("ca.pem")).unwrap();
    let mut made = None;
    for device in ["phone", "laptop"] {
        let gateway = start(&["--listen", "127.0.0.1:0", "--token-public-key", &public]);
        let builder = Client::builder(gateway.address().parse().unwrap(), "localhost").ca_pem(&pem()).device(device);
        let alice = builder.token(cluster.token("alice", 3600)).connect_timeout(crate::common::PATIENCE);
        let alice = alice.connect().await.unwrap();
        alice.send(Conversation::peer("bob").unwrap(), device).await.unwrap();
        assert_eq!(*made.get_or_insert_with(pem), pem());
    }
    // Its own tokens' key, where none is named: the cluster's tokens do not enter.
    let gateway = start(&["--listen", "127.0.0.1:0"]);
    let builder = Client::builder(gateway.address().parse().unwrap(), "localhost").ca_pem(&pem()).device("phone");
    match builder.token(cluster.token("alice", 3600)).connect_timeout(crate::common::PATIENCE).connect().await {
        Err(ConnectError::Refused(refusal)) => assert_eq!(refusal.code, ErrorCode::AuthFailed),
        other => panic!("{other:?}"),
    }
    let bob = cluster.device("bob", "phone").await;
    wait_until_async("bob has both", async || entries(&bob).await == 2).await;
}

#[test]
fn a_playground_of_gateways_without_logic_nodes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("playground");
    let data_option = data.display().to_string();
    let options = ["playground", "--data", &data_option, "--logic", "0"];
    let (exit, stdout, stderr) = run(Path::new(SERIATIM), &options);
    assert_eq!(exit, Some(1));
    assert!(stdout.is_empty() && stderr.contains("--gateways 0"), "{stderr}");
    assert!(!data.exists(), "nothing was made");
}

#[test]
fn plaintext_must_be_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().display().to_string();
    let (exit, _, stderr) = run(Path::new(SERIATIM), &["store", "--data-dir", &data, "--listen", "127.0.0.1:0"]);
    assert_eq!(exit, Some(1));
    assert!(stderr.contains("--insecure-plaintext"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_of_another_store_or_cluster_is_refused() {
    let (mut ours, theirs) = (Cluster::start_plaintext(), Cluster::start_plaintext());
    let alice = ours.device("alice", "phone").await;
    alice.send(Conversation::peer("bob").unwrap(), "kept").await.unwrap();
    drop(alice);

    // One store's folder is locked while it runs.
    let data = ours.data().join("store-1").display().to_string();
    let arguments = ["store", "--data-dir", &data, "--listen", "127.0.0.1:0", "--insecure-plaintext"];
    let (exit, _, stderr) = run(Path::new(SERIATIM), &arguments);
    assert!(exit == Some(1) && stderr.contains("FOLDER_IN_USE"), "{stderr}");

    // A folder of another store, of ours or of another cluster: it was known under another address.
    for strange in [ours.data().join("store-2"), theirs.data().join("store-3")] {
        let name = strange.file_name().unwrap().to_str().unwrap().to_owned();
        if strange.starts_with(ours.data()) {
            ours.kill(&name)
        } else {
            theirs.kill(&name)
        }
        let (data, address) = (strange.display().to_string(), "127.0.0.1:19999");
        let arguments = ["store", "--data-dir", &data, "--listen", address, "--insecure-plaintext"];
        let (exit, stdout, stderr) = run(Path::new(SERIATIM), &arguments);
        assert!(exit == Some(1) && stdout.is_empty() && stderr.contains(address), "{stderr}");
        assert!(stderr.contains("WRONG_STORE"), "{stderr}");
        if strange.starts_with(ours.data()) { ours.start_node(&name) } else { theirs.start_node(&name) }
    }

    // A store of another cluster under our store's very address: nobody listens to it, and it takes nothing over.
    ours.kill("store-3");
    let (mine, kept) = (ours.data().join("store-3"), ours.data().join("kept"));
    std::fs::rename(&mine, &kept).unwrap();
    ours.start_node("store-3");
    let address = ours.nodes(PlaygroundRole::Store)[2].clone();
    let init = ["init", "--stores", &address, "--groups", "1"];
    let (exit, _, stderr) = run(Path::new(SERIATIM), &init);
    assert!(exit == Some(1) && stderr.contains("--insecure-plaintext"), "plaintext is said: {stderr}");
    let (exit, stdout, stderr) = run(Path::new(SERIATIM), &[&init[..], &["--insecure-plaintext"]].concat());
    assert!(exit == Some(0) && stdout.contains("initialised"), "{stderr}");
    let raftctl = sibling("raftctl");
    let playground = ours.data().display().to_string();
    crate::common::wait_until("raftctl says that a store is not of this cluster", || {
        let (exit, _, stderr) = run(&raftctl, &["--playground", &playground, "cluster", "status"]);
        exit == Some(10) && stderr.contains("not of one cluster")
    });
    let bob = ours.device("bob", "phone").await;
    wait_until_async("bob has it", async || entries(&bob).await == 1).await;
    bob.send(Conversation::peer("alice").unwrap(), "still here").await.unwrap();
    drop(bob);

    // With its own folder back it is one of us again.
    ours.kill("store-3");
    std::fs::remove_dir_all(&mine).unwrap();
    std::fs::rename(&kept, &mine).unwrap();
    ours.restart();
    let bob = ours.device("bob", "phone").await;
    wait_until_async("bob has both", async || bob.sync(Some(Seq::FIRST), 0).await.unwrap().entries.len() == 2).await;
}
