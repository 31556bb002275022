//! WebSocket: one TCP connection as a carrier. It has no streams, so each frame says which one it belongs to.
//!
//! What is wrong with the messages themselves is refused here, with the same codes as everywhere; what is wrong with
//! the frames is the session's business.
//!
//! # Bounds
//! A message is read only when the session wants data, so a device that does not take its answers is not read either.
//! What goes out is taken from the session only while less than [`OUT_BYTES_MAX`] waits here; the rest stays in the
//! session, which stops pushing and reading. There is no transport below that notices a dead device, so one that is
//! silent for QUIC's idle time is given up. Every byte counts as a sign of life, so that a large message may come over a
//! slow network; but a message that is begun must be whole within [`MESSAGE_TIME`], or a device that sends a byte now
//! and then would hold its half for ever.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use seriatim_gateway_core::{Session, StreamId, Transmit};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::limits;
use seriatim_proto::wire::lane::{self, Place};
use seriatim_proto::wire::{FrameError, split_frame, whole_frames};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};

use crate::metrics::Traffic;
use crate::transport::{Came, Carrier};

/// Bytes that wait here for the socket, above which no more is taken from the session.
const OUT_BYTES_MAX: usize = 64 << 10;
/// Bytes of frames that are put into one message, unless a single frame is larger.
const MESSAGE_BYTES: usize = 32 << 10;
/// Bytes read from the socket at once.
const READ_BYTES: usize = 8 << 10;
/// Bytes that gather before the socket is written to.
const WRITE_BYTES: usize = 16 << 10;
/// Bytes of messages and pongs that may wait for the socket.
const WRITE_BYTES_MAX: usize = WRITE_BYTES + 2 * lane::MESSAGE_BYTES_MAX;
/// WebSocket's own pings and pongs of a device: so many at once, …
const CONTROL_BURST: u32 = 100;
/// … and one more in this time.
const CONTROL_PERIOD: Duration = Duration::from_millis(100);
/// A close frame has room for this much text.
const REASON_BYTES_MAX: usize = 120;

const IDLE: Duration = Duration::from_millis(limits::IDLE_TIMEOUT_MS);
/// Time from a message's first byte to its last: 2 KiB a second for the largest one.
const MESSAGE_TIME: Duration = Duration::from_millis(limits::SOCKET_MESSAGE_TIMEOUT_MS);
/// Bytes of a control frame of a device, besides what is in it: two of the header, four of the mask.
const CONTROL_BYTES: u64 = 6;
const _: () = assert!(MESSAGE_BYTES < OUT_BYTES_MAX && OUT_BYTES_MAX < WRITE_BYTES_MAX);

/// A WebSocket.
pub(crate) struct WebSocketCarrier<S> {
    socket: WebSocketStream<Counted<S>>,
    /// The rest of a message: frames that the session does not want yet.
    unread: Bytes,
    /// Whole frames that wait for the socket.
    out: BytesMut,
    /// The socket holds bytes that it has not written.
    unflushed: bool,
    /// Open lanes, and whether the device has ended its side.
    lanes: BTreeMap<u64, bool>,
    lane_last: u64,
    heard_at: Instant,
    /// Bytes of the socket at the last look.
    heard_bytes: u64,
    /// Bytes of the socket that belong to messages which are whole.
    whole_bytes: u64,
    /// When the message began that is not whole yet.
    begun_at: Option<Instant>,
    idle: Pin<Box<Sleep>>,
    controls: u32,
    controls_at: Instant,
    closing: Closing,
    traffic: Traffic,
}

