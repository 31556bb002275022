//! Plan: which replica should move next, so that stores carry equal shares and drained ones nothing.
//!
//! Pure: the same directory gives the same plan, whoever leads group 0. One move at a time: a move copies a group's
//! data, and two copies at once would only make each slower. One that stands still, because its group has no quorum,
//! holds up no others.

use std::collections::{BTreeMap, BTreeSet};

use seriatim_proto::ids::{GroupId, ReplicaId, StoreId};
use seriatim_proto::meta::{Directory, GroupRecord, MetaCommand, MoveRecord, ReplicaRecord, RotRecord};
use seriatim_proto::store::{GroupStatus, StoreStatus};

/// A move that should begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlannedMove {
    /// whose replica
    pub group: GroupId,
    /// `None`: the group has too few
    pub from: Option<StoreId>,
    /// gets it
    pub to: StoreId,
    /// for people
    pub why: Why,
}

impl PlannedMove {
    /// What begins it.
    pub fn command(&self, directory: &Directory) -> Option<MetaCommand> {
        if self.why != Why::Rot {
            return Some(MetaCommand::BeginMove { group: self.group, from: self.from, to: Some(self.to) });
        }
        let rot =
            directory.rotten.iter().find(|rot| rot.group == self.group && Some(rot.replica.store) == self.from)?;
        Some(MetaCommand::BeginRebuild { group: self.group, replica: rot.replica.id })
    }
}

/// What a move is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// it is rotten: a new one on the same store takes its place
    Rot,
    /// its store is being drained
    Drain,
    /// the group has fewer replicas than it should
    Few,
    /// two of the group's stores fail together, and there is one that would not
    Spread,
    /// another store carries two replicas less
    Balance,
}

/// Stores by what they fail together with.
#[derive(Debug)]
pub struct Domains<'a>(&'a BTreeMap<StoreId, String>);

impl<'a> Domains<'a> {
    /// Those that are not named fail alone.
    pub fn new(named: &'a BTreeMap<StoreId, String>) -> Self {
        Self(named)
    }

    /// Do both fail together?
    pub fn are_one(&self, one: StoreId, other: StoreId) -> bool {
        one == other || self.0.get(&one).is_some_and(|domain| self.0.get(&other) == Some(domain))
    }

    /// How many of these stores fail together with another one.
    pub fn crowd(&self, stores: &[StoreId], other: StoreId) -> usize {
        stores.iter().filter(|store| self.are_one(**store, other)).count()
    }

    /// How many of these stores fail one without the other.
    pub fn count(&self, stores: &[StoreId]) -> usize {
        (0..stores.len()).filter(|nth| self.crowd(&stores[..*nth], stores[*nth]) == 0).count()
    }
}

/// Where the voters of new groups go, for each of `groups`: on different stores, in different domains as far as there
/// are, the stores with equal shares.
pub fn place(stores: &[StoreId], domains: &Domains<'_>, groups: u32, voters: u32) -> Vec<Vec<StoreId>> {
    let mut load: BTreeMap<StoreId, usize> = stores.iter().map(|store| (*store, 0)).collect();
    let mut place_one = |group: u32| {
        let mut chosen: Vec<StoreId> = Vec::new();
        while chosen.len() < (voters as usize).min(stores.len()) {
            let free = stores.iter().enumerate().filter(|(_, store)| !chosen.contains(store));
            // Each group begins at another store, so that equals do not meet in the same sets only.
            let turn = |nth: usize| (nth + stores.len() - group as usize % stores.len()) % stores.len();
            let next = free.min_by_key(|(nth, store)| (domains.crowd(&chosen, **store), load[*store], turn(*nth)));
            chosen.push(*next.expect("fewer are chosen than there are").1);
        }
        chosen.iter().for_each(|store| *load.entry(*store).or_default() += 1);
        chosen.sort_unstable();
        chosen
    };
    (0..groups).map(&mut place_one).collect()
}

/// Which store should lead each group: one of its own, and none more groups than another as far as that goes.
pub fn preferred_leaders(groups: &[GroupRecord]) -> BTreeMap<GroupId, StoreId> {
    let mut leads: BTreeMap<StoreId, usize> = BTreeMap::new();
    let mut preferred = BTreeMap::new();
    for group in groups {
        let mut stores: Vec<StoreId> = group.replicas.iter().map(|replica| replica.store).collect();
        stores.sort_unstable();
        let turn = |nth: usize| (nth + stores.len() - group.id.0 as usize % stores.len()) % stores.len();
        let count = |store: &StoreId| leads.get(store).copied().unwrap_or(0);
        let found = stores.iter().enumerate().min_by_key(|(nth, store)| (count(store), turn(*nth)));
        if let Some((_, store)) = found {
            *leads.entry(*store).or_default() += 1;
            preferred.insert(group.id, *store);
        }
    }
    preferred
}

