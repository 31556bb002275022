//! The gateway on real sockets, with a stand-in for the logic layer behind it.
//!
//! One program for all of them: what they share, and the runtime of everything below, is compiled and linked once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod end_to_end;
mod faults;
mod malformed;
mod support;
mod transports;
