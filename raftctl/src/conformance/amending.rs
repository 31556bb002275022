//! Amending: edits, recalls, reactions and pins, and what their chain binds.

use seriatim_client::raw::read_sync_page;
use seriatim_client::{Kind as Checked, SyncPage, verify_page};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{Chain, Emoji, Seq};
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::amend::Act;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::entry::{Body as State, Kind};
use seriatim_proto::wire::v1::mark::What;
use seriatim_proto::wire::v1::send_status::State as Verdict;
use seriatim_proto::wire::v1::server_frame::Body as Said;

use super::groups::{add, grouped};
use super::peer::{Peer, amendment, is_error, message, new_id};
use super::sending::{is_rising, pipeline};
use super::{End, Outcome, Scene, ensure, fail, same};

/// Reactions of one member to a message.
const REACTIONS_MAX: usize = 16;

fn edit(body: &str) -> Act {
    Act::Edit(v1::Edit { salt: new_id(), body: body.to_owned().into() })
}

fn recall() -> Act {
    Act::Recall(v1::Recall {})
}

fn react(emoji: &str) -> Act {
    Act::React(v1::React { emoji: emoji.to_owned(), unset: false })
}

fn unreact(emoji: &str) -> Act {
    Act::React(v1::React { emoji: emoji.to_owned(), unset: true })
}

fn pin() -> Act {
    Act::Pin(v1::Pin { unset: false })
}

fn unpin() -> Act {
    Act::Pin(v1::Pin { unset: true })
}

/// An entry of every kind in the inbox of a fresh user; how many.
pub(super) async fn every_kind(peer: &mut Peer, other: &str) -> Outcome<usize> {
    let to = peer.user.conversation();
    let group = grouped(peer, &[]).await?;
    add(peer, &group, other).await?;
    let said = peer.send(&to, "said").await?;
    let acts = [edit("edited"), react("+"), unreact("+"), pin(), unpin(), recall()];
    for act in acts {
        peer.amend(&to, said, act).await?;
    }
    peer.send(&to, "a note").await?;
    let entries = peer.first_entries(10).await?;
    let note = entries.iter().find(|entry| &entry.body[..] == b"a note").map_or(0, |entry| entry.seq);
    for what in [What::ReadUpto(note), What::Muted(true), What::Archived(true)] {
        peer.mark(&to, what).await?;
    }
    peer.first_entries(13).await?;
    Ok(13)
}

pub(super) async fn amendments_come_in_order(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let (mut alice, mut bob) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let (to_bob, to_alice) = (bob.user.conversation(), alice.user.conversation());
    let said = alice.send(&to_bob, "helo").await?;
    alice.amend(&to_bob, said, edit("hello")).await?;
    bob.amend(&to_alice, said, react("👍")).await?;
    bob.amend(&to_alice, said, unreact("👍")).await?;
    bob.amend(&to_alice, said, pin()).await?;
    alice.amend(&to_bob, said, recall()).await?;
    let kinds = [Kind::Message, Kind::Edit, Kind::Reaction, Kind::Reaction, Kind::Pin, Kind::Recall];
    let (a, b) = (alice.user.name.clone(), bob.user.name.clone());
    for peer in [&mut alice, &mut bob] {
        let entries = peer.first_entries(6).await?;
        same("the kinds", entries.iter().map(v1::Entry::kind).collect::<Vec<_>>(), kinds.to_vec())?;
        let targets: Vec<_> = entries.iter().map(|entry| entry.target).collect();
        same("the targets", targets, vec![0, said, said, said, said, said])?;
        let senders: Vec<_> = entries.iter().map(|entry| &entry.sender).collect();
        same("the senders", senders, vec![&a, &a, &b, &b, &b, &a])?;
        let reactions: Vec<_> = entries[2..4].iter().map(|entry| (entry.emoji.as_str(), entry.unset)).collect();
        same("what the reactions say", reactions, vec![("👍", false), ("👍", true)])?;
        let places: Vec<_> = entries.iter().map(|entry| entry.conversation_seq).collect();
        ensure(is_rising(&places), "the order of the conversation", &places)?;
        ensure(entries.iter().all(|entry| entry.ordinal == 1), "only the message counted", entries[5].ordinal)?;
    }
    Ok(())
}

