//! Who may be in a TLS handshake on one worker (rule L-20): the policy, without sockets, timers or clock.
//!
//! ```text
//!   enter ──► waiting (first come, first served) ──► holds a place ──► leave
//!                                                         │
//!                     others wait, and it is older than the grace: asked to give way ──► leave
//! ```
//!
//! A bare limit would let as many clients that send one byte and stall keep everybody out. So a place is kept only
//! as long as nobody else wants it, or for the grace. The grace counts from when the place was taken, not from the
//! client's last byte: otherwise a byte now and then would hold the place (as in L-21, no byte extends a deadline).
//! Between these two moments it is the client that keeps us waiting: our own part is done as soon as its bytes are here.
//! Whoever is asked is to go on first with what has arrived, and keeps what that completes. So a client is never sent
//! away for our own slowness, and a storm of clients that answer evicts nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How many handshakes a worker has in progress, and how patient it is when others wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandshakeRules {
    /// Places (`server.max_tls_handshakes`).
    pub max: usize,
    /// How long a place is kept although others wait (`server.tls_handshake_grace`).
    pub grace: Duration,
}

/// The places of one worker. Its owner tells it what happens and when, and does what it says.
#[derive(Debug)]
pub struct Handshakes {
    rules: HandshakeRules,
    next: u64,
    holders: BTreeMap<Ticket, Holder>,
    /// First come, first served. Bounded by the budget of connections that have not logged in (L-23).
    waiting: BTreeSet<Ticket>,
}

/// One connection's turn; later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Holder {
    since: Instant,
    asked: bool,
}

