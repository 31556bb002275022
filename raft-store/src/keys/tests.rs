//! Golden bytes of keys and rows, round trips, and the order of keys.

use bytes::Bytes;
use proptest::prelude::*;
use seriatim_proto::codec;
use seriatim_proto::command::{DeliveryRecord, EntryRef, Kind, ReadUpto, SlotRange};
use seriatim_proto::ids::{BodyHash, Chain, ClusterId, Epoch, ReplicaId};
use seriatim_proto::meta::{
    GroupRecord, MoveRecord, NodeKind, NodeRecord, ReplicaRecord, RotRecord, StoreRecord, StoreToken,
};
use seriatim_proto::store::{InboxEntry, StoredMessage};
use seriatim_store_core::row::*;
use seriatim_store_core::{Row, Scan};

use super::*;

fn user(name: &str) -> UserId {
    UserId::new(name).unwrap()
}
fn seq(value: u64) -> Seq {
    Seq::new(value).unwrap()
}
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
fn tenant_key(item: Item) -> Key {
    Key::tenant(SlotId(0x0102), TenantId(3), item)
}
fn direct() -> ConversationId {
    ConversationId::direct(user("al"), user("bo"))
}
fn group() -> ConversationId {
    ConversationId::Group(ConversationKey([0x11; 16]))
}

#[test]
fn keys_have_their_golden_bytes() {
    let lease = LeaseId { generation: Generation(1), index: LogIndex(2), place: 3 };
    let cases = [
        (tenant_key(Item::Namespace(Owner::Inbox(user("al")))), "0102000000036162616c00"),
        (tenant_key(Item::Namespace(Owner::Conversation(direct()))), "010200000003616364616c00626f00"),
        (
            tenant_key(Item::Namespace(Owner::Conversation(group()))),
            "010200000003616367111111111111111111111111111111 11",
        ),
        (tenant_key(Item::Namespace(Owner::Counter(CounterName::new("n").unwrap()))), "010200000003616e6e00"),
        (tenant_key(Item::Cursor(user("al"), DeviceId::new("d").unwrap())), "01020000000363616c006400"),
        (
            tenant_key(Item::Dedupe(direct(), user("al"), MessageId([0xab; 16]))),
            "0102000000036464616c00626f00616c00abababababababababababababababab",
        ),
        (tenant_key(Item::Inbox(user("al"), seq(258))), "01020000000369616c000000000000000102"),
        (tenant_key(Item::Last(user("al"), direct())), "0102000000036c616c0064616c00626f00"),
        (tenant_key(Item::Message(direct(), seq(258))), "0102000000036d64616c00626f000000000000000102"),
        (
            tenant_key(Item::Member(group(), SlotId(9), user("al"))),
            "0102000000037067111111111111111111111111111111110009616c00",
        ),
        (tenant_key(Item::Amended(direct(), seq(258))), "0102000000036564616c00626f000000000000000102"),
        (tenant_key(Item::Mark(user("al"), direct())), "0102000000036b616c0064616c00626f00"),
        (tenant_key(Item::Reading(user("al"))), "0102000000036f616c00"),
        (tenant_key(Item::Pin(direct(), seq(258))), "0102000000037164616c00626f000000000000000102"),
        (
            tenant_key(Item::Reaction(direct(), seq(258), user("al"), Emoji::new("+").unwrap())),
            "0102000000037264616c00626f000000000000000102616c002b00",
        ),
        (
            tenant_key(Item::Tombstone(direct(), seq(258), user("al"), MessageId([0xab; 16]))),
            "0102000000037464616c00626f000000000000000102616c00abababababababababababababababab",
        ),
        (Key::holder(SlotId(0x0102)), "0102ffffffff73"),
        (Key::pending(SlotId(0x0102), TenantId(3), direct()), "0102ffffffff750000000364616c00626f00"),
        (Key::group(GroupId(0), GroupItem::Cluster), "ff0043"),
        (Key::group(GroupId(0), GroupItem::Group(GroupId(4))), "ff004700000004"),
        (Key::group(GroupId(5), GroupItem::Lease(lease)), "ff054c0001000000000000000200000003"),
        (Key::group(GroupId(0), GroupItem::Node(NodeId(7))), "ff004e0000000000000007"),
        (Key::group(GroupId(5), GroupItem::Owned), "ff054f"),
        (Key::group(GroupId(0), GroupItem::Revision), "ff0052"),
        (Key::group(GroupId(0), GroupItem::Store(StoreId(7))), "ff00530000000000000007"),
        (Key::group(GroupId(0), GroupItem::Tenant(TenantId(7))), "ff005400000007"),
        (Key::group(GroupId(0), GroupItem::Move(GroupId(4))), "ff004d00000004"),
        (Key::group(GroupId(0), GroupItem::Standing(StoreId(7))), "ff00550000000000000007"),
        (Key::group(GroupId(0), GroupItem::Domain(StoreId(7))), "ff00440000000000000007"),
        (Key::group(GroupId(0), GroupItem::Voters), "ff0057"),
        (Key::group(GroupId(0), GroupItem::Rotten(GroupId(4), ReplicaId(7))), "ff0056000000040000000000000007"),
    ];
    for (key, golden) in cases {
        assert_eq!(hex(&encode(&key)), golden.replace(' ', ""), "{key:?}");
        assert_eq!(decode(&encode(&key)), Some(key));
    }
    assert_eq!(hex(&position_key(GroupId(5))), "ff0541");
    assert_eq!(decode(&position_key(GroupId(5))), None);
}

