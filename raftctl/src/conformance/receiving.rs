//! Receiving: subscriptions and their credit, pages and their chain, cursors.

use seriatim_client::raw::read_sync_page;
use seriatim_client::verify_page;
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::Chain;
use seriatim_proto::wire::v1;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;

use super::peer::{Peer, is_error};
use super::{Outcome, Scene, amending, ensure, fail, same};

/// Far above every tail.
const FUTURE: u64 = 1 << 45;

/// Each names its predecessor, from `first` on, and messages are counted.
fn is_joined(entries: &[v1::Entry], first: u64) -> Outcome {
    let mut last = first;
    for entry in entries {
        same("the predecessor that an entry names", entry.prev_seq, last)?;
        ensure(entry.seq > last, &format!("a seq above {last}"), entry.seq)?;
        last = entry.seq;
    }
    let counted = entries.windows(2).all(|pair| pair[1].ordinal == pair[0].ordinal + 1);
    ensure(counted, "ordinals one after another", entries.iter().map(|entry| entry.ordinal).collect::<Vec<_>>())
}

fn bodies(entries: &[v1::Entry]) -> Vec<String> {
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.body).into_owned()).collect()
}

fn seqs(entries: &[v1::Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.seq).collect()
}

fn texts(numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|number| format!("text {number}")).collect()
}

/// Sends notes of the user's own, which are in the inbox when this ends.
async fn noted(peer: &mut Peer, count: usize) -> Outcome<Vec<v1::Entry>> {
    let to = peer.user.conversation();
    for text in texts(0..count) {
        peer.send(&to, &text).await?;
    }
    peer.first_entries(count).await
}

pub(super) async fn every_entry_once_in_order(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let (mut alice, mut bob) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let to = bob.user.conversation();
    for text in texts(0..20) {
        alice.send(&to, &text).await?;
    }
    let mut inbox = bob.subscribe(1, 0).await?;
    let mut entries = bob.entries(&mut inbox, 20).await?;
    for text in texts(20..30) {
        alice.send(&to, &text).await?;
    }
    entries.extend(bob.entries(&mut inbox, 10).await?);
    same("the inbox", bodies(&entries), texts(0..30))?;
    let conversations = entries.iter().all(|entry| entry.conversation == Some(alice.user.conversation()));
    ensure(conversations, "the conversation, named by the other one", &entries[0].conversation)?;
    is_joined(&entries, 0)?;
    // What is pushed is what a page proves, which alone has the chain.
    let (mut proved, _) = proved_pages(&mut bob, 7).await?;
    for entry in &mut proved {
        entry.chain.clear();
    }
    same("what is pushed, and what the pages prove", entries, proved)
}

pub(super) async fn from_the_middle(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let mut peer = scene.enter("alice").await?;
    let entries = noted(&mut peer, 10).await?;
    let mut inbox = peer.subscribe(entries[6].seq, 0).await?;
    same("at it and behind it", seqs(&peer.entries(&mut inbox, 4).await?), seqs(&entries[6..]))?;
    let mut inbox = peer.subscribe(entries[6].seq + 1, 0).await?;
    same("behind it", seqs(&peer.entries(&mut inbox, 3).await?), seqs(&entries[7..]))
}

/// Pushed entries until Lagging, and the tail that it says.
async fn until_lagging(peer: &mut Peer, inbox: &super::peer::Inbox) -> Outcome<(Vec<u64>, u64)> {
    let mut pushed = Vec::new();
    loop {
        match peer.pushed(inbox.stream).await? {
            Said::Deliver(deliver) => pushed.extend(seqs(&deliver.entries)),
            Said::Lagging(lagging) => {
                same("the subscription that lags", lagging.subscription_id, inbox.id)?;
                return Ok((pushed, lagging.upto));
            }
            other => return fail(format!("expected entries or Lagging, came {other:?}")),
        }
    }
}

