//! Changes: changes of members, as operations of the log.
//!
//! The SDK keeps their message ids to itself, so the operations are written down in the end, when the conversation
//! itself tells the ids. One that was never answered and is not there has no operation: nobody could name it.

use std::collections::BTreeMap;

use seriatim_client::{Entry, Kind};
use seriatim_proto::ids::{ConversationId, ConversationKey, UserId};

use super::stage::Stage;
use crate::history::{Ended, Function, Op};

/// One request to change a group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) group: ConversationKey,
    pub(crate) sender: UserId,
    pub(crate) process: u64,
    pub(crate) interval: (u64, u64),
    /// where it is; `None`: nobody knows whether it is anywhere
    pub(crate) seq: Option<u64>,
}

/// Writes all changes down that can be named.
pub(crate) fn write_down(stage: &Stage, conversations: &BTreeMap<ConversationId, Vec<Entry>>) {
    let changes = std::mem::take(&mut *stage.changes.lock());
    for (conversation, entries) in conversations {
        let ConversationId::Group(key) = conversation else { continue };
        let of_group: Vec<&Change> = changes.iter().filter(|change| change.group == *key).collect();
        for op in named(&conversation.to_string(), &of_group, entries) {
            stage.notebook.op(&op);
        }
    }
}

/// Operations of those entries that are no messages.
fn named(key: &str, changes: &[&Change], entries: &[Entry]) -> Vec<Op> {
    let acked: BTreeMap<u64, &Change> =
        changes.iter().filter_map(|change| change.seq.map(|seq| (seq, *change))).collect();
    let mut ops = Vec::new();
    for entry in entries.iter().filter(|entry| entry.kind != Kind::Message) {
        let (seq, id) = (entry.conversation_seq.get(), Some(entry.message_id.to_string()));
        let acked = acked.get(&seq).filter(|change| change.sender == entry.sender);
        if let Some(change) = acked {
            let op = Op::new(change.process, key, Function::Append, change.interval, Ended::Ok);
            ops.push(Op { id, seq: Some(seq), ..op });
            continue;
        }
        // Any unknown one of this sender may be it; the first is the one that says least.
        let open = changes.iter().filter(|change| change.seq.is_none() && change.sender == entry.sender);
        if let Some(change) = open.min_by_key(|change| change.interval.0) {
            let op = Op::new(change.process, key, Function::Append, change.interval, Ended::Info);
            ops.push(Op { id, ..op });
        }
    }
    ops
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use seriatim_client::{Conversation, EntryBody};
    use seriatim_proto::ids::{BodyHash, MessageId, Seq};

    use super::*;

    const GROUP: ConversationKey = ConversationKey([1; 16]);

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn entry(seq: u64, kind: Kind, sender: &str) -> Entry {
        let place = Seq::new(seq).unwrap();
        Entry {
            seq: place,
            prev_seq: None,
            ordinal: 0,
            conversation: Conversation::Group(GROUP),
            conversation_seq: place,
            kind,
            sender: user(sender),
            message_id: MessageId([u8::try_from(seq).unwrap(); 16]),
            at_ms: 0,
            body_hash: BodyHash::default(),
            body: EntryBody::Here { salt: Bytes::new(), body: Bytes::new() },
            added: vec![],
            removed: vec![],
            emoji: None,
            unset: false,
            chain: None,
        }
    }

    fn change(sender: &str, process: u64, seq: Option<u64>) -> Change {
        Change { group: GROUP, sender: user(sender), process, interval: (process, process + 1), seq }
    }

    #[test]
    fn what_was_acked_is_ok_and_what_was_not_stays_open() {
        let changes = [change("anna", 1, Some(4)), change("bert", 2, None), change("bert", 3, None)];
        let changes: Vec<&Change> = changes.iter().collect();
        let entries = [
            entry(4, Kind::Members, "anna"),
            entry(5, Kind::Message, "anna"),
            entry(6, Kind::Members, "bert"),
            entry(7, Kind::Members, "nobody"),
        ];
        let ops = named("group", &changes, &entries);
        let told: Vec<_> = ops.iter().map(|op| (op.proc, op.ended, op.seq)).collect();
        assert_eq!(told, [(1, Ended::Ok, Some(4)), (2, Ended::Info, None)]);
        assert_eq!(ops[1].id.as_deref(), Some("06060606060606060606060606060606"));
    }
}
