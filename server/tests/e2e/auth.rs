//! Who may come in: a gateway and a logic node that get their keys from elsewhere, before a real cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::common::{Cluster, PATIENCE, Process, wait_until_async};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use seriatim_client::{Client, Conversation};
use seriatim_logic::{LogicConfig, LogicServer};
use seriatim_proto::codec;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::logic_client::LogicClient;
use seriatim_proto::ids::DeviceId;
use seriatim_proto::logic::{Call, CallError, GatewayRequest, GatewayResponse};
use seriatim_proto::playground::PlaygroundRole;
use seriatim_proto::token::{AUDIENCE, Claims, KeySet, Verifier};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// A key that signs tokens, under a name.
struct Signer {
    kid: &'static str,
    key: rcgen::KeyPair,
}

impl Signer {
    fn of(kid: &'static str, pem: &str) -> Self {
        Self { kid, key: rcgen::KeyPair::from_pem(pem).unwrap() }
    }

    fn new(kid: &'static str) -> Self {
        Self { kid, key: rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap() }
    }

    fn token(&self, user: &str) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.to_owned());
        let claims =
            Claims { aud: AUDIENCE.to_owned(), sub: user.to_owned(), tenant: 1, exp: 4_000_000_000, scopes: None };
        let key = EncodingKey::from_ed_pem(self.key.serialize_pem().as_bytes()).unwrap();
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    }
}

