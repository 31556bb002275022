//! Control: the playground under the replay: where its gateways are, and orders to its processes.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use seriatim_proto::ids::{TenantId, UserId};
use seriatim_proto::playground::{ControlRequest, ControlResponse, FILE, Playground, PlaygroundRole, SOCKET};
use seriatim_proto::token::Minter;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// A playground's folder, opened.
#[derive(Debug)]
pub(crate) struct Control {
    folder: PathBuf,
    minter: Minter,
    /// what its file says
    pub(crate) about: Playground,
}

impl Control {
    /// Reads its description and its signing key.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Control> {
        let path = folder.join(FILE);
        let bytes = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
        let about: Playground = serde_json::from_slice(&bytes).context("failed to understand the playground's file")?;
        let key = std::fs::read(&about.token_private_key)
            .with_context(|| format!("failed to read {}", about.token_private_key))?;
        Ok(Control { folder: folder.to_owned(), minter: Minter::from_private_pem(&key)?, about })
    }

    /// Addresses of the gateways.
    pub(crate) fn gateways(&self) -> Vec<String> {
        let gateways = self.about.nodes.iter().filter(|node| node.role == PlaygroundRole::Gateway);
        gateways.map(|node| node.address.clone()).collect()
    }

    /// A token for a whole day.
    pub(crate) fn token(&self, user: &UserId) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
        Ok(self.minter.mint(TenantId(self.about.tenant), user, now + 24 * 3600)?)
    }

    /// Processes that do not run.
    pub(crate) async fn down(&self) -> anyhow::Result<Vec<String>> {
        let nodes = self.ask(&ControlRequest::Status).await?.nodes;
        Ok(nodes.into_iter().filter(|node| node.pid.is_none()).map(|node| node.name).collect())
    }

    /// One order, obeyed.
    pub(crate) async fn ask(&self, request: &ControlRequest) -> anyhow::Result<ControlResponse> {
        let path = self.folder.join(SOCKET);
        let mut stream =
            UnixStream::connect(&path).await.with_context(|| format!("failed to reach {}", path.display()))?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        let answer: ControlResponse =
            serde_json::from_str(&answer).context("failed to read the playground's answer")?;
        if !answer.ok {
            bail!("the playground failed to {}", answer.error.unwrap_or_default());
        }
        Ok(answer)
    }
}
