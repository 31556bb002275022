//! `raftctl user verify`: reads an inbox again and proves that nothing is missing, doubled or out of order.
//!
//! Twice, independently: as a device would, by linearizable sync pages through the gateway, with bodies; and from every
//! replica's own applied state. Every link, count and hash is recomputed here; nobody's word is taken.

mod counts;
mod recalls;
mod replica;
mod walk;

use serde_json::json;
use seriatim_proto::command::Kind;
use seriatim_proto::hash;
use seriatim_proto::ids::Seq;
use seriatim_proto::store::InboxEntry;

use self::recalls::Bodies;
use self::replica::{Inbox, Lag, caught_up, compare};
use self::walk::{Walk, check_body};
use super::user::{nothing_arrived, user_id};
use crate::device::{Device, Page};
use crate::failure::{Exit, Failure};
use crate::output::{List, dash, maybe_number, number};
use crate::store;
use crate::target::Target;

/// `user verify`
pub(super) async fn verify(target: &Target, name: &str) -> Result<Exit, Failure> {
    let user = user_id(name)?;
    let mut report = Report::default();
    let device = Device::connect(target, Some(&user)).await?;
    let mut bodies = Bodies::default();
    let synced = through_the_gateway(&device, &mut bodies, &mut report).await?;
    let mut list = List::new("UserVerification", &["source", "entries", "messages", "findings"]);
    let stores = target.stores()?;
    let directory = store::directory(stores, &target.link).await?;
    recalls::check(target, &device, &directory, &bodies, &mut report).await?;
    report.close(&mut list, "gateway (sync)", &synced.entries, None);
    let group = store::group_of(&directory, hash::inbox_slot(target.tenant, &user))?;
    let replicas = directory.groups.iter().find(|found| found.id == group).map(|found| found.replicas.clone());
    let mut arrived = synced.tail > Seq::FIRST;
    for replica in replicas.unwrap_or_default() {
        let address = directory.stores.iter().find(|record| record.id == replica.store).map(|record| &record.address);
        let source = format!("store {} ({})", replica.store, dash(address));
        let read = match address {
            Some(address) => caught_up(target, (replica.store, address), group, &user, &synced).await,
            None => Err(Failure::internal("the directory does not say where it is")),
        };
        match read {
            Ok((copy, lag)) => {
                arrived |= !copy.entries.is_empty();
                compare(&synced, &copy, lag, &mut report);
                report.close(&mut list, &source, &copy.entries, lag);
                if let Some(why) = lag.and_then(unproved) {
                    report.unread += 1;
                    eprintln!("warning: {source} does not have all that sync answered: {why}");
                }
            }
            Err(failure) => {
                report.unread += 1;
                eprintln!("warning: {source} was not read: {}", failure.message);
            }
        }
    }
    if !arrived && report.all.is_empty() {
        return Err(nothing_arrived(target, &user));
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

/// Why a replica that has less than sync answered proves nothing of what it lacks.
fn unproved(lag: Lag) -> Option<String> {
    match lag {
        Lag::Behind(count) => Some(format!("it is behind by {count}")),
        Lag::Unknown => Some("it is perhaps behind, nobody leads its group".to_owned()),
        Lag::None => None,
    }
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
    fn close(&mut self, list: &mut List, source: &str, entries: &[InboxEntry], lag: Option<Lag>) {
        let found = self.all[self.closed..].to_vec();
        self.all[self.closed..].iter_mut().for_each(|finding| *finding = format!("{source}: {finding}"));
        self.closed = self.all.len();
        let messages = entries.iter().filter(|entry| entry.entry.kind == Kind::Message).count();
        let mut verdict = if found.is_empty() { "none".to_owned() } else { found.len().to_string() };
        let behind = match lag {
            Some(Lag::Behind(count)) => {
                verdict = format!("{verdict}, behind by {count}");
                Some(count)
            }
            Some(Lag::Unknown) => {
                verdict = format!("{verdict}, perhaps behind");
                None
            }
            Some(Lag::None) | None => None,
        };
        list.push(
            vec![source.to_owned(), entries.len().to_string(), messages.to_string(), verdict],
            json!({
                "source": source,
                "entries": number(entries.len() as u64),
                "messages": number(messages as u64),
                "tail": entries.last().map_or(serde_json::Value::Null, |entry| number(entry.seq.get())),
                "chain": entries.last().map(|entry| entry.chain.to_string()),
                "behind": maybe_number(behind),
                "findings": found,
            }),
        );
    }
}

/// Everything that a device gets.
async fn through_the_gateway(device: &Device, bodies: &mut Bodies, report: &mut Report) -> Result<Inbox, Failure> {
    let mut walk: Option<Walk> = None;
    let mut entries = Vec::new();
    let mut from = None;
    loop {
        let page: Page = device.sync(from).await?;
        if page.too_long {
            // Trimmed since the page before: what is left is read from its start.
            (walk, entries, from) = (None, Vec::new(), None);
            *bodies = Bodies::default();
            report.all.truncate(report.closed);
            continue;
        }
        let walk = walk.get_or_insert_with(|| Walk::from(page.trim));
        for (entry, body) in page.entries {
            walk.step(&entry, report);
            check_body(&entry, &body, report);
            bodies.note(&entry, &body);
            entries.push(entry);
        }
        if walk.knows_chain() && page.chain != walk.chain {
            report.find(format!("the page up to {} says another chain than its entries make", page.upto));
        }
        if !page.more {
            if entries.is_empty() && page.trim < page.tail {
                report.find(format!("there are no entries, and those from {} to {} are kept", page.trim, page.tail));
            }
            if page.upto < page.tail {
                report.find(format!("the last page ends at {}, below the tail {}", page.upto, page.tail));
            }
            return Ok(Inbox { entries, trim: page.trim, tail: page.tail, listing: None });
        }
        if from == Some(page.upto) {
            report.find(format!("sync does not get on from {}", page.upto));
            return Ok(Inbox { entries, trim: page.trim, tail: page.tail, listing: None });
        }
        from = Some(page.upto);
    }
}
