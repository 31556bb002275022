//! Ours: the stores of a playground without logic nodes, and a client that does to them what a logic node does.
//!
//! It opens leases, claims the slots of its conversations and renews (design.md §3), and appends messages of direct
//! conversations, fenced, numbered and placed in reserved segments, gathered into entries as a logic node gathers them. A
//! command without an answer is sent again as it was (design.md §3.8). What a logic node would do besides, the inboxes, is
//! left out: an append writes its message, its dedupe row, its conversation's row and its slot's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use parking_lot::Mutex;
use seriatim_proto::codec;
use seriatim_proto::command::{Append, Command, Content, HolderOp, Outcome, Place, Reject};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::grpc::Packet;
use seriatim_proto::grpc::store_client::StoreClient;
use seriatim_proto::hash;
use seriatim_proto::ids::{
    ConversationId, Epoch, Fence, GroupId, LeaseId, MessageId, NodeId, Seq, SlotId, StoreId, TenantId, UserId,
};
use seriatim_proto::limits;
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, NodeKind};
use seriatim_proto::playground::{FILE, Playground, PlaygroundRole};
use seriatim_proto::store::{Renewal, StoreEvent, StoreRefusal, StoreRequest, StoreResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Bodies, Plan};
use crate::load::System;
use crate::servers::{self, Cluster};

/// The stores of a playground, and the client.
pub(crate) struct Ours {
    cluster: Cluster,
    pids: Vec<u32>,
    metrics: Vec<String>,
    links: BTreeMap<StoreId, Link>,
    said: mpsc::Receiver<Said>,
    groups: BTreeMap<GroupId, Group>,
    slots: HashMap<SlotId, Slot>,
    conversations: Vec<Conversation>,
    bodies: Bodies,
    asked: HashMap<u64, Asked>,
    next_id: u64,
    next_order: u64,
    directory: Option<Directory>,
    renewing: Renewing,
}

/// What is renewed where, shared with the task that does it.
type Renewing = Arc<Mutex<BTreeMap<GroupId, (StoreId, LeaseId)>>>;

/// A stream to a store, with the frames of its next packet.
struct Link {
    packets: mpsc::Sender<Packet>,
    frames: Vec<Bytes>,
}

/// What a store says, and which.
type Said = (StoreId, anyhow::Result<StoreResponse>);

#[derive(Default)]
struct Group {
    leader: Option<StoreId>,
    queue: VecDeque<Held>,
    in_flight: u32,
    /// refused, to be sent again once nothing else is under way; by the order in which they were made
    failed: BTreeMap<u64, Held>,
}

/// A command of a slot.
struct Held {
    order: u64,
    number: u64,
    command: Bytes,
}

struct Slot {
    group: GroupId,
    epoch: Epoch,
    n: u64,
}

struct Conversation {
    id: ConversationId,
    sender: UserId,
    slot: SlotId,
    /// of its segment
    next: Option<Seq>,
}

enum Asked {
    /// commands of slots
    Held(GroupId, Vec<Held>),
    /// commands of the node itself
    Own,
}

impl Ours {
    /// Starts it in an empty folder.
    pub(crate) async fn start(seriatim: &Path, folder: &Path, plan: &Plan) -> anyhow::Result<Self> {
        let groups = plan.groups.to_string();
        let cluster =
            Cluster::start(seriatim, folder, &["--logic", "0", "--gateways", "0", "--groups", &groups]).await?;
        let pids = cluster.pids().await?;
        ensure!(pids.len() == 3, "{} stores run", pids.len());
        let about = std::fs::read(cluster.folder().join(FILE)).context("the playground's description")?;
        let about: Playground = serde_json::from_slice(&about)?;
        let stores: Vec<_> = about.nodes.iter().filter(|node| node.role == PlaygroundRole::Store).collect();
        let (said, heard) = mpsc::channel(ANSWERS);
        let mut links = BTreeMap::new();
        for store in &stores {
            let (id, link) = open(&store.address, said.clone()).await?;
            links.insert(id, link);
        }
        let mut ours = Self {
            cluster,
            pids,
            metrics: stores.iter().map(|store| store.metrics.clone()).collect(),
            links,
            said: heard,
            groups: BTreeMap::new(),
            slots: HashMap::new(),
            conversations: Vec::new(),
            bodies: plan.bodies(),
            asked: HashMap::new(),
            next_id: 0,
            next_order: 0,
            directory: None,
            renewing: Renewing::default(),
        };
        tokio::time::timeout(PATIENCE, ours.set_up(plan)).await.context("leases and claims took too long")??;
        Ok(ours)
    }

