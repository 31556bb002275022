//! Failure: why a verb did not do what it was asked, with what is safe to do next, and the exit code of its class.

use std::process::ExitCode;

use seriatim_proto::error::{ErrorCode, Refusal};

use crate::cli::Format;

/// The documented exit codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Ok = 0,
    Internal = 1,
    Usage = 2,
    NotFound = 3,
    Precondition = 4,
    Forbidden = 5,
    Unreachable = 6,
    NoQuorum = 7,
    Unhealthy = 10,
    Violation = 12,
}

/// Text of `raftctl help exit-codes`.
pub(crate) const EXIT_CODES: &str = "\
0   ok
1   internal or other
2   usage
3   not found
4   precondition failed (a conflict, a cursor from the future, an id mismatch)
5   unauthenticated or forbidden
6   unreachable, or no answer in time
7   no quorum, no leader or no holder
10  unhealthy
12  a check found a violation (lost, duplicated, out of order, replicas differ, a case of conformance)
130 interrupted";

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why, and what next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// class
    pub(crate) exit: Exit,
    /// `E` and the code's number, or `E9xx` for what only raftctl knows
    pub(crate) code: String,
    /// for people
    pub(crate) message: String,
    /// what is safe to do next
    pub(crate) hint: Option<String>,
    /// a gateway gave no answer, or none in time: only the stores know whether that is for want of a quorum
    pub(crate) doubtful: bool,
}

impl Failure {
    fn own(exit: Exit, number: u16, message: impl Into<String>) -> Self {
        Self { exit, code: format!("E{number:04}"), message: message.into(), hint: None, doubtful: false }
    }
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::own(Exit::Internal, 900, message)
    }
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::own(Exit::Usage, 901, message)
    }
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::own(Exit::NotFound, 902, message)
    }
    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::own(Exit::Forbidden, 906, message)
    }
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self::own(Exit::Unreachable, 903, message)
    }
    pub(crate) fn no_quorum(message: impl Into<String>) -> Self {
        Self::own(Exit::NoQuorum, 904, message)
    }
    pub(crate) fn precondition(message: impl Into<String>) -> Self {
        Self::own(Exit::Precondition, 905, message)
    }

    /// With what is safe to do next.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With a doubt that the stores can settle.
    #[must_use]
    pub(crate) fn doubtful(mut self) -> Self {
        self.doubtful = true;
        self
    }

    /// A refusal of the cluster, under the code's own number.
    pub(crate) fn refused(act: &str, refusal: &Refusal) -> Self {
        let failure = Self {
            exit: exit_of(refusal.code),
            code: format!("E{:04} {}", refusal.code.number(), refusal.code.name()),
            message: format!("{act}: {}", refusal.message),
            hint: None,
            doubtful: false,
        };
        match refusal.code {
            ErrorCode::AuthFailed | ErrorCode::AuthExpired => {
                failure.hint("a fresh --token-file, or --dev-key of this cluster")
            }
            _ => failure,
        }
    }

    /// To stderr, as the data would have been on stdout.
    pub(crate) fn print(&self, format: Format) {
        match format {
            Format::Table => {
                eprintln!("error[{}]: {}", self.code, self.message);
                if let Some(hint) = &self.hint {
                    eprintln!("  try: {hint}");
                }
            }
            Format::Json => eprintln!(
                "{}",
                serde_json::json!({
                    "apiVersion": crate::output::API_VERSION,
                    "kind": "Error",
                    "code": self.code,
                    "message": self.message,
                    "try": self.hint,
                    "exit": self.exit as u8,
                })
            ),
        }
    }
}

/// The class of each code.
fn exit_of(code: ErrorCode) -> Exit {
    match code {
        ErrorCode::NotFound => Exit::NotFound,
        ErrorCode::AlreadyExists
        | ErrorCode::AmendmentsTooMany
        | ErrorCode::Cancelled
        | ErrorCode::Conflict
        | ErrorCode::CursorAhead
        | ErrorCode::Expired
        | ErrorCode::GenerationExhausted
        | ErrorCode::OutOfOrder
        | ErrorCode::Recalled
        | ErrorCode::TooLate
        | ErrorCode::WrongCluster
        | ErrorCode::WrongGroup
        | ErrorCode::WrongStore => Exit::Precondition,
        ErrorCode::AuthExpired
        | ErrorCode::AuthFailed
        | ErrorCode::Forbidden
        | ErrorCode::Kicked
        | ErrorCode::NotAuthor => Exit::Forbidden,
        ErrorCode::AddressInUse
        | ErrorCode::Backlogged
        | ErrorCode::Busy
        | ErrorCode::CriticalStreamClosed
        | ErrorCode::FolderInUse
        | ErrorCode::HelloTimeout
        | ErrorCode::QuotaExceeded
        | ErrorCode::Shutdown
        | ErrorCode::Timeout => Exit::Unreachable,
        ErrorCode::NotHolder | ErrorCode::NotLeader | ErrorCode::Unavailable => Exit::NoQuorum,
        ErrorCode::CountTooLarge
        | ErrorCode::FrameTooLarge
        | ErrorCode::Malformed
        | ErrorCode::MembersTooMany
        | ErrorCode::MessageTooLarge
        | ErrorCode::Unsupported
        | ErrorCode::WrongStream => Exit::Usage,
        ErrorCode::ReadOnly => Exit::Unhealthy,
        ErrorCode::Internal => Exit::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exit_code_is_documented() {
        for exit in [
            Exit::Ok,
            Exit::Internal,
            Exit::Usage,
            Exit::NotFound,
            Exit::Precondition,
            Exit::Forbidden,
            Exit::Unreachable,
            Exit::NoQuorum,
            Exit::Unhealthy,
            Exit::Violation,
        ] {
            let number = (exit as u8).to_string();
            assert!(EXIT_CODES.lines().any(|line| line.split_whitespace().next() == Some(&number)));
        }
    }

    #[test]
    fn a_refusal_keeps_its_number_and_says_what_is_safe() {
        let failure = Failure::refused("sync", &Refusal::new(ErrorCode::Timeout, "no answer"));
        assert_eq!(failure.exit, Exit::Unreachable);
        assert!(failure.code.starts_with("E0023 TIMEOUT"));
        // Whether it may have happened matters to the verb alone: nothing is told to be repeated that only reads.
        assert_eq!(failure.hint, None);
        let failure = Failure::refused("sync", &Refusal::new(ErrorCode::AuthExpired, "it ended"));
        assert!(failure.hint.is_some());
    }
}
