//! The replay of the bundled sample against a real cluster, with both kills.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// The verdict of the sample, by the checker in a process of its own.
#[test]
fn the_sample_survives_both_kills() {
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
    // Slow enough that the kills come while there is something to say.
    let output = Command::new(replay)
        .arg("--playground")
        .arg(folder.path())
        .arg("--source")
        .arg(std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("sample/dataset.json"))
        .arg("--records")
        .arg(folder.path().join("records"))
        .args(["--messages", "all", "--rate", "150", "--json"])
        .output()
        .unwrap();
    drop(playground.stdin.take());
    playground.wait().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
    let verdict: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    for name in ["lost", "duplicated", "reordered"] {
        assert_eq!(verdict[name], 0, "{stdout}");
    }
    assert_eq!(verdict["sent"], verdict["received"]);
    assert_eq!(verdict["faults"].as_array().unwrap().len(), 2, "{stdout}");
}
