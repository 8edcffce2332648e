//! The throttle of failed logins: per source, in bounded memory, before any hash is computed (rule L-30).
//!
//! A source's first two failures are answered at once, the next ones later and later, and at `lockout_after`
//! failures the source is locked out, for twice as long each time. Half of the failures are forgotten at the end of
//! each `lockout_window`, so a source that always stops one short of the lockout gets about
//! `lockout_after / 2` guesses per window: 300 an hour with the defaults, where Redis lets 218,000 a second pass.
//!
//! A success clears the delay, and nothing else: whoever knows one password must not be able to guess another's
//! without end by logging in as himself in between.
//!
//! **Full table.** The entry that is worth least gives way: first the longest silent without a lockout, then the
//! longest silent that was locked out once, and only when every entry is locked the one whose lockout ends first.
//! The alternative, to refuse sources that find no place, would let whoever commands as many addresses as the table
//! has places shut the door for everybody else; [`Throttle::evicted_locked`] counts it.
//!
//! The caller checks, verifies the password and reports the outcome without waiting in between: only then can
//! parallel connections of one source not all be let through by one check.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Source;
use crate::config::Login;

/// Failed logins per source. Shared by `Arc`; one for all listeners, so that guesses on one count on all.
#[derive(Debug)]
pub struct Throttle {
    table: Mutex<Table>,
}

/// What to do with a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Answer at once.
    Allow,
    /// Answer the refusal after so long; the wait must not hold a worker.
    Delay(Duration),
    /// Refuse without looking at the password.
    LockedOut {
        /// When the lockout ends.
        until: Instant,
        /// Whether this very failure began it: the one to count and to record.
        begins: bool,
    },
}

/// A lockout that is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockoutEnded {
    /// Who was locked out.
    pub source: Source,
    /// Number of the listener at which the lockout began.
    pub listener: usize,
}

#[derive(Debug)]
struct Table {
    settings: Settings,
    entries: HashMap<Source, Entry>,
    /// The same sources in the order they give way in: `free` first, `locked` last, each by its [`Place`].
    /// Every entry stands in exactly one of the three.
    free: BTreeMap<Place, Source>,
    was_locked: BTreeMap<Place, Source>,
    locked: BTreeMap<Place, Source>,
    next_sequence: u64,
    /// Locked entries by listener number; as long as the highest number seen.
    locked_at: Vec<usize>,
    /// Not yet handed out by [`Throttle::sweep`]; at most `max_sources`.
    ended: Vec<LockoutEnded>,
    evicted_locked: u64,
}

#[derive(Debug, Clone)]
struct Settings {
    enabled: bool,
    lockout_after: u32,
    window: Duration,
    first: Duration,
    max: Duration,
    max_sources: usize,
}

#[derive(Debug)]
struct Entry {
    tier: Tier,
    place: Place,
    /// Failures not yet forgotten.
    failures: u32,
    /// When failures were last halved.
    halved: Instant,
    /// Failures since the last success; decides the delay.
    in_a_row: u32,
    /// Lockouts so far, halved for each `lockout_max` of silence.
    lockouts: u32,
    /// Where the last lockout began.
    listener: usize,
}

