//! A stranger: frames over any of the three ways in, with nothing of the SDK.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use seriatim_proto::wire::lane::{self, Place};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, FrameDecoder, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{Message, frame::CloseFrame};
use web_transport_proto::{
    Capsule, ConnectRequest, ConnectResponse, Frame, Http3CapsuleReader, Settings, StreamUni, VarInt,
};

use super::{PATIENCE, Site};

/// A way in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Quic,
    WebTransport,
    WebSocket,
}

/// The stream that something came on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum From {
    Lane(u64),
    /// counted from 1 in the order in which they were opened
    Inbox(u64),
}

/// What came.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Event {
    Frame(From, v1::ServerFrame),
    End(From),
    /// The connection is over: the close code, if one was said.
    Closed(Option<u32>),
}

enum Way {
    Quic { connection: quinn::Connection, _endpoint: quinn::Endpoint, lanes: BTreeMap<u64, quinn::SendStream> },
    Web { connection: quinn::Connection, _endpoint: quinn::Endpoint, lanes: BTreeMap<u64, quinn::SendStream>, web: Web },
    Socket { out: mpsc::UnboundedSender<Message> },
}

/// What a WebTransport session keeps open.
pub(crate) struct Web {
    pub(crate) control: quinn::SendStream,
    pub(crate) connect: quinn::SendStream,
}

pub(crate) struct Peer {
    way: Way,
    lane_next: u64,
    events: mpsc::UnboundedReceiver<Event>,
    sink: mpsc::UnboundedSender<Event>,
    reading: watch::Sender<bool>,
    reading_inboxes: watch::Sender<bool>,
    aside: Vec<Event>,
}

pub(crate) fn tls(ca: &[u8], protocols: &[&[u8]]) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    tls
}

/// Trusts certificates by their hashes alone, as browsers do with `serverCertificateHashes`.
#[derive(Debug)]
struct ByHash(Vec<String>);

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    hex(TLS13_AES_128_GCM_SHA256.tls13().unwrap().common.hash_provider.hash(bytes).as_ref())
}

impl rustls::client::danger::ServerCertVerifier for ByHash {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        if self.0.contains(&sha256(end_entity)) {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 only".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A QUIC connection by ALPN; `h3` trusts the published hashes.
pub(crate) async fn quic(
    site: &Site,
    address: SocketAddr,
    alpn: &[u8],
) -> Result<(quinn::Connection, quinn::Endpoint), quinn::ConnectionError> {
    quic_with(site, address, alpn, quinn::TransportConfig::default()).await
}

/// With what the device allows the gateway.
async fn quic_with(
    site: &Site,
    address: SocketAddr,
    alpn: &[u8],
    transport: quinn::TransportConfig,
) -> Result<(quinn::Connection, quinn::Endpoint), quinn::ConnectionError> {
    let mut config = tls(&site.ca(), &[alpn]);
    if alpn == b"h3" {
        let hashes = published(site, address).await.1;
        config.dangerous().set_certificate_verifier(Arc::new(ByHash(hashes)));
    }
    let local: SocketAddr = if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
    let endpoint = quinn::Endpoint::client(local).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    config.transport_config(Arc::new(transport));
    let connection = endpoint.connect_with(config, address, "localhost").unwrap().await?;
    Ok((connection, endpoint))
}

/// TLS over TCP.
pub(crate) async fn tcp(
    site: &Site,
    address: SocketAddr,
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let connector = tokio_rustls::TlsConnector::from(Arc::new(tls(&site.ca(), protocols)));
    let stream = TcpStream::connect(address).await?;
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// Sends a request, and reads the answer to its end.
pub(crate) async fn http(site: &Site, request: &str) -> String {
    let mut stream = tcp(site, site.address, &[b"http/1.1"]).await.unwrap();
    stream.write_all(request.replace('\n', "\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // What breaks HTTP ends without TLS's farewell; what was said before counts.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end in time");
    String::from_utf8(answer).unwrap()
}

/// What the gateway publishes for WebTransport: the whole answer, and the hashes in it.
pub(crate) async fn published(site: &Site, address: SocketAddr) -> (String, Vec<String>) {
    let mut stream = tcp(site, address, &[]).await.unwrap();
    let request = "GET /.well-known/seriatim-wt HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let list = answer.split_once("\"hashes\":[").unwrap().1.split_once(']').unwrap().0;
    let hashes = list.split(',').map(|hash| hash.trim_matches('"').to_owned()).collect();
    (answer, hashes)
}

/// SETTINGS, and a request for a session. The status if it was refused.
pub(crate) async fn web_connect(
    connection: &quinn::Connection,
    request: ConnectRequest,
) -> Result<(Web, quinn::RecvStream, Option<String>), String> {
    let mut settings = Settings::default();
    settings.enable_webtransport(1);
    let mut control = connection.open_uni().await.unwrap();
    settings.write(&mut control).await.unwrap();
    let (mut connect, mut answers) = connection.open_bi().await.unwrap();
    request.write(&mut connect).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, ConnectResponse::read(&mut answers)).await.unwrap();
    let answer = answer.map_err(|error| error.to_string())?;
    Ok((Web { control, connect }, answers, answer.protocol))
}

pub(crate) fn web_request(path: &str) -> ConnectRequest {
    ConnectRequest::new(format!("https://localhost{path}").parse::<url::Url>().unwrap())
}

/// A WebSocket with our path and protocol.
pub(crate) async fn web_socket(site: &Site, address: SocketAddr) -> WebSocketStream<TlsStream<TcpStream>> {
    let stream = tcp(site, address, &[b"http/1.1"]).await.unwrap();
    let mut request = format!("wss://localhost{}", lane::PATH).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "seriatim-1".parse().unwrap());
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "seriatim-1");
    socket
}

