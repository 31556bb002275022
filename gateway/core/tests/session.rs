//! The rules of the session protocol, one test each, on the sans-IO session and in virtual time.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests begin their own time")]

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use seriatim_gateway_core::{
    Admission, Renewal, RenewalEnd, RequestId, Session, SessionEvent, SessionLimits, StreamId, Transmit,
};
use seriatim_proto::command::{Content, EntryRef, Kind};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{
    BodyHash, Chain, ConversationId, ConversationKey, CounterName, Generation, MessageId, Seq, TenantId, UserId,
};
use seriatim_proto::logic::{Body, Call, PushEntry, Reply, Scopes, SyncEntry, SyncPage};
use seriatim_proto::store::InboxEntry;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, FrameDecoder, v1};
use seriatim_proto::{codec, limits};

const CONTROL: StreamId = StreamId::CONTROL;
const LANE: StreamId = StreamId::Bidi(1);
const CALL: StreamId = StreamId::Bidi(2);

/// A session and the clock of its test.
struct Device {
    session: Session,
    now: Instant,
}

fn user() -> UserId {
    UserId::new("alice").unwrap()
}

fn seq(value: u64) -> Seq {
    Seq::new(value).unwrap()
}

fn frame(request_id: u64, body: Asked) -> Bytes {
    let mut out = BytesMut::new();
    let frame = v1::ClientFrame { request_id, body: Some(body), ..Default::default() };
    wire::encode_frame(&frame, &mut out);
    out.freeze()
}

fn hello() -> Asked {
    Asked::Hello(v1::Hello { token: "a token".into(), device: "phone".into(), ..Default::default() })
}

fn send(id: u8) -> Asked {
    Asked::Send(v1::Send {
        message_id: Bytes::from(vec![id; 16]),
        conversation: Some(v1::Conversation { id: Some(v1::conversation::Id::Peer("bob".into())) }),
        body: Bytes::from_static(b"hi"),
        ..Default::default()
    })
}

fn subscribe(from: u64, credit: u64) -> Asked {
    Asked::Subscribe(v1::Subscribe { from, cursor: 0, credit })
}

fn pushed(place: u64, previous: u64, body: usize) -> PushEntry {
    let entry = EntryRef {
        seq: seq(place),
        kind: Kind::Message,
        sender: UserId::new("bob").unwrap(),
        message_id: MessageId([7; 16]),
        body_hash: BodyHash([0; 16]),
        at_ms: 5,
    };
    PushEntry {
        seq: seq(place),
        prev_seq: Seq::new(previous),
        ordinal: place,
        conversation: ConversationId::direct(user(), UserId::new("bob").unwrap()),
        entry,
        salt: Bytes::new(),
        body: Bytes::from(vec![b'x'; body]),
    }
}

fn page(entries: &[(u64, u64)], upto: u64, tail: u64) -> SyncPage {
    let entry = |(place, previous): &(u64, u64)| {
        let push = pushed(*place, *previous, 2);
        SyncEntry {
            entry: InboxEntry {
                seq: push.seq,
                prev_seq: push.prev_seq,
                ordinal: push.ordinal,
                chain: Chain([3; 16]),
                conversation: push.conversation,
                entry: push.entry,
                messages: 1,
            },
            body: Body::Here { salt: push.salt, body: push.body },
        }
    };
    SyncPage {
        entries: entries.iter().map(entry).collect(),
        upto: seq(upto),
        more: upto < tail,
        too_long: false,
        trim: Seq::FIRST,
        tail: seq(tail),
        chain: Chain([3; 16]),
    }
}

impl Device {
    fn fresh() -> Self {
        Self::with_limits(SessionLimits::default())
    }

    fn with_limits(limits: SessionLimits) -> Self {
        let now = Instant::now();
        Self { session: Session::new(now, limits), now }
    }

    fn open() -> Self {
        Self::fresh().greeted()
    }

    fn greeted(mut self) -> Self {
        self.say(CONTROL, 9, hello());
        let Some(SessionEvent::Authenticate { token, device }) = self.session.poll_event() else { panic!("no token") };
        assert_eq!((token.as_str(), device.as_str()), ("a token", "phone"));
        self.session.handle_verdict(self.now, Ok(self.admission()));
        let heard = self.hear(CONTROL);
        assert!(matches!(&heard[..], [(9, Said::Welcome(_))]), "{heard:?}");
        self
    }

    fn admission(&self) -> Admission {
        Admission {
            session_id: 4,
            tenant: TenantId(1),
            user: user(),
            generation: Generation(0),
            server_time_ms: 1,
            expires_at: self.now + Duration::from_secs(60),
            scopes: Scopes::DEVICE,
        }
    }

    fn subscribed(mut self, from: u64, credit: u64) -> Self {
        self.say(CONTROL, 5, subscribe(from, credit));
        assert!(
            matches!(self.session.poll_event(), Some(SessionEvent::Register { position }) if position == seq(from))
        );
        assert!(matches!(&self.hear(CONTROL)[..], [(5, Said::Subscribed(_))]));
        self
    }

    fn say(&mut self, stream: StreamId, request_id: u64, body: Asked) {
        self.session.handle_stream_data(self.now, stream, &frame(request_id, body));
    }

    /// What the session writes on one stream; other streams' bytes are dropped.
    fn hear(&mut self, stream: StreamId) -> Vec<(u64, Said)> {
        let mut decoder = FrameDecoder::default();
        for transmit in self.transmits() {
            if transmit.stream == stream {
                decoder.push(&transmit.bytes);
            }
        }
        let mut heard = Vec::new();
        while let Some(frame) = decoder.next_frame::<v1::ServerFrame>().unwrap() {
            heard.push((frame.request_id, frame.body.unwrap()));
        }
        decoder.finish().unwrap();
        heard
    }

    fn transmits(&mut self) -> Vec<Transmit> {
        std::iter::from_fn(|| self.session.poll_transmit(self.now)).collect()
    }

    fn calls(&mut self) -> Vec<(RequestId, Call)> {
        let events = std::iter::from_fn(|| self.session.poll_event());
        events
            .filter_map(|event| match event {
                SessionEvent::Call { request, call } => Some((request, call)),
                _ => None,
            })
            .collect()
    }

    fn closed_with(&mut self) -> u32 {
        let events: Vec<_> = std::iter::from_fn(|| self.session.poll_event()).collect();
        match &events[..] {
            [SessionEvent::Close { code, .. }] => *code,
            other => panic!("not closed: {other:?}"),
        }
    }

