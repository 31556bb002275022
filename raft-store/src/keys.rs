//! Keys: every byte by which a row of state.db is found. No other file builds a key.
//!
//! Integers are big-endian, so byte order is numeric order; names end with a zero byte, which no name contains, so
//! that byte order is their order too. The order of the bytes is the order of [`Key`]. Letters are never reused.
//!
//! ```text
//! key                                                         row           lifetime
//! slot:2 tenant:4 'a' owner                                   Namespace,    rises with every entry
//!                                                             Conversation
//! slot:2 tenant:4 'c' user\0 device\0                         Cursor        per device, only rises
//! slot:2 tenant:4 'd' conversation sender\0 message id:16     Dedupe        as long as its message
//! slot:2 tenant:4 'e' conversation seq:8                      Amended       as long as its message
//! slot:2 tenant:4 'i' user\0 seq:8                            Inbox         per entry, immutable
//! slot:2 tenant:4 'k' user\0 conversation                     Mark          from the first mark on, as the user
//! slot:2 tenant:4 'l' user\0 conversation                     Last          as long as the user
//! slot:2 tenant:4 'm' conversation seq:8                      Message       per entry; only a recall changes it
//! slot:2 tenant:4 'o' user\0                                  Reading       from the first read mark on
//! slot:2 tenant:4 'p' conversation target slot:2 user\0       Member        per member of a group
//! slot:2 tenant:4 'q' conversation seq:8                      Pin           while the message is pinned
//! slot:2 tenant:4 'r' conversation seq:8 user\0 emoji\0       Reaction      while it is set
//! slot:2 tenant:4 't' conversation place:8 user\0 message id:16 Tombstone     until trim passes its place
//! slot:2 FFFFFFFF 's'                                         Holder        per slot, from `Own` on
//! slot:2 FFFFFFFF 'u' tenant:4 conversation                   Pending       while entries are undelivered
//! FF00 + group    'A'                                         -             applied position, with every batch
//! FF00 + group    'C'                                         Cluster       group 0, from `Init` on
//! FF00 + group    'D' store:8                                 Domain        group 0, per store that has a label
//! FF00 + group    'G' group:4                                 Group         group 0, per group
//! FF00 + group    'L' generation:2 index:8 place:4            Lease         while alive
//! FF00 + group    'M' group:4                                 Move          group 0, while a replica of it moves
//! FF00 + group    'N' node:8                                  Node          group 0, while its lease is alive
//! FF00 + group    'O'                                         Owned         from `Own` on
//! FF00 + group    'R'                                         Revision      group 0, per change of the directory
//! FF00 + group    'S' store:8                                 Store         group 0, per store
//! FF00 + group    'T' tenant:4                                Tenant        group 0, per tenant with limits of its own
//! FF00 + group    'U' store:8                                 Standing      group 0, per store that joined or is drained
//! FF00 + group    'V' group:4 replica:8                       Rotten        group 0, until the replica is replaced
//! FF00 + group    'W'                                         Voters        group 0, if not three
//!
//! owner:        'b' user\0 (inbox)   'c' conversation   'n' counter\0
//! conversation: 'd' user\0 user\0 (direct)   'g' key:16 (group)
//! ```
//! The applied position ('A') is the shell's own and has no typed key. `FFFFFFFF` is no tenant.

use seriatim_proto::ids::{
    ConversationId, ConversationKey, CounterName, DeviceId, Emoji, Generation, GroupId, LeaseId, LogIndex, MessageId,
    NodeId, Owner, ReplicaId, Seq, SlotId, StoreId, TenantId, UserId,
};
use seriatim_proto::limits;
use seriatim_store_core::key::TENANT_NONE;
use seriatim_store_core::{GroupItem, Item, Key, Scope, SlotItem};

/// The bytes of a key.
pub(crate) fn encode(key: &Key) -> Vec<u8> {
    // A direct conversation of two long names and a third one behind it is rare; most keys fit at once.
    let mut out = Vec::with_capacity(96);
    encode_into(key, &mut out);
    out
}

/// As [`encode`], behind what is in `out`.
pub(crate) fn encode_into(key: &Key, out: &mut Vec<u8>) {
    out.extend_from_slice(&key.slot.0.to_be_bytes());
    match &key.scope {
        Scope::Tenant(tenant, item) => {
            assert!(*tenant != TENANT_NONE, "apply refuses this tenant");
            out.extend_from_slice(&tenant.0.to_be_bytes());
            put_item(out, item);
        }
        Scope::Slot(item) => {
            out.extend_from_slice(&TENANT_NONE.0.to_be_bytes());
            match item {
                SlotItem::Holder => out.push(b's'),
                SlotItem::Pending(tenant, conversation) => {
                    out.push(b'u');
                    out.extend_from_slice(&tenant.0.to_be_bytes());
                    put_conversation(out, conversation);
                }
            }
        }
        Scope::Group(item) => put_group_item(out, item),
    }
}

