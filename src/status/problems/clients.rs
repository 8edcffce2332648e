//! Problems with clients: who is refused, and what runs out.

use super::super::Problem;
use super::super::reading::{
    AGGREGATED, AUTH_FAILURES, DENIED, EVICTED, HANDSHAKES_WAITING, LOCKED_SOURCES, OPEN, OPEN_MAX, REJECTED,
    SLOWED_USERS, TLS_FAILURES, TLS_HANDSHAKES,
};
use super::super::remedies;
use super::super::words::{counted, latency, number, percent, whole};
use super::{DANGEROUS_COMMANDS, FIFTEEN_MINUTES, FIVE_MINUTES, NEARLY_FULL, SLOW, Scene, problem, shown};

impl Scene<'_> {
    pub(super) fn refused_logins(self, found: &mut Vec<Problem>) {
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

    pub(super) fn refused_commands(self, found: &mut Vec<Problem>) {
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
                    format!("{} of {} at {listener} is refused again and again: {reason}", shown(cmd), super::super::words::user(user)),
                    format!("{} within 15 minutes.", counted(denied.count, "time")),
                    "Either the user's acl is too tight (keyward acl test says which rule refuses it), or the application should do without it.",
                ));
            }
        }
    }

    pub(super) fn connections(self, found: &mut Vec<Problem>) {
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

    pub(super) fn handshakes(self, found: &mut Vec<Problem>) {
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
}
