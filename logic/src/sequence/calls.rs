//! Calls: many requests of the sequence service on one stream, under one token.
//!
//! ```text
//! calls ──▶ quota ──▶ groups ──▶ brain ──┬─ answered ───────────────────────────────┬──▶ answers, many in a message
//!                    of a counter        └─ another holder, or silence ──▶ one hop ─┘
//! ```
//! One task owns a stream. The calls of a message that concern one counter are one request: a run for all of them, cut
//! into theirs. So a number costs little more than its bytes on the wire.
//!
//! # Invariants
//! I2: calls of one message are asked at the same time, so the order among them is free.
//! A stream ends without an error only when its caller has ended his side and every call was answered.
//!
//! # Failure
//! Numbers of a call whose stream ends are skipped, and given to nobody else. A caller that does not read holds up
//! himself: no more is read from him, and after [`DEADLINE`] the stream ends.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use parking_lot::Mutex;
use seriatim_logic_core::Ask;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::grpc::sequence::{Answer, CallsRequest, CallsResponse};
use seriatim_proto::ids::TenantId;
use seriatim_proto::logic::{CallError, GatewayResponse};
use seriatim_proto::token::Verified;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Status, Streaming};

use super::group::{Group, gather, is_for_the_sum, refused_call};
use super::{ATTEMPT, Asked, DEADLINE, SequenceDoor, Way};
use crate::brain::{Input, SessionInput};
use crate::clock;
use crate::metrics::Metrics;

/// Calls of one message at most, and calls that are not answered, or whose answers are not taken, at which no further
/// message is read.
const CALLS_MAX: usize = 4_096;
/// A message of as many calls with the longest names takes 344 KiB.
pub(crate) const MESSAGE_BYTES_MAX: usize = 512 << 10;
/// Streams of one node, and of one tenant at it.
const STREAMS_MAX: usize = 1_024;
const TENANT_STREAMS_MAX: usize = 128;
/// Requests of one stream that go elsewhere at a time; the others wait their turn.
const ELSEWHERE_MAX: usize = 32;
/// What the brain says to one stream and is not read yet: an answer for each call that may be open, and for those that
/// it was silent about for long. A stream that does not fit is dropped there.
const ANSWERS_MAX: usize = 4 * CALLS_MAX;
/// Messages that wait for a caller.
const MESSAGES_MAX: usize = 4;
/// Between two looks for calls that the brain is silent about.
const LOOK: Duration = Duration::from_millis(250);
/// What a stopping node gives to the calls that are open.
const STOP: Duration = Duration::from_secs(1);

/// The streams of a node.
#[derive(Clone)]
pub(super) struct Streams {
    tenants: Arc<Mutex<HashMap<TenantId, usize>>>,
    metrics: Metrics,
    stopping: watch::Receiver<bool>,
}

/// One of the streams that a node may have, given back when its task has ended, and its caller has taken the end or is
/// gone.
struct Seat {
    streams: Streams,
    tenant: TenantId,
}

/// What a caller is answered: messages, and then how the stream ended.
pub(crate) struct Answers {
    messages: mpsc::Receiver<CallsResponse>,
    /// a place of its own: messages that nobody reads are not in its way
    end: Option<oneshot::Receiver<Result<(), Status>>>,
    untaken: Arc<Untaken>,
    _seat: Arc<Seat>,
}

/// Answers on their way that the caller has not taken.
#[derive(Default)]
struct Untaken {
    count: AtomicUsize,
    /// There are fewer.
    fewer: Notify,
}

impl Streams {
    pub(super) fn new(metrics: Metrics, stopping: watch::Receiver<bool>) -> Self {
        Self { tenants: Arc::default(), metrics, stopping }
    }

    /// Takes a seat for one more.
    fn enter(&self, tenant: TenantId) -> Result<Seat, Refusal> {
        let busy = |whose: &str, max| {
            let text = format!("{whose} has {max} streams of calls, as many as it may");
            Refusal::later(ErrorCode::Busy, text, 1_000)
        };
        if *self.stopping.borrow() {
            return Err(stops());
        }
        let mut tenants = self.tenants.lock();
        if tenants.values().sum::<usize>() >= STREAMS_MAX {
            return Err(busy("this node", STREAMS_MAX));
        }
        let count = tenants.entry(tenant).or_insert(0);
        if *count >= TENANT_STREAMS_MAX {
            return Err(busy("the tenant", TENANT_STREAMS_MAX));
        }
        *count += 1;
        self.metrics.sequence_streams.inc();
        Ok(Seat { streams: self.clone(), tenant })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut tenants = self.streams.tenants.lock();
        if let Some(count) = tenants.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                tenants.remove(&self.tenant);
            }
        }
        self.streams.metrics.sequence_streams.dec();
    }
}

