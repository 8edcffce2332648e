//! The door for whoever guesses passwords: failed logins per source, per network, per user and in all, in bounded
//! memory, decided before any hash is computed (rule L-30).
//!
//! | held against | what it costs | why not more |
//! |---|---|---|
//! | a source | refusals come later and later, then it is locked out, longer each time (`records`) | |
//! | the network around it, once many of its sources misbehave | the same, as if it were one source (`records`) | sources that the user is known to come from are let through |
//! | a user | refusals of strangers come later and later (`accounts`) | a lockout would be the attacker's switch for the application |
//! | everybody | so many wrong passwords a second are told from right ones, no more (`budget`) | known sources do not need it, and their neighbours have a budget of their own |
//!
//! A success is never delayed, by none of them.
//!
//! **Guesses.** A source's first two failures are answered at once, the next ones later and later, and at `lockout_after`
//! failures the source is locked out, for twice as long each time. Half of the failures are forgotten at the end of
//! each `lockout_window`, so a source that always stops one short of the lockout gets about `lockout_after / 2` guesses
//! per window: 300 an hour with the defaults, where Redis lets 218,000 a second pass. However many sources take part,
//! all strangers together get `max_failures_per_second`, and the neighbours of known sources as many again.
//!
//! **The budget** is taken before the password is looked at and given back when it was right, so honest logins cost
//! nothing, however many. When it is spent, a stranger is told to try again whether his password is right or not: told
//! only when it is wrong, he would have his verdict. That would make a flood a way to keep everybody out, hence the two
//! exceptions: where the user has logged in from in the last day nobody asks for the budget, and what is new beside such
//! a source (the next pod of the same cluster) draws on a second budget that the flood does not reach.
//!
//! **What outlives what.** Nothing is written down: a restart forgets everything, and so it must, for the records are of
//! minutes. A reload keeps records, lockouts and what is known, for an attacker must not be forgiven because a
//! certificate was renewed; it forgets users that it takes away. [`Throttle::lift`] forgets what it is told to.
//!
//! The caller checks, verifies the password and reports the outcome without waiting in between: only then can
//! parallel connections of one source not all be let through by one check.

mod accounts;
mod budget;
mod records;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Network, Source, Target};
use crate::config::Login;
use accounts::{Accounts, Standing};
use budget::Budget;
use records::Records;

/// Failed logins of all listeners. Shared by `Arc`; one for all, so that guesses on one listener count on all.
#[derive(Debug)]
pub struct Throttle {
    state: Mutex<State>,
}

/// One attempt to log in.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Where it comes from.
    pub source: Source,
    /// Number of the listener.
    pub listener: usize,
    /// The name that the client gave, known to us or not.
    pub user: &'a [u8],
}

/// What to do with a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on: answer at once.
    Allow,
    /// Answer the refusal after so long; the wait must not hold a worker.
    Delay(Duration, Cause),
    /// Refuse without looking at the password.
    LockedOut {
        /// Who is locked out: the source, or the network around it.
        network: Network,
        /// When the lockout ends.
        until: Instant,
        /// Whether this very failure began it: the one to count and to record.
        begins: bool,
    },
    /// Refuse without looking at the password: too many wrong ones have been looked at in this second.
    OverBudget,
}

/// Why an answer is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Failures of the source or of the network around it.
    Source,
    /// Failures of strangers at the user.
    User,
    /// The source is locked out.
    Lockout,
    /// The budget of failures is spent.
    Budget,
}

/// A lockout that is over, or was lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockoutEnded {
    /// Who was locked out.
    pub network: Network,
    /// Number of the listener at which the lockout began.
    pub listener: usize,
}

/// A lockout in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lockout {
    /// Who is locked out.
    pub network: Network,
    /// Number of the listener at which it began.
    pub listener: usize,
    /// How long it still lasts.
    pub left: Duration,
    /// Lockouts of this network so far, this one included.
    pub times: u32,
}

/// A user whose refusals are held back for strangers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlowedUser {
    /// The configured name.
    pub user: String,
    /// Number of the listener.
    pub listener: usize,
    /// Failures of strangers that are not forgotten.
    pub failures: u32,
}

/// What is in force at present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InForce {
    /// Lockouts, those that last longest first, as many as were asked for.
    pub lockouts: Vec<Lockout>,
    /// Lockouts in all.
    pub total: usize,
    /// Users that are slowed down.
    pub slowed: Vec<SlowedUser>,
}

/// What was lifted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lifted {
    /// Lockouts.
    pub lockouts: Vec<LockoutEnded>,
    /// Users that were slowed down.
    pub slowed: Vec<SlowedUser>,
}

/// The throttle in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records held.
    pub sources: usize,
    /// Records that stand for a whole network.
    pub aggregated: usize,
    /// Lockouts in force.
    pub locked: usize,
    /// Users that are slowed down.
    pub slowed: usize,
    /// Records that gave way because the table was full.
    pub evicted: u64,
    /// Those of them that were locked out.
    pub evicted_locked: u64,
}

