//! Events and effects: everything that goes into a holder and comes out of it.

use bytes::Bytes;
use seriatim_proto::command::{Content, Delivery, DeliveryOutcome, Mark, Outcome};
use seriatim_proto::error::Refusal;
use seriatim_proto::ids::{ConversationId, CounterName, DeviceId, MessageId, NodeId, Seq, TenantId, UserId};
use seriatim_proto::logic::{CallError, DeliveryBody, PushEntry, Reply, SlotDeliveries};
use seriatim_proto::store::{Read, ReadOutcome};

/// What time it is, read after the event was received.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Clock {
    /// `CLOCK_BOOTTIME` in ms
    pub now_ms: u64,
    /// wall clock in Unix ms, only ever written into entries
    pub unix_ms: u64,
    /// until when the lease of the slot's group lets the holder answer from memory
    pub lease_until_ms: u64,
}

/// A request as the shell knows it: which stream, and its id there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId {
    /// stream of the gateway
    pub stream: u64,
    /// chosen by the gateway
    pub id: u64,
}

/// A registered session: which stream, and its id there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionKey {
    /// stream of the gateway
    pub stream: u64,
    /// chosen by the gateway
    pub session: u64,
}

/// Where deliveries came from, for the answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceId {
    /// stream of the source node, 0 for this node itself
    pub stream: u64,
    /// chosen by the source
    pub request: u64,
    /// place in the request (of a stream), or the source's slot (of this node itself)
    pub index: u32,
}

/// An entry that a session wants written.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Send {
    /// from the token
    pub tenant: TenantId,
    /// where to
    pub conversation: ConversationId,
    /// from the token
    pub sender: UserId,
    /// idempotency key
    pub message_id: MessageId,
    /// the conversation's tail that the device knew
    pub known: Option<Seq>,
    /// must be settled before
    pub follows: Option<MessageId>,
    /// what
    pub content: Content,
}

/// A message id that a session wants settled.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cancel {
    /// from the token
    pub tenant: TenantId,
    /// where the message would go
    pub conversation: ConversationId,
    /// from the token
    pub sender: UserId,
    /// of the send
    pub message_id: MessageId,
    /// of the send
    pub known: Option<Seq>,
}

/// What happens to a holder.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// A session wants an entry written → `Reply`.
    Send {
        /// for the reply
        request: RequestId,
        /// what
        send: Send,
    },
    /// A session wants a message id settled → `Reply`, once durable.
    Cancel {
        /// for the reply
        request: RequestId,
        /// which
        cancel: Cancel,
    },
    /// A device confirms what it has → `Reply`, once durable.
    Ack {
        /// for the reply
        request: RequestId,
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
        /// which device
        device: DeviceId,
        /// exclusive
        cursor: Seq,
    },
    /// A user says something about a conversation to his own devices → `Reply`, once durable.
    Mark {
        /// for the reply
        request: RequestId,
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
        /// which
        conversation: ConversationId,
        /// what
        mark: Mark,
    },
    /// A session wants what comes into its inbox → `Registered`.
    Register {
        /// for the answer
        request: RequestId,
        /// who
        session: SessionKey,
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
        /// first seq that was not given to the device
        position: Seq,
    },
    /// A registration is renewed → perhaps `Lagging` or `Unregistered`.
    Renew {
        /// who
        session: SessionKey,
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
        /// first seq that was not given to the device
        position: Seq,
    },
    /// A session is gone.
    Unregister {
        /// who
        session: SessionKey,
        /// whose
        tenant: TenantId,
        /// whose
        user: UserId,
    },
    /// Numbers of a counter → `Reply`.
    Next {
        /// for the reply
        request: RequestId,
        /// whose
        tenant: TenantId,
        /// which
        counter: CounterName,
        /// how many, in one run
        count: u32,
    },
    /// Where a counter stands → `Reply`.
    Current {
        /// for the reply
        request: RequestId,
        /// whose
        tenant: TenantId,
        /// which
        counter: CounterName,
    },
    /// Another slot's holder delivers → `DeliverAnswer`.
    Deliver {
        /// for the answer
        source: SourceId,
        /// `place` inside is ignored
        deliveries: Vec<Delivery>,
        /// for the push
        bodies: Vec<DeliveryBody>,
    },
    /// The answer to an `Effect::Deliver`; `None`: no answer, or none that says anything.
    DeliverAnswered {
        /// of the effect
        batch: u64,
        /// one per delivery
        outcomes: Option<Vec<DeliveryOutcome>>,
    },
    /// The answer to one `Effect::Propose`.
    Outcome {
        /// of the command
        n: u64,
        /// what apply said
        outcome: Outcome,
    },
    /// One `Effect::Propose` got no outcome: it was refused, or nobody knows.
    ProposeFailed {
        /// of the command
        n: u64,
        /// why
        refusal: Refusal,
    },
    /// The answer to an `Effect::Read`; `None`: read again later.
    ReadDone {
        /// of the effect
        id: u64,
        /// what was read
        outcome: Option<ReadOutcome>,
    },
    /// Another node should hold the slot: stop taking, wait for replies, release.
    Release {
        /// who should claim at once
        heir: Option<NodeId>,
    },
    /// The lease is gone: the epoch ends here.
    LeaseGone,
    /// The time that [`crate::SlotHolder::poll_timeout`] named has come.
    Timer,
}

/// What a holder wants done.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Propose this command, in the order of the effects. Exactly one `Outcome` or `ProposeFailed` must follow.
    Propose {
        /// of the command
        n: u64,
        /// the command, as `codec::encode_part` writes it
        command: Bytes,
    },
    /// Read linearizably from the slot's group. Exactly one `ReadDone` must follow.
    Read {
        /// for the answer
        id: u64,
        /// what
        read: Read,
    },
    /// Answers `Send`, `Ack`, `Next` and `Current`.
    Reply {
        /// of the event
        request: RequestId,
        /// `NotHolder` without its row, which the shell adds
        result: Result<Reply, CallError>,
    },
    /// Answers `Register`.
    Registered {
        /// of the event
        request: RequestId,
        /// the inbox's tail
        result: Result<Seq, CallError>,
    },
    /// New entries of one inbox.
    Push {
        /// for whom
        sessions: Vec<SessionKey>,
        /// rising by inbox seq
        entries: Vec<PushEntry>,
    },
    /// The session's inbox reaches above what it has.
    Lagging {
        /// who
        session: SessionKey,
        /// exclusive
        tail: Seq,
    },
    /// The session is not registered here.
    Unregistered {
        /// who
        session: SessionKey,
    },
    /// Deliver to another slot's holder. At most one `DeliverAnswered` must follow.
    Deliver {
        /// for the answer
        batch: u64,
        /// what
        deliveries: SlotDeliveries,
    },
    /// Answers `Deliver`.
    DeliverAnswer {
        /// of the event
        source: SourceId,
        /// one outcome per delivery; an `Err` says nothing of what happened
        result: Result<Vec<DeliveryOutcome>, CallError>,
    },
    /// Something that no correct cluster does: a human must look.
    Alarm(&'static str),
    /// This epoch is over and everybody is answered; nothing follows.
    Ended {
        /// given back by ourselves
        released: bool,
    },
}
