//! Streams: a QUIC connection as a carrier: each stream of the session is a stream of its own. In WebTransport each
//! begins with the number of the session; otherwise the two are the same.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use seriatim_gateway_core::{Session, StreamId, Transmit};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::wire::lane;

use crate::metrics::Traffic;
use crate::transport::webtransport::{self, Preamble, WebEnd, WebSession};
use crate::transport::{Came, Carrier};

/// Bytes read from a stream at once.
const READ_BYTES: usize = 8 << 10;

type OpeningInbox = BoxFuture<'static, Result<SendStream, ConnectionError>>;
type Stray = BoxFuture<'static, Result<RecvStream, ConnectionError>>;
type Accepting = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// A QUIC connection.
pub(crate) struct StreamCarrier {
    connection: Connection,
    closed: BoxFuture<'static, ()>,
    accepting: Accepting,
    /// Set if the streams belong to a WebTransport session.
    web: Option<Box<WebSession>>,
    /// A unidirectional stream of a native device, which may open none.
    stray: Option<Stray>,
    /// A stream that has not said its session yet.
    opening: Option<Opening>,
    /// The device allows no inbox stream more for now.
    opening_inbox: Option<OpeningInbox>,
    close_code: VarInt,
    readers: Vec<Reader>,
    writers: BTreeMap<StreamId, Writer>,
    bidi_next: u64,
    traffic: Traffic,
}

struct Opening {
    send: SendStream,
    recv: RecvStream,
    preamble: Preamble,
}

struct Reader {
    id: StreamId,
    recv: RecvStream,
}

struct Writer {
    /// `None`: an inbox stream that the device does not allow yet
    send: Option<SendStream>,
    pending: Bytes,
    finish: bool,
}

impl StreamCarrier {
    /// A connection whose handshake is done, and perhaps the WebTransport session on it.
    pub(crate) fn new(connection: Connection, web: Option<WebSession>, traffic: Traffic) -> Self {
        let for_closed = connection.clone();
        Self {
            closed: Box::pin(async move { drop(for_closed.closed().await) }),
            accepting: accept(&connection),
            stray: web.is_none().then(|| stray(&connection)),
            connection,
            web: web.map(Box::new),
            opening: None,
            opening_inbox: None,
            close_code: VarInt::from_u32(0),
            readers: Vec::new(),
            writers: BTreeMap::new(),
            bidi_next: 0,
            traffic,
        }
    }

    /// Streams are accepted only when they may be read, and so many at the same time: what waits costs the device, not us.
    fn accept_streams(&mut self, cx: &mut Context<'_>, session: &Session) -> Came {
        let mut came = Came::Nothing;
        let mut open = self.writers.keys().filter(|id| matches!(id, StreamId::Bidi(_))).count();
        while open < lane::LANES_MAX && session.wants_data(StreamId::Bidi(self.bidi_next)) {
            match self.poll_stream(cx) {
                Poll::Ready(Ok((send, recv))) => {
                    self.take_stream(send, recv);
                    open += 1;
                    came = Came::Something;
                }
                Poll::Ready(Err(_)) => return Came::Over,
                Poll::Pending => break,
            }
        }
        came
    }

    /// The next stream of the session.
    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Result<(SendStream, RecvStream), ConnectionError>> {
        loop {
            if let (Some(web), Some(opening)) = (&self.web, &mut self.opening) {
                let said = std::task::ready!(opening.preamble.poll(cx, &mut opening.recv, 2));
                let ours = said.is_ok_and(|said| said == web.stream_header());
                let Some(Opening { mut send, mut recv, .. }) = self.opening.take() else { continue };
                if ours {
                    return Poll::Ready(Ok((send, recv)));
                }
                // Fails only for a stream that is over already.
                let _ = send.reset(webtransport::H3_REQUEST_REJECTED.into());
                let _ = recv.stop(webtransport::H3_REQUEST_REJECTED.into());
            }
            let (send, recv) = std::task::ready!(self.accepting.poll_unpin(cx))?;
            self.accepting = accept(&self.connection);
            if self.web.is_none() {
                return Poll::Ready(Ok((send, recv)));
            }
            self.opening = Some(Opening { send, recv, preamble: Preamble::default() });
        }
    }

