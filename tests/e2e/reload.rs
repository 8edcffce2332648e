//! Changing everything while it runs: SIGHUP, changed files, and what a fault leaves as it was (F-21 to F-23, F-41, A-11).

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;

use super::support::APP_PASSWORD;
use super::support::APP_PASSWORD_2;
use super::support::Authority;
use super::support::Client;
use super::support::Keyward;
use super::support::ROOT_PASSWORD;
use super::support::Redis;
use super::support::Setup;
use super::support::eventually;
use super::support::open_descriptors;
use super::support::pipeline;
use super::support::proc_status;
use super::support::words;

fn new_password(keyward: &Keyward, password: &str) -> String {
    keyward.connect().call_args(&["AUTH", "app", password])
}

#[test]
fn users_come_and_go_with_sighup() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let mut app = keyward.app();
    let mut root = keyward.root();
    assert_eq!(app.call("SET a 1"), "+OK");
    keyward.change(|setup| {
        setup
            .without_user("app")
            .user("late", APP_PASSWORD_2, "acl = \"strict\"")
    });
    assert_eq!(
        app.call("GET a"),
        "$1",
        "a file that is only written changes nothing"
    );
    keyward.reload();
    // Whose user is gone is gone.
    app.expect_closed();
    assert_eq!(root.call("GET a"), "$1", "others are not disturbed");
    let reply = keyward.connect().call_args(&["AUTH", "app", APP_PASSWORD]);
    assert!(reply.starts_with("-WRONGPASS "), "{reply}");
    let mut late = keyward.connect().login("late", APP_PASSWORD_2);
    assert_eq!(late.call("GET a"), "$1");
    assert!(late.call("SELECT 1").starts_with("-NOPERM "));
    let reason = [("reason", "credential_removed")];
    keyward.wait_metric("keyward_connections_closed_total", &reason, 1.0);
    assert_eq!(keyward.metric("keyward_config_last_reload_successful", &[]), 1.0);
    assert_eq!(
        keyward.metric("keyward_config_reloads_total", &[("result", "success")]),
        1.0
    );
    // Series of a new user exist from the beginning.
    assert_eq!(
        keyward.metric(
            "keyward_auth_failures_total",
            &[("user", "late"), ("reason", "bad_password")]
        ),
        0.0
    );
}

#[test]
fn a_password_that_is_taken_away_ends_its_sessions_alone() {
    let redis = Redis::start();
    let setup = Setup::new(&redis).server("watch_interval = \"100ms\"");
    setup.write("app.secret", &format!("{APP_PASSWORD}\n{APP_PASSWORD_2}\n"));
    let keyward = setup.start();
    let mut old = keyward.app();
    let mut new = keyward.connect().login("app", APP_PASSWORD_2);
    assert_eq!(old.call("SET a 1"), "+OK");
    // First the two change places: nobody is ended. Then the old one goes. No signal: the file is looked at.
    keyward
        .setup()
        .write("app.secret", &format!("{APP_PASSWORD_2}\n{APP_PASSWORD}\n"));
    keyward.wait_event("reloaded");
    assert_eq!(old.call("GET a"), "$1");
    assert_eq!(new.call("GET a"), "$1");
    keyward
        .setup()
        .write("app.secret", &format!("{APP_PASSWORD_2}\n"));
    old.expect_closed();
    assert_eq!(new.call("GET a"), "$1");
    assert!(new_password(&keyward, APP_PASSWORD).starts_with("-WRONGPASS "));
    assert_eq!(new_password(&keyward, APP_PASSWORD_2), "+OK");
}

#[test]
fn a_session_that_waits_is_ended_too_when_its_credential_goes() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let mut blocked = keyward.app();
    blocked.send(&words("BLPOP list 0"));
    let mut listening = keyward.app();
    assert_eq!(listening.call("SUBSCRIBE a"), "*[$subscribe, $a, :1]");
    eventually("the blocked client", || {
        (redis.info("blocked_clients") == "1").then_some(())
    });
    keyward.change(|setup| setup.without_user("app"));
    keyward.reload();
    blocked.expect_closed();
    listening.expect_closed();
    eventually("its end in Redis", || {
        (redis.info("blocked_clients") == "0").then_some(())
    });
}

