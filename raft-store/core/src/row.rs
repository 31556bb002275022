//! Row: the values of state.db. A changed struct is a new variant; variants are only appended.
//!
//! A row is written as `codec::encode(&Row)`, so each value names its own kind and a reader that finds another
//! kind under a key knows that the store is broken.

use serde::{Deserialize, Serialize};
use seriatim_proto::command::{DeliveryRecord, ReadUpto, SlotRange};
use seriatim_proto::ids::{
    BodyHash, Chain, ClusterId, Epoch, Generation, GroupId, LeaseId, NodeId, ReplicaId, Seq, SlotId, StoreId,
};
use seriatim_proto::meta::{GroupRecord, MoveRecord, NodeRecord, RotRecord, StoreRecord, StoreToken, TenantRecord};
use seriatim_proto::store::{HolderRow, InboxEntry, NamespaceState, StoredMessage};

/// The value of a row.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Row {
    /// under `SlotItem::Holder`
    Holder(SlotRow),
    /// under `SlotItem::Pending`
    Pending,
    /// under `Item::Namespace` of an inbox or a counter
    Namespace(NamespaceRow),
    /// under `Item::Namespace` of a conversation
    Conversation(ConversationRow),
    /// under `Item::Cursor`
    Cursor(Seq),
    /// under `Item::Dedupe`
    Dedupe(DedupeRow),
    /// under `Item::Inbox`
    Inbox(InboxEntry),
    /// under `Item::Last`
    Last(LastRow),
    /// under `Item::Message`
    Message(StoredMessage),
    /// under `Item::Member`
    Member(MemberRow),
    /// under `GroupItem::Cluster`
    Cluster(ClusterRow),
    /// under `GroupItem::Group`
    Group(GroupRecord),
    /// under `GroupItem::Lease`
    Lease(LeaseRow),
    /// under `GroupItem::Node`
    Node(NodeRecord),
    /// under `GroupItem::Owned`
    Owned(OwnedRow),
    /// under `GroupItem::Store`
    Store(StoreRecord),
    /// under `GroupItem::Tenant`
    Tenant(TenantRecord),
    /// under `GroupItem::Revision`
    Revision(u64),
    /// under `GroupItem::Move`
    Move(MoveRecord),
    /// under `GroupItem::Standing`
    Standing(StandingRow),
    /// under `Item::Amended`
    Amended(AmendedRow),
    /// under `Item::Pin`: the entry that pinned the message
    Pin(Seq),
    /// under `Item::Reaction`: the entry that set it
    Reaction(Seq),
    /// under `Item::Mark`
    Mark(MarkRow),
    /// under `Item::Reading`
    Reading(u64),
    /// under `GroupItem::Rotten`
    Rotten(RotRecord),
    /// under `GroupItem::Domain`
    Domain(String),
    /// under `GroupItem::Voters`
    Voters(u32),
    /// under `Item::Tombstone`
    Tombstone,
}

/// What a user says about a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, Default)]
pub struct MarkRow {
    /// how far it is read. Invariant: I11: only rises
    pub read: Option<ReadUpto>,
    /// he does not want to be disturbed by it
    pub muted: bool,
    /// he does not want to see it
    pub archived: bool,
}

/// What became of a message.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, Default)]
pub struct AmendedRow {
    /// its edits, rising, at most `limits::EDITS_MAX`
    pub edits: Vec<Seq>,
    /// the entry that recalled it: there is one at most, and nothing comes behind it
    pub recalled: Option<Seq>,
}

/// How a store stands, beside its record. A store of `Init` has none until it is drained.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, Default)]
pub struct StandingRow {
    /// what it joined with
    pub token: Option<StoreToken>,
    /// gets no replicas, and loses its own
    pub draining: bool,
}

/// A slot: who holds it. Written by `Own`, so that a slot with such a row naming the group is owned by it.
///
/// Invariant: I3: writes carry `epoch`, and `n` in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct SlotRow {
    /// the owner
    pub group: GroupId,
    /// of the group; in the high bits of what is given out here
    pub generation: Generation,
    /// of the last claim
    pub epoch: Epoch,
    /// of the last claim; `None` before the first and after a release
    pub lease: Option<LeaseId>,
    /// the `n` that the next command of the holder must carry
    pub next_n: u64,
    /// who should claim it at once, after a release
    pub heir: Option<NodeId>,
}

