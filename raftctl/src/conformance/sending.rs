//! Sending: places, repetitions, order, and what became of a send.

use seriatim_proto::error::ErrorCode;
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::send_status::State;
use seriatim_proto::wire::v1::server_frame::Body as Said;

use super::peer::{Peer, is_error, message, new_id};
use super::{Outcome, Scene, ensure, fail, same};

/// Largest body, as the claim has it.
const BODY_BYTES_MAX: usize = 65_536;

fn query(of: &v1::Send) -> Asked {
    let (message_id, conversation) = (of.message_id.clone(), of.conversation.clone());
    Asked::QuerySend(v1::QuerySend { message_id, conversation, known: of.known })
}

fn cancel(of: &v1::Send) -> Asked {
    let (message_id, conversation) = (of.message_id.clone(), of.conversation.clone());
    Asked::CancelSend(v1::CancelSend { message_id, conversation, known: of.known })
}

/// The conversation's tail, as a device learns it: with it a new message is not taken for an old one.
async fn known(peer: &mut Peer, of: &v1::Conversation) -> Outcome<u64> {
    let mut from = 0;
    loop {
        match peer.ask(Asked::History(v1::History { conversation: Some(of.clone()), from, limit: 0 })).await? {
            Said::HistoryPage(page) if page.more && page.upto > from => from = page.upto,
            Said::HistoryPage(page) => return Ok(page.upto),
            // Nobody has said anything in it.
            Said::Error(error) if error.code == u32::from(ErrorCode::NotFound.number()) => return Ok(0),
            other => return fail(format!("expected HistoryPage, came {other:?}")),
        }
    }
}

/// Rising, each above the one before.
pub(super) fn is_rising(places: &[u64]) -> bool {
    places.windows(2).all(|pair| pair[0] < pair[1])
}

pub(super) async fn a_send_has_a_place(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    let first = peer.committed(Asked::Send(message(&to, "one"))).await?;
    let second = peer.committed(Asked::Send(message(&to, "two"))).await?;
    same("duplicate", (first.duplicate, second.duplicate), (false, false))?;
    ensure(second.seq > first.seq, &format!("a place above {}", first.seq), second.seq)
}

pub(super) async fn the_same_again_is_a_duplicate(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let send = message(&peer.user.conversation(), "once");
    let first = peer.committed(Asked::Send(send.clone())).await?;
    same("duplicate, the first time", first.duplicate, false)?;
    let expected = v1::Committed { seq: first.seq, duplicate: true };
    same("the second time", peer.committed(Asked::Send(send.clone())).await?, expected)?;
    // From another device, too: the id is the user's.
    let mut other = scene.enter_as(peer.user.clone(), "laptop").await?;
    same("from another device", other.committed(Asked::Send(send)).await?, expected)
}

pub(super) async fn another_body_is_a_conflict(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let send = message(&peer.user.conversation(), "one body");
    peer.committed(Asked::Send(send.clone())).await?;
    peer.refused(Asked::Send(v1::Send { body: "another".into(), ..send.clone() }), ErrorCode::Conflict).await?;
    // The salt is bound as the body is.
    peer.refused(Asked::Send(v1::Send { salt: new_id(), ..send }), ErrorCode::Conflict).await?;
    Ok(())
}

pub(super) async fn the_largest_body_and_one_byte_more(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    let largest: Vec<u8> = (0..BODY_BYTES_MAX).map(|place| (place % 251) as u8).collect();
    let seq = peer.committed(Asked::Send(message(&to, largest.clone()))).await?.seq;
    let page = peer.history(&to, seq, 1).await?;
    let body = page.entries.first().map(|entry| entry.body.clone());
    ensure(body.as_deref() == Some(&largest[..]), "the body as it was sent", body.map(|body| body.len()))?;
    for bytes in [BODY_BYTES_MAX + 1, 200_000] {
        let send = Asked::Send(message(&to, vec![7; bytes]));
        peer.refused(send, ErrorCode::MessageTooLarge).await?;
    }
    peer.send(&to, "after").await?;
    peer.is_alive().await
}

/// Writes all at once, and again those that an error wants again; their places.
pub(super) async fn pipeline(peer: &mut Peer, requests: &[Asked]) -> Outcome<Vec<u64>> {
    let lane = peer.lane().await?;
    let mut places = vec![0; requests.len()];
    let mut open: Vec<usize> = (0..requests.len()).collect();
    let mut rounds = 0;
    while !open.is_empty() {
        rounds += 1;
        ensure(rounds < 100, "all of them committed after a hundred attempts", open.len())?;
        let mut asked = Vec::new();
        for place in &open {
            asked.push((*place, peer.say(lane, requests[*place].clone()).await?));
        }
        open.clear();
        for (place, id) in asked {
            match peer.answer(lane, id).await? {
                Said::Committed(committed) => places[place] = committed.seq,
                Said::Error(error) if error.retry => open.push(place),
                other => return fail(format!("expected Committed, came {other:?}")),
            }
        }
    }
    Ok(places)
}

