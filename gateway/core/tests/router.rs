//! What the router promises: every call is answered once, by the right node, in order; nobody stays unregistered.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests begin their own time")]

use std::time::{Duration, Instant};

use bytes::Bytes;
use seriatim_gateway_core::{LinkId, RequestId, Router, RouterEffect, RouterEvent, RouterLimits};
use seriatim_proto::codec;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::hash;
use seriatim_proto::ids::{
    ClusterId, ConversationId, DeviceId, Epoch, Generation, MessageId, NodeId, Seq, SlotId, TenantId, UserId,
};
use seriatim_proto::limits;
use seriatim_proto::logic::{Call, CallError, GatewayRequest, GatewayResponse, HolderTable, LogicWelcome, Reply};
use seriatim_proto::store::HolderRow;

const ONE: LinkId = LinkId(1);
const TWO: LinkId = LinkId(2);
const SESSION: u64 = 70;

struct World {
    router: Router,
    now: Instant,
}

fn user() -> UserId {
    UserId::new("alice").unwrap()
}

fn conversation() -> ConversationId {
    ConversationId::direct(user(), UserId::new("bob").unwrap())
}

fn slot() -> SlotId {
    hash::conversation_slot(TenantId(1), &conversation())
}

fn inbox_slot() -> SlotId {
    hash::inbox_slot(TenantId(1), &user())
}

fn seq(value: u64) -> Seq {
    Seq::new(value).unwrap()
}

fn row(slot: SlotId, epoch: u64, holder: Option<u64>) -> HolderRow {
    HolderRow { slot, epoch: Epoch(epoch), holder: holder.map(NodeId), lease: None, heir: None }
}

fn send(id: u8) -> Call {
    Call::Send {
        conversation: conversation(),
        message_id: MessageId([id; 16]),
        known: None,
        follows: None,
        salt: Bytes::new(),
        body: Bytes::from_static(b"hi"),
    }
}

fn committed(place: u64) -> Reply {
    Reply::Committed { seq: seq(place), duplicate: false }
}

impl World {
    /// Two nodes are linked; node 1 holds every slot under epoch 1; one session is open.
    fn new() -> Self {
        let mut world = Self { router: Router::new(RouterLimits::default()), now: Instant::now() };
        world.link(ONE, 1);
        world.link(TWO, 2);
        let rows = (0..limits::SLOTS).map(|slot| row(SlotId(slot), 1, Some(1))).collect();
        world.table(ONE, rows);
        world.router.open_session(SESSION, TenantId(1), &user(), DeviceId::new("phone").unwrap(), "a token".into());
        world.effects();
        world
    }

    fn link(&mut self, link: LinkId, node: u64) {
        let welcome = LogicWelcome { cluster: ClusterId([1; 16]), node: NodeId(node), generation: Generation(0) };
        self.router.handle_link_up(self.now, link, &welcome).unwrap();
    }

    fn table(&mut self, link: LinkId, rows: Vec<HolderRow>) {
        self.hear(link, GatewayResponse::Table(HolderTable { rows, nodes: None }));
    }

    fn hear(&mut self, link: LinkId, response: GatewayResponse) {
        self.router.handle_response(self.now, link, response);
    }

    fn reply(&mut self, link: LinkId, id: u64, result: Result<Reply, CallError>) {
        self.hear(link, GatewayResponse::Reply { id, result });
    }

    fn call(&mut self, request: u64, call: Call) {
        self.router.call(self.now, SESSION, RequestId(request), call);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.router.handle_tick(self.now);
    }

    fn effects(&mut self) -> (Vec<(LinkId, GatewayRequest)>, Vec<RouterEvent>) {
        let (mut sent, mut told) = (Vec::new(), Vec::new());
        while let Some(effect) = self.router.poll_effect() {
            match effect {
                RouterEffect::Send { link, frame } => sent.push((link, codec::decode(&frame).unwrap())),
                RouterEffect::Session { session: SESSION, event } => told.push(event),
                RouterEffect::Session { .. } | RouterEffect::Nodes(_) | RouterEffect::Ready => {}
            }
        }
        (sent, told)
    }

