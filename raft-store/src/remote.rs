//! Remote: a call from this store to another one, for the rare things that only another store's leader can do
//! (making a cluster, closing a group's record). Never on a message's way.

use std::time::{Duration, Instant};

use seriatim_mtls::Mtls;
use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::codec;
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::admin_client::AdminClient;
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::ids::{ClusterId, GroupId, StoreId};
use seriatim_proto::limits;
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, StoreRecord};
use seriatim_proto::store::{Freshness, Read, ReadOutcome, StoreRefusal, StoreRequest, StoreResponse, StoreStatus};

use crate::moves;

/// Calls to other stores, as this store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    mtls: Mtls,
}

impl Remote {
    /// Speaks with others so.
    pub(crate) fn new(mtls: Mtls) -> Self {
        Self { mtls }
    }

    /// The directory, as the store at `address` has it.
    pub(crate) async fn directory(
        &self,
        address: &str,
        cluster: ClusterId,
        freshness: Freshness,
    ) -> Result<Directory, StoreRefusal> {
        let request = StoreRequest::Read { id: 0, group: GroupId::META, freshness, reads: vec![Read::Directory] };
        match self.exchange(address, cluster, request).await? {
            StoreResponse::Reads { result, .. } => match result?.into_iter().next() {
                Some(ReadOutcome::Directory(Some(directory))) => Ok(directory),
                _ => Err(unavailable(format!("{address} has no directory yet"))),
            },
            _ => Err(unavailable(format!("{address} answers something else than was asked"))),
        }
    }

    /// Asks the store at `address` to propose one batch, and waits for the outcomes.
    pub(crate) async fn propose(
        &self,
        address: &str,
        cluster: ClusterId,
        group: GroupId,
        commands: &[Command],
    ) -> Result<Vec<Outcome>, StoreRefusal> {
        let count = u32::try_from(commands.len()).expect("a batch of ours is short");
        let request = StoreRequest::Propose { id: 0, group, count, batch: codec::encode_bytes(&commands) };
        match self.exchange(address, cluster, request).await? {
            StoreResponse::Proposed { result, .. } => result,
            _ => Err(unavailable(format!("{address} answers something else than was asked"))),
        }
    }

    /// One request on a stream of its own.
    async fn exchange(
        &self,
        address: &str,
        cluster: ClusterId,
        request: StoreRequest,
    ) -> Result<StoreResponse, StoreRefusal> {
        let asked = async {
            let mut client = StoreClient::new(self.connect(address).await?)
                .max_decoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize)
                .max_encoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize);
            let hello = StoreRequest::Hello { cluster: Some(cluster) };
            let frames = vec![codec::encode_bytes(&hello), codec::encode_bytes(&request)];
            // The stream stays open until the answer is there: `pending` never ends.
            let requests =
                tokio_stream::StreamExt::chain(tokio_stream::iter([Packet { frames }]), tokio_stream::pending());
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
    pub(crate) async fn admin(&self, address: &str, request: &AdminRequest) -> Result<AdminResponse, Refusal> {
        let asked = async {
            let channel = self.connect(address).await.map_err(refusal)?;
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

    async fn connect(&self, address: &str) -> Result<tonic::transport::Channel, StoreRefusal> {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .map_err(unavailable)?
            .connect_timeout(Duration::from_secs(2));
        let connected = self.mtls.connect(&endpoint, NodeRole::Store).await;
        connected.map_err(|error| unavailable(format!("reach {address}: {}", seriatim_mtls::dial::why(&error))))
    }

    /// The store's own view, if it is the one that we mean and answers soon.
    pub(crate) async fn status(&self, address: &str, cluster: ClusterId, store: StoreId) -> Option<StoreStatus> {
        let asked = tokio::time::timeout(ANSWER, self.admin(address, &AdminRequest::Status)).await;
        match asked {
            Ok(Ok(AdminResponse::Status(status))) if (status.cluster, status.store) == (Some(cluster), Some(store)) => {
                Some(status)
            }
            _ => None,
        }
    }

    /// What the stores say that are asked and answer soon.
    pub(crate) async fn statuses(&self, directory: &Directory, asks: impl Fn(StoreId) -> bool) -> Vec<StoreStatus> {
        let asked = directory.stores.iter().filter(|store| asks(store.id));
        let asked = asked.map(|store| self.status(&store.address, directory.cluster, store.id));
        futures_util::future::join_all(asked).await.into_iter().flatten().collect()
    }

    /// Has group 0 apply a command that may be repeated.
    pub(crate) async fn tell_meta(&self, directory: &Directory, command: MetaCommand) -> Result<MetaOutcome, String> {
        let deadline = Instant::now() + META_PATIENCE;
        let told = self.propose_meta(&moves::meta_stores(directory), directory.cluster, command, deadline).await;
        told.map_err(|refusal| refusal.to_string())
    }

    /// As [`Remote::tell_meta`], by the `stores` of group 0.
    pub(crate) async fn tell_meta_of(
        &self,
        cluster: ClusterId,
        stores: &[StoreRecord],
        command: MetaCommand,
    ) -> Result<MetaOutcome, String> {
        let told = self.propose_meta(stores, cluster, command, Instant::now() + META_PATIENCE).await;
        told.map_err(|refusal| refusal.to_string())
    }

    /// The directory as group 0's leader has it now.
    pub(crate) async fn read_directory(&self, known: &Directory) -> Result<Directory, String> {
        self.read_directory_of(known.cluster, &moves::meta_stores(known)).await
    }

    /// As [`Remote::read_directory`], by the `stores` of group 0.
    pub(crate) async fn read_directory_of(
        &self,
        cluster: ClusterId,
        stores: &[StoreRecord],
    ) -> Result<Directory, String> {
        let mut last = "group 0 has no stores".to_owned();
        for store in stores {
            match self.directory(&store.address, cluster, Freshness::Linearizable).await {
                Ok(directory) => return Ok(directory),
                Err(refusal) => last = refusal.to_string(),
            }
        }
        Err(last)
    }

    /// Proposes to group 0 through whichever store leads it.
    pub(crate) async fn propose_meta(
        &self,
        stores: &[StoreRecord],
        cluster: ClusterId,
        command: MetaCommand,
        deadline: Instant,
    ) -> Result<MetaOutcome, Refusal> {
        let commands = [Command::Meta(command)];
        let mut last = Refusal::new(ErrorCode::Unavailable, "group 0 has no leader");
        while Instant::now() < deadline {
            for store in stores {
                match self.propose(&store.address, cluster, GroupId::META, &commands).await {
                    Ok(outcomes) => match outcomes.into_iter().next() {
                        Some(Outcome::Meta(outcome)) => return Ok(outcome),
                        _ => return Err(Refusal::new(ErrorCode::Internal, "group 0 gave no verdict")),
                    },
                    Err(StoreRefusal::NotLeader { .. }) => (),
                    Err(StoreRefusal::Refused(refusal)) => last = refusal,
                }
            }
            // All commands of group 0 are idempotent, so asking again is safe whatever became of this one.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Err(last)
    }
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

/// Time for a store to answer how it is.
const ANSWER: Duration = Duration::from_secs(1);
/// Time for group 0 to apply a command.
const META_PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait for one answer.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
