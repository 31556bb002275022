//! Device: its side of the streams: what it said, what it heard, and what must be true of both.

use std::collections::BTreeMap;

use arbitrary::Unstructured;
use bytes::{Bytes, BytesMut};
use seriatim_gateway_core::{StreamId, Transmit};
use seriatim_proto::ids::Seq;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, FrameDecoder, v1};

use super::truth::{self, Truth};
use super::{Piece, STREAMS_MAX, is_answer};

/// Bytes that the shell reads at once.
const READ_BYTES: usize = 8 << 10;
/// Bytes that a transmit of several frames has at most.
const TRANSMIT_BYTES_MAX: usize = 64 << 10;
/// What a subscription without a word about credit has.
const CREDIT_DEFAULT: u64 = 1_024;

/// All streams of the connection.
#[derive(Default)]
pub(super) struct Device {
    lanes: BTreeMap<StreamId, Lane>,
    /// Bytes are handed on in pieces of so many; 0: as they come.
    pub(super) hold: u8,
    opened: u64,
    request_last: u64,
    greeted: bool,
    /// Credit that the Subscribes with this request id brought, the largest.
    subscribes: BTreeMap<u64, u64>,
    /// Credit behind that, by subscription.
    credits: BTreeMap<u64, u64>,
    /// Request ids of what Subscribed answered, by subscription.
    subscribed: BTreeMap<u64, u64>,
    /// Subscriptions that the session registered.
    registered_count: u64,
    /// The last of them is not over.
    is_registered: bool,
    welcomed: bool,
}

/// One stream.
#[derive(Default)]
struct Lane {
    /// not handed on yet
    inbound: BytesMut,
    wants_end: bool,
    ended: bool,
    /// what was handed on, as frames
    spoken: FrameDecoder,
    /// what cannot be read as frames was handed on
    broken: bool,
    asked: BTreeMap<u64, u32>,
    first_is_call: Option<bool>,
    heard: FrameDecoder,
    answered: BTreeMap<u64, u32>,
    /// the transport takes no more of what comes now
    jammed: bool,
    /// and the session was told
    blocked: bool,
    /// reset by the device
    reset: bool,
    /// finished by the gateway
    finished: bool,
    inbox: Option<Given>,
    /// the code of the last frame, if that is an error of the connection
    last_error: Option<u32>,
}

/// What a subscription was given.
struct Given {
    position: u64,
    count: u64,
}

impl Lane {
    fn is_over(&self) -> bool {
        self.reset || self.finished
    }
}

impl Device {
    // ---- what it says ----

    pub(super) fn greet(&mut self, minor: u32) {
        self.greeted = true;
        let hello = v1::Hello {
            token: "a token".into(),
            device: "phone".into(),
            min_minor: minor,
            max_minor: minor,
            ..v1::Hello::default()
        };
        self.say(StreamId::CONTROL, Asked::Hello(hello));
    }

    pub(super) fn ask(&mut self, u: &mut Unstructured<'_>, truth: &Truth) {
        let odd = byte(u);
        if !self.greeted && !odd.is_multiple_of(16) {
            self.greet(0);
        }
        let (role, body) = question(u, truth, self.registered_count.max(1));
        let id = match role {
            _ if odd >= 0xf8 => StreamId::Bidi(u64::from(byte(u)) % (self.opened + 1)),
            Role::Control => StreamId::CONTROL,
            Role::Lane => self.lane(byte(u)),
            Role::Call => self.open(),
        };
        self.say(id, body);
    }

    /// Bytes that are no frame, or one without a body.
    pub(super) fn say_raw(&mut self, u: &mut Unstructured<'_>) {
        let choice = byte(u);
        let id = StreamId::Bidi(u64::from(byte(u)) % (self.opened + 1));
        self.request_last += 1;
        match choice % 8 {
            0 => {
                let length = usize::from(byte(u));
                let bytes = u.bytes(length.min(u.len())).unwrap_or_default().to_vec();
                self.put(id, &bytes);
            }
            1 | 2 => {
                let frame =
                    v1::ClientFrame { request_id: self.request_last, optional: choice & 8 == 0, ..Default::default() };
                let mut out = BytesMut::new();
                wire::encode_frame(&frame, &mut out);
                self.put(id, &out);
            }
            _ => {}
        }
    }

