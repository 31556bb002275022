//! docs/protocol.md says what the program does: its error table and its vectors are checked here.

use bytes::{Bytes, BytesMut};
use seriatim_proto::chain;
use seriatim_proto::command::{EntryRef, Kind};
use seriatim_proto::error::{Certainty, ErrorCode, Retry};
use seriatim_proto::ids::{Chain, ConversationId, MessageId, Seq, UserId};
use seriatim_proto::limits;
use seriatim_proto::store::InboxEntry;
use seriatim_proto::wire::lane::{self, Place};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};

fn page() -> String {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo says where the crate is");
    let path = std::path::Path::new(&here).join("../../docs/protocol.md");
    std::fs::read_to_string(path).expect("docs/protocol.md is there")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn asked(request_id: u64, body: Asked) -> String {
    let mut out = BytesMut::new();
    wire::encode_frame(&v1::ClientFrame { request_id, body: Some(body), ..Default::default() }, &mut out);
    hex(&out)
}

fn said(request_id: u64, body: Said) -> String {
    let mut out = BytesMut::new();
    wire::encode_frame(&v1::ServerFrame { request_id, body: Some(body), ..Default::default() }, &mut out);
    hex(&out)
}

#[test]
fn the_error_table_is_the_programs() {
    let page = page();
    for code in ErrorCode::ALL {
        let retry = match code.retry() {
            Retry::Never => "never",
            Retry::Elsewhere => "elsewhere",
            Retry::Later => "later",
        };
        let certainty = match code.certainty() {
            Certainty::DidNotHappen => "did not happen",
            Certainty::Unknown => "unknown",
        };
        let row = format!("| {} | `{}` | {retry} | {certainty} | {} |", code.number(), code.name(), code.close_code());
        assert!(page.contains(&row), "missing row: {row}");
    }
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.contains("| did not happen |")).count()
        + page.lines().filter(|line| line.starts_with("| ") && line.contains("| unknown |")).count();
    assert_eq!(rows, ErrorCode::ALL.len(), "a row too many");
}

#[test]
fn the_vectors_are_the_programs() {
    let message_id = Bytes::from((0u8..16).collect::<Vec<_>>());
    let peer = v1::Conversation { id: Some(v1::conversation::Id::Peer("bob".into())) };
    let peer_of = || Some(v1::Conversation { id: Some(v1::conversation::Id::Peer("bob".into())) });
    let hello = v1::Hello { token: "abc".into(), device: "phone".into(), ..Default::default() };
    let send = v1::Send {
        message_id,
        conversation: Some(peer),
        salt: Bytes::from_static(&[1, 2, 3, 4]),
        body: Bytes::from_static(b"hi"),
        ..Default::default()
    };
    let amend = |target, act| {
        let (message_id, conversation) = (send.message_id.clone(), send.conversation.clone());
        Asked::Amend(v1::Amend { message_id, conversation, target, act: Some(act), ..Default::default() })
    };
    let (salt, body) = (Bytes::from_static(&[1, 2, 3, 4]), Bytes::from_static(b"ho"));
    let edit = amend(9, v1::amend::Act::Edit(v1::Edit { salt, body }));
    let recall = amend(9, v1::amend::Act::Recall(v1::Recall {}));
    let react = amend(9, v1::amend::Act::React(v1::React { emoji: "+".into(), unset: false }));
    let unpin = amend(9, v1::amend::Act::Pin(v1::Pin { unset: true }));
    let error = wire::error_to_wire(&seriatim_proto::error::Refusal::new(ErrorCode::Conflict, ""));
    let vectors = [
        ("Hello, request 1", asked(1, Asked::Hello(hello))),
        ("Ping, request 7, nonce 3", asked(7, Asked::Ping(v1::Ping { nonce: 3 }))),
        (
            "Subscribe from 1, credit 100, request 2",
            asked(2, Asked::Subscribe(v1::Subscribe { from: 1, cursor: 0, credit: 100 })),
        ),
        ("Ack of everything below 300, request 3", asked(3, Asked::Ack(v1::Ack { cursor: 300 }))),
        ("Send \"hi\" to bob, request 4", asked(4, Asked::Send(send))),
        ("Amend: edit 9 to \"ho\", request 10", asked(10, edit)),
        ("Amend: recall 9, request 10", asked(10, recall)),
        ("Amend: react to 9 with +, request 10", asked(10, react)),
        ("Amend: unpin 9, request 10", asked(10, unpin)),
        (
            "Mark: bob's read up to 300, request 11",
            asked(11, Asked::Mark(v1::Mark { conversation: peer_of(), what: Some(v1::mark::What::ReadUpto(300)) })),
        ),
        ("Renew by the token, request 13", asked(13, Asked::Renew(v1::Renew { token: "abc".into() }))),
        ("Renewed for an hour, request 13", said(13, Said::Renewed(v1::Renewed { expires_in_ms: 3_600_000 }))),
        ("List, request 12", asked(12, Asked::List(v1::List { after: None, limit: 0 }))),
        ("Sync from 1, request 5", asked(5, Asked::Sync(v1::Sync { from: 1, limit: 0 }))),
        ("Status, request 6", asked(6, Asked::Status(v1::Status {}))),
        ("Next 10 of orders, request 8", asked(8, Asked::Next(v1::Next { counter: "orders".into(), count: 10 }))),
        ("Current of orders, request 9", asked(9, Asked::Current(v1::Current { counter: "orders".into() }))),
        ("Numbers 41 to 50, request 8", said(8, Said::Numbers(v1::Numbers { first: 41, count: 10 }))),
        ("CurrentNumber 51, request 9", said(9, Said::CurrentNumber(v1::CurrentNumber { number: 51 }))),
        ("Committed at 9, request 4", said(4, Said::Committed(v1::Committed { seq: 9, duplicate: false }))),
        ("Error CONFLICT, request 4", said(4, Said::Error(error))),
        ("Lagging, subscription 1, tail 41", said(0, Said::Lagging(v1::Lagging { subscription_id: 1, upto: 41 }))),
    ];
    let page = page();
    for (name, bytes) in vectors {
        let row = format!("| {name} | `{bytes}` |");
        assert!(page.contains(&row), "missing row: {row}");
    }
}

