//! Redis's side: TLS, logins, and everything that can go wrong there (rules F-1 to F-19, P-5, P-8, P-10, P-11).

use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use super::support::APP_PASSWORD;
use super::support::Action;
use super::support::Authority;
use super::support::Client;
use super::support::Fake;
use super::support::Keyward;
use super::support::REDIS_PASSWORD;
use super::support::REDIS_PASSWORD_2;
use super::support::Redis;
use super::support::Setup;
use super::support::certs::Wish;
use super::support::eventually;
use super::support::keyward::command_line;
use super::support::keyward::sharing;
use super::support::request;
use super::support::resident_bytes;
use super::support::words;

const UNREACHABLE: &str = "-LOADING keyward: upstream is not reachable";
const AUTH_FAILED: &str = "-ERR keyward: upstream authentication failed";

fn wait_ready(keyward: &Keyward, status: u16) {
    eventually(&format!("/readyz to answer {status}"), || {
        (keyward.page("/readyz").0 == status).then_some(())
    });
}

/// A login succeeds, the first command for Redis gets this error, and the connection ends.
fn assert_first_command(keyward: &Keyward, reply: &str) {
    let mut client = keyward.app();
    assert_eq!(client.call("GET a"), reply);
    client.expect_closed();
}

/// Keyward in front of a fake, with a client that has said something already.
fn against(fake: &Fake) -> Setup {
    Setup::to_url(&fake.url())
        .upstream("auth_timeout = \"1s\"")
        .expect("redis_connection_failed")
        .expect("desync")
        .expect("upstream_closed")
}

/// A healthy server that answers GET as the script says.
fn answering(get: impl Fn() -> Action + Send + Sync + 'static) -> Fake {
    Fake::start(move |command| Action::healthy(command).unwrap_or_else(&get))
}

#[test]
fn a_redis_without_resp3_refuses_it_to_each_client_that_asks_and_harms_none() {
    let fake = answering(|| Action::say("-ERR unknown command 'HELLO'\r\n"));
    let keyward = against(&fake).start();
    for _ in 0..3 {
        let mut client = keyward.app();
        for _ in 0..2 {
            assert_eq!(client.call("HELLO 3"), "-ERR unknown command 'HELLO'");
        }
        assert_eq!(client.call("SELECT 0"), "+OK");
    }
    assert_eq!(
        keyward.metric("keyward_desync_total", &[("upstream", "main")]),
        0.0
    );
}

#[test]
fn an_upstream_that_is_down_at_start_is_waited_for() {
    let mut redis = Redis::start_tcp();
    redis.kill();
    let keyward = Setup::to_url(&redis.tcp_url())
        .expect("redis_connection_failed")
        .start();
    let (status, body) = keyward.page("/readyz");
    assert_eq!(
        (status, body.trim()),
        (503, "{\"status\":\"degraded\",\"redis\":\"unhealthy\"}")
    );
    assert_eq!(keyward.page("/livez").0, 200);
    assert_first_command(&keyward, UNREACHABLE);
    let failed = keyward.wait_event("redis_connection_failed");
    assert_eq!(failed["upstream"], "main");
    assert!(!failed["error"].as_str().unwrap().is_empty());
    assert_eq!(
        keyward.metric("keyward_upstream_up", &[("upstream", "main")]),
        0.0
    );
    assert!(
        keyward.metric(
            "keyward_upstream_connect_failures_total",
            &[("reason", "refused")]
        ) >= 1.0
    );
    for _ in 0..20 {
        assert_first_command(&keyward, UNREACHABLE);
    }
    assert_eq!(
        keyward.events("redis_connection_failed").len(),
        1,
        "said once, then every 30 s"
    );
    redis.restart();
    wait_ready(&keyward, 200);
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
    keyward.wait_metric("keyward_upstream_up", &[("upstream", "main")], 1.0);
}

