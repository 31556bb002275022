//! Series: a history over time, in buckets that fit a picture.
//!
//! Bounded: however long a run was, it has at most [`BUCKETS_MAX`] buckets; latencies are kept as histograms.

use hdrhistogram::Histogram;

use crate::history::{Ended, Op};

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
}

impl Series {
    /// For a run of so many ns.
    pub(super) fn new(length: u64) -> Self {
        let width = length.div_ceil(BUCKETS_MAX).div_ceil(SECOND).max(1) * SECOND;
        let count = usize::try_from(length / width + 1).expect("there are at most BUCKETS_MAX");
        let bucket = Bucket { ok: 0, fail: 0, info: 0, latency: histogram() };
        Self { buckets: vec![bucket; count], width, latency: histogram(), acked_at: Vec::new() }
    }

    /// One operation more.
    pub(super) fn add(&mut self, op: &Op) {
        let last = self.buckets.len() - 1;
        let place = usize::try_from(op.ret / self.width).unwrap_or(last).min(last);
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
    }

    /// Seconds of a bucket.
    pub(super) fn seconds(&self) -> u64 {
        self.width / SECOND
    }
}

fn histogram() -> Histogram<u32> {
    Histogram::new_with_max(LATENCY_MAX_US, 2).expect("the bounds are constant and in order")
}
