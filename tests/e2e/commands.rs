//! Which commands pass (rules C-1 to C-14): refusals are exact, in order, and leave no trace in Redis.

use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::SAMPLE_VALUE;
use super::support::Setup;
use super::support::pipeline;

/// Everything that the preset `safe` refuses, with arguments that would have an effect.
const BLOCKED: &[(&str, &str)] = &[
    ("FLUSHALL", "flushall"),
    ("FLUSHALL ASYNC", "flushall"),
    ("FLUSHDB", "flushdb"),
    ("SWAPDB 0 1", "swapdb"),
    ("KEYS *", "keys"),
    ("CONFIG GET *", "config|get"),
    ("CONFIG SET maxmemory 1", "config|set"),
    ("CONFIG RESETSTAT", "config|resetstat"),
    ("CONFIG REWRITE", "config|rewrite"),
    ("CONFIG HELP", "config|help"),
    ("DEBUG SLEEP 0", "debug"),
    ("SHUTDOWN NOSAVE", "shutdown"),
    ("MODULE LIST", "module|list"),
    ("MODULE LOAD /tmp/x.so", "module|load"),
    ("ACL LIST", "acl|list"),
    ("ACL SETUSER eve on nopass +@all", "acl|setuser"),
    ("FAILOVER", "failover"),
    ("CLUSTER RESET", "cluster|reset"),
    ("CLUSTER FORGET x", "cluster|forget"),
    ("SAVE", "save"),
    ("BGSAVE", "bgsave"),
    ("BGREWRITEAOF", "bgrewriteaof"),
    ("LASTSAVE", "lastsave"),
    ("SYNC", "sync"),
    ("PSYNC ? -1", "psync"),
    ("REPLCONF ACK 0", "replconf"),
    ("REPLICAOF NO ONE", "replicaof"),
    ("SLAVEOF NO ONE", "slaveof"),
    ("MONITOR", "monitor"),
    ("MIGRATE 127.0.0.1 1 canary 0 100", "migrate"),
    ("RESTORE k 0 x", "restore"),
    ("RESTORE-ASKING k 0 x", "restore-asking"),
    ("SLOWLOG GET", "slowlog|get"),
    ("SLOWLOG RESET", "slowlog|reset"),
    ("LATENCY LATEST", "latency|latest"),
    ("LATENCY RESET", "latency|reset"),
    ("MEMORY DOCTOR", "memory|doctor"),
    ("MEMORY PURGE", "memory|purge"),
    ("MEMORY MALLOC-STATS", "memory|malloc-stats"),
    ("CLIENT KILL TYPE normal", "client|kill"),
    ("CLIENT PAUSE 1", "client|pause"),
    ("CLIENT UNPAUSE", "client|unpause"),
    ("CLIENT UNBLOCK 1", "client|unblock"),
    ("CLIENT NO-EVICT ON", "client|no-evict"),
    ("CLIENT REPLY OFF", "client|reply"),
    ("CLIENT TRACKING ON REDIRECT 1", "client|tracking"),
    ("SCRIPT FLUSH", "script|flush"),
    ("SCRIPT KILL", "script|kill"),
    ("SCRIPT DEBUG YES", "script|debug"),
    ("FUNCTION FLUSH", "function|flush"),
    ("FUNCTION DELETE x", "function|delete"),
    ("FUNCTION RESTORE x", "function|restore"),
    ("FUNCTION KILL", "function|kill"),
    ("FUNCTION DUMP", "function|dump"),
    ("PFDEBUG GETREG k", "pfdebug"),
    ("PFSELFTEST", "pfselftest"),
];

/// What `strict` refuses on top.
const STRICT: &[&str] = &[
    "DUMP canary",
    "EVAL return{} 0",
    "EVAL_RO return{} 0",
    "EVALSHA 0000000000000000000000000000000000000000 0",
    "FCALL f 0",
    "FCALL_RO f 0",
    "FUNCTION LOAD x",
    "SCRIPT LOAD x",
    "SORT canary",
    "SORT_RO canary",
    "SCAN 0",
    "RANDOMKEY",
    "SELECT 1",
    "MOVE canary 1",
    "COPY canary b DB 1",
    "SUBSCRIBE a",
    "PSUBSCRIBE a",
    "SSUBSCRIBE a",
    "PUBSUB CHANNELS",
    "OBJECT ENCODING canary",
    "CLIENT TRACKING ON BCAST",
    "CLIENT LIST",
    "WAIT 0 0",
    "COMMAND GETKEYS GET a",
];

