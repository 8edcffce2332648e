//! Random users and random requests: our verdict is that of `ACL DRYRUN` on a live server, our keys are those of `COMMAND
//! GETKEYSANDFLAGS`, our patterns match what `KEYS` matches. Where the server errs, [`KNOWN`] says so.
//!
//! `KEYWARD_ORACLE_PAIRS` sets how many pairs are compared (default 4,000), `KEYWARD_ORACLE_SEED` repeats a run.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test may stop with a message"
)]

#[allow(dead_code, reason = "shared with the other tests against a live server")]
mod live_redis;

use std::collections::HashMap;

use keyward::acl::{
    Categories, Command, DenyReason, Named, Resolved, Role, User, commands, names, resolve, rule,
};
use keyward::resp::Args;
use live_redis::{LiveRedis, Reply, Server, encode, live_commands};

/// Commands asked about for each list of rules.
const COMMANDS_A_LIST: usize = 20;

/// SplitMix64: enough randomness for a test, and repeatable.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).expect("below a usize")
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    fn chance(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
    )
}

/// A random generator that says how to repeat it.
fn random() -> Random {
    let now = || {
        std::time::UNIX_EPOCH
            .elapsed()
            .expect("a clock after 1970")
            .as_nanos()
    };
    let seed =
        number("KEYWARD_ORACLE_SEED").unwrap_or_else(|| u64::try_from(now() & 0xffff_ffff).expect("32 bits"));
    println!("repeat with KEYWARD_ORACLE_SEED={seed}");
    Random(seed)
}

/// The commands that the server and the table see alike; the differences of old servers are `command_table`'s business.
fn common(redis: &mut LiveRedis) -> Vec<&'static Command> {
    let live: HashMap<String, _> = live_commands(redis)
        .into_iter()
        .map(|live| (live.name.clone(), live))
        .collect();
    let (same, other): (Vec<_>, Vec<_>) = commands()
        .iter()
        .filter(|ours| live.contains_key(ours.name))
        .partition(|ours| {
            let live = &live[ours.name];
            let mut categories: Vec<_> = ours.categories.names().collect();
            categories.sort_unstable();
            categories == live.categories && i64::from(ours.arity) == live.arity
        });
    assert!(
        other.len() <= 10,
        "the table has drifted, see command_table: {} commands",
        other.len()
    );
    assert!(same.len() > 300);
    same
}

/// One rule about commands; now and then one that must be refused.
fn any_rule(random: &mut Random, known: &[&Command], categories: &[&str]) -> String {
    let sign = if random.chance(2) { '+' } else { '-' };
    let rule = match random.below(40) {
        0 => "allcommands".to_owned(),
        1 => "nocommands".to_owned(),
        2 => format!("{sign}@all"),
        3 => format!("{sign}nosuchcommand"),
        4 => format!("{sign}@nosuchcategory"),
        5 => format!("{sign}config|nosuchsub"),
        6 => format!("{sign}config|"),
        7 => format!("{sign}config|get|x"),
        8 => "-select|0".to_owned(),
        9..=19 => format!("{sign}@{}", random.pick(categories)),
        // Rules about one container, so that they meet.
        20..=27 => {
            let of_container: Vec<_> = known
                .iter()
                .filter(|command| command.name.starts_with("client"))
                .collect();
            format!("{sign}{}", random.pick(&of_container).name)
        }
        _ => format!("{sign}{}", random.pick(known).name),
    };
    match random.below(6) {
        0 => rule.to_ascii_uppercase(),
        _ => rule,
    }
}

/// The words of a request that the server accepts the length of.
fn request(command: &Command) -> Vec<&str> {
    let mut words: Vec<&str> = command.name.split('|').collect();
    words.resize(
        words
            .len()
            .max(usize::try_from(command.arity.unsigned_abs()).expect("small")),
        "1",
    );
    words
}

fn judged(user: &User, command: &Command, words: &[&str]) -> Option<DenyReason> {
    let bytes = encode(&bytes_of(words));
    let args = Args::new(&bytes, u32::try_from(words.len()).expect("small"));
    user.check(command, args, true).err().map(|denied| denied.reason)
}

fn bytes_of<'a>(words: &[&'a str]) -> Vec<&'a [u8]> {
    words.iter().map(|word| word.as_bytes()).collect()
}

