//! Frames: which frame goes on which stream, and what it asks for or answers.

use bytes::Bytes;
use seriatim_proto::command::{Listed, Mark};
use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{ConversationId, DeviceId, MessageId, Seq, UserId};
use seriatim_proto::limits;
use seriatim_proto::logic::{Amendment, Call, Reply, SendState};
use seriatim_proto::wire::v1::client_frame::Body as Asked;
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};

use crate::entries;
use crate::stream::Role;

/// Bytes of entries in one page or `Deliver`: always fits a frame with its header and one large entry more.
pub(crate) const PAGE_BYTES_MAX: usize = (limits::FRAME_BYTES_MAX - limits::FRAME_HEADER_BYTES) as usize;

/// Where a frame belongs.
pub(crate) fn role_of(body: &Asked) -> Role {
    match body {
        Asked::Hello(_)
        | Asked::Ping(_)
        | Asked::Subscribe(_)
        | Asked::Unsubscribe(_)
        | Asked::Ack(_)
        | Asked::Renew(_)
        | Asked::Credit(_) => Role::Control,
        Asked::Send(_)
        | Asked::QuerySend(_)
        | Asked::CancelSend(_)
        | Asked::CreateGroup(_)
        | Asked::ChangeMembers(_)
        | Asked::Amend(_)
        | Asked::Mark(_)
        | Asked::Next(_)
        | Asked::Current(_) => Role::Lane,
        Asked::Sync(_) | Asked::History(_) | Asked::Status(_) | Asked::List(_) => Role::Call,
    }
}

/// How much of the session's request budget a call takes: big answers count for many.
pub(crate) fn weight_of(call: &Call) -> u32 {
    match call {
        Call::Sync { .. } | Call::History { .. } | Call::List { .. } => 32,
        Call::Send { .. }
        | Call::CreateGroup { .. }
        | Call::ChangeMembers { .. }
        | Call::Amend { .. }
        | Call::Mark { .. }
        | Call::QuerySend { .. }
        | Call::CancelSend { .. }
        | Call::Ack { .. }
        | Call::Status
        | Call::Next { .. }
        | Call::Current { .. } => 1,
    }
}

/// The call of a frame of `user`; every field is checked. Frames that are no calls are `Unsupported`.
pub(crate) fn call_of(body: Asked, user: &UserId) -> Result<Call, Refusal> {
    match body {
        Asked::Send(send) => send_of(send, user),
        Asked::QuerySend(query) => Ok(Call::QuerySend {
            conversation: wire::conversation_from_wire(query.conversation.as_ref(), user)?,
            message_id: wire::message_id_from_wire(&query.message_id)?,
            known: wire::seq_from_wire(query.known)?,
        }),
        Asked::CancelSend(cancel) => Ok(Call::CancelSend {
            conversation: wire::conversation_from_wire(cancel.conversation.as_ref(), user)?,
            message_id: wire::message_id_from_wire(&cancel.message_id)?,
            known: wire::seq_from_wire(cancel.known)?,
        }),
        Asked::CreateGroup(create) => {
            let group = v1::Conversation { id: Some(v1::conversation::Id::Group(create.group)) };
            Ok(Call::CreateGroup {
                conversation: wire::conversation_from_wire(Some(&group), user)?,
                message_id: wire::message_id_from_wire(&create.message_id)?,
                members: users_from_wire(&create.members)?,
            })
        }
        Asked::ChangeMembers(change) => Ok(Call::ChangeMembers {
            conversation: wire::conversation_from_wire(change.conversation.as_ref(), user)?,
            message_id: wire::message_id_from_wire(&change.message_id)?,
            known: wire::seq_from_wire(change.known)?,
            add: users_from_wire(&change.add)?,
            remove: users_from_wire(&change.remove)?,
        }),
        Asked::Amend(amend) => amend_of(amend, user),
        Asked::Mark(mark) => mark_of(mark, user),
        Asked::List(list) => Ok(Call::List {
            after: match list.after {
                None => None,
                after => Some(wire::conversation_from_wire(after.as_ref(), user)?),
            },
            limit: list.limit,
        }),
        Asked::Ack(ack) => {
            let cursor = wire::seq_from_wire(ack.cursor)?;
            let cursor = cursor.ok_or_else(|| Refusal::new(ErrorCode::Malformed, "a cursor is at least 1"))?;
            Ok(Call::Ack { cursor })
        }
        Asked::Sync(sync) => Ok(Call::Sync { from: wire::seq_from_wire(sync.from)?, limit: page_limit(sync.limit) }),
        Asked::History(history) => Ok(Call::History {
            conversation: wire::conversation_from_wire(history.conversation.as_ref(), user)?,
            from: wire::seq_from_wire(history.from)?,
            limit: page_limit(history.limit),
        }),
        Asked::Status(_) => Ok(Call::Status),
        Asked::Next(next) => {
            Ok(Call::Next { counter: wire::counter_from_wire(&next.counter)?, count: next.count.max(1) })
        }
        Asked::Current(current) => Ok(Call::Current { counter: wire::counter_from_wire(&current.counter)? }),
        Asked::Hello(_)
        | Asked::Ping(_)
        | Asked::Subscribe(_)
        | Asked::Unsubscribe(_)
        | Asked::Credit(_)
        | Asked::Renew(_) => Err(Refusal::new(ErrorCode::Unsupported, "not a request")),
    }
}

