//! Client: the handle of a device: what it can ask.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{ConversationKey, CounterName, Emoji, MessageId, Seq, UserId};
use seriatim_proto::limits;
use seriatim_proto::logic::Amendment;
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::builder::ClientBuilder;
use crate::entry::{
    Committed, Conversation, HistoryPage, Identity, ListPage, Listed, Numbers, SendStatus, StatusPage, SyncPage,
};
use crate::error::{EntryError, RequestError};
use crate::inbox::{InboxQueue, Subscription};
use crate::pilot::places;
use crate::requests::{NewRequest, SendPlace, Way};
use crate::shared::{Shared, Wish};

/// A device of a user. Cheap to clone; the connection ends with the last clone.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
    request_timeout: Duration,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client({:?})", self.identity())
    }
}

/// A message to send. The same value may be sent again after an unknown outcome: it stays the same message.
#[derive(Clone, PartialEq, Eq)]
pub struct SendRequest {
    /// idempotency key, UUIDv7
    pub message_id: MessageId,
    /// where to
    pub to: Conversation,
    /// of the body's hash, at most 32 bytes
    pub salt: Bytes,
    /// opaque, at most 64 KiB
    pub body: Bytes,
    /// a message of this sender that must be settled before; by itself, the client names its last open send
    pub follows: Option<MessageId>,
    /// the conversation's tail known before the first attempt; see [`Client::prepare`]
    pub known: Option<Seq>,
}

impl fmt::Debug for SendRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendRequest({} to {:?}, {} bytes)", self.message_id, self.to, self.body.len())
    }
}

impl SendRequest {
    /// A new message with an id and a salt of its own, from a device that knows nothing of the conversation.
    pub fn new(to: Conversation, body: impl Into<Bytes>) -> Self {
        let salt: [u8; 16] = rand::random();
        Self {
            message_id: new_message_id(),
            to,
            salt: Bytes::copy_from_slice(&salt),
            body: body.into(),
            follows: None,
            known: None,
        }
    }
}

/// An amendment to send: an entry about an earlier message. The same value may be sent again after an unknown outcome.
#[derive(Clone, PartialEq, Eq)]
pub struct AmendRequest {
    /// idempotency key, UUIDv7; [`Client::query_send`] and [`Client::cancel_send`] know it too
    pub message_id: MessageId,
    /// where the message is
    pub conversation: Conversation,
    /// its `conversation_seq`
    pub target: Seq,
    /// what about it
    pub amendment: Amendment,
    /// as in [`SendRequest::follows`]
    pub follows: Option<MessageId>,
    /// as in [`SendRequest::known`]
    pub known: Option<Seq>,
}

impl fmt::Debug for AmendRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AmendRequest({} of {} in {:?})", self.message_id, self.target, self.conversation)
    }
}

impl AmendRequest {
    /// A new amendment with an id of its own.
    pub fn new(conversation: Conversation, target: Seq, amendment: Amendment) -> Self {
        Self { message_id: new_message_id(), conversation, target, amendment, follows: None, known: None }
    }
    /// Another body for the message, with a salt of its own.
    pub fn edit(conversation: Conversation, target: Seq, body: impl Into<Bytes>) -> Self {
        let salt: [u8; 16] = rand::random();
        let salt = Bytes::copy_from_slice(&salt);
        Self::new(conversation, target, Amendment::Edit { salt, body: body.into() })
    }
}

fn new_message_id() -> MessageId {
    MessageId(Uuid::now_v7().into_bytes())
}

/// A send that is under way.
#[derive(Debug)]
pub struct Ticket {
    answer: oneshot::Receiver<Result<Said, RequestError>>,
    shared: Arc<Shared>,
    conversation: Conversation,
}

impl Ticket {
    /// Waits for its end.
    pub async fn outcome(self) -> Result<Committed, RequestError> {
        let committed = committed(wait(self.answer).await?)?;
        self.shared.saw(std::iter::once((&self.conversation, committed.seq)));
        Ok(committed)
    }
}

