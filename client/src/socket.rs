//! Socket: a WebSocket to a gateway, for networks that block UDP: every frame says which stream it belongs to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError};
use seriatim_proto::wire::lane::{self, Place};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, FrameDecoder, v1, whole_frames};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::{Message, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, http};

use crate::builder::Options;
use crate::error::ConnectError;
use crate::requests::Way;
use crate::wire::{Broken, CALLS_MAX, DialError, Incoming, LANE_BYTES_MAX, closed_error};

/// The lane of all sends; calls have numbers from the next one on.
const SENDS: u64 = 1;
/// Bytes of frames that are put into one message, unless a single frame is larger.
const MESSAGE_BYTES: usize = 32 << 10;
/// Bytes read from the socket at once.
const READ_BYTES: usize = 16 << 10;
const WRITE_BYTES: usize = 16 << 10;
/// Bytes of frames that were read and not looked at, above which no more are read.
const INCOMING_MAX: usize = 64;
/// Without anything from the gateway for this long it is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// Who says nothing for this long says Ping: one that only listens is a device that is gone to the gateway, after its
/// idle time of 30 s, however much it is sent.
const SAY: Duration = Duration::from_secs(10);
/// Without anything for this long it is not.
const SILENCE: Duration = Duration::from_secs(10);

/// A WebSocket.
pub(crate) type Stream = WebSocketStream<TlsStream<TcpStream>>;

/// A WebSocket whose gateway has said Welcome.
pub(crate) struct Socket {
    stream: Stream,
    /// What came behind Welcome in its message.
    behind: Bytes,
    /// Whole frames that wait for the socket.
    out: BytesMut,
    unflushed: bool,
    lane_last: u64,
    /// Open calls: their lanes and requests.
    calls: BTreeMap<u64, u64>,
    subscription_id: u64,
    /// Subscriptions up to this one are not wanted any more.
    dropped: u64,
    end: Option<DialError>,
    heard_at: Instant,
    said_at: Instant,
    look: Pin<Box<Sleep>>,
}

/// Connects, without a word of the protocol yet.
pub(crate) async fn connect(options: &Options, address: SocketAddr) -> Result<Stream, DialError> {
    let retry = |error: &dyn std::fmt::Display| DialError::Retry(format!("{address}: {error}"));
    let stream = TcpStream::connect(address).await.map_err(|error| retry(&error))?;
    stream.set_nodelay(true).map_err(|error| retry(&error))?;
    let name = ServerName::try_from(options.server_name.clone())
        .map_err(|error| DialError::Fatal(ConnectError::Handshake(error.to_string())))?;
    let stream = options.endpoint.tls().connect(name, stream).await;
    let stream = stream.map_err(|error| tls_error(&error).unwrap_or_else(|| retry(&error)))?;
    let host = if options.server_name.contains(':') {
        format!("[{}]", options.server_name)
    } else {
        options.server_name.clone()
    };
    let url = format!("wss://{host}:{}{}", address.port(), lane::PATH);
    let protocol = http::HeaderValue::from_bytes(wire::ALPN).expect("a token is a header value");
    let mut request = url.into_client_request().map_err(|error| retry(&error))?;
    request.headers_mut().insert(http::header::SEC_WEBSOCKET_PROTOCOL, protocol);
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(WRITE_BYTES)
        .max_write_buffer_size(WRITE_BYTES + 2 * lane::MESSAGE_BYTES_MAX)
        .max_message_size(Some(lane::MESSAGE_BYTES_MAX))
        .max_frame_size(Some(lane::MESSAGE_BYTES_MAX));
    match tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await {
        Ok((stream, _)) => Ok(stream),
        Err(error) => Err(alert(&error).unwrap_or_else(|| retry(&error))),
    }
}

/// What the gateway says of our certificate comes only behind its own part of the handshake.
fn alert(error: &Error) -> Option<DialError> {
    let Error::Io(io) = error else { return None };
    let said = io.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(said, rustls::Error::AlertReceived(_)).then(|| tls_error(io)).flatten()
}

fn tls_error(io: &std::io::Error) -> Option<DialError> {
    let error = io.get_ref()?.downcast_ref::<rustls::Error>()?;
    let refused = ConnectError::Handshake(io.to_string());
    Some(match error {
        rustls::Error::AlertReceived(AlertDescription::CertificateExpired) => DialError::Ended(refused),
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            DialError::Ended(refused)
        }
        _ => DialError::Fatal(refused),
    })
}