/// The key of bytes that [`encode`] wrote; `None` for all others, the applied position included.
pub(crate) fn decode(bytes: &[u8]) -> Option<Key> {
    let mut input = Input(bytes);
    let slot = SlotId(input.u16()?);
    let scope = if slot.0 >= limits::SYSTEM_SLOT_FIRST {
        Scope::Group(group_item(&mut input)?)
    } else {
        match TenantId(input.u32()?) {
            TENANT_NONE => Scope::Slot(slot_item(&mut input)?),
            tenant => Scope::Tenant(tenant, item(&mut input)?),
        }
    };
    input.0.is_empty().then_some(Key { slot, scope })
}

/// Where a group's applied position is.
pub(crate) fn position_key(group: GroupId) -> Vec<u8> {
    let mut key = slot_start(Key::system_slot(group));
    key.push(b'A');
    key
}

/// A lower bound of all keys of a slot, and the upper bound of those of the slot before.
pub(crate) fn slot_start(slot: SlotId) -> Vec<u8> {
    slot.0.to_be_bytes().to_vec()
}

fn put_item(out: &mut Vec<u8>, item: &Item) {
    match item {
        Item::Namespace(owner) => {
            out.push(b'a');
            match owner {
                Owner::Inbox(user) => {
                    out.push(b'b');
                    put_name(out, user.as_str());
                }
                Owner::Conversation(conversation) => {
                    out.push(b'c');
                    put_conversation(out, conversation);
                }
                Owner::Counter(name) => {
                    out.push(b'n');
                    put_name(out, name.as_str());
                }
            }
        }
        Item::Cursor(user, device) => {
            out.push(b'c');
            put_name(out, user.as_str());
            put_name(out, device.as_str());
        }
        Item::Dedupe(conversation, sender, message_id) => {
            out.push(b'd');
            put_conversation(out, conversation);
            put_name(out, sender.as_str());
            out.extend_from_slice(&message_id.0);
        }
        Item::Amended(conversation, seq) => {
            out.push(b'e');
            put_conversation(out, conversation);
            out.extend_from_slice(&seq.get().to_be_bytes());
        }
        Item::Inbox(user, seq) => {
            out.push(b'i');
            put_name(out, user.as_str());
            out.extend_from_slice(&seq.get().to_be_bytes());
        }
        Item::Mark(user, conversation) => {
            out.push(b'k');
            put_name(out, user.as_str());
            put_conversation(out, conversation);
        }
        Item::Last(user, conversation) => {
            out.push(b'l');
            put_name(out, user.as_str());
            put_conversation(out, conversation);
        }
        Item::Message(conversation, seq) => {
            out.push(b'm');
            put_conversation(out, conversation);
            out.extend_from_slice(&seq.get().to_be_bytes());
        }
        Item::Reading(user) => {
            out.push(b'o');
            put_name(out, user.as_str());
        }
        Item::Member(conversation, target, user) => {
            out.push(b'p');
            put_conversation(out, conversation);
            out.extend_from_slice(&target.0.to_be_bytes());
            put_name(out, user.as_str());
        }
        Item::Pin(conversation, seq) => {
            out.push(b'q');
            put_conversation(out, conversation);
            out.extend_from_slice(&seq.get().to_be_bytes());
        }
        Item::Reaction(conversation, seq, user, emoji) => {
            out.push(b'r');
            put_conversation(out, conversation);
            out.extend_from_slice(&seq.get().to_be_bytes());
            put_name(out, user.as_str());
            put_name(out, emoji.as_str());
        }
        Item::Tombstone(conversation, place, user, message_id) => {
            out.push(b't');
            put_conversation(out, conversation);
            out.extend_from_slice(&place.get().to_be_bytes());
            put_name(out, user.as_str());
            out.extend_from_slice(&message_id.0);
        }
    }
}

fn put_group_item(out: &mut Vec<u8>, item: &GroupItem) {
    match item {
        GroupItem::Cluster => out.push(b'C'),
        GroupItem::Domain(store) => {
            out.push(b'D');
            out.extend_from_slice(&store.0.to_be_bytes());
        }
        GroupItem::Group(group) => {
            out.push(b'G');
            out.extend_from_slice(&group.0.to_be_bytes());
        }
        GroupItem::Lease(lease) => {
            out.push(b'L');
            out.extend_from_slice(&lease.generation.0.to_be_bytes());
            out.extend_from_slice(&lease.index.0.to_be_bytes());
            out.extend_from_slice(&lease.place.to_be_bytes());
        }
        GroupItem::Move(group) => {
            out.push(b'M');
            out.extend_from_slice(&group.0.to_be_bytes());
        }
        GroupItem::Node(node) => {
            out.push(b'N');
            out.extend_from_slice(&node.0.to_be_bytes());
        }
        GroupItem::Owned => out.push(b'O'),
        GroupItem::Revision => out.push(b'R'),
        GroupItem::Store(store) => {
            out.push(b'S');
            out.extend_from_slice(&store.0.to_be_bytes());
        }
        GroupItem::Tenant(tenant) => {
            out.push(b'T');
            out.extend_from_slice(&tenant.0.to_be_bytes());
        }
        GroupItem::Standing(store) => {
            out.push(b'U');
            out.extend_from_slice(&store.0.to_be_bytes());
        }
        GroupItem::Rotten(group, replica) => {
            out.push(b'V');
            out.extend_from_slice(&group.0.to_be_bytes());
            out.extend_from_slice(&replica.0.to_be_bytes());
        }
        GroupItem::Voters => out.push(b'W'),
    }
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(name.as_bytes());
    out.push(0);
}

