//! What the log says, in which form, and what it must never say (rules A-8, F-24, OPS 6).

use std::io::Read;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value as Json;

use super::support::APP_PASSWORD;
use super::support::APP_PASSWORD_2;
use super::support::Authority;
use super::support::Client;
use super::support::Keyward;
use super::support::ROOT_PASSWORD;
use super::support::Redis;
use super::support::SAMPLE_KEY;
use super::support::SAMPLE_VALUE;
use super::support::SECRETS;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::eventually;
use super::support::request;
use super::support::signal;
use super::support::words;

/// All that a client may do with a secret in its hands.
fn talk(mut client: Client) {
    let lines: &[&[&str]] = &[
        &["AUTH", "app", WRONG_PASSWORD],
        // The two swapped: people do that.
        &["AUTH", WRONG_PASSWORD, "app"],
        &["HELLO", "3", "AUTH", "app", APP_PASSWORD, "SETNAME", SAMPLE_KEY],
        &["SET", SAMPLE_KEY, SAMPLE_VALUE],
        &["GET", SAMPLE_KEY],
        &["LPUSH", SAMPLE_KEY, SAMPLE_VALUE],
        &["INCR", SAMPLE_KEY],
        &[SAMPLE_KEY, SAMPLE_VALUE],
        &["CONFIG", "SET", SAMPLE_KEY, SAMPLE_VALUE],
        &["CONFIG", SAMPLE_VALUE],
        &["KEYS", SAMPLE_KEY],
        &["EVAL", "return redis.call('NOSUCH', ARGV[1])", "0", SAMPLE_VALUE],
        &["EVAL", SAMPLE_VALUE, "0"],
        &[APP_PASSWORD, "app"],
        &["CLIENT", SAMPLE_VALUE],
        &["AUTH", "root", APP_PASSWORD],
        &["MULTI"],
        &["AUTH", "app", APP_PASSWORD],
        &["EXEC"],
        &["SUBSCRIBE", SAMPLE_KEY],
        &["PUBLISH", SAMPLE_KEY, SAMPLE_VALUE],
    ];
    for line in lines {
        client.call_args(line);
    }
    let bad = format!("*2\r\n$3\r\nGET\r\n${SAMPLE_VALUE}\r\n");
    client.send(bad.as_bytes());
    client.read_to_end();
}

#[test]
fn no_secret_key_or_value_is_written_at_any_level() {
    let ca = Authority::new("ca");
    for filter in ["trace", "debug", "info"] {
        let redis = Redis::start();
        let setup = Setup::new(&redis)
            .env("KEYWARD_LOG", filter)
            .tls(&ca.server("server"), "")
            .expect("reload_failed")
            .any_target();
        let keyward = setup.start();
        let config = ca.client_config(None);
        talk(Client::tls(keyward.address(), &config).unwrap());
        // Someone's password in the clear, on the wrong port.
        let mut plain = keyward.connect();
        plain.send(&request(&[b"AUTH", b"app", APP_PASSWORD.as_bytes()]));
        plain.read_to_end();
        keyward
            .setup()
            .write("app.secret", &format!("{APP_PASSWORD_2}\n"));
        keyward.reload();
        let text = keyward.setup().text();
        keyward.overwrite_config(&format!(
            "{text}\n[[user]]\nname = \"x\"\npassword = {APP_PASSWORD:?}\n"
        ));
        keyward.signal("HUP");
        keyward.wait_event("reload_failed");
        // The guard searches the whole output.
    }
}

#[test]
fn no_secret_is_written_when_everything_is_plaintext_and_odd() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .env("KEYWARD_LOG", "trace")
        .listener("inline = true")
        .any_target()
        .start();
    talk(keyward.connect());
    for line in [
        format!("AUTH app {APP_PASSWORD}\r\nSET {SAMPLE_KEY} \"{SAMPLE_VALUE}\r\n"),
        format!("{SAMPLE_VALUE}\r\n"),
        format!("POST /{SAMPLE_VALUE} HTTP/1.1\r\nAuthorization: {ROOT_PASSWORD}\r\n\r\n"),
        format!("*{SAMPLE_VALUE}\r\n"),
    ] {
        let mut client = keyward.connect();
        client.send(line.as_bytes());
        client.finish_sending();
        client.read_to_end();
    }
    keyward.page(&format!("/{SAMPLE_VALUE}"));
}

#[test]
fn every_line_is_an_object_of_one_shape() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    assert_eq!(keyward.app().call("SET a 1"), "+OK");
    keyward.stop();
    let text = keyward.text();
    assert!(text.lines().count() >= 6, "{text}");
    for line in text.lines() {
        let json: Json = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
        for field in ["timestamp", "level", "target", "event"] {
            assert!(json[field].is_string(), "{field} in {line}");
        }
        assert!(json["timestamp"].as_str().unwrap().ends_with('Z'), "UTC: {line}");
        assert!(!line.contains('\u{1b}'), "no colours: {line}");
    }
    for event in ["listening", "admin_listening", "ready", "draining", "stopped"] {
        assert_eq!(keyward.events(event).len(), 1, "{event}:\n{text}");
    }
    let listening = &keyward.events("listening")[0];
    assert_eq!(listening["listener"], "main");
    assert_eq!(listening["upstream"], "main");
    assert_eq!(listening["tls"], false);
    assert_eq!(listening["login"], true);
}

