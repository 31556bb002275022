//! `raftctl msg edit|recall|react|pin|show` and `raftctl conversation show`: what is said about messages, as a user
//! says it, and what became of them, from the leader of their group.

use bytes::Bytes;
use serde_json::{Value, json};
use seriatim_client::{AmendRequest, Amendment};
use seriatim_proto::command::Kind;
use seriatim_proto::hash;
use seriatim_proto::ids::{ConversationId, Emoji, Seq};
use seriatim_proto::store::{Amendments, ConversationState, Read, ReadOutcome, StoredMessage};

use super::send::route;
use super::user::{holder_text, user_id};
use crate::cli::{Route, Target as Of};
use crate::device::{Device, request_failure};
use crate::failure::{Exit, Failure};
use crate::output::{List, dash, maybe_number, number};
use crate::store;
use crate::target::Target;

fn place(of: &Of) -> Result<Seq, Failure> {
    Seq::new(of.seq).ok_or_else(|| Failure::usage(format!("{} is no seq", of.seq)))
}

/// `msg edit`
pub(super) async fn edit(target: &Target, of: &Of, text: &str) -> Result<Exit, Failure> {
    let (_, conversation) = route(&of.route)?;
    let body = Bytes::copy_from_slice(text.as_bytes());
    amend(target, of, "edit", AmendRequest::edit(conversation, place(of)?, body).amendment).await
}

/// `msg recall`
pub(super) async fn recall(target: &Target, of: &Of) -> Result<Exit, Failure> {
    amend(target, of, "recall", Amendment::Recall).await
}

/// `msg react`
pub(super) async fn react(target: &Target, of: &Of, emoji: &str, unset: bool) -> Result<Exit, Failure> {
    let emoji = Emoji::new(emoji).map_err(|error| Failure::usage(format!("`{emoji}` is no reaction: {error}")))?;
    amend(target, of, "react to", Amendment::React { emoji, set: !unset }).await
}

/// `msg pin`
pub(super) async fn pin(target: &Target, of: &Of, unset: bool) -> Result<Exit, Failure> {
    amend(target, of, if unset { "unpin" } else { "pin" }, Amendment::Pin { set: !unset }).await
}

async fn amend(target: &Target, of: &Of, act: &str, amendment: Amendment) -> Result<Exit, Failure> {
    let (sender, conversation) = route(&of.route)?;
    let message = place(of)?;
    let device = Device::connect(target, sender.as_ref()).await?;
    let request = AmendRequest::new(conversation.clone(), message, amendment);
    let id = request.message_id;
    let committed = device.client.amend(request).await.map_err(|error| {
        let failure = request_failure(&format!("failed to {act} message {message}"), &error);
        match error.is_unknown() {
            true => {
                failure.hint(format!("perhaps it happened: raftctl msg status {id} says so, msg cancel settles it"))
            }
            false => failure,
        }
    })?;
    let conversation = conversation.id_for(&device.user).to_string();
    let mut list = List::new("Amendment", &["message id", "conversation", "target", "seq", "duplicate"]);
    list.push(
        vec![
            id.to_string(),
            conversation.clone(),
            message.to_string(),
            committed.seq.to_string(),
            committed.duplicate.to_string(),
        ],
        json!({
            "messageId": id.to_string(),
            "conversation": conversation,
            "target": number(message.get()),
            "seq": number(committed.seq.get()),
            "duplicate": committed.duplicate,
        }),
    );
    list.print(target.output)?;
    Ok(Exit::Ok)
}

/// The conversation that a route names, without a device: of a direct one both users must be known.
fn conversation_of(asked: &Route) -> Result<ConversationId, Failure> {
    let (sender, conversation) = route(asked)?;
    match (sender, &conversation) {
        (Some(sender), _) => Ok(conversation.id_for(&sender)),
        (None, seriatim_client::Conversation::Group(key)) => Ok(ConversationId::Group(*key)),
        (None, seriatim_client::Conversation::Peer(_)) => {
            Err(Failure::usage("a direct conversation has two users: say one with --as, the other with --to"))
        }
    }
}

