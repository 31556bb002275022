//! Ledger: when each message was sent, committed and delivered to everybody, in microseconds since the first send.
//!
//! Written by senders and devices as it happens, without locks; read at the end by [`super::measure`], and now and then
//! by the progress line.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use seriatim_proto::ids::MessageId;

use crate::script::Script;

/// Times of all messages.
#[derive(Debug)]
pub(crate) struct Ledger {
    began: Instant,
    places: HashMap<MessageId, usize>,
    rows: Vec<Row>,
    /// messages acked
    pub(crate) committed: AtomicU64,
    /// messages that the first device of every participant has
    pub(crate) delivered: AtomicU64,
    /// entries on all devices
    pub(crate) entries: AtomicU64,
}

#[derive(Debug)]
struct Row {
    sent_us: AtomicU64,
    committed_us: AtomicU64,
    delivered_us: AtomicU64,
    /// participants whose first device does not have it yet
    missing: AtomicU32,
    /// a participant was offline when it was sent
    waited: AtomicBool,
}

/// One message's times; `None`: it did not happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) sent_us: u64,
    pub(crate) committed_us: Option<u64>,
    pub(crate) delivered_us: Option<u64>,
    pub(crate) waited: bool,
}

impl Ledger {
    /// One row per message of the script.
    pub(crate) fn new(script: &Script) -> Self {
        let mut places = HashMap::with_capacity(script.message_count());
        let mut rows = Vec::with_capacity(script.message_count());
        for talk in &script.talks {
            for line in 0..talk.lines.len() {
                places.insert(talk.message_id(line), rows.len());
                rows.push(Row {
                    sent_us: AtomicU64::new(0),
                    committed_us: AtomicU64::new(0),
                    delivered_us: AtomicU64::new(0),
                    missing: AtomicU32::new(talk.members.len() as u32),
                    waited: AtomicBool::new(false),
                });
            }
        }
        Self {
            began: Instant::now(),
            places,
            rows,
            committed: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            entries: AtomicU64::new(0),
        }
    }

    /// Microseconds since the beginning, never 0.
    pub(crate) fn now_us(&self) -> u64 {
        (self.began.elapsed().as_micros() as u64).max(1)
    }

    /// A first attempt begins.
    pub(crate) fn sent(&self, id: &MessageId, waited: bool) {
        if let Some(row) = self.row(id) {
            row.waited.store(waited, Ordering::Relaxed);
            row.sent_us.store(self.now_us(), Ordering::Relaxed);
        }
    }

    /// The ack is there.
    pub(crate) fn committed(&self, id: &MessageId) {
        if let Some(row) = self.row(id) {
            row.committed_us.store(self.now_us(), Ordering::Relaxed);
            self.committed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The first device of one participant has it; called once per participant.
    pub(crate) fn arrived(&self, id: &MessageId) {
        let Some(row) = self.row(id) else { return };
        if row.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            row.delivered_us.store(self.now_us(), Ordering::Relaxed);
            self.delivered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All messages that were sent.
    pub(crate) fn times(&self) -> Vec<Times> {
        let known = |us: u64| (us > 0).then_some(us);
        let rows = self.rows.iter().filter_map(|row| {
            Some(Times {
                sent_us: known(row.sent_us.load(Ordering::Relaxed))?,
                committed_us: known(row.committed_us.load(Ordering::Relaxed)),
                delivered_us: known(row.delivered_us.load(Ordering::Relaxed)),
                waited: row.waited.load(Ordering::Relaxed),
            })
        });
        rows.collect()
    }

    fn row(&self, id: &MessageId) -> Option<&Row> {
        self.places.get(id).map(|place| &self.rows[*place])
    }
}
