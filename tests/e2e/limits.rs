//! Caps on connections, the strangers' budget, lockout, idle timeout, descriptors (rules L-20 to L-31, F-25, F-30, F-45).

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use super::support::APP_PASSWORD;
use super::support::Client;
use super::support::Keyward;
use super::support::ROOT_PASSWORD;
use super::support::Redis;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::eventually;
use super::support::pipeline;
use super::support::words;

/// Redis's own words: client libraries retry on them.
const FULL: &str = "-ERR max number of clients reached";

fn assert_full(mut client: Client) {
    assert_eq!(client.reply(), FULL);
    client.expect_closed();
}

/// A connection that comes from this address, as a load balancer would say it.
fn from(address: SocketAddr, source: &str) -> Client {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "PROXY TCP4 {source} 127.0.0.1 40000 6380\r\n").unwrap();
    Client::from_tcp(stream)
}

fn proxied(redis: &Redis) -> Setup {
    Setup::new(redis).listener("proxy_protocol_from = [\"127.0.0.0/8\"]")
}

#[test]
fn the_process_has_a_limit() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .server("max_connections = 4")
        .server("max_unauthenticated = 2")
        .add_listener("other", "main", "127.0.0.1:0")
        .start();
    let other = keyward.address_of("other");
    let mut clients = vec![keyward.app(), keyward.app(), keyward.app()];
    clients.push(Client::tcp(other).login("app", APP_PASSWORD));
    assert_full(keyward.connect());
    assert_full(Client::tcp(other));
    let reason = [("reason", "global_limit")];
    keyward.wait_metric("keyward_connections_rejected_total", &reason, 2.0);
    for client in &mut clients {
        assert_eq!(client.call("PING"), "+PONG", "those inside are not disturbed");
    }
    drop(clients.pop());
    keyward.wait_metric("keyward_connections_open", &[("listener", "other")], 0.0);
    assert_eq!(keyward.app().call("PING"), "+PONG");
}

#[test]
fn each_listener_has_a_limit() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .listener("max_connections = 2")
        .add_listener("other", "main", "127.0.0.1:0")
        .start();
    let _inside = [keyward.app(), keyward.app()];
    assert_full(keyward.connect());
    let other = Client::tcp(keyward.address_of("other"));
    assert_eq!(other.login("app", APP_PASSWORD).call("PING"), "+PONG");
    keyward.wait_metric(
        "keyward_connections_rejected_total",
        &[("listener", "main"), ("reason", "listener_limit")],
        1.0,
    );
    assert_eq!(
        keyward.metric("keyward_connections_max", &[("listener", "main")]),
        2.0
    );
}

#[test]
fn each_source_address_has_a_limit() {
    let redis = Redis::start();
    let keyward = proxied(&redis).listener("max_connections_per_ip = 2").start();
    let address = keyward.address();
    let join = |source: &str| from(address, source).login("app", APP_PASSWORD);
    let one = join("203.0.113.1");
    let _two = join("203.0.113.1");
    assert_full(from(address, "203.0.113.1"));
    assert_eq!(join("203.0.113.2").call("PING"), "+PONG");
    keyward.wait_metric(
        "keyward_connections_rejected_total",
        &[("reason", "source_limit")],
        1.0,
    );
    drop(one);
    keyward.wait_metric("keyward_connections_open", &[("listener", "main")], 1.0);
    assert_eq!(join("203.0.113.1").call("PING"), "+PONG");
}

#[test]
fn a_source_address_is_limited_over_all_listeners() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .server("max_connections_per_ip = 2")
        .add_listener("other", "main", "127.0.0.1:0")
        .start();
    let _one = keyward.app();
    let _two = Client::tcp(keyward.address_of("other")).login("app", APP_PASSWORD);
    assert_full(keyward.connect());
    assert_full(Client::tcp(keyward.address_of("other")));
}

