//! Quic: one QUIC connection: its streams, and bytes to frames and back.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use futures_util::future::BoxFuture;
use quinn::{Connection, ConnectionError, RecvStream, SendStream, VarInt};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, FrameDecoder, v1};

use crate::builder::Options;
use crate::error::ConnectError;
use crate::requests::Way;
use crate::silence::silent;
use crate::wire::{Broken, CALLS_MAX, DialError, Incoming, LANE_BYTES_MAX, closed_error, frame};

const READ_BYTES: usize = 16 << 10;

struct Pipe {
    send: SendStream,
    recv: RecvStream,
    out: BytesMut,
    decoder: FrameDecoder,
    /// Finish after `out`.
    finish: bool,
}

struct InboxPipe {
    recv: RecvStream,
    decoder: FrameDecoder,
    subscription_id: u64,
}

/// A QUIC connection whose gateway has said Welcome.
pub(crate) struct Quic {
    connection: Connection,
    closed: BoxFuture<'static, ConnectionError>,
    silent: BoxFuture<'static, ()>,
    accept: BoxFuture<'static, Result<RecvStream, ConnectionError>>,
    control: Pipe,
    lane: Option<Pipe>,
    calls: BTreeMap<u64, Pipe>,
    inboxes: Vec<InboxPipe>,
}

/// Connects, without a word of the protocol yet.
pub(crate) async fn connect(options: &Options, address: SocketAddr) -> Result<Connection, DialError> {
    let connecting = options
        .endpoint
        .connect(address, &options.server_name)
        .map_err(|error| DialError::Fatal(ConnectError::Handshake(error.to_string())))?;
    connecting.await.map_err(|error| dial_error(&error))
}

impl Quic {
    /// Says Hello and waits for Welcome.
    pub(crate) async fn greet(connection: Connection, hello: v1::Hello) -> Result<(Self, v1::Welcome), DialError> {
        let (send, recv) = connection.open_bi().await.map_err(|error| dial_error(&error))?;
        let mut control = Pipe::new(send, recv);
        wire::encode_frame(&frame(0, Asked::Hello(hello)), &mut control.out);
        std::future::poll_fn(|cx| control.poll_write(cx)).await.map_err(|_| lost(&connection))?;
        let welcome = loop {
            let said = control.decoder.next_frame::<v1::ServerFrame>();
            match said.map_err(|error| DialError::Retry(error.to_string()))?.map(|frame| frame.body) {
                Some(Some(Said::Welcome(welcome))) => break welcome,
                Some(_) => {}
                None => {
                    let mut buffer = [0; 1024];
                    match control.recv.read(&mut buffer).await {
                        Ok(Some(count)) => control.decoder.push(&buffer[..count]),
                        // The reason is in how the connection ended.
                        Ok(None) | Err(_) => return Err(dial_error(&connection.closed().await)),
                    }
                }
            }
        };
        Ok((Self::new(connection, control), welcome))
    }

    fn new(connection: Connection, control: Pipe) -> Self {
        let for_closed = connection.clone();
        Self {
            closed: Box::pin(async move { for_closed.closed().await }),
            silent: Box::pin(silent(connection.clone())),
            accept: accept(&connection),
            connection,
            control,
            lane: None,
            calls: BTreeMap::new(),
            inboxes: Vec::new(),
        }
    }

    /// Ends it.
    fn close(&self) {
        self.connection.close(VarInt::from_u32(0), b"");
    }

    /// How it ended, once it did or nobody answers any more.
    pub(crate) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<DialError> {
        if let Poll::Ready(error) = self.closed.as_mut().poll(cx) {
            return Poll::Ready(dial_error(&error));
        }
        self.silent.as_mut().poll(cx).map(|()| {
            self.close();
            dial_error(&ConnectionError::TimedOut)
        })
    }

    /// Encodes a frame onto the right stream; `false` if there is no room now.
    pub(crate) fn put(&mut self, cx: &mut Context<'_>, way: Way, frame: &v1::ClientFrame) -> bool {
        let pipe = match way {
            Way::Control => &mut self.control,
            Way::Lane => {
                if self.lane.is_none() {
                    self.lane = open(&self.connection, cx);
                }
                match &mut self.lane {
                    Some(lane) if lane.out.len() < LANE_BYTES_MAX => lane,
                    Some(_) | None => return false,
                }
            }
            Way::Call => {
                if self.calls.len() >= CALLS_MAX {
                    return false;
                }
                let Some(mut pipe) = open(&self.connection, cx) else { return false };
                pipe.finish = true;
                self.calls.entry(frame.request_id).or_insert(pipe)
            }
        };
        wire::encode_frame(frame, &mut pipe.out);
        true
    }

    /// The subscription that is pushed now.
    pub(crate) fn subscription_id(&self) -> Option<u64> {
        self.inboxes.iter().map(|inbox| inbox.subscription_id).max().filter(|id| *id > 0)
    }

    /// Takes no more of any inbox stream.
    pub(crate) fn drop_inboxes(&mut self) {
        self.inboxes.clear();
    }

    /// Reads whatever is there.
    pub(crate) fn poll_in(&mut self, cx: &mut Context<'_>, incoming: &mut Vec<Incoming>) -> Result<(), Broken> {
        while let Poll::Ready(Ok(recv)) = self.accept.as_mut().poll(cx) {
            self.accept = accept(&self.connection);
            self.inboxes.push(InboxPipe { recv, decoder: FrameDecoder::default(), subscription_id: 0 });
        }
        if !read_pipe(cx, &mut self.control, incoming)? {
            return Err(Broken("the control stream ended"));
        }
        if let Some(lane) = &mut self.lane
            && !read_pipe(cx, lane, incoming)?
        {
            return Err(Broken("the lane ended"));
        }
        let mut result = Ok(());
        self.calls.retain(|request_id, call| {
            let before = incoming.len();
            match read_pipe(cx, call, incoming) {
                Ok(open) if incoming.len() == before => {
                    if !open {
                        incoming.push(Incoming::CallBroken { request_id: *request_id });
                    }
                    open
                }
                // Answered: the stream has done its work.
                Ok(_) => false,
                Err(broken) => {
                    result = Err(broken);
                    false
                }
            }
        });
        result?;
        self.read_inboxes(cx, incoming)
    }

