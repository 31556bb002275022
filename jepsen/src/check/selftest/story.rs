//! Story: a whole run in memory, made up or changed, and how the checkers judge it.

use std::path::Path;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use super::{bare, talk};
use crate::check::inbox::Records;
use crate::check::tape::Tape;
use crate::check::verdict::{Findings, Verdict};
use crate::check::{CheckOptions, judge};
use crate::history::{CONVERSATION_FILE, ConversationRead, HISTORY_FILE, HistoryWriter, INBOX_FILE, Op, Seen};

/// All that a run would have written, but its faults.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Story {
    pub(crate) ops: Vec<Op>,
    pub(crate) seen: Vec<Seen>,
    pub(crate) reads: Vec<ConversationRead>,
}

impl Story {
    /// What a correct system could have done; the same for the same seed.
    pub(crate) fn valid(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut story = talk::tell(&mut rng);
        bare::tell(&mut rng, &mut story);
        story
    }

    /// As the files of a run.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        write_lines(&folder.join(HISTORY_FILE), &self.ops)?;
        write_lines(&folder.join(INBOX_FILE), &self.seen)?;
        write_lines(&folder.join(CONVERSATION_FILE), &self.reads)
    }

    /// What the checkers say of it.
    pub(crate) fn judge(&self, options: &CheckOptions) -> Verdict {
        let mut verdict = Verdict::default();
        let mut findings = Findings::new(options.examples_max);
        let tape = Tape::of(&self.ops, &mut verdict);
        let mut records = Records::default();
        for (line, seen) in (1u64..).zip(&self.seen) {
            records.push_seen(line, seen, options, &mut findings);
        }
        for (line, read) in (1u64..).zip(&self.reads) {
            records.push_reading(line, read, options, &mut findings);
        }
        records.learn_acks(&tape);
        judge(&tape, Some(&records), options, findings, &mut verdict);
        verdict
    }
}

fn write_lines<T: Serialize>(path: &Path, records: &[T]) -> anyhow::Result<()> {
    let context = || format!("write {}", path.display());
    let writer = HistoryWriter::create(path).with_context(context)?;
    records.iter().try_for_each(|record| writer.write(record)).with_context(context)?;
    writer.sync().with_context(context)
}

/// When an operation that takes effect now was called and ended.
pub(super) fn around(rng: &mut StdRng, now: u64) -> (u64, u64) {
    (now.saturating_sub(rng.random_range(1..400)), now + rng.random_range(1..400))
}
