//! Ready handles: counters whose labels have been looked up once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::labels::{ALARMING, COMMAND, ERROR_CODES, MOST_ALARMING_USERS, OTHER, PROXY_HEADER};
use super::tally::{Tallies, Tally};
use super::{AcceptErrorKind, CloseReason, Labels, LaneKind, Side, TlsVersion, UpstreamClosed};
use super::{Families, ages};
use crate::limits::{Cause, Reject};
use crate::session::PinReason;

/// What one listener counts. The public counters are for code that has the number at hand; everything with a rule
/// to it is a method.
#[derive(Debug)]
pub struct ListenerMetrics {
    name: String,
    families: Families,
    users: Arc<ArcSwap<BTreeSet<String>>>,
    labels: Labels,
    tallies: Tallies,
    connections: IntCounter,
    open: IntGauge,
    unauthenticated: IntGauge,
    closed: Words,
    evicted: IntCounter,
    rejected: Words,
    attempts: Words,
    lockouts: IntCounter,
    delays: Words,
    /// Lockouts that began here and were lifted by hand.
    pub lockouts_lifted: IntCounter,
    accept_errors: Words,
    tls_handshakes: Words,
    tls_failures: Words,
    tls_duration: Histogram,
    tls_in_progress: IntGauge,
    tls_waiting: IntGauge,
    protocol_errors: Words,
    write_stalls: IntCounter,
    pinned: Vec<(&'static str, IntGauge, IntCounter)>,
    /// Connections allowed at once.
    pub connections_max: IntGauge,
    /// Sources locked out at present.
    pub locked_sources: IntGauge,
}

/// One accepted client connection: counted as open until dropped, and as closed exactly once, with a reason.
#[derive(Debug)]
pub struct ConnectionGuard {
    listener: Arc<ListenerMetrics>,
    authenticated: bool,
    reason: Option<CloseReason>,
}

/// What one upstream counts.
#[derive(Debug)]
pub struct UpstreamMetrics {
    open: IntGauge,
    connects: IntCounter,
    connect_failures: Words,
    connect_duration: Histogram,
    name: String,
    auth_failures: IntCounterVec,
    auth_failure_words: &'static [&'static str],
    overprivileged: IntGaugeVec,
    /// Commands that have a series there.
    asked_about: Mutex<Vec<&'static str>>,
    closed: Words,
    error_replies: Words,
    credential_changed: prometheus::GaugeVec,
    lanes: Vec<(LaneKind, IntGauge)>,
    waiting: IntGauge,
    waits: IntCounter,
    wait_timeouts: IntCounter,
    /// Connections allowed at once.
    pub connections_max: IntGauge,
    /// Requests on shared connections that have no reply yet.
    pub requests_queued: IntGauge,
    /// Requests that left together on a shared connection.
    pub requests_per_flush: Histogram,
    /// Times that requests on a shared connection waited for more to leave with them.
    pub gathers: IntCounter,
    /// 1 if the last check succeeded.
    pub up: IntGauge,
    /// Connections closed because a reply came that nothing had asked for.
    pub desync: IntCounter,
}

/// Which of a user's passwords a login was with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PasswordAge {
    /// The first: the one in force.
    Current,
    /// Another: during a rotation, the one that is to go.
    Older,
}

/// One of something that is counted until it is dropped.
#[derive(Debug)]
pub struct GaugeGuard(Option<IntGauge>);

