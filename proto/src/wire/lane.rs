//! Lane: where a frame belongs on a transport without streams (docs/protocol.md, WebSocket).
//!
//! The fields are part of the frames, but only the two ends of a WebSocket read and write them: a session never sees
//! which transport it is on. So they are read from and put onto frames that are encoded already.

use bytes::{Bytes, BytesMut};
use prost::Message;
use prost::encoding::encode_varint;

use super::frame::read_length;

/// The streams of a device that may be open at the same time on a WebSocket, the control stream included.
pub const LANES_MAX: usize = 64;
/// Most bytes of a WebSocket message: a frame of the largest kind, with its length and its place.
pub const MESSAGE_BYTES_MAX: usize = crate::limits::FRAME_BYTES_MAX as usize + 64;
/// The way to the gateway, in WebTransport's and WebSocket's URLs.
pub const PATH: &str = "/seriatim-1";
/// Added to close codes on a WebSocket; 0 is 1000.
pub const CLOSE_CODE_FIRST: u16 = 4_000;

/// Where a frame belongs. The fields have the numbers of `ClientFrame` and `ServerFrame`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Place {
    /// the device's stream, 0 for the control stream
    #[prost(uint64, tag = "4")]
    pub lane: u64,
    /// the last frame of its stream
    #[prost(bool, tag = "5")]
    pub end: bool,
    /// the subscription whose inbox stream it is, 0 for none; only the gateway says it
    #[prost(uint64, tag = "6")]
    pub inbox: u64,
}

/// A frame that is nothing but the end of its stream: it is optional and has no body.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
struct End {
    #[prost(bool, tag = "3")]
    optional: bool,
}

impl Place {
    /// The place of a frame, its length left out.
    pub fn of(frame: Bytes) -> Result<Self, super::FrameError> {
        Self::decode(frame).map_err(|error| super::FrameError::Malformed(error.to_string()))
    }

    /// Puts whole frames, lengths included, on this place; `end` goes to the last one.
    pub fn put(self, frames: &[u8], out: &mut BytesMut) {
        let only_end = End { optional: true }.encode_length_delimited_to_vec();
        let mut frames = if frames.is_empty() && self.end { &only_end[..] } else { frames };
        while let Ok(Some((length, header))) = read_length(frames) {
            let (frame, rest) = frames.split_at(header + length);
            let place = Self { end: self.end && rest.is_empty(), ..self };
            encode_varint((length + place.encoded_len()) as u64, out);
            out.extend_from_slice(&frame[header..]);
            place.encode(out).expect("BytesMut grows");
            frames = rest;
        }
    }
}

/// The close code of a WebSocket for one of docs/protocol.md.
pub fn close_code_to_websocket(code: u32) -> u16 {
    match u16::try_from(code) {
        Ok(0) | Err(_) => 1_000,
        Ok(code) => CLOSE_CODE_FIRST.saturating_add(code),
    }
}

/// The close code of docs/protocol.md for one of a WebSocket; `None` for those that are not ours.
pub fn close_code_from_websocket(code: u16) -> Option<u32> {
    match code {
        1_000 => Some(0),
        code => code.checked_sub(CLOSE_CODE_FIRST).filter(|code| *code < 1_000).map(u32::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{FrameDecoder, encode_frame, v1};

    #[test]
    fn a_place_is_put_on_frames_and_read_from_them() {
        let pong = |nonce| v1::ServerFrame {
            request_id: nonce,
            body: Some(v1::server_frame::Body::Pong(v1::Pong { nonce })),
            ..Default::default()
        };
        let mut frames = BytesMut::new();
        encode_frame(&pong(1), &mut frames);
        encode_frame(&pong(2), &mut frames);
        let mut out = BytesMut::new();
        Place { lane: 300, end: true, inbox: 0 }.put(&frames, &mut out);
        let mut decoder = FrameDecoder::default();
        decoder.push(&out);
        for nonce in [1, 2] {
            let frame: v1::ServerFrame = decoder.next_frame().unwrap().unwrap();
            assert_eq!(frame, v1::ServerFrame { lane: 300, end: nonce == 2, ..pong(nonce) });
        }
        decoder.finish().unwrap();
        let mut bytes = out.freeze();
        let mut ends = Vec::new();
        while let Some((frame, header)) = crate::wire::split_frame(&mut bytes).unwrap() {
            let place = Place::of(frame.slice(header..)).unwrap();
            assert_eq!((place.lane, place.inbox), (300, 0));
            ends.push(place.end);
        }
        assert_eq!(ends, [false, true]);
    }

    #[test]
    fn an_end_without_a_frame_is_an_optional_one_without_a_body() {
        let mut out = BytesMut::new();
        Place { lane: 0, end: true, inbox: 7 }.put(&[], &mut out);
        let mut decoder = FrameDecoder::default();
        decoder.push(&out);
        let frame: v1::ServerFrame = decoder.next_frame().unwrap().unwrap();
        assert_eq!(frame, v1::ServerFrame { optional: true, end: true, inbox: 7, ..Default::default() });
        out.clear();
        Place { lane: 1, end: false, inbox: 0 }.put(&[], &mut out);
        assert!(out.is_empty());
    }

    proptest::proptest! {
        #[test]
        fn any_message_is_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..512)) {
            let mut rest = Bytes::from(bytes.clone());
            let mut read = Vec::new();
            while let Ok(Some((frame, header))) = crate::wire::split_frame(&mut rest) {
                read.extend_from_slice(&frame);
                if Place::of(frame.slice(header..)).is_err() {
                    break;
                }
            }
            proptest::prop_assert!(bytes.starts_with(&read));
        }
    }

    #[test]
    fn the_largest_frame_fits_a_message_on_any_place() {
        let place = Place { lane: u64::MAX, end: true, inbox: u64::MAX };
        assert!(place.encoded_len() + 5 <= MESSAGE_BYTES_MAX - crate::limits::FRAME_BYTES_MAX as usize);
    }

    #[test]
    fn close_codes_survive_the_way_over_a_websocket() {
        for code in 0..=13 {
            assert_eq!(close_code_from_websocket(close_code_to_websocket(code)), Some(code));
        }
        assert_eq!(close_code_from_websocket(1_006), None);
    }
}
