//! Arrows: a test that fails on a new arrow between our crates, and on a runtime, RocksDB, openraft or quinn in a core.
//!
//! Reads `cargo metadata`, so it sees what is built, not what a page says. The allowed arrows are design.md §2's.
#![forbid(unsafe_code)]
