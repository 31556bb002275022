//! Inbox: a user's timeline of references, and his list of conversations.
//!
//! # Invariants
//! I9: an inbox takes each entry of a conversation once: `last` of the conversation only rises, and a range is
//! accepted only if nothing that the user was owed lies between `last` and the range.

use seriatim_proto::chaos::{self, Sabotage};
use seriatim_proto::command::{EntryRef, InboxWritten, Kind};
use seriatim_proto::ids::{ConversationId, Owner, Seq, SlotId, TenantId, UserId};
use seriatim_proto::store::InboxEntry;

use crate::key::{Item, Key};
use crate::namespace::checked;
use crate::row::{LastRow, NamespaceRow, Row};
use crate::view::{Fatal, Reader, Rows, View};

/// One user's inbox, and what it has of one conversation, while a command works on it.
#[derive(Debug)]
pub(crate) struct Inbox<'a> {
    slot: SlotId,
    tenant: TenantId,
    user: &'a UserId,
    conversation: &'a ConversationId,
    pub(crate) row: NamespaceRow,
    last: Option<LastRow>,
}

impl<'a> Inbox<'a> {
    /// Reads the two rows.
    pub(crate) fn load(
        view: &impl Reader,
        slot: SlotId,
        tenant: TenantId,
        user: &'a UserId,
        conversation: &'a ConversationId,
    ) -> Result<Inbox<'a>, Fatal> {
        let row = match view.inbox_row(slot, tenant, user)? {
            Some(row) => checked(&inbox_key(slot, tenant, user), row)?,
            None => NamespaceRow::NEW,
        };
        let last = view.last_row(slot, tenant, user, conversation)?;
        Ok(Inbox { slot, tenant, user, conversation, row, last })
    }

    /// Everything of the conversation up to here is in the inbox.
    pub(crate) fn last(&self) -> Option<Seq> {
        self.last.map(|row| row.last)
    }

    /// Writes an entry at a seq that was allotted.
    pub(crate) fn enter(&mut self, view: &mut impl View, seq: Seq, entry: &EntryRef) -> InboxWritten {
        assert!(self.last() < Some(entry.seq), "I9: {:?} is in the inbox already", entry.seq);
        let counted = entry.kind == Kind::Message;
        let mut stored = InboxEntry {
            seq,
            prev_seq: self.row.last_seq,
            ordinal: self.row.ordinal + u64::from(counted),
            chain: self.row.chain,
            conversation: self.conversation.clone(),
            entry: entry.clone(),
            messages: self.messages() + u64::from(counted),
        };
        if chaos::sabotaged(Sabotage::MapOrder) {
            stored.entry.at_ms += u64::from(chaos::of_this_process());
        }
        stored.chain = stored.link_from(self.row.chain);
        let written =
            InboxWritten { seq, prev_seq: stored.prev_seq, ordinal: stored.ordinal, conversation_seq: entry.seq };
        self.row.enter(seq, counted, stored.chain);
        assert_eq!(self.row.ordinal, stored.ordinal, "I5: the row counts what the entry counts");
        let messages = stored.messages;
        self.last = Some(LastRow { last: entry.seq, inbox_seq: Some(seq), messages });
        view.put(Key::tenant(self.slot, self.tenant, Item::Inbox(self.user.clone(), seq)), Row::Inbox(stored));
        written
    }

    /// Messages of the conversation.
    fn messages(&self) -> u64 {
        self.last.map_or(0, |row| row.messages)
    }

    /// Writes a mark's entry at a seq that was allotted: it comes from no conversation, so `last` stays.
    pub(crate) fn note(&mut self, view: &mut impl View, seq: Seq, entry: &EntryRef) -> InboxWritten {
        assert!(entry.kind.is_mark(), "all others come from their conversations");
        let mut stored = InboxEntry {
            seq,
            prev_seq: self.row.last_seq,
            ordinal: self.row.ordinal,
            chain: self.row.chain,
            conversation: self.conversation.clone(),
            entry: entry.clone(),
            messages: self.messages(),
        };
        stored.chain = stored.link_from(self.row.chain);
        self.row.enter(seq, false, stored.chain);
        let written =
            InboxWritten { seq, prev_seq: stored.prev_seq, ordinal: stored.ordinal, conversation_seq: entry.seq };
        view.put(Key::tenant(self.slot, self.tenant, Item::Inbox(self.user.clone(), seq)), Row::Inbox(stored));
        written
    }

    /// Raises `last` over entries that the user was not owed.
    pub(crate) fn raise_last(&mut self, upto: Seq) {
        let row = self.last.get_or_insert(LastRow { last: upto, inbox_seq: None, messages: 0 });
        row.last = row.last.max(upto);
    }

    /// Writes the inbox's row.
    pub(crate) fn save_row(&self, view: &mut impl View) {
        view.put(inbox_key(self.slot, self.tenant, self.user), Row::Namespace(self.row));
    }

    /// Writes `last`.
    pub(crate) fn save_last(&self, view: &mut impl View) {
        if let Some(last) = self.last {
            let item = Item::Last(self.user.clone(), self.conversation.clone());
            view.put(Key::tenant(self.slot, self.tenant, item), Row::Last(last));
        }
    }
}

fn inbox_key(slot: SlotId, tenant: TenantId, user: &UserId) -> Key {
    Key::tenant(slot, tenant, Item::Namespace(Owner::Inbox(user.clone())))
}