/// `msg show`
pub(super) async fn show(target: &Target, of: &Of) -> Result<Exit, Failure> {
    let (conversation, message) = (conversation_of(&of.route)?, place(of)?);
    let tenant = target.tenant;
    let stores = target.stores()?;
    let directory = store::directory(stores, &target.link).await?;
    let group = store::group_of(&directory, hash::conversation_slot(tenant, &conversation))?;
    let reads = [
        Read::MessagesAt { tenant, conversation: conversation.clone(), seqs: vec![message] },
        Read::Amendments { tenant, conversation: conversation.clone(), target: message },
    ];
    let outcomes = store::read_at_leader(stores, group, &reads, &target.link).await?;
    let [ReadOutcome::Messages(messages), ReadOutcome::Amendments(amendments)] = &outcomes[..] else {
        return Err(Failure::internal(format!("group {group} answered something else than was asked")));
    };
    let Some(found) = messages.first() else {
        let text = format!("nothing is at {message} of {conversation} (tenant {tenant})");
        return Err(Failure::not_found(text));
    };
    let mut list = List::new("Message", &["what", "value"]);
    list.rows = rows(&conversation, found, amendments);
    list.items.push(item(&conversation, found, amendments));
    list.print(target.output)?;
    Ok(Exit::Ok)
}

fn rows(conversation: &ConversationId, found: &StoredMessage, amendments: &Amendments) -> Vec<Vec<String>> {
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let entry = &found.entry;
    let mut rows = vec![
        row("conversation", conversation.to_string()),
        row("seq", entry.seq.to_string()),
        row("kind", entry.kind.name().to_owned()),
        row("sender", entry.sender.to_string()),
        row("message id", entry.message_id.to_string()),
        row("at ms", entry.at_ms.to_string()),
        row("body", if found.erased { "erased".to_owned() } else { format!("{} bytes", found.body.len()) }),
    ];
    if let Some(of) = entry.kind.target() {
        rows.push(row("about", of.to_string()));
    }
    if entry.kind == Kind::Message {
        let edits = amendments.edits.iter().map(ToString::to_string).collect::<Vec<_>>();
        rows.push(row("edited at", dash(Some(edits.join(", ")).filter(|edits| !edits.is_empty()))));
        rows.push(row("recalled at", dash(amendments.recalled)));
        rows.push(row("pinned at", dash(amendments.pinned)));
    }
    for (user, emoji, seq) in &amendments.reactions {
        rows.push(row(&format!("reaction of {user}"), format!("{emoji} (at {seq})")));
    }
    rows
}

fn item(conversation: &ConversationId, found: &StoredMessage, amendments: &Amendments) -> Value {
    let entry = &found.entry;
    let reaction = |(user, emoji, seq): &(seriatim_proto::ids::UserId, Emoji, Seq)| json!({"user": user.as_str(), "emoji": emoji.as_str(), "seq": number(seq.get())});
    json!({
        "conversation": conversation.to_string(),
        "seq": number(entry.seq.get()),
        "kind": entry.kind.name(),
        "target": maybe_number(entry.kind.target().map(Seq::get)),
        "sender": entry.sender.as_str(),
        "messageId": entry.message_id.to_string(),
        "atMs": number(entry.at_ms),
        "bodyBytes": number(found.body.len() as u64),
        "erased": found.erased,
        "editedAt": amendments.edits.iter().map(|seq| number(seq.get())).collect::<Vec<_>>(),
        "recalledAt": maybe_number(amendments.recalled.map(Seq::get)),
        "pinnedAt": maybe_number(amendments.pinned.map(Seq::get)),
        "reactions": amendments.reactions.iter().map(reaction).collect::<Vec<_>>(),
    })
}

