//! Store client: one gRPC stream per store, kept up; answers go to the node's task or to the read that waits.
//!
//! Request ids with the high bit belong to [`StoreClient::read`]; all others to the node's task.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use seriatim_mtls::Mtls;
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::store_client::StoreClient as Grpc;
use seriatim_proto::ids::{ClusterId, GroupId, StoreId};
use seriatim_proto::store::{Freshness, Read, ReadOutcome, StoreEvent, StoreRefusal, StoreRequest, StoreResponse};
use seriatim_proto::{codec, limits};
use tokio::sync::{mpsc, oneshot};

use crate::brain::Input;
use crate::metrics::Metrics;
use crate::packets::{Packets, Requests};
use crate::topology::{Link, Topology};

const READ_ID: u64 = 1 << 63;
const LINK_QUEUE: usize = 16_384;

type ReadAnswer = Result<Vec<ReadOutcome>, StoreRefusal>;

/// The data layer of a logic node.
#[derive(Debug)]
pub(crate) struct StoreClient {
    pub(crate) topology: Topology,
    pub(crate) metrics: Metrics,
    pub(crate) mtls: Mtls,
    next_id: AtomicU64,
    next_connection: AtomicU64,
    /// reads that wait, with their connection
    waiting: Mutex<HashMap<u64, (u64, oneshot::Sender<ReadAnswer>)>>,
    known: Mutex<BTreeSet<String>>,
    brain: mpsc::Sender<Input>,
}

impl StoreClient {
    pub(crate) fn new(brain: mpsc::Sender<Input>, metrics: Metrics, mtls: Mtls) -> Arc<Self> {
        Arc::new(Self {
            topology: Topology::default(),
            metrics,
            mtls,
            next_id: AtomicU64::new(1),
            next_connection: AtomicU64::new(1),
            waiting: Mutex::new(HashMap::new()),
            known: Mutex::new(BTreeSet::new()),
            brain,
        })
    }

    /// Keeps a stream to each of these stores from now on.
    pub(crate) fn connect(self: &Arc<Self>, addresses: impl IntoIterator<Item = String>) {
        for address in addresses {
            if self.known.lock().insert(address.clone()) {
                let client = self.clone();
                tokio::spawn(async move { client.keep(address).await });
            }
        }
    }

    /// Reads from a group's leader, linearizably; follows the leader within the request timeout.
    pub(crate) async fn read(&self, group: GroupId, reads: Vec<Read>) -> Result<Vec<ReadOutcome>, Refusal> {
        let asked = async {
            loop {
                match self.read_once(group, reads.clone()).await {
                    Ok(outcomes) => return Ok(outcomes),
                    Err(StoreRefusal::Refused(refusal))
                        if refusal.code.retry() == seriatim_proto::error::Retry::Never =>
                    {
                        return Err(refusal);
                    }
                    Err(_) => tokio::time::sleep(RETRY_INTERVAL).await,
                }
            }
        };
        let timeout = Duration::from_millis(limits::REQUEST_TIMEOUT_MS);
        tokio::time::timeout(timeout, asked)
            .await
            .unwrap_or_else(|_| Err(Refusal::new(ErrorCode::Unavailable, "no store answered the read in time")))
    }

