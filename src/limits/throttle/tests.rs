//! Tests of the throttle: delays, lockouts, networks, users, the budget, bounded memory, guesses per hour.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::accounts::KNOWN_FOR;
use super::*;

fn login() -> Login {
    Login {
        timeout: Duration::from_secs(10),
        max_failures: 5,
        max_commands: 16,
        lockout: true,
        lockout_after: 10,
        lockout_window: Duration::from_secs(60),
        lockout_first: Duration::from_secs(10),
        lockout_max: Duration::from_secs(900),
        max_sources: 65_536,
        aggregate_after: 16,
        max_failures_per_second: 1_000_000,
    }
}

/// One of many sources, each in a network of its own.
fn source(n: u32) -> Source {
    Source::V4(Ipv4Addr::from_bits(n << 8))
}

fn at(text: &str) -> Source {
    text.parse::<IpAddr>().unwrap().into()
}

fn attempt(source: Source) -> Attempt<'static> {
    Attempt {
        source,
        listener: 0,
        user: b"app",
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A wrong name: nothing is held against a user.
fn fail(throttle: &Throttle, source: Source, now: Instant) -> Verdict {
    throttle.failed(attempt(source), false, now)
}

fn check(throttle: &Throttle, source: Source, now: Instant) -> Verdict {
    throttle.check(attempt(source), now)
}

fn is_locked(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::LockedOut { .. })
}

fn delay(verdict: Verdict) -> u128 {
    match verdict {
        Verdict::Allow => 0,
        Verdict::Delay(delay, _) => delay.as_millis(),
        Verdict::LockedOut { .. } | Verdict::OverBudget => panic!("{verdict:?}"),
    }
}

fn fail_until_locked(throttle: &Throttle, source: Source, now: Instant) -> Instant {
    for _ in 0..100 {
        if let Verdict::LockedOut { until, begins, .. } = fail(throttle, source, now) {
            assert!(begins);
            return until;
        }
    }
    panic!("never locked out");
}

/// Failures of one source that are remembered.
fn failures(throttle: &Throttle, network: Network, now: Instant) -> u32 {
    let state = throttle.state();
    state.records.failures(network, &state.settings, now)
}

#[test]
fn answers_wait_longer_and_longer_and_then_there_are_none() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    let delays: Vec<_> = (0..9).map(|_| delay(fail(&throttle, source(1), now))).collect();
    assert_eq!(delays, [0, 0, 100, 200, 400, 800, 1600, 2000, 2000]);
    let locked = |begins| Verdict::LockedOut {
        network: Network::Host(source(1)),
        until: now + seconds(10),
        begins,
    };
    assert_eq!(fail(&throttle, source(1), now), locked(true));
    assert_eq!(check(&throttle, source(1), now), locked(false));
    assert_eq!(fail(&throttle, source(1), now), locked(false));
    assert_eq!(check(&throttle, source(2), now), Verdict::Allow);
    assert_eq!(check(&throttle, source(1), now + seconds(10)), Verdict::Allow);
}

#[test]
fn lockouts_double_up_to_the_longest() {
    let (throttle, mut now) = (Throttle::new(&login()), Instant::now());
    let lengths: Vec<_> = (0..9)
        .map(|_| {
            let until = fail_until_locked(&throttle, source(1), now);
            let length = (until - now).as_secs();
            now = until;
            length
        })
        .collect();
    assert_eq!(lengths, [10, 20, 40, 80, 160, 320, 640, 900, 900]);
}

#[test]
fn a_success_clears_the_delay_and_neither_failures_nor_lockouts() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    for n in 1..10 {
        assert_eq!(fail(&throttle, source(1), now), Verdict::Allow, "failure {n}");
        throttle.succeeded(attempt(source(1)), now);
    }
    let Verdict::LockedOut { until, .. } = fail(&throttle, source(1), now) else {
        panic!("not locked")
    };
    throttle.succeeded(attempt(source(1)), now);
    assert!(is_locked(check(&throttle, source(1), now)));
    throttle.succeeded(attempt(source(1)), until);
    let again = fail_until_locked(&throttle, source(1), until);
    assert_eq!((again - until).as_secs(), 20);
}

