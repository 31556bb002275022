//! Store frames: what logic nodes (and raftctl) and stores say to each other on one gRPC stream.
//!
//! A node opens one stream per store and pipelines batches over it; answers may come in any order, by `id`.
//! Frames are written by [`crate::codec`] into `Packet::frames`, several per packet.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::{DeliveryRecord, EntryRef, Kind, Listed, Outcome};
use crate::error::Refusal;
use crate::ids::{
    Chain, ClusterId, ConversationId, DeviceId, Emoji, Epoch, GroupId, LeaseId, MessageId, Namespace, NodeId, Seq,
    SlotId, StoreId, TenantId, UserId,
};
use crate::meta::{Directory, ReplicaRecord, StoreToken};

/// Node → store.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum StoreRequest {
    /// Must come first. A store of another cluster refuses with `WrongCluster`.
    Hello {
        /// `None`: whichever (only raftctl and a node that has not seen the cluster yet)
        cluster: Option<ClusterId>,
    },
    /// Commands for one group, as one Raft entry.
    Propose {
        /// chosen by the caller
        id: u64,
        /// whose leader is asked
        group: GroupId,
        /// how many commands
        count: u32,
        /// `codec::encode(&Vec<Command>)`, passed on as it is
        batch: Bytes,
    },
    /// Reads from one group, all at one applied index.
    Read {
        /// chosen by the caller
        id: u64,
        /// which group
        group: GroupId,
        /// how fresh
        freshness: Freshness,
        /// what
        reads: Vec<Read>,
    },
    /// All the renewals that a node owes this store.
    Renew {
        /// chosen by the caller
        id: u64,
        /// one per group led there
        leases: Vec<(GroupId, LeaseId)>,
    },
    /// From now on send [`StoreEvent`]s for all groups.
    Watch,
}

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Freshness {
    /// by ReadIndex, at the leader
    Linearizable,
    /// whatever this replica has applied
    Stale,
}

/// Store → node.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum StoreResponse {
    /// The answer to `Hello`.
    Welcome {
        /// who answers, or why not
        result: Result<StoreWelcome, Refusal>,
    },
    /// Applied on the leader; one outcome per command.
    Proposed {
        /// of the request
        id: u64,
        /// or why not, with certainty
        result: Result<Vec<Outcome>, StoreRefusal>,
    },
    /// One answer per read, in order.
    Reads {
        /// of the request
        id: u64,
        /// or why not
        result: Result<Vec<ReadOutcome>, StoreRefusal>,
    },
    /// One answer per lease, in order.
    Renewed {
        /// of the request
        id: u64,
        /// each on its own
        results: Vec<Renewal>,
    },
    /// After `Watch`.
    Event(StoreEvent),
}

/// Who answers.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct StoreWelcome {
    /// `None` before `cluster init`
    pub cluster: Option<ClusterId>,
    /// `None` before `cluster init`
    pub store: Option<StoreId>,
}

/// A store's no.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, thiserror::Error)]
pub enum StoreRefusal {
    /// Another store leads the group; nothing happened.
    #[error("another store leads the group")]
    NotLeader {
        /// who, if known
        leader: Option<StoreId>,
    },
    /// Anything else, with the code's own certainty.
    #[error(transparent)]
    Refused(Refusal),
}

/// What became of one lease's renewal.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Renewal {
    /// Noted.
    Renewed,
    /// The lease does not exist or is marked for expiry.
    Gone,
    /// Try the leader.
    NotLeader {
        /// who, if known
        leader: Option<StoreId>,
    },
    /// No quorum now; nothing noted.
    Unavailable,
}

/// What changed. After `Watch` a full table of each group comes first, then deltas; leaders and followers both send
/// what they applied, so a table may be behind: epochs tell.
#[expect(clippy::large_enum_variant, reason = "a directory is the rarest event, and events wait behind an `Arc`")]
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum StoreEvent {
    /// Slots of a group and who holds them.
    Holders {
        /// which group
        group: GroupId,
        /// all slots of the group, or those that changed
        rows: Vec<HolderRow>,
    },
    /// Who leads a group, as this store sees it.
    Leader {
        /// which group
        group: GroupId,
        /// `None`: nobody known
        leader: Option<StoreId>,
    },
    /// Group 0 changed (or the first table).
    Directory(Directory),
}

/// One slot of the holder table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct HolderRow {
    /// which slot
    pub slot: SlotId,
    /// its epoch
    pub epoch: Epoch,
    /// who holds it, with a live lease; `None`: free to claim
    pub holder: Option<NodeId>,
    /// the holder's lease
    pub lease: Option<LeaseId>,
    /// who should claim it at once, when free
    pub heir: Option<NodeId>,
}

