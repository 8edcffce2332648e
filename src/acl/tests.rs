use super::*;
use crate::acl::rule::parse_user;
use crate::resp::Args;

/// What a user's request comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Permitted,
    Denied(DenyReason),
    Unknown,
}
use Verdict::{Denied as Refused, Permitted, Unknown};

const COMMAND: Verdict = Refused(DenyReason::Command);
const ARGUMENT: Verdict = Refused(DenyReason::Argument);
const KEY: Verdict = Refused(DenyReason::Key);
const CHANNEL: Verdict = Refused(DenyReason::Channel);
const DATABASE: Verdict = Refused(DenyReason::Database);

fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend_from_slice(word);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn verdict_of(user: &User, words: &[&[u8]], whole: bool) -> Verdict {
    let bytes = encode(words);
    let args = Args::new(&bytes, u32::try_from(words.len()).unwrap());
    let command = match resolve(words[0], words.get(1).copied()) {
        Resolved::Command(command) | Resolved::Container(command) => command,
        Resolved::Unknown => return Unknown,
    };
    match user.check(command, args, whole) {
        Ok(_) => Permitted,
        Err(denied) => Refused(denied.reason),
    }
}

fn verdict(user: &User, request: &str) -> Verdict {
    let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    verdict_of(user, &words, true)
}

fn user(rules: &str) -> User {
    parse_user("test", &rules.split(' ').collect::<Vec<_>>()).unwrap()
}

/// The block list of `safe`, written out from rule C-3 and not from the table that implements it.
const SAFE_REFUSES: &[&str] = &[
    "FLUSHALL",
    "FLUSHALL ASYNC",
    "FLUSHDB",
    "SWAPDB 0 1",
    "KEYS *",
    "CONFIG",
    "CONFIG GET dir",
    "CONFIG SET dir /tmp",
    "CONFIG REWRITE",
    "CONFIG RESETSTAT",
    "CONFIG HELP",
    "CONFIG nope",
    "DEBUG SLEEP 1",
    "SHUTDOWN",
    "SHUTDOWN NOSAVE",
    "MODULE",
    "MODULE LOAD x",
    "MODULE LOADEX x",
    "MODULE LIST",
    "MODULE UNLOAD x",
    "ACL",
    "ACL WHOAMI",
    "ACL SETUSER x",
    "ACL LIST",
    "ACL LOG",
    "ACL nope",
    "FAILOVER",
    "CLUSTER",
    "CLUSTER nope",
    "CLUSTER HELP",
    "CLUSTER RESET",
    "CLUSTER MEET a 1",
    "CLUSTER FORGET x",
    "CLUSTER FLUSHSLOTS",
    "CLUSTER FLUSHSLOT 1",
    "CLUSTER SETSLOT 1 STABLE",
    "CLUSTER FAILOVER",
    "CLUSTER GETKEYSINSLOT 1 1",
    "CLUSTER LINKS",
    "CLUSTER SLOT-STATS SLOTSRANGE 0 1",
    "CLUSTER MIGRATION IMPORT 0 1",
    "CLUSTER MIGRATESLOTS SLOTSRANGE 0 1 NODE x",
    "CLUSTER SYNCSLOTS SNAPSHOT",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "LASTSAVE",
    "SYNC",
    "PSYNC ? -1",
    "REPLCONF capa eof",
    "REPLICAOF NO ONE",
    "SLAVEOF NO ONE",
    "MONITOR",
    "MIGRATE h 1 k 0 1",
    "RESTORE k 0 x",
    "RESTORE-ASKING k 0 x",
    "SLOWLOG",
    "SLOWLOG GET",
    "SLOWLOG RESET",
    "LATENCY",
    "LATENCY LATEST",
    "LATENCY RESET",
    "MEMORY DOCTOR",
    "MEMORY PURGE",
    "MEMORY MALLOC-STATS",
    "CLIENT KILL TYPE normal",
    "CLIENT PAUSE 1000",
    "CLIENT UNPAUSE",
    "CLIENT UNBLOCK 1",
    "CLIENT NO-EVICT on",
    "CLIENT REPLY OFF",
    "SCRIPT FLUSH",
    "SCRIPT KILL",
    "SCRIPT DEBUG YES",
    "FUNCTION FLUSH",
    "FUNCTION DELETE x",
    "FUNCTION RESTORE x",
    "FUNCTION KILL",
    "FUNCTION DUMP",
    "PFDEBUG GETREG k",
    "PFSELFTEST",
    "POST / HTTP/1.1",
    "Host: localhost",
    // Younger than the rule; the same reasons.
    "TRIMSLOTS RANGES 1 0 1",
    "COMMANDLOG GET 1 slow",
    "COMMANDLOG RESET slow",
    "HOTKEYS GET",
    "BACKUP START",
    "CLIENT IMPORT-SOURCE on",
    "BF.LOADCHUNK k 1 x",
    "BF.LOAD k x",
    "CF.LOADCHUNK k 1 x",
    "FT.CONFIG SET a b",
    "FT.CONFIG nope",
    "_FT.CONFIG SET a b",
    "_FT.DEBUG DUMP_TERMS x",
    "SEARCH.CLUSTERSET x",
    "SEARCH.CLUSTERINFO",
    "SEARCH.CLUSTERREFRESH",
    "TIMESERIES.CLUSTERSET x",
    "TIMESERIES.REFRESHCLUSTER",
];

