//! Membership: who is in a conversation, and who is owed which entry.
//!
//! A member's stay runs from his joining to his leaving entry, both included: these entries he is owed, no others.
//! The two users of a direct conversation are members from its first entry on, for ever; they have no rows.
//!
//! # Invariants
//! I9, I14: only a member writes; an entry is owed to the members before it and to those who join with it.

use std::collections::BTreeMap;

use seriatim_proto::command::{Content, DeliveryRecord, Reject};
use seriatim_proto::hash;
use seriatim_proto::ids::{ConversationId, Seq, SlotId, TenantId, UserId};
use seriatim_proto::limits;

use crate::apply::No;
use crate::key::{Item, Key};
use crate::row::{ConversationRow, MemberRow, Row};
use crate::view::{Fatal, Reader, Rows, View};

/// What an entry does to the members, planned before it has a seq.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    /// who joins or leaves, with his stays before, by target slot
    changes: BTreeMap<(SlotId, UserId), (Change, MemberRow)>,
    /// how many owed the entry have their inbox in the same slot
    pub(crate) owed_here: u32,
    /// how many in other slots
    pub(crate) owed_elsewhere: u32,
    members_here: u32,
    members_elsewhere: u32,
    /// more leave than were counted
    miscounted: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    Join,
    Leave,
}

/// Where the conversation is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) slot: SlotId,
    pub(crate) tenant: TenantId,
    pub(crate) conversation: &'a ConversationId,
}

impl Place<'_> {
    fn key(&self, target: SlotId, user: &UserId) -> Key {
        Key::tenant(self.slot, self.tenant, Item::Member(self.conversation.clone(), target, user.clone()))
    }
    fn read(&self, view: &impl Reader, target: SlotId, user: &UserId) -> Result<MemberRow, Fatal> {
        Ok(view.member_row(self.slot, self.tenant, self.conversation, target, user)?.unwrap_or_default())
    }
}

/// May the sender write this, and whom does it concern?
pub(crate) fn plan(
    view: &impl Reader,
    place: Place<'_>,
    row: &ConversationRow,
    sender: &UserId,
    content: &Content,
) -> Result<Roll, No> {
    let exists = row.namespace.last_seq.is_some();
    let mut roll = Roll { members_here: row.members_here, members_elsewhere: row.members_elsewhere, ..Roll::default() };
    match (place.conversation, content) {
        // An amendment is no first entry.
        (ConversationId::Direct(..), Content::Amend { .. }) if !exists => return Err(Reject::NotFound.into()),
        (ConversationId::Direct(a, b), Content::Message { .. } | Content::Amend { .. }) => {
            if sender != a && sender != b {
                return Err(Reject::NotFound.into());
            }
            if !exists {
                roll.count_member(place, hash::inbox_slot(place.tenant, a), Change::Join);
                if a != b {
                    roll.count_member(place, hash::inbox_slot(place.tenant, b), Change::Join);
                }
            }
            (roll.owed_here, roll.owed_elsewhere) = (roll.members_here, roll.members_elsewhere);
        }
        (ConversationId::Direct(..), Content::Create { .. } | Content::Members { .. }) => {
            return Err(Reject::NotFound.into());
        }
        (ConversationId::Group(_), Content::Create { members }) => {
            if exists {
                return Err(Reject::AlreadyExists.into());
            }
            check_length(members.len())?;
            for user in members.iter().chain([sender]) {
                roll.change(view, place, user, Change::Join)?;
            }
        }
        (ConversationId::Group(_), Content::Message { .. } | Content::Amend { .. }) => {
            check_member(view, place, exists, sender)?;
            (roll.owed_here, roll.owed_elsewhere) = (roll.members_here, roll.members_elsewhere);
        }
        (ConversationId::Group(_), Content::Members { add, remove }) => {
            check_member(view, place, exists, sender)?;
            check_length(add.len())?;
            check_length(remove.len())?;
            (roll.owed_here, roll.owed_elsewhere) = (roll.members_here, roll.members_elsewhere);
            for user in remove {
                roll.change(view, place, user, Change::Leave)?;
            }
            for user in add {
                roll.change(view, place, user, Change::Join)?;
            }
        }
    }
    if roll.members_here + roll.members_elsewhere > limits::INLINE_MEMBERS_MAX {
        return Err(Reject::MembersTooMany.into());
    }
    Ok(roll)
}

fn check_length(users: usize) -> Result<(), No> {
    if users <= limits::INLINE_MEMBERS_MAX as usize { Ok(()) } else { Err(Reject::MembersTooMany.into()) }
}