impl Handshakes {
    /// No places taken. The rules are those of the last [`Handshakes::enter`], so that a reload needs no message.
    pub fn new(rules: HandshakeRules) -> Self {
        Self {
            rules,
            next: 0,
            holders: BTreeMap::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// Takes a place, or queues for one: [`Handshakes::holds`] tells which.
    pub fn enter(&mut self, rules: HandshakeRules, now: Instant) -> Ticket {
        self.rules = rules;
        let ticket = Ticket(self.next);
        self.next = self.next.wrapping_add(1);
        self.waiting.insert(ticket);
        // Whoever waits already goes first.
        if self.waiting.len() == 1 {
            self.admit(now);
        }
        ticket
    }

    /// Takes a place if one is free and nobody waits.
    pub fn try_enter(&mut self, rules: HandshakeRules, now: Instant) -> Option<Ticket> {
        self.rules = rules;
        let free = self.waiting.is_empty() && self.holders.len() < rules.max;
        free.then(|| self.enter(rules, now))
    }

    /// Gives the next in the queue a free place; to be asked until there is none. The grace begins: if its owner is slow
    /// to notice, that is what giving way in good order is for ([`Handshakes::begin`]).
    pub fn admit(&mut self, now: Instant) -> Option<Ticket> {
        if self.holders.len() >= self.rules.max {
            return None;
        }
        let ticket = self.waiting.pop_first()?;
        self.holders.insert(
            ticket,
            Holder {
                since: now,
                asked: false,
            },
        );
        Some(ticket)
    }

    /// The handshake begins now: the time between being given the place and noticing it was not the client's doing.
    pub fn begin(&mut self, ticket: Ticket, now: Instant) {
        if let Some(holder) = self.holders.get_mut(&ticket) {
            holder.since = now;
            holder.asked = false;
        }
    }

    /// Whether this one holds a place.
    pub fn holds(&self, ticket: Ticket) -> bool {
        self.holders.contains_key(&ticket)
    }

    /// Whether this one is to give its place up, unless what has arrived completes the handshake.
    pub fn must_yield(&self, ticket: Ticket) -> bool {
        self.holders.get(&ticket).is_some_and(|holder| holder.asked)
    }

    /// Gives a place or a turn in the queue back, whatever became of it; then [`Handshakes::admit`] others.
    pub fn leave(&mut self, ticket: Ticket) {
        if self.holders.remove(&ticket).is_none() {
            self.waiting.remove(&ticket);
        }
    }

    /// Asks the one that has kept its place longest to give way, if that is longer than the grace and somebody waits
    /// who is not about to get a place already. To be asked until it names nobody.
    pub fn ask(&mut self, now: Instant) -> Option<Ticket> {
        let (ticket, since) = self.stalest()?;
        if now.saturating_duration_since(since) < self.rules.grace {
            return None;
        }
        self.holders.get_mut(&ticket)?.asked = true;
        Some(ticket)
    }

    /// When to [`Handshakes::ask`] next; `None`: not before something else happens.
    pub fn next_ask(&self) -> Option<Instant> {
        let (_, since) = self.stalest()?;
        since.checked_add(self.rules.grace)
    }

    /// Who would have to go first; nobody while as many are going as wait.
    fn stalest(&self) -> Option<(Ticket, Instant)> {
        let going = self.holders.values().filter(|holder| holder.asked).count();
        if self.waiting.len() <= going {
            return None;
        }
        let staying = self.holders.iter().filter(|(_, holder)| !holder.asked);
        staying
            .map(|(ticket, holder)| (*ticket, holder.since))
            .min_by_key(|&(ticket, since)| (since, ticket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: HandshakeRules = HandshakeRules {
        max: 2,
        grace: Duration::from_millis(250),
    };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Everybody whose turn it is.
    fn admitted(policy: &mut Handshakes, now: Instant) -> Vec<Ticket> {
        std::iter::from_fn(|| policy.admit(now)).collect()
    }

    fn asked(policy: &mut Handshakes, now: Instant) -> Vec<Ticket> {
        std::iter::from_fn(|| policy.ask(now)).collect()
    }

    #[test]
    fn places_are_given_out_in_the_order_of_arrival() {
        let (mut policy, now) = (Handshakes::new(RULES), Instant::now());
        let tickets: Vec<Ticket> = (0..5).map(|_| policy.enter(RULES, now)).collect();
        let holding = |policy: &Handshakes| -> Vec<bool> {
            tickets.iter().map(|ticket| policy.holds(*ticket)).collect()
        };
        assert_eq!(holding(&policy), [true, true, false, false, false]);
        // One that gives up waiting leaves no gap behind.
        policy.leave(tickets[2]);
        policy.leave(tickets[0]);
        assert_eq!(admitted(&mut policy, now), [tickets[3]]);
        assert_eq!(holding(&policy), [false, true, false, true, false]);
        policy.leave(tickets[1]);
        policy.leave(tickets[3]);
        assert_eq!(admitted(&mut policy, now), [tickets[4]]);
        // A place is free, and somebody who comes now does not wait for nobody.
        let late = policy.enter(RULES, now);
        assert!(policy.holds(late));
    }

    #[test]
    fn nobody_is_asked_to_go_while_nobody_waits() {
        let (mut policy, now) = (Handshakes::new(RULES), Instant::now());
        let _stalled = [policy.enter(RULES, now), policy.enter(RULES, now)];
        assert_eq!(policy.next_ask(), None);
        assert_eq!(asked(&mut policy, now + ms(60_000)), []);
    }

    #[test]
    fn the_oldest_gives_way_after_the_grace_and_not_before() {
        let (mut policy, now) = (Handshakes::new(RULES), Instant::now());
        let first = policy.enter(RULES, now);
        let second = policy.enter(RULES, now + ms(100));
        let third = policy.enter(RULES, now + ms(110));
        assert_eq!(policy.next_ask(), Some(now + ms(250)));
        assert_eq!(asked(&mut policy, now + ms(249)), []);
        assert_eq!(asked(&mut policy, now + ms(250)), [first]);
        assert!(policy.must_yield(first) && !policy.must_yield(second));
        // One waits and one goes: that is enough, however old the other one becomes.
        assert_eq!(policy.next_ask(), None);
        assert_eq!(asked(&mut policy, now + ms(9_000)), []);
        policy.leave(first);
        assert_eq!(admitted(&mut policy, now + ms(251)), [third]);
    }

    #[test]
    fn as_many_go_as_wait() {
        let rules = HandshakeRules { max: 64, ..RULES };
        let (mut policy, now) = (Handshakes::new(rules), Instant::now());
        let stalled: Vec<Ticket> = (0..64).map(|_| policy.enter(rules, now)).collect();
        let honest: Vec<Ticket> = (0..10).map(|_| policy.enter(rules, now + ms(1))).collect();
        assert_eq!(asked(&mut policy, now + ms(250)), stalled[..10]);
        for ticket in &stalled[..10] {
            policy.leave(*ticket);
        }
        assert_eq!(admitted(&mut policy, now + ms(251)), honest);
        // Those who took their places are as patiently treated as the first ones were.
        policy.enter(rules, now + ms(252));
        assert_eq!(asked(&mut policy, now + ms(253)), [stalled[10]]);
    }

    #[test]
    fn the_grace_begins_when_the_handshake_does() {
        let (mut policy, now) = (Handshakes::new(RULES), Instant::now());
        let slow = policy.enter(RULES, now);
        policy.enter(RULES, now);
        policy.enter(RULES, now);
        // The worker was busy for a second.
        policy.begin(slow, now + ms(1_000));
        assert!(!asked(&mut policy, now + ms(1_001)).contains(&slow));
    }

    #[test]
    fn a_storm_of_clients_that_answer_evicts_nobody() {
        let rules = HandshakeRules { max: 64, ..RULES };
        let (mut policy, start) = (Handshakes::new(rules), Instant::now());
        let all: BTreeSet<Ticket> = (0..10_000).map(|_| policy.enter(rules, start)).collect();
        let (mut done, mut now) = (0, start);
        while done < all.len() {
            // Each round serves all that hold a place; the next one gets their answers.
            now += ms(100);
            assert_eq!(asked(&mut policy, now), []);
            let holders: Vec<Ticket> = policy.holders.keys().copied().collect();
            assert!(!holders.is_empty() && holders.len() <= 64);
            for ticket in holders {
                policy.leave(ticket);
                done += 1;
                for next in admitted(&mut policy, now) {
                    policy.begin(next, now);
                }
            }
        }
        assert!(policy.waiting.is_empty());
    }

    #[test]
    fn refused_clients_take_no_place_that_others_want() {
        let (mut policy, now) = (Handshakes::new(RULES), Instant::now());
        let one = policy.try_enter(RULES, now).unwrap();
        assert!(policy.try_enter(RULES, now).is_some());
        assert_eq!(policy.try_enter(RULES, now), None);
        assert!(policy.waiting.is_empty());
        let waiting = policy.enter(RULES, now);
        policy.leave(one);
        assert_eq!(policy.try_enter(RULES, now), None, "it is not its turn");
        assert_eq!(admitted(&mut policy, now), [waiting]);
    }

    #[test]
    fn other_rules_hold_from_the_next_client_on() {
        let (mut policy, now) = (Handshakes::new(RULES), Instant::now());
        let tickets: Vec<Ticket> = (0..3).map(|_| policy.enter(RULES, now)).collect();
        let more = HandshakeRules { max: 4, ..RULES };
        let fourth = policy.enter(more, now);
        assert_eq!(admitted(&mut policy, now), [tickets[2], fourth]);
        let fewer = HandshakeRules { max: 1, ..RULES };
        let fifth = policy.enter(fewer, now);
        for ticket in &tickets {
            policy.leave(*ticket);
            assert_eq!(admitted(&mut policy, now), []);
        }
        policy.leave(fourth);
        assert_eq!(admitted(&mut policy, now), [fifth]);
    }
}
