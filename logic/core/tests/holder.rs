//! The holder against the real apply, one claim per test.

mod world;

use seriatim_logic_core::{Event, SourceId};
use seriatim_proto::codec;
use seriatim_proto::command::{Act, Command, Content, DeliveryOutcome, HolderOp, Kind, Mark, Outcome, Reject};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::hash;
use seriatim_proto::ids::*;
use seriatim_proto::limits;
use seriatim_proto::logic::{CallError, Reply, SendState};
use seriatim_proto::store::{Read, ReadOutcome};
use world::*;

fn direct(a: &str, b: &str) -> ConversationId {
    ConversationId::direct(user(a), user(b))
}
fn seqs(world: &World, conversation: &ConversationId) -> Vec<Seq> {
    world.log(conversation).iter().map(|message| message.entry.seq).collect()
}
/// A pair whose inboxes live in different slots.
fn slot_of(name: &str) -> SlotId {
    hash::inbox_slot(TENANT, &user(name))
}
fn with_slots(world: &mut World, names: &[&str]) {
    for name in names {
        world.claim(slot_of(name));
    }
}

#[test]
fn a_message_is_committed_and_in_both_inboxes_once() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    let requests: Vec<_> =
        (0..20).map(|id| world.send(send("alice", &conversation, id, message(&format!("m{id}"))))).collect();
    world.run(3_000);
    let log = seqs(&world, &conversation);
    assert_eq!(requests.iter().map(|request| world.committed(*request).unwrap()).collect::<Vec<_>>(), log);
    assert_eq!(log.len(), 20);
    world.assert_inbox("alice", &conversation, &log);
    world.assert_inbox("bob", &conversation, &log);
    assert!(!world.is_pending(&conversation), "an idle conversation leaves the pending table");
}

/// Found by a replay at 1,000 messages a second: slots went back to a node that had been killed, deliveries reached
/// their holder in the same turn as the outcome of its release, nobody answered them, and their conversations were
/// never delivered to that slot again.
#[test]
fn what_arrives_in_the_turn_that_ends_a_holder_is_answered() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let group = ConversationId::Group(ConversationKey([7; 16]));
    let home = hash::conversation_slot(TENANT, &group);
    assert!(home != slot_of("alice") && home != slot_of("bob"));
    let members = vec![user("alice"), user("bob")];
    world.send(send("alice", &group, 0, Content::Create { members }));
    world.run(200);

    let slot = slot_of("bob");
    world.handle(slot, Event::Release { heir: None });
    let mut delivery = None;
    for _ in 0..20 {
        for wire in std::mem::take(&mut world.wires) {
            match wire {
                // Its answer ends the holder.
                Wire::Outcome { slot: of, n, outcome: Ok(outcome), .. }
                    if of == slot && outcome == Outcome::Released =>
                {
                    let request = world.request();
                    let conversation = direct("bob", "bob");
                    let late = send("bob", &conversation, 9, message("late"));
                    let source = SourceId { stream: 0, request: 77, index: 0 };
                    world.begin_turn();
                    world.handle(slot, Event::Outcome { n, outcome });
                    world.handle(slot, Event::Send { request, send: late });
                    world.handle(slot, Event::Deliver { source, deliveries: Vec::new(), bodies: Vec::new() });
                    world.end_turn();
                    delivery = Some(request);
                }
                wire => world.step(wire, Fate::Arrives),
            }
        }
        world.advance(100);
    }
    let request = delivery.expect("the holder was released");
    assert_eq!(world.ended, [(slot, true)]);
    assert!(matches!(world.replies[&request], Err(CallError::NotHolder { .. })));
    assert!(world.answers.contains(&77), "the delivery is answered: its source sends it again");

    // And the conversation goes on once somebody has the slot.
    world.claim(slot);
    let last = world.send(send("alice", &group, 1, message("hi")));
    world.run(2_000);
    let last = world.committed(last).unwrap();
    assert_eq!(world.inbox("bob").last().unwrap().entry.seq, last);
}

#[test]
fn a_retry_joins_the_pending_send_of_the_same_id() {
    let mut world = World::new();
    let conversation = direct("alice", "bob");
    let first = world.send(send("alice", &conversation, 1, message("hi")));
    let second = world.send(send("alice", &conversation, 1, message("hi")));
    assert_eq!(world.proposed.len(), 1);
    world.run(100);
    assert_eq!(world.committed(first), world.committed(second));
    let third = world.send(send("alice", &conversation, 1, message("hi")));
    world.run(100);
    assert!(matches!(world.replies[&third], Ok(Reply::Committed { duplicate: true, .. })));
    assert_eq!(seqs(&world, &conversation).len(), 1);
}

#[test]
fn another_body_under_a_pending_id_is_a_conflict() {
    let mut world = World::new();
    let conversation = direct("alice", "bob");
    let first = world.send(send("alice", &conversation, 1, message("hi")));
    let second = world.send(send("alice", &conversation, 1, message("ho")));
    world.run(100);
    assert!(world.committed(first).is_some());
    assert!(matches!(&world.replies[&second], Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::Conflict));
}

#[test]
fn a_stranger_cannot_write_and_takes_no_seq_from_others() {
    let mut world = World::new();
    let conversation = direct("alice", "bob");
    let stranger = world.send(send("mallory", &conversation, 1, message("hi")));
    let alice = world.send(send("alice", &conversation, 2, message("hi")));
    world.run(100);
    assert!(
        matches!(&world.replies[&stranger], Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::NotFound)
    );
    assert!(world.committed(alice).is_some());
}

