//! Keys, channels, databases and networks of users, through the whole program and against a real server.

use std::io::Write;
use std::thread;

use super::support::APP_PASSWORD_2;
use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::client::Value;
use super::support::eventually;
use super::support::pipeline;
use super::support::proc_status;
use super::support::request;
use super::support::resident_bytes;
use super::support::words;

const KEY: &str = "-NOPERM No permissions to access a key";
const CHANNEL: &str = "-NOPERM No permissions to access a channel";
const DATABASE: &str = "-NOPERM No permissions to access a database";

/// A proxy with the user `tenant` and these lines in its table.
fn with_tenant(redis: &Redis, lines: &str) -> Keyward {
    Setup::new(redis).user("tenant", APP_PASSWORD_2, lines).start()
}

fn tenant(keyward: &Keyward) -> Client {
    keyward.connect().login("tenant", APP_PASSWORD_2)
}

const OWN: &str = "acl = \"+@all ~own:* %R~shared:* &own:* (~sum:* +set)\"";

#[test]
fn keys_are_those_of_the_rules_in_step_with_everything_else() {
    let redis = Redis::start();
    let keyward = with_tenant(&redis, OWN);
    let mut tenant = tenant(&keyward);
    assert_eq!(keyward.root().call("SET shared:1 s"), "+OK");
    tenant.send(&pipeline(&[
        "SET own:1 a",
        "GET other",
        "MGET own:1 shared:1",
        "SET shared:1 x",
        "MSET own:1 b other c",
        "SET sum:1 3",
        "GET sum:1",
        "RENAME own:1 other",
        "COPY shared:1 own:2",
        "EVAL return+1 1 other",
        "GET own:1",
        "GET own:2",
    ]));
    assert_eq!(tenant.reply(), "+OK");
    assert_eq!(tenant.reply(), KEY);
    assert!(tenant.reply().starts_with('*'));
    assert_eq!(tenant.replies(2), [KEY, KEY]);
    assert_eq!(tenant.reply(), "+OK");
    assert_eq!(tenant.replies(2), [KEY, KEY]);
    assert_eq!(tenant.reply(), ":1");
    assert_eq!(tenant.reply(), KEY);
    assert_eq!(tenant.replies(2), ["$a", "$s"]);
    keyward.wait_metric(
        "keyward_commands_denied_total",
        &[("user", "tenant"), ("cmd", "mset"), ("reason", "key")],
        1.0,
    );
    assert_eq!(redis.client().call("EXISTS other"), ":0");
}

#[test]
fn both_requests_that_redis_itself_misjudges_are_refused() {
    let redis = Redis::start();
    let keyward = with_tenant(&redis, OWN);
    let mut root = keyward.root();
    assert_eq!(root.call("GEOADD own:g 15 37 here"), ":1");
    assert!(root.call("XADD secret:s 1-1 f v").starts_with('$'));
    assert_eq!(root.call("XGROUP CREATE secret:s g 0"), "+OK");
    let mut tenant = tenant(&keyward);
    let store = "GEORADIUS own:g 15 37 900 km STORE own:d STORE other";
    assert_eq!(tenant.call(store), KEY);
    assert_eq!(tenant.call("GEORADIUS own:g 15 37 900 km STORE own:d"), ":1");
    assert_eq!(
        tenant.call("XREADGROUP NOACK GROUP g STREAMS STREAMS secret:s >"),
        KEY
    );
    assert_eq!(tenant.call("PFMERGE other"), KEY);
    assert_eq!(redis.client().call("EXISTS other"), ":0");
}

#[test]
fn a_refused_key_inside_multi_aborts_it() {
    let redis = Redis::start();
    let keyward = with_tenant(&redis, OWN);
    let mut tenant = tenant(&keyward);
    tenant.send(&pipeline(&[
        "MULTI",
        "SET own:1 a",
        "SET other b",
        "EXEC",
        "GET own:1",
    ]));
    assert_eq!(tenant.replies(3), ["+OK", "+QUEUED", KEY]);
    assert!(tenant.reply().starts_with("-EXECABORT "));
    assert_eq!(tenant.reply(), "$-1");
}