    /// Calls that were sent: link and id.
    fn sent_calls(&mut self) -> Vec<(LinkId, u64)> {
        let sent = self.effects().0.into_iter();
        sent.filter_map(|(link, request)| match request {
            GatewayRequest::Call { id, .. } => Some((link, id)),
            _ => None,
        })
        .collect()
    }

    fn registers(&mut self) -> Vec<(LinkId, u64, Seq)> {
        let sent = self.effects().0.into_iter();
        sent.filter_map(|(link, request)| match request {
            GatewayRequest::Register { id, position, .. } => Some((link, id, position)),
            _ => None,
        })
        .collect()
    }

    /// The session is registered at node 1 from 5 on.
    fn registered(mut self) -> Self {
        self.router.register(self.now, SESSION, seq(5));
        let (link, id, position) = self.registers().remove(0);
        assert_eq!((link, position), (ONE, seq(5)));
        self.hear(ONE, GatewayResponse::Registered { id, result: Ok(seq(5)) });
        assert_eq!(self.effects().1, [RouterEvent::Registered(seq(5))]);
        self
    }
}

fn not_holder(slot: SlotId, row: Option<HolderRow>) -> CallError {
    CallError::NotHolder { slot, row }
}

fn refused(code: ErrorCode) -> CallError {
    CallError::Refused(Refusal::new(code, "no"))
}

fn answered(events: &[RouterEvent]) -> Vec<(u64, Result<(), ErrorCode>)> {
    let answer = |event: &RouterEvent| match event {
        RouterEvent::Reply { request, result } => {
            Some((request.0, result.as_ref().map(|_| ()).map_err(|refusal| refusal.code)))
        }
        _ => None,
    };
    events.iter().filter_map(answer).collect()
}

#[test]
fn a_call_opens_its_session_first_and_once() {
    let mut world = World::new();
    world.call(1, send(1));
    world.call(2, send(2));
    let sent = world.effects().0;
    assert!(matches!(&sent[0], (ONE, GatewayRequest::Open { session: SESSION, token, .. }) if token == "a token"));
    assert!(matches!(&sent[1..], [(ONE, GatewayRequest::Call { .. }), (ONE, GatewayRequest::Call { .. })]));
}

#[test]
fn a_refusal_that_names_the_new_holder_reroutes_at_once() {
    let mut world = World::new();
    world.call(1, send(1));
    let (_, id) = world.sent_calls()[0];
    world.reply(ONE, id, Err(not_holder(slot(), Some(row(slot(), 2, Some(2))))));
    assert_eq!(world.sent_calls(), [(TWO, id)]);
    world.reply(TWO, id, Ok(committed(3)));
    assert_eq!(answered(&world.effects().1), [(1, Ok(()))]);
    assert_eq!(world.router.calls(), 0);
}

#[test]
fn a_row_of_a_lower_epoch_is_ignored() {
    let mut world = World::new();
    world.table(TWO, vec![row(slot(), 5, Some(2))]);
    world.table(ONE, vec![row(slot(), 4, Some(1))]);
    world.call(1, send(1));
    assert_eq!(world.sent_calls()[0].0, TWO);
}

#[test]
fn not_here_and_not_now_are_tried_again_and_other_refusals_passed_on() {
    for code in [ErrorCode::Unavailable, ErrorCode::NotLeader, ErrorCode::Shutdown] {
        let mut world = World::new();
        world.call(1, send(1));
        let (_, id) = world.sent_calls()[0];
        world.reply(ONE, id, Err(refused(code)));
        assert!(world.sent_calls().is_empty(), "not in a tight loop");
        world.pass(Duration::from_millis(20));
        assert_eq!(world.sent_calls(), [(ONE, id)]);
    }
    let mut world = World::new();
    world.call(1, send(1));
    let (_, id) = world.sent_calls()[0];
    world.reply(ONE, id, Err(refused(ErrorCode::Busy)));
    assert_eq!(answered(&world.effects().1), [(1, Err(ErrorCode::Busy))]);
}

