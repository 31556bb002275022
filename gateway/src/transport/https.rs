//! HTTPS: the TCP socket: TLS, and one HTTP/1.1 request per connection, most often the upgrade to a WebSocket.
//!
//! From the first byte to the upgrade a connection has the same time as a QUIC handshake has, however slowly its
//! bytes come.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, HeaderName, ORIGIN,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use seriatim_proto::{limits, wire};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tracing::{Instrument, debug, info_span, warn};

use crate::client_certificate::{Shown, TlsSetup};
use crate::device::{self, Desk};
use crate::metrics::{Transport, TransportLabel, Why};
use crate::short_certificate::ShortCertificates;
use crate::transport::Line;
use crate::transport::gate::{Gate, Pass};
use crate::transport::rules::{Offered, Rules};
use crate::transport::tasks::Tasks;
use crate::transport::websocket::WebSocketCarrier;

/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Header fields of a request.
const HEADERS_MAX: usize = 64;
/// Pause after the system had no more sockets for us.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every connection of the TCP socket needs.
#[derive(Clone)]
pub(crate) struct Https {
    pub(crate) tls: TlsSetup,
    pub(crate) rules: Rules,
    pub(crate) port: u16,
    /// What browsers must know for WebTransport; none if they know the CA.
    pub(crate) short: Option<Arc<ShortCertificates>>,
    pub(crate) gate: Gate,
    pub(crate) tasks: Tasks,
    pub(crate) desk: Desk,
}

/// Accepts connections until it is dropped.
pub(crate) async fn accept(listener: TcpListener, https: Https) {
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "a connection was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match https.gate.enter(Transport::WebSocket, remote.ip()) {
            Ok(pass) => {
                let span = info_span!("connection", %remote);
                https.tasks.spawn(serve(stream, remote, pass, https.clone()).instrument(span));
            }
            Err(why) => https.desk.hub.metrics.refused(Transport::WebSocket, why),
        }
    }
}

async fn serve(stream: TcpStream, remote: SocketAddr, mut pass: Pass, https: Https) {
    let metrics = https.desk.hub.metrics.clone();
    let begun = Instant::now();
    let deadline = Duration::from_millis(limits::HELLO_TIMEOUT_MS);
    let greeted = match tokio::time::timeout(deadline, greet(stream, &https)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => {
            metrics.refused(Transport::WebSocket, Why::Handshake);
            return debug!(%error, %remote, "handshake failed");
        }
        Err(_) => {
            metrics.refused(Transport::WebSocket, Why::Deadline);
            return debug!(%remote, "handshake took too long");
        }
    };
    pass.greeted();
    let Some((io, read, shown)) = greeted else { return };
    let label = TransportLabel { transport: Transport::WebSocket };
    metrics.connections_accepted.get_or_create(&label).inc();
    metrics.handshake_seconds.get_or_create(&label).observe(begun.elapsed().as_secs_f64());
    let traffic = metrics.traffic(Transport::WebSocket);
    let line = Line::tcp(remote, &traffic);
    let carrier = WebSocketCarrier::new(io, read.to_vec(), traffic).await;
    device::drive(carrier, Transport::WebSocket, line, shown, https.desk).await;
}