    fn delivered(&mut self) -> Vec<u64> {
        let heard = self.hear(StreamId::Inbox(1));
        let entries = heard.into_iter().filter_map(|(_, said)| match said {
            Said::Deliver(deliver) => Some(deliver.entries),
            _ => None,
        });
        entries.flatten().map(|entry| entry.seq).collect()
    }

    fn error(&mut self, stream: StreamId) -> (u64, ErrorCode) {
        match &self.hear(stream)[..] {
            [(request_id, Said::Error(error))] => (*request_id, wire::error_from_wire(error).code),
            other => panic!("no error: {other:?}"),
        }
    }
}

// ---- Hello ----

#[test]
fn a_welcome_names_the_limits_and_whom_it_welcomes() {
    let mut device = Device::fresh();
    device.say(CONTROL, 9, hello());
    device.session.poll_event();
    device.session.handle_verdict(device.now, Ok(device.admission()));
    let heard = device.hear(CONTROL);
    let [(9, Said::Welcome(welcome))] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((welcome.user.as_str(), welcome.tenant, welcome.session_id), ("alice", 1, 4));
    assert_eq!(welcome.limits.as_ref().unwrap().frame_bytes, limits::FRAME_BYTES_MAX);
}

#[test]
fn nothing_but_hello_may_come_first() {
    let mut device = Device::fresh();
    device.say(CONTROL, 1, Asked::Ping(v1::Ping { nonce: 1 }));
    assert_eq!(device.closed_with(), ErrorCode::WrongStream.close_code());
}

#[test]
fn a_second_hello_is_refused() {
    let mut device = Device::open();
    device.say(CONTROL, 1, hello());
    assert_eq!(device.closed_with(), 2);
}

#[test]
fn a_device_without_hello_is_closed_in_time() {
    let mut device = Device::fresh();
    let deadline = device.session.poll_timeout().unwrap();
    assert_eq!(deadline, device.now + Duration::from_millis(limits::HELLO_TIMEOUT_MS));
    device.session.handle_timeout(deadline - Duration::from_millis(1));
    assert!(!device.session.is_closed());
    device.session.handle_timeout(deadline);
    assert_eq!(device.closed_with(), 13);
}

#[test]
fn minor_versions_that_do_not_meet_are_refused() {
    let mut device = Device::fresh();
    let hello =
        v1::Hello { min_minor: 900, max_minor: 901, token: "t".into(), device: "d".into(), ..Default::default() };
    device.say(CONTROL, 1, Asked::Hello(hello));
    assert_eq!(device.closed_with(), 12);
}

#[test]
fn a_refused_token_closes_with_its_code() {
    for (code, close) in [(ErrorCode::AuthFailed, 5), (ErrorCode::AuthExpired, 6)] {
        let mut device = Device::fresh();
        device.say(CONTROL, 1, hello());
        device.session.poll_event();
        device.session.handle_verdict(device.now, Err(Refusal::new(code, "no")));
        assert_eq!(device.closed_with(), close);
    }
}

#[test]
fn only_a_device_that_showed_a_certificate_may_come_without_a_token() {
    let without = || Asked::Hello(v1::Hello { device: "d".into(), ..Default::default() });
    let mut device = Device::fresh();
    device.say(CONTROL, 1, without());
    assert_eq!(device.closed_with(), 5);
    let mut device = Device::fresh();
    device.session = device.session.certified();
    device.say(CONTROL, 1, without());
    let event = device.session.poll_event();
    assert!(matches!(&event, Some(SessionEvent::Authenticate { token, .. }) if token.is_empty()), "{event:?}");
    // A token too long is none of both.
    let mut device = Device::fresh();
    device.session = device.session.certified();
    let token = "t".repeat(limits::TOKEN_BYTES_MAX as usize + 1);
    device.say(CONTROL, 1, Asked::Hello(v1::Hello { token, device: "d".into(), ..Default::default() }));
    assert_eq!(device.closed_with(), 5);
}

#[test]
fn a_token_that_ends_closes_the_session() {
    let mut device = Device::open();
    let at = device.session.poll_timeout().unwrap();
    device.session.handle_timeout(at);
    assert_eq!(device.closed_with(), 6);
}

fn renew(token: &str) -> Asked {
    Asked::Renew(v1::Renew { token: token.to_owned() })
}

impl Device {
    fn renewal(&self) -> Renewal {
        let expires_at = self.now + Duration::from_secs(90);
        Renewal { tenant: TenantId(1), user: user(), expires_at, scopes: Scopes::DEVICE }
    }

    /// Shows a token, and hears what a verdict on it comes to.
    fn renewed(&mut self, verdict: Result<Renewal, Refusal>) -> (RenewalEnd, Vec<(u64, Said)>) {
        self.say(CONTROL, 8, renew("a fresh token"));
        let event = self.session.poll_event();
        assert!(matches!(&event, Some(SessionEvent::Renew { token }) if token == "a fresh token"), "{event:?}");
        (self.session.handle_renewal(self.now, verdict), self.hear(CONTROL))
    }
}

#[test]
fn a_renewed_session_lives_to_the_end_of_the_new_token() {
    let mut device = Device::open();
    for _ in 0..3 {
        device.now += Duration::from_secs(40);
        let (end, heard) = device.renewed(Ok(device.renewal()));
        assert_eq!(end, RenewalEnd::Renewed);
        assert!(matches!(&heard[..], [(8, Said::Renewed(v1::Renewed { expires_in_ms: 90_000 }))]), "{heard:?}");
        assert_eq!(device.session.poll_timeout(), Some(device.now + Duration::from_secs(90)));
    }
    device.now += Duration::from_secs(90);
    device.session.handle_timeout(device.now);
    assert_eq!(device.closed_with(), ErrorCode::AuthExpired.close_code());
}

#[test]
fn a_token_that_ends_sooner_holds_too() {
    let mut device = Device::open();
    let expires_at = device.now + Duration::from_secs(5);
    let (end, _) = device.renewed(Ok(Renewal { expires_at, ..device.renewal() }));
    assert_eq!((end, device.session.poll_timeout()), (RenewalEnd::Renewed, Some(expires_at)));
}

