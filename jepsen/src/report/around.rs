//! Around: the operations that were under way on a violation's key, near the time of it.
//!
//! Bounded: a few for each violation that is shown, however long the history is.

use super::html::{escape, table};
use super::series::SECOND;
use crate::check::Violation;
use crate::history::{Ended, Op};

/// Violations that are shown with what was around them.
pub(super) const VIOLATIONS_MAX: usize = 30;
/// Of them: shown with their operations unfolded.
const UNFOLDED: usize = 3;
/// Operations around one.
const OPS_MAX: usize = 16;

/// One operation near a violation.
#[derive(Debug, Clone)]
struct Near {
    distance: u64,
    line: u64,
    op: Op,
}

/// What was near each of the first violations.
#[derive(Debug)]
pub(super) struct Around<'a> {
    violations: &'a [Violation],
    near: Vec<Vec<Near>>,
}

impl<'a> Around<'a> {
    pub(super) fn new(violations: &'a [Violation]) -> Self {
        let violations = &violations[..violations.len().min(VIOLATIONS_MAX)];
        Self { violations, near: vec![Vec::new(); violations.len()] }
    }

    /// One operation of the history.
    pub(super) fn add(&mut self, line: u64, op: &Op) {
        for (violation, near) in self.violations.iter().zip(&mut self.near) {
            // Of a user's violation nothing in the history has the key.
            if violation.key != op.key {
                continue;
            }
            let distance =
                if op.ret < violation.at { violation.at - op.ret } else { op.call.saturating_sub(violation.at) };
            let place = near.partition_point(|other| other.distance <= distance);
            if place < OPS_MAX {
                near.insert(place, Near { distance, line, op: op.clone() });
                near.truncate(OPS_MAX);
            }
        }
    }

    /// The operations around a violation, on a common scale of time.
    pub(super) fn show(&self, place: usize) -> String {
        let Some(near) = self.near.get(place).filter(|near| !near.is_empty()) else { return String::new() };
        let mut near: Vec<&Near> = near.iter().collect();
        near.sort_by_key(|near| (near.op.call, near.line));
        let start = near.iter().map(|near| near.op.call).min().unwrap_or(0);
        let end = near.iter().map(|near| near.op.ret).max().unwrap_or(start).max(start + 1);
        let rows: Vec<Vec<String>> = near.into_iter().map(|near| row(near, start, end)).collect();
        let head = ["line", "client", "what", "", "called", "ms"];
        let open = if place < UNFOLDED { " open" } else { "" };
        format!("<details{open}><summary>operations around it</summary>{}</details>", table(&head, 4, &rows))
    }
}

fn row(near: &Near, start: u64, end: u64) -> Vec<String> {
    let op = &near.op;
    let percent = |time: u64| (time.clamp(start, end) - start) as f64 / (end - start) as f64 * 100.0;
    let (left, right) = (percent(op.call), percent(op.ret));
    let class = match op.ended {
        Ended::Ok => "ok",
        Ended::Fail => "fail",
        Ended::Info => "info",
    };
    let bar = format!(
        r#"<div class="bar"><i class="{class}" style="left:{left:.2}%;width:{:.2}%"></i></div>"#,
        (right - left).max(0.6)
    );
    let seconds = op.call as f64 / SECOND as f64;
    let millis = op.ret.saturating_sub(op.call) as f64 / 1e6;
    let what = format!(r#"<span class="dot {class}"></span>{}"#, escape(&describe(op)));
    vec![near.line.to_string(), op.proc.to_string(), what, bar, format!("{seconds:.3} s"), format!("{millis:.1}")]
}

/// An operation in a few words.
fn describe(op: &Op) -> String {
    let mut words = vec![op.f.word().to_owned()];
    let named =
        [("epoch", op.epoch), ("lo", op.lo), ("hi", op.hi), ("old", op.old), ("from", op.from), ("limit", op.limit)];
    words.extend(op.id.as_ref().map(|id| id.chars().take(12).collect()));
    words.extend(named.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?))));
    if let Some(items) = &op.items {
        let last = items.last().map_or_else(String::new, |item| format!(", the last at {}", item.seq));
        words.push(format!("→ {} entries{last}", items.len()));
    }
    words.extend(op.seq.map(|seq| format!("→ {seq}")));
    words.extend(op.reject.filter(|reject| *reject).map(|_| "refused".to_owned()));
    words.join(" ")
}
