//! Retention: leaders give up what their groups' tenants do not keep.
//!
//! ```text
//! directory: tenants' limits ──▶ leader, every few minutes: all inboxes and conversations of its slots, oldest entry
//!                                 └─ too old, or too many behind it ──▶ Trim{upto} ──▶ apply, on all replicas
//! ```
//! Age is the only thing here that a wall clock decides, so it decides nothing alone: entries go by age only while a
//! majority of the group's stores shows about the leader's time (clock.rs, design.md §4). What is due is found from the
//! rows (`seriatim_store_core::due`); apply compares seqs and knows no time.
//!
//! Where there is more to give up than one command does, sequences take turns, so that a long one holds up nobody, and
//! all of it is paced: by sequences that are looked at, and by entries that go.
//!
//! # Failure
//! A look that ends early, for want of leadership or of an answer, begins anew: a trim may be repeated. What is not
//! delivered everywhere is kept, counted (`retention_held`), and looked at again soon. A leader that is rotten gives up
//! nothing, and limits that change end the looks that go by the old ones.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::ids::{GroupId, Owner, SlotId, TenantId};
use seriatim_proto::limits;
use seriatim_proto::meta::{Directory, Limit, TenantRecord};
use seriatim_store_core::{Fatal, Item, Keep, Key, Reader, Row, Scan, Scope as KeyScope, due};

use crate::clock;
use crate::host::Host;
use crate::replica::Replica;

/// What a tenant does not keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rule {
    tenant: TenantId,
    age_s: Option<u32>,
    conversation_messages: Option<u32>,
    inbox_messages: Option<u32>,
}

/// A group's last look.
#[derive(Debug)]
struct Looked {
    at: Instant,
    /// conversations that were due and not delivered everywhere
    held: u32,
}

/// Gives up what is due, for as long as the store runs. Runs until it is dropped.
pub(crate) async fn run(host: Arc<Host>) {
    let mut looked: BTreeMap<GroupId, Looked> = BTreeMap::new();
    let mut rules = Vec::new();
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(directory) = host.events().directory().borrow().clone() else { continue };
        let now = rules_of(&directory.tenants);
        if now != rules {
            // What was said just now holds for what is there.
            looked.clear();
            rules = now;
        }
        let replicas = host.replicas();
        let led = |replica: &&Arc<Replica>| replica.group != GroupId::META && replica.leadership().is_some();
        let is_led = |group: GroupId| replicas.iter().filter(led).any(|replica| replica.group == group);
        looked.retain(|group, _| !rules.is_empty() && is_led(*group));
        for replica in replicas.iter().filter(led) {
            if rules.is_empty() || !is_due(&host, looked.get(&replica.group)) || is_rotten(&directory, replica) {
                continue;
            }
            match look_at(&host, &directory, replica, &rules).await {
                Ok(held) => {
                    host.metrics().retention_looks.inc();
                    looked.insert(replica.group, Looked { at: Instant::now(), held });
                }
                Err(what) => tracing::debug!(group = replica.group.0, what, "a look at what is due ended early"),
            }
        }
        let held: u32 = looked.values().map(|looked| looked.held).sum();
        host.metrics().retention_held.set(i64::from(held));
    }
}

/// Is a group to be looked at again? Sooner if something was only not delivered yet.
fn is_due(host: &Host, looked: Option<&Looked>) -> bool {
    let period = host.tuning().retention_period;
    let pause = |looked: &Looked| if looked.held > 0 { period.min(HELD_AGAIN) } else { period };
    looked.is_none_or(|looked| looked.at.elapsed() >= pause(looked))
}

fn is_rotten(directory: &Directory, replica: &Replica) -> bool {
    replica.live.rot().is_some() || directory.is_rotten(replica.group, replica.id())
}

fn rules_of(tenants: &[TenantRecord]) -> Vec<Rule> {
    let rule = |record: &TenantRecord| {
        let of = |limit| record.limits.get(&limit).copied().filter(|value| *value < u32::MAX);
        let rule = Rule {
            tenant: record.id,
            age_s: of(Limit::RetentionAge),
            conversation_messages: of(Limit::RetentionConversation),
            inbox_messages: of(Limit::RetentionInbox),
        };
        let keeps_all = (rule.age_s, rule.conversation_messages, rule.inbox_messages) == (None, None, None);
        (!keeps_all).then_some(rule)
    };
    tenants.iter().filter_map(rule).collect()
}

