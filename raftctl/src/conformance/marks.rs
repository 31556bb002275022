//! Marks: what a user says about a conversation to his own devices, and the list of them.

use seriatim_proto::error::ErrorCode;
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::entry::Kind;
use seriatim_proto::wire::v1::mark::What;

use super::peer::Peer;
use super::receiving::proved_pages;
use super::{End, Outcome, Scene, ensure, fail, same};

fn mark(of: &v1::Conversation, what: What) -> Asked {
    Asked::Mark(v1::Mark { conversation: Some(of.clone()), what: Some(what) })
}

/// Alice with three messages of bob's, and they: alice, bob, the entries.
async fn three(scene: &Scene<'_>) -> Outcome<(Peer, Peer, Vec<v1::Entry>)> {
    scene.fresh()?;
    let (mut alice, mut bob) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let to = alice.user.conversation();
    for text in ["one", "two", "three"] {
        bob.send(&to, text).await?;
    }
    let entries = alice.first_entries(3).await?;
    Ok((alice, bob, entries))
}

fn is_mark(entry: &v1::Entry) -> bool {
    matches!(entry.kind(), Kind::Read | Kind::Mute | Kind::Archive)
}

pub(super) async fn a_mark_is_the_users_own(scene: &Scene<'_>) -> Outcome {
    let (mut alice, mut bob, entries) = three(scene).await?;
    let of = bob.user.conversation();
    let mut laptop = scene.enter_as(alice.user.clone(), "laptop").await?;
    let now = alice.mark(&of, What::ReadUpto(entries[1].seq)).await?;
    let row = (now.conversation.clone(), now.messages, now.unread, now.read_upto, now.read_seq);
    same("the conversation", row, (Some(of.clone()), 3, 1, entries[1].seq, entries[1].conversation_seq))?;
    ensure(alice.mark(&of, What::Muted(true)).await?.muted, "muted", "not muted")?;
    let listed = laptop.list(None, 0).await?.list;
    same("rows of the list", listed.len(), 1)?;
    same("muted in the list, as another device sees it", (listed[0].muted, listed[0].unread), (true, 1))?;
    let again = alice.mark(&of, What::Muted(true)).await?;
    same("the conversation of a mark that is said again, and as List shows it", &again, &listed[0])?;
    ensure(!alice.mark(&of, What::Muted(false)).await?.muted, "not muted any more", "muted")?;
    // They are entries of the user's own inbox, and in its chain.
    let marks = laptop.first_entries(6).await?.split_off(3);
    let said: Vec<_> = marks.iter().map(|entry| (entry.kind(), entry.unset)).collect();
    same("the marks", said, vec![(Kind::Read, false), (Kind::Mute, false), (Kind::Mute, true)])?;
    same("how far it is read", marks[0].conversation_seq, entries[1].conversation_seq)?;
    let plain = marks.iter().all(|entry| entry.message_id[..] == [0; 16] && entry.ordinal == 3);
    ensure(plain, "no message id, and not counted", &marks[0])?;
    same("entries of the chain", proved_pages(&mut laptop, 2).await?.0.len(), 6)?;
    let history = alice.history(&of, 0, 0).await?.entries;
    ensure(!history.iter().any(is_mark), "no mark in the conversation", &history)?;
    // What there is for bob was there before this.
    let note = bob.user.conversation();
    bob.send(&note, "a note").await?;
    let of_bob = bob.first_entries(4).await?;
    ensure(!of_bob.iter().any(is_mark), "no mark in another's inbox", &of_bob)
}

pub(super) async fn a_read_mark_only_rises(scene: &Scene<'_>) -> Outcome {
    let (mut alice, bob, entries) = three(scene).await?;
    let of = bob.user.conversation();
    let now = alice.mark(&of, What::ReadUpto(entries[1].seq)).await?;
    for seq in [entries[0].seq, entries[1].seq] {
        same("a lower mark, and the same again", alice.mark(&of, What::ReadUpto(seq)).await?, now.clone())?;
    }
    // A mark is an entry, and none of the conversation; so is what another conversation brought.
    let note = alice.user.conversation();
    alice.send(&note, "a note").await?;
    let mut others = alice.first_entries(5).await?.split_off(3);
    others.sort_by_key(is_mark);
    for (what, wrong) in [("another conversation's", others[0].seq), ("a mark's", others[1].seq), ("no", 1 << 40)] {
        match alice.refused(mark(&of, What::ReadUpto(wrong)), ErrorCode::NotFound).await {
            Err(End::Failed(words)) => return fail(format!("read up to {what} place: {words}")),
            other => other?,
        };
    }
    let listed = alice.list(None, 0).await?.list;
    let row = listed.into_iter().find(|row| row.conversation.as_ref() == Some(&of));
    same("the conversation behind what was refused", row, Some(now.clone()))?;
    let stranger = v1::Conversation { id: Some(v1::conversation::Id::Peer(scene.name("stranger"))) };
    alice.refused(mark(&stranger, What::ReadUpto(entries[0].seq)), ErrorCode::NotFound).await?;
    alice.refused(mark(&stranger, What::Muted(true)), ErrorCode::NotFound).await?;
    same("all read", alice.mark(&of, What::ReadUpto(entries[2].seq)).await?.unread, 0)?;
    let page = alice.sync(1, 0).await?;
    same("entries: a note, and two marks that changed something", page.entries.len(), 6)
}

pub(super) async fn a_list_in_pages(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let mut alice = scene.enter("alice").await?;
    let empty = alice.list(None, 0).await?;
    same("a user without a conversation", (empty.list.len(), empty.more, empty.unread), (0, false, 0))?;
    let named = |count: u64| v1::Conversation { id: Some(v1::conversation::Id::Peer(scene.name(&count.to_string()))) };
    for count in 1..=5 {
        for text in 0..count {
            alice.send(&named(count), &text.to_string()).await?;
        }
    }
    alice.first_entries(15).await?;
    let (mut found, mut after, mut more) = (Vec::new(), None, true);
    while more {
        let page = alice.list(after, 2).await?;
        ensure(page.list.len() <= 2 && !page.list.is_empty(), "one or two of a page", page.list.len())?;
        same("not read, of all", page.unread, 15)?;
        ensure(found.len() < 5, "five conversations", &page)?;
        (after, more) = (page.list.last().and_then(|last| last.conversation.clone()), page.more);
        found.extend(page.list);
    }
    found.sort_by_key(|listed| listed.messages);
    same("conversations", found.len(), 5)?;
    for (count, listed) in (1..).zip(&found) {
        let row = (listed.conversation.clone(), listed.messages, listed.unread, listed.read_upto);
        same("a row", row, (Some(named(count)), count, count, 0))?;
    }
    alice.mark(&named(5), What::ReadUpto(found[4].inbox_seq)).await?;
    same("not read behind a mark", alice.list(None, 0).await?.unread, 10)
}