    /// What of WebTransport is not the session's; `true`: the connection is over.
    fn poll_web(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(web) = &mut self.web else { return false };
        match web.poll(cx, &self.connection) {
            Poll::Ready(WebEnd::Closed) => self.connection.close(webtransport::connection_code(0), b""),
            Poll::Ready(WebEnd::Broken(code)) => self.connection.close(code.into(), b""),
            Poll::Pending => return false,
        }
        true
    }

    fn take_stream(&mut self, send: SendStream, recv: RecvStream) {
        let id = StreamId::Bidi(self.bidi_next);
        self.bidi_next += 1;
        self.readers.push(Reader { id, recv });
        self.writers.insert(id, Writer { send: Some(send), pending: Bytes::new(), finish: false });
    }

    fn read_streams(&mut self, cx: &mut Context<'_>, now: Instant, session: &mut Session) -> bool {
        let mut any = false;
        let mut buffer = [0; READ_BYTES];
        let received = &self.traffic.received;
        let mut reset = Vec::new();
        self.readers.retain_mut(|Reader { id, recv }| {
            while session.wants_data(*id) {
                let Poll::Ready(read) = recv.poll_read(cx, &mut buffer) else { return true };
                any = true;
                match read {
                    Ok(0) => {
                        session.handle_stream_end(now, *id);
                        return false;
                    }
                    Ok(count) => {
                        received.inc_by(count as u64);
                        session.handle_stream_data(now, *id, &buffer[..count]);
                    }
                    Err(ReadError::Reset(_)) => {
                        session.handle_stream_reset(*id);
                        reset.push(*id);
                        return false;
                    }
                    // The connection is gone: so is the driver, at its next turn.
                    Err(_) => return false,
                }
            }
            true
        });
        // Nobody waits for its answers: it must not count as one of the device's streams for ever. The control stream
        // has the session's last words.
        for id in reset.into_iter().filter(|id| *id != StreamId::CONTROL) {
            if let Some(Writer { send: Some(mut send), .. }) = self.writers.remove(&id) {
                // Fails only for a stream that is over already.
                let _ = send.reset(VarInt::from_u32(0));
            }
        }
        any
    }

    /// Opens the inbox streams that have something to write, in their order and as far as the device allows. The session
    /// has few of them at the same time (`INBOX_STREAMS_MAX`): what waits for one is bounded.
    fn open_inboxes(&mut self, cx: &mut Context<'_>) {
        for writer in self.writers.values_mut().filter(|writer| writer.send.is_none()) {
            let opening = self.opening_inbox.get_or_insert_with(|| open_uni(&self.connection));
            let Poll::Ready(opened) = opening.poll_unpin(cx) else { return };
            self.opening_inbox = None;
            // Without a connection, the driver is gone at its next turn.
            writer.send = opened.ok();
        }
    }

    /// Writes what is pending of a stream; tells the session whether it takes more.
    fn write(&mut self, cx: &mut Context<'_>, session: &mut Session, id: StreamId) -> bool {
        let Some(writer) = self.writers.get_mut(&id) else { return false };
        let mut any = false;
        let Some(send) = &mut writer.send else {
            session.handle_blocked(id);
            return false;
        };
        while !writer.pending.is_empty() {
            match Pin::new(&mut *send).poll_write(cx, &writer.pending) {
                Poll::Ready(Ok(count)) => {
                    self.traffic.sent.inc_by(count as u64);
                    writer.pending.advance(count);
                    any = true;
                }
                Poll::Ready(Err(WriteError::Stopped(_))) => {
                    self.drop_stream(id);
                    session.handle_stream_reset(id);
                    return true;
                }
                // The connection is gone: so is the driver, at its next turn.
                Poll::Ready(Err(_)) => {
                    self.drop_stream(id);
                    return true;
                }
                Poll::Pending => {
                    session.handle_blocked(id);
                    return any;
                }
            }
        }
        if writer.finish {
            // Fails only if it was finished or the connection is gone.
            let _ = send.finish();
            self.drop_stream(id);
        }
        session.handle_writable(id);
        any
    }

