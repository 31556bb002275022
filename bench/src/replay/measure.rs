//! Measure: rate, latencies and fault windows, from the ledger's times. Pure.
//!
//! ```text
//!        kill            dip ends
//!  ──────┼────────────────┼──────────────▶   completions per bucket
//!   ████ │▂ ▁   ▁▃▅       │████ ███
//!        └── the window ──┘                 msgs_per_s counts what completed outside, over the time outside
//! ```

use crate::record::{Fault, Measures};

use super::ledger::Times;

/// Length of a bucket.
const BUCKET_US: u64 = 100_000;
/// The rate is read over so many buckets.
const SMOOTH_BUCKETS: usize = 3;
/// The median before a kill is taken over at most so many buckets.
const BEFORE_BUCKETS: usize = 50;
/// And after an earlier kill over at least so many.
const BEFORE_BUCKETS_MIN: usize = 5;
/// A kill that is felt is felt within so many buckets.
const DIP_BUCKETS: usize = 20;
/// A window ends at the latest so long after the process was back: a rate that stays low counts.
const WINDOW_US_MAX: u64 = 5_000_000;
/// The rate is back at this part of the median.
const BACK: f64 = 0.8;

/// A kill as it was ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) node: String,
    pub(crate) at_us: u64,
    pub(crate) back_us: u64,
}

/// Everything that is said about a run.
pub(crate) fn measure(times: &[Times], kills: &[Kill]) -> Measures {
    let end = times.iter().filter_map(|times| times.delivered_us.max(times.committed_us)).max().unwrap_or(1);
    let first = times.iter().map(|times| times.sent_us).min().unwrap_or(0);
    let windows = windows(times, kills, end);
    let inside = |us: u64| windows.iter().any(|(from, to)| *from <= us && us < *to);
    let overlaps = |from: u64, to: u64| windows.iter().any(|(start, end)| from < *end && *start < to);
    let fault_us: u64 = union(&windows);
    let elapsed_us = (end - first).max(1);
    let completed = times.iter().filter_map(|times| times.delivered_us).filter(|us| !inside(*us)).count();
    let quiet = |to: fn(&Times) -> Option<u64>, waited: bool| {
        let mut found: Vec<u64> = times
            .iter()
            .filter(|times| waited || !times.waited)
            .filter_map(|times| Some((times.sent_us, to(times)?)))
            .filter(|(from, to)| !overlaps(*from, *to))
            .map(|(from, to)| to.saturating_sub(from))
            .collect();
        found.sort_unstable();
        found
    };
    let commits = quiet(|times| times.committed_us, true);
    let deliveries = quiet(|times| times.delivered_us, false);
    Measures {
        msgs_per_s: completed as f64 * 1e6 / (elapsed_us.saturating_sub(fault_us)).max(1) as f64,
        commit_p50_ms: percentile_ms(&commits, 0.50),
        commit_p99_ms: percentile_ms(&commits, 0.99),
        deliver_p50_ms: percentile_ms(&deliveries, 0.50),
        deliver_p99_ms: percentile_ms(&deliveries, 0.99),
        elapsed_s: elapsed_us as f64 / 1e6,
        fault_s: fault_us as f64 / 1e6,
        faults: kills.iter().zip(&windows).map(|(kill, window)| fault(times, kill, *window)).collect(),
        ..Measures::default()
    }
}

/// From each kill until the rate is back; empty if the kill was not felt.
fn windows(times: &[Times], kills: &[Kill], end: u64) -> Vec<(u64, u64)> {
    let mut buckets = vec![0u64; (end / BUCKET_US) as usize + 1];
    for us in times.iter().filter_map(|times| times.delivered_us) {
        buckets[(us / BUCKET_US) as usize] += 1;
    }
    let rate = |bucket: usize| {
        let upto = (bucket + SMOOTH_BUCKETS).min(buckets.len());
        let part = &buckets[bucket.min(upto)..upto];
        part.iter().sum::<u64>() as f64 / part.len().max(1) as f64
    };
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut usual_before = None;
    for (place, kill) in kills.iter().enumerate() {
        let at = (kill.at_us / BUCKET_US) as usize;
        // What an earlier fault slowed down is no measure of how it was before.
        let clean = found.last().map_or(0, |(_, to): &(u64, u64)| (*to / BUCKET_US) as usize + 1);
        let mut before = buckets[at.saturating_sub(BEFORE_BUCKETS).max(clean).min(at)..at].to_vec();
        before.sort_unstable();
        let median = before.get(before.len() / 2).map_or(0.0, |median| *median as f64);
        // Too little time between two kills says nothing, and what was caught up after the first is more than usual.
        let usual = match usual_before {
            Some(usual) if before.len() < BEFORE_BUCKETS_MIN => usual,
            Some(usual) => median.min(usual),
            None => median,
        };
        usual_before = Some(usual);
        let wanted = usual * BACK;
        // The next kill has a window of its own, and what lasts longer than this is no longer this kill's.
        let next = kills.get(place + 1).map_or(buckets.len(), |next| (next.at_us / BUCKET_US) as usize);
        let last = next.min(((kill.back_us + WINDOW_US_MAX) / BUCKET_US) as usize).min(buckets.len());
        let dip = (at + 1..(at + 1 + DIP_BUCKETS).min(last)).find(|bucket| rate(*bucket) < wanted);
        let to = match dip {
            None => kill.at_us,
            Some(dip) => match (dip..last).find(|bucket| rate(*bucket) >= wanted) {
                Some(back) => back as u64 * BUCKET_US,
                None => (last as u64 * BUCKET_US).min(end),
            },
        };
        found.push((kill.at_us, to.max(kill.at_us)));
    }
    found
}

