//! Least privilege towards Redis (C-9): which commands that nobody may use here would Redis run all the same?
//!
//! They are out of reach of clients, but not of scripts, which Keyward cannot look into (rule 5). Only a tighter ACL of the
//! Redis user keeps scripts from them, so what is found is said at start, after each reload and when Redis has come back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::acl::{self, Command, Role};
use crate::auth::Users;
use crate::config::{Config, Diagnostic, code};
use crate::metrics::UpstreamMetrics;
use crate::upstream::{DialError, Login, Upstream};

use super::Serving;
use super::listener::Listener;
use super::prepare::Prepared;

/// The users of one listener, and what they are at Redis.
struct Audience<'a> {
    users: &'a Users,
    own_logins: &'a BTreeSet<String>,
}

/// What Redis is to be asked.
pub(super) struct Plan {
    /// Commands that no user of this login may run.
    asked: Vec<(Arc<Login>, Vec<&'static Command>)>,
    /// Some user may run scripts.
    scripts: bool,
}

/// What it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// Whether it would run each of the commands.
    Known(Vec<(&'static str, bool)>),
    /// It cannot be asked.
    Unknown,
}

/// What the log was told last, by upstream.
#[derive(Default)]
pub(super) struct Said(Mutex<BTreeMap<String, Finding>>);

impl Plan {
    /// For an upstream that is in use.
    pub(super) fn of_listeners(upstream: &Upstream, index: usize, listeners: &[Arc<Listener>]) -> Self {
        let settings: Vec<_> = listeners
            .iter()
            .map(|listener| listener.settings.load())
            .collect();
        let here = settings
            .iter()
            .filter(|settings| settings.config.upstream == index);
        Self::new(
            upstream,
            here.map(|settings| Audience {
                users: &settings.users,
                own_logins: &settings.own_logins,
            }),
        )
    }

    /// For an upstream that has only been built.
    pub(super) fn of_prepared(
        upstream: &Upstream,
        index: usize,
        config: &Config,
        prepared: &[Prepared],
    ) -> Self {
        let all = config.listeners.iter().zip(prepared);
        let here = all.filter(|(section, _)| section.upstream == index);
        Self::new(
            upstream,
            here.map(|(_, prepared)| Audience {
                users: &prepared.users,
                own_logins: &prepared.own_logins,
            }),
        )
    }

    fn new<'a>(upstream: &Upstream, audiences: impl Iterator<Item = Audience<'a>>) -> Self {
        let mut groups: Vec<(Arc<Login>, Vec<Arc<acl::User>>)> = Vec::new();
        for audience in audiences {
            for user in audience.users.iter().filter(|user| user.enabled) {
                let own = audience.own_logins.contains(&user.name);
                let login = upstream.login_of(if own { &user.name } else { "" });
                match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &login)) {
                    Some((_, users)) => users.push(Arc::clone(user)),
                    None => groups.push((login, vec![Arc::clone(user)])),
                }
            }
        }
        let runs =
            |users: &[Arc<acl::User>], command: &Command| users.iter().any(|user| user.may_run(command));
        let runs_scripts = |users: &[Arc<acl::User>]| {
            let mut scripts = acl::commands().iter().filter(|command| starts_scripts(command));
            scripts.any(|command| runs(users, command))
        };
        let scripts = groups.iter().any(|(_, users)| runs_scripts(users));
        let asked = groups
            .into_iter()
            .map(|(login, users)| {
                let commands = acl::commands().iter().filter(|command| is_for_scripts(command));
                let refused = commands.filter(|command| !runs(&users, command)).collect();
                (login, refused)
            })
            .collect();
        Self { asked, scripts }
    }

    /// Asks Redis about the login with this number.
    ///
    /// # Errors
    /// It could not be reached, or refuses the login.
    async fn ask(&self, upstream: &Upstream, number: usize) -> Result<Finding, DialError> {
        let Some((login, commands)) = self.asked.get(number) else {
            return Ok(Finding::Unknown);
        };
        if commands.is_empty() {
            return Ok(Finding::Known(Vec::new()));
        }
        let requests: Vec<_> = commands.iter().map(|command| request(command)).collect();
        let verdicts = upstream.would_run(login, &requests).await?;
        Ok(verdicts.map_or(Finding::Unknown, |verdicts| {
            let names = commands.iter().map(|command| command.name);
            Finding::Known(names.zip(verdicts).collect())
        }))
    }

    /// Asks about every login.
    ///
    /// # Errors
    /// It could not be reached, or refuses one of them.
    pub(super) async fn ask_all(&self, upstream: &Upstream) -> Result<Finding, DialError> {
        let mut findings = Vec::with_capacity(self.asked.len());
        for number in 0..self.asked.len() {
            findings.push(self.ask(upstream, number).await?);
        }
        Ok(Finding::together(findings.iter()))
    }

    /// Whether some user may run scripts.
    pub(super) fn has_scripts(&self) -> bool {
        self.scripts
    }

    /// Asks for a configuration that demands it, before anybody is served with it. A login that Redis could not be asked
    /// about now serves nobody until it has been.
    ///
    /// # Errors
    /// One of them may do too much.
    pub(super) async fn demand(&self, upstream: &Upstream) -> Result<(), Diagnostic> {
        for (number, (login, _)) in self.asked.iter().enumerate() {
            match self.ask(upstream, number).await {
                Ok(finding) if finding.is_fine() => login.set_trusted(true),
                Ok(finding) => return Err(self.fault(upstream, &finding)),
                Err(_) => login.set_trusted(false),
            }
        }
        Ok(())
    }

    fn fault(&self, upstream: &Upstream, finding: &Finding) -> Diagnostic {
        let (message, help) = self.words(upstream, finding);
        Diagnostic::error(code::OVERPRIVILEGED, message).helped(help)
    }

    fn words(&self, upstream: &Upstream, finding: &Finding) -> (String, &'static str) {
        let name = upstream.name();
        if *finding == Finding::Unknown {
            let message = format!("upstream \"{name}\" does not tell what Keyward's user may do there");
            return (message, "give Keyward's Redis user +multi and +discard");
        }
        let commands = finding.worst_first();
        let commands: Vec<String> = commands.iter().map(|name| name.to_ascii_uppercase()).collect();
        let (shown, more) = commands.split_at(commands.len().min(MOST_SHOWN));
        let shown = shown.join(", ").replace('|', " ");
        let more = match more.len() {
            0 => String::new(),
            count => format!(" and {count} more"),
        };
        let message = if self.scripts {
            format!("{shown}{more}: blocked here, but scripts can still run it upstream (\"{name}\")")
        } else {
            format!("{shown}{more}: blocked here, but upstream \"{name}\" would run it for Keyward")
        };
        (
            message,
            "give Keyward's Redis user a tighter ACL, see `keyward acl upstream`",
        )
    }

    /// Says what is new, and counts all of it.
    fn tell(&self, upstream: &Upstream, finding: &Finding, (said, metrics): (&Said, &UpstreamMetrics)) {
        if let Finding::Known(commands) = finding {
            metrics.overprivileged(commands);
        }
        if !said.is_new(upstream.name(), finding) || finding.is_fine() {
            return;
        }
        let (message, help) = self.words(upstream, finding);
        let upstream = upstream.name();
        match finding {
            Finding::Known(_) => {
                let scripts = self.scripts;
                tracing::warn!(
                    event = "upstream_overprivileged",
                    upstream,
                    scripts,
                    help,
                    "{message}"
                );
            }
            Finding::Unknown => {
                tracing::info!(event = "upstream_privileges_unknown", upstream, help, "{message}");
            }
        }
    }
}