/// Can the group go on without one of its replicas? It can if others run that are not rotten and have about everything,
/// and are a majority of all: by what the stores say that answered, `before` and, all of them later, `now`. What was
/// committed before, a replica that is close has now: two that are asked at different moments of a busy group differ.
pub fn can_spare(
    directory: &Directory,
    group: GroupId,
    replica: ReplicaId,
    before: &[StoreStatus],
    now: &[StoreStatus],
) -> bool {
    let Some(record) = directory.groups.iter().find(|record| record.id == group) else { return false };
    let known_before = record.replicas.iter().filter_map(|known| status_of(before, group, known));
    let committed = known_before.map(|ran| ran.committed_index).max().unwrap_or(0);
    let sound = |known: &&ReplicaRecord| known.id != replica && !directory.is_rotten(group, known.id);
    let is_close = |known: &&ReplicaRecord| {
        let ran = status_of(before, group, known).is_some_and(|ran| ran.settled);
        let runs = status_of(now, group, known);
        ran && runs.is_some_and(|runs| runs.settled && runs.last_index + SPARE_LAG_MAX >= committed)
    };
    record.replicas.iter().filter(sound).filter(is_close).count() > record.replicas.len() / 2
}

/// What a replica's store says of it, if it answered and the replica runs.
fn status_of<'a>(statuses: &'a [StoreStatus], group: GroupId, known: &ReplicaRecord) -> Option<&'a GroupStatus> {
    let of_store = statuses.iter().filter(|status| status.store == Some(known.store));
    of_store.flat_map(|status| &status.groups).find(|runs| (runs.group, runs.replica) == (group, known.id))
}

/// The stores that can get a replica now: they answer, and none of their databases is damaged. What is born in one that
/// is would be lost with it, so it bears nothing.
pub fn takers(statuses: &[StoreStatus]) -> BTreeSet<StoreId> {
    statuses.iter().filter(|status| !status.damaged).filter_map(|status| status.store).collect()
}

/// Has the group's leader compared the replicas that a rotten one leaves it with, and are those that it has compared a
/// majority of all? What is wrong with them would be copied.
pub fn are_compared(directory: &Directory, group: GroupId, replica: ReplicaId, statuses: &[StoreStatus]) -> bool {
    let Some(record) = directory.groups.iter().find(|record| record.id == group) else { return false };
    let counts = |known: &&ReplicaRecord| known.id != replica && !directory.is_rotten(group, known.id);
    let enough = |runs: &GroupStatus| {
        let agreeing = record.replicas.iter().filter(counts).filter(|known| runs.agreeing.contains(&known.id));
        agreeing.count() > record.replicas.len() / 2
    };
    record.replicas.iter().filter_map(|known| status_of(statuses, group, known)).any(enough)
}

/// Entries that a replica may be behind and still count as one without which another can be spared.
const SPARE_LAG_MAX: u64 = 100;
/// Moves that stand still, above which none is begun.
const STILL_MAX: usize = 4;

