//! Recovery: how long clusters took to come back from faults, by kind, over runs that kept them apart; and the bounds
//! that we promise.
//!
//! Of every fault counts the key that waited longest for an ack: that is what a user notices, who does not care whether
//! the other groups go on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::observed::Observed;
use super::series::SECOND;
use super::span::{Recovery, Span};
use crate::check::{Outcome, VERDICT_FILE, Verdict};
use crate::history::{Effect, Leaders};

const MS: u64 = SECOND / 1_000;
/// A bound is judged by so many faults at least.
const FAULTS_MIN: u64 = 20;
/// What moves within this behind a fault's healing is its doing.
const MOVED_WITHIN: u64 = 5 * SECOND;

/// What is promised (design.md, and the settings that a cluster has unless told otherwise).
pub(super) const BOUNDS: [Bound; 5] = [
    Bound { kind: "kill-leader", measure: Measure::Slowest, most: 2_000 * MS },
    Bound { kind: "kill-leader", measure: Measure::Claims, most: 0 },
    // The lease of a logic node, and 800 ms for the claim.
    Bound { kind: "kill-holder", measure: Measure::Slowest, most: 2_800 * MS },
    Bound { kind: "partition-one-way", measure: Measure::Leaders, most: 0 },
    Bound { kind: "disk-stall-leader", measure: Measure::Slowest, most: 5_000 * MS },
];

/// What a bound is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Measure {
    /// how long the key waited that waited longest, p99 over the faults, ns
    Slowest,
    /// changes of leaders of groups that none of the fault's targets led, in all
    Leaders,
    /// slots that logic nodes claimed, in all
    Claims,
}

/// A promise about a kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// kind of fault
    pub kind: &'static str,
    /// what is bounded
    pub measure: Measure,
    /// ns, or a count
    pub most: u64,
}

/// A bound, and what was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judged {
    /// which
    pub bound: Bound,
    /// ns or a count; `None`: nothing, or no end of it
    pub seen: Option<u64>,
    /// `None`: too few faults to say
    pub met: Option<bool>,
}

/// Times of one thing, some of which may never have come.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Times {
    rising: Vec<u64>,
    never: usize,
}

impl Times {
    /// One more; `None`: it never came.
    pub(super) fn add(&mut self, time: Option<u64>) {
        match time {
            Some(time) => self.rising.insert(self.rising.partition_point(|other| *other <= time), time),
            None => self.never += 1,
        }
    }

    /// The smallest that so many in a hundred do not exceed (the nearest rank), ns; `None` if that is "never", or
    /// there are none.
    pub fn percentile(&self, percent: usize) -> Option<u64> {
        let count = self.rising.len() + self.never;
        let rank = (count * percent).div_ceil(100).max(1);
        self.rising.get(rank - 1).copied()
    }
}

/// How clusters came through one kind of fault.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Recovered {
    /// faults of which nobody saw that they took effect, and those that began in a silent cluster or ended with the load
    pub unmeasured: u64,
    /// faults that took effect, under load
    pub faults: u64,
    /// longest times without any ack
    pub silence: Times,
    /// times until the rate was back
    pub back: Times,
    /// how long the key waited that waited longest
    pub slowest: Times,
    /// faults of which it is known what they moved
    pub watched: u64,
    /// changes of leaders of groups that no target led
    pub leaders: u64,
    /// slots that logic nodes claimed
    pub claims: u64,
}

/// By kind of fault.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Recoveries {
    kinds: BTreeMap<String, Recovered>,
}

impl Recoveries {
    /// Of all faults of these runs.
    ///
    /// # Errors
    /// A run whose faults overlapped, or that was not good; files that cannot be read.
    pub fn read(runs: &[PathBuf]) -> anyhow::Result<Recoveries> {
        let mut all = Recoveries::default();
        let mut known = BTreeSet::new();
        for run in runs {
            let folder = run.canonicalize().with_context(|| format!("open {}", run.display()))?;
            ensure!(known.insert(folder), "{} is named twice", run.display());
            let observed = read_run(run).with_context(|| format!("measure {}", run.display()))?;
            for (span, recovery) in observed.spans.iter().zip(&observed.recoveries) {
                all.add(span, *recovery, &observed.leaders);
            }
        }
        Ok(all)
    }

