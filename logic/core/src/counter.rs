//! Counter: the sequence service on one bare counter, `Next` and `Current`.
//!
//! ```text
//!   Next(n)  ─▶ a segment holds n in one run ─yes─▶ answered from memory
//!                        │ no
//!                        └──Reserve──▶ installed ─▶ answered, in the order of arrival
//!   Current  ─▶ the first number of memory that is not given out; without a segment, the durable ceiling
//! ```
//!
//! # Invariants
//! I1: numbers come from durable segments of this claim only, and each is taken once.
//! I2: `Current` answers an m such that every number answered before is below it, and none asked for later is. Both
//! answer from memory, so both are answered only while the lease lets them (design.md §3.5): the real-time order of
//! numbers across holders rests on the drift bound of the clocks, that none is given twice does not.
//!
//! # Failure
//! A holder that dies leaves the rest of its segments: numbers skip, they never repeat. `Next` that was not answered
//! may have taken numbers that nobody gets; asking again is always safe.

use std::collections::VecDeque;

use seriatim_proto::chaos::{self, Sabotage};
use seriatim_proto::command::{HolderOp, Reject, Segment, Want};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::guard::{self, Guard};
use seriatim_proto::hash;
use seriatim_proto::ids::{CounterName, Epoch, Namespace, Seq, TenantId};
use seriatim_proto::limits;
use seriatim_proto::logic::{CallError, Reply};
use seriatim_proto::store::NamespaceState;

use crate::allocator::{Allocator, Ready};
use crate::event::{Clock, Effect, RequestId};
use crate::holder::{EVICT_MS, Phase, ReadFor, SlotHolder};
use crate::pipeline::Note;

/// Pause that `Busy` asks for.
const RETRY_AFTER_MS: u32 = 50;

/// Names a counter within a slot.
pub(crate) type CounterKey = (TenantId, CounterName);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Counter {
    pub(crate) allocator: Allocator,
    /// the durable ceiling, as read under this claim while no segment was under way
    ceiling: Option<Seq>,
    reading: bool,
    /// A reservation was refused: nothing is fetched ahead, and no more than is wanted.
    refused: bool,
    /// in the order of arrival
    nexts: VecDeque<(RequestId, u32)>,
    currents: Vec<RequestId>,
}

impl Counter {
    fn cold(epoch: Epoch) -> Self {
        Self {
            allocator: Allocator::cold(epoch),
            ceiling: None,
            reading: false,
            refused: false,
            nexts: VecDeque::new(),
            currents: Vec::new(),
        }
    }

    /// All that was answered is below, all that will be is not; `None`: not known yet.
    fn bound(&self) -> Option<Seq> {
        self.allocator.floor().or(self.ceiling)
    }

    /// Numbers that wait for a segment.
    fn wanted(&self) -> u64 {
        self.nexts.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// Is there nothing that memory alone knows?
    pub(crate) fn is_idle(&self) -> bool {
        self.nexts.is_empty() && self.currents.is_empty() && !self.reading && !self.allocator.fetching()
    }

    /// Takes out everybody who waits.
    pub(crate) fn drain_waiting(&mut self) -> impl Iterator<Item = RequestId> + '_ {
        self.nexts.drain(..).map(|(request, _)| request).chain(self.currents.drain(..))
    }
}

impl SlotHolder {
    pub(crate) fn on_next(&mut self, clock: &Clock, request: RequestId, key: CounterKey, count: u32) {
        if let Err(error) = self.may_count(clock, &key) {
            self.effects.push_back(Effect::Reply { request, result: Err(error) });
            return;
        }
        if !(1..=limits::NEXT_NUMBERS_MAX).contains(&count) {
            let text = format!("{count} numbers are not between 1 and {}", limits::NEXT_NUMBERS_MAX);
            let result = Err(CallError::Refused(Refusal::new(ErrorCode::CountTooLarge, text)));
            self.effects.push_back(Effect::Reply { request, result });
            return;
        }
        let epoch = self.epoch;
        self.counters_waiting += 1;
        self.wake(self.evicted_at_ms + EVICT_MS);
        self.counters.entry(key.clone()).or_insert_with(|| Counter::cold(epoch)).nexts.push_back((request, count));
        self.count(clock, &key);
    }

