//! Placement: which slots this node should claim, and which it should give up.
//!
//! Rendezvous hashing over the live logic nodes ranks them per slot. The k-th choice claims a slot that has been free
//! for `k` steps; a named heir claims at once; a holder that is no longer first choice releases to the one who is.
//! Wrong guesses cost time only: a claim is checked in apply.

use std::collections::{BTreeMap, BTreeSet};

use seriatim_proto::hash;
use seriatim_proto::ids::{Epoch, NodeId, SlotId};
use seriatim_proto::limits;
use seriatim_proto::store::HolderRow;

/// A first choice must have been known for so long before slots are released to it.
const SETTLED_MS: u64 = 600;
/// A slot that was released is not released again so soon: its heir may not have come.
const RELEASE_AGAIN_MS: u64 = 10_000;
/// A claim without an answer is made again after this long.
const CLAIM_AGAIN_MS: u64 = 3_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Slot {
    row: HolderRow,
    free_since_ms: Option<u64>,
    claimed_at_ms: Option<u64>,
    released_at_ms: Option<u64>,
    /// our place in the ranking, `None` if we are in nobody's
    rank: Option<u32>,
    first: Option<NodeId>,
}

/// All slots that this node has heard of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    me: NodeId,
    nodes: Vec<NodeId>,
    nodes_since_ms: u64,
    slots: BTreeMap<SlotId, Slot>,
    /// slots without a holder
    free: BTreeSet<SlotId>,
    /// slots that we hold and another should
    misplaced: BTreeSet<SlotId>,
}

impl Placement {
    /// Knows nothing yet.
    pub fn new(me: NodeId) -> Self {
        Self {
            me,
            nodes: Vec::new(),
            nodes_since_ms: 0,
            slots: BTreeMap::new(),
            free: BTreeSet::new(),
            misplaced: BTreeSet::new(),
        }
    }

    /// The live logic nodes, in whatever order.
    pub fn set_nodes(&mut self, now_ms: u64, nodes: &[NodeId]) {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        nodes.dedup();
        if nodes == self.nodes {
            return;
        }
        self.nodes = nodes;
        self.nodes_since_ms = now_ms;
        for (id, slot) in &mut self.slots {
            slot.rank(self.me, &self.nodes, *id);
            note(&mut self.misplaced, *id, slot.is_misplaced(self.me));
        }
    }

    /// A row of the holder table. Older epochs change nothing; under one epoch a holder only ever goes.
    pub fn set_row(&mut self, now_ms: u64, row: HolderRow) -> bool {
        let (me, nodes) = (self.me, &self.nodes);
        let slot = match self.slots.entry(row.slot) {
            std::collections::btree_map::Entry::Occupied(slot) => {
                let slot = slot.into_mut();
                if !replaces(&row, &slot.row) {
                    return false;
                }
                slot
            }
            std::collections::btree_map::Entry::Vacant(slot) => {
                let slot = slot.insert(Slot {
                    row,
                    free_since_ms: None,
                    claimed_at_ms: None,
                    released_at_ms: None,
                    rank: None,
                    first: None,
                });
                slot.rank(me, nodes, row.slot);
                slot
            }
        };
        if row.epoch > slot.row.epoch || row.holder.is_none() {
            slot.claimed_at_ms = None;
        }
        slot.row = row;
        slot.free_since_ms = match row.holder {
            Some(_) => None,
            None => Some(slot.free_since_ms.unwrap_or(now_ms)),
        };
        note(&mut self.free, row.slot, slot.free_since_ms.is_some());
        note(&mut self.misplaced, row.slot, slot.is_misplaced(me));
        true
    }

    /// Slots to claim now, with the epoch seen. The caller says by [`Self::set_row`] or [`Self::claim_failed`] what
    /// became of each.
    pub fn claims(&mut self, now_ms: u64) -> Vec<(SlotId, Epoch)> {
        let me = self.me;
        let due = |slot: &Slot| {
            let Some(since) = slot.free_since_ms else { return false };
            let heir = slot.row.heir == Some(me);
            let wait_ms = match slot.rank {
                _ if heir => 0,
                Some(rank) => u64::from(rank) * limits::CLAIM_STEP_MS,
                None => return false,
            };
            // Somebody else was named: he is not waited for longer than one step.
            let heir_ms = if slot.row.heir.is_some() && !heir { limits::CLAIM_STEP_MS } else { 0 };
            since + wait_ms.max(heir_ms) <= now_ms && slot.claimed_at_ms.is_none_or(|at| at + CLAIM_AGAIN_MS <= now_ms)
        };
        let mut claims = Vec::new();
        for id in &self.free {
            let Some(slot) = self.slots.get_mut(id) else { continue };
            if due(slot) {
                slot.claimed_at_ms = Some(now_ms);
                claims.push((*id, slot.row.epoch));
            }
        }
        claims
    }

    /// A claim was not answered: it may be made again.
    pub fn claim_failed(&mut self, slot: SlotId) {
        if let Some(slot) = self.slots.get_mut(&slot) {
            slot.claimed_at_ms = None;
        }
    }

