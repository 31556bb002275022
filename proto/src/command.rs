//! Commands: everything that is replicated, and what apply answers.
//!
//! A Raft entry is a `Vec<Command>` written by [`crate::codec`]; each command has its own outcome, at the same place.
//! Variants are only appended. Seqs inside are given by the holder and checked by apply.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{
    BodyHash, ConversationId, DeviceId, Emoji, Epoch, Fence, Generation, LeaseId, MessageId, Namespace, NodeId, Seq,
    SlotId, TenantId, UserId,
};
use crate::meta::{MetaCommand, MetaOutcome};

/// Slots `[first, end)`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct SlotRange {
    /// first slot of the range
    pub first: SlotId,
    /// first slot behind the range
    pub end: SlotId,
}

impl SlotRange {
    /// Is the slot inside?
    pub fn contains(self, slot: SlotId) -> bool {
        self.first <= slot && slot < self.end
    }
}

/// One replicated command.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all commands are the large variant; a box would cost each an allocation"
)]
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Command {
    /// The group's first leader makes it owner of its slots. Idempotent by content.
    Own {
        /// generation of the group
        generation: Generation,
        /// slots of its `CreateGroup` record
        slots: Vec<SlotRange>,
    },
    /// A logic node opens its session with this group.
    OpenLease {
        /// who
        node: NodeId,
    },
    /// The group's leader ends a lease that was not renewed; bound to its leadership.
    ExpireLease {
        /// which
        lease: LeaseId,
    },
    /// A logic node ends its own lease when it stops.
    CloseLease {
        /// which
        lease: LeaseId,
    },
    /// A logic node claims a slot (design.md §3.2).
    Claim {
        /// what
        slot: SlotId,
        /// under which lease
        lease: LeaseId,
        /// the epoch that it saw
        seen: Epoch,
    },
    /// A holder's write.
    Held {
        /// under which claim, and the how-many-th
        fence: Fence,
        /// what
        op: HolderOp,
    },
    /// Group 0 only.
    Meta(MetaCommand),
    /// The group's leader gives up the oldest entries of a conversation or an inbox; nobody else proposes it. Without a
    /// fence: idempotent by content. Apply stops before what is not delivered everywhere, and after so many rows
    /// (`limits::TRIM_ENTRIES_MAX`, `limits::TRIM_ROWS_MAX`): the leader asks again.
    Trim {
        /// no counter: these have no entries
        namespace: Namespace,
        /// first entry that is kept
        upto: Seq,
    },
}

/// What a holder may write. All namespaces concerned live in the fence's slot.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum HolderOp {
    /// Gives the slot back. The last command under its epoch.
    Release {
        /// who should claim it at once
        heir: Option<NodeId>,
    },
    /// Raises ceilings: one segment for each namespace.
    Reserve {
        /// at most `limits::RESERVE_NAMESPACES_MAX`, each namespace once
        wants: Vec<Want>,
    },
    /// Writes an entry of a conversation, and the inbox entries of members in the same slot.
    Append(Append),
    /// Writes inbox entries: deliveries from conversations of other slots.
    Deliver {
        /// each with an outcome of its own
        deliveries: Vec<Delivery>,
    },
    /// Writes delivery cursors of idle conversations.
    Delivered {
        /// at most one per conversation
        records: Vec<DeliveredRecord>,
    },
    /// Raises device cursors.
    SetCursors {
        /// each with an outcome of its own
        cursors: Vec<CursorWrite>,
    },
    /// Settles a message id: unless its message is in the conversation, it never will be.
    CancelSend(CancelSend),
    /// Sets marks of conversations in users' lists, each with an entry in the user's own inbox if it changed.
    SetMarks {
        /// each with an outcome of its own
        marks: Vec<MarkWrite>,
    },
}

/// A reservation: raise the ceiling of `namespace` to `ceiling`.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Want {
    /// whose
    pub namespace: Namespace,
    /// how many seqs
    pub seqs: u32,
}

/// Where entries go: seqs from a segment, or an open append.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Place {
    /// At this seq (and those that follow, for several entries).
    At(Seq),
    /// Apply assigns the ceiling, and reserves `segment` further seqs behind.
    Open {
        /// seqs reserved behind the entry, 0 for none
        segment: u32,
    },
}

