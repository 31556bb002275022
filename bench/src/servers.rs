//! Servers: processes of a measured system, what they take, and the ports that they listen on.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use seriatim_proto::playground::{ControlRequest, ControlResponse, SOCKET};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

/// A process that ends with this value.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it with its output in `NAME.log` of the folder.
    pub(crate) fn start(name: &str, command: &mut Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).with_context(|| format!("failed to make {}", log.display()))?;
        let program = command.as_std().get_program().display().to_string();
        let child = command
            // Open for as long as this process lives, for those that end with it.
            .stdin(Stdio::piped())
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("failed to start {program}"))?;
        Ok(Self { child, log })
    }

    /// Of the process.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails if it has ended by itself, with the end of what it said.
    pub(crate) fn check_runs(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = said.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n");
        anyhow::bail!("a server ended ({status}): {last}")
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn wait(mut self) -> anyhow::Result<()> {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.context("a server that was told to stop goes on")?.context("wait for a server")?;
        Ok(())
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("stop a server")
    }
}

/// The processes of a playground of ours.
pub(crate) struct Cluster {
    server: Server,
    folder: PathBuf,
}

impl Cluster {
    /// Starts one in a folder, without TLS between its processes and with these options.
    pub(crate) async fn start(seriatim: &Path, folder: &Path, options: &[&str]) -> anyhow::Result<Self> {
        let data = folder.join("playground");
        let mut command = Command::new(seriatim);
        command.arg("playground").arg("--data").arg(&data).args(["--insecure-plaintext", "--exit-with-parent"]);
        let mut running = vec![Server::start("playground", command.args(options), folder)?];
        let log = folder.join("playground.log");
        until("the playground", &mut running, async || {
            ensure!(std::fs::read_to_string(&log)?.contains("\"ready\":true"), "it is not ready");
            Ok(())
        })
        .await?;
        Ok(Self { server: running.pop().context("one process")?, folder: data })
    }

    /// Its data folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Of its processes, not its own.
    pub(crate) async fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let control = UnixStream::connect(self.folder.join(SOCKET)).await;
        let mut control = control.context("the playground's control socket")?;
        control.write_all((serde_json::to_string(&ControlRequest::Status)? + "\n").as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(control).read_line(&mut answer).await?;
        let answer: ControlResponse = serde_json::from_str(&answer).context("the playground's answer")?;
        Ok(answer.nodes.iter().filter_map(|node| node.pid).collect())
    }

    /// Runs the `raftctl` beside our program on it.
    pub(crate) async fn raftctl(&self, seriatim: &Path, verb: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(seriatim.with_file_name("raftctl"));
        command.arg("--playground").arg(&self.folder).args(verb);
        let output = command.output().await.context("run raftctl")?;
        ensure!(output.status.success(), "raftctl {verb:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Stops all in order.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let request = serde_json::to_string(&ControlRequest::Stop)? + "\n";
        UnixStream::connect(self.folder.join(SOCKET)).await?.write_all(request.as_bytes()).await?;
        self.server.wait().await
    }
}

/// Tries until it goes, while the servers run.
///
/// # Errors
/// The last one, after [`PATIENCE`]; or a server has ended.
pub(crate) async fn until<T>(
    what: &str,
    servers: &mut [Server],
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => return Err(error.context(format!("waited for {what}"))),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        servers.iter_mut().try_for_each(Server::check_runs)?;
    }
}

/// A free loopback port below those that the kernel gives to outgoing connections; another one for each call.
pub(crate) fn port() -> anyhow::Result<u16> {
    static NEXT: std::sync::atomic::AtomicU16 = std::sync::atomic::AtomicU16::new(0);
    let spread = (std::process::id() % 2_000) as u16;
    for _ in 0..2_000 {
        let place = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let port = 16_000 + (spread + place) % 4_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free loopback port between 16000 and 20000")
}

/// Ends with an error when this process is told to stop, so that what it started is stopped.
pub(crate) async fn told_to_stop() -> anyhow::Error {
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            anyhow::anyhow!("told to stop")
        }
        (Err(error), _) | (_, Err(error)) => anyhow::Error::from(error).context("listen for signals"),
    }
}

/// Now, by the wall clock.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What processes have used so far, all together.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Used {
    /// on processors
    pub(crate) cpu: Duration,
    /// given to the disk
    pub(crate) written_bytes: u64,
}

impl Used {
    /// By `/proc`.
    pub(crate) fn by(pids: &[u32]) -> anyhow::Result<Self> {
        let mut used = Self::default();
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("what a server has used")?;
            used.cpu += time_on_cpu(&stat)?;
            let io = std::fs::read_to_string(format!("/proc/{pid}/io")).context("what a server has written")?;
            used.written_bytes += written(&io)?;
        }
        Ok(used)
    }

    /// Since then.
    pub(crate) fn since(self, before: Self) -> Self {
        let written_bytes = self.written_bytes.saturating_sub(before.written_bytes);
        Self { cpu: self.cpu.saturating_sub(before.cpu), written_bytes }
    }
}

/// Of all its threads, also of those that have ended: user and system time, in hundredths of a second.
fn time_on_cpu(stat: &str) -> anyhow::Result<Duration> {
    // The name, in brackets, may have blanks of its own.
    let (_, behind) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks = behind.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.collect::<Result<Vec<_>, _>>().context("utime and stime")?;
    ensure!(ticks.len() == 2, "no utime and stime");
    Ok(Duration::from_millis(ticks.iter().sum::<u64>() * 10))
}

fn written(io: &str) -> anyhow::Result<u64> {
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes:")).context("no write_bytes")?;
    line.trim().parse().context("write_bytes")
}

/// Longest wait for a server to be of use.
const PATIENCE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_writes_is_read() {
        assert_eq!(written("rchar: 1\nwrite_bytes: 4096\ncancelled_write_bytes: 7\n").unwrap(), 4_096);
        assert!(written("rchar: 1\n").is_err());
        assert!(Used::by(&[std::process::id()]).is_ok());
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 2 3 4 150 25 5 6 20 0 3 0 99";
        assert_eq!(time_on_cpu(stat).unwrap(), Duration::from_millis(1_750));
        assert!(time_on_cpu("7 (x) S 1").is_err());
    }

    #[tokio::test]
    async fn a_server_that_ends_by_itself_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        let server = Server::start("sh", command.args(["-c", "echo no such option; exit 3"]), folder.path()).unwrap();
        let failed = until::<()>("nothing", &mut [server], async || anyhow::bail!("not yet")).await.unwrap_err();
        assert!(failed.to_string().contains("no such option"), "{failed}");
    }
}
