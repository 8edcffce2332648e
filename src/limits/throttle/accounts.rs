//! Failed logins per user, and the sources that a user is known to come from.
//!
//! **Why a user is slowed down and never locked.** A lockout of a user is a switch in the hands of strangers: whoever
//! knows the name turns the application off. So nothing here ever refuses anybody. What a botnet gets for guessing at
//! one user is that the *refusals* come later and later; a right password is answered at once, always.
//!
//! That alone does not stop who hangs up and asks again on the next connection: it ties down a connection for each
//! guess, of which strangers have few (rule L-23). What bounds the guesses themselves is the record of each source and,
//! however many sources there are, the budget over all of them.
//!
//! **Known sources.** Where a user has logged in from within [`KNOWN_FOR`], he is no stranger: his failures there (a
//! password that a rotation left behind) are neither slowed down on others' account nor held against others, the budget
//! of strangers is not his, and the lockout of the network around him is not for him. His own record and lockout are.
//! Only somebody who knew the password makes a source known, for that user and no other; so strangers cannot fill
//! this memory, and a user has at most a quarter of it, so that one whose password leaked cannot push the others out.
//! It is about addresses, not passwords: it outlives a rotation (when it is needed most) and ends when the user is taken
//! out of the configuration.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::super::{Network, Source};
use super::{Fading, SlowedUser};

/// All users of all listeners. Holds configured names only, so the configuration bounds it.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// By listener: two listeners may know different users by one name.
    by_listener: HashMap<usize, HashMap<Box<str>, Account>>,
    next: u64,
    /// When each known source last logged in.
    known: BTreeMap<(Owner, Source), Instant>,
    /// The same, the longest silent first.
    by_age: BTreeSet<(Instant, Owner, Source)>,
    /// How many each user has; none is not in it.
    counts: HashMap<Owner, usize>,
}

/// Listener and number of a user.
type Owner = (usize, u64);

#[derive(Debug)]
struct Account {
    number: u64,
    /// Failures from sources that this user is not known to come from.
    failures: Fading,
}

/// How a source stands to the user whose name it gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Never seen as this user, or the user does not exist.
    Stranger,
    /// This user has logged in from the network around it.
    Neighbour,
    /// This user has logged in from it.
    Known,
}

impl Accounts {
    /// How a source stands to a user, of whom nobody says that he exists.
    pub(super) fn standing(&self, listener: usize, user: &[u8], source: Source, now: Instant) -> Standing {
        let Some(owner) = self.owner(listener, user) else {
            return Standing::Stranger;
        };
        let fresh = |at: &Instant| now.saturating_duration_since(*at) < KNOWN_FOR;
        if self.known.get(&(owner, source)).is_some_and(fresh) {
            return Standing::Known;
        }
        let Some(network) = Network::around(source) else {
            return Standing::Stranger;
        };
        let (first, last) = network.hosts().into_inner();
        let mut neighbours = self.known.range((owner, first)..=(owner, last));
        if neighbours.any(|(_, at)| fresh(at)) {
            Standing::Neighbour
        } else {
            Standing::Stranger
        }
    }

    /// Counts a stranger's failure at a configured user; how many there are that are not forgotten.
    pub(super) fn failed(&mut self, listener: usize, user: &str, window: Duration, now: Instant) -> u32 {
        self.account(listener, user).failures.add(window, now)
    }

    /// Remembers where a user comes from; `max` sources in all.
    pub(super) fn succeeded(
        &mut self,
        listener: usize,
        user: &str,
        source: Source,
        max: usize,
        now: Instant,
    ) {
        if source == Source::Pending {
            return;
        }
        let owner = (listener, self.account(listener, user).number);
        if let Some(at) = self.known.get_mut(&(owner, source)) {
            // A storm of logins is not to be a storm of work.
            if now.saturating_duration_since(*at) >= REFRESH {
                self.by_age.remove(&(*at, owner, source));
                *at = now;
                self.by_age.insert((now, owner, source));
            }
            return;
        }
        if self
            .counts
            .get(&owner)
            .is_some_and(|count| *count >= max.div_ceil(4))
        {
            return;
        }
        while self.known.len() >= max.max(1) && self.forget_oldest() {}
        let count = self.counts.entry(owner).or_insert(0);
        *count = count.saturating_add(1);
        self.known.insert((owner, source), now);
        self.by_age.insert((now, owner, source));
    }

