//! The page: one file of markup and style, without scripts and without anything from elsewhere.

use super::markup::Markup;
use super::words::{ago, bytes, counted, date, lasting, latency, number, rate, span, state, until, user};
use super::{
    Certificate, Listener, Phase, Problem, RefusedRow, Severity, State, Status, Upstream, UpstreamState,
    User, chart,
};

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

fn refusal(row: &RefusedRow, first: Cell, now: i64) -> Vec<Cell> {
    vec![
        first,
        Cell::text(&row.reason),
        Cell::number(number(row.count)),
        Cell::number(ago(row.last, now)),
    ]
}

fn total(count: u64) -> String {
    if count == 0 { String::new() } else { number(count) }
}

fn window(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn listener(known: &Listener) -> Vec<Cell> {
    let mut asks = vec![if known.tls { "TLS" } else { "plain text" }];
    match known.client_certificates.as_str() {
        "optional" => asks.push("client certificate optional"),
        "required" => asks.push("client certificate"),
        _ => {}
    }
    asks.push(if known.login == "none" {
        "no login"
    } else {
        "login"
    });
    let connections = number(known.connections);
    let strangers = match known.unauthenticated {
        0 => String::new(),
        count => format!("{} not logged in", number(count)),
    };
    let time = |value: Option<f64>| value.map_or_else(Cell::none, |value| Cell::number(latency(value)));
    vec![
        Cell::note(&known.name, &known.address),
        Cell::text(&asks.join(", ")),
        Cell::text(&known.upstream),
        Cell::part(
            format!("{connections} of {}", number(known.connections_max)),
            known.connections,
            known.connections_max,
        )
        .noted(strangers),
        Cell::number(rate(known.requests_per_second)),
        time(known.p50_seconds),
        time(known.p99_seconds),
        Cell::number(number(known.refused)),
    ]
}

fn upstream(known: &Upstream, now: i64) -> Vec<Cell> {
    let since = known
        .since
        .map(|since| format!("for {}", span(now.saturating_sub(since))))
        .unwrap_or_default();
    let class = match known.state {
        UpstreamState::Up => "good",
        UpstreamState::Down => "bad",
        UpstreamState::NotReady | UpstreamState::Unknown => "warn",
    };
    let time = |value: Option<f64>| value.map_or_else(Cell::none, |value| Cell::number(latency(value)));
    let lanes = format!(
        "{} shared, {} own, {} idle",
        number(known.lanes_shared),
        number(known.lanes_own),
        number(known.lanes_idle)
    );
    let waiting = match (known.waiting, known.queued) {
        (0, 0) => String::new(),
        (waiting, queued) => format!("{} waiting, {} in flight", number(waiting), number(queued)),
    };
    let address = if known.tls {
        format!("{}, TLS", known.address)
    } else {
        known.address.clone()
    };
    vec![
        Cell::note(&known.name, &address),
        Cell::text(state(known.state)).coloured(class).noted(since),
        time(known.ping_seconds),
        time(known.connect_p50_seconds),
        Cell::part(
            format!(
                "{} of {}",
                number(known.connections),
                number(known.connections_max)
            ),
            known.connections,
            known.connections_max,
        ),
        Cell::text(&lanes).noted(waiting),
        known
            .credential_changed
            .map_or_else(Cell::none, |at| Cell::number(age(at, now))),
    ]
}

fn age(changed: i64, now: i64) -> String {
    span(now.saturating_sub(changed))
}

fn account(known: &User, now: i64) -> Vec<Cell> {
    let mode = match (known.enabled, known.observed) {
        (false, _) => "may not log in",
        (true, true) => "rules only observed",
        (true, false) => "",
    };
    let connections = known.connections_max.map_or_else(
        || Cell::number(number(known.connections)),
        |most| {
            Cell::part(
                format!("{} of {}", number(known.connections), number(most)),
                known.connections,
                most,
            )
        },
    );
    vec![
        Cell::note(&known.name, mode),
        Cell::text(&known.listeners.join(", ")),
        connections,
        Cell::number(number(known.refused_logins)),
        Cell::number(number(known.refused_commands)),
        known
            .credential_changed
            .map_or_else(Cell::none, |at| Cell::number(age(at, now))),
    ]
}

fn certificate(known: &Certificate, now: i64) -> Vec<Cell> {
    let left = known.ends.saturating_sub(now);
    let class = match left {
        i64::MIN..TWO_DAYS => "bad",
        TWO_DAYS..TWO_WEEKS => "warn",
        _ => "",
    };
    let role = match known.role.as_str() {
        "listener" => "shown to clients",
        "client_ca" => "verifies clients",
        "upstream_ca" => "verifies Redis",
        "upstream_client" => "shown to Redis",
        "revocation_list" => "revoked client certificates",
        other => other,
    };
    vec![
        Cell::text(&known.owner),
        Cell::text(role),
        Cell::note(&known.file, &known.subject),
        Cell::number(until(known.ends, now))
            .coloured(class)
            .noted(date(known.ends)),
    ]
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

/// A column: its heading, and whether it has numbers.
type Column = (&'static str, bool);

fn section(
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

fn card(
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
struct Cell {
    text: String,
    /// A smaller line below.
    note: String,
    /// A class of the style sheet.
    colour: &'static str,
    /// How much of how many.
    part: Option<(u64, u64)>,
}

impl Cell {
    fn text(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            ..Self::default()
        }
    }

    fn number(text: String) -> Self {
        Self {
            text,
            ..Self::default()
        }
    }

    fn note(text: &str, note: &str) -> Self {
        Self::text(text).noted(note.to_owned())
    }

    fn none() -> Self {
        Self::text("–")
    }

    fn part(text: String, part: u64, all: u64) -> Self {
        Self {
            text,
            part: Some((part, all)),
            ..Self::default()
        }
    }

    fn noted(mut self, note: String) -> Self {
        self.note = note;
        self
    }

    fn coloured(mut self, class: &'static str) -> Self {
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
    let share = super::words::ratio(part, all.max(1)).clamp(0.0, 1.0);
    out.raw("<svg class=\"gauge\" viewBox=\"0 0 96 4\" aria-hidden=\"true\"><rect class=\"all\" width=\"96\" height=\"4\" rx=\"2\"/><rect class=\"");
    out.raw(if share > 0.8 { "full" } else { "part" })
        .raw("\" width=\"");
    // What is there can be seen.
    let width = if part == 0 { 0.0 } else { (96.0 * share).max(2.0) };
    out.length(width).raw("\" height=\"4\" rx=\"2\"/></svg>");
}

const LISTENER: [Column; 8] = [
    ("Listener", false),
    ("Asks for", false),
    ("Upstream", false),
    ("Connections", true),
    ("Requests a second", true),
    ("p50", true),
    ("p99", true),
    ("Refused", true),
];
const UPSTREAM: [Column; 7] = [
    ("Upstream", false),
    ("State", false),
    ("PING", true),
    ("Connecting", true),
    ("Connections", true),
    ("Lanes", false),
    ("Password age", true),
];
const USER: [Column; 6] = [
    ("User", false),
    ("Listeners", false),
    ("Connections", true),
    ("Logins refused", true),
    ("Commands refused", true),
    ("Password age", true),
];
const CERTIFICATE: [Column; 4] = [("Of", false), ("Use", false), ("File", false), ("Ends", true)];
const LOGIN: [Column; 4] = [
    ("User", false),
    ("Reason", false),
    ("Times", true),
    ("Last", true),
];
const COMMAND: [Column; 4] = [
    ("Command", false),
    ("Reason", false),
    ("Times", true),
    ("Last", true),
];
const CONNECTION: [Column; 4] = [
    ("Listener", false),
    ("Reason", false),
    ("Times", true),
    ("Last", true),
];
const LOCKOUT: [Column; 3] = [("Source", false), ("For another", true), ("Times in a row", true)];
const SLOWED: [Column; 2] = [("User", false), ("Failures", true)];

const AXIS_END: &str = "<span>now</span></div></figure>\n";
const TWO_DAYS: i64 = 2 * 86_400;
const TWO_WEEKS: i64 = 14 * 86_400;
