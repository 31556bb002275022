//! Doors: the sockets of a gateway, opened and closed together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::Endpoint;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use seriatim_proto::wire;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::certificate::Certificates;
use crate::client_certificate::TlsSetup;
use crate::config::{GatewayConfig, WebTransportCertificate};
use crate::device::Desk;
use crate::metrics::Metrics;
use crate::server::GatewayStartError;
use crate::short_certificate::ShortCertificates;
use crate::transport::bind::Sockets;
use crate::transport::gate::Gate;
use crate::transport::https::Https;
use crate::transport::quic::Quic;
use crate::transport::quic_keys::QuicKeys;
use crate::transport::rules::Rules;
use crate::transport::tasks::Tasks;
use crate::transport::{descriptors, https, quic, webtransport};

/// Period of looking at the certificate's files.
const CERTIFICATE_PERIOD: Duration = Duration::from_secs(5);

/// The open doors.
pub(crate) struct Doors {
    address: SocketAddr,
    endpoint: Endpoint,
    udp: JoinHandle<()>,
    tcp: JoinHandle<()>,
    certificates: JoinHandle<()>,
    shown: (Arc<Certificates>, Option<Arc<ShortCertificates>>),
    tasks: Tasks,
}

impl Doors {
    /// Binds the sockets and lets devices in.
    pub(crate) fn open(config: &GatewayConfig, desk: Desk) -> Result<Self, GatewayStartError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let certificates = Certificates::load(config.certificate.clone(), provider.clone());
        let certificates = Arc::new(certificates.map_err(GatewayStartError::Certificate)?);
        let short = match config.webtransport {
            WebTransportCertificate::Short => {
                let short = ShortCertificates::new(provider.clone(), SystemTime::now());
                Some(Arc::new(short.map_err(GatewayStartError::ShortCertificate)?))
            }
            WebTransportCertificate::Chain => None,
        };
        let by_protocol = ByProtocol { chain: certificates.clone(), short: short.clone() };
        let asking = config.client_ca.clone().map(|ca| (ca, desk.hub.metrics.client_certificates_refused.clone()));
        let setup = |certificates, protocols| {
            TlsSetup::new(&provider, certificates, protocols, asking.clone()).map_err(GatewayStartError::Tls)
        };
        let udp_tls = setup(Arc::new(by_protocol), &[wire::ALPN, webtransport::ALPN])?;
        let tcp_tls = setup(certificates.clone(), &[b"http/1.1"])?;
        let Sockets { udp, tcp } = Sockets::bind(config.listen)?;
        let bind = |protocol| move |source| GatewayStartError::Bind { protocol, address: config.listen, source };
        let keys = QuicKeys::new(config.quic_secret.as_deref());
        let server = quic::server_config(&udp_tls, &keys);
        let endpoint = quic::open(udp, server.clone(), &keys).map_err(bind("UDP"))?;
        let address = endpoint.local_addr().map_err(bind("UDP"))?;
        let tcp = TcpListener::from_std(tcp).map_err(bind("TCP"))?;
        let tcp_connections_max = descriptors::tcp_connections_max();
        let gate = Gate::new(desk.hub.clone(), config.address_connections_max, tcp_connections_max);
        let rules = Rules { origins: Arc::new(config.origins.clone()), certificates: certificates.clone() };
        let tasks = Tasks::default();
        let https = Https {
            tls: tcp_tls,
            rules: rules.clone(),
            port: address.port(),
            short: short.clone(),
            gate: gate.clone(),
            tasks: tasks.clone(),
            desk: desk.clone(),
        };
        let quic = Quic { tls: udp_tls, server, gate, rules, tasks: tasks.clone(), desk: desk.clone() };
        let shown = (certificates.clone(), short.clone());
        let refresh = refresh(certificates, short, desk.hub.metrics.clone());
        Ok(Self {
            address,
            udp: tokio::spawn(quic::accept(endpoint.clone(), quic)),
            tcp: tokio::spawn(https::accept(tcp, https)),
            certificates: tokio::spawn(refresh),
            endpoint,
            shown,
            tasks,
        })
    }

    /// Where devices come in, over UDP and TCP.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What is shown to devices: the certificate chain, and the short certificate of WebTransport.
    pub(crate) fn shown(&self) -> (Arc<Certificates>, Option<Arc<ShortCertificates>>) {
        self.shown.clone()
    }

    /// Waits for a part that ends by itself, which none should.
    pub(crate) async fn ended(&mut self) -> &'static str {
        tokio::select! {
            _ = &mut self.udp => "the UDP socket",
            _ = &mut self.tcp => "the TCP socket",
            _ = &mut self.certificates => "the look at the certificate",
        }
    }

    /// No new connections from now on.
    pub(crate) fn stop_accepting(&self) {
        self.endpoint.set_server_config(None);
        self.tcp.abort();
    }

    /// Closes the sockets: what is still connected over UDP is told that the gateway goes down, and nothing stays
    /// connected over TCP.
    pub(crate) async fn close(self) {
        quic::close(&self.endpoint).await;
        self.tasks.end().await;
        for task in [self.udp, self.tcp, self.certificates] {
            task.abort();
        }
    }
}

/// Native devices get the certificate of the CA, browsers the one whose hash they know.
#[derive(Debug)]
struct ByProtocol {
    chain: Arc<Certificates>,
    short: Option<Arc<ShortCertificates>>,
}

impl ResolvesServerCert for ByProtocol {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let offers =
            |protocol: &[u8]| client_hello.alpn().is_some_and(|mut offered| offered.any(|one| one == protocol));
        match &self.short {
            // Of two that are offered, TLS takes ours.
            Some(short) if offers(webtransport::ALPN) && !offers(wire::ALPN) => Some(short.current()),
            _ => self.chain.resolve(client_hello),
        }
    }
}

async fn refresh(certificates: Arc<Certificates>, short: Option<Arc<ShortCertificates>>, metrics: Metrics) {
    let mut interval = tokio::time::interval(CERTIFICATE_PERIOD);
    loop {
        interval.tick().await;
        if certificates.refresh() == Some(false) {
            metrics.certificates_refused.inc();
        }
        metrics.certificate_end_s.set(certificates.look_at_end(SystemTime::now()));
        match short.as_ref().map(|short| short.rotate(SystemTime::now())) {
            Some(Ok(true)) => info!("the next certificate for WebTransport is used"),
            Some(Err(error)) => {
                metrics.certificates_refused.inc();
                let error: &dyn std::error::Error = &error;
                warn!(error, "no new certificate for WebTransport; the old one stays");
            }
            Some(Ok(false)) | None => {}
        }
    }
}
