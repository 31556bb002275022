//! Appends: dedupe, follows, co-located inboxes, the pending table.

use seriatim_proto::command::{DeliveredRecord, DeliveryRecord};

use super::*;

#[test]
fn a_first_message_makes_the_direct_conversation_and_both_users_members() {
    let mut world = World::new();
    let (conversation, near, far) = pair();
    assert_eq!(world.conversation(&conversation), None);
    let appended = world.append(message(&conversation, &far, 1));
    assert_eq!((appended.seq, appended.duplicate, appended.prev_seq), (seq(1), false, None));
    let state = world.conversation(&conversation).unwrap();
    let mut members: Vec<_> = state.stays.iter().map(|stay| (&stay.user, stay.joined, stay.left)).collect();
    members.sort();
    assert_eq!(members, vec![(&user("alice"), seq(1), None), (&user("bob"), seq(1), None)]);
    assert!(state.pending);
    world.append(message(&conversation, &near, 1));
    assert_conversation_linked(&world, &conversation);
}

#[test]
fn a_stranger_cannot_write_to_a_direct_conversation() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    assert_eq!(world.append_rejected(message(&conversation, &user("eve"), 1)), Reject::NotFound);
    world.append(message(&conversation, &near, 1));
    assert_eq!(world.append_rejected(message(&conversation, &user("eve"), 1)), Reject::NotFound);
}

#[test]
fn a_repeat_is_a_duplicate_and_another_body_a_conflict() {
    let mut world = World::new();
    let (conversation, near, far) = pair();
    let first = with_local(message(&conversation, &near, 1), &near);
    let appended = world.append(first.clone());
    let before = world.view.clone();
    let repeat = world.append(first.clone());
    assert_eq!((repeat.seq, repeat.duplicate, repeat.entry), (appended.seq, true, None));
    assert_eq!(repeat.local.len(), 1);
    assert!(repeat.local[0].written.is_none() && repeat.local[0].segment.is_none());
    assert_eq!(world.view.rows.len(), before.rows.len());
    let other = with_content(
        first.clone(),
        Content::Message { salt: Bytes::from_static(b"salt"), body: Bytes::from_static(b"other") },
    );
    assert_eq!(world.append_rejected(other), Reject::Conflict);
    // The id belongs to its sender and conversation.
    assert!(!world.append(message(&conversation, &far, 1)).duplicate);
    let own = ConversationId::direct(near.clone(), near.clone());
    assert!(!world.append(message(&own, &near, 1)).duplicate);
    assert_eq!(world.messages(&conversation).len(), 2);
}

#[test]
fn dedupe_comes_before_follows_and_seq() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    world.append(message(&conversation, &near, 1));
    let mut repeat = message(&conversation, &near, 1);
    repeat.follows = Some(message_id(99));
    repeat.place = Place::At(seq(1));
    assert!(world.append(repeat).duplicate);
}

#[test]
fn an_unknown_id_from_below_the_trim_is_expired() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    world.append(message(&conversation, &near, 1));
    world.append(message(&conversation, &near, 2));
    // Trim has no command yet: its effect on the row is what counts.
    let slot = home(&conversation);
    let key = crate::Key::namespace(slot, seriatim_proto::ids::Namespace::conversation(TENANT, conversation.clone()));
    let Some(crate::Row::Conversation(row)) = world.view.rows.get_mut(&key) else { panic!() };
    row.namespace.trim = seq(2);
    for (known, expired) in [(None, true), (Some(seq(1)), true), (Some(seq(2)), false)] {
        let mut append = message(&conversation, &near, 9);
        append.known = known;
        if expired {
            assert_eq!(world.append_rejected(append), Reject::Expired);
        } else {
            world.append(append);
        }
    }
}

#[test]
fn a_message_waits_for_the_one_that_it_follows() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let mut second = message(&conversation, &near, 2);
    second.follows = Some(message_id(1));
    assert_eq!(world.append_rejected(second.clone()), Reject::OutOfOrder);
    world.append(message(&conversation, &near, 1));
    assert_eq!(world.append(second).seq, seq(2));
}

#[test]
fn time_never_falls_in_a_conversation() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    for (id, at_ms, expected) in [(1, 500, 500), (2, 400, 500), (3, 600, 600)] {
        let mut append = message(&conversation, &near, id);
        append.at_ms = at_ms;
        assert_eq!(world.append(append).entry.unwrap().at_ms, expected);
    }
}

