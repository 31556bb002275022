//! Builder: what a client must be told before it connects.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};
use tokio::sync::oneshot;
use tracing::{Instrument, debug_span};

use crate::client::Client;
use crate::endpoint::{Endpoint, SetupError};
use crate::error::ConnectError;
use crate::pilot;
use crate::shared::Shared;

/// A token that is on its way, or why there is none.
pub(crate) type Asking = BoxFuture<'static, Result<String, String>>;
/// Gives the token for the next connection, or for the session that is under way.
pub(crate) type TokenSource = Arc<dyn Fn() -> Asking + Send + Sync>;

/// What carries a client's connections. The gateway has one port number for all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// QUIC only
    #[default]
    Quic,
    /// WebSocket over TLS and TCP only
    WebSocket,
    /// QUIC, and a WebSocket beside it if QUIC fails or takes longer than 400 ms: whichever connects first
    Fastest,
}

/// What every connection of a client needs.
pub(crate) struct Options {
    /// Tried in turn.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) server_name: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) transport: Transport,
    pub(crate) token: TokenSource,
    /// The token never changes: an expired one is the end.
    pub(crate) token_fixed: bool,
    /// There is no token, but a certificate that is read anew: another one may take an ended one's place.
    pub(crate) certificate_renewed: bool,
    pub(crate) device: String,
    pub(crate) connect_timeout: Duration,
}

#[derive(Clone)]
enum Certificate {
    /// chain and key
    Pem(Vec<u8>, Vec<u8>),
    /// chain and key
    Files(PathBuf, PathBuf),
}

/// Builds a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    addresses: Vec<SocketAddr>,
    server_name: String,
    endpoint: Option<Endpoint>,
    transport: Transport,
    ca_pem: Option<Vec<u8>>,
    certificate: Option<Certificate>,
    token: Option<TokenSource>,
    token_fixed: bool,
    device: Option<String>,
    connect_timeout: Duration,
    request_timeout: Duration,
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tokens stay out of logs.
        write!(f, "ClientBuilder({:?}, {:?})", self.addresses, self.device)
    }
}

/// Time to the first session.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time of a request, retries and reconnects included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

impl ClientBuilder {
    pub(crate) fn new(address: SocketAddr, server_name: &str) -> Self {
        Self {
            addresses: vec![address],
            server_name: server_name.to_owned(),
            endpoint: None,
            transport: Transport::default(),
            ca_pem: None,
            certificate: None,
            token: None,
            token_fixed: false,
            device: None,
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: REQUEST_TIMEOUT,
        }
    }

    /// Another gateway, tried when the ones before do not answer.
    #[must_use]
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// Trusts this CA alone, through an endpoint of its own.
    #[must_use]
    pub fn ca_pem(mut self, pem: &[u8]) -> Self {
        self.ca_pem = Some(pem.to_vec());
        self
    }

    /// Shows this certificate to a gateway that asks for one; then no token is needed. PEM: the device's own first, then
    /// its issuers without the CA; and its private key. Goes with [`ClientBuilder::ca_pem`]; an endpoint that is shared
    /// has its own ([`Endpoint::with_client_certificate`]).
    #[must_use]
    pub fn client_certificate(mut self, chain_pem: &[u8], key_pem: &[u8]) -> Self {
        self.certificate = Some(Certificate::Pem(chain_pem.to_vec(), key_pem.to_vec()));
        self
    }

    /// As [`ClientBuilder::client_certificate`], from PEM files, which are read anew for every connection: the client
    /// goes on with the certificate that takes the place of one that ends.
    #[must_use]
    pub fn client_certificate_files(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some(Certificate::Files(chain.into(), key.into()));
        self
    }

    /// Uses an endpoint that other clients may share.
    #[must_use]
    pub fn endpoint(mut self, endpoint: &Endpoint) -> Self {
        self.endpoint = Some(endpoint.clone());
        self
    }

    /// Chooses what carries the connections.
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Uses this token for every connection.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        let token = token.into();
        self.token = Some(always(token));
        self.token_fixed = true;
        self
    }

    /// Asks for a token before every connection, and in good time before the end of the one that a session has.
    #[must_use]
    pub fn token_provider(self, provider: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.token_source(move || std::future::ready(Ok::<_, Infallible>(provider())))
    }

    /// As [`ClientBuilder::token_provider`], of whoever takes time to make a token, or fails: then it is asked again after
    /// a pause. It has 10 s for each.
    #[must_use]
    pub fn token_source<F, Made, E>(mut self, source: F) -> Self
    where
        F: Fn() -> Made + Send + Sync + 'static,
        Made: Future<Output = Result<String, E>> + Send + 'static,
        E: fmt::Display,
    {
        self.token = Some(Arc::new(move || source().map_err(|error| error.to_string()).boxed()));
        self.token_fixed = false;
        self
    }

    /// The name of this endpoint of the user; has its own cursor.
    #[must_use]
    pub fn device(mut self, device: impl Into<String>) -> Self {
        self.device = Some(device.into());
        self
    }

    /// Time to the first session; later connections are tried for ever.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Time of a request, retries and reconnects included.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// Connects. From then on the client reconnects by itself.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let endpoint = match (self.endpoint, self.ca_pem, self.certificate) {
            (Some(_), _, Some(_)) => {
                let text = "the endpoint has its own, or none: make it with one";
                return Err(SetupError::ClientCertificate(text.to_owned()).into());
            }
            (Some(endpoint), _, None) => endpoint,
            (None, Some(pem), None) => Endpoint::new(self.addresses[0], &pem)?,
            (None, Some(pem), Some(Certificate::Files(chain, key))) => {
                Endpoint::with_client_certificate_files(self.addresses[0], &pem, chain, key)?
            }
            (None, Some(pem), Some(Certificate::Pem(chain, key))) => {
                Endpoint::with_client_certificate(self.addresses[0], &pem, &chain, &key)?
            }
            (None, None, _) => return Err(ConnectError::Missing("CA certificate or endpoint")),
        };
        let certificate_renewed = self.token.is_none() && endpoint.is_renewed();
        let (token, token_fixed) = match self.token {
            Some(token) => (token, self.token_fixed),
            None if endpoint.is_certified() => (always(String::new()), true),
            None => return Err(ConnectError::Missing("token or client certificate")),
        };
        let options = Options {
            addresses: self.addresses,
            server_name: self.server_name,
            endpoint,
            transport: self.transport,
            token,
            token_fixed,
            certificate_renewed,
            device: self.device.ok_or(ConnectError::Missing("device"))?,
            connect_timeout: self.connect_timeout,
        };
        let shared = Arc::new(Shared::new());
        let client = Client::new(shared.clone(), self.request_timeout);
        let (first, connected) = oneshot::channel();
        let span = debug_span!("client", device = %options.device);
        tokio::spawn(pilot::fly(shared, Arc::new(options), first).instrument(span));
        connected.await.unwrap_or_else(|_| Err(ConnectError::Timeout("the client was closed".to_owned())))?;
        Ok(client)
    }
}

/// The same token whenever it is asked for.
fn always(token: String) -> TokenSource {
    Arc::new(move || std::future::ready(Ok(token.clone())).boxed())
}