    /// Of the stores.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.pids.clone()
    }

    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.cluster.stop().await
    }

    /// The sum of a counter over all stores.
    pub(crate) async fn counter(&self, name: &str) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for address in &self.metrics {
            let mut stream = TcpStream::connect(address).await.context("a store's metrics")?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: store\r\n\r\n").await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            sum += sample(&text, name).with_context(|| format!("{address} has no {name}"))?;
        }
        Ok(sum)
    }

    /// Leases, claims, and a segment for every conversation.
    async fn set_up(&mut self, plan: &Plan) -> anyhow::Result<()> {
        let groups = plan.groups as usize + 1;
        let most = groups.div_ceil(self.links.len());
        let is_spread = |ours: &Self| {
            let leads = |store: &StoreId| ours.groups.values().filter(|group| group.leader == Some(*store)).count();
            let led = ours.groups.values().filter(|group| group.leader.is_some()).count();
            led == groups && ours.links.keys().all(|store| leads(store) <= most)
        };
        let has_slots = |ours: &Self| ours.slots.len() == usize::from(limits::SLOTS);
        while !(is_spread(self) && has_slots(self) && self.directory.is_some()) {
            self.hear(&mut Vec::new()).await.context("wait until the leaders are spread over the stores")?;
        }
        tokio::spawn(renew(Arc::clone(&self.renewing), self.packets()));
        let open = MetaCommand::OpenNode { kind: NodeKind::Logic, address: "127.0.0.1:1".to_owned() };
        let opened = self.call(GroupId::META, &[Command::Meta(open)]).await?;
        let [Outcome::Meta(MetaOutcome::Opened(node))] = &opened[..] else { bail!("no node: {opened:?}") };
        let (node, lease) = (node.id, node.lease);
        self.keep(GroupId::META, lease);
        for group in self.groups.keys().copied().filter(|group| *group != GroupId::META).collect::<Vec<_>>() {
            self.claim(group, node).await?;
        }
        for place in 0..plan.namespaces {
            let (sender, peer) = (format!("bench-{place}-a"), format!("bench-{place}-b"));
            let sender = UserId::new(&sender)?;
            let id = ConversationId::direct(sender.clone(), UserId::new(&peer)?);
            let slot = hash::conversation_slot(TENANT, &id);
            self.conversations.push(Conversation { id, sender, slot, next: None });
        }
        // A first append each, which brings a segment.
        let mut first: Vec<u64> = Vec::new();
        for place in 0..self.conversations.len() as u64 {
            self.append(FIRSTS + place)?;
        }
        while first.len() < self.conversations.len() {
            self.flush().await?;
            self.hear(&mut first).await?;
        }
        Ok(())
    }

    async fn claim(&mut self, group: GroupId, node: NodeId) -> anyhow::Result<()> {
        let leased = self.call(group, &[Command::OpenLease { node }]).await?;
        let [Outcome::Leased(lease)] = leased[..] else { bail!("no lease: {leased:?}") };
        self.keep(group, lease);
        let of_group: Vec<(SlotId, Epoch)> =
            self.slots.iter().filter(|(_, slot)| slot.group == group).map(|(id, slot)| (*id, slot.epoch)).collect();
        for claims in of_group.chunks(limits::ENTRY_COMMANDS_MAX as usize / 4) {
            let commands: Vec<_> =
                claims.iter().map(|(slot, seen)| Command::Claim { slot: *slot, lease, seen: *seen }).collect();
            let outcomes = self.call(group, &commands).await?;
            for ((slot, _), outcome) in claims.iter().zip(outcomes) {
                let Outcome::Claimed { epoch } = outcome else { bail!("no claim: {outcome:?}") };
                self.slots.insert(*slot, Slot { group, epoch, n: 0 });
            }
        }
        Ok(())
    }

    fn keep(&self, group: GroupId, lease: LeaseId) {
        if let Some(leader) = self.groups.get(&group).and_then(|group| group.leader) {
            self.renewing.lock().insert(group, (leader, lease));
        }
    }

    fn packets(&self) -> BTreeMap<StoreId, mpsc::Sender<Packet>> {
        self.links.iter().map(|(id, link)| (*id, link.packets.clone())).collect()
    }

    /// Commands of the node itself, in an entry of their own; asked again while the group's leader changes, so they must
    /// bear that. Only while nothing is measured.
    async fn call(&mut self, group: GroupId, commands: &[Command]) -> anyhow::Result<Vec<Outcome>> {
        loop {
            let id = self.propose(group, commands.len(), codec::encode_bytes(&commands), Asked::Own)?;
            self.send_packets().await?;
            let result = loop {
                let (store, said) = self.said.recv().await.context("all streams to the stores ended")?;
                match said? {
                    StoreResponse::Proposed { id: of, result } if of == id => break result,
                    other => self.heed(store, other, &mut Vec::new())?,
                }
            };
            match result {
                Ok(outcomes) => return Ok(outcomes),
                Err(refusal) if passes(&refusal) => {
                    let heard = tokio::time::timeout(AGAIN, self.hear(&mut Vec::new())).await;
                    heard.unwrap_or(Ok(()))?;
                }
                Err(refusal) => return Err(refusal).context("set up"),
            }
        }
    }

    fn propose(&mut self, group: GroupId, count: usize, batch: Bytes, asked: Asked) -> anyhow::Result<u64> {
        let leader = self.groups.get(&group).and_then(|group| group.leader);
        let link = leader.and_then(|leader| self.links.get_mut(&leader)).context("a group without a leader")?;
        self.next_id += 1;
        let request = StoreRequest::Propose { id: self.next_id, group, count: u32::try_from(count)?, batch };
        link.frames.push(codec::encode_bytes(&request));
        self.asked.insert(self.next_id, asked);
        Ok(self.next_id)
    }

    fn append(&mut self, number: u64) -> anyhow::Result<()> {
        let count = self.conversations.len() as u64;
        let conversation = &mut self.conversations[(number % count) as usize];
        let slot = self.slots.get_mut(&conversation.slot).context("a slot of nobody")?;
        let mut message_id = [0; 16];
        message_id[8..].copy_from_slice(&number.to_be_bytes());
        let place = match conversation.next {
            Some(seq) => {
                conversation.next = Some(seq.next());
                Place::At(seq)
            }
            None => Place::Open { segment: limits::SEGMENT_SEQS_MAX },
        };
        let append = Append {
            tenant: TENANT,
            conversation: conversation.id.clone(),
            sender: conversation.sender.clone(),
            message_id: MessageId(message_id),
            known: None,
            follows: None,
            content: Content::Message { salt: Bytes::copy_from_slice(&message_id), body: self.bodies.of(number) },
            place,
            at_ms: servers::unix_ms(),
            local: Vec::new(),
            delivered: None,
        };
        let fence = Fence { slot: conversation.slot, epoch: slot.epoch, n: slot.n };
        slot.n += 1;
        let command = codec::encode_part(&Command::Held { fence, op: HolderOp::Append(append) });
        let group = self.groups.get_mut(&slot.group).context("a slot of no group")?;
        group.queue.push_back(Held { order: self.next_order, number, command });
        self.next_order += 1;
        Ok(())
    }

    /// Entries that may go out now go into packets; as a logic node gathers them.
    fn gather(&mut self) -> anyhow::Result<()> {
        for group in self.groups.keys().copied().collect::<Vec<_>>() {
            while let Some(held) = self.groups.get_mut(&group).and_then(Group::next_entry) {
                let batch = codec::join(held.iter().map(|held| &held.command[..]));
                self.propose(group, held.len(), batch, Asked::Held(group, held))?;
            }
        }
        Ok(())
    }

    async fn send_packets(&mut self) -> anyhow::Result<()> {
        for link in self.links.values_mut().filter(|link| !link.frames.is_empty()) {
            let packet = Packet { frames: std::mem::take(&mut link.frames) };
            link.packets.send(packet).await.context("a stream to a store ended")?;
        }
        Ok(())
    }

    /// Waits until a store says something.
    async fn hear(&mut self, acked: &mut Vec<u64>) -> anyhow::Result<()> {
        let (store, said) = self.said.recv().await.context("all streams to the stores ended")?;
        self.heed(store, said?, acked)?;
        while let Ok((store, said)) = self.said.try_recv() {
            self.heed(store, said?, acked)?;
        }
        Ok(())
    }

    fn heed(&mut self, store: StoreId, said: StoreResponse, acked: &mut Vec<u64>) -> anyhow::Result<()> {
        match said {
            StoreResponse::Proposed { id, result } => match self.asked.remove(&id) {
                Some(Asked::Held(group, held)) => self.answered(group, held, result, acked),
                Some(Asked::Own) | None => Ok(()),
            },
            StoreResponse::Renewed { results, .. } => {
                ensure!(!results.contains(&Renewal::Gone), "a lease ran out: the machine is too slow for this");
                Ok(())
            }
            StoreResponse::Event(StoreEvent::Leader { group, leader }) => {
                let known = &mut self.groups.entry(group).or_default().leader;
                // A follower may not know yet; who leads says so himself.
                if leader == Some(store) || (leader.is_none() && *known == Some(store)) {
                    *known = leader;
                }
                if let (Some(leader), Some(renewed)) = (*known, self.renewing.lock().get_mut(&group)) {
                    renewed.0 = leader;
                }
                Ok(())
            }
            StoreResponse::Event(StoreEvent::Holders { group, rows }) => {
                for row in rows {
                    let known = self.slots.entry(row.slot).or_insert(Slot { group, epoch: row.epoch, n: 0 });
                    ensure!(row.epoch <= known.epoch || known.n == 0, "somebody else claimed a slot");
                }
                Ok(())
            }
            StoreResponse::Event(StoreEvent::Directory(directory)) => {
                self.directory = Some(directory);
                Ok(())
            }
            StoreResponse::Welcome { .. } | StoreResponse::Reads { .. } => Ok(()),
        }
    }

    fn answered(
        &mut self,
        group: GroupId,
        held: Vec<Held>,
        result: Result<Vec<Outcome>, StoreRefusal>,
        acked: &mut Vec<u64>,
    ) -> anyhow::Result<()> {
        let group = self.groups.get_mut(&group).context("no such group")?;
        group.in_flight -= 1;
        match result {
            Ok(outcomes) => {
                ensure!(outcomes.len() == held.len(), "{} commands had {} answers", held.len(), outcomes.len());
                for (held, outcome) in held.into_iter().zip(outcomes) {
                    match outcome {
                        Outcome::Appended(appended) => {
                            ensure!(!appended.duplicate, "append {} was a duplicate", held.number);
                            if let Some(segment) = appended.segment {
                                let count = self.conversations.len() as u64;
                                self.conversations[(held.number % count) as usize].next = Some(segment.lo);
                            }
                            acked.push(held.number);
                        }
                        // Sent again, and it had been there.
                        Outcome::Rejected(Reject::Passed) => acked.push(held.number),
                        // One before it was refused at the door: both go again, in order.
                        Outcome::Rejected(Reject::Expected { .. }) => drop(group.failed.insert(held.order, held)),
                        other => bail!("append {} was refused: {other:?}", held.number),
                    }
                }
            }
            Err(refusal) => {
                ensure!(passes(&refusal), "appends were refused: {refusal}");
                group.failed.extend(held.into_iter().map(|held| (held.order, held)));
            }
        }
        Ok(())
    }
}

