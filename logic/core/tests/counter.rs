//! The sequence service: I1 and I2 of `Next` and `Current`, whatever is lost, doubled, late, released or crashed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod world;

use std::collections::BTreeSet;

use proptest::prelude::*;
use seriatim_logic_core::{Event, RequestId};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::hash;
use seriatim_proto::ids::*;
use seriatim_proto::limits;
use seriatim_proto::logic::{CallError, Reply};
use seriatim_store_core::{Key, Row};
use world::*;

fn counter(name: &str) -> CounterName {
    CounterName::new(name).unwrap()
}
fn slot(name: &str) -> SlotId {
    hash::slot(&Namespace::counter(TENANT, counter(name)))
}
fn next(world: &mut World, name: &str, count: u32) -> RequestId {
    let request = world.request();
    world.handle(slot(name), Event::Next { request, tenant: TENANT, counter: counter(name), count });
    request
}
fn current(world: &mut World, name: &str) -> RequestId {
    let request = world.request();
    world.handle(slot(name), Event::Current { request, tenant: TENANT, counter: counter(name) });
    request
}
fn numbers(world: &World, request: RequestId) -> (u64, u64) {
    match &world.replies[&request] {
        Ok(Reply::Numbers { first, count }) => (first.get(), first.get() + u64::from(*count)),
        other => panic!("{other:?}"),
    }
}
fn bound(world: &World, request: RequestId) -> u64 {
    match &world.replies[&request] {
        Ok(Reply::Current(bound)) => bound.get(),
        other => panic!("{other:?}"),
    }
}
fn code(world: &World, request: RequestId) -> ErrorCode {
    match &world.replies[&request] {
        Err(CallError::Refused(refusal)) => refusal.code,
        Err(CallError::NotHolder { .. }) => ErrorCode::NotHolder,
        other => panic!("{other:?}"),
    }
}
/// A counter that somebody counted on before, so that nothing is known without a read.
fn used(world: &mut World, name: &str) -> u64 {
    world.claim(slot(name));
    let request = next(world, name, 3);
    world.run(50);
    let (_, end) = numbers(world, request);
    world.crash_all();
    world.run(50);
    end
}

#[test]
fn numbers_are_runs_that_rise_and_current_lies_between_them() {
    let mut world = World::new();
    world.claim(slot("orders"));
    let before = current(&mut world, "orders");
    assert_eq!(bound(&world, before), 1, "nobody ever wrote to the slot: no read is needed");
    let first = next(&mut world, "orders", 1);
    world.run(50);
    assert_eq!(numbers(&world, first), (1, 2));
    let run = next(&mut world, "orders", 5);
    assert_eq!(numbers(&world, run), (2, 7), "answered from memory, at once");
    let now = current(&mut world, "orders");
    assert_eq!(bound(&world, now), 7);
}

#[test]
fn a_run_that_no_segment_holds_is_reserved_in_one_piece_and_those_behind_it_wait() {
    let mut world = World::new();
    world.claim(slot("orders"));
    let small = next(&mut world, "orders", 1);
    world.run(50);
    let large = next(&mut world, "orders", limits::NEXT_NUMBERS_MAX);
    let behind = next(&mut world, "orders", 1);
    assert!(!world.replies.contains_key(&large) && !world.replies.contains_key(&behind));
    world.run(50);
    let ranges = [small, large, behind].map(|request| numbers(&world, request));
    assert_eq!(ranges[1].1 - ranges[1].0, u64::from(limits::NEXT_NUMBERS_MAX));
    assert!(ranges[0].1 <= ranges[1].0 && ranges[1].1 <= ranges[2].0, "{ranges:?}");
}

#[test]
fn the_next_segment_is_there_before_the_first_is_used_up() {
    let mut world = World::new();
    world.claim(slot("orders"));
    next(&mut world, "orders", 1);
    world.run(50);
    for _ in 0..2_000 {
        let request = next(&mut world, "orders", 1);
        assert!(world.replies.contains_key(&request), "a caller waited");
        world.run(5);
    }
    let reservations = world.proposed.len();
    assert!(reservations < 40, "{reservations} reservations for 2,001 numbers at 200 a second");
}