/// MSET of these keys, each with a value of `size` bytes.
fn mset(keys: &[&str], size: usize) -> Vec<u8> {
    let value = vec![b'v'; size];
    let mut args: Vec<&[u8]> = vec![b"MSET"];
    for key in keys {
        args.extend([key.as_bytes(), &value]);
    }
    request(&args)
}

/// Sends from another thread, because nobody may be reading yet.
fn send_in_background(client: &Client, bytes: Vec<u8>) -> thread::JoinHandle<()> {
    let mut socket = client.socket();
    thread::spawn(move || socket.write_all(&bytes).unwrap())
}

#[test]
fn keys_behind_values_that_can_be_held_are_refused_like_any_other() {
    let redis = Redis::start();
    let keyward = with_tenant(&redis, OWN);
    let mut tenant = tenant(&keyward);
    let mut bytes = words("MULTI");
    bytes.extend(mset(&["own:1", "own:2"], 300_000));
    bytes.extend(mset(&["own:1", "other"], 300_000));
    bytes.extend(words("EXEC"));
    bytes.extend(mset(&["own:3", "own:4"], 300_000));
    bytes.extend(words("STRLEN own:4"));
    let sending = send_in_background(&tenant, bytes);
    assert_eq!(tenant.replies(3), ["+OK", "+QUEUED", KEY]);
    assert!(tenant.reply().starts_with("-EXECABORT "));
    assert_eq!(tenant.replies(2), ["+OK", ":300000"]);
    sending.join().unwrap();
    assert_eq!(redis.client().call("EXISTS own:1 other"), ":0");
}

#[test]
fn a_request_of_a_hundred_megabytes_is_judged_while_it_passes() {
    let redis = Redis::start();
    let keyward = with_tenant(&redis, OWN);
    let mut tenant = tenant(&keyward);
    assert_eq!(tenant.call("SELECT 1"), "+OK");
    assert_eq!(tenant.call("PING"), "+PONG");
    let before = resident_bytes(keyward.pid());
    let size = 33 << 20;
    let mut bytes = words("SET own:0 small");
    bytes.extend(mset(&["own:1", "own:2", "own:3"], size));
    bytes.extend(mset(&["own:4", "own:5", "other"], size));
    bytes.extend(words("STRLEN own:3"));
    bytes.extend(words("EXISTS own:4 own:5"));
    bytes.extend(words("GET own:0"));
    let sending = send_in_background(&tenant, bytes);
    assert_eq!(tenant.replies(2), ["+OK", "+OK"]);
    assert_eq!(tenant.reply(), KEY);
    // The session goes on, on the database that it was on.
    assert_eq!(tenant.replies(3), [&format!(":{size}"), ":0", "$small"]);
    sending.join().unwrap();
    let grown = (proc_status(keyward.pid(), "VmHWM:") * 1024).saturating_sub(before);
    assert!(grown < 10 << 20, "the proxy grew by {grown} bytes");
    let denied = [("user", "tenant"), ("cmd", "mset"), ("reason", "key")];
    keyward.wait_metric("keyward_commands_denied_total", &denied, 1.0);
}

#[test]
fn a_late_refusal_ends_a_session_whose_state_went_with_its_lane() {
    let redis = Redis::start();
    let keyward = with_tenant(&redis, OWN);
    let mut tenant = tenant(&keyward);
    let mut bytes = words("MULTI");
    bytes.extend(mset(&["own:1", "own:2"], 1 << 20));
    bytes.extend(mset(&["own:1", "other"], 1 << 20));
    let sending = send_in_background(&tenant, bytes);
    assert_eq!(tenant.replies(3), ["+OK", "+QUEUED", KEY]);
    sending.join().unwrap();
    tenant.expect_closed();
    let reason = [("reason", "late_denial")];
    keyward.wait_metric("keyward_connections_closed_total", &reason, 1.0);
    assert_eq!(redis.client().call("EXISTS own:1 other"), ":0");
}

