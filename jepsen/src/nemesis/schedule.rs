//! Schedule: which faults, when and how long: pure, from a seed.
//!
//! Kinds are dealt from a shuffled deck, so that every kind comes before one comes again. A quarter of the steps is
//! quiet; the others have one to three faults, which overlap with each other and with those of the steps before. Or
//! they are kept [apart](Schedule::apart), so that each recovery is measured by itself.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};

use super::{Hold, Kind};

/// Between two steps.
const GAP: Hold = Hold::ms(2_000, 6_000);
/// Of the steps, so many in a hundred do nothing, so that a cluster that recovers is seen too.
const QUIET_PERCENT: u32 = 25;
/// Between the healing of a fault and the next one, if they are kept apart: longer than what reports look at, and than
/// stores take to give leadership back to whom it belongs (10 s, and a second for each group).
const APART: Duration = Duration::from_secs(20);

/// A fault to come.
#[derive(Clone, PartialEq, Debug)]
pub struct Planned {
    /// which
    pub kind: &'static Kind,
    /// between its injection and its healing
    pub hold: Duration,
    /// of its own draws
    pub seed: u64,
}

/// What comes next.
#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// after the step before; after all its faults are healed, if they are kept apart
    pub after: Duration,
    /// all at once; none in a quiet step
    pub faults: Vec<Planned>,
}

/// A plan without end; the same kinds and seed are the same plan.
#[derive(Debug)]
pub struct Schedule {
    kinds: Vec<&'static Kind>,
    deck: Vec<&'static Kind>,
    rng: StdRng,
    apart: bool,
}

impl Schedule {
    /// A plan of these kinds.
    pub fn new(kinds: Vec<&'static Kind>, seed: u64) -> Self {
        Self { kinds, deck: Vec::new(), rng: StdRng::seed_from_u64(seed), apart: false }
    }

    /// One fault at a time, each in a cluster that has had time to recover from the one before.
    pub fn apart(self, apart: bool) -> Self {
        Self { apart, ..self }
    }

    /// Does the next step begin only when the faults of this one are healed?
    pub(super) fn is_apart(&self) -> bool {
        self.apart
    }

    /// Only the kinds of which this is true.
    pub(super) fn retain(&mut self, wanted: impl Fn(&Kind) -> bool) {
        self.kinds.retain(|kind| wanted(kind));
        self.deck.clear();
    }

    /// One that was dealt and not done comes next.
    pub(super) fn put_back(&mut self, planned: &Planned) {
        self.deck.push(planned.kind);
    }

    /// All kinds of the plan.
    pub fn kinds(&self) -> &[&'static Kind] {
        &self.kinds
    }

    fn deal(&mut self) -> Option<Planned> {
        if self.deck.is_empty() {
            self.deck.clone_from(&self.kinds);
            self.deck.shuffle(&mut self.rng);
        }
        let kind = self.deck.pop()?;
        Some(Planned { kind, hold: between(&mut self.rng, kind.hold), seed: self.rng.random() })
    }
}

impl Iterator for Schedule {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.apart {
            return Some(Step { after: APART, faults: self.deal().into_iter().collect() });
        }
        let after = between(&mut self.rng, GAP);
        let quiet = self.rng.random_range(0..100) < QUIET_PERCENT;
        let count = match self.rng.random_range(0..100) {
            _ if quiet || self.kinds.is_empty() => 0,
            0..70 => 1,
            70..93 => 2,
            _ => 3,
        };
        Some(Step { after, faults: (0..count).filter_map(|_| self.deal()).collect() })
    }
}

/// Short ones more often: as likely between 100 ms and 200 ms as between 5 s and 10 s.
fn between(rng: &mut StdRng, hold: Hold) -> Duration {
    // What may be nothing is nothing in a quarter of all cases: a restart at once is another fault than a late one.
    if hold.min.is_zero() && (hold.max.is_zero() || rng.random_ratio(1, 4)) {
        return hold.min;
    }
    let floor = Duration::from_millis(50);
    let (low, high) = (hold.min.max(floor).as_secs_f64(), hold.max.max(floor).as_secs_f64());
    Duration::from_secs_f64(low * (high / low).powf(rng.random::<f64>())).clamp(hold.min, hold.max)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::Catalogue;
    use super::*;

    fn plan(seed: u64) -> Schedule {
        Schedule::new(Catalogue::select(&["all"]).unwrap(), seed)
    }

    #[test]
    fn the_same_seed_is_the_same_plan_and_another_is_another() {
        let steps = |seed| plan(seed).take(100).collect::<Vec<_>>();
        assert_eq!(steps(1), steps(1));
        assert_ne!(steps(1), steps(2));
    }

    #[test]
    fn every_kind_comes_before_one_comes_again() {
        for seed in 0..20 {
            let kinds = plan(seed).kinds().len();
            let dealt: Vec<&str> =
                plan(seed).flat_map(|step| step.faults).map(|fault| fault.kind.name).take(kinds).collect();
            assert_eq!(dealt.iter().collect::<BTreeSet<_>>().len(), kinds, "seed {seed}");
        }
    }

    #[test]
    fn three_minutes_meet_every_kind() {
        for seed in 0..20 {
            let mut now = Duration::ZERO;
            let met: BTreeSet<&str> = plan(seed)
                .take_while(|step| {
                    now += step.after;
                    now < Duration::from_secs(180)
                })
                .flat_map(|step| step.faults)
                .map(|fault| fault.kind.name)
                .collect();
            assert!(met.len() >= 24, "seed {seed}: {}", met.len());
        }
    }

    #[test]
    fn faults_last_as_long_as_their_kind_says() {
        for fault in plan(3).take(2_000).flat_map(|step| step.faults) {
            assert!((fault.kind.hold.min..=fault.kind.hold.max).contains(&fault.hold), "{fault:?}");
        }
    }

    #[test]
    fn a_quarter_of_the_steps_is_quiet() {
        let quiet = plan(5).take(2_000).filter(|step| step.faults.is_empty()).count();
        assert!((400..=600).contains(&quiet), "{quiet} of 2000");
    }

    #[test]
    fn no_kinds_are_a_plan_of_quiet_steps() {
        for apart in [false, true] {
            let mut steps = Schedule::new(Vec::new(), 1).apart(apart).take(100);
            assert!(steps.all(|step| step.faults.is_empty()));
        }
    }

    #[test]
    fn faults_that_are_kept_apart_come_one_by_one() {
        assert!(plan(5).apart(true).take(500).all(|step| step.faults.len() == 1 && step.after == APART));
    }
}
