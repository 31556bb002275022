//! With one check of the cores taken out, the model check finds the bug that it keeps away; with all in place, the
//! same scene holds.

use seriatim_model::scene::{Ask, Bounds, Request, Scene};
use seriatim_model::{Check, I2_NUMBERS};
use seriatim_proto::guard::Guard;

fn once(ask: Ask) -> Request {
    Request { ask, attempts: 1 }
}

fn send(id: u8) -> Request {
    once(Ask::Send { sender: 0, id, body: id })
}

/// An assertion of a core that fails is what a check looks for: once is enough in the output.
fn hush() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !std::thread::current().name().is_some_and(|name| name.starts_with("checker-")) {
                usual(info);
            }
        }));
    });
}

/// What does not hold without the guard; all does with it.
fn assert_finds(guard: Guard, scene: &Scene, expected: &[&str]) {
    hush();
    let control = Check::new(scene.clone()).run();
    println!("{control}");
    assert!(control.broken.is_empty() && control.whole, "{guard:?}: the control is broken\n{control}");
    let report = Check::new(scene.clone().without(guard)).run();
    println!("{guard:?} is out, {report}");
    let broken: Vec<_> = report.broken.iter().map(|(property, _)| *property).collect();
    assert!(!broken.is_empty(), "{guard:?}: nothing was found");
    assert!(broken.iter().all(|property| expected.contains(property)), "{guard:?}: {broken:?}");
}

/// Two sends, and a second holder that takes over while the first still writes.
fn takeover() -> Scene {
    let bounds = Bounds { claims: 1, expiries: 1, time_rule: false, ..Bounds::CALM };
    Scene::one_slot("two sends, a takeover", vec![send(1), send(2)], bounds)
}

#[test]
fn a_write_under_a_stale_epoch_is_found() {
    assert_finds(Guard::FenceEpoch, &takeover(), &["I3", "no panic", "no alarm"]);
}

#[test]
fn a_write_out_of_its_turn_is_found() {
    let scene = Scene::one_slot("three sends", vec![send(1), send(2), send(3)], Bounds::CALM);
    assert_finds(Guard::FenceN, &scene, &["I3"]);
}

#[test]
fn a_retry_that_is_appended_again_is_found() {
    let twice = Request { attempts: 2, ..send(1) };
    let scene = Scene::one_slot("a send and its retry", vec![twice], Bounds::CALM);
    assert_finds(Guard::Dedupe, &scene, &["I7"]);
}

#[test]
fn an_entry_that_is_delivered_twice_is_found() {
    let bounds = Bounds { faults: 1, ..Bounds::CALM };
    let scene = Scene::two_slots("a delivery, doubled", vec![send(1)], bounds);
    assert_finds(Guard::DeliveryRepeat, &scene, &["no panic", "I9"]);
}

#[test]
fn two_segments_under_way_are_found() {
    let scene = Scene::one_slot("three sends", vec![send(1), send(2), send(3)], Bounds::CALM);
    assert_finds(Guard::OneFetch, &scene, &["no alarm"]);
}

/// A counter whose holder is replaced.
fn counting(bounds: Bounds) -> Scene {
    let asks = [Ask::Next(1), Ask::Next(1), Ask::Next(1)];
    Scene::counter("three numbers", asks.map(once).to_vec(), bounds)
}

#[test]
fn a_holder_that_counts_on_after_its_lease_is_found() {
    let scene = counting(Bounds { claims: 1, expiries: 1, ..Bounds::CALM });
    assert_finds(Guard::LeaseEnd, &scene, &[I2_NUMBERS]);
}

#[test]
fn a_holder_that_counts_on_after_it_gave_its_slot_back_is_found() {
    let scene = counting(Bounds { claims: 1, releases: 1, ..Bounds::CALM });
    assert_finds(Guard::Released, &scene, &[I2_NUMBERS]);
}

#[test]
fn a_claim_of_a_slot_that_is_held_is_found() {
    let scene = counting(Bounds { claims: 1, bold_claims: true, ..Bounds::CALM });
    assert_finds(Guard::ClaimOfHeld, &scene, &["I3", I2_NUMBERS]);
}

#[test]
fn a_ceiling_that_is_not_stored_is_found() {
    assert_finds(Guard::CeilingStored, &counting(Bounds::CALM), &["I4", "I1"]);
}

#[test]
fn every_guard_has_its_test() {
    let source = include_str!("guards.rs");
    for guard in Guard::ALL {
        assert!(source.contains(&format!("assert_finds(Guard::{guard:?},")), "{guard:?}");
    }
}
