//! Span: a fault from its injection to its healing, and how the cluster came through.
//!
//! ```text
//!  acked │████████▁▁▁▁▃▅█████████
//!        │        ╵   ╰ back at 80 % of the median before
//!        │        ╰ injected
//! ```

use crate::history::{Act, Effect, Ended, Fault};

use super::series::{SECOND, Series, Write, Writes};

/// How long after an injection the longest silence is looked for.
const GAP_WITHIN: u64 = 15 * SECOND;
/// The rate before a fault is measured over this time.
const BEFORE: u64 = 10 * SECOND;
/// Rates are counted in windows of this length.
const WINDOW: u64 = SECOND / 2;
/// A dip that belongs to a fault begins within this many windows.
const DIP_WINDOWS: u64 = 10;
/// What is asked for up to this long behind the healing of a fault may have to wait because of it.
const ASKED_WITHIN: u64 = 10 * SECOND;
/// So long behind that there must have been load, or nobody can say that an answer never came.
const ANSWERED_WITHIN: u64 = 6 * SECOND;
/// A refusal that came sooner is an answer: somebody is there, who knows. Later, somebody waited in vain.
const PROMPT: u64 = SECOND / 4;
/// A client that asks again within this waited all the time.
const PACE: u64 = SECOND;
/// A recovery is waited for so many windows.
const RECOVERY_WINDOWS: u64 = 120;

/// One fault.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub(super) number: u64,
    pub(super) kind: String,
    pub(super) targets: Vec<String>,
    pub(super) effect: Effect,
    pub(super) detail: String,
    pub(super) began: u64,
    /// healed, or the end of the run
    pub(super) ended: u64,
    pub(super) healed: bool,
}

/// How the cluster came through a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Recovery {
    /// the longest time without an ack behind the injection, ns
    pub(super) gap: u64,
    /// from the injection until the rate was back; 0 if it never fell
    pub(super) back_after: Option<u64>,
    /// how long the conversation or counter that waited longest waited for an ack, from the injection or when it was
    /// asked for; `None` if one was not answered any more, while there was load
    pub(super) slowest: Option<u64>,
}

/// Joins injections and healings.
pub(super) fn join(faults: &[Fault], end: u64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for fault in faults {
        match fault.act {
            Act::Inject => spans.push(Span {
                number: fault.number,
                kind: fault.kind.clone(),
                targets: fault.targets.clone(),
                effect: fault.effect,
                detail: fault.detail.clone(),
                began: fault.began,
                ended: end.max(fault.ended),
                healed: false,
            }),
            Act::Heal => {
                if let Some(span) = spans.iter_mut().find(|span| span.number == fault.number && !span.healed) {
                    (span.ended, span.healed) = (fault.ended, true);
                }
            }
        }
    }
    spans.sort_by_key(|span| (span.began, span.number));
    spans
}

/// How many of the rising times lie in `[from, to)`.
fn count(times: &[u64], from: u64, to: u64) -> u64 {
    (times.partition_point(|time| *time < to) - times.partition_point(|time| *time < from)) as u64
}

/// Measures a recovery; `None` if nothing ran before, or the load ended too soon behind it.
pub(super) fn recovery(span: &Span, series: &Series, load_end: u64) -> Option<Recovery> {
    if span.ended.saturating_add(ASKED_WITHIN + ANSWERED_WITHIN) > load_end {
        return None;
    }
    let acked_at = series.acked_at.as_slice();
    let before = span.began.saturating_sub(BEFORE);
    let mut rates: Vec<u64> = (0..(span.began - before) / WINDOW)
        .map(|window| count(acked_at, before + window * WINDOW, before + (window + 1) * WINDOW))
        .collect();
    rates.sort_unstable();
    let median = rates.get(rates.len() / 2).copied().filter(|median| *median > 0)?;
    // What lies behind the end of the load says nothing.
    let windows = load_end.saturating_sub(span.began) / WINDOW;
    let is_back = |window: u64| {
        let from = span.began + window * WINDOW;
        count(acked_at, from, from + WINDOW) * 10 >= median * 8
    };
    // Healing may cost more than the fault.
    let lasted = (span.ended - span.began) / WINDOW;
    let dip = (0..(lasted + DIP_WINDOWS).min(windows)).find(|window| !is_back(*window));
    let back_after = match dip {
        None => Some(0),
        Some(dip) => {
            let windows = (lasted + RECOVERY_WINDOWS).min(windows);
            (dip..windows).find(|window| is_back(*window)).map(|window| window * WINDOW)
        }
    };
    let slowest = series.writes.values().map(|writes| waited(span, writes, load_end));
    let slowest = slowest.max_by_key(|waited| waited.unwrap_or(u64::MAX)).flatten();
    Some(Recovery { gap: longest_gap(span.began, acked_at, load_end), back_after, slowest })
}

