//! Mark: what users of this slot say about conversations to their own devices, on its way into the store.
//!
//! Of one conversation and user one mark is under way at a time, and one a second is written: what comes meanwhile
//! gathers, of each kind one; of read marks the highest counts, of the others the last. So a device that marks each entry
//! as it scrolls costs a write a second, and one that changes its mind all the time holds nobody else up.
//!
//! # Invariants
//! I11: apply never lets a read mark fall; a request is answered only once a mark at least as high is durable.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use seriatim_proto::command::{HolderOp, Mark, MarkOutcome, MarkWrite, Place};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::hash;
use seriatim_proto::ids::{ConversationId, Namespace};
use seriatim_proto::limits;
use seriatim_proto::logic::{CallError, PushEntry, Reply};

use crate::event::{Clock, Effect, RequestId};
use crate::holder::{Phase, SlotHolder};
use crate::inbox::{Inbox, InboxName};
use crate::pipeline::Note;

/// One write a second, conversation and user.
const MARK_MS: u64 = 1_000;
/// Pause that `Busy` asks for.
const RETRY_AFTER_MS: u32 = 50;

/// Names a mark within a slot.
pub(crate) type MarkKey = (InboxName, ConversationId);

/// Who asked for a mark, and for which.
pub(crate) type Asked = (RequestId, Mark);

/// Marks of a slot that wait or are under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Marks {
    by: BTreeMap<MarkKey, Waiting>,
    /// could be numbered
    ready: BTreeSet<MarkKey>,
    /// wait for a segment of their inbox
    stalled: BTreeSet<MarkKey>,
    /// wait for their time, in ms
    at: BTreeMap<u64, BTreeSet<MarkKey>>,
    /// requests without an answer
    requests: usize,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Waiting {
    /// in the order of arrival, of each kind one
    marks: Vec<(Mark, Vec<Asked>)>,
    writing: bool,
    /// when a mark of it was last sent to be written, unless it turned out to change nothing
    wrote_at_ms: Option<u64>,
}

impl Waiting {
    fn add(&mut self, mark: Mark, request: RequestId) {
        let same = |(other, _): &&mut (Mark, Vec<Asked>)| mem::discriminant(other) == mem::discriminant(&mark);
        let Some((gathered, requests)) = self.marks.iter_mut().find(same) else {
            self.marks.push((mark, vec![(request, mark)]));
            return;
        };
        *gathered = match (*gathered, mark) {
            (Mark::Read { upto }, Mark::Read { upto: other }) => Mark::Read { upto: upto.max(other) },
            // What was said before it would have lasted no time.
            (_, last) => last,
        };
        requests.push((request, mark));
    }

    /// The mark was refused. A read mark named no entry: those who asked for another one are tried without it. The
    /// others hear so.
    fn without(&mut self, refused: Mark, requests: Vec<Asked>) -> Vec<RequestId> {
        let is_wrong = |mark: Mark| mark == refused || !matches!(mark, Mark::Read { .. });
        let (wrong, right): (Vec<Asked>, Vec<Asked>) = requests.into_iter().partition(|(_, mark)| is_wrong(*mark));
        right.into_iter().for_each(|(request, mark)| self.add(mark, request));
        wrong.into_iter().map(|(request, _)| request).collect()
    }
}

impl Marks {
    pub(crate) fn unstall(&mut self) {
        self.ready.append(&mut self.stalled);
    }

    /// Nobody waits for an answer, nothing is under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.by.values().all(|waiting| waiting.marks.is_empty() && !waiting.writing)
    }

    /// What was written a while ago need not be remembered.
    pub(crate) fn forget(&mut self, since_ms: u64) {
        self.by.retain(|_, waiting| {
            !waiting.marks.is_empty() || waiting.writing || waiting.wrote_at_ms.is_some_and(|at| at > since_ms)
        });
    }

    fn drain(&mut self) -> Vec<RequestId> {
        self.ready.clear();
        self.stalled.clear();
        self.at.clear();
        let waiting = self.by.values_mut().flat_map(|waiting| waiting.marks.drain(..));
        let requests: Vec<RequestId> = waiting.flat_map(|(_, asked)| asked).map(|(request, _)| request).collect();
        self.requests -= requests.len();
        requests
    }
}