/// What libraries need and `safe` must therefore leave (C-3, C-4, C-12, S-8).
const SAFE_PERMITS: &[&str] = &[
    "AUTH x",
    "HELLO 3",
    "PING",
    "QUIT",
    "RESET",
    "ECHO x",
    "SELECT 1",
    "INFO",
    "TIME",
    "DBSIZE",
    "ROLE",
    "GET k",
    "SET k v",
    "MGET a b",
    "MSET a 1 b 2",
    "DEL k",
    "UNLINK k",
    "EXPIRE k 1",
    "HSET h f v",
    "HGETALL h",
    "HGETEX h FIELDS 1 f",
    "LPUSH l v",
    "BLPOP l 0",
    "SADD s v",
    "ZADD z 1 v",
    "XADD x * f v",
    "XREAD BLOCK 0 STREAMS x $",
    "XREADGROUP GROUP g c STREAMS x >",
    "GEOADD g 1 2 m",
    "PFADD p v",
    "SCAN 0",
    "CLUSTERSCAN 0",
    "SORT l",
    "SORT_RO l",
    "RANDOMKEY",
    "MOVE k 1",
    "COPY a b",
    "COPY a b DB 1",
    "DUMP k",
    "OBJECT ENCODING k",
    "MEMORY USAGE k",
    "WAIT 1 0",
    "WAITAOF 1 0 0",
    "MULTI",
    "EXEC",
    "DISCARD",
    "WATCH k",
    "UNWATCH",
    "EVAL x 0",
    "EVALSHA x 0",
    "EVAL_RO x 0",
    "EVALSHA_RO x 0",
    "FCALL f 0",
    "FCALL_RO f 0",
    "SCRIPT LOAD x",
    "SCRIPT EXISTS x",
    "FUNCTION LOAD x",
    "FUNCTION LIST",
    "SUBSCRIBE c",
    "PSUBSCRIBE c*",
    "SSUBSCRIBE c",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE",
    "PUBLISH c m",
    "SPUBLISH c m",
    "PUBSUB CHANNELS",
    "CLIENT LIST",
    "CLIENT ID",
    "CLIENT INFO",
    "CLIENT SETNAME x",
    "CLIENT SETINFO LIB-NAME x",
    "CLIENT GETNAME",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING ON BCAST PREFIX a",
    "CLIENT TRACKING OFF",
    "CLIENT CACHING YES",
    "CLIENT NO-TOUCH on",
    "CLUSTER SLOTS",
    "CLUSTER SHARDS",
    "CLUSTER INFO",
    "CLUSTER MYID",
    "CLUSTER KEYSLOT k",
    "CLUSTER COUNTKEYSINSLOT 1",
    "CLUSTER NODES",
    "READONLY",
    "READWRITE",
    "ASKING",
    "COMMAND",
    "COMMAND DOCS",
    "COMMAND INFO get",
    "COMMAND COUNT",
    "COMMAND GETKEYS get k",
    "COMMAND GETKEYSANDFLAGS get k",
    "FT.SEARCH i q",
    "JSON.SET k $ 1",
    "VADD k VALUES 1 1 e",
];

