//! `raftctl send`: a message as a user, acked when it is durable.

use std::time::Instant;

use bytes::Bytes;
use serde_json::json;
use seriatim_client::{Conversation, SendRequest};
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

/// `send`
pub(super) async fn send(target: &Target, asked: &Send) -> Result<Exit, Failure> {
    let (sender, conversation) = route(&asked.route)?;
    let mut request = SendRequest::new(conversation.clone(), Bytes::copy_from_slice(asked.text.as_bytes()));
    if let Some(id) = &asked.message_id {
        request.message_id = message_id(id)?;
    }
    let id = request.message_id;
    let device = Device::connect(target, sender.as_ref()).await?;
    let began = Instant::now();
    let sent = device.client.send_request(request).await;
    let committed = sent.map_err(|error| request_failure(&format!("failed to send message {id}"), &error))?;
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
