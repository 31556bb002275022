//! WebTransport: what lies between QUIC and a browser's streams: as much of HTTP/3 as one session needs.
//!
//! ```text
//! gateway ─ SETTINGS ─▶           one unidirectional stream each, open to the end
//!         ◀─ SETTINGS ─ device
//!         ◀─ CONNECT /seriatim-1  bidirectional stream 0; its end is the session's end
//!         ─ 200 ─▶
//!         ◀─▶ streams             each begins with its kind and the session's id, then as in native QUIC
//! ```
//!
//! One connection is one session. QPACK, which packs headers, runs without a dynamic table, so what comes on its streams is
//! read and forgotten; their end is the connection's, as HTTP/3 wants it.

use std::io;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::StatusCode;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream};
use seriatim_proto::wire;
use tokio::io::AsyncReadExt;
use web_transport_proto::{
    Capsule, ConnectError, ConnectRequest, ConnectResponse, Frame, Http3CapsuleReader, Setting, Settings,
    SettingsError, StreamUni, VarInt, error_to_http3,
};

use crate::transport::rules::{Offered, Rules};

/// HTTP/3 in ALPN.
pub(crate) const ALPN: &[u8] = b"h3";
/// Unidirectional streams that a browser may have open: its control stream, two of QPACK's, and some that mean nothing.
pub(crate) const UNI_STREAMS_MAX: u32 = 8;
/// Bytes on those streams that a session needs no more of.
const CONTROL_BYTES_MAX: usize = 256 << 10;
/// The setting of the drafts since 13, for browsers that know no older one.
const WT_MAX_SESSIONS: u32 = 0x14e9_cd29;

const H3_NO_ERROR: u32 = 0x100;
const H3_GENERAL_PROTOCOL_ERROR: u32 = 0x101;
const H3_STREAM_CREATION_ERROR: u32 = 0x103;
const H3_CLOSED_CRITICAL_STREAM: u32 = 0x104;
const H3_EXCESSIVE_LOAD: u32 = 0x107;
const H3_MISSING_SETTINGS: u32 = 0x10a;
/// The code for a stream that is no part of the session.
pub(crate) const H3_REQUEST_REJECTED: u32 = 0x10b;

