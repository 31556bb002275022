//! Inbox: what one subscription has been given, and what it lacks.
//!
//! The gateway pushes what the holder of the inbox pushes to it. Whatever is missing (entries from before the
//! registration, a push that does not join on, a time without credit) is not buffered: the subscription is
//! *behind*, and catches up by pulling sync pages itself, as soon as the device takes entries again.
//!
//! ```text
//!   push joins on ──────────────▶ Deliver
//!   push leaves a gap, tail told ─▶ behind ─ pull(position) ─▶ page ─▶ Deliver … until position = tail
//!   no credit, full stream ──────▶ behind, Lagging once ─ Credit, room ─▶ pull …
//! ```
//!
//! # Invariants
//! Entries are given in rising seq, each once; an entry is given only if everything below it was given or is empty:
//! `prev_seq < position <= seq` (I12).

use std::time::{Duration, Instant};

use seriatim_proto::ids::{Seq, UserId};
use seriatim_proto::limits;
use seriatim_proto::logic::{Body, PushEntry, SyncPage};
use seriatim_proto::wire::v1;

use crate::entries;
use crate::session::RequestId;

/// Entries that a subscription may be given before its first `Credit`, unless it says otherwise.
pub(crate) const CREDIT_DEFAULT: u64 = 1_024;
/// Pause after a pull that was refused or lacked bodies.
const PULL_PAUSE: Duration = Duration::from_millis(200);
/// Pulls for a body that stays unavailable, before the entry is given without it.
const BODY_TRIES_MAX: u32 = 10;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pull {
    Idle,
    Asked(RequestId),
    Paused(Instant),
}

/// The state of the one subscription of a session.
#[derive(Debug)]
pub(crate) struct Inbox {
    pub(crate) id: u64,
    /// First seq that was not given.
    position: Seq,
    credit: u64,
    /// Something below it is missing.
    behind: Option<Seq>,
    /// The holder's tail was below the position: only a linearizable read may say so to the device.
    doubted: bool,
    pull: Pull,
    body_tries: u32,
    /// `Lagging` was said since the device last took everything.
    lagging_said: bool,
}

/// What to write after a `handle_*`.
#[derive(Debug, Default)]
pub(crate) struct Given {
    pub(crate) entries: Vec<v1::Entry>,
    pub(crate) lagging: Option<Seq>,
    /// The subscription cannot go on: the device must sync.
    pub(crate) ended: bool,
}

impl Inbox {
    pub(crate) fn new(id: u64, from: Seq, credit: u64) -> Self {
        let credit = if credit == 0 { CREDIT_DEFAULT } else { credit };
        Self {
            id,
            position: from,
            credit,
            behind: None,
            doubted: false,
            pull: Pull::Idle,
            body_tries: 0,
            lagging_said: false,
        }
    }

    /// How far it is: position, credit, and seqs known to be missing.
    pub(crate) fn progress(&self) -> (Seq, u64, u64) {
        let lag = self.behind.map_or(0, |tail| tail.get().saturating_sub(self.position.get()));
        (self.position, self.credit, lag)
    }

    pub(crate) fn add_credit(&mut self, entries: u64) {
        self.credit = self.credit.saturating_add(entries);
    }

    /// New entries from the holder. `room`: the stream takes more.
    pub(crate) fn handle_push(&mut self, pushed: &[PushEntry], user: &UserId, room: bool) -> Given {
        let mut given = Given::default();
        for entry in pushed {
            if entry.seq < self.position {
                continue;
            }
            let joins = entry.prev_seq.is_none_or(|previous| previous < self.position);
            if joins && room && self.credit > 0 {
                given.entries.push(entries::pushed(entry, user));
                self.give(entry.seq);
            } else {
                self.raise_behind(entry.seq.next());
            }
        }
        self.settle(&mut given, room);
        given
    }

    /// The inbox reaches up to `tail`.
    pub(crate) fn handle_tail(&mut self, tail: Seq, room: bool) -> Given {
        let mut given = Given::default();
        self.raise_behind(tail);
        self.settle(&mut given, room);
        given
    }

    /// The holder took the registration and says its tail.
    pub(crate) fn handle_registered(&mut self, tail: Seq, room: bool) -> Given {
        self.doubted = tail < self.position;
        self.handle_tail(tail, room)
    }

    /// A page that [`Inbox::maybe_pull`] asked for.
    pub(crate) fn handle_page(&mut self, now: Instant, page: &SyncPage, user: &UserId, room: bool) -> Given {
        let mut given = Given::default();
        self.pull = Pull::Idle;
        self.doubted = false;
        if page.too_long {
            given.lagging = Some(page.tail);
            given.ended = true;
            return given;
        }
        let complete = self.take_page(now, page, user, &mut given);
        if complete && page.upto > self.position {
            self.position = page.upto;
        }
        self.raise_behind(page.tail);
        self.settle(&mut given, room);
        given
    }

    fn take_page(&mut self, now: Instant, page: &SyncPage, user: &UserId, given: &mut Given) -> bool {
        for synced in &page.entries {
            let seq = synced.entry.seq;
            if seq < self.position {
                continue;
            }
            if self.credit == 0 {
                return false;
            }
            if synced.body == Body::Unavailable && self.body_tries < BODY_TRIES_MAX {
                self.body_tries += 1;
                self.pull = Pull::Paused(now + PULL_PAUSE);
                return false;
            }
            self.body_tries = 0;
            let mut out = entries::synced(synced, user);
            out.chain.clear();
            given.entries.push(out);
            self.give(seq);
        }
        true
    }

    /// The pull failed for now; it is not made again before `retry_after`.
    pub(crate) fn handle_pull_failed(&mut self, now: Instant, retry_after: Duration) {
        self.pull = Pull::Paused(now + PULL_PAUSE.max(retry_after));
    }

    /// What to pull, if anything is missing and the device takes it: `(from, limit)`.
    pub(crate) fn maybe_pull(&mut self, now: Instant, request: RequestId, room: bool) -> Option<(Seq, u32)> {
        let lacks = self.doubted || self.behind.is_some();
        let may = match self.pull {
            Pull::Idle => true,
            Pull::Asked(_) => false,
            Pull::Paused(until) => until <= now,
        };
        if !lacks || !may || !room || self.credit == 0 {
            return None;
        }
        self.pull = Pull::Asked(request);
        self.lagging_said = false;
        let limit = u32::try_from(self.credit).unwrap_or(u32::MAX).min(limits::SYNC_ENTRIES_MAX);
        Some((self.position, limit))
    }

    /// When [`Inbox::maybe_pull`] must be asked again. `room`: the stream takes a page. Without it, or without credit,
    /// the end of a pause changes nothing: whatever brings them asks by itself.
    pub(crate) fn poll_timeout(&self, room: bool) -> Option<Instant> {
        let lacks = self.doubted || self.behind.is_some();
        match self.pull {
            Pull::Paused(until) if lacks && room && self.credit > 0 => Some(until),
            Pull::Paused(_) | Pull::Idle | Pull::Asked(_) => None,
        }
    }

    fn give(&mut self, seq: Seq) {
        self.position = seq.next();
        self.credit -= 1;
    }

    fn raise_behind(&mut self, end: Seq) {
        self.behind = self.behind.max(Some(end));
    }

    fn settle(&mut self, given: &mut Given, room: bool) {
        match self.behind {
            Some(end) if end <= self.position => {
                self.behind = None;
                self.lagging_said = false;
            }
            Some(end) if (self.credit == 0 || !room) && !self.lagging_said => {
                self.lagging_said = true;
                given.lagging = Some(end);
            }
            Some(_) | None => {}
        }
    }
}
