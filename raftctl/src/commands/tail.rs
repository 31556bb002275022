//! `raftctl user tail`: the last entries of an inbox, and what comes.

use std::collections::VecDeque;

use futures_util::StreamExt;
use serde_json::{Value, json};
use seriatim_client::{Entry, EntryBody, Kind};
use seriatim_proto::ids::{Emoji, Seq};

use super::user::{nothing_arrived, user_id};
use crate::cli::Format;
use crate::device::{Device, request_failure};
use crate::failure::{Exit, Failure};
use crate::output::{API_VERSION, List, number, print_text};
use crate::target::Target;

/// Columns of the table.
const COLUMNS: &[&str] = &["seq", "at", "conversation", "conv seq", "sender", "what"];

/// What to show.
pub(super) struct Wanted {
    pub(super) follow: bool,
    pub(super) lines: usize,
    pub(super) from: Option<u64>,
}

/// `user tail`
pub(super) async fn tail(target: &Target, name: &str, wanted: Wanted) -> Result<Exit, Failure> {
    let user = user_id(name)?;
    let device = Device::connect(target, Some(&user)).await?;
    let first = match wanted.from {
        Some(from) => Some(Seq::new(from).ok_or_else(|| Failure::usage(format!("{from} is no seq")))?),
        None => None,
    };
    let mut kept: VecDeque<Entry> = VecDeque::new();
    let mut from = first;
    let (upto, tail) = loop {
        let page = device.client.sync(from, 0).await.map_err(|error| request_failure("failed to sync", &error))?;
        for entry in page.entries {
            kept.push_back(entry);
            if first.is_none() && kept.len() > wanted.lines {
                kept.pop_front();
            }
        }
        if !page.more {
            break (page.upto, page.tail);
        }
        from = Some(page.upto);
    };
    // Who follows waits for the first one, too.
    if tail == Seq::FIRST && kept.is_empty() && !wanted.follow {
        return Err(nothing_arrived(target, &user));
    }
    let mut list = List::new("EntryList", COLUMNS);
    for entry in &kept {
        list.push(row(entry, &device), item(entry, &device));
    }
    list.print(target.output)?;
    if wanted.follow { follow(target, &device, upto).await } else { Ok(Exit::Ok) }
}

/// One line per entry, until Ctrl-C. With `-o json`, one list of one item per line.
async fn follow(target: &Target, device: &Device, from: Seq) -> Result<Exit, Failure> {
    let mut inbox = device.client.subscribe(from, None);
    while let Some(entry) = inbox.next().await {
        let entry = entry.map_err(|error| Failure::internal(format!("the subscription ended: {error}")))?;
        match target.output {
            Format::Table => print_text(&row(&entry, device).join("  "))?,
            Format::Json => {
                let list = json!({"apiVersion": API_VERSION, "kind": "EntryList", "items": [item(&entry, device)]});
                print_text(&list.to_string())?;
            }
        }
    }
    Ok(Exit::Ok)
}

fn row(entry: &Entry, device: &Device) -> Vec<String> {
    vec![
        entry.seq.to_string(),
        time_of_day(entry.at_ms),
        entry.conversation.id_for(&device.user).to_string(),
        entry.conversation_seq.to_string(),
        entry.sender.to_string(),
        what(entry),
    ]
}

fn item(entry: &Entry, device: &Device) -> Value {
    let users =
        |users: &[seriatim_proto::ids::UserId]| users.iter().map(|user| json!(user.as_str())).collect::<Vec<_>>();
    let (state, body) = match &entry.body {
        EntryBody::Here { body, .. } => ("here", Some(String::from_utf8_lossy(body).into_owned())),
        EntryBody::Erased => ("erased", None),
        EntryBody::Trimmed => ("trimmed", None),
        EntryBody::Unavailable => ("unavailable", None),
    };
    json!({
        "seq": number(entry.seq.get()),
        "prevSeq": entry.prev_seq.map(|seq| number(seq.get())),
        "ordinal": number(entry.ordinal),
        "conversation": entry.conversation.id_for(&device.user).to_string(),
        "conversationSeq": number(entry.conversation_seq.get()),
        "kind": entry.kind.name(),
        "target": entry.kind.target().map(|target| number(target.get())),
        "emoji": entry.emoji.as_ref().map(Emoji::as_str),
        "unset": entry.unset,
        "sender": entry.sender.as_str(),
        "messageId": entry.message_id.to_string(),
        "atMs": number(entry.at_ms),
        "bodyState": state,
        "body": body,
        "added": users(&entry.added),
        "removed": users(&entry.removed),
    })
}

/// What an entry says, on one line and without control characters.
fn what(entry: &Entry) -> String {
    let names =
        |users: &[seriatim_proto::ids::UserId]| users.iter().map(|user| user.as_str()).collect::<Vec<_>>().join(", ");
    let text = || match &entry.body {
        EntryBody::Here { body, .. } => {
            String::from_utf8_lossy(body).chars().map(|one| if one.is_control() { ' ' } else { one }).collect()
        }
        EntryBody::Erased => "(erased)".to_owned(),
        EntryBody::Trimmed => "(trimmed)".to_owned(),
        EntryBody::Unavailable => "(unavailable)".to_owned(),
    };
    let emoji = || entry.emoji.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
    match (entry.kind, entry.unset) {
        (Kind::Message, _) => text(),
        (Kind::Create, _) => format!("(created, with {})", names(&entry.added)),
        (Kind::Members, _) => format!("(joined: {}; left: {})", names(&entry.added), names(&entry.removed)),
        (Kind::Edit { target }, _) => format!("(edited {target}: {})", text()),
        (Kind::Recall { target }, _) => format!("(recalled {target})"),
        (Kind::Reaction { target }, false) => format!("({} to {target})", emoji()),
        (Kind::Reaction { target }, true) => format!("({} to {target} taken back)", emoji()),
        (Kind::Pin { target }, false) => format!("(pinned {target})"),
        (Kind::Read, _) => format!("(read up to {})", entry.conversation_seq),
        (Kind::Mute { on: true }, _) => "(muted)".to_owned(),
        (Kind::Mute { on: false }, _) => "(not muted any more)".to_owned(),
        (Kind::Archive { on: true }, _) => "(archived)".to_owned(),
        (Kind::Archive { on: false }, _) => "(not archived any more)".to_owned(),
        (Kind::Pin { target }, true) => format!("(unpinned {target})"),
    }
}

/// UTC, to the second.
fn time_of_day(at_ms: u64) -> String {
    let seconds = at_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
