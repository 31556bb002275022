//! Mtls: a cluster whose processes show each other certificates, and whom it turns away. Certificates are those of
//! `raftctl cert`, processes are real.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::common::{Cluster, Process, metrics, run, sibling, wait_until};
use futures_util::StreamExt;
use seriatim_client::{Conversation, EntryBody};
use seriatim_mtls::{Door, Files, Mtls, Own};
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::codec;
use seriatim_proto::command::Command;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::admin_client::AdminClient;
use seriatim_proto::grpc::logic_client::LogicClient;
use seriatim_proto::grpc::operator_client::OperatorClient;
use seriatim_proto::grpc::peer_client::PeerClient;
use seriatim_proto::grpc::raft_client::RaftClient;
use seriatim_proto::grpc::sequence::sequence_service_client::SequenceServiceClient;
use seriatim_proto::grpc::sequence::{CallsRequest, NextRequest};
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::ids::{GroupId, Seq};
use seriatim_proto::playground::PlaygroundRole;
use seriatim_proto::store::{StoreRefusal, StoreRequest, StoreResponse};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

/// A CA as an operator makes it.
struct Ca(PathBuf);

impl Ca {
    fn new(folder: &Path, name: &str) -> Ca {
        let path = folder.join(name);
        let (exit, _, error) = run(&sibling("raftctl"), &["cert", "init-ca", path.to_str().unwrap(), "--name", name]);
        assert_eq!(exit, Some(0), "{error}");
        Ca(path)
    }

    fn pem(&self) -> String {
        self.0.join("ca.pem").to_str().unwrap().to_owned()
    }

    /// Certificate and key, as `--cert` and `--key` name them.
    fn issue(&self, role: &str, host: Option<&str>, life: &str, out: &str) -> (String, String) {
        let out = self.0.join(out).to_str().unwrap().to_owned();
        let mut arguments = vec!["cert", "issue", self.0.to_str().unwrap(), "--role", role, "--name", "one"];
        arguments.extend(["--for", life, "--out", &out]);
        arguments.extend(host.iter().flat_map(|host| ["--host", *host]));
        let (exit, _, error) = run(&sibling("raftctl"), &arguments);
        assert_eq!(exit, Some(0), "{error}");
        (format!("{out}.pem"), format!("{out}-key.pem"))
    }
}

