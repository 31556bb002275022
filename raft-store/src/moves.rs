//! Moves: replicas go from one store to another while the group goes on.
//!
//! ```text
//! group 0's leader ── Planner: BeginMove ──▶ Move{joining, leaving} in the directory
//! joining's store  ── is born empty, is told everything (host.rs)
//! group's leader   ── learner ▶ has everything, has noted that it began ▶ voter, the leaving one no more ── EndMove ──▶ group 0
//! leaving's store  ── is removed with everything (host.rs)
//! ```
//! Every step can be repeated, by the same leader or another one: each looks at the members as they are.
//!
//! # Invariants
//! I15: no id comes back. A leader changes the members only by a directory that was read linearizably in its own term,
//! and only if they are still those that it saw.
//! I6: whoever becomes a voter has noted that it began: without its log it is rot, not a new replica.
//!
//! # Failure
//! While a replica joins, nobody purges the group's log: who copies slower than others write would never be done.
//! A replica that joins and does not run for [`STUCK`] leaves again, and its store is given none for [`AVOID`]. One that
//! is made in a rotten one's place may wait for longer, as long as its store answers. A move that stands still for
//! [`STUCK`] holds up no other one. What cannot be done now is tried again.
//! A move that is turned back ends with the members as they were, rotten or not. Only what has left already and is
//! rotten does not come back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use seriatim_proto::command::{Command, Outcome};
use seriatim_proto::ids::{ClusterId, GroupId, ReplicaId, StoreId};
use seriatim_proto::meta::{Directory, MetaCommand, MetaOutcome, MoveRecord, ReplicaRecord, StoreRecord};
use seriatim_proto::store::{Freshness, StoreStatus};
use seriatim_store_core::plan::{self, Why};
use seriatim_store_core::voters_wanted;

use crate::check;
use crate::host::Host;
use crate::meta::address;
use crate::raft::types::Member;
use crate::remote::Remote;
use crate::replica::Replica;

/// For each group that is led here and moves: does what is due.
pub(crate) fn carry_out(host: &Arc<Host>, busy: &Arc<Mutex<BTreeSet<GroupId>>>) {
    let Some(directory) = host.events().directory().borrow().clone() else { return };
    if directory.moves.is_empty() {
        return;
    }
    for replica in host.replicas() {
        let (Some(term), true) =
            (replica.leadership(), directory.moves.iter().any(|moved| moved.group == replica.group))
        else {
            continue;
        };
        if !busy.lock().insert(replica.group) {
            continue;
        }
        let (host, busy, directory) = (Arc::clone(host), Arc::clone(busy), Arc::clone(&directory));
        host.groups().clone().spawn(async move {
            if let Err(what) = step(&host, &replica, term, &directory).await {
                tracing::debug!(group = replica.group.0, what, "a replica's move goes on in a moment");
                tokio::time::sleep(RETRY).await;
            }
            busy.lock().remove(&replica.group);
        });
    }
}

