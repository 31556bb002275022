//! Owed: who is owed which entries of a conversation, from the conversation's own entries.

use std::collections::BTreeMap;

use seriatim_client::{Entry, Kind};
use seriatim_proto::ids::{ConversationId, UserId};

/// Of each user, the seqs of the joining and the leaving entry of each stay, both included.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stays {
    stays: BTreeMap<UserId, Vec<(u64, Option<u64>)>>,
}

/// The stays in a conversation, from all of its entries.
pub(crate) fn stays(conversation: &ConversationId, entries: &[Entry]) -> Stays {
    let mut stays = Stays::default();
    for entry in entries {
        let seq = entry.conversation_seq.get();
        match conversation {
            ConversationId::Direct(one, other) => [one, other].into_iter().for_each(|user| stays.join(user, seq)),
            ConversationId::Group(_) if entry.kind == Kind::Create => stays.join(&entry.sender, seq),
            ConversationId::Group(_) => {}
        }
        entry.removed.iter().for_each(|user| stays.leave(user, seq));
        entry.added.iter().for_each(|user| stays.join(user, seq));
    }
    stays
}

impl Stays {
    /// Is the user owed the entry at this seq?
    pub(crate) fn covers(&self, user: &UserId, seq: u64) -> bool {
        let mut stays = self.stays.get(user).into_iter().flatten();
        stays.any(|(joined, left)| *joined <= seq && left.is_none_or(|left| seq <= left))
    }

    /// Does the user's newest stay of those that began below `upto` have the entry at this seq?
    pub(crate) fn newest_covers(&self, user: &UserId, upto: u64, seq: u64) -> bool {
        let began = self.stays.get(user).into_iter().flatten().rfind(|(joined, _)| *joined < upto);
        began.is_some_and(|(joined, left)| *joined <= seq && left.is_none_or(|left| seq <= left))
    }

    /// The last entry that each user is owed, if the conversation ends at `last`. Who never was a member is not in it.
    pub(crate) fn last_owed(&self, last: u64) -> BTreeMap<UserId, u64> {
        let end = |stays: &Vec<(u64, Option<u64>)>| stays.last().map(|(_, left)| left.unwrap_or(last));
        self.stays.iter().filter_map(|(user, stays)| Some((user.clone(), end(stays)?))).collect()
    }

    /// A user's stays, for people.
    pub(crate) fn text(&self, user: &UserId) -> String {
        let stays = self.stays.get(user).into_iter().flatten();
        let stays = stays.map(|(joined, left)| left.map_or(format!("{joined}.."), |left| format!("{joined}..={left}")));
        format!("[{}]", stays.collect::<Vec<_>>().join(", "))
    }

    #[cfg(test)]
    pub(crate) fn of(stays: impl IntoIterator<Item = (UserId, Vec<(u64, Option<u64>)>)>) -> Stays {
        Stays { stays: stays.into_iter().collect() }
    }

    /// Who is in stays in.
    fn join(&mut self, user: &UserId, seq: u64) {
        let stays = self.stays.entry(user.clone()).or_default();
        if stays.last().is_none_or(|(_, left)| left.is_some()) {
            stays.push((seq, None));
        }
    }

    fn leave(&mut self, user: &UserId, seq: u64) {
        if let Some((_, left @ None)) = self.stays.get_mut(user).and_then(|stays| stays.last_mut()) {
            *left = Some(seq);
        }
    }
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
            emoji: None,
            unset: false,
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
            entry(14, Kind::Members, &["carl"], &[]),
        ];
        let stays = stays(&group, &entries);
        let expected = [("anna", 14), ("bert", 5), ("carl", 14), ("maker", 14)];
        assert_eq!(stays.last_owed(14), expected.into_iter().map(|(name, seq)| (user(name), seq)).collect());
        assert_eq!(stays.text(&user("carl")), "[5..=12, 14..]");
        let covered = |name| (1..=14).filter(|seq| stays.covers(&user(name), *seq)).count();
        let newest = |upto, seq| stays.newest_covers(&user("carl"), upto, seq);
        assert!(newest(14, 9) && newest(15, 14) && !newest(15, 9) && !newest(5, 5));
        assert_eq!((covered("anna"), covered("bert"), covered("carl"), covered("dora")), (14, 5, 9, 0));
    }

    #[test]
    fn both_sides_of_a_pair_are_owed_everything() {
        let pair = ConversationId::direct(user("anna"), user("bert"));
        let owed = stays(&pair, &[entry(3, Kind::Message, &[], &[]), entry(7, Kind::Message, &[], &[])]).last_owed(7);
        assert_eq!(owed.into_values().collect::<Vec<_>>(), [7, 7]);
        assert!(stays(&pair, &[]).last_owed(0).is_empty());
    }
}