/// Why a connection did not become a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RefusedError {
    #[error("the connection ended")]
    Gone(#[from] ConnectionError),
    #[error("the browser's settings")]
    Settings(#[from] SettingsError),
    #[error("the request")]
    Connect(#[from] ConnectError),
    #[error("a stream of the handshake")]
    Stream(#[from] io::Error),
    #[error("the request is refused with {0}")]
    Status(StatusCode),
}

impl RefusedError {
    /// Was it a well-formed request that is not for us?
    pub(crate) fn is_request(&self) -> bool {
        matches!(self, Self::Status(_))
    }

    fn h3_code(&self) -> u32 {
        match self {
            Self::Status(_) | Self::Gone(_) => H3_NO_ERROR,
            Self::Settings(_) => H3_MISSING_SETTINGS,
            Self::Connect(_) | Self::Stream(_) => H3_GENERAL_PROTOCOL_ERROR,
        }
    }
}

/// A session on a connection.
pub(crate) struct WebSession {
    id: VarInt,
    connect: Option<SendStream>,
    ended: BoxFuture<'static, ()>,
    accepting: BoxFuture<'static, Result<RecvStream, ConnectionError>>,
    controls: Vec<ControlStream>,
    control_bytes: usize,
    closing: Option<BoxFuture<'static, ()>>,
    /// Ours must stay open as long as the connection.
    _settings: SendStream,
}

/// A stream of the browser that is no part of the session.
struct ControlStream {
    recv: RecvStream,
    /// Its first bytes, until its kind is known.
    kind: Option<Preamble>,
}

/// What a session's connection came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum WebEnd {
    /// The browser has closed the session.
    Closed,
    /// It broke HTTP/3: the connection ends with this code.
    Broken(u32),
}

impl WebSession {
    /// Takes the browser's request and answers it.
    pub(crate) async fn accept(connection: &Connection, rules: &Rules) -> Result<Self, RefusedError> {
        let accepted = Self::shake_hands(connection, rules).await;
        if let Err(error) = &accepted {
            connection.close(error.h3_code().into(), b"");
        }
        accepted
    }

    async fn shake_hands(connection: &Connection, rules: &Rules) -> Result<Self, RefusedError> {
        let mut settings = Settings::default();
        settings.enable_webtransport(1);
        settings.insert(Setting(VarInt::from_u32(WT_MAX_SESSIONS)), VarInt::from_u32(1));
        let mut ours = connection.open_uni().await?;
        settings.write(&mut ours).await?;
        let (controls, connect) = futures_util::future::try_join(
            Box::pin(read_settings(connection)),
            Box::pin(read_request(connection, rules)),
        )
        .await?;
        let (send, recv) = connect;
        let id = VarInt::try_from(quinn::VarInt::from(send.id()).into_inner()).expect("a stream id is a varint");
        Ok(Self {
            id,
            connect: Some(send),
            ended: Box::pin(read_capsules(recv)),
            accepting: accept_uni(connection),
            controls,
            control_bytes: 0,
            closing: None,
            _settings: ours,
        })
    }

    /// The numbers that a bidirectional stream of the session begins with.
    pub(crate) fn stream_header(&self) -> [u64; 2] {
        [Frame::WEBTRANSPORT.0.into_inner(), self.id.into_inner()]
    }

    /// What a unidirectional stream of ours begins with.
    pub(crate) fn uni_header(&self) -> Bytes {
        let mut header = BytesMut::new();
        StreamUni::WEBTRANSPORT.encode(&mut header);
        self.id.encode(&mut header);
        header.freeze()
    }

    /// Reads what is no part of the session, and says when that is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, connection: &Connection) -> Poll<WebEnd> {
        if self.ended.poll_unpin(cx).is_ready() {
            return Poll::Ready(WebEnd::Closed);
        }
        while let Poll::Ready(Ok(recv)) = self.accepting.poll_unpin(cx) {
            self.accepting = accept_uni(connection);
            self.controls.push(ControlStream { recv, kind: Some(Preamble::default()) });
        }
        let mut end = None;
        let bytes = &mut self.control_bytes;
        self.controls.retain_mut(|control| match control.poll(cx, bytes) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(code)) => {
                end = Some(code);
                false
            }
        });
        if self.control_bytes > CONTROL_BYTES_MAX {
            end = Some(H3_EXCESSIVE_LOAD);
        }
        end.map_or(Poll::Pending, |code| Poll::Ready(WebEnd::Broken(code)))
    }

    /// Says the close code on the session's own stream.
    pub(crate) fn close(&mut self, connection: &Connection, code: u32, reason: &str) {
        let Some(mut send) = self.connect.take() else { return };
        let mut capsule = BytesMut::new();
        Capsule::CloseWebTransportSession { code, reason: reason.to_owned() }.encode(&mut capsule);
        let mut data = BytesMut::new();
        Frame::DATA.encode(&mut data);
        VarInt::try_from(capsule.len()).expect("a reason is short").encode(&mut data);
        data.put(capsule);
        let connection = connection.clone();
        self.closing = Some(Box::pin(async move {
            if send.write_all(&data).await.is_ok() && send.finish().is_ok() {
                // The browser ends the connection when it has read this.
                connection.closed().await;
            }
        }));
    }

    /// Ready when the browser has heard the close code.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.closing.as_mut().map_or(Poll::Ready(()), |closing| closing.poll_unpin(cx))
    }
}

/// A close code of docs/protocol.md on the connection of a session.
pub(crate) fn connection_code(code: u32) -> quinn::VarInt {
    quinn::VarInt::from_u64(error_to_http3(code)).expect("HTTP/3's codes fit QUIC's")
}

impl ControlStream {
    /// `Err`: the connection ends with this code. `Ok`: it is of no interest any more.
    fn poll(&mut self, cx: &mut Context<'_>, bytes: &mut usize) -> Poll<Result<(), u32>> {
        if let Some(kind) = &mut self.kind {
            match std::task::ready!(kind.poll(cx, &mut self.recv, 1)) {
                Ok(kind) if is_critical(kind[0]) => self.kind = None,
                // A stream of the session, which has none of this kind, or one that means nothing.
                Ok(_) => {
                    let _ = self.recv.stop(H3_STREAM_CREATION_ERROR.into());
                    return Poll::Ready(Ok(()));
                }
                Err(_) => return Poll::Ready(Ok(())),
            }
        }
        let mut buffer = [0; 512];
        loop {
            match std::task::ready!(self.recv.poll_read(cx, &mut buffer)) {
                Ok(0) | Err(ReadError::Reset(_)) => return Poll::Ready(Err(H3_CLOSED_CRITICAL_STREAM)),
                Ok(count) => *bytes += count,
                Err(_) => return Poll::Ready(Ok(())),
            }
            if *bytes > CONTROL_BYTES_MAX {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

fn is_critical(kind: u64) -> bool {
    [StreamUni::CONTROL, StreamUni::QPACK_ENCODER, StreamUni::QPACK_DECODER]
        .iter()
        .any(|critical| critical.0.into_inner() == kind)
}

/// The numbers that a stream begins with, as they come in.
#[derive(Default)]
pub(crate) struct Preamble {
    bytes: [u8; 16],
    len: usize,
}

/// A stream that ended or broke before its numbers were there.
#[derive(Debug)]
pub(crate) struct Cut;

impl Preamble {
    /// Reads `count` (one or two) numbers and not a byte more.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        recv: &mut RecvStream,
        count: usize,
    ) -> Poll<Result<[u64; 2], Cut>> {
        loop {
            let (mut numbers, mut at) = ([0; 2], 0);
            let mut whole = true;
            for number in numbers.iter_mut().take(count) {
                // The first two bits say how long a number is.
                let length = if at < self.len { 1 << (self.bytes[at] >> 6) } else { 1 };
                if at + length > self.len {
                    at += length;
                    whole = false;
                    break;
                }
                let mut bytes = &self.bytes[at..at + length];
                *number = VarInt::decode(&mut bytes).map_err(|_| Cut)?.into_inner();
                at += length;
            }
            if whole {
                return Poll::Ready(Ok(numbers));
            }
            match std::task::ready!(recv.poll_read(cx, &mut self.bytes[self.len..at])) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Cut)),
                Ok(count) => self.len += count,
            }
        }
    }
}

