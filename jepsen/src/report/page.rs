//! Page: the parts of the report, each from what is known of the run.

use serde_json::Value;

use super::around::{Around, VIOLATIONS_MAX};
use super::chart::{Axis, Curve, Scale, clock, curves, effect_word, lanes};
use super::html::{counted, escape, grouped, section, table, tile};
use super::recovery::{Recoveries, Times};
use super::series::{SECOND, Series};
use super::span::{Recovery, Span};
use crate::check::{Outcome, Verdict};
use crate::history::Effect;

/// Characters of a value of `run.json`.
const VALUE_CHARS_MAX: usize = 400;
/// Rows of a table of single faults.
const FAULTS_MAX: usize = 400;

/// The coloured head.
pub(super) fn banner(verdict: &Verdict, about: &Value) -> String {
    let word = verdict.outcome.word();
    let headline = match verdict.outcome {
        Outcome::Ok => "Nothing was wrong",
        Outcome::Violation => "A promise was broken",
        Outcome::Invalid => "This run proves nothing",
        Outcome::Broken => "The harness broke",
    };
    let name = about.get("run").and_then(Value::as_str).map_or(String::new(), |run| format!("Run {} · ", escape(run)));
    format!(
        r#"<header class="{word}"><h1>{headline}</h1><p>{name}verdict <b>{word}</b> · {} · {} acked · {} of unknown outcome</p></header>"#,
        counted(verdict.violation_count, "violation"),
        counted(verdict.acked, "operation"),
        grouped(verdict.unknown),
    )
}

