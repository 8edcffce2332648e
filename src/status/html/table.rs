//! Tables: on a narrow screen each row becomes a list of its headings and values.

use super::super::markup::Markup;
use super::super::words::ratio;

/// A column: its heading, and whether it has numbers.
pub(super) type Column = (&'static str, bool);

pub(super) fn section(
    out: &mut Markup,
    title: &'static str,
    note: &str,
    columns: &[Column],
    rows: impl Iterator<Item = Vec<Cell>>,
    empty: &'static str,
) {
    out.raw("<h2>").raw(title);
    if !note.is_empty() {
        out.raw("<small>").text(note).raw("</small>");
    }
    out.raw("</h2>\n<div class=\"card\">");
    table(out, None, columns, rows, empty);
    out.raw("</div>\n");
}

pub(super) fn card(
    out: &mut Markup,
    title: &'static str,
    note: &str,
    columns: &[Column],
    rows: impl Iterator<Item = Vec<Cell>>,
    empty: &'static str,
) {
    out.raw("<div class=\"card\">");
    table(out, Some((title, note)), columns, rows, empty);
    out.raw("</div>\n");
}

fn table(
    out: &mut Markup,
    caption: Option<(&'static str, &str)>,
    columns: &[Column],
    rows: impl Iterator<Item = Vec<Cell>>,
    empty: &'static str,
) {
    let mut body = Markup::default();
    for row in rows {
        body.raw("<tr>");
        for (cell, (heading, number)) in row.iter().zip(columns) {
            cell.write(&mut body, heading, *number);
        }
        body.raw("</tr>\n");
    }
    if body.is_empty() {
        if let Some((title, _)) = caption {
            out.raw("<table><caption>").raw(title).raw("</caption></table>");
        }
        out.raw("<p class=\"empty\">").raw(empty).raw("</p>");
        return;
    }
    out.raw("<table>");
    if let Some((title, note)) = caption {
        out.raw("<caption>")
            .raw(title)
            .raw("<small>")
            .text(note)
            .raw("</small></caption>");
    }
    out.raw("<thead><tr>");
    for (heading, number) in columns {
        out.raw(if *number {
            "<th class=\"n\" scope=\"col\">"
        } else {
            "<th scope=\"col\">"
        });
        out.raw(heading).raw("</th>");
    }
    out.raw("</tr></thead>\n<tbody>\n")
        .append(&body)
        .raw("</tbody></table>");
}

/// One field of a table.
#[derive(Debug, Default)]
pub(super) struct Cell {
    text: String,
    /// A smaller line below.
    note: String,
    /// A class of the style sheet.
    colour: &'static str,
    /// How much of how many.
    part: Option<(u64, u64)>,
}

impl Cell {
    pub(super) fn text(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            ..Self::default()
        }
    }

    pub(super) fn number(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }

    pub(super) fn note(text: &str, note: &str) -> Self {
        Self::text(text).noted(note.to_owned())
    }

    pub(super) fn none() -> Self {
        Self::text("–")
    }

    pub(super) fn part(text: String, part: u64, all: u64) -> Self {
        Self {
            text,
            part: Some((part, all)),
            ..Self::default()
        }
    }

    pub(super) fn noted(mut self, note: String) -> Self {
        self.note = note;
        self
    }

    pub(super) fn coloured(mut self, class: &'static str) -> Self {
        self.colour = class;
        self
    }

    fn write(&self, out: &mut Markup, heading: &'static str, number: bool) {
        out.raw(if number {
            "<td class=\"n\" data-label=\""
        } else {
            "<td data-label=\""
        });
        out.raw(heading).raw("\"><div>");
        if self.colour.is_empty() {
            out.text(&self.text);
        } else {
            out.raw("<span class=\"")
                .raw(self.colour)
                .raw("\">")
                .text(&self.text)
                .raw("</span>");
        }
        if let Some((part, all)) = self.part {
            gauge(out, part, all);
        }
        if !self.note.is_empty() {
            out.raw("<small>").text(&self.note).raw("</small>");
        }
        out.raw("</div></td>");
    }
}

fn gauge(out: &mut Markup, part: u64, all: u64) {
    let share = ratio(part, all.max(1)).clamp(0.0, 1.0);
    out.raw("<svg class=\"gauge\" viewBox=\"0 0 96 4\" aria-hidden=\"true\"><rect class=\"all\" width=\"96\" height=\"4\" rx=\"2\"/><rect class=\"");
    out.raw(if share > 0.8 { "full" } else { "part" })
        .raw("\" width=\"");
    // What is there can be seen.
    let width = if part == 0 { 0.0 } else { (96.0 * share).max(2.0) };
    out.length(width).raw("\" height=\"4\" rx=\"2\"/></svg>");
}