impl Client {
    /// A client of the gateway at `address`, whose certificate must be for `server_name`.
    pub fn builder(address: SocketAddr, server_name: &str) -> ClientBuilder {
        ClientBuilder::new(address, server_name)
    }

    pub(crate) fn new(shared: Arc<Shared>, request_timeout: Duration) -> Self {
        Self { handle: Arc::new(Handle { shared, request_timeout }) }
    }

    /// Who the gateway takes this client for.
    pub fn identity(&self) -> Option<Identity> {
        self.handle.shared.identity.lock().clone()
    }

    /// Connections made so far: 1 and one for each reconnect.
    pub fn connections(&self) -> u64 {
        self.handle.shared.connections()
    }

    /// Sends a new message, retrying under one message id.
    pub async fn send(&self, to: Conversation, body: impl Into<Bytes>) -> Result<Committed, RequestError> {
        self.send_request(self.prepare(to, body)).await
    }

    /// A new message that names what this client has seen of the conversation: what is needed to send it again
    /// much later.
    pub fn prepare(&self, to: Conversation, body: impl Into<Bytes>) -> SendRequest {
        let known = self.handle.shared.known(&to);
        SendRequest { known, ..SendRequest::new(to, body) }
    }

    /// Sends a message, retrying under its message id.
    pub async fn send_request(&self, request: SendRequest) -> Result<Committed, RequestError> {
        self.submit(request).await?.outcome().await
    }

    /// Puts a message on its way and does not wait for its end. Messages submitted one after another to the same
    /// conversation take their places in this order. Waits while too many requests are open.
    pub async fn submit(&self, request: SendRequest) -> Result<Ticket, RequestError> {
        let SendRequest { message_id, to, salt, body, follows, known } = request;
        check_length(&body)?;
        let send = v1::Send {
            message_id: id_bytes(&message_id),
            conversation: Some(to.to_wire()),
            salt,
            body,
            known: wire::seq_to_wire(known),
            follows: follows.as_ref().map_or_else(Bytes::new, id_bytes),
        };
        let place = SendPlace { conversation: to, message_id };
        let answer = self.ask(Way::Lane, Asked::Send(send), Some(place.clone())).await?;
        Ok(Ticket { answer, shared: self.handle.shared.clone(), conversation: place.conversation })
    }

    /// Puts an amendment on its way, in the order of the messages and amendments submitted to the conversation.
    ///
    /// # Errors
    /// What the ticket says: `NOT_FOUND` if the target is no message that this user was given, `NOT_AUTHOR` if another
    /// one wrote what is to be edited or recalled, `RECALLED`, `TOO_LATE` beyond the tenant's time for it, and
    /// `AMENDMENTS_TOO_MANY`.
    pub async fn submit_amendment(&self, request: AmendRequest) -> Result<Ticket, RequestError> {
        let AmendRequest { message_id, conversation, target, amendment, follows, known } = request;
        let act = match amendment {
            Amendment::Edit { salt, body } => {
                check_length(&body)?;
                v1::amend::Act::Edit(v1::Edit { salt, body })
            }
            Amendment::Recall => v1::amend::Act::Recall(v1::Recall {}),
            Amendment::React { emoji, set } => {
                v1::amend::Act::React(v1::React { emoji: emoji.as_str().to_owned(), unset: !set })
            }
            Amendment::Pin { set } => v1::amend::Act::Pin(v1::Pin { unset: !set }),
        };
        let amend = v1::Amend {
            message_id: id_bytes(&message_id),
            conversation: Some(conversation.to_wire()),
            target: target.get(),
            known: wire::seq_to_wire(known),
            follows: follows.as_ref().map_or_else(Bytes::new, id_bytes),
            act: Some(act),
        };
        let place = SendPlace { conversation: conversation.clone(), message_id };
        let answer = self.ask(Way::Lane, Asked::Amend(amend), Some(place)).await?;
        Ok(Ticket { answer, shared: self.handle.shared.clone(), conversation })
    }