#[test]
fn commands_are_resent_byte_for_byte_from_the_first_unanswered_n() {
    let mut world = World::new();
    let conversation = direct("alice", "bob");
    let slot = hash::conversation_slot(TENANT, &conversation);
    world.send(send("alice", &conversation, 0, message("warm")));
    world.run(100);
    let requests: Vec<_> = (1..4).map(|id| world.send(send("alice", &conversation, id, message("x")))).collect();
    let before: Vec<_> = world.proposed.iter().filter(|(of, ..)| *of == slot).cloned().collect();
    // The leader is lost with all three.
    for wire in std::mem::take(&mut world.wires) {
        world.step(wire, Fate::Lost);
    }
    let count = world.proposed.len();
    world.run(500);
    let after: Vec<_> = world.proposed[count..].iter().filter(|(of, ..)| *of == slot).cloned().collect();
    assert_eq!(after[..3], before[before.len() - 3..]);
    assert!(requests.iter().all(|request| world.committed(*request).is_some()));
}

#[test]
fn passed_is_settled_by_reading() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    world.send(send("alice", &conversation, 0, message("warm")));
    world.run(100);
    let committed = world.send(send("alice", &conversation, 1, message("x")));
    let conflict = world.send(send("alice", &conversation, 0, message("other")));
    let refused = world.send(send("mallory", &conversation, 2, message("x")));
    for wire in std::mem::take(&mut world.wires) {
        world.step(wire, Fate::AnswerLost);
    }
    let later = world.send(send("alice", &conversation, 3, message("y")));
    world.run(5_000);
    let log = seqs(&world, &conversation);
    assert_eq!(log.len(), 3);
    assert_eq!(world.committed(committed), Some(log[1]));
    assert!(
        matches!(&world.replies[&conflict], Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::Conflict)
    );
    assert!(
        matches!(&world.replies[&refused], Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::Unavailable)
    );
    assert_eq!(world.committed(later), Some(log[2]));
    world.assert_inbox("alice", &conversation, &log);
    world.assert_inbox("bob", &conversation, &log);
    assert!(!world.is_pending(&conversation));
}

fn refused_with(world: &World, request: seriatim_logic_core::RequestId) -> Option<ErrorCode> {
    match world.replies.get(&request) {
        Some(Err(CallError::Refused(refusal))) => Some(refusal.code),
        _ => None,
    }
}

#[test]
fn a_cancel_settles_a_send_that_has_no_n_yet_and_comes_too_late_for_one_that_has() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    let (numbered, waiting) =
        (send("alice", &conversation, 1, message("x")), send("alice", &conversation, 2, message("y")));
    let committed = world.send(numbered.clone());
    // Behind the open append of the first one.
    let refused = world.send(waiting.clone());
    let (late, in_time) = (world.cancel(&numbered), world.cancel(&waiting));
    world.run(1_000);
    let log = seqs(&world, &conversation);
    assert_eq!(log.len(), 1);
    assert_eq!(world.committed(committed), Some(log[0]));
    assert_eq!(world.settled(late), Some(SendState::Committed(log[0])));
    assert_eq!(world.settled(in_time), Some(SendState::Cancelled));
    assert_eq!(refused_with(&world, refused), Some(ErrorCode::Cancelled));
    // For ever: also for another attempt, and under another holder.
    world.crash_all();
    with_slots(&mut world, &["alice", "bob"]);
    let (again, asked_again) = (world.send(waiting.clone()), world.cancel(&waiting));
    world.run(1_000);
    assert_eq!(refused_with(&world, again), Some(ErrorCode::Cancelled));
    assert_eq!(world.settled(asked_again), Some(SendState::Cancelled));
    world.assert_inbox("bob", &conversation, &log);
}

#[test]
fn a_stranger_cancels_nothing() {
    let mut world = World::new();
    let conversation = direct("alice", "bob");
    let request = world.cancel(&send("mallory", &conversation, 1, message("x")));
    world.run(1_000);
    assert_eq!(refused_with(&world, request), Some(ErrorCode::NotFound));
}

#[test]
fn many_cancels_leave_room_for_sends() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    world.send(send("alice", &conversation, 0, message("warm")));
    world.run(1_000);
    world.begin_turn();
    let cancels: Vec<_> = (1..=255).map(|id| world.cancel(&send("alice", &conversation, id, message("x")))).collect();
    let committed = world.send(send("bob", &conversation, 0, message("goes on")));
    world.end_turn();
    let proposed: Vec<&[u8]> = world
        .wires
        .iter()
        .filter_map(|wire| match wire {
            Wire::Propose { command, .. } => Some(&command[..]),
            _ => None,
        })
        .collect();
    let commands: Vec<Command> = codec::decode(&codec::join(proposed.into_iter())).unwrap();
    let count = |is: fn(&HolderOp) -> bool| {
        commands.iter().filter(|command| matches!(command, Command::Held { op, .. } if is(op))).count()
    };
    assert_eq!(count(|op| matches!(op, HolderOp::CancelSend(_))), world.limits.in_flight_max / 8);
    assert_eq!(count(|op| matches!(op, HolderOp::Append(_))), 1, "the send has an n");
    world.run(1_000);
    assert!(cancels.iter().all(|cancel| world.settled(*cancel) == Some(SendState::Cancelled)));
    assert!(world.committed(committed).is_some());
}

