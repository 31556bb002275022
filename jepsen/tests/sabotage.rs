//! Planted bugs, caught by the real program on real clusters of the test build.
//!
//! The binaries are looked for in `$SERIATIM_BIN`, else beside the test's own target folder; without them the tests
//! that need a cluster are skipped, and say so.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn binaries() -> Option<PathBuf> {
    let told = std::env::var_os("SERIATIM_BIN").map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_owned());
    let folder = told.or_else(beside)?;
    let found = ["seriatim-chaos", "raftctl"].iter().all(|name| folder.join(name).is_file());
    if !found {
        eprintln!(
            "skipped: there are no binaries seriatim-chaos (cargo build --features chaos) and raftctl in {}; set \
             SERIATIM_BIN",
            folder.display()
        );
    }
    found.then_some(folder)
}

/// Runs the program in a folder of its own.
fn sabotage(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_jepsen"))
        .arg("sabotage")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("the program was built for this test")
}

/// The whole table; about ten minutes. A bug shows itself in its moment, and on a busy machine a trial may miss it or
/// prove too little: what was missed gets one more trial, under another seed. A control that finds something never does.
#[test]
fn all_planted_bugs_are_caught_and_their_controls_are_clean() {
    let Some(bin) = binaries() else { return };
    let folder = tempfile::tempdir().unwrap();
    let trial = |arguments: &[&str]| {
        let output = sabotage(folder.path(), &[arguments, &["--json", "--bin", bin.to_str().unwrap()]].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        eprintln!("{said}");
        let bad = ["NOT CLEAN", "control: broken", "by broken"];
        assert!(!bad.iter().any(|bad| said.contains(bad)), "{said}");
        let last = String::from_utf8_lossy(&output.stdout).lines().last().map(str::to_owned);
        (said, last, output.status.code())
    };
    let (said, last, exit) = trial(&["--seed", "1"]);
    let word = |line: &str, nth| line.split_whitespace().nth(nth).map(str::to_owned);
    let missed: Vec<String> = said
        .lines()
        .filter(|line| word(line, 1).as_deref() == Some("MISSED"))
        .filter_map(|line| word(line, 0))
        .collect();
    let caught = said.lines().filter(|line| word(line, 1).as_deref() == Some("caught")).count();
    assert_eq!(caught + missed.len(), 12, "{said}");
    if missed.is_empty() {
        assert_eq!((last.as_deref(), exit), (Some(r#"{"caught":12,"total":12}"#), Some(0)), "{said}");
        assert_eq!(said.matches("control: clean").count(), 12, "{said}");
        return;
    }
    let (said, last, exit) = trial(&["--seed", "2", "--only", &missed.join(",")]);
    let all = format!(r#"{{"caught":{0},"total":{0}}}"#, missed.len());
    assert_eq!((last.as_deref(), exit), (Some(all.as_str()), Some(0)), "{said}");
    assert_eq!(said.matches("control: clean").count(), missed.len(), "{said}");
}

#[test]
fn unknown_bugs_and_missing_builds_are_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, said) in [
        (vec!["--only", "no-fsnyc"], "`no-fsnyc` is no sabotage"),
        (vec!["--bin", "/nowhere"], "there is no seriatim-chaos in /nowhere"),
    ] {
        let output = sabotage(folder.path(), &arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something was made");
}
