//! `raftctl user verify`: reads an inbox again and proves that nothing is missing, doubled or out of order.
//!
//! Twice, independently: as a device would, by linearizable sync pages through the gateway, with bodies; and from every
//! replica's own applied state. Every link, count and hash is recomputed here; nobody's word is taken.

use std::collections::HashMap;

use serde_json::json;
use seriatim_proto::chain::body_hash;
use seriatim_proto::command::Kind;
use seriatim_proto::hash;
use seriatim_proto::ids::{Chain, ConversationId, MessageId, Seq, UserId};
use seriatim_proto::limits::READ_ROWS_MAX;
use seriatim_proto::store::{Freshness, InboxEntry, Read, ReadOutcome};

use super::user::user_id;
use crate::device::{Body, Device, Page};
use crate::failure::{Exit, Failure};
use crate::output::{List, number};
use crate::store;
use crate::target::Target;

/// `user verify`
pub(super) async fn verify(target: &Target, name: &str) -> Result<Exit, Failure> {
    let user = user_id(name)?;
    let mut report = Report::default();
    let synced = through_the_gateway(target, &user, &mut report).await?;
    let mut list = List::new("UserVerification", &["source", "entries", "messages", "findings"]);
    report.close(&mut list, "gateway (sync)", &synced);
    let stores = target.stores()?;
    let directory = store::directory(stores, target.timeout).await?;
    let group = store::group_of(&directory, hash::inbox_slot(target.tenant, &user))?;
    let replicas = directory.groups.iter().find(|found| found.id == group).map(|found| found.replicas.clone());
    for replica in replicas.unwrap_or_default() {
        let Some(record) = directory.stores.iter().find(|record| record.id == replica.store) else { continue };
        let source = format!("store {} ({})", replica.store, record.address);
        match from_replica(target, &record.address, group, &user).await {
            Ok(entries) => {
                compare(&synced, &entries, &mut report);
                report.close(&mut list, &source, &entries);
            }
            Err(failure) => {
                report.unread += 1;
                eprintln!("warning: {source} was not read: {}", failure.message);
            }
        }
    }
    list.print(target.output)?;
    for finding in &report.all {
        eprintln!("FOUND {finding}");
    }
    if !report.all.is_empty() {
        return Ok(Exit::Violation);
    }
    Ok(if report.unread > 0 { Exit::Unhealthy } else { Exit::Ok })
}

/// What was found, by source.
#[derive(Default)]
struct Report {
    all: Vec<String>,
    closed: usize,
    unread: usize,
}

impl Report {
    fn find(&mut self, finding: String) {
        self.all.push(finding);
    }

    /// One row for a source that was read.
    fn close(&mut self, list: &mut List, source: &str, entries: &[InboxEntry]) {
        let found = self.all[self.closed..].to_vec();
        self.closed = self.all.len();
        let messages = entries.iter().filter(|entry| entry.entry.kind == Kind::Message).count();
        let verdict = if found.is_empty() { "none".to_owned() } else { found.len().to_string() };
        list.push(
            vec![source.to_owned(), entries.len().to_string(), messages.to_string(), verdict],
            json!({
                "source": source,
                "entries": number(entries.len() as u64),
                "messages": number(messages as u64),
                "tail": entries.last().map_or(serde_json::Value::Null, |entry| number(entry.seq.get())),
                "chain": entries.last().map(|entry| entry.chain.to_string()),
                "findings": found,
            }),
        );
    }
}

/// Everything that a device gets.
async fn through_the_gateway(target: &Target, user: &UserId, report: &mut Report) -> Result<Vec<InboxEntry>, Failure> {
    let device = Device::connect(target, Some(user)).await?;
    let mut walk = Walk::default();
    let mut entries = Vec::new();
    let mut from = None;
    loop {
        let page: Page = device.sync(from).await?;
        if page.too_long {
            report.find(format!("entries below {} were trimmed; what is left is verified", page.trim));
        }
        for (entry, body) in page.entries {
            walk.step(&entry, report);
            check_body(&entry, &body, report);
            entries.push(entry);
        }
        if page.chain != walk.chain {
            report.find(format!("the page up to {} says another chain than its entries make", page.upto));
        }
        if !page.more {
            if page.upto < page.tail {
                report.find(format!("the last page ends at {}, below the tail {}", page.upto, page.tail));
            }
            return Ok(entries);
        }
        if from == Some(page.upto) {
            report.find(format!("sync does not get on from {}", page.upto));
            return Ok(entries);
        }
        from = Some(page.upto);
    }
}

/// Everything that a replica has applied.
async fn from_replica(
    target: &Target,
    address: &str,
    group: seriatim_proto::ids::GroupId,
    user: &UserId,
) -> Result<Vec<InboxEntry>, Failure> {
    let mut entries: Vec<InboxEntry> = Vec::new();
    loop {
        let read = Read::Inbox {
            tenant: target.tenant,
            user: user.clone(),
            from: entries.last().map(|entry| entry.seq.next()),
            limit: READ_ROWS_MAX,
        };
        let answer = store::read(address, group, Freshness::Stale, vec![read], target.timeout).await?;
        let outcomes = answer.map_err(|refusal| Failure::unreachable(format!("the replica refused: {refusal}")))?;
        let Some(ReadOutcome::Inbox { entries: rows, .. }) = outcomes.into_iter().next() else {
            return Err(Failure::internal("the replica answered something else than was asked"));
        };
        if rows.is_empty() {
            return Ok(entries);
        }
        entries.extend(rows);
    }
}

