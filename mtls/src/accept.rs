//! Accept: connections of other nodes, each with what its certificate says of the caller.
//!
//! A gRPC stream between our processes lives for ever, so a server that waits for its streams never stops. Each
//! connection therefore reads "end of file" once the server closes, and once the caller's certificate ends.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use seriatim_proto::certificate::{NodeName, first_end_s};
use seriatim_proto::limits::{NODE_HANDSHAKE_MS_MAX, NODE_HANDSHAKES_ADDRESS_MAX, NODE_HANDSHAKES_MAX};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::rules::Door;
use crate::{Inner, Mtls};

/// Between two attempts to take a connection, when there is no descriptor for it.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two looks at the wall clock while a connection lives: it may be set, and timers do not count a suspend.
const LIFE_LOOK: Duration = Duration::from_secs(60);
/// Connections whose certificates end together end apart: up to this share of what is left, and up to so long, before.
const EARLIER: (u32, Duration) = (10, Duration::from_secs(3_600));
/// Whoever is turned away has this long to hear it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Accepts until `closed` becomes true, or its sender is gone. With TLS, whoever may use none of the `doors` behind the
/// port is turned away at once.
pub fn incoming(
    listener: TcpListener,
    doors: &'static [Door],
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
    let sources = Sources::default();
    let greeted = accepted.map(move |(stream, from, closed)| {
        let (mtls, source) = (mtls.clone(), sources.enter(from.ip()));
        async move { greet(stream, from, source, (doors, &mtls), closed).await }
    });
    greeted.buffer_unordered(NODE_HANDSHAKES_MAX as usize).filter_map(|greeted| std::future::ready(greeted.map(Ok)))
}

/// Handshakes under way, by address: nobody takes all places.
#[derive(Clone, Debug, Default)]
struct Sources(Arc<Mutex<HashMap<IpAddr, u32>>>);

/// A place of an address, given back when it is dropped.
#[derive(Debug)]
struct Source {
    all: Sources,
    address: IpAddr,
}

impl Sources {
    /// `None`: the address has all that are its.
    fn enter(&self, address: IpAddr) -> Option<Source> {
        let mut all = self.0.lock();
        let count = all.entry(address).or_insert(0);
        (*count < NODE_HANDSHAKES_ADDRESS_MAX).then(|| {
            *count += 1;
            Source { all: self.clone(), address }
        })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.address);
            }
        }
    }
}

