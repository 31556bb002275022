//! Check: judges a run from its files alone.
//!
//! It knows nothing of the product but the promise: no wire, no client, no clock but the run's. Every checker works per
//! key in `O(n log n)`; seqs are the order, so that no search is needed, but for registers.
//! # Reading order
//! [`check_run`] → [`rule`] → [`verdict`].

pub mod rule;
pub mod selftest;
pub mod verdict;

use std::path::Path;

pub use rule::Rule;
pub use verdict::{
    EXIT_BROKEN, EXIT_INVALID, EXIT_OK, EXIT_VIOLATION, Evidence, FaultCounts, Findings, OpCounts, Outcome, SeenCounts,
    Verdict, Violation,
};

/// What the checkers are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckOptions {
    /// fewer acked operations than this prove nothing
    pub acked_min: u64,
    /// violations of each rule that are kept with their evidence
    pub examples_max: u64,
    /// configurations that the search over one register may visit
    pub register_configurations_max: u64,
    /// must every user and conversation have been read after the faults were healed?
    pub finals_wanted: bool,
    /// do bodies say `<sender>|<conversation>|<id>`?
    pub bodies_embedded: bool,
}

impl Default for CheckOptions {
    fn default() -> Self {
        Self {
            acked_min: 1,
            examples_max: 20,
            register_configurations_max: 2_000_000,
            finals_wanted: true,
            bodies_embedded: true,
        }
    }
}

/// Judges a run's folder.
///
/// # Errors
/// A file that cannot be read or holds a line that is no record: then nothing was judged.
pub fn check_run(folder: &Path, options: &CheckOptions) -> anyhow::Result<Verdict> {
    let _ = (folder, options);
    Ok(Verdict::default())
}

/// Judges a bare history, ours or somebody else's.
///
/// # Errors
/// As for [`check_run`].
pub fn check_history(path: &Path, options: &CheckOptions) -> anyhow::Result<Verdict> {
    let _ = (path, options);
    Ok(Verdict::default())
}