impl Rule {
    /// What is kept at `now_ms`; by age nothing is given up without a time to go by.
    fn keep(&self, now_ms: Option<u64>) -> Keep {
        let since = |(age_s, now_ms): (u32, u64)| now_ms.saturating_sub(u64::from(age_s) * 1_000);
        Keep {
            since_ms: self.age_s.zip(now_ms).map(since),
            conversation_messages: self.conversation_messages.map(u64::from),
            inbox_messages: self.inbox_messages.map(u64::from),
        }
    }
}

/// Where a look is: in which slot, at which rule, behind which sequence.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct At {
    slot: usize,
    rule: usize,
    after: Option<Owner>,
}

/// A sequence with more to give up than one command did.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Unfinished {
    slot: SlotId,
    rule: usize,
    owner: Owner,
}

/// What a part of a look has found.
#[derive(Debug, Default)]
struct Found {
    /// where, what, and whether there may be more
    trims: Vec<(Unfinished, Command, bool)>,
    held: u32,
    /// sequences and slots that were looked at
    visited: u32,
    /// where the next part begins, if it goes on to sequences that were not looked at
    next: Option<At>,
}

/// What does not change while a group is looked at.
#[derive(Debug)]
struct Scope {
    slots: Vec<SlotId>,
    keeps: Vec<(TenantId, Keep)>,
}

/// One look at all sequences of a group. How many were due and not delivered everywhere.
async fn look_at(
    host: &Arc<Host>,
    directory: &Directory,
    replica: &Arc<Replica>,
    rules: &[Rule],
) -> Result<u32, String> {
    let term = replica.leadership().ok_or("the leadership ended")?;
    let by_age = rules.iter().any(|rule| rule.age_s.is_some());
    let now_ms = if by_age { clock::sure_ms(host, directory, replica).await } else { None };
    if by_age && now_ms.is_none() {
        host.metrics().retention_doubts.inc();
    }
    let record = directory.groups.iter().find(|record| record.id == replica.group).ok_or("no such group")?;
    let scope = Arc::new(Scope {
        slots: record.slots.iter().flat_map(|range| range.first.0..range.end.0).map(SlotId).collect(),
        keeps: rules.iter().map(|rule| (rule.tenant, rule.keep(now_ms))).collect(),
    });
    let (mut at, mut held) = (Some(At::default()), 0);
    let mut unfinished: VecDeque<Unfinished> = VecDeque::new();
    while at.is_some() || !unfinished.is_empty() {
        let began = Instant::now();
        let now = host.events().directory().borrow().clone();
        if now.is_none_or(|now| rules_of(&now.tenants) != rules || is_rotten(&now, replica)) {
            return Err("the limits have changed".to_owned());
        }
        let turn: Vec<Unfinished> = unfinished.drain(..unfinished.len().min(TURN)).collect();
        let (state, group, from, of) = (Arc::clone(host.state()), replica.group, at, Arc::clone(&scope));
        let look = move || state.view(group).and_then(|view| look(&view, &of, turn, from));
        let found = match host.spawn_read(look).await.ok_or("the runtime ends")? {
            Ok(found) => found,
            Err(fatal) => {
                host.fatal().raise_of(format_args!("group {group} cannot look at what is due"), &fatal);
                return Err(fatal.to_string());
            }
        };
        at = found.next;
        held += found.held;
        let mut gone = 0;
        if !found.trims.is_empty() {
            let commands: Vec<_> = found.trims.iter().map(|(_, command, _)| command.clone()).collect();
            let trimmed = give_up(host, replica, term, &commands).await?;
            gone = trimmed.iter().map(|trimmed| trimmed.entries).sum();
            let more = found.trims.into_iter().zip(trimmed).filter(|((.., more), trimmed)| *more || !trimmed.is_all);
            unfinished.extend(more.map(|((of, ..), _)| of));
        }
        let pace = f64::from(found.visited) / f64::from(limits::RETENTION_NAMESPACES_PER_S)
            + f64::from(gone) / f64::from(limits::RETENTION_ENTRIES_PER_S);
        tokio::time::sleep(Duration::from_secs_f64(pace).saturating_sub(began.elapsed())).await;
    }
    Ok(held)
}