#[test]
fn calls_of_a_lost_link_go_to_the_next_holder_in_order() {
    let mut world = World::new();
    for request in 1..=3 {
        world.call(request, send(request as u8));
    }
    let ids: Vec<_> = world.sent_calls().into_iter().map(|(_, id)| id).collect();
    world.router.handle_link_down(world.now, ONE);
    world.call(4, send(4));
    assert!(world.sent_calls().is_empty(), "nobody holds the slot");
    world.table(TWO, vec![row(slot(), 2, Some(2))]);
    let sent = world.sent_calls();
    assert_eq!(sent.iter().map(|(_, id)| *id).take(3).collect::<Vec<_>>(), ids);
    assert_eq!(sent.len(), 4);
    world.reply(ONE, ids[0], Ok(committed(9)));
    assert!(world.effects().1.is_empty(), "a lost link says nothing any more");
}

#[test]
fn a_call_never_overtakes_one_that_is_under_way_elsewhere() {
    let mut world = World::new();
    world.call(1, send(1));
    let (_, first) = world.sent_calls()[0];
    world.table(TWO, vec![row(slot(), 2, Some(2))]);
    world.call(2, send(2));
    assert!(world.sent_calls().is_empty(), "the first is not answered yet");
    world.reply(ONE, first, Err(not_holder(slot(), None)));
    world.pass(Duration::from_millis(20));
    let sent = world.sent_calls();
    assert_eq!(sent.len(), 2);
    assert!(sent[0] == (TWO, first) && sent[1].0 == TWO);
}

#[test]
fn a_call_without_an_answer_ends_unknown() {
    let mut world = World::new();
    world.call(1, send(1));
    world.table(ONE, vec![row(inbox_slot(), 3, None)]);
    world.call(2, Call::Ack { cursor: seq(2) });
    world.pass(Duration::from_millis(limits::REQUEST_TIMEOUT_MS));
    let told = world.effects().1;
    let expected = [(1, Err(ErrorCode::Timeout)), (2, Err(ErrorCode::Unavailable))];
    assert_eq!(answered(&told), expected);
    assert_eq!(world.router.calls(), 0);
}

#[test]
fn after_an_attempt_that_may_have_happened_only_a_verdict_on_the_id_is_passed_on() {
    let later = [
        (ErrorCode::Busy, ErrorCode::Unavailable),
        (ErrorCode::ReadOnly, ErrorCode::Unavailable),
        (ErrorCode::AuthExpired, ErrorCode::Unavailable),
        (ErrorCode::NotFound, ErrorCode::Unavailable),
        (ErrorCode::Conflict, ErrorCode::Conflict),
        (ErrorCode::Cancelled, ErrorCode::Cancelled),
    ];
    for (refused_with, told) in later {
        let mut world = World::new();
        world.call(1, send(1));
        let (_, id) = world.sent_calls()[0];
        world.router.handle_link_down(world.now, ONE);
        world.link(LinkId(3), 1);
        world.pass(Duration::from_millis(60));
        assert_eq!(world.sent_calls(), [(LinkId(3), id)]);
        world.reply(LinkId(3), id, Err(refused(refused_with)));
        assert_eq!(answered(&world.effects().1), [(1, Err(told))]);
        // Without such an attempt the refusal is what it is.
        world.call(2, send(2));
        let (_, id) = world.sent_calls()[0];
        world.reply(LinkId(3), id, Err(refused(refused_with)));
        assert_eq!(answered(&world.effects().1), [(2, Err(refused_with))]);
    }
}

#[test]
fn a_read_goes_to_another_node_when_one_fails() {
    let mut world = World::new();
    world.call(1, Call::Status);
    let (link, id) = world.sent_calls()[0];
    assert_eq!(link, ONE, "the inbox's holder is best");
    world.reply(ONE, id, Err(refused(ErrorCode::Unavailable)));
    world.pass(Duration::from_millis(20));
    assert_eq!(world.sent_calls(), [(TWO, id)]);
}