impl System for Ours {
    fn submit(&mut self, number: u64) -> anyhow::Result<()> {
        self.append(number)
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        self.gather()?;
        self.send_packets().await
    }

    async fn answers(&mut self, into: &mut Vec<u64>) -> anyhow::Result<()> {
        let waits = |group: &Group| !group.failed.is_empty() && group.in_flight == 0;
        if self.groups.values().any(waits) {
            tokio::select! {
                result = self.hear(into) => return result,
                () = tokio::time::sleep(AGAIN) => {}
            }
            for group in self.groups.values_mut().filter(|group| waits(group)) {
                group.send_again();
            }
            return Ok(());
        }
        self.hear(into).await
    }
}

impl Group {
    fn next_entry(&mut self) -> Option<Vec<Held>> {
        let is_ready = match self.in_flight {
            0 => !self.queue.is_empty(),
            in_flight => in_flight < limits::PROPOSALS_IN_FLIGHT_MAX && self.queue.len() >= GATHER,
        };
        if !is_ready || !self.failed.is_empty() || self.leader.is_none() {
            return None;
        }
        let (mut bytes, mut count) = (0, 0);
        for held in self.queue.iter().take(limits::ENTRY_COMMANDS_MAX as usize) {
            bytes += held.command.len();
            if count > 0 && bytes > ENTRY_BYTES {
                break;
            }
            count += 1;
        }
        self.in_flight += 1;
        Some(self.queue.drain(..count).collect())
    }

