//! Entry: what the protocol says, in checked types.

use bytes::Bytes;
use seriatim_proto::command::EntryRef;
use seriatim_proto::ids::{
    BodyHash, Chain, ConversationId, ConversationKey, DeviceId, Emoji, Generation, MessageId, NameError, Seq, TenantId,
    UserId,
};
use seriatim_proto::wire::{self, v1};

use crate::error::EntryError;

pub use seriatim_proto::command::Kind;

/// A conversation as its member names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Conversation {
    /// the direct one with this user; one's own name for notes to oneself
    Peer(UserId),
    /// a group
    Group(ConversationKey),
}

impl Conversation {
    /// The direct conversation with a user.
    pub fn peer(name: &str) -> Result<Self, NameError> {
        UserId::new(name).map(Self::Peer)
    }
    /// The name that all members share.
    pub fn id_for(&self, user: &UserId) -> ConversationId {
        match self {
            Self::Peer(peer) => ConversationId::direct(user.clone(), peer.clone()),
            Self::Group(key) => ConversationId::Group(*key),
        }
    }
    pub(crate) fn to_wire(&self) -> v1::Conversation {
        let id = match self {
            Self::Peer(peer) => v1::conversation::Id::Peer(peer.as_str().to_owned()),
            Self::Group(key) => v1::conversation::Id::Group(Bytes::copy_from_slice(&key.0)),
        };
        v1::Conversation { id: Some(id) }
    }
    fn from_wire(conversation: Option<&v1::Conversation>) -> Result<Self, EntryError> {
        let wrong = EntryError("conversation");
        match conversation.and_then(|conversation| conversation.id.as_ref()) {
            Some(v1::conversation::Id::Peer(peer)) => UserId::new(peer).map(Self::Peer).map_err(|_| wrong),
            Some(v1::conversation::Id::Group(key)) => ConversationKey::from_slice(key).map(Self::Group).ok_or(wrong),
            None => Err(wrong),
        }
    }
}

/// A run of numbers of a counter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    /// the first
    pub first: Seq,
    /// how many
    pub count: u32,
}

impl Numbers {
    pub(crate) fn from_wire(numbers: &v1::Numbers) -> Result<Self, EntryError> {
        let first = Seq::new(numbers.first).ok_or(EntryError("first"))?;
        Seq::new(numbers.first + u64::from(numbers.count)).ok_or(EntryError("count"))?;
        Ok(Self { first, count: numbers.count })
    }

    /// The first number behind the run.
    pub fn end(self) -> Seq {
        self.first.plus(u64::from(self.count))
    }
}

/// Who the gateway takes this client for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// from the token
    pub tenant: TenantId,
    /// from the token
    pub user: UserId,
    /// of the cluster
    pub generation: Generation,
}

/// A message, a group or a change of members is durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committed {
    /// place in the conversation
    pub seq: Seq,
    /// an earlier attempt had done it
    pub duplicate: bool,
}

/// What became of a send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendStatus {
    /// in the conversation
    Committed(Seq),
    /// it will never be
    Cancelled,
    /// too old to be known
    Expired,
    /// no verdict: an attempt may still be under way
    NotYet,
}

/// A body, or why it is not there.
#[derive(Clone, PartialEq, Eq)]
pub enum EntryBody {
    /// as it was sent
    Here {
        /// of the hash
        salt: Bytes,
        /// opaque; empty but for messages and edits
        body: Bytes,
    },
    /// erased
    Erased,
    /// no longer kept
    Trimmed,
    /// no answer from where it lies: ask again
    Unavailable,
}

impl std::fmt::Debug for EntryBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EntryBody::Here { body, .. } => write!(f, "Here({} bytes)", body.len()),
            EntryBody::Erased => f.write_str("Erased"),
            EntryBody::Trimmed => f.write_str("Trimmed"),
            EntryBody::Unavailable => f.write_str("Unavailable"),
        }
    }
}

/// An entry of the inbox, or of a conversation ([`HistoryPage`]: then it has no place in the inbox).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// place in the inbox; `Seq::FIRST` where it has none
    pub seq: Seq,
    /// entry before it in the inbox
    pub prev_seq: Option<Seq>,
    /// messages up to and with it
    pub ordinal: u64,
    /// from where
    pub conversation: Conversation,
    /// place in the conversation
    pub conversation_seq: Seq,
    /// what it is
    pub kind: Kind,
    /// who wrote it
    pub sender: UserId,
    /// his idempotency key
    pub message_id: MessageId,
    /// Unix milliseconds, never below the predecessor's in its conversation
    pub at_ms: u64,
    /// `H(salt, body)`
    pub body_hash: BodyHash,
    /// the body
    pub body: EntryBody,
    /// who joined
    pub added: Vec<UserId>,
    /// who left
    pub removed: Vec<UserId>,
    /// of a reaction: which
    pub emoji: Option<Emoji>,
    /// a reaction or a pin was taken back
    pub unset: bool,
    /// the inbox's chain up to and with it; only in a [`SyncPage`]
    pub chain: Option<Chain>,
}

