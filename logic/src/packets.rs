//! Packets: the outgoing side of a gRPC stream. Whatever waits in the queue becomes one packet: no timer, no task.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use seriatim_proto::codec;
use seriatim_proto::grpc::Packet;
use serde::Serialize;
use tokio::sync::mpsc;

/// Most frames of one packet.
const BATCH_FRAMES: usize = 1_024;
/// Bytes at which a packet is full; it overshoots by at most one frame.
const PACKET_BYTES: usize = 1 << 20;

/// What one kind of stream carries: a client sends packets, a server results.
pub(crate) trait Carried {
    fn carry(packet: Packet) -> Self;
}

impl Carried for Packet {
    fn carry(packet: Packet) -> Self {
        packet
    }
}

impl Carried for Result<Packet, tonic::Status> {
    fn carry(packet: Packet) -> Self {
        Ok(packet)
    }
}

/// Encodes and packs what is in the queue. Ends when all senders are gone.
pub(crate) struct Packets<T, C> {
    queue: mpsc::Receiver<T>,
    batch: Vec<T>,
    /// encoded, and no longer fitting the packet before
    left: VecDeque<Bytes>,
    carried: PhantomData<fn() -> C>,
}

impl<T, C> Packets<T, C> {
    /// The stream that empties a queue.
    pub(crate) fn new(queue: mpsc::Receiver<T>) -> Self {
        Self { queue, batch: Vec::new(), left: VecDeque::new(), carried: PhantomData }
    }

    fn pack(&mut self) -> Packet {
        let (mut bytes, mut frames) = (0, Vec::with_capacity(self.left.len()));
        while bytes < PACKET_BYTES {
            let Some(frame) = self.left.pop_front() else { break };
            bytes += frame.len();
            frames.push(frame);
        }
        Packet { frames }
    }
}

impl<T: Serialize + Unpin, C: Carried> Stream for Packets<T, C> {
    type Item = C;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<C>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            match this.queue.poll_recv_many(cx, &mut this.batch, BATCH_FRAMES) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(0) => return Poll::Ready(None),
                Poll::Ready(_) => this.left.extend(this.batch.drain(..).map(|frame| codec::encode_bytes(&frame))),
            }
        }
        Poll::Ready(Some(C::carry(this.pack())))
    }
}
