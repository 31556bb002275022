//! Allocator: gives out the seqs of one namespace from memory, from segments that are durably reserved ahead.
//!
//! Two buffers: the segment in use, and the next one, asked for when half of the first is gone. A namespace without
//! a segment is cold: its next write goes *open* and brings a segment back; until then the namespace's other writes
//! wait.
//!
//! ```text
//!   current [lo ····half···· hi)      next [lo ········ hi)
//!            ▲ take      ▲ wants ──Reserve──▶ installed
//! ```
//!
//! # Invariants
//! I1, I4: a seq is given once, and only below a durable ceiling: segments come from outcomes only.
//! At most one fetch (reservation or open write) per namespace is under way, so a segment never lies below one in use.
//! A segment of another epoch is dropped.

use seriatim_proto::command::{Place, Segment};
use seriatim_proto::guard::{self, Guard};
use seriatim_proto::ids::{Epoch, Seq};
use seriatim_proto::limits;

/// Time that one segment should last.
const SEGMENT_MS: u64 = 10_000;
/// A segment is at most this many times larger than the one before.
const GROWTH_MAX: u64 = 8;

/// What a write of so many entries can do now.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ready {
    /// Take from a segment.
    Segment,
    /// Go open.
    Open,
    /// A segment is under way.
    Wait,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Run {
    lo: Seq,
    hi: Seq,
    size: u64,
}

impl Run {
    fn left(self) -> u64 {
        self.lo.until(self.hi)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Fetch {
    None,
    Reserving,
    Opening,
}

/// The double buffer of one namespace.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Allocator {
    epoch: Epoch,
    current: Option<Run>,
    next: Option<Run>,
    fetch: Fetch,
    size: u64,
    taken: u64,
    asked_at_ms: u64,
    used_at_ms: u64,
}

impl Allocator {
    /// A cold namespace under a claim.
    pub fn cold(epoch: Epoch) -> Self {
        Self {
            epoch,
            current: None,
            next: None,
            fetch: Fetch::None,
            size: u64::from(limits::SEGMENT_SEQS_MIN),
            taken: 0,
            asked_at_ms: 0,
            used_at_ms: 0,
        }
    }

    /// What a write of `count` consecutive entries can do now.
    pub fn ready(&self, count: u64) -> Ready {
        let fits = |run: Option<Run>| run.is_some_and(|run| run.left() >= count);
        match self.fetch {
            Fetch::Opening if !guard::is_out(Guard::OneFetch) => Ready::Wait,
            _ if fits(self.current) || fits(self.next) => Ready::Segment,
            Fetch::Reserving => Ready::Wait,
            Fetch::None | Fetch::Opening => Ready::Open,
        }
    }

    /// Takes a place for `count` consecutive entries; `None` when [`Self::ready`] says `Wait`.
    /// What is left of a segment that is too short is skipped.
    pub fn take(&mut self, now_ms: u64, count: u64) -> Option<Place> {
        match self.ready(count) {
            Ready::Wait => None,
            Ready::Open => {
                // What is left lies below the entry to come: it must not be given out any more.
                self.current = None;
                self.next = None;
                self.fetch = Fetch::Opening;
                let segment = self.resize(now_ms);
                self.note(now_ms, count);
                Some(Place::Open { segment })
            }
            Ready::Segment => {
                if self.current.is_none_or(|run| run.left() < count) {
                    self.current = self.next.take();
                }
                let run = self.current.as_mut().expect("a segment is ready");
                let place = Place::At(run.lo);
                run.lo = run.lo.plus(count);
                self.note(now_ms, count);
                Some(place)
            }
        }
    }

    /// Takes `count` consecutive seqs from a segment; `None` when no segment holds them.
    pub fn take_run(&mut self, now_ms: u64, count: u64) -> Option<Seq> {
        match (self.ready(count) == Ready::Segment).then(|| self.take(now_ms, count))?? {
            Place::At(first) => Some(first),
            Place::Open { .. } => None,
        }
    }

    /// Size of the segment to reserve for `wanted` seqs that no segment holds; `None` while one is under way.
    /// The caller reserves it and says so by [`Self::installed`] or [`Self::failed`].
    pub fn refill(&mut self, now_ms: u64, wanted: u64) -> Option<u32> {
        if self.fetch != Fetch::None {
            return None;
        }
        self.fetch = Fetch::Reserving;
        let size = self.resize(now_ms);
        // The next one is to last as long as this one was meant to.
        self.size = u64::from(size).max(wanted.min(u64::from(limits::SEGMENT_SEQS_MAX)));
        Some(u32::try_from(self.size).expect("bounded by SEGMENT_SEQS_MAX"))
    }