#[test]
fn a_new_holder_counts_on_above_everything_that_its_predecessor_had() {
    let mut world = World::new();
    let end = used(&mut world, "orders");
    let cold = current(&mut world, "orders");
    assert!(!world.replies.contains_key(&cold), "the ceiling must be read first");
    world.run(50);
    assert!(bound(&world, cold) >= end);
    let again = next(&mut world, "orders", 1);
    world.run(50);
    assert!(numbers(&world, again).0 >= bound(&world, cold));
}

/// The ceiling that a read finds may already hold the segment whose numbers are still to be given.
#[test]
fn current_waits_for_a_segment_that_is_under_way() {
    let mut world = World::new();
    used(&mut world, "orders");
    let asked = current(&mut world, "orders");
    let first = next(&mut world, "orders", 1);
    // The reservation is applied, then the read runs, then its answer comes before the outcome.
    let place = world.wires.iter().position(|wire| matches!(wire, Wire::Propose { .. })).unwrap();
    let reservation = world.wires.remove(place);
    world.step(reservation, Fate::Arrives);
    let read = world.wires.iter().position(|wire| matches!(wire, Wire::Read { .. })).unwrap();
    let read = world.wires.remove(read);
    world.step(read, Fate::Arrives);
    assert!(!world.replies.contains_key(&asked), "the ceiling is above numbers that are still to be given");
    world.run(50);
    let later = next(&mut world, "orders", 1);
    assert!(bound(&world, asked) <= numbers(&world, later).0);
    assert!(bound(&world, asked) <= numbers(&world, first).1);
}

#[test]
fn a_holder_whose_lease_ran_out_counts_no_more_until_it_is_renewed() {
    let mut world = World::new();
    world.claim(slot("orders"));
    let first = next(&mut world, "orders", 1);
    let waits = next(&mut world, "orders", 1);
    world.lease_until_ms = world.now_ms;
    world.run(50);
    let late = [next(&mut world, "orders", 1), current(&mut world, "orders"), first, waits];
    for request in late {
        assert_eq!(code(&world, request), ErrorCode::NotHolder);
    }
    world.lease_until_ms = u64::MAX;
    let renewed = next(&mut world, "orders", 1);
    assert!(numbers(&world, renewed).0 >= 1);
}

#[test]
fn a_holder_that_slept_through_its_lease_answers_nothing_from_memory() {
    let mut world = World::new();
    world.claim(slot("orders"));
    next(&mut world, "orders", 1);
    world.run(50);
    world.sleep_all();
    world.run(50);
    let (request, tenant) = (world.request(), TENANT);
    world.wake(0, Event::Next { request, tenant, counter: counter("orders"), count: 1 });
    assert_eq!(code(&world, request), ErrorCode::NotHolder);
    let request = world.request();
    world.wake(0, Event::Current { request, tenant, counter: counter("orders") });
    assert_eq!(code(&world, request), ErrorCode::NotHolder);
}

#[test]
fn a_holder_that_gives_its_slot_back_answers_who_waits() {
    let mut world = World::new();
    world.claim(slot("orders"));
    let waits = next(&mut world, "orders", 1);
    world.handle(slot("orders"), Event::Release { heir: None });
    assert_eq!(code(&world, waits), ErrorCode::NotHolder);
    let late = next(&mut world, "orders", 1);
    assert_eq!(code(&world, late), ErrorCode::NotHolder);
    world.run(50);
    assert_eq!(world.ended, [(slot("orders"), true)]);
}

#[test]
fn too_many_at_once_and_none_at_all_are_refused() {
    let mut world = World::new();
    world.limits.queue_max = 4;
    world.claim(slot("orders"));
    for count in [0, limits::NEXT_NUMBERS_MAX + 1, u32::MAX] {
        let request = next(&mut world, "orders", count);
        assert_eq!(code(&world, request), ErrorCode::CountTooLarge);
    }
    let waiting: Vec<_> = (0..4).map(|_| next(&mut world, "orders", 1)).collect();
    let full = next(&mut world, "orders", 1);
    assert_eq!(code(&world, full), ErrorCode::Busy);
    world.run(50);
    let given: BTreeSet<_> = waiting.iter().map(|request| numbers(&world, *request)).collect();
    assert_eq!(given.len(), 4);
    let request = next(&mut world, "orders", 1);
    assert!(numbers(&world, request).0 > 4);
}