fn union(windows: &[(u64, u64)]) -> u64 {
    let mut sorted = windows.to_vec();
    sorted.sort_unstable();
    let (mut sum, mut reached) = (0, 0);
    for (from, to) in sorted {
        sum += to.saturating_sub(from.max(reached));
        reached = reached.max(to);
    }
    sum
}

fn fault(times: &[Times], kill: &Kill, (from, to): (u64, u64)) -> Fault {
    // Also a kill that did not dent the rate may have held up somebody.
    let upto = to.max(kill.back_us);
    let mut commits: Vec<u64> = times.iter().filter_map(|times| times.committed_us).collect();
    commits.sort_unstable();
    let gap = commits.windows(2).filter(|pair| pair[1] > from && pair[0] < upto).map(|pair| pair[1] - pair[0]).max();
    let slowest = times
        .iter()
        .filter_map(|times| Some((times.sent_us, times.committed_us?)))
        .filter(|(sent, committed)| *committed > from && *sent < upto)
        .map(|(sent, committed)| committed - sent)
        .max();
    Fault {
        node: kill.node.clone(),
        at_s: kill.at_us as f64 / 1e6,
        restarted_after_ms: kill.back_us.saturating_sub(kill.at_us) / 1_000,
        window_ms: (to - from) / 1_000,
        longest_gap_ms: gap.unwrap_or(0) / 1_000,
        slowest_commit_ms: slowest.unwrap_or(0) / 1_000,
    }
}

fn percentile_ms(sorted: &[u64], part: f64) -> f64 {
    let place = ((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1);
    sorted.get(place).map_or(0.0, |us| *us as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One message a millisecond, but none between `from` and `to`.
    fn steady(seconds: u64, from: u64, to: u64) -> Vec<Times> {
        (1..seconds * 1_000)
            .map(|ms| ms * 1_000)
            .filter(|us| !(from..to).contains(us))
            .map(|us| Times {
                sent_us: us,
                committed_us: Some(us + 2_000),
                delivered_us: Some(us + 5_000),
                waited: false,
            })
            .collect()
    }

    #[test]
    fn a_steady_run_has_its_rate_and_latencies() {
        let measures = measure(&steady(10, 0, 0), &[]);
        assert!((measures.msgs_per_s - 1_000.0).abs() < 20.0);
        assert_eq!((measures.commit_p50_ms, measures.commit_p99_ms, measures.deliver_p99_ms), (2.0, 2.0, 5.0));
    }

    #[test]
    fn a_pause_after_a_kill_is_its_window_and_does_not_count() {
        let kill = Kill { node: "store-1".to_owned(), at_us: 4_000_000, back_us: 6_000_000 };
        let measures = measure(&steady(10, 4_000_000, 5_500_000), &[kill]);
        let fault = &measures.faults[0];
        assert!((1_200..=1_700).contains(&fault.window_ms), "{fault:?}");
        assert!((1_400..=1_600).contains(&fault.longest_gap_ms), "{fault:?}");
        assert!((measures.msgs_per_s - 1_000.0).abs() < 50.0, "{measures:?}");
    }

    #[test]
    fn a_kill_right_behind_another_one_has_its_window_too() {
        let kill = |node: &str, at_us| Kill { node: node.to_owned(), at_us, back_us: at_us + 2_000_000 };
        let times = steady(12, 4_000_000, 6_000_000);
        let times: Vec<Times> =
            times.into_iter().filter(|times| !(6_300_000..7_500_000).contains(&times.sent_us)).collect();
        let measures = measure(&times, &[kill("logic-1", 4_000_000), kill("store-1", 6_250_000)]);
        assert!((1_600..=2_200).contains(&measures.faults[0].window_ms), "{measures:?}");
        assert!((1_000..=1_500).contains(&measures.faults[1].window_ms), "{measures:?}");
        assert!((measures.msgs_per_s - 1_000.0).abs() < 60.0, "{measures:?}");
    }

    #[test]
    fn a_rate_that_stays_low_counts() {
        let kill = Kill { node: "store-1".to_owned(), at_us: 4_000_000, back_us: 6_000_000 };
        let halved: Vec<Times> = steady(40, 0, 0)
            .into_iter()
            .filter(|times| times.sent_us < 4_000_000 || times.sent_us % 2_000 == 0)
            .collect();
        let measures = measure(&halved, &[kill]);
        assert!(measures.fault_s < 7.2, "{measures:?}");
        assert!(measures.msgs_per_s < 650.0, "{measures:?}");
    }

    #[test]
    fn a_kill_that_nobody_feels_has_no_window() {
        let kill = Kill { node: "logic-1".to_owned(), at_us: 4_000_000, back_us: 6_000_000 };
        let measures = measure(&steady(10, 0, 0), &[kill]);
        assert_eq!((measures.faults[0].window_ms, measures.fault_s), (0, 0.0));
    }

    #[test]
    fn a_rate_that_never_comes_back_is_a_window_to_the_end() {
        let kill = Kill { node: "store-1".to_owned(), at_us: 4_000_000, back_us: 6_000_000 };
        let mut times = steady(10, 4_000_000, 10_000_000);
        times.push(Times {
            sent_us: 4_000_000,
            committed_us: Some(9_900_000),
            delivered_us: Some(9_900_000),
            waited: false,
        });
        let measures = measure(&times, &[kill]);
        assert!(measures.faults[0].window_ms > 5_500, "{measures:?}");
        assert_eq!(measures.faults[0].slowest_commit_ms, 5_900);
        assert_eq!(measures.commit_p99_ms, 2.0);
    }
}
