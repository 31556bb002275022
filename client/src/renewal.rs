//! Renewal: asks for a fresh token before the session's own ends, and shows it to the gateway.
//!
//! ```text
//! off ◀─ no end said, a token that never changes ─ begin ─▶ waiting ─▶ asking the source ─▶ shown ─ Renewed ─▶ waiting …
//!                                                             ▲ a pause ──┴── failed ────────┴─ refused, no answer
//! ```
//!
//! Nothing is given up before the session's end: then the client comes again, with a token that it asks for anew.

use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use seriatim_proto::error::ErrorCode;
use seriatim_proto::limits;
use seriatim_proto::wire::error_from_wire;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use tracing::{debug, warn};

use crate::builder::{Asking, Options};

/// Shares of what is left of the session at which it is renewed, drawn at random.
const SHARE: std::ops::Range<f64> = 0.5..0.7;
/// First pause after a failure; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Time of the source, and then of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

enum State {
    Off,
    Waiting(Instant),
    Asking { token: Asking, until: Instant },
    Shown { until: Instant },
}

/// The renewals of a connection.
pub(crate) struct Renewal {
    state: State,
    pause: Duration,
}

impl Renewal {
    /// Of no connection yet.
    pub(crate) fn new() -> Self {
        Self { state: State::Off, pause: PAUSE_MIN }
    }

    /// A session began, or was renewed, that lives for so long; 0: its gateway does not say.
    pub(crate) fn begin(&mut self, now: Instant, options: &Options, expires_in_ms: u64) {
        self.pause = PAUSE_MIN;
        self.state = if expires_in_ms == 0 || options.token_fixed {
            State::Off
        } else {
            let wait = Duration::from_millis(expires_in_ms).mul_f64(rand::random_range(SHARE));
            // A source may give the same token again: then it is asked no more often than the gateway takes it.
            State::Waiting(now + wait.max(Duration::from_millis(limits::RENEW_PAUSE_MS)))
        };
    }

    /// The connection is gone.
    pub(crate) fn stop(&mut self) {
        self.state = State::Off;
    }

    /// When to call [`Renewal::poll`] again.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Off => None,
            State::Waiting(at) | State::Asking { until: at, .. } | State::Shown { until: at } => Some(at),
        }
    }

    /// A token to show now.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, now: Instant, options: &Options) -> Option<String> {
        loop {
            match &mut self.state {
                State::Waiting(at) if *at <= now => {
                    self.state = State::Asking { token: (options.token)(), until: now + PATIENCE };
                }
                State::Asking { token, until } => match token.as_mut().poll(cx) {
                    Poll::Ready(Ok(token)) => {
                        self.state = State::Shown { until: now + PATIENCE };
                        return Some(token);
                    }
                    Poll::Ready(Err(error)) => self.fail(now, Duration::ZERO, &error),
                    Poll::Pending if *until <= now => self.fail(now, Duration::ZERO, "the token source gives nothing"),
                    Poll::Pending => return None,
                },
                State::Shown { until } if *until <= now => self.fail(now, Duration::ZERO, "no answer to Renew"),
                State::Off | State::Waiting(_) | State::Shown { .. } => return None,
            }
        }
    }

    /// What the gateway says to the token.
    pub(crate) fn handle_answer(&mut self, now: Instant, options: &Options, said: &Said) {
        match said {
            Said::Renewed(renewed) => {
                debug!(expires_in_ms = renewed.expires_in_ms, "session renewed");
                self.begin(now, options, renewed.expires_in_ms);
            }
            Said::Error(error) => {
                let refusal = error_from_wire(error);
                match refusal.code {
                    ErrorCode::Unsupported => self.stop(),
                    _ => {
                        let at_least = Duration::from_millis(u64::from(refusal.retry_after_ms));
                        self.fail(now, at_least, &refusal.to_string());
                    }
                }
            }
            _ => {}
        }
    }

    fn fail(&mut self, now: Instant, at_least: Duration, why: &str) {
        let pause = self.pause.mul_f64(rand::random_range(0.5..1.0)).max(at_least);
        warn!(why, ?pause, "session not renewed");
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        self.state = State::Waiting(now + pause);
    }
}
