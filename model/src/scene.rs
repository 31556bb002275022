//! Scene: who asks for what, where, and within which bounds.

use std::collections::BTreeMap;

use bytes::Bytes;
use seriatim_logic_core::{Clock, HolderLimits, SlotHolder};
use seriatim_proto::command::{Command, Content, Outcome, SlotRange};
use seriatim_proto::guard::Guard;
use seriatim_proto::hash;
use seriatim_proto::ids::{
    ConversationId, CounterName, Epoch, Generation, GroupId, LeaseId, LogIndex, MessageId, Namespace, NodeId, SlotId,
    TenantId, UserId,
};
use seriatim_store_core::{At, MemoryView, apply};

use crate::shared::Shared;
use crate::state::{Clients, NODES, Node, Spent, State};

/// Whose everything is.
pub(crate) const TENANT: TenantId = TenantId(1);
/// The one Raft group.
pub(crate) const GROUP: GroupId = GroupId(1);
/// When a node's own clock begins.
pub(crate) const BEGIN_MS: u64 = 1_000;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ask {
    /// An entry of the conversation.
    Send {
        /// which of the users
        sender: usize,
        /// stands for the message id
        id: u8,
        /// stands for the body
        body: u8,
    },
    /// So many numbers of the counter.
    Next(u32),
    /// Where the counter stands.
    Current,
}

/// A request, in the order of the scene: none begins before the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Request {
    /// what
    pub ask: Ask,
    /// how often its client may try, whatever it heard
    pub attempts: usize,
}

/// When a linearizable read takes effect, and when its answer comes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reads {
    /// Both as soon as it is asked.
    AtOnce,
    /// Some time later, both together; perhaps never.
    OneStep,
    /// Some time later, and the answer later still.
    TwoSteps,
}

/// How much may happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Bounds {
    /// messages in flight that somebody waits for
    pub in_flight: usize,
    /// messages lost, late or doubled, altogether
    pub faults: u8,
    /// claims proposed after the first of each slot
    pub claims: u8,
    /// nodes that crash
    pub crashes: u8,
    /// leases that are ended by the leader
    pub expiries: u8,
    /// changes of the leader
    pub leader_changes: u8,
    /// slots given back
    pub releases: u8,
    /// leases that are renewed after they had passed at the holder
    pub renewals: u8,
    /// timers that come, altogether
    pub timers: u8,
    /// May a node claim a slot that another one holds?
    pub bold_claims: bool,
    /// The leader ends a lease only after it has ended at its node.
    pub time_rule: bool,
    /// When reads take effect and are answered.
    pub reads: Reads,
    /// timers that are due this long after the begin, or later, do not come
    pub horizon_ms: u64,
}

impl Bounds {
    /// Nothing goes wrong but that messages overtake each other.
    pub const CALM: Bounds = Bounds {
        in_flight: 4,
        faults: 0,
        claims: 0,
        crashes: 0,
        expiries: 0,
        leader_changes: 0,
        releases: 0,
        renewals: 0,
        timers: 2,
        bold_claims: false,
        time_rule: true,
        reads: Reads::TwoSteps,
        horizon_ms: 5_000,
    };
}

/// What is checked.
#[derive(Clone, Debug)]
pub struct Scene {
    /// for the report
    pub name: &'static str,
    /// what clients ask for
    pub requests: Vec<Request>,
    /// how much may happen
    pub bounds: Bounds,
    /// a check of the cores that is left out; needs the feature `guards`
    pub guard_out: Option<Guard>,
    pub(crate) users: Vec<UserId>,
    pub(crate) conversation: ConversationId,
    pub(crate) counter: CounterName,
    /// slots and which node claims each first
    pub(crate) slots: BTreeMap<SlotId, usize>,
}

fn user(name: &str) -> UserId {
    UserId::new(name).expect("a short name")
}

fn counter_slot(name: &CounterName) -> SlotId {
    hash::slot(&Namespace::counter(TENANT, name.clone()))
}

impl Scene {
    /// One slot with one conversation, and in it the one inbox that is written with each message.
    pub fn one_slot(name: &'static str, requests: Vec<Request>, bounds: Bounds) -> Self {
        let users = vec![user("alice")];
        let conversation = ConversationId::direct(users[0].clone(), users[0].clone());
        let slots = BTreeMap::from([(hash::conversation_slot(TENANT, &conversation), 0)]);
        Self { users, conversation, slots, ..Self::bare(name, requests, bounds) }
    }

    /// A conversation with its sender's inbox in the slot of the first node, and an inbox that is delivered to in the
    /// slot of the second.
    pub fn two_slots(name: &'static str, requests: Vec<Request>, bounds: Bounds) -> Self {
        let alice = user("alice");
        let home = |other: &UserId| {
            let conversation = ConversationId::direct(alice.clone(), other.clone());
            (hash::conversation_slot(TENANT, &conversation), conversation)
        };
        let here = hash::inbox_slot(TENANT, &alice);
        let bob = (0..).map(|place| user(&format!("bob{place}"))).find(|bob| home(bob).0 == here);
        let bob = bob.expect("half of all pairs live with alice");
        let slots = BTreeMap::from([(here, 0), (hash::inbox_slot(TENANT, &bob), 1)]);
        assert_eq!(slots.len(), NODES, "the inboxes are apart");
        let conversation = home(&bob).1;
        Self { users: vec![alice, bob], conversation, slots, ..Self::bare(name, requests, bounds) }
    }