#[derive(Debug)]
struct State {
    settings: Settings,
    records: Records,
    accounts: Accounts,
    /// Of those whom nobody knows.
    strangers: Budget,
    /// Of those who come from where the user is known.
    neighbours: Budget,
}

#[derive(Debug, Clone)]
struct Settings {
    enabled: bool,
    lockout_after: u32,
    window: Duration,
    first: Duration,
    max: Duration,
    max_sources: usize,
    aggregate_after: usize,
    per_second: u32,
}

/// A count of which half is forgotten at the end of each window.
///
/// Windows are counted from a fixed beginning, not from the last event: a client that retries a stale password once a
/// minute is never locked out by it.
#[derive(Debug, Clone, Copy, Default)]
struct Fading {
    count: u32,
    halved: Option<Instant>,
}

/// Which budget an attempt takes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purse {
    None,
    Neighbours,
    Strangers,
}

impl Throttle {
    /// Nothing is held against anybody.
    pub fn new(login: &Login) -> Self {
        Self {
            state: Mutex::new(State {
                settings: Settings::new(login),
                records: Records::default(),
                accounts: Accounts::default(),
                strangers: Budget::default(),
                neighbours: Budget::default(),
            }),
        }
    }

    /// Takes new settings over; what is known of sources stays, and lockouts keep their end.
    pub fn reconfigure(&self, login: &Login) {
        let mut state = self.state();
        state.settings = Settings::new(login);
        let State {
            settings, records, ..
        } = &mut *state;
        records.shrink(settings);
    }

    /// Forgets the users of a listener that the configuration has no more.
    pub fn retain_users(&self, listener: usize, keep: &dyn Fn(&str) -> bool) {
        self.state().accounts.retain(listener, keep);
    }

    /// Whether this attempt may go on: [`Verdict::Allow`], [`Verdict::LockedOut`] or [`Verdict::OverBudget`]. After the
    /// first, the outcome is to be reported: [`Throttle::failed`] or [`Throttle::succeeded`].
    pub fn check(&self, attempt: Attempt<'_>, now: Instant) -> Verdict {
        let mut state = self.state();
        if !state.settings.enabled || attempt.source == Source::Pending {
            return Verdict::Allow;
        }
        let standing = state.standing(attempt, now);
        if let Some((network, until)) = state.records.locked_until(attempt.source, standing, now) {
            return Verdict::LockedOut {
                network,
                until,
                begins: false,
            };
        }
        let (purse, rate) = (state.purse(attempt.source, standing), state.settings.per_second);
        let taken = match purse {
            Purse::None => true,
            Purse::Neighbours => state.neighbours.take(rate, now),
            Purse::Strangers => state.strangers.take(rate, now),
        };
        if taken {
            Verdict::Allow
        } else {
            Verdict::OverBudget
        }
    }

    /// Records a wrong password. `exists`: the name is one of the configured users.
    pub fn failed(&self, attempt: Attempt<'_>, exists: bool, now: Instant) -> Verdict {
        let mut state = self.state();
        if !state.settings.enabled || attempt.source == Source::Pending {
            return Verdict::Allow;
        }
        let standing = state.standing(attempt, now);
        let State {
            settings,
            records,
            accounts,
            ..
        } = &mut *state;
        let verdict = records.failed(attempt, standing, settings, now);
        let name = std::str::from_utf8(attempt.user).ok().filter(|_| exists);
        let of_user = match name {
            Some(name) if standing != Standing::Known => {
                let failures = accounts.failed(attempt.listener, name, settings.window, now);
                settings.delay_of_user(failures)
            }
            _ => Duration::ZERO,
        };
        match verdict {
            Verdict::Allow if of_user > Duration::ZERO => Verdict::Delay(of_user, Cause::User),
            Verdict::Delay(delay, _) if of_user > delay => Verdict::Delay(of_user, Cause::User),
            verdict => verdict,
        }
    }

    /// Records a right password: the next failure is answered at once again, and the source is known as this user's from
    /// now on. It clears the delay, and nothing else: whoever knows one password must not be able to guess another's
    /// without end by logging in as himself in between.
    pub fn succeeded(&self, attempt: Attempt<'_>, now: Instant) {
        let mut state = self.state();
        if !state.settings.enabled {
            return;
        }
        let standing = state.standing(attempt, now);
        let rate = state.settings.per_second;
        match state.purse(attempt.source, standing) {
            Purse::None => {}
            Purse::Neighbours => state.neighbours.give_back(rate),
            Purse::Strangers => state.strangers.give_back(rate),
        }
        state.records.succeeded(attempt.source);
        let max = state.settings.max_sources;
        if let Ok(name) = std::str::from_utf8(attempt.user) {
            state
                .accounts
                .succeeded(attempt.listener, name, attempt.source, max, now);
        }
    }

    /// Notices lockouts that are over and forgets what nothing is held against any more. To be called
    /// about once a second. Each lockout is returned once, even if its record had to give way.
    pub fn sweep(&self, now: Instant) -> Vec<LockoutEnded> {
        let mut state = self.state();
        let State {
            settings,
            records,
            accounts,
            ..
        } = &mut *state;
        accounts.sweep(settings.window, now, FORGET_AT_ONCE);
        records.sweep(settings, now)
    }

