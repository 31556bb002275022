//! Store: what raftctl asks of stores: admin calls, and reads over their channel.

use std::time::{Duration, Instant};

use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::codec;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::admin_client::AdminClient;
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::ids::{GroupId, SlotId};
use seriatim_proto::limits::INTERNAL_FRAME_BYTES_MAX;
use seriatim_proto::meta::Directory;
use seriatim_proto::store::{Freshness, Read, ReadOutcome, StoreRefusal, StoreRequest, StoreResponse, StoreStatus};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::failure::Failure;

/// Pause before all stores are asked again for a leader.
const LEADER_PAUSE: Duration = Duration::from_millis(200);

/// One admin call.
pub(crate) async fn admin(store: &str, request: &AdminRequest, timeout: Duration) -> Result<AdminResponse, Failure> {
    let act = format!("failed to ask the store at {store}");
    let channel = connect(store, timeout).await?;
    let mut client = AdminClient::new(channel).max_decoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize);
    let packet = Packet { frames: vec![codec::encode_bytes(request)] };
    let answer =
        client.call(packet).await.map_err(|status| Failure::unreachable(format!("{act}: {}", status.message())))?;
    let frames = answer.into_inner().frames;
    let frame = frames.first().ok_or_else(|| Failure::internal(format!("{act}: it answered nothing")))?;
    match codec::decode(frame).map_err(|error| Failure::internal(format!("{act}: {error}")))? {
        AdminResponse::Refused(refusal) => Err(Failure::refused(&act, &refusal)),
        answer => Ok(answer),
    }
}

/// A store's own view of itself.
pub(crate) async fn status(store: &str, timeout: Duration) -> Result<StoreStatus, Failure> {
    match admin(store, &AdminRequest::Status, timeout).await? {
        AdminResponse::Status(status) => Ok(status),
        other => Err(Failure::internal(format!("{store} answered something else than its status: {other:?}"))),
    }
}

/// Reads at whichever of the stores leads the group, until the time is up.
pub(crate) async fn read_at_leader(
    stores: &[String],
    group: GroupId,
    reads: &[Read],
    timeout: Duration,
) -> Result<Vec<ReadOutcome>, Failure> {
    let deadline = Instant::now() + timeout;
    let mut last = Failure::no_quorum(format!("group {group} has no leader that answers"));
    loop {
        for store in stores {
            match read(store, group, Freshness::Linearizable, reads.to_vec(), timeout).await {
                Ok(Ok(outcomes)) => return Ok(outcomes),
                Ok(Err(StoreRefusal::NotLeader { .. })) => {}
                Ok(Err(StoreRefusal::Refused(refusal))) => {
                    last = Failure::refused(&format!("failed to read from group {group}"), &refusal)
                }
                Err(failure) => last = failure,
            }
        }
        if Instant::now() >= deadline {
            return Err(last.hint("raftctl raft groups"));
        }
        tokio::time::sleep(LEADER_PAUSE).await;
    }
}

/// Reads from one store: `Ok(Err(_))` is the store's no.
pub(crate) async fn read(
    store: &str,
    group: GroupId,
    freshness: Freshness,
    reads: Vec<Read>,
    timeout: Duration,
) -> Result<Result<Vec<ReadOutcome>, StoreRefusal>, Failure> {
    let asked = tokio::time::timeout(timeout, exchange(store, group, freshness, reads, timeout)).await;
    asked.map_err(|_| Failure::unreachable(format!("no answer from the store at {store} in {timeout:?}")))?
}

async fn exchange(
    store: &str,
    group: GroupId,
    freshness: Freshness,
    reads: Vec<Read>,
    timeout: Duration,
) -> Result<Result<Vec<ReadOutcome>, StoreRefusal>, Failure> {
    let lost = |why: String| Failure::unreachable(format!("failed to read from the store at {store}: {why}"));
    let requests = [StoreRequest::Hello { cluster: None }, StoreRequest::Read { id: 1, group, freshness, reads }];
    let packet = Packet { frames: requests.iter().map(codec::encode_bytes).collect() };
    // The sender is held until the answer is there: its end would end the channel.
    let (sender, receiver) = mpsc::channel(1);
    sender.send(packet).await.map_err(|_| lost("the channel is closed".to_owned()))?;
    let mut client = StoreClient::new(connect(store, timeout).await?)
        .max_decoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize)
        .max_encoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize);
    let opened = client.channel(ReceiverStream::new(receiver)).await;
    let mut incoming = opened.map_err(|status| lost(status.message().to_owned()))?.into_inner();
    loop {
        let packet = incoming.message().await.map_err(|status| lost(status.message().to_owned()))?;
        let packet = packet.ok_or_else(|| lost("it ended the channel".to_owned()))?;
        for frame in packet.frames {
            match codec::decode(&frame).map_err(|error| lost(error.to_string()))? {
                StoreResponse::Reads { id: 1, result } => return Ok(result),
                StoreResponse::Welcome { result: Err(refusal) } => {
                    return Err(Failure::refused(&format!("failed to enter the store at {store}"), &refusal));
                }
                _ => {}
            }
        }
    }
}

/// Everything that group 0 knows.
pub(crate) async fn directory(stores: &[String], timeout: Duration) -> Result<Directory, Failure> {
    let outcomes = read_at_leader(stores, GroupId::META, &[Read::Directory], timeout).await?;
    match outcomes.into_iter().next() {
        Some(ReadOutcome::Directory(Some(directory))) => Ok(directory),
        _ => Err(Failure::refused(
            "failed to read the directory",
            &Refusal::new(ErrorCode::NotFound, "these stores are no cluster yet"),
        )
        .hint("raftctl cluster init --endpoints …")),
    }
}

/// The group that owns a slot, as the directory says.
pub(crate) fn group_of(directory: &Directory, slot: SlotId) -> Result<GroupId, Failure> {
    let owner = directory.groups.iter().find(|group| group.slots.iter().any(|range| range.contains(slot)));
    owner.map(|group| group.id).ok_or_else(|| Failure::internal(format!("no group owns slot {slot}")))
}

async fn connect(store: &str, timeout: Duration) -> Result<Channel, Failure> {
    Endpoint::from_shared(format!("http://{store}"))
        .map_err(|_| Failure::usage(format!("`{store}` is no host:port")))?
        .connect_timeout(timeout.min(Duration::from_secs(3)))
        .timeout(timeout)
        .connect()
        .await
        .map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            Failure::unreachable(format!(
                "failed to reach the store at {store}: {}",
                cause.unwrap_or_else(|| error.to_string())
            ))
        })
}
