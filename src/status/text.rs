//! The same in a terminal: the order of the page, one line a row.

use std::fmt::Write as _;

use super::html::headline;
use super::markup::visible;
use super::words::{
    ago, bytes, counted, date, lasting, latency, number, percent, rate, real, span, state, until, user,
};
use super::{RefusedRow, Severity, State, Status, UpstreamState};

/// Lines for a terminal. `colour`: with ANSI sequences, never from anything but this program.
pub fn lines(status: &Status, colour: bool) -> String {
    let mut out = Lines {
        text: String::new(),
        colour,
    };
    out.head(status);
    out.problems(status);
    out.refused(status);
    out.tables(status);
    // Plain blanks between thousands: not every terminal's font has the narrow one.
    out.text.replace('\u{202f}', " ")
}

struct Lines {
    text: String,
    colour: bool,
}

#[derive(Clone, Copy)]
enum Paint {
    None,
    Bold,
    Faint,
    Red,
    Yellow,
    Green,
}

impl Lines {
    /// What comes from outside is made visible first; what moves a cursor does not get through.
    fn write(&mut self, paint: Paint, text: &str) -> &mut Self {
        let code = match paint {
            Paint::None => "",
            Paint::Bold => "1",
            Paint::Faint => "2",
            Paint::Red => "1;31",
            Paint::Yellow => "33",
            Paint::Green => "32",
        };
        let painted = self.colour && !code.is_empty();
        if painted {
            // A String takes everything.
            let _ = write!(self.text, "\x1b[{code}m");
        }
        self.text.extend(text.chars().map(visible));
        if painted {
            self.text.push_str("\x1b[0m");
        }
        self
    }

    fn end(&mut self) {
        while self.text.ends_with(' ') {
            self.text.pop();
        }
        self.text.push('\n');
    }

    fn head(&mut self, status: &Status) {
        let paint = match status.state {
            State::Ok => Paint::Green,
            State::Warning => Paint::Yellow,
            State::Critical => Paint::Red,
        };
        self.write(paint, &headline(status));
        let up = span(status.now.saturating_sub(status.started));
        let about = format!("  keyward {}, up for {up}, {}", status.version, date(status.now));
        self.write(Paint::Faint, &about).end();
        self.text.push('\n');
    }

    fn problems(&mut self, status: &Status) {
        for problem in &status.problems {
            let (paint, word) = match problem.severity {
                Severity::Critical => (Paint::Red, "CRITICAL"),
                Severity::Warning => (Paint::Yellow, "WARNING "),
                Severity::Notice => (Paint::Faint, "NOTICE  "),
            };
            self.write(paint, word)
                .write(Paint::None, "  ")
                .write(Paint::Bold, &problem.title);
            let since = format!("  {}", lasting(problem.since, status.now));
            self.write(Paint::Faint, &since).end();
            if !problem.detail.is_empty() {
                self.write(Paint::Faint, &format!("          {}", problem.detail))
                    .end();
            }
            self.write(Paint::None, &format!("          -> {}", problem.remedy))
                .end();
        }
        let more = status.problems_total.saturating_sub(status.problems.len());
        if more > 0 {
            let more = format!("          and {}", counted(more as u64, "further problem"));
            self.write(Paint::None, &more).end();
        }
        if !status.problems.is_empty() {
            self.text.push('\n');
        }
    }

