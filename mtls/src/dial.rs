//! Dial: connections to other nodes. The certificate shown must be of the cluster's CA, name the host that was dialled
//! and be of the role that was dialled: a gateway's certificate opens no store, however it is called.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, ServerName};
use seriatim_proto::certificate::{NodeName, NodeRole};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint, Error};
use x509_parser::prelude::{FromDer, X509Certificate};

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

impl Mtls {
    /// The certificates that the node at `address`, `host:port`, shows, its own first, if it would be spoken with as a
    /// `peer`. `None`: without TLS nobody shows any.
    pub async fn shown_by(&self, address: &str, peer: NodeRole) -> io::Result<Option<Vec<CertificateDer<'static>>>> {
        let Some(inner) = &self.0 else { return Ok(None) };
        let uri = format!("http://{address}")
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, format!("`{address}` is no host:port")))?;
        let dialler = Dialler { inner: Arc::clone(inner), peer };
        let stream = dialler.dial(&uri).await.map_err(Dead::into_inner)?;
        let shown = stream.stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(Some(shown.iter().map(|one| one.clone().into_owned()).collect()))
    }
}

/// Says all of an error of tonic, whose own text is "transport error".
pub fn why(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let causes: Vec<_> = causes.map(ToString::to_string).collect();
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}

/// Longest wait for a TCP connection, over all addresses of a name.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes the connections of one channel.
#[derive(Clone)]
struct Dialler {
    inner: Arc<Inner>,
    peer: NodeRole,
}

impl Service<http::Uri> for Dialler {
    type Response = TokioIo<Dialled>;
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
                dialler.note(error);
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
    /// Who dials tries again and again, and says little about it: a node that is away is nothing special.
    fn note(&self, error: &io::Error) {
        self.inner.metrics.refuse_dial(self.peer.name());
        if self.inner.dial_word.may_say() {
            tracing::warn!(peer = self.peer.name(), %error, "a node is not spoken with");
        }
    }

    async fn dial(&self, uri: &http::Uri) -> Result<Dialled, Dead> {
        let nowhere = || Dead::Away(io::Error::new(io::ErrorKind::InvalidInput, format!("`{uri}` is no host:port")));
        let host = uri.host().ok_or_else(nowhere)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = ServerName::try_from(host.to_owned()).map_err(|_| nowhere())?;
        // Of several addresses of a name each gets its part of the time, and both families are tried.
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(PATIENCE));
        let stream = connector.call(uri.clone()).await.map_err(|error| Dead::Away(io::Error::other(error)))?;
        let stream = stream.into_inner();
        // The certificate of this moment.
        let client = Arc::clone(&self.inner.current.load().client);
        let stream = TlsConnector::from(client).connect(name, stream).await.map_err(|error| said(host, error))?;
        let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let leaf = shown.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
        match leaf.map(|(_, leaf)| NodeName::of(&leaf)) {
            Some(Ok(node)) if node.role == self.peer => Ok(Dialled { stream, dialler: self.clone() }),
            Some(Ok(node)) => Err(refused(format!("a {} was dialled, and {node} answers", self.peer.name()))),
            _ => Err(refused(format!("a {} was dialled, and the certificate shown is of no node", self.peer.name()))),
        }
    }
}

/// A connection that was made. What the other side thinks of our certificate is only heard afterwards (RFC 8446, 4.4).
pub(crate) struct Dialled {
    stream: TlsStream<TcpStream>,
    dialler: Dialler,
}

impl AsyncRead for Dialled {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        match read {
            Poll::Ready(Err(error)) if alert(&error).is_some() => {
                let error = said("", error).into_inner();
                this.dialler.note(&error);
                Poll::Ready(Err(error))
            }
            read => read,
        }
    }
}

impl AsyncWrite for Dialled {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

fn alert(error: &io::Error) -> Option<rustls::AlertDescription> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
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
