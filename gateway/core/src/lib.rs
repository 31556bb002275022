//! Gateway core: the session protocol and the routing to logic nodes, without I/O, clock or randomness.
//!
//! [`Session`] is one device's connection: bytes of its streams in, bytes and events out.
//! [`Router`] is shared by all sessions of a gateway: it knows who holds which slot, sends each call to the right
//! logic node, repeats it where that is safe, and keeps the registrations for pushes alive.
//!
//! ```text
//!  streams ─▶ Session ─ Call, Register ─▶ Router ─ frames ─▶ logic nodes
//!  streams ◀─ Session ◀─ Reply, Push, Tail ─ Router ◀─ frames ─ logic nodes
//! ```
//!
//! Both are driven alike: `handle_*` in, then `poll_*` until `None`; time is an argument.
//!
//! # Reading order
//! [`Session::handle_stream_data`] → `frames` → `inbox` → [`Router::call`] → [`Router::handle_response`].
#![forbid(unsafe_code)]

mod entries;
mod frames;
mod inbox;
mod router;

mod session;
mod stream;
mod table;

pub use router::{LinkId, Router, RouterEffect, RouterEvent, RouterLimits};
pub use session::{Admission, Renewal, RenewalEnd, RequestId, Session, SessionEvent, SessionLimits};
pub use stream::{StreamId, Transmit};