    /// Counts a fault.
    pub(super) fn add(&mut self, span: &Span, recovery: Option<Recovery>, leaders: &[Leaders]) {
        let kind = self.kinds.entry(span.kind.clone()).or_default();
        let Some(recovery) = recovery.filter(|_| span.effect == Effect::Installed) else {
            kind.unmeasured += 1;
            return;
        };
        kind.faults += 1;
        kind.silence.add(Some(recovery.gap));
        kind.back.add(recovery.back_after);
        kind.slowest.add(recovery.slowest);
        if let Some(moved) = Moved::by(span, leaders) {
            kind.watched += 1;
            kind.leaders += moved.leaders;
            kind.claims += moved.claims;
        }
    }

    /// Of one kind; nothing if it never took effect.
    pub fn of(&self, kind: &str) -> Recovered {
        self.kinds.get(kind).cloned().unwrap_or_default()
    }

    /// What became of the promises about the kinds that there were.
    pub fn judged(&self) -> Vec<Judged> {
        let judge = |bound: Bound| {
            let kind = self.kinds.get(bound.kind)?;
            let (seen, faults) = match bound.measure {
                Measure::Slowest => (kind.slowest.percentile(99), kind.faults),
                Measure::Leaders => (Some(kind.leaders), kind.watched),
                Measure::Claims => (Some(kind.claims), kind.watched),
            };
            let (met, any) = (seen.is_some_and(|seen| seen <= bound.most), faults > 0);
            // However few they are: what was missed is missed.
            Some(Judged { bound, seen, met: (any && !met || faults >= FAULTS_MIN).then_some(met) })
        };
        BOUNDS.into_iter().filter_map(judge).collect()
    }

    /// A table for people, as Markdown.
    pub fn text(&self) -> String {
        let mut text = "| kind | faults | not measured | silence: p50, worst | slowest key: p50, p99 | rate back: p50, p99 | leaders changed elsewhere | slots claimed |\n|---|---|---|---|---|---|---|---|\n".to_owned();
        for (kind, seen) in &self.kinds {
            let pair =
                |times: &Times, high| format!("{}, {}", seconds(times.percentile(50)), seconds(times.percentile(high)));
            let counted = |count: u64| if seen.watched == seen.faults { count.to_string() } else { "–".to_owned() };
            text += &format!(
                "| `{kind}` | {} | {} | {} | {} | {} | {} | {} |\n",
                seen.faults,
                seen.unmeasured,
                pair(&seen.silence, 100),
                pair(&seen.slowest, 99),
                pair(&seen.back, 99),
                counted(seen.leaders),
                counted(seen.claims),
            );
        }
        for judged in self.judged() {
            text += &judged.line();
        }
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let ms = |time: Option<u64>| time.map(|time| time / MS);
        let kinds: serde_json::Map<String, Value> = self
            .kinds
            .iter()
            .map(|(kind, seen)| {
                let value = json!({
                    "faults": seen.faults,
                    "unmeasured": seen.unmeasured,
                    "silence_p50_ms": ms(seen.silence.percentile(50)),
                    "silence_worst_ms": ms(seen.silence.percentile(100)),
                    "slowest_key_p50_ms": ms(seen.slowest.percentile(50)),
                    "slowest_key_p99_ms": ms(seen.slowest.percentile(99)),
                    "back_p50_ms": ms(seen.back.percentile(50)),
                    "back_p99_ms": ms(seen.back.percentile(99)),
                    "watched": seen.watched,
                    "leaders_changed_elsewhere": seen.leaders,
                    "slots_claimed": seen.claims,
                });
                (kind.clone(), value)
            })
            .collect();
        let judged = self.judged();
        let count = |met| judged.iter().filter(|judged| judged.met == met).count();
        json!({"kinds": kinds, "met": count(Some(true)), "missed": count(Some(false)), "unclear": count(None)})
    }
}

impl Judged {
    fn line(&self) -> String {
        let Bound { kind, measure, most } = self.bound;
        let count = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), |count| count.to_string());
        let (what, seen, most) = match measure {
            Measure::Slowest => ("slowest key, p99", seconds(self.seen), seconds(Some(most))),
            Measure::Leaders => ("leaders changed elsewhere", count(self.seen), most.to_string()),
            Measure::Claims => ("slots claimed", count(self.seen), most.to_string()),
        };
        let word = match self.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "too few faults to say",
        };
        format!("{word}: {kind}, {what}: {seen}, at most {most}\n")
    }
}

/// What a fault moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Moved {
    leaders: u64,
    claims: u64,
}

