//! Amendments: who may do what to which message, and what a recall leaves.

use proptest::prelude::*;
use seriatim_proto::command::{Act, CancelSend, Kind};
use seriatim_proto::ids::Emoji;
use seriatim_proto::store::Amendments;

use super::*;

const DAY_S: u32 = 86_400;

fn amend(conversation: &ConversationId, sender: &UserId, id: u8, target: u64, act: Act) -> Append {
    with_content(message(conversation, sender, id), Content::Amend { target: seq(target), act })
}

fn edit(text: &'static str) -> Act {
    Act::Edit { salt: Bytes::from_static(b"salt"), body: Bytes::from_static(text.as_bytes()), within_s: DAY_S }
}

fn recall() -> Act {
    Act::Recall { within_s: DAY_S }
}

fn emoji(text: &str) -> Emoji {
    Emoji::new(text).unwrap()
}

fn react(text: &str, set: bool) -> Act {
    Act::React { emoji: emoji(text), set }
}

fn at(mut append: Append, at_ms: u64) -> Append {
    append.at_ms = at_ms;
    append
}

fn amendments(world: &World, conversation: &ConversationId, target: u64) -> Amendments {
    let (conversation, target) = (conversation.clone(), seq(target));
    match world.read(Read::Amendments { tenant: TENANT, conversation, target }) {
        ReadOutcome::Amendments(amendments) => amendments,
        other => panic!("{other:?}"),
    }
}

fn pins(world: &World, conversation: &ConversationId) -> Vec<(Seq, Seq)> {
    match world.read(Read::Pins { tenant: TENANT, conversation: conversation.clone() }) {
        ReadOutcome::Pins(pins) => pins,
        other => panic!("{other:?}"),
    }
}

/// A direct conversation in which the near user has said something at 1.
fn talk() -> (World, ConversationId, UserId, UserId) {
    let mut world = World::new();
    let (conversation, near, far) = pair();
    world.append(message(&conversation, &near, 1));
    (world, conversation, near, far)
}

/// A group of alice and bob in which alice has said something at 2; carol is none of them.
fn group_talk() -> (World, ConversationId, UserId, UserId, UserId) {
    let mut world = World::new();
    let (alice, bob, carol) = (user("alice"), user("bob"), user("carol"));
    let group = group_near(&alice);
    world.append(with_content(message(&group, &alice, 1), Content::Create { members: vec![bob.clone()] }));
    world.append(message(&group, &alice, 2));
    (world, group, alice, bob, carol)
}

#[test]
fn an_edit_is_an_entry_of_its_own_that_names_its_message_and_is_delivered_like_one() {
    let (mut world, conversation, near, far) = talk();
    let appended = world.append(amend(&conversation, &near, 2, 1, edit("better")));
    let entry = appended.entry.unwrap();
    assert_eq!((entry.seq, entry.kind), (seq(2), Kind::Edit { target: seq(1) }));
    assert_eq!(entry.body_hash, seriatim_proto::chain::body_hash(b"salt", b"better"));
    let messages = world.messages(&conversation);
    assert_eq!((&messages[0].body[..], &messages[1].body[..]), (&[1, 1, 1][..], &b"better"[..]));
    assert_eq!(messages[1].ordinal, 1, "an amendment is no message");
    assert_eq!(amendments(&world, &conversation, 1).edits, vec![seq(2)]);
    let entries: Vec<_> = messages.into_iter().map(|message| message.entry).collect();
    world.deliver(delivery(&conversation, &far, None, &entries));
    assert_eq!(world.inbox(&far).1[1].entry, entry);
    assert_eq!(world.inbox(&far).0.unwrap().ordinal, 1);
    assert_inbox_linked(&world, &far);
    assert_conversation_linked(&world, &conversation);
}

#[test]
fn a_local_inbox_gets_an_amendment_with_the_append() {
    let (mut world, conversation, near, _) = talk();
    let entries: Vec<_> = world.messages(&conversation).into_iter().map(|message| message.entry).collect();
    world.deliver(delivery(&conversation, &near, None, &entries));
    let appended = world.append(with_local(amend(&conversation, &near, 2, 1, recall()), &near));
    assert_eq!(appended.local[0].written.unwrap().conversation_seq, seq(2));
    assert_inbox_linked(&world, &near);
}

