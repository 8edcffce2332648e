//! Decides which audit events are written one by one, and counts the others exactly.
//!
//! Whoever can cause events must not be able to fill a disk with them, which is why Redis never logged failed
//! logins. So of each kind, listener, source and reason the first [`FIRST`] events in a window are written and the
//! rest are counted; at the end of the window one summary gives the count. Over all of them at most
//! [`LINES_PER_SECOND`] events are written, and at most [`SUMMARIES_PER_TICK`] summaries at a time: what is above
//! goes into one summary per kind and reason. For every event offered exactly one of two things holds: it was
//! written, or it is in the count of exactly one summary.
//!
//! What strangers cause and what takes a credential have shares of their own: a flood at the door must not be a way to
//! keep an administrator's commands out of the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{At, Kind};
use crate::limits::Network;

/// What events are folded by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// `None`: of several listeners.
    pub(super) listener: Option<Arc<str>>,
    /// `None`: from several sources.
    pub(super) source: Option<Network>,
    /// A configured name; `None` where events are not told apart by it.
    pub(super) user: Option<Arc<str>>,
    /// A name of the command table.
    pub(super) cmd: Option<&'static str>,
    pub(super) reason: &'static str,
}

/// Events that were not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) key: Key,
    pub(super) count: u64,
}

#[derive(Debug, Default)]
pub(super) struct Limiter {
    strangers: Share,
    insiders: Share,
}

#[derive(Debug, Default)]
struct Share {
    windows: HashMap<Key, Window>,
    /// Whole seconds of the line budget: when the present one began and what is used of it.
    second: Option<Instant>,
    lines: u32,
}

#[derive(Debug)]
struct Window {
    since: Instant,
    written: u32,
    folded: u64,
}

impl Limiter {
    /// Whether to write this event; if not, it is counted.
    pub(super) fn offer(&mut self, key: Key, now: Instant) -> bool {
        let share = if key.kind.is_from_inside() {
            &mut self.insiders
        } else {
            &mut self.strangers
        };
        share.offer(key, now)
    }

    /// Ends the windows that are over and returns what was folded in them.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Summary> {
        self.end(|window| now.saturating_duration_since(window.since) >= WINDOW)
    }

    /// Ends all windows, for the last lines of the process.
    pub(super) fn flush(&mut self) -> Vec<Summary> {
        self.end(|_| true)
    }

    fn end(&mut self, over: impl Fn(&Window) -> bool) -> Vec<Summary> {
        let mut summaries = self.strangers.end(&over);
        summaries.extend(self.insiders.end(&over));
        summaries
    }

    #[cfg(test)]
    fn keys(&self) -> usize {
        self.strangers.windows.len() + self.insiders.windows.len()
    }
}

impl Share {
    fn offer(&mut self, key: Key, now: Instant) -> bool {
        let budget = self.budget(now);
        // One says all: who used which command.
        let first = if key.kind == Kind::AdminCommand { 1 } else { FIRST };
        // A new key finds no place: it is folded with all others of its kind and reason. Those keys are few, since
        // both are closed sets, and need no bound.
        let full = self.windows.len() >= MAX_KEYS && !self.windows.contains_key(&key);
        let key = if full { key.without_origin() } else { key };
        let window = self.windows.entry(key).or_insert(Window {
            since: now,
            written: 0,
            folded: 0,
        });
        let write = budget && window.written < first && !full;
        if write {
            window.written = window.written.saturating_add(1);
            self.lines = self.lines.saturating_add(1);
        } else {
            window.folded = window.folded.saturating_add(1);
        }
        write
    }

    fn end(&mut self, over: &impl Fn(&Window) -> bool) -> Vec<Summary> {
        let mut summaries: Vec<_> = self
            .windows
            .extract_if(|_, window| over(window))
            .filter(|(_, window)| window.folded > 0)
            .map(|(key, window)| Summary {
                key,
                count: window.folded,
            })
            .collect();
        if summaries.len() > SUMMARIES_PER_TICK {
            summaries.sort_unstable_by_key(|summary| std::cmp::Reverse(summary.count));
            let mut rest = HashMap::<Key, u64>::new();
            for summary in summaries.drain(SUMMARIES_PER_TICK..) {
                let count = rest.entry(summary.key.without_origin()).or_insert(0);
                *count = count.saturating_add(summary.count);
            }
            summaries.extend(rest.into_iter().map(|(key, count)| Summary { key, count }));
        }
        summaries
    }