    /// What is in force, with at most so many lockouts named.
    pub fn in_force(&self, most: usize, now: Instant) -> InForce {
        let mut state = self.state();
        let State {
            settings,
            records,
            accounts,
            ..
        } = &mut *state;
        let (lockouts, total) = records.in_force(settings, most, now);
        InForce {
            lockouts,
            total,
            slowed: accounts.slowed(settings.slow_user_after(), settings.window, now),
        }
    }

    /// Forgets everything that is held against somebody, lockouts and mere failures alike; what was in force is returned.
    pub fn lift(&self, target: &Target, now: Instant) -> Lifted {
        let mut state = self.state();
        let State {
            settings,
            records,
            accounts,
            strangers,
            neighbours,
        } = &mut *state;
        let mut forgive = |user| accounts.forgive(user, settings.slow_user_after(), settings.window, now);
        match target {
            Target::User(name) => Lifted {
                lockouts: Vec::new(),
                slowed: forgive(Some(name)),
            },
            Target::All => {
                (*strangers, *neighbours) = (Budget::default(), Budget::default());
                Lifted {
                    slowed: forgive(None),
                    lockouts: records.lift(target, settings, now),
                }
            }
            Target::Network(_) | Target::Unix(_) => Lifted {
                lockouts: records.lift(target, settings, now),
                slowed: Vec::new(),
            },
        }
    }

    /// Lockouts that began at this listener, as of the last [`Throttle::sweep`] or failure.
    pub fn locked_at(&self, listener: usize) -> usize {
        self.state().records.locked_at(listener)
    }

    /// Everything in numbers, as of the last [`Throttle::sweep`] or failure.
    pub fn counts(&self, now: Instant) -> Counts {
        let state = self.state();
        let settings = &state.settings;
        let slowed = state
            .accounts
            .slowed(settings.slow_user_after(), settings.window, now);
        Counts {
            slowed: slowed.len(),
            ..state.records.counts()
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn standing(&self, attempt: Attempt<'_>, now: Instant) -> Standing {
        self.accounts
            .standing(attempt.listener, attempt.user, attempt.source, now)
    }

    fn purse(&self, source: Source, standing: Standing) -> Purse {
        match standing {
            Standing::Known => Purse::None,
            // Of a network that misbehaves as a whole nobody is a good neighbour.
            Standing::Neighbour if !self.records.is_aggregated(source) => Purse::Neighbours,
            // A flood from the network must not keep the users of this machine out.
            _ if !source.is_address() => Purse::Neighbours,
            _ => Purse::Strangers,
        }
    }
}

impl Fading {
    /// Counts one more; how many there are.
    fn add(&mut self, window: Duration, now: Instant) -> u32 {
        let since = *self.halved.get_or_insert(now);
        let windows = periods(now.saturating_duration_since(since), window);
        let elapsed = window.saturating_mul(windows);
        self.halved = Some(since.checked_add(elapsed).filter(|at| *at <= now).unwrap_or(now));
        self.count = self.count.checked_shr(windows).unwrap_or(0).saturating_add(1);
        self.count
    }

    /// How many are not forgotten.
    fn count(&self, window: Duration, now: Instant) -> u32 {
        let Some(since) = self.halved else { return 0 };
        let windows = periods(now.saturating_duration_since(since), window);
        self.count.checked_shr(windows).unwrap_or(0)
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
            aggregate_after: usize::try_from(login.aggregate_after)
                .unwrap_or(usize::MAX)
                .max(2),
            per_second: login.max_failures_per_second.max(1),
        }
    }

    /// How long the answer to the n-th failure in a row waits.
    fn delay(&self, in_a_row: u32) -> Duration {
        match in_a_row.checked_sub(IMMEDIATE_FAILURES) {
            None | Some(0) => Duration::ZERO,
            Some(n) => doubled(FIRST_DELAY, n.saturating_sub(1)).min(LONGEST_DELAY),
        }
    }

    /// How long a refusal waits when strangers have failed so often at the user: as long as at a source, but only beyond
    /// what would lock a source out, since many people may share a user.
    fn delay_of_user(&self, failures: u32) -> Duration {
        match failures.checked_sub(self.lockout_after) {
            None | Some(0) => Duration::ZERO,
            Some(n) => self.delay(n.saturating_add(IMMEDIATE_FAILURES)),
        }
    }

    /// Failures from which a user is slowed down.
    fn slow_user_after(&self) -> u32 {
        self.lockout_after.saturating_add(1)
    }

    /// How long the n-th lockout lasts.
    fn lockout(&self, n: u32) -> Duration {
        doubled(self.first, n.saturating_sub(1)).min(self.max)
    }
}

impl Cause {
    /// Every cause, for pre-created series.
    pub const ALL: [Self; 4] = [Self::Source, Self::User, Self::Lockout, Self::Budget];

    /// The metric label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::User => "user",
            Self::Lockout => "lockout",
            Self::Budget => "budget",
        }
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
/// What one sweep forgets of each kind: keeps the lock short.
const FORGET_AT_ONCE: usize = 4096;

#[cfg(test)]
mod tests;
