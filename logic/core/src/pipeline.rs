//! Pipeline: numbers a slot's commands and keeps each, byte for byte, until its outcome is known.
//!
//! Commands go out in the order of `n`, several in flight. Whatever goes wrong with one attempt (no leader, `Busy`, a
//! timeout, `Expected`), nothing more is sent until every attempt under way has been answered; then everything
//! from the first command without a verdict goes out again. Verdicts are handed on strictly in the order of `n`.
//!
//! # Invariants
//! An `n` once sent belongs to that command for ever (design.md §3.8): resent as the same bytes, never reused.

use std::collections::VecDeque;

use bytes::Bytes;
use seriatim_proto::codec;
use seriatim_proto::command::{Command, HolderOp, Outcome, Reject};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{Epoch, Fence, SlotId};

use crate::event::{Effect, RequestId};

/// Shortest and longest pause before commands are sent again.
const RESEND_MS_MIN: u64 = 10;
const RESEND_MS_MAX: u64 = 200;

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Verdict {
    Outcome(Outcome),
    /// Applied by an earlier attempt whose outcome was lost.
    Passed,
}

/// What an outcome means for the whole slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Standing {
    Goes,
    /// Another epoch, or another group, rules the slot.
    Over,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Sent {
    bytes: Bytes,
    op: HolderOp,
    note: Note,
    flying: bool,
    verdict: Option<Verdict>,
}

