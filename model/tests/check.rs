//! Every interleaving within the bounds of each scene: nothing is broken, and what the scene is about was seen.
//!
//! Without the time rule more can happen than with it, so the scenes of messages, which must not rest on it, do
//! without; those of numbers come in both kinds.

use Situation::*;
use seriatim_model::scene::{Ask, Bounds, Reads, Request, Scene};
use seriatim_model::{Check, I2_NUMBERS, Report, Situation};

fn once(ask: Ask) -> Request {
    Request { ask, attempts: 1 }
}

fn twice(ask: Ask) -> Request {
    Request { ask, attempts: 2 }
}

fn send(id: u8) -> Ask {
    Ask::Send { sender: 0, id, body: id }
}

/// Three sends; the client of the first tries twice, whatever it heard.
fn three_and_a_retry() -> Vec<Request> {
    vec![twice(send(1)), once(send(2)), once(send(3))]
}

fn two_and_a_retry() -> Vec<Request> {
    vec![twice(send(1)), once(send(2))]
}

/// One slot, whose reads are answered at once: nobody else writes to it under the claim that reads.
const MESSAGES: Bounds = Bounds { timers: 1, time_rule: false, reads: Reads::AtOnce, ..Bounds::CALM };
/// The leader ends a lease at any time, and the other node claims.
const TAKEOVER: Bounds = Bounds { claims: 1, expiries: 1, ..MESSAGES };

fn run(scene: Scene, states_min: usize, reached: &[Situation]) -> Report {
    let report = Check::new(scene).run_to_the_end();
    println!("{report}");
    for situation in reached {
        assert!(report.reached.count(*situation) > 0, "{situation:?} was never seen");
    }
    assert!(
        report.states >= states_min,
        "{} states are fewer than {states_min}: the scene lost something",
        report.states
    );
    assert!(report.whole, "given up");
    report
}

fn holds(scene: Scene, states_min: usize, reached: &[Situation]) {
    let report = run(scene, states_min, reached);
    assert!(report.broken.is_empty(), "{report}");
}

/// The whole of issue 4's bounds; what a single lost or late message adds to it, the last scene says.
#[test]
fn messages_hold_through_a_takeover_and_a_change_of_the_leader() {
    let bounds = Bounds { leader_changes: 1, ..TAKEOVER };
    let scene = Scene::one_slot("3 sends, a retry, a takeover, a new leader", three_and_a_retry(), bounds);
    let reached = [FencedWrite, OvertakenWrite, PassedWrite, DedupedRetry, Takeover, StaleHolderAsked, LocalWritten];
    holds(scene, 259_000, &reached);
}

#[test]
fn messages_hold_through_a_change_of_the_leader() {
    let bounds = Bounds { leader_changes: 1, timers: 2, ..MESSAGES };
    let scene = Scene::one_slot("3 sends, a retry, a new leader", three_and_a_retry(), bounds);
    holds(scene, 68_000, &[PassedWrite, OvertakenWrite, DedupedRetry, Settled, LeaderChanged, AtRest]);
}

#[test]
fn messages_hold_whatever_is_lost_or_late() {
    let bounds = Bounds { faults: 1, timers: 2, ..MESSAGES };
    let scene = Scene::one_slot("3 sends, a retry, a fault", three_and_a_retry(), bounds);
    holds(scene, 62_000, &[PassedWrite, OvertakenWrite, DedupedRetry, Settled, AtRest]);
}

#[test]
fn messages_hold_through_a_takeover_with_something_lost_or_late() {
    let bounds = Bounds { faults: 1, ..TAKEOVER };
    let scene = Scene::one_slot("2 sends, a retry, a takeover, a fault", two_and_a_retry(), bounds);
    holds(scene, 17_000, &[FencedWrite, PassedWrite, DedupedRetry, Takeover, Settled]);
}

#[test]
fn another_body_under_an_id_is_a_conflict() {
    let other = Ask::Send { sender: 0, id: 1, body: 9 };
    let bounds = Bounds { leader_changes: 1, ..TAKEOVER };
    let scene = Scene::one_slot("2 bodies, 1 id, a takeover, a new leader", vec![once(send(1)), once(other)], bounds);
    holds(scene, 1_300, &[Conflict, Takeover, FencedWrite, LeaderChanged]);
}

/// As the cluster is: a node is dead, or its lease has passed at it, before it is ended.
#[test]
fn messages_hold_through_a_crash_and_a_release_under_the_time_rule() {
    let bounds = Bounds { crashes: 1, releases: 1, claims: 2, time_rule: true, ..TAKEOVER };
    let scene =
        Scene::one_slot("2 sends, a crash, a release, the time rule", vec![once(send(1)), once(send(2))], bounds);
    holds(scene, 22_000, &[FencedWrite, Takeover, Released, AtRest]);
}