#[test]
fn a_stale_password_tried_once_a_minute_never_locks_out() {
    let (throttle, mut now) = (Throttle::new(&login()), Instant::now());
    for _ in 0..1000 {
        assert!(!is_locked(fail(&throttle, source(1), now)));
        now += seconds(60);
    }
}

#[test]
fn switched_off_it_allows_everything_and_remembers_nothing() {
    let throttle = Throttle::new(&Login {
        lockout: false,
        max_failures_per_second: 1,
        ..login()
    });
    let now = Instant::now();
    for _ in 0..100 {
        assert_eq!(check(&throttle, source(1), now), Verdict::Allow);
        assert_eq!(fail(&throttle, source(1), now), Verdict::Allow);
        throttle.succeeded(attempt(source(1)), now);
    }
    assert_eq!(throttle.counts(now), Counts::default());
    assert_eq!(throttle.state().accounts.known(), 0);
}

#[test]
fn a_proxy_whose_client_is_not_known_yet_is_never_locked_out() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    for _ in 0..100 {
        assert_eq!(fail(&throttle, Source::Pending, now), Verdict::Allow);
    }
    throttle.succeeded(attempt(Source::Pending), now);
    assert_eq!(throttle.state().accounts.known(), 0);
}

/// Guesses that a source gets in an hour if it always guesses as soon as it may, over parallel connections
/// that do not wait for delayed answers, but keeps `spare` failures below the lockout.
fn guesses_per_hour(spare: u32) -> u32 {
    let (throttle, start) = (Throttle::new(&login()), Instant::now());
    let mut guesses = 0;
    for second in 0..3600 {
        let now = start + seconds(second);
        while guesses < 10_000 && check(&throttle, source(1), now) == Verdict::Allow {
            let known = failures(&throttle, Network::Host(source(1)), now);
            if spare > 0 && known + spare >= 10 {
                break;
            }
            fail(&throttle, source(1), now);
            guesses += 1;
        }
    }
    guesses
}

#[test]
fn a_source_gets_a_few_hundred_guesses_an_hour() {
    let all: Vec<_> = (0..10).map(guesses_per_hour).collect();
    assert!(all.iter().all(|&guesses| guesses <= 310), "{all:?}");
    // Running into the lockout again and again is worth least.
    assert!(all[0] <= 100, "{all:?}");
}

// --- networks ------------------------------------------------------------------------------------------------

/// Guesses that get through from so many sources of a network, each guessing as often as it can at one moment.
fn guesses_of(throttle: &Throttle, sources: impl Iterator<Item = Source>, now: Instant) -> usize {
    let mut guesses = 0;
    for source in sources {
        while guesses < 100_000 && check(throttle, source, now) == Verdict::Allow {
            fail(throttle, source, now);
            guesses += 1;
        }
    }
    guesses
}

#[test]
fn many_sources_of_one_network_count_as_one() {
    let now = Instant::now();
    for (wide, narrow) in [("2001:db8:7", "2001:db8:8"), ("203.0.113", "203.0.114")] {
        let host = |network: &str, n: u32| {
            at(&if network.contains(':') {
                format!("{network}:{n:x}::1")
            } else {
                format!("{network}.{n}")
            })
        };
        let throttle = Throttle::new(&login());
        // One guess each, as a botnet in one network does it.
        let mut guesses = 0;
        for _ in 0..100 {
            for n in 0..250 {
                if check(&throttle, host(wide, n), now) == Verdict::Allow {
                    fail(&throttle, host(wide, n), now);
                    guesses += 1;
                }
            }
        }
        // Fifteen on their own, and ten as one: not 250 times ten.
        assert_eq!(guesses, 25, "{wide}");
        let counts = throttle.counts(now);
        assert_eq!((counts.sources, counts.aggregated, counts.locked), (1, 1, 1));
        let Verdict::LockedOut { network, .. } = check(&throttle, host(wide, 77), now) else {
            panic!("one that never guessed is in the network too");
        };
        assert_eq!(Network::around(host(wide, 1)), Some(network));
        assert_eq!(
            check(&throttle, host(narrow, 1), now),
            Verdict::Allow,
            "the next network"
        );
        // It comes to an end, and is a network again when it goes on.
        let after = now + seconds(10);
        assert_eq!(throttle.sweep(after), [LockoutEnded { network, listener: 0 }]);
        assert_eq!(guesses_of(&throttle, (0..250).map(|n| host(wide, n)), after), 10);
        // And in the end it is forgotten.
        let later = after + seconds(33 * 900);
        throttle.sweep(later);
        assert_eq!(throttle.counts(later).sources, 0);
    }
}

