//! Silence: tells a gateway that is gone from one that has nothing to say, long before QUIC's idle timeout.
//!
//! QUIC acknowledges frames within a round trip and 25 ms (RFC 9000, `max_ack_delay`), and probes for what was not.
//! If frames that must be acknowledged went out, or datagrams again and again, and nothing of any kind came back for
//! [`SILENCE`], nobody is there: a killed gateway, a network that drops everything. The client dials again, at the next
//! address if it has several. A last acknowledgement of our own is one datagram that nobody answers, so an idle
//! connection stays as it is.

use std::time::{Duration, Instant};

use quinn::Connection;

/// Longest time without an answer of the transport.
pub(crate) const SILENCE: Duration = Duration::from_secs(3);
/// Period of looking at the connection's counts.
const LOOK: Duration = Duration::from_millis(500);

/// Counts of a connection. They only rise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Counts {
    /// datagrams that came in
    received: u64,
    /// datagrams that went out
    sent: u64,
    /// frames in them that must be acknowledged, without QUIC's own probes
    asked: u64,
}

impl Counts {
    fn of(connection: &Connection) -> Self {
        let stats = connection.stats();
        Self {
            received: stats.udp_rx.datagrams,
            sent: stats.udp_tx.datagrams,
            asked: stats.frame_tx.ping + stats.frame_tx.stream,
        }
    }
}

/// What was seen since something came in.
#[derive(Debug, Default)]
struct Silence {
    last: Counts,
    /// looks at which more had gone out
    rises: u32,
    /// when something was first seen to be unanswered
    since: Option<Instant>,
}

impl Silence {
    /// True: nobody is there.
    fn look(&mut self, now: Instant, counts: Counts) -> bool {
        let before = std::mem::replace(&mut self.last, counts);
        if counts.received != before.received {
            (self.rises, self.since) = (0, None);
            return false;
        }
        self.rises += u32::from(counts.sent != before.sent);
        if counts.asked != before.asked || self.rises >= 2 {
            self.since.get_or_insert(now);
        }
        self.since.is_some_and(|since| now.duration_since(since) >= SILENCE)
    }
}

/// Ends when the other side is silent.
pub(crate) async fn silent(connection: Connection) {
    let mut silence = Silence::default();
    loop {
        tokio::time::sleep(LOOK).await;
        if silence.look(Instant::now(), Counts::of(&connection)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_question_without_any_answer_is_silence() {
        let begin = Instant::now();
        let mut silence = Silence::default();
        let mut look = |s: u64, received, sent, asked| {
            silence.look(begin + Duration::from_secs(s), Counts { received, sent, asked })
        };
        assert!(!look(1, 10, 10, 5));
        // Idle for long, after a last acknowledgement of our own.
        assert!(!look(2, 10, 11, 5) && !look(60, 10, 11, 5) && !look(61, 10, 11, 5));
        // A keep-alive, answered before and behind a look.
        assert!(!look(70, 11, 12, 6) && !look(80, 11, 13, 7) && !look(81, 12, 13, 7) && !look(95, 12, 13, 7));
        // Asked, and nobody is there.
        assert!(!look(100, 12, 14, 8) && !look(102, 12, 14, 8));
        assert!(look(103, 12, 14, 8));
        // An answer after all; then a question in the same look as the last answer, and only QUIC's probes behind it.
        assert!(!look(104, 13, 15, 9));
        assert!(!look(105, 13, 16, 9) && !look(106, 13, 17, 9) && !look(108, 13, 17, 9));
        assert!(look(109, 13, 18, 9));
    }
}