fn refusal(command: &str) -> String {
    format!("-NOPERM User app has no permissions to run the '{command}' command")
}

/// The numbers that would change if a refused command had reached Redis.
fn assert_untouched(redis: &Redis) {
    let stats = redis.client().call("INFO commandstats");
    for (_, name) in BLOCKED {
        assert!(
            !stats.contains(&format!("cmdstat_{name}:")),
            "{name} has reached Redis:\n{stats}"
        );
    }
    assert_eq!(redis.client().call("GET canary"), format!("${SAMPLE_VALUE}"));
}

fn redis_with_a_canary() -> Redis {
    let redis = Redis::start();
    assert_eq!(redis.client().call_args(&["SET", "canary", SAMPLE_VALUE]), "+OK");
    redis
}

#[test]
fn blocked_commands_are_refused_directly_in_any_case_and_inline() {
    let redis = redis_with_a_canary();
    let keyward = Setup::new(&redis).listener("inline = true").start();
    let mut client = keyward.app();
    for (line, name) in BLOCKED {
        assert_eq!(client.call(line), refusal(name), "{line}");
        assert_eq!(
            client.call(&line.to_ascii_lowercase()),
            refusal(name),
            "{line}, lower case"
        );
        client.send(format!("{line}\r\n").as_bytes());
        assert_eq!(client.reply(), refusal(name), "{line}, inline");
    }
    assert_eq!(client.call("PING"), "+PONG");
    assert_untouched(&redis);
}

#[test]
fn blocked_commands_inside_multi_make_exec_abort() {
    let redis = redis_with_a_canary();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    for (line, name) in BLOCKED {
        client.send(&pipeline(&[
            "MULTI",
            "SET canary gone",
            line,
            "SET canary gone",
            "EXEC",
            "PING",
        ]));
        let replies = client.replies(6);
        assert_eq!(replies[..2], ["+OK", "+QUEUED"], "{line}");
        assert_eq!(replies[2], refusal(name), "{line}");
        assert_eq!(replies[3], "+QUEUED", "{line}");
        assert_eq!(
            replies[4], "-EXECABORT Transaction discarded because of previous errors.",
            "{line}"
        );
        assert_eq!(replies[5], "+PONG", "{line}");
    }
    // The next transaction is clean again; DISCARD forgets the refusal too.
    client.send(&pipeline(&[
        "MULTI",
        "KEYS *",
        "DISCARD",
        "MULTI",
        "GET canary",
        "EXEC",
    ]));
    let replies = client.replies(6);
    assert_eq!(
        replies[2..],
        ["+OK", "+OK", "+QUEUED", &format!("*[${SAMPLE_VALUE}]")]
    );
    assert_untouched(&redis);
}

#[test]
fn refusals_take_their_place_in_a_pipeline() {
    let redis = redis_with_a_canary();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    let mut lines = Vec::new();
    let mut expected = Vec::new();
    for _ in 0..20 {
        for (line, name) in BLOCKED {
            lines.push("INCR n".to_owned());
            expected.push(format!(":{}", expected.len() / 2 + 1));
            lines.push((*line).to_owned());
            expected.push(refusal(name));
        }
    }
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    client.send(&pipeline(&lines));
    assert_eq!(client.replies(expected.len()), expected);
    assert_untouched(&redis);
}

