//! Leases, claims, fences.

use super::*;

const SLOT: SlotId = SlotId(9);

fn nothing() -> HolderOp {
    HolderOp::Delivered { records: Vec::new() }
}

fn held(world: &mut World, epoch: Epoch, n: u64) -> Outcome {
    world.run(Command::Held { fence: Fence { slot: SLOT, epoch, n }, op: nothing() })
}

#[test]
fn owning_is_idempotent_by_content() {
    let mut world = World::new();
    let before = world.view.clone();
    assert_eq!(world.run(Command::Own { generation: Generation(0), slots: vec![ALL_SLOTS] }), Outcome::Owned);
    let part = SlotRange { first: SlotId(0), end: SlotId(1) };
    for slots in [vec![part], vec![], vec![part, part], vec![SlotRange { first: SlotId(1), end: SlotId(1) }]] {
        let outcome = world.run(Command::Own { generation: Generation(0), slots });
        assert_eq!(outcome, Outcome::Rejected(Reject::Malformed));
    }
    assert!(world.view == before);
}

#[test]
fn a_restarted_node_has_a_new_lease() {
    let mut world = World::new();
    let (one, other) = (world.open(NodeId(5)), world.open(NodeId(5)));
    assert!(one < other);
    assert_eq!(world.events, vec![Event::LeaseOpened { lease: other, node: NodeId(5) }]);
}

#[test]
fn no_lease_opens_before_the_group_owns_anything() {
    let at = At { group: GROUP, term: 1, index: LogIndex(1), place: 0 };
    let outcome = apply(&mut MemoryView::default(), at, &Command::OpenLease { node: NodeId(1) }, &mut Vec::new());
    assert_eq!(outcome, Ok(Outcome::Rejected(Reject::WrongGroup(SlotId(0xFF01)))));
}

#[test]
fn a_claim_raises_the_epoch_and_restarts_n() {
    let mut world = World::new();
    world.reclaim(SLOT);
    assert_eq!(held(&mut world, Epoch(1), 0), Outcome::Recorded);
    world.reclaim(SLOT);
    assert_eq!(world.epoch(SLOT), Epoch(2));
    assert_eq!(held(&mut world, Epoch(2), 0), Outcome::Recorded);
}

#[test]
fn a_repeated_claim_returns_the_same_and_resets_nothing() {
    let mut world = World::new();
    world.reclaim(SLOT);
    assert_eq!(held(&mut world, Epoch(1), 0), Outcome::Recorded);
    let before = world.view.clone();
    let lease = world.lease;
    assert_eq!(world.claim(SLOT, lease, Epoch(0)), Outcome::Claimed { epoch: Epoch(1) });
    assert!(world.view == before && world.events.is_empty());
}

#[test]
fn a_slot_with_a_live_holder_is_not_claimed_by_another() {
    let mut world = World::new();
    world.reclaim(SLOT);
    let other = world.open(NodeId(2));
    let refused = Outcome::Rejected(Reject::ClaimRefused { epoch: Epoch(1), holder: Some(NodeId(1)) });
    assert_eq!(world.claim(SLOT, other, Epoch(1)), refused);
}

#[test]
fn a_slot_whose_lease_ended_is_claimed_by_another() {
    let mut world = World::new();
    world.reclaim(SLOT);
    let (lease, other) = (world.lease, world.open(NodeId(2)));
    assert_eq!(world.run(Command::ExpireLease { lease }), Outcome::LeaseEnded);
    assert_eq!(world.events, vec![Event::LeaseEnded { lease, node: NodeId(1) }]);
    let rows = crate::holder_rows(&world.view, GROUP).unwrap();
    assert_eq!(rows.len(), usize::from(limits::SLOTS));
    assert!(rows.iter().all(|row| row.holder.is_none() && row.lease.is_none()));
    assert_eq!(world.claim(SLOT, other, Epoch(1)), Outcome::Claimed { epoch: Epoch(2) });
    assert_eq!(held(&mut world, Epoch(1), 0), Outcome::Rejected(Reject::Fenced { current: Epoch(2) }));
    assert_eq!(held(&mut world, Epoch(2), 0), Outcome::Recorded);
}

#[test]
fn a_lease_that_ended_claims_nothing_and_ends_again() {
    let mut world = World::new();
    let lease = world.lease;
    assert_eq!(world.run(Command::CloseLease { lease }), Outcome::LeaseEnded);
    assert_eq!(world.run(Command::CloseLease { lease }), Outcome::LeaseEnded);
    assert!(world.events.is_empty());
    assert_eq!(world.claim(SLOT, lease, Epoch(0)), Outcome::Rejected(Reject::LeaseGone));
}

