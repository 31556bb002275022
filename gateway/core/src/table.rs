//! Table: who holds which slot, as far as this gateway has heard, and what waits for a slot's holder.
//!
//! Rows come from all logic nodes; a row replaces one of a lower or the same epoch only. A wrong row costs a
//! refusal by the node it names, nothing else.
//!
//! # Invariants
//! Calls of one slot leave in the order in which they came, as long as none is refused: a call never overtakes one
//! that waits, and never goes to another link while one is on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use seriatim_proto::ids::{NodeId, SlotId};
use seriatim_proto::limits;
use seriatim_proto::store::HolderRow;

use crate::router::LinkId;

/// First pause after a refusal by a slot's holder; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(160);

/// One slot.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    pub(crate) row: Option<HolderRow>,
    /// Calls that wait for a holder, by id: the order in which they came.
    pub(crate) waiting: BTreeSet<u64>,
    /// Calls on their way, all on this link.
    pub(crate) in_flight: u32,
    pub(crate) in_flight_link: Option<LinkId>,
    pub(crate) retry_at: Option<Instant>,
    pause: Option<Duration>,
    /// Sessions registered, or to be registered, for inboxes of this slot.
    pub(crate) sessions: BTreeSet<u64>,
}

/// All slots.
#[derive(Debug)]
pub(crate) struct Table {
    slots: Vec<SlotState>,
    links: BTreeMap<NodeId, LinkId>,
    /// Slots with waiting calls.
    pub(crate) waiting: BTreeSet<SlotId>,
}

impl Table {
    pub(crate) fn new() -> Self {
        let slots = (0..limits::SLOTS).map(|_| SlotState::default()).collect();
        Self { slots, links: BTreeMap::new(), waiting: BTreeSet::new() }
    }

    /// Takes a row; says whether another holder or epoch rules the slot now.
    pub(crate) fn put(&mut self, row: HolderRow) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(row.slot.0)) else { return false };
        if slot.row.as_ref().is_some_and(|old| old.epoch > row.epoch) {
            return false;
        }
        let changed = slot.row.as_ref().is_none_or(|old| (old.epoch, old.holder) != (row.epoch, row.holder));
        slot.row = Some(row);
        changed
    }

    /// The slot's state. Slots come from hashes and from rows that [`Table::put`] took: always in range.
    pub(crate) fn slot(&mut self, slot: SlotId) -> &mut SlotState {
        &mut self.slots[usize::from(slot.0 % limits::SLOTS)]
    }

    /// The link to the slot's holder, if it is known and connected.
    pub(crate) fn link_of(&self, slot: SlotId) -> Option<LinkId> {
        let row = self.slots.get(usize::from(slot.0))?.row.as_ref()?;
        self.links.get(&row.holder?).copied()
    }

    pub(crate) fn link_up(&mut self, node: NodeId, link: LinkId) {
        self.links.insert(node, link);
    }

    pub(crate) fn link_down(&mut self, link: LinkId) {
        self.links.retain(|_, other| *other != link);
    }

    /// Any connected link, another one than `not` if there is one.
    pub(crate) fn any_link(&self, not: Option<LinkId>) -> Option<LinkId> {
        let other = self.links.values().copied().find(|link| Some(*link) != not);
        other.or_else(|| self.links.values().copied().next())
    }

    /// May a call go to the slot's holder now? Then on this link.
    pub(crate) fn may_send(&mut self, slot: SlotId) -> Option<LinkId> {
        let link = self.link_of(slot)?;
        let state = self.slot(slot);
        (state.in_flight == 0 || state.in_flight_link == Some(link)).then_some(link)
    }

    pub(crate) fn sent(&mut self, slot: SlotId, link: LinkId) {
        let state = self.slot(slot);
        state.in_flight += 1;
        state.in_flight_link = Some(link);
    }

    pub(crate) fn answered(&mut self, slot: SlotId) {
        let state = self.slot(slot);
        state.in_flight = state.in_flight.saturating_sub(1);
    }

    pub(crate) fn served(&mut self, slot: SlotId) {
        let state = self.slot(slot);
        state.pause = None;
        state.retry_at = None;
    }

    pub(crate) fn wait(&mut self, slot: SlotId, call: u64) {
        self.slot(slot).waiting.insert(call);
        self.waiting.insert(slot);
    }

    /// The holder refused: nothing is sent to the slot for a while.
    pub(crate) fn pause(&mut self, slot: SlotId, now: Instant) {
        let state = self.slot(slot);
        if state.retry_at.is_some_and(|at| at > now) {
            return;
        }
        let pause = state.pause.map_or(PAUSE_MIN, |pause| (pause * 2).min(PAUSE_MAX));
        state.pause = Some(pause);
        state.retry_at = Some(now + pause);
    }

    /// Whatever was refused before, another holder deserves a try at once.
    pub(crate) fn resume(&mut self, slot: SlotId) {
        self.slot(slot).retry_at = None;
    }

    /// Slots whose waiting calls may be tried now.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<SlotId> {
        let slots = &self.slots;
        let due = |slot: &SlotId| slots[usize::from(slot.0 % limits::SLOTS)].retry_at.is_none_or(|at| at <= now);
        self.waiting.iter().copied().filter(due).collect()
    }

    /// The first waiting call of the slot, removed.
    pub(crate) fn next_waiting(&mut self, slot: SlotId) -> Option<u64> {
        let call = self.slot(slot).waiting.pop_first();
        if self.slot(slot).waiting.is_empty() {
            self.waiting.remove(&slot);
        }
        call
    }

    /// The call waits no longer.
    pub(crate) fn forget(&mut self, slot: SlotId, call: u64) {
        self.slot(slot).waiting.remove(&call);
        if self.slot(slot).waiting.is_empty() {
            self.waiting.remove(&slot);
        }
    }
}