#[test]
fn a_counter_at_its_end_says_so_and_holds_up_no_other() {
    let mut world = World::new();
    // Two counters of one slot, so that their reservations share a command.
    let end = "orders".to_owned();
    let other = (0..).map(|place| format!("other-{place}")).find(|name| slot(name) == slot(&end)).unwrap();
    used(&mut world, &end);
    let namespace = Namespace::counter(TENANT, counter(&end));
    let row = world.view.rows.get_mut(&Key::namespace(slot(&end), namespace));
    let Some(Row::Namespace(row)) = row else { panic!() };
    // As if somebody had counted for ages.
    row.ceiling = Seq::new(Generation(0).end_seq().get() - 3).unwrap();
    world.begin_turn();
    let exhausted = next(&mut world, &end, limits::NEXT_NUMBERS_MAX);
    let fine = next(&mut world, &other, 1);
    world.end_turn();
    world.run(100);
    assert_eq!(code(&world, exhausted), ErrorCode::GenerationExhausted);
    assert_eq!(numbers(&world, fine), (1, 2));
}

#[test]
fn a_warm_counter_at_its_end_gives_what_is_left_and_lets_its_slot_go() {
    let mut world = World::new();
    world.claim(slot("orders"));
    next(&mut world, "orders", 1);
    world.run(50);
    let namespace = Namespace::counter(TENANT, counter("orders"));
    let row = world.view.rows.get_mut(&Key::namespace(slot("orders"), namespace));
    let Some(Row::Namespace(row)) = row else { panic!() };
    let end = Generation(0).end_seq().get();
    row.ceiling = Seq::new(end - 10).unwrap();
    // Uses up what memory has, so that the rest is asked for in the background, in vain.
    let large = next(&mut world, "orders", 5_000);
    let behind = next(&mut world, "orders", 2);
    world.run(100);
    assert_eq!(code(&world, large), ErrorCode::GenerationExhausted);
    numbers(&world, behind);
    let mut given = 0;
    loop {
        let request = next(&mut world, "orders", 1);
        world.run(50);
        match &world.replies[&request] {
            Ok(Reply::Numbers { first, .. }) => given = first.get(),
            Err(CallError::Refused(refusal)) => break assert_eq!(refusal.code, ErrorCode::GenerationExhausted),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(given, end - 1, "to the last number");
    let proposed = world.proposed.len();
    world.run(2_000);
    assert_eq!(world.proposed.len(), proposed, "nobody waits, nothing is asked for");
    world.handle(slot("orders"), Event::Release { heir: None });
    world.run(100);
    assert_eq!(world.ended, [(slot("orders"), true)]);
}

#[test]
fn counters_that_nobody_uses_are_forgotten_and_never_too_many_kept() {
    let mut world = World::new();
    world.limits.counters_max = 3;
    let names: Vec<String> =
        (0..).map(|place| format!("many-{place}")).filter(|name| slot(name) == slot("orders")).take(6).collect();
    world.claim(slot("orders"));
    let mut last = std::collections::BTreeMap::new();
    for round in 0..3 {
        for name in &names {
            let request = next(&mut world, name, 1);
            if round != 1 {
                world.run(50);
            } else {
                // Three wait, so a fourth finds no room.
                if let Some(Err(CallError::Refused(refusal))) = world.replies.get(&request) {
                    assert_eq!(refusal.code, ErrorCode::Busy);
                    continue;
                }
            }
            world.run(if round == 1 && name != &names[5] { 0 } else { 50 });
            if let Some(Ok(Reply::Numbers { first, .. })) = world.replies.get(&request) {
                let before = last.insert(name.clone(), first.get());
                assert!(before.is_none_or(|before| before < first.get()), "{name}: {before:?} then {first}");
            }
        }
        world.run(100);
    }
    assert_eq!(last.len(), names.len());
    // Idle for longer than anything is kept: the next one asks the store again.
    world.run(130_000);
    let proposed = world.proposed.len();
    let request = next(&mut world, &names[5], 1);
    world.run(50);
    assert!(numbers(&world, request).0 > last[&names[5]]);
    assert!(world.proposed.len() > proposed, "it was forgotten");
    let cold = current(&mut world, &names[0]);
    world.run(50);
    assert!(bound(&world, cold) > last[&names[0]], "what is not in memory is read");
}

#[test]
fn a_holder_without_a_lease_sends_those_who_wait_away_before_it_says_busy() {
    let mut world = World::new();
    world.limits.queue_max = 2;
    world.claim(slot("orders"));
    let waiting = [next(&mut world, "orders", 1), next(&mut world, "orders", 1)];
    let late = next(&mut world, "orders", 1);
    assert_eq!(code(&world, late), ErrorCode::Busy);
    world.lease_until_ms = world.now_ms;
    let late = next(&mut world, "orders", 1);
    for request in [waiting[0], waiting[1], late] {
        assert_eq!(code(&world, request), ErrorCode::NotHolder);
    }
}

#[test]
fn a_full_disk_refuses_those_who_wait_for_it_already() {
    let mut world = World::new();
    world.claim(slot("orders"));
    let (waits, asks) = (next(&mut world, "orders", 1), current(&mut world, "orders"));
    let epoch = world.holders[&slot("orders")].epoch();
    let Some(Wire::Propose { n, .. }) = world.wires.pop() else { panic!() };
    let refusal = Refusal::new(ErrorCode::ReadOnly, "the disk is nearly full");
    world.step(Wire::Outcome { slot: slot("orders"), epoch, n, outcome: Err(refusal) }, Fate::Arrives);
    assert_eq!(code(&world, waits), ErrorCode::ReadOnly);
    assert_eq!(code(&world, asks), ErrorCode::ReadOnly);
    world.run(500);
    let again = next(&mut world, "orders", 1);
    world.run(50);
    numbers(&world, again);
}

#[test]
fn a_full_disk_refuses_what_memory_does_not_hold_and_nothing_else() {
    let mut world = World::new();
    world.claim(slot("orders"));
    next(&mut world, "orders", 1);
    world.run(50);
    let epoch = world.holders[&slot("orders")].epoch();
    // A reservation of another counter meets a full disk.
    let other = (0..).map(|place| format!("other-{place}")).find(|name| slot(name) == slot("orders")).unwrap();
    next(&mut world, &other, 1);
    let Some(Wire::Propose { n, .. }) = world.wires.pop() else { panic!() };
    let refusal = Refusal::new(ErrorCode::ReadOnly, "the disk is nearly full");
    world.step(Wire::Outcome { slot: slot("orders"), epoch, n, outcome: Err(refusal) }, Fate::Arrives);
    let held = next(&mut world, "orders", 1);
    assert!(numbers(&world, held).0 > 1);
    let third = (0..).map(|place| format!("third-{place}")).find(|name| slot(name) == slot("orders")).unwrap();
    let refused = next(&mut world, &third, 1);
    assert_eq!(code(&world, refused), ErrorCode::ReadOnly);
    world.run(500);
    let again = next(&mut world, &third, 1);
    world.run(50);
    numbers(&world, again);
}

// --- whatever happens

#[derive(Clone, Debug)]
enum Step {
    Next {
        name: usize,
        count: u32,
    },
    Current {
        name: usize,
    },
    Wire {
        place: usize,
        fate: u8,
    },
    Ghost {
        place: usize,
    },
    Advance {
        ms: u64,
    },
    Turn {
        count: usize,
    },
    Lapse,
    Sleep,
    /// Asked of one that slept through its lease.
    Wake {
        place: usize,
        name: usize,
        count: u32,
    },
    Crash,
    Release {
        name: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        prop_oneof![
            30 => (0usize..3, prop_oneof![4 => 1u32..20, 1 => 1u32..3_000]).prop_map(|(name, count)| Step::Next { name, count }),
            15 => (0usize..3).prop_map(|name| Step::Current { name }),
            60 => (any::<usize>(), 0u8..20).prop_map(|(place, fate)| Step::Wire { place, fate }),
            4 => any::<usize>().prop_map(|place| Step::Ghost { place }),
            10 => (1u64..400).prop_map(|ms| Step::Advance { ms }),
            5 => (2usize..8).prop_map(|count| Step::Turn { count }),
            2 => Just(Step::Lapse),
            1 => Just(Step::Sleep),
            6 => (any::<usize>(), 0usize..3, 0u32..20).prop_map(|(place, name, count)| Step::Wake { place, name, count }),
            1 => Just(Step::Crash),
            2 => (0usize..3).prop_map(|name| Step::Release { name }),
        ],
        50..400,
    )
}

/// What was asked, and between which steps it was answered.
struct Asked {
    request: RequestId,
    name: usize,
    began: usize,
    ended: Option<usize>,
}

/// I1: no number twice. I2: what ended before another began lies below it.
fn check(world: &World, asked: &[Asked], name: usize) -> Result<(), TestCaseError> {
    let mut taken = Vec::new();
    // (began, ended, lowest that it says is still to come or its own, end of what it says is gone)
    let mut spans = Vec::new();
    for asked in asked.iter().filter(|asked| asked.name == name) {
        let Some(ended) = asked.ended else { continue };
        match &world.replies[&asked.request] {
            Ok(Reply::Numbers { first, count }) => {
                let (lo, hi) = (first.get(), first.get() + u64::from(*count));
                taken.push((lo, hi));
                spans.push((asked.began, ended, lo, hi));
            }
            Ok(Reply::Current(bound)) => spans.push((asked.began, ended, bound.get(), bound.get())),
            Ok(other) => prop_assert!(false, "{other:?}"),
            Err(_) => {}
        }
    }
    taken.sort_unstable();
    for pair in taken.windows(2) {
        prop_assert!(pair[0].1 <= pair[1].0, "I1: {:?} and {:?} overlap", pair[0], pair[1]);
    }
    for first in &spans {
        for second in spans.iter().filter(|second| first.1 < second.0) {
            prop_assert!(first.3 <= second.2, "I2: {first:?} ended before {second:?} began");
        }
    }
    Ok(())
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut world = World::new();
    let shared = (0..).map(|place| format!("shared-{place}")).find(|name| slot(name) == slot("a")).unwrap();
    let names = ["a".to_owned(), "b".to_owned(), shared];
    let slots: BTreeSet<SlotId> = names.iter().map(|name| slot(name)).collect();
    slots.iter().for_each(|slot| world.claim(*slot));
    let mut asked: Vec<Asked> = Vec::new();
    for (now, step) in steps.into_iter().enumerate() {
        match step {
            Step::Next { name, count } => {
                let request = next(&mut world, &names[name], count);
                asked.push(Asked { request, name, began: now, ended: None });
            }
            Step::Current { name } => {
                let request = current(&mut world, &names[name]);
                asked.push(Asked { request, name, began: now, ended: None });
            }
            Step::Wire { place, fate } => world.nudge(place, fate),
            Step::Ghost { place } => world.haunt_one(place),
            Step::Advance { ms } => world.advance(ms),
            Step::Turn { count } => world.turn(count),
            Step::Lapse => {
                let now_ms = world.now_ms;
                world.lease_until_ms = if world.lease_until_ms == u64::MAX { now_ms } else { u64::MAX };
            }
            Step::Sleep => world.sleep_all(),
            Step::Wake { place, name, count } => {
                if !world.sleepers.is_empty() {
                    let (request, tenant, counter) = (world.request(), TENANT, counter(&names[name]));
                    let event = match count {
                        0 => Event::Current { request, tenant, counter },
                        count => Event::Next { request, tenant, counter, count },
                    };
                    let place = place % world.sleepers.len();
                    world.wake(place, event);
                    asked.push(Asked { request, name, began: now, ended: None });
                }
            }
            Step::Crash => world.crash_all(),
            Step::Release { name } => {
                world.handle(slot(&names[name]), Event::Release { heir: None });
            }
        }
        slots.iter().for_each(|slot| world.claim(*slot));
        for asked in asked.iter_mut().filter(|asked| asked.ended.is_none()) {
            if world.replies.contains_key(&asked.request) {
                asked.ended = Some(now);
            }
        }
    }
    for name in 0..names.len() {
        check(&world, &asked, name)?;
    }
    // When everything is well again, everybody is answered.
    world.lease_until_ms = u64::MAX;
    for _ in 0..5 {
        world.run(300);
        slots.iter().for_each(|slot| world.claim(*slot));
    }
    for name in &names {
        let (numbers_asked, current_asked) = (next(&mut world, name, 7), current(&mut world, name));
        world.run(300);
        let end = numbers(&world, numbers_asked).1;
        prop_assert!(bound(&world, current_asked) <= end);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn numbers_are_given_once_and_in_real_time_order_whatever_happens(steps in steps()) {
        run(steps)?;
    }
}