#[test]
fn takeovers_read_what_is_there_whenever_their_reads_are_answered() {
    let bounds = Bounds { reads: Reads::TwoSteps, faults: 1, ..TAKEOVER };
    let scene = Scene::one_slot("1 send, a retry, a takeover, a fault, slow reads", vec![twice(send(1))], bounds);
    holds(scene, 4_000, &[FencedWrite, PassedWrite, Takeover, Settled, DedupedRetry]);
}

#[test]
fn deliveries_reach_the_other_inbox_once_whatever_is_lost_late_or_doubled() {
    let bounds = Bounds { faults: 1, timers: 2, ..MESSAGES };
    let scene =
        Scene::two_slots("two slots: 3 sends, a fault", vec![once(send(1)), once(send(2)), once(send(3))], bounds);
    holds(scene, 1_043_000, &[Delivered, LocalWritten, RepeatSkipped, PassedWrite, AtRest]);
}

#[test]
fn deliveries_reach_the_other_inbox_once_through_a_takeover_of_either_slot() {
    let scene = Scene::two_slots("two slots: 2 sends, a takeover", vec![once(send(1)), once(send(2))], TAKEOVER);
    holds(scene, 1_300_000, &[Delivered, LocalWritten, FencedWrite, Takeover, RepeatSkipped]);
}

#[test]
fn a_delivery_is_skipped_by_who_has_it_through_a_takeover_and_a_fault() {
    let bounds = Bounds { faults: 1, ..TAKEOVER };
    let scene = Scene::two_slots("two slots: 1 send, a takeover, a fault", vec![once(send(1))], bounds);
    holds(scene, 222_000, &[Delivered, FencedWrite, Takeover, RepeatSkipped]);
}

/// Enough of a segment that the next one is fetched, with questions between.
fn numbers() -> Vec<Request> {
    vec![once(Ask::Next(9)), once(Ask::Current), once(Ask::Next(9)), twice(Ask::Next(1))]
}

/// Whatever answers from memory, with all that may stop it.
const NUMBERS: Bounds = Bounds { claims: 1, expiries: 1, leader_changes: 1, timers: 1, ..Bounds::CALM };

#[test]
fn numbers_rise_in_real_time_while_the_leader_judges_after_the_holder() {
    let bounds = Bounds { faults: 1, crashes: 1, reads: Reads::OneStep, leader_changes: 0, ..NUMBERS };
    let scene = Scene::counter("numbers, a takeover, a fault, the time rule", numbers(), bounds);
    holds(
        scene,
        635_000,
        &[NumbersGiven, CurrentGiven, Takeover, FencedWrite, PassedWrite, StaleHolderAsked, LapsedRefused],
    );
}

#[test]
fn numbers_rise_in_real_time_through_a_change_of_the_leader() {
    let scene = Scene::counter("numbers, a takeover, a new leader, the time rule", numbers(), NUMBERS);
    holds(
        scene,
        1_248_000,
        &[NumbersGiven, CurrentGiven, Takeover, FencedWrite, PassedWrite, LeaderChanged, LapsedRefused],
    );
}

#[test]
fn numbers_rise_in_real_time_through_releases_and_renewals_and_claims_of_held_slots() {
    let bounds = Bounds { claims: 2, releases: 1, renewals: 1, leader_changes: 0, bold_claims: true, ..NUMBERS };
    let scene = Scene::counter("numbers, a release, a renewal, two claims, the time rule", numbers(), bounds);
    holds(scene, 3_616_000, &[NumbersGiven, CurrentGiven, Takeover, Released, ClaimRefused, LapsedRefused]);
}

/// That none is given twice, and all else, rests on no clock; their order in real time does.
#[test]
fn without_the_time_rule_all_holds_but_the_real_time_order_of_numbers() {
    let bounds = Bounds { time_rule: false, faults: 1, reads: Reads::OneStep, leader_changes: 0, ..NUMBERS };
    let scene = Scene::counter("numbers, a takeover, a fault, no rule", numbers(), bounds);
    let report =
        run(scene, 1_334_000, &[NumbersGiven, CurrentGiven, Takeover, FencedWrite, PassedWrite, StaleHolderAsked]);
    let broken: Vec<_> = report.broken.iter().map(|(property, _)| *property).collect();
    assert_eq!(broken, [I2_NUMBERS], "{report}");
}

/// As the first scene, and any one message is lost or late besides.
#[test]
fn messages_hold_through_everything_at_once() {
    let bounds = Bounds { faults: 1, leader_changes: 1, ..TAKEOVER };
    let scene = Scene::one_slot("3 sends, a retry, a takeover, a new leader, a fault", three_and_a_retry(), bounds);
    let reached = [FencedWrite, OvertakenWrite, PassedWrite, DedupedRetry, Takeover, StaleHolderAsked, LocalWritten];
    holds(scene, 746_000, &reached);
}
