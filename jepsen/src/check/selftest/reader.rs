//! Reader: a made-up device that syncs, subscribes and acknowledges.

use rand::RngExt;
use rand::rngs::StdRng;

use super::story::{Story, around};
use crate::history::{Seen, SeenEntry};

/// Entries of a page.
const PAGE: usize = 12;

/// One device.
#[derive(Debug)]
pub(super) struct Device {
    pub(super) user: &'static str,
    pub(super) name: &'static str,
    /// first seq that it does not have
    position: u64,
    cursor: u64,
    /// number of its subscription
    session: u64,
    /// where that began
    session_from: u64,
    /// first seq that the subscription has not yielded
    subscribed: Option<u64>,
}

impl Device {
    pub(super) fn new(user: &'static str, name: &'static str) -> Self {
        Self { user, name, position: 1, cursor: 0, session: 0, session_from: 0, subscribed: None }
    }

    /// Something takes effect now.
    pub(super) fn act(&mut self, rng: &mut StdRng, now: u64, inbox: &[SeenEntry], story: &mut Story) {
        match rng.random_range(0..10) {
            0..4 => self.sync(rng, now, inbox, story),
            4 => self.ack(rng, now, story),
            5 => {
                let (call, ret) = around(rng, now);
                story.seen.push(self.cursor(call, ret, None, Some(self.cursor)));
            }
            6 => self.subscribed = None,
            _ => self.pushed(rng, now, inbox, story),
        }
    }

    fn sync(&mut self, rng: &mut StdRng, now: u64, inbox: &[SeenEntry], story: &mut Story) {
        let (call, ret) = around(rng, now);
        let from = if rng.random_bool(0.2) { 1 } else { self.position };
        let page = self.page(inbox, from, (call, ret), "gateway-1", false);
        if let Seen::Page { upto, .. } = &page {
            self.position = self.position.max(*upto);
        }
        story.seen.push(page);
    }

    /// All of the inbox, page by page.
    pub(super) fn sync_all(&self, rng: &mut StdRng, now: u64, gateway: &str, inbox: &[SeenEntry], story: &mut Story) {
        let (mut from, mut time) = (rng.random_range(0..=1), now);
        loop {
            let page = self.page(inbox, from, (time, time + 5), gateway, true);
            let Seen::Page { upto, more, .. } = &page else { return };
            (from, time) = (*upto, time + 10);
            let more = *more;
            story.seen.push(page);
            if !more {
                return;
            }
        }
    }

    fn page(&self, inbox: &[SeenEntry], from: u64, (call, ret): (u64, u64), gateway: &str, last: bool) -> Seen {
        let place = inbox.partition_point(|entry| entry.seq < Some(from));
        let entries: Vec<_> = inbox[place..].iter().take(PAGE).cloned().collect();
        let tail = inbox.last().and_then(|entry| entry.seq).map_or(1, |seq| seq + 1);
        let more = inbox.len() - place > PAGE;
        let upto = if more { entries.last().and_then(|entry| entry.seq).map_or(tail, |seq| seq + 1) } else { tail };
        Seen::Page {
            proc: 100,
            user: self.user.to_owned(),
            device: self.name.to_owned(),
            gateway: gateway.to_owned(),
            call,
            ret,
            from,
            upto,
            tail,
            trim: 1,
            more,
            too_long: false,
            chain_verified: (from <= 1).then_some(true),
            last,
            entries,
        }
    }

    fn ack(&mut self, rng: &mut StdRng, now: u64, story: &mut Story) {
        let (call, ret) = around(rng, now);
        let wanted = rng.random_range(0..=self.position);
        let is_lost = rng.random_ratio(1, 6);
        if !is_lost || rng.random_bool(0.5) {
            self.cursor = self.cursor.max(wanted);
        }
        story.seen.push(self.cursor(call, ret, Some(wanted), (!is_lost).then_some(self.cursor)));
    }

    fn cursor(&self, call: u64, ret: u64, wanted: Option<u64>, answered: Option<u64>) -> Seen {
        let (user, device) = (self.user.to_owned(), self.name.to_owned());
        Seen::Cursor { proc: 100, user, device, call, ret, wanted, answered }
    }

    /// Its subscription yields what is there; a device without one begins one.
    fn pushed(&mut self, rng: &mut StdRng, now: u64, inbox: &[SeenEntry], story: &mut Story) {
        let from = self.subscribed.unwrap_or_else(|| {
            self.session += 1;
            self.session_from = if rng.random_bool(0.3) { 1 } else { self.position };
            self.session_from
        });
        self.subscribed = Some(from);
        let place = inbox.partition_point(|entry| entry.seq < Some(from));
        let count = rng.random_range(0..=inbox.len() - place);
        for (at, entry) in (now..).zip(inbox[place..].iter().take(count)) {
            story.seen.push(Seen::Push {
                proc: 100,
                user: self.user.to_owned(),
                device: self.name.to_owned(),
                session: self.session,
                from: self.session_from,
                at,
                entry: entry.clone(),
            });
            self.subscribed = entry.seq.map(|seq| seq + 1);
        }
    }
}