    fn refused(&mut self, status: &Status) {
        let refused = &status.refused;
        let window = span(i64::try_from(refused.window_seconds).unwrap_or(i64::MAX));
        let title = format!("REFUSED in the last {window}");
        let rows: Vec<Vec<String>> = (refused.logins.iter())
            .map(|row| refusal(row, "login", user(&row.user), status.now))
            .chain(refused.commands.iter().map(|row| {
                let what = row.command.replace('|', " ").to_uppercase();
                refusal(row, &what, user(&row.user), status.now)
            }))
            .chain(
                refused
                    .connections
                    .iter()
                    .map(|row| refusal(row, "connection", "", status.now)),
            )
            .collect();
        if rows.is_empty() {
            self.write(Paint::Bold, &title)
                .write(Paint::None, "  nobody")
                .end();
        } else {
            self.table(&[&title, "USER", "LISTENER", "REASON", ">TIMES", ">LAST"], &rows);
        }
        if !refused.lockouts.is_empty() {
            let rows: Vec<Vec<String>> = (refused.lockouts.iter())
                .map(|lockout| {
                    let left = i64::try_from(lockout.seconds_left).unwrap_or(i64::MAX);
                    vec![
                        lockout.source.clone(),
                        lockout.listener.clone(),
                        span(left),
                        lockout.times.to_string(),
                    ]
                })
                .collect();
            self.table(&["LOCKED OUT", "LISTENER", ">FOR ANOTHER", ">TIMES"], &rows);
        }
        let more = refused.lockouts_total.saturating_sub(refused.lockouts.len());
        if more > 0 {
            self.write(
                Paint::None,
                &format!("and {} more locked out", number(more as u64)),
            )
            .end();
        }
        for slowed in &refused.slowed_users {
            let failures = counted(slowed.failures.into(), "failure");
            let line = format!("{} at {} is guessed at: {failures}", slowed.user, slowed.listener);
            self.write(Paint::None, &line).end();
        }
        self.text.push('\n');
    }