enum Closing {
    Not,
    /// To be said when all else is written.
    Wanted(CloseFrame),
    /// By us, or by the device: then it is answered.
    Said,
    /// Nothing more to say: waits for the device's end, so that what it has not read yet is not lost.
    Shut,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> WebSocketCarrier<S> {
    /// An upgraded connection, and what was already read behind the request.
    pub(crate) async fn new(io: S, read: Vec<u8>, traffic: Traffic) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(WRITE_BYTES)
            .max_write_buffer_size(WRITE_BYTES_MAX)
            .max_message_size(Some(lane::MESSAGE_BYTES_MAX))
            .max_frame_size(Some(lane::MESSAGE_BYTES_MAX));
        let now = Instant::now();
        Self {
            socket: WebSocketStream::from_partially_read(Counted::new(io), read, Role::Server, Some(config)).await,
            unread: Bytes::new(),
            out: BytesMut::new(),
            unflushed: false,
            lanes: BTreeMap::from([(0, false)]),
            lane_last: 0,
            heard_at: now,
            heard_bytes: 0,
            whole_bytes: 0,
            begun_at: None,
            idle: Box::pin(tokio::time::sleep(IDLE)),
            controls: 0,
            controls_at: now,
            closing: Closing::Not,
            traffic,
        }
    }

    /// Hands the next frame of the message on. `None`: the session does not want it yet.
    fn read_frame(&mut self, now: Instant, session: &mut Session) -> Option<Result<(), Refusal>> {
        let mut rest = self.unread.clone();
        let (frame, header) = match split_frame(&mut rest) {
            Ok(Some(found)) => found,
            Ok(None) => return Some(Ok(())),
            Err(error) => return Some(Err(frame_refusal(&error))),
        };
        let Place { lane, end, .. } = match Place::of(frame.slice(header..)) {
            Ok(place) => place,
            Err(error) => return Some(Err(frame_refusal(&error))),
        };
        if !session.wants_data(StreamId::CONTROL) {
            return None;
        }
        self.unread = rest;
        match self.lanes.get(&lane).copied() {
            Some(false) => {}
            Some(true) => return Some(Err(wrong("a frame behind the end of its lane"))),
            // Answered and over: the device did not know yet.
            None if lane <= self.lane_last => return Some(Ok(())),
            None if !session.wants_data(StreamId::Bidi(lane)) => {
                return Some(Err(wrong("the first frame must be Hello")));
            }
            None if self.lanes.len() >= lane::LANES_MAX => return Some(Err(wrong("too many lanes at the same time"))),
            None => self.lane_last = lane,
        }
        self.lanes.insert(lane, end);
        session.handle_stream_data(now, StreamId::Bidi(lane), &frame);
        if end {
            session.handle_stream_end(now, StreamId::Bidi(lane));
        }
        Some(Ok(()))
    }

    /// Pings and pongs cost the device nothing and us an answer: not too many.
    fn count_control(&mut self, now: Instant) -> Result<(), Refusal> {
        let periods = now.saturating_duration_since(self.controls_at).as_millis() / CONTROL_PERIOD.as_millis();
        if periods > 0 {
            self.controls = self.controls.saturating_sub(u32::try_from(periods).unwrap_or(u32::MAX));
            self.controls_at = now;
        }
        self.controls += 1;
        if self.controls > CONTROL_BURST {
            return Err(Refusal::new(ErrorCode::Busy, "too many pings"));
        }
        Ok(())
    }

    /// What was read of the socket, after a look at it.
    fn count_bytes(&mut self, now: Instant, message: Option<&Message>) {
        let bytes = self.socket.get_ref().read_bytes;
        if bytes != self.heard_bytes {
            self.heard_bytes = bytes;
            self.heard_at = now;
        }
        match message {
            // What came with it of the next one begins to count with that one's next byte.
            Some(Message::Binary(_) | Message::Text(_) | Message::Frame(_) | Message::Close(_)) => {
                self.whole_bytes = bytes;
                self.begun_at = None;
            }
            // Those may come between the parts of a message.
            Some(Message::Ping(inner) | Message::Pong(inner)) => {
                self.whole_bytes = bytes.min(self.whole_bytes + inner.len() as u64 + CONTROL_BYTES);
            }
            None => {}
        }
        if bytes == self.whole_bytes {
            self.begun_at = None;
        } else {
            self.begun_at.get_or_insert(now);
        }
    }

