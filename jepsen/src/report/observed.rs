//! Observed: what a run's files show of its course.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::series::{SECOND, Series};
use super::span::{self, Recovery, Span};
use crate::history::{
    Fault, HISTORY_FILE, LEADERS_FILE, Leaders, NEMESIS_FILE, Op, RUN_FILE, for_each_line, read_lines,
};

/// The course of a run.
#[derive(Debug)]
pub(super) struct Observed {
    /// what it says of itself; `Null` if it says nothing
    pub(super) about: Value,
    pub(super) series: Series,
    pub(super) spans: Vec<Span>,
    /// of each span
    pub(super) recoveries: Vec<Option<Recovery>>,
    /// rising; empty if nobody looked
    pub(super) leaders: Vec<Leaders>,
    /// of the whole run, ns
    pub(super) length: u64,
}

impl Observed {
    /// Reads a run's folder; every operation is shown with its line.
    pub(super) fn read(folder: &Path, mut show: impl FnMut(u64, &Op)) -> anyhow::Result<Observed> {
        let faults: Vec<Fault> = lines_of(&folder.join(NEMESIS_FILE))?;
        let leaders: Vec<Leaders> = lines_of(&folder.join(LEADERS_FILE))?;
        let about = about(&folder.join(RUN_FILE))?;
        let history = folder.join(HISTORY_FILE);
        // Twice through the file, so that nothing but buckets is kept of it.
        let mut length = faults.iter().map(|fault| fault.ended).max().unwrap_or(0);
        for_each_line(&history, |_, op: Op| length = length.max(op.ret))?;
        let mut series = Series::new(length.max(SECOND));
        for_each_line(&history, |line, op: Op| {
            series.add(&op);
            show(line, &op);
        })?;
        series.finish();
        let spans = span::join(&faults, length);
        // Behind the load there is only the final reading.
        let load = about.pointer("/options/time_s").and_then(Value::as_u64);
        let prepared = about.pointer("/phases_s/prepare").and_then(Value::as_f64).unwrap_or(0.0);
        let load_end = load.map_or(length, |seconds| {
            let prepared = (prepared * SECOND as f64) as u64;
            length.min(seconds.saturating_mul(SECOND).saturating_add(prepared))
        });
        let recoveries = spans.iter().map(|span| span::recovery(span, &series, load_end)).collect();
        Ok(Observed { about, series, spans, recoveries, leaders, length })
    }
}

/// A file that may be absent.
fn lines_of<T: serde::de::DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    if path.exists() { Ok(read_lines(path)?) } else { Ok(Vec::new()) }
}

/// What the run says of itself; nothing if it says nothing.
fn about(path: &Path) -> anyhow::Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
}