#[test]
fn whoever_may_touch_all_keys_is_never_held() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut app = keyward.app();
    let bytes = mset(&["a", "b"], 300_000);
    let (first, rest) = bytes.split_at(200_000);
    app.send(first);
    let mut admin = redis.client();
    eventually("Redis has the first part", || {
        let clients = admin.call("CLIENT LIST");
        let buffered = clients
            .split("qbuf=")
            .skip(1)
            .filter_map(|rest| rest.split(' ').next());
        buffered
            .filter_map(|bytes| bytes.parse::<usize>().ok())
            .find(|bytes| *bytes > 100_000)
    });
    app.send(rest);
    assert_eq!(app.reply(), "+OK");
}

#[test]
fn channels_are_those_of_the_rules() {
    let redis = Redis::start();
    let keyward = with_tenant(&redis, OWN);
    let mut tenant_1 = tenant(&keyward);
    assert_eq!(tenant_1.call("PUBLISH own:1 x"), ":0");
    assert_eq!(tenant_1.call("PUBLISH other x"), CHANNEL);
    assert_eq!(tenant_1.call("SUBSCRIBE own:1 other"), CHANNEL);
    assert_eq!(tenant_1.call("PSUBSCRIBE own:1*"), CHANNEL);
    assert!(tenant_1.call("PSUBSCRIBE own:*").starts_with('*'));
    assert_eq!(tenant_1.call("SUBSCRIBE other"), CHANNEL);
    let denied = [("user", "tenant"), ("cmd", "subscribe"), ("reason", "channel")];
    keyward.wait_metric("keyward_commands_denied_total", &denied, 2.0);
}

#[test]
fn subscribers_are_judged_again_by_their_channels_after_a_reload() {
    let redis = Redis::start();
    let mut keyward = with_tenant(&redis, "acl = \"safe\"");
    let [mut stays, mut goes, mut left, mut quiet] = [(); 4].map(|()| tenant(&keyward));
    assert!(stays.call("SUBSCRIBE own:1").starts_with('*'));
    assert!(stays.call("PSUBSCRIBE own:*").starts_with('*'));
    assert!(goes.call("SUBSCRIBE own:1").starts_with('*'));
    assert!(goes.call("SUBSCRIBE other").starts_with('*'));
    assert!(left.call("SUBSCRIBE other").starts_with('*'));
    assert!(left.call("UNSUBSCRIBE other").starts_with('*'));
    assert_eq!(quiet.call("PING"), "+PONG");
    keyward.change(|setup| {
        setup
            .without_user("tenant")
            .user("tenant", APP_PASSWORD_2, "acl = \"safe resetchannels &own:*\"")
    });
    keyward.reload();
    goes.expect_closed();
    assert_eq!(left.call("PING"), "+PONG");
    assert_eq!(quiet.call("PUBLISH other x"), CHANNEL);
    assert_eq!(quiet.call("PUBLISH own:1 x"), ":2");
    let reason = [("reason", "credential_removed")];
    keyward.wait_metric("keyward_connections_closed_total", &reason, 1.0);
}

#[test]
fn a_transaction_queued_under_other_rules_does_not_run() {
    let redis = Redis::start();
    let mut keyward = with_tenant(&redis, OWN);
    let mut tenant = tenant(&keyward);
    assert_eq!(tenant.call("MULTI"), "+OK");
    assert_eq!(tenant.call("SET own:1 a"), "+QUEUED");
    keyward.change(|setup| {
        setup
            .without_user("tenant")
            .user("tenant", APP_PASSWORD_2, "acl = \"+@all ~mine:* &*\"")
    });
    keyward.reload();
    assert!(tenant.call("EXEC").starts_with("-EXECABORT "));
    assert_eq!(tenant.call("SET own:1 a"), KEY);
    assert_eq!(tenant.call("SET mine:1 a"), "+OK");
}

