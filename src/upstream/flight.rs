//! Whether requests that could be written should wait for the replies to those that have been.
//!
//! Replies come in the order of the requests, so a request that is written while others are in flight is not answered
//! before them. Where Redis is near it may as well wait for their replies: it is late by a fraction of a millisecond at most,
//! and with what gathers meanwhile it makes one batch, where many small ones would each cost us a write and Redis a wake-up.
//! Where a round trip takes long, it is worth more to have several batches under way.

use std::time::Duration;

use tokio::time::Instant;

/// So long may a round trip take, smoothed, for requests to wait for it.
const NEAR: Duration = Duration::from_micros(200);

/// What of one lane is in flight, and how long a flight takes.
#[derive(Debug, Default)]
pub(super) struct Flight {
    /// Replies that have come whole.
    answered: u64,
    /// Requests that had been written when nothing was left to be written.
    written: u64,
    /// A batch that is being timed: how many replies end it, and when it left.
    timed: Option<(u64, Instant)>,
    /// Smoothed; zero before the first batch has been answered.
    round_trip: Duration,
}

impl Flight {
    /// Whether what has not been written should wait for the replies to what has: they will come, and soon.
    pub(super) fn is_worth_waiting_for(&self) -> bool {
        self.answered < self.written && self.is_short()
    }

    /// Whether Redis is near.
    pub(super) fn is_short(&self) -> bool {
        self.round_trip < NEAR
    }

    /// All requests up to the one with this number, counted from the lane's beginning, have been written.
    pub(super) fn departs(&mut self, number: u64, now: impl FnOnce() -> Instant) {
        self.written = number;
        self.timed.get_or_insert_with(|| (number, now()));
    }

    /// One more reply has come whole.
    pub(super) fn answered(&mut self) {
        self.answered = self.answered.saturating_add(1);
    }

    /// All replies of one read have been counted.
    pub(super) fn lands(&mut self, now: impl FnOnce() -> Instant) {
        if let Some((_, since)) = self.timed.take_if(|(end, _)| *end <= self.answered) {
            let taken = now().saturating_duration_since(since);
            self.round_trip = self.round_trip.saturating_mul(7).saturating_add(taken) / 8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One batch of so many requests, answered after so long.
    fn fly(flight: &mut Flight, requests: u64, taken: Duration) {
        let start = Instant::now();
        flight.departs(flight.written + requests, || start);
        for _ in 0..requests {
            flight.answered();
        }
        flight.lands(|| start + taken);
    }

    #[test]
    fn requests_wait_for_the_replies_to_all_that_are_in_flight() {
        let mut flight = Flight::default();
        assert!(!flight.is_worth_waiting_for(), "nothing is in flight");
        let start = Instant::now();
        flight.departs(2, || start);
        assert!(flight.is_worth_waiting_for());
        flight.answered();
        flight.lands(|| start);
        assert!(flight.is_worth_waiting_for(), "one reply is missing");
        flight.answered();
        flight.lands(|| start);
        assert!(!flight.is_worth_waiting_for());
    }

    #[test]
    fn they_do_not_where_a_round_trip_takes_long() {
        let mut flight = Flight::default();
        for _ in 0..100 {
            fly(&mut flight, 3, Duration::from_millis(1));
        }
        flight.departs(flight.written + 1, Instant::now);
        assert!(!flight.is_worth_waiting_for());
        flight.answered();
        flight.lands(Instant::now);
        // Redis has come nearer.
        for _ in 0..100 {
            fly(&mut flight, 3, Duration::from_micros(50));
        }
        flight.departs(flight.written + 1, Instant::now);
        assert!(flight.is_worth_waiting_for());
    }

    #[test]
    fn one_slow_command_changes_little() {
        let mut flight = Flight::default();
        for _ in 0..100 {
            fly(&mut flight, 1, Duration::from_micros(50));
        }
        fly(&mut flight, 1, Duration::from_millis(1));
        flight.departs(flight.written + 1, Instant::now);
        assert!(flight.is_worth_waiting_for());
    }

    #[test]
    fn a_batch_that_leaves_while_one_is_timed_does_not_disturb_it() {
        let mut flight = Flight::default();
        let start = Instant::now();
        flight.departs(1, || start);
        flight.departs(5, || panic!("it is not timed"));
        flight.answered();
        flight.lands(|| start + Duration::from_micros(80));
        assert_eq!(flight.round_trip, Duration::from_micros(10));
        assert!(flight.is_worth_waiting_for());
    }
}
