//! Edits, recalls, reactions and pins on a real cluster.

use crate::common::{Cluster, wait_until_async};
use bytes::Bytes;
use futures_util::StreamExt;
use seriatim_client::{AmendRequest, Amendment, Client, Conversation, Entry, EntryBody, Kind, SendStatus, verify_page};
use seriatim_proto::error::ErrorCode;
use seriatim_proto::ids::{Chain, ConversationKey, Emoji, Seq, UserId};

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

fn emoji(text: &str) -> Emoji {
    Emoji::new(text).unwrap()
}

/// The body that is there, `None` for one that was erased.
fn body(entry: &Entry) -> Option<Bytes> {
    match &entry.body {
        EntryBody::Here { body, .. } => Some(body.clone()),
        EntryBody::Erased => None,
        other => panic!("the body is {other:?}"),
    }
}

/// Everything by sync, its chain and its bodies verified.
async fn read_all(client: &Client, name: &str) -> Vec<Entry> {
    let (mut entries, mut from, mut chain) = (Vec::new(), None, Chain::default());
    loop {
        let page = client.sync(from, 7).await.unwrap();
        chain = verify_page(&user(name), chain, &page).unwrap();
        entries.extend(page.entries);
        if !page.more {
            return entries;
        }
        from = Some(page.upto);
    }
}

async fn history(client: &Client, conversation: &Conversation) -> Vec<Entry> {
    let page = client.history(conversation, None, 0).await.unwrap();
    assert!(!page.more);
    assert!(page.entries.iter().all(Entry::body_matches));
    page.entries
}

async fn has_entries(client: &Client, name: &str, count: usize) -> Vec<Entry> {
    wait_until_async("the inbox has it all", async || read_all(client, name).await.len() == count).await;
    read_all(client, name).await
}

