//! The scripts beside this crate, as a fresh machine would find them wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

fn scripts() -> std::path::PathBuf {
    // Asked when the test runs: clones that share a target folder share this binary, whichever of them built it.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for tests");
    Path::new(&package).parent().unwrap().to_owned()
}

fn bash(script: &str, arguments: &[&Path], cache: &TempDir) -> Output {
    let mut command = Command::new("bash");
    command.arg("-c").arg(script).arg("bash").args(arguments).env("SERIATIM_CACHE", cache.path());
    command.output().unwrap()
}

#[test]
fn libclang_is_not_taken_for_libclang_cpp() {
    let cache = tempfile::tempdir().unwrap();
    let env = scripts().join("env.sh");
    let found = |files: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(folder.path().join(file), "").unwrap();
        }
        let output = bash("source \"$1\" && has_libclang \"$2\" && echo found", &[&env, folder.path()], &cache);
        String::from_utf8(output.stdout).unwrap() == "found\n"
    };
    assert!(!found(&[]));
    // What a Debian has on which only a program linked with libclang-cpp is installed.
    assert!(!found(&["libclang-cpp.so.14", "libLLVM-14.so"]));
    assert!(found(&["libclang-cpp.so.14", "libclang-14.so.1"]));
    assert!(found(&["libclang.so.1"]));
}

#[test]
fn run_refuses_what_it_does_not_know_before_it_starts_anything() {
    let cache = tempfile::tempdir().unwrap();
    let run = scripts().join("run");
    for (arguments, said) in [
        ("--rate 0", "--rate 0: not a number above 0"),
        ("--messages some", "--messages some: not a number above 0 and not all"),
        ("--messages", "--messages needs a value"),
        ("--sideways", "unknown option --sideways"),
    ] {
        let output = bash(&format!("\"$1\" {arguments}"), &[&run], &cache);
        assert_eq!(output.status.code(), Some(1), "{arguments}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(said), "{arguments}: {error}");
        assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0, "{arguments}");
    }
}

#[test]
fn fuzz_lists_its_targets_and_refuses_others() {
    let cache = tempfile::tempdir().unwrap();
    let fuzz = scripts().join("fuzz");
    let output = bash("\"$1\" --list", &[&fuzz], &cache);
    let listed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && listed.lines().any(|line| line == "session"), "{listed}");
    for (arguments, said) in
        [("sessions", "no target 'sessions'"), ("--seconds 0", "--seconds N"), ("--fast", "--list")]
    {
        let output = bash(&format!("\"$1\" {arguments}"), &[&fuzz], &cache);
        assert!(!output.status.success(), "{arguments}");
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(said), "{arguments}: {error}");
    }
}
