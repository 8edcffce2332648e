//! So many wrong passwords a second are told apart from right ones, however many sources ask.
//!
//! A token bucket kept as one instant: when the bucket would be full again. It holds one second's worth.

use std::time::{Duration, Instant};

/// One bucket.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// When everything taken will have come back; `None`: nothing was taken.
    full_at: Option<Instant>,
}

impl Budget {
    /// Takes one of `rate` a second; false when there is none.
    pub(super) fn take(&mut self, rate: u32, now: Instant) -> bool {
        let full_at = self.full_at.filter(|at| *at > now).unwrap_or(now);
        let Some(next) = full_at.checked_add(cost(rate)) else {
            return false;
        };
        if next.saturating_duration_since(now) > DEPTH {
            return false;
        }
        self.full_at = Some(next);
        true
    }

    /// Gives one back: the password was right.
    pub(super) fn give_back(&mut self, rate: u32) {
        self.full_at = self.full_at.and_then(|at| at.checked_sub(cost(rate)));
    }
}

fn cost(rate: u32) -> Duration {
    DEPTH / rate.max(1)
}

/// What a full bucket holds, in time.
const DEPTH: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_gives_the_rate_and_a_success_costs_nothing() {
        let (mut budget, start) = (Budget::default(), Instant::now());
        let taken = |budget: &mut Budget, now| (0..1000).filter(|_| budget.take(50, now)).count();
        assert_eq!(taken(&mut budget, start), 50, "what a full bucket holds");
        for second in 1..10 {
            assert_eq!(taken(&mut budget, start + Duration::from_secs(second)), 50);
        }
        let later = start + Duration::from_secs(100);
        for _ in 0..1000 {
            assert!(budget.take(50, later));
            budget.give_back(50);
        }
        assert_eq!(taken(&mut budget, later), 50);
        assert_eq!(taken(&mut budget, later + Duration::from_millis(100)), 5);
    }

    #[test]
    fn no_rate_and_no_clock_make_it_panic() {
        let start = Instant::now();
        for rate in [0, 1, 3, u32::MAX] {
            let mut budget = Budget::default();
            budget.give_back(rate);
            assert!(budget.take(rate, start));
            budget.take(rate, start - Duration::from_millis(1));
            budget.give_back(rate);
        }
    }
}