#[test]
fn rules_change_under_live_sessions() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let mut app = keyward.app();
    assert_eq!(app.call("SELECT 1"), "+OK");
    assert_eq!(app.call("SET a 1"), "+OK");
    keyward.change(|setup| setup.user_line("app", "acl = \"strict\""));
    keyward.reload();
    eventually("the new rules", || {
        app.call("SCAN 0").starts_with("-NOPERM ").then_some(())
    });
    assert_eq!(app.call("GET a"), "$1", "the session itself goes on");
    keyward.change(|setup| setup.user_line("app", "acl = \"safe +keys\""));
    keyward.reload();
    eventually("the newer rules", || {
        (app.call("KEYS *") == "*[$a]").then_some(())
    });
}

#[test]
fn rules_that_change_reach_open_transactions_and_subscriptions() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let mut queued = keyward.app();
    queued.send(&pipeline(&["MULTI", "SET a 1"]));
    assert_eq!(queued.replies(2), ["+OK", "+QUEUED"]);
    let mut subscriber = keyward.app();
    assert_eq!(subscriber.call("SUBSCRIBE c"), "*[$subscribe, $c, :1]");
    let mut other = keyward.root();
    other.send(&pipeline(&["MULTI", "SET b 1"]));
    assert_eq!(other.replies(2), ["+OK", "+QUEUED"]);
    keyward.change(|setup| setup.user_line("app", "acl = \"safe -set -subscribe\""));
    keyward.reload();
    subscriber.expect_closed();
    // Redis checks queued commands again at EXEC.
    let reply = queued.call("EXEC");
    assert!(reply.starts_with("-EXECABORT "), "{reply}");
    assert_eq!(queued.call("GET a"), "$-1");
    queued.send(&pipeline(&["MULTI", "GET a", "EXEC", "PING"]));
    assert_eq!(queued.replies(4), ["+OK", "+QUEUED", "*[$-1]", "+PONG"]);
    assert_eq!(other.call("EXEC"), "*[+OK]", "whose rules stay is not disturbed");
}

#[test]
fn limits_change_without_a_restart() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let _one = keyward.app();
    keyward.change(|setup| setup.listener("max_connections = 1"));
    keyward.reload();
    let mut second = keyward.connect();
    assert_eq!(second.reply(), "-ERR max number of clients reached");
    assert_eq!(
        keyward.metric("keyward_connections_max", &[("listener", "main")]),
        1.0
    );
    keyward.change(|setup| setup.listener("max_connections = 2"));
    keyward.reload();
    assert_eq!(keyward.app().call("PING"), "+PONG");
}

#[test]
fn a_broken_configuration_changes_nothing_and_says_why() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis)
        .expect("reload_failed")
        .expect("configuration_warning")
        .start();
    let mut app = keyward.app();
    let good = keyward.setup().text();
    let broken = [
        ("syntax", good.replace("[admin]", "[admin")),
        (
            "unknown key",
            good.replace("[server]", "[server]\nmax_conections = 5"),
        ),
        (
            "rule",
            good.replace("acl = \"safe\"", "acl = \"+nosuchcommand ~*\""),
        ),
        ("no such file", good.replace("app.secret", "missing.secret")),
        ("empty", String::new()),
    ];
    for (number, (name, text)) in broken.iter().enumerate() {
        let said = keyward.events("reload_failed").len();
        keyward.overwrite_config(text);
        keyward.signal("HUP");
        let failures = (number + 1) as f64;
        let result = [("result", "failure")];
        keyward.wait_metric("keyward_config_reloads_total", &result, failures);
        // One line for each fault; the first will do.
        let failed = eventually(name, || keyward.events("reload_failed").get(said).cloned());
        assert_eq!(failed["level"], "ERROR");
        assert!(!failed["error"].as_str().unwrap().is_empty(), "{name}: {failed}");
        if *name == "unknown key" {
            let place = failed["place"].as_str().unwrap();
            assert!(place.contains("keyward.toml:"), "{place}");
            let help = failed["help"].as_str().unwrap();
            assert!(help.contains("max_connections"), "what was meant: {help}");
        }
        assert_eq!(app.call("PING"), "+PONG", "{name}");
        assert_eq!(keyward.app().call("PING"), "+PONG", "{name}");
        assert_eq!(keyward.metric("keyward_config_last_reload_successful", &[]), 0.0);
    }
    keyward.change(|setup| setup.without_user("root"));
    keyward.reload();
    assert_eq!(keyward.metric("keyward_config_last_reload_successful", &[]), 1.0);
    let reply = keyward.connect().call_args(&["AUTH", "root", ROOT_PASSWORD]);
    assert!(reply.starts_with("-WRONGPASS "), "{reply}");
}

