//! Event: what a session asks of its shell, what it is told of who came, and its bounds.

use std::fmt;
use std::time::{Duration, Instant};

use seriatim_proto::ids::{DeviceId, Generation, Seq, TenantId, UserId};
use seriatim_proto::limits;
use seriatim_proto::logic::{Call, Scopes};

#[cfg(doc)]
use super::Session;

/// A call of a session, unique within it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// The bounds of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// weight of requests in flight at which it stops reading
    pub requests_max: u32,
    /// send lanes
    pub lanes_max: u32,
    /// answers waiting to be written, at which it stops reading
    pub answer_bytes_max: usize,
    /// pushed bytes waiting to be written, at which the push stops
    pub push_bytes_max: usize,
    /// time for Hello, and then for the verdict on its token
    pub hello_timeout: Duration,
    /// time between two Renews
    pub renew_pause: Duration,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            requests_max: limits::SESSION_REQUESTS_MAX,
            lanes_max: limits::SESSION_LANES_MAX,
            answer_bytes_max: limits::SESSION_PUSH_BYTES_MAX as usize,
            push_bytes_max: limits::SESSION_PUSH_BYTES_MAX as usize,
            hello_timeout: Duration::from_millis(limits::HELLO_TIMEOUT_MS),
            renew_pause: Duration::from_millis(limits::RENEW_PAUSE_MS),
        }
    }
}

/// The verdict on a token or certificate that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// chosen by the gateway
    pub session_id: u64,
    /// from the token or certificate
    pub tenant: TenantId,
    /// from the token or certificate
    pub user: UserId,
    /// of the cluster
    pub generation: Generation,
    /// Unix milliseconds, for people
    pub server_time_ms: u64,
    /// when the token or certificate ends
    pub expires_at: Instant,
    /// what it allows
    pub scopes: Scopes,
}

/// The verdict on the token of a Renew that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renewal {
    /// from the token
    pub tenant: TenantId,
    /// from the token
    pub user: UserId,
    /// when the token ends
    pub expires_at: Instant,
    /// what it allows
    pub scopes: Scopes,
}

/// What a Renew came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalEnd {
    /// The new token holds: give it to the logic nodes before anything else of this session.
    Renewed,
    /// It is no good, or over.
    Refused,
    /// It is of another user or tenant.
    OtherUser,
    /// Nobody waits for it: the session is over.
    Gone,
}

/// What the session asks of its shell.
#[derive(Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// Check the token, then [`Session::handle_verdict`].
    Authenticate {
        /// as it came; empty: the device relies on its certificate ([`Session::certified`])
        token: String,
        /// checked
        device: DeviceId,
    },
    /// Check the token of a Renew, then [`Session::handle_renewal`].
    Renew {
        /// as it came, not empty
        token: String,
    },
    /// Ask a logic node, then [`Session::handle_reply`].
    Call {
        /// of the answer
        request: RequestId,
        /// what
        call: Call,
    },
    /// Have the inbox pushed from here on.
    Register {
        /// first seq that the device does not have
        position: Seq,
    },
    /// No more pushes.
    Unregister,
    /// Write what [`Session::poll_transmit`] still gives, as far as it goes, then close.
    Close {
        /// QUIC application close code
        code: u32,
        /// for people only
        reason: String,
    },
}

impl fmt::Debug for SessionEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither tokens nor bodies belong into a log.
        match self {
            SessionEvent::Authenticate { device, .. } => write!(f, "Authenticate({device})"),
            SessionEvent::Renew { .. } => f.write_str("Renew"),
            SessionEvent::Call { request, .. } => write!(f, "Call({request:?})"),
            SessionEvent::Register { position } => write!(f, "Register({position:?})"),
            SessionEvent::Unregister => f.write_str("Unregister"),
            SessionEvent::Close { code, reason } => write!(f, "Close({code}, {reason})"),
        }
    }
}
