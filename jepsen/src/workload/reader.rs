//! Reader: reads a conversation's history as an operation of the log.

use seriatim_client::{Client, Conversation, Entry};
use seriatim_proto::ids::{Seq, UserId};
use tracing::debug;

use super::notebook::unanswered;
use super::process::Process;
use super::stage::Stage;
use crate::history::{Ended, Function, Item, Op};

/// Pages of one read of everything.
const PAGES_MAX: u32 = 10_000;

/// A conversation as its member names it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) user: &'a UserId,
    pub(crate) conversation: &'a Conversation,
}

/// Reads from `from` on: one page of at most `limit` entries, or everything (0). `None`: there was no answer.
///
/// Several pages are one operation: what is below a page's end never changes, so all of it is what the last page's
/// moment would have shown.
pub(crate) async fn read(
    stage: &Stage,
    process: &Process,
    client: &Client,
    place: Place<'_>,
    from: u64,
    limit: u32,
) -> Option<Vec<Entry>> {
    let key = place.conversation.id_for(place.user).to_string();
    let call = stage.clock.now();
    let fetched = fetch(client, place.conversation, from, limit).await;
    let interval = (call, stage.clock.now());
    let number = process.number();
    let Some(Fetched { entries, more }) = fetched else {
        let op = unanswered(number, &key, Function::Sync, interval);
        stage.notebook.op(&Op { from: Some(from), limit: Some(u64::from(limit)), ..op });
        return None;
    };
    let items = items(&entries);
    // A page that was cut has as many entries as it has, whatever was asked for.
    let limit = if more { items.len() as u64 } else { 0 };
    if !(more && items.is_empty()) {
        let op = Op::new(number, &key, Function::Sync, interval, Ended::Ok);
        stage.notebook.op(&Op { from: Some(from), limit: Some(limit), items: Some(items), ..op });
    }
    Some(entries)
}

/// What was read.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) entries: Vec<Entry>,
    /// there is more behind it
    pub(crate) more: bool,
}

/// Reads without writing it down. `limit` 0: everything.
pub(crate) async fn fetch(client: &Client, conversation: &Conversation, from: u64, limit: u32) -> Option<Fetched> {
    let mut all = Vec::new();
    let mut at = Seq::new(from)?;
    for _ in 0..PAGES_MAX {
        let page = match client.history(conversation, Some(at), limit).await {
            Ok(page) => page,
            Err(error) => {
                debug!(%error, "history not read");
                return None;
            }
        };
        all.extend(page.entries);
        if !page.more || limit > 0 {
            return Some(Fetched { entries: all, more: page.more });
        }
        if page.upto <= at {
            debug!(upto = %page.upto, "history does not get on");
            return None;
        }
        at = page.upto;
    }
    None
}

/// Seqs and ids.
fn items(entries: &[Entry]) -> Vec<Item> {
    entries.iter().map(|entry| Item { seq: entry.conversation_seq.get(), id: entry.message_id.to_string() }).collect()
}
