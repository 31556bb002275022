//! Logic frames: what gateways and logic nodes, and logic nodes among themselves, say on one gRPC stream.
//!
//! Tenant and user come from the verified token or client certificate of the session; no frame names its own sender.
//! Frames are written by [`crate::codec`] into `Packet::frames`, several per packet.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::command::{Delivery, DeliveryOutcome, Listed, Mark};
use crate::error::Refusal;
use crate::ids::{
    Chain, ClusterId, ConversationId, CounterName, DeviceId, Emoji, Generation, MessageId, NodeId, Seq, SlotId,
    TenantId, UserId,
};
use crate::store::{HolderRow, InboxEntry, NamespaceState};

/// Gateway → logic node. Any logic node takes any call; one that must be served by a slot's holder is refused with
/// `NotHolder` elsewhere, and the gateway sends it to the holder that its table or the refusal names.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum GatewayRequest {
    /// Must come first.
    Hello {
        /// `None`: whichever
        cluster: Option<ClusterId>,
    },
    /// Names a session for what follows on this stream. The token is verified again here.
    Open {
        /// chosen by the gateway, unique on this stream
        session: u64,
        /// as the device sent it
        token: String,
        /// as the device named it
        device: DeviceId,
    },
    /// Forgets a session and its registration.
    Close {
        /// which
        session: u64,
    },
    /// A request of a session.
    Call {
        /// chosen by the gateway
        id: u64,
        /// whose
        session: u64,
        /// what
        call: Call,
    },
    /// The session's device wants what comes into its inbox. Served by the holder of the inbox's slot.
    Register {
        /// chosen by the gateway
        id: u64,
        /// whose
        session: u64,
        /// first seq that was not given to the device
        position: Seq,
    },
    /// Once a second, all registrations of this gateway at this node, with their positions.
    Renew {
        /// session and first seq not given to its device
        positions: Vec<(u64, Seq)>,
    },
    /// As `Open`, by a client certificate instead of a token. It is verified again here.
    OpenByCertificate {
        /// chosen by the gateway, unique on this stream
        session: u64,
        /// what the device showed in its TLS handshake
        proof: CertificateProof,
        /// as the device named it
        device: DeviceId,
    },
}

/// What a device showed in a handshake of TLS 1.3: its certificate, and that it has the key.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CertificateProof {
    /// DER: the device's certificate, then its issuers, without the CA
    pub chain: Vec<Bytes>,
    /// what it signed: the content of CertificateVerify (RFC 8446, 4.4.3)
    pub signed: Bytes,
    /// TLS's number of the signature's scheme
    pub scheme: u16,
    /// the signature
    pub signature: Bytes,
}

impl std::fmt::Debug for CertificateProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // As a token, it opens a session for whoever has it and reaches a logic node.
        write!(f, "CertificateProof({} certificates)", self.chain.len())
    }
}

/// By what a device entered.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credential {
    /// as the device sent it
    Token(String),
    /// without a token
    Certificate(CertificateProof),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Credentials stay out of logs.
        f.write_str(match self {
            Self::Token(_) => "Token",
            Self::Certificate(_) => "Certificate",
        })
    }
}

impl From<&str> for Credential {
    fn from(token: &str) -> Self {
        Self::Token(token.to_owned())
    }
}

impl Credential {
    /// The frame that opens a session by it.
    pub fn open(&self, session: u64, device: DeviceId) -> GatewayRequest {
        match self.clone() {
            Self::Token(token) => GatewayRequest::Open { session, token, device },
            Self::Certificate(proof) => GatewayRequest::OpenByCertificate { session, proof, device },
        }
    }
}

