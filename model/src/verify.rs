//! Verify: does everything hold that docs/invariants.md promises?
//!
//! After each committed entry the rows before and after it are compared; after each answer what the client heard is
//! compared with the rows and with what was answered before; and when nothing is under way, everybody must have
//! everything.

use seriatim_proto::command::{Command, DeliveryOutcome, HolderOp, Outcome, Place, Reject};
use seriatim_proto::error::{Certainty, ErrorCode};
use seriatim_proto::ids::{Chain, Fence, Namespace, Seq, SlotId};
use seriatim_proto::logic::{CallError, Reply};
use seriatim_proto::store::{InboxEntry, StoredMessage};
use seriatim_store_core::key::Item;
use seriatim_store_core::row::{NamespaceRow, SlotRow};
use seriatim_store_core::{Key, MemoryView, Row, Scope};

use crate::action::standing;
use crate::broken::Broken;
use crate::model::Check;
use crate::reached::Situation;
use crate::scene::{Ask, BEGIN_MS, TENANT, content, message_id};
use crate::shared::Shared;
use crate::state::{Attempt, Clients, State, Under};

impl Check {
    // --- after a committed entry

    pub(crate) fn check_commit(&self, state: &mut State, rows: &MemoryView, command: &Command, outcome: &Outcome) {
        self.note_outcome(outcome);
        let before = state.rows.clone();
        let checks = [
            check_fence(&before, rows, command, outcome),
            check_rising(&before, rows),
            self.check_entries(&before, rows),
            self.check_certainty(&state.clients, rows),
        ];
        if let Some(broken) = checks.into_iter().find_map(Result::err) {
            state.break_with(broken);
        }
    }

    fn note_outcome(&self, outcome: &Outcome) {
        let note = |situation| self.reached.note(situation);
        match outcome {
            Outcome::Rejected(Reject::Fenced { .. }) => note(Situation::FencedWrite),
            Outcome::Rejected(Reject::Expected { .. }) => note(Situation::OvertakenWrite),
            Outcome::Rejected(Reject::Passed) => note(Situation::PassedWrite),
            Outcome::Rejected(Reject::Conflict) => note(Situation::Conflict),
            Outcome::Rejected(Reject::ClaimRefused { .. }) => note(Situation::ClaimRefused),
            Outcome::Appended(appended) if appended.duplicate => note(Situation::DedupedRetry),
            Outcome::Appended(appended) if appended.local.iter().any(|local| local.written.is_some()) => {
                note(Situation::LocalWritten)
            }
            Outcome::Delivered(outcomes) => outcomes.iter().for_each(|outcome| match outcome {
                DeliveryOutcome::Accepted { written, .. } if written.is_empty() => note(Situation::RepeatSkipped),
                DeliveryOutcome::Accepted { .. } => note(Situation::Delivered),
                DeliveryOutcome::Jump { .. } => note(Situation::Jump),
                DeliveryOutcome::SeqRefused => {}
            }),
            _ => {}
        }
    }

    /// I5, I7, I8, I9, if any entry was written.
    fn check_entries(&self, before: &MemoryView, rows: &MemoryView) -> Result<(), Broken> {
        let is_entry = |row: &&Row| matches!(row, Row::Message(_) | Row::Inbox(_));
        let count = |rows: &MemoryView| rows.rows.values().filter(is_entry).count();
        if count(before) == count(rows) {
            return Ok(());
        }
        let log = self.log(rows);
        check_linked(&log)?;
        for (place, message) in log.iter().enumerate() {
            let name = |of: &StoredMessage| (of.entry.sender.clone(), of.entry.message_id);
            if log[..place].iter().any(|other| name(other) == name(message)) {
                return Err(Broken::I7("one message id made two messages"));
            }
        }
        let written = rows.rows.values().filter(|row| matches!(row, Row::Inbox(_))).count();
        let mut of_members = 0;
        for (place, _) in self.scene.users.iter().enumerate() {
            let inbox = self.inbox(rows, place);
            of_members += inbox.len();
            check_inbox(&inbox, &log)?;
        }
        if written != of_members {
            return Err(Broken::I9("an entry in the inbox of somebody else"));
        }
        Ok(())
    }

