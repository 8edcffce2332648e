//! The admin listener: what orchestrators and Prometheus see.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use super::support::APP_PASSWORD;
use super::support::Keyward;
use super::support::PATIENCE;
use super::support::Redis;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::eventually;
use super::support::keyward::command_line;

/// `keyward healthcheck` against this admin address.
fn healthcheck(address: &str) -> (i32, String) {
    let (code, out, err) = command_line(&["healthcheck"], &[("KEYWARD_ADMIN", address)], "");
    (code, format!("{out}{err}"))
}

fn wait_ready(keyward: &Keyward) {
    eventually("readiness", || (keyward.page("/readyz").0 == 200).then_some(()));
}

#[test]
fn the_pages_say_how_things_are() {
    let mut redis = Redis::start();
    let keyward = Setup::new(&redis)
        .expect("redis_connection_failed")
        .expect("upstream_closed")
        .start();
    assert_eq!(keyward.page("/livez"), (200, r#"{"status":"ok"}"#.to_owned()));
    wait_ready(&keyward);
    for path in ["/readyz", "/healthz", "/readyz?verbose=1"] {
        let healthy = (200, r#"{"status":"ok","redis":"healthy"}"#.to_owned());
        assert_eq!(keyward.page(path), healthy, "{path}");
    }
    assert_eq!(keyward.page("/").0, 404);
    assert_eq!(keyward.page("/config").0, 404);
    redis.kill();
    let down = (503, r#"{"status":"degraded","redis":"unhealthy"}"#.to_owned());
    eventually("Redis is seen to be down", || {
        (keyward.page("/readyz") == down).then_some(())
    });
    assert_eq!(keyward.page("/livez").0, 200, "a restart would not help");
    keyward.wait_metric("keyward_upstream_up", &[("upstream", "main")], 0.0);
    redis.restart();
    wait_ready(&keyward);
    keyward.wait_metric("keyward_upstream_up", &[("upstream", "main")], 1.0);
}

#[test]
fn only_reading_is_possible() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    for method in ["POST", "PUT", "DELETE"] {
        let mut stream = TcpStream::connect(keyward.admin_address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "{method} /metrics HTTP/1.1\r\nHost: keyward\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
    }
}

#[test]
fn refused_logins_are_counted_by_reason() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .user("off", super::support::APP_PASSWORD_2, "acl = \"off +@all ~* &*\"")
        .start();
    let count = |user: &str, reason: &str| {
        keyward.metric(
            "keyward_auth_failures_total",
            &[("listener", "main"), ("user", user), ("reason", reason)],
        )
    };
    assert_eq!(
        count("app", "bad_password"),
        0.0,
        "the series is there before anything happens"
    );
    assert_eq!(count("", "unknown_user"), 0.0);
    let mut client = keyward.connect();
    for _ in 0..2 {
        client.call_args(&["AUTH", "app", WRONG_PASSWORD]);
    }
    client.call_args(&["AUTH", "somebody-else", APP_PASSWORD]);
    client.call_args(&["AUTH", "off", super::support::APP_PASSWORD_2]);
    assert_eq!(client.call_args(&["AUTH", "app", APP_PASSWORD]), "+OK");
    for (user, reason, wanted) in [
        ("app", "bad_password", 2.0),
        ("", "unknown_user", 1.0),
        ("off", "user_disabled", 1.0),
    ] {
        keyward.wait_metric(
            "keyward_auth_failures_total",
            &[("user", user), ("reason", reason)],
            wanted,
        );
    }
    keyward.wait_metric("keyward_auth_attempts_total", &[("method", "password")], 5.0);
    let (_, page) = keyward.page("/metrics");
    assert!(
        !page.contains("somebody-else"),
        "names that strangers choose are no labels"
    );
}

#[test]
fn denied_commands_are_counted_by_user_and_command() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    for line in ["FLUSHALL", "FLUSHALL", "CONFIG GET maxmemory", "NOSUCHCOMMAND a"] {
        assert!(client.call(line).starts_with('-'), "{line}");
    }
    for (command, wanted) in [("flushall", 2.0), ("config|get", 1.0)] {
        keyward.wait_metric(
            "keyward_commands_denied_total",
            &[("user", "app"), ("cmd", command), ("reason", "command")],
            wanted,
        );
    }
    let (_, page) = keyward.page("/metrics");
    assert!(
        !page.to_ascii_lowercase().contains("nosuchcommand"),
        "nor are unknown commands labels"
    );
}

#[test]
fn connections_and_commands_are_counted() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let main = [("listener", "main")];
    let mut client = keyward.app();
    let stranger = keyward.connect();
    for _ in 0..3 {
        assert_eq!(client.call("INCR a").chars().next(), Some(':'));
    }
    assert!(client.call("LPUSH a x").starts_with("-WRONGTYPE "));
    keyward.wait_metric("keyward_connections_open", &main, 2.0);
    keyward.wait_metric("keyward_connections_unauthenticated", &main, 1.0);
    keyward.wait_metric("keyward_connections_total", &main, 2.0);
    keyward.wait_metric(
        "keyward_commands_total",
        &[("listener", "main"), ("cmd", "incr")],
        3.0,
    );
    drop(stranger);
    assert_eq!(client.call("QUIT"), "+OK");
    keyward.wait_metric("keyward_connections_open", &main, 0.0);
    keyward.wait_metric("keyward_connections_unauthenticated", &main, 0.0);
    keyward.wait_metric("keyward_connections_closed_total", &[("reason", "quit")], 1.0);
    keyward.wait_metric("keyward_panics_total", &[], 0.0);
    let (_, page) = keyward.page("/metrics");
    assert!(
        page.lines().any(|line| line.starts_with("keyward_build_info{")),
        "{page}"
    );
}

#[test]
fn healthcheck_is_zero_or_one() {
    let mut redis = Redis::start();
    let mut keyward = Setup::new(&redis)
        .expect("redis_connection_failed")
        .expect("upstream_closed")
        .start();
    let address = keyward.admin_address().to_string();
    wait_ready(&keyward);
    let (code, text) = healthcheck(&address);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("healthy"), "{text}");
    redis.kill();
    eventually("Redis is seen to be down", || {
        (keyward.page("/readyz").0 == 503).then_some(())
    });
    let (code, text) = healthcheck(&address);
    assert_eq!(code, 1, "{text}");
    assert!(text.starts_with("unhealthy"), "{text}");
    keyward.stop();
    let (code, text) = healthcheck(&address);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&address), "{text}");
}
