//! Wire: one connection, whatever carries it. No retries, no order, no state of requests.

use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};

use crate::builder::{Options, Transport};
use crate::error::ConnectError;
use crate::quic::{self, Quic};
use crate::requests::Way;
use crate::socket::{self, Socket};

/// Why a dial failed.
#[derive(Debug)]
pub(crate) enum DialError {
    /// Perhaps it works later.
    Retry(String),
    /// The token's time is over.
    Expired(Refusal),
    /// That of a certificate is: the device's own, or the gateway's.
    Ended(ConnectError),
    /// It will not work.
    Fatal(ConnectError),
}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// On a control, lane or call stream.
    Said { request_id: u64, body: Said },
    /// A call's stream ended without an answer.
    CallBroken { request_id: u64 },
    /// On an inbox stream.
    Inbox { body: Said },
    /// An inbox stream ended.
    InboxEnd { subscription_id: u64 },
}

/// The gateway broke the protocol, or the control stream.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) &'static str);

/// Calls with a stream at the same time.
pub(crate) const CALLS_MAX: usize = 8;
/// Bytes that wait on the lane before more is encoded.
pub(crate) const LANE_BYTES_MAX: usize = 256 << 10;
/// Time of whoever makes tokens.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(10);
const DIAL_TIMEOUT: Duration = Duration::from_secs(3);
/// Time that QUIC has before a WebSocket is tried beside it.
const HEAD_START: Duration = Duration::from_millis(400);

/// One connection whose gateway has said Welcome.
pub(crate) enum Wire {
    Quic(Box<Quic>),
    Socket(Box<Socket>),
}

/// A connection without a word of the protocol.
enum Bare {
    Quic(quinn::Connection),
    Socket(Box<socket::Stream>),
}

/// Connects and says Hello.
pub(crate) async fn dial(options: &Options, attempt: usize) -> Result<(Wire, v1::Welcome), DialError> {
    options.endpoint.refresh().await;
    let address = options.addresses[attempt % options.addresses.len()];
    let late = |_| DialError::Retry(format!("{address} does not answer"));
    // Before the connection: a gateway does not wait long for Hello.
    let token = tokio::time::timeout(TOKEN_TIMEOUT, (options.token)()).await;
    let token = token.unwrap_or_else(|_| Err("it gives nothing".to_owned()));
    let token = token.map_err(|error| DialError::Retry(format!("the token source: {error}")))?;
    // Boxed: the futures of three handshakes are large.
    let bare = tokio::time::timeout(DIAL_TIMEOUT, Box::pin(connect(options, address))).await.map_err(late)??;
    let hello = v1::Hello {
        min_minor: wire::MINOR_MIN,
        max_minor: wire::MINOR_MAX,
        features: Vec::new(),
        client: Some(v1::ClientInfo {
            name: "seriatim-rust".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: std::env::consts::OS.to_owned(),
        }),
        token,
        device: options.device.clone(),
    };
    let greeting = async {
        match bare {
            Bare::Quic(connection) => {
                let (quic, welcome) = Quic::greet(connection, hello).await?;
                Ok((Wire::Quic(Box::new(quic)), welcome))
            }
            Bare::Socket(stream) => {
                let (socket, welcome) = Socket::greet(*stream, hello).await?;
                Ok((Wire::Socket(Box::new(socket)), welcome))
            }
        }
    };
    tokio::time::timeout(DIAL_TIMEOUT * 3, Box::pin(greeting)).await.map_err(late)?
}

async fn connect(options: &Options, address: SocketAddr) -> Result<Bare, DialError> {
    let quic = Box::pin(async { quic::connect(options, address).await.map(Bare::Quic) });
    let socket =
        Box::pin(async { socket::connect(options, address).await.map(|stream| Bare::Socket(Box::new(stream))) });
    match options.transport {
        Transport::Quic => quic.await,
        Transport::WebSocket => socket.await,
        Transport::Fastest => Box::pin(race(quic, socket)).await,
    }
}