/// The series of one family that differ in one closed label, the last.
#[derive(Debug)]
struct Words {
    family: IntCounterVec,
    first: String,
    ready: Vec<(&'static str, IntCounter)>,
}

impl ListenerMetrics {
    pub(super) fn new(
        name: &str,
        families: &Families,
        labels: &Labels,
        tallies: &Tallies,
        users: &Arc<ArcSwap<BTreeSet<String>>>,
    ) -> Self {
        let words = |family: &IntCounterVec, words: &mut dyn Iterator<Item = &'static str>| {
            Words::new(family, name, words)
        };
        tallies.add_listener(name);
        let listener = Self {
            name: name.to_owned(),
            families: families.clone(),
            users: Arc::clone(users),
            labels: *labels,
            tallies: tallies.clone(),
            connections: families.connections.with_label_values(&[name]),
            open: families.connections_open.with_label_values(&[name]),
            unauthenticated: families.connections_unauthenticated.with_label_values(&[name]),
            closed: words(
                &families.connections_closed,
                &mut CloseReason::ALL.iter().map(|reason| reason.label()),
            ),
            evicted: families.connections_evicted.with_label_values(&[name]),
            rejected: words(
                &families.connections_rejected,
                &mut Reject::ALL
                    .iter()
                    .map(|reject| reject.label())
                    .chain([PROXY_HEADER]),
            ),
            attempts: words(&families.auth_attempts, &mut labels.auth_methods.iter().copied()),
            lockouts: families.auth_lockouts.with_label_values(&[name]),
            delays: words(
                &families.auth_delays,
                &mut Cause::ALL.iter().map(|cause| cause.label()),
            ),
            lockouts_lifted: families.auth_lockouts_lifted.with_label_values(&[name]),
            accept_errors: words(
                &families.accept_errors,
                &mut AcceptErrorKind::ALL.iter().map(|kind| kind.label()),
            ),
            tls_handshakes: words(
                &families.tls_handshakes,
                &mut TlsVersion::ALL.iter().map(|version| version.label()),
            ),
            tls_failures: words(
                &families.tls_handshake_failures,
                &mut labels.tls_handshake_failures.iter().copied(),
            ),
            tls_duration: families.tls_handshake_duration.with_label_values(&[name]),
            tls_in_progress: families.tls_handshakes_in_progress.with_label_values(&[name]),
            tls_waiting: families.tls_handshakes_waiting.with_label_values(&[name]),
            protocol_errors: words(
                &families.protocol_errors,
                &mut Side::ALL.iter().map(|side| side.label()),
            ),
            write_stalls: families.write_stalls.with_label_values(&[name]),
            pinned: PinReason::ALL
                .iter()
                .map(|pin| {
                    let labels = [name, pin.label()];
                    (
                        pin.label(),
                        families.sessions_pinned.with_label_values(&labels),
                        families.session_pins.with_label_values(&labels),
                    )
                })
                .collect(),
            connections_max: families.connections_max.with_label_values(&[name]),
            locked_sources: families.auth_locked_sources.with_label_values(&[name]),
        };
        for reason in labels.auth_failures {
            families.auth_failures.with_label_values(&[name, "", reason]);
        }
        for family in [&families.commands_denied, &families.commands_observed] {
            family.with_label_values(&[name, "", OTHER, COMMAND]);
        }
        listener
    }

    /// Makes the series of the users who may log in here.
    pub(super) fn prepare_users(&self, users: &[&str]) {
        let name = self.name.as_str();
        for user in users {
            for reason in self.labels.user_auth_failures {
                self.families
                    .auth_failures
                    .with_label_values(&[name, user, reason]);
            }
            let denied = |cmd: &str| {
                for family in [&self.families.commands_denied, &self.families.commands_observed] {
                    family.with_label_values(&[name, user, cmd, COMMAND]);
                }
            };
            for age in PasswordAge::ALL {
                let labels = [name, user, age.label()];
                self.families.password_logins.with_label_values(&labels);
                self.families.password_sessions_open.with_label_values(&labels);
            }
            self.families.older_password_used.with_label_values(&[name, user]);
            denied(OTHER);
            if users.len() <= MOST_ALARMING_USERS {
                ALARMING.into_iter().for_each(denied);
            }
        }
    }

    /// Counts a TLS handshake as going on until the guard is dropped.
    pub fn handshake_in_progress(&self) -> GaugeGuard {
        GaugeGuard::new(Some(&self.tls_in_progress))
    }

    /// Counts a client as waiting for its handshake until the guard is dropped.
    pub fn handshake_waiting(&self) -> GaugeGuard {
        GaugeGuard::new(Some(&self.tls_waiting))
    }

    /// Counts a session as pinned until the guard is dropped.
    pub fn session_pinned(&self, pin: PinReason) -> GaugeGuard {
        let found = self.pinned.iter().find(|(label, ..)| *label == pin.label());
        GaugeGuard::new(found.map(|(_, now, ever)| {
            ever.inc();
            now
        }))
    }

