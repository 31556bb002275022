//! Errors: the one table of codes, each with the three answers that a caller needs:
//! may it retry, did *this attempt* happen, and how does the connection end.
//!
//! Clients, logic nodes, gateways, raftctl and the harness share it. Numbers are stable and never reused;
//! a new code takes the next free number.

use std::fmt;

use serde::{Deserialize, Serialize};

/// May the same request be sent again?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It would be refused again.
    Never,
    /// At once, at another node or on a new connection.
    Elsewhere,
    /// After a pause (`retry_after_ms` where given).
    Later,
}

/// Did this attempt take effect?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    /// Surely not.
    DidNotHappen,
    /// Perhaps: only a retry under the same id, `QuerySend` or `CancelSend` settles it.
    Unknown,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $retry:ident, $certainty:ident, $close:literal;)*) => {
        /// Every refusal that leaves a process.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(u16)]
        pub enum ErrorCode { $($(#[$doc])* $name = $number,)* }

        impl ErrorCode {
            /// All codes, in alphabetical order.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$name,)*];
            /// The stable number.
            pub fn number(self) -> u16 { self as u16 }
            /// The code with this number.
            pub fn from_number(number: u16) -> Option<ErrorCode> {
                match number { $($number => Some(ErrorCode::$name),)* _ => None }
            }
            /// The name on the wire and in `raftctl`, `SCREAMING_SNAKE`.
            pub fn name(self) -> &'static str { match self { $(ErrorCode::$name => $text,)* } }
            /// May it be retried?
            pub fn retry(self) -> Retry { match self { $(ErrorCode::$name => Retry::$retry,)* } }
            /// Did this attempt happen?
            pub fn certainty(self) -> Certainty { match self { $(ErrorCode::$name => Certainty::$certainty,)* } }
            /// Does it speak for every attempt under the same message id, for good? Any other refusal speaks for its
            /// own attempt: after an attempt whose outcome is unknown, it settles nothing.
            pub fn settles(self) -> bool {
                matches!(self, ErrorCode::AlreadyExists | ErrorCode::Cancelled | ErrorCode::Conflict)
            }
            /// The QUIC application close code when this ends the connection.
            pub fn close_code(self) -> u32 { match self { $(ErrorCode::$name => $close,)* } }
        }
    };
}

codes! {
    /// Another process has the port. Said by a process that cannot start, never on the wire.
    AddressInUse = 34, "ADDRESS_IN_USE", Later, DidNotHappen, 0;
    /// The conversation exists with other content.
    AlreadyExists = 1, "ALREADY_EXISTS", Never, DidNotHappen, 0;
    /// The message has as many edits or, from this member, reactions as it may have, or the conversation pins.
    AmendmentsTooMany = 40, "AMENDMENTS_TOO_MANY", Never, DidNotHappen, 0;
    /// The token's time is over.
    AuthExpired = 2, "AUTH_EXPIRED", Never, DidNotHappen, 6;
    /// The token is missing, malformed, badly signed or for somebody else.
    AuthFailed = 3, "AUTH_FAILED", Never, DidNotHappen, 5;
    /// Too much of this conversation is not delivered yet.
    Backlogged = 4, "BACKLOGGED", Later, DidNotHappen, 0;
    /// A bound is reached.
    Busy = 5, "BUSY", Later, DidNotHappen, 11;
    /// The sender cancelled this message id: no attempt happened, and none will.
    Cancelled = 33, "CANCELLED", Never, DidNotHappen, 0;
    /// Another body under this message id.
    Conflict = 6, "CONFLICT", Never, DidNotHappen, 0;
    /// More numbers than one `Next` may take.
    CountTooLarge = 29, "COUNT_TOO_LARGE", Never, DidNotHappen, 0;
    /// The control stream was closed.
    CriticalStreamClosed = 7, "CRITICAL_STREAM_CLOSED", Elsewhere, Unknown, 4;
    /// A cursor above the inbox's tail.
    CursorAhead = 8, "CURSOR_AHEAD", Never, DidNotHappen, 0;
    /// The message id is older than what dedupe still knows.
    Expired = 9, "EXPIRED", Never, DidNotHappen, 0;
    /// Another process runs on the data folder. Said by a process that cannot start, never on the wire.
    FolderInUse = 35, "FOLDER_IN_USE", Later, DidNotHappen, 0;
    /// The token does not allow it.
    Forbidden = 30, "FORBIDDEN", Never, DidNotHappen, 0;
    /// A frame over the limit.
    FrameTooLarge = 10, "FRAME_TOO_LARGE", Never, DidNotHappen, 3;
    /// The namespace has used up its numbers of this generation.
    GenerationExhausted = 31, "GENERATION_EXHAUSTED", Never, DidNotHappen, 0;
    /// No Hello in time, or no verdict on its token.
    HelloTimeout = 11, "HELLO_TIMEOUT", Elsewhere, DidNotHappen, 13;
    /// A defect or a broken disk on our side.
    Internal = 12, "INTERNAL", Later, Unknown, 1;
    /// The session was ended by an operator or by the user.
    Kicked = 13, "KICKED", Never, Unknown, 7;
    /// Bytes that are no frame, or a field out of its range.
    Malformed = 14, "MALFORMED", Never, DidNotHappen, 2;
    /// More members than a conversation may have.
    MembersTooMany = 15, "MEMBERS_TOO_MANY", Never, DidNotHappen, 0;
    /// A body over the limit.
    MessageTooLarge = 16, "MESSAGE_TOO_LARGE", Never, DidNotHappen, 0;
    /// Only the author of a message may edit or recall it.
    NotAuthor = 38, "NOT_AUTHOR", Never, DidNotHappen, 0;
    /// No such thing, or not yours: the same from outside.
    NotFound = 17, "NOT_FOUND", Never, DidNotHappen, 0;
    /// This node does not hold the slot.
    NotHolder = 18, "NOT_HOLDER", Elsewhere, DidNotHappen, 0;
    /// This store does not lead the group.
    NotLeader = 19, "NOT_LEADER", Elsewhere, DidNotHappen, 0;
    /// The message that this one follows is not settled yet.
    OutOfOrder = 20, "OUT_OF_ORDER", Later, DidNotHappen, 0;
    /// The tenant or the user asks more often than it may; `retry_after_ms` says when there is room.
    QuotaExceeded = 32, "QUOTA_EXCEEDED", Later, DidNotHappen, 0;
    /// The store refuses writes: its disk is nearly full.
    ReadOnly = 21, "READ_ONLY", Later, DidNotHappen, 0;
    /// The message was recalled: nothing can be done with it any more.
    Recalled = 37, "RECALLED", Never, DidNotHappen, 0;
    /// The node is going down.
    Shutdown = 22, "SHUTDOWN", Elsewhere, Unknown, 9;
    /// No answer in time.
    Timeout = 23, "TIMEOUT", Later, Unknown, 0;
    /// The message is older than the tenant lets edits or recalls be.
    TooLate = 39, "TOO_LATE", Never, DidNotHappen, 0;
    /// No quorum, no leader or no holder for now.
    Unavailable = 24, "UNAVAILABLE", Later, Unknown, 0;
    /// A frame or version that this side does not know.
    Unsupported = 25, "UNSUPPORTED", Never, DidNotHappen, 12;
    /// The peer belongs to another cluster, or is not the node it should be.
    WrongCluster = 26, "WRONG_CLUSTER", Never, DidNotHappen, 2;
    /// The group does not own the slot.
    WrongGroup = 27, "WRONG_GROUP", Elsewhere, DidNotHappen, 0;
    /// The data folder belongs to another store. Said by a process that cannot start, never on the wire.
    WrongStore = 36, "WRONG_STORE", Never, DidNotHappen, 0;
    /// A frame that is known but not allowed here.
    WrongStream = 28, "WRONG_STREAM", Never, DidNotHappen, 2;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal as it travels: the code, a sentence for people, and when to come again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// what happened
    pub code: ErrorCode,
    /// for people only; never holds a body, a token or a key
    pub message: String,
    /// earliest useful retry, 0 if it does not matter
    pub retry_after_ms: u32,
}

impl Refusal {
    /// A refusal without a pause.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: 0 }
    }
    /// `Busy` or another refusal that asks for a pause.
    pub fn later(code: ErrorCode, message: impl Into<String>, retry_after_ms: u32) -> Self {
        Self { code, message: message.into(), retry_after_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_alphabetical_and_numbers_unique() {
        let names: Vec<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
        let mut sorted = names.clone();
        sorted.sort_unstable();
        assert_eq!(names, sorted);
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_number(code.number()), Some(*code));
            assert!(code.close_code() < 256);
        }
    }

    #[test]
    fn a_timeout_is_unknown() {
        assert_eq!(ErrorCode::Timeout.certainty(), Certainty::Unknown);
        assert_eq!(ErrorCode::Busy.certainty(), Certainty::DidNotHappen);
    }
}
