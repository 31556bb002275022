//! Streams: gateways with their sessions, source nodes that deliver here, and peers that are delivered to.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use seriatim_logic_core::{Cancel, Event, RequestId, Send, SessionKey, SourceId};
use seriatim_proto::chaos::{self, Point};
use seriatim_proto::command::{DeliveryOutcome, Mark};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::hash;
use seriatim_proto::ids::{ConversationId, CounterName, GroupId, Namespace, NodeId, Seq, SlotId, TenantId};
use seriatim_proto::logic::{
    CallError, GatewayResponse, HolderTable, Identity, PeerRequest, PeerResponse, PushEntry, SlotDeliveries,
};
use seriatim_proto::meta::NodeKind;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::{Brain, HolderKey};
use crate::packets::Packets;
use crate::{clock, peers};

/// Bytes of bodies and references in one request to a peer.
const PEER_BYTES: usize = 4 << 20;

/// Room in a gateway's queue that pushes leave to answers.
const PUSH_ROOM: usize = crate::service::STREAM_FRAMES / 2;
/// A peer that has not answered for this long is asked again.
const PEER_TIMEOUT_MS: u64 = 5_000;

/// What a gateway's stream wants of holders.
#[derive(Debug)]
pub(crate) enum SessionInput {
    /// An entry.
    Send { id: u64, send: Box<Send> },
    /// A message id to be settled.
    Cancel { id: u64, cancel: Box<Cancel> },
    /// What a user says about a conversation to his own devices.
    Mark { id: u64, identity: Identity, conversation: ConversationId, mark: Mark },
    /// A cursor.
    Ack { id: u64, identity: Identity, cursor: Seq },
    /// Something of the sequence service.
    Count { id: u64, tenant: TenantId, counter: CounterName, what: Counting },
    /// A registration.
    Register { id: u64, session: u64, identity: Identity, position: Seq },
    /// All registrations with their positions.
    Renew { positions: Vec<(u64, Seq)> },
    /// A session showed a fresh token, which counts from now on.
    Reopened { session: u64, identity: Identity },
    /// A session is gone.
    Close { session: u64 },
    /// An answer that was made elsewhere, to go out in order.
    Respond { response: GatewayResponse },
}

/// What is wanted of a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counting {
    /// So many numbers.
    Next(u32),
    /// Where it stands.
    Current,
}

/// A gateway's stream.
pub(crate) struct Gateway {
    responses: mpsc::Sender<GatewayResponse>,
    /// has the whole table
    told: bool,
    /// Registered ones. Nothing is pushed, and no registration renewed, behind the end of an identity.
    sessions: HashMap<u64, (Identity, SlotId)>,
    lagging: Vec<(u64, Seq)>,
    unregistered: Vec<u64>,
    renewed: bool,
}

/// What one slot says to its deliveries.
type SlotAnswer = Result<Vec<DeliveryOutcome>, CallError>;

/// A source node's stream, and the answers that it waits for.
pub(crate) struct Source {
    answers: mpsc::Sender<PeerResponse>,
    waiting: HashMap<u64, Vec<Option<SlotAnswer>>>,
}

impl Source {
    pub(crate) fn new(answers: mpsc::Sender<PeerResponse>) -> Self {
        Self { answers, waiting: HashMap::new() }
    }
}

/// A node that is delivered to.
pub(crate) struct Peer {
    queue: mpsc::Sender<PeerRequest>,
    connection: u64,
    gathered: Vec<(HolderKey, u64, SlotDeliveries)>,
}

/// A request to a peer: whose deliveries, in order.
pub(crate) struct PeerAsked {
    peer: NodeId,
    sent_ms: u64,
    of: Vec<(HolderKey, u64)>,
}

impl Brain {
    // --- gateways

    pub(super) fn on_gateway_up(&mut self, stream: u64, responses: mpsc::Sender<GatewayResponse>) {
        let gateway = Gateway {
            responses,
            told: false,
            sessions: HashMap::new(),
            lagging: Vec::new(),
            unregistered: Vec::new(),
            renewed: false,
        };
        self.gateways.insert(stream, gateway);
    }

    pub(super) fn on_gateway_down(&mut self, stream: u64) {
        let Some(gateway) = self.gateways.remove(&stream) else { return };
        for (session, (identity, slot)) in gateway.sessions {
            let session = SessionKey { stream, session };
            self.handle(slot, Event::Unregister { session, tenant: identity.tenant, user: identity.user });
        }
    }

