//! QUIC: the UDP socket and its handshakes.
//!
//! Handshakes are bounded in number and time, each in a task of its own; above a threshold a stranger must prove
//! his address first (Retry). 0-RTT is off, so that nothing of a device can be replayed.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

pub(crate) use quinn::Endpoint;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{EndpointConfig, Incoming, ServerConfig, TransportConfig, VarInt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::{limits, wire};
use tracing::{Instrument, debug, info_span};

use crate::config::GatewayConfig;
use crate::device::{self, Desk};
use crate::metrics::{Transport, TransportLabel, Why};
use crate::server::GatewayStartError;
use crate::transport::streams::StreamCarrier;

/// Handshakes under way above which addresses must be proved.
const HANDSHAKES_RETRY: usize = 512;
/// Handshakes under way above which new ones are refused.
const HANDSHAKES_MAX: usize = 4_096;
/// Streams that a device may have open: the control stream, its lanes, and calls.
const BIDI_STREAMS_MAX: u32 = 1 + limits::SESSION_LANES_MAX + 47;
/// Bytes that a device may send on one stream before they are read: a whole frame and more.
const STREAM_RECEIVE_BYTES: u32 = 512 << 10;
/// Bytes that a device may send before they are read.
const RECEIVE_BYTES: u32 = 1 << 20;
/// Bytes that wait in QUIC for a device's acknowledgement.
const SEND_BYTES: u64 = 1 << 20;
/// Room for datagrams that arrive in one burst: all devices share one socket.
const SOCKET_BYTES: usize = 8 << 20;

const _: () = assert!(STREAM_RECEIVE_BYTES > limits::FRAME_BYTES_MAX && RECEIVE_BYTES >= STREAM_RECEIVE_BYTES);

/// Binds the endpoint.
pub(crate) fn bind(config: &GatewayConfig) -> Result<Endpoint, GatewayStartError> {
    let server = server_config(config)?;
    let bind = |source| GatewayStartError::Bind { address: config.listen, source };
    let socket = UdpSocket::bind(config.listen).map_err(bind)?;
    widen(&socket);
    Endpoint::new(EndpointConfig::default(), Some(server), socket, Arc::new(quinn::TokioRuntime)).map_err(bind)
}

fn server_config(config: &GatewayConfig) -> Result<ServerConfig, GatewayStartError> {
    let chain = CertificateDer::pem_slice_iter(&config.certificate_chain_pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(GatewayStartError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&config.private_key_pem).map_err(GatewayStartError::PrivateKey)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(GatewayStartError::Tls)?;
    tls.alpn_protocols = vec![wire::ALPN.to_vec()];
    tls.max_early_data_size = 0;
    let crypto = QuicServerConfig::try_from(tls).expect("TLS 1.3 of aws-lc-rs has QUIC's initial cipher suite");
    let mut server = ServerConfig::with_crypto(Arc::new(crypto));
    server.transport_config(Arc::new(transport_config()));
    server.migration(true);
    server.max_incoming(HANDSHAKES_MAX);
    Ok(server)
}

fn transport_config() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = Duration::from_millis(limits::IDLE_TIMEOUT_MS);
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle.try_into().expect("half a minute fits QUIC's idle timeout")))
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_BYTES))
        .send_window(SEND_BYTES);
    transport
}

/// Larger socket buffers, as far as the system allows; without them it only loses more in bursts.
fn widen(socket: &UdpSocket) {
    use rustix::net::sockopt;
    let _ = sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, SOCKET_BYTES));
    let _ = sockopt::set_socket_send_buffer_size(socket, SOCKET_BYTES);
}

/// The address that the endpoint is bound to.
pub(crate) fn address(endpoint: &Endpoint) -> io::Result<SocketAddr> {
    endpoint.local_addr()
}

/// Accepts connections until the endpoint is closed.
pub(crate) async fn accept(endpoint: Endpoint, desk: Desk) {
    let handshakes = Arc::new(AtomicUsize::new(0));
    while let Some(incoming) = endpoint.accept().await {
        let under_way = handshakes.load(Ordering::Relaxed);
        if desk.hub.connections() >= limits::GATEWAY_SESSIONS_MAX as usize || under_way >= HANDSHAKES_MAX {
            desk.hub.metrics.refused(Transport::Quic, Why::Full);
            incoming.refuse();
            continue;
        }
        if under_way >= HANDSHAKES_RETRY && !incoming.remote_address_validated() && incoming.may_retry() {
            // Fails only for an address that was validated already.
            let _ = incoming.retry();
            continue;
        }
        handshakes.fetch_add(1, Ordering::Relaxed);
        let span = info_span!("connection", remote = %incoming.remote_address());
        let task = serve(incoming, desk.clone(), HandshakeCount(handshakes.clone()));
        tokio::spawn(task.instrument(span));
    }
}

async fn serve(incoming: Incoming, desk: Desk, under_way: HandshakeCount) {
    let metrics = desk.hub.metrics.clone();
    let begun = Instant::now();
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(error) => {
            metrics.refused(Transport::Quic, Why::Handshake);
            return debug!(%error, "handshake refused");
        }
    };
    let deadline = Duration::from_millis(limits::HELLO_TIMEOUT_MS);
    let connection = match tokio::time::timeout(deadline, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            metrics.refused(Transport::Quic, Why::Handshake);
            return debug!(%error, "handshake failed");
        }
        Err(_) => {
            metrics.refused(Transport::Quic, Why::Deadline);
            return debug!("handshake took too long");
        }
    };
    drop(under_way);
    let label = TransportLabel { transport: Transport::Quic };
    metrics.connections_accepted.get_or_create(&label).inc();
    metrics.handshake_seconds.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
    let carrier = StreamCarrier::new(connection, metrics.traffic(Transport::Quic));
    device::drive(carrier, Transport::Quic, desk).await;
}

/// Closes the endpoint: what is still connected is told that the gateway goes down.
pub(crate) async fn close(endpoint: &Endpoint) {
    endpoint.close(VarInt::from_u32(ErrorCode::Shutdown.close_code()), b"SHUTDOWN: the gateway goes down");
    // The close frames leave at once; a peer that does not answer is not waited for.
    let _ = tokio::time::timeout(Duration::from_millis(500), endpoint.wait_idle()).await;
}

/// No new connections from now on.
pub(crate) fn stop_accepting(endpoint: &Endpoint) {
    endpoint.set_server_config(None);
}

/// One handshake under way, counted until dropped.
struct HandshakeCount(Arc<AtomicUsize>);

impl Drop for HandshakeCount {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
