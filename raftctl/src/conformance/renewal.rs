//! Renewal: a fresh token within a session.

use std::time::Duration;

use seriatim_proto::error::ErrorCode;
use seriatim_proto::logic::Scopes;
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;

use super::peer::{Peer, is_error};
use super::{Outcome, Scene, ensure, fail};

/// Life of a first token, in seconds: its end is waited for.
const SHORT_SECONDS: i64 = 3;
/// Life of a fresh one.
const LONG_SECONDS: i64 = 600;

fn renew(token: &str) -> Asked {
    Asked::Renew(v1::Renew { token: token.to_owned() })
}

async fn renewed(peer: &mut Peer, token: &str, seconds: i64) -> Outcome {
    let life_ms = 1..=seconds.unsigned_abs() * 1_000;
    match peer.ask(renew(token)).await? {
        Said::Renewed(said) => ensure(life_ms.contains(&said.expires_in_ms), "the life of the token", said),
        other => fail(format!("expected Renewed, came {other:?}")),
    }
}

pub(super) async fn a_renewed_session_outlives_its_first_token(scene: &Scene<'_>) -> Outcome {
    let first = scene.minted("alice", SHORT_SECONDS, Scopes::DEVICE)?;
    let fresh = scene.minted("alice", LONG_SECONDS, Scopes::DEVICE)?;
    let mut peer = scene.enter_as(first, "phone").await?;
    let left_ms = peer.welcome.expires_in_ms;
    ensure((1..=SHORT_SECONDS.unsigned_abs() * 1_000).contains(&left_ms), "the token's life in Welcome", left_ms)?;
    renewed(&mut peer, &fresh.token, LONG_SECONDS).await?;
    // What is waited for is that the first token is over; clocks have seconds.
    tokio::time::sleep(Duration::from_millis(left_ms + 1_000)).await;
    let to = peer.user.conversation();
    peer.send(&to, "beyond the end of the first token").await?;
    peer.is_alive().await
}

pub(super) async fn a_refused_renewal_does_no_harm(scene: &Scene<'_>) -> Outcome {
    let first = scene.minted("alice", 2 * SHORT_SECONDS, Scopes::DEVICE)?;
    let (other, late) = (scene.minted("bob", LONG_SECONDS, Scopes::DEVICE)?, scene.expired()?);
    let mut peer = scene.enter_as(first, "phone").await?;
    for (token, code) in [
        ("", ErrorCode::AuthFailed),
        ("abc", ErrorCode::AuthFailed),
        (other.token.as_str(), ErrorCode::AuthFailed),
        (late.token.as_str(), ErrorCode::AuthExpired),
    ] {
        peer.refused(renew(token), code).await?;
        peer.is_alive().await?;
    }
    peer.closes(ErrorCode::AuthExpired).await
}

pub(super) async fn the_scopes_of_the_new_token_hold(scene: &Scene<'_>) -> Outcome {
    let counting = scene.minted("alice", LONG_SECONDS, Scopes::SEQUENCE)?;
    let mut peer = scene.enter_as(scene.minted("alice", LONG_SECONDS, Scopes::DEVICE)?, "phone").await?;
    let next = Asked::Next(v1::Next { counter: "orders".to_owned(), count: 1 });
    let inbox = peer.subscribe(1, 10).await?;
    peer.refused(next.clone(), ErrorCode::Forbidden).await?;
    renewed(&mut peer, &counting.token, LONG_SECONDS).await?;
    match peer.pushed(inbox.stream).await? {
        Said::Error(error) => is_error(&error, ErrorCode::Forbidden)?,
        other => return fail(format!("expected FORBIDDEN on the inbox stream, came {other:?}")),
    }
    peer.ended(inbox.stream).await?;
    match peer.ask(next).await? {
        Said::Numbers(_) => {}
        other => return fail(format!("expected Numbers, came {other:?}")),
    }
    peer.refused(Asked::Status(v1::Status {}), ErrorCode::Forbidden).await?;
    Ok(())
}