#[test]
fn each_user_has_a_limit() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).user_line("app", "max_connections = 2").start();
    let mut inside = vec![keyward.app(), keyward.app()];
    for auth in [&["AUTH", "app"][..], &["HELLO", "3", "AUTH", "app"][..]] {
        let mut client = keyward.connect();
        let mut args = auth.to_vec();
        args.push(APP_PASSWORD);
        assert_eq!(client.call_args(&args), FULL, "{auth:?}");
        client.expect_closed();
    }
    keyward.wait_metric(
        "keyward_connections_rejected_total",
        &[("reason", "user_limit")],
        2.0,
    );
    // A wrong password is told from a right one by nobody but the one who knows it.
    assert!(
        keyward
            .connect()
            .call_args(&["AUTH", "app", WRONG_PASSWORD])
            .starts_with("-WRONGPASS ")
    );
    assert_eq!(keyward.root().call("PING"), "+PONG", "others have room");
    // Another login of the same connection frees the place.
    let mut changed = inside.pop().unwrap();
    assert_eq!(changed.call_args(&["AUTH", "root", ROOT_PASSWORD]), "+OK");
    let mut third = keyward.app();
    assert_eq!(third.call("PING"), "+PONG");
    assert_eq!(third.call("RESET"), "+RESET");
    assert_eq!(keyward.app().call("PING"), "+PONG", "so does RESET");
}

#[test]
fn the_oldest_stranger_gives_way() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).server("max_unauthenticated = 4").start();
    let mut strangers: Vec<Client> = Vec::new();
    for number in 0..10 {
        let mut client = keyward.connect();
        // Answered, hence accepted, in this order.
        assert_eq!(
            client.call("PING"),
            "-NOAUTH Authentication required.",
            "{number}"
        );
        strangers.push(client);
    }
    for (number, client) in strangers.iter_mut().enumerate() {
        if number < 6 {
            client.expect_closed();
        } else {
            assert_eq!(
                client.call("PING"),
                "-NOAUTH Authentication required.",
                "{number}"
            );
        }
    }
    let reason = [("listener", "main"), ("reason", "evicted")];
    keyward.wait_metric("keyward_connections_closed_total", &reason, 6.0);
    assert_eq!(keyward.app().call("PING"), "+PONG");
}

#[test]
fn a_flood_of_strangers_locks_nobody_out() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .server("max_connections = 100")
        .server("max_unauthenticated = 10")
        .start();
    let address = keyward.address();
    let mut inside = keyward.app();
    let stop = Arc::new(AtomicBool::new(false));
    let flood = thread::spawn({
        let stop = Arc::clone(&stop);
        move || {
            let mut held = VecDeque::new();
            while !stop.load(Ordering::Acquire) {
                held.extend(TcpStream::connect(address));
                if held.len() > 500 {
                    held.pop_front();
                }
                thread::park_timeout(Duration::from_millis(2));
            }
        }
    });
    let reason = [("reason", "evicted")];
    eventually("the strangers' budget to be spent", || {
        (keyward.metric("keyward_connections_closed_total", &reason) > 20.0).then_some(())
    });
    let auth = super::support::request(&[b"AUTH", b"app", APP_PASSWORD.as_bytes()]);
    let mut refused = 0;
    for _ in 0..20 {
        // One that answers quickly gets in; a retry now and then is what client libraries do.
        loop {
            let mut client = keyward.connect();
            let _ = client.try_send(&auth);
            if client.try_value().is_ok_and(|value| value.to_string() == "+OK") {
                assert_eq!(client.call("PING"), "+PONG");
                break;
            }
            refused += 1;
            assert!(refused <= 20, "{refused} logins were turned away");
        }
        assert_eq!(inside.call("PING"), "+PONG");
    }
    stop.store(true, Ordering::Release);
    flood.join().unwrap();
    keyward.wait_metric("keyward_connections_open", &[("listener", "main")], 1.0);
}

