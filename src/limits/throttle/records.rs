//! What is held against sources and networks: one table, bounded, whatever comes.
//!
//! **Networks.** Whoever has one address has often many more: an IPv6 customer has a /48, which is 65,536 sources. So
//! when `aggregate_after` sources of one network (IPv4 /24, IPv6 /48) have failures at a time, their records are thrown
//! together: the network has one record from then on, with the delays and lockouts of a single source, and takes one
//! place instead of thousands. Its sources are many again when that record is forgotten.
//!
//! **Full table.** Somebody has to give way, and whoever guesses will try to make it himself: forgotten is forgiven. The
//! alternative, to refuse sources that find no place, would let him shut the door for everybody else. So records give way
//! by what they are worth, in four tiers: one failure; several; locked out before; locked out now (the first to end
//! first). In each the longest silent goes first. The lowest tier that has more than a quarter of the places gives one
//! up, so that no tier can crowd out the others: not the worthless the valuable, and not those that an attacker has
//! pumped up the newcomers, who would then be forgotten after each guess.
//!
//! *Why washing does not pay*: to push out his own record of several failures he has to fill a quarter of the table or
//! more with sources that have failed as often. Only failures that the budget let through make records: 16,384 places
//! twice over at 100 a second are over five minutes, in which five windows would have forgotten more than that record
//! holds. Waiting is cheaper.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::super::{Network, Source, Target};
use super::accounts::Standing;
use super::{
    Attempt, Cause, Counts, FORGET_AT_ONCE, Fading, IMMEDIATE_FAILURES, Lockout, LockoutEnded, Settings,
    Verdict, periods,
};

#[derive(Debug, Default)]
pub(super) struct Records {
    entries: BTreeMap<Network, Entry>,
    /// The same, in the order in which they give way. Every entry stands in exactly one of the four.
    tiers: [BTreeMap<Place, Network>; 4],
    next_sequence: u64,
    aggregated: usize,
    /// Locked entries by listener number.
    locked_at: BTreeMap<usize, usize>,
    /// Not yet handed out by a sweep; at most `max_sources`.
    ended: Vec<LockoutEnded>,
    evicted: u64,
    evicted_locked: u64,
}

#[derive(Debug)]
struct Entry {
    tier: Tier,
    place: Place,
    failures: Fading,
    /// Failures since the last success; decides the delay.
    in_a_row: u32,
    /// Lockouts so far, halved for each `lockout_max` of silence.
    lockouts: u32,
    /// Where the last lockout began.
    listener: usize,
    /// A user is known to come from here: not held against the network.
    known: bool,
}