    fn budget(&mut self, now: Instant) -> bool {
        let running = |since: Instant| now.saturating_duration_since(since) < Duration::from_secs(1);
        if !self.second.is_some_and(running) {
            self.second = Some(now);
            self.lines = 0;
        }
        self.lines < LINES_PER_SECOND
    }
}

impl Key {
    /// Of something that a client did.
    pub(super) fn at(kind: Kind, at: At<'_>, reason: &'static str) -> Self {
        let source = Network::Host(at.peer.source());
        Self::of(kind, at.listener, Some(source), reason)
    }

    pub(super) fn of(kind: Kind, listener: &Arc<str>, source: Option<Network>, reason: &'static str) -> Self {
        Self {
            kind,
            listener: Some(Arc::clone(listener)),
            source,
            user: None,
            cmd: None,
            reason,
        }
    }

    fn without_origin(self) -> Self {
        Self {
            listener: None,
            source: None,
            user: None,
            ..self
        }
    }
}

/// Events of one key written per window: enough for a person to see what is going on.
const FIRST: u32 = 20;
/// Length of a window.
pub(super) const WINDOW: Duration = Duration::from_secs(10);
/// Keys remembered at once in each share; about 150 bytes each.
const MAX_KEYS: usize = 4096;
/// Of each share: about 60 kB a second at most, whatever happens.
const LINES_PER_SECOND: u32 = 200;
/// Summaries written at a time, the largest first.
const SUMMARIES_PER_TICK: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::Source;

    fn key(source: u32, reason: &'static str) -> Key {
        let source = Some(Network::Host(Source::V4(source.into())));
        Key::of(Kind::AuthFailed, &"gateway".into(), source, reason)
    }

    #[test]
    fn the_first_events_are_written_and_the_rest_summed_up() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        let written = (0..50)
            .filter(|_| limiter.offer(key(1, "bad_password"), start))
            .count();
        assert_eq!(written, 20);
        assert_eq!(limiter.tick(start + WINDOW / 2), []);
        let summaries = limiter.tick(start + WINDOW);
        assert_eq!(
            summaries,
            [Summary {
                key: key(1, "bad_password"),
                count: 30
            }]
        );
        assert_eq!(limiter.keys(), 0);
        assert!(limiter.offer(key(1, "bad_password"), start + WINDOW));
    }

    #[test]
    fn sources_and_reasons_are_counted_apart() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        for _ in 0..21 {
            limiter.offer(key(1, "bad_password"), start);
            limiter.offer(key(2, "bad_password"), start);
            limiter.offer(key(1, "unknown_user"), start);
        }
        assert_eq!(limiter.tick(start + WINDOW).len(), 3);
    }

    #[test]
    fn a_flood_from_everywhere_stays_within_the_budget_and_the_memory() {
        let start = Instant::now();
        let mut limiter = Limiter::default();
        let total: u64 = 100_000;
        let mut written = 0;
        for source in 0..100_000 {
            written += u64::from(limiter.offer(key(source, "unknown_user"), start));
        }
        assert_eq!(written, u64::from(LINES_PER_SECOND));
        assert!(limiter.keys() <= MAX_KEYS + 1);
        let summaries = limiter.tick(start + WINDOW);
        assert!(summaries.len() <= SUMMARIES_PER_TICK + 1);
        assert_eq!(
            written + summaries.iter().map(|summary| summary.count).sum::<u64>(),
            total
        );
    }

    proptest! {
        #[test]
        fn written_and_folded_are_all(
            events in prop::collection::vec((0_u32..200, 0_usize..3, 0_u64..700), 1..2000),
        ) {
            let reasons = ["bad_password", "unknown_user", "timeout"];
            let mut limiter = Limiter::default();
            let mut now = Instant::now();
            let (mut written, mut folded) = (0_u64, 0_u64);
            for &(source, reason, pause) in &events {
                now += Duration::from_millis(pause / 20);
                if limiter.offer(key(source % 5 * (source / 100), reasons[reason]), now) {
                    written += 1;
                }
                if pause > 650 {
                    folded += limiter.tick(now).iter().map(|summary| summary.count).sum::<u64>();
                }
            }
            folded += limiter.flush().iter().map(|summary| summary.count).sum::<u64>();
            prop_assert_eq!(written + folded, events.len() as u64);
        }
    }
}
