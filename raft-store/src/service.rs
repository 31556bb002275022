//! Service: the gRPC door for logic nodes and raftctl. One task per connection reads; answers go out in packets.
//!
//! ```text
//! packet ──▶ frames ──┬─ Propose ─ checks ─ budgets ─ a place in the answer queue ─ group ──┐ (callback out of apply)
//!                     ├─ Read ──── the group's door ────────────────────────────────────────┤
//!                     ├─ Renew ─── the doors of all groups named ───────────────────────────┼─▶ bounded queue ─▶ packets
//!                     └─ Watch ─── full tables, then events ────────────────────────────────┘
//! ```
//! The queue is bounded. Every request takes its place in it before it is passed on, so that apply never waits for a
//! slow reader; a connection whose queue is full is not read from.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, oneshot};
use tonic::{Request, Response, Status, Streaming};

use seriatim_mtls::{Caller, rules};
use seriatim_proto::codec;
use seriatim_proto::command::Command;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::{Packet, store_server};
use seriatim_proto::ids::{ClusterId, GroupId, LeaseId};
use seriatim_proto::limits;
use seriatim_proto::store::{
    Freshness, Read, ReadOutcome, Renewal, StoreEvent, StoreRefusal, StoreRequest, StoreResponse, StoreWelcome,
};

use crate::door::weight;
use crate::host::Host;
use crate::packets::Packets;
use crate::replica::Replica;
use crate::skew;

/// The `Store` service.
pub(crate) struct StoreService {
    host: Arc<Host>,
}

impl StoreService {
    /// Serves what `host` hosts.
    pub(crate) fn new(host: Arc<Host>) -> Self {
        Self { host }
    }
}

#[tonic::async_trait]
impl store_server::Store for StoreService {
    type ChannelStream = Packets;

    async fn channel(&self, request: Request<Streaming<Packet>>) -> Result<Response<Packets>, Status> {
        let (answers, packets) = Packets::channel(ANSWERS_WAITING);
        let caller = Caller::of_request(&request);
        let connection = Connection { host: Arc::clone(&self.host), answers, greeted: false, caller };
        tokio::spawn(connection.run(request.into_inner()));
        Ok(Response::new(packets))
    }
}

struct Connection {
    host: Arc<Host>,
    answers: mpsc::Sender<StoreResponse>,
    greeted: bool,
    /// as its certificate says
    caller: Caller,
}

/// The other side is gone, or does not speak our protocol.
struct Ended;