#[test]
fn a_cancel_whose_outcome_is_lost_or_whose_holder_ends_is_answered() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    let slot = hash::conversation_slot(TENANT, &conversation);
    world.send(send("alice", &conversation, 0, message("warm")));
    world.run(100);
    let lost = world.cancel(&send("alice", &conversation, 1, message("x")));
    for wire in std::mem::take(&mut world.wires) {
        world.step(wire, Fate::AnswerLost);
    }
    world.run(5_000);
    assert_eq!(refused_with(&world, lost), Some(ErrorCode::Unavailable), "it may be asked again");
    let again = world.cancel(&send("alice", &conversation, 1, message("x")));
    world.run(1_000);
    assert_eq!(world.settled(again), Some(SendState::Cancelled));

    let flying = world.cancel(&send("alice", &conversation, 2, message("x")));
    world.handle(slot, Event::LeaseGone);
    assert_eq!(refused_with(&world, flying), Some(ErrorCode::Unavailable));
    world.crash_all();
    with_slots(&mut world, &["alice", "bob"]);
    world.run(1_000);
    let waits = world.cancel(&send("alice", &conversation, 3, message("x")));
    world.handle(slot, Event::Release { heir: None });
    let late = world.cancel(&send("alice", &conversation, 4, message("x")));
    world.run(1_000);
    assert_eq!(world.settled(waits), Some(SendState::Cancelled), "it had an n");
    assert!(matches!(world.replies[&late], Err(CallError::NotHolder { .. })));
}

#[test]
fn fenced_ends_the_holder_and_leaves_the_outcome_open() {
    let mut world = World::new();
    let conversation = direct("alice", "bob");
    let slot = hash::conversation_slot(TENANT, &conversation);
    let request = world.send(send("alice", &conversation, 1, message("x")));
    world.handle(slot, Event::Outcome { n: 0, outcome: Outcome::Rejected(Reject::Fenced { current: Epoch(9) }) });
    assert_eq!(world.ended, [(slot, false)]);
    assert!(
        matches!(&world.replies[&request], Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::Unavailable)
    );
}

#[test]
fn a_takeover_resumes_pending_deliveries() {
    let mut world = World::new();
    let conversation = direct("alice", "bob");
    let home = hash::conversation_slot(TENANT, &conversation);
    // The other slot has no holder, so nothing gets there.
    for id in 0..5 {
        world.send(send("alice", &conversation, id, message("x")));
    }
    world.run(200);
    assert!(world.is_pending(&conversation));
    world.crash_all();
    with_slots(&mut world, &["alice", "bob"]);
    world.run(5_000);
    let log = seqs(&world, &conversation);
    assert_eq!(log.len(), 5);
    world.assert_inbox("alice", &conversation, &log);
    world.assert_inbox("bob", &conversation, &log);
    assert!(!world.is_pending(&conversation));
    assert!(world.holders.contains_key(&home));
}

#[test]
fn a_dead_target_slot_holds_up_nobody_else() {
    let mut world = World::new();
    let conversation = ConversationId::Group(ConversationKey([7; 16]));
    let names = ["alice", "bob", "carol", "dave"];
    with_slots(&mut world, &["alice", "bob", "carol"]);
    let members = names.iter().map(|name| user(name)).collect();
    world.send(send("alice", &conversation, 0, Content::Create { members }));
    for id in 1..10 {
        world.send(send("alice", &conversation, id, message("x")));
    }
    world.run(1_000);
    let log = seqs(&world, &conversation);
    assert_eq!(log.len(), 10);
    for name in &names[..3] {
        world.assert_inbox(name, &conversation, &log);
    }
    assert!(world.inbox("dave").is_empty());
    with_slots(&mut world, &["dave"]);
    world.run(3_000);
    world.assert_inbox("dave", &conversation, &log);
    assert!(!world.is_pending(&conversation));
}

#[test]
fn members_get_the_entries_of_their_stays_and_no_others() {
    let mut world = World::new();
    let conversation = ConversationId::Group(ConversationKey([8; 16]));
    with_slots(&mut world, &["alice", "bob", "carol"]);
    let change = |add: &[&str], remove: &[&str]| Content::Members {
        add: add.iter().map(|name| user(name)).collect(),
        remove: remove.iter().map(|name| user(name)).collect(),
    };
    world.send(send("alice", &conversation, 0, Content::Create { members: vec![user("bob")] }));
    world.send(send("alice", &conversation, 1, message("1")));
    world.send(send("alice", &conversation, 2, change(&["carol"], &["bob"])));
    world.send(send("alice", &conversation, 3, message("3")));
    world.send(send("alice", &conversation, 4, change(&["bob"], &[])));
    world.send(send("alice", &conversation, 5, message("5")));
    world.run(3_000);
    let log = seqs(&world, &conversation);
    world.assert_inbox("alice", &conversation, &log);
    world.assert_inbox("bob", &conversation, &[log[0], log[1], log[2], log[4], log[5]]);
    world.assert_inbox("carol", &conversation, &log[2..]);
}

