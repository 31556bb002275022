//! Stop: what ends a process in order: SIGTERM, SIGINT, or the end of a stdin that the parent holds.
//!
//! # Failure
//! A process that does not end within [`PATIENCE`] after the first order ends without order; a second signal does the
//! same at once. The end of stdin is no signal: a parent that stops a child closes stdin and signals.

use std::io::Read;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// Longest ordered stop.
const PATIENCE: Duration = Duration::from_secs(15);

const PARENT_GONE: &str = "the parent is gone";

/// Ends when the process should stop.
pub(crate) async fn wait(with_parent: bool) {
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate()), listen(SignalKind::interrupt()));
    let parent = parent_gone(with_parent);
    let why = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        () = parent => PARENT_GONE,
    };
    tracing::info!(why, "stopping");
    tokio::spawn(async move {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut signalled = why != PARENT_GONE;
        let why = loop {
            let why = tokio::select! {
                _ = terminate.recv() => "second SIGTERM",
                _ = interrupt.recv() => "second SIGINT",
                () = tokio::time::sleep_until(deadline) => break "the ordered stop took too long",
            };
            if std::mem::replace(&mut signalled, true) {
                break why;
            }
        };
        tracing::warn!(why, "stopped without order");
        std::process::exit(1);
    });
}

fn listen(kind: SignalKind) -> Signal {
    signal(kind).expect("SIGTERM and SIGINT can be listened to")
}

/// Ends when stdin ends; never if it is not asked for. A thread of its own, because stdin cannot be polled everywhere.
async fn parent_gone(with_parent: bool) {
    if !with_parent {
        return std::future::pending().await;
    }
    let (gone, heard) = oneshot::channel();
    std::thread::spawn(move || {
        let mut rest = [0u8; 64];
        while matches!(std::io::stdin().lock().read(&mut rest), Ok(bytes) if bytes > 0) {}
        let _ = gone.send(());
    });
    let _ = heard.await;
}
