//! What the running process says of itself: its admin pages in, findings out.

use std::collections::BTreeMap;

use super::finding::{Check, Finding};

/// What the admin listener answered.
#[derive(Debug, Clone, Default)]
pub(super) struct AdminFacts {
    /// Where it should be; `None`: it is off.
    pub(super) address: Option<String>,
    /// The answer to `/readyz` as it came, or why there is none.
    pub(super) ready: Option<Result<String, String>>,
    /// The text of `/metrics`.
    pub(super) metrics: Option<String>,
}

impl AdminFacts {
    /// A Keyward answered.
    pub(super) fn is_keyward(&self) -> bool {
        self.metrics
            .as_deref()
            .is_some_and(|text| text.contains("keyward_build_info"))
    }

    /// Open files that its process may have.
    pub(super) fn open_files(&self) -> Option<u64> {
        let (_, value) = self.series("process_max_fds").next()?;
        value
            .parse::<f64>()
            .ok()
            .filter(|limit| (1.0..1e15).contains(limit))
            .map(whole)
    }

    /// It has a listener of this name.
    pub(super) fn has_listener(&self, name: &str) -> bool {
        let wanted = format!("listener=\"{name}\"");
        self.series("keyward_connections_max")
            .any(|(labels, _)| labels.contains(&wanted))
    }

    /// Labels and values of a metric.
    fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let lines = self.metrics.as_deref().unwrap_or_default().lines();
        lines.filter_map(move |line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            (labels.is_empty() || labels.starts_with('{')).then_some((labels, value))
        })
    }

    /// Sums by a label, without those that are 0.
    fn counts(&self, name: &str, label: &str) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        let begin = format!("{label}=\"");
        for (labels, value) in self.series(name) {
            let word = labels
                .split_once(begin.as_str())
                .and_then(|(_, rest)| rest.split_once('"'));
            let value = value.parse::<f64>().ok().filter(|value| *value >= 1.0);
            if let (Some((word, _)), Some(value)) = (word, value) {
                *counts.entry(word.to_owned()).or_insert(0) += whole(value);
            }
        }
        counts
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast from a float stops at the ends, and these are counts"
)]
fn whole(value: f64) -> u64 {
    value as u64
}

/// What `keyward healthcheck` would say.
pub(super) fn healthcheck(facts: &AdminFacts) -> Finding {
    let check = Check::Healthcheck;
    let Some(address) = &facts.address else {
        return Finding::warn(
            check,
            "",
            "`keyward healthcheck` fails: the admin listener is off",
            "give [admin] an address (default 127.0.0.1:6390), or do not use healthcheck",
        );
    };
    let answer = match &facts.ready {
        None => return Finding::skip(check, "", "not asked"),
        Some(Err(problem)) => {
            return Finding::warn(
                check,
                "",
                format!("no Keyward answers at {address}, so `keyward healthcheck` fails: {problem}"),
                "start it (`keyward run`), or name the configuration it runs with",
            );
        }
        Some(Ok(answer)) => answer,
    };
    if !facts.is_keyward() {
        return Finding::fail(
            check,
            "",
            format!("what answers at the admin address {address} is not Keyward"),
            "choose another address for [admin], and look whether Keyward runs at all",
        );
    }
    let says = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body.trim());
    if answer.starts_with("HTTP/1.1 200") {
        return if says.contains("degraded") {
            Finding::warn(
                check,
                "",
                format!("ready, but not every upstream can be used: {says}"),
                "see what `dns` to `ping` say about each upstream",
            )
        } else {
            Finding::ok(check, "", format!("ready: {says}"))
        };
    }
    if says.contains("unhealthy") {
        return Finding::fail(
            check,
            "",
            format!("`keyward healthcheck` fails: no Redis can be used by the running process: {says}"),
            "see what `dns` to `ping` say about each upstream; if they are ok, the process has other files or settings: reload it (SIGHUP)",
        );
    }
    Finding::fail(
        check,
        "",
        format!("`keyward healthcheck` fails: the process starts or drains: {says}"),
        "wait; if it stays so, look at its log",
    )
}

/// Whether the last reload was taken.
pub(super) fn reload(facts: &AdminFacts) -> Finding {
    let check = Check::Reload;
    match facts.series("keyward_config_last_reload_successful").next() {
        None => Finding::skip(check, "", "no Keyward runs with this configuration"),
        Some((_, "0")) => Finding::fail(
            check,
            "",
            "the running process has refused the last reload: the former configuration is in force",
            "mend what `config` and `files` say (or the log line reload_failed), then SIGHUP",
        ),
        Some(_) => Finding::ok(check, "", "the last reload was taken"),
    }
}

