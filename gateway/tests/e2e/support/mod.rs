//! Two logic nodes of a fake cluster in this process: the real gRPC service, a simple state in memory.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub(crate) mod peer;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use seriatim_gateway::dev_ca::{DevFiles, ensure_dev_ca};
use seriatim_gateway::{CertificateFiles, GatewayConfig, GatewayServer, Origins};
use seriatim_proto::certificate::CertificateError;
use seriatim_proto::command::{Act, Content, EntryRef, Kind};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::logic_server::{Logic, LogicServer};
use seriatim_proto::ids::{
    Chain, ClusterId, ConversationId, CounterName, DeviceId, Epoch, Generation, MessageId, NodeId, Seq, SlotId,
    TenantId, UserId,
};
use seriatim_proto::logic::{
    Amendment, Body, Call, CallError, GatewayRequest, GatewayResponse, HistoryEntry, HolderTable, Identity,
    LogicWelcome, PushEntry, Reply, SendState, SyncEntry, SyncPage,
};
use seriatim_proto::store::{HolderRow, InboxEntry, NamespaceState, StoredMessage};
use seriatim_proto::token::{Minter, Verifier};
use seriatim_proto::{codec, limits};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

type Out = mpsc::Sender<Result<Packet, Status>>;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const TENANT: TenantId = TenantId(1);

/// What all fake nodes share.
pub(crate) struct State {
    verifier: Verifier,
    epoch: u64,
    holder: NodeId,
    addresses: BTreeMap<NodeId, SocketAddr>,
    dead: Vec<NodeId>,
    links: Vec<Link>,
    conversations: HashMap<ConversationId, Vec<StoredMessage>>,
    members: HashMap<ConversationId, Vec<UserId>>,
    inboxes: HashMap<UserId, Vec<SyncEntry>>,
    cursors: HashMap<(UserId, DeviceId), Seq>,
    counters: HashMap<CounterName, u64>,
    /// Pushes that get lost.
    pub(crate) pushes_to_drop: u32,
    /// Sends that are refused with `Unavailable` after they took effect.
    pub(crate) sends_to_forget: u32,
    pub(crate) sends: u32,
}

struct Link {
    node: NodeId,
    out: Out,
    sessions: HashMap<u64, Identity>,
    registered: Vec<u64>,
}

#[derive(Clone)]
pub(crate) struct Cluster(pub(crate) Arc<Mutex<State>>);

struct Node {
    id: NodeId,
    cluster: Cluster,
}

fn no(code: ErrorCode, text: &str) -> CallError {
    CallError::Refused(Refusal::new(code, text))
}

impl State {
    fn table(&self) -> HolderTable {
        let row = |slot| HolderRow {
            slot: SlotId(slot),
            epoch: Epoch(self.epoch),
            holder: Some(self.holder),
            lease: None,
            heir: None,
        };
        let nodes = self.addresses.iter().filter(|(id, _)| !self.dead.contains(id));
        HolderTable {
            rows: (0..limits::SLOTS).map(row).collect(),
            nodes: Some(nodes.map(|(id, address)| (*id, address.to_string())).collect()),
        }
    }

