//! Endpoint: one UDP socket and TLS setup, shared by any number of clients.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, EndpointConfig, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use seriatim_proto::{limits, wire};
use tokio_rustls::TlsConnector;
use tracing::warn;

use crate::certificate::ClientCertificate;

/// Why there is no endpoint.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SetupError {
    /// The socket.
    #[error("bind a UDP socket: {0}")]
    Bind(String),
    /// The CA's certificate.
    #[error("read the CA certificate: {0}")]
    Ca(String),
    /// The device's own certificate or its key.
    #[error("use the client certificate: {0}")]
    ClientCertificate(String),
    /// TLS.
    #[error("set up TLS: {0}")]
    Tls(String),
}

impl SetupError {
    fn bind(error: &io::Error) -> Self {
        Self::Bind(error.to_string())
    }
}

/// A dead gateway is noticed after this long at the latest; by who asks for something sooner, see `silence`.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Keeps the session and the paths of middleboxes alive.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// Inbox streams at the same time: the one that is read, and those that are being left.
const INBOX_STREAMS_MAX: u32 = 8;
/// A gateway may send this much of one stream before it is read.
const STREAM_RECEIVE_BYTES: u32 = 1 << 20;
/// A gateway may send this much before it is read.
const RECEIVE_BYTES: u32 = 4 << 20;
const SEND_BYTES: u64 = 1 << 20;
/// Room for datagrams that arrive in one burst: all clients share one socket.
const SOCKET_BYTES: usize = 8 << 20;

const _: () = assert!(STREAM_RECEIVE_BYTES > limits::FRAME_BYTES_MAX);

/// A UDP socket, whom it trusts, and the certificate that it shows if it has one. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    inner: quinn::Endpoint,
    config: ClientConfig,
    tls: TlsConnector,
    certificate: Option<Arc<ClientCertificate>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Endpoint")
    }
}

impl Endpoint {
    /// Binds a socket that reaches gateways of the same family as `remote`, and trusts the CA alone.
    /// Must be called within a tokio runtime.
    pub fn new(remote: SocketAddr, ca_pem: &[u8]) -> Result<Self, SetupError> {
        Self::open(remote, ca_pem, None)
    }

    /// As [`Endpoint::new`], and shows gateways that ask for one this certificate: PEM, the device's own first, then
    /// its issuers without the CA; and its private key. All clients of the endpoint are that user.
    pub fn with_client_certificate(
        remote: SocketAddr,
        ca_pem: &[u8],
        chain_pem: &[u8],
        key_pem: &[u8],
    ) -> Result<Self, SetupError> {
        Self::open(remote, ca_pem, Some(Arc::new(ClientCertificate::new(chain_pem, key_pem)?)))
    }

    /// As [`Endpoint::with_client_certificate`], from PEM files, which are read anew for every connection: a device goes
    /// on with the certificate that takes the place of one that ends. Files that cannot be used change nothing.
    pub fn with_client_certificate_files(
        remote: SocketAddr,
        ca_pem: &[u8],
        chain: impl Into<PathBuf>,
        key: impl Into<PathBuf>,
    ) -> Result<Self, SetupError> {
        Self::open(remote, ca_pem, Some(Arc::new(ClientCertificate::from_files(chain.into(), key.into())?)))
    }

    /// Shows another certificate from the next connection on, such as one that ends later.
    /// Refused if there was none from the start.
    pub fn replace_client_certificate(&self, chain_pem: &[u8], key_pem: &[u8]) -> Result<(), SetupError> {
        let without = || SetupError::ClientCertificate("the endpoint was made without one".to_owned());
        self.certificate.as_ref().ok_or_else(without)?.replace(chain_pem, key_pem)
    }

    /// With a load generator's settings in the place of a device's.
    #[cfg(feature = "raw")]
    pub(crate) fn tuned(remote: SocketAddr, ca_pem: &[u8], tuning: crate::raw::Tuning) -> Result<Self, SetupError> {
        let mut endpoint = Self::open(remote, ca_pem, None)?;
        if let Some(local) = tuning.local {
            let socket = UdpSocket::bind((local, 0)).map_err(|error| SetupError::bind(&error))?;
            widen(&socket);
            endpoint.inner.rebind(socket).map_err(|error| SetupError::bind(&error))?;
        }
        let mut tls = tls_config(ca_pem, None)?;
        if !tuning.resumes {
            tls.resumption = rustls::client::Resumption::disabled();
        }
        endpoint.config = client_config(tls, tuning.keep_alive, tuning.idle)?;
        Ok(endpoint)
    }