fn ours(user: &User, command: &Command) -> Option<DenyReason> {
    judged(user, command, &request(command))
}

/// The server's verdict: `OK`, or a sentence that differs between versions but for these words.
fn verdict(reply: &Reply, about: &str) -> Option<DenyReason> {
    let Reply::Text(text) = reply else {
        panic!("{about}: {reply:?}")
    };
    match text.as_str() {
        "OK" => None,
        text if text.contains("no permissions to run") => Some(DenyReason::Command),
        // The name itself may hold the other word.
        text if text.ends_with("channel") || text.contains("access a channel") => Some(DenyReason::Channel),
        text if text.ends_with("key") || text.contains("access a key") => Some(DenyReason::Key),
        text => panic!("{about}: {text}"),
    }
}

fn theirs(redis: &mut LiveRedis, command: &Command) -> Option<DenyReason> {
    let mut words = vec!["ACL", "DRYRUN", "u"];
    words.extend(request(command));
    verdict(&redis.call(&words), command.name)
}

/// Names that patterns tell apart, words that options are made of, and numbers.
const NAMES: &[&str] = &[
    "a", "b", "ab", "abc", "a:1", "b:1", "x", "", "a*", "store", "streams", "get", "keys", "key", "channel",
];
const PATTERNS: &[&str] = &[
    "a", "a*", "*", "b*", "a?", "[ab]*", "[^a]*", "*1", "a:*", "*b*", "\\*", "a\\*", "x", "s*", "**", "?",
    "[x-a]",
];

/// Requests that the server takes, for a key `K`, a channel `C`, a pattern `P` and a number `N`.
const TEMPLATES: &[&str] = &[
    "SET K v",
    "SET K v GET",
    "SET K get EX 10",
    "GETEX K",
    "MSET K v K v",
    "MSETNX K v",
    "DEL K K K",
    "MGET K K",
    "RENAME K K",
    "COPY K K DB 1 REPLACE",
    "LCS K K",
    "BITFIELD K GET u8 0",
    "BITFIELD K SET u8 0 1",
    "BITFIELD K OVERFLOW SAT GET u8 0",
    "BITFIELD K",
    "BITOP AND K K K",
    "PFMERGE K K",
    "BLPOP K K 0",
    "BLMOVE K K LEFT RIGHT 0",
    "BLMPOP 0 2 K K LEFT",
    "LMPOP 1 K LEFT",
    "SMOVE K K m",
    "SDIFFSTORE K K K",
    "SINTERCARD 2 K K",
    "SINTERSTORE K K",
    "ZUNIONSTORE K 2 K K",
    "ZINTER 2 K K WITHSCORES",
    "ZDIFFSTORE K 1 K",
    "ZRANGESTORE K K 0 1",
    "EVAL script 2 K K x",
    "EVAL script 0",
    "EVALSHA_RO sha 1 K",
    "FCALL f 1 K x",
    "OBJECT ENCODING K",
    "MEMORY USAGE K",
    "XINFO STREAM K",
    "XGROUP CREATE K g $",
    "XADD K * f v",
    "XREAD STREAMS K K 0 0",
    "XREAD COUNT 1 BLOCK 0 STREAMS K 0",
    "XREADGROUP GROUP g c STREAMS K >",
    "XREADGROUP GROUP g c COUNT 1 NOACK STREAMS K K > >",
    "SORT K",
    "SORT K LIMIT 0 1 STORE K",
    "SORT K STORE K STORE K",
    "SORT_RO K ALPHA",
    "GEORADIUS K 1 2 3 m",
    "GEORADIUS K 1 2 3 m COUNT 1 STORE K",
    "GEORADIUSBYMEMBER K m 3 m STOREDIST K",
    "GEORADIUS_RO K 1 2 3 m",
    "GEOSEARCHSTORE K K FROMMEMBER x BYRADIUS 1 m",
    "MIGRATE h 1 K 0 1",
    "MIGRATE h 1 K 0 1 COPY AUTH x",
    "RESTORE K 0 x",
    "DUMP K",
    "MOVE K 1",
    "WATCH K K",
    "TOUCH K",
    "EXPIRE K 1",
    "HSET K f v",
    "LPUSH K v",
    "SADD K v",
    "ZADD K 1 v",
    "PUBLISH C m",
    "SPUBLISH C m",
    "SUBSCRIBE C C",
    "SSUBSCRIBE C",
    "PSUBSCRIBE P",
    "PSUBSCRIBE P P",
    "GEORADIUS K 1 2 3 m STORE K STORE K",
    "XREADGROUP GROUP g STREAMS STREAMS K >",
    "PFMERGE K",
    "SORT K BY P GET P",
    "UNSUBSCRIBE C",
    "PUBSUB CHANNELS",
    "SCAN N",
    "KEYS *",
    "RANDOMKEY",
    "DBSIZE",
];