    fn handle_message(&mut self, now: Instant, message: Result<Message, Error>) -> Result<Came, Refusal> {
        match message {
            Ok(Message::Binary(bytes)) if bytes.is_empty() => Err(malformed("an empty message")),
            Ok(Message::Binary(bytes)) => {
                self.traffic.received.inc_by(bytes.len() as u64);
                self.unread = bytes;
                Ok(Came::Something)
            }
            Ok(Message::Text(_)) | Err(Error::Utf8(_)) => Err(malformed("a text message: frames go in binary ones")),
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {
                self.count_control(now).map(|()| Came::Something)
            }
            Err(Error::Capacity(error)) => Err(Refusal::new(ErrorCode::FrameTooLarge, error.to_string())),
            Err(Error::Protocol(error)) if !is_gone(&error) => Err(malformed(&error.to_string())),
            // The library has its answer ready.
            Ok(Message::Close(_)) => {
                self.closing = Closing::Said;
                Ok(Came::Over)
            }
            Err(_) => Ok(Came::Over),
        }
    }

    /// Writes what waits; `true`: something went out.
    fn pump(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        let mut any = false;
        while !self.out.is_empty() {
            match self.socket.poll_ready_unpin(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Ok(any),
            }
            let message = self.out.split_to(whole_frames(&self.out, MESSAGE_BYTES)).freeze();
            self.traffic.sent.inc_by(message.len() as u64);
            self.socket.start_send_unpin(Message::Binary(message))?;
            self.unflushed = true;
            any = true;
        }
        if self.unflushed && self.socket.poll_flush_unpin(cx)?.is_ready() {
            self.unflushed = false;
            self.heard_at = Instant::now();
            any = true;
        }
        Ok(any)
    }

    /// A silent device is gone; one that is not listened to, because it has enough to be answered, may be silent.
    fn is_silent(&mut self, cx: &mut Context<'_>, now: Instant, session: &Session) -> bool {
        if !session.wants_data(StreamId::CONTROL) {
            self.begun_at = self.begun_at.map(|_| now);
            if !self.unflushed && self.out.is_empty() {
                self.heard_at = now;
            }
        }
        let whole_until = self.begun_at.map_or(self.heard_at + IDLE, |begun_at| begun_at + MESSAGE_TIME);
        let until = whole_until.min(self.heard_at + IDLE);
        if now >= until {
            return true;
        }
        // Set anew only when it fires: what was heard meanwhile costs nothing.
        if self.idle.as_mut().poll(cx).is_ready() {
            self.idle.as_mut().reset(until.into());
            if self.idle.as_mut().poll(cx).is_ready() {
                // It fires by a clock that is a little ahead of `now`.
                cx.waker().wake_by_ref();
            }
        }
        false
    }