fn follows_from_wire(follows: &[u8]) -> Result<Option<MessageId>, Refusal> {
    if follows.is_empty() { Ok(None) } else { wire::message_id_from_wire(follows).map(Some) }
}

fn amend_of(amend: v1::Amend, user: &UserId) -> Result<Call, Refusal> {
    let malformed = |text| Refusal::new(ErrorCode::Malformed, text);
    let amendment = match amend.act.ok_or_else(|| malformed("the amendment does not say what it does"))? {
        v1::amend::Act::Edit(edit) => {
            Amendment::Edit { salt: wire::salt_from_wire(edit.salt)?, body: wire::body_from_wire(edit.body)? }
        }
        v1::amend::Act::Recall(v1::Recall {}) => Amendment::Recall,
        v1::amend::Act::React(react) => {
            Amendment::React { emoji: wire::emoji_from_wire(&react.emoji)?, set: !react.unset }
        }
        v1::amend::Act::Pin(pin) => Amendment::Pin { set: !pin.unset },
    };
    Ok(Call::Amend {
        conversation: wire::conversation_from_wire(amend.conversation.as_ref(), user)?,
        message_id: wire::message_id_from_wire(&amend.message_id)?,
        known: wire::seq_from_wire(amend.known)?,
        follows: follows_from_wire(&amend.follows)?,
        target: wire::seq_from_wire(amend.target)?.ok_or_else(|| malformed("the target is missing"))?,
        amendment,
    })
}

fn mark_of(mark: v1::Mark, user: &UserId) -> Result<Call, Refusal> {
    let malformed = |text| Refusal::new(ErrorCode::Malformed, text);
    let what = match mark.what.ok_or_else(|| malformed("the mark does not say what it is"))? {
        v1::mark::What::ReadUpto(upto) => {
            let upto = wire::seq_from_wire(upto)?.ok_or_else(|| malformed("a place in the inbox is at least 1"))?;
            Mark::Read { upto }
        }
        v1::mark::What::Muted(on) => Mark::Mute { on },
        v1::mark::What::Archived(on) => Mark::Archive { on },
    };
    Ok(Call::Mark { conversation: wire::conversation_from_wire(mark.conversation.as_ref(), user)?, mark: what })
}

fn listed(listed: &Listed, user: &UserId) -> v1::Listed {
    v1::Listed {
        conversation: Some(wire::conversation_to_wire(&listed.conversation, user)),
        last: listed.last.get(),
        inbox_seq: wire::seq_to_wire(listed.inbox_seq),
        messages: listed.messages,
        unread: listed.unread(),
        read_upto: listed.read.map_or(0, |read| read.inbox_seq.get()),
        read_seq: listed.read.map_or(0, |read| read.seq.get()),
        muted: listed.muted,
        archived: listed.archived,
    }
}

fn send_of(send: v1::Send, user: &UserId) -> Result<Call, Refusal> {
    Ok(Call::Send {
        conversation: wire::conversation_from_wire(send.conversation.as_ref(), user)?,
        message_id: wire::message_id_from_wire(&send.message_id)?,
        known: wire::seq_from_wire(send.known)?,
        follows: follows_from_wire(&send.follows)?,
        salt: wire::salt_from_wire(send.salt)?,
        body: wire::body_from_wire(send.body)?,
    })
}

