//! Golden bytes of replicated commands and their outcomes: what is in the logs of running clusters. A change here is
//! a change of format: new variants come behind the old ones, and nothing else ever changes (decision 0003).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use seriatim_proto::codec;
use seriatim_proto::command::{
    Act, Append, Appended, CancelSend, Command, Content, CursorOutcome, CursorWrite, DeliveredRecord, Delivery,
    DeliveryOutcome, DeliveryRecord, EntryRef, HolderOp, InboxWritten, Kind, Listed, LocalInbox, LocalOutcome, Mark,
    MarkOutcome, MarkWrite, Outcome, Place, ReadUpto, Reject, Segment, SlotRange, Want,
};
use seriatim_proto::ids::{
    BodyHash, ConversationId, ConversationKey, DeviceId, Emoji, Epoch, Fence, Generation, LeaseId, LogIndex, MessageId,
    Namespace, NodeId, Seq, SlotId, TenantId, UserId,
};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn seq(value: u64) -> Seq {
    Seq::new(value).unwrap()
}

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}

const LEASE: LeaseId = LeaseId { generation: Generation(1), index: LogIndex(300), place: 2 };
const ID: MessageId = MessageId([0x11; 16]);

fn direct() -> ConversationId {
    ConversationId::direct(user("a"), user("b"))
}

fn entry() -> EntryRef {
    let (sender, body_hash) = (user("a"), BodyHash([0x22; 16]));
    EntryRef { seq: seq(5), kind: Kind::Message, sender, message_id: ID, body_hash, at_ms: 1_000 }
}

fn held(op: HolderOp) -> Command {
    Command::Held { fence: Fence { slot: SlotId(7), epoch: Epoch(3), n: 130 }, op }
}

fn record() -> DeliveryRecord {
    DeliveryRecord { all: Some(seq(5)), behind: vec![(SlotId(9), Some(seq(4))), (SlotId(12), None)] }
}

fn commands() -> Vec<(&'static str, Command)> {
    let (tenant, conversation, sender) = (TenantId(1), direct(), user("a"));
    let message = Content::Message { salt: Bytes::from_static(b"s"), body: Bytes::from_static(b"hi") };
    let append = Append {
        tenant,
        conversation: conversation.clone(),
        sender: sender.clone(),
        message_id: ID,
        known: Some(seq(4)),
        follows: None,
        content: message,
        place: Place::At(seq(5)),
        at_ms: 1_000,
        local: vec![LocalInbox { user: user("b"), place: Place::Open { segment: 16 } }],
        delivered: Some(record()),
    };
    let create = Append {
        conversation: ConversationId::Group(ConversationKey([0x33; 16])),
        content: Content::Create { members: vec![user("b")] },
        known: None,
        follows: Some(ID),
        place: Place::Open { segment: 0 },
        local: Vec::new(),
        delivered: None,
        ..append.clone()
    };
    let members =
        Append { content: Content::Members { add: vec![user("c")], remove: vec![user("b")] }, ..create.clone() };
    let amend = |act| {
        let content = Content::Amend { target: seq(300), act };
        held(HolderOp::Append(Append { content, ..create.clone() }))
    };
    let (salt, body) = (Bytes::from_static(b"s"), Bytes::from_static(b"ho"));
    let marks = [Mark::Read { upto: seq(300) }, Mark::Mute { on: true }, Mark::Archive { on: false }];
    let marks = marks.map(|mark| MarkWrite {
        tenant,
        user: user("b"),
        conversation: direct(),
        mark,
        place: Place::At(seq(9)),
        at_ms: 1_000,
    });
    let marks = marks.to_vec();
    let delivery = Delivery {
        tenant,
        user: user("b"),
        conversation: conversation.clone(),
        after: None,
        upto: seq(5),
        entries: vec![entry()],
        place: Place::At(seq(8)),
    };
    let cancel = CancelSend { tenant, conversation: conversation.clone(), sender, message_id: ID, known: None };
    let cursor = CursorWrite { tenant, user: user("b"), device: DeviceId::new("phone").unwrap(), cursor: seq(9) };
    let slots = vec![SlotRange { first: SlotId(0), end: SlotId(1_024) }];
    let want = Want { namespace: Namespace::inbox(tenant, user("b")), seqs: 64 };
    vec![
        ("own", Command::Own { generation: Generation(1), slots }),
        ("open lease", Command::OpenLease { node: NodeId(4) }),
        ("expire lease", Command::ExpireLease { lease: LEASE }),
        ("close lease", Command::CloseLease { lease: LEASE }),
        ("claim", Command::Claim { slot: SlotId(7), lease: LEASE, seen: Epoch(2) }),
        ("release", held(HolderOp::Release { heir: Some(NodeId(4)) })),
        ("reserve", held(HolderOp::Reserve { wants: vec![want] })),
        ("append", held(HolderOp::Append(append))),
        ("create", held(HolderOp::Append(create.clone()))),
        ("members", held(HolderOp::Append(members))),
        ("deliver", held(HolderOp::Deliver { deliveries: vec![delivery] })),
        (
            "delivered",
            held(HolderOp::Delivered { records: vec![DeliveredRecord { tenant, conversation, record: record() }] }),
        ),
        ("cursors", held(HolderOp::SetCursors { cursors: vec![cursor] })),
        ("cancel", held(HolderOp::CancelSend(cancel))),
        ("mark", held(HolderOp::SetMarks { marks })),
        ("edit", amend(Act::Edit { salt, body, within_s: 86_400 })),
        ("recall", amend(Act::Recall { within_s: u32::MAX })),
        ("react", amend(Act::React { emoji: Emoji::new("+").unwrap(), set: true })),
        ("pin", amend(Act::Pin { set: false })),
        ("trim", Command::Trim { namespace: Namespace::inbox(tenant, user("al")), upto: seq(300) }),
    ]
}