#[test]
fn a_few_sources_of_a_network_are_judged_by_themselves() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    let host = |n: u8| at(&format!("203.0.113.{n}"));
    assert_eq!(guesses_of(&throttle, (0..15).map(host), now), 150);
    let counts = throttle.counts(now);
    assert_eq!((counts.aggregated, counts.locked), (0, 15));
    // Those of before are forgotten: another fifteen, a while later, are not many either.
    let later = now + seconds(1000);
    throttle.sweep(later);
    for n in 100..115 {
        fail(&throttle, host(n), later);
    }
    assert_eq!(throttle.counts(later).aggregated, 0);
    fail(&throttle, host(115), later);
    assert_eq!(throttle.counts(later).aggregated, 1);
}

#[test]
fn a_network_that_was_prepared_in_small_numbers_is_one_when_it_comes() {
    let (throttle, mut now) = (Throttle::new(&login()), Instant::now());
    let host = |n: u8| at(&format!("203.0.113.{n}"));
    // Each has a record of its own: a failure a while ago, some a lockout as well.
    for n in 0..100 {
        fail(&throttle, host(n), now);
        if n < 10 {
            fail_until_locked(&throttle, host(n), now);
        }
        now += seconds(5);
    }
    now += seconds(120);
    throttle.sweep(now);
    let counts = throttle.counts(now);
    assert_eq!((counts.sources, counts.aggregated, counts.locked), (100, 0, 0));
    let mut guesses = 0;
    for _ in 0..20 {
        for n in 0..100 {
            if check(&throttle, host(n), now) == Verdict::Allow {
                fail(&throttle, host(n), now);
                guesses += 1;
            }
        }
    }
    assert_eq!(guesses, 25);
    let lockouts = throttle.in_force(10, now).lockouts;
    assert_eq!(lockouts.len(), 1);
    assert_eq!(
        lockouts[0].times, 2,
        "what its sources had to answer for is not forgotten"
    );
}

#[test]
fn whoever_has_logged_in_is_not_locked_out_with_his_network() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    let honest = at("203.0.113.200");
    throttle.succeeded(attempt(honest), now);
    guesses_of(&throttle, (0..100).map(|n| at(&format!("203.0.113.{n}"))), now);
    assert!(is_locked(check(&throttle, at("203.0.113.201"), now)));
    assert_eq!(check(&throttle, honest, now), Verdict::Allow);
    let other = Attempt {
        user: b"other",
        ..attempt(honest)
    };
    assert!(is_locked(throttle.check(other, now)), "as this user alone");
    // What he does wrong himself is his own affair, not the network's, and the other way about.
    fail_until_locked(&throttle, honest, now);
    let Verdict::LockedOut { network, .. } = check(&throttle, honest, now) else {
        panic!("his own lockout holds");
    };
    assert_eq!(network, Network::Host(honest));
}

#[test]
fn stale_passwords_of_known_sources_are_not_held_against_their_network() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    let pods = || (0..100).map(|n| at(&format!("10.1.2.{n}")));
    for pod in pods() {
        throttle.succeeded(attempt(pod), now);
    }
    // The password is rotated under all of them.
    for pod in pods() {
        assert_eq!(throttle.failed(attempt(pod), true, now), Verdict::Allow);
    }
    let counts = throttle.counts(now);
    assert_eq!((counts.aggregated, counts.locked, counts.slowed), (0, 0, 0));
    // A new pod that is wrong once is one, not the last of a hundred.
    fail(&throttle, at("10.1.2.200"), now);
    assert_eq!(throttle.counts(now).aggregated, 0);
    let next = check(&throttle, at("10.1.2.201"), now);
    assert_eq!(next, Verdict::Allow, "the next one");
}