impl Stream for Answers {
    type Item = Result<CallsResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.messages.poll_recv(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Some(message)) => {
                self.untaken.count.fetch_sub(message.answers.len(), Ordering::Relaxed);
                self.untaken.fewer.notify_one();
                return Poll::Ready(Some(Ok(message)));
            }
            Poll::Ready(None) => {}
        }
        let Some(end) = self.end.as_mut() else { return Poll::Ready(None) };
        let Poll::Ready(ended) = Pin::new(end).poll(cx) else { return Poll::Pending };
        self.end = None;
        match ended {
            Ok(Ok(())) => Poll::Ready(None),
            Ok(Err(status)) => Poll::Ready(Some(Err(status))),
            Err(_) => Poll::Ready(Some(Err(Status::internal("the stream's task is gone")))),
        }
    }
}

/// Serves a caller's stream until it ends.
///
/// # Errors
/// The caller may not open one, or there is no room.
pub(super) fn serve(
    door: SequenceDoor,
    token: String,
    caller: Verified,
    requests: Streaming<CallsRequest>,
) -> Result<Answers, Refusal> {
    let standing = door.doors.standing.clone();
    if standing.borrow().is_none() {
        return Err(not_open());
    }
    // Opening costs what a request does.
    door.doors.within_quota(caller.tenant, &caller.user, Ask::Sequence)?;
    let seat = Arc::new(door.streams.enter(caller.tenant)?);
    let untaken = Arc::<Untaken>::default();
    let (answers, messages) = mpsc::channel(MESSAGES_MAX);
    let (end, ended) = oneshot::channel();
    let stream = door.doors.next_stream.fetch_add(1, Ordering::Relaxed);
    let calls = Calls {
        stopping: door.streams.stopping.clone(),
        door,
        token,
        caller,
        stream,
        standing,
        next_id: 0,
        open: HashMap::new(),
        open_calls: 0,
        elsewhere: JoinSet::new(),
        elsewhere_next: VecDeque::new(),
        elsewhere_calls: 0,
        ready: Vec::new(),
        untaken: untaken.clone(),
        unread_since: None,
        paused_until: None,
        _seat: seat.clone(),
    };
    tokio::spawn(calls.run(requests, answers, end));
    Ok(Answers { messages, end: Some(ended), untaken, _seat: seat })
}

/// One stream.
struct Calls {
    door: SequenceDoor,
    token: String,
    caller: Verified,
    /// at the brain
    stream: u64,
    standing: watch::Receiver<Option<crate::brain::Standing>>,
    stopping: watch::Receiver<bool>,
    next_id: u64,
    /// at the brain, by the ids that it knows
    open: HashMap<u64, Group>,
    open_calls: usize,
    /// those that this node's brain cannot answer
    elsewhere: JoinSet<Vec<Answer>>,
    /// What the brain said of each.
    elsewhere_next: VecDeque<(Group, CallError)>,
    /// calls of both
    elsewhere_calls: usize,
    /// to go out together
    ready: Vec<Answer>,
    untaken: Arc<Untaken>,
    /// since when there is no room for them
    unread_since: Option<Instant>,
    /// The tenant asks more often than it may: nothing is read until then.
    paused_until: Option<Instant>,
    _seat: Arc<Seat>,
}

/// The stream is over; `None`: its caller is gone.
struct Ended(Option<Result<(), Refusal>>);

impl Calls {
    async fn run(
        mut self,
        mut requests: Streaming<CallsRequest>,
        answers: mpsc::Sender<CallsResponse>,
        end: oneshot::Sender<Result<(), Status>>,
    ) {
        let Ended(how) = self.serve(&mut requests, &answers).await;
        // Who went away does not want to know. Nothing is said where nothing is known: an end that is not said is no OK.
        match how {
            Some(how) => drop(end.send(how.map_err(|refusal| self.door.refuse(refusal)))),
            None => drop(end),
        }
        drop(answers);
        // The brain ends only with the process.
        let _ = self.door.doors.brain.send(Input::CallerDown { stream: self.stream }).await;
    }

