//! Users who reach Redis as Redis users of their own, and what Redis would run although nobody may use it here (C-7 to C-9).

use super::support::APP_PASSWORD;
use super::support::APP_PASSWORD_2;
use super::support::Client;
use super::support::Keyward;
use super::support::REDIS_PASSWORD_2;
use super::support::ROOT_PASSWORD;
use super::support::Redis;
use super::support::Setup;
use super::support::certs::replace;
use super::support::eventually;

/// A Redis with a user `redis-app` beside `default`, which may not touch what begins with `other:`.
fn redis() -> Redis {
    let redis = Redis::start();
    allow(
        &redis,
        "redis-app",
        REDIS_PASSWORD_2,
        "~app:* +@all -@dangerous +info",
    );
    redis
}

fn allow(redis: &Redis, user: &str, password: &str, rules: &str) {
    let mut words = vec!["ACL", "SETUSER", user, "reset", "on"];
    let password = format!(">{password}");
    words.push(&password);
    words.extend(rules.split(' '));
    assert_eq!(redis.client().call_args(&words), "+OK");
}

/// `app` is `redis-app` at Redis, `root` is whom Keyward is.
fn setup(redis: &Redis) -> Setup {
    let setup = Setup::new(redis);
    let secret = setup.write("app.redis", &format!("{REDIS_PASSWORD_2}\n"));
    setup
        .user("app", APP_PASSWORD, "acl = \"+@all ~* &*\"")
        .user_line("app", "upstream_username = \"redis-app\"")
        .user_line("app", &format!("upstream_password_file = {secret:?}"))
}

fn app(keyward: &Keyward) -> Client {
    keyward.connect().login("app", APP_PASSWORD)
}

fn root(keyward: &Keyward) -> Client {
    keyward.connect().login("root", ROOT_PASSWORD)
}

/// Users of the connections that Redis has, but the one that asks.
fn users_at(redis: &Redis) -> Vec<String> {
    let list = redis.client().call("CLIENT LIST");
    let lines = list.lines().filter(|line| !line.contains("cmd=client|list"));
    let mut users: Vec<String> = lines
        .filter_map(|line| line.split(" user=").nth(1)?.split(' ').next())
        .map(str::to_owned)
        .collect();
    users.sort();
    users
}

#[test]
fn redis_sees_the_real_caller_on_every_kind_of_connection() {
    let redis = redis();
    for mode in ["shared", "dedicated"] {
        let keyward = setup(&redis)
            .env("KEYWARD_CONNECTIONS", mode)
            .server("workers = 1")
            .start();
        let (mut one, mut other) = (app(&keyward), root(&keyward));
        // Shared, and inside a transaction, which is on an own one that goes back to the pool.
        for _ in 0..3 {
            assert_eq!(one.call("SET app:1 v"), "+OK", "{mode}");
            let refused = one.call("SET other:1 v");
            assert!(refused.starts_with("-NOPERM "), "{mode}: {refused}");
            assert_eq!(other.call("SET other:1 v"), "+OK", "{mode}");
            for client in [&mut one, &mut other] {
                assert_eq!(client.call("MULTI"), "+OK");
            }
            assert!(one.call("SET other:1 v").starts_with("-NOPERM "), "{mode}");
            assert_eq!(other.call("SET other:1 v"), "+QUEUED", "{mode}");
            assert!(one.call("EXEC").starts_with("-EXECABORT"));
            assert_eq!(other.call("EXEC"), "*[+OK]");
        }
        let users = users_at(&redis);
        assert!(users.contains(&"redis-app".to_owned()), "{mode}: {users:?}");
        assert!(users.contains(&"default".to_owned()), "{mode}: {users:?}");
        let log = redis.client().call("ACL LOG");
        assert!(log.contains("redis-app"), "{log}");
        assert_eq!(one.call("ACL WHOAMI"), "$app", "the client is told its own name");
    }
}

