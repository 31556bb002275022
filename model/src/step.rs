//! Step: what an action does, by the code that ships.

use std::panic::{AssertUnwindSafe, catch_unwind};

use seriatim_logic_core::{Effect, Event, HolderLimits, RequestId, Send, SlotHolder, SourceId};
use seriatim_proto::codec;
use seriatim_proto::command::{Command, Outcome, Reject};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{Epoch, SlotId};
use seriatim_proto::store::Read;
use seriatim_store_core::{MemoryView, apply, read};

use crate::action::{Action, claim_command, standing};
use crate::broken::Broken;
use crate::model::Check;
use crate::reached::Situation;
use crate::scene::{Ask, COMMIT_INDEX, GROUP, Reads, TENANT, at, clock, content, lease, message_id};
use crate::shared::Shared;
use crate::state::{Attempt, NODES, State, Under, Wire};

impl Check {
    /// The state after an action; `None` if it changes nothing.
    pub(crate) fn step(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        self.act(&mut next, action);
        while self.scene.bounds.reads == Reads::AtOnce
            && let Some(place) = next.wires.iter().position(|wire| matches!(&**wire, Wire::Read { .. }))
        {
            let wire = next.wires.remove(place);
            self.arrive(&mut next, &wire, 0);
        }
        self.bury_ghosts(&mut next);
        if next.broken.is_none() {
            self.check_rest(&mut next);
        }
        (next != *last).then_some(next)
    }

    fn act(&self, state: &mut State, action: Action) {
        match action {
            Action::Issue { request, node } => self.issue(state, request, node),
            Action::Arrive { wire, node } => {
                let wire = state.wires.remove(wire);
                self.arrive(state, &wire, node);
            }
            Action::Lose { wire } => {
                state.spent.faults += 1;
                let wire = state.wires.remove(wire);
                self.fail(state, &wire, ErrorCode::Timeout);
            }
            Action::Late { wire } => {
                state.spent.faults += 1;
                let wire = state.wires.remove(wire);
                self.give_up(state, &wire, ErrorCode::Timeout);
            }
            Action::Double { wire, node } => {
                state.spent.faults += 1;
                let wire = state.wires.remove(wire);
                if let Wire::Deliver { deliveries, .. } = &*wire {
                    state.push_wire(Wire::GhostDeliver(deliveries.clone()));
                }
                self.arrive(state, &wire, node);
            }
            Action::Timer { node, slot } => {
                state.spent.timers += 1;
                let due = state.nodes[node].holders.get(&slot).and_then(|holder| holder.poll_timeout());
                let this = &mut state.nodes[node];
                // In large steps, so that ways that differ by a few milliseconds meet again.
                this.now_ms = this.now_ms.max(due.unwrap_or_default().next_multiple_of(TIME_STEP_MS));
                self.handle(state, node, slot, Event::Timer);
            }
            Action::Lapse { node } => state.nodes[node].lapsed = true,
            Action::Renew { node } => {
                state.spent.renewals += 1;
                state.nodes[node].lapsed = false;
            }
            Action::Expire { node } => {
                state.spent.expiries += 1;
                self.commit(state, &Command::ExpireLease { lease: lease(node) });
            }
            Action::Claim { node, slot } => {
                state.spent.claims += 1;
                let (seen, _) = standing(&state.rows, slot);
                state.push_wire(Wire::Claim { node, slot, seen });
            }
            Action::Release { node, slot } => {
                state.spent.releases += 1;
                self.handle(state, node, slot, Event::Release { heir: None });
            }
            Action::Learn { node, slot } => self.handle(state, node, slot, Event::LeaseGone),
            Action::Crash { node } => self.crash(state, node),
            Action::LeaderChange => self.change_leader(state),
        }
    }

    fn issue(&self, state: &mut State, request: usize, node: usize) {
        let mut clients = state.clients.clone_value();
        if clients.attempts[request].is_empty() {
            clients.floors[request] = clients.bound;
        }
        let attempt = clients.attempts[request].len();
        clients.attempts[request].push(Attempt::Waits(node));
        state.clients = Shared::new(clients);
        let id = RequestId { stream: request as u64, id: attempt as u64 };
        let (scene, ask) = (&self.scene, self.scene.requests[request].ask);
        let slot = scene.slot_of(ask);
        let event = match ask {
            Ask::Send { sender, id: message, body } => Event::Send {
                request: id,
                send: Send {
                    tenant: TENANT,
                    conversation: scene.conversation.clone(),
                    sender: scene.users[sender].clone(),
                    message_id: message_id(message),
                    known: None,
                    follows: None,
                    content: content(body),
                },
            },
            Ask::Next(count) => Event::Next { request: id, tenant: TENANT, counter: scene.counter.clone(), count },
            Ask::Current => Event::Current { request: id, tenant: TENANT, counter: scene.counter.clone() },
        };
        let (epoch, _) = standing(&state.rows, slot);
        if state.nodes[node].holders.get(&slot).is_some_and(|holder| holder.epoch() < epoch) {
            self.reached.note(Situation::StaleHolderAsked);
        }
        self.handle(state, node, slot, event);
    }