#[test]
fn a_claim_that_saw_another_epoch_is_refused() {
    let mut world = World::new();
    world.reclaim(SLOT);
    world.reclaim(SLOT);
    let lease = world.lease;
    for seen in [Epoch(0), Epoch(3), Epoch(u64::MAX)] {
        let refused = Outcome::Rejected(Reject::ClaimRefused { epoch: Epoch(2), holder: None });
        assert_eq!(world.claim(SLOT, lease, seen), refused);
    }
}

#[test]
fn a_release_ends_the_epoch_and_names_the_heir() {
    let mut world = World::new();
    let op = HolderOp::Release { heir: Some(NodeId(2)) };
    assert_eq!(world.op(SLOT, op), Outcome::Released);
    let ReadOutcome::Holder(row) = world.read(Read::Holder(SLOT)) else { panic!() };
    assert_eq!((row.holder, row.lease, row.heir, row.epoch), (None, None, Some(NodeId(2)), Epoch(1)));
    assert_eq!(world.events, vec![Event::Holder(row)]);
    assert_eq!(held(&mut world, Epoch(1), 0), Outcome::Rejected(Reject::Passed));
    assert_eq!(held(&mut world, Epoch(1), 1), Outcome::Rejected(Reject::Fenced { current: Epoch(1) }));
    let other = world.open(NodeId(3));
    assert_eq!(world.claim(SLOT, other, Epoch(1)), Outcome::Claimed { epoch: Epoch(2) });
    let ReadOutcome::Holder(row) = world.read(Read::Holder(SLOT)) else { panic!() };
    assert_eq!((row.holder, row.lease, row.heir), (Some(NodeId(3)), Some(other), None));
}

#[test]
fn a_slot_of_another_group_is_refused_before_anything_else() {
    let mut world = World::new();
    world.reclaim(SLOT);
    let (lease, at) = (world.lease, At { group: GroupId(2), term: 1, index: LogIndex(99), place: 0 });
    for slot in [SLOT, SlotId(limits::SLOTS), SlotId(0xFF01)] {
        for command in [
            Command::Held { fence: Fence { slot, epoch: Epoch(7), n: 7 }, op: nothing() },
            Command::Claim { slot, lease, seen: Epoch(7) },
        ] {
            let outcome = apply(&mut world.view, at, &command, &mut Vec::new());
            assert_eq!(outcome, Ok(Outcome::Rejected(Reject::WrongGroup(slot))));
        }
        assert_eq!(read(&world.view, GroupId(2), &Read::Holder(slot)), Ok(ReadOutcome::WrongGroup));
    }
}

#[test]
fn the_fence_is_checked_before_n_and_n_in_order() {
    let mut world = World::new();
    assert_eq!(held(&mut world, Epoch(0), 0), Outcome::Rejected(Reject::Fenced { current: Epoch(0) }));
    world.reclaim(SLOT);
    assert_eq!(held(&mut world, Epoch(2), 9), Outcome::Rejected(Reject::Fenced { current: Epoch(1) }));
    assert_eq!(held(&mut world, Epoch(1), 1), Outcome::Rejected(Reject::Expected { n: 0 }));
    assert_eq!(held(&mut world, Epoch(1), 0), Outcome::Recorded);
    assert_eq!(held(&mut world, Epoch(1), 0), Outcome::Rejected(Reject::Passed));
    assert_eq!(held(&mut world, Epoch(1), 2), Outcome::Rejected(Reject::Expected { n: 1 }));
    assert_eq!(held(&mut world, Epoch(1), 1), Outcome::Recorded);
}

#[test]
fn a_later_reject_consumes_its_n() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let mut append = message(&conversation, &near, 1);
    append.place = Place::At(seq(1));
    assert_eq!(world.append_rejected(append), Reject::SeqRefused);
    let slot = home(&conversation);
    assert_eq!(world.fence(slot).n, 1);
    world.append(message(&conversation, &near, 1));
}

#[test]
fn epochs_and_leases_carry_the_generation() {
    let mut world = World::of_generation(Generation(3));
    assert_eq!(world.lease.generation, Generation(3));
    world.reclaim(SLOT);
    assert_eq!(world.epoch(SLOT), Epoch::first_of(Generation(3)).next());
}
