//! Rules that are only observed, and rules that are learned, through the whole program and against a real server.

use super::support::APP_PASSWORD_2;
use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::Setup;
use super::support::keyward::command_line;
use super::support::pipeline;
use super::support::request;

const RULES: &str = "acl = \"+@read +@connection +set +mset +multi +exec ~own:*\"\ndatabases = [0]";

fn tenant(keyward: &Keyward) -> Client {
    keyward.connect().login("tenant", APP_PASSWORD_2)
}

fn observing(setup: Setup) -> Setup {
    setup.expect("acl_not_enforced").expect("KW0412")
}

fn observed(cmd: &'static str, reason: &'static str) -> [(&'static str, &'static str); 4] {
    [
        ("listener", "main"),
        ("user", "tenant"),
        ("cmd", cmd),
        ("reason", reason),
    ]
}

#[test]
fn what_the_rules_refuse_is_forwarded_counted_and_audited() {
    let redis = Redis::start();
    let lines = format!("{RULES}\nmode = \"observe\"");
    let keyward = observing(Setup::new(&redis).user("tenant", APP_PASSWORD_2, &lines)).start();
    let warned = keyward.wait_event("acl_not_enforced");
    assert_eq!(
        (&warned["listener"], &warned["users"]),
        (&"main".into(), &"tenant".into())
    );
    assert_eq!(
        keyward.metric(
            "keyward_commands_observed_total",
            &observed("flushall", "command")
        ),
        0.0
    );
    let mut tenant = tenant(&keyward);
    assert_eq!(tenant.call("SET own:1 a"), "+OK");
    assert_eq!(tenant.call("FLUSHALL"), "+OK");
    assert_eq!(tenant.call("GET own:1"), "$-1");
    // In step with what is permitted, on whatever connection each belongs to.
    tenant.send(&pipeline(&[
        "SET own:1 a",
        "GET other",
        "EVAL return(1) 0",
        "MULTI",
        "SET other b",
        "EXEC",
        "SELECT 1",
        "GET other",
    ]));
    assert_eq!(tenant.replies(5), ["+OK", "$-1", ":1", "+OK", "+QUEUED"]);
    assert_eq!(tenant.reply(), "*[+OK]");
    assert_eq!(tenant.replies(2), ["+OK", "$-1"]);
    let value = vec![b'v'; 2 << 20];
    tenant.send(&request(&[b"MSET", b"own:2", &value, b"late", &value]));
    assert_eq!(tenant.reply(), "+OK");
    for (cmd, reason, count) in [
        ("flushall", "command", 1.0),
        ("get", "key", 2.0),
        ("eval", "command", 1.0),
        ("set", "key", 1.0),
        ("select", "database", 1.0),
        ("mset", "key", 1.0),
    ] {
        keyward.wait_metric("keyward_commands_observed_total", &observed(cmd, reason), count);
    }
    let event = keyward.wait_event("command_observed");
    assert_eq!(
        (&event["user"], &event["cmd"]),
        (&"tenant".into(), &"flushall".into())
    );
    assert!(keyward.events("command_denied").is_empty());
    let mut admin = redis.client();
    assert_eq!(admin.call("SELECT 1"), "+OK");
    assert_eq!(admin.call("STRLEN late"), format!(":{}", 2 << 20));
}

#[test]
fn what_protects_the_protocol_is_refused_all_the_same() {
    let redis = Redis::start();
    let lines = format!("{RULES}\nmode = \"observe\"");
    let keyward = observing(Setup::new(&redis).user("tenant", APP_PASSWORD_2, &lines)).start();
    let mut tenant = tenant(&keyward);
    assert!(tenant.call("NOSUCH").starts_with("-ERR unknown command"));
    assert!(
        tenant
            .call("CONFIG NOSUCH")
            .starts_with("-ERR unknown subcommand")
    );
    assert!(tenant.call("PSYNC ? -1").starts_with("-NOPERM "));
    assert_eq!(tenant.call("MULTI"), "+OK");
    assert!(tenant.call("SUBSCRIBE c").starts_with("-ERR keyward: "));
    assert!(tenant.call("EXEC").starts_with("-EXECABORT "));
    assert_eq!(redis.calls("psync"), 0);
    let denied = [("user", "tenant"), ("cmd", "psync"), ("reason", "command")];
    keyward.wait_metric("keyward_commands_denied_total", &denied, 1.0);
}

