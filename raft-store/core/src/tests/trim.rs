//! Trims: what goes with an entry, what must not go yet, and what is said of what is gone.

use seriatim_proto::command::{Act, CancelSend, DeliveredRecord, DeliveryRecord, Mark, MarkOutcome, MarkWrite};
use seriatim_proto::ids::{CounterName, Emoji, Namespace, Owner};

use super::*;
use crate::{Due, Fatal, Item, Keep, Key, Reader, Row, Scan, Scope, due};

fn of(conversation: &ConversationId) -> Namespace {
    Namespace::conversation(TENANT, conversation.clone())
}

/// `(trim, entries)` of a trim that is applied.
fn trim(world: &mut World, namespace: Namespace, upto: u64) -> (u64, u32) {
    match world.run(Command::Trim { namespace, upto: seq(upto) }) {
        Outcome::Trimmed { trim, entries } => (trim.get(), entries),
        other => panic!("{other:?}"),
    }
}

/// All of it is in all inboxes.
fn all_delivered(world: &mut World, conversation: &ConversationId) {
    let last = world.conversation(conversation).unwrap().namespace.last_seq;
    delivered(world, conversation, DeliveryRecord { all: last, behind: vec![] });
}

fn delivered(world: &mut World, conversation: &ConversationId, record: DeliveryRecord) {
    let record = DeliveredRecord { tenant: TENANT, conversation: conversation.clone(), record };
    assert_eq!(world.op(home(conversation), HolderOp::Delivered { records: vec![record] }), Outcome::Recorded);
}

fn amend(conversation: &ConversationId, sender: &UserId, id: u8, target: u64, act: Act) -> Append {
    with_content(message(conversation, sender, id), Content::Amend { target: seq(target), act })
}

fn react(set: bool) -> Act {
    Act::React { emoji: Emoji::new("+").unwrap(), set }
}

fn cancelled(world: &mut World, conversation: &ConversationId, sender: &UserId, id: u8) {
    let (tenant, known) = (TENANT, None);
    let (conversation, sender) = (conversation.clone(), sender.clone());
    let slot = home(&conversation);
    let cancel = CancelSend { tenant, conversation, sender, message_id: message_id(id), known };
    assert_eq!(world.op(slot, HolderOp::CancelSend(cancel)), Outcome::SendSettled(None));
}

fn dedupe(world: &World, conversation: &ConversationId, sender: &UserId, id: u8) -> ReadOutcome {
    let (conversation, sender) = (conversation.clone(), sender.clone());
    world.read(Read::Dedupe { tenant: TENANT, conversation, sender, message_id: message_id(id) })
}

/// Rows of a conversation that name one of its entries, by that entry.
fn rows_about(world: &World, below: u64) -> Vec<Item> {
    let item = |key: &Key| match &key.scope {
        Scope::Tenant(_, item) => Some(item.clone()),
        _ => None,
    };
    let about = |item: &Item| match item {
        Item::Message(_, seq) | Item::Amended(_, seq) | Item::Pin(_, seq) => seq.get() < below,
        Item::Reaction(_, seq, ..) | Item::Tombstone(_, seq, ..) => seq.get() < below,
        _ => false,
    };
    world.view.rows.keys().filter_map(item).filter(about).collect()
}

