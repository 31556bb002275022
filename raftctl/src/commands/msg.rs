//! `raftctl msg`: messages by their ids, as their sender asks about them.

use serde_json::{Value, json};
use seriatim_client::SendStatus;
use seriatim_proto::ids::Seq;

use super::send::{message_id, route};
use crate::cli::MsgOf;
use crate::device::{Device, request_failure};
use crate::failure::{Exit, Failure};
use crate::output::{List, number};
use crate::target::Target;

/// `msg status`
pub(super) async fn status(target: &Target, of: &MsgOf) -> Result<Exit, Failure> {
    ask(target, of, false).await.map(|_| Exit::Ok)
}

/// `msg cancel`
pub(super) async fn cancel(target: &Target, of: &MsgOf) -> Result<Exit, Failure> {
    Ok(match ask(target, of, true).await? {
        SendStatus::Cancelled => Exit::Ok,
        SendStatus::Committed(_) | SendStatus::Expired | SendStatus::NotYet => Exit::Precondition,
    })
}

async fn ask(target: &Target, of: &MsgOf, cancel: bool) -> Result<SendStatus, Failure> {
    let (sender, conversation) = route(&of.route)?;
    let id = message_id(&of.message_id)?;
    let known = match of.known {
        0 => None,
        known => Some(Seq::new(known).ok_or_else(|| Failure::usage(format!("{known} is no seq")))?),
    };
    let device = Device::connect(target, sender.as_ref()).await?;
    let (act, asked) = match cancel {
        true => ("cancel", device.client.cancel_send(&conversation, id, known).await),
        false => ("ask about", device.client.query_send(&conversation, id, known).await),
    };
    let status = asked.map_err(|error| {
        let failure = request_failure(&format!("failed to {act} message {id}"), &error);
        if cancel && error.is_unknown() { failure.hint("perhaps it happened: cancel it again") } else { failure }
    })?;
    let (state, seq) = match status {
        SendStatus::Committed(seq) => ("committed", Some(seq)),
        SendStatus::Cancelled => ("cancelled", None),
        SendStatus::Expired => ("expired", None),
        SendStatus::NotYet => ("not yet", None),
    };
    let conversation = conversation.id_for(&device.user).to_string();
    let mut list = List::new("SendStatus", &["message id", "conversation", "state", "seq"]);
    list.push(
        vec![
            id.to_string(),
            conversation.clone(),
            state.to_owned(),
            seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string()),
        ],
        json!({
            "messageId": id.to_string(),
            "conversation": conversation,
            "state": state,
            "seq": seq.map_or(Value::Null, |seq| number(seq.get())),
        }),
    );
    list.print(target.output)?;
    Ok(status)
}