#[test]
fn the_users_word_wins_over_the_listeners_and_a_reload_changes_it() {
    let redis = Redis::start();
    let lines = format!("{RULES}\nmode = \"enforce\"");
    let setup = Setup::new(&redis)
        .listener("mode = \"observe\"")
        .user("tenant", APP_PASSWORD_2, &lines);
    let file = setup.write("copy.toml", &setup.text());
    let file = file.to_str().unwrap();
    let (code, _, said) = command_line(&["check", "--config", file], &[], "");
    assert!(
        code == 0 && said.contains("KW0412") && said.contains("only observed"),
        "{said}"
    );
    let verdict = |user| command_line(&["acl", "test", "--config", file, user, "FLUSHALL"], &[], "").1;
    assert!(verdict("app").contains("mode is observe"));
    assert!(!verdict("tenant").contains("mode is observe"));
    let mut keyward = observing(setup).start();
    let mut tenant = tenant(&keyward);
    assert!(tenant.call("FLUSHALL").starts_with("-NOPERM "));
    assert_eq!(keyward.app().call("FLUSHALL"), "+OK");
    keyward.change(|setup| setup.user("tenant", APP_PASSWORD_2, RULES));
    keyward.reload();
    assert_eq!(tenant.call("FLUSHALL"), "+OK");
    keyward.change(|setup| setup.listener("mode = \"enforce\""));
    keyward.reload();
    assert!(tenant.call("FLUSHALL").starts_with("-NOPERM "));
}

/// Requests with the beginnings of their replies.
const TRAFFIC: &[(&str, &str)] = &[
    ("CLIENT SETNAME me", "+OK"),
    ("SET own:1 a", "+OK"),
    ("GET own:1", "$a"),
    ("MGET shared:1 shared:2", "*["),
    ("INCR n", ":"),
    ("PUBLISH news:1 x", ":0"),
    ("EVAL return(1) 1 page/1", ":1"),
    ("MULTI", "+OK"),
    ("EXPIRE own:1 100", "+QUEUED"),
    ("EXEC", "*["),
];

fn talk(tenant: &mut Client) {
    for (request, reply) in TRAFFIC {
        let said = tenant.call(request);
        assert!(said.starts_with(reply), "{request}: {said}");
    }
    let value = vec![b'v'; 2 << 20];
    tenant.send(&request(&[b"MSET", b"big:1", &value, b"bigger:1", &value]));
    assert_eq!(tenant.reply(), "+OK");
}

#[test]
fn what_was_learned_permits_the_same_traffic_and_nothing_else() {
    let redis = Redis::start();
    let lines = "acl = \"safe\"\nlearn = true";
    let keyward = Setup::new(&redis).user("tenant", APP_PASSWORD_2, lines).start();
    talk(&mut tenant(&keyward));
    assert_eq!(keyward.app().call("GET secret:1"), "$-1");
    let setup = Setup::new(&redis);
    let admin = format!("[admin]\naddress = \"{}\"\n", keyward.admin_address());
    let config = setup.write("asks.toml", &admin);
    let ask = ["acl", "learn", "--config", config.to_str().unwrap()];
    let (code, rules, notes) = command_line(&ask, &[], "");
    assert_eq!(code, 0, "{notes}");
    assert_eq!(
        rules,
        "user tenant on resetchannels -@all ~n ~own:* ~page/* %R~shared:* %W~big:* %W~bigger:* &news:* +expire +get +incr \
         +mget +mset +set +publish +exec +multi +eval +client|setname\n"
    );
    let (code, _, notes) = command_line(&[&ask[..], &["--user", "app"]].concat(), &[], "");
    assert_eq!(code, 1, "nobody learns of app: {notes}");

    let setup = setup.listener("users_file = \"users.acl\"");
    setup.write(
        "users.acl",
        &rules.replace('\n', &format!(" >{APP_PASSWORD_2}\n")),
    );
    let file = setup.write("copy.toml", &setup.text());
    let verdict = |words: &str| {
        let mut args = vec!["acl", "test", "--config", file.to_str().unwrap(), "tenant"];
        args.extend(words.split(' '));
        command_line(&args, &[], "").0
    };
    assert_eq!(
        (verdict("GET own:2"), verdict("GET other:2"), verdict("DEL own:1")),
        (0, 77, 77)
    );
    let keyward = setup.start();
    let mut tenant = tenant(&keyward);
    talk(&mut tenant);
    for foreign in ["GET other:1", "SET shared:1 x", "MSET own:1 a other:1 b"] {
        assert_eq!(
            tenant.call(foreign),
            "-NOPERM No permissions to access a key",
            "{foreign}"
        );
    }
    assert!(tenant.call("PUBLISH other x").starts_with("-NOPERM "));
    assert!(tenant.call("DEL own:1").starts_with("-NOPERM "));
}

#[test]
fn nothing_is_shown_where_nobody_learns() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    assert_eq!(keyward.app().call("GET a:1"), "$-1");
    assert_eq!(keyward.page("/acl/learned").0, 404);
}
