//! Metrics, health, exit codes: what an operator sees of what clients do.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;
use std::process::Stdio;

use super::support::APP_PASSWORD;
use super::support::Authority;
use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::SAMPLE_KEY;
use super::support::SAMPLE_VALUE;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::eventually;
use super::support::keyward::command_line;

#[test]
fn failed_logins_are_counted_by_user_and_reason() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .user("gone", APP_PASSWORD, "acl = \"off +@all ~* &*\"")
        .start();
    let count = |user: &str, reason: &str| {
        let labels = [("listener", "main"), ("user", user), ("reason", reason)];
        keyward.metric("keyward_auth_failures_total", &labels)
    };
    // Everything that can happen is there from the start: else the first failure would be no increase.
    for (user, reason) in [
        ("", "no_credentials"),
        ("", "unknown_user"),
        ("", "timeout"),
        ("", "locked_out"),
        ("", "malformed"),
        ("", "client_cert_missing"),
        ("app", "bad_password"),
        ("gone", "user_disabled"),
    ] {
        assert_eq!(count(user, reason), 0.0, "{user} {reason}");
    }
    let mut client = keyward.connect();
    client.call("PING");
    client.call("GET a");
    assert_eq!(count("", "no_credentials"), 1.0, "once a connection");
    client.call_args(&["AUTH", "app", WRONG_PASSWORD]);
    client.call_args(&["AUTH", "nobody", WRONG_PASSWORD]);
    client.call_args(&["AUTH", "nobody else", WRONG_PASSWORD]);
    client.call_args(&["AUTH", "gone", APP_PASSWORD]);
    let mut client = keyward.connect();
    client.call_args(&["HELLO", "3", "AUTH", "app", WRONG_PASSWORD]);
    assert_eq!(client.call_args(&["AUTH", "app", APP_PASSWORD]), "+OK");
    assert_eq!(count("app", "bad_password"), 2.0);
    assert_eq!(count("", "unknown_user"), 2.0);
    assert_eq!(count("gone", "user_disabled"), 1.0);
    let attempts = keyward.metric("keyward_auth_attempts_total", &[("method", "password")]);
    assert_eq!(attempts, 6.0, "granted or refused");
    let (_, text) = keyward.page("/metrics");
    assert!(
        !text.contains("nobody"),
        "a client cannot make a series or a label"
    );
}

#[test]
fn denied_and_forwarded_commands_are_counted_by_the_tables_names() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    for line in ["FLUSHALL", "flushall", "CONFIG GET x", "XYZZY", "PLUGH"] {
        client.call(line);
    }
    for line in ["SET a 1", "GET a", "get a", "CLIENT ID"] {
        client.call(line);
    }
    let denied = |cmd: &str| {
        let labels = [("user", "app"), ("cmd", cmd), ("reason", "command")];
        keyward.metric("keyward_commands_denied_total", &labels)
    };
    assert_eq!(denied("flushall"), 2.0);
    assert_eq!(denied("config|get"), 1.0);
    assert_eq!(denied("_other"), 2.0);
    // Series of commands come with their first use: the table has hundreds.
    let forwarded = |cmd: &str| {
        let found = keyward.find_metric("keyward_commands_total", &[("cmd", cmd)]);
        found.unwrap_or(0.0)
    };
    assert_eq!(forwarded("get"), 2.0);
    assert_eq!(forwarded("set"), 1.0);
    assert_eq!(forwarded("client|id"), 1.0);
    let never = keyward.find_metric("keyward_commands_total", &[("cmd", "flushall")]);
    assert_eq!(never.unwrap_or(0.0), 0.0);
    let (_, text) = keyward.page("/metrics");
    assert!(!text.to_lowercase().contains("xyzzy"));
    let event = keyward.wait_event_where("command_denied", |line| line["cmd"] == "config|get");
    assert_eq!(event["user"], "app");
    assert_eq!(event["reason"], "command");
    assert_eq!(event["listener"], "main");
    assert!(
        event["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{event}"
    );
}

