//! Service: the gRPC doors of a logic node: `Logic` for gateways, `Peer` for other logic nodes.
//!
//! One task per stream reads and checks frames; holders' work goes to the brain, reads are answered beside it.
//! Tokens and client certificates are verified here again, and their end at every call.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use seriatim_logic_core::{Ask, Cancel, Over, Quotas, Send};
use seriatim_proto::certificate::{CertificateError, ClientCa};
use seriatim_proto::codec;
use seriatim_proto::command::{Act, Content};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::logic_server::Logic;
use seriatim_proto::grpc::peer_server::Peer;
use seriatim_proto::ids::{ClusterId, CounterName, DeviceId, TenantId, UserId};
use seriatim_proto::logic::{
    Amendment, Call, CallError, CertificateProof, GatewayRequest, GatewayResponse, Identity, LogicWelcome, PeerRequest,
    PeerResponse,
};
use seriatim_proto::meta::Limit;
use seriatim_proto::token::{TokenError, Verified, Verifier};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, Streaming};

use crate::brain::{Counting, Input, SessionInput, Standing};
use crate::packets::Packets;
use crate::store_client::StoreClient;
use crate::{clock, input, reads};

/// Frames that wait for one gateway or source node.
pub(crate) const STREAM_FRAMES: usize = 65_536;
/// Reads of one gateway at a time.
const READS_MAX: usize = 256;
/// When to come again with a read that found no room.
const READ_BUSY_MS: u32 = 50;

/// Longest time that nothing is read from a stream whose tenant asks more often than it may.
const QUOTA_PAUSE_MS_MAX: u64 = 1_000;

/// How long a Hello waits for a node that is not open yet.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);

/// What the doors share.
#[derive(Clone)]
pub(crate) struct Doors {
    pub(crate) brain: mpsc::Sender<Input>,
    pub(crate) standing: watch::Receiver<Option<Standing>>,
    pub(crate) stores: Arc<StoreClient>,
    pub(crate) verifier: Verifier,
    pub(crate) client_ca: Option<ClientCa>,
    pub(crate) next_stream: Arc<AtomicU64>,
    pub(crate) quotas: Arc<Mutex<Quotas>>,
}

impl Doors {
    fn standing(&self) -> Result<Standing, Refusal> {
        (*self.standing.borrow()).ok_or_else(|| Refusal::later(ErrorCode::Unavailable, "the node is starting", 100))
    }

    /// What a device wants of a message, with the rules of its tenant.
    fn act(&self, tenant: TenantId, amendment: Amendment) -> Act {
        let rule = |limit| self.quotas.lock().rate(tenant, limit);
        match amendment {
            Amendment::Edit { salt, body } => Act::Edit { salt, body, within_s: rule(Limit::EditWindow) },
            Amendment::Recall => Act::Recall { within_s: rule(Limit::RecallWindow) },
            Amendment::React { emoji, set } => Act::React { emoji, set },
            Amendment::Pin { set } => Act::Pin { set },
        }
    }

    /// Who a token speaks for, or what to wait for first: its key is not known, and may be a new one.
    fn verdict(&self, token: &str) -> Verdict {
        let verified = self.verifier.check(token);
        let unknown = matches!(verified, Err(TokenError::UnknownKey));
        match unknown.then(|| self.verifier.refresh()).flatten() {
            Some(refresh) => Verdict::AfterRefresh(refresh),
            None => Verdict::Now(self.counted(verified)),
        }
    }

    fn counted(&self, verified: Result<Verified, TokenError>) -> Result<Verified, Refusal> {
        verified.map_err(|error| {
            self.stores.metrics.token_refused(error);
            error.into()
        })
    }

    /// Who a certificate speaks for, whose holder has signed a handshake with a gateway.
    fn verify_certificate(&self, proof: &CertificateProof) -> Result<Verified, Refusal> {
        let verified = self.client_ca.as_ref().ok_or(CertificateError::NotTaken).and_then(|ca| ca.check(proof));
        verified.map_err(|error| {
            self.stores.metrics.client_certificate_refused(error);
            error.into()
        })
    }

