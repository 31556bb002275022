//! Network: how openraft reaches the replicas of other stores.
//!
//! Appends are truly pipelined: a task takes requests from openraft and sends them, up to
//! [`SESSION_REQUESTS_MAX`] ahead of the answers. Every request has a deadline.
//!
//! # Failure
//! openraft spaces its attempts inside the request stream only: who fails without taking a request from it spins.
//! So an append to a peer that cannot be reached takes one request before it fails.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::Fuse;
use futures_util::{Stream, StreamExt, stream};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RPCTypes,
    RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use seriatim_proto::chaos::{self, Point};
use seriatim_proto::codec;
use seriatim_proto::ids::{ClusterId, ReplicaId};
use seriatim_proto::meta::Directory;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Instant;

use super::codec::{LogIdRow, record_of};
use super::snapshot::SnapshotData;
use super::types::{LogId, Node, Snapshot, TypeConfig, Vote};
use crate::log_record::ReplicaKey;
use crate::transport::{
    Append, Ballot, Class, Envelope, Link, Links, Request, Response, SESSION_REQUESTS_MAX, Session,
};

/// An append may take this many times openraft's own deadline (a heartbeat interval): a slow disk is no dead peer,
/// and resending what is on its way makes it slower. Heartbeats keep the exact deadline.
const APPEND_PATIENCE: u32 = 10;
/// How long a commit index waits for entries that carry it to the follower.
const COMMIT_PATIENCE: Duration = Duration::from_millis(10);
/// Unanswered bytes of one append session, in KiB.
const SESSION_KIB_MAX: u32 = 16 << 10;
/// Time that the peer may take for one block of a snapshot.
const BLOCK_DEADLINE: Duration = Duration::from_secs(10);

type RpcError = RPCError<TypeConfig>;

/// Makes the clients of one replica.
pub(crate) struct NetworkFactory {
    /// whose cluster
    pub(crate) cluster: ClusterId,
    /// who asks
    pub(crate) key: ReplicaKey,
    /// to all stores
    pub(crate) links: Arc<Links>,
    /// the newest directory, which says who counts no more; `None`: nobody says so
    pub(crate) directory: Option<watch::Receiver<Option<Arc<Directory>>>>,
}

/// One replica's way to another one.
pub(crate) struct Network {
    route: Route,
    class: Class,
    directory: Option<watch::Receiver<Option<Arc<Directory>>>>,
    log: Arc<Link>,
    control: Arc<Link>,
    snapshot: Arc<Link>,
}

/// What every envelope says.
#[derive(Clone, Copy)]
struct Route {
    cluster: ClusterId,
    key: ReplicaKey,
    to: ReplicaId,
}

impl Route {
    fn envelope(self, session: u64, body: Request) -> Envelope {
        Envelope { cluster: self.cluster, group: self.key.group, from: self.key.replica, to: self.to, session, body }
    }
}

impl NetworkFactory {
    fn client(&self, target: u64, node: &Node, class: Class) -> Network {
        let link = |class| self.links.link(&node.address, class);
        Network {
            route: Route { cluster: self.cluster, key: self.key, to: ReplicaId(target) },
            class,
            directory: self.directory.clone(),
            log: link(Class::Log),
            control: link(Class::Control),
            snapshot: link(Class::Snapshot),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, Class::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, Class::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, Class::Snapshot)
    }
}

/// Does the directory say that nothing which the replica answers may count? Then it is not asked (I15): an old copy of
/// its folder would answer.
fn is_out(directory: Option<&watch::Receiver<Option<Arc<Directory>>>>, route: Route) -> bool {
    let says = |directory: &Directory| {
        directory.is_removed(route.key.group, route.to) || directory.is_replaced(route.key.group, route.to)
    };
    directory.is_some_and(|known| known.borrow().as_deref().is_some_and(says))
}

impl Network {
    fn is_out(&self) -> bool {
        is_out(self.directory.as_ref(), self.route)
    }

    /// One request and its answer. Waits for a stream that is being made: a store that has just started has none, and
    /// an election must not be lost over it.
    async fn call(
        &self,
        link: &Arc<Link>,
        body: Request,
        action: RPCTypes,
        deadline: Duration,
    ) -> Result<Response, RpcError> {
        if self.is_out() {
            return Err(out());
        }
        let answered = async {
            let mut session = link.opened().await;
            let envelope = self.route.envelope(session.id(), body);
            match session.send(&envelope).await {
                true => session.receive().await,
                false => None,
            }
        };
        match tokio::time::timeout(deadline, answered).await {
            Err(_) => Err(self.timeout(action, deadline)),
            Ok(None) => Err(unreachable(link)),
            Ok(Some(Response::Refused(reason))) => Err(refused(&reason)),
            Ok(Some(response)) => Ok(response),
        }
    }

