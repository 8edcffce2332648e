//! The report as text for people and as JSON for programs.

use serde_json::{Value, json};

use super::finding::{Check, Finding, Level, Report};

/// One line of text, and one more for the remedy.
pub(super) fn text(finding: &Finding, colours: bool) -> String {
    let level = match finding.level {
        Level::Fail => "FAIL",
        level => level.id(),
    };
    let level = format!("{level:<4}");
    let level = match (colours, finding.level) {
        (false, _) => level,
        (true, Level::Ok) => format!("\x1b[32m{level}\x1b[0m"),
        (true, Level::Warn) => format!("\x1b[33m{level}\x1b[0m"),
        (true, Level::Fail) => format!("\x1b[1;31m{level}\x1b[0m"),
        (true, Level::Skip) => format!("\x1b[2m{level}\x1b[0m"),
    };
    let id = finding.check.id();
    let width = Check::ALL.iter().map(|(_, id, _)| id.len()).max().unwrap_or(0);
    let subject = match finding.subject.as_str() {
        "" => String::new(),
        subject => format!("{}: ", clean(subject)),
    };
    let message = clean(&finding.message);
    let mut line = format!("{level}  {id:<width$}  {subject}{message}");
    if let Some(remedy) = &finding.remedy {
        let margin = " ".repeat(width + 8);
        line.push_str(&format!("\n{margin}-> {}", clean(remedy)));
    }
    line
}

/// The last line.
pub(super) fn summary(report: &Report) -> String {
    let mut parts = Vec::new();
    for (level, one, many) in [
        (Level::Fail, "failure", "failures"),
        (Level::Warn, "warning", "warnings"),
        (Level::Skip, "skipped", "skipped"),
        (Level::Ok, "ok", "ok"),
    ] {
        match report.count(level) {
            0 if level != Level::Fail => {}
            1 => parts.push(format!("1 {one}")),
            count => parts.push(format!("{count} {many}")),
        }
    }
    parts.join(", ")
}

/// The whole report; `deploy/docs/doctor.md` documents the fields.
pub(super) fn json(report: &Report) -> String {
    let result = match (report.has_failed(), report.count(Level::Warn)) {
        (true, _) => Level::Fail,
        (false, 0) => Level::Ok,
        (false, _) => Level::Warn,
    };
    let counts = Level::ALL.map(|level| (level.id().to_owned(), json!(report.count(level))));
    let checks: Vec<Value> = report.0.iter().map(entry).collect();
    let whole = json!({
        "version": VERSION,
        "result": result.id(),
        "counts": counts.into_iter().collect::<serde_json::Map<_, _>>(),
        "checks": checks,
    });
    format!("{whole:#}")
}

fn entry(finding: &Finding) -> Value {
    json!({
        "check": finding.check.id(),
        "subject": finding.subject,
        "level": finding.level.id(),
        "message": finding.message,
        "remedy": finding.remedy,
        "code": finding.code,
        "after": finding.after.map(Check::id),
    })
}

/// Text of other programs (a resolver, a server) may hold what moves the terminal's cursor.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() {
            clean.extend(letter.escape_default());
        } else {
            clean.push(letter);
        }
    }
    clean
}

/// Of the JSON form; it changes when a field changes its meaning or goes away.
const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report(vec![
            Finding::ok(Check::Config, "", "good"),
            Finding::fail(Check::Auth, "upstream \"main\"", "no\u{1b}[2J", "do it"),
            Finding::after(Check::Ping, "upstream \"main\"", Check::Auth),
        ])
    }

    #[test]
    fn the_text_is_aligned_and_moves_no_cursor() {
        let report = report();
        let lines: Vec<String> = report.0.iter().map(|finding| text(finding, false)).collect();
        assert_eq!(lines[0], "ok    config               good");
        assert_eq!(
            lines[1],
            "FAIL  auth                 upstream \"main\": no\\u{1b}[2J\n                           -> do it"
        );
        assert_eq!(
            lines[2],
            "skip  ping                 upstream \"main\": not looked at: `auth` failed"
        );
        assert!(text(&report.0[0], true).starts_with("\u{1b}[32mok  \u{1b}[0m"));
        assert_eq!(summary(&report), "1 failure, 1 skipped, 1 ok");
        assert_eq!(summary(&Report::default()), "0 failures");
    }

    #[test]
    fn the_json_has_every_field_in_every_entry() {
        let parsed: Value = serde_json::from_str(&json(&report())).unwrap();
        assert_eq!(parsed["version"], 1);
        assert_eq!(parsed["result"], "fail");
        assert_eq!(
            parsed["counts"],
            json!({"ok": 1, "warn": 0, "fail": 1, "skip": 1})
        );
        assert_eq!(
            parsed["checks"][1],
            json!({"check": "auth", "subject": "upstream \"main\"", "level": "fail", "message": "no\u{1b}[2J",
                "remedy": "do it", "code": null, "after": null})
        );
        assert_eq!(parsed["checks"][2]["after"], "auth");
        assert_eq!(parsed["checks"].as_array().unwrap().len(), 3);
    }
}