#[test]
fn only_its_author_edits_or_recalls_a_message() {
    let (mut world, conversation, near, far) = talk();
    for act in [edit("mine"), recall()] {
        assert_eq!(world.append_rejected(amend(&conversation, &far, 2, 1, act)), Reject::NotAuthor);
    }
    world.append(amend(&conversation, &near, 3, 1, edit("mine")));
    // Also in a group, and whoever made it.
    let (mut world, group, alice, bob, _) = group_talk();
    world.append(message(&group, &bob, 3));
    assert_eq!(world.append_rejected(amend(&group, &alice, 4, 3, recall())), Reject::NotAuthor);
}

#[test]
fn strangers_former_members_and_those_who_came_later_learn_nothing() {
    let (mut world, group, alice, bob, carol) = group_talk();
    let acts = || [edit("x"), recall(), react("+", true), Act::Pin { set: true }];
    for act in acts() {
        assert_eq!(world.append_rejected(amend(&group, &carol, 9, 2, act)), Reject::NotFound, "a stranger");
    }
    world.append(with_content(
        message(&group, &alice, 3),
        Content::Members { add: vec![carol.clone()], remove: vec![bob.clone()] },
    ));
    for act in acts() {
        let former = world.append_rejected(amend(&group, &bob, 9, 2, act.clone()));
        let later = world.append_rejected(amend(&group, &carol, 9, 2, act.clone()));
        let never = world.append_rejected(amend(&group, &carol, 9, 77, act));
        assert_eq!((former, later, never), (Reject::NotFound, Reject::NotFound, Reject::NotFound));
    }
    // Recalled or not, it looks the same to them.
    world.append(amend(&group, &alice, 4, 2, recall()));
    assert_eq!(world.append_rejected(amend(&group, &carol, 9, 2, react("+", true))), Reject::NotFound);
    // What was said since, she may react to.
    world.append(message(&group, &alice, 5));
    world.append(amend(&group, &carol, 6, 5, react("+", true)));
    let (mut world, conversation, ..) = talk();
    assert_eq!(world.append_rejected(amend(&conversation, &user("eve"), 9, 1, react("+", true))), Reject::NotFound);
}

#[test]
fn a_pin_of_a_message_that_no_member_was_given_is_taken_back_by_any_member() {
    let (mut world, group, alice, bob, carol) = group_talk();
    world.append(amend(&group, &alice, 3, 2, Act::Pin { set: true }));
    let change = Content::Members { add: vec![carol.clone()], remove: vec![alice.clone(), bob.clone()] };
    world.append(with_content(message(&group, &alice, 4), change));
    world.append(message(&group, &carol, 5));
    assert_eq!(pins(&world, &group), [(seq(2), seq(3))]);
    // Whose it was, and strangers, say nothing about it.
    for (id, former) in [(6, &alice), (7, &bob), (8, &user("eve"))] {
        let refused = world.append_rejected(amend(&group, former, id, 2, Act::Pin { set: false }));
        assert_eq!(refused, Reject::NotFound);
    }
    let unpinned = world.append(amend(&group, &carol, 9, 2, Act::Pin { set: false })).entry.unwrap();
    assert_eq!((unpinned.kind, pins(&world, &group)), (Kind::Pin { target: seq(2) }, vec![]));
    // It is as it was before: to her the message is not there.
    for set in [false, true] {
        assert_eq!(world.append_rejected(amend(&group, &carol, 10, 2, Act::Pin { set })), Reject::NotFound);
    }
}

#[test]
fn an_author_who_came_back_may_still_recall_what_he_said_before() {
    let (mut world, group, alice, bob, _) = group_talk();
    world.append(message(&group, &bob, 3));
    let change = |add: &[&UserId], remove: &[&UserId]| Content::Members {
        add: add.iter().copied().cloned().collect(),
        remove: remove.iter().copied().cloned().collect(),
    };
    world.append(with_content(message(&group, &alice, 4), change(&[], &[&bob])));
    assert_eq!(world.append_rejected(amend(&group, &bob, 5, 3, recall())), Reject::NotFound);
    world.append(with_content(message(&group, &alice, 6), change(&[&bob], &[])));
    world.append(amend(&group, &bob, 7, 3, recall()));
    assert!(world.messages(&group)[2].erased);
}

