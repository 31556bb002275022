//! Inbox: the subscription of a client: exactly once, in order, over everything that may happen between.
//!
//! An entry is taken if it joins on: `prev_seq < position <= seq`. One below the position was taken before; one that
//! does not join on, `Lagging`, and a new connection are repaired alike: by sync from the position, then a new
//! subscription from there. The queue to the reader is bounded by the credit that the gateway gets.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use seriatim_proto::error::{ErrorCode, Refusal, Retry};
use seriatim_proto::ids::Seq;

use crate::entry::{Entry, SyncPage};
use crate::error::SubscriptionError;
use crate::shared::Shared;

/// Entries that may wait for the reader.
pub(crate) const WINDOW: u64 = 2_048;
/// Taken entries after which the gateway gets new credit.
const CREDIT_STEP: u64 = WINDOW / 4;
/// Shortest pause behind a `Subscribe` that was refused for now.
const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(50);
/// Pause behind a page that was refused since the token has ended.
const EXPIRED_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<Entry>,
    ended: Option<SubscriptionError>,
    /// The reader was told the end.
    told: bool,
    /// The reader is gone.
    dropped: bool,
    /// Taken by the reader and not yet given back as credit.
    taken: u64,
}

/// Between the task and the reader.
#[derive(Debug)]
pub(crate) struct InboxQueue {
    pub(crate) from: Seq,
    pub(crate) cursor: Option<Seq>,
    queue: Mutex<Queue>,
    reader: AtomicWaker,
}

impl InboxQueue {
    pub(crate) fn new(from: Seq, cursor: Option<Seq>) -> Self {
        Self { from, cursor, queue: Mutex::default(), reader: AtomicWaker::new() }
    }

    fn put(&self, entries: impl IntoIterator<Item = Entry>) {
        self.queue.lock().entries.extend(entries);
        self.reader.wake();
    }

    fn end(&self, error: SubscriptionError) {
        self.queue.lock().ended.get_or_insert(error);
        self.reader.wake();
    }

    fn len(&self) -> u64 {
        self.queue.lock().entries.len() as u64
    }

    /// Credit to give, once it is worth a frame.
    fn take_credit(&self) -> Option<u64> {
        let mut queue = self.queue.lock();
        (queue.taken >= CREDIT_STEP).then(|| std::mem::take(&mut queue.taken))
    }

    fn is_dropped(&self) -> bool {
        self.queue.lock().dropped
    }

    fn forget_credit(&self) {
        self.queue.lock().taken = 0;
    }
}

/// The inbox's entries from a position on: each exactly once, in order. A new subscription of the same client ends
/// this one.
#[derive(Debug)]
pub struct Subscription {
    queue: Arc<InboxQueue>,
    shared: Weak<Shared>,
}

impl Subscription {
    pub(crate) fn new(queue: Arc<InboxQueue>, shared: &Arc<Shared>) -> Self {
        Self { queue, shared: Arc::downgrade(shared) }
    }
}

impl Stream for Subscription {
    type Item = Result<Entry, SubscriptionError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.reader.register(cx.waker());
        let mut queue = self.queue.queue.lock();
        if let Some(entry) = queue.entries.pop_front() {
            queue.taken += 1;
            let wake = queue.taken.is_multiple_of(CREDIT_STEP);
            drop(queue);
            if wake && let Some(shared) = self.shared.upgrade() {
                shared.wake();
            }
            return Poll::Ready(Some(Ok(entry)));
        }
        match queue.ended.clone() {
            Some(_) if queue.told => Poll::Ready(None),
            Some(error) => {
                queue.told = true;
                Poll::Ready(Some(Err(error)))
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.queue.queue.lock().dropped = true;
        if let Some(shared) = self.shared.upgrade() {
            shared.wake();
        }
    }
}

/// What the task must do for the subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Need {
    /// ask for a page
    Page { from: Seq },
    /// subscribe on this connection
    Subscribe { from: Seq, cursor: Option<Seq>, credit: u64 },
    /// give credit
    Credit { entries: u64 },
    /// the reader is gone
    Unsubscribe,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not subscribed on this connection.
    Fresh,
    /// As before, and the gateway takes no subscription yet.
    Paused {
        until: Instant,
    },
    Live,
    /// Pages are missing; one is asked for, or the queue is full.
    Behind {
        asked: bool,
    },
    Over,
}

/// The task's side of a subscription.
#[derive(Debug)]
pub(crate) struct Inbox {
    queue: Arc<InboxQueue>,
    /// First seq that was not given to the reader.
    position: Seq,
    state: State,
}

