//! Remote: a call from this store to another one, for the rare things that only another store's leader can do
//! (making a cluster, closing a group's record). Never on a message's way.

use std::time::Duration;

use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::codec;
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::admin_client::AdminClient;
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::ids::{ClusterId, GroupId};
use seriatim_proto::limits;
use seriatim_proto::store::{StoreRefusal, StoreRequest, StoreResponse};

/// Asks the store at `address` to propose one batch, and waits for the outcomes.
pub(crate) async fn propose(
    address: &str,
    cluster: ClusterId,
    group: GroupId,
    commands: &[Command],
) -> Result<Vec<Outcome>, StoreRefusal> {
    let asked = async {
        let mut client = StoreClient::new(connect(address).await?)
            .max_decoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize)
            .max_encoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize);
        let count = u32::try_from(commands.len()).expect("a batch of ours is short");
        let frames = vec![
            codec::encode_bytes(&StoreRequest::Hello { cluster: Some(cluster) }),
            codec::encode_bytes(&StoreRequest::Propose { id: 0, group, count, batch: codec::encode_bytes(&commands) }),
        ];
        // The stream stays open until the answer is there: `pending` never ends.
        let requests = tokio_stream::StreamExt::chain(tokio_stream::iter([Packet { frames }]), tokio_stream::pending());
        let mut answers = client.channel(requests).await.map_err(unavailable)?.into_inner();
        while let Some(packet) = answers.message().await.map_err(unavailable)? {
            for frame in packet.frames {
                match codec::decode(&frame).map_err(unavailable)? {
                    StoreResponse::Welcome { result: Err(refusal) } => return Err(StoreRefusal::Refused(refusal)),
                    StoreResponse::Proposed { result, .. } => return result,
                    _ => (),
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
    tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(unavailable)?
        .connect_timeout(Duration::from_secs(2))
        .connect()
        .await
        .map_err(|error| unavailable(format!("reach {address}: {error}")))
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
