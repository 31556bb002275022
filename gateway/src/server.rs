//! Server: starts the parts of a gateway and stops them in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use prometheus_client::registry::Registry;
use seriatim_proto::error::Refusal;
use seriatim_proto::token::Verifier;
use tokio::task::JoinHandle;
use tracing::info;

use crate::config::GatewayConfig;
use crate::device::Desk;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::{logic_link, transport};

/// Period of the router's tick.
const TICK: Duration = Duration::from_millis(20);
/// Time that devices get to go elsewhere.
const DRAIN: Duration = Duration::from_millis(1_000);

/// Why a gateway did not start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayStartError {
    /// The flag is missing.
    #[error("start without `insecure_plaintext`: mTLS between our processes comes later")]
    PlaintextNotAllowed,
    /// No logic node is named.
    #[error("start without the address of a logic node")]
    NoLogic,
    /// The key that verifies tokens.
    #[error("read the token's public key")]
    TokenKey(#[source] Refusal),
    /// The certificate chain.
    #[error("read the certificate")]
    Certificate(#[source] rustls::pki_types::pem::Error),
    /// The private key.
    #[error("read the private key")]
    PrivateKey(#[source] rustls::pki_types::pem::Error),
    /// Certificate and key do not go together.
    #[error("set up TLS")]
    Tls(#[source] rustls::Error),
    /// The port.
    #[error("bind UDP {address}")]
    Bind {
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
    endpoint: transport::Endpoint,
    hub: Arc<Hub>,
    accept: JoinHandle<()>,
    links: JoinHandle<()>,
    ticks: JoinHandle<()>,
}

impl std::fmt::Debug for GatewayServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GatewayServer({})", self.address)
    }
}

impl GatewayServer {
    /// Binds and serves. Devices are admitted as soon as one logic node is linked.
    pub async fn start(config: GatewayConfig, registry: &mut Registry) -> Result<GatewayServer, GatewayStartError> {
        if !config.insecure_plaintext {
            return Err(GatewayStartError::PlaintextNotAllowed);
        }
        if config.logic.is_empty() {
            return Err(GatewayStartError::NoLogic);
        }
        let verifier = Verifier::from_public_pem(&config.token_public_key_pem).map_err(GatewayStartError::TokenKey)?;
        let endpoint = transport::bind(&config)?;
        let address = transport::address(&endpoint)
            .map_err(|source| GatewayStartError::Bind { address: config.listen, source })?;
        let hub = Arc::new(Hub::new(Metrics::new(registry)));
        let desk = Desk { hub: hub.clone(), verifier: Arc::new(verifier) };
        let accept = tokio::spawn(transport::accept(endpoint.clone(), desk));
        let links = tokio::spawn(logic_link::keep_links(hub.clone(), config.logic));
        let ticks = tokio::spawn(tick(hub.clone()));
        info!(%address, "gateway listens");
        Ok(Self { address, endpoint, hub, accept, links, ticks })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown`, then sends the devices elsewhere and stops.
    pub async fn run(mut self, shutdown: impl Future<Output = ()> + Send) -> Result<(), GatewayRunError> {
        let ended = tokio::select! {
            () = shutdown => None,
            _ = &mut self.accept => Some("the socket"),
            _ = &mut self.links => Some("the links"),
            _ = &mut self.ticks => Some("the timer"),
        };
        if ended.is_none() {
            transport::stop_accepting(&self.endpoint);
            self.hub.drain(DRAIN);
            let deadline = Instant::now() + DRAIN + Duration::from_millis(200);
            while self.hub.connections() > 0 && Instant::now() < deadline {
                tokio::time::sleep(TICK).await;
            }
        }
        transport::close(&self.endpoint).await;
        for task in [self.accept, self.links, self.ticks] {
            task.abort();
        }
        ended.map_or(Ok(()), |part| Err(GatewayRunError::Ended(part)))
    }
}

async fn tick(hub: Arc<Hub>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        hub.with_router(|router| router.handle_tick(Instant::now()));
    }
}
