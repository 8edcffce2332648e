//! The control socket: lockouts are listed and lifted here, by `keyward lockouts` and `keyward unlock`.
//!
//! The admin listener changes nothing (rule T-11), since whoever reaches a port could then change it. This is a unix
//! socket with mode 0600 instead: Keyward's own user and root may open it, and the kernel sees to that. It is off unless
//! `admin.control_socket` names it.
//!
//! One request a connection, one line each way: `lockouts`, `unlock TARGET` or `unlock-all`; the answer is a JSON object.
//! Everything is bounded: [`MAX_CONNECTIONS`] at once, [`MAX_REQUEST`] bytes, [`PATIENCE`] for all of it, [`MAX_LISTED`]
//! lockouts named (their number is always the true one).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::audit::Released;
use crate::config::ListenAddress;
use crate::limits::{LockoutEnded, SlowedUser, Target};
use crate::metrics::AcceptErrorKind;
use crate::net::{self, BindError, Peer, Socket};

use super::listener::{Listener, Shared};

/// What the socket leads to.
#[derive(Clone)]
pub(super) struct Room {
    listeners: Arc<[Arc<Listener>]>,
    shared: Arc<Shared>,
}

/// Makes the socket; needs a runtime around it.
pub(super) fn bind(path: &Path) -> Result<net::Listener, BindError> {
    net::Listener::bind(&ListenAddress::Unix {
        path: path.to_owned(),
        mode: 0o600,
        owner: None,
    })
}

/// Answers until it is aborted.
pub(super) async fn serve(socket: net::Listener, room: Room) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Whoever may come here is trusted: waiting for a place is better than being turned away.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match socket.accept().await {
            Ok(accepted) => {
                if let Ok((socket, peer)) = accepted.register() {
                    let room = room.clone();
                    tokio::spawn(async move {
                        // One that says nothing, or does not read, is left.
                        let _ = timeout(PATIENCE, answer(socket, &peer, &room)).await;
                        drop(slot);
                    });
                }
            }
            Err(error) if AcceptErrorKind::from(&error).is_transient() => {}
            Err(_) => sleep(ACCEPT_BACK_OFF).await,
        }
    }
}

async fn answer(mut socket: Socket, peer: &Peer, room: &Room) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.contains(&b'\n') && request.len() < MAX_REQUEST {
        let mut piece = [0; MAX_REQUEST];
        let count = socket.read(&mut piece).await?;
        if count == 0 {
            break;
        }
        request.extend_from_slice(piece.get(..count).unwrap_or_default());
    }
    let line = request.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let whole = line.len() < request.len() && line.len() < MAX_REQUEST;
    let by = match peer {
        Peer::Unix { uid } => *uid,
        Peer::Tcp(_) => None,
    };
    let answer = match std::str::from_utf8(line) {
        Ok(line) if whole => room.obey(line.trim(), by, Instant::now()),
        _ => refuse("a request is one line of text"),
    };
    socket.write_all(format!("{answer}\n").as_bytes()).await?;
    socket.shutdown().await
}

impl Room {
    pub(super) fn new(listeners: &[Arc<Listener>], shared: &Arc<Shared>) -> Self {
        Self {
            listeners: listeners.into(),
            shared: Arc::clone(shared),
        }
    }

    fn obey(&self, line: &str, by: Option<u32>, now: Instant) -> Value {
        match line.split_once(' ') {
            None if line == "lockouts" => self.list(now),
            None if line == "unlock-all" => self.lift(&Target::All, by, now),
            Some(("unlock", target)) if !target.is_empty() => self.lift(&Target::from(target), by, now),
            _ => refuse("unknown request: lockouts, unlock TARGET or unlock-all"),
        }
    }

    fn list(&self, now: Instant) -> Value {
        let in_force = self.shared.throttle.in_force(MAX_LISTED, now);
        let lockouts: Vec<Value> = in_force
            .lockouts
            .iter()
            .map(|lockout| {
                json!({
                    "source": lockout.network.to_string(),
                    "listener": self.name(lockout.listener),
                    "seconds_left": lockout.left.as_secs().saturating_add(1),
                    "times": lockout.times,
                })
            })
            .collect();
        json!({
            "lockouts": lockouts,
            "total": in_force.total,
            "slowed_users": self.slowed(&in_force.slowed),
        })
    }

    fn lift(&self, target: &Target, by: Option<u32>, now: Instant) -> Value {
        let lifted = self.shared.throttle.lift(target, now);
        let mut shown = Vec::new();
        for LockoutEnded { network, listener } in &lifted.lockouts {
            if let Some(listener) = self.listener(*listener) {
                listener.metrics.lockouts_lifted.inc();
                let released = Released::Network(*network);
                self.shared
                    .audit
                    .lockout_lifted(&listener.name, released, by, now);
            }
            if shown.len() < MAX_LISTED {
                shown.push(json!({ "source": network.to_string(), "listener": self.name(*listener) }));
            }
        }
        for slowed in &lifted.slowed {
            if let Some(listener) = self.listener(slowed.listener) {
                let released = Released::User(&slowed.user);
                self.shared
                    .audit
                    .lockout_lifted(&listener.name, released, by, now);
            }
        }
        tell_metrics(&self.listeners, &self.shared, now);
        json!({
            "lifted": shown,
            "total": lifted.lockouts.len(),
            "slowed_users": self.slowed(&lifted.slowed),
        })
    }

    fn slowed(&self, users: &[SlowedUser]) -> Vec<Value> {
        users
            .iter()
            .take(MAX_LISTED)
            .map(|slowed| {
                json!({
                    "user": slowed.user,
                    "listener": self.name(slowed.listener),
                    "failures": slowed.failures,
                })
            })
            .collect()
    }

    fn listener(&self, index: usize) -> Option<&Arc<Listener>> {
        self.listeners.iter().find(|listener| listener.index == index)
    }

    fn name(&self, index: usize) -> &str {
        self.listener(index).map_or("", |listener| &listener.name)
    }
}

/// Shows what is locked out, slowed and remembered.
pub(super) fn tell_metrics(listeners: &[Arc<Listener>], shared: &Shared, now: Instant) {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    for listener in listeners {
        let locked = shared.throttle.locked_at(listener.index);
        listener.metrics.locked_sources.set(number(locked));
    }
    let counts = shared.throttle.counts(now);
    let metrics = &shared.metrics;
    metrics.auth_sources.set(number(counts.sources));
    metrics.auth_aggregated.set(number(counts.aggregated));
    metrics.auth_slowed_users.set(number(counts.slowed));
    metrics
        .auth_evicted
        .inc_by(counts.evicted.saturating_sub(metrics.auth_evicted.get()));
}

fn refuse(error: &str) -> Value {
    json!({ "error": error })
}

/// Requests served at once; a person makes one at a time.
const MAX_CONNECTIONS: usize = 4;
/// An address, a network or a user's name.
const MAX_REQUEST: usize = 1024;
/// For a whole request and its answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Lockouts named in one answer.
const MAX_LISTED: usize = 1000;
/// Out of descriptors: the sessions need them more than we do.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(250);
