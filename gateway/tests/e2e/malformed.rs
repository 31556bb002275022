//! Ten malformed inputs of each class, against a gateway over real sockets. After each of them a session that began
//! before goes on, and the close code is the one of docs/protocol.md.

use std::time::Duration;

use crate::support::peer::{Kind, Peer, frame, quic, tcp, web_connect, web_request, web_socket};
use crate::support::{PATIENCE, Site, eventually};
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use seriatim_proto::error::ErrorCode::{self, *};
use seriatim_proto::limits::{self, FRAME_BYTES_MAX};
use seriatim_proto::wire::lane;
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use tokio::io::AsyncWriteExt;

/// A device that does nothing wrong, from the beginning to the end.
struct Healthy {
    site: Site,
    peer: Peer,
    pings: u64,
}

impl Healthy {
    async fn start() -> Self {
        let site = Site::start().await;
        let peer = Peer::enter(&site, Kind::Quic, "healthy").await;
        Self { site, peer, pings: 0 }
    }

    async fn is_served(&mut self, after: &str) {
        self.pings += 1;
        let nonce = self.pings;
        self.peer.say(0, 100 + nonce, Asked::Ping(v1::Ping { nonce })).await;
        let answer = self.peer.answer(100 + nonce).await;
        assert!(matches!(answer, Said::Pong(pong) if pong.nonce == nonce), "after {after}");
    }
}

/// What becomes of a connection with a malformed input.
#[derive(Clone, Copy)]
enum Becomes {
    /// closed with this code
    Closed(ErrorCode),
    /// request 7 is answered with this code, and the session goes on
    Refused(ErrorCode),
    /// nothing: the session goes on
    Ignored,
}
use Becomes::{Closed, Ignored, Refused};

/// Where an input goes.
#[derive(Clone, Copy)]
enum On {
    /// on the control stream, instead of Hello
    Door,
    /// on the control stream of a session
    Control,
    /// on another stream of a session
    Lane,
}

struct Input {
    what: &'static str,
    on: On,
    bytes: Bytes,
    end: bool,
    becomes: Becomes,
}

fn input(what: &'static str, on: On, bytes: impl AsRef<[u8]>, becomes: Becomes) -> Input {
    Input { what, on, bytes: Bytes::copy_from_slice(bytes.as_ref()), end: false, becomes }
}

/// And then the stream ends.
fn cut(what: &'static str, on: On, bytes: impl AsRef<[u8]>, becomes: Becomes) -> Input {
    Input { end: true, ..input(what, on, bytes, becomes) }
}

/// Each input on a connection of its own.
async fn class(inputs: Vec<Input>) {
    assert!(inputs.len() >= 10, "ten of each class");
    let mut healthy = Healthy::start().await;
    for Input { what, on, bytes, end, becomes } in inputs {
        let site = &healthy.site;
        let mut peer = match on {
            On::Door => Peer::connect(site, Kind::Quic).await,
            On::Control | On::Lane => Peer::enter(site, Kind::Quic, "alice").await,
        };
        let stream = match on {
            On::Door | On::Lane => peer.open().await,
            On::Control => 0,
        };
        peer.send_raw(stream, &bytes).await;
        if end {
            peer.send(stream, &[], true).await;
        }
        match becomes {
            Closed(code) => assert_eq!(peer.close_code().await, Some(code.close_code()), "{what}"),
            Refused(code) => match peer.answer(7).await {
                Said::Error(error) => assert_eq!(error.name, code.name(), "{what}"),
                other => panic!("{what}: {other:?}"),
            },
            Ignored => {}
        }
        if !matches!(becomes, Closed(_)) {
            peer.say(0, 9, Asked::Ping(v1::Ping { nonce: 9 })).await;
            assert!(matches!(peer.answer(9).await, Said::Pong(_)), "{what}");
        }
        healthy.is_served(what).await;
    }
}

/// LEB128, as lengths are written.
fn length(mut bytes: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while bytes >= 0x80 {
        out.push((bytes & 0x7f) as u8 | 0x80);
        bytes >>= 7;
    }
    out.push(bytes as u8);
    out
}

fn asked(body: Asked) -> BytesMut {
    frame(7, body)
}

fn ping() -> Asked {
    Asked::Ping(v1::Ping { nonce: 1 })
}