#[test]
fn who_left_hears_of_no_place_behind_his_stay() {
    let mut world = World::new();
    let group = ConversationId::Group(ConversationKey([8; 16]));
    with_slots(&mut world, &["alice"]);
    assert_ne!(slot_of("alice"), slot_of("bob"));
    let change = |add: &[&str], remove: &[&str]| Content::Members {
        add: add.iter().map(|name| user(name)).collect(),
        remove: remove.iter().map(|name| user(name)).collect(),
    };
    world.send(send("alice", &group, 0, Content::Create { members: vec![user("bob")] }));
    let left = world.send(send("alice", &group, 1, change(&[], &["bob"])));
    for id in 2..5 {
        world.send(send("alice", &group, id, message("without bob")));
    }
    // One range brings all of it to his slot.
    world.run(500);
    world.claim(slot_of("bob"));
    world.run(3_000);
    let list = Read::List { tenant: TENANT, user: user("bob"), after: None, limit: 10 };
    let listed = |world: &World| match world.read(&list) {
        ReadOutcome::List { list, .. } => list[0].last,
        other => panic!("{other:?}"),
    };
    assert_eq!(Some(listed(&world)), world.committed(left));
    // He comes back: his range begins where that one ended.
    world.send(send("alice", &group, 5, change(&["bob"], &[])));
    let last = world.send(send("alice", &group, 6, message("with bob")));
    world.run(3_000);
    assert_eq!(Some(listed(&world)), world.committed(last));
    let log = seqs(&world, &group);
    world.assert_inbox("bob", &group, &[log[0], log[1], log[5], log[6]]);
    assert!(!world.is_pending(&group));
}

#[test]
fn what_memory_no_longer_has_is_read_again() {
    let mut world = World::new();
    world.limits.recent_bytes_max = 400;
    let conversation = direct("alice", "bob");
    for id in 0..50 {
        world.send(send("alice", &conversation, id, message("some text")));
    }
    world.run(500);
    with_slots(&mut world, &["alice", "bob"]);
    world.run(3_000);
    let log = seqs(&world, &conversation);
    assert_eq!(log.len(), 50);
    world.assert_inbox("alice", &conversation, &log);
    world.assert_inbox("bob", &conversation, &log);
}

#[test]
fn too_much_undelivered_is_backlogged_before_numbering_only_while_the_target_answers() {
    let mut world = World::new();
    world.limits.undelivered_max = 3;
    let conversation = direct("alice", "bob");
    // Nobody answers for the other slot: no limit.
    for id in 0..10 {
        world.send(send("alice", &conversation, id, message("x")));
    }
    world.run(100);
    assert_eq!(seqs(&world, &conversation).len(), 10);
    with_slots(&mut world, &["alice", "bob"]);
    world.run(1_000);
    // It has answered; what comes now is held back, so it counts.
    let requests: Vec<_> = (10..20)
        .map(|id| {
            let request = world.send(send("alice", &conversation, id, message("x")));
            let (held, rest): (Vec<_>, Vec<_>) =
                std::mem::take(&mut world.wires).into_iter().partition(|wire| matches!(wire, Wire::Deliver { .. }));
            world.wires = held;
            for wire in rest {
                world.step(wire, Fate::Arrives);
            }
            while let Some(place) = world.wires.iter().position(|wire| !matches!(wire, Wire::Deliver { .. })) {
                let wire = world.wires.remove(place);
                world.step(wire, Fate::Arrives);
            }
            request
        })
        .collect();
    let refused = requests.iter().filter(|request| matches!(world.replies.get(request), Some(Err(CallError::Refused(refusal))) if refusal.code == ErrorCode::Backlogged)).count();
    assert!(refused > 0);
    world.run(3_000);
    let log = seqs(&world, &conversation);
    assert_eq!(log.len(), 20 - refused);
    world.assert_inbox("bob", &conversation, &log);
}

#[test]
fn a_registration_never_leaves_a_gap() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    world.send(send("alice", &conversation, 0, message("before")));
    world.run(200);
    let session = seriatim_logic_core::SessionKey { stream: 1, session: 5 };
    let request = world.request();
    world.handle(
        slot_of("bob"),
        Event::Register { request, session, tenant: TENANT, user: user("bob"), position: Seq::FIRST },
    );
    for id in 1..30 {
        world.send(send("alice", &conversation, id, message("during")));
        if id % 3 == 0 && !world.wires.is_empty() {
            let wire = world.wires.remove(0);
            world.step(wire, Fate::Arrives);
        }
    }
    world.run(1_000);
    let tail = world.registered[&request].clone().unwrap();
    let pushed: Vec<Seq> = world
        .pushes
        .iter()
        .filter(|(sessions, _)| sessions.contains(&session))
        .flat_map(|(_, entries)| entries.iter().map(|entry| entry.seq))
        .collect();
    let owed: Vec<Seq> = world.inbox("bob").into_iter().map(|entry| entry.seq).filter(|seq| *seq >= tail).collect();
    assert!(!owed.is_empty());
    assert_eq!(pushed.into_iter().filter(|seq| *seq >= tail).collect::<Vec<_>>(), owed);
    // A device that did not get what lies below the tail is told so.
    world.handle(slot_of("bob"), Event::Renew { session, tenant: TENANT, user: user("bob"), position: Seq::FIRST });
    assert_eq!(world.lagging.last().unwrap().0, session);
    // One that is not registered is told that.
    let other = seriatim_logic_core::SessionKey { stream: 1, session: 6 };
    world.handle(
        slot_of("bob"),
        Event::Renew { session: other, tenant: TENANT, user: user("bob"), position: Seq::FIRST },
    );
    assert_eq!(world.unregistered, [other]);
}