pub(super) async fn the_chain_binds_what_they_say(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let mut peer = scene.enter("alice").await?;
    let count = every_kind(&mut peer, &scene.name("bob")).await?;
    let page = peer.sync(1, 0).await?;
    let page = read_sync_page(page).or_else(|error| fail(format!("a page with a wrong {error}")))?;
    same("entries of the page", page.entries.len(), count)?;
    let user = peer.user.id()?;
    if let Err(error) = verify_page(&user, Chain::default(), &page) {
        return fail(format!("expected a page that proves itself, came: {error}"));
    }
    let elsewhere = Seq::new(1 << 40).ok_or_else(|| End::Failed("no seq".to_owned()))?;
    let plus = Emoji::new("-").or_else(|error| fail(format!("the emoji: {error}")))?;
    // Each amendment with another target, each reaction with another emoji, each mark taken back.
    let mut changed = Vec::new();
    for place in 0..page.entries.len() {
        let mut other = |what: &'static str, change: &dyn Fn(&mut seriatim_client::Entry)| {
            let mut page: SyncPage = page.clone();
            change(&mut page.entries[place]);
            changed.push((what, page));
        };
        match page.entries[place].kind {
            Checked::Edit { .. } => {
                other("an edit's target", &|entry| entry.kind = Checked::Edit { target: elsewhere })
            }
            Checked::Recall { .. } => {
                other("a recall's target", &|entry| entry.kind = Checked::Recall { target: elsewhere });
            }
            Checked::Reaction { .. } => {
                other("a reaction's target", &|entry| entry.kind = Checked::Reaction { target: elsewhere });
                other("a reaction's emoji", &|entry| entry.emoji = Some(plus.clone()));
                other("whether a reaction was set", &|entry| entry.unset = !entry.unset);
            }
            Checked::Pin { .. } => {
                other("a pin's target", &|entry| entry.kind = Checked::Pin { target: elsewhere });
                other("whether a pin was set", &|entry| entry.unset = !entry.unset);
            }
            Checked::Mute { on } => other("whether muted", &|entry| entry.kind = Checked::Mute { on: !on }),
            Checked::Archive { on } => other("whether archived", &|entry| entry.kind = Checked::Archive { on: !on }),
            Checked::Message | Checked::Create | Checked::Members | Checked::Read => {}
        }
    }
    same("what was changed", changed.len(), 14)?;
    for (what, page) in changed {
        let verdict = verify_page(&user, Chain::default(), &page);
        ensure(verdict.is_err(), &format!("{what}, changed, to break the chain of the gateway's page"), verdict)?;
    }
    Ok(())
}

pub(super) async fn nobody_is_given_what_was_recalled(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let (mut alice, mut bob) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let (to_bob, to_alice) = (bob.user.conversation(), alice.user.conversation());
    let kept = alice.send(&to_bob, "kept").await?;
    let said = alice.send(&to_bob, "a secret").await?;
    alice.amend(&to_bob, said, edit("another secret")).await?;
    alice.amend(&to_bob, kept, edit("kept, and edited")).await?;
    alice.amend(&to_bob, said, recall()).await?;
    alice.first_entries(5).await?;
    bob.first_entries(5).await?;
    let states = [State::Here, State::Erased, State::Erased, State::Here, State::Here];
    let expected: [&[u8]; 5] = [b"kept", b"", b"", b"kept, and edited", b""];
    let all = [
        ("History of the author", alice.history(&to_bob, 0, 0).await?.entries),
        ("History of the other one", bob.history(&to_alice, 0, 0).await?.entries),
        ("Sync of the author", alice.sync(1, 0).await?.entries),
        ("Sync of the other one", bob.sync(1, 0).await?.entries),
    ];
    for (whose, entries) in all {
        same(whose, entries.iter().map(v1::Entry::body_state).collect::<Vec<_>>(), states.to_vec())?;
        same(whose, entries.iter().map(|entry| &entry.body[..]).collect::<Vec<_>>(), expected.to_vec())?;
        let salts = entries[1..3].iter().all(|entry| entry.salt.is_empty() && entry.body_hash.len() == 16);
        ensure(salts, "no salt and the hash of what is erased", &entries[1])?;
    }
    for peer in [&mut alice, &mut bob] {
        super::receiving::proved_pages(peer, 2).await?;
    }
    Ok(())
}

