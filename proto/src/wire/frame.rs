//! Frame: length-delimited messages on a byte stream: an unsigned LEB128 length, then the bytes.
//!
//! The length is checked against [`crate::limits::FRAME_BYTES_MAX`] before anything is allocated for it.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message;

use crate::limits::FRAME_BYTES_MAX;

/// Why bytes are no frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The length says more than the limit.
    #[error("a frame of {bytes} bytes, at most {FRAME_BYTES_MAX} are allowed")]
    TooLarge {
        /// what it says
        bytes: u64,
    },
    /// The length is not LEB128, or longer than needed for any allowed frame.
    #[error("a malformed frame length")]
    Length,
    /// The message cannot be read.
    #[error("a malformed frame: {0}")]
    Malformed(String),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
}

/// Appends a message with its length.
pub fn encode_frame<M: Message>(message: &M, out: &mut BytesMut) {
    message.encode_length_delimited(out).expect("BytesMut grows");
}

/// Cuts frames out of a byte stream. Holds at most one frame and what was read behind it.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: BytesMut,
}

impl FrameDecoder {
    /// Takes bytes as they come.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }
    /// Bytes held.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }
    /// The next whole message, `None` if more bytes are needed.
    pub fn next_frame<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let Some((length, header)) = read_length(&self.buffer)? else { return Ok(None) };
        if self.buffer.len() < header + length {
            return Ok(None);
        }
        self.buffer.advance(header);
        let bytes: Bytes = self.buffer.split_to(length).freeze();
        M::decode(bytes).map(Some).map_err(|error| FrameError::Malformed(error.to_string()))
    }
    /// Says whether the stream may end here.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.buffer.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

/// How many bytes the whole frames at the front take: as many as fit `bytes_max`, but one at least if one is whole.
/// The bytes are of our own making: what is no frame counts as the rest, so that who takes them away is never stuck.
pub fn whole_frames(bytes: &[u8], bytes_max: usize) -> usize {
    let mut end = 0;
    loop {
        match read_length(&bytes[end..]) {
            Ok(Some((length, header))) => {
                let next = end + header + length;
                if next > bytes.len() || (end > 0 && next > bytes_max) {
                    return end;
                }
                end = next;
            }
            Ok(None) => return end,
            Err(_) if end == 0 => return bytes.len(),
            Err(_) => return end,
        }
    }
}

/// Splits the next frame off, its length included: `(frame, bytes of the length)`. `None` at the end.
pub fn split_frame(bytes: &mut Bytes) -> Result<Option<(Bytes, usize)>, FrameError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (length, header) = read_length(bytes)?.ok_or(FrameError::Truncated)?;
    if bytes.len() < header + length {
        return Err(FrameError::Truncated);
    }
    Ok(Some((bytes.split_to(header + length), header)))
}

/// Reads the length; `(length, bytes of the length itself)`.
pub(super) fn read_length(bytes: &[u8]) -> Result<Option<(usize, usize)>, FrameError> {
    let mut length = 0u64;
    for (place, byte) in bytes.iter().take(5).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * place);
        if length > u64::from(FRAME_BYTES_MAX) {
            return Err(FrameError::TooLarge { bytes: length });
        }
        if byte & 0x80 == 0 {
            return Ok(Some((length as usize, place + 1)));
        }
    }
    if bytes.len() >= 5 { Err(FrameError::Length) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::v1;

    fn ping(nonce: u64) -> v1::ClientFrame {
        v1::ClientFrame {
            request_id: 7,
            body: Some(v1::client_frame::Body::Ping(v1::Ping { nonce })),
            ..Default::default()
        }
    }

    #[test]
    fn frames_survive_any_cut() {
        let mut bytes = BytesMut::new();
        encode_frame(&ping(1), &mut bytes);
        encode_frame(&ping(u64::MAX), &mut bytes);
        for cut in 0..bytes.len() {
            let mut decoder = FrameDecoder::default();
            let mut seen = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.push(part);
                while let Some(frame) = decoder.next_frame::<v1::ClientFrame>().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, [ping(1), ping(u64::MAX)]);
            decoder.finish().unwrap();
        }
    }

    #[test]
    fn a_ping_has_these_bytes() {
        let mut bytes = BytesMut::new();
        encode_frame(&ping(3), &mut bytes);
        assert_eq!(&bytes[..], [6, 0x08, 7, 0x5a, 2, 0x08, 3]);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0x7f]);
        assert!(matches!(decoder.next_frame::<v1::ClientFrame>(), Err(FrameError::TooLarge { .. })));
        let mut decoder = FrameDecoder::default();
        decoder.push(&[0x80, 0x80, 0x80, 0x80, 0x80]);
        assert_eq!(decoder.next_frame::<v1::ClientFrame>(), Err(FrameError::Length));
    }

    #[test]
    fn whole_frames_are_counted_up_to_the_bound_and_split_one_by_one() {
        let mut bytes = BytesMut::new();
        let ends: Vec<_> = (0..4)
            .map(|nonce| {
                encode_frame(&ping(nonce << 20), &mut bytes);
                bytes.len()
            })
            .collect();
        assert_eq!(whole_frames(&bytes, usize::MAX), ends[3]);
        assert_eq!(whole_frames(&bytes, ends[2] - 1), ends[1]);
        assert_eq!(whole_frames(&bytes, 0), ends[0], "one at least");
        assert_eq!(whole_frames(&bytes[..ends[1] - 1], usize::MAX), ends[0], "not a part of one");
        assert_eq!(whole_frames(&bytes[..1], usize::MAX), 0);
        assert_eq!(whole_frames(&[0xff; 20], 4), 20, "no frame: the rest, so that nobody waits for more of it");
        let mut rest = bytes.freeze();
        for place in 0..4 {
            let (frame, header) = split_frame(&mut rest).unwrap().unwrap();
            let before = if place == 0 { 0 } else { ends[place - 1] };
            assert_eq!((frame.len(), header), (ends[place] - before, 1));
        }
        assert_eq!(split_frame(&mut rest), Ok(None));
        assert_eq!(split_frame(&mut Bytes::from_static(&[6, 8])), Err(FrameError::Truncated));
        assert_eq!(split_frame(&mut Bytes::from_static(&[0x80])), Err(FrameError::Truncated));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_frame::<v1::ClientFrame>() {}
        }
    }
}