fn users_from_wire(names: &[String]) -> Result<Vec<UserId>, Refusal> {
    if names.len() > limits::INLINE_MEMBERS_MAX as usize {
        return Err(Refusal::new(ErrorCode::MembersTooMany, "more members than a conversation may have"));
    }
    names.iter().map(|name| wire::user_from_wire(name)).collect()
}

fn page_limit(limit: u32) -> u32 {
    if limit == 0 { limits::SYNC_ENTRIES_MAX } else { limit.min(limits::SYNC_ENTRIES_MAX) }
}

/// The answer to a call as `user` sees it; `conversation` is the one that `History` asked for.
pub(crate) fn answer(reply: Reply, user: &UserId, conversation: Option<&ConversationId>) -> Said {
    match reply {
        Reply::Committed { seq, duplicate } => Said::Committed(v1::Committed { seq: seq.get(), duplicate }),
        Reply::SendStatus(state) => Said::SendStatus(send_status(state)),
        Reply::Numbers { first, count } => Said::Numbers(v1::Numbers { first: first.get(), count }),
        Reply::Current(number) => Said::CurrentNumber(v1::CurrentNumber { number: number.get() }),
        Reply::Acked(cursor) => Said::Acked(v1::Acked { cursor: cursor.get() }),
        Reply::Marked(now) => Said::Marked(v1::Marked { now: Some(listed(&now, user)) }),
        Reply::List { list, more, unread } => {
            let list = list.iter().map(|one| listed(one, user)).collect();
            Said::ListPage(v1::ListPage { list, more, unread })
        }
        Reply::Sync(page) => {
            let mut out: Vec<_> = page.entries.iter().map(|entry| entries::synced(entry, user)).collect();
            let cut = entries::cut(&mut out, PAGE_BYTES_MAX);
            let last = out.last().filter(|_| cut);
            Said::SyncPage(v1::SyncPage {
                upto: last.and_then(|last| entries::end_of(last.seq)).unwrap_or(page.upto).get(),
                more: page.more || cut,
                too_long: page.too_long,
                trim: page.trim.get(),
                chain: last.map_or_else(|| Bytes::copy_from_slice(&page.chain.0), |last| last.chain.clone()),
                tail: page.tail.get(),
                entries: out,
            })
        }
        Reply::History { entries: found, upto, more } => {
            let mut out = Vec::with_capacity(found.len());
            if let Some(conversation) = conversation {
                out.extend(found.iter().map(|entry| entries::of_history(entry, conversation, user)));
            }
            let cut = entries::cut(&mut out, PAGE_BYTES_MAX);
            let last = out.last().filter(|_| cut).and_then(|last| entries::end_of(last.conversation_seq));
            Said::HistoryPage(v1::HistoryPage { upto: last.unwrap_or(upto).get(), more: more || cut, entries: out })
        }
        Reply::Status { inbox, devices } => {
            let cursor = |(device, cursor): (DeviceId, Seq)| v1::DeviceCursor {
                device: device.as_str().to_owned(),
                cursor: cursor.get(),
            };
            let mut page = v1::StatusPage { devices: devices.into_iter().map(cursor).collect(), ..Default::default() };
            if let Some(inbox) = inbox {
                page.trim = inbox.trim.get();
                page.tail = inbox.tail.get();
                page.ceiling = inbox.ceiling.get();
                page.ordinal = inbox.ordinal;
                page.chain = Bytes::copy_from_slice(&inbox.chain.0);
            }
            Said::StatusPage(page)
        }
    }
}

fn send_status(state: SendState) -> v1::SendStatus {
    let (state, seq) = match state {
        SendState::Committed(seq) => (v1::send_status::State::Committed, seq.get()),
        SendState::Cancelled => (v1::send_status::State::Cancelled, 0),
        SendState::Expired => (v1::send_status::State::Expired, 0),
        SendState::NotYet => (v1::send_status::State::NotYet, 0),
    };
    v1::SendStatus { state: state.into(), seq }
}

/// A frame of ours.
pub(crate) fn server_frame(request_id: u64, body: Said) -> v1::ServerFrame {
    v1::ServerFrame { request_id, body: Some(body), ..Default::default() }
}
