//! Security events: who was refused what, on the log target `keyward::audit`.
//!
//! Each event is one line with a stable `event` name and flat fields. Fields hold configured names, words of closed
//! sets and addresses; never a key, a value, an argument or a password. A user name that is not configured is
//! written as a hash with a salt of this process, since people type passwords where the name belongs: equal names
//! are recognisable within one run, and nothing can be looked up. Floods are folded with exact counts (see
//! `limiter`); metrics count every event in any case, that is the caller's part.

mod limiter;

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use prometheus::IntCounter;

use crate::limits::Source;
use limiter::{Key, Limiter, Summary, WINDOW};

/// Writes security events. Shared by `Arc`.
pub struct Audit {
    salt: [u8; 16],
    /// Counts each event that is folded instead of written.
    dropped: IntCounter,
    state: Mutex<State>,
}

/// Who is at the other end, as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// Address and port; behind a trusted proxy the ones of its PROXY header.
    Tcp(SocketAddr),
    /// Unix socket, with the user id if the system says it.
    Unix(Option<u32>),
}

/// The user name of an event.
#[derive(Debug, Clone, Copy)]
pub enum User<'a> {
    /// None was given.
    None,
    /// A configured name: written as it is.
    Configured(&'a str),
    /// What the client sent: only its hash is written.
    Unknown(&'a [u8]),
}

/// Where a session event happened.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    /// The listener's configured name.
    pub listener: &'a Arc<str>,
    /// The client.
    pub peer: Peer,
}

/// The kinds of events that clients cause, and that are therefore folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    AuthFailed,
    CommandDenied,
    CommandObserved,
    ConnectionRefused,
    PlaintextRefused,
    SourceLockedOut,
    LockoutEnded,
}

#[derive(Debug, Default)]
struct State {
    limiter: Limiter,
    failures: Failures,
}

/// Failed logins of the present minute, for the one line that says what a flood amounts to (rule F-45).
#[derive(Debug, Default)]
struct Failures {
    since: Option<Instant>,
    count: u64,
    sources: HashSet<Source>,
    /// Some of them were not written one by one.
    folded: bool,
}

impl Audit {
    /// `dropped` counts the events that are not written one by one (`keyward_audit_events_dropped_total`).
    ///
    /// # Errors
    /// The system has no random bytes for the salt.
    pub fn new(dropped: IntCounter) -> Result<Arc<Self>, getrandom::Error> {
        let mut salt = [0; 16];
        getrandom::fill(&mut salt)?;
        Ok(Arc::new(Self {
            salt,
            dropped,
            state: Mutex::default(),
        }))
    }

    /// A login was refused. `reason` is the label of the authentication failure.
    pub fn auth_failed(&self, at: At<'_>, user: User<'_>, reason: &'static str, now: Instant) {
        if !self.offer(Kind::AuthFailed, at.listener, at.peer.source(), reason, now) {
            return;
        }
        let user = self.name(user);
        let user = user.as_deref();
        tracing::warn!(
            target: TARGET, event = Kind::AuthFailed.name(), listener = %at.listener, peer = %at.peer, user, reason,
        );
    }

    /// A command was refused by the user's rules. `cmd` is a name of the command table, `None` for one that is not
    /// in it; `reason` is the label of the denial.
    pub fn command_denied(
        &self,
        at: At<'_>,
        user: &str,
        cmd: Option<&'static str>,
        reason: &'static str,
        now: Instant,
    ) {
        if self.offer(Kind::CommandDenied, at.listener, at.peer.source(), reason, now) {
            let cmd = cmd.unwrap_or("_other");
            tracing::warn!(
                target: TARGET, event = Kind::CommandDenied.name(), listener = %at.listener, peer = %at.peer, user,
                cmd, reason,
            );
        }
    }

    /// A command was forwarded though the user's rules refuse it (`mode = "observe"`).
    pub fn command_observed(
        &self,
        at: At<'_>,
        user: &str,
        cmd: &'static str,
        reason: &'static str,
        now: Instant,
    ) {
        if self.offer(Kind::CommandObserved, at.listener, at.peer.source(), reason, now) {
            tracing::warn!(
                target: TARGET, event = Kind::CommandObserved.name(), listener = %at.listener, peer = %at.peer, user,
                cmd, reason,
            );
        }
    }

