//! Conversation: what a holder keeps in memory of one conversation of its slot.
//!
//! Loaded once per claim, by a linearizable read, on first use; from then on it follows the outcomes of the holder's
//! own appends, in order, because nobody else can write under this epoch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use seriatim_proto::command::{Content, DeliveryRecord, EntryRef, Kind};
use seriatim_proto::hash;
use seriatim_proto::ids::{ConversationId, Epoch, MessageId, Seq, SlotId, TenantId, UserId};
use seriatim_proto::limits;
use seriatim_proto::store::{ConversationState, StoredMessage};

use crate::allocator::Allocator;

/// Names a conversation within a slot.
pub(crate) type ConversationName = (TenantId, ConversationId);

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Load {
    /// A read is under way, or due at that time.
    Loading {
        retry_at_ms: Option<u64>,
    },
    Loaded,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Conversation {
    pub(crate) load: Load,
    pub(crate) exists: bool,
    /// last committed entry known
    pub(crate) last: Option<Seq>,
    pub(crate) allocator: Allocator,
    /// members by the slot of their inbox, and how far each slot has what they are owed
    pub(crate) targets: BTreeMap<SlotId, Target>,
    pub(crate) recent: Recent,
    /// reads of what is no longer in memory that are under way
    pub(crate) backlog_reads: u32,
    /// messages that were recalled meanwhile: such a read may be older, and bring their bodies
    pub(crate) recalled: BTreeSet<Seq>,
    /// sends that have no `n` yet
    pub(crate) waiting: VecDeque<u64>,
    /// sends without a reply, for retries that join them
    pub(crate) joins: BTreeMap<(UserId, MessageId), u64>,
    /// appends numbered and not settled
    pub(crate) in_flight: u32,
    /// durable delivery cursors, as last written
    pub(crate) recorded: DeliveryRecord,
    /// is it in the pending table?
    pub(crate) pending: bool,
    /// when an entry was last committed
    pub(crate) appended_at_ms: u64,
}

/// One slot that a conversation is delivered to.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Target {
    pub(crate) members: Vec<Member>,
    /// everything up to here is accepted by all members
    pub(crate) cursor: Option<Seq>,
    /// entries behind the cursor, as far as counted
    pub(crate) backlog: u64,
    /// a delivery or a read for one is under way
    pub(crate) busy: bool,
    pub(crate) retry_at_ms: u64,
    pub(crate) failures: u32,
    pub(crate) answered_at_ms: Option<u64>,
}

/// A member's stays, rising.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Member {
    pub(crate) user: UserId,
    pub(crate) stays: Vec<(Seq, Option<Seq>)>,
}

impl Member {
    pub(crate) fn is_member(&self) -> bool {
        self.stays.last().is_some_and(|(_, left)| left.is_none())
    }
    /// Is the entry at `seq` one of those that he is owed?
    pub(crate) fn owes(&self, seq: Seq) -> bool {
        self.stays.iter().any(|(joined, left)| *joined <= seq && left.is_none_or(|left| seq <= left))
    }
    /// Last entry up to `cursor`, which is one of an entry, that he was owed.
    pub(crate) fn owed_until(&self, cursor: Option<Seq>) -> Option<Seq> {
        let cursor = cursor?;
        let (_, left) = self.stays.iter().rev().find(|(joined, _)| *joined <= cursor)?;
        Some(left.map_or(cursor, |left| left.min(cursor)))
    }
}