/// `conversation show`
pub(super) async fn conversation(target: &Target, asked: &Route) -> Result<Exit, Failure> {
    let conversation = conversation_of(asked)?;
    let tenant = target.tenant;
    let stores = target.stores()?;
    let directory = store::directory(stores, &target.link).await?;
    let slot = hash::conversation_slot(tenant, &conversation);
    let group = store::group_of(&directory, slot)?;
    let reads = [
        Read::Conversation { tenant, conversation: conversation.clone() },
        Read::Pins { tenant, conversation: conversation.clone() },
        Read::Holder(slot),
    ];
    let outcomes = store::read_at_leader(stores, group, &reads, &target.link).await?;
    let [ReadOutcome::Conversation(state), ReadOutcome::Pins(pins), ReadOutcome::Holder(holder)] = &outcomes[..] else {
        return Err(Failure::internal(format!("group {group} answered something else than was asked")));
    };
    let Some(state) = state else {
        return Err(Failure::not_found(format!("there is no conversation {conversation} (tenant {tenant})")));
    };
    let ConversationState { namespace, stays, delivered, pending } = state;
    let members: Vec<_> = stays.iter().filter(|stay| stay.left.is_none()).collect();
    let row = |what: &str, value: String| vec![what.to_owned(), value];
    let mut list = List::new("Conversation", &["what", "value"]);
    list.rows = vec![
        row("conversation", conversation.to_string()),
        row("tenant", tenant.to_string()),
        row("slot", slot.to_string()),
        row("group", group.to_string()),
        row("holder", holder_text(&directory, holder)),
        row("trim", namespace.trim.to_string()),
        row("tail", namespace.tail.to_string()),
        row("ceiling", namespace.ceiling.to_string()),
        row("messages", namespace.ordinal.to_string()),
        row("members", members.len().to_string()),
        row("delivered to all", dash(delivered.all)),
        row("slots behind", delivered.behind.len().to_string()),
        row("undelivered", if *pending { "yes" } else { "no" }.to_owned()),
    ];
    list.rows
        .extend(members.iter().map(|stay| row(&format!("member {}", stay.user), format!("since {}", stay.joined))));
    list.rows.extend(pins.iter().map(|(message, seq)| row(&format!("pinned {message}"), format!("at {seq}"))));
    list.items.push(json!({
        "conversation": conversation.to_string(),
        "tenant": tenant.0,
        "slot": slot.0,
        "group": group.0,
        "holder": maybe_number(holder.holder.map(|holder| holder.0)),
        "trim": number(namespace.trim.get()),
        "tail": number(namespace.tail.get()),
        "ceiling": number(namespace.ceiling.get()),
        "messages": number(namespace.ordinal),
        "deliveredToAll": maybe_number(delivered.all.map(Seq::get)),
        "slotsBehind": delivered.behind.len(),
        "undelivered": pending,
        "members": members.iter().map(|stay| json!({"user": stay.user.as_str(), "since": number(stay.joined.get())})).collect::<Vec<_>>(),
        "pins": pins.iter().map(|(message, seq)| json!({"target": number(message.get()), "seq": number(seq.get())})).collect::<Vec<_>>(),
    }));
    list.print(target.output)?;
    Ok(Exit::Ok)
}

/// `conversation ls`
pub(super) async fn conversations(target: &Target, user: Option<&str>) -> Result<Exit, Failure> {
    let user = user.map(user_id).transpose()?;
    let device = Device::connect(target, user.as_ref()).await?;
    let mut list = List::new(
        "ConversationList",
        &["conversation", "last", "messages", "unread", "read up to", "muted", "archived"],
    );
    let mut after = None;
    loop {
        let asked = device.client.list(after.as_ref(), 0).await;
        let page = asked.map_err(|error| request_failure("failed to list the conversations", &error))?;
        after = page.list.last().map(|last| last.conversation.clone());
        for one in page.list {
            let name = one.conversation.id_for(&device.user).to_string();
            let read = one.read.map(|(_, seq)| seq);
            let yes = |set: bool| if set { "yes" } else { "no" }.to_owned();
            list.push(
                vec![
                    name.clone(),
                    one.last.to_string(),
                    one.messages.to_string(),
                    one.unread.to_string(),
                    dash(read),
                    yes(one.muted),
                    yes(one.archived),
                ],
                json!({
                    "conversation": name,
                    "last": number(one.last.get()),
                    "inboxSeq": maybe_number(one.inbox_seq.map(Seq::get)),
                    "messages": number(one.messages),
                    "unread": number(one.unread),
                    "readUpto": maybe_number(one.read.map(|(upto, _)| upto.get())),
                    "readSeq": maybe_number(read.map(Seq::get)),
                    "muted": one.muted,
                    "archived": one.archived,
                }),
            );
        }
        if !page.more || after.is_none() {
            break;
        }
    }
    list.print(target.output)?;
    Ok(Exit::Ok)
}