#[test]
fn traffic_and_connections_are_counted() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let listener = [("listener", "main")];
    let mut client = keyward.app();
    for _ in 0..100 {
        client.call("GET a");
    }
    let stranger = keyward.connect();
    keyward.wait_metric("keyward_connections_unauthenticated", &listener, 1.0);
    drop(stranger);
    keyward.wait_metric("keyward_connections_unauthenticated", &listener, 0.0);
    keyward.wait_metric("keyward_connections_open", &listener, 1.0);
    assert_eq!(keyward.metric("keyward_connections_total", &listener), 2.0);
    assert_eq!(keyward.metric("keyward_connections_max", &listener), 1_000.0);
    assert_eq!(
        keyward.metric("keyward_command_duration_seconds_count", &listener),
        100.0
    );
    let side = |name: &str, side: &str| keyward.metric(name, &[("listener", "main"), ("side", side)]);
    assert!(side("keyward_network_received_bytes_total", "client") >= 2_000.0);
    assert!(side("keyward_network_sent_bytes_total", "client") >= 500.0);
    assert!(side("keyward_network_received_bytes_total", "upstream") >= 500.0);
    assert!(side("keyward_network_sent_bytes_total", "upstream") >= 2_000.0);
    assert!(keyward.metric("keyward_upstream_connections_open", &[("upstream", "main")]) >= 1.0);
    drop(client);
    keyward.wait_metric("keyward_connections_open", &listener, 0.0);
    let ended = [("listener", "main"), ("reason", "client_closed")];
    keyward.wait_metric("keyward_connections_closed_total", &ended, 2.0);
    assert_eq!(keyward.metric("keyward_panics_total", &[]), 0.0);
    for name in [
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ] {
        assert!(keyward.metric(name, &[]) > 0.0, "{name}");
    }
    assert_eq!(keyward.metric("keyward_build_info", &[]), 1.0);
}

/// The families of OPS: those who alert on them rely on the names.
const FAMILIES: &[&str] = &[
    "keyward_auth_failures_total",
    "keyward_auth_attempts_total",
    "keyward_upstream_auth_failures_total",
    "keyward_auth_lockouts_total",
    "keyward_auth_locked_sources",
    "keyward_commands_denied_total",
    "keyward_user_credential_changed_timestamp_seconds",
    "keyward_upstream_credential_changed_timestamp_seconds",
    "keyward_connections_open",
    "keyward_connections_max",
    "keyward_connections_total",
    "keyward_connections_rejected_total",
    "keyward_connections_closed_total",
    "keyward_commands_total",
    "keyward_error_replies_total",
    "keyward_command_duration_seconds",
    "keyward_network_received_bytes_total",
    "keyward_network_sent_bytes_total",
    "keyward_protocol_errors_total",
    "keyward_tls_handshakes_total",
    "keyward_tls_handshake_failures_total",
    "keyward_tls_handshake_duration_seconds",
    "keyward_tls_handshakes_in_progress",
    "keyward_tls_handshakes_waiting",
    "keyward_tls_certificate_not_after_timestamp_seconds",
    "keyward_upstream_up",
    "keyward_upstream_connections_open",
    "keyward_upstream_connects_total",
    "keyward_upstream_connect_failures_total",
    "keyward_upstream_connect_duration_seconds",
    "keyward_build_info",
    "keyward_config_last_reload_successful",
    "keyward_config_last_reload_success_timestamp_seconds",
    "keyward_config_reloads_total",
    "keyward_audit_events_dropped_total",
    "keyward_log_messages_total",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
];