pub(super) async fn who_may_amend_what(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let (mut alice, mut bob) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let mut carol = scene.enter("carol").await?;
    let group = grouped(&mut alice, &[&bob.user.name]).await?;
    let said = alice.send(&group, "for two").await?;
    let pinned = alice.send(&group, "pinned before a third one came").await?;
    alice.amend(&group, pinned, pin()).await?;
    let amend = |target, act| Asked::Amend(amendment(&group, target, act));
    bob.refused(amend(said, edit("not mine")), ErrorCode::NotAuthor).await?;
    bob.refused(amend(said, recall()), ErrorCode::NotAuthor).await?;
    bob.refused(amend(said + 1_000_000, react("+")), ErrorCode::NotFound).await?;
    // A reaction is no message.
    let reaction = bob.amend(&group, said, react("+")).await?;
    bob.refused(amend(reaction, react("+")), ErrorCode::NotFound).await?;
    carol.refused(amend(said, react("+")), ErrorCode::NotFound).await?;
    // What was said before one came is the same as nothing.
    add(&mut alice, &group, &carol.user.name).await?;
    for act in [react("+"), pin(), unpin(), edit("x"), recall()] {
        carol.refused(amend(said, act), ErrorCode::NotFound).await?;
    }
    // Except to unpin what is pinned, and only as long as it is.
    for act in [react("+"), pin(), edit("x"), recall()] {
        carol.refused(amend(pinned, act), ErrorCode::NotFound).await?;
    }
    match carol.amend(&group, pinned, unpin()).await {
        Err(End::Failed(words)) => return fail(format!("a latecomer unpins what is pinned: {words}")),
        other => other?,
    };
    carol.refused(amend(pinned, unpin()), ErrorCode::NotFound).await?;
    alice.amend(&group, said, recall()).await?;
    alice.refused(amend(said, edit("late")), ErrorCode::Recalled).await?;
    alice.refused(amend(said, recall()), ErrorCode::Recalled).await?;
    bob.refused(amend(said, react("-")), ErrorCode::Recalled).await?;
    let mine = bob.send(&group, "mine").await?;
    for place in 0..REACTIONS_MAX {
        carol.amend(&group, mine, react(&place.to_string())).await?;
    }
    carol.refused(amend(mine, react("one more")), ErrorCode::AmendmentsTooMany).await?;
    carol.amend(&group, mine, unreact("0")).await?;
    carol.amend(&group, mine, react("one more")).await?;
    Ok(())
}

pub(super) async fn an_amendment_is_settled_like_a_send(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    let said = peer.send(&to, "helo").await?;
    let known = said + 1;
    let edited = v1::Amend { known, ..amendment(&to, said, edit("hello")) };
    let query = |of: &v1::Amend| {
        let (message_id, conversation) = (of.message_id.clone(), of.conversation.clone());
        Asked::QuerySend(v1::QuerySend { message_id, conversation, known: of.known })
    };
    let cancel = |of: &v1::Amend| {
        let (message_id, conversation) = (of.message_id.clone(), of.conversation.clone());
        Asked::CancelSend(v1::CancelSend { message_id, conversation, known: of.known })
    };
    same("an id that nobody sent", peer.status_of(query(&edited)).await?.0, Verdict::NotYet)?;
    let seq = peer.committed(Asked::Amend(edited.clone())).await?.seq;
    let again = peer.committed(Asked::Amend(edited.clone())).await?;
    same("the same again", again, v1::Committed { seq, duplicate: true })?;
    for act in [edit("another"), recall(), react("+")] {
        peer.refused(Asked::Amend(v1::Amend { act: Some(act), ..edited.clone() }), ErrorCode::Conflict).await?;
    }
    for asked in [query(&edited), cancel(&edited)] {
        same("the verdict on it", peer.status_of(asked).await?, (Verdict::Committed, seq))?;
    }
    let never = v1::Amend { known, ..amendment(&to, said, recall()) };
    same("the verdict on another one", peer.status_of(cancel(&never)).await?.0, Verdict::Cancelled)?;
    peer.refused(Asked::Amend(never), ErrorCode::Cancelled).await?;
    let entries = peer.history(&to, said, 0).await?.entries;
    let kinds: Vec<_> = entries.iter().map(|entry| (entry.kind(), &entry.body[..])).collect();
    same("the conversation", kinds, vec![(Kind::Message, &b"helo"[..]), (Kind::Edit, b"hello")])
}

