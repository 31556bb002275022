//! Groups: creation, joining, leaving, rejoining.

use seriatim_proto::command::{DeliveryRecord, Kind};
use seriatim_proto::store::Stay;

use super::*;

fn owned(users: &[&UserId]) -> Vec<UserId> {
    users.iter().copied().cloned().collect()
}

fn create(group: &ConversationId, sender: &UserId, members: &[&UserId]) -> Append {
    with_content(message(group, sender, 100), Content::Create { members: owned(members) })
}

fn change(group: &ConversationId, sender: &UserId, id: u8, add: &[&UserId], remove: &[&UserId]) -> Append {
    with_content(message(group, sender, id), Content::Members { add: owned(add), remove: owned(remove) })
}

fn stays(world: &World, group: &ConversationId, user: &UserId) -> Vec<(Seq, Option<Seq>)> {
    let stays = world.conversation(group).unwrap().stays;
    stays.into_iter().filter(|stay| stay.user == *user).map(|stay| (stay.joined, stay.left)).collect()
}

#[test]
fn a_group_must_be_created_and_is_created_once() {
    let mut world = World::new();
    let (a, b) = (user("alice"), user("bob"));
    let group = group_near(&a);
    assert_eq!(world.append_rejected(message(&group, &a, 1)), Reject::NotFound);
    assert_eq!(world.append_rejected(change(&group, &a, 1, &[&b], &[])), Reject::NotFound);
    let appended = world.append(create(&group, &a, &[&b, &b, &a]));
    assert_eq!(appended.entry.unwrap().kind, Kind::Create);
    let mut expected: Vec<_> = [&a, &b]
        .map(|user| Stay { slot: hash::inbox_slot(TENANT, user), user: user.clone(), joined: seq(1), left: None })
        .to_vec();
    expected.sort();
    assert_eq!(world.conversation(&group).unwrap().stays, expected, "each member once, by target slot");
    let mut again = create(&group, &a, &[&b]);
    assert_eq!(world.append_rejected(again.clone()), Reject::Conflict);
    again.message_id = message_id(101);
    assert_eq!(world.append_rejected(again), Reject::AlreadyExists);
    assert!(world.append(create(&group, &a, &[&b, &b, &a])).duplicate);
    world.append(message(&group, &b, 1));
    assert_conversation_linked(&world, &group);
}

/// The shell has such a replica rebuilt; the map of these tests, which loses nothing, panics.
#[test]
#[should_panic(expected = "a map loses nothing")]
fn who_leaves_uncounted_says_that_a_row_was_lost() {
    let mut world = World::new();
    let (a, b) = (user("alice"), user("bob"));
    let group = group_near(&a);
    world.append(create(&group, &a, &[&b]));
    for row in world.view.rows.values_mut() {
        if let crate::Row::Conversation(row) = row {
            (row.members_here, row.members_elsewhere) = (0, 0);
        }
    }
    world.append(change(&group, &b, 1, &[], &[&b]));
}

#[test]
fn only_members_write_to_a_group_or_change_it() {
    let mut world = World::new();
    let (a, b, eve) = (user("alice"), user("bob"), user("eve"));
    let group = group_near(&a);
    world.append(create(&group, &a, &[&b]));
    assert_eq!(world.append_rejected(message(&group, &eve, 1)), Reject::NotFound);
    assert_eq!(world.append_rejected(change(&group, &eve, 1, &[&eve], &[])), Reject::NotFound);
    world.append(change(&group, &b, 1, &[], &[&b]));
    assert_eq!(world.append_rejected(message(&group, &b, 2)), Reject::NotFound);
    assert!(world.append(change(&group, &b, 1, &[], &[&b])).duplicate, "dedupe comes before membership");
}

#[test]
fn direct_conversations_have_no_membership_commands() {
    let mut world = World::new();
    let (conversation, near, far) = pair();
    assert_eq!(world.append_rejected(create(&conversation, &near, &[&far])), Reject::NotFound);
    world.append(message(&conversation, &near, 1));
    assert_eq!(world.append_rejected(change(&conversation, &near, 2, &[&user("eve")], &[])), Reject::NotFound);
}

#[test]
fn adding_a_member_and_removing_a_stranger_change_nobody() {
    let mut world = World::new();
    let (a, b, eve) = (user("alice"), user("bob"), user("eve"));
    let group = group_near(&a);
    world.append(create(&group, &a, &[&b]));
    let before = world.conversation(&group).unwrap().stays;
    let appended = world.append(change(&group, &a, 1, &[&b], &[&eve]));
    assert_eq!(appended.entry.unwrap().kind, Kind::Members);
    assert_eq!(world.conversation(&group).unwrap().stays, before);
    assert_eq!(world.conversation(&group).unwrap().namespace.ordinal, 0, "only messages count");
}

