//! Incoming: what other stores' replicas ask ours.
//!
//! One gRPC stream per peer and class. Its reader checks each request and hands it to the replica's task; a
//! replica's work never blocks the reader.
//!
//! # Invariants
//! I15: a request of another cluster, for another replica, from a replica to itself or from one that was removed is
//! refused and never heard.
//!
//! # Failure
//! When a session ends (a conflict, a higher vote, a defect), later requests of it are dropped: the asking side
//! begins a new session under a new number.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::Raft;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::storage::RaftStateMachine;
use parking_lot::RwLock;
use seriatim_proto::chaos::{self, Point, Sabotage};
use seriatim_proto::codec;
use seriatim_proto::grpc::{Packet, raft_server};
use seriatim_proto::ids::{ClusterId, GroupId, ReplicaId};
use seriatim_proto::meta::Directory;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request as GrpcRequest, Response as GrpcResponse, Status, Streaming};

use super::codec::{LogIdRow, SnapshotMetaRow, entry_of};
use super::sabotage;
use super::snapshot::{SnapshotData, SnapshotReceiver};
use super::types::{LogId, Snapshot, TypeConfig, Vote};
use crate::log_record::ReplicaKey;
use crate::transport::{Answer, Append, Ballot, Envelope, FramePackets, Request, Response, SESSION_REQUESTS_MAX};
use crate::watermark::MarkVote;

/// Answers that wait for a stream.
const ANSWERS_MAX: usize = 256;
/// Blocks of a snapshot that wait for the disk; the sender waits for each, so more is a defect.
const BLOCKS_MAX: usize = 4;

/// The replicas of this store that can be asked.
pub(crate) struct Replicas<M: RaftStateMachine<TypeConfig>> {
    /// set once, when the store joins its cluster
    pub(crate) cluster: OnceLock<ClusterId>,
    /// set once: the newest directory, which says who was removed
    pub(crate) directory: OnceLock<watch::Receiver<Option<Arc<Directory>>>>,
    /// those that run
    pub(crate) running: RwLock<HashMap<ReplicaKey, Raft<TypeConfig, M>>>,
    /// runs all group tasks
    pub(crate) runtime: Handle,
    /// where received snapshots wait for their installation
    pub(crate) snapshots: PathBuf,
}

impl<M: RaftStateMachine<TypeConfig>> Replicas<M> {
    /// Why nothing that this replica asks for is done, if the newest directory says so.
    fn refusal(&self, group: GroupId, replica: ReplicaId, request: &Request) -> Option<&'static str> {
        let directory = self.directory.get()?.borrow();
        let directory = directory.as_ref()?;
        if directory.is_removed(group, replica) {
            return Some("a replica that was removed");
        }
        // The last that one says before it stops: whom it asks to lead needs the others' votes all the same.
        let hands_over = matches!(request, Request::Transfer { .. });
        (directory.is_replaced(group, replica) && !hands_over).then_some("a rotten replica that is being replaced")
    }
}

/// The gRPC service.
pub(crate) struct Incoming<M: RaftStateMachine<TypeConfig>>(pub(crate) Arc<Replicas<M>>);

#[tonic::async_trait]
impl<M> raft_server::Raft for Incoming<M>
where
    M: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    type ChannelStream = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

    async fn channel(
        &self,
        request: GrpcRequest<Streaming<Packet>>,
    ) -> Result<GrpcResponse<Self::ChannelStream>, Status> {
        let (answers, packets) = FramePackets::channel(ANSWERS_MAX);
        let reader =
            Reader { replicas: Arc::clone(&self.0), answers, appends: HashMap::new(), snapshots: HashMap::new() };
        tokio::spawn(reader.run(request.into_inner()));
        Ok(GrpcResponse::new(Box::pin(packets.map(Ok))))
    }
}

/// Who talks to whom, within a group.
type Pair = (GroupId, ReplicaId, ReplicaId);

/// Reads one stream.
struct Reader<M: RaftStateMachine<TypeConfig>> {
    replicas: Arc<Replicas<M>>,
    answers: mpsc::Sender<Bytes>,
    /// one running append session for each pair
    appends: HashMap<Pair, (u64, mpsc::Sender<AppendEntriesRequest<TypeConfig>>)>,
    /// one running snapshot for each pair
    snapshots: HashMap<Pair, (u64, mpsc::Sender<SnapshotStep>)>,
}

