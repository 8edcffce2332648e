use proptest::prelude::*;

use super::*;
use crate::acl::{commands, resolve};

const ZERO: &str = "#0000000000000000000000000000000000000000000000000000000000000000";
/// SHA-256 of `secret`.
const SECRET: &str = "#2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b";

fn words(rules: &str) -> Vec<&str> {
    rules.split(' ').collect()
}

fn user(rules: &str) -> User {
    parse_user("u", &words(rules)).unwrap()
}

fn refused(rules: &str) -> RuleError {
    parse_user("u", &words(rules)).unwrap_err()
}

fn permits(rules: &str, command: &str) -> bool {
    let command = lookup::by_rule_name(command).unwrap();
    user(rules).access.commands.contains(command.id)
}

#[test]
fn rules_count_from_left_to_right() {
    let cases: &[(&str, &str, bool)] = &[
        ("~* +get", "get", true),
        ("~* +GET", "get", true),
        ("~* +get -get", "get", false),
        ("~* -get +get", "get", true),
        ("~* +@all -get +get", "get", true),
        ("~* +@all -get -get", "get", false),
        ("~* +get -@all", "get", false),
        ("~* allcommands nocommands", "get", false),
        ("~* nocommands ALLCOMMANDS", "get", true),
        ("~* +@read -@string", "get", false),
        ("~* -@string +@read", "get", true),
        ("~* +@READ", "get", true),
        ("~* +@read -@read +get", "get", true),
        ("~* -config +config|get", "config|get", true),
        ("~* -config +config|get", "config|set", false),
        ("~* -config +config|get", "config", false),
        ("~* +config", "config|get", true),
        ("~* +config -config|set", "config|get", true),
        ("~* +config -config|set", "config|set", false),
        ("~* +config|get -config", "config|get", false),
        ("~* +CONFIG|Get", "config|get", true),
        // A category holds subcommands of its own; a container in it brings all of them.
        ("~* +@admin", "config|set", true),
        ("~* +@admin", "config", false),
        ("~* +@all -@slow", "config|set", false),
        ("~* +@json", "json.set", true),
        ("~* +@all", "vadd", true),
        ("~* +@write +@fast +@slow", "vadd", false),
        ("~* +vadd", "vadd", true),
        ("safe", "flushall", false),
        ("safe +flushall", "flushall", true),
        ("Safe", "get", true),
        ("strict +eval", "eval", true),
        ("safe -@all", "get", false),
    ];
    for (rules, command, expected) in cases {
        assert_eq!(permits(rules, command), *expected, "{rules}: {command}");
    }
}

#[test]
fn login_rules_do_what_redis_does() {
    let same = user("on >secret");
    assert!(same.enabled && !same.nopass);
    assert_eq!(format!("#{}", hex(&same.passwords[0])), SECRET);
    assert_eq!(
        user(&format!("on >secret {SECRET}")).passwords.len(),
        1,
        "the same password counts once"
    );
    assert_eq!(
        user("on >secret >other <secret").passwords,
        [hash_password(b"other")]
    );
    assert_eq!(
        user(&format!(">secret >other !{}", &SECRET[1..])).passwords.len(),
        1
    );
    assert_eq!(
        user(">").passwords,
        [hash_password(b"")],
        "Redis takes an empty password, and so it is one"
    );
    let open = user(">secret nopass");
    assert!(open.nopass && open.passwords.is_empty());
    assert!(!user("nopass >secret").nopass);
    assert!(!user("nopass resetpass").nopass);
    assert!(user(">a >b resetpass").passwords.is_empty());
    assert!(!user("on off").enabled);
    assert!(user("OFF oN").enabled);
    let reset = user("on >secret ~* &* +@all reset");
    assert_eq!(reset.to_rule(), "user u off sanitize-payload resetchannels -@all");
    assert!(user("safe").enabled && !user("safe off").enabled);
}

#[test]
fn unrestricting_rules_are_taken_and_empty_words_are_nothing() {
    let user = parse_user(
        "u",
        &[
            "on",
            "",
            "AllKeys",
            "allChannels",
            "clearselectors",
            "alldbs",
            "+get",
        ],
    )
    .unwrap();
    assert!(user.access.all_keys && user.access.all_channels);
    assert!(parse_user("u", &[]).is_ok());
}

