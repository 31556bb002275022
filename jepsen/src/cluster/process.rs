//! Process: one node's process: started until ready, killed, stopped, paused, and watched for an end of its own.
//!
//! ```text
//!  Down ──spawn──▶ Starting ──ready line──▶ Ready ──order (kill, stop)──▶ Down
//!                     └────────────── ends by itself ──────────────────▶ Down, and an OwnEnd is noted
//! ```
//! Signals go through a pidfd, so none ever reaches a stranger that got the number of a dead node. The task that
//! waits for the process holds its stdin: when the harness ends, however it ends, the pipe breaks and the node ends.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{Mutex, watch};

use super::OwnEnd;

/// Longest wait for a ready line.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Longest ordered stop: a node gives itself 15 s.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// Longest wait until the kernel has done what a signal asks for.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(10);
/// Lines of a log that are shown when a node ended by itself.
const LOG_LINES: usize = 12;
/// How often /proc is looked at while a process should stop running.
const PROC_POLL: Duration = Duration::from_millis(2);

/// How to start a node.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// of the node
    pub(crate) name: String,
    /// programs that put it into its namespaces, with their arguments; each runs the next
    pub(crate) wrapper: Vec<String>,
    /// its own
    pub(crate) program: PathBuf,
    /// and its arguments
    pub(crate) arguments: Vec<String>,
    /// what its environment has besides the harness's own
    pub(crate) env: Vec<(String, String)>,
    /// where its stderr goes
    pub(crate) log: PathBuf,
}

/// A node's process, whether it runs or not.
#[derive(Debug)]
pub(crate) struct Process {
    spec: Spec,
    /// Two orders to one process come one after another.
    order: Mutex<()>,
    state: watch::Sender<State>,
}

#[derive(Debug, Default)]
struct State {
    live: Option<Live>,
    ends: Vec<OwnEnd>,
    /// faults under way that may end it
    allowances: u32,
}

#[derive(Debug, Clone)]
struct Live {
    pid: u32,
    pidfd: Arc<OwnedFd>,
    ready: bool,
    ordered: bool,
}

impl Process {
    /// Knows how to start it.
    pub(crate) fn new(spec: Spec) -> Arc<Process> {
        Arc::new(Process { spec, order: Mutex::new(()), state: watch::Sender::new(State::default()) })
    }

    /// Of the node.
    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// Starts it; returns when it is ready.
    pub(crate) async fn start(self: &Arc<Self>) -> anyhow::Result<()> {
        self.start_program(&self.spec.program, &[]).await
    }

    /// The same, with other values of some variables of its environment, this once.
    pub(crate) async fn start_with(self: &Arc<Self>, env: &[(String, String)]) -> anyhow::Result<()> {
        self.start_program(&self.spec.program, env).await
    }

    /// The same, of another program with the same arguments, this once.
    pub(crate) async fn start_as(self: &Arc<Self>, program: &Path) -> anyhow::Result<()> {
        self.start_program(program, &[]).await
    }

    async fn start_program(self: &Arc<Self>, program: &Path, env: &[(String, String)]) -> anyhow::Result<()> {
        let name = self.spec.name.as_str();
        let ordered = self.order.lock().await;
        if let Some(live) = &self.state.borrow().live {
            bail!("start {name}: it runs already as process {}", live.pid);
        }
        self.spawn(program, env).with_context(|| format!("start {name}"))?;
        // Not held while it gets ready: a node that cannot get ready must still be killable.
        drop(ordered);
        let mut seen = self.state.subscribe();
        let settled = seen.wait_for(|state| state.live.as_ref().is_none_or(|live| live.ready));
        let settled = tokio::time::timeout(READY_PATIENCE, settled).await;
        match settled {
            Ok(Ok(state)) if state.live.is_some() => Ok(()),
            Ok(_) => bail!("start {name}: it ended before it was ready; its log ends with:\n{}", self.last_lines()),
            Err(_) => bail!("start {name}: not ready after {READY_PATIENCE:?}; see {}", self.spec.log.display()),
        }
    }