/// Runs raftctl with a certificate; its exit code and what it says on stderr.
fn ask(ca: &str, (cert, key): &(String, String), arguments: &[&str]) -> (Option<i32>, String) {
    let all = [&["--cacert", ca, "--cert", cert, "--key", key, "--timeout", "3s"], arguments].concat();
    let (exit, _, error) = run(&sibling("raftctl"), &all);
    (exit, error)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_flow_and_strangers_are_turned_away() {
    let cluster = Cluster::start();
    let tls = cluster.about.tls.clone().expect("a playground speaks TLS unless told otherwise");
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    alice.send(Conversation::peer("bob").unwrap(), "hello").await.unwrap();
    let entry = tokio::time::timeout(crate::common::PATIENCE, inbox.next()).await.unwrap().unwrap().unwrap();
    assert!(matches!(&entry.body, EntryBody::Here { body, .. } if &body[..] == b"hello"), "{entry:?}");

    let playground = cluster.data().to_str().unwrap().to_owned();
    let (exit, _, error) = run(&sibling("raftctl"), &["--playground", &playground, "cluster", "status"]);
    assert_eq!(exit, Some(0), "{error}");
    // All of them show certificates of their roles, and one that ends in a thousand years is not for ever.
    let nodes = |more: &[&str]| {
        run(&sibling("raftctl"), &[&["--playground", &playground, "-o", "json", "cert", "nodes"][..], more].concat())
    };
    let (exit, said, error) = nodes(&[]);
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let roles: Vec<_> = said["items"].as_array().unwrap().iter().map(|item| item["role"].as_str().unwrap()).collect();
    let expected = cluster.about.nodes.iter().map(|node| node.name.split('-').next().unwrap());
    let (mut expected, mut found): (Vec<_>, _) = (expected.collect(), roles.clone());
    expected.sort_unstable();
    found.sort_unstable();
    assert!(exit == Some(0) && expected == found, "{exit:?} {roles:?} {error}");
    assert_eq!(nodes(&["--within", "1000000d"]).0, Some(10));
    let store = cluster.nodes(PlaygroundRole::Store)[0].clone();
    let status = ["--endpoints", &store, "node", "ls"];

    // Without a certificate: the store says why in the words of HTTP/2.
    let plain = ["--endpoints", &store, "--timeout", "3s"];
    let (exit, _, error) = run(&sibling("raftctl"), &[&plain[..], &["node", "ls"]].concat());
    assert!(exit == Some(2) && error.contains("--cacert"), "plaintext is said, or not spoken: {exit:?} {error}");
    for (verb, exit) in [(["node", "ls"], 5), (["cluster", "status"], 10)] {
        let (said, _, error) = run(&sibling("raftctl"), &[&plain[..], &["--insecure-plaintext"], &verb].concat());
        assert!(said == Some(exit) && error.contains("speaks TLS only"), "{verb:?} {said:?} {error}");
    }

    // Of another CA.
    let folder = tempfile::tempdir().unwrap();
    let other = Ca::new(folder.path(), "other");
    let admin = other.issue("admin", None, "30d", "admin");
    let (exit, error) = ask(&tls.ca, &admin, &status);
    assert!(exit == Some(2) && error.contains("is not signed by"), "{exit:?} {error}");
    let (exit, error) = ask(&other.pem(), &admin, &status);
    assert!(exit == Some(6) && error.contains("UnknownIssuer"), "{exit:?} {error}");

    let both = folder.path().join("both.pem").to_str().unwrap().to_owned();
    std::fs::write(&both, [&tls.ca, &other.pem()].map(|file| std::fs::read_to_string(file).unwrap()).concat()).unwrap();
    let (exit, error) = ask(&both, &admin, &status);
    assert!(exit == Some(6) && error.contains("refuses this certificate"), "{exit:?} {error}");
    // And a store that speaks none is not spoken with.
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let plain = ["store", "--data-dir", &data, "--listen", "127.0.0.1:0", "--insecure-plaintext"];
    let plain = Process::start(&plain);
    let (exit, error) = ask(&other.pem(), &admin, &["--endpoints", plain.address(), "node", "ls"]);
    assert!(exit == Some(6) && error.contains("speaks no TLS"), "{exit:?} {error}");

    // A node's certificate is no operator's.
    let of = |name: &str| {
        let file = |end: &str| cluster.data().join(format!("keys/nodes/{name}{end}.pem")).to_str().unwrap().to_owned();
        (file(""), file("-key"))
    };
    for name in ["store-1", "logic-1", "gateway-1"] {
        let (exit, error) = ask(&tls.ca, &of(name), &status);
        assert!(exit == Some(2) && error.contains("not of role admin"), "{name}: {exit:?} {error}");
    }
    every_role_at_every_door(&cluster).await;

    // Somebody without TLS, and with a certificate of nobody's, is counted.
    let metrics_of = &cluster.about.nodes.iter().find(|node| node.address == store).unwrap().metrics;
    let text = metrics(metrics_of);
    assert!(text.contains("tls_connections_refused_total{reason=\"Plaintext\"}"), "{text}");
    assert!(text.contains("tls_connections_refused_total{reason=\"Handshake\"}"), "{text}");
    assert!(text.contains("tls_calls_refused_total{door=\"Raft\",role=\"logic\"}"), "{text}");
    assert!(text.contains("tls_connections_refused_total{reason=\"Role\"}"), "{text}");
    let end = crate::common::metric(metrics_of, "seriatim_tls_certificate_end_timestamp_seconds").unwrap();
    assert!(end > 4e9, "{end}");
    assert_eq!(crate::common::metric(metrics_of, "seriatim_tls_cas"), Some(1.0));
}

/// The node's own certificate, for somebody who speaks as it does.
fn as_node(cluster: &Cluster, role: NodeRole, name: &str) -> Mtls {
    let files: Files = seriatim_mtls::development::files(&cluster.data().join("keys/nodes"), name);
    Mtls::once(&files, Own { role, hosts: Vec::new() }).unwrap()
}

/// What has a rule of its own behind a door is refused there: writes on the stores' channel, and what makes clusters.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_writes_nothing_for_another_and_makes_no_cluster() {
    let cluster = Cluster::start();
    let address = cluster.nodes(PlaygroundRole::Store)[0].clone();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    for (role, name) in [(NodeRole::Store, "store-2"), (NodeRole::Admin, "operator")] {
        let mtls = as_node(&cluster, role, name);
        let channel = mtls.connect(&endpoint, NodeRole::Store).await.unwrap();
        let propose = StoreRequest::Propose {
            id: 7,
            group: GroupId(1),
            count: 0,
            batch: codec::encode_bytes(&Vec::<Command>::new()),
        };
        let frames = [StoreRequest::Hello { cluster: None }, propose].iter().map(codec::encode_bytes).collect();
        let requests = tokio_stream::iter([Packet { frames }]).chain(tokio_stream::pending());
        let mut answers = StoreClient::new(channel.clone()).channel(requests).await.unwrap().into_inner();
        let refused = async {
            loop {
                for frame in answers.message().await.unwrap().unwrap().frames {
                    if let StoreResponse::Proposed { id: 7, result } = codec::decode(&frame).unwrap() {
                        return result;
                    }
                }
            }
        };
        let refused = tokio::time::timeout(crate::common::PATIENCE, refused).await.unwrap();
        let is_forbidden = matches!(&refused, Err(StoreRefusal::Refused(why)) if why.code == ErrorCode::Forbidden);
        assert!(is_forbidden, "{role:?}: {refused:?}");
        let init = AdminRequest::InitCluster { stores: vec![address.clone()], groups: 1, voters: None };
        let packet = Packet { frames: vec![codec::encode_bytes(&init)] };
        let answer = AdminClient::new(channel).call(packet).await.unwrap().into_inner();
        let AdminResponse::Refused(why) = codec::decode(&answer.frames[0]).unwrap() else {
            panic!("{role:?} made one")
        };
        // An operator is heard, and told why it cannot be.
        assert_eq!(why.code == ErrorCode::Forbidden, role == NodeRole::Store, "{role:?}: {why:?}");
    }
}