/// When it last failed (of a locked entry: when the lockout ends; of one just unlocked: when it ended), and a
/// number that makes the key unique.
type Place = (Instant, u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
enum Tier {
    Once,
    Several,
    WasLocked,
    Locked,
}

impl Records {
    /// The lockout that keeps this source out, if any.
    pub(super) fn locked_until(
        &self,
        source: Source,
        standing: Standing,
        now: Instant,
    ) -> Option<(Network, Instant)> {
        let around = Network::around(source).filter(|_| standing != Standing::Known);
        [Some(Network::Host(source)), around]
            .into_iter()
            .flatten()
            .find_map(|network| {
                let until = self.entries.get(&network)?.locked_until(now)?;
                Some((network, until))
            })
    }

    /// Whether the network around this source is treated as one.
    pub(super) fn is_aggregated(&self, source: Source) -> bool {
        Network::around(source).is_some_and(|network| self.entries.contains_key(&network))
    }

    /// Counts one failure.
    pub(super) fn failed(
        &mut self,
        attempt: Attempt<'_>,
        standing: Standing,
        settings: &Settings,
        now: Instant,
    ) -> Verdict {
        self.unlock_expired(settings, now);
        if let Some((network, until)) = self.locked_until(attempt.source, standing, now) {
            // A check on another thread let it pass just before the lockout began.
            return Verdict::LockedOut {
                network,
                until,
                begins: false,
            };
        }
        let (network, inherited) = self.held_against(attempt.source, standing, settings, now);
        let mut entry = self.take(network).unwrap_or_else(|| {
            while self.entries.len() >= settings.max_sources && self.evict(settings) {}
            Entry::new(network, inherited, now)
        });
        entry.known |= standing == Standing::Known;
        match entry.fail(settings, now) {
            Outcome::Delay(delay) => {
                let tier = if entry.lockouts > 0 {
                    Tier::WasLocked
                } else if entry.failures.count > 1 || network.is_wide() {
                    Tier::Several
                } else {
                    Tier::Once
                };
                self.put(network, entry, tier, now);
                match delay {
                    Duration::ZERO => Verdict::Allow,
                    delay => Verdict::Delay(delay, Cause::Source),
                }
            }
            Outcome::LockedOut(until) => {
                entry.listener = attempt.listener;
                self.count_locked(attempt.listener, 1);
                self.put(network, entry, Tier::Locked, until);
                Verdict::LockedOut {
                    network,
                    until,
                    begins: true,
                }
            }
        }
    }

    /// A right password: the next failure of this source is answered at once again.
    pub(super) fn succeeded(&mut self, source: Source) {
        if let Some(entry) = self.entries.get_mut(&Network::Host(source)) {
            entry.in_a_row = 0;
        }
    }

    /// Ends and forgets what is over; what ended since the last time.
    pub(super) fn sweep(&mut self, settings: &Settings, now: Instant) -> Vec<LockoutEnded> {
        self.unlock_expired(settings, now);
        let silence = settings.window.saturating_mul(u32::BITS);
        let after_lockout = settings.max.saturating_mul(u32::BITS);
        for (tier, age) in [
            (Tier::Once, silence),
            (Tier::Several, silence),
            (Tier::WasLocked, after_lockout),
        ] {
            for _ in 0..FORGET_AT_ONCE {
                match self.order(tier).first_key_value() {
                    Some((&(at, _), &network)) if now.saturating_duration_since(at) >= age => {
                        self.take(network);
                    }
                    _ => break,
                }
            }
        }
        std::mem::take(&mut self.ended)
    }

    /// Down to the settings' size.
    pub(super) fn shrink(&mut self, settings: &Settings) {
        while self.entries.len() > settings.max_sources && self.evict(settings) {}
    }

    /// Lockouts in force, the longest first and at most so many, and their number.
    pub(super) fn in_force(
        &mut self,
        settings: &Settings,
        most: usize,
        now: Instant,
    ) -> (Vec<Lockout>, usize) {
        self.unlock_expired(settings, now);
        let locked = self.order(Tier::Locked);
        let total = locked.len();
        let networks: Vec<_> = locked
            .iter()
            .rev()
            .take(most)
            .map(|(_, &network)| network)
            .collect();
        let lockouts = networks
            .into_iter()
            .filter_map(|network| {
                let entry = self.entries.get(&network)?;
                Some(Lockout {
                    network,
                    listener: entry.listener,
                    left: entry.place.0.saturating_duration_since(now),
                    times: entry.lockouts,
                })
            })
            .collect();
        (lockouts, total)
    }

    /// Forgets the records that are meant; the lockouts among them.
    pub(super) fn lift(&mut self, target: &Target, settings: &Settings, now: Instant) -> Vec<LockoutEnded> {
        self.unlock_expired(settings, now);
        let covered: Vec<_> = self
            .entries
            .keys()
            .copied()
            .filter(|network| target.covers(*network))
            .collect();
        let mut lifted = Vec::new();
        for network in covered {
            if let Some(entry) = self.take(network)
                && entry.tier == Tier::Locked
            {
                self.count_locked(entry.listener, -1);
                lifted.push(LockoutEnded {
                    network,
                    listener: entry.listener,
                });
            }
        }
        lifted
    }

    pub(super) fn locked_at(&self, listener: usize) -> usize {
        self.locked_at.get(&listener).copied().unwrap_or(0)
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            sources: self.entries.len(),
            aggregated: self.aggregated,
            locked: self.tiers.last().map_or(0, BTreeMap::len),
            slowed: 0,
            evicted: self.evicted,
            evicted_locked: self.evicted_locked,
        }
    }

    /// Whose record a failure goes into: the source's own, or the network's, if it has one or comes to have one now. In
    /// the last case also how often sources of it have been locked out.
    fn held_against(
        &mut self,
        source: Source,
        standing: Standing,
        settings: &Settings,
        now: Instant,
    ) -> (Network, u32) {
        let host = Network::Host(source);
        if standing == Standing::Known {
            return (host, 0);
        }
        let Some(network) = Network::around(source) else {
            return (host, 0);
        };
        if self.entries.contains_key(&network) {
            return (network, 0);
        }
        // Counted already. One whose failures are forgotten begins anew, as if it had no record: otherwise a network could
        // be prepared in small numbers and come all at once.
        let counted = self.entries.get(&host);
        if counted.is_some_and(|entry| entry.misbehaves(settings, now)) {
            return (host, 0);
        }
        // This one included. Those of before that are forgotten but for their place are few: less than
        // `aggregate_after` come about in a window.
        let (first, last) = network.hosts().into_inner();
        let hosts = Network::Host(first)..=Network::Host(last);
        let others = settings.aggregate_after.saturating_sub(1);
        let inside = self.entries.range(hosts.clone());
        let misbehaving = inside
            .filter(|(_, entry)| !entry.known && entry.misbehaves(settings, now))
            .take(others)
            .count();
        if misbehaving < others {
            return (host, 0);
        }
        // What is locked out on its own stays so until its lockout ends.
        let inside = self.entries.range(hosts);
        let absorbed: Vec<_> = inside
            .filter(|(_, entry)| !entry.known && entry.tier != Tier::Locked)
            .map(|(&network, _)| network)
            .collect();
        let absorbed = absorbed.into_iter().filter_map(|host| self.take(host));
        let lockouts = absorbed.map(|entry| entry.lockouts).max().unwrap_or(0);
        (network, lockouts)
    }

    /// Each lockout is moved down once, so the work of one call is paid for by earlier failures.
    fn unlock_expired(&mut self, settings: &Settings, now: Instant) {
        while let Some((&(until, _), &network)) = self.order(Tier::Locked).first_key_value()
            && until <= now
        {
            let Some(entry) = self.take(network) else { return };
            self.end_lockout(network, entry.listener, settings);
            self.put(network, entry, Tier::WasLocked, until);
        }
    }

    /// Removes the entry that is worth least; false when there is none.
    fn evict(&mut self, settings: &Settings) -> bool {
        let share = settings.max_sources / self.tiers.len();
        let crowded = self.tiers.iter().find(|tier| tier.len() > share);
        let found = crowded.or_else(|| self.tiers.iter().find(|tier| !tier.is_empty()));
        let Some(&network) = found.and_then(|tier| tier.values().next()) else {
            return false;
        };
        self.evicted = self.evicted.saturating_add(1);
        if let Some(entry) = self.take(network)
            && entry.tier == Tier::Locked
        {
            self.evicted_locked = self.evicted_locked.saturating_add(1);
            self.end_lockout(network, entry.listener, settings);
        }
        true
    }

    fn take(&mut self, network: Network) -> Option<Entry> {
        let entry = self.entries.remove(&network)?;
        self.order(entry.tier).remove(&entry.place);
        self.aggregated = self.aggregated.saturating_sub(usize::from(network.is_wide()));
        Some(entry)
    }

    fn put(&mut self, network: Network, mut entry: Entry, tier: Tier, at: Instant) {
        entry.tier = tier;
        entry.place = (at, self.next_sequence);
        self.next_sequence = self.next_sequence.wrapping_add(1);
        self.order(tier).insert(entry.place, network);
        self.entries.insert(network, entry);
        self.aggregated = self.aggregated.saturating_add(usize::from(network.is_wide()));
    }

    fn order(&mut self, tier: Tier) -> &mut BTreeMap<Place, Network> {
        let [once, several, was_locked, locked] = &mut self.tiers;
        match tier {
            Tier::Once => once,
            Tier::Several => several,
            Tier::WasLocked => was_locked,
            Tier::Locked => locked,
        }
    }

    fn end_lockout(&mut self, network: Network, listener: usize, settings: &Settings) {
        self.count_locked(listener, -1);
        if self.ended.len() < settings.max_sources {
            self.ended.push(LockoutEnded { network, listener });
        }
    }

    fn count_locked(&mut self, listener: usize, change: isize) {
        let count = self.locked_at.entry(listener).or_insert(0);
        *count = count.saturating_add_signed(change);
    }

    /// For the tests of the whole: what is held against one network, and whether the books agree.
    #[cfg(test)]
    pub(super) fn failures(&self, network: Network, settings: &Settings, now: Instant) -> u32 {
        let entry = self.entries.get(&network);
        entry.map_or(0, |entry| entry.failures.count(settings.window, now))
    }

    #[cfg(test)]
    pub(super) fn audit(&self, max: usize) {
        let in_tiers: usize = self.tiers.iter().map(BTreeMap::len).sum();
        assert_eq!(in_tiers, self.entries.len());
        assert!(self.entries.len() <= max && self.ended.len() <= max);
        let wide = self.entries.keys().filter(|network| network.is_wide()).count();
        assert_eq!(wide, self.aggregated);
        assert_eq!(self.locked_at.values().sum::<usize>(), self.tiers[3].len());
    }
}

