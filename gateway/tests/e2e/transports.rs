//! The ways in, over real sockets on loopback: the same session suite on each of them, and what is malformed on one.

use std::time::Duration;

use crate::support::peer::{
    Event, From, Kind, Peer, frame, http, published, quic, tcp, web_connect, web_request, web_socket,
};
use crate::support::{PATIENCE, Site, eventually, now_s};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use seriatim_client::{ConnectError, Conversation, EntryBody, SendRequest, Transport};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::Seq;
use seriatim_proto::limits;
use seriatim_proto::token::{Claims, KeySet, Verifier};
use seriatim_proto::wire::lane::{self, Place};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

/// Each claim on each way in.
macro_rules! on_every_transport {
    ($($claim:ident),* $(,)?) => {
        mod over_quic {
            $(#[tokio::test(flavor = "multi_thread")] async fn $claim() { super::$claim(super::Kind::Quic).await; })*
        }
        mod over_webtransport {
            $(#[tokio::test(flavor = "multi_thread")] async fn $claim() { super::$claim(super::Kind::WebTransport).await; })*
        }
        mod over_websocket {
            $(#[tokio::test(flavor = "multi_thread")] async fn $claim() { super::$claim(super::Kind::WebSocket).await; })*
        }
    };
}

on_every_transport!(
    a_session_goes_its_whole_way,
    a_silent_connection_is_closed_in_time,
    a_slow_reader_costs_no_memory_and_misses_nothing,
    a_token_that_ends_closes_the_connection,
    an_address_has_its_share_of_connections,
    an_unknown_frame_is_answered_and_the_stream_goes_on,
    answers_keep_to_their_streams,
    big_pages_arrive_whole,
    bad_tokens_are_refused,
    broken_rules_close_with_their_codes,
    devices_come_in_over_both_families,
    many_pings_are_all_answered,
    the_gateway_says_that_it_goes_down,
);

fn send_to(peer: &str, number: u8, body: impl Into<Bytes>) -> Asked {
    Asked::Send(v1::Send {
        message_id: vec![number; 16].into(),
        conversation: Some(v1::Conversation { id: Some(v1::conversation::Id::Peer(peer.into())) }),
        body: body.into(),
        ..Default::default()
    })
}

fn subscribe(credit: u64) -> Asked {
    Asked::Subscribe(v1::Subscribe { from: 1, cursor: 0, credit })
}

/// Bodies that an inbox stream brings, until there are enough.
async fn bodies(peer: &mut Peer, from: From, count: usize) -> Vec<Bytes> {
    let mut bodies = Vec::new();
    while bodies.len() < count {
        let body = peer.find(|event| match event {
            Event::Frame(stream, frame) if *stream == from => frame.body.clone(),
            Event::Closed(code) => panic!("closed with {code:?}"),
            _ => None,
        });
        match body.await {
            Said::Deliver(deliver) => bodies.extend(deliver.entries.into_iter().map(|entry| entry.body)),
            Said::StreamHeader(_) | Said::Lagging(_) => {}
            other => panic!("on an inbox stream: {other:?}"),
        }
    }
    bodies
}

// ---- the suite ----

async fn a_session_goes_its_whole_way(kind: Kind) {
    let site = Site::start().await;
    let mut peer = Peer::enter(&site, kind, "alice").await;
    peer.say(0, 2, subscribe(100)).await;
    let Said::Subscribed(subscribed) = peer.answer(2).await else { panic!("not subscribed") };
    let lane = peer.open().await;
    peer.say(lane, 3, send_to("bob", 1, "one")).await;
    assert!(matches!(peer.answer(3).await, Said::Committed(v1::Committed { duplicate: false, .. })));
    peer.say(lane, 4, send_to("bob", 1, "one")).await;
    assert!(matches!(peer.answer(4).await, Said::Committed(v1::Committed { duplicate: true, .. })));
    peer.say(lane, 5, send_to("bob", 2, "two")).await;
    assert_eq!(bodies(&mut peer, From::Inbox(1), 2).await, ["one", "two"]);
    let call = peer.open().await;
    peer.send(call, &frame(6, Asked::Sync(v1::Sync { from: 1, limit: 0 })), true).await;
    let Said::SyncPage(page) = peer.answer(6).await else { panic!("no page") };
    assert_eq!(page.entries.len(), 2);
    peer.ended(From::Lane(call)).await;
    peer.say(0, 7, Asked::Ack(v1::Ack { cursor: page.upto })).await;
    assert!(matches!(peer.answer(7).await, Said::Acked(acked) if acked.cursor == page.upto));
    // A new subscription takes the old one's place, and ends with Unsubscribe.
    peer.say(0, 8, subscribe(100)).await;
    let Said::Subscribed(second) = peer.answer(8).await else { panic!("not subscribed") };
    assert!(second.subscription_id > subscribed.subscription_id);
    peer.ended(From::Inbox(1)).await;
    assert_eq!(bodies(&mut peer, From::Inbox(2), 2).await, ["one", "two"]);
    peer.say(0, 9, Asked::Unsubscribe(v1::Unsubscribe { subscription_id: second.subscription_id })).await;
    peer.ended(From::Inbox(2)).await;
    // The lane ends when the device has ended it.
    peer.send(lane, &frame(10, send_to("bob", 3, "three")), true).await;
    assert!(matches!(peer.answer(10).await, Said::Committed(_)));
    peer.ended(From::Lane(lane)).await;
    peer.say(0, 11, Asked::Ping(v1::Ping { nonce: 5 })).await;
    assert!(matches!(peer.answer(11).await, Said::Pong(v1::Pong { nonce: 5 })));
    let transport = format!("{{transport=\"{kind:?}\"}}");
    if kind != Kind::WebSocket {
        let rtt = format!("gateway_rtt_seconds_count{transport} ");
        eventually("its round-trip time is noted", || site.metrics().contains(&rtt)).await;
    }
    let text = site.metrics();
    assert!(text.contains(&format!("gateway_connections{transport} 1")), "{text}");
    assert!(text.contains(&format!("gateway_handshake_seconds_count{transport} 1")), "{text}");
    assert!(text.contains(&format!("gateway_connections_accepted_total{transport} 1")), "{text}");
}

async fn answers_keep_to_their_streams(kind: Kind) {
    let site = Site::start().await;
    let mut peer = Peer::enter(&site, kind, "alice").await;
    let lanes = [peer.open().await, peer.open().await, peer.open().await];
    for number in 0..60u8 {
        let lane = lanes[usize::from(number) % 3];
        peer.say(lane, 100 + u64::from(number), send_to("bob", number + 1, vec![number])).await;
    }
    let mut places = Vec::new();
    for number in 0..60u64 {
        let (from, seq) = peer
            .find(|event| match event {
                Event::Frame(from, frame) if frame.request_id == 100 + number => match &frame.body {
                    Some(Said::Committed(committed)) => Some((*from, committed.seq)),
                    other => panic!("{other:?}"),
                },
                _ => None,
            })
            .await;
        assert_eq!(from, From::Lane(lanes[number as usize % 3]));
        places.push((from, seq));
    }
    for lane in lanes {
        let seqs: Vec<_> = places.iter().filter(|(from, _)| *from == From::Lane(lane)).map(|(_, seq)| *seq).collect();
        assert!(seqs.is_sorted(), "in order on a lane");
    }
    assert_eq!(site.cluster.messages("alice", "bob"), 60);
}

async fn big_pages_arrive_whole(kind: Kind) {
    let site = Site::start().await;
    let mut peer = Peer::enter(&site, kind, "alice").await;
    let lane = peer.open().await;
    for number in 1..=20u8 {
        peer.say(lane, u64::from(number), send_to("bob", number, vec![number; 60_000])).await;
        assert!(matches!(peer.answer(u64::from(number)).await, Said::Committed(_)));
    }
    let mut calls = Vec::new();
    for request_id in 100..108 {
        let call = peer.open().await;
        calls.push(call);
        peer.send(call, &frame(request_id, Asked::Sync(v1::Sync { from: 1, limit: 0 })), true).await;
    }
    for (request_id, call) in (100..108).zip(calls) {
        let Said::SyncPage(page) = peer.answer(request_id).await else { panic!("no page") };
        assert!(page.more && page.entries.len() >= 3);
        for (entry, number) in page.entries.iter().zip(1u8..) {
            assert_eq!(entry.body, vec![number; 60_000]);
        }
        peer.ended(From::Lane(call)).await;
    }
}

async fn many_pings_are_all_answered(kind: Kind) {
    let site = Site::start().await;
    let mut peer = Peer::enter(&site, kind, "alice").await;
    let mut pings = BytesMut::new();
    for nonce in 0..2_000 {
        pings.extend_from_slice(&frame(10 + nonce, Asked::Ping(v1::Ping { nonce })));
    }
    peer.send(0, &pings, false).await;
    for nonce in 0..2_000 {
        assert!(matches!(peer.answer(10 + nonce).await, Said::Pong(pong) if pong.nonce == nonce));
    }
}

async fn a_slow_reader_costs_no_memory_and_misses_nothing(kind: Kind) {
    let site = Site::start().await;
    let (mut slow, mut sender) = (Peer::enter(&site, kind, "bob").await, Peer::enter(&site, Kind::Quic, "alice").await);
    slow.say(0, 2, subscribe(100_000)).await;
    slow.answer(2).await;
    slow.set_reading(false);
    // Far more than socket buffers, windows and the gateway's bounds take together.
    let (count, bytes) = (600u64, 60_000);
    let lane = sender.open().await;
    for number in 0..count {
        let mut body = vec![0; bytes];
        body[..8].copy_from_slice(&number.to_be_bytes());
        let send = v1::Send {
            message_id: u128::from(number + 1).to_be_bytes().to_vec().into(),
            conversation: Some(v1::Conversation { id: Some(v1::conversation::Id::Peer("bob".into())) }),
            body: body.into(),
            ..Default::default()
        };
        sender.say(lane, number + 10, Asked::Send(send)).await;
        assert!(matches!(sender.answer(number + 10).await, Said::Committed(_)));
    }
    eventually("the push stops", || {
        site.metrics().contains("gateway_lagging_total ") && site.metric("gateway_lagging_total") >= 1.0
    })
    .await;
    let queued = site.metric("gateway_queued_bytes");
    assert!(queued <= 4.0 * f64::from(limits::SESSION_PUSH_BYTES_MAX), "{queued} bytes wait");
    slow.set_reading(true);
    let bodies = bodies(&mut slow, From::Inbox(1), count as usize).await;
    for (number, body) in (0..count).zip(bodies) {
        assert_eq!((body.len(), &body[..8]), (bytes, &number.to_be_bytes()[..]));
    }
}

async fn a_silent_connection_is_closed_in_time(kind: Kind) {
    let site = Site::start().await;
    let begun = std::time::Instant::now();
    let mut peer = Peer::connect(&site, kind).await;
    // Something, but no Hello.
    peer.open().await;
    peer.send(0, &[2, 0x18, 1], false).await;
    assert_eq!(peer.close_code().await, Some(13));
    let took = begun.elapsed().as_millis() as u64;
    assert!((limits::HELLO_TIMEOUT_MS..limits::HELLO_TIMEOUT_MS + 3_000).contains(&took), "after {took} ms");
    assert!(site.metrics().contains(&format!("gateway_closed_total{{transport=\"{kind:?}\",code=\"13\"}} 1")));
}

async fn a_token_that_ends_closes_the_connection(kind: Kind) {
    let site = Site::start().await;
    let mut peer = Peer::connect(&site, kind).await;
    peer.open().await;
    peer.hello(&site.token("alice", 2)).await;
    assert!(matches!(peer.answer(1).await, Said::Welcome(_)));
    let error = peer
        .find(|event| match event {
            Event::Frame(From::Lane(0), frame) if frame.request_id == 0 => frame.body.clone(),
            Event::Closed(Some(6)) => Some(Said::Pong(v1::Pong { nonce: 0 })),
            Event::Closed(other) => panic!("closed with {other:?}"),
            _ => None,
        })
        .await;
    // QUIC's close may be faster than its streams; where the error comes, it names the reason.
    assert!(matches!(&error, Said::Error(error) if error.name == "AUTH_EXPIRED") || matches!(error, Said::Pong(_)));
    if !matches!(error, Said::Pong(_)) {
        assert_eq!(peer.close_code().await, Some(6));
    }
}

async fn bad_tokens_are_refused(kind: Kind) {
    let site = Site::start().await;
    for (token, code) in [("nonsense".to_owned(), 5), (String::new(), 5), (site.token("alice", -10), 6)] {
        let mut peer = Peer::connect(&site, kind).await;
        peer.open().await;
        peer.hello(&token).await;
        assert_eq!(peer.close_code().await, Some(code));
    }
}

async fn an_unknown_frame_is_answered_and_the_stream_goes_on(kind: Kind) {
    let site = Site::start().await;
    let mut peer = Peer::enter(&site, kind, "alice").await;
    let lane = peer.open().await;
    // Request 5 with field 99, which no version of ours has; then the same, optional.
    peer.send(lane, &[6, 0x08, 0x05, 0x9a, 0x06, 0x01, 0x00], false).await;
    assert!(matches!(peer.answer(5).await, Said::Error(error) if error.name == "UNSUPPORTED"));
    peer.send(lane, &[8, 0x08, 0x06, 0x18, 0x01, 0x9a, 0x06, 0x01, 0x00], false).await;
    peer.say(lane, 7, send_to("bob", 1, "hi")).await;
    assert!(matches!(peer.answer(7).await, Said::Committed(_)));
    peer.say(lane, 8, send_to("bob", 2, vec![0; limits::MESSAGE_BYTES_MAX as usize + 1])).await;
    assert!(matches!(peer.answer(8).await, Said::Error(error) if error.name == "MESSAGE_TOO_LARGE"));
}

async fn broken_rules_close_with_their_codes(kind: Kind) {
    let site = Site::start().await;
    let hello = || v1::Hello { token: site.token("alice", 60), device: "x".into(), ..Default::default() };
    let ping = || frame(9, Asked::Ping(v1::Ping { nonce: 1 }));

    let mut peer = Peer::connect(&site, kind).await;
    peer.open().await;
    peer.send(0, &ping(), false).await;
    assert_eq!(peer.close_code().await, Some(2), "no Hello first");

    let mut peer = Peer::enter(&site, kind, "alice").await;
    peer.say(0, 2, Asked::Hello(hello())).await;
    assert_eq!(peer.close_code().await, Some(2), "a second Hello");

    let mut peer = Peer::enter(&site, kind, "alice").await;
    let lane = peer.open().await;
    peer.send(lane, &ping(), false).await;
    assert_eq!(peer.close_code().await, Some(2), "a frame on the wrong stream");

    let mut peer = Peer::enter(&site, kind, "alice").await;
    let call = peer.open().await;
    let question = frame(3, Asked::Status(v1::Status {}));
    peer.send(call, &[&question[..], &question[..]].concat(), false).await;
    assert_eq!(peer.close_code().await, Some(2), "a second question");

    let mut peer = Peer::enter(&site, kind, "alice").await;
    let lane = peer.open().await;
    peer.send_raw(lane, &[0xff, 0xff, 0xff, 0x7f]).await;
    assert_eq!(peer.close_code().await, Some(3), "a frame over the limit");

    let mut peer = Peer::enter(&site, kind, "alice").await;
    let lane = peer.open().await;
    peer.send_raw(lane, &[0x80; 6]).await;
    assert_eq!(peer.close_code().await, Some(2), "a length without an end");

    let mut peer = Peer::enter(&site, kind, "alice").await;
    let lane = peer.open().await;
    peer.send_raw(lane, &[3, 0xff, 0xff, 0xff]).await;
    assert_eq!(peer.close_code().await, Some(2), "bytes that are no frame");

    let mut peer = Peer::enter(&site, kind, "alice").await;
    peer.send(0, &[], true).await;
    assert_eq!(peer.close_code().await, Some(4), "the control stream ended");
}

async fn the_gateway_says_that_it_goes_down(kind: Kind) {
    let mut site = Site::start().await;
    let mut peer = Peer::enter(&site, kind, "alice").await;
    let stopping = tokio::spawn(async move { site.stop_gateway().await });
    assert!(matches!(peer.answer(0).await, Said::GoAway(v1::GoAway { drain_ms: 1_000 })));
    assert_eq!(peer.close_code().await, Some(9));
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_stays_connected_over_tcp_when_the_gateway_has_stopped() {
    let mut site = Site::start().await;
    // Who never begins with TLS; who never asks for anything.
    let mut nothing = tokio::net::TcpStream::connect(site.address).await.unwrap();
    let mut greeted = tcp(&site, site.address, &[b"http/1.1"]).await.unwrap();
    site.stop_gateway().await;
    let mut byte = [0; 1];
    for read in [
        tokio::time::timeout(PATIENCE, nothing.read(&mut byte)).await.unwrap(),
        tokio::time::timeout(PATIENCE, greeted.read(&mut byte)).await.unwrap(),
    ] {
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    // Ended by the stop, not by the time for the handshake.
    assert!(!site.metrics().contains("why=\"Deadline\""), "{}", site.metrics());
}

async fn an_address_has_its_share_of_connections(kind: Kind) {
    let site = Site::start_with(|config| config.address_connections_max = 3).await;
    let mut peers = vec![Peer::enter(&site, kind, "alice").await, Peer::enter(&site, kind, "alice").await];
    // What the hashes were asked with leaves soon.
    let come_in = async || {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            match Peer::connect_to(&site, Kind::Quic, site.address).await {
                Ok(peer) => break peer,
                Err(error) => assert!(std::time::Instant::now() < deadline, "no room: {error}"),
            }
        }
    };
    let _third = come_in().await;
    match kind {
        Kind::Quic | Kind::WebTransport => {
            let refused = quic(&site, site.address, b"seriatim-1").await.unwrap_err();
            assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused}");
        }
        Kind::WebSocket => assert!(tcp(&site, site.address, &[b"http/1.1"]).await.is_err()),
    }
    assert!(site.metrics().contains("why=\"Address\"}"), "{}", site.metrics());
    peers.clear();
    come_in().await;
}

async fn devices_come_in_over_both_families(kind: Kind) {
    let site = Site::start_with(|config| config.listen = "[::]:0".parse().unwrap()).await;
    for host in ["127.0.0.1", "[::1]"] {
        let address = format!("{host}:{}", site.address.port()).parse().unwrap();
        let mut peer = Peer::connect_to(&site, kind, address).await.unwrap();
        peer.open().await;
        peer.hello(&site.token("alice", 60)).await;
        assert!(matches!(peer.answer(1).await, Said::Welcome(_)));
    }
}

// ---- the keys of tokens ----

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_known_yet_is_looked_for_and_its_device_waits() {
    // The gateway begins without keys; whoever reads them anew finds the site's.
    let verifier = Verifier::new(KeySet::parse(OTHER_KEYS).unwrap());
    let (wanted, mut wishes) = tokio::sync::mpsc::unbounded_channel::<tokio::sync::oneshot::Sender<bool>>();
    verifier.refreshed_by(Box::new(move || {
        let (done, read) = tokio::sync::oneshot::channel();
        wanted.send(done).unwrap();
        Box::pin(async move { read.await.unwrap_or(false) })
    }));
    let ours = verifier.clone();
    let site = Site::start_with(|config| config.verifier = verifier).await;
    let token = {
        let claims = Claims { aud: "seriatim".into(), sub: "alice".into(), tenant: 1, exp: now_s() + 60, scopes: None };
        let key = jsonwebtoken::EncodingKey::from_ed_pem(&std::fs::read(&site.files.token_key).unwrap()).unwrap();
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
        header.kid = Some("the site's".into());
        jsonwebtoken::encode(&header, &claims, &key).unwrap()
    };
    let mut early = Peer::connect(&site, Kind::Quic).await;
    early.open().await;
    early.hello(&token).await;
    let done = tokio::time::timeout(PATIENCE, wishes.recv()).await.unwrap().unwrap();
    ours.replace(KeySet::parse(&std::fs::read(&site.files.token_public).unwrap()).unwrap());
    done.send(true).unwrap();
    assert!(matches!(early.answer(1).await, Said::Welcome(_)));
    // And away again: the look finds nothing, and that is the verdict.
    ours.replace(KeySet::parse(OTHER_KEYS).unwrap());
    let mut late = Peer::connect(&site, Kind::WebSocket).await;
    late.hello(&token).await;
    tokio::time::timeout(PATIENCE, wishes.recv()).await.unwrap().unwrap().send(true).unwrap();
    assert_eq!(late.close_code().await, Some(5));
    assert_eq!(site.metric("gateway_tokens_refused_total{reason=\"unknown_key\"}"), 1.0);
    // While nobody can look, it is not refused for good.
    let mut unsure = Peer::connect(&site, Kind::WebTransport).await;
    unsure.open().await;
    unsure.hello(&token).await;
    tokio::time::timeout(PATIENCE, wishes.recv()).await.unwrap().unwrap().send(false).unwrap();
    assert_eq!(unsure.close_code().await, Some(ErrorCode::HelloTimeout.close_code()));
    assert_eq!(site.metric("gateway_tokens_refused_total{reason=\"keys_unreadable\"}"), 1.0);
    assert!(wishes.try_recv().is_err(), "asked once for each");
}

/// A JWKS with a key that nobody has, of RFC 8037.
const OTHER_KEYS: &[u8] =
    br#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"x","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

// ---- TLS ----

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_comes_again_resumes_tls() {
    let site = Site::start().await;
    // Over TCP, as TLS says it.
    let config = std::sync::Arc::new(crate::support::peer::tls(&site.ca(), &[b"http/1.1"]));
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let connector = tokio_rustls::TlsConnector::from(config.clone());
        let stream = tokio::net::TcpStream::connect(site.address).await.unwrap();
        let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
        kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        // The tickets come with the first answer.
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }
    assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);

    // Over QUIC: a certificate is looked at in the first handshake only.
    let looks = std::sync::Arc::new(Looks::default());
    let mut config = crate::support::peer::tls(&site.ca(), &[b"seriatim-1"]);
    config.dangerous().set_certificate_verifier(looks.clone());
    let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
    let config = quinn::ClientConfig::new(std::sync::Arc::new(config));
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    for _ in 0..2 {
        let connecting = endpoint.connect_with(config.clone(), site.address, "localhost").unwrap();
        // 0-RTT is off: there is nothing to be had before the handshake.
        let Err(connecting) = connecting.into_0rtt() else { panic!("0-RTT") };
        let connection = connecting.await.unwrap();
        let (mut control, mut answers) = connection.open_bi().await.unwrap();
        let hello = v1::Hello { token: site.token("alice", 60), device: "x".into(), ..Default::default() };
        control.write_all(&frame(1, Asked::Hello(hello))).await.unwrap();
        answers.read_exact(&mut [0; 1]).await.unwrap();
        connection.close(0u32.into(), b"");
    }
    assert_eq!(looks.0.load(std::sync::atomic::Ordering::SeqCst), 1);
}

/// Counts how often a certificate is looked at, and takes all.
#[derive(Debug, Default)]
struct Looks(std::sync::atomic::AtomicUsize);

impl rustls::client::danger::ServerCertVerifier for Looks {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Ok(rustls::client::danger::ServerCertVerified::assertion())
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

// ---- what only QUIC can get wrong ----

#[tokio::test(flavor = "multi_thread")]
async fn a_device_may_open_as_many_streams_as_the_page_says() {
    let site = Site::start().await;
    let (native, _endpoint) = quic(&site, site.address, b"seriatim-1").await.unwrap();
    let mut streams = Vec::new();
    while let Some(stream) = native.open_bi().now_or_never() {
        streams.push(stream.unwrap());
    }
    assert_eq!(streams.len(), lane::LANES_MAX);

    // A browser has as many in its session: one too many waits until another one ends.
    let mut peer = Peer::enter(&site, Kind::WebTransport, "alice").await;
    for _ in 1..lane::LANES_MAX {
        peer.open().await;
    }
    let late = peer.open().await;
    peer.send(late, &frame(2, Asked::Status(v1::Status {})), true).await;
    for request_id in 3..6 {
        peer.say(0, request_id, Asked::Ping(v1::Ping { nonce: 1 })).await;
        peer.answer(request_id).await;
    }
    if let Some(event) = peer.next().now_or_never() {
        panic!("{event:?} before there was room");
    }
    peer.send(1, &[], true).await;
    assert!(matches!(peer.answer(2).await, Said::StatusPage(_)));

    // Its unidirectional streams come when TLS has said that it is a browser.
    let (web, _endpoint) = quic(&site, site.address, b"h3").await.unwrap();
    let _session = web_connect(&web, web_request(lane::PATH)).await.unwrap();
    let mut controls = Vec::new();
    while controls.len() < 7 {
        controls.push(tokio::time::timeout(PATIENCE, web.open_uni()).await.expect("a stream").unwrap());
    }
}

/// Subscribes, as often as it takes until the gateway refuses for now; how often it did not.
async fn subscribe_until_busy(peer: &mut Peer, ids: std::ops::Range<u64>) -> Option<usize> {
    for (count, request_id) in ids.enumerate() {
        peer.say(0, request_id, subscribe(1_000)).await;
        match peer.answer(request_id).await {
            Said::Subscribed(_) => {}
            Said::Error(error) if error.name == ErrorCode::Busy.name() => {
                assert!(error.retry && error.retry_after_ms > 0, "{error:?}");
                return Some(count);
            }
            other => panic!("{other:?}"),
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn inbox_streams_that_a_device_leaves_unread_are_few() {
    let site = Site::start().await;
    let mut sender = Peer::enter(&site, Kind::Quic, "bob").await;
    let lane = sender.open().await;
    sender.say(lane, 2, send_to("alice", 1, vec![7; 50_000])).await;
    assert!(matches!(sender.answer(2).await, Said::Committed(_)));
    for kind in [Kind::Quic, Kind::WebTransport] {
        // All of the inbox fits into what the transport takes at once, and none of it into what the device allows.
        let mut peer = Peer::enter_allowing(&site, kind, "alice", 1_000, 1_000).await;
        peer.set_reading_inboxes(false);
        let mut taken = 0;
        let busy = loop {
            // The page is with the transport before the next subscription.
            match subscribe_until_busy(&mut peer, 100 + taken..101 + taken).await {
                Some(_) => break true,
                None if taken == 40 => break false,
                None => taken += 1,
            }
            eventually("its entries wait", || site.metric("gateway_queued_bytes") >= taken as f64 * 40_000.0).await;
        };
        assert!(busy && taken == 4, "{taken} streams over {kind:?}");
        let queued = site.metric("gateway_queued_bytes");
        assert!(queued <= 4.0 * 60_000.0, "{queued} bytes wait");
        peer.set_reading_inboxes(true);
        // What is read makes room.
        assert_eq!(bodies(&mut peer, From::Inbox(4), 1).await, [vec![7; 50_000]]);
        for inbox in 1..=3 {
            peer.ended(From::Inbox(inbox)).await;
        }
        peer.say(0, 300, subscribe(10)).await;
        assert!(matches!(peer.answer(300).await, Said::Subscribed(_)));
        assert_eq!(bodies(&mut peer, From::Inbox(5), 1).await, [vec![7; 50_000]]);
        drop(peer);
        eventually("it is gone", || site.metric("gateway_queued_bytes") == 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_that_are_left_at_once_count_until_their_ends_are_written() {
    let site = Site::start().await;
    for kind in [Kind::Quic, Kind::WebTransport] {
        // HTTP/3's settings fit into what the device allows of a stream, the header of an inbox stream does not.
        let mut peer = Peer::enter_allowing(&site, kind, &"a".repeat(64), 1_000, 64).await;
        peer.set_reading_inboxes(false);
        let mut taken = 0;
        for request_id in 101..=140 {
            // In one piece: the beginning of the stream and its end are for the transport at once.
            let leave = Asked::Unsubscribe(v1::Unsubscribe { subscription_id: taken + 1 });
            let frames = [frame(request_id, subscribe(10)), frame(0, leave)].concat();
            peer.send(0, &frames, false).await;
            taken += u64::from(matches!(peer.answer(request_id).await, Said::Subscribed(_)));
        }
        assert_eq!(taken, 4, "over {kind:?}");
        peer.set_reading_inboxes(true);
        for inbox in 1..=4 {
            peer.ended(From::Inbox(inbox)).await;
        }
        peer.say(0, 150, subscribe(10)).await;
        assert!(matches!(peer.answer(150).await, Said::Subscribed(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_waits_until_the_device_allows_a_stream_for_it() {
    let site = Site::start().await;
    let mut peer = Peer::enter_allowing(&site, Kind::Quic, "alice", 0, 1 << 20).await;
    assert_eq!(subscribe_until_busy(&mut peer, 2..12).await, Some(4));
    let lane = peer.open().await;
    for number in 1..=3 {
        peer.say(lane, 100 + u64::from(number), send_to("bob", number, vec![number])).await;
        assert!(matches!(peer.answer(100 + u64::from(number)).await, Said::Committed(_)));
    }
    // They come in the order of the subscriptions, and only the last one is still pushed to.
    for inbox in 1..=3 {
        peer.connection().set_max_concurrent_uni_streams(1u32.into());
        peer.ended(From::Inbox(inbox)).await;
    }
    assert_eq!(bodies(&mut peer, From::Inbox(4), 3).await, [vec![1], vec![2], vec![3]]);
    peer.say(lane, 110, send_to("bob", 4, [4].as_slice())).await;
    assert_eq!(bodies(&mut peer, From::Inbox(4), 1).await, [vec![4]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unidirectional_stream_of_a_native_device_is_a_wrong_one() {
    let site = Site::start().await;
    for hello in [true, false] {
        let (connection, _endpoint) = quic(&site, site.address, b"seriatim-1").await.unwrap();
        let (mut control, mut answers) = connection.open_bi().await.unwrap();
        if hello {
            let hello = v1::Hello { token: site.token("alice", 60), device: "x".into(), ..Default::default() };
            control.write_all(&frame(1, Asked::Hello(hello))).await.unwrap();
            answers.read_exact(&mut [0; 1]).await.unwrap();
        }
        connection.open_uni().await.unwrap().write_all(b"x").await.unwrap();
        let end = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
        let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
        assert_eq!(close.error_code, 2u32.into());
    }
}

// ---- what only a WebSocket can get wrong ----

#[tokio::test(flavor = "multi_thread")]
async fn malformed_messages_of_a_websocket_close_with_their_codes() {
    let site = Site::start().await;
    let ping = |place: Place| {
        let mut out = BytesMut::new();
        place.put(&frame(9, Asked::Ping(v1::Ping { nonce: 1 })), &mut out);
        out.freeze()
    };
    let at = |lane| Place { lane, end: false, inbox: 0 };
    let whole = ping(at(0));
    for (what, message, code) in [
        ("a text message", Message::text("hello"), 2),
        ("an empty message", Message::Binary(Bytes::new()), 2),
        ("a part of a frame", Message::Binary(whole.slice(..whole.len() - 1)), 2),
        ("a frame and a half", Message::Binary([&whole[..], &whole[..3]].concat().into()), 2),
        ("a length over the limit", Message::Binary(vec![0xff, 0xff, 0xff, 0x7f].into()), 3),
        ("a message over the limit", Message::Binary(vec![0; lane::MESSAGE_BYTES_MAX + 1].into()), 3),
        ("a place that is no number", Message::Binary(vec![3, 0x22, 0x01, 0x00].into()), 2),
    ] {
        let mut peer = Peer::enter(&site, Kind::WebSocket, "alice").await;
        peer.message(message);
        assert_eq!(peer.close_code().await, Some(code), "{what}");
    }

    let mut peer = Peer::connect(&site, Kind::WebSocket).await;
    peer.send(3, &frame(1, send_to("bob", 1, "x")), false).await;
    assert_eq!(peer.close_code().await, Some(2), "a lane before Hello");

    let mut peer = Peer::enter(&site, Kind::WebSocket, "alice").await;
    let unknown = [6, 0x08, 0x05, 0x9a, 0x06, 0x01, 0x00];
    for lane in 1..=lane::LANES_MAX as u64 {
        peer.send(lane, &unknown, false).await;
    }
    assert_eq!(peer.close_code().await, Some(2), "too many lanes");

    let mut peer = Peer::enter(&site, Kind::WebSocket, "alice").await;
    // Without an answer: a lane whose last answer is out is over, and swallows what comes.
    site.cluster.with(|state| state.sends_to_forget = u32::MAX);
    peer.send(1, &frame(2, send_to("bob", 1, "x")), true).await;
    peer.send(1, &frame(3, send_to("bob", 2, "y")), false).await;
    assert_eq!(peer.close_code().await, Some(2), "a frame behind the end of its lane");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_is_over_swallows_what_was_under_way() {
    let site = Site::start().await;
    let mut peer = Peer::enter(&site, Kind::WebSocket, "alice").await;
    peer.send(1, &frame(2, Asked::Status(v1::Status {})), true).await;
    peer.answer(2).await;
    peer.ended(From::Lane(1)).await;
    peer.send(1, &frame(3, Asked::Status(v1::Status {})), false).await;
    // A number may be left out, not used again.
    peer.send(7, &frame(4, Asked::Status(v1::Status {})), true).await;
    peer.answer(4).await;
    peer.send(5, &frame(5, Asked::Status(v1::Status {})), true).await;
    peer.say(0, 6, Asked::Ping(v1::Ping { nonce: 1 })).await;
    peer.answer(6).await;
    while let Ok(event) = tokio::time::timeout(Duration::from_millis(50), peer.next()).await {
        assert!(!matches!(&event, Event::Frame(_, frame) if [3, 5].contains(&frame.request_id)), "{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_and_all_that_follows_may_come_in_one_message() {
    let site = Site::start().await;
    let mut peer = Peer::connect(&site, Kind::WebSocket).await;
    let mut message = BytesMut::new();
    let hello = v1::Hello { token: site.token("alice", 60), device: "x".into(), ..Default::default() };
    message.extend_from_slice(&frame(1, Asked::Hello(hello)));
    for number in 1..=50u8 {
        let place = Place { lane: 1, end: number == 50, inbox: 0 };
        place.put(&frame(1 + u64::from(number), send_to("bob", number, "x")), &mut message);
    }
    peer.message(Message::Binary(message.freeze()));
    for request_id in 2..=51 {
        assert!(matches!(peer.answer(request_id).await, Said::Committed(_)));
    }
    peer.ended(From::Lane(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_of_a_websocket_are_answered_and_a_flood_of_them_is_not() {
    let site = Site::start().await;
    let mut socket = web_socket(&site, site.address).await;
    socket.send(Message::Ping("hi".into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong("hi".into()));
    let mut peer = Peer::enter(&site, Kind::WebSocket, "alice").await;
    for _ in 0..1_000 {
        peer.message(Message::Ping(Bytes::new()));
    }
    assert_eq!(peer.close_code().await, Some(11));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_no_websocket_ones_are_refused() {
    let site = Site::start().await;
    // Without a mask, with a reserved bit, of an unknown kind, a control frame in parts, a continuation of nothing.
    for bytes in [
        &[0x82, 0x01, 0x00][..],
        &[0xc2, 0x80, 0, 0, 0, 0],
        &[0x83, 0x80, 0, 0, 0, 0],
        &[0x09, 0x80, 0, 0, 0, 0],
        &[0x80, 0x80, 0, 0, 0, 0],
    ] {
        let mut socket = web_socket(&site, site.address).await;
        socket.get_mut().write_all(bytes).await.unwrap();
        socket.get_mut().flush().await.unwrap();
        let mut codes = Vec::new();
        while let Some(Ok(message)) = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap() {
            if let Message::Close(Some(close)) = message {
                codes.push(u16::from(close.code));
            }
        }
        assert_eq!(codes, [4_002], "{bytes:x?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_of_the_device_is_answered() {
    let site = Site::start().await;
    let mut socket = web_socket(&site, site.address).await;
    let frame = CloseFrame { code: 4_000.into(), reason: "bye".into() };
    socket.send(Message::Close(Some(frame.clone()))).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap();
    assert!(matches!(&answer, Some(Ok(Message::Close(Some(close)))) if *close == frame), "{answer:?}");
    assert!(tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().is_none(), "and then the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_that_falls_silent_is_given_up() {
    let site = Site::start().await;
    let mut silent = Peer::enter(&site, Kind::WebSocket, "alice").await;
    let mut alive = Peer::enter(&site, Kind::WebSocket, "alice").await;
    let idle = Duration::from_millis(limits::IDLE_TIMEOUT_MS);
    let begun = std::time::Instant::now();
    while begun.elapsed() < idle + Duration::from_secs(3) {
        let nonce = begun.elapsed().as_millis() as u64;
        alive.say(0, 1_000 + nonce, Asked::Ping(v1::Ping { nonce })).await;
        alive.answer(1_000 + nonce).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(silent.close_code().await, None);
    assert_eq!(site.metric("gateway_connections{transport=\"WebSocket\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_no_upgrade_are_answered() {
    let site = Site::start().await;
    let good = "GET /seriatim-1 HTTP/1.1\nhost: localhost\nconnection: keep-alive, Upgrade\nupgrade: websocket\n\
                sec-websocket-version: 13\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\n\
                sec-websocket-protocol: seriatim-9, seriatim-1\n\n";
    for (what, request, status) in [
        ("another path", good.replace("/seriatim-1 ", "/ "), "404"),
        ("another page", good.replace("\n\n", "\norigin: https://evil.example\n\n"), "403"),
        (
            "a page whose name leads to us",
            good.replace("host: localhost\n", "host: evil.example\norigin: https://evil.example\n"),
            "403",
        ),
        ("no upgrade", good.replace("upgrade: websocket\n", ""), "426"),
        ("another version", good.replace("version: 13", "version: 8"), "426"),
        ("a short key", good.replace("AAAA==", "=="), "400"),
        ("another protocol", good.replace(", seriatim-1", ""), "400"),
        ("no protocol", good.replace("sec-websocket-protocol: seriatim-9, seriatim-1\n", ""), "400"),
        ("another method", good.replace("GET", "DELETE"), "405"),
        ("no HTTP", "seriatim\n\n".to_owned(), "400"),
        ("a long head", good.replace("\n\n", &format!("\nx: {}\n\n", "y".repeat(17_000))), "431"),
    ] {
        let answer = http(&site, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {answer}");
    }
    // The own page, as a browser says it.
    let mut stream = tcp(&site, site.address, &[b"http/1.1"]).await.unwrap();
    let own = good.replace("\n\n", "\norigin: http://localhost:8080\n\n").replace('\n', "\r\n");
    stream.write_all(own.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 101");
    assert!(tcp(&site, site.address, &[b"h2"]).await.is_err(), "another ALPN");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_long_for_the_upgrade_is_dropped() {
    let site = Site::start().await;
    let begun = std::time::Instant::now();
    let mut nothing = tokio::net::TcpStream::connect(site.address).await.unwrap();
    let mut half = tcp(&site, site.address, &[b"http/1.1"]).await.unwrap();
    let slow = tokio::spawn(async move {
        for byte in b"GET /seriatim-1 HTTP/1.1\r\nhost: localhost\r\n".iter().cycle() {
            if half.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    });
    let mut byte = [0; 1];
    let read = tokio::time::timeout(PATIENCE, nothing.read(&mut byte)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)));
    tokio::time::timeout(PATIENCE, slow).await.unwrap().unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(limits::HELLO_TIMEOUT_MS));
    let deadline = "gateway_handshakes_refused_total{transport=\"WebSocket\",why=\"Deadline\"}";
    eventually("both are counted", || site.metric(deadline) == 2.0).await;
}

// ---- what only WebTransport can get wrong ----

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_no_session_of_ours_are_refused() {
    let site = Site::start().await;
    // Its owner lets evil.example lead to the gateway; the browser knows the certificate by its hash, whatever the name.
    let rebound = || {
        let url = format!("https://evil.example:{}{}", site.address.port(), lane::PATH);
        let request = web_transport_proto::ConnectRequest::new(url.parse::<url::Url>().unwrap());
        request.with_header(http::header::ORIGIN, "https://evil.example".parse().unwrap())
    };
    let origin =
        |origin: &'static str| web_request(lane::PATH).with_header(http::header::ORIGIN, origin.parse().unwrap());
    for (what, request, status) in [
        ("another path", web_request("/"), "404"),
        ("another page", origin("https://evil.example"), "403"),
        ("other protocols", web_request(lane::PATH).with_protocol("seriatim-9"), "400"),
        ("a page whose name leads to us", rebound(), "403"),
    ] {
        let (connection, _endpoint) = quic(&site, site.address, b"h3").await.unwrap();
        let refused = web_connect(&connection, request).await.err().unwrap();
        assert!(refused.contains(status), "{what}: {refused}");
        let end = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
        assert!(matches!(end, quinn::ConnectionError::ApplicationClosed(_)), "{what}: {end}");
    }
    for request in [web_request(lane::PATH), origin("https://localhost:1")] {
        let (connection, _endpoint) = quic(&site, site.address, b"h3").await.unwrap();
        let (_web, _answers, protocol) = web_connect(&connection, request).await.unwrap();
        assert_eq!(protocol, None, "a browser that says no protocol gets none");
    }
    // A GET: :method GET, :scheme https, :path /, :authority a.
    let (connection, _endpoint) = quic(&site, site.address, b"h3").await.unwrap();
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(&[0x00, 0x04, 0x00]).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[0x01, 0x08, 0x00, 0x00, 0xd1, 0xd7, 0xc1, 0x50, 0x01, b'a']).await.unwrap();
    let refused = web_transport_proto::ConnectResponse::read(&mut recv).await.unwrap_err();
    assert!(refused.to_string().contains("405"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_http3_ends_the_connection_with_its_codes() {
    let site = Site::start().await;
    let code = |end: quinn::ConnectionError| match end {
        quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
        other => panic!("{other}"),
    };
    // Another frame than SETTINGS; SETTINGS of half a setting; a request cut short; a request that is none.
    for (control_bytes, request, expected) in [
        (&[0x00, 0x07, 0x00][..], None, 0x10a),
        (&[0x00, 0x04, 0x01, 0x06], None, 0x10a),
        (&[0x00, 0x04, 0x00], Some(&[0x01, 0x08, 0x00][..]), 0x101),
        (&[0x00, 0x04, 0x00], Some(&[0x00, 0x01, 0x00]), 0x101),
        (&[0x00, 0x04, 0x00], Some(&[0x01, 0x80, 0x01, 0x00, 0x00]), 0x101),
    ] {
        let (connection, _endpoint) = quic(&site, site.address, b"h3").await.unwrap();
        let mut control = connection.open_uni().await.unwrap();
        control.write_all(control_bytes).await.unwrap();
        if let Some(request) = request {
            let (mut send, _) = connection.open_bi().await.unwrap();
            send.write_all(request).await.unwrap();
            send.finish().unwrap();
        }
        let end = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
        assert_eq!(code(end), expected, "{control_bytes:x?} {request:x?}");
    }

    let mut peer = Peer::enter(&site, Kind::WebTransport, "alice").await;
    let (connection, web) = peer.web();
    web.control.finish().unwrap();
    let end = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert_eq!(code(end), 0x104, "the browser's control stream ended");

    let mut peer = Peer::enter(&site, Kind::WebTransport, "alice").await;
    let (connection, web) = peer.web();
    // A frame of an unknown kind that is read and forgotten, for ever.
    web.control.write_all(&[0x21, 0xbf, 0xff, 0xff, 0xff]).await.unwrap();
    let junk = vec![0; 64 << 10];
    while web.control.write_all(&junk).await.is_ok() {}
    assert_eq!(code(connection.closed().await), 0x107, "a flood on the control stream");

    let mut peer = Peer::enter(&site, Kind::WebTransport, "alice").await;
    let (connection, web) = peer.web();
    web.connect.finish().unwrap();
    tokio::time::timeout(PATIENCE, connection.closed()).await.expect("the session's stream ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_none_of_the_session_are_refused_and_it_goes_on() {
    let site = Site::start().await;
    let mut peer = Peer::enter(&site, Kind::WebTransport, "alice").await;
    let (connection, _) = peer.web();
    // A request of its own, a stream of another session.
    for bytes in [&[0x01, 0x02, 0x00, 0x00][..], &[0x40, 0x41, 0x04, 0x01]] {
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let reset = tokio::time::timeout(PATIENCE, recv.read_to_end(10)).await.unwrap();
        assert!(
            matches!(reset, Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) if code == 0x10bu32.into())
        );
    }
    // A stream of an unknown kind, and a unidirectional one of the session.
    for bytes in [&[0x21, 0x00][..], &[0x40, 0x54, 0x00, 0x01]] {
        let mut send = connection.open_uni().await.unwrap();
        send.write_all(bytes).await.unwrap();
        let stopped = tokio::time::timeout(PATIENCE, send.stopped()).await.unwrap().unwrap();
        assert_eq!(stopped, Some(0x103u32.into()));
    }
    let lane = peer.open().await;
    peer.say(lane, 3, send_to("bob", 1, "still here")).await;
    assert!(matches!(peer.answer(3).await, Said::Committed(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_long_for_the_session_is_dropped() {
    let site = Site::start().await;
    let (connection, _endpoint) = quic(&site, site.address, b"h3").await.unwrap();
    let mut control = connection.open_uni().await.unwrap();
    control.write_all(&[0x00]).await.unwrap();
    let begun = std::time::Instant::now();
    tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(limits::HELLO_TIMEOUT_MS - 500));
    let deadline = "gateway_handshakes_refused_total{transport=\"WebTransport\",why=\"Deadline\"}";
    eventually("it is counted", || site.metric(deadline) == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hashes_of_the_short_certificate_are_published() {
    let site = Site::start().await;
    let (answer, hashes) = published(&site, site.address).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("access-control-allow-origin: *"), "{answer}");
    assert!(answer.contains(&format!("\"port\":{}", site.address.port())), "{answer}");
    assert_eq!(hashes.len(), 2);
    assert!(hashes.iter().all(|hash| hash.len() == 64));
    // `quic` trusts h3 by these hashes alone; a native device gets the certificate of the CA.
    let (connection, _endpoint) = quic(&site, site.address, b"h3").await.unwrap();
    let identity = connection.peer_identity().unwrap().downcast::<Vec<CertificateDer<'_>>>().unwrap();
    assert_eq!(crate::support::peer::sha256(&identity[0]), hashes[0]);
}

// ---- the SDK on its ways in ----

/// An address where TCP reaches the gateway and UDP nobody.
async fn without_udp(site: &Site) -> (std::net::SocketAddr, tokio::net::UdpSocket) {
    let (listener, hole) = loop {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        if let Ok(hole) = tokio::net::UdpSocket::bind(listener.local_addr().unwrap()).await {
            break (listener, hole);
        }
    };
    let (address, gateway) = (listener.local_addr().unwrap(), site.address);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                if let Ok(mut onward) = tokio::net::TcpStream::connect(gateway).await {
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
                }
            });
        }
    });
    (address, hole)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_takes_a_websocket_where_udp_is_blocked() {
    let site = Site::start().await;
    let (address, _hole) = without_udp(&site).await;
    let builder = |transport| {
        let builder = seriatim_client::Client::builder(address, "localhost").ca_pem(&site.ca()).device("phone");
        builder.token(site.token("alice", 3600)).connect_timeout(Duration::from_millis(500)).transport(transport)
    };
    let begun = std::time::Instant::now();
    let client = builder(Transport::Fastest).connect().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(3), "long before QUIC gives up");
    client.send(Conversation::peer("bob").unwrap(), "hello").await.unwrap();
    assert_eq!(site.metric("gateway_connections{transport=\"WebSocket\"}"), 1.0);
    assert!(matches!(builder(Transport::Quic).connect().await, Err(ConnectError::Timeout(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_reads_what_comes_behind_welcome_in_its_message() {
    let site = Site::start().await;
    // A gateway of our own, with the site's certificate: Welcome and the end of the control stream in one message. It
    // says Pong now and then, so that nothing but that end can make the SDK come again.
    let chain = CertificateDer::pem_file_iter(&site.files.gateway).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&site.files.gateway_key).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(tls));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (came, mut comes) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, came) = (acceptor.clone(), came.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                #[expect(clippy::result_large_err, reason = "what the library asks for")]
                let accept = |_: &Request, mut response: Response| {
                    response.headers_mut().insert("sec-websocket-protocol", "seriatim-1".parse().unwrap());
                    Ok(response)
                };
                let mut socket = tokio_tungstenite::accept_hdr_async(stream, accept).await.unwrap();
                let hello = socket.next().await.unwrap().unwrap();
                came.send(hello.len()).unwrap();
                let said = |body| v1::ServerFrame { body: Some(body), ..Default::default() };
                let mut message = BytesMut::new();
                wire::encode_frame(&said(Said::Welcome(v1::Welcome::default())), &mut message);
                let mut end = said(Said::Pong(v1::Pong { nonce: 0 }));
                end.end = true;
                wire::encode_frame(&end, &mut message);
                let mut message = Message::Binary(message.freeze());
                while socket.send(message).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                    let mut pong = BytesMut::new();
                    wire::encode_frame(&said(Said::Pong(v1::Pong { nonce: 0 })), &mut pong);
                    message = Message::Binary(pong.freeze());
                }
            });
        }
    });
    let builder = seriatim_client::Client::builder(address, "localhost").ca_pem(&site.ca()).device("phone");
    let _client = builder.token("a token").transport(Transport::WebSocket).connect().await.unwrap();
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, comes.recv()).await.expect("it comes again").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_prefers_quic() {
    let site = Site::start().await;
    let client = site.builder("alice", "phone").transport(Transport::Fastest).connect().await.unwrap();
    client.send(Conversation::peer("bob").unwrap(), "hello").await.unwrap();
    // On a busy machine a handshake may take longer than its head start.
    let count = |transport| site.metric(&format!("gateway_connections{{transport=\"{transport}\"}}"));
    assert_eq!(count("Quic") + count("WebSocket"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_is_refused_over_a_websocket_as_over_quic() {
    let site = Site::start().await;
    let refused = |token| site.builder("alice", "phone").token(token).transport(Transport::WebSocket).connect();
    for (token, code) in
        [("nonsense".to_owned(), ErrorCode::AuthFailed), (site.token("alice", -10), ErrorCode::AuthExpired)]
    {
        let error = refused(token).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Refused(refusal) if refusal.code == code), "{error}");
    }
    let other = tempfile::tempdir().unwrap();
    let files = seriatim_gateway::dev_ca::ensure_dev_ca(other.path()).unwrap();
    let stranger = site.builder("alice", "phone").ca_pem(&std::fs::read(files.ca).unwrap());
    let error = stranger.transport(Transport::WebSocket).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Handshake(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sdk_over_a_websocket_loses_nothing_over_faults() {
    let mut site = Site::start().await;
    let client = |user| site.builder(user, "phone").transport(Transport::WebSocket).connect();
    let (alice, bob) = (client("alice").await.unwrap(), client("bob").await.unwrap());
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    let mut tickets = Vec::new();
    for number in 0..600u32 {
        match number {
            150 => site.cluster.move_slots(),
            300 => site.restart_gateway().await,
            450 => site.cluster.kill_holder(),
            _ => {}
        }
        let body = [&number.to_be_bytes()[..], &[0; 2_000]].concat();
        tickets.push(alice.submit(SendRequest::new(Conversation::peer("bob").unwrap(), body)).await.unwrap());
    }
    for ticket in tickets {
        tokio::time::timeout(PATIENCE * 2, ticket.outcome()).await.unwrap().unwrap();
    }
    assert_eq!(site.cluster.messages("alice", "bob"), 600, "each exactly once");
    for number in 0..600u32 {
        let entry = tokio::time::timeout(PATIENCE, inbox.next()).await.unwrap().unwrap().unwrap();
        let EntryBody::Here { body, .. } = &entry.body else { panic!("no body: {entry:?}") };
        assert_eq!(body[..4], number.to_be_bytes());
    }
    let page = bob.sync(None, 100).await.unwrap();
    assert_eq!((page.entries.len() > 10, page.more), (true, true));
    let again = bob.subscribe(Seq::FIRST, None);
    assert!(tokio::time::timeout(PATIENCE, inbox.next()).await.unwrap().unwrap().is_err(), "replaced");
    let texts: Vec<_> = again.take(600).collect().await;
    assert!(texts.len() == 600 && texts.iter().all(Result::is_ok));
    assert_eq!(site.metric("gateway_connections{transport=\"WebSocket\"}"), 2.0);
}

// ---- certificates ----

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_used_without_a_restart() {
    let site = Site::start().await;
    let mut before =
        [Peer::enter(&site, Kind::Quic, "alice").await, Peer::enter(&site, Kind::WebSocket, "alice").await];
    let other = tempfile::tempdir().unwrap();
    let others = seriatim_gateway::dev_ca::ensure_dev_ca(other.path()).unwrap();
    std::fs::copy(&others.gateway, &site.files.gateway).unwrap();
    std::fs::copy(&others.gateway_key, &site.files.gateway_key).unwrap();
    let ca = std::fs::read(&others.ca).unwrap();
    let begun = std::time::Instant::now();
    for transport in [Transport::Quic, Transport::WebSocket] {
        let connect = || site.builder("bob", "phone").ca_pem(&ca).transport(transport).connect();
        while let Err(error) = connect().await {
            assert!(matches!(error, ConnectError::Handshake(_)), "{error}");
            assert!(begun.elapsed() < PATIENCE, "the new certificate is used in time");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let old = site.builder("bob", "phone").transport(transport).connect().await.unwrap_err();
        assert!(matches!(old, ConnectError::Handshake(_)), "{old}");
    }
    for peer in &mut before {
        peer.say(0, 9, Asked::Ping(v1::Ping { nonce: 1 })).await;
        assert!(matches!(peer.answer(9).await, Said::Pong(_)), "who is in stays");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_chain_browsers_see_the_same_certificate_as_all() {
    let site = Site::start_with(|config| config.webtransport = seriatim_gateway::WebTransportCertificate::Chain).await;
    let (answer, _) = published(&site, site.address).await;
    assert!(answer.contains("\"hashes\":[]"), "{answer}");
    let tls = crate::support::peer::tls(&site.ca(), &[b"h3"]);
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
    let connection = endpoint.connect_with(config, site.address, "localhost").unwrap().await.unwrap();
    web_connect(&connection, web_request(lane::PATH)).await.unwrap();
}