#[test]
fn too_many_bytes_under_way_are_busy() {
    let limits = RouterLimits { call_bytes_max: 10, ..Default::default() };
    let mut world = World { router: Router::new(limits), ..World::new() };
    world.router.open_session(SESSION, TenantId(1), &user(), DeviceId::new("d").unwrap(), "t".into());
    world.call(1, send(1));
    world.call(2, send(2));
    assert_eq!(answered(&world.effects().1), [(2, Err(ErrorCode::Busy))]);
}

#[test]
fn a_registration_moves_with_its_slot() {
    let mut world = World::new().registered();
    world.table(ONE, vec![row(inbox_slot(), 2, Some(2))]);
    let (link, id, position) = world.registers().remove(0);
    assert_eq!((link, position), (TWO, seq(5)));
    world.hear(TWO, GatewayResponse::Registered { id, result: Ok(seq(8)) });
    assert_eq!(world.effects().1, [RouterEvent::Registered(seq(8))]);
}

#[test]
fn a_registration_is_made_again_when_it_is_lost() {
    let lost: [fn(&mut World); 3] = [
        |world| {
            world.router.handle_link_down(world.now, ONE);
            world.link(LinkId(3), 1);
        },
        |world| {
            world.hear(ONE, GatewayResponse::Unregistered { sessions: vec![SESSION] });
            world.pass(Duration::from_millis(60));
        },
        |world| world.pass(Duration::from_millis(limits::WATCH_SILENCE_MS)),
    ];
    for lose in lost {
        let mut world = World::new().registered();
        lose(&mut world);
        assert_eq!(world.registers().len(), 1);
    }
}

#[test]
fn a_refused_registration_is_tried_again() {
    let mut world = World::new();
    world.router.register(world.now, SESSION, seq(1));
    let (_, id, _) = world.registers().remove(0);
    world.hear(ONE, GatewayResponse::Registered { id, result: Err(not_holder(inbox_slot(), None)) });
    world.pass(Duration::from_millis(60));
    assert_eq!(world.registers().len(), 1);
}

#[test]
fn registrations_are_renewed_every_second_with_their_positions() {
    let mut world = World::new().registered();
    world.pass(Duration::from_millis(10));
    world.effects();
    world.pass(Duration::from_secs(1));
    let sent = world.effects().0;
    let renewed = sent.iter().any(|(link, request)| {
        *link == ONE && *request == GatewayRequest::Renew { positions: vec![(SESSION, seq(5))] }
    });
    assert!(renewed, "{sent:?}");
    world.hear(ONE, GatewayResponse::Lagging { sessions: vec![(SESSION, seq(9))] });
    world.hear(ONE, GatewayResponse::Lagging { sessions: vec![(SESSION, seq(9))] });
    assert_eq!(world.effects().1, [RouterEvent::Tail(seq(9))], "told once");
}

#[test]
fn a_token_that_logic_refuses_ends_the_session() {
    let mut world = World::new();
    let refusal = Refusal::new(ErrorCode::AuthExpired, "over");
    world.hear(ONE, GatewayResponse::Opened { session: SESSION, result: Err(refusal.clone()) });
    assert_eq!(world.effects().1, [RouterEvent::Refused(refusal)]);
}

#[test]
fn a_node_of_another_cluster_is_refused() {
    let mut world = World::new();
    let welcome = LogicWelcome { cluster: ClusterId([2; 16]), node: NodeId(9), generation: Generation(0) };
    let refusal = world.router.handle_link_up(world.now, LinkId(9), &welcome).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::WrongCluster);
}

#[test]
fn a_closed_session_leaves_nothing_behind() {
    let mut world = World::new().registered();
    world.call(1, send(1));
    world.effects();
    world.router.close_session(SESSION);
    let (sent, told) = world.effects();
    assert_eq!(sent, [(ONE, GatewayRequest::Close { session: SESSION })]);
    assert!(told.is_empty());
    assert_eq!(world.router.calls(), 0);
    world.pass(Duration::from_secs(30));
    assert!(world.effects().0.is_empty());
}