#[test]
fn a_refused_renewal_does_the_session_no_harm() {
    let other_user = |device: &Device| Ok(Renewal { user: UserId::new("bob").unwrap(), ..device.renewal() });
    let other_tenant = |device: &Device| Ok(Renewal { tenant: TenantId(2), ..device.renewal() });
    let over = |device: &Device| Ok(Renewal { expires_at: device.now, ..device.renewal() });
    let forged = |_: &Device| Err(Refusal::new(ErrorCode::AuthFailed, "signed by nobody"));
    type Verdict = dyn Fn(&Device) -> Result<Renewal, Refusal>;
    let cases: [(&Verdict, RenewalEnd, ErrorCode); 4] = [
        (&other_user, RenewalEnd::OtherUser, ErrorCode::AuthFailed),
        (&other_tenant, RenewalEnd::OtherUser, ErrorCode::AuthFailed),
        (&over, RenewalEnd::Refused, ErrorCode::AuthExpired),
        (&forged, RenewalEnd::Refused, ErrorCode::AuthFailed),
    ];
    for (verdict, expected, code) in cases {
        let mut device = Device::open().subscribed(1, 10);
        let ends_at = device.now + Duration::from_secs(60);
        let (end, heard) = device.renewed(verdict(&device));
        assert_eq!(end, expected);
        assert!(matches!(&heard[..], [(8, Said::Error(error))] if error.code == u32::from(code.number())), "{heard:?}");
        device.session.handle_push(device.now, &[pushed(1, 0, 2)]);
        assert_eq!(device.delivered(), [1], "the inbox goes on");
        device.now = ends_at;
        device.session.handle_timeout(device.now);
        assert_eq!(device.closed_with(), ErrorCode::AuthExpired.close_code(), "the old token holds to its end");
    }
}

#[test]
fn renewals_come_one_at_a_time_and_not_too_often() {
    let mut device = Device::open();
    device.say(CONTROL, 1, renew("first"));
    assert!(matches!(device.session.poll_event(), Some(SessionEvent::Renew { .. })));
    device.now += Duration::from_millis(limits::RENEW_PAUSE_MS);
    device.say(CONTROL, 2, renew("while the first is checked"));
    assert_eq!(device.error(CONTROL), (2, ErrorCode::Busy));
    assert_eq!(device.session.handle_renewal(device.now, Ok(device.renewal())), RenewalEnd::Renewed);
    assert!(matches!(&device.hear(CONTROL)[..], [(1, Said::Renewed(_))]));

    device.say(CONTROL, 3, renew("second"));
    assert!(matches!(device.session.poll_event(), Some(SessionEvent::Renew { .. })));
    device.session.handle_renewal(device.now, Ok(device.renewal()));
    device.hear(CONTROL);
    device.say(CONTROL, 4, renew("at once"));
    let heard = device.hear(CONTROL);
    let [(4, Said::Error(error))] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((error.code, error.retry), (u32::from(ErrorCode::Busy.number()), true));
    device.now += Duration::from_millis(u64::from(error.retry_after_ms));
    device.say(CONTROL, 5, renew("when it may"));
    assert!(matches!(device.session.poll_event(), Some(SessionEvent::Renew { .. })));
}

#[test]
fn a_renew_without_a_token_or_with_a_long_one_is_refused() {
    let mut device = Device::open();
    for token in [String::new(), "x".repeat(limits::TOKEN_BYTES_MAX as usize + 1)] {
        device.say(CONTROL, 6, renew(&token));
        assert_eq!(device.error(CONTROL), (6, ErrorCode::AuthFailed));
        assert!(device.session.poll_event().is_none());
    }
}

#[test]
fn a_token_that_names_no_device_any_more_ends_the_subscription() {
    let mut device = Device::open().subscribed(1, 10);
    device.say(CONTROL, 8, renew("a token for counting"));
    assert!(matches!(device.session.poll_event(), Some(SessionEvent::Renew { .. })));
    let counting = Renewal { scopes: Scopes::SEQUENCE, ..device.renewal() };
    assert_eq!(device.session.handle_renewal(device.now, Ok(counting)), RenewalEnd::Renewed);
    assert_eq!(device.error(StreamId::Inbox(1)), (0, ErrorCode::Forbidden));
    assert!(matches!(device.session.poll_event(), Some(SessionEvent::Unregister)));
    device.say(CONTROL, 9, subscribe(1, 10));
    assert_eq!(device.error(CONTROL), (9, ErrorCode::Forbidden));

    device.now += Duration::from_secs(2);
    assert_eq!(device.renewed(Ok(device.renewal())).0, RenewalEnd::Renewed);
    device.subscribed(1, 10);
}

#[test]
fn a_verdict_that_nobody_waits_for_renews_nothing() {
    let mut device = Device::open();
    assert_eq!(device.session.handle_renewal(device.now, Ok(device.renewal())), RenewalEnd::Gone);
    device.say(CONTROL, 1, renew("late"));
    device.now += Duration::from_secs(60);
    device.session.handle_timeout(device.now);
    assert_eq!(device.session.handle_renewal(device.now, Ok(device.renewal())), RenewalEnd::Gone);
    assert!(device.session.is_closed());
}

#[test]
fn a_stopped_stream_gives_its_room_to_those_that_wait() {
    let mut device = Device::with_limits(SessionLimits { answer_bytes_max: 1_000, ..SessionLimits::default() });
    device = device.greeted();
    device.session.handle_blocked(LANE);
    for id in 1..200 {
        device.say(LANE, id, send(u8::try_from(id).unwrap()));
        for (request, _) in device.calls() {
            device.session.handle_reply(device.now, request, Ok(Reply::Committed { seq: seq(id), duplicate: false }));
        }
    }
    // The answers of the lane fill what there is: the next question waits unread.
    device.say(CALL, 500, Asked::Status(v1::Status {}));
    assert!(device.calls().is_empty() && !device.session.wants_data(CALL));

    device.session.handle_stream_reset(LANE);
    assert!(device.session.wants_data(CALL));
    device.transmits();
    assert_eq!(device.calls().len(), 1, "nobody else would wake it");
}

#[test]
fn nothing_is_read_before_the_verdict() {
    let mut device = Device::fresh();
    assert!(device.session.wants_data(CONTROL) && !device.session.wants_data(LANE));
    device.say(CONTROL, 1, hello());
    assert!(!device.session.wants_data(CONTROL) && !device.session.wants_data(LANE));
}

// ---- streams and frames ----

