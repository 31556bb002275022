//! Server: starts the parts of a gateway and stops them in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use seriatim_mtls::{Mtls, Unclear};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tracing::info;

use crate::certificate::CertificateError;
use crate::config::GatewayConfig;
use crate::device::Desk;
use crate::hub::Hub;
use crate::logic_link;
use crate::metrics::Metrics;
use crate::operator::{self, Office};
use crate::short_certificate::ShortCertificateError;
use crate::transport::{Doors, SECRET_BYTES_MIN};

/// Period of the router's tick.
const TICK: Duration = Duration::from_millis(20);
/// Between two looks at round-trip times.
const RTT_PERIOD: Duration = Duration::from_secs(1);
/// Time that devices get to go elsewhere.
const DRAIN: Duration = Duration::from_millis(1_000);

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayStartError {
    /// With TLS or without: one must be said.
    #[error(transparent)]
    Unclear(#[from] Unclear),
    /// No logic node is named.
    #[error("start without the address of a logic node")]
    NoLogic,
    /// A secret of few bytes can be guessed.
    #[error("use a secret for QUIC of less than {SECRET_BYTES_MIN} bytes: make one of `head -c 64 /dev/urandom`")]
    QuicSecret,
    /// The certificate.
    #[error("use the certificate")]
    Certificate(#[source] CertificateError),
    /// The certificate for WebTransport.
    #[error("make a certificate for WebTransport")]
    ShortCertificate(#[source] ShortCertificateError),
    /// The TLS library.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// The port.
    #[error("bind {protocol} {address}")]
    Bind {
        /// UDP or TCP
        protocol: &'static str,
        /// what was asked for
        address: SocketAddr,
        /// why not
        #[source]
        source: io::Error,
    },
}

/// Why a gateway stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum GatewayRunError {
    /// The socket or a task broke.
    #[error("accept connections: {0} ended")]
    Ended(&'static str),
}

/// A running gateway. See the crate.
pub struct GatewayServer {
    address: SocketAddr,
    doors: Doors,
    hub: Arc<Hub>,
    links: JoinHandle<()>,
    ticks: JoinHandle<()>,
    operators: Option<(SocketAddr, JoinHandle<()>)>,
}

impl std::fmt::Debug for GatewayServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GatewayServer({})", self.address)
    }
}

impl GatewayServer {
    /// Binds and serves. Devices are admitted as soon as one logic node is linked.
    pub async fn start(config: GatewayConfig, registry: &mut Registry) -> Result<GatewayServer, GatewayStartError> {
        let mtls = Mtls::chosen(config.mtls.clone(), config.insecure_plaintext)?;
        if config.logic.is_empty() {
            return Err(GatewayStartError::NoLogic);
        }
        if config.quic_secret.as_ref().is_some_and(|secret| secret.len() < SECRET_BYTES_MIN) {
            return Err(GatewayStartError::QuicSecret);
        }
        let listener = match config.operators {
            Some(address) => {
                let bind = |source| GatewayStartError::Bind { protocol: "TCP for operators", address, source };
                let listener = TcpListener::bind(address).await.map_err(bind)?;
                Some((listener.local_addr().map_err(bind)?, listener))
            }
            None => None,
        };
        let hub = Arc::new(Hub::new(Metrics::new(registry)));
        let desk = Desk { hub: hub.clone(), verifier: config.verifier.clone(), client_ca: config.client_ca.clone() };
        let doors = Doors::open(&config, desk)?;
        let address = doors.address();
        let links = tokio::spawn(logic_link::keep_links(hub.clone(), config.logic, mtls.clone()));
        let ticks = tokio::spawn(tick(hub.clone()));
        let (certificates, short) = doors.shown();
        let operators = listener.map(|(at, listener)| {
            let name = config.name.unwrap_or_else(|| address.to_string());
            let (hub, begun) = (hub.clone(), Instant::now());
            let office = Office { hub, name, address: address.to_string(), begun, certificates, short };
            info!(address = %at, "operators are heard");
            (at, tokio::spawn(operator::serve(listener, office, mtls.clone())))
        });
        info!(%address, "gateway listens");
        Ok(Self { address, doors, hub, links, ticks, operators })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators are heard, if they are.
    pub fn operators(&self) -> Option<SocketAddr> {
        self.operators.as_ref().map(|(address, _)| *address)
    }

    /// May devices be sent here? Not while it is drained, and not before a logic node is linked.
    pub fn readiness(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let hub = self.hub.clone();
        move || hub.is_ready()
    }

    /// Serves until `shutdown`, then sends the devices elsewhere and stops.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), GatewayRunError> {
        let ended = tokio::select! {
            () = shutdown => None,
            part = self.doors.ended() => Some(part),
            _ = &mut self.links => Some("the links"),
            _ = &mut self.ticks => Some("the timer"),
        };
        if ended.is_none() {
            self.doors.stop_accepting();
            self.hub.drain(DRAIN);
            let deadline = Instant::now() + DRAIN + Duration::from_millis(200);
            while self.hub.connections() > 0 && Instant::now() < deadline {
                tokio::time::sleep(TICK).await;
            }
        }
        self.doors.close().await;
        for task in [self.links, self.ticks].into_iter().chain(self.operators.map(|(_, task)| task)) {
            task.abort();
        }
        ended.map_or(Ok(()), |part| Err(GatewayRunError::Ended(part)))
    }
}

async fn tick(hub: Arc<Hub>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let (mut sampled, mut sample_at) = (0, Instant::now());
    loop {
        interval.tick().await;
        let now = Instant::now();
        hub.with_router(|router| router.handle_tick(now));
        if now >= sample_at {
            sample_at = now + RTT_PERIOD;
            sampled = hub.sample_rtt(sampled);
        }
    }
}
