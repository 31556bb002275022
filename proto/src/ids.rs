//! Ids: every number and name that identifies something, as a type of its own.
//!
//! Positions are [`Seq`]s. Upper bounds (`tail`, `ceiling`, `upto` of a sync, `cursor`) are exclusive;
//! only deliveries are `(after, last]`. No `+ 1` on a position outside this file.
//!
//! # Invariants
//! I1: numbers that must never repeat carry the generation in their high bits
//! ([`Generation::first_seq`], [`Epoch::first_of`], [`LeaseId`], [`ReplicaId`]).

use std::fmt;
use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::limits;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $repr:ty, $letter:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
        pub struct $name(pub $repr);
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($letter, "{}"), self.0) }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", self.0) }
        }
    };
}

macro_rules! bytes16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
        pub struct $name(pub [u8; 16]);
        impl $name {
            /// Reads exactly 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> { Some(Self(bytes.try_into().ok()?)) }
            /// Reads 32 hexadecimal digits; dashes (UUID form) are ignored.
            pub fn from_hex(text: &str) -> Option<Self> {
                let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').map(|b| (b as char).to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
                if digits.len() != 32 { return None; }
                let mut out = [0u8; 16];
                for (byte, pair) in out.iter_mut().zip(digits.chunks(2)) { *byte = pair[0] << 4 | pair[1]; }
                Some(Self(out))
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
    };
}

number!(/** An enterprise; part of every key, right after the slot. */ TenantId, u32, "t");
number!(/** A store process; kept with its data, given out by group 0, never reused. */ StoreId, u64, "s");
number!(/** A logic node or gateway; new at every start. */ NodeId, u64, "n");
number!(/** One Raft group. 0 is the meta group. */ GroupId, u32, "g");
number!(/** One placement of a group on a store: Raft's node id. Given out by group 0, never reused. */ ReplicaId, u64, "r");
number!(/** Fixed hash bucket of namespaces, `0..limits::SLOTS`. */ SlotId, u16, "slot");
number!(/** Raised by a restore or a forced recovery. */ Generation, u16, "gen");
number!(/** Raised at every claim of a slot; the generation is in its high 20 bits. */ Epoch, u64, "e");
number!(/** Index of a Raft entry in its group's log. */ LogIndex, u64, "i");

bytes16!(/** A cluster; made at `cluster init`, new after a restore. */ ClusterId);
bytes16!(/** The sender's idempotency key; the same on every retry. UUIDv7 in our SDKs. */ MessageId);
bytes16!(/** A group conversation's id. */ ConversationKey);
bytes16!(/** Link of a hash chain, see [`crate::chain`]. */ Chain);
bytes16!(/** `H(salt, body)`, see [`crate::chain::body_hash`]. */ BodyHash);

impl GroupId {
    /// The meta group: registry, placement, ids. Never on a message's way.
    pub const META: GroupId = GroupId(0);
}

impl Generation {
    /// First seq that may be reserved under this generation.
    pub fn first_seq(self) -> Seq {
        Seq::new((u64::from(self.0) << limits::GENERATION_SHIFT).max(1)).unwrap_or(Seq::FIRST)
    }
    /// First seq that belongs to the next generation: the end of what may be reserved under this one.
    pub fn end_seq(self) -> Seq {
        Generation(self.0.saturating_add(1)).first_seq()
    }
}

impl Epoch {
    /// No claim yet.
    pub const NONE: Epoch = Epoch(0);
    /// The epoch below the first claim under a generation.
    pub fn first_of(generation: Generation) -> Epoch {
        Epoch(u64::from(generation.0) << limits::GENERATION_SHIFT)
    }
    /// The epoch of the next claim.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

/// A logic node's session with one group: where its `OpenLease` was applied. A restarted process
/// always has a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct LeaseId {
    /// Generation of the group when the lease was opened.
    pub generation: Generation,
    /// Index of the entry that opened it.
    pub index: LogIndex,
    /// Place of the command inside that entry.
    pub place: u32,
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.generation.0, self.index.0, self.place)
    }
}

/// A place in one namespace; rises, may skip, never repeats. Below 2^53, never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Seq(NonZeroU64);

impl Seq {
    /// The first place of a namespace of generation 0.
    pub const FIRST: Seq = Seq(NonZeroU64::MIN);

    /// `None` for 0 and from [`limits::SEQ_END`] on.
    pub fn new(value: u64) -> Option<Seq> {
        if value > limits::SEQ_END { None } else { NonZeroU64::new(value).map(Seq) }
    }
    /// The number.
    pub fn get(self) -> u64 {
        self.0.get()
    }
    /// The next place: the exclusive end of a range that ends with `self`.
    #[must_use]
    pub fn next(self) -> Seq {
        self.plus(1)
    }
    /// The place `count` further on; stays at [`limits::SEQ_END`] instead of passing it.
    #[must_use]
    pub fn plus(self, count: u64) -> Seq {
        Seq::new(self.get().saturating_add(count).min(limits::SEQ_END)).unwrap_or(self)
    }
    /// The place before, `None` for the first.
    pub fn previous(self) -> Option<Seq> {
        Seq::new(self.get() - 1)
    }
    /// How many places lie in `[self, end)`.
    pub fn until(self, end: Seq) -> u64 {
        end.get().saturating_sub(self.get())
    }
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}
impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(SmolStr);
        impl $name {
            #[doc = concat!("1 to [`", stringify!($max), "`] bytes without control characters.")]
            pub fn new(text: &str) -> Result<Self, NameError> {
                if text.is_empty() { return Err(NameError::Empty); }
                if text.len() > $max as usize { return Err(NameError::TooLong { bytes: text.len(), bytes_max: $max }); }
                if text.chars().any(char::is_control) { return Err(NameError::Control); }
                Ok(Self(SmolStr::new(text)))
            }
            /// The name as text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Debug::fmt(self.0.as_str(), f) }
        }
        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> { Self::new(text) }
        }
    };
}

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Names have at least one byte.
    #[error("a name must not be empty")]
    Empty,
    /// Names are bounded because they are part of keys.
    #[error("a name of {bytes} bytes is longer than {bytes_max}")]
    TooLong {
        /// length given
        bytes: usize,
        /// length allowed
        bytes_max: u32,
    },
    /// Names are shown on terminals.
    #[error("a name must not contain control characters")]
    Control,
}

