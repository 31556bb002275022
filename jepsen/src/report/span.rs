//! Span: a fault from its injection to its healing, and how the cluster came through.
//!
//! ```text
//!  acked │████████▁▁▁▁▃▅█████████
//!        │        ╵   ╰ back at 80 % of the median before
//!        │        ╰ injected
//! ```

use crate::history::{Act, Effect, Fault};

use super::series::SECOND;

/// How long after an injection the longest silence is looked for.
const GAP_WITHIN: u64 = 15 * SECOND;
/// The rate before a fault is measured over this time.
const BEFORE: u64 = 10 * SECOND;
/// Rates are counted in windows of this length.
const WINDOW: u64 = SECOND / 2;
/// A dip that belongs to a fault begins within this many windows.
const DIP_WINDOWS: u64 = 10;
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

/// Measures a recovery from the times of all acks, rising, as long as there was load; `None` if nothing ran before.
pub(super) fn recovery(span: &Span, acked_at: &[u64], load_end: u64) -> Option<Recovery> {
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
    let dip = (0..DIP_WINDOWS.min(windows)).find(|window| !is_back(*window));
    let back_after = match dip {
        None => Some(0),
        Some(dip) => (dip..RECOVERY_WINDOWS.min(windows)).find(|window| is_back(*window)).map(|window| window * WINDOW),
    };
    Some(Recovery { gap: longest_gap(span.began, acked_at, load_end), back_after })
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
        join(&[fault], 60 * SECOND).remove(0)
    }

    /// An ack every 10 ms, but for a silence.
    fn acks(silent: std::ops::Range<u64>) -> Vec<u64> {
        (0..6_000).map(|place| place * 10 * MS).filter(|time| !silent.contains(time)).collect()
    }

    #[test]
    fn a_silence_is_measured_and_so_is_its_end() {
        let acked_at = acks(20 * SECOND..22 * SECOND + 200 * MS);
        let recovery = recovery(&span(20 * SECOND), &acked_at, 60 * SECOND).unwrap();
        assert_eq!(recovery.gap, 2_200 * MS);
        assert_eq!(recovery.back_after, Some(2_500 * MS), "the first whole window at the old rate");
    }

    #[test]
    fn what_nobody_noticed_needs_no_recovery() {
        let recovery = recovery(&span(20 * SECOND), &acks(0..0), 60 * SECOND).unwrap();
        assert_eq!(recovery, Recovery { gap: 10 * MS, back_after: Some(0) });
    }

    #[test]
    fn without_a_rate_before_there_is_nothing_to_say() {
        assert_eq!(recovery(&span(20 * SECOND), &[30 * SECOND], 60 * SECOND), None);
    }

    #[test]
    fn the_end_of_the_load_is_no_silence() {
        let acked_at = acks(22 * SECOND..u64::MAX);
        let recovery = recovery(&span(20 * SECOND), &acked_at, 22 * SECOND).unwrap();
        assert_eq!(recovery, Recovery { gap: 10 * MS, back_after: Some(0) });
    }

    #[test]
    fn a_cluster_that_stays_silent_never_recovers() {
        let recovery = recovery(&span(20 * SECOND), &acks(20 * SECOND..u64::MAX), 60 * SECOND).unwrap();
        assert_eq!(recovery.back_after, None);
    }
}