/// One read.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Read {
    /// A slot's row → `Holder`.
    Holder(SlotId),
    /// All slots of the group → `Holders`.
    Holders,
    /// Group 0 only → `Directory`.
    Directory,
    /// Pending conversations of a slot → `Pending`.
    Pending {
        /// which slot
        slot: SlotId,
        /// behind this one, `None` from the start
        after: Option<(TenantId, ConversationId)>,
        /// most rows
        limit: u32,
    },
    /// A namespace's row → `Namespace`.
    Namespace(Namespace),
    /// A conversation with its stays → `Conversation`.
    Conversation {
        /// whose
        tenant: TenantId,
        /// which
        conversation: ConversationId,
    },
    /// Entries of a conversation, with bodies, from `from` on → `Messages`.
    Messages {
        /// whose
        tenant: TenantId,
        /// which
        conversation: ConversationId,
        /// first seq
        from: Seq,
        /// most rows
        limit: u32,
        /// stop behind this many bytes of bodies
        bytes_max: u32,
    },
    /// Single entries of a conversation, with bodies → `Messages` (those that exist).
    MessagesAt {
        /// whose
        tenant: TenantId,
        /// which
        conversation: ConversationId,
        /// which entries
        seqs: Vec<Seq>,
    },
    /// What dedupe knows of a message id → `Dedupe`.
    Dedupe {
        /// whose
        tenant: TenantId,
        /// which conversation
        conversation: ConversationId,
        /// who sent it
        sender: UserId,
        /// under which id
        message_id: MessageId,
    },
    /// Entries of an inbox from `from` on, and the inbox's row at the same applied index → `Inbox`.
    Inbox {
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
        /// first seq; `None` from the inbox's trim
        from: Option<Seq>,
        /// most rows
        limit: u32,
    },
    /// `last` of a conversation in an inbox → `Last`.
    Last {
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
        /// from which conversation
        conversation: ConversationId,
    },
    /// A user's device cursors → `Cursors`.
    Cursors {
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
    },
    /// What became of a message → `Amendments`.
    Amendments {
        /// whose
        tenant: TenantId,
        /// which conversation
        conversation: ConversationId,
        /// the message's place
        target: Seq,
    },
    /// Pinned messages of a conversation → `Pins`.
    Pins {
        /// whose
        tenant: TenantId,
        /// which conversation
        conversation: ConversationId,
    },
    /// A user's conversations → `List`.
    List {
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
        /// behind this one, `None` from the start
        after: Option<ConversationId>,
        /// most rows
        limit: u32,
    },
}

/// The answer to one read.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum ReadOutcome {
    /// `Holder`; `None`: the slot was never claimed
    Holder(HolderRow),
    /// `Holders`
    Holders(Vec<HolderRow>),
    /// `Directory`; `None` before `Init`
    Directory(Option<Directory>),
    /// `Pending`
    Pending(Vec<(TenantId, ConversationId)>),
    /// `Namespace`
    Namespace(Option<NamespaceState>),
    /// `Conversation`
    Conversation(Option<ConversationState>),
    /// `Messages`, `MessagesAt`
    Messages(Vec<StoredMessage>),
    /// `Dedupe`
    Dedupe(Option<Seq>),
    /// `Inbox`; `None`: nothing ever arrived
    Inbox {
        /// the inbox
        state: Option<NamespaceState>,
        /// rising by seq
        entries: Vec<InboxEntry>,
    },
    /// `Last`
    Last(Option<Seq>),
    /// `Cursors`
    Cursors(Vec<(DeviceId, Seq)>),
    /// The group does not own the slot.
    WrongGroup,
    /// `Dedupe`, of a message id that its sender cancelled
    Cancelled,
    /// `Amendments`
    Amendments(Amendments),
    /// `Pins`: the message and the entry that pinned it
    Pins(Vec<(Seq, Seq)>),
    /// `List`
    List {
        /// the inbox; `None`: nothing ever arrived
        state: Option<NamespaceState>,
        /// messages that are read, of all conversations; the others of the inbox's `ordinal` are not
        read: u64,
        /// in the order of their names
        list: Vec<Listed>,
    },
}

/// What became of a message.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, Default)]
pub struct Amendments {
    /// its edits, rising; the last one holds
    pub edits: Vec<Seq>,
    /// the entry that recalled it
    pub recalled: Option<Seq>,
    /// reactions that are set: whose, which, and the entry that set it; at most `limits::READ_ROWS_MAX`
    pub reactions: Vec<(UserId, Emoji, Seq)>,
    /// the entry that pinned it
    pub pinned: Option<Seq>,
}

/// A namespace's row, for readers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct NamespaceState {
    /// first kept
    pub trim: Seq,
    /// first unassigned
    pub tail: Seq,
    /// end of everything reserved: the durable max sequence
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

/// A conversation, for its holder.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct ConversationState {
    /// its row
    pub namespace: NamespaceState,
    /// all stays still on record
    pub stays: Vec<Stay>,
    /// durable delivery cursors
    pub delivered: DeliveryRecord,
    /// is it in the pending table?
    pub pending: bool,
}

/// A member's stay: from the joining to the leaving entry, both included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Stay {
    /// where his inbox lives
    pub slot: SlotId,
    /// who
    pub user: UserId,
    /// the joining entry
    pub joined: Seq,
    /// the leaving entry, `None` while a member
    pub left: Option<Seq>,
}