/// The next move, if there should be one and none `gets_on`. Only stores that `may_get` one are given any, and only a
/// rotten replica that its group `can_spare` is replaced where it is: it stops at once. Group 0 stays where it is; only
/// its rotten replicas are replaced.
pub fn next_move(
    directory: &Directory,
    may_get: impl Fn(StoreId) -> bool,
    can_spare: impl Fn(GroupId, ReplicaId) -> bool,
    gets_on: impl Fn(&MoveRecord) -> bool,
) -> Option<PlannedMove> {
    if directory.moves.len() >= STILL_MAX || directory.moves.iter().any(gets_on) {
        return None;
    }
    let all = || directory.groups.iter().filter(|group| group.id != GroupId::META && group.closed);
    let moves = |group: &GroupRecord| directory.moves.iter().any(|moved| moved.group == group.id);
    let groups = || all().filter(|group| !moves(group));
    let mut load: BTreeMap<StoreId, usize> = directory.stores.iter().map(|store| (store.id, 0)).collect();
    let come = directory.moves.iter().filter_map(|moved| moved.comes().filter(|_| !moved.back));
    for replica in all().flat_map(|group| &group.replicas).copied().chain(come) {
        *load.entry(replica.store).or_default() += 1;
    }
    let has = |group: &GroupRecord, store: StoreId| group.replicas.iter().any(|replica| replica.store == store);
    let drained = |store: StoreId| directory.draining.contains(&store);
    let takers: Vec<(usize, StoreId)> = {
        let mut takers: Vec<_> = load
            .iter()
            .filter(|(store, _)| !drained(**store) && may_get(**store))
            .map(|(store, count)| (*count, *store))
            .collect();
        takers.sort_unstable();
        takers
    };
    // What a majority still holds can be rebuilt; the others need more than this.
    let rebuild = |rot: &RotRecord| {
        let group = directory.groups.iter().find(|group| group.id == rot.group && group.closed && !moves(group))?;
        let store = rot.replica.store;
        let stays = group.id == GroupId::META || !drained(store);
        let sound = group.replicas.iter().filter(|replica| !directory.is_rotten(group.id, replica.id)).count();
        let has_majority = sound > group.replicas.len() / 2 && can_spare(group.id, rot.replica.id);
        let is_due = group.replicas.contains(&rot.replica) && stays && may_get(store) && has_majority;
        is_due.then_some(PlannedMove { group: group.id, from: Some(store), to: store, why: Why::Rot })
    };
    let domains = Domains::new(&directory.domains);
    let stays = |group: &GroupRecord, leaving: Option<StoreId>| -> Vec<StoreId> {
        let stores = group.replicas.iter().map(|replica| replica.store);
        stores.filter(|store| Some(*store) != leaving).collect()
    };
    // The least loaded in a domain of its own. While there is such a domain, no other one is good enough, though its
    // stores may get none just now.
    let taker = |group: &GroupRecord, leaving: Option<StoreId>| {
        let stays = stays(group, leaving);
        let crowd = |store: StoreId| domains.crowd(&stays, store);
        let all = load.keys().copied().filter(|store| !drained(*store) && !has(group, *store));
        let least = all.map(crowd).min()?;
        takers.iter().copied().find(|(_, store)| !has(group, *store) && crowd(*store) == least)
    };

    let rotten = directory.rotten.iter().find_map(rebuild);
    let leaving = || {
        groups().find_map(|group| {
            let from = group.replicas.iter().find(|replica| drained(replica.store))?;
            let to = taker(group, Some(from.store))?.1;
            Some(PlannedMove { group: group.id, from: Some(from.store), to, why: Why::Drain })
        })
    };
    let few = || {
        groups().filter(|group| group.replicas.len() < directory.voters as usize).find_map(|group| {
            Some(PlannedMove { group: group.id, from: None, to: taker(group, None)?.1, why: Why::Few })
        })
    };
    let is_sound = |group: &&GroupRecord| !directory.rotten.iter().any(|rot| rot.group == group.id);
    let spread = || {
        groups().filter(is_sound).find_map(|group| {
            let crowded = group.replicas.iter().map(|replica| replica.store);
            let crowded = crowded.filter(|store| domains.crowd(&stays(group, Some(*store)), *store) > 0);
            let from = crowded.max_by_key(|store| (load[store], *store))?;
            let (_, to) = taker(group, Some(from))?;
            let is_better = domains.crowd(&stays(group, Some(from)), to) == 0;
            is_better.then_some(PlannedMove { group: group.id, from: Some(from), to, why: Why::Spread })
        })
    };
    let balance = || {
        groups()
            // Not with a replica that counts for nothing.
            .filter(is_sound)
            .filter_map(|group| {
                let pair = |from: StoreId| {
                    let stays = stays(group, Some(from));
                    // Not into a worse place.
                    let as_good = |to: StoreId| domains.crowd(&stays, to) <= domains.crowd(&stays, from);
                    let to = takers.iter().find(|(_, store)| !has(group, *store) && as_good(*store))?;
                    Some((load[&from].checked_sub(to.0).filter(|gain| *gain >= 2)?, from, to.1))
                };
                let pairs = group.replicas.iter().filter_map(|replica| pair(replica.store));
                let (gain, from, to) = pairs.max_by_key(|(gain, from, _)| (*gain, *from))?;
                Some((gain, PlannedMove { group: group.id, from: Some(from), to, why: Why::Balance }))
            })
            // The largest gain; the first group of those.
            .rev()
            .max_by_key(|(gain, _)| *gain)
            .map(|(_, planned)| planned)
    };
    rotten.or_else(leaving).or_else(few).or_else(spread).or_else(balance)
}
