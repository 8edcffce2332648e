//! What somebody gets who guesses as fast as he can, and what the others notice.
//!
//! Speed is printed, never asserted; what is asserted are the numbers that the rules guarantee, however fast the machine
//! is. `KEYWARD_TEST_ATTACK_SECONDS=30` and `-- --nocapture` is the proof; by default it is over in a few seconds.

use std::net::Ipv4Addr;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use socket2::Domain;
use socket2::Socket;
use socket2::Type;

use super::support::APP_PASSWORD;
use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::request;

/// Loopback addresses of one network, or each of a network of its own.
#[derive(Clone, Copy)]
enum Sources {
    OneNetwork(u8),
    ManyNetworks(u8),
}

impl Sources {
    fn addresses(self) -> Vec<Ipv4Addr> {
        match self {
            Self::OneNetwork(count) => (1..=count).map(|n| Ipv4Addr::new(127, 1, 0, n)).collect(),
            Self::ManyNetworks(count) => (1..=count).map(|n| Ipv4Addr::new(127, 2, n, 1)).collect(),
        }
    }
}

fn connect(source: Ipv4Addr, target: SocketAddr) -> std::io::Result<Client> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    // A full backlog drops the SYN, and the kernel would try for minutes.
    socket.connect_timeout(&target.into(), Duration::from_secs(5))?;
    let client = Client::from_tcp(socket.into());
    client.patience(Duration::from_secs(5));
    Ok(client)
}

struct Outcome {
    tried: u64,
    heard: f64,
    seconds: f64,
}

/// Guesses from all sources at once, with `per_connection` guesses sent together on each connection.
fn attack(keyward: &Keyward, sources: Sources, per_connection: usize) -> Outcome {
    let seconds: u64 = std::env::var("KEYWARD_TEST_ATTACK_SECONDS").map_or(1, |text| text.parse().unwrap());
    let target = keyward.address();
    let one = request(&[b"AUTH", b"app", WRONG_PASSWORD.as_bytes()]);
    let guesses: Arc<[u8]> = one.repeat(per_connection).into();
    let (stop, tried) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let addresses = sources.addresses();
    // Several connections of each at a time: whoever waits for one answer asks on another.
    let each = (64 / addresses.len()).max(1);
    let began = Instant::now();
    let mut guessers = Vec::new();
    for source in addresses
        .iter()
        .flat_map(|source| std::iter::repeat_n(*source, each))
    {
        let (stop, tried, guesses) = (Arc::clone(&stop), Arc::clone(&tried), Arc::clone(&guesses));
        guessers.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok(mut client) = connect(source, target) else {
                    thread::park_timeout(Duration::from_millis(10));
                    continue;
                };
                if client.try_send(&guesses).is_err() {
                    continue;
                }
                tried.fetch_add(per_connection as u64, Ordering::Relaxed);
                // Whoever is not answered at once knows enough and hangs up.
                client.patience(Duration::from_millis(50));
                for _ in 0..per_connection {
                    if client.try_value().is_err() {
                        break;
                    }
                }
            }
        }));
    }
    honest(keyward, Duration::from_secs(seconds));
    stop.store(true, Ordering::Relaxed);
    for guesser in guessers {
        guesser.join().unwrap();
    }
    let reason = [("reason", "bad_password")];
    Outcome {
        tried: tried.load(Ordering::Relaxed),
        heard: keyward.metric("keyward_auth_failures_total", &reason),
        seconds: began.elapsed().as_secs_f64(),
    }
}

/// An application that works on one connection and opens another now and then; nothing of it may fail.
fn honest(keyward: &Keyward, time: Duration) {
    let mut inside = keyward.app();
    let (mut requests, mut logins) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while began.elapsed() < time {
        for _ in 0..50 {
            let asked = Instant::now();
            assert_eq!(inside.call("PING"), "+PONG");
            requests.push(asked.elapsed());
            thread::park_timeout(Duration::from_micros(500));
        }
        let asked = Instant::now();
        let mut client = keyward.connect();
        assert_eq!(client.call_args(&["AUTH", "app", APP_PASSWORD]), "+OK");
        logins.push(asked.elapsed());
    }
    for (what, mut times) in [("requests", requests), ("logins", logins)] {
        times.sort();
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        eprintln!(
            "  honest {what}: {} in all, p50 {:?}, p99 {:?}, most {:?}",
            times.len(),
            at(50),
            at(99),
            times[times.len() - 1]
        );
    }
}

/// Starts anew, attacks, and demands at most so many verdicts: what the rules give for the first lockout, and further
/// `again` for each window and lockout that the test took.
fn proof(what: &str, sources: Sources, per_connection: usize, first: f64, again: f64) {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).with_lockout().server("workers = 2").start();
    eprintln!("{what}:");
    // Without an attack, to compare with.
    honest(&keyward, Duration::from_millis(300));
    let outcome = attack(&keyward, sources, per_connection);
    eprintln!(
        "  guesses: {} sent ({:.0}/s), {} heard ({:.2}/s)",
        outcome.tried,
        outcome.tried as f64 / outcome.seconds,
        outcome.heard,
        outcome.heard / outcome.seconds,
    );
    // Of two workers that look at a password each at the same moment, the second is not stopped by the lockout that the
    // first begins.
    let lockouts = keyward.metric("keyward_auth_lockouts_total", &[]);
    let allowed = first + again * (outcome.seconds / 10.0).floor() + lockouts;
    assert!(outcome.heard >= 1.0, "nothing was tried");
    assert!(outcome.heard <= allowed, "{} of {allowed}", outcome.heard);
    let budget = 100.0 + 100.0 * outcome.seconds;
    assert!(outcome.heard <= budget, "{} of {budget}", outcome.heard);
    // Everything is accounted for: what was decided is a success, or a failure with a reason.
    let failures = |reason: &str| keyward.metric("keyward_auth_failures_total", &[("reason", reason)]);
    let refused: f64 = ["bad_password", "locked_out", "over_budget"]
        .map(failures)
        .iter()
        .sum();
    let attempts = keyward.metric("keyward_auth_attempts_total", &[("method", "password")]);
    assert!(attempts > refused, "{attempts} attempts, {refused} refused");
    assert_eq!(keyward.metric("keyward_panics_total", &[]), 0.0);
}

#[test]
fn one_source_with_a_connection_for_each_guess() {
    proof(
        "one source, one guess a connection",
        Sources::OneNetwork(1),
        1,
        10.0,
        10.0,
    );
}

#[test]
fn one_source_with_many_guesses_on_a_connection() {
    proof(
        "one source, 16 guesses a connection",
        Sources::OneNetwork(1),
        16,
        10.0,
        10.0,
    );
}

#[test]
fn fifty_sources_of_one_network() {
    // Fifteen by themselves, then ten as one.
    proof("50 sources of one /24", Sources::OneNetwork(50), 1, 160.0, 160.0);
    proof(
        "the same, 16 guesses a connection",
        Sources::OneNetwork(50),
        16,
        160.0,
        160.0,
    );
}

#[test]
fn fifty_sources_of_fifty_networks() {
    proof(
        "50 sources of 50 /24s",
        Sources::ManyNetworks(50),
        1,
        500.0,
        500.0,
    );
    proof(
        "the same, 16 guesses a connection",
        Sources::ManyNetworks(50),
        16,
        500.0,
        500.0,
    );
}
