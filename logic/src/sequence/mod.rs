//! Sequence: the sequence service over gRPC. Any node takes a request; it goes to the counter's holder, at most one
//! hop away.
//!
//! Single requests for counters of this node go to the brain on a stream of this module's own, as a gateway's do; each
//! caller's stream of calls ([`calls`]) has one for itself.

mod calls;
mod group;

/// Of a message of a stream.
pub(crate) use calls::MESSAGE_BYTES_MAX;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use seriatim_logic_core::Ask;
use seriatim_mtls::Mtls;
use seriatim_proto::certificate::NodeRole;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::sequence::sequence_service_client::SequenceServiceClient;
use seriatim_proto::grpc::sequence::sequence_service_server::SequenceService;
use seriatim_proto::grpc::sequence::{CallsRequest, CurrentRequest, CurrentResponse, NextRequest, NextResponse};
use seriatim_proto::ids::{CounterName, NodeId, TenantId};
use seriatim_proto::limits;
use seriatim_proto::logic::{CallError, GatewayResponse, Reply};
use seriatim_proto::token::Verified;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::brain::{Counting, Input, SessionInput};
use crate::service::Doors;

/// Where a request was first taken by another node: it is answered here or refused, and goes no further.
const HOP: &str = "seriatim-hop";
/// The name of a refusal's code.
const CODE: &str = "seriatim-code";
/// When to come again.
const RETRY_AFTER: &str = "seriatim-retry-after-ms";
/// Answers that wait for the module's task.
const ANSWERS_MAX: usize = 65_536;
/// Single requests that this door works on, wherever they wait.
const REQUESTS_MAX: usize = 16_384;
/// Requests of streams that are at other nodes; the others wait. They have connections of their own, which carry 200 at
/// a time.
const HOPS_MAX: usize = 128;
/// Pauses before a request whose counter has no holder is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(320);
/// A holder that is silent for this long has lost its lease, or will.
const ATTEMPT: Duration = Duration::from_millis(limits::LEASE_GRANT_MS);
const DEADLINE: Duration = Duration::from_millis(limits::REQUEST_TIMEOUT_MS);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

type Result_ = Result<Reply, CallError>;

/// The service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct SequenceDoor {
    doors: Doors,
    desk: Arc<Desk>,
    streams: calls::Streams,
}

/// One request.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// goes along to another node, which verifies it again
    token: &'a str,
    tenant: TenantId,
    counter: &'a CounterName,
    what: Counting,
}

/// How a request came here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// as a call of its own
    Single,
    /// as such, from another node that took it first
    Hop,
    /// on a stream
    Stream,
}

/// What waits for the brain, and what it told of the others.
struct Desk {
    permits: Semaphore,
    /// of streams, at other nodes
    hops: Semaphore,
    state: Mutex<DeskState>,
    next_id: AtomicU64,
    /// by address; those of streams apart, so that nobody waits behind them
    peers: Mutex<HashMap<(String, bool), Channel>>,
    mtls: Mtls,
}

#[derive(Default)]
struct DeskState {
    /// at the brain; `None` while the node is not open
    stream: Option<u64>,
    waiting: HashMap<u64, oneshot::Sender<Result_>>,
    nodes: HashMap<NodeId, String>,
}

impl SequenceDoor {
    /// The service and its task, which ends with the brain.
    /// Streams end when `stopping` says true.
    pub(crate) fn start(doors: Doors, stopping: watch::Receiver<bool>) -> Self {
        let desk = Desk {
            permits: Semaphore::new(REQUESTS_MAX),
            hops: Semaphore::new(HOPS_MAX),
            state: Mutex::default(),
            next_id: AtomicU64::new(1),
            peers: Mutex::default(),
            mtls: doors.stores.mtls.clone(),
        };
        let streams = calls::Streams::new(doors.stores.metrics.clone(), stopping);
        let door = Self { doors, desk: Arc::new(desk), streams };
        tokio::spawn(door.clone().keep_stream());
        door
    }

    /// Keeps a stream at the brain for as long as there is one.
    async fn keep_stream(self) {
        self.keep_streams().await;
        self.desk.close();
    }

