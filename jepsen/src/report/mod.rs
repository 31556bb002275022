//! Report: a run as one page for people.
//!
//! One file, `report.html`, that needs nothing else: pictures are SVG, the style is inside, and there is no script. It
//! is made from the run's files and the verdict alone, so that it can be made again later.
//!
//! # Reading order
//! [`write_report`] → `series` and `span` (what happened when) → `page` (the parts) → `chart`.

mod around;
mod chart;
mod html;
mod page;
mod series;
mod span;

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::check::Verdict;
use crate::history::{Fault, HISTORY_FILE, NEMESIS_FILE, Op, RUN_FILE, for_each_line, read_lines};
use around::Around;
use series::{SECOND, Series};

/// The page, in a run's folder.
pub const REPORT_FILE: &str = "report.html";

const STYLE: &str = include_str!("style.css");

/// Writes [`REPORT_FILE`] beside the run's files.
///
/// # Errors
/// Files that cannot be read or written.
pub fn write_report(folder: &Path, verdict: &Verdict) -> anyhow::Result<()> {
    let faults_path = folder.join(NEMESIS_FILE);
    let faults: Vec<Fault> = if faults_path.exists() { read_lines(&faults_path)? } else { Vec::new() };
    let about = about(&folder.join(RUN_FILE))?;
    let history = folder.join(HISTORY_FILE);
    // Twice through the file, so that nothing but buckets is kept of it.
    let mut length = faults.iter().map(|fault| fault.ended).max().unwrap_or(0);
    for_each_line(&history, |_, op: Op| length = length.max(op.ret))?;
    let mut series = Series::new(length.max(SECOND));
    let mut around = Around::new(&verdict.violations);
    for_each_line(&history, |line, op: Op| {
        series.add(&op);
        around.add(line, &op);
    })?;
    series.finish();
    let spans = span::join(&faults, length);
    // Behind the load there is only the final reading.
    let load = about.pointer("/options/time_s").and_then(Value::as_u64);
    let load_end = load.map_or(length, |seconds| length.min(seconds.saturating_mul(SECOND)));
    let parts = [
        page::banner(verdict, &about),
        page::tiles(verdict, &about, &series, length),
        page::doubts(verdict),
        page::violations(verdict, &around),
        page::pictures(&series, &spans, length),
        page::faults(verdict, &spans, &series, load_end),
        page::counts(verdict),
        page::about(&about),
    ];
    let title = about.get("run").and_then(Value::as_str).unwrap_or("run");
    let text = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{} · {}</title><style>{STYLE}</style></head><body><main>{}</main></body></html>\n",
        verdict.outcome.word(),
        html::escape(title),
        parts.concat()
    );
    let path = folder.join(REPORT_FILE);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// What the run says of itself; nothing if it says nothing.
fn about(path: &Path) -> anyhow::Result<Value> {
    if !path.exists() {
        return Ok(Value::Null);
    }
    let text = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("read {}", path.display()))
}