// --- users ---------------------------------------------------------------------------------------------------

#[test]
fn guesses_at_one_user_from_many_sources_are_answered_later_and_later() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    let honest = source(1_000_000);
    throttle.succeeded(attempt(honest), now);
    let delays: Vec<_> = (0..17)
        .map(|n| delay(throttle.failed(attempt(source(n)), true, now)))
        .collect();
    assert_eq!(delays[..10], [0; 10]);
    assert_eq!(delays[10..], [100, 200, 400, 800, 1600, 2000, 2000]);
    let verdict = throttle.failed(attempt(source(100)), true, now);
    assert_eq!(verdict, Verdict::Delay(seconds(2), Cause::User));
    let slowed = throttle.in_force(10, now).slowed;
    assert_eq!(
        slowed,
        [SlowedUser {
            user: "app".to_owned(),
            listener: 0,
            failures: 18
        }]
    );
    // Another user, and a name that nobody has, are not slowed down.
    let other = Attempt {
        user: b"other",
        ..attempt(source(200))
    };
    assert_eq!(throttle.failed(other, true, now), Verdict::Allow);
    assert_eq!(throttle.failed(attempt(source(201)), false, now), Verdict::Allow);
    // The application itself is not: not when it is right, and not even when it is wrong.
    assert_eq!(check(&throttle, honest, now), Verdict::Allow);
    assert_eq!(throttle.failed(attempt(honest), true, now), Verdict::Allow);
    // Nobody else is kept out by it either.
    assert_eq!(check(&throttle, source(300), now), Verdict::Allow);
    // It is over when the attack is.
    let later = now + seconds(300);
    throttle.sweep(later);
    assert_eq!(throttle.counts(later).slowed, 0);
    assert_eq!(throttle.failed(attempt(source(400)), true, later), Verdict::Allow);
}

#[test]
fn a_source_is_known_for_a_day_and_only_as_that_user() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    throttle.succeeded(attempt(source(1)), now);
    let standing = |user: &[u8], listener, source, now| {
        let state = throttle.state();
        state.accounts.standing(listener, user, source, now)
    };
    assert_eq!(standing(b"app", 0, source(1), now), Standing::Known);
    assert_eq!(standing(b"other", 0, source(1), now), Standing::Stranger);
    assert_eq!(standing(b"app", 1, source(1), now), Standing::Stranger);
    assert_eq!(standing(b"app", 0, source(2), now), Standing::Stranger);
    assert_eq!(standing(b"\xff", 0, source(1), now), Standing::Stranger);
    let beside = Source::V4(Ipv4Addr::from_bits((1 << 8) | 9));
    assert_eq!(standing(b"app", 0, beside, now), Standing::Neighbour);
    let end = now + KNOWN_FOR;
    assert_eq!(standing(b"app", 0, source(1), end), Standing::Stranger);
    assert_eq!(standing(b"app", 0, beside, end), Standing::Stranger);
    throttle.sweep(end);
    assert_eq!(throttle.state().accounts.known(), 0);
    // Renewed by a login.
    throttle.succeeded(attempt(source(1)), now);
    throttle.succeeded(attempt(source(1)), now + seconds(3600));
    assert_eq!(standing(b"app", 0, source(1), end), Standing::Known);
    // Gone with the user.
    throttle.retain_users(1, &|_| false);
    assert_eq!(standing(b"app", 0, source(1), end), Standing::Known);
    throttle.retain_users(0, &|name| name != "app");
    assert_eq!(standing(b"app", 0, source(1), end), Standing::Stranger);
    assert_eq!(throttle.state().accounts.known(), 0);
}

#[test]
fn one_user_has_a_quarter_of_what_is_known() {
    let throttle = Throttle::new(&Login {
        max_sources: 16,
        ..login()
    });
    let now = Instant::now();
    for user in 0..10_u8 {
        for n in 0..100 {
            let name = [b'a' + user];
            let attempt = Attempt {
                user: &name,
                ..attempt(source(n))
            };
            throttle.succeeded(attempt, now + seconds(u64::from(user)));
            let known = throttle.state().accounts.known();
            assert!(known <= 16 && known <= 4 * (usize::from(user) + 1), "{known}");
        }
    }
}

