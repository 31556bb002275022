//! Random histories: the invariants hold after every command, two views agree, and whatever is repeated, reordered
//! or forgotten on the way, each inbox ends with every entry that it is owed, once and in order.

use std::collections::BTreeSet;

use proptest::prelude::*;
use seriatim_proto::command::{Act, CancelSend, CursorWrite, DeliveredRecord, DeliveryRecord, Want};
use seriatim_proto::ids::{DeviceId, Emoji, Namespace};
use seriatim_proto::store::Stay;

use super::*;

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn conversations() -> Vec<ConversationId> {
    let users = USERS.map(user);
    vec![
        ConversationId::direct(users[0].clone(), users[1].clone()),
        ConversationId::direct(users[2].clone(), users[2].clone()),
        group_near(&users[0]),
    ]
}

/// One step of a history. Indices are taken modulo what exists.
#[derive(Clone, Debug)]
enum Step {
    Append {
        conversation: usize,
        sender: usize,
        id: u8,
        content: u8,
        place: Option<u64>,
        local: Vec<(usize, Option<u64>)>,
    },
    Deliver {
        conversation: usize,
        user: usize,
        from: usize,
        count: usize,
        place: Option<u64>,
    },
    Cancel {
        conversation: usize,
        sender: usize,
        id: u8,
    },
    Cursor {
        user: usize,
        cursor: u64,
    },
    Reserve {
        user: usize,
        conversation: usize,
        seqs: u32,
    },
    Delivered {
        conversation: usize,
        all: u64,
    },
    Reclaim {
        conversation: usize,
        user: usize,
    },
    Trim {
        conversation: usize,
        user: Option<usize>,
        upto: u64,
    },
    EndLease,
    Stale {
        conversation: usize,
        epochs: u64,
        n: u64,
    },
}

fn any_place() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![3 => Just(None), 1 => (0..6u64).prop_map(Some)]
}

fn any_step() -> impl Strategy<Value = Step> {
    let local = proptest::collection::vec((0..4usize, any_place()), 0..3);
    prop_oneof![
        6 => (0..3usize, 0..4usize, 0..30u8, 0..12u8, any_place(), local).prop_map(
            |(conversation, sender, id, content, place, local)| Step::Append { conversation, sender, id, content, place, local }
        ),
        4 => (0..3usize, 0..4usize, 0..8usize, 0..5usize, any_place())
            .prop_map(|(conversation, user, from, count, place)| Step::Deliver { conversation, user, from, count, place }),
        1 => (0..3usize, 0..4usize, 0..30u8)
            .prop_map(|(conversation, sender, id)| Step::Cancel { conversation, sender, id }),
        1 => (0..4usize, 1..20u64).prop_map(|(user, cursor)| Step::Cursor { user, cursor }),
        2 => (0..4usize, 0..3usize, 1..20u32).prop_map(|(user, conversation, seqs)| Step::Reserve { user, conversation, seqs }),
        1 => (0..3usize, 0..10u64).prop_map(|(conversation, all)| Step::Delivered { conversation, all }),
        1 => (0..3usize, 0..4usize).prop_map(|(conversation, user)| Step::Reclaim { conversation, user }),
        1 => (0..3usize, proptest::option::of(0..4usize), 1..30u64)
            .prop_map(|(conversation, user, upto)| Step::Trim { conversation, user, upto }),
        1 => Just(Step::EndLease),
        1 => (0..3usize, 0..3u64, 0..5u64).prop_map(|(conversation, epochs, n)| Step::Stale { conversation, epochs, n }),
    ]
}

/// Seqs near where the namespace is, so that some fit: an offset from two below its tail.
fn place_near(world: &World, namespace: Namespace, offset: Option<u64>) -> Place {
    let Some(offset) = offset else { return Place::Open { segment: 3 } };
    let tail = match world.read(Read::Namespace(namespace)) {
        ReadOutcome::Namespace(Some(state)) => state.tail.get(),
        _ => 1,
    };
    Place::At(seq((tail + offset).saturating_sub(2).max(1)))
}

