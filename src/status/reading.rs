//! The metrics at one moment, as far as the status is made from them.

use std::collections::BTreeMap;

/// A series: the family's name and the labels in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// One of [`COUNTERS`] or [`GAUGES`].
    pub name: &'static str,
    /// Names and values.
    pub labels: Vec<(String, String)>,
}

/// The values of all series that are of interest.
#[derive(Debug, Clone, Default)]
pub struct Reading(BTreeMap<Series, f64>);

impl Series {
    /// The value of a label; empty if it has none of this name.
    pub fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }

    /// Whether it is of this family and has these labels, among others.
    pub fn fits(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.name == name && labels.iter().all(|(label, value)| self.label(label) == *value)
    }
}

impl Reading {
    /// Takes a value in. A family that is not of interest is left out; a label of `FOLDED` is dropped, and series that
    /// do not differ any more are added up. A bucket of a histogram has the name of its family and the label `le`.
    pub fn add(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut known = COUNTERS.iter().chain(GAUGES);
        let Some(name) = known.find(|known| **known == name) else {
            return;
        };
        let kept = labels
            .iter()
            .filter(|(label, _)| !FOLDED.contains(&(*name, *label)));
        let mut labels: Vec<_> = kept
            .map(|(label, value)| ((*label).to_owned(), (*value).to_owned()))
            .collect();
        labels.sort_unstable();
        *self.0.entry(Series { name, labels }).or_default() += value;
    }

    /// Whether a family is of interest at all.
    pub fn wants(name: &str) -> bool {
        COUNTERS.iter().chain(GAUGES).any(|known| *known == name)
    }

    /// Every series of a family with its value.
    pub fn family<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Series, f64)> {
        let all = self.0.iter().filter(move |(series, _)| series.name == name);
        all.map(|(series, value)| (series, *value))
    }

    /// Every counter.
    pub fn counters(&self) -> impl Iterator<Item = (&Series, f64)> {
        let all = self
            .0
            .iter()
            .filter(|(series, _)| COUNTERS.contains(&series.name));
        all.map(|(series, value)| (series, *value))
    }

    /// The sum of a family's series with these labels; `None` if there is none.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut found = self
            .family(name)
            .filter(|(series, _)| series.fits(name, labels))
            .map(|(_, value)| value)
            .peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// As [`Reading::find`], zero if there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or(0.0)
    }
}

pub(super) const AUTH_FAILURES: &str = "keyward_auth_failures_total";
pub(super) const AUTH_LOCKOUTS: &str = "keyward_auth_lockouts_total";
pub(super) const DENIED: &str = "keyward_commands_denied_total";
pub(super) const OBSERVED: &str = "keyward_commands_observed_total";
pub(super) const COMMANDS: &str = "keyward_commands_total";
pub(super) const DURATION: &str = "keyward_command_duration_seconds";
pub(super) const REJECTED: &str = "keyward_connections_rejected_total";
pub(super) const EVICTED: &str = "keyward_connections_evicted_total";
pub(super) const ACCEPT_ERRORS: &str = "keyward_accept_errors_total";
pub(super) const TLS_HANDSHAKES: &str = "keyward_tls_handshakes_total";
pub(super) const TLS_FAILURES: &str = "keyward_tls_handshake_failures_total";
pub(super) const UPSTREAM_AUTH_FAILURES: &str = "keyward_upstream_auth_failures_total";
pub(super) const CONNECT_FAILURES: &str = "keyward_upstream_connect_failures_total";
pub(super) const WAIT_TIMEOUTS: &str = "keyward_upstream_wait_timeouts_total";
pub(super) const DESYNC: &str = "keyward_desync_total";
pub(super) const AUDIT_DROPPED: &str = "keyward_audit_events_dropped_total";
pub(super) const LOG_DROPPED: &str = "keyward_log_dropped_total";
pub(super) const PASSWORD_LOGINS: &str = "keyward_password_logins_total";
pub(super) const PANICS: &str = "keyward_panics_total";

