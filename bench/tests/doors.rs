//! The benchmarks of a gateway's doors, small, against a real cluster.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod running;

use std::process::{Command, Output};

use running::Running;

fn bench(program: &str, options: &[&str]) -> Output {
    Command::new(program).args(options).output().unwrap()
}

fn report(program: &str, options: &[&str]) -> serde_json::Value {
    let output = bench(program, options);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn idle_devices_and_the_ways_in_are_measured() {
    let running = Running::start();
    let playground = ["--playground", running.folder.path().to_str().unwrap(), "--json"];

    let small = ["--connections", "300", "--idle", "1", "--handshakes", "50"];
    let found = report(env!("CARGO_BIN_EXE_connections"), &[&playground[..], &small].concat());
    assert_eq!(found["connections"], 300, "{found}");
    for name in ["handshakes_per_s", "resumed_per_s", "handshakes_per_s_by_the_clock", "arrivals_per_s_by_the_clock"] {
        assert!(found[name].as_f64().unwrap() > 0.0, "{name}: {found}");
    }
    assert!(found["idle_cpu_percent"].as_f64().unwrap() >= 0.0, "{found}");
    // Less would be no connection.
    assert!(found["bytes_per_connection"].as_u64().unwrap() > 1_000, "{found}");

    // Twice: the second run's messages are its own.
    for _ in 0..2 {
        let small = ["--turns", "1", "--messages", "160", "--window", "4"];
        let found = report(env!("CARGO_BIN_EXE_transports"), &[&playground[..], &small].concat());
        for way in ["quic", "webtransport", "websocket"] {
            for name in ["msgs_per_s", "gateway_cpu_us", "alone_p50_ms", "connect_ms"] {
                assert!(found[way][name].as_f64().unwrap() > 0.0, "{way} {name}: {found}");
            }
            let at = |name: &str| found[way][name].as_f64().unwrap();
            assert!(at("alone_p50_ms") <= at("alone_p99_ms"), "{found}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    for (program, options, why) in [
        (env!("CARGO_BIN_EXE_connections"), &["--playground", "/nowhere"][..], "/nowhere"),
        (env!("CARGO_BIN_EXE_connections"), &["--playground", "/nowhere", "--connections", "0"][..], "--connections"),
        (env!("CARGO_BIN_EXE_transports"), &["--playground", "/nowhere"][..], "/nowhere"),
        (env!("CARGO_BIN_EXE_transports"), &["--playground", "/nowhere", "--turns", "0"][..], "--turns"),
    ] {
        let output = bench(program, options);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{stderr}");
        assert!(stderr.contains(why) && !stderr.contains("panicked"), "{stderr}");
    }
}
