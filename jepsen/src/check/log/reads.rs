//! Reads: what a reader was given is exactly what lies there.
//!
//! Seqs are given in the order of commits, so whatever lies below the last entry of a read was there when it was read:
//! if it is missing, it was lost, or it came late. What lies above a whole read is a matter of time ([`super::order`]).

use std::ops::Range;

use super::sends::Log;
use super::shown::Shown;
use crate::check::rule::Rule;
use crate::check::tape::Track;
use crate::check::verdict::Findings;
use crate::history::Function;

/// Compares each read with the truth.
pub(super) fn check(log: &Log<'_>, truth: &[(u64, usize)], shown: &[Shown<'_>], findings: &mut Findings) {
    for read in shown.iter().filter(|read| read.is_read) {
        check_form(log, read, findings);
        let Some(last) = read.last() else { continue };
        let covered = &truth[range(truth, read.from..last.saturating_add(1))];
        if covered.len() > read.items.len() {
            tell_missing(log, read, covered, shown, findings);
        }
    }
}

/// Rising, not below what was asked for, not more than was asked for.
fn check_form(log: &Log<'_>, read: &Shown<'_>, findings: &mut Findings) {
    let key = &log.track.key;
    if let Some(pair) = read.items.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        findings.add(Rule::I8, key, read.ret, || {
            let text = format!("a read gives seq {} and then seq {}", pair[0].0, pair[1].0);
            (text, vec![read.evidence(pair[0].0)])
        });
    }
    if let Some((seq, _)) = read.items.iter().find(|(seq, _)| *seq < read.from) {
        findings.add(Rule::I12, key, read.ret, || {
            (format!("a read from seq {} gives seq {seq}", read.from), vec![read.evidence(*seq)])
        });
    }
    if read.limit > 0 && read.items.len() as u64 > read.limit {
        findings.add(Rule::I12, key, read.ret, || {
            let text = format!("a read of at most {} entries gives {}", read.limit, read.items.len());
            (text, vec![read.evidence(read.from)])
        });
    }
}

fn tell_missing(
    log: &Log<'_>,
    read: &Shown<'_>,
    covered: &[(u64, usize)],
    shown: &[Shown<'_>],
    findings: &mut Findings,
) {
    let mut given: Vec<u64> = read.items.iter().map(|(seq, _)| *seq).collect();
    given.sort_unstable();
    let missing: Vec<_> = covered.iter().filter(|(seq, _)| given.binary_search(seq).is_err()).collect();
    // An acked one is the clearest.
    let acked = missing.iter().find(|(_, place)| log.sends[*place].ret < read.call);
    let Some((seq, place)) = acked.or_else(|| missing.first()) else { return };
    let rule = if acked.is_some() { Rule::S4 } else { Rule::V1 };
    findings.add(rule, &log.track.key, read.ret, || {
        let id = log.sends[*place].id;
        let text = match rule {
            Rule::S4 => format!("message {id} was acked at seq {seq} and is missing in a later read"),
            _ => format!("message {id} lies at seq {seq} and is missing in a read that goes beyond"),
        };
        let others = match missing.len() - 1 {
            0 => String::new(),
            1 => ", as is another".to_owned(),
            others => format!(", as are {others} others"),
        };
        // Without an ack it is known from somebody whom it was shown to.
        let witness = shown.iter().find(|other| acked.is_none() && other.items.iter().any(|item| item.0 == *seq));
        let evidence = log.attempts(*place).into_iter().chain(witness.map(|other| other.evidence(*seq)));
        (text + &others, evidence.chain([read.evidence(*seq)]).collect())
    });
}

/// Was all of the conversation read after its last append had ended?
pub(super) fn is_read_in_full(track: &Track, truth: &[(u64, usize)], shown: &[Shown<'_>]) -> bool {
    let appends = track.ops.iter().filter(|noted| noted.op.f == Function::Append);
    let ended = appends.map(|noted| noted.op.ret).max().unwrap_or(0);
    let first = truth.first().map_or(u64::MAX, |(seq, _)| *seq);
    shown.iter().any(|read| read.is_whole() && read.call >= ended && read.from <= first)
}

/// Where the seqs of a range lie in the truth.
fn range(truth: &[(u64, usize)], seqs: Range<u64>) -> Range<usize> {
    let start = truth.partition_point(|(seq, _)| *seq < seqs.start);
    let end = truth.partition_point(|(seq, _)| *seq < seqs.end);
    start..end.max(start)
}