    fn append(
        &mut self,
        who: &Identity,
        conversation: &ConversationId,
        message_id: MessageId,
        follows: Option<MessageId>,
        content: &Content,
    ) -> Result<Reply, CallError> {
        let log = self.conversations.entry(conversation.clone()).or_default();
        let mine = |message: &&StoredMessage, id| message.entry.message_id == id && message.entry.sender == who.user;
        if let Some(old) = log.iter().find(|message| mine(message, message_id)) {
            if old.entry.body_hash != content.hash() {
                return Err(no(ErrorCode::Conflict, "another body under this message id"));
            }
            return Ok(Reply::Committed { seq: old.entry.seq, duplicate: true });
        }
        if follows.is_some_and(|id| !log.iter().any(|message| mine(&message, id))) {
            return Err(no(ErrorCode::OutOfOrder, "not yet"));
        }
        let members = match conversation {
            ConversationId::Direct(a, b) => vec![a.clone(), b.clone()],
            ConversationId::Group(_) => self.members.get(conversation).cloned().unwrap_or_default(),
        };
        if !members.contains(&who.user) {
            return Err(no(ErrorCode::NotFound, "no such conversation, or not yours"));
        }
        let prev_seq = log.last().map(|message| message.entry.seq);
        let seq = prev_seq.map_or(Seq::FIRST, |seq| seq.plus(3));
        let entry = EntryRef {
            seq,
            kind: content.kind(),
            sender: who.user.clone(),
            message_id,
            body_hash: content.hash(),
            at_ms: 1,
        };
        let (salt, body) = content.stored();
        log.push(StoredMessage {
            entry: entry.clone(),
            prev_seq,
            ordinal: log.len() as u64 + 1,
            chain: Chain::default(),
            salt: salt.clone(),
            body: body.clone(),
            erased: false,
        });
        for member in members {
            self.deliver(&member, conversation, &entry, &salt, &body);
        }
        Ok(Reply::Committed { seq, duplicate: false })
    }

    fn deliver(&mut self, user: &UserId, from: &ConversationId, entry: &EntryRef, salt: &Bytes, body: &Bytes) {
        let inbox = self.inboxes.entry(user.clone()).or_default();
        let last = inbox.last().map(|last| last.entry.clone());
        let seq = last.as_ref().map_or(Seq::FIRST, |last| last.seq.plus(2));
        let mut stored = InboxEntry {
            seq,
            prev_seq: last.as_ref().map(|last| last.seq),
            ordinal: last.as_ref().map_or(0, |last| last.ordinal) + u64::from(entry.kind == Kind::Message),
            chain: Chain::default(),
            conversation: from.clone(),
            entry: entry.clone(),
            messages: 0,
        };
        stored.chain = stored.link_from(last.map_or_else(Chain::default, |last| last.chain));
        let push = PushEntry {
            seq,
            prev_seq: stored.prev_seq,
            ordinal: stored.ordinal,
            conversation: from.clone(),
            entry: entry.clone(),
            salt: salt.clone(),
            body: body.clone(),
        };
        inbox.push(SyncEntry { entry: stored, body: Body::Here { salt: salt.clone(), body: body.clone() } });
        if self.pushes_to_drop > 0 {
            self.pushes_to_drop -= 1;
            return;
        }
        for link in self.links.iter().filter(|link| link.node == self.holder) {
            let is_his = |session: &&u64| link.sessions.get(*session).is_some_and(|identity| identity.user == *user);
            let sessions: Vec<u64> = link.registered.iter().filter(is_his).copied().collect();
            if !sessions.is_empty() {
                tell(&link.out, &[GatewayResponse::Push { sessions, entries: vec![push.clone()] }]);
            }
        }
    }

    fn tail(&self, user: &UserId) -> Seq {
        self.inboxes.get(user).and_then(|inbox| inbox.last()).map_or(Seq::FIRST, |last| last.entry.seq.next())
    }

    fn sync(&self, user: &UserId, from: Option<Seq>, limit: u32) -> Result<Reply, CallError> {
        let (from, tail) = (from.unwrap_or(Seq::FIRST), self.tail(user));
        if from > tail {
            return Err(no(ErrorCode::CursorAhead, "a cursor from the future"));
        }
        let inbox = self.inboxes.get(user).cloned().unwrap_or_default();
        let rest: Vec<_> = inbox.into_iter().filter(|entry| entry.entry.seq >= from).collect();
        // As the real one: cut by entries and by bytes, one entry at least.
        let mut bytes = 0;
        let fitting = rest.iter().take(limit as usize).take_while(|entry| {
            let fits = bytes < limits::SYNC_BYTES_MAX as usize;
            bytes += if let Body::Here { body, .. } = &entry.body { body.len() } else { 0 };
            fits
        });
        let keep = fitting.count();
        let more = rest.len() > keep;
        let entries: Vec<_> = rest.into_iter().take(keep).collect();
        let last = entries.last().map(|last| (last.entry.seq.next(), last.entry.chain));
        let upto = last.filter(|_| more).map_or(tail, |(end, _)| end);
        let chain = last.map_or_else(Chain::default, |(_, chain)| chain);
        Ok(Reply::Sync(SyncPage { entries, upto, more, too_long: false, trim: Seq::FIRST, tail, chain }))
    }

