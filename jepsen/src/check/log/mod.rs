//! Log: one conversation, judged by its own seqs.
//!
//! ```text
//!  sends    all attempts under one id are one send: from the first attempt that may have worked to the first ok
//!  truth    seq → send, from acks and from everything that was shown (so that unknown outcomes find their place)
//!  shown    what a reader was given: rising, nothing missing inside, nothing missing above that was there before
//!  order    sends, reads and maxseqs at their places, swept once against real time
//! ```
//! # Invariants
//! S1 S2 S3 S4 S5 S6 V1 V4, I8 and I12 of a single read.

mod order;
mod reads;
mod sends;
mod shown;

pub(crate) use shown::Shown;

use super::tape::Track;
use super::verdict::Findings;

/// What is left to say of a conversation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LogEnd {
    /// was all of it read after the last append had ended?
    pub(crate) read_in_full: bool,
    /// has anything been acked?
    pub(crate) acked: bool,
}

/// Judges a conversation. `others` is what was shown elsewhere (inboxes, final reads); `unsent` are ids that nobody
/// sent as a message and that may be shown all the same.
pub(crate) fn check<'a>(
    track: &'a Track,
    others: Vec<Shown<'a>>,
    unsent: &[&'a str],
    findings: &mut Findings,
) -> LogEnd {
    let mut shown = shown::of_track(track);
    shown.extend(others);
    let mut log = sends::Log::of_track(track, unsent, findings);
    log.learn(&shown, findings);
    let truth = log.truth();
    reads::check(&log, &truth, &shown, findings);
    order::check(&log, &shown, findings);
    LogEnd { read_in_full: reads::is_read_in_full(track, &truth, &shown), acked: log.has_acks() }
}