fn slot_of_user(user: &UserId) -> SlotId {
    hash::inbox_slot(TENANT, user)
}

fn content(kind: u8, id: u8) -> Content {
    let users = USERS.map(user);
    let one = users[usize::from(id) % users.len()].clone();
    match kind {
        0 => Content::Create { members: users[..2].to_vec() },
        1 => Content::Members { add: vec![one], remove: vec![] },
        2 => Content::Members { add: vec![], remove: vec![one] },
        3 => Content::Amend { target: seq(1 + u64::from(id % 8)), act: Act::Recall { within_s: u32::MAX } },
        4 => Content::Amend {
            target: seq(1 + u64::from(id % 8)),
            act: Act::Edit { salt: Bytes::new(), body: Bytes::from(vec![id]), within_s: u32::MAX },
        },
        5 => Content::Amend {
            target: seq(1 + u64::from(id % 8)),
            act: Act::React { emoji: Emoji::new("+").unwrap(), set: !id.is_multiple_of(3) },
        },
        _ => Content::Message { salt: Bytes::new(), body: Bytes::from(vec![id, kind % 2]) },
    }
}

/// The commands of a step, made from what the world says now.
fn commands(world: &mut World, step: &Step) -> Vec<Command> {
    let users = USERS.map(user);
    let names = conversations();
    let held = |world: &mut World, slot: SlotId, op: HolderOp| {
        let epoch = world.epoch(slot);
        let n = match world.view.rows.get(&crate::Key::holder(slot)) {
            Some(crate::Row::Holder(row)) => row.next_n,
            other => panic!("{other:?}"),
        };
        vec![Command::Held { fence: Fence { slot, epoch, n }, op }]
    };
    match step {
        Step::Append { conversation, sender, id, content: kind, place, local } => {
            let name = &names[*conversation];
            // The last user is a stranger to the direct conversations.
            let sender = match name {
                ConversationId::Direct(a, b) => [a, b, a, &users[3]][*sender],
                ConversationId::Group(_) => &users[*sender],
            };
            let mut append = with_content(message(name, sender, *id), content(*kind, *id));
            append.place = place_near(world, Namespace::conversation(TENANT, name.clone()), *place);
            append.at_ms = u64::from(*id);
            for (local, place) in local {
                let user = &users[*local];
                let known = append.local.iter().any(|other| other.user == *user);
                if !known && slot_of_user(user) == home(name) {
                    let place = place_near(world, Namespace::inbox(TENANT, user.clone()), *place);
                    append.local.push(LocalInbox { user: user.clone(), place });
                }
            }
            held(world, home(name), HolderOp::Append(append))
        }
        Step::Deliver { conversation, user, from, count, place } => {
            let (name, user) = (&names[*conversation], &users[*user]);
            let Some(mut delivery) = owed(world, name, user, *from, *count) else { return vec![] };
            delivery.place = place_near(world, Namespace::inbox(TENANT, user.clone()), *place);
            held(world, slot_of_user(user), HolderOp::Deliver { deliveries: vec![delivery] })
        }
        Step::Cursor { user, cursor } => {
            let (user, device) = (users[*user].clone(), DeviceId::new("d").unwrap());
            let slot = slot_of_user(&user);
            let write = CursorWrite { tenant: TENANT, user, device, cursor: seq(*cursor) };
            held(world, slot, HolderOp::SetCursors { cursors: vec![write] })
        }
        Step::Cancel { conversation, sender, id } => {
            let name = &names[*conversation];
            let (sender, message_id) = (users[*sender].clone(), message_id(*id));
            let (tenant, conversation) = (TENANT, name.clone());
            let cancel = CancelSend { tenant, conversation, sender, message_id, known: None };
            held(world, home(name), HolderOp::CancelSend(cancel))
        }
        Step::Reserve { user, conversation, seqs } => {
            let namespaces = [
                Namespace::inbox(TENANT, users[*user].clone()),
                Namespace::conversation(TENANT, names[*conversation].clone()),
            ];
            let reserve = |namespace: Namespace| {
                (hash::slot(&namespace), HolderOp::Reserve { wants: vec![Want { namespace, seqs: *seqs }] })
            };
            namespaces.map(reserve).into_iter().flat_map(|(slot, op)| held(world, slot, op)).take(1).collect()
        }
        Step::Delivered { conversation, all } => {
            let name = names[*conversation].clone();
            let (slot, record) = (home(&name), DeliveryRecord { all: Seq::new(*all), behind: vec![] });
            let record = DeliveredRecord { tenant: TENANT, conversation: name, record };
            held(world, slot, HolderOp::Delivered { records: vec![record] })
        }
        Step::Reclaim { conversation, user } => [home(&names[*conversation]), slot_of_user(&users[*user])]
            .map(|slot| Command::Claim { slot, lease: world.lease, seen: world.epoch(slot) })
            .to_vec(),
        Step::Trim { conversation, user, upto } => {
            let namespace = match user {
                Some(user) => Namespace::inbox(TENANT, users[*user].clone()),
                None => Namespace::conversation(TENANT, names[*conversation].clone()),
            };
            vec![Command::Trim { namespace, upto: seq(*upto) }]
        }
        Step::EndLease => vec![Command::ExpireLease { lease: world.lease }, Command::OpenLease { node: NodeId(2) }],
        Step::Stale { conversation, epochs, n } => {
            let slot = home(&names[*conversation]);
            let epoch = Epoch(world.epoch(slot).0.saturating_sub(*epochs));
            let op = HolderOp::Delivered { records: vec![] };
            vec![Command::Held { fence: Fence { slot, epoch, n: *n }, op }]
        }
    }
}

