//! Client certificates instead of tokens: real gateways and logic nodes, over QUIC and over WebSockets.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::common::{Cluster, DeviceCa, Issued, PATIENCE, Process, wait_until, wait_until_async};
use rcgen::SigningKey;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use seriatim_client::{Client, ClientBuilder, ConnectError, Conversation, Endpoint, Transport};
use seriatim_logic::{LogicConfig, LogicServer};
use seriatim_proto::certificate::{ClientCa, Roots};
use seriatim_proto::codec;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::logic_client::LogicClient;
use seriatim_proto::ids::{DeviceId, TenantId};
use seriatim_proto::logic::{Call, CallError, CertificateProof, GatewayRequest, GatewayResponse};
use seriatim_proto::playground::PlaygroundRole;
use seriatim_proto::token::Verifier;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

const HOUR: i64 = 3_600;
const WAYS: [Transport; 2] = [Transport::Quic, Transport::WebSocket];

/// One store and one logic node do.
const SMALL: [&str; 5] = ["--stores", "1", "--logic", "1", "--insecure-plaintext"];

fn refused(connected: Result<Client, ConnectError>) -> ErrorCode {
    match connected.expect_err("refused") {
        ConnectError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    }
}

/// What TLS says.
fn handshake(connected: Result<Client, ConnectError>) -> String {
    match connected.expect_err("refused") {
        ConnectError::Handshake(text) => text,
        other => panic!("{other}"),
    }
}