#[test]
fn the_joining_and_the_leaving_entry_belong_to_the_stay() {
    let mut world = World::new();
    let (a, b) = (user("alice"), user("bob"));
    let group = group_near(&a);
    world.append(with_local(create(&group, &b, &[]), &a));
    assert_eq!(world.inbox(&a).1.len(), 0);
    let joined = world.append(with_local(change(&group, &b, 1, &[&a], &[]), &a));
    assert!(joined.local[0].written.is_some());
    assert!(world.append(with_local(message(&group, &b, 2), &a)).local[0].written.is_some());
    let left = world.append(with_local(change(&group, &a, 3, &[], &[&a]), &a));
    assert!(left.local[0].written.is_some());
    assert!(world.append(with_local(message(&group, &b, 4), &a)).local[0].written.is_none());
    assert_eq!(stays(&world, &group, &a), vec![(seq(2), Some(seq(4)))]);
    let seqs: Vec<_> = world.inbox(&a).1.iter().map(|entry| entry.entry.seq).collect();
    assert_eq!(seqs, vec![seq(2), seq(3), seq(4)]);
    assert_inbox_linked(&world, &a);
}

#[test]
fn who_rejoins_is_owed_nothing_of_the_time_between() {
    let mut world = World::new();
    let (a, b) = (user("alice"), user("bob"));
    let group = group_near(&a);
    world.append(with_local(create(&group, &b, &[&a]), &a));
    world.append(with_local(change(&group, &b, 1, &[], &[&a]), &a));
    world.append(message(&group, &b, 2));
    let joined = world.append(with_local(change(&group, &b, 3, &[&a], &[]), &a));
    assert!(joined.local[0].written.is_some(), "his inbox has all of his earlier stay");
    assert_eq!(stays(&world, &group, &a), vec![(seq(1), Some(seq(2))), (seq(4), None)]);
    let seqs: Vec<_> = world.inbox(&a).1.iter().map(|entry| entry.entry.seq).collect();
    assert_eq!(seqs, vec![seq(1), seq(2), seq(4)]);
}

#[test]
fn who_rejoins_with_an_inbox_that_is_behind_waits_for_deliveries() {
    let mut world = World::new();
    let (a, b) = (user("alice"), user("bob"));
    let group = group_near(&a);
    world.append(create(&group, &b, &[&a]));
    world.append(change(&group, &b, 1, &[], &[&a]));
    let joined = world.append(with_local(change(&group, &b, 3, &[&a], &[]), &a));
    assert_eq!(joined.local[0].written, None);
}

#[test]
fn a_stay_is_forgotten_once_every_cursor_has_passed_it() {
    let mut world = World::new();
    let (a, b) = (user("alice"), user("bob"));
    let group = group_near(&a);
    world.append(create(&group, &b, &[&a]));
    world.append(change(&group, &b, 1, &[], &[&a]));
    let rejoin = |record: DeliveryRecord| {
        let mut world = world.clone();
        let mut append = change(&group, &b, 2, &[&a], &[]);
        append.delivered = Some(record);
        world.append(append);
        stays(&world, &group, &a)
    };
    let (first, second) = ((seq(1), Some(seq(2))), (seq(3), None));
    assert_eq!(rejoin(DeliveryRecord { all: Some(seq(1)), behind: vec![] }), vec![first, second]);
    let behind = vec![(SlotId(5), Some(seq(1)))];
    assert_eq!(rejoin(DeliveryRecord { all: Some(seq(2)), behind }), vec![first, second]);
    assert_eq!(rejoin(DeliveryRecord { all: Some(seq(2)), behind: vec![] }), vec![second]);
}

#[test]
fn a_user_in_both_lists_changes_sides() {
    let mut world = World::new();
    let (a, b, c) = (user("alice"), user("bob"), user("carol"));
    let group = group_near(&a);
    world.append(create(&group, &a, &[&b]));
    world.append(change(&group, &a, 1, &[&b, &c], &[&b, &c]));
    assert_eq!(stays(&world, &group, &b), vec![(seq(1), Some(seq(2)))]);
    assert_eq!(stays(&world, &group, &c), vec![(seq(2), None)]);
}

#[test]
fn a_group_is_pending_unless_everybody_got_the_entry_here() {
    let mut world = World::new();
    let (a, b) = (user("alice"), user("bob"));
    let group = group_near(&a);
    world.append(with_local(create(&group, &a, &[]), &a));
    assert_eq!(world.pending(home(&group)), vec![]);
    world.append(with_local(change(&group, &a, 1, &[&b], &[]), &a));
    assert_eq!(world.pending(home(&group)), vec![group]);
}

#[test]
fn a_group_has_at_most_so_many_members() {
    let mut world = World::new();
    let a = user("alice");
    let group = group_near(&a);
    let users: Vec<_> = (0..limits::INLINE_MEMBERS_MAX).map(|i| user(&format!("u{i}"))).collect();
    let many: Vec<_> = users.iter().collect();
    assert_eq!(world.append_rejected(create(&group, &a, &many)), Reject::MembersTooMany);
    world.append(create(&group, &a, &many[1..]));
    assert_eq!(world.append_rejected(change(&group, &a, 1, &many[..1], &[])), Reject::MembersTooMany);
    world.append(change(&group, &a, 1, &many[..1], &many[1..2]));
    assert_eq!(world.conversation(&group).unwrap().stays.iter().filter(|stay| stay.left.is_none()).count(), 500);
}
