//! Listener: accepted connections that end when the store ends.
//!
//! A gRPC stream between our processes lives for ever, so a server that waits for its streams never stops. Each
//! connection therefore reads "end of file" once the store closes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::server::{Connected, TcpConnectInfo};

/// Accepts until `closed` becomes true.
pub(crate) fn incoming(
    listener: TcpListener,
    closed: watch::Receiver<bool>,
) -> impl Stream<Item = io::Result<Connection>> + Send {
    futures_util::stream::unfold((listener, closed), |(listener, mut closed)| async move {
        let accepted = tokio::select! {
            biased;
            _ = closed.wait_for(|closed| *closed) => return None,
            accepted = listener.accept() => accepted,
        };
        let connection = accepted.and_then(|(stream, _)| {
            stream.set_nodelay(true)?;
            let mut closed = closed.clone();
            let ended = Box::pin(async move {
                // A dropped sender closes too.
                let _ = closed.wait_for(|closed| *closed).await;
            });
            Ok(Connection { stream, ended, over: false })
        });
        Some((connection, (listener, closed)))
    })
}

/// One accepted connection.
pub(crate) struct Connection {
    stream: TcpStream,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.over || this.ended.as_mut().poll(cx).is_ready() {
            this.over = true;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
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

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;
    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}
