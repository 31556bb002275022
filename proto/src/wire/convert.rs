//! Conversions between wire messages and our ids. Every field of a stranger's frame is checked here.

use bytes::Bytes;

use super::v1;
use crate::command::Kind;
use crate::error::{Certainty, ErrorCode, Refusal, Retry};
use crate::ids::{ConversationId, ConversationKey, CounterName, Emoji, MessageId, Seq, UserId};
use crate::limits;

fn malformed(what: &str) -> Refusal {
    Refusal::new(ErrorCode::Malformed, what)
}

/// The refusal as a wire message.
pub fn error_to_wire(refusal: &Refusal) -> v1::Error {
    v1::Error {
        code: u32::from(refusal.code.number()),
        name: refusal.code.name().to_owned(),
        message: refusal.message.clone(),
        retry_after_ms: refusal.retry_after_ms,
        retry: refusal.code.retry() != Retry::Never,
        unknown: refusal.code.certainty() == Certainty::Unknown,
    }
}

/// The refusal that a wire message says. A code that this program does not know is `Internal`: its outcome is unknown.
pub fn error_from_wire(error: &v1::Error) -> Refusal {
    let code = u16::try_from(error.code).ok().and_then(ErrorCode::from_number).unwrap_or(ErrorCode::Internal);
    Refusal { code, message: error.message.clone(), retry_after_ms: error.retry_after_ms }
}

/// The conversation that a frame of `user` names.
pub fn conversation_from_wire(
    conversation: Option<&v1::Conversation>,
    user: &UserId,
) -> Result<ConversationId, Refusal> {
    match conversation.and_then(|conversation| conversation.id.as_ref()) {
        Some(v1::conversation::Id::Peer(peer)) => Ok(ConversationId::direct(user.clone(), user_from_wire(peer)?)),
        Some(v1::conversation::Id::Group(key)) => ConversationKey::from_slice(key)
            .map(ConversationId::Group)
            .ok_or_else(|| malformed("a group id has 16 bytes")),
        None => Err(malformed("the conversation is missing")),
    }
}

/// A conversation as `user` names it.
pub fn conversation_to_wire(conversation: &ConversationId, user: &UserId) -> v1::Conversation {
    let id = match conversation {
        ConversationId::Direct(a, _) => {
            v1::conversation::Id::Peer(conversation.peer_of(user).unwrap_or(a).as_str().to_owned())
        }
        ConversationId::Group(key) => v1::conversation::Id::Group(Bytes::copy_from_slice(&key.0)),
    };
    v1::Conversation { id: Some(id) }
}

/// A user's name.
pub fn user_from_wire(name: &str) -> Result<UserId, Refusal> {
    UserId::new(name).map_err(|error| malformed(&error.to_string()))
}

/// A counter's name.
pub fn counter_from_wire(name: &str) -> Result<CounterName, Refusal> {
    CounterName::new(name).map_err(|error| malformed(&error.to_string()))
}

/// What a reaction says.
pub fn emoji_from_wire(emoji: &str) -> Result<Emoji, Refusal> {
    Emoji::new(emoji).map_err(|error| malformed(&format!("the emoji: {error}")))
}

/// A message id of 16 bytes.
pub fn message_id_from_wire(bytes: &[u8]) -> Result<MessageId, Refusal> {
    MessageId::from_slice(bytes).ok_or_else(|| malformed("a message id has 16 bytes"))
}

/// A seq where 0 stands for none.
pub fn seq_from_wire(seq: u64) -> Result<Option<Seq>, Refusal> {
    if seq == 0 {
        return Ok(None);
    }
    Seq::new(seq).map(Some).ok_or_else(|| malformed("a seq lies below 2^53"))
}

/// A seq where 0 stands for none.
pub fn seq_to_wire(seq: Option<Seq>) -> u64 {
    seq.map_or(0, Seq::get)
}

/// A body within the limit.
pub fn body_from_wire(body: Bytes) -> Result<Bytes, Refusal> {
    if body.len() > limits::MESSAGE_BYTES_MAX as usize {
        let text = format!("a body of {} bytes, at most {} are allowed", body.len(), limits::MESSAGE_BYTES_MAX);
        return Err(Refusal::new(ErrorCode::MessageTooLarge, text));
    }
    Ok(body)
}

/// A salt within the limit.
pub fn salt_from_wire(salt: Bytes) -> Result<Bytes, Refusal> {
    if salt.len() > limits::SALT_BYTES_MAX as usize {
        return Err(malformed("the salt is too long"));
    }
    Ok(salt)
}

/// The kind as a wire number.
pub fn kind_to_wire(kind: Kind) -> v1::entry::Kind {
    match kind {
        Kind::Message => v1::entry::Kind::Message,
        Kind::Create => v1::entry::Kind::Create,
        Kind::Members => v1::entry::Kind::Members,
        Kind::Edit { .. } => v1::entry::Kind::Edit,
        Kind::Recall { .. } => v1::entry::Kind::Recall,
        Kind::Reaction { .. } => v1::entry::Kind::Reaction,
        Kind::Pin { .. } => v1::entry::Kind::Pin,
        Kind::Read => v1::entry::Kind::Read,
        Kind::Mute { .. } => v1::entry::Kind::Mute,
        Kind::Archive { .. } => v1::entry::Kind::Archive,
    }
}
