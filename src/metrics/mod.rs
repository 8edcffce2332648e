//! Every metric in one place: names, labels, help texts, and the handles that count.
//!
//! **Cardinality contract.** No label ever holds bytes from the network. `listener`, `upstream`, `user` and `name`
//! come from the configuration; every other label is a closed set of words, and a command is one of the built-in
//! table or `_other`. A user name that is not configured is counted as `user=""` ([`Metrics::add_users`]), an
//! error code that is not well known as `err="_other"`. Client addresses are never labels.
//!
//! **No first failure is missed.** A counter that appears only when it is first counted starts at 1, and
//! `increase()` sees nothing. So every series that can exist is created at zero when its listener, upstream or user
//! is. The exceptions are `keyward_commands_total`, `keyward_commands_denied_total` and `keyward_commands_observed_total`,
//! whose `cmd` would multiply them by several hundred: of the first only `cmd="_other"` is there from the beginning, of the
//! others also the commands that an alert is likely to be about (`ALARMING`).
//!
//! **Cost.** Code that counts holds a handle ([`ListenerMetrics`], [`UpstreamMetrics`]) whose counters are ready:
//! one relaxed atomic add each, no label look-up. Only rare events look labels up.

mod ages;
mod handles;
mod labels;
mod process;
mod tally;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use tracing_subscriber::layer::Context;

use tally::Tallies;

pub use handles::{ConnectionGuard, GaugeGuard, ListenerMetrics, PasswordAge, UpstreamMetrics};
pub use labels::{
    AcceptErrorKind, CertificateRole, CloseReason, Labels, LaneKind, Side, TlsVersion, UpstreamClosed,
};
pub use process::{ProcessMetrics, max_open_files, thread_cpu_seconds, thread_number};
pub use tally::Tally;

/// All metrics of one process. Shared by `Arc`; there may be several in one process (tests), none is global.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    labels: Labels,
    tallies: Tallies,
    users: Arc<ArcSwap<BTreeSet<String>>>,
    listeners: Mutex<BTreeMap<String, Arc<ListenerMetrics>>>,
    upstreams: Mutex<BTreeMap<String, Arc<UpstreamMetrics>>>,
    /// 1 while draining.
    pub draining: IntGauge,
    /// Workers that take new connections.
    pub workers_active: IntGauge,
    /// Sessions that went on with another worker.
    pub sessions_moved: IntCounter,
    /// Panics caught at a task's boundary.
    pub panics: IntCounter,
    /// Log lines not written because the writer fell behind.
    pub log_dropped: IntCounter,
    /// Audit events not written one by one; the audit log counts here what it folds.
    pub audit_dropped: IntCounter,
    /// Records of failed logins held at present.
    pub auth_sources: IntGauge,
    /// Those of them that stand for a whole network.
    pub auth_aggregated: IntGauge,
    /// Users whose refusals are held back because strangers guess at them.
    pub auth_slowed_users: IntGauge,
    /// Records that gave way because the table was full.
    pub auth_evicted: IntCounter,
    log_messages: LogCounter,
    reload_successful: IntGauge,
    reload_timestamp: Gauge,
    reload_succeeded: IntCounter,
    reload_failed: IntCounter,
}

/// What is known of the configuration when the metrics are made.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// Names of the configured listeners, each with its `max_connections`.
    pub listeners: Vec<(String, usize)>,
    /// Names of the configured upstreams.
    pub upstreams: Vec<String>,
    /// The command table's names by command number; what [`Tally::command`] takes an index into.
    pub commands: Vec<&'static str>,
    /// The reason words of other modules.
    pub labels: Labels,
}

/// A metric could not be made: a name, label or help text in this module is not valid.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// Counts log lines by level: a `tracing` layer.
#[derive(Debug, Clone)]
pub struct LogCounter {
    warn: IntCounter,
    error: IntCounter,
}

