//! Tests of the login throttle: delays, lockouts, bounded memory, guesses per hour.

use std::net::Ipv4Addr;

use proptest::prelude::*;

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
    }
}

fn source(n: u32) -> Source {
    Source::V4(Ipv4Addr::from_bits(n))
}

fn fail_until_locked(throttle: &Throttle, source: Source, now: Instant) -> Instant {
    for _ in 0..100 {
        if let Verdict::LockedOut { until, begins } = throttle.failed(source, 0, now) {
            assert!(begins);
            return until;
        }
    }
    panic!("never locked out");
}

#[test]
fn answers_wait_longer_and_longer_and_then_there_are_none() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    let delays: Vec<_> = (0..9)
        .map(|_| match throttle.failed(source(1), 0, now) {
            Verdict::Allow => 0,
            Verdict::Delay(delay) => delay.as_millis(),
            Verdict::LockedOut { .. } => panic!("too early"),
        })
        .collect();
    assert_eq!(delays, [0, 0, 100, 200, 400, 800, 1600, 2000, 2000]);
    let until = now + Duration::from_secs(10);
    assert_eq!(
        throttle.failed(source(1), 0, now),
        Verdict::LockedOut { until, begins: true }
    );
    assert_eq!(
        throttle.check(source(1), now),
        Verdict::LockedOut { until, begins: false }
    );
    assert_eq!(
        throttle.failed(source(1), 0, now),
        Verdict::LockedOut { until, begins: false }
    );
    assert_eq!(throttle.check(source(2), now), Verdict::Allow);
    assert_eq!(throttle.check(source(1), until), Verdict::Allow);
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
        let verdict = throttle.failed(source(1), 0, now);
        assert_eq!(verdict, Verdict::Allow, "failure {n}");
        throttle.succeeded(source(1), now);
    }
    let Verdict::LockedOut { until, .. } = throttle.failed(source(1), 0, now) else {
        panic!("not locked")
    };
    throttle.succeeded(source(1), now);
    assert!(matches!(
        throttle.check(source(1), now),
        Verdict::LockedOut { .. }
    ));
    throttle.succeeded(source(1), until);
    let again = fail_until_locked(&throttle, source(1), until);
    assert_eq!((again - until).as_secs(), 20);
}

#[test]
fn a_stale_password_tried_once_a_minute_never_locks_out() {
    let (throttle, mut now) = (Throttle::new(&login()), Instant::now());
    for _ in 0..1000 {
        assert!(!matches!(
            throttle.failed(source(1), 0, now),
            Verdict::LockedOut { .. }
        ));
        now += Duration::from_secs(60);
    }
}

#[test]
fn switched_off_it_allows_everything_and_remembers_nothing() {
    let throttle = Throttle::new(&Login {
        lockout: false,
        ..login()
    });
    for _ in 0..100 {
        assert_eq!(throttle.failed(source(1), 0, Instant::now()), Verdict::Allow);
    }
    assert_eq!(throttle.sources(), 0);
}

#[test]
fn a_proxy_whose_client_is_not_known_yet_is_never_locked_out() {
    let throttle = Throttle::new(&login());
    for _ in 0..100 {
        assert_eq!(
            throttle.failed(Source::Pending, 0, Instant::now()),
            Verdict::Allow
        );
    }
}

