//! Whose TLS handshake a worker goes on with (rule L-20): the policy, without sockets, timers or clock.
//!
//! A handshake costs a session's neighbours half a millisecond, and a reconnect storm brings thousands at once. So at
//! most so many are at work in one *round*: the time in which the worker polls everything that is ready once. The others
//! take their turn in the next rounds, first come, first served, and sessions get theirs in between.
//!
//! A handshake is at work while there is something to compute. One whose client has gone silent takes no turn and keeps
//! nobody out: a limit on handshakes begun would let as many clients that stall lock everybody else out, and to evict the
//! slow ones only raises the number that it takes. How many may be begun and for how long is what the budget of strangers
//! (L-23) and the deadline of the login (L-21) say.

use std::collections::BTreeSet;

/// The turns of one worker. Its owner tells it when a round is over, and wakes whom it names.
#[derive(Debug, Default)]
pub struct Turns {
    max: usize,
    /// In this round.
    taken: usize,
    next: u64,
    /// First come, first served. Bounded by the connections that have not logged in (L-23).
    queue: BTreeSet<Ticket>,
}

/// A place in the queue for a turn; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Turns {
    /// Takes a turn, of which a round has `max` (`server.max_tls_handshakes`; the latest number holds).
    ///
    /// # Errors
    /// There is none left in this round, or others wait already: a place in the queue, until [`Turns::admit`] names it.
    pub fn take(&mut self, max: usize) -> Result<(), Ticket> {
        self.max = max;
        if self.queue.is_empty() && self.taken < max {
            self.taken = self.taken.saturating_add(1);
            return Ok(());
        }
        let ticket = Ticket(self.next);
        self.next = self.next.wrapping_add(1);
        self.queue.insert(ticket);
        Err(ticket)
    }

    /// Everything that was ready has been polled once.
    pub fn next_round(&mut self) {
        self.taken = 0;
    }

    /// Gives a turn of this round to the first in the queue; to be asked until it names nobody.
    pub fn admit(&mut self) -> Option<Ticket> {
        if self.taken >= self.max {
            return None;
        }
        let ticket = self.queue.pop_first()?;
        self.taken = self.taken.saturating_add(1);
        Some(ticket)
    }

    /// Whether this one still queues.
    pub fn is_queued(&self, ticket: Ticket) -> bool {
        self.queue.contains(&ticket)
    }

    /// Whoever waited waits no longer.
    pub fn forget(&mut self, ticket: Ticket) {
        self.queue.remove(&ticket);
    }

    /// Whether nobody has taken or wants a turn: the next round need not be counted.
    pub fn is_idle(&self) -> bool {
        self.taken == 0 && self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everybody whose turn it is.
    fn admitted(turns: &mut Turns) -> Vec<Ticket> {
        std::iter::from_fn(|| turns.admit()).collect()
    }

    #[test]
    fn a_round_has_so_many_turns_and_the_others_go_in_the_order_of_arrival() {
        let mut turns = Turns::default();
        assert!(turns.is_idle());
        assert_eq!([turns.take(2), turns.take(2)], [Ok(()), Ok(())]);
        let queued: Vec<Ticket> = (0..5).map(|_| turns.take(2).unwrap_err()).collect();
        assert_eq!(admitted(&mut turns), []);
        turns.next_round();
        assert_eq!(admitted(&mut turns), queued[..2]);
        assert!(!turns.is_queued(queued[0]) && turns.is_queued(queued[2]));
        // A newcomer does not overtake those who wait, and one that leaves takes no turn with it.
        let late = turns.take(2).unwrap_err();
        turns.forget(queued[2]);
        turns.next_round();
        assert_eq!(admitted(&mut turns), queued[3..5]);
        turns.next_round();
        assert_eq!(admitted(&mut turns), [late]);
        assert_eq!(turns.take(2), Ok(()), "one turn of this round is left");
        assert!(turns.take(2).is_err());
        turns.next_round();
        admitted(&mut turns);
        turns.next_round();
        assert!(turns.is_idle());
    }

    #[test]
    fn a_storm_is_served_whole_in_bounded_rounds() {
        let mut turns = Turns::default();
        let mut served = 0;
        for _ in 0..10_000 {
            served += usize::from(turns.take(64).is_ok());
        }
        assert_eq!(served, 64);
        let mut rounds = 1;
        while served < 10_000 {
            turns.next_round();
            let now = admitted(&mut turns).len();
            assert!((1..=64).contains(&now), "{now} in one round");
            served += now;
            rounds += 1;
        }
        assert_eq!(rounds, 157);
    }

    #[test]
    fn another_number_holds_at_once() {
        let mut turns = Turns::default();
        assert_eq!(turns.take(1), Ok(()));
        let queued: Vec<Ticket> = (0..3).map(|_| turns.take(1).unwrap_err()).collect();
        let fourth = turns.take(8).unwrap_err();
        assert_eq!(admitted(&mut turns), [&queued[..], &[fourth]].concat());
    }
}
