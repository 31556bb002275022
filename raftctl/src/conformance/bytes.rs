//! Bytes: frames as the page of the protocol has them, cut, spoilt and unknown; and what a page of an inbox proves.

use seriatim_client::raw::{RawStream, read_sync_page};
use seriatim_client::{SyncPage, verify_page};
use seriatim_proto::chain;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{BodyHash, Chain};
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;

use super::peer::{CONTROL, Peer, frame, message};
use super::session::{UNKNOWN_FRAME, UNKNOWN_OPTIONAL_FRAME, has_streams};
use super::{Outcome, Scene, ensure, fail, same};

/// The page with the vectors.
const PROTOCOL: &str = include_str!("../../../docs/protocol.md");

/// The bytes of a vector, by its first column.
fn vector(name: &str) -> Outcome<Vec<u8>> {
    let row = PROTOCOL.lines().find_map(|line| line.strip_prefix("| ")?.strip_prefix(name)?.strip_prefix(" | `"));
    let digits = row.and_then(|rest| rest.split('`').next());
    let bytes = digits.map(|digits| digits.split(' ').map(|byte| u8::from_str_radix(byte, 16)).collect());
    match bytes {
        Some(Ok(bytes)) => Ok(bytes),
        _ => fail(format!("docs/protocol.md has no vector `{name}`")),
    }
}