    fn serve(&mut self, node: NodeId, who: &Identity, call: Call) -> Result<Reply, CallError> {
        let held = self.holder == node;
        let elsewhere = || CallError::NotHolder { slot: SlotId(0), row: None };
        match call {
            Call::Send { conversation, message_id, follows, salt, body, .. } if held => {
                self.sends += 1;
                let content = Content::Message { salt, body };
                let reply = self.append(who, &conversation, message_id, follows, &content);
                if self.sends_to_forget > 0 {
                    self.sends_to_forget -= 1;
                    return Err(no(ErrorCode::Unavailable, "no quorum"));
                }
                reply
            }
            Call::CreateGroup { conversation, message_id, members } if held => {
                let mut all = members.clone();
                all.push(who.user.clone());
                self.members.insert(conversation.clone(), all);
                self.append(who, &conversation, message_id, None, &Content::Create { members })
            }
            Call::ChangeMembers { conversation, message_id, add, remove, .. } if held => {
                self.members.entry(conversation.clone()).or_default().extend(add.clone());
                let reply = self.append(
                    who,
                    &conversation,
                    message_id,
                    None,
                    &Content::Members { add, remove: remove.clone() },
                );
                self.members.entry(conversation).or_default().retain(|member| !remove.contains(member));
                reply
            }
            Call::Amend { conversation, message_id, follows, target, amendment, .. } if held => {
                let act = match amendment {
                    Amendment::Edit { salt, body } => Act::Edit { salt, body, within_s: u32::MAX },
                    Amendment::Recall => Act::Recall { within_s: u32::MAX },
                    Amendment::React { emoji, set } => Act::React { emoji, set },
                    Amendment::Pin { set } => Act::Pin { set },
                };
                self.append(who, &conversation, message_id, follows, &Content::Amend { target, act })
            }
            Call::Mark { .. } if held => Err(no(ErrorCode::NotFound, "no marks are kept here")),
            Call::List { .. } => Ok(Reply::List { list: Vec::new(), more: false, unread: 0 }),
            Call::Next { counter, count } if held => {
                let next = self.counters.entry(counter).or_insert(1);
                let first = Seq::new(*next).unwrap();
                *next += u64::from(count);
                Ok(Reply::Numbers { first, count })
            }
            Call::Current { counter } if held => {
                Ok(Reply::Current(Seq::new(self.counters.get(&counter).copied().unwrap_or(1)).unwrap()))
            }
            Call::Ack { cursor } if held => {
                if cursor > self.tail(&who.user) {
                    return Err(no(ErrorCode::CursorAhead, "a cursor from the future"));
                }
                let kept = self.cursors.entry((who.user.clone(), who.device.clone())).or_insert(cursor);
                *kept = (*kept).max(cursor);
                Ok(Reply::Acked(*kept))
            }
            Call::CancelSend { conversation, message_id, .. } if held => {
                let log = self.conversations.get(&conversation).cloned().unwrap_or_default();
                let found = log.iter().find(|message| message.entry.message_id == message_id);
                let state = found.map_or(SendState::Cancelled, |message| SendState::Committed(message.entry.seq));
                Ok(Reply::SendStatus(state))
            }
            Call::Send { .. }
            | Call::CancelSend { .. }
            | Call::CreateGroup { .. }
            | Call::ChangeMembers { .. }
            | Call::Amend { .. }
            | Call::Mark { .. }
            | Call::Ack { .. }
            | Call::Next { .. }
            | Call::Current { .. } => Err(elsewhere()),
            Call::QuerySend { conversation, message_id, .. } => {
                let log = self.conversations.get(&conversation).cloned().unwrap_or_default();
                let found = log.iter().find(|message| message.entry.message_id == message_id);
                let state = found.map_or(SendState::NotYet, |message| SendState::Committed(message.entry.seq));
                Ok(Reply::SendStatus(state))
            }
            Call::Sync { from, limit } => self.sync(&who.user, from, limit),
            Call::History { conversation, from, limit } => {
                let log = self.conversations.get(&conversation).cloned().unwrap_or_default();
                let from = from.unwrap_or(Seq::FIRST);
                let entries: Vec<_> = log
                    .into_iter()
                    .filter(|message| message.entry.seq >= from)
                    .take(limit as usize)
                    .map(|message| HistoryEntry { message })
                    .collect();
                let upto = entries.last().map_or(from, |last| last.message.entry.seq.next());
                Ok(Reply::History { entries, upto, more: false })
            }
            Call::Status => {
                let inbox = self.inboxes.get(&who.user).and_then(|inbox| inbox.last()).map(|last| NamespaceState {
                    trim: Seq::FIRST,
                    tail: last.entry.seq.next(),
                    ceiling: last.entry.seq.plus(100),
                    epoch: Epoch(self.epoch),
                    last_seq: Some(last.entry.seq),
                    ordinal: last.entry.ordinal,
                    chain: last.entry.chain,
                });
                let mine = self.cursors.iter().filter(|((user, _), _)| *user == who.user);
                let devices = mine.map(|((_, device), cursor)| (device.clone(), *cursor)).collect();
                Ok(Reply::Status { inbox, devices })
            }
        }
    }