/// The families with labels; the handles take their series from here.
#[derive(Debug, Clone)]
struct Families {
    auth_failures: IntCounterVec,
    auth_attempts: IntCounterVec,
    auth_lockouts: IntCounterVec,
    auth_locked_sources: IntGaugeVec,
    auth_delays: IntCounterVec,
    auth_lockouts_lifted: IntCounterVec,
    commands_denied: IntCounterVec,
    commands_observed: IntCounterVec,
    user_credential_changed: GaugeVec,
    password_logins: IntCounterVec,
    password_sessions_open: IntGaugeVec,
    older_password_used: GaugeVec,
    connections_open: IntGaugeVec,
    connections_unauthenticated: IntGaugeVec,
    connections_max: IntGaugeVec,
    connections: IntCounterVec,
    connections_rejected: IntCounterVec,
    connections_closed: IntCounterVec,
    connections_evicted: IntCounterVec,
    accept_errors: IntCounterVec,
    write_stalls: IntCounterVec,
    protocol_errors: IntCounterVec,
    tls_handshakes: IntCounterVec,
    tls_handshake_failures: IntCounterVec,
    tls_handshake_duration: HistogramVec,
    tls_handshakes_in_progress: IntGaugeVec,
    tls_handshakes_waiting: IntGaugeVec,
    tls_crl_next_update: GaugeVec,
    tls_not_after: GaugeVec,
    upstream_auth_failures: IntCounterVec,
    upstream_credential_changed: GaugeVec,
    upstream_overprivileged: IntGaugeVec,
    upstream_up: IntGaugeVec,
    upstream_connections_open: IntGaugeVec,
    upstream_connections_max: IntGaugeVec,
    upstream_waiting: IntGaugeVec,
    upstream_waits: IntCounterVec,
    upstream_wait_timeouts: IntCounterVec,
    upstream_connects: IntCounterVec,
    upstream_connect_failures: IntCounterVec,
    upstream_connect_duration: HistogramVec,
    upstream_closed: IntCounterVec,
    error_replies: IntCounterVec,
    desync: IntCounterVec,
    sessions_pinned: IntGaugeVec,
    session_pins: IntCounterVec,
    upstream_lanes_open: IntGaugeVec,
    upstream_requests_queued: IntGaugeVec,
    upstream_requests_per_flush: HistogramVec,
    upstream_gathers: IntCounterVec,
}

