//! Frames: what devices and gateways say to each other, cut out of byte streams.
//!
//! Asserts: a stream in pieces gives the frames of the stream in one piece and the same error; the decoder never holds
//! more than one frame and the piece that came; what was read is written and read again as the same; both ways to cut
//! frames (`split_frame`, `whole_frames`) agree with the decoder; a place put on a frame is read from it again, and
//! changes nothing else; an error's code survives the way over the wire.

use bytes::{Bytes, BytesMut};
use prost::Message;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::limits;
use seriatim_proto::wire::lane::{self, Place};
use seriatim_proto::wire::{self, FrameDecoder, FrameError, v1};

/// Runs the target.
pub fn run(data: &[u8]) {
    // The first bytes say how the rest is cut, the others are the stream.
    let Some((cuts, stream)) = data.split_first_chunk::<4>() else { return };
    both_ways::<v1::ClientFrame>(cuts, stream);
    both_ways::<v1::ServerFrame>(cuts, stream);
    split(stream);
    place(cuts, stream);
    if let Ok(error) = v1::Error::decode(stream) {
        refusal(&error);
    }
    let code = u16::from_be_bytes([cuts[0], cuts[1]]);
    if let Some(ours) = lane::close_code_from_websocket(code) {
        assert_eq!(lane::close_code_to_websocket(ours), code);
    }
}

fn both_ways<M: Message + Default + PartialEq + std::fmt::Debug>(cuts: &[u8; 4], stream: &[u8]) {
    let whole = read::<M>([stream].into_iter());
    let mut rest = stream;
    let mut turn = 0;
    let pieces = std::iter::from_fn(|| {
        if rest.is_empty() {
            return None;
        }
        // No piece is empty; some are a byte, some hold several frames.
        let length = (usize::from(cuts[turn % cuts.len()]) + 1).min(rest.len());
        turn += 1;
        let (piece, behind) = rest.split_at(length);
        rest = behind;
        Some(piece)
    });
    assert_eq!(read::<M>(pieces), whole, "in pieces as in one");
    let (frames, _) = whole;
    let mut written = BytesMut::new();
    frames.iter().for_each(|frame| wire::encode_frame(frame, &mut written));
    // Unknown fields are dropped and defaults left out, so what is written is never longer than what was read.
    assert!(written.len() <= stream.len());
    assert_eq!(read::<M>([&written[..]].into_iter()), (frames, Ok(())));
}

fn read<'a, M: Message + Default>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<M>, Result<(), FrameError>) {
    let mut decoder = FrameDecoder::default();
    let mut frames = Vec::new();
    for piece in pieces {
        decoder.push(piece);
        loop {
            match decoder.next_frame::<M>() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
        let most = limits::FRAME_BYTES_MAX as usize + LENGTH_BYTES_MAX + piece.len();
        assert!(decoder.buffered() <= most, "{} bytes held", decoder.buffered());
    }
    let end = decoder.finish();
    (frames, end)
}

/// As many as a length has, one less than makes it malformed.
const LENGTH_BYTES_MAX: usize = 5;

fn split(stream: &[u8]) {
    let mut rest = Bytes::copy_from_slice(stream);
    let mut taken = 0;
    loop {
        match wire::split_frame(&mut rest) {
            Ok(Some((frame, header))) => {
                assert_eq!(frame, stream[taken..taken + frame.len()]);
                assert!(header <= LENGTH_BYTES_MAX && frame.len() - header <= limits::FRAME_BYTES_MAX as usize);
                // One frame alone is a whole one.
                assert_eq!(wire::whole_frames(&frame, 0), frame.len());
                taken += frame.len();
            }
            Ok(None) => {
                assert_eq!(taken, stream.len());
                break;
            }
            Err(_) => break,
        }
    }
    // What is whole is what could be split off, unless nothing could: then it is all of it, or nothing yet.
    let whole = wire::whole_frames(stream, usize::MAX);
    assert!(whole == taken || taken == 0 && whole == stream.len(), "{whole} of {taken}");
}

fn place(cuts: &[u8; 4], stream: &[u8]) {
    let place = Place { lane: u64::from(cuts[1]) << (cuts[2] % 56), end: cuts[3] & 1 == 1, inbox: 0 };
    let (frames, _) = read::<v1::ClientFrame>([stream].into_iter());
    let mut plain = BytesMut::new();
    for frame in &frames {
        let frame = v1::ClientFrame { lane: 0, end: false, ..frame.clone() };
        wire::encode_frame(&frame, &mut plain);
    }
    // A frame of the largest kind has no room for a place in a frame: it is put into a WebSocket's message, which has.
    let mut put = BytesMut::new();
    place.put(&plain, &mut put);
    let (placed, end) = read::<v1::ClientFrame>([&put[..]].into_iter());
    if end.is_err() {
        return;
    }
    if frames.is_empty() {
        assert_eq!(placed.len(), usize::from(place.end), "an end needs a frame");
        return;
    }
    assert_eq!(placed.len(), frames.len());
    let last = placed.len() - 1;
    let mut rest = put.freeze();
    for (at, (placed, plain)) in placed.into_iter().zip(frames).enumerate() {
        let expected = Place { end: place.end && at == last, ..place };
        let (frame, header) = wire::split_frame(&mut rest).expect("it was read").expect("it was read");
        let read = Place::of(frame.slice(header..)).expect("a frame has a place");
        assert_eq!(read, expected);
        assert_eq!(placed, v1::ClientFrame { lane: expected.lane, end: expected.end, ..plain });
    }
}

fn refusal(error: &v1::Error) {
    let refusal = wire::error_from_wire(error);
    let known = u16::try_from(error.code).ok().and_then(ErrorCode::from_number);
    assert_eq!(refusal.code, known.unwrap_or(ErrorCode::Internal));
    assert_eq!(wire::error_from_wire(&wire::error_to_wire(&refusal)), refusal);
}