/// An entry for a conversation.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Append {
    /// from the verified token
    pub tenant: TenantId,
    /// where to
    pub conversation: ConversationId,
    /// from the verified token
    pub sender: UserId,
    /// idempotency key of the sender
    pub message_id: MessageId,
    /// the conversation's tail that the device had before its first try, `None` for none
    pub known: Option<Seq>,
    /// a message of the same sender that must be settled before
    pub follows: Option<MessageId>,
    /// what
    pub content: Content,
    /// where in the conversation
    pub place: Place,
    /// the holder's wall clock in Unix ms; the group's leader lowers what is far ahead of its own, apply raises it to the
    /// predecessor's
    pub at_ms: u64,
    /// places for members whose inbox lives in the same slot; others are delivered to
    pub local: Vec<LocalInbox>,
    /// the conversation's delivery cursors as the holder knows them, if they moved
    pub delivered: Option<DeliveryRecord>,
}

/// A message id to be settled.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct CancelSend {
    /// from the verified token
    pub tenant: TenantId,
    /// where the message would go
    pub conversation: ConversationId,
    /// from the verified token
    pub sender: UserId,
    /// of the send
    pub message_id: MessageId,
    /// of the send: the conversation's tail that the device had before its first try, `None` for none
    pub known: Option<Seq>,
}

/// What an entry says. Pointers come as a further variant.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Content {
    /// Opaque bytes.
    Message {
        /// made by the sender's SDK, the same on every attempt
        salt: Bytes,
        /// at most `limits::MESSAGE_BYTES_MAX`
        body: Bytes,
    },
    /// The first entry of a group conversation: the sender and `members` join.
    Create {
        /// besides the sender
        members: Vec<UserId>,
    },
    /// Members come and go. The joining and the leaving entry belong to the stay.
    Members {
        /// who joins
        add: Vec<UserId>,
        /// who leaves
        remove: Vec<UserId>,
    },
    /// An amendment: an entry about an earlier message of the same conversation.
    Amend {
        /// the message's place
        target: Seq,
        /// what about it
        act: Act,
    },
}

/// What an amendment does. Rules that depend on the tenant are put in by the holder's node: apply knows no tenants.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Act {
    /// Another body takes the place of the message's, until the next edit. Its author's only.
    Edit {
        /// made by the author's SDK, the same on every attempt
        salt: Bytes,
        /// at most `limits::MESSAGE_BYTES_MAX`
        body: Bytes,
        /// how old the message may be in seconds, `u32::MAX` for any age; no part of what the author says
        within_s: u32,
    },
    /// The bodies of the message and of its edits are erased. Its author's only.
    Recall {
        /// as in `Edit`
        within_s: u32,
    },
    /// A member's reaction is set or unset.
    React {
        /// one of several that a member may have on a message
        emoji: Emoji,
        /// false: unset
        set: bool,
    },
    /// The message is pinned or unpinned, for all members.
    Pin {
        /// false: unpinned
        set: bool,
    },
}

/// The kind of an entry, in logs, inboxes and on the wire. Numbers are stable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub enum Kind {
    /// a message; counted by `ordinal`
    Message,
    /// a group was created
    Create,
    /// members changed
    Members,
    /// a message has another body
    Edit {
        /// the message's place in the conversation
        target: Seq,
    },
    /// a message was recalled
    Recall {
        /// the message's place in the conversation
        target: Seq,
    },
    /// a reaction to a message was set or unset
    Reaction {
        /// the message's place in the conversation
        target: Seq,
    },
    /// a message was pinned or unpinned
    Pin {
        /// the message's place in the conversation
        target: Seq,
    },
    /// in the reader's own inbox only: he has read the conversation up to the entry's `seq`
    Read,
    /// in the user's own inbox only: he muted the conversation, or not any more
    Mute {
        /// is it muted?
        on: bool,
    },
    /// in the user's own inbox only: he archived the conversation, or not any more
    Archive {
        /// is it archived?
        on: bool,
    },
}