    fn log<'a>(&self, rows: &'a MemoryView) -> Vec<&'a StoredMessage> {
        let messages = rows.rows.values().filter_map(|row| match row {
            Row::Message(message) => Some(message),
            _ => None,
        });
        messages.collect()
    }

    fn inbox<'a>(&self, rows: &'a MemoryView, user: usize) -> Vec<&'a InboxEntry> {
        let user = &self.scene.users[user];
        let entries = rows.rows.iter().filter_map(|(key, row)| match (&key.scope, row) {
            (Scope::Tenant(TENANT, Item::Inbox(of, seq)), Row::Inbox(entry)) if of == user => {
                (entry.seq == *seq && entry.conversation == self.scene.conversation).then_some(entry)
            }
            _ => None,
        });
        entries.collect()
    }

    /// What surely did not happen, in any attempt, is not there.
    fn check_certainty(&self, clients: &Clients, rows: &MemoryView) -> Result<(), Broken> {
        for message in self.log(rows) {
            let asked = |ask: Ask| {
                matches!(ask, Ask::Send { sender, id, body } if self.scene.users[sender] == message.entry.sender
                    && message_id(id) == message.entry.message_id
                    && content(body).hash() == message.entry.body_hash)
            };
            let mut attempts = self
                .scene
                .requests
                .iter()
                .zip(&clients.attempts)
                .filter(|(request, _)| asked(request.ask))
                .flat_map(|(_, attempts)| attempts);
            if attempts.all(|attempt| *attempt == Attempt::Not) {
                return Err(Broken::Answer("what was said not to have happened is in the conversation"));
            }
        }
        Ok(())
    }

    // --- after an answer

    pub(crate) fn answered(
        &self,
        state: &mut State,
        node: usize,
        (request, attempt): (usize, usize),
        result: Result<Reply, CallError>,
    ) {
        let mut clients = state.clients.clone_value();
        if clients.attempts[request][attempt] != Attempt::Waits(node) {
            state.break_with(Broken::Answer("an attempt was answered twice"));
            return;
        }
        let heard = match (self.scene.requests[request].ask, result) {
            (Ask::Send { .. }, Ok(Reply::Committed { seq, .. })) => {
                self.committed(&state.rows, &mut clients, request, seq)
            }
            (Ask::Next(count), Ok(Reply::Numbers { first, count: given })) if given == count => {
                self.reached.note(Situation::NumbersGiven);
                let range = (first.get(), first.get() + u64::from(count));
                state.disordered |= range.0 < clients.floors[request];
                self.numbers(&state.rows, &mut clients, range).map(|()| Attempt::Served)
            }
            (Ask::Current, Ok(Reply::Current(bound))) => {
                self.reached.note(Situation::CurrentGiven);
                // What was answered before it was asked for lies below it.
                state.disordered |= bound.get() < clients.floors[request];
                clients.bound = clients.bound.max(bound.get());
                Ok(Attempt::Served)
            }
            (_, Ok(_)) => Err(Broken::Answer("an answer to another question")),
            (ask, Err(error)) => {
                let lapsed = state.nodes[node].lapsed && !matches!(ask, Ask::Send { .. });
                if lapsed && matches!(error, CallError::NotHolder { .. }) {
                    self.reached.note(Situation::LapsedRefused);
                }
                self.refused(&state.rows, ask, &error)
            }
        };
        match heard {
            Ok(heard) => clients.attempts[request][attempt] = heard,
            Err(broken) => return state.break_with(broken),
        }
        if let Err(broken) = self.check_certainty(&clients, &state.rows) {
            state.break_with(broken);
        }
        state.clients = Shared::new(clients);
    }

    fn committed(&self, rows: &MemoryView, clients: &mut Clients, request: usize, seq: Seq) -> Result<Attempt, Broken> {
        let Ask::Send { sender, id, body } = self.scene.requests[request].ask else {
            unreachable!("only sends are committed")
        };
        let entry = self.log(rows).into_iter().map(|message| &message.entry).find(|entry| entry.seq == seq);
        let is_it = entry.is_some_and(|entry| {
            entry.sender == self.scene.users[sender]
                && entry.message_id == message_id(id)
                && entry.body_hash == content(body).hash()
        });
        if !is_it {
            return Err(Broken::Answer("what was said to be committed is not there"));
        }
        let earlier = clients.attempts[request].iter().find_map(|attempt| match attempt {
            Attempt::Committed(seq) => Some(*seq),
            _ => None,
        });
        match earlier {
            Some(earlier) if earlier != seq.get() => return Err(Broken::I7("one message at two places")),
            None if seq.get() <= clients.floors[request] => {
                return Err(Broken::I2("a send that began after another was committed lies below it"));
            }
            _ => {}
        }
        clients.bound = clients.bound.max(seq.get());
        Ok(Attempt::Committed(seq.get()))
    }

    fn numbers(&self, rows: &MemoryView, clients: &mut Clients, (lo, hi): (u64, u64)) -> Result<(), Broken> {
        if clients.given.iter().any(|(from, to)| lo < *to && *from < hi) {
            return Err(Broken::I1("a number was given twice"));
        }
        let namespace = Namespace::counter(TENANT, self.scene.counter.clone());
        match rows.rows.get(&Key::namespace(self.scene.slot_of(Ask::Current), namespace)) {
            Some(Row::Namespace(row)) if hi <= row.ceiling.get() => {}
            _ => return Err(Broken::I4("a number was given that is not reserved")),
        }
        clients.bound = clients.bound.max(hi);
        clients.given.push((lo, hi));
        clients.given.sort_unstable();
        let mut joined: Vec<(u64, u64)> = Vec::with_capacity(clients.given.len());
        for range in std::mem::take(&mut clients.given) {
            match joined.last_mut() {
                Some(last) if last.1 == range.0 => last.1 = range.1,
                _ => joined.push(range),
            }
        }
        clients.given = joined;
        Ok(())
    }

    fn refused(&self, rows: &MemoryView, ask: Ask, error: &CallError) -> Result<Attempt, Broken> {
        let CallError::Refused(refusal) = error else { return Ok(Attempt::Not) };
        if refusal.code == ErrorCode::Internal {
            return Err(Broken::Answer("a defect was answered"));
        }
        if refusal.code == ErrorCode::Conflict {
            let Ask::Send { sender, id, body } = ask else {
                return Err(Broken::Answer("a conflict of numbers"));
            };
            let other = self.log(rows).into_iter().any(|message| {
                message.entry.sender == self.scene.users[sender]
                    && message.entry.message_id == message_id(id)
                    && message.entry.body_hash != content(body).hash()
            });
            if !other {
                return Err(Broken::I7("a conflict with nothing"));
            }
        }
        Ok(match refusal.code.certainty() {
            Certainty::DidNotHappen => Attempt::Not,
            Certainty::Unknown => Attempt::Unknown,
        })
    }

    // --- at rest

    /// When nothing is under way, every inbox has every entry, and nobody waits for an answer.
    pub(crate) fn check_rest(&self, state: &mut State) {
        if state.in_flight() > 0 || !self.scene.slots.keys().all(|slot| self.is_quiet(state, *slot)) {
            return;
        }
        let waits = |attempt: &Attempt| matches!(attempt, Attempt::Waits(_));
        if state.clients.attempts.iter().flatten().any(waits) {
            state.break_with(Broken::Stuck("a request is not answered"));
        }
        let log = self.log(&state.rows);
        let behind = (0..self.scene.users.len()).any(|user| self.inbox(&state.rows, user).len() < log.len());
        if behind {
            state.break_with(Broken::I9("an entry never reaches an inbox"));
        } else if !log.is_empty() {
            self.reached.note(Situation::AtRest);
        }
    }

    /// Does the slot have a holder, alone, with nothing to do?
    fn is_quiet(&self, state: &State, slot: SlotId) -> bool {
        let (epoch, held) = standing(&state.rows, slot);
        let holders = state.nodes.iter().enumerate().filter(|(_, node)| node.holders.contains_key(&slot));
        let quiet = |node: usize| {
            state.holder(Under { node, slot, epoch }).is_some_and(|holder| {
                let due = holder.poll_timeout().is_some_and(|at| at < BEGIN_MS + self.scene.bounds.horizon_ms);
                !holder.is_leaving() && !due && !state.nodes[node].lapsed
            })
        };
        let holders: Vec<usize> = holders.map(|(node, _)| node).collect();
        held && holders.len() == 1 && holders.iter().all(|node| quiet(*node))
    }
}