async fn hello_to_bob(client: &Client) -> bool {
    client.send(Conversation::peer("bob").unwrap(), "hello").await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_lets_its_user_in_and_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("devices.pem");
    let (ours, theirs) = (DeviceCa::new("ours"), DeviceCa::new("theirs"));
    let operators = folder.path().join("operators");
    let raftctl = |arguments: &[&str]| crate::common::run(&crate::common::sibling("raftctl"), arguments);
    let (exit, _, error) = raftctl(&["cert", "init-ca", operators.to_str().unwrap()]);
    assert_eq!(exit, Some(0), "{error}");
    let operators_ca = std::fs::read_to_string(operators.join("ca.pem")).unwrap();
    std::fs::write(&file, ours.pem.clone() + &operators_ca).unwrap();
    let arguments = [&SMALL[..], &["--client-ca", file.to_str().unwrap()]].concat();
    let cluster = Cluster::start_with(folder.path().join("cluster"), &arguments);
    let builder = |issued: &Issued, way| issued.shown_by(cluster.builder("phone")).transport(way);
    let alice = ours.issue(&["seriatim://1/alice"], HOUR);

    for way in WAYS {
        let client = builder(&alice, way).connect().await.unwrap();
        let identity = client.identity().unwrap();
        assert_eq!((identity.tenant, identity.user.as_str()), (TenantId(1), "alice"), "{way:?}");
        assert!(hello_to_bob(&client).await, "{way:?}");

        // Beside a token, the token's rules; and both are of one user.
        let with = async |issued: &Issued, token: String| builder(issued, way).token(token).connect().await;
        assert!(hello_to_bob(&with(&alice, cluster.token("alice", HOUR)).await.unwrap()).await, "{way:?}");
        assert_eq!(refused(with(&alice, cluster.token("bob", HOUR)).await), ErrorCode::AuthFailed, "{way:?}");
        assert_eq!(refused(with(&alice, cluster.token_of(2, "alice")).await), ErrorCode::AuthFailed, "{way:?}");
        assert_eq!(refused(with(&alice, cluster.token("alice", -60)).await), ErrorCode::AuthExpired, "{way:?}");
        assert_eq!(refused(with(&alice, "abc".to_owned()).await), ErrorCode::AuthFailed, "{way:?}");

        // One that names nobody is of no use without a token, and does not harm beside one.
        let nobody = ours.issue(&["https://example.org/alice"], HOUR);
        assert_eq!(refused(builder(&nobody, way).connect().await), ErrorCode::AuthFailed, "{way:?}");
        assert!(hello_to_bob(&with(&nobody, cluster.token("alice", HOUR)).await.unwrap()).await, "{way:?}");
        let two = ours.issue(&["seriatim://1/alice", "seriatim://1/bob"], HOUR);
        assert_eq!(refused(builder(&two, way).connect().await), ErrorCode::AuthFailed, "{way:?}");
        assert_eq!(refused(with(&two, cluster.token("alice", HOUR)).await), ErrorCode::AuthFailed, "{way:?}");

        // TLS refuses these, and says why.
        let text = handshake(builder(&theirs.issue(&["seriatim://1/alice"], HOUR), way).connect().await);
        assert!(text.to_lowercase().contains("unknown"), "{way:?}: {text}");
        let text = handshake(builder(&ours.issue(&["seriatim://1/alice"], -60), way).connect().await);
        assert!(text.to_lowercase().contains("expired"), "{way:?}: {text}");

        // Neither.
        let neither = cluster.builder("phone").transport(way).token("").connect().await;
        assert_eq!(refused(neither), ErrorCode::AuthFailed, "{way:?}");
    }

    // One that `raftctl cert` has signed; and `cert status` sees what the gateway serves.
    let dave = folder.path().join("dave");
    let out = dave.to_str().unwrap();
    let issue = ["cert", "issue", operators.to_str().unwrap(), "--tenant", "7", "--user", "dave", "--out", out];
    let (exit, _, error) = raftctl(&issue);
    assert_eq!(exit, Some(0), "{error}");
    let read = |end: &str| std::fs::read(format!("{out}{end}")).unwrap();
    let shown = cluster.builder("phone").client_certificate(&read(".pem"), &read("-key.pem"));
    let identity = shown.connect().await.unwrap().identity().unwrap();
    assert_eq!((identity.tenant, identity.user.as_str()), (TenantId(7), "dave"));
    let playground = cluster.data().to_str().unwrap();
    let status = |within: &str| {
        let arguments = ["--playground", playground, "-o", "json", "cert", "status", "--within", within];
        let (exit, out, error) = raftctl(&arguments);
        (exit, serde_json::from_str::<serde_json::Value>(&out).unwrap_or_else(|_| panic!("{error}")))
    };
    let (exit, served) = status("14d");
    assert_eq!((exit, &served["items"][0]["trusted"]), (Some(0), &serde_json::Value::Bool(true)), "{served}");
    assert_eq!(served["items"][0]["webtransport"]["hashes"].as_array().unwrap().len(), 2, "{served}");
    assert_eq!(status("1000000d").0, Some(10), "it ends before that");
    let stranger = operators.join("ca.pem");
    let (exit, text, error) =
        raftctl(&["--playground", playground, "--ca", stranger.to_str().unwrap(), "cert", "status"]);
    assert!(exit == Some(10) && text.contains("not trusted"), "{exit:?} {text} {error}");

    let bob = cluster.device("bob", "laptop").await;
    let arrived = async || bob.sync(None, 0).await.unwrap().entries.len() == 6;
    wait_until_async("bob has all six", arrived).await;

    a_session_ends_with_its_certificate(&cluster, &ours, folder.path()).await;
    the_end_of_a_ca_is_said(&cluster, folder.path());
    others_are_taken_without_a_restart(&cluster, &file, [&ours, &theirs]).await;
}

/// What the gateway has refused because its time was over.
fn refused_as_expired(cluster: &Cluster) -> f64 {
    let node = cluster.about.nodes.iter().find(|node| node.role == PlaygroundRole::Gateway).unwrap();
    let name = "seriatim_gateway_client_certificates_refused_total{reason=\"expired\"}";
    crate::common::metric(&node.metrics, name).unwrap_or(0.0)
}