    pub(crate) fn on_current(&mut self, clock: &Clock, request: RequestId, key: CounterKey) {
        if let Err(error) = self.may_count(clock, &key) {
            self.effects.push_back(Effect::Reply { request, result: Err(error) });
            return;
        }
        let (epoch, virgin) = (self.epoch, self.virgin);
        let counter = self.counters.entry(key.clone()).or_insert_with(|| {
            // Nobody ever wrote to this slot: nothing is reserved.
            Counter { ceiling: virgin.then_some(Seq::FIRST), ..Counter::cold(epoch) }
        });
        counter.currents.push(request);
        self.counters_waiting += 1;
        self.wake(self.evicted_at_ms + EVICT_MS);
        self.count(clock, &key);
    }

    fn may_count(&mut self, clock: &Clock, key: &CounterKey) -> Result<(), CallError> {
        if is_lapsed(clock) {
            // Whoever waits is better off elsewhere, too.
            self.refuse_counters();
            return self.not_holder();
        }
        let namespace = Namespace::counter(key.0, key.1.clone());
        let serving = self.phase == Phase::Serving || guard::is_out(Guard::Released);
        if !serving || hash::slot(&namespace) != self.slot {
            return self.not_holder();
        }
        if self.counters_waiting >= self.limits.queue_max {
            let text = "too many requests wait for this slot";
            return Err(CallError::Refused(Refusal::later(ErrorCode::Busy, text, RETRY_AFTER_MS)));
        }
        if self.counters.len() >= self.limits.counters_max && !self.counters.contains_key(key) {
            // Numbers that memory held are skipped; who waits stays.
            self.forget_counters(u64::MAX);
            if self.counters.len() >= self.limits.counters_max {
                let text = "too many counters of this slot are in use";
                return Err(CallError::Refused(Refusal::later(ErrorCode::Busy, text, RETRY_AFTER_MS)));
            }
        }
        Ok(())
    }

    /// Drops counters that nobody waits for and that were not used since `since_ms`.
    pub(crate) fn forget_counters(&mut self, since_ms: u64) {
        let before = self.counters.len();
        self.counters.retain(|_, counter| !counter.is_idle() || counter.allocator.used_at_ms() > since_ms);
        // What is not in memory may exist from now on.
        self.virgin &= self.counters.len() == before;
        if !self.counters.is_empty() {
            self.wake(self.evicted_at_ms + EVICT_MS);
        }
    }

    /// Answers whoever can be answered, and asks for what the others need.
    pub(crate) fn count(&mut self, clock: &Clock, key: &CounterKey) {
        let blocked = self.pipeline.blocked().cloned();
        let serving = self.phase == Phase::Serving;
        let not_holder = self.not_holder();
        let Some(counter) = self.counters.get_mut(key) else { return };
        // Not before now: whoever waited may have waited beyond the lease.
        if is_lapsed(clock) {
            for request in counter.drain_waiting() {
                self.counters_waiting -= 1;
                self.effects.push_back(Effect::Reply { request, result: not_holder.clone() });
            }
            return;
        }
        let (mut asks, mut reads) = (None, false);
        while let Some((request, count)) = counter.nexts.front().copied() {
            if counter.allocator.ready(u64::from(count)) != Ready::Segment {
                // A reservation under way is not answered before there is room.
                if let Some(refusal) = blocked.clone() {
                    counter.nexts.pop_front();
                    self.counters_waiting -= 1;
                    let result = Err(CallError::Refused(refusal));
                    self.effects.push_back(Effect::Reply { request, result });
                    continue;
                }
                asks = match counter.refused {
                    true => counter.allocator.refill_exactly(count),
                    false => counter.allocator.refill(clock.now_ms, counter.wanted()),
                };
                break;
            }
            counter.nexts.pop_front();
            self.counters_waiting -= 1;
            let first = counter.allocator.take_run(clock.now_ms, u64::from(count)).expect("a segment holds them");
            self.effects.push_back(Effect::Reply { request, result: Ok(Reply::Numbers { first, count }) });
        }
        if blocked.is_none() && !counter.refused && serving {
            asks = asks.or_else(|| counter.allocator.want(clock.now_ms));
        }
        match counter.bound() {
            Some(bound) => {
                for request in counter.currents.drain(..) {
                    self.counters_waiting -= 1;
                    self.effects.push_back(Effect::Reply { request, result: Ok(Reply::Current(bound)) });
                }
            }
            None if blocked.is_some() && counter.allocator.fetching() => {
                for request in counter.currents.drain(..) {
                    self.counters_waiting -= 1;
                    let result = Err(CallError::Refused(blocked.clone().expect("just seen")));
                    self.effects.push_back(Effect::Reply { request, result });
                }
            }
            // A fetch under way will tell.
            None if counter.currents.is_empty() || counter.reading || counter.allocator.fetching() => {}
            None => {
                counter.reading = true;
                reads = true;
            }
        }
        if let Some(seqs) = asks {
            self.wants.push((Namespace::counter(key.0, key.1.clone()), seqs));
        }
        if reads {
            self.read(ReadFor::Ceiling(key.clone()));
        }
    }

