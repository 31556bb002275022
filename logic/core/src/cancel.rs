//! Cancel: a message id that its sender wants settled.
//!
//! A cancel does not wait behind the sends of its conversation, so it may overtake the very send that it is for, if
//! that has no `n` yet: apply then refuses the send. Among commands with an `n` their order decides.

use seriatim_proto::command::{CancelSend, HolderOp, Outcome, Reject};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::logic::{CallError, Reply, SendState};

use crate::event::{Cancel, Effect, RequestId};
use crate::holder::{Phase, SlotHolder};
use crate::pipeline::Note;

/// Of how many places in the pipeline cancels may have one: they go first, and sends must not wait for all of them.
const CANCELS_SHARE: usize = 8;
/// Pause that `Busy` asks for.
const RETRY_AFTER_MS: u32 = 50;

impl SlotHolder {
    pub(crate) fn on_cancel(&mut self, request: RequestId, cancel: Cancel) {
        let result = self.may_cancel(&cancel);
        match result {
            Ok(()) => self.cancels.push_back((request, cancel)),
            Err(error) => self.effects.push_back(Effect::Reply { request, result: Err(error) }),
        }
    }

    fn may_cancel(&self, cancel: &Cancel) -> Result<(), CallError> {
        if self.phase != Phase::Serving || !self.owns(cancel.tenant, &cancel.conversation) {
            return self.not_holder();
        }
        if let Some(refusal) = self.pipeline.blocked() {
            return Err(CallError::Refused(refusal.clone()));
        }
        if self.cancels.len() >= self.limits.queue_max {
            let text = "too many requests wait for this slot";
            return Err(CallError::Refused(Refusal::later(ErrorCode::Busy, text, RETRY_AFTER_MS)));
        }
        Ok(())
    }

    pub(crate) fn number_cancels(&mut self) {
        while self.pipeline.is_open()
            && self.cancels_in_flight < self.limits.in_flight_max.div_ceil(CANCELS_SHARE)
            && let Some((request, cancel)) = self.cancels.pop_front()
        {
            let Cancel { tenant, conversation, sender, message_id, known } = cancel;
            let command = CancelSend { tenant, conversation, sender, message_id, known };
            self.submit(HolderOp::CancelSend(command), Note::Cancel(request));
            self.cancels_in_flight += 1;
        }
    }

    /// A cancel has its outcome; `None`: it was applied, and the outcome was lost.
    pub(crate) fn on_cancelled(&mut self, request: RequestId, outcome: Option<Outcome>) {
        self.cancels_in_flight = self.cancels_in_flight.saturating_sub(1);
        let refused = |code, text: String| Err(CallError::Refused(Refusal::new(code, text)));
        let result = match outcome {
            Some(Outcome::SendSettled(Some(seq))) => Ok(Reply::SendStatus(SendState::Committed(seq))),
            Some(Outcome::SendSettled(None)) => Ok(Reply::SendStatus(SendState::Cancelled)),
            Some(Outcome::Rejected(Reject::Expired)) => Ok(Reply::SendStatus(SendState::Expired)),
            Some(Outcome::Rejected(reject)) => refused(reject.code(), reject.to_string()),
            Some(_) => {
                self.effects.push_back(Effect::Alarm("a command was answered with something else"));
                refused(ErrorCode::Internal, "a command was answered with something else".to_owned())
            }
            // Asked again, it says what it said: a verdict is for ever.
            None => refused(ErrorCode::Unavailable, "the outcome was lost; cancel again".to_owned()),
        };
        self.effects.push_back(Effect::Reply { request, result });
    }

    /// What has no `n` did not happen.
    pub(crate) fn refuse_cancels(&mut self) {
        for (request, _) in std::mem::take(&mut self.cancels) {
            self.effects.push_back(Effect::Reply { request, result: self.not_holder() });
        }
    }
}