    fn send_again(&mut self) {
        for (_, held) in std::mem::take(&mut self.failed).into_iter().rev() {
            self.queue.push_front(held);
        }
    }
}

/// Is it over in a moment?
fn passes(refusal: &StoreRefusal) -> bool {
    match refusal {
        StoreRefusal::NotLeader { .. } => true,
        StoreRefusal::Refused(refusal) => {
            matches!(refusal.code, ErrorCode::Busy | ErrorCode::NotLeader | ErrorCode::Unavailable)
        }
    }
}

/// A stream to a store: Hello, Watch, and what it says from then on.
async fn open(address: &str, said: mpsc::Sender<Said>) -> anyhow::Result<(StoreId, Link)> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?;
    let endpoint = endpoint.tcp_nodelay(true).initial_stream_window_size(8 << 20);
    let channel = endpoint.initial_connection_window_size(16 << 20).connect().await.context("connect to a store")?;
    let mut client = StoreClient::new(channel)
        .max_decoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize)
        .max_encoding_message_size(limits::INTERNAL_FRAME_BYTES_MAX as usize);
    let (packets, queue) = mpsc::channel(PACKETS);
    let first = [StoreRequest::Hello { cluster: None }, StoreRequest::Watch];
    packets.send(Packet { frames: first.iter().map(codec::encode_bytes).collect() }).await?;
    let mut answers = client.channel(ReceiverStream::new(queue)).await?.into_inner();
    let welcome = answers.message().await?.context("a store ended the stream")?;
    let mut frames: VecDeque<Bytes> = welcome.frames.into();
    let welcome = frames.pop_front().context("a packet without frames")?;
    let StoreResponse::Welcome { result } = codec::decode(&welcome)? else { bail!("no Welcome") };
    let store = result?.store.context("a store without a cluster")?;
    tokio::spawn(async move {
        loop {
            while let Some(frame) = frames.pop_front() {
                let response = codec::decode(&frame).map_err(anyhow::Error::from);
                if said.send((store, response)).await.is_err() {
                    return;
                }
            }
            match answers.message().await {
                Ok(Some(packet)) => frames = packet.frames.into(),
                Ok(None) | Err(_) => {
                    // Nobody listens once the measurement is over.
                    let _ = said.send((store, Err(anyhow::anyhow!("store {} ended the stream", store.0)))).await;
                    return;
                }
            }
        }
    });
    Ok((store, Link { packets, frames: Vec::new() }))
}