    pub(super) fn credit(&mut self, u: &mut Unstructured<'_>) {
        if self.registered_count > 0 {
            let credit = v1::Credit { subscription_id: self.registered_count, entries: u64::from(byte(u) % 8) };
            self.say(StreamId::CONTROL, Asked::Credit(credit));
        }
    }

    /// No more of a stream; of the control stream only now and then.
    pub(super) fn end(&mut self, u: &mut Unstructured<'_>) {
        let choice = u64::from(byte(u));
        let id = if choice == 0 { 0 } else { 1 + choice % STREAMS_MAX };
        if let Some(lane) = self.lanes.get_mut(&StreamId::Bidi(id)) {
            lane.wants_end = true;
        }
    }

    /// A stream that lives is reset by the device: says whether it lived.
    pub(super) fn forget(&mut self, id: StreamId) -> bool {
        let is_control = id == StreamId::CONTROL;
        let lives = |lane: &&mut Lane| !(lane.is_over() || is_control && lane.ended);
        let Some(lane) = self.lanes.get_mut(&id).filter(lives) else { return false };
        lane.inbound.clear();
        // That of the control stream ends the session, whose last words come on its other side.
        (lane.ended, lane.reset) = (is_control || lane.ended, !is_control);
        true
    }

    fn lane(&mut self, choice: u8) -> StreamId {
        let id = StreamId::Bidi(1 + u64::from(choice % 5));
        let is_open = self.lanes.get(&id).is_some_and(|lane| !lane.is_over() && !lane.wants_end);
        if is_open { id } else { self.open() }
    }

    fn open(&mut self) -> StreamId {
        if self.opened < STREAMS_MAX {
            self.opened += 1;
        }
        StreamId::Bidi(self.opened)
    }

    fn say(&mut self, id: StreamId, body: Asked) {
        self.request_last += 1;
        let frame = v1::ClientFrame { request_id: self.request_last, body: Some(body), ..Default::default() };
        let mut out = BytesMut::new();
        wire::encode_frame(&frame, &mut out);
        self.put(id, &out);
    }

    fn put(&mut self, id: StreamId, bytes: &[u8]) {
        let lane = self.lanes.entry(id).or_default();
        if !lane.wants_end && !lane.is_over() {
            lane.inbound.extend_from_slice(bytes);
        }
    }

    // ---- the transport ----

    pub(super) fn lanes(&self) -> Vec<StreamId> {
        self.lanes.iter().filter(|(_, lane)| !lane.is_over()).map(|(id, _)| *id).collect()
    }

    /// What the shell reads of a stream next.
    pub(super) fn next_piece(&mut self, id: StreamId) -> Option<Piece> {
        let lane = self.lanes.get_mut(&id).filter(|lane| !lane.is_over() && !lane.ended)?;
        if lane.inbound.is_empty() {
            lane.ended = lane.wants_end;
            return lane.ended.then_some(Piece::End);
        }
        let most = if self.hold == 0 { READ_BYTES } else { usize::from(self.hold) };
        let bytes = lane.inbound.split_to(most.min(lane.inbound.len())).freeze();
        self.note(id, &bytes);
        Some(Piece::Bytes(bytes))
    }

