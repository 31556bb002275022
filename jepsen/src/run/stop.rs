//! Stop: an operator's Ctrl-C, or a SIGTERM: the run ends, and cleans up behind itself.

use tokio::signal::unix::{SignalKind, signal};

/// The run was told to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the run was interrupted")]
pub struct Interrupted;

/// Ends when somebody wants the run to end.
pub async fn interrupted() -> Interrupted {
    let wait = async |kind| match signal(kind) {
        Ok(mut signals) => {
            signals.recv().await;
        }
        // Without a handler the signal ends the process by itself.
        Err(_) => std::future::pending().await,
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
    }
    Interrupted
}
