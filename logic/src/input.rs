//! Input: checks of what comes from outside, before it is hashed, numbered or written.

use seriatim_proto::command::Mark;
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{ConversationId, CounterName, DeviceId, Emoji, Seq, UserId};
use seriatim_proto::limits;
use seriatim_proto::logic::{Amendment, Call};

type Checked = Result<(), Refusal>;

fn malformed(text: &str) -> Refusal {
    Refusal::new(ErrorCode::Malformed, text)
}

/// A conversation's id: names within their bounds, the smaller first.
pub(crate) fn conversation(id: &ConversationId) -> Checked {
    match id {
        ConversationId::Direct(a, b) => {
            user(a)?;
            user(b)?;
            if a <= b { Ok(()) } else { Err(malformed("a direct conversation names the smaller user first")) }
        }
        ConversationId::Group(_) => Ok(()),
    }
}

/// A user's name.
pub(crate) fn user(user: &UserId) -> Checked {
    UserId::new(user.as_str()).map(drop).map_err(|error| malformed(&error.to_string()))
}

/// A device's name.
pub(crate) fn device(device: &DeviceId) -> Checked {
    DeviceId::new(device.as_str()).map(drop).map_err(|error| malformed(&error.to_string()))
}

/// A counter's name.
fn counter(counter: &CounterName) -> Checked {
    CounterName::new(counter.as_str()).map(drop).map_err(|error| malformed(&error.to_string()))
}

/// A place.
pub(crate) fn seq(seq: Seq) -> Checked {
    Seq::new(seq.get()).map(drop).ok_or_else(|| malformed("a seq beyond the end"))
}

fn users(list: &[UserId]) -> Checked {
    if list.len() > limits::INLINE_MEMBERS_MAX as usize {
        return Err(Refusal::new(ErrorCode::MembersTooMany, "too many members in one request"));
    }
    list.iter().try_for_each(user)
}

/// A device's own body and its salt.
fn own_body(salt: &[u8], body: &[u8]) -> Checked {
    if body.len() > limits::MESSAGE_BYTES_MAX as usize {
        let text = format!("a body of {} bytes is longer than {}", body.len(), limits::MESSAGE_BYTES_MAX);
        return Err(Refusal::new(ErrorCode::MessageTooLarge, text));
    }
    if salt.len() > limits::SALT_BYTES_MAX as usize { Err(malformed("the salt is too long")) } else { Ok(()) }
}

/// A call.
pub(crate) fn call(call: &Call) -> Checked {
    match call {
        Call::Send { conversation: id, known, salt, body, .. } => {
            conversation(id)?;
            known.map_or(Ok(()), seq)?;
            own_body(salt, body)
        }
        Call::Amend { conversation: id, known, target, amendment, .. } => {
            conversation(id)?;
            known.map_or(Ok(()), seq)?;
            seq(*target)?;
            match amendment {
                Amendment::Edit { salt, body } => own_body(salt, body),
                Amendment::React { emoji, .. } => {
                    Emoji::new(emoji.as_str()).map(drop).map_err(|error| malformed(&format!("the emoji: {error}")))
                }
                Amendment::Recall | Amendment::Pin { .. } => Ok(()),
            }
        }
        Call::CreateGroup { conversation: id, members, .. } => {
            conversation(id)?;
            users(members)?;
            match id {
                ConversationId::Group(_) => Ok(()),
                ConversationId::Direct(..) => Err(malformed("a direct conversation is not created")),
            }
        }
        Call::ChangeMembers { conversation: id, known, add, remove, .. } => {
            conversation(id)?;
            known.map_or(Ok(()), seq)?;
            users(add)?;
            users(remove)
        }
        Call::QuerySend { conversation: id, known, .. } | Call::CancelSend { conversation: id, known, .. } => {
            conversation(id)?;
            known.map_or(Ok(()), seq)
        }
        Call::Mark { conversation: id, mark } => {
            conversation(id)?;
            match mark {
                Mark::Read { upto } => seq(*upto),
                Mark::Mute { .. } | Mark::Archive { .. } => Ok(()),
            }
        }
        Call::List { after, .. } => after.as_ref().map_or(Ok(()), conversation),
        Call::Ack { cursor } => seq(*cursor),
        Call::Sync { from, .. } => from.map_or(Ok(()), seq),
        Call::History { conversation: id, from, .. } => {
            conversation(id)?;
            from.map_or(Ok(()), seq)
        }
        Call::Status => Ok(()),
        Call::Next { counter: name, count } => {
            counter(name)?;
            if (1..=limits::NEXT_NUMBERS_MAX).contains(count) {
                return Ok(());
            }
            let text = format!("{count} numbers are not between 1 and {}", limits::NEXT_NUMBERS_MAX);
            Err(Refusal::new(ErrorCode::CountTooLarge, text))
        }
        Call::Current { counter: name } => counter(name),
    }
}