/// What one more failure leads to.
enum Outcome {
    Delay(Duration),
    LockedOut(Instant),
}

impl Entry {
    fn new(network: Network, lockouts: u32, now: Instant) -> Self {
        Self {
            tier: Tier::Once,
            place: (now, 0),
            failures: Fading::default(),
            // A network has had its first looks at the password already.
            in_a_row: if network.is_wide() { IMMEDIATE_FAILURES } else { 0 },
            lockouts,
            listener: 0,
            known: false,
        }
    }

    fn locked_until(&self, now: Instant) -> Option<Instant> {
        let (until, _) = self.place;
        (self.tier == Tier::Locked && until > now).then_some(until)
    }

    /// Whether something is held against it that is not forgotten.
    fn misbehaves(&self, settings: &Settings, now: Instant) -> bool {
        self.tier == Tier::Locked || self.failures.count(settings.window, now) > 0
    }

    /// Counts one failure of somebody who is not locked out.
    fn fail(&mut self, settings: &Settings, now: Instant) -> Outcome {
        let (since, _) = self.place;
        let silence = periods(now.saturating_duration_since(since), settings.max);
        self.lockouts = self.lockouts.checked_shr(silence).unwrap_or(0);
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.failures.add(settings.window, now) < settings.lockout_after {
            return Outcome::Delay(settings.delay(self.in_a_row));
        }
        self.failures = Fading::default();
        self.lockouts = self.lockouts.saturating_add(1);
        // An end that the clock cannot express is set to the longest that makes sense.
        let lockout = settings.lockout(self.lockouts);
        let until = now
            .checked_add(lockout)
            .or_else(|| now.checked_add(YEAR))
            .unwrap_or(now);
        Outcome::LockedOut(until)
    }
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);
