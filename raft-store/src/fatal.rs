//! Fatal: the one way in which a part of the store says that the process must stop.
//!
//! A failed write or fsync is never retried and never acknowledged: whoever sees it raises the signal, and the
//! process ends with an error. If the reason is that data on disk is damaged, that is noted for the next start (rot.rs).

use std::path::PathBuf;
use std::sync::Arc;

use seriatim_store_core::Fatal;
use tokio::sync::watch;

use crate::rot;

/// Raised at most once; the first reason stays.
#[derive(Clone, Debug)]
pub(crate) struct FatalSignal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    reason: watch::Sender<Option<Arc<str>>>,
    /// what is damaged, found by who reads for nobody: the process goes on with it
    damage: watch::Sender<Option<Arc<str>>>,
    /// the data folder, where rot is noted
    folder: Option<PathBuf>,
}

impl FatalSignal {
    /// A signal that nobody has raised, and that notes nothing.
    #[cfg(test)]
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { reason: watch::Sender::new(None), damage: watch::Sender::new(None), folder: None }))
    }

    /// A signal that nobody has raised, of the store of a data folder.
    pub(crate) fn of(folder: PathBuf) -> Self {
        Self(Arc::new(Shared {
            reason: watch::Sender::new(None),
            damage: watch::Sender::new(None),
            folder: Some(folder),
        }))
    }

    /// Data on disk is damaged, and what needs it cannot go on: notes it for the next start, and stops this process.
    pub(crate) fn raise_rot(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.note(&reason);
        self.raise(reason);
    }

    /// Data on disk is damaged, and nobody needs it just now: notes it, for rot.rs and for the next start. May block.
    pub(crate) fn note_damage(&self, what: impl Into<String>) {
        let what = what.into();
        let is_new = self.0.damage.send_if_modified(|damage| {
            let is_new = damage.is_none();
            damage.get_or_insert_with(|| what.as_str().into());
            is_new
        });
        if is_new {
            tracing::error!(what, "ALARM: rot: a database is damaged; its replicas go on until others can do without");
            self.note(&what);
        }
    }

    /// As [`FatalSignal::raise_of`], of a read that nobody waits for: what only failed is tried again another time. A
    /// process that has no descriptor or no memory left just then serves its groups all the same.
    pub(crate) fn note_damage_of(&self, act: std::fmt::Arguments<'_>, fatal: &Fatal) {
        match fatal {
            Fatal::Corrupt(_) => self.note_damage(format!("{act}: {fatal}")),
            Fatal::Broken { .. } | Fatal::Storage(_) | Fatal::Entry(_) => {
                tracing::error!(%act, error = %fatal, "a read in the background failed");
            }
        }
    }

    /// What is damaged, if anything was noted.
    pub(crate) fn damage(&self) -> Option<Arc<str>> {
        self.0.damage.borrow().clone()
    }

    fn note(&self, what: &str) {
        if let Some(folder) = &self.0.folder
            && let Err(error) = rot::note(folder, what)
        {
            tracing::error!(%error, "the next start does not know that data is damaged, and finds it again");
        }
    }

    /// What apply or a read says; `act` is what it was about to do.
    pub(crate) fn raise_of(&self, act: std::fmt::Arguments<'_>, fatal: &Fatal) {
        match fatal {
            Fatal::Corrupt(_) => self.raise_rot(format!("{act}: {fatal}")),
            Fatal::Broken { .. } | Fatal::Storage(_) | Fatal::Entry(_) => self.raise(format!("{act}: {fatal}")),
        }
    }

    /// Says that the process must stop, and why.
    pub(crate) fn raise(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.0.reason.send_if_modified(|current| {
            if current.is_some() {
                return false;
            }
            tracing::error!(reason, "the store must stop");
            *current = Some(reason.into());
            true
        });
    }

    /// The reason, if raised.
    pub(crate) fn reason(&self) -> Option<Arc<str>> {
        self.0.reason.borrow().clone()
    }

    /// Waits until it is raised.
    pub(crate) async fn raised(&self) -> Arc<str> {
        let mut receiver = self.0.reason.subscribe();
        loop {
            if let Some(reason) = receiver.borrow_and_update().clone() {
                return reason;
            }
            // The sender lives in `self`, so this cannot fail; if it did, waiting for ever would be right.
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_read_for_nobody_meets_stops_no_process() {
        let fatal = FatalSignal::new();
        fatal.note_damage_of(format_args!("scrub"), &Fatal::Storage("too many open files".to_owned()));
        assert_eq!((fatal.reason(), fatal.damage()), (None, None));
        fatal.note_damage_of(format_args!("scrub"), &Fatal::Corrupt("a block".to_owned()));
        assert!(fatal.reason().is_none() && fatal.damage().is_some(), "noted, and others do without it first");
        fatal.raise_of(format_args!("apply"), &Fatal::Storage("too many open files".to_owned()));
        assert!(fatal.reason().is_some(), "apply cannot go on");
    }
}