/// A request of a session.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Call {
    /// At the holder of the conversation's slot → `Reply::Committed`.
    Send {
        /// where to
        conversation: ConversationId,
        /// idempotency key
        message_id: MessageId,
        /// the conversation's tail that the device knew, `None` for none
        known: Option<Seq>,
        /// must be settled before
        follows: Option<MessageId>,
        /// the same on every attempt
        salt: Bytes,
        /// checked against the limit by both sides
        body: Bytes,
    },
    /// At the holder → `Reply::Committed`.
    CreateGroup {
        /// `ConversationId::Group`
        conversation: ConversationId,
        /// idempotency key
        message_id: MessageId,
        /// besides the sender
        members: Vec<UserId>,
    },
    /// At the holder → `Reply::Committed`.
    ChangeMembers {
        /// which
        conversation: ConversationId,
        /// idempotency key
        message_id: MessageId,
        /// the conversation's tail that the device knew
        known: Option<Seq>,
        /// who joins
        add: Vec<UserId>,
        /// who leaves
        remove: Vec<UserId>,
    },
    /// Anywhere → `Reply::SendStatus`.
    QuerySend {
        /// where to
        conversation: ConversationId,
        /// of the send
        message_id: MessageId,
        /// of the send
        known: Option<Seq>,
    },
    /// At the holder of the inbox's slot → `Reply::Acked` once durable.
    Ack {
        /// exclusive
        cursor: Seq,
    },
    /// Anywhere → `Reply::Sync`.
    Sync {
        /// first seq that the device does not have; `None` from the trim
        from: Option<Seq>,
        /// most entries
        limit: u32,
    },
    /// Anywhere → `Reply::History`.
    History {
        /// which
        conversation: ConversationId,
        /// first seq
        from: Option<Seq>,
        /// most entries
        limit: u32,
    },
    /// Anywhere → `Reply::Status`.
    Status,
    /// At the holder of the counter's slot → `Reply::Numbers`.
    Next {
        /// which
        counter: CounterName,
        /// how many, in one run
        count: u32,
    },
    /// At the holder of the counter's slot → `Reply::Current`.
    Current {
        /// which
        counter: CounterName,
    },
    /// At the holder of the conversation's slot → `Reply::SendStatus`, never `NotYet`.
    CancelSend {
        /// where to
        conversation: ConversationId,
        /// of the send
        message_id: MessageId,
        /// of the send
        known: Option<Seq>,
    },
    /// At the holder of the conversation's slot → `Reply::Committed`.
    Amend {
        /// which
        conversation: ConversationId,
        /// idempotency key
        message_id: MessageId,
        /// the conversation's tail that the device knew
        known: Option<Seq>,
        /// must be settled before
        follows: Option<MessageId>,
        /// the message's place
        target: Seq,
        /// what about it
        amendment: Amendment,
    },
    /// At the holder of the inbox's slot → `Reply::Marked` once durable.
    Mark {
        /// which
        conversation: ConversationId,
        /// what
        mark: Mark,
    },
    /// Anywhere → `Reply::List`.
    List {
        /// behind this one, `None` from the start
        after: Option<ConversationId>,
        /// most conversations
        limit: u32,
    },
}

/// What a device wants of a message. See [`crate::command::Act`].
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Amendment {
    /// another body
    Edit {
        /// the same on every attempt
        salt: Bytes,
        /// checked against the limit by both sides
        body: Bytes,
    },
    /// no body any more
    Recall,
    /// a reaction
    React {
        /// which
        emoji: Emoji,
        /// false: unset
        set: bool,
    },
    /// a pin
    Pin {
        /// false: unpin
        set: bool,
    },
}