#[test]
fn what_is_about_a_message_goes_with_it_and_the_rest_stays() {
    let mut world = World::new();
    let (conversation, near, far) = pair();
    for id in 1..=4 {
        world.append(message(&conversation, &near, id));
    }
    cancelled(&mut world, &conversation, &near, 101);
    let edit = Act::Edit { salt: Bytes::new(), body: Bytes::from_static(b"new"), within_s: u32::MAX };
    world.append(amend(&conversation, &near, 5, 2, edit));
    world.append(amend(&conversation, &far, 6, 2, react(true)));
    world.append(amend(&conversation, &far, 7, 3, Act::Pin { set: true }));
    world.append(amend(&conversation, &far, 8, 4, react(true)));
    cancelled(&mut world, &conversation, &near, 102);
    all_delivered(&mut world, &conversation);
    assert_eq!(rows_about(&world, 5).len(), 4 + 4, "four messages, two reactions, a pin and an edited one");

    assert_eq!(trim(&mut world, of(&conversation), 4), (4, 3));
    assert_eq!(rows_about(&world, 4), []);
    let kept: Vec<_> = world.messages(&conversation).iter().map(|message| message.entry.seq.get()).collect();
    assert_eq!(kept, [4, 5, 6, 7, 8]);
    assert!(rows_about(&world, 5).iter().any(|item| matches!(item, Item::Reaction(_, seq, ..) if seq.get() == 4)));
    assert_conversation_linked(&world, &conversation);
    // A message that is there answers its retries; one that went is no new message, whatever it was.
    for (id, answer) in [(4, ReadOutcome::Dedupe(Some(seq(4)))), (3, ReadOutcome::Dedupe(None))] {
        assert_eq!(dedupe(&world, &conversation, &near, id), answer);
    }
    assert!(world.append(message(&conversation, &near, 4)).duplicate);
    assert_eq!(world.append_rejected(message(&conversation, &near, 3)), Reject::Expired);
    let known = |append: Append, known| Append { known: Some(seq(known)), ..append };
    assert_eq!(world.append_rejected(known(message(&conversation, &near, 3), 3)), Reject::Expired);
    assert_eq!(world.append_rejected(amend(&conversation, &far, 9, 3, react(true))), Reject::Expired);
    let late = known(amend(&conversation, &far, 9, 3, react(true)), 9);
    assert_eq!(world.append_rejected(late), Reject::NotFound, "what is gone cannot be amended");
    // Tombstones go by their place: the first was at 5, the second at 9.
    assert_eq!(dedupe(&world, &conversation, &near, 101), ReadOutcome::Cancelled);
    assert_eq!(trim(&mut world, of(&conversation), 6), (6, 2));
    assert_eq!(dedupe(&world, &conversation, &near, 101), ReadOutcome::Dedupe(None));
    assert_eq!(world.append_rejected(message(&conversation, &near, 101)), Reject::Expired);
    assert_eq!(dedupe(&world, &conversation, &near, 102), ReadOutcome::Cancelled);
    // What comes next is as ever.
    assert_eq!(world.append(known(message(&conversation, &near, 10), 9)).prev_seq, Some(seq(8)));
    assert_conversation_linked(&world, &conversation);
}

#[test]
fn nothing_goes_that_a_target_slot_may_still_be_owed() {
    let mut world = World::new();
    let (conversation, near, far) = pair();
    for id in 1..=6 {
        world.append(message(&conversation, &near, id));
    }
    assert_eq!(trim(&mut world, of(&conversation), 7), (1, 0), "no cursor, nothing goes");
    let slot = hash::inbox_slot(TENANT, &far);
    delivered(&mut world, &conversation, DeliveryRecord { all: Some(seq(5)), behind: vec![(slot, Some(seq(2)))] });
    assert_eq!(trim(&mut world, of(&conversation), 7), (3, 2), "the slowest has two");
    delivered(&mut world, &conversation, DeliveryRecord { all: Some(seq(5)), behind: vec![] });
    assert_eq!(trim(&mut world, of(&conversation), 7), (6, 3));
    all_delivered(&mut world, &conversation);
    assert_eq!(trim(&mut world, of(&conversation), 9), (7, 1), "and never behind the tail");
    assert_eq!(world.messages(&conversation), []);
    assert_conversation_linked(&world, &conversation);
    // Everything went, and the sequence goes on.
    let next = Append { known: Some(seq(7)), ..message(&conversation, &far, 7) };
    let next = world.append(next);
    assert_eq!((next.seq, next.prev_seq), (seq(7), Some(seq(6))));
    assert_conversation_linked(&world, &conversation);
}