#[test]
fn only_messages_are_amended() {
    let (mut world, group, alice, ..) = group_talk();
    world.append(amend(&group, &alice, 3, 2, edit("x")));
    world.append(amend(&group, &alice, 4, 2, react("+", true)));
    for (target, what) in
        [(1, "the group's creation"), (3, "an edit"), (4, "a reaction"), (5, "itself"), (50, "nothing")]
    {
        for act in [edit("y"), recall(), react("-", true), Act::Pin { set: true }] {
            assert_eq!(world.append_rejected(amend(&group, &alice, 9, target, act)), Reject::NotFound, "{what}");
        }
    }
}

#[test]
fn a_conversation_does_not_begin_with_an_amendment() {
    let mut world = World::new();
    let (conversation, near, _) = pair();
    assert_eq!(world.append_rejected(amend(&conversation, &near, 1, 1, recall())), Reject::NotFound);
    let group = group_near(&near);
    assert_eq!(world.append_rejected(amend(&group, &near, 1, 1, recall())), Reject::NotFound);
    assert_eq!(world.conversation(&conversation), None);
}

#[test]
fn a_recall_erases_the_message_and_its_edits_and_every_chain_still_proves_itself() {
    let (mut world, conversation, near, far) = talk();
    world.append(amend(&conversation, &near, 2, 1, edit("better")));
    world.append(message(&conversation, &near, 3));
    world.append(amend(&conversation, &near, 4, 3, edit("other")));
    let before = world.messages(&conversation);
    let entries: Vec<_> = before.iter().map(|message| message.entry.clone()).collect();
    world.deliver(delivery(&conversation, &far, None, &entries));
    let inbox = world.inbox(&far).1;
    world.append(amend(&conversation, &near, 5, 1, recall()));
    let after = world.messages(&conversation);
    for (place, erased) in [(0, true), (1, true), (2, false), (3, false), (4, false)] {
        let message = &after[place];
        assert_eq!(message.erased, erased, "{message:?}");
        if erased {
            assert!(message.body.is_empty() && message.salt.is_empty());
            let whole =
                StoredMessage { salt: before[place].salt.clone(), body: before[place].body.clone(), ..message.clone() };
            assert_eq!(StoredMessage { erased: false, ..whole }, before[place], "the header is as it was");
        }
    }
    assert_eq!(world.inbox(&far).1, inbox);
    assert_conversation_linked(&world, &conversation);
    assert_eq!(amendments(&world, &conversation, 1).recalled, Some(seq(5)));
}

#[test]
fn nothing_comes_behind_a_recall() {
    let (mut world, conversation, near, far) = talk();
    world.append(amend(&conversation, &near, 2, 1, recall()));
    for act in [edit("x"), recall()] {
        assert_eq!(world.append_rejected(amend(&conversation, &near, 3, 1, act)), Reject::Recalled);
    }
    for act in [react("+", true), react("+", false), Act::Pin { set: true }, Act::Pin { set: false }] {
        assert_eq!(world.append_rejected(amend(&conversation, &far, 3, 1, act)), Reject::Recalled);
    }
}

#[test]
fn a_recalled_message_is_pinned_no_more() {
    let (mut world, conversation, near, far) = talk();
    world.append(message(&conversation, &near, 2));
    world.append(amend(&conversation, &far, 3, 1, Act::Pin { set: true }));
    world.append(amend(&conversation, &near, 4, 2, Act::Pin { set: true }));
    assert_eq!(pins(&world, &conversation), vec![(seq(1), seq(3)), (seq(2), seq(4))]);
    world.append(amend(&conversation, &near, 5, 1, recall()));
    assert_eq!(pins(&world, &conversation), vec![(seq(2), seq(4))]);
}