    /// Who a token speaks for; a key that is not known is looked for.
    pub(crate) async fn verify(&self, token: &str) -> Result<Verified, Refusal> {
        match self.verdict(token) {
            Verdict::Now(verdict) => verdict,
            Verdict::AfterRefresh(refresh) => {
                let are_read = refresh.await;
                self.counted(self.verifier.check_again(token, are_read))
            }
        }
    }

    /// Counts a request against the limits of its tenant and user.
    pub(crate) fn within_quota(&self, tenant: TenantId, user: &UserId, ask: Ask) -> Result<(), Refusal> {
        let taken = self.quotas.lock().take(clock::boot_ms(), tenant, user, ask);
        taken.map_err(|over| {
            self.stores.metrics.over_quota(over.limit, 1);
            over_quota(tenant, over)
        })
    }

    /// Counts as many of these requests of the sequence service as the tenant may make. Why not all, and how long it
    /// takes until there is room for as many as were refused.
    pub(crate) fn counts_within_quota(
        &self,
        tenant: TenantId,
        requests: usize,
    ) -> (usize, Option<(Refusal, Duration)>) {
        let asked = u32::try_from(requests).unwrap_or(u32::MAX);
        let (taken, over) = self.quotas.lock().take_counts(clock::boot_ms(), tenant, asked);
        let refused = over.map(|over| {
            let refused = u64::from(asked - taken);
            self.stores.metrics.over_quota(over.limit, refused);
            let pause_ms = (refused * 1_000).div_ceil(u64::from(over.per_s.max(1))).max(over.retry_ms.into());
            (over_quota(tenant, over), Duration::from_millis(pause_ms.min(QUOTA_PAUSE_MS_MAX)))
        });
        (taken as usize, refused)
    }
}

fn over_quota(tenant: TenantId, over: Over) -> Refusal {
    let text = format!("over the limit {}={} (tenant {tenant})", over.limit.name(), over.per_s);
    Refusal::later(ErrorCode::QuotaExceeded, text, over.retry_ms)
}

#[tonic::async_trait]
impl Logic for Doors {
    type ChannelStream = Packets<GatewayResponse>;

