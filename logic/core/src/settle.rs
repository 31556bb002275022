//! Settle: what becomes of commands when their outcomes arrive, or when they were lost.
//!
//! `Passed` says that an earlier attempt was applied and its outcome lost (a leader died between apply and reply). The
//! holder then stops numbering until everything sent is settled, reads what became of each such send, and reads its
//! memory anew, as after a takeover: deliveries resume from the durable cursors, inboxes skip what they have, and
//! registered sessions are told the tail.

use seriatim_proto::command::{HolderOp, Outcome, Reject, identity};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::logic::{CallError, Reply};
use seriatim_proto::store::ReadOutcome;

use crate::conversation::Conversation;
use crate::event::{Clock, Effect, Send};
use crate::holder::{Phase, ReadFor, SlotHolder};
use crate::pipeline::{Note, Verdict};

impl SlotHolder {
    /// Hands on everything settled at the front of the pipeline.
    pub(crate) fn settle_commands(&mut self, clock: &Clock) {
        while let Some((op, note, verdict)) = self.pipeline.pop_settled() {
            match verdict {
                Verdict::Outcome(outcome) => self.on_outcome(clock, op, note, outcome),
                Verdict::Passed => self.on_passed(clock, op, note),
            }
            if self.phase == Phase::Ended {
                return;
            }
        }
    }

    fn on_outcome(&mut self, clock: &Clock, op: HolderOp, note: Note, outcome: Outcome) {
        match (op, note, outcome) {
            (HolderOp::Append(append), Note::Send(send), Outcome::Appended(appended)) => {
                self.on_appended(clock, append, send, appended)
            }
            (HolderOp::Append(append), Note::Send(send), Outcome::Rejected(reject)) => {
                self.on_append_rejected(append, send, &reject)
            }
            (HolderOp::Deliver { deliveries }, Note::Incoming(places), Outcome::Delivered(outcomes)) => {
                self.on_delivered(deliveries, places, outcomes)
            }
            (HolderOp::Deliver { deliveries }, Note::Incoming(places), _) => self.on_deliver_lost(&deliveries, &places),
            (HolderOp::CancelSend(_), Note::Cancel(request), outcome) => self.on_cancelled(request, Some(outcome)),
            (HolderOp::SetMarks { marks }, Note::Marks(keys), Outcome::MarksSet(outcomes)) => {
                self.on_marks_set(clock, marks, keys, Some(outcomes))
            }
            (HolderOp::SetMarks { marks }, Note::Marks(keys), _) => self.on_marks_set(clock, marks, keys, None),
            (HolderOp::SetCursors { cursors }, _, Outcome::CursorsSet(outcomes)) => {
                self.on_cursors_set(clock, cursors, Some(outcomes))
            }
            (HolderOp::SetCursors { cursors }, _, outcome) => self.on_cursors_rejected(cursors, &outcome),
            (HolderOp::Reserve { wants }, _, Outcome::Reserved(segments)) => {
                self.on_reserved(clock, wants, Ok(segments))
            }
            (HolderOp::Reserve { wants }, _, outcome) => {
                let reject = if let Outcome::Rejected(reject) = outcome { reject } else { Reject::Malformed };
                self.on_reserved(clock, wants, Err(reject));
            }
            (HolderOp::Release { .. }, _, _) => self.end(true),
            (HolderOp::Delivered { .. }, _, _) => {}
            (
                HolderOp::Append(_) | HolderOp::Deliver { .. } | HolderOp::CancelSend(_) | HolderOp::SetMarks { .. },
                _,
                _,
            ) => self.effects.push_back(Effect::Alarm("a command was answered with something else")),
        }
    }

    fn on_cursors_rejected(&mut self, cursors: Vec<seriatim_proto::command::CursorWrite>, outcome: &Outcome) {
        let reject = if let Outcome::Rejected(reject) = outcome { reject.clone() } else { Reject::Malformed };
        for write in cursors {
            let requests = self
                .inboxes
                .get_mut(&(write.tenant, write.user))
                .map(|inbox| inbox.fail_acks(&write.device))
                .unwrap_or_default();
            let result = Err(CallError::Refused(Refusal::new(reject.code(), reject.to_string())));
            self.reply(&requests, &result);
        }
    }

