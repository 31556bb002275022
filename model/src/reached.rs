//! Reached: how often the check came by the situations that it is about, so that it cannot pass by avoiding them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! situations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Something that a run must have seen.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Situation { $($(#[$doc])* $name,)* }
        impl Situation {
            /// All of them.
            pub const ALL: &[Situation] = &[$(Situation::$name,)*];
        }
    };
}

situations! {
    /// A write under a stale epoch, or after a release, was refused.
    FencedWrite,
    /// A command came before its turn.
    OvertakenWrite,
    /// A command came again after it was applied.
    PassedWrite,
    /// A retry was answered with the place of the first attempt.
    DedupedRetry,
    /// Another body under a message id was refused.
    Conflict,
    /// A node holds a slot that another one held.
    Takeover,
    /// A claim was refused because the slot is held.
    ClaimRefused,
    /// A holder gave its slot back.
    Released,
    /// A stale holder took a request after its successor's claim.
    StaleHolderAsked,
    /// A range was skipped because the inbox has it.
    RepeatSkipped,
    /// A range was answered with the place to go back to.
    Jump,
    /// An inbox entry was written with its message.
    LocalWritten,
    /// An inbox entry came by a delivery.
    Delivered,
    /// A holder that lost outcomes read what became of a send.
    Settled,
    /// A holder refused to answer from memory because its lease ended.
    LapsedRefused,
    /// Numbers were given.
    NumbersGiven,
    /// `Current` was answered.
    CurrentGiven,
    /// The leader changed while a command was under way.
    LeaderChanged,
    /// Nothing is under way, and every inbox has everything.
    AtRest,
}

/// Counts of one run. A count is of steps that the checker took, not of states.
#[derive(Clone, Debug)]
pub struct Reached(Arc<[AtomicU64]>);

impl Default for Reached {
    fn default() -> Self {
        Self(Situation::ALL.iter().map(|_| AtomicU64::new(0)).collect())
    }
}

impl Reached {
    pub(crate) fn note(&self, situation: Situation) {
        self.0[situation as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often.
    pub fn count(&self, situation: Situation) -> u64 {
        self.0[situation as usize].load(Ordering::Relaxed)
    }

    /// All situations that were seen, with how often.
    pub fn counts(&self) -> Vec<(Situation, u64)> {
        Situation::ALL.iter().map(|one| (*one, self.count(*one))).filter(|(_, count)| *count > 0).collect()
    }
}