#[test]
fn what_needs_a_restart_is_refused_not_half_done() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).expect("reload_failed").start();
    keyward.change(|setup| {
        setup
            .add_listener("more", "main", "127.0.0.1:0")
            .without_user("root")
    });
    keyward.signal("HUP");
    let failed = keyward.wait_event("reload_failed");
    assert!(failed["error"].as_str().unwrap().contains("listener"), "{failed}");
    assert_eq!(
        keyward.root().call("PING"),
        "+PONG",
        "the rest was not taken over either"
    );
}

#[test]
fn every_key_that_is_said_to_need_a_restart_does() {
    let redis = Redis::start();
    let socket = |setup: Setup| {
        let address = format!("unix:{}", setup.dir().join("kw.sock").display());
        setup.listener(&format!("address = {address:?}"))
    };
    for (section, key) in keyward::config::schema::NEEDS_RESTART {
        let mut keyward = socket(Setup::new(&redis)).expect("reload_failed").start();
        keyward.change(|setup| match (*section, *key) {
            ("server", "workers") => setup.server("workers = 3"),
            ("admin", "address") => setup.admin_address("127.0.0.1:1"),
            ("admin", "control_socket") => setup.control_socket(),
            ("log", "format") => setup.log("format = \"human\""),
            ("log", "filter") => setup.log("format = \"json\"\nfilter = \"warn\""),
            ("upstream", "name") => setup.rename_upstream("another"),
            ("listener", "name") => setup.rename_listener("another"),
            ("listener", "address") => setup.listener("address = \"127.0.0.1:0\""),
            ("listener", "socket_mode") => setup.listener("socket_mode = \"0660\""),
            ("listener", "socket_owner") => setup.listener("socket_owner = \"1:1\""),
            other => panic!("how is {other:?} changed?"),
        });
        keyward.signal("HUP");
        let failed = keyward.wait_event("reload_failed");
        let what = failed["error"].as_str().unwrap();
        assert!(what.contains(section), "[{section}] {key}: {failed}");
        assert!(what.contains("cannot be changed while running"), "{failed}");
    }
}

#[test]
fn how_often_files_are_looked_at_changes_with_a_reload() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis).server("watch_interval = \"1h\"").start();
    keyward.change(|setup| setup.server("watch_interval = \"50ms\""));
    keyward.reload();
    keyward
        .setup()
        .write("app.secret", &format!("{APP_PASSWORD_2}\n{APP_PASSWORD}\n"));
    keyward.wait_event_where("reloaded", |line| line["cause"] == "files");
    assert_eq!(new_password(&keyward, APP_PASSWORD_2), "+OK");
}