async fn step(host: &Arc<Host>, replica: &Arc<Replica>, term: u64, known: &Directory) -> Result<(), String> {
    // The directory that started this may be old: members change by what group 0 says now.
    let directory = host.remote().read_directory(known).await?;
    host.events().learn(directory.clone());
    let of_group = |moved: &&MoveRecord| moved.group == replica.group;
    let Some(moved) = directory.moves.iter().find(of_group) else { return Ok(()) };
    let Some(record) = directory.groups.iter().find(|record| record.id == replica.group) else { return Ok(()) };
    let wanted: Vec<ReplicaRecord> = voters_wanted(record, moved);
    let ids: BTreeSet<ReplicaId> = wanted.iter().map(|replica| replica.id).collect();
    let members = replica.membership();
    let is_rotten = directory.is_rotten(replica.group, replica.id()) || replica.live.rot().is_some();
    match first(&directory, moved, is_rotten, &members.voters, members.is_joint) {
        First::TurnForward => {
            let again = match (moved.is_rebuild(), moved.leaving) {
                (true, Some(leaving)) => MetaCommand::BeginRebuild { group: moved.group, replica: leaving.id },
                _ => {
                    let store = |replica: Option<ReplicaRecord>| replica.map(|replica| replica.store);
                    MetaCommand::BeginMove { group: moved.group, from: store(moved.leaving), to: store(moved.joining) }
                }
            };
            return host.remote().tell_meta(&directory, again).await.map(drop);
        }
        First::HandOver => {
            if replica.hand_over(&directory).await {
                return Err("a rotten replica hands over first".to_owned());
            }
            // Who copies from it would have its rows. What only ends copies nothing.
            if wanted.iter().any(|record| !members.voters.contains(&record.id)) {
                return Err("nobody sound follows the rotten leader closely enough to take over".to_owned());
            }
        }
        First::Nothing => (),
    }
    // Also one that stays because the move was turned back when it had left already.
    if let Some(comes) = wanted.iter().find(|record| !members.voters.contains(&record.id)) {
        let to = address(&directory, comes.store).ok_or("the joining store has no address")?;
        if !members.all.contains(&comes.id) {
            // What makes it a member must be committed without the rotten one: then a majority of the others has
            // everything, and what is left of the rotten one can go (host.rs).
            if let Some(rotten) = moved.leaving.filter(|_| moved.is_rebuild() && !moved.back)
                && !is_stopped(host.remote(), &to, directory.cluster, replica.group, rotten).await
            {
                return Err("the rotten replica may not have stopped yet".to_owned());
            }
            check::rest_agrees(host, &directory, replica).await?;
            let member = Member { replica: comes.id, store: comes.store, address: to };
            replica.add_learner(term, &members, &member).await?;
            tracing::info!(group = replica.group.0, replica = comes.id.0, store = comes.store.0, "a replica joins");
            return Ok(());
        }
        if !replica.is_close(comes.id) {
            return Err("the joining replica does not have everything yet".to_owned());
        }
        if !is_settled(host.remote(), &to, directory.cluster, *comes).await {
            return Err("the joining replica has not noted that it began".to_owned());
        }
    }
    // A leader that leaves hands over first: nobody waits for an election.
    if moved.goes().is_some_and(|goes| goes.id == replica.id()) {
        // A rotten one would give it back.
        let can_lead = |record: &&ReplicaRecord| {
            members.voters.contains(&record.id) && !directory.is_rotten(replica.group, record.id)
        };
        let stays = |store: &StoreId| wanted.iter().filter(can_lead).any(|record| record.store == *store);
        let heir = replica.stores().into_iter().filter(stays).find(|store| replica.follows_closely(*store));
        if let Some(heir) = heir {
            replica.transfer_to(heir).await;
            return Err("the leader hands over, to leave".to_owned());
        }
        if wanted.len() > 1 {
            return Err("nobody follows closely enough to take over".to_owned());
        }
    }
    if members.voters != ids || members.is_joint {
        // A change that its own voters cannot commit could not be turned back either.
        let follow = |record: &&ReplicaRecord| record.id == replica.id() || replica.is_close(record.id);
        if wanted.iter().filter(follow).count() <= wanted.len() / 2 {
            return Err("too few of the new voters follow closely".to_owned());
        }
        replica.change_voters(term, &members, &ids).await?;
    }
    // A learner that never became a voter stays a learner until it is told to go.
    let members = replica.membership();
    let strangers: BTreeSet<ReplicaId> = members.all.difference(&ids).copied().collect();
    if !strangers.is_empty() {
        replica.remove_learners(term, &members, &strangers).await?;
    }
    // What another leader could still take back is not the end: the leaving replica is removed for ever.
    let members = replica.membership();
    if members.voters != ids || members.all != ids || members.is_joint || members.committed_in != Some(term) {
        return Err("the new members are not committed yet".to_owned());
    }
    match host.remote().tell_meta(&directory, MetaCommand::EndMove { moved: moved.clone() }).await? {
        MetaOutcome::NothingMoves => {
            tracing::info!(group = replica.group.0, voters = ?ids, "a replica's move has ended");
            Ok(())
        }
        other => Err(format!("group 0 says {other:?}")),
    }
}

/// What comes before the next step of a move.
#[derive(Debug, PartialEq, Eq)]
enum First {
    /// it was turned back too late
    TurnForward,
    /// a rotten leader gives its leadership away
    HandOver,
    Nothing,
}