#[test]
fn a_message_is_edited_and_recalled_within_its_time_only() {
    let (mut world, conversation, near, _) = talk();
    let said_ms = 1_000;
    let end_ms = said_ms + u64::from(DAY_S) * 1_000;
    for act in [edit("late"), recall()] {
        let late = at(amend(&conversation, &near, 2, 1, act), end_ms + 1);
        assert_eq!(world.append_rejected(late), Reject::TooLate);
    }
    world.append(at(amend(&conversation, &near, 3, 1, edit("in time")), end_ms));
    // Any age, and none.
    let any = Act::Edit { salt: Bytes::new(), body: Bytes::new(), within_s: u32::MAX };
    world.append(at(amend(&conversation, &near, 4, 1, any), u64::MAX / 2));
    world.append(message(&conversation, &near, 5));
    let none = Act::Edit { salt: Bytes::new(), body: Bytes::new(), within_s: 0 };
    world.append(amend(&conversation, &near, 6, 4, none.clone()));
    assert_eq!(world.append_rejected(at(amend(&conversation, &near, 7, 4, none), u64::MAX / 2 + 1)), Reject::TooLate);
}

/// A holder's clock that goes back makes no message younger than the conversation says it is.
#[test]
fn age_is_counted_by_the_conversations_own_time() {
    let (mut world, conversation, near, _) = talk();
    let end_ms = 1_000 + u64::from(DAY_S) * 1_000;
    world.append(at(message(&conversation, &near, 2), end_ms + 1));
    let back = at(amend(&conversation, &near, 3, 1, recall()), 1_000);
    assert_eq!(world.append_rejected(back), Reject::TooLate);
}

#[test]
fn the_time_for_it_does_not_concern_reactions_and_pins() {
    let (mut world, conversation, near, _) = talk();
    world.append(at(amend(&conversation, &near, 2, 1, react("+", true)), u64::MAX / 2));
    world.append(amend(&conversation, &near, 3, 1, Act::Pin { set: true }));
}

#[test]
fn a_reaction_is_set_or_not_for_each_member_and_emoji() {
    let (mut world, conversation, near, far) = talk();
    let set = |world: &World| -> Vec<_> {
        let found = amendments(world, &conversation, 1).reactions;
        found.into_iter().map(|(user, emoji, seq)| (user, emoji.to_string(), seq.get())).collect()
    };
    world.append(amend(&conversation, &near, 2, 1, react("👍🏽", true)));
    world.append(amend(&conversation, &far, 3, 1, react("👍🏽", true)));
    world.append(amend(&conversation, &far, 4, 1, react("+", true)));
    let all = |parts: &[(&UserId, &str, u64)]| -> Vec<_> {
        let mut all: Vec<_> =
            parts.iter().map(|(user, emoji, seq)| ((*user).clone(), (*emoji).to_owned(), *seq)).collect();
        all.sort();
        all
    };
    assert_eq!(set(&world), all(&[(&near, "👍🏽", 2), (&far, "👍🏽", 3), (&far, "+", 4)]));
    // Again: an entry that changes nothing.
    assert_eq!(world.append(amend(&conversation, &far, 5, 1, react("+", true))).seq, seq(5));
    assert_eq!(set(&world), all(&[(&near, "👍🏽", 2), (&far, "👍🏽", 3), (&far, "+", 4)]));
    world.append(amend(&conversation, &far, 6, 1, react("+", false)));
    world.append(amend(&conversation, &far, 7, 1, react("+", false)));
    world.append(amend(&conversation, &near, 8, 1, react("never", false)));
    assert_eq!(set(&world), all(&[(&near, "👍🏽", 2), (&far, "👍🏽", 3)]));
    world.append(amend(&conversation, &far, 9, 1, react("+", true)));
    assert_eq!(set(&world), all(&[(&near, "👍🏽", 2), (&far, "👍🏽", 3), (&far, "+", 9)]));
}

