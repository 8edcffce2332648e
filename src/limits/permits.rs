//! Connection permits: global, per listener, per source and per user, and the budget of those not logged in.
//!
//! ```text
//!            admit                       authenticated(user)
//!  accepted ───────▶ unauthenticated ───────────────────────▶ authenticated
//!                        │  oldest, when a newcomer needs the slot       │
//!                        ▼                                               │
//!                     evicted ──────── Drop ◀────────────────────────────┘
//! ```
//!
//! An evicted connection's slot passes to the newcomer at once, while the evicted one is still closing; as many may
//! be closing as may be unauthenticated, and past that newcomers are refused. So a flood of silent connections can
//! neither keep out clients that answer quickly (rule L-23) nor make the number of open sockets grow without bound.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::{Reject, Source};
use crate::config::Config;

/// The limits of one process and what is taken of them. Shared by `Arc`.
#[derive(Debug)]
pub struct Limits {
    settings: ArcSwap<Settings>,
    /// Connections per source, in shards so that closing connections do not queue behind one lock.
    sources: [Mutex<HashMap<SourceKey, usize>>; SHARDS],
    state: Mutex<State>,
}

/// One connection's share of every limit; gives it back on drop.
#[derive(Debug)]
pub struct ConnectionPermit {
    limits: Arc<Limits>,
    listener: usize,
    source: Source,
    phase: Phase,
}

/// Tells a connection that has not logged in to close because its slot was given to a newer one.
#[derive(Debug, Clone, Default)]
pub struct Eviction(Option<Arc<Signal>>);

#[derive(Debug)]
enum Phase {
    Unauthenticated { sequence: u64, signal: Arc<Signal> },
    Authenticated { user: Arc<str> },
}

#[derive(Debug, Default)]
struct Signal {
    evicted: AtomicBool,
    notify: Notify,
}

/// `None`: over all listeners.
type SourceKey = (Option<usize>, Source);

#[derive(Debug, Default)]
struct Settings {
    max_connections: usize,
    max_unauthenticated: usize,
    max_per_ip: Option<usize>,
    /// By listener number, see [`State::listeners`].
    listeners: Vec<ListenerSettings>,
    users: HashMap<String, usize>,
}

#[derive(Debug, Default, Clone)]
struct ListenerSettings {
    max_connections: usize,
    max_per_ip: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    /// Connections that hold a slot: all but the evicted ones.
    total: usize,
    /// Of these, those that have not logged in; the sum of all `waiting`.
    unauthenticated: usize,
    /// Evicted and not yet dropped.
    closing: usize,
    next_sequence: u64,
    /// A listener keeps its number for the life of the process; a removed one keeps its slot with a limit of zero.
    listeners: Vec<ListenerState>,
    users: HashMap<Arc<str>, usize>,
}

#[derive(Debug, Default)]
struct ListenerState {
    name: String,
    open: usize,
    /// Connections that have not logged in, oldest first.
    waiting: BTreeMap<u64, Arc<Signal>>,
}

impl Limits {
    /// The limits of this configuration, nothing taken.
    pub fn new(config: &Config) -> Arc<Self> {
        let limits = Self {
            settings: ArcSwap::default(),
            sources: std::array::from_fn(|_| Mutex::default()),
            state: Mutex::default(),
        };
        limits.reconfigure(config);
        Arc::new(limits)
    }