impl Metrics {
    /// Makes and registers every family, and every series that the shape gives rise to.
    ///
    /// # Errors
    /// A mistake in this module's own names; the tests make every family once.
    pub fn new(shape: &Shape) -> Result<Arc<Self>, MetricsError> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let families = Families::new(&make)?;
        let reloads = make.counters("keyward_config_reloads_total", RELOADS_HELP, &["result"])?;
        let log_messages = make.counters(
            "keyward_log_messages_total",
            "Log lines written at warn and error.",
            &["level"],
        )?;
        let build = make.gauges(
            "keyward_build_info",
            "Always 1; the labels say which build runs.",
            &["version", "revision", "tls_provider"],
        )?;
        let revision = option_env!("KEYWARD_REVISION").unwrap_or("unknown");
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), revision, "aws-lc-rs"])
            .set(1);
        registry.register(Box::new(ProcessMetrics::new()?))?;
        let commands: Arc<[&'static str]> = shape.commands.clone().into();
        let tallies = Tallies::new(&commands)?;
        registry.register(Box::new(tallies.clone()))?;
        let metrics = Self {
            draining: make.gauge(
                "keyward_draining",
                "1 while the process drains before it ends, else 0.",
            )?,
            workers_active: make.gauge(
                "keyward_workers_active",
                "Worker threads that take new connections; the others wait until one of these is busy.",
            )?,
            sessions_moved: make.counter(
                "keyward_sessions_moved_total",
                "Sessions that went on with another worker thread, because theirs was busy or superfluous.",
            )?,
            panics: make.counter(
                "keyward_panics_total",
                "Tasks that panicked; each ends one connection at most.",
            )?,
            log_dropped: make.counter(
                "keyward_log_dropped_total",
                "Log lines not written, because the writer fell behind.",
            )?,
            audit_dropped: make.counter("keyward_audit_events_dropped_total", AUDIT_DROPPED_HELP)?,
            auth_sources: make.gauge(
                "keyward_auth_tracked_sources",
                "Sources and networks with failed authentications on record (login.max_sources at most).",
            )?,
            auth_aggregated: make.gauge(
                "keyward_auth_aggregated_networks",
                "Networks (IPv4 /24, IPv6 /48) that count as one source, because many of their sources failed.",
            )?,
            auth_slowed_users: make.gauge(
                "keyward_auth_slowed_users",
                "Users whose refusals are held back at present, because many sources failed to log in as them.",
            )?,
            auth_evicted: make.counter(
                "keyward_auth_evicted_sources_total",
                "Records of failed authentications that gave way to newer ones, because there were too many.",
            )?,
            log_messages: LogCounter {
                warn: log_messages.with_label_values(&["warn"]),
                error: log_messages.with_label_values(&["error"]),
            },
            reload_successful: make.gauge("keyward_config_last_reload_successful", RELOAD_SUCCESSFUL_HELP)?,
            reload_timestamp: make.register(Gauge::with_opts(Opts::new(
                "keyward_config_last_reload_success_timestamp_seconds",
                "When the configuration and secrets were last loaded, as a Unix time.",
            ))?)?,
            reload_succeeded: reloads.with_label_values(&["success"]),
            reload_failed: reloads.with_label_values(&["failure"]),
            registry: registry.clone(),
            families,
            labels: shape.labels,
            tallies,
            users: Arc::default(),
            listeners: Mutex::default(),
            upstreams: Mutex::default(),
        };
        for (name, max_connections) in &shape.listeners {
            metrics
                .listener(name)
                .connections_max
                .set(i64::try_from(*max_connections).unwrap_or(i64::MAX));
        }
        for name in &shape.upstreams {
            metrics.upstream(name);
        }
        Ok(Arc::new(metrics))
    }

    /// The handles of a configured listener; made when first asked for (a reload may add one).
    pub fn listener(&self, name: &str) -> Arc<ListenerMetrics> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = listeners.get(name) {
            return Arc::clone(listener);
        }
        let listener = ListenerMetrics::new(name, &self.families, &self.labels, &self.tallies, &self.users);
        let listener = Arc::new(listener);
        listeners.insert(name.to_owned(), Arc::clone(&listener));
        listener
    }

    /// The handles of a configured upstream; made when first asked for.
    pub fn upstream(&self, name: &str) -> Arc<UpstreamMetrics> {
        let mut upstreams = self.upstreams.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(upstream) = upstreams.get(name) {
            return Arc::clone(upstream);
        }
        let upstream = Arc::new(UpstreamMetrics::new(name, &self.families, &self.labels));
        upstreams.insert(name.to_owned(), Arc::clone(&upstream));
        upstream
    }

    /// Makes the names of those who may log in at a listener labels from now on, with their series at zero. Names from the
    /// configuration and its ACL files only.
    pub fn add_users(&self, listener: &str, names: &[&str]) {
        self.users.rcu(|known| {
            let mut all = BTreeSet::clone(known);
            all.extend(names.iter().map(|&name| name.to_owned()));
            all
        });
        self.listener(listener).prepare_users(names);
    }

    /// Replaces what is known of when users' client passwords were last changed, in Unix seconds (a file's modification
    /// time, say). Names that are not configured are ignored.
    pub fn set_user_credentials<'a>(&self, all: impl IntoIterator<Item = (&'a str, f64)>) {
        let users = self.users.load();
        let known = all.into_iter().filter(|(user, _)| users.contains(*user));
        ages::set(&self.families.user_credential_changed, None, known);
    }

    /// Replaces what is known of the loaded certificates: role, configured name of the listener or upstream, and
    /// expiry in Unix seconds. Of several with the same role and name the earliest expiry counts.
    pub fn set_certificates<'a>(&self, all: impl IntoIterator<Item = (CertificateRole, &'a str, i64)>) {
        let mut earliest = BTreeMap::new();
        for (role, name, not_after) in all {
            let kept = earliest.entry((role.label(), name)).or_insert(not_after);
            *kept = not_after.min(*kept);
        }
        self.families.tls_not_after.reset();
        for ((role, name), not_after) in earliest {
            #[allow(
                clippy::cast_precision_loss,
                reason = "seconds of a calendar fit a double exactly"
            )]
            self.families
                .tls_not_after
                .with_label_values(&[role, name])
                .set(not_after as f64);
        }
    }

    /// Replaces what is known of the loaded revocation lists: listener, and when the first of its lists runs out, in Unix
    /// seconds.
    pub fn set_revocation_lists<'a>(&self, all: impl IntoIterator<Item = (&'a str, i64)>) {
        self.families.tls_crl_next_update.reset();
        for (listener, next_update) in all {
            #[allow(
                clippy::cast_precision_loss,
                reason = "seconds of a calendar fit a double exactly"
            )]
            self.families
                .tls_crl_next_update
                .with_label_values(&[listener])
                .set(next_update as f64);
        }
    }

    /// Records the first load of the configuration, which is not a reload.
    pub fn config_loaded(&self, unix_seconds: f64) {
        self.reload_successful.set(1);
        self.reload_timestamp.set(unix_seconds);
    }

    /// Counts a reload that was taken over.
    pub fn reload_succeeded(&self, unix_seconds: f64) {
        self.config_loaded(unix_seconds);
        self.reload_succeeded.inc();
    }

    /// Counts a reload that was refused: the former state stays in force.
    pub fn reload_failed(&self) {
        self.reload_successful.set(0);
        self.reload_failed.inc();
    }

    /// The layer that counts log lines.
    pub fn log_counter(&self) -> LogCounter {
        self.log_messages.clone()
    }

    /// Everything as it is now.
    pub fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        self.registry.gather()
    }

    /// Everything in Prometheus's text format 0.0.4.
    pub fn render(&self) -> String {
        // Fails for a family without a name or series only, and the registry leaves those out.
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for LogCounter {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        match *event.metadata().level() {
            tracing::Level::ERROR => self.error.inc(),
            tracing::Level::WARN => self.warn.inc(),
            _ => {}
        }
    }
}