/// What `strict` refuses beyond `safe`.
const STRICT_REFUSES: &[&str] = &[
    "DUMP k",
    "CLIENT LIST",
    "EVAL x 0",
    "EVALSHA x 0",
    "EVAL_RO x 0",
    "EVALSHA_RO x 0",
    "FCALL f 0",
    "FCALL_RO f 0",
    "FUNCTION LOAD x",
    "SCRIPT LOAD x",
    "SORT l",
    "SORT_RO l",
    "SCAN 0",
    "CLUSTERSCAN 0",
    "RANDOMKEY",
    "SELECT 1",
    "MOVE k 1",
    "SUBSCRIBE c",
    "PSUBSCRIBE c*",
    "SSUBSCRIBE c",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "SUNSUBSCRIBE",
    "PUBSUB",
    "PUBSUB CHANNELS",
    "PUBSUB NUMSUB",
    "OBJECT",
    "OBJECT ENCODING k",
    "OBJECT FREQ k",
    "WAIT 1 0",
    "WAITAOF 1 0 0",
    "COMMAND GETKEYS get k",
    "COMMAND GETKEYSANDFLAGS get k",
];

/// Refused because of their arguments alone, by preset.
const SAFE_RESTRICTS: &[&str] = &[
    "CLIENT TRACKING ON REDIRECT 5",
    "client tracking on bcast Redirect 5",
];
const STRICT_RESTRICTS: &[&str] = &[
    "CLIENT TRACKING ON BCAST",
    "CLIENT TRACKING ON OPTIN BCAST",
    "COPY a b DB 1",
    "copy a b replace db 1",
];