    fn arrive(&self, state: &mut State, wire: &Wire, node: usize) {
        match wire {
            Wire::Propose { from, n, command } => {
                match self.commit_bytes(state, command) {
                    // It would be the same at any later time: as good as heard at once.
                    Some(outcome @ Outcome::Rejected(Reject::Fenced { .. } | Reject::Passed)) => {
                        self.handle_under(state, *from, Event::Outcome { n: *n, outcome })
                    }
                    Some(outcome) => state.push_wire(Wire::Outcome { to: *from, n: *n, outcome }),
                    None => {}
                }
            }
            Wire::Ghost(command) => drop(self.commit_bytes(state, command)),
            Wire::Outcome { to, n, outcome } => {
                let event = Event::Outcome { n: *n, outcome: outcome.clone() };
                self.handle_under(state, *to, event);
            }
            Wire::Read { from, id, read: what } => {
                if matches!(what, Read::Dedupe { .. }) {
                    self.reached.note(Situation::Settled);
                }
                match self.core(|| read(&*state.rows, GROUP, what)) {
                    Ok(Ok(outcome)) if self.scene.bounds.reads == Reads::TwoSteps => {
                        state.push_wire(Wire::ReadDone { to: *from, id: *id, outcome })
                    }
                    Ok(Ok(outcome)) => {
                        self.handle_under(state, *from, Event::ReadDone { id: *id, outcome: Some(outcome) })
                    }
                    Ok(Err(fatal)) => state.break_with(Broken::Panic(fatal.to_string())),
                    Err(text) => state.break_with(Broken::Panic(text)),
                }
            }
            Wire::ReadDone { to, id, outcome } => {
                self.handle_under(state, *to, Event::ReadDone { id: *id, outcome: Some(outcome.clone()) })
            }
            Wire::Deliver { from, batch, deliveries } => {
                let stream = (from.epoch.0 * NODES as u64) + from.node as u64;
                let source = SourceId { stream, request: *batch, index: u32::from(from.slot.0) };
                let (slot, deliveries, bodies) =
                    (deliveries.slot, deliveries.deliveries.clone(), deliveries.bodies.clone());
                self.handle(state, node, slot, Event::Deliver { source, deliveries, bodies });
            }
            Wire::GhostDeliver(deliveries) => {
                let source = SourceId { stream: NOBODY, request: 0, index: 0 };
                let (slot, deliveries, bodies) =
                    (deliveries.slot, deliveries.deliveries.clone(), deliveries.bodies.clone());
                self.handle(state, node, slot, Event::Deliver { source, deliveries, bodies });
            }
            Wire::Answer { to, batch, outcomes } => {
                let event = Event::DeliverAnswered { batch: *batch, outcomes: outcomes.clone() };
                self.handle_under(state, *to, event);
            }
            Wire::Claim { node, slot, seen } => {
                if let Some(outcome) = self.commit(state, &claim_command(*node, *slot, *seen)) {
                    state.push_wire(Wire::Claimed { node: *node, slot: *slot, seen: *seen, outcome });
                }
            }
            Wire::Claimed { node, slot, seen, outcome } => {
                if let Outcome::Claimed { epoch } = outcome {
                    self.start_holder(state, *node, *slot, (*seen, *epoch));
                }
            }
        }
    }

    /// Whoever waits for it hears that it failed.
    fn fail(&self, state: &mut State, wire: &Wire, code: ErrorCode) {
        match wire {
            Wire::Propose { from: under, n, .. } | Wire::Outcome { to: under, n, .. } => {
                let refusal = Refusal::new(code, "");
                self.handle_under(state, *under, Event::ProposeFailed { n: *n, refusal });
            }
            Wire::Read { from: under, id, .. } | Wire::ReadDone { to: under, id, .. } => {
                self.handle_under(state, *under, Event::ReadDone { id: *id, outcome: None })
            }
            Wire::Deliver { from: under, batch, .. } | Wire::Answer { to: under, batch, .. } => {
                self.handle_under(state, *under, Event::DeliverAnswered { batch: *batch, outcomes: None })
            }
            // The node may claim again.
            Wire::Claim { .. } | Wire::Claimed { .. } | Wire::Ghost(_) | Wire::GhostDeliver(_) => {}
        }
    }