pub(super) async fn pipelined_sends_keep_their_order(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    let limit = peer.welcome.limits.map_or(0, |limits| limits.requests);
    let count = limit.clamp(2, 200);
    let known = known(&mut peer, &to).await?;
    let mut follows = bytes::Bytes::new();
    let mut requests = Vec::new();
    for place in 0..count {
        let send = v1::Send { known, follows, ..message(&to, place.to_string()) };
        follows = send.message_id.clone();
        requests.push(Asked::Send(send));
    }
    let places = pipeline(&mut peer, &requests).await?;
    ensure(is_rising(&places), "places in the order of the sends", &places)?;
    let mut bodies = Vec::new();
    let (mut from, mut more) = (places[0], true);
    while more {
        let page = peer.history(&to, from, 64).await?;
        ensure(page.upto > from, &format!("pages that go on behind {from}"), page.upto)?;
        (from, more) = (page.upto, page.more);
        bodies.extend(page.entries.into_iter().map(|entry| String::from_utf8_lossy(&entry.body).into_owned()));
    }
    let expected: Vec<_> = (0..count).map(|place| place.to_string()).collect();
    same("the conversation", bodies, expected)
}

pub(super) async fn one_that_is_too_early(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    let known = known(&mut peer, &to).await?;
    let first = v1::Send { known, ..message(&to, "1") };
    let second = v1::Send { known, follows: first.message_id.clone(), ..message(&to, "2") };
    peer.refused(Asked::Send(second.clone()), ErrorCode::OutOfOrder).await?;
    let one = peer.committed(Asked::Send(first)).await?.seq;
    let two = peer.committed(Asked::Send(second)).await?.seq;
    ensure(two > one, &format!("a place behind {one}"), two)
}

pub(super) async fn a_send_can_be_asked_for(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let send = message(&peer.user.conversation(), "asked for");
    same("an id that nobody sent", peer.status_of(query(&send)).await?.0, State::NotYet)?;
    let seq = peer.committed(Asked::Send(send.clone())).await?.seq;
    same("a message", peer.status_of(query(&send)).await?, (State::Committed, seq))
}

pub(super) async fn a_cancelled_send_never_happens(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    let before = peer.send(&to, "before").await?;
    let send = v1::Send { known: before + 1, ..message(&to, "never") };
    for asked in [cancel(&send), cancel(&send), query(&send)] {
        same("the verdict on an id that nobody sent", peer.status_of(asked).await?.0, State::Cancelled)?;
    }
    peer.refused(Asked::Send(send.clone()), ErrorCode::Cancelled).await?;
    peer.refused(Asked::Send(v1::Send { body: "another".into(), ..send.clone() }), ErrorCode::Cancelled).await?;
    let behind = v1::Send { known: before + 1, follows: send.message_id.clone(), ..message(&to, "behind") };
    peer.committed(Asked::Send(behind)).await?;
    let page = peer.history(&to, before, 0).await?;
    let bodies: Vec<_> = page.entries.iter().map(|entry| &entry.body[..]).collect();
    same("the conversation", bodies, vec![&b"before"[..], b"behind"])
}

pub(super) async fn a_committed_message_cannot_be_cancelled(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let send = message(&peer.user.conversation(), "faster");
    let seq = peer.committed(Asked::Send(send.clone())).await?.seq;
    same("the verdict", peer.status_of(cancel(&send)).await?, (State::Committed, seq))?;
    same("the send again", peer.committed(Asked::Send(send)).await?, v1::Committed { seq, duplicate: true })
}

pub(super) async fn fields_out_of_their_range(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let good = message(&peer.user.conversation(), "good");
    let named = |id| Some(v1::Conversation { id: Some(id) });
    let wrong = [
        ("an id of 15 bytes", v1::Send { message_id: vec![0; 15].into(), ..good.clone() }),
        ("no id", v1::Send { message_id: bytes::Bytes::new(), ..good.clone() }),
        ("a salt of 33 bytes", v1::Send { salt: vec![0; 33].into(), ..good.clone() }),
        ("no conversation", v1::Send { conversation: None, ..good.clone() }),
        ("an empty conversation", v1::Send { conversation: Some(v1::Conversation { id: None }), ..good.clone() }),
        (
            "a name of 65 bytes",
            v1::Send { conversation: named(v1::conversation::Id::Peer("x".repeat(65))), ..good.clone() },
        ),
        (
            "a group of 15 bytes",
            v1::Send { conversation: named(v1::conversation::Id::Group(vec![0; 15].into())), ..good.clone() },
        ),
        ("an id of 15 bytes to follow", v1::Send { follows: vec![0; 15].into(), ..good.clone() }),
    ];
    for (what, send) in wrong {
        match peer.ask(Asked::Send(send)).await? {
            Said::Error(error) => is_error(&error, ErrorCode::Malformed)?,
            other => return fail(format!("{what}: expected MALFORMED, came {other:?}")),
        }
    }
    peer.committed(Asked::Send(good)).await?;
    peer.is_alive().await
}
