//! Logic: the node that holds slots: the message service between gateways and stores.
//!
//! The rules are in `seriatim-logic-core`; here is the plain shell around them.
//!
//! ```text
//!  gateways ─▶ service ─▶ brain (owns the slot holders) ─▶ batcher ─▶ store_client ─▶ stores
//!     ▲           │          │  ▲   ▲                                      │
//!     │           ▼          │  │   └───────── outcomes, holder table ◀────┘
//!     │         reads ───────┼──┼──────────▶ store_client (linearizable reads)
//!     └── replies, pushes ◀──┘  └─▶ peers ─▶ other nodes' services
//! ```
//!
//! # Reading order
//! [`server`](LogicServer) → `brain` → `batcher` → `store_client` → `service` → `reads` → `peers`; `sequence` stands
//! beside `service`.
#![forbid(unsafe_code)]

mod batcher;
mod brain;
mod clock;
mod config;
mod input;
mod leases;
mod metrics;
mod packets;
mod peers;
mod reads;
mod sequence;
mod server;
mod service;
mod store_client;
mod topology;

pub use config::LogicConfig;
pub use server::{LogicRunError, LogicServer, LogicStartError};
