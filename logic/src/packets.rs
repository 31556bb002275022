//! Packets: the outgoing side of a gRPC stream. Whatever waits in the queue becomes one packet: no timer, no task.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use serde::Serialize;
use seriatim_proto::codec;
use seriatim_proto::grpc::Packet;
use tokio::sync::mpsc;

/// Most frames of one packet.
const BATCH_FRAMES: usize = 1_024;
/// Bytes at which a packet is full; it overshoots by at most one frame.
const PACKET_BYTES: usize = 1 << 20;

/// Encodes and packs what is in the queue. Ends when all senders are gone.
pub(crate) struct Packets<T> {
    queue: mpsc::Receiver<T>,
    batch: Vec<T>,
    /// encoded, and no longer fitting the packet before
    left: VecDeque<Bytes>,
}

impl<T> Packets<T> {
    /// A queue of so many frames, and the stream that empties it.
    pub(crate) fn channel(frames: usize) -> (mpsc::Sender<T>, Self) {
        let (sender, queue) = mpsc::channel(frames);
        (sender, Self { queue, batch: Vec::new(), left: VecDeque::new() })
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

impl<T: Serialize + Unpin> Packets<T> {
    fn poll_packet(&mut self, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        if self.left.is_empty() {
            match self.queue.poll_recv_many(cx, &mut self.batch, BATCH_FRAMES) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(0) => return Poll::Ready(None),
                Poll::Ready(_) => self.left.extend(self.batch.drain(..).map(|frame| codec::encode_bytes(&frame))),
            }
        }
        Poll::Ready(Some(self.pack()))
    }
}

/// As a server's answer.
impl<T: Serialize + Unpin> Stream for Packets<T> {
    type Item = Result<Packet, tonic::Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_packet(cx).map(|packet| packet.map(Ok))
    }
}

/// As a client's request.
pub(crate) struct Requests<T>(pub(crate) Packets<T>);

impl<T: Serialize + Unpin> Stream for Requests<T> {
    type Item = Packet;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Packet>> {
        self.get_mut().0.poll_packet(cx)
    }
}
