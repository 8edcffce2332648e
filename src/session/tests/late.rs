//! Requests that are judged while they pass, and what new rules mean for old state.

use super::*;

/// The head of a request, as much as these bytes.
fn head<'a>(words: usize, bytes: &'a [u8]) -> Request<'a> {
    Request {
        args: Args::new(bytes, u32::try_from(words).unwrap()),
        whole: false,
        unsent: false,
    }
}

#[test]
fn a_request_whose_keys_come_late_is_held_then_judged_as_it_passes() {
    let mut talk = Talk::known("on +@all ~own:*");
    talk.says("GET own:1");
    talk.sent();
    let first = b"*5\r\n$4\r\nMSET\r\n$5\r\nown:1\r\n$3\r\n";
    let ask = |talk: &mut Talk| {
        let action = talk.session.request(head(5, first), &mut talk.client, &mut None);
        talk.act(action, first)
    };
    assert_eq!(ask(&mut talk), Last::Hold);
    // What is outstanding must not be lost with the lane.
    assert_eq!(ask(&mut talk), Last::Wait);
    talk.redis("$-1\r\n").unwrap();
    assert_eq!(talk.heard(), "$-1\r\n");
    assert_eq!(ask(&mut talk), Last::Forwarded);
    assert_eq!(talk.session.body(b"abc\r\n$5\r\now", false, &mut None), Ok(()));
    assert_eq!(talk.session.body(b"n:2\r\n$1\r\nx\r\n", true, &mut None), Ok(()));
    talk.redis("+OK\r\n").unwrap();
    assert_eq!(talk.heard(), "+OK\r\n");
    // The next is a request like any other.
    assert_eq!(ask(&mut talk), Last::Hold);
    talk.says("GET other");
    assert_eq!(talk.heard(), "-NOPERM No permissions to access a key\r\n");
}

#[test]
fn a_late_refusal_is_answered_in_step_and_the_session_goes_on_if_it_can() {
    for (before, goes_on) in [("GET own:1", true), ("WATCH own:1", false), ("MULTI", false)] {
        let mut talk = Talk::known("on +@all ~own:*");
        talk.says(before);
        talk.redis("+OK\r\n").unwrap();
        talk.heard();
        let first = b"*5\r\n$4\r\nMSET\r\n$5\r\nown:1\r\n$3\r\n";
        for expected in [Last::Hold, Last::Forwarded] {
            let action = talk.session.request(head(5, first), &mut talk.client, &mut None);
            assert_eq!(talk.act(action, first), expected, "{before}");
        }
        let denied = talk
            .session
            .body(b"abc\r\n$5\r\nother\r\n$1", false, &mut None)
            .unwrap_err();
        assert_eq!((denied.command, denied.argument), ("mset", 3));
        talk.session.late_denied(&denied, &mut talk.client);
        assert_eq!(
            talk.heard(),
            "-NOPERM No permissions to access a key\r\n",
            "{before}"
        );
        assert!(talk.session.is_settled());
        assert_eq!(talk.session.closing().is_none(), goes_on, "{before}");
    }
}

#[test]
fn a_key_that_is_too_long_to_be_kept_is_refused_before_it_comes() {
    let mut talk = Talk::known("on +@all ~*a ~b*");
    let first = b"*2\r\n$3\r\nGET\r\n$1048577\r\n";
    for expected in [Last::Hold, Last::Answered] {
        let action = talk.session.request(head(2, first), &mut talk.client, &mut None);
        assert_eq!(talk.act(action, first), expected);
    }
    assert_eq!(talk.heard(), "-NOPERM No permissions to access a key\r\n");
    assert_eq!(talk.sent(), "");
}

#[test]
fn a_head_that_is_refused_is_refused_at_once() {
    let mut talk = Talk::known("on +@all ~own:*");
    let first = b"*5\r\n$4\r\nMSET\r\n$5\r\nother\r\n$3\r\n";
    let mut note = None;
    let action = talk.session.request(head(5, first), &mut talk.client, &mut note);
    assert_eq!(talk.act(action, first), Last::Answered);
    assert_eq!(talk.heard(), "-NOPERM No permissions to access a key\r\n");
    assert!(matches!(note, Some(Note::Denied(denied)) if denied.reason == acl::DenyReason::Key));
    // A wrong number of arguments is said first, as in Redis.
    talk.says("GET other more");
    assert_eq!(
        talk.heard(),
        "-ERR wrong number of arguments for 'get' command\r\n"
    );
    // And who may touch everything is never asked to wait.
    let mut talk = Talk::known("on +@all ~*");
    let action = talk.session.request(head(5, first), &mut talk.client, &mut note);
    assert_eq!(talk.act(action, first), Last::Forwarded);
    assert_eq!(
        talk.session
            .body(b"abc\r\n$5\r\nother\r\n$1\r\nx\r\n", true, &mut None),
        Ok(())
    );
}

#[test]
fn new_rules_are_asked_about_every_channel_and_the_database() {
    let users = |rules: &str, databases: Option<Vec<u32>>| {
        let words: Vec<&str> = rules.split(' ').collect();
        let mut user = rule::parse_user("default", &words).unwrap();
        user.add_password(rule::hash_password(b"right"));
        user.databases = databases;
        Users::new(vec![user])
    };
    for (rules, databases, stays) in [
        ("on ~* +@all &*", None, true),
        ("on ~* +@all &news:* &own", None, true),
        ("on ~* +@all &news:*", None, false),
        ("on ~* +@all &* -psubscribe", None, false),
        ("on ~* +@all &news:1 &own", None, false),
        ("on ~* +@all &*", Some(vec![0, 3]), true),
        ("on ~* +@all &*", Some(vec![0]), false),
    ] {
        let mut talk = Talk::known("on ~* +@all &*");
        talk.says("SELECT 3").redis("+OK\r\n").unwrap();
        talk.says("SUBSCRIBE news:1 own gone");
        for (name, count) in [("news:1", 1), ("own", 2), ("gone", 3)] {
            let length = name.len();
            talk.redis(&format!(
                "*3\r\n$9\r\nsubscribe\r\n${length}\r\n{name}\r\n:{count}\r\n"
            ))
            .unwrap();
        }
        talk.says("UNSUBSCRIBE gone");
        talk.redis("*3\r\n$11\r\nunsubscribe\r\n$4\r\ngone\r\n:2\r\n")
            .unwrap();
        talk.says("PSUBSCRIBE news:*");
        talk.redis("*3\r\n$10\r\npsubscribe\r\n$6\r\nnews:*\r\n:3\r\n")
            .unwrap();
        let identity = talk.session.identity().unwrap().clone();
        let next = users(rules, databases.clone()).refresh(&identity).unwrap();
        assert_eq!(
            talk.session.refresh_identity(next),
            stays,
            "{rules} {databases:?}"
        );
    }
}