fn check_member(view: &impl Reader, place: Place<'_>, exists: bool, user: &UserId) -> Result<(), No> {
    let target = hash::inbox_slot(place.tenant, user);
    if exists && place.read(view, target, user)?.is_member() { Ok(()) } else { Err(Reject::NotFound.into()) }
}

/// Is the user a member, or was one? Stays that are over are kept for a while only.
pub(crate) fn was_member(view: &impl Reader, place: Place<'_>, user: &UserId) -> Result<bool, Fatal> {
    match place.conversation {
        ConversationId::Direct(a, b) => Ok(user == a || user == b),
        ConversationId::Group(_) => Ok(!place.read(view, hash::inbox_slot(place.tenant, user), user)?.stays.is_empty()),
    }
}

/// Was the user owed this entry? Members of direct conversations are owed all.
pub(crate) fn was_owed(view: &impl Reader, place: Place<'_>, user: &UserId, seq: Seq) -> Result<bool, Fatal> {
    match place.conversation {
        ConversationId::Direct(a, b) => Ok(user == a || user == b),
        ConversationId::Group(_) => {
            let member = place.read(view, hash::inbox_slot(place.tenant, user), user)?;
            Ok(member.stays.iter().any(|(joined, left)| *joined <= seq && left.is_none_or(|left| seq <= left)))
        }
    }
}

/// What a user is owed of the entry at hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owed {
    /// Nothing.
    No,
    /// The entry; and before it, this one was the last.
    After(Option<Seq>),
}

impl Roll {
    /// Plans a change; who is a member already cannot join, who is none cannot leave.
    fn change(&mut self, view: &impl Reader, place: Place<'_>, user: &UserId, change: Change) -> Result<(), Fatal> {
        let target = hash::inbox_slot(place.tenant, user);
        let key = (target, user.clone());
        if self.changes.contains_key(&key) {
            return Ok(());
        }
        let before = place.read(view, target, user)?;
        if before.is_member() == (change == Change::Join) {
            return Ok(());
        }
        self.count_member(place, target, change);
        if change == Change::Join {
            *(if target == place.slot { &mut self.owed_here } else { &mut self.owed_elsewhere }) += 1;
        }
        self.changes.insert(key, (change, before));
        Ok(())
    }

    fn count_member(&mut self, place: Place<'_>, target: SlotId, change: Change) {
        let count = if target == place.slot { &mut self.members_here } else { &mut self.members_elsewhere };
        match change {
            Change::Join => *count += 1,
            Change::Leave => {
                self.miscounted |= *count == 0;
                *count = count.saturating_sub(1);
            }
        }
    }

    /// Is the entry owed to this user of the conversation's own slot? `prev_seq` is the entry before it.
    pub(crate) fn owed(
        &self,
        view: &impl Reader,
        place: Place<'_>,
        prev_seq: Option<Seq>,
        user: &UserId,
    ) -> Result<Owed, Fatal> {
        if let ConversationId::Direct(a, b) = place.conversation {
            let is_member = user == a || user == b;
            return Ok(if is_member { Owed::After(prev_seq) } else { Owed::No });
        }
        let planned = self.changes.get(&(place.slot, user.clone()));
        if let Some((Change::Join, before)) = planned {
            return Ok(Owed::After(before.stays.last().and_then(|(_, left)| *left)));
        }
        let is_member = planned.is_some() || place.read(view, place.slot, user)?.is_member();
        // A stay has no holes: the entry before this one belongs to it.
        Ok(if is_member { Owed::After(prev_seq) } else { Owed::No })
    }

    /// Writes the stays, now that the entry has a seq.
    pub(crate) fn write(self, view: &mut impl View, place: Place<'_>, row: &mut ConversationRow, seq: Seq) {
        if self.miscounted {
            // The row that counted him was lost, and one came in its place.
            view.miss("who leaves a conversation was not counted when he joined");
        }
        (row.members_here, row.members_elsewhere) = (self.members_here, self.members_elsewhere);
        for ((target, user), (change, mut member)) in self.changes {
            match change {
                Change::Join => {
                    // A stay goes when every durable cursor has passed its end.
                    member.stays.retain(|(_, left)| *left > slowest(&row.delivered));
                    member.stays.push((seq, None));
                }
                Change::Leave => {
                    let (joined, left) = member.stays.last_mut().expect("who leaves has a stay");
                    assert!(left.is_none() && *joined < seq, "a stay ends once, behind its start");
                    *left = Some(seq);
                }
            }
            view.put(place.key(target, &user), Row::Member(member));
        }
    }
}

/// The slowest durable delivery cursor.
pub(crate) fn slowest(record: &DeliveryRecord) -> Option<Seq> {
    record.behind.iter().map(|(_, position)| *position).fold(record.all, Option::min)
}
