//! Survey: what all stores say of themselves at about one moment, and what follows for each group.
//!
//! A store that lost its quorum goes on calling itself leader: it has nobody to learn better from. So a group counts as
//! led only if a majority of its voters answered too, none of them in a later term.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use seriatim_proto::ids::{ClusterId, GroupId, StoreId};
use seriatim_proto::store::{GroupStatus, StoreStatus};

use crate::failure::Failure;
use crate::link::Link;
use crate::store;

/// What each store answered.
pub(crate) struct Survey {
    /// by endpoint, in the order in which they were named
    pub(crate) answers: Vec<(String, Result<StoreStatus, Failure>)>,
}

/// One group, as its replicas say.
#[derive(Debug, Default)]
pub(crate) struct GroupView {
    /// by store
    pub(crate) replicas: BTreeMap<StoreId, GroupStatus>,
}

impl Survey {
    /// Asks all stores at the same time.
    pub(crate) async fn take(stores: &[String], link: &Link) -> Survey {
        let ask = async |store: &String| (store.clone(), store::status(store, link).await);
        Survey { answers: join_all(stores.iter().map(ask)).await }
    }

    /// The stores that answered.
    pub(crate) fn statuses(&self) -> impl Iterator<Item = &StoreStatus> {
        self.answers.iter().filter_map(|(_, answer)| answer.as_ref().ok())
    }

    /// What a store of this id answered.
    pub(crate) fn store(&self, id: StoreId) -> Option<&StoreStatus> {
        let cluster = self.cluster();
        self.statuses().find(|status| status.store == Some(id) && status.cluster == cluster)
    }

    /// The cluster that most of the stores belong to.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        let mut counts: BTreeMap<ClusterId, usize> = BTreeMap::new();
        self.statuses().filter_map(|status| status.cluster).for_each(|id| *counts.entry(id).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(cluster, _)| cluster)
    }

    /// All groups of that cluster. A store of another one has groups of the same numbers, and knows nothing of ours.
    pub(crate) fn groups(&self) -> BTreeMap<GroupId, GroupView> {
        let cluster = self.cluster();
        let mut groups: BTreeMap<GroupId, GroupView> = BTreeMap::new();
        for status in self.statuses().filter(|status| status.cluster == cluster) {
            let Some(store) = status.store else { continue };
            for group in &status.groups {
                groups.entry(group.group).or_default().replicas.insert(store, group.clone());
            }
        }
        groups
    }

    /// Why each group is not led that is not, in words.
    pub(crate) fn leaderless(&self) -> Vec<String> {
        let groups = self.groups().into_iter();
        groups.filter_map(|(id, group)| Some(format!("group {id}: {}", group.without_leader()?))).collect()
    }
}

impl GroupView {
    /// The stores that vote, as the replica says that is furthest in the log.
    pub(crate) fn voters(&self) -> BTreeSet<StoreId> {
        let furthest = self.replicas.values().max_by_key(|replica| (replica.term, replica.committed_index));
        furthest.into_iter().flat_map(|replica| replica.voters.iter().copied()).collect()
    }

    /// Voters of whom no store reports a replica.
    pub(crate) fn missing(&self) -> BTreeSet<StoreId> {
        self.voters().into_iter().filter(|voter| !self.replicas.contains_key(voter)).collect()
    }

    /// Who calls itself leader, the newest of them.
    fn claimant(&self) -> Option<(StoreId, &GroupStatus)> {
        let claimants = self.replicas.iter().filter(|(_, replica)| replica.role == "leader");
        claimants.max_by_key(|(_, replica)| replica.term).map(|(store, replica)| (*store, replica))
    }

    /// Who leads, with a majority that may follow it.
    pub(crate) fn leader(&self) -> Option<(StoreId, &GroupStatus)> {
        let (store, leader) = self.claimant()?;
        let voters = self.voters();
        let following = voters.iter().filter_map(|voter| self.replicas.get(voter));
        let following = following.filter(|replica| replica.term <= leader.term).count();
        (following > voters.len() / 2).then_some((store, leader))
    }

