//! Remote: a call from this store to another one, for the rare things that only another store's leader can do
//! (making a cluster, closing a group's record). Never on a message's way.

use std::sync::OnceLock;
use std::time::Duration;

use seriatim_mtls::Mtls;
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::codec;
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::admin_client::AdminClient;
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::ids::{ClusterId, GroupId};
use seriatim_proto::limits;
use seriatim_proto::meta::Directory;
use seriatim_proto::store::{Freshness, Read, ReadOutcome, StoreRefusal, StoreRequest, StoreResponse};

/// Of this process: it has one certificate, however many stores a test runs in it. Calls to other stores come from all
/// over this crate, none of which has a say in how they are made.
static MTLS: OnceLock<Mtls> = OnceLock::new();

/// How this process speaks with other stores, from its first start on.
pub(crate) fn speak(mtls: Mtls) {
    // A second store of a test speaks as the first one.
    let _ = MTLS.set(mtls);
}

/// As [`speak`] said; plaintext in tests of parts, which start no store.
pub(crate) fn mtls() -> Mtls {
    MTLS.get().cloned().unwrap_or_else(Mtls::plaintext)
}

/// The directory, as the store at `address` has it.
pub(crate) async fn directory(
    address: &str,
    cluster: ClusterId,
    freshness: Freshness,
) -> Result<Directory, StoreRefusal> {
    let request = StoreRequest::Read { id: 0, group: GroupId::META, freshness, reads: vec![Read::Directory] };
    match exchange(address, cluster, request).await? {
        StoreResponse::Reads { result, .. } => match result?.into_iter().next() {
            Some(ReadOutcome::Directory(Some(directory))) => Ok(directory),
            _ => Err(unavailable(format!("{address} has no directory yet"))),
        },
        _ => Err(unavailable(format!("{address} answers something else than was asked"))),
    }
}

/// Asks the store at `address` to propose one batch, and waits for the outcomes.
pub(crate) async fn propose(
    address: &str,
    cluster: ClusterId,
    group: GroupId,
    commands: &[Command],
) -> Result<Vec<Outcome>, StoreRefusal> {
    let count = u32::try_from(commands.len()).expect("a batch of ours is short");
    let request = StoreRequest::Propose { id: 0, group, count, batch: codec::encode_bytes(&commands) };
    match exchange(address, cluster, request).await? {
        StoreResponse::Proposed { result, .. } => result,
        _ => Err(unavailable(format!("{address} answers something else than was asked"))),
    }
}

/// One request on a stream of its own.
async fn exchange(address: &str, cluster: ClusterId, request: StoreRequest) -> Result<StoreResponse, StoreRefusal> {
    let asked = async {
        let mut client = StoreClient::new(connect(address).await?)
            .max_decoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize)
            .max_encoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize);
        let hello = StoreRequest::Hello { cluster: Some(cluster) };
        let frames = vec![codec::encode_bytes(&hello), codec::encode_bytes(&request)];
        // The stream stays open until the answer is there: `pending` never ends.
        let requests = tokio_stream::StreamExt::chain(tokio_stream::iter([Packet { frames }]), tokio_stream::pending());
        let mut answers = client.channel(requests).await.map_err(unavailable)?.into_inner();
        while let Some(packet) = answers.message().await.map_err(unavailable)? {
            for frame in packet.frames {
                match codec::decode(&frame).map_err(unavailable)? {
                    StoreResponse::Welcome { result: Err(refusal) } => return Err(StoreRefusal::Refused(refusal)),
                    StoreResponse::Welcome { result: Ok(_) } | StoreResponse::Event(_) => (),
                    answer => return Ok(answer),
                }
            }
        }
        Err(unavailable("the store ended the stream"))
    };
    tokio::time::timeout(CALL_TIMEOUT, asked).await.unwrap_or_else(|_| {
        Err(StoreRefusal::Refused(Refusal::new(ErrorCode::Timeout, format!("no answer from {address}"))))
    })
}

/// One admin call.
pub(crate) async fn admin(address: &str, request: &AdminRequest) -> Result<AdminResponse, Refusal> {
    let asked = async {
        let channel = connect(address).await.map_err(refusal)?;
        let packet = Packet { frames: vec![codec::encode_bytes(request)] };
        let answer = AdminClient::new(channel).call(packet).await.map_err(|status| refusal(unavailable(status)))?;
        let frames = answer.into_inner().frames;
        let frame = frames.first().ok_or_else(|| Refusal::new(ErrorCode::Malformed, "an empty admin answer"))?;
        codec::decode(frame).map_err(|error| Refusal::new(ErrorCode::Malformed, format!("admin answer: {error}")))
    };
    tokio::time::timeout(CALL_TIMEOUT, asked)
        .await
        .unwrap_or_else(|_| Err(Refusal::new(ErrorCode::Timeout, format!("no answer from {address}"))))
}

async fn connect(address: &str) -> Result<tonic::transport::Channel, StoreRefusal> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(unavailable)?
        .connect_timeout(Duration::from_secs(2));
    let connected = mtls().connect(&endpoint, NodeRole::Store).await;
    connected.map_err(|error| unavailable(format!("reach {address}: {}", seriatim_mtls::dial::why(&error))))
}

fn unavailable(what: impl std::fmt::Display) -> StoreRefusal {
    StoreRefusal::Refused(Refusal::new(ErrorCode::Unavailable, what.to_string()))
}

fn refusal(refusal: StoreRefusal) -> Refusal {
    match refusal {
        StoreRefusal::Refused(refusal) => refusal,
        StoreRefusal::NotLeader { .. } => Refusal::new(ErrorCode::NotLeader, "another store leads the group"),
    }
}

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