impl Entry {
    /// What the inbox's chain binds, besides the conversation.
    pub fn entry_ref(&self) -> EntryRef {
        EntryRef {
            seq: self.conversation_seq,
            kind: self.kind,
            sender: self.sender.clone(),
            message_id: self.message_id,
            body_hash: self.body_hash,
            at_ms: self.at_ms,
        }
    }
    /// Does the body match its hash? Of reactions and pins, what they say. `true` where there is none to check.
    pub fn body_matches(&self) -> bool {
        let is_hash = |salt: &[u8], body: &[u8]| seriatim_proto::chain::body_hash(salt, body) == self.body_hash;
        let set = u8::from(!self.unset);
        match &self.body {
            EntryBody::Here { salt, body } => match (self.kind, &self.emoji) {
                (Kind::Create | Kind::Members, _) => true,
                (Kind::Message | Kind::Edit { .. } | Kind::Recall { .. }, _)
                | (Kind::Read | Kind::Mute { .. } | Kind::Archive { .. }, _) => is_hash(salt, body),
                (Kind::Reaction { .. }, Some(emoji)) => is_hash(&[], &[&[set], emoji.as_str().as_bytes()].concat()),
                (Kind::Reaction { .. }, None) => false,
                (Kind::Pin { .. }, _) => is_hash(&[], &[set]),
            },
            EntryBody::Erased | EntryBody::Trimmed | EntryBody::Unavailable => true,
        }
    }

    pub(crate) fn from_wire(entry: v1::Entry) -> Result<Self, EntryError> {
        let target = || seq(entry.target).map_err(|_| EntryError("target"));
        let kind = match entry.kind() {
            v1::entry::Kind::Message => Kind::Message,
            v1::entry::Kind::Create => Kind::Create,
            v1::entry::Kind::Members => Kind::Members,
            v1::entry::Kind::Edit => Kind::Edit { target: target()? },
            v1::entry::Kind::Recall => Kind::Recall { target: target()? },
            v1::entry::Kind::Reaction => Kind::Reaction { target: target()? },
            v1::entry::Kind::Pin => Kind::Pin { target: target()? },
            v1::entry::Kind::Read => Kind::Read,
            v1::entry::Kind::Mute => Kind::Mute { on: !entry.unset },
            v1::entry::Kind::Archive => Kind::Archive { on: !entry.unset },
            v1::entry::Kind::Unspecified => return Err(EntryError("kind")),
        };
        let body = match entry.body_state() {
            v1::entry::Body::Here => EntryBody::Here { salt: entry.salt, body: entry.body },
            v1::entry::Body::Erased => EntryBody::Erased,
            v1::entry::Body::Trimmed => EntryBody::Trimmed,
            v1::entry::Body::Unavailable => EntryBody::Unavailable,
            v1::entry::Body::Unspecified => return Err(EntryError("body state")),
        };
        let chain = match entry.chain.len() {
            0 => None,
            _ => Some(Chain::from_slice(&entry.chain).ok_or(EntryError("chain"))?),
        };
        Ok(Self {
            seq: optional_seq(entry.seq)?.unwrap_or(Seq::FIRST),
            prev_seq: optional_seq(entry.prev_seq)?,
            ordinal: entry.ordinal,
            conversation: Conversation::from_wire(entry.conversation.as_ref())?,
            conversation_seq: seq(entry.conversation_seq)?,
            kind,
            sender: UserId::new(&entry.sender).map_err(|_| EntryError("sender"))?,
            message_id: MessageId::from_slice(&entry.message_id).ok_or(EntryError("message id"))?,
            at_ms: entry.at_ms,
            body_hash: BodyHash::from_slice(&entry.body_hash).ok_or(EntryError("body hash"))?,
            body,
            added: users(&entry.added)?,
            removed: users(&entry.removed)?,
            emoji: match entry.emoji.as_str() {
                "" => None,
                emoji => Some(Emoji::new(emoji).map_err(|_| EntryError("emoji"))?),
            },
            unset: entry.unset,
            chain,
        })
    }
}

/// A page of the inbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncPage {
    /// rising by seq
    pub entries: Vec<Entry>,
    /// nothing below it is missing: the next `from`
    pub upto: Seq,
    /// there is more
    pub more: bool,
    /// entries from `from` on were trimmed
    pub too_long: bool,
    /// first kept
    pub trim: Seq,
    /// the inbox's tail when it was read
    pub tail: Seq,
    /// chain at the last entry below `upto`, zeros before the first
    pub chain: Chain,
}

