//! Guard: checks of the cores that a model check takes out, one at a time, to see that it notices.
//!
//! A checker that has never found a bug proves nothing. [`crate::chaos`] plants bugs in whole processes; here one check
//! of a core goes missing inside one call, on one thread, so that many checks can run side by side in one process.
//! Without the feature `guards` every guard is in place, and the compiler leaves nothing of this module.
//!
//! # Reading order
//! [`Guard`] (the list), [`is_out`] (what the cores ask), `without` (what the model check calls).

/// A check of a core.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Guard {
    /// Apply refuses a write under another epoch than the slot's (design.md §3.7).
    FenceEpoch,
    /// Apply takes the commands of a slot in the order of `n`, each once (§3.7).
    FenceN,
    /// Apply claims a slot only if no other live lease holds it (§3.2).
    ClaimOfHeld,
    /// Apply stores the ceiling of what it reserves (§3.10).
    CeilingStored,
    /// Apply looks for the message id before it appends (§4).
    Dedupe,
    /// Apply skips what the inbox has (§4).
    DeliveryRepeat,
    /// A holder answers from memory only until its lease ends (§3.5).
    LeaseEnd,
    /// A holder that gives its slot back serves it no more (§3.5).
    Released,
    /// A namespace whose segment is under way waits for it (§3.12).
    OneFetch,
}

impl Guard {
    /// All of them.
    pub const ALL: &[Guard] = &[
        Guard::FenceEpoch,
        Guard::FenceN,
        Guard::ClaimOfHeld,
        Guard::CeilingStored,
        Guard::Dedupe,
        Guard::DeliveryRepeat,
        Guard::LeaseEnd,
        Guard::Released,
        Guard::OneFetch,
    ];
}

#[cfg(feature = "guards")]
mod armed {
    use std::cell::Cell;

    use super::Guard;

    thread_local! {
        static OUT: Cell<Option<Guard>> = const { Cell::new(None) };
    }

    /// Calls `act` on this thread with `guard` taken out; `None`: all are in place.
    pub fn without<T>(guard: Option<Guard>, act: impl FnOnce() -> T) -> T {
        // Also when `act` panics: an assertion of a core is a finding, and the thread goes on.
        struct Restore(Option<Guard>);
        impl Drop for Restore {
            fn drop(&mut self) {
                OUT.set(self.0);
            }
        }
        let _restore = Restore(OUT.replace(guard));
        act()
    }

    /// Is this check left out?
    pub fn is_out(guard: Guard) -> bool {
        OUT.get() == Some(guard)
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_guard_is_out_inside_the_call_only_even_if_it_panics() {
            assert!(!is_out(Guard::Dedupe));
            without(Some(Guard::Dedupe), || {
                assert!(is_out(Guard::Dedupe) && !is_out(Guard::FenceN));
                without(None, || assert!(!is_out(Guard::Dedupe)));
                assert!(is_out(Guard::Dedupe));
            });
            assert!(!is_out(Guard::Dedupe));
            std::panic::catch_unwind(|| without(Some(Guard::FenceN), || panic!("as an assertion does"))).unwrap_err();
            assert!(!is_out(Guard::FenceN));
        }
    }
}

#[cfg(feature = "guards")]
pub use armed::{is_out, without};

/// Is this check left out? Never in builds without the feature.
#[cfg(not(feature = "guards"))]
#[inline(always)]
pub fn is_out(_: Guard) -> bool {
    false
}
