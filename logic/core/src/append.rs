//! Append: a send on its way into its conversation: joined, queued, given seqs and an `n`, replied to.
//!
//! Appends of one conversation are numbered in the order of arrival. One that needs a namespace whose segment is
//! under way waits, and those behind it in its conversation wait with it; other conversations go on.

use seriatim_proto::command::{Append, Appended, Content, HolderOp, Kind, LocalInbox, LocalOutcome, Place, Reject};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{Namespace, Seq};
use seriatim_proto::logic::{CallError, PushEntry, Reply};

use crate::allocator::Ready;
use crate::conversation::{ConversationName, Load, RecentEntry};
use crate::event::{Clock, Effect, RequestId, Send};
use crate::holder::{Phase, SendOp, SlotHolder};
use crate::inbox::Inbox;
use crate::pipeline::Note;

/// A slot that did not answer for this long does not count for `Backlogged`.
const ANSWERED_MS: u64 = 1_000;
/// Pause that `Busy` and `Backlogged` ask for.
const RETRY_AFTER_MS: u32 = 50;

impl SlotHolder {
    pub(crate) fn on_send(&mut self, clock: &Clock, request: RequestId, send: Send) {
        if let Err(error) = self.may_take(clock, &send) {
            self.effects.push_back(Effect::Reply { request, result: Err(error) });
            return;
        }
        let name = (send.tenant, send.conversation.clone());
        self.ensure_conversation(&name);
        let id = self.id();
        let key = (send.sender.clone(), send.message_id);
        match self.conversations.get(&name).and_then(|conversation| conversation.joins.get(&key).copied()) {
            Some(pending) if self.joins_with(pending, &send) => {
                if let Some(op) = self.sends.get_mut(&pending) {
                    op.requests.push(request);
                }
                return;
            }
            // Another body under a pending id: apply decides which of the two it was.
            Some(_) => {}
            None => {
                self.conversations.get_mut(&name).expect("ensured above").joins.insert(key, id);
            }
        }
        let conversation = self.conversations.get_mut(&name).expect("ensured above");
        conversation.waiting.push_back(id);
        if conversation.load == Load::Loaded {
            self.ready.insert(name);
        }
        self.sends.insert(id, SendOp { requests: vec![request], send: Some(send) });
    }

    fn may_take(&mut self, clock: &Clock, send: &Send) -> Result<(), CallError> {
        if self.phase != Phase::Serving || !self.owns(send.tenant, &send.conversation) {
            return self.not_holder();
        }
        if let Some(refusal) = self.pipeline.blocked() {
            return Err(CallError::Refused(refusal.clone()));
        }
        let later = |code, text: &str| Err(CallError::Refused(Refusal::later(code, text, RETRY_AFTER_MS)));
        if self.sends.len() + self.incoming.len() >= self.limits.queue_max {
            return later(ErrorCode::Busy, "too many requests wait for this slot");
        }
        let name = (send.tenant, send.conversation.clone());
        let backlog = self
            .conversations
            .get(&name)
            .map_or(0, |conversation| conversation.backlog(clock.now_ms.saturating_sub(ANSWERED_MS)));
        if backlog >= self.limits.undelivered_max {
            return later(ErrorCode::Backlogged, "too much of this conversation is not delivered yet");
        }
        Ok(())
    }

    /// Is it the same message as the pending one?
    fn joins_with(&self, pending: u64, send: &Send) -> bool {
        match self.sends.get(&pending) {
            Some(SendOp { send: Some(waiting), .. }) => waiting.content == send.content,
            Some(SendOp { send: None, .. }) => self.pipeline_content(pending) == Some(&send.content),
            None => false,
        }
    }

    fn pipeline_content(&self, pending: u64) -> Option<&Content> {
        self.pipeline.sent_ops().find_map(|(op, note)| match (op, note) {
            (HolderOp::Append(append), Note::Send(id)) if *id == pending => Some(&append.content),
            _ => None,
        })
    }