    /// Forgets what is too old, a bounded number at a time.
    pub(super) fn sweep(&mut self, window: Duration, now: Instant, at_once: usize) {
        for _ in 0..at_once {
            match self.by_age.first() {
                Some((at, ..)) if now.saturating_duration_since(*at) >= KNOWN_FOR => {
                    self.forget_oldest();
                }
                _ => break,
            }
        }
        for (listener, users) in &mut self.by_listener {
            users.retain(|_, account| {
                self.counts.contains_key(&(*listener, account.number))
                    || account.failures.count(window, now) > 0
            });
        }
    }

    /// Forgets a listener's users that are configured no more.
    pub(super) fn retain(&mut self, listener: usize, keep: &dyn Fn(&str) -> bool) {
        let Some(users) = self.by_listener.get_mut(&listener) else {
            return;
        };
        let mut gone = BTreeSet::new();
        users.retain(|name, account| {
            let kept = keep(name);
            if !kept {
                gone.insert((listener, account.number));
            }
            kept
        });
        if !gone.is_empty() {
            self.known.retain(|(owner, _), _| !gone.contains(owner));
            self.by_age.retain(|(_, owner, _)| !gone.contains(owner));
            self.counts.retain(|owner, _| !gone.contains(owner));
        }
    }

    /// Users with at least so many failures.
    pub(super) fn slowed(&self, after: u32, window: Duration, now: Instant) -> Vec<SlowedUser> {
        let mut slowed = Vec::new();
        for (listener, users) in &self.by_listener {
            for (name, account) in users {
                let failures = account.failures.count(window, now);
                if failures >= after {
                    slowed.push(SlowedUser {
                        user: String::from(&**name),
                        listener: *listener,
                        failures,
                    });
                }
            }
        }
        slowed.sort_unstable_by(|a, b| (&a.user, a.listener).cmp(&(&b.user, b.listener)));
        slowed
    }

    /// Forgets the failures of a user, or of all (`None`), at every listener; whose they were.
    pub(super) fn forgive(
        &mut self,
        user: Option<&str>,
        after: u32,
        window: Duration,
        now: Instant,
    ) -> Vec<SlowedUser> {
        let mut slowed = self.slowed(after, window, now);
        slowed.retain(|slowed| user.is_none_or(|user| slowed.user == user));
        for users in self.by_listener.values_mut() {
            for (name, account) in users {
                if user.is_none_or(|user| **name == *user) {
                    account.failures = Fading::default();
                }
            }
        }
        slowed
    }

    /// Known sources of all users.
    #[cfg(test)]
    pub(super) fn known(&self) -> usize {
        assert_eq!(self.known.len(), self.by_age.len());
        assert_eq!(self.counts.values().sum::<usize>(), self.known.len());
        self.known.len()
    }

    fn owner(&self, listener: usize, user: &[u8]) -> Option<Owner> {
        let user = std::str::from_utf8(user).ok()?;
        let account = self.by_listener.get(&listener)?.get(user)?;
        Some((listener, account.number))
    }

    fn account(&mut self, listener: usize, user: &str) -> &mut Account {
        let users = self.by_listener.entry(listener).or_default();
        users.entry(user.into()).or_insert_with(|| {
            self.next = self.next.wrapping_add(1);
            Account {
                number: self.next,
                failures: Fading::default(),
            }
        })
    }

    fn forget_oldest(&mut self) -> bool {
        let Some((_, owner, source)) = self.by_age.pop_first() else {
            return false;
        };
        self.known.remove(&(owner, source));
        if let Some(count) = self.counts.get_mut(&owner) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&owner);
            }
        }
        true
    }
}

/// So long after the last login a source is known: over a night, and over a restart once a day.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// A login renews what is known at most so often.
const REFRESH: Duration = Duration::from_secs(60);