/// The certificate that a new client is shown.
fn served(keyward: &Keyward, ca: &Authority) -> Vec<u8> {
    let client = Client::tls(keyward.address(), &ca.client_config(None)).unwrap();
    client.tls_session().peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn certificates_are_replaced_by_sighup_and_by_their_files() {
    let ca = Authority::new("ca");
    let (one, two, three) = (ca.server("one"), ca.server("two"), ca.server("three"));
    let redis = Redis::start();
    // Long: only the signal counts at first.
    let mut keyward = Setup::new(&redis)
        .tls(&one, "")
        .server("watch_interval = \"1h\"")
        .start();
    let config = ca.client_config(None);
    let mut early = Client::tls(keyward.address(), &config)
        .unwrap()
        .login("app", APP_PASSWORD);
    assert_eq!(served(&keyward, &ca), one.leaf().to_vec());
    two.write_to(&one.certificate, &one.key);
    keyward.reload();
    assert_eq!(served(&keyward, &ca), two.leaf().to_vec());
    assert_eq!(early.call("PING"), "+PONG", "established sessions stay");
    keyward.change(|setup| setup.server("watch_interval = \"100ms\""));
    keyward.stop();
    let setup = keyward.into_setup();
    let keyward = setup.start();
    three.write_to(&one.certificate, &one.key);
    eventually("the third certificate", || {
        (served(&keyward, &ca) == three.leaf().to_vec()).then_some(())
    });
}

#[test]
fn certificates_behind_a_swapped_symlink_are_noticed() {
    // As the kubelet does it: files are links into ..data, and ..data is a link that is renamed over.
    let ca = Authority::new("ca");
    let (one, two) = (ca.server("one"), ca.server("two"));
    let mounted = ca.dir().join("mounted");
    for (generation, identity) in [("first", &one), ("second", &two)] {
        let dir = mounted.join(generation);
        fs::create_dir_all(&dir).unwrap();
        identity.write_to(&dir.join("tls.crt"), &dir.join("tls.key"));
    }
    symlink("first", mounted.join("..data")).unwrap();
    let mut identity = one.clone();
    identity.certificate = mounted.join("tls.crt");
    identity.key = mounted.join("tls.key");
    symlink("..data/tls.crt", &identity.certificate).unwrap();
    symlink("..data/tls.key", &identity.key).unwrap();
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .tls(&identity, "")
        .server("watch_interval = \"100ms\"")
        .start();
    assert_eq!(served(&keyward, &ca), one.leaf().to_vec());
    let mut early = Client::tls(keyward.address(), &ca.client_config(None))
        .unwrap()
        .login("app", APP_PASSWORD);
    symlink("second", mounted.join("..next")).unwrap();
    fs::rename(mounted.join("..next"), mounted.join("..data")).unwrap();
    eventually("the second generation", || {
        (served(&keyward, &ca) == two.leaf().to_vec()).then_some(())
    });
    assert_eq!(early.call("PING"), "+PONG", "established sessions stay");
}

#[test]
fn a_certificate_without_its_key_keeps_the_old_pair() {
    let ca = Authority::new("ca");
    let (one, two) = (ca.server("one"), ca.server("two"));
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .tls(&one, "")
        .server("watch_interval = \"1h\"")
        .expect("reload_failed")
        .start();
    let was = one.leaf().to_vec();
    let key = fs::read(&one.key).unwrap();
    fs::copy(&two.certificate, &one.certificate).unwrap();
    keyward.signal("HUP");
    keyward.wait_event("reload_failed");
    assert_eq!(served(&keyward, &ca), was);
    fs::write(&one.key, "not a key").unwrap();
    keyward.signal("HUP");
    eventually("the second failure", || {
        (keyward.events("reload_failed").len() >= 2).then_some(())
    });
    assert_eq!(served(&keyward, &ca), was);
    // The key comes later: the pair is whole and taken.
    fs::write(&one.key, fs::read(&two.key).unwrap()).unwrap();
    assert_ne!(key, fs::read(&one.key).unwrap());
    keyward.reload();
    assert_eq!(served(&keyward, &ca), two.leaf().to_vec());
}

#[test]
fn a_storm_of_signals_under_load_leaks_nothing_and_loses_nothing() {
    let redis = Redis::start();
    let mut keyward = Keyward::start(&redis);
    let address = keyward.address();
    let load = thread::spawn(move || {
        let mut client = Client::tcp(address).login("app", APP_PASSWORD);
        for number in 1..=3_000 {
            assert_eq!(client.call("INCR n"), format!(":{number}"));
        }
    });
    keyward.reload();
    let threads = proc_status(keyward.pid(), "Threads:");
    let files = open_descriptors(keyward.pid());
    for _ in 0..100 {
        keyward.signal("HUP");
    }
    load.join().unwrap();
    keyward.change(|setup| setup.without_user("root"));
    keyward.reload();
    eventually("the last one to be in force", || {
        let reply = keyward.connect().call_args(&["AUTH", "root", ROOT_PASSWORD]);
        reply.starts_with("-WRONGPASS ").then_some(())
    });
    eventually("descriptors to be as before", || {
        (open_descriptors(keyward.pid()) <= files + 2).then_some(())
    });
    // Name resolution and signals may keep a helper thread for a while.
    assert!(proc_status(keyward.pid(), "Threads:") <= threads + 4);
}

#[test]
fn the_credential_for_redis_is_replaced_by_its_file() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .server("watch_interval = \"100ms\"")
        .expect("redis_connection_failed")
        .start();
    let mut early = keyward.app();
    assert_eq!(early.call("SET a 1"), "+OK");
    let second = super::support::REDIS_PASSWORD_2;
    let rotate = ["CONFIG", "SET", "requirepass", second];
    assert_eq!(redis.client().call_args(&rotate), "+OK");
    keyward.setup().write("main.redis", &format!("{second}\n"));
    eventually("the new credential", || {
        (keyward.app().call("GET a") == "$1").then_some(())
    });
    assert_eq!(early.call("GET a"), "$1");
}