    /// Takes new limits over. Everything already taken stays counted; nobody is closed because a limit shrank.
    /// Listeners are recognised by name; ask [`Limits::listener`] for their numbers.
    pub fn reconfigure(&self, config: &Config) {
        let mut state = self.state();
        for listener in &config.listeners {
            if !state.listeners.iter().any(|known| known.name == listener.name) {
                state.listeners.push(ListenerState {
                    name: listener.name.clone(),
                    ..ListenerState::default()
                });
            }
        }
        let listeners = state
            .listeners
            .iter()
            .map(|known| {
                config
                    .listeners
                    .iter()
                    .find(|listener| listener.name == known.name)
                    .map_or_else(ListenerSettings::default, |listener| ListenerSettings {
                        max_connections: listener.max_connections,
                        max_per_ip: listener.max_connections_per_ip,
                    })
            })
            .collect();
        self.settings.store(Arc::new(Settings {
            max_connections: config.server.max_connections,
            max_unauthenticated: config.server.max_unauthenticated,
            max_per_ip: config.server.max_connections_per_ip,
            listeners,
            users: config
                .users
                .iter()
                .filter_map(|user| Some((user.name.clone(), user.max_connections?)))
                .collect(),
        }));
    }

    /// The number of a configured listener: its place in the first configuration, and the same ever after.
    pub fn listener(&self, name: &str) -> Option<usize> {
        self.state()
            .listeners
            .iter()
            .position(|listener| listener.name == name)
    }

    /// Takes a slot for a connection just accepted, evicting the oldest that has not logged in if that makes room.
    ///
    /// # Errors
    /// The limit that refuses it: [`Reject::Source`], [`Reject::Listener`], [`Reject::Global`] or
    /// [`Reject::Unauthenticated`]. An unknown listener number is refused as [`Reject::Listener`].
    pub fn admit(self: &Arc<Self>, listener: usize, source: Source) -> Result<ConnectionPermit, Reject> {
        let settings = self.settings.load();
        self.take_source(&settings, listener, source)?;
        match self.state().admit(&settings, listener) {
            Ok((sequence, signal)) => Ok(ConnectionPermit {
                limits: Arc::clone(self),
                listener,
                source,
                phase: Phase::Unauthenticated { sequence, signal },
            }),
            Err(reject) => {
                self.release_source(listener, source);
                Err(reject)
            }
        }
    }

    /// Connections that hold a slot.
    pub fn open(&self) -> usize {
        self.state().total
    }

    /// Connections that hold a slot and have not logged in.
    pub fn unauthenticated(&self) -> usize {
        self.state().unauthenticated
    }

    /// Connections of this source over all listeners.
    pub fn open_from(&self, source: Source) -> usize {
        lock(self.shard(source))
            .get(&(None, source))
            .copied()
            .unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Both entries of a source live in one shard, so both limits are judged under one lock.
    fn shard(&self, source: Source) -> &Mutex<HashMap<SourceKey, usize>> {
        let mixed = match source {
            Source::V4(address) => u64::from(address.to_bits()),
            Source::V6(prefix) => prefix,
            Source::Unix(uid) => u64::from(uid.unwrap_or(0)),
            Source::Pending => 0,
        };
        // Fibonacci hashing: the top four bits of the product spread neighbouring addresses over the shards.
        let index = usize::try_from(mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60).unwrap_or(0);
        let [first, ..] = &self.sources;
        self.sources.get(index).unwrap_or(first)
    }

    fn take_source(&self, settings: &Settings, listener: usize, source: Source) -> Result<(), Reject> {
        let mut shard = lock(self.shard(source));
        let overall = (None, source);
        let here = (Some(listener), source);
        if source.is_address() {
            let full =
                |key, max: Option<usize>| max.is_some_and(|max| shard.get(&key).copied().unwrap_or(0) >= max);
            let listener_max = settings
                .listeners
                .get(listener)
                .and_then(|listener| listener.max_per_ip);
            if full(overall, settings.max_per_ip) || full(here, listener_max) {
                return Err(Reject::Source);
            }
        }
        for key in [overall, here] {
            let count = shard.entry(key).or_insert(0);
            *count = count.saturating_add(1);
        }
        Ok(())
    }

    fn release_source(&self, listener: usize, source: Source) {
        let mut shard = lock(self.shard(source));
        for key in [(None, source), (Some(listener), source)] {
            decrement(&mut shard, &key);
        }
    }
}

impl State {
    fn admit(&mut self, settings: &Settings, listener: usize) -> Result<(u64, Arc<Signal>), Reject> {
        let max_here = settings
            .listeners
            .get(listener)
            .map_or(0, |listener| listener.max_connections);
        let open_here = self.listeners.get(listener).map_or(0, |listener| listener.open);
        let victim = if open_here >= max_here {
            // Only a connection of this listener makes room here. One at most: a limit that shrank at a reload is
            // not enforced by evicting many at once.
            let oldest = self.oldest_of(listener).filter(|_| open_here == max_here);
            Some((listener, oldest.ok_or(Reject::Listener)?))
        } else if self.total >= settings.max_connections {
            let oldest = self.oldest().filter(|_| self.total == settings.max_connections);
            Some(oldest.ok_or(Reject::Global)?)
        } else if self.unauthenticated >= settings.max_unauthenticated {
            Some(self.oldest().ok_or(Reject::Unauthenticated)?)
        } else {
            None
        };
        if let Some((from, sequence)) = victim {
            if self.total > settings.max_connections {
                return Err(Reject::Global);
            }
            if self.closing >= settings.max_unauthenticated {
                return Err(Reject::Unauthenticated);
            }
            self.evict(from, sequence);
        }
        let sequence = self.next_sequence;
        self.next_sequence = self.next_sequence.wrapping_add(1);
        let signal = Arc::<Signal>::default();
        let slot = self.listeners.get_mut(listener).ok_or(Reject::Listener)?;
        slot.open = slot.open.saturating_add(1);
        slot.waiting.insert(sequence, Arc::clone(&signal));
        self.total = self.total.saturating_add(1);
        self.unauthenticated = self.unauthenticated.saturating_add(1);
        Ok((sequence, signal))
    }

