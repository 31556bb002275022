//! Raw: one connection whose bytes its user writes himself, for programs that judge a gateway (`raftctl conformance`).
//!
//! It knows the three ways in and the streams on them, and nothing of the protocol: no Hello, no order, no retries.
//! What it is told to write it writes, also what is no frame. What comes is cut into frames and handed over with the
//! stream that it came on; what is no frame is an [`RawEvent::Broken`].
//!
//! ```text
//!  Raw::write ──▶ stream or socket ──▶ gateway ──▶ one task per stream (one per socket) ──bounded──▶ Raw::next
//! ```
//!
//! Who does not call [`Raw::next`] stops the gateway, as a slow device does.
//!
//! # Reading order
//! [`Raw::connect`] → [`Raw::open`] → [`Raw::write`] → [`Raw::next`]; then `web`, `socket`.

mod socket;
mod web;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use seriatim_proto::wire::lane::Place;
use seriatim_proto::wire::{FrameDecoder, v1};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::Message;

use crate::endpoint::{Endpoint, SetupError};
use crate::entry::SyncPage;
use crate::error::EntryError;
use crate::quic::is_crypto;

/// What came and was not taken yet; above it the gateway has to wait.
const EVENTS_MAX: usize = 4_096;
/// Messages that wait for a WebSocket; above it [`Raw::write`] waits.
const MESSAGES_MAX: usize = 64;
const READ_BYTES: usize = 16 << 10;

/// A way into a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawTransport {
    /// native QUIC
    Quic,
    /// WebTransport over HTTP/3
    WebTransport,
    /// WebSocket over TLS
    WebSocket,
}

/// A stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawStream {
    /// one of the device's own, by the number that [`Raw::open`] gave it; 0 is the control stream
    Lane(u64),
    /// one of the gateway's, counted from 1 in the order in which they came
    Inbox(u64),
}

/// What came.
#[derive(Clone, Debug, PartialEq)]
pub enum RawEvent {
    /// a frame
    Frame(RawStream, v1::ServerFrame),
    /// the gateway has finished the stream
    End(RawStream),
    /// bytes that are no frame, or streams that are none; in words
    Broken(String),
    /// the connection is over: the close code of docs/protocol.md, if one was said
    Closed(Option<u32>),
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// Nobody answers, or not in time.
    #[error("no answer: {0}")]
    Unreachable(String),
    /// TLS ends it: another certificate, another name, another ALPN.
    #[error("TLS: {0}")]
    Handshake(String),
    /// The gateway refuses this way in.
    #[error("refused: {0}")]
    Refused(String),
}

/// Where a gateway is, and whom to trust.
#[derive(Clone, Debug)]
pub struct RawTarget {
    address: SocketAddr,
    server_name: String,
    ca_pem: Vec<u8>,
    endpoint: Endpoint,
}

impl RawTarget {
    /// The gateway at `address`, whose certificate the CA has signed for `server_name`.
    /// Must be called within a tokio runtime.
    pub fn new(address: SocketAddr, server_name: &str, ca_pem: &[u8]) -> Result<Self, SetupError> {
        let endpoint = Endpoint::new(address, ca_pem)?;
        Ok(Self { address, server_name: server_name.to_owned(), ca_pem: ca_pem.to_vec(), endpoint })
    }

    /// The same for a load generator. WebTransport and WebSocket are as without.
    pub fn tuned(address: SocketAddr, server_name: &str, ca_pem: &[u8], tuning: Tuning) -> Result<Self, SetupError> {
        let endpoint = Endpoint::tuned(address, ca_pem, tuning)?;
        Ok(Self { address, server_name: server_name.to_owned(), ca_pem: ca_pem.to_vec(), endpoint })
    }
}

/// How the connections of a load generator over QUIC differ from a device's.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// address of this machine that they come from; `None`: as the system chooses
    pub local: Option<IpAddr>,
    /// how often a connection says that it lives
    pub keep_alive: Duration,
    /// how long it waits for a sign of the gateway; the gateway's own limit may be shorter
    pub idle: Duration,
    /// TLS is resumed where a ticket allows it
    pub resumes: bool,
}

/// What carries the bytes.
enum Way {
    Streams { connection: Connection, lanes: BTreeMap<u64, SendStream>, web: Option<web::Session> },
    Socket { out: mpsc::Sender<Message> },
}

/// A connection without a word of the protocol.
pub struct Raw {
    way: Way,
    lane_next: u64,
    sink: mpsc::Sender<RawEvent>,
    events: mpsc::Receiver<RawEvent>,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Raw({} streams)", self.lane_next)
    }
}

impl Raw {
    /// Connects within `timeout`, and says nothing.
    pub async fn connect(target: &RawTarget, transport: RawTransport, timeout: Duration) -> Result<Self, RawError> {
        let late = |_| RawError::Unreachable(format!("not within {} ms", timeout.as_millis()));
        tokio::time::timeout(timeout, Box::pin(Self::dial(target, transport))).await.map_err(late)?
    }

    async fn dial(target: &RawTarget, transport: RawTransport) -> Result<Self, RawError> {
        let (sink, events) = mpsc::channel(EVENTS_MAX);
        let way = match transport {
            RawTransport::Quic => {
                let connecting = target.endpoint.connect(target.address, &target.server_name);
                let connection = connecting.map_err(|error| RawError::Handshake(error.to_string()))?;
                let connection = connection.await.map_err(|error| connect_error(&error))?;
                tokio::spawn(watch(connection.clone(), sink.clone()));
                tokio::spawn(accept(connection.clone(), sink.clone()));
                Way::Streams { connection, lanes: BTreeMap::new(), web: None }
            }
            RawTransport::WebTransport => {
                let (connection, session) = web::connect(target, &sink).await?;
                Way::Streams { connection, lanes: BTreeMap::new(), web: Some(session) }
            }
            RawTransport::WebSocket => {
                let (out, messages) = mpsc::channel(MESSAGES_MAX);
                let stream = socket::connect(target).await?;
                tokio::spawn(socket::run(stream, messages, sink.clone()));
                Way::Socket { out }
            }
        };
        Ok(Self { way, lane_next: 0, sink, events })
    }

