//! Tests of apply and read through their public doors only, on a [`MemoryView`].

mod amend;
mod append;
mod cancel;
mod claim;
mod cursor;
mod deliver;
mod mark;
mod membership;
mod meta;
mod model;
mod namespace;
mod placement;
mod trim;

use std::collections::BTreeMap;

use bytes::Bytes;
use seriatim_proto::command::{
    Append, Appended, Command, Content, Delivery, DeliveryOutcome, EntryRef, HolderOp, LocalInbox, Outcome, Place,
    Reject, SlotRange,
};
use seriatim_proto::hash;
use seriatim_proto::ids::{
    ConversationId, ConversationKey, Epoch, Fence, Generation, GroupId, LeaseId, LogIndex, MessageId, NodeId, Seq,
    SlotId, TenantId, UserId,
};
use seriatim_proto::limits;
use seriatim_proto::store::{ConversationState, InboxEntry, NamespaceState, Read, ReadOutcome, StoredMessage};

use crate::{At, Event, MemoryView, apply, read};

const GROUP: GroupId = GroupId(1);
const TENANT: TenantId = TenantId(7);
const ALL_SLOTS: SlotRange = SlotRange { first: SlotId(0), end: SlotId(limits::SLOTS) };

/// One data group that owns all slots, and one logic node that holds what it needs.
#[derive(Clone)]
struct World {
    view: MemoryView,
    index: u64,
    events: Vec<Event>,
    lease: LeaseId,
    held: BTreeMap<SlotId, (Epoch, u64)>,
}

impl World {
    fn new() -> World {
        World::of_generation(Generation(0))
    }

    fn of_generation(generation: Generation) -> World {
        World::of(generation, vec![ALL_SLOTS])
    }

    fn of(generation: Generation, slots: Vec<SlotRange>) -> World {
        let lease = LeaseId { generation, index: LogIndex(0), place: 0 };
        let mut world =
            World { view: MemoryView::default(), index: 0, events: Vec::new(), lease, held: BTreeMap::new() };
        assert_eq!(world.run(Command::Own { generation, slots }), Outcome::Owned);
        world.lease = world.open(NodeId(1));
        world
    }

    fn run(&mut self, command: Command) -> Outcome {
        self.index += 1;
        let at = At { group: GROUP, term: 1, index: LogIndex(self.index), place: 0 };
        self.events.clear();
        apply(&mut self.view, at, &command, &mut self.events).unwrap()
    }

    fn open(&mut self, node: NodeId) -> LeaseId {
        match self.run(Command::OpenLease { node }) {
            Outcome::Leased(lease) => lease,
            other => panic!("{other:?}"),
        }
    }

    fn claim(&mut self, slot: SlotId, lease: LeaseId, seen: Epoch) -> Outcome {
        self.run(Command::Claim { slot, lease, seen })
    }

    fn epoch(&self, slot: SlotId) -> Epoch {
        match self.read(Read::Holder(slot)) {
            ReadOutcome::Holder(row) => row.epoch,
            other => panic!("{other:?}"),
        }
    }

    /// Claims the slot anew: `n` starts at 0 under the next epoch.
    fn reclaim(&mut self, slot: SlotId) {
        let seen = self.epoch(slot);
        let outcome = self.claim(slot, self.lease, seen);
        assert_eq!(outcome, Outcome::Claimed { epoch: seen.next() });
        self.held.insert(slot, (seen.next(), 0));
    }

    /// The next fence of a slot, which is claimed if it is not held.
    fn fence(&mut self, slot: SlotId) -> Fence {
        if !self.held.contains_key(&slot) {
            self.reclaim(slot);
        }
        let (epoch, n) = self.held[&slot];
        Fence { slot, epoch, n }
    }

    fn op(&mut self, slot: SlotId, op: HolderOp) -> Outcome {
        let fence = self.fence(slot);
        let outcome = self.run(Command::Held { fence, op });
        if !matches!(&outcome, Outcome::Rejected(reject) if !reject.consumes_n()) {
            self.held.get_mut(&slot).unwrap().1 += 1;
        }
        outcome
    }