    /// Why it is not led, if it is not.
    pub(crate) fn without_leader(&self) -> Option<String> {
        if self.leader().is_some() {
            return None;
        }
        let (voters, answered) = (self.voters().len(), self.voters().len() - self.missing().len());
        Some(if answered <= voters / 2 {
            format!("no quorum, {answered} of {voters} voters answer")
        } else {
            "no leader".to_owned()
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use seriatim_proto::ids::ReplicaId;
    use seriatim_proto::meta::StoreToken;

    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn replica(group: u32, role: &str, term: u64) -> GroupStatus {
        GroupStatus {
            group: GroupId(group),
            replica: ReplicaId(1),
            role: role.to_owned(),
            leader: None,
            term,
            last_index: 9,
            committed_index: 9,
            applied_index: 9,
            snapshot_index: 0,
            purged_index: 0,
            slots: 0,
            leases: 0,
            voters: [1, 2, 3].map(StoreId).to_vec(),
            settled: true,
            members: vec![],
            digest: None,
            digesting: None,
            agreeing: vec![],
        }
    }

    fn store(cluster: ClusterId, id: u64, groups: Vec<GroupStatus>) -> (String, Result<StoreStatus, Failure>) {
        let status = StoreStatus {
            cluster: Some(cluster),
            store: Some(StoreId(id)),
            address: format!("store-{id}"),
            version: "0".to_owned(),
            read_only: false,
            disk_free_bytes: 0,
            fsync_us_p50: 0,
            fsync_us_p99: 0,
            token: StoreToken([0; 16]),
            groups,
            rotten: Vec::new(),
            damaged: false,
            domain: None,
            meta_replicas: vec![],
            unix_ms: 0,
        };
        (status.address.clone(), Ok(status))
    }

    /// Three stores of one group, each with its role there; `None` does not answer.
    pub(crate) fn survey(roles: [Option<&str>; 3]) -> Survey {
        let answer = |(role, id): (Option<&str>, u64)| match role {
            Some(role) => store(CLUSTER, id, vec![replica(1, role, 2)]),
            None => dead(id),
        };
        Survey { answers: roles.into_iter().zip(1..).map(answer).collect() }
    }

    fn dead(id: u64) -> (String, Result<StoreStatus, Failure>) {
        (format!("store-{id}"), Err(Failure::unreachable("refused")))
    }

    #[test]
    fn a_leader_counts_with_a_majority_of_voters_only() {
        let leads = |id| store(CLUSTER, id, vec![replica(1, "leader", 2)]);
        let follows = |id, term| store(CLUSTER, id, vec![replica(1, "follower", term)]);
        let leader = |answers| {
            let survey = Survey { answers };
            let group = survey.groups().remove(&GroupId(1)).unwrap();
            (group.leader().map(|(store, _)| store.0), survey.leaderless())
        };
        assert_eq!(leader(vec![leads(1), follows(2, 2), follows(3, 2)]), (Some(1), vec![]));
        assert_eq!(leader(vec![leads(1), follows(2, 2), dead(3)]), (Some(1), vec![]));
        let alone = vec!["group 1: no quorum, 1 of 3 voters answer".to_owned()];
        assert_eq!(leader(vec![leads(1), dead(2), dead(3)]), (None, alone));
        let electing = vec!["group 1: no leader".to_owned()];
        assert_eq!(leader(vec![follows(1, 2), follows(2, 2), dead(3)]), (None, electing.clone()));
        // An old leader that the others have left behind.
        assert_eq!(leader(vec![leads(1), follows(2, 3), follows(3, 3)]), (None, electing));
        let newer = store(CLUSTER, 2, vec![replica(1, "leader", 3)]);
        assert_eq!(leader(vec![leads(1), newer, follows(3, 3)]), (Some(2), vec![]));
    }

    #[test]
    fn a_voter_without_a_replica_is_missing_and_a_stranger_fills_no_place() {
        let survey = Survey {
            answers: vec![
                store(CLUSTER, 1, vec![replica(1, "leader", 2)]),
                store(CLUSTER, 2, vec![]),
                store(ClusterId([8; 16]), 3, vec![replica(1, "leader", 5)]),
            ],
        };
        let group = survey.groups().remove(&GroupId(1)).unwrap();
        assert_eq!(group.missing(), [2, 3].map(StoreId).into());
        assert_eq!(group.leader().map(|(store, _)| store), None);
        assert!(survey.store(StoreId(2)).is_some() && survey.store(StoreId(3)).is_none());
    }
}