impl Kind {
    /// In one word, for people and for tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Message => "message",
            Kind::Create => "create",
            Kind::Members => "members",
            Kind::Edit { .. } => "edit",
            Kind::Recall { .. } => "recall",
            Kind::Reaction { .. } => "reaction",
            Kind::Pin { .. } => "pin",
            Kind::Read => "read",
            Kind::Mute { .. } => "mute",
            Kind::Archive { .. } => "archive",
        }
    }
    /// Is it a mark: in the user's own inbox, and in no conversation?
    pub fn is_mark(self) -> bool {
        matches!(self, Kind::Read | Kind::Mute { .. } | Kind::Archive { .. })
    }
    /// Of an amendment: the place of the message that it is about.
    pub fn target(self) -> Option<Seq> {
        match self {
            Kind::Message | Kind::Create | Kind::Members | Kind::Read | Kind::Mute { .. } | Kind::Archive { .. } => {
                None
            }
            Kind::Edit { target } | Kind::Recall { target } | Kind::Reaction { target } | Kind::Pin { target } => {
                Some(target)
            }
        }
    }
    /// Is the stored body one that a device gave, and can check against its hash?
    pub fn has_own_body(self) -> bool {
        match self {
            Kind::Message | Kind::Edit { .. } => true,
            Kind::Create
            | Kind::Members
            | Kind::Recall { .. }
            | Kind::Reaction { .. }
            | Kind::Pin { .. }
            | Kind::Read
            | Kind::Mute { .. }
            | Kind::Archive { .. } => false,
        }
    }
}

impl Content {
    /// The kind.
    pub fn kind(&self) -> Kind {
        match self {
            Content::Message { .. } => Kind::Message,
            Content::Create { .. } => Kind::Create,
            Content::Members { .. } => Kind::Members,
            Content::Amend { target, act } => {
                let target = *target;
                match act {
                    Act::Edit { .. } => Kind::Edit { target },
                    Act::Recall { .. } => Kind::Recall { target },
                    Act::React { .. } => Kind::Reaction { target },
                    Act::Pin { .. } => Kind::Pin { target },
                }
            }
        }
    }
    /// Salt and body as they are stored, hashed and delivered: a device's own bytes; for membership the encoded
    /// content; for reactions and pins a byte, 1 for set and 0 for unset, and the emoji; nothing for a recall.
    pub fn stored(&self) -> (Bytes, Bytes) {
        match self {
            Content::Message { salt, body } => (salt.clone(), body.clone()),
            Content::Create { .. } | Content::Members { .. } => (Bytes::new(), crate::codec::encode_bytes(self)),
            Content::Amend { act, .. } => match act {
                Act::Edit { salt, body, .. } => (salt.clone(), body.clone()),
                Act::Recall { .. } => (Bytes::new(), Bytes::new()),
                Act::React { emoji, set } => {
                    (Bytes::new(), [&[u8::from(*set)], emoji.as_str().as_bytes()].concat().into())
                }
                Act::Pin { set } => (Bytes::new(), Bytes::copy_from_slice(&[u8::from(*set)])),
            },
        }
    }
    /// `H(salt, body)` of what is stored: what entries carry.
    pub fn hash(&self) -> BodyHash {
        let (salt, body) = self.stored();
        crate::chain::body_hash(&salt, &body)
    }
    /// What dedupe compares: another content under the same message id is a conflict. Of an amendment the kind and the
    /// target count too.
    pub fn identity(&self) -> BodyHash {
        identity(self.kind(), self.hash())
    }
}

/// As [`Content::identity`], of an entry.
pub fn identity(kind: Kind, body_hash: BodyHash) -> BodyHash {
    match kind.target() {
        None => body_hash,
        Some(_) => crate::chain::body_hash(&[], &crate::codec::encode(&(kind, body_hash))),
    }
}

/// What the stored body of a reaction says: the emoji, and whether it was set. `None`: it is none.
pub fn reaction_of(body: &[u8]) -> Option<(Emoji, bool)> {
    let (flag, emoji) = body.split_first()?;
    Some((Emoji::new(std::str::from_utf8(emoji).ok()?).ok()?, flag_of(*flag)?))
}

