//! Outbox: frames that wait to be sent on one link; the stream that tonic polls.
//!
//! All frames that wait leave in one packet, up to [`PACKET_BYTES`]: the busier the link, the larger the packets.
//! Bounded by the router's bound on bytes of calls under way.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use seriatim_proto::grpc::Packet;
use seriatim_proto::limits;

/// Bytes at which a packet is full.
const PACKET_BYTES: usize = 1 << 20;

const _: () = assert!(PACKET_BYTES + limits::FRAME_BYTES_MAX as usize <= limits::INTERNAL_FRAME_BYTES_MAX as usize);

#[derive(Debug, Default)]
struct Waiting {
    frames: Vec<Bytes>,
    closed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    waker: AtomicWaker,
}

impl Outbox {
    pub(crate) fn put(&self, frame: Bytes) {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return;
        }
        waiting.frames.push(frame);
        let was_empty = waiting.frames.len() == 1;
        drop(waiting);
        if was_empty {
            self.waker.wake();
        }
    }

    /// Nothing is sent any more.
    pub(crate) fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.frames.clear();
        drop(waiting);
        self.waker.wake();
    }
}

/// The outbox as a stream of packets.
#[derive(Debug)]
pub(crate) struct Packets(pub(crate) Arc<Outbox>);

impl Stream for Packets {
    type Item = Packet;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        self.0.waker.register(cx.waker());
        let mut waiting = self.0.waiting.lock();
        if waiting.closed {
            return Poll::Ready(None);
        }
        let mut bytes = 0;
        let count = waiting.frames.iter().take_while(|frame| {
            let fits = bytes < PACKET_BYTES;
            bytes += frame.len();
            fits
        });
        let count = count.count();
        if count == 0 {
            return Poll::Pending;
        }
        let rest = waiting.frames.split_off(count);
        Poll::Ready(Some(Packet { frames: std::mem::replace(&mut waiting.frames, rest) }))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn next(packets: &mut Packets) -> Poll<Option<usize>> {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(packets).poll_next(&mut cx).map(|packet| packet.map(|packet| packet.frames.len()))
    }

    #[test]
    fn all_that_waits_leaves_in_one_packet_of_bounded_size() {
        let outbox = Arc::new(Outbox::default());
        let mut packets = Packets(outbox.clone());
        assert_eq!(next(&mut packets), Poll::Pending);
        for _ in 0..5 {
            outbox.put(Bytes::from(vec![0; PACKET_BYTES / 4]));
        }
        assert_eq!(next(&mut packets), Poll::Ready(Some(4)));
        assert_eq!(next(&mut packets), Poll::Ready(Some(1)));
        assert_eq!(next(&mut packets), Poll::Pending);
        outbox.close();
        assert_eq!(next(&mut packets), Poll::Ready(None));
    }
}
