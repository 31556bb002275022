//! Whatever is lost, doubled, late or out of order, and whoever crashes: every member's inbox holds every entry of his
//! conversations exactly once, in conversation order (I7–I9).

mod world;

use bytes::Bytes;
use proptest::prelude::*;
use seriatim_logic_core::Event;
use seriatim_proto::command::{Act, Content, Kind};
use seriatim_proto::error::{Certainty, ErrorCode};
use seriatim_proto::ids::*;
use seriatim_proto::logic::{CallError, Reply, SendState};
use world::*;

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

#[derive(Clone, Debug)]
enum Step {
    Send {
        sender: usize,
        conversation: usize,
        id: u8,
    },
    /// The message id of a send before is to be settled; perhaps another attempt follows.
    Cancel {
        place: usize,
        again: bool,
    },
    Wire {
        place: usize,
        fate: u8,
    },
    Ghost {
        place: usize,
    },
    Advance {
        ms: u64,
    },
    Crash,
    /// A slot is given back; whoever needs it next claims it.
    Release {
        name: usize,
    },
    /// Several messages arrive before anybody does anything.
    Turn {
        count: usize,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0usize..4, 0usize..3, any::<u8>()).prop_map(|(sender, conversation, id)| Step::Send { sender, conversation, id }),
        1 => (any::<usize>(), any::<bool>()).prop_map(|(place, again)| Step::Cancel { place, again }),
        12 => (any::<usize>(), 0u8..20).prop_map(|(place, fate)| Step::Wire { place, fate }),
        1 => any::<usize>().prop_map(|place| Step::Ghost { place }),
        2 => (1u64..400).prop_map(|ms| Step::Advance { ms }),
        2 => (2usize..8).prop_map(|count| Step::Turn { count }),
    ];
    prop::collection::vec(
        prop_oneof![
            200 => step,
            1 => Just(Step::Crash),
            3 => (0usize..5).prop_map(|name| Step::Release { name }),
        ],
        50..500,
    )
}

/// Mostly messages; of the last ids amendments of the first few entries, some of which are refused.
fn content(sender: usize, id: u8) -> Content {
    let target = Seq::new(1 + u64::from(id % 16)).expect("it is above 0");
    let act = match id {
        192..208 => Act::Recall { within_s: u32::MAX },
        208..224 => Act::Edit { salt: Bytes::new(), body: Bytes::copy_from_slice(&[id]), within_s: u32::MAX },
        224..240 => Act::React { emoji: Emoji::new("+").expect("a name"), set: sender.is_multiple_of(2) },
        240.. => Act::Pin { set: sender.is_multiple_of(2) },
        _ => return message(&format!("{sender} {id}")),
    };
    Content::Amend { target, act }
}

