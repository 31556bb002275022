//! Conformance: `raftctl conformance` passes our gateway on every way in, and catches one that lies.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use crate::common::Cluster;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use seriatim_client::{Client, Conversation, EntryBody, Transport};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::Seq;
use seriatim_proto::token::unverified;
use seriatim_proto::wire::v1::amend::Act;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::entry::Kind;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{ALPN, FrameDecoder, encode_frame, error_to_wire, lane, v1};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message};

/// Exit code, the verdicts, stderr.
struct Judged {
    exit: Option<i32>,
    items: Vec<Value>,
    error: String,
}

fn conformance(arguments: &[&str]) -> Judged {
    let all = [&["-o", "json", "--timeout", "60s", "conformance"], arguments].concat();
    let (exit, out, error) = crate::common::run(&crate::common::sibling("raftctl"), &all);
    let json: Value = serde_json::from_str(&out).unwrap_or(Value::Null);
    Judged { exit, items: json["items"].as_array().cloned().unwrap_or_default(), error }
}

fn of_verdict<'a>(said: &'a Judged, verdict: &str) -> Vec<&'a Value> {
    said.items.iter().filter(|item| item["verdict"] == verdict).collect()
}

#[test]
fn our_gateway_passes_every_case_on_every_way_in() {
    let cluster = Cluster::start();
    let folder = cluster.data().to_str().unwrap();
    let listed = conformance(&["--list"]);
    assert_eq!(listed.exit, Some(0), "{}", listed.error);
    assert!(listed.items.len() > 50 && listed.items.iter().all(|item| item["judges"] != "SDK"));
    let all: Vec<_> = listed.items.iter().map(|item| &item["case"]).collect();
    // At the same time: the cases of one run meet those of no other.
    std::thread::scope(|scope| {
        for transport in ["quic", "webtransport", "websocket"] {
            let all = &all;
            scope.spawn(move || {
                let said = conformance(&["--playground", folder, "--transport", transport]);
                let failed = of_verdict(&said, "failed");
                assert!(failed.is_empty() && said.exit == Some(0), "{failed:#?} {}", said.error);
                let passed: Vec<_> = of_verdict(&said, "passed").into_iter().map(|item| &item["case"]).collect();
                assert_eq!(passed, *all, "nothing is skipped over {transport}");
                assert!(said.items.iter().all(|item| item["transport"] == transport));
            });
        }
    });
}

#[test]
fn two_tokens_are_enough_for_most_and_a_run_that_judges_nothing_is_no_success() {
    let cluster = Cluster::start();
    let folder = cluster.data().to_str().unwrap();
    let own = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = own.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (alice, bob) = (file("alice", &cluster.token("alice", 3600)), file("bob", &cluster.token("bob", 3600)));
    let counting = file("counting", &cluster.sequence_token(1));
    let given = ["--playground", folder, "--token-file", &alice, "--peer-token-file", &bob];
    let with = |more: &[&str]| conformance(&[&given[..], more].concat());

    // Twice: users who have something already are judged like new ones.
    for _ in 0..2 {
        let said = with(&["--sequence-token-file", &counting]);
        assert!(said.exit == Some(0) && of_verdict(&said, "failed").is_empty(), "{:#?}", of_verdict(&said, "failed"));
        assert!(of_verdict(&said, "passed").len() >= 25, "{:?}", said.items);
        assert!(of_verdict(&said, "skipped").iter().all(|item| item["detail"].as_str().unwrap().contains("--dev-key")));
    }
    let said = with(&["--case", "C-012,C-060"]);
    assert!(said.exit == Some(4) && said.items.len() == 2, "{:?} {}", said.exit, said.error);
    assert!(said.error.contains("nothing was judged"), "{}", said.error);

    // A token that is none of the cluster's, an address where nobody is, another CA, no such case.
    let expired = file("expired", &cluster.token("alice", -60));
    let said = conformance(&["--playground", folder, "--token-file", &expired]);
    assert!(said.exit == Some(5) && said.items.is_empty(), "{:?} {}", said.exit, said.error);
    let (key, ca) = (cluster.about.token_private_key.clone(), cluster.about.ca_certificate.clone());
    let nobody = conformance(&["--target", "127.0.0.1:9", "--dev-key", &key, "--ca", &ca, "--transport", "websocket"]);
    assert_eq!((nobody.exit, nobody.items.len()), (Some(6), 0), "{}", nobody.error);
    let stranger = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let other = file("ca", &stranger.cert.pem());
    let gateway = cluster.gateway().to_string();
    let said = conformance(&["--target", &gateway, "--dev-key", &key, "--ca", &other]);
    assert_eq!(said.exit, Some(2), "{}", said.error);
    assert_eq!(with(&["--case", "C-999"]).exit, Some(2));
    let lonely = conformance(&["--playground", folder, "--peer-token-file", &bob]);
    assert_eq!(lonely.exit, Some(2), "{}", lonely.error);
}

