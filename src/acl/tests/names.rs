//! Keys, channels and databases: verdicts on the whole, on a head, while it passes, and in words.

use super::*;

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
    // They reach keys that they do not name.
    for request in ["FT.SEARCH idx *", "FT._LIST", "TS.MGET FILTER a=b", "TS.READ x y"] {
        assert_eq!(verdict(&user, request), KEY, "{request}");
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

proptest::proptest! {
    #[test]
    fn however_a_request_is_cut_the_verdict_is_that_of_the_whole(
        rules in proptest::sample::select(vec![
            "on +@all ~a* &a*", "on +@all %R~a* %W~b* &b", "on +@all ~a (~b* +@all) (%R~* +sort)", "on +@read ~b* (+@write ~a*)",
        ]),
        row in 0..commands().len(),
        words in proptest::collection::vec(
            proptest::sample::select(vec!["a", "b", "ab", "x", "", "1", "2", "0", "get", "store", "streams", "by", "limit", "keys", "a*"]),
            0..8,
        ),
        head in 0..1_000_usize,
        piece in 1_usize..20,
    ) {
        let command = &commands()[row];
        // What cannot be seen of it is refused: it has no keys to wait for, and no sane request of it is long.
        proptest::prop_assume!(command.role != Role::ClientTracking);
        let user = std::sync::Arc::new(user(rules));
        let mut all: Vec<&[u8]> = command.name.split('|').map(str::as_bytes).collect();
        all.extend(words.iter().map(|word| word.as_bytes()));
        let bytes = encode(&all);
        let args = |bytes| Args::new(bytes, u32::try_from(all.len()).unwrap());
        let whole = user.check(command, args(&bytes), true).map_err(|denied| denied.reason);
        let cut = 4 + head * (bytes.len() - 4) / 1_000;
        let early = match user.decide(command, args(&bytes[..cut]), false) {
            Decision::Permitted(permit) => Ok(permit),
            Decision::Denied(denied) => Err(denied.reason),
            Decision::Open => LateCheck::new(user, command, args(&bytes[..cut]))
                .and_then(|mut check| {
                    for piece in bytes[cut..].chunks(piece) {
                        check.feed(piece)?;
                    }
                    check.finish()
                })
                .map_err(|denied| denied.reason),
        };
        // A refusal may come before the one that would count in the end; that it is one may not change.
        proptest::prop_assert_eq!(early.is_ok(), whole.is_ok(), "{:?} {:?}", early, whole);
    }
}

#[test]
fn names_of_all_keys_are_for_those_who_may_read_all_keys() {
    let ask = "CLIENT TRACKING ON bcast PREFIX cache:";
    assert_eq!(verdict(&user("on ~cache:* +@all"), ask), KEY);
    assert_eq!(verdict(&user("on %W~* +@all"), ask), KEY);
    assert_eq!(verdict(&user("on %R~* +@all"), ask), Permitted);
    assert_eq!(verdict(&user("on ~* +@all"), ask), Permitted);
    let tracking = "CLIENT TRACKING ON PREFIX cache:";
    assert_eq!(verdict(&user("on ~cache:* +@all"), tracking), Permitted);
}
