//! Renewal: a fresh token for a session that is under way.
//!
//! One at a time, and none sooner than [`super::SessionLimits::renew_pause`] behind the one before. A token that is refused does
//! no harm: the old one holds until its end.

use std::time::{Duration, Instant};

use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::limits;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};

use super::{Renewal, RenewalEnd, Session, SessionEvent, State};
use crate::stream::StreamId;

/// The Renews of a session.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    /// Whose token is being checked.
    pub(super) request_id: Option<u64>,
    /// Before it there is no other one.
    next_at: Option<Instant>,
}

impl Session {
    pub(super) fn handle_renew(&mut self, now: Instant, request_id: u64, renew: v1::Renew) {
        let refusal = if renew.token.is_empty() || renew.token.len() > limits::TOKEN_BYTES_MAX as usize {
            Some(Refusal::new(ErrorCode::AuthFailed, "the token is missing or too long"))
        } else {
            let early = self.renewals.next_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
            let busy = self.renewals.request_id.is_some() || !early.is_zero();
            let pause_ms = u32::try_from(early.as_millis()).unwrap_or(u32::MAX).saturating_add(1);
            busy.then(|| Refusal::later(ErrorCode::Busy, "the Renew before was a moment ago", pause_ms))
        };
        if let Some(refusal) = refusal {
            return self.say(StreamId::CONTROL, request_id, Said::Error(wire::error_to_wire(&refusal)));
        }
        self.renewals.request_id = Some(request_id);
        self.renewals.next_at = Some(now + self.limits.renew_pause);
        self.events.push_back(SessionEvent::Renew { token: renew.token });
    }

    /// The verdict on the token of a Renew. Says what it came to; only after [`RenewalEnd::Renewed`] the token counts.
    pub fn handle_renewal(&mut self, now: Instant, verdict: Result<Renewal, Refusal>) -> RenewalEnd {
        let State::Open { tenant, user, expires_at, scopes } = &mut self.state else { return RenewalEnd::Gone };
        let Some(request_id) = self.renewals.request_id.take() else { return RenewalEnd::Gone };
        let (end, refusal) = match verdict {
            Ok(renewal) if (renewal.tenant, &renewal.user) != (*tenant, &*user) => {
                let text = "the token is of another user than the session";
                (RenewalEnd::OtherUser, Refusal::new(ErrorCode::AuthFailed, text))
            }
            Ok(renewal) if renewal.expires_at <= now => {
                (RenewalEnd::Refused, Refusal::new(ErrorCode::AuthExpired, "the token's time is over"))
            }
            Ok(renewal) => {
                (*expires_at, *scopes) = (renewal.expires_at, renewal.scopes);
                let expires_in_ms = millis_until(now, renewal.expires_at);
                self.say(StreamId::CONTROL, request_id, Said::Renewed(v1::Renewed { expires_in_ms }));
                if !renewal.scopes.device {
                    self.end_forbidden_subscription();
                }
                return RenewalEnd::Renewed;
            }
            Err(refusal) => (RenewalEnd::Refused, refusal),
        };
        self.say(StreamId::CONTROL, request_id, Said::Error(wire::error_to_wire(&refusal)));
        end
    }

    /// The new token does not name a device: nothing more of the inbox.
    fn end_forbidden_subscription(&mut self) {
        let Some(id) = self.inbox.as_ref().map(|inbox| inbox.id) else { return };
        let refusal = Refusal::new(ErrorCode::Forbidden, "the token's scopes do not name a device");
        self.say(StreamId::Inbox(id), 0, Said::Error(wire::error_to_wire(&refusal)));
        self.unsubscribe(id);
    }
}

/// Whole milliseconds from `now` to `at`.
pub(super) fn millis_until(now: Instant, at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX)
}