impl Socket {
    /// Says Hello and waits for Welcome.
    pub(crate) async fn greet(mut stream: Stream, hello: v1::Hello) -> Result<(Self, v1::Welcome), DialError> {
        let lost = |error: Error| DialError::Retry(error.to_string());
        let mut out = BytesMut::new();
        wire::encode_frame(&crate::wire::frame(0, Asked::Hello(hello)), &mut out);
        stream.send(Message::Binary(out.split().freeze())).await.map_err(lost)?;
        loop {
            let Some(message) = stream.next().await else { return Err(DialError::Retry("closed".to_owned())) };
            match message.map_err(lost)? {
                Message::Binary(bytes) => {
                    let mut decoder = FrameDecoder::default();
                    decoder.push(&bytes);
                    let next = |decoder: &mut FrameDecoder| {
                        let frame = decoder.next_frame::<v1::ServerFrame>();
                        frame.map_err(|error| DialError::Retry(error.to_string()))
                    };
                    while let Some(frame) = next(&mut decoder)? {
                        if let Some(Said::Welcome(welcome)) = frame.body {
                            // More may have come with it.
                            let behind = bytes.slice(bytes.len() - decoder.buffered()..);
                            return Ok((Self::new(stream, behind), welcome));
                        }
                    }
                }
                Message::Close(close) => return Err(close_error(close)),
                _ => {}
            }
        }
    }

    fn new(stream: Stream, behind: Bytes) -> Self {
        Self {
            stream,
            behind,
            out: BytesMut::new(),
            unflushed: false,
            lane_last: SENDS,
            calls: BTreeMap::new(),
            subscription_id: 0,
            dropped: 0,
            end: None,
            heard_at: Instant::now(),
            said_at: Instant::now(),
            look: Box::pin(tokio::time::sleep(KEEP_ALIVE)),
        }
    }

    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<DialError> {
        if let Some(end) = self.end.take() {
            return Poll::Ready(end);
        }
        while self.look.as_mut().poll(cx).is_ready() {
            let silent = self.heard_at.elapsed();
            if silent >= SILENCE {
                return Poll::Ready(DialError::Retry("the gateway is silent".to_owned()));
            }
            if is_ping_due(silent, self.said_at.elapsed()) {
                self.said_at = Instant::now();
                let ping = Asked::Ping(v1::Ping { nonce: 0 });
                wire::encode_frame(&crate::wire::frame(0, ping), &mut self.out);
                self.pump(cx);
            }
            self.look.as_mut().reset((Instant::now() + KEEP_ALIVE / 2).into());
        }
        Poll::Pending
    }

    pub(crate) fn put(&mut self, way: Way, frame: &v1::ClientFrame) -> bool {
        let place = match way {
            Way::Control => Place::default(),
            Way::Lane if self.out.len() >= LANE_BYTES_MAX => return false,
            Way::Lane => Place { lane: SENDS, ..Place::default() },
            Way::Call if self.calls.len() >= CALLS_MAX => return false,
            Way::Call => {
                self.lane_last += 1;
                self.calls.insert(self.lane_last, frame.request_id);
                Place { lane: self.lane_last, end: true, inbox: 0 }
            }
        };
        self.said_at = Instant::now();
        let mut bytes = BytesMut::new();
        wire::encode_frame(frame, &mut bytes);
        place.put(&bytes, &mut self.out);
        true
    }

    pub(crate) fn subscription_id(&self) -> Option<u64> {
        Some(self.subscription_id).filter(|id| *id > self.dropped)
    }

    pub(crate) fn drop_inboxes(&mut self) {
        self.dropped = self.subscription_id;
    }

