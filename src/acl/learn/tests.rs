use proptest::prelude::*;

use super::*;
use crate::acl::{Resolved, User, commands, resolve, rule};
use crate::resp::encode;

fn request(words: &[&[u8]]) -> bytes::BytesMut {
    let mut bytes = bytes::BytesMut::new();
    encode::request(&mut bytes, words);
    bytes
}

fn command(words: &[&[u8]]) -> Option<&'static Command> {
    match resolve(words[0], words.get(1).copied()) {
        Resolved::Command(command) => Some(command),
        Resolved::Container(_) | Resolved::Unknown => None,
    }
}

fn see(learned: &mut Learned, words: &[&[u8]]) {
    let bytes = request(words);
    let args = Args::new(&bytes, u32::try_from(words.len()).unwrap());
    learned.see(command(words).unwrap(), args);
}

fn line(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

/// The words of the rule behind `-@all`, and the notes.
fn learn(lines: &[&str]) -> (String, Vec<String>) {
    let mut learned = Learned::default();
    for words in lines {
        see(&mut learned, &line(words));
    }
    let (rule, notes) = learned.to_rule("app");
    let begin = "user app on resetchannels -@all ";
    (rule.strip_prefix(begin).unwrap().to_owned(), notes)
}

fn user(rule: &str) -> User {
    rule::parse_file(rule).unwrap().remove(0).1
}

fn permits(user: &User, words: &[&[u8]]) -> bool {
    let bytes = request(words);
    let args = Args::new(&bytes, u32::try_from(words.len()).unwrap());
    command(words).is_some_and(|command| user.check(command, args, true).is_ok())
}

#[test]
fn reading_and_writing_are_told_apart_by_prefix() {
    let seen = [
        "GET user:1",
        "GET user:2:name",
        "SET page/a x",
        "INCR n:1",
        "GET both:1",
        "SET both:2 x",
    ];
    let (rule, notes) = learn(&seen);
    assert_eq!(rule, "~both:* ~n:* %R~user:* %W~page/* +get +incr +set");
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn a_name_without_separator_stands_for_itself_and_odd_bytes_for_any() {
    assert_eq!(learn(&["GET counter"]).0, "%R~counter +get");
    assert_eq!(learn(&["GET a*b?c[d:1"]).0, "%R~a?b?c?d:* +get");
    assert_eq!(learn(&["GET {tag}:1"]).0, "%R~{* +get");
    assert_eq!(learn(&["GET caf\u{e9}"]).0, "%R~caf?? +get");
    let long = format!("GET {}", "x".repeat(100));
    assert_eq!(learn(&[&long]).0, format!("%R~{}* +get", "x".repeat(64)));
}

#[test]
fn channels_are_learned_by_prefix_and_patterns_as_they_stand() {
    let seen = ["PUBLISH news:1 x", "PSUBSCRIBE log.[ab]*", "SUBSCRIBE news:2"];
    assert_eq!(
        learn(&seen).0,
        "&log.[ab]* &news:* +psubscribe +publish +subscribe"
    );
}

#[test]
fn too_many_beginnings_become_a_star_and_are_told() {
    let seen: Vec<String> = (0..=MOST_PATTERNS).map(|n| format!("GET k{n}")).collect();
    let seen: Vec<&str> = seen.iter().map(String::as_str).chain(["SET a:1 x"]).collect();
    let (rule, notes) = learn(&seen);
    assert_eq!(rule, "%R~* %W~a:* +get +set");
    assert_eq!(notes.len(), 1);
    assert_eq!(learn(&seen[1..]).1.len(), 0);
}

#[test]
fn keys_that_cannot_be_told_take_all_keys() {
    let (rule, notes) = learn(&["FT.SEARCH idx *", "GET a:1"]);
    assert_eq!(rule, "~* +get +ft.search");
    assert!(notes[0].contains("ft.search"), "{notes:?}");
    assert_eq!(learn(&["SORT a:1 BY w:*"]).0, "%R~* +sort");
}

#[test]
fn databases_are_a_note() {
    let (_, notes) = learn(&["SELECT 3", "COPY a:1 a:2 DB 1"]);
    assert!(notes[0].starts_with("databases = [1, 3]"), "{notes:?}");
    assert!(notes[1].starts_with("+copy permits arguments"), "{notes:?}");
    assert!(learn(&["FLUSHALL"]).1[0].contains("all databases"));
    assert!(learn(&["SELECT x"]).1.is_empty());
}

#[test]
fn a_container_that_is_a_command_gives_nothing_more() {
    let (rule, _) = learn(&["COMMAND", "COMMAND COUNT"]);
    let user = user(&format!("user app on {rule}"));
    assert!(permits(&user, &line("COMMAND")) && permits(&user, &line("COMMAND COUNT")));
    assert!(!permits(&user, &line("COMMAND DOCS")));
}

#[test]
fn a_request_in_pieces_is_learned_like_a_whole_one() {
    let words: Vec<&[u8]> = vec![b"MSET", b"a:1", &[b'x'; 300], b"b:1", b"y"];
    let bytes = request(&words);
    let mut whole = Learned::default();
    see(&mut whole, &words);
    for cut in 20..bytes.len() {
        let mut late = LateLearning::new(command(&words).unwrap(), Args::new(&bytes[..cut], 5));
        late.feed(&bytes[cut..]);
        let mut found = Learned::default();
        found.merge(&late.finish());
        assert_eq!(found.to_rule("app"), whole.to_rule("app"), "cut at {cut}");
    }
}

/// Words that mean something to many commands, keys of all kinds, and nonsense.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "a:1", "a:2", "b/c", "x", "", "0", "1", "2", "3", "-1", "GET", "STORE", "BY", "w:*", "STREAMS",
        "KEYS", "COPY", "REPLACE", "DB", "LIMIT", "COUNT", "BLOCK", "GROUP", "EX", "NX", "overflow",
        "news.*", "{t}a", "a b", "\\", "(", ")", "\"", "'",
    ];
    prop_oneof![
        8 => proptest::sample::select(known.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..90),
    ]
}