    fn spawn(self: &Arc<Self>, program: &Path, env: &[(String, String)]) -> anyhow::Result<()> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.spec.log);
        let log = log.with_context(|| format!("open {}", self.spec.log.display()))?;
        let wrapper = self.spec.wrapper.iter().map(OsStr::new);
        let words: Vec<&OsStr> = wrapper.chain([program.as_os_str()]).collect();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(&self.spec.arguments)
            .envs(self.spec.env.iter().map(|(name, value)| (name, value)))
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // A Ctrl-C in the terminal is for the harness, which heals and stops in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("run {}", words.join(OsStr::new(" ")).display()))?;
        let pid = child.id().context("it ended at once")?;
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).context("its process id is none")?;
        // The child is not waited for yet, so its number is still its own.
        let pidfd = Arc::new(pidfd_open(raw, PidfdFlags::empty()).context("open its pidfd")?);
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        self.state.send_modify(|state| state.live = Some(Live { pid, pidfd, ready: false, ordered: false }));
        tokio::spawn(Arc::clone(self).attend(child, stdin, stdout));
        Ok(())
    }

    /// Notes the ready line, waits for the end, and judges it.
    async fn attend(self: Arc<Self>, mut child: Child, stdin: Option<ChildStdin>, stdout: Option<ChildStdout>) {
        let listen = async {
            let mut lines = BufReader::new(stdout.expect("stdout is piped"));
            let mut line = String::new();
            if matches!((&mut lines).take(4096).read_line(&mut line).await, Ok(bytes) if bytes > 0) {
                self.state.send_modify(|state| state.live.iter_mut().for_each(|live| live.ready = true));
            }
            // Read on, so that the node never meets a broken pipe.
            let _ = tokio::io::copy(&mut lines, &mut tokio::io::sink()).await;
            std::future::pending::<()>().await;
        };
        let status = tokio::select! {
            status = child.wait() => status,
            () = listen => return,
        };
        drop(stdin);
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        self.state.send_modify(|state| {
            let ordered = state.live.take().is_some_and(|live| live.ordered);
            if !ordered {
                let allowed = state.allowances > 0;
                tracing::warn!(node = self.spec.name, status, allowed, "ended by itself");
                let log = self.last_lines();
                state.ends.push(OwnEnd { node: self.spec.name.clone(), status, log, allowed });
            }
        });
    }

    /// SIGKILL; returns when it is gone.
    pub(crate) async fn kill(&self) -> anyhow::Result<()> {
        let _ordered = self.order.lock().await;
        self.signal(Signal::KILL, true)?;
        self.gone(SIGNAL_PATIENCE).await.with_context(|| format!("kill {}", self.spec.name))
    }

    /// SIGKILL without a wait, if it runs: for `Drop`.
    pub(crate) fn kill_now(&self) {
        if self.pid().is_some() {
            let _ = self.signal(Signal::KILL, true);
        }
    }

    /// SIGTERM; returns when it is gone. One that does not go is killed, and that is an error.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        let name = self.spec.name.as_str();
        let _ordered = self.order.lock().await;
        self.signal(Signal::TERM, true)?;
        // A paused one would never see it.
        self.signal(Signal::CONT, true)?;
        if self.gone(STOP_PATIENCE).await.is_ok() {
            return Ok(());
        }
        self.signal(Signal::KILL, true)?;
        self.gone(SIGNAL_PATIENCE).await.with_context(|| format!("kill {name}"))?;
        bail!("stop {name}: it did not stop within {STOP_PATIENCE:?}, and was killed")
    }

    /// SIGSTOP; returns when the kernel says that it is stopped.
    pub(crate) async fn pause(&self) -> anyhow::Result<()> {
        let name = self.spec.name.as_str();
        let _ordered = self.order.lock().await;
        let pid = self.signal(Signal::STOP, false)?;
        let deadline = tokio::time::Instant::now() + SIGNAL_PATIENCE;
        while !is_stopped(pid) {
            ensure!(tokio::time::Instant::now() < deadline, "pause {name}: it still runs after {SIGNAL_PATIENCE:?}");
            tokio::time::sleep(PROC_POLL).await;
        }
        Ok(())
    }

    /// SIGCONT.
    pub(crate) async fn resume(&self) -> anyhow::Result<()> {
        let _ordered = self.order.lock().await;
        self.signal(Signal::CONT, false).map(|_| ())
    }

    /// Is it stopped by a signal?
    pub(crate) fn is_paused(&self) -> bool {
        self.pid().is_some_and(is_stopped)
    }

    /// Its process, if there is one.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.state.borrow().live.as_ref().map(|live| live.pid)
    }

    /// Ends of its own so far.
    pub(crate) fn own_ends(&self) -> Vec<OwnEnd> {
        self.state.borrow().ends.clone()
    }

    /// From now on, one more (or less) fault is under way that may end it.
    pub(crate) fn allow_end(&self, allowed: bool) {
        self.state.send_modify(|state| {
            state.allowances = if allowed { state.allowances + 1 } else { state.allowances.saturating_sub(1) };
        });
    }

    /// Its newest end was not the one that it was allowed.
    pub(crate) fn blame_end(&self) {
        self.state
            .send_modify(|state| state.ends.iter_mut().next_back().into_iter().for_each(|end| end.allowed = false));
    }

    /// Waits until there is no process.
    pub(crate) async fn gone(&self, patience: Duration) -> anyhow::Result<()> {
        let mut seen = self.state.subscribe();
        let gone = tokio::time::timeout(patience, seen.wait_for(|state| state.live.is_none())).await;
        let gone = gone.with_context(|| format!("wait for its end: it still runs after {patience:?}"))?;
        gone.map(|_| ()).context("wait for its end")
    }

    fn signal(&self, signal: Signal, ends_it: bool) -> anyhow::Result<u32> {
        let name = self.spec.name.as_str();
        let mut sent = None;
        self.state.send_if_modified(|state| {
            if let Some(live) = &mut state.live {
                live.ordered |= ends_it;
                sent = Some((live.pid, pidfd_send_signal(&live.pidfd, signal)));
            }
            false
        });
        let (pid, result) = sent.with_context(|| format!("signal {name}: it does not run"))?;
        match result {
            // It ended between two looks; whoever waits for its end sees that.
            Err(rustix::io::Errno::SRCH) if ends_it => Ok(pid),
            result => result.with_context(|| format!("signal {name}")).map(|()| pid),
        }
    }

    fn last_lines(&self) -> String {
        last_lines(&self.spec.log, LOG_LINES)
    }
}

