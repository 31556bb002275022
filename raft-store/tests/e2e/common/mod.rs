//! A cluster of stores in this process, on loopback ports and temporary folders, and a client of the Store channel.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "test code; each test binary uses its own part")]

pub mod placement;

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};

use seriatim_proto::admin::{AdminRequest, AdminResponse};
use seriatim_proto::codec;
use seriatim_proto::command::{Append, Command, Content, HolderOp, Outcome, Place};
use seriatim_proto::error::Refusal;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::admin_client::AdminClient;
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::ids::{
    ClusterId, ConversationId, Epoch, Fence, GroupId, LeaseId, MessageId, NodeId, SlotId, TenantId, UserId,
};
use seriatim_proto::limits;
use seriatim_proto::store::{
    Freshness, GroupStatus, Read, ReadOutcome, Renewal, StoreEvent, StoreRefusal, StoreRequest, StoreResponse,
    StoreStatus, StoreWelcome,
};
use seriatim_store::{StoreConfig, StoreServer, StoreStartError, Tuning};

pub const DEADLINE: Duration = Duration::from_secs(30);

/// Waits on a level with a deadline.
pub async fn wait_until<F: Future<Output = bool>>(what: &str, mut level: impl FnMut() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !level().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One store, running or not.
pub struct Node {
    pub folder: tempfile::TempDir,
    pub address: SocketAddr,
    pub reserve_bytes: u64,
    pub server: Option<StoreServer>,
}

/// Stores of one cluster.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub tuning: Tuning,
    pub id: Option<ClusterId>,
}

pub async fn start(
    folder: PathBuf,
    listen: SocketAddr,
    reserve_bytes: u64,
    tuning: Tuning,
) -> Result<StoreServer, StoreStartError> {
    let mut config = StoreConfig::new(folder, listen);
    config.insecure_plaintext = true;
    config.disk_reserve_bytes = reserve_bytes;
    StoreServer::start_tuned(config, tuning, &mut Registry::default()).await
}

pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Cluster {
    /// Stores without a cluster.
    pub async fn bare(count: usize, tuning: Tuning) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..count {
            let folder = tempfile::tempdir().unwrap();
            let server = start(folder.path().to_owned(), any_port(), 1 << 20, tuning).await.unwrap();
            nodes.push(Node { folder, address: server.address(), reserve_bytes: 1 << 20, server: Some(server) });
        }
        Self { nodes, tuning, id: None }
    }

    /// A cluster of `count` stores and `groups` data groups.
    pub async fn start(count: usize, groups: u32, tuning: Tuning) -> Self {
        let mut cluster = Self::bare(count, tuning).await;
        let id = cluster.init(groups).await.unwrap();
        cluster.id = Some(id);
        cluster
    }

    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.to_string()).collect()
    }

    pub async fn init(&self, groups: u32) -> Result<ClusterId, Refusal> {
        let request = AdminRequest::InitCluster { stores: self.addresses(), groups, voters: None };
        match admin(&self.nodes[0].address.to_string(), &request).await {
            AdminResponse::Initialised { cluster } => Ok(cluster),
            AdminResponse::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// Ends a store without any farewell.
    pub fn kill(&mut self, nth: usize) {
        drop(self.nodes[nth].server.take());
    }

    /// Ends a store as an operator does.
    pub async fn stop(&mut self, nth: usize) {
        let server = self.nodes[nth].server.take().unwrap();
        server.run(async {}).await.unwrap();
    }

    /// Waits until nothing of a store that has ended writes into its folder any more. A process takes its threads with
    /// it; what ends in this one writes what is left, over whatever a test does to the files meanwhile.
    pub async fn wait_ended(&self, nth: usize) {
        let lock = self.nodes[nth].folder.path().join("LOCK");
        wait_until("the store lets go of its folder", async || {
            let file = std::fs::File::open(&lock).unwrap();
            file.try_lock().is_ok()
        })
        .await;
    }

    /// Starts a store again, on its folder and port.
    pub async fn restart(&mut self, nth: usize) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let node = &self.nodes[nth];
            match start(node.folder.path().to_owned(), node.address, node.reserve_bytes, self.tuning).await {
                Ok(server) => {
                    self.nodes[nth].server = Some(server);
                    return;
                }
                // The threads of the killed one still hold the folder.
                Err(error) => assert!(Instant::now() < deadline, "restart: {error:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn client(&self, nth: usize) -> Client {
        Client::connect(&self.nodes[nth].address.to_string(), self.id).await.unwrap()
    }

    pub async fn status(&self, nth: usize) -> StoreStatus {
        status(&self.nodes[nth].address.to_string()).await
    }

    pub async fn group(&self, nth: usize, group: GroupId) -> Option<GroupStatus> {
        self.status(nth).await.groups.into_iter().find(|status| status.group == group)
    }

    fn running(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|nth| self.nodes[*nth].server.is_some()).collect()
    }

    /// Which store leads a group.
    pub async fn leader(&self, group: GroupId) -> usize {
        let deadline = Instant::now() + DEADLINE;
        loop {
            for nth in self.running() {
                if self.group(nth, group).await.is_some_and(|status| status.role == "leader") {
                    return nth;
                }
            }
            assert!(Instant::now() < deadline, "no leader of {group:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Proposes at whichever store leads, again and again: only for commands that may be repeated.
    pub async fn propose(&self, group: GroupId, commands: &[Command]) -> Vec<Outcome> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let client = self.client(self.leader(group).await).await;
            match client.propose(group, commands).await {
                Ok(outcomes) => return outcomes,
                Err(refusal) => assert!(Instant::now() < deadline, "{refusal:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Renews at whichever store leads, until it says yes or no.
    pub async fn renew(&self, group: GroupId, lease: LeaseId) -> Renewal {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let client = self.client(self.leader(group).await).await;
            match client.renew(vec![(group, lease)]).await[..] {
                [Renewal::Renewed] => return Renewal::Renewed,
                [Renewal::Gone] => return Renewal::Gone,
                _ => assert!(Instant::now() < deadline, "no leader renews"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn read(&self, group: GroupId, read: Read) -> ReadOutcome {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let client = self.client(self.leader(group).await).await;
            match client.read(group, Freshness::Linearizable, vec![read.clone()]).await {
                Ok(outcomes) => return outcomes.into_iter().next().unwrap(),
                Err(refusal) => assert!(Instant::now() < deadline, "{refusal:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub async fn admin(address: &str, request: &AdminRequest) -> AdminResponse {
    let mut client = AdminClient::connect(format!("http://{address}")).await.unwrap();
    let packet = Packet { frames: vec![codec::encode_bytes(request)] };
    codec::decode(&client.call(packet).await.unwrap().into_inner().frames[0]).unwrap()
}

pub async fn status(address: &str) -> StoreStatus {
    match admin(address, &AdminRequest::Status).await {
        AdminResponse::Status(status) => status,
        other => panic!("{other:?}"),
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<StoreResponse>>>>;

/// A logic node's end of the Store channel.
pub struct Client {
    packets: mpsc::Sender<Packet>,
    waiting: Waiting,
    next: AtomicU64,
    pub events: tokio::sync::Mutex<mpsc::Receiver<StoreEvent>>,
    pub welcome: StoreWelcome,
}

impl Client {
    pub async fn connect(address: &str, cluster: Option<ClusterId>) -> Result<Self, Refusal> {
        let mut grpc = StoreClient::connect(format!("http://{address}"))
            .await
            .unwrap()
            .max_decoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize)
            .max_encoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize);
        let (packets, requests) = mpsc::channel(256);
        let hello = codec::encode_bytes(&StoreRequest::Hello { cluster });
        packets.send(Packet { frames: vec![hello] }).await.unwrap();
        let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
        let mut answers = grpc.channel(requests).await.unwrap().into_inner();
        let first = answers.message().await.unwrap().expect("a welcome");
        let StoreResponse::Welcome { result } = codec::decode(&first.frames[0]).unwrap() else { panic!("a welcome") };
        let welcome = result?;
        let waiting: Waiting = Arc::default();
        let (events_tx, events) = mpsc::channel(4_096);
        let routes = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Ok(Some(packet)) = answers.message().await {
                for frame in packet.frames {
                    let response: StoreResponse = codec::decode(&frame).unwrap();
                    let id = match &response {
                        StoreResponse::Proposed { id, .. }
                        | StoreResponse::Reads { id, .. }
                        | StoreResponse::Renewed { id, .. } => *id,
                        StoreResponse::Event(event) => {
                            let _ = events_tx.send(event.clone()).await;
                            continue;
                        }
                        StoreResponse::Welcome { .. } => continue,
                    };
                    if let Some(waiter) = routes.lock().remove(&id) {
                        let _ = waiter.send(response);
                    }
                }
            }
            routes.lock().clear();
        });
        Ok(Self { packets, waiting, next: AtomicU64::new(1), events: events.into(), welcome })
    }

    async fn call(&self, request: impl FnOnce(u64) -> StoreRequest) -> Option<StoreResponse> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().insert(id, tx);
        let packet = Packet { frames: vec![codec::encode_bytes(&request(id))] };
        self.packets.send(packet).await.ok()?;
        tokio::time::timeout(DEADLINE, rx).await.expect("an answer in time").ok()
    }

    pub async fn propose(&self, group: GroupId, commands: &[Command]) -> Result<Vec<Outcome>, StoreRefusal> {
        let batch = codec::encode_bytes(&commands.to_vec());
        self.propose_raw(group, commands.len() as u32, batch).await
    }

    /// Sends now, in order; the answer comes by the future.
    pub async fn propose_later(
        &self,
        group: GroupId,
        commands: &[Command],
    ) -> impl Future<Output = Result<Vec<Outcome>, StoreRefusal>> + Send + use<> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().insert(id, tx);
        let (count, batch) = (commands.len() as u32, codec::encode_bytes(&commands.to_vec()));
        let frame = codec::encode_bytes(&StoreRequest::Propose { id, group, count, batch });
        self.packets.send(Packet { frames: vec![frame] }).await.unwrap();
        async move {
            match rx.await {
                Ok(StoreResponse::Proposed { result, .. }) => result,
                _ => Err(gone()),
            }
        }
    }

    pub async fn propose_raw(
        &self,
        group: GroupId,
        count: u32,
        batch: bytes::Bytes,
    ) -> Result<Vec<Outcome>, StoreRefusal> {
        match self.call(|id| StoreRequest::Propose { id, group, count, batch }).await {
            Some(StoreResponse::Proposed { result, .. }) => result,
            Some(other) => panic!("{other:?}"),
            None => Err(gone()),
        }
    }

    pub async fn read(
        &self,
        group: GroupId,
        freshness: Freshness,
        reads: Vec<Read>,
    ) -> Result<Vec<ReadOutcome>, StoreRefusal> {
        match self.call(|id| StoreRequest::Read { id, group, freshness, reads }).await {
            Some(StoreResponse::Reads { result, .. }) => result,
            Some(other) => panic!("{other:?}"),
            None => Err(gone()),
        }
    }

    pub async fn renew(&self, leases: Vec<(GroupId, LeaseId)>) -> Vec<Renewal> {
        match self.call(|id| StoreRequest::Renew { id, leases }).await {
            Some(StoreResponse::Renewed { results, .. }) => results,
            other => panic!("{other:?}"),
        }
    }

    pub async fn watch(&self) {
        self.packets.send(Packet { frames: vec![codec::encode_bytes(&StoreRequest::Watch)] }).await.unwrap();
    }
}

fn gone() -> StoreRefusal {
    StoreRefusal::Refused(Refusal::new(seriatim_proto::error::ErrorCode::Unavailable, "the stream ended"))
}

/// A holder of one slot, by hand.
pub struct Holder {
    pub group: GroupId,
    pub slot: SlotId,
    pub lease: LeaseId,
    pub epoch: Epoch,
    pub n: u64,
}

pub const TENANT: TenantId = TenantId(7);

pub fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

pub fn direct(one: &str, other: &str) -> ConversationId {
    ConversationId::direct(user(one), user(other))
}

/// The group that owns a slot, with slots split evenly.
pub fn group_of(slot: SlotId, groups: u32) -> GroupId {
    GroupId((u32::from(slot.0) * groups) / u32::from(limits::SLOTS) + 1)
}

impl Holder {
    /// Opens a lease in the slot's group and claims the slot.
    pub async fn claim(cluster: &Cluster, slot: SlotId, groups: u32) -> Self {
        let group = group_of(slot, groups);
        let outcomes = cluster.propose(group, &[Command::OpenLease { node: NodeId(1) }]).await;
        let [Outcome::Leased(lease)] = outcomes[..] else { panic!("{outcomes:?}") };
        let seen = match cluster.read(group, Read::Holder(slot)).await {
            ReadOutcome::Holder(row) => row.epoch,
            other => panic!("{other:?}"),
        };
        let outcomes = cluster.propose(group, &[Command::Claim { slot, lease, seen }]).await;
        let [Outcome::Claimed { epoch }] = outcomes[..] else { panic!("{outcomes:?}") };
        Self { group, slot, lease, epoch, n: 0 }
    }

    /// The next message of `sender`, as a command.
    pub fn message(&mut self, conversation: &ConversationId, sender: &str, id: u64, body: &[u8]) -> Command {
        let mut message_id = [0; 16];
        message_id[8..].copy_from_slice(&id.to_be_bytes());
        let fence = Fence { slot: self.slot, epoch: self.epoch, n: self.n };
        self.n += 1;
        Command::Held {
            fence,
            op: HolderOp::Append(Append {
                tenant: TENANT,
                conversation: conversation.clone(),
                sender: user(sender),
                message_id: MessageId(message_id),
                known: None,
                follows: None,
                content: Content::Message {
                    salt: bytes::Bytes::from_static(b"salt"),
                    body: bytes::Bytes::copy_from_slice(body),
                },
                place: Place::Open { segment: 0 },
                at_ms: 1_700_000_000_000,
                local: Vec::new(),
                delivered: None,
            }),
        }
    }
}