    fn handle(&mut self, node: NodeId, link: usize, request: GatewayRequest) -> Option<GatewayResponse> {
        match request {
            GatewayRequest::Hello { .. } => None,
            GatewayRequest::Open { session, token, device } => {
                let result = self.verifier.verify(&token).map(|verified| Identity {
                    scopes: verified.scopes,
                    tenant: verified.tenant,
                    user: verified.user,
                    device,
                    expires_at_s: verified.expires_at_s,
                });
                if let Ok(identity) = &result {
                    self.links[link].sessions.insert(session, identity.clone());
                }
                Some(GatewayResponse::Opened { session, result })
            }
            GatewayRequest::OpenByCertificate { session, .. } => {
                // These nodes were given no CA of devices.
                Some(GatewayResponse::Opened { session, result: Err(CertificateError::NotTaken.into()) })
            }
            GatewayRequest::Close { session } => {
                self.links[link].sessions.remove(&session);
                self.links[link].registered.retain(|other| *other != session);
                None
            }
            GatewayRequest::Call { id, session, call } => {
                let who = self.links[link].sessions.get(&session).cloned();
                let result = match who {
                    Some(who) => self.serve(node, &who, call),
                    None => Err(no(ErrorCode::AuthFailed, "no such session")),
                };
                Some(GatewayResponse::Reply { id, result })
            }
            GatewayRequest::Register { id, session, .. } => {
                let who = self.links[link].sessions.get(&session).cloned();
                let result = match who {
                    Some(who) if self.holder == node => {
                        self.links[link].registered.push(session);
                        Ok(self.tail(&who.user))
                    }
                    _ => Err(CallError::NotHolder { slot: SlotId(0), row: None }),
                };
                Some(GatewayResponse::Registered { id, result })
            }
            GatewayRequest::Renew { positions } => {
                let behind = |(session, position): (u64, Seq)| {
                    let identity = self.links[link].sessions.get(&session)?;
                    let tail = self.tail(&identity.user);
                    (tail > position).then_some((session, tail))
                };
                Some(GatewayResponse::Lagging { sessions: positions.into_iter().filter_map(behind).collect() })
            }
        }
    }
}

fn tell(out: &Out, responses: &[GatewayResponse]) {
    let frames = responses.iter().map(codec::encode_bytes).collect();
    // A full or closed channel is a lost link for this fake.
    let _ = out.try_send(Ok(Packet { frames }));
}