fn run(steps: Vec<Step>) {
    let mut world = World::new();
    let group = ConversationId::Group(ConversationKey([7; 16]));
    let conversations = [
        ConversationId::direct(user("alice"), user("bob")),
        group.clone(),
        ConversationId::direct(user("carol"), user("dave")),
    ];
    for name in NAMES {
        world.claim(seriatim_proto::hash::inbox_slot(TENANT, &user(name)));
    }
    let members = NAMES.iter().map(|name| user(name)).collect();
    world.send(send("alice", &group, 0, Content::Create { members }));
    world.run(50);
    let mut slots: Vec<SlotId> =
        NAMES.iter().map(|name| seriatim_proto::hash::inbox_slot(TENANT, &user(name))).collect();
    slots.push(seriatim_proto::hash::conversation_slot(TENANT, &group));
    let (mut sent, mut crashed, mut released) = (Vec::new(), false, std::collections::BTreeSet::new());
    let mut cancels = Vec::new();
    for step in steps {
        // A slot that was given back has a holder again some time later.
        if let Some(slot) = released.iter().find(|slot| !world.holders.contains_key(slot)).copied() {
            released.remove(&slot);
            world.claim(slot);
        }
        match step {
            Step::Send { sender, conversation, id } => {
                let content = content(sender, id);
                let send = send(NAMES[sender], &conversations[conversation], id.max(1), content);
                sent.push((world.send(send.clone()), send));
            }
            Step::Cancel { place, again } => {
                let Some((_, send)) = sent.get(place % sent.len().max(1)).cloned() else { continue };
                cancels.push((world.cancel(&send), send.clone()));
                if again {
                    sent.push((world.send(send.clone()), send));
                }
            }
            Step::Wire { place, fate } => world.nudge(place, fate),
            Step::Ghost { place } => world.haunt_one(place),
            Step::Advance { ms } => world.advance(ms),
            Step::Turn { count } => world.turn(count),
            Step::Release { name } => {
                let slot = slots[name];
                world.handle(slot, Event::Release { heir: None });
                released.insert(slot);
            }
            Step::Crash => {
                world.crash_all();
                crashed = true;
            }
        }
    }
    for _ in 0..20 {
        world.run(200);
        slots.iter().for_each(|slot| world.claim(*slot));
    }
    for ghost in std::mem::take(&mut world.ghosts) {
        world.haunt(ghost);
    }
    world.run(4_000);

    for (place, conversation) in conversations.iter().enumerate() {
        let log = world.log(conversation);
        let seqs: Vec<Seq> = log.iter().map(|message| message.entry.seq).collect();
        let members: &[&str] = match place {
            0 => &NAMES[..2],
            1 => &NAMES,
            _ => &NAMES[2..],
        };
        for name in members {
            world.assert_inbox(name, conversation, &seqs);
        }
        assert!(!world.is_pending(conversation));
        // A recall takes the bodies of its message and of what edited it, and of nothing else.
        let recalled = |seq: Seq| log.iter().any(|message| message.entry.kind == Kind::Recall { target: seq });
        for message in &log {
            let of = if let Kind::Edit { target } = message.entry.kind { target } else { message.entry.seq };
            assert_eq!(message.erased, recalled(of), "{:?}", message.entry);
        }
        // I7: one message id, one message.
        let mut ids: Vec<_> =
            log.iter().map(|message| (message.entry.sender.clone(), message.entry.message_id)).collect();
        ids.sort();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
    // I6 in small: what was told committed is there; what surely did not happen, in any attempt, is not.
    let same = |a: &seriatim_logic_core::Send, b: &seriatim_logic_core::Send| {
        (&a.conversation, &a.sender, a.message_id) == (&b.conversation, &b.sender, b.message_id)
    };
    let surely_not = |request: &seriatim_logic_core::RequestId| match world.replies.get(request) {
        Some(Err(CallError::Refused(refusal))) => refusal.code.certainty() == Certainty::DidNotHappen,
        Some(Err(CallError::NotHolder { .. })) => true,
        // Nobody answers for a node that crashed.
        Some(Ok(_)) | None => false,
    };
    let place = |send: &seriatim_logic_core::Send| {
        let log = world.log(&send.conversation);
        let mut entries = log.iter().map(|message| &message.entry);
        entries.find(|entry| entry.sender == send.sender && entry.message_id == send.message_id).map(|entry| entry.seq)
    };
    // A message id has one verdict: whoever hears one, hears what is true at the end.
    for (request, send) in &cancels {
        let found = place(send);
        match world.replies.get(request) {
            Some(Ok(Reply::SendStatus(SendState::Committed(seq)))) => assert_eq!(found, Some(*seq), "{request:?}"),
            Some(Ok(Reply::SendStatus(SendState::Cancelled))) => assert_eq!(found, None, "{request:?} is cancelled"),
            Some(Ok(other)) => panic!("{request:?} was answered with {other:?}"),
            Some(Err(CallError::Refused(refusal))) => assert_ne!(refusal.code, ErrorCode::Internal, "{refusal}"),
            Some(Err(CallError::NotHolder { .. })) => {}
            None => assert!(crashed, "{request:?} was never answered"),
        }
    }
    for (request, send) in &sent {
        let found = place(send);
        match world.replies.get(request) {
            Some(Ok(_)) => assert!(found.is_some() && world.committed(*request) == found, "{request:?}"),
            Some(Err(CallError::Refused(refusal))) => assert_ne!(refusal.code, ErrorCode::Internal, "{refusal}"),
            Some(Err(CallError::NotHolder { .. })) => {}
            None => assert!(crashed, "{request:?} was never answered"),
        }
        if sent.iter().filter(|(_, other)| same(send, other)).all(|(request, _)| surely_not(request)) {
            assert_eq!(found, None, "{request:?} surely did not happen");
        }
    }
}

/// A failure that proptest found once, kept as steps: its seed stops leading there when the steps change.
#[test]
fn a_failure_found_once_stays_away() {
    let s = |sender, conversation, id| Step::Send { sender, conversation, id };
    let w = |place, fate| Step::Wire { place, fate };
    let a = |ms| Step::Advance { ms };
    #[rustfmt::skip]
    let steps = vec![
        s(0, 0, 0), s(0, 1, 0), w(0, 2), w(3866936070929398279, 0), w(4594059930730469423, 2),
        w(2231395099247760317, 4), w(2537656311214911613, 0), a(1), s(2, 0, 0), w(0, 2), s(0, 0, 0), s(0, 0, 1),
        s(0, 0, 0), s(0, 0, 0), w(4511624341299067898, 2), s(0, 0, 1), s(0, 2, 0), w(12927851742465593944, 0),
        s(0, 0, 1), w(10082291779861204864, 0), s(0, 2, 0), s(0, 0, 1), w(10546147874234085262, 0),
        w(2871651683457758687, 0), s(0, 0, 0), s(0, 0, 0), w(17047092904424667569, 0), s(0, 1, 1),
        w(2931891033506124125, 0), s(0, 1, 1), w(697058612160106107, 7), w(4159084572410105236, 17),
        w(14178758174039066725, 11), w(14213578012149335283, 12), s(2, 1, 198), a(355), w(6068457855332192751, 19),
        w(16632988836702472923, 16), w(9732720238089752369, 13), w(4870774397541927248, 7),
        w(14857006882218943368, 2), w(10065523259217336826, 12), w(13766790620442031453, 11),
        w(8953120721094664053, 19), s(3, 2, 158), w(11913551021448359850, 15), w(4841312219986106197, 9),
        s(0, 0, 202), s(0, 2, 38), s(0, 1, 49),
    ];
    run(steps);
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn inboxes_hold_every_entry_once_in_conversation_order(steps in steps()) {
        run(steps);
    }
}
