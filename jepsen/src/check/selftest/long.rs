//! Long: a made-up history of any length, written as it is told: is a million operations judged in bounded memory?

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::story::around;
use crate::check::{CheckOptions, Verdict, check_history};
use crate::history::{Ended, Function, HistoryWriter, Item, Op};

/// Conversations and counters.
const KEYS: usize = 200;
/// Time between two moments.
const STEP: u64 = 7;
/// One operation in so many is a read.
const READS: u32 = 50;
/// Entries of a read.
const READ_ITEMS: usize = 50;

/// How a long history was judged.
#[derive(Debug)]
pub struct LongReport {
    /// what the checkers said
    pub verdict: Verdict,
    /// how long they took
    pub took: Duration,
    /// the most memory that this process ever had, if the system says
    pub peak_bytes: Option<u64>,
}

/// Writes a valid history of about so many operations to a new file, and judges it.
///
/// # Errors
/// The file cannot be written or read.
pub fn judge_long(path: &Path, ops: u64, seed: u64) -> anyhow::Result<LongReport> {
    write(path, ops, seed).with_context(|| format!("write {}", path.display()))?;
    let began = Instant::now();
    let verdict = check_history(path, &CheckOptions::default())?;
    Ok(LongReport { verdict, took: began.elapsed(), peak_bytes: peak_bytes() })
}

fn write(path: &Path, ops: u64, seed: u64) -> std::io::Result<()> {
    let writer = HistoryWriter::create(path)?;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut logs: Vec<Vec<Item>> = vec![Vec::new(); KEYS];
    let mut counters = vec![0; KEYS];
    for step in 0..ops {
        let interval = around(&mut rng, 1_000 + step * STEP);
        let key = rng.random_range(0..KEYS);
        let is_log = rng.random_bool(0.5);
        let name = if is_log { format!("group:{key}") } else { format!("counter-{key}") };
        let op = |f| Op::new(step, &name, f, interval, Ended::Ok);
        let log = &mut logs[key];
        writer.write(&match (is_log, rng.random_ratio(1, READS)) {
            (true, true) => {
                let start = log.len().saturating_sub(READ_ITEMS);
                let from = log.get(start).map_or(1, |item| item.seq);
                Op { from: Some(from), limit: Some(0), items: Some(log[start..].to_vec()), ..op(Function::Sync) }
            }
            (true, false) => {
                let item = Item { seq: log.last().map_or(0, |item| item.seq) + 1, id: format!("{step:032x}") };
                log.push(item.clone());
                Op { id: Some(item.id), seq: Some(item.seq), ..op(Function::Append) }
            }
            (false, is_read) => {
                counters[key] += u64::from(!is_read);
                let function = if is_read { Function::Maxseq } else { Function::Next };
                Op { seq: Some(counters[key] + u64::from(is_read)), ..op(function) }
            }
        })?;
    }
    let end = 10_000 + ops * STEP;
    for (key, log) in logs.into_iter().enumerate() {
        let op = Op::new(0, &format!("group:{key}"), Function::Sync, (end, end + 1), Ended::Ok);
        writer.write(&Op { from: Some(1), limit: Some(0), items: Some(log), ..op })?;
    }
    writer.sync()
}

/// The high-water mark of this process's memory.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1_024)
}
