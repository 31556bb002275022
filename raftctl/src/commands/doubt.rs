//! Doubt: a gateway that gives no answer cannot say why. The stores can: without a quorum nobody could have answered.

use std::time::Duration;

use crate::failure::{Exit, Failure};
use crate::survey::Survey;
use crate::target::Target;

/// Longest wait for the stores: the verb has waited for the gateway already.
const PATIENCE: Duration = Duration::from_secs(3);

/// The same failure, in the class that the stores say.
pub(super) async fn settle(target: &Target, failure: Failure) -> Failure {
    // Without stores to ask there is only what the gateway said.
    if target.endpoints.is_empty() {
        return failure;
    }
    let link = target.link.within(target.link.timeout.min(PATIENCE));
    classed(failure, &Survey::take(&target.endpoints, &link).await)
}

fn classed(mut failure: Failure, survey: &Survey) -> Failure {
    let leaderless = survey.leaderless();
    if let Some(first) = leaderless.first() {
        failure.exit = Exit::NoQuorum;
        failure.message = match leaderless.len() {
            1 => format!("{}; {first}", failure.message),
            count => format!("{}; {first}, and {} more groups are not led", failure.message, count - 1),
        };
        if failure.hint.is_none() {
            failure.hint = Some("raftctl raft groups".to_owned());
        }
    } else if survey.statuses().next().is_some() {
        failure.exit = Exit::Unreachable;
    }
    failure
}

#[cfg(test)]
mod tests {
    use seriatim_proto::error::{ErrorCode, Refusal};

    use super::*;
    use crate::survey::tests::survey;

    #[test]
    fn the_class_of_a_gateways_silence_is_what_the_stores_say() {
        let led = survey([Some("leader"), Some("follower"), None]);
        let lost = survey([Some("leader"), None, None]);
        let silent = survey([None, None, None]);
        for (code, of_silence) in [(ErrorCode::Timeout, Exit::Unreachable), (ErrorCode::Unavailable, Exit::NoQuorum)] {
            let failure = || Failure::refused("failed to sync", &Refusal::new(code, "no answer"));
            assert_eq!(classed(failure(), &led).exit, Exit::Unreachable);
            let found = classed(failure(), &lost);
            assert_eq!(found.exit, Exit::NoQuorum);
            assert!(found.message.ends_with("; group 1: no quorum, 1 of 3 voters answer"), "{}", found.message);
            assert_eq!(classed(failure(), &silent).exit, of_silence);
        }
    }
}