fn outcomes() -> Vec<(&'static str, Outcome)> {
    let segment = Segment { epoch: Epoch(3), lo: seq(9), hi: seq(25) };
    let written = InboxWritten { seq: seq(8), prev_seq: Some(seq(7)), ordinal: 3, conversation_seq: seq(5) };
    let appended = Appended {
        seq: seq(5),
        duplicate: false,
        entry: Some(entry()),
        prev_seq: Some(seq(4)),
        segment: None,
        local: vec![LocalOutcome { written: Some(written), segment: Some(segment) }],
    };
    let delivered = vec![
        DeliveryOutcome::Accepted { last: seq(5), written: vec![written], segment: None },
        DeliveryOutcome::Jump { last: None, segment: None },
        DeliveryOutcome::SeqRefused,
    ];
    let cursors = vec![CursorOutcome::At(seq(9)), CursorOutcome::Ahead { tail: seq(9) }, CursorOutcome::DevicesFull];
    let listed = Listed {
        conversation: direct(),
        last: seq(5),
        inbox_seq: Some(seq(8)),
        messages: 3,
        read: Some(ReadUpto { inbox_seq: seq(8), seq: seq(5), messages: 3 }),
        muted: true,
        archived: false,
    };
    let set = MarkOutcome::Set { listed, written: Some((written, entry())), segment: None };
    let rejects = [
        Reject::WrongGroup(SlotId(7)),
        Reject::Fenced { current: Epoch(4) },
        Reject::Expected { n: 130 },
        Reject::Passed,
        Reject::LeaseGone,
        Reject::ClaimRefused { epoch: Epoch(4), holder: None },
        Reject::Conflict,
        Reject::Expired,
        Reject::OutOfOrder,
        Reject::NotFound,
        Reject::AlreadyExists,
        Reject::MembersTooMany,
        Reject::SeqRefused,
        Reject::GenerationExhausted,
        Reject::Malformed,
        Reject::Cancelled,
        Reject::Recalled,
        Reject::NotAuthor,
        Reject::TooLate,
        Reject::AmendmentsTooMany,
    ];
    let mut outcomes = vec![
        ("owned", Outcome::Owned),
        ("leased", Outcome::Leased(LEASE)),
        ("lease ended", Outcome::LeaseEnded),
        ("claimed", Outcome::Claimed { epoch: Epoch(3) }),
        ("released", Outcome::Released),
        ("reserved", Outcome::Reserved(vec![segment])),
        ("appended", Outcome::Appended(appended)),
        ("delivered", Outcome::Delivered(delivered)),
        ("recorded", Outcome::Recorded),
        ("cursors", Outcome::CursorsSet(cursors)),
        ("settled", Outcome::SendSettled(Some(seq(5)))),
        ("marked", Outcome::MarksSet(vec![set, MarkOutcome::NotFound, MarkOutcome::SeqRefused])),
        ("trimmed", Outcome::Trimmed { trim: seq(300), entries: 64 }),
    ];
    outcomes.extend(rejects.map(|reject| ("rejected", Outcome::Rejected(reject))));
    outcomes
}

