//! Session: Hello and its end, what is said on the wrong stream, and what is no frame.

use std::time::{SystemTime, UNIX_EPOCH};

use seriatim_client::raw::RawTransport;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::token::unverified;
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;

use super::peer::{CONTROL, Peer, frame, is_error, message, new_id};
use super::scene::Signer;
use super::{End, Outcome, Scene, ensure, fail, same};

/// Clocks of two machines differ by less.
const CLOCKS_DIFFER_S_MAX: u64 = 300;
/// Field 99, request 7: a frame whose body only a later version knows.
pub(super) const UNKNOWN_FRAME: &[u8] = &[6, 0x08, 7, 0x9a, 0x06, 1, 0];
/// The same for request 8, `optional`.
pub(super) const UNKNOWN_OPTIONAL_FRAME: &[u8] = &[8, 0x08, 8, 0x18, 1, 0x9a, 0x06, 1, 0];

/// A conversation that nobody has.
fn nobody(scene: &Scene<'_>) -> v1::Conversation {
    v1::Conversation { id: Some(v1::conversation::Id::Peer(scene.name("nobody"))) }
}

fn query(of: &v1::Conversation) -> Asked {
    Asked::QuerySend(v1::QuerySend { message_id: new_id(), conversation: Some(of.clone()), known: 0 })
}

pub(super) async fn a_good_token_is_welcome(scene: &Scene<'_>) -> Outcome {
    let user = scene.user("alice")?;
    let (tenant, name) = (user.tenant, user.name.clone());
    // Whatever the device calls itself: who it is comes from the token.
    let peer = scene.enter_as(user, "phone.mallory").await?;
    let welcome = &peer.welcome;
    same("tenant and user of Welcome", (welcome.tenant, welcome.user.as_str()), (tenant, name.as_str()))?;
    same("the minor version, where 0 is the only one asked for", welcome.minor, 0)?;
    same("features, where none were asked for", &welcome.features[..], &[])?;
    let Some(limits) = welcome.limits else { return fail("expected limits in Welcome, came none") };
    ensure(limits.message_bytes > 0 && limits.frame_bytes > limits.message_bytes, "frames larger than bodies", limits)?;
    let others = [limits.requests, limits.lanes, limits.sync_entries, limits.idle_timeout_ms];
    ensure(others.iter().all(|limit| *limit > 0), "limits above 0", limits)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let differs = now.abs_diff(welcome.server_time_ms / 1_000);
    ensure(differs < CLOCKS_DIFFER_S_MAX, "the gateway's clock in server_time_ms", welcome.server_time_ms)
}

/// Hello with this token ends the connection.
async fn is_closed(scene: &Scene<'_>, what: &str, token: String, code: ErrorCode) -> Outcome {
    let mut peer = Peer::connect(scene.site).await?;
    peer.say(CONTROL, Asked::Hello(v1::Hello { token, device: "phone".to_owned(), ..Default::default() })).await?;
    match peer.closes(code).await {
        Err(End::Failed(words)) => fail(format!("{what}: {words}")),
        other => other,
    }
}

pub(super) async fn bad_tokens_are_refused(scene: &Scene<'_>) -> Outcome {
    let good = scene.user("alice")?.token;
    let Some(claims) = unverified(&good).map(|said| said.claims) else { return fail("the good token is no JWT") };
    let stranger = scene.signed(&claims, Signer::Unknown)?;
    is_closed(scene, "the same claims, signed by another key", stranger, ErrorCode::AuthFailed).await?;
    is_closed(scene, "no token", String::new(), ErrorCode::AuthFailed).await?;
    is_closed(scene, "`abc`", "abc".to_owned(), ErrorCode::AuthFailed).await?;
    let Some((signed, signature)) = good.rsplit_once('.') else { return fail("the good token is no JWT") };
    let place = signature.len() / 2;
    let other = if signature.as_bytes().get(place) == Some(&b'A') { 'B' } else { 'A' };
    let forged: String =
        signature.char_indices().map(|(at, letter)| if at == place { other } else { letter }).collect();
    is_closed(scene, "another signature", format!("{signed}.{forged}"), ErrorCode::AuthFailed).await?;
    is_closed(scene, "no signature", format!("{signed}."), ErrorCode::AuthFailed).await?;
    // Signed by the right key, and for somebody else.
    for audience in [Some("another"), None] {
        let mut claims = claims.clone();
        match audience {
            Some(audience) => claims["aud"] = audience.into(),
            None => drop(claims.as_object_mut().and_then(|claims| claims.remove("aud"))),
        }
        let token = scene.signed(&claims, Signer::Known)?;
        is_closed(scene, &format!("a token for the audience {audience:?}"), token, ErrorCode::AuthFailed).await?;
    }
    Ok(())
}

pub(super) async fn an_expired_token_is_refused(scene: &Scene<'_>) -> Outcome {
    is_closed(scene, "a token that ended a minute ago", scene.expired()?.token, ErrorCode::AuthExpired).await
}

