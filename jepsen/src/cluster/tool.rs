//! Tool: other programs (`ip`, `nft`, `tc`, `raftctl`) run to their end, within a time.
//!
//! # Failure
//! A program that does not end in time is killed. What it had done stays done; callers that change the machine undo
//! by name, not by memory.

use std::ffi::OsStr;
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

/// What a program said.
#[derive(Debug)]
pub(crate) struct Ran {
    /// exit code; -1 if a signal ended it
    pub(crate) exit: i32,
    /// all of it
    pub(crate) stdout: String,
    /// all of it
    pub(crate) stderr: String,
}

/// Longest run of a tool that changes or reads the machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs a program to its end, however it ends.
pub(crate) async fn run(
    program: impl AsRef<OsStr>,
    arguments: &[impl AsRef<OsStr>],
    patience: Duration,
) -> anyhow::Result<Ran> {
    let name = program.as_ref().display().to_string();
    let mut command = tokio::process::Command::new(program.as_ref());
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(patience, command.output())
        .await
        .with_context(|| format!("run {name}: no end in {patience:?}"))?
        .with_context(|| format!("run {name}"))?;
    Ok(ran(&output))
}

/// Runs a tool that must succeed, and answers its stdout.
pub(crate) async fn must(program: &str, arguments: &[impl AsRef<OsStr>]) -> anyhow::Result<String> {
    let ran = run(program, arguments, PATIENCE).await?;
    let said = || arguments.iter().map(|word| word.as_ref().to_string_lossy()).collect::<Vec<_>>().join(" ");
    ensure!(ran.exit == 0, "run {program} {}: exit code {}: {}", said(), ran.exit, ran.stderr.trim());
    Ok(ran.stdout)
}

/// Runs a quick tool that must succeed, without a runtime: for set-up, clean-up and `Drop`.
pub(crate) fn must_now(program: &str, arguments: &[&str], input: &str) -> anyhow::Result<String> {
    let said = || format!("run {program} {}", arguments.join(" "));
    let mut child = std::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(said)?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A tool that ends before it has read all says why on stderr: that is the better error.
    let written = stdin.write_all(input.as_bytes());
    drop(stdin);
    let ran = ran(&child.wait_with_output().with_context(said)?);
    if ran.exit != 0 {
        bail!("{}: exit code {}: {}", said(), ran.exit, ran.stderr.trim());
    }
    written.with_context(said)?;
    Ok(ran.stdout)
}

fn ran(output: &std::process::Output) -> Ran {
    Ran {
        exit: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