/// A replica may be behind, and ahead of the sync that was read before; where both have entries, they are the same.
fn compare(synced: &[InboxEntry], replica: &[InboxEntry], report: &mut Report) {
    let mut walk = Walk::default();
    for entry in replica {
        walk.step(entry, report);
    }
    for (place, (one, other)) in synced.iter().zip(replica).enumerate() {
        if one != other {
            let places = format!("{} and {}", one.seq, other.seq);
            report.find(format!("entry number {place} differs between sync and replica ({places})"));
        }
    }
}

fn check_body(entry: &InboxEntry, body: &Body, report: &mut Report) {
    let at = format!("entry {} ({} seq {})", entry.seq, entry.conversation, entry.entry.seq);
    match body {
        Body::Here { salt, body }
            if entry.entry.kind == Kind::Message && body_hash(salt, body) != entry.entry.body_hash =>
        {
            report.find(format!("{at}: the body does not have the hash of its reference"));
        }
        Body::Missing(why) if entry.entry.kind == Kind::Message => report.find(format!("{at}: the body is {why}")),
        _ => {}
    }
}

/// Recomputes links and counts along an inbox.
#[derive(Default)]
struct Walk {
    last: Option<Seq>,
    chain: Chain,
    ordinal: u64,
    conversations: HashMap<ConversationId, Seq>,
    messages: HashMap<(ConversationId, UserId, MessageId), Seq>,
}

impl Walk {
    fn step(&mut self, entry: &InboxEntry, report: &mut Report) {
        let at = format!("entry {}", entry.seq);
        if self.last.is_some_and(|last| entry.seq <= last) {
            report.find(format!("{at}: out of order, it comes behind {}", self.last.unwrap_or(entry.seq)));
        }
        if entry.prev_seq != self.last {
            report
                .find(format!("{at}: its link leads to {:?}, the entry before it is {:?}", entry.prev_seq, self.last));
        }
        let ordinal = self.ordinal + u64::from(entry.entry.kind == Kind::Message);
        if entry.ordinal != ordinal {
            report.find(format!("{at}: it counts {} messages, there are {ordinal}", entry.ordinal));
        }
        if entry.link_from(self.chain) != entry.chain {
            report.find(format!("{at}: the chain is broken"));
        }
        let before = self.conversations.insert(entry.conversation.clone(), entry.entry.seq);
        if before.is_some_and(|before| entry.entry.seq <= before) {
            report.find(format!("{at}: {} goes back to seq {}", entry.conversation, entry.entry.seq));
        }
        let key = (entry.conversation.clone(), entry.entry.sender.clone(), entry.entry.message_id);
        if let Some(first) = self.messages.insert(key, entry.seq) {
            report.find(format!("{at}: message {} is there twice, first at {first}", entry.entry.message_id));
        }
        // Goes on from what the entry says, so that one break is one finding.
        (self.last, self.chain, self.ordinal) = (Some(entry.seq), entry.chain, entry.ordinal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use seriatim_proto::command::EntryRef;
    use seriatim_proto::ids::BodyHash;

    fn inbox(count: u64) -> Vec<InboxEntry> {
        let (alice, bob) = (UserId::new("alice").unwrap(), UserId::new("bob").unwrap());
        let mut entries: Vec<InboxEntry> = Vec::new();
        for number in 1..=count {
            let mut entry = InboxEntry {
                seq: Seq::new(number * 2).unwrap(),
                prev_seq: entries.last().map(|last| last.seq),
                ordinal: number,
                chain: Chain::default(),
                conversation: ConversationId::direct(alice.clone(), bob.clone()),
                entry: EntryRef {
                    seq: Seq::new(number).unwrap(),
                    kind: Kind::Message,
                    sender: alice.clone(),
                    message_id: MessageId([u8::try_from(number).unwrap(); 16]),
                    body_hash: BodyHash::default(),
                    at_ms: number,
                },
            };
            entry.chain = entry.link_from(entries.last().map_or_else(Chain::default, |last| last.chain));
            entries.push(entry);
        }
        entries
    }

    fn findings(entries: &[InboxEntry]) -> usize {
        let (mut walk, mut report) = (Walk::default(), Report::default());
        entries.iter().for_each(|entry| walk.step(entry, &mut report));
        report.all.len()
    }

    #[test]
    fn a_whole_inbox_has_no_findings() {
        assert_eq!(findings(&inbox(5)), 0);
    }

    #[test]
    fn a_missing_entry_is_found() {
        let mut entries = inbox(5);
        entries.remove(2);
        assert!(findings(&entries) > 0);
    }

    #[test]
    fn a_doubled_entry_is_found() {
        let mut entries = inbox(5);
        entries.insert(2, entries[2].clone());
        assert!(findings(&entries) > 0);
    }

    #[test]
    fn a_changed_header_breaks_the_chain() {
        let mut entries = inbox(5);
        entries[2].entry.at_ms += 1;
        assert_eq!(findings(&entries), 1);
    }

    #[test]
    fn swapped_entries_are_found() {
        let mut entries = inbox(5);
        entries.swap(1, 2);
        assert!(findings(&entries) > 0);
    }

    #[test]
    fn a_replica_behind_is_no_finding_and_another_entry_is() {
        let entries = inbox(5);
        let mut report = Report::default();
        compare(&entries, &entries[..3], &mut report);
        assert!(report.all.is_empty());
        let mut other = entries.clone();
        other[4].entry.at_ms += 1;
        compare(&entries, &other, &mut report);
        assert_eq!(report.all.len(), 2);
    }
}
