//! Brain: the one task that owns all holders of a logic node.
//!
//! Everything comes in through one bounded queue, is taken in batches, and what the holders want done then goes out in
//! batches: one entry per group, one packet per store, peer and gateway. Nothing here waits for anybody: a queue that
//! is full is a failed attempt (stores, peers) or the end of a stream that does not keep up (gateways).
//!
//! # Reading order
//! [`Brain::run`] → `stores.rs` (leases, claims, proposals) → `holders.rs` (events and effects) → `streams.rs`.

mod holders;
mod stores;
mod streams;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use seriatim_logic_core::{Clock, Placement, Quotas, SlotHolder};
use seriatim_proto::command::DeliveryOutcome;
use seriatim_proto::ids::{ClusterId, Epoch, Generation, GroupId, NodeId, SlotId, StoreId};
use seriatim_proto::logic::{CallError, GatewayResponse, PeerResponse, SlotDeliveries};
use seriatim_proto::store::{HolderRow, StoreResponse};
use tokio::sync::{mpsc, watch};

use crate::batcher::Batcher;
use crate::clock;
use crate::leases::Leases;
use crate::metrics::Metrics;
use crate::store_client::StoreClient;
pub(crate) use streams::{Counting, SessionInput};

/// Inputs that wait for the brain.
pub(crate) const INPUT_QUEUE: usize = 16_384;
const BATCH_INPUTS: usize = 1_024;
const TICK_MS: u64 = 50;

/// Everything that reaches the brain.
#[derive(Debug)]
pub(crate) enum Input {
    /// An answer of a store.
    Store(StoreResponse),
    /// Rows of the holder table, from any store.
    Holders(Vec<HolderRow>),
    /// The directory changed.
    Directory,
    /// A store says that it leads a group.
    Leads { group: GroupId, store: StoreId },
    /// A connection to a store is gone, with all that was asked on it.
    StoreDown { connection: u64 },
    /// An answer of a peer.
    PeerAnswer { id: u64, results: Vec<Result<Vec<DeliveryOutcome>, CallError>> },
    /// A connection to a peer is gone.
    PeerDown { peer: NodeId, connection: u64 },
    /// A source node's stream began.
    SourceUp { stream: u64, answers: mpsc::Sender<PeerResponse> },
    /// A source node delivers.
    SourceDelivers { stream: u64, id: u64, slots: Vec<SlotDeliveries> },
    /// A source node's stream ended.
    SourceDown { stream: u64 },
    /// A gateway's stream began.
    GatewayUp { stream: u64, responses: mpsc::Sender<GatewayResponse> },
    /// What one packet of a gateway wants.
    Sessions { stream: u64, inputs: Vec<SessionInput> },
    /// A gateway's stream ended.
    GatewayDown { stream: u64 },
    /// A stream of calls of the sequence service began: it is told its replies, and nothing else.
    CallerUp { stream: u64, responses: mpsc::Sender<GatewayResponse> },
    /// A stream of calls ended.
    CallerDown { stream: u64 },
}

/// What a node is, once it is open; followed by its services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Standing {
    pub(crate) cluster: ClusterId,
    pub(crate) generation: Generation,
    pub(crate) node: NodeId,
}

/// Whose holder, under which claim.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct HolderKey {
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
}

struct Held {
    holder: SlotHolder,
    group: GroupId,
    timer: Option<u64>,
}

/// See the module.
pub(crate) struct Brain {
    stores: Arc<StoreClient>,
    inputs: mpsc::Receiver<Input>,
    /// for tasks that report here
    door: mpsc::Sender<Input>,
    metrics: Metrics,
    advertise: String,
    standing: watch::Sender<Option<Standing>>,
    /// of the doors; what tenants have of their own comes with the directory
    quotas: Arc<Mutex<Quotas>>,

    placement: Option<Placement>,
    rows: BTreeMap<SlotId, HolderRow>,
    leases: Leases,
    batcher: Batcher,
    asked: HashMap<u64, stores::Asked>,
    next_id: u64,

    holders: BTreeMap<SlotId, Held>,
    claiming: BTreeSet<SlotId>,
    /// the highest epoch that was begun here
    started: BTreeMap<SlotId, Epoch>,
    touched: BTreeSet<SlotId>,
    timers: BTreeSet<(u64, SlotId)>,

    local_deliveries: HashMap<u64, (HolderKey, u64)>,
    peers: HashMap<NodeId, streams::Peer>,
    peer_asked: HashMap<u64, streams::PeerAsked>,
    sources: HashMap<u64, streams::Source>,
    gateways: HashMap<u64, streams::Gateway>,
    /// streams of calls of the sequence service
    callers: HashMap<u64, mpsc::Sender<GatewayResponse>>,
    changed_rows: BTreeMap<SlotId, HolderRow>,
    nodes_changed: bool,

    ticked_ms: u64,
    renewed_ms: u64,
    told_ms: u64,
    draining: bool,
}