/// Guesses that a source gets in an hour if it always guesses as soon as it may, over parallel connections
/// that do not wait for delayed answers, but keeps `spare` failures below the lockout.
fn guesses_per_hour(spare: u32) -> u32 {
    let (throttle, start) = (Throttle::new(&login()), Instant::now());
    let mut guesses = 0;
    for second in 0..3600 {
        let now = start + Duration::from_secs(second);
        while throttle.check(source(1), now) == Verdict::Allow {
            let table = throttle.table();
            let known = table.entries.get(&source(1)).map_or(0, |entry| {
                let windows = periods(now.saturating_duration_since(entry.halved), table.settings.window);
                entry.failures.checked_shr(windows).unwrap_or(0)
            });
            drop(table);
            if spare > 0 && known + spare >= 10 {
                break;
            }
            throttle.failed(source(1), 0, now);
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

#[test]
fn a_full_table_drops_the_silent_before_the_locked() {
    let login = Login {
        max_sources: 3,
        ..login()
    };
    let (throttle, now) = (Throttle::new(&login), Instant::now());
    fail_until_locked(&throttle, source(1), now);
    throttle.failed(source(2), 0, now + Duration::from_secs(1));
    throttle.failed(source(3), 0, now + Duration::from_secs(2));
    throttle.failed(source(4), 0, now + Duration::from_secs(3));
    let known = |n| throttle.table().entries.contains_key(&source(n));
    assert!(known(1) && !known(2) && known(3) && known(4));
    assert_eq!(throttle.evicted_locked(), 0);
}

#[test]
fn a_table_full_of_locked_sources_drops_the_one_that_is_free_first() {
    let login = Login {
        max_sources: 2,
        ..login()
    };
    let (throttle, now) = (Throttle::new(&login), Instant::now());
    fail_until_locked(&throttle, source(1), now);
    fail_until_locked(&throttle, source(2), now + Duration::from_secs(1));
    fail_until_locked(&throttle, source(3), now + Duration::from_secs(2));
    assert_eq!(
        (throttle.sources(), throttle.locked(), throttle.evicted_locked()),
        (2, 2, 1)
    );
    assert_eq!(
        throttle.check(source(1), now + Duration::from_secs(2)),
        Verdict::Allow
    );
    assert!(matches!(
        throttle.check(source(2), now + Duration::from_secs(2)),
        Verdict::LockedOut { .. }
    ));
}

#[test]
fn a_sweep_returns_each_ended_lockout_once_and_forgets_the_silent() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    let until = fail_until_locked(&throttle, source(1), now);
    throttle.failed(source(2), 1, now);
    assert_eq!(
        (throttle.locked(), throttle.locked_at(0), throttle.locked_at(1)),
        (1, 1, 0)
    );
    assert_eq!(throttle.sweep(now), []);
    assert_eq!(
        throttle.sweep(until),
        [LockoutEnded {
            source: source(1),
            listener: 0
        }]
    );
    assert_eq!(throttle.sweep(until), []);
    assert_eq!((throttle.locked(), throttle.locked_at(0)), (0, 0));
    throttle.sweep(now + Duration::from_secs(40 * 60));
    assert_eq!(throttle.sources(), 1);
    throttle.sweep(now + Duration::from_secs(40 * 900));
    assert_eq!(throttle.sources(), 0);
}

#[test]
fn a_reload_shrinks_the_table_and_keeps_lockouts() {
    let (throttle, now) = (Throttle::new(&login()), Instant::now());
    let until = fail_until_locked(&throttle, source(1), now);
    for n in 2..100 {
        throttle.failed(source(n), 0, now);
    }
    throttle.reconfigure(&Login {
        max_sources: 2,
        ..login()
    });
    assert_eq!(throttle.sources(), 2);
    assert_eq!(
        throttle.check(source(1), now),
        Verdict::LockedOut { until, begins: false }
    );
}

proptest! {
    /// Any sequence, any settings, clocks that leap: no panic, bounded memory, consistent order and counts.
    #[test]
    fn memory_is_bounded_and_arithmetic_never_panics(
        steps in prop::collection::vec((0_u8..5, 0_u32..40, prop_oneof![0_u64..100_000, Just(u64::MAX / 4)]), 1..400),
        max_sources in 0_usize..20,
        lockout_after in 0_u32..5,
        window in prop_oneof![0_u64..100, Just(u64::MAX)],
        first in prop_oneof![0_u64..100, Just(u64::MAX)],
    ) {
        let throttle = Throttle::new(&Login {
            max_sources,
            lockout_after,
            lockout_window: Duration::from_secs(window),
            lockout_first: Duration::from_secs(first),
            ..login()
        });
        let start = Instant::now();
        let mut now = start;
        for (step, who, pause) in steps {
            now = now.checked_add(Duration::from_millis(pause)).unwrap_or(start);
            match step {
                0 => { throttle.check(source(who), now); }
                1 | 2 => { throttle.failed(source(who), who as usize % 3, now); }
                3 => throttle.succeeded(source(who), now),
                _ => { throttle.sweep(now); }
            }
            let table = throttle.table();
            prop_assert!(table.entries.len() <= max_sources.max(1));
            prop_assert!(table.ended.len() <= max_sources.max(1));
            prop_assert_eq!(
                table.free.len() + table.was_locked.len() + table.locked.len(),
                table.entries.len()
            );
            prop_assert_eq!(table.locked_at.iter().sum::<usize>(), table.locked.len());
        }
    }
}