#[test]
fn a_trim_is_bounded_repeated_without_harm_and_never_goes_back() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let most = limits::TRIM_ENTRIES_MAX;
    for id in 0..=most + 4 {
        let append = message(&conversation, &near, 0);
        let mut id_bytes = [0; 16];
        id_bytes[..4].copy_from_slice(&id.to_be_bytes());
        world.append(Append { message_id: MessageId(id_bytes), ..append });
    }
    all_delivered(&mut world, &conversation);
    let upto = u64::from(most) + 3;
    assert_eq!(trim(&mut world, of(&conversation), upto), (u64::from(most) + 1, most));
    assert_eq!(trim(&mut world, of(&conversation), upto), (upto, 2));
    let before = world.view.clone();
    for lower in [1, 5, upto] {
        assert_eq!(trim(&mut world, of(&conversation), lower), (upto, 0));
    }
    assert!(world.view == before);
    assert_conversation_linked(&world, &conversation);
}

#[test]
fn a_message_with_more_reactions_than_a_command_deletes_goes_by_and_by() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    world.append(message(&conversation, &near, 1));
    world.append(message(&conversation, &near, 2));
    all_delivered(&mut world, &conversation);
    for n in 0..limits::TRIM_ROWS_MAX * 2 + 5 {
        let item = Item::Reaction(conversation.clone(), seq(1), user(&format!("u{n}")), Emoji::new("+").unwrap());
        world.view.rows.insert(Key::tenant(home(&conversation), TENANT, item), Row::Reaction(seq(2)));
    }
    assert_eq!(trim(&mut world, of(&conversation), 2), (1, 0));
    assert_eq!(world.messages(&conversation).len(), 2, "it is there as long as something of it is");
    assert_eq!(trim(&mut world, of(&conversation), 2), (1, 0));
    assert_eq!(trim(&mut world, of(&conversation), 2), (2, 1));
    assert_eq!(rows_about(&world, 2), []);
}

