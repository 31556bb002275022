//! Replica: one group's placement on this store: how the rest of the process reaches it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use seriatim_proto::chaos::{self, Point, Sabotage};
use seriatim_proto::codec;
use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{GroupId, LeaseId, ReplicaId, StoreId};
use seriatim_proto::limits;
use seriatim_proto::meta::Directory;
use seriatim_proto::store::{Freshness, GroupStatus, Read, ReadOutcome, Renewal, StoreRefusal, StoreResponse};

use crate::admission::Budget;
use crate::check::Rest;
use crate::door::{self, Door, Visitor};
use crate::fatal::FatalSignal;
use crate::live::{Events, GroupLive};
use crate::metrics::StoreMetrics;
use crate::raft::group::{GroupHandle, Members};
use crate::raft::types::{CommandBatch, Member};
use crate::rocks::state_db::StateDb;

/// What all replicas of a store have in common.
pub(crate) struct Shared {
    pub(crate) store: StoreId,
    pub(crate) state: Arc<StateDb>,
    pub(crate) metrics: StoreMetrics,
    pub(crate) fatal: FatalSignal,
    pub(crate) node_budget: Budget,
    pub(crate) events: Events,
}

/// A replica that runs.
pub(crate) struct Replica {
    pub(crate) group: GroupId,
    pub(crate) live: Arc<GroupLive>,
    pub(crate) state: Arc<StateDb>,
    pub(crate) metrics: StoreMetrics,
    pub(crate) fatal: FatalSignal,
    pub(crate) store: StoreId,
    handle: GroupHandle,
    node_budget: Budget,
    budget: Budget,
    groups: tokio::runtime::Handle,
    /// see [`Replica::has_doubtful_lease`]
    doubtful_lease: AtomicBool,
    /// see [`crate::check::rest_agrees`]
    pub(crate) rest: Mutex<Option<Rest>>,
    /// `None` once it is stopped.
    door: Mutex<Option<mpsc::Sender<Visitor>>>,
}

impl Replica {
    /// Opens the doors of a group that runs.
    pub(crate) fn start(
        shared: Shared,
        group: GroupId,
        handle: GroupHandle,
        live: Arc<GroupLive>,
        groups: &tokio::runtime::Handle,
    ) -> Arc<Self> {
        let (door, queue) = mpsc::channel(DOOR_VISITORS);
        let replica = Arc::new(Self {
            group,
            live,
            state: shared.state,
            metrics: shared.metrics,
            fatal: shared.fatal,
            store: shared.store,
            handle,
            node_budget: shared.node_budget,
            budget: Budget::new(limits::PROPOSAL_BYTES_GROUP_MAX),
            groups: groups.clone(),
            doubtful_lease: AtomicBool::new(false),
            rest: Mutex::new(None),
            door: Mutex::new(Some(door)),
        });
        replica.keep_links();
        groups.spawn(Door::new(Arc::clone(&replica), queue).run());
        groups.spawn(tell_leader(replica.handle.clone(), group, shared.events));
        replica
    }

    /// Proposes a batch that the door has checked. The answer goes out of apply.
    pub(crate) async fn propose(&self, id: u64, count: u32, bytes: Bytes, answer: mpsc::OwnedPermit<StoreResponse>) {
        let size = bytes.len() as u64;
        let (Some(of_node), Some(of_group)) = (self.node_budget.take(size), self.budget.take(size)) else {
            let refusal = Refusal::later(ErrorCode::Busy, "too many bytes proposed and not answered", BUSY_RETRY_MS);
            let refusal = StoreRefusal::Refused(refusal);
            self.answer_refused(&refusal);
            answer.send(StoreResponse::Proposed { id, result: Err(refusal) });
            return;
        };
        self.metrics.proposals.inc();
        self.metrics.proposal_bytes.inc_by(size);
        let metrics = self.metrics.clone();
        chaos::hit(Point::ProposeBefore);
        let callback = move |result: Result<Vec<Outcome>, StoreRefusal>| {
            drop((of_node, of_group));
            match &result {
                Ok(_) => chaos::hit(Point::ProposeAnswered),
                Err(refusal) => metrics.refused(code_of(refusal)),
            }
            answer.send(StoreResponse::Proposed { id, result });
        };
        self.handle.propose(CommandBatch { count, bytes }, callback).await;
    }

