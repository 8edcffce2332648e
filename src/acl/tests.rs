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
    "ACL WHOAMI",
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

mod names;