    fn tables(&mut self, status: &Status) {
        let now = status.now;
        let time = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), latency);
        let age =
            |value: Option<i64>| value.map_or_else(|| "-".to_owned(), |at| span(now.saturating_sub(at)));
        let listeners: Vec<Vec<String>> = (status.listeners.iter())
            .map(|known| {
                vec![
                    known.name.clone(),
                    known.address.clone(),
                    if known.tls { "TLS" } else { "plain" }.to_owned(),
                    known.upstream.clone(),
                    share(known.connections, known.connections_max),
                    rate(known.requests_per_second),
                    time(known.p50_seconds),
                    time(known.p99_seconds),
                ]
            })
            .collect();
        let heads = [
            "LISTENER",
            "ADDRESS",
            "TLS",
            "UPSTREAM",
            ">CONNECTIONS",
            ">REQUESTS/S",
            ">P50",
            ">P99",
        ];
        self.table(&heads, &listeners);
        self.spark(status);
        let upstreams: Vec<Vec<String>> = (status.upstreams.iter())
            .map(|known| {
                vec![
                    known.name.clone(),
                    known.address.clone(),
                    state(known.state).to_owned(),
                    known
                        .since
                        .map_or_else(String::new, |since| span(now.saturating_sub(since))),
                    time(known.ping_seconds),
                    share(known.connections, known.connections_max),
                    format!("{}/{}/{}", known.lanes_shared, known.lanes_own, known.lanes_idle),
                    age(known.credential_changed),
                ]
            })
            .collect();
        let heads = [
            "UPSTREAM",
            "ADDRESS",
            "STATE",
            ">FOR",
            ">PING",
            ">CONNECTIONS",
            ">SHARED/OWN/IDLE",
            ">PASSWORD",
        ];
        self.table(&heads, &upstreams);
        for known in status
            .upstreams
            .iter()
            .filter(|known| known.state != UpstreamState::Up && !known.detail.is_empty())
        {
            self.write(Paint::Faint, &format!("{}: {}", known.name, known.detail))
                .end();
        }
        self.text.push('\n');
        let users: Vec<Vec<String>> = (status.users.iter())
            .map(|known| {
                let mode = match (known.enabled, known.observed) {
                    (false, _) => "off",
                    (true, true) => "observed",
                    (true, false) => "",
                };
                vec![
                    known.name.clone(),
                    known.listeners.join(","),
                    mode.to_owned(),
                    number(known.connections),
                    number(known.refused_logins),
                    number(known.refused_commands),
                    match known.redis_credential_changed {
                        Some(_) => format!(
                            "{}, at Redis {}",
                            age(known.credential_changed),
                            age(known.redis_credential_changed)
                        ),
                        None => age(known.credential_changed),
                    },
                ]
            })
            .collect();
        let heads = [
            "USER",
            "LISTENERS",
            "",
            ">CONNECTIONS",
            ">LOGINS REFUSED",
            ">COMMANDS REFUSED",
            ">PASSWORD",
        ];
        self.table(&heads, &users);
        let more = status.users_total.saturating_sub(status.users.len());
        if more > 0 {
            self.write(Paint::None, &format!("and {} more", number(more as u64)))
                .end();
        }
        self.text.push('\n');
        let certificates: Vec<Vec<String>> = (status.certificates.iter())
            .map(|known| {
                vec![
                    known.owner.clone(),
                    known.role.clone(),
                    known.file.clone(),
                    until(known.ends, now),
                ]
            })
            .collect();
        if !certificates.is_empty() {
            self.table(&["CERTIFICATE OF", "ROLE", "FILE", ">ENDS"], &certificates);
            self.text.push('\n');
        }
        let process = &status.process;
        let files = percent(real(process.open_files), real(process.open_files_max.max(1)));
        let memory = bytes(process.memory_bytes);
        self.write(
            Paint::Faint,
            &format!("{memory} of memory, {files} of the open files allowed"),
        )
        .end();
    }

    /// The last hour, one character a minute.
    fn spark(&mut self, status: &Status) {
        for (name, values) in [
            ("requests", &status.history.requests),
            ("refusals", &status.history.refusals),
        ] {
            let top = values.iter().copied().max().unwrap_or_default();
            let bar = |value: &u64| match value.saturating_mul(7).checked_div(top) {
                None => BARS[0],
                Some(_) if *value == 0 => BARS[0],
                Some(level) => BARS
                    .get(usize::try_from(level).unwrap_or(7) + 1)
                    .copied()
                    .unwrap_or(BARS[8]),
            };
            let bars: String = values.iter().map(bar).collect();
            let line = format!("{name}, 60 min  {bars}  at most {} a minute", number(top));
            self.write(Paint::None, &line).end();
        }
        self.text.push('\n');
    }

    /// Columns as wide as what is in them; headings that begin with `>` are those of numbers, which stand at the right.
    fn table(&mut self, heads: &[&str], rows: &[Vec<String>]) {
        let widths: Vec<usize> = (heads.iter().enumerate())
            .map(|(at, head)| {
                let cells = rows.iter().filter_map(|row| row.get(at));
                let widest = cells.map(|cell| cell.chars().count()).max().unwrap_or(0);
                widest
                    .max(head.trim_start_matches('>').chars().count())
                    .min(WIDEST)
            })
            .collect();
        let heading = heads
            .iter()
            .map(|head| head.trim_start_matches('>').to_owned())
            .collect::<Vec<_>>();
        for (row, paint) in
            std::iter::once((&heading, Paint::Bold)).chain(rows.iter().map(|row| (row, Paint::None)))
        {
            for ((cell, width), head) in row.iter().zip(&widths).zip(heads) {
                let padded = if head.starts_with('>') {
                    format!("{cell:>width$}  ")
                } else {
                    format!("{cell:<width$}  ")
                };
                self.write(paint, &padded);
            }
            self.end();
        }
    }
}

fn refusal(row: &RefusedRow, what: &str, who: &str, now: i64) -> Vec<String> {
    vec![
        what.to_owned(),
        who.to_owned(),
        row.listener.clone(),
        row.reason.clone(),
        number(row.count),
        ago(row.last, now),
    ]
}

fn share(part: u64, all: u64) -> String {
    format!("{} of {}", number(part), number(all))
}

/// A cell that is longer pushes the rest of its own line to the right, not of every line.
const WIDEST: usize = 44;
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