/// What the user is owed of a conversation: `count` entries from the `from`-th on, as a source would make them.
fn owed(world: &World, name: &ConversationId, user: &UserId, from: usize, count: usize) -> Option<Delivery> {
    let entries = owed_entries(world, name, user);
    let from = from % entries.len().max(1);
    let chosen = entries.get(from..(from + count).min(entries.len()))?;
    let after = from.checked_sub(1).map(|before| entries[before].seq);
    (!chosen.is_empty()).then(|| delivery(name, user, after, chosen))
}

fn owed_entries(world: &World, name: &ConversationId, user: &UserId) -> Vec<EntryRef> {
    let entries = world.messages(name).into_iter().map(|message| message.entry);
    entries.filter(|entry| is_in_a_stay(world, name, user, entry.seq)).collect()
}

fn is_in_a_stay(world: &World, name: &ConversationId, user: &UserId, seq: Seq) -> bool {
    let covers = |stay: &Stay| stay.user == *user && stay.joined <= seq && stay.left.is_none_or(|left| seq <= left);
    world.conversation(name).is_some_and(|state| state.stays.iter().any(covers))
}

/// The first kept entry of a sequence.
fn trim_of(view: &MemoryView, namespace: Namespace) -> Seq {
    match read(view, GROUP, &Read::Namespace(namespace)).unwrap() {
        ReadOutcome::Namespace(state) => state.map_or(Seq::FIRST, |state| state.trim),
        other => panic!("{other:?}"),
    }
}

/// Every inbox holds, of each conversation, a prefix of what its user is owed, in order. Where something was trimmed,
/// nobody can say.
fn assert_inboxes_are_prefixes(world: &World) {
    for name in conversations() {
        for user in USERS.map(user) {
            let trims = [Namespace::conversation(TENANT, name.clone()), Namespace::inbox(TENANT, user.clone())];
            if trims.map(|namespace| trim_of(&world.view, namespace)) != [Seq::FIRST; 2] {
                continue;
            }
            let owed = owed_entries(world, &name, &user);
            let (_, entries) = world.inbox(&user);
            let got = entries.into_iter().filter(|e| e.conversation == name).map(|e| e.entry);
            // A stay that every cursor has passed may be forgotten; its entries are not compared.
            let got: Vec<_> = got.filter(|entry| is_in_a_stay(world, &name, &user, entry.seq)).collect();
            assert!(owed.starts_with(&got), "I8, I9: {user:?} of {name:?} has {got:?}, is owed {owed:?}");
        }
    }
}

