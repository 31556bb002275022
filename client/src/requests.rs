//! Requests: what was asked and not yet answered, and what to do with each refusal.
//!
//! A request keeps its frame and is sent again as it is, after a lost connection and after a refusal that allows it.
//! Sends of one conversation that are under way at the same time name their predecessor (`follows`), so that a
//! retry of one cannot be overtaken by the next.
//!
//! ```text
//! ready ─▶ sent ─▶ answered
//!   ▲       │ refused, may be repeated ─▶ paused until … ─▶ ready
//!   │       │ OUT_OF_ORDER ─▶ parked until the predecessor is settled ─▶ ready
//!   └───────┴ connection lost                     time over ─▶ rejected or unknown
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{MessageId, Seq};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::entry::Conversation;
use crate::error::RequestError;

/// The stream that a request goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Control,
    Lane,
    Call,
}

/// A send's place among the others.
#[derive(Clone, Debug)]
pub(crate) struct SendPlace {
    pub(crate) conversation: Conversation,
    pub(crate) message_id: MessageId,
}

/// A request from a handle.
#[derive(Debug)]
pub(crate) struct NewRequest {
    pub(crate) way: Way,
    pub(crate) body: Asked,
    pub(crate) place: Option<SendPlace>,
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Result<Said, RequestError>>,
    pub(crate) permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum AnswerTo {
    Handle { answer: oneshot::Sender<Result<Said, RequestError>>, _permit: OwnedSemaphorePermit },
    Repair,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Ready,
    Sent,
    Paused,
    Parked,
}

#[derive(Debug)]
struct Request {
    way: Way,
    frame: v1::ClientFrame,
    place: Option<SendPlace>,
    state: State,
    deadline: Instant,
    /// Its entry in `timers`.
    due: Instant,
    attempts: u32,
    /// An attempt may have happened.
    uncertain: bool,
    refusal: Option<Refusal>,
    answer: AnswerTo,
}

/// A page for the subscription.
pub(crate) type Repair = Result<v1::SyncPage, Refusal>;

#[derive(Debug, Default)]
pub(crate) struct Requests {
    requests: BTreeMap<u64, Request>,
    ready: BTreeSet<u64>,
    parked: BTreeSet<u64>,
    timers: BTreeSet<(Instant, u64)>,
    /// The last send of a conversation that is under way.
    last_sends: HashMap<Conversation, MessageId>,
    id_last: u64,
    repairs: VecDeque<Repair>,
}

/// Does it matter whether an attempt of it happened?
fn writes(frame: &v1::ClientFrame) -> bool {
    matches!(
        &frame.body,
        Some(
            Asked::Send(_)
                | Asked::Amend(_)
                | Asked::CancelSend(_)
                | Asked::CreateGroup(_)
                | Asked::ChangeMembers(_)
                | Asked::Next(_)
        )
    )
}

/// Whom a request follows, if it is one that can.
fn follows_of(body: Option<&Asked>) -> Option<&Bytes> {
    match body {
        Some(Asked::Send(send)) => Some(&send.follows),
        Some(Asked::Amend(amend)) => Some(&amend.follows),
        _ => None,
    }
}

fn follows_mut(body: Option<&mut Asked>) -> Option<&mut Bytes> {
    match body {
        Some(Asked::Send(send)) => Some(&mut send.follows),
        Some(Asked::Amend(amend)) => Some(&mut amend.follows),
        _ => None,
    }
}

const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

impl Requests {
    /// Takes a request from a handle.
    pub(crate) fn add(&mut self, new: NewRequest) {
        let NewRequest { way, mut body, place, deadline, answer, permit } = new;
        if let (Some(follows), Some(place)) = (follows_mut(Some(&mut body)), &place) {
            let last = self.last_sends.insert(place.conversation.clone(), place.message_id);
            if let Some(last) = last.filter(|last| follows.is_empty() && *last != place.message_id) {
                *follows = Bytes::copy_from_slice(&last.0);
            }
        }
        self.insert(way, body, place, deadline, AnswerTo::Handle { answer, _permit: permit });
    }

    /// Asks for a page for the subscription.
    pub(crate) fn add_repair(&mut self, from: Seq, deadline: Instant) {
        let body = Asked::Sync(v1::Sync { from: from.get(), limit: 0 });
        self.insert(Way::Call, body, None, deadline, AnswerTo::Repair);
    }