#[test]
fn a_frame_on_the_wrong_stream_closes() {
    for (stream, first, second) in [
        (CONTROL, Asked::Ping(v1::Ping::default()), send(1)),
        (LANE, send(1), Asked::Status(v1::Status {})),
        (LANE, send(1), Asked::Ping(v1::Ping::default())),
        (CALL, Asked::Status(v1::Status {}), Asked::Status(v1::Status {})),
        (CALL, Asked::Status(v1::Status {}), Asked::Current(v1::Current::default())),
    ] {
        let mut device = Device::open();
        device.say(stream, 1, first);
        device.calls();
        assert!(!device.session.is_closed());
        device.say(stream, 2, second);
        assert_eq!(device.closed_with(), ErrorCode::WrongStream.close_code());
    }
}

#[test]
fn an_unknown_frame_is_refused_and_an_optional_one_ignored() {
    let mut device = Device::open();
    let unknown = |optional| v1::ClientFrame { request_id: 3, optional, ..Default::default() };
    let mut bytes = BytesMut::new();
    wire::encode_frame(&unknown(false), &mut bytes);
    device.session.handle_stream_data(device.now, LANE, &bytes);
    assert_eq!(device.error(LANE), (3, ErrorCode::Unsupported));
    bytes.clear();
    wire::encode_frame(&unknown(true), &mut bytes);
    device.session.handle_stream_data(device.now, LANE, &bytes);
    assert!(device.hear(LANE).is_empty() && !device.session.is_closed());
    device.say(LANE, 4, send(1));
    assert_eq!(device.calls().len(), 1, "the connection goes on");
}

