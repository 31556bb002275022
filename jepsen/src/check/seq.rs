//! Seq: one counter. Its numbers are their own order.
//!
//! A `maxseq` m lies before the number m: everything answered before it is below m, nothing asked for later is. A
//! number whose answer was lost is nobody's, and is no constraint.
//!
//! # Invariants
//! S1 (I1): no number twice, whatever clocks do. S3 (I2): real-time order. V4: maxseq.

use std::collections::HashSet;

use super::clocks::BentClocks;
use super::order::{Placed, sweep};
use super::rule::Rule;
use super::tape::Track;
use super::verdict::Findings;
use crate::history::{Ended, Function};

const BEFORE: u8 = 0;
const AT: u8 = 1;

/// Judges a counter. Answers how much was out of order while a clock was further off than is allowed for.
pub(crate) fn check(track: &Track, clocks: &BentClocks, findings: &mut Findings) -> u64 {
    let mut excused = 0;
    let mut placed: Vec<Placed<(Function, usize)>> = Vec::with_capacity(track.ops.len());
    for (index, noted) in track.ops.iter().enumerate() {
        let op = &noted.op;
        let (Ended::Ok, Some(seq)) = (op.ended, op.seq) else { continue };
        let rank = if op.f == Function::Maxseq { BEFORE } else { AT };
        placed.push(Placed { place: (seq, rank), call: op.call, ret: op.ret, what: (op.f, index) });
    }
    placed.sort_by_key(|one| one.place);
    for pair in placed.windows(2) {
        if pair[0].place == pair[1].place && pair[0].what.0 != Function::Maxseq {
            findings.add(Rule::S1, &track.key, pair[1].ret, || {
                let evidence = pair.iter().map(|one| track.evidence(one.what.1)).collect();
                (format!("number {} was given out twice", pair[0].place.0), evidence)
            });
        }
    }
    // Numbers among each other first: what contradicts there is not told again with a maxseq.
    let numbers = placed.iter().filter(|one| one.what.0 != Function::Maxseq).copied().collect();
    let mut told = HashSet::new();
    sweep(numbers, |breach| {
        let (low, high) = (breach.low, breach.high);
        told.insert(high.what.1);
        if clocks.excuse(&breach) {
            excused += 1;
            return;
        }
        findings.add(Rule::S3, &track.key, high.ret, || {
            let text = format!("number {} was answered before {} was asked for", high.place.0, low.place.0);
            (text, vec![track.evidence(high.what.1), track.evidence(low.what.1)])
        });
    });
    sweep(placed, |breach| {
        let (low, high) = (breach.low, breach.high);
        if told.contains(&high.what.1) {
            return;
        }
        if clocks.excuse(&breach) {
            excused += 1;
            return;
        }
        let text = match (low.what.0, high.what.0) {
            (Function::Maxseq, Function::Maxseq) => format!("maxseq fell from {} to {}", high.place.0, low.place.0),
            (Function::Maxseq, _) => {
                format!("maxseq is {}, but {} had been answered before", low.place.0, high.place.0)
            }
            _ => format!("maxseq was {}, but {} was asked for later", high.place.0, low.place.0),
        };
        findings.add(Rule::V4, &track.key, high.ret, || {
            (text, vec![track.evidence(high.what.1), track.evidence(low.what.1)])
        });
    });
    excused
}
