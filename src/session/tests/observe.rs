//! Rules that are only observed.

use super::*;
use crate::acl::DenyReason;

/// Logged in as a user whose rules refuse nothing, and whose requests are remembered.
fn watched(rules: &str) -> Talk {
    let mut talk = Talk::new(rules);
    let identity = talk.users.authenticate(b"default", b"right").unwrap();
    let mut user = acl::User::clone(&identity.user);
    (user.observe, user.learn) = (true, true);
    talk.users = Users::new(vec![user]);
    talk.says("AUTH right");
    assert_eq!(talk.heard(), "+OK\r\n");
    talk
}

/// What comes of a request, what was noted, and what is remembered.
fn ask(
    talk: &mut Talk,
    line: &str,
    whole: bool,
) -> (Last, Option<(&'static str, DenyReason)>, Option<&'static str>) {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    let mut bytes = BytesMut::new();
    encode::request(&mut bytes, &words);
    let request = Request {
        args: Args::new(&bytes, u32::try_from(words.len()).unwrap()),
        whole,
        unsent: false,
    };
    let mut note = None;
    let action = talk.session.request(request, &mut talk.client, &mut note);
    let learned = talk.session.take_learned().map(|command| command.name);
    let noted = note.map(|note| match note {
        Note::Observed(denied) => (denied.command, denied.reason),
        other => panic!("{other:?}"),
    });
    (talk.act(action, &bytes), noted, learned)
}

#[test]
fn a_refusal_is_noted_and_the_request_goes_its_way() {
    let mut talk = watched("on -@all +get ~own:*");
    assert_eq!(
        ask(&mut talk, "GET own:1", true),
        (Last::Forwarded, None, Some("get"))
    );
    let noted = Some(("get", DenyReason::Key));
    assert_eq!(
        ask(&mut talk, "GET other", true),
        (Last::Forwarded, noted, Some("get"))
    );
    // As its class and role demand: a script pins.
    let noted = Some(("eval", DenyReason::Command));
    assert_eq!(
        ask(&mut talk, "EVAL x 0", true),
        (Last::Forwarded, noted, Some("eval"))
    );
    assert_eq!(talk.session.pinned(), Some(PinReason::Script));
}

#[test]
fn one_that_waits_is_noted_when_it_goes() {
    let mut talk = watched("on -@all +get ~own:*");
    ask(&mut talk, "GET own:1", true);
    let wait = "CLIENT REPLY OFF";
    assert_eq!(ask(&mut talk, wait, true), (Last::Wait, None, None));
    talk.redis("$-1\r\n").unwrap();
    let noted = Some(("client|reply", DenyReason::Command));
    assert_eq!(
        ask(&mut talk, wait, true),
        (Last::Forwarded, noted, Some("client|reply"))
    );
}

#[test]
fn roles_that_change_the_protocol_and_unknown_commands_stay_refused() {
    let mut talk = watched("on +@all ~*");
    for refused in ["SYNC", "PSYNC ? -1", "REPLCONF ack 1"] {
        talk.says(refused);
        assert_eq!(talk.last, Last::Answered, "{refused}");
        assert!(talk.heard().starts_with("-NOPERM "), "{refused}");
        assert_eq!(talk.session.take_learned().map(|command| command.name), None);
    }
    talk.says("NOSUCH");
    assert!(talk.heard().starts_with("-ERR unknown command"));
    talk.says("POST /");
    assert_eq!(talk.last, Last::Closed(Closing::Http));
    assert_eq!(talk.sent(), "");
}

#[test]
fn a_late_refusal_is_noted_once_and_the_rest_goes_on() {
    let mut talk = watched("on +@all ~own:*");
    let first = b"*7\r\n$4\r\nMSET\r\n$5\r\nown:1\r\n$3\r\n";
    for expected in [Last::Hold, Last::Forwarded] {
        let request = Request {
            args: Args::new(first, 7),
            whole: false,
            unsent: false,
        };
        let mut note = None;
        let action = talk.session.request(request, &mut talk.client, &mut note);
        assert!(note.is_none());
        assert_eq!(talk.act(action, first), expected);
    }
    let mut note = None;
    let body = b"abc\r\n$5\r\nother\r\n$1\r\nx\r\n$4\r\n";
    assert_eq!(talk.session.body(body, false, &mut note), Ok(()));
    assert!(matches!(note, Some(Note::Observed(denied)) if denied.argument == 3));
    let mut note = None;
    assert_eq!(talk.session.body(b"more\r\n$1\r\nx\r\n", true, &mut note), Ok(()));
    assert!(note.is_none());
    talk.redis("+OK\r\n").unwrap();
    assert_eq!(talk.heard(), "+OK\r\n");
}