fn put_conversation(out: &mut Vec<u8>, conversation: &ConversationId) {
    match conversation {
        ConversationId::Direct(a, b) => {
            out.push(b'd');
            put_name(out, a.as_str());
            put_name(out, b.as_str());
        }
        ConversationId::Group(key) => {
            out.push(b'g');
            out.extend_from_slice(&key.0);
        }
    }
}

/// What is left of a key that is read.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }
    fn u8(&mut self) -> Option<u8> {
        self.bytes().map(|[byte]| byte)
    }
    fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_be_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_be_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_be_bytes)
    }
    fn seq(&mut self) -> Option<Seq> {
        self.u64().and_then(Seq::new)
    }
    fn name(&mut self) -> Option<&str> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (name, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        std::str::from_utf8(name).ok()
    }
    fn user(&mut self) -> Option<UserId> {
        UserId::new(self.name()?).ok()
    }
    fn conversation(&mut self) -> Option<ConversationId> {
        match self.u8()? {
            b'd' => Some(ConversationId::Direct(self.user()?, self.user()?)),
            b'g' => Some(ConversationId::Group(ConversationKey(self.bytes()?))),
            _ => None,
        }
    }
}

fn item(input: &mut Input<'_>) -> Option<Item> {
    Some(match input.u8()? {
        b'a' => Item::Namespace(match input.u8()? {
            b'b' => Owner::Inbox(input.user()?),
            b'c' => Owner::Conversation(input.conversation()?),
            b'n' => Owner::Counter(CounterName::new(input.name()?).ok()?),
            _ => return None,
        }),
        b'c' => Item::Cursor(input.user()?, DeviceId::new(input.name()?).ok()?),
        b'd' => Item::Dedupe(input.conversation()?, input.user()?, MessageId(input.bytes()?)),
        b'e' => Item::Amended(input.conversation()?, input.seq()?),
        b'i' => Item::Inbox(input.user()?, input.seq()?),
        b'k' => Item::Mark(input.user()?, input.conversation()?),
        b'l' => Item::Last(input.user()?, input.conversation()?),
        b'm' => Item::Message(input.conversation()?, input.seq()?),
        b'o' => Item::Reading(input.user()?),
        b'p' => Item::Member(input.conversation()?, SlotId(input.u16()?), input.user()?),
        b'q' => Item::Pin(input.conversation()?, input.seq()?),
        b'r' => {
            let (conversation, seq, user) = (input.conversation()?, input.seq()?, input.user()?);
            Item::Reaction(conversation, seq, user, Emoji::new(input.name()?).ok()?)
        }
        b't' => {
            let (conversation, place, user) = (input.conversation()?, input.seq()?, input.user()?);
            Item::Tombstone(conversation, place, user, MessageId(input.bytes()?))
        }
        _ => return None,
    })
}

fn slot_item(input: &mut Input<'_>) -> Option<SlotItem> {
    Some(match input.u8()? {
        b's' => SlotItem::Holder,
        b'u' => SlotItem::Pending(TenantId(input.u32()?), input.conversation()?),
        _ => return None,
    })
}

fn group_item(input: &mut Input<'_>) -> Option<GroupItem> {
    Some(match input.u8()? {
        b'C' => GroupItem::Cluster,
        b'D' => GroupItem::Domain(StoreId(input.u64()?)),
        b'G' => GroupItem::Group(GroupId(input.u32()?)),
        b'L' => GroupItem::Lease(LeaseId {
            generation: Generation(input.u16()?),
            index: LogIndex(input.u64()?),
            place: input.u32()?,
        }),
        b'M' => GroupItem::Move(GroupId(input.u32()?)),
        b'N' => GroupItem::Node(NodeId(input.u64()?)),
        b'O' => GroupItem::Owned,
        b'R' => GroupItem::Revision,
        b'S' => GroupItem::Store(StoreId(input.u64()?)),
        b'T' => GroupItem::Tenant(TenantId(input.u32()?)),
        b'U' => GroupItem::Standing(StoreId(input.u64()?)),
        b'V' => GroupItem::Rotten(GroupId(input.u32()?), ReplicaId(input.u64()?)),
        b'W' => GroupItem::Voters,
        _ => return None,
    })
}

// By its path, so that it is found also where this file is read from another room (fuzz/).
#[cfg(test)]
#[path = "keys/tests.rs"]
mod tests;
