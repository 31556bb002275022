//! Key: the name of a row, typed. Its derived order is the order of its bytes in state.db.
//!
//! ```text
//! slot │ tenant │ item …       rows of a tenant's namespaces
//! slot │ -      │ slot item …  rows of the slot itself, behind all tenants
//! 0xFF00 + group │ group item  rows of the group itself, behind all slots
//! ```
//! Slot comes first so that slots can move between groups, tenant right after it so that a tenant can be erased.
//! The variants of [`Item`], [`SlotItem`] and [`GroupItem`] stand in the order of their letters in `keys.rs`.

use seriatim_proto::ids::{
    ConversationId, DeviceId, Emoji, GroupId, LeaseId, MessageId, Namespace, NodeId, Owner, ReplicaId, Seq, SlotId,
    StoreId, TenantId, UserId,
};
use seriatim_proto::limits;

/// The name of a row.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    /// the slot, or [`Key::system_slot`] of a group
    pub slot: SlotId,
    /// whose row in it
    pub scope: Scope,
}

/// Whose row it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// A tenant's.
    Tenant(TenantId, Item),
    /// The slot's own.
    Slot(SlotItem),
    /// The group's own.
    Group(GroupItem),
}

/// Rows of a tenant in a slot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Item {
    /// A sequence: inbox, conversation or counter.
    Namespace(Owner),
    /// A device's cursor.
    Cursor(UserId, DeviceId),
    /// What became of a message id.
    Dedupe(ConversationId, UserId, MessageId),
    /// What became of a message: its edits and its recall.
    Amended(ConversationId, Seq),
    /// An entry of an inbox.
    Inbox(UserId, Seq),
    /// What a user says about a conversation to his own devices.
    Mark(UserId, ConversationId),
    /// A conversation in a user's list: the last entry that his inbox has of it.
    Last(UserId, ConversationId),
    /// An entry of a conversation.
    Message(ConversationId, Seq),
    /// How many messages a user has read, of all conversations.
    Reading(UserId),
    /// A member of a group conversation, by the slot of his inbox. Direct ones have no such rows: their id says it.
    Member(ConversationId, SlotId, UserId),
    /// A pinned message.
    Pin(ConversationId, Seq),
    /// A reaction to a message that is set.
    Reaction(ConversationId, Seq, UserId, Emoji),
    /// A message id that was cancelled, by its place: found when trim passes that.
    Tombstone(ConversationId, Seq, UserId, MessageId),
}

/// Rows of a slot itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SlotItem {
    /// Who holds it.
    Holder,
    /// A conversation with undelivered entries.
    Pending(TenantId, ConversationId),
}

/// Rows of a group itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GroupItem {
    /// Group 0: cluster id and id allocation.
    Cluster,
    /// Group 0: what a store fails together with.
    Domain(StoreId),
    /// Group 0: a group.
    Group(GroupId),
    /// A logic node's session.
    Lease(LeaseId),
    /// Group 0: a replica of a group that moves.
    Move(GroupId),
    /// Group 0: a logic node or gateway.
    Node(NodeId),
    /// What the group owns.
    Owned,
    /// Group 0: how often the directory changed.
    Revision,
    /// Group 0: a store.
    Store(StoreId),
    /// Group 0: a tenant with limits of its own.
    Tenant(TenantId),
    /// Group 0: how a store that joined later stands, or one that is drained.
    Standing(StoreId),
    /// Group 0: a replica that was found rotten.
    Rotten(GroupId, ReplicaId),
    /// Group 0: how many voters each group should have.
    Voters,
}

/// No tenant may have this number: it stands for the slot itself in key bytes.
pub const TENANT_NONE: TenantId = TenantId(u32::MAX);

impl Key {
    /// The slot value under which a group keeps its own rows. Groups are numbered up to [`Key::GROUP_LAST`].
    pub fn system_slot(group: GroupId) -> SlotId {
        assert!(group <= Key::GROUP_LAST, "group {group:?} has no place in the keys");
        SlotId(limits::SYSTEM_SLOT_FIRST + group.0 as u16)
    }
    /// The highest group that has a slot value of its own.
    pub const GROUP_LAST: GroupId = GroupId((u16::MAX - limits::SYSTEM_SLOT_FIRST) as u32);