    pub(crate) fn number_sends(&mut self, clock: &Clock) {
        let mut ready = std::mem::take(&mut self.ready);
        while let Some(name) = ready.pop_first() {
            while self.pipeline.is_open() && self.number_send(clock, &name) {}
            if !self.pipeline.is_open()
                && self.conversations.get(&name).is_some_and(|conversation| !conversation.waiting.is_empty())
            {
                ready.insert(name);
                break;
            }
        }
        self.ready.append(&mut ready);
    }

    /// Numbers the first waiting send of a conversation; false if there is none, or it must wait.
    fn number_send(&mut self, clock: &Clock, name: &ConversationName) -> bool {
        let epoch = self.epoch;
        let Some(conversation) = self.conversations.get_mut(name) else { return false };
        if conversation.load != Load::Loaded {
            return false;
        }
        let Some(id) = conversation.waiting.front().copied() else { return false };
        let send = self.sends.get(&id).and_then(|op| op.send.as_ref()).expect("a waiting send has its content");
        let users = conversation.local_members(name.0, &name.1, &send.sender, &send.content, self.slot);
        let inboxes = &mut self.inboxes;
        let waits = conversation.allocator.ready(1) == Ready::Wait
            || users.iter().any(|user| {
                inboxes.get(&(name.0, user.clone())).is_some_and(|inbox| inbox.allocator.ready(1) == Ready::Wait)
            });
        if waits {
            self.stalled.insert(name.clone());
            return false;
        }
        conversation.waiting.pop_front();
        conversation.in_flight += 1;
        let place = conversation.allocator.take(clock.now_ms, 1).expect("it need not wait");
        if let Some(seqs) = conversation.allocator.want(clock.now_ms) {
            self.wants.push((Namespace::conversation(name.0, name.1.clone()), seqs));
        }
        let mut local = Vec::with_capacity(users.len());
        for user in users {
            let inbox = inboxes.entry((name.0, user.clone())).or_insert_with(|| Inbox::new(epoch));
            let place = inbox.allocator.take(clock.now_ms, 1).expect("it need not wait");
            if let Some(seqs) = inbox.allocator.want(clock.now_ms) {
                self.wants.push((Namespace::inbox(name.0, user.clone()), seqs));
            }
            local.push(LocalInbox { user, place });
        }
        let record = conversation.record();
        let delivered = (record != conversation.recorded && conversation.exists).then(|| {
            conversation.recorded = record.clone();
            record
        });
        let send = self.sends.get_mut(&id).and_then(|op| op.send.take()).expect("seen above");
        let append = Append {
            tenant: send.tenant,
            conversation: send.conversation,
            sender: send.sender,
            message_id: send.message_id,
            known: send.known,
            follows: send.follows,
            content: send.content,
            place,
            at_ms: clock.unix_ms,
            local,
            delivered,
        };
        self.submit(HolderOp::Append(append), Note::Send(id));
        true
    }