#[test]
fn the_connection_to_redis_is_announced_without_its_credential() {
    let redis = Redis::start_tcp();
    let keyward = Setup::to_url(&format!("redis://127.0.0.1:{}/5", redis.port())).start();
    assert_eq!(keyward.app().call("PING"), "+PONG");
    let line = keyward.wait_event("redis_connection_initialized");
    assert_eq!(line["url"], format!("127.0.0.1:{}/5", redis.port()));
    assert_eq!(line["upstream"], "main");
    assert_eq!(line["level"], "INFO");
    // Once, not with every connection.
    for _ in 0..5 {
        assert_eq!(keyward.app().call("GET a"), "$-1");
    }
    assert_eq!(keyward.events("redis_connection_initialized").len(), 1);
}

#[test]
fn security_events_name_who_and_why() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.connect();
    let here = client.socket().local_addr().unwrap().to_string();
    client.call_args(&["AUTH", "app", WRONG_PASSWORD]);
    let line = keyward.wait_event("auth_failed");
    assert_eq!(line["target"], "keyward::audit");
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["listener"], "main");
    assert_eq!(line["peer"], here);
    assert_eq!(line["user"], "app");
    assert_eq!(line["reason"], "bad_password");
    client = client.login("app", APP_PASSWORD);
    assert!(
        client
            .call_args(&["CONFIG", "SET", "requirepass", SAMPLE_VALUE])
            .starts_with("-NOPERM ")
    );
    let line = keyward.wait_event("command_denied");
    assert_eq!(line["target"], "keyward::audit");
    assert_eq!(line["peer"], here);
    assert_eq!(line["user"], "app");
    assert_eq!(line["cmd"], "config|set");
    assert_eq!(line["reason"], "command");
}

#[test]
fn names_of_unknown_users_are_not_written_as_they_came() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.connect();
    for name in [
        SAMPLE_VALUE,
        "\u{1b}[31mcrimson\u{1b}[0m",
        "two\r\nlines",
        "quote\"d",
    ] {
        client.call_args(&["AUTH", name, WRONG_PASSWORD]);
    }
    let count = || {
        keyward
            .events("auth_failed")
            .iter()
            .filter(|line| line["reason"] == "unknown_user")
            .count()
    };
    eventually("four events", || (count() == 4).then_some(()));
    let text = keyward.text();
    assert!(
        !text.contains('\u{1b}') && !text.contains("[31m") && !text.contains("two"),
        "{text}"
    );
}

#[test]
fn a_flood_of_failures_makes_few_lines_and_exact_numbers() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .login("max_failures = 1000")
        .login("max_commands = 1000")
        .start();
    let mut client = keyward.connect();
    let guess = request(&[b"AUTH", b"app", WRONG_PASSWORD.as_bytes()]);
    client.send(&guess.repeat(500));
    client.replies(500);
    let bad = [("user", "app"), ("reason", "bad_password")];
    assert_eq!(keyward.metric("keyward_auth_failures_total", &bad), 500.0);
    // What was held back is counted, and told in the end; the log is written by a thread of its own.
    let single = eventually("every failure to be written or counted", || {
        let lines = keyward.events("auth_failed");
        assert!(lines.len() < 50, "{} lines", lines.len());
        let single = lines.iter().filter(|line| line["folded"] != true).count() as f64;
        let dropped = keyward.metric("keyward_audit_events_dropped_total", &[]);
        (single + dropped == 500.0).then_some(single)
    });
    let mut keyward = keyward;
    keyward.stop();
    let folded: f64 = keyward
        .events("auth_failed")
        .iter()
        .filter(|line| line["folded"] == true)
        .map(|line| line["count"].as_f64().unwrap())
        .sum();
    assert_eq!(single + folded, 500.0);
}

#[test]
fn the_log_for_people_has_no_colour_codes_in_a_pipe() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).arg("--log-format").arg("human").spawn();
    eventually("the ready line", || {
        keyward.text().contains("ready").then_some(())
    });
    let text = keyward.text();
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(!text.contains("{\""), "not JSON: {text}");
    keyward.end_unsearched();
}

#[test]
fn a_reader_of_the_log_that_stops_reading_stops_nothing_else() {
    let redis = Redis::start();
    let setup = Setup::new(&redis);
    std::fs::write(setup.config_file(), setup.text()).unwrap();
    let port = super::support::redis::free_port();
    let admin = format!("127.0.0.1:{}", super::support::redis::free_port());
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyward"))
        .args(["run", "--config", setup.config_file().to_str().unwrap()])
        .args([
            "--listen",
            &format!("127.0.0.1:{port}"),
            "--admin",
            &admin,
            "--log",
            "trace",
        ])
        // The settings of the test run are none of Keyward's.
        .env_clear()
        .env("KEYWARD_LOCKOUT", "off")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let address = ([127, 0, 0, 1], port).into();
    eventually("the listener", || std::net::TcpStream::connect(address).ok());
    // Nobody reads the pipe: it is full after 64 KiB.
    for round in 0..300 {
        let mut client = Client::tcp(address);
        client.call_args(&["AUTH", "app", WRONG_PASSWORD]);
        let mut client = client.login("app", APP_PASSWORD);
        assert_eq!(client.call("INCR n"), format!(":{}", round + 1));
        client.send(&words("FLUSHALL"));
        assert!(client.reply().starts_with("-NOPERM "));
    }
    // And then it is gone altogether.
    let mut pipe = child.stderr.take().unwrap();
    let mut start = [0; 4096];
    let _ = pipe.read(&mut start).unwrap();
    drop(pipe);
    for _ in 0..50 {
        let mut client = Client::tcp(address).login("app", APP_PASSWORD);
        assert!(client.call("FLUSHALL").starts_with("-NOPERM "));
    }
    signal(child.id(), "TERM");
    let status = eventually("the end", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
    let text = String::from_utf8_lossy(&start);
    assert!(SECRETS.iter().all(|secret| !text.contains(secret)));
}