impl Finding {
    fn is_fine(&self) -> bool {
        matches!(self, Self::Known(_)) && self.runs().next().is_none()
    }

    /// All together: what one of the logins may run, Redis runs.
    fn together<'a>(findings: impl Iterator<Item = &'a Self>) -> Self {
        let mut all = BTreeMap::new();
        for finding in findings {
            let Self::Known(commands) = finding else {
                return Self::Unknown;
            };
            for (name, runs) in commands {
                *all.entry(*name).or_insert(false) |= *runs;
            }
        }
        Self::Known(all.into_iter().collect())
    }

    /// What Redis would run, the worst first.
    pub(super) fn worst_first(&self) -> Vec<&'static str> {
        let mut commands: Vec<_> = self.runs().collect();
        let rank = |name: &str| {
            WORST
                .iter()
                .position(|worst| *worst == name)
                .unwrap_or(WORST.len())
        };
        commands.sort_by_key(|name| rank(name));
        commands
    }

    fn runs(&self) -> impl Iterator<Item = &'static str> {
        let commands: &[_] = match self {
            Self::Known(commands) => commands,
            Self::Unknown => &[],
        };
        commands.iter().filter(|(_, runs)| *runs).map(|(name, _)| *name)
    }
}

impl Said {
    fn is_new(&self, upstream: &str, finding: &Finding) -> bool {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.insert(upstream.to_owned(), finding.clone()).as_ref() != Some(finding)
    }
}

/// What the health check of one upstream asks when Redis is there.
pub(super) struct Inspection {
    upstream: Arc<Upstream>,
    plan: Plan,
    required: bool,
    said: Arc<Said>,
    metrics: Arc<UpstreamMetrics>,
    /// By the numbers of the logins; `None`: to be asked.
    findings: Vec<Option<Finding>>,
}