/// What does a leader do first? It turns a move forward also while it is rotten and nobody can take over: that copies
/// nothing, and as long as the move stays as it is no other one of its group begins.
fn first(
    directory: &Directory,
    moved: &MoveRecord,
    is_leader_rotten: bool,
    voters: &BTreeSet<ReplicaId>,
    is_joint: bool,
) -> First {
    if must_go_forward(directory, moved, voters, is_joint) {
        First::TurnForward
    } else if is_leader_rotten && voters.len() > 1 {
        First::HandOver
    } else {
        First::Nothing
    }
}

/// Was the move turned back too late? What is rotten never becomes a member again. While it still is a voter, the move
/// can end where it began: whatever joins may be as rotten, or gone for good with its store.
fn must_go_forward(directory: &Directory, moved: &MoveRecord, voters: &BTreeSet<ReplicaId>, is_joint: bool) -> bool {
    let is_rotten = |comes: &ReplicaRecord| directory.is_rotten(moved.group, comes.id);
    let rotten = moved.comes().filter(|comes| moved.back && is_rotten(comes));
    rotten.is_some_and(|rotten| is_joint || !voters.contains(&rotten.id))
}

/// Has the replica noted that it began? Then it can be trusted with a vote.
async fn is_settled(remote: &Remote, address: &str, cluster: ClusterId, replica: ReplicaRecord) -> bool {
    let Some(status) = remote.status(address, cluster, replica.store).await else { return false };
    status.groups.iter().any(|group| group.replica == replica.id && group.settled)
}

/// Does the store say that the replica is rotten, and does not run there any more?
async fn is_stopped(
    remote: &Remote,
    address: &str,
    cluster: ClusterId,
    group: GroupId,
    replica: ReplicaRecord,
) -> bool {
    let Some(status) = remote.status(address, cluster, replica.store).await else { return false };
    let is_rotten = status.rotten.iter().any(|rot| (rot.group, rot.replica) == (group, replica.id));
    is_rotten && !status.groups.iter().any(|runs| (runs.group, runs.replica) == (group, replica.id))
}

/// Does a leader of the group say that a committed entry has made the replica a member?
pub(crate) async fn is_member(remote: &Remote, directory: &Directory, group: GroupId, replica: ReplicaId) -> bool {
    let record = directory.groups.iter().find(|record| record.id == group);
    let stores: BTreeSet<StoreId> = record.iter().flat_map(|record| &record.replicas).map(|it| it.store).collect();
    let asked = directory.stores.iter().filter(|store| stores.contains(&store.id));
    let asked = asked.map(|store| remote.status(&store.address, directory.cluster, store.id));
    let statuses = futures_util::future::join_all(asked).await;
    let mut groups = statuses.iter().flatten().flat_map(|status| &status.groups);
    groups.any(|runs| runs.group == group && runs.members.contains(&replica))
}

/// The stores of group 0.
pub(crate) fn meta_stores(directory: &Directory) -> Vec<StoreRecord> {
    let meta = directory.groups.iter().filter(|record| record.id == GroupId::META);
    let stores: BTreeSet<StoreId> = meta.flat_map(|record| &record.replicas).map(|replica| replica.store).collect();
    directory.stores.iter().filter(|store| stores.contains(&store.id)).cloned().collect()
}

/// A store learns the directory from those that have a replica of group 0, above all if it has none. Runs until it is
/// dropped.
pub(crate) async fn learn_directory(host: Arc<Host>) {
    let mut tick = tokio::time::interval(LEARN);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut turn, mut looks) = (0, 0_u64);
    loop {
        tick.tick().await;
        let Some(identity) = host.identity() else { continue };
        looks += 1;
        // One that has a replica asks too, now and then: that replica may have been removed, and hears nothing.
        if host.serving(GroupId::META).is_ok() && looks % LEARN_TOO != 0 {
            continue;
        }
        let known = host.events().directory().borrow().clone();
        let stores = known.map_or_else(|| identity.meta_stores.clone(), |directory| meta_stores(&directory));
        let stores: Vec<_> = stores.into_iter().filter(|store| store.id != identity.store).collect();
        for _ in 0..stores.len() {
            let store = &stores[turn % stores.len()];
            // Another one each time: one that is cut off would answer the same for ever.
            turn += 1;
            let asked = host.remote().directory(&store.address, identity.cluster, Freshness::Stale);
            if let Ok(Ok(directory)) = tokio::time::timeout(ANSWER, asked).await {
                host.events().learn(directory);
                break;
            }
        }
    }
}