#[test]
fn a_local_inbox_gets_the_entry_with_the_append() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let appended = world.append(with_local(message(&conversation, &near, 1), &near));
    let written = appended.local[0].written.unwrap();
    assert_eq!((written.seq, written.prev_seq, written.ordinal), (seq(1), None, 1));
    let (_, entries) = world.inbox(&near);
    assert_eq!(entries[0].entry, appended.entry.unwrap());
    assert_eq!(world.last(&near, &conversation), Some(seq(1)));
    world.append(with_local(message(&conversation, &near, 2), &near));
    assert_inbox_linked(&world, &near);
}

#[test]
fn a_local_inbox_that_lacks_entries_is_left_to_deliveries() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    world.append(message(&conversation, &near, 1));
    let mut append = with_local(message(&conversation, &near, 2), &near);
    append.local[0].place = Place::Open { segment: 16 };
    let local = &world.append(append).local[0];
    assert_eq!(local.written, None);
    let segment = local.segment.expect("seqs are reserved even if nothing was written");
    assert_eq!(segment.lo.until(segment.hi), 16);
    let entries: Vec<_> = world.messages(&conversation).into_iter().map(|message| message.entry).collect();
    let DeliveryOutcome::Accepted { written, .. } = world.deliver(delivery(&conversation, &near, None, &entries))
    else {
        panic!()
    };
    assert_eq!(written.len(), 2);
    assert!(world.append(with_local(message(&conversation, &near, 3), &near)).local[0].written.is_some());
    assert_inbox_linked(&world, &near);
}

#[test]
fn a_local_seq_that_does_not_fit_refuses_the_whole_append() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let mut append = with_local(message(&conversation, &near, 1), &near);
    append.local[0].place = Place::At(seq(1));
    assert_eq!(world.append_rejected(append), Reject::SeqRefused);
}

#[test]
fn a_local_inbox_of_a_stranger_gets_nothing() {
    let mut world = World::new();
    let near = user("alice");
    let group = group_near(&near);
    world.append(with_content(message(&group, &user("bob"), 1), Content::Create { members: vec![] }));
    let appended = world.append(with_local(message(&group, &user("bob"), 2), &near));
    assert_eq!(appended.local[0].written, None);
    assert_eq!(world.inbox(&near), (None, vec![]));
}

#[test]
fn a_conversation_with_oneself_is_one_entry_and_never_pending() {
    let mut world = World::new();
    let near = user("alice");
    let own = ConversationId::direct(near.clone(), near.clone());
    world.append(with_local(message(&own, &near, 1), &near));
    assert_eq!(world.inbox(&near).1.len(), 1);
    assert_eq!(world.pending(home(&own)), vec![]);
    let state = world.conversation(&own).unwrap();
    assert_eq!((state.stays.len(), state.pending), (1, false));
    // Not written here: it must be delivered.
    world.append(message(&own, &near, 2));
    assert_eq!(world.pending(home(&own)), vec![own]);
}

#[test]
fn pending_lasts_until_every_cursor_is_at_the_last_entry() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let slot = home(&conversation);
    world.append(message(&conversation, &near, 1));
    assert_eq!(world.pending(slot), vec![conversation.clone()]);
    world.append(message(&conversation, &near, 2));
    let record = |all, behind| DeliveredRecord {
        tenant: TENANT,
        conversation: conversation.clone(),
        record: DeliveryRecord { all, behind },
    };
    for (record, pending) in [
        (record(Some(seq(1)), vec![]), true),
        (record(Some(seq(2)), vec![(SlotId(3), Some(seq(1)))]), true),
        (record(Some(seq(2)), vec![(SlotId(3), None)]), true),
        (record(Some(seq(2)), vec![]), false),
    ] {
        let op = HolderOp::Delivered { records: vec![record.clone()] };
        assert_eq!(world.op(slot, op), Outcome::Recorded);
        let state = world.conversation(&conversation).unwrap();
        assert_eq!((state.pending, state.delivered), (pending, record.record));
        assert_eq!(world.pending(slot).is_empty(), !pending);
    }
    world.append(message(&conversation, &near, 3));
    assert_eq!(world.pending(slot), vec![conversation]);
}