/// What the stored body of a pin says: was it set? `None`: it is none.
pub fn pin_of(body: &[u8]) -> Option<bool> {
    match body {
        [flag] => flag_of(*flag),
        _ => None,
    }
}

fn flag_of(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Where the inbox entry of a co-located member goes.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct LocalInbox {
    /// the member
    pub user: UserId,
    /// where in his inbox
    pub place: Place,
}

/// All that one member was owed in `(after, upto]` of one conversation.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Delivery {
    /// whose
    pub tenant: TenantId,
    /// the member
    pub user: UserId,
    /// from where
    pub conversation: ConversationId,
    /// last entry before the range that the member was owed, `None` for none
    pub after: Option<Seq>,
    /// last entry that the source read
    pub upto: Seq,
    /// the entries, rising by seq, all in `(after, upto]`
    pub entries: Vec<EntryRef>,
    /// first inbox seq; the entries take consecutive ones
    pub place: Place,
}

/// What an inbox keeps of an entry: a reference and the permission to read it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct EntryRef {
    /// place in the conversation
    pub seq: Seq,
    /// what it is
    pub kind: Kind,
    /// who wrote it
    pub sender: UserId,
    /// his idempotency key
    pub message_id: MessageId,
    /// `H(salt, body)`
    pub body_hash: BodyHash,
    /// Unix ms, never below the predecessor's in its conversation
    pub at_ms: u64,
}

/// A conversation's delivery cursors: everything up to `all` is delivered, but for the slots that are behind.
/// All positions are seqs of entries, inclusive; `None` is before the first.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, Default)]
pub struct DeliveryRecord {
    /// for all other target slots
    pub all: Option<Seq>,
    /// target slots behind `all`, rising, at most `limits::DELIVERY_SLOTS_BEHIND_MAX`
    pub behind: Vec<(SlotId, Option<Seq>)>,
}

/// A conversation's delivery cursors, when idle.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct DeliveredRecord {
    /// whose
    pub tenant: TenantId,
    /// which
    pub conversation: ConversationId,
    /// where its deliveries are
    pub record: DeliveryRecord,
}

/// A device's cursor: everything below `cursor` is acknowledged.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct CursorWrite {
    /// whose
    pub tenant: TenantId,
    /// whose
    pub user: UserId,
    /// which device
    pub device: DeviceId,
    /// exclusive
    pub cursor: Seq,
}

/// What a user says about a conversation to his own devices: registers, kept beside his inbox.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub enum Mark {
    /// He has read everything of the conversation up to this entry of his inbox. Only rises.
    Read {
        /// place in the inbox, of an entry of the conversation, which is included
        upto: Seq,
    },
    /// He does not want to be disturbed by it.
    Mute {
        /// false: he does
        on: bool,
    },
    /// He does not want to see it.
    Archive {
        /// false: he does
        on: bool,
    },
}

/// A mark of a conversation.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct MarkWrite {
    /// whose
    pub tenant: TenantId,
    /// whose
    pub user: UserId,
    /// which
    pub conversation: ConversationId,
    /// what
    pub mark: Mark,
    /// where the entry in the user's inbox goes, if there is one
    pub place: Place,
    /// the holder's wall clock in Unix ms
    pub at_ms: u64,
}

/// A conversation in a user's list.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Listed {
    /// which
    pub conversation: ConversationId,
    /// everything up to this entry of the conversation is in the inbox
    pub last: Seq,
    /// newest inbox entry that the conversation brought
    pub inbox_seq: Option<Seq>,
    /// messages of the conversation in this inbox
    pub messages: u64,
    /// how far it is read
    pub read: Option<ReadUpto>,
    /// he does not want to be disturbed by it
    pub muted: bool,
    /// he does not want to see it
    pub archived: bool,
}

impl Listed {
    /// Messages that are not read.
    pub fn unread(&self) -> u64 {
        self.messages - self.read.map_or(0, |read| read.messages)
    }
}

/// A read mark.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct ReadUpto {
    /// the last entry that was read, in the inbox
    pub inbox_seq: Seq,
    /// its place in the conversation
    pub seq: Seq,
    /// messages of the conversation in the inbox up to and with it
    pub messages: u64,
}