/// Why there was no upgrade.
#[derive(Debug, thiserror::Error)]
enum GreetError {
    #[error("TLS")]
    Tls(#[source] std::io::Error),
    #[error("HTTP")]
    Http(#[from] hyper::Error),
}

type Io = TlsStream<TcpStream>;

/// An upgrade that was granted.
struct Upgrade {
    upgrade: OnUpgrade,
    /// a web page asked for it
    is_page: bool,
}

/// TLS and the request. `None`: it was a request of another kind, and is answered.
async fn greet(stream: TcpStream, https: &Https) -> Result<Option<(Io, Bytes, Shown)>, GreetError> {
    // Without it small frames wait for acknowledgements; it fails only for a socket that is broken.
    let _ = stream.set_nodelay(true);
    let (tls, shown) = https.tls.next();
    let io = TlsAcceptor::from(tls).accept(stream).await.map_err(GreetError::Tls)?;
    let upgrade: Arc<Mutex<Option<Upgrade>>> = Arc::default();
    let service = service_fn(|request| {
        let response = answer(request, https, &upgrade);
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await?;
    let Some(Upgrade { upgrade, is_page }) = upgrade.lock().take() else { return Ok(None) };
    // A browser shows its user's certificate whichever page asks: a page must know a token.
    let shown = if is_page { Shown::default() } else { shown };
    Ok(take_apart(upgrade.await?).map(|(io, read)| (io, read, shown)))
}

fn take_apart(upgraded: Upgraded) -> Option<(Io, Bytes)> {
    let parts = upgraded.downcast::<TokioIo<Io>>().ok()?;
    Some((parts.io.into_inner(), parts.read_buf))
}

fn answer(mut request: Request<Incoming>, https: &Https, upgrade: &Mutex<Option<Upgrade>>) -> Response<Full<Bytes>> {
    if request.uri().path() == WELL_KNOWN {
        return last(if request.method() == Method::GET {
            published(https)
        } else {
            refusal(StatusCode::METHOD_NOT_ALLOWED)
        });
    }
    match websocket(&request, https) {
        Ok(response) => {
            let is_page = request.headers().contains_key(ORIGIN);
            *upgrade.lock() = Some(Upgrade { upgrade: hyper::upgrade::on(&mut request), is_page });
            response
        }
        Err(status) => {
            https.desk.hub.metrics.refused(Transport::WebSocket, Why::Request);
            last(refusal(status))
        }
    }
}

/// The answer to an upgrade that is as it should be.
fn websocket(request: &Request<Incoming>, https: &Https) -> Result<Response<Full<Bytes>>, StatusCode> {
    let headers = request.headers();
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let protocols = protocols.flat_map(|list| list.split(',').map(str::trim));
    // An origin that is no text is nobody's.
    let origin = headers.get(ORIGIN).map(|origin| origin.to_str().unwrap_or_default());
    let offered = https.rules.check(request.uri().path(), origin, text(HOST), protocols)?;
    if request.method() != Method::GET {
        return Err(StatusCode::METHOD_NOT_ALLOWED);
    }
    let named = |name: HeaderName, what: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|list| list.split(',')).any(|word| word.trim().eq_ignore_ascii_case(what))
    };
    if !named(UPGRADE, "websocket") || !named(CONNECTION, "upgrade") || text(SEC_WEBSOCKET_VERSION) != Some("13") {
        return Err(StatusCode::UPGRADE_REQUIRED);
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == KEY_BYTES).ok_or(StatusCode::BAD_REQUEST)?;
    if offered != Offered::Ours {
        return Err(StatusCode::BAD_REQUEST);
    }
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).expect("base64 is a header value");
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_bytes(wire::ALPN).expect("a token is a header value"));
    Ok(response)
}

/// What a browser needs for WebTransport. It is no secret: any page may ask.
fn published(https: &Https) -> Response<Full<Bytes>> {
    let hashes = https.short.as_ref().map(|short| short.hashes());
    let hashes: Vec<_> = hashes.iter().flatten().map(|hash| format!("\"{hash}\"")).collect();
    let (port, protocol) = (https.port, String::from_utf8_lossy(wire::ALPN));
    let text = format!(
        "{{\"port\":{port},\"path\":\"{}\",\"protocol\":\"{protocol}\",\"algorithm\":\"sha-256\",\"hashes\":[{}]}}\n",
        wire::lane::PATH,
        hashes.join(","),
    );
    let mut response = Response::new(Full::new(text.into()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

/// Where [`published`] is.
const WELL_KNOWN: &str = "/.well-known/seriatim-wt";
/// 16 bytes in base64.
const KEY_BYTES: usize = 24;

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

/// An answer after which nothing more is asked.
fn last(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    response.headers_mut().entry(CONNECTION).or_insert(HeaderValue::from_static("close"));
    response
}

fn refusal(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = empty(status);
    let headers = response.headers_mut();
    match status {
        StatusCode::UPGRADE_REQUIRED => {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade, close"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(ALLOW, HeaderValue::from_static("GET"));
        }
        _ => {}
    }
    response
}