/// Words of a request, and whether the server is known to take them.
fn any_request(
    random: &mut Random,
    askable: &[&'static Command],
) -> (&'static Command, Vec<&'static str>, bool) {
    if random.chance(2) {
        let template: Vec<&str> = random.pick(TEMPLATES).split(' ').collect();
        let words = template.into_iter().map(|word| match word {
            "K" | "C" => *random.pick(NAMES),
            "P" => *random.pick(PATTERNS),
            "N" => "0",
            word => word,
        });
        let words: Vec<&str> = words.collect();
        // MIGRATE of an empty key means KEYS; an empty template word would be nothing.
        let Resolved::Command(command) =
            resolve(words[0].as_bytes(), words.get(1).map(|word| word.as_bytes()))
        else {
            panic!("{words:?}")
        };
        return (command, words, true);
    }
    let command = random.pick(askable);
    let mut words: Vec<&str> = command.name.split('|').collect();
    let arity = usize::try_from(command.arity.unsigned_abs()).expect("small");
    let more = if command.arity < 0 && !command.container {
        random.below(5)
    } else {
        0
    };
    while words.len() < arity + more {
        words.push(match random.below(3) {
            0 => *random.pick(&[
                "0", "1", "2", "3", "-1", "01", "streams", "store", "limit", "by", "group",
            ]),
            _ => *random.pick(NAMES),
        });
    }
    (command, words, false)
}

/// Rules about keys and channels.
fn any_names(random: &mut Random) -> Vec<String> {
    let mut rules = Vec::new();
    if random.chance(8) {
        rules.push("~*".to_owned());
    } else {
        for _ in 0..random.below(4) {
            let sign = random.pick(&["~", "~", "%R~", "%W~", "%RW~", "%wr~"]);
            rules.push(format!("{sign}{}", random.pick(PATTERNS)));
        }
    }
    if random.chance(4) {
        rules.push("&*".to_owned());
    } else {
        for _ in 0..random.below(3) {
            rules.push(format!("&{}", random.pick(PATTERNS)));
        }
    }
    rules
}

/// A user's rules: names, commands, selectors; now and then one that must be refused.
fn any_user(random: &mut Random, known: &[&Command], categories: &[&str]) -> Vec<String> {
    let mut rules = any_names(random);
    if random.chance(3) {
        rules.push("+@all".to_owned());
    }
    for _ in 0..random.below(6) {
        rules.push(any_rule(random, known, categories));
    }
    for _ in 0..random.below(3) {
        let mut inner = any_names(random);
        inner.push(random.pick(&["+@all", "+@read", "+@write", "+@all"]).to_string());
        for _ in 0..random.below(3) {
            inner.push(any_rule(random, known, categories));
        }
        rules.push(format!("({})", inner.join(" ")));
    }
    if random.chance(60) {
        let wrong = [
            "~* ~a",
            "%~a",
            "%X~a",
            "&* &a",
            "(+get",
            "(on)",
            "clearselectors",
            "(~* ~a)",
            "(+nosuch)",
            "(@read)",
        ];
        rules.push((*random.pick(&wrong)).to_owned());
    }
    rules
}

/// Where the server errs, or answers a question that its command does not ask. Each with what shows it.
struct KnownDifference {
    command: &'static str,
    about: &'static str,
    shows: fn(&[&str]) -> bool,
}

fn count(words: &[&str], word: &str) -> usize {
    words
        .iter()
        .filter(|have| have.eq_ignore_ascii_case(word))
        .count()
}

const KNOWN: &[KnownDifference] = &[
    KnownDifference {
        command: "client|tracking",
        about: "BCAST shows the name of every key that changes, whatever keys the user may touch (K-4)",
        shows: |words| count(words, "bcast") > 0,
    },
    KnownDifference {
        command: "georadius",
        about: "checks the first STORE and stores to the last (redis #15478)",
        shows: |words| count(words, "store") + count(words, "storedist") > 1,
    },
    KnownDifference {
        command: "georadiusbymember",
        about: "the same",
        shows: |words| count(words, "store") + count(words, "storedist") > 1,
    },
    KnownDifference {
        command: "xreadgroup",
        about: "takes a group or consumer called STREAMS for the option (K-1)",
        shows: |words| count(words, "streams") > 1,
    },
    KnownDifference {
        command: "pfmerge",
        about: "checks no key when only the destination is named, and creates it",
        shows: |words| words.len() == 2,
    },
    KnownDifference {
        command: "sort",
        about: "DRYRUN does not ask whether BY and GET may read every key; SORT itself does",
        shows: |words| count(words, "by") + count(words, "get") > 0,
    },
    KnownDifference {
        command: "sort_ro",
        about: "the same",
        shows: |words| count(words, "by") + count(words, "get") > 0,
    },
];

fn is_known_difference(command: &Command, words: &[&str]) -> bool {
    KNOWN
        .iter()
        .any(|known| known.command == command.name && (known.shows)(words) && !known.about.is_empty())
}

/// Keys with their flags as COMMAND GETKEYSANDFLAGS gives them, sorted; `None` where it answers an error.
fn their_keys(reply: &Reply) -> Option<Vec<(String, String)>> {
    let Reply::Array(rows) = reply else { return None };
    let mut keys: Vec<_> = rows
        .iter()
        .map(|row| {
            let [key, flags] = row.array() else {
                panic!("{row:?}")
            };
            (
                key.text().to_owned(),
                sorted(flags.array().iter().map(Reply::text)),
            )
        })
        .collect();
    keys.sort();
    Some(keys)
}

fn our_keys(command: &Command, words: &[&str]) -> Option<Vec<(String, String)>> {
    let bytes = encode(&bytes_of(words));
    let names = names(
        command,
        Args::new(&bytes, u32::try_from(words.len()).expect("small")),
    )?;
    let mut keys: Vec<_> = names
        .into_iter()
        .filter_map(|(at, named)| match named {
            Named::Key(flags) => Some((words[at as usize].to_owned(), sorted(flags.names()))),
            Named::Channel => None,
        })
        .collect();
    keys.sort();
    Some(keys)
}

fn sorted<'a>(flags: impl Iterator<Item = &'a str>) -> String {
    // Whether GETSET reads says SET itself; the server marks the row that its flags vary.
    let mut flags: Vec<_> = flags.filter(|flag| *flag != "variable_flags").collect();
    flags.sort_unstable();
    flags.join("|")
}

