//! Records: what devices were given, in memory and compact, by user.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde::Serialize;

use super::contents::{Contents, FirstSeen};
use crate::check::denied;
use crate::check::tape::Tape;
use crate::check::verdict::{Findings, SeenCounts};
use crate::check::{CheckOptions, Evidence};
use crate::history::{CONVERSATION_FILE, ConversationRead, INBOX_FILE, LineError, Seen, SeenEntry, for_each_line};

/// A copy of an entry, as a device was given it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sight {
    pub(crate) seq: u64,
    /// 0 for none
    pub(crate) prev: u64,
    pub(crate) ordinal: u64,
    pub(crate) content: u32,
    pub(crate) device: u32,
    pub(crate) at: u64,
    pub(crate) line: u64,
}

/// A page of sync; its entries are a range of the inbox's sights.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Page {
    pub(crate) line: u64,
    pub(crate) proc: u64,
    pub(crate) device: u32,
    pub(crate) gateway: u32,
    pub(crate) call: u64,
    pub(crate) ret: u64,
    pub(crate) from: u64,
    pub(crate) upto: u64,
    pub(crate) tail: u64,
    pub(crate) trim: u64,
    pub(crate) more: bool,
    pub(crate) too_long: bool,
    pub(crate) chain_broken: bool,
    pub(crate) last: bool,
    pub(crate) bodies_missing: u64,
    pub(crate) sights: Range<usize>,
}

impl Page {
    /// The first seq that it speaks of.
    pub(crate) fn start(&self) -> u64 {
        if self.too_long || self.from == 0 { self.trim.max(self.from) } else { self.from }
    }
}

/// A life of a subscription.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Session {
    pub(crate) from: u64,
    /// of the inbox, in the order in which they came
    pub(crate) sights: Vec<usize>,
}

/// A cursor acknowledged or read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CursorOp {
    pub(crate) line: u64,
    pub(crate) call: u64,
    pub(crate) ret: u64,
    pub(crate) wanted: Option<u64>,
    pub(crate) answered: Option<u64>,
}

/// All that the devices of a user were given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) sights: Vec<Sight>,
    pub(crate) pages: Vec<Page>,
    /// by device and number
    pub(crate) sessions: BTreeMap<(u32, u64), Session>,
    /// by device
    pub(crate) cursors: BTreeMap<u32, Vec<CursorOp>>,
}

/// A conversation as a member read it at the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reading {
    pub(crate) line: u64,
    pub(crate) conversation: u32,
    pub(crate) user: u32,
    pub(crate) call: u64,
    pub(crate) ret: u64,
    /// ordinal and content, as they came
    pub(crate) entries: Vec<(u64, u32)>,
}

/// All of a run but its operations.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) contents: Contents,
    /// by user
    pub(crate) inboxes: BTreeMap<u32, Inbox>,
    pub(crate) readings: Vec<Reading>,
    pub(crate) counts: SeenCounts,
}

/// A sight as evidence.
#[derive(Serialize)]
struct Told<'a> {
    user: &'a str,
    device: &'a str,
    seq: u64,
    prev_seq: u64,
    ordinal: u64,
    entry: String,
    at: u64,
}

/// A page as evidence.
#[derive(Serialize)]
struct ToldPage<'a> {
    user: &'a str,
    device: &'a str,
    gateway: &'a str,
    call: u64,
    ret: u64,
    from: u64,
    upto: u64,
    tail: u64,
    more: bool,
    last: bool,
    entries: usize,
}

impl Records {
    /// Reads those of the two files that are there.
    pub(crate) fn read(folder: &Path, options: &CheckOptions, findings: &mut Findings) -> Result<Self, LineError> {
        let mut records = Self::default();
        let inbox = folder.join(INBOX_FILE);
        if inbox.exists() {
            for_each_line(&inbox, |line, seen| records.push_seen(line, &seen, options, findings))?;
        }
        let conversations = folder.join(CONVERSATION_FILE);
        if conversations.exists() {
            for_each_line(&conversations, |line, read| records.push_reading(line, &read, options, findings))?;
        }
        Ok(records)
    }

    /// What the senders were told of it.
    pub(crate) fn learn_acks(&mut self, tape: &Tape) {
        self.contents.learn_acks(tape);
    }