pub(super) async fn credit(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let mut peer = scene.enter("alice").await?;
    let all = seqs(&noted(&mut peer, 5).await?);
    let mut inbox = peer.subscribe(1, 2).await?;
    let (pushed, upto) = until_lagging(&mut peer, &inbox).await?;
    same("entries for a credit of two", &pushed[..], &all[..2])?;
    same("the tail that Lagging says", upto, peer.status().await?.tail)?;
    ensure(upto > all[4], &format!("a tail above {}", all[4]), upto)?;
    let id = inbox.id;
    let more = |entries| Asked::Credit(v1::Credit { subscription_id: id, entries });
    peer.say(super::peer::CONTROL, more(1)).await?;
    same("entries for one more", &until_lagging(&mut peer, &inbox).await?.0[..], &all[2..3])?;
    peer.say(super::peer::CONTROL, more(10)).await?;
    same("entries for ten more", &seqs(&peer.entries(&mut inbox, 2).await?)[..], &all[3..])?;
    // Eight are left: they bring what comes later, and then it lags again.
    let to = peer.user.conversation();
    for text in texts(5..15) {
        peer.send(&to, &text).await?;
    }
    let (pushed, upto) = until_lagging(&mut peer, &inbox).await?;
    let rest = seqs(&proved_pages(&mut peer, 0).await?.0).split_off(5);
    same("entries for the eight that were left", &pushed[..], &rest[..8])?;
    ensure(upto > rest[8], &format!("a tail above {}", rest[8]), upto)
}

pub(super) async fn one_subscription(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let old = peer.subscribe(1, 1).await?;
    let new = peer.subscribe(1, 1).await?;
    ensure(new.id > old.id, &format!("a subscription above {}", old.id), new.id)?;
    peer.ended(old.stream).await?;
    let unsubscribe = Asked::Unsubscribe(v1::Unsubscribe { subscription_id: new.id });
    peer.say(super::peer::CONTROL, unsubscribe).await?;
    peer.ended(new.stream).await?;
    peer.is_alive().await
}

pub(super) async fn a_position_in_the_future(scene: &Scene<'_>) -> Outcome {
    let mut peer = scene.enter("alice").await?;
    let to = peer.user.conversation();
    peer.send(&to, "a note").await?;
    let inbox = peer.subscribe(FUTURE, 0).await?;
    match peer.pushed(inbox.stream).await? {
        Said::Error(error) => is_error(&error, ErrorCode::CursorAhead)?,
        other => return fail(format!("expected CURSOR_AHEAD on the inbox stream, came {other:?}")),
    }
    peer.ended(inbox.stream).await?;
    peer.refused(Asked::Sync(v1::Sync { from: FUTURE, limit: 0 }), ErrorCode::CursorAhead).await?;
    peer.refused(Asked::Ack(v1::Ack { cursor: FUTURE }), ErrorCode::CursorAhead).await?;
    peer.is_alive().await
}

pub(super) async fn two_devices(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let (mut alice, mut phone) = (scene.enter("alice").await?, scene.enter("bob").await?);
    let mut laptop = scene.enter_as(phone.user.clone(), "laptop").await?;
    let mut inboxes = [phone.subscribe(1, 0).await?, laptop.subscribe(1, 0).await?];
    let (to_bob, to_alice) = (phone.user.conversation(), alice.user.conversation());
    for text in texts(0..5) {
        alice.send(&to_bob, &text).await?;
        phone.send(&to_alice, &text).await?;
        laptop.send(&to_alice, &text).await?;
    }
    let of_phone = phone.entries(&mut inboxes[0], 15).await?;
    let of_laptop = laptop.entries(&mut inboxes[1], 15).await?;
    same("what the other device gets", seqs(&of_laptop), seqs(&of_phone))?;
    ensure(of_phone == of_laptop, "the same entries on both", &of_laptop)?;
    is_joined(&of_phone, 0)?;
    let own = of_phone.iter().filter(|entry| entry.sender == phone.user.name).count();
    same("entries that the user sent himself", own, 10)
}

pub(super) async fn cursors(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let mut phone = scene.enter("alice").await?;
    let mut laptop = scene.enter_as(phone.user.clone(), "laptop").await?;
    let ends: Vec<_> = seqs(&noted(&mut phone, 3).await?).iter().map(|seq| seq + 1).collect();
    let ack = |cursor| Asked::Ack(v1::Ack { cursor });
    let acked = |cursor| Said::Acked(v1::Acked { cursor });
    same("the answer to Ack", phone.ask(ack(ends[1])).await?, acked(ends[1]))?;
    same("the answer to Ack of another device", laptop.ask(ack(ends[2])).await?, acked(ends[2]))?;
    same("the answer to a lower one", phone.ask(ack(ends[0])).await?, acked(ends[1]))?;
    let mut devices: Vec<_> =
        phone.status().await?.devices.into_iter().map(|device| (device.device, device.cursor)).collect();
    devices.sort();
    same("the cursors", devices, vec![("laptop".to_owned(), ends[2]), ("phone".to_owned(), ends[1])])
}