#[test]
fn lost_outcomes_of_deliveries_make_registered_devices_lag() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    let target = if hash::conversation_slot(TENANT, &conversation) == slot_of("bob") { "alice" } else { "bob" };
    let session = seriatim_logic_core::SessionKey { stream: 1, session: 5 };
    let request = world.request();
    world.handle(
        slot_of(target),
        Event::Register { request, session, tenant: TENANT, user: user(target), position: Seq::FIRST },
    );
    world.run(100);
    world.send(send("alice", &conversation, 0, message("x")));
    // The delivery is applied and its outcome lost.
    while !world.wires.is_empty() {
        let wire = world.wires.remove(0);
        let fate = if matches!(&wire, Wire::Propose { slot, .. } if *slot == slot_of(target)) {
            Fate::AnswerLost
        } else {
            Fate::Arrives
        };
        world.step(wire, fate);
    }
    world.run(1_000);
    assert!(world.pushes.iter().all(|(sessions, _)| !sessions.contains(&session)));
    let tail = world.inbox(target).last().unwrap().seq.next();
    assert!(world.lagging.contains(&(session, tail)));
    world.assert_inbox(target, &conversation, &seqs(&world, &conversation));
}

#[test]
fn a_holder_whose_time_ran_out_answers_nothing_from_memory() {
    let mut world = World::new();
    with_slots(&mut world, &["bob"]);
    world.lease_until_ms = world.now_ms;
    let request = world.request();
    let session = seriatim_logic_core::SessionKey { stream: 1, session: 5 };
    world.handle(
        slot_of("bob"),
        Event::Register { request, session, tenant: TENANT, user: user("bob"), position: Seq::FIRST },
    );
    assert!(matches!(world.registered[&request], Err(CallError::NotHolder { .. })));
}

#[test]
fn acks_are_answered_once_durable_and_written_once_a_second() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    for id in 0..10 {
        world.send(send("alice", &conversation, id, message("x")));
    }
    world.run(200);
    let slot = slot_of("bob");
    let device = DeviceId::new("phone").unwrap();
    let inbox = world.inbox("bob");
    let ack = |world: &mut World, cursor: Seq| {
        let request = world.request();
        world.handle(slot, Event::Ack { request, tenant: TENANT, user: user("bob"), device: device.clone(), cursor });
        request
    };
    let before = world.proposed.len();
    let first = ack(&mut world, inbox[0].seq.next());
    assert!(!world.replies.contains_key(&first), "not before it is durable");
    let others: Vec<_> = inbox[1..].iter().map(|entry| ack(&mut world, entry.seq.next())).collect();
    world.run(2_500);
    assert!(matches!(world.replies[&first], Ok(Reply::Acked(_))));
    assert!(others.iter().all(|request| matches!(world.replies[request], Ok(Reply::Acked(_)))));
    let writes = world.proposed[before..].iter().filter(|(of, ..)| *of == slot).count();
    assert!(writes <= 3, "{writes} commands");
    let ahead = ack(&mut world, inbox[9].seq.plus(100));
    world.run(2_500);
    assert!(
        matches!(&world.replies[&ahead], Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::CursorAhead)
    );
}

#[test]
fn a_release_waits_for_replies_and_refuses_the_rest() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    let slot = hash::conversation_slot(TENANT, &conversation);
    let numbered = world.send(send("alice", &conversation, 0, message("x")));
    let waiting = world.send(send("alice", &conversation, 1, message("waits for the open append")));
    world.handle(slot, Event::Release { heir: Some(NodeId(9)) });
    let late = world.send(send("alice", &conversation, 2, message("too late")));
    world.run(1_000);
    assert!(world.committed(numbered).is_some());
    assert!(matches!(world.replies[&waiting], Err(CallError::NotHolder { .. })));
    assert!(matches!(world.replies[&late], Err(CallError::NotHolder { .. })));
    assert_eq!(world.ended, [(slot, true)]);
}

#[test]
fn a_full_disk_refuses_new_requests_with_its_code() {
    let mut world = World::new();
    let conversation = direct("alice", "bob");
    let slot = hash::conversation_slot(TENANT, &conversation);
    world.send(send("alice", &conversation, 0, message("x")));
    world.wires.clear();
    world.handle(slot, Event::ProposeFailed { n: 0, refusal: Refusal::new(ErrorCode::ReadOnly, "disk") });
    let refused = world.send(send("alice", &conversation, 1, message("x")));
    assert!(
        matches!(&world.replies[&refused], Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::ReadOnly)
    );
}

#[test]
fn a_slot_works_again_after_a_full_disk_also_when_the_answer_was_lost_before() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    let home = hash::conversation_slot(TENANT, &conversation);
    let (target, name) = if home == slot_of("alice") { (slot_of("bob"), "bob") } else { (slot_of("alice"), "alice") };
    world.send(send("alice", &conversation, 0, message("x")));
    // The delivery is applied, its answer is lost, and the disk is full when it is sent again.
    let mut attempts = 0;
    for _ in 0..100 {
        for wire in std::mem::take(&mut world.wires) {
            match wire {
                Wire::Propose { slot, epoch, n, .. } if slot == target && attempts == 1 => {
                    attempts = 2;
                    let outcome = Err(Refusal::new(ErrorCode::ReadOnly, "disk"));
                    world.wires.push(Wire::Outcome { slot, epoch, n, outcome });
                }
                wire @ Wire::Propose { slot, .. } if slot == target && attempts == 0 => {
                    attempts = 1;
                    world.step(wire, Fate::AnswerLost);
                }
                wire => world.step(wire, Fate::Arrives),
            }
        }
        world.advance(20);
    }
    assert_eq!(attempts, 2);
    let second = world.send(send("alice", &conversation, 1, message("y")));
    world.run(3_000);
    let second = world.committed(second).unwrap();
    assert_eq!(world.inbox(name).last().unwrap().entry.seq, second);
}