#[test]
fn a_member_has_so_many_reactions_to_a_message_and_no_more() {
    let (mut world, conversation, near, far) = talk();
    let most = u8::try_from(limits::REACTIONS_MAX).unwrap();
    for id in 0..most {
        world.append(amend(&conversation, &near, 100 + id, 1, react(&format!("e{id}"), true)));
    }
    let more = amend(&conversation, &near, 2, 1, react("more", true));
    assert_eq!(world.append_rejected(more.clone()), Reject::AmendmentsTooMany);
    // What is set already, another member, and another message are something else.
    world.append(amend(&conversation, &near, 3, 1, react("e0", true)));
    world.append(amend(&conversation, &far, 4, 1, react("more", true)));
    let said = world.append(message(&conversation, &near, 5)).seq;
    world.append(amend(&conversation, &near, 6, said.get(), react("more", true)));
    world.append(amend(&conversation, &near, 7, 1, react("e0", false)));
    world.append(more);
}

#[test]
#[should_panic(expected = "a map loses nothing: an edit is not where its message says")]
fn a_recall_says_that_an_edit_was_lost() {
    let (mut world, conversation, near, _) = talk();
    let edit = world.append(amend(&conversation, &near, 2, 1, edit("better"))).seq;
    let lost = crate::Key::tenant(home(&conversation), TENANT, crate::Item::Message(conversation.clone(), edit));
    assert!(world.view.rows.remove(&lost).is_some());
    world.append(amend(&conversation, &near, 3, 1, recall()));
}

#[test]
fn a_message_has_so_many_edits_and_a_conversation_so_many_pins() {
    let (mut world, conversation, near, _) = talk();
    let most = u8::try_from(limits::EDITS_MAX).unwrap();
    for id in 0..most {
        world.append(amend(&conversation, &near, 10 + id, 1, edit("again")));
    }
    assert_eq!(world.append_rejected(amend(&conversation, &near, 2, 1, edit("again"))), Reject::AmendmentsTooMany);
    world.append(amend(&conversation, &near, 3, 1, recall()));
    assert_eq!(world.messages(&conversation).iter().filter(|message| message.erased).count(), 1 + usize::from(most));
    let most = u8::try_from(limits::PINS_MAX).unwrap();
    let pin = |target: Seq, id| amend(&conversation, &near, id, target.get(), Act::Pin { set: true });
    let said = |world: &mut World, id| {
        let append = with_content(
            message(&conversation, &near, id),
            Content::Message { salt: Bytes::new(), body: Bytes::from(vec![id]) },
        );
        world.append(Append { message_id: MessageId([id, 0xaa].repeat(8).try_into().unwrap()), ..append }).seq
    };
    let targets: Vec<Seq> = (0..=most).map(|id| said(&mut world, id)).collect();
    for (id, target) in targets[1..].iter().enumerate() {
        let append = pin(*target, 0);
        world.append(Append {
            message_id: MessageId([u8::try_from(id).unwrap(), 0xbb].repeat(8).try_into().unwrap()),
            ..append
        });
    }
    assert_eq!(world.append_rejected(pin(targets[0], 200)), Reject::AmendmentsTooMany);
    world.append(pin(targets[1], 201));
    world.append(amend(&conversation, &near, 202, targets[1].get(), Act::Pin { set: false }));
    world.append(pin(targets[0], 203));
}