pub(super) const OPEN: &str = "keyward_connections_open";
pub(super) const OPEN_MAX: &str = "keyward_connections_max";
pub(super) const UNAUTHENTICATED: &str = "keyward_connections_unauthenticated";
pub(super) const HANDSHAKES_WAITING: &str = "keyward_tls_handshakes_waiting";
pub(super) const LOCKED_SOURCES: &str = "keyward_auth_locked_sources";
pub(super) const SLOWED_USERS: &str = "keyward_auth_slowed_users";
pub(super) const AGGREGATED: &str = "keyward_auth_aggregated_networks";
pub(super) const USER_CHANGED: &str = "keyward_user_credential_changed_timestamp_seconds";
pub(super) const UPSTREAM_CHANGED: &str = "keyward_upstream_credential_changed_timestamp_seconds";
pub(super) const PASSWORD_SESSIONS: &str = "keyward_password_sessions_open";
pub(super) const OVERPRIVILEGED: &str = "keyward_upstream_overprivileged";
pub(super) const UPSTREAM_OPEN: &str = "keyward_upstream_connections_open";
pub(super) const UPSTREAM_MAX: &str = "keyward_upstream_connections_max";
pub(super) const UPSTREAM_WAITING: &str = "keyward_upstream_waiting";
pub(super) const LANES: &str = "keyward_upstream_lanes_open";
pub(super) const QUEUED: &str = "keyward_upstream_requests_queued";
pub(super) const CONNECT_DURATION: &str = "keyward_upstream_connect_duration_seconds";
pub(super) const RELOAD_SUCCESSFUL: &str = "keyward_config_last_reload_successful";
pub(super) const RELOAD_TIMESTAMP: &str = "keyward_config_last_reload_success_timestamp_seconds";
pub(super) const MEMORY: &str = "process_resident_memory_bytes";
pub(super) const OPEN_FILES: &str = "process_open_fds";
pub(super) const OPEN_FILES_MAX: &str = "process_max_fds";
pub(super) const CPU: &str = "process_cpu_seconds_total";
pub(super) const START: &str = "process_start_time_seconds";

/// What the last hour is remembered of.
pub const COUNTERS: &[&str] = &[
    AUTH_FAILURES,
    AUTH_LOCKOUTS,
    DENIED,
    OBSERVED,
    COMMANDS,
    DURATION,
    REJECTED,
    EVICTED,
    ACCEPT_ERRORS,
    TLS_HANDSHAKES,
    TLS_FAILURES,
    UPSTREAM_AUTH_FAILURES,
    CONNECT_FAILURES,
    WAIT_TIMEOUTS,
    DESYNC,
    AUDIT_DROPPED,
    LOG_DROPPED,
    PASSWORD_LOGINS,
    PANICS,
];

/// What counts as it is now.
pub const GAUGES: &[&str] = &[
    OPEN,
    OPEN_MAX,
    UNAUTHENTICATED,
    HANDSHAKES_WAITING,
    LOCKED_SOURCES,
    SLOWED_USERS,
    AGGREGATED,
    USER_CHANGED,
    UPSTREAM_CHANGED,
    OVERPRIVILEGED,
    PASSWORD_SESSIONS,
    UPSTREAM_OPEN,
    UPSTREAM_MAX,
    UPSTREAM_WAITING,
    LANES,
    QUEUED,
    CONNECT_DURATION,
    RELOAD_SUCCESSFUL,
    RELOAD_TIMESTAMP,
    MEMORY,
    OPEN_FILES,
    OPEN_FILES_MAX,
    CPU,
    START,
];

/// Labels that do not matter here, and would make many series: family and label.
const FOLDED: &[(&str, &str)] = &[(COMMANDS, "cmd"), (TLS_HANDSHAKES, "version")];