    async fn serve(&mut self, requests: &mut Streaming<CallsRequest>, answers: &mpsc::Sender<CallsResponse>) -> Ended {
        self.standing.mark_unchanged();
        let (responses, mut heard) = mpsc::channel(ANSWERS_MAX);
        if self.door.doors.brain.send(Input::CallerUp { stream: self.stream, responses }).await.is_err() {
            return Ended(Some(Err(stops())));
        }
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = Vec::new();
        let (mut is_read, mut is_deaf) = (false, false);
        let mut stopping = self.stopping.clone();
        let mut stop_at = None;
        loop {
            if self.ready.is_empty() && self.owed() == 0 {
                match (stop_at, is_read) {
                    (Some(_), _) => return Ended(Some(Err(stops()))),
                    (None, true) => return Ended(Some(Ok(()))),
                    (None, false) => {}
                }
            }
            let may_read = !is_read && stop_at.is_none() && self.paused_until.is_none();
            let untaken = self.untaken.count.load(Ordering::Relaxed);
            let has_room = self.owed() + self.ready.len() + untaken < CALLS_MAX;
            let paused_until = self.paused_until;
            tokio::select! {
                // What is there goes out before more is read: whoever waits longest is first.
                biased;
                permit = answers.reserve(), if !self.ready.is_empty() => {
                    let Ok(permit) = permit else { return Ended(None) };
                    let answers = std::mem::take(&mut self.ready);
                    self.untaken.count.fetch_add(answers.len(), Ordering::Relaxed);
                    permit.send(CallsResponse { answers });
                }
                count = heard.recv_many(&mut said, CALLS_MAX), if !is_deaf => {
                    if count == 0 {
                        // What went on to other nodes may still be answered.
                        is_deaf = *self.stopping.borrow() && self.open.is_empty();
                        if !is_deaf {
                            return Ended(Some(Err(self.deaf())));
                        }
                    }
                    for response in said.drain(..) {
                        if let Err(refusal) = self.hear(response).await {
                            return Ended(Some(Err(refusal)));
                        }
                    }
                }
                Some(answered) = self.elsewhere.join_next() => {
                    // A panic has ended the process.
                    let answered = answered.unwrap_or_default();
                    self.elsewhere_calls -= answered.len();
                    self.ready.extend(answered);
                    self.start_elsewhere();
                }
                () = self.untaken.fewer.notified() => self.unread_since = None,
                () = answers.closed() => return Ended(None),
                () = stopped(&mut stopping), if stop_at.is_none() => stop_at = Some(Instant::now() + STOP),
                changed = self.standing.changed(), if stop_at.is_none() => {
                    let refusal = if changed.is_ok() { another() } else { stops() };
                    return Ended(Some(Err(refusal)));
                }
                () = tokio::time::sleep_until(paused_until.unwrap_or_else(Instant::now)), if paused_until.is_some() => {
                    self.paused_until = None;
                }
                _ = look.tick() => {
                    if let Some(refusal) = self.look(stop_at) {
                        return Ended(Some(Err(refusal)));
                    }
                }
                request = requests.message(), if may_read && has_room => match request {
                    Ok(Some(request)) => {
                        if let Err(refusal) = self.take(request).await {
                            return Ended(Some(Err(refusal)));
                        }
                    }
                    // It has said everything, and wants its answers.
                    Ok(None) => is_read = true,
                    // The connection is gone, and the caller with it.
                    Err(status) if std::error::Error::source(&status).is_some() => return Ended(None),
                    Err(status) => {
                        let text = format!("a message that cannot be read: {}", status.message());
                        return Ended(Some(Err(Refusal::new(ErrorCode::Malformed, text))));
                    }
                },
            }
        }
    }

    /// The brain says nothing any more.
    fn deaf(&self) -> Refusal {
        match *self.stopping.borrow() {
            true => stops(),
            false => Refusal::later(ErrorCode::Unavailable, "the node did not keep up with the stream", 100),
        }
    }

    /// Calls without an answer.
    fn owed(&self) -> usize {
        self.open_calls + self.elsewhere_calls
    }

    /// Now and then: is the stream over, and what is the brain silent about?
    fn look(&mut self, stop_at: Option<Instant>) -> Option<Refusal> {
        if stop_at.is_some_and(|at| at <= Instant::now()) {
            return Some(stops());
        }
        if let Some(refusal) = self.token_ended() {
            return Some(refusal);
        }
        if !self.ready.is_empty() || self.untaken.count.load(Ordering::Relaxed) > 0 {
            let since = *self.unread_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= DEADLINE {
                return Some(Refusal::new(ErrorCode::Timeout, "the caller reads no answers"));
            }
        }
        // Their holder has lost its lease, or will.
        let silent = self.open.iter().filter(|(_, group)| group.since.elapsed() >= ATTEMPT).map(|(id, _)| *id);
        for id in silent.collect::<Vec<_>>() {
            if let Some(group) = self.close(id) {
                let silent = Refusal::new(ErrorCode::Timeout, "no answer in time");
                self.send_elsewhere(group, CallError::Refused(silent));
            }
        }
        None
    }

