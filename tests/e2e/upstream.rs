//! Redis down, hanging, refusing, rotated, replaced by something else (rules F-1 to F-19, A-10).

use std::time::Duration;

use super::support::APP_PASSWORD;
use super::support::Action;
use super::support::Authority;
use super::support::Client;
use super::support::Fake;
use super::support::Keyward;
use super::support::REDIS_PASSWORD;
use super::support::REDIS_PASSWORD_2;
use super::support::Redis;
use super::support::SAMPLE_KEY;
use super::support::SAMPLE_VALUE;
use super::support::Setup;
use super::support::certs::Wish;
use super::support::eventually;
use super::support::redis::free_port;

const UNREACHABLE: &str = "-LOADING keyward: upstream is not reachable";
const REFUSED: &str = "-ERR keyward: upstream authentication failed";

/// A client may log in here, and its first command for Redis is answered so, and closed behind it.
fn first_command_fails(keyward: &Keyward, reply: &str) {
    let mut client = keyward.app();
    assert_eq!(client.call("GET a"), reply);
    client.expect_closed();
}

fn failed(keyward: &Keyward, reason: &str) -> serde_json::Value {
    let line = keyward.wait_event_where("redis_connection_failed", |line| line["reason"] == reason);
    assert_eq!(line["upstream"], "main");
    let count = keyward.metric(
        "keyward_upstream_connect_failures_total",
        &[("upstream", "main"), ("reason", reason)],
    );
    assert!(count >= 1.0, "{reason}: {count}");
    assert_eq!(
        keyward.metric("keyward_upstream_up", &[("upstream", "main")]),
        0.0
    );
    line
}

fn expecting(setup: Setup) -> Setup {
    setup.expect("redis_connection_failed").expect("upstream_closed")
}

#[test]
fn redis_may_be_down_at_start_and_come_later() {
    let mut redis = Redis::start_tcp();
    redis.kill();
    let keyward = expecting(Setup::to_url(&redis.tcp_url())).start();
    assert_eq!(keyward.page("/livez").0, 200);
    assert_eq!(keyward.page("/readyz").0, 503);
    first_command_fails(&keyward, UNREACHABLE);
    let line = failed(&keyward, "refused");
    assert_eq!(line["level"], "WARN");
    redis.restart();
    // No restart, no reload: the next client gets through.
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
    keyward.wait_event("redis_connection_initialized");
    eventually("readiness", || (keyward.page("/readyz").0 == 200).then_some(()));
    assert_eq!(redis.client().call("GET a"), "$1");
}

#[test]
fn a_redis_that_hangs_before_the_login_is_given_up() {
    let redis = Redis::start_tcp();
    redis.signal("STOP");
    let keyward = expecting(Setup::to_url(&redis.tcp_url()).upstream("auth_timeout = \"300ms\"")).start();
    first_command_fails(&keyward, UNREACHABLE);
    failed(&keyward, "auth_timeout");
    redis.signal("CONT");
    eventually("readiness", || (keyward.page("/readyz").0 == 200).then_some(()));
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
}

#[test]
fn a_wrong_password_of_ours_does_not_look_like_the_clients() {
    let redis = Redis::start();
    let setup = expecting(Setup::new(&redis));
    setup.write("main.redis", &format!("{REDIS_PASSWORD_2}\n"));
    let keyward = setup.start();
    first_command_fails(&keyward, REFUSED);
    let line = failed(&keyward, "auth_refused");
    assert_eq!(line["level"], "ERROR");
    let error = line["error"].as_str().unwrap();
    assert!(
        error.contains("WRONGPASS") && error.contains("main.redis"),
        "the file is named: {error}"
    );
    let refused = keyward.metric("keyward_upstream_auth_failures_total", &[("reason", "wrongpass")]);
    assert!(refused >= 1.0);
    // The file is put right: picked up without a restart (F-12, F-16).
    keyward
        .setup()
        .write("main.redis", &format!("{REDIS_PASSWORD}\n"));
    eventually("the new password", || {
        (keyward.app().call("GET a") == "$-1").then_some(())
    });
}