impl SlotHolder {
    pub(crate) fn on_mark(
        &mut self,
        clock: &Clock,
        request: RequestId,
        name: InboxName,
        conversation: ConversationId,
        mark: Mark,
    ) {
        let refused = if self.phase != Phase::Serving || hash::inbox_slot(name.0, &name.1) != self.slot {
            Some(CallError::NotHolder { slot: self.slot, row: None })
        } else if let Some(refusal) = self.pipeline.blocked() {
            Some(CallError::Refused(refusal.clone()))
        } else if self.marks.requests >= self.limits.queue_max {
            let text = "too many requests wait for this slot";
            Some(CallError::Refused(Refusal::later(ErrorCode::Busy, text, RETRY_AFTER_MS)))
        } else {
            None
        };
        if let Some(error) = refused {
            self.effects.push_back(Effect::Reply { request, result: Err(error) });
            return;
        }
        let key = (name, conversation);
        let waiting = self.marks.by.entry(key.clone()).or_default();
        waiting.add(mark, request);
        self.marks.requests += 1;
        let due_ms = waiting.wrote_at_ms.map_or(0, |at| at + MARK_MS);
        if waiting.writing {
            return;
        }
        self.mark_at(clock, due_ms, key);
    }

    fn mark_at(&mut self, clock: &Clock, due_ms: u64, key: MarkKey) {
        if due_ms <= clock.now_ms {
            self.marks.ready.insert(key);
        } else {
            self.marks.at.entry(due_ms).or_default().insert(key);
            self.wake(due_ms);
        }
    }

    /// Marks whose time has come.
    pub(crate) fn due_marks(&mut self, clock: &Clock) {
        while let Some(first) = self.marks.at.first_entry() {
            if *first.key() > clock.now_ms {
                let due_ms = *first.key();
                self.wake(due_ms);
                return;
            }
            self.marks.ready.append(&mut first.remove());
        }
    }

    pub(crate) fn number_marks(&mut self, clock: &Clock) {
        let epoch = self.epoch;
        while !self.marks.ready.is_empty() && self.pipeline.is_open() {
            let (mut marks, mut keys) = (Vec::new(), Vec::new());
            while let Some(key) = self.marks.ready.pop_first() {
                let Some(waiting) = self.marks.by.get_mut(&key) else { continue };
                if waiting.writing || waiting.marks.is_empty() {
                    continue;
                }
                let ((tenant, user), conversation) = key.clone();
                let inbox = self.inboxes.entry((tenant, user.clone())).or_insert_with(|| Inbox::new(epoch));
                let Some(place) = inbox.allocator.take(clock.now_ms, 1) else {
                    self.marks.stalled.insert(key);
                    continue;
                };
                if let Some(seqs) = inbox.allocator.want(clock.now_ms) {
                    self.wants.push((Namespace::inbox(tenant, user.clone()), seqs));
                }
                let (mark, requests) = waiting.marks.remove(0);
                waiting.writing = true;
                waiting.wrote_at_ms = Some(clock.now_ms);
                marks.push(MarkWrite { tenant, user, conversation, mark, place, at_ms: clock.unix_ms });
                keys.push((key, requests));
                if marks.len() >= limits::MARKS_MAX as usize {
                    break;
                }
            }
            if !marks.is_empty() {
                self.submit(HolderOp::SetMarks { marks }, Note::Marks(keys));
            }
        }
    }