#[test]
fn an_ack_under_way_is_answered_when_its_holder_ends() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    world.send(send("alice", &conversation, 0, message("x")));
    world.run(500);
    let (slot, device) = (slot_of("bob"), DeviceId::new("phone").unwrap());
    let cursor = world.inbox("bob")[0].seq.next();
    let request = world.request();
    world.handle(slot, Event::Ack { request, tenant: TENANT, user: user("bob"), device, cursor });
    world.advance(100);
    assert!(world.wires.iter().any(|wire| matches!(wire, Wire::Propose { slot: of, .. } if *of == slot)));
    world.handle(slot, Event::LeaseGone);
    assert!(
        matches!(&world.replies[&request], Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::Unavailable)
    );
}

#[test]
fn acks_of_a_tenth_of_a_second_share_a_command_and_each_device_writes_once_a_second() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    for n in 0..3 {
        world.send(send("alice", &direct("alice", "bob"), n, message("x")));
        world.run(500);
    }
    let slot = slot_of("bob");
    let cursors: Vec<Seq> = world.inbox("bob").iter().map(|entry| entry.seq.next()).collect();
    let ack = |world: &mut World, device: &str, cursor: Seq| {
        let request = world.request();
        let device = DeviceId::new(device).unwrap();
        world.handle(slot, Event::Ack { request, tenant: TENANT, user: user("bob"), device, cursor });
        request
    };
    let proposed = |world: &World| {
        world.wires.iter().filter(|wire| matches!(wire, Wire::Propose { slot: of, .. } if *of == slot)).count()
    };
    while !world.now_ms.is_multiple_of(100) {
        world.advance(1);
    }
    let mut first = Vec::new();
    for device in ["phone", "tablet", "desk"] {
        first.push(ack(&mut world, device, cursors[0]));
        world.advance(20);
    }
    assert_eq!(proposed(&world), 0);
    world.advance(40);
    assert_eq!(proposed(&world), 1);
    world.run(100);
    assert!(
        first.iter().all(|request| matches!(world.replies[request], Ok(Reply::Acked(cursor)) if cursor == cursors[0]))
    );
    // A device that goes on acking waits out its second; the last of its acks is what is written.
    let second = ack(&mut world, "phone", cursors[1]);
    let third = ack(&mut world, "phone", cursors[2]);
    world.run(700);
    assert!(!world.replies.contains_key(&second));
    world.run(400);
    for request in [second, third] {
        assert!(matches!(world.replies[&request], Ok(Reply::Acked(cursor)) if cursor == cursors[2]));
    }
}

#[test]
fn what_is_owed_behind_a_long_range_that_is_not_is_delivered() {
    let mut world = World::new();
    with_slots(&mut world, &["alice"]);
    let group = ConversationId::Group(ConversationKey([7; 16]));
    let ids = std::cell::Cell::new(0u32);
    let next = |content| {
        ids.set(ids.get() + 1);
        let mut id = [0; 16];
        id[..4].copy_from_slice(&ids.get().to_be_bytes());
        seriatim_logic_core::Send { message_id: MessageId(id), ..send("alice", &group, 0, content) }
    };
    let change = |add: &[&str], remove: &[&str]| Content::Members {
        add: add.iter().map(|name| user(name)).collect(),
        remove: remove.iter().map(|name| user(name)).collect(),
    };
    assert_ne!(slot_of("alice"), slot_of("bob"));
    world.send(next(Content::Create { members: vec![user("bob")] }));
    world.run(100);
    world.send(next(change(&[], &["bob"])));
    world.run(100);
    // Nobody holds bob's slot; more than two ranges go by that he is not owed.
    for _ in 0..3 * limits::DELIVERY_ENTRIES_MAX {
        world.send(next(message("without bob")));
        world.run(5);
    }
    world.send(next(change(&["bob"], &[])));
    let last = world.send(next(message("welcome back")));
    world.run(1_000);
    let last = world.committed(last).unwrap();
    assert!(world.inbox("bob").is_empty());
    world.claim(slot_of("bob"));
    world.run(3_000);
    assert_eq!(world.inbox("bob").len(), 4);
    assert_eq!(world.inbox("bob").last().unwrap().entry.seq, last);
}

#[test]
fn a_jump_sends_the_source_back_to_what_the_inbox_has() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    for id in 0..3 {
        world.send(send("alice", &conversation, id, message("x")));
    }
    world.run(200);
    let log = seqs(&world, &conversation);
    world.send(send("alice", &conversation, 3, message("x")));
    let mut ranges = Vec::new();
    while !world.wires.is_empty() {
        let wire = world.wires.remove(0);
        let Wire::Deliver { source, epoch, batch, deliveries } = &wire else {
            world.step(wire, Fate::Arrives);
            continue;
        };
        ranges.push((deliveries.deliveries[0].after, deliveries.deliveries[0].entries.len()));
        if ranges.len() == 1 {
            let outcomes = Some(vec![DeliveryOutcome::Jump { last: Some(log[0]), segment: None }]);
            let answer = Wire::Answer { source: *source, epoch: *epoch, batch: *batch, outcomes };
            world.step(answer, Fate::Arrives);
        } else {
            world.step(wire, Fate::Arrives);
        }
    }
    assert_eq!(ranges, [(Some(log[2]), 1), (Some(log[0]), 3)]);
    world.run(3_000);
    let log = seqs(&world, &conversation);
    world.assert_inbox("alice", &conversation, &log);
    world.assert_inbox("bob", &conversation, &log);
}