    async fn ballot(
        &self,
        rpc: &VoteRequest<TypeConfig>,
        pre: bool,
        deadline: Duration,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let ballot = Ballot {
            vote: rpc.vote.into(),
            last: rpc.last_log_id.map(LogIdRow::from),
            transfer: rpc.leadership_transfer,
        };
        let body = if pre { Request::PreVote(ballot) } else { Request::Vote(ballot) };
        match self.call(&self.control, body, RPCTypes::Vote, deadline).await? {
            Response::Voted { vote, granted, last } => {
                Ok(VoteResponse::new(Vote::from(vote), last.map(LogId::from), granted))
            }
            _ => Err(unexpected()),
        }
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> RpcError {
        let (id, target) = (self.route.key.replica.0, self.route.to.0);
        RPCError::Timeout(Timeout { action, id, target, timeout })
    }
}

fn unreachable(link: &Link) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(format!("no stream to {}", link.address())))
}

fn out() -> RpcError {
    RPCError::Unreachable(Unreachable::from_string("a replica that counts no more is not asked"))
}

fn refused(reason: &str) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(format!("the peer refused: {reason}")))
}

fn unexpected() -> RpcError {
    RPCError::Network(NetworkError::from_string("an answer to something else"))
}

impl NetBackoff<TypeConfig> for Network {
    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(200))))
    }
}

impl NetVote<TypeConfig> for Network {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ballot(&rpc, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ballot(&rpc, true, option.hard_ttl()).await
    }
}

impl NetTransferLeader<TypeConfig> for Network {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let (expected_vote, expected_last) = (*request.from_leader(), request.last_log_id().copied());
        let body = Request::Transfer {
            from: expected_vote.into(),
            to: ReplicaId(*request.to_node_id()),
            last: expected_last.map(LogIdRow::from),
        };
        match self.call(&self.control, body, RPCTypes::TransferLeader, option.hard_ttl()).await? {
            Response::Transferred => Ok(Ok(())),
            Response::TransferVoteChanged { actual } => {
                Ok(Err(TransferLeaderError::VoteChanged { expected: expected_vote, actual: actual.into() }))
            }
            Response::TransferBehind { actual } => {
                Ok(Err(TransferLeaderError::LogNotFlushed { expected: expected_last, actual: actual.map(LogId::from) }))
            }
            _ => Err(unexpected()),
        }
    }
}

impl NetStreamAppend<TypeConfig> for Network {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + openraft::OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let (link, patience) = match self.class {
                Class::Control => (&self.control, 1),
                Class::Log | Class::Snapshot => (&self.log, APPEND_PATIENCE),
            };
            if self.is_out() {
                input.next().await;
                return Err(out());
            }
            let Some(session) = link.open() else {
                input.next().await;
                return Err(unreachable(link));
            };
            let (noted, sent) = mpsc::channel(SESSION_REQUESTS_MAX);
            let pump = Pump {
                route: self.route,
                directory: self.directory.clone(),
                session: session.id(),
                queue: session.queue(),
                heartbeat: self.class == Class::Control,
                bytes: Arc::new(Semaphore::new(SESSION_KIB_MAX as usize)),
            };
            let answers = Answers {
                task: tokio::spawn(pump.run(input, noted)),
                end: (self.class != Class::Control)
                    .then(|| (session.queue(), codec::encode_bytes(&self.route.envelope(session.id(), Request::End)))),
                session,
                sent,
            };
            let network = &*self;
            let deadline = option.hard_ttl() * patience;
            let answers: BoxStream<'s, _> = Box::pin(stream::unfold(Some(answers), move |answers| async move {
                let mut answers = answers?;
                let answer = answers.next(network, deadline).await?;
                let goes_on = matches!(answer, Ok(Ok(_)));
                Some((answer, goes_on.then_some(answers)))
            }));
            Ok(answers)
        })
    }
}

/// Takes requests from openraft and sends them.
struct Pump {
    route: Route,
    directory: Option<watch::Receiver<Option<Arc<Directory>>>>,
    session: u64,
    queue: mpsc::Sender<Bytes>,
    heartbeat: bool,
    bytes: Arc<Semaphore>,
}