    /// A line of `inbox.jsonl`.
    pub(crate) fn push_seen(&mut self, line: u64, seen: &Seen, options: &CheckOptions, findings: &mut Findings) {
        match seen {
            Seen::Page { .. } => self.push_page(line, seen, options, findings),
            Seen::Push { user, device, session, from, at, entry, .. } => {
                self.counts.pushes += 1;
                self.counts.entries += 1;
                let user = self.contents.names.number(user);
                let device = self.contents.names.number(device);
                let origin = FirstSeen { file: INBOX_FILE, line, call: 0, at: *at };
                let sight = self.sight(entry, device, origin, options, findings);
                let inbox = self.inboxes.entry(user).or_default();
                inbox.sights.push(sight);
                let session = inbox.sessions.entry((device, *session)).or_default();
                session.from = *from;
                session.sights.push(inbox.sights.len() - 1);
            }
            Seen::Cursor { user, device, call, ret, wanted, answered, .. } => {
                self.counts.cursors += 1;
                let user = self.contents.names.number(user);
                let device = self.contents.names.number(device);
                let op = CursorOp { line, call: *call, ret: *ret, wanted: *wanted, answered: *answered };
                self.inboxes.entry(user).or_default().cursors.entry(device).or_default().push(op);
            }
            Seen::Denied { .. } => {
                self.counts.denied += 1;
                denied::check(line, seen, findings);
            }
        }
    }

    fn push_page(&mut self, line: u64, seen: &Seen, options: &CheckOptions, findings: &mut Findings) {
        let Seen::Page { proc, user, device, gateway, call, ret, from, upto, tail, trim, more, too_long, .. } = seen
        else {
            return;
        };
        let Seen::Page { chain_verified, last, entries, .. } = seen else { return };
        self.counts.pages += 1;
        self.counts.final_pages += u64::from(*last);
        self.counts.entries += entries.len() as u64;
        let user = self.contents.names.number(user);
        let device = self.contents.names.number(device);
        let gateway = self.contents.names.number(gateway);
        let origin = FirstSeen { file: INBOX_FILE, line, call: *call, at: *ret };
        let sights: Vec<Sight> =
            entries.iter().map(|entry| self.sight(entry, device, origin, options, findings)).collect();
        let bodiless = entries.iter().filter(|entry| entry.kind == "message" && entry.body.is_none());
        let inbox = self.inboxes.entry(user).or_default();
        let start = inbox.sights.len();
        inbox.sights.extend(sights);
        inbox.pages.push(Page {
            line,
            proc: *proc,
            device,
            gateway,
            call: *call,
            ret: *ret,
            from: *from,
            upto: *upto,
            tail: *tail,
            trim: *trim,
            more: *more,
            too_long: *too_long,
            chain_broken: *chain_verified == Some(false),
            last: *last,
            bodies_missing: bodiless.count() as u64,
            sights: start..inbox.sights.len(),
        });
    }

    /// A line of `conversation.jsonl`.
    pub(crate) fn push_reading(
        &mut self,
        line: u64,
        read: &ConversationRead,
        options: &CheckOptions,
        findings: &mut Findings,
    ) {
        self.counts.conversation_reads += 1;
        let origin = FirstSeen { file: CONVERSATION_FILE, line, call: read.call, at: read.ret };
        let entries = read.entries.iter().map(|entry| {
            let content = self.contents.take(entry, origin, options.bodies_embedded, findings);
            (entry.ordinal, content)
        });
        let entries = entries.collect();
        let conversation = self.contents.names.number(&read.conversation);
        let user = self.contents.names.number(&read.user);
        self.readings.push(Reading { line, conversation, user, call: read.call, ret: read.ret, entries });
    }

    fn sight(
        &mut self,
        entry: &SeenEntry,
        device: u32,
        origin: FirstSeen,
        options: &CheckOptions,
        findings: &mut Findings,
    ) -> Sight {
        let content = self.contents.take(entry, origin, options.bodies_embedded, findings);
        Sight {
            seq: entry.seq.unwrap_or(0),
            prev: entry.prev_seq.unwrap_or(0),
            ordinal: entry.ordinal,
            content,
            device,
            at: origin.at,
            line: origin.line,
        }
    }

    /// A sight, for people.
    pub(crate) fn evidence(&self, user: u32, sight: &Sight) -> Evidence {
        let told = Told {
            user: self.contents.names.text(user),
            device: self.contents.names.text(sight.device),
            seq: sight.seq,
            prev_seq: sight.prev,
            ordinal: sight.ordinal,
            entry: self.contents.describe(sight.content),
            at: sight.at,
        };
        Evidence::new(INBOX_FILE, sight.line, &told)
    }

    /// A page, for people.
    pub(crate) fn page_evidence(&self, user: u32, page: &Page) -> Evidence {
        let names = &self.contents.names;
        let told = ToldPage {
            user: names.text(user),
            device: names.text(page.device),
            gateway: names.text(page.gateway),
            call: page.call,
            ret: page.ret,
            from: page.from,
            upto: page.upto,
            tail: page.tail,
            more: page.more,
            last: page.last,
            entries: page.sights.len(),
        };
        Evidence::new(INBOX_FILE, page.line, &told)
    }
}