    async fn read_once(&self, group: GroupId, reads: Vec<Read>) -> ReadAnswer {
        let unavailable =
            || StoreRefusal::Refused(Refusal::new(ErrorCode::Unavailable, "no store of the group is reachable"));
        let (store, link) = self.topology.leader_link(group).ok_or_else(unavailable)?;
        let id = READ_ID | self.next_id.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        self.waiting.lock().insert(id, (link.connection, tx));
        self.metrics.reads.inc();
        let request = StoreRequest::Read { id, group, freshness: Freshness::Linearizable, reads };
        if link.queue.try_send(request).is_err() {
            self.waiting.lock().remove(&id);
            return Err(StoreRefusal::Refused(Refusal::later(ErrorCode::Busy, "the store's queue is full", 20)));
        }
        let answer = match tokio::time::timeout(READ_TIMEOUT, rx).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(unavailable())),
            Err(_) => {
                self.waiting.lock().remove(&id);
                Err(unavailable())
            }
        };
        if let Err(StoreRefusal::NotLeader { leader }) = &answer {
            self.topology.set_leader(group, *leader, Some(store));
        }
        answer
    }

    async fn keep(self: Arc<Self>, address: String) {
        let mut backoff = Duration::from_millis(20);
        loop {
            let connection = self.next_connection.fetch_add(1, Ordering::Relaxed);
            match self.session(&address, connection).await {
                Ok(()) => backoff = Duration::from_millis(20),
                Err(error) => {
                    tracing::debug!(%address, %error, "store link failed");
                    backoff = (backoff * 2).min(Duration::from_millis(500));
                }
            }
            self.topology.drop_link(&address, connection);
            let lost: Vec<u64> =
                self.waiting.lock().iter().filter(|(_, (by, _))| *by == connection).map(|(id, _)| *id).collect();
            for id in lost {
                self.waiting.lock().remove(&id);
            }
            if self.brain.send(Input::StoreDown { connection }).await.is_err() {
                return;
            }
            tokio::time::sleep(backoff).await;
        }
    }

    async fn session(&self, address: &str, connection: u64) -> Result<(), Refusal> {
        let unavailable = |error: String| Refusal::new(ErrorCode::Unavailable, error);
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| unavailable(error.to_string()))?
            .connect_timeout(Duration::from_secs(1))
            .tcp_nodelay(true)
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keep_alive_interval(Duration::from_secs(1))
            .keep_alive_timeout(Duration::from_secs(2));
        let connected = self.mtls.connect(&endpoint, NodeRole::Store).await;
        let channel = connected.map_err(|error| unavailable(seriatim_mtls::dial::why(&error)))?;
        let mut client = Grpc::new(channel)
            .max_decoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize)
            .max_encoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize);
        let (queue, requests) = Packets::channel(LINK_QUEUE);
        let cluster: Option<ClusterId> = self.topology.directory().map(|directory| directory.cluster);
        for request in [StoreRequest::Hello { cluster }, StoreRequest::Watch] {
            queue.send(request).await.map_err(|_| unavailable("the queue closed".to_owned()))?;
        }
        let answers = client.channel(Requests(requests)).await;
        let mut answers = answers.map_err(|status| unavailable(status.to_string()))?.into_inner();
        let mut store = None;
        while let Some(packet) = answers.message().await.map_err(|status| unavailable(status.to_string()))? {
            for frame in packet.frames {
                let response = codec::decode(&frame).map_err(|error| unavailable(error.to_string()))?;
                match response {
                    StoreResponse::Welcome { result } => {
                        if let Err(refusal) = &result {
                            tracing::warn!(%address, %refusal, "a store refuses this node");
                        }
                        store = result?.store;
                        if store.is_none() {
                            // It says Hello again later: then it may know who it is.
                            return Err(unavailable("the store belongs to no cluster yet".to_owned()));
                        }
                        self.topology.set_link(address, Link { queue: queue.clone(), connection });
                    }
                    StoreResponse::Reads { id, result } if id & READ_ID != 0 => {
                        let waiter = self.waiting.lock().remove(&id);
                        if let Some((_, waiter)) = waiter {
                            // Who asked may have gone: then nobody misses the answer.
                            waiter.send(result).ok();
                        }
                    }
                    StoreResponse::Event(event) => self.event(event, store).await,
                    response => self.to_brain(Input::Store(response)).await,
                }
            }
        }
        Ok(())
    }

    async fn event(&self, event: StoreEvent, store: Option<StoreId>) {
        match event {
            StoreEvent::Leader { group, leader } => {
                self.topology.set_leader(group, leader, store);
                if let Some(leader) = leader.filter(|leader| Some(*leader) == store) {
                    self.to_brain(Input::Leads { group, store: leader }).await;
                }
            }
            StoreEvent::Directory(directory) => {
                if self.topology.set_directory(directory) {
                    self.to_brain(Input::Directory).await;
                }
            }
            StoreEvent::Holders { group: _, rows } => self.to_brain(Input::Holders(rows)).await,
        }
    }

    async fn to_brain(&self, input: Input) {
        // The node's task ends only with the process.
        self.brain.send(input).await.ok();
    }
}

const RETRY_INTERVAL: Duration = Duration::from_millis(30);
const READ_TIMEOUT: Duration = Duration::from_millis(limits::STORE_TIMEOUT_MS);
