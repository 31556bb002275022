//! Peer: a connection of a case, which waits for what it expects and says what came instead.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use seriatim_client::raw::{Raw, RawEvent, RawStream};
use seriatim_proto::error::{Certainty, ErrorCode, Retry};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};
use tokio::time::{Instant, timeout, timeout_at};

use super::scene::{Site, User};
use super::{End, Outcome, ensure, fail, same};

/// The control stream.
pub(super) const CONTROL: u64 = 0;
/// What came and nobody has looked for yet; above it the gateway says too much.
const ASIDE_MAX: usize = 10_000;
/// Shortest pause before an error with `retry` is asked again.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection.
pub(crate) struct Peer {
    raw: Raw,
    pub(super) user: User,
    pub(super) welcome: v1::Welcome,
    patience: Duration,
    aside: Vec<RawEvent>,
    last_id: u64,
    lane: Option<u64>,
}

/// A subscription and what it has brought.
pub(super) struct Inbox {
    pub(super) id: u64,
    pub(super) stream: RawStream,
    rest: VecDeque<v1::Entry>,
}

/// The stream that a request belongs on.
enum On {
    Control,
    Lane,
    Call,
}

fn stream_of(body: &Asked) -> On {
    match body {
        Asked::Hello(_)
        | Asked::Ping(_)
        | Asked::Subscribe(_)
        | Asked::Unsubscribe(_)
        | Asked::Credit(_)
        | Asked::Renew(_)
        | Asked::Ack(_) => On::Control,
        Asked::Send(_)
        | Asked::Amend(_)
        | Asked::QuerySend(_)
        | Asked::CancelSend(_)
        | Asked::CreateGroup(_)
        | Asked::ChangeMembers(_)
        | Asked::Mark(_)
        | Asked::Next(_)
        | Asked::Current(_) => On::Lane,
        Asked::Sync(_) | Asked::History(_) | Asked::List(_) | Asked::Status(_) => On::Call,
    }
}

fn closed_text(code: Option<u32>) -> String {
    code.map_or_else(|| "without a code of the protocol".to_owned(), |code| format!("with {code}"))
}

/// A frame with its length.
pub(super) fn frame(request_id: u64, body: Asked) -> BytesMut {
    let mut out = BytesMut::new();
    wire::encode_frame(&v1::ClientFrame { request_id, body: Some(body), ..Default::default() }, &mut out);
    out
}

/// 16 random bytes.
pub(super) fn new_id() -> Bytes {
    Bytes::copy_from_slice(&rand::random::<u128>().to_be_bytes())
}

/// A message, under a new id.
pub(super) fn message(to: &v1::Conversation, body: impl Into<Bytes>) -> v1::Send {
    v1::Send {
        message_id: new_id(),
        conversation: Some(to.clone()),
        salt: new_id(),
        body: body.into(),
        ..Default::default()
    }
}

/// An amendment, under a new id.
pub(super) fn amendment(to: &v1::Conversation, target: u64, act: v1::amend::Act) -> v1::Amend {
    v1::Amend { message_id: new_id(), conversation: Some(to.clone()), target, act: Some(act), ..Default::default() }
}

impl Peer {
    /// Connects, and says nothing.
    pub(super) async fn connect(site: &Site) -> Outcome<Self> {
        let raw = Box::pin(Raw::connect(&site.target, site.transport, site.patience)).await;
        let mut peer = Self {
            raw: raw.or_else(|error| fail(format!("expected a connection, came: {error}")))?,
            user: User { name: String::new(), tenant: 0, token: String::new() },
            welcome: v1::Welcome::default(),
            patience: site.patience,
            aside: Vec::new(),
            last_id: 0,
            lane: None,
        };
        let control = peer.open().await?;
        same("the number of the control stream", control, CONTROL)?;
        Ok(peer)
    }

    /// Says Hello, and waits for Welcome.
    pub(super) async fn greet(&mut self, user: User, device: &str) -> Outcome {
        let hello = v1::Hello { token: user.token.clone(), device: device.to_owned(), ..Default::default() };
        match self.ask(Asked::Hello(hello)).await? {
            Said::Welcome(welcome) => self.welcome = welcome,
            other => return fail(format!("expected Welcome, came {other:?}")),
        }
        self.user = user;
        Ok(())
    }

