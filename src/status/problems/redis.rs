//! Problems with the upstreams.

use super::super::facts::Check;
use super::super::reading::{
    CONNECT_FAILURES, DESYNC, OVERPRIVILEGED, UPSTREAM_AUTH_FAILURES, UPSTREAM_MAX, UPSTREAM_OPEN,
    UPSTREAM_WAITING, WAIT_TIMEOUTS,
};
use super::super::remedies;
use super::super::words::{counted, number, whole};
use super::super::{Phase, Problem};
use super::{FIVE_MINUTES, Scene, problem, sentence};

impl Scene<'_> {
    pub(super) fn upstreams(self, found: &mut Vec<Problem>) {
        for upstream in &self.facts.upstreams {
            let name = upstream.name.as_str();
            let labels = [("upstream", name)];
            let check = self.live.checks.get(name);
            let down = check.is_some_and(|check| !check.up);
            let told = self.credential(name, upstream.password_file.as_deref(), down, found);
            if !(down && told) {
                self.check(name, &upstream.address, check, found);
            }
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

    /// True: why nobody can use it is told.
    fn credential(self, name: &str, file: Option<&str>, down: bool, found: &mut Vec<Problem>) -> bool {
        let mut told = false;
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
                    "{}{} within 5 minutes: most often a rotation that went half way.{}",
                    if down { "It cannot be used. " } else { "" },
                    counted(refused.count, "refusal"),
                    file.unwrap_or_default()
                ),
                remedies::credential(reason),
            ));
            told |= user.is_empty();
        }
        told
    }
}
