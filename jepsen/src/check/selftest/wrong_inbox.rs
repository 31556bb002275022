//! Wrongs of inboxes, as devices see them.

use std::collections::HashSet;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::story::Story;
use super::talk::STRANGER;
use crate::history::{Seen, SeenEntry};

fn all(story: &Story, fits: impl Fn(&Seen) -> bool) -> Vec<usize> {
    (0..story.seen.len()).filter(|index| fits(&story.seen[*index])).collect()
}

fn entries(seen: &Seen) -> &[SeenEntry] {
    if let Seen::Page { entries, .. } = seen { entries } else { &[] }
}

fn pick(story: &Story, rng: &mut StdRng, fits: impl Fn(&Seen) -> bool) -> Option<usize> {
    all(story, fits).choose(rng).copied()
}

fn page(story: &Story, rng: &mut StdRng, entries_min: usize) -> Option<usize> {
    pick(story, rng, |seen| entries(seen).len() >= entries_min)
}

fn entries_mut(story: &mut Story, index: usize) -> &mut Vec<SeenEntry> {
    let Seen::Page { entries, .. } = &mut story.seen[index] else { unreachable!("it was picked as a page") };
    entries
}

fn owner(seen: &Seen) -> Option<&str> {
    match seen {
        Seen::Page { user, .. } | Seen::Push { user, .. } | Seen::Cursor { user, .. } => Some(user),
        Seen::Denied { .. } => None,
    }
}

/// Each entry that a user's devices were given.
fn each_of(story: &mut Story, user: &str, mut change: impl FnMut(&mut SeenEntry)) {
    for seen in story.seen.iter_mut().filter(|seen| owner(seen) == Some(user)) {
        match seen {
            Seen::Page { entries, .. } => entries.iter_mut().for_each(&mut change),
            Seen::Push { entry, .. } => change(entry),
            Seen::Cursor { .. } | Seen::Denied { .. } => {}
        }
    }
}

/// Takes entries from all that a user's devices were given.
fn take_from(story: &mut Story, user: &str, keep: impl Fn(&SeenEntry) -> bool) {
    story.seen.retain(|seen| !matches!(seen, Seen::Push { user: owner, entry, .. } if owner == user && !keep(entry)));
    for seen in story.seen.iter_mut().filter(|seen| owner(seen) == Some(user)) {
        if let Seen::Page { entries, .. } = seen {
            entries.retain(&keep);
        }
    }
}

pub(super) fn page_hole(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = page(story, rng, 2) else { return false };
    let entries = entries_mut(story, index);
    entries.remove(rng.random_range(0..entries.len() - 1));
    true
}

pub(super) fn page_short(story: &mut Story, rng: &mut StdRng) -> bool {
    // Its last entry had been seen before, or is seen by others later: one of both is I12.
    let Some(index) =
        pick(story, rng, |seen| matches!(seen, Seen::Page { last: true, entries, .. } if !entries.is_empty()))
    else {
        return false;
    };
    let (user, time) = match &story.seen[index] {
        Seen::Page { user, call, .. } => (user.clone(), *call),
        _ => return false,
    };
    let gone = entries_mut(story, index).pop().expect("it has an entry");
    story.seen.iter().any(|seen| match seen {
        Seen::Page { user: owner, ret, entries, .. } => {
            *owner == user && *ret < time && entries.iter().any(|entry| entry.seq == gone.seq)
        }
        Seen::Push { user: owner, at, entry, .. } => *owner == user && *at < time && entry.seq == gone.seq,
        _ => false,
    })
}

pub(super) fn late_entry(story: &mut Story, rng: &mut StdRng) -> bool {
    let fits = |seen: &Seen| matches!(seen, Seen::Page { last: false, entries, .. } if !entries.is_empty());
    let Some(index) = pick(story, rng, fits) else { return false };
    let Seen::Page { user, call, upto, entries, .. } = &story.seen[index] else { return false };
    let (user, call, upto) = (user.clone(), *call, *upto);
    let Some(late) = entries.choose(rng).and_then(|entry| entry.seq).filter(|seq| *seq < upto) else { return false };
    // Whoever looked before that page was asked for did not see it; somebody does later.
    let mut seen_later = false;
    for (place, seen) in story.seen.iter_mut().enumerate() {
        if let Seen::Page { user: owner, ret, entries, .. } = seen
            && *owner == user
        {
            if place == index || *ret < call {
                entries.retain(|entry| entry.seq != Some(late));
            } else {
                seen_later |= entries.iter().any(|entry| entry.seq == Some(late));
            }
        }
    }
    story.seen.retain(|seen| {
        let is_early = |at: u64, entry: &SeenEntry| at < call && entry.seq == Some(late);
        !matches!(seen, Seen::Push { user: owner, at, entry, .. } if *owner == user && is_early(*at, entry))
    });
    seen_later
}

