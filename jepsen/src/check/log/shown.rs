//! Shown: what a reader was given of a conversation, by whatever way.

use serde::Serialize;

use crate::check::tape::Track;
use crate::check::verdict::Evidence;
use crate::history::{Ended, Function, HISTORY_FILE};

/// Entries beside the one in question that are kept as evidence.
const NEIGHBOURS: usize = 4;

/// A part of a conversation as it was given to somebody.
#[derive(Clone, Debug)]
pub(crate) struct Shown<'a> {
    /// first seq that was asked for
    pub(crate) from: u64,
    /// most entries, 0 for all
    pub(crate) limit: u64,
    /// is it a read of the whole part from `from` on? A single sighting is not
    pub(crate) is_read: bool,
    pub(crate) call: u64,
    pub(crate) ret: u64,
    /// seq and id, as they came
    pub(crate) items: Vec<(u64, &'a str)>,
    pub(crate) file: &'static str,
    pub(crate) line: u64,
}

/// What is written down of it.
#[derive(Serialize)]
struct Near<'a> {
    shown_from: u64,
    limit: u64,
    call: u64,
    ret: u64,
    entries: usize,
    /// those near the one in question
    near: &'a [(u64, &'a str)],
}

impl Shown<'_> {
    /// Does it say that there was nothing above its last entry?
    pub(crate) fn is_whole(&self) -> bool {
        self.is_read && (self.limit == 0 || (self.items.len() as u64) < self.limit)
    }

    /// The highest seq.
    pub(crate) fn last(&self) -> Option<u64> {
        self.items.iter().map(|(seq, _)| *seq).max()
    }

    /// Where it was written, with the entries around a seq.
    pub(crate) fn evidence(&self, seq: u64) -> Evidence {
        let place = self.items.partition_point(|(other, _)| *other < seq);
        let near = &self.items[place.saturating_sub(NEIGHBOURS)..self.items.len().min(place + NEIGHBOURS)];
        let (call, ret, entries) = (self.call, self.ret, self.items.len());
        Evidence::new(
            self.file,
            self.line,
            &Near { shown_from: self.from, limit: self.limit, call, ret, entries, near },
        )
    }
}

/// The reads of a track that were answered.
pub(super) fn of_track(track: &Track) -> Vec<Shown<'_>> {
    let reads = track.ops.iter().filter(|noted| noted.op.f == Function::Sync && noted.op.ended == Ended::Ok);
    let shown = reads.map(|noted| {
        let op = &noted.op;
        let items = op.items.iter().flatten().map(|item| (item.seq, item.id.as_str())).collect();
        Shown {
            from: op.from.unwrap_or(0),
            limit: op.limit.unwrap_or(0),
            is_read: true,
            call: op.call,
            ret: op.ret,
            items,
            file: HISTORY_FILE,
            line: noted.line,
        }
    });
    shown.collect()
}
