//! The gateway and the SDK together, over real QUIC on loopback, before a fake cluster of logic nodes.

use std::sync::Arc;
use std::time::Duration;

use crate::support::{Site, eventually, now_s};
use bytes::BytesMut;
use futures_util::{Stream, StreamExt};
use quinn::crypto::rustls::QuicClientConfig;
use seriatim_client::{
    Client, ConnectError, Conversation, Endpoint, Entry, EntryBody, RequestError, SendRequest, SendStatus,
    SubscriptionError, verify_page,
};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{Chain, ConversationKey, MessageId, Seq, UserId};
use seriatim_proto::limits;
use seriatim_proto::token::{Claims, Verifier};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, FrameDecoder, v1};

const PATIENCE: Duration = Duration::from_secs(15);

fn peer(name: &str) -> Conversation {
    Conversation::peer(name).unwrap()
}

fn text(entry: &Entry) -> String {
    match &entry.body {
        EntryBody::Here { body, .. } => String::from_utf8(body.to_vec()).unwrap(),
        other => panic!("no body: {other:?}"),
    }
}

async fn take(inbox: &mut (impl Stream<Item = Result<Entry, SubscriptionError>> + Unpin), count: usize) -> Vec<Entry> {
    let mut entries = Vec::new();
    while entries.len() < count {
        let next = tokio::time::timeout(PATIENCE, inbox.next()).await.expect("entries in time");
        entries.push(next.expect("the stream goes on").expect("no error"));
    }
    entries
}