#[test]
fn auth_as_another_user_takes_the_connection_of_that_one() {
    let redis = redis();
    for mode in ["shared", "dedicated"] {
        let keyward = setup(&redis).env("KEYWARD_CONNECTIONS", mode).start();
        let mut client = root(&keyward);
        assert_eq!(client.call("SELECT 3"), "+OK");
        assert_eq!(client.call("SET other:1 root"), "+OK");
        // The login stands behind requests that have not been answered.
        client.send(&super::support::pipeline(&[
            "SET app:1 v",
            &format!("AUTH app {APP_PASSWORD}"),
            "GET app:1",
            "GET other:1",
        ]));
        let replies = client.replies(4);
        assert_eq!(replies[..3], ["+OK", "+OK", "$v"], "{mode}: the database stays");
        assert!(replies[3].starts_with("-NOPERM "), "{mode}: {}", replies[3]);
        let mut client = client.login("root", ROOT_PASSWORD);
        assert_eq!(client.call("GET other:1"), "$root", "{mode}");
        // What cannot be taken along ends the connection, in words.
        assert_eq!(client.call("WATCH other:1"), "+OK");
        let reply = client.call_args(&["AUTH", "app", APP_PASSWORD]);
        assert!(reply.contains("another user of Redis"), "{mode}: {reply}");
        client.expect_closed();
        let mut client = root(&keyward);
        assert_eq!(client.call("WATCH other:1"), "+OK");
        assert_eq!(client.call("RESET"), "+RESET");
        assert!(
            client
                .login("app", APP_PASSWORD)
                .call("GET other:1")
                .starts_with("-NOPERM ")
        );
    }
}

#[test]
fn a_refused_login_of_one_user_stops_nobody_else() {
    let redis = redis();
    let keyward = setup(&redis).expect("redis_login_failed").start();
    keyward.wait_metric("keyward_upstream_up", &[], 1.0);
    allow(&redis, "redis-app", APP_PASSWORD_2, "~app:* +@all");
    let failed = [("user", "app"), ("reason", "wrongpass"), ("upstream", "main")];
    for _ in 0..3 {
        let mut client = app(&keyward);
        assert_eq!(
            client.call("GET app:1"),
            "-ERR keyward: upstream authentication failed"
        );
        client.expect_closed();
        assert_eq!(root(&keyward).call("PING"), "+PONG");
    }
    assert!(keyward.metric("keyward_upstream_auth_failures_total", &failed) >= 1.0);
    let own = [("user", ""), ("upstream", "main")];
    assert_eq!(keyward.metric("keyward_upstream_auth_failures_total", &own), 0.0);
    assert_eq!(keyward.wait_event("redis_login_failed")["user"], "app");
    assert!(keyward.events("redis_connection_failed").is_empty());
    assert_eq!(keyward.metric("keyward_upstream_up", &[]), 1.0);
    // The new password is found in the file, without a reload, as soon as it is tried again.
    let secret = keyward.setup().dir().join("app.redis");
    replace(&secret, &format!("{APP_PASSWORD_2}\n{REDIS_PASSWORD_2}\n"), 0o600);
    eventually("the new password", || {
        (app(&keyward).call("SET app:1 new") == "+OK").then_some(())
    });
    // Rotation: the old one is in the second line.
    allow(&redis, "redis-app", REDIS_PASSWORD_2, "~app:* +@all");
    redis.client().call("CLIENT KILL USER redis-app");
    eventually("the second line", || {
        (app(&keyward).call("GET app:1") == "$new").then_some(())
    });
}

#[test]
fn a_reload_that_changes_the_redis_user_moves_its_sessions() {
    let redis = redis();
    allow(&redis, "narrow", REDIS_PASSWORD_2, "~narrow:* +@all");
    for mode in ["shared", "dedicated"] {
        let keyward = setup(&redis).env("KEYWARD_CONNECTIONS", mode).start();
        let (mut client, mut other) = (app(&keyward), root(&keyward));
        assert_eq!(client.call("SET app:1 v"), "+OK");
        assert_eq!(other.call("PING"), "+PONG");
        let file = keyward.setup().config_file();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.replace("\"redis-app\"", "\"narrow\"")).unwrap();
        keyward.reload();
        eventually("the other user of Redis", || {
            client.call("GET app:1").starts_with("-NOPERM ").then_some(())
        });
        assert_eq!(client.call("SET narrow:1 v"), "+OK", "{mode}");
        assert_eq!(other.call("GET app:1"), "$v", "{mode}");
        eventually("the end of the old connections", || {
            (!users_at(&redis).contains(&"redis-app".to_owned())).then_some(())
        });
    }
}

