//! The gateway: the door for devices. QUIC, WebTransport, WebSocket and tokens on one side, gRPC streams to the logic nodes on the other.
//!
//! The rules of the protocol are in `seriatim-gateway-core`; this crate moves bytes. It keeps nothing durable and
//! nothing that a device cannot get again: a device that loses its gateway goes on with the next one.
//!
//! ```text
//! device ═════════▶ transport: a carrier of the session's streams
//!                      │
//!                  device: one driver task per connection, holding a Session
//!                      │ calls, registrations        ▲ mailbox: replies, pushes
//!                      ▼                             │
//!                 hub: the Router behind one short lock
//!                      │ outbox: frames in order     ▲ frames
//!                      ▼                             │
//!                 logic_link: one gRPC stream per logic node ═▶ logic
//! ```
//!
//! # Failure
//! A lost logic node: its calls are asked again elsewhere, its registrations made again. A crash of the gateway:
//! devices reconnect and resume with their cursors.
//!
//! # Reading order
//! [`GatewayServer::start`] → `transport` → `device` → `hub` → `logic_link`.
#![forbid(unsafe_code)]

mod certificate;
mod client_certificate;
mod config;
pub mod dev_ca;
mod device;
mod hub;
mod logic_link;
mod mailbox;
mod metrics;
mod operator;
mod outbox;
mod roster;
mod server;
mod short_certificate;
mod transport;

pub use certificate::{CertificateError, CertificateFiles};
pub use config::{ADDRESS_CONNECTIONS_MAX, GatewayConfig, WebTransportCertificate};
pub use server::{GatewayRunError, GatewayServer, GatewayStartError};
pub use short_certificate::ShortCertificateError;
pub use transport::Origins;