impl Inspection {
    /// Of the upstream with this number.
    pub(super) fn new(serving: &Serving, index: usize, upstream: &Arc<Upstream>) -> Self {
        let bound = &serving.bound;
        let section = bound.config.upstreams.get(index);
        let plan = Plan::of_listeners(upstream, index, &bound.listeners);
        Self {
            upstream: Arc::clone(upstream),
            findings: vec![None; plan.asked.len()],
            plan,
            required: section.is_some_and(|section| section.require_least_privilege),
            said: Arc::clone(&bound.said),
            metrics: bound.shared.metrics.upstream(upstream.name()),
        }
    }

    /// After each check: asks when Redis is there for the first time, or again. Where the answer is demanded and not as
    /// it should be, the login gets no new connection, and it is asked about until it is.
    pub(super) async fn after_check(&mut self, up: bool) {
        if !up {
            self.findings.fill(None);
            return;
        }
        let mut news = false;
        for (number, slot) in self.findings.iter_mut().enumerate() {
            let fine = slot.as_ref().is_some_and(Finding::is_fine);
            if slot.is_some() && (fine || !self.required) {
                continue;
            }
            // A failure was logged where it happened; it is tried again at the next check.
            let Ok(finding) = self.plan.ask(&self.upstream, number).await else {
                continue;
            };
            if let (true, Some((login, _))) = (self.required, self.plan.asked.get(number)) {
                login.set_trusted(finding.is_fine());
            }
            *slot = Some(finding);
            news = true;
        }
        if news {
            let together = Finding::together(self.findings.iter().flatten());
            self.plan
                .tell(&self.upstream, &together, (&self.said, &self.metrics));
        }
    }
}

/// A request for this command that has the right length, and would do nothing of consequence if it were ever run.
fn request(command: &Command) -> Vec<&'static [u8]> {
    let mut words: Vec<&[u8]> = command.name.split('|').map(str::as_bytes).collect();
    let mut length = usize::try_from(command.arity.unsigned_abs()).unwrap_or(1);
    if matches!(command.name, "flushall" | "flushdb") {
        // They take one word more; with this one it is a syntax error.
        length = 2;
    }
    words.resize(length.max(words.len()), FILLER);
    words
}

/// Whether scripts may run it as far as Redis's own rules go (no `noscript` flag), and its refusal is worth something.
fn is_for_scripts(command: &Command) -> bool {
    let top = command.name.split('|').next().unwrap_or_default();
    matches!(command.role, Role::Plain | Role::Select | Role::Blocking)
        && (!command.container || command.accepts(1))
        && !command.name.ends_with("|help")
        && !NOT_IN_SCRIPTS.contains(&top)
        && !NOT_IN_SCRIPTS.contains(&command.name)
}

fn starts_scripts(command: &Command) -> bool {
    matches!(
        command.name,
        "eval" | "eval_ro" | "evalsha" | "evalsha_ro" | "fcall" | "fcall_ro"
    )
}

/// Commands, and containers whole, that Redis 7.0 refuses to scripts (`noscript`), of those whose role lets them in here.
const NOT_IN_SCRIPTS: &[&str] = &[
    "acl",
    "bgrewriteaof",
    "bgsave",
    "blmove",
    "blpop",
    "brpop",
    "brpoplpush",
    "bzpopmax",
    "bzpopmin",
    "client",
    "cluster|reset",
    "config",
    "debug",
    "failover",
    "function",
    "latency",
    "module",
    "replicaof",
    "role",
    "save",
    "script",
    "shutdown",
    "slaveof",
    "wait",
    "waitaof",
];

/// Neither a number nor an option of anything, and no key that anybody uses.
const FILLER: &[u8] = b"keyward-probe";

/// Named first: what empties, exchanges or sends away the data.
const WORST: &[&str] = &["flushall", "flushdb", "swapdb", "migrate", "restore", "keys"];

/// Commands named in one line.
const MOST_SHOWN: usize = 12;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_about_has_a_length_that_redis_takes() {
        let mut count = 0;
        for command in acl::commands().iter().filter(|command| is_for_scripts(command)) {
            let words = request(command);
            assert!(
                command.accepts(u32::try_from(words.len()).unwrap()),
                "{}",
                command.name
            );
            count += 1;
        }
        assert!(count > 150, "{count}");
    }

    #[test]
    fn what_takes_effect_inside_multi_is_never_asked_about() {
        for name in [
            "quit",
            "reset",
            "exec",
            "discard",
            "multi",
            "watch",
            "post",
            "host:",
            "auth",
            "hello",
            "shutdown",
            "sync",
            "psync",
            "monitor",
            "subscribe",
            "debug",
            "save",
            "failover",
            "client|reply",
        ] {
            let command = acl::commands()
                .iter()
                .find(|command| command.name == name)
                .unwrap();
            assert!(!is_for_scripts(command), "{name}");
        }
        let asked = |name: &str| {
            acl::commands()
                .iter()
                .any(|c| c.name == name && is_for_scripts(c))
        };
        for name in [
            "flushall", "flushdb", "keys", "swapdb", "migrate", "restore", "sort", "set",
        ] {
            assert!(asked(name), "{name}");
        }
    }
}