    fn token_ended(&self) -> Option<Refusal> {
        let has_ended = self.caller.expires_at_s.saturating_mul(1_000) <= clock::unix_ms();
        has_ended.then(|| Refusal::new(ErrorCode::AuthExpired, "the token has ended"))
    }

    /// Checks the calls of a message and passes them on together.
    async fn take(&mut self, request: CallsRequest) -> Result<(), Refusal> {
        if let Some(refusal) = self.token_ended() {
            return Err(refusal);
        }
        if request.calls.len() > CALLS_MAX {
            let text = format!("more than {CALLS_MAX} calls in one message");
            return Err(Refusal::new(ErrorCode::Malformed, text));
        }
        // Messages that are in memory already are read without a wait: others get their turn too.
        tokio::task::consume_budget().await;
        self.door.doors.stores.metrics.sequence_calls.inc_by(request.calls.len() as u64);
        // A message costs something even if there is nothing in it.
        let asked = request.calls.len().max(1);
        let (taken, over) = self.door.doors.counts_within_quota(self.caller.tenant, asked);
        let (granted, refused) = request.calls.split_at(taken.min(request.calls.len()));
        if let Some((refusal, pause)) = over {
            self.paused_until = Some(Instant::now() + pause);
            self.refuse(refused.iter().map(|call| call.id), &refusal);
        }
        let (groups, malformed) = gather(granted, Instant::now());
        for (id, refusal) in malformed {
            self.refuse([id].into_iter(), &refusal);
        }
        self.ask(groups).await
    }

    fn refuse(&mut self, ids: impl Iterator<Item = u64>, refusal: &Refusal) {
        let before = self.ready.len();
        self.ready.extend(ids.map(|id| refused_call(id, refusal)));
        self.door.doors.stores.metrics.refused_many(refusal.code, (self.ready.len() - before) as u64);
    }

    async fn ask(&mut self, groups: Vec<Group>) -> Result<(), Refusal> {
        if groups.is_empty() {
            return Ok(());
        }
        let tenant = self.caller.tenant;
        let mut inputs = Vec::with_capacity(groups.len());
        for group in groups {
            self.next_id += 1;
            let (counter, what) = (group.counter.clone(), group.what);
            inputs.push(SessionInput::Count { id: self.next_id, tenant, counter, what });
            self.open_calls += group.calls.len();
            self.open.insert(self.next_id, group);
        }
        let sent = self.door.doors.brain.send(Input::Sessions { stream: self.stream, inputs }).await;
        sent.map_err(|_| stops())
    }

    /// Takes a request out of those that the brain works on.
    fn close(&mut self, id: u64) -> Option<Group> {
        let group = self.open.remove(&id)?;
        self.open_calls -= group.calls.len();
        Some(group)
    }

    async fn hear(&mut self, response: GatewayResponse) -> Result<(), Refusal> {
        // Nothing else is said to callers.
        let GatewayResponse::Reply { id, result } = response else { return Ok(()) };
        // It was asked elsewhere since.
        let Some(group) = self.close(id) else { return Ok(()) };
        match result {
            Ok(reply) => match group.answers(&reply) {
                Ok(answers) => self.ready.extend(answers),
                Err(refusal) => self.refuse(group.calls.iter().map(|(id, _)| *id), &refusal),
            },
            Err(CallError::Refused(refusal)) if is_for_the_sum(refusal.code) && group.calls.len() > 1 => {
                self.ask(group.apart()).await?;
            }
            Err(CallError::Refused(refusal))
                if !matches!(refusal.code, ErrorCode::Unavailable | ErrorCode::Timeout) =>
            {
                self.refuse(group.calls.iter().map(|(id, _)| *id), &refusal);
            }
            Err(error) => self.send_elsewhere(group, error),
        }
        Ok(())
    }

    /// To the holder, wherever it is. `told`: what the brain said.
    fn send_elsewhere(&mut self, group: Group, told: CallError) {
        self.elsewhere_calls += group.calls.len();
        self.elsewhere_next.push_back((group, told));
        self.start_elsewhere();
    }

    fn start_elsewhere(&mut self) {
        while self.elsewhere.len() < ELSEWHERE_MAX
            && let Some((group, told)) = self.elsewhere_next.pop_front()
        {
            self.elsewhere.spawn(elsewhere(self.door.clone(), self.token.clone(), self.caller.tenant, group, told));
        }
    }
}