#[test]
fn both_lines_of_the_secret_file_are_tried() {
    let redis = Redis::start();
    let setup = Setup::new(&redis).expect("redis_connection_failed");
    setup.write("main.redis", &format!("{REDIS_PASSWORD_2}\n{REDIS_PASSWORD}\n"));
    let keyward = setup.start();
    let mut client = keyward.app();
    assert_eq!(
        client.call("SET a 1"),
        "+OK",
        "the second line, before the rotation"
    );
    assert_eq!(
        redis
            .client()
            .call_args(&["CONFIG", "SET", "requirepass", REDIS_PASSWORD_2]),
        "+OK"
    );
    assert_eq!(client.call("GET a"), "$1", "the open connection goes on (F-16)");
    assert_eq!(
        keyward.app().call("GET a"),
        "$1",
        "the first line, after the rotation"
    );
}

#[test]
fn a_redis_without_a_password_is_refused() {
    let redis = Redis::without_password().start();
    let keyward = expecting(Setup::new(&redis)).start();
    first_command_fails(&keyward, REFUSED);
    let line = failed(&keyward, "no_password_set");
    assert!(
        line["error"].as_str().unwrap().contains("has no password"),
        "{line}"
    );
}

#[test]
fn what_is_not_redis_is_refused() {
    let fake = Fake::start_with_greeting(
        Some(Action::SayAndClose(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
        |_| Action::Silence,
    );
    let keyward = expecting(Setup::to_url(&fake.url())).start();
    first_command_fails(&keyward, UNREACHABLE);
    let line = failed(&keyward, "not_redis");
    assert!(line["error"].as_str().unwrap().contains("HTTP/1.1"), "{line}");
}

#[test]
fn a_full_redis_is_told_as_such() {
    let fake = Fake::start_with_greeting(
        Some(Action::SayAndClose(
            b"-ERR max number of clients reached\r\n".to_vec(),
        )),
        |_| Action::Silence,
    );
    let keyward = expecting(Setup::to_url(&fake.url())).start();
    eventually("the reason is seen before the close is", || {
        let mut client = keyward.app();
        let reply = client.call("GET a");
        client.expect_closed();
        (reply == "-ERR max number of clients reached").then_some(())
    });
}

#[test]
fn the_certificate_of_redis_is_verified() {
    let authority = Authority::new("upstream");
    let stranger = Authority::new("stranger");
    let right = authority.server("right");
    let foreign = authority.issue(Wish::server("foreign").names(&["elsewhere.example"]));
    let expired = authority.issue(Wish::server("old").expired());
    let table = [
        (&right, &authority, None),
        (&right, &stranger, Some("tls_untrusted")),
        (&foreign, &authority, Some("tls_wrong_name")),
        (&expired, &authority, Some("tls_expired")),
    ];
    for (identity, trusted, fault) in table {
        let redis = Redis::with_password().tls(identity, &authority.file()).start();
        let url = format!("rediss://localhost:{}/2", redis.tls_port());
        let keyward = expecting(Setup::to_url(&url))
            .upstream(&format!("ca_file = {:?}", trusted.file()))
            .start();
        match fault {
            None => {
                let mut client = keyward.app();
                assert_eq!(client.call_args(&["SET", SAMPLE_KEY, SAMPLE_VALUE]), "+OK");
                let mut direct = redis.client();
                assert_eq!(direct.call("SELECT 2"), "+OK");
                assert_eq!(direct.call_args(&["GET", SAMPLE_KEY]), format!("${SAMPLE_VALUE}"));
            }
            Some(reason) => {
                first_command_fails(&keyward, UNREACHABLE);
                failed(&keyward, reason);
                assert_eq!(redis.other_clients(), 0, "{reason}: no plaintext instead");
            }
        }
    }
}

#[test]
fn an_idle_session_outlives_its_connection_to_redis() {
    let mut redis = Redis::start_tcp();
    let keyward = expecting(Setup::to_url(&redis.tcp_url())).start();
    let mut plain = keyward.app3();
    assert_eq!(plain.call("SELECT 3"), "+OK");
    assert_eq!(plain.call("SET a 1"), "+OK");
    let mut watching = keyward.app();
    assert_eq!(watching.call("WATCH a"), "+OK");
    let mut subscribed = keyward.app();
    assert_eq!(subscribed.call("SUBSCRIBE news"), "*[$subscribe, $news, :1]");
    redis.restart();
    watching.expect_closed();
    subscribed.expect_closed();
    // Database and protocol are set up anew: the key is in 3 and the null is RESP3's.
    assert_eq!(plain.call("GET a"), "_");
    assert_eq!(plain.call("SET b 2"), "+OK");
    let mut direct = redis.client();
    assert_eq!(direct.call("SELECT 3"), "+OK");
    assert_eq!(direct.call("GET b"), "$2");
}

#[test]
fn a_redis_that_dies_in_the_middle_of_a_request_closes_the_client() {
    let mut redis = Redis::start_tcp();
    let keyward = expecting(Setup::to_url(&redis.tcp_url())).start();
    let mut client = keyward.app();
    assert_eq!(client.call("SET a 1"), "+OK");
    client.send(&super::support::words("BLPOP none 0"));
    eventually("Redis holds the request", || {
        (redis.info("blocked_clients") == "1").then_some(())
    });
    redis.kill();
    client.expect_closed();
    keyward.wait_metric("keyward_upstream_closed_total", &[("when", "waiting")], 1.0);
}

#[test]
fn a_reply_cut_off_is_passed_on_as_far_as_it_came() {
    let fake = Fake::start(|command| {
        Action::healthy(command).unwrap_or_else(|| Action::SayAndClose(b"$10\r\nhalf".to_vec()))
    });
    let keyward = expecting(Setup::to_url(&fake.url())).start();
    let mut client = keyward.app();
    client.send(&super::support::words("GET a"));
    assert_eq!(
        client.read_to_end(),
        b"$10\r\nhalf",
        "never padded, never completed (F-4)"
    );
    keyward.wait_metric("keyward_upstream_closed_total", &[("when", "reply")], 1.0);
}

#[test]
fn the_environment_alone_makes_a_sidecar() {
    let redis = Redis::start_tcp();
    let (url, port) = (redis.tcp_url(), redis.port());
    let setup = Setup::environment(&[
        ("REDIS_URL", &url),
        ("REDIS_PASSWORD", REDIS_PASSWORD),
        ("KEYWARD_USER", "app"),
        ("KEYWARD_PASSWORD", APP_PASSWORD),
        ("KEYWARD_LOG_FORMAT", "json"),
    ])
    .expect("configuration_warning");
    let keyward = setup.start();
    let address = keyward.address_of("sidecar");
    let mut client = Client::tcp(address);
    assert!(client.call("GET a").starts_with("-NOAUTH "));
    let mut client = client.login("app", APP_PASSWORD);
    assert_eq!(client.call("SET a 1"), "+OK");
    assert!(
        client.call("FLUSHALL").starts_with("-NOPERM "),
        "the preset safe is the default"
    );
    let line = keyward.wait_event("redis_connection_initialized");
    assert_eq!(line["url"], format!("127.0.0.1:{port}/0"));
}

#[test]
fn a_name_that_does_not_resolve_is_a_matter_of_time() {
    let url = format!("redis://no-such-host.invalid:{}/0", free_port());
    let setup = Setup::to_url(&url)
        .upstream("unsafe_plaintext = true")
        .upstream("connect_timeout = \"5s\"")
        .expect("configuration_warning");
    let keyward = expecting(setup).start();
    let mut client = keyward.app();
    client.patience(Duration::from_secs(30));
    assert_eq!(client.call("GET a"), UNREACHABLE);
    client.expect_closed();
    assert_eq!(keyward.page("/livez").0, 200);
}