    /// As [`Self::fail`], but it may still happen.
    fn give_up(&self, state: &mut State, wire: &Wire, code: ErrorCode) {
        match wire {
            Wire::Propose { command, .. } => state.push_wire(Wire::Ghost(command.clone())),
            Wire::Deliver { deliveries, .. } => state.push_wire(Wire::GhostDeliver(deliveries.clone())),
            Wire::Claim { node, slot, seen } => {
                let command = claim_command(*node, *slot, *seen);
                state.push_wire(Wire::Ghost(codec::encode_part(&command)));
            }
            _ => {}
        }
        self.fail(state, wire, code);
    }

    fn crash(&self, state: &mut State, node: usize) {
        state.spent.crashes += 1;
        let holders: Vec<Under> = state.nodes[node]
            .holders
            .iter()
            .map(|(slot, holder)| Under { node, slot: *slot, epoch: holder.epoch() })
            .collect();
        for under in holders {
            state.orphan(under);
        }
        let claims: Vec<Shared<Wire>> = state
            .wires
            .extract_if(.., |wire| {
                matches!(&**wire, Wire::Claim { node: who, .. } | Wire::Claimed { node: who, .. } if *who == node)
            })
            .collect();
        for claim in claims {
            self.give_up(state, &claim, ErrorCode::Unavailable);
        }
        let this = &mut state.nodes[node];
        (this.up, this.lapsed, this.now_ms) = (false, false, 0);
        this.holders.clear();
        this.started.clear();
        let mut clients = state.clients.clone_value();
        for attempt in clients.attempts.iter_mut().flatten() {
            if *attempt == Attempt::Waits(node) {
                *attempt = Attempt::Unknown;
            }
        }
        state.clients = Shared::new(clients);
    }

    fn change_leader(&self, state: &mut State) {
        state.spent.leader_changes += 1;
        self.reached.note(Situation::LeaderChanged);
        let asked: Vec<Shared<Wire>> = state
            .wires
            .extract_if(.., |wire| !wire.is_ghost() && !matches!(&**wire, Wire::Deliver { .. } | Wire::Answer { .. }))
            .collect();
        for wire in asked {
            self.give_up(state, &wire, ErrorCode::NotLeader);
        }
    }

    /// As the shell does it: a claim that is answered twice begins one holder, and an older one ends.
    fn start_holder(&self, state: &mut State, node: usize, slot: SlotId, (seen, epoch): (Epoch, Epoch)) {
        let this = &mut state.nodes[node];
        if !this.up || this.started.get(&slot).is_some_and(|started| *started >= epoch) {
            return;
        }
        this.started.insert(slot, epoch);
        if let Some(old) = this.holders.get(&slot).map(|holder| holder.epoch()) {
            self.handle(state, node, slot, Event::LeaseGone);
            state.nodes[node].holders.remove(&slot);
            state.orphan(Under { node, slot, epoch: old });
        }
        self.reached.note(Situation::Takeover);
        let now_ms = state.nodes[node].now_ms;
        match self.core(|| SlotHolder::new(now_ms, slot, epoch, seen, HolderLimits::default())) {
            Ok(holder) => self.drive(state, Under { node, slot, epoch }, holder, None),
            Err(text) => state.break_with(Broken::Panic(text)),
        }
    }

    // --- the holder

    fn handle_under(&self, state: &mut State, under: Under, event: Event) {
        if state.holder(under).is_some() {
            self.handle(state, under.node, under.slot, event);
        }
    }

    fn handle(&self, state: &mut State, node: usize, slot: SlotId, event: Event) {
        let Some(holder) = state.nodes[node].holders.get(&slot) else { return };
        let (under, holder) = (Under { node, slot, epoch: holder.epoch() }, holder.clone_value());
        self.drive(state, under, holder, Some(event));
    }

    fn drive(&self, state: &mut State, under: Under, mut holder: SlotHolder, event: Option<Event>) {
        let clock = clock(&state.nodes[under.node]);
        let driven = self.core(|| {
            if let Some(event) = event {
                holder.handle(&clock, event);
            }
            let effects: Vec<Effect> = std::iter::from_fn(|| holder.poll(&clock)).collect();
            (holder, effects)
        });
        match driven {
            Ok((holder, effects)) => {
                state.nodes[under.node].holders.insert(under.slot, Shared::new(holder));
                for effect in effects {
                    self.carry_out(state, under, effect);
                }
            }
            Err(text) => state.break_with(Broken::Panic(text)),
        }
    }