/// All pages of an inbox; each proves itself, behind the one before. The entries, and the chain at the last one.
pub(super) async fn proved_pages(peer: &mut Peer, limit: u32) -> Outcome<(Vec<v1::Entry>, Chain)> {
    let user = peer.user.id()?;
    let (mut from, mut chain, mut entries) = (1, Chain::default(), Vec::new());
    loop {
        let page = peer.sync(from, limit).await?;
        let (more, upto) = (page.more, page.upto);
        ensure(limit == 0 || page.entries.len() <= limit as usize, &format!("{limit} entries at most"), &page)?;
        ensure(!page.too_long && upto >= from && (upto > from || !more), "a page that goes on", (from, upto))?;
        let below = page.entries.iter().all(|entry| entry.seq >= from && entry.seq < upto);
        ensure(below, &format!("entries from {from} on and below {upto}"), seqs(&page.entries))?;
        ensure(more || upto == page.tail, "the last page up to the tail", (upto, page.tail))?;
        entries.extend(page.entries.iter().cloned());
        let page = read_sync_page(page).or_else(|error| fail(format!("a page with a wrong {error}")))?;
        chain = verify_page(&user, chain, &page).or_else(|error| fail(format!("the page from {from} on: {error}")))?;
        if !more {
            return Ok((entries, chain));
        }
        from = upto;
    }
}

pub(super) async fn pages(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let mut peer = scene.enter("alice").await?;
    let pushed = noted(&mut peer, 25).await?;
    let (entries, _) = proved_pages(&mut peer, 10).await?;
    same("the pages' entries", seqs(&entries), seqs(&pushed))?;
    same("their bodies", bodies(&entries), texts(0..25))?;
    is_joined(&entries, 0)?;
    let end = pushed[24].seq + 1;
    let page = peer.sync(end, 0).await?;
    same("entries and more behind the end", (page.entries.len(), page.more, page.too_long), (0, false, false))
}

pub(super) async fn the_chain_of_all_pages(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let mut peer = scene.enter("alice").await?;
    amending::every_kind(&mut peer, &scene.name("bob")).await?;
    let (entries, chain) = proved_pages(&mut peer, 4).await?;
    let lengths: Vec<_> = entries.iter().map(|entry| entry.chain.len()).collect();
    ensure(lengths.iter().all(|length| *length == 16), "a chain of 16 bytes in every entry of a page", &lengths)?;
    let status = peer.status().await?;
    same("the chain in Status", &status.chain[..], &chain.0[..])?;
    let (again, same_chain) = proved_pages(&mut peer, 0).await?;
    same("all in one page", (seqs(&again), same_chain), (seqs(&entries), chain))
}

pub(super) async fn history_and_status(scene: &Scene<'_>) -> Outcome {
    scene.fresh()?;
    let mut peer = scene.enter("alice").await?;
    let empty = peer.status().await?;
    same("tail and ordinal of an inbox without an entry", (empty.tail, empty.ordinal), (0, 0))?;
    let pushed = noted(&mut peer, 12).await?;
    let of = peer.user.conversation();
    let first = peer.history(&of, 0, 5).await?;
    same("entries of the first page, and more", (first.entries.len(), first.more), (5, true))?;
    let rest = peer.history(&of, first.upto, 0).await?;
    same("more behind the rest", rest.more, false)?;
    let entries = [first.entries, rest.entries].concat();
    same("the conversation", bodies(&entries), texts(0..12))?;
    let places: Vec<_> = entries.iter().map(|entry| entry.conversation_seq).collect();
    ensure(super::sending::is_rising(&places), "rising places", &places)?;
    let unplaced = entries.iter().all(|entry| entry.seq == 0 && entry.prev_seq == 0 && entry.chain.is_empty());
    ensure(unplaced, "no place in an inbox", &entries[0])?;
    let status = peer.status().await?;
    same("the tail", status.tail, pushed[11].seq + 1)?;
    same("ordinal and devices", (status.ordinal, status.devices.len()), (12, 0))?;
    let (_, chain) = proved_pages(&mut peer, 0).await?;
    same("the chain", &status.chain[..], &chain.0[..])
}