    /// A row of a tenant.
    pub fn tenant(slot: SlotId, tenant: TenantId, item: Item) -> Key {
        Key { slot, scope: Scope::Tenant(tenant, item) }
    }
    /// A row of a group.
    pub fn group(group: GroupId, item: GroupItem) -> Key {
        Key { slot: Key::system_slot(group), scope: Scope::Group(item) }
    }
    /// Who holds a slot.
    pub fn holder(slot: SlotId) -> Key {
        Key { slot, scope: Scope::Slot(SlotItem::Holder) }
    }
    /// A conversation in the pending table of its slot.
    pub fn pending(slot: SlotId, tenant: TenantId, conversation: ConversationId) -> Key {
        Key { slot, scope: Scope::Slot(SlotItem::Pending(tenant, conversation)) }
    }
    /// A sequence.
    pub fn namespace(slot: SlotId, namespace: Namespace) -> Key {
        Key::tenant(slot, namespace.tenant, Item::Namespace(namespace.owner))
    }
}

/// A range of rows, in key order.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Scan {
    /// All leases of a group.
    Leases(GroupId),
    /// Group 0: all groups.
    Groups,
    /// Group 0: all logic nodes and gateways.
    Nodes,
    /// Group 0: all stores.
    Stores,
    /// Group 0: all tenants with limits of their own.
    Tenants,
    /// Group 0: all replicas that move.
    Moves,
    /// Group 0: how stores stand.
    Standings,
    /// Group 0: all replicas that were found rotten.
    Rotten,
    /// Group 0: what stores fail together with.
    Domains,
    /// Pending conversations of a slot.
    Pending {
        /// which slot
        slot: SlotId,
        /// behind this one, `None` from the start
        after: Option<(TenantId, ConversationId)>,
    },
    /// Device cursors of a user.
    Cursors {
        /// of the inbox
        slot: SlotId,
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
    },
    /// Inbox entries from a seq on.
    Inbox {
        /// of the inbox
        slot: SlotId,
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
        /// first seq
        from: Seq,
    },
    /// Entries of a conversation from a seq on.
    Messages {
        /// of the conversation
        slot: SlotId,
        /// whose
        tenant: TenantId,
        /// which
        conversation: ConversationId,
        /// first seq
        from: Seq,
    },
    /// Members of a group conversation, by the slots of their inboxes.
    Members {
        /// of the conversation
        slot: SlotId,
        /// whose
        tenant: TenantId,
        /// which
        conversation: ConversationId,
    },
    /// A user's list of conversations.
    Lasts {
        /// of the inbox
        slot: SlotId,
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
        /// behind this one, `None` from the start
        after: Option<ConversationId>,
    },
    /// Sequences of a tenant: inboxes, then conversations, then counters.
    Namespaces {
        /// where they live
        slot: SlotId,
        /// whose
        tenant: TenantId,
        /// behind this one, `None` from the start
        after: Option<Owner>,
    },
    /// Cancelled message ids of a conversation, by place.
    Tombstones {
        /// of the conversation
        slot: SlotId,
        /// whose
        tenant: TenantId,
        /// which
        conversation: ConversationId,
    },
    /// Pinned messages of a conversation.
    Pins {
        /// of the conversation
        slot: SlotId,
        /// whose
        tenant: TenantId,
        /// which
        conversation: ConversationId,
    },
    /// Reactions to a message.
    Reactions {
        /// of the conversation
        slot: SlotId,
        /// whose
        tenant: TenantId,
        /// which
        conversation: ConversationId,
        /// the message
        target: Seq,
        /// of this user only, `None` for all
        user: Option<UserId>,
    },
}