impl Peer {
    /// Connects, and says nothing.
    pub(crate) async fn connect(site: &Site, kind: Kind) -> Self {
        Self::connect_to(site, kind, site.address).await.unwrap()
    }

    pub(crate) async fn connect_to(site: &Site, kind: Kind, address: SocketAddr) -> Result<Self, String> {
        Self::connect_with(site, kind, address, quinn::TransportConfig::default()).await
    }

    async fn connect_with(
        site: &Site,
        kind: Kind,
        address: SocketAddr,
        transport: quinn::TransportConfig,
    ) -> Result<Self, String> {
        let (sink, events) = mpsc::unbounded_channel();
        let (reading, reading_inboxes) = (watch::Sender::new(true), watch::Sender::new(true));
        let way = match kind {
            Kind::Quic => {
                let (connection, endpoint) =
                    quic_with(site, address, wire::ALPN, transport).await.map_err(|error| error.to_string())?;
                tokio::spawn(closed(connection.clone(), sink.clone()));
                tokio::spawn(inboxes(connection.clone(), None, sink.clone(), reading_inboxes.subscribe()));
                Way::Quic { connection, _endpoint: endpoint, lanes: BTreeMap::new() }
            }
            Kind::WebTransport => {
                let (connection, endpoint) =
                    quic_with(site, address, b"h3", transport).await.map_err(|error| error.to_string())?;
                let request = web_request(lane::PATH).with_protocol("seriatim-1");
                let (web, answers, protocol) = web_connect(&connection, request).await?;
                assert_eq!(protocol.as_deref(), Some("seriatim-1"));
                tokio::spawn(web_closed(connection.clone(), answers, sink.clone()));
                tokio::spawn(inboxes(connection.clone(), Some(0), sink.clone(), reading_inboxes.subscribe()));
                Way::Web { connection, _endpoint: endpoint, lanes: BTreeMap::new(), web }
            }
            Kind::WebSocket => {
                let socket = tokio::time::timeout(PATIENCE, web_socket(site, address)).await.unwrap();
                let (out, messages) = mpsc::unbounded_channel();
                tokio::spawn(run_socket(socket, messages, sink.clone(), reading.subscribe()));
                Way::Socket { out }
            }
        };
        Ok(Self { way, lane_next: 0, events, sink, reading, reading_inboxes, aside: Vec::new() })
    }

