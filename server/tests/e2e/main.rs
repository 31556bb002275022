//! End to end: real processes of a whole cluster on loopback, and clients.
//!
//! One program for all of them: what they share, and the runtime of everything below, is compiled and linked once.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod amend;
mod auth;
mod authorisation;
mod bad_input;
mod browser;
mod certificate;
mod common;
mod conformance;
mod descriptors;
mod full_disk;
mod gateway_killed;
mod message;
mod mtls;
mod operator;
mod raftctl;
mod raw_frames;
mod renewal;
mod retention;
mod sequence;
mod sequence_calls;
mod tenant;
