//! Marks: read marks that only rise, what is not read by subtraction, mutes and archives.

use proptest::prelude::*;
use seriatim_proto::command::{Kind, Listed, Mark, MarkOutcome, MarkWrite};

use super::*;

fn write(user: &UserId, conversation: &ConversationId, mark: Mark) -> MarkWrite {
    let (user, conversation) = (user.clone(), conversation.clone());
    MarkWrite { tenant: TENANT, user, conversation, mark, place: Place::Open { segment: 0 }, at_ms: 5_000 }
}

fn set(world: &mut World, write: MarkWrite) -> MarkOutcome {
    let slot = hash::inbox_slot(TENANT, &write.user);
    match world.op(slot, HolderOp::SetMarks { marks: vec![write] }) {
        Outcome::MarksSet(mut outcomes) => outcomes.pop().unwrap(),
        other => panic!("{other:?}"),
    }
}

/// The list's row, and the place of the entry that the mark wrote.
fn listed(world: &mut World, user: &UserId, conversation: &ConversationId, mark: Mark) -> (Listed, Option<Seq>) {
    match set(world, write(user, conversation, mark)) {
        MarkOutcome::Set { listed, written, .. } => (listed, written.map(|(written, _)| written.seq)),
        other => panic!("{other:?}"),
    }
}

/// The list, and how many messages of the whole inbox are not read.
fn list(world: &World, user: &UserId) -> (Vec<Listed>, u64) {
    let read = Read::List { tenant: TENANT, user: user.clone(), after: None, limit: u32::MAX };
    match world.read(read) {
        ReadOutcome::List { state, read, list } => (list, state.map_or(0, |state| state.ordinal) - read),
        other => panic!("{other:?}"),
    }
}

fn unread(world: &World, user: &UserId) -> (Vec<u64>, u64) {
    let (list, all) = list(world, user);
    (list.iter().map(Listed::unread).collect(), all)
}

/// Alice with three notes to herself at 1, 4 and 6 of her inbox, a group that she made at 2, and its messages at 3 and 5.
fn two_talks() -> (World, UserId, ConversationId, ConversationId) {
    let mut world = World::new();
    let alice = user("alice");
    let (own, group) = (ConversationId::direct(alice.clone(), alice.clone()), group_near(&alice));
    world.append(with_content(message(&group, &alice, 100), Content::Create { members: vec![] }));
    let created: Vec<_> = world.messages(&group).into_iter().map(|message| message.entry).collect();
    for id in 0..5u8 {
        let to = if id.is_multiple_of(2) { &own } else { &group };
        if id == 1 {
            world.deliver(delivery(&group, &alice, None, &created));
        }
        world.append(with_local(message(to, &alice, id), &alice));
    }
    (world, alice, own, group)
}

fn read(upto: u64) -> Mark {
    Mark::Read { upto: seq(upto) }
}

#[test]
fn a_read_mark_only_rises_and_is_an_entry_of_the_readers_own_inbox() {
    let (mut world, alice, own, _) = two_talks();
    let tail = world.inbox(&alice).0.unwrap().tail;
    let (now, at) = listed(&mut world, &alice, &own, read(4));
    assert_eq!((at, now.unread(), now.read.unwrap().seq), (Some(tail), 1, seq(2)));
    let entry = world.inbox(&alice).1.pop().unwrap();
    assert_eq!((entry.entry.kind, entry.entry.seq, entry.entry.sender), (Kind::Read, seq(2), alice.clone()));
    assert_eq!((entry.conversation, entry.ordinal), (own.clone(), 5));
    // The same again, and a lower one, change nothing.
    for upto in [4, 1] {
        let rows = world.view.rows.len();
        assert_eq!(listed(&mut world, &alice, &own, read(upto)), (now.clone(), None));
        assert_eq!(world.view.rows.len(), rows);
    }
    assert_inbox_linked(&world, &alice);
    assert_eq!(world.last(&alice, &own), Some(seq(3)), "a mark comes from no conversation");
}

