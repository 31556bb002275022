//! Seen: entries as devices were given them, in the words of the history.

use seriatim_client::{Conversation, Entry, EntryBody, Kind};
use seriatim_proto::ids::{MessageId, Seq, UserId};

use crate::history::SeenEntry;

/// Where an entry was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// in the user's inbox
    Inbox,
    /// in a conversation's history, where it has no place in the inbox
    History,
}

/// Text of a message: it says itself whose and where it is, so that a body in a wrong place shows.
pub(crate) fn body_text(sender: &UserId, to: &Conversation, id: &MessageId) -> String {
    format!("{sender}|{}|{id}", to.id_for(sender))
}

/// An entry as `user` was given it.
pub(crate) fn seen(entry: &Entry, user: &UserId, place: Place) -> SeenEntry {
    let names = |users: &[UserId]| users.iter().map(ToString::to_string).collect();
    let in_inbox = place == Place::Inbox;
    SeenEntry {
        seq: in_inbox.then(|| entry.seq.get()),
        prev_seq: entry.prev_seq.filter(|_| in_inbox).map(Seq::get),
        ordinal: entry.ordinal,
        conversation: entry.conversation.id_for(user).to_string(),
        conversation_seq: entry.conversation_seq.get(),
        kind: entry.kind.name().to_owned(),
        sender: entry.sender.to_string(),
        id: entry.message_id.to_string(),
        body_hash: entry.body_hash.to_string(),
        body: match &entry.body {
            EntryBody::Here { body, .. } if entry.kind == Kind::Message => {
                Some(String::from_utf8_lossy(body).into_owned())
            }
            EntryBody::Here { .. } | EntryBody::Erased | EntryBody::Trimmed | EntryBody::Unavailable => None,
        },
        body_matches: entry.body_matches(),
        added: names(&entry.added),
        removed: names(&entry.removed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_write_the_same_name_of_their_conversation() {
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let id = MessageId([0xab; 16]);
        let hex = "ab".repeat(16);
        let one = body_text(&alice, &Conversation::Peer(bob.clone()), &id);
        let other = body_text(&bob, &Conversation::Peer(alice), &id);
        assert_eq!(one, format!("alice|direct:alice:bob|{hex}"));
        assert_eq!(other, format!("bob|direct:alice:bob|{hex}"));
    }
}