    /// Marks have their outcomes; `None`: the outcomes were lost, or the command was refused.
    pub(crate) fn on_marks_set(
        &mut self,
        clock: &Clock,
        marks: Vec<MarkWrite>,
        keys: Vec<(MarkKey, Vec<Asked>)>,
        outcomes: Option<Vec<MarkOutcome>>,
    ) {
        let mut outcomes = outcomes.map(Vec::into_iter);
        let mut closed = false;
        for (write, (key, asked)) in marks.into_iter().zip(keys) {
            let outcome = outcomes.as_mut().and_then(Iterator::next);
            let wrote = !matches!(outcome, Some(MarkOutcome::Set { written: None, .. } | MarkOutcome::NotFound));
            closed |= self.close_mark_place(&write, outcome.as_ref());
            let waiting = self.marks.by.entry(key.clone()).or_default();
            let requests = match outcome {
                Some(MarkOutcome::NotFound) => waiting.without(write.mark, asked),
                _ => asked.into_iter().map(|(request, _)| request).collect(),
            };
            self.marks.requests = self.marks.requests.saturating_sub(requests.len());
            let refused = |code, text: &str| Err(CallError::Refused(Refusal::new(code, text)));
            let result = match outcome {
                Some(MarkOutcome::Set { listed, written, .. }) => {
                    if let Some((written, entry)) = written {
                        self.push_mark(&key, written, entry);
                    }
                    Ok(Reply::Marked(listed))
                }
                Some(MarkOutcome::NotFound) => {
                    refused(ErrorCode::NotFound, "no such conversation or entry in the inbox")
                }
                Some(MarkOutcome::SeqRefused) => {
                    self.effects.push_back(Effect::Alarm("apply refused a seq or a command of ours"));
                    refused(ErrorCode::Unavailable, "the mark was not set; set it again")
                }
                // A mark is set again: it says what it said.
                None => refused(ErrorCode::Unavailable, "the outcome was lost; set it again"),
            };
            self.reply(&requests, &result);
            let Some(waiting) = self.marks.by.get_mut(&key) else { continue };
            waiting.writing = false;
            // What wrote nothing costs those behind it no time.
            waiting.wrote_at_ms = waiting.wrote_at_ms.filter(|_| wrote);
            let due_ms = waiting.wrote_at_ms.map_or(0, |at| at + MARK_MS);
            if !waiting.marks.is_empty() {
                self.mark_at(clock, due_ms, key);
            }
        }
        if closed {
            self.unstall();
        }
    }

    /// Says whether waiters may try again.
    fn close_mark_place(&mut self, write: &MarkWrite, outcome: Option<&MarkOutcome>) -> bool {
        let Some(inbox) = self.inboxes.get_mut(&(write.tenant, write.user.clone())) else { return false };
        let is_open = matches!(write.place, Place::Open { .. });
        match outcome {
            Some(MarkOutcome::Set { segment, .. }) if is_open => inbox.allocator.installed(*segment),
            Some(MarkOutcome::NotFound) if is_open => inbox.allocator.installed(None),
            Some(MarkOutcome::SeqRefused) => inbox.allocator.forget(),
            None if is_open => inbox.allocator.failed(),
            _ => return false,
        }
        true
    }

    fn push_mark(
        &mut self,
        (name, conversation): &MarkKey,
        written: seriatim_proto::command::InboxWritten,
        entry: seriatim_proto::command::EntryRef,
    ) {
        let Some(inbox) = self.inboxes.get_mut(name) else { return };
        let sessions = inbox.written(written.seq);
        if sessions.is_empty() {
            return;
        }
        let (salt, body) = (bytes::Bytes::new(), bytes::Bytes::new());
        let (seq, prev_seq, ordinal) = (written.seq, written.prev_seq, written.ordinal);
        let entry = PushEntry { seq, prev_seq, ordinal, conversation: conversation.clone(), entry, salt, body };
        self.effects.push_back(Effect::Push { sessions, entries: vec![entry] });
    }

    /// What has no `n` did not happen.
    pub(crate) fn refuse_marks(&mut self) {
        for request in self.marks.drain() {
            self.effects.push_back(Effect::Reply { request, result: self.not_holder() });
        }
    }
}
