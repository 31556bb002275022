//! Peers: one stream per (source node, target node), opened by the source when it has something to deliver.

use std::time::Duration;

use seriatim_mtls::Mtls;
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::peer_client::PeerClient;
use seriatim_proto::ids::{ClusterId, NodeId};
use seriatim_proto::logic::{PeerRequest, PeerResponse};
use seriatim_proto::{codec, limits};
use tokio::sync::mpsc;

use crate::brain::Input;
use crate::packets::{Packets, Requests};

/// Requests that wait for one peer; above it deliveries are made again later.
pub(crate) const PEER_QUEUE: usize = 1_024;

/// Runs one connection to a peer until it fails or its queue closes, then says so.
pub(crate) async fn run(
    (address, mtls): (String, Mtls),
    cluster: ClusterId,
    me: NodeId,
    peer: NodeId,
    connection: u64,
    requests: Packets<PeerRequest>,
    brain: mpsc::Sender<Input>,
) {
    if let Err(error) = session((&address, &mtls), cluster, me, peer, requests, &brain).await {
        tracing::debug!(%address, %error, "peer link failed");
        tokio::time::sleep(RETRY_INTERVAL).await;
    }
    brain.send(Input::PeerDown { peer, connection }).await.ok();
}

async fn session(
    (address, mtls): (&str, &Mtls),
    cluster: ClusterId,
    me: NodeId,
    peer: NodeId,
    requests: Packets<PeerRequest>,
    brain: &mpsc::Sender<Input>,
) -> Result<(), String> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| error.to_string())?
        .connect_timeout(Duration::from_secs(1))
        .tcp_nodelay(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2));
    let connected = mtls.connect(&endpoint, NodeRole::Logic).await;
    let channel = connected.map_err(|error| seriatim_mtls::dial::why(&error))?;
    let mut client = PeerClient::new(channel)
        .max_decoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize)
        .max_encoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize);
    let hello = Packet { frames: vec![codec::encode_bytes(&PeerRequest::Hello { cluster, node: me })] };
    let requests = tokio_stream::StreamExt::chain(tokio_stream::iter([hello]), Requests(requests));
    let mut answers = client.channel(requests).await.map_err(|status| status.to_string())?.into_inner();
    while let Some(packet) = answers.message().await.map_err(|status| status.to_string())? {
        for frame in packet.frames {
            match codec::decode(&frame).map_err(|error| error.to_string())? {
                PeerResponse::Welcome { result } => {
                    let node = result.map_err(|refusal| refusal.to_string())?;
                    if node != peer {
                        return Err(format!("node {node} answers where node {peer} should"));
                    }
                }
                PeerResponse::Delivered { id, results } => {
                    brain.send(Input::PeerAnswer { id, results }).await.map_err(|_| "the node stops".to_owned())?;
                }
            }
        }
    }
    Ok(())
}

const RETRY_INTERVAL: Duration = Duration::from_millis(50);