pub(super) async fn no_version_in_common(scene: &Scene<'_>) -> Outcome {
    let token = scene.user("alice")?.token;
    let mut peer = Peer::connect(scene.site).await?;
    let hello =
        v1::Hello { min_minor: 1_000, max_minor: 1_001, token, device: "phone".to_owned(), ..Default::default() };
    peer.say(CONTROL, Asked::Hello(hello)).await?;
    peer.closes(ErrorCode::Unsupported).await
}

pub(super) async fn ping_is_answered(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    for nonce in [0, 1 << 63] {
        let said = peer.ask(Asked::Ping(v1::Ping { nonce })).await?;
        same("the answer to Ping", said, Said::Pong(v1::Pong { nonce }))?;
    }
    Ok(())
}

pub(super) async fn the_end_of_the_control_stream(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    peer.write(CONTROL, &[], true).await?;
    peer.closes(ErrorCode::CriticalStreamClosed).await
}

pub(super) async fn frames_on_a_stream_that_is_not_theirs(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let token = peer.user.token.clone();
    peer.say(CONTROL, Asked::Hello(v1::Hello { token, device: "phone".to_owned(), ..Default::default() })).await?;
    peer.closes(ErrorCode::WrongStream).await?;

    let mut peer = scene.enter("alice").await?;
    peer.say(CONTROL, Asked::Sync(v1::Sync { from: 1, limit: 0 })).await?;
    peer.closes(ErrorCode::WrongStream).await?;

    let mut peer = scene.enter("alice").await?;
    let lane = peer.lane().await?;
    peer.say(lane, query(&nobody(scene))).await?;
    peer.say(lane, Asked::Status(v1::Status {})).await?;
    peer.closes(ErrorCode::WrongStream).await?;

    // A second question, in one piece: it must not find the stream closed behind the first one's answer.
    let mut peer = scene.enter("alice").await?;
    let call = peer.open().await?;
    let questions = [frame(8, Asked::Status(v1::Status {})), frame(9, Asked::Status(v1::Status {}))].concat();
    peer.write(call, &questions, false).await?;
    peer.closes(ErrorCode::WrongStream).await
}

pub(super) async fn bytes_that_are_no_frame(scene: &Scene<'_>) -> Outcome {
    let mut witness = scene.enter("alice").await?;
    let noises: [(&[u8], ErrorCode); 3] = [
        (&[0x81, 0x80, 0x10], ErrorCode::FrameTooLarge),
        (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], ErrorCode::Malformed),
        (&[3, 0xff, 0xff, 0xff], ErrorCode::Malformed),
    ];
    for (noise, code) in noises {
        let mut peer = scene.enter_as(witness.user.clone(), "noise").await?;
        peer.write_bytes(CONTROL, noise).await?;
        peer.closes(code).await?;
    }
    witness.is_alive().await
}

pub(super) async fn a_frame_that_is_not_known(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    peer.write(CONTROL, UNKNOWN_OPTIONAL_FRAME, false).await?;
    peer.write(CONTROL, UNKNOWN_FRAME, false).await?;
    peer.write(CONTROL, &frame(9, Asked::Ping(v1::Ping { nonce: 42 })), false).await?;
    let (id, said) = peer.next_on(CONTROL).await?;
    same("the request that is answered first: the optional one is ignored", id, 7)?;
    match said {
        Said::Error(error) => is_error(&error, ErrorCode::Unsupported)?,
        other => return fail(format!("expected UNSUPPORTED, came {other:?}")),
    }
    same("what comes behind", peer.next_on(CONTROL).await?, (9, Said::Pong(v1::Pong { nonce: 42 })))
}

pub(super) async fn a_lane_too_many(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let lanes = peer.welcome.limits.map_or(0, |limits| limits.lanes);
    ensure((1..=256).contains(&lanes), "a number of lanes in Welcome that can be tried out", lanes)?;
    for place in 0..=lanes {
        let lane = peer.open().await?;
        let id = peer.say(lane, query(&nobody(scene))).await?;
        // One after another: it is the last one that is too many.
        match peer.answer(lane, id).await? {
            Said::Error(error) if place == lanes => is_error(&error, ErrorCode::Busy)?,
            Said::SendStatus(_) if place < lanes => {}
            other => return fail(format!("on lane {} of {lanes}, came {other:?}", place + 1)),
        }
    }
    peer.is_alive().await?;
    // A message finds its way on the lanes that there are.
    let to = peer.user.conversation();
    let id = peer.say(1, Asked::Send(message(&to, "on the first lane"))).await?;
    let said = peer.answer(1, id).await?;
    ensure(matches!(said, Said::Committed(_)), "Committed on the first lane", said)
}

/// Is there a way to cut frames into pieces?
pub(super) fn has_streams(scene: &Scene<'_>) -> bool {
    scene.site.transport != RawTransport::WebSocket
}