/// The deterministic result of a command.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Outcome {
    /// `Own`
    Owned,
    /// `OpenLease`
    Leased(LeaseId),
    /// `ExpireLease`, `CloseLease`; also when it was gone already
    LeaseEnded,
    /// `Claim`, first time or repeated
    Claimed {
        /// the new epoch
        epoch: Epoch,
    },
    /// `Release`
    Released,
    /// `Reserve`: one segment per want, in order
    Reserved(Vec<Segment>),
    /// `Append`
    Appended(Appended),
    /// `Deliver`: one per delivery, in order
    Delivered(Vec<DeliveryOutcome>),
    /// `Delivered`
    Recorded,
    /// `SetCursors`: one per write, in order
    CursorsSet(Vec<CursorOutcome>),
    /// group 0
    Meta(MetaOutcome),
    /// a deterministic no
    Rejected(Reject),
    /// `CancelSend`: the message is in the conversation at this seq; `None`: it is cancelled, now or before
    SendSettled(Option<Seq>),
    /// `SetMarks`: one per mark, in order
    MarksSet(Vec<MarkOutcome>),
    /// `Trim`
    Trimmed {
        /// first kept entry now; below what was asked for if there is more to give up, or if it must not go yet
        trim: Seq,
        /// how many went
        entries: u32,
    },
}

/// What became of a mark.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all outcomes are the large variant; a box would cost each an allocation"
)]
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum MarkOutcome {
    /// It is set, now or before.
    Set {
        /// the conversation in the user's list now
        listed: Listed,
        /// the entry in his inbox, if anything changed
        written: Option<(InboxWritten, EntryRef)>,
        /// segment that an open place asked for
        segment: Option<Segment>,
    },
    /// The user has no such conversation, or no such entry of it.
    NotFound,
    /// The seq is not what the inbox can take; a holder's defect, never silent.
    SeqRefused,
}

/// Seqs `[lo, hi)` reserved under an epoch.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Segment {
    /// a holder drops what belongs to another epoch
    pub epoch: Epoch,
    /// first reserved
    pub lo: Seq,
    /// first not reserved
    pub hi: Seq,
}

/// An entry is in its conversation.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct Appended {
    /// its place; an earlier attempt's place when `duplicate`
    pub seq: Seq,
    /// an earlier attempt of the same message id had done it; nothing was written
    pub duplicate: bool,
    /// what inboxes will keep, `None` when `duplicate`
    pub entry: Option<EntryRef>,
    /// entry before it in the conversation
    pub prev_seq: Option<Seq>,
    /// segment that an open place asked for
    pub segment: Option<Segment>,
    /// for each of `Append::local`, what was written to that inbox
    pub local: Vec<LocalOutcome>,
}

/// What happened to one co-located inbox.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct LocalOutcome {
    /// the inbox entry, `None` if it must be delivered (not a member, or behind)
    pub written: Option<InboxWritten>,
    /// segment that an open place asked for; its seqs are reserved even if nothing was written
    pub segment: Option<Segment>,
}

/// One new inbox entry, as a push carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct InboxWritten {
    /// place in the inbox
    pub seq: Seq,
    /// entry before it in the inbox
    pub prev_seq: Option<Seq>,
    /// messages of the inbox up to and with this entry
    pub ordinal: u64,
    /// seq of the entry in its conversation
    pub conversation_seq: Seq,
}

/// What an inbox says to a delivery.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum DeliveryOutcome {
    /// Everything up to `last` is in the inbox, now or before.
    Accepted {
        /// new `last` of the conversation in this inbox
        last: Seq,
        /// what this command wrote, rising; entries that were there already are not in it
        written: Vec<InboxWritten>,
        /// segment that an open place asked for
        segment: Option<Segment>,
    },
    /// Something before the range is missing: the source goes back to `last`.
    Jump {
        /// `None`: from the beginning
        last: Option<Seq>,
        /// segment that an open place asked for
        segment: Option<Segment>,
    },
    /// The seqs are not what the inbox can take; a holder's defect, never silent.
    SeqRefused,
}

/// What became of a cursor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum CursorOutcome {
    /// The durable cursor now; at least what was asked.
    At(Seq),
    /// Above the inbox's tail, which is given.
    Ahead {
        /// the inbox's tail
        tail: Seq,
    },
    /// The user has as many devices as he may have.
    DevicesFull,
}