    fn oldest_of(&self, listener: usize) -> Option<u64> {
        self.listeners.get(listener)?.waiting.keys().next().copied()
    }

    fn oldest(&self) -> Option<(usize, u64)> {
        let firsts = (0..self.listeners.len()).filter_map(|index| Some((index, self.oldest_of(index)?)));
        firsts.min_by_key(|&(_, sequence)| sequence)
    }

    fn evict(&mut self, listener: usize, sequence: u64) {
        let Some(slot) = self.listeners.get_mut(listener) else {
            return;
        };
        let Some(signal) = slot.waiting.remove(&sequence) else {
            return;
        };
        slot.open = slot.open.saturating_sub(1);
        self.total = self.total.saturating_sub(1);
        self.unauthenticated = self.unauthenticated.saturating_sub(1);
        self.closing = self.closing.saturating_add(1);
        signal.evicted.store(true, Ordering::Release);
        signal.notify.notify_waiters();
    }

    /// Takes the connection out of the unauthenticated budget; false when it was evicted before.
    fn leave_waiting(&mut self, listener: usize, sequence: u64) -> bool {
        let known = self
            .listeners
            .get_mut(listener)
            .is_some_and(|listener| listener.waiting.remove(&sequence).is_some());
        if known {
            self.unauthenticated = self.unauthenticated.saturating_sub(1);
        }
        known
    }

    fn release_slot(&mut self, listener: usize) {
        self.total = self.total.saturating_sub(1);
        if let Some(listener) = self.listeners.get_mut(listener) {
            listener.open = listener.open.saturating_sub(1);
        }
    }