/// Users in one exchange with the server.
const USERS_AT_ONCE: usize = 25;

#[test]
fn verdicts_are_those_of_acl_dryrun() {
    let mut random = random();
    let mut redis = LiveRedis::start();
    let known = common(&mut redis);
    // HTTP words and replication are refused here whatever the rules say: a documented difference, tested elsewhere.
    let askable: Vec<&'static Command> = known
        .iter()
        .copied()
        .filter(|command| command.role != Role::Replication && (!command.container || command.arity == -1))
        .collect();
    let reply = redis.call(&["ACL", "CAT"]);
    // Whole categories cannot be compared when the server counts a command of it differently.
    let categories: Vec<&str> = reply.array().iter().map(Reply::text).collect();
    let wanted = usize::try_from(number("KEYWARD_ORACLE_PAIRS").unwrap_or(4_000)).expect("a usize");

    // Redis 7.0 computes the text anew from the permissions; later ones keep the rules as they were given.
    let keeps_rules = redis.server() != Server::Redis(7, 0);

    let (mut pairs, mut refused_lists, mut odd, mut exceptions) = (0, 0, 0, 0);
    let mut reasons: HashMap<Option<DenyReason>, usize> = HashMap::new();
    while pairs < wanted {
        let lists: Vec<Vec<String>> = (0..USERS_AT_ONCE)
            .map(|_| any_user(&mut random, &known, &categories))
            .collect();
        let asked: Vec<Vec<_>> = (0..USERS_AT_ONCE)
            .map(|_| {
                (0..COMMANDS_A_LIST)
                    .map(|_| any_request(&mut random, &askable))
                    .collect()
            })
            .collect();
        let names: Vec<String> = (0..USERS_AT_ONCE).map(|user| format!("u{user}")).collect();

        let mut requests: Vec<Vec<&[u8]>> = Vec::new();
        for ((name, list), asked) in names.iter().zip(&lists).zip(&asked) {
            let set = ["ACL", "SETUSER", name, "reset", "on", "nopass", "resetchannels"];
            let words = list.iter().flat_map(|rule| rule.split(' '));
            requests.push(set.into_iter().chain(words).map(str::as_bytes).collect());
            for (_, words, _) in asked {
                let dry = ["ACL", "DRYRUN", name].into_iter().chain(words.iter().copied());
                requests.push(dry.map(str::as_bytes).collect());
                let keys = ["COMMAND", "GETKEYSANDFLAGS"]
                    .into_iter()
                    .chain(words.iter().copied());
                requests.push(keys.map(str::as_bytes).collect());
            }
        }
        requests.push(vec![b"ACL", b"LIST"]);
        let mut replies = redis.pipeline(&requests).into_iter();
        let mut live: Vec<(&str, User)> = Vec::new();
        for ((name, list), asked) in names.iter().zip(&lists).zip(&asked) {
            let words: Vec<&str> = ["reset", "on", "nopass", "resetchannels"]
                .into_iter()
                .chain(list.iter().flat_map(|rule| rule.split(' ')))
                .collect();
            let answer = replies.next().expect("a reply");
            let user = match (rule::parse_user(name, &words), answer) {
                (Ok(user), Reply::Text(_)) => Some(user),
                (Err(_), Reply::Error(_)) => {
                    refused_lists += 1;
                    None
                }
                (parsed, answer) => panic!("{words:?}: we say {parsed:?}, the server {answer:?}"),
            };
            for (command, request, valid) in asked {
                let (dry, keys) = (replies.next().expect("a reply"), replies.next().expect("a reply"));
                let about = format!("{words:?}: {request:?}");
                let (our_keys, mut their_keys) = (our_keys(command, request), their_keys(&keys));
                if command.name == "sinterstore"
                    && let Some(keys) = &mut their_keys
                {
                    // 7.0 says RW where later ones say OW; both ask for the same.
                    keys.iter_mut()
                        .for_each(|(_, flags)| *flags = flags.replace("OW", "RW"));
                }
                let exception = is_known_difference(command, request);
                match (&our_keys, &their_keys) {
                    // Either finds the request wrong, or the server finds no key and calls it an error.
                    (Some(ours), Some(theirs)) => {
                        assert!(ours == theirs || exception, "{request:?}: {ours:?} {theirs:?}")
                    }
                    (None, _) => assert!(!valid || exception, "{request:?} is not understood"),
                    (Some(ours), None) => assert!(
                        !valid || ours.is_empty() || exception,
                        "{request:?}: {ours:?} {keys:?}"
                    ),
                }
                let Some(user) = &user else { continue };
                let (ours, theirs) = (judged(user, command, request), verdict(&dry, &about));
                // What is not understood is refused, and so are keys of a request that the server takes for wrong.
                let strict = ours == Some(DenyReason::Key)
                    && theirs.is_none()
                    && command.has_keys()
                    && (our_keys.is_none() || their_keys.is_none());
                if ours != theirs {
                    assert!(
                        strict || exception,
                        "{about}: we say {ours:?}, the server {theirs:?}"
                    );
                    odd += usize::from(strict);
                    exceptions += usize::from(exception);
                }
                *reasons.entry(ours).or_default() += 1;
                pairs += 1;
            }
            live.extend(user.map(|user| (name.as_str(), user)));
        }
        // The text both ways: theirs read by us means the same, and from 7.2 on ours is theirs to the letter.
        let lines = replies.next().expect("the list");
        for (name, user) in live {
            let line = lines.array().iter().map(Reply::text);
            let line = line
                .clone()
                .find(|line| line.starts_with(&format!("user {name} ")))
                .expect("listed");
            let rules: Vec<&str> = line.split(' ').collect();
            if rules
                .windows(2)
                .any(|two| two[0].trim_start_matches('(') == "~*" && two[1].starts_with(['~', '%']))
            {
                // `%RW~*` comes back as `~*`, behind which the server itself takes no pattern.
                continue;
            }
            let theirs = rule::parse_file(line).unwrap_or_else(|errors| panic!("{line}: {errors:?}"));
            for command in &known {
                assert_eq!(
                    theirs[0].1.may_run(command),
                    user.may_run(command),
                    "{}: {} after {line}",
                    user.to_rule(),
                    command.name
                );
            }
            if keeps_rules {
                // As all keys, `%RW~*` would permit no pattern behind it; Redis writes it so all the same.
                let ours = user.to_rule().replace("%RW~*", "~*");
                assert_eq!(without_sanitize(&ours), without_sanitize(line));
            }
        }
    }
    println!(
        "{pairs} pairs: {reasons:?}; {refused_lists} lists refused by both; {odd} refused here as not understood; {exceptions} known differences"
    );
    // A generator that only ever denies or permits would prove nothing.
    let share = |reason| reasons.get(&reason).copied().unwrap_or_default();
    assert!(share(None) > pairs / 10, "{reasons:?}");
    for reason in [DenyReason::Command, DenyReason::Key] {
        assert!(share(Some(reason)) > pairs / 20, "{reasons:?}");
    }
    assert!(share(Some(DenyReason::Channel)) > pairs / 200, "{reasons:?}");
    assert!(odd < pairs / 10 && exceptions < pairs / 20, "{odd} {exceptions}");
    assert!(
        refused_lists < pairs / COMMANDS_A_LIST,
        "{refused_lists} lists refused"
    );
}