#[test]
fn an_inbox_is_trimmed_and_what_its_user_has_read_stays() {
    let mut world = World::new();
    let (conversation, near, far) = pair();
    let entries: Vec<_> = (1..=5).map(|id| world.append(message(&conversation, &near, id)).entry.unwrap()).collect();
    world.deliver(delivery(&conversation, &far, None, &entries));
    let inbox = Namespace::inbox(TENANT, far.clone());
    assert_eq!(trim(&mut world, inbox.clone(), 4), (4, 3));
    let (state, kept) = world.inbox(&far);
    assert_eq!(state.unwrap().trim, seq(4));
    assert_eq!(kept.iter().map(|entry| entry.seq.get()).collect::<Vec<_>>(), [4, 5]);
    assert_inbox_linked(&world, &far);
    // Everything of the conversation is in the inbox, as ever: nothing comes twice.
    let again = world.deliver(delivery(&conversation, &far, None, &entries));
    assert_eq!(again, DeliveryOutcome::Accepted { last: seq(5), written: vec![], segment: None });

    assert_eq!(trim(&mut world, inbox.clone(), 99), (6, 2), "not behind the tail");
    assert_eq!(world.inbox(&far).1, []);
    assert_inbox_linked(&world, &far);
    let mut mark = |upto| {
        let slot = hash::inbox_slot(TENANT, &far);
        let (user, conversation, mark) = (far.clone(), conversation.clone(), Mark::Read { upto: seq(upto) });
        let place = Place::Open { segment: 0 };
        let marks = vec![MarkWrite { tenant: TENANT, user, conversation, mark, place, at_ms: 1 }];
        match world.op(slot, HolderOp::SetMarks { marks }) {
            Outcome::MarksSet(mut outcomes) => outcomes.pop().unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(mark(4), MarkOutcome::NotFound, "nobody knows any more how many messages were before it");
    let MarkOutcome::Set { listed, written: Some(_), .. } = mark(5) else { panic!("the list names it") };
    assert_eq!((listed.unread(), listed.inbox_seq), (0, Some(seq(5))));
    assert_inbox_linked(&world, &far);
}

#[test]
fn what_has_no_entries_or_lives_elsewhere_is_refused() {
    let slots = [pair().0].iter().map(home).map(|slot| SlotRange { first: slot, end: SlotId(slot.0 + 1) }).collect();
    let mut world = World::of(Generation(0), slots);
    let (conversation, near, _) = pair();
    world.append(message(&conversation, &near, 1));
    all_delivered(&mut world, &conversation);
    let before = world.view.clone();
    let counter = Namespace { tenant: TENANT, owner: Owner::Counter(CounterName::new("n").unwrap()) };
    let stranger =
        (0..).map(|n| user(&format!("u{n}"))).find(|user| hash::inbox_slot(TENANT, user) != home(&conversation));
    let stranger = stranger.unwrap();
    let elsewhere = Reject::WrongGroup(hash::inbox_slot(TENANT, &stranger));
    for (namespace, upto, reject) in [
        (counter, seq(2), Reject::Malformed),
        (Namespace { tenant: TenantId(u32::MAX), ..of(&conversation) }, seq(2), Reject::Malformed),
        (Namespace::inbox(TENANT, stranger), seq(2), elsewhere),
    ] {
        assert_eq!(world.run(Command::Trim { namespace, upto }), Outcome::Rejected(reject));
    }
    // What was never there has nothing to give up.
    let none = ConversationId::direct(near.clone(), near.clone());
    assert_eq!(home(&none), home(&conversation));
    assert_eq!(trim(&mut world, of(&none), 5), (1, 0));
    assert!(world.view == before);
}

/// All that is due of a world, by sequence.
fn all_due(world: &World, slot: SlotId, keep: &Keep) -> Vec<(Owner, Due)> {
    let rows = world.view.scan(&Scan::Namespaces { slot, tenant: TENANT, after: None }, 100).unwrap();
    let one = |(key, row): (Key, Row)| {
        let Scope::Tenant(_, Item::Namespace(owner)) = key.scope else { panic!("{key:?}") };
        let due = due(&world.view, slot, TENANT, &owner, &row, keep)?;
        Ok((owner, due))
    };
    rows.into_iter().map(one).collect::<Result<Vec<_>, Fatal>>().unwrap()
}

#[test]
fn the_oldest_are_due_by_age_or_by_number_but_never_what_is_undelivered() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    for id in 1..=5 {
        let append = Append { at_ms: u64::from(id) * 1_000, ..message(&conversation, &near, id) };
        world.append(with_local(append, &near));
    }
    let slot = home(&conversation);
    let since = |since_ms| Keep { since_ms: Some(since_ms), ..Keep::default() };
    let newest = |messages| Keep { conversation_messages: Some(messages), ..Keep::default() };
    let trimmed = |namespace: Namespace, upto| Some(Command::Trim { namespace, upto: seq(upto) });
    let upto = |namespace, upto| Due { trim: trimmed(namespace, upto), ..Due::default() };
    let (nothing, held) = (Due::default(), Due { held: true, ..Due::default() });
    let owners = [Owner::Inbox(near.clone()), Owner::Conversation(conversation.clone())];
    let dues = |world: &World, keep: Keep| {
        let found = all_due(world, slot, &keep);
        assert_eq!(found.iter().map(|(owner, _)| owner).collect::<Vec<_>>(), owners.iter().collect::<Vec<_>>());
        found.into_iter().map(|(_, due)| due).collect::<Vec<_>>()
    };
    let inbox = || Namespace::inbox(TENANT, near.clone());
    assert_eq!(dues(&world, Keep::default()), [nothing.clone(), nothing.clone()]);
    assert_eq!(dues(&world, since(1_000)), [nothing.clone(), nothing.clone()], "as old as is kept");
    assert_eq!(dues(&world, since(3_500)), [upto(inbox(), 4), held.clone()]);
    assert_eq!(dues(&world, newest(2)), [nothing.clone(), held.clone()]);
    let inboxes = Keep { inbox_messages: Some(4), ..Keep::default() };
    assert_eq!(dues(&world, inboxes), [upto(inbox(), 2), nothing.clone()]);
    delivered(&mut world, &conversation, DeliveryRecord { all: Some(seq(2)), behind: vec![] });
    let as_far = Due { held: true, ..upto(of(&conversation), 3) };
    assert_eq!(dues(&world, since(3_500))[1], as_far, "as far as it is delivered");
    all_delivered(&mut world, &conversation);
    assert_eq!(dues(&world, since(3_500))[1], upto(of(&conversation), 4));
    assert_eq!(dues(&world, newest(2))[1], upto(of(&conversation), 4));
    assert_eq!(dues(&world, newest(5))[1], nothing.clone());
    assert_eq!(dues(&world, since(u64::MAX)), [upto(inbox(), 6), upto(of(&conversation), 6)]);
    // Once it went, nothing is due.
    for namespace in [inbox(), of(&conversation)] {
        assert_eq!(trim(&mut world, namespace, 6), (6, 5));
    }
    assert_eq!(dues(&world, since(u64::MAX)), [nothing.clone(), nothing.clone()]);
    assert_eq!(dues(&world, newest(0)), [nothing.clone(), nothing.clone()]);
}

#[test]
fn no_more_is_due_at_once_than_one_command_gives_up() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    let long = |id, bytes| {
        let content = Content::Message { salt: Bytes::new(), body: Bytes::from(vec![id; bytes]) };
        with_content(message(&conversation, &near, id), content)
    };
    let most = limits::TRIM_ENTRIES_MAX as u8;
    for id in 1..=most + 3 {
        world.append(long(id, 10));
    }
    all_delivered(&mut world, &conversation);
    let keep = Keep { since_ms: Some(u64::MAX), ..Keep::default() };
    let due = |world: &World| all_due(world, home(&conversation), &keep).pop().unwrap().1;
    let trim = |due: &Due| match due.trim {
        Some(Command::Trim { upto, .. }) => upto.get(),
        _ => panic!("{due:?}"),
    };
    let first = due(&world);
    assert_eq!((trim(&first), first.more), (u64::from(most) + 1, true));
    world.run(first.trim.unwrap());
    let rest = due(&world);
    assert_eq!((trim(&rest), rest.more), (u64::from(most) + 4, false));
    world.run(rest.trim.unwrap());
    // Long bodies: as few as are a command's bytes.
    let body = limits::MESSAGE_BYTES_MAX as usize;
    for id in 100..130 {
        world.append(Append { known: Some(seq(200)), ..long(id, body) });
    }
    all_delivered(&mut world, &conversation);
    let few = due(&world);
    let count = limits::TRIM_BYTES_MAX as usize / body;
    assert_eq!((trim(&few) - u64::from(most) - 4, few.more), (count as u64, true));
}

#[test]
fn tombstones_that_are_more_than_a_command_deletes_go_by_and_by() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    for id in 1..=3 {
        world.append(message(&conversation, &near, id));
    }
    all_delivered(&mut world, &conversation);
    for n in 0..limits::TRIM_ROWS_MAX + 7 {
        let mut id = [0xff; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        let key = |item| Key::tenant(home(&conversation), TENANT, item);
        let item = Item::Tombstone(conversation.clone(), seq(2), near.clone(), MessageId(id));
        world.view.rows.insert(key(item), Row::Tombstone);
        let row = crate::row::DedupeRow::Cancelled { place: seq(2) };
        let item = Item::Dedupe(conversation.clone(), near.clone(), MessageId(id));
        world.view.rows.insert(key(item), Row::Dedupe(row));
    }
    assert_eq!(trim(&mut world, of(&conversation), 4), (2, 1), "up to where some are left");
    assert_eq!(trim(&mut world, of(&conversation), 4), (4, 2));
    assert_eq!(rows_about(&world, 4), []);
    let left = world.view.rows.keys().filter(|key| matches!(&key.scope, Scope::Tenant(_, Item::Dedupe(..))));
    assert_eq!(left.count(), 0);
}
