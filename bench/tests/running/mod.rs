//! A real cluster under a test.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part, and fails by panicking"
)]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A playground that ends with this process.
pub struct Running {
    pub folder: tempfile::TempDir,
    playground: Child,
}

impl Running {
    /// Starts one and waits until it serves.
    pub fn start() -> Running {
        let replay = Path::new(env!("CARGO_BIN_EXE_replay"));
        let seriatim = replay.with_file_name("seriatim");
        assert!(seriatim.exists(), "{} is missing: cargo build --release --workspace --bins", seriatim.display());
        assert!(Path::new(env!("CARGO_BIN_EXE_replay-check")).exists());
        let folder = tempfile::tempdir().unwrap();
        let mut playground = Command::new(&seriatim)
            .args(["playground", "--exit-with-parent", "--data"])
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(playground.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("\"ready\":true"), "the playground is ready: {line:?}");
        Running { folder, playground }
    }

    /// SIGKILL, answered when the process is gone.
    pub fn kill(&self, node: &str) {
        let mut control = UnixStream::connect(self.folder.path().join("control.sock")).unwrap();
        writeln!(control, "{}", serde_json::json!({"do": "kill", "node": node})).unwrap();
        let mut answer = String::new();
        BufReader::new(control).read_line(&mut answer).unwrap();
        assert!(answer.contains("\"ok\":true"), "{answer}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.playground.stdin.take());
        // A test that panics already has more to say.
        self.playground.wait().ok();
    }
}
