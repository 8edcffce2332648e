//! Reloading while clients are connected (rules A-11, F-22, F-23).

use super::support::APP_PASSWORD;
use super::support::APP_PASSWORD_2;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::eventually;
use super::support::open_descriptors;
use super::support::proc_status;

fn wait_failed(keyward: &Keyward, before: usize) -> serde_json::Value {
    eventually("a refused reload", || {
        keyward.events("reload_failed").get(before).cloned()
    })
}

/// Two audit lines are part of a reload that ends sessions or is refused.
fn setup(redis: &Redis) -> Setup {
    Setup::new(redis)
        .expect("sessions_closed")
        .expect("reload_failed")
        .expect("config_refused")
}

#[test]
fn a_new_user_may_log_in_after_a_reload() {
    let redis = Redis::start();
    let mut keyward = setup(&redis).start();
    let mut client = keyward.connect();
    assert!(
        client
            .call_args(&["AUTH", "late", APP_PASSWORD_2])
            .starts_with("-WRONGPASS ")
    );
    let mut old = keyward.app();
    keyward.change(|setup| setup.user("late", APP_PASSWORD_2, "acl = \"safe\""));
    keyward.reload();
    let mut late = keyward.connect().login("late", APP_PASSWORD_2);
    assert_eq!(late.call("SET a 1"), "+OK");
    assert_eq!(old.call("GET a"), "$1", "who was there stays");
    keyward.wait_metric("keyward_config_reloads_total", &[("result", "success")], 1.0);
}

#[test]
fn the_sessions_of_a_removed_user_are_closed() {
    let redis = Redis::start();
    let mut keyward = setup(&redis).start();
    let mut gone = keyward.app();
    assert_eq!(gone.call("SET a 1"), "+OK");
    let mut blocked = keyward.app();
    blocked.send(&super::support::words("BLPOP none 0"));
    let mut subscribed = keyward.app();
    assert_eq!(subscribed.call("SUBSCRIBE news"), "*[$subscribe, $news, :1]");
    let mut stays = keyward.root();
    assert_eq!(stays.call("GET a"), "$1");
    keyward.change(|setup| setup.without_user("app"));
    keyward.reload();
    gone.expect_closed();
    blocked.expect_closed();
    subscribed.expect_closed();
    assert_eq!(stays.call("GET a"), "$1");
    assert!(
        keyward
            .connect()
            .call_args(&["AUTH", "app", APP_PASSWORD])
            .starts_with("-WRONGPASS ")
    );
    keyward.wait_metric(
        "keyward_connections_closed_total",
        &[("reason", "credential_removed")],
        3.0,
    );
}

#[test]
fn a_removed_password_closes_the_sessions_that_used_it_and_no_others() {
    let redis = Redis::start();
    let setup = setup(&redis).server("watch_interval = \"100ms\"");
    setup.write("app.secret", &format!("{APP_PASSWORD}\n{APP_PASSWORD_2}\n"));
    let keyward = setup.start();
    let mut first = keyward.app();
    let mut second = keyward.connect().login("app", APP_PASSWORD_2);
    assert_eq!(first.call("PING"), "+PONG");
    // Nothing is told to the process: the file alone changes.
    keyward
        .setup()
        .write("app.secret", &format!("{APP_PASSWORD_2}\n"));
    first.expect_closed();
    assert_eq!(second.call("SET a 1"), "+OK");
    assert!(
        keyward
            .connect()
            .call_args(&["AUTH", "app", APP_PASSWORD])
            .starts_with("-WRONGPASS ")
    );
    assert_eq!(keyward.wait_event("reloaded")["cause"], "files");
}

