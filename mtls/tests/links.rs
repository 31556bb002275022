//! Connections between nodes as they meet on real sockets: who comes in, who is turned away with which word, and when a
//! connection ends.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt;
use prometheus_client::registry::Registry;
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use seriatim_mtls::{Connection, Door, Files, Mtls, Own};
use seriatim_proto::certificate::{NodeName, NodeRole};
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::admin_client::AdminClient;
use seriatim_proto::limits::NODE_HANDSHAKES_ADDRESS_MAX;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::client::TlsStream;
use tonic::transport::Endpoint;

const STORE: [Door; 3] = [Door::Store, Door::Raft, Door::Admin];
const PATIENCE: Duration = Duration::from_secs(20);

struct Ca {
    folder: tempfile::TempDir,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { folder: tempfile::tempdir().unwrap(), pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate with this URI that lives so long, and its key.
    fn sign(&self, uri: &str, life: Duration) -> (String, String) {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let hosts = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut params = CertificateParams::new(hosts).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.not_after = (SystemTime::now() + life).into();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn sign_node(&self, role: NodeRole, life: Duration) -> (String, String) {
        self.sign(&NodeName::new(role, "x").unwrap().to_string(), life)
    }

    /// Files of a node of this CA that takes certificates of `cas`.
    fn files(&self, name: &str, (certificate, key): &(String, String), cas: &[&Ca]) -> Files {
        let path = |end: &str| self.folder.path().join(format!("{name}{end}"));
        let files = Files { ca: path("-ca.pem"), certificate: path(".pem"), key: path("-key.pem") };
        write(&files.ca, &cas.iter().map(|ca| ca.pem.as_str()).collect::<String>());
        write(&files.certificate, certificate);
        write(&files.key, key);
        files
    }

    fn mtls(&self, role: NodeRole, life: Duration) -> Mtls {
        let files = self.files(role.name(), &self.sign_node(role, life), &[self]);
        Mtls::once(&files, Own { role, hosts: Vec::new() }).unwrap()
    }
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

const HOUR: Duration = Duration::from_secs(3_600);

/// A port with a store's doors, and the connections that came through it.
struct Port {
    address: SocketAddr,
    came: mpsc::UnboundedReceiver<Connection>,
    _closed: watch::Sender<bool>,
}

impl Port {
    async fn open(ca: &Ca, at: &str) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (closed, closing) = watch::channel(false);
        let incoming = seriatim_mtls::incoming(listener, &STORE, closing, ca.mtls(NodeRole::Store, HOUR));
        let (sender, came) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut incoming = std::pin::pin!(incoming);
            while let Some(Ok(connection)) = incoming.next().await {
                let _ = sender.send(connection);
            }
        });
        Self { address, came, _closed: closed }
    }
}

/// A client that checks nothing but the CA, and shows this certificate.
async fn raw(
    ca: &Ca,
    (certificate, key): &(String, String),
    stream: TcpStream,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.pem.as_bytes()).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from("127.0.0.1").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// All that the other side says until it ends.
