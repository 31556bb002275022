//! The replay of the bundled sample against a real cluster: with both kills, and with a store that is gone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::path::PathBuf;
use std::process::{Command, Output};

use running::Running;

fn records(running: &Running) -> PathBuf {
    running.folder.path().join("records")
}

/// Replays the sample.
fn replay(running: &Running, options: &[&str]) -> Output {
    let sample = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("sample/dataset.json");
    Command::new(env!("CARGO_BIN_EXE_replay"))
        .arg("--playground")
        .arg(running.folder.path())
        .arg("--source")
        .arg(sample)
        .arg("--records")
        .arg(records(running))
        .args(options)
        .arg("--json")
        .output()
        .unwrap()
}

/// The checker's verdict, in which nothing is wrong.
fn verdict(output: &Output) -> serde_json::Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let verdict: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    for name in ["lost", "duplicated", "reordered"] {
        assert_eq!(verdict[name], 0, "{stdout}");
    }
    assert_eq!(verdict["sent"], verdict["received"]);
    verdict
}

/// The verdict of the sample, by the checker in a process of its own.
#[test]
fn the_sample_survives_both_kills() {
    // Slow enough that the kills come while there is something to say.
    let running = Running::start();
    let output = replay(&running, &["--messages", "all", "--rate", "150"]);
    let verdict = verdict(&output);
    assert!(output.status.success(), "{verdict}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(verdict["faults"].as_array().unwrap().len(), 2, "{verdict}");
}

#[test]
fn a_run_with_a_process_that_ended_by_itself_is_not_good() {
    let running = Running::start();
    running.kill("store-2");
    let output = replay(&running, &["--messages", "40", "--no-faults"]);
    let verdict = verdict(&output);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{verdict}\n{stderr}");
    assert!(stderr.contains("store-2 ended without being told to"), "{stderr}");
}

#[test]
fn a_second_replay_into_one_playground_is_refused_and_leaves_the_records_of_the_first() {
    let running = Running::start();
    let output = replay(&running, &["--messages", "40", "--no-faults"]);
    verdict(&output);
    let files = || {
        let files = std::fs::read_dir(records(&running)).unwrap().map(|file| file.unwrap().path());
        let mut files: Vec<_> = files.filter(|path| path.is_file()).map(|path| std::fs::read(path).unwrap()).collect();
        files.sort();
        files
    };
    let before = files();
    assert!(!before.is_empty());
    let output = replay(&running, &["--messages", "60", "--no-faults"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("has messages here already") && !stderr.contains("panicked"), "{stderr}");
    assert!(output.stdout.is_empty());
    assert_eq!(files(), before);
}