#[test]
fn patterns_and_selectors_are_written_as_they_were_given() {
    let cases: &[(&str, &str)] = &[
        ("~a ~b ~a", "user u off ~a ~b resetchannels -@all"),
        (
            "%R~a %W~b %RW~c %wr~d",
            "user u off %R~a %W~b ~c ~d resetchannels -@all",
        ),
        ("%R~a ~b %W~a", "user u off ~a ~b resetchannels -@all"),
        ("~a ~*", "user u off ~* resetchannels -@all"),
        ("~* resetkeys ~a", "user u off ~a resetchannels -@all"),
        // As all keys it would permit no pattern behind it.
        ("%RW~* ~a", "user u off %RW~* ~a resetchannels -@all"),
        ("~ &", "user u off ~ resetchannels & -@all"),
        ("&a &b &a", "user u off resetchannels &a &b -@all"),
        ("&a &* ", "user u off &* -@all"),
        ("&* resetchannels &a", "user u off resetchannels &a -@all"),
        (
            "(+get ~a)",
            "user u off resetchannels -@all (~a resetchannels -@all +get)",
        ),
        (
            "( ~a +get )  on ()",
            "user u on resetchannels -@all (~a resetchannels -@all +get) (resetchannels -@all)",
        ),
        (
            "on ~* (+@all -set %R~x allchannels)",
            "user u on ~* resetchannels -@all (%R~x &* +@all -set)",
        ),
        (
            "(+get) clearselectors (+set)",
            "user u off resetchannels -@all (resetchannels -@all +set)",
        ),
        ("(+get) reset", "user u off sanitize-payload resetchannels -@all"),
        ("safe resetkeys ~a:*", "user u safe on resetkeys ~a:* &*"),
        ("safe resetchannels &a", "user u safe on ~* resetchannels &a"),
    ];
    for (rules, expected) in cases {
        assert_eq!(user(rules).to_rule(), *expected, "{rules}");
        let again = parse_file(expected).unwrap();
        assert_eq!(again[0].1, user(rules), "{rules}");
    }
}

#[test]
fn what_cannot_be_enforced_is_refused_with_its_reason() {
    let cases: &[(&str, &str)] = &[
        ("on %~a +get", "a key pattern is written"),
        ("on %R +get", "a key pattern is written"),
        ("on %RR~a +get", "a key pattern is written"),
        ("on %X~a +get", "a key pattern is written"),
        ("~* ~a +get", "behind '~*'"),
        ("~* %R~a +get", "behind '~*'"),
        ("&* &a +get", "behind '&*'"),
        ("~a ~b\x0bc", "no blanks"),
        ("on (+get ~a", "never closed"),
        ("on (on)", "parentheses hold rules about"),
        ("on (>secret)", "parentheses hold rules about"),
        ("on (safe)", "parentheses hold rules about"),
        ("on ((+get))", "parentheses hold rules about"),
        ("on (~\"a\")", "quotes"),
        ("on (~a))", "quotes"),
        ("on (~* ~a)", "behind '~*'"),
        ("on resetdbs +get", "database"),
        ("on db=0 +get", "database"),
        ("~* +select|0", "first argument"),
        ("~* +get|x", "first argument"),
    ];
    for (rules, expected) in cases {
        let error = refused(rules);
        assert!(error.message.contains(expected), "{rules}: {error}");
    }
    assert_eq!(refused("on (+get +gett)").word_index, 2);
    assert_eq!(refused("on (+get ~a").word_index, 1);
    assert_eq!(
        refused("on (+get ~a* +st) (+set) ~b").suggestion.as_deref(),
        Some("+set")
    );
    assert_eq!(refused("~* ~a").suggestion.as_deref(), Some("resetkeys"));
    assert_eq!(refused("&* &a").suggestion.as_deref(), Some("resetchannels"));
}

#[test]
fn a_user_who_may_touch_no_key_is_told_so_where_rules_are_written_by_hand() {
    let said = |rules: &str| without_keys(&user(rules), words(rules).len());
    let error = said("on +get").unwrap();
    assert!(
        error
            .message
            .starts_with("this user may run 'get' but touch no key"),
        "{error}"
    );
    assert_eq!((error.word_index, error.suggestion.as_deref()), (2, Some("~*")));
    assert!(said("on (+get)").is_some());
    for rules in [
        "off +get",
        "on +ping",
        "on ~a +get",
        "on +get (~a +get)",
        "on +ping (~a +get)",
    ] {
        assert!(said(rules).is_none(), "{rules}");
    }
}

