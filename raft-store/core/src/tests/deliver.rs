//! Deliveries: accept, skip, jump.

use super::*;

/// A direct conversation with `count` messages, and the user in the other slot who is owed them.
fn conversation_of(count: u8) -> (World, ConversationId, UserId, Vec<EntryRef>) {
    let mut world = World::new();
    let (conversation, near, far) = pair();
    let entries = (0..count).map(|id| world.append(message(&conversation, &near, id)).entry.unwrap()).collect();
    (world, conversation, far, entries)
}

fn seqs(world: &World, user: &UserId) -> Vec<u64> {
    world.inbox(user).1.iter().map(|entry| entry.entry.seq.get()).collect()
}

#[test]
fn a_range_is_accepted_and_its_repeat_skipped() {
    let (mut world, conversation, far, entries) = conversation_of(3);
    let range = delivery(&conversation, &far, None, &entries);
    let DeliveryOutcome::Accepted { last, written, segment } = world.deliver(range.clone()) else { panic!() };
    assert_eq!((last, segment), (seq(3), None));
    assert_eq!(
        written.iter().map(|w| (w.seq, w.prev_seq, w.ordinal)).collect::<Vec<_>>(),
        vec![(seq(1), None, 1), (seq(2), Some(seq(1)), 2), (seq(3), Some(seq(2)), 3)]
    );
    let expected = DeliveryOutcome::Accepted { last: seq(3), written: vec![], segment: None };
    assert_eq!(world.deliver(range), expected);
    assert_eq!(seqs(&world, &far), vec![1, 2, 3]);
    assert_inbox_linked(&world, &far);
}

#[test]
fn an_overlap_adds_only_what_is_new() {
    let (mut world, conversation, far, entries) = conversation_of(4);
    world.deliver(delivery(&conversation, &far, None, &entries[..2]));
    let DeliveryOutcome::Accepted { last, written, .. } =
        world.deliver(delivery(&conversation, &far, Some(seq(1)), &entries[1..]))
    else {
        panic!()
    };
    assert_eq!((last, written.len()), (seq(4), 2));
    assert_eq!(seqs(&world, &far), vec![1, 2, 3, 4]);
}

#[test]
fn a_hole_is_answered_with_where_to_go_back_to() {
    let (mut world, conversation, far, entries) = conversation_of(4);
    let late = delivery(&conversation, &far, Some(seq(2)), &entries[2..]);
    assert_eq!(world.deliver(late.clone()), DeliveryOutcome::Jump { last: None, segment: None });
    assert_eq!(world.inbox(&far), (None, vec![]));
    world.deliver(delivery(&conversation, &far, None, &entries[..1]));
    let mut open = late.clone();
    open.place = Place::Open { segment: 8 };
    let DeliveryOutcome::Jump { last, segment: Some(segment) } = world.deliver(open) else { panic!() };
    assert_eq!((last, segment.lo.until(segment.hi)), (Some(seq(1)), 8));
    assert_eq!(world.deliver(late), DeliveryOutcome::Jump { last: Some(seq(1)), segment: None });
}

#[test]
fn a_range_without_entries_raises_last() {
    let (mut world, _, far, _) = conversation_of(0);
    let group = group_near(&user("zoe"));
    let mut empty = Delivery {
        tenant: TENANT,
        user: far.clone(),
        conversation: group.clone(),
        after: None,
        upto: seq(5),
        entries: vec![],
        place: Place::At(seq(1)),
    };
    let expected = DeliveryOutcome::Accepted { last: seq(5), written: vec![], segment: None };
    assert_eq!(world.deliver(empty.clone()), expected);
    assert_eq!(world.last(&far, &group), Some(seq(5)));
    empty.upto = seq(3);
    assert_eq!(world.deliver(empty), expected, "last never falls");
}

