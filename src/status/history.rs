//! The last hour of every counter that matters, in slots of half a minute; and since when each problem stands.
//!
//! Bounded: [`SLOTS`] small numbers for each of at most [`MAX_SERIES`] series, about a mebibyte when all of them are taken. A
//! series is followed from its first count on, so what never happens costs nothing.

use std::collections::BTreeMap;

use super::reading::{AUTH_FAILURES, AUTH_LOCKOUTS, COMMANDS, DENIED, DURATION, REJECTED, Reading, Series};
use super::words;

/// A moment, by both clocks: the wall's is for people, the other cannot jump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Seconds of Unix time.
    pub unix: i64,
    /// Seconds since the process began.
    pub age: u64,
}

/// The last hour.
#[derive(Debug, Default)]
pub struct Ring {
    series: BTreeMap<Series, Counted>,
    /// Sums that do not depend on how many series are followed.
    requests: Counted,
    refusals: Counted,
    /// Series that had no place.
    not_followed: usize,
    /// The number of the slot that is going on.
    slot: u64,
    now: Option<Now>,
    standing: BTreeMap<(String, String), Standing>,
}

/// Since when a problem stands.
#[derive(Debug, Clone, Copy)]
struct Standing {
    since: Now,
    /// It was there the last time.
    seen: bool,
}

/// One counter.
#[derive(Debug, Clone)]
struct Counted {
    value: f64,
    /// By the slot's number modulo their own.
    slots: [u32; SLOTS],
    /// The slot that was written last; what lies between it and now is nought.
    written: u64,
    /// When it was last seen to grow, in Unix time.
    grew: i64,
}

/// What one series counted within a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Increase<'a> {
    pub(super) series: &'a Series,
    pub(super) count: u64,
    pub(super) last: i64,
}

impl Ring {
    /// Takes a reading in. Counters begin with the process, so what a series shows at first has just been counted.
    pub fn observe(&mut self, reading: &Reading, now: Now) {
        self.slot = now.age / SLOT_SECONDS;
        self.now = Some(now);
        let slot = self.slot;
        let (mut requests, mut refusals) = (0.0, 0.0);
        let mut not_followed = 0;
        for (series, value) in reading.counters() {
            match series.name {
                COMMANDS => requests += value,
                AUTH_FAILURES | DENIED | REJECTED => refusals += value,
                _ => {}
            }
            if let Some(counted) = self.series.get_mut(series) {
                counted.count(value, slot, now.unix);
            } else if value > 0.0 {
                if self.series.len() < MAX_SERIES {
                    let counted = self.series.entry(series.clone()).or_default();
                    counted.count(value, slot, now.unix);
                } else {
                    not_followed += 1;
                }
            }
        }
        self.not_followed = not_followed;
        self.requests.count(requests, slot, now.unix);
        self.refusals.count(refusals, slot, now.unix);
    }

    /// Series without a place among those that are followed.
    pub(super) fn not_followed(&self) -> usize {
        self.not_followed
    }

    /// Seconds for which something is known, at most an hour.
    pub(super) fn known_seconds(&self) -> u64 {
        self.now.map_or(0, |now| now.age.min(HOUR))
    }

    /// What the series of a family with these labels counted within the last seconds, the current slot among them; those
    /// that counted nothing are left out.
    pub(super) fn increases<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
        seconds: u64,
    ) -> impl Iterator<Item = Increase<'a>> {
        let fitting = self
            .series
            .iter()
            .filter(move |(series, _)| series.fits(name, labels));
        fitting
            .map(move |(series, counted)| Increase {
                series,
                count: counted.within(seconds, self.slot),
                last: counted.grew,
            })
            .filter(|increase| increase.count > 0)
    }

    /// The sum of [`Ring::increases`].
    pub(super) fn increase(&self, name: &str, labels: &[(&str, &str)], seconds: u64) -> u64 {
        self.increases(name, labels, seconds)
            .map(|found| found.count)
            .sum()
    }

    /// The time that this share of a listener's commands did not exceed; `None` without any.
    pub(super) fn quantile(&self, share: f64, listener: &str, seconds: u64) -> Option<f64> {
        let labels = [("listener", listener)];
        let found = self.increases(DURATION, &labels, seconds);
        quantile(share, found.map(|found| (found.series.label("le"), found.count)))
    }

    /// The last hour, minute by minute.
    pub(super) fn hour(&self) -> super::History {
        let mut history = super::History {
            until: self.now.map_or(0, |now| now.unix),
            known_seconds: self.known_seconds(),
            ..super::History::default()
        };
        let durations: Vec<_> = (self.series.iter())
            .filter(|(series, _)| series.name == DURATION)
            .collect();
        for back in (0..MINUTES).rev() {
            let minute = |counted: &Counted| -> u64 {
                let slots = (0..SLOTS_PER_MINUTE).map(|slot| back * SLOTS_PER_MINUTE + slot);
                slots.map(|back| u64::from(counted.at(back, self.slot))).sum()
            };
            history.requests.push(minute(&self.requests));
            history.refusals.push(minute(&self.refusals));
            let counts = || {
                durations
                    .iter()
                    .map(|(series, counted)| (series.label("le"), minute(counted)))
            };
            history.p50_seconds.push(quantile(0.5, counts()));
            history.p99_seconds.push(quantile(0.99, counts()));
        }
        history
    }

    /// Requests a second over the last minute.
    pub(super) fn request_rate(&self, listener: &str) -> f64 {
        let Some(now) = self.now else { return 0.0 };
        let count = self.increase(COMMANDS, &[("listener", listener)], 60);
        // The current slot, and the two before it as far as there were any.
        let seconds = (60 + now.age % SLOT_SECONDS).min(now.age).max(1);
        words::ratio(count, seconds)
    }

    /// Lockouts that began within the last seconds.
    pub(super) fn lockouts(&self, listener: &str, seconds: u64) -> u64 {
        self.increase(AUTH_LOCKOUTS, &[("listener", listener)], seconds)
    }

    /// Since when a problem stands that is there now.
    pub(super) fn since(&mut self, id: &str, subject: &str, now: Now) -> Now {
        let standing = self
            .standing
            .entry((id.to_owned(), subject.to_owned()))
            .or_insert(Standing {
                since: now,
                seen: true,
            });
        standing.seen = true;
        standing.since
    }

    /// Forgets the problems that were not asked about since the last time.
    pub(super) fn forget_solved(&mut self) {
        self.standing
            .retain(|_, standing| std::mem::take(&mut standing.seen));
    }
}

