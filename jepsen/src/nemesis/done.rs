//! Done: what came of an injection or a healing, and whom it hit.

use crate::history::Effect;

/// What came of an injection or a healing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// did it take effect?
    pub effect: Effect,
    /// names of nodes
    pub targets: Vec<String>,
    /// for people
    pub detail: String,
}

impl Done {
    /// It was seen to take effect.
    pub fn installed(targets: &[String], detail: impl Into<String>) -> Self {
        Self { effect: Effect::Installed, targets: targets.to_vec(), detail: detail.into() }
    }

    /// Nothing was done.
    pub fn skipped(why: impl Into<String>) -> Self {
        Self { effect: Effect::Skipped, targets: Vec::new(), detail: why.into() }
    }

    /// Something may have been done.
    pub fn indeterminate(targets: &[String], detail: impl Into<String>) -> Self {
        Self { effect: Effect::Indeterminate, targets: targets.to_vec(), detail: detail.into() }
    }

    /// Installed, or what went wrong on the way.
    pub(super) fn of(targets: &[String], result: anyhow::Result<String>) -> Self {
        match result {
            Ok(detail) => Done::installed(targets, detail),
            Err(error) => Done::indeterminate(targets, format!("{error:#}")),
        }
    }
}

/// Of a healing that has nothing to undo.
pub(super) fn nothing_to_undo() -> Done {
    Done::skipped("nothing to undo")
}