#[test]
fn a_refused_reload_shows_the_ages_of_the_credentials_that_stay_in_force() {
    const AGES: [&str; 2] = [
        "keyward_upstream_credential_changed_timestamp_seconds",
        "keyward_user_credential_changed_timestamp_seconds",
    ];
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis)
        .server("watch_interval = \"50ms\"")
        .expect("reload_failed")
        .start();
    let ages = |keyward: &Keyward| {
        let app: &[(&str, &str)] = &[("user", "app")];
        [
            keyward.metric(AGES[0], &[("upstream", "main")]),
            keyward.metric(AGES[1], app),
        ]
    };
    let before = ages(&keyward);
    // One good change and one bad: neither is taken.
    let second = format!("{}\n{APP_PASSWORD_2}\n", super::support::REDIS_PASSWORD);
    keyward.setup().write("main.redis", &second);
    keyward.setup().write("app.secret", "\n");
    keyward.wait_event("reload_failed");
    assert_eq!(ages(&keyward), before, "of what is in force");
    let again = format!("{APP_PASSWORD}\n{APP_PASSWORD_2}\n");
    keyward.setup().write("app.secret", &again);
    keyward.wait_event_where("reloaded", |line| line["cause"] == "files");
    let after = ages(&keyward);
    assert!(
        after[0] > before[0] && after[1] > before[1],
        "{before:?} {after:?}"
    );
    // Whoever is gone has no age that an alert could be about.
    keyward.change(|setup| setup.without_user("app"));
    keyward.reload();
    assert_eq!(keyward.find_metric(AGES[1], &[("user", "app")]), None);
}

#[test]
fn a_reload_makes_no_password_of_the_environment_younger() {
    let redis = Redis::start();
    let keyward = Setup::environment(&[
        ("REDIS_URL", &redis.unix_url()),
        ("REDIS_PASSWORD", super::support::REDIS_PASSWORD),
        ("KEYWARD_PASSWORD", APP_PASSWORD),
    ])
    .expect("KW0401")
    .expect("configuration_warning")
    .start();
    let age = || keyward.metric("keyward_upstream_credential_changed_timestamp_seconds", &[]);
    let before = age();
    assert!(before > 0.0);
    keyward.signal("HUP");
    keyward.wait_event("reloaded");
    assert_eq!(age(), before, "it cannot have changed");
}

#[test]
fn an_acl_file_is_replaced_by_its_file() {
    let redis = Redis::start();
    let hash = |password: &str| {
        let (_, out, _) = super::support::keyward::command_line(&["hash-password"], &[], password);
        out.trim().trim_start_matches("sha256:").to_owned()
    };
    let line = |rules: &str| format!("user app on #{} ~* &* {rules}\n", hash(APP_PASSWORD));
    let setup = Setup::new(&redis)
        .without_users()
        .server("watch_interval = \"100ms\"")
        .expect("reload_failed");
    let file = setup.write("users.acl", &line("+@all -@dangerous"));
    let keyward = setup.listener(&format!("users_file = {:?}", file)).start();
    let mut app = keyward.app();
    assert!(app.call("INFO server").starts_with("-NOPERM "));
    keyward
        .setup()
        .write("users.acl", &line("+@all -@dangerous +info"));
    eventually("the new rule", || {
        app.call("INFO server").starts_with('$').then_some(())
    });
    keyward.setup().write("users.acl", "user app on nonsense\n");
    let failed = keyward.wait_event("reload_failed");
    assert!(failed.to_string().contains("users.acl"), "{failed}");
    assert!(app.call("INFO server").starts_with('$'));
}
