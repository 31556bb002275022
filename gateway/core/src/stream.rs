//! Stream: what the session knows of one stream: its role, its half-read frame and what waits to be written.

use bytes::{Bytes, BytesMut};
use seriatim_proto::wire::{FrameDecoder, whole_frames};

/// One stream of a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StreamId {
    /// Bidirectional, opened by the device, in rising order from 0. The first one is the control stream.
    Bidi(u64),
    /// Unidirectional, opened by the gateway for this subscription when it is first written to.
    Inbox(u64),
}

impl StreamId {
    /// The control stream.
    pub const CONTROL: StreamId = StreamId::Bidi(0);
}

/// Bytes for one stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Transmit {
    /// which stream
    pub stream: StreamId,
    /// whole frames; perhaps none, when only `finish` is news
    pub bytes: Bytes,
    /// nothing follows: finish the sending side and forget the stream
    pub finish: bool,
}

impl std::fmt::Debug for Transmit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Transmit {{ {:?}, {} bytes, finish: {} }}", self.stream, self.bytes.len(), self.finish)
    }
}

/// What a stream is for. A device's stream gets its role from its first frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    Control,
    Unnamed,
    Lane,
    Call,
    Inbox,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) role: Role,
    pub(crate) decoder: FrameDecoder,
    /// The device sends no more.
    pub(crate) ended: bool,
    /// The one question of a call stream was asked.
    pub(crate) asked: bool,
    /// Requests of this stream without an answer.
    pub(crate) requests: u32,
    pub(crate) out: BytesMut,
    /// Finish when `out` is empty.
    pub(crate) finish: bool,
    /// The transport takes no more for now.
    pub(crate) blocked: bool,
    /// It is in the session's list of streams with something to send.
    pub(crate) listed: bool,
}

impl Stream {
    pub(crate) fn new(role: Role) -> Self {
        Self {
            role,
            decoder: FrameDecoder::default(),
            ended: false,
            asked: false,
            requests: 0,
            out: BytesMut::new(),
            finish: false,
            blocked: false,
            listed: false,
        }
    }

    /// Takes whole frames of what waits: up to `bytes_max`, but one at least.
    pub(crate) fn take(&mut self, id: StreamId, bytes_max: usize) -> Option<Transmit> {
        if self.blocked || (self.out.is_empty() && !self.finish) {
            return None;
        }
        let bytes = if self.out.len() <= bytes_max {
            self.out.split()
        } else {
            self.out.split_to(whole_frames(&self.out, bytes_max))
        };
        Some(Transmit { stream: id, bytes: bytes.freeze(), finish: self.finish && self.out.is_empty() })
    }
}
