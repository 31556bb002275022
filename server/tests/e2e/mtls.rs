//! Mtls: a cluster whose processes show each other certificates, and whom it turns away. Certificates are those of
//! `raftctl cert`, processes are real.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{Cluster, Process, metrics, run, sibling, wait_until};
use futures_util::StreamExt;
use seriatim_client::{Conversation, EntryBody};
use seriatim_mtls::{Door, Files, Mtls, Own};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::admin_client::AdminClient;
use seriatim_proto::grpc::logic_client::LogicClient;
use seriatim_proto::grpc::operator_client::OperatorClient;
use seriatim_proto::grpc::peer_client::PeerClient;
use seriatim_proto::grpc::raft_client::RaftClient;
use seriatim_proto::grpc::sequence::NextRequest;
use seriatim_proto::grpc::sequence::sequence_service_client::SequenceServiceClient;
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::ids::Seq;
use seriatim_proto::playground::PlaygroundRole;
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
    let store = cluster.nodes(PlaygroundRole::Store)[0].clone();
    let status = ["--endpoints", &store, "cluster", "status"];

    // Without a certificate: the store says why in the words of HTTP/2.
    let (exit, _, error) = run(&sibling("raftctl"), &["--endpoints", &store, "--timeout", "3s", "cluster", "status"]);
    assert!(exit == Some(6) && error.contains("speaks TLS only"), "{exit:?} {error}");

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
    assert_eq!(exit, Some(6), "{error}");
    // And a store that speaks none is not spoken with.
    let data = folder.path().join("data").to_str().unwrap().to_owned();
    let plain = ["store", "--data-dir", &data, "--listen", "127.0.0.1:0", "--insecure-plaintext"];
    let plain = Process::start(&plain);
    let (exit, error) = ask(&other.pem(), &admin, &["--endpoints", plain.address(), "cluster", "status"]);
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
    assert!(text.contains("tls_certificate_end_timestamp_seconds"), "{text}");
}

/// What a caller of each role hears at each door of real processes.
async fn every_role_at_every_door(cluster: &Cluster) {
    let folder = cluster.data().join("keys/nodes");
    let operators = cluster.about.nodes.iter().find_map(|node| node.operators.clone()).unwrap();
    for (role, name) in [
        (NodeRole::Admin, "operator"),
        (NodeRole::Gateway, "gateway-1"),
        (NodeRole::Logic, "logic-1"),
        (NodeRole::Store, "store-1"),
    ] {
        let files: Files = seriatim_mtls::development::files(&folder, name);
        let mtls = Mtls::once(&files, Own { role, hosts: Vec::new() }).unwrap();
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
            let channel = mtls.connect(&endpoint, peer).await.unwrap();
            let none = || tokio_stream::iter(Vec::<Packet>::new());
            let said: Result<(), Status> = match door {
                Door::Store => StoreClient::new(channel).channel(none()).await.map(drop),
                Door::Raft => RaftClient::new(channel).channel(none()).await.map(drop),
                Door::Admin => AdminClient::new(channel).call(Packet::default()).await.map(drop),
                Door::Logic => LogicClient::new(channel).channel(none()).await.map(drop),
                Door::Peer => PeerClient::new(channel).channel(none()).await.map(drop),
                Door::Sequence => SequenceServiceClient::new(channel).next(NextRequest::default()).await.map(drop),
                Door::Operator => OperatorClient::new(channel).call(Packet::default()).await.map(drop),
            };
            let denied = said.as_ref().err().filter(|status| status.code() == Code::PermissionDenied);
            assert_eq!(denied.is_none(), door.callers().contains(&role), "{role:?} at {door:?}: {said:?}");
            if let Some(denied) = denied {
                assert!(denied.message().contains(&format!("seriatim-node://{}/{name}", role.name())), "{denied}");
            }
        }
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
        let mut sent = 0_u32;
        while !*stopped.borrow_and_update() {
            alice.send(bob.clone(), format!("message {sent}")).await.unwrap();
            sent += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        sent
    });
    let seen = |outcome: &str, at_least: f64| {
        let name = format!("seriatim_tls_reads_total{{outcome=\"{outcome}\"}}");
        wait_until(&name, || {
            let all = cluster.about.nodes.iter();
            all.map(|node| crate::common::metric(&node.metrics, &name))
                .all(|count| count.is_some_and(|it| it >= at_least))
        });
    };
    let old = std::fs::read_to_string(nodes.join("ca.pem")).unwrap();
    let both = old.clone() + &std::fs::read_to_string(new.pem()).unwrap();
    std::fs::write(nodes.join("ca.pem"), both).unwrap();
    seen("New", 1.0);
    // Half of a pair changes nothing.
    for node in &cluster.about.nodes {
        let role = node.name.split('-').next().unwrap();
        let (cert, key) = new.issue(role, Some("127.0.0.1"), "30d", &node.name);
        std::fs::copy(cert, nodes.join(format!("{}.pem", node.name))).unwrap();
        std::fs::rename(key, nodes.join(format!("{}-key.pem.new", node.name))).unwrap();
    }
    seen("Refused", 1.0);
    for node in &cluster.about.nodes {
        let key = nodes.join(format!("{}-key.pem", node.name));
        std::fs::rename(nodes.join(format!("{}-key.pem.new", node.name)), key).unwrap();
    }
    seen("New", 2.0);
    std::fs::copy(new.pem(), nodes.join("ca.pem")).unwrap();
    seen("New", 3.0);
    // Connections are made anew: a store and a logic node come back, and speak with the others.
    for name in ["store-1", "logic-1"] {
        cluster.kill(name);
        cluster.start_node(name);
    }
    let before = cluster.device("carol", "phone").await;
    before.send(Conversation::peer("bob").unwrap(), "after all of it").await.unwrap();
    stop.send_replace(true);
    assert!(load.await.unwrap() > 0, "no send failed");
    let (exit, error) = ask(
        &new.pem(),
        &new.issue("admin", None, "1d", "admin"),
        &["--endpoints", &cluster.nodes(PlaygroundRole::Store).join(","), "cluster", "status"],
    );
    assert_eq!(exit, Some(0), "{error}");
}