enum SnapshotStep {
    Block(Bytes),
    End,
}

/// Where the answers of one session go.
#[derive(Clone)]
pub(super) struct AnswerTo {
    session: u64,
    answers: mpsc::Sender<Bytes>,
}

impl AnswerTo {
    /// `false` when the stream is gone.
    pub(super) async fn send(&self, body: Response) -> bool {
        let answer = Answer { session: self.session, body };
        self.answers.send(codec::encode_bytes(&answer)).await.is_ok()
    }
}

impl<M> Reader<M>
where
    M: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    async fn run(mut self, mut packets: Streaming<Packet>) {
        while let Some(Ok(packet)) = packets.next().await {
            for frame in packet.frames {
                match codec::decode::<Envelope>(&frame) {
                    Ok(envelope) => self.handle(envelope).await,
                    Err(error) => {
                        tracing::warn!(%error, "a peer sends what is no request; its stream is ended");
                        return;
                    }
                }
            }
        }
    }

    async fn handle(&mut self, envelope: Envelope) {
        let Envelope { group, from, to, session, body, .. } = envelope;
        let pair = (group, from, to);
        let answer = AnswerTo { session, answers: self.answers.clone() };
        let refusal = match self.replicas.cluster.get() {
            Some(cluster) if *cluster == envelope.cluster && from != to => self.replicas.refusal(group, from, &body),
            Some(cluster) if *cluster == envelope.cluster => Some("a replica does not ask itself"),
            Some(_) => Some("another cluster"),
            None => Some("this store belongs to no cluster yet"),
        };
        if let Some(refusal) = refusal {
            answer.send(Response::Refused(refusal.to_owned())).await;
            return;
        }
        let raft = self.replicas.running.read().get(&ReplicaKey { group, replica: to }).cloned();
        let Some(raft) = raft else {
            answer.send(Response::Refused(format!("replica {to} of group {group} does not run here"))).await;
            return;
        };
        match body {
            Request::Append { first, append } => self.append(pair, first, append, raft, answer).await,
            Request::Heartbeat(append) => match request_of(append) {
                Ok(request) => {
                    self.replicas.runtime.spawn(heartbeat(raft, request, answer));
                }
                Err(error) => {
                    answer.send(Response::Refused(error.to_string())).await;
                }
            },
            Request::Vote(ballot) => {
                self.replicas.runtime.spawn(vote(raft, ballot, false, answer));
            }
            Request::PreVote(ballot) => {
                self.replicas.runtime.spawn(vote(raft, ballot, true, answer));
            }
            Request::Transfer { from, to, last } => {
                self.replicas.runtime.spawn(transfer(raft, from, to, last, answer));
            }
            Request::SnapshotBegin { vote, meta } => {
                let (steps, receiver) = mpsc::channel(BLOCKS_MAX);
                self.snapshots.insert(pair, (session, steps));
                let folder = self.replicas.snapshots.clone();
                self.replicas.runtime.spawn(receive_snapshot(raft, group, folder, vote, meta, receiver, answer));
            }
            Request::SnapshotBlock(block) => self.snapshot_step(pair, session, SnapshotStep::Block(block)),
            Request::SnapshotEnd => {
                self.snapshot_step(pair, session, SnapshotStep::End);
            }
            Request::End => {
                if self.appends.get(&pair).is_some_and(|(running, _)| *running == session) {
                    self.appends.remove(&pair);
                }
            }
        }
    }

    async fn append(&mut self, pair: Pair, first: bool, append: Append, raft: Raft<TypeConfig, M>, answer: AnswerTo) {
        if first {
            let (requests, input) = mpsc::channel(SESSION_REQUESTS_MAX + 1);
            // Ends the session before it, if there still is one.
            self.appends.insert(pair, (answer.session, requests));
            if chaos::sabotaged(Sabotage::AckBeforeQuorum) {
                self.replicas.runtime.spawn(sabotage::serve_appends_too_early(raft, input, answer.clone()));
            } else {
                self.replicas.runtime.spawn(serve_appends(raft, input, answer.clone()));
            }
        }
        let Some((_, requests)) = self.appends.get(&pair).filter(|(running, _)| *running == answer.session) else {
            return; // what was under way when the session ended
        };
        chaos::hit(Point::AppendReceive);
        let refusal = match request_of(append) {
            Err(error) => error.to_string(),
            Ok(request) => match requests.try_send(request) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Closed(_)) => {
                    self.appends.remove(&pair);
                    return;
                }
                Err(mpsc::error::TrySendError::Full(_)) => "more requests than a session may have".to_owned(),
            },
        };
        self.appends.remove(&pair);
        answer.send(Response::Refused(refusal)).await;
    }

    fn snapshot_step(&mut self, pair: Pair, session: u64, step: SnapshotStep) {
        let last = matches!(step, SnapshotStep::End);
        let Some((_, steps)) = self.snapshots.get(&pair).filter(|(running, _)| *running == session) else { return };
        if steps.try_send(step).is_err() || last {
            self.snapshots.remove(&pair);
        }
    }
}