/// What the holder wants to remember of a command.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Note {
    None,
    /// `Append`: which send
    Send(u64),
    /// `CancelSend`: who asked
    Cancel(RequestId),
    /// `SetMarks`: for each mark, which, and who asked
    Marks(Vec<(crate::mark::MarkKey, Vec<crate::mark::Asked>)>),
    /// `Deliver`: for each delivery, which incoming batch and which place in it
    Incoming(Vec<(u64, usize)>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pipeline {
    slot: SlotId,
    epoch: Epoch,
    first_n: u64,
    sent: VecDeque<Sent>,
    flying: usize,
    recovering: bool,
    failures: u32,
    resend_at_ms: u64,
    blocked: Option<Refusal>,
    in_flight_max: usize,
}

impl Pipeline {
    pub(crate) fn new(slot: SlotId, epoch: Epoch, in_flight_max: usize) -> Self {
        Self {
            slot,
            epoch,
            first_n: 0,
            sent: VecDeque::new(),
            flying: 0,
            recovering: false,
            failures: 0,
            resend_at_ms: 0,
            blocked: None,
            in_flight_max,
        }
    }

    /// May a new command be numbered now?
    pub(crate) fn is_open(&self) -> bool {
        !self.recovering && self.sent.len() < self.in_flight_max
    }

    /// Is every command settled?
    pub(crate) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// The refusal of stores that take no writes, while it lasts.
    pub(crate) fn blocked(&self) -> Option<&Refusal> {
        self.blocked.as_ref()
    }

    /// Numbers a command and sends it.
    pub(crate) fn submit(&mut self, op: HolderOp, note: Note) -> Effect {
        let n = self.first_n + self.sent.len() as u64;
        let command = Command::Held { fence: Fence { slot: self.slot, epoch: self.epoch, n }, op };
        let bytes = codec::encode_part(&command);
        let Command::Held { op, .. } = command else { unreachable!("made above") };
        self.sent.push_back(Sent { bytes: bytes.clone(), op, note, flying: true, verdict: None });
        self.flying += 1;
        Effect::Propose { n, command: bytes }
    }

    /// Takes the outcome of one attempt.
    pub(crate) fn outcome(&mut self, now_ms: u64, n: u64, outcome: Outcome) -> Standing {
        let Some(sent) = self.landed(n) else { return Standing::Goes };
        match outcome {
            Outcome::Rejected(Reject::Fenced { .. } | Reject::WrongGroup(_) | Reject::LeaseGone) => {
                return Standing::Over;
            }
            // It overtook one before it, which may be settled by now.
            Outcome::Rejected(Reject::Expected { .. }) => self.recover(now_ms, 0),
            Outcome::Rejected(Reject::Passed) => sent.verdict = Some(Verdict::Passed),
            outcome => {
                sent.verdict = Some(Verdict::Outcome(outcome));
                self.failures = 0;
            }
        }
        // Whatever apply says, it ran: the stores take writes.
        self.blocked = None;
        Standing::Goes
    }

    /// One attempt got no outcome.
    pub(crate) fn failed(&mut self, now_ms: u64, n: u64, refusal: Refusal) {
        if self.landed(n).is_none() {
            return;
        }
        self.recover(now_ms, u64::from(refusal.retry_after_ms));
        if refusal.code == ErrorCode::ReadOnly {
            self.blocked = Some(refusal);
        }
    }

    /// The next settled command, in the order of `n`.
    pub(crate) fn pop_settled(&mut self) -> Option<(HolderOp, Note, Verdict)> {
        // A command that is settled while another attempt of it still flies stays, so that the answer finds it.
        let front = self.sent.front()?;
        if front.verdict.is_none() || front.flying {
            return None;
        }
        let front = self.sent.pop_front()?;
        self.first_n += 1;
        Some((front.op, front.note, front.verdict?))
    }

    /// Sends everything without a verdict again, if it is time.
    pub(crate) fn resend(&mut self, now_ms: u64, effects: &mut VecDeque<Effect>) {
        if !self.recovering || self.flying > 0 || now_ms < self.resend_at_ms {
            return;
        }
        self.recovering = false;
        for (place, sent) in self.sent.iter_mut().enumerate() {
            if sent.verdict.is_none() {
                sent.flying = true;
                self.flying += 1;
                effects.push_back(Effect::Propose { n: self.first_n + place as u64, command: sent.bytes.clone() });
            }
        }
    }

    /// When [`Self::resend`] has something to do.
    pub(crate) fn timeout(&self) -> Option<u64> {
        (self.recovering && self.flying == 0).then_some(self.resend_at_ms)
    }

    /// Notes of all commands without an outcome, when the epoch is over.
    pub(crate) fn drain_notes(&mut self) -> impl Iterator<Item = (HolderOp, Note)> + '_ {
        self.sent.drain(..).map(|sent| (sent.op, sent.note))
    }

    /// All commands that wait for their outcome.
    pub(crate) fn sent_ops(&self) -> impl Iterator<Item = (&HolderOp, &Note)> {
        self.sent.iter().map(|sent| (&sent.op, &sent.note))
    }

    fn landed(&mut self, n: u64) -> Option<&mut Sent> {
        let place = usize::try_from(n.checked_sub(self.first_n)?).ok()?;
        let sent = self.sent.get_mut(place).filter(|sent| sent.flying)?;
        sent.flying = false;
        self.flying -= 1;
        Some(sent)
    }

    fn recover(&mut self, now_ms: u64, retry_after_ms: u64) {
        if !self.recovering {
            self.recovering = true;
            self.failures = (self.failures + 1).min(8);
            let pause = (RESEND_MS_MIN << self.failures.saturating_sub(1)).min(RESEND_MS_MAX);
            self.resend_at_ms = now_ms + pause;
        }
        self.resend_at_ms = self.resend_at_ms.max(now_ms + retry_after_ms.min(RESEND_MS_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op() -> HolderOp {
        HolderOp::Reserve { wants: Vec::new() }
    }
    fn pipeline() -> Pipeline {
        Pipeline::new(SlotId(7), Epoch(3), 16)
    }
    fn propose(effect: &Effect) -> (u64, Bytes) {
        match effect {
            Effect::Propose { n, command } => (*n, command.clone()),
            other => panic!("{other:?}"),
        }
    }
    fn refusal(code: ErrorCode) -> Refusal {
        Refusal::new(code, "")
    }

    #[test]
    fn commands_are_resent_byte_for_byte_from_the_first_without_a_verdict() {
        let mut pipeline = pipeline();
        let sent: Vec<_> = (0..4).map(|_| propose(&pipeline.submit(op(), Note::None))).collect();
        pipeline.outcome(0, 0, Outcome::Recorded);
        pipeline.failed(0, 1, refusal(ErrorCode::NotLeader));
        pipeline.outcome(0, 2, Outcome::Rejected(Reject::Expected { n: 1 }));
        let mut effects = VecDeque::new();
        pipeline.resend(1_000, &mut effects);
        assert!(effects.is_empty(), "an attempt is still under way");
        pipeline.outcome(0, 3, Outcome::Rejected(Reject::Expected { n: 1 }));
        pipeline.resend(1_000, &mut effects);
        assert_eq!(effects.iter().map(propose).collect::<Vec<_>>(), sent[1..]);
        assert!(pipeline.is_open());
    }

    #[test]
    fn verdicts_come_in_the_order_of_n() {
        let mut pipeline = pipeline();
        for _ in 0..3 {
            pipeline.submit(op(), Note::None);
        }
        pipeline.outcome(0, 2, Outcome::Recorded);
        pipeline.outcome(0, 1, Outcome::Rejected(Reject::Passed));
        assert_eq!(pipeline.pop_settled(), None);
        pipeline.outcome(0, 0, Outcome::Released);
        assert_eq!(pipeline.pop_settled().unwrap().2, Verdict::Outcome(Outcome::Released));
        assert_eq!(pipeline.pop_settled().unwrap().2, Verdict::Passed);
        assert_eq!(pipeline.pop_settled().unwrap().2, Verdict::Outcome(Outcome::Recorded));
        assert!(pipeline.is_empty());
    }

    #[test]
    fn an_n_is_never_reused() {
        let mut pipeline = pipeline();
        assert_eq!(propose(&pipeline.submit(op(), Note::None)).0, 0);
        pipeline.outcome(0, 0, Outcome::Rejected(Reject::Conflict));
        pipeline.pop_settled();
        assert_eq!(propose(&pipeline.submit(op(), Note::None)).0, 1);
        // A late answer for an old n finds nothing.
        assert_eq!(pipeline.outcome(0, 0, Outcome::Recorded), Standing::Goes);
        assert_eq!(pipeline.pop_settled(), None);
    }

    #[test]
    fn fenced_is_the_end() {
        let mut pipeline = pipeline();
        pipeline.submit(op(), Note::None);
        assert_eq!(pipeline.outcome(0, 0, Outcome::Rejected(Reject::Fenced { current: Epoch(4) })), Standing::Over);
    }

    #[test]
    fn a_full_disk_blocks_until_something_is_written_again() {
        let mut pipeline = pipeline();
        pipeline.submit(op(), Note::None);
        pipeline.failed(0, 0, refusal(ErrorCode::ReadOnly));
        assert_eq!(pipeline.blocked().unwrap().code, ErrorCode::ReadOnly);
        let mut effects = VecDeque::new();
        pipeline.resend(1_000, &mut effects);
        assert_eq!(effects.len(), 1);
        pipeline.outcome(0, 0, Outcome::Recorded);
        assert!(pipeline.blocked().is_none());
    }
}
