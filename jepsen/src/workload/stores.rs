//! Stores: what a logic node says to stores, said by the harness: frames over their gRPC, with nothing between.
//!
//! A call is one try: it goes to whoever leads the group, as far as that is known, and asks the others if not. Whether
//! it is tried again is for the caller, who knows what a second time would mean.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use parking_lot::Mutex;
use seriatim_mtls::Mtls;
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::codec;
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::error::Certainty;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::ids::{GroupId, LeaseId};
use seriatim_proto::limits::INTERNAL_FRAME_BYTES_MAX;
use seriatim_proto::store::{Freshness, Read, ReadOutcome, Renewal, StoreRefusal, StoreRequest, StoreResponse};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// Longest wait for a stream.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// Longest wait for an answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);
/// Requests that wait to be sent to one store.
const QUEUE: usize = 256;

/// Why there is no outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Doubt {
    /// surely nothing happened
    Nothing,
    /// it may have happened, or may still
    Unknown,
}

/// All stores of a cluster.
#[derive(Debug)]
pub(crate) struct Stores {
    lines: Vec<Line>,
    ids: AtomicU64,
    /// place of the store that led a group when it last answered
    leaders: Mutex<BTreeMap<GroupId, usize>>,
}

#[derive(Debug)]
struct Line {
    address: SocketAddr,
    links: Mtls,
    stream: tokio::sync::Mutex<Option<Arc<Stream>>>,
}

#[derive(Debug)]
struct Stream {
    queue: mpsc::Sender<Packet>,
    waiting: Mutex<BTreeMap<u64, oneshot::Sender<StoreResponse>>>,
}

impl Stores {
    pub(crate) fn new(addresses: &[SocketAddr], links: &Mtls) -> Stores {
        let line = |address: &SocketAddr| Line {
            address: *address,
            links: links.clone(),
            stream: tokio::sync::Mutex::default(),
        };
        Stores { lines: addresses.iter().map(line).collect(), ids: AtomicU64::new(1), leaders: Mutex::default() }
    }

    /// Has commands applied, all in one entry.
    pub(crate) async fn propose(&self, group: GroupId, commands: &[Command]) -> Result<Vec<Outcome>, Doubt> {
        let count = u32::try_from(commands.len()).map_err(|_| Doubt::Nothing)?;
        let batch = codec::encode_bytes(&commands);
        self.at_leader(
            group,
            |id| StoreRequest::Propose { id, group, count, batch: batch.clone() },
            |response| match response {
                StoreResponse::Proposed { result, .. } => Some(result),
                _ => None,
            },
        )
        .await
    }

    /// Has one command applied.
    pub(crate) async fn propose_one(&self, group: GroupId, command: &Command) -> Result<Outcome, Doubt> {
        let outcomes = self.propose(group, std::slice::from_ref(command)).await?;
        outcomes.into_iter().next().ok_or(Doubt::Unknown)
    }

    /// Reads linearizably, all at one applied index.
    pub(crate) async fn read(&self, group: GroupId, reads: &[Read]) -> Result<Vec<ReadOutcome>, Doubt> {
        self.at_leader(
            group,
            |id| StoreRequest::Read { id, group, freshness: Freshness::Linearizable, reads: reads.to_vec() },
            |response| match response {
                StoreResponse::Reads { result, .. } => Some(result),
                _ => None,
            },
        )
        .await
    }

    /// Renews a lease. False: it is gone.
    pub(crate) async fn renew(&self, group: GroupId, lease: LeaseId) -> Result<bool, Doubt> {
        self.at_leader(
            group,
            |id| StoreRequest::Renew { id, leases: vec![(group, lease)] },
            |response| match response {
                StoreResponse::Renewed { results, .. } => Some(match results.first()? {
                    Renewal::Renewed => Ok(true),
                    Renewal::Gone => Ok(false),
                    // Nothing was noted, whoever is asked next.
                    Renewal::NotLeader { .. } | Renewal::Unavailable => Err(StoreRefusal::NotLeader { leader: None }),
                }),
                _ => None,
            },
        )
        .await
    }