/// A request that is on its way. Its bytes count until it is answered.
struct Sent {
    at: Instant,
    _bytes: OwnedSemaphorePermit,
}

impl Pump {
    async fn run<S>(self, input: S, noted: mpsc::Sender<Sent>)
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
    {
        let mut first = true;
        // An end that was seen while a commit index waited is seen again.
        let mut input = input.fuse();
        while let Some(request) = next_worth_sending(&mut input, COMMIT_PATIENCE).await {
            if is_out(self.directory.as_ref(), self.route) {
                return; // the session ends, and the next one is not begun
            }
            let append = append_of(&request);
            drop(request);
            let body = match self.heartbeat {
                true => Request::Heartbeat(append),
                false => Request::Append { first, append },
            };
            first = false;
            if !self.heartbeat {
                chaos::hit(Point::AppendSend);
            }
            let frame = codec::encode_bytes(&self.route.envelope(self.session, body));
            let kib = u32::try_from(frame.len() >> 10).unwrap_or(u32::MAX).clamp(1, SESSION_KIB_MAX);
            let Ok(bytes) = Arc::clone(&self.bytes).acquire_many_owned(kib).await else { return };
            if noted.send(Sent { at: Instant::now(), _bytes: bytes }).await.is_err() {
                return;
            }
            if self.queue.send(frame).await.is_err() {
                return; // the link is gone; the session's answers end too
            }
        }
    }
}

/// The next request. One that has nothing but a commit index waits a moment for entries, and is dropped for them:
/// they have a commit index too, at least as new, and openraft takes their answer for both. Nobody waits for a
/// follower to apply, and an append costs a follower four threads' wake-ups whether it has entries or not.
async fn next_worth_sending<S>(input: &mut Fuse<S>, patience: Duration) -> Option<AppendEntriesRequest<TypeConfig>>
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Unpin,
{
    let mut request = input.next().await?;
    let until = Instant::now() + patience;
    while request.entries.is_empty() {
        match tokio::time::timeout_at(until, input.next()).await {
            Err(_) | Ok(None) => break,
            Ok(Some(next)) => request = next,
        }
    }
    Some(request)
}

fn append_of(request: &AppendEntriesRequest<TypeConfig>) -> Append {
    let records = request.entries.iter().map(record_of).map(|record| (record.crc(), record)).collect();
    Append {
        vote: request.vote.into(),
        previous: request.prev_log_id.map(LogIdRow::from),
        commit: request.leader_commit.map(LogIdRow::from),
        records,
    }
}

/// The answers of one append session, in the order of its requests.
struct Answers {
    session: Session,
    sent: mpsc::Receiver<Sent>,
    task: tokio::task::JoinHandle<()>,
    /// says to the peer that the session is over
    end: Option<(mpsc::Sender<Bytes>, Bytes)>,
}

impl Answers {
    /// `None` when the requests have ended and all are answered.
    async fn next(
        &mut self,
        network: &Network,
        deadline: Duration,
    ) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        let sent = self.sent.recv().await?;
        Some(match tokio::time::timeout_at(sent.at + deadline, self.session.receive()).await {
            Err(_) => Err(network.timeout(RPCTypes::AppendEntries, deadline)),
            Ok(None) => Err(unreachable(&network.log)),
            Ok(Some(response)) => match response {
                Response::Appended(last) => Ok(Ok(last.map(LogId::from))),
                Response::Conflict(at) => Ok(Err(StreamAppendError::Conflict(at.into()))),
                Response::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote.into()))),
                Response::Refused(reason) => Err(refused(&reason)),
                _ => Err(unexpected()),
            },
        })
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.task.abort();
        if let Some((queue, end)) = self.end.take() {
            // If there is no room, the peer ends the session when the next one begins.
            let _ = queue.try_send(end);
        }
    }
}

impl NetSnapshot<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + openraft::OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot, option.hard_ttl()) => sent.map_err(StreamingError::from),
        }
    }
}