    /// Up to `count_max` slots that we hold and another should, with the heir.
    pub fn releases(&mut self, now_ms: u64, count_max: usize) -> Vec<(SlotId, NodeId)> {
        if now_ms < self.nodes_since_ms + SETTLED_MS {
            return Vec::new();
        }
        let me = self.me;
        let mut releases = Vec::new();
        for id in &self.misplaced {
            let Some(slot) = self.slots.get_mut(id) else { continue };
            let Some(heir) = slot.first.filter(|first| *first != me) else { continue };
            let lately = slot.released_at_ms.is_some_and(|at| at + RELEASE_AGAIN_MS > now_ms);
            if !lately {
                slot.released_at_ms = Some(now_ms);
                releases.push((*id, heir));
                if releases.len() >= count_max {
                    break;
                }
            }
        }
        releases
    }

    /// Who should have a slot when we leave.
    pub fn heir(&self, slot: SlotId) -> Option<NodeId> {
        let others: Vec<NodeId> = self.nodes.iter().copied().filter(|node| *node != self.me).collect();
        hash::ranking(slot, &others).first().copied()
    }
}

fn note(set: &mut BTreeSet<SlotId>, id: SlotId, inside: bool) {
    if inside {
        set.insert(id);
    } else {
        set.remove(&id);
    }
}

impl Slot {
    fn is_misplaced(&self, me: NodeId) -> bool {
        self.row.holder == Some(me) && self.first.is_some_and(|first| first != me)
    }

    fn rank(&mut self, me: NodeId, nodes: &[NodeId], id: SlotId) {
        let ranking = hash::ranking(id, nodes);
        self.first = ranking.first().copied();
        self.rank = ranking.iter().position(|node| *node == me).and_then(|rank| u32::try_from(rank).ok());
    }
}

/// Is `new` later than `old`? Epochs tell; under the same epoch a slot only ever becomes free.
pub fn replaces(new: &HolderRow, old: &HolderRow) -> bool {
    new.epoch > old.epoch || (new.epoch == old.epoch && old.holder.is_some() && new.holder.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(slot: u16, epoch: u64, holder: Option<u64>, heir: Option<u64>) -> HolderRow {
        HolderRow {
            slot: SlotId(slot),
            epoch: Epoch(epoch),
            holder: holder.map(NodeId),
            lease: None,
            heir: heir.map(NodeId),
        }
    }

    fn two_nodes() -> (Placement, SlotId, SlotId) {
        let mut placement = Placement::new(NodeId(1));
        placement.set_nodes(0, &[NodeId(1), NodeId(2)]);
        let nodes = [NodeId(1), NodeId(2)];
        let first = |node| (0..4096).map(SlotId).find(|slot| hash::ranking(*slot, &nodes)[0] == NodeId(node)).unwrap();
        let (mine, theirs) = (first(1), first(2));
        (placement, mine, theirs)
    }

    #[test]
    fn the_first_choice_claims_at_once_and_the_second_a_step_later() {
        let (mut placement, mine, theirs) = two_nodes();
        placement.set_row(0, row(mine.0, 4, None, None));
        placement.set_row(0, row(theirs.0, 4, None, None));
        assert_eq!(placement.claims(0), [(mine, Epoch(4))]);
        assert_eq!(placement.claims(0), [], "a claim under way is not made twice");
        assert_eq!(placement.claims(limits::CLAIM_STEP_MS), [(theirs, Epoch(4))]);
    }

    #[test]
    fn a_named_heir_claims_at_once() {
        let (mut placement, mine, theirs) = two_nodes();
        placement.set_row(0, row(theirs.0, 4, None, Some(1)));
        placement.set_row(0, row(mine.0, 4, None, Some(2)));
        assert_eq!(placement.claims(0), [(theirs, Epoch(4))]);
        assert_eq!(placement.claims(limits::CLAIM_STEP_MS), [(mine, Epoch(4))]);
    }

    #[test]
    fn a_holder_that_is_no_longer_first_choice_releases_to_the_one_who_is() {
        let (mut placement, mine, theirs) = two_nodes();
        placement.set_row(0, row(mine.0, 4, Some(1), None));
        placement.set_row(0, row(theirs.0, 4, Some(1), None));
        assert_eq!(placement.releases(0, 10), []);
        assert_eq!(placement.releases(SETTLED_MS, 10), [(theirs, NodeId(2))]);
        assert_eq!(placement.releases(SETTLED_MS, 10), [], "not twice");
    }

    #[test]
    fn a_stale_row_does_not_bring_a_holder_back() {
        let (mut placement, mine, _) = two_nodes();
        placement.set_row(0, row(mine.0, 4, None, None));
        assert!(!placement.set_row(0, row(mine.0, 4, Some(2), None)));
        assert!(!placement.set_row(0, row(mine.0, 3, Some(2), None)));
        assert!(placement.set_row(0, row(mine.0, 5, Some(2), None)));
        assert_eq!(placement.claims(10_000), []);
    }
}