#[test]
fn changed_rules_apply_to_sessions_that_are_open() {
    let redis = Redis::start();
    let mut keyward = setup(&redis).start();
    let mut client = keyward.app();
    assert_eq!(client.call("SET a 1"), "+OK");
    keyward.change(|setup| setup.user_line("app", "acl = \"+@read +@connection ~* &*\""));
    keyward.reload();
    eventually("the narrower rule", || {
        client.call("SET a 2").starts_with("-NOPERM ").then_some(())
    });
    assert_eq!(client.call("GET a"), "$1");
    keyward.change(|setup| setup.user_line("app", "acl = \"+@all ~* &*\""));
    keyward.reload();
    eventually("the wider rule", || {
        (client.call("CONFIG SET slowlog-max-len 7") == "+OK").then_some(())
    });
    assert_eq!(client.call("SET a 3"), "+OK");
}

#[test]
fn a_broken_file_changes_nothing_and_says_where() {
    let redis = Redis::start();
    let mut keyward = setup(&redis).start();
    let mut client = keyward.app();
    let sound = keyward.setup().text();
    let table = [
        (format!("{sound}\n[[user]\n"), "keyward.toml"),
        (
            sound.replace("acl = \"safe\"", "acl = \"safe +nosuchcommand\""),
            "keyward.toml",
        ),
        (
            sound.replace("upstream = \"main\"", "upstream = \"nowhere\""),
            "keyward.toml",
        ),
        (
            sound.replace("name = \"root\"", "name = \"root\"\nnosuchkey = 1"),
            "keyward.toml",
        ),
    ];
    for (index, (text, place)) in table.iter().enumerate() {
        let before = keyward.events("reload_failed").len();
        keyward.overwrite_config(text);
        keyward.signal("HUP");
        let line = wait_failed(&keyward, before);
        assert_eq!(line["level"], "ERROR");
        assert!(!line["error"].as_str().unwrap().is_empty());
        assert!(line["place"].as_str().unwrap().contains(place), "{line}");
        assert_eq!(client.call("SET a 1"), "+OK", "case {index}");
        assert_eq!(keyward.app().call("GET a"), "$1", "case {index}");
        keyward.wait_metric("keyward_config_last_reload_successful", &[], 0.0);
        eventually("the count", || {
            (keyward.metric("keyward_config_reloads_total", &[("result", "success")]) == 0.0).then_some(())
        });
    }
    assert_eq!(keyward.page("/readyz").0, 200);
    keyward.change(|setup| setup);
    keyward.reload();
    keyward.wait_metric("keyward_config_last_reload_successful", &[], 1.0);
}

#[test]
fn what_needs_a_restart_is_refused_whole() {
    let redis = Redis::start();
    let mut keyward = setup(&redis).start();
    keyward.change(|setup| {
        setup
            .user("late", APP_PASSWORD_2, "acl = \"safe\"")
            .add_listener("more", "main", "127.0.0.1:0")
    });
    keyward.signal("HUP");
    let line = wait_failed(&keyward, 0);
    assert!(line["error"].as_str().unwrap().contains("listeners"), "{line}");
    assert!(line["help"].as_str().unwrap().contains("restart"), "{line}");
    let reply = keyward.connect().call_args(&["AUTH", "late", APP_PASSWORD_2]);
    assert!(
        reply.starts_with("-WRONGPASS "),
        "no half of it is in force: {reply}"
    );
}

#[test]
fn a_storm_of_reloads_leaks_nothing() {
    let redis = Redis::start();
    let keyward = setup(&redis).start();
    let mut client = keyward.app();
    assert_eq!(client.call("SET a 0"), "+OK");
    keyward.reload();
    let before = (
        open_descriptors(keyward.pid()),
        proc_status(keyward.pid(), "Threads:"),
    );
    for round in 0..100 {
        keyward.signal("HUP");
        assert_eq!(
            client.call("INCR a"),
            format!(":{}", round + 1),
            "sessions notice nothing"
        );
    }
    keyward.reload();
    eventually("descriptors and threads as before", || {
        let now = (
            open_descriptors(keyward.pid()),
            proc_status(keyward.pid(), "Threads:"),
        );
        // A readiness check may be under way, and a scrape.
        (now.0 <= before.0 + 3 && now.1 <= before.1).then_some(())
    });
    assert_eq!(keyward.app().call("GET a"), "$100");
}
