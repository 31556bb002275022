//! Recalls: is what was recalled erased, and nothing else?
//!
//! An inbox proves its entries by headers, which a recall leaves as they are. So bodies are held against recalls: those
//! of the inbox itself, and, for what its owner was not told of (who left before the recall, or to whom it has not been
//! delivered yet), what the conversation's own rows say.

use std::collections::{BTreeMap, BTreeSet};

use seriatim_proto::command::Kind;
use seriatim_proto::hash;
use seriatim_proto::ids::{ConversationId, Namespace, Seq};
use seriatim_proto::meta::Directory;
use seriatim_proto::store::{InboxEntry, Read, ReadOutcome};

use super::Report;
use crate::device::{Body, Device};
use crate::failure::Failure;
use crate::store;
use crate::target::Target;

/// A message, by its place.
type Message = (ConversationId, Seq);

/// Bodies as sync gave them, and the recalls among the entries.
#[derive(Default)]
pub(super) struct Bodies {
    recalled: BTreeSet<Message>,
    /// entries with a body, and the messages whose it is
    here: Vec<(Seq, Message)>,
    erased: Vec<(Seq, Message)>,
    /// entries whose bodies are said to be trimmed, and their own places
    trimmed: Vec<(Seq, Message)>,
}

impl Bodies {
    /// Notes an entry and its body.
    pub(super) fn note(&mut self, entry: &InboxEntry, body: &Body) {
        let of = |message: Seq| (entry.conversation.clone(), message);
        if let Body::Missing("trimmed") = body {
            self.trimmed.push((entry.seq, of(entry.entry.seq)));
        }
        let message = match entry.entry.kind {
            Kind::Message => of(entry.entry.seq),
            Kind::Edit { target } => of(target),
            Kind::Recall { target } => {
                self.recalled.insert(of(target));
                return;
            }
            _ => return,
        };
        match body {
            Body::Here { .. } => self.here.push((entry.seq, message)),
            Body::Missing("erased") => self.erased.push((entry.seq, message)),
            Body::Missing(_) => {}
        }
    }

    /// Bodies of what was recalled: perhaps they were read before it was.
    fn too_many(&self) -> impl Iterator<Item = Seq> {
        self.here.iter().filter(|(_, message)| self.recalled.contains(message)).map(|(seq, _)| *seq)
    }

    /// Bodies that are gone though the inbox knows of no recall.
    fn too_few(&self) -> impl Iterator<Item = &(Seq, Message)> {
        self.erased.iter().filter(|(_, message)| !self.recalled.contains(message))
    }
}

/// Looks again at what does not agree.
pub(super) async fn check(
    target: &Target,
    device: &Device,
    directory: &Directory,
    bodies: &Bodies,
    report: &mut Report,
) -> Result<(), Failure> {
    for seq in bodies.too_many() {
        let page = device.sync(Some(seq)).await?;
        if page.entries.first().is_some_and(|(entry, body)| entry.seq == seq && matches!(body, Body::Here { .. })) {
            report.find(format!("entry {seq}: its message was recalled, and the body is there"));
        }
    }
    for (seq, (conversation, message)) in bodies.too_few() {
        let read = Read::Amendments { tenant: target.tenant, conversation: conversation.clone(), target: *message };
        let (trim, outcomes) = with_trim(target, directory, conversation, vec![read]).await?;
        let Some(ReadOutcome::Amendments(amendments)) = outcomes.into_iter().next() else {
            return Err(Failure::internal("the group's leader answered something else than was asked"));
        };
        // What is known of a message goes with it, and its edits may be kept.
        if amendments.recalled.is_none() && *message >= trim {
            report.find(format!("entry {seq}: the body is erased, and nobody has recalled the message"));
        }
    }
    let mut trims = BTreeMap::new();
    for (seq, (conversation, message)) in &bodies.trimmed {
        let trim = match trims.get(conversation) {
            Some(trim) => *trim,
            None => with_trim(target, directory, conversation, Vec::new()).await?.0,
        };
        trims.insert(conversation, trim);
        if *message >= trim {
            report.find(format!(
                "entry {seq}: the body is said to be trimmed, and {conversation} is kept from {trim} on"
            ));
        }
    }
    Ok(())
}

/// The first kept entry of a conversation, and what else was asked of its group's leader.
async fn with_trim(
    target: &Target,
    directory: &Directory,
    conversation: &ConversationId,
    mut reads: Vec<Read>,
) -> Result<(Seq, Vec<ReadOutcome>), Failure> {
    let group = store::group_of(directory, hash::conversation_slot(target.tenant, conversation))?;
    reads.push(Read::Namespace(Namespace::conversation(target.tenant, conversation.clone())));
    let mut outcomes = store::read_at_leader(target.stores()?, group, &reads, &target.link).await?;
    match outcomes.pop() {
        Some(ReadOutcome::Namespace(row)) => Ok((row.map_or(Seq::FIRST, |row| row.trim), outcomes)),
        _ => Err(Failure::internal("the group's leader answered something else than was asked")),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::walk::tests::inbox;
    use super::*;

    #[test]
    fn bodies_and_recalls_that_do_not_agree_are_looked_at_again() {
        let mut entries = inbox(5);
        let of = |entry: &InboxEntry| entry.entry.seq;
        entries[2].entry.kind = Kind::Edit { target: of(&entries[0]) };
        entries[4].entry.kind = Kind::Recall { target: of(&entries[0]) };
        let here = || Body::Here { salt: Bytes::new(), body: Bytes::new() };
        let erased = || Body::Missing("erased");
        let looked_at = |given: [Body; 5]| {
            let mut bodies = Bodies::default();
            entries.iter().zip(&given).for_each(|(entry, body)| bodies.note(entry, body));
            let nth = |seq: Seq| entries.iter().position(|entry| entry.seq == seq).unwrap();
            let (many, few) = (bodies.too_many().map(nth), bodies.too_few().map(|(seq, _)| nth(*seq)));
            (many.collect::<Vec<_>>(), few.collect::<Vec<_>>())
        };
        assert_eq!(looked_at([erased(), here(), erased(), here(), here()]), (vec![], vec![]));
        assert_eq!(looked_at([here(), here(), here(), here(), here()]), (vec![0, 2], vec![]));
        assert_eq!(looked_at([erased(), erased(), erased(), here(), here()]), (vec![], vec![1]));
        let away = Body::Missing("unavailable");
        assert_eq!(looked_at([erased(), away, erased(), here(), here()]), (vec![], vec![]), "another finding");
    }
}