impl Families {
    fn new(make: &Maker<'_>) -> Result<Self, MetricsError> {
        Ok(Self {
            auth_failures: make.counters(
                "keyward_auth_failures_total",
                "Client authentications refused, by reason. user is empty unless the name is in the configuration.",
                &["listener", "user", "reason"],
            )?,
            sessions_pinned: make.gauges(
                "keyward_sessions_pinned",
                "Sessions that need an upstream connection of their own at present, by what they need it for.",
                &["listener", "reason"],
            )?,
            session_pins: make.counters(
                "keyward_session_pins_total",
                "Times a session came to need an upstream connection of its own, by what it needed it for.",
                &["listener", "reason"],
            )?,
            upstream_lanes_open: make.gauges(
                "keyward_upstream_lanes_open",
                "Connections to the upstream by use: shared by sessions, own to one session, or idle and ready for the next.",
                &["upstream", "kind"],
            )?,
            upstream_requests_queued: make.gauges(
                "keyward_upstream_requests_queued",
                "Requests on shared connections that have no reply yet.",
                &["upstream"],
            )?,
            upstream_requests_per_flush: make.histograms_with(
                "keyward_upstream_requests_per_flush",
                "Requests that left together on a shared connection.",
                &["upstream"],
                &BATCH_BUCKETS,
            )?,
            upstream_gathers: make.counters(
                "keyward_upstream_gathers_total",
                "Times that requests on a shared connection waited, for about a quarter of a millisecond at most, so that more would leave with them.",
                &["upstream"],
            )?,
            auth_attempts: make.counters(
                "keyward_auth_attempts_total",
                "Client authentications decided, granted or refused. method is password, client_cert, unix_user or none.",
                &["listener", "method"],
            )?,
            upstream_auth_failures: make.counters(
                "keyward_upstream_auth_failures_total",
                "Times Redis refused a credential that Keyward holds (after a bad rotation, for instance). user is empty for Keyward's own, else the user that it is for.",
                &["upstream", "user", "reason"],
            )?,
            auth_lockouts: make.counters(
                "keyward_auth_lockouts_total",
                "Sources or whole networks locked out after too many failed authentications.",
                &["listener"],
            )?,
            auth_locked_sources: make.gauges(
                "keyward_auth_locked_sources",
                "Sources or whole networks locked out at present.",
                &["listener"],
            )?,
            auth_delays: make.counters(
                "keyward_auth_delays_total",
                "Refusals held back. reason is source, user (under attack from many sources), lockout or budget.",
                &["listener", "reason"],
            )?,
            auth_lockouts_lifted: make.counters(
                "keyward_auth_lockouts_lifted_total",
                "Lockouts lifted by hand (keyward unlock).",
                &["listener"],
            )?,
            commands_denied: make.counters(
                "keyward_commands_denied_total",
                "Commands refused by policy. reason is command, key, channel, database or argument, as in ACL LOG.",
                &["listener", "user", "cmd", "reason"],
            )?,
            commands_observed: make.counters(
                "keyward_commands_observed_total",
                "Commands that policy would refuse and mode = \"observe\" forwards; labels as of keyward_commands_denied_total.",
                &["listener", "user", "cmd", "reason"],
            )?,
            user_credential_changed: make.float_gauges(
                "keyward_user_credential_changed_timestamp_seconds",
                "When the client password of this user was last changed, as a Unix time.",
                &["user"],
            )?,
            password_logins: make.counters(
                "keyward_password_logins_total",
                "Logins with a right password. credential is current (the user's first) or older (any other, as during a rotation).",
                &["listener", "user", "credential"],
            )?,
            password_sessions_open: make.gauges(
                "keyward_password_sessions_open",
                "Sessions open at present that logged in with a password; credential as of keyward_password_logins_total, by the passwords as they are now.",
                &["listener", "user", "credential"],
            )?,
            older_password_used: make.float_gauges(
                "keyward_older_password_last_used_timestamp_seconds",
                "When somebody last logged in as this user with an older password, as a Unix time; 0 if that has not happened since the start.",
                &["listener", "user"],
            )?,
            upstream_credential_changed: make.float_gauges(
                "keyward_upstream_credential_changed_timestamp_seconds",
                "When a credential that Keyward holds for this upstream was last changed, as a Unix time. user is empty for Keyward's own, else the user that it is for.",
                &["upstream", "user"],
            )?,
            connections_open: make.gauges(
                "keyward_connections_open",
                "Client connections open at present.",
                &["listener"],
            )?,
            connections_unauthenticated: make.gauges(
                "keyward_connections_unauthenticated",
                "Client connections open at present that have not logged in.",
                &["listener"],
            )?,
            connections_max: make.gauges(
                "keyward_connections_max",
                "Client connections allowed at once (max_connections).",
                &["listener"],
            )?,
            connections: make.counters(
                "keyward_connections_total",
                "Client connections accepted.",
                &["listener"],
            )?,
            connections_rejected: make.counters(
                "keyward_connections_rejected_total",
                "Client connections refused before authentication.",
                &["listener", "reason"],
            )?,
            connections_closed: make.counters(
                "keyward_connections_closed_total",
                "Client connections ended, by which side or rule ended them.",
                &["listener", "reason"],
            )?,
            connections_evicted: make.counters(
                "keyward_connections_evicted_total",
                "Client connections closed before they logged in, because newer ones needed their place.",
                &["listener"],
            )?,
            accept_errors: make.counters(
                "keyward_accept_errors_total",
                "Errors of the accept call. kind is descriptors, memory, aborted or other.",
                &["listener", "kind"],
            )?,
            write_stalls: make.counters(
                "keyward_client_write_stalls_total",
                "Client connections closed because the client read nothing while replies waited.",
                &["listener"],
            )?,
            error_replies: make.counters(
                "keyward_error_replies_total",
                "Error replies from Redis, by error prefix (OOM, READONLY, MOVED, LOADING and so on, else _other).",
                &["upstream", "err"],
            )?,
            protocol_errors: make.counters(
                "keyward_protocol_errors_total",
                "Byte streams that were not valid RESP.",
                &["listener", "side"],
            )?,
            tls_handshakes: make.counters(
                "keyward_tls_handshakes_total",
                "TLS handshakes with clients that succeeded.",
                &["listener", "version"],
            )?,
            tls_handshake_failures: make.counters(
                "keyward_tls_handshake_failures_total",
                "TLS handshakes with clients that failed for a cause other than the client's identity.",
                &["listener", "reason"],
            )?,
            tls_handshake_duration: make.histograms(
                "keyward_tls_handshake_duration_seconds",
                "Time of the TLS handshake with a client.",
                &["listener"],
            )?,
            tls_handshakes_in_progress: make.gauges(
                "keyward_tls_handshakes_in_progress",
                "Clients that have begun a TLS handshake and not ended it.",
                &["listener"],
            )?,
            tls_handshakes_waiting: make.gauges(
                "keyward_tls_handshakes_waiting",
                "TLS handshakes that could go on and wait for their turn (max_tls_handshakes).",
                &["listener"],
            )?,
            tls_crl_next_update: make.float_gauges(
                "keyward_tls_crl_next_update_timestamp_seconds",
                "When the first of the loaded revocation lists runs out, as a Unix time; from then on client certificates are refused.",
                &["listener"],
            )?,
            tls_not_after: make.float_gauges(
                "keyward_tls_certificate_not_after_timestamp_seconds",
                "Expiry of a loaded certificate, as a Unix time. role is listener, client_ca, upstream_ca or upstream_client.",
                &["role", "name"],
            )?,
            upstream_overprivileged: make.gauges(
                "keyward_upstream_overprivileged",
                "1 if Redis would run this command for Keyward although no user may use it, so that only Keyward, and no script, is kept from it; else 0.",
                &["upstream", "cmd"],
            )?,
            upstream_up: make.gauges(
                "keyward_upstream_up",
                "1 if the last check of this upstream (connect, TLS, AUTH, PING) succeeded, else 0.",
                &["upstream"],
            )?,
            upstream_connections_open: make.gauges(
                "keyward_upstream_connections_open",
                "Connections open to this upstream.",
                &["upstream"],
            )?,
            upstream_connections_max: make.gauges(
                "keyward_upstream_connections_max",
                "Connections allowed to this upstream at once (max_connections); the health check's comes on top.",
                &["upstream"],
            )?,
            upstream_waiting: make.gauges(
                "keyward_upstream_waiting",
                "Clients and shared connections that wait at present because max_connections of this upstream is reached.",
                &["upstream"],
            )?,
            upstream_waits: make.counters(
                "keyward_upstream_waits_total",
                "Times somebody had to wait because max_connections of this upstream was reached.",
                &["upstream"],
            )?,
            upstream_wait_timeouts: make.counters(
                "keyward_upstream_wait_timeouts_total",
                "Waits for a connection to this upstream that were in vain (wait_timeout).",
                &["upstream"],
            )?,
            upstream_connects: make.counters(
                "keyward_upstream_connects_total",
                "Connections attempted to this upstream.",
                &["upstream"],
            )?,
            upstream_connect_failures: make.counters(
                "keyward_upstream_connect_failures_total",
                "Connections to this upstream that failed.",
                &["upstream", "reason"],
            )?,
            upstream_connect_duration: make.histograms(
                "keyward_upstream_connect_duration_seconds",
                "Time to connect to this upstream: TCP, TLS and AUTH.",
                &["upstream"],
            )?,
            upstream_closed: make.counters(
                "keyward_upstream_closed_total",
                "Connections that this upstream closed. when is idle, waiting or reply (in the middle of one).",
                &["upstream", "when"],
            )?,
            desync: make.counters(
                "keyward_desync_total",
                "Connections to this upstream closed because a reply came that nothing had asked for.",
                &["upstream"],
            )?,
        })
    }
}

/// Makes families and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn register<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, MetricsError> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        self.register(IntCounter::with_opts(Opts::new(name, help))?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        self.register(IntGauge::with_opts(Opts::new(name, help))?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricsError> {
        self.register(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricsError> {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, MetricsError> {
        self.register(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, MetricsError> {
        self.histograms_with(name, help, labels, &BUCKETS)
    }

    fn histograms_with(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec, MetricsError> {
        self.register(HistogramVec::new(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
            labels,
        )?)
    }
}

const RELOADS_HELP: &str = "Reloads of the configuration and secrets.";
const RELOAD_SUCCESSFUL_HELP: &str =
    "1 if the last load of the configuration and secrets succeeded, else 0 (the former ones stay in force).";
const AUDIT_DROPPED_HELP: &str =
    "Audit events not written, because the writer fell behind or the rate limit held them back.";

/// Seconds, from a loopback round trip (50 µs) to what a client's timeout tolerates (2.5 s).
const BUCKETS: [f64; 15] = [
    5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5,
];

/// Requests that leave together.
const BATCH_BUCKETS: [f64; 10] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

#[cfg(test)]
mod tests;
