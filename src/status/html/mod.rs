//! The page: one file of markup and style, without scripts and without anything from elsewhere.

mod rows;
mod table;

use super::markup::Markup;
use super::words::{ago, bytes, counted, date, lasting, latency, number, rate, span, user};
use super::{Phase, Problem, RefusedRow, Severity, State, Status, chart};

use rows::{
    CERTIFICATE, COMMAND, CONNECTION, LISTENER, LOCKOUT, LOGIN, SLOWED, UPSTREAM, USER, account, certificate,
    listener, refusal, upstream,
};
use table::{Cell, card, section};

/// The style sheet, as it stands between the tags; its hash is what the page's security policy allows.
pub const STYLE: &str = include_str!("style.css");

/// The page. `refreshing`: the browser is told to ask again by itself; the page says how to stop that.
pub fn page(status: &Status, refreshing: bool) -> String {
    let mut out = Markup::default();
    out.raw("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
        .raw("<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<meta name=\"robots\" content=\"noindex\">\n<title>")
        .text(&headline(status))
        .raw(" – Keyward</title>\n")
        .raw(icon(status.state))
        .raw("<style>")
        .raw(STYLE)
        .raw("</style>\n</head>\n<body>\n<main>\n");
    head(&mut out, status);
    problems(&mut out, status);
    charts(&mut out, status);
    refused(&mut out, status);
    section(
        &mut out,
        "Listeners",
        "",
        &LISTENER,
        status.listeners.iter().map(listener),
        "",
    );
    let rows = status.upstreams.iter().map(|known| upstream(known, status.now));
    section(&mut out, "Upstreams", "", &UPSTREAM, rows, "");
    let more = match status.users_total.saturating_sub(status.users.len()) {
        0 => String::new(),
        more => format!("and {more} more"),
    };
    let rows = status.users.iter().map(|known| account(known, status.now));
    section(&mut out, "Users", &more, &USER, rows, "There are no users.");
    let rows = status
        .certificates
        .iter()
        .map(|known| certificate(known, status.now));
    section(
        &mut out,
        "Certificates",
        "",
        &CERTIFICATE,
        rows,
        "None are loaded.",
    );
    foot(&mut out, status, refreshing);
    out.raw("</main>\n</body>\n</html>\n");
    out.finish()
}

/// What the state is in a few words; of the tab and of the top of the page.
pub(super) fn headline(status: &Status) -> String {
    let bad = status
        .problems
        .iter()
        .filter(|problem| problem.severity != Severity::Notice)
        .count();
    match (status.phase, bad) {
        (Phase::Draining, _) => "Draining".to_owned(),
        (Phase::Starting, 0) => "Starting".to_owned(),
        (_, 0) => "All is well".to_owned(),
        (_, count) => counted(count as u64, "problem"),
    }
}

/// A dot in the tab's colour; the policy allows pictures that are in the page itself.
fn icon(state: State) -> &'static str {
    macro_rules! dot {
        ($colour:literal) => {
            concat!(
                "<link rel=\"icon\" href=\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E",
                "%3Ccircle cx='8' cy='8' r='7' fill='%23", $colour, "'/%3E%3C/svg%3E\">\n"
            )
        };
    }
    match state {
        State::Ok => dot!("1c7a48"),
        State::Warning => dot!("c98a1b"),
        State::Critical => dot!("c4281b"),
    }
}

fn head(out: &mut Markup, status: &Status) {
    out.raw("<header>").raw(match status.state {
        State::Ok => "<span class=\"light\"></span>",
        State::Warning => "<span class=\"light warning\"></span>",
        State::Critical => "<span class=\"light critical\"></span>",
    });
    out.raw("<div><h1>")
        .text(&headline(status))
        .raw("</h1><p>Keyward ")
        .text(&status.version);
    if status.started > 0 {
        out.raw(", up for ")
            .text(&span(status.now.saturating_sub(status.started)));
    }
    out.raw(" · configuration: ").text(&status.configuration.source);
    if let Some(loaded) = status.configuration.loaded {
        out.raw(", loaded ").text(&ago(loaded, status.now));
    }
    out.raw(" · ")
        .text(&date(status.now))
        .raw("</p></div></header>\n");
}

fn problems(out: &mut Markup, status: &Status) {
    if status.problems.is_empty() {
        return;
    }
    out.raw("<ul class=\"problems\">\n");
    for problem in &status.problems {
        one_problem(out, problem, status.now);
    }
    let more = status.problems_total.saturating_sub(status.problems.len());
    if more > 0 {
        out.raw("<li>and ")
            .text(&counted(more as u64, "further problem"))
            .raw("</li>\n");
    }
    out.raw("</ul>\n");
}

fn one_problem(out: &mut Markup, problem: &Problem, now: i64) {
    out.raw(match problem.severity {
        Severity::Critical => {
            "<li class=\"critical\"><div class=\"head\"><p><span class=\"word\">critical</span><strong>"
        }
        Severity::Warning => {
            "<li class=\"warning\"><div class=\"head\"><p><span class=\"word\">warning</span><strong>"
        }
        Severity::Notice => "<li><div class=\"head\"><p><span class=\"word\">notice</span><strong>",
    });
    out.text(&problem.title)
        .raw("</strong></p><span class=\"when\" title=\"since ")
        .text(&date(problem.since))
        .raw("\">");
    if !problem.runbook.is_empty() {
        out.text(&problem.id).raw(" · ");
    }
    out.text(&lasting(problem.since, now)).raw("</span></div>");
    if !problem.detail.is_empty() {
        out.raw("<p class=\"detail\">").text(&problem.detail).raw("</p>");
    }
    out.raw("<p class=\"remedy\"><span>")
        .text(&problem.remedy)
        .raw("</span></p>");
    out.raw("</li>\n");
}

