//! The end-to-end benchmark, small, against a real cluster.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::process::{Command, Output};

use running::Running;

fn e2e(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_e2e")).args(options).output().unwrap()
}

#[test]
fn every_message_is_counted_and_timed_and_a_second_run_finds_its_own() {
    let running = Running::start();
    let playground = running.folder.path().to_str().unwrap();
    let small = ["--pairs", "3", "--warm-up", "10", "--messages", "300", "--rate", "200", "--seconds", "1"];
    for _ in 0..2 {
        let output = e2e(&[&["--playground", playground, "--json"], &small[..]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        // Each pair's share is rounded up: (4 + 100) and (4 + 67).
        assert_eq!(report["messages"], 3 * (4 + 100 + 4 + 67), "{report}");
        let at = |name: &str| report[name].as_f64().unwrap();
        assert!(at("msgs_per_s") > 0.0, "{report}");
        for way in ["full", "deliver", "commit"] {
            let (p50, p99) = (at(&format!("{way}_p50_ms")), at(&format!("{way}_p99_ms")));
            assert!(p50 > 0.0 && p50 <= p99, "{report}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_sent() {
    for (options, why) in [
        (&["--playground", "/nowhere"][..], "/nowhere"),
        (&["--playground", "/nowhere", "--body", "15"][..], "--body"),
        (&["--playground", "/nowhere", "--pairs", "0"][..], "--pairs"),
    ] {
        let output = e2e(options);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{stderr}");
        assert!(stderr.contains(why) && !stderr.contains("panicked"), "{stderr}");
    }
}