    /// Applies an op that must be rejected, and must write nothing but its `n`.
    fn rejected(&mut self, slot: SlotId, op: HolderOp) -> Reject {
        self.fence(slot);
        let before = self.view.clone();
        let outcome = self.op(slot, op);
        let Outcome::Rejected(reject) = outcome else { panic!("{outcome:?}") };
        let mut expected = before;
        if reject.consumes_n()
            && let Some(crate::Row::Holder(row)) = expected.rows.get_mut(&crate::Key::holder(slot))
        {
            row.next_n += 1;
        }
        assert!(self.view == expected, "{reject:?} wrote something");
        reject
    }

    fn append(&mut self, append: Append) -> Appended {
        let slot = home(&append.conversation);
        match self.op(slot, HolderOp::Append(append)) {
            Outcome::Appended(appended) => appended,
            other => panic!("{other:?}"),
        }
    }

    fn append_rejected(&mut self, append: Append) -> Reject {
        self.rejected(home(&append.conversation), HolderOp::Append(append))
    }

    fn deliver(&mut self, delivery: Delivery) -> DeliveryOutcome {
        let slot = hash::inbox_slot(TENANT, &delivery.user);
        match self.op(slot, HolderOp::Deliver { deliveries: vec![delivery] }) {
            Outcome::Delivered(mut outcomes) => outcomes.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    fn read(&self, read_of: Read) -> ReadOutcome {
        read(&self.view, GROUP, &read_of).unwrap()
    }

    fn inbox(&self, user: &UserId) -> (Option<NamespaceState>, Vec<InboxEntry>) {
        let read_of = Read::Inbox { tenant: TENANT, user: user.clone(), from: None, limit: u32::MAX };
        match self.read(read_of) {
            ReadOutcome::Inbox { state, entries } => (state, entries),
            other => panic!("{other:?}"),
        }
    }

    fn messages(&self, conversation: &ConversationId) -> Vec<StoredMessage> {
        let (from, limit, bytes_max) = (Seq::FIRST, u32::MAX, u32::MAX);
        match self.read(Read::Messages { tenant: TENANT, conversation: conversation.clone(), from, limit, bytes_max }) {
            ReadOutcome::Messages(messages) => messages,
            other => panic!("{other:?}"),
        }
    }

    fn conversation(&self, conversation: &ConversationId) -> Option<ConversationState> {
        match self.read(Read::Conversation { tenant: TENANT, conversation: conversation.clone() }) {
            ReadOutcome::Conversation(state) => state,
            other => panic!("{other:?}"),
        }
    }

    fn pending(&self, slot: SlotId) -> Vec<ConversationId> {
        match self.read(Read::Pending { slot, after: None, limit: 100 }) {
            ReadOutcome::Pending(rows) => rows.into_iter().map(|(_, conversation)| conversation).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn last(&self, user: &UserId, conversation: &ConversationId) -> Option<Seq> {
        match self.read(Read::Last { tenant: TENANT, user: user.clone(), conversation: conversation.clone() }) {
            ReadOutcome::Last(last) => last,
            other => panic!("{other:?}"),
        }
    }
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn seq(value: u64) -> Seq {
    Seq::new(value).unwrap()
}

fn message_id(value: u8) -> MessageId {
    MessageId([value; 16])
}

fn home(conversation: &ConversationId) -> SlotId {
    hash::conversation_slot(TENANT, conversation)
}

/// A direct conversation: the user in its own slot, the user in another.
fn pair() -> (ConversationId, UserId, UserId) {
    let (a, b) = (user("alice"), user("bob"));
    let conversation = ConversationId::direct(a.clone(), b.clone());
    let a_is_home = hash::inbox_slot(TENANT, &a) == home(&conversation);
    if a_is_home { (conversation, a, b) } else { (conversation, b, a) }
}

/// A group that lives in the slot of this user.
fn group_near(user: &UserId) -> ConversationId {
    let slot = hash::inbox_slot(TENANT, user);
    let key = |i: u128| ConversationId::Group(ConversationKey(i.to_be_bytes()));
    (0..).map(key).find(|group| home(group) == slot).unwrap()
}

/// A message, appended open.
fn message(conversation: &ConversationId, sender: &UserId, id: u8) -> Append {
    Append {
        tenant: TENANT,
        conversation: conversation.clone(),
        sender: sender.clone(),
        message_id: message_id(id),
        known: None,
        follows: None,
        content: Content::Message { salt: Bytes::from_static(b"salt"), body: Bytes::from(vec![id; 3]) },
        place: Place::Open { segment: 0 },
        at_ms: 1_000,
        local: Vec::new(),
        delivered: None,
    }
}

fn with_local(mut append: Append, user: &UserId) -> Append {
    append.local.push(LocalInbox { user: user.clone(), place: Place::Open { segment: 0 } });
    append
}

fn with_content(mut append: Append, content: Content) -> Append {
    append.content = content;
    append
}

/// A delivery of entries to a user, appended open.
fn delivery(conversation: &ConversationId, user: &UserId, after: Option<Seq>, entries: &[EntryRef]) -> Delivery {
    Delivery {
        tenant: TENANT,
        user: user.clone(),
        conversation: conversation.clone(),
        after,
        upto: entries.last().unwrap().seq,
        entries: entries.to_vec(),
        place: Place::Open { segment: 0 },
    }
}

/// I4 and I5 of a sequence, from its row and all its entries: `(seq, prev_seq, counted, ordinal)`.
fn assert_linked(state: &NamespaceState, entries: impl Iterator<Item = (Seq, Option<Seq>, bool, u64)>) {
    assert!(state.trim <= state.tail && state.tail <= state.ceiling, "I4: {state:?}");
    let mut entries = entries.peekable();
    let (mut last_seq, mut counted_so_far) = (None, 0);
    if state.trim > Seq::FIRST {
        // What is kept goes on from what was trimmed.
        let Some((seq, prev_seq, counted, ordinal)) = entries.peek().copied() else {
            assert_eq!(state.trim, state.tail, "everything was trimmed");
            return;
        };
        assert!(state.trim <= seq && prev_seq.is_none_or(|prev| prev < state.trim), "I4: {seq:?} of {state:?}");
        (last_seq, counted_so_far) = (prev_seq, ordinal - u64::from(counted));
    }
    for (seq, prev_seq, counted, ordinal) in entries {
        assert!(prev_seq == last_seq && last_seq < Some(seq), "I5: {seq:?} follows {prev_seq:?}, not {last_seq:?}");
        counted_so_far += u64::from(counted);
        assert_eq!(ordinal, counted_so_far, "I5: ordinal of {seq:?}");
        last_seq = Some(seq);
    }
    assert_eq!((state.last_seq, state.ordinal), (last_seq, counted_so_far), "I5: the row is the last entry's");
    assert!(last_seq.is_none_or(|last| last.next() == state.tail), "I4: tail is behind the last entry");
}

fn assert_inbox_linked(world: &World, user: &UserId) {
    let (Some(state), entries) = world.inbox(user) else { return };
    let mut chain = seriatim_proto::ids::Chain::default();
    for (nth, entry) in entries.iter().enumerate() {
        // Nobody has the chain before the first that is kept.
        let is_known = nth > 0 || state.trim == Seq::FIRST;
        assert!(!is_known || entry.link_from(chain) == entry.chain, "I5: chain of {:?}", entry.seq);
        chain = entry.chain;
    }
    assert!(state.chain == chain || entries.is_empty());
    let counted = |entry: &EntryRef| entry.kind == seriatim_proto::command::Kind::Message;
    assert_linked(&state, entries.iter().map(|e| (e.seq, e.prev_seq, counted(&e.entry), e.ordinal)));
}

fn assert_conversation_linked(world: &World, conversation: &ConversationId) {
    let Some(state) = world.conversation(conversation) else { return };
    let messages = world.messages(conversation);
    let mut chain = seriatim_proto::ids::Chain::default();
    for (nth, message) in messages.iter().enumerate() {
        let is_known = nth > 0 || state.namespace.trim == Seq::FIRST;
        assert!(!is_known || message.link_from(chain) == message.chain, "I5: chain of {:?}", message.entry.seq);
        chain = message.chain;
    }
    assert!(state.namespace.chain == chain || messages.is_empty());
    assert_linked(&state.namespace, messages.iter().map(|m| (m.entry.seq, m.prev_seq, m.counted(), m.ordinal)));
}