    fn take_user(&mut self, settings: &Settings, user: &str) -> Result<Arc<str>, Reject> {
        let taken = self.users.get(user).copied().unwrap_or(0);
        if settings.users.get(user).is_some_and(|&max| taken >= max) {
            return Err(Reject::User);
        }
        let name = self
            .users
            .get_key_value(user)
            .map_or_else(|| Arc::from(user), |(name, _)| Arc::clone(name));
        self.users.insert(Arc::clone(&name), taken.saturating_add(1));
        Ok(name)
    }
}

impl ConnectionPermit {
    /// Moves the connection from the unauthenticated budget to the user's count. Logging in again moves it from
    /// one user's count to the other's; logging in again as the same user always succeeds.
    ///
    /// # Errors
    /// [`Reject::User`] when the user's `max_connections` is reached (the permit stays as it was), and
    /// [`Reject::Evicted`] when the slot is already gone: then the connection must close.
    pub fn authenticated(&mut self, user: &str) -> Result<(), Reject> {
        let settings = self.limits.settings.load();
        let mut state = self.limits.state();
        match &self.phase {
            Phase::Authenticated { user: current } => {
                if **current == *user {
                    return Ok(());
                }
                let name = state.take_user(&settings, user)?;
                decrement(&mut state.users, current);
                self.phase = Phase::Authenticated { user: name };
            }
            Phase::Unauthenticated { sequence, signal } => {
                if signal.evicted.load(Ordering::Acquire) {
                    return Err(Reject::Evicted);
                }
                let name = state.take_user(&settings, user)?;
                state.leave_waiting(self.listener, *sequence);
                self.phase = Phase::Authenticated { user: name };
            }
        }
        Ok(())
    }

    /// Counts the connection for its true source, once the PROXY header has said it. The sum never exceeds a limit.
    ///
    /// # Errors
    /// [`Reject::Source`]: the true source has reached its limit; the permit stays as it was.
    pub fn set_source(&mut self, source: Source) -> Result<(), Reject> {
        if source == self.source {
            return Ok(());
        }
        let settings = self.limits.settings.load();
        self.limits.take_source(&settings, self.listener, source)?;
        self.limits.release_source(self.listener, self.source);
        self.source = source;
        Ok(())
    }

    /// Who the connection is counted for.
    pub fn source(&self) -> Source {
        self.source
    }

    /// A handle that tells when this connection must give way; it never does once logged in.
    pub fn eviction(&self) -> Eviction {
        match &self.phase {
            Phase::Unauthenticated { signal, .. } => Eviction(Some(Arc::clone(signal))),
            Phase::Authenticated { .. } => Eviction(None),
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.limits.release_source(self.listener, self.source);
        let mut state = self.limits.state();
        match &self.phase {
            Phase::Unauthenticated { sequence, .. } => {
                if state.leave_waiting(self.listener, *sequence) {
                    state.release_slot(self.listener);
                } else {
                    state.closing = state.closing.saturating_sub(1);
                }
            }
            Phase::Authenticated { user } => {
                decrement(&mut state.users, user);
                state.release_slot(self.listener);
            }
        }
    }
}

impl Eviction {
    /// Ready when the connection has been evicted. Cancel-safe.
    pub async fn evicted(&self) {
        let Some(signal) = &self.0 else {
            return std::future::pending().await;
        };
        // Created before the flag is read: `notify_waiters` reaches every future that exists by then.
        let notified = signal.notify.notified();
        if !signal.evicted.load(Ordering::Acquire) {
            notified.await;
        }
    }

