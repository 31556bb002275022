//! Fuzz: every decoder that reads bytes of others, and the session core, against rules that hold for all bytes.
//!
//! A target is a function of bytes that returns, or panics where a rule is broken. The fuzzer (`scripts/fuzz`, with
//! libFuzzer) looks for bytes that reach new code; what it kept is in `corpus/`, and `tests/replay.rs` runs that and
//! a fixed number of changed copies on stable Rust with every other test. docs/fuzzing.md has the table of the runs.
//!
//! # Reading order
//! [`frames`] → [`session`] → [`internal`] → [`token`] → [`stored`] → [`doors`].
#![forbid(unsafe_code)]

pub mod doors;
pub mod frames;
pub mod internal;
pub mod session;
pub mod stored;
pub mod token;

/// A target: its name, which is that of its fuzzer and of its folder in `corpus/`, and what runs it.
pub struct Target {
    /// as `scripts/fuzz --list` says it
    pub name: &'static str,
    /// returns, or panics where a rule is broken
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 6] = [
    Target { name: "doors", run: doors::run },
    Target { name: "frames", run: frames::run },
    Target { name: "internal", run: internal::run },
    Target { name: "session", run: session::run },
    Target { name: "stored", run: stored::run },
    Target { name: "token", run: token::run },
];