/// Requests of a command, one of which the server finds keys in: its words are `k0`, `k1`, …, but for a number or an
/// option where the command has one.
fn candidates(command: &Command, arity: i64) -> Vec<Vec<String>> {
    let name: Vec<String> = command.name.split('|').map(str::to_owned).collect();
    // The server's arity: it may be older than the table.
    let length = usize::try_from(arity.unsigned_abs()).expect("small") + if arity < 0 { 2 } else { 0 };
    let filled = |fixed: &[(usize, &str)]| {
        let mut words = name.clone();
        while words.len() < length {
            words.push(format!("k{}", words.len()));
        }
        for (at, word) in fixed {
            if let Some(place) = words.get_mut(*at) {
                *place = (*word).to_owned();
            }
        }
        words
    };
    let special: &[&str] = match command.name {
        "set" => &["set k1 v", "set k1 v GET"],
        "sort" => &["sort k1 STORE k3"],
        "sort_ro" => &["sort_ro k1 ALPHA"],
        "migrate" => &["migrate h 1 k3 0 1"],
        "georadius" => &["georadius k1 1 2 3 m STORE k7"],
        "georadiusbymember" => &["georadiusbymember k1 x 3 m STOREDIST k6"],
        "xread" => &["xread STREAMS k2 k3 0 0"],
        "xreadgroup" => &["xreadgroup GROUP g c STREAMS k5 k6 > >"],
        "bitfield" => &["bitfield k1 GET u8 0", "bitfield k1 SET u8 0 1"],
        _ => &[],
    };
    if special.is_empty() {
        vec![filled(&[(2, "2")]), filled(&[(1, "2")]), filled(&[])]
    } else {
        let split = |text: &&str| text.split(' ').map(str::to_owned).collect();
        special.iter().map(split).collect()
    }
}