#[test]
fn every_family_is_there_from_the_start_and_promtool_is_content() {
    let ca = Authority::new("ca");
    let redis = Redis::start();
    let keyward = Setup::new(&redis).tls(&ca.server("server"), "").start();
    let (_, text) = keyward.page("/metrics");
    let families: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .filter_map(|rest| rest.split(' ').next())
        .collect();
    for name in FAMILIES {
        assert!(families.contains(name), "{name} is missing");
    }
    for name in &families {
        let prefixed = name.starts_with("keyward_") || name.starts_with("process_");
        assert!(prefixed, "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    // The help texts of the list are a promise too: a family without any series would show neither.
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is needed: run tests/run.sh, which installs it");
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
    // The set of series does not grow with what clients do (but for commands, which are a closed table).
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    let config = ca.client_config(None);
    let mut client = Client::tls(keyward.address(), &config).unwrap();
    for name in ["a", "b", "c"] {
        client.call_args(&["AUTH", name, WRONG_PASSWORD]);
    }
    client.call_args(&["AUTH", "app", APP_PASSWORD]);
    for line in ["XYZZY", "KEYS *", "SET a 1", "LPUSH a b", "EVAL error('x') 0"] {
        client.call(line);
    }
    let (_, text) = keyward.page("/metrics");
    let now = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(now <= series + 8, "{series} series became {now}");
}

#[test]
fn health_is_told_in_the_body_too() {
    let mut redis = Redis::start();
    let keyward = Setup::new(&redis).expect("redis_connection_failed").start();
    let ready = |status: u16, body: &str| {
        eventually(&format!("{status} {body}"), || {
            let (now, text) = keyward.page("/readyz");
            ((now, text.trim()) == (status, body)).then_some(())
        });
    };
    ready(200, "{\"status\":\"ok\",\"redis\":\"healthy\"}");
    let live = keyward.page("/livez");
    assert_eq!((live.0, live.1.trim()), (200, "{\"status\":\"ok\"}"));
    redis.kill();
    ready(503, "{\"status\":\"degraded\",\"redis\":\"unhealthy\"}");
    assert_eq!(keyward.page("/livez").0, 200, "a restart would not help");
    redis.restart();
    ready(200, "{\"status\":\"ok\",\"redis\":\"healthy\"}");
    for path in ["/metrics/", "/quit", "/debug", "/readyz/x", "/status/", "/..%2f"] {
        assert_eq!(keyward.page(path).0, 404, "{path}");
    }
}

#[test]
fn readiness_writes_nothing_into_redis() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    eventually("a healthy answer", || {
        (keyward.page("/readyz").0 == 200).then_some(())
    });
    assert_eq!(redis.client().call("DBSIZE"), ":0");
    assert_eq!(redis.calls("incr"), 0);
}

fn healthcheck(keyward: &Keyward) -> (i32, String) {
    let file = keyward.setup().config_file();
    let admin = keyward.admin_address().to_string();
    let args = ["healthcheck", "--config", file.to_str().unwrap()];
    let (code, _, err) = command_line(&args, &[("KEYWARD_ADMIN", &admin)], "");
    (code, err)
}

#[test]
fn the_healthcheck_command_knows_zero_and_one_only() {
    let mut redis = Redis::start();
    let mut keyward = Setup::new(&redis).expect("redis_connection_failed").start();
    eventually("a healthy answer", || {
        (healthcheck(&keyward).0 == 0).then_some(())
    });
    redis.kill();
    let said = eventually("an unhealthy answer", || {
        let (code, said) = healthcheck(&keyward);
        (code == 1).then_some(said)
    });
    assert!(said.contains("unhealthy"), "{said}");
    let admin = keyward.admin_address().to_string();
    keyward.stop();
    let (code, _, err) = command_line(&["healthcheck"], &[("KEYWARD_ADMIN", &admin)], "");
    assert_eq!(code, 1, "{err}");
    assert!(err.contains(&admin), "which address did not answer: {err}");
}

#[test]
fn a_value_is_never_a_label() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    assert_eq!(client.call_args(&["SET", SAMPLE_KEY, SAMPLE_VALUE]), "+OK");
    client.call_args(&[SAMPLE_KEY, SAMPLE_VALUE]);
    client.call_args(&["CONFIG", "SET", SAMPLE_KEY, SAMPLE_VALUE]);
    client.call_args(&["CONFIG", SAMPLE_VALUE]);
    client.call_args(&["LPUSH", SAMPLE_KEY, SAMPLE_VALUE]);
    client.call_args(&["EVAL", "return redis.error_reply(ARGV[1])", "0", SAMPLE_VALUE]);
    keyward.connect().call_args(&["AUTH", SAMPLE_KEY, SAMPLE_VALUE]);
    // The guard searches this page for both.
    keyward.page("/metrics");
}
