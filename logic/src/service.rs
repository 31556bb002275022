//! Service: the gRPC doors of a logic node: `Logic` for gateways, `Peer` for other logic nodes.
//!
//! One task per stream reads and checks frames; holders' work goes to the brain, reads are answered beside it.
//! Tokens are verified here again, and their end at every call.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use seriatim_logic_core::Send;
use seriatim_proto::codec;
use seriatim_proto::command::Content;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::logic_server::Logic;
use seriatim_proto::grpc::peer_server::Peer;
use seriatim_proto::logic::{
    Call, CallError, GatewayRequest, GatewayResponse, Identity, LogicWelcome, PeerRequest, PeerResponse,
};
use seriatim_proto::token::Verifier;
use tokio::sync::{Semaphore, mpsc, watch};
use tonic::{Request, Response, Status, Streaming};

use crate::brain::{Input, SessionInput, Standing};
use crate::packets::Packets;
use crate::store_client::StoreClient;
use crate::{clock, input, reads};

/// Frames that wait for one gateway or source node.
const STREAM_FRAMES: usize = 65_536;
/// Reads of one gateway at a time.
const READS_MAX: usize = 256;

/// What the doors share.
#[derive(Clone)]
pub(crate) struct Doors {
    pub(crate) brain: mpsc::Sender<Input>,
    pub(crate) standing: watch::Receiver<Option<Standing>>,
    pub(crate) stores: Arc<StoreClient>,
    pub(crate) verifier: Verifier,
    pub(crate) next_stream: Arc<AtomicU64>,
}

impl Doors {
    fn standing(&self) -> Result<Standing, Refusal> {
        (*self.standing.borrow()).ok_or_else(|| Refusal::later(ErrorCode::Unavailable, "the node is starting", 100))
    }
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
            responses,
            sessions: HashMap::new(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            greeted: false,
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
    responses: mpsc::Sender<GatewayResponse>,
    sessions: HashMap<u64, Identity>,
    reads: Arc<Semaphore>,
    greeted: bool,
}

impl GatewayStream {
    async fn run(mut self, mut requests: Streaming<Packet>) -> Result<(), String> {
        while let Some(packet) = requests.message().await.map_err(|status| status.to_string())? {
            for frame in packet.frames {
                let request = codec::decode(&frame).map_err(|error| error.to_string())?;
                self.take(request).await?;
            }
        }
        Ok(())
    }

    async fn take(&mut self, request: GatewayRequest) -> Result<(), String> {
        if !self.greeted && !matches!(request, GatewayRequest::Hello { .. }) {
            return Err("the first frame must be Hello".to_owned());
        }
        match request {
            GatewayRequest::Hello { cluster } => {
                let result = self.doors.standing().and_then(|standing| {
                    if cluster.is_some_and(|cluster| cluster != standing.cluster) {
                        return Err(Refusal::new(ErrorCode::WrongCluster, "this node serves another cluster"));
                    }
                    let Standing { cluster, generation, node } = standing;
                    Ok(LogicWelcome { cluster, node, generation })
                });
                let refused = result.is_err();
                self.respond(GatewayResponse::Welcome { result }).await?;
                if refused {
                    return Err("refused".to_owned());
                }
                if !std::mem::replace(&mut self.greeted, true) {
                    let responses = self.responses.clone();
                    self.to_brain(Input::GatewayUp { stream: self.stream, responses }).await?;
                }
                Ok(())
            }
            GatewayRequest::Open { session, token, device } => {
                let verified = input::device(&device).and_then(|()| self.doors.verifier.verify(&token));
                let result = verified.map(|verified| Identity {
                    tenant: verified.tenant,
                    user: verified.user,
                    device,
                    expires_at_s: verified.expires_at_s,
                });
                if let Ok(identity) = &result {
                    self.sessions.insert(session, identity.clone());
                }
                self.respond(GatewayResponse::Opened { session, result }).await
            }
            GatewayRequest::Close { session } => {
                self.sessions.remove(&session);
                self.session(SessionInput::Close { session }).await
            }
            GatewayRequest::Call { id, session, call } => match self.identity(session) {
                Ok(identity) => self.call(id, identity, call).await,
                Err(refusal) => self.refuse(id, refusal).await,
            },
            GatewayRequest::Register { id, session, position } => {
                match self.identity(session).and_then(|identity| input::seq(position).map(|()| identity)) {
                    Ok(identity) => self.session(SessionInput::Register { id, session, identity, position }).await,
                    Err(refusal) => {
                        let result = Err(CallError::Refused(refusal));
                        self.respond(GatewayResponse::Registered { id, result }).await
                    }
                }
            }
            GatewayRequest::Renew { positions } => self.session(SessionInput::Renew { positions }).await,
        }
    }