#[test]
fn entries_take_seqs_of_a_segment_in_a_row() {
    let (mut world, conversation, far, entries) = conversation_of(3);
    let mut first = delivery(&conversation, &far, None, &entries[..1]);
    first.place = Place::Open { segment: 10 };
    let DeliveryOutcome::Accepted { segment: Some(segment), .. } = world.deliver(first) else { panic!() };
    assert_eq!((segment.lo, segment.hi), (seq(2), seq(12)));
    let mut next = delivery(&conversation, &far, Some(seq(1)), &entries[1..]);
    next.place = Place::At(seq(11));
    assert_eq!(world.deliver(next.clone()), DeliveryOutcome::SeqRefused, "the last would be at the ceiling");
    next.place = Place::At(seq(1));
    assert_eq!(world.deliver(next.clone()), DeliveryOutcome::SeqRefused, "taken");
    next.place = Place::At(seq(5));
    let DeliveryOutcome::Accepted { written, .. } = world.deliver(next) else { panic!() };
    assert_eq!(written.iter().map(|w| w.seq).collect::<Vec<_>>(), vec![seq(5), seq(6)]);
    assert_inbox_linked(&world, &far);
}

#[test]
fn each_delivery_has_its_own_outcome() {
    let (mut world, conversation, far, entries) = conversation_of(3);
    let mut bad = delivery(&conversation, &far, None, &entries[..1]);
    bad.place = Place::At(seq(1));
    let hole = delivery(&conversation, &far, Some(seq(2)), &entries[2..]);
    let good = delivery(&conversation, &far, None, &entries);
    let slot = hash::inbox_slot(TENANT, &far);
    let deliveries = vec![bad, hole, good.clone(), good];
    let Outcome::Delivered(outcomes) = world.op(slot, HolderOp::Deliver { deliveries }) else { panic!() };
    assert_eq!(outcomes[0], DeliveryOutcome::SeqRefused);
    assert_eq!(outcomes[1], DeliveryOutcome::Jump { last: None, segment: None });
    assert!(matches!(&outcomes[2], DeliveryOutcome::Accepted { written, .. } if written.len() == 3));
    assert!(matches!(&outcomes[3], DeliveryOutcome::Accepted { written, .. } if written.is_empty()));
    assert_eq!(seqs(&world, &far), vec![1, 2, 3]);
}

#[test]
fn ranges_that_no_source_makes_are_malformed() {
    let (mut world, conversation, far, entries) = conversation_of(3);
    let slot = hash::inbox_slot(TENANT, &far);
    let good = delivery(&conversation, &far, None, &entries);
    let mut swapped = good.clone();
    swapped.entries.swap(0, 1);
    let mut twice = good.clone();
    twice.entries[1] = twice.entries[0].clone();
    let long: Vec<_> = (1..=u64::from(limits::DELIVERY_ENTRIES_MAX) + 1)
        .map(|i| EntryRef { seq: seq(i), ..entries[0].clone() })
        .collect();
    let eve = user("eve");
    for bad in [
        swapped,
        twice,
        Delivery { after: Some(seq(1)), ..good.clone() },
        Delivery { upto: seq(2), ..good.clone() },
        Delivery { after: Some(seq(9)), entries: vec![], ..good.clone() },
        delivery(&conversation, &far, None, &long),
        Delivery { user: eve, ..good.clone() },
    ] {
        let deliveries = vec![good.clone(), bad];
        assert_eq!(world.rejected(slot, HolderOp::Deliver { deliveries }), Reject::Malformed);
    }
}

#[test]
fn a_direct_conversation_is_delivered_to_its_two_users_only() {
    let (mut world, conversation, _, entries) = conversation_of(1);
    let eve = user("eve");
    let deliveries = vec![delivery(&conversation, &eve, None, &entries)];
    let slot = hash::inbox_slot(TENANT, &eve);
    assert_eq!(world.rejected(slot, HolderOp::Deliver { deliveries }), Reject::Malformed);
}

#[test]
fn inbox_reads_start_at_trim_or_where_asked() {
    let (mut world, conversation, far, entries) = conversation_of(5);
    world.deliver(delivery(&conversation, &far, None, &entries));
    let read_of = |from, limit| match world.read(Read::Inbox { tenant: TENANT, user: far.clone(), from, limit }) {
        ReadOutcome::Inbox { entries, state } => {
            assert_eq!(state.unwrap().tail, seq(6));
            entries.iter().map(|entry| entry.seq.get()).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(read_of(None, 3), vec![1, 2, 3]);
    assert_eq!(read_of(Some(seq(4)), 100), vec![4, 5]);
    assert_eq!(read_of(Some(seq(6)), 100), Vec::<u64>::new());
}