    /// Proposes commands of the leader itself, bound to its leadership: an entry of another term is refused.
    pub(crate) async fn propose_as_leader(
        &self,
        term: u64,
        commands: &[Command],
        answered: impl FnOnce(Result<Vec<Outcome>, StoreRefusal>) + Send + 'static,
    ) {
        let count = u32::try_from(commands.len()).expect("a batch of ours is short");
        let batch = CommandBatch { count, bytes: codec::encode_bytes(&commands) };
        self.handle.propose_as_leader(term, batch, answered).await;
    }

    /// Linearizable or stale reads. The place in the answer queue comes back with a refusal.
    pub(crate) fn read(
        self: &Arc<Self>,
        id: u64,
        freshness: Freshness,
        reads: Vec<Read>,
        answer: mpsc::OwnedPermit<StoreResponse>,
    ) -> Result<(), (StoreRefusal, mpsc::OwnedPermit<StoreResponse>)> {
        let freshness = if chaos::sabotaged(Sabotage::StaleRead) { Freshness::Stale } else { freshness };
        match freshness {
            Freshness::Stale => {
                let replica = Arc::clone(self);
                self.groups.spawn_blocking(move || {
                    let result = replica.read_now(&reads);
                    answer.send(StoreResponse::Reads { id, result });
                });
                Ok(())
            }
            Freshness::Linearizable => {
                if let Err(refusal) = self.check_leader() {
                    return Err((refusal, answer));
                }
                match self.visit(Visitor::Read { id, reads, answer }) {
                    Ok(()) => Ok(()),
                    Err((refusal, Visitor::Read { answer, .. })) => Err((refusal, answer)),
                    Err((_, Visitor::Renew { .. })) => unreachable!("the same visitor comes back"),
                }
            }
        }
    }

    /// One lease's renewal.
    pub(crate) fn renew(&self, lease: LeaseId, answer: oneshot::Sender<Renewal>) {
        // Refused: the dropped sender says `Unavailable`.
        drop(self.visit(Visitor::Renew { lease, answer }));
    }

    fn visit(&self, visitor: Visitor) -> Result<(), (StoreRefusal, Visitor)> {
        let refused = |code, what: &str| StoreRefusal::Refused(Refusal::later(code, what, BUSY_RETRY_MS));
        match &*self.door.lock() {
            None => Err((refused(ErrorCode::Shutdown, "the store stops"), visitor)),
            Some(door) => door.try_send(visitor).map_err(|error| match error {
                mpsc::error::TrySendError::Full(visitor) => (refused(ErrorCode::Busy, "too many reads wait"), visitor),
                mpsc::error::TrySendError::Closed(visitor) => {
                    (refused(ErrorCode::Shutdown, "the store stops"), visitor)
                }
            }),
        }
    }

    /// Answers from the rows as they are here, all at one moment. May block.
    pub(crate) fn read_now(&self, reads: &[Read]) -> Result<Vec<ReadOutcome>, StoreRefusal> {
        if self.live.installing() {
            let refusal = Refusal::later(ErrorCode::Unavailable, "a snapshot is being installed", BUSY_RETRY_MS);
            return Err(StoreRefusal::Refused(refusal));
        }
        door::serve_reads(self, reads)
    }

    /// Waits until everything committed before the call is applied here, which only the leader can.
    pub(crate) async fn read_index(&self) -> Result<(), StoreRefusal> {
        self.handle.read_index().await
    }

    /// The term that this replica leads in, if it leads.
    pub(crate) fn leadership(&self) -> Option<u64> {
        self.handle.leadership()
    }

    /// The store that leads, as seen here.
    pub(crate) fn leader(&self) -> Option<StoreId> {
        self.handle.leader()
    }

