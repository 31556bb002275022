//! Transport: the ways in. A [`Carrier`] moves the bytes of a session's streams; no rule of the protocol is here.
//!
//! ```text
//! UDP ─ quic: one socket, by ALPN ─ streams: a QUIC connection's streams ─┐
//!                                                                         ├─ device: one driver for all
//!                                                                         ┘
//! ```

mod quic;
mod streams;

use std::task::{Context, Poll};
use std::time::Instant;

use seriatim_gateway_core::{Session, Transmit};

pub(crate) use quic::{Endpoint, accept, address, bind, close, stop_accepting};

/// What a carrier found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Came {
    /// Nothing new; it wakes its task when there is.
    Nothing,
    /// The session was told something.
    Something,
    /// The connection is over, and not by us.
    Over,
}

/// One connection of a device, as the session's driver sees it.
pub(crate) trait Carrier: Send + 'static {
    /// Hands on what came in, as far as the session wants data.
    fn poll_in(&mut self, cx: &mut Context<'_>, now: Instant, session: &mut Session) -> Came;

    /// Writes what was held back; `true`: something went out.
    fn poll_out(&mut self, cx: &mut Context<'_>, session: &mut Session) -> bool;

    /// May [`Carrier::put`] be called? What is not taken stays in the session, which then stops pushing and reading.
    fn has_room(&self) -> bool {
        true
    }

    /// Takes bytes of a stream, and tells the session if the stream takes no more for now.
    fn put(&mut self, cx: &mut Context<'_>, session: &mut Session, transmit: Transmit);

    /// All of this wake-up was put; `true`: something went out that was held back.
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> bool {
        false
    }

    /// Bytes that wait here.
    fn queued_bytes(&self) -> usize;

    /// Ends the connection with a close code of docs/protocol.md.
    fn close(&mut self, code: u32, reason: &str);

    /// Ready when the device has taken in the close, or is gone.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}