async fn refused(client: &Client, request: AmendRequest) -> ErrorCode {
    let error = client.amend(request).await.unwrap_err();
    assert!(!error.is_unknown(), "{error}");
    error.refusal().code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_about_a_message_reaches_all_and_a_recall_takes_its_bodies() {
    let mut cluster = Cluster::start();
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let (to_bob, to_alice) = (Conversation::peer("bob").unwrap(), Conversation::peer("alice").unwrap());
    let mut at_bob = bob.subscribe(Seq::FIRST, None);

    let first = alice.send(to_bob.clone(), "helo").await.unwrap().seq;
    let kept = alice.send(to_bob.clone(), "kept").await.unwrap().seq;
    alice.edit(&to_bob, first, "hello").await.unwrap();
    let plus = emoji("👍🏽");
    let reaction = bob.react(&to_alice, first, &plus).await.unwrap();
    bob.react(&to_alice, kept, &plus).await.unwrap();
    bob.unreact(&to_alice, kept, &plus).await.unwrap();
    bob.pin(&to_alice, first).await.unwrap();
    alice.pin(&to_bob, kept).await.unwrap();
    alice.unpin(&to_bob, kept).await.unwrap();
    // Pushed as it happens, bodies and all.
    let mut pushed = Vec::new();
    while pushed.len() < 9 {
        pushed.push(tokio::time::timeout(crate::common::PATIENCE, at_bob.next()).await.unwrap().unwrap().unwrap());
    }
    assert!(pushed.iter().all(Entry::body_matches));
    let told: Vec<_> = pushed.iter().map(|entry| (entry.kind, entry.emoji.clone(), entry.unset)).collect();
    let (first_kind, kept_kind) = (Kind::Reaction { target: first }, Kind::Reaction { target: kept });
    assert_eq!(
        told,
        [
            (Kind::Message, None, false),
            (Kind::Message, None, false),
            (Kind::Edit { target: first }, None, false),
            (first_kind, Some(plus.clone()), false),
            (kept_kind, Some(plus.clone()), false),
            (kept_kind, Some(plus.clone()), true),
            (Kind::Pin { target: first }, None, false),
            (Kind::Pin { target: kept }, None, false),
            (Kind::Pin { target: kept }, None, true),
        ]
    );
    assert_eq!((body(&pushed[0]), body(&pushed[2])), (Some("helo".into()), Some("hello".into())));
    assert_eq!(pushed[8].ordinal, 2, "only messages count");

    // Who may not.
    let recall =
        |conversation: &Conversation, target| AmendRequest::new(conversation.clone(), target, Amendment::Recall);
    assert_eq!(refused(&bob, recall(&to_alice, first)).await, ErrorCode::NotAuthor);
    assert_eq!(refused(&alice, recall(&to_bob, reaction.seq)).await, ErrorCode::NotFound, "a reaction is no message");
    let eve = cluster.device("eve", "phone").await;
    let group = Conversation::Group(ConversationKey([5; 16]));
    assert_eq!(refused(&eve, recall(&group, first)).await, ErrorCode::NotFound);

    // Under one id it happens once, and cancelled it never does.
    let request = recall(&to_bob, first);
    let recalled = alice.amend(request.clone()).await.unwrap();
    let again = alice.amend(request.clone()).await.unwrap();
    assert_eq!((recalled.seq, recalled.duplicate, again.duplicate), (again.seq, false, true));
    let status = alice.query_send(&to_bob, request.message_id, None).await.unwrap();
    assert_eq!(status, SendStatus::Committed(recalled.seq));
    let never = recall(&to_bob, kept);
    assert_eq!(alice.cancel_send(&to_bob, never.message_id, None).await.unwrap(), SendStatus::Cancelled);
    assert_eq!(refused(&alice, never).await, ErrorCode::Cancelled);
    let other = AmendRequest { target: kept, ..request.clone() };
    assert_eq!(refused(&alice, other).await, ErrorCode::Conflict);
    for amendment in [Amendment::Recall, Amendment::Pin { set: true }] {
        let request = AmendRequest::new(to_bob.clone(), first, amendment);
        assert_eq!(refused(&alice, request).await, ErrorCode::Recalled);
    }

    // The bodies are gone, everywhere; what inboxes and chains say is as it was.
    let is_gone = |entries: &[Entry]| {
        for entry in entries {
            let erased = entry.conversation_seq == first || entry.kind == Kind::Edit { target: first };
            let is_mine = matches!(entry.kind, Kind::Message | Kind::Edit { .. });
            assert_eq!(body(entry).is_none(), erased, "{entry:?}");
            assert!(!is_mine || erased || body(entry) == Some("kept".into()));
        }
    };
    let synced = has_entries(&bob, "bob", 10).await;
    is_gone(&synced);
    is_gone(&has_entries(&alice, "alice", 10).await);
    is_gone(&history(&alice, &to_bob).await);
    is_gone(&history(&bob, &to_alice).await);
    for (before, after) in pushed.iter().zip(&synced) {
        assert_eq!(before.entry_ref(), after.entry_ref());
    }
    // A device that comes now is never pushed them either.
    let tablet = cluster.device("bob", "tablet").await;
    let mut at_tablet = tablet.subscribe(Seq::FIRST, None);
    let mut late = Vec::new();
    while late.len() < 10 {
        late.push(tokio::time::timeout(crate::common::PATIENCE, at_tablet.next()).await.unwrap().unwrap().unwrap());
    }
    is_gone(&late);

    // All of it survives a restart of everything, kill included.
    drop((alice, tablet, eve));
    cluster.restart();
    let bob = cluster.device("bob", "phone").await;
    assert_eq!(read_all(&bob, "bob").await, synced);
    is_gone(&history(&bob, &to_alice).await);
    let pin = AmendRequest::new(to_alice.clone(), first, Amendment::Pin { set: false });
    assert_eq!(refused(&bob, pin).await, ErrorCode::Recalled);
    bob.react(&to_alice, kept, &plus).await.unwrap();
}

/// Members of a group, one who came later and one who left, over a holder's death.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_groups_members_amend_what_they_were_given_and_nobody_else_does() {
    let cluster = Cluster::start();
    let (alice, bob) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let carol = cluster.device("carol", "phone").await;
    let key = ConversationKey([9; 16]);
    let group = Conversation::Group(key);
    alice.create_group(key, &[user("bob")]).await.unwrap();
    let early = bob.send(group.clone(), "early").await.unwrap().seq;
    alice.change_members(key, &[user("carol")], &[]).await.unwrap();
    let late = alice.send(group.clone(), "late").await.unwrap().seq;
    let react = |target| AmendRequest::new(group.clone(), target, Amendment::React { emoji: emoji("+"), set: true });
    assert_eq!(refused(&carol, react(early)).await, ErrorCode::NotFound, "said before she came");
    assert_eq!(refused(&carol, react(late.plus(1_000))).await, ErrorCode::NotFound, "the same as nothing");
    carol.amend(react(late)).await.unwrap();
    // Submitted one behind the other, over the death of whoever holds the group: in order, each once.
    let edits: Vec<AmendRequest> =
        (0..20).map(|number| AmendRequest::edit(group.clone(), early, format!("edit {number}"))).collect();
    let mut tickets = Vec::new();
    for (place, request) in edits.iter().enumerate() {
        tickets.push(bob.submit_amendment(request.clone()).await.unwrap());
        if place == 10 {
            cluster.kill("logic-1");
        }
    }
    for ticket in tickets {
        ticket.outcome().await.unwrap();
    }
    cluster.start_node("logic-1");
    let at_alice = has_entries(&alice, "alice", 5 + 20).await;
    let found: Vec<_> = at_alice.iter().filter(|entry| entry.kind == Kind::Edit { target: early }).collect();
    let expected: Vec<_> = edits.iter().map(|request| request.message_id).collect();
    assert_eq!(found.iter().map(|entry| entry.message_id).collect::<Vec<_>>(), expected);
    assert_eq!(body(found[19]), Some("edit 19".into()));
    // Who left can do nothing more, and keeps what he has.
    alice.change_members(key, &[], &[user("bob")]).await.unwrap();
    let recall = |target| AmendRequest::new(group.clone(), target, Amendment::Recall);
    assert_eq!(refused(&bob, recall(early)).await, ErrorCode::NotFound);
    assert_eq!(refused(&bob, react(late)).await, ErrorCode::NotFound);
    alice.amend(recall(late)).await.unwrap();
    let at_carol = has_entries(&carol, "carol", 3 + 20 + 2).await;
    assert_eq!(at_carol.iter().filter(|entry| body(entry).is_none()).count(), 1);
    // The operator's way.
    let raftctl = |arguments: &[&str]| {
        let all = [&["--playground", cluster.data().to_str().unwrap(), "-o", "json"], arguments].concat();
        crate::common::run(&crate::common::sibling("raftctl"), &all)
    };
    let (exit, out, error) = raftctl(&["user", "verify", "carol"]);
    assert_eq!(exit, Some(0), "{out} {error}");
    let (key, late) = (key.to_string(), late.to_string());
    let show = |seq: &str| raftctl(&["msg", "show", "--group", &key, seq]);
    let (exit, out, error) = show(&late);
    assert!(exit == Some(0) && out.contains(r#""erased":true"#) && out.contains(r#""emoji":"+""#), "{out} {error}");
    assert_eq!(show("999999").0, Some(3));
    let say = |verb: &[&str]| raftctl(&[verb, &["--as", "alice", "--group", &key]].concat());
    let early = early.to_string();
    assert_eq!(say(&["msg", "pin", &early]).0, Some(0));
    assert_eq!(say(&["msg", "react", &early, "!"]).0, Some(0));
    let (exit, out, _) = say(&["conversation", "show"]);
    assert!(exit == Some(0) && out.contains(r#""pins":[{"seq":"#), "{out}");
    let (exit, _, error) = say(&["msg", "recall", &early]);
    assert!(exit == Some(5) && error.contains("NOT_AUTHOR"), "{exit:?} {error}");
    let (exit, _, error) = say(&["msg", "edit", &late, "again"]);
    assert!(exit == Some(4) && error.contains("RECALLED"), "{exit:?} {error}");
}

/// How far a user has read goes to all his devices, through both ways, and is still known when everything was killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_muted_and_archived_is_the_same_on_every_device() {
    let mut cluster = Cluster::start();
    let (alice, phone) = (cluster.device("alice", "phone").await, cluster.device("bob", "phone").await);
    let tablet = cluster.device("bob", "tablet").await;
    let (to_bob, to_alice) = (Conversation::peer("bob").unwrap(), Conversation::peer("alice").unwrap());
    let key = ConversationKey([6; 16]);
    let group = Conversation::Group(key);
    alice.create_group(key, &[user("bob")]).await.unwrap();
    for number in 0..4 {
        alice.send(to_bob.clone(), format!("direct {number}")).await.unwrap();
        alice.send(group.clone(), format!("group {number}")).await.unwrap();
    }
    let entries = has_entries(&phone, "bob", 9).await;
    let unread = async |device: &Client| {
        let page = device.list(None, 0).await.unwrap();
        assert!(!page.more);
        let of = |which: &Conversation| page.list.iter().find(|one| one.conversation == *which).unwrap().unread;
        (of(&to_alice), of(&group), page.unread)
    };
    assert_eq!(unread(&phone).await, (4, 4, 8));
    let nth = |which: &Conversation, nth: usize| {
        let mut of = entries.iter().filter(|entry| entry.conversation == *which && entry.kind == Kind::Message);
        of.nth(nth).unwrap().seq
    };
    let mut at_tablet = tablet.subscribe(entries[8].seq.next(), None);
    let second = nth(&to_alice, 1);
    assert_eq!(phone.mark_read(&to_alice, second).await.unwrap().unread, 2);
    let told = tokio::time::timeout(crate::common::PATIENCE, at_tablet.next()).await.unwrap().unwrap().unwrap();
    assert_eq!((told.kind, told.conversation.clone()), (Kind::Read, to_alice.clone()));
    assert_eq!(told.conversation_seq, entries.iter().find(|entry| entry.seq == second).unwrap().conversation_seq);
    assert_eq!(unread(&tablet).await, (2, 4, 6));
    // Lower marks, and the same from everywhere at once, change nothing.
    let again =
        futures_util::future::join_all([&phone, &tablet, &phone].map(|device| device.mark_read(&to_alice, second)));
    assert!(again.await.into_iter().all(|listed| listed.unwrap().unread == 2));
    assert_eq!(tablet.mark_read(&to_alice, nth(&to_alice, 0)).await.unwrap().unread, 2);
    // As one scrolls: all are answered, and only some are written.
    let scrolled = (0..4).map(|place| tablet.mark_read(&group, nth(&group, place)));
    for listed in futures_util::future::join_all(scrolled).await {
        assert!(listed.unwrap().unread <= 3);
    }
    assert_eq!(unread(&phone).await, (2, 0, 2));
    assert!(phone.mute(&group, true).await.unwrap().muted);
    assert!(tablet.archive(&to_alice, true).await.unwrap().archived);
    // Nobody else's, and nothing that is not there.
    let wrong = phone.mark_read(&to_alice, nth(&group, 0)).await.unwrap_err();
    assert_eq!(wrong.refusal().code, ErrorCode::NotFound);
    let eve = cluster.device("eve", "phone").await;
    assert_eq!(eve.mark_read(&group, second).await.unwrap_err().refusal().code, ErrorCode::NotFound);
    assert_eq!(eve.list(None, 0).await.unwrap().unread, 0);
    wait_until_async("alice's inbox has it all", async || alice.list(None, 0).await.unwrap().unread >= 8).await;
    let of_alice = alice.list(None, 0).await.unwrap();
    assert_eq!(of_alice.unread, 8, "her own messages, and nobody told her what bob has read");

    // Over the death of everything.
    drop((alice, eve, tablet));
    cluster.restart();
    let tablet = cluster.device("bob", "tablet").await;
    let page = tablet.list(None, 1).await.unwrap();
    assert!(page.more && page.list.len() == 1 && page.unread == 2);
    let rest = tablet.list(Some(&page.list[0].conversation), 0).await.unwrap();
    assert!(!rest.more);
    let all = [page.list, rest.list].concat();
    let group_row = all.iter().find(|one| one.conversation == group).unwrap();
    let direct_row = all.iter().find(|one| one.conversation == to_alice).unwrap();
    assert!(group_row.muted && !group_row.archived && !direct_row.muted && direct_row.archived);
    let synced = read_all(&tablet, "bob").await;
    let marks = synced.iter().filter(|entry| entry.kind.is_mark());
    assert!(marks.clone().all(Entry::body_matches));
    assert!((1 + 1 + 2..=1 + 4 + 2).contains(&marks.count()));
    let playground = cluster.data().to_str().unwrap();
    let raftctl = |arguments: &[&str]| {
        let all = [&["--playground", playground, "-o", "json"], arguments].concat();
        crate::common::run(&crate::common::sibling("raftctl"), &all)
    };
    let (exit, out, error) = raftctl(&["user", "verify", "bob"]);
    assert_eq!(exit, Some(0), "{out} {error}");
    let (exit, out, error) = raftctl(&["conversation", "ls", "--as", "bob"]);
    assert!(exit == Some(0) && out.contains(r#""unread":"2""#) && out.contains(r#""muted":true"#), "{out} {error}");
    let (exit, out, error) = raftctl(&["user", "show", "bob"]);
    assert!(exit == Some(0) && out.contains(r#""unread":"2""#), "{out} {error}");
}