/// Asks the holder of a counter that is not here; every call is answered.
async fn elsewhere(door: SequenceDoor, token: String, tenant: TenantId, group: Group, told: CallError) -> Vec<Answer> {
    let mut answered = Vec::with_capacity(group.calls.len());
    let mut waiting = vec![(group, Some(told))];
    while let Some((group, told)) = waiting.pop() {
        let asked = Asked { token: &token, tenant, counter: &group.counter, what: group.what };
        let reply = door.answer(asked, told, group.since + DEADLINE, Way::Stream).await;
        let refusal = match reply.and_then(|reply| group.answers(&reply)) {
            Ok(answers) => {
                answered.extend(answers);
                continue;
            }
            Err(refusal) => refusal,
        };
        if is_for_the_sum(refusal.code) && group.calls.len() > 1 {
            waiting.extend(group.apart().into_iter().map(|group| (group, None)));
            continue;
        }
        door.doors.stores.metrics.refused_many(refusal.code, group.calls.len() as u64);
        answered.extend(group.calls.iter().map(|(id, _)| refused_call(*id, &refusal)));
    }
    answered
}

/// Until the node is told to stop, or is gone.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

fn stops() -> Refusal {
    Refusal::later(ErrorCode::Unavailable, "the node stops", 100)
}

fn another() -> Refusal {
    Refusal::later(ErrorCode::Unavailable, "the node is another one now", 100)
}

fn not_open() -> Refusal {
    Refusal::later(ErrorCode::Unavailable, "the node is not open", 100)
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;

    use super::*;

    fn streams() -> (watch::Sender<bool>, Streams) {
        let (stop, stopping) = watch::channel(false);
        let metrics = Metrics::register(&mut prometheus_client::registry::Registry::default());
        (stop, Streams::new(metrics, stopping))
    }

    #[tokio::test]
    async fn the_end_is_said_behind_messages_that_nobody_reads() {
        let (_stop, streams) = streams();
        let (answers, messages) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let (seat, untaken) = (Arc::new(streams.enter(TenantId(1)).unwrap()), Arc::<Untaken>::default());
        let mut read = Answers { messages, end: Some(ended), untaken: untaken.clone(), _seat: seat };
        untaken.count.store(3, Ordering::Relaxed);
        answers.try_send(CallsResponse { answers: vec![Answer::default(); 2] }).unwrap();
        assert!(answers.try_send(CallsResponse::default()).is_err(), "it is full");
        end.send(Err(Status::unavailable("the node stops"))).unwrap();
        drop(answers);
        assert!(read.next().await.unwrap().is_ok());
        assert_eq!(untaken.count.load(Ordering::Relaxed), 1, "what is taken makes room");
        assert_eq!(read.next().await.unwrap().unwrap_err().message(), "the node stops");
        assert!(read.next().await.is_none());
        assert_eq!(streams.metrics.sequence_streams.get(), 1);
        drop(read);
        assert_eq!(streams.metrics.sequence_streams.get(), 0);
    }

    #[tokio::test]
    async fn an_end_that_nobody_said_is_an_error() {
        for said in [Some(Ok(())), None] {
            let (_stop, streams) = streams();
            let (answers, messages) = mpsc::channel(1);
            let (end, ended) = oneshot::channel();
            let seat = Arc::new(streams.enter(TenantId(1)).unwrap());
            let mut read = Answers { messages, end: Some(ended), untaken: Arc::default(), _seat: seat };
            let is_said = said.is_some();
            match said {
                Some(how) => end.send(how).unwrap(),
                None => drop(end),
            }
            drop(answers);
            assert_eq!(read.next().await.is_none(), is_said);
        }
    }

    #[test]
    fn streams_are_bounded_by_node_and_by_tenant_and_none_is_opened_while_it_stops() {
        let (stop, streams) = streams();
        let mut seats: Vec<_> = (0..TENANT_STREAMS_MAX).map(|_| streams.enter(TenantId(1)).unwrap()).collect();
        assert_eq!(streams.enter(TenantId(1)).err().unwrap().code, ErrorCode::Busy);
        for place in 0..STREAMS_MAX - TENANT_STREAMS_MAX {
            seats.push(streams.enter(TenantId(2 + place as u32 / 100)).unwrap());
        }
        assert_eq!(streams.enter(TenantId(99)).err().unwrap().code, ErrorCode::Busy);
        seats.truncate(TENANT_STREAMS_MAX - 1);
        seats.push(streams.enter(TenantId(1)).unwrap());
        stop.send_replace(true);
        assert_eq!(streams.enter(TenantId(99)).err().unwrap().code, ErrorCode::Unavailable);
        drop(seats);
        assert!(streams.tenants.lock().is_empty());
    }
}