#[test]
#[should_panic(expected = "a map loses nothing: a later entry of a conversation counts fewer messages")]
fn a_read_mark_says_that_a_count_was_lost() {
    let (mut world, alice, own, _) = two_talks();
    listed(&mut world, &alice, &own, read(4));
    let lost = crate::Key::tenant(home(&own), TENANT, crate::Item::Last(alice.clone(), own.clone()));
    assert!(world.view.rows.remove(&lost).is_some());
    world.append(message(&own, &alice, 9));
    let said = world.messages(&own).pop().unwrap().entry;
    world.deliver(delivery(&own, &alice, None, &[said]));
    let newest = world.inbox(&alice).1.pop().unwrap().seq;
    listed(&mut world, &alice, &own, Mark::Read { upto: newest });
}

#[test]
fn an_entry_of_a_mark_is_nothing_to_read_up_to() {
    let (mut world, alice, own, _) = two_talks();
    let (at_4, _) = listed(&mut world, &alice, &own, read(4));
    // Written behind everything, about the conversation's first entry: so it said less than the mark that holds.
    let (_, muted) = listed(&mut world, &alice, &own, Mark::Mute { on: true });
    let (_, at_6) = listed(&mut world, &alice, &own, read(6));
    for mark in [muted.unwrap(), at_6.unwrap()] {
        assert_eq!(set(&mut world, write(&alice, &own, Mark::Read { upto: mark })), MarkOutcome::NotFound);
    }
    let (list, _) = list(&world, &alice);
    let now = list.into_iter().find(|listed| listed.conversation == own).unwrap();
    assert!(
        now.read.unwrap().seq > at_4.read.unwrap().seq,
        "the place in the conversation rose with the one in the inbox"
    );
    assert_eq!((now.read.unwrap().seq, now.unread()), (seq(3), 0));
}

#[test]
fn what_is_not_read_is_a_subtraction_for_each_conversation_and_for_all() {
    let (mut world, alice, own, group) = two_talks();
    assert_eq!(unread(&world, &alice), (vec![3, 2], 5));
    let entries = world.inbox(&alice).1;
    let of = |conversation: &ConversationId, nth: usize| {
        let mut counted = entries.iter().filter(|e| e.conversation == *conversation && e.entry.kind == Kind::Message);
        Mark::Read { upto: counted.nth(nth).unwrap().seq }
    };
    listed(&mut world, &alice, &own, of(&own, 0));
    assert_eq!(unread(&world, &alice), (vec![2, 2], 4));
    listed(&mut world, &alice, &group, of(&group, 1));
    assert_eq!(unread(&world, &alice), (vec![2, 0], 2));
    listed(&mut world, &alice, &own, of(&own, 2));
    assert_eq!(unread(&world, &alice), (vec![0, 0], 0));
    world.append(with_local(message(&own, &alice, 50), &alice));
    assert_eq!(unread(&world, &alice), (vec![1, 0], 1));
}

#[test]
fn a_mark_is_of_an_entry_of_its_conversation_in_its_owners_inbox() {
    let (mut world, alice, own, group) = two_talks();
    // Entry 2 is the group's, 99 is none; and bob has neither inbox nor conversation.
    for bad in [
        write(&alice, &own, read(2)),
        write(&alice, &own, read(99)),
        write(&alice, &ConversationId::direct(alice.clone(), user("bob")), read(1)),
        write(&user("bob"), &group, read(2)),
        write(&user("bob"), &group, Mark::Mute { on: true }),
    ] {
        let before = world.view.clone();
        let slot = hash::inbox_slot(TENANT, &bad.user);
        world.fence(slot);
        assert_eq!(set(&mut world, bad), MarkOutcome::NotFound);
        assert_eq!(world.view.rows.len().max(before.rows.len()), world.view.rows.len());
    }
    assert_eq!(unread(&world, &alice), (vec![3, 2], 5));
}

#[test]
fn mutes_and_archives_are_kept_and_an_entry_tells_of_each_change() {
    let (mut world, alice, own, group) = two_talks();
    let (now, at) = listed(&mut world, &alice, &own, Mark::Mute { on: true });
    assert!(now.muted && !now.archived && at.is_some());
    assert_eq!(listed(&mut world, &alice, &own, Mark::Mute { on: true }).1, None);
    assert!(listed(&mut world, &alice, &own, Mark::Archive { on: true }).0.archived);
    assert!(!listed(&mut world, &alice, &own, Mark::Mute { on: false }).0.muted);
    let kinds: Vec<_> =
        world.inbox(&alice).1.iter().map(|entry| entry.entry.kind).filter(|kind| kind.is_mark()).collect();
    assert_eq!(kinds, [Kind::Mute { on: true }, Kind::Archive { on: true }, Kind::Mute { on: false }]);
    let (list, _) = list(&world, &alice);
    assert_eq!(
        list.iter().map(|one| (&one.conversation, one.muted, one.archived)).collect::<Vec<_>>(),
        [(&own, false, true), (&group, false, false)]
    );
    assert_inbox_linked(&world, &alice);
}

