//! How many workers serve, and who serves whom: few workers while they keep up, more as soon as one is busy.
//!
//! Requests that share a connection to Redis leave in batches, and the fewer workers the sessions are on, the larger the
//! batches: on two workers the same load costs half as much again as on one. So sessions are packed on the first workers
//! and spread only when one of these is busy. Sessions at rest then change threads; none is interrupted.
//!
//! ```text
//!   one active worker busy, or the sum over half of what they have ──► more active, sessions move there
//!   all could be had on fewer workers, for a long time             ──► fewer active, sessions move away
//!   one busy, another half as busy                                 ──► some sessions move between the two
//! ```
//!
//! With a connection to Redis for each client there are no batches: all workers are active then.

use std::time::{Duration, Instant};

/// What one worker does at present.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Work {
    /// Sessions on it.
    pub(super) sessions: usize,
    /// Share of a core that it has used since the last look.
    pub(super) busy: f64,
}

/// So many sessions of one worker should go on with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) sessions: usize,
}

/// Decides; see the module's documentation.
#[derive(Debug)]
pub(super) struct Packing {
    workers: usize,
    /// Share of a core from which a worker is busy: above it requests begin to wait for each other.
    busy: f64,
    active: usize,
    /// Fewer workers would do since then.
    calm_since: Option<Instant>,
    /// What was decided last must show before anything else is decided.
    settled_at: Option<Instant>,
}

impl Packing {
    /// One active worker of so many, each of which is busy from this share of a core on.
    pub(super) fn new(workers: usize, busy: f64) -> Self {
        Self {
            workers,
            busy,
            active: 1,
            calm_since: None,
            settled_at: None,
        }
    }

    /// Another share of a core from which a worker is busy, from now on.
    pub(super) fn expect(&mut self, busy: f64) {
        self.busy = busy;
    }

    /// Workers that take new sessions: the first ones.
    pub(super) fn active(&self) -> usize {
        self.active
    }

    /// Every worker is active; nothing is packed.
    pub(super) fn spread(&mut self) {
        self.active = self.workers;
        self.calm_since = None;
    }

    /// Looks at what the workers do and says which sessions should move.
    pub(super) fn look(&mut self, now: Instant, work: &[Work]) -> Vec<Move> {
        let total: f64 = work.iter().map(|work| work.busy).sum();
        if self.settled_at.is_some_and(|at| now < at) {
            return Vec::new();
        }
        let active = work.get(..self.active).unwrap_or(work);
        let Some(busiest) = extreme(active, |a, b| a.busy > b.busy) else {
            return Vec::new();
        };
        let is_busy = active.get(busiest).is_some_and(|work| work.busy >= self.busy);
        if is_busy && self.active < self.workers {
            return self.grow(now, total, work);
        }
        if is_busy {
            return self.even_out(now, active, busiest);
        }
        self.shrink(now, total, work)
    }

    fn grow(&mut self, now: Instant, total: f64, work: &[Work]) -> Vec<Move> {
        let before = self.active;
        let mut wanted = before + 1;
        while wanted < self.workers && total > float(wanted) * self.busy * COMFORT {
            wanted += 1;
        }
        self.active = wanted;
        self.decided(now);
        let sessions: usize = work.iter().map(|work| work.sessions).sum();
        let fair = sessions.div_ceil(wanted);
        // Whoever has more than its share hands the rest to the new ones in turn.
        let mut room: Vec<(usize, usize)> = (before..wanted)
            .map(|index| {
                let has = work.get(index).map_or(0, |work| work.sessions);
                (index, fair.saturating_sub(has))
            })
            .collect();
        let mut moves = Vec::new();
        for (from, work) in work.iter().enumerate().take(before) {
            let mut surplus = work.sessions.saturating_sub(fair);
            for (to, room) in &mut room {
                let sessions = surplus.min(*room);
                if sessions > 0 {
                    surplus -= sessions;
                    *room -= sessions;
                    moves.push(Move {
                        from,
                        to: *to,
                        sessions,
                    });
                }
            }
        }
        moves
    }

    /// The busiest has too much and another has not: the sessions that are heard of most move first, since a session
    /// moves when it comes to rest.
    fn even_out(&mut self, now: Instant, active: &[Work], busiest: usize) -> Vec<Move> {
        self.calm_since = None;
        let Some(calmest) = extreme(active, |a, b| a.busy < b.busy) else {
            return Vec::new();
        };
        let (Some(from), Some(to)) = (active.get(busiest), active.get(calmest)) else {
            return Vec::new();
        };
        if to.busy > from.busy / 2.0 || from.sessions < 2 {
            return Vec::new();
        }
        self.decided(now);
        vec![Move {
            from: busiest,
            to: calmest,
            sessions: (from.sessions / 8).max(1),
        }]
    }

    fn shrink(&mut self, now: Instant, total: f64, work: &[Work]) -> Vec<Move> {
        let fewer = self.active.saturating_sub(1);
        if fewer == 0 || total > float(fewer) * self.busy * CALM {
            self.calm_since = None;
            return Vec::new();
        }
        let since = *self.calm_since.get_or_insert(now);
        if now.saturating_duration_since(since) < CALM_TIME {
            return Vec::new();
        }
        self.active = fewer;
        self.decided(now);
        let staying = work.get(..fewer).unwrap_or_default();
        let to = extreme(staying, |a, b| a.sessions < b.sessions).unwrap_or(0);
        // Those that are not heard of stay where they are, which costs nothing; they move when they come to life.
        vec![Move {
            from: fewer,
            to,
            sessions: usize::MAX,
        }]
    }

