//! Peer service: other logic nodes deliver here. One stream per source node.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use seriatim_proto::codec;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::{Packet, peer_server};
use seriatim_proto::limits;
use seriatim_proto::logic::{PeerRequest, PeerResponse};
use tokio::sync::{mpsc, watch};
use tonic::{Request, Response, Status, Streaming};

use crate::brain::{Input, Standing};
use crate::packets::Packets;

/// Answers that wait for one source node.
const ANSWERS_WAITING: usize = 4_096;

/// The `Peer` service.
pub(crate) struct PeerService {
    brain: mpsc::Sender<Input>,
    standing: watch::Receiver<Option<Standing>>,
    next_stream: AtomicU64,
}

impl PeerService {
    pub(crate) fn new(brain: mpsc::Sender<Input>, standing: watch::Receiver<Option<Standing>>) -> Self {
        // Stream 0 is the node itself.
        Self { brain, standing, next_stream: AtomicU64::new(1) }
    }
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    type ChannelStream = Packets<PeerResponse, Result<Packet, Status>>;

    async fn channel(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::ChannelStream>, Status> {
        let (answers, queue) = mpsc::channel(ANSWERS_WAITING);
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let source = Source { stream, brain: self.brain.clone(), standing: self.standing.clone() };
        tokio::spawn(source.run(request.into_inner(), answers));
        Ok(Response::new(Packets::new(queue)))
    }
}

struct Source {
    stream: u64,
    brain: mpsc::Sender<Input>,
    standing: watch::Receiver<Option<Standing>>,
}

impl Source {
    async fn run(mut self, packets: Streaming<Packet>, answers: mpsc::Sender<PeerResponse>) {
        let stream = self.stream;
        self.serve(packets, answers).await;
        // The node stops: nobody cares.
        self.brain.send(Input::SourceDown { stream }).await.ok();
    }

    /// Until the source goes, says something wrong, or this node is another one.
    async fn serve(&mut self, mut packets: Streaming<Packet>, answers: mpsc::Sender<PeerResponse>) -> Option<()> {
        let timeout = Duration::from_millis(limits::HELLO_TIMEOUT_MS);
        let first = tokio::time::timeout(timeout, packets.message()).await.ok()?.ok()??;
        let mut frames = first.frames.into_iter();
        let hello = frames.next().and_then(|frame| codec::decode(&frame).ok());
        let standing = *self.standing.borrow_and_update();
        let result = match (hello, standing) {
            (Some(PeerRequest::Hello { cluster, .. }), Some(us)) if cluster == us.cluster => Ok(us.node),
            (Some(PeerRequest::Hello { .. }), Some(_)) => Err(Refusal::new(ErrorCode::WrongCluster, "a node of another cluster")),
            (Some(PeerRequest::Hello { .. }), None) => Err(Refusal::later(ErrorCode::Unavailable, "the node is not open", 200)),
            _ => Err(Refusal::new(ErrorCode::Malformed, "Hello must come first")),
        };
        let refused = result.is_err();
        answers.send(PeerResponse::Welcome { result }).await.ok()?;
        if refused {
            return None;
        }
        self.brain.send(Input::SourceUp { stream: self.stream, answers }).await.ok()?;
        let mut frames: Vec<_> = frames.collect();
        loop {
            for frame in frames.drain(..) {
                let Ok(PeerRequest::Deliver { id, slots }) = codec::decode(&frame) else {
                    tracing::warn!(bytes = frame.len(), "a frame that is no delivery ends the stream");
                    return None;
                };
                self.brain.send(Input::SourceDelivers { stream: self.stream, id, slots }).await.ok()?;
            }
            let packet = tokio::select! {
                _ = self.standing.changed() => return None,
                packet = packets.message() => packet,
            };
            frames = packet.ok()??.frames;
        }
    }
}
