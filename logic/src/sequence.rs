//! Sequence: the sequence service over gRPC. Any node takes a request; it goes to the counter's holder, at most one
//! hop away.
//!
//! Requests for counters of this node go to the brain on a stream of this module's own, as a gateway's do.

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
use seriatim_proto::grpc::sequence::{CurrentRequest, CurrentResponse, NextRequest, NextResponse};
use seriatim_proto::ids::{CounterName, NodeId, TenantId};
use seriatim_proto::limits;
use seriatim_proto::logic::{CallError, GatewayResponse, Reply};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

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
/// Requests that this door works on, wherever they wait.
const REQUESTS_MAX: usize = 16_384;
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
}

/// What waits for the brain, and what it told of the others.
struct Desk {
    permits: Semaphore,
    state: Mutex<DeskState>,
    next_id: AtomicU64,
    peers: Mutex<HashMap<String, Channel>>,
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
    pub(crate) fn start(doors: Doors) -> Self {
        let desk = Desk {
            permits: Semaphore::new(REQUESTS_MAX),
            state: Mutex::default(),
            next_id: AtomicU64::new(1),
            peers: Mutex::default(),
            mtls: doors.stores.mtls.clone(),
        };
        let door = Self { doors, desk: Arc::new(desk) };
        tokio::spawn(door.clone().keep_stream());
        door
    }

    /// Keeps a stream at the brain for as long as there is one.
    async fn keep_stream(self) {
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
        let admitted = self.admit(metadata, counter).await;
        let (token, tenant, counter) = admitted.map_err(|refusal| self.refuse(refusal))?;
        let busy = || self.refuse(Refusal::later(ErrorCode::Busy, "too many requests wait at this node", 50));
        let _permit = self.desk.permits.try_acquire().map_err(|_| busy())?;
        let deadline = Instant::now() + DEADLINE;
        let mut pause = PAUSE_MIN;
        loop {
            let attempt = deadline.min(Instant::now() + ATTEMPT);
            let error = match self.ask_here(tenant, &counter, what, attempt).await {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let (refusal, holder) = match error {
                CallError::Refused(refusal) if matches!(refusal.code, ErrorCode::Unavailable | ErrorCode::Timeout) => {
                    (refusal, None)
                }
                CallError::Refused(refusal) => return Err(self.refuse(refusal)),
                CallError::NotHolder { slot, row } => {
                    let text = format!("this node does not hold slot {slot}");
                    let ours = self.doors.standing.borrow().map(|standing| standing.node);
                    let holder = row.and_then(|row| row.holder).filter(|holder| Some(*holder) != ours);
                    let address = holder.and_then(|node| self.desk.state.lock().nodes.get(&node).cloned());
                    (Refusal::later(ErrorCode::NotHolder, text, limits::CLAIM_STEP_MS as u32), address)
                }
            };
            if metadata.contains_key(HOP) {
                return Err(self.refuse(refusal));
            }
            if let Some(address) = holder
                && let Some(answered) =
                    self.ask_there(address, &token, &counter, what, deadline.min(Instant::now() + ATTEMPT)).await
            {
                return answered;
            }
            // Between two holders there is none: the table will name one.
            if Instant::now() + pause >= deadline {
                return Err(self.refuse(Refusal::new(ErrorCode::Unavailable, "the counter has no holder for now")));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Who asks, for which counter, and whether he may.
    async fn admit(&self, metadata: &MetadataMap, counter: &str) -> Result<(String, TenantId, CounterName), Refusal> {
        let failed = |text: &str| Refusal::new(ErrorCode::AuthFailed, text);
        let bearer = metadata.get("authorization").and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|bearer| bearer.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| failed("no token: `authorization: Bearer` is missing"))?;
        let verified = self.doors.verify(token).await?;
        if !verified.scopes.sequence {
            return Err(Refusal::new(ErrorCode::Forbidden, "the token's scopes do not name the sequence service"));
        }
        let counter = CounterName::new(counter)
            .map_err(|error| Refusal::new(ErrorCode::Malformed, format!("the counter: {error}")))?;
        self.doors.within_quota(verified.tenant, &verified.user, Ask::Sequence)?;
        Ok((token.to_owned(), verified.tenant, counter))
    }

    async fn ask_here(&self, tenant: TenantId, counter: &CounterName, what: Counting, deadline: Instant) -> Result_ {
        let unavailable = || CallError::Refused(Refusal::later(ErrorCode::Unavailable, "the node is not open", 100));
        let (answer, answered) = oneshot::channel();
        let id = self.desk.next_id.fetch_add(1, Ordering::Relaxed);
        let stream = {
            let mut state = self.desk.state.lock();
            let Some(stream) = state.stream else { return Err(unavailable()) };
            state.waiting.insert(id, answer);
            stream
        };
        let asked = Asked { desk: &self.desk, id };
        let inputs = vec![SessionInput::Count { id, tenant, counter: counter.clone(), what }];
        let result = tokio::time::timeout_at(deadline, async {
            match self.doors.brain.send(Input::Sessions { stream, inputs }).await {
                Ok(()) => answered.await,
                Err(_) => Ok(Err(unavailable())),
            }
        })
        .await;
        drop(asked);
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
        token: &str,
        counter: &CounterName,
        what: Counting,
        deadline: Instant,
    ) -> Option<Result<Reply, Status>> {
        let mut client = SequenceServiceClient::new(self.desk.peer(&address)?);
        let counter = counter.as_str().to_owned();
        let answered = async {
            match what {
                Counting::Next(count) => {
                    let request = hop(NextRequest { counter, count }, token)?;
                    client.next(request).await.map(|answer| reply_of(answer.into_inner().first, count))
                }
                Counting::Current => {
                    let request = hop(CurrentRequest { counter }, token)?;
                    client.current(request).await.map(|answer| reply_of(answer.into_inner().number, 0))
                }
            }
        };
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(Some(reply))) => Some(Ok(reply)),
            Ok(Ok(None)) => Some(Err(Status::internal("the holder answered with no number"))),
            // Numbers may be lost, none is given twice: asking another one is safe.
            Ok(Err(status)) => match status.metadata().get(CODE).map(|code| code.as_bytes()) {
                Some(b"NOT_HOLDER" | b"UNAVAILABLE" | b"TIMEOUT") | None => None,
                Some(_) => Some(Err(status)),
            },
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
struct Asked<'a> {
    desk: &'a Desk,
    id: u64,
}

impl Drop for Asked<'_> {
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
                    self.peers.lock().retain(|address, _| nodes.iter().any(|(_, known)| known == address));
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

    fn peer(&self, address: &str) -> Option<Channel> {
        let mut peers = self.peers.lock();
        if let Some(channel) = peers.get(address) {
            return Some(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?.connect_timeout(CONNECT_TIMEOUT);
        let channel = self.mtls.connect_lazy(&endpoint, NodeRole::Logic);
        peers.insert(address.to_owned(), channel.clone());
        Some(channel)
    }
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

#[tonic::async_trait]
impl SequenceService for SequenceDoor {
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