fn lines() -> Vec<String> {
    let commands = commands();
    let commands = commands.iter().map(|(name, command)| format!("{name} {}", hex(&codec::encode(command))));
    let outcomes = outcomes();
    let outcomes = outcomes.iter().map(|(name, outcome)| format!("{name} {}", hex(&codec::encode(outcome))));
    commands.chain(outcomes).collect()
}

#[test]
fn commands_and_outcomes_have_the_bytes_that_logs_have() {
    let golden: Vec<&str> = include_str!("golden_commands.txt").lines().collect();
    assert_eq!(lines(), golden);
}

/// What inboxes keep of an amendment: its kind carries the target, so that headers of all other kinds are as they were.
#[test]
fn an_amendments_header_has_its_target_behind_its_kind() {
    let target = seq(300);
    for (kind, golden) in [
        (Kind::Message, "0100"),
        (Kind::Create, "0101"),
        (Kind::Members, "0102"),
        (Kind::Edit { target }, "0103ac02"),
        (Kind::Recall { target }, "0104ac02"),
        (Kind::Reaction { target }, "0105ac02"),
        (Kind::Pin { target }, "0106ac02"),
        (Kind::Read, "0107"),
        (Kind::Mute { on: true }, "010801"),
        (Kind::Archive { on: false }, "010900"),
    ] {
        assert_eq!(hex(&codec::encode(&kind)), golden);
    }
}

/// The same id with another target, another act or another emoji is another content.
#[test]
fn amendments_are_the_same_only_if_all_that_their_author_said_is() {
    let amend = |target, act| Content::Amend { target: seq(target), act };
    let edit =
        |body: &'static [u8], within_s| Act::Edit { salt: Bytes::new(), body: Bytes::from_static(body), within_s };
    let react = |emoji, set| Act::React { emoji: Emoji::new(emoji).unwrap(), set };
    let all = [
        Content::Message { salt: Bytes::new(), body: Bytes::from_static(b"x") },
        amend(1, edit(b"x", 7)),
        amend(2, edit(b"x", 7)),
        amend(1, edit(b"y", 7)),
        amend(1, Act::Recall { within_s: 7 }),
        amend(2, Act::Recall { within_s: 7 }),
        amend(1, react("x", true)),
        amend(1, react("x", false)),
        amend(1, react("y", true)),
        amend(1, Act::Pin { set: true }),
        amend(1, Act::Pin { set: false }),
    ];
    for (place, one) in all.iter().enumerate() {
        for other in &all[place + 1..] {
            assert_ne!(one.identity(), other.identity(), "{one:?} {other:?}");
        }
    }
    // The tenant's rule may have changed between two attempts.
    assert_eq!(amend(1, edit(b"x", 7)).identity(), amend(1, edit(b"x", 8)).identity());
    assert_eq!(amend(1, Act::Recall { within_s: 7 }).identity(), amend(1, Act::Recall { within_s: 8 }).identity());
}

#[test]
fn golden_bytes_decode_to_what_they_were() {
    for (name, command) in commands() {
        assert_eq!(codec::decode::<Command>(&codec::encode(&command)).unwrap(), command, "{name}");
    }
    for (name, outcome) in outcomes() {
        assert_eq!(codec::decode::<Outcome>(&codec::encode(&outcome)).unwrap(), outcome, "{name}");
    }
}
