//! Small pictures of the last hour as inline SVG. Colours and widths are the style sheet's; there is no text in them but the
//! hints that a pointer calls up.

use super::History;
use super::markup::Markup;
use super::words::{counted, latency, real};

/// Requests as an area.
pub(super) fn requests(out: &mut Markup, history: &History) {
    let values: Vec<f64> = known(history, &history.requests).map(real).collect();
    let top = highest(&values);
    open(out, "Requests in each of the last 60 minutes");
    out.raw("<path class=\"area\" d=\"");
    let first = MINUTES - values.len();
    for (at, value) in values.iter().enumerate() {
        let x = column(first + at);
        out.raw(if at == 0 { "M" } else { "L" })
            .length(x)
            .raw(" ")
            .length(HEIGHT);
        out.raw("V")
            .length(height(*value, top))
            .raw("H")
            .length(x + STEP)
            .raw("V")
            .length(HEIGHT);
    }
    out.raw("\"/>");
    let labels = known(history, &history.requests).map(|count| counted(count, "request"));
    hints(out, first, labels);
    out.raw("</svg>");
}

/// Refusals as bars.
pub(super) fn refusals(out: &mut Markup, history: &History) {
    let values: Vec<f64> = known(history, &history.refusals).map(real).collect();
    let top = highest(&values);
    open(out, "Refusals in each of the last 60 minutes");
    let first = MINUTES - values.len();
    for (at, value) in values.iter().enumerate().filter(|(_, value)| **value > 0.0) {
        let y = height(*value, top).min(HEIGHT - 2.0);
        out.raw("<rect class=\"bar\" x=\"")
            .length(column(first + at) + 0.5)
            .raw("\" y=\"")
            .length(y);
        out.raw("\" width=\"")
            .length(STEP - 1.0)
            .raw("\" height=\"")
            .length(HEIGHT - y)
            .raw("\"/>");
    }
    let labels = known(history, &history.refusals).map(|count| counted(count, "refusal"));
    hints(out, first, labels);
    out.raw("</svg>");
}

/// Median and 99th percentile as lines.
pub(super) fn latencies(out: &mut Markup, history: &History) {
    let p50: Vec<_> = known(history, &history.p50_seconds).collect();
    let p99: Vec<_> = known(history, &history.p99_seconds).collect();
    let values: Vec<f64> = p50.iter().chain(&p99).copied().flatten().collect();
    let top = highest(&values);
    let first = MINUTES - p99.len();
    open(out, "Latency in each of the last 60 minutes");
    line(out, "<path class=\"p99\" d=\"", &p99, first, top);
    line(out, "<path class=\"p50\" d=\"", &p50, first, top);
    let labels = p50.iter().zip(&p99).map(|pair| match pair {
        (Some(p50), Some(p99)) => format!("p50 {}, p99 {}", latency(*p50), latency(*p99)),
        _ => "no commands".to_owned(),
    });
    hints(out, first, labels);
    out.raw("</svg>");
}

/// With gaps where there was nothing.
fn line(out: &mut Markup, begin: &'static str, values: &[Option<f64>], first: usize, top: f64) {
    out.raw(begin);
    let mut pen_down = false;
    for (at, value) in values.iter().enumerate() {
        if let Some(value) = value {
            let (x, y) = (column(first + at), height(*value, top));
            // A minute is a step, so that a single one can be seen.
            out.raw(if pen_down { "L" } else { "M" })
                .length(x)
                .raw(" ")
                .length(y)
                .raw("H")
                .length(x + STEP);
        }
        pen_down = value.is_some();
    }
    out.raw("\"/>");
}

fn open(out: &mut Markup, label: &'static str) {
    out.raw(
        "<svg class=\"chart\" viewBox=\"0 0 240 56\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"",
    );
    out.raw(label).raw("\"><path class=\"base\" d=\"M0 55.5H240\"/>");
}

fn hints(out: &mut Markup, first: usize, labels: impl Iterator<Item = String>) {
    for (at, label) in labels.enumerate() {
        let ago = MINUTES - 1 - (first + at).min(MINUTES - 1);
        out.raw("<rect class=\"hint\" x=\"")
            .length(column(first + at))
            .raw("\" width=\"")
            .length(STEP);
        out.raw("\" height=\"56\"><title>");
        match ago {
            0 => out.raw("now"),
            ago => out.text(&format!("{ago} min ago")),
        };
        out.raw(": ").text(&label).raw("</title></rect>");
    }
}

/// The minutes for which there are readings, at most an hour of them.
fn known<'a, T: Copy>(history: &History, values: &'a [T]) -> impl Iterator<Item = T> + use<'a, T> {
    let minutes = usize::try_from(history.known_seconds / 60 + 1).unwrap_or(MINUTES);
    let skip = values.len().saturating_sub(minutes.min(MINUTES));
    values.iter().skip(skip).copied()
}

fn highest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

/// Where a value lies, with a little room above.
fn height(value: f64, top: f64) -> f64 {
    if top <= 0.0 {
        return HEIGHT - 0.5;
    }
    (HEIGHT - 1.0).mul_add(-(value / top).clamp(0.0, 1.0), HEIGHT) + 0.5
}

fn column(at: usize) -> f64 {
    real(at as u64) * STEP
}

const MINUTES: usize = 60;
const STEP: f64 = 4.0;
const HEIGHT: f64 = 55.5;