    async fn at_leader<T>(
        &self,
        group: GroupId,
        request: impl Fn(u64) -> StoreRequest,
        answer: impl Fn(StoreResponse) -> Option<Result<T, StoreRefusal>>,
    ) -> Result<T, Doubt> {
        let first = self.leaders.lock().get(&group).copied().unwrap_or_default();
        for step in 0..self.lines.len() {
            let place = (first + step) % self.lines.len();
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            // Without a stream nothing was sent.
            let Ok(stream) = self.lines[place].stream().await else { continue };
            match stream.ask(id, request(id)).await.and_then(&answer) {
                Some(Ok(result)) => {
                    self.leaders.lock().insert(group, place);
                    return Ok(result);
                }
                Some(Err(StoreRefusal::NotLeader { .. })) => {}
                Some(Err(StoreRefusal::Refused(refusal))) if refusal.code.certainty() == Certainty::DidNotHappen => {}
                Some(Err(StoreRefusal::Refused(_))) => return Err(Doubt::Unknown),
                None => {
                    self.lines[place].drop_stream(&stream).await;
                    // The next one may lead meanwhile.
                    self.leaders.lock().insert(group, place + 1);
                    return Err(Doubt::Unknown);
                }
            }
        }
        Err(Doubt::Nothing)
    }
}

impl Line {
    async fn stream(&self) -> anyhow::Result<Arc<Stream>> {
        let mut stream = self.stream.lock().await;
        if let Some(open) = stream.as_ref().filter(|open| !open.queue.is_closed()) {
            return Ok(Arc::clone(open));
        }
        let opened = tokio::time::timeout(CONNECT_PATIENCE, open(self.address, &self.links))
            .await
            .context("connect in time")??;
        *stream = Some(Arc::clone(&opened));
        Ok(opened)
    }

    async fn drop_stream(&self, gone: &Arc<Stream>) {
        let mut stream = self.stream.lock().await;
        if stream.as_ref().is_some_and(|open| Arc::ptr_eq(open, gone)) {
            *stream = None;
        }
    }
}

impl Stream {
    /// Sends it and waits; `None`: no answer came.
    async fn ask(&self, id: u64, request: StoreRequest) -> Option<StoreResponse> {
        let (answer, answered) = oneshot::channel();
        self.waiting.lock().insert(id, answer);
        let packet = Packet { frames: vec![codec::encode_bytes(&request)] };
        let asked = async {
            self.queue.send(packet).await.ok()?;
            answered.await.ok()
        };
        let response = tokio::time::timeout(ANSWER_PATIENCE, asked).await.ok().flatten();
        self.waiting.lock().remove(&id);
        response
    }

    fn answer(&self, response: StoreResponse) {
        let id = match &response {
            StoreResponse::Proposed { id, .. }
            | StoreResponse::Reads { id, .. }
            | StoreResponse::Renewed { id, .. } => *id,
            StoreResponse::Welcome { .. } | StoreResponse::Event(_) => return,
        };
        if let Some(waiting) = self.waiting.lock().remove(&id) {
            // Whoever asked may have gone.
            drop(waiting.send(response));
        }
    }
}

/// Opens a stream; it ends when the store goes, or when nobody holds it any more.
async fn open(address: SocketAddr, links: &Mtls) -> anyhow::Result<Arc<Stream>> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).context("make an address")?;
    let channel = links.connect(&endpoint.tcp_nodelay(true), NodeRole::Store).await.context("connect")?;
    let mut client = StoreClient::new(channel)
        .max_decoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize)
        .max_encoding_message_size(INTERNAL_FRAME_BYTES_MAX as usize);
    let (queue, packets) = mpsc::channel(QUEUE);
    let hello = Packet { frames: vec![codec::encode_bytes(&StoreRequest::Hello { cluster: None })] };
    queue.try_send(hello).context("say hello")?;
    let mut answers = client.channel(ReceiverStream::new(packets)).await.context("open a stream")?.into_inner();
    let welcome = answers.message().await.context("hear the welcome")?.context("hear the welcome: the stream ended")?;
    let welcome = welcome.frames.first().context("hear the welcome: it is empty")?;
    match codec::decode(welcome).context("understand the welcome")? {
        StoreResponse::Welcome { result: Ok(_) } => {}
        other => bail!("the store at {address} does not welcome anybody: {other:?}"),
    }
    let stream = Arc::new(Stream { queue, waiting: Mutex::default() });
    let weak = Arc::downgrade(&stream);
    tokio::spawn(async move {
        while let Ok(Some(packet)) = answers.message().await {
            let Some(stream) = weak.upgrade() else { return };
            for frame in packet.frames {
                // What cannot be understood answers nobody, and whoever waits gives up.
                let _ = codec::decode(&frame).map(|response| stream.answer(response));
            }
        }
        if let Some(stream) = weak.upgrade() {
            // Nobody is answered any more.
            stream.waiting.lock().clear();
        }
    });
    Ok(stream)
}