/// How long whoever wrote a key at most waited for an ack of it; `None`: for ever. Who has no answer in the end waits
/// until somebody has one who asked later; the time in which nobody asked does not count.
fn waited(span: &Span, writes: &Writes, load_end: u64) -> Option<u64> {
    let (began, until) = (span.began, span.ended + ASKED_WITHIN);
    let writes = writes.since(began);
    let mut longest = 0;
    for (place, write) in writes.iter().enumerate().take_while(|(_, write)| write.call < until) {
        if write.ret <= began || write.ended == Ended::Fail && write.ret - write.call < PROMPT {
            continue;
        }
        let since = write.call.max(began);
        let waited = match write.ended {
            Ended::Ok => write.ret - since,
            Ended::Fail | Ended::Info => {
                let answered = first_ack(&writes[place..], since).filter(|answered| *answered <= load_end)?;
                asked(&writes[place..], since, answered)
            }
        };
        longest = longest.max(waited);
    }
    Some(longest)
}

/// For how long of this time somebody waited, of writes that rise by call.
fn asked(writes: &[Write], since: u64, answered: u64) -> u64 {
    let (mut asked, mut upto) = (0, since);
    for write in writes.iter().take_while(|write| write.call < answered) {
        let ended = write.ret.min(answered);
        if ended > upto {
            let idle = write.call.saturating_sub(upto);
            asked += ended - upto - if idle > PACE { idle } else { 0 };
            upto = ended;
        }
    }
    asked
}

/// The first ack behind a moment, of writes that rise by call.
fn first_ack(writes: &[Write], since: u64) -> Option<u64> {
    let mut first = None;
    for write in writes {
        if first.is_some_and(|first| first <= write.call) {
            break;
        }
        if write.ended == Ended::Ok && write.ret > since {
            first = Some(first.map_or(write.ret, |first: u64| first.min(write.ret)));
        }
    }
    first
}

