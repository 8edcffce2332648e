//! From facts to sentences. The thresholds are those of `deploy/prometheus/keyward.rules.yml`, and so are the names: what the
//! page says and what the pager says is one vocabulary (a test compares the two).
//!
//! A title says the same as long as the problem stands, so that it can be told since when; numbers are in the detail.

use super::facts::{Check, Facts, Live};
use super::history::Ring;
use super::reading::{
    ACCEPT_ERRORS, AGGREGATED, AUDIT_DROPPED, AUTH_FAILURES, CONNECT_FAILURES, DENIED, DESYNC, EVICTED,
    HANDSHAKES_WAITING, LOCKED_SOURCES, LOG_DROPPED, OBSERVED, OPEN, OPEN_FILES, OPEN_FILES_MAX, OPEN_MAX,
    OVERPRIVILEGED, PANICS, REJECTED, RELOAD_SUCCESSFUL, Reading, SLOWED_USERS, TLS_FAILURES, TLS_HANDSHAKES,
    UPSTREAM_AUTH_FAILURES, UPSTREAM_CHANGED, UPSTREAM_MAX, UPSTREAM_OPEN, UPSTREAM_WAITING, USER_CHANGED,
    WAIT_TIMEOUTS,
};
use super::words::{counted, date, latency, number, percent, seconds, span, until, whole};
use super::{Phase, Problem, Severity, remedies};

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

