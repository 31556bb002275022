//! Device cursors.

use seriatim_proto::command::{CursorOutcome, CursorWrite};
use seriatim_proto::ids::DeviceId;

use super::*;

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

fn set(world: &mut World, user: &UserId, name: &str, cursor: u64) -> CursorOutcome {
    let write = CursorWrite { tenant: TENANT, user: user.clone(), device: device(name), cursor: seq(cursor) };
    match world.op(hash::inbox_slot(TENANT, user), HolderOp::SetCursors { cursors: vec![write] }) {
        Outcome::CursorsSet(outcomes) => outcomes[0],
        other => panic!("{other:?}"),
    }
}

fn world_with_three() -> (World, UserId) {
    let mut world = World::new();
    let near = user("alice");
    let own = ConversationId::direct(near.clone(), near.clone());
    for id in 0..3 {
        world.append(with_local(message(&own, &near, id), &near));
    }
    (world, near)
}

#[test]
fn cursors_only_rise_and_never_above_the_tail() {
    let (mut world, near) = world_with_three();
    assert_eq!(set(&mut world, &near, "phone", 3), CursorOutcome::At(seq(3)));
    assert_eq!(set(&mut world, &near, "phone", 2), CursorOutcome::At(seq(3)));
    assert_eq!(set(&mut world, &near, "phone", 5), CursorOutcome::Ahead { tail: seq(4) });
    assert_eq!(set(&mut world, &near, "phone", 4), CursorOutcome::At(seq(4)));
    assert_eq!(set(&mut world, &near, "laptop", 1), CursorOutcome::At(seq(1)));
    let expected = ReadOutcome::Cursors(vec![(device("laptop"), seq(1)), (device("phone"), seq(4))]);
    assert_eq!(world.read(Read::Cursors { tenant: TENANT, user: near }), expected);
}

#[test]
fn a_cursor_of_an_inbox_without_entries_is_at_the_start() {
    let mut world = World::new();
    assert_eq!(set(&mut world, &user("bob"), "phone", 1), CursorOutcome::At(seq(1)));
    assert_eq!(set(&mut world, &user("bob"), "phone", 2), CursorOutcome::Ahead { tail: seq(1) });
}

#[test]
fn a_user_has_at_most_so_many_devices() {
    let (mut world, near) = world_with_three();
    for i in 0..limits::DEVICES_MAX {
        assert_eq!(set(&mut world, &near, &format!("d{i}"), 1), CursorOutcome::At(seq(1)));
    }
    assert_eq!(set(&mut world, &near, "one more", 1), CursorOutcome::DevicesFull);
    assert_eq!(set(&mut world, &near, "d0", 2), CursorOutcome::At(seq(2)));
}

#[test]
fn a_cursor_of_another_slot_is_malformed() {
    let mut world = World::new();
    let slot = SlotId(hash::inbox_slot(TENANT, &user("bob")).0 ^ 1);
    let write = CursorWrite { tenant: TENANT, user: user("bob"), device: device("d"), cursor: seq(1) };
    assert_eq!(world.rejected(slot, HolderOp::SetCursors { cursors: vec![write] }), Reject::Malformed);
}