    /// Counts a connection that was accepted and admitted.
    pub fn connection_open(self: &Arc<Self>) -> ConnectionGuard {
        self.connections.inc();
        self.open.inc();
        self.unauthenticated.inc();
        ConnectionGuard {
            listener: Arc::clone(self),
            authenticated: false,
            reason: None,
        }
    }

    /// Counts a connection that a limit refused.
    pub fn rejected(&self, reject: Reject) {
        self.rejected.inc(reject.label());
    }

    /// Counts a connection refused because of its PROXY header, or for want of one.
    pub fn rejected_proxy_header(&self) {
        self.rejected.inc(PROXY_HEADER);
    }

    /// Counts an error of `accept`.
    pub fn accept_error(&self, kind: AcceptErrorKind) {
        self.accept_errors.inc(kind.label());
    }

    /// What is counted for every request, for one more worker.
    pub fn tally(&self) -> Tally {
        self.tallies.tally(&self.name)
    }

    /// Counts a refused command. `cmd` is a name of the command table, or `None` for one that is not in it.
    pub fn denied(&self, user: &str, cmd: Option<&'static str>, reason: &'static str) {
        self.judged(&self.families.commands_denied, user, cmd, reason);
    }

    /// Counts a command that was forwarded though the rules refuse it.
    pub fn observed(&self, user: &str, cmd: &'static str, reason: &'static str) {
        self.judged(&self.families.commands_observed, user, Some(cmd), reason);
    }

    fn judged(&self, family: &IntCounterVec, user: &str, cmd: Option<&'static str>, reason: &'static str) {
        let users = self.users.load();
        let user = if users.contains(user) { user } else { "" };
        family
            .with_label_values(&[&self.name, user, cmd.unwrap_or(OTHER), reason])
            .inc();
    }

    /// Counts a decided login, granted or refused; `method` is a word of the authentication methods.
    pub fn auth_attempt(&self, method: &'static str) {
        self.attempts.inc(method);
    }

    /// Counts a login with a right password, at `now` in Unix seconds.
    pub fn password_login(&self, user: &str, age: PasswordAge, now: f64) {
        let user = self.configured(user);
        let labels = [self.name.as_str(), &user, age.label()];
        self.families.password_logins.with_label_values(&labels).inc();
        if age == PasswordAge::Older {
            let last = self
                .families
                .older_password_used
                .with_label_values(&[&self.name, &user]);
            last.set(now);
        }
    }

    /// Counts a session by the password that it logged in with until the guard is dropped.
    pub fn password_session(&self, user: &str, age: PasswordAge) -> GaugeGuard {
        let user = self.configured(user);
        let labels = [self.name.as_str(), &user, age.label()];
        GaugeGuard::new(Some(
            &self.families.password_sessions_open.with_label_values(&labels),
        ))
    }

    fn configured(&self, user: &str) -> String {
        let known = self.users.load().contains(user);
        if known { user.to_owned() } else { String::new() }
    }

    /// Counts a refused login. A name that is not configured is counted without it.
    pub fn auth_failed(&self, user: Option<&str>, reason: &'static str) {
        let users = self.users.load();
        let user = user.filter(|user| users.contains(*user)).unwrap_or("");
        self.families
            .auth_failures
            .with_label_values(&[&self.name, user, reason])
            .inc();
    }

    /// Counts a refusal that is held back.
    pub fn auth_delayed(&self, cause: Cause) {
        self.delays.inc(cause.label());
    }

    /// Counts a lockout that began at this listener.
    pub fn lockout_began(&self) {
        self.lockouts.inc();
    }

    /// Counts a byte stream that was not valid RESP.
    pub fn protocol_error(&self, side: Side) {
        self.protocol_errors.inc(side.label());
    }

    /// Counts a TLS handshake that succeeded, and its time.
    pub fn tls_handshake(&self, version: TlsVersion, duration: Duration) {
        self.tls_handshakes.inc(version.label());
        self.tls_duration.observe(duration.as_secs_f64());
    }

