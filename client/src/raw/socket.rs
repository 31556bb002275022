//! Socket: a WebSocket whose messages its user writes himself.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use seriatim_proto::wire::{self, FrameDecoder, lane, v1};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::web::bracketed;
use super::{RawError, RawEvent, RawStream, RawTarget};

type Stream = WebSocketStream<TlsStream<TcpStream>>;

/// A WebSocket with our path and protocol.
pub(super) async fn connect(target: &RawTarget) -> Result<Stream, RawError> {
    let stream = TcpStream::connect(target.address).await.map_err(|error| RawError::Unreachable(error.to_string()))?;
    stream.set_nodelay(true).map_err(|error| RawError::Unreachable(error.to_string()))?;
    let name = ServerName::try_from(target.server_name.clone());
    let name = name.map_err(|error| RawError::Handshake(error.to_string()))?;
    let stream = target.endpoint.tls().connect(name, stream).await;
    let stream = stream.map_err(|error| RawError::Handshake(error.to_string()))?;
    let refused = |error: &dyn std::fmt::Display| RawError::Refused(format!("WebSocket: {error}"));
    let url = format!("wss://{}:{}{}", bracketed(&target.server_name), target.address.port(), lane::PATH);
    let mut request = url.into_client_request().map_err(|error| refused(&error))?;
    let protocol = http::HeaderValue::from_bytes(wire::ALPN).expect("a token is a header value");
    request.headers_mut().insert(http::header::SEC_WEBSOCKET_PROTOCOL, protocol);
    let (socket, _) = tokio_tungstenite::client_async(request, stream).await.map_err(|error| refused(&error))?;
    Ok(socket)
}

/// Carries messages both ways until the end of either side.
pub(super) async fn run(mut socket: Stream, mut messages: mpsc::Receiver<Message>, sink: mpsc::Sender<RawEvent>) {
    let mut inboxes = Vec::new();
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                // What cannot be written any more shows itself where it is read.
                Some(message) => { let _ = socket.send(message).await; }
                None => {
                    let _ = socket.close(None).await;
                    return;
                }
            },
            message = socket.next() => {
                let end = match message {
                    Some(Ok(Message::Binary(bytes))) => match take(bytes, &mut inboxes, &sink).await {
                        Ok(()) => continue,
                        Err(words) => RawEvent::Broken(words),
                    },
                    Some(Ok(Message::Text(_))) => RawEvent::Broken("a text message".to_owned()),
                    Some(Ok(Message::Close(close))) => {
                        let code = close.and_then(|close| lane::close_code_from_websocket(close.code.into()));
                        RawEvent::Closed(code)
                    }
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => RawEvent::Closed(None),
                };
                let _ = sink.send(end).await;
                return;
            }
        }
    }
}

/// Hands over the frames of a message, without their places.
async fn take(bytes: Bytes, inboxes: &mut Vec<u64>, sink: &mpsc::Sender<RawEvent>) -> Result<(), String> {
    let mut decoder = FrameDecoder::default();
    decoder.push(&bytes);
    loop {
        let Some(mut frame) = decoder.next_frame::<v1::ServerFrame>().map_err(|error| error.to_string())? else {
            return decoder.finish().map_err(|error| format!("a message: {error}"));
        };
        let stream = match frame.inbox {
            0 => RawStream::Lane(frame.lane),
            _ if frame.lane > 0 => return Err("a frame of a lane and of an inbox stream".to_owned()),
            inbox => {
                let known = inboxes.iter().position(|known| *known == inbox);
                let place = known.unwrap_or_else(|| {
                    inboxes.push(inbox);
                    inboxes.len() - 1
                });
                RawStream::Inbox(place as u64 + 1)
            }
        };
        let end = std::mem::take(&mut frame.end);
        (frame.lane, frame.inbox) = (0, 0);
        if frame.body.is_some() {
            let _ = sink.send(RawEvent::Frame(stream, frame)).await;
        }
        if end {
            let _ = sink.send(RawEvent::End(stream)).await;
        }
    }
}