#[test]
fn keys_at_their_upper_bounds_stay_in_their_slot() {
    let long = user(&"\u{10ffff}".repeat(16));
    let end = seq(limits::SEQ_END);
    let conversation = ConversationId::Group(ConversationKey([0xff; 16]));
    let direct = ConversationId::Direct(long.clone(), long.clone());
    let slot = SlotId(limits::SLOTS - 1);
    let tenant = TenantId(u32::MAX - 1);
    for key in [
        Key::tenant(slot, tenant, Item::Inbox(long.clone(), end)),
        Key::tenant(slot, tenant, Item::Message(conversation.clone(), end)),
        Key::tenant(slot, tenant, Item::Dedupe(direct.clone(), long.clone(), MessageId([0xff; 16]))),
        Key::tenant(slot, tenant, Item::Member(conversation.clone(), slot, long.clone())),
        Key::pending(slot, tenant, conversation),
        Key::pending(slot, tenant, direct),
        Key::holder(slot),
    ] {
        let bytes = encode(&key);
        assert_eq!(decode(&bytes), Some(key));
        assert!(slot_start(slot) <= bytes && bytes < slot_start(SlotId(limits::SLOTS)));
    }
    let last = encode(&Key::group(Key::GROUP_LAST, GroupItem::Voters));
    assert!(slot_start(SlotId(u16::MAX)) <= last && last < vec![0xff; 3]);
}

#[test]
fn bytes_that_are_no_key_are_none() {
    for bytes in [
        &b""[..],
        b"\x01",
        b"\x01\x02\x00\x00\x00\x03",
        b"\x01\x02\x00\x00\x00\x03z",
        b"\x01\x02\x00\x00\x00\x03ab\0",
        b"\x01\x02\x00\x00\x00\x03abal",
        b"\x01\x02\x00\x00\x00\x03abal\0x",
        b"\x01\x02\x00\x00\x00\x03ial\0\0\0\0\0\0\0\0\0",
        b"\xff\x00Z",
    ] {
        assert_eq!(decode(bytes), None, "{}", hex(bytes));
    }
}