    fn decided(&mut self, now: Instant) {
        self.calm_since = None;
        self.settled_at = Some(now + SETTLING);
    }
}

/// The first worker that no other comes before.
fn extreme(work: &[Work], before: impl Fn(&Work, &Work) -> bool) -> Option<usize> {
    let mut found: Option<(usize, &Work)> = None;
    for (index, work) in work.iter().enumerate() {
        if found.is_none_or(|(_, best)| before(work, best)) {
            found = Some((index, work));
        }
    }
    found.map(|(index, _)| index)
}

#[allow(clippy::cast_precision_loss, reason = "numbers of threads")]
fn float(workers: usize) -> f64 {
    workers as f64
}

/// Part of what makes a worker busy that each is to have after more have become active.
const COMFORT: f64 = 0.8;

/// Part that each may have at most for one of them to become superfluous. Far below [`COMFORT`], or sessions would
/// wander to and fro.
const CALM: f64 = 0.4;

/// And for so long.
const CALM_TIME: Duration = Duration::from_secs(30);

/// Between two decisions.
const SETTLING: Duration = Duration::from_millis(500);

/// How often to look.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn work(of: &[(usize, f64)]) -> Vec<Work> {
        of.iter()
            .map(|&(sessions, busy)| Work { sessions, busy })
            .collect()
    }

    #[test]
    fn one_worker_serves_until_it_is_busy_and_then_shares_its_sessions() {
        let now = Instant::now();
        let mut packing = Packing::new(4, 0.7);
        assert_eq!(
            packing.look(now, &work(&[(900, 0.6), (0, 0.0), (0, 0.0), (0, 0.0)])),
            []
        );
        assert_eq!(packing.active(), 1);
        let moves = packing.look(now, &work(&[(900, 0.9), (0, 0.0), (0, 0.0), (0, 0.0)]));
        assert_eq!(packing.active(), 2);
        assert_eq!(
            moves,
            [Move {
                from: 0,
                to: 1,
                sessions: 450
            }]
        );
    }

    #[test]
    fn what_was_decided_must_show_before_the_next_decision() {
        let now = Instant::now();
        let mut packing = Packing::new(4, 0.7);
        let busy = work(&[(10, 1.0), (0, 0.0), (0, 0.0), (0, 0.0)]);
        packing.look(now, &busy);
        assert_eq!(packing.look(now + SETTLING / 2, &busy), []);
        assert_eq!(packing.active(), 2);
        packing.look(now + SETTLING, &busy);
        assert_eq!(packing.active(), 3);
    }

    #[test]
    fn a_load_of_several_cores_takes_several_steps_at_once() {
        let mut packing = Packing::new(8, 0.7);
        packing.look(Instant::now(), &work(&[(10, 1.0), (0, 0.0)]));
        let later = Instant::now() + SETTLING * 2;
        packing.look(later, &work(&[(10, 1.0), (10, 1.0), (0, 0.0), (0, 0.0)]));
        assert_eq!(packing.active(), 4);
    }

    #[test]
    fn an_uneven_load_moves_some_sessions_of_the_busiest() {
        let now = Instant::now();
        let mut packing = Packing::new(2, 0.7);
        packing.spread();
        let moves = packing.look(now, &work(&[(80, 0.9), (80, 0.2)]));
        assert_eq!(
            moves,
            [Move {
                from: 0,
                to: 1,
                sessions: 10
            }]
        );
        // One heavy client gains nothing by a move.
        let later = now + SETTLING;
        assert_eq!(packing.look(later, &work(&[(1, 0.9), (80, 0.2)])), []);
        assert_eq!(packing.look(later, &work(&[(80, 0.9), (80, 0.6)])), []);
    }

    #[test]
    fn workers_become_superfluous_after_a_long_calm_only() {
        let now = Instant::now();
        let mut packing = Packing::new(2, 0.7);
        packing.spread();
        let calm = work(&[(50, 0.1), (50, 0.1)]);
        assert_eq!(packing.look(now, &calm), []);
        // A peak begins the calm anew.
        assert_eq!(
            packing.look(now + CALM_TIME / 2, &work(&[(50, 0.3), (50, 0.3)])),
            []
        );
        assert_eq!(packing.look(now + CALM_TIME, &calm), []);
        assert_eq!(packing.active(), 2);
        let moves = packing.look(now + CALM_TIME * 2, &calm);
        assert_eq!(packing.active(), 1);
        assert_eq!(
            moves,
            [Move {
                from: 1,
                to: 0,
                sessions: usize::MAX
            }]
        );
    }

    #[test]
    fn a_single_worker_is_left_alone() {
        let mut packing = Packing::new(1, 0.7);
        assert_eq!(packing.look(Instant::now(), &work(&[(50, 1.0)])), []);
        assert_eq!(packing.active(), 1);
    }
}