/// The newest entries with their bodies, without a hole, so that deliveries need no read.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Recent {
    /// the entry before the first one kept
    pub(crate) after: Option<Seq>,
    pub(crate) entries: VecDeque<RecentEntry>,
    pub(crate) bytes: usize,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct RecentEntry {
    pub(crate) entry: EntryRef,
    /// for the push; `None`: it was recalled, and nobody is given it any more
    pub(crate) body: Option<Stored>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Stored {
    pub(crate) salt: Bytes,
    pub(crate) body: Bytes,
}

/// What an entry takes in memory besides its body.
const ENTRY_BYTES: usize = 160;

impl RecentEntry {
    pub(crate) fn new(entry: EntryRef, salt: Bytes, body: Bytes) -> Self {
        Self { entry, body: Some(Stored { salt, body }) }
    }
    pub(crate) fn bytes(&self) -> usize {
        self.body.as_ref().map_or(0, |stored| stored.salt.len() + stored.body.len()) + ENTRY_BYTES
    }
}

impl Recent {
    /// Nothing kept; the next entry follows `last`.
    pub(crate) fn behind(last: Option<Seq>) -> Self {
        Self { after: last, ..Self::default() }
    }
    pub(crate) fn push(&mut self, entry: RecentEntry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }
    /// Drops the first entry; says how many bytes went.
    pub(crate) fn pop(&mut self) -> usize {
        let Some(first) = self.entries.pop_front() else { return 0 };
        self.after = Some(first.entry.seq);
        self.bytes -= first.bytes();
        first.bytes()
    }
    /// A message was recalled: its body and those of its edits go; says how many bytes went.
    pub(crate) fn erase(&mut self, message: Seq) -> usize {
        let before = self.bytes;
        let bodies = self
            .entries
            .iter_mut()
            .filter(|recent| recent.entry.seq == message || recent.entry.kind == Kind::Edit { target: message });
        for recent in bodies {
            let bytes = recent.bytes();
            recent.body = None;
            self.bytes -= bytes - recent.bytes();
        }
        before - self.bytes
    }
    /// Drops what everybody has; says how many bytes went.
    pub(crate) fn drop_until(&mut self, cursor: Option<Seq>) -> usize {
        let mut dropped = 0;
        while self.entries.front().is_some_and(|first| Some(first.entry.seq) <= cursor) {
            dropped += self.pop();
        }
        dropped
    }
}

impl Conversation {
    /// Nothing known yet.
    pub(crate) fn loading(epoch: Epoch) -> Self {
        Self {
            load: Load::Loading { retry_at_ms: None },
            exists: false,
            last: None,
            allocator: Allocator::cold(epoch),
            targets: BTreeMap::new(),
            recent: Recent::default(),
            backlog_reads: 0,
            recalled: BTreeSet::new(),
            waiting: VecDeque::new(),
            joins: BTreeMap::new(),
            in_flight: 0,
            recorded: DeliveryRecord::default(),
            pending: false,
            appended_at_ms: 0,
        }
    }

    /// A message was recalled: its body and those of its edits go from memory, and from what is being read; says how many
    /// bytes went.
    pub(crate) fn recall(&mut self, message: Seq) -> usize {
        if self.backlog_reads > 0 {
            self.recalled.insert(message);
        }
        self.recent.erase(message)
    }

    /// Entries of a backlog that was read, without what was recalled before or meanwhile.
    pub(crate) fn backlog_read(&mut self, messages: Vec<StoredMessage>) -> Vec<RecentEntry> {
        let entry = |message: StoredMessage| {
            let about = match message.entry.kind {
                Kind::Edit { target } => target,
                _ => message.entry.seq,
            };
            match message.erased || self.recalled.contains(&about) {
                true => RecentEntry { entry: message.entry, body: None },
                false => RecentEntry::new(message.entry, message.salt, message.body),
            }
        };
        let entries = messages.into_iter().map(entry).collect();
        self.backlog_reads = self.backlog_reads.saturating_sub(1);
        if self.backlog_reads == 0 {
            self.recalled.clear();
        }
        entries
    }

    /// Takes what the store knows; `None`: it does not exist.
    pub(crate) fn loaded(&mut self, state: Option<ConversationState>) {
        self.load = Load::Loaded;
        let Some(state) = state else { return };
        self.exists = true;
        self.last = state.namespace.last_seq;
        self.recent = Recent::behind(self.last);
        self.pending = state.pending;
        self.recorded = state.delivered;
        for stay in state.stays {
            let cursor = match self.recorded.behind.iter().find(|(slot, _)| *slot == stay.slot) {
                Some((_, cursor)) => *cursor,
                None => self.recorded.all,
            };
            // Its record may lag: what is not pending is in all inboxes, and may be trimmed.
            let cursor = if self.pending { cursor } else { self.last };
            let target = self.targets.entry(stay.slot).or_insert_with(|| Target::at(cursor));
            target.stay(&stay.user, stay.joined, stay.left);
        }
    }

    /// Members whose inboxes live in `slot`, now and with `content`: each once.
    pub(crate) fn local_members(
        &self,
        tenant: TenantId,
        id: &ConversationId,
        sender: &UserId,
        content: &Content,
        slot: SlotId,
    ) -> Vec<UserId> {
        let mut users: Vec<UserId> = self
            .targets
            .get(&slot)
            .map(|target| {
                target.members.iter().filter(|member| member.is_member()).map(|member| member.user.clone()).collect()
            })
            .unwrap_or_default();
        let mut join = |user: &UserId| {
            if hash::inbox_slot(tenant, user) == slot && !users.contains(user) {
                users.push(user.clone());
            }
        };
        match (content, id) {
            (Content::Message { .. }, ConversationId::Direct(a, b)) if !self.exists => {
                [a, b].into_iter().for_each(&mut join)
            }
            (Content::Message { .. } | Content::Amend { .. }, _) => {}
            (Content::Create { members }, _) => std::iter::once(sender).chain(members).for_each(&mut join),
            (Content::Members { add, .. }, _) => add.iter().for_each(&mut join),
        }
        users
    }

    /// Follows a committed entry: members first, then the cursors of those that are owed it.
    pub(crate) fn committed(&mut self, now_ms: u64, name: &ConversationName, entry: &EntryRef, content: &Content) {
        let (tenant, id) = name;
        let seq = entry.seq;
        match (content, id) {
            (Content::Message { .. }, ConversationId::Direct(a, b)) if !self.exists => {
                [a, b].into_iter().for_each(|user| self.join(*tenant, user, seq))
            }
            (Content::Message { .. } | Content::Amend { .. }, _) => {}
            (Content::Create { members }, _) => {
                members.iter().chain([&entry.sender]).for_each(|user| self.join(*tenant, user, seq))
            }
            (Content::Members { add, remove }, _) => {
                // As apply does it: who leaves cannot join with the same entry.
                let left: BTreeSet<&UserId> = remove.iter().filter(|user| self.leave(*tenant, user, seq)).collect();
                add.iter().filter(|user| !left.contains(user)).for_each(|user| self.join(*tenant, user, seq));
            }
        }
        self.exists = true;
        self.last = Some(seq);
        self.appended_at_ms = now_ms;
        for target in self.targets.values_mut() {
            target.backlog += 1;
        }
    }

    fn join(&mut self, tenant: TenantId, user: &UserId, seq: Seq) {
        let before = self.last;
        let target = self.targets.entry(hash::inbox_slot(tenant, user)).or_insert_with(|| Target::at(before));
        if !target.members.iter().any(|member| member.user == *user && member.is_member()) {
            target.stay(user, seq, None);
        }
    }

    fn leave(&mut self, tenant: TenantId, user: &UserId, seq: Seq) -> bool {
        let target = self.targets.get_mut(&hash::inbox_slot(tenant, user));
        let member = target.and_then(|target| target.members.iter_mut().find(|member| member.user == *user));
        match member.and_then(|member| member.stays.last_mut()) {
            Some((_, left @ None)) => {
                *left = Some(seq);
                true
            }
            _ => false,
        }
    }

    /// Does everybody have everything?
    pub(crate) fn is_delivered(&self) -> bool {
        self.targets.values().all(|target| target.cursor >= self.last)
    }

    /// The cursors, as a record: the slots that are furthest behind by name, all others together.
    pub(crate) fn record(&self) -> DeliveryRecord {
        let mut cursors: Vec<Option<Seq>> =
            self.targets.values().map(|target| target.cursor).filter(|cursor| *cursor < self.last).collect();
        let named = limits::DELIVERY_SLOTS_BEHIND_MAX as usize;
        let all = if cursors.len() <= named {
            self.last
        } else {
            cursors.sort_unstable();
            cursors[named]
        };
        let behind = self
            .targets
            .iter()
            .filter(|(_, target)| target.cursor < all)
            .map(|(slot, target)| (*slot, target.cursor))
            .collect();
        DeliveryRecord { all, behind }
    }

    /// Undelivered entries, counted over slots that answered since `since_ms`.
    pub(crate) fn backlog(&self, since_ms: u64) -> u64 {
        let answering = self.targets.values().filter(|target| target.answered_at_ms.is_some_and(|at| at >= since_ms));
        answering.map(|target| target.backlog).max().unwrap_or(0)
    }

    /// The slowest cursor.
    pub(crate) fn delivered_until(&self) -> Option<Seq> {
        self.targets.values().map(|target| target.cursor).min().unwrap_or(self.last)
    }

    /// Is there nothing that memory alone knows?
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.joins.is_empty()
            && self.in_flight == 0
            && !self.pending
            && self.load == Load::Loaded
            && !self.allocator.fetching()
            && self.is_delivered()
            && self.targets.values().all(|target| !target.busy)
    }
}

