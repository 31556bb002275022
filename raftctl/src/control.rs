//! Control: one question to a playground's control socket.

use std::path::Path;
use std::time::Duration;

use seriatim_proto::playground::{ControlRequest, ControlResponse, SOCKET};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use crate::failure::Failure;

/// Longest wait: a start answers when the process is ready.
const PATIENCE: Duration = Duration::from_secs(90);

/// Asks, and takes a no as a failure.
pub(crate) async fn ask(folder: &Path, request: &ControlRequest) -> Result<ControlResponse, Failure> {
    let path = folder.join(SOCKET);
    let answer = tokio::time::timeout(PATIENCE, exchange(&path, request)).await;
    let answer = answer.map_err(|_| Failure::unreachable(format!("no answer from {}", path.display())))?;
    let answer = answer.map_err(|error| {
        Failure::unreachable(format!("failed to reach the playground at {}: {error}", path.display()))
            .hint(format!("seriatim playground --data {}", folder.display()))
    })?;
    if answer.ok {
        return Ok(answer);
    }
    let why = answer.error.unwrap_or_else(|| "no reason given".to_owned());
    let failure = if why.starts_with("find ") { Failure::not_found } else { Failure::internal };
    Err(failure(format!("failed to {why}")))
}

async fn exchange(path: &Path, request: &ControlRequest) -> std::io::Result<ControlResponse> {
    let mut stream = UnixStream::connect(path).await?;
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    stream.write_all(line.as_bytes()).await?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).await?;
    Ok(serde_json::from_str(&answer)?)
}