/// What a slot without a holder is owed when it has one again: the recall and what it is about, and no body of it.
#[test]
fn a_message_that_was_recalled_before_it_was_delivered_is_pushed_to_nobody() {
    for takeover in [false, true] {
        let mut world = World::new();
        let conversation = direct("alice", "bob");
        let home = hash::conversation_slot(TENANT, &conversation);
        let (near, far) = if home == slot_of("alice") { ("alice", "bob") } else { ("bob", "alice") };
        world.claim(home);
        let first = world.send(send(near, &conversation, 1, message("a secret")));
        world.run(100);
        let target = world.committed(first).unwrap();
        let amend = |act| Content::Amend { target, act };
        let edit = Act::Edit { salt: "s".into(), body: "another secret".into(), within_s: u32::MAX };
        world.send(send(near, &conversation, 2, amend(edit)));
        world.send(send(near, &conversation, 3, message("none")));
        world.run(100);
        let recall = world.send(send(near, &conversation, 4, amend(Act::Recall { within_s: u32::MAX })));
        world.run(100);
        assert!(world.committed(recall).is_some());
        if takeover {
            // The next holder reads what it delivers.
            world.crash_all();
            world.run(100);
            world.claim(home);
        }
        world.claim(slot_of(far));
        let request = world.request();
        let session = seriatim_logic_core::SessionKey { stream: 9, session: 1 };
        world.handle(
            slot_of(far),
            Event::Register { request, session, tenant: TENANT, user: user(far), position: Seq::FIRST },
        );
        let mut bodies = Vec::new();
        for _ in 0..60 {
            for wire in std::mem::take(&mut world.wires) {
                if let Wire::Deliver { deliveries, .. } = &wire {
                    bodies.extend(deliveries.bodies.iter().map(|body| body.body.clone()));
                }
                world.step(wire, Fate::Arrives);
            }
            world.advance(100);
        }
        let inbox = world.inbox(far);
        let kinds: Vec<_> = inbox.iter().map(|entry| entry.entry.kind).collect();
        assert_eq!(kinds, [Kind::Message, Kind::Edit { target }, Kind::Message, Kind::Recall { target }]);
        assert!(!bodies.is_empty() && bodies.iter().all(|body| body.is_empty() || body == "none"), "{bodies:?}");
        // Whoever listens is told to sync, where the bodies are said to be erased.
        assert!(world.lagging.iter().any(|(_, tail)| *tail == inbox[3].seq.next()), "{:?}", world.lagging);
        let pushed: Vec<_> = world.pushes.iter().flat_map(|(_, entries)| entries).map(|entry| &entry.body).collect();
        assert!(pushed.iter().all(|body| !body.ends_with(b"secret")), "{pushed:?}");
    }
}

fn mark(world: &mut World, name: &str, conversation: &ConversationId, mark: Mark) -> seriatim_logic_core::RequestId {
    let request = world.request();
    let (tenant, user, conversation) = (TENANT, user(name), conversation.clone());
    world.handle(slot_of(name), Event::Mark { request, tenant, user, conversation, mark });
    request
}

/// How many commands set marks so far.
fn mark_commands(world: &World) -> usize {
    let is_mark = |bytes: &bytes::Bytes| {
        let framed = [&[codec::VERSION][..], bytes].concat();
        matches!(codec::decode(&framed).expect("our own bytes"), Command::Held { op: HolderOp::SetMarks { .. }, .. })
    };
    world.proposed.iter().filter(|(_, _, _, bytes)| is_mark(bytes)).count()
}

#[test]
fn read_marks_of_one_conversation_gather_and_all_are_answered() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    for id in 0..6 {
        world.send(send("alice", &conversation, id, message("hi")));
    }
    world.run(2_000);
    let places: Vec<Seq> = world.inbox("bob").iter().map(|entry| entry.seq).collect();
    assert_eq!(places.len(), 6);
    let asked: Vec<_> =
        places.iter().map(|upto| (*upto, mark(&mut world, "bob", &conversation, Mark::Read { upto: *upto }))).collect();
    world.run(100);
    assert_eq!(mark_commands(&world), 1, "the first one goes at once");
    world.run(2_000);
    assert_eq!(mark_commands(&world), 2, "the others together, a second later");
    for (upto, request) in asked {
        let Some(Ok(Reply::Marked(listed))) = world.replies.get(&request) else { panic!("{:?}", world.replies) };
        assert!(listed.read.unwrap().inbox_seq >= upto);
    }
    let kinds: Vec<_> = world.inbox("bob").iter().skip(6).map(|entry| entry.entry.kind).collect();
    assert_eq!(kinds, [Kind::Read, Kind::Read]);
    // Lower, of nothing, of another slot.
    let lower = mark(&mut world, "bob", &conversation, Mark::Read { upto: places[0] });
    let nothing = mark(&mut world, "bob", &conversation, Mark::Read { upto: Seq::new(9_999).unwrap() });
    let request = world.request();
    let (tenant, conversation) = (TENANT, conversation.clone());
    let elsewhere = Event::Mark { request, tenant, user: user("bob"), conversation, mark: Mark::Mute { on: true } };
    world.handle(slot_of("alice"), elsewhere);
    world.run(4_000);
    // They were gathered; the one that is wrong alone is refused.
    assert!(matches!(&world.replies[&lower], Ok(Reply::Marked(listed)) if listed.read.unwrap().inbox_seq == places[5]));
    assert!(
        matches!(&world.replies[&nothing], Err(CallError::Refused(refusal)) if refusal.code == ErrorCode::NotFound)
    );
    assert!(matches!(world.replies[&request], Err(CallError::NotHolder { .. })));
    assert_eq!(world.inbox("bob").len(), 8);
}

