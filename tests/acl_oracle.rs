//! Random rules and random commands: our verdict is that of `ACL DRYRUN` on a live server.
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

use keyward::acl::{Categories, Command, DenyReason, Role, User, commands, rule};
use keyward::resp::Args;
use live_redis::{LiveRedis, Reply, Server, live_commands};

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

fn ours(user: &User, command: &Command) -> Option<DenyReason> {
    let mut bytes = Vec::new();
    let words = request(command);
    bytes.extend(format!("*{}\r\n", words.len()).bytes());
    for word in &words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    let args = Args::new(&bytes, u32::try_from(words.len()).expect("small"));
    user.check(command, args, true).err().map(|denied| denied.reason)
}

/// The server's verdict: `OK`, or a sentence that differs between versions but for these words.
fn theirs(redis: &mut LiveRedis, command: &Command) -> Option<DenyReason> {
    let mut words = vec!["ACL", "DRYRUN", "u"];
    words.extend(request(command));
    let reply = redis.call(&words);
    let Reply::Text(text) = &reply else {
        panic!("{}: {reply:?}", command.name)
    };
    match text.as_str() {
        "OK" => None,
        text if text.contains("no permissions to run") => Some(DenyReason::Command),
        text if text.contains("channel") => Some(DenyReason::Channel),
        text if text.contains("key") => Some(DenyReason::Key),
        text => panic!("{}: {text}", command.name),
    }
}

fn listed(redis: &mut LiveRedis) -> String {
    let reply = redis.call(&["ACL", "LIST"]);
    let line = reply
        .array()
        .iter()
        .map(Reply::text)
        .find(|line| line.starts_with("user u "));
    line.expect("the user is listed").to_owned()
}

#[test]
fn verdicts_are_those_of_acl_dryrun() {
    let mut random = random();
    let mut redis = LiveRedis::start();
    let known = common(&mut redis);
    // HTTP words and replication are refused here whatever the rules say: a documented difference, tested elsewhere.
    let askable: Vec<&Command> = known
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

    let (mut pairs, mut denied, mut refused_lists) = (0, 0, 0);
    while pairs < wanted {
        let rules: Vec<String> = (0..=random.below(9))
            .map(|_| any_rule(&mut random, &known, &categories))
            .collect();
        let mut words = vec!["reset", "on", "nopass", "~*"];
        words.push(if random.chance(4) { "resetchannels" } else { "&*" });
        words.extend(rules.iter().map(String::as_str));

        let parsed = rule::parse_user("u", &words);
        let mut set = vec!["ACL", "SETUSER", "u"];
        set.extend(&words);
        let answer = redis.call(&set);
        let user = match (parsed, answer) {
            (Ok(user), Reply::Text(_)) => user,
            (Err(_), Reply::Error(_)) => {
                refused_lists += 1;
                continue;
            }
            (parsed, answer) => panic!("{words:?}: we say {parsed:?}, the server {answer:?}"),
        };

        // The text both ways: theirs read by us means the same, and from 7.2 on ours is theirs to the letter.
        let line = listed(&mut redis);
        let theirs_read = rule::parse_file(&line).unwrap_or_else(|errors| panic!("{line}: {errors:?}"));
        for command in &known {
            assert_eq!(
                theirs_read[0].1.may_run(command),
                user.may_run(command),
                "{words:?}: {} after {line}",
                command.name
            );
        }
        if keeps_rules {
            assert_eq!(
                without_sanitize(&user.to_rule()),
                without_sanitize(&line),
                "{words:?}"
            );
        }

        for _ in 0..COMMANDS_A_LIST {
            let command = random.pick(&askable);
            let (ours, theirs) = (ours(&user, command), theirs(&mut redis, command));
            assert_eq!(ours, theirs, "{words:?}: {}", command.name);
            denied += usize::from(ours.is_some());
            pairs += 1;
        }
    }
    println!("{pairs} pairs equal, {denied} of them denied; {refused_lists} lists refused by both");
    // A generator that only ever denies or permits would prove nothing.
    assert!(
        denied > pairs / 10 && denied < pairs * 9 / 10,
        "{denied} of {pairs} denied"
    );
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
fn a_list_written_by_the_server_loads_whole() {
    let mut redis = LiveRedis::start();
    for rules in [
        "alice on >a >b ~* &* +@all -@dangerous +info",
        "bob on nopass ~* resetchannels -@all +@read -keys +client|id",
        "carol off",
        "dave on >x ~* &* +@all -config +config|get skip-sanitize-payload",
    ] {
        let words: Vec<&str> = ["ACL", "SETUSER"].into_iter().chain(rules.split(' ')).collect();
        assert_eq!(redis.call(&words), Reply::Text("OK".to_owned()), "{rules}");
    }
    let reply = redis.call(&["ACL", "LIST"]);
    let lines: Vec<&str> = reply.array().iter().map(Reply::text).collect();
    let users = rule::parse_file(&lines.join("\n")).expect("the server's own list");
    assert_eq!(users.len(), 5);
    for ((_, user), line) in users.iter().zip(lines) {
        assert_eq!(without_sanitize(&user.to_rule()), without_sanitize(line));
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