#[tonic::async_trait]
impl Logic for Node {
    type ChannelStream = std::pin::Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;

    async fn channel(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::ChannelStream>, Status> {
        let (out, packets) = mpsc::channel(10_000);
        let link = {
            let mut state = self.cluster.0.lock();
            if state.dead.contains(&self.id) {
                return Err(Status::unavailable("dead"));
            }
            let welcome = LogicWelcome { cluster: ClusterId([1; 16]), node: self.id, generation: Generation(0) };
            tell(&out, &[GatewayResponse::Welcome { result: Ok(welcome) }, GatewayResponse::Table(state.table())]);
            state.links.push(Link { node: self.id, out, sessions: HashMap::new(), registered: Vec::new() });
            state.links.len() - 1
        };
        let (cluster, id) = (self.cluster.clone(), self.id);
        let mut requests = request.into_inner();
        tokio::spawn(async move {
            while let Some(Ok(packet)) = requests.next().await {
                let mut state = cluster.0.lock();
                if state.dead.contains(&id) {
                    return;
                }
                for frame in &packet.frames {
                    let response = state.handle(id, link, codec::decode(frame).unwrap());
                    tell(&state.links[link].out, response.as_slice());
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(packets))))
    }
}

impl Cluster {
    async fn start(verifier: Verifier) -> (Self, Vec<String>) {
        let state = State {
            verifier,
            epoch: 1,
            holder: NodeId(1),
            addresses: BTreeMap::new(),
            dead: Vec::new(),
            links: Vec::new(),
            conversations: HashMap::new(),
            members: HashMap::new(),
            inboxes: HashMap::new(),
            cursors: HashMap::new(),
            counters: HashMap::new(),
            pushes_to_drop: 0,
            sends_to_forget: 0,
            sends: 0,
        };
        let cluster = Self(Arc::new(Mutex::new(state)));
        for id in [NodeId(1), NodeId(2)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            cluster.0.lock().addresses.insert(id, listener.local_addr().unwrap());
            let service = LogicServer::new(Node { id, cluster: cluster.clone() })
                .max_decoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize);
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
        }
        let addresses = cluster.0.lock().addresses.values().map(ToString::to_string).collect();
        (cluster, addresses)
    }

    /// All slots move to the other node, which tells at once.
    pub(crate) fn move_slots(&self) {
        let mut state = self.0.lock();
        state.holder = if state.holder == NodeId(1) { NodeId(2) } else { NodeId(1) };
        state.epoch += 1;
        let table = state.table();
        for link in &mut state.links {
            link.registered.clear();
            tell(&link.out, &[GatewayResponse::Table(table.clone())]);
        }
    }

    /// All slots move to the other node, and nobody tells: the old holder only refuses.
    pub(crate) fn move_slots_silently(&self) {
        let mut state = self.0.lock();
        state.holder = if state.holder == NodeId(1) { NodeId(2) } else { NodeId(1) };
        state.epoch += 1;
    }

    /// The other node learns what moved.
    pub(crate) fn tell_table(&self) {
        let state = self.0.lock();
        for link in state.links.iter().filter(|link| link.node == state.holder) {
            tell(&link.out, &[GatewayResponse::Table(state.table())]);
        }
    }

    /// The holder dies and the other node takes its slots.
    pub(crate) fn kill_holder(&self) {
        let mut state = self.0.lock();
        let dead = state.holder;
        state.dead.push(dead);
        for link in state.links.iter_mut().filter(|link| link.node == dead) {
            link.out = mpsc::channel(1).0;
            link.registered.clear();
        }
        drop(state);
        self.move_slots();
    }

    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        act(&mut self.0.lock())
    }

    /// The durable cursor of a device.
    pub(crate) fn cursor(&self, user: &str, device: &str) -> Option<Seq> {
        let key = (UserId::new(user).unwrap(), DeviceId::new(device).unwrap());
        self.0.lock().cursors.get(&key).copied()
    }

