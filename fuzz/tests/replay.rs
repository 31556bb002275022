//! The corpus of every target, and changed copies of it: so many, whatever the machine's speed, and always the same.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use seriatim_fuzz::{TARGETS, Target};

/// Changed copies that a target is given.
const CHANGED: usize = 3_000;

/// Asked when the test runs: clones that share a target folder share this binary, whichever of them built it.
fn here() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it for tests").into()
}

fn corpus_of(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = here().join("corpus").join(target.name);
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn replay(name: &str) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target");
    let corpus = corpus_of(target);
    assert!(!corpus.is_empty(), "the corpus of {name} is empty");
    for (path, bytes) in &corpus {
        check(target, bytes, &path.display().to_string());
    }
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for number in 0..CHANGED {
        let (path, bytes) = &corpus[dice.below(corpus.len())];
        let mut bytes = bytes.clone();
        for _ in 0..=dice.below(4) {
            dice.change(&mut bytes, &corpus);
        }
        check(target, &bytes, &format!("changed copy {number}, of {}", path.display()));
    }
}

fn check(target: &Target, bytes: &[u8], what: &str) {
    if catch_unwind(AssertUnwindSafe(|| (target.run)(bytes))).is_err() {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        panic!("{}: {what} breaks a rule, which is said above. Its bytes: {hex}", target.name);
    }
}

/// Numbers of xorshift64*: the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % end.max(1)
    }

    /// One change of those that a fuzzer makes too.
    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[(PathBuf, Vec<u8>)]) {
        let at = self.below(bytes.len());
        match self.below(6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, self.below(256) as u8),
            4 if !bytes.is_empty() => {
                let end = (at + self.below(16)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            // The end of another one.
            _ => {
                let other = &corpus[self.below(corpus.len())].1;
                bytes.truncate(at);
                bytes.extend_from_slice(&other[self.below(other.len() + 1)..]);
            }
        }
    }
}

#[test]
fn doors() {
    replay("doors");
}

#[test]
fn frames() {
    replay("frames");
}

#[test]
fn internal() {
    replay("internal");
}

#[test]
fn session() {
    replay("session");
}

#[test]
fn stored() {
    replay("stored");
}

#[test]
fn token() {
    replay("token");
}

#[test]
fn every_target_has_a_fuzzer_a_corpus_and_a_row_in_the_page() {
    let here = here();
    let page = std::fs::read_to_string(here.join("../docs/fuzzing.md")).unwrap();
    let manifest = std::fs::read_to_string(here.join("Cargo.toml")).unwrap();
    for target in &TARGETS {
        let name = target.name;
        assert!(here.join(format!("engine/{name}.rs")).is_file(), "{name}");
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name}");
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
        // Small: it is in the repository for ever.
        let bytes: usize = corpus_of(target).iter().map(|(_, bytes)| bytes.len()).sum();
        assert!(bytes <= 512 << 10, "the corpus of {name} has {bytes} bytes: minimise it");
    }
}