    /// A connection was refused by a limit or because of its PROXY header, or evicted before it had logged in.
    pub fn connection_refused(&self, at: At<'_>, reason: &'static str, now: Instant) {
        if self.offer(
            Kind::ConnectionRefused,
            at.listener,
            at.peer.source(),
            reason,
            now,
        ) {
            tracing::warn!(
                target: TARGET, event = Kind::ConnectionRefused.name(), listener = %at.listener, peer = %at.peer,
                reason,
            );
        }
    }

    /// A client spoke plain RESP to a TLS port.
    pub fn plaintext_refused(&self, at: At<'_>, now: Instant) {
        if self.offer(
            Kind::PlaintextRefused,
            at.listener,
            at.peer.source(),
            "plaintext",
            now,
        ) {
            tracing::warn!(
                target: TARGET, event = Kind::PlaintextRefused.name(), listener = %at.listener, peer = %at.peer,
            );
        }
    }

    /// A source was locked out, for so long, after too many failed logins.
    pub fn source_locked_out(&self, at: At<'_>, lockout: Duration, now: Instant) {
        let source = at.peer.source();
        if self.offer(Kind::SourceLockedOut, at.listener, source, "locked_out", now) {
            tracing::warn!(
                target: TARGET, event = Kind::SourceLockedOut.name(), listener = %at.listener, peer = %at.peer,
                %source, seconds = lockout.as_secs(),
            );
        }
    }

    /// A lockout is over.
    pub fn lockout_ended(&self, listener: &Arc<str>, source: Source, now: Instant) {
        if self.offer(Kind::LockoutEnded, listener, source, "lockout_ended", now) {
            tracing::info!(target: TARGET, event = Kind::LockoutEnded.name(), %listener, %source);
        }
    }

    /// A user's credential was changed by a reload.
    pub fn user_credential_changed(&self, user: &str) {
        tracing::info!(target: TARGET, event = "credential_changed", user);
    }

    /// The credential for an upstream was changed.
    pub fn upstream_credential_changed(&self, upstream: &str) {
        tracing::info!(target: TARGET, event = "credential_changed", upstream);
    }

    /// Sessions of a user were closed because the credential they had logged in with is gone.
    pub fn sessions_closed(&self, user: &str, count: usize) {
        tracing::warn!(target: TARGET, event = "sessions_closed", user, reason = "credential_removed", count);
    }

    /// Configuration, users, certificates and secrets were loaded again and are in force.
    pub fn reload(&self) {
        tracing::info!(target: TARGET, event = "config_changed");
    }

    /// A reload was refused and the former state stays in force. `error` is our own diagnostic.
    pub fn reload_refused(&self, error: &str) {
        tracing::warn!(target: TARGET, event = "config_refused", error);
    }

    /// Writes the summaries that are due. To be called about once a second.
    pub fn tick(&self, now: Instant) {
        let (summaries, minute) = {
            let mut state = self.state();
            (state.limiter.tick(now), state.failures.tick(now))
        };
        write(summaries, minute);
    }

    /// Writes all summaries, due or not: the last thing before the process ends.
    pub fn flush(&self) {
        let (summaries, minute) = {
            let mut state = self.state();
            (state.limiter.flush(), state.failures.take())
        };
        write(summaries, minute);
    }

    fn offer(
        &self,
        kind: Kind,
        listener: &Arc<str>,
        source: Source,
        reason: &'static str,
        now: Instant,
    ) -> bool {
        let key = Key {
            kind,
            listener: Some(Arc::clone(listener)),
            source: Some(source),
            reason,
        };
        let mut state = self.state();
        let write = state.limiter.offer(key, now);
        if kind == Kind::AuthFailed {
            state.failures.add(source, write, now);
        }
        drop(state);
        if !write {
            self.dropped.inc();
        }
        write
    }

