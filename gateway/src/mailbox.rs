//! Mailbox: what waits for one connection's driver task.
//!
//! Answers are bounded by the session's requests in flight. Pushes are bounded here: above the limit they are
//! dropped and only the tail is kept, so that the session fetches them when its device takes more.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use seriatim_gateway_core::RouterEvent;
use seriatim_proto::ids::Seq;
use seriatim_proto::limits;
use seriatim_proto::logic::PushEntry;
use seriatim_proto::operator::SessionLive;
use tokio::sync::oneshot;

/// What a driver is told.
#[derive(Debug)]
pub(crate) enum Letter {
    /// for the session
    Router(RouterEvent),
    /// the generation is known: sessions may be admitted
    Ready,
    /// the gateway goes down
    Drain(Duration),
    /// an operator ends the session
    Kick,
    /// an operator asks how it is
    Report(oneshot::Sender<SessionLive>),
}

#[derive(Debug, Default)]
struct Waiting {
    letters: Vec<Letter>,
    push_bytes: usize,
    /// Pushes up to here were dropped.
    dropped: Option<Seq>,
}

#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    waiting: Mutex<Waiting>,
    waker: AtomicWaker,
}

impl Mailbox {
    pub(crate) fn put(&self, letter: Letter) {
        let mut waiting = self.waiting.lock();
        match letter {
            Letter::Router(RouterEvent::Push(entries)) => waiting.put_push(entries),
            letter => waiting.letters.push(letter),
        }
        drop(waiting);
        self.waker.wake();
    }

    /// Takes all letters; wakes `waker` when there are new ones.
    pub(crate) fn take(&self, waker: &Waker, letters: &mut Vec<Letter>) {
        self.waker.register(waker);
        let mut waiting = self.waiting.lock();
        letters.append(&mut waiting.letters);
        waiting.push_bytes = 0;
        if let Some(tail) = waiting.dropped.take() {
            letters.push(Letter::Router(RouterEvent::Tail(tail)));
        }
    }
}

impl Waiting {
    fn put_push(&mut self, entries: Arc<[PushEntry]>) {
        let bytes: usize = entries.iter().map(|entry| entry.body.len() + ENTRY_BYTES).sum();
        if self.push_bytes + bytes > limits::SESSION_PUSH_BYTES_MAX as usize {
            self.dropped = self.dropped.max(entries.last().map(|entry| entry.seq.next()));
        } else {
            self.push_bytes += bytes;
            self.letters.push(Letter::Router(RouterEvent::Push(entries)));
        }
    }
}

/// What an entry takes besides its body.
const ENTRY_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use seriatim_proto::command::{EntryRef, Kind};
    use seriatim_proto::ids::{BodyHash, ConversationId, ConversationKey, MessageId, UserId};

    use super::*;

    fn push(seq: u64, bytes: usize) -> Letter {
        let seq = Seq::new(seq).unwrap();
        let entry = EntryRef {
            seq,
            kind: Kind::Message,
            sender: UserId::new("a").unwrap(),
            message_id: MessageId([1; 16]),
            body_hash: BodyHash([0; 16]),
            at_ms: 0,
        };
        let conversation = ConversationId::Group(ConversationKey([2; 16]));
        let (salt, body) = (Bytes::new(), Bytes::from(vec![0; bytes]));
        let entry = PushEntry { seq, prev_seq: seq.previous(), ordinal: 1, conversation, entry, salt, body };
        Letter::Router(RouterEvent::Push(vec![entry].into()))
    }

    #[test]
    fn pushes_over_the_limit_leave_only_their_tail() {
        let mailbox = Mailbox::default();
        for seq in 1..=100 {
            mailbox.put(push(seq, 64 << 10));
        }
        let mut letters = Vec::new();
        mailbox.take(Waker::noop(), &mut letters);
        let pushes = letters.iter().filter(|letter| matches!(letter, Letter::Router(RouterEvent::Push(_)))).count();
        assert!(pushes <= 16, "{pushes} pushes of 64 KiB are kept");
        let Some(Letter::Router(RouterEvent::Tail(tail))) = letters.last() else { panic!("no tail") };
        assert_eq!(tail.get(), 101);
    }
}