#[test]
fn a_redis_that_cannot_serve_says_so_itself_and_is_up_but_not_ready() {
    // F-7, F-9, F-10: the errors pass in band, sessions live on, and readiness tells the balancer.
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    wait_ready(&keyward, 200);
    let (mut client, mut direct) = (keyward.app(), redis.client());
    assert_eq!(client.call("SET a 1"), "+OK");
    assert_eq!(direct.call("REPLICAOF 127.0.0.1 1"), "+OK");
    assert!(client.call("SET a 2").starts_with("-READONLY "));
    assert_eq!(client.call("GET a"), "$1");
    assert_eq!(direct.call("CONFIG SET replica-serve-stale-data no"), "+OK");
    assert!(client.call("GET a").starts_with("-MASTERDOWN "));
    wait_ready(&keyward, 503);
    let up = [("upstream", "main")];
    assert_eq!(keyward.metric("keyward_upstream_up", &up), 1.0);
    assert_eq!(keyward.app().call("GET a").split(' ').next(), Some("-MASTERDOWN"));
    assert_eq!(direct.call("REPLICAOF NO ONE"), "+OK");
    wait_ready(&keyward, 200);
    assert_eq!(client.call("SET a 2"), "+OK");
    assert_eq!(direct.call("CONFIG SET busy-reply-threshold 1"), "+OK");
    let mut busy = redis.client();
    busy.send(&request(&[
        b"EVAL",
        b"while true do redis.call('PING') end",
        b"0",
    ]));
    wait_ready(&keyward, 503);
    assert!(client.call("GET a").starts_with("-BUSY "));
    assert_eq!(keyward.metric("keyward_upstream_up", &up), 1.0);
    assert_eq!(direct.call("SCRIPT KILL"), "+OK");
    assert!(busy.reply().starts_with("-ERR "));
    wait_ready(&keyward, 200);
    assert_eq!(client.call("GET a"), "$2");
    for code in ["READONLY", "MASTERDOWN", "BUSY"] {
        assert!(keyward.metric("keyward_error_replies_total", &[("err", code)]) >= 1.0);
    }
}

#[test]
fn a_name_that_does_not_resolve_is_a_failure_like_others() {
    let keyward = Setup::to_url("redis://redis.invalid:6379/0")
        .upstream("unsafe_plaintext = true")
        .expect("KW0402")
        .expect("redis_connection_failed")
        .start();
    assert_first_command(&keyward, UNREACHABLE);
    assert!(keyward.metric("keyward_upstream_connect_failures_total", &[]) >= 1.0);
}

#[test]
fn a_session_without_state_survives_a_restart_of_redis() {
    let mut redis = Redis::start();
    let keyward = Setup::new(&redis)
        .expect("redis_connection_failed")
        .expect("upstream_closed")
        .start();
    let mut plain = keyward.app();
    let mut moved = keyward.app3();
    assert_eq!(plain.call("SET a 1"), "+OK");
    assert_eq!(moved.call("SELECT 5"), "+OK");
    assert_eq!(moved.call("CLIENT SETNAME kept"), "+OK");
    let mut watching = keyward.app();
    assert_eq!(watching.call("WATCH a"), "+OK");
    let mut open = keyward.app();
    assert_eq!(open.call("MULTI"), "+OK");
    let mut tracked = keyward.app3();
    assert_eq!(tracked.call("CLIENT TRACKING ON"), "+OK");
    let mut subscribed = keyward.app();
    assert_eq!(subscribed.call("SUBSCRIBE a"), "*[$subscribe, $a, :1]");
    let mut scripted = keyward.app();
    assert_eq!(scripted.call("EVAL return{} 0"), "*[]");
    redis.restart();
    for client in [
        &mut watching,
        &mut open,
        &mut tracked,
        &mut subscribed,
        &mut scripted,
    ] {
        client.expect_closed();
    }
    assert_eq!(plain.call("GET a"), "$-1", "the same connection, another lane");
    assert_eq!(plain.call("SET a 2"), "+OK");
    // Database, protocol and name are put on the new lane.
    assert_eq!(moved.call("GET a"), "_");
    assert_eq!(moved.call("CLIENT GETNAME"), "$kept");
    assert_eq!(moved.call("SET five 1"), "+OK");
    assert_eq!(plain.call("EXISTS five"), ":0");
}

#[test]
fn a_request_in_flight_is_never_repeated() {
    let mut redis = Redis::start();
    let keyward = Setup::new(&redis)
        .expect("redis_connection_failed")
        .expect("upstream_closed")
        .start();
    let mut client = keyward.app();
    client.send(&words("BLPOP list 0"));
    eventually("the blocked client", || {
        (redis.info("blocked_clients") == "1").then_some(())
    });
    redis.restart();
    client.expect_closed();
    assert_eq!(redis.info("blocked_clients"), "0");
    assert_eq!(keyward.app().call("PING"), "+PONG");
}

#[test]
fn an_upstream_that_dies_in_the_middle_of_a_reply_ends_the_client_there() {
    let head = b"$67108864\r\n".to_vec();
    for reset in [false, true] {
        let mut bytes = head.clone();
        bytes.extend_from_slice(&[b'x'; 100_000]);
        let whole = bytes.clone();
        let fake = answering(move || {
            if reset {
                Action::SayAndReset(bytes.clone())
            } else {
                Action::SayAndClose(bytes.clone())
            }
        });
        let keyward = against(&fake).start();
        let mut client = keyward.app();
        client.send(&words("GET big"));
        let got = client.read_to_end();
        assert!(
            whole.starts_with(&got),
            "nothing is padded or added: {} bytes",
            got.len()
        );
        if !reset {
            assert_eq!(got.len(), whole.len());
        }
        keyward.wait_event_where("upstream_closed", |line| line["when"] == "reply");
    }
}

