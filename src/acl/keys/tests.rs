use proptest::prelude::*;

use super::super::{Command, Named, Resolved, commands, names, resolve};
use super::*;
use crate::resp::Args;

fn encode(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.len()).bytes());
        bytes.extend_from_slice(word);
        bytes.extend(b"\r\n");
    }
    bytes
}

fn command(words: &[&[u8]]) -> &'static Command {
    match resolve(words[0], words.get(1).copied()) {
        Resolved::Command(command) => command,
        Resolved::Container(_) | Resolved::Unknown => panic!("{words:?}"),
    }
}

/// Positions of keys, each with `r` and `w` for what a pattern must permit; `c` for channels; `?` if not understood.
fn found(words: &[&[u8]]) -> String {
    let bytes = encode(words);
    let args = Args::new(&bytes, u32::try_from(words.len()).unwrap());
    let Some(names) = names(command(words), args) else {
        return "?".to_owned();
    };
    let shown = names.iter().map(|(at, named)| match named {
        Named::Key(flags) => format!(
            "{at}{}{}",
            if flags.reads() { "r" } else { "" },
            if flags.writes() { "w" } else { "" }
        ),
        Named::Channel => format!("{at}c"),
    });
    shown.collect::<Vec<_>>().join(" ")
}

fn keys(request: &str) -> String {
    // `_` is the empty argument.
    let words: Vec<&[u8]> = request
        .split(' ')
        .map(|word| if word == "_" { b"" } else { word.as_bytes() })
        .collect();
    found(&words)
}