#[test]
fn mistakes_are_named_with_what_was_meant() {
    let cases: &[(&str, usize, &str, Option<&str>)] = &[
        ("~* +gett", 1, "unknown command 'gett'", Some("+get")),
        ("~* -flushal", 1, "unknown command 'flushal'", Some("-flushall")),
        (
            "~* +config|sett",
            1,
            "unknown command 'config|sett'",
            Some("+config|set"),
        ),
        (
            "~* -select|0",
            1,
            "'select' has no subcommands, and rules about a first argument are not supported",
            None,
        ),
        (
            "~* +@dangerus",
            1,
            "unknown category '@dangerus'",
            Some("+@dangerous"),
        ),
        ("~* -@", 1, "unknown category '@'", None),
        ("~* +", 1, "unknown command ''", None),
        (
            "~* +config|",
            1,
            "the subcommand behind 'config|' is missing",
            None,
        ),
        (
            "~* +select|",
            1,
            "the subcommand behind 'select|' is missing",
            None,
        ),
        (
            "~* +config|get|x",
            1,
            "'config|get' is a subcommand already; there is no third level",
            None,
        ),
        ("~* +nope|x", 1, "unknown command 'nope|x'", None),
        ("noopass", 0, "this is no rule", Some("nopass")),
        ("on xyzzy", 1, "this is no rule", None),
        ("on safe", 1, "the preset 'safe' must be the first rule", None),
        (
            "#ABCD",
            0,
            "a password digest is 64 lower-case hexadecimal digits",
            None,
        ),
        (
            "on <secret",
            1,
            "the password to be removed is not one of this user's",
            None,
        ),
    ];
    for (rules, index, message, suggestion) in cases {
        let error = refused(rules);
        assert_eq!(error.word_index, *index, "{rules}");
        assert!(error.message.starts_with(message), "{rules}: {error}");
        assert_eq!(error.suggestion.as_deref(), *suggestion, "{rules}");
        assert_eq!(error.position, None);
    }
    let upper = SECRET.to_ascii_uppercase();
    assert!(refused(&upper).message.contains("64 lower-case"));
    assert!(
        refused(&format!("#{}é", &SECRET[3..]))
            .message
            .contains("64 lower-case")
    );
}

