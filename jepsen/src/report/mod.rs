//! Report: a run as one page for people.
//!
//! One file, `report.html`, that needs nothing else: pictures are SVG, the style is inside, and there is no script. It
//! is made from the run's files and the verdict alone, so that it can be made again later.
//!
//! # Reading order
//! [`write_report`] → `observed` (what happened), of `series` and `span` → `page` (the parts) → `chart`; `recovery`: how
//! long clusters took to come back, over several runs.

mod around;
mod chart;
mod html;
mod observed;
mod page;
mod recovery;
mod series;
mod span;

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use crate::check::Verdict;
use around::Around;
use observed::Observed;

pub use recovery::{Bound, Judged, Measure, Recovered, Recoveries, Times};

/// The page, in a run's folder.
pub const REPORT_FILE: &str = "report.html";

const STYLE: &str = include_str!("style.css");

/// Writes [`REPORT_FILE`] beside the run's files.
///
/// # Errors
/// Files that cannot be read or written.
pub fn write_report(folder: &Path, verdict: &Verdict) -> anyhow::Result<()> {
    let mut around = Around::new(&verdict.violations);
    let Observed { about, series, spans, recoveries, length, .. } =
        Observed::read(folder, |line, op| around.add(line, op))?;
    let parts = [
        page::banner(verdict, &about),
        page::tiles(verdict, &about, &series, length),
        page::doubts(verdict),
        page::violations(verdict, &around),
        page::pictures(&series, &spans, length),
        page::faults(verdict, &spans, &recoveries),
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
