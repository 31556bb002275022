//! QUIC: the UDP socket and its handshakes. What TLS agrees on says whether a device or a browser comes in.
//!
//! Handshakes are bounded in number and time, each in a task of its own; above a threshold a stranger must prove
//! his address first (Retry). 0-RTT is off, so that nothing of a device can be replayed.

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::Endpoint;
use quinn::crypto::rustls::{HandshakeData, QuicServerConfig};
use quinn::{Connecting, Connection, ConnectionError, Incoming, ServerConfig, TransportConfig, VarInt};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::limits;
use seriatim_proto::wire::lane;
use tracing::{Instrument, debug, info_span};

use crate::client_certificate::{Shown, TlsSetup};
use crate::device::{self, Desk};
use crate::metrics::{Transport, TransportLabel, Why};
use crate::transport::Line;
use crate::transport::gate::{Gate, HANDSHAKES_MAX, Pass};
use crate::transport::quic_keys::QuicKeys;
use crate::transport::rules::Rules;
use crate::transport::streams::StreamCarrier;
use crate::transport::tasks::Tasks;
use crate::transport::webtransport::{self, RefusedError, WebSession};

/// Streams that a device may have open: the control stream, its lanes, and calls.
const BIDI_STREAMS_MAX: u32 = lane::LANES_MAX as u32;
/// A browser's request is a stream besides. QUIC announces no single one more, but an eighth: the carrier takes as many
/// of a browser's streams at the same time as of any device's, the others wait.
const WEB_BIDI_STREAMS_MAX: u32 = BIDI_STREAMS_MAX * 5 / 4;
/// What is allowed before TLS has said who comes: HTTP/3 wants these three at once. A native device opens none.
const UNI_STREAMS_FIRST: u32 = 3;
/// HTTP/3 wants datagrams to be possible, which is said before TLS has said who comes. Nothing is done with them: what
/// does not fit is dropped.
const DATAGRAM_BYTES: usize = 4 << 10;
/// Bytes that a device may send on one stream before they are read: a whole frame and more.
const STREAM_RECEIVE_BYTES: u32 = 512 << 10;
/// Bytes that a device may send before they are read.
const RECEIVE_BYTES: u32 = 1 << 20;
/// Bytes that wait in QUIC for a device's acknowledgement.
const SEND_BYTES: u64 = 1 << 20;

const _: () = assert!(UNI_STREAMS_FIRST <= webtransport::UNI_STREAMS_MAX);
const _: () = assert!(STREAM_RECEIVE_BYTES > limits::FRAME_BYTES_MAX && RECEIVE_BYTES >= STREAM_RECEIVE_BYTES);

/// Opens the endpoint on a bound socket.
pub(crate) fn open(socket: UdpSocket, server: ServerConfig, keys: &QuicKeys) -> io::Result<Endpoint> {
    Endpoint::new(keys.endpoint(), Some(server), socket, Arc::new(quinn::TokioRuntime))
}

/// Of all connections; those that may show a certificate have TLS of their own in it.
pub(crate) fn server_config(tls: &TlsSetup, keys: &QuicKeys) -> ServerConfig {
    let mut server = ServerConfig::with_crypto(crypto(tls.next().0));
    server.transport_config(Arc::new(transport_config()));
    server.migration(true);
    server.max_incoming(HANDSHAKES_MAX);
    keys.set_token_key(&mut server);
    server
}

fn crypto(tls: Arc<rustls::ServerConfig>) -> Arc<QuicServerConfig> {
    Arc::new(QuicServerConfig::try_from(tls).expect("TLS 1.3 of aws-lc-rs has QUIC's initial cipher suite"))
}

fn transport_config() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = Duration::from_millis(limits::IDLE_TIMEOUT_MS);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS_FIRST))
        .datagram_receive_buffer_size(Some(DATAGRAM_BYTES))
        .max_idle_timeout(Some(idle.try_into().expect("half a minute fits QUIC's idle timeout")))
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_BYTES))
        .send_window(SEND_BYTES);
    transport
}