    fn insert(&mut self, way: Way, body: Asked, place: Option<SendPlace>, deadline: Instant, answer: AnswerTo) {
        self.id_last += 1;
        let id = self.id_last;
        let frame = v1::ClientFrame { request_id: id, body: Some(body), ..Default::default() };
        let request = Request {
            way,
            frame,
            place,
            state: State::Ready,
            deadline,
            due: deadline,
            attempts: 0,
            uncertain: false,
            refusal: None,
            answer,
        };
        self.requests.insert(id, request);
        self.ready.insert(id);
        self.timers.insert((deadline, id));
    }

    /// The ready requests' ids, oldest first.
    pub(crate) fn ready(&self) -> impl Iterator<Item = u64> + '_ {
        self.ready.iter().copied()
    }

    /// Does an answer of the gateway come?
    pub(crate) fn has_sent(&self) -> bool {
        self.requests.values().any(|request| request.state == State::Sent)
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Where a request goes, and its frame.
    pub(crate) fn frame(&self, id: u64) -> Option<(Way, &v1::ClientFrame)> {
        self.requests.get(&id).map(|request| (request.way, &request.frame))
    }

    pub(crate) fn sent(&mut self, id: u64) {
        self.ready.remove(&id);
        if let Some(request) = self.requests.get_mut(&id) {
            request.state = State::Sent;
            request.attempts += 1;
        }
    }

    /// The connection is gone: what was sent may have happened, and is sent again.
    pub(crate) fn handle_lost(&mut self) {
        for (id, request) in &mut self.requests {
            if request.state == State::Sent {
                request.state = State::Ready;
                request.uncertain = true;
                self.ready.insert(*id);
            }
        }
    }

    /// An answer of the gateway.
    pub(crate) fn handle_answer(&mut self, now: Instant, id: u64, said: Said) {
        if self.requests.get(&id).is_none_or(|request| request.state != State::Sent) {
            return;
        }
        let Said::Error(error) = said else { return self.settle(id, Ok(said)) };
        let refusal = wire::error_from_wire(&error);
        if refusal.code == ErrorCode::OutOfOrder && self.follows_open(id) {
            return self.park(id);
        }
        if error.retry {
            return self.pause(now, id, refusal, error.unknown);
        }
        let before = self.requests.get(&id).is_some_and(|request| request.uncertain && writes(&request.frame));
        let uncertain = error.unknown || (before && !refusal.code.settles());
        self.settle(id, Err(if uncertain { RequestError::Unknown(refusal) } else { RequestError::Rejected(refusal) }));
    }

    /// A stream of a call broke without an answer.
    pub(crate) fn handle_broken(&mut self, now: Instant, id: u64) {
        if self.requests.get(&id).is_some_and(|request| request.state == State::Sent) {
            self.pause(now, id, Refusal::new(ErrorCode::Unavailable, "the stream broke"), true);
        }
    }

    /// When [`Requests::handle_timeout`] must be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                break;
            }
            let Some(request) = self.requests.get_mut(&id) else {
                self.timers.remove(&(at, id));
                continue;
            };
            if request.deadline <= now {
                let happened = request.uncertain || request.state == State::Sent;
                let refusal = Refusal::new(ErrorCode::Timeout, "no answer in time");
                let error = match request.refusal.take() {
                    _ if happened => RequestError::Unknown(refusal),
                    Some(last) => RequestError::Rejected(last),
                    // Never sent: no connection in all that time.
                    None => RequestError::Rejected(refusal),
                };
                self.settle(id, Err(error));
                continue;
            }
            request.state = State::Ready;
            let deadline = request.deadline;
            self.ready.insert(id);
            self.set_due(id, deadline);
        }
    }

    /// This client will never be connected again.
    pub(crate) fn handle_end(&mut self, refusal: &Refusal) {
        let ids: Vec<_> = self.requests.keys().copied().collect();
        for id in ids {
            let happened = self.requests[&id].uncertain || self.requests[&id].state == State::Sent;
            let refusal = refusal.clone();
            let error = if happened { RequestError::Unknown(refusal) } else { RequestError::Rejected(refusal) };
            self.settle(id, Err(error));
        }
    }

    /// Pages that came for the subscription.
    pub(crate) fn next_repair(&mut self) -> Option<Repair> {
        self.repairs.pop_front()
    }

    // ---- steps ----

    /// Is the send that this one follows still open here?
    fn follows_open(&self, id: u64) -> bool {
        let body = self.requests.get(&id).and_then(|request| request.frame.body.as_ref());
        let Some(follows) = follows_of(body) else { return false };
        self.requests.values().any(|other| other.place.as_ref().is_some_and(|place| place.message_id.0 == follows[..]))
    }

    fn follows(&self, id: u64, message_id: &MessageId) -> bool {
        let body = self.requests.get(&id).and_then(|request| request.frame.body.as_ref());
        follows_of(body).is_some_and(|follows| follows[..] == message_id.0)
    }

    /// The send that this one follows, if it is under way here.
    fn open_before(&self, frame: &v1::ClientFrame) -> Option<MessageId> {
        let follows = follows_of(frame.body.as_ref())?;
        let mut open = self.requests.values().filter_map(|request| request.place.as_ref());
        open.find(|place| place.message_id.0 == follows[..]).map(|place| place.message_id)
    }

    fn park(&mut self, id: u64) {
        self.parked.insert(id);
        if let Some(request) = self.requests.get_mut(&id) {
            request.state = State::Parked;
        }
    }

    fn pause(&mut self, now: Instant, id: u64, refusal: Refusal, uncertain: bool) {
        let Some(request) = self.requests.get_mut(&id) else { return };
        let doubled = PAUSE_MIN * 2u32.saturating_pow(request.attempts.saturating_sub(1).min(8));
        let pause = doubled.min(PAUSE_MAX).mul_f64(rand::random_range(0.5..1.0));
        // Later, never earlier than told, and not all at once.
        let told = Duration::from_millis(u64::from(refusal.retry_after_ms)).mul_f64(rand::random_range(1.0..1.5));
        let pause = pause.max(told);
        request.uncertain |= uncertain;
        request.refusal = Some(refusal);
        request.state = State::Paused;
        let due = (now + pause).min(request.deadline);
        self.set_due(id, due);
    }

    fn set_due(&mut self, id: u64, due: Instant) {
        if let Some(request) = self.requests.get_mut(&id) {
            self.timers.remove(&(request.due, id));
            request.due = due;
            self.timers.insert((due, id));
        }
    }

    fn settle(&mut self, id: u64, result: Result<Said, RequestError>) {
        let Some(request) = self.requests.remove(&id) else { return };
        self.timers.remove(&(request.due, id));
        self.ready.remove(&id);
        self.parked.remove(&id);
        if let Some(place) = &request.place {
            self.settle_place(place, &request.frame, &result);
        }
        match request.answer {
            // A handle that no longer waits does not want to know.
            AnswerTo::Handle { answer, .. } => drop(answer.send(result)),
            AnswerTo::Repair => self.repairs.push_back(match result {
                Ok(Said::SyncPage(page)) => Ok(page),
                Ok(_) => Err(Refusal::new(ErrorCode::Malformed, "another answer than a page")),
                Err(error) => Err(error.refusal().clone()),
            }),
        }
    }

    /// A send is over here: those behind it go on. If it was rejected, they follow whom it followed; if nobody knows,
    /// they stay behind it, for it may still happen.
    fn settle_place(&mut self, place: &SendPlace, frame: &v1::ClientFrame, result: &Result<Said, RequestError>) {
        let rejected = matches!(result, Err(RequestError::Rejected(_)));
        if self.last_sends.get(&place.conversation) == Some(&place.message_id) {
            self.last_sends.remove(&place.conversation);
            // The next one follows whom this one followed, if that is still under way.
            if result.is_err()
                && let Some(before) = self.open_before(frame)
            {
                self.last_sends.insert(place.conversation.clone(), before);
            }
        }
        let freed: Vec<_> = self.parked.iter().copied().filter(|id| self.follows(*id, &place.message_id)).collect();
        if rejected && let Some(before) = follows_of(frame.body.as_ref()) {
            for request in self.requests.values_mut() {
                if let Some(follows) = follows_mut(request.frame.body.as_mut())
                    && follows[..] == place.message_id.0
                {
                    follows.clone_from(before);
                }
            }
        }
        for id in freed {
            self.parked.remove(&id);
            if let Some(request) = self.requests.get_mut(&id) {
                request.state = State::Ready;
                self.ready.insert(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;

    struct Desk {
        requests: Requests,
        now: Instant,
        permits: Arc<Semaphore>,
    }

    type Answer = oneshot::Receiver<Result<Said, RequestError>>;

    fn id(number: u8) -> MessageId {
        MessageId([number; 16])
    }

    fn refusal(code: ErrorCode) -> Said {
        Said::Error(wire::error_to_wire(&Refusal::new(code, "no")))
    }

    fn committed(seq: u64) -> Said {
        Said::Committed(v1::Committed { seq, duplicate: false })
    }

    impl Desk {
        fn new() -> Self {
            Self { requests: Requests::default(), now: Instant::now(), permits: Arc::new(Semaphore::new(10)) }
        }

        fn send(&mut self, number: u8) -> Answer {
            let message_id = Bytes::copy_from_slice(&id(number).0);
            self.add(number, Asked::Send(v1::Send { message_id, ..Default::default() }))
        }

        fn amend(&mut self, number: u8) -> Answer {
            let message_id = Bytes::copy_from_slice(&id(number).0);
            self.add(number, Asked::Amend(v1::Amend { message_id, ..Default::default() }))
        }

        fn add(&mut self, number: u8, body: Asked) -> Answer {
            let conversation = Conversation::peer("bob").unwrap();
            let message_id = id(number);
            let (answer, receiver) = oneshot::channel();
            let permit = self.permits.clone().try_acquire_owned().unwrap();
            let deadline = self.now + Duration::from_secs(10);
            let place = Some(SendPlace { conversation, message_id });
            self.requests.add(NewRequest { way: Way::Lane, body, place, deadline, answer, permit });
            receiver
        }

        /// Sends whatever is ready: request ids and whom they follow.
        fn flush(&mut self) -> Vec<(u64, Option<u8>)> {
            let ready: Vec<_> = self.requests.ready().collect();
            let follows = |requests: &Requests, id| {
                let (_, frame) = requests.frame(id)?;
                follows_of(frame.body.as_ref())?.first().copied()
            };
            let sent = ready.iter().map(|id| (*id, follows(&self.requests, *id))).collect();
            ready.into_iter().for_each(|id| self.requests.sent(id));
            sent
        }

        fn say(&mut self, id: u64, said: Said) {
            self.requests.handle_answer(self.now, id, said);
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            self.requests.handle_timeout(self.now);
        }
    }

    #[test]
    fn those_behind_an_unknown_one_stay_behind_it() {
        let mut desk = Desk::new();
        let (mut first, mut second) = (desk.send(1), desk.send(2));
        assert_eq!(desk.flush(), [(1, None), (2, Some(1))]);
        desk.say(2, refusal(ErrorCode::OutOfOrder));
        let settled = Refusal::new(ErrorCode::NotFound, "no");
        desk.requests.handle_lost();
        assert_eq!(desk.flush(), [(1, None)], "the second waits for it");
        // Its first attempt may have happened, whatever is said of this one.
        desk.say(1, Said::Error(wire::error_to_wire(&settled)));
        assert_eq!(first.try_recv().unwrap(), Err(RequestError::Unknown(settled)));
        assert_eq!(desk.flush(), [(2, Some(1))]);
        // Until it is settled the cluster says so, and the time of the second runs.
        desk.say(2, refusal(ErrorCode::OutOfOrder));
        desk.pass(Duration::from_secs(11));
        assert!(
            matches!(second.try_recv().unwrap(), Err(RequestError::Rejected(refusal)) if refusal.code == ErrorCode::OutOfOrder)
        );
    }

    #[test]
    fn amendments_have_their_place_among_the_sends() {
        let mut desk = Desk::new();
        let (_first, mut second, _third) = (desk.send(1), desk.amend(2), desk.send(3));
        assert_eq!(desk.flush(), [(1, None), (2, Some(1)), (3, Some(2))]);
        desk.say(3, refusal(ErrorCode::OutOfOrder));
        desk.say(2, refusal(ErrorCode::TooLate));
        assert!(matches!(second.try_recv().unwrap(), Err(RequestError::Rejected(_))));
        assert_eq!(desk.flush(), [(3, Some(1))], "it follows whom the rejected one followed");
        desk.say(3, refusal(ErrorCode::MessageTooLarge));
        let mut fourth = desk.amend(4);
        assert_eq!(desk.flush(), [(4, Some(1))], "and so does a new one");
        desk.requests.handle_lost();
        desk.flush();
        desk.say(1, committed(1));
        let _fifth = desk.send(5);
        assert_eq!(desk.flush(), [(5, Some(4))]);
        desk.say(5, refusal(ErrorCode::OutOfOrder));
        desk.say(4, refusal(ErrorCode::Recalled));
        assert!(matches!(fourth.try_recv().unwrap(), Err(RequestError::Unknown(_))), "its first attempt may have been");
        assert_eq!(desk.flush(), [(5, Some(4))], "what is behind an unknown one stays behind it");
    }

    #[test]
    fn behind_a_rejected_send_the_next_one_follows_whom_that_one_followed() {
        let mut desk = Desk::new();
        let (_first, _second) = (desk.send(1), desk.send(2));
        assert_eq!(desk.flush(), [(1, None), (2, Some(1))]);
        desk.say(2, refusal(ErrorCode::MessageTooLarge));
        // The first one is still under way: the third must not overtake it.
        let _third = desk.send(3);
        assert_eq!(desk.flush(), [(3, Some(1))]);
        desk.say(1, committed(7));
        desk.say(3, refusal(ErrorCode::MessageTooLarge));
        let _fourth = desk.send(4);
        assert_eq!(desk.flush(), [(4, None)], "nothing is under way");
    }

    #[test]
    fn a_refusal_after_an_attempt_that_may_have_happened_is_no_rejection_unless_it_settles_the_id() {
        let cases = [
            (ErrorCode::NotFound, true, false),
            (ErrorCode::NotFound, false, true),
            (ErrorCode::MessageTooLarge, true, false),
            (ErrorCode::Conflict, true, true),
            (ErrorCode::Cancelled, true, true),
        ];
        for (code, lost_before, rejected) in cases {
            let mut desk = Desk::new();
            let mut answer = desk.send(1);
            let mut sent = desk.flush();
            if lost_before {
                desk.requests.handle_lost();
                sent = desk.flush();
            }
            desk.say(sent[0].0, refusal(code));
            let error = answer.try_recv().unwrap().unwrap_err();
            assert_eq!(
                (error.refusal().code, !error.is_unknown()),
                (code, rejected),
                "{code} after a loss: {lost_before}"
            );
        }
    }

    #[test]
    fn sends_of_one_conversation_that_are_open_together_follow_each_other() {
        let mut desk = Desk::new();
        let _answers = [desk.send(1), desk.send(2), desk.send(3)];
        assert_eq!(desk.flush(), [(1, None), (2, Some(1)), (3, Some(2))]);
        for id in 1..=3 {
            desk.say(id, committed(id));
        }
        let _answer = desk.send(4);
        assert_eq!(desk.flush(), [(4, None)], "nothing is open any more");
    }

    #[test]
    fn one_that_came_too_early_waits_for_the_one_before() {
        let mut desk = Desk::new();
        let _answers = [desk.send(1), desk.send(2)];
        desk.flush();
        desk.say(1, refusal(ErrorCode::Busy));
        desk.say(2, refusal(ErrorCode::OutOfOrder));
        desk.pass(Duration::from_millis(50));
        assert_eq!(desk.flush(), [(1, None)]);
        desk.say(1, committed(1));
        assert_eq!(desk.flush(), [(2, Some(1))]);
    }

    #[test]
    fn those_behind_a_rejected_one_follow_whom_it_followed() {
        let mut desk = Desk::new();
        let (_first, mut second, _third) = (desk.send(1), desk.send(2), desk.send(3));
        desk.flush();
        desk.say(3, refusal(ErrorCode::OutOfOrder));
        desk.say(2, refusal(ErrorCode::Conflict));
        assert!(matches!(second.try_recv().unwrap(), Err(RequestError::Rejected(_))));
        assert_eq!(desk.flush(), [(3, Some(1))]);
    }

    #[test]
    fn a_lost_connection_sends_everything_open_again_in_order() {
        let mut desk = Desk::new();
        let _answers = [desk.send(1), desk.send(2), desk.send(3)];
        desk.flush();
        desk.say(2, refusal(ErrorCode::Unavailable));
        desk.requests.handle_lost();
        assert_eq!(desk.flush().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3]);
        desk.pass(Duration::from_millis(50));
        assert_eq!(desk.flush().iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn an_end_without_an_answer_is_unknown_only_if_it_may_have_happened() {
        let mut desk = Desk::new();
        let (mut sent, mut refused) = (desk.send(1), desk.send(2));
        desk.flush();
        let mut never = desk.send(3);
        desk.say(2, refusal(ErrorCode::Busy));
        desk.pass(Duration::from_secs(10));
        assert!(matches!(sent.try_recv().unwrap(), Err(RequestError::Unknown(_))));
        assert!(matches!(refused.try_recv().unwrap(), Err(RequestError::Rejected(r)) if r.code == ErrorCode::Busy));
        assert!(matches!(never.try_recv().unwrap(), Err(RequestError::Rejected(_))));
        assert_eq!(desk.permits.available_permits(), 10);
        assert_eq!(desk.requests.poll_timeout(), None);
    }

    #[test]
    fn an_answer_to_nothing_is_ignored() {
        let mut desk = Desk::new();
        desk.say(9, committed(1));
        let mut answer = desk.send(1);
        desk.say(1, committed(1));
        assert!(answer.try_recv().is_err(), "not sent yet");
    }
}