#[test]
fn an_append_stores_cursors_and_keeps_pending() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    world.append(message(&conversation, &near, 1));
    let mut append = message(&conversation, &near, 2);
    append.delivered = Some(DeliveryRecord { all: Some(seq(1)), behind: vec![] });
    world.append(append);
    let state = world.conversation(&conversation).unwrap();
    assert_eq!((state.delivered.all, state.pending), (Some(seq(1)), true));
}

#[test]
fn cursors_that_cannot_be_are_malformed() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let slot = home(&conversation);
    let record = |all, behind| DeliveryRecord { all, behind };
    let unknown = DeliveredRecord { tenant: TENANT, conversation: conversation.clone(), record: record(None, vec![]) };
    world.append(message(&conversation, &near, 1));
    let own = DeliveredRecord { conversation: ConversationId::direct(near.clone(), near.clone()), ..unknown };
    assert_eq!(world.rejected(slot, HolderOp::Delivered { records: vec![own] }), Reject::Malformed);
    for bad in [
        record(Some(seq(2)), vec![]),
        record(Some(seq(1)), vec![(SlotId(1), Some(seq(2)))]),
        record(Some(seq(1)), vec![(SlotId(2), None), (SlotId(1), None)]),
        record(Some(seq(1)), vec![(SlotId(limits::SLOTS), None)]),
        record(Some(seq(1)), (0..65).map(|slot| (SlotId(slot), None)).collect()),
    ] {
        let records = vec![DeliveredRecord { tenant: TENANT, conversation: conversation.clone(), record: bad.clone() }];
        assert_eq!(world.rejected(slot, HolderOp::Delivered { records }), Reject::Malformed);
        let mut append = message(&conversation, &near, 2);
        append.delivered = Some(bad);
        assert_eq!(world.append_rejected(append), Reject::Malformed);
    }
}

#[test]
fn what_no_holder_makes_is_malformed() {
    let mut world = World::new();
    let (conversation, near, far) = pair();
    let slot = home(&conversation);
    let good = message(&conversation, &near, 1);
    let swapped = match &conversation {
        ConversationId::Direct(a, b) => ConversationId::Direct(b.clone(), a.clone()),
        ConversationId::Group(_) => unreachable!(),
    };
    let body = |len| Content::Message { salt: Bytes::new(), body: Bytes::from(vec![0; len]) };
    let salted = Content::Message { salt: Bytes::from(vec![0; 33]), body: Bytes::new() };
    for bad in [
        Append { conversation: swapped, ..good.clone() },
        Append { conversation: ConversationId::direct(far.clone(), far.clone()), ..good.clone() },
        Append { tenant: TenantId(u32::MAX), ..good.clone() },
        with_content(good.clone(), body(limits::MESSAGE_BYTES_MAX as usize + 1)),
        with_content(good.clone(), salted),
        with_local(good.clone(), &far),
        with_local(with_local(good.clone(), &near), &near),
    ] {
        assert_eq!(world.rejected(slot, HolderOp::Append(bad)), Reject::Malformed);
    }
    world.append(with_content(good, body(limits::MESSAGE_BYTES_MAX as usize)));
}

#[test]
fn reads_of_messages_stop_at_their_bounds() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    for id in 0..100 {
        world.append(message(&conversation, &near, id));
    }
    let count = |from, limit, bytes_max| {
        let read_of = Read::Messages { tenant: TENANT, conversation: conversation.clone(), from, limit, bytes_max };
        match world.read(read_of) {
            ReadOutcome::Messages(messages) => messages.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(count(seq(1), 1000, u32::MAX), 100);
    assert_eq!(count(seq(91), 1000, u32::MAX), 10);
    assert_eq!(count(seq(1), 70, u32::MAX), 70);
    assert_eq!(count(seq(1), 1000, 30), 10, "bodies have 3 bytes");
    assert_eq!(count(seq(1), 1000, 31), 11, "stops behind, not before");
    let seqs = vec![seq(3), seq(500), seq(7)];
    let ReadOutcome::Messages(found) =
        world.read(Read::MessagesAt { tenant: TENANT, conversation: conversation.clone(), seqs })
    else {
        panic!()
    };
    assert_eq!(found.iter().map(|message| message.entry.seq).collect::<Vec<_>>(), vec![seq(3), seq(7)]);
    let (sender, message_id) = (near.clone(), message_id(4));
    let dedupe = Read::Dedupe { tenant: TENANT, conversation, sender, message_id };
    assert_eq!(world.read(dedupe), ReadOutcome::Dedupe(Some(seq(5))));
}