#[test]
fn an_upstream_that_hangs_at_login_is_not_waited_for() {
    let redis = Redis::start_tcp();
    redis.signal("STOP");
    let keyward = Setup::to_url(&redis.tcp_url())
        .upstream("auth_timeout = \"400ms\"")
        .expect("redis_connection_failed")
        .start();
    let began = Instant::now();
    assert_first_command(&keyward, UNREACHABLE);
    assert!(began.elapsed() >= Duration::from_millis(400));
    assert!(
        keyward.metric(
            "keyward_upstream_connect_failures_total",
            &[("reason", "auth_timeout")]
        ) >= 1.0
    );
    redis.signal("CONT");
    wait_ready(&keyward, 200);
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
}

#[test]
fn an_upstream_that_hangs_later_is_shown_as_down_and_clients_may_go() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .upstream("auth_timeout = \"400ms\"")
        .expect("redis_connection_failed")
        .start();
    let mut client = keyward.app();
    assert_eq!(client.call("SET a 1"), "+OK");
    wait_ready(&keyward, 200);
    redis.signal("STOP");
    client.send(&words("GET a"));
    wait_ready(&keyward, 503);
    keyward.wait_metric("keyward_upstream_up", &[("upstream", "main")], 0.0);
    let mut gone = keyward.app();
    gone.send(&words("GET a"));
    drop(gone);
    keyward.wait_metric("keyward_connections_open", &[("listener", "main")], 1.0);
    redis.signal("CONT");
    assert_eq!(client.reply(), "$1", "no timeout for replies by default");
    wait_ready(&keyward, 200);
}

#[test]
fn a_wrong_credential_of_ours_is_not_the_clients_fault() {
    let redis = Redis::start();
    let setup = Setup::new(&redis).expect("redis_connection_failed");
    setup.write("main.redis", &format!("{REDIS_PASSWORD_2}\n"));
    let keyward = setup.start();
    assert_first_command(&keyward, AUTH_FAILED);
    let failed = keyward.wait_event("redis_connection_failed");
    assert_eq!(failed["level"], "ERROR");
    let error = failed["error"].as_str().unwrap();
    assert!(
        error.contains("WRONGPASS") && error.contains("main.redis"),
        "{error}"
    );
    wait_ready(&keyward, 503);
    // Redis's own log of failures is not flooded.
    for _ in 0..30 {
        assert_first_command(&keyward, AUTH_FAILED);
    }
    let refused = redis.client().call("INFO errorstats");
    let count = refused
        .split("errorstat_WRONGPASS:count=")
        .nth(1)
        .map_or(0, |rest| rest.trim().parse::<u32>().unwrap_or(99));
    assert!((1..=6).contains(&count), "{count} attempts");
    let reason = [("upstream", "main"), ("reason", "wrongpass")];
    assert!(keyward.metric("keyward_upstream_auth_failures_total", &reason) >= 1.0);
    // The file is put right: no restart.
    keyward
        .setup()
        .write("main.redis", &format!("{REDIS_PASSWORD}\n"));
    wait_ready(&keyward, 200);
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
}

#[test]
fn the_password_of_redis_can_be_rotated_with_two_lines() {
    let redis = Redis::start();
    let setup = Setup::new(&redis);
    setup.write("main.redis", &format!("{REDIS_PASSWORD_2}\n{REDIS_PASSWORD}\n"));
    let keyward = setup.start();
    let mut early = keyward.app();
    assert_eq!(early.call("SET a 1"), "+OK", "the second line is the valid one");
    let rotate = ["CONFIG", "SET", "requirepass", REDIS_PASSWORD_2];
    assert_eq!(redis.client().call_args(&rotate), "+OK");
    assert_eq!(
        keyward.app().call("GET a"),
        "$1",
        "now the first; nobody was told"
    );
    assert_eq!(
        early.call("GET a"),
        "$1",
        "a connection that is logged in stays so"
    );
    wait_ready(&keyward, 200);
}

