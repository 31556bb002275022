//! Operator frames: what operators ask of a gateway. A gateway keeps nothing, so neither does this: all of it is about
//! now, and about one gateway.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::Refusal;

/// Sessions that one [`OperatorRequest::Sessions`] answers, and one [`OperatorRequest::Kick`] ends, at most.
pub const SESSIONS_MAX: u32 = 500;
/// Sessions that one [`OperatorRequest::Sessions`] looks at, at most: with a rare filter an answer may be empty and not
/// the last.
pub const SESSIONS_SEEN_MAX: u32 = 5_000;
/// Longest deadline of a drain, in ms.
pub const DRAIN_MS_MAX: u64 = 3_600_000;

/// Operator → gateway.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum OperatorRequest {
    /// What this gateway is and does.
    Status,
    /// Sessions in the order in which they came.
    Sessions {
        /// those above this number only: the last one of the answer before; 0 to begin with
        after: u64,
        /// how many; at most [`SESSIONS_MAX`]
        count: u32,
        /// which
        filter: SessionFilter,
    },
    /// Ends sessions with `KICKED`. What was acknowledged stays so, and its acknowledgement leaves before the close.
    Kick {
        /// [`GatewayStatus::incarnation`]: numbers of sessions begin anew when a gateway starts.
        /// Another one is refused with `CONFLICT`.
        incarnation: u16,
        /// their numbers; at most [`SESSIONS_MAX`]
        sessions: Vec<u64>,
    },
    /// Sends all devices elsewhere and takes no new ones; who is still there after the deadline is closed with
    /// `SHUTDOWN`. The gateway goes on running, without devices, until it is told otherwise.
    Drain {
        /// in ms, at most [`DRAIN_MS_MAX`]
        deadline_ms: u64,
    },
    /// Takes new connections again. Who was told to go still goes.
    Undrain,
    /// Reads the certificate's files anew, now.
    ReloadCertificate,
}

/// A way into a gateway.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum WayIn {
    /// native QUIC
    Quic,
    /// WebTransport over HTTP/3
    WebTransport,
    /// WebSocket over TLS
    WebSocket,
}

/// Which sessions; all of them unless something is set.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug, Default)]
pub struct SessionFilter {
    /// this one
    pub number: Option<u64>,
    /// of this tenant
    pub tenant: Option<u32>,
    /// of the users of this name
    pub user: Option<String>,
    /// of the devices of this name
    pub device: Option<String>,
    /// that came this way
    pub way: Option<WayIn>,
}

/// Gateway → operator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub enum OperatorResponse {
    /// `Status`, and how it is after `Drain`, `Undrain` and a `ReloadCertificate` that took place
    Status(Box<GatewayStatus>),
    /// `Sessions`
    Sessions {
        /// as in [`GatewayStatus`]
        incarnation: u16,
        /// rising by number
        sessions: Vec<SessionStatus>,
        /// ask again above this number; `None`: these were the last
        next: Option<u64>,
    },
    /// `Kick`
    Kicked {
        /// were told to end
        kicked: Vec<u64>,
        /// were gone already
        gone: Vec<u64>,
    },
    /// `ReloadCertificate`: the files cannot be used, and what was served is served on.
    NotReloaded {
        /// which file, and why
        why: String,
        /// how it is
        status: Box<GatewayStatus>,
    },
    /// why not
    Refused(Refusal),
}

/// What a gateway is and does.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct GatewayStatus {
    /// as it was told by `--name`, or the address it listens on
    pub name: String,
    /// chosen by chance at every start
    pub incarnation: u16,
    /// for devices
    pub address: String,
    /// of the program
    pub version: String,
    /// since its start, in ms
    pub up_ms: u64,
    /// nobody new is taken
    pub draining: bool,
    /// until who is still there is closed, in ms; `None`: it does not drain, or that time is over
    pub drain_left_ms: Option<u64>,
    /// connections by way in
    pub connections: Vec<(WayIn, u64)>,
    /// of them: behind Welcome
    pub sessions: u64,
    /// calls that logic nodes have not answered
    pub calls: u64,
    /// bytes that wait for devices
    pub queued_bytes: u64,
    /// links to logic nodes that are up
    pub links: u64,
    /// the certificate that is served, DER
    pub certificate: Bytes,
    /// SHA-256 of the certificate for WebTransport, and of the next; empty if it is the one above
    pub webtransport_hashes: Vec<String>,
}

/// One session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SessionStatus {
    /// of this incarnation of the gateway
    pub number: u64,
    /// how it came
    pub way: WayIn,
    /// whose it is; `None`: not yet behind Welcome
    pub owner: Option<SessionOwner>,
    /// where the device is now, as the gateway sees it
    pub peer: String,
    /// since the connection was there, in ms
    pub age_ms: u64,
    /// what its own task says; `None`: not in time
    pub live: Option<SessionLive>,
}

/// Whose a session is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SessionOwner {
    /// from the token or certificate
    pub tenant: u32,
    /// from the token or certificate
    pub user: String,
    /// as it says itself
    pub device: String,
}

/// What changes in a session.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct SessionLive {
    /// until its token or certificate ends, in ms
    pub expires_ms: Option<u64>,
    /// since something came from the device, in ms
    pub heard_ms: u64,
    /// smoothed round-trip time, in µs; `None`: the transport does not say
    pub rtt_us: Option<u64>,
    /// stream bytes from the device
    pub received_bytes: u64,
    /// stream bytes to the device
    pub sent_bytes: u64,
    /// bytes that wait for the device
    pub queued_bytes: u64,
    /// requests without an answer
    pub requests: u64,
    /// its subscription
    pub inbox: Option<InboxLive>,
}

/// How far a subscription is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Debug)]
pub struct InboxLive {
    /// first seq that was not given
    pub position: u64,
    /// entries that the device still takes
    pub credit: u64,
    /// seqs between the position and the tail, as far as the gateway knows: 0 if it knows of none that is missing
    pub lag: u64,
}