#[test]
fn dedupe_cancels_and_follows_concern_amendments_as_messages() {
    let (mut world, conversation, near, _) = talk();
    let first = amend(&conversation, &near, 2, 1, edit("better"));
    let seq_of = world.append(first.clone()).seq;
    let again = world.append(first.clone());
    assert_eq!((again.seq, again.duplicate), (seq_of, true));
    // Another body, another act, another message: a conflict, and so is a message under the id.
    let said = world.append(message(&conversation, &near, 3)).seq;
    for other in [
        amend(&conversation, &near, 2, 1, edit("worse")),
        amend(&conversation, &near, 2, said.get(), edit("better")),
        amend(&conversation, &near, 2, 1, recall()),
        message(&conversation, &near, 2),
        amend(&conversation, &near, 1, said.get(), recall()),
    ] {
        assert_eq!(world.append_rejected(other), Reject::Conflict);
    }
    // Whatever the tenant's rule is by now.
    let act = Act::Edit { salt: Bytes::from_static(b"salt"), body: Bytes::from_static(b"better"), within_s: 0 };
    assert!(world.append(amend(&conversation, &near, 2, 1, act)).duplicate);
    // A recall that is asked for again is the same recall; and the edit is still known.
    let recalled = amend(&conversation, &near, 4, 1, recall());
    let seq_of = world.append(recalled.clone()).seq;
    assert_eq!(world.append(recalled).seq, seq_of);
    assert!(world.append(first).duplicate);
    assert!(world.append(message(&conversation, &near, 1)).duplicate);
    let cancel = |id| CancelSend {
        tenant: TENANT,
        conversation: conversation.clone(),
        sender: near.clone(),
        message_id: message_id(id),
        known: None,
    };
    let slot = home(&conversation);
    assert_eq!(world.op(slot, HolderOp::CancelSend(cancel(4))), Outcome::SendSettled(Some(seq_of)));
    assert_eq!(world.op(slot, HolderOp::CancelSend(cancel(5))), Outcome::SendSettled(None));
    let cancelled = amend(&conversation, &near, 5, said.get(), recall());
    assert_eq!(world.append_rejected(cancelled), Reject::Cancelled);
    let mut behind = amend(&conversation, &near, 6, said.get(), react("+", true));
    behind.follows = Some(message_id(7));
    assert_eq!(world.append_rejected(behind.clone()), Reject::OutOfOrder);
    world.append(message(&conversation, &near, 7));
    world.append(behind);
}

#[test]
fn an_amendment_that_no_holder_makes_is_malformed() {
    let (mut world, conversation, near, _) = talk();
    let long = vec![0; limits::MESSAGE_BYTES_MAX as usize + 1];
    let bodies = [(vec![], long), (vec![0; limits::SALT_BYTES_MAX as usize + 1], vec![])];
    for (salt, body) in bodies {
        let act = Act::Edit { salt: Bytes::from(salt), body: Bytes::from(body), within_s: DAY_S };
        assert_eq!(world.append_rejected(amend(&conversation, &near, 2, 1, act)), Reject::Malformed);
    }
    // A name that no constructor gives can still be decoded.
    let bytes = seriatim_proto::codec::encode(&"a\0b");
    let emoji: Emoji = seriatim_proto::codec::decode(&bytes).unwrap();
    let act = Act::React { emoji, set: true };
    assert_eq!(world.append_rejected(amend(&conversation, &near, 2, 1, act)), Reject::Malformed);
}

#[test]
fn a_seq_that_is_refused_writes_nothing_of_a_recall() {
    let (mut world, conversation, near, _) = talk();
    let refused = Append { place: Place::At(seq(1)), ..amend(&conversation, &near, 2, 1, recall()) };
    assert_eq!(world.append_rejected(refused), Reject::SeqRefused);
}

/// What may be asked in a history: of three users in a group, about the first few entries.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Say,
    Edit(u64),
    Recall(u64),
    React(u64, u8, bool),
    Pin(u64, bool),
}

/// The rules again, as plainly as they can be said.
#[derive(Default, Debug)]
struct Plain {
    /// entries: who wrote it, and whether it is a message
    entries: Vec<(usize, bool)>,
    edits: BTreeMap<u64, Vec<u64>>,
    recalled: BTreeMap<u64, u64>,
    reactions: BTreeMap<(u64, String, u8), u64>,
    pins: BTreeMap<u64, u64>,
}

impl Plain {
    fn ask(&mut self, who: usize, name: &str, ask: Ask) -> Result<(), Reject> {
        let place = self.entries.len() as u64 + 1;
        let target = match ask {
            Ask::Say => None,
            Ask::Edit(target) | Ask::Recall(target) | Ask::React(target, ..) | Ask::Pin(target, _) => Some(target),
        };
        if let Some(target) = target {
            let found = usize::try_from(target - 1).ok().and_then(|at| self.entries.get(at));
            let Some((author, true)) = found else { return Err(Reject::NotFound) };
            if matches!(ask, Ask::Edit(_) | Ask::Recall(_)) && *author != who {
                return Err(Reject::NotAuthor);
            }
            if self.recalled.contains_key(&target) {
                return Err(Reject::Recalled);
            }
        }
        match ask {
            Ask::Say => {}
            Ask::Edit(target) => self.edits.entry(target).or_default().push(place),
            Ask::Recall(target) => {
                self.recalled.insert(target, place);
                self.pins.remove(&target);
            }
            Ask::React(target, emoji, true) => {
                self.reactions.entry((target, name.to_owned(), emoji)).or_insert(place);
            }
            Ask::React(target, emoji, false) => {
                self.reactions.remove(&(target, name.to_owned(), emoji));
            }
            Ask::Pin(target, true) => {
                self.pins.entry(target).or_insert(place);
            }
            Ask::Pin(target, false) => {
                self.pins.remove(&target);
            }
        }
        self.entries.push((who, matches!(ask, Ask::Say)));
        Ok(())
    }
}

