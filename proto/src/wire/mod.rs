//! Wire: the public protocol `seriatim-1`: generated messages and the frame codec.
//!
//! Specified in docs/protocol.md; the messages are in `proto/seriatim/v1/client.proto`.

mod convert;
mod frame;
pub mod lane;

pub use convert::*;
pub use frame::{FrameDecoder, FrameError, encode_frame, split_frame, whole_frames};

/// Generated messages.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths,
    clippy::all,
    reason = "generated code"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/seriatim.v1.rs"));
}

/// ALPN token, WebTransport protocol and WebSocket subprotocol: the major version.
pub const ALPN: &[u8] = b"seriatim-1";
/// Lowest minor version that this program speaks.
pub const MINOR_MIN: u32 = 0;
/// Highest minor version that this program speaks.
pub const MINOR_MAX: u32 = 0;
