//! The log: what machines read from it, and what nobody may read from it.

use serde_json::Value as Json;

use super::support::APP_PASSWORD;
use super::support::APP_PASSWORD_2;
use super::support::Keyward;
use super::support::Redis;
use super::support::SAMPLE_KEY;
use super::support::SAMPLE_VALUE;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::request;

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

/// The guard's search through the output is the test: with everything logged, and everything gone wrong.
#[test]
fn the_most_talkative_log_holds_no_secret() {
    let redis = Redis::start();
    let setup = Setup::new(&redis)
        .env("KEYWARD_LOG", "trace")
        .expect("protocol_error")
        .expect("reload_failed")
        .expect("config_refused")
        .expect("sessions_closed");
    let mut keyward = setup.start();
    let mut client = keyward.connect();
    client.call_args(&["AUTH", "app", WRONG_PASSWORD]);
    // A password in the place of the name, and of the command.
    client.call_args(&["AUTH", APP_PASSWORD, "app"]);
    client.call_args(&[APP_PASSWORD, "app"]);
    client.call_args(&["HELLO", "3", "AUTH", "app", APP_PASSWORD, "SETNAME", APP_PASSWORD]);
    assert_eq!(client.call_args(&["SET", SAMPLE_KEY, SAMPLE_VALUE]), "+OK");
    client.call_args(&["LPUSH", SAMPLE_KEY, SAMPLE_VALUE]);
    client.call_args(&[SAMPLE_KEY, SAMPLE_VALUE]);
    client.call_args(&["CONFIG", "SET", SAMPLE_KEY, SAMPLE_VALUE]);
    client.call_args(&["CLIENT", SAMPLE_VALUE]);
    client.call_args(&["EVAL", SAMPLE_VALUE, "1", SAMPLE_KEY]);
    client.call_args(&["AUTH", "root", APP_PASSWORD]);
    client.send(format!("*1\r\n{SAMPLE_VALUE}\r\n").as_bytes());
    client.read_to_end();
    let mut other = keyward.app();
    other.send(&request(&[b"SUBSCRIBE", SAMPLE_KEY.as_bytes()]));
    other.reply();
    redis.client().call_args(&["PUBLISH", SAMPLE_KEY, SAMPLE_VALUE]);
    other.reply();
    keyward.change(|setup| setup.user("late", APP_PASSWORD_2, "acl = \"safe\""));
    keyward.reload();
    keyward.overwrite_config(&format!(
        "{}\n[[user]]\nname = \"x\"\npassword = {APP_PASSWORD:?}\n",
        keyward.setup().text()
    ));
    keyward.signal("HUP");
    keyward.wait_event("reload_failed");
    keyward.page("/metrics");
    assert!(
        keyward.text().contains("\"level\":\"DEBUG\""),
        "the filter has no effect:\n{}",
        keyward.text()
    );
}