// --- the budget ----------------------------------------------------------------------------------------------

#[test]
fn so_many_verdicts_a_second_and_no_more_however_many_sources_ask() {
    let throttle = Throttle::new(&Login {
        max_failures_per_second: 50,
        ..login()
    });
    let start = Instant::now();
    let (mut verdicts, mut refused) = (0, 0);
    for n in 0..100_000_u32 {
        // Ten seconds, ten thousand sources in each.
        let now = start + Duration::from_micros(u64::from(n) * 100);
        match check(&throttle, source(n), now) {
            Verdict::Allow => {
                fail(&throttle, source(n), now);
                verdicts += 1;
            }
            Verdict::OverBudget => refused += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((540..=551).contains(&verdicts), "{verdicts}");
    assert_eq!(verdicts + refused, 100_000);
    let counts = throttle.counts(start);
    assert_eq!(counts.sources, verdicts, "what got no verdict leaves no record");
}

#[test]
fn a_flood_starves_neither_the_known_nor_their_neighbours_nor_this_machine() {
    let throttle = Throttle::new(&Login {
        max_failures_per_second: 10,
        ..login()
    });
    let now = Instant::now();
    let pod = |n: u32| Source::V4(Ipv4Addr::from_bits((77 << 8) | n));
    throttle.succeeded(attempt(pod(1)), now);
    for n in 1000..2000 {
        if check(&throttle, source(n), now) == Verdict::Allow {
            fail(&throttle, source(n), now);
        }
    }
    assert_eq!(
        check(&throttle, source(1), now),
        Verdict::OverBudget,
        "a stranger"
    );
    for _ in 0..1000 {
        assert_eq!(check(&throttle, pod(1), now), Verdict::Allow, "the application");
        throttle.succeeded(attempt(pod(1)), now);
    }
    // A hundred new pods, each right: what they take comes back.
    for n in 2..102 {
        assert_eq!(check(&throttle, pod(n), now), Verdict::Allow, "pod {n}");
        throttle.succeeded(attempt(pod(n)), now);
    }
    let local = Source::Unix(Some(1000));
    assert_eq!(check(&throttle, local, now), Verdict::Allow);
    throttle.succeeded(attempt(local), now);
    // Neighbours that are wrong have a budget as well.
    let wrong = (110..200)
        .filter(|&n| check(&throttle, pod(n), now) == Verdict::Allow)
        .count();
    assert_eq!(wrong, 10);
}

#[test]
fn in_a_network_that_misbehaves_nobody_is_a_neighbour() {
    let throttle = Throttle::new(&Login {
        max_failures_per_second: 40,
        lockout_after: 1000,
        ..login()
    });
    let now = Instant::now();
    let host = |n: u32| Source::V4(Ipv4Addr::from_bits((77 << 8) | n));
    throttle.succeeded(attempt(host(250)), now);
    for n in 0..16 {
        assert_eq!(check(&throttle, host(n), now), Verdict::Allow);
        fail(&throttle, host(n), now);
    }
    assert_eq!(throttle.counts(now).aggregated, 1);
    for n in 1000..1040 {
        assert_eq!(check(&throttle, source(n), now), Verdict::Allow);
    }
    assert_eq!(check(&throttle, host(100), now), Verdict::OverBudget);
    assert_eq!(
        check(&throttle, host(250), now),
        Verdict::Allow,
        "but for the known"
    );
}

// --- lists, and lifting --------------------------------------------------------------------------------------

#[test]
fn lockouts_are_listed_and_lifted_by_whom_they_hold() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    let wide = |n: u8| at(&format!("203.0.113.{n}"));
    let alone = at("198.51.100.7");
    fail_until_locked(&throttle, alone, now);
    for _ in 0..2 {
        // One guess each.
        for n in 0..100 {
            fail(&throttle, wide(n), now + seconds(2));
        }
    }
    let now = now + seconds(3);
    let network = Network::around(wide(0)).unwrap();
    let listed = throttle.in_force(10, now);
    assert_eq!(
        listed.lockouts,
        [
            Lockout {
                network,
                listener: 0,
                left: seconds(9),
                times: 1
            },
            Lockout {
                network: Network::Host(alone),
                listener: 0,
                left: seconds(7),
                times: 1
            }
        ]
    );
    let short = throttle.in_force(1, now);
    assert_eq!((short.lockouts.len(), short.total), (1, 2));

    let lift = |text: &str| throttle.lift(&Target::from(text), now).lockouts;
    assert_eq!(lift("198.51.100.8"), []);
    assert_eq!(lift("app"), []);
    // One address of the network: it is the network that keeps it out.
    assert_eq!(lift("203.0.113.250"), [LockoutEnded { network, listener: 0 }]);
    assert_eq!(check(&throttle, wide(1), now), Verdict::Allow);
    assert_eq!(lift("198.51.0.0/16").len(), 1);
    assert_eq!(check(&throttle, alone, now), Verdict::Allow);
    assert_eq!(throttle.counts(now).locked, 0);
    assert_eq!(
        throttle.sweep(now + seconds(100)),
        [],
        "what was lifted does not end as well"
    );
    // Lifted is forgotten: the next lockout is a first one.
    let until = fail_until_locked(&throttle, alone, now);
    assert_eq!(until - now, seconds(10));
    assert_eq!(throttle.lift(&Target::All, now).lockouts.len(), 1);
    assert_eq!(throttle.counts(now).sources, 0);
}

#[test]
fn lifting_a_user_forgets_what_strangers_did_to_him() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    for n in 0..20 {
        throttle.failed(attempt(source(n)), true, now);
    }
    assert_eq!(throttle.lift(&Target::from("other"), now), Lifted::default());
    let lifted = throttle.lift(&Target::from("app"), now);
    assert_eq!((lifted.slowed.len(), lifted.lockouts.len()), (1, 0));
    assert_eq!(throttle.counts(now).slowed, 0);
    assert_eq!(throttle.failed(attempt(source(100)), true, now), Verdict::Allow);
}

