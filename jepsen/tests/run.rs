//! Runs of the real program against real clusters, judged by their last line.
//!
//! The binaries are looked for in `$SERIATIM_BIN`, else beside the test's own target folder; without them the tests
//! that need a cluster are skipped, and say so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn binaries() -> Option<PathBuf> {
    let told = std::env::var_os("SERIATIM_BIN").map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned());
    let folder = told.or_else(beside)?;
    let found = ["seriatim", "raftctl"].iter().all(|name| folder.join(name).is_file());
    if !found {
        eprintln!("skipped: there are no binaries seriatim and raftctl; set SERIATIM_BIN");
    }
    found.then_some(folder)
}

/// Runs the program in a folder of its own.
fn jepsen(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jepsen"))
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program was built for this test")
}

fn last_line(output: &Output) -> Value {
    let text = String::from_utf8(output.stdout.clone()).expect("the program writes text");
    let said = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().last().unwrap_or_else(|| panic!("nothing on stdout; on stderr: {said}"));
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// What a long run said, without its progress and without faults that went well.
fn told(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    let dull = |line: &&str| {
        line.contains(" ok/s") || line.contains("left out") || line.ends_with(" 0 skipped, 0 indeterminate")
    };
    said.lines().filter(|line| !dull(line)).map(|line| format!("{line}\n")).collect()
}

const SMALL: [&str; 8] = ["--stores", "3", "--logic", "2", "--gateways", "1", "--groups", "2"];

#[test]
fn a_mix_under_kills_and_pauses_keeps_every_promise() {
    let Some(bin) = binaries() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec!["run", "--workload", "mix", "--nemesis", "kill,pause", "--time", "20", "--seed", "3"];
    arguments.extend(["--json", "--bin", bin.to_str().unwrap()]);
    arguments.extend(SMALL);
    let output = jepsen(folder.path(), &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let line = last_line(&output);
    assert_eq!(line["verdict"], "ok", "{said}");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(line["violations"], 0);
    assert!(line["acked"].as_u64().unwrap() > 1_000, "{line}");
    assert!(line["fault_kinds_effective"].as_u64().unwrap() >= 1, "{line}");
    let run = PathBuf::from(line["run"].as_str().unwrap());
    for file in ["run.json", "history.jsonl", "inbox.jsonl", "conversation.jsonl", "nemesis.jsonl", "report.html"] {
        assert!(std::fs::metadata(run.join(file)).unwrap().len() > 0, "{file} is empty");
    }

    let about: Value = serde_json::from_slice(&std::fs::read(run.join("run.json")).unwrap()).unwrap();
    assert!(about["counters"]["claims"].as_f64().unwrap() > 0.0, "nobody's metrics were read: {}", about["counters"]);
    assert_eq!(about["counters"]["alarms"], 0.0);

    // Judged again from its files alone, it is the same, and so is its report.
    let read = |name: &str| std::fs::read_to_string(run.join(name)).unwrap();
    let before = [read("report.html"), read("verdict.json")];
    std::fs::remove_file(run.join("report.html")).unwrap();
    let again = jepsen(folder.path(), &["check", run.to_str().unwrap(), "--json"]);
    assert_eq!(last_line(&again)["acked"], line["acked"]);
    assert_eq!(again.status.code(), Some(0));
    assert_eq!([read("report.html"), read("verdict.json")], before);

    // Its faults overlap: nobody can say what each of them did.
    let measured = jepsen(folder.path(), &["recovery", run.to_str().unwrap()]);
    assert_eq!(measured.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&measured.stderr).contains("--apart"));
}

/// An upgrade that stops halfway and is taken back; the other version is the same program from another file.
#[test]
fn two_versions_side_by_side_keep_every_promise_and_recoveries_are_measured() {
    let Some(bin) = binaries() else { return };
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(bin.join("seriatim"), other.join("seriatim")).unwrap();
    let mut arguments =
        vec!["run", "--workload", "mix", "--nemesis", "other-store,kill-leader", "--apart", "--time", "110"];
    arguments.extend(["--other", other.to_str().unwrap(), "--seed", "8", "--rate", "400"]);
    arguments.extend(["--json", "--bin", bin.to_str().unwrap()]);
    arguments.extend(SMALL);
    let output = jepsen(folder.path(), &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let line = last_line(&output);
    assert_eq!((&line["verdict"], &line["violations"]), (&"ok".into(), &0.into()), "{said}");
    // All came by, one after another.
    assert_eq!(line["fault_kinds_effective"], 2, "{said}");

    let run = line["run"].as_str().unwrap();
    let about: Value = serde_json::from_slice(&std::fs::read(Path::new(run).join("run.json")).unwrap()).unwrap();
    assert_eq!(about["made_with"]["other"], about["made_with"]["seriatim"]);
    let measured = jepsen(folder.path(), &["recovery", run, "--json"]);
    let told = String::from_utf8_lossy(&measured.stderr);
    let recovery = last_line(&measured);
    assert_eq!(recovery["kinds"].as_object().unwrap().len(), 2, "{told}");
    let of = |kind: &str, what: &str| recovery["kinds"][kind][what].as_u64();
    assert!(of("kill-leader", "faults") >= Some(1) && of("kill-leader", "slowest_key_p99_ms") > Some(0), "{told}");
    // A starved machine may look too seldom behind one of them.
    assert!(of("kill-leader", "watched") >= Some(1) || of("other-store", "watched") >= Some(1), "{told}");
    // So few faults prove nothing, unless a bound was missed.
    assert_eq!(measured.status.code(), Some(if recovery["missed"] == 0 { 11 } else { 12 }), "{told}");
    assert_eq!(recovery["missed"].as_u64().unwrap() + recovery["unclear"].as_u64().unwrap(), 2, "{told}");
}

/// Three minutes of everything at once.
#[test]
fn a_mix_under_every_fault_keeps_every_promise_for_three_minutes() {
    let Some(bin) = binaries() else { return };
    let folder = tempfile::tempdir().unwrap();
    // Disks that lose what was not fsynced, where they can be mounted.
    let disk = if Path::new("/dev/fuse").exists() { "fuse" } else { "plain" };
    let mut arguments = vec!["run", "--workload", "mix", "--nemesis", "all", "--disk", disk, "--time", "180"];
    arguments.extend(["--seed", "6", "--json", "--bin", bin.to_str().unwrap()]);
    let output = jepsen(folder.path(), &arguments);
    let said = told(&output);
    let line = last_line(&output);
    eprintln!("{line}");
    assert_eq!((&line["verdict"], &line["violations"]), (&"ok".into(), &0.into()), "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(line["acked"].as_u64().unwrap() >= 50_000, "{said}");
    assert!(line["fault_kinds_effective"].as_u64().unwrap() >= 12, "{said}");
}

/// Stays and messages were read at two moments: who left was shown what came after, who joined missed his own entry.
#[test]
fn seed_31_history_is_of_one_moment_while_members_come_and_go() {
    let Some(bin) = binaries() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec!["run", "--workload", "group", "--nemesis", "none", "--time", "15", "--seed", "31"];
    arguments.extend(["--rate", "1500", "--json", "--bin", bin.to_str().unwrap()]);
    arguments.extend(SMALL);
    let output = jepsen(folder.path(), &arguments);
    let line = last_line(&output);
    assert_eq!((&line["verdict"], &line["violations"]), (&"ok".into(), &0.into()), "{line}");
}

/// Seen from outside: nobody writes under a fence that is over, and no seq is granted twice.
#[test]
fn writes_of_pretenders_are_refused_once_their_slot_is_somebody_elses() {
    let Some(bin) = binaries() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec!["run", "--workload", "lease", "--nemesis", "kill-leader,pause-leader", "--time", "20"];
    arguments.extend(["--seed", "4", "--keys", "8", "--json", "--bin", bin.to_str().unwrap()]);
    arguments.extend(SMALL);
    let output = jepsen(folder.path(), &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let line = last_line(&output);
    assert_eq!((&line["verdict"], &line["violations"]), (&"ok".into(), &0.into()), "{said}");
    assert!(line["fenced_writes"].as_u64().unwrap() >= 100, "{said}");
}

/// Leases go by a clock that is bent, a little and far too much: only the order of numbers may suffer, and only while
/// it is far too much.
#[test]
fn bent_boot_times_break_nothing_but_the_order_of_numbers() {
    let Some(bin) = binaries().filter(|bin| bin.join("seriatim-chaos").is_file()) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec!["run", "--workload", "mix", "--nemesis", "boot", "--build", "chaos", "--time", "40"];
    arguments.extend(["--seed", "5", "--json", "--bin", bin.to_str().unwrap()]);
    arguments.extend(SMALL);
    let output = jepsen(folder.path(), &arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    let line = last_line(&output);
    assert_eq!((&line["verdict"], &line["violations"]), (&"ok".into(), &0.into()), "{said}");
    assert_eq!(line["fault_kinds_effective"], 3, "{said}");
}

#[test]
fn a_run_in_which_hardly_anything_was_done_is_invalid() {
    let Some(bin) = binaries() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut arguments = vec!["run", "--workload", "direct", "--nemesis", "none", "--time", "1", "--rate", "1"];
    arguments.extend(["--keys", "2", "--json", "--bin", bin.to_str().unwrap()]);
    arguments.extend(SMALL);
    let output = jepsen(folder.path(), &arguments);
    assert_eq!(last_line(&output)["verdict"], "invalid", "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(11));
}

/// Whoever starts it learns from the exit code alone what came of it.
#[test]
fn exit_codes_tell_a_violation_an_invalid_run_and_a_broken_harness_apart() {
    let folder = tempfile::tempdir().unwrap();
    let next = |seq: u64, call: u64| {
        let (ret, f) = (call + 5, "next");
        format!(
            "{{\"proc\":1,\"key\":\"k\",\"f\":\"{f}\",\"call\":{call},\"ret\":{ret},\"type\":\"ok\",\"seq\":{seq}}}\n"
        )
    };
    for (text, code) in [
        (next(1, 0) + &next(2, 10), 0),
        (String::new(), 11),
        (next(2, 0) + &next(1, 10), 12),
        ("no history\n".to_owned(), 70),
    ] {
        let path = folder.path().join("history.jsonl");
        std::fs::write(&path, &text).unwrap();
        let output = jepsen(folder.path(), &["check", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{text}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn the_checkers_are_checked_by_the_program_too() {
    let folder = tempfile::tempdir().unwrap();
    let output = jepsen(folder.path(), &["selftest"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("valid histories: 100 of 100 accepted"), "{text}");
    assert!(text.matches(" caught").count() >= 12, "{text}");
}

#[test]
fn nonsense_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let bin = tempfile::tempdir().unwrap();
    ["seriatim", "raftctl"].iter().for_each(|name| std::fs::write(bin.path().join(name), "").unwrap());
    let bin = bin.path().to_str().unwrap();
    for (arguments, said) in [
        (vec!["run", "--bin", bin, "--other", "/elsewhere"], "--other /elsewhere: there is no seriatim in it"),
        (vec!["run", "--workload", "bank"], "`bank` is no workload"),
        (vec!["run", "--nemesis", "earthquake"], "earthquake"),
        (vec!["run", "--time", "0"], "--time 0"),
        (vec!["run", "--stores", "1"], "--stores 1"),
        (vec!["run", "--network", "pigeons"], "--network pigeons"),
        (vec!["run", "--bin", "/nowhere"], "there is no seriatim in /nowhere"),
        (vec!["hunt", "--hours", "0"], "--hours"),
        (vec!["repeat", "nothing-here"], "run.json"),
        (vec!["recovery", "nothing-here"], "nothing-here"),
        (vec!["check", "nothing-here"], "nothing-here"),
    ] {
        let output = jepsen(folder.path(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was made");
}

#[test]
fn the_list_names_every_workload() {
    let folder = tempfile::tempdir().unwrap();
    let output = jepsen(folder.path(), &["list"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for name in ["seq", "direct", "group", "inbox", "register", "authz", "lease", "mix"] {
        assert!(text.lines().any(|line| line.trim_start().starts_with(name)), "{name}: {text}");
    }
    assert!(output.status.success());
}