#[test]
fn guessing_is_slowed_down_then_locked_out_for_longer_each_time() {
    let redis = Redis::start();
    let keyward = proxied(&redis)
        .with_lockout()
        .login("lockout_after = 4")
        .login("lockout_first = \"1s\"")
        .login("max_failures = 2")
        .start();
    let address = keyward.address();
    let guess = || from(address, "203.0.113.66").call_args(&["AUTH", "app", WRONG_PASSWORD]);
    let mut lockouts = Vec::new();
    while lockouts.len() < 3 {
        guess();
        lockouts = keyward
            .events("source_locked_out")
            .iter()
            .map(|line| line["seconds"].as_u64().unwrap())
            .collect();
    }
    assert!(
        lockouts.windows(2).all(|pair| pair[1] >= 2 * pair[0]),
        "{lockouts:?}"
    );
    // Locked out, not even the right password helps; and nobody else notices.
    let reply = from(address, "203.0.113.66").call_args(&["AUTH", "app", APP_PASSWORD]);
    assert!(
        reply.starts_with("-ERR keyward: too many failed logins"),
        "{reply}"
    );
    let other = from(address, "203.0.113.67").login("app", APP_PASSWORD);
    assert_eq!({ other }.call("PING"), "+PONG");
    assert_eq!(
        keyward.metric("keyward_auth_lockouts_total", &[("listener", "main")]),
        3.0
    );
    keyward.wait_metric("keyward_auth_locked_sources", &[("listener", "main")], 1.0);
    assert!(keyward.metric("keyward_auth_failures_total", &[("reason", "locked_out")]) >= 1.0);
    // It ends by itself.
    eventually("the end of the lockout", || {
        let reply = from(address, "203.0.113.66").call_args(&["AUTH", "app", APP_PASSWORD]);
        (reply == "+OK").then_some(())
    });
    keyward.wait_metric("keyward_auth_locked_sources", &[("listener", "main")], 0.0);
}

#[test]
fn behind_a_unix_socket_each_user_of_the_machine_is_a_source() {
    let redis = Redis::start();
    let setup = Setup::new(&redis)
        .with_lockout()
        .login("lockout_after = 4")
        .login("lockout_first = \"1s\"");
    let socket = setup.dir().join("local.sock");
    let address = format!("unix:{}", socket.display());
    let keyward = setup.add_listener("local", "main", &address).start();
    keyward.wait_event_where("listening", |line| line["listener"] == "local");
    let mut client = Client::unix(&socket);
    for _ in 0..4 {
        client.call_args(&["AUTH", "app", WRONG_PASSWORD]);
    }
    let begun = keyward.wait_event("source_locked_out");
    let ended = keyward.wait_event("lockout_ended");
    assert_eq!(begun["source"], ended["source"], "whom it was for");
    assert!(ended["source"].as_str().unwrap().starts_with("unix:uid="));
}