    async fn keep_streams(&self) {
        let mut standing = self.doors.standing.clone();
        loop {
            if standing.wait_for(Option::is_some).await.is_err() {
                return;
            }
            standing.mark_unchanged();
            let stream = self.doors.next_stream.fetch_add(1, Ordering::Relaxed);
            let (responses, mut answers) = mpsc::channel(ANSWERS_MAX);
            if self.doors.brain.send(Input::GatewayUp { stream, responses }).await.is_err() {
                return;
            }
            self.desk.state.lock().stream = Some(stream);
            loop {
                tokio::select! {
                    answer = answers.recv() => match answer {
                        Some(answer) => self.desk.take(answer),
                        None => break,
                    },
                    changed = standing.changed() => {
                        if changed.is_err() {
                            return;
                        }
                        break;
                    }
                }
            }
            self.desk.close();
            if self.doors.brain.send(Input::GatewayDown { stream }).await.is_err() {
                return;
            }
        }
    }

    /// Answers here, or at the holder.
    async fn ask(&self, metadata: &MetadataMap, counter: &str, what: Counting) -> Result<Reply, Status> {
        let answered = async {
            let (token, tenant, counter) = self.admit(metadata, counter).await?;
            let _permit = self.desk.permits.try_acquire().map_err(|_| busy())?;
            let asked = Asked { token: &token, tenant, counter: &counter, what };
            let way = if metadata.contains_key(HOP) { Way::Hop } else { Way::Single };
            self.answer(asked, None, Instant::now() + DEADLINE, way).await
        };
        answered.await.map_err(|refusal| self.refuse(refusal))
    }

    /// Answers what was admitted. `told`: the brain was asked, and said this.
    async fn answer(
        &self,
        asked: Asked<'_>,
        mut told: Option<CallError>,
        deadline: Instant,
        way: Way,
    ) -> Result<Reply, Refusal> {
        let mut pause = PAUSE_MIN;
        loop {
            let attempt = deadline.min(Instant::now() + ATTEMPT);
            let error = match told.take() {
                Some(error) => error,
                None => match self.ask_here(asked, attempt).await {
                    Ok(reply) => return Ok(reply),
                    Err(error) => error,
                },
            };
            let (refusal, holder) = match error {
                CallError::Refused(refusal) if matches!(refusal.code, ErrorCode::Unavailable | ErrorCode::Timeout) => {
                    (refusal, None)
                }
                CallError::Refused(refusal) => return Err(refusal),
                CallError::NotHolder { slot, row } => {
                    let text = format!("this node does not hold slot {slot}");
                    let ours = self.doors.standing.borrow().map(|standing| standing.node);
                    let holder = row.and_then(|row| row.holder).filter(|holder| Some(*holder) != ours);
                    let address = holder.and_then(|node| self.desk.state.lock().nodes.get(&node).cloned());
                    (Refusal::later(ErrorCode::NotHolder, text, limits::CLAIM_STEP_MS as u32), address)
                }
            };
            if way == Way::Hop {
                return Err(refusal);
            }
            if let Some(address) = holder
                && let Some(answered) = self.ask_there(address, asked, deadline, way).await
            {
                return answered;
            }
            // Between two holders there is none: the table will name one.
            if Instant::now() + pause >= deadline {
                return Err(Refusal::new(ErrorCode::Unavailable, "the counter has no holder for now"));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Who asks, for which counter, and whether he may.
    async fn admit(&self, metadata: &MetadataMap, counter: &str) -> Result<(String, TenantId, CounterName), Refusal> {
        let (token, verified) = self.caller(metadata).await?;
        let counter = named(counter)?;
        self.doors.within_quota(verified.tenant, &verified.user, Ask::Sequence)?;
        Ok((token, verified.tenant, counter))
    }

    /// Who asks, with his token, if he may ask for numbers at all.
    async fn caller(&self, metadata: &MetadataMap) -> Result<(String, Verified), Refusal> {
        let failed = |text: &str| Refusal::new(ErrorCode::AuthFailed, text);
        let bearer = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|bearer| bearer.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| failed("no token: `authorization: Bearer` is missing"))?;
        let verified = self.doors.verify(token).await?;
        if !verified.scopes.sequence {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token's scopes do not name the sequence service"));
        }
        Ok((token.to_owned(), verified))
    }

    async fn ask_here(&self, asked: Asked<'_>, deadline: Instant) -> Result_ {
        let unavailable = || CallError::Refused(Refusal::later(ErrorCode::Unavailable, "the node is not open", 100));
        let (answer, answered) = oneshot::channel();
        let id = self.desk.next_id.fetch_add(1, Ordering::Relaxed);
        let stream = {
            let mut state = self.desk.state.lock();
            let Some(stream) = state.stream else { return Err(unavailable()) };
            state.waiting.insert(id, answer);
            stream
        };
        let waiting = Waiting { desk: &self.desk, id };
        let Asked { tenant, counter, what, .. } = asked;
        let inputs = vec![SessionInput::Count { id, tenant, counter: counter.clone(), what }];
        let result = tokio::time::timeout_at(deadline, async {
            match self.doors.brain.send(Input::Sessions { stream, inputs }).await {
                Ok(()) => answered.await,
                Err(_) => Ok(Err(unavailable())),
            }
        })
        .await;
        drop(waiting);
        match result {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(unavailable()),
            Err(_) => Err(CallError::Refused(Refusal::new(ErrorCode::Timeout, "no answer in time"))),
        }
    }

    /// `None`: that node could not be asked, does not answer, or does not hold the slot either.
    async fn ask_there(
        &self,
        address: String,
        asked: Asked<'_>,
        deadline: Instant,
        way: Way,
    ) -> Option<Result<Reply, Refusal>> {
        let _turn = match way {
            Way::Stream => Some(tokio::time::timeout_at(deadline, self.desk.hops.acquire()).await.ok()?.ok()?),
            Way::Single | Way::Hop => None,
        };
        let deadline = deadline.min(Instant::now() + ATTEMPT);
        let mut client = SequenceServiceClient::new(self.desk.peer(address, way == Way::Stream)?);
        let counter = asked.counter.as_str().to_owned();
        let answered = async {
            match asked.what {
                Counting::Next(count) => {
                    let request = hop(NextRequest { counter, count }, asked.token)?;
                    client.next(request).await.map(|answer| {
                        let answer = answer.into_inner();
                        reply_of(answer.first, count).filter(|_| answer.count == count)
                    })
                }
                Counting::Current => {
                    let request = hop(CurrentRequest { counter }, asked.token)?;
                    client.current(request).await.map(|answer| reply_of(answer.into_inner().number, 0))
                }
            }
        };
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(Some(reply))) => Some(Ok(reply)),
            Ok(Ok(None)) => Some(Err(Refusal::new(ErrorCode::Internal, "the holder answered something else"))),
            // Numbers may be lost, none is given twice: asking another one is safe.
            Ok(Err(status)) => refusal_of(&status).filter(|refusal| !is_passing(refusal.code)).map(Err),
            Err(_) => None,
        }
    }

