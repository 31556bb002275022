//! Dial: connections to other nodes. The certificate shown must be of the cluster's CA, name the host that was dialled
//! and be of the role that was dialled: a gateway's certificate opens no store, however it is called.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use seriatim_proto::certificate::{NodeName, NodeRole};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Error};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::accept::may_say;
use crate::{Inner, Mtls};

impl Mtls {
    /// Connects to a node that must be a `peer`. The endpoint's address is `http://HOST:PORT` with TLS too.
    pub async fn connect(&self, endpoint: &Endpoint, peer: NodeRole) -> Result<Channel, Error> {
        match &self.0 {
            None => endpoint.connect().await,
            Some(inner) => endpoint.connect_with_connector(Dialler { inner: Arc::clone(inner), peer }).await,
        }
    }

    /// As [`Mtls::connect`], when it is first used.
    pub fn connect_lazy(&self, endpoint: &Endpoint, peer: NodeRole) -> Channel {
        match &self.0 {
            None => endpoint.connect_lazy(),
            Some(inner) => endpoint.connect_with_connector_lazy(Dialler { inner: Arc::clone(inner), peer }),
        }
    }
}

/// Says all of an error of tonic, whose own text is "transport error".
pub fn why(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

/// Makes the connections of one channel.
#[derive(Clone)]
struct Dialler {
    inner: Arc<Inner>,
    peer: NodeRole,
}

impl Service<http::Uri> for Dialler {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let dialler = self.clone();
        Box::pin(async move {
            let dialled = dialler.dial(&uri).await;
            if let Err(Dead::Refused(error)) = &dialled {
                dialler.inner.metrics.refuse_dial(dialler.peer.name());
                // Who dials tries again and again, and says little about it: a node that is away is nothing special.
                if may_say() {
                    tracing::warn!(to = %uri, %error, "a node is not spoken with");
                }
            }
            dialled.map(TokioIo::new).map_err(Dead::into_inner)
        })
    }
}

/// Why there is no connection.
enum Dead {
    /// nobody is there
    Away(io::Error),
    /// somebody else is, or nobody who would have us
    Refused(io::Error),
}

impl Dead {
    fn into_inner(self) -> io::Error {
        match self {
            Self::Away(error) | Self::Refused(error) => error,
        }
    }
}

impl Dialler {
    async fn dial(&self, uri: &http::Uri) -> Result<TlsStream<TcpStream>, Dead> {
        let nowhere = || Dead::Refused(io::Error::new(io::ErrorKind::InvalidInput, format!("`{uri}` is no host:port")));
        let host = uri.host().ok_or_else(nowhere)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = uri.port_u16().ok_or_else(nowhere)?;
        let name = ServerName::try_from(host.to_owned()).map_err(|_| nowhere())?;
        let stream = TcpStream::connect((host, port)).await.map_err(Dead::Away)?;
        stream.set_nodelay(true).map_err(Dead::Away)?;
        // The certificate of this moment.
        let client = Arc::clone(&self.inner.current.load().client);
        let stream = TlsConnector::from(client).connect(name, stream).await.map_err(|error| said(host, error))?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let leaf = shown.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
        match leaf.map(|(_, leaf)| NodeName::of(&leaf)) {
            Some(Ok(node)) if node.role == self.peer => Ok(stream),
            Some(Ok(node)) => Err(refused(format!("a {} was dialled, and {node} answers", self.peer.name()))),
            _ => Err(refused(format!("a {} was dialled, and the certificate shown is of no node", self.peer.name()))),
        }
    }
}

fn refused(text: String) -> Dead {
    Dead::Refused(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

/// In words that say what to do.
fn said(host: &str, error: io::Error) -> Dead {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = match tls {
        Some(rustls::Error::InvalidMessage(_)) => {
            "the other side speaks no TLS: its process has --insecure-plaintext".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(why)) => {
            format!("the certificate that {host} shows is refused: {why}")
        }
        Some(rustls::Error::AlertReceived(alert)) => format!("the other side refuses this certificate: {alert:?}"),
        _ => return Dead::Away(error),
    };
    Dead::Refused(io::Error::new(error.kind(), text))
}