async fn a_session_ends_with_its_certificate(cluster: &Cluster, ca: &DeviceCa, folder: &Path) {
    let files = [folder.join("renewed.pem"), folder.join("renewed-key.pem")];
    let write = |issued: &Issued| {
        for (file, text) in files.iter().zip([issued.chain.clone(), issued.key.serialize_pem()]) {
            std::fs::write(file, text).unwrap();
        }
    };
    let ca_pem = std::fs::read(&cluster.about.ca_certificate).unwrap();
    let endpoint = |issued: &Issued| {
        let (chain, key) = (issued.chain.as_bytes(), issued.key.serialize_pem());
        Endpoint::with_client_certificate(cluster.gateway(), &ca_pem, chain, key.as_bytes()).unwrap()
    };
    let connect = async |endpoint: &Endpoint, way| {
        let builder = Client::builder(cluster.gateway(), "localhost").endpoint(endpoint).device("phone");
        builder.transport(way).connect_timeout(PATIENCE).request_timeout(PATIENCE).connect().await
    };
    // On a slow machine it may end before everybody is in.
    let mut clients = None;
    for seconds in [6, 30, 120] {
        let short = ca.issue(&["seriatim://1/alice"], seconds);
        let (ending, renewed) = (endpoint(&short), endpoint(&short));
        write(&short);
        let [chain, key] = &files;
        let from_files = Endpoint::with_client_certificate_files(cluster.gateway(), &ca_pem, chain, key).unwrap();
        let waits = cluster.builder("phone").client_certificate_files(chain, key).connect().await;
        let waits = [waits, connect(&from_files, Transport::WebSocket).await];
        let ends = [connect(&ending, Transport::Quic).await, connect(&ending, Transport::WebSocket).await];
        let goes_on = [connect(&renewed, Transport::Quic).await, connect(&renewed, Transport::WebSocket).await];
        if let ([Ok(a), Ok(b)], [Ok(c), Ok(d)], [Ok(e), Ok(f)]) = (ends, goes_on, waits) {
            let longer = ca.issue(&["seriatim://1/alice"], HOUR);
            let key = longer.key.serialize_pem();
            renewed.replace_client_certificate(longer.chain.as_bytes(), key.as_bytes()).unwrap();
            clients = Some(([a, b], [c, d], [e, f]));
            break;
        }
    }
    let (ends, goes_on, waits) = clients.unwrap();
    for client in &ends {
        wait_until_async("the session ends for good", async || client.status().await.is_err()).await;
    }
    for client in &goes_on {
        wait_until_async("there is another session", async || client.connections() >= 2).await;
        assert!(hello_to_bob(client).await);
    }
    // Those with files were refused like those that ended, and try on; then the files are renewed.
    let refused = refused_as_expired(cluster);
    wait_until_async("they come again", async || refused_as_expired(cluster) >= refused + 4.0).await;
    write(&ca.issue(&["seriatim://1/alice"], HOUR));
    for client in &waits {
        assert!(hello_to_bob(client).await);
    }
}

/// A gateway whose CA ends soon or has ended, and which takes certificates of that CA.
fn the_end_of_a_ca_is_said(cluster: &Cluster, folder: &Path) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let params = |name: &str, end: u64| {
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(end);
        params
    };
    let day = 24 * 3_600;
    let leaf_end = now + 300 * day;
    for (ca_end, says) in
        [(now + 400 * day, Ok(())), (now + 13 * day + day / 2, Err("13 d")), (now - 60, Err("the CA has ended"))]
    {
        let mut ca = params("a CA", ca_end);
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let (ca_key, key) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
        let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
        let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
        let chain = params("a gateway", leaf_end).signed_by(&key, &issuer).unwrap().pem();
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (ca, chain, key) = (write("a", ca_pem), write("b", chain), write("c", key.serialize_pem()));
        let gateway = Process::start(&[
            "gateway",
            "--insecure-plaintext",
            "--listen",
            "127.0.0.1:0",
            // Nobody is there: certificates are all that is needed.
            "--logic",
            "127.0.0.1:1",
            "--certificate-chain",
            &chain,
            "--private-key",
            &key,
            "--client-ca",
            &ca,
            "--token-keys",
            &cluster.about.token_public_key,
        ]);
        let arguments = ["--gateway", gateway.address(), "--ca", &ca, "cert", "status"];
        let (exit, text, error) = crate::common::run(&crate::common::sibling("raftctl"), &arguments);
        assert!(text.contains("CA#1"), "{text} {error}");
        match says {
            Ok(()) => assert_eq!(exit, Some(0), "{text} {error}"),
            Err(word) => assert!(exit == Some(10) && text.contains(word), "{exit:?} {text} {error}"),
        }
        let metric = |name: &str| crate::common::metric(gateway.metrics(), name);
        wait_until("it has looked", || {
            metric("seriatim_gateway_certificate_end_timestamp_seconds") == Some(leaf_end as f64)
        });
        assert_eq!(metric("seriatim_client_ca_end_timestamp_seconds"), Some(ca_end as f64));
    }
}