/// Tells group 0 what this store fails together with, if it knows something else. Runs until it is dropped.
pub(crate) async fn tell_domain(host: Arc<Host>) {
    let mut tick = tokio::time::interval(PLAN);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (Some(identity), Some(directory)) = (host.identity(), host.events().directory().borrow().clone()) else {
            continue;
        };
        let is_known = directory.stores.iter().any(|store| store.id == identity.store);
        if !is_known || directory.domains.get(&identity.store).map(String::as_str) == host.domain() {
            continue;
        }
        let command = MetaCommand::SetDomain { store: identity.store, domain: host.domain().map(str::to_owned) };
        match host.remote().tell_meta(&directory, command).await {
            Ok(MetaOutcome::PlacementSet) => (),
            Ok(other) => tracing::warn!(?other, "group 0 does not take this store's domain"),
            Err(why) => tracing::info!(why, "group 0 does not know this store's domain yet"),
        }
    }
}

/// Begins moves where they are due, for as long as this store leads group 0. Runs until it is dropped.
pub(crate) async fn plan(host: Arc<Host>) {
    let mut planner = Planner::default();
    let mut tick = tokio::time::interval(PLAN);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        planner.look(&host).await;
    }
}

/// What the leader of group 0 remembers between two looks.
#[derive(Debug, Default)]
struct Planner {
    watched: Vec<Watched>,
    /// stores that could not bear what they were given, and when that was seen
    avoided: Vec<(StoreId, Instant)>,
}

/// A move under way.
#[derive(Debug, Clone)]
struct Watched {
    moved: MoveRecord,
    /// last seen to run, and how far the replica that comes had applied the log then
    ran: Instant,
    applied: u64,
    /// when that last changed
    got_on: Instant,
}

impl Watched {
    fn new(moved: &MoveRecord) -> Self {
        let now = Instant::now();
        Self { moved: moved.clone(), ran: now, applied: 0, got_on: now }
    }

    /// The same move as it is now. One that is turned again and again gets on nowhere.
    fn goes_on(&self, moved: &MoveRecord) -> Option<Self> {
        let is_same =
            (self.moved.group, self.moved.joining, self.moved.leaving) == (moved.group, moved.joining, moved.leaving);
        let ran = if self.moved.back == moved.back { self.ran } else { Instant::now() };
        is_same.then(|| Self { moved: moved.clone(), ran, ..self.clone() })
    }

    /// Notes what the store of the replica that comes says, if it answers.
    fn note(&mut self, directory: &Directory, status: Option<&StoreStatus>) {
        let (Some(comes), Some(status)) = (self.moved.comes(), status) else { return };
        if directory.is_rotten(self.moved.group, comes.id) {
            return; // It never becomes a voter, or should not.
        }
        let now = Instant::now();
        if let Some(group) = status.groups.iter().find(|group| group.replica == comes.id) {
            self.ran = now;
            if group.applied_index != self.applied {
                (self.applied, self.got_on) = (group.applied_index, now);
            }
        } else if self.moved.is_rebuild() && !self.moved.back && !status.damaged {
            // It is not born before its group's leader has made it a member.
            self.ran = now;
        }
    }
}

impl Planner {
    /// Begins the next move if it is time, and turns one back that comes to nothing.
    async fn look(&mut self, host: &Arc<Host>) {
        let Ok(meta) = host.serving(GroupId::META) else { return };
        let Some(term) = meta.leadership() else { return };
        let Some(directory) = host.events().directory().borrow().clone() else { return };
        self.watch(host.remote(), &directory).await;
        let command = match self.turn_back(&directory) {
            Some(command) => Some(command),
            None => self.begin(host.remote(), &directory).await,
        };
        let Some(command) = command else { return };
        tracing::info!(?command, "placement");
        let (tx, rx) = tokio::sync::oneshot::channel();
        // Nobody waits for the answer if the store stops.
        meta.propose_as_leader(term, &[Command::Meta(command)], move |result| drop(tx.send(result))).await;
        match rx.await {
            Ok(Ok(outcomes)) => match outcomes.first() {
                Some(Outcome::Meta(MetaOutcome::Refused(refusal))) => {
                    tracing::info!(%refusal, "group 0 does not want this placement");
                }
                _ => {
                    host.metrics().moves.inc();
                }
            },
            Ok(Err(refusal)) => tracing::info!(%refusal, "placement waits"),
            Err(_) => (),
        }
    }