#[test]
fn a_changed_secret_file_is_read_again_when_redis_refuses_the_old_one() {
    let redis = Redis::start();
    // Nothing looks at files by itself here: only the refusal makes it.
    let keyward = Setup::new(&redis)
        .server("watch_interval = \"1h\"")
        .expect("redis_connection_failed")
        .start();
    // The files have been looked at for the last time by then.
    wait_ready(&keyward, 200);
    let mut early = keyward.app();
    assert_eq!(early.call("SET a 1"), "+OK");
    let rotate = ["CONFIG", "SET", "requirepass", REDIS_PASSWORD_2];
    assert_eq!(redis.client().call_args(&rotate), "+OK");
    keyward
        .setup()
        .write("main.redis", &format!("{REDIS_PASSWORD_2}\n"));
    // What blocks takes a connection of its own, which is new.
    let mut late = keyward.app();
    assert_eq!(late.call("BLPOP nothing 0.01"), "*-1");
    assert_eq!(late.call("GET a"), "$1");
    assert_eq!(early.call("GET a"), "$1");
    keyward.wait_event("upstream_credential_changed");
}

#[test]
fn an_upstream_that_is_open_to_everyone_is_refused() {
    let redis = Redis::without_password().start();
    let keyward = Setup::new(&redis).expect("redis_connection_failed").start();
    assert_first_command(&keyward, AUTH_FAILED);
    let failed = keyward.wait_event("redis_connection_failed");
    assert_eq!(failed["level"], "ERROR");
    assert!(
        failed["error"].as_str().unwrap().contains("no password"),
        "{failed}"
    );
    let reason = [("reason", "no_password_set")];
    assert!(keyward.metric("keyward_upstream_auth_failures_total", &reason) >= 1.0);
}

#[test]
fn an_upstream_that_needs_a_password_we_do_not_have_is_said_to() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .upstream("password_file = unset")
        .expect("redis_connection_failed")
        .start();
    assert_first_command(&keyward, AUTH_FAILED);
    let failed = keyward.wait_event("redis_connection_failed");
    assert!(
        failed["error"].as_str().unwrap().contains("password_file"),
        "{failed}"
    );
}

#[test]
fn a_full_upstream_says_so_in_redis_words() {
    let greeting = Action::SayAndClose(b"-ERR max number of clients reached\r\n".to_vec());
    let fake = Fake::start_with_greeting(Some(greeting), |_| Action::Silence);
    let keyward = against(&fake).start();
    assert_first_command(&keyward, "-ERR max number of clients reached");
    let reason = [("reason", "max_clients")];
    assert!(keyward.metric("keyward_upstream_connect_failures_total", &reason) >= 1.0);
}

#[test]
fn what_is_not_redis_is_recognised() {
    let http = || Action::say("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    let tls_alert = || Action::say(b"\x15\x03\x01\x00\x02\x02\x46");
    for (fake, first) in [
        (Fake::start(move |_| http()), "HTTP/1.1"),
        (Fake::start(move |_| tls_alert()), "\\x15"),
    ] {
        let keyward = against(&fake).start();
        assert_first_command(&keyward, UNREACHABLE);
        let failed = keyward.wait_event("redis_connection_failed");
        assert!(failed["error"].as_str().unwrap().contains(first), "{failed}");
        let reason = [("reason", "not_redis")];
        assert!(keyward.metric("keyward_upstream_connect_failures_total", &reason) >= 1.0);
    }
}

#[test]
fn no_credential_is_said_back_by_a_server_that_repeats_it() {
    // A server that does not know AUTH repeats the arguments in its error: that must not reach the log.
    let fake = Fake::start(|command| {
        Action::say(format!(
            "-ERR unknown command `{}`, with args beginning with: `{}`\r\n",
            command[0],
            command[1..].join("` `")
        ))
    });
    let keyward = against(&fake).start();
    let mut client = keyward.app();
    assert!(client.call("GET a").starts_with('-'));
    keyward.wait_event("redis_connection_failed");
    assert!(fake.seen().iter().any(|command| command.contains(REDIS_PASSWORD)));
}

#[test]
fn the_certificate_of_the_upstream_is_verified() {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let elsewhere = Wish::server("name").names(&["redis.example"]);
    let cases = [
        (ca.server("good"), None),
        (ca.intermediate("below").server("chain"), None),
        (ca.issue(Wish::server("expired").expired()), Some("tls_expired")),
        (ca.issue(elsewhere), Some("tls_wrong_name")),
        (other.server("unknown"), Some("tls_untrusted")),
    ];
    for (identity, fault) in cases {
        let redis = Redis::with_password().tls(&identity, &ca.file()).start();
        let keyward = Setup::to_url(&format!("rediss://localhost:{}/2", redis.tls_port()))
            .upstream(&format!("ca_file = {:?}", ca.file()))
            .expect(if fault.is_some() {
                "redis_connection_failed"
            } else {
                "nothing"
            })
            .start();
        match fault {
            None => {
                assert_eq!(keyward.app().call("SET a 1"), "+OK");
                let mut direct = redis.client();
                assert_eq!(direct.call("SELECT 2"), "+OK");
                assert_eq!(direct.call("GET a"), "$1");
            }
            Some(reason) => {
                assert_first_command(&keyward, UNREACHABLE);
                let failed = keyward.wait_event("redis_connection_failed");
                assert_eq!(failed["level"], "ERROR", "{failed}");
                assert_eq!(failed["reason"], reason, "{failed}");
                let labels = [("upstream", "main"), ("reason", reason)];
                assert!(keyward.metric("keyward_upstream_connect_failures_total", &labels) >= 1.0);
                // The one that asks has logged in itself.
                assert_eq!(redis.calls("auth"), 1, "{reason}: the credential was not sent");
            }
        }
    }
}

#[test]
fn the_name_of_the_upstream_can_be_given_and_a_client_certificate_shown() {
    let ca = Authority::new("ca");
    let identity = ca.issue(Wish::server("redis").names(&["redis.example"]));
    let redis = Redis::with_password()
        .tls(&identity, &ca.file())
        .line("tls-auth-clients yes")
        .start();
    let url = format!("rediss://127.0.0.1:{}/0", redis.tls_port());
    let setup = || {
        Setup::to_url(&url)
            .upstream(&format!("ca_file = {:?}", ca.file()))
            .upstream("server_name = \"redis.example\"")
    };
    let own = ca.client("keyward");
    let keyward = setup()
        .upstream(&format!("certificate_file = {:?}", own.certificate))
        .upstream(&format!("key_file = {:?}", own.key))
        .start();
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
    assert!(
        keyward.metric(
            "keyward_tls_certificate_not_after_timestamp_seconds",
            &[("role", "upstream_client")]
        ) > 1.7e9
    );
    let keyward = setup().expect("redis_connection_failed").start();
    assert_first_command(&keyward, UNREACHABLE);
}

#[test]
fn an_unverified_upstream_must_be_said_in_words() {
    let ca = Authority::new("ca");
    let redis = Redis::with_password()
        .tls(&ca.server("server"), &ca.file())
        .start();
    let url = format!("rediss://localhost:{}/0", redis.tls_port());
    let keyward = Setup::to_url(&url).expect("redis_connection_failed").start();
    assert_first_command(&keyward, UNREACHABLE);
    let keyward = Setup::to_url(&url)
        .upstream("unsafe_skip_verify = true")
        .expect("KW0407")
        .start();
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
    // Plaintext beyond this host, likewise.
    let (code, text) = Setup::to_url("redis://redis.example:6379/0").refuse();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("unsafe_plaintext"), "{text}");
}