/// Logic node → gateway.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum GatewayResponse {
    /// The answer to `Hello`.
    Welcome {
        /// who answers, or why not
        result: Result<LogicWelcome, Refusal>,
    },
    /// The answer to `Open`.
    Opened {
        /// of the request
        session: u64,
        /// who the token is for, or why not
        result: Result<Identity, Refusal>,
    },
    /// The answer to `Call`.
    Reply {
        /// of the request
        id: u64,
        /// or why not; `NotHolder` names the holder in [`CallError`]
        result: Result<Reply, CallError>,
    },
    /// The answer to `Register`. Pushes from `tail` on follow; what lies between the position and `tail` must be synced.
    Registered {
        /// of the request
        id: u64,
        /// the inbox's tail at registration, `Seq::FIRST` for an empty one; or why not
        result: Result<Seq, CallError>,
    },
    /// New entries of one inbox, for sessions registered on this stream.
    Push {
        /// for whom
        sessions: Vec<u64>,
        /// rising by inbox seq
        entries: Vec<PushEntry>,
    },
    /// The answer to `Renew`: sessions whose inbox reaches above their position, and its tail.
    Lagging {
        /// session, tail
        sessions: Vec<(u64, Seq)>,
    },
    /// The answer to `Renew`: sessions that this node does not serve (any more): register again.
    Unregistered {
        /// which
        sessions: Vec<u64>,
    },
    /// What changed in the holder table and among the logic nodes; the whole of both first.
    Table(HolderTable),
}

/// Who answers.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct LogicWelcome {
    /// which cluster
    pub cluster: ClusterId,
    /// which node
    pub node: NodeId,
    /// the generation
    pub generation: Generation,
}

/// Slots, holders and how to reach them. Rows only ever replace rows of a lower or the same epoch.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, Default)]
pub struct HolderTable {
    /// rows that changed
    pub rows: Vec<HolderRow>,
    /// all live logic nodes, `None` if unchanged
    pub nodes: Option<Vec<(NodeId, String)>>,
}

/// Who a session speaks for, from its token or certificate.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug)]
pub struct Identity {
    /// which tenant
    pub tenant: TenantId,
    /// which user
    pub user: UserId,
    /// which device
    pub device: DeviceId,
    /// when the token or certificate ends, Unix seconds
    pub expires_at_s: u64,
    /// what it allows
    pub scopes: Scopes,
}

/// What a token allows, from its claim `scopes`; or a certificate, from its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug, Default)]
pub struct Scopes {
    /// to be a device of the user: send, sync, subscribe, acknowledge
    pub device: bool,
    /// the sequence service, on all counters of the tenant
    pub sequence: bool,
}

impl Scopes {
    /// A device and nothing else: what a token without the claim allows.
    pub const DEVICE: Scopes = Scopes { device: true, sequence: false };
    /// The sequence service and nothing else.
    pub const SEQUENCE: Scopes = Scopes { device: false, sequence: true };

    /// From the claim. Names of scopes that this version does not know allow nothing.
    pub fn from_names(names: &[String]) -> Self {
        let has = |scope: &str| names.iter().any(|name| name == scope);
        Self { device: has("device"), sequence: has("sequence") }
    }

    /// For the claim.
    pub fn names(self) -> Vec<String> {
        let named = [("device", self.device), ("sequence", self.sequence)];
        named.into_iter().filter(|(_, has)| *has).map(|(name, _)| name.to_owned()).collect()
    }
}

/// The answer to a call.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Reply {
    /// fsynced on a majority and applied
    Committed {
        /// place in the conversation
        seq: Seq,
        /// an earlier attempt had done it
        duplicate: bool,
    },
    /// `QuerySend`, `CancelSend`
    SendStatus(SendState),
    /// the durable cursor
    Acked(Seq),
    /// `Sync`
    Sync(SyncPage),
    /// `History`
    History {
        /// with bodies
        entries: Vec<HistoryEntry>,
        /// the next `from`
        upto: Seq,
        /// there is more
        more: bool,
    },
    /// `Status`
    Status {
        /// `None`: nothing ever arrived
        inbox: Option<NamespaceState>,
        /// all devices with a cursor
        devices: Vec<(DeviceId, Seq)>,
    },
    /// `Next`: `count` numbers from `first` on, nobody else's for ever
    Numbers {
        /// the first
        first: Seq,
        /// as many as were asked for
        count: u32,
    },
    /// `Current`: all numbers answered before it are below, all asked for after it are not
    Current(Seq),
    /// `Mark`: the conversation in the user's list
    Marked(Listed),
    /// `List`
    List {
        /// in the order of their names
        list: Vec<Listed>,
        /// there is more behind the last one
        more: bool,
        /// messages that are not read, of all conversations
        unread: u64,
    },
}