impl SlotRow {
    /// The row for readers; `holder` is the node of the lease if that is alive.
    pub fn holder_row(&self, slot: SlotId, holder: Option<NodeId>) -> HolderRow {
        let lease = if holder.is_some() { self.lease } else { None };
        HolderRow { slot, epoch: self.epoch, holder, lease, heir: self.heir }
    }
}

/// A sequence.
///
/// Invariant: I4: `trim <= tail <= ceiling` and `base <= ceiling`; the ceiling only grows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct NamespaceRow {
    /// first kept
    pub trim: Seq,
    /// first unassigned
    pub tail: Seq,
    /// ceiling when `epoch` was set: nothing below may be given out under it
    pub base: Seq,
    /// end of everything reserved
    pub ceiling: Seq,
    /// epoch of the last reservation
    pub epoch: Epoch,
    /// last entry
    pub last_seq: Option<Seq>,
    /// messages so far
    pub ordinal: u64,
    /// chain at the last entry
    pub chain: Chain,
}

impl NamespaceRow {
    /// The row for readers.
    pub fn state(&self) -> NamespaceState {
        NamespaceState {
            trim: self.trim,
            tail: self.tail,
            ceiling: self.ceiling,
            epoch: self.epoch,
            last_seq: self.last_seq,
            ordinal: self.ordinal,
            chain: self.chain,
        }
    }
}

/// A conversation. It exists once it has an entry; before, the row only remembers reservations.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct ConversationRow {
    /// its sequence
    pub namespace: NamespaceRow,
    /// its first entry ever
    pub first_seq: Option<Seq>,
    /// time of its last entry
    pub at_ms: u64,
    /// members whose inbox lives in the same slot
    pub members_here: u32,
    /// members whose inbox lives in another slot
    pub members_elsewhere: u32,
    /// is it in the pending table?
    pub pending: bool,
    /// durable delivery cursors
    pub delivered: DeliveryRecord,
}

/// What became of a message id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum DedupeRow {
    /// It is in the conversation.
    Committed {
        /// its place
        seq: Seq,
        /// `H(salt, body)`; of an amendment, its identity (`seriatim_proto::command::identity`)
        body_hash: BodyHash,
    },
    /// Its sender cancelled it: it will never be.
    Cancelled {
        /// the conversation's tail when it was cancelled, or what the device knew of it if that is more: the row goes
        /// when trim passes it, and attempts are `Expired` then
        place: Seq,
    },
}

/// A conversation in a user's list. Lives as long as the user.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct LastRow {
    /// everything up to this entry of the conversation is in the inbox. Invariant: only rises (I9).
    pub last: Seq,
    /// newest inbox entry of the conversation
    pub inbox_seq: Option<Seq>,
    /// messages of the conversation in this inbox
    pub messages: u64,
}

/// The stays of a member, oldest first; only the last may be open.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, Default)]
pub struct MemberRow {
    /// `(joining entry, leaving entry)`, both included
    pub stays: Vec<(Seq, Option<Seq>)>,
}

impl MemberRow {
    /// Is he a member now?
    pub fn is_member(&self) -> bool {
        matches!(self.stays.last(), Some((_, None)))
    }
}

/// Group 0: the cluster and the next ids. Ids are never reused (I15).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct ClusterRow {
    /// which cluster
    pub cluster: ClusterId,
    /// generation
    pub generation: Generation,
    /// next store id
    pub store_next: StoreId,
    /// next replica id
    pub replica_next: ReplicaId,
    /// next node id
    pub node_next: NodeId,
}

/// A live lease.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct LeaseRow {
    /// whose
    pub node: NodeId,
}

/// What a group owns.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct OwnedRow {
    /// of the group
    pub generation: Generation,
    /// rising, without overlap
    pub slots: Vec<SlotRange>,
}