    fn carry_out(&self, state: &mut State, under: Under, effect: Effect) {
        match effect {
            Effect::Propose { n, command } => state.push_wire(Wire::Propose { from: under, n, command }),
            Effect::Read { id, read } => state.push_wire(Wire::Read { from: under, id, read }),
            Effect::Deliver { batch, deliveries } => state.push_wire(Wire::Deliver { from: under, batch, deliveries }),
            Effect::DeliverAnswer { source, result } if source.stream != NOBODY => {
                let node = (source.stream % NODES as u64) as usize;
                let slot = SlotId(u16::try_from(source.index).expect("a slot, as we wrote it"));
                let to = Under { node, slot, epoch: Epoch(source.stream / NODES as u64) };
                if state.holder(to).is_some() {
                    state.push_wire(Wire::Answer { to, batch: source.request, outcomes: result.ok() });
                }
            }
            Effect::Reply { request, result } => {
                let (request, attempt) = (request.stream as usize, request.id as usize);
                self.answered(state, under.node, (request, attempt), result);
            }
            Effect::Alarm(text) => state.break_with(Broken::Alarm(text.to_owned())),
            Effect::Ended { released } => {
                if released {
                    self.reached.note(Situation::Released);
                }
                state.nodes[under.node].holders.remove(&under.slot);
                state.orphan(under);
            }
            Effect::DeliverAnswer { .. } => {}
            Effect::Registered { .. } | Effect::Push { .. } | Effect::Lagging { .. } | Effect::Unregistered { .. } => {
                unreachable!("nobody registers")
            }
        }
    }

    // --- the Raft list

    fn commit_bytes(&self, state: &mut State, command: &[u8]) -> Option<Outcome> {
        self.commit(state, &decode(command))
    }

    /// One entry is committed and applied; `None`: something does not hold.
    fn commit(&self, state: &mut State, command: &Command) -> Option<Outcome> {
        let mut rows = state.rows.clone_value();
        let outcome = self.apply(state, &mut rows, command)?;
        self.check_commit(state, &rows, command, &outcome);
        // Committed twice: the second time changes nothing, now or ever, since epochs and `n` only rise.
        let mut again = rows.clone();
        self.apply(state, &mut again, command)?;
        if again != rows {
            state.break_with(Broken::I3("a command that was committed twice was applied twice"));
        }
        if rows != *state.rows {
            state.rows = Shared::new(rows);
        }
        state.broken.is_none().then_some(outcome)
    }

    fn apply(&self, state: &mut State, rows: &mut MemoryView, command: &Command) -> Option<Outcome> {
        match self.core(|| apply(rows, at(COMMIT_INDEX), command, &mut Vec::new())) {
            Ok(Ok(outcome)) => return Some(outcome),
            Ok(Err(fatal)) => state.break_with(Broken::Panic(fatal.to_string())),
            Err(text) => state.break_with(Broken::Panic(text)),
        }
        None
    }

    /// A ghost that is refused now is refused for ever, if its epoch or its `n` is over: it is applied to see that,
    /// and forgotten.
    fn bury_ghosts(&self, state: &mut State) {
        for place in (0..state.wires.len()).rev() {
            let Wire::Ghost(bytes) = &*state.wires[place] else { continue };
            let command = decode(bytes);
            if !is_over(&state.rows, &command) {
                continue;
            }
            state.wires.remove(place);
            let mut rows = state.rows.clone_value();
            if self.apply(state, &mut rows, &command).is_some() && rows != *state.rows {
                state.break_with(Broken::I3("a command of an epoch or an n that is over was applied"));
            }
        }
    }

    /// Calls a core, with the guard of the scene taken out; an assertion that fails is a finding.
    fn core<T>(&self, act: impl FnOnce() -> T) -> Result<T, String> {
        #[cfg(feature = "guards")]
        let act = || seriatim_proto::guard::without(self.scene.guard_out, act);
        catch_unwind(AssertUnwindSafe(act)).map_err(|panic| match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => panic.downcast::<&str>().map_or_else(|_| "a panic".to_owned(), |text| (*text).to_owned()),
        })
    }
}

/// Can this command never be admitted again?
fn is_over(rows: &MemoryView, command: &Command) -> bool {
    use seriatim_store_core::{Key, Row};
    let row = |slot| match rows.rows.get(&Key::holder(slot)) {
        Some(Row::Holder(row)) => *row,
        _ => unreachable!("every slot of the scene is owned"),
    };
    match command {
        Command::Held { fence, .. } => {
            let row = row(fence.slot);
            fence.epoch < row.epoch || fence.epoch == row.epoch && (fence.n < row.next_n || row.lease.is_none())
        }
        Command::Claim { slot, seen, .. } => *seen < row(*slot).epoch,
        _ => false,
    }
}

fn decode(part: &[u8]) -> Command {
    let mut framed = Vec::with_capacity(part.len() + 1);
    framed.push(codec::VERSION);
    framed.extend_from_slice(part);
    codec::decode(&framed).expect("a command as its holder encoded it")
}

/// Time comes in multiples of this.
const TIME_STEP_MS: u64 = 500;
/// The stream of deliveries whose source does not wait.
const NOBODY: u64 = u64::MAX;