    /// Opens a stream, which the gateway sees with its first bytes; the first one is the control stream. Waits as long
    /// as the gateway allows none.
    pub async fn open(&mut self) -> u64 {
        let lane = self.lane_next;
        self.lane_next += 1;
        if let Way::Streams { connection, lanes, web } = &mut self.way
            && let Ok((mut send, recv)) = connection.open_bi().await
        {
            if let Some(session) = web {
                // A connection that is over shows itself by its code.
                let _ = send.write_all(&session.stream_header()).await;
            }
            lanes.insert(lane, send);
            tokio::spawn(read(recv, FrameDecoder::default(), RawStream::Lane(lane), self.sink.clone()));
        }
        lane
    }

    /// Writes whole frames onto a stream, and perhaps its end. Waits as long as the gateway does not read.
    pub async fn write(&mut self, lane: u64, frames: &[u8], end: bool) {
        match &mut self.way {
            Way::Streams { lanes, .. } => {
                if let Some(stream) = lanes.get_mut(&lane) {
                    // A connection or a stream that is over shows itself by its code.
                    let _ = stream.write_all(frames).await;
                    if end {
                        let _ = stream.finish();
                    }
                }
            }
            Way::Socket { out } => {
                let mut bytes = BytesMut::new();
                Place { lane, end, inbox: 0 }.put(frames, &mut bytes);
                let _ = out.send(Message::Binary(bytes.freeze())).await;
            }
        }
    }

    /// Writes any bytes onto a stream; on a WebSocket, which has no streams, as a message of its own, as they are.
    pub async fn write_bytes(&mut self, lane: u64, bytes: &[u8]) {
        match &mut self.way {
            Way::Streams { .. } => self.write(lane, bytes, false).await,
            Way::Socket { out } => {
                let _ = out.send(Message::Binary(bytes.to_vec().into())).await;
            }
        }
    }

    /// What comes next; `None` after the connection's end.
    pub async fn next(&mut self) -> Option<RawEvent> {
        // `sink` keeps the channel open: the end is the event.
        self.events.recv().await
    }

    /// What came and was not taken yet.
    pub fn try_next(&mut self) -> Option<RawEvent> {
        self.events.try_recv().ok()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Way::Streams { connection, .. } = &self.way {
            connection.close(0u32.into(), b"");
        }
    }
}

/// A page as the gateway sent it, in checked types, for [`crate::verify_page`].
pub fn read_sync_page(page: v1::SyncPage) -> Result<SyncPage, EntryError> {
    SyncPage::from_wire(page)
}

/// How a connection that never was ended.
fn connect_error(error: &ConnectionError) -> RawError {
    match error {
        ConnectionError::TransportError(transport) if is_crypto(u64::from(transport.code)) => {
            RawError::Handshake(error.to_string())
        }
        ConnectionError::ConnectionClosed(close) if is_crypto(u64::from(close.error_code)) => {
            RawError::Handshake(error.to_string())
        }
        ConnectionError::VersionMismatch => RawError::Handshake(error.to_string()),
        other => RawError::Unreachable(other.to_string()),
    }
}

async fn watch(connection: Connection, sink: mpsc::Sender<RawEvent>) {
    let code = match connection.closed().await {
        ConnectionError::ApplicationClosed(close) => u32::try_from(close.error_code.into_inner()).ok(),
        _ => None,
    };
    let _ = sink.send(RawEvent::Closed(code)).await;
}

async fn accept(connection: Connection, sink: mpsc::Sender<RawEvent>) {
    let mut count = 0;
    while let Ok(recv) = connection.accept_uni().await {
        count += 1;
        tokio::spawn(read(recv, FrameDecoder::default(), RawStream::Inbox(count), sink.clone()));
    }
}

/// Cuts a stream into frames.
async fn read(mut recv: RecvStream, mut decoder: FrameDecoder, stream: RawStream, sink: mpsc::Sender<RawEvent>) {
    let mut buffer = [0; READ_BYTES];
    loop {
        loop {
            let event = match decoder.next_frame::<v1::ServerFrame>() {
                Ok(None) => break,
                Ok(Some(frame)) if (frame.lane, frame.end, frame.inbox) == (0, false, 0) => {
                    RawEvent::Frame(stream, frame)
                }
                Ok(Some(_)) => RawEvent::Broken(format!("{stream:?}: a place, which only a WebSocket's frames have")),
                Err(error) => RawEvent::Broken(format!("{stream:?}: {error}")),
            };
            let is_broken = matches!(event, RawEvent::Broken(_));
            if sink.send(event).await.is_err() || is_broken {
                return;
            }
        }
        let event = match recv.read(&mut buffer).await {
            Ok(Some(count)) => {
                decoder.push(&buffer[..count]);
                continue;
            }
            Ok(None) => match decoder.finish() {
                Ok(()) => RawEvent::End(stream),
                Err(error) => RawEvent::Broken(format!("{stream:?}: {error}")),
            },
            Err(quinn::ReadError::Reset(code)) => RawEvent::Broken(format!("{stream:?}: reset with {code}")),
            // The connection is over, and says why.
            Err(_) => return,
        };
        let _ = sink.send(event).await;
        return;
    }
}
