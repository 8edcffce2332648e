//! What one process, listener, source or user may take (rules L-20 to L-24, L-30).

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;
use std::time::Instant;

use super::support::APP_PASSWORD;
use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::eventually;

const FULL: &str = "-ERR max number of clients reached";
const LOCKED: &str = "-ERR keyward: too many failed logins from this address, try again later";

/// A connection that a limit refuses before it has said anything.
fn expect_full(mut client: Client) {
    assert_eq!(client.reply(), FULL);
    client.expect_closed();
}

/// Polls until there is room again for one more `app`.
fn wait_for_room(keyward: &Keyward, connect: impl Fn() -> Client) -> Client {
    eventually("room for one more connection", || {
        let mut client = connect();
        client
            .try_send(&super::support::request(&[
                b"AUTH",
                b"app",
                APP_PASSWORD.as_bytes(),
            ]))
            .ok()?;
        match client.try_value().ok()?.to_string().as_str() {
            "+OK" => Some(client),
            FULL => None,
            other => panic!("{other}; the output:\n{}", keyward.text()),
        }
    })
}

fn rejected(keyward: &Keyward, reason: &str, wanted: f64) {
    keyward.wait_metric(
        "keyward_connections_rejected_total",
        &[("listener", "main"), ("reason", reason)],
        wanted,
    );
}

/// A connection whose PROXY header says that it comes from there.
fn proxied(keyward: &Keyward, source: &str) -> Client {
    let mut stream = TcpStream::connect(keyward.address()).unwrap();
    write!(stream, "PROXY TCP4 {source} 192.0.2.1 40000 6379\r\n").unwrap();
    Client::from_tcp(stream)
}

#[test]
fn the_whole_process_takes_so_many_connections() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .server("max_connections = 3")
        .server("max_unauthenticated = 2")
        .add_listener("other", "main", "127.0.0.1:0")
        .expect("connection_refused")
        .start();
    let other = keyward.address_of("other");
    let mut open = vec![
        Client::tcp(other).login("app", APP_PASSWORD),
        Client::tcp(other).login("app", APP_PASSWORD),
        keyward.app(),
    ];
    expect_full(keyward.connect());
    rejected(&keyward, "global_limit", 1.0);
    for client in &mut open {
        assert_eq!(client.call("PING"), "+PONG", "those inside notice nothing");
    }
    drop(open.remove(0));
    let mut client = wait_for_room(&keyward, || keyward.connect());
    assert_eq!(client.call("PING"), "+PONG");
}

#[test]
fn one_listener_takes_so_many_connections() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .listener("max_connections = 2")
        .add_listener("other", "main", "127.0.0.1:0")
        .expect("connection_refused")
        .start();
    let mut open: Vec<Client> = (0..2).map(|_| keyward.app()).collect();
    expect_full(keyward.connect());
    rejected(&keyward, "listener_limit", 1.0);
    let mut other = Client::tcp(keyward.address_of("other")).login("app", APP_PASSWORD);
    assert_eq!(
        other.call("PING"),
        "+PONG",
        "the other listener has a limit of its own"
    );
    drop(open.pop());
    wait_for_room(&keyward, || keyward.connect());
}

#[test]
fn one_source_takes_so_many_connections_also_behind_a_load_balancer() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .listener("max_connections_per_ip = 2")
        .listener("proxy_protocol_from = [\"127.0.0.1/32\"]")
        .expect("connection_refused")
        .start();
    let one = proxied(&keyward, "198.51.100.1").login("app", APP_PASSWORD);
    let _two = proxied(&keyward, "198.51.100.1").login("app", APP_PASSWORD);
    expect_full(proxied(&keyward, "198.51.100.1"));
    rejected(&keyward, "source_limit", 1.0);
    let mut neighbour = proxied(&keyward, "198.51.100.2").login("app", APP_PASSWORD);
    assert_eq!(
        neighbour.call("PING"),
        "+PONG",
        "the load balancer's own address does not count"
    );
    drop(one);
    wait_for_room(&keyward, || proxied(&keyward, "198.51.100.1"));
}