/// When it last failed (of a locked entry: when the lockout ends; of one just unlocked: when it ended), and a
/// number that makes the key unique.
type Place = (Instant, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tier {
    Free,
    WasLocked,
    Locked,
}

impl Throttle {
    /// An empty table with these settings.
    pub fn new(login: &Login) -> Self {
        Self {
            table: Mutex::new(Table {
                settings: Settings::new(login),
                entries: HashMap::new(),
                free: BTreeMap::new(),
                was_locked: BTreeMap::new(),
                locked: BTreeMap::new(),
                next_sequence: 0,
                locked_at: Vec::new(),
                ended: Vec::new(),
                evicted_locked: 0,
            }),
        }
    }

    /// Takes new settings over; what is known of sources stays, and lockouts keep their end.
    pub fn reconfigure(&self, login: &Login) {
        let mut table = self.table();
        table.settings = Settings::new(login);
        while table.entries.len() > table.settings.max_sources && table.evict() {}
    }

    /// Whether this source may try a password now: [`Verdict::Allow`] or [`Verdict::LockedOut`].
    pub fn check(&self, source: Source, now: Instant) -> Verdict {
        let table = self.table();
        if !table.settings.enabled {
            return Verdict::Allow;
        }
        match table
            .entries
            .get(&source)
            .and_then(|entry| entry.locked_until(now))
        {
            Some(until) => Verdict::LockedOut { until, begins: false },
            None => Verdict::Allow,
        }
    }

    /// Records a wrong password. `listener` is the number that the lockout, if it begins now, is counted under.
    pub fn failed(&self, source: Source, listener: usize, now: Instant) -> Verdict {
        let mut table = self.table();
        if !table.settings.enabled || source == Source::Pending {
            return Verdict::Allow;
        }
        table.failed(source, listener, now)
    }

    /// Records a right password: the next failure is answered at once again.
    pub fn succeeded(&self, source: Source, _now: Instant) {
        if let Some(entry) = self.table().entries.get_mut(&source) {
            entry.in_a_row = 0;
        }
    }

    /// Notices lockouts that are over and forgets sources that nothing is held against any more. To be called
    /// about once a second. Each lockout is returned once, even if its entry had to give way.
    pub fn sweep(&self, now: Instant) -> Vec<LockoutEnded> {
        let mut table = self.table();
        table.unlock_expired(now);
        table.forget(now);
        std::mem::take(&mut table.ended)
    }

    /// Sources locked out, over all listeners, as of the last [`Throttle::sweep`] or failure.
    pub fn locked(&self) -> usize {
        self.table().locked.len()
    }

    /// Sources locked out whose lockout began at this listener.
    pub fn locked_at(&self, listener: usize) -> usize {
        self.table().locked_at.get(listener).copied().unwrap_or(0)
    }

    /// Sources in the table.
    pub fn sources(&self) -> usize {
        self.table().entries.len()
    }

    /// Locked entries that had to give way because the whole table was locked.
    pub fn evicted_locked(&self) -> u64 {
        self.table().evicted_locked
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn failed(&mut self, source: Source, listener: usize, now: Instant) -> Verdict {
        self.unlock_expired(now);
        let mut entry = self.take(source).unwrap_or_else(|| {
            while self.entries.len() >= self.settings.max_sources && self.evict() {}
            Entry::new(now)
        });
        if let Some(until) = entry.locked_until(now) {
            // A check on another thread let it pass just before the lockout began.
            let tier = entry.tier;
            self.put(source, entry, tier, until);
            return Verdict::LockedOut { until, begins: false };
        }
        let verdict = entry.fail(&self.settings, now);
        if let Verdict::LockedOut { until, .. } = verdict {
            entry.listener = listener;
            self.count_locked(listener, 1);
            self.put(source, entry, Tier::Locked, until);
        } else {
            let tier = if entry.lockouts > 0 {
                Tier::WasLocked
            } else {
                Tier::Free
            };
            self.put(source, entry, tier, now);
        }
        verdict
    }

    /// Each lockout is moved down once, so the work of one call is paid for by earlier failures.
    fn unlock_expired(&mut self, now: Instant) {
        while let Some((&(until, _), &source)) = self.locked.first_key_value()
            && until <= now
        {
            let Some(entry) = self.take(source) else { return };
            self.end_lockout(source, entry.listener);
            self.put(source, entry, Tier::WasLocked, until);
        }
    }

    /// Removes what has been silent for so long that nothing is left to remember, a bounded number at a time.
    fn forget(&mut self, now: Instant) {
        let silence = [
            (Tier::Free, self.settings.window.saturating_mul(u32::BITS)),
            (Tier::WasLocked, self.settings.max.saturating_mul(u32::BITS)),
        ];
        for (tier, age) in silence {
            for _ in 0..FORGET_AT_ONCE {
                match self.order(tier).first_key_value() {
                    Some((&(at, _), &source)) if now.saturating_duration_since(at) >= age => {
                        self.take(source);
                    }
                    _ => break,
                }
            }
        }
    }

    /// Removes the entry that is worth least; false when there is none.
    fn evict(&mut self) -> bool {
        let least = |tier: &BTreeMap<Place, Source>| tier.values().next().copied();
        let found = least(&self.free)
            .or_else(|| least(&self.was_locked))
            .or_else(|| least(&self.locked));
        let Some(source) = found else { return false };
        if let Some(entry) = self.take(source)
            && entry.tier == Tier::Locked
        {
            self.evicted_locked = self.evicted_locked.saturating_add(1);
            self.end_lockout(source, entry.listener);
        }
        true
    }

    fn take(&mut self, source: Source) -> Option<Entry> {
        let entry = self.entries.remove(&source)?;
        self.order(entry.tier).remove(&entry.place);
        Some(entry)
    }

    fn put(&mut self, source: Source, mut entry: Entry, tier: Tier, at: Instant) {
        entry.tier = tier;
        entry.place = (at, self.next_sequence);
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.order(tier).insert(entry.place, source);
        self.entries.insert(source, entry);
    }

    fn order(&mut self, tier: Tier) -> &mut BTreeMap<Place, Source> {
        match tier {
            Tier::Free => &mut self.free,
            Tier::WasLocked => &mut self.was_locked,
            Tier::Locked => &mut self.locked,
        }
    }

    fn end_lockout(&mut self, source: Source, listener: usize) {
        self.count_locked(listener, -1);
        if self.ended.len() < self.settings.max_sources {
            self.ended.push(LockoutEnded { source, listener });
        }
    }

    fn count_locked(&mut self, listener: usize, change: isize) {
        if self.locked_at.len() <= listener {
            self.locked_at.resize(listener.saturating_add(1), 0);
        }
        if let Some(count) = self.locked_at.get_mut(listener) {
            *count = count.saturating_add_signed(change);
        }
    }
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            tier: Tier::Free,
            place: (now, 0),
            failures: 0,
            halved: now,
            in_a_row: 0,
            lockouts: 0,
            listener: 0,
        }
    }

    fn locked_until(&self, now: Instant) -> Option<Instant> {
        let (until, _) = self.place;
        (self.tier == Tier::Locked && until > now).then_some(until)
    }

    /// Counts one failure of a source that is not locked out.
    fn fail(&mut self, settings: &Settings, now: Instant) -> Verdict {
        let windows = periods(now.saturating_duration_since(self.halved), settings.window);
        self.failures = self.failures.checked_shr(windows).unwrap_or(0);
        // Windows are counted from a fixed beginning, not from the last failure: a client that retries a stale
        // password once a minute is never locked out by it.
        let elapsed = settings.window.saturating_mul(windows);
        self.halved = self
            .halved
            .checked_add(elapsed)
            .filter(|at| *at <= now)
            .unwrap_or(now);
        let (since, _) = self.place;
        let silence = periods(now.saturating_duration_since(since), settings.max);
        self.lockouts = self.lockouts.checked_shr(silence).unwrap_or(0);

        self.failures = self.failures.saturating_add(1);
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.failures < settings.lockout_after {
            return match settings.delay(self.in_a_row) {
                Duration::ZERO => Verdict::Allow,
                delay => Verdict::Delay(delay),
            };
        }
        self.failures = 0;
        self.lockouts = self.lockouts.saturating_add(1);
        // An end that the clock cannot express is set to the longest that makes sense.
        let lockout = settings.lockout(self.lockouts);
        let until = now
            .checked_add(lockout)
            .or_else(|| now.checked_add(YEAR))
            .unwrap_or(now);
        Verdict::LockedOut { until, begins: true }
    }
}