async fn greet(
    stream: TcpStream,
    from: SocketAddr,
    source: Option<Source>,
    (doors, mtls): (&[Door], &Mtls),
    mut closed: watch::Receiver<bool>,
) -> Option<Connection> {
    // It is gone already.
    stream.set_nodelay(true).ok()?;
    let Some(inner) = &mtls.0 else {
        let ended = Box::pin(async move {
            // A dropped sender closes too.
            let _ = closed.wait_for(|closed| *closed).await;
        });
        return Some(Connection { stream: Stage::Plain(stream), ended, over: false, caller: Caller::Plaintext });
    };
    let shaken = if source.is_none() {
        Ok(Err(Refused { reason: "Crowded", why: "too many handshakes from this address".to_owned() }))
    } else {
        tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return None,
            shaken = tokio::time::timeout(
                Duration::from_millis(NODE_HANDSHAKE_MS_MAX),
                shake(stream, doors, inner),
            ) => shaken,
        }
    };
    drop(source);
    let (reason, why) = match shaken {
        Ok(Ok((stream, node, end_s))) => {
            tracing::debug!(caller = %node, %from, "connection");
            let ended = Box::pin(async move {
                tokio::select! {
                    _ = closed.wait_for(|closed| *closed) => {}
                    () = over(end_s) => {}
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
    if inner.accept_word.may_say() {
        tracing::warn!(%from, reason, why, "a connection is refused");
    }
    None
}

/// Waits for the end of a certificate by the wall clock, or for a moment before it.
async fn over(end_s: u64) {
    let left = |end_s: u64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Duration::from_secs(end_s).saturating_sub(now)
    };
    let earlier = (left(end_s) / EARLIER.0).min(EARLIER.1).as_millis().max(1);
    let drawn = u128::from(RandomState::new().hash_one(end_s)) % earlier;
    let earlier = Duration::from_millis(u64::try_from(drawn).unwrap_or(0));
    loop {
        let left = left(end_s).saturating_sub(earlier);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(LIFE_LOOK)).await;
    }
}

struct Refused {
    reason: &'static str,
    why: String,
}

async fn shake(
    stream: TcpStream,
    doors: &[Door],
    inner: &Inner,
) -> Result<(TlsStream<TcpStream>, NodeName, u64), Refused> {
    let gone = || Refused { reason: "Gone", why: String::new() };
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) | Err(_) => return Err(gone()),
        Ok(_) if first[0] != TLS_HANDSHAKE => {
            turn_away(stream, SPEAK_TLS).await;
            return Err(Refused {
                reason: "Plaintext",
                why: "it speaks no TLS: its process has --insecure-plaintext".to_owned(),
            });
        }
        Ok(_) => {}
    }
    let server = Arc::clone(&inner.current.load().server);
    let mut stream = match TlsAcceptor::from(server).accept(stream).into_fallible().await {
        Ok(stream) => stream,
        Err((error, stream)) => {
            drain(stream).await;
            return Err(Refused { reason: "Handshake", why: error.to_string() });
        }
    };
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let end_s = first_end_s(shown).and_then(|end| u64::try_from(end).ok()).unwrap_or(0);
    let leaf = shown.first().and_then(|leaf| X509Certificate::from_der(leaf).ok());
    let Some(node) = leaf.and_then(|(_, leaf)| NodeName::of(&leaf).ok()) else {
        let why = "this certificate is of no node";
        // What the other side does with it is its own matter.
        let _ = tokio::time::timeout(FAREWELL, say(&mut stream, why)).await;
        return Err(Refused { reason: "Unnamed", why: why.to_owned() });
    };
    if !doors.iter().any(|door| door.callers().contains(&node.role)) {
        let why = format!("nothing here is for the role of {node}");
        let _ = tokio::time::timeout(FAREWELL, say(&mut stream, &why)).await;
        return Err(Refused { reason: "Role", why });
    }
    Ok((stream, node, end_s))
}

/// First byte of a handshake.
const TLS_HANDSHAKE: u8 = 22;
/// What a client hears that speaks none.
const SPEAK_TLS: &str =
    "this port speaks TLS only: name --tls-ca, --tls-cert and --tls-key (raftctl: --cacert, --cert, --key)";

async fn turn_away(mut stream: TcpStream, why: &str) {
    // What the other side does with it is its own matter.
    let _ = tokio::time::timeout(FAREWELL, say(&mut stream, why)).await;
}

/// Tells a client of HTTP/2 why, in its own words: it prints them.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, why: &str) -> io::Result<()> {
    const INADEQUATE_SECURITY: u32 = 0xc;
    /// of a frame is one byte here
    const LONGEST: usize = 255 - 8;
    let text = &why.as_bytes()[..why.len().min(LONGEST)];
    let mut said = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = u8::try_from(8 + text.len()).expect("the text was cut");
    said.extend([0, 0, length, 7, 0, 0, 0, 0, 0]);
    said.extend(0_u32.to_be_bytes());
    said.extend(INADEQUATE_SECURITY.to_be_bytes());
    said.extend(text);
    stream.write_all(&said).await?;
    stream.shutdown().await?;
    read_all(stream).await;
    Ok(())
}

/// A socket that is closed with bytes unread takes back what it said.
async fn drain(mut stream: TcpStream) {
    if stream.shutdown().await.is_ok() {
        // Enough, if it does not end by itself.
        let _ = tokio::time::timeout(FAREWELL, read_all(&mut stream)).await;
    }
}

async fn read_all<S: AsyncRead + Unpin>(stream: &mut S) {
    let mut scratch = [0; 1_024];
    while matches!(stream.read(&mut scratch).await, Ok(1..)) {}
}

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// nobody was asked: there is no TLS
    Plaintext,
    /// as its certificate says
    Node(Arc<NodeName>),
    /// it did not come through [`incoming`]: a mistake of ours, which opens no door
    Unknown,
}

impl Caller {
    /// As its certificate says.
    pub fn of(node: NodeName) -> Self {
        Self::Node(Arc::new(node))
    }

    /// Of a request that came through [`incoming`].
    pub fn of_request<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Caller>().cloned().unwrap_or(Self::Unknown)
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