#[test]
fn the_bound_counts_the_connections_of_all_users_together() {
    let redis = redis();
    let keyward = setup(&redis)
        .server("workers = 1")
        .upstream("max_connections = 2")
        .env("KEYWARD_CONNECTIONS", "dedicated")
        .upstream("wait_timeout = \"200ms\"")
        .expect("upstream_connections_exhausted")
        .start();
    let (mut one, mut two, mut three) = (app(&keyward), root(&keyward), app(&keyward));
    assert_eq!(one.call("GET app:1").chars().next(), Some('$'));
    assert_eq!(two.call("PING"), "+PONG");
    assert!(three.call("GET app:1").contains("max_connections reached"));
    drop(two);
    eventually("a place", || {
        app(&keyward).call("GET app:1").starts_with('$').then_some(())
    });
}

#[test]
fn idle_connections_of_another_login_give_way_to_who_waits() {
    let redis = redis();
    let keyward = setup(&redis)
        .server("workers = 1")
        .env("KEYWARD_CONNECTIONS", "shared")
        .upstream("max_connections = 1")
        .start();
    // Each needs the one place, one after the other; what the former left idle is of no use to the next.
    for _ in 0..3 {
        for (mut client, key) in [(app(&keyward), "app:1"), (root(&keyward), "other:1")] {
            assert_eq!(client.call("MULTI"), "+OK");
            assert_eq!(client.call(&format!("SET {key} v")), "+QUEUED");
            assert_eq!(client.call("EXEC"), "*[+OK]");
        }
    }
}

#[test]
fn connections_are_kept_ready_for_each_login() {
    let redis = redis();
    let _keyward = setup(&redis)
        .server("workers = 1")
        .env("KEYWARD_CONNECTIONS", "shared")
        .upstream("pool_min = 2")
        .start();
    eventually("two connections for each login, and the health check's", || {
        let users = users_at(&redis);
        let count = |user: &str| users.iter().filter(|known| *known == user).count();
        (count("redis-app") == 2 && count("default") == 3).then_some(())
    });
}

#[test]
fn half_a_redis_user_is_refused_at_start() {
    let redis = Redis::start();
    for (line, wanted) in [
        ("upstream_username = \"x\"", "a Redis user without a password"),
        ("upstream_password_env = \"PATH\"", "not said which Redis user"),
    ] {
        let (code, text) = Setup::new(&redis).user_line("app", line).refuse();
        assert_eq!(code, 78, "{text}");
        assert!(text.contains(wanted), "{text}");
    }
}

const PRIVILEGE: &str = "keyward_upstream_overprivileged";

/// `app` alone, who may run scripts and is refused the usual; Keyward is `keyward` at Redis.
fn restricted(redis: &Redis, rules: &str) -> Setup {
    allow(redis, "keyward", REDIS_PASSWORD_2, rules);
    let setup = Setup::new(redis)
        .without_user("default")
        .without_user("root")
        .user("app", APP_PASSWORD, "acl = \"safe\"");
    let secret = setup.write("main.redis", &format!("{REDIS_PASSWORD_2}\n"));
    setup
        .upstream("username = \"keyward\"")
        .upstream(&format!("password_file = {secret:?}"))
}

const WIDE: &str = "~* &* +@all";
/// Without what `safe` refuses and scripts could run.
const TIGHT: &str = "~* &* +@all -flushall -flushdb -swapdb -keys -cluster -lastsave -migrate -restore -restore-asking -slowlog -memory|doctor -memory|purge -memory|malloc-stats -pfdebug -pfselftest";