impl Network {
    async fn send_snapshot(
        &self,
        vote: Vote,
        mut snapshot: Snapshot<SnapshotData>,
        install_deadline: Duration,
    ) -> Result<SnapshotResponse<TypeConfig>, RpcError> {
        if self.is_out() {
            return Err(out());
        }
        let Some(mut session) = self.snapshot.open() else {
            // Let go first: it pins rows and a thread, and is old when there is somebody who wants it. openraft takes a
            // new one for every try: one for each stream that comes up is enough.
            drop(snapshot);
            drop(self.snapshot.opened().await);
            return Err(unreachable(&self.snapshot));
        };
        let begin = Request::SnapshotBegin { vote: vote.into(), meta: (&snapshot.meta).into() };
        self.step(&mut session, begin, BLOCK_DEADLINE).await?;
        while let Some(block) = snapshot.snapshot.next_block().await {
            let block = block.map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))?;
            chaos::hit(Point::SnapshotSend);
            self.step(&mut session, Request::SnapshotBlock(block), BLOCK_DEADLINE).await?;
        }
        match self.step(&mut session, Request::SnapshotEnd, install_deadline).await? {
            Response::SnapshotInstalled { vote } => Ok(SnapshotResponse::new(vote.into())),
            _ => Err(unexpected()),
        }
    }

    async fn step(&self, session: &mut Session, body: Request, deadline: Duration) -> Result<Response, RpcError> {
        let envelope = self.route.envelope(session.id(), body);
        let answered = async {
            match session.send(&envelope).await {
                true => session.receive().await,
                false => None,
            }
        };
        match tokio::time::timeout(deadline, answered).await {
            Err(_) => Err(self.timeout(RPCTypes::InstallSnapshot, deadline)),
            Ok(None) => Err(unreachable(&self.snapshot)),
            Ok(Some(Response::Refused(reason))) => Err(refused(&reason)),
            Ok(Some(response)) => Ok(response),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::Payload;

    fn request(commit: u64, entries: &[u64]) -> AppendEntriesRequest<TypeConfig> {
        let id = |index| crate::raft::codec::log_id(1, 1, index);
        AppendEntriesRequest {
            vote: Vote::from(crate::watermark::MarkVote { term: 1, node: 1, committed: true }),
            prev_log_id: Some(id(9)),
            entries: entries
                .iter()
                .map(|index| super::super::types::Entry { log_id: id(*index), payload: Payload::Blank })
                .collect(),
            leader_commit: Some(id(commit)),
        }
    }

    /// What goes to the follower: `(commit index, entries)`.
    fn said(request: Option<AppendEntriesRequest<TypeConfig>>) -> Option<(u64, usize)> {
        request.map(|request| (request.leader_commit.map_or(0, |id| id.index), request.entries.len()))
    }

    #[test]
    fn who_counts_no_more_is_not_asked() {
        let directory = crate::raft::testing::directory_of_a_rebuild();
        let key = ReplicaKey { group: seriatim_proto::ids::GroupId(1), replica: ReplicaId(1) };
        let route = |to| Route { cluster: directory.cluster, key, to: ReplicaId(to) };
        let known = watch::Sender::new(None).subscribe();
        assert!(!is_out(None, route(2)) && !is_out(Some(&known), route(2)), "nobody says so");
        let known = watch::Sender::new(Some(Arc::new(directory.clone()))).subscribe();
        let out: Vec<u64> = (1..12).filter(|to| is_out(Some(&known), route(*to))).collect();
        // Neither the one that joins, nor one that is younger than this directory.
        assert_eq!(out, [2, 3, 4, 5, 6, 7, 8]);
    }

    #[tokio::test]
    async fn a_commit_index_rides_with_the_entries_behind_it() {
        let for_ever = Duration::from_secs(3_600);
        let requests = [(3, &[10, 11][..]), (4, &[]), (5, &[]), (6, &[12]), (7, &[]), (8, &[])];
        let input = stream::iter(requests.map(|(commit, entries)| request(commit, entries)));
        // As openraft's own: to ask it again behind its end is a panic.
        let input = stream::unfold(input, |mut input| async { Some((input.next().await?, input)) });
        let mut input = Box::pin(input).fuse();
        let mut sent = Vec::new();
        while let Some(next) = said(next_worth_sending(&mut input, for_ever).await) {
            sent.push(next);
        }
        assert_eq!(sent, [(3, 2), (6, 1), (8, 0)], "what is left at the end is not lost");
    }

    #[tokio::test]
    async fn a_commit_index_that_nothing_follows_goes_alone() {
        let mut input = stream::iter([request(3, &[]), request(4, &[])]).chain(stream::pending()).fuse();
        let sent = next_worth_sending(&mut input, Duration::from_millis(1)).await;
        assert_eq!(said(sent), Some((4, 0)));
    }
}
