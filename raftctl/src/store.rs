//! Store: what raftctl asks of stores: admin calls, and reads over their channel.

use std::time::{Duration, Instant};

use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::codec;
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::admin_client::AdminClient;
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::ids::{GroupId, SlotId};
use seriatim_proto::limits::INTERNAL_FRAME_BYTES_MAX;
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, MetaRefusal};
use seriatim_proto::store::{Freshness, Read, ReadOutcome, StoreRefusal, StoreRequest, StoreResponse, StoreStatus};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::failure::{Exit, Failure};
use crate::link::{self, Link};
use crate::target::Target;

/// Pause before all stores are asked again for a leader.
const LEADER_PAUSE: Duration = Duration::from_millis(200);

/// One admin call.
pub(crate) async fn admin(store: &str, request: &AdminRequest, link: &Link) -> Result<AdminResponse, Failure> {
    let act = format!("failed to ask the store at {store}");
    let channel = connect(store, link).await?;
    let mut client = AdminClient::new(channel).max_decoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize);
    let packet = Packet { frames: vec![codec::encode_bytes(request)] };
    let answer = client.call(packet).await.map_err(|status| link::failed(&act, &status))?;
    let frames = answer.into_inner().frames;
    let frame = frames.first().ok_or_else(|| Failure::internal(format!("{act}: it answered nothing")))?;
    match codec::decode(frame).map_err(|error| Failure::internal(format!("{act}: {error}")))? {
        AdminResponse::Refused(refusal) => Err(Failure::refused(&act, &refusal)),
        answer => Ok(answer),
    }
}

/// A store's own view of itself.
pub(crate) async fn status(store: &str, link: &Link) -> Result<StoreStatus, Failure> {
    match admin(store, &AdminRequest::Status, link).await? {
        AdminResponse::Status(status) => Ok(status),
        other => Err(Failure::internal(format!("{store} answered something else than its status: {other:?}"))),
    }
}

/// Reads at whichever of the stores leads the group, until the time is up.
pub(crate) async fn read_at_leader(
    stores: &[String],
    group: GroupId,
    reads: &[Read],
    link: &Link,
) -> Result<Vec<ReadOutcome>, Failure> {
    let act = format!("failed to read from group {group}");
    let ask = async |store: &str| read(store, group, Freshness::Linearizable, reads.to_vec(), link).await;
    at_leader(stores, group, link.timeout, &act, ask).await
}

/// Has commands applied by whichever of the stores leads the group. They may be proposed more than once: only for
/// commands that change nothing when they are repeated.
pub(crate) async fn propose_at_leader(
    stores: &[String],
    group: GroupId,
    commands: &[Command],
    link: &Link,
) -> Result<Vec<Outcome>, Failure> {
    let act = format!("failed to write to group {group}");
    let count = u32::try_from(commands.len()).map_err(|_| Failure::internal("too many commands".to_owned()))?;
    let batch = codec::encode_bytes(&commands);
    let ask = async |store: &str| {
        let request = StoreRequest::Propose { id: 1, group, count, batch: batch.clone() };
        match exchange(store, request, link).await? {
            StoreResponse::Proposed { id: 1, result } => Ok(result),
            other => Err(Failure::internal(format!("{store} answered something else than was asked: {other:?}"))),
        }
    };
    at_leader(stores, group, link.timeout, &act, ask).await
}

async fn at_leader<T>(
    stores: &[String],
    group: GroupId,
    timeout: Duration,
    act: &str,
    ask: impl AsyncFn(&str) -> Result<Result<T, StoreRefusal>, Failure>,
) -> Result<T, Failure> {
    let deadline = Instant::now() + timeout;
    loop {
        let mut round = Round::default();
        for store in stores {
            match ask(store).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(refusal)) => round.refused(group, act, &refusal),
                Err(failure) => round.lost = Some(failure),
            }
        }
        if Instant::now() >= deadline {
            let failure = round.end(group);
            // One that is turned away knows better what to do.
            return Err(if failure.hint.is_some() { failure } else { failure.hint("raftctl raft groups") });
        }
        tokio::time::sleep(LEADER_PAUSE).await;
    }
}

