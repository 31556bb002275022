//! Stores that join and leave, and replicas that move.

use seriatim_proto::ids::{ClusterId, ReplicaId, StoreId};
use seriatim_proto::limits;
use seriatim_proto::meta::{
    Directory, GroupRecord, MetaCommand, MetaOutcome, MetaRefusal, MoveRecord, ReplicaRecord, StoreRecord, StoreToken,
};
use seriatim_proto::store::{GroupStatus, StoreStatus};

use super::*;
use crate::placement::voters_wanted;
use crate::plan::{Domains, PlannedMove, Why, are_compared, can_spare, next_move, place, preferred_leaders, takers};

/// Group 0 of a cluster of stores 1 to `stores`, with closed groups on all of them.
struct Meta {
    view: MemoryView,
    index: u64,
}

impl Meta {
    fn new(stores: u64, groups: u32) -> Meta {
        let mut meta = Meta { view: MemoryView::default(), index: 0 };
        let ids = || (1..=stores).map(StoreId);
        meta.meta(MetaCommand::Init {
            cluster: ClusterId([1; 16]),
            generation: Generation(0),
            stores: ids().map(|id| StoreRecord { id, address: format!("s{id}:1") }).collect(),
            replicas: ids().map(|store| ReplicaRecord { id: ReplicaId(store.0), store }).collect(),
        });
        for id in 1..=groups {
            meta.create(id, ids().collect());
        }
        meta
    }
    fn create(&mut self, id: u32, stores: Vec<StoreId>) {
        let slots = vec![SlotRange { first: SlotId(id as u16 * 10), end: SlotId(id as u16 * 10 + 10) }];
        self.meta(MetaCommand::CreateGroup { id: GroupId(id), slots, stores });
        self.meta(MetaCommand::CloseGroup { id: GroupId(id) });
    }
    fn label(&mut self, store: u64, domain: &str) {
        let command = MetaCommand::SetDomain { store: StoreId(store), domain: Some(domain.to_owned()) };
        assert_eq!(self.meta(command), MetaOutcome::PlacementSet);
    }
    /// Distinct domains of each group's voters.
    fn spread(&self, groups: u32) -> Vec<usize> {
        let directory = self.directory();
        let domains = Domains::new(&directory.domains);
        let count = |group: u32| domains.count(&self.stores_of(group).into_iter().map(StoreId).collect::<Vec<_>>());
        (1..=groups).map(count).collect()
    }
    fn meta(&mut self, command: MetaCommand) -> MetaOutcome {
        self.index += 1;
        let at = At { group: GroupId::META, term: 1, index: LogIndex(self.index), place: 0 };
        match apply(&mut self.view, at, &Command::Meta(command), &mut Vec::new()).unwrap() {
            Outcome::Meta(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }
    fn refused(&mut self, command: MetaCommand) -> MetaRefusal {
        let before = self.view.clone();
        match self.meta(command) {
            MetaOutcome::Refused(refusal) => {
                assert!(self.view == before, "a refusal changes nothing");
                refusal
            }
            other => panic!("{other:?}"),
        }
    }
    fn add(&mut self, address: &str, token: u8) -> StoreId {
        match self.meta(MetaCommand::AddStore { address: address.into(), token: StoreToken([token; 16]) }) {
            MetaOutcome::StoreAdded(record) => record.id,
            other => panic!("{other:?}"),
        }
    }
    fn begin(&mut self, group: u32, from: Option<u64>, to: Option<u64>) -> MoveRecord {
        match self.meta(begin(group, from, to)) {
            MetaOutcome::Moving(moved) => moved,
            other => panic!("{other:?}"),
        }
    }
    fn cancel(&mut self, moved: &MoveRecord) -> MoveRecord {
        match self.meta(MetaCommand::CancelMove { moved: moved.clone() }) {
            MetaOutcome::Moving(moved) => moved,
            other => panic!("{other:?}"),
        }
    }
    fn end(&mut self, moved: &MoveRecord) {
        assert_eq!(self.meta(MetaCommand::EndMove { moved: moved.clone() }), MetaOutcome::NothingMoves);
    }
    fn directory(&self) -> Directory {
        match read(&self.view, GroupId::META, &Read::Directory).unwrap() {
            ReadOutcome::Directory(Some(directory)) => directory,
            other => panic!("{other:?}"),
        }
    }
    fn stores_of(&self, group: u32) -> Vec<u64> {
        let directory = self.directory();
        let record = directory.groups.iter().find(|record| record.id == GroupId(group)).unwrap();
        record.replicas.iter().map(|replica| replica.store.0).collect()
    }
}

fn begin(group: u32, from: Option<u64>, to: Option<u64>) -> MetaCommand {
    MetaCommand::BeginMove { group: GroupId(group), from: from.map(StoreId), to: to.map(StoreId) }
}

#[test]
fn a_store_that_joins_again_is_the_same_and_a_wiped_one_is_not() {
    let mut meta = Meta::new(3, 1);
    let fourth = meta.add("s4:1", 7);
    assert_eq!(fourth, StoreId(4));
    let revision = meta.directory().revision;
    assert_eq!(meta.add("s4:1", 7), fourth);
    assert_eq!(meta.directory().revision, revision, "a repeat changes nothing");
    let wiped = MetaCommand::AddStore { address: "s4:1".into(), token: StoreToken([8; 16]) };
    assert_eq!(meta.refused(wiped.clone()), MetaRefusal::AddressTaken);
    // A store of `Init` has no token that anybody could bring.
    let first = MetaCommand::AddStore { address: "s1:1".into(), token: StoreToken([0; 16]) };
    assert_eq!(meta.refused(first), MetaRefusal::AddressTaken);
    // Once the old one is removed, the folder's successor gets another id.
    assert_eq!(meta.meta(MetaCommand::RemoveStore { store: fourth }), MetaOutcome::StoreRemoved);
    assert_eq!(meta.meta(MetaCommand::RemoveStore { store: fourth }), MetaOutcome::StoreRemoved);
    assert_eq!(meta.add("s4:1", 8), StoreId(5));
}

#[test]
fn a_replica_moves_and_its_old_id_is_known_as_removed() {
    let mut meta = Meta::new(3, 1);
    meta.add("s4:1", 7);
    let before = meta.directory();
    let old = before.groups[1].replicas[0];
    let moved = meta.begin(1, Some(1), Some(4));
    let joining = moved.joining.unwrap();
    assert_eq!((joining.store, joining.id), (StoreId(4), before.replica_next));
    assert_eq!(meta.begin(1, Some(1), Some(4)), moved, "the same move again");
    assert_eq!(meta.refused(begin(1, Some(2), Some(4))), MetaRefusal::Moving);
    let during = meta.directory();
    assert!(!before.is_removed(GroupId(1), joining.id), "who does not know it yet must not take it for removed");
    assert!(!during.is_removed(GroupId(1), joining.id) && !during.is_removed(GroupId(1), old.id));
    assert_eq!(meta.stores_of(1), [1, 2, 3], "the record changes when the membership has");
    let wanted: Vec<_> = voters_wanted(&during.groups[1], &moved).iter().map(|replica| replica.store.0).collect();
    assert_eq!(wanted, [2, 3, 4]);
    meta.end(&moved);
    meta.end(&moved);
    assert_eq!(meta.stores_of(1), [2, 3, 4]);
    let after = meta.directory();
    assert!(after.is_removed(GroupId(1), old.id) && !after.is_removed(GroupId(1), joining.id));
    assert!(after.moves.is_empty());
    // `cluster init` again, as a playground does at each start.
    let slots = after.groups[1].slots.clone();
    let again = MetaCommand::CreateGroup { id: GroupId(1), slots, stores: (1..=3).map(StoreId).collect() };
    assert_eq!(meta.meta(again), MetaOutcome::Created(after.groups[1].clone()));
    // Back to where it was: under a new id.
    let back = meta.begin(1, Some(4), Some(1));
    assert!(back.joining.unwrap().id > joining.id);
}

#[test]
fn a_move_that_is_turned_back_removes_what_joined_and_cannot_end_as_it_began() {
    let mut meta = Meta::new(3, 1);
    meta.add("s4:1", 7);
    let moved = meta.begin(1, Some(1), Some(4));
    let back = meta.cancel(&moved);
    assert_eq!((back.comes(), back.goes()), (moved.leaving, moved.joining));
    assert_eq!(meta.cancel(&moved), back, "a repeat changes nothing");
    assert_eq!(meta.cancel(&back), back, "nor does turning back what was turned back");
    let directory = meta.directory();
    assert!(!directory.is_removed(GroupId(1), moved.joining.unwrap().id), "it may be a voter yet");
    assert_eq!(meta.refused(MetaCommand::RemoveStore { store: StoreId(4) }), MetaRefusal::NotEmpty);
    assert_eq!(meta.refused(MetaCommand::EndMove { moved: moved.clone() }), MetaRefusal::Moving);
    let wanted = voters_wanted(&directory.groups[1], &back);
    assert_eq!(wanted, directory.groups[1].replicas, "as it was");
    meta.end(&back);
    assert_eq!(meta.stores_of(1), [1, 2, 3]);
    assert!(meta.directory().is_removed(GroupId(1), moved.joining.unwrap().id));
    assert_eq!(meta.meta(MetaCommand::CancelMove { moved }), MetaOutcome::NothingMoves);
}

#[test]
fn a_move_that_was_turned_back_can_go_forward_again() {
    let mut meta = Meta::new(3, 1);
    meta.add("s4:1", 7);
    let moved = meta.begin(1, Some(1), Some(4));
    let back = meta.cancel(&moved);
    assert_eq!(meta.refused(begin(1, Some(2), Some(4))), MetaRefusal::Moving);
    // Its old replica's disk is lost: only forward can it end.
    let again = meta.begin(1, Some(1), Some(4));
    assert_eq!((again.comes(), again.goes()), (moved.joining, moved.leaving));
    assert_eq!(meta.refused(MetaCommand::EndMove { moved: back }), MetaRefusal::Moving);
    assert_eq!(meta.refused(MetaCommand::EndMove { moved: moved.clone() }), MetaRefusal::Moving);
    assert_eq!(meta.refused(MetaCommand::CancelMove { moved }), MetaRefusal::Moving);
    meta.end(&again);
    assert_eq!(meta.stores_of(1), [2, 3, 4]);
}

#[test]
fn a_move_that_comes_again_is_another_one() {
    let mut meta = Meta::new(3, 1);
    // One replica less; and back: the record stays, because the replica may have left already.
    let less = meta.begin(1, Some(1), None);
    let back = meta.cancel(&less);
    assert_eq!((back.comes(), back.goes()), (less.leaving, None));
    assert_eq!(meta.refused(MetaCommand::EndMove { moved: less.clone() }), MetaRefusal::Moving);
    meta.end(&back);
    assert_eq!(meta.stores_of(1), [1, 2, 3], "what was turned back does not end");
    // A leader that was paused brings the end of the first one; a person, its cancel.
    let second = meta.begin(1, Some(1), None);
    assert_eq!((second.joining, second.leaving), (less.joining, less.leaving));
    assert_eq!(meta.refused(MetaCommand::EndMove { moved: less.clone() }), MetaRefusal::Moving);
    assert_eq!(meta.refused(MetaCommand::EndMove { moved: back }), MetaRefusal::Moving);
    assert_eq!(meta.refused(MetaCommand::CancelMove { moved: less }), MetaRefusal::Moving);
    meta.end(&second);
    assert_eq!(meta.stores_of(1), [2, 3]);
}

#[test]
fn a_move_that_stands_still_holds_up_no_other_group() {
    let mut meta = Meta::new(3, 4);
    meta.add("s4:1", 7);
    meta.begin(1, Some(1), Some(4));
    assert_eq!(next_move(&meta.directory(), |_| true, |_, _| true, |_| true), None);
    let planned = next_move(&meta.directory(), |_| true, |_, _| true, |_| false).unwrap();
    assert_eq!((planned.group, planned.to), (GroupId(2), StoreId(4)), "another group");
    meta.begin(2, Some(2), Some(4));
    meta.begin(3, Some(3), Some(4));
    let planned = next_move(&meta.directory(), |_| true, |_, _| true, |_| false);
    assert_eq!(planned, None, "what is on its way counts as there: {planned:?}");
}

#[test]
fn moves_that_make_no_sense_are_refused() {
    let mut meta = Meta::new(3, 1);
    meta.add("s4:1", 7);
    assert_eq!(meta.refused(begin(1, None, None)), MetaRefusal::Malformed);
    assert_eq!(meta.refused(begin(1, Some(1), Some(1))), MetaRefusal::Malformed);
    assert_eq!(meta.refused(begin(0, Some(1), Some(4))), MetaRefusal::Malformed);
    assert_eq!(meta.refused(begin(9, Some(1), Some(4))), MetaRefusal::Unknown);
    assert_eq!(meta.refused(begin(1, Some(1), Some(9))), MetaRefusal::Unknown);
    assert_eq!(meta.refused(begin(1, Some(4), Some(9))), MetaRefusal::Misplaced);
    assert_eq!(meta.refused(begin(1, Some(1), Some(2))), MetaRefusal::Misplaced);
    assert_eq!(meta.meta(MetaCommand::SetDraining { store: StoreId(4), draining: true }), MetaOutcome::DrainingSet);
    assert_eq!(meta.refused(begin(1, Some(1), Some(4))), MetaRefusal::Draining);
    let slots = vec![SlotRange { first: SlotId(900), end: SlotId(901) }];
    meta.meta(MetaCommand::CreateGroup { id: GroupId(2), slots, stores: vec![StoreId(1)] });
    assert_eq!(meta.refused(begin(2, Some(1), Some(2))), MetaRefusal::Misplaced, "it is still being born");
    meta.meta(MetaCommand::CloseGroup { id: GroupId(2) });
    assert_eq!(meta.refused(begin(2, Some(1), None)), MetaRefusal::Misplaced, "its last replica");
    assert_eq!(meta.refused(MetaCommand::RemoveStore { store: StoreId(1) }), MetaRefusal::NotEmpty);
    assert_eq!(meta.refused(MetaCommand::SetDraining { store: StoreId(9), draining: true }), MetaRefusal::Unknown);
}

/// Carries out plans until there is none; the moves.
fn settle(meta: &mut Meta) -> Vec<PlannedMove> {
    let mut all = Vec::new();
    while let Some(planned) = next_move(&meta.directory(), |_| true, |_, _| true, |_| true) {
        let moved = meta.begin(planned.group.0, planned.from.map(|store| store.0), Some(planned.to.0));
        assert_eq!(next_move(&meta.directory(), |_| true, |_, _| true, |_| true), None, "one at a time");
        meta.end(&moved);
        all.push(planned);
        assert!(all.len() < 100, "plans come to an end: {all:?}");
    }
    all
}

fn load(meta: &Meta, groups: u32) -> BTreeMap<u64, usize> {
    let mut load = BTreeMap::new();
    for store in (1..=groups).flat_map(|group| meta.stores_of(group)) {
        *load.entry(store).or_default() += 1;
    }
    load
}

#[test]
fn a_fourth_store_gets_its_share_and_no_more_moves_than_needed() {
    let mut meta = Meta::new(3, 16);
    assert_eq!(next_move(&meta.directory(), |_| true, |_, _| true, |_| true), None);
    meta.add("s4:1", 7);
    assert_eq!(
        next_move(&meta.directory(), |store| store != StoreId(4), |_, _| true, |_| true),
        None,
        "it does not answer"
    );
    let moves = settle(&mut meta);
    assert_eq!(moves.len(), 12);
    assert!(moves.iter().all(|planned| planned.to == StoreId(4) && planned.why == Why::Balance));
    assert_eq!(load(&meta, 16), [(1, 12), (2, 12), (3, 12), (4, 12)].into());
}

#[test]
fn a_drained_store_loses_everything_and_gets_nothing_back() {
    let mut meta = Meta::new(3, 4);
    meta.add("s4:1", 7);
    settle(&mut meta);
    meta.meta(MetaCommand::SetDraining { store: StoreId(2), draining: true });
    let moves = settle(&mut meta);
    assert!(moves.iter().all(|planned| planned.from == Some(StoreId(2)) && planned.why == Why::Drain), "{moves:?}");
    assert_eq!(load(&meta, 4), [(1, 4), (3, 4), (4, 4)].into());
    meta.meta(MetaCommand::SetDraining { store: StoreId(3), draining: true });
    assert!(settle(&mut meta).is_empty(), "two stores cannot carry three replicas of a group");
    meta.meta(MetaCommand::SetDraining { store: StoreId(3), draining: false });
    meta.meta(MetaCommand::SetDraining { store: StoreId(2), draining: false });
    assert!(!settle(&mut meta).is_empty());
    assert_eq!(load(&meta, 4), [(1, 3), (2, 3), (3, 3), (4, 3)].into());
}

#[test]
fn groups_of_a_small_cluster_grow_to_three_replicas() {
    let mut meta = Meta::new(1, 2);
    meta.add("s2:1", 1);
    meta.add("s3:1", 2);
    let moves = settle(&mut meta);
    assert!(moves.iter().all(|planned| planned.from.is_none() && planned.why == Why::Few));
    assert_eq!((meta.stores_of(1), meta.stores_of(2)), (vec![1, 2, 3], vec![1, 2, 3]));
}

fn report(group: u32, replica: ReplicaId, what: &str) -> MetaCommand {
    MetaCommand::ReportRot { group: GroupId(group), replica, what: what.to_owned() }
}

fn rebuild(group: u32, replica: ReplicaId) -> MetaCommand {
    MetaCommand::BeginRebuild { group: GroupId(group), replica }
}

#[test]
fn a_rotten_replica_is_replaced_on_its_store_and_the_report_goes_with_it() {
    // Group 0's own too.
    for group in [0, 1] {
        let mut meta = Meta::new(3, 1);
        let before = meta.directory();
        let old = before.groups[group as usize].replicas[1];
        assert_eq!(meta.refused(rebuild(group, old.id)), MetaRefusal::Misplaced, "nobody said that it is rotten");
        assert_eq!(meta.meta(report(group, old.id, "a bit")), MetaOutcome::RotNoted);
        let revision = meta.directory().revision;
        assert_eq!(meta.meta(report(group, old.id, "another")), MetaOutcome::RotNoted);
        assert_eq!(meta.directory().revision, revision, "a repeat changes nothing");
        assert!(meta.directory().is_rotten(GroupId(group), old.id));
        let planned = next_move(&meta.directory(), |_| true, |_, _| true, |_| false).unwrap();
        assert_eq!(
            (planned.group, planned.from, planned.to, planned.why),
            (GroupId(group), Some(old.store), old.store, Why::Rot)
        );
        let MetaOutcome::Moving(moved) = meta.meta(planned.command(&meta.directory()).unwrap()) else {
            panic!("moving")
        };
        assert!(moved.is_rebuild());
        assert_eq!((moved.leaving, moved.joining.unwrap().store), (Some(old), old.store));
        assert_eq!(meta.meta(rebuild(group, old.id)), MetaOutcome::Moving(moved.clone()), "the same again");
        assert_eq!(next_move(&meta.directory(), |_| true, |_, _| true, |_| false), None);
        let record = meta.directory().groups[group as usize].clone();
        let wanted = voters_wanted(&record, &moved);
        assert!(wanted.len() == 3 && !wanted.contains(&old) && wanted.contains(&moved.joining.unwrap()));
        // Turned back and forward again.
        let back = meta.cancel(&moved);
        assert_eq!(voters_wanted(&record, &back).iter().filter(|replica| **replica == old).count(), 1);
        let MetaOutcome::Moving(forward) = meta.meta(rebuild(group, old.id)) else { panic!("moving") };
        assert!(!forward.back);
        meta.end(&forward);
        let directory = meta.directory();
        assert!(directory.rotten.is_empty() && directory.is_removed(GroupId(group), old.id));
        assert!(directory.groups[group as usize].replicas.contains(&forward.joining.unwrap()));
        assert_eq!(meta.meta(report(group, old.id, "late")), MetaOutcome::RotNoted);
        assert!(meta.directory().rotten.is_empty(), "of what is no more nothing is kept");
    }
}

#[test]
fn a_report_can_be_withdrawn_while_nothing_of_its_group_moves() {
    let mut meta = Meta::new(3, 2);
    let replicas = meta.directory().groups[1].replicas.clone();
    let withdraw = |group: u32, replica: ReplicaId| MetaCommand::WithdrawRot { group: GroupId(group), replica };
    meta.meta(report(1, replicas[0].id, ""));
    meta.meta(report(1, replicas[1].id, ""));
    assert_eq!(meta.refused(withdraw(9, replicas[0].id)), MetaRefusal::Unknown);
    assert_eq!(meta.meta(withdraw(1, replicas[0].id)), MetaOutcome::RotWithdrawn);
    assert_eq!(meta.directory().rotten.iter().map(|rot| rot.replica).collect::<Vec<_>>(), [replicas[1]]);
    let revision = meta.directory().revision;
    assert_eq!(meta.meta(withdraw(1, replicas[0].id)), MetaOutcome::RotWithdrawn);
    assert_eq!(meta.meta(withdraw(2, replicas[1].id)), MetaOutcome::RotWithdrawn, "another group's");
    assert_eq!(meta.directory().revision, revision, "a repeat changes nothing");
    // What is being replaced may have stopped for ever.
    let MetaOutcome::Moving(moved) = meta.meta(rebuild(1, replicas[1].id)) else { panic!("moving") };
    assert_eq!(meta.refused(withdraw(1, replicas[1].id)), MetaRefusal::Moving);
    let back = meta.cancel(&moved);
    assert_eq!(meta.refused(withdraw(1, replicas[1].id)), MetaRefusal::Moving);
    meta.end(&back);
    assert_eq!(meta.meta(withdraw(1, replicas[1].id)), MetaOutcome::RotWithdrawn);
    assert!(meta.directory().rotten.is_empty());
}

#[test]
fn what_is_rotten_is_rebuilt_only_where_that_can_end_well() {
    let mut meta = Meta::new(4, 2);
    let long = "x".repeat(limits::ROT_REASON_BYTES_MAX as usize + 1);
    assert_eq!(meta.refused(report(1, ReplicaId(5), &long)), MetaRefusal::Malformed);
    assert_eq!(meta.refused(report(9, ReplicaId(5), "")), MetaRefusal::Unknown);
    let replicas = meta.directory().groups[1].replicas.clone();
    let whys = |meta: &Meta| next_move(&meta.directory(), |_| true, |_, _| true, |_| false).map(|planned| planned.why);
    meta.meta(report(1, replicas[0].id, ""));
    assert_eq!(whys(&meta), Some(Why::Rot));
    let without = |store: StoreId| store != replicas[0].store;
    assert_eq!(next_move(&meta.directory(), without, |_, _| true, |_| false), None, "its store is away");
    assert_eq!(next_move(&meta.directory(), |_| true, |_, _| false, |_| false), None, "it is needed");
    // Two of four: nobody could agree to a new one.
    meta.meta(report(1, replicas[1].id, ""));
    assert_eq!(whys(&meta), None);

    // A store that is drained gets no new replica: the old one moves elsewhere.
    let mut meta = Meta::new(3, 1);
    let fourth = meta.add("s4:1", 7);
    let old = meta.directory().groups[1].replicas[0];
    meta.meta(report(1, old.id, ""));
    meta.meta(MetaCommand::SetDraining { store: old.store, draining: true });
    assert_eq!(meta.refused(rebuild(1, old.id)), MetaRefusal::Draining);
    let planned = next_move(&meta.directory(), |_| true, |_, _| true, |_| false).unwrap();
    assert_eq!((planned.from, planned.to, planned.why), (Some(old.store), fourth, Why::Drain));
    let moved = meta.begin(1, Some(old.store.0), Some(fourth.0));
    assert_eq!(meta.refused(rebuild(1, old.id)), MetaRefusal::Moving);
    // The one that joins is rotten too: it leaves again, and its report with it.
    meta.meta(report(1, moved.joining.unwrap().id, ""));
    assert_eq!(meta.directory().rotten.len(), 2);
    let back = meta.cancel(&moved);
    meta.end(&back);
    assert_eq!(meta.directory().rotten.iter().map(|rot| rot.replica).collect::<Vec<_>>(), [old]);
}

#[test]
fn a_replica_can_be_spared_only_while_a_sound_majority_of_others_runs() {
    let mut meta = Meta::new(3, 1);
    let replicas = meta.directory().groups[1].replicas.clone();
    let runs = |nth: usize, last_index: u64, settled: bool| StoreStatus {
        cluster: Some(ClusterId([1; 16])),
        store: Some(replicas[nth].store),
        address: String::new(),
        version: String::new(),
        read_only: false,
        disk_free_bytes: 0,
        fsync_us_p50: 0,
        fsync_us_p99: 0,
        token: StoreToken([0; 16]),
        groups: vec![GroupStatus {
            group: GroupId(1),
            replica: replicas[nth].id,
            role: "follower".to_owned(),
            leader: None,
            term: 1,
            last_index,
            committed_index: last_index,
            applied_index: 0,
            snapshot_index: 0,
            purged_index: 0,
            slots: 0,
            leases: 0,
            voters: vec![],
            settled,
            members: vec![],
            digest: None,
            digesting: None,
            agreeing: vec![],
        }],
        rotten: vec![],
        damaged: false,
        domain: None,
        meta_replicas: vec![],
        unix_ms: 0,
    };
    let spares_after = |meta: &Meta, before: &[StoreStatus], now: &[StoreStatus]| {
        can_spare(&meta.directory(), GroupId(1), replicas[0].id, before, now)
    };
    let spares = |meta: &Meta, statuses: &[StoreStatus]| spares_after(meta, statuses, statuses);
    let all = [runs(0, 1_000, true), runs(1, 990, true), runs(2, 1_000, true)];
    assert!(spares(&meta, &all) && spares(&meta, &all[1..]), "whether it runs itself says nothing");
    assert!(!spares(&meta, &all[..2]), "a store is away");
    assert!(!spares(&meta, &[]), "nobody answers");
    assert!(!spares(&meta, &[runs(0, 1_000, true), runs(1, 800, true), runs(2, 1_000, true)]), "one is far behind");
    assert!(!spares(&meta, &[runs(1, 1_000, false), runs(2, 1_000, true)]), "one has promised nothing yet");
    assert!(!can_spare(&meta.directory(), GroupId(9), replicas[0].id, &all, &all));
    // A busy group: who was asked first is far behind who was asked last, and has what was committed before.
    let busy = [runs(0, 9_000, true), runs(1, 1_050, true), runs(2, 5_000, true)];
    assert!(!spares(&meta, &busy) && spares_after(&meta, &all, &busy));
    let lags = [runs(0, 9_000, true), runs(1, 880, true), runs(2, 5_000, true)];
    assert!(!spares_after(&meta, &all, &lags), "it is behind all the same");
    assert!(!spares_after(&meta, &[], &all) && !spares_after(&meta, &all[..2], &all), "it was not there before");
    meta.meta(report(1, replicas[0].id, ""));
    assert!(spares(&meta, &all));
    // A store that is about to set everything aside gets nothing before.
    let mut damaged = all.clone();
    damaged[1].damaged = true;
    assert_eq!((takers(&all).len(), takers(&damaged)), (3, [replicas[0].store, replicas[2].store].into()));
    assert!(spares(&meta, &damaged), "until then it votes");
    // What is left is compared first.
    let compared = |meta: &Meta, agreeing: &[usize]| {
        let mut all = all.clone();
        all[1].groups[0].agreeing = agreeing.iter().map(|nth| replicas[*nth].id).collect();
        are_compared(&meta.directory(), GroupId(1), replicas[0].id, &all)
    };
    assert!(compared(&meta, &[1, 2]));
    assert!(!compared(&meta, &[]) && !compared(&meta, &[1]), "nobody has, or not enough");
    assert!(!compared(&meta, &[0, 1]) && !compared(&meta, &[1, 1]), "its own rows say nothing");
    meta.meta(report(1, replicas[2].id, ""));
    assert!(!spares(&meta, &all), "another one is rotten too");
    assert!(!compared(&meta, &[1, 2]), "and was found so afterwards");
}

#[test]
fn domains_and_voters_are_noted_once_and_go_with_their_store() {
    let mut meta = Meta::new(3, 1);
    let revision = meta.directory().revision;
    meta.label(1, "rack a");
    meta.label(1, "rack a");
    assert_eq!(meta.directory().revision, revision + 1, "a repeat changes nothing");
    assert_eq!(meta.directory().domains, [(StoreId(1), "rack a".to_owned())].into());
    let set = |domain: Option<&str>| MetaCommand::SetDomain { store: StoreId(1), domain: domain.map(str::to_owned) };
    let long = "x".repeat(limits::DOMAIN_BYTES_MAX as usize + 1);
    for bad in ["", "a\n", &long] {
        assert_eq!(meta.refused(set(Some(bad))), MetaRefusal::Malformed);
    }
    assert_eq!(meta.refused(MetaCommand::SetDomain { store: StoreId(9), domain: None }), MetaRefusal::Unknown);
    assert_eq!(meta.meta(set(None)), MetaOutcome::PlacementSet);
    assert!(meta.directory().domains.is_empty());
    let fourth = meta.add("s4:1", 7);
    meta.label(fourth.0, "rack b");
    meta.meta(MetaCommand::RemoveStore { store: fourth });
    assert!(meta.directory().domains.is_empty());

    assert_eq!(meta.directory().voters, limits::VOTERS_DEFAULT);
    for bad in [0, limits::VOTERS_MAX + 1] {
        assert_eq!(meta.refused(MetaCommand::SetVoters { voters: bad }), MetaRefusal::Malformed);
    }
    assert_eq!(meta.meta(MetaCommand::SetVoters { voters: 5 }), MetaOutcome::PlacementSet);
    assert_eq!(meta.directory().voters, 5);
    // Two more stores: the group grows to five.
    meta.add("s5:1", 8);
    meta.add("s6:1", 9);
    assert!(settle(&mut meta).iter().all(|planned| planned.why == Why::Few));
    assert_eq!(meta.stores_of(1).len(), 5);
}

/// Stores 1 to `stores`, each in the domain of its remainder by `domains`; none if that is 0.
fn labelled(stores: u64, domains: u64) -> (Vec<StoreId>, BTreeMap<StoreId, String>) {
    let ids: Vec<_> = (1..=stores).map(StoreId).collect();
    let label = |id: &StoreId| id.0.checked_rem(domains).map(|rest| (*id, format!("d{rest}")));
    let labels = ids.iter().filter_map(label).collect();
    (ids, labels)
}

#[test]
fn new_groups_have_equal_shares_and_fail_apart() {
    for (stores, domains, voters) in [
        (1, 0, 3),
        (2, 0, 3),
        (3, 0, 3),
        (4, 0, 3),
        (5, 0, 3),
        (7, 0, 3),
        (5, 0, 5),
        (7, 0, 5),
        (6, 3, 3),
        (9, 3, 3),
        (6, 2, 3),
        (7, 3, 3),
    ] {
        let (ids, labels) = labelled(stores, domains);
        let apart = Domains::new(&labels);
        let groups = 17;
        let places = place(&ids, &apart, groups, voters);
        let case = format!("{stores} stores in {domains} domains, {voters} voters: {places:?}");
        assert_eq!(places.len(), groups as usize, "{case}");
        let mut load: BTreeMap<StoreId, usize> = BTreeMap::new();
        let there_are = apart.count(&ids);
        for place in &places {
            assert_eq!(place.len(), (voters as usize).min(ids.len()), "{case}");
            assert!(place.windows(2).all(|pair| pair[0] < pair[1]), "{case}");
            assert_eq!(apart.count(place), place.len().min(there_are), "{case}");
            place.iter().for_each(|store| *load.entry(*store).or_default() += 1);
        }
        // Stores of a small domain carry more: that is what it costs.
        if domains == 0 || stores % domains == 0 {
            let (least, most) = (load.values().min().unwrap(), load.values().max().unwrap());
            assert!(load.len() == ids.len() && most - least <= 1, "{case} {load:?}");
        }
        let replicas = |place: &Vec<StoreId>| {
            place.iter().map(|store| ReplicaRecord { id: ReplicaId(store.0), store: *store }).collect::<Vec<_>>()
        };
        let record =
            |(id, place)| GroupRecord { id: GroupId(id), slots: vec![], replicas: replicas(place), closed: true };
        let records: Vec<_> = (0..).zip(&places).map(record).collect();
        let mut leads: BTreeMap<StoreId, usize> = BTreeMap::new();
        for (group, leader) in preferred_leaders(&records) {
            assert!(places[group.0 as usize].contains(&leader), "{case}");
            *leads.entry(leader).or_default() += 1;
        }
        let fair = groups as usize / ids.len();
        assert!(leads.values().all(|count| *count <= fair + 2), "{case} {leads:?}");
    }
}

#[test]
fn three_stores_are_placed_and_led_as_they_always_were() {
    let (ids, labels) = labelled(3, 0);
    let places = place(&ids, &Domains::new(&labels), 5, 3);
    assert!(places.iter().all(|place| *place == ids));
    let meta = Meta::new(3, 4);
    let leaders: Vec<_> = preferred_leaders(&meta.directory().groups).into_values().map(|store| store.0).collect();
    assert_eq!(leaders, [1, 2, 3, 1, 2]);
}

#[test]
fn moves_keep_voters_apart_and_bring_them_apart() {
    // Three domains of two stores each, and groups that know nothing of that.
    let mut meta = Meta::new(6, 0);
    for group in 1..=4 {
        meta.create(group, [1, 2, 3].map(StoreId).to_vec());
    }
    for store in 1..=6 {
        meta.label(store, ["a", "a", "b", "b", "c", "c"][store as usize - 1]);
    }
    assert_eq!(meta.spread(4), [2; 4]);
    let moves = settle(&mut meta);
    assert_eq!(moves.iter().filter(|planned| planned.why == Why::Spread).count(), 4, "{moves:?}");
    assert_eq!(meta.spread(4), [3; 4]);
    assert_eq!(load(&meta, 4), (1..=6).map(|store| (store, 2)).collect());

    // What drains goes to its own domain, or waits.
    meta.meta(MetaCommand::SetDraining { store: StoreId(1), draining: true });
    settle(&mut meta);
    assert_eq!((meta.spread(4), load(&meta, 4).get(&1).copied()), (vec![3; 4], None));
    meta.meta(MetaCommand::SetDraining { store: StoreId(1), draining: false });
    meta.meta(MetaCommand::SetDraining { store: StoreId(2), draining: true });
    let first_is_away = |store: StoreId| store != StoreId(1);
    assert_eq!(next_move(&meta.directory(), first_is_away, |_, _| true, |_| true), None, "another domain is free");
    settle(&mut meta);
    assert_eq!(meta.spread(4), [3; 4]);
    // Without a free domain it goes where there is room.
    meta.meta(MetaCommand::SetDraining { store: StoreId(1), draining: true });
    let moves = settle(&mut meta);
    let drained = moves.iter().filter(|planned| planned.why == Why::Drain).count();
    assert!(drained == 4 && !moves.iter().any(|planned| planned.why == Why::Spread), "{moves:?}");
    assert_eq!(meta.spread(4), [2; 4]);
}