#[test]
fn a_storm_of_guesses_gets_a_handful_of_answers_and_hurts_nobody() {
    let redis = Redis::start();
    let keyward = proxied(&redis).with_lockout().start();
    let address = keyward.address();
    let began = Instant::now();
    let mut inside = from(address, "203.0.113.1").login("app", APP_PASSWORD);
    let guessers: Vec<_> = (0..100)
        .map(|_| {
            thread::spawn(move || {
                let mut client = from(address, "203.0.113.99");
                let guess = super::support::request(&[b"AUTH", b"app", WRONG_PASSWORD.as_bytes()]);
                for _ in 0..3 {
                    if client.try_send(&guess).is_err() || client.try_value().is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    for _ in 0..100 {
        assert_eq!(inside.call("PING"), "+PONG");
    }
    for guesser in guessers {
        guesser.join().unwrap();
    }
    let checked = keyward.metric("keyward_auth_failures_total", &[("reason", "bad_password")]);
    // Ten until the lockout; one more for each further window, should the machine be that slow.
    let allowed = 12.0 + began.elapsed().as_secs_f64() / 10.0;
    assert!(checked <= allowed, "{checked} passwords were looked at");
    // Every one of the others is counted all the same (F-45), while the log stays short.
    let locked = keyward.metric("keyward_auth_failures_total", &[("reason", "locked_out")]);
    assert!(locked >= 50.0, "{locked}");
    let attempts = keyward.metric("keyward_auth_attempts_total", &[("method", "password")]);
    assert_eq!(attempts, checked + locked + 1.0);
    assert!(keyward.events("auth_failed").len() < 60, "the log is bounded");
}

#[test]
fn failures_of_one_source_count_over_its_connections_and_success_does_not_forgive() {
    let redis = Redis::start();
    let keyward = proxied(&redis)
        .with_lockout()
        .login("lockout_after = 5")
        .login("lockout_first = \"60s\"")
        .start();
    let address = keyward.address();
    for _ in 0..12 {
        let mut client = from(address, "203.0.113.5");
        client.call_args(&["AUTH", "root", WRONG_PASSWORD]);
        if !keyward.events("source_locked_out").is_empty() {
            break;
        }
        // The attacker's own, valid login in between changes nothing.
        let mut own = from(address, "203.0.113.5");
        own.call_args(&["AUTH", "app", APP_PASSWORD]);
    }
    keyward.wait_event("source_locked_out");
    let checked = keyward.metric("keyward_auth_failures_total", &[("reason", "bad_password")]);
    assert_eq!(checked, 5.0);
}

#[test]
fn idle_clients_are_ended_if_that_is_configured() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).listener("idle_timeout = \"1s\"").start();
    let began = Instant::now();
    let mut idle = keyward.app();
    let mut listening = keyward.app();
    assert_eq!(listening.call("SUBSCRIBE a"), "*[$subscribe, $a, :1]");
    let mut blocked = keyward.app();
    blocked.send(&words("BLPOP none 3"));
    let mut busy = keyward.app();
    while began.elapsed() < Duration::from_millis(2500) {
        assert_eq!(busy.call("PING"), "+PONG");
        thread::park_timeout(Duration::from_millis(50));
    }
    idle.expect_closed();
    assert!(began.elapsed() >= Duration::from_secs(1));
    assert_eq!(blocked.reply(), "*-1", "waiting for Redis is not idling");
    assert_eq!(keyward.app().call("PUBLISH a hello"), ":1");
    assert_eq!(
        listening.reply(),
        "*[$message, $a, $hello]",
        "nor is listening to a channel"
    );
    assert!(keyward.metric("keyward_connections_closed_total", &[("reason", "idle_timeout")]) >= 1.0);
}

#[test]
fn more_connections_than_descriptors_are_refused_at_start() {
    let redis = Redis::start();
    let (code, text) = Setup::new(&redis)
        .server("max_connections = 1000")
        .open_files(300)
        .refuse();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("2064"), "the number to set is named: {text}");
    // 300 = 2 × 118 + 64: that many fit, one more does not.
    let keyward = Setup::new(&redis)
        .server("max_connections = 118")
        .open_files(300)
        .start();
    assert_eq!(keyward.app().call("PING"), "+PONG");
    let (code, text) = Setup::new(&redis)
        .server("max_connections = 119")
        .open_files(300)
        .refuse();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("302"), "{text}");
    // What nobody has asked for shrinks to what fits, and says so.
    let keyward = Setup::new(&redis)
        .server("max_connections = unset")
        .open_files(300)
        .expect("configuration_warning")
        .start();
    let warning = keyward.wait_event("configuration_warning");
    assert!(
        warning["problem"].as_str().unwrap().contains("only 118 client"),
        "{warning}"
    );
    assert_eq!(
        keyward.metric("keyward_connections_max", &[("listener", "main")]),
        118.0
    );
}

#[test]
fn a_process_that_was_stopped_goes_on_and_judges_each_deadline_once() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).login("timeout = \"500ms\"").start();
    let mut inside = keyward.app();
    assert_eq!(inside.call("SET a 1"), "+OK");
    let mut stranger = keyward.connect();
    keyward.wait_metric(
        "keyward_connections_unauthenticated",
        &[("listener", "main")],
        1.0,
    );
    keyward.signal("STOP");
    inside.send(&words("GET a"));
    let stopped = Instant::now();
    while stopped.elapsed() < Duration::from_secs(1) {
        thread::park_timeout(Duration::from_millis(50));
    }
    keyward.signal("CONT");
    assert_eq!(inside.reply(), "$1");
    stranger.expect_closed();
    assert_eq!(inside.call("GET a"), "$1");
    let late = [("listener", "main"), ("reason", "auth_timeout")];
    keyward.wait_metric("keyward_connections_closed_total", &late, 1.0);
    assert_eq!(keyward.metric("keyward_panics_total", &[]), 0.0);
}