/// The numbers that one looks for first.
pub(super) fn tiles(verdict: &Verdict, about: &Value, series: &Series, length: u64) -> String {
    let quantile = |quantile| micros(series.latency.value_at_quantile(quantile) as f64);
    let installed: u64 = verdict.faults.values().map(|counts| counts.installed).sum();
    let all: u64 = series.acked_at.len() as u64;
    let seconds = (length / SECOND).max(1);
    let snapshots = about.pointer("/counters/snapshots installed").and_then(Value::as_f64);
    let tiles = [
        tile(grouped(verdict.acked), "acked operations"),
        tile(grouped(verdict.seen.entries), "entries given to devices"),
        tile(format!("{}/s", grouped(all / seconds)), "answers, mean"),
        tile(quantile(0.5), "latency p50"),
        tile(quantile(0.99), "latency p99"),
        tile(grouped(installed), "faults that took effect"),
        tile(verdict.fault_kinds_effective(), "kinds of them"),
        tile(snapshots.map_or_else(|| "–".to_owned(), |count| grouped(count as u64)), "snapshots installed"),
        tile(clock(length), "min:s"),
    ];
    format!(r#"<div class="tiles">{}</div>"#, tiles.concat())
}

/// Why nothing is proved.
pub(super) fn doubts(verdict: &Verdict) -> String {
    if verdict.vacuous.is_empty() {
        return String::new();
    }
    let reasons: String = verdict.vacuous.iter().map(|reason| format!("<li>{}</li>", escape(reason))).collect();
    section("Why this run proves too little", &format!("<ul>{reasons}</ul>"))
}

/// Throughput, latency and faults over time.
pub(super) fn pictures(series: &Series, spans: &[Span], length: u64) -> String {
    let axis = Axis { length, width: series.width };
    let seconds = series.seconds() as f64;
    let rate = |of: fn(&super::series::Bucket) -> u64| {
        series.buckets.iter().map(|bucket| Some(of(bucket) as f64 / seconds)).collect()
    };
    let quantile = |quantile: f64| -> Vec<Option<f64>> {
        let of =
            |bucket: &super::series::Bucket| (bucket.ok > 0).then(|| bucket.latency.value_at_quantile(quantile) as f64);
        series.buckets.iter().map(of).collect()
    };
    let throughput = [
        Curve { class: "ok", filled: true, values: rate(|bucket| bucket.ok) },
        Curve { class: "fail", filled: false, values: rate(|bucket| bucket.fail) },
        Curve { class: "info", filled: false, values: rate(|bucket| bucket.info) },
    ];
    let latency = [
        Curve { class: "p99", filled: false, values: quantile(0.99) },
        Curve { class: "p50", filled: false, values: quantile(0.5) },
    ];
    let shaded = if spans.is_empty() { "" } else { r#"<i class="shade-key"></i>a fault"# };
    let mut out = section(
        "Operations a second",
        &format!(
            r#"<p class="legend"><i class="ok"></i>ok<i class="info"></i>unknown<i class="fail"></i>failed for sure{shaded}</p>{}"#,
            curves(axis, spans, &throughput, Scale::Linear, number)
        ),
    );
    out += &section(
        "Latency of what was acked",
        &format!(
            r#"<p class="legend"><i class="p50"></i>p50<i class="p99"></i>p99, logarithmic{shaded}</p>{}"#,
            curves(axis, spans, &latency, Scale::Logarithmic, micros)
        ),
    );
    if !spans.is_empty() {
        let legend = r#"<p class="legend"><i class="shade-key"></i>took effect<i class="fail"></i>skipped; point at one for its targets</p>"#;
        out += &section("Faults", &format!("{legend}{}", lanes(axis, spans)));
    }
    out
}

/// Counts of operations, and of what devices were given.
pub(super) fn counts(verdict: &Verdict) -> String {
    let rows = verdict.ops.iter().map(|(function, counts)| {
        let numbers = [counts.ok, counts.fail, counts.info].map(grouped);
        [vec![escape(function)], numbers.to_vec()].concat()
    });
    let ops = table(&["operation", "ok", "failed", "unknown"], 1, &rows.collect::<Vec<_>>());
    let seen = &verdict.seen;
    let given = [
        ("pages of sync", seen.pages),
        ("of the final sync", seen.final_pages),
        ("pushed entries", seen.pushes),
        ("entries in all", seen.entries),
        ("cursors", seen.cursors),
        ("conversations read at the end", seen.conversation_reads),
        ("attempts that must be refused", seen.denied),
    ];
    let keys = verdict.keys.iter().map(|(model, count)| (format!("keys judged as {model}"), *count));
    let given = given.into_iter().map(|(what, count)| (what.to_owned(), count)).chain(keys);
    let rows: Vec<Vec<String>> = given.map(|(what, count)| vec![escape(&what), grouped(count)]).collect();
    format!(
        r#"<div class="columns">{}{}</div>"#,
        section("Operations", &ops),
        section("What devices were given", &table(&["", "count"], 1, &rows))
    )
}

/// Faults by kind, and each with how the cluster came through.
pub(super) fn faults(verdict: &Verdict, spans: &[Span], recoveries: &[Option<Recovery>]) -> String {
    if verdict.faults.is_empty() && spans.is_empty() {
        return section("Faults", r#"<p class="note">Nothing was done to the cluster.</p>"#);
    }
    let mut by_kind = Recoveries::default();
    spans.iter().zip(recoveries).for_each(|(span, recovery)| by_kind.add(span, *recovery, &[]));
    let rows = verdict.faults.iter().map(|(kind, counts)| {
        let seen = by_kind.of(kind);
        let pair = |times: &Times| match seen.faults {
            0 => ["–".to_owned(), "–".to_owned()],
            _ => [50, 100].map(|percent| waited(times.percentile(percent))),
        };
        let numbers = [counts.installed, counts.skipped, counts.indeterminate].map(grouped);
        [&[escape(kind)][..], &numbers, &pair(&seen.silence), &pair(&seen.slowest), &pair(&seen.back)].concat()
    });
    let head = [
        "kind",
        "took effect",
        "skipped",
        "unclear",
        "silence, median",
        "worst",
        "slowest key, median",
        "worst",
        "back after, median",
        "worst",
    ];
    let note = r#"<p class="note">Silence: the longest time without an answer within 15 s of the injection. Slowest key: how long whoever wrote the conversation, counter or register that waited longest had to wait for an ack, from the injection or from when he asked. Back after: from the injection until half a second has at least 80 % of the median rate of the 10 s before; 0 if it never fell below, while there was load and for a minute at most. Faults overlap unless the run kept them apart, so that a number may speak of a neighbour.</p>"#;
    let mut out =
        section("Recovery by kind of fault", &format!("{note}{}", table(&head, 1, &rows.collect::<Vec<_>>())));
    let rows = spans.iter().zip(recoveries).take(FAULTS_MAX).map(|(span, recovery)| {
        let word = effect_word(span.effect);
        let recovery = recovery.filter(|_| span.effect == Effect::Installed);
        let told =
            |of: fn(Recovery) -> Option<u64>| recovery.map_or_else(|| "–".to_owned(), |recovery| waited(of(recovery)));
        vec![
            span.number.to_string(),
            escape(&span.kind),
            escape(&span.targets.join(", ")),
            format!(r#"<span class="word-{word}">{word}</span>"#),
            escape(&span.detail),
            clock(span.began),
            if span.healed { millis(span.ended.saturating_sub(span.began)) } else { "–".to_owned() },
            told(|recovery| Some(recovery.gap)),
            told(|recovery| recovery.slowest),
            told(|recovery| recovery.back_after),
        ]
    });
    let rows: Vec<_> = rows.collect();
    let head = ["#", "kind", "targets", "effect", "detail", "at", "lasted", "silence", "slowest key", "back after"];
    let summary = format!(
        "<details><summary>each of {}</summary>{}</details>",
        counted(spans.len() as u64, "fault"),
        table(&head, 5, &rows)
    );
    out = out.replacen("</section>", &format!("{summary}</section>"), 1);
    out
}

/// Each violation with its evidence and what was around it.
pub(super) fn violations(verdict: &Verdict, around: &Around<'_>) -> String {
    if verdict.violation_count == 0 {
        return String::new();
    }
    let rows: Vec<Vec<String>> = verdict
        .violations_by_rule
        .iter()
        .map(|(rule, count)| vec![rule.to_string(), rule.invariant().to_owned(), escape(rule.claim()), grouped(*count)])
        .collect();
    let mut out = table(&["rule", "invariant", "what must hold", "broken"], 3, &rows);
    for (place, violation) in verdict.violations.iter().take(VIOLATIONS_MAX).enumerate() {
        let evidence: String = violation
            .evidence
            .iter()
            .map(|evidence| {
                format!("<pre>{}:{}  {}</pre>", escape(&evidence.file), evidence.line, escape(&evidence.record))
            })
            .collect();
        let seconds = violation.at as f64 / SECOND as f64;
        out += &format!(
            r#"<div class="violation-card"><h3><span class="badge">{} · {}</span>{}</h3><p class="claim">{} at {seconds:.3} s. {}</p>{evidence}{}</div>"#,
            violation.rule,
            escape(&violation.invariant),
            escape(&violation.text),
            escape(&violation.key),
            escape(violation.rule.claim()),
            around.show(place),
        );
    }
    let shown = verdict.violations.len().min(VIOLATIONS_MAX) as u64;
    if shown < verdict.violation_count {
        out += &format!(r#"<p class="note">{} are shown.</p>"#, grouped(shown));
    }
    section(&counted(verdict.violation_count, "violation"), &out)
}

/// Everything of `run.json`, by path.
pub(super) fn about(about: &Value) -> String {
    let mut rows = Vec::new();
    flatten("", about, &mut rows);
    if rows.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = rows
        .into_iter()
        .map(|(name, value)| {
            let cut: String = value.chars().take(VALUE_CHARS_MAX).collect();
            let dots = if cut.len() < value.len() { "…" } else { "" };
            vec![format!("<code>{}</code>", escape(&name)), format!("{}{dots}", escape(&cut))]
        })
        .collect();
    section("How it was made", &table(&["", ""], 2, &rows))
}

fn flatten(name: &str, value: &Value, rows: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, rows);
            }
        }
        Value::Array(list) if list.iter().all(|value| !value.is_object() && !value.is_array()) => {
            let texts: Vec<String> = list.iter().map(plain).collect();
            rows.push((name.to_owned(), if texts.is_empty() { "–".to_owned() } else { texts.join(", ") }));
        }
        other => rows.push((name.to_owned(), plain(other))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        other => other.to_string(),
    }
}

fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value}") }
}

/// Microseconds in the unit that suits them.
fn micros(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{} s", trimmed(value / 1e6)),
        value if value >= 1e3 => format!("{} ms", trimmed(value / 1e3)),
        value => format!("{} µs", trimmed(value)),
    }
}

fn trimmed(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// What may not have come while it was watched for.
fn waited(nanos: Option<u64>) -> String {
    nanos.map_or_else(|| "not while watched".to_owned(), millis)
}

fn millis(nanos: u64) -> String {
    if nanos == 0 { "0".to_owned() } else { micros(nanos as f64 / 1e3) }
}