    fn refuse(&self, refusal: Refusal) -> Status {
        let status = status_of(&refusal);
        self.doors.stores.metrics.refused(&CallError::Refused(refusal));
        status
    }
}

/// A request that waits; forgotten when nobody waits any more.
struct Waiting<'a> {
    desk: &'a Desk,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.desk.state.lock().waiting.remove(&self.id);
    }
}

impl Desk {
    fn take(&self, answer: GatewayResponse) {
        match answer {
            GatewayResponse::Reply { id, result } => {
                if let Some(waiting) = self.state.lock().waiting.remove(&id) {
                    // Who went away does not want to know.
                    let _ = waiting.send(result);
                }
            }
            GatewayResponse::Table(table) => {
                if let Some(nodes) = table.nodes {
                    self.peers.lock().retain(|(address, _), _| nodes.iter().any(|(_, known)| known == address));
                    self.state.lock().nodes = nodes.into_iter().collect();
                }
            }
            // No sessions, no pushes.
            _ => {}
        }
    }

    /// Who waits learns that nobody knows: his sender is gone.
    fn close(&self) {
        let mut state = self.state.lock();
        state.stream = None;
        state.waiting.clear();
    }

    fn peer(&self, address: String, of_streams: bool) -> Option<Channel> {
        let mut peers = self.peers.lock();
        let key = (address, of_streams);
        if let Some(channel) = peers.get(&key) {
            return Some(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{}", key.0)).ok()?.connect_timeout(CONNECT_TIMEOUT);
        let channel = self.mtls.connect_lazy(&endpoint, NodeRole::Logic);
        peers.insert(key, channel.clone());
        Some(channel)
    }
}

fn named(counter: &str) -> Result<CounterName, Refusal> {
    CounterName::new(counter).map_err(|error| Refusal::new(ErrorCode::Malformed, format!("the counter: {error}")))
}

fn reply_of(number: u64, count: u32) -> Option<Reply> {
    let first = seriatim_proto::ids::Seq::new(number)?;
    Some(if count > 0 { Reply::Numbers { first, count } } else { Reply::Current(first) })
}

fn hop<T>(message: T, token: &str) -> Result<Request<T>, Status> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {token}").parse().map_err(|_| Status::unauthenticated("the token is not text"))?;
    request.metadata_mut().insert("authorization", bearer);
    request.metadata_mut().insert(HOP, "1".parse().map_err(|_| Status::internal("metadata"))?);
    Ok(request)
}

/// A refusal as gRPC says it; the exact code goes along.
fn status_of(refusal: &Refusal) -> Status {
    let code = match refusal.code {
        ErrorCode::AuthFailed | ErrorCode::AuthExpired => Code::Unauthenticated,
        ErrorCode::Forbidden => Code::PermissionDenied,
        ErrorCode::Malformed | ErrorCode::CountTooLarge => Code::InvalidArgument,
        ErrorCode::Busy | ErrorCode::QuotaExceeded => Code::ResourceExhausted,
        ErrorCode::GenerationExhausted => Code::OutOfRange,
        ErrorCode::NotHolder => Code::FailedPrecondition,
        ErrorCode::Timeout => Code::DeadlineExceeded,
        ErrorCode::Unavailable | ErrorCode::ReadOnly | ErrorCode::Shutdown => Code::Unavailable,
        _ => Code::Internal,
    };
    let mut metadata = MetadataMap::new();
    metadata.insert(CODE, tonic::metadata::MetadataValue::from_static(refusal.code.name()));
    if refusal.retry_after_ms > 0 {
        metadata.insert(RETRY_AFTER, refusal.retry_after_ms.into());
    }
    Status::with_metadata(code, refusal.message.clone(), metadata)
}

/// What another node refused; `None` if it did not say so itself.
fn refusal_of(status: &Status) -> Option<Refusal> {
    let text = |name| status.metadata().get(name).and_then(|value| value.to_str().ok());
    let name = text(CODE)?;
    let code = ErrorCode::ALL.iter().copied().find(|code| code.name() == name).unwrap_or(ErrorCode::Internal);
    let retry_after_ms = text(RETRY_AFTER).and_then(|after| after.parse().ok()).unwrap_or(0);
    Some(Refusal { code, message: status.message().to_owned(), retry_after_ms })
}

/// Another node may answer, or the same one a little later.
fn is_passing(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NotHolder | ErrorCode::Unavailable | ErrorCode::Timeout)
}