#[test]
fn rows_have_their_golden_bytes() {
    let (lease, chain) = (LeaseId { generation: Generation(0), index: LogIndex(2), place: 3 }, Chain([0xcc; 16]));
    let namespace = NamespaceRow {
        trim: seq(1),
        tail: seq(3),
        base: seq(2),
        ceiling: seq(300),
        epoch: Epoch(4),
        last_seq: Some(seq(2)),
        ordinal: 1,
        chain,
    };
    let entry = EntryRef {
        seq: seq(2),
        kind: Kind::Message,
        sender: user("al"),
        message_id: MessageId([0xab; 16]),
        body_hash: BodyHash([0xbb; 16]),
        at_ms: 1000,
    };
    let record = DeliveryRecord { all: Some(seq(2)), behind: vec![(SlotId(7), None)] };
    let range = SlotRange { first: SlotId(0), end: SlotId(4096) };
    let replica = ReplicaRecord { id: ReplicaId(1), store: StoreId(2) };
    let (ab, bb, cc) = ("ab".repeat(16), "bb".repeat(16), "cc".repeat(16));
    let namespace_hex = format!("010302ac020401 0201{cc}");
    let entry_hex = format!("020002616c{ab}{bb}e807");
    let cases = [
        (
            Row::Holder(SlotRow {
                group: GroupId(1),
                generation: Generation(0),
                epoch: Epoch(4),
                lease: Some(lease),
                next_n: 300,
                heir: None,
            }),
            "01000100040100 0203ac0200".to_owned(),
        ),
        (Row::Pending, "0101".to_owned()),
        (Row::Namespace(namespace), format!("0102{namespace_hex}")),
        (
            Row::Conversation(ConversationRow {
                namespace,
                first_seq: Some(seq(1)),
                at_ms: 1000,
                members_here: 1,
                members_elsewhere: 2,
                pending: true,
                delivered: record,
            }),
            format!("0103{namespace_hex}0101e8070102010102010700"),
        ),
        (Row::Cursor(seq(300)), "0104ac02".to_owned()),
        (Row::Dedupe(DedupeRow::Committed { seq: seq(2), body_hash: BodyHash([0xbb; 16]) }), format!("01050002{bb}")),
        (Row::Dedupe(DedupeRow::Cancelled { place: seq(3) }), "01050103".to_owned()),
        (
            Row::Inbox(InboxEntry {
                seq: seq(5),
                prev_seq: None,
                ordinal: 1,
                chain,
                conversation: direct(),
                entry: entry.clone(),
                messages: 300,
            }),
            format!("0106050001{cc}0002616c02626f{entry_hex}ac02"),
        ),
        (Row::Last(LastRow { last: seq(2), inbox_seq: Some(seq(5)), messages: 1 }), "010702010501".to_owned()),
        (
            Row::Message(StoredMessage {
                entry,
                prev_seq: Some(seq(1)),
                ordinal: 1,
                chain,
                salt: Bytes::from_static(b"s"),
                body: Bytes::from_static(b"hi"),
                erased: false,
            }),
            format!("0108{entry_hex}010101{cc}017302686900"),
        ),
        (Row::Member(MemberRow { stays: vec![(seq(1), Some(seq(2))), (seq(3), None)] }), "0109020101020300".to_owned()),
        (
            Row::Cluster(ClusterRow {
                cluster: ClusterId([0xcc; 16]),
                generation: Generation(0),
                store_next: StoreId(4),
                replica_next: ReplicaId(5),
                node_next: NodeId(6),
            }),
            format!("010a{cc}00040506"),
        ),
        (
            Row::Group(GroupRecord { id: GroupId(1), slots: vec![range], replicas: vec![replica], closed: true }),
            "010b01010080200101 0201".to_owned(),
        ),
        (Row::Lease(LeaseRow { node: NodeId(6) }), "010c06".to_owned()),
        (
            Row::Node(NodeRecord { id: NodeId(6), lease, kind: NodeKind::Gateway, address: "a:1".into() }),
            "010d0600020301 03613a31".to_owned(),
        ),
        (Row::Owned(OwnedRow { generation: Generation(0), slots: vec![range] }), "010e0001008020".to_owned()),
        (Row::Store(StoreRecord { id: StoreId(2), address: "a:1".into() }), "010f0203613a31".to_owned()),
        (Row::Revision(5), "011105".to_owned()),
        (
            Row::Move(MoveRecord {
                group: GroupId(4),
                joining: Some(replica),
                leaving: None,
                back: false,
                revision: 7,
            }),
            "0112040101 02000007".to_owned(),
        ),
        (Row::Standing(StandingRow { token: Some(StoreToken([0xcc; 16])), draining: true }), format!("011301{cc}01")),
        (
            Row::Amended(AmendedRow { edits: vec![seq(3), seq(300)], recalled: Some(seq(301)) }),
            "01140203ac0201ad02".to_owned(),
        ),
        (Row::Pin(seq(300)), "0115ac02".to_owned()),
        (
            Row::Mark(MarkRow {
                read: Some(ReadUpto { inbox_seq: seq(5), seq: seq(2), messages: 300 }),
                muted: true,
                archived: false,
            }),
            "0117010502ac020100".to_owned(),
        ),
        (Row::Reading(300), "0118ac02".to_owned()),
        (Row::Reaction(seq(300)), "0116ac02".to_owned()),
        (Row::Domain("r1".to_owned()), "011a027231".to_owned()),
        (Row::Voters(5), "011b05".to_owned()),
        (Row::Tombstone, "011c".to_owned()),
        (
            Row::Rotten(RotRecord {
                group: GroupId(4),
                replica: ReplicaRecord { id: ReplicaId(7), store: StoreId(2) },
                what: "no".to_owned(),
            }),
            "011904070202".to_owned() + "6e6f",
        ),
    ];
    for (row, golden) in cases {
        let bytes = codec::encode(&row);
        assert_eq!(hex(&bytes), golden.replace(' ', ""), "{row:?}");
        assert_eq!(codec::decode::<Row>(&bytes), Ok(row));
    }
}

