//! Problems of the process, its configuration, and what has an age.

use super::super::reading::{
    ACCEPT_ERRORS, AUDIT_DROPPED, LOG_DROPPED, OBSERVED, OPEN_FILES, OPEN_FILES_MAX, PANICS, PASSWORD_LOGINS,
    PASSWORD_SESSIONS, RELOAD_SUCCESSFUL, UPSTREAM_CHANGED, USER_CHANGED,
};
use super::super::words::{counted, date, number, seconds, span, until, whole};
use super::super::{Phase, Problem};
use super::{DAY, FIVE_MINUTES, NAMED, NEARLY_FULL, ROTATE, Scene, problem};

impl Scene<'_> {
    pub(super) fn process(self, found: &mut Vec<Problem>) {
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

    pub(super) fn ages(self, found: &mut Vec<Problem>) {
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
        self.older_passwords(found);
    }

    /// The alert of this name waits for a week; until then a rotation is merely not finished.
    fn older_passwords(self, found: &mut Vec<Problem>) {
        for known in &self.facts.users {
            let (user, listener) = (known.name.as_str(), known.listener.as_str());
            let labels = [("listener", listener), ("user", user), ("credential", "older")];
            let sessions = whole(self.reading.sum(PASSWORD_SESSIONS, &labels));
            let logins = self.ring.increase(PASSWORD_LOGINS, &labels, 60 * 60);
            if sessions + logins > 0 {
                found.push(problem(
                    "KeywardOldPasswordInUse",
                    listener,
                    format!("An older password of user {user} is still in use at {listener}"),
                    format!(
                        "{} open, {} within an hour.",
                        counted(sessions, "session"),
                        counted(logins, "login")
                    ),
                    "Give these clients the new password (the audit events older_password_used have their addresses), then take the old one away: keyward rotate user NAME --finish.",
                ));
            }
        }
    }

    /// What was configured in words that begin with `unsafe_`, or is meant for a while only.
    pub(super) fn settings(self, found: &mut Vec<Problem>) {
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