/// What a gateway says instead of what ours says.
#[derive(Clone, Copy)]
struct Lie {
    /// that catches it
    case: &'static str,
    /// of a frame, and of what it answers
    frame: fn(&mut v1::ServerFrame, Option<&Asked>),
    /// of a close code, and of what was asked last
    close: fn(u16, Option<&Asked>) -> u16,
    /// in what the case says of it
    words: &'static str,
}

fn truth(_: &mut v1::ServerFrame, _: Option<&Asked>) {}

fn of_frame(case: &'static str, frame: fn(&mut v1::ServerFrame, Option<&Asked>)) -> Lie {
    Lie { case, frame, close: |code, _| code, words: "" }
}

/// One that the case catches at this place.
fn at(case: &'static str, words: &'static str, frame: fn(&mut v1::ServerFrame, Option<&Asked>)) -> Lie {
    Lie { words, ..of_frame(case, frame) }
}

fn error(code: ErrorCode) -> Option<Said> {
    Some(Said::Error(error_to_wire(&Refusal::new(code, "a lie"))))
}

/// Is the token of a Hello for another audience than ours?
fn is_for_others(asked: Option<&Asked>) -> bool {
    let Some(Asked::Hello(hello)) = asked else { return false };
    unverified(&hello.token).is_some_and(|token| token.claims["aud"] != "seriatim")
}

fn lies() -> Vec<Lie> {
    [of_what_is_said(), of_what_was_asked()].concat()
}

/// That need to know what was asked, or that only one place of their case catches.
fn of_what_was_asked() -> Vec<Lie> {
    vec![
        at("C-001", "of the vector", |frame, _| {
            if let Some(Said::HistoryPage(page)) = &mut frame.body {
                page.entries.iter_mut().for_each(|entry| entry.salt.clear());
            }
        }),
        Lie { close: |_, _| 1_000, ..at("C-011", "another key", truth) },
        Lie {
            close: |code, asked| if is_for_others(asked) { 1_000 } else { code },
            ..at("C-011", "for the audience", truth)
        },
        at("C-031", "one who has gone", |frame, _| {
            if let Some(Said::SyncPage(page)) = &mut frame.body
                && page.entries.len() == 3
            {
                page.entries.extend(page.entries.last().cloned());
            }
        }),
        at("C-033", "the verdict on another's id", |frame, _| {
            if let Some(Said::SendStatus(status)) = &mut frame.body {
                status.set_state(v1::send_status::State::Committed);
            }
        }),
        at("C-033", "NOT_FOUND", |frame, asked| {
            if let (Some(Said::Error(_)), Some(Asked::Mark(_))) = (&frame.body, asked) {
                frame.body = error(ErrorCode::Forbidden);
            }
        }),
        at("C-033", "NOT_FOUND", |frame, asked| {
            if let (Some(Said::Error(_)), Some(Asked::Amend(_))) = (&frame.body, asked) {
                frame.body = error(ErrorCode::NotAuthor);
            }
        }),
        at("C-040", "what the pages prove", |frame, _| {
            if let Some(Said::Deliver(deliver)) = &mut frame.body {
                deliver.entries.iter_mut().for_each(|entry| entry.at_ms += 1);
            }
        }),
        at("C-042", "the tail", |frame, _| {
            if let Some(Said::Lagging(lagging)) = &mut frame.body {
                lagging.upto += 5;
            }
        }),
        at("C-083", "unpins what is pinned", |frame, asked| {
            if let Some(Asked::Amend(v1::Amend { act: Some(Act::Pin(pin)), .. })) = asked
                && pin.unset
            {
                frame.body = error(ErrorCode::NotFound);
            }
        }),
        at("C-085", "kinds and targets", |frame, _| {
            if let Some(Said::HistoryPage(page)) = &mut frame.body {
                for entry in page.entries.iter_mut().filter(|entry| entry.kind() == Kind::Pin) {
                    entry.set_kind(Kind::Message);
                }
            }
        }),
        at("C-090", "as List shows it", |frame, _| {
            if let Some(Said::ListPage(page)) = &mut frame.body {
                page.list.iter_mut().for_each(|row| row.archived = true);
            }
        }),
        at("C-091", "another conversation's place", |frame, asked| {
            if let (Some(Said::Error(_)), Some(Asked::Mark(_))) = (&frame.body, asked) {
                frame.body = Some(Said::Marked(v1::Marked { now: Some(v1::Listed::default()) }));
            }
        }),
        at("C-100", "the life of the token", |frame, _| {
            if let Some(Said::Renewed(renewed)) = &mut frame.body {
                renewed.expires_in_ms = 0;
            }
        }),
        // Renewed in name only: behind the first token's end.
        at("C-100", "expected Committed", |frame, _| {
            if let Some(Said::Committed(_)) = &frame.body {
                frame.body = error(ErrorCode::AuthExpired);
            }
        }),
    ]
}

