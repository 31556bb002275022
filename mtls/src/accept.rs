//! Accept: connections of other nodes, each with what its certificate says of the caller.
//!
//! A gRPC stream between our processes lives for ever, so a server that waits for its streams never stops. Each
//! connection therefore reads "end of file" once the server closes, and once the caller's certificate ends.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt};
use seriatim_proto::certificate::{NodeName, first_end_s};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{Inner, Mtls};

/// Handshakes at the same time; more wait in the kernel.
const HANDSHAKES_MAX: usize = 1_024;
/// Longest handshake.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts to take a connection, when there is no descriptor for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Longest life of a connection: timers do not count further. Whoever is dialled anew after it does not notice.
const LIFE_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Accepts until `closed` becomes true, or its sender is gone.
pub fn incoming(
    listener: TcpListener,
    closed: watch::Receiver<bool>,
    mtls: Mtls,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    let accepted = futures_util::stream::unfold((listener, closed), |(listener, mut closed)| async move {
        loop {
            let accepted = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => return None,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => return Some(((stream, from, closed.clone()), (listener, closed))),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    let greeted = accepted.map(move |(stream, from, closed)| {
        let mtls = mtls.clone();
        async move { greet(stream, from, closed, &mtls).await }
    });
    greeted.buffer_unordered(HANDSHAKES_MAX).filter_map(|greeted| std::future::ready(greeted.map(Ok)))
}

async fn greet(
    stream: TcpStream,
    from: SocketAddr,
    mut closed: watch::Receiver<bool>,
    mtls: &Mtls,
) -> Option<Connection> {
    // It is gone already.
    stream.set_nodelay(true).ok()?;
    let Some(inner) = &mtls.0 else {
        let ended = Box::pin(async move {
            // A dropped sender closes too.
            let _ = closed.wait_for(|closed| *closed).await;
        });
        return Some(Connection { stream: Stage::Plain(stream), ended, over: false, caller: Caller::plaintext() });
    };
    let shaken = tokio::select! {
        biased;
        _ = closed.wait_for(|closed| *closed) => return None,
        shaken = tokio::time::timeout(HANDSHAKE_PATIENCE, shake(stream, inner)) => shaken,
    };
    let (reason, why) = match shaken {
        Ok(Ok((stream, node, life))) => {
            tracing::debug!(caller = %node, %from, "connection");
            let ended = Box::pin(async move {
                tokio::select! {
                    _ = closed.wait_for(|closed| *closed) => {}
                    () = tokio::time::sleep(life) => {}
                }
            });
            let stream = Stage::Tls(Box::new(stream));
            return Some(Connection { stream, ended, over: false, caller: Caller::of(node) });
        }
        Ok(Err(Refused { reason: "Gone", .. })) => return None,
        Ok(Err(Refused { reason, why })) => (reason, why),
        Err(_) => ("Late", "the handshake takes too long".to_owned()),
    };
    inner.metrics.refuse_connection(reason);
    if may_say() {
        tracing::warn!(%from, reason, why, "a connection is refused");
    }
    None
}

struct Refused {
    reason: &'static str,
    why: String,
}

async fn shake(stream: TcpStream, inner: &Inner) -> Result<(TlsStream<TcpStream>, NodeName, Duration), Refused> {
    let gone = || Refused { reason: "Gone", why: String::new() };
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(gone()),
        Ok(_) if first[0] != TLS_HANDSHAKE => {
            say_tls(stream).await;
            return Err(Refused {
                reason: "Plaintext",
                why: "it speaks no TLS: its process has --insecure-plaintext".to_owned(),
            });
        }
        Ok(_) => {}
    }
    let server = Arc::clone(&inner.current.load().server);
    let stream = TlsAcceptor::from(server).accept(stream).await;
    let stream = stream.map_err(|error| Refused { reason: "Handshake", why: error.to_string() })?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let unnamed = || Refused { reason: "Unnamed", why: "its certificate is of no node".to_owned() };
    let leaf = shown.first().ok_or_else(unnamed)?;
    let node = X509Certificate::from_der(leaf).ok().and_then(|(_, leaf)| NodeName::of(&leaf).ok());
    let node = node.ok_or_else(unnamed)?;
    let end = first_end_s(shown).and_then(|end| u64::try_from(end).ok()).unwrap_or(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let life = Duration::from_secs(end).saturating_sub(now).min(LIFE_MAX);
    Ok((stream, node, life))
}

/// First byte of a handshake.
const TLS_HANDSHAKE: u8 = 22;

/// Tells a client of HTTP/2 why, in its own words: it prints them.
async fn say_tls(mut stream: TcpStream) {
    const TEXT: &[u8] =
        b"this port speaks TLS only: name --tls-ca, --tls-cert and --tls-key (raftctl: --cacert, --cert, --key)";
    const INADEQUATE_SECURITY: u32 = 0xc;
    let mut said = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u8::try_from(8 + TEXT.len()).expect("the text is short");
    said.extend([0, 0, length, 7, 0, 0, 0, 0, 0]);
    said.extend(0_u32.to_be_bytes());
    said.extend(INADEQUATE_SECURITY.to_be_bytes());
    said.extend(TEXT);
    if stream.write_all(&said).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    // A socket that is closed with bytes unread takes back what it said.
    let read = async {
        let mut scratch = [0; 1_024];
        while matches!(stream.read(&mut scratch).await, Ok(1..)) {}
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), read).await;
}

/// One line a second at most: who is refused comes again.
pub(crate) fn may_say() -> bool {
    static SAID_S: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    SAID_S.swap(now, Ordering::Relaxed) != now
}

/// Whose connection it is.
#[derive(Clone, Debug)]
pub struct Caller(Option<Arc<NodeName>>);

impl Caller {
    /// Nobody was asked.
    pub fn plaintext() -> Self {
        Self(None)
    }

    /// As its certificate says.
    pub fn of(node: NodeName) -> Self {
        Self(Some(Arc::new(node)))
    }

    /// Of a request that came through [`incoming`].
    pub fn of_request<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Caller>().cloned().unwrap_or(Self(None))
    }

    /// `None` without TLS.
    pub fn node(&self) -> Option<&NodeName> {
        self.0.as_deref()
    }
}

/// One accepted connection.
pub struct Connection {
    stream: Stage,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
    caller: Caller,
}

enum Stage {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.over || this.ended.as_mut().poll(cx).is_ready() {
            this.over = true;
            return Poll::Ready(Ok(()));
        }
        match &mut this.stream {
            Stage::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stage::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stage::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stage::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stage::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stage::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stage::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stage::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stage::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Stage::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stage::Plain(stream) => stream.is_write_vectored(),
            Stage::Tls(stream) => stream.is_write_vectored(),
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Caller;
    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}
