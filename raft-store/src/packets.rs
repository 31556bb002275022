//! Packets: the outgoing side of a gRPC stream. Whatever waits becomes one packet: no timer, no task between.
//!
//! The queue is bounded. Who must never wait (an answer out of apply) takes its place in the queue beforehand.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc;

use seriatim_proto::codec;
use seriatim_proto::grpc::Packet;
use seriatim_proto::store::StoreResponse;

/// Encodes and packs what is in the queue.
pub(crate) struct Packets {
    queue: mpsc::Receiver<StoreResponse>,
    batch: Vec<StoreResponse>,
    /// Encoded, but no longer fitting the packet before.
    left: std::collections::VecDeque<Bytes>,
}

impl Packets {
    /// A queue of `frames` answers and the stream that empties it.
    pub(crate) fn channel(frames: usize) -> (mpsc::Sender<StoreResponse>, Self) {
        let (tx, queue) = mpsc::channel(frames);
        (tx, Self { queue, batch: Vec::new(), left: std::collections::VecDeque::new() })
    }

    fn pack(&mut self) -> Packet {
        let mut bytes = 0;
        let mut frames = Vec::with_capacity(self.left.len());
        while let Some(frame) = self.left.pop_front() {
            bytes += frame.len();
            frames.push(frame);
            if bytes >= PACKET_BYTES {
                break;
            }
        }
        Packet { frames }
    }
}

impl Stream for Packets {
    type Item = Result<Packet, tonic::Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            match this.queue.poll_recv_many(cx, &mut this.batch, BATCH_FRAMES) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(0) => return Poll::Ready(None),
                Poll::Ready(_) => this.left.extend(this.batch.drain(..).map(|frame| codec::encode_bytes(&frame))),
            }
        }
        Poll::Ready(Some(Ok(this.pack())))
    }
}

/// Most answers of one packet.
const BATCH_FRAMES: usize = 1_024;
/// Bytes at which a packet is full; it overshoots by at most one answer.
const PACKET_BYTES: usize = 1 << 20;
