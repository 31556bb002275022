//! Store: Raft groups over RocksDB, and the gRPC services through which logic nodes, other stores and operators
//! reach them.
//!
//! ```text
//!  logic nodes ── service.rs ──┐                      ┌── raft/ (openraft) ── log.db, watermark ── other stores
//!  operators ──── admin.rs ────┼── host.rs ─ replica ─┤
//!                              │   door.rs (reads,    └── raft/state_machine.rs ── raft-store/core ── state.db
//!                              └── meta.rs  leases)
//! ```
//! Sockets are served by the caller's runtime. Everything of Raft, apply and RocksDB runs on a runtime of its own.
//!
//! # Reading order
//! [`StoreServer::start`] → `host.rs` → `raft/state_machine.rs` → `rocks/state_db.rs` → `door.rs` → `service.rs`.
#![forbid(unsafe_code)]

mod admin;
mod admission;
mod balance;
mod boot_time;
mod check;
mod clock;
mod config;
mod disk;
mod door;
mod fatal;
mod host;
mod identity;
mod keys;
mod leases;
mod live;
mod log_record;
mod log_writer;
mod meta;
mod metrics;
mod moves;
mod packets;
mod raft;
#[cfg(test)]
mod rebuild_tests;
mod remote;
mod replica;
mod retention;
mod rocks;
mod rot;
mod scrub;
mod server;
mod service;
mod skew;
mod transport;
mod watermark;

pub use config::{StoreConfig, Tuning};
pub use identity::IdentityError;
pub use server::{StoreRunError, StoreServer, StoreStartError};