    fn read_inboxes(&mut self, cx: &mut Context<'_>, incoming: &mut Vec<Incoming>) -> Result<(), Broken> {
        let mut result = Ok(());
        self.inboxes.retain_mut(|inbox| {
            let open = read(cx, &mut inbox.recv, &mut inbox.decoder);
            loop {
                match inbox.decoder.next_frame::<v1::ServerFrame>() {
                    Ok(Some(frame)) => match frame.body {
                        Some(Said::StreamHeader(header)) => inbox.subscription_id = header.subscription_id,
                        Some(body) => incoming.push(Incoming::Inbox { body }),
                        None => {}
                    },
                    Ok(None) => break,
                    Err(_) => {
                        result = Err(Broken("a malformed frame"));
                        return false;
                    }
                }
            }
            if !open {
                incoming.push(Incoming::InboxEnd { subscription_id: inbox.subscription_id });
            }
            open
        });
        result
    }

    /// Writes whatever may be written.
    pub(crate) fn poll_out(&mut self, cx: &mut Context<'_>) {
        // A broken stream shows itself when it is read, or with the connection.
        let _ = self.control.poll_write(cx);
        if let Some(lane) = &mut self.lane {
            let _ = lane.poll_write(cx);
        }
        for call in self.calls.values_mut() {
            let _ = call.poll_write(cx);
        }
    }
}

impl Drop for Quic {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pipe {
    fn new(send: SendStream, recv: RecvStream) -> Self {
        Self { send, recv, out: BytesMut::new(), decoder: FrameDecoder::default(), finish: false }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), quinn::WriteError>> {
        while !self.out.is_empty() {
            match Pin::new(&mut self.send).poll_write(cx, &self.out) {
                Poll::Ready(Ok(count)) => self.out.advance(count),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if std::mem::take(&mut self.finish) {
            // Fails only if it was finished or the connection is gone.
            let _ = self.send.finish();
        }
        Poll::Ready(Ok(()))
    }
}

fn accept(connection: &Connection) -> BoxFuture<'static, Result<RecvStream, ConnectionError>> {
    let connection = connection.clone();
    Box::pin(async move { connection.accept_uni().await })
}

fn open(connection: &Connection, cx: &mut Context<'_>) -> Option<Pipe> {
    match std::pin::pin!(connection.open_bi()).poll(cx) {
        Poll::Ready(Ok((send, recv))) => Some(Pipe::new(send, recv)),
        Poll::Ready(Err(_)) | Poll::Pending => None,
    }
}

/// Reads frames of a pipe; `false`: it ended.
fn read_pipe(cx: &mut Context<'_>, pipe: &mut Pipe, incoming: &mut Vec<Incoming>) -> Result<bool, Broken> {
    let open = read(cx, &mut pipe.recv, &mut pipe.decoder);
    loop {
        match pipe.decoder.next_frame::<v1::ServerFrame>() {
            Ok(Some(v1::ServerFrame { request_id, body: Some(body), .. })) => {
                incoming.push(Incoming::Said { request_id, body });
            }
            // Unknown frames are for newer clients.
            Ok(Some(_)) => {}
            Ok(None) => return Ok(open),
            Err(_) => return Err(Broken("a malformed frame")),
        }
    }
}

/// Reads bytes, at most about two frames of the largest kind; `false`: the stream ended.
fn read(cx: &mut Context<'_>, recv: &mut RecvStream, decoder: &mut FrameDecoder) -> bool {
    let mut buffer = [0; READ_BYTES];
    loop {
        match recv.poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return false,
            Poll::Ready(Ok(count)) => decoder.push(&buffer[..count]),
            Poll::Pending => return true,
        }
    }
}

fn lost(connection: &Connection) -> DialError {
    connection
        .close_reason()
        .map_or_else(|| DialError::Retry("the stream broke".to_owned()), |error| dial_error(&error))
}

/// What the end of a connection says about the next one.
fn dial_error(error: &ConnectionError) -> DialError {
    match error {
        ConnectionError::ApplicationClosed(close) => closed_error(close.error_code.into_inner(), &close.reason),
        ConnectionError::TransportError(transport) => crypto_error(error, u64::from(transport.code)),
        ConnectionError::ConnectionClosed(close) => crypto_error(error, u64::from(close.error_code)),
        ConnectionError::VersionMismatch => DialError::Fatal(ConnectError::Handshake(error.to_string())),
        other => DialError::Retry(other.to_string()),
    }
}

fn crypto_error(error: &ConnectionError, code: u64) -> DialError {
    match code {
        CERTIFICATE_EXPIRED => DialError::Ended(ConnectError::Handshake(error.to_string())),
        code if is_crypto(code) => DialError::Fatal(ConnectError::Handshake(error.to_string())),
        _ => DialError::Retry(error.to_string()),
    }
}

/// TLS's alert `certificate_expired` as an error of QUIC.
const CERTIFICATE_EXPIRED: u64 = 0x100 + 45;

/// TLS alerts are QUIC errors 0x100 to 0x1ff.
pub(crate) fn is_crypto(code: u64) -> bool {
    (0x100..0x200).contains(&code)
}