/// A sidecar: secrets in the environment and, perhaps, no login at all, which is said at each start.
fn sidecar(variables: &[(&str, &str)]) -> Setup {
    Setup::environment(variables)
        .expect("KW0403")
        .expect("KW0406")
        .expect("KW0304")
}

fn sidecar_client(keyward: &Keyward) -> Client {
    Client::tcp(keyward.address_of("sidecar"))
}

#[test]
fn the_environment_alone_makes_a_sidecar() {
    let redis = Redis::start_tcp();
    let secret = tempfile::NamedTempFile::new().unwrap();
    writeln!(secret.as_file(), "{REDIS_PASSWORD}").unwrap();
    let path = secret.path().to_str().unwrap();
    let url = redis.tcp_url();
    let with_password = url.replace("redis://", &format!("redis://:{REDIS_PASSWORD}@"));
    for variables in [
        vec![("REDIS_URL", url.as_str()), ("REDIS_PASSWORD_FILE", path)],
        vec![("REDIS_URL", url.as_str()), ("REDIS_PASSWORD", REDIS_PASSWORD)],
        vec![("REDIS_URL", with_password.as_str())],
    ] {
        // Without a password for clients, someone has to decide that there shall be none.
        let mut with_login = variables.clone();
        with_login.push(("KEYWARD_PASSWORD", APP_PASSWORD));
        let keyward = sidecar(&with_login).start();
        let mut client = sidecar_client(&keyward);
        assert_eq!(client.call("GET a"), "-NOAUTH Authentication required.");
        assert_eq!(client.call_args(&["AUTH", APP_PASSWORD]), "+OK");
        assert_eq!(client.call("SET a 1"), "+OK");
        assert!(client.call("FLUSHALL").starts_with("-NOPERM "));
        let line = keyward.wait_event("redis_connection_initialized");
        assert_eq!(line["url"], format!("127.0.0.1:{}/0", redis.port()));
    }
}