impl Default for Counted {
    fn default() -> Self {
        Self {
            value: 0.0,
            slots: [0; SLOTS],
            written: 0,
            grew: 0,
        }
    }
}

impl Counted {
    fn count(&mut self, value: f64, slot: u64, unix: i64) {
        // One that shrinks was made anew: what it shows has been counted since.
        let grown = if value < self.value {
            value
        } else {
            value - self.value
        };
        self.value = value;
        if grown <= 0.0 {
            return;
        }
        // Slots without a count in between still hold what was an hour ago.
        let first = self
            .written
            .saturating_add(1)
            .max(slot.saturating_sub(SLOTS as u64 - 1));
        for stale in first..=slot {
            if let Some(cell) = self.slots.get_mut(index(stale)) {
                *cell = 0;
            }
        }
        self.written = self.written.max(slot);
        self.grew = unix;
        if let Some(cell) = self.slots.get_mut(index(slot)) {
            *cell = cell.saturating_add(words::whole(grown).try_into().unwrap_or(u32::MAX));
        }
    }

    /// The count of a slot, so many before the present one.
    fn at(&self, back: usize, slot: u64) -> u32 {
        let Some(number) = slot.checked_sub(back as u64) else {
            return 0;
        };
        if back >= SLOTS || number > self.written || self.written - number >= SLOTS as u64 {
            return 0;
        }
        self.slots.get(index(number)).copied().unwrap_or(0)
    }

    fn within(&self, seconds: u64, slot: u64) -> u64 {
        let back = usize::try_from(seconds.div_ceil(SLOT_SECONDS)).unwrap_or(SLOTS);
        (0..=back.min(SLOTS - 1))
            .map(|back| u64::from(self.at(back, slot)))
            .sum()
    }
}

fn index(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or(0)
}

/// As Prometheus finds it: straight between the bounds of the bucket; above the last bound, that bound. `counts`: upper bound
/// as the label `le` says it, and how many are in this bucket alone.
pub(super) fn quantile<'a>(share: f64, counts: impl Iterator<Item = (&'a str, u64)>) -> Option<f64> {
    let mut buckets: Vec<(f64, u64)> = Vec::new();
    for (bound, count) in counts {
        let bound = bound.parse().unwrap_or(f64::INFINITY);
        match buckets
            .iter_mut()
            .find(|(known, _)| known.total_cmp(&bound).is_eq())
        {
            Some((_, sum)) => *sum += count,
            None => buckets.push((bound, count)),
        }
    }
    buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let total: u64 = buckets.iter().map(|(_, count)| count).sum();
    if total == 0 {
        return None;
    }
    let wanted = share * words::real(total);
    let (mut below, mut lower) = (0_u64, 0.0);
    for (bound, count) in buckets {
        let here = words::real(below + count);
        if count > 0 && here >= wanted {
            if bound.is_infinite() {
                return Some(lower);
            }
            let part = (wanted - words::real(below)) / words::real(count);
            return Some((bound - lower).mul_add(part.clamp(0.0, 1.0), lower));
        }
        below += count;
        if bound.is_finite() {
            lower = bound;
        }
    }
    Some(lower)
}

/// Series whose last hour is kept.
pub const MAX_SERIES: usize = 2_000;
/// Length of a slot.
pub const SLOT_SECONDS: u64 = 30;
/// An hour of them.
pub const SLOTS: usize = 120;
const HOUR: u64 = SLOT_SECONDS * SLOTS as u64;
const MINUTES: usize = 60;
const SLOTS_PER_MINUTE: usize = SLOTS / MINUTES;