    fn drop_stream(&mut self, id: StreamId) {
        self.writers.remove(&id);
        self.readers.retain(|reader| reader.id != id);
    }
}

impl Carrier for StreamCarrier {
    fn poll_in(&mut self, cx: &mut Context<'_>, now: Instant, session: &mut Session) -> Came {
        if self.closed.poll_unpin(cx).is_ready() || self.poll_web(cx) {
            return Came::Over;
        }
        if let Some(Poll::Ready(Ok(_))) = self.stray.as_mut().map(|stray| stray.poll_unpin(cx)) {
            self.stray = None;
            session.handle_refusal(Refusal::new(ErrorCode::WrongStream, "a unidirectional stream of the device"));
            return Came::Something;
        }
        let accepted = self.accept_streams(cx, session);
        match self.read_streams(cx, now, session) {
            true if accepted != Came::Over => Came::Something,
            _ => accepted,
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>, session: &mut Session) -> bool {
        let mut any = false;
        self.open_inboxes(cx);
        let waits = |writer: &Writer| !writer.pending.is_empty() || writer.finish;
        let blocked: Vec<_> = self.writers.iter().filter(|(_, writer)| waits(writer)).map(|(id, _)| *id).collect();
        for id in blocked {
            any |= self.write(cx, session, id);
        }
        any
    }

    fn put(&mut self, cx: &mut Context<'_>, session: &mut Session, transmit: Transmit) {
        let Transmit { stream, bytes, finish } = transmit;
        if let StreamId::Inbox(_) = stream
            && !self.writers.contains_key(&stream)
        {
            let pending = self.web.as_ref().map_or_else(Bytes::new, |web| web.uni_header());
            self.writers.insert(stream, Writer { send: None, pending, finish: false });
            self.open_inboxes(cx);
        }
        let Some(writer) = self.writers.get_mut(&stream) else { return };
        // A new stream begins with its header.
        writer.pending = if writer.pending.is_empty() { bytes } else { joined(&writer.pending, &bytes) };
        writer.finish = finish;
        self.write(cx, session, stream);
    }

    fn queued_bytes(&self) -> usize {
        self.writers.values().map(|writer| writer.pending.len()).sum()
    }

    fn close(&mut self, code: u32, reason: &str) {
        match &mut self.web {
            Some(web) => {
                self.close_code = webtransport::connection_code(code);
                web.close(&self.connection, code, reason);
            }
            // QUIC says it again until the device has heard it.
            None => self.connection.close(VarInt::from_u32(code), reason.as_bytes()),
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.web.as_mut().map_or(Poll::Ready(()), |web| web.poll_close(cx))
    }
}

impl Drop for StreamCarrier {
    fn drop(&mut self) {
        // For a browser that did not end the connection when it heard that the session is over.
        self.connection.close(self.close_code, b"");
    }
}

fn joined(first: &[u8], second: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(first.len() + second.len());
    bytes.extend_from_slice(first);
    bytes.extend_from_slice(second);
    bytes.freeze()
}

fn open_uni(connection: &Connection) -> OpeningInbox {
    let connection = connection.clone();
    Box::pin(async move { connection.open_uni().await })
}

fn stray(connection: &Connection) -> Stray {
    let connection = connection.clone();
    Box::pin(async move { connection.accept_uni().await })
}

fn accept(connection: &Connection) -> Accepting {
    let connection = connection.clone();
    Box::pin(async move { connection.accept_bi().await })
}