pub(super) async fn amendments_and_messages_keep_their_order(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    let said = peer.send(&to, "0").await?;
    let known = said + 1;
    let mut follows = bytes::Bytes::new();
    let (mut requests, mut expected) = (Vec::new(), Vec::new());
    for place in 1..60 {
        let text = place.to_string();
        let act = match place % 6 {
            1 => Some((Kind::Edit, edit(&text))),
            3 => Some((Kind::Reaction, if place % 12 == 3 { react("+") } else { unreact("+") })),
            5 => Some((Kind::Pin, if place % 12 == 5 { pin() } else { unpin() })),
            _ => None,
        };
        let (id, request) = match act {
            Some((kind, act)) => {
                let amend = v1::Amend { known, follows, ..amendment(&to, said, act) };
                expected.push((amend.message_id.clone(), kind, said));
                (amend.message_id.clone(), Asked::Amend(amend))
            }
            None => {
                let send = v1::Send { known, follows, ..message(&to, text) };
                expected.push((send.message_id.clone(), Kind::Message, 0));
                (send.message_id.clone(), Asked::Send(send))
            }
        };
        follows = id;
        requests.push(request);
    }
    let places = pipeline(&mut peer, &requests).await?;
    ensure(is_rising(&places), "places in the order of the requests", &places)?;
    let entries = peer.history(&to, said + 1, 0).await?.entries;
    same("their places in the conversation", entries.iter().map(|entry| entry.conversation_seq).collect(), places)?;
    let came = entries.iter().map(|entry| (entry.message_id.clone(), entry.kind(), entry.target)).collect();
    same("ids, kinds and targets in the conversation", came, expected)?;
    let large = v1::Edit { salt: new_id(), body: vec![7; 65_537].into() };
    peer.refused(Asked::Amend(amendment(&to, said, Act::Edit(large))), ErrorCode::MessageTooLarge).await.map(|_| ())
}

pub(super) async fn fields_out_of_their_range(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    let said = peer.send(&to, "hi").await?;
    let good = amendment(&to, said, react("+"));
    let salted = Act::Edit(v1::Edit { salt: vec![0; 33].into(), body: "x".into() });
    let amends = [
        ("no act", v1::Amend { act: None, ..good.clone() }),
        ("no target", v1::Amend { target: 0, ..good.clone() }),
        ("no conversation", v1::Amend { conversation: None, ..good.clone() }),
        ("an id of 15 bytes", v1::Amend { message_id: vec![0; 15].into(), ..good.clone() }),
        ("no emoji", v1::Amend { act: Some(react("")), ..good.clone() }),
        ("an emoji of 65 bytes", v1::Amend { act: Some(react(&"x".repeat(65))), ..good.clone() }),
        ("an emoji of two lines", v1::Amend { act: Some(react("a\nb")), ..good.clone() }),
        ("a salt of 33 bytes", v1::Amend { act: Some(salted), ..good.clone() }),
    ];
    let marks = [
        ("a mark that says nothing", v1::Mark { conversation: Some(to.clone()), what: None }),
        ("a mark up to 0", v1::Mark { conversation: Some(to.clone()), what: Some(What::ReadUpto(0)) }),
        ("a mark of nothing", v1::Mark { conversation: None, what: Some(What::Muted(true)) }),
    ];
    let amends = amends.map(|(what, amend)| (what, Asked::Amend(amend)));
    for (what, asked) in amends.into_iter().chain(marks.map(|(what, mark)| (what, Asked::Mark(mark)))) {
        match peer.ask(asked).await? {
            Said::Error(error) => is_error(&error, ErrorCode::Malformed)?,
            other => return fail(format!("{what}: expected MALFORMED, came {other:?}")),
        }
    }
    peer.committed(Asked::Amend(good)).await?;
    peer.is_alive().await
}