/// Why nobody answered when all stores were asked once.
#[derive(Debug, Default)]
struct Round {
    /// a store of the group answered that nobody leads it, or somebody whom nobody reaches
    leaderless: Option<Failure>,
    refused: Option<Failure>,
    lost: Option<Failure>,
}

impl Round {
    fn refused(&mut self, group: GroupId, act: &str, refusal: &StoreRefusal) {
        match refusal {
            StoreRefusal::NotLeader { leader } => {
                let leader = leader.map_or_else(|| "nobody".to_owned(), |leader| format!("store {leader}"));
                let text = format!("{act}: no leader of group {group} answers; a store says that {leader} leads");
                self.leaderless = Some(Failure::no_quorum(text));
            }
            StoreRefusal::Refused(refusal) => {
                let failure = Failure::refused(act, refusal);
                let place = if failure.exit == Exit::NoQuorum { &mut self.leaderless } else { &mut self.refused };
                *place = Some(failure);
            }
        }
    }

    /// A store that answers knows more of the group than the silence of another.
    fn end(self, group: GroupId) -> Failure {
        let found = self.leaderless.or(self.refused).or(self.lost);
        found.unwrap_or_else(|| Failure::no_quorum(format!("group {group} has no leader that answers")))
    }
}

/// Reads from one store: `Ok(Err(_))` is the store's no.
pub(crate) async fn read(
    store: &str,
    group: GroupId,
    freshness: Freshness,
    reads: Vec<Read>,
    link: &Link,
) -> Result<Result<Vec<ReadOutcome>, StoreRefusal>, Failure> {
    match exchange(store, StoreRequest::Read { id: 1, group, freshness, reads }, link).await? {
        StoreResponse::Reads { id: 1, result } => Ok(result),
        other => Err(Failure::internal(format!("{store} answered something else than was asked: {other:?}"))),
    }
}

/// One request on a channel of its own, and its answer.
async fn exchange(store: &str, request: StoreRequest, link: &Link) -> Result<StoreResponse, Failure> {
    let asked = tokio::time::timeout(link.timeout, exchange_at_leisure(store, request, link)).await;
    asked.map_err(|_| Failure::unreachable(format!("no answer from the store at {store} in {:?}", link.timeout)))?
}

async fn exchange_at_leisure(store: &str, request: StoreRequest, link: &Link) -> Result<StoreResponse, Failure> {
    let lost = |why: String| Failure::unreachable(format!("failed to ask the store at {store}: {why}"));
    let requests = [StoreRequest::Hello { cluster: None }, request];
    let packet = Packet { frames: requests.iter().map(codec::encode_bytes).collect() };
    // The sender is held until the answer is there: its end would end the channel.
    let (sender, receiver) = mpsc::channel(1);
    sender.send(packet).await.map_err(|_| lost("the channel is closed".to_owned()))?;
    let mut client = StoreClient::new(connect(store, link).await?)
        .max_decoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize)
        .max_encoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize);
    let opened = client.channel(ReceiverStream::new(receiver)).await;
    let act = format!("failed to ask the store at {store}");
    let mut incoming = opened.map_err(|status| link::failed(&act, &status))?.into_inner();
    loop {
        let packet = incoming.message().await.map_err(|status| link::failed(&act, &status))?;
        let packet = packet.ok_or_else(|| lost("it ended the channel".to_owned()))?;
        for frame in packet.frames {
            match codec::decode(&frame).map_err(|error| lost(error.to_string()))? {
                StoreResponse::Welcome { result: Err(refusal) } => {
                    return Err(Failure::refused(&format!("failed to enter the store at {store}"), &refusal));
                }
                StoreResponse::Welcome { result: Ok(_) } | StoreResponse::Event(_) => {}
                answer => return Ok(answer),
            }
        }
    }
}