    /// Sends an amendment, retrying under its message id.
    ///
    /// # Errors
    /// As [`Self::submit_amendment`].
    pub async fn amend(&self, request: AmendRequest) -> Result<Committed, RequestError> {
        let known = request.known.or_else(|| self.handle.shared.known(&request.conversation));
        self.submit_amendment(AmendRequest { known, ..request }).await?.outcome().await
    }

    /// Gives a message of this user's own another body. Edits take their place in the conversation: the last one holds.
    ///
    /// # Errors
    /// As [`Self::submit_amendment`].
    pub async fn edit(
        &self,
        conversation: &Conversation,
        target: Seq,
        body: impl Into<Bytes>,
    ) -> Result<Committed, RequestError> {
        self.amend(AmendRequest::edit(conversation.clone(), target, body)).await
    }

    /// Recalls a message of this user's own: its body and those of its edits are erased, for everybody and for good.
    ///
    /// # Errors
    /// As [`Self::submit_amendment`].
    pub async fn recall(&self, conversation: &Conversation, target: Seq) -> Result<Committed, RequestError> {
        self.amend(AmendRequest::new(conversation.clone(), target, Amendment::Recall)).await
    }

    /// Sets a reaction of this user to a message. Set again, it changes nothing.
    ///
    /// # Errors
    /// As [`Self::submit_amendment`].
    pub async fn react(
        &self,
        conversation: &Conversation,
        target: Seq,
        emoji: &Emoji,
    ) -> Result<Committed, RequestError> {
        let amendment = Amendment::React { emoji: emoji.clone(), set: true };
        self.amend(AmendRequest::new(conversation.clone(), target, amendment)).await
    }

    /// Takes a reaction of this user back. Taken back again, it changes nothing.
    ///
    /// # Errors
    /// As [`Self::submit_amendment`].
    pub async fn unreact(
        &self,
        conversation: &Conversation,
        target: Seq,
        emoji: &Emoji,
    ) -> Result<Committed, RequestError> {
        let amendment = Amendment::React { emoji: emoji.clone(), set: false };
        self.amend(AmendRequest::new(conversation.clone(), target, amendment)).await
    }

    /// Pins a message for all members.
    ///
    /// # Errors
    /// As [`Self::submit_amendment`].
    pub async fn pin(&self, conversation: &Conversation, target: Seq) -> Result<Committed, RequestError> {
        self.amend(AmendRequest::new(conversation.clone(), target, Amendment::Pin { set: true })).await
    }

    /// Unpins a message, whoever pinned it.
    ///
    /// # Errors
    /// As [`Self::submit_amendment`].
    pub async fn unpin(&self, conversation: &Conversation, target: Seq) -> Result<Committed, RequestError> {
        self.amend(AmendRequest::new(conversation.clone(), target, Amendment::Pin { set: false })).await
    }

    /// Creates a group of this user and `members`.
    pub async fn create_group(&self, group: ConversationKey, members: &[UserId]) -> Result<Committed, RequestError> {
        self.create_group_as(new_message_id(), group, members).await
    }

    /// As [`Client::create_group`], under a message id of one's own: may be called again after an unknown outcome.
    pub async fn create_group_as(
        &self,
        message_id: MessageId,
        group: ConversationKey,
        members: &[UserId],
    ) -> Result<Committed, RequestError> {
        let create = v1::CreateGroup {
            message_id: id_bytes(&message_id),
            group: Bytes::copy_from_slice(&group.0),
            members: names(members),
        };
        let committed = committed(wait(self.ask(Way::Lane, Asked::CreateGroup(create), None).await?).await?)?;
        self.handle.shared.saw(std::iter::once((&Conversation::Group(group), committed.seq)));
        Ok(committed)
    }

