//! Admin: what the playground and `init` ask of stores: make a cluster, say how you are, say who holds the slots.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use seriatim_mtls::Mtls;
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::codec;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::admin_client::AdminClient;
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::ids::{ClusterId, GroupId, SlotId};
use seriatim_proto::limits::INTERNAL_FRAME_BYTES_MAX;
use seriatim_proto::store::{Freshness, Read, ReadOutcome, StoreRequest, StoreResponse, StoreStatus};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Makes a cluster of these stores, or completes what was begun.
pub(crate) async fn init_cluster(mtls: &Mtls, stores: &[String], groups: u32) -> anyhow::Result<ClusterId> {
    let first = stores.first().context("initialise a cluster: no store named")?;
    let request = AdminRequest::InitCluster { stores: stores.to_vec(), groups, voters: None };
    match call(mtls, first, &request).await? {
        AdminResponse::Initialised { cluster } => Ok(cluster),
        AdminResponse::Refused(refusal) => bail!("initialise the cluster at {first}: {refusal}"),
        other => bail!("initialise the cluster at {first}: an unexpected answer {other:?}"),
    }
}

/// A store's own view of itself.
pub(crate) async fn status(mtls: &Mtls, store: &str) -> anyhow::Result<StoreStatus> {
    match call(mtls, store, &AdminRequest::Status).await? {
        AdminResponse::Status(status) => Ok(status),
        AdminResponse::Refused(refusal) => bail!("ask {store} for its status: {refusal}"),
        other => bail!("ask {store} for its status: an unexpected answer {other:?}"),
    }
}

/// Slots of each group that this store has seen held, as far as its replicas have applied.
pub(crate) async fn slots_held(mtls: &Mtls, store: &str, groups: u32) -> anyhow::Result<BTreeMap<SlotId, bool>> {
    let requests =
        std::iter::once(StoreRequest::Hello { cluster: None }).chain((1..=groups).map(|group| StoreRequest::Read {
            id: u64::from(group),
            group: GroupId(group),
            freshness: Freshness::Stale,
            reads: vec![Read::Holders],
        }));
    let packet = Packet { frames: requests.map(|request| codec::encode_bytes(&request)).collect() };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(packet).await.context("ask for the holders")?;
    let outgoing = ReceiverStream::new(receiver);
    let mut client = StoreClient::new(connect(mtls, store).await?)
        .max_decoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize)
        .max_encoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize);
    let mut incoming =
        client.channel(outgoing).await.with_context(|| format!("open a channel to {store}"))?.into_inner();
    let mut held = BTreeMap::new();
    let mut answers = 0;
    while answers < groups {
        let packet = incoming.message().await.with_context(|| format!("hear from {store}"))?;
        for frame in packet.with_context(|| format!("{store} ended the channel"))?.frames {
            if let StoreResponse::Reads { result, .. } = codec::decode(&frame).context("read a store's answer")? {
                answers += 1;
                for outcome in result.unwrap_or_default() {
                    if let ReadOutcome::Holders(rows) = outcome {
                        held.extend(rows.iter().map(|row| (row.slot, row.holder.is_some())));
                    }
                }
            }
        }
    }
    drop(sender);
    Ok(held)
}

async fn call(mtls: &Mtls, store: &str, request: &AdminRequest) -> anyhow::Result<AdminResponse> {
    let mut client =
        AdminClient::new(connect(mtls, store).await?).max_decoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize);
    let packet = Packet { frames: vec![codec::encode_bytes(request)] };
    let answer = client.call(packet).await.with_context(|| format!("ask the store at {store}"))?.into_inner();
    let frame = answer.frames.first().with_context(|| format!("{store} answered nothing"))?;
    codec::decode(frame).with_context(|| format!("understand the answer of {store}"))
}

async fn connect(mtls: &Mtls, store: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{store}"))
        .with_context(|| format!("`{store}` is no host:port"))?
        .connect_timeout(Duration::from_secs(3))
        .timeout(PATIENCE);
    let connected = mtls.connect(&endpoint, NodeRole::Store).await;
    connected.map_err(|error| anyhow::anyhow!("reach the store at {store}: {}", seriatim_mtls::dial::why(&error)))
}