    /// Counts a TLS handshake that failed; `reason` is a word of the handshake failures.
    pub fn tls_handshake_failed(&self, reason: &'static str) {
        self.tls_failures.inc(reason);
    }

    /// The configured name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl ConnectionGuard {
    /// The connection has logged in. To be said once or often.
    pub fn authenticated(&mut self) {
        if !self.authenticated {
            self.authenticated = true;
            self.listener.unauthenticated.dec();
        }
    }

    /// The client is a stranger again.
    pub fn logged_out(&mut self) {
        if self.authenticated {
            self.authenticated = false;
            self.listener.unauthenticated.inc();
        }
    }

    /// Says why the connection ends. The first reason stays: later ones are consequences.
    pub fn close(&mut self, reason: CloseReason) {
        self.reason.get_or_insert(reason);
    }

    /// The reason said so far.
    pub fn reason(&self) -> Option<CloseReason> {
        self.reason
    }

    /// The listener's handles.
    pub fn listener(&self) -> &Arc<ListenerMetrics> {
        &self.listener
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let reason = self.reason.unwrap_or(CloseReason::Internal);
        if !self.authenticated {
            self.listener.unauthenticated.dec();
        }
        match reason {
            CloseReason::Evicted => self.listener.evicted.inc(),
            CloseReason::WriteStall => self.listener.write_stalls.inc(),
            _ => {}
        }
        self.listener.open.dec();
        self.listener.closed.inc(reason.label());
    }
}