    pub(super) fn respond(&mut self, stream: u64, response: GatewayResponse) {
        let queue = self.callers.get(&stream).or_else(|| self.gateways.get(&stream).map(|gateway| &gateway.responses));
        let Some(error) = queue.and_then(|queue| queue.try_send(response).err()) else { return };
        // Dropping the queue ends the stream; a gateway comes again and registers anew. Some have left by themselves.
        if matches!(error, TrySendError::Full(_)) {
            self.metrics.streams_dropped.inc();
        }
        self.callers.remove(&stream);
        self.on_gateway_down(stream);
    }

    pub(super) fn on_session(&mut self, stream: u64, input: SessionInput) {
        match input {
            SessionInput::Send { id, send } => {
                let slot = hash::conversation_slot(send.tenant, &send.conversation);
                let event = Event::Send { request: RequestId { stream, id }, send: *send };
                if !self.handle(slot, event) {
                    self.refuse_call(stream, id, slot);
                }
            }
            SessionInput::Cancel { id, cancel } => {
                let slot = hash::conversation_slot(cancel.tenant, &cancel.conversation);
                self.metrics.cancels.inc();
                let event = Event::Cancel { request: RequestId { stream, id }, cancel: *cancel };
                if !self.handle(slot, event) {
                    self.refuse_call(stream, id, slot);
                }
            }
            SessionInput::Mark { id, identity, conversation, mark } => {
                let slot = hash::inbox_slot(identity.tenant, &identity.user);
                let (tenant, user) = (identity.tenant, identity.user);
                self.metrics.marks.inc();
                let event = Event::Mark { request: RequestId { stream, id }, tenant, user, conversation, mark };
                if !self.handle(slot, event) {
                    self.refuse_call(stream, id, slot);
                }
            }
            SessionInput::Ack { id, identity, cursor } => {
                let slot = hash::inbox_slot(identity.tenant, &identity.user);
                let (tenant, user, device) = (identity.tenant, identity.user, identity.device);
                let event = Event::Ack { request: RequestId { stream, id }, tenant, user, device, cursor };
                if !self.handle(slot, event) {
                    self.refuse_call(stream, id, slot);
                }
            }
            SessionInput::Count { id, tenant, counter, what } => {
                let slot = hash::slot(&Namespace::counter(tenant, counter.clone()));
                let request = RequestId { stream, id };
                let event = match what {
                    Counting::Next(count) => Event::Next { request, tenant, counter, count },
                    Counting::Current => Event::Current { request, tenant, counter },
                };
                self.metrics.sequence_requests.inc();
                if !self.handle(slot, event) {
                    self.refuse_call(stream, id, slot);
                }
            }
            SessionInput::Register { id, session, identity, position } => {
                let slot = hash::inbox_slot(identity.tenant, &identity.user);
                let (tenant, user) = (identity.tenant, identity.user.clone());
                let (request, key) = (RequestId { stream, id }, SessionKey { stream, session });
                if self.handle(slot, Event::Register { request, session: key, tenant, user, position }) {
                    if let Some(gateway) = self.gateways.get_mut(&stream) {
                        gateway.sessions.insert(session, (identity, slot));
                    }
                } else {
                    let result = Err(self.with_row(CallError::NotHolder { slot, row: None }));
                    self.respond(stream, GatewayResponse::Registered { id, result });
                }
            }
            SessionInput::Renew { positions } => self.on_renew(stream, positions),
            SessionInput::Reopened { session, identity } => {
                let key = SessionKey { stream, session };
                let gateway = self.gateways.get_mut(&stream);
                let known = gateway.and_then(|gateway| gateway.sessions.get_mut(&session));
                if let Some((known, _)) = known {
                    *known = identity;
                    if !known.scopes.device {
                        self.unregister(key);
                    }
                }
            }
            SessionInput::Close { session } => self.unregister(SessionKey { stream, session }),
            SessionInput::Respond { response } => self.respond(stream, response),
        }
    }

    /// Forgets a registration, if there is one.
    fn unregister(&mut self, session: SessionKey) {
        let gateway = self.gateways.get_mut(&session.stream);
        if let Some((identity, slot)) = gateway.and_then(|gateway| gateway.sessions.remove(&session.session)) {
            self.handle(slot, Event::Unregister { session, tenant: identity.tenant, user: identity.user });
        }
    }