/// What became of a send.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum SendState {
    /// in the conversation
    Committed(Seq),
    /// settled: it will never be
    Cancelled,
    /// too old for dedupe to know
    Expired,
    /// no verdict
    NotYet,
}

/// A page of an inbox.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct SyncPage {
    /// rising by seq
    pub entries: Vec<SyncEntry>,
    /// nothing below it is missing
    pub upto: Seq,
    /// there is more behind
    pub more: bool,
    /// entries from `from` on were trimmed
    pub too_long: bool,
    /// first kept
    pub trim: Seq,
    /// the inbox's tail when it was read
    pub tail: Seq,
    /// chain at the last entry below `upto`
    pub chain: Chain,
}

/// An inbox entry with what is known of its body.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct SyncEntry {
    /// the reference
    pub entry: InboxEntry,
    /// its body
    pub body: Body,
}

/// A body, or why it is not there.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum Body {
    /// as [`crate::command::Content::stored`] has them
    Here {
        /// of the hash
        salt: Bytes,
        /// opaque
        body: Bytes,
    },
    /// erased on request or by expiry
    Erased,
    /// below the conversation's trim
    Trimmed,
    /// no answer from where it lies
    Unavailable,
}

/// An entry of a conversation with its body.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct HistoryEntry {
    /// the stored entry
    pub message: crate::store::StoredMessage,
}

/// A pushed entry: what it is, where it is, and its body.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct PushEntry {
    /// place in the inbox
    pub seq: Seq,
    /// entry before it in the inbox
    pub prev_seq: Option<Seq>,
    /// messages up to and with it
    pub ordinal: u64,
    /// from where
    pub conversation: ConversationId,
    /// what
    pub entry: crate::command::EntryRef,
    /// as in [`Body::Here`]
    pub salt: Bytes,
    /// as in [`Body::Here`]
    pub body: Bytes,
}

/// A call's no.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug, thiserror::Error)]
pub enum CallError {
    /// Another node holds the slot; nothing happened.
    #[error("another node holds slot {slot}")]
    NotHolder {
        /// which slot
        slot: SlotId,
        /// its row as this node knows it
        row: Option<HolderRow>,
    },
    /// Anything else.
    #[error(transparent)]
    Refused(Refusal),
}

/// Logic node → logic node.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum PeerRequest {
    /// Must come first.
    Hello {
        /// the same on both sides
        cluster: ClusterId,
        /// who calls
        node: NodeId,
    },
    /// Deliveries of one source node for slots that the target holds.
    Deliver {
        /// chosen by the source
        id: u64,
        /// by target slot
        slots: Vec<SlotDeliveries>,
    },
}

/// Deliveries for one slot, with bodies for the push.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct SlotDeliveries {
    /// the target slot
    pub slot: SlotId,
    /// `place` inside is chosen by the target and ignored here
    pub deliveries: Vec<Delivery>,
    /// bodies of the entries named in `deliveries`, each once; a missing one is only pushed as a hint to sync
    pub bodies: Vec<DeliveryBody>,
}

/// A body that travels with deliveries.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub struct DeliveryBody {
    /// whose
    pub tenant: TenantId,
    /// from where
    pub conversation: ConversationId,
    /// which entry
    pub seq: Seq,
    /// as in [`Body::Here`]
    pub salt: Bytes,
    /// as in [`Body::Here`]
    pub body: Bytes,
}

/// Logic node → logic node.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize, Debug)]
pub enum PeerResponse {
    /// The answer to `Hello`.
    Welcome {
        /// who answers, or why not
        result: Result<NodeId, Refusal>,
    },
    /// The answer to `Deliver`: one result per slot, in order. An `Err` says nothing of what happened: send again.
    Delivered {
        /// of the request
        id: u64,
        /// one outcome per delivery, or why not
        results: Vec<Result<Vec<DeliveryOutcome>, CallError>>,
    },
}