fn of_what_is_said() -> Vec<Lie> {
    vec![
        of_frame("C-010", |frame, _| {
            if let Some(Said::Welcome(welcome)) = &mut frame.body {
                welcome.user = "mallory".to_owned();
            }
        }),
        of_frame("C-014", |frame, _| {
            if let Some(Said::Pong(pong)) = &mut frame.body {
                pong.nonce ^= 1;
            }
        }),
        Lie { case: "C-015", frame: truth, close: |_, _| 1_000, words: "" },
        of_frame("C-021", |frame, _| {
            if let Some(Said::Committed(committed)) = &mut frame.body {
                committed.duplicate = false;
            }
        }),
        of_frame("C-023", |frame, _| {
            if let Some(Said::Error(error)) = &mut frame.body {
                error.code = 12;
            }
        }),
        of_frame("C-024", |frame, _| {
            if let Some(Said::Committed(committed)) = &mut frame.body {
                committed.seq = 1_000_000 - committed.seq;
            }
        }),
        of_frame("C-040", |frame, _| {
            if let Some(Said::Deliver(deliver)) = &mut frame.body {
                deliver.entries.extend(deliver.entries.last().cloned());
            }
        }),
        of_frame("C-047", |frame, _| {
            if let Some(Said::SyncPage(page)) = &mut frame.body {
                page.entries.truncate(page.entries.len().saturating_sub(1));
            }
        }),
        of_frame("C-048", |frame, _| {
            if let Some(Said::SyncPage(page)) = &mut frame.body
                && let Some(entry) = page.entries.first_mut()
            {
                entry.at_ms += 1;
            }
        }),
        of_frame("C-050", |frame, _| {
            if let Some(Said::Numbers(numbers)) = &mut frame.body {
                numbers.first = 1;
            }
        }),
        of_frame("C-082", |frame, _| {
            let entries = match &mut frame.body {
                Some(Said::SyncPage(page)) => &mut page.entries,
                Some(Said::HistoryPage(page)) => &mut page.entries,
                _ => return,
            };
            for entry in entries.iter_mut().filter(|entry| entry.body_state() == v1::entry::Body::Erased) {
                entry.set_body_state(v1::entry::Body::Here);
                entry.body = "a secret".into();
            }
        }),
        of_frame("C-092", |frame, _| {
            if let Some(Said::ListPage(page)) = &mut frame.body {
                page.unread = 0;
            }
        }),
    ]
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A gateway in front of ours, which hands on everything and tells one lie.
struct Liar {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Liar {
    async fn start(cluster: &Cluster, lie: Lie, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> Liar {
        let key = PrivateKeyDer::from_pem_slice(certificate.signing_key.serialize_pem().as_bytes()).unwrap();
        let tls = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        let mut roots = rustls::RootCertStore::empty();
        let ca = std::fs::read(&cluster.about.ca_certificate).unwrap();
        roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let tls = rustls::ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = TlsConnector::from(Arc::new(tls));
        let gateway = cluster.gateway();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(carry(stream, acceptor.clone(), connector.clone(), gateway, lie));
            }
        });
        Liar { address, task }
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[expect(clippy::result_large_err, reason = "the library's own type")]
fn with_protocol(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_bytes(ALPN).unwrap());
    Ok(response)
}

async fn carry(stream: TcpStream, acceptor: TlsAcceptor, connector: TlsConnector, gateway: SocketAddr, lie: Lie) {
    // Who only looked whether anybody is there.
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let mut device = tokio_tungstenite::accept_hdr_async(stream, with_protocol).await.unwrap();
    let stream = TcpStream::connect(gateway).await.unwrap();
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap();
    let mut request = format!("wss://localhost{}", lane::PATH).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_bytes(ALPN).unwrap());
    let (mut gateway, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    let mut asked = Heard::default();
    loop {
        tokio::select! {
            said = device.next() => match said {
                Some(Ok(message)) if !message.is_close() => {
                    asked.hear(&message);
                    if gateway.send(message).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            said = gateway.next() => {
                let message = match said {
                    Some(Ok(Message::Binary(bytes))) => Message::Binary(bent(&bytes, lie, &asked)),
                    Some(Ok(Message::Close(close))) => {
                        let code = |close: &CloseFrame| (lie.close)(close.code.into(), asked.last.as_ref()).into();
                        let bend = |close: CloseFrame| CloseFrame { code: code(&close), ..close };
                        let _ = device.close(close.map(bend)).await;
                        // The device's own goodbye, so that it has read ours.
                        while let Some(Ok(_)) = device.next().await {}
                        return;
                    }
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return,
                };
                if device.send(message).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What a device has asked.
#[derive(Default)]
struct Heard {
    asked: HashMap<u64, Asked>,
    last: Option<Asked>,
}

impl Heard {
    fn hear(&mut self, message: &Message) {
        let Message::Binary(bytes) = message else { return };
        let mut decoder = FrameDecoder::default();
        decoder.push(bytes);
        // What is no frame is the gateway's to judge.
        while let Ok(Some(frame)) = decoder.next_frame::<v1::ClientFrame>() {
            let Some(body) = frame.body else { continue };
            self.asked.insert(frame.request_id, body.clone());
            self.last = Some(body);
        }
    }
}

fn bent(bytes: &[u8], lie: Lie, heard: &Heard) -> Bytes {
    let mut decoder = FrameDecoder::default();
    decoder.push(bytes);
    let mut out = BytesMut::new();
    while let Some(mut frame) = decoder.next_frame::<v1::ServerFrame>().unwrap() {
        let asked = heard.asked.get(&frame.request_id);
        (lie.frame)(&mut frame, asked);
        encode_frame(&frame, &mut out);
    }
    decoder.finish().unwrap();
    out.freeze()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_lies_is_caught_by_the_case_about_it() {
    let cluster = Cluster::start();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let own = tempfile::tempdir().unwrap();
    let ca = own.path().join("ca.pem");
    std::fs::write(&ca, certificate.cert.pem()).unwrap();
    let key = cluster.about.token_private_key.clone();
    let lies = lies();

    // The one that hands on what ours says passes all of them.
    let honest = Liar::start(&cluster, of_frame("", truth), &certificate).await;
    let cases: BTreeSet<_> = lies.iter().map(|lie| lie.case).collect();
    let said = ask(&honest, &ca, &key, cases.iter().copied().collect::<Vec<_>>().join(",")).await;
    assert_eq!((said.exit, of_verdict(&said, "passed").len()), (Some(0), cases.len()), "{:#?}", said.items);
    drop(honest);

    for lie in lies {
        let liar = Liar::start(&cluster, lie, &certificate).await;
        let said = ask(&liar, &ca, &key, lie.case.to_owned()).await;
        let [item] = &said.items[..] else { panic!("{}: {:?} {}", lie.case, said.items, said.error) };
        assert_eq!((said.exit, item["verdict"].as_str()), (Some(12), Some("failed")), "{item} {}", said.error);
        let words = item["detail"].as_str().unwrap();
        assert!(words.contains("expected") || words.contains("chain"), "{}: {words}", lie.case);
        assert!(words.contains(lie.words), "{}: {words}, not {}", lie.case, lie.words);
    }
}

/// The first two subscriptions of a session are refused for now, and bring nothing.
fn subscribes_at_the_third(frame: &mut v1::ServerFrame, _: Option<&Asked>) {
    if (1..=2).contains(&frame.inbox) {
        (frame.body, frame.optional) = (None, true);
    }
    if matches!(&frame.body, Some(Said::Subscribed(said)) if said.subscription_id <= 2) {
        let refusal = Refusal::later(ErrorCode::Busy, "not yet", 100);
        frame.body = Some(Said::Error(error_to_wire(&refusal)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_is_refused_for_now_goes_on_and_loses_nothing() {
    let cluster = Cluster::start();
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let busy = Liar::start(&cluster, of_frame("", subscribes_at_the_third), &certificate).await;
    let bob = cluster.device("bob", "laptop").await;
    bob.send(Conversation::peer("alice").unwrap(), "before").await.unwrap();
    let alice = Client::builder(busy.address, "localhost")
        .ca_pem(certificate.cert.pem().as_bytes())
        .transport(Transport::WebSocket)
        .token(cluster.token("alice", 3600))
        .device("phone")
        .connect()
        .await
        .unwrap();
    let mut inbox = alice.subscribe(Seq::FIRST, None);
    for text in ["before", "behind"] {
        let entry = tokio::time::timeout(crate::common::PATIENCE, inbox.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(&entry.body, EntryBody::Here { body, .. } if body == text), "{entry:?}");
        if text == "before" {
            bob.send(Conversation::peer("alice").unwrap(), "behind").await.unwrap();
        }
    }
    assert_eq!(alice.connections(), 1, "on the same connection");
}

/// Asks a gateway over a WebSocket.
async fn ask(liar: &Liar, ca: &Path, key: &str, cases: String) -> Judged {
    let (target, ca, key) = (liar.address.to_string(), ca.display().to_string(), key.to_owned());
    let run = move || {
        let at = ["--target", &target, "--ca", &ca, "--dev-key", &key];
        conformance(&[&at[..], &["--transport", "websocket", "--case", &cases]].concat())
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}