#[test]
fn the_vectors_of_a_websocket_are_the_programs() {
    let placed = |frame: &str, place: Place| {
        let bytes: Vec<_> = frame.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        let mut out = BytesMut::new();
        place.put(&bytes, &mut out);
        hex(&out)
    };
    let place = |lane, end, inbox| Place { lane, end, inbox };
    let committed = said(4, Said::Committed(v1::Committed { seq: 9, duplicate: false }));
    let lagging = said(0, Said::Lagging(v1::Lagging { subscription_id: 1, upto: 41 }));
    let vectors = [
        (
            "Ping, request 7, nonce 3, control stream",
            placed(&asked(7, Asked::Ping(v1::Ping { nonce: 3 })), place(0, false, 0)),
        ),
        (
            "Status, request 6, lane 2, the device's last frame",
            placed(&asked(6, Asked::Status(v1::Status {})), place(2, true, 0)),
        ),
        ("the device ends lane 1", placed("", place(1, true, 0))),
        ("Committed at 9, request 4, lane 1", placed(&committed, place(1, false, 0))),
        ("Lagging, subscription 1, tail 41, its inbox stream", placed(&lagging, place(0, false, 1))),
        ("the inbox stream of subscription 1 ends", placed("", place(0, true, 1))),
    ];
    let page = page();
    for (name, bytes) in vectors {
        let row = format!("| on a WebSocket: {name} | `{bytes}` |");
        assert!(page.contains(&row), "missing row: {row}");
    }
    let bytes = lane::MESSAGE_BYTES_MAX;
    assert!(page.contains(&format!("it has at most {bytes} bytes")), "{bytes}");
    assert!(page.contains(&format!("https://HOST:PORT{}`", lane::PATH)));
}

#[test]
fn the_limits_are_the_programs() {
    let page = page();
    for (name, value) in [
        ("frame", u64::from(limits::FRAME_BYTES_MAX)),
        ("body of a message", u64::from(limits::MESSAGE_BYTES_MAX)),
        ("token", u64::from(limits::TOKEN_BYTES_MAX)),
        ("certificates of a device, with their issuers", u64::from(limits::CERTIFICATES_MAX)),
        ("bytes of these certificates", u64::from(limits::CERTIFICATE_BYTES_MAX)),
        ("salt", u64::from(limits::SALT_BYTES_MAX)),
        ("name of a user, device or counter", u64::from(limits::NAME_BYTES_MAX)),
        ("emoji of a reaction", u64::from(limits::NAME_BYTES_MAX)),
        ("edits of a message", u64::from(limits::EDITS_MAX)),
        ("reactions of one member to a message", u64::from(limits::REACTIONS_MAX)),
        ("pinned messages of a conversation", u64::from(limits::PINS_MAX)),
        ("numbers of one Next", u64::from(limits::NEXT_NUMBERS_MAX)),
        ("requests without an answer", u64::from(limits::SESSION_REQUESTS_MAX)),
        ("lanes", u64::from(limits::SESSION_LANES_MAX)),
        ("streams of the device at the same time, control stream included", lane::LANES_MAX as u64),
        ("conversations of a page", u64::from(limits::LIST_ROWS_MAX)),
        ("entries of a page", u64::from(limits::SYNC_ENTRIES_MAX)),
        ("time between two Renews", limits::RENEW_PAUSE_MS),
        ("time for the handshake, and then for Hello", limits::HELLO_TIMEOUT_MS),
        ("time of a request at the gateway", limits::REQUEST_TIMEOUT_MS),
        ("idle time", limits::IDLE_TIMEOUT_MS),
    ] {
        assert!(page.contains(&format!("| {name} | {value} |")), "missing row: {name} {value}");
    }
}

#[test]
fn the_chain_of_the_page_is_the_programs() {
    let user = |name| UserId::new(name).unwrap();
    let body_hash = chain::body_hash(&[1, 2, 3, 4], b"hi");
    let entry = EntryRef {
        seq: Seq::new(9).unwrap(),
        kind: Kind::Message,
        sender: user("alice"),
        message_id: MessageId(std::array::from_fn(|place| place as u8)),
        body_hash,
        at_ms: 1_000,
    };
    let header = InboxEntry::header_bytes(&ConversationId::direct(user("bob"), user("alice")), &entry);
    let link = chain::link(Chain::default(), None, Seq::FIRST, &header);
    let amended = EntryRef {
        seq: Seq::new(10).unwrap(),
        kind: Kind::Reaction { target: entry.seq },
        body_hash: chain::body_hash(&[], b"\x01+"),
        ..entry.clone()
    };
    let amended_header = InboxEntry::header_bytes(&ConversationId::direct(user("bob"), user("alice")), &amended);
    let amended_link = chain::link(link, Some(Seq::FIRST), Seq::new(2).unwrap(), &amended_header);
    let page = page();
    for (name, bytes) in [
        ("body hash", &body_hash.0[..]),
        ("header", &header[..]),
        ("chain", &link.0[..]),
        ("body hash of the reaction", &amended.body_hash.0[..]),
        ("header of the reaction", &amended_header[..]),
        ("chain of the reaction", &amended_link.0[..]),
    ] {
        let row = format!("| {name} | `{}` |", hex(bytes));
        assert!(page.contains(&row), "missing row: {row}");
    }
}