/// The browser's control stream, and what came before it.
async fn read_settings(connection: &Connection) -> Result<Vec<ControlStream>, RefusedError> {
    let mut controls = Vec::new();
    loop {
        let mut recv = connection.accept_uni().await?;
        let mut kind = Preamble::default();
        let read = std::future::poll_fn(|cx| kind.poll(cx, &mut recv, 1)).await;
        let critical = read.is_ok_and(|kind| is_critical(kind[0]));
        if !critical {
            let _ = recv.stop(H3_STREAM_CREATION_ERROR.into());
            continue;
        }
        let is_control = read_kind(&kind) == StreamUni::CONTROL.0.into_inner();
        if is_control {
            let mut whole = (&kind.bytes[..kind.len]).chain(&mut recv);
            Settings::read(&mut whole).await?;
        }
        controls.push(ControlStream { recv, kind: None });
        if is_control {
            return Ok(controls);
        }
    }
}

fn read_kind(kind: &Preamble) -> u64 {
    VarInt::decode(&mut &kind.bytes[..kind.len]).map_or(u64::MAX, VarInt::into_inner)
}

/// The browser's request, answered.
async fn read_request(connection: &Connection, rules: &Rules) -> Result<(SendStream, RecvStream), RefusedError> {
    let (mut send, mut recv) = connection.accept_bi().await?;
    let request = match ConnectRequest::read(&mut recv).await {
        Ok(request) => request,
        Err(ConnectError::WrongMethod(_) | ConnectError::WrongProtocol(_)) => {
            return Err(refuse(connection, send, StatusCode::METHOD_NOT_ALLOWED).await);
        }
        Err(error) => return Err(error.into()),
    };
    let origin = request.headers.get(http::header::ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let protocols = request.protocols.iter().map(String::as_str);
    let offered = rules.check(request.url.path(), origin, Some(request.url.authority()), protocols);
    let response = match offered {
        // A browser that cannot say a protocol says it with the path.
        Ok(Offered::Nothing) => ConnectResponse::OK,
        Ok(Offered::Ours) => ConnectResponse::OK.with_protocol(String::from_utf8_lossy(wire::ALPN)),
        Ok(Offered::Others) => return Err(refuse(connection, send, StatusCode::BAD_REQUEST).await),
        Err(status) => return Err(refuse(connection, send, status).await),
    };
    response.write(&mut send).await?;
    Ok((send, recv))
}

/// Answers with a status, and waits until it was heard.
async fn refuse(connection: &Connection, mut send: SendStream, status: StatusCode) -> RefusedError {
    let said = async {
        ConnectResponse::new(status).write(&mut send).await.ok()?;
        send.finish().ok()?;
        send.stopped().await.ok()
    };
    tokio::select! {
        _ = said => {}
        _ = connection.closed() => {}
    }
    RefusedError::Status(status)
}

/// Ends with the session.
async fn read_capsules(recv: RecvStream) {
    let mut capsules = Http3CapsuleReader::new(recv);
    loop {
        match capsules.read().await {
            Ok(Some(Capsule::CloseWebTransportSession { .. }) | None) | Err(_) => return,
            Ok(Some(_)) => {}
        }
    }
}

fn accept_uni(connection: &Connection) -> BoxFuture<'static, Result<RecvStream, ConnectionError>> {
    let connection = connection.clone();
    Box::pin(async move { connection.accept_uni().await })
}