#[test]
fn no_key_of_any_command_can_be_forgotten() {
    let mut redis = LiveRedis::start();
    // A number stands where some commands have a count, and is a key of others.
    let rules = |sign: &str| {
        let (names, number) = (format!("{sign}k*"), format!("{sign}2"));
        rule::parse_user("u", &["on", "+@all", &names, &number]).expect("rules")
    };
    let own = rules("~");
    let mut positions = 0;
    let live = live_commands(&mut redis);
    let with_keys: Vec<_> = live.iter().filter(|live| live.has_keys).collect();
    assert!(with_keys.len() > 180);
    for live in with_keys {
        let command = commands()
            .iter()
            .find(|command| command.name == live.name)
            .unwrap_or_else(|| panic!("{}", live.name));
        let mut found = 0;
        for words in candidates(command, live.arity) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            let ask: Vec<&str> = ["COMMAND", "GETKEYSANDFLAGS"]
                .into_iter()
                .chain(live.name.split('|'))
                .chain(words.iter().copied().skip(live.name.split('|').count()))
                .collect();
            let Some(theirs) = their_keys(&redis.call(&ask)).filter(|keys| !keys.is_empty()) else {
                continue;
            };
            found += 1;
            if command.name != "sinterstore" {
                // Its flags differ between versions, not in what they ask for.
                assert_eq!(our_keys(command, &words), Some(theirs.clone()), "{words:?}");
            }
            assert_eq!(judged(&own, command, &words), None, "{words:?}");
            for (key, flags) in theirs {
                positions += 1;
                let evil: Vec<&str> = words
                    .iter()
                    .map(|word| if *word == key { "evil" } else { word })
                    .collect();
                assert_eq!(judged(&own, command, &evil), Some(DenyReason::Key), "{evil:?}");
                let asks = |flag: &str| flags.split('|').any(|have| have == flag);
                let reads = asks("access");
                let writes = asks("insert") || asks("update") || asks("delete");
                let all: Vec<_> = our_keys(command, &words).expect("keys");
                let others_read = all.iter().any(|(_, flags)| flags.contains("access"));
                let refused = |sign| judged(&rules(sign), command, &words).is_some();
                assert!(!writes || refused("%R~"), "{words:?} writes {key}");
                assert!(!(reads || others_read) || refused("%W~"), "{words:?} reads {key}");
            }
        }
        assert!(
            found > 0,
            "the server finds no key in any request of {}",
            live.name
        );
    }
    println!("{positions} positions of keys");
    assert!(positions > 300, "{positions}");
}