    /// One slot with one counter.
    pub fn counter(name: &'static str, requests: Vec<Request>, bounds: Bounds) -> Self {
        let scene = Self::bare(name, requests, bounds);
        Self { slots: BTreeMap::from([(counter_slot(&scene.counter), 0)]), ..scene }
    }

    /// The same with a check of the cores left out.
    #[must_use]
    pub fn without(self, guard: Guard) -> Self {
        Self { guard_out: Some(guard), ..self }
    }

    fn bare(name: &'static str, requests: Vec<Request>, bounds: Bounds) -> Self {
        Self {
            name,
            requests,
            bounds,
            guard_out: None,
            users: Vec::new(),
            conversation: ConversationId::direct(user("nobody"), user("nobody")),
            counter: CounterName::new("orders").expect("a short name"),
            slots: BTreeMap::new(),
        }
    }

    /// The slot that an ask belongs to.
    pub(crate) fn slot_of(&self, ask: Ask) -> SlotId {
        match ask {
            Ask::Send { .. } => hash::conversation_slot(TENANT, &self.conversation),
            Ask::Next(_) | Ask::Current => counter_slot(&self.counter),
        }
    }

    /// Has the scene anything that is answered from memory, under the lease?
    pub(crate) fn has_counters(&self) -> bool {
        self.requests.iter().any(|request| matches!(request.ask, Ask::Next(_) | Ask::Current))
    }

    /// All nodes have a lease, every slot is claimed for the first time, nobody has asked for anything.
    pub(crate) fn begin(&self) -> State {
        let mut rows = MemoryView::default();
        let range = |slot: &SlotId| SlotRange { first: *slot, end: SlotId(slot.0 + 1) };
        let own = Command::Own { generation: Generation(0), slots: self.slots.keys().map(range).collect() };
        assert_eq!(commit(&mut rows, 1, &own), Outcome::Owned);
        for node in 0..NODES {
            let index = lease(node).index.0;
            let opened = commit(&mut rows, index, &Command::OpenLease { node: NodeId(index) });
            assert_eq!(opened, Outcome::Leased(lease(node)));
        }
        let idle =
            Node { up: true, lapsed: false, now_ms: BEGIN_MS, holders: BTreeMap::new(), started: BTreeMap::new() };
        let mut nodes = [idle.clone(), idle];
        for (slot, node) in &self.slots {
            let seen = Epoch::NONE;
            let claim = Command::Claim { slot: *slot, lease: lease(*node), seen };
            let Outcome::Claimed { epoch } = commit(&mut rows, COMMIT_INDEX, &claim) else {
                unreachable!("the first claim of a slot with a live lease")
            };
            // A first holder reads nothing: it has no effects yet.
            let holder = SlotHolder::new(BEGIN_MS, *slot, epoch, seen, HolderLimits::default());
            nodes[*node].holders.insert(*slot, Shared::new(holder));
            nodes[*node].started.insert(*slot, epoch);
        }
        let clients = Clients {
            attempts: vec![Vec::new(); self.requests.len()],
            floors: vec![0; self.requests.len()],
            bound: 0,
            given: Vec::new(),
        };
        State {
            rows: Shared::new(rows),
            nodes,
            wires: Vec::new(),
            clients: Shared::new(clients),
            spent: Spent::default(),
            disordered: false,
            broken: None,
        }
    }
}

/// The index of every entry after the first ones: only leases are named by theirs.
pub(crate) const COMMIT_INDEX: u64 = 100;

pub(crate) fn at(index: u64) -> At {
    At { group: GROUP, term: 1, index: LogIndex(index), place: 0 }
}

fn commit(rows: &mut MemoryView, index: u64, command: &Command) -> Outcome {
    apply(rows, at(index), command, &mut Vec::new()).expect("rows that apply wrote itself")
}

/// The lease of a node, opened before anything else.
pub(crate) fn lease(node: usize) -> LeaseId {
    LeaseId { generation: Generation(0), index: LogIndex(10 + node as u64), place: 0 }
}

pub(crate) fn clock(node: &Node) -> Clock {
    Clock { now_ms: node.now_ms, unix_ms: 1, lease_until_ms: if node.lapsed { node.now_ms } else { u64::MAX } }
}

pub(crate) fn message_id(id: u8) -> MessageId {
    MessageId([id; 16])
}

pub(crate) fn content(body: u8) -> Content {
    Content::Message { salt: Bytes::from_static(b"salt"), body: Bytes::copy_from_slice(&[body]) }
}