/// The longest time without an ack that touches the window behind an injection.
fn longest_gap(began: u64, acked_at: &[u64], load_end: u64) -> u64 {
    let until = (began + GAP_WITHIN).min(load_end).max(began);
    let start = acked_at.partition_point(|time| *time < began);
    let end = acked_at.partition_point(|time| *time < until);
    let mut gap = 0;
    let mut before = began;
    for time in acked_at[start..end.max(start)].iter().copied().chain([until]) {
        gap = gap.max(time.saturating_sub(before));
        before = time;
    }
    gap
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Function, Op};

    const MS: u64 = SECOND / 1_000;

    fn span(began: u64) -> Span {
        let fault = Fault {
            number: 1,
            kind: "kill".to_owned(),
            act: Act::Inject,
            began,
            ended: began,
            targets: vec![],
            effect: Effect::Installed,
            detail: String::new(),
        };
        let healed = Fault { act: Act::Heal, ..fault.clone() };
        join(&[fault, healed], 60 * SECOND).remove(0)
    }

    /// A number of each counter every 10 ms, asked for 5 ms before, but for a silence.
    fn series(counters: &[(&str, std::ops::Range<u64>)]) -> Series {
        let mut series = Series::new(60 * SECOND);
        for (counter, silent) in counters {
            for time in (1..6_000).map(|place| place * 10 * MS).filter(|time| !silent.contains(time)) {
                series.add(&Op::new(1, counter, Function::Next, (time - 5 * MS, time), Ended::Ok));
            }
        }
        series.finish();
        series
    }

    /// How long somebody waited for a counter behind 10 s, by calls, ends and outcomes, ms.
    fn told(writes: &[(u64, u64, Ended)]) -> Option<u64> {
        let writes: Vec<_> =
            writes.iter().map(|(call, ret, ended)| Write { call: call * MS, ret: ret * MS, ended: *ended }).collect();
        waited(&span(10 * SECOND), &Writes::of(writes), 60 * SECOND).map(|waited| waited / MS)
    }

    fn measured(counters: &[(&str, std::ops::Range<u64>)], load_end: u64) -> Recovery {
        recovery(&span(20 * SECOND), &series(counters), load_end).unwrap()
    }

    #[test]
    fn a_silence_is_measured_and_so_is_its_end() {
        let recovery = measured(&[("orders", 20 * SECOND..22 * SECOND + 200 * MS)], 60 * SECOND);
        assert_eq!(recovery.gap, 2_200 * MS);
        assert_eq!(recovery.back_after, Some(2_500 * MS), "the first whole window at the old rate");
        assert_eq!(recovery.slowest, Some(5 * MS), "nobody asked");
    }

    #[test]
    fn what_nobody_noticed_needs_no_recovery() {
        let recovery = measured(&[("orders", 0..0)], 60 * SECOND);
        assert_eq!(recovery, Recovery { gap: 10 * MS, back_after: Some(0), slowest: Some(5 * MS) });
    }

    #[test]
    fn one_key_that_waits_is_seen_among_others_that_do_not() {
        let mut series = series(&[("a", 0..0), ("b", 0..0), ("slow", 0..0)]);
        series.add(&Op::new(2, "slow", Function::Next, (19 * SECOND, 23 * SECOND), Ended::Ok));
        series.finish();
        let recovery = recovery(&span(20 * SECOND), &series, 60 * SECOND).unwrap();
        assert_eq!(recovery, Recovery { gap: 10 * MS, back_after: Some(0), slowest: Some(3 * SECOND) });
    }

    #[test]
    fn one_waits_from_the_injection_or_from_when_he_asked() {
        use Ended::{Fail, Info, Ok};
        assert_eq!(told(&[(9_990, 12_000, Ok)]), Some(2_000), "it was under way");
        assert_eq!(told(&[(10_500, 12_000, Ok), (20_000, 40_000, Ok)]), Some(1_500), "the second one is not its doing");
        assert_eq!(told(&[(9_000, 9_999, Info)]), Some(0), "it was over");
        assert_eq!(told(&[(10_000, 10_800, Info), (10_900, 12_500, Ok)]), Some(2_500), "and asked again");
        assert_eq!(told(&[(10_000, 11_000, Info), (10_100, 10_200, Ok)]), Some(200), "somebody else was answered");
        assert_eq!(told(&[(10_000, 10_800, Info)]), None);
        assert_eq!(told(&[(10_000, 10_050, Fail), (19_000, 19_010, Ok)]), Some(10), "a refusal is an answer");
        assert_eq!(told(&[(10_000, 11_000, Fail), (11_500, 13_010, Ok)]), Some(3_010), "but not after a second");
        // Seed 102: whoever wrote to himself had no answer twice, and tried again twelve seconds later.
        let idle = [(10_090, 10_890, Info), (10_930, 11_780, Fail), (23_660, 23_750, Ok)];
        assert_eq!(told(&idle), Some(1_690 + 90), "nobody asked in between");
        assert_eq!(told(&[(10_000, 10_800, Info), (10_100, 15_000, Info), (14_000, 16_000, Ok)]), Some(6_000));
    }

    #[test]
    fn without_a_rate_before_there_is_nothing_to_say() {
        let late = series(&[("orders", 0..30 * SECOND)]);
        assert_eq!(recovery(&span(20 * SECOND), &late, 60 * SECOND), None);
    }

    #[test]
    fn a_fault_at_the_end_of_the_load_is_not_measured() {
        let series = series(&[("orders", 0..0)]);
        let enough = 20 * SECOND + ASKED_WITHIN + ANSWERED_WITHIN;
        assert!(recovery(&span(20 * SECOND), &series, enough).is_some());
        assert_eq!(recovery(&span(20 * SECOND), &series, enough - 1), None);
    }

    #[test]
    fn what_the_healing_costs_counts_too() {
        let series = series(&[("orders", 31 * SECOND..33 * SECOND)]);
        let long = Span { ended: 30 * SECOND, ..span(20 * SECOND) };
        assert_eq!(recovery(&long, &series, 60 * SECOND).unwrap().back_after, Some(13 * SECOND));
        let told = |call: u64| Writes::of(vec![Write { call, ret: call + 4 * SECOND, ended: Ended::Ok }]);
        assert_eq!(waited(&long, &told(39 * SECOND), 60 * SECOND), Some(4 * SECOND));
        assert_eq!(waited(&long, &told(40 * SECOND), 60 * SECOND), Some(0));
    }

    #[test]
    fn a_cluster_that_stays_silent_never_recovers() {
        let mut series = series(&[("orders", 20 * SECOND..u64::MAX)]);
        series.add(&Op::new(1, "orders", Function::Next, (20 * SECOND, 25 * SECOND), Ended::Info));
        series.finish();
        let recovery = recovery(&span(20 * SECOND), &series, 60 * SECOND).unwrap();
        assert_eq!((recovery.back_after, recovery.slowest), (None, None));
    }
}
