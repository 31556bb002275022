//! Notebook: where clients write down what they asked and saw: the files of a run's folder, and counts of it.
//!
//! # Failure
//! A record that cannot be written makes the whole run worthless; clients go on, and [`Notebook::finish`] says so.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use parking_lot::Mutex;
use serde::Serialize;

use crate::history::{
    CONVERSATION_FILE, ConversationRead, Ended, Function, HISTORY_FILE, HistoryWriter, INBOX_FILE, Op, Seen,
};

/// The open files of a run.
#[derive(Debug)]
pub(crate) struct Notebook {
    history: HistoryWriter,
    inbox: HistoryWriter,
    conversations: HistoryWriter,
    ok: AtomicU64,
    fail: AtomicU64,
    info: AtomicU64,
    failed: Mutex<Option<io::Error>>,
}

impl Notebook {
    /// Makes the files.
    pub(crate) fn create(folder: &Path) -> anyhow::Result<Notebook> {
        let create = |name: &str| {
            let path = folder.join(name);
            HistoryWriter::create(&path).with_context(|| format!("failed to make {}", path.display()))
        };
        Ok(Notebook {
            history: create(HISTORY_FILE)?,
            inbox: create(INBOX_FILE)?,
            conversations: create(CONVERSATION_FILE)?,
            ok: AtomicU64::new(0),
            fail: AtomicU64::new(0),
            info: AtomicU64::new(0),
            failed: Mutex::new(None),
        })
    }

    pub(crate) fn op(&self, op: &Op) {
        let count = match op.ended {
            Ended::Ok => &self.ok,
            Ended::Fail => &self.fail,
            Ended::Info => &self.info,
        };
        count.fetch_add(1, Ordering::Relaxed);
        self.write(&self.history, op);
    }

    pub(crate) fn seen(&self, seen: &Seen) {
        self.write(&self.inbox, seen);
    }

    pub(crate) fn conversation(&self, read: &ConversationRead) {
        self.write(&self.conversations, read);
    }

    /// Operations so far: `ok`, `fail`, `info`.
    pub(crate) fn counts(&self) -> [u64; 3] {
        [&self.ok, &self.fail, &self.info].map(|count| count.load(Ordering::Relaxed))
    }

    /// Everything is on disk, or an error says what is not.
    pub(crate) fn finish(&self) -> anyhow::Result<()> {
        if let Some(error) = self.failed.lock().take() {
            return Err(error).context("failed to write down what clients saw");
        }
        for file in [&self.history, &self.inbox, &self.conversations] {
            file.sync().context("failed to bring the history to disk")?;
        }
        Ok(())
    }

    fn write(&self, file: &HistoryWriter, record: &impl Serialize) {
        if let Err(error) = file.write(record) {
            self.failed.lock().get_or_insert(error);
        }
    }
}

/// A read that was not answered: it had no effect, whatever became of it.
pub(crate) fn unanswered(process: u64, key: &str, f: Function, interval: (u64, u64)) -> Op {
    Op::new(process, key, f, interval, Ended::Fail)
}
