//! Proto: the facts that every room shares, each owned by one file.
//!
//! Ids, limits, error codes, the replicated commands, the frames between our own processes, and the
//! public wire protocol. No I/O, no clock, no tokio, RocksDB, openraft or quinn.
//!
//! # Reading order
//! [`ids`] → [`limits`] → [`error`] → [`command`] → [`store`] → [`logic`] → [`wire`].
#![forbid(unsafe_code)]

pub mod admin;
#[cfg(feature = "certificate")]
pub mod certificate;
pub mod chain;
pub mod chaos;
pub mod codec;
pub mod command;
pub mod error;
pub mod guard;
pub mod hash;
pub mod ids;
pub mod limits;
pub mod logic;
pub mod meta;
pub mod operator;
pub mod panic;
pub mod playground;
pub mod store;
#[cfg(feature = "token")]
pub mod token;
pub mod wire;

/// Generated gRPC stubs of the internal services (`internal.proto`) and of the sequence service (`sequence.proto`).
#[cfg(feature = "grpc")]
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    clippy::all,
    reason = "generated code"
)]
pub mod grpc {
    tonic::include_proto!("seriatim.internal.v1");

    /// The sequence service, `seriatim.sequence.v1`.
    pub mod sequence {
        tonic::include_proto!("seriatim.sequence.v1");
    }
}