#[test]
fn every_key_is_found_and_nothing_else() {
    let cases: &[(&str, &str)] = &[
        ("GET k", "1r"),
        ("TYPE k", "1"),
        ("DEL a b c", "1w 2w 3w"),
        ("MGET a b", "1r 2r"),
        ("RENAME a b", "1rw 2w"),
        ("COPY a b DB 1", "1r 2w"),
        ("LCS a b LEN", "1r 2r"),
        ("MSET a 1 b 2", "1w 3w"),
        ("MSET a 1 b", "1w 3w"),
        ("MSETNX a 1 b 2", "1w 3w"),
        ("MSETEX 2 a 1 b 2 EX 10", "2w 4w"),
        ("MSETEX 2 a 1 b", "2w 4w"),
        ("MSETEX 3 a 1 b 2", "?"),
        ("MSETEX 0 a 1", ""),
        ("SET k v", "1w"),
        ("SET k v EX 10 NX", "1w"),
        ("SET k v gEt", "1rw"),
        ("SET get get", "1w"),
        ("SET k v IFEQ x", "1rw"),
        ("BITFIELD k", "1r"),
        ("BITFIELD k GET u8 0 GET u8 1", "1r"),
        ("BITFIELD k OVERFLOW SAT GET u8 0", "1r"),
        ("BITFIELD k GET u8 0 SET u8 0 1", "1rw"),
        ("BITFIELD k GET SET 0", "1r"),
        ("BITFIELD k INCRBY u8 0 1", "1rw"),
        ("BITFIELD k nonsense", "1rw"),
        ("BITFIELD_RO k GET u8 0", "1r"),
        ("BITOP AND d a b", "2w 3r 4r"),
        ("PFMERGE d a b", "1rw 2r 3r"),
        // Redis looks for sources, finds none, and checks nothing at all.
        ("PFMERGE d", "1rw"),
        ("BLPOP a b 0", "1rw 2rw"),
        ("BLMPOP 0 2 a b LEFT", "3rw 4rw"),
        ("LMPOP 1 a LEFT", "2rw"),
        ("BLMOVE a b LEFT RIGHT 0", "1rw 2w"),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "1w 3r 4r"),
        ("ZUNIONSTORE d 3 a b", "?"),
        ("ZUNIONSTORE d 0 a", "1w"),
        ("ZUNION 1 a WITHSCORES", "2r"),
        ("SINTERCARD 2 a b LIMIT 1", "2r 3r"),
        ("SDIFFSTORE d a b", "1w 2r 3r"),
        ("EVAL s 0", ""),
        ("EVAL s 0 x", ""),
        ("EVAL s 2 a b c", "3rw 4rw"),
        ("EVAL s 3 a b", "?"),
        ("EVAL s -1 a", "?"),
        ("EVAL s x a", "?"),
        ("EVAL s 01 a", "?"),
        ("EVAL s 4294967297 a", "?"),
        ("EVALSHA_RO s 1 a b", "3r"),
        ("FCALL f 1 a b", "3rw"),
        ("OBJECT ENCODING k", "2"),
        ("MEMORY USAGE k", "2"),
        ("XINFO STREAM k FULL", "2r"),
        ("XGROUP CREATE k g $", "2w"),
        ("XREAD STREAMS a b 0 0", "2r 3r"),
        ("XREAD COUNT 1 BLOCK 0 STREAMS a 0", "6r"),
        ("XREAD COUNT STREAMS STREAMS a 0", "4r"),
        ("XREAD STREAMS a b 0", "?"),
        ("XREAD NOACK STREAMS a 0", "?"),
        ("XREAD GROUP g STREAMS a 0", "?"),
        ("XREADGROUP GROUP g c STREAMS a b > >", "5r 6r"),
        ("XREADGROUP GROUP g c NOACK COUNT 1 STREAMS a >", "8r"),
        // A consumer, a group and a key of that name (K-1).
        ("XREADGROUP GROUP g STREAMS STREAMS a >", "5r"),
        ("XREADGROUP GROUP STREAMS c STREAMS a >", "5r"),
        ("XREADGROUP NOACK GROUP g STREAMS STREAMS STREAMS >", "6r"),
        ("XREADGROUP GROUP g c CLAIM 1 STREAMS a >", "7r"),
        ("XREADGROUP GROUP g c nonsense STREAMS a >", "?"),
        ("SORT k", "1r"),
        ("SORT k STORE d", "1r 3w"),
        ("SORT k STORE a STORE b", "1r 5w"),
        ("SORT k LIMIT 0 STORE STORE d", "1r 6w"),
        ("SORT k BY STORE GET STORE DESC ALPHA", "1r"),
        ("SORT k STORE", "?"),
        ("SORT k LIMIT 0", "?"),
        ("SORT k nonsense", "?"),
        ("SORT_RO k LIMIT 0 1", "1r"),
        ("SORT_RO k STORE d", "?"),
        ("GEORADIUS k 1 2 3 m", "1r"),
        ("GEORADIUS k 1 2 3 m COUNT 1 ANY STORE d", "1r 10w"),
        // The last one counts (redis #15478).
        ("GEORADIUS k 1 2 3 m STORE a STORE b", "1r 9w"),
        ("GEORADIUS k 1 2 3 m STORE a STOREDIST b", "1r 9w"),
        ("GEORADIUS k 1 2 3 m STORE STORE", "1r 7w"),
        ("GEORADIUS k 1 2 3 m STORE", "?"),
        ("GEORADIUS k 1 2 3 m COUNT STORE d", "?"),
        ("GEORADIUSBYMEMBER k x 3 m STORE d", "1r 6w"),
        ("GEORADIUS_RO k 1 2 3 m", "1r"),
        ("GEOSEARCHSTORE d k FROMMEMBER x BYRADIUS 1 m", "1w 2r"),
        ("MIGRATE h 1 k 0 1", "3rw"),
        ("MIGRATE h 1 k 0 1 COPY REPLACE AUTH keys", "3rw"),
        ("MIGRATE h 1 _ 0 1", "3rw"),
        ("MIGRATE h 1 _ 0 1 AUTH2 keys keys KEYS a b", "10rw 11rw"),
        ("MIGRATE h 1 k 0 1 KEYS a", "?"),
        ("MIGRATE h 1 k 0 1 nonsense", "?"),
        ("WATCH a b", "1 2"),
        ("PUBLISH c m", "1c"),
        ("SUBSCRIBE a b", "1c 2c"),
        ("PSUBSCRIBE a*", "1c"),
        ("SSUBSCRIBE a", "1c"),
        ("SPUBLISH c m", "1c"),
        ("UNSUBSCRIBE a", ""),
        ("SCAN 0 MATCH x", ""),
        ("JSON.MGET a b $", "1rw 2rw"),
        ("JSON.MSET a $ 1 b $ 2", "1rw 4rw"),
        ("JSON.DEBUG HELP", ""),
        ("TS.CREATERULE a b AGGREGATION avg 1", "1rw 2rw"),
        ("TDIGEST.MERGE d 2 a b", "1rw 3rw 4rw"),
        ("TS.NRANGE a b c d", "?"),
    ];
    for (request, expected) in cases {
        assert_eq!(keys(request), *expected, "{request}");
    }
}

#[test]
fn option_words_end_at_a_nul_as_in_redis() {
    assert_eq!(found(&[b"SET", b"k", b"v", b"GET\0x"]), "1rw");
    assert_eq!(found(&[b"SORT", b"k", b"STORE\0", b"d"]), "1r 3w");
    assert_eq!(found(&[b"XREAD", b"STREAMS\0x", b"a", b"0"]), "2r");
}