#[test]
fn a_list_is_read_in_pages() {
    let (world, alice, own, group) = two_talks();
    let page = |after: Option<ConversationId>, limit| match world.read(Read::List {
        tenant: TENANT,
        user: alice.clone(),
        after,
        limit,
    }) {
        ReadOutcome::List { list, .. } => list.into_iter().map(|one| one.conversation).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(page(None, 1), vec![own.clone()]);
    assert_eq!(page(Some(own), 1), vec![group.clone()]);
    assert_eq!(page(Some(group), 1), []);
}

#[test]
fn a_mark_that_no_holder_makes_is_malformed_and_a_seq_that_does_not_fit_is_refused() {
    let (mut world, alice, own, _) = two_talks();
    let slot = hash::inbox_slot(TENANT, &alice);
    let good = write(&alice, &own, read(1));
    let elsewhere = (0..100).map(|n| user(&format!("u{n}"))).find(|u| hash::inbox_slot(TENANT, u) != slot).unwrap();
    let many = vec![good.clone(); limits::MARKS_MAX as usize + 1];
    for marks in [vec![MarkWrite { user: elsewhere, ..good.clone() }], many] {
        assert_eq!(world.rejected(slot, HolderOp::SetMarks { marks }), Reject::Malformed);
    }
    let refused = MarkWrite { place: Place::At(seq(1)), ..good };
    assert_eq!(set(&mut world, refused), MarkOutcome::SeqRefused);
    assert_eq!(unread(&world, &alice), (vec![3, 2], 5));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against counting: whatever is said and marked, in whatever order, what is not read is what lies behind the mark.
    #[test]
    fn random_marks_leave_unread_what_lies_behind_them(
        steps in proptest::collection::vec((0..2usize, any::<bool>(), 0..40u64), 1..60)
    ) {
        let alice = user("alice");
        let talks = [ConversationId::direct(alice.clone(), alice.clone()), ConversationId::direct(alice.clone(), user("bob"))];
        let mut world = World::new();
        let mut marks = [0u64; 2];
        for (id, (talk, says, upto)) in steps.into_iter().enumerate() {
            if says {
                let append = message(&talks[talk], &alice, u8::try_from(id).unwrap());
                let appended = world.append(append);
                let entry = appended.entry.unwrap();
                world.deliver(delivery(&talks[talk], &alice, appended.prev_seq, &[entry]));
            } else if let Some(upto) = Seq::new(upto) {
                let is_entry = |e: &InboxEntry| e.conversation == talks[talk] && !e.entry.kind.is_mark();
                let is_there = world.inbox(&alice).1.iter().any(|e| e.seq == upto && is_entry(e));
                let outcome = set(&mut world, write(&alice, &talks[talk], Mark::Read { upto }));
                prop_assert_eq!(matches!(outcome, MarkOutcome::Set { .. }), is_there);
                if is_there {
                    marks[talk] = marks[talk].max(upto.get());
                }
            }
            let inbox = world.inbox(&alice).1;
            let behind = |talk: usize| inbox.iter()
                .filter(|e| e.conversation == talks[talk] && e.entry.kind == Kind::Message && e.seq.get() > marks[talk])
                .count() as u64;
            let (list, all) = list(&world, &alice);
            for one in &list {
                let talk = talks.iter().position(|talk| *talk == one.conversation).unwrap();
                prop_assert_eq!(one.unread(), behind(talk));
                let marked = inbox.iter().find(|e| e.seq.get() == marks[talk]).map(|e| e.entry.seq);
                prop_assert_eq!(one.read.map(|read| read.seq), marked);
            }
            prop_assert_eq!(all, behind(0) + behind(1));
        }
        assert_inbox_linked(&world, &alice);
    }
}