#[test]
fn what_scripts_could_do_although_it_is_blocked_is_found_and_not_done() {
    let redis = Redis::start();
    let mut direct = redis.client();
    assert_eq!(direct.call("SET canary alive"), "+OK");
    let keyward = restricted(&redis, WIDE).start();
    let line = keyward.wait_event("upstream_overprivileged");
    let message = line["message"].as_str().unwrap();
    assert!(message.starts_with("FLUSHALL, FLUSHDB"), "{message}");
    assert!(message.contains("scripts can still run it upstream"), "{message}");
    assert!(line["help"].as_str().unwrap().contains("keyward acl upstream"));
    keyward.wait_metric(PRIVILEGE, &[("cmd", "flushall"), ("upstream", "main")], 1.0);
    assert_eq!(keyward.metric(PRIVILEGE, &[("cmd", "migrate")]), 1.0);
    // It is true, and was not done.
    assert_eq!(direct.call("GET canary"), "$alive");
    assert_eq!(redis.calls("flushall"), 0);
    let mut client = app(&keyward);
    assert!(client.call("FLUSHALL").starts_with("-NOPERM "));
    assert_eq!(
        client.call_args(&["EVAL", "return redis.call('FLUSHALL')", "0"]),
        "+OK"
    );
    assert_eq!(direct.call("EXISTS canary"), ":0");
    // The remedy, noticed at a reload.
    allow(&redis, "keyward", REDIS_PASSWORD_2, TIGHT);
    keyward.reload();
    keyward.wait_metric(PRIVILEGE, &[], 0.0);
    let denied = app(&keyward).call_args(&["EVAL", "return redis.call('FLUSHALL')", "0"]);
    assert!(
        denied.starts_with("-ERR") || denied.starts_with("-NOPERM"),
        "{denied}"
    );
    assert_eq!(keyward.events("upstream_overprivileged").len(), 1);
}

#[test]
fn every_command_that_is_refused_to_everybody_is_asked_about() {
    let redis = Redis::start();
    // A reader with scripts: through them it could write.
    let keyward = restricted(&redis, WIDE)
        .user("app", APP_PASSWORD, "acl = \"+@read +@scripting ~* &*\"")
        .start();
    eventually("the series", || keyward.find_metric(PRIVILEGE, &[("cmd", "set")]));
    assert_eq!(keyward.metric(PRIVILEGE, &[("cmd", "set")]), 1.0);
    assert_eq!(keyward.metric(PRIVILEGE, &[("cmd", "del")]), 1.0);
    assert!(
        !keyward
            .page("/metrics")
            .1
            .contains(&format!("{PRIVILEGE}{{cmd=\"get\""))
    );
    assert_eq!(redis.client().call("DBSIZE"), ":0");
}

#[test]
fn least_privilege_can_be_demanded() {
    let redis = Redis::start();
    let demand = "require_least_privilege = true";
    let (code, text) = restricted(&redis, WIDE).upstream(demand).refuse();
    assert_eq!(code, 78, "{text}");
    assert!(text.contains("KW0410") && text.contains("FLUSHALL"), "{text}");

    let keyward = restricted(&redis, TIGHT)
        .upstream(demand)
        .expect("reload_failed")
        .start();
    assert_eq!(app(&keyward).call("SET a 1"), "+OK");
    eventually("readiness", || (keyward.page("/readyz").0 == 200).then_some(()));
    // A reload that would find more is refused, and everything goes on.
    allow(&redis, "keyward", REDIS_PASSWORD_2, WIDE);
    keyward.signal("HUP");
    keyward.wait_event("reload_failed");
    assert_eq!(app(&keyward).call("GET a"), "$1");
    allow(&redis, "keyward", REDIS_PASSWORD_2, TIGHT);
    keyward.reload();
    assert_eq!(app(&keyward).call("GET a"), "$1");
}

#[test]
fn nobody_is_served_before_a_redis_that_was_away_has_shown_its_rights() {
    let mut redis = Redis::with_password().tcp().start();
    let setup = restricted(&redis, TIGHT).upstream("require_least_privilege = true");
    redis.kill();
    let keyward = setup
        .expect("redis_connection_failed")
        .expect("redis_login_failed")
        .start();
    keyward.wait_event("redis_connection_failed");
    let reply = app(&keyward).call("PING");
    assert!(
        reply.starts_with("-LOADING keyward: upstream has not shown yet"),
        "{reply}"
    );
    assert_eq!(keyward.page("/readyz").0, 503);
    redis.restart();
    allow(&redis, "keyward", REDIS_PASSWORD_2, WIDE);
    keyward.wait_event("upstream_overprivileged");
    let reply = app(&keyward).call("PING");
    assert!(
        reply.starts_with("-LOADING keyward: upstream has not shown yet"),
        "{reply}"
    );
    assert_eq!(keyward.page("/readyz").0, 503);
    allow(&redis, "keyward", REDIS_PASSWORD_2, TIGHT);
    eventually("service", || {
        (app(&keyward).call("PING") == "+PONG").then_some(())
    });
}