#[test]
fn a_sidecar_without_client_password_serves_loopback() {
    let redis = Redis::start();
    let url = redis.unix_url();
    let variables = [("REDIS_URL", url.as_str()), ("REDIS_PASSWORD", REDIS_PASSWORD)];
    let keyward = sidecar(&variables).start();
    let mut client = sidecar_client(&keyward);
    assert_eq!(client.call("SET a 1"), "+OK");
    assert!(client.call("KEYS *").starts_with("-NOPERM "));
    let (code, text) = sidecar(&variables).env("KEYWARD_LISTEN", "0.0.0.0:0").refuse();
    assert_eq!(code, 78, "{text}");
}

#[test]
fn the_variables_of_a_sidecar_reach_every_setting() {
    let ca = Authority::new("ca");
    let identity = ca.server("server");
    let redis = Redis::start();
    let url = redis.unix_url();
    let keyward = sidecar(&[
        ("REDIS_URL", &url),
        ("REDIS_PASSWORD", REDIS_PASSWORD),
        ("KEYWARD_USER", "app"),
        ("KEYWARD_PASSWORD", APP_PASSWORD),
        ("KEYWARD_ACL", "strict"),
        ("KEYWARD_TLS_CERT", identity.certificate.to_str().unwrap()),
        ("KEYWARD_TLS_KEY", identity.key.to_str().unwrap()),
        ("KEYWARD_WORKERS", "1"),
        ("KEYWARD_CONNECTIONS", "dedicated"),
    ])
    .start();
    let address = keyward.address_of("sidecar");
    let client = Client::tls(address, &ca.client_config(None)).unwrap();
    let mut client = client.login("app", APP_PASSWORD);
    assert_eq!(client.call("SET a 1"), "+OK");
    assert!(client.call("SELECT 1").starts_with("-NOPERM "));
    assert_eq!(keyward.wait_event("ready")["workers"], 1);
}

#[test]
fn tls_options_in_the_url_are_understood() {
    let ca = Authority::new("ca");
    let redis = Redis::with_password()
        .tls(&ca.server("server"), &ca.file())
        .start();
    let base = format!("rediss://localhost:{}/0", redis.tls_port());
    let variables = |url: &str| {
        Setup::environment(&[
            ("REDIS_URL", url),
            ("REDIS_PASSWORD", REDIS_PASSWORD),
            ("KEYWARD_PASSWORD", APP_PASSWORD),
        ])
        .expect("KW0406")
        .expect("KW0304")
    };
    for query in [
        format!("?ssl_ca_certs={}", ca.file().display()),
        format!("?ssl_cert_reqs=required&ssl_ca_certs={}", ca.file().display()),
    ] {
        let keyward = variables(&format!("{base}{query}")).start();
        let mut client = sidecar_client(&keyward);
        assert_eq!(client.call_args(&["AUTH", APP_PASSWORD]), "+OK");
        assert_eq!(client.call("SET a 1"), "+OK", "{query}");
    }
    let none = format!("{base}?ssl_cert_reqs=none");
    let (code, text) = variables(&none).refuse();
    assert_eq!(code, 78, "{text}");
    assert!(text.to_lowercase().contains("skip_verify"), "{text}");
}

#[test]
fn weak_secrets_are_warned_about() {
    let redis = Redis::with_password()
        .line("user weak on >change-me-in-production ~* &* +@all")
        .start();
    let setup = Setup::new(&redis).upstream("username = \"weak\"");
    setup.write("main.redis", "change-me-in-production\n");
    let keyward = setup.user("app", "short", "").expect("KW0405").start();
    assert_eq!(
        keyward.connect().login("app", "short").call("SET a 1"),
        "+OK",
        "warned about, not refused"
    );
    let warnings = keyward.events("configuration_warning");
    let weak = warnings.iter().filter(|line| line["code"] == "KW0405").count();
    assert!(weak >= 2, "{warnings:?}");
}

#[test]
fn upstream_users_have_names() {
    let redis = Redis::with_password()
        .line(&format!(
            "user proxy on >{REDIS_PASSWORD_2} ~* &* +@all -@dangerous"
        ))
        .start();
    let setup = Setup::new(&redis).upstream("username = \"proxy\"");
    setup.write("main.redis", &format!("{REDIS_PASSWORD_2}\n"));
    let keyward = setup.start();
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
    // What Redis itself refuses comes back in its own words.
    let reply = keyward.root().call("CONFIG GET maxmemory");
    assert!(reply.starts_with("-NOPERM "), "{reply}");
}

