//! Ended: what the end of a request says about its effect. The table is the product's own (`ErrorCode`), asked through
//! the SDK, which knows about the attempts before the last one.

use seriatim_client::RequestError;
use seriatim_proto::error::ErrorCode;

use crate::history::Ended;

/// How a write ended: done, surely without effect, or nobody knows.
///
/// Reads need no such table: one that was not answered had no effect, whatever became of it
/// ([`super::notebook::unanswered`]).
pub(crate) fn of_write<T>(result: &Result<T, RequestError>) -> Ended {
    match result {
        Ok(_) => Ended::Ok,
        Err(RequestError::Rejected(_)) => Ended::Fail,
        Err(RequestError::Unknown(_)) => Ended::Info,
    }
}

/// Is it refused for good, not because of a fault that will pass? No answer is no refusal.
pub(crate) fn refused_for_good(error: &RequestError) -> Option<ErrorCode> {
    let code = error.refusal().code;
    (!error.is_unknown() && code.retry() == seriatim_proto::error::Retry::Never).then_some(code)
}

#[cfg(test)]
mod tests {
    use seriatim_proto::error::{Certainty, Refusal};

    use super::*;

    fn rejected(code: ErrorCode) -> RequestError {
        RequestError::Rejected(Refusal::new(code, "no"))
    }

    fn unknown(code: ErrorCode) -> RequestError {
        RequestError::Unknown(Refusal::new(code, "?"))
    }

    #[test]
    fn a_refusal_is_a_fail_and_an_unknown_end_stays_open() {
        assert_eq!(of_write(&Ok(())), Ended::Ok);
        for code in ErrorCode::ALL {
            assert_eq!(of_write::<()>(&Err(rejected(*code))), Ended::Fail);
            assert_eq!(of_write::<()>(&Err(unknown(*code))), Ended::Info);
        }
    }

    #[test]
    fn codes_that_may_have_happened_are_those_without_an_answer() {
        let unknown = ErrorCode::ALL.iter().filter(|code| code.certainty() == Certainty::Unknown);
        let unknown: Vec<&str> = unknown.map(|code| code.name()).collect();
        assert_eq!(unknown, ["CRITICAL_STREAM_CLOSED", "INTERNAL", "KICKED", "SHUTDOWN", "TIMEOUT", "UNAVAILABLE"]);
    }

    #[test]
    fn a_fault_is_no_refusal() {
        for code in [ErrorCode::NotFound, ErrorCode::AuthFailed, ErrorCode::Forbidden, ErrorCode::Conflict] {
            assert_eq!(refused_for_good(&rejected(code)), Some(code));
            assert_eq!(refused_for_good(&unknown(code)), None);
        }
        for code in [ErrorCode::Timeout, ErrorCode::Unavailable, ErrorCode::Busy, ErrorCode::ReadOnly] {
            assert_eq!(refused_for_good(&rejected(code)), None);
        }
    }
}