    /// Connects and says Hello.
    pub(crate) async fn enter(site: &Site, kind: Kind, user: &str) -> Self {
        Self::enter_with(site, kind, user, quinn::TransportConfig::default()).await
    }

    /// As a device that allows the gateway so many unidirectional streams, and so many bytes of each before it reads.
    pub(crate) async fn enter_allowing(site: &Site, kind: Kind, user: &str, streams: u32, bytes: u32) -> Self {
        let mut transport = quinn::TransportConfig::default();
        transport.max_concurrent_uni_streams(streams.into()).stream_receive_window(bytes.into());
        Self::enter_with(site, kind, user, transport).await
    }

    async fn enter_with(site: &Site, kind: Kind, user: &str, transport: quinn::TransportConfig) -> Self {
        let mut peer = Self::connect_with(site, kind, site.address, transport).await.unwrap();
        assert_eq!(peer.open().await, 0);
        peer.hello(&site.token(user, 3600)).await;
        let welcome = peer.answer(1).await;
        assert!(matches!(welcome, Said::Welcome(_)), "{welcome:?}");
        peer
    }

    pub(crate) async fn hello(&mut self, token: &str) {
        let hello = v1::Hello { token: token.into(), device: "x".into(), ..Default::default() };
        self.say(0, 1, Asked::Hello(hello)).await;
    }

    /// Opens a stream; the first one is the control stream.
    pub(crate) async fn open(&mut self) -> u64 {
        let id = self.lane_next;
        self.lane_next += 1;
        let (connection, lanes, header) = match &mut self.way {
            Way::Quic { connection, lanes, .. } => (connection, lanes, None),
            Way::Web { connection, lanes, .. } => (connection, lanes, Some(0)),
            Way::Socket { .. } => return id,
        };
        let (mut send, recv) = connection.open_bi().await.unwrap();
        if let Some(session) = header {
            let mut header = BytesMut::new();
            Frame::WEBTRANSPORT.encode(&mut header);
            VarInt::from_u32(session).encode(&mut header);
            send.write_all(&header).await.unwrap();
        }
        lanes.insert(id, send);
        tokio::spawn(read(recv, From::Lane(id), self.sink.clone(), self.reading.subscribe()));
        id
    }

    pub(crate) async fn say(&mut self, lane: u64, request_id: u64, body: Asked) {
        self.send(lane, &frame(request_id, body), false).await;
    }

    /// Whole frames onto a stream, and perhaps its end.
    pub(crate) async fn send(&mut self, lane: u64, frames: &[u8], end: bool) {
        match &mut self.way {
            Way::Quic { lanes, .. } | Way::Web { lanes, .. } => {
                let stream = lanes.get_mut(&lane).unwrap();
                // A connection that the gateway has closed shows itself by its code.
                let _ = stream.write_all(frames).await;
                if end {
                    let _ = stream.finish();
                }
            }
            Way::Socket { out } => {
                let mut bytes = BytesMut::new();
                Place { lane, end, inbox: 0 }.put(frames, &mut bytes);
                let _ = out.send(Message::Binary(bytes.freeze()));
            }
        }
    }

    /// Any bytes onto a stream; on a WebSocket as one message, which says no stream.
    pub(crate) async fn send_raw(&mut self, lane: u64, bytes: &[u8]) {
        match &mut self.way {
            Way::Quic { lanes, .. } | Way::Web { lanes, .. } => {
                let _ = lanes.get_mut(&lane).unwrap().write_all(bytes).await;
            }
            Way::Socket { out } => drop(out.send(Message::Binary(Bytes::copy_from_slice(bytes)))),
        }
    }

    pub(crate) fn message(&mut self, message: Message) {
        let Way::Socket { out } = &self.way else { panic!("no WebSocket") };
        let _ = out.send(message);
    }