/// What a caller of each role hears at each door of real processes.
async fn every_role_at_every_door(cluster: &Cluster) {
    let operators = cluster.about.nodes.iter().find_map(|node| node.operators.clone()).unwrap();
    for (role, name) in [
        (NodeRole::Admin, "operator"),
        (NodeRole::Application, "application"),
        (NodeRole::Gateway, "gateway-1"),
        (NodeRole::Logic, "logic-1"),
        (NodeRole::Store, "store-1"),
    ] {
        let mtls = as_node(cluster, role, name);
        for door in Door::ALL {
            let (address, peer, other) = match door {
                Door::Store | Door::Raft | Door::Admin => {
                    (cluster.nodes(PlaygroundRole::Store)[0].clone(), NodeRole::Store, NodeRole::Logic)
                }
                Door::Logic | Door::Peer | Door::Sequence => {
                    (cluster.nodes(PlaygroundRole::Logic)[0].clone(), NodeRole::Logic, NodeRole::Store)
                }
                Door::Operator => (operators.clone(), NodeRole::Gateway, NodeRole::Logic),
            };
            let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
            let wrong = seriatim_mtls::dial::why(&mtls.connect(&endpoint, other).await.unwrap_err());
            assert!(wrong.contains(&format!("a {} was dialled", other.name())), "{wrong}");
            let whose = format!("seriatim-node://{}/{name}", role.name());
            let deadline = Instant::now() + crate::common::PATIENCE;
            let is_refused = loop {
                match knock(&mtls, &endpoint, peer, door).await {
                    Ok(()) => break false,
                    // Refused at its door, or, who has none behind the port, with the word of the connection.
                    Err(said) if said.contains(&whose) => break true,
                    // The connection ended before its word was read.
                    Err(said) => assert!(Instant::now() < deadline, "{role:?} at {door:?}: {said}"),
                }
            };
            assert_eq!(is_refused, !door.callers().contains(&role), "{role:?} at {door:?}");
        }
    }
}