impl Connection {
    async fn run(mut self, mut packets: Streaming<Packet>) {
        // An error of the stream is the other side's end.
        while let Ok(Some(packet)) = packets.message().await {
            for frame in packet.frames {
                let Ok(request) = codec::decode::<StoreRequest>(&frame) else {
                    tracing::warn!(bytes = frame.len(), "a frame that is no store request ends the connection");
                    let refusal = Refusal::new(ErrorCode::Malformed, "a frame that is no store request");
                    let _ = self.answers.send(StoreResponse::Welcome { result: Err(refusal) }).await;
                    return;
                };
                if self.handle(request).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn handle(&mut self, request: StoreRequest) -> Result<(), Ended> {
        if let Err(refusal) = rules::store_request(&self.caller, &request) {
            return self.forbid(&request, refusal).await;
        }
        match request {
            StoreRequest::Hello { cluster } => self.hello(cluster).await,
            _ if !self.greeted => {
                let refusal = Refusal::new(ErrorCode::Malformed, "Hello must come first");
                self.send(StoreResponse::Welcome { result: Err(refusal) }).await?;
                Err(Ended)
            }
            StoreRequest::Propose { id, group, count, batch } => {
                let answer = self.place().await?;
                match self.admit(group, count, batch) {
                    Ok((replica, batch)) => replica.propose(id, count, batch, answer).await,
                    Err(refusal) => {
                        self.host.count_refused(&refusal);
                        answer.send(StoreResponse::Proposed { id, result: Err(refusal) });
                    }
                }
                Ok(())
            }
            StoreRequest::Read { id, group, freshness, reads } => self.read(id, group, freshness, reads).await,
            StoreRequest::Renew { id, leases } => self.renew(id, leases).await,
            StoreRequest::Watch => {
                tokio::spawn(watch(Arc::clone(&self.host), self.answers.clone()));
                Ok(())
            }
        }
    }

    /// Not for a caller of this role.
    async fn forbid(&mut self, request: &StoreRequest, refusal: Refusal) -> Result<(), Ended> {
        // Counted below; whoever asks again and again fills no log.
        tracing::debug!(%refusal, "a request is refused");
        self.host.count_refused(&StoreRefusal::Refused(refusal.clone()));
        match request {
            StoreRequest::Propose { id, .. } => {
                let result = Err(StoreRefusal::Refused(refusal));
                self.send(StoreResponse::Proposed { id: *id, result }).await
            }
            // What has no answer of its own ends the stream.
            _ => {
                self.send(StoreResponse::Welcome { result: Err(refusal) }).await?;
                Err(Ended)
            }
        }
    }

    async fn hello(&mut self, cluster: Option<ClusterId>) -> Result<(), Ended> {
        let ours = self.host.identity();
        let result = match (cluster, &ours) {
            (Some(_), None) => Err(Refusal::later(ErrorCode::Unavailable, "this store belongs to no cluster yet", 500)),
            (Some(theirs), Some(ours)) if theirs != ours.cluster => {
                Err(Refusal::new(ErrorCode::WrongCluster, format!("this store belongs to cluster {}", ours.cluster)))
            }
            _ => Ok(StoreWelcome {
                cluster: ours.as_ref().map(|ours| ours.cluster),
                store: ours.as_ref().map(|ours| ours.store),
            }),
        };
        self.greeted = result.is_ok();
        let refused = result.is_err();
        self.send(StoreResponse::Welcome { result }).await?;
        if refused { Err(Ended) } else { Ok(()) }
    }

    /// Everything that can be refused before a batch reaches Raft. The batch as it is to be proposed.
    fn admit(&self, group: GroupId, count: u32, batch: Bytes) -> Result<(Arc<Replica>, Bytes), StoreRefusal> {
        let refused = |code, what: &str| Err(StoreRefusal::Refused(Refusal::new(code, what)));
        let replica = self.host.serving(group)?;
        if self.host.disk().read_only() {
            let refusal = Refusal::later(ErrorCode::ReadOnly, "the store's disk is nearly full", 1_000);
            return Err(StoreRefusal::Refused(refusal));
        }
        if count == 0 || count > limits::ENTRY_COMMANDS_MAX {
            return refused(ErrorCode::Malformed, "a batch has one command at least and ENTRY_COMMANDS_MAX at most");
        }
        if batch.len() > limits::ENTRY_BYTES_MAX as usize {
            return refused(ErrorCode::FrameTooLarge, "the batch is longer than an entry may be");
        }
        replica.check_leader()?;
        match codec::decode::<Vec<Command>>(&batch) {
            Ok(commands) if commands.len() != count as usize => {
                refused(ErrorCode::Malformed, "the batch has not as many commands as it says")
            }
            Ok(commands) if commands.iter().any(is_ours_alone) => {
                refused(ErrorCode::Malformed, "a command that only the group's leader proposes")
            }
            Ok(mut commands) => {
                let is_doubted = self.host.clock_is_doubted();
                let bounded = if is_doubted { 0 } else { skew::bound(&mut commands, skew::unix_ms()) };
                if bounded == 0 {
                    return Ok((replica, batch));
                }
                self.host.metrics().times_bounded.inc_by(bounded);
                // A time that was raised takes a few bytes more: what an entry may have, a frame has room to spare for.
                Ok((replica, codec::encode_bytes(&commands)))
            }
            Err(_) => refused(ErrorCode::Malformed, "the batch is no list of commands"),
        }
    }

    async fn read(&self, id: u64, group: GroupId, freshness: Freshness, reads: Vec<Read>) -> Result<(), Ended> {
        let answer = self.place().await?;
        let too_much = reads.iter().map(weight).sum::<u64>() > READ_WEIGHT_MAX;
        let replica = match self.host.serving(group) {
            Ok(_) if too_much => Err(StoreRefusal::Refused(Refusal::new(ErrorCode::Malformed, "too much in one read"))),
            other => other,
        };
        let refusal = match replica {
            Ok(replica) => match replica.read(id, freshness, reads, answer) {
                Ok(()) => return Ok(()),
                Err((refusal, answer)) => (refusal, answer),
            },
            Err(refusal) => (refusal, answer),
        };
        let (refusal, answer) = refusal;
        self.host.count_refused(&refusal);
        answer.send(StoreResponse::Reads { id, result: Err(refusal) });
        Ok(())
    }

    async fn renew(&self, id: u64, leases: Vec<(GroupId, LeaseId)>) -> Result<(), Ended> {
        let answer = self.place().await?;
        let waiting: Vec<_> = leases
            .into_iter()
            .take(limits::GROUPS_MAX as usize + 1)
            .map(|(group, lease)| {
                let (tx, rx) = oneshot::channel();
                match self.host.serving(group) {
                    Ok(replica) => replica.renew(lease, tx),
                    Err(StoreRefusal::NotLeader { leader }) => drop(tx.send(Renewal::NotLeader { leader })),
                    Err(StoreRefusal::Refused(_)) => drop(tx.send(Renewal::Unavailable)),
                }
                rx
            })
            .collect();
        // One short task per renewal round of a node, a few a second.
        tokio::spawn(async move {
            let mut results = Vec::with_capacity(waiting.len());
            for renewal in waiting {
                results.push(renewal.await.unwrap_or(Renewal::Unavailable));
            }
            answer.send(StoreResponse::Renewed { id, results });
        });
        Ok(())
    }

    async fn place(&self) -> Result<mpsc::OwnedPermit<StoreResponse>, Ended> {
        self.answers.clone().reserve_owned().await.map_err(|_| Ended)
    }

    async fn send(&self, response: StoreResponse) -> Result<(), Ended> {
        self.answers.send(response).await.map_err(|_| Ended)
    }
}

/// Commands that a group's leader proposes itself, bound to its leadership.
fn is_ours_alone(command: &Command) -> bool {
    matches!(command, Command::ExpireLease { .. } | Command::Own { .. } | Command::Trim { .. })
}

/// Full tables, then events; full tables again for a watcher that was too slow.
async fn watch(host: Arc<Host>, answers: mpsc::Sender<StoreResponse>) {
    loop {
        // Subscribed before the tables are read: nothing falls between.
        let mut events = host.events().subscribe();
        for event in tables(&host).await {
            if answers.send(StoreResponse::Event(event)).await.is_err() {
                return;
            }
        }
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = answers.closed() => return,
            };
            match event {
                Ok(event) => {
                    if answers.send(StoreResponse::Event((*event).clone())).await.is_err() {
                        return;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => break,
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }
}

async fn tables(host: &Arc<Host>) -> Vec<StoreEvent> {
    let mut tables = Vec::new();
    if let Some(directory) = host.events().directory().borrow().clone() {
        tables.push(StoreEvent::Directory((*directory).clone()));
    }
    for replica in host.replicas() {
        let group = replica.group;
        tables.push(StoreEvent::Leader { group, leader: replica.leader() });
        if group == GroupId::META {
            continue;
        }
        let read = host.spawn_read(move || replica.read_now(&[Read::Holders])).await;
        if let Some(Ok(outcomes)) = read {
            for outcome in outcomes {
                if let ReadOutcome::Holders(rows) = outcome {
                    tables.push(StoreEvent::Holders { group, rows });
                }
            }
        }
    }
    tables
}

/// Answers that wait for one connection, those promised included.
const ANSWERS_WAITING: usize = 4_096;
/// About how many rows one read request may touch.
const READ_WEIGHT_MAX: u64 = 64 << 10;