#[test]
fn a_fresh_credential_goes_to_every_node_that_knows_the_session() {
    let mut world = World::new();
    world.call(1, send(1));
    let (sent, _) = world.effects();
    assert!(matches!(&sent[0], (ONE, GatewayRequest::Open { token, .. }) if token == "a token"), "{sent:?}");
    world.router.renew_session(world.now, SESSION, "a fresh token".into());
    world.call(2, send(2));
    let (sent, _) = world.effects();
    let fresh = |request: &GatewayRequest| {
        matches!(request, GatewayRequest::Open { session: SESSION, token, device }
            if token == "a fresh token" && device.as_str() == "phone")
    };
    assert!(matches!(&sent[..], [(ONE, open), (ONE, GatewayRequest::Call { .. })] if fresh(open)), "{sent:?}");
    // Another node hears of the session by the fresh one at once.
    world.table(TWO, vec![row(slot(), 2, Some(2))]);
    world.call(3, send(3));
    let sent: Vec<_> = world.effects().0.into_iter().filter(|(link, _)| *link == TWO).collect();
    assert!(sent.is_empty() || fresh(&sent[0].1), "{sent:?}");
    world.router.close_session(SESSION);
    world.effects();
    world.router.renew_session(world.now, SESSION, "too late".into());
    assert!(world.effects().0.is_empty());
}

#[test]
fn a_registration_that_is_refused_as_expired_ends_the_session() {
    let mut world = World::new();
    world.router.register(world.now, SESSION, seq(1));
    let (sent, _) = world.effects();
    let id = sent.iter().find_map(|(_, request)| match request {
        GatewayRequest::Register { id, .. } => Some(*id),
        _ => None,
    });
    let refusal = Refusal::new(ErrorCode::AuthExpired, "over");
    let result = Err(CallError::Refused(refusal.clone()));
    world.hear(ONE, GatewayResponse::Registered { id: id.unwrap(), result });
    assert_eq!(world.effects().1, [RouterEvent::Refused(refusal)]);
}

#[test]
fn what_a_registration_comes_to_is_said_of_the_token_that_it_was_sent_under() {
    let mut world = World::new();
    world.router.register(world.now, SESSION, seq(1));
    let (_, before, _) = world.registers().remove(0);
    world.router.renew_session(world.now, SESSION, "a fresh token".into());
    let (sent, _) = world.effects();
    let [(ONE, GatewayRequest::Open { token, .. }), (ONE, GatewayRequest::Register { id, .. })] = &sent[..] else {
        panic!("{sent:?}")
    };
    assert_eq!(token, "a fresh token");
    let over = Refusal::new(ErrorCode::AuthExpired, "over");
    world.hear(ONE, GatewayResponse::Registered { id: before, result: Err(CallError::Refused(over)) });
    assert!(world.effects().1.is_empty(), "that was the token before");
    world.hear(ONE, GatewayResponse::Registered { id: *id, result: Ok(seq(1)) });
    assert_eq!(world.effects().1, [RouterEvent::Registered(seq(1))]);
}

#[test]
fn a_node_that_cannot_judge_a_token_is_shown_it_again() {
    let mut world = World::new();
    world.call(1, send(1));
    let id = world.sent_calls()[0].1;
    let unsure = Refusal::new(ErrorCode::Unavailable, "the keys cannot be read");
    world.hear(ONE, GatewayResponse::Opened { session: SESSION, result: Err(unsure) });
    world.reply(ONE, id, Err(refused(ErrorCode::Unavailable)));
    let mut sent = Vec::new();
    for _ in 0..100 {
        world.pass(Duration::from_millis(20));
        let (more, told) = world.effects();
        assert!(told.is_empty(), "{told:?}");
        sent.extend(more);
    }
    assert!(
        matches!(&sent[..], [(ONE, GatewayRequest::Open { .. }), (ONE, GatewayRequest::Call { id: again, .. })] if *again == id),
        "{sent:?}"
    );
    // It has the session perhaps, by an older token: it hears of the end.
    let unsure = Refusal::new(ErrorCode::Unavailable, "the keys cannot be read");
    world.hear(ONE, GatewayResponse::Opened { session: SESSION, result: Err(unsure) });
    world.router.close_session(SESSION);
    assert_eq!(world.effects().0, [(ONE, GatewayRequest::Close { session: SESSION })]);
}