name!(/** A user: the owner of one inbox. From the verified token, never from a frame. */ UserId, limits::NAME_BYTES_MAX);
name!(/** One endpoint of a user, with its own cursor. */ DeviceId, limits::NAME_BYTES_MAX);
name!(/** A bare counter of the sequence service. */ CounterName, limits::NAME_BYTES_MAX);
name!(/** What a reaction says: an emoji, or a short word. */ Emoji, limits::NAME_BYTES_MAX);

/// A conversation: direct (two users) or a group. Owns one order and a member list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub enum ConversationId {
    /// Two users, the smaller name first; a user may talk to himself.
    Direct(UserId, UserId),
    /// A group with a key of its own.
    Group(ConversationKey),
}

impl ConversationId {
    /// The direct conversation of two users, in whatever order they are named.
    pub fn direct(one: UserId, other: UserId) -> Self {
        if one <= other { Self::Direct(one, other) } else { Self::Direct(other, one) }
    }
    /// The other side of a direct conversation; `None` for groups and strangers.
    pub fn peer_of(&self, user: &UserId) -> Option<&UserId> {
        match self {
            Self::Direct(a, b) if a == user => Some(b),
            Self::Direct(a, b) if b == user => Some(a),
            _ => None,
        }
    }
}

impl fmt::Display for ConversationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(a, b) => write!(f, "direct:{a}:{b}"),
            Self::Group(key) => write!(f, "group:{key}"),
        }
    }
}

/// Anything that owns a sequence, within a tenant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub enum Owner {
    /// A user's timeline.
    Inbox(UserId),
    /// A conversation's log.
    Conversation(ConversationId),
    /// A bare counter.
    Counter(CounterName),
}

/// Anything that owns a sequence.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Namespace {
    /// whose it is
    pub tenant: TenantId,
    /// what it is
    pub owner: Owner,
}

impl Namespace {
    /// The inbox of a user.
    pub fn inbox(tenant: TenantId, user: UserId) -> Self {
        Self { tenant, owner: Owner::Inbox(user) }
    }
    /// The log of a conversation.
    pub fn conversation(tenant: TenantId, conversation: ConversationId) -> Self {
        Self { tenant, owner: Owner::Conversation(conversation) }
    }
    /// A bare counter.
    pub fn counter(tenant: TenantId, name: CounterName) -> Self {
        Self { tenant, owner: Owner::Counter(name) }
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.owner {
            Owner::Inbox(user) => write!(f, "{}/inbox:{user}", self.tenant),
            Owner::Conversation(conversation) => write!(f, "{}/{conversation}", self.tenant),
            Owner::Counter(name) => write!(f, "{}/counter:{name}", self.tenant),
        }
    }
}

/// What every write of a holder carries: checked in apply, in the order of `n`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Fence {
    /// the slot written to
    pub slot: SlotId,
    /// the claim under which
    pub epoch: Epoch,
    /// counts the holder's commands in that slot, from 0 since the claim
    pub n: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seq_is_never_zero_and_never_passes_the_end() {
        assert_eq!(Seq::new(0), None);
        assert_eq!(Seq::new(limits::SEQ_END + 1), None);
        let end = Seq::new(limits::SEQ_END).unwrap();
        assert_eq!(end.next(), end);
        assert_eq!(size_of::<Option<Seq>>(), 8);
    }

    #[test]
    fn a_direct_conversation_has_one_name() {
        let (a, b) = (UserId::new("a").unwrap(), UserId::new("b").unwrap());
        assert_eq!(ConversationId::direct(a.clone(), b.clone()), ConversationId::direct(b.clone(), a.clone()));
        assert_eq!(ConversationId::direct(b.clone(), a.clone()).peer_of(&a), Some(&b));
    }

    #[test]
    fn names_are_bounded_and_printable() {
        assert_eq!(UserId::new(""), Err(NameError::Empty));
        assert_eq!(UserId::new("a\nb"), Err(NameError::Control));
        assert!(matches!(UserId::new(&"x".repeat(65)), Err(NameError::TooLong { bytes: 65, .. })));
    }

    #[test]
    fn generations_do_not_overlap() {
        assert_eq!(Generation(0).first_seq(), Seq::FIRST);
        assert_eq!(Generation(1).first_seq(), Generation(0).end_seq());
        assert!(Generation(511).first_seq().get() < limits::SEQ_END);
    }

    #[test]
    fn hex_round_trips() {
        let id = MessageId([0xab; 16]);
        assert_eq!(MessageId::from_hex(&id.to_string()), Some(id));
        assert_eq!(MessageId::from_hex("ab"), None);
    }
}