    /// An append has its outcome.
    pub(crate) fn on_appended(&mut self, clock: &Clock, append: Append, send: u64, appended: Appended) {
        let name = (append.tenant, append.conversation.clone());
        self.close_places(&append, appended.segment, &appended.local);
        let reply = Ok(Reply::Committed { seq: appended.seq, duplicate: appended.duplicate });
        self.finish_send(&append, send, &reply);
        let Some(entry) = appended.entry.filter(|_| !appended.duplicate && !self.settling) else { return };

        let (salt, body) = append.content.stored();
        let written: Vec<_> = append
            .local
            .into_iter()
            .zip(appended.local)
            .filter_map(|(local, outcome)| Some((local.user, outcome.written?)))
            .collect();
        let Some(conversation) = self.conversations.get_mut(&name) else { return };
        let before = conversation.last;
        if before != appended.prev_seq {
            self.effects.push_back(Effect::Alarm("an entry follows another one than its holder knows"));
        }
        conversation.committed(clock.now_ms, &name, &entry, &append.content);
        if let Kind::Recall { target } = entry.kind {
            self.recent_bytes -= conversation.recall(target);
        }
        if let Some(own) = conversation.targets.get_mut(&self.slot) {
            let all = own
                .members
                .iter()
                .filter(|member| member.owes(entry.seq))
                .all(|member| written.iter().any(|(user, _)| *user == member.user));
            if all && own.cursor >= before {
                own.cursor = Some(entry.seq);
                own.backlog = 0;
            }
        }
        if conversation.is_delivered() {
            let dropped = conversation.recent.bytes;
            self.recent_bytes -= dropped;
            conversation.recent = crate::conversation::Recent::behind(conversation.last);
            // Apply saw the same and wrote no pending row, unless there was one.
        } else {
            conversation.pending = true;
            let recent = RecentEntry::new(entry.clone(), salt.clone(), body.clone());
            self.recent_bytes += recent.bytes();
            conversation.recent.push(recent);
            while self.recent_bytes > self.limits.recent_bytes_max && !conversation.recent.entries.is_empty() {
                self.recent_bytes -= conversation.recent.pop();
            }
            self.dirty.insert(name.clone());
        }
        self.unrecorded.insert(name.clone());

        for (user, written) in written {
            let push = |seq: Seq| PushEntry {
                seq,
                prev_seq: written.prev_seq,
                ordinal: written.ordinal,
                conversation: name.1.clone(),
                entry: entry.clone(),
                salt: salt.clone(),
                body: body.clone(),
            };
            if let Some(inbox) = self.inboxes.get_mut(&(name.0, user)) {
                let sessions = inbox.written(written.seq);
                if !sessions.is_empty() {
                    self.effects.push_back(Effect::Push { sessions, entries: vec![push(written.seq)] });
                }
            }
        }
    }

    /// An append was refused.
    pub(crate) fn on_append_rejected(&mut self, append: Append, send: u64, reject: &Reject) {
        self.close_places(&append, None, &[]);
        if matches!(reject, Reject::SeqRefused | Reject::Malformed) {
            self.effects.push_back(Effect::Alarm("apply refused a seq or a command of ours"));
            // Whatever the segments are, they are not what we think.
            if let Some(conversation) = self.conversations.get_mut(&(append.tenant, append.conversation.clone())) {
                conversation.allocator.forget();
            }
            for local in &append.local {
                if let Some(inbox) = self.inboxes.get_mut(&(append.tenant, local.user.clone())) {
                    inbox.allocator.forget();
                }
            }
            self.unstall();
        }
        let reply = Err(CallError::Refused(Refusal::new(reject.code(), reject.to_string())));
        self.finish_send(&append, send, &reply);
    }

    /// Answers whoever waits for a send, and forgets it.
    pub(crate) fn finish_send(&mut self, append: &Append, send: u64, reply: &Result<Reply, CallError>) {
        if let Some(op) = self.sends.remove(&send) {
            self.reply(&op.requests, reply);
        }
        if let Some(conversation) = self.conversations.get_mut(&(append.tenant, append.conversation.clone())) {
            conversation.in_flight = conversation.in_flight.saturating_sub(1);
            let key = (append.sender.clone(), append.message_id);
            if conversation.joins.get(&key) == Some(&send) {
                conversation.joins.remove(&key);
            }
        }
    }

    /// Open places have brought their segments, or none.
    pub(crate) fn close_places(
        &mut self,
        append: &Append,
        segment: Option<seriatim_proto::command::Segment>,
        local: &[LocalOutcome],
    ) {
        let mut closed = false;
        if matches!(append.place, Place::Open { .. })
            && let Some(conversation) = self.conversations.get_mut(&(append.tenant, append.conversation.clone()))
        {
            conversation.allocator.installed(segment);
            closed = true;
        }
        for (place, inbox) in append.local.iter().enumerate() {
            if matches!(inbox.place, Place::Open { .. })
                && let Some(inbox) = self.inboxes.get_mut(&(append.tenant, inbox.user.clone()))
            {
                inbox.allocator.installed(local.get(place).and_then(|outcome| outcome.segment));
                closed = true;
            }
        }
        if closed {
            self.unstall();
        }
    }
}