    /// Who a session speaks for, while its token lasts.
    fn identity(&self, session: u64) -> Result<Identity, Refusal> {
        let unknown = || Refusal::new(ErrorCode::AuthFailed, "the session was not opened here");
        let identity = self.sessions.get(&session).ok_or_else(unknown)?;
        if identity.expires_at_s * 1_000 <= clock::unix_ms() {
            return Err(Refusal::new(ErrorCode::AuthExpired, "the token's time is over"));
        }
        Ok(identity.clone())
    }

    async fn call(&mut self, id: u64, who: Identity, call: Call) -> Result<(), String> {
        if let Err(refusal) = input::call(&call) {
            return self.refuse(id, refusal).await;
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
            Call::Ack { cursor } => return self.session(SessionInput::Ack { id, identity: who, cursor }).await,
            call => return self.read(id, who, call).await,
        };
        self.session(SessionInput::Send { id, send: Box::new(send) }).await
    }

    async fn read(&mut self, id: u64, who: Identity, call: Call) -> Result<(), String> {
        let Ok(permit) = self.reads.clone().acquire_owned().await else { return Ok(()) };
        let (stores, responses) = (self.doors.stores.clone(), self.responses.clone());
        tokio::spawn(async move {
            let result = reads::answer(&stores, &who, call).await.map_err(CallError::Refused);
            // A gateway that went away misses nothing: the device asks again.
            responses.send(GatewayResponse::Reply { id, result }).await.ok();
            drop(permit);
        });
        Ok(())
    }

    async fn refuse(&self, id: u64, refusal: Refusal) -> Result<(), String> {
        self.respond(GatewayResponse::Reply { id, result: Err(CallError::Refused(refusal)) }).await
    }

    async fn respond(&self, response: GatewayResponse) -> Result<(), String> {
        self.responses.send(response).await.map_err(|_| "the gateway is gone".to_owned())
    }

    async fn session(&self, input: SessionInput) -> Result<(), String> {
        self.to_brain(Input::Session { stream: self.stream, input }).await
    }

    async fn to_brain(&self, input: Input) -> Result<(), String> {
        self.doors.brain.send(input).await.map_err(|_| "the node stops".to_owned())
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
    let mut greeted = false;
    let stops = |_| "the node stops".to_owned();
    while let Some(packet) = requests.message().await.map_err(|status| status.to_string())? {
        for frame in packet.frames {
            match codec::decode(&frame).map_err(|error| error.to_string())? {
                PeerRequest::Hello { cluster, .. } => {
                    let result = doors.standing().and_then(|standing| {
                        let other = || Refusal::new(ErrorCode::WrongCluster, "this node serves another cluster");
                        if standing.cluster == cluster { Ok(standing.node) } else { Err(other()) }
                    });
                    greeted = result.is_ok();
                    answers.send(PeerResponse::Welcome { result }).await.map_err(|_| "the source is gone".to_owned())?;
                    if greeted {
                        doors.brain.send(Input::SourceUp { stream, answers: answers.clone() }).await.map_err(stops)?;
                    }
                }
                PeerRequest::Deliver { id, slots } if greeted => {
                    doors.brain.send(Input::SourceDelivers { stream, id, slots }).await.map_err(stops)?;
                }
                PeerRequest::Deliver { .. } => return Err("the first frame must be Hello".to_owned()),
            }
        }
    }
    Ok(())
}