    /// As [`Self::refill`], for exactly so many.
    pub fn refill_exactly(&mut self, wanted: u32) -> Option<u32> {
        let free = self.fetch == Fetch::None;
        free.then(|| {
            self.fetch = Fetch::Reserving;
            wanted
        })
    }

    /// First seq of memory that is not given out: all that were are below, all that will be are not.
    /// `None` when no segment came yet.
    pub fn floor(&self) -> Option<Seq> {
        self.current.or(self.next).map(|run| run.lo)
    }

    /// Size of the segment to reserve now, `None` if there is no need. The caller reserves it and says so by
    /// [`Self::installed`] or [`Self::failed`].
    pub fn want(&mut self, now_ms: u64) -> Option<u32> {
        let run = self.current?;
        if self.fetch != Fetch::None || self.next.is_some() || run.left() * 2 > run.size {
            return None;
        }
        self.fetch = Fetch::Reserving;
        Some(self.resize(now_ms))
    }

    /// A fetch ended: with a segment, or without one.
    pub fn installed(&mut self, segment: Option<Segment>) {
        self.fetch = Fetch::None;
        let Some(segment) = segment else { return };
        let size = segment.lo.until(segment.hi);
        if segment.epoch != self.epoch || size == 0 {
            return;
        }
        let run = Run { lo: segment.lo, hi: segment.hi, size };
        // The run is above both; a lower one must never come after it.
        if self.current.is_none_or(|current| current.left() == 0) {
            self.current = self.next.take();
        }
        match self.current {
            None => self.current = Some(run),
            // One that is there already was too short for what the run was fetched for: it is skipped.
            Some(_) => self.next = Some(run),
        }
    }

    /// A fetch ended without a segment.
    pub fn failed(&mut self) {
        self.fetch = Fetch::None;
    }

    /// Forgets the segments: they may be used up below the tail.
    pub fn forget(&mut self) {
        *self = Self { size: self.size, used_at_ms: self.used_at_ms, ..Self::cold(self.epoch) };
    }

    /// Is a fetch under way?
    pub fn fetching(&self) -> bool {
        self.fetch != Fetch::None
    }

    /// When a seq was last taken.
    pub fn used_at_ms(&self) -> u64 {
        self.used_at_ms
    }

    fn note(&mut self, now_ms: u64, count: u64) {
        self.taken = self.taken.saturating_add(count);
        self.used_at_ms = now_ms;
    }