impl Inbox {
    pub(crate) fn new(queue: Arc<InboxQueue>) -> Self {
        let position = queue.from;
        Self { queue, position, state: State::Fresh }
    }

    /// Another subscription takes this one's place.
    pub(crate) fn replace(self) {
        self.queue.end(SubscriptionError::Refused(Refusal::new(ErrorCode::Kicked, "another subscription began")));
    }

    /// There will be nothing more.
    pub(crate) fn end(&mut self, refusal: &Refusal) {
        self.state = State::Over;
        self.queue.end(SubscriptionError::Refused(refusal.clone()));
    }

    /// A connection is gone: subscribe on the next one from the position.
    pub(crate) fn handle_lost(&mut self) {
        if matches!(self.state, State::Live | State::Paused { .. }) {
            self.state = State::Fresh;
        }
    }

    /// The gateway refused to subscribe on this connection, for now or for good.
    pub(crate) fn handle_subscribe_refused(&mut self, now: Instant, refusal: &Refusal, retry: bool) {
        if !retry {
            return self.end(refusal);
        }
        if self.state == State::Live {
            let told = Duration::from_millis(u64::from(refusal.retry_after_ms)).max(SUBSCRIBE_PAUSE);
            // Never earlier than told, and not all devices at once.
            self.state = State::Paused { until: now + told.mul_f64(rand::random_range(1.0..1.5)) };
        }
    }