#[test]
fn several_upstreams_stay_apart() {
    let (cache, queue) = (Redis::start(), Redis::start());
    let keyward = Setup::new(&cache)
        .add_upstream("queue", &queue.unix_url())
        .add_listener("jobs", "queue", "127.0.0.1:0")
        .start();
    assert_eq!(keyward.app().call("SET a cache"), "+OK");
    let mut jobs = Client::tcp(keyward.address_of("jobs")).login("app", APP_PASSWORD);
    assert_eq!(jobs.call("GET a"), "$-1");
    assert_eq!(jobs.call("SET a jobs"), "+OK");
    assert_eq!(cache.client().call("GET a"), "$cache");
    assert_eq!(queue.client().call("GET a"), "$jobs");
    drop(queue);
    drop(jobs);
    assert_eq!(keyward.app().call("GET a"), "$cache");
    // One of two is down: still ready, and said.
    let mut keyward = keyward;
    keyward.change(|setup| setup.expect("redis_connection_failed"));
    eventually("degraded health", || {
        (keyward.page("/readyz").1.trim() == "{\"status\":\"degraded\",\"redis\":\"unhealthy\"}")
            .then_some(())
    });
    assert_eq!(keyward.page("/readyz").0, 200);
}

#[test]
fn a_reply_nobody_asked_for_ends_both_connections() {
    let fake = answering(|| Action::say("$1\r\nx\r\n+SURPLUS\r\n"));
    let keyward = against(&fake).start();
    let mut client = keyward.app();
    client.send(&words("GET a"));
    if sharing() {
        // It had nothing in flight any more, so it goes on, on another lane.
        assert_eq!(client.reply(), "$x");
        keyward.wait_metric("keyward_desync_total", &[("upstream", "main")], 1.0);
        assert_eq!(client.call("GET a"), "$x");
    } else {
        let rest = String::from_utf8(client.read_to_end()).unwrap();
        assert!(!rest.contains("SURPLUS"), "{rest:?}");
        keyward.wait_metric("keyward_desync_total", &[("upstream", "main")], 1.0);
    }
    eventually("the lane to be closed", || (fake.open() <= 1).then_some(()));
}

#[test]
fn a_lost_login_of_ours_is_never_shown_as_the_clients() {
    let fake = answering(|| Action::say("-NOAUTH Authentication required.\r\n"));
    let keyward = against(&fake).start();
    let mut client = keyward.app();
    assert_eq!(client.call("GET a"), "-ERR keyward: upstream session lost");
    client.expect_closed();
    drop(keyward);
    // NOPERM is the rules of Redis speaking: it passes (P-8).
    let fake = answering(|| Action::say("-NOPERM this user has no permissions\r\n"));
    let keyward = against(&fake).start();
    let mut client = keyward.app();
    assert_eq!(client.call("GET a"), "-NOPERM this user has no permissions");
    assert_eq!(client.call("PING"), "+PONG");
}

#[test]
fn hostile_replies_end_the_connection_in_bounded_memory() {
    let nested = "*1\r\n".repeat(1_000_000).into_bytes();
    let maps = "%1\r\n".repeat(200_000).into_bytes();
    let line = vec![b'x'; 1 << 20];
    let mut endless = b"+".to_vec();
    endless.extend_from_slice(&line);
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("huge bulk", b"$99999999999999999\r\n".to_vec()),
        ("huge array", b"*99999999999999999\r\n".to_vec()),
        ("beyond 64 bits", b"$99999999999999999999999999\r\n".to_vec()),
        ("negative", b"$-2\r\n".to_vec()),
        ("leading zero", b"$03\r\nabc\r\n".to_vec()),
        ("sign", b"$+3\r\nabc\r\n".to_vec()),
        ("streamed", b"$?\r\n;3\r\nabc\r\n;0\r\n".to_vec()),
        ("type", b"X1\r\n".to_vec()),
        ("no CRLF", b"$3\r\nabcxx".to_vec()),
        ("nested arrays", nested),
        ("nested maps", maps),
    ];
    for (name, bytes) in hostile {
        let fake = answering(move || Action::SayAndClose(bytes.clone()));
        let keyward = against(&fake).start();
        assert_eq!(keyward.app().call("PING"), "+PONG");
        let before = resident_bytes(keyward.pid());
        let mut client = keyward.app();
        client.send(&words("GET a"));
        client.read_to_end();
        let grown = resident_bytes(keyward.pid()).saturating_sub(before);
        assert!(grown < 16 << 20, "{name}: grew by {grown} bytes");
        assert_eq!(keyward.app().call("PING"), "+PONG", "{name}: the process is well");
    }
    // A line that never ends, at full speed.
    let fake = answering(move || Action::Flood(endless.clone()));
    let keyward = against(&fake).start();
    let before = resident_bytes(keyward.pid());
    let mut client = keyward.app();
    client.send(&words("GET a"));
    let began = Instant::now();
    let mut read = 0_usize;
    while let Ok(bytes) = client.try_raw(1 << 20) {
        read += bytes.len();
        if read > 64 << 20 || began.elapsed() > Duration::from_secs(10) {
            break;
        }
    }
    let grown = resident_bytes(keyward.pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "an endless line: grew by {grown} bytes");
}

