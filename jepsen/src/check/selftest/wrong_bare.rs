//! Wrongs of counters, registers and lease scopes.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::story::Story;
use crate::history::{Ended, Function, Op};

/// Indices of acked operations of a kind, on keys of a kind.
fn acked(story: &Story, function: Function, prefix: &str) -> Vec<usize> {
    let fits = |op: &Op| op.f == function && op.ended == Ended::Ok && op.key.starts_with(prefix);
    (0..story.ops.len()).filter(|index| fits(&story.ops[*index])).collect()
}

/// One of them that passes a test.
fn pick(rng: &mut StdRng, indices: &[usize], fits: impl Fn(usize) -> bool) -> Option<usize> {
    let fitting: Vec<usize> = indices.iter().copied().filter(|index| fits(*index)).collect();
    fitting.choose(rng).copied()
}

/// A pair on one key, the first of which ended before the second was called.
fn in_time(story: &Story, rng: &mut StdRng, firsts: &[usize], seconds: &[usize]) -> Option<(usize, usize)> {
    let follows = |first: &Op, second: &Op| first.key == second.key && first.ret < second.call;
    let has_second = |first| seconds.iter().any(|second| follows(&story.ops[first], &story.ops[*second]));
    let first = pick(rng, firsts, has_second)?;
    let second = pick(rng, seconds, |second| follows(&story.ops[first], &story.ops[second]))?;
    Some((first, second))
}

pub(super) fn number_twice(story: &mut Story, rng: &mut StdRng) -> bool {
    let numbers = acked(story, Function::Next, "counter");
    let Some((first, second)) = in_time(story, rng, &numbers, &numbers) else { return false };
    story.ops[second].seq = story.ops[first].seq;
    true
}

pub(super) fn number_late(story: &mut Story, rng: &mut StdRng) -> bool {
    let numbers = acked(story, Function::Next, "counter");
    let Some((first, second)) = in_time(story, rng, &numbers, &numbers) else { return false };
    let seq = story.ops[first].seq;
    story.ops[first].seq = story.ops[second].seq;
    story.ops[second].seq = seq;
    true
}

pub(super) fn max_too_low(story: &mut Story, rng: &mut StdRng) -> bool {
    let (numbers, maxima) = (acked(story, Function::Next, "counter"), acked(story, Function::Maxseq, "counter"));
    let Some((first, second)) = in_time(story, rng, &numbers, &maxima) else { return false };
    story.ops[second].seq = story.ops[first].seq;
    true
}

pub(super) fn max_too_high(story: &mut Story, rng: &mut StdRng) -> bool {
    let (numbers, maxima) = (acked(story, Function::Next, "counter"), acked(story, Function::Maxseq, "counter"));
    let Some((first, second)) = in_time(story, rng, &maxima, &numbers) else { return false };
    story.ops[first].seq = story.ops[second].seq.map(|seq| seq + 1);
    true
}

pub(super) fn stale_register(story: &mut Story, rng: &mut StdRng) -> bool {
    let reads = acked(story, Function::Read, "register");
    let Some((first, second)) = in_time(story, rng, &reads, &reads) else { return false };
    // All values of a register differ, and the initial one is gone once another was read.
    if story.ops[first].seq == Some(0) || story.ops[first].seq == story.ops[second].seq {
        return false;
    }
    story.ops[second].seq = Some(0);
    true
}

pub(super) fn false_cas(story: &mut Story, rng: &mut StdRng) -> bool {
    let swaps = acked(story, Function::Cas, "register");
    let Some(swap) = pick(rng, &swaps, |_| true) else { return false };
    story.ops[swap].old = Some(1_000_000);
    true
}

pub(super) fn overlap(story: &mut Story, rng: &mut StdRng) -> bool {
    let grants = acked(story, Function::Lease, "scope");
    let Some(grant) = pick(rng, &grants, |index| story.ops[index].lo > Some(1)) else { return false };
    story.ops[grant].lo = story.ops[grant].lo.map(|lo| lo - 1);
    true
}

pub(super) fn epoch_falls(story: &mut Story, rng: &mut StdRng) -> bool {
    let grants = acked(story, Function::Lease, "scope");
    let Some(grant) = pick(rng, &grants, |index| {
        let op = &story.ops[index];
        // One that has grants of its own or a newer epoch below it.
        op.epoch > Some(1) && grants.iter().any(|other| story.ops[*other].key == op.key && story.ops[*other].lo < op.lo)
    }) else {
        return false;
    };
    story.ops[grant].epoch = Some(0);
    true
}

pub(super) fn fenced_accepted(story: &mut Story, rng: &mut StdRng) -> bool {
    let refused = acked(story, Function::Commit, "scope");
    let Some(commit) = pick(rng, &refused, |index| {
        let op = &story.ops[index];
        // Surely later than the grant of the newer epoch.
        let is_late = story.ops.iter().any(|grant| {
            grant.key == op.key && grant.f == Function::Lease && grant.epoch > op.epoch && grant.ret < op.call
        });
        op.reject == Some(true) && is_late
    }) else {
        return false;
    };
    story.ops[commit].reject = Some(false);
    true
}

pub(super) fn beyond_range(story: &mut Story, rng: &mut StdRng) -> bool {
    let commits = acked(story, Function::Commit, "scope");
    let Some(commit) = pick(rng, &commits, |index| story.ops[index].reject == Some(false)) else { return false };
    story.ops[commit].seq = Some(1_000_000 + rng.random_range(0..100));
    true
}

pub(super) fn newest_refused(story: &mut Story, rng: &mut StdRng) -> bool {
    let commits = acked(story, Function::Commit, "scope");
    let Some(commit) = pick(rng, &commits, |index| {
        let op = &story.ops[index];
        let is_newest = story.ops.iter().all(|grant| {
            grant.key != op.key || grant.f != Function::Lease || grant.epoch <= op.epoch || grant.call > op.ret
        });
        op.reject == Some(false) && is_newest
    }) else {
        return false;
    };
    story.ops[commit].reject = Some(true);
    true
}
