//! Bad input below the SDK: a peer that speaks QUIC but not our protocol, or not all of it.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::common::{Cluster, PATIENCE, wait_until_async};
use bytes::BytesMut;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use seriatim_client::Conversation;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::limits;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{ALPN, FrameDecoder, encode_frame, v1};

/// A connection of somebody who writes bytes himself.
struct Raw {
    connection: Connection,
    control: SendStream,
    answers: RecvStream,
    decoder: FrameDecoder,
    _endpoint: quinn::Endpoint,
}

impl Raw {
    async fn connect(cluster: &Cluster) -> Raw {
        let pem = std::fs::read(&cluster.about.ca_certificate).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = quinn::Endpoint::new(quinn::EndpointConfig::default(), None, socket, runtime).unwrap();
        let connection = endpoint.connect_with(config, cluster.gateway(), "localhost").unwrap().await.unwrap();
        let (control, answers) = connection.open_bi().await.unwrap();
        Raw { connection, control, answers, decoder: FrameDecoder::default(), _endpoint: endpoint }
    }

    /// A session of `user`.
    async fn enter(cluster: &Cluster, user: &str) -> Raw {
        let mut raw = Raw::connect(cluster).await;
        let token = cluster.token(user, 3600);
        raw.ask(1, Asked::Hello(v1::Hello { token, device: "raw".to_owned(), ..Default::default() })).await;
        assert!(matches!(raw.answer().await.body, Some(Said::Welcome(_))));
        raw
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.control.write_all(bytes).await.unwrap();
    }

    async fn ask(&mut self, request_id: u64, body: Asked) {
        let mut bytes = BytesMut::new();
        encode_frame(&v1::ClientFrame { request_id, body: Some(body), ..Default::default() }, &mut bytes);
        self.write(&bytes).await;
    }

    async fn answer(&mut self) -> v1::ServerFrame {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return frame;
            }
            let chunk = tokio::time::timeout(PATIENCE, self.answers.read_chunk(64 << 10, true)).await;
            self.decoder.push(&chunk.expect("an answer comes").unwrap().expect("the stream goes on").bytes);
        }
    }

    /// The code with which the gateway ends the connection.
    async fn closed(self) -> u64 {
        match tokio::time::timeout(PATIENCE, self.connection.closed()).await.expect("the connection ends") {
            ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("closed otherwise: {other}"),
        }
    }
}

fn close_code(code: ErrorCode) -> u64 {
    u64::from(code.close_code())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_protocol_end_that_connection_only() {
    let cluster = Cluster::start();
    let alice = cluster.device("alice", "phone").await;
    alice.send(Conversation::peer("bob").unwrap(), "before").await.unwrap();

    // A frame over the limit: refused by its length alone.
    let mut raw = Raw::enter(&cluster, "mallory").await;
    let mut length = BytesMut::new();
    prost::encoding::encode_varint(u64::from(limits::FRAME_BYTES_MAX) + 1, &mut length);
    raw.write(&length).await;
    assert_eq!(raw.closed().await, close_code(ErrorCode::FrameTooLarge));

    // A length that is none.
    let mut raw = Raw::enter(&cluster, "mallory").await;
    raw.write(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80]).await;
    assert_eq!(raw.closed().await, close_code(ErrorCode::Malformed));

    // A frame whose bytes are no message.
    let mut raw = Raw::enter(&cluster, "mallory").await;
    raw.write(&[3, 0xff, 0xff, 0xff]).await;
    assert_eq!(raw.closed().await, close_code(ErrorCode::Malformed));

    // The end of the control stream.
    let mut raw = Raw::enter(&cluster, "mallory").await;
    raw.control.finish().unwrap();
    assert_eq!(raw.closed().await, close_code(ErrorCode::CriticalStreamClosed));

    // Something else before Hello.
    let mut raw = Raw::connect(&cluster).await;
    raw.ask(1, Asked::Status(v1::Status {})).await;
    let code = raw.closed().await;
    assert!(
        [ErrorCode::WrongStream, ErrorCode::AuthFailed, ErrorCode::Malformed].map(close_code).contains(&code),
        "{code}"
    );

    // Nobody else noticed.
    alice.send(Conversation::peer("bob").unwrap(), "after").await.unwrap();
    assert_eq!(alice.connections(), 1);
    // Committed says that the conversation has it; the inbox gets it a moment later.
    wait_until_async("alice has both entries", async || alice.sync(None, 0).await.unwrap().entries.len() >= 2).await;
    assert_eq!(alice.sync(None, 0).await.unwrap().entries.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_frame_is_refused_and_an_optional_one_ignored() {
    let cluster = Cluster::start();
    let alice = cluster.device("alice", "phone").await;
    alice.send(Conversation::peer("bob").unwrap(), "before").await.unwrap();
    let mut raw = Raw::enter(&cluster, "alice").await;
    // Field 99 of the envelope: a body that only a later version knows. request_id 7.
    raw.write(&[6, 0x08, 7, 0x9a, 0x06, 0x01, 0x00]).await;
    let refused = raw.answer().await;
    assert_eq!(refused.request_id, 7);
    match refused.body {
        Some(Said::Error(error)) => assert_eq!(error.code, u32::from(ErrorCode::Unsupported.number())),
        other => panic!("{other:?}"),
    }
    // The same, marked optional: no answer; the ping behind it has one.
    raw.write(&[8, 0x08, 8, 0x18, 1, 0x9a, 0x06, 0x01, 0x00]).await;
    raw.ask(9, Asked::Ping(v1::Ping { nonce: 42 })).await;
    let pong = raw.answer().await;
    assert_eq!((pong.request_id, pong.body), (9, Some(Said::Pong(v1::Pong { nonce: 42 }))));
    // Nobody lost anything.
    alice.send(Conversation::peer("bob").unwrap(), "after").await.unwrap();
    assert_eq!(alice.connections(), 1);
    let bob = cluster.device("bob", "phone").await;
    wait_until_async("bob has both", async || bob.sync(None, 0).await.unwrap().entries.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_peer_is_shown_the_door() {
    let cluster = Cluster::start();
    let raw = Raw::connect(&cluster).await;
    let patience = Duration::from_millis(limits::HELLO_TIMEOUT_MS) + PATIENCE;
    let code = tokio::time::timeout(patience, raw.closed()).await.unwrap();
    assert_eq!(code, close_code(ErrorCode::HelloTimeout));
}