#[test]
fn a_frame_over_the_limit_closes_before_its_bytes_come() {
    let mut device = Device::open();
    device.session.handle_stream_data(device.now, LANE, &[0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(device.closed_with(), 3);
}

#[test]
fn malformed_bytes_close_with_protocol() {
    let whole = frame(1, send(1));
    let cases: [(&str, Vec<u8>, bool); 10] = [
        ("a length that never ends", vec![0x80; 5], false),
        ("a group that never ends", vec![1, 0x6b], false),
        ("a cut frame", whole[..whole.len() - 1].to_vec(), true),
        ("a cut length", vec![0x80], true),
        ("a tag of wire type 7", vec![2, 0x0f, 0x00], false),
        ("a field number 0", vec![2, 0x00, 0x00], false),
        ("a nested length past the end", vec![3, 0x52, 0x7f, 0x00], false),
        ("a varint that never ends", vec![11, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], false),
        ("a wrong wire type for a known field", vec![2, 0x52, 0x80], false),
        ("text that is no UTF-8", vec![5, 0x12, 0x03, 0xff, 0xfe, 0xfd], false),
    ];
    for (name, bytes, end) in cases {
        let mut device = Device::open();
        device.session.handle_stream_data(device.now, LANE, &bytes);
        if end {
            assert!(!device.session.is_closed(), "{name} may still go on");
            device.session.handle_stream_end(device.now, LANE);
        }
        assert!(device.session.is_closed(), "{name}");
        assert_eq!(device.closed_with(), 2, "{name}");
    }
}

#[test]
fn a_field_out_of_its_range_is_refused_and_the_connection_goes_on() {
    let mut device = Device::open();
    let Asked::Send(good) = send(1) else { unreachable!() };
    let long = Bytes::from(vec![0; limits::MESSAGE_BYTES_MAX as usize + 1]);
    for (bad, code) in [
        (v1::Send { message_id: Bytes::from_static(b"short"), ..good.clone() }, ErrorCode::Malformed),
        (v1::Send { conversation: None, ..good.clone() }, ErrorCode::Malformed),
        (v1::Send { salt: Bytes::from(vec![0; 33]), ..good.clone() }, ErrorCode::Malformed),
        (v1::Send { known: 1 << 54, ..good.clone() }, ErrorCode::Malformed),
        (v1::Send { body: long, ..good.clone() }, ErrorCode::MessageTooLarge),
    ] {
        device.say(LANE, 8, Asked::Send(bad));
        assert_eq!(device.error(LANE), (8, code));
    }
    device.say(LANE, 9, Asked::Send(good));
    assert_eq!(device.calls().len(), 1);
}

#[test]
fn a_closed_control_stream_ends_the_connection() {
    let mut device = Device::open();
    device.session.handle_stream_end(device.now, CONTROL);
    assert_eq!(device.closed_with(), 4);
    let mut device = Device::open();
    device.session.handle_stream_reset(CONTROL);
    assert_eq!(device.closed_with(), 4);
}

#[test]
fn a_ping_is_answered() {
    let mut device = Device::open();
    device.say(CONTROL, 2, Asked::Ping(v1::Ping { nonce: 77 }));
    assert!(matches!(&device.hear(CONTROL)[..], [(2, Said::Pong(v1::Pong { nonce: 77 }))]));
}

#[test]
fn an_answer_goes_to_the_stream_and_request_that_asked() {
    let mut device = Device::open();
    device.say(LANE, 40, send(1));
    device.say(LANE, 41, send(2));
    let calls = device.calls();
    assert!(matches!(&calls[0].1, Call::Send { message_id, .. } if message_id.0 == [1; 16]));
    let reply = Reply::Committed { seq: seq(6), duplicate: false };
    device.session.handle_reply(device.now, calls[1].0, Ok(reply));
    device.session.handle_reply(device.now, calls[0].0, Err(Refusal::new(ErrorCode::NotFound, "no")));
    let heard = device.hear(LANE);
    assert!(matches!(&heard[..], [(41, Said::Committed(_)), (40, Said::Error(_))]), "{heard:?}");
}

#[test]
fn a_call_stream_is_finished_with_its_answer_and_a_lane_with_the_last_one() {
    let mut device = Device::open();
    device.say(CALL, 1, Asked::Status(v1::Status {}));
    let (request, _) = device.calls().remove(0);
    let reply = Reply::Status { inbox: None, devices: vec![] };
    device.session.handle_reply(device.now, request, Ok(reply));
    let transmits = device.transmits();
    assert!(transmits.last().is_some_and(|transmit| transmit.stream == CALL && transmit.finish));

    device.say(LANE, 2, send(1));
    device.session.handle_stream_end(device.now, LANE);
    assert!(device.transmits().is_empty(), "an answer is missing");
    let (request, _) = device.calls().remove(0);
    device.session.handle_reply(device.now, request, Ok(Reply::Committed { seq: seq(1), duplicate: false }));
    assert!(device.transmits().last().is_some_and(|transmit| transmit.finish));
}

#[test]
fn a_token_for_counting_has_no_inbox() {
    let mut device = Device::fresh();
    device.say(CONTROL, 9, hello());
    while device.session.poll_event().is_some() {}
    let admission = Admission { scopes: Scopes::SEQUENCE, ..device.admission() };
    device.session.handle_verdict(device.now, Ok(admission));
    device.hear(CONTROL);
    device.say(CONTROL, 5, subscribe(1, 10));
    assert_eq!(device.error(CONTROL), (5, ErrorCode::Forbidden));
    assert!(device.session.poll_event().is_none(), "nothing is registered");
}

#[test]
fn numbers_are_asked_for_on_a_lane_and_names_are_checked() {
    let mut device = Device::open();
    let next = |counter: &str, count| Asked::Next(v1::Next { counter: counter.into(), count });
    let current = |counter: &str| Asked::Current(v1::Current { counter: counter.into() });
    let counter = CounterName::new("orders").unwrap();
    device.say(LANE, 1, next("orders", 0));
    device.say(LANE, 2, next("orders", u32::MAX));
    device.say(LANE, 3, current("orders"));
    let calls = device.calls();
    let asked: Vec<_> = calls.iter().map(|(_, call)| call.clone()).collect();
    let next_of = |count| Call::Next { counter: counter.clone(), count };
    // Whether it is too many is logic's to say.
    assert_eq!(asked, [next_of(1), next_of(u32::MAX), Call::Current { counter: counter.clone() }]);
    device.session.handle_reply(device.now, calls[2].0, Ok(Reply::Current(seq(7))));
    device.session.handle_reply(device.now, calls[0].0, Ok(Reply::Numbers { first: seq(7), count: 1 }));
    let answers = [
        (3, Said::CurrentNumber(v1::CurrentNumber { number: 7 })),
        (1, Said::Numbers(v1::Numbers { first: 7, count: 1 })),
    ];
    assert_eq!(device.hear(LANE), answers);
    for (request_id, wrong) in [(4, next("", 1)), (5, current("a\tb")), (6, next(&"x".repeat(65), 1))] {
        device.say(LANE, request_id, wrong);
        assert_eq!(device.error(LANE), (request_id, ErrorCode::Malformed));
    }
}

#[test]
fn more_lanes_than_allowed_are_refused() {
    let mut device = Device::open();
    for lane in 1..=u64::from(limits::SESSION_LANES_MAX) {
        device.say(StreamId::Bidi(lane), 1, send(1));
    }
    assert_eq!(device.calls().len(), limits::SESSION_LANES_MAX as usize);
    let extra = StreamId::Bidi(u64::from(limits::SESSION_LANES_MAX) + 1);
    device.say(extra, 1, send(1));
    assert_eq!(device.error(extra), (1, ErrorCode::Busy));
}

// ---- bounds ----

#[test]
fn a_full_session_reads_no_more_until_an_answer_comes() {
    let mut device = Device::open();
    let mut bytes = BytesMut::new();
    for id in 0..limits::SESSION_REQUESTS_MAX + 10 {
        bytes.extend_from_slice(&frame(u64::from(id) + 1, send(1)));
    }
    device.session.handle_stream_data(device.now, LANE, &bytes);
    let calls = device.calls();
    assert_eq!(calls.len(), limits::SESSION_REQUESTS_MAX as usize);
    assert!(!device.session.wants_data(LANE) && !device.session.wants_data(CALL));
    for (request, _) in calls {
        device.session.handle_reply(device.now, request, Ok(Reply::Committed { seq: seq(1), duplicate: false }));
    }
    assert_eq!(device.calls().len(), 10, "what was read is served first");
    assert!(device.session.wants_data(LANE));
}

#[test]
fn answers_that_nobody_takes_stop_the_reading() {
    let mut device = Device::with_limits(SessionLimits { answer_bytes_max: 100, ..Default::default() }).greeted();
    device.session.handle_blocked(CONTROL);
    for nonce in 0..100 {
        device.say(CONTROL, nonce, Asked::Ping(v1::Ping { nonce }));
    }
    assert!(!device.session.wants_data(CONTROL));
    assert!(device.session.queued_bytes() < 200);
    device.session.handle_writable(CONTROL);
    let mut pongs = device.hear(CONTROL);
    pongs.extend(device.hear(CONTROL));
    assert_eq!(pongs.len(), 100);
    assert!(device.session.wants_data(CONTROL));
}

#[test]
fn a_page_that_fits_no_frame_is_cut_and_says_so() {
    let mut device = Device::open();
    device.say(CALL, 1, Asked::Sync(v1::Sync { from: 1, limit: 0 }));
    let (request, _) = device.calls().remove(0);
    let places: Vec<_> = (1..=1_000).map(|place| (place, place - 1)).collect();
    device.session.handle_reply(device.now, request, Ok(Reply::Sync(page(&places, 1_001, 1_001))));
    let heard = device.hear(CALL);
    let [(1, Said::SyncPage(page))] = &heard[..] else { panic!("no page") };
    let last = page.entries.last().unwrap();
    assert!(page.more && page.entries.len() < 1_000 && page.upto == last.seq + 1 && page.chain == last.chain);
}

// ---- the inbox ----

#[test]
fn pushed_entries_are_given_once_and_rising() {
    let mut device = Device::open().subscribed(1, 100);
    device.session.handle_push(device.now, &[pushed(1, 0, 2), pushed(5, 1, 2)]);
    device.session.handle_push(device.now, &[pushed(1, 0, 2), pushed(5, 1, 2), pushed(6, 5, 2)]);
    assert_eq!(device.delivered(), [1, 5, 6]);
}

#[test]
fn several_pushed_entries_travel_in_one_frame() {
    let mut device = Device::open().subscribed(1, 100);
    let entries: Vec<_> = (1..=20).map(|place| pushed(place, place - 1, 10)).collect();
    device.session.handle_push(device.now, &entries);
    assert_eq!(device.hear(StreamId::Inbox(1)).len(), 1);
}

#[test]
fn a_gap_is_never_sent_but_pulled() {
    let mut device = Device::open().subscribed(3, 100);
    device.session.handle_push(device.now, &[pushed(9, 7, 2)]);
    assert_eq!(device.delivered(), [0u64; 0]);
    let calls = device.calls();
    let [(request, Call::Sync { from, .. })] = &calls[..] else { panic!("{calls:?}") };
    assert_eq!(*from, Some(seq(3)));
    device.session.handle_reply(device.now, *request, Ok(Reply::Sync(page(&[(4, 2), (7, 4), (9, 7)], 10, 10))));
    assert_eq!(device.delivered(), [4, 7, 9]);
    device.session.handle_push(device.now, &[pushed(12, 9, 2)]);
    assert_eq!(device.delivered(), [12]);
    assert!(device.calls().is_empty(), "nothing is missing any more");
}

#[test]
fn what_lies_before_the_registration_is_pulled_page_by_page() {
    let mut device = Device::open().subscribed(1, 100);
    device.session.handle_registered(device.now, seq(9));
    let (request, _) = device.calls().remove(0);
    device.session.handle_reply(device.now, request, Ok(Reply::Sync(page(&[(1, 0), (2, 1)], 3, 9))));
    let (request, call) = device.calls().remove(0);
    assert!(matches!(call, Call::Sync { from: Some(from), .. } if from == seq(3)));
    device.session.handle_reply(device.now, request, Ok(Reply::Sync(page(&[(8, 2)], 9, 9))));
    assert_eq!(device.delivered(), [1, 2, 8]);
    assert!(device.calls().is_empty());
}

#[test]
fn without_credit_the_push_stops_with_lagging_and_goes_on_with_credit() {
    let mut device = Device::open().subscribed(1, 2);
    device.session.handle_push(device.now, &[pushed(1, 0, 2), pushed(2, 1, 2), pushed(3, 2, 2)]);
    let heard = device.hear(StreamId::Inbox(1));
    assert!(
        matches!(&heard[..], [(0, Said::Deliver(d)), (0, Said::Lagging(l))] if d.entries.len() == 2 && l.upto == 4)
    );
    device.session.handle_push(device.now, &[pushed(4, 3, 2)]);
    assert!(device.hear(StreamId::Inbox(1)).is_empty(), "said once");
    device.say(CONTROL, 0, Asked::Credit(v1::Credit { subscription_id: 1, entries: 50 }));
    let (request, call) = device.calls().remove(0);
    assert!(matches!(call, Call::Sync { from: Some(from), limit: 50 } if from == seq(3)));
    device.session.handle_reply(device.now, request, Ok(Reply::Sync(page(&[(3, 2), (4, 3)], 5, 5))));
    assert_eq!(device.delivered(), [3, 4]);
}

#[test]
fn a_device_that_does_not_read_is_not_buffered_for() {
    let mut device = Device::open().subscribed(1, 1 << 20);
    device.session.handle_blocked(StreamId::Inbox(1));
    for place in 1..200 {
        device.session.handle_push(device.now, &[pushed(place, place - 1, 60 << 10)]);
    }
    let bound = limits::SESSION_PUSH_BYTES_MAX as usize + (64 << 10);
    assert!(device.session.queued_bytes() <= bound, "{} bytes", device.session.queued_bytes());
    assert_eq!(device.session.lagging_count(), 1);
    assert!(device.calls().is_empty());
    device.session.handle_writable(StreamId::Inbox(1));
    let given = device.delivered();
    assert_eq!(given, (1..=given.len() as u64).collect::<Vec<_>>());
    let (_, call) = device.calls().remove(0);
    let next = given.last().unwrap() + 1;
    assert!(matches!(call, Call::Sync { from: Some(from), .. } if from == seq(next)));
}

#[test]
fn a_position_from_the_future_is_refused_by_a_linearizable_read_only() {
    let mut device = Device::open().subscribed(50, 10);
    device.session.handle_registered(device.now, seq(9));
    assert!(device.hear(StreamId::Inbox(1)).is_empty(), "the holder's tail is no proof");
    let (request, call) = device.calls().remove(0);
    assert!(matches!(call, Call::Sync { from: Some(from), .. } if from == seq(50)));
    let refusal = Refusal::new(ErrorCode::CursorAhead, "from the future");
    device.session.handle_reply(device.now, request, Err(refusal));
    assert_eq!(device.error(StreamId::Inbox(1)), (0, ErrorCode::CursorAhead));
    assert!(!device.session.is_closed());
}

#[test]
fn a_failed_pull_is_tried_again() {
    let mut device = Device::open().subscribed(1, 10);
    device.session.handle_tail(device.now, seq(5));
    let (request, _) = device.calls().remove(0);
    device.session.handle_reply(device.now, request, Err(Refusal::new(ErrorCode::Timeout, "no answer")));
    assert!(device.calls().is_empty());
    let at = device.session.poll_timeout().unwrap();
    assert!(at <= device.now + Duration::from_secs(1));
    device.session.handle_timeout(at);
    assert_eq!(device.calls().len(), 1);
}

#[test]
fn the_end_of_a_pause_is_no_timer_for_a_device_that_takes_nothing() {
    let refused = |device: &mut Device| {
        let (request, _) = device.calls().pop().expect("a pull");
        device.session.handle_reply(device.now, request, Err(Refusal::new(ErrorCode::Unavailable, "not now")));
    };
    // Without credit: a push that joins on takes the last of it while the pull pauses.
    let mut device = Device::open().subscribed(1, 1);
    device.session.handle_tail(device.now, seq(3));
    refused(&mut device);
    let pause = device.session.poll_timeout().unwrap();
    device.session.handle_push(device.now, &[pushed(1, 0, 2)]);
    device.now = pause;
    device.session.handle_timeout(device.now);
    assert!(device.session.poll_timeout().unwrap() > device.now, "a timer in the past, for ever");
    // With credit again it pulls at once.
    device.say(CONTROL, 9, Asked::Credit(v1::Credit { subscription_id: 1, entries: 1 }));
    assert_eq!(device.calls().len(), 1);

    // Without room: the stream is blocked, with more than half of what may wait.
    let limits = SessionLimits { push_bytes_max: 1_000, ..SessionLimits::default() };
    let mut device = Device::with_limits(limits).greeted().subscribed(1, 100);
    device.session.handle_blocked(StreamId::Inbox(1));
    device.session.handle_tail(device.now, seq(9));
    refused(&mut device);
    let pause = device.session.poll_timeout().unwrap();
    device.session.handle_push(device.now, &[pushed(1, 0, 800)]);
    device.now = pause;
    device.session.handle_timeout(device.now);
    assert!(device.session.poll_timeout().unwrap() > device.now, "a timer in the past, for ever");
    device.session.handle_writable(StreamId::Inbox(1));
    device.transmits();
    assert_eq!(device.calls().len(), 1);
}

#[test]
fn a_trimmed_position_ends_the_stream_with_lagging() {
    let mut device = Device::open().subscribed(1, 10);
    device.session.handle_tail(device.now, seq(90));
    let (request, _) = device.calls().remove(0);
    let trimmed = SyncPage { too_long: true, trim: seq(60), ..page(&[], 90, 90) };
    device.session.handle_reply(device.now, request, Ok(Reply::Sync(trimmed)));
    let transmits = device.transmits();
    assert!(transmits.iter().any(|transmit| transmit.stream == StreamId::Inbox(1) && transmit.finish));
}

#[test]
fn a_new_subscription_takes_the_place_of_the_old_one() {
    let mut device = Device::open().subscribed(1, 10);
    device.say(CONTROL, 6, subscribe(4, 10));
    let transmits = device.transmits();
    assert!(transmits.iter().any(|transmit| transmit.stream == StreamId::Inbox(1) && transmit.finish));
    assert!(transmits.iter().any(|transmit| transmit.stream == StreamId::Inbox(2) && !transmit.finish));
    assert!(matches!(device.session.poll_event(), Some(SessionEvent::Register { position }) if position == seq(4)));
}

#[test]
fn an_inbox_stream_that_the_device_stopped_is_not_written_to() {
    let mut device = Device::open().subscribed(1, 100);
    device.session.handle_push(device.now, &[pushed(1, 0, 2)]);
    device.session.handle_stream_reset(StreamId::Inbox(1));
    assert_eq!(device.transmits(), []);
    assert!(matches!(device.session.poll_event(), Some(SessionEvent::Unregister)));
    // One that another has taken the place of, and that is not read: its bytes are given up with it.
    let mut device = device.subscribed(1, 100);
    device.session.handle_blocked(StreamId::Inbox(2));
    device.session.handle_push(device.now, &[pushed(1, 0, 2)]);
    let mut device = device.subscribed(1, 100);
    assert!(device.session.queued_bytes() > 0);
    device.session.handle_stream_reset(StreamId::Inbox(2));
    assert_eq!(device.session.queued_bytes(), 0);
    device.session.handle_push(device.now, &[pushed(1, 0, 2)]);
    assert_eq!(device.transmits().iter().map(|transmit| transmit.stream).collect::<Vec<_>>(), [StreamId::Inbox(3)]);
}

#[test]
fn however_often_a_device_subscribes_one_pull_is_under_way() {
    let mut device = Device::open();
    let mut pulls = Vec::new();
    for _ in 0..20 {
        device.say(CONTROL, 5, subscribe(1, 10));
        device.session.handle_registered(device.now, seq(3));
        pulls.extend(device.calls());
        device.transmits();
    }
    assert_eq!(pulls.len(), 1, "{pulls:?}");
    // Its answer is for a subscription that is over: the new one asks for itself.
    let answer = || Ok(Reply::Sync(page(&[(1, 0), (2, 1)], 3, 3)));
    device.session.handle_reply(device.now, pulls[0].0, answer());
    let (request, _) = device.calls().pop().expect("the new one's own");
    device.session.handle_reply(device.now, request, answer());
    let given = device.transmits();
    assert_eq!(given.iter().map(|transmit| transmit.stream).collect::<Vec<_>>(), [StreamId::Inbox(20)]);
}

#[test]
fn a_device_that_subscribes_and_never_reads_is_not_buffered_for() {
    let mut device = Device::open();
    let mut answers = Vec::new();
    for id in 1..=50 {
        device.say(CONTROL, 5, subscribe(1, 1_000));
        device.session.handle_blocked(StreamId::Inbox(id));
        let pushes: Vec<_> = (1..=100u64).map(|place| pushed(place, place - 1, 60_000)).collect();
        device.session.handle_push(device.now, &pushes);
        answers.extend(device.hear(CONTROL).into_iter().map(|(_, said)| said));
        device.calls();
    }
    let busy = answers.iter().filter(|said| matches!(said, Said::Error(error) if error.name == "BUSY")).count();
    assert_eq!((answers.len(), busy), (50, 46));
    let most = 4 * (limits::SESSION_PUSH_BYTES_MAX as usize + 100 * 61_000);
    assert!(device.session.queued_bytes() <= most, "{} bytes wait", device.session.queued_bytes());
    // What it reads makes room.
    device.session.handle_writable(StreamId::Inbox(1));
    device.transmits();
    device.say(CONTROL, 6, subscribe(1, 10));
    assert!(matches!(&device.hear(CONTROL)[..], [(6, Said::Subscribed(_))]));
}

#[test]
fn an_inbox_stream_counts_until_the_transport_has_written_its_end() {
    let mut device = Device::open();
    // Each is taken whole by a transport that cannot write it.
    let subscribes = |device: &mut Device| {
        device.say(CONTROL, 5, subscribe(1, 10));
        let heard = device.hear(CONTROL);
        let subscribed = match &heard[..] {
            [(5, Said::Subscribed(subscribed))] => Some(subscribed.subscription_id),
            [(5, Said::Error(error))] if error.name == "BUSY" && error.retry && error.retry_after_ms > 0 => None,
            other => panic!("{other:?}"),
        };
        if let Some(id) = subscribed {
            device.say(CONTROL, 0, Asked::Unsubscribe(v1::Unsubscribe { subscription_id: id }));
            let ends = device.transmits();
            assert!(matches!(&ends[..], [end] if end.stream == StreamId::Inbox(id) && end.finish), "{ends:?}");
            device.session.handle_blocked(StreamId::Inbox(id));
        }
        subscribed
    };
    let taken: Vec<_> = (0..9).filter_map(|_| subscribes(&mut device)).collect();
    assert_eq!(taken, [1, 2, 3, 4]);
    device.session.handle_writable(StreamId::Inbox(2));
    assert_eq!((subscribes(&mut device), subscribes(&mut device)), (Some(5), None));
    device.session.handle_stream_reset(StreamId::Inbox(3));
    assert_eq!((subscribes(&mut device), subscribes(&mut device)), (Some(6), None));
    // A stream that never was does not count.
    device.session.handle_writable(StreamId::Inbox(4));
    device.session.handle_blocked(StreamId::Inbox(99));
    assert_eq!(subscribes(&mut device), Some(7));
}

#[test]
fn an_unsubscribed_stream_is_finished() {
    let mut device = Device::open().subscribed(1, 10);
    device.say(CONTROL, 0, Asked::Unsubscribe(v1::Unsubscribe { subscription_id: 1 }));
    assert!(device.transmits().iter().any(|transmit| transmit.stream == StreamId::Inbox(1) && transmit.finish));
    assert_eq!(device.session.poll_event(), Some(SessionEvent::Unregister));
    device.session.handle_push(device.now, &[pushed(1, 0, 2)]);
    assert!(device.transmits().is_empty());
}

#[test]
fn a_change_of_members_names_them() {
    let mut device = Device::open().subscribed(1, 10);
    let content = Content::Members { add: vec![UserId::new("carol").unwrap()], remove: vec![user()] };
    let mut entry = pushed(1, 0, 0);
    entry.entry.kind = Kind::Members;
    entry.conversation = ConversationId::Group(ConversationKey([9; 16]));
    entry.body = codec::encode_bytes(&content);
    device.session.handle_push(device.now, &[entry]);
    let heard = device.hear(StreamId::Inbox(1));
    let [(0, Said::Deliver(deliver))] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!(deliver.entries[0].added, ["carol"]);
    assert_eq!(deliver.entries[0].removed, ["alice"]);
    assert!(deliver.entries[0].body.is_empty());
}

// ---- ends ----

#[test]
fn a_drain_says_goaway_and_closes_later() {
    let mut device = Device::open();
    device.session.handle_drain(device.now, Duration::from_millis(300));
    assert!(matches!(&device.hear(CONTROL)[..], [(0, Said::GoAway(v1::GoAway { drain_ms: 300 }))]));
    device.say(LANE, 1, send(1));
    assert_eq!(device.calls().len(), 1, "it still serves");
    let at = device.session.poll_timeout().unwrap();
    device.session.handle_timeout(at);
    assert_eq!(device.closed_with(), 9);
}

#[test]
fn of_two_drains_the_earlier_end_counts() {
    let mut device = Device::open();
    device.session.handle_drain(device.now, Duration::from_secs(3_600));
    device.session.handle_drain(device.now, Duration::from_millis(300));
    device.session.handle_drain(device.now, Duration::from_secs(60));
    let heard = device.hear(CONTROL);
    let [(0, Said::GoAway(first)), (0, Said::GoAway(second))] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((first.drain_ms, second.drain_ms), (3_600_000, 300));
    device.session.handle_timeout(device.now + Duration::from_millis(300));
    assert_eq!(device.closed_with(), 9);
}

#[test]
fn who_comes_in_during_a_drain_hears_goaway_behind_welcome() {
    let mut device = Device::fresh();
    device.session.handle_drain(device.now, Duration::from_millis(300));
    device.say(CONTROL, 9, hello());
    device.now += Duration::from_millis(100);
    device.session.poll_event();
    device.session.handle_verdict(device.now, Ok(device.admission()));
    let heard = device.hear(CONTROL);
    assert!(
        matches!(&heard[..], [(9, Said::Welcome(_)), (0, Said::GoAway(v1::GoAway { drain_ms: 200 }))]),
        "{heard:?}"
    );
}

#[test]
fn a_token_without_a_verdict_is_not_waited_for_for_ever() {
    let mut device = Device::fresh();
    let begun = device.now;
    device.now += Duration::from_secs(7);
    device.say(CONTROL, 9, hello());
    device.session.poll_event();
    let at = device.session.poll_timeout().expect("a deadline");
    assert_eq!(at, begun + Duration::from_secs(7) + SessionLimits::default().hello_timeout);
    device.session.handle_timeout(at - Duration::from_millis(1));
    assert!(!device.session.is_closed());
    device.session.handle_timeout(at);
    assert_eq!(device.closed_with(), 13);
    device.session.handle_verdict(at, Ok(device.admission()));
    assert!(device.session.is_closed(), "too late");
}

#[test]
fn a_closed_session_does_nothing_more() {
    let mut device = Device::open();
    device.session.handle_stream_reset(CONTROL);
    device.closed_with();
    device.transmits();
    device.say(LANE, 1, send(1));
    device.session.handle_push(device.now, &[pushed(1, 0, 1)]);
    assert!(device.session.poll_event().is_none() && device.transmits().is_empty());
    assert_eq!(device.session.poll_timeout(), None);
}

proptest! {
    #[test]
    fn no_bytes_make_a_session_panic(
        open in any::<bool>(),
        parts in proptest::collection::vec((0u64..6, proptest::collection::vec(any::<u8>(), 0..64), 0u8..8), 0..40),
    ) {
        let mut device = if open { Device::open() } else { Device::fresh() };
        for (stream, bytes, act) in parts {
            let stream = StreamId::Bidi(stream);
            match act {
                0 => device.session.handle_stream_end(device.now, stream),
                1 => device.session.handle_stream_reset(stream),
                2 => device.session.handle_blocked(stream),
                3 => device.session.handle_writable(stream),
                _ => device.session.handle_stream_data(device.now, stream, &bytes),
            }
            device.calls();
            device.transmits();
        }
    }

    #[test]
    fn no_order_of_valid_frames_makes_a_session_panic(
        acts in proptest::collection::vec((0u64..5, 0usize..12, 1u64..20), 0..60),
    ) {
        let mut device = Device::open();
        let mut open_calls = Vec::new();
        for (stream, act, number) in acts {
            let id = StreamId::Bidi(stream);
            match act {
                0 => device.say(id, number, send(number as u8)),
                1 => device.say(id, number, subscribe(number, number % 3)),
                2 => device.say(id, number, Asked::Sync(v1::Sync { from: number, limit: 3 })),
                3 => device.say(id, number, Asked::Credit(v1::Credit { subscription_id: 1, entries: u64::MAX })),
                4 => device.say(id, number, Asked::Unsubscribe(v1::Unsubscribe { subscription_id: number % 4 })),
                5 => device.session.handle_push(device.now, &[pushed(number, number - 1, 5)]),
                6 => device.session.handle_tail(device.now, seq(number)),
                7 => device.session.handle_registered(device.now, seq(number)),
                8 => device.session.handle_stream_reset(StreamId::Inbox(number % 4)),
                9 => device.session.handle_timeout(device.now + Duration::from_millis(number * 50)),
                10 => device.session.handle_stream_end(device.now, id),
                _ => if let Some((request, _)) = open_calls.pop() {
                    let reply = Reply::Sync(page(&[(number, number - 1)], number + 1, number + 3));
                    device.session.handle_reply(device.now, request, Ok(reply));
                }
            }
            open_calls.extend(device.calls());
            device.transmits();
        }
    }
}