impl Brain {
    pub(crate) fn new(
        stores: Arc<StoreClient>,
        (door, inputs): (mpsc::Sender<Input>, mpsc::Receiver<Input>),
        metrics: Metrics,
        advertise: String,
        standing: watch::Sender<Option<Standing>>,
        quotas: Arc<Mutex<Quotas>>,
    ) -> Self {
        Self {
            stores,
            inputs,
            door,
            metrics,
            advertise,
            standing,
            quotas,
            placement: None,
            rows: BTreeMap::new(),
            leases: Leases::default(),
            batcher: Batcher::default(),
            asked: HashMap::new(),
            next_id: 1,
            holders: BTreeMap::new(),
            claiming: BTreeSet::new(),
            started: BTreeMap::new(),
            touched: BTreeSet::new(),
            timers: BTreeSet::new(),
            local_deliveries: HashMap::new(),
            peers: HashMap::new(),
            peer_asked: HashMap::new(),
            sources: HashMap::new(),
            gateways: HashMap::new(),
            callers: HashMap::new(),
            changed_rows: BTreeMap::new(),
            nodes_changed: false,
            ticked_ms: 0,
            renewed_ms: 0,
            told_ms: 0,
            draining: false,
        }
    }

    /// Runs until `stop` says true and everything held is given back, or the grace is over.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut batch = Vec::with_capacity(BATCH_INPUTS);
        let mut drain_until_ms = u64::MAX;
        loop {
            let now_ms = clock::boot_ms();
            let next_tick_ms = self.ticked_ms + TICK_MS;
            let due_ms = self.timers.first().map_or(next_tick_ms, |(at, _)| (*at).min(next_tick_ms));
            tokio::select! {
                biased;
                changed = stop.changed(), if !self.draining => {
                    if changed.is_err() || *stop.borrow() {
                        self.draining = true;
                        drain_until_ms = clock::boot_ms() + DRAIN_MS;
                        self.start_draining();
                    }
                }
                count = self.inputs.recv_many(&mut batch, BATCH_INPUTS) => {
                    if count == 0 {
                        return;
                    }
                }
                () = tokio::time::sleep(Duration::from_millis(due_ms.saturating_sub(now_ms).max(1))) => {}
            }
            for input in batch.drain(..) {
                self.take(input);
            }
            self.timers_and_tick();
            self.settle();
            if self.draining && (self.holders.is_empty() || clock::boot_ms() >= drain_until_ms) {
                self.close_leases().await;
                return;
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Store(response) => self.on_store(response),
            Input::Holders(rows) => rows.into_iter().for_each(|row| self.on_row(row)),
            Input::Directory => self.on_directory(),
            Input::Leads { group, store } => self.on_leads(group, store),
            Input::StoreDown { connection } => self.on_store_down(connection),
            Input::PeerAnswer { id, results } => self.on_peer_answer(id, results),
            Input::PeerDown { peer, connection } => self.on_peer_down(peer, connection),
            Input::SourceUp { stream, answers } => {
                self.sources.insert(stream, streams::Source::new(answers));
            }
            Input::SourceDelivers { stream, id, slots } => self.on_source_delivers(stream, id, slots),
            Input::SourceDown { stream } => {
                self.sources.remove(&stream);
            }
            Input::GatewayUp { stream, responses } => self.on_gateway_up(stream, responses),
            Input::Sessions { stream, inputs } => inputs.into_iter().for_each(|input| self.on_session(stream, input)),
            Input::GatewayDown { stream } => self.on_gateway_down(stream),
            Input::CallerUp { stream, responses } => {
                self.callers.insert(stream, responses);
            }
            Input::CallerDown { stream } => {
                self.callers.remove(&stream);
            }
        }
    }

    fn timers_and_tick(&mut self) {
        let now_ms = clock::boot_ms();
        while let Some((at, slot)) = self.timers.first().copied().filter(|(at, _)| *at <= now_ms) {
            self.timers.remove(&(at, slot));
            if let Some(held) = self.holders.get_mut(&slot) {
                held.timer = None;
            }
            self.handle(slot, seriatim_logic_core::Event::Timer);
        }
        if self.ticked_ms + TICK_MS <= now_ms {
            self.ticked_ms = now_ms;
            self.tick(now_ms);
        }
    }

    /// Carries out what the holders want, until nobody wants anything, then flushes all queues.
    fn settle(&mut self) {
        while !self.touched.is_empty() {
            for slot in std::mem::take(&mut self.touched) {
                self.poll_holder(slot);
            }
        }
        self.flush_proposals();
        self.flush_peers();
        self.flush_gateways();
    }

    fn clock(&self, group: GroupId) -> Clock {
        Clock { now_ms: clock::boot_ms(), unix_ms: clock::unix_ms(), lease_until_ms: self.leases.until_ms(group) }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// Longest time that a stopping node waits for its slots' replies.
const DRAIN_MS: u64 = 3_000;