    /// Ten seconds' worth of what was taken since the last fetch.
    fn resize(&mut self, now_ms: u64) -> u32 {
        if self.taken > 0 {
            let elapsed_ms = now_ms.saturating_sub(self.asked_at_ms).max(1);
            let wanted = self.taken.saturating_mul(SEGMENT_MS) / elapsed_ms;
            self.size = wanted.clamp(self.size / 2, self.size * GROWTH_MAX);
        }
        self.size = self.size.clamp(u64::from(limits::SEGMENT_SEQS_MIN), u64::from(limits::SEGMENT_SEQS_MAX));
        self.taken = 0;
        self.asked_at_ms = now_ms;
        u32::try_from(self.size).expect("bounded by SEGMENT_SEQS_MAX")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seq(value: u64) -> Seq {
        Seq::new(value).unwrap()
    }
    fn segment(lo: u64, hi: u64) -> Option<Segment> {
        Some(Segment { epoch: Epoch(1), lo: seq(lo), hi: seq(hi) })
    }

    #[test]
    fn a_cold_namespace_goes_open_and_its_followers_wait() {
        let mut allocator = Allocator::cold(Epoch(1));
        assert_eq!(allocator.take(0, 1), Some(Place::Open { segment: limits::SEGMENT_SEQS_MIN }));
        assert_eq!(allocator.take(0, 1), None);
        allocator.installed(segment(2, 18));
        assert_eq!(allocator.take(0, 1), Some(Place::At(seq(2))));
    }

    #[test]
    fn the_next_segment_is_fetched_at_half() {
        let mut allocator = Allocator::cold(Epoch(1));
        allocator.take(0, 1);
        allocator.installed(segment(10, 20));
        for _ in 0..4 {
            allocator.take(1, 1);
            assert_eq!(allocator.want(1), None);
        }
        allocator.take(1, 1);
        assert!(allocator.want(1).is_some());
        assert_eq!(allocator.want(1), None, "one fetch at a time");
        // The rest of the current one is still given out, then callers wait for the fetch.
        for value in 15..20 {
            assert_eq!(allocator.take(1, 1), Some(Place::At(seq(value))));
        }
        assert_eq!(allocator.take(1, 1), None);
        allocator.installed(segment(30, 40));
        assert_eq!(allocator.take(1, 1), Some(Place::At(seq(30))));
    }

    #[test]
    fn a_range_is_contiguous_and_skips_what_is_too_short() {
        let mut allocator = Allocator::cold(Epoch(1));
        allocator.take(0, 1);
        allocator.installed(segment(10, 14));
        allocator.take(0, 2);
        allocator.want(0);
        allocator.installed(segment(20, 30));
        assert_eq!(allocator.take(0, 3), Some(Place::At(seq(20))));
        assert_eq!(allocator.take(0, 1), Some(Place::At(seq(23))), "never back to what was skipped");
    }

    #[test]
    fn a_range_longer_than_both_buffers_goes_open() {
        let mut allocator = Allocator::cold(Epoch(1));
        allocator.take(0, 1);
        allocator.installed(segment(10, 14));
        assert!(matches!(allocator.take(0, 100), Some(Place::Open { .. })));
        allocator.installed(segment(200, 300));
        assert_eq!(allocator.take(0, 1), Some(Place::At(seq(200))));
    }

    #[test]
    fn a_segment_of_another_epoch_is_dropped() {
        let mut allocator = Allocator::cold(Epoch(2));
        allocator.take(0, 1);
        allocator.installed(segment(10, 20));
        assert_eq!(allocator.ready(1), Ready::Open);
    }

    #[test]
    fn segments_follow_consumption() {
        let mut allocator = Allocator::cold(Epoch(1));
        allocator.take(0, 1);
        allocator.installed(segment(1_000, 1_016));
        for _ in 0..8 {
            allocator.take(10, 1);
        }
        let grown = allocator.want(10).unwrap();
        assert_eq!(grown, limits::SEGMENT_SEQS_MIN * GROWTH_MAX as u32);
        allocator.installed(segment(2_000, 2_000 + u64::from(grown)));
        for _ in 0..80 {
            allocator.take(3_600_000, 1);
        }
        assert!(allocator.want(3_600_000).unwrap() < grown);
    }

    proptest::proptest! {
        #[test]
        fn seqs_only_rise_whatever_is_taken_and_fetched(steps in proptest::collection::vec((0u64..4, 1u64..30), 1..200)) {
            let mut allocator = Allocator::cold(Epoch(1));
            let (mut ceiling, mut tail, mut pending) = (1u64, 0u64, None);
            for (step, count) in steps {
                match step {
                    0 | 1 => match allocator.take(0, count) {
                        Some(Place::At(at)) => { assert!(at.get() >= tail && at.get() + count <= ceiling); tail = at.get() + count; }
                        Some(Place::Open { segment: size }) => { tail = ceiling + count; ceiling = tail + u64::from(size); pending = Some((tail, ceiling)); }
                        None => {}
                    },
                    2 => if let Some(size) = allocator.want(0) { pending = Some((ceiling, ceiling + u64::from(size))); ceiling += u64::from(size); },
                    _ => if let Some((lo, hi)) = pending.take() { allocator.installed(segment(lo, hi)) },
                }
            }
        }
    }

    /// Found by the property test of the sequence service: the new segment went before the one that was there.
    #[test]
    fn a_segment_fetched_for_a_long_run_comes_after_the_one_that_is_there() {
        let mut allocator = Allocator::cold(Epoch(1));
        assert_eq!(allocator.refill(0, 4), Some(limits::SEGMENT_SEQS_MIN));
        allocator.installed(segment(1, 5));
        assert_eq!(allocator.take_run(0, 4), Some(seq(1)));
        assert!(allocator.want(0).is_some());
        allocator.installed(segment(5, 9));
        assert_eq!(allocator.take_run(0, 10), None);
        assert!(allocator.refill(0, 10).is_some());
        assert_eq!(allocator.take_run(0, 2), Some(seq(5)), "a short one need not wait");
        allocator.installed(segment(9, 25));
        assert_eq!(allocator.floor(), Some(seq(7)));
        assert_eq!(allocator.take_run(0, 10), Some(seq(9)));
        assert_eq!(allocator.take_run(0, 1), Some(seq(19)), "what was left of the short one is skipped");
    }
}
