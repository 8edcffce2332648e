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

    /// Connections logged in, by user.
    pub fn by_user(&self) -> BTreeMap<String, u64> {
        let state = self.state();
        let users = state.users.iter();
        users
            .map(|(user, open)| (user.to_string(), *open as u64))
            .collect()
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
            // Where both limits are reached the wider one is named: raising the other alone would not help.
            let reject = if self.total >= settings.max_connections {
                Reject::Global
            } else {
                Reject::Listener
            };
            Some((listener, oldest.ok_or(reject)?))
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
        let slot = self.listeners.get_mut(listener).ok_or(Reject::Listener)?;
        slot.open = slot.open.saturating_add(1);
        self.total = self.total.saturating_add(1);
        Ok(self.enter_waiting(listener))
    }

    /// Puts a connection that holds a slot among those that have not logged in, as the newest.
    fn enter_waiting(&mut self, listener: usize) -> (u64, Arc<Signal>) {
        let sequence = self.next_sequence;
        self.next_sequence = self.next_sequence.wrapping_add(1);
        let signal = Arc::<Signal>::default();
        if let Some(slot) = self.listeners.get_mut(listener) {
            slot.waiting.insert(sequence, Arc::clone(&signal));
            self.unauthenticated = self.unauthenticated.saturating_add(1);
        }
        (sequence, signal)
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

    /// Moves the connection back to the unauthenticated budget (RESET), evicting the oldest there if it is spent. This
    /// always succeeds; ask for the new [`ConnectionPermit::eviction`].
    pub fn logged_out(&mut self) {
        let Phase::Authenticated { user } = &self.phase else {
            return;
        };
        let max = self.limits.settings.load().max_unauthenticated;
        let mut state = self.limits.state();
        decrement(&mut state.users, user);
        if state.unauthenticated >= max
            && let Some((listener, sequence)) = state.oldest()
        {
            state.evict(listener, sequence);
        }
        let (sequence, signal) = state.enter_waiting(self.listener);
        self.phase = Phase::Unauthenticated { sequence, signal };
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
mod tests;