impl Scene<'_> {
    fn process(self, found: &mut Vec<Problem>) {
        if self.live.phase == Phase::Draining {
            found.push(problem(
                "Draining",
                "",
                "Keyward drains: it takes no new clients and lets the others finish".to_owned(),
                String::new(),
                "Nothing: it ends when the last session is over, or after drain_timeout.",
            ));
        }
        if self.reading.find(RELOAD_SUCCESSFUL, &[]) == Some(0.0) && self.live.phase != Phase::Starting {
            let fault = self.live.reload_fault.clone().unwrap_or_default();
            found.push(problem(
                "KeywardConfigReloadFailed",
                "",
                "The new configuration was refused; the former one stays in force".to_owned(),
                fault,
                "keyward check finds every fault; mend them and send SIGHUP. Until then a restart would fail.",
            ));
        }
        let (open, most) = (
            self.reading.sum(OPEN_FILES, &[]),
            self.reading.sum(OPEN_FILES_MAX, &[]),
        );
        if most > 0.0 && open / most > NEARLY_FULL {
            found.push(problem(
                "KeywardFileDescriptorsLow",
                "",
                "Few open files are left".to_owned(),
                format!("{} of {} are in use; a client takes one or two.", number(whole(open)), number(whole(most))),
                "Raise LimitNOFILE (ulimit -n) to twice max_connections and 64 more, or lower max_connections.",
            ));
        }
        for kind in ["descriptors", "memory"] {
            let errors = self.ring.increase(ACCEPT_ERRORS, &[("kind", kind)], FIVE_MINUTES);
            if errors > 0 {
                found.push(problem(
                    "KeywardAcceptErrors",
                    "",
                    format!("Connections could not be accepted: out of {kind}"),
                    format!(
                        "{} within 5 minutes; clients wait in the kernel's queue.",
                        counted(errors, "error")
                    ),
                    "Raise LimitNOFILE (ulimit -n) and the memory limit, or lower max_connections.",
                ));
            }
        }
        let panics = self.ring.increase(PANICS, &[], 60 * 60);
        if panics > 0 {
            found.push(problem(
                "KeywardPanics",
                "",
                "A task of Keyward panicked: a defect".to_owned(),
                format!(
                    "{} within an hour; each ended one connection at most.",
                    counted(panics, "panic")
                ),
                "Report the log line with event panic: it says where.",
            ));
        }
        let (folded, lost) = (
            self.ring.increase(AUDIT_DROPPED, &[], FIVE_MINUTES),
            self.ring.increase(LOG_DROPPED, &[], FIVE_MINUTES),
        );
        if folded + lost > 0 {
            found.push(problem(
                "KeywardAuditEventsDropped",
                "",
                "Audit events or log lines were not written one by one".to_owned(),
                format!(
                    "{} folded, {} lost within 5 minutes; the counts here have all of them.",
                    counted(folded, "event"),
                    counted(lost, "line")
                ),
                "Equal events are folded in a flood: look at who is refused. Lines are lost when the reader of standard error is too slow.",
            ));
        }
    }

    fn upstreams(self, found: &mut Vec<Problem>) {
        for upstream in &self.facts.upstreams {
            let name = upstream.name.as_str();
            let labels = [("upstream", name)];
            let check = self.live.checks.get(name);
            self.check(name, &upstream.address, check, found);
            self.credential(name, upstream.password_file.as_deref(), found);
            let down = check.is_some_and(|check| !check.up);
            for failed in self.ring.increases(CONNECT_FAILURES, &labels, FIVE_MINUTES) {
                let reason = failed.series.label("reason");
                if failed.count > 5 && !down {
                    found.push(problem(
                        "KeywardUpstreamConnectFailures",
                        name,
                        format!("Some connections to Redis ({name}) fail: {reason}"),
                        format!("{} within 5 minutes.", number(failed.count)),
                        remedies::connect(reason),
                    ));
                }
            }
            let timeouts = self.ring.increase(WAIT_TIMEOUTS, &labels, FIVE_MINUTES);
            let (open, most) = (
                self.reading.sum(UPSTREAM_OPEN, &labels),
                self.reading.sum(UPSTREAM_MAX, &labels),
            );
            if timeouts > 0 {
                found.push(problem(
                    "KeywardUpstreamConnectionsExhausted",
                    name,
                    format!("Clients got no connection to Redis ({name}) in time"),
                    format!(
                        "{} ended after wait_timeout within 5 minutes: max_connections ({}) is reached.",
                        counted(timeouts, "wait"),
                        number(whole(most))
                    ),
                    "Raise max_connections of the upstream and maxclients of Redis, or let fewer clients block, subscribe and hold transactions.",
                ));
            } else if (most > 0.0 && open / most > 0.9) || self.reading.sum(UPSTREAM_WAITING, &labels) > 0.0 {
                found.push(problem(
                    "KeywardUpstreamConnectionWaits",
                    name,
                    format!("The connections to Redis ({name}) are running out"),
                    format!("{} of {} are open.", number(whole(open)), number(whole(most))),
                    "Raise max_connections of the upstream and maxclients of Redis, or let fewer clients block, subscribe and hold transactions.",
                ));
            }
            let desync = self.ring.increase(DESYNC, &labels, 15 * 60);
            if desync > 0 {
                found.push(problem(
                    "KeywardDesync",
                    name,
                    format!("Redis ({name}) sent a reply that nothing had asked for"),
                    format!(
                        "{} within 15 minutes; no client got another's reply.",
                        counted(desync, "connection")
                    ),
                    "See that nothing but Redis answers at that address; if so, keep the log and report it.",
                ));
            }
            let beyond = self.reading.sum(OVERPRIVILEGED, &labels);
            if beyond > 0.0 {
                found.push(problem(
                    "KeywardUpstreamOverprivileged",
                    name,
                    format!("Redis ({name}) would let scripts run what nobody may use here"),
                    format!("{} are refused by Keyward alone, which cannot look into scripts.", counted(whole(beyond), "command")),
                    "keyward acl upstream prints the ACL that Keyward's own Redis user needs and no more; set it in Redis.",
                ));
            }
        }
    }

    fn check(self, name: &str, address: &str, check: Option<&Check>, found: &mut Vec<Problem>) {
        match check {
            Some(check) if !check.up => {
                let labels = [("upstream", name)];
                let failures = self.ring.increases(CONNECT_FAILURES, &labels, FIVE_MINUTES);
                let reason = failures.max_by_key(|failed| (failed.last, failed.count));
                let reason = reason.map(|failed| failed.series.label("reason").to_owned());
                found.push(problem(
                    "KeywardUpstreamDown",
                    name,
                    format!("Redis ({name}) cannot be used"),
                    sentence(&format!("{address}: {}", check.detail)),
                    remedies::connect(reason.as_deref().unwrap_or_default()),
                ));
            }
            Some(check) if !check.ready => found.push(problem(
                "UpstreamNotReady",
                name,
                format!("Redis ({name}) takes no commands at present"),
                sentence(&format!("{address}: {}", check.detail)),
                remedies::connect("not_ready"),
            )),
            Some(_) => {}
            None if self.live.phase == Phase::Serving => {}
            None => found.push(problem(
                "Starting",
                name,
                format!("Redis ({name}) has not been checked yet"),
                String::new(),
                "Nothing: it takes a few seconds.",
            )),
        }
    }

    fn credential(self, name: &str, file: Option<&str>, found: &mut Vec<Problem>) {
        let labels = [("upstream", name)];
        for refused in self.ring.increases(UPSTREAM_AUTH_FAILURES, &labels, FIVE_MINUTES) {
            let (user, reason) = (refused.series.label("user"), refused.series.label("reason"));
            if !["wrongpass", "noperm", "no_password_set"].contains(&reason) {
                continue;
            }
            let (whose, file) = if user.is_empty() {
                (
                    String::new(),
                    file.map(|file| format!(" The password is from {file}.")),
                )
            } else {
                (
                    format!(" for user {user}"),
                    Some(format!(" It is the upstream_password_file of user {user}.")),
                )
            };
            found.push(problem(
                "KeywardUpstreamRefusesCredential",
                name,
                format!("Redis ({name}) refuses the credential that Keyward holds{whose} ({reason})"),
                format!(
                    "{} within 5 minutes: most often a rotation that went half way.{}",
                    counted(refused.count, "refusal"),
                    file.unwrap_or_default()
                ),
                remedies::credential(reason),
            ));
        }
    }

    fn refused_logins(self, found: &mut Vec<Problem>) {
        for refused in self.ring.increases(AUTH_FAILURES, &[], FIVE_MINUTES) {
            let label = |name| refused.series.label(name);
            let (listener, user, reason) = (label("listener"), label("user"), label("reason"));
            if refused.count <= 5 || reason == "locked_out" {
                continue;
            }
            let whose = if user.is_empty() {
                String::new()
            } else {
                format!(" of user {user}")
            };
            found.push(problem(
                "KeywardAuthFailures",
                listener,
                format!("Logins{whose} at {listener} are refused: {reason}"),
                format!("{} within 5 minutes.", counted(refused.count, "login")),
                remedies::login(reason),
            ));
        }
        for listener in &self.facts.listeners {
            let name = listener.name.as_str();
            let labels = [("listener", name)];
            let failures = self.ring.increases(AUTH_FAILURES, &labels, FIVE_MINUTES);
            let guesses = failures.filter(|failed| failed.series.label("reason") != "no_credentials");
            let guesses: u64 = guesses.map(|failed| failed.count).sum();
            let lockouts = self.ring.lockouts(name, FIVE_MINUTES);
            if guesses > 100 || lockouts > 0 {
                found.push(problem(
                    "KeywardAuthBruteForce",
                    name,
                    format!("Somebody guesses passwords at {name}"),
                    format!(
                        "{} refused and {} within 5 minutes.",
                        counted(guesses, "login"),
                        counted(lockouts, "lockout")
                    ),
                    "If the source is yours, give it its password, then keyward unlock ADDRESS; if not, block it in the firewall. Nothing got through: Redis sees no byte before a login.",
                ));
            }
            let locked = self.reading.sum(LOCKED_SOURCES, &labels);
            if locked > 0.0 {
                found.push(problem(
                    "KeywardSourcesLockedOut",
                    name,
                    format!("Sources stay locked out at {name}"),
                    format!("{} at present.", counted(whole(locked), "source")),
                    "Most often a deployment with an old secret. Behind a load balancer all clients are one source: set proxy_protocol_from.",
                ));
            }
        }
        let (slowed, aggregated) = (
            self.reading.sum(SLOWED_USERS, &[]),
            self.reading.sum(AGGREGATED, &[]),
        );
        if slowed + aggregated > 0.0 {
            found.push(problem(
                "KeywardGuessingFromManyAddresses",
                "",
                "Somebody guesses passwords from many addresses".to_owned(),
                format!(
                    "{} counted as one source, refusals of {} held back. Right passwords still get in.",
                    counted(whole(aggregated), "network"),
                    counted(whole(slowed), "user")
                ),
                "keyward lockouts and the audit events say which; stop them in the firewall (deploy/fail2ban).",
            ));
        }
    }

    fn refused_commands(self, found: &mut Vec<Problem>) {
        for denied in self.ring.increases(DENIED, &[], FIFTEEN_MINUTES) {
            let label = |name| denied.series.label(name);
            let (listener, user, cmd, reason) =
                (label("listener"), label("user"), label("cmd"), label("reason"));
            let who = if user.is_empty() {
                "A client without a name"
            } else {
                user
            };
            let labels: Vec<(&str, &str)> = ["listener", "user", "cmd", "reason"]
                .map(|name| (name, label(name)))
                .into();
            let lately = self.ring.increase(DENIED, &labels, FIVE_MINUTES);
            if lately > 0 && DANGEROUS_COMMANDS.contains(&cmd) {
                found.push(problem(
                    "KeywardDangerousCommandDenied",
                    listener,
                    format!("{who} tried {} at {listener} and was refused", shown(cmd)),
                    format!("{} within 5 minutes.", counted(lately, "time")),
                    "No application needs it: an administrator took the wrong door, or an application runs what somebody else tells it. The audit events (command_denied) have the address.",
                ));
            } else if denied.count > 50 {
                found.push(problem(
                    "KeywardCommandsDenied",
                    listener,
                    format!("{} of {} at {listener} is refused again and again: {reason}", shown(cmd), super::words::user(user)),
                    format!("{} within 15 minutes.", counted(denied.count, "time")),
                    "Either the user's acl is too tight (keyward acl test says which rule refuses it), or the application should do without it.",
                ));
            }
        }
    }

    fn connections(self, found: &mut Vec<Problem>) {
        for listener in &self.facts.listeners {
            let name = listener.name.as_str();
            let labels = [("listener", name)];
            let (open, most) = (
                self.reading.sum(OPEN, &labels),
                self.reading.sum(OPEN_MAX, &labels),
            );
            if most > 0.0 && open / most > NEARLY_FULL {
                found.push(problem(
                    "KeywardConnectionsNearLimit",
                    name,
                    format!("Listener {name} is nearly full"),
                    format!("{} of {} connections ({}).", number(whole(open)), number(whole(most)), percent(open, most)),
                    "Find who opens so many, or raise max_connections; each client needs two open files (LimitNOFILE).",
                ));
            }
            for rejected in self.ring.increases(REJECTED, &labels, FIVE_MINUTES) {
                let reason = rejected.series.label("reason");
                if !["draining", "locked_out"].contains(&reason) {
                    found.push(problem(
                        "KeywardConnectionsRejected",
                        name,
                        format!("Listener {name} refuses connections: {reason}"),
                        format!("{} within 5 minutes.", counted(rejected.count, "connection")),
                        remedies::rejection(reason),
                    ));
                }
            }
            let evicted = self.ring.increase(EVICTED, &labels, FIVE_MINUTES);
            if evicted > 0 {
                found.push(problem(
                    "KeywardConnectionsEvicted",
                    name,
                    format!("Connections that do not log in use up their places at {name}"),
                    format!("{} closed within 5 minutes because newer ones needed the place.", counted(evicted, "connection")),
                    "A flood of connections without a login, or logins that take too long; see max_unauthenticated.",
                ));
            }
            if let Some(p99) = self.ring.quantile(0.99, name, FIVE_MINUTES)
                && p99 > SLOW
            {
                found.push(problem(
                    "KeywardLatencyHigh",
                    name,
                    format!("One command in a hundred is slow at {name}"),
                    format!("{} or more over the last 5 minutes; blocking commands count with their wait.", latency(p99)),
                    "Look at SLOWLOG and LATENCY of Redis and at the CPU of both; give queue workers (BLPOP) a listener of their own.",
                ));
            }
        }
    }

    fn handshakes(self, found: &mut Vec<Problem>) {
        for listener in &self.facts.listeners {
            let name = listener.name.as_str();
            let labels = [("listener", name)];
            let good = self.ring.increase(TLS_HANDSHAKES, &labels, FIVE_MINUTES);
            let failures = || {
                let all = self.ring.increases(TLS_FAILURES, &labels, FIVE_MINUTES);
                // Port scans and TCP health checks end before they begin.
                all.filter(|failed| failed.series.label("reason") != "eof")
            };
            let bad: u64 = failures().map(|failed| failed.count).sum();
            for failed in failures() {
                if failed.count > 10 && bad.saturating_mul(20) > good {
                    let reason = failed.series.label("reason");
                    found.push(problem(
                        "KeywardTlsHandshakeFailures",
                        name,
                        format!("TLS handshakes at {name} fail: {reason}"),
                        format!(
                            "{} within 5 minutes, {} succeeded.",
                            number(failed.count),
                            number(good)
                        ),
                        remedies::handshake(reason),
                    ));
                }
            }
            let waiting = self.reading.sum(HANDSHAKES_WAITING, &labels);
            if waiting > 0.0 {
                found.push(problem(
                    "KeywardTlsHandshakesWaiting",
                    name,
                    format!("TLS handshakes at {name} wait for their turn"),
                    format!("{} at present.", number(whole(waiting))),
                    "Clients connect faster than the workers shake hands: use connection pools in the clients, or more cores.",
                ));
            }
        }
    }

    fn ages(self, found: &mut Vec<Problem>) {
        for certificate in &self.facts.certificates {
            let left = certificate.ends.saturating_sub(self.now);
            let (owner, file) = (certificate.owner.as_str(), certificate.file.as_str());
            let (over, when) = (left <= 0, until(certificate.ends, self.now));
            let detail = format!("{file} ends {when}, {}.", date(certificate.ends));
            if certificate.role == "revocation_list" {
                if left < 2 * DAY {
                    let title = if over {
                        "has run out: every client certificate is refused"
                    } else {
                        "runs out"
                    };
                    found.push(problem(
                        "KeywardRevocationListExpires",
                        owner,
                        format!("The revocation list of {owner} {title}"),
                        detail,
                        "Fetch a new list from its CA and put it there; it is read again when the file changes.",
                    ));
                }
                continue;
            }
            let id = match left {
                left if left < 2 * DAY => "KeywardCertificateExpiresNow",
                left if left < 14 * DAY => "KeywardCertificateExpiresSoon",
                _ => continue,
            };
            let verb = if over { "has expired" } else { "expires" };
            found.push(problem(
                id,
                owner,
                format!("A certificate of {owner} {verb} ({})", certificate.role),
                detail,
                "Replace certificate and key files; they are read again when they change, without a restart.",
            ));
        }
        let old = |changed: f64| {
            let age = self.now.saturating_sub(seconds(changed));
            (age > 90 * DAY).then(|| format!("Last changed {} ago.", span(age)))
        };
        for (series, changed) in self.reading.family(USER_CHANGED) {
            let user = series.label("user");
            if let Some(detail) = old(changed) {
                let title = format!("The password of user {user} is older than 90 days");
                found.push(problem("KeywardCredentialOld", user, title, detail, ROTATE));
            }
        }
        for (series, changed) in self.reading.family(UPSTREAM_CHANGED) {
            let (name, user) = (series.label("upstream"), series.label("user"));
            if let Some(detail) = old(changed) {
                let whose = if user.is_empty() {
                    String::new()
                } else {
                    format!(" for user {user}")
                };
                let title = format!("The password for Redis ({name}){whose} is older than 90 days");
                found.push(problem("KeywardCredentialOld", name, title, detail, ROTATE));
            }
        }
    }

    /// What was configured in words that begin with `unsafe_`, or is meant for a while only.
    fn settings(self, found: &mut Vec<Problem>) {
        for listener in &self.facts.listeners {
            let name = listener.name.as_str();
            if !listener.tls && !listener.local {
                found.push(problem(
                    "PlaintextListener",
                    name,
                    format!("Listener {name} takes passwords and data in the clear, beyond this machine"),
                    String::new(),
                    "Set tls of the listener; keyward dev-certs makes certificates of a private CA.",
                ));
            }
        }
        let mut observed: Vec<&str> = (self.facts.users.iter())
            .filter(|user| user.observed)
            .map(|user| user.name.as_str())
            .collect();
        observed.sort_unstable();
        observed.dedup();
        if !observed.is_empty() {
            let count = self.ring.increase(OBSERVED, &[], 60 * 60);
            let more = if observed.len() > NAMED { ", …" } else { "" };
            observed.truncate(NAMED);
            found.push(problem(
                "RulesObserved",
                "",
                format!(
                    "Rules are not enforced for {}{more}: mode is observe",
                    observed.join(", ")
                ),
                format!(
                    "{} forwarded within an hour that the rules refuse.",
                    counted(count, "command")
                ),
                "Take mode = \"observe\" out when nothing is forwarded that the rules refuse.",
            ));
        }
        for upstream in &self.facts.upstreams {
            let name = upstream.name.as_str();
            if !upstream.tls && !upstream.local {
                found.push(problem(
                    "PlaintextUpstream",
                    name,
                    format!("The connection to Redis ({name}) is not encrypted, beyond this machine"),
                    String::new(),
                    "Use rediss:// and Redis's tls-port, or put Keyward beside Redis.",
                ));
            }
            if !upstream.verified {
                found.push(problem(
                    "UpstreamNotVerified",
                    name,
                    format!("The certificate of Redis ({name}) is not verified"),
                    "Whoever stands between can read everything, the password among it.".to_owned(),
                    "Take unsafe_skip_verify out and set ca_file.",
                ));
            }
        }
        if !self.facts.lockout {
            found.push(problem(
                "LockoutOff",
                "",
                "Failed logins are neither slowed down nor locked out".to_owned(),
                String::new(),
                "Take KEYWARD_LOCKOUT=off out of the environment: it is for tests.",
            ));
        }
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

const ROTATE: &str = "Rotate it (deploy/docs/upgrade-and-drain.md): new password on the first line of its file, the old one on the second meanwhile.";

const FIVE_MINUTES: u64 = 5 * 60;
const FIFTEEN_MINUTES: u64 = 15 * 60;
const DAY: i64 = 86_400;
/// Users named in one sentence.
const NAMED: usize = 5;
/// Of open files and of connections.
const NEARLY_FULL: f64 = 0.8;
/// Seconds, of one command in a hundred.
const SLOW: f64 = 0.25;