/// The last lines of a file that may be long or absent.
fn last_lines(path: &Path, count: usize) -> String {
    const TAIL_BYTES: u64 = 16 << 10;
    let read = || -> std::io::Result<Vec<u8>> {
        use std::io::{Read, Seek, SeekFrom};
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

/// The file that a process runs, as the kernel says.
pub(crate) fn program_of(pid: u32) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Does the kernel say that the process is stopped?
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> (tempfile::TempDir, Arc<Process>) {
        let folder = tempfile::tempdir().unwrap();
        let spec = Spec {
            name: "sh".to_owned(),
            wrapper: vec!["env".to_owned()],
            program: PathBuf::from("sh"),
            arguments: ["-c", script].map(str::to_owned).to_vec(),
            env: Vec::new(),
            log: folder.path().join("log"),
        };
        let process = Process::new(spec);
        (folder, process)
    }

    #[tokio::test]
    async fn an_ordered_end_is_no_finding() {
        let (_folder, process) = shell("echo ready; exec sleep 600");
        process.start().await.unwrap();
        process.kill().await.unwrap();
        assert_eq!((process.pid(), process.own_ends()), (None, Vec::new()));
    }

    #[tokio::test]
    async fn an_end_of_its_own_is_noted_with_its_log() {
        let (_folder, process) = shell("echo ready; read line; echo disk on fire >&2; exit 3");
        process.start().await.unwrap();
        // The pipe stays open, so only a signal that nobody ordered ends it.
        let pid = i32::try_from(process.pid().unwrap()).ok().and_then(Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        process.gone(Duration::from_secs(10)).await.unwrap();
        let ends = process.own_ends();
        assert_eq!((ends.len(), ends[0].allowed), (1, false));
    }

    #[tokio::test]
    async fn a_node_that_cannot_start_says_why() {
        let (_folder, process) = shell("echo the port is taken >&2; exit 1");
        let error = process.start().await.unwrap_err();
        assert!(error.to_string().contains("the port is taken"), "{error:#}");
    }

    #[tokio::test]
    async fn a_paused_process_is_stopped_and_can_be_ended_in_order() {
        let (_folder, process) = shell("echo ready; exec sleep 600");
        process.start().await.unwrap();
        process.pause().await.unwrap();
        assert!(process.is_paused());
        process.resume().await.unwrap();
        process.pause().await.unwrap();
        process.stop().await.unwrap();
        assert_eq!((process.pid(), process.own_ends()), (None, Vec::new()));
    }

    #[tokio::test]
    async fn another_program_is_started_once_and_then_its_own_again() {
        let (folder, process) = shell("echo ready; read line");
        let (bash, other) = (std::fs::canonicalize("/bin/bash").unwrap(), folder.path().join("other"));
        std::os::unix::fs::symlink(&bash, &other).unwrap();
        process.start_as(&other).await.unwrap();
        assert_eq!(program_of(process.pid().unwrap()), Some(bash));
        process.kill().await.unwrap();
        process.start().await.unwrap();
        assert_eq!(program_of(process.pid().unwrap()), std::fs::canonicalize("/bin/sh").ok());
    }

    #[tokio::test]
    async fn what_does_not_run_cannot_be_hurt() {
        let (_folder, process) = shell("true");
        assert!(process.kill().await.unwrap_err().to_string().contains("does not run"));
        assert!(process.pause().await.unwrap_err().to_string().contains("does not run"));
    }
}