/// The first request about which the user differs from what the preset must do.
fn deviation(user: &User, preset: Preset) -> Option<String> {
    let strict = preset == Preset::Strict;
    let expected = |list: &[&'static str], verdict: Verdict| {
        list.iter()
            .map(|request| (*request, verdict))
            .collect::<Vec<(&'static str, Verdict)>>()
    };
    let mut table = expected(SAFE_REFUSES, COMMAND);
    table.extend(expected(SAFE_RESTRICTS, ARGUMENT));
    let permitted = SAFE_PERMITS.iter().filter(|request| {
        !strict
            || !(STRICT_REFUSES.contains(request) || STRICT_RESTRICTS.iter().any(|r| request.starts_with(r)))
    });
    table.extend(permitted.map(|request| (*request, Permitted)));
    table.extend(
        strict
            .then(|| expected(STRICT_REFUSES, COMMAND))
            .into_iter()
            .flatten(),
    );
    table.extend(
        strict
            .then(|| expected(STRICT_RESTRICTS, ARGUMENT))
            .into_iter()
            .flatten(),
    );
    let found = table
        .iter()
        .find(|(request, expected)| verdict(user, request) != *expected)?;
    Some(format!(
        "{}: {:?}, expected {:?}",
        found.0,
        verdict(user, found.0),
        found.1
    ))
}

#[test]
fn presets_refuse_and_permit_what_the_rules_say() {
    for preset in Preset::ALL {
        assert_eq!(deviation(&user(preset.name()), preset), None, "{}", preset.name());
    }
}

#[test]
fn no_entry_of_a_preset_can_be_removed_unnoticed() {
    for preset in Preset::ALL {
        for (index, entry) in preset.entries().enumerate() {
            let others = preset
                .entries()
                .enumerate()
                .filter(|(at, _)| *at != index)
                .map(|(_, entry)| entry);
            let mutant = User::with_entries(others);
            assert!(
                deviation(&mutant, preset).is_some(),
                "nothing tests {:?} of {}",
                entry.effect,
                preset.name()
            );
        }
    }
}

#[test]
fn every_entry_of_a_preset_names_a_row_and_has_a_reason() {
    for entry in Preset::Strict.entries() {
        let name = match entry.effect {
            Effect::Block(name) | Effect::Allow(name) => name,
            Effect::Restrict(rule) => rule.command_name(),
        };
        assert!(lookup::by_rule_name(name).is_some(), "{name}");
        assert!(!entry.reason.is_empty(), "{name}");
    }
}

#[test]
fn safe_permits_administrative_commands_only_after_a_look_at_each() {
    // What application libraries or exporters use (C-4), or what only concerns data that the user may change anyway.
    let reviewed = [
        "client|list",
        "ft._list",
        "ft.drop",
        "ft.dropindex",
        "ft._dropindexifx",
        "ft.tagvals",
        "info",
        "role",
        "sort",
        "sort_ro",
    ];
    let safe = user("safe");
    let dangerous = Categories(command::ADMIN | command::DANGEROUS);
    let permitted: Vec<_> = commands()
        .iter()
        .filter(|command| command.categories.intersects(dangerous) && safe.may_run(command))
        .map(|command| command.name)
        .filter(|name| !reviewed.contains(name))
        .collect();
    assert!(
        permitted.is_empty(),
        "block these in preset.rs, or add them here: {permitted:?}"
    );
}

#[test]
fn strict_permits_nothing_that_safe_refuses() {
    let (safe, strict) = (user("safe"), user("strict"));
    for command in commands() {
        assert!(
            safe.may_run(command) || !strict.may_run(command),
            "{}",
            command.name
        );
    }
}

#[test]
fn replication_and_http_are_refused_whatever_the_rules_say() {
    let all = user("on nopass ~* &* +@all +sync +psync +replconf +cluster|syncslots");
    for request in [
        "SYNC",
        "PSYNC ? -1",
        "REPLCONF capa eof",
        "CLUSTER SYNCSLOTS x",
        "POST /",
        "hOsT: x",
    ] {
        assert_eq!(verdict(&all, request), COMMAND, "{request}");
    }
    assert_eq!(verdict(&all, "FLUSHALL"), Permitted);
}

#[test]
fn unknown_commands_are_unknown_even_to_those_who_may_do_everything() {
    let all = user("on nopass ~* &* +@all");
    for request in ["xyzzy", "config|get x", "PUT /", "flushall2", "GET\0 k"] {
        assert_eq!(verdict(&all, request), Unknown, "{request:?}");
    }
}

#[test]
fn a_new_user_may_only_log_in_and_leave() {
    let nobody = User::new("nobody");
    for command in commands() {
        let free = ["auth", "hello", "quit", "reset"].contains(&command.name);
        assert_eq!(
            nobody.check(command, Args::new(b"*1\r\n", 1), true).is_ok(),
            free,
            "{}",
            command.name
        );
    }
    assert_eq!(
        verdict(&user("on ~* &* +@all -auth -hello -quit -reset"), "AUTH x"),
        Permitted
    );
}

#[test]
fn argument_rules_see_through_case_position_and_nul() {
    let strict = user("strict");
    let cases: &[(&[&[u8]], Verdict)] = &[
        (&[b"CLIENT", b"TRACKING", b"ON", b"REDIRECT\0x", b"5"], ARGUMENT),
        (&[b"CLIENT", b"TRACKING", b"BCAST"], ARGUMENT),
        (&[b"CLIENT", b"TRACKING", b"ON", b"OPTIN", b"NOLOOP"], Permitted),
        (
            &[b"CLIENT", b"TRACKING", b"ON", b"PREFIX", b"bcasting"],
            Permitted,
        ),
        (&[b"COPY", b"db", b"db"], Permitted),
        (&[b"COPY", b"a", b"db", b"REPLACE"], Permitted),
        (&[b"COPY", b"a", b"b", b"dB\0", b"1"], ARGUMENT),
    ];
    for (words, expected) in cases {
        assert_eq!(verdict_of(&strict, words, true), *expected, "{words:?}");
    }
}

#[test]
fn an_argument_that_cannot_be_seen_is_refused_only_where_it_matters() {
    let strict = user("strict");
    assert_eq!(verdict_of(&strict, &[b"COPY", b"a"], false), ARGUMENT);
    assert_eq!(verdict_of(&strict, &[b"SET", b"a"], false), Permitted);
    let head = b"*5\r\n$4\r\nCOPY\r\n$1\r\na\r\n$1\r\nb\r\n";
    let Resolved::Command(copy) = resolve(b"copy", None) else {
        panic!("copy is a command")
    };
    let denied = strict.check(copy, Args::new(head, 5), true).unwrap_err();
    assert_eq!(denied.reason, DenyReason::Argument, "announced 5, seen 3");
}

#[test]
fn a_later_rule_that_names_the_command_lifts_its_argument_rule() {
    for rules in [
        "strict +copy",
        "strict +@keyspace",
        "strict +@all",
        "strict -@all +copy",
    ] {
        assert_eq!(verdict(&user(rules), "COPY a b DB 1"), Permitted, "{rules}");
    }
    assert_eq!(
        verdict(&user("strict +client"), "CLIENT TRACKING ON BCAST"),
        Permitted
    );
    assert_eq!(verdict(&user("strict +get"), "COPY a b DB 1"), ARGUMENT);
    assert_eq!(verdict(&user("strict -copy"), "COPY a b DB 1"), COMMAND);
}

#[test]
fn without_channels_nothing_is_heard_or_said() {
    let deaf = user("on ~* +@all");
    let channel = Refused(DenyReason::Channel);
    for request in [
        "SUBSCRIBE c",
        "PSUBSCRIBE c",
        "SSUBSCRIBE c",
        "PUBLISH c m",
        "SPUBLISH c m",
    ] {
        assert_eq!(verdict(&deaf, request), channel, "{request}");
    }
    for request in [
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE c",
        "SUNSUBSCRIBE c",
        "PUBSUB CHANNELS",
        "GET k",
    ] {
        assert_eq!(verdict(&deaf, request), Permitted, "{request}");
    }
    assert_eq!(verdict(&user("safe resetchannels"), "PUBLISH c m"), channel);
}

#[test]
fn a_user_without_keys_runs_what_needs_none() {
    let probe = user("on nopass +ping +info");
    assert_eq!(verdict(&probe, "PING"), Permitted);
    assert_eq!(verdict(&probe, "INFO"), Permitted);
    assert_eq!(verdict(&probe, "GET k"), COMMAND);
    assert_eq!(verdict(&user("on +get"), "GET k"), KEY);
}

#[test]
fn refusals_name_the_table_and_never_the_client() {
    let (_, denied) = (
        0,
        Denied {
            command: "flushall",
            reason: DenyReason::Command,
            argument: 0,
        },
    );
    assert_eq!(
        denied.reply("app"),
        "NOPERM User app has no permissions to run the 'flushall' command"
    );
    for reason in DenyReason::ALL {
        assert!(Denied { reason, ..denied }.reply("app").starts_with("NOPERM "));
        assert!(reason.label().bytes().all(|b| b.is_ascii_lowercase()));
    }
}

#[test]
fn debug_output_shows_no_digest() {
    let user = user("on >secret ~* &* +@all");
    let text = format!("{user:?}");
    assert!(!text.contains("2bb80d53"), "{text}");
    assert!(text.contains("passwords: 1"), "{text}");
}

#[test]
fn the_bitset_keeps_its_ends_apart() {
    let mut set = CommandSet::EMPTY;
    let last = CommandId(u16::try_from(commands().len() - 1).unwrap());
    set.set(last, true);
    assert!(set.contains(last) && !set.contains(CommandId(0)));
    set.set(last, false);
    assert_eq!(set.0, CommandSet::EMPTY.0);
    assert!(!CommandSet::FULL.contains(CommandId(u16::MAX)));
}

#[test]
fn shareable_commands_have_no_role_of_their_own() {
    for command in commands()
        .iter()
        .filter(|command| command.class == Class::Shareable)
    {
        assert!(
            matches!(command.role, Role::Plain | Role::Ping),
            "{}",
            command.name
        );
        assert!(
            !command
                .categories
                .intersects(Categories(command::BLOCKING | command::SCRIPTING)),
            "{}",
            command.name
        );
    }
}

#[test]
fn keys_are_held_against_patterns_that_permit_what_is_done() {
    let rules = "on +@all ~app:* %R~shared:* %W~log:* %R~both* %W~both*";
    let user = user(rules);
    for (request, expected) in [
        ("GET app:1", Permitted),
        ("GET app", KEY),
        ("MGET app:1 shared:1", Permitted),
        ("MGET app:1 log:1", KEY),
        ("SET shared:1 v", KEY),
        ("SET log:1 v", Permitted),
        ("SET log:1 v GET", KEY),
        ("SET app:1 v GET", Permitted),
        ("EXISTS log:1", Permitted),
        ("EXISTS shared:1", Permitted),
        ("EXISTS other", KEY),
        ("COPY shared:1 log:1", Permitted),
        ("COPY log:1 shared:1", KEY),
        ("RENAME app:1 log:1", Permitted),
        ("BITFIELD shared:1 GET u8 0", Permitted),
        ("BITFIELD shared:1 SET u8 0 1", KEY),
        // One pattern must permit all of it; the same pattern twice is one.
        ("INCR both1", Permitted),
        ("GEORADIUS app:g 1 2 3 m STORE app:a STORE evil", KEY),
        ("GEORADIUS app:g 1 2 3 m STORE evil STORE app:a", Permitted),
        ("XREADGROUP NOACK GROUP g STREAMS STREAMS evil >", KEY),
        ("XREADGROUP GROUP g c STREAMS app:s >", Permitted),
        ("PFMERGE evil", KEY),
        ("SORT app:1", Permitted),
        ("SORT app:1 BY nosort", Permitted),
        ("SORT app:1 BY app:*", KEY),
        ("SORT app:1 BY nosort GET app:*", KEY),
        ("EVAL s 1 app:1 evil", Permitted),
        ("EVAL s 1 evil", KEY),
        ("EVAL s 2 app:1", KEY),
        // They name no key (K-2).
        ("SCAN 0", Permitted),
        ("KEYS *", Permitted),
        ("RANDOMKEY", Permitted),
        ("DBSIZE", Permitted),
    ] {
        assert_eq!(verdict(&user, request), expected, "{request}");
    }
    let reader = parse_user("u", &["on", "+@all", "%R~*", "~app:*"]).unwrap();
    assert_eq!(
        verdict(&reader, "SORT app:1 BY w:* GET d:* STORE app:2"),
        Permitted
    );
    assert_eq!(verdict(&reader, "SORT app:1 BY w:* GET d:* STORE evil"), KEY);
}

#[test]
fn channels_are_held_against_patterns_and_patterns_against_themselves() {
    let user = user("on ~* +@all &news:* &a");
    for (request, expected) in [
        ("SUBSCRIBE news:1 a", Permitted),
        ("SUBSCRIBE news:1 b", CHANNEL),
        ("SSUBSCRIBE news:1", Permitted),
        ("PUBLISH news:1 b", Permitted),
        ("PUBLISH b news:1", CHANNEL),
        ("SPUBLISH b x", CHANNEL),
        ("PSUBSCRIBE news:*", Permitted),
        ("PSUBSCRIBE news:1", CHANNEL),
        ("PSUBSCRIBE *", CHANNEL),
        ("UNSUBSCRIBE b", Permitted),
        ("PUBSUB CHANNELS", Permitted),
    ] {
        assert_eq!(verdict(&user, request), expected, "{request}");
    }
    // Redis compares C strings here; we do not.
    assert_eq!(verdict_of(&user, &[b"PSUBSCRIBE", b"news:*\0x"], true), CHANNEL);
}

#[test]
fn what_one_selector_permits_as_a_whole_is_permitted() {
    let user = user("on ~own:* &own:* +@all -flushall (%R~shared:* +get +mget) (~own:* +flushall)");
    for (request, expected) in [
        ("SET own:1 v", Permitted),
        ("GET shared:1", Permitted),
        ("SET shared:1 v", KEY),
        // No selector has both.
        ("MGET shared:1 own:1", KEY),
        ("MGET shared:1 shared:2", Permitted),
        ("FLUSHALL", Permitted),
        ("PUBLISH b m", CHANNEL),
    ] {
        assert_eq!(verdict(&user, request), expected, "{request}");
    }
    for request in ["SYNC", "POST /"] {
        let all = parse_user("u", &["on", "(+@all", "~*", "&*)"]).unwrap();
        assert_eq!(verdict(&all, request), COMMAND, "{request}");
    }
}

#[test]
fn databases_limit_what_names_one() {
    let mut user = user("on ~* &* +@all");
    user.databases = Some(vec![0, 3]);
    for (request, expected) in [
        ("SELECT 0", Permitted),
        ("SELECT 3", Permitted),
        ("SELECT 1", DATABASE),
        ("SELECT 03", DATABASE),
        ("SELECT x", DATABASE),
        ("MOVE k 3", Permitted),
        ("MOVE k 1", DATABASE),
        ("SWAPDB 0 3", Permitted),
        ("SWAPDB 0 1", DATABASE),
        ("SWAPDB 1 0", DATABASE),
        ("COPY a b", Permitted),
        ("COPY a db", Permitted),
        ("COPY a b DB 3 REPLACE", Permitted),
        ("COPY a b REPLACE DB 1", DATABASE),
        ("COPY a b DB 3 DB 1", DATABASE),
        ("COPY a b DB", DATABASE),
        ("FLUSHALL", DATABASE),
        ("FLUSHDB", Permitted),
        ("GET k", Permitted),
    ] {
        assert_eq!(verdict(&user, request), expected, "{request}");
    }
    assert!(user.may_use_database(3) && !user.may_use_database(1));
}

#[test]
fn the_refusal_names_the_argument() {
    let user = user("on ~a* +@all");
    let at = |request: &str| {
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let bytes = encode(&words);
        let Resolved::Command(command) = resolve(words[0], words.get(1).copied()) else {
            panic!("{request}")
        };
        let args = Args::new(&bytes, u32::try_from(words.len()).unwrap());
        user.check(command, args, true).unwrap_err().argument
    };
    assert_eq!(at("MSET a 1 b 2"), 3);
    assert_eq!(at("SORT a STORE b"), 3);
    assert_eq!(at("SORT a BY w*"), 1);
    assert_eq!(at("SUBSCRIBE x"), 1);
}

/// The decision on a request of which only so many arguments are here.
fn decision(user: &User, request: &str, here: usize) -> Decision {
    let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
    let bytes = encode(&words[..here]);
    let Resolved::Command(command) = resolve(words[0], words.get(1).copied()) else {
        panic!("{request}")
    };
    user.decide(
        command,
        Args::new(&bytes, u32::try_from(words.len()).unwrap()),
        false,
    )
}

#[test]
fn a_head_decides_when_nothing_behind_it_can_matter() {
    let own = user("on ~a* %W~w* &c* +@all");
    for (request, here, open) in [
        ("SET a v", 2, false),
        ("SET a v GET", 2, false),
        ("SET w v GET", 2, true),
        ("SET x v GET", 2, false),
        ("SET a v", 1, true),
        ("GET a", 1, true),
        ("MSET a 1 a 2", 3, true),
        ("MSET x 1 a 2", 3, false),
        ("LPUSH a 1 2 3 4", 2, false),
        ("PUBLISH c m", 2, false),
        ("SUBSCRIBE c c", 2, true),
        ("EVAL s 1 a b", 1, true),
        ("EVAL s 1 a b", 3, true),
        ("EVAL s 1 a b", 4, false),
        ("EVAL s 0 a b", 3, false),
        ("PING x", 1, false),
    ] {
        assert_eq!(
            decision(&own, request, here) == Decision::Open,
            open,
            "{request} {here}"
        );
    }
    let all = user("on ~* &* +@all");
    assert!(matches!(
        decision(&all, "MSET a 1 b 2", 1),
        Decision::Permitted(_)
    ));
}

#[test]
fn a_late_check_says_what_a_check_of_the_whole_says() {
    use std::sync::Arc;
    let users = [
        "on ~a* %W~w* &c* +@all",
        "on +@all (~a* +mset) (~x* +@all)",
        "on +@all ~a* (%R~* ~x* +sort)",
    ]
    .map(|rules| Arc::new(user(rules)));
    let requests = [
        "MSET a 1 a 2 a 3",
        "MSET a 1 a 2 b 3",
        "MSET x 1 x 2",
        "MSET x 1 a 2",
        "SET w v GET",
        "SET w v NX",
        "EVAL script 2 a a x",
        "EVAL script 2 a x x",
        "EVAL script 9 a",
        "SORT x BY w* STORE x",
        "SORT a STORE b STORE a",
        "SORT a STORE a STORE b",
        "SUBSCRIBE c c c",
        "SUBSCRIBE c d c",
        "BITOP AND a a x",
        "MIGRATE h 1 _ 0 1 KEYS a x",
    ];
    let mut open = 0;
    for user in &users {
        for request in requests {
            let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
            let bytes = encode(&words);
            let Resolved::Command(command) = resolve(words[0], words.get(1).copied()) else {
                panic!("{request}")
            };
            let args = |bytes| Args::new(bytes, u32::try_from(words.len()).unwrap());
            let whole = user
                .check(command, args(&bytes), true)
                .map_err(|denied| denied.reason);
            for head in 4..bytes.len() {
                if user.decide(command, args(&bytes[..head]), false) != Decision::Open {
                    continue;
                }
                open += 1;
                let verdict = LateCheck::new(Arc::clone(user), command, args(&bytes[..head]))
                    .and_then(|mut check| {
                        for byte in &bytes[head..] {
                            check.feed(std::slice::from_ref(byte))?;
                        }
                        check.finish()
                    })
                    .map_err(|denied| denied.reason);
                assert_eq!(verdict, whole, "{request} cut at {head}");
            }
        }
    }
    assert!(open > 500, "{open}");
}

#[test]
fn refusals_are_explained_by_rule_and_argument() {
    let explained = |user: &User, request: &str| {
        let words: Vec<&[u8]> = request.split(' ').map(str::as_bytes).collect();
        let bytes = encode(&words);
        let Resolved::Command(command) = resolve(words[0], words.get(1).copied()) else {
            panic!("{request}")
        };
        let args = Args::new(&bytes, u32::try_from(words.len()).unwrap());
        user.explain(command, args).map(|sentences| sentences.join("; "))
    };
    let cases: &[(&str, &str, &[&str])] = &[
        ("safe", "FLUSHALL", &["'flushall'", "preset 'safe'", "destroys"]),
        ("safe", "CONFIG GET dir", &["'config|get'", "preset 'safe'"]),
        ("safe", "SYNC", &["no rule can permit it"]),
        (
            "strict",
            "COPY a b DB 1",
            &["the preset does not permit these arguments"],
        ),
        (
            "on ~* +@all -@dangerous",
            "INFO",
            &["'info'", "rule '-@dangerous'"],
        ),
        ("on ~* +@all -config", "CONFIG GET x", &["rule '-config'"]),
        ("on ~* +set", "GET k", &["no rule gives 'get'", "'+get' would"]),
        ("on ~* +@all -get +@read", "FLUSHALL", &[]),
        (
            "on ~a %R~b* +@all",
            "MSET a 1 c 2",
            &["argument 3, 'c'", "write", "~a %R~b*"],
        ),
        (
            "on ~a %R~b* +@all",
            "GETDEL b",
            &["argument 1, 'b'", "read and write"],
        ),
        ("on +@all", "GET b", &["argument 1, 'b'", "patterns: none"]),
        ("on ~a +@all", "SORT a BY w*", &["%R~*"]),
        ("on ~a +@all", "EVAL s 9 a", &["cannot be told", "argument 2"]),
        (
            "on ~* +@all &c",
            "PUBLISH d m",
            &["argument 1, 'd'", "channel", "&c"],
        ),
        (
            "on ~a +@all (~b +get)",
            "GET c",
            &["patterns: ~a", "selector 1", "patterns: ~b"],
        ),
    ];
    for (rules, request, parts) in cases {
        let said = explained(&user(rules), request);
        if parts.is_empty() {
            assert_eq!(said, None, "{rules}: {request}");
            continue;
        }
        let said = said.unwrap_or_else(|| panic!("{rules}: {request} is permitted"));
        for part in *parts {
            assert!(said.contains(part), "{rules}: {request}: {said}");
        }
    }
    let mut limited = user("on ~* +@all");
    limited.databases = Some(vec![0, 2]);
    assert_eq!(
        explained(&limited, "SELECT 1").unwrap(),
        "argument 1, '1', is not among the databases that the user may use: 0, 2"
    );
    assert!(
        explained(&limited, "FLUSHALL")
            .unwrap()
            .contains("every database")
    );
}

#[test]
fn the_upstream_user_may_do_what_the_users_may_and_no_more() {
    let users = [
        user("safe"),
        user("on ~own:* %R~shared:* &own:* -@all +@read -keys (~sum:* +set)"),
        user("off ~* &* +@all"),
    ];
    for target in ["redis-7.0", "redis-8.10", "valkey-9.1"] {
        let parsed = Target::parse(target).unwrap();
        let words = upstream_rules(users.iter(), parsed, target != "redis-7.0", 0);
        let words: Vec<&str> = words.iter().flat_map(|rule| rule.split(' ')).collect();
        let narrow = parse_user("keyward", &words).unwrap();
        assert_eq!(verdict(&narrow, "PING"), Permitted);
        for request in SAFE_REFUSES
            .iter()
            .filter(|request| !["SHUTDOWN"].contains(request))
        {
            assert_ne!(verdict(&narrow, request), Permitted, "{target}: {request}");
        }
        let known = |request: &str| {
            let words: Vec<&str> = request.split(' ').collect();
            match resolve(words[0].as_bytes(), words.get(1).map(|word| word.as_bytes())) {
                Resolved::Command(command) => command.since.redis.is_some_and(|since| since <= (7, 0)),
                Resolved::Container(_) | Resolved::Unknown => false,
            }
        };
        for request in SAFE_PERMITS.iter().filter(|request| known(request)) {
            assert_eq!(verdict(&narrow, request), Permitted, "{target}: {request}");
        }
    }
    // Alone, a limited user leaves nothing else open.
    let words = upstream_rules(users[1..].iter(), Target::parse("redis-7.0").unwrap(), false, 1);
    let words: Vec<&str> = words.iter().flat_map(|rule| rule.split(' ')).collect();
    let narrow = parse_user("keyward", &words).unwrap();
    for (request, expected) in [
        ("GET own:1", Permitted),
        ("GET shared:1", Permitted),
        ("SET own:1 v", KEY),
        ("SET sum:1 v", Permitted),
        ("GET sum:1", KEY),
        ("GET other", KEY),
        ("KEYS *", COMMAND),
        ("SCAN 0", Permitted),
        ("SELECT 1", Permitted),
        ("PUBLISH own:1 m", COMMAND),
    ] {
        assert_eq!(verdict(&narrow, request), expected, "{request}");
    }
    for wrong in ["redis", "redis-6.2", "redis-x", "mysql-8.0", "redis-7.0.15.1"] {
        assert!(Target::parse(wrong).is_none(), "{wrong}");
    }
}