    /// Adds and removes members of a group. It knows as much of the group as this client has seen, as
    /// [`Client::prepare`] does.
    pub async fn change_members(
        &self,
        group: ConversationKey,
        add: &[UserId],
        remove: &[UserId],
    ) -> Result<Committed, RequestError> {
        let conversation = Conversation::Group(group);
        let change = v1::ChangeMembers {
            message_id: id_bytes(&new_message_id()),
            conversation: Some(conversation.to_wire()),
            add: names(add),
            remove: names(remove),
            known: wire::seq_to_wire(self.handle.shared.known(&conversation)),
        };
        let committed = committed(wait(self.ask(Way::Lane, Asked::ChangeMembers(change), None).await?).await?)?;
        self.handle.shared.saw(std::iter::once((&conversation, committed.seq)));
        Ok(committed)
    }

    /// Says that everything of a conversation up to this entry of the inbox is read, for all devices of the user. A
    /// mark only rises: a lower one changes nothing. Messages of one's own count as unread until they are marked, too.
    ///
    /// # Errors
    /// `NOT_FOUND` if the entry is none of this conversation.
    pub async fn mark_read(&self, conversation: &Conversation, upto: Seq) -> Result<Listed, RequestError> {
        self.mark(conversation, v1::mark::What::ReadUpto(upto.get())).await
    }

    /// Says for all devices of the user whether he wants to be disturbed by a conversation.
    ///
    /// # Errors
    /// `NOT_FOUND` if the user has no such conversation.
    pub async fn mute(&self, conversation: &Conversation, on: bool) -> Result<Listed, RequestError> {
        self.mark(conversation, v1::mark::What::Muted(on)).await
    }

    /// Says for all devices of the user whether he wants to see a conversation.
    ///
    /// # Errors
    /// `NOT_FOUND` if the user has no such conversation.
    pub async fn archive(&self, conversation: &Conversation, on: bool) -> Result<Listed, RequestError> {
        self.mark(conversation, v1::mark::What::Archived(on)).await
    }

    async fn mark(&self, conversation: &Conversation, what: v1::mark::What) -> Result<Listed, RequestError> {
        let mark = v1::Mark { conversation: Some(conversation.to_wire()), what: Some(what) };
        match wait(self.ask(Way::Lane, Asked::Mark(mark), None).await?).await? {
            Said::Marked(v1::Marked { now: Some(listed) }) => Listed::from_wire(listed).map_err(|error| broken(&error)),
            _ => Err(unexpected()),
        }
    }

    /// A page of the user's conversations behind `after`, `None` from the first one, with what is not read of each and
    /// of all; `limit` 0 takes the server's.
    pub async fn list(&self, after: Option<&Conversation>, limit: u32) -> Result<ListPage, RequestError> {
        let list = v1::List { after: after.map(Conversation::to_wire), limit };
        match wait(self.ask(Way::Call, Asked::List(list), None).await?).await? {
            Said::ListPage(page) => {
                let page = ListPage::from_wire(page).map_err(|error| broken(&error))?;
                self.handle.shared.saw(page.list.iter().map(|listed| (&listed.conversation, listed.last)));
                Ok(page)
            }
            _ => Err(unexpected()),
        }
    }

    /// What became of a send.
    pub async fn query_send(
        &self,
        to: &Conversation,
        message_id: MessageId,
        known: Option<Seq>,
    ) -> Result<SendStatus, RequestError> {
        let query = v1::QuerySend {
            message_id: id_bytes(&message_id),
            conversation: Some(to.to_wire()),
            known: wire::seq_to_wire(known),
        };
        send_status(wait(self.ask(Way::Lane, Asked::QuerySend(query), None).await?).await?)
    }

    /// Settles a send: if its message is not in the conversation, it never will be, and every attempt of it is
    /// refused with `CANCELLED`. `known` is what the send said ([`SendRequest::known`]). Answers what is true from now
    /// on: [`SendStatus::Committed`] if the message was faster, [`SendStatus::Cancelled`], or [`SendStatus::Expired`] if
    /// it is too long ago to be known; never [`SendStatus::NotYet`]. May be asked again.
    pub async fn cancel_send(
        &self,
        to: &Conversation,
        message_id: MessageId,
        known: Option<Seq>,
    ) -> Result<SendStatus, RequestError> {
        let cancel = v1::CancelSend {
            message_id: id_bytes(&message_id),
            conversation: Some(to.to_wire()),
            known: wire::seq_to_wire(known),
        };
        send_status(wait(self.ask(Way::Lane, Asked::CancelSend(cancel), None).await?).await?)
    }

