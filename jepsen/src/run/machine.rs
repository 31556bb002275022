//! Machine: what a run was made with: versions, the commit, cores. For `run.json` only; what is not known is left out.

use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::process::Command;

/// Longest wait for a program that says its version.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the machine and of the program that the nodes run.
pub(crate) async fn about(bin: &Path, other: Option<&Path>, program: &str) -> Map<String, Value> {
    let mut about = Map::new();
    let mut note = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            about.insert(name.to_owned(), json!(value));
        }
    };
    note("harness", Some(env!("CARGO_PKG_VERSION").to_owned()));
    note("seriatim", said(&bin.join(program), &["--version"]).await);
    if let Some(folder) = other {
        note("other", said(&folder.join(program), &["--version"]).await);
    }
    note("raftctl", said(&bin.join("raftctl"), &["--version"]).await);
    note("commit", said(Path::new("git"), &["describe", "--always", "--dirty", "--abbrev=12"]).await);
    note("kernel", std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()));
    if let Ok(cores) = std::thread::available_parallelism() {
        about.insert("cores".to_owned(), json!(cores.get()));
    }
    about
}

/// First line of what a program says.
async fn said(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await.ok()?.ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().map(str::to_owned)).flatten()
}