    /// Ends the device's side of a stream as if it had not been meant.
    pub(crate) fn reset(&mut self, lane: u64, code: u32) {
        let (Way::Quic { lanes, .. } | Way::Web { lanes, .. }) = &mut self.way else {
            panic!("no streams of their own")
        };
        let _ = lanes.get_mut(&lane).unwrap().reset(code.into());
    }

    pub(crate) fn connection(&self) -> &quinn::Connection {
        let (Way::Quic { connection, .. } | Way::Web { connection, .. }) = &self.way else { panic!("no QUIC") };
        connection
    }

    pub(crate) fn web(&mut self) -> (&quinn::Connection, &mut Web) {
        let Way::Web { connection, web, .. } = &mut self.way else { panic!("no WebTransport") };
        (connection, web)
    }

    /// Takes nothing from the network, or goes on.
    pub(crate) fn set_reading(&self, reading: bool) {
        self.reading.send_replace(reading);
        self.set_reading_inboxes(reading);
    }

    /// As [`Peer::set_reading`], of the streams that the gateway opened.
    pub(crate) fn set_reading_inboxes(&self, reading: bool) {
        self.reading_inboxes.send_replace(reading);
    }

    /// What comes next, in time.
    pub(crate) async fn next(&mut self) -> Event {
        if !self.aside.is_empty() {
            return self.aside.remove(0);
        }
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("in time").unwrap()
    }

    /// The next event that is wanted; the others stay.
    pub(crate) async fn find<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        let mut passed = std::mem::take(&mut self.aside);
        for (place, event) in passed.iter().enumerate() {
            if let Some(found) = wanted(event) {
                passed.remove(place);
                self.aside = passed;
                return found;
            }
        }
        loop {
            let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
            let event = event.unwrap_or_else(|_| panic!("in time; came: {passed:?}")).unwrap();
            if let Some(found) = wanted(&event) {
                self.aside = passed;
                return found;
            }
            passed.push(event);
        }
    }

    /// The answer to a request, whatever stream it comes on.
    pub(crate) async fn answer(&mut self, request_id: u64) -> Said {
        self.find(|event| match event {
            Event::Frame(From::Lane(_), frame) if frame.request_id == request_id => frame.body.clone(),
            Event::Closed(code) => panic!("closed with {code:?} instead of an answer to {request_id}"),
            _ => None,
        })
        .await
    }

    /// The close code.
    pub(crate) async fn close_code(&mut self) -> Option<u32> {
        self.find(|event| match event {
            Event::Closed(code) => Some(*code),
            _ => None,
        })
        .await
    }

    pub(crate) async fn ended(&mut self, from: From) {
        self.find(|event| (*event == Event::End(from)).then_some(())).await;
    }
}

pub(crate) fn frame(request_id: u64, body: Asked) -> BytesMut {
    let mut out = BytesMut::new();
    wire::encode_frame(&v1::ClientFrame { request_id, body: Some(body), ..Default::default() }, &mut out);
    out
}

async fn closed(connection: quinn::Connection, sink: mpsc::UnboundedSender<Event>) {
    let code = match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(close) => u32::try_from(close.error_code.into_inner()).ok(),
        _ => None,
    };
    let _ = sink.send(Event::Closed(code));
}

/// The capsule says the code; the connection's own close comes behind it.
async fn web_closed(connection: quinn::Connection, answers: quinn::RecvStream, sink: mpsc::UnboundedSender<Event>) {
    let mut capsules = Http3CapsuleReader::new(answers);
    let code = loop {
        match capsules.read().await {
            Ok(Some(Capsule::CloseWebTransportSession { code, .. })) => break Some(code),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break None,
        }
    };
    let of_connection = |error: &quinn::ConnectionError| match error {
        quinn::ConnectionError::ApplicationClosed(close) => {
            web_transport_proto::error_from_http3(close.error_code.into_inner())
        }
        _ => None,
    };
    let code = match code {
        Some(code) => {
            connection.close(0u32.into(), b"");
            Some(code)
        }
        None => of_connection(&connection.closed().await),
    };
    let _ = sink.send(Event::Closed(code));
}