/// The first one with its head start, the second one as soon as the first one fails or takes longer.
async fn race<T>(
    first: impl Future<Output = Result<T, DialError>>,
    second: impl Future<Output = Result<T, DialError>>,
) -> Result<T, DialError> {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    match tokio::time::timeout(HEAD_START, &mut first).await {
        Ok(Ok(won)) => return Ok(won),
        Ok(Err(error)) => return other(error, second).await,
        Err(_) => {}
    }
    tokio::select! {
        won = &mut first => match won {
            Ok(won) => Ok(won),
            Err(error) => other(error, second).await,
        },
        won = &mut second => match won {
            Ok(won) => Ok(won),
            Err(error) => other(error, first).await,
        },
    }
}

/// One way has failed; the other one counts. What stands on one way only, a box that shows a certificate of its own,
/// must not end a client that gets through on the other; if both fail, what is final is told.
async fn other<T>(failed: DialError, other: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
    match other.await {
        Err(DialError::Retry(_)) if !matches!(failed, DialError::Retry(_)) => Err(failed),
        settled => settled,
    }
}

/// What a close code says about the next connection.
pub(crate) fn closed_error(code: u64, reason: &[u8]) -> DialError {
    let text = String::from_utf8_lossy(reason).into_owned();
    let is = |error: ErrorCode| u64::from(error.close_code()) == code;
    let refused = |error| DialError::Fatal(ConnectError::Refused(Refusal::new(error, text.clone())));
    if is(ErrorCode::AuthExpired) {
        return DialError::Expired(Refusal::new(ErrorCode::AuthExpired, text));
    }
    let fatal = [
        ErrorCode::AuthFailed,
        ErrorCode::Kicked,
        ErrorCode::Unsupported,
        ErrorCode::FrameTooLarge,
        ErrorCode::Malformed,
    ];
    match fatal.into_iter().find(|error| is(*error)) {
        Some(error) => refused(error),
        None => DialError::Retry(format!("closed with code {code}: {text}")),
    }
}

pub(crate) fn frame(request_id: u64, body: Asked) -> v1::ClientFrame {
    v1::ClientFrame { request_id, body: Some(body), ..Default::default() }
}

impl Wire {
    /// Why it is over.
    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<DialError> {
        match self {
            Self::Quic(quic) => quic.poll_closed(cx),
            Self::Socket(socket) => socket.poll_closed(cx),
        }
    }

    /// Encodes a frame for the right stream; `false` if there is no room now.
    pub(crate) fn put(&mut self, cx: &mut Context<'_>, way: Way, frame: &v1::ClientFrame) -> bool {
        match self {
            Self::Quic(quic) => quic.put(cx, way, frame),
            Self::Socket(socket) => socket.put(way, frame),
        }
    }

    /// The subscription that is pushed now.
    pub(crate) fn subscription_id(&self) -> Option<u64> {
        match self {
            Self::Quic(quic) => quic.subscription_id(),
            Self::Socket(socket) => socket.subscription_id(),
        }
    }

    /// Takes no more of any inbox stream.
    pub(crate) fn drop_inboxes(&mut self) {
        match self {
            Self::Quic(quic) => quic.drop_inboxes(),
            Self::Socket(socket) => socket.drop_inboxes(),
        }
    }

    /// Reads whatever is there.
    pub(crate) fn poll_in(&mut self, cx: &mut Context<'_>, incoming: &mut Vec<Incoming>) -> Result<(), Broken> {
        match self {
            Self::Quic(quic) => quic.poll_in(cx, incoming),
            Self::Socket(socket) => socket.poll_in(cx, incoming),
        }
    }

    /// Writes whatever may be written.
    pub(crate) fn poll_out(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Quic(quic) => quic.poll_out(cx),
            Self::Socket(socket) => socket.poll_out(cx),
        }
    }
}
