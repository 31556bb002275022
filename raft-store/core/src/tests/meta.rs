//! Group 0.

use seriatim_proto::ids::{ClusterId, ReplicaId, StoreId};
use seriatim_proto::meta::{
    Directory, GroupRecord, Limit, MetaCommand, MetaOutcome, MetaRefusal, NodeKind, NodeRecord, ReplicaRecord,
    StoreRecord, TenantRecord,
};

use super::*;

/// Group 0 alone.
#[derive(Default)]
struct Meta {
    view: MemoryView,
    index: u64,
    events: Vec<Event>,
}

impl Meta {
    fn new() -> Meta {
        let mut meta = Meta::default();
        assert_eq!(meta.meta(init(1)), MetaOutcome::Initialised);
        meta
    }
    fn run(&mut self, command: &Command) -> Outcome {
        self.index += 1;
        self.events.clear();
        let at = At { group: GroupId::META, term: 1, index: LogIndex(self.index), place: 0 };
        apply(&mut self.view, at, command, &mut self.events).unwrap()
    }
    fn meta(&mut self, command: MetaCommand) -> MetaOutcome {
        match self.run(&Command::Meta(command)) {
            Outcome::Meta(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }
    fn refused(&mut self, command: MetaCommand) -> MetaRefusal {
        let before = self.view.clone();
        let outcome = self.meta(command);
        assert!(self.view == before && self.events.is_empty());
        match outcome {
            MetaOutcome::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }
    fn create(&mut self, id: u32, first: u16, end: u16) -> MetaOutcome {
        self.meta(create(id, first, end))
    }
    fn open(&mut self) -> NodeRecord {
        match self.meta(MetaCommand::OpenNode { kind: NodeKind::Logic, address: "a:1".into() }) {
            MetaOutcome::Opened(record) => record,
            other => panic!("{other:?}"),
        }
    }
    fn directory(&self) -> Directory {
        match read(&self.view, GroupId::META, &Read::Directory).unwrap() {
            ReadOutcome::Directory(Some(directory)) => directory,
            other => panic!("{other:?}"),
        }
    }
}

fn stores() -> Vec<StoreId> {
    [1, 2, 3].map(StoreId).to_vec()
}

fn init(cluster: u8) -> MetaCommand {
    MetaCommand::Init {
        cluster: ClusterId([cluster; 16]),
        generation: Generation(0),
        stores: stores().into_iter().map(|id| StoreRecord { id, address: format!("s{id}:1") }).collect(),
        replicas: stores().into_iter().map(|store| ReplicaRecord { id: ReplicaId(store.0), store }).collect(),
    }
}

fn create(id: u32, first: u16, end: u16) -> MetaCommand {
    let slots = vec![SlotRange { first: SlotId(first), end: SlotId(end) }];
    MetaCommand::CreateGroup { id: GroupId(id), slots, stores: stores() }
}

#[test]
fn init_comes_first_and_once() {
    let mut meta = Meta::default();
    assert_eq!(read(&meta.view, GroupId::META, &Read::Directory), Ok(ReadOutcome::Directory(None)));
    assert_eq!(meta.refused(create(1, 0, 10)), MetaRefusal::NotInitialised);
    assert_eq!(meta.refused(MetaCommand::CloseGroup { id: GroupId(1) }), MetaRefusal::NotInitialised);
    assert_eq!(meta.meta(init(1)), MetaOutcome::Initialised);
    let before = meta.view.clone();
    assert_eq!(meta.meta(init(1)), MetaOutcome::Initialised);
    assert!(meta.view == before && meta.events.is_empty());
    assert_eq!(meta.refused(init(2)), MetaRefusal::OtherCluster);
    let directory = meta.directory();
    assert_eq!((directory.cluster, directory.stores.len()), (ClusterId([1; 16]), 3));
    assert!(directory.groups[0].closed && directory.groups[0].id == GroupId::META);
}

#[test]
fn an_init_with_a_replica_on_an_unknown_store_is_malformed() {
    let MetaCommand::Init { cluster, generation, stores, mut replicas } = init(1) else { panic!() };
    replicas[0].store = StoreId(9);
    let command = MetaCommand::Init { cluster, generation, stores, replicas };
    assert_eq!(Meta::default().refused(command), MetaRefusal::Malformed);
}

#[test]
fn groups_get_replica_ids_that_are_never_reused() {
    let mut meta = Meta::new();
    let MetaOutcome::Created(one) = meta.create(1, 0, 2048) else { panic!() };
    let MetaOutcome::Created(other) = meta.create(2, 2048, 4096) else { panic!() };
    let ids = |group: &GroupRecord| group.replicas.iter().map(|replica| replica.id.0).collect::<Vec<_>>();
    assert_eq!((ids(&one), ids(&other)), (vec![4, 5, 6], vec![7, 8, 9]));
    assert_eq!(meta.create(1, 0, 2048), MetaOutcome::Created(one), "a repeat returns the record");
    assert!(meta.events.is_empty());
    assert_eq!(meta.directory().groups.len(), 3);
}

#[test]
fn overlapping_groups_are_refused() {
    let mut meta = Meta::new();
    meta.create(1, 10, 20);
    for (id, first, end) in [(1, 10, 21), (2, 19, 30), (2, 0, 11), (2, 12, 13), (2, 0, 4096)] {
        assert_eq!(meta.refused(create(id, first, end)), MetaRefusal::Overlap);
    }
    assert!(matches!(meta.create(2, 20, 30), MetaOutcome::Created(_)));
}

#[test]
fn groups_out_of_range_are_malformed() {
    let mut meta = Meta::new();
    for (id, first, end) in [(0, 0, 1), (256, 0, 1), (1, 5, 5), (1, 0, 4097)] {
        assert_eq!(meta.refused(create(id, first, end)), MetaRefusal::Malformed);
    }
    let slots = vec![ALL_SLOTS];
    for (stores, refusal) in [
        (vec![], MetaRefusal::Malformed),
        (vec![StoreId(2), StoreId(1)], MetaRefusal::Malformed),
        (vec![StoreId(1), StoreId(9)], MetaRefusal::Unknown),
    ] {
        let command = MetaCommand::CreateGroup { id: GroupId(1), slots: slots.clone(), stores };
        assert_eq!(meta.refused(command), refusal);
    }
}

#[test]
fn a_group_is_closed_for_good() {
    let mut meta = Meta::new();
    assert_eq!(meta.refused(MetaCommand::CloseGroup { id: GroupId(1) }), MetaRefusal::Unknown);
    meta.create(1, 0, 10);
    for _ in 0..2 {
        assert_eq!(meta.meta(MetaCommand::CloseGroup { id: GroupId(1) }), MetaOutcome::Closed);
    }
    assert!(meta.directory().groups[1].closed);
}

#[test]
fn a_node_lives_as_long_as_its_lease_and_its_id_is_never_reused() {
    let mut meta = Meta::new();
    let (one, other) = (meta.open(), meta.open());
    assert!(one.id < other.id && one.lease < other.lease);
    assert_eq!(meta.directory().nodes, vec![one.clone(), other.clone()]);
    assert_eq!(meta.run(&Command::ExpireLease { lease: other.lease }), Outcome::LeaseEnded);
    assert_eq!(meta.events, vec![Event::LeaseEnded { lease: other.lease, node: other.id }, Event::Directory]);
    assert_eq!(meta.directory().nodes, vec![one]);
    assert!(meta.open().id > other.id);
}

#[test]
fn commands_for_the_other_kind_of_group_are_refused() {
    let mut meta = Meta::new();
    for command in
        [Command::OpenLease { node: NodeId(1) }, Command::Own { generation: Generation(0), slots: vec![ALL_SLOTS] }]
    {
        assert_eq!(meta.run(&command), Outcome::Rejected(Reject::WrongGroup(SlotId(0xFF00))));
    }
    let mut world = World::new();
    assert_eq!(world.run(Command::Meta(init(1))), Outcome::Rejected(Reject::WrongGroup(SlotId(0xFF01))));
    assert_eq!(world.read(Read::Directory), ReadOutcome::WrongGroup);
}

fn set(id: u32, changes: &[(Limit, Option<u32>)]) -> MetaCommand {
    MetaCommand::SetTenant { id: TenantId(id), changes: changes.iter().copied().collect() }
}

fn limits_of(meta: &Meta) -> Vec<(u32, Vec<(Limit, u32)>)> {
    let tenants = meta.directory().tenants;
    tenants.into_iter().map(|record| (record.id.0, record.limits.into_iter().collect())).collect()
}

#[test]
fn limits_of_a_tenant_change_one_by_one_and_the_last_to_go_takes_the_row() {
    let (writes, reads) = (Limit::UserWrites, Limit::UserReads);
    let mut meta = Meta::new();
    let record = |limits: &[(Limit, u32)]| {
        MetaOutcome::TenantSet(TenantRecord { id: TenantId(7), limits: limits.iter().copied().collect() })
    };
    assert_eq!(meta.meta(set(7, &[(writes, Some(10))])), record(&[(writes, 10)]));
    assert_eq!(meta.events, vec![Event::Directory]);
    assert_eq!(meta.meta(set(7, &[(reads, Some(0))])), record(&[(writes, 10), (reads, 0)]));
    assert_eq!(limits_of(&meta), vec![(7, vec![(writes, 10), (reads, 0)])]);
    // Again: nobody is told of what did not change.
    assert_eq!(meta.meta(set(7, &[(reads, Some(0))])), record(&[(writes, 10), (reads, 0)]));
    assert_eq!(meta.events, Vec::new());
    assert_eq!(meta.meta(set(7, &[(writes, None), (reads, Some(5))])), record(&[(reads, 5)]));
    assert_eq!(meta.meta(set(7, &[(reads, None)])), record(&[]));
    assert_eq!(meta.events, vec![Event::Directory]);
    assert_eq!(limits_of(&meta), Vec::new());
    assert_eq!(meta.meta(set(7, &[(reads, None)])), record(&[]));
    assert_eq!(meta.events, Vec::new());
}

#[test]
fn limits_of_nobody_or_of_too_many_are_refused() {
    let mut meta = Meta::new();
    let some = [(Limit::TenantBytes, Some(1))];
    assert_eq!(meta.refused(set(u32::MAX, &some)), MetaRefusal::Malformed);
    for id in 0..limits::TENANTS_LIMITED_MAX {
        assert!(matches!(meta.meta(set(id, &some)), MetaOutcome::TenantSet(_)));
    }
    assert_eq!(meta.refused(set(9_999, &some)), MetaRefusal::Full);
    // Those that are there change, and make room.
    assert!(matches!(meta.meta(set(3, &[(Limit::TenantBytes, Some(2))])), MetaOutcome::TenantSet(_)));
    assert!(matches!(meta.meta(set(3, &[(Limit::TenantBytes, None)])), MetaOutcome::TenantSet(_)));
    assert!(matches!(meta.meta(set(9_999, &some)), MetaOutcome::TenantSet(_)));
    let mut cold = Meta::default();
    assert_eq!(cold.refused(set(1, &some)), MetaRefusal::NotInitialised);
}