impl UpstreamMetrics {
    pub(super) fn new(name: &str, families: &Families, labels: &Labels) -> Self {
        let words = |family: &IntCounterVec, words: &mut dyn Iterator<Item = &'static str>| {
            Words::new(family, name, words)
        };
        let upstream = Self {
            open: families.upstream_connections_open.with_label_values(&[name]),
            connects: families.upstream_connects.with_label_values(&[name]),
            connect_failures: words(
                &families.upstream_connect_failures,
                &mut labels.connect_failures.iter().copied(),
            ),
            connect_duration: families.upstream_connect_duration.with_label_values(&[name]),
            name: name.to_owned(),
            auth_failures: families.upstream_auth_failures.clone(),
            auth_failure_words: labels.upstream_auth_failures,
            overprivileged: families.upstream_overprivileged.clone(),
            asked_about: Mutex::default(),
            closed: words(
                &families.upstream_closed,
                &mut UpstreamClosed::ALL.iter().map(|when| when.label()),
            ),
            error_replies: words(
                &families.error_replies,
                &mut ERROR_CODES.into_iter().chain([OTHER]),
            ),
            credential_changed: families.upstream_credential_changed.clone(),
            up: families.upstream_up.with_label_values(&[name]),
            desync: families.desync.with_label_values(&[name]),
            lanes: LaneKind::ALL
                .iter()
                .map(|&kind| {
                    (
                        kind,
                        families
                            .upstream_lanes_open
                            .with_label_values(&[name, kind.label()]),
                    )
                })
                .collect(),
            waiting: families.upstream_waiting.with_label_values(&[name]),
            waits: families.upstream_waits.with_label_values(&[name]),
            wait_timeouts: families.upstream_wait_timeouts.with_label_values(&[name]),
            connections_max: families.upstream_connections_max.with_label_values(&[name]),
            requests_queued: families.upstream_requests_queued.with_label_values(&[name]),
            requests_per_flush: families.upstream_requests_per_flush.with_label_values(&[name]),
            gathers: families.upstream_gathers.with_label_values(&[name]),
        };
        upstream.prepare_login("");
        upstream
    }

    /// Makes the series of a login of its own, of this configured user.
    pub fn prepare_login(&self, user: &str) {
        for word in self.auth_failure_words {
            self.auth_failures.with_label_values(&[&self.name, user, word]);
        }
    }

    /// Replaces what is known of the commands that Redis would run although they are refused here.
    pub fn overprivileged(&self, commands: &[(&'static str, bool)]) {
        let mut former = self.asked_about.lock().unwrap_or_else(PoisonError::into_inner);
        for command in former.drain(..) {
            // One that was never there needs not be removed.
            let _ = self
                .overprivileged
                .remove_label_values(&[self.name.as_str(), command]);
        }
        for (command, runs) in commands {
            self.overprivileged
                .with_label_values(&[self.name.as_str(), *command])
                .set(i64::from(*runs));
            former.push(command);
        }
    }

    /// Counts an attempt to connect; the failures are a part of these.
    pub fn connect_attempt(&self) {
        self.connects.inc();
    }

    /// Records the time of a connection that was made (TCP, TLS and AUTH).
    pub fn connected(&self, duration: Duration) {
        self.connect_duration.observe(duration.as_secs_f64());
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn connection_open(&self) -> GaugeGuard {
        GaugeGuard::new(Some(&self.open))
    }

    /// Counts somebody who waits for a connection, until the guard is dropped.
    pub fn wait(&self) -> GaugeGuard {
        self.waits.inc();
        GaugeGuard::new(Some(&self.waiting))
    }

    /// Counts a wait that was in vain.
    pub fn wait_timed_out(&self) {
        self.wait_timeouts.inc();
    }

    /// Counts a connection by its use until the guard is dropped.
    pub fn lane_open(&self, kind: LaneKind) -> GaugeGuard {
        let found = self.lanes.iter().find(|(known, _)| *known == kind);
        GaugeGuard::new(found.map(|(_, gauge)| gauge))
    }

    /// Counts an attempt that failed; `reason` is a word of the connect failures.
    pub fn connect_failed(&self, reason: &'static str) {
        self.connect_failures.inc(reason);
    }

    /// Counts a credential that Redis refused; `reason` is a word of the upstream's login failures, `user` the configured
    /// user that it is for, empty for Keyward's own.
    pub fn auth_failed(&self, user: &str, reason: &'static str) {
        self.auth_failures
            .with_label_values(&[&self.name, user, reason])
            .inc();
    }

    /// Counts a connection that the upstream closed.
    pub fn closed(&self, when: UpstreamClosed) {
        self.closed.inc(when.label());
    }

    /// Counts an error reply by its first word, as it came from Redis; unknown words are `_other`.
    pub fn error_reply(&self, word: &[u8]) {
        let code = ERROR_CODES
            .iter()
            .find(|code| code.as_bytes() == word)
            .copied()
            .unwrap_or(OTHER);
        self.error_replies.inc(code);
    }

    /// Replaces what is known of when the credentials in use were last changed, by users as above.
    pub fn set_credentials<'a>(&self, all: impl IntoIterator<Item = (&'a str, f64)>) {
        ages::set(&self.credential_changed, Some(&self.name), all);
    }

    /// Records when the credential in use was last changed, in Unix seconds; `user` as in [`UpstreamMetrics::auth_failed`].
    pub fn credential_changed(&self, user: &str, unix_seconds: f64) {
        let gauge: Gauge = self.credential_changed.with_label_values(&[&self.name, user]);
        gauge.set(unix_seconds);
    }
}

impl PasswordAge {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Current, Self::Older];

    /// Of the password at this position among the user's.
    pub const fn at(position: usize) -> Self {
        if position == 0 { Self::Current } else { Self::Older }
    }

    /// The word of metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Older => "older",
        }
    }
}

impl GaugeGuard {
    fn new(gauge: Option<&IntGauge>) -> Self {
        if let Some(gauge) = gauge {
            gauge.inc();
        }
        Self(gauge.cloned())
    }
}

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        if let Some(gauge) = &self.0 {
            gauge.dec();
        }
    }
}

impl Words {
    fn new(family: &IntCounterVec, first: &str, words: &mut dyn Iterator<Item = &'static str>) -> Self {
        let ready = words
            .map(|word| (word, family.with_label_values(&[first, word])))
            .collect();
        Self {
            family: family.clone(),
            first: first.to_owned(),
            ready,
        }
    }

    /// A word that is not in the list is counted all the same, under its own name: it can only be a literal.
    fn inc(&self, word: &'static str) {
        match self.ready.iter().find(|(ready, _)| *ready == word) {
            Some((_, counter)) => counter.inc(),
            None => self.family.with_label_values(&[self.first.as_str(), word]).inc(),
        }
    }
}