pub(super) fn undelivered(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = page(story, rng, 1) else { return false };
    let (user, id) = match &story.seen[index] {
        Seen::Page { user, entries, .. } => (user.clone(), entries[0].id.clone()),
        _ => return false,
    };
    take_from(story, &user, |entry| entry.id != id);
    true
}

pub(super) fn delivered_twice(story: &mut Story, rng: &mut StdRng) -> bool {
    let fits = |seen: &Seen| matches!(seen, Seen::Page { last: true, more: false, entries, .. } if !entries.is_empty());
    let Some(index) = pick(story, rng, fits) else { return false };
    let Seen::Page { entries, upto, tail, .. } = &mut story.seen[index] else { return false };
    let last = entries.last().expect("it has an entry").clone();
    let seq = last.seq.map(|seq| seq + 1);
    let ordinal = last.ordinal + u64::from(last.kind == "message");
    entries.push(SeenEntry { seq, prev_seq: last.seq, ordinal, ..last });
    (*upto, *tail) = (*upto + 1, *tail + 1);
    true
}

pub(super) fn stranger(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = page(story, rng, 1) else { return false };
    let entry = entries(&story.seen[index]).choose(rng).expect("it has an entry").clone();
    let theirs = |seen: &Seen| matches!(seen, Seen::Page { user, .. } if user == STRANGER);
    let Some(index) = pick(story, rng, theirs) else { return false };
    entries_mut(story, index).push(SeenEntry { seq: Some(1), prev_seq: None, ..entry });
    true
}

pub(super) fn foreign_reading(story: &mut Story, rng: &mut StdRng) -> bool {
    // Somebody whose stay does not cover all is given all.
    let whole: Vec<_> = story.reads.iter().map(|read| (read.conversation.clone(), read.entries.clone())).collect();
    let longest = |name: &str| {
        whole.iter().filter(|(other, _)| other == name).map(|(_, entries)| entries).max_by_key(|entries| entries.len())
    };
    let parts: Vec<usize> = (0..story.reads.len())
        .filter(|index| {
            let read = &story.reads[*index];
            longest(&read.conversation).is_some_and(|entries| entries.len() > read.entries.len())
        })
        .collect();
    let Some(index) = parts.choose(rng).copied() else { return false };
    let all = longest(&story.reads[index].conversation).expect("it is one itself").clone();
    story.reads[index].entries = all;
    true
}

pub(super) fn out_of_order(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = page(story, rng, 2) else { return false };
    let Some(user) = owner(&story.seen[index]).map(str::to_owned) else { return false };
    let list = entries(&story.seen[index]);
    let pair = list.iter().enumerate().find_map(|(place, one)| {
        let other =
            list[place + 1..].iter().find(|other| other.conversation == one.conversation && other.kind == one.kind)?;
        Some((one.clone(), other.clone()))
    });
    let Some((one, other)) = pair else { return false };
    each_of(story, &user, |entry| {
        let (from, seq, prev_seq, ordinal) = match entry.seq {
            seq if seq == one.seq => (&other, one.seq, one.prev_seq, one.ordinal),
            seq if seq == other.seq => (&one, other.seq, other.prev_seq, other.ordinal),
            _ => return,
        };
        *entry = SeenEntry { seq, prev_seq, ordinal, ..from.clone() };
    });
    true
}

pub(super) fn two_truths(story: &mut Story, rng: &mut StdRng) -> bool {
    // The final sync comes through two gateways.
    let Some(index) =
        pick(story, rng, |seen| matches!(seen, Seen::Page { last: true, entries, .. } if entries.len() > 1))
    else {
        return false;
    };
    let entries = entries_mut(story, index);
    let place = rng.random_range(0..entries.len());
    entries[place].body_hash = "another".to_owned();
    true
}

/// A push that is not the first of its subscription: it, and the one before.
fn second_push(story: &Story, rng: &mut StdRng) -> Option<usize> {
    let mut begun = HashSet::new();
    let mut seconds = Vec::new();
    for (index, seen) in story.seen.iter().enumerate() {
        if let Seen::Push { user, device, session, .. } = seen
            && !begun.insert((user, device, session))
        {
            seconds.push(index);
        }
    }
    seconds.choose(rng).copied()
}

pub(super) fn push_unlinked(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = second_push(story, rng) else { return false };
    let Seen::Push { entry, .. } = &mut story.seen[index] else { return false };
    entry.prev_seq = None;
    true
}

pub(super) fn push_left_out(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = second_push(story, rng) else { return false };
    let Seen::Push { user, device, session, entry, .. } = &story.seen[index] else { return false };
    let (whose, number, prev) = ((user.clone(), device.clone()), *session, entry.prev_seq);
    let before = story.seen[..index].iter().rposition(|seen| {
        matches!(seen, Seen::Push { user, device, session, entry, .. }
            if *user == whose.0 && *device == whose.1 && *session == number && entry.seq == prev)
    });
    let Some(before) = before else { return false };
    // The first of a subscription can be left out only if it should not have been the first.
    let Seen::Push { from, entry, .. } = &story.seen[before] else { return false };
    let is_owed = entry.seq >= Some(*from);
    story.seen.remove(before);
    is_owed
}