    /// The durable ceiling was read, linearizably, under this claim.
    pub(crate) fn on_ceiling_read(&mut self, clock: &Clock, key: &CounterKey, state: Option<NamespaceState>) {
        let Some(counter) = self.counters.get_mut(key) else { return };
        counter.reading = false;
        // A reservation that is under way may be in what was read, or not: its segment will tell.
        if !counter.allocator.fetching() {
            counter.ceiling = Some(state.map_or(Seq::FIRST, |state| state.ceiling));
        }
        self.count(clock, key);
    }

    /// Reservations came back, or none did.
    pub(crate) fn on_reserved(&mut self, clock: &Clock, wants: Vec<Want>, result: Result<Vec<Segment>, Reject>) {
        if result.is_err() && wants.len() > 1 {
            // All or none: one by one, so that a namespace at its end holds up no other.
            self.wants_alone.extend(wants);
            return;
        }
        let (segments, refusal) = match result {
            Ok(segments) => (segments, None),
            Err(reject) => (Vec::new(), Some(Refusal::new(reject.code(), reject.to_string()))),
        };
        for (place, want) in wants.into_iter().enumerate() {
            if let Some(allocator) = self.allocator(&want.namespace) {
                allocator.installed(segments.get(place).copied());
            }
            let seriatim_proto::ids::Owner::Counter(name) = want.namespace.owner else { continue };
            let key = (want.namespace.tenant, name);
            let Some(counter) = self.counters.get_mut(&key) else { continue };
            // Refused once, it asks for no more than its first caller wants; refused again, there is not even that.
            if std::mem::replace(&mut counter.refused, refusal.is_some())
                && let Some(refusal) = &refusal
                && let Some((request, _)) = counter.nexts.pop_front_if(|(_, count)| *count >= want.seqs)
            {
                self.counters_waiting -= 1;
                let result = Err(CallError::Refused(refusal.clone()));
                self.effects.push_back(Effect::Reply { request, result });
            }
            self.count(clock, &key);
        }
        self.unstall();
    }

    pub(crate) fn number_wants_alone(&mut self) {
        while self.pipeline.is_open()
            && let Some(want) = self.wants_alone.pop_front()
        {
            self.submit(HolderOp::Reserve { wants: vec![want] }, Note::None);
        }
    }

    /// Outcomes were lost: what was reserved is not known any more, whoever waits asks again.
    pub(crate) fn reset_counters(&mut self, clock: &Clock) {
        for counter in self.counters.values_mut() {
            counter.allocator.forget();
            counter.ceiling = None;
            counter.reading = false;
            counter.refused = false;
        }
        let waiting: Vec<CounterKey> =
            self.counters.iter().filter(|(_, counter)| !counter.is_idle()).map(|(key, _)| key.clone()).collect();
        for key in waiting {
            self.count(clock, &key);
        }
    }

    /// The stores take no writes: whoever waits for one hears so.
    pub(crate) fn count_waiting(&mut self, clock: &Clock) {
        let waiting: Vec<CounterKey> = self
            .counters
            .iter()
            .filter(|(_, counter)| !counter.nexts.is_empty() || !counter.currents.is_empty())
            .map(|(key, _)| key.clone())
            .collect();
        for key in waiting {
            self.count(clock, &key);
        }
    }

    /// Nothing that waits was given anything.
    pub(crate) fn refuse_counters(&mut self) {
        let waiting: Vec<RequestId> = self.counters.values_mut().flat_map(Counter::drain_waiting).collect();
        self.counters_waiting = 0;
        for request in waiting {
            self.effects.push_back(Effect::Reply { request, result: self.not_holder() });
        }
    }
}

/// Is the time over in which this holder may answer from memory?
fn is_lapsed(clock: &Clock) -> bool {
    let unwatched = chaos::sabotaged(Sabotage::SegmentNotFenced) || guard::is_out(Guard::LeaseEnd);
    clock.now_ms >= clock.lease_until_ms && !unwatched
}