    fn name(&self, user: User<'_>) -> Option<String> {
        match user {
            User::None => None,
            User::Configured(name) => Some(name.to_owned()),
            User::Unknown(bytes) => {
                let mut context = digest::Context::new(&digest::SHA256);
                context.update(&self.salt);
                context.update(bytes);
                let digest = context.finish();
                let mut text = "sha256:".to_owned();
                for byte in digest.as_ref().iter().take(HASH_BYTES) {
                    // Writing to a string does not fail.
                    let _ = write!(text, "{byte:02x}");
                }
                Some(text)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(summaries: Vec<Summary>, minute: Option<Failures>) {
    for Summary { key, count } in summaries {
        let listener = key.listener.as_deref();
        let source = key.source.map(|source| source.to_string());
        tracing::warn!(
            target: TARGET, event = key.kind.name(), folded = true, count, listener, source = source.as_deref(),
            reason = key.reason, window_seconds = WINDOW.as_secs(),
        );
    }
    if let Some(Failures { count, sources, .. }) = minute {
        let (seconds, sources, more) = (MINUTE.as_secs(), sources.len(), sources.len() >= MAX_SOURCES);
        tracing::warn!(
            target: TARGET, event = "auth_failures_summary", count, sources, sources_at_least = more,
            window_seconds = seconds,
            "{count} failed authentications in {seconds} s from {sources} addresses",
        );
    }
}

impl Failures {
    fn add(&mut self, source: Source, written: bool, now: Instant) {
        self.since.get_or_insert(now);
        self.count = self.count.saturating_add(1);
        self.folded |= !written;
        if self.sources.len() < MAX_SOURCES {
            self.sources.insert(source);
        }
    }

    /// What to write at the end of a minute: nothing when every failure has a line of its own.
    fn tick(&mut self, now: Instant) -> Option<Self> {
        if now.saturating_duration_since(self.since?) < MINUTE {
            return None;
        }
        self.take()
    }

    fn take(&mut self) -> Option<Self> {
        let minute = std::mem::take(self);
        minute.folded.then_some(minute)
    }
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::AuthFailed => "auth_failed",
            Self::CommandDenied => "command_denied",
            Self::CommandObserved => "command_observed",
            Self::ConnectionRefused => "connection_refused",
            Self::PlaintextRefused => "plaintext_refused",
            Self::SourceLockedOut => "source_locked_out",
            Self::LockoutEnded => "lockout_ended",
        }
    }
}

impl Peer {
    /// Whom limits and counts go by.
    pub fn source(self) -> Source {
        match self {
            Self::Tcp(address) => Source::from(address.ip()),
            Self::Unix(uid) => Source::Unix(uid),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(_) => self.source().fmt(f),
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// The `tracing` target of all security events.
pub const TARGET: &str = "keyward::audit";
/// Of the hash of an unknown name: tells names apart, and is too little to verify a guess by.
const HASH_BYTES: usize = 4;
const MINUTE: Duration = Duration::from_secs(60);
/// Sources told apart per minute; above it the line says "at least".
const MAX_SOURCES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Runs with the project's own log format and returns the lines.
    fn lines(run: impl FnOnce(&Audit, Instant)) -> Vec<serde_json::Value> {
        #[derive(Clone, Default)]
        struct Buffer(Arc<Mutex<Vec<u8>>>);
        impl io::Write for Buffer {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(move || writer.clone())
            .finish();
        let audit = Audit::new(dropped()).unwrap();
        tracing::subscriber::with_default(subscriber, || run(&audit, Instant::now()));
        let bytes = buffer.0.lock().unwrap();
        let text = std::str::from_utf8(&bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn dropped() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    fn peer() -> Peer {
        Peer::Tcp("10.2.0.17:51514".parse().unwrap())
    }

    fn listener() -> Arc<str> {
        "gateway".into()
    }

    #[test]
    fn a_failed_login_is_one_flat_line() {
        let listener = listener();
        let lines = lines(|audit, now| {
            let at = At {
                listener: &listener,
                peer: peer(),
            };
            audit.auth_failed(at, User::Configured("app"), "bad_password", now);
            audit.auth_failed(at, User::None, "no_credentials", now);
        });
        let line = &lines[0];
        assert_eq!(line["event"], "auth_failed");
        assert_eq!(line["target"], TARGET);
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["listener"], "gateway");
        assert_eq!(line["peer"], "10.2.0.17:51514");
        assert_eq!(line["user"], "app");
        assert_eq!(line["reason"], "bad_password");
        assert!(lines[1].get("user").is_none());
    }

    #[test]
    fn an_unknown_name_is_only_recognisable() {
        let listener = listener();
        let names: Vec<_> = lines(|audit, now| {
            let at = At {
                listener: &listener,
                peer: peer(),
            };
            for name in ["hunter2", "hunter2", "other\n\u{1b}[31m"] {
                audit.auth_failed(at, User::Unknown(name.as_bytes()), "unknown_user", now);
            }
        })
        .iter()
        .map(|line| line["user"].as_str().unwrap().to_owned())
        .collect();
        assert_eq!(names[0], names[1]);
        assert_ne!(names[0], names[2]);
        assert!(
            names
                .iter()
                .all(|name| name.len() == 15 && name.starts_with("sha256:")),
            "{names:?}"
        );
        let (first, second) = (Audit::new(dropped()).unwrap(), Audit::new(dropped()).unwrap());
        assert_ne!(first.name(User::Unknown(b"x")), second.name(User::Unknown(b"x")));
    }

    #[test]
    fn a_flood_ends_in_one_summary_and_one_line_for_the_minute() {
        let listener = listener();
        let lines = lines(|audit, now| {
            let at = At {
                listener: &listener,
                peer: peer(),
            };
            for _ in 0..312 {
                audit.auth_failed(at, User::None, "bad_password", now);
            }
            audit.tick(now + Duration::from_secs(9));
            audit.tick(now + Duration::from_secs(10));
            audit.tick(now + Duration::from_secs(60));
            audit.tick(now + Duration::from_secs(120));
            audit.flush();
            assert_eq!(audit.dropped.get(), 292);
        });
        assert_eq!(lines.len(), 22);
        let summary = &lines[20];
        assert_eq!(summary["event"], "auth_failed");
        assert_eq!(summary["folded"], true);
        assert_eq!(summary["count"], 292);
        assert_eq!(summary["listener"], "gateway");
        assert_eq!(summary["source"], "10.2.0.17");
        let minute = &lines[21];
        assert_eq!(minute["event"], "auth_failures_summary");
        assert_eq!(
            minute["message"],
            "312 failed authentications in 60 s from 1 addresses"
        );
    }

    #[test]
    fn a_few_failures_have_no_summary() {
        let listener = listener();
        let lines = lines(|audit, now| {
            let at = At {
                listener: &listener,
                peer: peer(),
            };
            audit.auth_failed(at, User::None, "bad_password", now);
            audit.tick(now + Duration::from_secs(60));
            audit.flush();
        });
        assert_eq!(lines.len(), 1);
    }

    #[test]
    fn every_kind_has_its_fields() {
        let listener = listener();
        let lines = lines(|audit, now| {
            let at = At {
                listener: &listener,
                peer: Peer::Unix(Some(1000)),
            };
            audit.command_denied(at, "app", Some("flushall"), "command", now);
            audit.command_denied(at, "app", None, "command", now);
            audit.command_observed(at, "app", "flushall", "command", now);
            audit.connection_refused(at, "source_limit", now);
            audit.plaintext_refused(at, now);
            audit.source_locked_out(At { peer: peer(), ..at }, Duration::from_secs(20), now);
            audit.lockout_ended(&listener, peer().source(), now);
            audit.user_credential_changed("app");
            audit.upstream_credential_changed("main");
            audit.sessions_closed("app", 3);
            audit.reload();
            audit.reload_refused("KW0203");
        });
        let events: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(
            events,
            [
                "command_denied",
                "command_denied",
                "command_observed",
                "connection_refused",
                "plaintext_refused",
                "source_locked_out",
                "lockout_ended",
                "credential_changed",
                "credential_changed",
                "sessions_closed",
                "config_changed",
                "config_refused",
            ]
        );
        assert_eq!(lines[0]["cmd"], "flushall");
        assert_eq!(lines[0]["peer"], "unix:uid=1000");
        assert_eq!(lines[1]["cmd"], "_other");
        assert_eq!(
            (&lines[2]["cmd"], &lines[2]["reason"]),
            (&"flushall".into(), &"command".into())
        );
        assert_eq!(lines[5]["source"], "10.2.0.17");
        assert_eq!(lines[5]["seconds"], 20);
        assert_eq!(lines[6]["level"], "INFO");
        assert_eq!(lines[11]["error"], "KW0203");
    }
}