    /// Messages in the direct conversation of two users.
    pub(crate) fn messages(&self, one: &str, other: &str) -> usize {
        let id = ConversationId::direct(UserId::new(one).unwrap(), UserId::new(other).unwrap());
        self.0.lock().conversations.get(&id).map_or(0, Vec::len)
    }
}

/// A gateway before two fake logic nodes.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) address: SocketAddr,
    pub(crate) files: DevFiles,
    minter: Minter,
    _dir: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    running: Option<tokio::task::JoinHandle<Result<(), seriatim_gateway::GatewayRunError>>>,
    config: GatewayConfig,
    registry: Registry,
}

pub(crate) fn now_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// A site whose gateway is told something else than usual.
    pub(crate) async fn start_with(change: impl FnOnce(&mut GatewayConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let files = ensure_dev_ca(dir.path()).unwrap();
        let token_public_key_pem = std::fs::read(&files.token_public).unwrap();
        let verifier = Verifier::from_public_pem(&token_public_key_pem).unwrap();
        let (cluster, logic) = Cluster::start(verifier.clone()).await;
        let mut config = GatewayConfig {
            name: None,
            operators: None,
            listen: "127.0.0.1:0".parse().unwrap(),
            logic,
            certificate: CertificateFiles { chain: files.gateway.clone(), key: files.gateway_key.clone() },
            webtransport: Default::default(),
            origins: Origins::default(),
            address_connections_max: seriatim_gateway::ADDRESS_CONNECTIONS_MAX,
            verifier,
            quic_secret: None,
            client_ca: None,
            insecure_plaintext: true,
            mtls: None,
        };
        change(&mut config);
        let minter = Minter::from_private_pem(&std::fs::read(&files.token_key).unwrap()).unwrap();
        let address = config.listen;
        let mut site = Self {
            cluster,
            address,
            files,
            minter,
            _dir: dir,
            stop: None,
            running: None,
            config,
            registry: Registry::default(),
        };
        site.start_gateway().await;
        site
    }

    async fn start_gateway(&mut self) {
        // A socket of the one before lives until its last connection has forgotten its peer.
        let deadline = Instant::now() + Duration::from_secs(10);
        let server = loop {
            let mut registry = Registry::default();
            match GatewayServer::start(self.config.clone(), &mut registry).await {
                Ok(server) => {
                    self.registry = registry;
                    break server;
                }
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        self.address = server.address();
        // The next one takes the same port.
        self.config.listen = self.address;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        self.stop = Some(stop);
        self.running = Some(tokio::spawn(server.run(async {
            let _ = stopped.await;
        })));
    }

    /// Stops the gateway in order and starts another one on the same port.
    pub(crate) async fn restart_gateway(&mut self) {
        self.stop_gateway().await;
        self.start_gateway().await;
    }

    pub(crate) async fn stop_gateway(&mut self) {
        drop(self.stop.take());
        self.running.take().unwrap().await.unwrap().unwrap();
    }

    /// The metrics of the gateway, as text.
    pub(crate) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    /// One metric, by its name and labels; 0 if there is none yet.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.metrics();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub(crate) fn ca(&self) -> Vec<u8> {
        std::fs::read(&self.files.ca).unwrap()
    }

    pub(crate) fn token(&self, user: &str, life_s: i64) -> String {
        let end = now_s().saturating_add_signed(life_s);
        self.minter.mint(TENANT, &UserId::new(user).unwrap(), end).unwrap()
    }

    pub(crate) fn builder(&self, user: &str, device: &str) -> seriatim_client::ClientBuilder {
        seriatim_client::Client::builder(self.address, "localhost")
            .ca_pem(&self.ca())
            .token(self.token(user, 3600))
            .device(device)
    }

    pub(crate) async fn client(&self, user: &str, device: &str) -> seriatim_client::Client {
        self.builder(user, device).connect().await.unwrap()
    }
}

/// Waits until a condition holds, at most ten seconds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