impl SyncPage {
    pub(crate) fn from_wire(page: v1::SyncPage) -> Result<Self, EntryError> {
        Ok(Self {
            entries: entries(page.entries)?,
            upto: seq(page.upto)?,
            more: page.more,
            too_long: page.too_long,
            trim: seq(page.trim)?,
            tail: seq(page.tail)?,
            chain: chain(&page.chain)?,
        })
    }
}

/// A conversation in the user's list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// which
    pub conversation: Conversation,
    /// everything up to this place of the conversation is in the inbox
    pub last: Seq,
    /// the newest entry that it brought into the inbox
    pub inbox_seq: Option<Seq>,
    /// messages of it in the inbox
    pub messages: u64,
    /// how many of them are not read
    pub unread: u64,
    /// the read mark: the entry's place in the inbox and in the conversation
    pub read: Option<(Seq, Seq)>,
    /// the user does not want to be disturbed by it
    pub muted: bool,
    /// the user does not want to see it
    pub archived: bool,
}

impl Listed {
    pub(crate) fn from_wire(listed: v1::Listed) -> Result<Self, EntryError> {
        Ok(Self {
            conversation: Conversation::from_wire(listed.conversation.as_ref())?,
            last: seq(listed.last)?,
            inbox_seq: optional_seq(listed.inbox_seq)?,
            messages: listed.messages,
            unread: listed.unread,
            read: optional_seq(listed.read_upto)?.zip(optional_seq(listed.read_seq)?),
            muted: listed.muted,
            archived: listed.archived,
        })
    }
}

/// A page of the user's conversations.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListPage {
    /// in the order of their names
    pub list: Vec<Listed>,
    /// there is more behind the last one
    pub more: bool,
    /// messages that are not read, of all conversations
    pub unread: u64,
}

impl ListPage {
    pub(crate) fn from_wire(page: v1::ListPage) -> Result<Self, EntryError> {
        let list = page.list.into_iter().map(Listed::from_wire).collect::<Result<_, _>>()?;
        Ok(Self { list, more: page.more, unread: page.unread })
    }
}

/// A page of a conversation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryPage {
    /// rising by `conversation_seq`
    pub entries: Vec<Entry>,
    /// the next `from`
    pub upto: Seq,
    /// there is more
    pub more: bool,
}

impl HistoryPage {
    pub(crate) fn from_wire(page: v1::HistoryPage) -> Result<Self, EntryError> {
        Ok(Self { entries: entries(page.entries)?, upto: seq(page.upto)?, more: page.more })
    }
}

/// Where the inbox and its devices stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatusPage {
    /// first kept, `None` while nothing ever arrived
    pub trim: Option<Seq>,
    /// first unassigned, `None` while nothing ever arrived
    pub tail: Option<Seq>,
    /// end of everything reserved, `None` while nothing ever arrived
    pub ceiling: Option<Seq>,
    /// messages so far
    pub ordinal: u64,
    /// chain at the last entry
    pub chain: Chain,
    /// all devices with a cursor
    pub devices: Vec<(DeviceId, Seq)>,
}

impl StatusPage {
    pub(crate) fn from_wire(page: v1::StatusPage) -> Result<Self, EntryError> {
        let device = |device: v1::DeviceCursor| {
            Ok((DeviceId::new(&device.device).map_err(|_| EntryError("device"))?, seq(device.cursor)?))
        };
        Ok(Self {
            trim: optional_seq(page.trim)?,
            tail: optional_seq(page.tail)?,
            ceiling: optional_seq(page.ceiling)?,
            ordinal: page.ordinal,
            chain: chain(&page.chain)?,
            devices: page.devices.into_iter().map(device).collect::<Result<_, _>>()?,
        })
    }
}

pub(crate) fn seq(seq: u64) -> Result<Seq, EntryError> {
    Seq::new(seq).ok_or(EntryError("seq"))
}

fn optional_seq(seq: u64) -> Result<Option<Seq>, EntryError> {
    wire::seq_from_wire(seq).map_err(|_| EntryError("seq"))
}

fn chain(bytes: &[u8]) -> Result<Chain, EntryError> {
    if bytes.is_empty() { Ok(Chain::default()) } else { Chain::from_slice(bytes).ok_or(EntryError("chain")) }
}

fn users(names: &[String]) -> Result<Vec<UserId>, EntryError> {
    names.iter().map(|name| UserId::new(name).map_err(|_| EntryError("member"))).collect()
}

fn entries(entries: Vec<v1::Entry>) -> Result<Vec<Entry>, EntryError> {
    entries.into_iter().map(Entry::from_wire).collect()
}