/// Renews all leases until the streams end.
async fn renew(renewing: Renewing, packets: BTreeMap<StoreId, mpsc::Sender<Packet>>) {
    let mut tick = tokio::time::interval(Duration::from_millis(limits::LEASE_RENEW_MS));
    loop {
        tick.tick().await;
        let mut frames: BTreeMap<StoreId, Vec<Bytes>> = BTreeMap::new();
        for (group, (leader, lease)) in renewing.lock().iter() {
            let request = StoreRequest::Renew { id: 0, leases: vec![(*group, *lease)] };
            frames.entry(*leader).or_default().push(codec::encode_bytes(&request));
        }
        for (store, frames) in frames {
            let Some(packets) = packets.get(&store) else { continue };
            // A store that takes nothing for now does not hold up the others: the next round is soon.
            if let Err(mpsc::error::TrySendError::Closed(_)) = packets.try_send(Packet { frames }) {
                return;
            }
        }
    }
}

/// The value of a sample without labels.
fn sample(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

const TENANT: TenantId = TenantId(1);
/// Numbers of the appends that bring segments, apart from those that are measured.
const FIRSTS: u64 = 1 << 40;
/// As logic's batcher: commands that gather before another entry goes out while one is under way.
const GATHER: usize = 64;
/// As logic's batcher: bytes of commands in one entry.
const ENTRY_BYTES: usize = (limits::ENTRY_BYTES_MAX - limits::FRAME_HEADER_BYTES) as usize;
/// What is refused for a moment is sent again so much later.
const AGAIN: Duration = Duration::from_millis(20);
/// Answers that wait for the client.
const ANSWERS: usize = 4_096;
/// Packets that wait for a stream.
const PACKETS: usize = 64;
/// Longest wait until everything is claimed.
const PATIENCE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn held(order: u64) -> Held {
        Held { order, number: order, command: Bytes::from_static(b"x") }
    }

    #[test]
    fn what_was_refused_goes_again_before_what_came_later_and_in_order() {
        let leader = Some(StoreId(1));
        let mut group = Group { leader, queue: (0..3).map(held).collect(), ..Group::default() };
        let entry = group.next_entry().unwrap();
        assert_eq!(entry.len(), 3);
        group.in_flight = 0;
        group.failed.extend(entry.into_iter().rev().map(|held| (held.order, held)));
        group.queue.push_back(held(3));
        assert!(group.next_entry().is_none(), "nothing overtakes what has to go again");
        group.send_again();
        let again: Vec<_> = group.next_entry().unwrap().iter().map(|held| held.order).collect();
        assert_eq!(again, [0, 1, 2, 3]);
    }

    #[test]
    fn a_sample_is_found_by_its_whole_name() {
        let text = "# TYPE rows counter\nrows_total 12\nrows_total_more 7\n";
        assert_eq!(sample(text, "rows_total"), Some(12.0));
        assert_eq!(sample(text, "rows"), None);
    }
}