/// Asks for nothing at a door. What is said, unless the door is open: then the service may refuse nothing as nothing.
async fn knock(mtls: &Mtls, endpoint: &Endpoint, peer: NodeRole, door: Door) -> Result<(), String> {
    let channel = mtls.connect(endpoint, peer).await.map_err(|error| seriatim_mtls::dial::why(&error))?;
    let none = || tokio_stream::iter(Vec::<Packet>::new());
    let said: Result<(), Status> = match door {
        Door::Store => StoreClient::new(channel).channel(none()).await.map(drop),
        Door::Raft => RaftClient::new(channel).channel(none()).await.map(drop),
        Door::Admin => AdminClient::new(channel).call(Packet::default()).await.map(drop),
        Door::Logic => LogicClient::new(channel).channel(none()).await.map(drop),
        Door::Peer => PeerClient::new(channel).channel(none()).await.map(drop),
        Door::Sequence => {
            let mut client = SequenceServiceClient::new(channel);
            let calls = client.calls(tokio_stream::iter(Vec::<CallsRequest>::new())).await.map(drop);
            let next = client.next(NextRequest::default()).await.map(drop);
            let is_cut = |said: &Result<(), Status>| {
                said.as_ref().is_err_and(|status| std::error::Error::source(status).is_some())
            };
            // A connection that ended says nothing of the door.
            match is_cut(&calls) {
                true => calls,
                false => {
                    let codes = [&calls, &next].map(|said| said.as_ref().err().map(Status::code));
                    assert!(is_cut(&next) || codes[0] == codes[1], "one door: {calls:?}, {next:?}");
                    next
                }
            }
        }
        Door::Operator => OperatorClient::new(channel).call(Packet::default()).await.map(drop),
    };
    match said {
        Err(status) if status.code() == Code::PermissionDenied => Err(format!("{status:?}")),
        Err(status) if std::error::Error::source(&status).is_some() => Err(format!("{status:?}")),
        _ => Ok(()),
    }
}

#[test]
fn a_start_says_what_is_wrong_with_the_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (ca, other) = (Ca::new(folder.path(), "ca"), Ca::new(folder.path(), "other"));
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let good = ca.issue("store", Some("127.0.0.1"), "30d", "good");
    let start = |ca: &str, (cert, key): &(String, String), more: &[&str]| {
        let tls = ["--tls-ca", ca, "--tls-cert", cert, "--tls-key", key];
        let store = ["store", "--data-dir", &data, "--listen", "127.0.0.1:0"];
        let (exit, _, error) = run(Path::new(crate::common::SERIATIM), &[&store[..], &tls, more].concat());
        assert_eq!(exit, Some(1), "{error}");
        error
    };
    let gateway = ca.issue("gateway", Some("127.0.0.1"), "30d", "gateway");
    let elsewhere = ca.issue("store", Some("10.0.0.1"), "30d", "elsewhere");
    let short = ca.issue("store", Some("127.0.0.1"), "1s", "short");
    std::thread::sleep(Duration::from_secs(2));
    for (ca, pair, more, why) in [
        (ca.pem(), gateway.clone(), &[][..], "seriatim-node://gateway/one, and not of role store"),
        (ca.pem(), elsewhere, &[], "does not name the host 127.0.0.1"),
        (ca.pem(), short, &[], "it has ended"),
        (ca.pem(), (good.0.clone(), gateway.1), &[], "it is not the key of"),
        (other.pem(), good.clone(), &[], "is not signed by"),
        (ca.pem(), ("nowhere".to_owned(), good.1.clone()), &[], "read nowhere"),
        (good.0.clone(), good.clone(), &[], "no X.509 certificate of a CA"),
        (ca.pem(), good.clone(), &["--insecure-plaintext"], "with TLS and without it"),
    ] {
        let error = start(&ca, &pair, more);
        assert!(error.contains(why), "{why}: {error}");
    }
    let neither = run(Path::new(crate::common::SERIATIM), &["store", "--data-dir", &data, "--listen", "127.0.0.1:0"]);
    assert!(neither.2.contains("--tls-ca") && neither.2.contains("--insecure-plaintext"), "{}", neither.2);
}