/// Whom it has refused since it started.
pub(super) fn clients(facts: &AdminFacts) -> Finding {
    let check = Check::Clients;
    if !facts.is_keyward() {
        return Finding::skip(check, "", "no Keyward runs with this configuration");
    }
    let mut refused = Vec::new();
    for metric in [
        "keyward_auth_failures_total",
        "keyward_tls_handshake_failures_total",
        "keyward_connections_rejected_total",
    ] {
        refused.extend(facts.counts(metric, "reason"));
    }
    // Port scans and checks that only connect; the process starts before Redis does.
    refused.retain(|(reason, _)| !matches!(reason.as_str(), "eof" | "timeout"));
    refused.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let Some((first, _)) = refused.first() else {
        return Finding::ok(check, "", "none was refused since the start");
    };
    let told: Vec<String> = refused
        .iter()
        .take(MOST_SHOWN)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    Finding::warn(
        check,
        "",
        format!("refused since the start: {}", told.join(", ")),
        format!("{}; the audit events name the addresses", remedy(first)),
    )
}

fn remedy(reason: &str) -> &'static str {
    match reason {
        "no_credentials" => {
            "no_credentials: those clients sent no password and were told NOAUTH: put user and password into their URL"
        }
        "bad_password" => {
            "bad_password: those clients have an old or wrong password (WRONGPASS): compare with the user's password_file"
        }
        "unknown_user" => {
            "unknown_user: no [[user]] of that name; a client that gives a password alone is `default`"
        }
        "user_disabled" => "user_disabled: the user is `off` in its rules",
        "source_not_allowed" => "source_not_allowed: the user's `sources` does not have their network",
        "locked_out" => "locked_out: too many wrong passwords; `keyward lockouts` and `keyward unlock`",
        "plaintext" => "plaintext: those clients speak redis:// to a TLS port: rediss:// in their URL",
        "client_rejected_certificate" => {
            "client_rejected_certificate: they do not trust the listener's certificate, or its names are others: give them the CA"
        }
        "version" | "cipher" => "version, cipher: those clients cannot speak TLS 1.2: update them",
        "client_cert_missing" | "client_cert_untrusted" | "client_cert_expired" | "client_cert_revoked" => {
            "client_cert_…: renew the client's certificate, or check client_ca_file"
        }
        _ => "deploy/docs/runbook.md explains each reason",
    }
}

/// Reasons in one line.
const MOST_SHOWN: usize = 4;

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn facts(status: &str, body: &str, metrics: &str) -> AdminFacts {
        AdminFacts {
            address: Some("127.0.0.1:6390".to_owned()),
            ready: Some(Ok(format!("HTTP/1.1 {status}\r\nx: y\r\n\r\n{body}"))),
            metrics: Some(format!("keyward_build_info{{version=\"1\"}} 1\n{metrics}")),
        }
    }

    #[test]
    fn a_health_check_fails_for_one_of_five_reasons() {
        let off = AdminFacts::default();
        assert_eq!(healthcheck(&off).level, Level::Warn);
        let nobody = AdminFacts {
            ready: Some(Err("refused".to_owned())),
            ..facts("200 OK", "", "")
        };
        assert_eq!(healthcheck(&nobody).level, Level::Warn);
        let stranger = AdminFacts {
            metrics: Some("<html>".to_owned()),
            ..facts("200 OK", "", "")
        };
        assert_eq!(healthcheck(&stranger).level, Level::Fail);
        let down = facts(
            "503 Service Unavailable",
            r#"{"status":"degraded","redis":"unhealthy"}"#,
            "",
        );
        let found = healthcheck(&down);
        assert_eq!(found.level, Level::Fail);
        assert!(found.message.contains("no Redis can be used"), "{found:?}");
        let drains = facts(
            "503 Service Unavailable",
            r#"{"status":"degraded","redis":"healthy"}"#,
            "",
        );
        assert!(healthcheck(&drains).message.contains("drains"));
        let half = facts("200 OK", r#"{"status":"degraded","redis":"unhealthy"}"#, "");
        assert_eq!(healthcheck(&half).level, Level::Warn);
        assert_eq!(
            healthcheck(&facts("200 OK", r#"{"status":"ok"}"#, "")).level,
            Level::Ok
        );
    }

    #[test]
    fn metrics_are_read_by_whole_names() {
        let text = "process_max_fds 1024\nkeyward_connections_max{listener=\"main\"} 7\n\
            keyward_config_last_reload_successful 0\nkeyward_auth_failures_total{listener=\"a\",reason=\"bad_password\",user=\"\"} 2\n\
            keyward_auth_failures_total{listener=\"b\",reason=\"bad_password\",user=\"\"} 1\n\
            keyward_auth_failures_total_created{reason=\"no_credentials\"} 9\n\
            keyward_tls_handshake_failures_total{listener=\"a\",reason=\"plaintext\"} 1\n\
            keyward_tls_handshake_failures_total{listener=\"a\",reason=\"eof\"} 90\n";
        let facts = facts("200 OK", "", text);
        assert_eq!(facts.open_files(), Some(1024));
        assert!(facts.has_listener("main") && !facts.has_listener("mai"));
        assert_eq!(reload(&facts).level, Level::Fail);
        let found = clients(&facts);
        assert_eq!(
            found.message,
            "refused since the start: bad_password 3, plaintext 1"
        );
        assert!(found.remedy.unwrap().starts_with("bad_password: "));
        assert_eq!(clients(&AdminFacts::default()).level, Level::Skip);
        assert_eq!(reload(&AdminFacts::default()).level, Level::Skip);
    }
}