#[test]
fn messages_never_quote_what_could_be_a_password() {
    for rules in [
        "on hunter2",
        "on hunter2!",
        "on #hunter2",
        "on <hunter2",
        "on !hunter2",
        "on (hunter2",
        "on (hunter2)",
        "on (>hunter2)",
        "on db=hunter2",
        "on %hunter2",
        "on ~* ~hunter2",
        "on &* &hunter2",
    ] {
        let error = refused(rules);
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[test]
fn all_errors_of_a_user_come_at_once() {
    let errors = parse_user_all("u", &words("on +gett %a* +set nopas")).unwrap_err();
    assert_eq!(
        errors.iter().map(|error| error.word_index).collect::<Vec<_>>(),
        [1, 2, 4]
    );
}

#[test]
fn user_names_are_fit_for_labels() {
    for name in ["", "a b", "a\tb", "a\0b", "a\x1bb", "a\u{a0}b"] {
        assert!(parse_user(name, &["on"]).is_err(), "{name:?}");
    }
    assert!(parse_user("späti-1", &["on"]).is_ok());
}

#[test]
fn rules_are_written_as_redis_writes_them() {
    let cases: &[(&str, &str)] = &[
        ("on nopass ~* &* +@all", "user u on nopass ~* &* +@all"),
        (
            "allkeys +get -GET +config|GET -@all +@Read -get",
            "user u off ~* resetchannels -@all +@read -get",
        ),
        (
            "~* +get +config|get +config",
            "user u off ~* resetchannels -@all +get +config",
        ),
        (
            "~* +getdel +get -get",
            "user u off ~* resetchannels -@all +getdel -get",
        ),
        (
            "~* +config -config|set +config|set",
            "user u off ~* resetchannels -@all +config +config|set",
        ),
        ("safe -get +@all -set", "user u on ~* &* +@all -set"),
        ("safe -get", "user u safe on ~* &* -get"),
        (
            "strict off resetkeys resetchannels",
            "user u strict off resetkeys resetchannels",
        ),
        (
            "skip-sanitize-payload",
            "user u off skip-sanitize-payload resetchannels -@all",
        ),
    ];
    for (rules, expected) in cases {
        assert_eq!(user(rules).to_rule(), *expected, "{rules}");
    }
    assert_eq!(
        user("on >secret").to_rule(),
        format!("user u on {SECRET} resetchannels -@all")
    );
}

#[test]
fn files_give_users_with_their_lines() {
    let text = format!(
        "user default off\r\n\n  \t \nuser app on {SECRET} ~* &* +@all  -@dangerous\n\tuser job safe {ZERO}\t\n"
    );
    let users = parse_file(&text).unwrap();
    let found: Vec<_> = users
        .iter()
        .map(|(line, user)| (*line, user.name.as_str()))
        .collect();
    assert_eq!(found, [(1, "default"), (4, "app"), (5, "job")]);
    assert_eq!(users[2].1.passwords, [[0; 32]]);
    assert_eq!(parse_file("").unwrap(), []);
}

#[test]
fn every_error_of_a_file_comes_with_line_and_column() {
    let text =
        "user a on ~*  +gett\n# comment\nusr b on\nuser a off\n  user c %~x\nUSER d on\nuser\nuser  e on";
    let errors = parse_file(text).unwrap_err();
    let found: Vec<_> = errors
        .iter()
        .map(|error| (error.position.unwrap(), error.message.as_str()))
        .collect();
    let expected = [
        ((1, 15), "unknown command 'gett'"),
        ((2, 1), "ACL files have no comments"),
        ((3, 1), "a line begins with 'user' and a name"),
        ((4, 6), "a user is defined once; 'a' has a line above"),
        ((5, 10), "a key pattern is written"),
        ((6, 1), "a line begins with 'user' and a name"),
        ((7, 1), "a line begins with 'user' and a name"),
        ((8, 6), "a user name must not be empty"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for ((at, message), (expected_at, expected_message)) in found.iter().zip(&expected) {
        assert_eq!(at, expected_at, "{message}");
        assert!(message.starts_with(expected_message), "{message}");
    }
    let duplicate = parse_file("user a on\nuser a off").unwrap_err();
    assert_eq!(duplicate[0].position, Some((2, 6)));
    assert_eq!(
        duplicate[0].to_string(),
        "2:6: a user is defined once; 'a' has a line above"
    );
}

#[test]
fn edit_distance_is_levenshtein() {
    for (a, b, expected) in [
        ("", "", 0),
        ("get", "get", 0),
        ("gett", "get", 1),
        ("kyes", "keys", 2),
        ("a", "abcd", usize::MAX),
    ] {
        assert_eq!(edits(a, b), expected, "{a} {b}");
    }
}

/// Any word of the language that is accepted, in any case.
fn any_word() -> impl Strategy<Value = String> {
    let command = (any::<bool>(), 0..commands().len())
        .prop_map(|(plus, at)| format!("{}{}", if plus { '+' } else { '-' }, commands()[at].name));
    let categories: Vec<_> = Categories::all_names().collect();
    let category = (any::<bool>(), proptest::sample::select(categories))
        .prop_map(|(plus, name)| format!("{}@{name}", if plus { '+' } else { '-' }));
    let keyword = proptest::sample::select(
        KEYWORDS
            .iter()
            .filter(|w| Preset::by_name(w).is_none())
            .collect::<Vec<_>>(),
    )
    .prop_map(|word| (*word).to_owned());
    let password = proptest::sample::select(vec![">a", ">b", ">", "+@all", "-@all"]).prop_map(str::to_owned);
    (
        prop_oneof![6 => command, 4 => category, 1 => keyword, 1 => password],
        any::<bool>(),
    )
        .prop_map(|(word, upper)| if upper { word.to_ascii_uppercase() } else { word })
}

/// Patterns of keys and channels, which take nothing back.
fn any_pattern() -> impl Strategy<Value = String> {
    let sign = proptest::sample::select(vec!["~", "%R~", "%W~", "%RW~", "%r~", "&"]);
    (sign, "[a-c*?\\[\\]()%~&+@|\\\\]{0,4}").prop_map(|(sign, pattern)| format!("{sign}x{pattern}x"))
}

/// A selector, as one word or several.
fn any_selector() -> impl Strategy<Value = Vec<String>> {
    let commands = proptest::sample::select(vec![
        "+get",
        "-@read",
        "+@all",
        "+config|get",
        "allkeys resetkeys",
    ]);
    proptest::collection::vec(prop_oneof![any_pattern(), commands.prop_map(str::to_owned)], 0..4).prop_map(
        |words| {
            format!("({})", words.join(" "))
                .split(' ')
                .map(str::to_owned)
                .collect()
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(
        preset in proptest::sample::select(vec!["", "safe", "strict"]),
        rules in proptest::collection::vec(any_word(), 0..12),
        patterns in proptest::collection::vec(any_pattern(), 0..4),
        selectors in proptest::collection::vec(any_selector(), 0..3),
    ) {
        let reset = ["resetkeys", "resetchannels"];
        let words: Vec<&str> = std::iter::once(preset)
            .chain(rules.iter().map(String::as_str))
            .chain(reset)
            .chain(patterns.iter().map(String::as_str))
            .chain(selectors.iter().flatten().map(String::as_str))
            .collect();
        let user = parse_user("u", &words).unwrap();
        let text = user.to_rule();
        prop_assert_eq!(&parse_file(&text).unwrap()[0].1, &user, "{}", text);
    }

    #[test]
    fn no_text_panics(text in "(user |on|~|\\+|-|@|#|\\||get|config|\\PC|[ \t\r\n\0(])*") {
        let _ = parse_file(&text);
    }

    #[test]
    fn no_words_of_a_request_panic(name in proptest::collection::vec(any::<u8>(), 0..40), sub in proptest::collection::vec(any::<u8>(), 0..40)) {
        let _ = resolve(&name, Some(&sub));
        let _ = resolve(&name, None);
    }
}
