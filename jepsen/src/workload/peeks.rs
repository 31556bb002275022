//! Peeks: pages of a group's history, as those read it who come and go. Judged in the end, when the group itself says
//! who was a member when: a page of `[from, upto)` must hold all of his newest stay in it, and nothing outside his stays.
//! Who comes again may find his stay of before gone: the product keeps stays that are over for a while only.
//!
//! The files of a run hold whole readings only, so this is judged here.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;
use seriatim_client::{Client, Entry};
use seriatim_proto::ids::{ConversationId, ConversationKey, Seq, UserId};
use tracing::debug;

use super::owed::{self, Stays};
use super::stage::Stage;
use seriatim_client::Conversation;

/// Peeks that are kept.
const PEEKS_MAX: usize = 200_000;
/// How far before the last known entry a peek begins, at most.
const BACK_MAX: u64 = 40;

/// A page that was given.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Peek {
    pub(crate) group: ConversationKey,
    pub(crate) user: UserId,
    pub(crate) from: u64,
    pub(crate) upto: u64,
    pub(crate) seqs: Vec<u64>,
    /// when it was asked and given, ns
    pub(crate) interval: (u64, u64),
}

/// Reads one page near `last_seq`. Answers the end of the page, if there was one.
pub(crate) async fn peek(
    stage: &Stage,
    rng: &mut StdRng,
    client: &Client,
    user: &UserId,
    group: ConversationKey,
    last_seq: u64,
) -> Option<u64> {
    let from = Seq::new(last_seq.saturating_sub(rng.random_range(0..BACK_MAX)).max(1))?;
    let call = stage.clock.now();
    let page = match client.history(&Conversation::Group(group), Some(from), 0).await {
        Ok(page) => page,
        Err(error) => {
            debug!(%error, "no peek");
            return None;
        }
    };
    let seqs = page.entries.iter().map(|entry| entry.conversation_seq.get()).collect();
    let interval = (call, stage.clock.now());
    let (from, upto) = (from.get(), page.upto.get());
    let mut peeks = stage.peeks.lock();
    if peeks.len() < PEEKS_MAX {
        peeks.push(Peek { group, user: user.clone(), from, upto, seqs, interval });
    }
    Some(upto)
}

/// Judges all peeks.
pub(crate) fn judge(stage: &Stage, conversations: &BTreeMap<ConversationId, Vec<Entry>>) {
    let peeks = std::mem::take(&mut *stage.peeks.lock());
    let groups: BTreeMap<ConversationKey, (Stays, Vec<u64>)> = conversations
        .iter()
        .filter_map(|(conversation, entries)| match conversation {
            ConversationId::Group(key) => {
                let seqs = entries.iter().map(|entry| entry.conversation_seq.get()).collect();
                Some((*key, (owed::stays(conversation, entries), seqs)))
            }
            ConversationId::Direct(..) => None,
        })
        .collect();
    for peek in &peeks {
        // A group that could not be read in the end is a finding by itself.
        let Some((stays, seqs)) = groups.get(&peek.group).filter(|(_, seqs)| !seqs.is_empty()) else { continue };
        if let Some(finding) = wrong(peek, stays, seqs) {
            stage.find(finding);
        }
    }
    debug!(count = peeks.len(), "peeks judged");
}

/// What is wrong with a peek.
fn wrong(peek: &Peek, stays: &Stays, seqs: &[u64]) -> Option<String> {
    let owed = |seq: u64| stays.covers(&peek.user, seq);
    let Peek { group, user, from, upto, interval: (call, ret), .. } = peek;
    let page = format!("a page [{from}, {upto}) of group:{group}, asked at {call} ns and given to {user} at {ret} ns");
    if let Some(foreign) = peek.seqs.iter().find(|seq| !owed(**seq)) {
        return Some(format!("A1: {page}, shows {foreign}, which is outside his stays {}", stays.text(user)));
    }
    let within = seqs.iter().filter(|seq| (*from..*upto).contains(*seq));
    let mut missing = within.filter(|seq| !peek.seqs.contains(seq));
    let missing = missing.find(|seq| stays.newest_covers(user, *upto, **seq))?;
    Some(format!("I12: {page}, lacks {missing}, which is within his newest stay {}", stays.text(user)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peek(from: u64, upto: u64, seqs: &[u64]) -> Peek {
        let user = UserId::new("carl").unwrap();
        Peek { group: ConversationKey([1; 16]), user, from, upto, seqs: seqs.to_vec(), interval: (0, 1) }
    }

    #[test]
    fn a_page_holds_what_its_reader_is_owed_and_nothing_else() {
        let carl = UserId::new("carl").unwrap();
        let stays = Stays::of([(carl, vec![(3, Some(5)), (8, None)])]);
        let seqs: Vec<u64> = (1..=10).collect();
        let wrong = |peek: Peek| wrong(&peek, &stays, &seqs);
        assert_eq!(wrong(peek(1, 11, &[3, 4, 5, 8, 9, 10])), None);
        assert_eq!(wrong(peek(4, 9, &[4, 5, 8])), None);
        assert!(wrong(peek(1, 11, &[3, 4, 5, 6, 8, 9, 10])).unwrap().starts_with("A1"));
        assert_eq!(wrong(peek(1, 11, &[8, 9, 10])), None, "the stay of before may be gone");
        assert!(wrong(peek(1, 8, &[3, 4])).unwrap().contains("lacks 5"));
        assert!(wrong(peek(1, 11, &[3, 4, 5, 8, 10])).unwrap().starts_with("I12"));
        assert!(wrong(peek(1, 9, &[3, 4, 5])).unwrap().contains("lacks 8"));
    }
}