/// The request that a vector asks, where it goes, and whether it is answered like this. What is refused as not there
/// has been understood.
type Vector = (&'static str, u64, On, fn(&Said) -> bool);

#[derive(Clone, Copy, PartialEq, Eq)]
enum On {
    Control,
    Lane,
    Call,
}

fn is_refused(said: &Said, codes: &[ErrorCode]) -> bool {
    matches!(said, Said::Error(error) if codes.iter().any(|code| error.code == u32::from(code.number())))
}

/// An amendment under the id of the message, which was sent before.
fn is_conflict(said: &Said) -> bool {
    is_refused(said, &[ErrorCode::Conflict])
}

const VECTORS: &[Vector] = &[
    ("Ping, request 7, nonce 3", 7, On::Control, |said| *said == Said::Pong(v1::Pong { nonce: 3 })),
    ("Subscribe from 1, credit 100, request 2", 2, On::Control, |said| matches!(said, Said::Subscribed(_))),
    ("Ack of everything below 300, request 3", 3, On::Control, |said| {
        matches!(said, Said::Acked(_)) || is_refused(said, &[ErrorCode::CursorAhead])
    }),
    ("Send \"hi\" to bob, request 4", 4, On::Lane, |said| matches!(said, Said::Committed(_))),
    ("Amend: edit 9 to \"ho\", request 10", 10, On::Lane, is_conflict),
    ("Amend: recall 9, request 10", 10, On::Lane, is_conflict),
    ("Amend: react to 9 with +, request 10", 10, On::Lane, is_conflict),
    ("Amend: unpin 9, request 10", 10, On::Lane, is_conflict),
    ("Mark: bob's read up to 300, request 11", 11, On::Lane, |said| {
        matches!(said, Said::Marked(_)) || is_refused(said, &[ErrorCode::NotFound])
    }),
    ("Next 10 of orders, request 8", 8, On::Lane, |said| is_refused(said, &[ErrorCode::Forbidden])),
    ("Current of orders, request 9", 9, On::Lane, |said| is_refused(said, &[ErrorCode::Forbidden])),
    ("Renew by the token, request 13", 13, On::Control, |said| is_refused(said, &[ErrorCode::AuthFailed])),
    ("List, request 12", 12, On::Call, |said| matches!(said, Said::ListPage(_))),
    ("Sync from 1, request 5", 5, On::Call, |said| matches!(said, Said::SyncPage(_))),
    ("Status, request 6", 6, On::Call, |said| matches!(said, Said::StatusPage(_))),
];

pub(super) async fn vectors_are_read(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    for (name, request_id, on, is_answer) in VECTORS {
        let bytes = vector(name)?;
        let lane = match on {
            On::Control => CONTROL,
            On::Lane => peer.lane().await?,
            On::Call => peer.open().await?,
        };
        peer.write(lane, &bytes, *on == On::Call).await?;
        let said = peer.answer(lane, *request_id).await?;
        ensure(is_answer(&said), &format!("the answer to `{name}`"), &said)?;
        if let Said::Committed(committed) = said {
            is_as_described(&mut peer, committed.seq).await?;
        }
    }
    let mut hello = Peer::connect(scene.site).await?;
    hello.write(CONTROL, &vector("Hello, request 1")?, false).await?;
    hello.closes(ErrorCode::AuthFailed).await?;
    if has_streams(scene) { Ok(()) } else { vectors_of_a_websocket(scene).await }
}

/// What the gateway has read in the vector of Send is what the page says of it.
async fn is_as_described(peer: &mut Peer, seq: u64) -> Outcome {
    let to = v1::Conversation { id: Some(v1::conversation::Id::Peer("bob".to_owned())) };
    let page = peer.history(&to, seq, 1).await?;
    let Some(entry) = page.entries.first() else { return fail("expected the message in History, came none") };
    let came = (entry.conversation_seq, &entry.message_id[..], &entry.salt[..], &entry.body[..]);
    let id: Vec<u8> = (0..16).collect();
    same("place, id, salt and body of the vector", came, (seq, &id[..], &[1, 2, 3, 4][..], &b"hi"[..]))
}

/// Frames that say their streams themselves.
async fn vectors_of_a_websocket(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    peer.write_bytes(CONTROL, &vector("on a WebSocket: Ping, request 7, nonce 3, control stream")?).await?;
    same("the answer to Ping", peer.answer(CONTROL, 7).await?, Said::Pong(v1::Pong { nonce: 3 }))?;
    let lane = peer.lane().await?;
    let call = peer.open().await?;
    same("lane and call", (lane, call), (1, 2))?;
    let to = peer.user.conversation();
    peer.send(&to, "on lane 1").await?;
    peer.write_bytes(call, &vector("on a WebSocket: Status, request 6, lane 2, the device's last frame")?).await?;
    let said = peer.answer(call, 6).await?;
    ensure(matches!(said, Said::StatusPage(_)), "StatusPage", said)?;
    peer.ended(RawStream::Lane(call)).await?;
    peer.write_bytes(lane, &vector("on a WebSocket: the device ends lane 1")?).await?;
    peer.ended(RawStream::Lane(lane)).await
}

/// A page of the whole inbox, which proves itself.
async fn proved(peer: &mut Peer) -> Outcome<SyncPage> {
    let page = peer.sync(1, 0).await?;
    let page = read_sync_page(page).or_else(|error| fail(format!("a page with a wrong {error}")))?;
    match verify_page(&peer.user.id()?, Chain::default(), &page) {
        Ok(_) => Ok(page),
        Err(error) => fail(format!("expected a page that proves itself, came: {error}")),
    }
}

pub(super) async fn hash_and_chain_follow_from_what_was_sent(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let (mut alice, mut bob) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let sent = message(&bob.user.conversation(), "bound by its hash");
    let seq = alice.committed(Asked::Send(sent.clone())).await?.seq;
    bob.first_entries(1).await?;
    let page = proved(&mut bob).await?;
    let [entry] = &page.entries[..] else {
        return fail(format!("expected one entry, came {}", page.entries.len()));
    };
    same("the body hash", entry.body_hash, chain::body_hash(&sent.salt, &sent.body))?;
    same("message id", &entry.message_id.0[..], &sent.message_id[..])?;
    same("the place in the conversation", entry.conversation_seq.get(), seq)?;
    same("the sender", entry.sender.as_str(), alice.user.name.as_str())?;
    same("the chain that the entry has", entry.chain, Some(page.chain))
}

pub(super) async fn cuts_do_not_matter(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    let lane = peer.lane().await?;
    let sends = [message(&to, "one"), message(&to, "two"), message(&to, "three")];
    let frames: Vec<_> = (100..).zip(&sends).map(|(id, send)| frame(id, Asked::Send(send.clone()))).collect();
    if has_streams(scene) {
        // Each piece is on its way before the next one is written.
        let bytes = frames.concat();
        for piece in bytes.chunks(bytes.len() / 7) {
            peer.write_bytes(lane, piece).await?;
            peer.is_alive().await?;
        }
    } else {
        // A message holds whole frames: all in one, then each in its own.
        peer.write(lane, &frames.concat(), false).await?;
    }
    let mut places = Vec::new();
    for id in 100..103 {
        places.push(peer.answer(lane, id).await?);
    }
    ensure(places.iter().all(|said| matches!(said, Said::Committed(_))), "three times Committed", &places)?;
    for (id, frame) in (100..).zip(&frames) {
        peer.write(lane, frame, false).await?;
        let again = peer.answer(lane, id).await?;
        ensure(
            matches!(&again, Said::Committed(again) if again.duplicate),
            "the same in one piece: a duplicate",
            again,
        )?;
    }
    Ok(())
}

pub(super) async fn lengths_and_noise_are_refused(scene: &Scene<'_>) -> Outcome {
    let noises: [(&[u8], ErrorCode); 6] = [
        // 262,145, and nothing behind it.
        (&[0x81, 0x80, 0x10], ErrorCode::FrameTooLarge),
        (&[0xff, 0xff, 0xff, 0x7f], ErrorCode::FrameTooLarge),
        (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x00], ErrorCode::Malformed),
        (&[3, 0xff, 0xff, 0xff], ErrorCode::Malformed),
        // Half a field, and half a body.
        (&[1, 0x08], ErrorCode::Malformed),
        (&[3, 0x5a, 2, 0x08], ErrorCode::Malformed),
    ];
    for (noise, code) in noises {
        let mut peer = scene.enter("alice").await?;
        let lane = peer.open().await?;
        peer.write_bytes(lane, noise).await?;
        peer.closes(code).await?;
    }
    Ok(())
}

