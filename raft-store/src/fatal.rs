//! Fatal: the one way in which a part of the store says that the process must stop.
//!
//! A failed write or fsync is never retried and never acknowledged: whoever sees it raises the signal, and the
//! process ends with an error.

use std::sync::Arc;

use tokio::sync::watch;

/// Raised at most once; the first reason stays.
#[derive(Clone, Debug)]
pub(crate) struct FatalSignal(Arc<watch::Sender<Option<Arc<str>>>>);

impl FatalSignal {
    /// A signal that nobody has raised.
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Says that the process must stop, and why.
    pub(crate) fn raise(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.0.send_if_modified(|current| {
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
        self.0.borrow().clone()
    }

    /// Waits until it is raised.
    pub(crate) async fn raised(&self) -> Arc<str> {
        let mut receiver = self.0.subscribe();
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
