//! Owed: up to where a conversation must be in each user's inbox, from the conversation's own entries.

use std::collections::{BTreeMap, BTreeSet};

use seriatim_client::{Entry, Kind};
use seriatim_proto::ids::{ConversationId, UserId};

/// The last entry that each user is owed. Who never was a member is not in it.
pub(crate) fn last_owed(conversation: &ConversationId, entries: &[Entry]) -> BTreeMap<UserId, u64> {
    let mut members = BTreeSet::new();
    if let ConversationId::Direct(one, other) = conversation {
        members.extend([one.clone(), other.clone()]);
    }
    let mut owed = BTreeMap::new();
    for entry in entries {
        members.extend(entry.added.iter().cloned());
        if entry.kind == Kind::Create {
            members.insert(entry.sender.clone());
        }
        // Who leaves with an entry is still owed it.
        owed.extend(members.iter().map(|member| (member.clone(), entry.conversation_seq.get())));
        for user in &entry.removed {
            members.remove(user);
        }
    }
    owed
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use seriatim_client::{Conversation, EntryBody};
    use seriatim_proto::ids::{BodyHash, ConversationKey, MessageId, Seq};

    use super::*;

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn entry(seq: u64, kind: Kind, added: &[&str], removed: &[&str]) -> Entry {
        let seq = Seq::new(seq).unwrap();
        Entry {
            seq,
            prev_seq: None,
            ordinal: 0,
            conversation: Conversation::Group(ConversationKey([1; 16])),
            conversation_seq: seq,
            kind,
            sender: user("maker"),
            message_id: MessageId([1; 16]),
            at_ms: 0,
            body_hash: BodyHash::default(),
            body: EntryBody::Here { salt: Bytes::new(), body: Bytes::new() },
            added: added.iter().copied().map(user).collect(),
            removed: removed.iter().copied().map(user).collect(),
            chain: None,
        }
    }

    #[test]
    fn a_member_is_owed_his_joining_and_his_leaving_entry_and_what_is_between() {
        let group = ConversationId::Group(ConversationKey([1; 16]));
        let entries = [
            entry(1, Kind::Create, &["anna", "bert"], &[]),
            entry(4, Kind::Message, &[], &[]),
            entry(5, Kind::Members, &["carl"], &["bert"]),
            entry(9, Kind::Message, &[], &[]),
            entry(12, Kind::Members, &[], &["carl"]),
            entry(13, Kind::Message, &[], &[]),
        ];
        let owed = last_owed(&group, &entries);
        let expected = [("anna", 13), ("bert", 5), ("carl", 12), ("maker", 13)];
        assert_eq!(owed, expected.into_iter().map(|(name, seq)| (user(name), seq)).collect());
    }

    #[test]
    fn both_sides_of_a_pair_are_owed_everything() {
        let pair = ConversationId::direct(user("anna"), user("bert"));
        let owed = last_owed(&pair, &[entry(3, Kind::Message, &[], &[])]);
        assert_eq!(owed.into_values().collect::<Vec<_>>(), [3, 3]);
        assert!(last_owed(&pair, &[]).is_empty());
    }
}