pub(super) fn push_twice(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = pick(story, rng, |seen| matches!(seen, Seen::Push { .. })) else { return false };
    let again = story.seen[index].clone();
    story.seen.insert(index, again);
    true
}

pub(super) fn ordinal(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = page(story, rng, 2) else { return false };
    let Some(user) = owner(&story.seen[index]).map(str::to_owned) else { return false };
    let from = entries(&story.seen[index])[1].seq;
    each_of(story, &user, |entry| entry.ordinal += u64::from(entry.seq >= from));
    true
}

pub(super) fn chain(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = page(story, rng, 1) else { return false };
    let Seen::Page { chain_verified, .. } = &mut story.seen[index] else { return false };
    *chain_verified = Some(false);
    true
}

pub(super) fn tail_falls(story: &mut Story, rng: &mut StdRng) -> bool {
    let fits = |seen: &Seen| matches!(seen, Seen::Page { last: true, more: false, entries, .. } if !entries.is_empty());
    let Some(index) = pick(story, rng, fits) else { return false };
    let Seen::Page { user, tail, ret, .. } = &mut story.seen[index] else { return false };
    *tail -= 1;
    let (user, tail, ret) = (user.clone(), *tail, *ret);
    story.seen.push(empty_page(&user, tail, ret + 10));
    // The fall is seen against the other gateway's answer, or against an earlier one.
    story.seen.iter().any(|seen| {
        matches!(seen, Seen::Page { user: owner, tail: other, ret: ended, .. }
        if *owner == user && *other > tail && *ended < ret + 10)
    })
}

fn empty_page(user: &str, tail: u64, call: u64) -> Seen {
    Seen::Page {
        proc: 101,
        user: user.to_owned(),
        device: "phone".to_owned(),
        gateway: "gateway-1".to_owned(),
        call,
        ret: call + 1,
        from: tail,
        upto: tail,
        tail,
        trim: 1,
        more: false,
        too_long: false,
        chain_verified: None,
        last: false,
        entries: Vec::new(),
    }
}

pub(super) fn false_end(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = pick(story, rng, |seen| matches!(seen, Seen::Page { more: true, .. })) else { return false };
    let Seen::Page { more, .. } = &mut story.seen[index] else { return false };
    *more = false;
    true
}

pub(super) fn cursor_back(story: &mut Story, rng: &mut StdRng) -> bool {
    let fits = |seen: &Seen| matches!(seen, Seen::Cursor { answered: Some(answered), .. } if *answered > 1);
    let Some(index) = pick(story, rng, fits) else { return false };
    let mut later = story.seen[index].clone();
    if let Seen::Cursor { call, ret, wanted, answered, .. } = &mut later {
        (*call, *wanted) = (*ret + 1, None);
        (*ret, *answered) = (*call + 1, answered.map(|answered| answered - 1));
    }
    story.seen.push(later);
    true
}

pub(super) fn cursor_ahead(story: &mut Story, rng: &mut StdRng) -> bool {
    let fits = |seen: &Seen| matches!(seen, Seen::Cursor { wanted: None, .. });
    let Some(index) = pick(story, rng, fits) else { return false };
    let Seen::Cursor { answered, .. } = &mut story.seen[index] else { return false };
    *answered = Some(700_000);
    true
}

fn change_body(story: &mut Story, rng: &mut StdRng, change: impl Fn(&mut SeenEntry)) -> bool {
    let is_message = |entry: &SeenEntry| entry.body.is_some();
    let Some(index) = pick(story, rng, |seen| entries(seen).iter().any(is_message)) else { return false };
    let Some(entry) = entries_mut(story, index).iter_mut().find(|entry| is_message(entry)) else { return false };
    change(entry);
    true
}

pub(super) fn body_changed(story: &mut Story, rng: &mut StdRng) -> bool {
    change_body(story, rng, |entry| entry.body.get_or_insert_default().push('!'))
}

pub(super) fn body_unmatched(story: &mut Story, rng: &mut StdRng) -> bool {
    change_body(story, rng, |entry| entry.body_matches = false)
}

pub(super) fn reading_hole(story: &mut Story, rng: &mut StdRng) -> bool {
    // Not the last: one that nobody acked or saw before could have come later.
    let long: Vec<usize> = (0..story.reads.len()).filter(|index| story.reads[*index].entries.len() > 2).collect();
    let Some(index) = long.choose(rng).copied() else { return false };
    let entries = &mut story.reads[index].entries;
    entries.remove(rng.random_range(0..entries.len() - 1));
    true
}

pub(super) fn let_in(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(index) = pick(story, rng, |seen| matches!(seen, Seen::Denied { .. })) else { return false };
    let Seen::Denied { refused, .. } = &mut story.seen[index] else { return false };
    *refused = false;
    true
}