#[test]
fn databases_are_those_of_the_user() {
    let redis = Redis::start();
    let mut keyward = with_tenant(&redis, "acl = \"+@all ~* &*\"\ndatabases = [0, 2]");
    let mut tenant = tenant(&keyward);
    assert_eq!(tenant.call("SET a 1"), "+OK");
    for refused in ["SELECT 1", "MOVE a 1", "COPY a b DB 1", "SWAPDB 0 1", "FLUSHALL"] {
        assert_eq!(tenant.call(refused), DATABASE, "{refused}");
    }
    assert_eq!(tenant.call("COPY a b DB 2"), ":1");
    assert_eq!(tenant.call("SELECT 2"), "+OK");
    assert_eq!(tenant.call("GET b"), "$1");
    // A login does not change the database.
    let mut root = keyward.root();
    assert_eq!(root.call("SELECT 1"), "+OK");
    let reply = root.call_args(&["AUTH", "tenant", APP_PASSWORD_2]);
    assert!(reply.starts_with("-NOPERM keyward: "), "{reply}");
    root.expect_closed();
    keyward.change(|setup| {
        setup
            .without_user("tenant")
            .user("tenant", APP_PASSWORD_2, "acl = \"safe\"\ndatabases = [0]")
    });
    keyward.reload();
    tenant.expect_closed();
}

#[test]
fn a_user_must_be_allowed_where_its_connections_begin() {
    let redis = Redis::start();
    let (code, said) = Setup::new(&redis)
        .user("tenant", APP_PASSWORD_2, "databases = [1]")
        .refuse();
    assert_eq!(code, 78);
    assert!(said.contains("may not use database 0"), "{said}");
}

#[test]
fn users_log_in_from_their_networks_alone() {
    let redis = Redis::start();
    let mut keyward = Setup::new(&redis)
        .user("near", APP_PASSWORD_2, "sources = [\"127.0.0.0/8\", \"::1\"]")
        .user("far", APP_PASSWORD_2, "sources = [\"192.0.2.0/24\"]")
        .start();
    let mut near = keyward.connect().login("near", APP_PASSWORD_2);
    assert_eq!(near.call("PING"), "+PONG");
    let reply = keyward.connect().call_args(&["AUTH", "far", APP_PASSWORD_2]);
    assert!(reply.starts_with("-WRONGPASS "), "{reply}");
    let failed = [("user", "far"), ("reason", "source_not_allowed")];
    keyward.wait_metric("keyward_auth_failures_total", &failed, 1.0);
    keyward.change(|setup| {
        setup
            .without_user("near")
            .user("near", APP_PASSWORD_2, "sources = [\"192.0.2.0/24\"]")
    });
    keyward.reload();
    near.expect_closed();
}

#[test]
fn a_file_that_redis_saved_is_used_unchanged() {
    let redis = Redis::start();
    let mut admin = redis.client();
    let set = "ACL SETUSER saved on >saved-password-of-some-length ~own:* %R~shared:* resetchannels &own:* -@all +@read +set +publish";
    assert_eq!(admin.call(set), "+OK");
    assert_eq!(admin.call("ACL SETUSER saved (~sum:* +@all)"), "+OK");
    admin.send(&words("ACL LIST"));
    let Value::Array(lines) = admin.value() else {
        panic!("ACL LIST answers an array")
    };
    let line = lines.iter().find_map(|line| match line {
        Value::Bulk(line) if line.starts_with(b"user saved ") => String::from_utf8(line.clone()).ok(),
        _ => None,
    });
    let line = line.unwrap();
    let setup = Setup::new(&redis).listener("users_file = \"users.acl\"");
    setup.write("users.acl", &format!("{line}\n"));
    let keyward = setup.start();
    let mut saved = keyward.connect().login("saved", "saved-password-of-some-length");
    assert_eq!(saved.call("SET own:1 a"), "+OK");
    assert_eq!(saved.call("SET shared:1 a"), KEY);
    assert_eq!(saved.call("DEL sum:1"), ":0");
    assert_eq!(saved.call("DEL own:1"), KEY);
    assert_eq!(saved.call("PUBLISH other x"), CHANNEL);
}

#[test]
fn a_client_that_leaves_in_the_middle_of_a_held_request_leaves_nothing_behind() {
    let redis = Redis::start();
    let keyward = with_tenant(&redis, OWN);
    let mut tenant = tenant(&keyward);
    let bytes = mset(&["own:1", "own:2"], 400_000);
    tenant.send(&bytes[..600_000]);
    drop(tenant);
    keyward.wait_metric(
        "keyward_connections_closed_total",
        &[("reason", "client_closed")],
        1.0,
    );
    assert_eq!(redis.client().call("EXISTS own:1"), ":0");
}