    /// Reads what is handed on as the session should.
    fn note(&mut self, id: StreamId, bytes: &Bytes) {
        let Some(lane) = self.lanes.get_mut(&id) else { return };
        if lane.broken {
            return;
        }
        lane.spoken.push(bytes);
        loop {
            match lane.spoken.next_frame::<v1::ClientFrame>() {
                Ok(Some(frame)) => {
                    let (is_call, wants_answer) = match &frame.body {
                        None => (false, !frame.optional),
                        Some(Asked::Hello(_) | Asked::Unsubscribe(_)) => (false, false),
                        Some(Asked::Credit(credit)) => {
                            let granted = self.credits.entry(credit.subscription_id).or_default();
                            *granted = granted.saturating_add(credit.entries);
                            (false, false)
                        }
                        Some(Asked::Subscribe(subscribe)) => {
                            let credit = if subscribe.credit == 0 { CREDIT_DEFAULT } else { subscribe.credit };
                            let known = self.subscribes.entry(frame.request_id).or_default();
                            *known = credit.max(*known);
                            (false, true)
                        }
                        Some(Asked::Sync(_) | Asked::History(_) | Asked::Status(_) | Asked::List(_)) => (true, true),
                        Some(_) => (false, true),
                    };
                    lane.first_is_call.get_or_insert(is_call);
                    if wants_answer {
                        *lane.asked.entry(frame.request_id).or_default() += 1;
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    lane.broken = true;
                    return;
                }
            }
        }
    }

    pub(super) fn jam(&mut self, u: &mut Unstructured<'_>) {
        let choice = usize::from(byte(u));
        let count = self.lanes.len();
        if let Some(lane) = choice.checked_rem(count).and_then(|place| self.lanes.values_mut().nth(place)) {
            lane.jammed = true;
        }
    }

    /// A stream flows again: the one that the session must be told of.
    pub(super) fn unjam(&mut self, u: &mut Unstructured<'_>) -> Option<StreamId> {
        let choice = usize::from(byte(u));
        let jammed = self.lanes.iter_mut().filter(|(_, lane)| lane.jammed).collect::<Vec<_>>();
        let place = choice.checked_rem(jammed.len())?;
        let (id, lane) = jammed.into_iter().nth(place)?;
        lane.jammed = false;
        (std::mem::take(&mut lane.blocked) && !lane.is_over()).then_some(*id)
    }

    pub(super) fn unjam_all(&mut self) -> Vec<StreamId> {
        let mut all = Vec::new();
        for (id, lane) in &mut self.lanes {
            lane.jammed = false;
            if std::mem::take(&mut lane.blocked) && !lane.is_over() {
                all.push(*id);
            }
        }
        all
    }

    // ---- what it hears ----

    pub(super) fn registered(&mut self, position: Seq) {
        assert!(position >= Seq::FIRST);
        self.registered_count += 1;
        self.is_registered = true;
    }

    pub(super) fn unregistered(&mut self) {
        self.is_registered = false;
    }

    /// Bytes of the session; says whether the stream takes no more.
    pub(super) fn hear(&mut self, transmit: &Transmit, authenticated: bool, truth: &Truth) -> bool {
        let id = transmit.stream;
        // The control stream is there from the beginning, whether or not the device has opened it.
        let known = self.lanes.contains_key(&id) || id == StreamId::CONTROL;
        assert!(known || matches!(id, StreamId::Inbox(_)), "{id:?} was never opened");
        let lane = self.lanes.entry(id).or_default();
        assert!(!lane.is_over(), "{id:?} is over");
        assert!(!lane.blocked, "{id:?} is blocked");
        lane.heard.push(&transmit.bytes);
        let mut count = 0;
        while let Some(frame) = lane.heard.next_frame::<v1::ServerFrame>().expect("the session writes frames") {
            count += 1;
            let body = frame.body.expect("the session knows its own frames");
            lane.last_error = None;
            if let Said::Error(error) = &body {
                let refusal = wire::error_from_wire(error);
                lane.last_error = Some(refusal.code.close_code());
            }
            match &body {
                Said::Welcome(_) => {
                    let is_first = !std::mem::replace(&mut self.welcomed, true);
                    assert!(is_first && authenticated && id == StreamId::CONTROL, "a second Welcome");
                }
                Said::Error(_) => {}
                _ => assert!(self.welcomed || id != StreamId::CONTROL, "{body:?} before Welcome"),
            }
            if let Said::Subscribed(subscribed) = &body {
                self.subscribed.insert(subscribed.subscription_id, frame.request_id);
            }
            match id {
                StreamId::Bidi(_) if is_answer(&body) => {
                    // Errors of the connection answer nothing.
                    if frame.request_id != 0 || id != StreamId::CONTROL {
                        let answered = lane.answered.entry(frame.request_id).or_default();
                        *answered += 1;
                        let asked = lane.asked.get(&frame.request_id).copied().unwrap_or_default();
                        assert!(*answered <= asked, "{id:?}: {body:?} answers nothing");
                    }
                }
                StreamId::Bidi(_) => assert!(id == StreamId::CONTROL, "{body:?} on {id:?}"),
                StreamId::Inbox(number) => hear_inbox(&mut lane.inbox, number, &body, truth),
            }
        }
        lane.heard.finish().expect("whole frames");
        assert!(transmit.bytes.len() <= TRANSMIT_BYTES_MAX || count == 1, "{} bytes at once", transmit.bytes.len());
        lane.finished = transmit.finish;
        lane.blocked = lane.jammed && !transmit.finish;
        lane.blocked
    }

    // ---- at the end ----

    pub(super) fn last_words(&self) -> Option<u32> {
        self.lanes.get(&StreamId::CONTROL)?.last_error
    }

    pub(super) fn check_end(&self, closed: Option<u32>, authenticated: bool, truth: &Truth) {
        for (id, request) in &self.subscribed {
            let Some(given) = self.lanes.get(&StreamId::Inbox(*id)).and_then(|lane| lane.inbox.as_ref()) else {
                continue;
            };
            assert!(given.count <= self.granted(*id, *request), "more than there is credit for");
        }
        if closed.is_some() || !authenticated {
            return;
        }
        for (id, lane) in self.lanes.iter().filter(|(_, lane)| !lane.reset) {
            let answers_one = lane.finished && lane.first_is_call == Some(true);
            if super::is_own(*id) && !answers_one {
                assert!(lane.inbound.is_empty() || lane.finished, "{id:?} is not read");
                let missing = lane
                    .asked
                    .iter()
                    .find(|(request, asked)| **request != 0 && lane.answered.get(*request) != Some(asked));
                assert_eq!(missing, None, "{id:?}: not answered");
            }
        }
        let id = self.registered_count;
        let Some(lane) = self.lanes.get(&StreamId::Inbox(id)).filter(|lane| self.is_registered && !lane.is_over())
        else {
            return;
        };
        let given = lane.inbox.as_ref().expect("a subscription begins with its header");
        let request = self.subscribed.get(&id).expect("Subscribed came");
        if given.count < self.granted(id, *request) {
            assert!(given.position >= truth.tail().get(), "the inbox ends before its tail, with credit left");
        }
    }

    fn granted(&self, subscription: u64, request: u64) -> u64 {
        let first = self.subscribes.get(&request).copied().unwrap_or_default();
        first.saturating_add(self.credits.get(&subscription).copied().unwrap_or_default())
    }
}

fn hear_inbox(inbox: &mut Option<Given>, number: u64, body: &Said, truth: &Truth) {
    match (inbox, body) {
        (inbox @ None, Said::StreamHeader(header)) => {
            assert_eq!((header.subscription_id, header.user.as_str()), (number, truth::me().as_str()));
            *inbox = Some(Given { position: header.from, count: 0 });
        }
        (Some(given), Said::Deliver(deliver)) => {
            assert!(!deliver.entries.is_empty(), "an empty Deliver");
            for entry in &deliver.entries {
                let next = truth.first_from(given.position).expect("entries are of the inbox");
                assert_eq!(entry.seq, next.0, "in order, without a gap, none twice");
                assert_eq!(entry.prev_seq, next.1);
                given.position = entry.seq + 1;
                given.count += 1;
            }
        }
        (Some(_), Said::Lagging(lagging)) => assert_eq!(lagging.subscription_id, number),
        (Some(_), Said::Error(_)) => {}
        (_, body) => panic!("{body:?} on an inbox stream"),
    }
}

#[derive(Clone, Copy)]
enum Role {
    Control,
    Lane,
    Call,
}

fn byte(u: &mut Unstructured<'_>) -> u8 {
    u.arbitrary().unwrap_or_default()
}

/// A question of every kind, most of them good.
fn question(u: &mut Unstructured<'_>, truth: &Truth, subscription: u64) -> (Role, Asked) {
    let kind = byte(u);
    let detail = byte(u);
    let message_id = Bytes::from(vec![detail; if detail == 0xff { 15 } else { 16 }]);
    let conversation = Some(v1::Conversation {
        id: match detail % 16 {
            0 => None,
            1 => Some(v1::conversation::Id::Peer("a\0b".into())),
            2..=7 => Some(v1::conversation::Id::Group(Bytes::from(vec![detail; 16]))),
            8 => Some(v1::conversation::Id::Group(Bytes::from(vec![detail; 3]))),
            _ => Some(v1::conversation::Id::Peer("bob".into())),
        },
    });
    let known = if detail == 0x80 { u64::MAX } else { u64::from(detail) };
    let body = Bytes::from(vec![b'x'; usize::from(detail) * 4]);
    match kind % 22 {
        // What is asked of the other details is older: the corpus keeps its meaning.
        0 if detail % 4 == 3 => {
            let token = if detail == 0xff { String::new() } else { "a fresh token".to_owned() };
            (Role::Control, Asked::Renew(v1::Renew { token }))
        }
        0 => (Role::Control, Asked::Ping(v1::Ping { nonce: u64::from(detail) })),
        1..=3 => {
            let from = match detail % 8 {
                0 => 0,
                1 => truth.tail().get() + 5,
                2 => u64::MAX,
                _ => truth.from(detail / 8),
            };
            (Role::Control, Asked::Subscribe(v1::Subscribe { from, cursor: 0, credit: u64::from(detail % 32) }))
        }
        4 => (Role::Control, Asked::Unsubscribe(v1::Unsubscribe { subscription_id: subscription })),
        5 => (Role::Control, Asked::Ack(v1::Ack { cursor: known })),
        6 => (Role::Control, Asked::Hello(v1::Hello::default())),
        7..=9 => {
            let salt = Bytes::from(vec![1; usize::from(detail % 40)]);
            (Role::Lane, Asked::Send(v1::Send { message_id, conversation, salt, body, known, follows: Bytes::new() }))
        }
        10 => (Role::Lane, Asked::QuerySend(v1::QuerySend { message_id, conversation, known })),
        11 => (Role::Lane, Asked::CancelSend(v1::CancelSend { message_id, conversation, known })),
        12 => {
            let members = vec!["carol".to_owned(); usize::from(detail)];
            (Role::Lane, Asked::CreateGroup(v1::CreateGroup { group: message_id.clone(), message_id, members }))
        }
        13 => {
            let (add, remove) = (vec!["dave".to_owned()], Vec::new());
            (Role::Lane, Asked::ChangeMembers(v1::ChangeMembers { message_id, conversation, add, remove, known }))
        }
        14 => {
            let act = match detail % 5 {
                0 => None,
                1 => Some(v1::amend::Act::Edit(v1::Edit { salt: Bytes::new(), body })),
                2 => Some(v1::amend::Act::Recall(v1::Recall {})),
                3 => Some(v1::amend::Act::React(v1::React { emoji: "+".into(), unset: false })),
                _ => Some(v1::amend::Act::Pin(v1::Pin { unset: true })),
            };
            let amend = v1::Amend { message_id, conversation, known, target: known, act, follows: Bytes::new() };
            (Role::Lane, Asked::Amend(amend))
        }
        15 => {
            let what = match detail % 4 {
                0 => None,
                1 => Some(v1::mark::What::ReadUpto(known)),
                2 => Some(v1::mark::What::Muted(true)),
                _ => Some(v1::mark::What::Archived(false)),
            };
            (Role::Lane, Asked::Mark(v1::Mark { conversation, what }))
        }
        16 => (Role::Lane, Asked::Next(v1::Next { counter: "orders".into(), count: u32::from(detail) })),
        17 => (Role::Lane, Asked::Current(v1::Current { counter: String::new() })),
        18 => (Role::Call, Asked::Sync(v1::Sync { from: truth.from(detail), limit: u32::from(detail) })),
        19 => (Role::Call, Asked::History(v1::History { conversation, from: known, limit: 3 })),
        20 => (Role::Call, Asked::Status(v1::Status {})),
        _ => (Role::Call, Asked::List(v1::List { after: conversation, limit: 5 })),
    }
}