    /// Looks at the replicas that come.
    async fn watch(&mut self, remote: &Remote, directory: &Directory) {
        let before = std::mem::take(&mut self.watched);
        for moved in &directory.moves {
            let known = before.iter().find_map(|watched| watched.goes_on(moved));
            let mut watched = known.unwrap_or_else(|| Watched::new(moved));
            if let Some(comes) = moved.comes() {
                let status = match address(directory, comes.store) {
                    Some(address) => remote.status(&address, directory.cluster, comes.store).await,
                    None => None,
                };
                watched.note(directory, status.as_ref());
            }
            self.watched.push(watched);
        }
    }

    /// One whose new replica does not run: its store is gone, or cannot bear it. What was turned back stays so. The store
    /// of a rotten replica is given its new one as soon as it answers.
    fn turn_back(&mut self, directory: &Directory) -> Option<MetaCommand> {
        let joins = |watched: &&Watched| !watched.moved.back && watched.moved.joining.is_some();
        let silent = self.watched.iter().filter(joins).find(|watched| watched.ran.elapsed() >= STUCK)?;
        let is_known = |joining: &ReplicaRecord| directory.stores.iter().any(|store| store.id == joining.store);
        let joining = silent.moved.joining.filter(|joining| is_known(joining) && !silent.moved.is_rebuild());
        self.avoided.extend(joining.map(|joining| (joining.store, Instant::now())));
        Some(MetaCommand::CancelMove { moved: silent.moved.clone() })
    }

    async fn begin(&mut self, remote: &Remote, directory: &Directory) -> Option<MetaCommand> {
        self.avoided.retain(|(_, since)| since.elapsed() < AVOID);
        let gets_on =
            |moved: &MoveRecord| self.watched.iter().any(|one| one.moved == *moved && one.got_on.elapsed() < STUCK);
        let may_get = |store: StoreId| !self.avoided.iter().any(|(avoided, _)| *avoided == store);
        // Nothing to do is by far the most common, and then nobody is asked.
        plan::next_move(directory, may_get, |_, _| true, gets_on)?;
        let before = remote.statuses(directory, |_| true).await;
        let answers = remote.statuses(directory, |_| true).await;
        let takers = plan::takers(&answers);
        let may_get = |store: StoreId| may_get(store) && takers.contains(&store);
        // Compared before it stops: that takes as long as the group is large.
        let can_spare = |group: GroupId, replica: ReplicaId| {
            plan::can_spare(directory, group, replica, &before, &answers)
                && plan::are_compared(directory, group, replica, &answers)
        };
        let planned = plan::next_move(directory, may_get, can_spare, gets_on)?;
        // A replica less for a moment, to look better: not while a store is away.
        let all_well = takers.len() == directory.stores.len() && directory.rotten.is_empty();
        let may_begin = planned.why != Why::Balance || all_well;
        planned.command(directory).filter(|_| may_begin)
    }
}

