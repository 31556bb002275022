//! Transport: the ways in. A [`Carrier`] moves the bytes of a session's streams; no rule of the protocol is here.
//!
//! ```text
//!              ┌─ native ────────────────────────────┐
//! UDP ── quic ─┤                                     ├─ streams ───┐
//!              └─ webtransport: HTTP/3, one request ─┘             ├─ device: one driver for all
//! TCP ── https: TLS, one request ─ websocket: a lane in each frame ┘
//! ```
//!
//! All of them stand behind one gate and on one port number.

mod bind;
mod descriptors;
mod doors;
mod gate;
mod https;
mod line;
mod quic;
mod quic_keys;
mod rules;
mod streams;
mod tasks;
mod websocket;
mod webtransport;

use std::task::{Context, Poll};
use std::time::Instant;

use seriatim_gateway_core::{Session, Transmit};

pub(crate) use doors::Doors;
pub(crate) use line::Line;
pub(crate) use quic_keys::SECRET_BYTES_MIN;
pub use rules::Origins;

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

    /// Ready when the device has taken in the close, its own has its answer, or it is gone.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}