    /// Refuses unless this replica leads.
    pub(crate) fn check_leader(&self) -> Result<(), StoreRefusal> {
        if self.leadership().is_some() {
            return Ok(());
        }
        // A leader that is known to be here but does not lead any more is of no use to the caller.
        Err(StoreRefusal::NotLeader { leader: self.leader().filter(|leader| *leader != self.store) })
    }

    /// Have all members of the group everything up to `index`?
    pub(crate) fn all_have(&self, index: u64) -> bool {
        self.handle.matched().iter().all(|(_, matched)| matched.is_some_and(|matched| matched >= index))
    }

    /// Last entry of the log.
    pub(crate) fn last_index(&self) -> u64 {
        self.status().last_index
    }

    /// Has the store answered lately, and almost everything of the log? Only a leader knows.
    pub(crate) fn follows_closely(&self, store: StoreId) -> bool {
        self.close_follower(store).is_some()
    }

    /// As [`Replica::follows_closely`], of one replica: two of them are on one store while a rotten one is rebuilt.
    pub(crate) fn is_close(&self, replica: ReplicaId) -> bool {
        let last = self.last_index();
        self.handle.matched().into_iter().any(|(member, matched)| {
            member.replica == replica
                && matched.is_some_and(|matched| matched + TRANSFER_LAG_MAX >= last)
                && self.handle.is_heard(replica)
        })
    }

    /// The store's replica that can take the leadership: a learner cannot.
    fn close_follower(&self, store: StoreId) -> Option<ReplicaId> {
        let last = self.last_index();
        let voters = self.handle.membership().voters;
        let ready = self.handle.matched().into_iter().find(|(member, matched)| {
            member.store == store
                && voters.contains(&member.replica)
                && matched.is_some_and(|matched| matched + TRANSFER_LAG_MAX >= last)
                && self.handle.is_heard(member.replica)
        });
        ready.map(|(member, _)| member.replica)
    }

    /// Gives leadership to a store that follows closely. A leader that gives its leadership to a dead store leads no
    /// more, and the others wait for an election.
    pub(crate) async fn transfer_to(&self, store: StoreId) {
        if let Some(replica) = self.close_follower(store) {
            tracing::info!(group = self.group.0, store = store.0, "giving leadership away");
            self.handle.transfer(replica).await;
        }
    }

    /// Is there a lease whose holder has missed a renewal, so that it may be about to expire? A new leader would
    /// wait for it from the beginning.
    pub(crate) fn has_doubtful_lease(&self) -> bool {
        self.doubtful_lease.load(Ordering::Relaxed)
    }

    /// Says so.
    pub(crate) fn set_doubtful_lease(&self, doubtful: bool) {
        self.doubtful_lease.store(doubtful, Ordering::Relaxed);
    }

    /// Gives leadership away, for this replica stops: see [`successor`].
    pub(crate) async fn transfer_away(&self, known: Option<&Directory>) {
        if self.leadership().is_none() {
            return;
        }
        let is_sound = |id: ReplicaId| !known.is_some_and(|directory| directory.is_rotten(self.group, id));
        // One that was replaced is not asked for votes by anybody: it would wait for its own election.
        let is_in = |id: ReplicaId| !known.is_some_and(|directory| directory.is_replaced(self.group, id));
        let followers: Vec<_> = self.heard_followers().into_iter().filter(|(id, _)| is_in(*id)).collect();
        if let Some(id) = successor(&followers, self.last_index(), is_sound) {
            self.handle.transfer(id).await;
        }
    }

    /// A rotten replica gives leadership to a sound one that follows closely. False if there is none, and it leads on:
    /// another rotten one would only give it back, and one that lags would have the group wait for it.
    pub(crate) async fn hand_over(&self, directory: &Directory) -> bool {
        if self.leadership().is_none() {
            return false;
        }
        let is_sound = |id: ReplicaId| !directory.is_rotten(self.group, id);
        let Some(heir) = heir(&self.heard_followers(), self.last_index(), is_sound) else { return false };
        tracing::info!(group = self.group.0, replica = heir.0, "a rotten replica gives leadership away");
        self.metrics.rot_handovers.inc();
        self.handle.transfer(heir).await;
        true
    }