/// Time for a store to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// A replica that joins and does not run for so long leaves again.
const STUCK: Duration = Duration::from_secs(30);
/// A store that could not bear a replica is given none for so long.
const AVOID: Duration = Duration::from_secs(300);
/// How often the leader of group 0 looks at the placement.
const PLAN: Duration = Duration::from_secs(1);
/// Pause before a step is tried again.
const RETRY: Duration = Duration::from_millis(200);
/// Of so many times a store with a replica of group 0 asks once.
const LEARN_TOO: u64 = 25;
/// How often a store without a replica of group 0 asks for the directory.
const LEARN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use seriatim_proto::meta::RotRecord;
    use seriatim_proto::store::GroupStatus;

    use crate::raft::testing::{directory_of_a_rebuild, group_status, store_status};

    fn silent_for(long: Duration, moved: &MoveRecord) -> Watched {
        let ago = Instant::now().checked_sub(long).expect("the machine runs for longer");
        Watched { ran: ago, got_on: ago, ..Watched::new(moved) }
    }

    #[test]
    fn a_rebuild_may_wait_and_is_turned_back_only_if_its_store_is_gone_or_the_new_one_is_rotten_too() {
        let mut directory = directory_of_a_rebuild();
        directory.stores = vec![StoreRecord { id: StoreId(2), address: "a:1".to_owned() }];
        let moved = directory.moves[0].clone();
        let answers = store_status(StoreId(2));
        let turned = |directory: &Directory, status: Option<&StoreStatus>| {
            let mut watched = silent_for(STUCK, &directory.moves[0]);
            watched.note(directory, status);
            let mut planner = Planner { watched: vec![watched], ..Planner::default() };
            (planner.turn_back(directory), planner.avoided.len())
        };
        let cancel = || Some(MetaCommand::CancelMove { moved: moved.clone() });
        assert_eq!(turned(&directory, Some(&answers)), (None, 0), "the sound ones are compared first");
        let damaged = StoreStatus { damaged: true, ..answers.clone() };
        assert_eq!(turned(&directory, Some(&damaged)), (cancel(), 0), "nothing is born there");
        assert_eq!(turned(&directory, None), (cancel(), 0), "its store is asked again as soon as it answers");
        let joining = RotRecord { replica: moved.joining.unwrap(), ..directory.rotten[0].clone() };
        directory.rotten.push(joining);
        assert_eq!(turned(&directory, Some(&answers)), (cancel(), 0));

        // Any other move has the new replica run from the beginning.
        directory.rotten.clear();
        directory.moves[0].leaving = Some(ReplicaRecord { id: ReplicaId(1), store: StoreId(1) });
        let (command, avoided) = turned(&directory, Some(&answers));
        assert!(matches!(command, Some(MetaCommand::CancelMove { .. })) && avoided == 1);
        let mut runs = answers;
        runs.groups = vec![GroupStatus { replica: ReplicaId(9), ..group_status() }];
        assert_eq!(turned(&directory, Some(&runs)), (None, 0));
    }

    #[test]
    fn a_move_that_is_turned_again_and_again_gets_on_nowhere() {
        let moved = directory_of_a_rebuild().moves[0].clone();
        let watched = silent_for(STUCK, &moved);
        let back = MoveRecord { back: true, revision: 7, ..moved.clone() };
        let turned = watched.goes_on(&back).unwrap();
        assert!(turned.got_on == watched.got_on && turned.moved == back);
        assert!(turned.ran > watched.ran, "but its replica has the time to run once more");
        let another = MoveRecord { joining: moved.leaving, ..moved };
        assert!(watched.goes_on(&another).is_none());
    }

    #[test]
    fn a_move_that_is_turned_back_to_a_rotten_replica_ends_there_only_while_it_votes() {
        let mut directory = directory_of_a_rebuild();
        let set = |ids: &[u64]| ids.iter().copied().map(ReplicaId).collect::<BTreeSet<_>>();
        let forward = directory.moves[0].clone();
        let back = MoveRecord { back: true, ..forward.clone() };
        assert!(!must_go_forward(&directory, &forward, &set(&[1, 2]), false));
        assert!(!must_go_forward(&directory, &back, &set(&[1, 2]), false), "all is as it was");
        assert!(must_go_forward(&directory, &back, &set(&[1, 2, 9]), true));
        assert!(must_go_forward(&directory, &back, &set(&[1, 9]), false));
        directory.rotten.clear();
        assert!(!must_go_forward(&directory, &back, &set(&[1, 9]), false), "what is sound comes back");
    }

    #[test]
    fn a_rotten_leader_turns_a_move_forward_though_nobody_takes_over() {
        let directory = directory_of_a_rebuild();
        let (forward, voters) = (directory.moves[0].clone(), [1, 9].map(ReplicaId).into());
        let back = MoveRecord { back: true, ..forward.clone() };
        assert_eq!(first(&directory, &forward, false, &voters, false), First::Nothing);
        assert_eq!(first(&directory, &back, false, &voters, false), First::TurnForward);
        assert_eq!(first(&directory, &back, true, &voters, false), First::TurnForward);
        assert_eq!(first(&directory, &forward, true, &voters, false), First::HandOver);
        assert_eq!(first(&directory, &forward, true, &[ReplicaId(1)].into(), false), First::Nothing, "to whom?");
    }
}