fn busy() -> Refusal {
    Refusal::later(ErrorCode::Busy, "too many requests wait at this node", 50)
}

#[tonic::async_trait]
impl SequenceService for SequenceDoor {
    type CallsStream = calls::Answers;

    async fn calls(&self, request: Request<Streaming<CallsRequest>>) -> Result<Response<calls::Answers>, Status> {
        let (metadata, _, requests) = request.into_parts();
        let (token, verified) = self.caller(&metadata).await.map_err(|refusal| self.refuse(refusal))?;
        let answers = calls::serve(self.clone(), token, verified, requests).map_err(|refusal| self.refuse(refusal))?;
        Ok(Response::new(answers))
    }

    async fn next(&self, request: Request<NextRequest>) -> Result<Response<NextResponse>, Status> {
        let (metadata, _, asked) = request.into_parts();
        match self.ask(&metadata, &asked.counter, Counting::Next(asked.count.max(1))).await? {
            Reply::Numbers { first, count } => Ok(Response::new(NextResponse { first: first.get(), count })),
            _ => Err(Status::internal("an answer to something else")),
        }
    }

    async fn current(&self, request: Request<CurrentRequest>) -> Result<Response<CurrentResponse>, Status> {
        let (metadata, _, asked) = request.into_parts();
        match self.ask(&metadata, &asked.counter, Counting::Current).await? {
            Reply::Current(number) => Ok(Response::new(CurrentResponse { number: number.get() })),
            _ => Err(Status::internal("an answer to something else")),
        }
    }
}