/// Feeds one session to the replica, and answers in the order of the requests.
async fn serve_appends<M>(
    raft: Raft<TypeConfig, M>,
    input: mpsc::Receiver<AppendEntriesRequest<TypeConfig>>,
    answer: AnswerTo,
) where
    M: RaftStateMachine<TypeConfig>,
{
    let mut results = pin!(raft.stream_append(ReceiverStream::new(input)));
    while let Some(result) = results.next().await {
        let response = match result {
            Ok(result) => appended(result),
            Err(fatal) => Response::Refused(fatal.to_string()),
        };
        let goes_on = matches!(response, Response::Appended(_));
        if goes_on {
            chaos::hit(Point::AppendAnswer);
        }
        if !answer.send(response).await || !goes_on {
            return;
        }
    }
}

async fn heartbeat<M>(raft: Raft<TypeConfig, M>, request: AppendEntriesRequest<TypeConfig>, answer: AnswerTo)
where
    M: RaftStateMachine<TypeConfig>,
{
    chaos::hit(Point::HeartbeatReceive);
    let previous = request.prev_log_id;
    let last = request.entries.last().map(|entry| entry.log_id).or(previous);
    let response = match raft.append_entries(request).await {
        Ok(result) => appended(result.into_stream_result(previous, last)),
        Err(error) => Response::Refused(error.to_string()),
    };
    answer.send(response).await;
}

async fn vote<M>(raft: Raft<TypeConfig, M>, ballot: Ballot, pre: bool, answer: AnswerTo)
where
    M: RaftStateMachine<TypeConfig>,
{
    let mut request = VoteRequest::new(Vote::from(ballot.vote), ballot.last.map(LogId::from));
    request.leadership_transfer = ballot.transfer;
    chaos::hit(Point::VoteReceive);
    let result = if pre { raft.pre_vote(request).await } else { raft.vote(request).await };
    let response = match result {
        Ok(VoteResponse { vote, vote_granted, last_log_id }) => {
            Response::Voted { vote: vote.into(), granted: vote_granted, last: last_log_id.map(LogIdRow::from) }
        }
        Err(error) => Response::Refused(error.to_string()),
    };
    answer.send(response).await;
}

async fn transfer<M>(raft: Raft<TypeConfig, M>, from: MarkVote, to: ReplicaId, last: Option<LogIdRow>, answer: AnswerTo)
where
    M: RaftStateMachine<TypeConfig>,
{
    chaos::hit(Point::TransferReceive);
    let request = TransferLeaderRequest::new(Vote::from(from), to.0, last.map(LogId::from));
    let response = match raft.handle_transfer_leader(request).await {
        Ok(Ok(())) => Response::Transferred,
        Ok(Err(TransferLeaderError::VoteChanged { actual, .. })) => {
            Response::TransferVoteChanged { actual: actual.into() }
        }
        Ok(Err(TransferLeaderError::LogNotFlushed { actual, .. })) => {
            Response::TransferBehind { actual: actual.map(LogIdRow::from) }
        }
        Err(fatal) => Response::Refused(fatal.to_string()),
    };
    answer.send(response).await;
}

