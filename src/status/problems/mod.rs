//! From facts to sentences. The thresholds are those of `deploy/prometheus/keyward.rules.yml`, and so are the names: what the
//! page says and what the pager says is one vocabulary (a test compares the two).
//!
//! A title says the same as long as the problem stands, so that it can be told since when; numbers are in the detail.

mod clients;
mod here;
mod redis;

use super::facts::{Facts, Live};
use super::history::Ring;
use super::reading::Reading;
use super::{Problem, Severity};

/// What the problems are found in.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) facts: &'a Facts,
    pub(super) live: &'a Live,
    pub(super) reading: &'a Reading,
    pub(super) ring: &'a Ring,
    /// Unix time.
    pub(super) now: i64,
}

/// Everything that is wrong, in no order, as if it had begun now.
pub(super) fn find(scene: Scene<'_>) -> Vec<Problem> {
    let mut found = Vec::new();
    scene.process(&mut found);
    scene.upstreams(&mut found);
    scene.refused_logins(&mut found);
    scene.refused_commands(&mut found);
    scene.connections(&mut found);
    scene.handshakes(&mut found);
    scene.ages(&mut found);
    scene.settings(&mut found);
    found
}

/// For how long a problem has to stand before it is one, as the alert's `for`: only of those that come and go.
pub(super) fn patience(id: &str) -> u64 {
    match id {
        "KeywardSourcesLockedOut" => 15 * 60,
        "KeywardUpstreamConnectionWaits" | "KeywardTlsHandshakesWaiting" => 5 * 60,
        _ => 0,
    }
}

fn problem(id: &str, subject: &str, title: String, detail: String, remedy: &str) -> Problem {
    let severity = ALERTS.iter().find(|(name, _)| *name == id);
    Problem {
        id: id.to_owned(),
        severity: severity.map_or(Severity::Notice, |(_, severity)| *severity),
        subject: subject.to_owned(),
        title,
        detail,
        remedy: remedy.to_owned(),
        since: 0,
        runbook: severity.map_or_else(String::new, |_| format!("runbook.md#{}", id.to_lowercase())),
    }
}

/// A command as people write it: `CONFIG SET`.
fn shown(cmd: &str) -> String {
    match cmd {
        "_other" => "An unknown command".to_owned(),
        cmd => cmd.replace('|', " ").to_uppercase(),
    }
}

/// With a full stop, if it has no other end.
fn sentence(text: &str) -> String {
    let text = text.trim_end();
    if text.ends_with(['.', '?', '!']) {
        text.to_owned()
    } else {
        format!("{text}.")
    }
}

/// Every alert of `deploy/prometheus/keyward.rules.yml` that the process can see itself, with its severity.
pub const ALERTS: &[(&str, Severity)] = &[
    ("KeywardAuthFailures", Severity::Warning),
    ("KeywardAuthBruteForce", Severity::Critical),
    ("KeywardGuessingFromManyAddresses", Severity::Critical),
    ("KeywardSourcesLockedOut", Severity::Warning),
    ("KeywardUpstreamRefusesCredential", Severity::Critical),
    ("KeywardDangerousCommandDenied", Severity::Warning),
    ("KeywardCommandsDenied", Severity::Warning),
    ("KeywardUpstreamOverprivileged", Severity::Warning),
    ("KeywardCredentialOld", Severity::Warning),
    ("KeywardAuditEventsDropped", Severity::Warning),
    ("KeywardDesync", Severity::Critical),
    ("KeywardUpstreamDown", Severity::Critical),
    ("KeywardUpstreamConnectFailures", Severity::Warning),
    ("KeywardUpstreamConnectionsExhausted", Severity::Critical),
    ("KeywardUpstreamConnectionWaits", Severity::Warning),
    ("KeywardConnectionsNearLimit", Severity::Warning),
    ("KeywardConnectionsRejected", Severity::Warning),
    ("KeywardConnectionsEvicted", Severity::Warning),
    ("KeywardAcceptErrors", Severity::Critical),
    ("KeywardFileDescriptorsLow", Severity::Warning),
    ("KeywardTlsHandshakeFailures", Severity::Warning),
    ("KeywardTlsHandshakesWaiting", Severity::Warning),
    ("KeywardCertificateExpiresSoon", Severity::Warning),
    ("KeywardCertificateExpiresNow", Severity::Critical),
    ("KeywardRevocationListExpires", Severity::Critical),
    ("KeywardConfigReloadFailed", Severity::Warning),
    ("KeywardLatencyHigh", Severity::Warning),
    ("KeywardPanics", Severity::Warning),
];

/// Commands that nobody needs from an application, as `cmd` says them; those of the alert KeywardDangerousCommandDenied.
pub const DANGEROUS_COMMANDS: &[&str] = &[
    "acl|deluser",
    "acl|load",
    "acl|save",
    "acl|setuser",
    "cluster|failover",
    "cluster|reset",
    "config|rewrite",
    "config|set",
    "debug",
    "failover",
    "flushall",
    "flushdb",
    "function|delete",
    "function|flush",
    "function|load",
    "function|restore",
    "migrate",
    "module|load",
    "module|loadex",
    "module|unload",
    "monitor",
    "psync",
    "replicaof",
    "restore",
    "script|flush",
    "shutdown",
    "slaveof",
    "swapdb",
    "sync",
];

const ROTATE: &str = "Change it: keyward rotate does so without a lost request; deploy/docs/upgrade-and-drain.md has the steps.";

const FIVE_MINUTES: u64 = 5 * 60;
const FIFTEEN_MINUTES: u64 = 15 * 60;
const DAY: i64 = 86_400;
/// Users named in one sentence.
const NAMED: usize = 5;
/// Of open files and of connections.
const NEARLY_FULL: f64 = 0.8;
/// Seconds, of one command in a hundred.
const SLOW: f64 = 0.25;