async fn others_are_taken_without_a_restart(cluster: &Cluster, file: &Path, [ours, theirs]: [&DeviceCa; 2]) {
    let user = ["seriatim://1/carol"];
    let (old, new) = (ours.issue(&user, HOUR), theirs.issue(&user, HOUR));
    let comes_in = async |issued: &Issued| {
        let connected = issued.shown_by(cluster.builder("phone")).connect().await;
        // The logic node looks at its file by itself.
        match connected {
            Ok(client) => hello_to_bob(&client).await,
            Err(_) => false,
        }
    };
    let stays = old.shown_by(cluster.builder("phone")).connect().await.unwrap();
    // The logic node hears of a session with its first request.
    assert!(hello_to_bob(&stays).await);
    std::fs::write(file, "nothing of use").unwrap();
    assert!(comes_in(&old).await, "the old one stays");
    std::fs::write(file, &theirs.pem).unwrap();
    wait_until_async("the new CA is taken", async || comes_in(&new).await).await;
    wait_until_async("the old CA is not", async || !comes_in(&old).await).await;
    assert!(hello_to_bob(&stays).await, "a session that a logic node knows goes on");
}

/// A logic node of this process, beside those of the cluster.
struct Logic {
    address: String,
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<()>,
}

impl Logic {
    async fn start(cluster: &Cluster, client_ca: Option<ClientCa>) -> Self {
        let key = std::fs::read(&cluster.about.token_public_key).unwrap();
        let config = LogicConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: None,
            stores: cluster.nodes(PlaygroundRole::Store),
            verifier: Verifier::from_public_pem(&key).unwrap(),
            client_ca,
            limits: BTreeMap::new(),
            insecure_plaintext: true,
            mtls: None,
        };
        let server = LogicServer::start(config, &mut prometheus_client::registry::Registry::default()).await.unwrap();
        let address = server.address().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move { server.run(async move { drop(stopped.await) }).await.unwrap() });
        Self { address, stop, running }
    }

    async fn stop(self) {
        drop(self.stop);
        tokio::time::timeout(Duration::from_secs(30), self.running).await.unwrap().unwrap();
    }
}