    /// Forgets the registrations among these whose token or certificate has ended. The gateway is told when it
    /// renews them next.
    fn unregister_ended(&mut self, stream: u64, sessions: impl Iterator<Item = u64>) -> Vec<u64> {
        let now_ms = clock::unix_ms();
        let Some(gateway) = self.gateways.get(&stream) else { return Vec::new() };
        let has_ended = |session: &u64| {
            gateway
                .sessions
                .get(session)
                .is_some_and(|(identity, _)| identity.expires_at_s.saturating_mul(1_000) <= now_ms)
        };
        let ended: Vec<_> = sessions.filter(has_ended).collect();
        for session in &ended {
            self.unregister(SessionKey { stream, session: *session });
            self.metrics.registrations_ended.inc();
        }
        ended
    }

    fn on_renew(&mut self, stream: u64, positions: Vec<(u64, Seq)>) {
        self.unregister_ended(stream, positions.iter().map(|(session, _)| *session));
        for (session, position) in positions {
            let known = self.gateways.get(&stream).and_then(|gateway| gateway.sessions.get(&session).cloned());
            let key = SessionKey { stream, session };
            let served = known.is_some_and(|(identity, slot)| {
                self.handle(slot, Event::Renew { session: key, tenant: identity.tenant, user: identity.user, position })
            });
            if !served {
                self.unregistered(key);
            }
        }
        if let Some(gateway) = self.gateways.get_mut(&stream) {
            gateway.renewed = true;
        }
    }

    fn refuse_call(&mut self, stream: u64, id: u64, slot: SlotId) {
        let error = self.with_row(CallError::NotHolder { slot, row: None });
        self.metrics.refused(&error);
        let result = Err(error);
        self.respond(stream, GatewayResponse::Reply { id, result });
    }

    pub(super) fn push(&mut self, sessions: &[SessionKey], entries: Vec<PushEntry>) {
        let mut by_stream: HashMap<u64, Vec<u64>> = HashMap::new();
        for key in sessions {
            by_stream.entry(key.stream).or_default().push(key.session);
        }
        for (stream, mut sessions) in by_stream {
            let ended = self.unregister_ended(stream, sessions.iter().copied());
            sessions.retain(|session| !ended.contains(session));
            if sessions.is_empty() {
                continue;
            }
            let count = (entries.len() * sessions.len()) as u64;
            let room = self.gateways.get(&stream).is_some_and(|gateway| gateway.responses.capacity() > PUSH_ROOM);
            if room {
                chaos::hit(Point::Push);
                self.metrics.pushed_entries.inc_by(count);
                self.respond(stream, GatewayResponse::Push { sessions, entries: entries.clone() });
            } else {
                // The device sees the gap at the next push, or is told so when its registration is renewed.
                self.metrics.pushes_dropped.inc_by(count);
            }
        }
    }

    pub(super) fn lagging(&mut self, session: SessionKey, tail: Seq) {
        if let Some(gateway) = self.gateways.get_mut(&session.stream) {
            gateway.lagging.push((session.session, tail));
        }
    }

    pub(super) fn unregistered(&mut self, session: SessionKey) {
        if let Some(gateway) = self.gateways.get_mut(&session.stream) {
            gateway.sessions.remove(&session.session);
            gateway.unregistered.push(session.session);
        }
    }

    /// Once a second something goes to every gateway, so that silence means something.
    pub(super) fn tell_gateways(&mut self, now_ms: u64) {
        if self.told_ms + 1_000 <= now_ms {
            self.told_ms = now_ms;
            for stream in self.gateways.keys().copied().collect::<Vec<_>>() {
                self.respond(stream, GatewayResponse::Table(HolderTable::default()));
            }
        }
    }

    fn nodes(&self) -> Vec<(NodeId, String)> {
        let directory = self.stores.topology.directory();
        let nodes = directory.into_iter().flat_map(|directory| directory.nodes);
        nodes.filter(|node| node.kind == NodeKind::Logic).map(|node| (node.id, node.address)).collect()
    }

    pub(super) fn flush_gateways(&mut self) {
        let changed: Vec<_> = std::mem::take(&mut self.changed_rows).into_values().collect();
        let nodes = std::mem::take(&mut self.nodes_changed).then(|| self.nodes());
        for stream in self.gateways.keys().copied().collect::<Vec<_>>() {
            let Some(gateway) = self.gateways.get_mut(&stream) else { continue };
            let (lagging, unregistered) =
                (std::mem::take(&mut gateway.lagging), std::mem::take(&mut gateway.unregistered));
            let renewed = std::mem::take(&mut gateway.renewed);
            if !std::mem::replace(&mut gateway.told, true) {
                let table = HolderTable { rows: self.rows.values().copied().collect(), nodes: Some(self.nodes()) };
                self.respond(stream, GatewayResponse::Table(table));
            } else if !changed.is_empty() || nodes.is_some() {
                self.respond(
                    stream,
                    GatewayResponse::Table(HolderTable { rows: changed.clone(), nodes: nodes.clone() }),
                );
            }
            if renewed || !lagging.is_empty() {
                self.respond(stream, GatewayResponse::Lagging { sessions: lagging });
            }
            if !unregistered.is_empty() {
                self.respond(stream, GatewayResponse::Unregistered { sessions: unregistered });
            }
        }
    }