fn assert_all(world: &World) {
    for name in conversations() {
        assert_conversation_linked(world, &name);
        let undelivered = world.conversation(&name).is_some_and(|state| state.pending);
        assert_eq!(world.pending(home(&name)).contains(&name), undelivered, "the flag and the table agree");
    }
    for user in USERS.map(user) {
        assert_inbox_linked(world, &user);
    }
}

/// What must never fall from one state to the next: ceilings, tails, ordinals, epochs, cursors, `last`.
fn assert_rising(before: &MemoryView, after: &MemoryView) {
    use crate::Row;
    for (key, old) in &before.rows {
        let Some(new) = after.rows.get(key) else {
            assert!(
                matches!(old, Row::Lease(_) | Row::Pending | Row::Reaction(_)) || is_trimmed(after, key, old),
                "{key:?} is gone"
            );
            continue;
        };
        match (old, new) {
            (Row::Namespace(old), Row::Namespace(new)) => {
                assert!(old.ceiling <= new.ceiling && old.tail <= new.tail && old.base <= new.base);
                assert!(old.trim <= new.trim, "I4");
            }
            (Row::Conversation(old), Row::Conversation(new)) => {
                // What a target slot may still be owed is there.
                let kept = new.delivered.behind.iter().map(|(_, at)| *at).fold(new.delivered.all, Option::min);
                let moved = old.namespace.trim < new.namespace.trim;
                assert!(!moved || !new.pending || Some(new.namespace.trim) <= kept.map(Seq::next), "I9");
                let (old, new) = (old.namespace, new.namespace);
                assert!(old.ceiling <= new.ceiling && old.tail <= new.tail && old.base <= new.base);
                assert!(old.trim <= new.trim, "I4");
            }
            (Row::Cursor(old), Row::Cursor(new)) => assert!(old <= new, "I11"),
            (Row::Last(old), Row::Last(new)) => assert!(old.last <= new.last, "I9"),
            (Row::Holder(old), Row::Holder(new)) => assert!(old.epoch <= new.epoch, "I3"),
            (Row::Message(old), Row::Message(new)) if new.erased => {
                let (salt, body) = (old.salt.clone(), old.body.clone());
                let whole = StoredMessage { salt, body, erased: old.erased, ..new.clone() };
                assert_eq!(*old, whole, "a recall takes the body and nothing else");
                assert!(new.salt.is_empty() && new.body.is_empty());
            }
            (Row::Amended(old), Row::Amended(new)) => assert!(new.edits.starts_with(&old.edits), "edits only come"),
            (Row::Message(_) | Row::Inbox(_) | Row::Dedupe(_), new) => assert_eq!(old, new, "entries are immutable"),
            _ => {}
        }
    }
}

/// May the row be gone because trim has passed it?
fn is_trimmed(after: &MemoryView, key: &crate::Key, old: &crate::Row) -> bool {
    use crate::row::DedupeRow;
    use crate::{Item, Row, Scope};
    let Scope::Tenant(_, item) = &key.scope else { return false };
    let (namespace, place) = match (item, old) {
        (Item::Inbox(user, seq), _) => (Namespace::inbox(TENANT, user.clone()), *seq),
        (Item::Dedupe(of, ..), Row::Dedupe(DedupeRow::Committed { seq, .. } | DedupeRow::Cancelled { place: seq })) => {
            (Namespace::conversation(TENANT, of.clone()), *seq)
        }
        (Item::Message(of, seq) | Item::Amended(of, seq) | Item::Pin(of, seq) | Item::Tombstone(of, seq, ..), _) => {
            (Namespace::conversation(TENANT, of.clone()), *seq)
        }
        _ => return false,
    };
    place < trim_of(after, namespace)
}