/// I3: what was not refused came under the slot's epoch and in its turn, from a lease that lives; and what was refused
/// changed nothing.
fn check_fence(before: &MemoryView, rows: &MemoryView, command: &Command, outcome: &Outcome) -> Result<(), Broken> {
    let row = |rows: &MemoryView, slot: SlotId| match rows.rows.get(&Key::holder(slot)) {
        Some(Row::Holder(row)) => *row,
        _ => unreachable!("every slot of the scene is owned"),
    };
    match (command, outcome) {
        (
            Command::Held { .. },
            Outcome::Rejected(Reject::Fenced { .. } | Reject::Passed | Reject::Expected { .. } | Reject::WrongGroup(_)),
        ) if before.rows != rows.rows => Err(Broken::I3("a command that was refused at its fence changed something")),
        (
            Command::Held { .. },
            Outcome::Rejected(Reject::Fenced { .. } | Reject::Passed | Reject::Expected { .. } | Reject::WrongGroup(_)),
        ) => Ok(()),
        (Command::Held { fence, op }, outcome) => {
            let was: SlotRow = row(before, fence.slot);
            if fence.epoch != was.epoch || was.lease.is_none() {
                return Err(Broken::I3("a write under a stale epoch was applied"));
            }
            if fence.n != was.next_n {
                return Err(Broken::I3("a write was applied out of its turn"));
            }
            check_seq(rows, *fence, op, outcome)
        }
        (Command::Claim { slot, lease, .. }, Outcome::Claimed { .. }) => {
            let (was, is) = (row(before, *slot), row(rows, *slot));
            let (_, held) = standing(before, *slot);
            match was.lease {
                Some(other) if other != *lease && held => Err(Broken::I3("two live epochs of one slot")),
                _ if is.epoch < was.epoch || is.lease != Some(*lease) => Err(Broken::I3("a claim that does not hold")),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// I3: an entry has a seq of its own epoch's segments.
fn check_seq(rows: &MemoryView, fence: Fence, op: &HolderOp, outcome: &Outcome) -> Result<(), Broken> {
    let within = |namespace: Namespace, seq: Seq| {
        let row: NamespaceRow = match rows.rows.get(&Key::namespace(fence.slot, namespace)) {
            Some(Row::Conversation(row)) => row.namespace,
            Some(Row::Namespace(row)) => *row,
            _ => return Err(Broken::I5("an entry of nothing")),
        };
        match row.epoch == fence.epoch && row.base <= seq && seq < row.ceiling {
            true => Ok(()),
            false => Err(Broken::I3("a seq of another epoch's segment was applied")),
        }
    };
    match (op, outcome) {
        (HolderOp::Append(append), Outcome::Appended(appended)) if !appended.duplicate => {
            if matches!(append.place, Place::At(seq) if seq != appended.seq) {
                return Err(Broken::I1("an entry at another seq than its own"));
            }
            within(Namespace::conversation(append.tenant, append.conversation.clone()), appended.seq)?;
            for (local, outcome) in append.local.iter().zip(&appended.local) {
                if let Some(written) = outcome.written {
                    within(Namespace::inbox(append.tenant, local.user.clone()), written.seq)?;
                }
            }
            Ok(())
        }
        (HolderOp::Deliver { deliveries }, Outcome::Delivered(outcomes)) => {
            for (delivery, outcome) in deliveries.iter().zip(outcomes) {
                let DeliveryOutcome::Accepted { written, .. } = outcome else { continue };
                for written in written {
                    within(Namespace::inbox(delivery.tenant, delivery.user.clone()), written.seq)?;
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// I1, I3, I4: what may only rise rises, what is written stays.
fn check_rising(before: &MemoryView, rows: &MemoryView) -> Result<(), Broken> {
    let falls = |old: NamespaceRow, new: NamespaceRow| {
        new.ceiling < old.ceiling || new.tail < old.tail || new.base < old.base || new.trim < old.trim
    };
    let ordered = |row: NamespaceRow| row.trim <= row.tail && row.tail <= row.ceiling && row.base <= row.ceiling;
    for (key, old) in &before.rows {
        let Some(new) = rows.rows.get(key) else {
            match old {
                Row::Lease(_) | Row::Pending => continue,
                _ => return Err(Broken::I1("a row is gone")),
            }
        };
        match (old, new) {
            (Row::Namespace(old), Row::Namespace(new)) if falls(*old, *new) => {
                return Err(Broken::I4("a ceiling or a tail fell"));
            }
            (Row::Conversation(old), Row::Conversation(new)) if falls(old.namespace, new.namespace) => {
                return Err(Broken::I4("a ceiling or a tail fell"));
            }
            (Row::Last(old), Row::Last(new)) if new.last < old.last => {
                return Err(Broken::I9("`last` of a conversation in an inbox fell"));
            }
            (Row::Holder(old), Row::Holder(new))
                if new.epoch < old.epoch || new.epoch == old.epoch && new.next_n < old.next_n =>
            {
                return Err(Broken::I3("an epoch or an `n` fell"));
            }
            (Row::Message(_) | Row::Inbox(_), new) if old != new => {
                return Err(Broken::I1("an entry was written twice"));
            }
            (Row::Dedupe(_), new) if old != new => {
                return Err(Broken::I7("a message id has two verdicts"));
            }
            _ => {}
        }
    }
    let disordered = rows.rows.values().any(|row| match row {
        Row::Namespace(row) => !ordered(*row),
        Row::Conversation(row) => !ordered(row.namespace),
        _ => false,
    });
    if disordered { Err(Broken::I4("trim <= tail <= ceiling")) } else { Ok(()) }
}

/// I5 of a conversation.
fn check_linked(log: &[&StoredMessage]) -> Result<(), Broken> {
    let (mut prev, mut chain, mut ordinal) = (None, Chain([0; 16]), 0);
    for message in log {
        ordinal += 1;
        let linked = message.prev_seq == prev && message.chain == message.link_from(chain);
        if !linked || message.ordinal != ordinal || Some(message.entry.seq) <= prev {
            return Err(Broken::I5("a link of a conversation is missing"));
        }
        (prev, chain) = (Some(message.entry.seq), message.chain);
    }
    Ok(())
}

/// I5, I8, I9 of an inbox: linked, and a beginning of the conversation, in its order.
fn check_inbox(inbox: &[&InboxEntry], log: &[&StoredMessage]) -> Result<(), Broken> {
    let (mut prev, mut chain, mut ordinal) = (None, Chain([0; 16]), 0);
    for entry in inbox {
        ordinal += 1;
        let linked = entry.prev_seq == prev && entry.chain == entry.link_from(chain);
        if !linked || entry.ordinal != ordinal || Some(entry.seq) <= prev {
            return Err(Broken::I5("a link of an inbox is missing"));
        }
        (prev, chain) = (Some(entry.seq), entry.chain);
    }
    if inbox.windows(2).any(|pair| pair[1].entry.seq < pair[0].entry.seq) {
        return Err(Broken::I8("an inbox has another order than its conversation"));
    }
    if inbox.len() > log.len() || inbox.iter().zip(log).any(|(entry, message)| entry.entry != message.entry) {
        return Err(Broken::I9("an inbox lacks an entry, or has one twice"));
    }
    Ok(())
}