impl Scan {
    /// A key that no key of the range is below, and whether the range excludes it.
    pub fn start(&self) -> (Key, bool) {
        let key = match self {
            Scan::Leases(group) => Key::group(*group, GroupItem::Lease(LEASE_FIRST)),
            Scan::Groups => Key::group(GroupId::META, GroupItem::Group(GroupId(0))),
            Scan::Nodes => Key::group(GroupId::META, GroupItem::Node(NodeId(0))),
            Scan::Stores => Key::group(GroupId::META, GroupItem::Store(StoreId(0))),
            Scan::Tenants => Key::group(GroupId::META, GroupItem::Tenant(TenantId(0))),
            Scan::Moves => Key::group(GroupId::META, GroupItem::Move(GroupId(0))),
            Scan::Standings => Key::group(GroupId::META, GroupItem::Standing(StoreId(0))),
            Scan::Domains => Key::group(GroupId::META, GroupItem::Domain(StoreId(0))),
            Scan::Rotten => Key::group(GroupId::META, GroupItem::Rotten(GroupId(0), ReplicaId(0))),
            Scan::Pending { slot, after: Some((tenant, conversation)) } => {
                return (Key::pending(*slot, *tenant, conversation.clone()), true);
            }
            Scan::Pending { slot, after: None } => {
                Key::pending(*slot, TenantId(0), ConversationId::Direct(user_first(), user_first()))
            }
            Scan::Cursors { slot, tenant, user } => {
                let device = DeviceId::new(NAME_FIRST).expect("a space is a name");
                Key::tenant(*slot, *tenant, Item::Cursor(user.clone(), device))
            }
            Scan::Inbox { slot, tenant, user, from } => Key::tenant(*slot, *tenant, Item::Inbox(user.clone(), *from)),
            Scan::Messages { slot, tenant, conversation, from } => {
                Key::tenant(*slot, *tenant, Item::Message(conversation.clone(), *from))
            }
            Scan::Members { slot, tenant, conversation } => {
                Key::tenant(*slot, *tenant, Item::Member(conversation.clone(), SlotId(0), user_first()))
            }
            Scan::Lasts { slot, tenant, user, after } => {
                let first = || ConversationId::Direct(user_first(), user_first());
                let conversation = after.clone().unwrap_or_else(first);
                return (Key::tenant(*slot, *tenant, Item::Last(user.clone(), conversation)), after.is_some());
            }
            Scan::Namespaces { slot, tenant, after } => {
                let owner = after.clone().unwrap_or_else(|| Owner::Inbox(user_first()));
                return (Key::tenant(*slot, *tenant, Item::Namespace(owner)), after.is_some());
            }
            Scan::Tombstones { slot, tenant, conversation } => {
                let item = Item::Tombstone(conversation.clone(), Seq::FIRST, user_first(), MessageId([0; 16]));
                Key::tenant(*slot, *tenant, item)
            }
            Scan::Pins { slot, tenant, conversation } => {
                Key::tenant(*slot, *tenant, Item::Pin(conversation.clone(), Seq::FIRST))
            }
            Scan::Reactions { slot, tenant, conversation, target, user } => {
                let user = user.clone().unwrap_or_else(user_first);
                let emoji = Emoji::new(NAME_FIRST).expect("a space is a name");
                Key::tenant(*slot, *tenant, Item::Reaction(conversation.clone(), *target, user, emoji))
            }
        };
        (key, false)
    }

    /// Does a key at or behind the start belong to the range? All keys of it stand together.
    pub fn contains(&self, key: &Key) -> bool {
        let group = |of: GroupId| key.slot == Key::system_slot(of);
        match (self, &key.scope) {
            (Scan::Leases(of), Scope::Group(GroupItem::Lease(_))) => group(*of),
            (Scan::Groups, Scope::Group(GroupItem::Group(_))) => group(GroupId::META),
            (Scan::Nodes, Scope::Group(GroupItem::Node(_))) => group(GroupId::META),
            (Scan::Stores, Scope::Group(GroupItem::Store(_))) => group(GroupId::META),
            (Scan::Tenants, Scope::Group(GroupItem::Tenant(_))) => group(GroupId::META),
            (Scan::Moves, Scope::Group(GroupItem::Move(_))) => group(GroupId::META),
            (Scan::Standings, Scope::Group(GroupItem::Standing(_))) => group(GroupId::META),
            (Scan::Domains, Scope::Group(GroupItem::Domain(_))) => group(GroupId::META),
            (Scan::Rotten, Scope::Group(GroupItem::Rotten(..))) => group(GroupId::META),
            (Scan::Pending { slot, .. }, Scope::Slot(SlotItem::Pending(..))) => key.slot == *slot,
            (Scan::Cursors { slot, tenant, user }, Scope::Tenant(of, Item::Cursor(owner, _)))
            | (Scan::Lasts { slot, tenant, user, .. }, Scope::Tenant(of, Item::Last(owner, _)))
            | (Scan::Inbox { slot, tenant, user, .. }, Scope::Tenant(of, Item::Inbox(owner, _))) => {
                key.slot == *slot && of == tenant && owner == user
            }
            (Scan::Namespaces { slot, tenant, .. }, Scope::Tenant(of, Item::Namespace(_))) => {
                key.slot == *slot && of == tenant
            }
            (Scan::Reactions { slot, tenant, conversation, target, user }, Scope::Tenant(of, item)) => {
                let Item::Reaction(owner, at, whose, _) = item else { return false };
                let same_user = user.as_ref().is_none_or(|user| user == whose);
                key.slot == *slot && of == tenant && owner == conversation && at == target && same_user
            }
            (Scan::Messages { slot, tenant, conversation, .. }, Scope::Tenant(of, Item::Message(owner, _)))
            | (Scan::Pins { slot, tenant, conversation }, Scope::Tenant(of, Item::Pin(owner, _)))
            | (Scan::Tombstones { slot, tenant, conversation }, Scope::Tenant(of, Item::Tombstone(owner, ..)))
            | (Scan::Members { slot, tenant, conversation }, Scope::Tenant(of, Item::Member(owner, ..))) => {
                key.slot == *slot && of == tenant && owner == conversation
            }
            _ => false,
        }
    }
}

