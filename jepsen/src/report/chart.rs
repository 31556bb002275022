//! Chart: lines and areas over the time of a run, as SVG, with the faults shaded behind them.

use std::fmt::Write;

use super::html::escape;
use super::series::SECOND;
use super::span::Span;
use crate::history::Effect;

const WIDTH: f64 = 1_100.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const HEIGHT: f64 = 190.0;
const BOTTOM: f64 = 24.0;
/// Height of a kind's row in the picture of faults.
const LANE: f64 = 17.0;
/// Room of the axis below the lanes.
const AXIS: f64 = 24.0;

/// How values become heights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    Linear,
    /// by powers of ten, from one on
    Logarithmic,
}

/// One line, or the area below it.
#[derive(Debug)]
pub(super) struct Curve {
    /// a CSS class with the colour
    pub(super) class: &'static str,
    pub(super) filled: bool,
    /// one a bucket; `None` leaves a gap
    pub(super) values: Vec<Option<f64>>,
}

/// Time on the page.
#[derive(Debug, Clone, Copy)]
pub(super) struct Axis {
    /// ns
    pub(super) length: u64,
    /// of a bucket, ns
    pub(super) width: u64,
}

impl Axis {
    fn x(self, time: u64) -> f64 {
        let part = time.min(self.length) as f64 / self.length.max(1) as f64;
        LEFT + part * (WIDTH - LEFT - RIGHT)
    }

