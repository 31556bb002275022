//! Progress: one line while it runs: in place on a terminal, else every two seconds.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::ledger::Ledger;

/// Shows it until it is dropped or aborted.
pub(crate) async fn show(ledger: Arc<Ledger>, messages: u64) {
    let in_place = std::io::stderr().is_terminal();
    let mut tick = tokio::time::interval(Duration::from_millis(if in_place { 200 } else { 2_000 }));
    let (mut last, mut last_at) = (0, Instant::now());
    tick.tick().await;
    loop {
        tick.tick().await;
        let delivered = ledger.delivered.load(Ordering::Relaxed);
        let rate = (delivered - last) as f64 / last_at.elapsed().as_secs_f64();
        (last, last_at) = (delivered, Instant::now());
        let line = format!(
            "{:>3} % · committed {} · delivered to everybody {delivered} of {messages} · {rate:.0}/s · entries on devices {}",
            delivered * 100 / messages.max(1),
            ledger.committed.load(Ordering::Relaxed),
            ledger.entries.load(Ordering::Relaxed),
        );
        let mut out = std::io::stderr().lock();
        // Nothing depends on the line.
        let _ = if in_place { write!(out, "\r\x1b[K{line}") } else { writeln!(out, "{line}") };
        let _ = out.flush();
    }
}

/// Ends the line in place.
pub(crate) fn end() {
    if std::io::stderr().is_terminal() {
        eprintln!();
    }
}