#[test]
fn one_user_takes_so_many_connections() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .user_line("app", "max_connections = 2")
        .expect("connection_refused")
        .start();
    let one = keyward.app();
    let mut two = keyward.app();
    let mut third = keyward.connect();
    assert_eq!(third.call_args(&["AUTH", "app", APP_PASSWORD]), FULL);
    third.expect_closed();
    rejected(&keyward, "user_limit", 1.0);
    assert_eq!(
        keyward.root().call("PING"),
        "+PONG",
        "another user is not concerned"
    );
    assert_eq!(
        two.call_args(&["AUTH", "app", APP_PASSWORD]),
        "+OK",
        "the same place again"
    );
    drop(one);
    wait_for_room(&keyward, || keyward.connect());
}

#[test]
fn the_oldest_stranger_makes_room_for_the_newest() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .server("max_unauthenticated = 2")
        .expect("connection_refused")
        .start();
    let mut friend = keyward.app();
    let mut strangers = Vec::new();
    for _ in 0..2 {
        let mut stranger = keyward.connect();
        assert!(stranger.call("PING").starts_with("-NOAUTH "));
        strangers.push(stranger);
    }
    // The budget is full; who answers quickly still gets in (F-30).
    let mut newest = keyward.app();
    strangers[0].expect_closed();
    assert!(
        strangers[1].call("PING").starts_with("-NOAUTH "),
        "the second oldest stays"
    );
    assert_eq!(newest.call("PING"), "+PONG");
    assert_eq!(friend.call("PING"), "+PONG", "who is logged in is never evicted");
    keyward.wait_metric("keyward_connections_evicted_total", &[("listener", "main")], 1.0);
}

#[test]
fn a_source_that_guesses_is_locked_out_and_told_so() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .env("KEYWARD_LOCKOUT", "on")
        .login("lockout_after = 2")
        .listener("proxy_protocol_from = [\"127.0.0.1/32\"]")
        .start();
    let mut guesser = proxied(&keyward, "198.51.100.7");
    for _ in 0..2 {
        assert!(
            guesser
                .call_args(&["AUTH", "app", WRONG_PASSWORD])
                .starts_with("-WRONGPASS ")
        );
    }
    let line = keyward.wait_event("source_locked_out");
    assert_eq!(line["target"], "keyward::audit");
    assert_eq!(line["listener"], "main");
    assert!(
        line["peer"].as_str().unwrap().starts_with("198.51.100.7"),
        "{line}"
    );
    // The right password does not help now, nor does another connection.
    let mut again = proxied(&keyward, "198.51.100.7");
    assert_eq!(again.call_args(&["AUTH", "app", APP_PASSWORD]), LOCKED);
    assert!(again.call("PING").starts_with("-NOAUTH "));
    // Nobody else is concerned.
    let mut neighbour = proxied(&keyward, "198.51.100.8").login("app", APP_PASSWORD);
    assert_eq!(neighbour.call("PING"), "+PONG");
    keyward.wait_metric("keyward_auth_lockouts_total", &[("listener", "main")], 1.0);
    keyward.wait_metric("keyward_auth_failures_total", &[("reason", "locked_out")], 1.0);
    keyward.wait_metric("keyward_auth_locked_sources", &[("listener", "main")], 1.0);
}

#[test]
fn an_idle_client_is_closed_and_a_waiting_one_is_not() {
    let redis = Redis::start();
    let limit = Duration::from_secs(1);
    let keyward = Setup::new(&redis).listener("idle_timeout = \"1s\"").start();
    let mut waiting = keyward.app();
    waiting.send(&super::support::words("BLPOP none 2.5"));
    let mut subscriber = keyward.app();
    assert_eq!(subscriber.call("SUBSCRIBE news"), "*[$subscribe, $news, :1]");
    let mut idle = keyward.app();
    let began = Instant::now();
    idle.expect_closed();
    assert!(
        began.elapsed() + Duration::from_millis(50) >= limit,
        "after {:?} already",
        began.elapsed()
    );
    assert_eq!(
        waiting.reply(),
        "*-1",
        "a client that waits for a reply is not idle"
    );
    assert_eq!(
        redis.client().call("PUBLISH news hello"),
        ":1",
        "nor is a subscriber"
    );
    assert_eq!(subscriber.reply(), "*[$message, $news, $hello]");
    eventually("the close is counted", || {
        (keyward.metric("keyward_connections_closed_total", &[("reason", "idle_timeout")]) >= 1.0)
            .then_some(())
    });
}