fn refused_with(result: Result<Client, ConnectError>) -> ErrorCode {
    match result {
        Err(ConnectError::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

// ---- entering ----

#[tokio::test(flavor = "multi_thread")]
async fn a_device_enters_as_whom_its_token_names() {
    let site = Site::start().await;
    let client = site.client("alice", "phone").await;
    let identity = client.identity().unwrap();
    assert_eq!((identity.user.as_str(), identity.tenant), ("alice", crate::support::TENANT));
    assert_eq!(client.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_are_refused_with_their_codes() {
    let site = Site::start().await;
    let other = tempfile::tempdir().unwrap();
    let stranger = seriatim_gateway::dev_ca::ensure_dev_ca(other.path()).unwrap();
    let stranger =
        seriatim_proto::token::Minter::from_private_pem(&std::fs::read(stranger.token_key).unwrap()).unwrap();
    let alice = UserId::new("alice").unwrap();
    let claims = Claims { aud: "seriatim".into(), sub: "alice".into(), tenant: 1, exp: now_s() + 60, scopes: None };
    // The public key as an HMAC secret: the classic forgery against verifiers that believe the header.
    let public = std::fs::read(&site.files.token_public).unwrap();
    let forged =
        jsonwebtoken::encode(&Default::default(), &claims, &jsonwebtoken::EncodingKey::from_secret(&public)).unwrap();
    for (token, code) in [
        (site.token("alice", -10), ErrorCode::AuthExpired),
        ("nonsense".to_owned(), ErrorCode::AuthFailed),
        (stranger.mint(crate::support::TENANT, &alice, now_s() + 60).unwrap(), ErrorCode::AuthFailed),
        (forged, ErrorCode::AuthFailed),
    ] {
        assert_eq!(refused_with(site.builder("alice", "phone").token(token).connect().await), code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_of_another_ca_is_not_trusted() {
    let site = Site::start().await;
    let other = tempfile::tempdir().unwrap();
    let files = seriatim_gateway::dev_ca::ensure_dev_ca(other.path()).unwrap();
    let ca = std::fs::read(files.ca).unwrap();
    let result = site.builder("alice", "phone").ca_pem(&ca).connect().await;
    assert!(matches!(result, Err(ConnectError::Handshake(_))), "{result:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_token_and_goes_on_with_a_fresh_one() {
    let site = Site::start().await;
    let (short, long) = (site.token("alice", 2), site.token("alice", 3600));
    let end = now_s() + 2;
    let used = std::sync::atomic::AtomicBool::new(false);
    // It has nothing else until the first token is over: the session cannot be renewed.
    let source = move || {
        let is_first = !used.swap(true, std::sync::atomic::Ordering::SeqCst);
        let given = match now_s() {
            _ if is_first => Ok(short.clone()),
            now if now > end => Ok(long.clone()),
            _ => Err("nobody is there"),
        };
        std::future::ready(given)
    };
    let client = site.builder("alice", "phone").token_source(source).connect().await.unwrap();
    client.send(peer("bob"), "still here").await.unwrap();
    eventually("a second connection", || client.connections() == 2).await;
    client.send(peer("bob"), "here again").await.unwrap();
    assert_eq!(site.metric(RENEWED), 0.0);
}

const RENEWED: &str = "gateway_renewals_total{outcome=\"Renewed\"}";

/// Makes tokens of so many seconds, of users in turn.
fn short_lived(site: &Site, life_s: i64) -> impl Fn() -> String + Send + Sync + 'static + use<> {
    let minter =
        seriatim_proto::token::Minter::from_private_pem(&std::fs::read(&site.files.token_key).unwrap()).unwrap();
    move || {
        let end = now_s().saturating_add_signed(life_s);
        minter.mint(crate::support::TENANT, &UserId::new("alice").unwrap(), end).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_lives_on_over_renewals_and_nothing_is_lost() {
    let site = Site::start().await;
    let bob = site.client("bob", "phone").await;
    let provider = short_lived(&site, 4);
    let client = site.builder("alice", "phone").token_provider(provider).connect().await.unwrap();
    let mut inbox = client.subscribe(Seq::FIRST, None);
    let (begun, mut sent) = (now_s(), 0);
    // Beyond the end of the first token and of the one behind it.
    while now_s() < begun + 9 || site.metric(RENEWED) < 2.0 {
        bob.send(peer("alice"), format!("{sent}")).await.unwrap();
        let entry = take(&mut inbox, 1).await.remove(0);
        assert_eq!(text(&entry), format!("{sent}"));
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    client.send(peer("bob"), "hers").await.unwrap();
    assert_eq!(client.connections(), 1, "after {sent} messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_source_that_fails_is_asked_again_before_the_end() {
    let site = Site::start().await;
    let (provider, asked) = (short_lived(&site, 8), Arc::new(std::sync::atomic::AtomicU32::new(0)));
    let source = move || {
        let give = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) != 1;
        let token = if give { Ok(provider()) } else { Err("the issuer does not answer") };
        std::future::ready(token)
    };
    let client = site.builder("alice", "phone").token_source(source).connect().await.unwrap();
    eventually("a renewal", || site.metric(RENEWED) >= 1.0).await;
    assert_eq!(client.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_users_token_renews_nothing_and_the_session_ends_with_its_own() {
    let site = Site::start().await;
    let (alice, bob) = (site.token("alice", 4), site.token("bob", 3600));
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let provider = move || match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
        0 => alice.clone(),
        _ => bob.clone(),
    };
    let client = site.builder("alice", "phone").token_provider(provider).connect().await.unwrap();
    let refused = "gateway_renewals_total{outcome=\"OtherUser\"}";
    eventually("a refused renewal", || site.metric(refused) >= 1.0).await;
    assert_eq!(client.identity().unwrap().user.as_str(), "alice");
    client.send(peer("carol"), "under the old token").await.unwrap();
    assert_eq!(client.connections(), 1, "it is the same session");
    let expired = "gateway_closed_total{transport=\"Quic\",code=\"6\"}";
    eventually("the end of the session", || site.metric(expired) >= 1.0).await;
    assert_eq!(site.metric(RENEWED), 0.0);
}

// ---- sending ----

#[tokio::test(flavor = "multi_thread")]
async fn a_sent_message_is_committed_and_reaches_both() {
    let site = Site::start().await;
    let (alice, bob) = (site.client("alice", "phone").await, site.client("bob", "phone").await);
    let (mut hers, mut his) = (alice.subscribe(Seq::FIRST, None), bob.subscribe(Seq::FIRST, None));
    let committed = alice.send(peer("bob"), "hello").await.unwrap();
    assert!(!committed.duplicate);
    for (inbox, other) in [(&mut hers, "bob"), (&mut his, "alice")] {
        let entry = take(inbox, 1).await.remove(0);
        assert_eq!((text(&entry).as_str(), entry.sender.as_str()), ("hello", "alice"));
        assert_eq!((entry.conversation.clone(), entry.conversation_seq), (peer(other), committed.seq));
        assert!(entry.body_matches());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_again_is_a_duplicate_and_another_body_a_conflict() {
    let site = Site::start().await;
    let client = site.client("alice", "phone").await;
    let request = SendRequest::new(peer("bob"), "once");
    let first = client.send_request(request.clone()).await.unwrap();
    let again = client.send_request(request.clone()).await.unwrap();
    assert_eq!((again.seq, again.duplicate), (first.seq, true));
    let other = client.send_request(SendRequest { body: "twice".into(), ..request.clone() }).await.unwrap_err();
    assert!(matches!(&other, RequestError::Rejected(refusal) if refusal.code == ErrorCode::Conflict));
    let status = client.query_send(&peer("bob"), request.message_id, None).await.unwrap();
    assert_eq!(status, SendStatus::Committed(first.seq));
    let late = client.cancel_send(&peer("bob"), request.message_id, None).await.unwrap();
    assert_eq!(late, SendStatus::Committed(first.seq));
    let in_time = client.cancel_send(&peer("bob"), MessageId([9; 16]), None).await.unwrap();
    assert_eq!(in_time, SendStatus::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_elses_group_is_not_found() {
    let site = Site::start().await;
    let (alice, bob) = (site.client("alice", "phone").await, site.client("bob", "phone").await);
    let group = ConversationKey([5; 16]);
    alice.create_group(group, &[UserId::new("carol").unwrap()]).await.unwrap();
    let refused = bob.send(Conversation::Group(group), "let me in").await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::NotFound);
    alice.change_members(group, &[UserId::new("bob").unwrap()], &[]).await.unwrap();
    bob.send(Conversation::Group(group), "thank you").await.unwrap();
    let page = bob.sync(None, 0).await.unwrap();
    assert_eq!(page.entries[0].added, [UserId::new("bob").unwrap()]);
    let history = alice.history(&Conversation::Group(group), None, 0).await.unwrap();
    assert_eq!(history.entries.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_rejected() {
    let site = Site::start().await;
    let client = site.client("alice", "phone").await;
    client.send(peer("bob"), vec![0; limits::MESSAGE_BYTES_MAX as usize]).await.unwrap();
    let refused = client.send(peer("bob"), vec![0; limits::MESSAGE_BYTES_MAX as usize + 1]).await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::MessageTooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_sends_keep_their_order_over_every_fault() {
    let mut site = Site::start().await;
    let alice = site.client("alice", "phone").await;
    let mut tickets = Vec::new();
    for number in 0..600 {
        match number {
            100 => site.cluster.move_slots(),
            200 => site.cluster.with(|state| state.sends_to_forget = 20),
            300 => {
                site.cluster.move_slots_silently();
                let cluster = site.cluster.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    cluster.tell_table();
                });
            }
            400 => site.restart_gateway().await,
            500 => site.cluster.kill_holder(),
            _ => {}
        }
        tickets.push(alice.submit(SendRequest::new(peer("bob"), format!("{number}"))).await.unwrap());
    }
    let mut last = None;
    for ticket in tickets {
        let seq = tokio::time::timeout(PATIENCE * 2, ticket.outcome()).await.unwrap().unwrap().seq;
        assert!(last < Some(seq), "in order");
        last = Some(seq);
    }
    assert_eq!(site.cluster.messages("alice", "bob"), 600, "each exactly once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_nobody_knows_is_unknown() {
    let site = Site::start().await;
    let client = site.builder("alice", "phone").request_timeout(Duration::from_millis(300)).connect().await.unwrap();
    site.cluster.with(|state| state.sends_to_forget = u32::MAX);
    let request = SendRequest::new(peer("bob"), "perhaps");
    let unknown = client.send_request(request.clone()).await.unwrap_err();
    assert!(unknown.is_unknown(), "{unknown}");
    site.cluster.with(|state| state.sends_to_forget = 0);
    assert!(client.send_request(request).await.unwrap().duplicate);
}

// ---- the inbox ----

#[tokio::test(flavor = "multi_thread")]
async fn a_late_device_gets_everything_in_order_and_the_chain_proves_it() {
    let site = Site::start().await;
    let alice = site.client("alice", "phone").await;
    for number in 0..250 {
        alice.send(peer("bob"), format!("{number}")).await.unwrap();
    }
    let bob = site.client("bob", "laptop").await;
    let (mut from, mut chain, mut count) = (None, Chain::default(), 0);
    loop {
        let page = bob.sync(from, 100).await.unwrap();
        chain = verify_page(&UserId::new("bob").unwrap(), chain, &page).unwrap();
        count += page.entries.len();
        from = Some(page.upto);
        if !page.more {
            break;
        }
    }
    assert_eq!(count, 250);
    assert_eq!(bob.status().await.unwrap().chain, chain);
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    let texts: Vec<_> = take(&mut inbox, 250).await.iter().map(text).collect();
    assert_eq!(texts, (0..250).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_page_breaks_the_chain() {
    let site = Site::start().await;
    let alice = site.client("alice", "phone").await;
    for number in 0..3 {
        alice.send(peer("bob"), format!("{number}")).await.unwrap();
    }
    let page = alice.sync(None, 0).await.unwrap();
    let user = UserId::new("alice").unwrap();
    verify_page(&user, Chain::default(), &page).unwrap();
    let mut missing = page.clone();
    missing.entries.remove(1);
    assert!(verify_page(&user, Chain::default(), &missing).is_err());
    let mut changed = page.clone();
    changed.entries[1].at_ms += 1;
    assert!(verify_page(&user, Chain::default(), &changed).is_err());
    let mut forged = page;
    forged.entries[2].body = EntryBody::Here { salt: "".into(), body: "other".into() };
    assert!(verify_page(&user, Chain::default(), &forged).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_pushes_are_repaired_by_the_next_one_and_by_renewal() {
    let site = Site::start().await;
    let (alice, bob) = (site.client("alice", "phone").await, site.client("bob", "phone").await);
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    alice.send(peer("bob"), "0").await.unwrap();
    take(&mut inbox, 1).await;
    // Both inboxes' pushes of two messages are lost; the third one shows the gap.
    site.cluster.with(|state| state.pushes_to_drop = 4);
    for number in 1..4 {
        alice.send(peer("bob"), format!("{number}")).await.unwrap();
    }
    let texts: Vec<_> = take(&mut inbox, 3).await.iter().map(text).collect();
    assert_eq!(texts, ["1", "2", "3"]);
    // Nothing follows: the renewal shows it.
    site.cluster.with(|state| state.pushes_to_drop = 2);
    alice.send(peer("bob"), "4").await.unwrap();
    assert_eq!(text(&take(&mut inbox, 1).await[0]), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_misses_nothing() {
    let site = Site::start().await;
    let (alice, bob) = (site.client("alice", "phone").await, site.client("bob", "phone").await);
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    let count = 6_000;
    for number in 0..count {
        let ticket = alice.submit(SendRequest::new(peer("bob"), format!("{number}"))).await.unwrap();
        if number % 200 == 199 {
            ticket.outcome().await.unwrap();
        }
    }
    eventually("all are committed", || site.cluster.messages("alice", "bob") == count).await;
    let texts: Vec<_> = take(&mut inbox, count).await.iter().map(text).collect();
    assert_eq!(texts, (0..count).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_goes_on_over_moves_deaths_and_a_new_gateway() {
    let mut site = Site::start().await;
    let (alice, bob) = (site.client("alice", "phone").await, site.client("bob", "phone").await);
    let mut inbox = bob.subscribe(Seq::FIRST, None);
    let faults: [&str; 5] = ["none", "move", "restart", "kill", "none"];
    let mut number = 0;
    for fault in faults {
        match fault {
            "move" => site.cluster.move_slots(),
            "restart" => site.restart_gateway().await,
            "kill" => site.cluster.kill_holder(),
            _ => {}
        }
        for _ in 0..20 {
            alice.send(peer("bob"), format!("{number}")).await.unwrap();
            number += 1;
        }
        let entries = take(&mut inbox, 20).await;
        let expected: Vec<_> = (number - 20..number).map(|number| number.to_string()).collect();
        assert_eq!(entries.iter().map(text).collect::<Vec<_>>(), expected, "after {fault}");
    }
    assert_eq!(bob.connections(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_cursor_is_durable_and_none_from_the_future_is_taken() {
    let site = Site::start().await;
    let client = site.client("alice", "phone").await;
    client.send(peer("bob"), "x").await.unwrap();
    let tail = client.status().await.unwrap().tail.unwrap();
    assert_eq!(client.ack(tail).await.unwrap(), tail);
    assert_eq!(site.cluster.cursor("alice", "phone"), Some(tail));
    assert_eq!(client.status().await.unwrap().devices.len(), 1);
    let refused = client.ack(tail.plus(50)).await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::CursorAhead);
    let refused = client.sync(Some(tail.plus(50)), 0).await.unwrap_err();
    assert_eq!(refused.refusal().code, ErrorCode::CursorAhead);
    let mut inbox = client.subscribe(tail.plus(50), None);
    let ended = tokio::time::timeout(PATIENCE, inbox.next()).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(ended, SubscriptionError::Refused(refusal) if refusal.code == ErrorCode::CursorAhead));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_subscription_ends_the_old_one() {
    let site = Site::start().await;
    let client = site.client("alice", "phone").await;
    client.send(peer("bob"), "x").await.unwrap();
    let mut old = client.subscribe(Seq::FIRST, None);
    take(&mut old, 1).await;
    let mut new = client.subscribe(Seq::FIRST, None);
    take(&mut new, 1).await;
    assert!(tokio::time::timeout(PATIENCE, old.next()).await.unwrap().unwrap().is_err());
    client.send(peer("bob"), "y").await.unwrap();
    assert_eq!(text(&take(&mut new, 1).await[0]), "y");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_one_socket() {
    let site = Site::start().await;
    let endpoint = Endpoint::new(site.address, &site.ca()).unwrap();
    let mut clients = Vec::new();
    for number in 0..100 {
        let name = format!("user-{number}");
        clients.push(site.builder(&name, "phone").endpoint(&endpoint).connect().await.unwrap());
    }
    let mut inboxes: Vec<_> = clients.iter().map(|client| client.subscribe(Seq::FIRST, None)).collect();
    for (number, client) in clients.iter().enumerate() {
        client.send(peer(&format!("user-{}", (number + 1) % 100)), "next").await.unwrap();
    }
    for inbox in &mut inboxes {
        take(inbox, 2).await;
    }
}

// ---- a stranger, frame by frame ----

struct Stranger {
    connection: quinn::Connection,
    control: quinn::SendStream,
    _answers: quinn::RecvStream,
    _endpoint: quinn::Endpoint,
}

fn stranger_config(site: &Site, alpn: &[u8]) -> quinn::ClientConfig {
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(&site.ca()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![alpn.to_vec()];
    quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

impl Stranger {
    async fn enter(site: &Site) -> Self {
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = stranger_config(site, wire::ALPN);
        let connection = endpoint.connect_with(config, site.address, "localhost").unwrap().await.unwrap();
        let (mut control, mut answers) = connection.open_bi().await.unwrap();
        let hello = v1::Hello { token: site.token("alice", 60), device: "x".into(), ..Default::default() };
        control.write_all(&frame(1, Asked::Hello(hello))).await.unwrap();
        let welcome = read(&mut answers).await;
        assert!(matches!(welcome.body, Some(Said::Welcome(_))));
        Self { connection, control, _answers: answers, _endpoint: endpoint }
    }

    async fn close_code(&self) -> u64 {
        match tokio::time::timeout(PATIENCE, self.connection.closed()).await.unwrap() {
            quinn::ConnectionError::ApplicationClosed(close) => close.error_code.into_inner(),
            other => panic!("closed otherwise: {other}"),
        }
    }
}

fn frame(request_id: u64, body: Asked) -> BytesMut {
    let mut out = BytesMut::new();
    wire::encode_frame(&v1::ClientFrame { request_id, body: Some(body), ..Default::default() }, &mut out);
    out
}

async fn read(stream: &mut quinn::RecvStream) -> v1::ServerFrame {
    let mut decoder = FrameDecoder::default();
    let mut buffer = [0; 4096];
    loop {
        if let Some(frame) = decoder.next_frame::<v1::ServerFrame>().unwrap() {
            return frame;
        }
        let count = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.unwrap().unwrap().unwrap();
        decoder.push(&buffer[..count]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_protocol_is_refused_by_tls() {
    let site = Site::start().await;
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = stranger_config(&site, b"seriatim-9");
    let refused = endpoint.connect_with(config, site.address, "localhost").unwrap().await.unwrap_err();
    assert!(refused.to_string().contains("120"), "no_application_protocol: {refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_frame_is_answered_and_the_stream_goes_on() {
    let site = Site::start().await;
    let stranger = Stranger::enter(&site).await;
    let (mut lane, mut answers) = stranger.connection.open_bi().await.unwrap();
    // request_id 5, and field 99 that no version of ours has.
    lane.write_all(&[6, 0x08, 0x05, 0x9a, 0x06, 0x01, 0x00]).await.unwrap();
    let refused = read(&mut answers).await;
    assert_eq!(refused.request_id, 5);
    assert!(matches!(refused.body, Some(Said::Error(error)) if error.name == "UNSUPPORTED"));
    let send = v1::Send {
        message_id: vec![1; 16].into(),
        conversation: Some(v1::Conversation { id: Some(v1::conversation::Id::Peer("bob".into())) }),
        body: "hi".into(),
        ..Default::default()
    };
    lane.write_all(&frame(6, Asked::Send(send))).await.unwrap();
    let committed = read(&mut answers).await;
    assert!(matches!((committed.request_id, committed.body), (6, Some(Said::Committed(_)))));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_broken_by_a_stranger_close_with_their_codes() {
    let site = Site::start().await;
    let stranger = Stranger::enter(&site).await;
    let (mut lane, _) = stranger.connection.open_bi().await.unwrap();
    lane.write_all(&[0xff, 0xff, 0xff, 0x7f]).await.unwrap();
    assert_eq!(stranger.close_code().await, 3, "a frame over the limit");

    let stranger = Stranger::enter(&site).await;
    let (mut lane, _) = stranger.connection.open_bi().await.unwrap();
    lane.write_all(&frame(1, Asked::Ping(v1::Ping { nonce: 1 }))).await.unwrap();
    assert_eq!(stranger.close_code().await, 2, "a frame on the wrong stream");

    let mut stranger = Stranger::enter(&site).await;
    stranger.control.finish().unwrap();
    assert_eq!(stranger.close_code().await, 4, "the control stream closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_goes_down_says_so() {
    let mut site = Site::start().await;
    let stranger = Stranger::enter(&site).await;
    site.stop_gateway().await;
    assert_eq!(stranger.close_code().await, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_flag_or_on_a_taken_port_fails() {
    let site = Site::start().await;
    let read = |path: &std::path::Path| std::fs::read(path).unwrap();
    let config = seriatim_gateway::GatewayConfig {
        name: None,
        operators: None,
        listen: site.address,
        logic: vec!["127.0.0.1:1".into()],
        certificate: seriatim_gateway::CertificateFiles {
            chain: site.files.gateway.clone(),
            key: site.files.gateway_key.clone(),
        },
        webtransport: Default::default(),
        origins: Default::default(),
        address_connections_max: 1,
        verifier: Verifier::from_public_pem(&read(&site.files.token_public)).unwrap(),
        quic_secret: None,
        client_ca: None,
        insecure_plaintext: true,
        mtls: None,
    };
    let start = |config| async move {
        seriatim_gateway::GatewayServer::start(config, &mut Default::default()).await.unwrap_err()
    };
    let taken = start(config.clone()).await;
    assert!(matches!(taken, seriatim_gateway::GatewayStartError::Bind { address, .. } if address == site.address));
    let plain = start(seriatim_gateway::GatewayConfig { insecure_plaintext: false, ..config }).await;
    assert!(matches!(plain, seriatim_gateway::GatewayStartError::Unclear(_)));
}
