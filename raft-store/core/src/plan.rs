//! Plan: which replica should move next, so that stores carry equal shares and drained ones nothing.
//!
//! Pure: the same directory gives the same plan, whoever leads group 0. One move at a time: a move copies a group's
//! data, and two copies at once would only make each slower. One that stands still, because its group has no quorum,
//! holds up no others.

use std::collections::BTreeMap;

use seriatim_proto::ids::{GroupId, StoreId};
use seriatim_proto::meta::{Directory, GroupRecord, MetaCommand, MoveRecord, RotRecord};

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
    /// another store carries two replicas less
    Balance,
}

/// Voters that a group should have, if there are as many stores.
const VOTERS: usize = 3;

/// Moves that stand still, above which none is begun.
const STILL_MAX: usize = 4;

/// The next move, if there should be one and none `gets_on`. Only stores that `may_get` one are given any. Group 0
/// stays where it is; only its rotten replicas are replaced.
pub fn next_move(
    directory: &Directory,
    may_get: impl Fn(StoreId) -> bool,
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
        let is_due =
            group.replicas.contains(&rot.replica) && stays && may_get(store) && sound > group.replicas.len() / 2;
        is_due.then_some(PlannedMove { group: group.id, from: Some(store), to: store, why: Why::Rot })
    };
    let taker = |group: &GroupRecord| takers.iter().find(|(_, store)| !has(group, *store)).copied();

    let rotten = directory.rotten.iter().find_map(rebuild);
    let leaving = || {
        groups().find_map(|group| {
            let from = group.replicas.iter().find(|replica| drained(replica.store))?;
            Some(PlannedMove { group: group.id, from: Some(from.store), to: taker(group)?.1, why: Why::Drain })
        })
    };
    let few = || {
        groups()
            .filter(|group| group.replicas.len() < VOTERS)
            .find_map(|group| Some(PlannedMove { group: group.id, from: None, to: taker(group)?.1, why: Why::Few }))
    };
    let balance = || {
        groups()
            // Not with a replica that counts for nothing.
            .filter(|group| !directory.rotten.iter().any(|rot| rot.group == group.id))
            .filter_map(|group| {
                let (least, to) = taker(group)?;
                let from = group.replicas.iter().map(|replica| (load[&replica.store], replica.store)).max()?;
                let gain = from.0.checked_sub(least).filter(|gain| *gain >= 2)?;
                Some((gain, PlannedMove { group: group.id, from: Some(from.1), to, why: Why::Balance }))
            })
            // The largest gain; the first group of those.
            .rev()
            .max_by_key(|(gain, _)| *gain)
            .map(|(_, planned)| planned)
    };
    rotten.or_else(leaving).or_else(few).or_else(balance)
}