    /// The voters on other stores that have answered lately, and how far each has the log.
    pub(crate) fn heard_followers(&self) -> Vec<(ReplicaId, Option<u64>)> {
        let voters = self.handle.membership().voters;
        let matched = self.handle.matched().into_iter();
        let others = matched.filter(|(member, _)| member.store != self.store && voters.contains(&member.replica));
        let heard = others.filter(|(member, _)| self.handle.is_heard(member.replica));
        heard.map(|(member, matched)| (member.replica, matched)).collect()
    }

    /// The members, voters or not.
    pub(crate) fn membership(&self) -> Members {
        self.handle.membership()
    }

    /// Which replica of the group this is.
    pub(crate) fn id(&self) -> ReplicaId {
        self.handle.replica()
    }

    /// Makes a replica a learner; see [`GroupHandle::change_voters`].
    pub(crate) async fn add_learner(&self, term: u64, seen: &Members, member: &Member) -> Result<(), String> {
        self.handle.add_learner(term, seen, member).await
    }

    /// Makes these the voters; see [`GroupHandle::change_voters`].
    pub(crate) async fn change_voters(
        &self,
        term: u64,
        seen: &Members,
        voters: &BTreeSet<ReplicaId>,
    ) -> Result<(), String> {
        self.handle.change_voters(term, seen, voters).await
    }

    /// Members without a vote are members no more; see [`GroupHandle::change_voters`].
    pub(crate) async fn remove_learners(
        &self,
        term: u64,
        seen: &Members,
        learners: &BTreeSet<ReplicaId>,
    ) -> Result<(), String> {
        self.handle.remove_learners(term, seen, learners).await
    }

    /// The stores that the group lives on.
    pub(crate) fn stores(&self) -> Vec<StoreId> {
        let mut stores = self.status().voters;
        stores.sort_unstable();
        stores.dedup();
        stores
    }

    /// Tells openraft that what is flushed may be purged.
    pub(crate) async fn note_flushed(&self) {
        match self.state.flushed_position(self.group) {
            Ok(Some(_)) => self.handle.snapshot().await,
            Ok(None) => (),
            Err(fatal) => self.fatal.raise_of(format_args!("group {} cannot read its position", self.group), &fatal),
        }
    }

    /// Keeps streams to all other members.
    pub(crate) fn keep_links(&self) {
        self.handle.keep_links();
    }

    /// Closes the door and stops Raft.
    pub(crate) async fn stop(&self) {
        drop(self.door.lock().take());
        self.handle.stop().await;
    }

    /// What operators see.
    pub(crate) fn status(&self) -> GroupStatus {
        // First what is applied: a digest at that entry, if there will be one, shows in what is read then.
        let status = self.handle.status();
        let (digest, digesting) = self.live.compared();
        let agreeing = match self.leadership() {
            Some(_) => {
                let rest = self.rest.lock().clone();
                rest.map(|rest| rest.agreeing(&self.handle.membership().voters)).unwrap_or_default()
            }
            None => Vec::new(),
        };
        let (slots, leases) = (self.live.slot_count(), self.live.lease_count());
        GroupStatus { slots, leases, digest, digesting, agreeing, ..status }
    }

    /// A refusal goes out.
    pub(crate) fn answer_refused(&self, refusal: &StoreRefusal) {
        self.metrics.refused(code_of(refusal));
    }
}

fn code_of(refusal: &StoreRefusal) -> ErrorCode {
    match refusal {
        StoreRefusal::NotLeader { .. } => ErrorCode::NotLeader,
        StoreRefusal::Refused(refusal) => refusal.code,
    }
}

