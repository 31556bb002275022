//! Cancels: one verdict for each message id.

use seriatim_proto::command::CancelSend;

use super::*;
use crate::row::DedupeRow;
use crate::{Key, Row};

fn cancel(conversation: &ConversationId, sender: &UserId, id: u8) -> CancelSend {
    CancelSend {
        tenant: TENANT,
        conversation: conversation.clone(),
        sender: sender.clone(),
        message_id: message_id(id),
        known: None,
    }
}

fn settled(world: &mut World, cancel: CancelSend) -> Option<Seq> {
    match world.op(home(&cancel.conversation), HolderOp::CancelSend(cancel)) {
        Outcome::SendSettled(seq) => seq,
        other => panic!("{other:?}"),
    }
}

fn rejected(world: &mut World, cancel: CancelSend) -> Reject {
    world.rejected(home(&cancel.conversation), HolderOp::CancelSend(cancel))
}

fn dedupe(world: &World, conversation: &ConversationId, sender: &UserId, id: u8) -> ReadOutcome {
    let (conversation, sender) = (conversation.clone(), sender.clone());
    world.read(Read::Dedupe { tenant: TENANT, conversation, sender, message_id: message_id(id) })
}

#[test]
fn a_cancelled_message_is_never_appended_whatever_its_body() {
    let mut world = World::new();
    let (conversation, near, far) = pair();
    world.append(message(&conversation, &near, 1));
    assert_eq!(settled(&mut world, cancel(&conversation, &near, 2)), None);
    assert_eq!(world.append_rejected(message(&conversation, &near, 2)), Reject::Cancelled);
    let other = Content::Message { salt: Bytes::new(), body: Bytes::from_static(b"other") };
    assert_eq!(world.append_rejected(with_content(message(&conversation, &near, 2), other)), Reject::Cancelled);
    assert_eq!(dedupe(&world, &conversation, &near, 2), ReadOutcome::Cancelled);
    // Again, it is the same verdict; and the id is the sender's own.
    assert_eq!(settled(&mut world, cancel(&conversation, &near, 2)), None);
    assert_eq!(world.append(message(&conversation, &far, 2)).seq, seq(2));
    assert_eq!(world.messages(&conversation).len(), 2);
    assert_conversation_linked(&world, &conversation);
}

#[test]
fn a_cancel_that_comes_too_late_says_where_the_message_is_and_changes_nothing() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    world.append(message(&conversation, &near, 1));
    let before = world.view.rows.len();
    assert_eq!(settled(&mut world, cancel(&conversation, &near, 1)), Some(seq(1)));
    assert_eq!(world.view.rows.len(), before);
    assert_eq!(dedupe(&world, &conversation, &near, 1), ReadOutcome::Dedupe(Some(seq(1))));
    assert!(world.append(message(&conversation, &near, 1)).duplicate);
}

#[test]
fn a_message_may_follow_a_cancelled_one() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let mut second = message(&conversation, &near, 2);
    second.follows = Some(message_id(1));
    assert_eq!(world.append_rejected(second.clone()), Reject::OutOfOrder);
    assert_eq!(settled(&mut world, cancel(&conversation, &near, 1)), None);
    assert_eq!(world.append(second).seq, seq(1));
}

#[test]
fn a_conversation_that_is_not_there_yet_is_not_made_by_a_cancel() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    assert_eq!(settled(&mut world, cancel(&conversation, &near, 1)), None);
    assert_eq!(world.conversation(&conversation), None);
    let item = crate::Item::Dedupe(conversation.clone(), near.clone(), message_id(1));
    let row = world.view.rows.get(&Key::tenant(home(&conversation), TENANT, item));
    assert_eq!(row, Some(&Row::Dedupe(DedupeRow::Cancelled { place: seq(1) })));
    assert_eq!(world.append_rejected(message(&conversation, &near, 1)), Reject::Cancelled);
}

#[test]
fn strangers_settle_nothing_and_former_members_what_they_sent() {
    let mut world = World::new();
    let (conversation, ..) = pair();
    assert_eq!(rejected(&mut world, cancel(&conversation, &user("eve"), 1)), Reject::NotFound);
    let (alice, bob) = (user("alice"), user("bob"));
    let group = group_near(&alice);
    assert_eq!(rejected(&mut world, cancel(&group, &alice, 1)), Reject::NotFound, "no such group yet");
    let create = Content::Create { members: vec![bob.clone()] };
    world.append(with_content(message(&group, &alice, 1), create));
    assert_eq!(rejected(&mut world, cancel(&group, &user("eve"), 2)), Reject::NotFound);
    let leave = Content::Members { add: vec![], remove: vec![bob.clone()] };
    world.append(with_content(message(&group, &alice, 2), leave));
    assert_eq!(settled(&mut world, cancel(&group, &bob, 3)), None);
    assert_eq!(dedupe(&world, &group, &bob, 3), ReadOutcome::Cancelled);
}

#[test]
fn a_tombstone_outlives_every_attempt_that_is_not_expired() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    world.append(message(&conversation, &near, 1));
    // A device that knows more than there is: its cluster was restored from a backup.
    assert_eq!(settled(&mut world, CancelSend { known: Seq::new(9), ..cancel(&conversation, &near, 2) }), None);
    let item = crate::Item::Dedupe(conversation.clone(), near, message_id(2));
    let row = world.view.rows.get(&Key::tenant(home(&conversation), TENANT, item));
    assert_eq!(row, Some(&Row::Dedupe(DedupeRow::Cancelled { place: seq(9) })));
}

#[test]
fn what_is_expired_is_not_settled_and_strangers_do_not_learn_of_it() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    world.append(message(&conversation, &near, 1));
    let key =
        Key::namespace(home(&conversation), seriatim_proto::ids::Namespace::conversation(TENANT, conversation.clone()));
    let Some(Row::Conversation(row)) = world.view.rows.get_mut(&key) else { panic!() };
    row.namespace.trim = seq(2);
    assert_eq!(rejected(&mut world, cancel(&conversation, &near, 2)), Reject::Expired);
    assert_eq!(rejected(&mut world, cancel(&conversation, &user("eve"), 2)), Reject::NotFound);
    assert_eq!(settled(&mut world, CancelSend { known: Seq::new(2), ..cancel(&conversation, &near, 2) }), None);
}

#[test]
fn a_cancel_in_the_wrong_slot_is_malformed() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let slot = SlotId((home(&conversation).0 + 1) % limits::SLOTS);
    assert_eq!(world.rejected(slot, HolderOp::CancelSend(cancel(&conversation, &near, 1))), Reject::Malformed);
}
