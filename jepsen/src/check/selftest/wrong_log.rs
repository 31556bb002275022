//! Wrongs of conversations, as their senders and readers see them.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::story::Story;
use crate::history::{Ended, Function, Item, Op, Seen, SeenEntry};

fn all(story: &Story, fits: impl Fn(&Op) -> bool) -> Vec<usize> {
    (0..story.ops.len()).filter(|index| fits(&story.ops[*index])).collect()
}

fn is_acked(op: &Op) -> bool {
    op.f == Function::Append && op.ended == Ended::Ok
}

fn items(op: &Op) -> &[Item] {
    op.items.as_deref().unwrap_or_default()
}

/// Keeps those entries of all that anybody was given that pass.
pub(super) fn retain(story: &mut Story, keep: impl Fn(&SeenEntry) -> bool) {
    story.seen.retain(|seen| !matches!(seen, Seen::Push { entry, .. } if !keep(entry)));
    for seen in &mut story.seen {
        if let Seen::Page { entries, .. } = seen {
            entries.retain(&keep);
        }
    }
    for read in &mut story.reads {
        read.entries.retain(&keep);
    }
}

pub(super) fn lose_acked(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(lost) = all(story, is_acked).choose(rng).copied() else { return false };
    let id = story.ops[lost].id.clone().unwrap_or_default();
    for op in &mut story.ops {
        if let Some(items) = &mut op.items {
            items.retain(|item| item.id != id);
        }
    }
    retain(story, |entry| entry.id != id);
    true
}

pub(super) fn double_seq(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(one) = all(story, is_acked).choose(rng).copied() else { return false };
    let is_other = |op: &Op| is_acked(op) && op.key == story.ops[one].key && op.id != story.ops[one].id;
    let Some(other) = all(story, is_other).choose(rng).copied() else { return false };
    // Its own acks agree with one another.
    let (id, seq) = (story.ops[one].id.clone(), story.ops[other].seq);
    for op in story.ops.iter_mut().filter(|op| is_acked(op) && op.id == id) {
        op.seq = seq;
    }
    true
}

pub(super) fn second_seq(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(first) = all(story, is_acked).choose(rng).copied() else { return false };
    let op = &story.ops[first];
    let interval = (op.ret + 10, op.ret + 20);
    let again = Op { call: interval.0, ret: interval.1, seq: Some(900_000), ..op.clone() };
    story.ops.push(again);
    true
}

pub(super) fn stale_read(story: &mut Story, rng: &mut StdRng) -> bool {
    // The last entry had been acked before.
    let is_stale = |op: &Op| {
        let Some(last) = items(op).last().filter(|_| op.limit == Some(0)) else { return false };
        story.ops.iter().any(|ack| is_acked(ack) && ack.key == op.key && ack.seq == Some(last.seq) && ack.ret < op.call)
    };
    let Some(read) = all(story, is_stale).choose(rng).copied() else { return false };
    let op = &mut story.ops[read];
    let count = items(op).len();
    op.items.as_mut().expect("it has a last").truncate(count - rng.random_range(1..=count.min(3)));
    true
}

pub(super) fn swap_entries(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(read) = all(story, |op| items(op).len() > 1).choose(rng).copied() else { return false };
    let items = story.ops[read].items.as_mut().expect("it has two");
    let place = rng.random_range(1..items.len());
    items.swap(place - 1, place);
    true
}

pub(super) fn hole(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(read) = all(story, |op| items(op).len() > 2).choose(rng).copied() else { return false };
    let items = story.ops[read].items.as_mut().expect("it has three");
    items.remove(rng.random_range(0..items.len() - 1));
    true
}

pub(super) fn phantom(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(read) = all(story, |op| op.f == Function::Sync && op.limit == Some(0)).choose(rng).copied() else {
        return false;
    };
    let op = &mut story.ops[read];
    let last = items(op).last().map_or_else(|| op.from.unwrap_or(1), |item| item.seq);
    op.items.get_or_insert_default().push(Item { seq: last + 1_000, id: "nobody's".to_owned() });
    true
}

pub(super) fn shown_too_early(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(read) = all(story, |op| !items(op).is_empty()).choose(rng).copied() else { return false };
    let (id, key) = (items(&story.ops[read])[0].id.clone(), story.ops[read].key.clone());
    let later = story.ops[read].ret + 1;
    let mut moved = false;
    for op in story.ops.iter_mut().filter(|op| op.key == key && op.id.as_ref() == Some(&id)) {
        let length = op.ret - op.call;
        op.call = op.call.max(later);
        op.ret = op.call + length;
        moved = true;
    }
    moved
}

pub(super) fn failed_is_shown(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(read) = all(story, |op| !items(op).is_empty()).choose(rng).copied() else { return false };
    let (id, key) = (items(&story.ops[read])[0].id.clone(), story.ops[read].key.clone());
    let mut failed = false;
    for op in story.ops.iter_mut().filter(|op| op.key == key && op.id.as_ref() == Some(&id)) {
        (op.ended, op.seq) = (Ended::Fail, None);
        failed = true;
    }
    failed
}

pub(super) fn late_below(story: &mut Story, rng: &mut StdRng) -> bool {
    // The higher one is sent and acked before anything else.
    let has_lower = |op: &Op| {
        is_acked(op)
            && story.ops.iter().any(|low| is_acked(low) && low.key == op.key && low.seq < op.seq && low.call > 1)
    };
    let Some(high) = all(story, has_lower).choose(rng).copied() else { return false };
    (story.ops[high].call, story.ops[high].ret) = (0, 1);
    true
}

pub(super) fn below_from(story: &mut Story, rng: &mut StdRng) -> bool {
    let Some(read) = all(story, |op| !items(op).is_empty()).choose(rng).copied() else { return false };
    let op = &mut story.ops[read];
    op.from = Some(items(op)[0].seq + 1);
    true
}

pub(super) fn max_too_low(story: &mut Story, rng: &mut StdRng) -> bool {
    let is_late = |op: &Op| {
        let was_acked = |ack: &Op| is_acked(ack) && ack.key == op.key && ack.ret < op.call;
        op.f == Function::Maxseq && !op.key.starts_with("counter") && story.ops.iter().any(was_acked)
    };
    let Some(max) = all(story, is_late).choose(rng).copied() else { return false };
    story.ops[max].seq = Some(0);
    true
}

pub(super) fn max_too_high(story: &mut Story, rng: &mut StdRng) -> bool {
    let is_max = |op: &Op| op.f == Function::Maxseq && !op.key.starts_with("counter");
    let Some(max) = all(story, is_max).choose(rng).copied() else { return false };
    story.ops[max].seq = Some(800_000);
    true
}
