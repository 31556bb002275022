//! Subscription: the session's inbox: what is pushed and pulled for it, and its stream.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use seriatim_proto::error::{ErrorCode, Refusal};
use seriatim_proto::ids::{Seq, UserId};
use seriatim_proto::logic::{Call, Reply};
use seriatim_proto::wire::v1::server_frame::Body as Said;
use seriatim_proto::wire::{self, v1};

use super::{Purpose, RequestId, Session, SessionEvent, State};
use crate::entries;
use crate::frames::PAGE_BYTES_MAX;
use crate::inbox::{Given, Inbox};
use crate::stream::{Role, Stream, StreamId};

/// Inbox streams with something left to write, the subscription's own included, above which there is no new one.
const INBOX_STREAMS_MAX: usize = 4;

impl Session {
    pub(super) fn handle_subscribe(&mut self, now: Instant, request_id: u64, subscribe: &v1::Subscribe) {
        let from = match wire::seq_from_wire(subscribe.from) {
            Ok(from) => from.unwrap_or(Seq::FIRST),
            Err(refusal) => {
                return self.say(StreamId::CONTROL, request_id, Said::Error(wire::error_to_wire(&refusal)));
            }
        };
        if !matches!(&self.state, State::Open { scopes, .. } if scopes.device) {
            let refusal = Refusal::new(ErrorCode::Forbidden, "the token's scopes do not name a device");
            return self.say(StreamId::CONTROL, request_id, Said::Error(wire::error_to_wire(&refusal)));
        }
        // Those that are over, but whose device has not taken what was written: they hold bytes.
        let here = self.streams.keys().filter(|id| matches!(id, StreamId::Inbox(_))).count();
        if here + self.leaving.len() >= INBOX_STREAMS_MAX {
            let refusal = Refusal::later(ErrorCode::Busy, "inbox streams that are over are not read to their end", 100);
            return self.say(StreamId::CONTROL, request_id, Said::Error(wire::error_to_wire(&refusal)));
        }
        // One subscription per session: a new one takes the old one's place.
        if let Some(old) = self.inbox.take() {
            self.finish(StreamId::Inbox(old.id));
        }
        self.subscription_last += 1;
        let id = self.subscription_last;
        self.inbox = Some(Inbox::new(id, from, subscribe.credit));
        self.streams.insert(StreamId::Inbox(id), Stream::new(Role::Inbox));
        self.say(StreamId::CONTROL, request_id, Said::Subscribed(v1::Subscribed { subscription_id: id }));
        let State::Open { user, .. } = &self.state else { return };
        let header = v1::StreamHeader { subscription_id: id, user: user.as_str().to_owned(), from: from.get() };
        self.say(StreamId::Inbox(id), 0, Said::StreamHeader(header));
        self.events.push_back(SessionEvent::Register { position: from });
        self.pull(now);
    }

    pub(super) fn unsubscribe(&mut self, id: u64) {
        if self.inbox.as_ref().is_some_and(|inbox| inbox.id == id) {
            self.inbox = None;
            self.finish(StreamId::Inbox(id));
            self.events.push_back(SessionEvent::Unregister);
        }
    }

    pub(super) fn handle_credit(&mut self, now: Instant, credit: &v1::Credit) {
        if let Some(inbox) = self.inbox.as_mut().filter(|inbox| inbox.id == credit.subscription_id) {
            inbox.add_credit(credit.entries);
            self.pull(now);
        }
    }

    pub(super) fn with_inbox(&mut self, now: Instant, handle: impl FnOnce(&mut Inbox, &UserId, bool) -> Given) {
        let State::Open { user, .. } = &self.state else { return };
        let Some(inbox) = &mut self.inbox else { return };
        let id = inbox.id;
        let room = inbox_room(&self.streams, id, self.limits.push_bytes_max);
        let given = handle(inbox, user, room);
        self.give(id, given);
        self.pull(now);
    }

    pub(super) fn handle_page(&mut self, now: Instant, subscription: u64, result: Result<Reply, Refusal>) {
        // The subscription may have ended or been replaced meanwhile.
        let Some(inbox) = self.inbox.as_mut().filter(|inbox| inbox.id == subscription) else {
            return self.pull(now);
        };
        match result {
            Ok(Reply::Sync(page)) => {
                self.with_inbox(now, |inbox, user, room| inbox.handle_page(now, &page, user, room));
            }
            Err(refusal) if refusal.code == ErrorCode::CursorAhead => {
                self.say(StreamId::Inbox(subscription), 0, Said::Error(wire::error_to_wire(&refusal)));
                self.unsubscribe(subscription);
            }
            Ok(_) => inbox.handle_pull_failed(now, Duration::ZERO),
            Err(refusal) => {
                inbox.handle_pull_failed(now, Duration::from_millis(u64::from(refusal.retry_after_ms)));
            }
        }
    }

    pub(super) fn give(&mut self, id: u64, given: Given) {
        let mut frame = Vec::new();
        let mut bytes = 0;
        for entry in given.entries {
            let more = entries::bytes_of(&entry);
            if bytes + more > PAGE_BYTES_MAX && !frame.is_empty() {
                let entries = std::mem::take(&mut frame);
                self.say(StreamId::Inbox(id), 0, Said::Deliver(v1::Deliver { entries }));
                bytes = 0;
            }
            bytes += more;
            frame.push(entry);
        }
        if !frame.is_empty() {
            self.say(StreamId::Inbox(id), 0, Said::Deliver(v1::Deliver { entries: frame }));
        }
        if let Some(upto) = given.lagging {
            self.lagging_count += 1;
            let lagging = v1::Lagging { subscription_id: id, upto: upto.get() };
            self.say(StreamId::Inbox(id), 0, Said::Lagging(lagging));
        }
        if given.ended {
            self.unsubscribe(id);
        }
    }

    pub(super) fn pull(&mut self, now: Instant) {
        if self.pulling {
            return;
        }
        let request = RequestId(self.request_last + 1);
        let Some(id) = self.inbox.as_ref().map(|inbox| inbox.id) else { return };
        let room = self.pull_room(id);
        let Some(inbox) = self.inbox.as_mut().filter(|_| matches!(self.state, State::Open { .. })) else { return };
        let Some((from, limit)) = inbox.maybe_pull(now, request, room) else { return };
        let subscription = inbox.id;
        self.pulling = true;
        self.ask(0, Purpose::Pull { subscription }, Call::Sync { from: Some(from), limit });
    }

    /// Does the stream of the subscription take a page?
    pub(super) fn pull_room(&self, id: u64) -> bool {
        inbox_room(&self.streams, id, self.limits.push_bytes_max / 2)
    }
}

fn inbox_room(streams: &BTreeMap<StreamId, Stream>, id: u64, bytes_max: usize) -> bool {
    streams.get(&StreamId::Inbox(id)).is_some_and(|stream| stream.out.len() < bytes_max)
}