    async fn in_time<T>(patience: Duration, act: &str, work: impl Future<Output = T>) -> Outcome<T> {
        timeout(patience, work).await.or_else(|_| fail(format!("{act}: not within {} ms", patience.as_millis())))
    }

    /// A stream of its own.
    pub(super) async fn open(&mut self) -> Outcome<u64> {
        Self::in_time(self.patience, "open a stream", self.raw.open()).await
    }

    /// Whole frames, and perhaps the stream's end.
    pub(super) async fn write(&mut self, lane: u64, frames: &[u8], end: bool) -> Outcome {
        Self::in_time(self.patience, "write", self.raw.write(lane, frames, end)).await
    }

    /// Any bytes.
    pub(super) async fn write_bytes(&mut self, lane: u64, bytes: &[u8]) -> Outcome {
        Self::in_time(self.patience, "write", self.raw.write_bytes(lane, bytes)).await
    }

    /// A request's frame, on this stream; its request id.
    pub(super) async fn say(&mut self, lane: u64, body: Asked) -> Outcome<u64> {
        self.last_id += 1;
        self.write(lane, &frame(self.last_id, body), false).await?;
        Ok(self.last_id)
    }

    /// The lane of all requests that need none of their own.
    pub(super) async fn lane(&mut self) -> Outcome<u64> {
        match self.lane {
            Some(lane) => Ok(lane),
            None => {
                let lane = self.open().await?;
                self.lane = Some(lane);
                Ok(lane)
            }
        }
    }

    /// Asks on the stream that the request belongs on, and waits for the answer.
    async fn ask_once(&mut self, body: Asked) -> Outcome<Said> {
        let lane = match stream_of(&body) {
            On::Control => CONTROL,
            On::Lane => self.lane().await?,
            On::Call => {
                let call = self.open().await?;
                self.last_id += 1;
                let id = self.last_id;
                self.write(call, &frame(id, body), true).await?;
                let said = self.answer(call, id).await?;
                self.ended(RawStream::Lane(call)).await?;
                return Ok(said);
            }
        };
        let id = self.say(lane, body).await?;
        self.answer(lane, id).await
    }

    /// Asks, and again where an error says that this is to be done, but for those that are `wanted`.
    async fn ask_for(&mut self, body: Asked, wanted: Option<ErrorCode>) -> Outcome<Said> {
        let deadline = Instant::now() + self.patience;
        loop {
            let said = self.ask_once(body.clone()).await?;
            match &said {
                Said::Error(error)
                    if error.retry && wanted.is_none_or(|code| error.code != u32::from(code.number())) =>
                {
                    let pause = PAUSE.max(Duration::from_millis(u64::from(error.retry_after_ms)));
                    if Instant::now() + pause > deadline {
                        return Ok(said);
                    }
                    tokio::time::sleep(pause).await;
                }
                _ => return Ok(said),
            }
        }
    }

    /// The answer to a request.
    pub(super) async fn ask(&mut self, body: Asked) -> Outcome<Said> {
        self.ask_for(body, None).await
    }

    /// The refusal of a request: the code, and its flags as the page of errors has them.
    pub(super) async fn refused(&mut self, body: Asked, code: ErrorCode) -> Outcome<v1::Error> {
        match self.ask_for(body, Some(code)).await? {
            Said::Error(error) => {
                is_error(&error, code)?;
                Ok(error)
            }
            other => fail(format!("expected {}, came {other:?}", code.name())),
        }
    }

    /// The place of what was sent.
    pub(super) async fn committed(&mut self, body: Asked) -> Outcome<v1::Committed> {
        match self.ask(body).await? {
            Said::Committed(committed) => {
                ensure(committed.seq > 0, "a place above 0", committed)?;
                Ok(committed)
            }
            other => fail(format!("expected Committed, came {other:?}")),
        }
    }

    /// Sends a text.
    pub(super) async fn send(&mut self, to: &v1::Conversation, text: &str) -> Outcome<u64> {
        Ok(self.committed(Asked::Send(message(to, text.to_owned()))).await?.seq)
    }

    /// Amends a message.
    pub(super) async fn amend(&mut self, to: &v1::Conversation, target: u64, act: v1::amend::Act) -> Outcome<u64> {
        Ok(self.committed(Asked::Amend(amendment(to, target, act))).await?.seq)
    }

    /// What became of a send.
    pub(super) async fn status_of(&mut self, body: Asked) -> Outcome<(v1::send_status::State, u64)> {
        match self.ask(body).await? {
            Said::SendStatus(status) => Ok((status.state(), status.seq)),
            other => fail(format!("expected SendStatus, came {other:?}")),
        }
    }

