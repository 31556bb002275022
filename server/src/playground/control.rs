//! Control: the playground's unix socket: one JSON object a line in, one out.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use seriatim_proto::playground::{ControlRequest, ControlResponse, SOCKET};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use super::node::Nodes;

/// Longest line.
const LINE_BYTES_MAX: usize = 64 << 10;

/// The bound socket. Its file goes when this is dropped.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    nodes: Arc<Nodes>,
}

impl Control {
    /// Binds it. A socket file that nobody listens on is left over from a crash and is replaced.
    pub(crate) fn bind(data: &Path, nodes: Arc<Nodes>) -> anyhow::Result<Control> {
        let path = data.join(SOCKET);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            anyhow::bail!("use {}: another playground runs on it", data.display());
        }
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
        Ok(Control { listener, path, nodes })
    }

    /// Serves until somebody says stop.
    pub(crate) async fn run(&self) -> anyhow::Result<()> {
        let (stop, mut stopped) = mpsc::channel(1);
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let (stream, _) = accepted.context("accept on the control socket")?;
                    let (nodes, stop) = (Arc::clone(&self.nodes), stop.clone());
                    tokio::spawn(async move {
                        if let Err(error) = serve(stream, &nodes, &stop).await {
                            tracing::debug!(%error, "control connection ended");
                        }
                    });
                }
                _ = stopped.recv() => return Ok(()),
            }
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(stream: UnixStream, nodes: &Nodes, stop: &mpsc::Sender<()>) -> anyhow::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(tokio::io::AsyncReadExt::take(read, LINE_BYTES_MAX as u64));
    let mut line = String::new();
    while read.read_line(&mut line).await? > 0 {
        let request = serde_json::from_str::<ControlRequest>(&line);
        let answer = match &request {
            Ok(request) => obey(request, nodes).await,
            Err(error) => refused(format!("read the request: {error}")),
        };
        let mut text = serde_json::to_string(&answer)?;
        text.push('\n');
        write.write_all(text.as_bytes()).await?;
        if matches!(request, Ok(ControlRequest::Stop)) {
            let _ = stop.send(()).await;
        }
        line.clear();
        read.get_mut().set_limit(LINE_BYTES_MAX as u64);
    }
    Ok(())
}

async fn obey(request: &ControlRequest, nodes: &Nodes) -> ControlResponse {
    let done = match request {
        ControlRequest::Status => {
            return ControlResponse { ok: true, error: None, nodes: nodes.status().await };
        }
        ControlRequest::Kill { node } => nodes.kill(node).await,
        ControlRequest::Start { node } => nodes.start(node).await,
        ControlRequest::Stop => Ok(()),
    };
    match done {
        Ok(()) => ControlResponse { ok: true, error: None, nodes: Vec::new() },
        Err(error) => refused(format!("{error:#}")),
    }
}

fn refused(error: String) -> ControlResponse {
    ControlResponse { ok: false, error: Some(error), nodes: Vec::new() }
}
