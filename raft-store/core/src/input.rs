//! Input: is a command one that a correct holder could make?
//!
//! Commands come from our own logic nodes, so a no here is a defect. But deserialising does not check ids, and a
//! name with a zero byte or a conversation with swapped users would be a second key for the same thing.

use seriatim_proto::command::Place;
use seriatim_proto::hash;
use seriatim_proto::ids::{ConversationId, Namespace, Owner, Seq, SlotId, TenantId, UserId};
use seriatim_proto::limits;

use crate::key::TENANT_NONE;

/// As `UserId::new` demands; for all names.
pub(crate) fn name_is_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    let in_bounds = !bytes.is_empty() && bytes.len() <= limits::NAME_BYTES_MAX as usize;
    // Most names are ASCII; only others need the slow look for control characters.
    let plain = bytes.iter().all(|byte| (0x20..0x7f).contains(byte));
    in_bounds && (plain || !name.chars().any(char::is_control))
}

pub(crate) fn user_is_valid(user: &UserId) -> bool {
    name_is_valid(user.as_str())
}

pub(crate) fn conversation_is_valid(conversation: &ConversationId) -> bool {
    match conversation {
        ConversationId::Direct(a, b) => a <= b && user_is_valid(a) && user_is_valid(b),
        ConversationId::Group(_) => true,
    }
}

pub(crate) fn tenant_is_valid(tenant: TenantId) -> bool {
    tenant != TENANT_NONE
}

pub(crate) fn seq_is_valid(seq: Seq) -> bool {
    seq.get() <= limits::SEQ_END
}

/// Does the inbox live in the slot?
pub(crate) fn inbox_is_in(slot: SlotId, tenant: TenantId, user: &UserId) -> bool {
    tenant_is_valid(tenant) && user_is_valid(user) && hash::inbox_slot(tenant, user) == slot
}

/// Does the conversation live in the slot?
pub(crate) fn conversation_is_in(slot: SlotId, tenant: TenantId, conversation: &ConversationId) -> bool {
    tenant_is_valid(tenant)
        && conversation_is_valid(conversation)
        && hash::conversation_slot(tenant, conversation) == slot
}

/// The slot that a namespace lives in; `None` if there can be no such namespace.
pub(crate) fn slot_of(namespace: &Namespace) -> Option<SlotId> {
    let owner_is_valid = match &namespace.owner {
        Owner::Inbox(user) => user_is_valid(user),
        Owner::Conversation(conversation) => conversation_is_valid(conversation),
        Owner::Counter(name) => name_is_valid(name.as_str()),
    };
    (owner_is_valid && tenant_is_valid(namespace.tenant)).then(|| hash::slot(namespace))
}

pub(crate) fn place_is_valid(place: Place) -> bool {
    match place {
        Place::At(seq) => seq_is_valid(seq),
        Place::Open { segment } => segment <= limits::SEGMENT_SEQS_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_their_constructor_does() {
        for name in ["", "a", "a\0b", "é", "\u{85}", "\u{7f}", &"x".repeat(64), &"x".repeat(65)] {
            assert_eq!(name_is_valid(name), UserId::new(name).is_ok(), "{name:?}");
        }
    }
}