fn a_request() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let names: Vec<&'static str> = (commands().iter())
        .filter(|command| {
            !matches!(
                command.role,
                crate::acl::Role::Replication | crate::acl::Role::Http
            )
        })
        .filter(|command| !command.container || command.accepts(1))
        .map(|command| command.name)
        .collect();
    let few = [
        "get",
        "set",
        "mset",
        "sort",
        "xread",
        "eval",
        "copy",
        "bitfield",
        "georadius",
        "migrate",
        "psubscribe",
    ];
    let name = prop_oneof![
        proptest::sample::select(names),
        proptest::sample::select(few.to_vec())
    ];
    (name, proptest::collection::vec(word(), 0..8)).prop_map(|(name, arguments)| {
        let words = name.split('|').map(|word| word.as_bytes().to_vec());
        words.chain(arguments).collect()
    })
}

proptest! {
    #[test]
    fn what_was_seen_is_permitted_and_what_was_not_is_refused(
        requests in proptest::collection::vec(a_request(), 1..12),
        split in 0_usize..12,
    ) {
        // As if two workers had seen a part each.
        let (mut one, mut two) = (Learned::default(), Learned::default());
        let mut seen = BTreeSet::new();
        for (index, words) in requests.iter().enumerate() {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            // `COMMAND x` names no command.
            let Some(command) = command(&words) else { continue };
            see(if index < split { &mut one } else { &mut two }, &words);
            seen.insert(command.name);
        }
        one.merge(&two);
        let (rule, _) = one.to_rule("app");
        let user = user(&rule);
        for words in &requests {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            if command(&words).is_some() {
                prop_assert!(permits(&user, &words), "{rule} refuses {words:?}");
            }
        }
        for command in commands() {
            let free = command.always_allowed || command.container && !command.accepts(1);
            if !free && !seen.contains(command.name) {
                prop_assert!(!user.may_run(command), "{rule} permits {}", command.name);
            }
        }
    }
}
