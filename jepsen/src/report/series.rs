//! Series: a history over time, in buckets that fit a picture.
//!
//! Bounded: however long a run was, it has at most [`BUCKETS_MAX`] buckets; latencies are kept as histograms. Of each
//! operation stay a few numbers.

use std::collections::HashMap;

use hdrhistogram::Histogram;

use crate::history::{Ended, Function, Op};

pub(super) const SECOND: u64 = 1_000_000_000;
/// Buckets of a picture; a wider one would not fit a screen.
const BUCKETS_MAX: u64 = 600;
/// Latencies beyond it are shown as this, µs.
const LATENCY_MAX_US: u64 = 120_000_000;

/// What happened in a stretch of time.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    pub(super) ok: u64,
    pub(super) fail: u64,
    pub(super) info: u64,
    /// of acked operations, µs
    pub(super) latency: Histogram<u32>,
}

/// The whole run.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) buckets: Vec<Bucket>,
    /// of one bucket, ns
    pub(super) width: u64,
    /// of all acked operations
    pub(super) latency: Histogram<u32>,
    /// when operations were acked, rising
    pub(super) acked_at: Vec<u64>,
    /// sends and numbers, by conversation and counter. Registers are not among them: their writes are gathered, and
    /// take up to a second by design
    pub(super) writes: HashMap<String, Writes>,
}

/// The writes of a key.
#[derive(Debug, Default)]
pub(super) struct Writes {
    /// rising by call
    pub(super) all: Vec<Write>,
    /// the longest time that one took, ns
    longest: u64,
}

impl Writes {
    pub(super) fn of(mut all: Vec<Write>) -> Writes {
        all.sort_unstable_by_key(|write| (write.call, write.ret));
        let longest = all.iter().map(|write| write.ret.saturating_sub(write.call)).max().unwrap_or(0);
        Writes { all, longest }
    }

    /// Those that may not be over at a moment, and all that were begun behind it.
    pub(super) fn since(&self, moment: u64) -> &[Write] {
        let first = self.all.partition_point(|write| write.call.saturating_add(self.longest) < moment);
        &self.all[first..]
    }
}

/// A write, however it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) call: u64,
    pub(super) ret: u64,
    pub(super) ended: Ended,
}

impl Series {
    /// For a run of so many ns.
    pub(super) fn new(length: u64) -> Self {
        let width = length.div_ceil(BUCKETS_MAX).div_ceil(SECOND).max(1) * SECOND;
        let count = usize::try_from(length / width + 1).expect("there are at most BUCKETS_MAX");
        let bucket = Bucket { ok: 0, fail: 0, info: 0, latency: histogram() };
        Self { buckets: vec![bucket; count], width, latency: histogram(), acked_at: Vec::new(), writes: HashMap::new() }
    }

    /// One operation more.
    pub(super) fn add(&mut self, op: &Op) {
        let last = self.buckets.len() - 1;
        let place = usize::try_from(op.ret / self.width).unwrap_or(last).min(last);
        if matches!(op.f, Function::Append | Function::Next) {
            let write = Write { call: op.call, ret: op.ret, ended: op.ended };
            match self.writes.get_mut(&op.key) {
                Some(writes) => writes.all.push(write),
                None => {
                    self.writes.insert(op.key.clone(), Writes { all: vec![write], longest: 0 });
                }
            }
        }
        let bucket = &mut self.buckets[place];
        match op.ended {
            Ended::Fail => bucket.fail += 1,
            Ended::Info => bucket.info += 1,
            Ended::Ok => {
                bucket.ok += 1;
                let latency = (op.ret.saturating_sub(op.call) / 1_000).max(1);
                bucket.latency.saturating_record(latency);
                self.latency.saturating_record(latency);
                self.acked_at.push(op.ret);
            }
        }
    }

    /// All operations were added.
    pub(super) fn finish(&mut self) {
        self.acked_at.sort_unstable();
        self.writes.values_mut().for_each(|writes| *writes = Writes::of(std::mem::take(&mut writes.all)));
    }

    /// Seconds of a bucket.
    pub(super) fn seconds(&self) -> u64 {
        self.width / SECOND
    }
}

fn histogram() -> Histogram<u32> {
    Histogram::new_with_max(LATENCY_MAX_US, 2).expect("the bounds are constant and in order")
}