impl Moved {
    /// By looks before, at and behind it; `None` if nobody can say.
    fn by(span: &Span, looks: &[Leaders]) -> Option<Moved> {
        let (before, behind) = looks.split_at(looks.partition_point(|look| look.ret <= span.began));
        let mut led = BTreeMap::new();
        before.iter().for_each(|look| led.extend(look.groups.clone()));
        if led.len() < looks.iter().flat_map(|look| look.groups.keys()).collect::<BTreeSet<_>>().len() {
            return None;
        }
        led.retain(|_, leader| !span.targets.contains(&leader.store));
        // Up to the first look behind it that shows all of them; not what comes with the next fault.
        let shows_all = |look: &Leaders| led.keys().all(|group| look.groups.contains_key(group));
        let within = |look: &Leaders| look.ret <= span.ended + MOVED_WITHIN;
        let last = behind.iter().rposition(|look| within(look) && look.call >= span.ended && shows_all(look))?;
        let mut leaders = 0;
        for look in &behind[..=last] {
            for (group, known) in &mut led {
                // Who does not answer has not lost it; and an old leader may be the only one who answers.
                if let Some(now) = look.groups.get(group).filter(|now| now.term > known.term) {
                    leaders += 1;
                    known.clone_from(now);
                }
            }
        }
        let claimed = before.iter().rev().find_map(|look| look.claims)?;
        let claims =
            behind.iter().rev().filter(|look| within(look) && look.call >= span.ended).find_map(|look| look.claims)?;
        Some(Moved { leaders, claims: claims.saturating_sub(claimed) })
    }
}

fn read_run(run: &Path) -> anyhow::Result<Observed> {
    let observed = Observed::read(run, |_, _| {})?;
    let apart = observed.about.pointer("/options/apart").and_then(Value::as_bool) == Some(true);
    ensure!(apart, "its faults overlapped: only runs with --apart show what each of them did");
    // Not what it was when the run ended: it may have been judged anew.
    let path = run.join(VERDICT_FILE);
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let verdict: Verdict = serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))?;
    let word = verdict.outcome.word();
    ensure!(verdict.outcome == Outcome::Ok, "its verdict is {word}: how fast a wrong cluster was says nothing");
    Ok(observed)
}