    /// Reads and forgets, until the device has ended its side.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut bytes = [0; 1024];
        loop {
            let mut buffer = ReadBuf::new(&mut bytes);
            match Pin::new(self.socket.get_mut()).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Carrier for WebSocketCarrier<S> {
    fn poll_in(&mut self, cx: &mut Context<'_>, now: Instant, session: &mut Session) -> Came {
        let mut came = Came::Nothing;
        while !session.is_closed() {
            if !self.unread.is_empty() {
                match self.read_frame(now, session) {
                    Some(Ok(())) => came = Came::Something,
                    Some(Err(refusal)) => {
                        session.handle_refusal(refusal);
                        return Came::Something;
                    }
                    None => break,
                }
                continue;
            }
            if !session.wants_data(StreamId::CONTROL) {
                break;
            }
            let message = match self.socket.poll_next_unpin(cx) {
                Poll::Ready(message) => message,
                Poll::Pending => {
                    self.count_bytes(now, None);
                    break;
                }
            };
            self.count_bytes(now, message.as_ref().and_then(|message| message.as_ref().ok()));
            match message.map(|message| self.handle_message(now, message)) {
                Some(Ok(Came::Over)) | None => return Came::Over,
                Some(Ok(news)) => came = news,
                Some(Err(refusal)) => {
                    session.handle_refusal(refusal);
                    return Came::Something;
                }
            }
        }
        if self.is_silent(cx, now, session) { Came::Over } else { came }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>, _session: &mut Session) -> bool {
        // A broken socket shows itself when it is read; without a reader, when it is idle.
        self.pump(cx).unwrap_or(false)
    }

    fn has_room(&self) -> bool {
        self.out.len() < OUT_BYTES_MAX
    }

    fn put(&mut self, _cx: &mut Context<'_>, _session: &mut Session, transmit: Transmit) {
        let Transmit { stream, bytes, finish } = transmit;
        let place = match stream {
            StreamId::Bidi(lane) => Place { lane, end: finish, inbox: 0 },
            StreamId::Inbox(inbox) => Place { lane: 0, end: finish, inbox },
        };
        place.put(&bytes, &mut self.out);
        if let (StreamId::Bidi(lane), true) = (stream, finish) {
            self.lanes.remove(&lane);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> bool {
        self.pump(cx).unwrap_or(false)
    }

    fn queued_bytes(&self) -> usize {
        self.out.len()
    }

    fn close(&mut self, code: u32, reason: &str) {
        let reason =
            reason.char_indices().find(|(at, _)| *at > REASON_BYTES_MAX - 4).map_or(reason, |(at, _)| &reason[..at]);
        let code = lane::close_code_to_websocket(code).into();
        self.closing = Closing::Wanted(CloseFrame { code, reason: reason.into() });
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Closing::Not = self.closing {
            return Poll::Ready(());
        }
        if let Closing::Wanted(frame) = &self.closing {
            let frame = frame.clone();
            if self.pump(cx).is_err() {
                return Poll::Ready(());
            }
            if !self.out.is_empty() || self.socket.poll_ready_unpin(cx).is_pending() {
                return Poll::Pending;
            }
            if self.socket.start_send_unpin(Message::Close(Some(frame))).is_err() {
                return Poll::Ready(());
            }
            self.closing = Closing::Said;
        }
        if let Closing::Said = self.closing {
            match self.socket.poll_flush_unpin(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
            match Pin::new(self.socket.get_mut()).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.closing = Closing::Shut,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.poll_end(cx)
    }
}

/// A socket that counts what is read from it.
struct Counted<S> {
    io: S,
    read_bytes: u64,
}

impl<S> Counted<S> {
    fn new(io: S) -> Self {
        Self { io, read_bytes: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.read_bytes += (buffer.filled().len() - before) as u64;
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

fn is_gone(error: &tokio_tungstenite::tungstenite::error::ProtocolError) -> bool {
    use tokio_tungstenite::tungstenite::error::ProtocolError;
    matches!(error, ProtocolError::ResetWithoutClosingHandshake | ProtocolError::ReceivedAfterClosing)
}

fn wrong(text: &str) -> Refusal {
    Refusal::new(ErrorCode::WrongStream, text)
}

fn malformed(text: &str) -> Refusal {
    Refusal::new(ErrorCode::Malformed, text)
}

fn frame_refusal(error: &FrameError) -> Refusal {
    let code = match error {
        FrameError::TooLarge { .. } => ErrorCode::FrameTooLarge,
        FrameError::Length | FrameError::Malformed(_) | FrameError::Truncated => ErrorCode::Malformed,
    };
    Refusal::new(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use seriatim_gateway_core::{Admission, SessionEvent, SessionLimits};
    use seriatim_proto::ids::{Generation, TenantId, UserId};
    use seriatim_proto::logic::Scopes;
    use seriatim_proto::wire::v1;
    use seriatim_proto::wire::v1::client_frame::Body as Asked;
    use tokio::io::{AsyncWriteExt, DuplexStream};

    use super::*;

    /// A WebSocket whose device has said Hello, and whose time is the test's.
    struct Site {
        carrier: WebSocketCarrier<DuplexStream>,
        session: Session,
        device: DuplexStream,
        now: Instant,
    }

    fn framed(opcode: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u16::try_from(bytes.len()).unwrap();
        let header = match length {
            0..126 => vec![0x80 | opcode, 0x80 | length as u8],
            _ => [&[0x80 | opcode, 0x80 | 126][..], &length.to_be_bytes()].concat(),
        };
        // A mask of zeros changes nothing.
        [&header, &[0; 4][..], bytes].concat()
    }

    fn asked(body: Asked) -> Vec<u8> {
        let mut out = BytesMut::new();
        let frame = v1::ClientFrame { request_id: 1, body: Some(body), ..Default::default() };
        seriatim_proto::wire::encode_frame(&frame, &mut out);
        out.to_vec()
    }

    impl Site {
        async fn open() -> Self {
            let (device, io) = tokio::io::duplex(1 << 20);
            let traffic = Traffic::default();
            let carrier = WebSocketCarrier::new(io, Vec::new(), traffic).await;
            let now = Instant::now();
            let mut site = Self { carrier, session: Session::new(now, SessionLimits::default()), device, now };
            let hello = v1::Hello { token: "a".into(), device: "x".into(), ..Default::default() };
            site.send(&framed(2, &asked(Asked::Hello(hello)))).await;
            assert_eq!(site.look(Duration::ZERO), Came::Something);
            assert!(matches!(site.session.poll_event(), Some(SessionEvent::Authenticate { .. })));
            let admission = Admission {
                session_id: 1,
                tenant: TenantId(1),
                user: UserId::new("alice").unwrap(),
                generation: Generation(0),
                server_time_ms: 0,
                expires_at: now + Duration::from_secs(3_600),
                scopes: Scopes::DEVICE,
            };
            site.session.handle_verdict(now, Ok(admission));
            site
        }

        async fn send(&mut self, bytes: &[u8]) {
            self.device.write_all(bytes).await.unwrap();
        }

        /// What the carrier finds after so much time.
        fn look(&mut self, after: Duration) -> Came {
            self.now += after;
            let mut cx = Context::from_waker(Waker::noop());
            let came = self.carrier.poll_in(&mut cx, self.now, &mut self.session);
            while self.session.poll_transmit(self.now).is_some() {}
            came
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test]
    async fn a_large_message_may_come_slowly_and_silence_ends() {
        let mut site = Site::open().await;
        let ping = framed(2, &[asked(Asked::Ping(v1::Ping { nonce: 1 })), vec![5, 0x18, 1, 0x9a, 0x06, 0x00]].concat());
        // Over 100 s, with a ping of a WebSocket in between: longer than the idle time, and whole in time.
        let (last, first) = ping.split_last().unwrap();
        for byte in first.iter().copied().chain([*last]) {
            site.send(&[byte]).await;
            assert_ne!(site.look(SECOND * 100 / ping.len() as u32), Came::Over, "while its bytes come");
        }
        assert!(!site.session.is_closed());
        assert_ne!(site.look(IDLE - SECOND), Came::Over, "the time begins anew behind it");
        assert_eq!(site.look(SECOND), Came::Over, "silent for the idle time");
    }

    #[tokio::test]
    async fn a_message_that_never_ends_is_given_up() {
        let mut site = Site::open().await;
        // In parts, so that pings may come between them: they must not keep it alive.
        site.send(&[0x02, 0x81, 0, 0, 0, 0, 5]).await;
        let mut took = Duration::ZERO;
        while site.look(SECOND * 5) != Came::Over {
            took += SECOND * 5;
            assert!(took <= MESSAGE_TIME, "after {took:?}");
            site.send(&framed(9, b"here")).await;
        }
        assert!(took + SECOND * 5 >= MESSAGE_TIME, "after {took:?}");
    }

    #[tokio::test]
    async fn pings_alone_keep_a_websocket_alive_for_ever() {
        let mut site = Site::open().await;
        for _ in 0..60 {
            let (first, rest) = (&framed(9, b"here")[..3], &framed(9, b"here")[3..]);
            site.send(first).await;
            assert_ne!(site.look(SECOND * 5), Came::Over);
            site.send(rest).await;
            assert_ne!(site.look(SECOND * 5), Came::Over);
        }
    }
}