    /// When [`Inbox::handle_timeout`] must be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Paused { until } => Some(until),
            State::Fresh | State::Live | State::Behind { .. } | State::Over => None,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if matches!(self.state, State::Paused { until } if until <= now) {
            self.state = State::Fresh;
        }
    }

    /// Pushed entries.
    pub(crate) fn handle_entries(&mut self, entries: Vec<Entry>) {
        let mut joined = Vec::with_capacity(entries.len());
        for entry in entries {
            if entry.seq < self.position {
                continue;
            }
            if entry.prev_seq.is_some_and(|previous| previous >= self.position) {
                self.fall_behind();
                break;
            }
            self.position = entry.seq.next();
            joined.push(entry);
        }
        if !joined.is_empty() {
            self.queue.put(joined);
        }
    }

    /// The gateway stopped pushing at the position, and the inbox reaches further.
    pub(crate) fn handle_lagging(&mut self, upto: Seq) {
        if upto > self.position {
            self.fall_behind();
        }
    }

    /// The inbox stream ended without the connection.
    pub(crate) fn handle_stream_end(&mut self) {
        self.fall_behind();
    }

    /// A page that was needed.
    pub(crate) fn handle_page(&mut self, page: SyncPage) {
        if self.state == State::Over {
            return;
        }
        if page.too_long {
            self.state = State::Over;
            return self.queue.end(SubscriptionError::TooLong { trim: page.trim });
        }
        let position = self.position;
        self.queue.put(page.entries.into_iter().filter(|entry| entry.seq >= position));
        self.position = self.position.max(page.upto);
        self.state = if page.more { State::Behind { asked: false } } else { State::Fresh };
    }

    /// The page was refused.
    pub(crate) fn handle_page_refused(&mut self, now: Instant, refusal: &Refusal) {
        match refusal.code {
            _ if self.state == State::Over => {}
            // The session is about to end too, and the next one begins with a fresh token.
            ErrorCode::AuthExpired => self.state = State::Paused { until: now + EXPIRED_PAUSE },
            code if code.retry() == Retry::Never => self.end(refusal),
            _ => self.state = State::Behind { asked: false },
        }
    }

    /// What to do now; `connected`: on a connection with a session.
    /// `pushed`: its stream is there, so that credit can be given.
    pub(crate) fn need(&mut self, connected: bool, pushed: bool) -> Option<Need> {
        if self.state != State::Over && self.queue.is_dropped() {
            self.state = State::Over;
            return Some(Need::Unsubscribe);
        }
        match self.state {
            // Not before there is room: each connection that is lost would leave more in the queue.
            State::Fresh if connected && self.queue.len() + CREDIT_STEP <= WINDOW => {
                self.state = State::Live;
                self.queue.forget_credit();
                let credit = WINDOW - self.queue.len();
                Some(Need::Subscribe { from: self.position, cursor: self.queue.cursor, credit })
            }
            State::Live if pushed => self.queue.take_credit().map(|entries| Need::Credit { entries }),
            State::Behind { asked: false } if self.queue.len() < WINDOW => {
                self.state = State::Behind { asked: true };
                Some(Need::Page { from: self.position })
            }
            State::Fresh | State::Paused { .. } | State::Live | State::Behind { .. } | State::Over => None,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.state == State::Live
    }

    fn fall_behind(&mut self) {
        if self.state == State::Live {
            self.state = State::Behind { asked: false };
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::{FutureExt, StreamExt};
    use seriatim_proto::command::Kind;
    use seriatim_proto::ids::{BodyHash, Chain, MessageId, UserId};

    use super::*;
    use crate::entry::{Conversation, EntryBody};

    fn seq(value: u64) -> Seq {
        Seq::new(value).unwrap()
    }

    fn entry(place: u64, previous: u64) -> Entry {
        Entry {
            seq: seq(place),
            prev_seq: Seq::new(previous),
            ordinal: place,
            conversation: Conversation::peer("bob").unwrap(),
            conversation_seq: seq(place),
            kind: Kind::Message,
            sender: UserId::new("bob").unwrap(),
            message_id: MessageId([1; 16]),
            at_ms: 0,
            body_hash: BodyHash([0; 16]),
            body: EntryBody::Here { salt: Bytes::new(), body: Bytes::new() },
            added: vec![],
            removed: vec![],
            emoji: None,
            unset: false,
            chain: None,
        }
    }

    fn page(entries: Vec<Entry>, upto: u64, more: bool) -> SyncPage {
        let (trim, tail, chain) = (Seq::FIRST, seq(upto), Chain::default());
        SyncPage { entries, upto: seq(upto), more, too_long: false, trim, tail, chain }
    }

    fn subscribed() -> (Inbox, Subscription) {
        let shared = Arc::new(Shared::new());
        let queue = Arc::new(InboxQueue::new(Seq::FIRST, None));
        let mut inbox = Inbox::new(queue.clone());
        assert!(matches!(inbox.need(true, false), Some(Need::Subscribe { from: Seq::FIRST, .. })));
        (inbox, Subscription::new(queue, &shared))
    }

    fn taken(reader: &mut Subscription) -> Vec<u64> {
        let count = reader.queue.len();
        (0..count).map(|_| reader.next().now_or_never().flatten().unwrap().unwrap().seq.get()).collect()
    }

    #[test]
    fn repetitions_are_dropped_and_a_gap_is_repaired() {
        let (mut inbox, mut reader) = subscribed();
        inbox.handle_entries(vec![entry(1, 0), entry(4, 1)]);
        inbox.handle_entries(vec![entry(4, 1), entry(5, 4), entry(9, 8)]);
        assert_eq!(taken(&mut reader), [1, 4, 5]);
        assert_eq!(inbox.need(true, true), Some(Need::Page { from: seq(6) }));
        assert_eq!(inbox.need(true, true), None, "asked once");
        inbox.handle_page(page(vec![entry(8, 5)], 9, true));
        assert_eq!(inbox.need(true, true), Some(Need::Page { from: seq(9) }));
        inbox.handle_page(page(vec![entry(9, 8)], 12, false));
        assert_eq!(taken(&mut reader), [8, 9]);
        assert!(matches!(inbox.need(true, true), Some(Need::Subscribe { from, .. }) if from == seq(12)));
    }

    #[test]
    fn a_lost_connection_goes_on_from_the_position() {
        let (mut inbox, _reader) = subscribed();
        inbox.handle_entries(vec![entry(1, 0)]);
        inbox.handle_lost();
        assert_eq!(inbox.need(false, false), None);
        assert!(matches!(inbox.need(true, false), Some(Need::Subscribe { from, .. }) if from == seq(2)));
    }

    #[test]
    fn a_subscription_that_is_refused_for_now_is_asked_for_again_from_the_position_and_not_before() {
        let (mut inbox, mut reader) = subscribed();
        let now = Instant::now();
        inbox.handle_entries(vec![entry(1, 0)]);
        for told in [0, 400] {
            inbox.handle_subscribe_refused(now, &Refusal::later(ErrorCode::Busy, "", told), true);
            let until = inbox.poll_timeout().unwrap();
            let pause = Duration::from_millis(u64::from(told)).max(SUBSCRIBE_PAUSE);
            assert!((pause..pause * 3 / 2).contains(&(until - now)), "{:?} after {told}", until - now);
            inbox.handle_timeout(until - Duration::from_millis(1));
            assert_eq!(inbox.need(true, false), None, "not before");
            inbox.handle_timeout(until);
            assert!(matches!(inbox.need(true, false), Some(Need::Subscribe { from, .. }) if from == seq(2)));
            assert_eq!(inbox.poll_timeout(), None);
        }
        inbox.handle_subscribe_refused(now, &Refusal::later(ErrorCode::Busy, "", 400), true);
        inbox.handle_lost();
        assert!(
            matches!(inbox.need(true, false), Some(Need::Subscribe { .. })),
            "another connection knows nothing of it"
        );
        inbox.handle_subscribe_refused(now, &Refusal::new(ErrorCode::Forbidden, ""), false);
        assert_eq!(inbox.need(true, false), None);
        assert_eq!(taken(&mut reader), [1]);
        let end = reader.next().now_or_never().unwrap().unwrap();
        assert!(matches!(end, Err(SubscriptionError::Refused(refusal)) if refusal.code == ErrorCode::Forbidden));
    }

    #[test]
    fn a_page_that_is_refused_for_good_ends_the_subscription_and_one_behind_the_tokens_end_does_not() {
        let now = Instant::now();
        let behind = || {
            let (mut inbox, reader) = subscribed();
            inbox.handle_lagging(seq(9));
            assert_eq!(inbox.need(true, false), Some(Need::Page { from: seq(1) }));
            (inbox, reader)
        };
        for code in [ErrorCode::Forbidden, ErrorCode::CursorAhead, ErrorCode::AuthFailed] {
            let (mut inbox, mut reader) = behind();
            inbox.handle_page_refused(now, &Refusal::new(code, ""));
            assert_eq!(inbox.need(true, false), None, "{code:?}");
            let end = reader.next().now_or_never().unwrap().unwrap();
            assert!(matches!(end, Err(SubscriptionError::Refused(refusal)) if refusal.code == code));
        }
        let (mut inbox, _reader) = behind();
        inbox.handle_page_refused(now, &Refusal::new(ErrorCode::Unavailable, ""));
        assert_eq!(inbox.need(true, false), Some(Need::Page { from: seq(1) }));
        inbox.handle_page_refused(now, &Refusal::new(ErrorCode::AuthExpired, ""));
        assert_eq!(inbox.need(true, false), None, "not on this connection, for now");
        inbox.handle_lost();
        assert!(matches!(inbox.need(true, false), Some(Need::Subscribe { from, .. }) if from == seq(1)));
    }

    #[test]
    fn credit_is_given_for_what_the_reader_took() {
        let (mut inbox, mut reader) = subscribed();
        inbox.handle_entries((1..=CREDIT_STEP).map(|place| entry(place, place - 1)).collect());
        assert_eq!(inbox.need(true, true), None, "nothing was taken");
        taken(&mut reader);
        assert_eq!(inbox.need(true, false), None, "there is no stream to credit");
        assert_eq!(inbox.need(true, true), Some(Need::Credit { entries: CREDIT_STEP }));
    }

    #[test]
    fn no_page_is_asked_for_while_the_reader_is_full() {
        let (mut inbox, mut reader) = subscribed();
        inbox.handle_entries((1..=WINDOW).map(|place| entry(place, place - 1)).collect());
        inbox.handle_lagging(seq(9_000));
        assert_eq!(inbox.need(true, true), None);
        taken(&mut reader);
        assert_eq!(inbox.need(true, true), Some(Need::Page { from: seq(WINDOW + 1) }));
    }

    #[test]
    fn a_reader_that_is_full_is_given_no_more_by_new_connections() {
        let (mut inbox, mut reader) = subscribed();
        inbox.handle_entries((1..=WINDOW).map(|place| entry(place, place - 1)).collect());
        for _ in 0..3 {
            inbox.handle_lost();
            assert_eq!(inbox.need(true, false), None, "the queue is full");
        }
        for _ in 0..CREDIT_STEP {
            assert!(reader.next().now_or_never().is_some());
        }
        let from = seq(WINDOW + 1);
        assert_eq!(inbox.need(true, false), Some(Need::Subscribe { from, cursor: None, credit: CREDIT_STEP }));
    }

    #[test]
    fn an_end_is_said_once() {
        let (mut inbox, mut reader) = subscribed();
        inbox.handle_entries(vec![entry(1, 0)]);
        inbox.handle_page(SyncPage { too_long: true, trim: seq(7), ..page(vec![], 9, false) });
        assert!(reader.next().now_or_never().unwrap().unwrap().is_ok());
        let end = reader.next().now_or_never().unwrap().unwrap();
        assert_eq!(end.unwrap_err(), SubscriptionError::TooLong { trim: seq(7) });
        assert!(reader.next().now_or_never().unwrap().is_none());
    }

    #[test]
    fn a_reader_that_is_gone_ends_it() {
        let (mut inbox, reader) = subscribed();
        drop(reader);
        assert_eq!(inbox.need(true, true), Some(Need::Unsubscribe));
        assert_eq!(inbox.need(true, true), None);
    }
}