async fn heard(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut said = Vec::new();
    // An end without TLS's own word is an end too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.unwrap();
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_connection_ends_with_the_callers_certificate() {
    let ca = Ca::new();
    let mut port = Port::open(&ca, "127.0.0.1:0").await;
    let began = Instant::now();
    let endpoint = Endpoint::from_shared(format!("http://{}", port.address)).unwrap();
    let caller = ca.mtls(NodeRole::Logic, Duration::from_secs(4));
    let channel = caller.connect(&endpoint, NodeRole::Store).await.unwrap();
    let mut connection = port.came.recv().await.unwrap();
    let mut said = Vec::new();
    tokio::time::timeout(PATIENCE, connection.read_to_end(&mut said)).await.unwrap().unwrap();
    let lived = began.elapsed();
    // Times in certificates are whole seconds, and an end comes up to a tenth earlier.
    assert!(lived > Duration::from_secs(2) && lived < Duration::from_secs(8), "{lived:?}");
    assert!(!said.is_empty(), "what was said before the end was read");
    drop(channel);
}

#[tokio::test]
async fn who_has_no_door_here_is_told_so() {
    let ca = Ca::new();
    let mut port = Port::open(&ca, "127.0.0.1:0").await;
    for (uri, said) in [
        ("seriatim-node://gateway/x", "nothing here is for the role of seriatim-node://gateway/x"),
        ("seriatim-node://application/x", "nothing here is for the role of seriatim-node://application/x"),
        ("seriatim://1/alice", "of no node"),
        ("seriatim-node://king/x", "of no node"),
    ] {
        let stream = TcpStream::connect(port.address).await.unwrap();
        let stream = raw(&ca, &ca.sign(uri, HOUR), stream).await.unwrap();
        let text = heard(stream).await;
        assert!(text.contains(said), "{uri}: {text:?}");
    }
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    assert!(heard(stream).await.contains("this port speaks TLS only"));
    for role in [NodeRole::Logic, NodeRole::Store, NodeRole::Admin] {
        let stream = TcpStream::connect(port.address).await.unwrap();
        let _held = raw(&ca, &ca.sign_node(role, HOUR), stream).await.unwrap();
        assert!(port.came.recv().await.is_some(), "{role:?}");
    }
    assert!(port.came.try_recv().is_err(), "nobody else came in");
}

#[tokio::test]
async fn silent_sockets_take_no_places_for_long_and_none_of_others() {
    let ca = Ca::new();
    let mut port = Port::open(&ca, "127.0.0.1:0").await;
    let mut silent = Vec::new();
    for _ in 0..NODE_HANDSHAKES_ADDRESS_MAX {
        silent.push(TcpStream::connect(port.address).await.unwrap());
    }
    // All places of this address are taken: one more hears the end at once, and says nothing of it by itself.
    let logic = ca.sign_node(NodeRole::Logic, HOUR);
    let crowded = TcpStream::connect(port.address).await.unwrap();
    assert!(raw(&ca, &logic, crowded).await.is_err());
    // Another address is not in the crowd.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0))).unwrap();
    let elsewhere = socket.connect(port.address).await.unwrap();
    let _held = raw(&ca, &logic, elsewhere).await.unwrap();
    assert!(port.came.recv().await.is_some());
    // They are ended, and their places are free.
    for stream in silent {
        assert_eq!(heard(stream).await, "");
    }
    let stream = TcpStream::connect(port.address).await.unwrap();
    let _held = raw(&ca, &logic, stream).await.unwrap();
    assert!(port.came.recv().await.is_some());
}

#[tokio::test]
async fn hosts_are_names_and_addresses_of_both_families() {
    let ca = Ca::new();
    let port = Port::open(&ca, "127.0.0.1:0").await;
    let caller = ca.mtls(NodeRole::Logic, HOUR);
    let number = port.address.port();
    for address in [format!("127.0.0.1:{number}"), format!("localhost:{number}")] {
        let shown = caller.shown_by(&address, NodeRole::Store).await.unwrap().unwrap();
        assert_eq!(shown.len(), 1, "{address}");
    }
    let wrong = caller.shown_by(&port.address.to_string(), NodeRole::Gateway).await.unwrap_err().to_string();
    assert!(wrong.contains("a gateway was dialled, and seriatim-node://store/x answers"), "{wrong}");
    // 127.0.0.3 is this machine too, and no certificate names it.
    let unnamed = Port::open(&ca, "127.0.0.3:0").await;
    let wrong = caller.shown_by(&unnamed.address.to_string(), NodeRole::Store).await.unwrap_err().to_string();
    assert!(wrong.contains("not valid for name \"127.0.0.3\""), "{wrong}");
    assert!(caller.shown_by("nonsense", NodeRole::Store).await.is_err());
    if TcpListener::bind("[::1]:0").await.is_ok() {
        let port = Port::open(&ca, "[::1]:0").await;
        let shown = caller.shown_by(&port.address.to_string(), NodeRole::Store).await;
        assert_eq!(shown.unwrap().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn who_is_refused_after_his_handshake_counts_it() {
    let (ours, other) = (Ca::new(), Ca::new());
    let port = Port::open(&ours, "127.0.0.1:0").await;
    let files = other.files("logic", &other.sign_node(NodeRole::Logic, HOUR), &[&other, &ours]);
    let mut registry = Registry::default();
    let caller = Mtls::start(files, Own { role: NodeRole::Logic, hosts: Vec::new() }, &mut registry).unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", port.address)).unwrap();
    let asked = async {
        let channel = caller.connect(&endpoint, NodeRole::Store).await?;
        AdminClient::new(channel).call(Packet::default()).await.map(drop).map_err(Into::into)
    };
    let asked: Result<(), Box<dyn std::error::Error>> = asked.await;
    let error = format!("{:?}", asked.unwrap_err());
    assert!(error.contains("the other side refuses this certificate: "), "{error}");
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let counted = text.lines().find(|line| line.starts_with("tls_dials_refused_total{role=\"store\"}"));
    assert!(counted.is_some_and(|line| !line.ends_with(" 0")), "{text}");
    assert!(text.contains("tls_cas 2"), "{text}");
}

#[tokio::test]
async fn an_issuer_that_has_ended_is_not_shown() {
    let ca = Ca::new();
    let (leaf, key) = ca.sign_node(NodeRole::Store, HOUR);
    let (old, _) = ca.sign_node(NodeRole::Store, Duration::from_secs(1));
    let files = ca.files("chain", &(format!("{leaf}{old}"), key), &[&ca]);
    let own = || Own { role: NodeRole::Store, hosts: Vec::new() };
    let deadline = Instant::now() + PATIENCE;
    // It is good until it ends.
    while Mtls::once(&files, own()).is_ok() {
        assert!(Instant::now() < deadline, "an ended issuer is still shown");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let why = Mtls::once(&files, own()).unwrap_err().to_string();
    assert!(why.contains("one of the issuers in it has ended"), "{why}");
}

#[test]
fn an_address_that_is_none_in_particular_is_told_to_nobody() {
    for (address, told) in
        [("0.0.0.0:4000", false), ("[::]:4000", false), ("10.0.0.1:4000", true), ("s1.internal:4000", true)]
    {
        assert_eq!(Own::is_told(address), told, "{address}");
    }
    let paths = PathBuf::from("nowhere");
    let files = Files { ca: paths.clone(), certificate: paths.clone(), key: paths };
    assert!(Mtls::once(&files, Own::reached_at(NodeRole::Store, ["0.0.0.0:1"])).is_err());
}