#[test]
fn the_start_of_a_scan_is_below_all_keys_that_it_contains() {
    let lowest = Key::tenant(SlotId(0), TenantId(0), Item::Cursor(user("a"), DeviceId::new(" ").unwrap()));
    let scan = Scan::Cursors { slot: SlotId(0), tenant: TenantId(0), user: user("a") };
    assert_eq!(scan.start(), (lowest, false));
}

/// Few letters and lengths, so that names are often prefixes of each other.
fn any_name() -> impl Strategy<Value = String> {
    prop_oneof!["[ab ]{1,3}", "[a\u{e9}\u{10ffff}]{1,3}"]
}
fn any_user() -> impl Strategy<Value = UserId> {
    any_name().prop_map(|name| user(&name))
}
fn any_seq() -> impl Strategy<Value = Seq> {
    prop_oneof![1..4u64, 250..260u64, Just(limits::SEQ_END)].prop_map(seq)
}
fn any_conversation() -> impl Strategy<Value = ConversationId> {
    prop_oneof![
        (any_user(), any_user()).prop_map(|(a, b)| ConversationId::direct(a, b)),
        (0..3u8).prop_map(|byte| ConversationId::Group(ConversationKey([byte.wrapping_neg(); 16]))),
    ]
}
fn any_item() -> impl Strategy<Value = Item> {
    prop_oneof![
        any_user().prop_map(|user| Item::Namespace(Owner::Inbox(user))),
        any_conversation().prop_map(|conversation| Item::Namespace(Owner::Conversation(conversation))),
        any_name().prop_map(|name| Item::Namespace(Owner::Counter(CounterName::new(&name).unwrap()))),
        (any_user(), any_name()).prop_map(|(user, name)| Item::Cursor(user, DeviceId::new(&name).unwrap())),
        (any_conversation(), any_user(), any::<u8>()).prop_map(|(c, user, id)| Item::Dedupe(
            c,
            user,
            MessageId([id; 16])
        )),
        (any_user(), any_seq()).prop_map(|(user, seq)| Item::Inbox(user, seq)),
        (any_user(), any_conversation()).prop_map(|(user, conversation)| Item::Last(user, conversation)),
        (any_conversation(), any_seq()).prop_map(|(conversation, seq)| Item::Message(conversation, seq)),
        (any_conversation(), 0..300u16, any_user()).prop_map(|(c, slot, user)| Item::Member(c, SlotId(slot), user)),
        (any_conversation(), any_seq()).prop_map(|(conversation, seq)| Item::Amended(conversation, seq)),
        (any_conversation(), any_seq()).prop_map(|(conversation, seq)| Item::Pin(conversation, seq)),
        (any_user(), any_conversation()).prop_map(|(user, conversation)| Item::Mark(user, conversation)),
        any_user().prop_map(Item::Reading),
        (any_conversation(), any_seq(), any_user(), any_name()).prop_map(|(c, seq, user, emoji)| Item::Reaction(
            c,
            seq,
            user,
            Emoji::new(&emoji).unwrap()
        )),
        (any_conversation(), any_seq(), any_user(), any::<u8>()).prop_map(|(c, place, user, id)| Item::Tombstone(
            c,
            place,
            user,
            MessageId([id; 16])
        )),
    ]
}
fn any_key() -> impl Strategy<Value = Key> {
    let slot = prop_oneof![0..3u16, 255..257u16, Just(limits::SLOTS - 1)].prop_map(SlotId);
    let tenant = prop_oneof![0..2u32, 255..257u32, Just(u32::MAX - 1)].prop_map(TenantId);
    let lease = (0..2u16, 254..258u64, 0..2u32).prop_map(|(generation, index, place)| LeaseId {
        generation: Generation(generation),
        index: LogIndex(index),
        place,
    });
    let group_item = prop_oneof![
        Just(GroupItem::Cluster),
        (0..300u32).prop_map(|id| GroupItem::Group(GroupId(id))),
        lease.prop_map(GroupItem::Lease),
        any::<u64>().prop_map(|id| GroupItem::Node(NodeId(id))),
        Just(GroupItem::Owned),
        Just(GroupItem::Revision),
        any::<u64>().prop_map(|id| GroupItem::Store(StoreId(id))),
        any::<u32>().prop_map(|id| GroupItem::Tenant(TenantId(id))),
        (0..300u32).prop_map(|id| GroupItem::Move(GroupId(id))),
        any::<u64>().prop_map(|id| GroupItem::Standing(StoreId(id))),
        any::<u64>().prop_map(|id| GroupItem::Domain(StoreId(id))),
        Just(GroupItem::Voters),
        (0..300u32, any::<u64>()).prop_map(|(group, id)| GroupItem::Rotten(GroupId(group), ReplicaId(id))),
    ];
    prop_oneof![
        6 => (slot.clone(), tenant.clone(), any_item()).prop_map(|(slot, tenant, item)| Key::tenant(slot, tenant, item)),
        1 => slot.clone().prop_map(Key::holder),
        1 => (slot, tenant, any_conversation()).prop_map(|(slot, tenant, c)| Key::pending(slot, tenant, c)),
        1 => (0..=Key::GROUP_LAST.0, group_item).prop_map(|(group, item)| Key::group(GroupId(group), item)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn keys_round_trip(key in any_key()) {
        prop_assert_eq!(decode(&encode(&key)), Some(key));
    }

    #[test]
    fn the_order_of_bytes_is_the_order_of_keys(one in any_key(), other in any_key()) {
        prop_assert_eq!(encode(&one).cmp(&encode(&other)), one.cmp(&other));
    }

    #[test]
    fn any_bytes_decode_to_their_own_key_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Some(key) = decode(&bytes) {
            prop_assert_eq!(encode(&key), bytes);
        }
    }
}
