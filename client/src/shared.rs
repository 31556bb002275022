//! Shared: what a client's handles and its task share: the queue of new requests, and a waker.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use seriatim_proto::ids::Seq;
use seriatim_proto::limits;
use tokio::sync::Semaphore;

use crate::entry::{Conversation, Identity};
use crate::inbox::InboxQueue;
use crate::requests::NewRequest;

/// What the handles want.
#[derive(Debug)]
pub(crate) enum Wish {
    Request(Box<NewRequest>),
    Subscribe(Arc<InboxQueue>),
}

#[derive(Debug)]
pub(crate) struct Shared {
    wishes: Mutex<Vec<Wish>>,
    waker: AtomicWaker,
    closed: AtomicBool,
    /// Requests that may be open at once.
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) identity: Mutex<Option<Identity>>,
    connections: AtomicU64,
    /// Tails of conversations as far as this client has seen.
    tails: Mutex<HashMap<Conversation, Seq>>,
}

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            wishes: Mutex::new(Vec::new()),
            waker: AtomicWaker::new(),
            closed: AtomicBool::new(false),
            permits: Arc::new(Semaphore::new(limits::SESSION_REQUESTS_MAX as usize)),
            identity: Mutex::new(None),
            connections: AtomicU64::new(0),
            tails: Mutex::default(),
        }
    }

    /// Entries of conversations were seen.
    pub(crate) fn saw<'a>(&self, seen: impl Iterator<Item = (&'a Conversation, Seq)>) {
        let mut tails = self.tails.lock();
        for (conversation, seq) in seen {
            let tail = seq.next();
            match tails.get_mut(conversation) {
                Some(known) => *known = (*known).max(tail),
                None => drop(tails.insert(conversation.clone(), tail)),
            }
        }
    }

    /// The conversation's tail as far as this client has seen.
    pub(crate) fn known(&self, conversation: &Conversation) -> Option<Seq> {
        self.tails.lock().get(conversation).copied()
    }

    pub(crate) fn put(&self, wish: Wish) {
        self.wishes.lock().push(wish);
        self.waker.wake();
    }

    /// Takes all wishes; wakes `waker` when there are new ones.
    pub(crate) fn take(&self, waker: &Waker) -> Vec<Wish> {
        self.waker.register(waker);
        std::mem::take(&mut *self.wishes.lock())
    }

    /// Something changed that the task looks at by itself.
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(crate) fn count_connection(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}