    pub(crate) fn poll_in(&mut self, cx: &mut Context<'_>, incoming: &mut Vec<Incoming>) -> Result<(), Broken> {
        if !self.behind.is_empty() {
            let behind = std::mem::take(&mut self.behind);
            self.read(behind, incoming)?;
        }
        while self.end.is_none() && incoming.len() < INCOMING_MAX {
            let Poll::Ready(message) = self.stream.poll_next_unpin(cx) else { return Ok(()) };
            self.heard_at = Instant::now();
            match message {
                Some(Ok(Message::Binary(bytes))) => self.read(bytes, incoming)?,
                Some(Ok(Message::Close(close))) => self.end = Some(close_error(close)),
                Some(Ok(_)) => {}
                Some(Err(error)) => self.end = Some(DialError::Retry(error.to_string())),
                None => self.end = Some(DialError::Retry("closed".to_owned())),
            }
        }
        // What is left is read at the next turn.
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn read(&mut self, bytes: Bytes, incoming: &mut Vec<Incoming>) -> Result<(), Broken> {
        let mut decoder = FrameDecoder::default();
        decoder.push(&bytes);
        loop {
            match decoder.next_frame::<v1::ServerFrame>() {
                Ok(Some(frame)) => self.take(frame, incoming)?,
                Ok(None) => return decoder.finish().map_err(|_| Broken("a message ends inside a frame")),
                Err(_) => return Err(Broken("a malformed frame")),
            }
        }
    }

    fn take(&mut self, frame: v1::ServerFrame, incoming: &mut Vec<Incoming>) -> Result<(), Broken> {
        let v1::ServerFrame { request_id, lane, end, inbox, body, .. } = frame;
        if inbox > 0 {
            match body {
                Some(Said::StreamHeader(header)) => self.subscription_id = header.subscription_id,
                Some(body) if inbox > self.dropped => incoming.push(Incoming::Inbox { body }),
                Some(_) | None => {}
            }
            if end && inbox > self.dropped {
                incoming.push(Incoming::InboxEnd { subscription_id: inbox });
            }
            return Ok(());
        }
        let answered = body.is_some();
        if let Some(body) = body {
            incoming.push(Incoming::Said { request_id, body });
        }
        if let Some(request_id) = self.calls.get(&lane).copied().filter(|_| answered || end) {
            self.calls.remove(&lane);
            if !answered {
                incoming.push(Incoming::CallBroken { request_id });
            }
        } else if end && lane == 0 {
            return Err(Broken("the control stream ended"));
        } else if end && lane == SENDS {
            return Err(Broken("the lane ended"));
        }
        Ok(())
    }

    pub(crate) fn poll_out(&mut self, cx: &mut Context<'_>) {
        self.pump(cx);
    }

    fn pump(&mut self, cx: &mut Context<'_>) {
        if let Err(error) = self.try_pump(cx) {
            self.end.get_or_insert_with(|| DialError::Retry(error.to_string()));
            cx.waker().wake_by_ref();
        }
    }

    fn try_pump(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        while !self.out.is_empty() {
            match self.stream.poll_ready_unpin(cx) {
                Poll::Ready(ready) => ready?,
                Poll::Pending => return Ok(()),
            }
            let message = self.out.split_to(whole_frames(&self.out, MESSAGE_BYTES)).freeze();
            self.stream.start_send_unpin(Message::Binary(message))?;
            self.unflushed = true;
        }
        if self.unflushed && self.stream.poll_flush_unpin(cx)?.is_ready() {
            self.unflushed = false;
        }
        Ok(())
    }
}

/// After so long without a word from the gateway, and of our own?
fn is_ping_due(heard: Duration, said: Duration) -> bool {
    heard >= KEEP_ALIVE || said >= SAY
}

fn close_error(close: Option<tokio_tungstenite::tungstenite::protocol::CloseFrame>) -> DialError {
    let Some(close) = close else { return DialError::Retry("closed".to_owned()) };
    match lane::close_code_from_websocket(close.code.into()) {
        Some(code) => closed_error(u64::from(code), close.reason.as_bytes()),
        None => DialError::Retry(format!("closed with code {}: {}", close.code, close.reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_listens_says_ping_long_before_the_gateway_gives_him_up() {
        let s = Duration::from_secs;
        assert!(!is_ping_due(s(0), s(9)) && !is_ping_due(s(3), s(3)));
        assert!(is_ping_due(s(0), s(10)), "steady pushes, and nothing of our own");
        assert!(is_ping_due(s(4), s(0)), "is anybody there?");
        // Looked at every half of KEEP_ALIVE.
        let idle = Duration::from_millis(seriatim_proto::limits::IDLE_TIMEOUT_MS);
        assert!(SAY + KEEP_ALIVE < idle * 2 / 3);
    }
}
