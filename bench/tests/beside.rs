//! The benchmarks that measure other systems beside ours, small and without these: a machine of tests has none.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn run(program: &str, options: &[&str]) -> Output {
    Command::new(program).args(options).output().unwrap()
}

/// Runs a benchmark for a second of each measurement; the last line of what it says.
fn small(program: &str, options: &[&str]) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let fixed = ["--data", data, "--turns", "1", "--seconds", "1", "--in-flight", "64", "--json"];
    let output = run(program, &[&fixed[..], options].concat());
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(stdout.lines().count(), 2, "a line for the turn and one for all: {stdout}");
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn our_stores_take_appends_and_say_what_an_append_costs() {
    let report = small(env!("CARGO_BIN_EXE_store"), &["--namespaces", "16", "--groups", "2"]);
    let at = |name: &str| report[name].as_f64().unwrap();
    assert!(at("ours_acked_per_s") > 0.0 && at("p50_ms") > 0.0 && at("p50_ms") <= at("p99_ms"), "{report}");
    // An entry carries the body, and each append leaves its message and its dedupe row.
    assert!(at("log_bytes_per_append") > 256.0, "{report}");
    assert!(at("cpu_us_per_append") > 0.0 && at("fsync_ms") > 0.0, "{report}");
    assert!(report.get("ratio_jetstream").is_none() && report.get("ratio_etcd").is_none(), "{report}");
}

#[test]
fn our_numbers_come_once_however_many_are_asked_for() {
    let report = small(env!("CARGO_BIN_EXE_seq"), &["--counters", "4"]);
    let at = |name: &str| report[name].as_f64().unwrap();
    assert!(at("ours_single_per_s") > 0.0 && at("batched_numbers_per_s") > at("ours_single_per_s"), "{report}");
    assert!(at("ours_unary_per_s") > 0.0, "{report}");
    assert!(at("p99_us") > 0.0 && at("p999_refill_us") > 0.0, "{report}");
    assert!(report.get("ratio_redis").is_none(), "{report}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_started() {
    let (store, seq) = (env!("CARGO_BIN_EXE_store"), env!("CARGO_BIN_EXE_seq"));
    for (program, options, why) in [
        (store, &["--data", "/nowhere", "--seriatim", "/nowhere/seriatim"][..], "/nowhere/seriatim"),
        (store, &["--data", "/nowhere", "--groups", "0"][..], "--groups"),
        (store, &["--data", "/proc/nowhere"][..], "/proc/nowhere"),
        (seq, &["--data", "/nowhere", "--in-flight", "63"][..], "--in-flight"),
        (seq, &["--data", "/nowhere", "--counters", "2049"][..], "--counters"),
    ] {
        let output = run(program, options);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{options:?}: {stderr}");
        assert!(stderr.contains(why) && !stderr.contains("panicked"), "{options:?}: {stderr}");
    }
}

#[test]
fn a_peer_that_does_not_start_ends_the_measurement_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().to_str().unwrap();
    let options = ["--data", data, "--turns", "1", "--seconds", "1", "--in-flight", "64", "--counters", "4"];
    let output = run(env!("CARGO_BIN_EXE_seq"), &[&options[..], &["--redis", "/bin/false"]].concat());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains("Redis"), "{stderr}");
}
