//! Netns: a look from inside a node's network namespace, by a thread that enters it and ends there.
//!
//! A socket belongs to the namespace of the thread that made it, so a short-lived thread of our own is enough to read
//! a node's /metrics on its loopback, or to try whether one node reaches another.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Longest answer of /metrics.
const METRICS_BYTES_MAX: u64 = 4 << 20;

/// Runs `work` in the network namespace of this file, or here if there is none.
pub(crate) async fn within<T: Send + 'static>(
    namespace: Option<PathBuf>,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    let (answer, answered) = tokio::sync::oneshot::channel();
    // A thread of its own, not of a pool: it never comes back from the namespace.
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let done = namespace.map_or(Ok(()), |path| enter(&path)).and_then(|()| work());
            let _ = answer.send(done);
        })
        .context("start a thread")?;
    Ok(answered.await.context("hear from the thread in the namespace")??)
}

fn enter(path: &Path) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Does a TCP connection to `to` come about from there, within `patience`?
pub(crate) async fn connects(namespace: Option<PathBuf>, to: SocketAddr, patience: Duration) -> anyhow::Result<bool> {
    within(namespace, move || Ok(TcpStream::connect_timeout(&to, patience).is_ok())).await
}

/// Head and body of `GET /metrics` from there.
pub(crate) async fn read_metrics(
    namespace: Option<PathBuf>,
    from: SocketAddr,
    patience: Duration,
) -> anyhow::Result<(String, String)> {
    let text = within(namespace, move || {
        let mut stream = TcpStream::connect_timeout(&from, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        // Version 1.0: the answer ends with the connection and is not chunked.
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
        let mut text = String::new();
        stream.take(METRICS_BYTES_MAX).read_to_string(&mut text)?;
        Ok(text)
    })
    .await?;
    let (head, body) = text.split_once("\r\n\r\n").context("the answer has no body")?;
    let status = head.split_whitespace().nth(1);
    ensure!(status == Some("200"), "the answer is {head:.80}");
    Ok((head.to_owned(), body.to_owned()))
}
