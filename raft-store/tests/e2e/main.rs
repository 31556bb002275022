//! Clusters of stores in this process, on real sockets and disks.
//!
//! One program for all of them: what they share, and the runtime of everything below, is compiled and linked once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;
mod common;
mod moves;
mod placement;
mod rebuild;
mod retention;