#[test]
fn whoever_changes_his_mind_all_the_time_holds_nobody_up() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    world.send(send("alice", &conversation, 1, message("hi")));
    world.run(2_000);
    let upto = world.inbox("bob")[0].seq;
    let mut asked = Vec::new();
    for on in [true, false].into_iter().cycle().take(101) {
        asked.push(mark(&mut world, "bob", &conversation, Mark::Mute { on }));
        asked.push(mark(&mut world, "bob", &conversation, Mark::Archive { on: !on }));
    }
    let read = mark(&mut world, "bob", &conversation, Mark::Read { upto });
    world.run(4_000);
    for request in asked {
        assert!(matches!(world.replies[&request], Ok(Reply::Marked(_))), "{:?}", world.replies[&request]);
    }
    let Ok(Reply::Marked(now)) = &world.replies[&read] else { panic!("{:?}", world.replies[&read]) };
    assert_eq!((now.muted, now.unread()), (true, 0));
    assert!(mark_commands(&world) <= 4, "{}", mark_commands(&world));
    // What names nothing is refused without a second for each.
    let nothing: Vec<_> = (1_000..1_050u64)
        .map(|upto| mark(&mut world, "bob", &conversation, Mark::Read { upto: Seq::new(upto).unwrap() }))
        .collect();
    world.run(4_000);
    for request in nothing {
        let refused = &world.replies[&request];
        assert!(matches!(refused, Err(CallError::Refused(no)) if no.code == ErrorCode::NotFound), "{refused:?}");
    }
}

#[test]
fn a_recall_beside_a_read_of_the_backlog_takes_the_body_that_was_read() {
    let mut world = World::new();
    let conversation = direct("alice", "bob");
    let home = hash::conversation_slot(TENANT, &conversation);
    let (near, far) = if home == slot_of("alice") { ("alice", "bob") } else { ("bob", "alice") };
    world.claim(home);
    let first = world.send(send(near, &conversation, 1, message("a secret")));
    world.run(100);
    let target = world.committed(first).unwrap();
    let amend = |act| Content::Amend { target, act };
    let edit = Act::Edit { salt: "s".into(), body: "another secret".into(), within_s: u32::MAX };
    world.send(send(near, &conversation, 2, amend(edit)));
    world.run(100);
    // The next holder has nothing in memory: it reads, and the answer takes its time.
    world.crash_all();
    world.run(100);
    world.claim(home);
    let is_backlog = |wire: &Wire| matches!(wire, Wire::Read { read: Read::Messages { .. }, .. });
    let mut read = None;
    for _ in 0..100 {
        for wire in std::mem::take(&mut world.wires) {
            match wire {
                Wire::Read { id, read: what, .. } if read.is_none() && matches!(what, Read::Messages { .. }) => {
                    read = Some((id, world.read(&what)));
                }
                wire => world.step(wire, Fate::Arrives),
            }
        }
        world.advance(100);
    }
    let (id, outcome) = read.expect("the backlog is read");
    assert!(!world.wires.iter().any(is_backlog), "one read at a time");
    let recall = world.send(send(near, &conversation, 3, amend(Act::Recall { within_s: u32::MAX })));
    world.run(100);
    assert!(world.committed(recall).is_some());
    world.handle(home, Event::ReadDone { id, outcome: Some(outcome) });
    world.claim(slot_of(far));
    let mut bodies = Vec::new();
    for _ in 0..60 {
        for wire in std::mem::take(&mut world.wires) {
            if let Wire::Deliver { deliveries, .. } = &wire {
                bodies.extend(deliveries.bodies.iter().map(|body| body.body.clone()));
            }
            world.step(wire, Fate::Arrives);
        }
        world.advance(100);
    }
    let kinds: Vec<_> = world.inbox(far).iter().map(|entry| entry.entry.kind).collect();
    assert_eq!(kinds, [Kind::Message, Kind::Edit { target }, Kind::Recall { target }]);
    assert!(bodies.iter().all(bytes::Bytes::is_empty), "{bodies:?}");
}

#[test]
fn a_holder_that_leaves_answers_every_mark() {
    let mut world = World::new();
    with_slots(&mut world, &["alice", "bob"]);
    let conversation = direct("alice", "bob");
    world.send(send("alice", &conversation, 1, message("hi")));
    world.run(2_000);
    let upto = world.inbox("bob")[0].seq;
    let marks = [Mark::Read { upto }, Mark::Mute { on: true }, Mark::Archive { on: true }];
    let asked = marks.map(|what| mark(&mut world, "bob", &conversation, what));
    world.handle(slot_of("bob"), Event::Release { heir: None });
    world.run(2_000);
    assert!(matches!(world.replies[&asked[0]], Ok(Reply::Marked(_))), "it had its number");
    for request in &asked[1..] {
        assert!(matches!(world.replies[request], Err(CallError::NotHolder { .. })));
    }
    assert_eq!(world.ended, [(slot_of("bob"), true)]);
}