// --- memory --------------------------------------------------------------------------------------------------

#[test]
fn a_full_table_drops_the_silent_before_the_locked() {
    let login = Login {
        max_sources: 3,
        ..login()
    };
    let (throttle, now) = (Throttle::new(&login), Instant::now());
    fail_until_locked(&throttle, source(1), now);
    fail(&throttle, source(2), now + seconds(1));
    fail(&throttle, source(3), now + seconds(2));
    fail(&throttle, source(4), now + seconds(3));
    let known = |n| failures(&throttle, Network::Host(source(n)), now + seconds(3));
    assert!(is_locked(check(&throttle, source(1), now + seconds(3))));
    assert_eq!((known(2), known(3), known(4)), (0, 1, 1));
    let counts = throttle.counts(now);
    assert_eq!((counts.evicted, counts.evicted_locked), (1, 0));
}

#[test]
fn a_table_full_of_locked_sources_drops_the_one_that_is_free_first() {
    let login = Login {
        max_sources: 2,
        ..login()
    };
    let (throttle, now) = (Throttle::new(&login), Instant::now());
    fail_until_locked(&throttle, source(1), now);
    fail_until_locked(&throttle, source(2), now + seconds(1));
    fail_until_locked(&throttle, source(3), now + seconds(2));
    let counts = throttle.counts(now);
    assert_eq!((counts.sources, counts.locked, counts.evicted_locked), (2, 2, 1));
    assert_eq!(check(&throttle, source(1), now + seconds(2)), Verdict::Allow);
    assert!(is_locked(check(&throttle, source(2), now + seconds(2))));
}

#[test]
fn sources_that_failed_once_do_not_wash_the_record_of_one_that_failed_often() {
    let login = Login {
        max_sources: 64,
        ..login()
    };
    let (throttle, now) = (Throttle::new(&login), Instant::now());
    let guesser = source(1_000_000);
    for _ in 0..9 {
        fail(&throttle, guesser, now);
    }
    for n in 0..100_000 {
        fail(&throttle, source(n), now);
    }
    assert!(is_locked(fail(&throttle, guesser, now)), "the tenth");
    // Nor does it help to fill the table with sources that failed often, so that newcomers are forgotten at once.
    for n in 2_000_000..2_000_200 {
        fail(&throttle, source(n), now);
        fail(&throttle, source(n), now);
    }
    let newcomer = source(3_000_000);
    for n in 0..10 {
        assert_eq!(is_locked(fail(&throttle, newcomer, now)), n == 9, "{n}");
        fail(&throttle, source(4_000_000 + n), now);
    }
    throttle.state().records.audit(64);
}

