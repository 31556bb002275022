//! `raftctl send`: a message as a user, acked when it is durable.

use std::time::Instant;

use bytes::Bytes;
use serde_json::json;
use seriatim_client::{Conversation, RequestError, SendRequest};
use seriatim_proto::chain::body_hash;
use seriatim_proto::ids::{ConversationKey, MessageId, UserId};

use super::user::user_id;
use crate::cli::{Route, Send};
use crate::device::{Device, request_failure};
use crate::failure::{Exit, Failure};
use crate::output::{List, number};
use crate::target::Target;

/// Who sends, if that was said, and where to.
pub(super) fn route(asked: &Route) -> Result<(Option<UserId>, Conversation), Failure> {
    let sender = asked.sender.as_deref().map(user_id).transpose()?;
    let conversation = match (&asked.to, &asked.group) {
        (Some(peer), _) => Conversation::Peer(user_id(peer)?),
        (None, Some(group)) => ConversationKey::from_hex(group)
            .map(Conversation::Group)
            .ok_or_else(|| Failure::usage(format!("`{group}` is no group: 32 hexadecimal digits")))?,
        (None, None) => return Err(Failure::usage("to whom? --to or --group is missing")),
    };
    Ok((sender, conversation))
}

/// A message id as it is typed.
pub(super) fn message_id(typed: &str) -> Result<MessageId, Failure> {
    MessageId::from_hex(typed)
        .ok_or_else(|| Failure::usage(format!("`{typed}` is no message id: 32 hexadecimal digits")))
}

/// The salt of the body's hash, from nothing but the message itself: a message sent again under its id is the same
/// message only if its salt is too, and the process that made the first one is gone when its id is typed again. So it
/// is not random, as the SDK's is, not even under an id that was just made: that id is printed, to be repeated.
/// The price: whoever has an entry's header can try short bodies against its hash, also after an erasure.
fn salt(id: &MessageId, body: &[u8]) -> Bytes {
    let context = [SALT_CONTEXT, &id.0[..]].concat();
    Bytes::copy_from_slice(&body_hash(&context, body).0)
}

/// A send's bad end. Only here does a repetition under the same id settle what is unknown.
fn send_failure(id: &MessageId, error: &RequestError) -> Failure {
    let failure = request_failure(&format!("failed to send message {id}"), error);
    if error.is_unknown() {
        failure.hint(format!("perhaps it happened: the same command with --message-id {id} sends it once"))
    } else {
        failure
    }
}

/// Keeps raftctl's salts apart from every other use of the hash. Never changes: a message may be sent again by a newer
/// raftctl.
const SALT_CONTEXT: &[u8] = b"seriatim raftctl 2026-11-26 salt of a message";

/// `send`
pub(super) async fn send(target: &Target, asked: &Send) -> Result<Exit, Failure> {
    let (sender, conversation) = route(&asked.route)?;
    let mut request = SendRequest::new(conversation.clone(), Bytes::copy_from_slice(asked.text.as_bytes()));
    if let Some(id) = &asked.message_id {
        request.message_id = message_id(id)?;
    }
    let id = request.message_id;
    request.salt = salt(&id, &request.body);
    let device = Device::connect(target, sender.as_ref()).await?;
    let began = Instant::now();
    let sent = device.client.send_request(request).await;
    let committed = sent.map_err(|error| send_failure(&id, &error))?;
    let ms = began.elapsed().as_secs_f64() * 1e3;
    let mut list = List::new("Committed", &["message id", "conversation", "seq", "duplicate", "took"]);
    let conversation = conversation.id_for(&device.user).to_string();
    list.push(
        vec![
            id.to_string(),
            conversation.clone(),
            committed.seq.to_string(),
            committed.duplicate.to_string(),
            format!("{ms:.1} ms"),
        ],
        json!({
            "messageId": id.to_string(),
            "conversation": conversation,
            "seq": number(committed.seq.get()),
            "duplicate": committed.duplicate,
            "tookMs": ms,
        }),
    );
    list.print(target.output)?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use seriatim_proto::error::{ErrorCode, Refusal};

    use super::*;

    #[test]
    fn a_message_has_the_same_salt_on_every_attempt_and_no_other_has_it() {
        let (one, other) = (MessageId([1; 16]), MessageId([2; 16]));
        assert_eq!(salt(&one, b"hello"), salt(&one, b"hello"));
        assert_ne!(salt(&one, b"hello"), salt(&other, b"hello"));
        assert_ne!(salt(&one, b"hello"), salt(&one, b"hallo"));
        // For ever: messages that an older raftctl sent can be sent again.
        assert_eq!(hex(&salt(&one, b"hello")), "6772b93b0cf9b3489ad41bd248ea035d");
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn only_an_unknown_end_of_a_send_is_told_to_be_repeated_under_its_id() {
        let (id, refusal) = (MessageId([1; 16]), Refusal::new(ErrorCode::Timeout, "no answer in time"));
        let unknown = send_failure(&id, &RequestError::Unknown(refusal.clone()));
        assert!(unknown.hint.is_some_and(|hint| hint.contains(&format!("--message-id {id}"))));
        assert_eq!(send_failure(&id, &RequestError::Rejected(refusal.clone())).hint, None);
        // Reads, and whatever else is asked.
        assert_eq!(request_failure("failed to sync", &RequestError::Unknown(refusal)).hint, None);
    }
}
