//! Whatever is lost, doubled, late or out of order, and whoever crashes: every member's inbox holds every entry of his
//! conversations exactly once, in conversation order (I7–I9).

mod world;

use proptest::prelude::*;
use seriatim_proto::command::Content;
use seriatim_proto::error::Certainty;
use seriatim_proto::ids::*;
use seriatim_proto::logic::CallError;
use world::*;

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

#[derive(Clone, Debug)]
enum Step {
    Send { sender: usize, conversation: usize, id: u8 },
    Wire { place: usize, fate: u8 },
    Ghost { place: usize },
    Advance { ms: u64 },
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0usize..4, 0usize..3, any::<u8>()).prop_map(|(sender, conversation, id)| Step::Send { sender, conversation, id }),
        12 => (any::<usize>(), 0u8..20).prop_map(|(place, fate)| Step::Wire { place, fate }),
        1 => any::<usize>().prop_map(|place| Step::Ghost { place }),
        2 => (1u64..400).prop_map(|ms| Step::Advance { ms }),
    ];
    prop::collection::vec(prop_oneof![200 => step, 1 => Just(Step::Crash)], 50..500)
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
    let mut sent = Vec::new();
    for step in steps {
        match step {
            Step::Send { sender, conversation, id } => {
                let content = message(&format!("{sender} {id}"));
                let send = send(NAMES[sender], &conversations[conversation], id.max(1), content);
                sent.push((world.send(send.clone()), send));
            }
            Step::Wire { place, fate } => {
                if world.wires.is_empty() {
                    continue;
                }
                let place = place % world.wires.len().min(8);
                let wire = world.wires.remove(place);
                let fate = match fate {
                    0 => Fate::Lost,
                    1 => Fate::AnswerLost,
                    2 => Fate::Doubled,
                    3 => Fate::Late,
                    _ => Fate::Arrives,
                };
                world.step(wire, fate);
            }
            Step::Ghost { place } => {
                if !world.ghosts.is_empty() {
                    let place = place % world.ghosts.len();
                    let ghost = world.ghosts.remove(place);
                    world.haunt(ghost);
                }
            }
            Step::Advance { ms } => world.advance(ms),
            Step::Crash => {
                world.crash_all();
            }
        }
    }
    world.run(4_000);
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
        // I7: one message id, one message.
        let mut ids: Vec<_> = log.iter().map(|message| (message.entry.sender.clone(), message.entry.message_id)).collect();
        ids.sort();
        let count = ids.len();
        ids.dedup();
        assert_eq!(ids.len(), count);
    }
    // I6 in small: what was told committed is there, what surely did not happen is not, by any attempt.
    let find = |sent: &seriatim_logic_core::Send| {
        let same = |message: &&seriatim_proto::store::StoredMessage| message.entry.sender == sent.sender && message.entry.message_id == sent.message_id;
        world.log(&sent.conversation).iter().find(same).map(|message| message.entry.seq)
    };
    for (request, sent) in &sent {
        match world.replies.get(request) {
            Some(Ok(_)) => assert_eq!(world.committed(*request), find(sent)),
            Some(Err(CallError::Refused(refusal))) => assert!(
                refusal.code.certainty() == Certainty::Unknown || !matches!(refusal.code, seriatim_proto::error::ErrorCode::Internal),
                "{refusal}"
            ),
            // Nobody answers for a node that crashed.
            Some(Err(CallError::NotHolder { .. })) | None => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 2_000, ..ProptestConfig::default() })]
    #[test]
    fn inboxes_hold_every_entry_once_in_conversation_order(steps in steps()) {
        run(steps);
    }
}