    /// Times with a label: a round number of seconds apart, about ten of them.
    fn ticks(self) -> impl Iterator<Item = u64> {
        let seconds = (self.length / SECOND).max(1);
        let steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600];
        let step = steps.into_iter().find(|step| seconds / step <= 12).unwrap_or(7_200);
        (0..=seconds / step).map(move |tick| tick * step * SECOND)
    }

    fn draw(self, svg: &mut String, top: f64, bottom: f64) {
        for time in self.ticks() {
            let x = self.x(time);
            put(svg, format_args!(r#"<line class="grid" x1="{x:.1}" x2="{x:.1}" y1="{top}" y2="{bottom}"/>"#));
            let label = bottom + 15.0;
            let text = clock(time);
            put(svg, format_args!(r#"<text class="tick" x="{x:.1}" y="{label}" text-anchor="middle">{text}</text>"#));
        }
    }
}

/// Curves over time.
pub(super) fn curves(axis: Axis, spans: &[Span], curves: &[Curve], scale: Scale, unit: fn(f64) -> String) -> String {
    let bottom = TOP + HEIGHT;
    let mut svg = open(bottom + BOTTOM);
    shade(&mut svg, axis, spans, TOP, bottom);
    axis.draw(&mut svg, TOP, bottom);
    let values = || curves.iter().flat_map(|curve| &curve.values).flatten();
    let highest = values().fold(1.0, |highest: f64, value| highest.max(*value));
    let lowest = values().fold(highest, |lowest: f64, value| lowest.min(*value));
    let lines = lines(lowest, highest, scale);
    let (first, last) = (lines[0], lines[lines.len() - 1]);
    let y = |value: f64| match scale {
        Scale::Linear => bottom - value / last * HEIGHT,
        Scale::Logarithmic => bottom - (value.max(first) / first).log10() / (last / first).log10() * HEIGHT,
    };
    for line in &lines {
        let (height, text) = (y(*line), unit(*line));
        let end = WIDTH - RIGHT;
        put(&mut svg, format_args!(r#"<line class="grid" x1="{LEFT}" x2="{end}" y1="{height:.1}" y2="{height:.1}"/>"#));
        let (x, label) = (LEFT - 8.0, height + 3.5);
        put(&mut svg, format_args!(r#"<text class="tick" x="{x}" y="{label:.1}" text-anchor="end">{text}</text>"#));
    }
    for curve in curves {
        draw(&mut svg, axis, curve, bottom, &y);
    }
    svg + "</svg>"
}

/// Values with a line of their own, two at least: round ones from the bottom to the highest or above.
fn lines(lowest: f64, highest: f64, scale: Scale) -> Vec<f64> {
    if scale == Scale::Logarithmic {
        let bottom = lowest.max(1.0).log10().floor();
        let top = highest.log10().ceil().max(bottom + 1.0);
        let powers = std::iter::successors(Some(bottom), |power| Some(power + 1.0));
        return powers.take_while(|power| *power <= top).map(|power| 10f64.powf(power)).collect();
    }
    let rough = highest / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    std::iter::successors(Some(0.0), |line| (*line < highest).then_some(line + step)).collect()
}

fn draw(svg: &mut String, axis: Axis, curve: &Curve, bottom: f64, y: &impl Fn(f64) -> f64) {
    let mut stretches: Vec<Vec<(f64, f64)>> = vec![Vec::new()];
    for (time, value) in (0u64..).map(|place| place * axis.width + axis.width / 2).zip(&curve.values) {
        match value {
            Some(value) => stretches.last_mut().expect("one was put in at first").push((axis.x(time), y(*value))),
            None => stretches.push(Vec::new()),
        }
    }
    for points in stretches.iter().filter(|points| !points.is_empty()) {
        let path: String = points.iter().map(|(x, y)| format!("L{x:.1} {y:.1}")).collect();
        let path = path.replacen('L', "M", 1);
        let class = curve.class;
        if curve.filled {
            let (first, last) = (points[0].0, points[points.len() - 1].0);
            put(
                svg,
                format_args!(r#"<path class="area {class}" d="{path}L{last:.1} {bottom}L{first:.1} {bottom}Z"/>"#),
            );
        }
        // A single point has no length: a round cap shows it.
        let dot = if points.len() == 1 { "h0.1" } else { "" };
        put(svg, format_args!(r#"<path class="line {class}" d="{path}{dot}"/>"#));
    }
}

/// Faults as shadows behind a picture.
fn shade(svg: &mut String, axis: Axis, spans: &[Span], top: f64, bottom: f64) {
    for span in spans.iter().filter(|span| span.effect == Effect::Installed) {
        let (x, width) = extent(axis, span);
        let height = bottom - top;
        let title = title(span);
        put(
            svg,
            format_args!(
                r#"<rect class="shade" x="{x:.1}" y="{top}" width="{width:.1}" height="{height}"><title>{title}</title></rect>"#
            ),
        );
    }
}

/// The faults of a run, a row for each kind.
pub(super) fn lanes(axis: Axis, spans: &[Span]) -> String {
    let mut kinds: Vec<&str> = spans.iter().map(|span| span.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let bottom = TOP + kinds.len() as f64 * LANE;
    let mut svg = open(bottom + AXIS);
    axis.draw(&mut svg, TOP, bottom);
    for (row, kind) in kinds.iter().enumerate() {
        let y = TOP + row as f64 * LANE;
        let (x, label) = (LEFT - 8.0, y + LANE / 2.0 + 3.5);
        let text = escape(kind);
        put(&mut svg, format_args!(r#"<text class="tick" x="{x}" y="{label:.1}" text-anchor="end">{text}</text>"#));
        for span in spans.iter().filter(|span| span.kind == *kind) {
            let (x, width) = extent(axis, span);
            let (y, height, title) = (y + 2.0, LANE - 4.0, title(span));
            let class = effect_word(span.effect);
            put(
                &mut svg,
                format_args!(
                    r#"<rect class="fault {class}" x="{x:.1}" y="{y}" width="{width:.1}" height="{height}" rx="2"><title>{title}</title></rect>"#
                ),
            );
        }
    }
    svg + "</svg>"
}

/// For people and for CSS.
pub(super) fn effect_word(effect: Effect) -> &'static str {
    match effect {
        Effect::Installed => "installed",
        Effect::Skipped => "skipped",
        Effect::Indeterminate => "indeterminate",
    }
}

fn title(span: &Span) -> String {
    let targets = span.targets.join(", ");
    escape(&format!("{} {targets}, {} to {}: {}", span.kind, clock(span.began), clock(span.ended), span.detail))
}

/// Where a fault lies; never too narrow to be seen.
fn extent(axis: Axis, span: &Span) -> (f64, f64) {
    let x = axis.x(span.began);
    let end = if span.effect == Effect::Skipped { span.began } else { span.ended };
    (x, (axis.x(end) - x).max(2.5))
}

/// Minutes and seconds.
pub(super) fn clock(time: u64) -> String {
    let seconds = time / SECOND;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

fn open(height: f64) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {height}" role="img">"#)
}

fn put(svg: &mut String, text: std::fmt::Arguments<'_>) {
    svg.write_fmt(text).expect("a string takes all");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_round_and_reach_the_highest() {
        assert_eq!(lines(0.0, 437.0, Scale::Linear), [0.0, 200.0, 400.0, 600.0]);
        assert_eq!(lines(0.0, 1.0, Scale::Linear), [0.0, 0.25, 0.5, 0.75, 1.0]);
        assert_eq!(lines(20.0, 437.0, Scale::Logarithmic), [10.0, 100.0, 1_000.0]);
        assert_eq!(lines(10.0, 10.0, Scale::Logarithmic), [10.0, 100.0]);
    }

    #[test]
    fn a_long_run_has_few_labels() {
        let axis = Axis { length: 600 * SECOND, width: SECOND };
        let ticks: Vec<u64> = axis.ticks().map(|tick| tick / SECOND).collect();
        assert_eq!(ticks, [0, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600]);
    }
}
