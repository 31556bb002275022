//! Bench: real conversations through a real cluster, and an independent judge of what arrived.
//!
//! The replay ([`script`] says who says what where) drives devices through the public protocol; each device writes
//! down what it received ([`record`]). The checker ([`check`]) reads the source file and those records, nothing else.
//!
//! # Reading order
//! [`source`] → [`script`] → [`record`] → [`check`]; then [`replay`]. Apart from them: [`e2e`], [`connections`],
//! [`transports`], [`store`], [`seq`].
#![forbid(unsafe_code)]

pub mod check;
pub mod connections;
mod device;
pub mod e2e;
mod gateway;
mod load;
pub mod record;
pub mod replay;
pub mod script;
pub mod seq;
mod servers;
pub mod source;
pub mod store;
pub mod transports;