fn jwks(signers: &[&Signer]) -> String {
    let jwk = |signer: &&Signer| {
        let public = DecodingKey::from_ed_pem(signer.key.public_key_pem().as_bytes()).unwrap();
        let mut jwk = Jwk::from_decoding_key(&public, Some(Algorithm::EdDSA)).unwrap();
        jwk.common.key_id = Some(signer.kid.to_owned());
        jwk
    };
    serde_json::json!({ "keys": signers.iter().map(jwk).collect::<Vec<_>>() }).to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_takes_new_keys_of_its_file_and_logic_has_its_own() {
    let cluster = Cluster::start_plaintext();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    // The playground's logic nodes know one key, whatever it is called.
    let known = Signer::of("known", &std::fs::read_to_string(&cluster.about.token_private_key).unwrap());
    let (first, stranger) = (Signer::new("first"), Signer::new("stranger"));
    std::fs::write(path("jwks.json"), jwks(&[&first])).unwrap();
    let gateway = Process::start(&[
        "gateway",
        "--insecure-plaintext",
        "--listen",
        "127.0.0.1:0",
        "--logic",
        &cluster.nodes(PlaygroundRole::Logic).join(","),
        "--development-ca",
        &path("ca"),
        "--token-keys",
        &path("jwks.json"),
    ]);
    let address = gateway.address().parse().unwrap();
    let connect = async |token: String| {
        let builder = Client::builder(address, "localhost").ca_pem(&std::fs::read(path("ca/ca.pem")).unwrap());
        let connected = builder.device("phone").token(token).connect_timeout(PATIENCE).connect().await;
        connected.map_err(|error| match error {
            seriatim_client::ConnectError::Refused(refusal) => refusal.code,
            other => panic!("{other}"),
        })
    };
    assert_eq!(connect(known.token("alice")).await.err(), Some(ErrorCode::AuthFailed), "not in the file yet");
    std::fs::write(path("jwks.json"), jwks(&[&known, &stranger])).unwrap();
    // The gateway looks at its file for a key that it does not know.
    let alice = connect(known.token("alice")).await.unwrap();
    alice.send(Conversation::peer("bob").unwrap(), "hello").await.unwrap();
    assert_eq!(connect(first.token("alice")).await.err(), Some(ErrorCode::AuthFailed), "rotated away");
    // What the gateway takes is verified again behind it.
    if let Ok(mallory) = connect(stranger.token("mallory")).await {
        let sent = tokio::time::timeout(PATIENCE, mallory.send(Conversation::peer("bob").unwrap(), "hello")).await;
        assert!(sent.unwrap().is_err(), "logic does not know the key");
    }
    let bob = cluster.device("bob", "laptop").await;
    wait_until_async("bob has one", async || bob.sync(None, 0).await.unwrap().entries.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_with_its_secret_tells_devices_that_it_has_forgotten_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("secret"), [7; 32]).unwrap();
    let start = |address: &str| {
        // No logic node is there: connections are all that is needed.
        let (ca, secret) = (path("ca"), path("secret"));
        let more = ["--logic", "127.0.0.1:1", "--development-ca", &ca, "--quic-secret", &secret];
        Process::start(&[&["gateway", "--insecure-plaintext", "--listen", address][..], &more].concat())
    };
    let gateway = start("127.0.0.1:0");
    let address = gateway.address().to_owned();
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_file(path("ca/ca.pem")).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider);
    let tls = tls.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"seriatim-1".to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let mut config = quinn::ClientConfig::new(std::sync::Arc::new(tls));
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_millis(200)));
    // Without a word of the gateway it would take this long.
    transport.max_idle_timeout(Some(Duration::from_secs(3_600).try_into().unwrap()));
    config.transport_config(std::sync::Arc::new(transport));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let connecting = endpoint.connect_with(config, address.parse().unwrap(), "localhost").unwrap();
    let connection = connecting.await.unwrap();
    // Killed, without a farewell.
    drop(gateway);
    let _again = start(&address);
    let end = tokio::time::timeout(PATIENCE, connection.closed()).await.expect("it is told");
    assert_eq!(end, quinn::ConnectionError::Reset);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_waits_at_logic_for_its_key_and_the_others_go_on() {
    let cluster = Cluster::start_plaintext();
    let (known, new) = (Signer::new("known"), Signer::new("new"));
    let keys = |signers: &[&Signer]| KeySet::parse(jwks(signers).as_bytes()).unwrap();
    let verifier = Verifier::new(keys(&[&known]));
    let (wish, mut wishes) = mpsc::unbounded_channel::<oneshot::Sender<bool>>();
    verifier.refreshed_by(Box::new(move || {
        let (done, read) = oneshot::channel();
        wish.send(done).unwrap();
        Box::pin(async move { read.await.unwrap_or(false) })
    }));
    let config = LogicConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: None,
        stores: cluster.nodes(PlaygroundRole::Store),
        verifier: verifier.clone(),
        limits: BTreeMap::new(),
        client_ca: None,
        insecure_plaintext: true,
        mtls: None,
    };
    let logic = LogicServer::start(config, &mut prometheus_client::registry::Registry::default()).await.unwrap();
    let address = logic.address();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(logic.run(async move { drop(stopped.await) }));

    let mut client = LogicClient::connect(format!("http://{address}")).await.unwrap();
    let (requests, stream) = mpsc::channel(16);
    let say = async |frames: &[GatewayRequest]| {
        requests.send(Packet { frames: frames.iter().map(codec::encode_bytes).collect() }).await.unwrap();
    };
    let device = || DeviceId::new("phone").unwrap();
    let open =
        |session, signer: &Signer, user| GatewayRequest::Open { session, token: signer.token(user), device: device() };
    let call = |id, session| GatewayRequest::Call { id, session, call: Call::Status };
    say(&[GatewayRequest::Hello { cluster: None }]).await;
    let mut answers = client.channel(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let mut said = Vec::new();
    let mut hear = async |count: usize| -> Vec<GatewayResponse> {
        while said.len() < count {
            let packet = tokio::time::timeout(PATIENCE, answers.message()).await.unwrap().unwrap().unwrap();
            let frames = packet.frames.iter().map(|frame| codec::decode::<GatewayResponse>(frame).unwrap());
            said.extend(frames.filter(|frame| !matches!(frame, GatewayResponse::Table(_))));
        }
        std::mem::take(&mut said)
    };
    assert!(matches!(&hear(1).await[..], [GatewayResponse::Welcome { result: Ok(_) }]));

    // Session 1 waits, and with it its call; session 2 does not.
    say(&[open(1, &new, "alice"), call(10, 1), open(2, &known, "bob"), call(20, 2)]).await;
    let done = tokio::time::timeout(PATIENCE, wishes.recv()).await.unwrap().unwrap();
    let heard = hear(2).await;
    assert!(
        matches!(
            &heard[..],
            [GatewayResponse::Opened { session: 2, result: Ok(_) }, GatewayResponse::Reply { id: 20, result: Ok(_) }]
        ),
        "{heard:?}"
    );
    verifier.replace(keys(&[&known, &new]));
    done.send(true).unwrap();
    let heard = hear(2).await;
    assert!(
        matches!(
            &heard[..],
            [GatewayResponse::Opened { session: 1, result: Ok(_) }, GatewayResponse::Reply { id: 10, result: Ok(_) }]
        ),
        "{heard:?}"
    );

    // A key that nobody has: the look is over, and so is the session; its call is nobody's.
    say(&[open(3, &Signer::new("nobody's"), "carol"), call(30, 3)]).await;
    tokio::time::timeout(PATIENCE, wishes.recv()).await.unwrap().unwrap().send(true).unwrap();
    let heard = hear(2).await;
    assert!(
        matches!(
            &heard[..],
            [GatewayResponse::Opened { session: 3, result: Err(refusal) }, GatewayResponse::Reply { id: 30, result: Err(_) }]
                if refusal.code == ErrorCode::AuthFailed
        ),
        "{heard:?}"
    );

    // Nobody can look: neither the session nor its call is refused for good. Opened again, it waits again.
    let later = Signer::new("later");
    say(&[open(4, &later, "carol"), call(40, 4)]).await;
    tokio::time::timeout(PATIENCE, wishes.recv()).await.unwrap().unwrap().send(false).unwrap();
    let heard = hear(2).await;
    assert!(
        matches!(
            &heard[..],
            [
                GatewayResponse::Opened { session: 4, result: Err(refusal) },
                GatewayResponse::Reply { id: 40, result: Err(CallError::Refused(other)) },
            ] if refusal.code == ErrorCode::Unavailable && other.code == ErrorCode::Unavailable
        ),
        "{heard:?}"
    );
    say(&[call(41, 4), open(4, &later, "carol"), call(42, 4)]).await;
    let done = tokio::time::timeout(PATIENCE, wishes.recv()).await.unwrap().unwrap();
    verifier.replace(keys(&[&known, &new, &later]));
    done.send(true).unwrap();
    let heard = hear(3).await;
    assert!(
        matches!(
            &heard[..],
            [
                GatewayResponse::Reply { id: 41, result: Err(CallError::Refused(refusal)) },
                GatewayResponse::Opened { session: 4, result: Ok(_) },
                GatewayResponse::Reply { id: 42, result: Ok(_) },
            ] if refusal.code == ErrorCode::Unavailable
        ),
        "{heard:?}"
    );

    // A fresh token whose key is looked for: the older one holds meanwhile. Closed meanwhile, it is not opened behind that.
    let latest = Signer::new("latest");
    say(&[open(4, &latest, "carol"), call(43, 4)]).await;
    let done = tokio::time::timeout(PATIENCE, wishes.recv()).await.unwrap().unwrap();
    let heard = hear(1).await;
    assert!(matches!(&heard[..], [GatewayResponse::Reply { id: 43, result: Ok(_) }]), "{heard:?}");
    say(&[GatewayRequest::Close { session: 4 }, call(44, 4)]).await;
    let is_closed = |heard: &[GatewayResponse], call| {
        matches!(
            heard,
            [GatewayResponse::Reply { id, result: Err(CallError::Refused(refusal)) }]
                if *id == call && refusal.code == ErrorCode::AuthFailed
        )
    };
    let heard = hear(1).await;
    assert!(is_closed(&heard, 44), "{heard:?}");
    verifier.replace(keys(&[&known, &latest]));
    done.send(true).unwrap();
    say(&[open(5, &latest, "dave"), call(50, 5)]).await;
    let heard = hear(2).await;
    assert!(
        matches!(
            &heard[..],
            [GatewayResponse::Opened { session: 5, result: Ok(_) }, GatewayResponse::Reply { id: 50, result: Ok(_) }]
        ),
        "{heard:?}"
    );
    say(&[call(45, 4)]).await;
    let heard = hear(1).await;
    assert!(is_closed(&heard, 45), "{heard:?}");
    drop(stop);
    tokio::time::timeout(Duration::from_secs(30), running).await.unwrap().unwrap().unwrap();
}