    // --- deliveries out

    pub(super) fn deliver(&mut self, key: HolderKey, batch: u64, deliveries: SlotDeliveries) {
        self.metrics.delivery_batches.inc();
        let slot = deliveries.slot;
        if self.holders.contains_key(&slot) {
            let id = self.id();
            self.local_deliveries.insert(id, (key, batch));
            let source = SourceId { stream: 0, request: id, index: 0 };
            self.handle(slot, Event::Deliver { source, deliveries: deliveries.deliveries, bodies: deliveries.bodies });
            return;
        }
        let holder = self.rows.get(&slot).and_then(|row| row.holder);
        let me = self.standing.borrow().map(|standing| standing.node);
        match holder.filter(|holder| Some(*holder) != me).and_then(|holder| self.peer(holder)) {
            Some(peer) => peer.gathered.push((key, batch, deliveries)),
            None => self.unanswered(key, batch),
        }
    }

    fn unanswered(&mut self, key: HolderKey, batch: u64) {
        self.metrics.deliveries_unanswered.inc();
        self.handle_under(key, Event::DeliverAnswered { batch, outcomes: None });
    }

    fn peer(&mut self, node: NodeId) -> Option<&mut Peer> {
        if !self.peers.contains_key(&node) {
            let standing = (*self.standing.borrow())?;
            let address = self.nodes().into_iter().find(|(id, _)| *id == node)?.1;
            let (queue, requests) = Packets::channel(peers::PEER_QUEUE);
            let connection = self.id();
            tokio::spawn(peers::run(
                (address, self.stores.mtls.clone()),
                standing.cluster,
                standing.node,
                node,
                connection,
                requests,
                self.door.clone(),
            ));
            self.peers.insert(node, Peer { queue, connection, gathered: Vec::new() });
        }
        self.peers.get_mut(&node)
    }

    pub(super) fn flush_peers(&mut self) {
        let full: Vec<NodeId> =
            self.peers.iter().filter(|(_, peer)| !peer.gathered.is_empty()).map(|(node, _)| *node).collect();
        for node in full {
            let Some(peer) = self.peers.get_mut(&node) else { continue };
            // A request is answered when all its slots are: those of one group wait for that group alone.
            let mut by_group: BTreeMap<Option<GroupId>, Vec<_>> = BTreeMap::new();
            for gathered in std::mem::take(&mut peer.gathered) {
                by_group.entry(self.stores.topology.group_of(gathered.2.slot)).or_default().push(gathered);
            }
            by_group.into_values().for_each(|gathered| self.send_to_peer(node, gathered));
        }
    }