fn any_ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        3 => Just(Ask::Say),
        2 => (1..12u64).prop_map(Ask::Edit),
        1 => (1..12u64).prop_map(Ask::Recall),
        3 => (1..12u64, 0..3u8, any::<bool>()).prop_map(|(target, emoji, set)| Ask::React(target, emoji, set)),
        2 => (1..12u64, any::<bool>()).prop_map(|(target, set)| Ask::Pin(target, set)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_amendments_end_where_plain_rules_say(asks in proptest::collection::vec((0..3usize, any_ask()), 1..60)) {
        let names = ["alice", "bob", "carol"];
        let users = names.map(user);
        let group = group_near(&users[0]);
        let home_of = home(&group);
        let range = SlotRange { first: home_of, end: SlotId(home_of.0 + 1) };
        let mut world = World::of(Generation(0), vec![range]);
        world.append(with_content(message(&group, &users[0], 255), Content::Create { members: users[1..].to_vec() }));
        let mut replica = world.clone();
        let mut plain = Plain { entries: vec![(0, false)], ..Plain::default() };
        for (id, (who, ask)) in asks.into_iter().enumerate() {
            let id = u8::try_from(id).unwrap();
            let append = match ask {
                Ask::Say => message(&group, &users[who], id),
                Ask::Edit(target) => amend(&group, &users[who], id, target, edit("x")),
                Ask::Recall(target) => amend(&group, &users[who], id, target, recall()),
                Ask::React(target, emoji, set) => amend(&group, &users[who], id, target, react(&format!("e{emoji}"), set)),
                Ask::Pin(target, set) => amend(&group, &users[who], id, target, Act::Pin { set }),
            };
            let said = plain.ask(who, names[who], ask);
            let outcome = world.op(home_of, HolderOp::Append(append.clone()));
            prop_assert_eq!(&replica.op(home_of, HolderOp::Append(append)), &outcome);
            match outcome {
                Outcome::Appended(appended) => {
                    prop_assert_eq!((said, appended.seq.get()), (Ok(()), plain.entries.len() as u64));
                }
                Outcome::Rejected(reject) => prop_assert_eq!(said, Err(reject)),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert!(world.view == replica.view, "I13");
        assert_conversation_linked(&world, &group);
        let pinned: Vec<_> = plain.pins.iter().map(|(target, at)| (seq(*target), seq(*at))).collect();
        prop_assert_eq!(pins(&world, &group), pinned);
        for (place, message) in world.messages(&group).into_iter().enumerate() {
            let target = place as u64 + 1;
            let found = amendments(&world, &group, target);
            prop_assert_eq!(found.edits, plain.edits.get(&target).cloned().unwrap_or_default().into_iter().map(seq).collect::<Vec<_>>());
            prop_assert_eq!(found.recalled, plain.recalled.get(&target).copied().map(seq));
            prop_assert_eq!(found.pinned, plain.pins.get(&target).copied().map(seq));
            let reactions: Vec<_> = plain.reactions.iter().filter(|((of, ..), _)| *of == target)
                .map(|((_, name, emoji), at)| (user(name), Emoji::new(&format!("e{emoji}")).unwrap(), seq(*at))).collect();
            prop_assert_eq!(found.reactions, reactions);
            let is_gone = plain.recalled.contains_key(&target)
                || plain.edits.iter().any(|(of, edits)| plain.recalled.contains_key(of) && edits.contains(&target));
            prop_assert_eq!(message.erased, is_gone);
        }
    }
}