    fn on_passed(&mut self, clock: &Clock, op: HolderOp, note: Note) {
        self.settling = true;
        match (op, note) {
            (HolderOp::Append(append), Note::Send(send)) => {
                let Some(op) = self.sends.get_mut(&send) else { return };
                op.send = Some(Send {
                    tenant: append.tenant,
                    conversation: append.conversation,
                    sender: append.sender,
                    message_id: append.message_id,
                    known: append.known,
                    follows: append.follows,
                    content: append.content,
                });
                self.settle_reads += 1;
                self.read(ReadFor::Settle(send));
            }
            (HolderOp::Deliver { deliveries }, Note::Incoming(places)) => self.on_deliver_lost(&deliveries, &places),
            (HolderOp::CancelSend(_), Note::Cancel(request)) => self.on_cancelled(request, None),
            (HolderOp::SetMarks { marks }, Note::Marks(keys)) => self.on_marks_set(clock, marks, keys, None),
            (HolderOp::SetCursors { cursors }, _) => self.on_cursors_set(clock, cursors, None),
            (HolderOp::Release { .. }, _) => self.end(true),
            (
                HolderOp::Reserve { .. }
                | HolderOp::Delivered { .. }
                | HolderOp::Append(_)
                | HolderOp::Deliver { .. }
                | HolderOp::CancelSend(_)
                | HolderOp::SetMarks { .. },
                _,
            ) => {}
        }
    }

    /// What the store knows of a send whose outcome was lost.
    pub(crate) fn on_settle_read(&mut self, send: u64, outcome: ReadOutcome) {
        let Some(op) = self.sends.get(&send) else {
            self.settle_reads = self.settle_reads.saturating_sub(1);
            return;
        };
        let Some(content) =
            op.send.as_ref().map(|send| (send.tenant, send.conversation.clone(), send.content.identity()))
        else {
            return;
        };
        let (tenant, conversation, hash) = content;
        let result = match outcome {
            ReadOutcome::Dedupe(Some(seq)) => {
                // It may be another body's row: look at the entry itself.
                let id = self.id();
                self.reads.insert(id, ReadFor::Settle(send));
                let read = seriatim_proto::store::Read::MessagesAt { tenant, conversation, seqs: vec![seq] };
                self.effects.push_back(Effect::Read { id, read });
                return;
            }
            // Applied and refused; which refusal it was is lost. A retry under the same id gets it again.
            ReadOutcome::Dedupe(None) => {
                Err(Refusal::new(ErrorCode::Unavailable, "the outcome was lost; send again under the same id"))
            }
            ReadOutcome::Cancelled => Err(Refusal::new(ErrorCode::Cancelled, Reject::Cancelled.to_string())),
            ReadOutcome::Messages(messages) => match messages.first() {
                Some(message) if identity(message.entry.kind, message.entry.body_hash) == hash => {
                    Ok(Reply::Committed { seq: message.entry.seq, duplicate: false })
                }
                Some(_) => Err(Refusal::new(ErrorCode::Conflict, Reject::Conflict.to_string())),
                None => Err(Refusal::new(ErrorCode::Unavailable, "the outcome was lost; send again under the same id")),
            },
            _ => Err(Refusal::new(ErrorCode::Internal, "a read was answered with something else")),
        };
        self.settle_reads = self.settle_reads.saturating_sub(1);
        if let Some(op) = self.sends.remove(&send) {
            self.reply(&op.requests, &result.map_err(CallError::Refused));
        }
    }

    /// Once everything is settled, memory is read anew.
    pub(crate) fn finish_settling(&mut self, clock: &Clock) {
        if !self.pipeline.is_empty() || self.settle_reads > 0 {
            return;
        }
        self.settling = false;
        self.virgin = false;
        self.reads.clear();
        self.reads_due.clear();
        self.batches.clear();
        self.dirty.clear();
        self.unrecorded.clear();
        self.wants.clear();
        self.wants_alone.clear();
        self.recent_bytes = 0;
        let mut reload = Vec::new();
        for (name, old) in std::mem::take(&mut self.conversations) {
            if old.waiting.is_empty() {
                continue;
            }
            let mut conversation = Conversation::loading(self.epoch);
            conversation.joins = old.joins.into_iter().filter(|(_, id)| old.waiting.contains(id)).collect();
            conversation.waiting = old.waiting;
            self.conversations.insert(name.clone(), conversation);
            reload.push(name);
        }
        for name in reload {
            self.read(ReadFor::Conversation(name));
        }
        self.reset_inboxes();
        self.reset_counters(clock);
        self.unstall();
        self.scan_pending(None);
    }
}