    /// A page of the inbox from a position on, `None` from the first kept entry; `limit` 0 takes the server's.
    pub async fn sync(&self, from: Option<Seq>, limit: u32) -> Result<SyncPage, RequestError> {
        let sync = v1::Sync { from: wire::seq_to_wire(from), limit };
        match wait(self.ask(Way::Call, Asked::Sync(sync), None).await?).await? {
            Said::SyncPage(page) => {
                let page = SyncPage::from_wire(page).map_err(|error| broken(&error))?;
                self.handle.shared.saw(places(&page.entries));
                Ok(page)
            }
            _ => Err(unexpected()),
        }
    }

    /// A page of a conversation from a position on, `None` from the first kept entry. What is sent there afterwards says
    /// that this client knows of it ([`SendRequest::known`]): whoever knows less of a conversation than was trimmed is
    /// refused with `EXPIRED`.
    pub async fn history(
        &self,
        conversation: &Conversation,
        from: Option<Seq>,
        limit: u32,
    ) -> Result<HistoryPage, RequestError> {
        let history = v1::History { conversation: Some(conversation.to_wire()), from: wire::seq_to_wire(from), limit };
        match wait(self.ask(Way::Call, Asked::History(history), None).await?).await? {
            Said::HistoryPage(page) => {
                let page = HistoryPage::from_wire(page).map_err(|error| broken(&error))?;
                // From its start, the end of a page is a place of the conversation, also if nothing of it is kept.
                let last = page.upto.previous().filter(|_| from.is_none() || !page.entries.is_empty());
                self.handle.shared.saw(last.map(|last| (conversation, last)).into_iter());
                Ok(page)
            }
            _ => Err(unexpected()),
        }
    }

    /// Where the inbox and its devices stand.
    pub async fn status(&self) -> Result<StatusPage, RequestError> {
        match wait(self.ask(Way::Call, Asked::Status(v1::Status {}), None).await?).await? {
            Said::StatusPage(page) => StatusPage::from_wire(page).map_err(|error| broken(&error)),
            _ => Err(unexpected()),
        }
    }

    /// Takes `count` numbers of a counter of the tenant: nobody else gets them, ever. The token needs the scope
    /// `sequence`. Repeated until answered: numbers may be skipped, none is given twice.
    ///
    /// # Errors
    /// `COUNT_TOO_LARGE` beyond [`seriatim_proto::limits::NEXT_NUMBERS_MAX`], `FORBIDDEN` without the scope,
    /// `QUOTA_EXCEEDED` when the tenant asks too often for too long, `GENERATION_EXHAUSTED` at a counter's end.
    pub async fn next_numbers(&self, counter: &CounterName, count: u32) -> Result<Numbers, RequestError> {
        let next = v1::Next { counter: counter.as_str().to_owned(), count };
        match wait(self.ask(Way::Lane, Asked::Next(next), None).await?).await? {
            Said::Numbers(numbers) => Numbers::from_wire(&numbers).map_err(|error| broken(&error)),
            _ => Err(unexpected()),
        }
    }

    /// Where a counter stands: every number that was answered before this call is below, none that is asked for after
    /// it returned is.
    ///
    /// # Errors
    /// As [`Self::next_numbers`].
    pub async fn current_number(&self, counter: &CounterName) -> Result<Seq, RequestError> {
        let current = v1::Current { counter: counter.as_str().to_owned() };
        match wait(self.ask(Way::Lane, Asked::Current(current), None).await?).await? {
            Said::CurrentNumber(current) => Seq::new(current.number).ok_or_else(|| broken(&EntryError("number"))),
            _ => Err(unexpected()),
        }
    }

