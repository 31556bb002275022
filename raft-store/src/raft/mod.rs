//! Raft: the only module that names openraft.
//!
//! ```text
//!  group.rs ── RaftHost ── openraft ──┬── log_store.rs ── log_writer.rs ── rocks/log_db.rs, watermark.rs
//!                                     ├── state_machine.rs, snapshot.rs ── rocks/state_db.rs
//!                                     └── network.rs ── transport.rs ── (peer) ── incoming.rs ── openraft
//! ```
//!
//! # Reading order
//! [`types`] → [`codec`] → [`log_store`] → [`network`] → [`incoming`] → [`group`].

pub(crate) mod codec;
pub(crate) mod group;
pub(crate) mod incoming;
pub(crate) mod log_store;
pub(crate) mod network;
mod sabotage;
pub(crate) mod snapshot;
pub(crate) mod state_machine;
pub(crate) mod types;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod conformance_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
pub(crate) mod testing;