    /// A page of the inbox.
    pub(super) async fn sync(&mut self, from: u64, limit: u32) -> Outcome<v1::SyncPage> {
        match self.ask(Asked::Sync(v1::Sync { from, limit })).await? {
            Said::SyncPage(page) => Ok(page),
            other => fail(format!("expected SyncPage, came {other:?}")),
        }
    }

    /// A page of a conversation.
    pub(super) async fn history(&mut self, of: &v1::Conversation, from: u64, limit: u32) -> Outcome<v1::HistoryPage> {
        match self.ask(Asked::History(v1::History { conversation: Some(of.clone()), from, limit })).await? {
            Said::HistoryPage(page) => Ok(page),
            other => fail(format!("expected HistoryPage, came {other:?}")),
        }
    }

    /// Where the inbox stands.
    pub(super) async fn status(&mut self) -> Outcome<v1::StatusPage> {
        match self.ask(Asked::Status(v1::Status {})).await? {
            Said::StatusPage(page) => Ok(page),
            other => fail(format!("expected StatusPage, came {other:?}")),
        }
    }

    /// A page of the user's conversations.
    pub(super) async fn list(&mut self, after: Option<v1::Conversation>, limit: u32) -> Outcome<v1::ListPage> {
        match self.ask(Asked::List(v1::List { after, limit })).await? {
            Said::ListPage(page) => Ok(page),
            other => fail(format!("expected ListPage, came {other:?}")),
        }
    }

    /// What a mark makes of the conversation.
    pub(super) async fn mark(&mut self, of: &v1::Conversation, what: v1::mark::What) -> Outcome<v1::Listed> {
        match self.ask(Asked::Mark(v1::Mark { conversation: Some(of.clone()), what: Some(what) })).await? {
            Said::Marked(v1::Marked { now: Some(now) }) => Ok(now),
            other => fail(format!("expected Marked, came {other:?}")),
        }
    }

    /// The session goes on: Ping is answered.
    pub(super) async fn is_alive(&mut self) -> Outcome {
        let nonce = rand::random();
        let said = self.ask(Asked::Ping(v1::Ping { nonce })).await?;
        same("the answer to Ping", said, Said::Pong(v1::Pong { nonce }))
    }

    /// A subscription, once its stream has begun.
    pub(super) async fn subscribe(&mut self, from: u64, credit: u64) -> Outcome<Inbox> {
        let id = match self.ask(Asked::Subscribe(v1::Subscribe { from, cursor: 0, credit })).await? {
            Said::Subscribed(subscribed) => subscribed.subscription_id,
            other => return fail(format!("expected Subscribed, came {other:?}")),
        };
        let begun = self.find("the inbox stream's StreamHeader", |event| match event {
            RawEvent::Frame(stream @ RawStream::Inbox(_), frame) => match &frame.body {
                Some(Said::StreamHeader(header)) if header.subscription_id == id => Some((*stream, header.clone())),
                _ => None,
            },
            _ => None,
        });
        let (stream, header) = begun.await?;
        same("user and position of StreamHeader", (header.user, header.from), (self.user.name.clone(), from))?;
        Ok(Inbox { id, stream, rest: VecDeque::new() })
    }

    /// The next frame of an inbox stream.
    pub(super) async fn pushed(&mut self, stream: RawStream) -> Outcome<Said> {
        let next = self.find("a frame on the inbox stream", |event| match event {
            RawEvent::Frame(from, frame) if *from == stream => Some(Some(frame.body.clone())),
            RawEvent::End(from) if *from == stream => Some(None),
            _ => None,
        });
        match next.await? {
            Some(Some(body)) => Ok(body),
            Some(None) => fail("a frame without a body on the inbox stream"),
            None => fail("expected a frame on the inbox stream, came its end"),
        }
    }

    /// The next entries of a subscription.
    pub(super) async fn entries(&mut self, inbox: &mut Inbox, count: usize) -> Outcome<Vec<v1::Entry>> {
        while inbox.rest.len() < count {
            match self.pushed(inbox.stream).await {
                Ok(Said::Deliver(deliver)) => inbox.rest.extend(deliver.entries),
                Ok(Said::Lagging(_)) => {}
                Ok(other) => return fail(format!("expected entries, came {other:?}")),
                Err(End::Failed(words)) => {
                    return fail(format!("{} of {count} entries, then: {words}", inbox.rest.len()));
                }
                Err(skipped) => return Err(skipped),
            }
        }
        Ok(inbox.rest.drain(..count).collect())
    }

