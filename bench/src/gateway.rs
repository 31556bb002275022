//! Gateway: the process of a playground's first gateway, and what it takes, by `/proc`.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use seriatim_proto::playground::{ControlRequest, ControlResponse, PlaygroundRole, SOCKET};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

/// The gateway's process.
pub(crate) struct Gateway {
    pid: u32,
}

impl Gateway {
    /// The one of a running playground.
    pub(crate) async fn of(playground: &Path) -> anyhow::Result<Self> {
        let path = playground.join(SOCKET);
        let mut control =
            UnixStream::connect(&path).await.with_context(|| format!("failed to connect to {}", path.display()))?;
        let mut line = serde_json::to_string(&ControlRequest::Status)?;
        line.push('\n');
        control.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(control).read_line(&mut answer).await?;
        let answer: ControlResponse = serde_json::from_str(&answer).context("the playground's answer")?;
        let gateway = answer.nodes.iter().find(|node| node.role == PlaygroundRole::Gateway);
        let pid = gateway.and_then(|node| node.pid).context("the playground's gateway does not run")?;
        Ok(Self { pid })
    }

    /// Its resident memory that no file backs.
    pub(crate) fn memory_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).context("the gateway's memory")?;
        anonymous_bytes(&status)
    }

    /// The processor time that it has used.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut used = Duration::ZERO;
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid)).context("the gateway's threads")? {
            let path = thread?.path().join("schedstat");
            let text = std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
            used += time_on_cpu(&text)?;
        }
        Ok(used)
    }
}

fn anonymous_bytes(status: &str) -> anyhow::Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("no RssAnon")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("RssAnon")?;
    Ok(kib * 1_024)
}

/// The first number of a `schedstat` is nanoseconds on a processor.
fn time_on_cpu(schedstat: &str) -> anyhow::Result<Duration> {
    let nanos = schedstat.split_whitespace().next().context("an empty schedstat")?;
    Ok(Duration::from_nanos(nanos.parse().context("schedstat")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_process_is_read() {
        let status = "Name:\tseriatim\nVmRSS:\t    9000 kB\nRssAnon:\t    5120 kB\nRssFile:\t    3880 kB\n";
        assert_eq!(anonymous_bytes(status).unwrap(), 5_120 * 1_024);
        assert!(anonymous_bytes("Name:\tseriatim\n").is_err());
        assert_eq!(time_on_cpu("1500000000 77 3\n").unwrap(), Duration::from_millis(1_500));
        assert!(time_on_cpu("").is_err());
        let own = Gateway { pid: std::process::id() };
        assert!(own.memory_bytes().unwrap() > 0 && own.cpu().unwrap() > Duration::ZERO);
    }
}
