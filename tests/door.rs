//! The throttle of failed logins under as many sources as IPv6 has: memory and time.
//!
//! `KEYWARD_TEST_SOURCES=10000000` is the proof; by default there are a few thousand. With
//! `CARGO_PROFILE_DEV_OPT_LEVEL=2` and `-- --nocapture` it prints what one failure costs.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "test code: a failed assumption is a failed test"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use keyward::config::{Login, Sources, load};
use keyward::limits::{Attempt, Source, Throttle, Verdict};

fn sources() -> u64 {
    let given = std::env::var("KEYWARD_TEST_SOURCES").ok();
    given.map_or(200_000, |count| count.parse().unwrap())
}

/// The defaults, but for a budget that lets every failure make a record.
fn login() -> Login {
    let env = [
        ("REDIS_URL", "redis://127.0.0.1"),
        ("REDIS_PASSWORD", "0123456789abcdefghijklmnopqrstuvwxyz"),
    ];
    let env: BTreeMap<_, _> = env.map(|(name, value)| (name.into(), value.into())).into();
    let loaded = load(&Sources {
        env,
        ..Sources::default()
    });
    let mut login = loaded.unwrap().config.login;
    assert!(login.lockout && login.max_sources == 65_536);
    login.max_failures_per_second = 1_000_000;
    login
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes * 1024
}

/// Each source fails once, a million of them in a second; how many of the failures were looked at.
fn flood(what: &str, source: impl Fn(u64) -> Source, exists: bool) -> (Throttle, u64, u64) {
    let throttle = Throttle::new(&login());
    let (start, count, before) = (Instant::now(), sources(), resident_bytes());
    let (mut looked_at, mut most, mut slowest) = (0, before, Duration::ZERO);
    for n in 0..count {
        let now = start + Duration::from_micros(n);
        let attempt = Attempt {
            source: source(n),
            listener: 0,
            user: b"app",
        };
        let began = Instant::now();
        if throttle.check(attempt, now) == Verdict::Allow {
            throttle.failed(attempt, exists, now);
            looked_at += 1;
        }
        slowest = slowest.max(began.elapsed());
        if n % 1_000_000 == 999_999 {
            throttle.sweep(now);
        }
        if n % 50_000 == 0 {
            most = most.max(resident_bytes());
        }
    }
    let took = start.elapsed();
    let counts = throttle.counts(start);
    let grown = most.saturating_sub(before);
    println!(
        "{what}: {count} sources, {looked_at} looked at, {counts:?}, {} KiB grown, {:.2} µs each on average, {slowest:?} at most",
        grown / 1024,
        took.as_secs_f64() * 1e6 / count as f64,
    );
    assert!(counts.sources <= 65_536);
    (throttle, looked_at, grown)
}

/// One after the other, so that each has the memory to itself.
#[test]
fn memory_does_not_grow_with_the_number_of_sources() {
    let count = sources();
    // 2001:db8:: and on: every source a /64 in a /48 of its own, so that nothing can be thrown together.
    let base = 0x2001_0db8_0000_0000;
    let (throttle, looked_at, grown) = flood("scattered", |n| Source::V6(base + (n << 16)), false);
    let counts = throttle.counts(Instant::now());
    assert_eq!(looked_at, count);
    assert_eq!(counts.sources as u64, count.min(65_536));
    assert_eq!(counts.evicted, count.saturating_sub(65_536));
    // 65,536 records of less than half a KiB.
    assert!(grown < 32 << 20, "{grown} bytes");

    // The same /64s side by side: each /48 is one record after sixteen, and locked out after ten more.
    let (throttle, looked_at, grown) = flood("side by side", |n| Source::V6(base + n), true);
    let counts = throttle.counts(Instant::now());
    let networks = count.div_ceil(65_536);
    assert_eq!(counts.aggregated as u64, networks);
    assert_eq!(counts.sources as u64, networks, "nothing but networks");
    assert_eq!(counts.evicted, 0);
    // Fifteen of each, ten as one, and the next ten after each lockout that is over.
    let seconds = count / 1_000_000;
    assert!(looked_at <= networks * (25 + seconds), "{looked_at} of {count}");
    assert!(grown < 8 << 20, "{grown} bytes");
}