    /// Whether the connection has been evicted.
    pub fn is_evicted(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|signal| signal.evicted.load(Ordering::Acquire))
    }
}

/// Counts one down; an entry at zero disappears, so a map never holds more entries than there are connections.
fn decrement<K, Q>(counts: &mut HashMap<K, usize>, key: &Q)
where
    K: std::borrow::Borrow<Q> + Eq + std::hash::Hash,
    Q: Eq + std::hash::Hash + ?Sized,
{
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// The counts are consistent after every statement that can panic, so a poisoned lock is as good as any other.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Enough that 64 cores rarely meet; a power of two for the hash.
const SHARDS: usize = 16;

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{
        AclText, Admin, Connections, ListenAddress, Listener, Log, LogFormat, Login, LoginMode, Server,
        UserEntry,
    };

    fn listener(name: &str, max_connections: usize, max_connections_per_ip: Option<usize>) -> Listener {
        Listener {
            name: name.into(),
            address: ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
            upstream: 0,
            tls: None,
            login: LoginMode::Password,
            users_file: None,
            users: Vec::new(),
            acl: AclText {
                text: "safe".into(),
                location: None,
            },
            max_connections,
            max_connections_per_ip,
            idle_timeout: None,
            write_stall_timeout: Duration::from_secs(60),
            inline: true,
            proxy_protocol_from: Vec::new(),
        }
    }

    fn user(name: &str, max_connections: usize) -> UserEntry {
        UserEntry {
            name: name.into(),
            credential: None,
            password_hashes: Vec::new(),
            acl: AclText {
                text: "safe".into(),
                location: None,
            },
            max_connections: Some(max_connections),
        }
    }

    fn config(max_connections: usize, max_unauthenticated: usize, listeners: Vec<Listener>) -> Config {
        Config {
            server: Server {
                workers: 1,
                max_connections,
                max_unauthenticated,
                max_connections_per_ip: None,
                drain_timeout: Duration::from_secs(10),
                watch_interval: Duration::from_secs(2),
                connections: Connections::Dedicated,
            },
            admin: Admin { address: None },
            log: Log {
                format: LogFormat::Auto,
                filter: "info".into(),
            },
            login: Login {
                timeout: Duration::from_secs(10),
                max_failures: 5,
                max_commands: 16,
                lockout: true,
                lockout_after: 10,
                lockout_window: Duration::from_secs(60),
                lockout_first: Duration::from_secs(10),
                lockout_max: Duration::from_secs(900),
                max_sources: 65_536,
            },
            upstreams: Vec::new(),
            listeners,
            users: Vec::new(),
        }
    }

    fn source(last: u8) -> Source {
        Source::from(IpAddr::from([10, 0, 0, last]))
    }

    fn everything_is_released(limits: &Limits) {
        assert_eq!((limits.open(), limits.unauthenticated()), (0, 0));
        let state = limits.state();
        assert_eq!(state.closing, 0);
        assert!(state.users.is_empty());
        assert!(
            state
                .listeners
                .iter()
                .all(|listener| listener.open == 0 && listener.waiting.is_empty())
        );
        drop(state);
        assert!(limits.sources.iter().all(|shard| lock(shard).is_empty()));
    }

    #[test]
    fn a_listener_is_full_at_its_limit_and_not_before() {
        let limits = Limits::new(&config(
            100,
            100,
            vec![listener("a", 2, None), listener("b", 2, None)],
        ));
        let mut permits: Vec<_> = (0..2).map(|_| limits.admit(0, source(1)).unwrap()).collect();
        for permit in &mut permits {
            permit.authenticated("app").unwrap();
        }
        assert_eq!(limits.admit(0, source(1)).unwrap_err(), Reject::Listener);
        assert!(limits.admit(1, source(1)).is_ok());
        permits.pop();
        assert!(limits.admit(0, source(1)).is_ok());
        drop(permits);
        everything_is_released(&limits);
    }

    #[test]
    fn the_process_is_full_at_its_limit_over_all_listeners() {
        let limits = Limits::new(&config(
            2,
            2,
            vec![listener("a", 9, None), listener("b", 9, None)],
        ));
        let mut first = limits.admit(0, source(1)).unwrap();
        let mut second = limits.admit(1, source(2)).unwrap();
        first.authenticated("app").unwrap();
        second.authenticated("app").unwrap();
        assert_eq!(limits.admit(0, source(3)).unwrap_err(), Reject::Global);
        assert_eq!(limits.open_from(source(3)), 0);
        drop((first, second));
        everything_is_released(&limits);
    }

    #[test]
    fn a_source_is_limited_per_listener_and_overall() {
        let mut config = config(100, 100, vec![listener("a", 9, Some(1)), listener("b", 9, None)]);
        config.server.max_connections_per_ip = Some(2);
        let limits = Limits::new(&config);
        let here = limits.admit(0, source(1)).unwrap();
        assert_eq!(limits.admit(0, source(1)).unwrap_err(), Reject::Source);
        let there = limits.admit(1, source(1)).unwrap();
        assert_eq!(limits.admit(1, source(1)).unwrap_err(), Reject::Source);
        let other = limits.admit(0, source(2)).unwrap();
        let unix: Vec<_> = (0..5)
            .map(|_| limits.admit(0, Source::Unix(None)).unwrap())
            .collect();
        drop((here, there, other, unix));
        everything_is_released(&limits);
    }

    #[test]
    fn a_proxied_connection_is_counted_for_its_true_source() {
        let limits = Limits::new(&config(100, 100, vec![listener("a", 9, Some(1))]));
        let mut first = limits.admit(0, Source::Pending).unwrap();
        let mut second = limits.admit(0, Source::Pending).unwrap();
        first.set_source(source(1)).unwrap();
        assert_eq!(second.set_source(source(1)), Err(Reject::Source));
        assert_eq!(second.source(), Source::Pending);
        second.set_source(source(2)).unwrap();
        assert_eq!(limits.open_from(source(1)), 1);
        drop((first, second));
        everything_is_released(&limits);
    }

    #[test]
    fn a_user_is_limited_and_may_log_in_again() {
        let mut config = config(100, 100, vec![listener("a", 9, None)]);
        config.users = vec![user("app", 1)];
        let limits = Limits::new(&config);
        let mut first = limits.admit(0, source(1)).unwrap();
        let mut second = limits.admit(0, source(1)).unwrap();
        first.authenticated("app").unwrap();
        first.authenticated("app").unwrap();
        assert_eq!(second.authenticated("app"), Err(Reject::User));
        assert_eq!(limits.unauthenticated(), 1);
        second.authenticated("other").unwrap();
        assert_eq!(second.authenticated("app"), Err(Reject::User));
        first.authenticated("other").unwrap();
        second.authenticated("app").unwrap();
        drop((first, second));
        everything_is_released(&limits);
    }

    #[test]
    fn the_oldest_that_has_not_logged_in_gives_way() {
        let limits = Limits::new(&config(
            100,
            2,
            vec![listener("a", 100, None), listener("b", 100, None)],
        ));
        let mut quick = limits.admit(0, source(1)).unwrap();
        quick.authenticated("app").unwrap();
        let oldest = limits.admit(1, source(2)).unwrap();
        let mut younger = limits.admit(0, source(3)).unwrap();
        let newest = limits.admit(0, source(4)).unwrap();
        assert!(oldest.eviction().is_evicted());
        assert!(!younger.eviction().is_evicted() && !newest.eviction().is_evicted());
        younger.authenticated("app").unwrap();
        assert!(!quick.eviction().is_evicted());
        assert_eq!((limits.open(), limits.unauthenticated()), (3, 1));
        drop((quick, oldest, younger, newest));
        everything_is_released(&limits);
    }

    #[test]
    fn an_evicted_connection_cannot_log_in_any_more() {
        let limits = Limits::new(&config(100, 1, vec![listener("a", 100, None)]));
        let mut slow = limits.admit(0, source(1)).unwrap();
        let eviction = slow.eviction();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let newer = runtime.block_on(async {
            let admit = async { limits.admit(0, source(2)).unwrap() };
            let ((), newer) = tokio::join!(eviction.evicted(), admit);
            eviction.evicted().await;
            newer
        });
        assert_eq!(slow.authenticated("app"), Err(Reject::Evicted));
        drop((slow, newer));
        everything_is_released(&limits);
    }

    #[test]
    fn a_silent_flood_on_a_full_process_cannot_keep_a_client_out() {
        let limits = Limits::new(&config(4, 2, vec![listener("a", 4, None)]));
        let mut served = Vec::new();
        for _ in 0..3 {
            let mut permit = limits.admit(0, source(1)).unwrap();
            permit.authenticated("app").unwrap();
            served.push(permit);
        }
        let silent = limits.admit(0, source(66)).unwrap();
        let mut client = limits.admit(0, source(1)).unwrap();
        assert!(silent.eviction().is_evicted());
        client.authenticated("app").unwrap();
        assert_eq!(limits.admit(0, source(66)).unwrap_err(), Reject::Listener);
        drop((served, silent, client));
        everything_is_released(&limits);
    }

    #[test]
    fn connections_that_are_slow_to_close_are_bounded() {
        let limits = Limits::new(&config(100, 2, vec![listener("a", 100, None)]));
        let held: Vec<_> = (0..4).map(|_| limits.admit(0, source(1)).unwrap()).collect();
        assert_eq!(limits.admit(0, source(1)).unwrap_err(), Reject::Unauthenticated);
        assert_eq!(limits.open(), 2);
        drop(held);
        everything_is_released(&limits);
    }

    #[test]
    fn a_reload_changes_limits_and_keeps_counts_and_numbers() {
        let limits = Limits::new(&config(
            100,
            100,
            vec![listener("a", 9, None), listener("b", 9, None)],
        ));
        let mut permits: Vec<_> = (0..3).map(|_| limits.admit(1, source(1)).unwrap()).collect();
        for permit in &mut permits {
            permit.authenticated("app").unwrap();
        }
        limits.reconfigure(&config(
            100,
            100,
            vec![listener("c", 9, None), listener("b", 3, None)],
        ));
        assert_eq!(limits.listener("b"), Some(1));
        assert_eq!(limits.listener("c"), Some(2));
        assert_eq!(limits.admit(1, source(1)).unwrap_err(), Reject::Listener);
        assert_eq!(limits.admit(0, source(1)).unwrap_err(), Reject::Listener);
        assert_eq!(limits.admit(7, source(1)).unwrap_err(), Reject::Listener);
        let other = limits.admit(2, source(1)).unwrap();
        drop((permits, other));
        everything_is_released(&limits);
    }

    proptest! {
        /// Whatever happens in whatever order: no limit is exceeded, and in the end everything is given back.
        #[test]
        fn counts_hold_for_any_sequence(steps in prop::collection::vec((0_u8..6, 0_u8..4, 0_usize..8), 1..300)) {
            let mut config = config(6, 3, vec![listener("a", 5, Some(3)), listener("b", 4, None)]);
            config.users = vec![user("app", 2)];
            let limits = Limits::new(&config);
            let mut permits = Vec::new();
            for (step, who, which) in steps {
                let any = if permits.is_empty() { 0 } else { which % permits.len() };
                match step {
                    0..=2 => permits.extend(limits.admit(usize::from(who % 2), source(who)).ok()),
                    3 if !permits.is_empty() => drop(permits.swap_remove(any)),
                    4 if !permits.is_empty() => {
                        let name = if who % 2 == 0 { "app" } else { "other" };
                        let permit: &mut ConnectionPermit = &mut permits[any];
                        let evicted = permit.eviction().is_evicted();
                        prop_assert_eq!(evicted, permit.authenticated(name) == Err(Reject::Evicted));
                    }
                    5 if !permits.is_empty() => drop(permits[any].set_source(source(who))),
                    _ => {}
                }
                let state = limits.state();
                prop_assert!(state.total <= 6 && state.unauthenticated <= 3 && state.closing <= 3);
                prop_assert_eq!(state.total + state.closing, permits.len());
                prop_assert!(state.users.get("app").copied().unwrap_or(0) <= 2);
                prop_assert!(state.listeners[0].open <= 5 && state.listeners[1].open <= 4);
            }
            drop(permits);
            everything_is_released(&limits);
        }
    }
}