fn charts(out: &mut Markup, status: &Status) {
    let history = &status.history;
    let total = |values: &[u64]| number(values.iter().sum());
    let rates = status
        .listeners
        .iter()
        .map(|listener| listener.requests_per_second);
    out.raw("<div class=\"charts\">\n<figure><figcaption>Requests a second<b>")
        .text(&rate(rates.sum()));
    out.raw("</b></figcaption>");
    chart::requests(out, history);
    axis(out);
    out.raw("<span>")
        .text(&total(&history.requests))
        .raw(" in the last hour</span>")
        .raw(AXIS_END);
    out.raw("<figure><figcaption>Refused in the last hour<b>")
        .text(&total(&history.refusals));
    out.raw("</b></figcaption>");
    chart::refusals(out, history);
    axis(out);
    out.raw("<span>logins, commands, connections</span>")
        .raw(AXIS_END);
    let last = |values: &[Option<f64>]| {
        let found = values.iter().rev().flatten().next();
        found.map_or_else(|| "–".to_owned(), |value| latency(*value))
    };
    out.raw("<figure><figcaption>Latency, p99<b>")
        .text(&last(&history.p99_seconds))
        .raw("</b></figcaption>");
    chart::latencies(out, history);
    axis(out);
    out.raw("<span><span class=\"key\">p50 ")
        .text(&last(&history.p50_seconds));
    out.raw("</span> &nbsp; <span class=\"key slow\">p99</span></span>")
        .raw(AXIS_END);
    out.raw("</div>\n");
}

fn axis(out: &mut Markup) {
    out.raw("<div class=\"axis\"><span>60 min ago</span>");
}

fn refused(out: &mut Markup, status: &Status) {
    let refused = &status.refused;
    out.raw("<h2>Who is being refused<small>in the last ")
        .text(&span(window(refused.window_seconds)));
    out.raw("</small></h2>\n<div class=\"pair\">\n");
    let rows = refused.logins.iter().map(|row| {
        let who = Cell::note(user(&row.user), &row.listener);
        refusal(row, who, status.now)
    });
    card(out, "Logins", &total(refused.logins_total), &LOGIN, rows, "None.");
    let rows = refused.commands.iter().map(|row| {
        let what = Cell::note(&row.command.replace('|', " ").to_uppercase(), &by(row));
        refusal(row, what, status.now)
    });
    card(
        out,
        "Commands",
        &total(refused.commands_total),
        &COMMAND,
        rows,
        "None.",
    );
    if !refused.connections.is_empty() {
        let rows = refused
            .connections
            .iter()
            .map(|row| refusal(row, Cell::text(&row.listener), status.now));
        card(
            out,
            "Connections",
            &total(refused.connections_total),
            &CONNECTION,
            rows,
            "None.",
        );
    }
    if !refused.lockouts.is_empty() {
        let rows = refused.lockouts.iter().map(|lockout| {
            vec![
                Cell::note(&lockout.source, &lockout.listener),
                Cell::number(span(window(lockout.seconds_left))),
                Cell::number(number(lockout.times.into())),
            ]
        });
        card(
            out,
            "Locked out now",
            &total(refused.lockouts_total as u64),
            &LOCKOUT,
            rows,
            "",
        );
    }
    if !refused.slowed_users.is_empty() {
        let rows = refused.slowed_users.iter().map(|slowed| {
            vec![
                Cell::note(&slowed.user, &slowed.listener),
                Cell::number(number(slowed.failures.into())),
            ]
        });
        card(out, "Guessed at from many addresses", "", &SLOWED, rows, "");
    }
    out.raw("</div>\n");
    if refused.not_followed > 0 {
        out.raw("<p class=\"empty\">")
            .text(&counted(refused.not_followed as u64, "further kind"));
        out.raw(
            " of refusals or failures not listed: there are too many. The metrics have all of them.</p>\n",
        );
    }
}

fn by(row: &RefusedRow) -> String {
    format!("{} at {}", user(&row.user), row.listener)
}

fn total(count: u64) -> String {
    if count == 0 { String::new() } else { number(count) }
}

fn window(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn foot(out: &mut Markup, status: &Status, refreshing: bool) {
    let process = &status.process;
    out.raw("<footer><span>")
        .text(&bytes(process.memory_bytes))
        .raw(" of memory</span><span>");
    out.text(&number(process.open_files))
        .raw(" of ")
        .text(&number(process.open_files_max));
    out.raw(" open files</span><span>")
        .text(&span(super::words::seconds(process.cpu_seconds)));
    out.raw(" of CPU time</span>").raw(if refreshing {
        "<span>asked again every 10 s, <a href=\"?refresh=off\">stop</a></span>"
    } else {
        "<span><a href=\"?\">ask again every 10 s</a></span>"
    });
    out.raw("<span><a href=\"/status.json\">as JSON</a></span><span><a href=\"/metrics\">metrics</a></span></footer>\n");
}

const AXIS_END: &str = "<span>now</span></div></figure>\n";
