//! Order of a conversation: sends, reads and maxseqs at their places, against real time.
//!
//! | what | place | began | ended |
//! |---|---|---|---|
//! | a send | its seq | first attempt that may have worked | first ack |
//! | a read of everything above `from` | behind its last entry | call | ret |
//! | the same without entries | before `from` | call | never: anywhere below would do |
//! | a read that stopped at its limit, a sighting | behind its last entry | 0: what lies above is not its business | ret |
//! | a maxseq m | behind m | call | ret |

use std::collections::HashSet;

use super::sends::Log;
use super::shown::Shown;
use crate::check::order::{Breach, Placed, sweep};
use crate::check::rule::Rule;
use crate::check::verdict::{Evidence, Findings};
use crate::history::{Ended, Function};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum What {
    /// index of the send
    Send(usize),
    /// index of the read
    Read(usize),
    /// index of the operation, and its answer
    Max(usize, u64),
}

const BEFORE: u8 = 0;
const AT: u8 = 1;
const BEHIND: u8 = 2;

/// Sweeps the conversation.
pub(super) fn check(log: &Log<'_>, shown: &[Shown<'_>], findings: &mut Findings) {
    let sends = log.sends.iter().enumerate().filter_map(|(index, send)| {
        // One that failed for sure and is shown was told already.
        let call = if send.call == u64::MAX { 0 } else { send.call };
        send.seq.map(|seq| Placed { place: (seq, AT), call, ret: send.ret, what: What::Send(index) })
    });
    let reads = shown.iter().enumerate().filter_map(|(index, read)| place_read(index, read));
    let sends: Vec<_> = sends.collect();
    // Sends among each other first: what contradicts there is not told again with the reads.
    let mut told = HashSet::new();
    sweep(sends.clone(), |breach| {
        told.insert(breach.high.what);
        tell(log, shown, breach, findings);
    });
    let placed = sends.into_iter().chain(reads).chain(maxima(log)).collect();
    sweep(placed, |breach: Breach<What>| {
        if !told.contains(&breach.high.what) {
            tell(log, shown, breach, findings);
        }
    });
    check_maxima(log, shown, findings);
}

fn place_read(index: usize, read: &Shown<'_>) -> Option<Placed<What>> {
    let what = What::Read(index);
    match (read.last(), read.is_whole()) {
        (Some(last), whole) => {
            Some(Placed { place: (last, BEHIND), call: if whole { read.call } else { 0 }, ret: read.ret, what })
        }
        (None, true) => Some(Placed { place: (read.from, BEFORE), call: read.call, ret: u64::MAX, what }),
        (None, false) => None,
    }
}

/// Answered maxseqs at their places.
fn maxima<'a>(log: &'a Log<'_>) -> impl Iterator<Item = Placed<What>> + 'a {
    log.track.ops.iter().enumerate().filter_map(|(index, noted)| {
        let op = &noted.op;
        let max = op.seq.filter(|_| op.f == Function::Maxseq && op.ended == Ended::Ok)?;
        Some(Placed { place: (max, BEHIND), call: op.call, ret: op.ret, what: What::Max(index, max) })
    })
}

/// A maxseq is not above all that could have been there: the highest seq of the sends that began before it ended.
fn check_maxima(log: &Log<'_>, shown: &[Shown<'_>], findings: &mut Findings) {
    let unplaced = log.sends.iter().any(|send| send.seq.is_none() && send.call != u64::MAX);
    // A send that took effect unseen could be what it speaks of, unless all was read in the end.
    if unplaced && !super::reads::is_read_in_full(log.track, &log.truth(), shown) {
        return;
    }
    let mut begun: Vec<(u64, u64)> = log.sends.iter().filter_map(|send| Some((send.call, send.seq?))).collect();
    begun.sort_unstable();
    let mut highest = 0;
    for (_, seq) in &mut begun {
        highest = highest.max(*seq);
        *seq = highest;
    }
    for max in maxima(log) {
        let What::Max(index, answer) = max.what else { continue };
        let count = begun.partition_point(|(call, _)| *call <= max.ret);
        let highest = count.checked_sub(1).map_or(0, |last| begun[last].1);
        if answer > highest {
            findings.add(Rule::V4, &log.track.key, max.ret, || {
                let text = format!("maxseq is {answer}, above {highest}, the highest that had been sent");
                (text, vec![log.track.evidence(index)])
            });
        }
    }
}

fn tell(log: &Log<'_>, shown: &[Shown<'_>], breach: Breach<What>, findings: &mut Findings) {
    let (low, high) = (breach.low, breach.high);
    let (rule, text) = match (low.what, high.what) {
        // Shown before it was sent: told with the send.
        (What::Send(_), What::Read(read)) if shown[read].last() == Some(low.place.0) => return,
        (What::Max(..), _) | (_, What::Max(..)) => (Rule::V4, "a maxseq contradicts the order of time".to_owned()),
        (What::Send(_), What::Send(_)) => {
            (Rule::S3, format!("seq {} was acked before seq {} was sent", high.place.0, low.place.0))
        }
        (What::Read(_), What::Send(_)) => {
            (Rule::S4, format!("seq {} was acked before a read that does not show it was called", high.place.0))
        }
        (What::Read(_), What::Read(_)) => {
            (Rule::V1, format!("seq {} was shown before a read that does not show it was called", high.place.0))
        }
        (What::Send(_), What::Read(_)) => {
            (Rule::V1, format!("seq {} was sent after a read up to seq {} had ended", low.place.0, high.place.0))
        }
    };
    findings.add(rule, &log.track.key, high.ret, || {
        let evidence = [high, low].into_iter().filter_map(|placed| evidence(log, shown, placed));
        (text, evidence.collect())
    });
}

fn evidence(log: &Log<'_>, shown: &[Shown<'_>], placed: Placed<What>) -> Option<Evidence> {
    match placed.what {
        What::Send(index) => log.attempts(index),
        What::Read(index) => Some(shown[index].evidence(placed.place.0)),
        What::Max(index, _) => Some(log.track.evidence(index)),
    }
}