/// Looks at those whose turn it is, then at so many sequences from there on, or until enough is found for one entry of
/// the log.
fn look(view: &impl Reader, scope: &Scope, turn: Vec<Unfinished>, from: Option<At>) -> Result<Found, Fatal> {
    let mut found = Found::default();
    for of in turn {
        let tenant = scope.keeps[of.rule].0;
        let key = Key::tenant(of.slot, tenant, Item::Namespace(of.owner.clone()));
        if let Some(row) = view.get(&key)? {
            found.note(view, scope, of, &row)?;
        }
    }
    let Some(mut at) = from else { return Ok(found) };
    while let Some(slot) = scope.slots.get(at.slot).copied() {
        let Some((tenant, _)) = scope.keeps.get(at.rule) else {
            at = At { slot: at.slot + 1, ..At::default() };
            continue;
        };
        if found.visited >= PART || found.trims.len() >= TRIMS_MAX {
            found.next = Some(at);
            return Ok(found);
        }
        let scan = Scan::Namespaces { slot, tenant: *tenant, after: at.after.clone() };
        let rows = view.scan(&scan, PAGE)?;
        found.visited += 1;
        let mut is_last = rows.len() < PAGE;
        for (key, row) in rows {
            let KeyScope::Tenant(_, Item::Namespace(owner)) = key.scope else {
                unreachable!("a scan returns what it contains");
            };
            // They come last, and have no entries.
            if matches!(owner, Owner::Counter(_)) {
                is_last = true;
                break;
            }
            at.after = Some(owner.clone());
            found.note(view, scope, Unfinished { slot, rule: at.rule, owner }, &row)?;
        }
        if is_last {
            at = At { rule: at.rule + 1, after: None, ..at };
        }
    }
    Ok(found)
}

impl Found {
    fn note(&mut self, view: &impl Reader, scope: &Scope, of: Unfinished, row: &Row) -> Result<(), Fatal> {
        let (tenant, keep) = &scope.keeps[of.rule];
        let due = due(view, of.slot, *tenant, &of.owner, row, keep)?;
        self.visited += 1;
        self.held += u32::from(due.held);
        self.trims.extend(due.trim.map(|command| (of, command, due.more)));
        Ok(())
    }
}

/// What became of a trim.
#[derive(Clone, Copy, Debug)]
struct Trimmed {
    entries: u32,
    /// all that was asked for went
    is_all: bool,
}

/// Has the group apply trims.
async fn give_up(host: &Host, replica: &Replica, term: u64, trims: &[Command]) -> Result<Vec<Trimmed>, String> {
    let (tx, rx) = oneshot::channel();
    // Nobody may wait any more: then the answer is not wanted.
    replica.propose_as_leader(term, trims, move |result| drop(tx.send(result))).await;
    // A group without a quorum holds up no other.
    let answer = tokio::time::timeout(ANSWER, rx).await.map_err(|_| "no answer in time")?;
    let outcomes = answer.map_err(|_| "no answer")?.map_err(|refusal| refusal.to_string())?;
    let mut trimmed = Vec::with_capacity(trims.len());
    for (command, outcome) in trims.iter().zip(outcomes) {
        let (Command::Trim { upto, .. }, Outcome::Trimmed { trim, entries }) = (command, &outcome) else {
            return Err(format!("another verdict than `Trimmed`: {outcome:?}"));
        };
        host.metrics().retention_entries.inc_by(u64::from(*entries));
        trimmed.push(Trimmed { entries: *entries, is_all: trim >= upto });
    }
    Ok(trimmed)
}

/// Sequences and slots of one part of a look.
const PART: u32 = 512;
/// Sequences that are read at once.
const PAGE: usize = 16;
/// Trims after which a part ends.
const TRIMS_MAX: usize = 8;
/// Sequences with more to give up whose turn it is in one part.
const TURN: usize = 4;
/// Period of looking whether a group is due.
const LOOK: Duration = Duration::from_secs(1);
/// Until a group is looked at again in which something was not delivered everywhere.
const HELD_AGAIN: Duration = Duration::from_secs(20);
/// Time for an answer of the group.
const ANSWER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn only_tenants_that_do_not_keep_everything_have_rules() {
        let record = |id, limits: &[(Limit, u32)]| TenantRecord {
            id: TenantId(id),
            limits: limits.iter().copied().collect::<BTreeMap<_, _>>(),
        };
        let tenants = [
            record(1, &[(Limit::UserWrites, 5)]),
            record(2, &[(Limit::RetentionAge, u32::MAX)]),
            record(3, &[(Limit::RetentionAge, 60), (Limit::RetentionInbox, 100)]),
        ];
        let rules = rules_of(&tenants);
        let (age_s, inbox_messages) = (Some(60), Some(100));
        assert_eq!(rules, [Rule { tenant: TenantId(3), age_s, conversation_messages: None, inbox_messages }]);
        let keep = rules[0].keep(Some(100_000));
        assert_eq!(keep, Keep { since_ms: Some(40_000), conversation_messages: None, inbox_messages: Some(100) });
        assert_eq!(rules[0].keep(None).since_ms, None, "no time, nothing by age");
        assert_eq!(rules[0].keep(Some(1)).since_ms, Some(0));
    }
}