/// What a gateway sends behind a handshake, signed by this key.
fn proof(chain: &Issued, signer: &Issued) -> CertificateProof {
    let signed = [&[b' '; 64][..], b"TLS 1.3, client CertificateVerify\0", &[7; 32]].concat();
    let der = CertificateDer::from_pem_slice(chain.chain.as_bytes()).unwrap();
    let signature = signer.key.sign(&signed).unwrap().into();
    CertificateProof { chain: vec![der.to_vec().into()], signed: signed.into(), scheme: 0x0403, signature }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logic_believes_no_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_with(folder.path().join("cluster"), &SMALL);
    let ca = DeviceCa::new("ours");
    let (alice, mallory) = (ca.issue(&["seriatim://1/alice"], HOUR), ca.issue(&["seriatim://1/mallory"], HOUR));

    // A gateway that was given no CA never asks: a certificate does neither good nor harm.
    let shown = || alice.shown_by(cluster.builder("phone"));
    assert_eq!(refused(shown().connect().await), ErrorCode::AuthFailed);
    assert!(hello_to_bob(&shown().token(cluster.token("carol", HOUR)).connect().await.unwrap()).await);

    // A gateway that was, before a logic node that was not.
    let file = folder.path().join("devices.pem");
    std::fs::write(&file, &ca.pem).unwrap();
    let gateway = |logic: &str| {
        Process::start(&[
            "gateway",
            "--insecure-plaintext",
            "--listen",
            "127.0.0.1:0",
            "--logic",
            logic,
            "--development-ca",
            folder.path().join("gateway").to_str().unwrap(),
            "--token-keys",
            &cluster.about.token_public_key,
            "--client-ca",
            file.to_str().unwrap(),
        ])
    };
    let builder = |gateway: &Process| -> ClientBuilder {
        let ca = std::fs::read(folder.path().join("gateway/ca.pem")).unwrap();
        let builder = Client::builder(gateway.address().parse().unwrap(), "localhost").ca_pem(&ca).device("phone");
        builder.connect_timeout(PATIENCE).request_timeout(PATIENCE)
    };
    let before = gateway(&cluster.nodes(PlaygroundRole::Logic).join(","));
    if let Ok(client) = alice.shown_by(builder(&before)).connect().await {
        let error = client.status().await.unwrap_err();
        assert!(matches!(error.refusal().code, ErrorCode::AuthFailed | ErrorCode::Shutdown), "{error}");
    }

    // At a logic node that takes certificates, somebody says what a gateway says.
    let logic = Logic::start(&cluster, Some(ClientCa::new(Roots::from_pem(ca.pem.as_bytes()).unwrap()))).await;
    let client = LogicClient::connect(format!("http://{}", logic.address)).await.unwrap();
    let open =
        |session, proof| GatewayRequest::OpenByCertificate { session, proof, device: DeviceId::new("phone").unwrap() };
    let call = |id, session| GatewayRequest::Call { id, session, call: Call::Status };
    let good = proof(&alice, &alice);
    let packet = |frames: &[GatewayRequest]| Packet { frames: frames.iter().map(codec::encode_bytes).collect() };
    let mut link = None;
    wait_until_async("the node greets a gateway", async || {
        let (requests, stream) = mpsc::channel(16);
        requests.send(packet(&[GatewayRequest::Hello { cluster: None }])).await.unwrap();
        let mut client = client.clone();
        let mut answers = client.channel(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let Some(first) = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap() else {
            return false;
        };
        let first = codec::decode::<GatewayResponse>(&first.frames[0]).unwrap();
        link = Some((requests, answers));
        matches!(first, GatewayResponse::Welcome { result: Ok(_) })
    })
    .await;
    let (requests, mut answers) = link.unwrap();
    let frames = [
        // Anybody may have read the certificate.
        open(1, proof(&alice, &mallory)),
        call(1, 1),
        open(2, CertificateProof { signature: bytes::Bytes::new(), ..good.clone() }),
        call(2, 2),
        open(3, good),
        call(3, 3),
    ];
    requests.send(packet(&frames)).await.unwrap();
    let (mut opened, mut replies) = (BTreeMap::new(), BTreeMap::new());
    while opened.len() + replies.len() < 6 {
        let packet = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
        for frame in packet.frames {
            match codec::decode::<GatewayResponse>(&frame).unwrap() {
                GatewayResponse::Opened { session, result } => {
                    let result = result.map(|identity| identity.user.to_string()).map_err(|refusal| refusal.code);
                    opened.insert(session, result);
                }
                GatewayResponse::Reply { id, result } => {
                    replies.insert(id, result);
                }
                _ => {}
            }
        }
    }
    assert_eq!(opened[&1], Err(ErrorCode::AuthFailed));
    assert_eq!(opened[&2], Err(ErrorCode::AuthFailed));
    assert_eq!(opened[&3], Ok("alice".to_owned()));
    for id in [1, 2] {
        let code = match replies[&id].as_ref().unwrap_err() {
            CallError::Refused(refusal) => refusal.code,
            other @ CallError::NotHolder { .. } => panic!("{other}"),
        };
        assert_eq!(code, ErrorCode::AuthFailed);
    }
    assert!(replies[&3].is_ok(), "{:?}", replies[&3]);
    logic.stop().await;
}