    fn send_to_peer(&mut self, node: NodeId, gathered: Vec<(HolderKey, u64, SlotDeliveries)>) {
        let mut gathered = gathered.into_iter().peekable();
        while gathered.peek().is_some() {
            let (mut of, mut slots, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some((key, batch, deliveries)) = gathered.next_if(|_| bytes < PEER_BYTES) {
                bytes += deliveries.bodies.iter().map(|body| body.body.len() + 100).sum::<usize>();
                bytes += deliveries.deliveries.iter().map(|delivery| 200 + 100 * delivery.entries.len()).sum::<usize>();
                of.push((key, batch));
                slots.push(deliveries);
            }
            let (id, sent_ms) = (self.id(), clock::boot_ms());
            let request = PeerRequest::Deliver { id, slots };
            chaos::hit(Point::DeliverSend);
            if self.peers.get(&node).is_some_and(|peer| peer.queue.try_send(request).is_ok()) {
                self.peer_asked.insert(id, PeerAsked { peer: node, sent_ms, of });
            } else {
                of.into_iter().for_each(|(key, batch)| self.unanswered(key, batch));
            }
        }
    }

    pub(super) fn drop_overdue_deliveries(&mut self, now_ms: u64) {
        let overdue = |asked: &PeerAsked| asked.sent_ms + PEER_TIMEOUT_MS < now_ms;
        let lost: Vec<u64> = self.peer_asked.iter().filter(|(_, asked)| overdue(asked)).map(|(id, _)| *id).collect();
        for id in lost {
            let of = self.peer_asked.remove(&id).map(|asked| asked.of).unwrap_or_default();
            of.into_iter().for_each(|(key, batch)| self.unanswered(key, batch));
        }
    }

    pub(super) fn on_peer_answer(&mut self, id: u64, results: Vec<Result<Vec<DeliveryOutcome>, CallError>>) {
        let Some(asked) = self.peer_asked.remove(&id) else { return };
        chaos::hit(Point::DeliverAnswered);
        let took_ms = clock::boot_ms().saturating_sub(asked.sent_ms);
        self.metrics.delivery_seconds.observe(Duration::from_millis(took_ms).as_secs_f64());
        let mut results = results.into_iter();
        for (key, batch) in asked.of {
            let result = results.next();
            if let Some(Err(CallError::NotHolder { row: Some(row), .. })) = &result {
                self.on_row(*row);
            }
            match result.and_then(Result::ok) {
                Some(outcomes) => self.handle_under(key, Event::DeliverAnswered { batch, outcomes: Some(outcomes) }),
                None => self.unanswered(key, batch),
            }
        }
    }

    pub(super) fn on_peer_down(&mut self, node: NodeId, connection: u64) {
        if self.peers.get(&node).is_none_or(|peer| peer.connection != connection) {
            return;
        }
        let gathered = self.peers.remove(&node).map(|peer| peer.gathered).unwrap_or_default();
        gathered.into_iter().for_each(|(key, batch, _)| self.unanswered(key, batch));
        let lost: Vec<u64> =
            self.peer_asked.iter().filter(|(_, asked)| asked.peer == node).map(|(id, _)| *id).collect();
        for id in lost {
            let of = self.peer_asked.remove(&id).map(|asked| asked.of).unwrap_or_default();
            of.into_iter().for_each(|(key, batch)| self.unanswered(key, batch));
        }
    }

    // --- deliveries in

    pub(super) fn on_source_delivers(&mut self, stream: u64, id: u64, slots: Vec<SlotDeliveries>) {
        let Some(source) = self.sources.get_mut(&stream) else { return };
        chaos::hit(Point::DeliverReceive);
        source.waiting.insert(id, vec![None; slots.len()]);
        if slots.is_empty() {
            self.finish_source(stream, id);
        }
        for (index, deliveries) in slots.into_iter().enumerate() {
            let at = SourceId { stream, request: id, index: u32::try_from(index).expect("a request has few slots") };
            let slot = deliveries.slot;
            if !self.handle(
                slot,
                Event::Deliver { source: at, deliveries: deliveries.deliveries, bodies: deliveries.bodies },
            ) {
                let result = Err(self.with_row(CallError::NotHolder { slot, row: None }));
                self.answer_source(at, result);
            }
        }
    }

    pub(super) fn answer_source(&mut self, at: SourceId, result: Result<Vec<DeliveryOutcome>, CallError>) {
        if at.stream == 0 {
            if let Some((key, batch)) = self.local_deliveries.remove(&at.request) {
                match result {
                    Ok(outcomes) => self.handle_under(key, Event::DeliverAnswered { batch, outcomes: Some(outcomes) }),
                    Err(_) => self.unanswered(key, batch),
                }
            }
            return;
        }
        let waiting = self.sources.get_mut(&at.stream).and_then(|source| source.waiting.get_mut(&at.request));
        if let Some(place) = waiting.and_then(|waiting| waiting.get_mut(at.index as usize)) {
            *place = Some(result);
            self.finish_source(at.stream, at.request);
        }
    }

    fn finish_source(&mut self, stream: u64, id: u64) {
        let Some(source) = self.sources.get_mut(&stream) else { return };
        if source.waiting.get(&id).is_none_or(|waiting| waiting.iter().any(Option::is_none)) {
            return;
        }
        let missing = || Err(CallError::Refused(Refusal::new(ErrorCode::Internal, "no answer")));
        let results = source.waiting.remove(&id).unwrap_or_default();
        let results = results.into_iter().map(|result| result.unwrap_or_else(missing)).collect();
        if source.answers.try_send(PeerResponse::Delivered { id, results }).is_err() {
            // Dropping the queue ends the stream; the source delivers again.
            self.sources.remove(&stream);
        }
    }
}
