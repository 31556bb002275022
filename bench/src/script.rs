//! Script: the source as our conversations: who is in them, and who says what, under which ids.
//!
//! All ids follow from the source alone, so that the checker can know them without asking anybody.

use std::collections::{BTreeSet, HashMap};

use anyhow::Context;
use seriatim_proto::chain::body_hash;
use seriatim_proto::ids::{ConversationId, ConversationKey, MessageId, UserId};

use crate::source::Message;

/// Everything that is to be said.
#[derive(Debug, Clone)]
pub struct Script {
    /// everybody, by first appearance
    pub users: Vec<UserId>,
    /// in the order of the source
    pub talks: Vec<Talk>,
}

/// One conversation.
#[derive(Debug, Clone)]
pub struct Talk {
    /// its name in the source
    pub name: String,
    /// its id in the cluster
    pub id: ConversationId,
    /// places in [`Script::users`], by first appearance
    pub members: Vec<usize>,
    /// in order
    pub lines: Vec<Line>,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// place in [`Script::users`]
    pub sender: usize,
    /// what is said
    pub body: String,
}

impl Script {
    /// Names of a user's devices. Who judges a run must know them beforehand: a device without a record is one that
    /// lost everything.
    pub fn devices(user: usize) -> &'static [&'static str] {
        if user % 5 == 4 { &["phone", "tablet"] } else { &["phone"] }
    }

    /// A pair's first conversation is their direct one; every other conversation is a group of its real participants.
    pub fn new(source: Vec<(String, Vec<Message>)>) -> anyhow::Result<Script> {
        let mut script = Script { users: Vec::new(), talks: Vec::with_capacity(source.len()) };
        let mut known: HashMap<String, usize> = HashMap::new();
        let mut pairs: BTreeSet<(usize, usize)> = BTreeSet::new();
        for (name, messages) in source {
            let mut members: Vec<usize> = Vec::new();
            let mut lines = Vec::with_capacity(messages.len());
            for message in messages {
                let sender = match known.get(&message.sender) {
                    Some(place) => *place,
                    None => {
                        let user = UserId::new(&message.sender).with_context(|| format!("a sender of {name}"))?;
                        script.users.push(user);
                        known.insert(message.sender, script.users.len() - 1);
                        script.users.len() - 1
                    }
                };
                if !members.contains(&sender) {
                    members.push(sender);
                }
                lines.push(Line { sender, body: message.text });
            }
            let direct = match members[..] {
                [one, other] => pairs.insert((one.min(other), one.max(other))),
                _ => false,
            };
            let id = if direct {
                ConversationId::direct(script.users[members[0]].clone(), script.users[members[1]].clone())
            } else {
                ConversationId::Group(ConversationKey(body_hash(b"replay: group", name.as_bytes()).0))
            };
            script.talks.push(Talk { name, id, members, lines });
        }
        Ok(script)
    }

    /// Messages of all talks.
    pub fn message_count(&self) -> usize {
        self.talks.iter().map(|talk| talk.lines.len()).sum()
    }
}

impl Talk {
    /// The id of the line at `place`.
    pub fn message_id(&self, place: usize) -> MessageId {
        MessageId(body_hash(b"replay: message", format!("{}/{place}", self.name).as_bytes()).0)
    }

    /// The id under which the group is created.
    pub fn create_id(&self) -> MessageId {
        MessageId(body_hash(b"replay: create", self.name.as_bytes()).0)
    }

    /// Messages from `line` on that may be under way together: those of one sender, at most `pipeline`.
    pub fn turn(&self, line: usize, pipeline: usize) -> usize {
        let sender = self.lines[line].sender;
        self.lines[line..].iter().take(pipeline).take_while(|said| said.sender == sender).count()
    }

    /// Turns that have to wait for each other.
    pub fn turns(&self, pipeline: usize) -> usize {
        let (mut line, mut turns) = (0, 0);
        while line < self.lines.len() {
            line += self.turn(line, pipeline);
            turns += 1;
        }
        turns
    }

    /// Is it a group, which somebody must create?
    pub fn is_group(&self) -> bool {
        matches!(self.id, ConversationId::Group(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(sender: &str, text: &str) -> Message {
        Message { text: text.to_owned(), timestamp: "2026-01-01T00:00:00Z".to_owned(), sender: sender.to_owned() }
    }

    #[test]
    fn a_pair_has_one_direct_conversation_and_groups_for_the_rest() {
        let script = Script::new(vec![
            ("one".to_owned(), vec![says("a", "x"), says("b", "y")]),
            ("two".to_owned(), vec![says("b", "x"), says("a", "y")]),
            ("alone".to_owned(), vec![says("a", "x")]),
            ("three".to_owned(), vec![says("a", "x"), says("b", "y"), says("c", "z")]),
        ])
        .unwrap();
        let groups: Vec<bool> = script.talks.iter().map(Talk::is_group).collect();
        assert_eq!(groups, [false, true, true, true]);
        assert_eq!(script.talks[2].members, [0]);
        assert_eq!(script.users.len(), 3);
        assert_eq!(script.message_count(), 8);
    }

    #[test]
    fn a_turn_is_one_senders_and_not_too_long() {
        let talk = |says: &str| Talk {
            name: String::new(),
            id: ConversationId::Group(ConversationKey([0; 16])),
            members: Vec::new(),
            lines: says.bytes().map(|sender| Line { sender: sender.into(), body: String::new() }).collect(),
        };
        assert_eq!(talk("aaabb").turn(0, 16), 3);
        assert_eq!(talk("aaabb").turn(1, 16), 2);
        assert_eq!(talk("aaabb").turn(0, 2), 2);
        assert_eq!([talk("").turns(2), talk("aaabb").turns(2), talk("aaabb").turns(16)], [0, 3, 2]);
    }

    #[test]
    fn ids_are_unique() {
        let path =
            std::path::PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("sample/dataset.json");
        let script = Script::new(crate::source::read(&path, crate::source::Amount::All).unwrap()).unwrap();
        let mut ids = BTreeSet::new();
        for talk in &script.talks {
            assert!(ids.insert(talk.create_id()));
            assert!((0..talk.lines.len()).all(|place| ids.insert(talk.message_id(place))));
        }
    }
}
