//! Admission: bytes proposed and not yet answered, bounded per group and per store. Full is `Busy` at the door.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bound and what of it is in use. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_max: u64,
    used: AtomicU64,
}

impl Budget {
    /// All of it is free.
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Inner { bytes_max, used: AtomicU64::new(0) }))
    }

    /// Takes `bytes`, or nothing. What is alone always fits, so that no bound can lock out a whole entry.
    pub(crate) fn take(&self, bytes: u64) -> Option<Taken> {
        self.0
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                (used == 0 || used.saturating_add(bytes) <= self.0.bytes_max).then(|| used.saturating_add(bytes))
            })
            .ok()
            .map(|_| Taken { budget: self.clone(), bytes })
    }
}

/// Gives its bytes back when dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    budget: Budget,
    bytes: u64,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.0.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_refuses_and_what_is_dropped_comes_back() {
        let budget = Budget::new(100);
        let first = budget.take(60).unwrap();
        assert!(budget.take(41).is_none());
        let second = budget.take(40).unwrap();
        drop(first);
        assert!(budget.take(60).is_some());
        drop(second);
        assert!(budget.take(1_000).is_some(), "what is alone always fits");
    }
}