    /// Says that everything below `cursor` is stored on this device; answers the durable cursor.
    pub async fn ack(&self, cursor: Seq) -> Result<Seq, RequestError> {
        let ack = v1::Ack { cursor: cursor.get() };
        match wait(self.ask(Way::Control, Asked::Ack(ack), None).await?).await? {
            Said::Acked(acked) => Seq::new(acked.cursor).ok_or_else(|| broken(&EntryError("cursor"))),
            _ => Err(unexpected()),
        }
    }

    /// The inbox's entries from `from` on, each exactly once, in order. `cursor`: what this device has acknowledged.
    /// A client has one subscription: a new one ends the one before.
    pub fn subscribe(&self, from: Seq, cursor: Option<Seq>) -> Subscription {
        let queue = Arc::new(InboxQueue::new(from, cursor));
        self.handle.shared.put(Wish::Subscribe(queue.clone()));
        Subscription::new(queue, &self.handle.shared)
    }

    /// Ends the connection; open requests end as rejected or unknown.
    pub fn close(&self) {
        self.handle.shared.close();
    }

    fn ask(
        &self,
        way: Way,
        body: Asked,
        place: Option<SendPlace>,
    ) -> impl Future<Output = Result<oneshot::Receiver<Result<Said, RequestError>>, RequestError>> + Send + 'static
    {
        let shared = self.handle.shared.clone();
        let request_timeout = self.handle.request_timeout;
        async move {
            let permit = shared.permits.clone().acquire_owned().await.map_err(|_| gone())?;
            let (answer, receiver) = oneshot::channel();
            let deadline = Instant::now() + request_timeout;
            let request = NewRequest { way, body, place, deadline, answer, permit };
            shared.put(Wish::Request(Box::new(request)));
            Ok(receiver)
        }
    }
}

fn check_length(body: &Bytes) -> Result<(), RequestError> {
    if body.len() <= limits::MESSAGE_BYTES_MAX as usize {
        return Ok(());
    }
    let text = format!("a body of {} bytes, at most {} are allowed", body.len(), limits::MESSAGE_BYTES_MAX);
    Err(RequestError::Rejected(Refusal::new(ErrorCode::MessageTooLarge, text)))
}

async fn wait(answer: oneshot::Receiver<Result<Said, RequestError>>) -> Result<Said, RequestError> {
    answer.await.unwrap_or_else(|_| Err(gone()))
}

/// What `QuerySend` and `CancelSend` are answered with.
fn send_status(said: Said) -> Result<SendStatus, RequestError> {
    match said {
        Said::SendStatus(status) => match status.state() {
            v1::send_status::State::Committed => {
                Seq::new(status.seq).map(SendStatus::Committed).ok_or_else(|| broken(&EntryError("seq")))
            }
            v1::send_status::State::Cancelled => Ok(SendStatus::Cancelled),
            v1::send_status::State::Expired => Ok(SendStatus::Expired),
            v1::send_status::State::NotYet => Ok(SendStatus::NotYet),
            v1::send_status::State::Unspecified => Err(broken(&EntryError("state"))),
        },
        _ => Err(unexpected()),
    }
}

fn committed(said: Said) -> Result<Committed, RequestError> {
    match said {
        Said::Committed(v1::Committed { seq, duplicate }) => {
            let seq = Seq::new(seq).ok_or_else(|| broken(&EntryError("seq")))?;
            Ok(Committed { seq, duplicate })
        }
        _ => Err(unexpected()),
    }
}

fn id_bytes(id: &MessageId) -> Bytes {
    Bytes::copy_from_slice(&id.0)
}

fn names(users: &[UserId]) -> Vec<String> {
    users.iter().map(|user| user.as_str().to_owned()).collect()
}

/// The client's task is gone: whatever was asked may have happened.
fn gone() -> RequestError {
    RequestError::Unknown(Refusal::new(ErrorCode::Shutdown, "the client is closed"))
}

fn unexpected() -> RequestError {
    RequestError::Unknown(Refusal::new(ErrorCode::Internal, "the gateway gave another answer than asked for"))
}

fn broken(error: &EntryError) -> RequestError {
    RequestError::Unknown(Refusal::new(ErrorCode::Internal, format!("the gateway sent {error}")))
}
