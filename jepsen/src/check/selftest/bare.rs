//! Bare: made-up counters, registers and lease scopes. Each operation takes effect at one moment between its call and
//! its return, and the moments pass one after another.

use rand::RngExt;
use rand::rngs::StdRng;

use super::story::{Story, around};
use crate::history::{Ended, Function, Op, Seen};

/// Time between two moments; shorter than operations last, so that they overlap.
const STEP: u64 = 60;
const STEPS: u64 = 120;

/// Tells what happened.
pub(super) fn tell(rng: &mut StdRng, story: &mut Story) {
    for number in 0..2 {
        counter(rng, &format!("counter-{number}"), story);
        register(rng, &format!("register-{number}"), story);
        scope(rng, &format!("scope-{number}"), story);
    }
    for number in 0..4 {
        let what = format!("history of a stranger, attempt {number}");
        story.seen.push(Seen::Denied { proc: 900, what, at: number, refused: true, code: "NOT_FOUND".to_owned() });
    }
}

/// Of three that are not acked one had no effect, one had, and one had and will be seen.
fn ended(rng: &mut StdRng) -> Ended {
    match rng.random_range(0..20) {
        0 => Ended::Fail,
        1 | 2 => Ended::Info,
        _ => Ended::Ok,
    }
}

fn counter(rng: &mut StdRng, key: &str, story: &mut Story) {
    let mut next = 1;
    for step in 1..=STEPS {
        let interval = around(rng, 1_000 + step * STEP);
        let ended = ended(rng);
        if rng.random_ratio(1, 6) {
            let seq = (ended == Ended::Ok).then_some(next);
            story.ops.push(Op { seq, ..Op::new(step, key, Function::Maxseq, interval, ended) });
            continue;
        }
        let seq = (ended == Ended::Ok).then_some(next);
        story.ops.push(Op { seq, ..Op::new(step, key, Function::Next, interval, ended) });
        // A lost answer may have taken a number; a new segment skips some.
        if ended == Ended::Ok || rng.random_bool(0.5) {
            next += 1;
        }
        if rng.random_ratio(1, 15) {
            next += rng.random_range(1..50);
        }
    }
}

fn register(rng: &mut StdRng, key: &str, story: &mut Story) {
    let mut value = 0;
    for step in 1..=STEPS {
        let interval = around(rng, 1_000 + step * STEP);
        let ended = ended(rng);
        let took_effect = match ended {
            Ended::Ok => true,
            Ended::Info => rng.random_bool(0.5),
            Ended::Fail => false,
        };
        let op = match rng.random_range(0..4) {
            0 | 1 => {
                let seq = (ended == Ended::Ok).then_some(value);
                Op { seq, ..Op::new(step, key, Function::Read, interval, ended) }
            }
            2 => Op { seq: Some(step), ..Op::new(step, key, Function::Write, interval, ended) },
            _ => Op { seq: Some(step), old: Some(value), ..Op::new(step, key, Function::Cas, interval, ended) },
        };
        if took_effect && op.f != Function::Read {
            value = step;
        }
        story.ops.push(op);
    }
}

fn scope(rng: &mut StdRng, key: &str, story: &mut Story) {
    let (mut epoch, mut end, mut last) = (0, 1, 0);
    let mut start = 1;
    for step in 1..=STEPS {
        let interval = around(rng, 1_000 + step * STEP);
        if epoch == 0 || rng.random_ratio(1, 8) {
            // A new epoch begins above everything; the same one goes on behind its last segment.
            let is_new = epoch == 0 || rng.random_bool(0.6);
            if is_new {
                epoch += 1;
                start = end;
            }
            let (lo, hi) = (end, end + rng.random_range(20..40));
            end = hi;
            let granted = Op {
                epoch: Some(epoch),
                lo: Some(lo),
                hi: Some(hi),
                ..Op::new(step, key, Function::Lease, interval, Ended::Ok)
            };
            story.ops.push(granted);
            continue;
        }
        let ended = ended(rng);
        let commit = |epoch, seq| Op {
            epoch: Some(epoch),
            seq: Some(seq),
            ..Op::new(step, key, Function::Commit, interval, ended)
        };
        let older = rng.random_ratio(1, 5) && epoch > 1;
        let next = last.max(start - 1) + 1;
        if older {
            let reject = (ended == Ended::Ok).then_some(true);
            story.ops.push(Op { reject, ..commit(epoch - 1, start - 1) });
        } else if next < end {
            let reject = (ended == Ended::Ok).then_some(false);
            story.ops.push(Op { reject, ..commit(epoch, next) });
            if ended != Ended::Fail {
                last = next;
            }
        }
    }
}