    async fn channel(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::ChannelStream>, Status> {
        let (responses, packets) = Packets::channel(STREAM_FRAMES);
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let gateway = GatewayStream {
            doors: self.clone(),
            stream,
            responses: Some(responses),
            inputs: Vec::new(),
            sessions: HashMap::new(),
            late: HashMap::new(),
            late_last: 0,
            undecided: HashSet::new(),
            refreshes: JoinSet::new(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
        };
        let requests = request.into_inner();
        tokio::spawn(async move {
            let brain = gateway.doors.brain.clone();
            if let Err(error) = gateway.run(requests).await {
                tracing::debug!(stream, %error, "gateway stream ended");
            }
            // The brain ends only with the process.
            brain.send(Input::GatewayDown { stream }).await.ok();
        });
        Ok(Response::new(packets))
    }
}

struct GatewayStream {
    doors: Doors,
    stream: u64,
    /// until the brain has it: from then on the brain alone ends the stream
    responses: Option<mpsc::Sender<GatewayResponse>>,
    /// what a packet wants of the brain
    inputs: Vec<SessionInput>,
    sessions: HashMap<u64, Identity>,
    /// Sessions whose token's key is looked for. The others go on.
    late: HashMap<u64, Late>,
    late_last: u64,
    /// Sessions that are not open, because nobody could look for the key of their token.
    undecided: HashSet<u64>,
    refreshes: JoinSet<Opening>,
    reads: Arc<Semaphore>,
}

/// What a token comes to.
enum Verdict {
    Now(Result<Verified, Refusal>),
    AfterRefresh(BoxFuture<'static, bool>),
}

/// A session that waits for the keys to be read anew.
struct Late {
    /// the [`Opening`] that counts: the newest
    number: u64,
    /// What came behind it. Nothing, while an older token of the session holds.
    held: Vec<GatewayRequest>,
}

/// A token that is checked when the keys were read anew.
struct Opening {
    session: u64,
    number: u64,
    are_read: bool,
    token: String,
    device: DeviceId,
}

impl GatewayStream {
    async fn run(mut self, requests: Streaming<Packet>) -> Result<(), String> {
        let metrics = self.doors.stores.metrics.clone();
        metrics.gateways.inc();
        let ended = self.serve(requests).await;
        metrics.gateways.dec();
        metrics.sessions.dec_by(i64::try_from(self.sessions.len()).unwrap_or(0));
        ended
    }

    /// Until the gateway goes, says something wrong, or this node is another one.
    async fn serve(&mut self, mut requests: Streaming<Packet>) -> Result<(), String> {
        let mut standing = self.doors.standing.clone();
        loop {
            let packet = tokio::select! {
                changed = standing.changed(), if self.responses.is_none() => {
                    changed.map_err(|_| "the node stops".to_owned())?;
                    return Err("the node is another one now".to_owned());
                }
                Some(Ok(opening)) = self.refreshes.join_next() => {
                    self.open_late(opening).await?;
                    self.flush().await?;
                    continue;
                }
                packet = requests.message() => packet,
            };
            let Some(packet) = packet.map_err(|status| status.to_string())? else { return Ok(()) };
            for frame in packet.frames {
                let request = codec::decode(&frame).map_err(|error| error.to_string())?;
                if self.responses.is_some() {
                    let GatewayRequest::Hello { cluster } = request else {
                        return Err("the first frame must be Hello".to_owned());
                    };
                    self.greet(cluster).await?;
                    standing.mark_unchanged();
                } else {
                    self.take(request).await?;
                }
            }
            self.flush().await?;
        }
    }

    async fn flush(&mut self) -> Result<(), String> {
        if self.inputs.is_empty() {
            return Ok(());
        }
        let inputs = std::mem::take(&mut self.inputs);
        self.to_brain(Input::Sessions { stream: self.stream, inputs }).await
    }

    /// The keys were read anew, or could not be; what came behind the token is done.
    async fn open_late(&mut self, opening: Opening) -> Result<(), String> {
        let Opening { session, number, are_read, token, device } = opening;
        // Closed since, or opened with another token.
        if self.late.get(&session).is_none_or(|late| late.number != number) {
            return Ok(());
        }
        let verified = self.doors.counted(self.doors.verifier.check_again(&token, are_read));
        self.open(session, verified, device);
        self.do_held(session).await
    }

    /// The session's token was judged: what came behind it is done.
    async fn do_held(&mut self, session: u64) -> Result<(), String> {
        for request in self.late.remove(&session).map(|late| late.held).unwrap_or_default() {
            self.act(request).await?;
        }
        Ok(())
    }

    fn open(&mut self, session: u64, verified: Result<Verified, Refusal>, device: DeviceId) {
        let known = self.sessions.get(&session);
        let result = verified.map(|verified| verified.of_device(device.as_str())).and_then(|verified| {
            let identity = Identity {
                tenant: verified.tenant,
                user: verified.user,
                device,
                expires_at_s: verified.expires_at_s,
                scopes: verified.scopes,
            };
            // Opened again: a fresh credential, of the same device. The one before holds if this one does not.
            let same = known.is_none_or(|known| {
                (known.tenant, &known.user, &known.device) == (identity.tenant, &identity.user, &identity.device)
            });
            let other = || Refusal::new(ErrorCode::AuthFailed, "the session is another device's");
            if same { Ok(identity) } else { Err(other()) }
        });
        self.undecided.remove(&session);
        if result.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::Unavailable) {
            self.undecided.insert(session);
        }
        if let Ok(identity) = &result {
            match self.sessions.insert(session, identity.clone()) {
                None => drop(self.doors.stores.metrics.sessions.inc()),
                Some(_) => self.inputs.push(SessionInput::Reopened { session, identity: identity.clone() }),
            }
        }
        self.respond(GatewayResponse::Opened { session, result });
    }

    async fn greet(&mut self, cluster: Option<ClusterId>) -> Result<(), String> {
        // A gateway that comes early waits a little.
        let mut standing = self.doors.standing.clone();
        tokio::time::timeout(OPEN_TIMEOUT, standing.wait_for(Option::is_some)).await.ok();
        let result = self.doors.standing().and_then(|standing| {
            if cluster.is_some_and(|cluster| cluster != standing.cluster) {
                return Err(Refusal::new(ErrorCode::WrongCluster, "this node serves another cluster"));
            }
            let Standing { cluster, generation, node } = standing;
            Ok(LogicWelcome { cluster, node, generation })
        });
        let refused = result.is_err();
        let responses = self.responses.take().ok_or_else(|| "Hello came twice".to_owned())?;
        responses.send(GatewayResponse::Welcome { result }).await.map_err(|_| "the gateway is gone".to_owned())?;
        if refused {
            return Err("refused".to_owned());
        }
        self.to_brain(Input::GatewayUp { stream: self.stream, responses }).await
    }

    async fn take(&mut self, request: GatewayRequest) -> Result<(), String> {
        let waits = match request {
            // Judged by the older token as long as that holds, as the gateway does.
            GatewayRequest::Call { session, .. } | GatewayRequest::Register { session, .. } => {
                let waits = self.late.contains_key(&session) && self.identity(session).is_err();
                waits.then(|| self.late.get_mut(&session)).flatten()
            }
            _ => None,
        };
        match waits {
            Some(late) => late.held.push(request),
            None => self.act(request).await?,
        }
        Ok(())
    }

    async fn act(&mut self, request: GatewayRequest) -> Result<(), String> {
        match request {
            GatewayRequest::Hello { .. } => return Err("Hello came twice".to_owned()),
            GatewayRequest::Open { session, token, device } => {
                let verdict = match input::device(&device) {
                    Ok(()) => self.doors.verdict(&token),
                    Err(refusal) => Verdict::Now(Err(refusal)),
                };
                match verdict {
                    Verdict::Now(verified) => {
                        self.open(session, verified, device);
                        Box::pin(self.do_held(session)).await?;
                    }
                    Verdict::AfterRefresh(refresh) => {
                        self.late_last += 1;
                        let number = self.late_last;
                        self.late.entry(session).or_insert(Late { number, held: Vec::new() }).number = number;
                        self.refreshes.spawn(async move {
                            let are_read = refresh.await;
                            Opening { session, number, are_read, token, device }
                        });
                    }
                }
            }
            GatewayRequest::OpenByCertificate { session, proof, device } => {
                let verified = input::device(&device).and_then(|()| self.doors.verify_certificate(&proof));
                self.open(session, verified, device);
            }
            GatewayRequest::Close { session } => {
                // Nobody waits for what is held.
                self.late.remove(&session);
                self.undecided.remove(&session);
                if self.sessions.remove(&session).is_some() {
                    self.doors.stores.metrics.sessions.dec();
                }
                self.inputs.push(SessionInput::Close { session });
            }
            GatewayRequest::Call { id, session, call } => match self.identity(session) {
                Ok(identity) => self.call(id, identity, call).await?,
                Err(refusal) => self.refuse(id, refusal),
            },
            GatewayRequest::Register { id, session, position } => {
                let identity = self.identity(session).and_then(device_of);
                match identity.and_then(|identity| input::seq(position).map(|()| identity)) {
                    Ok(identity) => self.inputs.push(SessionInput::Register { id, session, identity, position }),
                    Err(refusal) => {
                        let result = Err(CallError::Refused(refusal));
                        self.respond(GatewayResponse::Registered { id, result });
                    }
                }
            }
            GatewayRequest::Renew { positions } => self.inputs.push(SessionInput::Renew { positions }),
        }
        Ok(())
    }

    /// Who a session speaks for, while its token or certificate lasts.
    fn identity(&self, session: u64) -> Result<Identity, Refusal> {
        let unknown = || match self.undecided.contains(&session) {
            // The gateway opens it again.
            true => Refusal::from(TokenError::KeysUnreadable),
            false => Refusal::new(ErrorCode::AuthFailed, "the session was not opened here"),
        };
        let identity = self.sessions.get(&session).ok_or_else(unknown)?;
        if identity.expires_at_s.saturating_mul(1_000) <= clock::unix_ms() {
            return Err(Refusal::new(ErrorCode::AuthExpired, "the time of the token or certificate is over"));
        }
        Ok(identity.clone())
    }

    async fn call(&mut self, id: u64, who: Identity, call: Call) -> Result<(), String> {
        if let Err(refusal) = input::call(&call) {
            self.refuse(id, refusal);
            return Ok(());
        }
        let call = match call {
            Call::Next { counter, count } => return self.count(id, &who, counter, Counting::Next(count)),
            Call::Current { counter } => return self.count(id, &who, counter, Counting::Current),
            call => call,
        };
        let who = match device_of(who) {
            Ok(who) => who,
            Err(refusal) => {
                self.refuse(id, refusal);
                return Ok(());
            }
        };
        if let Err(refusal) = self.doors.within_quota(who.tenant, &who.user, ask_of(&call)) {
            self.refuse(id, refusal);
            return Ok(());
        }
        let (tenant, sender) = (who.tenant, who.user.clone());
        let send = match call {
            Call::Send { conversation, message_id, known, follows, salt, body } => {
                let content = Content::Message { salt, body };
                Send { tenant, conversation, sender, message_id, known, follows, content }
            }
            Call::CreateGroup { conversation, message_id, members } => {
                let content = Content::Create { members };
                Send { tenant, conversation, sender, message_id, known: None, follows: None, content }
            }
            Call::ChangeMembers { conversation, message_id, known, add, remove } => {
                let content = Content::Members { add, remove };
                Send { tenant, conversation, sender, message_id, known, follows: None, content }
            }
            Call::Amend { conversation, message_id, known, follows, target, amendment } => {
                self.doors.stores.metrics.amendments.inc();
                let content = Content::Amend { target, act: self.doors.act(tenant, amendment) };
                Send { tenant, conversation, sender, message_id, known, follows, content }
            }
            Call::Mark { conversation, mark } => {
                self.inputs.push(SessionInput::Mark { id, identity: who, conversation, mark });
                return Ok(());
            }
            Call::Ack { cursor } => {
                self.inputs.push(SessionInput::Ack { id, identity: who, cursor });
                return Ok(());
            }
            call @ (Call::QuerySend { .. }
            | Call::Sync { .. }
            | Call::History { .. }
            | Call::List { .. }
            | Call::Status) => {
                self.read(id, who, call);
                return Ok(());
            }
            Call::CancelSend { conversation, message_id, known } => {
                let cancel = Cancel { tenant, conversation, sender, message_id, known };
                self.inputs.push(SessionInput::Cancel { id, cancel: Box::new(cancel) });
                return Ok(());
            }
            Call::Next { .. } | Call::Current { .. } => return Err("counted above".to_owned()),
        };
        self.inputs.push(SessionInput::Send { id, send: Box::new(send) });
        Ok(())
    }

    fn count(&mut self, id: u64, who: &Identity, counter: CounterName, what: Counting) -> Result<(), String> {
        let allowed = match who.scopes.sequence {
            true => self.doors.within_quota(who.tenant, &who.user, Ask::Sequence),
            false => Err(Refusal::new(ErrorCode::Forbidden, "the token's scopes do not name the sequence service")),
        };
        match allowed {
            Ok(()) => self.inputs.push(SessionInput::Count { id, tenant: who.tenant, counter, what }),
            Err(refusal) => self.refuse(id, refusal),
        }
        Ok(())
    }

    fn read(&mut self, id: u64, who: Identity, call: Call) {
        // Not waited for: behind reads of a group without a quorum, sends to all others would wait too.
        let Ok(permit) = self.reads.clone().try_acquire_owned() else {
            let refusal = Refusal::later(ErrorCode::Busy, "too many reads wait for the stores", READ_BUSY_MS);
            self.refuse(id, refusal);
            return;
        };
        let (stores, brain, stream) = (self.doors.stores.clone(), self.doors.brain.clone(), self.stream);
        tokio::spawn(async move {
            let result = reads::answer(&stores, &who, call).await.map_err(CallError::Refused);
            if let Err(error) = &result {
                stores.metrics.refused(error);
            }
            let inputs = vec![SessionInput::Respond { response: GatewayResponse::Reply { id, result } }];
            // A gateway that went away misses nothing: the device asks again.
            brain.send(Input::Sessions { stream, inputs }).await.ok();
            drop(permit);
        });
    }

    fn refuse(&mut self, id: u64, refusal: Refusal) {
        let error = CallError::Refused(refusal);
        self.doors.stores.metrics.refused(&error);
        self.respond(GatewayResponse::Reply { id, result: Err(error) });
    }

    fn respond(&mut self, response: GatewayResponse) {
        self.inputs.push(SessionInput::Respond { response });
    }

    async fn to_brain(&self, input: Input) -> Result<(), String> {
        self.doors.brain.send(input).await.map_err(|_| "the node stops".to_owned())
    }
}

/// What a call counts as.
fn ask_of(call: &Call) -> Ask {
    match call {
        Call::Send { body, .. } => Ask::Write { bytes: u32::try_from(body.len()).unwrap_or(u32::MAX) },
        Call::Amend { amendment, .. } => Ask::Write { bytes: u32::try_from(body_of(amendment)).unwrap_or(u32::MAX) },
        Call::CreateGroup { .. } | Call::ChangeMembers { .. } | Call::CancelSend { .. } | Call::Mark { .. } => {
            Ask::Write { bytes: 0 }
        }
        Call::Ack { .. }
        | Call::QuerySend { .. }
        | Call::Sync { .. }
        | Call::History { .. }
        | Call::List { .. }
        | Call::Status => Ask::Read,
        Call::Next { .. } | Call::Current { .. } => Ask::Sequence,
    }
}

/// Bytes of the body that an amendment brings.
fn body_of(amendment: &Amendment) -> usize {
    match amendment {
        Amendment::Edit { body, .. } => body.len(),
        Amendment::React { emoji, .. } => emoji.as_str().len(),
        Amendment::Recall | Amendment::Pin { .. } => 0,
    }
}

/// Who may act as a device.
fn device_of(identity: Identity) -> Result<Identity, Refusal> {
    match identity.scopes.device {
        true => Ok(identity),
        false => Err(Refusal::new(ErrorCode::Forbidden, "the token's scopes do not name a device")),
    }
}

#[tonic::async_trait]
impl Peer for Doors {
    type ChannelStream = Packets<PeerResponse>;

    async fn channel(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::ChannelStream>, Status> {
        let (answers, packets) = Packets::channel(STREAM_FRAMES);
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let doors = self.clone();
        let requests = request.into_inner();
        tokio::spawn(async move {
            if let Err(error) = source(&doors, stream, answers, requests).await {
                tracing::debug!(stream, %error, "source stream ended");
            }
            doors.brain.send(Input::SourceDown { stream }).await.ok();
        });
        Ok(Response::new(packets))
    }
}

async fn source(
    doors: &Doors,
    stream: u64,
    answers: mpsc::Sender<PeerResponse>,
    mut requests: Streaming<Packet>,
) -> Result<(), String> {
    let mut answers = Some(answers);
    let mut standing = doors.standing.clone();
    let stops = |_| "the node stops".to_owned();
    loop {
        let packet = tokio::select! {
            _ = standing.changed(), if answers.is_none() => return Err("the node is another one now".to_owned()),
            packet = requests.message() => packet,
        };
        let Some(packet) = packet.map_err(|status| status.to_string())? else { return Ok(()) };
        for frame in packet.frames {
            match (codec::decode(&frame).map_err(|error| error.to_string())?, answers.take()) {
                (PeerRequest::Hello { cluster, .. }, Some(answers)) => {
                    standing.mark_unchanged();
                    let result = doors.standing().and_then(|standing| {
                        let other = || Refusal::new(ErrorCode::WrongCluster, "this node serves another cluster");
                        if standing.cluster == cluster { Ok(standing.node) } else { Err(other()) }
                    });
                    let refused = result.is_err();
                    answers
                        .send(PeerResponse::Welcome { result })
                        .await
                        .map_err(|_| "the source is gone".to_owned())?;
                    if refused {
                        return Err("refused".to_owned());
                    }
                    doors.brain.send(Input::SourceUp { stream, answers }).await.map_err(stops)?;
                }
                (PeerRequest::Deliver { id, slots }, None) => {
                    doors.brain.send(Input::SourceDelivers { stream, id, slots }).await.map_err(stops)?;
                }
                _ => return Err("Hello must come first, and once".to_owned()),
            }
        }
    }
}