/// The smallest name: control characters are no part of names, so nothing is below a space.
const NAME_FIRST: &str = " ";
/// The smallest lease id.
const LEASE_FIRST: LeaseId =
    LeaseId { generation: seriatim_proto::ids::Generation(0), index: seriatim_proto::ids::LogIndex(0), place: 0 };

fn user_first() -> UserId {
    UserId::new(NAME_FIRST).expect("a space is a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_first_then_tenants_then_the_slot_itself() {
        let inbox = |slot, tenant| Key::tenant(SlotId(slot), TenantId(tenant), Item::Inbox(user_first(), Seq::FIRST));
        assert!(inbox(1, 2) < inbox(1, 3));
        assert!(inbox(1, 3) < Key::holder(SlotId(1)));
        assert!(Key::holder(SlotId(1)) < inbox(2, 0));
        assert!(inbox(4095, 9) < Key::group(GroupId(0), GroupItem::Cluster));
    }

    #[test]
    fn the_last_group_has_a_slot_value() {
        assert_eq!(Key::system_slot(Key::GROUP_LAST), SlotId(u16::MAX));
    }

    #[test]
    fn a_scan_contains_its_own_start() {
        let conversation = ConversationId::Direct(user_first(), user_first());
        let (slot, tenant, user, from) = (SlotId(7), TenantId(1), user_first(), Seq::FIRST);
        for scan in [
            Scan::Leases(GroupId(3)),
            Scan::Groups,
            Scan::Nodes,
            Scan::Stores,
            Scan::Tenants,
            Scan::Moves,
            Scan::Standings,
            Scan::Rotten,
            Scan::Domains,
            Scan::Pending { slot, after: None },
            Scan::Pending { slot, after: Some((tenant, conversation.clone())) },
            Scan::Cursors { slot, tenant, user: user.clone() },
            Scan::Inbox { slot, tenant, user, from },
            Scan::Messages { slot, tenant, conversation: conversation.clone(), from },
            Scan::Members { slot, tenant, conversation: conversation.clone() },
            Scan::Pins { slot, tenant, conversation: conversation.clone() },
            Scan::Namespaces { slot, tenant, after: None },
            Scan::Namespaces { slot, tenant, after: Some(Owner::Conversation(conversation.clone())) },
            Scan::Tombstones { slot, tenant, conversation: conversation.clone() },
            Scan::Lasts { slot, tenant, user: user_first(), after: None },
            Scan::Lasts { slot, tenant, user: user_first(), after: Some(conversation.clone()) },
            Scan::Reactions {
                slot,
                tenant,
                conversation: conversation.clone(),
                target: from,
                user: Some(user_first()),
            },
            Scan::Reactions { slot, tenant, conversation, target: from, user: None },
        ] {
            assert!(scan.contains(&scan.start().0), "{scan:?}");
        }
    }
}