#[test]
fn a_sweep_returns_each_ended_lockout_once_and_forgets_the_silent() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    let until = fail_until_locked(&throttle, source(1), now);
    let elsewhere = Attempt {
        listener: 1,
        ..attempt(source(2))
    };
    throttle.failed(elsewhere, false, now);
    let locked = || {
        (
            throttle.counts(now).locked,
            throttle.locked_at(0),
            throttle.locked_at(1),
        )
    };
    assert_eq!(locked(), (1, 1, 0));
    assert_eq!(throttle.sweep(now), []);
    let ended = LockoutEnded {
        network: Network::Host(source(1)),
        listener: 0,
    };
    assert_eq!(throttle.sweep(until), [ended]);
    assert_eq!(throttle.sweep(until), []);
    assert_eq!(locked(), (0, 0, 0));
    throttle.sweep(now + seconds(40 * 60));
    assert_eq!(throttle.counts(now).sources, 1);
    throttle.sweep(now + seconds(40 * 900));
    assert_eq!(throttle.counts(now).sources, 0);
}

#[test]
fn a_reload_shrinks_the_table_and_keeps_lockouts_and_what_is_known() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    fail_until_locked(&throttle, source(1), now);
    throttle.succeeded(attempt(source(500)), now);
    for n in 2..100 {
        fail(&throttle, source(n), now);
    }
    throttle.reconfigure(&Login {
        max_sources: 2,
        ..login()
    });
    assert_eq!(throttle.counts(now).sources, 2);
    assert!(is_locked(check(&throttle, source(1), now)));
    assert_eq!(throttle.state().accounts.known(), 1);
}

proptest! {
    /// Any sequence, any settings, clocks that leap: no panic, bounded memory, consistent order and counts.
    #[test]
    fn memory_is_bounded_and_arithmetic_never_panics(
        steps in prop::collection::vec((0_u8..7, 0_u32..80, prop_oneof![0_u64..100_000, Just(u64::MAX / 4)]), 1..400),
        max_sources in 0_usize..20,
        aggregate_after in 0_u32..6,
        lockout_after in 0_u32..5,
        window in prop_oneof![0_u64..100, Just(u64::MAX)],
        first in prop_oneof![0_u64..100, Just(u64::MAX)],
        per_second in prop_oneof![0_u32..5, Just(u32::MAX)],
    ) {
        let throttle = Throttle::new(&Login {
            max_sources,
            aggregate_after,
            lockout_after,
            lockout_window: seconds(window),
            lockout_first: seconds(first),
            max_failures_per_second: per_second,
            ..login()
        });
        let start = Instant::now();
        let mut now = start;
        for (step, who, pause) in steps {
            now = now.checked_add(Duration::from_millis(pause)).unwrap_or(start);
            let name = [b'a' + u8::try_from(who % 3).unwrap()];
            // Four to a network, of both kinds.
            let source = if who % 2 == 0 {
                Source::V4(Ipv4Addr::from_bits(((who / 8) << 8) | (who % 8)))
            } else {
                Source::V6((u64::from(who / 8) << 16) | u64::from(who % 8))
            };
            let attempt = Attempt { source, listener: who as usize % 3, user: &name };
            match step {
                0 => { throttle.check(attempt, now); }
                1..=3 => { throttle.failed(attempt, step > 1, now); }
                4 => throttle.succeeded(attempt, now),
                5 => { throttle.lift(&Target::from("0.0.0.8"), now); }
                _ => { throttle.sweep(now); }
            }
            let state = throttle.state();
            state.records.audit(max_sources.max(1));
            prop_assert!(state.accounts.known() <= max_sources.max(1));
        }
    }
}