/// A deterministic no. The first four consume no `n`; every other consumes its own.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, thiserror::Error)]
pub enum Reject {
    /// The group does not own the slot (or the command is not for this kind of group).
    #[error("the group does not own slot {0:?}")]
    WrongGroup(SlotId),
    /// Another epoch rules the slot, or none.
    #[error("fenced: the slot is under epoch {current:?}")]
    Fenced {
        /// the slot's epoch
        current: Epoch,
    },
    /// A command before this one is missing.
    #[error("expected command {n}")]
    Expected {
        /// what comes next
        n: u64,
    },
    /// The command was applied before; what became of it must be read.
    #[error("the command was applied before")]
    Passed,
    /// No such lease.
    #[error("the lease is gone")]
    LeaseGone,
    /// The slot has another epoch than seen, or a live holder.
    #[error("the claim was refused: epoch {epoch:?}")]
    ClaimRefused {
        /// the slot's epoch
        epoch: Epoch,
        /// the node whose live lease holds it
        holder: Option<NodeId>,
    },
    /// Another body under this message id.
    #[error("another body under this message id")]
    Conflict,
    /// Older than dedupe still knows.
    #[error("the message id is older than what is still kept")]
    Expired,
    /// The message that it follows is not settled.
    #[error("the message that it follows is not settled")]
    OutOfOrder,
    /// No such conversation, or the sender is not in it.
    #[error("no such conversation, or not yours")]
    NotFound,
    /// The group exists.
    #[error("the conversation exists")]
    AlreadyExists,
    /// More members than allowed.
    #[error("too many members")]
    MembersTooMany,
    /// A seq outside what the row can take.
    #[error("seq refused")]
    SeqRefused,
    /// The generation has no seqs left.
    #[error("the generation's seqs are used up")]
    GenerationExhausted,
    /// A command that no correct holder makes; nothing was written.
    #[error("malformed command")]
    Malformed,
    /// The sender cancelled this message id.
    #[error("the message was cancelled")]
    Cancelled,
    /// The target of an amendment was recalled.
    #[error("the message was recalled")]
    Recalled,
    /// Only the author of a message may do that.
    #[error("only its author may do that")]
    NotAuthor,
    /// The message is older than the tenant's rule allows.
    #[error("the message is too old for that")]
    TooLate,
    /// The message or the conversation has as many of these as it may have.
    #[error("too many of these")]
    AmendmentsTooMany,
}

impl Reject {
    /// Does the command keep its `n`, to be sent again?
    pub fn consumes_n(&self) -> bool {
        !matches!(self, Reject::WrongGroup(_) | Reject::Fenced { .. } | Reject::Expected { .. } | Reject::Passed)
    }
    /// The code for those outside.
    pub fn code(&self) -> crate::error::ErrorCode {
        use crate::error::ErrorCode;
        match self {
            Reject::WrongGroup(_) => ErrorCode::WrongGroup,
            Reject::Fenced { .. } | Reject::LeaseGone | Reject::ClaimRefused { .. } => ErrorCode::NotHolder,
            Reject::Expected { .. } | Reject::Passed => ErrorCode::Unavailable,
            Reject::Conflict => ErrorCode::Conflict,
            Reject::Cancelled => ErrorCode::Cancelled,
            Reject::Expired => ErrorCode::Expired,
            Reject::OutOfOrder => ErrorCode::OutOfOrder,
            Reject::NotFound => ErrorCode::NotFound,
            Reject::AlreadyExists => ErrorCode::AlreadyExists,
            Reject::MembersTooMany => ErrorCode::MembersTooMany,
            Reject::GenerationExhausted => ErrorCode::GenerationExhausted,
            Reject::Recalled => ErrorCode::Recalled,
            Reject::NotAuthor => ErrorCode::NotAuthor,
            Reject::TooLate => ErrorCode::TooLate,
            Reject::AmendmentsTooMany => ErrorCode::AmendmentsTooMany,
            Reject::SeqRefused | Reject::Malformed => ErrorCode::Internal,
        }
    }
}