    fn open(
        remote: SocketAddr,
        ca_pem: &[u8],
        certificate: Option<Arc<ClientCertificate>>,
    ) -> Result<Self, SetupError> {
        let local: SocketAddr =
            if remote.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(local).map_err(|error| SetupError::bind(&error))?;
        widen(&socket);
        let runtime = Arc::new(quinn::TokioRuntime);
        let inner = quinn::Endpoint::new(EndpointConfig::default(), None, socket, runtime)
            .map_err(|error| SetupError::bind(&error))?;
        let tls = tls_config(ca_pem, certificate.clone())?;
        let mut for_tcp = tls.clone();
        for_tcp.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A ticket is good on the transport that it came on.
        for_tcp.resumption = rustls::client::Resumption::default();
        Ok(Self {
            inner,
            config: client_config(tls, KEEP_ALIVE, IDLE_TIMEOUT)?,
            tls: TlsConnector::from(Arc::new(for_tcp)),
            certificate,
        })
    }

    /// Before a connection: the certificate as it is now.
    pub(crate) async fn refresh(&self) {
        let Some(certificate) = self.certificate.clone().filter(|certificate| certificate.is_renewed()) else { return };
        let read = tokio::task::spawn_blocking(move || certificate.refresh()).await;
        if let Ok(Err(error)) = read {
            warn!(%error, "no new client certificate; the old one stays");
        }
    }

    /// A certificate that has ended, ours or the gateway's: may there be another one without this program's doing?
    pub(crate) fn is_renewed(&self) -> bool {
        self.certificate.as_ref().is_none_or(|certificate| certificate.is_renewed())
    }

    /// Is there a certificate to show?
    pub(crate) fn is_certified(&self) -> bool {
        self.certificate.is_some()
    }

    /// TLS over TCP.
    pub(crate) fn tls(&self) -> &TlsConnector {
        &self.tls
    }

    pub(crate) fn connect(&self, address: SocketAddr, name: &str) -> Result<quinn::Connecting, quinn::ConnectError> {
        self.inner.connect_with(self.config.clone(), address, name)
    }
}

/// TLS 1.3, nobody but the CA, and the certificate that is shown if there is one.
pub(crate) fn tls_config(
    ca_pem: &[u8],
    certificate: Option<Arc<ClientCertificate>>,
) -> Result<rustls::ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem) {
        let certificate = certificate.map_err(|error| SetupError::Ca(error.to_string()))?;
        roots.add(certificate).map_err(|error| SetupError::Ca(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(SetupError::Ca("no certificate in it".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| SetupError::Tls(error.to_string()))?
        .with_root_certificates(roots);
    Ok(match certificate {
        Some(certificate) => tls.with_client_cert_resolver(certificate),
        None => tls.with_no_client_auth(),
    })
}

fn client_config(
    mut tls: rustls::ClientConfig,
    keep_alive: Duration,
    idle: Duration,
) -> Result<ClientConfig, SetupError> {
    tls.alpn_protocols = vec![wire::ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).map_err(|error| SetupError::Tls(error.to_string()))?;
    let mut config = ClientConfig::new(Arc::new(crypto));
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(INBOX_STREAMS_MAX))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(idle.try_into().map_err(|_| SetupError::Tls("so long an idle time".to_owned()))?))
        .keep_alive_interval(Some(keep_alive))
        .stream_receive_window(VarInt::from_u32(STREAM_RECEIVE_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_BYTES))
        .send_window(SEND_BYTES);
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Larger socket buffers, as far as the system allows; without them it only loses more in bursts.
fn widen(socket: &UdpSocket) {
    use rustix::net::sockopt;
    let _ = sockopt::set_socket_recv_buffer_size_force(socket, SOCKET_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, SOCKET_BYTES));
    let _ = sockopt::set_socket_send_buffer_size(socket, SOCKET_BYTES);
}