#[test]
fn what_safe_allows_passes() {
    let redis = redis_with_a_canary();
    let keyward = Keyward::start(&redis);
    let allowed: &[&str] = &[
        "INFO server",
        "SCAN 0",
        "DBSIZE",
        "RANDOMKEY",
        "TYPE canary",
        "TTL canary",
        "OBJECT ENCODING canary",
        "DUMP canary",
        "MEMORY USAGE canary",
        "EVAL return{} 0",
        "SCRIPT EXISTS 0000000000000000000000000000000000000000",
        "FUNCTION LIST",
        "CLIENT ID",
        "CLIENT LIST",
        "CLIENT INFO",
        "CLIENT GETNAME",
        "CLIENT SETNAME x",
        "COMMAND COUNT",
        "COMMAND INFO get",
        "COMMAND DOCS get",
        "COMMAND GETKEYS GET a",
        "PUBSUB CHANNELS",
        "WAIT 0 0",
        "SORT nolist",
        "TIME",
        "ECHO x",
        "LOLWUT",
        "PUBLISH channel message",
    ];
    for line in allowed {
        let reply = keyward.app().call(line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    // Redis's own refusals pass as they are.
    let reply = keyward.app().call("CLUSTER SLOTS");
    assert_eq!(reply, "-ERR This instance has cluster support disabled");
}

#[test]
fn strict_refuses_more() {
    let redis = redis_with_a_canary();
    let keyward = Setup::new(&redis).user_line("app", "acl = \"strict\"").start();
    let mut client = keyward.app();
    for (line, name) in BLOCKED {
        assert_eq!(client.call(line), refusal(name), "{line}");
    }
    for line in STRICT {
        let reply = client.call(line);
        assert!(
            reply.starts_with("-NOPERM User app has no permissions to "),
            "{line}: {reply}"
        );
    }
    for line in [
        "SET b 1",
        "GET b",
        "INCR b",
        "HSET h f v",
        "LPUSH l a",
        "COPY b c",
        "EXPIRE b 100",
        "MULTI",
        "EXEC",
    ] {
        let reply = client.call(line);
        assert!(!reply.starts_with('-'), "{line}: {reply}");
    }
    assert_untouched(&redis);
}

#[test]
fn containers_without_a_known_subcommand_are_refused() {
    let redis = redis_with_a_canary();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    let lines = [
        "CONFIG",
        "CONFIG NOSUCH x",
        "ACL",
        "ACL NOSUCH",
        "DEBUG",
        "SLOWLOG NOSUCH",
        "CLIENT",
        "CLIENT NOSUCH",
        "MODULE",
    ];
    for line in lines {
        let reply = client.call(line);
        assert!(
            reply.starts_with("-ERR ") || reply.starts_with("-NOPERM "),
            "{line}: {reply}"
        );
    }
    assert_eq!(client.call("PING"), "+PONG");
    let stats = redis.client().call("INFO commandstats");
    for container in ["config", "acl", "slowlog", "module", "debug"] {
        assert!(
            !stats.contains(&format!("cmdstat_{container}")),
            "{container}: {stats}"
        );
    }
}

#[test]
fn unknown_commands_are_refused_here_not_there() {
    let redis = redis_with_a_canary();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    for line in [
        "XYZZY",
        "NOSUCH.SEARCH a b",
        "nosuch a b c",
        "GETT a",
        "flushall2",
        "config|get x",
    ] {
        let reply = client.call(line);
        let name = line.split(' ').next().unwrap();
        assert!(
            reply.starts_with(&format!("-ERR unknown command '{name}'")),
            "{line}: {reply}"
        );
    }
    let errors = redis.client().call("INFO errorstats");
    assert!(!errors.contains("errorstat_ERR"), "{errors}");
    client.send(&pipeline(&["MULTI", "XYZZY", "EXEC", "PING"]));
    let replies = client.replies(4);
    assert!(replies[1].starts_with("-ERR unknown command"), "{replies:?}");
    assert_eq!(
        replies[2..],
        [
            "-EXECABORT Transaction discarded because of previous errors.",
            "+PONG"
        ]
    );
    keyward.wait_metric("keyward_commands_denied_total", &[("cmd", "_other")], 7.0);
}

#[test]
fn wrong_arity_is_answered_as_redis_does() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let lines = [
        "GET",
        "GET a b",
        "SET a",
        "HSET h f",
        "EXPIRE a",
        "PING a b",
        "SELECT",
        "CLIENT SETNAME",
        "OBJECT ENCODING",
    ];
    for line in lines {
        assert_eq!(keyward.app().call(line), redis.client().call(line), "{line}");
    }
}

#[test]
fn a_renamed_command_cannot_be_reached() {
    let redis = Redis::with_password()
        .line("rename-command FLUSHALL xyzzy")
        .start();
    assert_eq!(redis.client().call("SET canary x"), "+OK");
    let keyward = Keyward::start(&redis);
    for mut client in [keyward.app(), keyward.root()] {
        assert!(client.call("XYZZY").starts_with("-ERR unknown command 'XYZZY'"));
        assert!(client.call("FLUSHALL").starts_with('-'));
    }
    assert_eq!(redis.client().call("GET canary"), "$x");
}

#[test]
fn replication_is_refused_to_everyone() {
    let redis = redis_with_a_canary();
    let keyward = Setup::new(&redis).listener("inline = true").start();
    for line in ["SYNC", "PSYNC ? -1", "REPLCONF ACK 0"] {
        let mut client = keyward.root();
        assert!(client.call(line).starts_with('-'), "{line}");
        client.send(format!("{line}\r\n").as_bytes());
        assert!(client.reply().starts_with('-'), "{line}, inline");
        assert_eq!(client.call("PING"), "+PONG", "{line}");
    }
    assert_eq!(redis.info("connected_slaves"), "0");
}

#[test]
fn rules_in_redis_own_language_decide() {
    let redis = redis_with_a_canary();
    let rules: &[(&str, &[(&str, bool)])] = &[
        (
            "-@all +get ~* &*",
            &[
                ("GET canary", true),
                ("SET canary x", false),
                ("PING", false),
                ("SELECT 0", false),
            ],
        ),
        (
            "+@all -@dangerous ~* &*",
            &[
                ("GET canary", true),
                ("INFO server", false),
                ("FLUSHALL", false),
                ("SORT nolist", false),
            ],
        ),
        (
            "+@all -@dangerous +info ~* &*",
            &[("INFO server", true), ("KEYS *", false)],
        ),
        (
            "+@read ~* &*",
            &[
                ("GET canary", true),
                ("STRLEN canary", true),
                ("APPEND canary x", false),
            ],
        ),
        (
            "-@all +config|get ~* &*",
            &[
                ("CONFIG GET maxmemory", true),
                ("CONFIG SET maxmemory 0", false),
                ("GET canary", false),
            ],
        ),
        (
            "+@all -config ~* &*",
            &[("CONFIG GET maxmemory", false), ("CLIENT ID", true)],
        ),
        (
            "allcommands ~* &*",
            &[("KEYS nothing*", true), ("CONFIG GET maxmemory", true)],
        ),
        (
            "+@all nocommands +ping ~* &*",
            &[("PING", true), ("GET canary", false)],
        ),
        (
            "safe +keys -get",
            &[
                ("KEYS nothing*", true),
                ("GET canary", false),
                ("FLUSHALL", false),
            ],
        ),
        ("strict +select", &[("SELECT 1", true), ("SCAN 0", false)]),
        ("+@all ~*", &[("PUBLISH a b", false), ("GET canary", true)]),
    ];
    for (rule, cases) in rules {
        let keyward = Setup::new(&redis)
            .user_line("app", &format!("acl = {rule:?}"))
            .start();
        let mut client = keyward.app();
        for (line, allowed) in *cases {
            let reply = client.call(line);
            assert_eq!(
                !reply.starts_with("-NOPERM "),
                *allowed,
                "{rule}: {line}: {reply}"
            );
        }
    }
    assert_eq!(redis.client().call("GET canary"), format!("${SAMPLE_VALUE}"));
}

#[test]
fn rules_that_make_no_sense_are_refused_at_start() {
    let redis = Redis::start();
    for rule in [
        "+@all ~* ~cache:*",
        "+@all ~* &* &news:*",
        "+@all %~a* &*",
        "+get ~* (+set ~a",
        "+get ~* (+nosuch ~a)",
        "+get ~* db=0",
        "+@all",
        "+nosuch ~*",
        "+@nosuch ~*",
    ] {
        let (code, text) = Setup::new(&redis)
            .user_line("app", &format!("acl = {rule:?}"))
            .refuse();
        assert_eq!(code, 78, "{rule}: {text}");
        assert!(
            text.contains("keyward.toml:"),
            "{rule}: the message names the place: {text}"
        );
    }
}

#[test]
fn scripts_reach_what_redis_lets_them_reach_and_no_more_through_us() {
    // Said in the README: a proxy cannot look into scripts. Where Redis's own rules forbid it, its refusal comes back.
    let redis = redis_with_a_canary();
    let mut admin = redis.client();
    let user = [
        "ACL",
        "SETUSER",
        "keyward",
        "on",
        ">upstream-user-secret-0123456789abcdef",
        "~*",
        "&*",
        "+@all",
        "-flushall",
    ];
    assert_eq!(admin.call_args(&user), "+OK");
    let setup = Setup::new(&redis).upstream("username = \"keyward\"");
    setup.write("main.redis", "upstream-user-secret-0123456789abcdef\n");
    let keyward = setup.start();
    let reply = keyward
        .app()
        .call_args(&["EVAL", "return redis.call('flu'..'shall')", "0"]);
    assert!(reply.starts_with('-'), "{reply}");
    assert_eq!(admin.call("GET canary"), format!("${SAMPLE_VALUE}"));
}

#[test]
fn denied_commands_of_other_users_name_the_other_user() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let denied = |mut client: Client| client.call("KEYS *");
    assert_eq!(denied(keyward.app()), refusal("keys"));
    let default = keyward
        .connect()
        .login("default", super::support::DEFAULT_PASSWORD);
    assert_eq!(
        denied(default),
        "-NOPERM User default has no permissions to run the 'keys' command"
    );
}