/// In seconds, for people.
fn seconds(time: Option<u64>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| format!("{:.2} s", time as f64 / SECOND as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Leader;

    fn span(kind: &str, targets: &[&str]) -> Span {
        Span {
            number: 1,
            kind: kind.to_owned(),
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            effect: Effect::Installed,
            detail: String::new(),
            began: 10 * SECOND,
            ended: 15 * SECOND,
            healed: true,
        }
    }

    fn look(at: u64, groups: &[(u32, &str, u64)], claims: u64) -> Leaders {
        let leader = |store: &str, term| Leader { store: store.to_owned(), term };
        let groups = groups.iter().map(|(group, store, term)| (*group, leader(store, *term))).collect();
        Leaders { call: at * SECOND, ret: at * SECOND + MS, groups, claims: Some(claims) }
    }

    /// Looks at one group, before and behind a fault.
    fn looks(claims: (u64, u64)) -> [Leaders; 2] {
        [look(5, &[(1, "store-3", 2)], claims.0), look(16, &[(1, "store-3", 2)], claims.1)]
    }

    fn recovery(slowest: u64) -> Option<Recovery> {
        Some(Recovery { gap: MS, back_after: Some(0), slowest: Some(slowest * MS) })
    }

    #[test]
    fn a_percentile_is_a_time_that_was_seen_and_never_is_longer_than_all() {
        let mut times = Times::default();
        assert_eq!(times.percentile(50), None);
        for time in (1..=99).rev() {
            times.add(Some(time));
        }
        assert_eq!([50, 99, 100].map(|percent| times.percentile(percent)), [Some(50), Some(99), Some(99)]);
        times.add(None);
        assert_eq!([50, 99, 100].map(|percent| times.percentile(percent)), [Some(50), Some(99), None]);
    }

    #[test]
    fn leaders_that_change_elsewhere_are_counted_and_those_of_the_hurt_store_are_not() {
        let all = |second, third| [(1, "store-2", 4), (2, "store-3", second), (3, "store-3", third)];
        let looks = [
            look(3, &[(1, "store-1", 3), (2, "store-2", 7), (3, "store-3", 1)], 100),
            look(5, &[(1, "store-1", 3)], 100),
            look(11, &[(1, "store-2", 4), (2, "store-2", 7)], 100),
            look(12, &all(8, 1), 100),
            look(13, &all(8, 2), 104),
            look(17, &all(9, 2), 105),
            look(18, &[], 106),
            look(21, &all(30, 30), 300),
        ];
        let moved = |looks: &[Leaders]| Moved::by(&span("partition-one-way", &["store-1"]), looks);
        assert_eq!(moved(&looks), Some(Moved { leaders: 3, claims: 6 }), "what comes later is not its doing");
        assert_eq!(moved(&looks[1..]), None, "nobody knows who led two groups before");
        assert_eq!(moved(&looks[..5]), None, "nobody looked when it was healed");
        assert_eq!(moved(&[&looks[..5], &looks[6..7]].concat()), None, "or saw nothing");
        let unanswered = |look: &Leaders| Leaders { claims: None, ..look.clone() };
        assert_eq!(moved(&looks.iter().map(unanswered).collect::<Vec<_>>()), None, "claims are not known");
    }

    #[test]
    fn a_bound_is_met_by_enough_faults_and_missed_by_one() {
        let looks = looks((7, 7));
        let mut seen = Recoveries::default();
        for _ in 0..FAULTS_MIN - 1 {
            seen.add(&span("kill-leader", &["store-1"]), recovery(1_900), &looks);
        }
        let met = |seen: &Recoveries| seen.judged().into_iter().map(|judged| judged.met).collect::<Vec<_>>();
        assert_eq!(met(&seen), [None, None]);
        seen.add(&span("kill-leader", &["store-1"]), recovery(1_900), &looks);
        assert_eq!(met(&seen), [Some(true), Some(true)]);
        seen.add(&span("kill-leader", &["store-1"]), recovery(2_001), &looks);
        assert_eq!(met(&seen), [Some(false), Some(true)], "the p99 of 21 is their worst");
        seen.add(&span("kill-holder", &["logic-1"]), recovery(3_000), &looks);
        assert_eq!(met(&seen), [Some(false), Some(true), Some(false)]);
        let text = seen.text();
        assert!(text.contains("MISSED: kill-leader, slowest key, p99: 2.00 s, at most 2.00 s"), "{text}");
        assert!(
            text.contains("| `kill-leader` | 21 | 0 | 0.00 s, 0.00 s | 1.90 s, 2.00 s | 0.00 s, 0.00 s | 0 | 0 |"),
            "{text}"
        );
        assert_eq!(seen.json()["missed"], 2);
    }

    #[test]
    fn a_slot_that_is_claimed_because_of_a_killed_leader_is_a_miss() {
        let looks = looks((7, 8));
        let mut seen = Recoveries::default();
        seen.add(&span("kill-leader", &["store-1"]), recovery(1), &looks);
        let claims = seen.judged().into_iter().find(|judged| judged.bound.measure == Measure::Claims).unwrap();
        assert_eq!((claims.seen, claims.met), (Some(1), Some(false)));
    }

    #[test]
    fn what_was_not_measured_is_counted_and_meets_no_bound() {
        let mut seen = Recoveries::default();
        for _ in 0..FAULTS_MIN {
            seen.add(&Span { effect: Effect::Indeterminate, ..span("kill-leader", &[]) }, recovery(1), &looks((7, 7)));
            seen.add(&span("kill-leader", &[]), None, &[]);
        }
        let kind = seen.of("kill-leader");
        assert_eq!((kind.faults, kind.unmeasured, kind.watched), (0, 2 * FAULTS_MIN, 0));
        assert!(seen.judged().iter().all(|judged| judged.met.is_none()));
    }

    #[test]
    fn a_run_is_measured_once_and_only_if_it_is_good() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().to_owned();
        crate::check::selftest::write_sample(&run, 1, None).unwrap();
        let write = |file: &str, text: String| std::fs::write(run.join(file), text).unwrap();
        write(crate::history::RUN_FILE, json!({"verdict": "ok", "options": {"apart": true, "time_s": 9}}).to_string());
        let refusal = |runs: &[&PathBuf]| {
            let runs: Vec<PathBuf> = runs.iter().map(|run| (*run).clone()).collect();
            format!("{:#}", Recoveries::read(&runs).unwrap_err())
        };
        assert!(refusal(&[&run]).contains(VERDICT_FILE));
        let judged = |outcome| serde_json::to_string(&Verdict { outcome, ..Verdict::default() }).unwrap();
        write(VERDICT_FILE, judged(Outcome::Violation));
        assert!(refusal(&[&run]).contains("its verdict is violation"));
        write(VERDICT_FILE, judged(Outcome::Ok));
        Recoveries::read(std::slice::from_ref(&run)).unwrap();
        assert!(refusal(&[&run, &run.join(".")]).contains("twice"));
    }
}
