//! Logic: the node that holds slots: the message service between gateways and stores.
//!
//! The rules are in `seriatim-logic-core`; here is the plain shell around them.
//!
//! ```text
//!  gateways ─▶ service ─▶ shards (own the slot holders) ─▶ store_client ─▶ stores
//!     ▲                    │   ▲   │                          │
//!     └──── streams ◀──────┘   │   └──▶ peers ─▶ other nodes  └─▶ outcomes back to the shards
//!                              └── peer_service ◀─ other nodes
//!  node: opens the node and its leases, renews, claims and releases slots
//! ```
//!
//! # Reading order
//! [`server`](LogicServer) → `node` → `shard` → `store_client` → `service` → `reads` → `peers`.
#![forbid(unsafe_code)]

mod boot_time;
mod config;
mod input;
mod listener;
mod metrics;
mod node;
mod packets;
mod peer_service;
mod peers;
mod reads;
mod server;
mod service;
mod shard;
mod store_client;
mod streams;
mod table;

pub use config::LogicConfig;
pub use server::{LogicRunError, LogicServer, LogicStartError};