/// Everything that group 0 knows.
pub(crate) async fn directory(stores: &[String], link: &Link) -> Result<Directory, Failure> {
    let outcomes = read_at_leader(stores, GroupId::META, &[Read::Directory], link).await?;
    match outcomes.into_iter().next() {
        Some(ReadOutcome::Directory(Some(directory))) => Ok(directory),
        _ => Err(Failure::refused(
            "failed to read the directory",
            &Refusal::new(ErrorCode::NotFound, "these stores are no cluster yet"),
        )
        .hint("raftctl cluster init --endpoints …")),
    }
}

/// Has group 0 apply a command that may be repeated. Its no is a failure of the class that it says.
pub(crate) async fn tell_meta(target: &Target, act: &str, command: MetaCommand) -> Result<MetaOutcome, Failure> {
    let outcomes = propose_at_leader(target.stores()?, GroupId::META, &[Command::Meta(command)], &target.link).await?;
    match outcomes.into_iter().next() {
        Some(Outcome::Meta(MetaOutcome::Refused(MetaRefusal::Unknown))) => {
            Err(Failure::not_found(format!("{act}: {}", MetaRefusal::Unknown))
                .hint("raftctl node ls, raftctl raft groups"))
        }
        Some(Outcome::Meta(MetaOutcome::Refused(refusal))) => Err(Failure::precondition(format!("{act}: {refusal}"))),
        Some(Outcome::Meta(outcome)) => Ok(outcome),
        other => Err(Failure::internal(format!("{act}: group 0 answered something else than was asked: {other:?}"))),
    }
}

/// The group that owns a slot, as the directory says.
pub(crate) fn group_of(directory: &Directory, slot: SlotId) -> Result<GroupId, Failure> {
    let owner = directory.groups.iter().find(|group| group.slots.iter().any(|range| range.contains(slot)));
    owner.map(|group| group.id).ok_or_else(|| Failure::internal(format!("no group owns slot {slot}")))
}

async fn connect(store: &str, link: &Link) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{store}"))
        .map_err(|_| Failure::usage(format!("`{store}` is no host:port")))?
        .connect_timeout(link.timeout.min(Duration::from_secs(3)))
        .timeout(link.timeout);
    link.connect(&format!("failed to reach the store at {store}"), &endpoint, NodeRole::Store).await
}

#[cfg(test)]
mod tests {
    use seriatim_proto::ids::StoreId;

    use super::*;

    /// How a read ends at stores of which each answers the same, always.
    async fn end(answers: &[Result<StoreRefusal, Failure>]) -> Exit {
        let stores: Vec<String> = (0..answers.len()).map(|place| place.to_string()).collect();
        let ask = async |store: &str| -> Result<Result<(), StoreRefusal>, Failure> {
            answers[store.parse::<usize>().unwrap()].clone().map(Err)
        };
        at_leader(&stores, GroupId(1), Duration::ZERO, "failed to read", ask).await.unwrap_err().exit
    }

    #[tokio::test]
    async fn a_store_without_a_leader_says_more_than_one_that_is_silent() {
        let refused = |code| Ok(StoreRefusal::Refused(Refusal::new(code, "no")));
        let not_leader = |leader| Ok(StoreRefusal::NotLeader { leader });
        let silent = || Err(Failure::unreachable("tcp connect error"));
        for leaderless in [not_leader(None), not_leader(Some(StoreId(2))), refused(ErrorCode::Unavailable)] {
            assert_eq!(end(&[leaderless.clone(), silent(), silent()]).await, Exit::NoQuorum);
            assert_eq!(end(&[silent(), silent(), leaderless]).await, Exit::NoQuorum);
        }
        assert_eq!(end(&[silent(), silent(), silent()]).await, Exit::Unreachable);
        assert_eq!(end(&[silent(), refused(ErrorCode::WrongCluster), silent()]).await, Exit::Precondition);
    }
}