async fn inboxes(
    connection: quinn::Connection,
    session: Option<u64>,
    sink: mpsc::UnboundedSender<Event>,
    reading: watch::Receiver<bool>,
) {
    let mut count = 0;
    while let Ok(mut recv) = connection.accept_uni().await {
        if let Some(session) = session {
            let mut header = [0; 3];
            recv.read_exact(&mut header[..1]).await.unwrap();
            if u64::from(header[0]) != StreamUni::CONTROL.0.into_inner() {
                recv.read_exact(&mut header[1..]).await.unwrap();
                assert_eq!((&header[..2], u64::from(header[2])), (&[0x40, 0x54][..], session));
            } else {
                // The gateway's settings, and nothing behind them.
                tokio::spawn(async move { while let Ok(Some(_)) = recv.read_chunk(1024, true).await {} });
                continue;
            }
        }
        count += 1;
        tokio::spawn(read(recv, From::Inbox(count), sink.clone(), reading.clone()));
    }
}

async fn read(
    mut recv: quinn::RecvStream,
    from: From,
    sink: mpsc::UnboundedSender<Event>,
    mut reading: watch::Receiver<bool>,
) {
    let mut decoder = FrameDecoder::default();
    let mut buffer = [0; 4096];
    loop {
        let _ = reading.wait_for(|reading| *reading).await;
        while let Some(frame) = decoder.next_frame::<v1::ServerFrame>().unwrap() {
            assert_eq!((frame.lane, frame.end, frame.inbox), (0, false, 0), "places are for WebSockets");
            let _ = sink.send(Event::Frame(from, frame));
        }
        match recv.read(&mut buffer).await {
            Ok(Some(count)) => decoder.push(&buffer[..count]),
            Ok(None) => {
                decoder.finish().unwrap();
                let _ = sink.send(Event::End(from));
                return;
            }
            Err(_) => return,
        }
    }
}

async fn run_socket(
    mut socket: WebSocketStream<TlsStream<TcpStream>>,
    mut messages: mpsc::UnboundedReceiver<Message>,
    sink: mpsc::UnboundedSender<Event>,
    mut reading: watch::Receiver<bool>,
) {
    let mut inboxes = Vec::new();
    loop {
        let on = *reading.borrow_and_update();
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => { let _ = socket.send(message).await; }
                None => return,
            },
            _ = reading.changed() => {}
            message = socket.next(), if on => match message {
                Some(Ok(Message::Binary(bytes))) => take_message(bytes, &mut inboxes, &sink),
                Some(Ok(Message::Close(close))) => {
                    let code = close.and_then(|CloseFrame { code, .. }| lane::close_code_from_websocket(code.into()));
                    let _ = sink.send(Event::Closed(code));
                    return;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => {
                    let _ = sink.send(Event::Closed(None));
                    return;
                }
            },
        }
    }
}

fn take_message(bytes: Bytes, inboxes: &mut Vec<u64>, sink: &mpsc::UnboundedSender<Event>) {
    let mut decoder = FrameDecoder::default();
    decoder.push(&bytes);
    while let Some(mut frame) = decoder.next_frame::<v1::ServerFrame>().unwrap() {
        let from = if frame.inbox == 0 {
            From::Lane(frame.lane)
        } else {
            assert_eq!(frame.lane, 0);
            if !inboxes.contains(&frame.inbox) {
                inboxes.push(frame.inbox);
            }
            From::Inbox(inboxes.iter().position(|inbox| *inbox == frame.inbox).unwrap() as u64 + 1)
        };
        let end = std::mem::take(&mut frame.end);
        (frame.lane, frame.inbox) = (0, 0);
        if frame.body.is_some() {
            let _ = sink.send(Event::Frame(from, frame));
        }
        if end {
            let _ = sink.send(Event::End(from));
        }
    }
    decoder.finish().unwrap();
}