pub(super) async fn what_is_not_known_is_a_frame(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let pong = |nonce| Said::Pong(v1::Pong { nonce });
    // Ping with field 99 beside its body, and with field 99 in it.
    peer.write(CONTROL, &[9, 0x08, 7, 0x5a, 2, 0x08, 3, 0x9a, 0x06, 0], false).await?;
    peer.write(CONTROL, &[9, 0x08, 8, 0x5a, 5, 0x08, 4, 0x98, 0x06, 1], false).await?;
    same("the answer to a Ping with a field beside it", peer.answer(CONTROL, 7).await?, pong(3))?;
    same("the answer to a Ping with a field in it", peer.answer(CONTROL, 8).await?, pong(4))?;
    // On a lane, and what comes behind is read.
    let lane = peer.lane().await?;
    let to = peer.user.conversation();
    let send = frame(99, Asked::Send(message(&to, "behind")));
    peer.write(lane, &[UNKNOWN_OPTIONAL_FRAME, UNKNOWN_FRAME, &send[..]].concat(), false).await?;
    let said = peer.answer(lane, 7).await?;
    ensure(is_refused(&said, &[ErrorCode::Unsupported]), "UNSUPPORTED", &said)?;
    let said = peer.answer(lane, 99).await?;
    ensure(matches!(said, Said::Committed(_)), "Committed behind it", said)
}

pub(super) async fn changed_pages_do_not_prove_themselves(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    for text in ["one", "two", "three"] {
        peer.send(&to, text).await?;
    }
    peer.first_entries(3).await?;
    let (user, page) = (peer.user.id()?, proved(&mut peer).await?);
    same("entries of the page", page.entries.len(), 3)?;
    type Change = (&'static str, fn(&mut SyncPage));
    let changes: [Change; 5] = [
        ("a changed body hash", |page| page.entries[1].body_hash = BodyHash([0; 16])),
        ("a changed time", |page| page.entries[1].at_ms += 1),
        ("a changed place", |page| page.entries[1].conversation_seq = page.entries[2].conversation_seq),
        ("a left-out entry", |page| drop(page.entries.remove(1))),
        ("another order", |page| page.entries.swap(1, 2)),
    ];
    for (what, change) in changes {
        let mut changed = page.clone();
        change(&mut changed);
        let verdict = verify_page(&user, Chain::default(), &changed);
        ensure(verdict.is_err(), &format!("{what} to break the chain of the gateway's page"), verdict)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_vector_of_a_device_is_sent_to_the_gateway() {
        let section = PROTOCOL.split("\n## Vectors\n").nth(1).expect("the page has vectors");
        let rows: Vec<_> = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | `").next()).collect();
        // What only a gateway says, and what is hashed.
        let others = ["Numbers 41", "CurrentNumber", "Committed", "Renewed", "Error", "Lagging"];
        let is_devices = |row: &&str| {
            row.contains(", request") && !others.iter().any(|other| row.starts_with(other)) && !row.starts_with("on a ")
        };
        let devices: Vec<_> = rows.iter().copied().filter(is_devices).collect();
        let mut sent: Vec<_> = VECTORS.iter().map(|(name, ..)| *name).collect();
        sent.push("Hello, request 1");
        let missing: Vec<_> = devices.iter().filter(|row| !sent.contains(row)).collect();
        assert!(missing.is_empty() && devices.len() == sent.len(), "{missing:?}");
        assert!(sent.iter().all(|name| vector(name).is_ok_and(|bytes| bytes.len() > 1)));
        assert!(vector("no such vector").is_err());
    }
}
