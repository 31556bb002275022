//! Fetch: one GET of an issuer's keys, over TLS unless the issuer is on this machine.
//!
//! No redirects, no proxies, no cache: an operator names the address itself, and what is not exactly an answer with
//! status 200 is a failure.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use seriatim_proto::limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Time for all of it.
const TIMEOUT: Duration = Duration::from_secs(3);
/// Where Debian and its like keep the CAs that the system trusts.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// An issuer's address.
#[derive(Clone)]
pub(super) struct Address {
    uri: Uri,
    host: String,
    port: u16,
    /// None: plaintext, on this machine
    tls: Option<Arc<rustls::ClientConfig>>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What comes behind a `?` may be a secret.
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        write!(f, "{scheme}://{}:{}{}", self.host, self.port, self.uri.path())
    }
}

impl Address {
    /// Takes `https://…`, or `http://…` of this machine; `ca` is for those who sign for the issuer.
    pub(super) fn parse(text: &str, ca: Option<&Path>) -> anyhow::Result<Self> {
        let uri: Uri = text.parse().context("read it as an address")?;
        let host = uri.host().context("find a host in the address")?.to_owned();
        ensure!(!uri.authority().is_some_and(|authority| authority.as_str().contains('@')), "no user may be in it");
        let bare = bare(&host);
        let tls = match uri.scheme_str() {
            Some("https") => {
                ServerName::try_from(bare.to_owned()).context("use the host as a name in a certificate")?;
                Some(Arc::new(tls_config(ca)?))
            }
            Some("http") => {
                let local = bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
                ensure!(local, "an address that is not on this machine must be https: keys over http are anybody's");
                ensure!(ca.is_none(), "--token-keys-ca is for an https address");
                None
            }
            _ => bail!("an address must begin with https://"),
        };
        let port = uri.port_u16().unwrap_or_else(|| if tls.is_some() { 443 } else { 80 });
        Ok(Self { uri, host, port, tls })
    }
}

/// The host without the brackets of IPv6.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn tls_config(ca: Option<&Path>) -> anyhow::Result<rustls::ClientConfig> {
    let path = ca.map_or_else(|| PathBuf::from(SYSTEM_CAS), Path::to_owned);
    let hint = "name the CA of the issuer with --token-keys-ca";
    let pem = std::fs::read(&path).with_context(|| format!("read {} ({hint})", path.display()))?;
    let mut roots = rustls::RootCertStore::empty();
    // Of the system's CAs some may be of a kind that is not known; the others go on.
    let (added, _) = roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok));
    ensure!(added > 0, "{} holds no certificate of a CA: {hint}", path.display());
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("set up TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// The answer's body.
pub(super) async fn get(address: &Address) -> anyhow::Result<Vec<u8>> {
    tokio::time::timeout(TIMEOUT, Box::pin(connect_and_ask(address))).await.context("get an answer within 3 s")?
}

async fn connect_and_ask(address: &Address) -> anyhow::Result<Vec<u8>> {
    let host = bare(&address.host);
    let stream = TcpStream::connect((host, address.port)).await.context("connect")?;
    match &address.tls {
        None => ask(address, stream).await,
        Some(tls) => {
            let name = ServerName::try_from(host.to_owned()).context("use the host as a name in a certificate")?;
            let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.context("speak TLS")?;
            ask(address, stream).await
        }
    }
}

async fn ask(
    address: &Address,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<Vec<u8>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.context("speak HTTP")?;
    let path = address.uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = address.uri.authority().map_or(address.host.as_str(), |authority| authority.as_str());
    let request = Request::get(path)
        .header(HOST, authority)
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, concat!("seriatim/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .context("make the request")?;
    let answered = async {
        let response = sender.send_request(request).await.context("get an answer")?;
        let status = response.status();
        ensure!(status == StatusCode::OK, "the issuer answers {status}");
        let body = Limited::new(response.into_body(), limits::TOKEN_KEYS_BYTES_MAX as usize);
        let body = body.collect().await.map_err(|error| anyhow::anyhow!("read the answer: {error}"))?;
        Ok(body.to_bytes().to_vec())
    };
    // The connection is driven until the answer is there.
    let mut answered = std::pin::pin!(answered);
    tokio::select! {
        answer = &mut answered => answer,
        ended = connection => {
            ended.context("read the answer")?;
            answered.await
        }
    }
}
