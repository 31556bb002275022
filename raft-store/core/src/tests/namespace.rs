//! Segments and open places.

use seriatim_proto::command::{Segment, Want};
use seriatim_proto::ids::{CounterName, Namespace, Owner};

use super::*;

fn counter(name: &str) -> Namespace {
    Namespace { tenant: TENANT, owner: Owner::Counter(CounterName::new(name).unwrap()) }
}

fn want(namespace: &Namespace, seqs: u32) -> Want {
    Want { namespace: namespace.clone(), seqs }
}

fn segment(epoch: u64, lo: u64, hi: u64) -> Segment {
    Segment { epoch: Epoch(epoch), lo: seq(lo), hi: seq(hi) }
}

fn reserve(world: &mut World, namespace: &Namespace, seqs: u32) -> Segment {
    match world.op(hash::slot(namespace), HolderOp::Reserve { wants: vec![want(namespace, seqs)] }) {
        Outcome::Reserved(segments) => segments[0],
        other => panic!("{other:?}"),
    }
}

#[test]
fn segments_follow_each_other_across_epochs() {
    let mut world = World::new();
    let namespace = counter("orders");
    assert_eq!(reserve(&mut world, &namespace, 10), segment(1, 1, 11));
    assert_eq!(reserve(&mut world, &namespace, 5), segment(1, 11, 16));
    world.reclaim(hash::slot(&namespace));
    assert_eq!(reserve(&mut world, &namespace, 1), segment(2, 16, 17));
    let ReadOutcome::Namespace(Some(state)) = world.read(Read::Namespace(namespace)) else { panic!() };
    assert_eq!((state.tail, state.ceiling, state.epoch), (seq(1), seq(17), Epoch(2)));
}

#[test]
fn a_reservation_is_all_or_nothing_and_each_namespace_once() {
    let mut world = World::new();
    let (namespace, elsewhere) = (counter("orders"), counter("bills"));
    let slot = hash::slot(&namespace);
    for wants in [
        vec![],
        vec![want(&namespace, 1), want(&namespace, 1)],
        vec![want(&namespace, 1), want(&elsewhere, 1)],
        vec![want(&namespace, 0)],
        vec![want(&namespace, limits::SEGMENT_SEQS_MAX + 1)],
        vec![want(&Namespace { tenant: TenantId(u32::MAX), owner: namespace.owner.clone() }, 1)],
    ] {
        assert_eq!(world.rejected(slot, HolderOp::Reserve { wants }), Reject::Malformed);
    }
}

#[test]
fn a_generation_reserves_only_its_own_seqs() {
    let last = Generation(crate::lease::GENERATION_LAST);
    for generation in [Generation(2), last] {
        let mut world = World::of_generation(generation);
        let namespace = counter("orders");
        let first = reserve(&mut world, &namespace, limits::SEGMENT_SEQS_MAX);
        assert_eq!(first.lo, generation.first_seq());
        let key = crate::Key::namespace(hash::slot(&namespace), namespace.clone());
        let Some(crate::Row::Namespace(row)) = world.view.rows.get_mut(&key) else { panic!() };
        row.ceiling = Seq::new(generation.end_seq().get() - 3).unwrap();
        let wants = vec![want(&namespace, 4)];
        assert_eq!(world.rejected(hash::slot(&namespace), HolderOp::Reserve { wants }), Reject::GenerationExhausted);
        assert_eq!(reserve(&mut world, &namespace, 3).hi, generation.end_seq());
    }
}

#[test]
fn an_open_append_gets_the_ceiling_and_a_segment_behind() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let mut append = message(&conversation, &near, 1);
    append.place = Place::Open { segment: 16 };
    let appended = world.append(append);
    assert_eq!((appended.seq, appended.segment), (seq(1), Some(segment(1, 2, 18))));
    let mut append = message(&conversation, &near, 2);
    append.place = Place::At(seq(2));
    assert_eq!(world.append(append).segment, None);
}

#[test]
fn an_open_append_under_a_new_epoch_closes_what_older_ones_reserved() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let mut append = message(&conversation, &near, 1);
    append.place = Place::Open { segment: 16 };
    world.append(append);
    world.reclaim(home(&conversation));
    let at = |id, place| {
        let mut append = message(&conversation, &near, id);
        append.place = place;
        append
    };
    assert_eq!(world.append_rejected(at(2, Place::At(seq(2)))), Reject::SeqRefused, "another epoch's segment");
    assert_eq!(world.append(at(2, Place::Open { segment: 4 })).seq, seq(18));
    assert_eq!(world.append_rejected(at(3, Place::At(seq(5)))), Reject::SeqRefused, "below base");
    assert_eq!(world.append_rejected(at(3, Place::At(seq(18)))), Reject::SeqRefused, "taken");
    assert_eq!(world.append_rejected(at(3, Place::At(seq(23)))), Reject::SeqRefused, "not reserved");
    assert_eq!(world.append(at(3, Place::At(seq(20)))).seq, seq(20));
    assert_eq!(world.append_rejected(at(4, Place::At(seq(19)))), Reject::SeqRefused, "below tail");
    assert_eq!(world.append(at(4, Place::At(seq(22)))).prev_seq, Some(seq(20)));
    assert_conversation_linked(&world, &conversation);
}

#[test]
fn a_place_that_no_holder_makes_is_malformed() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let mut append = message(&conversation, &near, 1);
    append.place = Place::Open { segment: limits::SEGMENT_SEQS_MAX + 1 };
    assert_eq!(world.append_rejected(append), Reject::Malformed);
}
