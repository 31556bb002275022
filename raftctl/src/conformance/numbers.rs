//! Numbers: runs of a counter, for tokens with the scope `sequence`.

use seriatim_proto::error::ErrorCode;
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;

use super::peer::{Peer, message};
use super::{Outcome, Scene, ensure, fail, same};

fn next(counter: &str, count: u32) -> Asked {
    Asked::Next(v1::Next { counter: counter.to_owned(), count })
}

async fn taken(peer: &mut Peer, counter: &str, count: u32) -> Outcome<v1::Numbers> {
    match peer.ask(next(counter, count)).await? {
        Said::Numbers(numbers) => Ok(numbers),
        other => fail(format!("expected Numbers, came {other:?}")),
    }
}

async fn current(peer: &mut Peer, counter: &str) -> Outcome<u64> {
    match peer.ask(Asked::Current(v1::Current { counter: counter.to_owned() })).await? {
        Said::CurrentNumber(current) => Ok(current.number),
        other => fail(format!("expected CurrentNumber, came {other:?}")),
    }
}

pub(super) async fn runs_never_overlap(scene: &Scene<'_>) -> Outcome {
    let user = scene.counting()?;
    let mut peers = [scene.enter_as(user.clone(), "one").await?, scene.enter_as(user, "other").await?];
    let counter = scene.name("orders");
    let mut runs = Vec::new();
    for count in [0, 1, 10, 65_536, 3] {
        // Both at once.
        let mut asked = Vec::new();
        for peer in &mut peers {
            let lane = peer.lane().await?;
            asked.push((lane, peer.say(lane, next(&counter, count)).await?));
        }
        for (peer, (lane, id)) in peers.iter_mut().zip(asked) {
            let numbers = match peer.answer(lane, id).await? {
                Said::Numbers(numbers) => numbers,
                Said::Error(error) if error.retry => taken(peer, &counter, count).await?,
                other => return fail(format!("expected Numbers, came {other:?}")),
            };
            same("how many", numbers.count, count.max(1))?;
            runs.push((numbers.first, numbers.first + u64::from(numbers.count)));
        }
    }
    runs.sort_unstable();
    ensure(runs[0].0 > 0, "numbers above 0", runs[0])?;
    ensure(runs.windows(2).all(|pair| pair[0].1 <= pair[1].0), "runs that do not overlap", &runs)
}

pub(super) async fn current_is_above_all(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter_as(scene.counting()?, "one").await?;
    let counter = scene.name("orders");
    for count in [1, 1_000, 7] {
        let numbers = taken(&mut peer, &counter, count).await?;
        let now = current(&mut peer, &counter).await?;
        let end = numbers.first + u64::from(numbers.count);
        ensure(now >= end, &format!("at least {end}"), now)?;
        let later = taken(&mut peer, &counter, 1).await?;
        ensure(later.first >= now, &format!("a number from {now} on"), later.first)?;
    }
    Ok(())
}

pub(super) async fn too_many_and_no_scope(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter_as(scene.counting()?, "one").await?;
    let counter = scene.name("orders");
    peer.refused(next(&counter, 65_537), ErrorCode::CountTooLarge).await?;
    taken(&mut peer, &counter, 65_536).await?;
    let to = v1::Conversation { id: Some(v1::conversation::Id::Peer(scene.name("nobody"))) };
    peer.refused(Asked::Send(message(&to, "hi")), ErrorCode::Forbidden).await?;
    let mut device = scene.enter("alice").await?;
    device.refused(next(&counter, 1), ErrorCode::Forbidden).await?;
    device.refused(Asked::Current(v1::Current { counter }), ErrorCode::Forbidden).await?;
    device.is_alive().await
}