/// What every connection of the UDP socket needs.
#[derive(Clone)]
pub(crate) struct Quic {
    pub(crate) tls: TlsSetup,
    /// of the endpoint
    pub(crate) server: ServerConfig,
    pub(crate) gate: Gate,
    pub(crate) rules: Rules,
    pub(crate) tasks: Tasks,
    pub(crate) desk: Desk,
}

/// Accepts connections until the endpoint is closed.
pub(crate) async fn accept(endpoint: Endpoint, quic: Quic) {
    let Quic { gate, tasks, desk, .. } = &quic;
    while let Some(incoming) = endpoint.accept().await {
        let address = incoming.remote_address().ip();
        if gate.wants_proof(address) && !incoming.remote_address_validated() && incoming.may_retry() {
            // Fails only for an address that was validated already.
            let _ = incoming.retry();
            continue;
        }
        match gate.enter(Transport::Quic, address) {
            Ok(pass) => {
                let span = info_span!("connection", remote = %incoming.remote_address());
                tasks.spawn(serve(incoming, pass, quic.clone()).instrument(span));
            }
            Err(why) => {
                desk.hub.metrics.refused(Transport::Quic, why);
                incoming.refuse();
            }
        }
    }
}

async fn serve(incoming: Incoming, mut pass: Pass, quic: Quic) {
    let metrics = quic.desk.hub.metrics.clone();
    let begun = Instant::now();
    let deadline = Duration::from_millis(limits::HELLO_TIMEOUT_MS);
    let mut transport = Transport::Quic;
    let (connection, web, shown) = match tokio::time::timeout(deadline, greet(incoming, &quic, &mut transport)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => {
            metrics.refused(transport, if error.is_request() { Why::Request } else { Why::Handshake });
            return debug!(%error, "handshake failed");
        }
        Err(_) => {
            metrics.refused(transport, Why::Deadline);
            return debug!("handshake took too long");
        }
    };
    pass.greeted();
    let label = TransportLabel { transport };
    metrics.connections_accepted.get_or_create(&label).inc();
    metrics.handshake_seconds.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
    let traffic = metrics.traffic(transport);
    let line = Line::quic(&connection, &traffic);
    let carrier = StreamCarrier::new(connection, web, traffic);
    device::drive(carrier, transport, line, shown, quic.desk).await;
}

/// The handshake, and for a browser the session on top of it.
async fn greet(
    incoming: Incoming,
    quic: &Quic,
    transport: &mut Transport,
) -> Result<(Connection, Option<WebSession>, Shown), RefusedError> {
    let (connecting, shown) = begin(incoming, quic)?;
    let connection = connecting.await?;
    if protocol(&connection).as_deref() != Some(webtransport::ALPN) {
        return Ok((connection, None, shown));
    }
    *transport = Transport::WebTransport;
    connection.set_max_concurrent_bi_streams(VarInt::from_u32(WEB_BIDI_STREAMS_MAX));
    connection.set_max_concurrent_uni_streams(VarInt::from_u32(webtransport::UNI_STREAMS_MAX));
    let web = WebSession::accept(&connection, &quic.rules).await?;
    // No browser shows a certificate here; who speaks like one is treated like one.
    Ok((connection, Some(web), Shown::default()))
}

/// With a TLS set-up of its own, if devices may show certificates.
fn begin(incoming: Incoming, quic: &Quic) -> Result<(Connecting, Shown), ConnectionError> {
    if !quic.tls.is_asking() {
        return Ok((incoming.accept()?, Shown::default()));
    }
    let (own, shown) = quic.tls.next();
    let mut server = quic.server.clone();
    server.crypto = crypto(own);
    Ok((incoming.accept_with(Arc::new(server))?, shown))
}

/// What TLS has agreed on.
fn protocol(connection: &Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// Closes the endpoint: what is still connected is told that the gateway goes down.
pub(crate) async fn close(endpoint: &Endpoint) {
    endpoint.close(VarInt::from_u32(ErrorCode::Shutdown.close_code()), b"SHUTDOWN: the gateway goes down");
    // The close frames leave at once; a peer that does not answer is not waited for.
    let _ = tokio::time::timeout(Duration::from_millis(500), endpoint.wait_idle()).await;
}