#[test]
fn patterns_match_as_in_the_server() {
    let mut random = random();
    let mut redis = LiveRedis::start();
    let alphabet: &[u8] = b"aab-]^[\\*?\xe4\x80\x7f";
    let any = |random: &mut Random, most: usize| -> Vec<u8> {
        (0..random.below(most + 1))
            .map(|_| *random.pick(alphabet))
            .collect()
    };
    let mut texts: Vec<Vec<u8>> = (0..400).map(|_| any(&mut random, 6)).collect();
    texts.sort();
    texts.dedup();
    let sets: Vec<Vec<&[u8]>> = texts
        .iter()
        .map(|text| vec![b"SET" as &[u8], text, b""])
        .collect();
    redis.pipeline(&sets);
    let mut compared = 0;
    let mut matched = 0;
    for _ in 0..20 {
        let patterns: Vec<Vec<u8>> = (0..100).map(|_| any(&mut random, 8)).collect();
        let asked: Vec<Vec<&[u8]>> = patterns
            .iter()
            .map(|pattern| vec![b"KEYS" as &[u8], pattern])
            .collect();
        for (pattern, reply) in patterns.iter().zip(redis.pipeline(&asked)) {
            // A rule is text; a pattern that is none cannot be written.
            let Ok(rule) = std::str::from_utf8(pattern) else {
                continue;
            };
            if *rule == *"*" {
                // KEYS does not ask the pattern then.
                continue;
            }
            let rule = format!("~{rule}");
            let user = rule::parse_user("u", &["on", "+get", &rule]).expect("a pattern");
            let Resolved::Command(get) = resolve(b"get", None) else {
                panic!("get")
            };
            let ours = texts.iter().filter(|text| {
                let bytes = encode(&[b"GET", text]);
                user.check(get, Args::new(&bytes, 2), true).is_ok()
            });
            let ours: Vec<_> = ours
                .map(|text| String::from_utf8_lossy(text).into_owned())
                .collect();
            let mut theirs: Vec<_> = reply.array().iter().map(|key| key.text().to_owned()).collect();
            theirs.sort();
            let mut sorted = ours.clone();
            sorted.sort();
            assert_eq!(sorted, theirs, "{:?}", pattern.escape_ascii().to_string());
            compared += texts.len();
            matched += theirs.len();
        }
    }
    println!("{compared} pairs of pattern and text, {matched} of them match");
    assert!(matched > 1_000 && compared > 100_000, "{matched} {compared}");
}

/// `sanitize-payload` is the default and means something to RESTORE alone: versions differ in when they print it.
fn without_sanitize(line: &str) -> String {
    line.replace(" sanitize-payload", "")
}