/// An entry of a conversation with its body.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct StoredMessage {
    /// what inboxes refer to
    pub entry: EntryRef,
    /// entry before it
    pub prev_seq: Option<Seq>,
    /// messages up to and with it
    pub ordinal: u64,
    /// chain up to and with it
    pub chain: Chain,
    /// of the body
    pub salt: Bytes,
    /// as [`crate::command::Content::stored`] has it
    pub body: Bytes,
    /// salt and body were erased: the message was recalled
    pub erased: bool,
}

/// An entry of an inbox: a reference.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct InboxEntry {
    /// place in the inbox
    pub seq: Seq,
    /// entry before it in the inbox
    pub prev_seq: Option<Seq>,
    /// messages of the inbox up to and with it
    pub ordinal: u64,
    /// chain of the inbox up to and with it
    pub chain: Chain,
    /// from where
    pub conversation: ConversationId,
    /// what
    pub entry: EntryRef,
    /// messages of the conversation in this inbox up to and with it: what a read mark counts
    pub messages: u64,
}

impl InboxEntry {
    /// The stored header that the inbox's chain binds.
    pub fn header_bytes(conversation: &ConversationId, entry: &EntryRef) -> Vec<u8> {
        crate::codec::encode(&(conversation, entry))
    }
    /// Recomputes the link from its predecessor's chain.
    pub fn link_from(&self, previous: Chain) -> Chain {
        crate::chain::link(previous, self.prev_seq, self.seq, &Self::header_bytes(&self.conversation, &self.entry))
    }
}

impl StoredMessage {
    /// Recomputes the link from its predecessor's chain.
    pub fn link_from(&self, previous: Chain) -> Chain {
        crate::chain::link(previous, self.prev_seq, self.entry.seq, &crate::codec::encode(&self.entry))
    }
    /// Is it counted by `ordinal`?
    pub fn counted(&self) -> bool {
        self.entry.kind == Kind::Message
    }
}

/// A store's own view of itself and its groups, for operators.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct StoreStatus {
    /// `None` before `cluster init`
    pub cluster: Option<ClusterId>,
    /// `None` before `cluster init`
    pub store: Option<StoreId>,
    /// where it listens
    pub address: String,
    /// version of the program
    pub version: String,
    /// writes refused because the disk is nearly full
    pub read_only: bool,
    /// free bytes of the data folder's file system
    pub disk_free_bytes: u64,
    /// median of recent log fsyncs
    pub fsync_us_p50: u64,
    /// 99th percentile of recent log fsyncs
    pub fsync_us_p99: u64,
    /// made with its data folder: what it joins a cluster with
    pub token: StoreToken,
    /// one per replica
    pub groups: Vec<GroupStatus>,
    /// replicas here that are rotten and not replaced yet: they do not run
    pub rotten: Vec<RottenStatus>,
    /// a database here is damaged, and in use until all groups can do without it: nothing new is born here
    pub damaged: bool,
    /// what it fails together with, as it was told at its start
    pub domain: Option<String>,
    /// the replicas of group 0 as `cluster init` named them to it, but for one of its own that was removed
    pub meta_replicas: Vec<ReplicaRecord>,
    /// its wall clock when it said this, in Unix ms
    pub unix_ms: u64,
}

/// A replica that was found rotten, for operators.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct RottenStatus {
    /// which group
    pub group: GroupId,
    /// which of its replicas
    pub replica: crate::ids::ReplicaId,
    /// what is wrong
    pub what: String,
}

/// One replica, for operators.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct GroupStatus {
    /// which group
    pub group: GroupId,
    /// our replica
    pub replica: crate::ids::ReplicaId,
    /// `leader`, `follower`, `candidate`, `learner`
    pub role: String,
    /// who leads, as seen here
    pub leader: Option<StoreId>,
    /// Raft term
    pub term: u64,
    /// last entry in the log
    pub last_index: u64,
    /// last committed entry known
    pub committed_index: u64,
    /// last applied entry
    pub applied_index: u64,
    /// last entry of the newest snapshot
    pub snapshot_index: u64,
    /// last purged entry
    pub purged_index: u64,
    /// slots owned
    pub slots: u32,
    /// live leases
    pub leases: u32,
    /// voters
    pub voters: Vec<StoreId>,
    /// it has promised something: without its log it would be rot, not a new replica
    pub settled: bool,
    /// all members, voters or not, by a committed entry, if this replica leads; else none
    pub members: Vec<crate::ids::ReplicaId>,
    /// of its rows, at the last entry at which replicas are compared
    pub digest: Option<RowsDigest>,
    /// the entry at which one is being made
    pub digesting: Option<u64>,
    /// said by a leader of a group with rotten replicas: of the others these were compared since, and are the same
    pub agreeing: Vec<crate::ids::ReplicaId>,
}

/// What all replicas of a group have in common at one entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct RowsDigest {
    /// applied entry
    pub index: u64,
    /// rows
    pub rows: u64,
    /// bytes of keys and values
    pub bytes: u64,
    /// BLAKE3 over all rows in key order, each as key length (4, big-endian), value length (4), key, value
    pub hash: [u8; 32],
}