/// Takes one snapshot; only what is complete and checked is installed.
async fn receive_snapshot<M>(
    raft: Raft<TypeConfig, M>,
    group: GroupId,
    folder: PathBuf,
    vote: MarkVote,
    meta: SnapshotMetaRow,
    mut steps: mpsc::Receiver<SnapshotStep>,
    answer: AnswerTo,
) where
    M: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    let received: io::Result<Option<SnapshotData>> = async {
        let mut file = SnapshotReceiver::create(&folder, group)?;
        answer.send(Response::BlockTaken).await;
        loop {
            match steps.recv().await {
                Some(SnapshotStep::Block(block)) => {
                    chaos::hit(Point::SnapshotReceive);
                    file.write(&block)?;
                    answer.send(Response::BlockTaken).await;
                }
                Some(SnapshotStep::End) => {
                    let finished = file.finish()?;
                    chaos::hit(Point::SnapshotReceived);
                    return Ok(Some(finished));
                }
                None => return Ok(None), // the sender is gone
            }
        }
    }
    .await;
    let response = match received {
        Ok(None) => return,
        Err(error) => Response::Refused(error.to_string()),
        Ok(Some(snapshot)) => match meta.meta() {
            Err(error) => Response::Refused(error.to_string()),
            Ok(meta) => match raft.install_full_snapshot(vote.into(), Snapshot { meta, snapshot }).await {
                Ok(installed) => Response::SnapshotInstalled { vote: installed.vote.into() },
                Err(fatal) => Response::Refused(fatal.to_string()),
            },
        },
    };
    answer.send(response).await;
}

pub(super) fn appended(result: StreamAppendResult<TypeConfig>) -> Response {
    match result {
        Ok(last) => Response::Appended(last.map(LogIdRow::from)),
        Err(StreamAppendError::Conflict(at)) => Response::Conflict(at.into()),
        Err(StreamAppendError::HigherVote(vote)) => Response::HigherVote(vote.into()),
    }
}

/// The request, if every entry is what was sent.
fn request_of(append: Append) -> io::Result<AppendEntriesRequest<TypeConfig>> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut entries = Vec::with_capacity(append.records.len());
    for (crc, record) in append.records {
        let index = record.index;
        if record.crc() != crc {
            return Err(invalid(format!("the checksum of entry {index} does not match")));
        }
        entries.push(entry_of(record).map_err(|error| invalid(format!("entry {index}: {error}")))?);
    }
    Ok(AppendEntriesRequest {
        vote: append.vote.into(),
        prev_log_id: append.previous.map(LogId::from),
        entries,
        leader_commit: append.commit.map(LogId::from),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::state_machine::StateMachine;
    use crate::raft::testing::directory_of_a_rebuild;

    #[tokio::test]
    async fn a_rotten_replica_is_heard_no_more_once_another_is_made_in_its_place() {
        let replicas = Replicas::<StateMachine> {
            cluster: OnceLock::new(),
            directory: OnceLock::new(),
            running: RwLock::default(),
            runtime: Handle::current(),
            snapshots: PathBuf::new(),
        };
        let ballot = || Request::Vote(Ballot { vote: Vote::new(7, 2).into(), last: None, transfer: false });
        let hands_over = || Request::Transfer { from: Vote::new(7, 2).into(), to: ReplicaId(1), last: None };
        let says = |id, request| replicas.refusal(GroupId(1), ReplicaId(id), &request);
        assert_eq!(says(2, ballot()), None, "no directory is known yet");
        let sender = watch::Sender::new(Some(Arc::new(directory_of_a_rebuild())));
        replicas.directory.set(sender.subscribe()).unwrap();
        assert_eq!((says(1, ballot()), says(9, ballot())), (None, None));
        assert!(says(2, ballot()).is_some());
        assert_eq!(says(2, hands_over()), None);
        assert!(says(3, ballot()).is_some() && says(3, hands_over()).is_some());
        // Reported, and nothing made in its place yet: its group may need it.
        sender.send_modify(|directory| {
            let known = directory.as_mut().unwrap();
            Arc::make_mut(known).moves.clear();
        });
        assert_eq!(says(2, ballot()), None);
    }
}
