//! Leases: this node's session with each group, as its holders may rely on it (design.md §3.1–§3.5).

use std::collections::BTreeMap;

use seriatim_proto::ids::{GroupId, LeaseId};
use seriatim_proto::limits;

/// A lease of this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lease {
    pub(crate) id: LeaseId,
    /// before the last renewal that was answered was sent
    pub(crate) renewed_ms: u64,
}

impl Lease {
    /// Until when holders answer from memory.
    pub(crate) fn until_ms(self) -> u64 {
        self.renewed_ms + limits::LEASE_HOLD_MS
    }
}

/// All leases of this node; one is being opened where there is none.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    open: BTreeMap<GroupId, Lease>,
    /// groups whose `OpenLease` is under way, since when
    opening: BTreeMap<GroupId, u64>,
}

impl Leases {
    pub(crate) fn get(&self, group: GroupId) -> Option<Lease> {
        self.open.get(&group).copied()
    }
    pub(crate) fn until_ms(&self, group: GroupId) -> u64 {
        self.get(group).map_or(0, Lease::until_ms)
    }
    pub(crate) fn all(&self) -> impl Iterator<Item = (GroupId, LeaseId)> + '_ {
        self.open.iter().map(|(group, lease)| (*group, lease.id))
    }
    /// Should a lease be opened now? Then says that it is.
    pub(crate) fn start_opening(&mut self, group: GroupId, now_ms: u64) -> bool {
        let idle = self.opening.get(&group).is_none_or(|since| since + limits::STORE_TIMEOUT_MS <= now_ms);
        let start = idle && !self.open.contains_key(&group);
        if start {
            self.opening.insert(group, now_ms);
        }
        start
    }
    pub(crate) fn opened(&mut self, group: GroupId, id: LeaseId, sent_ms: u64) {
        self.opening.remove(&group);
        self.open.insert(group, Lease { id, renewed_ms: sent_ms });
    }
    pub(crate) fn opening_failed(&mut self, group: GroupId) {
        self.opening.remove(&group);
    }
    pub(crate) fn renewed(&mut self, group: GroupId, id: LeaseId, sent_ms: u64) {
        if let Some(lease) = self.open.get_mut(&group).filter(|lease| lease.id == id) {
            lease.renewed_ms = lease.renewed_ms.max(sent_ms);
        }
    }
    /// True if it was ours.
    pub(crate) fn gone(&mut self, group: GroupId, id: LeaseId) -> bool {
        let ours = self.open.get(&group).is_some_and(|lease| lease.id == id);
        if ours {
            self.open.remove(&group);
        }
        ours
    }
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}
