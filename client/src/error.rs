//! Errors: the classes of ends that a caller must tell apart.

use seriatim_proto::error::Refusal;

use crate::endpoint::SetupError;

/// Why a client did not connect, or will not connect again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectError {
    /// The local side could not be set up.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The builder was not given something.
    #[error("connect without a {0}")]
    Missing(&'static str),
    /// The gateway refused this device; asking again would not help.
    #[error("refused by the gateway: {0}")]
    Refused(Refusal),
    /// The gateway is not who it should be, or speaks another protocol.
    #[error("handshake: {0}")]
    Handshake(String),
    /// No gateway answered in time.
    #[error("no answer from the gateway: {0}")]
    Timeout(String),
}

/// How a request ended, if not well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It did not happen, and will not.
    #[error("rejected: {0}")]
    Rejected(Refusal),
    /// It may have happened: only the same message id settles it.
    #[error("unknown outcome: {0}")]
    Unknown(Refusal),
}

impl RequestError {
    /// The refusal in it.
    pub fn refusal(&self) -> &Refusal {
        match self {
            Self::Rejected(refusal) | Self::Unknown(refusal) => refusal,
        }
    }
    /// May it have happened?
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// Why a subscription ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// Entries at its position were trimmed: restart from the inbox's first kept entry.
    #[error("entries from the position on were trimmed; the first kept is {trim}")]
    TooLong {
        /// first kept
        trim: seriatim_proto::ids::Seq,
    },
    /// The gateway refused it: a position from the future, or a dead client.
    #[error("refused: {0}")]
    Refused(Refusal),
}

/// A frame of the gateway that breaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an entry with a malformed {0}")]
pub struct EntryError(pub &'static str);
