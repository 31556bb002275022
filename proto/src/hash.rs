//! Hash: which slot a namespace lives in, and which node should hold a slot.
//!
//! BLAKE3 over a domain byte and length-prefixed parts: the same on every machine and for ever.

use crate::ids::{ConversationId, Namespace, NodeId, Owner, SlotId, TenantId, UserId};
use crate::limits;

fn digest(domain: u8, parts: &[&[u8]]) -> u64 {
    let mut input = [0u8; 256];
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        input[len..len + bytes.len()].copy_from_slice(bytes);
        len += bytes.len();
    };
    put(&[domain]);
    for part in parts {
        // Names have at most 64 bytes, so a length fits one byte and the buffer all parts.
        put(&[part.len() as u8]);
        put(part);
    }
    let hash = blake3::hash(&input[..len]);
    u64::from_be_bytes(hash.as_bytes()[..8].try_into().expect("a BLAKE3 hash has 32 bytes"))
}

fn slot_of(digest: u64) -> SlotId {
    SlotId((digest % u64::from(limits::SLOTS)) as u16)
}

/// The slot of a user's inbox.
pub fn inbox_slot(tenant: TenantId, user: &UserId) -> SlotId {
    slot_of(digest(b'u', &[&tenant.0.to_be_bytes(), user.as_str().as_bytes()]))
}

/// The slot of a conversation. A direct one lives in the slot of one of its two users, chosen by a
/// hash of the pair, so that one of the two inbox entries is written with the message.
pub fn conversation_slot(tenant: TenantId, conversation: &ConversationId) -> SlotId {
    match conversation {
        ConversationId::Direct(a, b) => {
            let pair = digest(b'd', &[&tenant.0.to_be_bytes(), a.as_str().as_bytes(), b.as_str().as_bytes()]);
            inbox_slot(tenant, if pair.is_multiple_of(2) { a } else { b })
        }
        ConversationId::Group(key) => slot_of(digest(b'c', &[&tenant.0.to_be_bytes(), &key.0])),
    }
}

/// The slot that a namespace lives in.
pub fn slot(namespace: &Namespace) -> SlotId {
    match &namespace.owner {
        Owner::Inbox(user) => inbox_slot(namespace.tenant, user),
        Owner::Conversation(conversation) => conversation_slot(namespace.tenant, conversation),
        Owner::Counter(name) => slot_of(digest(b'n', &[&namespace.tenant.0.to_be_bytes(), name.as_str().as_bytes()])),
    }
}

/// The nodes in the order in which they should hold a slot: rendezvous hashing (Thaler and
/// Ravishankar, 1996). A node that leaves moves only its own slots.
pub fn ranking(slot: SlotId, nodes: &[NodeId]) -> Vec<NodeId> {
    let mut ranked: Vec<(u64, NodeId)> =
        nodes.iter().map(|node| (digest(b'r', &[&slot.0.to_be_bytes(), &node.0.to_be_bytes()]), *node)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    ranked.into_iter().map(|(_, node)| node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_fixed_for_ever() {
        let user = UserId::new("alice").unwrap();
        let bob = UserId::new("bob").unwrap();
        assert_eq!(inbox_slot(TenantId(1), &user), SlotId(3553));
        let direct = ConversationId::direct(user.clone(), bob.clone());
        let slot = conversation_slot(TenantId(1), &direct);
        assert!(slot == inbox_slot(TenantId(1), &user) || slot == inbox_slot(TenantId(1), &bob));
    }

    #[test]
    fn a_leaving_node_moves_only_its_own_slots() {
        let nodes = [NodeId(1), NodeId(2), NodeId(3)];
        for slot in (0..limits::SLOTS).map(SlotId) {
            let before = ranking(slot, &nodes);
            let after = ranking(slot, &nodes[..2]);
            if before[0] != NodeId(3) {
                assert_eq!(before[0], after[0]);
            }
        }
    }
}