#[test]
fn every_single_rule_changes_what_it_changes_in_redis() {
    let mut redis = LiveRedis::start();
    let known = common(&mut redis);
    let rules = known.iter().map(|command| command.name.to_owned());
    let mut rules: Vec<String> = rules
        .chain(Categories::all_names().map(|name| format!("@{name}")))
        .collect();
    let reply = redis.call(&["ACL", "CAT"]);
    let live: Vec<_> = reply
        .array()
        .iter()
        .map(|name| format!("@{}", name.text()))
        .collect();
    rules.retain(|rule| !rule.starts_with('@') || live.contains(rule));
    for rule in rules {
        for sign in ['+', '-'] {
            let base = if sign == '+' { "-@all" } else { "+@all" };
            let rule = format!("{sign}{rule}");
            let words = ["reset", "on", "nopass", "~*", "&*", base, &rule];
            let user = rule::parse_user("u", &words).unwrap_or_else(|error| panic!("{rule}: {error}"));
            let set: Vec<&str> = ["ACL", "SETUSER", "u"].into_iter().chain(words).collect();
            assert_eq!(redis.call(&set), Reply::Text("OK".to_owned()), "{rule}");
            // GETUSER counts nothing; a few commands around the named one say enough in little time.
            let name = rule.trim_start_matches(['+', '-', '@']);
            let container = name.split('|').next().unwrap_or(name);
            let near = |command: &&&Command| {
                command.name.split('|').next() == Some(container)
                    || command.categories.names().any(|category| category == name)
            };
            let askable = |command: &&&Command| {
                command.role != Role::Replication && (!command.container || command.arity == -1)
            };
            for command in known.iter().filter(near).filter(askable) {
                assert_eq!(
                    ours(&user, command),
                    theirs(&mut redis, command),
                    "{rule}: {}",
                    command.name
                );
            }
        }
    }
}

#[test]
fn a_file_written_by_the_server_loads_unchanged_and_is_written_the_same() {
    let mut redis = LiveRedis::start();
    for rules in [
        "alice on >a >b ~* &* +@all -@dangerous +info",
        "bob on nopass ~* resetchannels -@all +@read -keys +client|id",
        "carol off",
        "dave on >x ~* &* +@all -config +config|get skip-sanitize-payload",
        "erin on nopass ~a* %R~b* %W~c?[d-f] resetchannels &news:* &x -@all +@read +set",
        "frank on nopass resetchannels -@all +get",
        "grace on nopass ~own resetchannels -@all +@read (~sum:* resetchannels -@all +set) (%R~* &* +@all -@write)",
        "heidi on nopass resetchannels -@all (+@all ~*)",
    ] {
        let words: Vec<&str> = ["ACL", "SETUSER"].into_iter().chain(rules.split(' ')).collect();
        assert_eq!(redis.call(&words), Reply::Text("OK".to_owned()), "{rules}");
    }
    assert_eq!(redis.call(&["ACL", "SAVE"]), Reply::Text("OK".to_owned()));
    let saved = redis.acl_file();
    let users = rule::parse_file(&saved).expect("the server's own file");
    assert_eq!(users.len(), 9);
    for ((line, user), text) in users.iter().zip(saved.lines()) {
        assert_eq!(
            without_sanitize(&user.to_rule()),
            without_sanitize(text),
            "line {line}"
        );
    }
}

#[test]
fn presets_deny_upstream_what_they_deny_here() {
    // The rules of a preset are Redis rules but for the argument rules: a server with the same lines gives the same verdicts.
    let mut redis = LiveRedis::start();
    let known = common(&mut redis);
    for preset in keyward::acl::Preset::ALL {
        let mut set: Vec<String> = [
            "ACL", "SETUSER", "u", "reset", "on", "nopass", "~*", "&*", "+@all",
        ]
        .map(str::to_owned)
        .into();
        for entry in preset.entries() {
            let rule = match entry.effect {
                keyward::acl::Effect::Block(name) => format!("-{name}"),
                keyward::acl::Effect::Allow(name) => format!("+{name}"),
                keyward::acl::Effect::Restrict(_) => continue,
            };
            // What an older server does not know it cannot be told to refuse.
            if known.iter().any(|command| command.name == &rule[1..]) {
                set.push(rule);
            }
        }
        let set: Vec<&str> = set.iter().map(String::as_str).collect();
        assert_eq!(redis.call(&set), Reply::Text("OK".to_owned()));
        let user = rule::parse_user("u", &[preset.name()]).expect("a preset is a rule");
        for command in known.iter().filter(|command| command.role != Role::Replication) {
            if command.container && command.arity != -1 {
                continue;
            }
            assert_eq!(
                ours(&user, command),
                theirs(&mut redis, command),
                "{}: {}",
                preset.name(),
                command.name
            );
        }
    }
}