fn bob() -> Option<v1::Conversation> {
    Some(v1::Conversation { id: Some(v1::conversation::Id::Peer("bob".into())) })
}

fn send() -> v1::Send {
    v1::Send { message_id: vec![1; 16].into(), conversation: bob(), body: "hi".into(), ..Default::default() }
}

fn sync() -> Asked {
    Asked::Sync(v1::Sync { from: 1, limit: 0 })
}

fn subscribe() -> Asked {
    Asked::Subscribe(v1::Subscribe { from: 1, cursor: 0, credit: 10 })
}

fn hello(token: &str) -> Asked {
    Asked::Hello(v1::Hello { token: token.into(), device: "x".into(), ..Default::default() })
}

// ---- what one stream can get wrong ----

#[tokio::test(flavor = "multi_thread")]
async fn lengths_that_are_too_long() {
    let over = u64::from(FRAME_BYTES_MAX) + 1;
    class(vec![
        input("one byte over the limit", On::Lane, length(over), Closed(FrameTooLarge)),
        input("the same on the control stream", On::Control, length(over), Closed(FrameTooLarge)),
        input("the same instead of Hello", On::Door, length(over), Closed(FrameTooLarge)),
        input("twice the limit", On::Lane, length(2 * over), Closed(FrameTooLarge)),
        input("four bytes of all ones", On::Lane, [0xff, 0xff, 0xff, 0x7f], Closed(FrameTooLarge)),
        input("the largest of 32 bits", On::Lane, length(u32::MAX.into()), Closed(FrameTooLarge)),
        input("the largest of 64 bits", On::Lane, length(u64::MAX), Closed(FrameTooLarge)),
        input("behind a good frame", On::Control, [&asked(ping())[..], &length(over)].concat(), Closed(FrameTooLarge)),
        input("a length without an end", On::Lane, [0x80; 5], Closed(Malformed)),
        input("the same on the control stream", On::Control, [0x80; 11], Closed(Malformed)),
        input("zeros behind the limit's length", On::Lane, [0x81, 0x80, 0x90, 0x80, 0x00], Closed(FrameTooLarge)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_cut_short() {
    let whole = asked(Asked::Send(send()));
    class(vec![
        cut("half a length", On::Lane, [0x80], Closed(Malformed)),
        cut("a length and nothing", On::Lane, [6], Closed(Malformed)),
        cut("all but a byte", On::Lane, &whole[..whole.len() - 1], Closed(Malformed)),
        cut("half of it", On::Lane, &whole[..whole.len() / 2], Closed(Malformed)),
        cut("a whole one, and a byte of the next", On::Lane, [&whole[..], &whole[..1]].concat(), Closed(Malformed)),
        cut("the same on the control stream", On::Control, &asked(ping())[..3], Closed(Malformed)),
        cut("half of Hello", On::Door, &asked(hello("abc"))[..5], Closed(Malformed)),
        // Whole frames, with something cut short inside.
        input("a number", On::Control, [2, 0x08, 0x80], Closed(Malformed)),
        input("a field without a value", On::Control, [1, 0x08], Closed(Malformed)),
        input("a body that is longer than its frame", On::Control, [4, 0x08, 7, 0x5a, 9], Closed(Malformed)),
        input("a text that is longer than its message", On::Door, [4, 0x52, 2, 0x2a, 0x7f], Closed(Malformed)),
        input("a fixed number of three bytes", On::Control, [5, 0x9d, 0x06, 1, 2, 3], Closed(Malformed)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_not_known() {
    let amend = Asked::Amend(v1::Amend {
        message_id: vec![2; 16].into(),
        conversation: bob(),
        target: 1,
        ..Default::default()
    });
    let nobody = Asked::Send(v1::Send { conversation: Some(v1::Conversation { id: None }), ..send() });
    let mark = Asked::Mark(v1::Mark { conversation: bob(), what: None });
    let minors = Asked::Hello(v1::Hello {
        min_minor: 7,
        max_minor: 9,
        token: "t".into(),
        device: "x".into(),
        ..Default::default()
    });
    class(vec![
        input("a body of a later version", On::Control, [6, 0x08, 7, 0x9a, 0x06, 1, 0], Refused(Unsupported)),
        input("the same on a lane", On::Lane, [6, 0x08, 7, 0x9a, 0x06, 1, 0], Refused(Unsupported)),
        input("the same instead of Hello", On::Door, [6, 0x08, 7, 0x9a, 0x06, 1, 0], Closed(Unsupported)),
        input("the same, optional", On::Control, [8, 0x08, 7, 0x18, 1, 0x9a, 0x06, 1, 0], Ignored),
        input("no body at all", On::Lane, [2, 0x08, 7], Refused(Unsupported)),
        input("an empty frame, its length padded", On::Control, [0x80, 0x80, 0x00], Ignored),
        input("minor versions of the future", On::Door, asked(minors), Closed(Unsupported)),
        input("an act that is not known", On::Lane, asked(amend), Refused(Malformed)),
        input("a mark that is not known", On::Lane, asked(mark), Refused(Malformed)),
        input("a conversation that is not known", On::Lane, asked(nobody), Refused(Malformed)),
        input("a kind of field that protobuf has not", On::Control, [2, 0x0e, 0], Closed(Malformed)),
        input("field 0", On::Control, [2, 0x00, 0], Closed(Malformed)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_on_the_wrong_stream() {
    let then = |first: Asked, second: Asked| [&asked(first)[..], &asked(second)].concat();
    let status = || Asked::Status(v1::Status {});
    let credit = Asked::Credit(v1::Credit { subscription_id: 1, entries: 1 });
    let unsubscribe = Asked::Unsubscribe(v1::Unsubscribe { subscription_id: 1 });
    class(vec![
        input("Ping on a lane", On::Lane, asked(ping()), Closed(WrongStream)),
        input("Subscribe on a lane", On::Lane, asked(subscribe()), Closed(WrongStream)),
        input("Unsubscribe on a lane", On::Lane, asked(unsubscribe), Closed(WrongStream)),
        input("Credit on a lane", On::Lane, asked(credit), Closed(WrongStream)),
        input("Ack on a lane", On::Lane, asked(Asked::Ack(v1::Ack { cursor: 1 })), Closed(WrongStream)),
        input("Send on the control stream", On::Control, asked(Asked::Send(send())), Closed(WrongStream)),
        input("Next on the control stream", On::Control, asked(Asked::Next(v1::Next::default())), Closed(WrongStream)),
        input("Sync on the control stream", On::Control, asked(sync()), Closed(WrongStream)),
        input("a question on a lane", On::Lane, then(Asked::Send(send()), sync()), Closed(WrongStream)),
        input("Send behind a question", On::Lane, then(sync(), Asked::Send(send())), Closed(WrongStream)),
        input("a second question", On::Lane, then(status(), sync()), Closed(WrongStream)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_in_the_wrong_order() {
    let credit = Asked::Credit(v1::Credit { subscription_id: 1, entries: 1 });
    let unsubscribe = Asked::Unsubscribe(v1::Unsubscribe { subscription_id: 1 });
    let follows = Asked::Send(v1::Send { follows: vec![9; 16].into(), ..send() });
    class(vec![
        input("Ping before Hello", On::Door, asked(ping()), Closed(WrongStream)),
        input("Send before Hello", On::Door, asked(Asked::Send(send())), Closed(WrongStream)),
        input("Sync before Hello", On::Door, asked(sync()), Closed(WrongStream)),
        input("Subscribe before Hello", On::Door, asked(subscribe()), Closed(WrongStream)),
        input("Ack before Hello", On::Door, asked(Asked::Ack(v1::Ack { cursor: 1 })), Closed(WrongStream)),
        input("Credit before Hello", On::Door, asked(credit.clone()), Closed(WrongStream)),
        input("Status before Hello", On::Door, asked(Asked::Status(v1::Status {})), Closed(WrongStream)),
        input("Credit before Subscribe", On::Control, asked(credit), Ignored),
        input("Unsubscribe before Subscribe", On::Control, asked(unsubscribe), Ignored),
        input(
            "an acknowledgement of what never came",
            On::Control,
            asked(Asked::Ack(v1::Ack { cursor: 99 })),
            Refused(CursorAhead),
        ),
        input("a message before the one that it follows", On::Lane, asked(follows), Refused(OutOfOrder)),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_comes_again() {
    let twice = |second: Asked| [&frame(1, hello("nonsense"))[..], &asked(second)].concat();
    let other = Asked::Hello(v1::Hello { token: "abc".into(), device: "other".into(), ..Default::default() });
    let future = Asked::Hello(v1::Hello { min_minor: 7, max_minor: 9, ..Default::default() });
    let mut optional = BytesMut::new();
    let marked = v1::ClientFrame { optional: true, body: Some(hello("abc")), ..Default::default() };
    seriatim_proto::wire::encode_frame(&marked, &mut optional);
    let behind = |first: Asked| [&asked(first)[..], &asked(hello("abc"))].concat();
    class(vec![
        input("the same", On::Control, frame(1, hello("abc")), Closed(WrongStream)),
        input("of another device", On::Control, asked(other), Closed(WrongStream)),
        input("an empty one", On::Control, asked(Asked::Hello(v1::Hello::default())), Closed(WrongStream)),
        input("of another version", On::Control, asked(future), Closed(WrongStream)),
        input("without a request id", On::Control, frame(0, hello("abc")), Closed(WrongStream)),
        input("an optional one", On::Control, optional, Closed(WrongStream)),
        input("on a lane", On::Lane, asked(hello("abc")), Closed(WrongStream)),
        input("on a lane with messages", On::Lane, behind(Asked::Send(send())), Closed(WrongStream)),
        input("behind a Ping", On::Control, behind(ping()), Closed(WrongStream)),
        input("behind Subscribe", On::Control, behind(subscribe()), Closed(WrongStream)),
        // The first one's verdict comes before anything else is read.
        input("in one piece with a refused one", On::Door, twice(hello("abc")), Closed(AuthFailed)),
    ])
    .await;
    // One that was good once is good again on a connection of its own, and takes nothing from the first.
    let healthy = Healthy::start().await;
    let token = healthy.site.token("alice", 60);
    for _ in 0..2 {
        let mut peer = Peer::connect(&healthy.site, Kind::Quic).await;
        peer.open().await;
        peer.hello(&token).await;
        assert!(matches!(peer.answer(1).await, Said::Welcome(_)));
    }
    // And in one piece with a good one it is the second.
    let mut peer = Peer::connect(&healthy.site, Kind::Quic).await;
    peer.open().await;
    peer.send(0, &[&frame(1, hello(&token))[..], &asked(hello(&token))].concat(), false).await;
    assert_eq!(peer.close_code().await, Some(WrongStream.close_code()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_stream_that_is_closed() {
    let code = Some(CriticalStreamClosed.close_code());
    let mut healthy = Healthy::start().await;
    for (what, in_session, before, reset) in [
        ("ended at once", false, None, None),
        ("reset at once", false, None, Some(0)),
        ("reset in the middle of Hello", false, Some(BytesMut::from(&[40, 0x08][..])), Some(9)),
        ("ended in a session", true, None, None),
        ("reset in a session", true, None, Some(0)),
        ("reset with a code of ours", true, None, Some(9)),
        ("ended behind a Ping", true, Some(asked(ping())), None),
        ("ended behind Subscribe", true, Some(asked(subscribe())), None),
        ("reset behind Subscribe", true, Some(asked(subscribe())), Some(1)),
    ] {
        let mut peer = match in_session {
            true => Peer::enter(&healthy.site, Kind::Quic, "alice").await,
            false => Peer::connect(&healthy.site, Kind::Quic).await,
        };
        if !in_session {
            peer.open().await;
        }
        if let Some(before) = &before {
            peer.send(0, before, false).await;
        }
        match reset {
            Some(code) => peer.reset(0, code),
            None => peer.send(0, &[], true).await,
        }
        assert_eq!(peer.close_code().await, code, "{what}");
        healthy.is_served(what).await;
    }

    // The gateway's side of it.
    let (connection, _endpoint) = quic(&healthy.site, healthy.site.address, b"seriatim-1").await.unwrap();
    let (mut control, mut answers) = connection.open_bi().await.unwrap();
    answers.stop(0u32.into()).unwrap();
    control.write_all(&frame(1, hello(&healthy.site.token("alice", 60)))).await.unwrap();
    let end = tokio::time::timeout(PATIENCE, connection.closed()).await.unwrap();
    let quinn::ConnectionError::ApplicationClosed(close) = end else { panic!("{end}") };
    assert_eq!(Some(close.error_code.into_inner()), code.map(u64::from), "answers are not taken");
    healthy.is_served("answers are not taken").await;

    // While a message waits for its answer: it is committed, and nobody hears of it.
    let mut peer = Peer::enter(&healthy.site, Kind::Quic, "alice").await;
    let lane = peer.open().await;
    peer.say(lane, 7, Asked::Send(send())).await;
    peer.send(0, &[], true).await;
    assert_eq!(peer.close_code().await, code);
    healthy.is_served("a message is under way").await;

    // On the other ways in: a lane 0 that ends.
    for kind in [Kind::WebTransport, Kind::WebSocket] {
        let mut peer = Peer::enter(&healthy.site, kind, "alice").await;
        peer.send(0, &[], true).await;
        assert_eq!(peer.close_code().await, code, "{kind:?}");
        healthy.is_served("on another way in").await;
    }
}

// ---- floods ----

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_streams() {
    let mut healthy = Healthy::start().await;
    let enter = async |healthy: &Healthy| Peer::enter(&healthy.site, Kind::Quic, "alice").await;
    let still_asks = async |peer: &mut Peer, what: &str| {
        let call = peer.open().await;
        peer.send(call, &frame(8, sync()), true).await;
        assert!(matches!(peer.answer(8).await, Said::SyncPage(_)), "{what}");
    };

    // 1: streams that end at once.
    let mut peer = enter(&healthy).await;
    for _ in 0..300 {
        let lane = peer.open().await;
        peer.send(lane, &[], true).await;
    }
    still_asks(&mut peer, "streams that end at once").await;
    healthy.is_served("streams that end at once").await;

    // 2: streams that are reset at once, far more than there may be at the same time.
    let mut peer = enter(&healthy).await;
    for _ in 0..300 {
        let lane = tokio::time::timeout(PATIENCE, peer.open()).await.expect("what was reset makes room");
        peer.send(lane, &[1], false).await;
        peer.reset(lane, 0);
    }
    still_asks(&mut peer, "streams that are reset").await;
    healthy.is_served("streams that are reset").await;

    // 3: questions whose streams are reset.
    let mut peer = enter(&healthy).await;
    for request_id in 1_000..1_300 {
        let lane = tokio::time::timeout(PATIENCE, peer.open()).await.expect("what was reset makes room");
        peer.send(lane, &frame(request_id, sync()), false).await;
        peer.reset(lane, 0);
    }
    still_asks(&mut peer, "questions that are reset").await;
    healthy.is_served("questions that are reset").await;

    // 4: more questions than may be under way.
    let mut peer = enter(&healthy).await;
    for request_id in 1_000..1_300 {
        let call = tokio::time::timeout(PATIENCE, peer.open()).await.expect("what is answered makes room");
        peer.send(call, &frame(request_id, sync()), true).await;
    }
    for request_id in 1_000..1_300 {
        assert!(matches!(peer.answer(request_id).await, Said::SyncPage(_)));
    }
    healthy.is_served("many questions").await;

    // 5: more lanes than there may be.
    let mut peer = enter(&healthy).await;
    for number in 0..=limits::SESSION_LANES_MAX as u64 {
        let lane = peer.open().await;
        peer.say(lane, 1_000 + number, Asked::Current(v1::Current { counter: "c".into() })).await;
        let answer = peer.answer(1_000 + number).await;
        let is_busy = matches!(&answer, Said::Error(error) if error.name == Busy.name());
        assert_eq!(is_busy, number == u64::from(limits::SESSION_LANES_MAX), "{answer:?}");
    }
    healthy.is_served("many lanes").await;

    // 6: every stream that there may be, each with the beginning of a large frame: no room is made for what is to come.
    let mut peer = enter(&healthy).await;
    for _ in 1..lane::LANES_MAX {
        let lane = peer.open().await;
        peer.send_raw(lane, &length(FRAME_BYTES_MAX.into())).await;
    }
    peer.say(0, 9, ping()).await;
    assert!(matches!(peer.answer(9).await, Said::Pong(_)));
    healthy.is_served("large frames that do not come").await;

    // 7: one more waits for QUIC, and costs nothing.
    assert!(peer.connection().open_bi().now_or_never().is_none());
    healthy.is_served("a stream too many").await;

    // 8: unidirectional ones, of which a native device has none.
    let peer = &mut enter(&healthy).await;
    for _ in 0..3 {
        if let Ok(mut stream) = peer.connection().open_uni().await {
            let _ = stream.write_all(b"x").await;
        }
    }
    assert_eq!(peer.close_code().await, Some(WrongStream.close_code()));
    healthy.is_served("unidirectional streams").await;

    // 9: of a WebSocket, where they cost no more than a number.
    let mut peer = Peer::enter(&healthy.site, Kind::WebSocket, "alice").await;
    for lane in 1..=lane::LANES_MAX as u64 {
        peer.send_raw(0, &[4, 0x18, 0, 0x20, u8::try_from(lane).unwrap()]).await;
    }
    assert_eq!(peer.close_code().await, Some(WrongStream.close_code()));
    healthy.is_served("lanes of a WebSocket").await;

    // 10: of a browser, none of them the session's.
    let mut peer = Peer::enter(&healthy.site, Kind::WebTransport, "alice").await;
    for _ in 0..200 {
        let (mut send, mut recv) = peer.connection().open_bi().await.unwrap();
        let _ = send.write_all(&[0x01, 0x02, 0x00, 0x00]).await;
        let refused = tokio::time::timeout(PATIENCE, recv.read_to_end(9)).await.unwrap();
        assert!(refused.is_err(), "no stream of the session");
    }
    still_asks(&mut peer, "streams of no session").await;
    healthy.is_served("streams of no session").await;

    // 11: subscriptions, of which each takes the place of the one before, and none of which is read.
    let mut peer = enter(&healthy).await;
    peer.set_reading(false);
    for request_id in 1_000..1_200 {
        peer.say(0, request_id, subscribe()).await;
    }
    peer.set_reading(true);
    for request_id in 1_000..1_200 {
        peer.answer(request_id).await;
    }
    healthy.is_served("many subscriptions").await;
}

// ---- slow ones ----

/// Bytes one by one, each after a pause, until nobody takes them.
async fn trickle(stream: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) {
    for byte in bytes.iter().cycle() {
        if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        // The pace of the attack.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn ended(connection: &quinn::Connection) {
    connection.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_ones_are_shown_the_door() {
    let mut healthy = Healthy::start().await;
    let site = Site::start().await;
    let timeout = Some(HelloTimeout.close_code());
    let begun = std::time::Instant::now();
    let no_hello = async |kind: Kind, what: &'static str, bytes: &'static [u8]| {
        let mut peer = Peer::connect(&site, kind).await;
        peer.open().await;
        if !bytes.is_empty() {
            peer.send_raw(0, bytes).await;
        }
        assert_eq!(peer.close_code().await, timeout, "{what}");
        what
    };
    let native = async |what: &'static str, pieces: &'static [u8]| {
        let (connection, _endpoint) = quic(&site, site.address, b"seriatim-1").await.unwrap();
        let (mut control, _answers) = connection.open_bi().await.unwrap();
        tokio::select! {
            () = trickle(&mut control, pieces) => {}
            () = ended(&connection) => {}
        }
        let quinn::ConnectionError::ApplicationClosed(close) = connection.closed().await else { panic!("{what}") };
        assert_eq!(u32::try_from(close.error_code.into_inner()).ok(), timeout, "{what}");
        what
    };
    let browser = async |what: &'static str, settings: &'static [u8], request: &'static [u8]| {
        let (connection, _endpoint) = quic(&site, site.address, b"h3").await.unwrap();
        let mut control = connection.open_uni().await.unwrap();
        let slow = async {
            if request.is_empty() {
                return trickle(&mut control, settings).await;
            }
            control.write_all(settings).await.unwrap();
            let (mut send, _recv) = connection.open_bi().await.unwrap();
            trickle(&mut send, request).await;
        };
        tokio::select! {
            () = slow => {}
            () = ended(&connection) => {}
        }
        ended(&connection).await;
        what
    };
    let over_tcp = async |what: &'static str, tls: bool, bytes: &'static [u8]| {
        use tokio::io::AsyncReadExt;
        let mut byte = [0; 1];
        let end = if tls {
            let (mut read, mut write) = tokio::io::split(tcp(&site, site.address, &[b"http/1.1"]).await.unwrap());
            tokio::select! {
                end = read.read(&mut byte) => end,
                () = trickle(&mut write, bytes), if !bytes.is_empty() => Ok(0),
            }
        } else {
            let stream = tokio::net::TcpStream::connect(site.address).await.unwrap();
            let (mut read, mut write) = stream.into_split();
            tokio::select! {
                end = read.read(&mut byte) => end,
                () = trickle(&mut write, bytes), if !bytes.is_empty() => Ok(0),
            }
        };
        assert!(matches!(end, Ok(0) | Err(_)), "{what}");
        what
    };
    let half_message = async |what: &'static str| {
        let mut socket = web_socket(&site, site.address).await;
        // A binary message of 127 bytes, with a mask, byte by byte.
        let mut message = vec![0x82, 0xfe, 0x00, 0x7f, 0, 0, 0, 0];
        message.resize(8 + 127, 0x18);
        trickle(socket.get_mut(), &message).await;
        what
    };
    let without_session = async |what: &'static str| {
        let (connection, _endpoint) = quic(&site, site.address, b"h3").await.unwrap();
        let _session = web_connect(&connection, web_request(lane::PATH)).await.unwrap();
        ended(&connection).await;
        what
    };
    let slow = async {
        tokio::join!(
            no_hello(Kind::Quic, "a connection that says nothing", &[]),
            no_hello(Kind::Quic, "a length without its frame", &[40]),
            native("a Hello that takes for ever", &[0x80, 0x01, 0x08, 1]),
            native("frames that mean nothing, for ever", &[2, 0x18, 1]),
            browser("settings that take for ever", &[0x00, 0x04, 0x40, 0x40, 0x21], &[]),
            browser("a request that takes for ever", &[0x00, 0x04, 0x00], &[0x01, 0x40, 0xff, 0, 0]),
            without_session("a browser's session that says nothing"),
            over_tcp("TCP without TLS", false, &[]),
            over_tcp("TLS that takes for ever", false, &[0x16, 3, 1, 2, 0, 1]),
            over_tcp("no request", true, &[]),
            over_tcp("a request over TCP that takes for ever", true, b"GET /seriatim-1 HTTP/1.1\r\nx: y\r\n"),
            no_hello(Kind::WebSocket, "a WebSocket that says nothing", &[]),
            half_message("a message that takes for ever"),
        )
    };
    let mut slow = std::pin::pin!(tokio::time::timeout(4 * PATIENCE, slow));
    loop {
        tokio::select! {
            ended = &mut slow => {
                ended.expect("all of them in time");
                break;
            }
            // Of another gateway and of this one: nobody waits for them.
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                healthy.is_served("slow ones elsewhere").await;
                let mut peer = Peer::enter(&site, Kind::Quic, "alice").await;
                peer.say(0, 9, ping()).await;
                assert!(matches!(peer.answer(9).await, Said::Pong(_)));
            }
        }
    }
    assert!(begun.elapsed() >= Duration::from_millis(limits::HELLO_TIMEOUT_MS) - Duration::from_millis(500));
    eventually("nothing of them is left", || site.metric("gateway_queued_bytes") == 0.0).await;
}

// ---- amplification ----

/// A handshake's first datagram, as a client says it to somebody else.
async fn initial(site: &Site) -> Vec<u8> {
    let trap = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = trap.local_addr().unwrap();
    let mut datagram = vec![0; 2_048];
    tokio::select! {
        _ = quic(site, address, b"seriatim-1") => panic!("nobody answers"),
        received = trap.recv(&mut datagram) => datagram.truncate(received.unwrap()),
    }
    assert!(datagram.len() >= 1_200, "{} bytes", datagram.len());
    datagram
}

/// Somebody whose address was forged: what comes to him, of datagrams that he did not send.
struct Victim {
    socket: tokio::net::UdpSocket,
    sent: usize,
    received: usize,
    /// the largest
    datagram: Vec<u8>,
}

impl Victim {
    async fn of(site: &Site, datagrams: &[Vec<u8>]) -> Self {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(site.address).await.unwrap();
        for datagram in datagrams {
            socket.send(datagram).await.unwrap();
        }
        Self { socket, sent: datagrams.iter().map(Vec::len).sum(), received: 0, datagram: Vec::new() }
    }

    /// Takes what is there.
    fn take(&mut self) {
        let mut datagram = [0; 65_536];
        while let Ok(bytes) = self.socket.try_recv(&mut datagram) {
            self.received += bytes;
            if bytes > self.datagram.len() {
                self.datagram = datagram[..bytes].to_vec();
            }
        }
    }
}

/// RFC 9000 says three times. quinn asks before it begins a datagram whether a byte may still be sent, so the last one
/// of a handshake may go over: it does not begin another.
fn may_come(times: usize, sent: usize) -> usize {
    times * sent + if times == 3 { 1_199 } else { 0 }
}

/// A long header's kind: Retry is 3.
fn packet_kind(datagram: &[u8]) -> u8 {
    datagram[0] >> 4 & 3
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_more_than_about_three_times_what_came_in_his_name() {
    let mut healthy = Healthy::start().await;
    let site = &healthy.site;
    // Of a client of its own each: no two belong to one connection.
    let mut fresh = Vec::new();
    for _ in 0..14 {
        fresh.push(initial(site).await);
    }
    let mut fresh = fresh.into_iter();
    let mut next = || fresh.next().expect("enough of them");
    let changed = |mut datagram: Vec<u8>, at: usize| {
        datagram[at] ^= 0x55;
        datagram
    };
    let many: Vec<_> = std::iter::repeat_with(&mut next).take(5).collect();
    // The connection id's length: shorter than any client may choose.
    let mut short_id = next();
    short_id[5] = 4;
    let mut random = vec![0x5a; 1_200];
    random[0] = 0x40;
    // What is sent, and how many times as much may come back at most.
    let cases: Vec<(&str, Vec<Vec<u8>>, usize)> = vec![
        ("a handshake that nobody goes on with", vec![next()], 3),
        ("the same one five times", vec![next(); 5], 3),
        ("five of them", many, 3),
        ("one byte less than a handshake has", vec![next()[..1_199].to_vec()], 0),
        ("a changed byte in its seal", vec![changed(next(), 1_199)], 3),
        ("a version of nobody", vec![changed(next(), 1)], 1),
        ("a version of nobody, in few bytes", vec![changed(next(), 1)[..40].to_vec()], 0),
        ("a connection that is not there", vec![random.clone()], 1),
        ("the same, in few bytes", vec![random[..24].to_vec()], 1),
        ("a connection id that is too short", vec![short_id], 3),
        ("nothing", vec![Vec::new()], 0),
        ("a handshake of noise", vec![[&next()[..40], &[0xa5; 1_160][..]].concat()], 3),
    ];
    let mut victims = Vec::new();
    for (what, datagrams, times) in cases {
        victims.push((what, Victim::of(site, &datagrams).await, times));
    }
    // The gateway says it again and again, until it gives up the last of the good ones.
    let given_up = "gateway_handshakes_refused_total{transport=\"Quic\",why=\"Deadline\"}";
    let deadline = std::time::Instant::now() + 2 * PATIENCE;
    while !site.metrics().contains(given_up) || site.metric(given_up) < 7.0 {
        assert!(std::time::Instant::now() < deadline, "it never gives up: {}", site.metrics());
        for (what, victim, times) in &mut victims {
            victim.take();
            let (sent, received) = (victim.sent, victim.received);
            assert!(received <= may_come(*times, sent), "{what}: {received} bytes for {sent}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (what, victim, times) in &mut victims {
        victim.take();
        let (sent, received) = (victim.sent, victim.received);
        assert!(received <= may_come(*times, sent), "{what}: {received} bytes for {sent}");
    }
    assert!(victims[..3].iter().all(|(_, victim, _)| victim.received > 0), "handshakes are answered");
    healthy.is_served("amplification").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn above_the_threshold_an_address_is_proved_first() {
    let site = Site::start_with(|config| config.address_connections_max = 8).await;
    let mut peers = Vec::new();
    for _ in 0..4 {
        peers.push(Peer::enter(&site, Kind::Quic, "alice").await);
    }
    let mut victims = Vec::new();
    for _ in 0..10 {
        // Of a client of its own each: with one connection id they would be one.
        let datagram = initial(&site).await;
        victims.push(Victim::of(&site, &[datagram]).await);
    }
    for victim in &mut victims {
        tokio::time::timeout(PATIENCE, victim.socket.readable()).await.expect("an answer").unwrap();
        victim.take();
        assert_eq!(packet_kind(&victim.datagram), 3, "a Retry");
        assert!(victim.received < victim.sent / 4, "{} bytes", victim.received);
    }
    // They have taken nothing of the address's share: who can prove it comes in.
    peers.push(Peer::enter(&site, Kind::Quic, "alice").await);
    for peer in &mut peers {
        peer.say(0, 9, ping()).await;
        assert!(matches!(peer.answer(9).await, Said::Pong(_)));
    }
}