/// Certificates and then their CA are changed under load; nobody is started again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_and_their_ca_are_changed_without_a_restart() {
    let cluster = Cluster::start();
    let nodes = cluster.data().join("keys/nodes");
    let folder = tempfile::tempdir().unwrap();
    let new = Ca::new(folder.path(), "new");
    let alice = cluster.device("alice", "phone").await;
    let bob = Conversation::peer("bob").unwrap();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let load = tokio::spawn(async move {
        let (mut sent, mut longest) = (0_u32, Duration::ZERO);
        while !*stopped.borrow_and_update() {
            let began = Instant::now();
            alice.send(bob.clone(), format!("message {sent}")).await.unwrap();
            longest = longest.max(began.elapsed());
            sent += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        (sent, longest)
    });
    // What is up goes on; who is started anew shows what is there now, and must be taken by everybody.
    let again = |names: [&str; 2]| {
        for name in names {
            cluster.kill(name);
            cluster.start_node(name);
        }
    };
    let all = |what: &str, metric: &str, holds: fn(f64) -> bool| {
        wait_until(what, || {
            let mut values = cluster.about.nodes.iter().map(|node| crate::common::metric(&node.metrics, metric));
            values.all(|value| value.is_some_and(holds))
        });
    };
    let old = std::fs::read_to_string(nodes.join("ca.pem")).unwrap();
    let both = old.clone() + &std::fs::read_to_string(new.pem()).unwrap();
    std::fs::write(nodes.join("ca.pem"), both).unwrap();
    all("both CAs are taken", "seriatim_tls_cas", |count| count == 2.0);
    again(["store-1", "logic-1"]);
    // Half of a pair changes nothing.
    for node in &cluster.about.nodes {
        let role = node.name.split('-').next().unwrap();
        let (cert, key) = new.issue(role, Some("127.0.0.1"), "30d", &node.name);
        std::fs::copy(cert, nodes.join(format!("{}.pem", node.name))).unwrap();
        std::fs::rename(key, nodes.join(format!("{}-key.pem.new", node.name))).unwrap();
    }
    all("half of it is refused", "seriatim_tls_reads_total{outcome=\"Refused\"}", |count| count >= 1.0);
    for node in &cluster.about.nodes {
        let key = nodes.join(format!("{}-key.pem", node.name));
        std::fs::rename(nodes.join(format!("{}-key.pem.new", node.name)), key).unwrap();
    }
    // The old ones are for ever.
    all("certificates are new", "seriatim_tls_certificate_end_timestamp_seconds", |end| end < 4e9);
    again(["store-2", "logic-2"]);
    std::fs::copy(new.pem(), nodes.join("ca.pem")).unwrap();
    all("the old CA is gone", "seriatim_tls_cas", |count| count == 1.0);
    again(["store-3", "logic-1"]);
    let before = cluster.device("carol", "phone").await;
    before.send(Conversation::peer("bob").unwrap(), "after all of it").await.unwrap();
    stop.send_replace(true);
    let (sent, longest) = load.await.unwrap();
    // A killed node is missed for an election or a lease, and nothing else makes a send wait.
    assert!(sent > 0 && longest < Duration::from_secs(15), "{sent} sent, the longest took {longest:?}");
    let admin = new.issue("admin", None, "1d", "admin");
    let stores = cluster.nodes(PlaygroundRole::Store).join(",");
    wait_until("a group without a leader has one", || {
        ask(&new.pem(), &admin, &["--endpoints", &stores, "cluster", "status"]).0 == Some(0)
    });
}
