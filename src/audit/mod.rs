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

use crate::limits::{Network, Source};
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

/// The kinds of events that come in numbers, and that are therefore folded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    AuthFailed,
    CommandDenied,
    CommandObserved,
    AdminCommand,
    ConnectionRefused,
    PlaintextRefused,
    SessionClosed,
    SourceLockedOut,
    LockoutEnded,
    LockoutLifted,
    OlderPasswordUsed,
}

/// What became of a user's credential in a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialChange {
    /// A user that was not there before.
    Added,
    /// Other passwords, or on instead of off.
    Changed,
    /// The user is gone or off.
    Removed,
}

/// What a lockout that was lifted held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released<'a> {
    /// A source or a network.
    Network(Network),
    /// The refusals of this user were held back.
    User(&'a str),
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
        if !self.offer(Key::at(Kind::AuthFailed, at, reason), now) {
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
        if self.offer(Key::at(Kind::CommandDenied, at, reason), now) {
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
        if self.offer(Key::at(Kind::CommandObserved, at, reason), now) {
            tracing::warn!(
                target: TARGET, event = Kind::CommandObserved.name(), listener = %at.listener, peer = %at.peer, user,
                cmd, reason,
            );
        }
    }

    /// A command that administers the server was allowed and sent on. Folded per user and command, wherever it comes from.
    pub fn admin_command(&self, at: At<'_>, user: &str, cmd: &'static str, now: Instant) {
        let key = Key {
            source: None,
            user: Some(user.into()),
            cmd: Some(cmd),
            ..Key::at(Kind::AdminCommand, at, "allowed")
        };
        if self.offer(key, now) {
            tracing::info!(
                target: TARGET, event = Kind::AdminCommand.name(), listener = %at.listener, peer = %at.peer, user, cmd,
            );
        }
    }

    /// A connection was refused by a limit or because of its PROXY header, or evicted before it had logged in.
    pub fn connection_refused(&self, at: At<'_>, reason: &'static str, now: Instant) {
        if self.offer(Key::at(Kind::ConnectionRefused, at, reason), now) {
            tracing::warn!(
                target: TARGET, event = Kind::ConnectionRefused.name(), listener = %at.listener, peer = %at.peer,
                reason,
            );
        }
    }

    /// A client spoke plain RESP to a TLS port.
    pub fn plaintext_refused(&self, at: At<'_>, now: Instant) {
        if self.offer(Key::at(Kind::PlaintextRefused, at, "plaintext"), now) {
            tracing::warn!(
                target: TARGET, event = Kind::PlaintextRefused.name(), listener = %at.listener, peer = %at.peer,
            );
        }
    }

    /// A source, or the whole network around it, was locked out, for so long, after too many failed logins.
    pub fn source_locked_out(&self, at: At<'_>, network: Network, lockout: Duration, now: Instant) {
        let key = Key {
            source: Some(network),
            ..Key::at(Kind::SourceLockedOut, at, "locked_out")
        };
        if self.offer(key, now) {
            tracing::warn!(
                target: TARGET, event = Kind::SourceLockedOut.name(), listener = %at.listener, peer = %at.peer,
                source = %network, seconds = lockout.as_secs(),
            );
        }
    }

    /// A lockout is over.
    pub fn lockout_ended(&self, listener: &Arc<str>, network: Network, now: Instant) {
        let key = Key::of(Kind::LockoutEnded, listener, Some(network), "lockout_ended");
        if self.offer(key, now) {
            tracing::info!(target: TARGET, event = Kind::LockoutEnded.name(), %listener, source = %network);
        }
    }

    /// A lockout was lifted by hand. `by`: the user id of whoever did it, if the system says it.
    pub fn lockout_lifted(&self, listener: &Arc<str>, released: Released<'_>, by: Option<u32>, now: Instant) {
        let (network, user) = match released {
            Released::Network(network) => (Some(network), None),
            Released::User(user) => (None, Some(user)),
        };
        let key = Key {
            user: user.map(Arc::from),
            ..Key::of(Kind::LockoutLifted, listener, network, "lifted")
        };
        if self.offer(key, now) {
            let source = network.map(|network| network.to_string());
            tracing::warn!(
                target: TARGET, event = Kind::LockoutLifted.name(), %listener, source = source.as_deref(), user,
                by_uid = by,
            );
        }
    }

    /// A user's credential was changed by a reload.
    pub fn user_credential_changed(&self, listener: &str, user: &str, change: CredentialChange) {
        let change = match change {
            CredentialChange::Added => "added",
            CredentialChange::Changed => "changed",
            CredentialChange::Removed => "removed",
        };
        tracing::info!(target: TARGET, event = "credential_changed", listener, user, change);
    }

    /// The credential for an upstream was changed.
    pub fn upstream_credential_changed(&self, upstream: &str) {
        tracing::info!(target: TARGET, event = "credential_changed", upstream, change = "changed");
    }

    /// A login with another password than the user's first: what a rotation waits for the end of. `credential` is its place
    /// among the user's passwords, from 1, as `KEYWARD WHOAMI` says it.
    pub fn older_password_used(&self, at: At<'_>, user: &str, credential: usize, now: Instant) {
        let key = Key {
            user: Some(user.into()),
            ..Key::at(Kind::OlderPasswordUsed, at, "older_password")
        };
        if self.offer(key, now) {
            tracing::info!(
                target: TARGET, event = Kind::OlderPasswordUsed.name(), listener = %at.listener, peer = %at.peer, user,
                credential,
            );
        }
    }

    /// A session was closed because the credential it had logged in with is gone, or a right that it was using.
    pub fn session_closed(&self, at: At<'_>, user: &str, now: Instant) {
        let key = Key {
            source: None,
            user: Some(user.into()),
            ..Key::at(Kind::SessionClosed, at, "credential_removed")
        };
        if self.offer(key, now) {
            tracing::warn!(
                target: TARGET, event = Kind::SessionClosed.name(), listener = %at.listener, peer = %at.peer, user,
                reason = "credential_removed",
            );
        }
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

    fn offer(&self, key: Key, now: Instant) -> bool {
        let failed = match key.source {
            Some(Network::Host(source)) if key.kind == Kind::AuthFailed => Some(source),
            _ => None,
        };
        let mut state = self.state();
        let write = state.limiter.offer(key, now);
        if let Some(source) = failed {
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
        let (source, user) = (source.as_deref(), key.user.as_deref());
        let (event, reason, cmd) = (key.kind.name(), key.reason, key.cmd);
        let window_seconds = WINDOW.as_secs();
        if key.kind.is_news() {
            tracing::info!(
                target: TARGET, event, folded = true, count, listener, source, user, cmd, reason, window_seconds,
            );
        } else {
            tracing::warn!(
                target: TARGET, event, folded = true, count, listener, source, user, cmd, reason, window_seconds,
            );
        }
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
            Self::AdminCommand => "admin_command",
            Self::ConnectionRefused => "connection_refused",
            Self::PlaintextRefused => "plaintext_refused",
            Self::SessionClosed => "session_closed",
            Self::SourceLockedOut => "source_locked_out",
            Self::LockoutEnded => "lockout_ended",
            Self::LockoutLifted => "lockout_lifted",
            Self::OlderPasswordUsed => "older_password_used",
        }
    }

    /// Worth knowing, and nothing is wrong.
    const fn is_news(self) -> bool {
        matches!(
            self,
            Self::AdminCommand | Self::LockoutEnded | Self::OlderPasswordUsed
        )
    }

    /// Whether it takes a credential, or the machine's own user, to cause it.
    const fn is_from_inside(self) -> bool {
        matches!(
            self,
            Self::CommandDenied
                | Self::CommandObserved
                | Self::AdminCommand
                | Self::SessionClosed
                | Self::LockoutLifted
                | Self::OlderPasswordUsed
        )
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
mod tests;