/// Who takes over from a leader that stops and whose log ends at `last`: a sound one that follows closely; else one that
/// does so and is rotten, since it serves at once and hands over when it can; else whoever is furthest.
fn successor(
    followers: &[(ReplicaId, Option<u64>)],
    last: u64,
    is_sound: impl Fn(ReplicaId) -> bool,
) -> Option<ReplicaId> {
    let known = followers.iter().filter_map(|(id, matched)| matched.map(|matched| (*id, matched)));
    let rank = |(id, matched): &(ReplicaId, u64)| {
        let is_close = matched + TRANSFER_LAG_MAX >= last;
        (is_close, is_close && is_sound(*id), *matched, *id)
    };
    known.max_by_key(rank).map(|(id, _)| id)
}

/// Who can take over from a rotten leader whose log ends at `last`: of those that may lead, the furthest, if it is close.
fn heir(followers: &[(ReplicaId, Option<u64>)], last: u64, may_lead: impl Fn(ReplicaId) -> bool) -> Option<ReplicaId> {
    let close = followers.iter().filter_map(|(id, matched)| {
        let matched = matched.filter(|matched| matched + TRANSFER_LAG_MAX >= last && may_lead(*id));
        matched.map(|matched| (matched, *id))
    });
    close.max().map(|(_, id)| id)
}

/// Tells watchers who leads, until the group stops.
async fn tell_leader(mut handle: GroupHandle, group: GroupId, events: Events) {
    let mut told = None;
    while let Some(leader) = handle.leader_changed(told).await {
        events.leader(group, leader);
        told = Some(leader);
    }
}

/// Reads and renewals that wait at one group's door.
const DOOR_VISITORS: usize = 4_096;
/// When to come again after `Busy`.
const BUSY_RETRY_MS: u32 = 20;
/// Entries that a replica may be behind and still be given the leadership.
const TRANSFER_LAG_MAX: u64 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotten_leader_hands_over_only_to_a_sound_one_that_follows_closely() {
        let of = |followers: &[(u64, Option<u64>)]| -> Vec<_> {
            followers.iter().map(|(id, matched)| (ReplicaId(*id), *matched)).collect()
        };
        let sound = |ids: &'static [u64]| move |id: ReplicaId| ids.contains(&id.0);
        let close = of(&[(2, Some(950)), (3, Some(1_000))]);
        assert_eq!(heir(&close, 1_000, sound(&[2, 3])), Some(ReplicaId(3)));
        assert_eq!(heir(&close, 1_000, sound(&[2])), Some(ReplicaId(2)), "the other one is rotten too");
        assert_eq!(heir(&close, 1_000, sound(&[])), None);
        assert_eq!(heir(&of(&[(2, Some(800)), (3, None)]), 1_000, sound(&[2, 3])), None, "it would have to wait");
        assert_eq!(heir(&[], 1_000, sound(&[2, 3])), None, "nobody is heard");
    }

    #[test]
    fn a_leader_that_stops_gives_way_to_one_that_can_serve_at_once() {
        let of = |followers: &[(u64, Option<u64>)]| -> Vec<_> {
            followers.iter().map(|(id, matched)| (ReplicaId(*id), *matched)).collect()
        };
        let given = |followers: &[(u64, Option<u64>)], sound: &[u64]| {
            successor(&of(followers), 1_000, |id| sound.contains(&id.0)).map(|id| id.0)
        };
        assert_eq!(given(&[(2, Some(950)), (3, Some(1_000))], &[2, 3]), Some(3));
        assert_eq!(given(&[(2, Some(950)), (3, Some(1_000))], &[2]), Some(2), "the sound one of two that are close");
        assert_eq!(given(&[(2, Some(500)), (3, Some(1_000))], &[2]), Some(3), "the group would wait for the other");
        assert_eq!(given(&[(2, Some(400)), (3, Some(500))], &[2]), Some(3), "nobody is close: the furthest");
        assert_eq!(given(&[(2, None), (3, Some(1))], &[2]), Some(3), "of the other one nothing is known");
        assert_eq!(given(&[(2, None)], &[2]), None);
    }
}