/// A world that owns and holds the slots of the history only: its views are compared and cloned often.
fn world_of_history() -> World {
    let (names, users) = (conversations(), USERS.map(user));
    let slots: BTreeSet<_> = names.iter().map(home).chain(users.iter().map(slot_of_user)).collect();
    let range = |slot: &SlotId| SlotRange { first: *slot, end: SlotId(slot.0 + 1) };
    let mut world = World::of(Generation(0), slots.iter().map(range).collect());
    for slot in slots {
        world.reclaim(slot);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_histories_keep_the_invariants_and_replicas_agree(steps in proptest::collection::vec(any_step(), 1..60)) {
        let mut world = world_of_history();
        let (group, first) = (conversations().remove(2), user(USERS[0]));
        world.append(with_content(message(&group, &first, 255), Content::Create { members: USERS.map(user).to_vec() }));
        let mut replica = world.clone();
        for step in &steps {
            for command in commands(&mut world, step) {
                let before = world.view.clone();
                let outcome = world.run(command.clone());
                if let Outcome::Leased(lease) = outcome {
                    world.lease = lease;
                }
                prop_assert_eq!(replica.run(command), outcome);
                assert_rising(&before, &world.view);
            }
        }
        assert_all(&world);
        assert_inboxes_are_prefixes(&world);
        prop_assert!(world.view == replica.view, "I13");
    }

    /// Two conversations between the same users and a group, delivered in pieces that are repeated and reordered
    /// at will; then a source that goes through each range in order once finishes the work.
    #[test]
    fn repeated_and_reordered_ranges_give_each_inbox_each_entry_once(
        appends in proptest::collection::vec((0..3usize, any::<bool>()), 1..40),
        pieces in proptest::collection::vec((0..3usize, 0..4usize, 0..40usize, 1..6usize), 0..60),
    ) {
        let mut world = world_of_history();
        let (names, users) = (conversations(), USERS.map(user));
        let group = &names[2];
        world.append(with_content(message(group, &users[0], 255), Content::Create { members: users[1..].to_vec() }));
        let senders = [&users[0], &users[2], &users[3]];
        for (id, (conversation, local)) in appends.iter().enumerate() {
            let (name, sender) = (&names[*conversation], senders[*conversation]);
            let append = message(name, sender, id as u8);
            let near = users.iter().find(|user| *local && slot_of_user(user) == home(name));
            world.append(match near {
                Some(near) => with_local(append, near),
                None => append,
            });
        }
        for (conversation, user, from, count) in pieces {
            if let Some(piece) = owed(&world, &names[conversation], &users[user], from, count) {
                world.deliver(piece);
                assert_inboxes_are_prefixes(&world);
            }
        }
        for name in &names {
            for user in &users {
                let entries = owed_entries(&world, name, user);
                if entries.is_empty() {
                    continue;
                }
                let outcome = world.deliver(delivery(name, user, None, &entries));
                let accepted = matches!(outcome, DeliveryOutcome::Accepted { last, .. } if last == entries.last().unwrap().seq);
                prop_assert!(accepted);
            }
        }
        for user in &users {
            assert_inbox_linked(&world, user);
            let (_, inbox) = world.inbox(user);
            let mut expected = 0;
            for name in &names {
                let owed = owed_entries(&world, name, user);
                let got: Vec<_> = inbox.iter().filter(|e| e.conversation == *name).map(|e| e.entry.clone()).collect();
                expected += owed.len();
                prop_assert_eq!(got, owed, "exactly once, in the conversation's order");
            }
            prop_assert_eq!(inbox.len(), expected, "nothing else");
        }
    }
}