#[test]
fn when_descriptors_run_out_sessions_live_and_accepting_recovers() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .server("max_connections = 100")
        .server("max_unauthenticated = 100")
        .open_files(270)
        .expect("accept_failed")
        .expect("redis_connection_failed")
        .start();
    let mut inside = keyward.app();
    assert_eq!(inside.call("PING"), "+PONG");
    // The limit is lowered from outside, below what is open already.
    let limit = super::support::open_descriptors(keyward.pid()) + 3;
    let lowered = std::process::Command::new("prlimit")
        .args([
            "--pid",
            &keyward.pid().to_string(),
            &format!("--nofile={limit}:{limit}"),
        ])
        .status()
        .unwrap();
    assert!(lowered.success());
    let began = Instant::now();
    let mut waiting: Vec<Client> = (0..10)
        .map(|_| Client::from_tcp(TcpStream::connect(keyward.address()).unwrap()))
        .collect();
    let failed = keyward.wait_event("accept_failed");
    assert_eq!(failed["open_files_allowed"], limit);
    // Some got in, the others are turned away: nobody is left hanging.
    let mut turned_away = 0;
    for client in &mut waiting {
        let _ = client.try_send(&words("PING"));
        match client.try_value() {
            Ok(reply) => assert_eq!(reply.to_string(), "-NOAUTH Authentication required."),
            Err(error) => {
                let hung = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                assert!(!hung, "{error}");
                turned_away += 1;
            }
        }
    }
    assert!(turned_away >= 1);
    for number in 1..=50 {
        assert_eq!(inside.call("INCR n"), format!(":{number}"));
    }
    let lines = u64::try_from(keyward.events("accept_failed").len()).unwrap();
    let minutes = began.elapsed().as_secs() / 60;
    assert!(lines <= 1 + minutes, "{lines} lines, said once a minute");
    let errors = [("listener", "main"), ("kind", "descriptors")];
    drop(waiting);
    eventually("accepting again", || {
        let mut client = keyward.connect();
        client.patience(Duration::from_secs(2));
        client.send(&words("PING"));
        client.try_value().ok().map(|_| ())
    });
    assert_eq!(inside.call("INCR n"), ":51");
    let counted = keyward.metric("keyward_accept_errors_total", &errors);
    assert!((1.0..100.0).contains(&counted), "{counted} errors: no hot loop");
}

#[test]
fn memory_of_a_client_that_pipelines_and_never_reads_is_bounded() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let before = super::support::resident_bytes(keyward.pid());
    let mut client = keyward.app();
    client.patience(Duration::from_millis(500));
    let block = pipeline(&["PING"; 1_000]);
    let mut sent = 0;
    // Refusals are our own replies: they must be bounded as Redis's are.
    let refused = pipeline(&["FLUSHALL"; 1_000]);
    while sent < 200 << 20 {
        let bytes = if sent % 2 == 0 { &block } else { &refused };
        if client.try_send(bytes).is_err() {
            break;
        }
        sent += bytes.len();
    }
    assert!(sent < 100 << 20, "everything was taken: {sent} bytes");
    let grown = super::support::resident_bytes(keyward.pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "grew by {grown} bytes");
    assert_eq!(keyward.app().call("PING"), "+PONG");
}