#[test]
fn every_command_that_names_keys_names_one_in_a_request_of_its_kind() {
    let mut seen = 0;
    for command in commands().iter().filter(|command| command.has_keys()) {
        if command.keys == Keys::Unknown {
            assert!(
                command.since.redis.is_some_and(|since| since >= (8, 0)),
                "{}",
                command.name
            );
            continue;
        }
        seen += 1;
        let mut words: Vec<&[u8]> = command.name.split('|').map(str::as_bytes).collect();
        // Room for one key behind a count.
        let room = usize::from(matches!(command.keys, Keys::At(_)));
        let length = command.arity.unsigned_abs() as usize + room;
        let filler: &[u8] = match command.keys {
            Keys::Streams { group: false } => {
                words.extend([b"STREAMS" as &[u8], b"1", b"1"]);
                b""
            }
            Keys::Streams { group: true } => {
                words.extend([b"GROUP" as &[u8], b"g", b"c", b"STREAMS", b"1", b"1"]);
                b""
            }
            _ => b"1",
        };
        words.resize(words.len().max(length), filler);
        let shown = found(&words);
        assert!(
            shown.bytes().any(|byte| byte.is_ascii_digit()),
            "{}: {shown}",
            command.name
        );
    }
    assert!(seen > 250, "{seen}");
}

/// What a walk that sees every argument says, and one that is given only what it asks for.
fn both_ways(command: &Command, words: &[&[u8]]) -> [Vec<Result<Part, NotUnderstood>>; 2] {
    [false, true].map(|sparing| {
        let mut walk = Walk::new(
            command.keys,
            command.channels,
            u32::try_from(words.len()).unwrap(),
        );
        let mut parts = Vec::new();
        for word in words {
            if walk.is_done() {
                break;
            }
            let part = walk.take((!sparing || walk.wants()).then_some(*word));
            parts.push(part);
            if part.is_err() {
                break;
            }
        }
        parts
    })
}

proptest! {
    #[test]
    fn what_is_not_asked_for_does_not_matter(
        row in 0..commands().len(),
        words in proptest::collection::vec(
            proptest::sample::select(vec!["a", "1", "2", "0", "get", "set", "store", "streams", "group", "count", "by", "limit", "keys", "auth", "overflow", "noack", ""]),
            0..12,
        ),
    ) {
        let command = &commands()[row];
        let mut all: Vec<&[u8]> = command.name.split('|').map(str::as_bytes).collect();
        all.extend(words.iter().map(|word| word.as_bytes()));
        let [seen, spared] = both_ways(command, &all);
        prop_assert_eq!(seen, spared);
    }

    #[test]
    fn no_arguments_panic(
        row in 0..commands().len(),
        words in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 1..9),
        announced in 0_u32..20,
    ) {
        let command = &commands()[row];
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        let _ = names(command, Args::new(&encode(&words), announced));
    }
}

#[test]
fn no_command_over_data_has_lost_its_keys() {
    // Over all keys of a database or none: looked at one by one.
    let reviewed = [
        "keys",
        "randomkey",
        "scan",
        "function|delete",
        "function|flush",
        "function|load",
        "function|restore",
        "script|show",
        "dbsize",
        "flushall",
        "flushdb",
        "lolwut",
        "swapdb",
        "trimslots",
        "cluster|flushslot",
        "clusterscan",
        "pfselftest",
        // Speaks of fields alone; HIMPORT SET names the key.
        "himport|discard",
        "himport|discardall",
        "himport|prepare",
    ];
    let over_data = [
        "read",
        "write",
        "set",
        "sortedset",
        "list",
        "hash",
        "string",
        "bitmap",
        "geo",
        "array",
        "hyperloglog",
    ]
    .map(|name| super::super::Categories::by_name(name).unwrap());
    let keyless: Vec<_> = commands()
        .iter()
        .filter(|command| {
            command.class == super::super::Class::Module
                || over_data
                    .iter()
                    .any(|category| command.categories.intersects(*category))
        })
        .filter(|command| !command.touches_keys() && !command.container)
        .map(|command| command.name)
        .filter(|name| !reviewed.contains(name))
        .collect();
    assert_eq!(keyless, [] as [&str; 0], "these name no key: look again");
    let with_keys = commands().iter().filter(|command| command.has_keys()).count();
    assert_eq!(with_keys, 350, "rows with keys: if one was added, count it here");
}