impl Settings {
    fn new(login: &Login) -> Self {
        Self {
            enabled: login.lockout,
            lockout_after: login.lockout_after.max(1),
            window: login.lockout_window,
            first: login.lockout_first,
            max: login.lockout_max.max(login.lockout_first),
            max_sources: login.max_sources.max(1),
        }
    }

    /// How long the answer to the n-th failure in a row waits.
    fn delay(&self, in_a_row: u32) -> Duration {
        match in_a_row.checked_sub(IMMEDIATE_FAILURES) {
            None | Some(0) => Duration::ZERO,
            Some(n) => doubled(FIRST_DELAY, n.saturating_sub(1)).min(LONGEST_DELAY),
        }
    }

    /// How long the n-th lockout lasts.
    fn lockout(&self, n: u32) -> Duration {
        doubled(self.first, n.saturating_sub(1)).min(self.max)
    }
}

fn doubled(base: Duration, times: u32) -> Duration {
    base.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX))
}

/// Whole periods in `elapsed`, at most `u32::MAX`; a period of zero counts as one nanosecond.
fn periods(elapsed: Duration, period: Duration) -> u32 {
    u32::try_from(elapsed.as_nanos() / period.as_nanos().max(1)).unwrap_or(u32::MAX)
}

/// A slip of the finger, and the second look at the password, cost nothing.
const IMMEDIATE_FAILURES: u32 = 2;
/// Delay of the third failure in a row; doubles from there.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Below the read timeouts that client libraries come with, so that the refusal is read as one.
const LONGEST_DELAY: Duration = Duration::from_secs(2);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Entries that one sweep forgets per tier: keeps the lock short.
const FORGET_AT_ONCE: usize = 4096;

#[cfg(test)]
mod tests;