impl Target {
    pub(crate) fn at(cursor: Option<Seq>) -> Self {
        Self { members: Vec::new(), cursor, backlog: 0, busy: false, retry_at_ms: 0, failures: 0, answered_at_ms: None }
    }

    fn stay(&mut self, user: &UserId, joined: Seq, left: Option<Seq>) {
        match self.members.iter_mut().find(|member| member.user == *user) {
            Some(member) => {
                member.stays.push((joined, left));
                member.stays.sort_unstable();
            }
            None => self.members.push(Member { user: user.clone(), stays: vec![(joined, left)] }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(value: u64) -> Seq {
        Seq::new(value).unwrap()
    }

    #[test]
    fn a_range_starts_behind_the_last_entry_of_any_stay() {
        let member = Member { user: UserId::new("a").unwrap(), stays: vec![(seq(10), Some(seq(20))), (seq(30), None)] };
        assert_eq!(member.owed_until(None), None);
        assert_eq!(member.owed_until(Some(seq(9))), None);
        assert_eq!(member.owed_until(Some(seq(15))), Some(seq(15)));
        assert_eq!(member.owed_until(Some(seq(25))), Some(seq(20)));
        assert_eq!(member.owed_until(Some(seq(30))), Some(seq(30)));
        assert!(member.owes(seq(20)) && !member.owes(seq(21)) && member.owes(seq(30)));
    }

    #[test]
    fn a_record_names_the_slots_that_are_behind_and_never_too_many() {
        let mut conversation = Conversation::loading(Epoch(1));
        conversation.last = Some(seq(1_000));
        for slot in 0..100u16 {
            conversation.targets.insert(SlotId(slot), Target::at(Some(seq(1 + u64::from(slot)))));
        }
        let record = conversation.record();
        assert_eq!(record.behind.len(), limits::DELIVERY_SLOTS_BEHIND_MAX as usize);
        assert_eq!(record.all, Some(seq(65)));
        for target in conversation.targets.values_mut() {
            target.cursor = conversation.last;
        }
        assert_eq!(conversation.record(), DeliveryRecord { all: Some(seq(1_000)), behind: Vec::new() });
    }
}
