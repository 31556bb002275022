//! View: the rows that apply reads and writes.
//!
//! The shell's view is a chunk of writes over RocksDB with a cache of hot rows; [`MemoryView`] is a plain map for
//! tests and model checkers. A view must show earlier writes of its own chunk, in gets and in scans.

use std::collections::BTreeMap;
use std::ops::Bound;

use seriatim_proto::ids::{
    ConversationId, GroupId, LeaseId, LogIndex, MessageId, Owner, Seq, SlotId, TenantId, UserId,
};
use seriatim_proto::store::{InboxEntry, StoredMessage};

use crate::key::{GroupItem, Item, Key, Scan};
use crate::row::{
    AmendedRow, ClusterRow, ConversationRow, DedupeRow, LastRow, LeaseRow, MarkRow, MemberRow, NamespaceRow, OwnedRow,
    Row, SlotRow,
};

/// Why the process must stop. Never a verdict on input, never replied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fatal {
    /// A row that apply cannot have written.
    #[error("broken row: {what}")]
    Broken {
        /// which, for the log of the process that stops
        key: Box<Key>,
        /// what is wrong
        what: &'static str,
    },
    /// The engine failed.
    #[error("state storage failed: {0}")]
    Storage(String),
    /// The engine's own checksums say that what it reads is not what was written.
    #[error("state storage is damaged: {0}")]
    Corrupt(String),
    /// A committed entry that this program cannot read. Other replicas may have applied it.
    #[error("entry {0} does not decode: a newer version wrote it, run that")]
    Entry(LogIndex),
}

impl Fatal {
    /// A row that apply cannot have written.
    pub fn broken(key: &Key, what: &'static str) -> Fatal {
        Fatal::Broken { key: Box::new(key.clone()), what }
    }
}

/// Rows to read.
pub trait Reader {
    /// One row.
    fn get(&self, key: &Key) -> Result<Option<Row>, Fatal>;
    /// The first `limit` rows of a range, in key order.
    fn scan(&self, scan: &Scan, limit: usize) -> Result<Vec<(Key, Row)>, Fatal>;
}

/// Rows to read and write. Writes are seen at once and become durable with the chunk's applied index.
pub trait View: Reader {
    /// Writes a row.
    fn put(&mut self, key: Key, row: Row);
    /// Removes a row.
    fn delete(&mut self, key: Key);
    /// What other rows say must be there is not: it was lost here, for all replicas apply the same. Apply goes on as
    /// they do, and the shell has this replica rebuilt.
    fn miss(&mut self, what: &'static str);
}

/// All rows in a map.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct MemoryView {
    /// in key order
    pub rows: BTreeMap<Key, Row>,
}

impl Reader for MemoryView {
    fn get(&self, key: &Key) -> Result<Option<Row>, Fatal> {
        Ok(self.rows.get(key).cloned())
    }
    fn scan(&self, scan: &Scan, limit: usize) -> Result<Vec<(Key, Row)>, Fatal> {
        let (start, excluded) = scan.start();
        let start = if excluded { Bound::Excluded(start) } else { Bound::Included(start) };
        let rows = self.rows.range((start, Bound::Unbounded)).take_while(|(key, _)| scan.contains(key));
        Ok(rows.take(limit).map(|(key, row)| (key.clone(), row.clone())).collect())
    }
}

impl View for MemoryView {
    fn put(&mut self, key: Key, row: Row) {
        self.rows.insert(key, row);
    }
    fn delete(&mut self, key: Key) {
        self.rows.remove(&key);
    }
    fn miss(&mut self, what: &'static str) {
        panic!("a map loses nothing: {what}");
    }
}

macro_rules! typed {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $variant:ident($row:ty) at $key:expr;)*) => {
        /// Typed gets. Another kind of row under a key is [`Fatal`].
        pub(crate) trait Rows: Reader {
            $($(#[$doc])* fn $name(&self, $($arg: $type),*) -> Result<Option<$row>, Fatal> {
                let key = $key;
                match self.get(&key)? {
                    None => Ok(None),
                    Some(Row::$variant(row)) => Ok(Some(row)),
                    Some(_) => Err(Fatal::broken(&key, "a row of another kind")),
                }
            })*
        }
    };
}

typed! {
    /// who holds a slot
    slot_row(slot: SlotId) -> Holder(SlotRow) at Key::holder(slot);
    /// a live lease
    lease_row(group: GroupId, lease: LeaseId) -> Lease(LeaseRow) at Key::group(group, GroupItem::Lease(lease));
    /// what the group owns
    owned_row(group: GroupId) -> Owned(OwnedRow) at Key::group(group, GroupItem::Owned);
    /// group 0's cluster row
    cluster_row() -> Cluster(ClusterRow) at Key::group(GroupId::META, GroupItem::Cluster);
    /// an inbox
    inbox_row(slot: SlotId, tenant: TenantId, user: &UserId) -> Namespace(NamespaceRow)
        at Key::tenant(slot, tenant, Item::Namespace(Owner::Inbox(user.clone())));
    /// a conversation
    conversation_row(slot: SlotId, tenant: TenantId, conversation: &ConversationId) -> Conversation(ConversationRow)
        at Key::tenant(slot, tenant, Item::Namespace(Owner::Conversation(conversation.clone())));
    /// what became of a message id
    dedupe_row(slot: SlotId, tenant: TenantId, conversation: &ConversationId, sender: &UserId, id: MessageId) -> Dedupe(DedupeRow)
        at Key::tenant(slot, tenant, Item::Dedupe(conversation.clone(), sender.clone(), id));
    /// an entry of a conversation
    message_row(slot: SlotId, tenant: TenantId, conversation: &ConversationId, seq: Seq) -> Message(StoredMessage)
        at Key::tenant(slot, tenant, Item::Message(conversation.clone(), seq));
    /// what became of a message
    amended_row(slot: SlotId, tenant: TenantId, conversation: &ConversationId, target: Seq) -> Amended(AmendedRow)
        at Key::tenant(slot, tenant, Item::Amended(conversation.clone(), target));
    /// an entry of an inbox
    inbox_entry_row(slot: SlotId, tenant: TenantId, user: &UserId, seq: Seq) -> Inbox(InboxEntry)
        at Key::tenant(slot, tenant, Item::Inbox(user.clone(), seq));
    /// what a user says about a conversation
    mark_row(slot: SlotId, tenant: TenantId, user: &UserId, conversation: &ConversationId) -> Mark(MarkRow)
        at Key::tenant(slot, tenant, Item::Mark(user.clone(), conversation.clone()));
    /// how many messages a user has read
    reading_row(slot: SlotId, tenant: TenantId, user: &UserId) -> Reading(u64)
        at Key::tenant(slot, tenant, Item::Reading(user.clone()));
    /// the entry that pinned a message
    pin_row(slot: SlotId, tenant: TenantId, conversation: &ConversationId, target: Seq) -> Pin(Seq)
        at Key::tenant(slot, tenant, Item::Pin(conversation.clone(), target));
    /// `last` of a conversation in an inbox
    last_row(slot: SlotId, tenant: TenantId, user: &UserId, conversation: &ConversationId) -> Last(LastRow)
        at Key::tenant(slot, tenant, Item::Last(user.clone(), conversation.clone()));
    /// the stays of a member
    member_row(slot: SlotId, tenant: TenantId, conversation: &ConversationId, target: SlotId, user: &UserId) -> Member(MemberRow)
        at Key::tenant(slot, tenant, Item::Member(conversation.clone(), target, user.clone()));
}

impl<R: Reader + ?Sized> Rows for R {}