#[test]
fn a_reply_in_single_bytes_is_a_reply() {
    let fake = answering(|| {
        Action::Trickle(
            b"*2\r\n$5\r\nhello\r\n%1\r\n+a\r\n,1.5\r\n".to_vec(),
            Duration::from_millis(3),
        )
    });
    let keyward = against(&fake).start();
    assert_eq!(keyward.app().call("GET a"), "*[$hello, %{+a: ,1.5}]");
}

#[test]
fn an_answer_to_auth_that_trickles_or_says_too_much_is_none() {
    let cases: Vec<(&str, Action)> = vec![
        ("too much", Action::say("+OK\r\n>2\r\n+message\r\n+x\r\n")),
        ("two answers", Action::say("+OK\r\n+OK\r\n")),
        (
            "too slow",
            Action::Trickle(b"+OK\r\n".to_vec(), Duration::from_millis(600)),
        ),
        ("an integer", Action::say(":1\r\n")),
        ("nested", Action::say("*1\r\n".repeat(100_000).as_bytes())),
        ("long", Action::say(format!("+{}\r\n", "x".repeat(1 << 20)))),
    ];
    for (name, action) in cases {
        let again = move |command: &[String]| match (&action, command[0].as_str()) {
            (Action::Say(bytes), "AUTH") => Action::Say(bytes.clone()),
            (Action::Trickle(bytes, pause), "AUTH") => Action::Trickle(bytes.clone(), *pause),
            _ => Action::healthy(command).unwrap_or(Action::Silence),
        };
        let fake = Fake::start(again);
        let keyward = against(&fake).start();
        let mut client = keyward.app();
        let reply = client.call("GET a");
        assert!(reply.starts_with('-'), "{name}: {reply}");
        client.expect_closed();
        assert!(
            !fake.seen().iter().any(|command| command.starts_with("GET")),
            "{name}: nothing of the client was sent"
        );
    }
}

#[test]
fn a_client_that_leaves_during_the_dial_leaves_nothing_behind() {
    let fake = Fake::start(|_| Action::Silence);
    let keyward = against(&fake).upstream("auth_timeout = \"30s\"").start();
    for _ in 0..10 {
        let mut client = keyward.app();
        client.send(&words("GET a"));
    }
    keyward.wait_metric("keyward_connections_open", &[("listener", "main")], 0.0);
    eventually("the dials to be given up", || (fake.open() <= 1).then_some(()));
}

#[test]
fn an_upstream_that_does_not_read_stops_its_own_client_only() {
    let fake = Fake::start(|command| {
        Action::healthy(command).unwrap_or_else(|| {
            // Stops reading for as long as nobody takes what it says.
            Action::Trickle(vec![b'+'; 1], Duration::from_millis(200))
        })
    });
    let keyward = against(&fake).start();
    assert_eq!(keyward.app().call("PING"), "+PONG");
    let before = resident_bytes(keyward.pid());
    let mut client = keyward.app();
    client.patience(Duration::from_millis(500));
    let block = request(&[b"SET", b"a", &vec![b'x'; 1 << 20]]);
    let mut sent = 0;
    while sent < 64 << 20 && client.try_send(&block).is_ok() {
        sent += block.len();
    }
    let grown = resident_bytes(keyward.pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "grew by {grown} bytes");
    assert_eq!(keyward.app().call("PING"), "+PONG");
}

#[test]
fn an_upstream_that_is_our_own_listener_is_refused_at_start() {
    let port = super::support::redis::free_port();
    let (code, text) = Setup::to_url(&format!("redis://127.0.0.1:{port}/0"))
        .listener(&format!("address = \"127.0.0.1:{port}\""))
        .refuse();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("KW0212"), "{text}");
}

#[test]
fn secrets_in_the_configuration_itself_are_refused_without_being_shown() {
    let redis = Redis::start();
    let (code, text) = Setup::new(&redis)
        .upstream(&format!("password = {REDIS_PASSWORD:?}"))
        .refuse();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("password_file"), "{text}");
    // `check` says the same, and neither of them shows the secret (the harness looks for it).
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keyward.toml");
    let text = format!("[[upstream]]\nname = \"x\"\nurl = \"redis://:{REDIS_PASSWORD}@localhost/0\"\n");
    fs::write(&file, text).unwrap();
    let (code, out, err) = check(&file);
    assert_eq!(code, 78, "{err}");
    assert!(
        !out.contains(REDIS_PASSWORD) && !err.contains(REDIS_PASSWORD),
        "{err}"
    );
}

fn check(file: &Path) -> (i32, String, String) {
    command_line(&["check", "--config", file.to_str().unwrap()], &[], "")
}