    /// The first entries of the inbox, once they are there.
    pub(super) async fn first_entries(&mut self, count: usize) -> Outcome<Vec<v1::Entry>> {
        let mut inbox = self.subscribe(1, 0).await?;
        self.entries(&mut inbox, count).await
    }

    /// The answer on a stream.
    pub(super) async fn answer(&mut self, lane: u64, request_id: u64) -> Outcome<Said> {
        let what = format!("the answer to request {request_id}");
        let said = self.find(&what, |event| match event {
            RawEvent::Frame(stream, frame) if frame.request_id == request_id => Some((*stream, frame.body.clone())),
            RawEvent::End(stream) if *stream == RawStream::Lane(lane) => Some((*stream, None)),
            _ => None,
        });
        let (stream, body) = said.await?;
        same("the stream of the answer", stream, RawStream::Lane(lane))?;
        body.map_or_else(|| fail("expected an answer, came the end of its stream"), Ok)
    }

    /// The next frame of a stream of one's own, whatever it answers.
    pub(super) async fn next_on(&mut self, lane: u64) -> Outcome<(u64, Said)> {
        let next = self.find("a frame", |event| match event {
            RawEvent::Frame(stream, frame) if *stream == RawStream::Lane(lane) => {
                Some((frame.request_id, frame.body.clone()))
            }
            _ => None,
        });
        match next.await? {
            (id, Some(body)) => Ok((id, body)),
            (id, None) => fail(format!("a frame without a body, of request {id}")),
        }
    }

    /// The gateway has finished the stream.
    pub(super) async fn ended(&mut self, stream: RawStream) -> Outcome {
        self.find("the end of the stream", |event| (*event == RawEvent::End(stream)).then_some(())).await
    }

    /// The gateway ends the connection, with the close code of `code`.
    pub(super) async fn closes(&mut self, code: ErrorCode) -> Outcome {
        let closed = self.find("the end of the connection", |event| match event {
            RawEvent::Closed(code) => Some(*code),
            _ => None,
        });
        let (came, expected) = (closed.await?, Some(code.close_code()));
        if came == expected {
            return Ok(());
        }
        fail(format!(
            "expected the connection closed {} ({}), came {}",
            closed_text(expected),
            code.name(),
            closed_text(came)
        ))
    }

    /// The first event that is wanted, in time; the others stay.
    async fn find<T>(&mut self, what: &str, mut wanted: impl FnMut(&RawEvent) -> Option<T>) -> Outcome<T> {
        let passed = self.aside.iter().enumerate();
        let found = passed.filter_map(|(place, event)| wanted(event).map(|found| (place, found))).next();
        if let Some((place, found)) = found {
            self.aside.remove(place);
            return Ok(found);
        }
        let deadline = Instant::now() + self.patience;
        loop {
            let closed = self.aside.iter().find_map(|event| match event {
                RawEvent::Closed(code) => Some(*code),
                _ => None,
            });
            if let Some(code) = closed {
                return fail(format!("expected {what}, came the connection's end {}", closed_text(code)));
            }
            let event = match timeout_at(deadline, self.raw.next()).await {
                Ok(Some(event)) => event,
                Ok(None) => return fail(format!("expected {what}, came the connection's end")),
                Err(_) => {
                    return fail(format!("expected {what}, came nothing within {} ms", self.patience.as_millis()));
                }
            };
            if let Some(found) = wanted(&event) {
                return Ok(found);
            }
            if let RawEvent::Broken(words) = event {
                return fail(format!("expected {what}, came {words}"));
            }
            if self.aside.len() >= ASIDE_MAX {
                return fail(format!("expected {what}, came more than {ASIDE_MAX} other frames"));
            }
            self.aside.push(event);
        }
    }
}

/// An error is the one of the page, with the flags that the page gives it.
pub(super) fn is_error(error: &v1::Error, code: ErrorCode) -> Outcome {
    let came = (error.code, error.name.as_str(), error.retry, error.unknown);
    let (retry, unknown) = (code.retry() != Retry::Never, code.certainty() == Certainty::Unknown);
    same("code, name, retry and unknown of the error", came, (u32::from(code.number()), code.name(), retry, unknown))
}
