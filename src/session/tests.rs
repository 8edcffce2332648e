//! The session as a conversation: requests on one side, frames on the other.

use std::sync::Arc;

use bytes::BytesMut;

use super::*;
use crate::acl::rule;
use crate::auth::Users;
use crate::resp::{FrameKind, ReplyScan, ReplyScanner, RequestLimits, RequestScanner, Scan};

/// A session with both scanners, and what it wrote to either side.
struct Talk {
    session: Session,
    users: Users,
    replies: ReplyScanner,
    /// To the client.
    client: BytesMut,
    /// To Redis.
    lane: BytesMut,
    last: Last,
    /// The last request is to be counted as one of a command that nobody knows.
    unknown: bool,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Last {
    Forwarded,
    Substituted,
    Answered,
    Wait,
    Hold,
    Reset,
    Closed(Closing),
}

const RULES: Rules = Rules {
    sharing: false,
    max_shared: 16_384,
    max_commands: 16,
    max_failures: 5,
    home_db: 0,
};

impl Talk {
    fn new(rules: &str) -> Self {
        let words: Vec<&str> = rules.split(' ').collect();
        let mut user = rule::parse_user("default", &words).unwrap();
        user.add_password(rule::hash_password(b"right"));
        user.enabled = true;
        Self {
            session: Session::new(RULES, None),
            users: Users::new(vec![user]),
            replies: ReplyScanner::new(),
            client: BytesMut::new(),
            lane: BytesMut::new(),
            last: Last::Answered,
            unknown: false,
        }
    }

    /// Logged in, with nothing written.
    fn known(rules: &str) -> Self {
        let mut talk = Self::new(rules);
        talk.says("AUTH right");
        assert_eq!(talk.heard(), "+OK\r\n");
        talk
    }

    fn says(&mut self, line: &str) -> &mut Self {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut bytes = BytesMut::new();
        encode::request(&mut bytes, &words);
        let mut scanner = RequestScanner::new(RequestLimits::AUTHENTICATED);
        let Ok(Scan::Request { argc, .. }) = scanner.scan(&bytes) else {
            panic!("not a request: {line}")
        };
        let request = Request {
            args: Args::new(&bytes, argc),
            whole: true,
            unsent: false,
        };
        let mut note = None;
        let action = self.session.request(request, &mut self.client, &mut note);
        self.unknown = matches!(note, Some(Note::Unknown));
        self.last = self.act(action, &bytes);
        self
    }

    fn act(&mut self, action: Action<'_>, bytes: &[u8]) -> Last {
        match action {
            Action::Forward { expect, .. } => {
                self.lane.extend_from_slice(bytes);
                self.session.forwarded(expect, 1);
                Last::Forwarded
            }
            Action::Substitute { request, expect } => {
                self.lane.extend_from_slice(&request);
                self.session.forwarded(expect, 1);
                Last::Substituted
            }
            Action::Greet { request, effect } => {
                self.lane.extend_from_slice(&request);
                self.session.shares(effect);
                self.session.forwarded(Expect::Reply(Effect::None), 1);
                Last::Substituted
            }
            Action::Answered => Last::Answered,
            Action::Login(login) => match self.users.authenticate(login.user, login.password) {
                Ok(identity) => {
                    let next = self
                        .session
                        .logged_in(identity, login.hello.as_ref(), &mut self.client);
                    self.act(next, bytes)
                }
                Err(failure) => {
                    self.session.login_refused(&failure, &mut self.client);
                    Last::Answered
                }
            },
            Action::Wait => Last::Wait,
            Action::Hold => Last::Hold,
            Action::Reset => Last::Reset,
            Action::Close(closing) => Last::Closed(closing),
        }
    }

    /// Redis sends these frames.
    fn redis(&mut self, bytes: &str) -> Result<(), Surprise> {
        let mut rest = bytes.as_bytes();
        while !rest.is_empty() {
            let ReplyScan::Piece { len, first, last } = self.replies.scan(rest).unwrap() else {
                panic!("incomplete")
            };
            assert!(first && last, "small frames come whole");
            let fate = self
                .session
                .frame_begins(self.replies.kind(), self.replies.word())?;
            if fate == Fate::Deliver {
                self.client.extend_from_slice(&rest[..len]);
            }
            self.session
                .frame_ends(self.replies.last_integer(), &mut self.client);
            rest = &rest[len..];
        }
        Ok(())
    }

    fn heard(&mut self) -> String {
        String::from_utf8(self.client.split().to_vec()).unwrap()
    }

    fn sent(&mut self) -> String {
        String::from_utf8(self.lane.split().to_vec()).unwrap()
    }
}

#[test]
fn what_a_client_library_tries_on_every_connection_is_refused_and_not_counted() {
    let mut talk = Talk::known("+@all ~* &*");
    for (request, counted) in [
        ("CLIENT MAINT_NOTIFICATIONS ON moving-endpoint-type none", false),
        ("client maint_notifications off", false),
        ("CLIENT NOSUCH", true),
        ("CONFIG MAINT_NOTIFICATIONS", true),
        ("MAINT_NOTIFICATIONS ON", true),
    ] {
        assert_eq!(talk.says(request).last, Last::Answered, "{request}");
        assert!(talk.heard().starts_with("-ERR unknown "), "{request}");
        assert_eq!(talk.unknown, counted, "{request}");
    }
    assert_eq!(talk.sent(), "");
}

#[test]
fn a_stranger_hears_noauth_and_nothing_goes_upstream() {
    let mut talk = Talk::new("safe");
    talk.says("GET k").says("PING");
    assert_eq!(
        talk.heard(),
        "-NOAUTH Authentication required.\r\n-NOAUTH Authentication required.\r\n"
    );
    assert_eq!(talk.sent(), "");
}

#[test]
fn the_order_of_decisions_is_redis_s() {
    let mut talk = Talk::new("safe");
    talk.says("NOSUCH a b");
    assert_eq!(
        talk.heard(),
        "-ERR unknown command 'NOSUCH', with args beginning with: 'a' 'b' \r\n"
    );
    talk.says("GET");
    assert_eq!(
        talk.heard(),
        "-ERR wrong number of arguments for 'get' command\r\n"
    );
    talk.says("CONFIG NOSUCH");
    assert_eq!(
        talk.heard(),
        "-ERR unknown subcommand 'NOSUCH'. Try CONFIG HELP.\r\n"
    );
    talk.says("CONFIG");
    assert_eq!(
        talk.heard(),
        "-ERR wrong number of arguments for 'config' command\r\n"
    );
}

#[test]
fn hello_is_checked_whole_before_anything_is_done() {
    for (line, reply) in [
        ("HELLO 3", refusal::HELLO_NOAUTH),
        (
            "HELLO abc",
            "ERR Protocol version is not an integer or out of range",
        ),
        (
            "HELLO 03",
            "ERR Protocol version is not an integer or out of range",
        ),
        (
            "HELLO 99 AUTH default right",
            "NOPROTO unsupported protocol version",
        ),
        ("HELLO 3 AUTH default", "ERR Syntax error in HELLO option 'AUTH'"),
        (
            "HELLO 3 AUTH default right AUTH default bad",
            "ERR Syntax error in HELLO: AUTH is given twice",
        ),
        (
            "HELLO 3 AUTH default right NOPE",
            "ERR Syntax error in HELLO option 'NOPE'",
        ),
        (
            "HELLO 3 AUTH default right SETNAME a\u{7f}",
            "ERR Client names cannot contain spaces, newlines or special characters.",
        ),
        (
            "HELLO 3 AUTH default wrong",
            "WRONGPASS invalid username-password pair or user is disabled.",
        ),
    ] {
        let mut talk = Talk::new("safe");
        talk.says(line);
        assert_eq!(talk.heard(), format!("-{reply}\r\n"), "{line}");
        assert!(talk.session.identity().is_none(), "{line}");
        assert_eq!(talk.sent(), "", "{line}");
    }
}

#[test]
fn hello_goes_upstream_without_its_auth_clause() {
    let mut talk = Talk::new("safe");
    talk.says("HELLO 3 AUTH default right SETNAME me");
    assert_eq!(
        talk.sent(),
        "*4\r\n$5\r\nHELLO\r\n$1\r\n3\r\n$7\r\nSETNAME\r\n$2\r\nme\r\n"
    );
    talk.redis("%1\r\n$5\r\nproto\r\n:3\r\n").unwrap();
    assert_eq!(talk.heard(), "%1\r\n$5\r\nproto\r\n:3\r\n");
    let mut replay = BytesMut::new();
    talk.session.replay(&mut replay);
    assert!(replay.starts_with(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n"));
}

#[test]
fn a_failed_auth_leaves_a_known_client_known_and_five_end_the_connection() {
    let mut talk = Talk::known("safe");
    for _ in 0..4 {
        talk.says("AUTH wrong");
    }
    assert!(talk.session.identity().is_some());
    assert_eq!(talk.session.closing(), None);
    talk.says("AUTH wrong");
    assert_eq!(talk.session.closing(), Some(Closing::Guessing));
}

#[test]
fn a_stranger_has_sixteen_commands() {
    let mut talk = Talk::new("safe");
    for _ in 0..16 {
        talk.says("PING");
    }
    assert_eq!(talk.session.closing(), None);
    talk.says("PING");
    assert_eq!(talk.session.closing(), Some(Closing::Guessing));
}

#[test]
fn refusals_keep_their_place_in_a_pipeline() {
    let mut talk = Talk::known("safe");
    talk.says("SET a 1").says("FLUSHALL").says("GET a").says("KEYS x");
    assert_eq!(talk.heard(), "");
    assert_eq!(
        talk.sent(),
        "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n"
    );
    talk.redis("+OK\r\n").unwrap();
    assert_eq!(
        talk.heard(),
        "+OK\r\n-NOPERM User default has no permissions to run the 'flushall' command\r\n"
    );
    talk.redis("$1\r\n1\r\n").unwrap();
    assert_eq!(
        talk.heard(),
        "$1\r\n1\r\n-NOPERM User default has no permissions to run the 'keys' command\r\n"
    );
    assert!(talk.session.is_settled());
}

#[test]
fn a_refusal_inside_multi_makes_redis_abort_the_transaction() {
    let mut talk = Talk::known("safe");
    talk.says("MULTI")
        .says("FLUSHALL")
        .says("AUTH right")
        .says("EXEC");
    let sent = talk.sent();
    assert_eq!(sent.matches("KEYWARD-REFUSED").count(), 2, "{sent}");
    assert!(!sent.contains("FLUSHALL") && !sent.contains("right"));
    talk.redis(
        "+OK\r\n-ERR unknown command\r\n-ERR unknown command\r\n-EXECABORT Transaction discarded.\r\n",
    )
    .unwrap();
    assert_eq!(
        talk.heard(),
        "+OK\r\n-NOPERM User default has no permissions to run the 'flushall' command\r\n\
         -ERR keyward: AUTH is not allowed inside MULTI\r\n-EXECABORT Transaction discarded.\r\n"
    );
}

#[test]
fn quit_answers_after_what_came_before_and_takes_nothing_after() {
    let mut talk = Talk::known("safe");
    talk.says("GET a").says("QUIT");
    assert!(!talk.session.takes_requests());
    assert_eq!(talk.heard(), "");
    talk.redis("$-1\r\n").unwrap();
    assert_eq!(talk.heard(), "$-1\r\n+OK\r\n");
    assert_eq!(talk.session.closing(), Some(Closing::Quit));
}

#[test]
fn a_browser_is_hung_up_on_whoever_it_is() {
    for line in ["POST / HTTP/1.1", "host: x", "Host:"] {
        assert_eq!(
            Talk::new("safe").says(line).last,
            Last::Closed(Closing::Http),
            "{line}"
        );
        assert_eq!(
            Talk::known("+@all ~* &*").says(line).last,
            Last::Closed(Closing::Http),
            "{line}"
        );
    }
}

#[test]
fn reset_waits_for_outstanding_replies_and_makes_a_stranger() {
    let mut talk = Talk::known("safe");
    talk.says("GET a").says("RESET");
    assert_eq!(talk.last, Last::Wait);
    talk.redis("$-1\r\n").unwrap();
    talk.says("RESET");
    assert_eq!(talk.last, Last::Reset);
    assert_eq!(talk.heard(), "$-1\r\n+RESET\r\n");
    assert!(talk.session.identity().is_none());
    talk.says("GET a");
    assert_eq!(talk.heard(), "-NOAUTH Authentication required.\r\n");
}

#[test]
fn reset_and_quit_answer_as_redis_does_when_replies_are_off_or_skipped() {
    // Redis 7.0.15: RESET ends OFF first, and is what SKIP skips; QUIT is silent under both.
    for (mode, reset) in [("OFF", "+RESET\r\n"), ("SKIP", "")] {
        let mut talk = Talk::known("+@all");
        talk.says(&format!("CLIENT REPLY {mode}")).says("RESET");
        assert_eq!(talk.last, Last::Reset, "{mode}");
        assert_eq!(talk.heard(), reset, "{mode}");
        talk.says("GET a");
        assert_eq!(talk.heard(), "-NOAUTH Authentication required.\r\n", "{mode}");
        let mut talk = Talk::known("+@all");
        talk.says(&format!("CLIENT REPLY {mode}")).says("QUIT");
        assert_eq!(talk.session.closing(), Some(Closing::Quit), "{mode}");
        assert_eq!(talk.heard(), "", "{mode}");
    }
    // An error is what was skipped: RESET answers again.
    let mut talk = Talk::known("+@all");
    talk.says("CLIENT REPLY SKIP").says("RESET x").says("RESET");
    assert_eq!(talk.heard(), "+RESET\r\n");
}

#[test]
fn confirmations_are_counted_and_messages_are_not_replies() {
    let mut talk = Talk::known("safe");
    talk.says("SUBSCRIBE a b").says("KEYS x");
    talk.redis("*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n").unwrap();
    talk.redis("*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nm\r\n")
        .unwrap();
    assert!(!talk.session.is_settled());
    talk.heard();
    talk.redis("*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n").unwrap();
    assert!(
        talk.heard()
            .ends_with(":2\r\n-NOPERM User default has no permissions to run the 'keys' command\r\n")
    );
    assert!(talk.session.is_settled() && talk.session.is_listening() && !talk.session.may_drain());
    // Without channels: one confirmation for each of the two.
    talk.says("UNSUBSCRIBE").says("PING");
    talk.redis("*3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n")
        .unwrap();
    assert!(!talk.session.is_settled());
    talk.redis("+PONG\r\n").unwrap();
    assert!(talk.session.is_settled() && !talk.session.is_listening());
}

#[test]
fn an_unsubscribe_without_subscriptions_has_one_confirmation_or_one_error() {
    for reply in [
        "*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n",
        "-NOSUB 'UNSUBSCRIBE' command executed not in subscribed mode\r\n",
    ] {
        let mut talk = Talk::known("safe");
        talk.says("UNSUBSCRIBE");
        talk.redis(reply).unwrap();
        assert!(talk.session.is_settled(), "{reply}");
    }
}

#[test]
fn pushes_of_resp3_never_settle_a_request() {
    let mut talk = Talk::known("safe");
    talk.says("HELLO 3");
    talk.redis("%0\r\n").unwrap();
    talk.says("GET a");
    talk.redis(">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n")
        .unwrap();
    assert!(!talk.session.is_settled());
    talk.redis("_\r\n").unwrap();
    assert!(talk.session.is_settled());
    talk.says("SUBSCRIBE c").says("GET a");
    talk.redis(
        ">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n_\r\n",
    )
    .unwrap();
    assert!(talk.session.is_settled());
}

#[test]
fn what_keyward_answers_itself_waits_for_the_end_of_a_message() {
    let mut talk = Talk::known("safe");
    talk.says("SUBSCRIBE a");
    talk.redis("*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n").unwrap();
    talk.heard();
    // Only the head of a long message has come so far.
    assert_eq!(
        talk.session.frame_begins(FrameKind::Array, b"message"),
        Ok(Fate::Deliver)
    );
    talk.says("KEYS x").says("GET a").says("QUIT");
    assert_eq!(talk.heard(), "");
    assert!(!talk.session.is_settled(), "the message is not whole");
    talk.session.frame_ends(None, &mut talk.client);
    assert_eq!(
        talk.heard(),
        "-NOPERM User default has no permissions to run the 'keys' command\r\n"
    );
    talk.redis("-ERR Can't execute 'get'\r\n").unwrap();
    assert!(talk.heard().ends_with("\r\n+OK\r\n") && talk.session.is_settled());
    // RESET would cut it.
    let mut talk = Talk::known("safe");
    talk.says("HELLO 3");
    talk.redis("%0\r\n").unwrap();
    talk.session.frame_begins(FrameKind::Push, b"message").unwrap();
    assert_eq!(talk.says("RESET").last, Last::Wait);
    talk.session.frame_ends(None, &mut talk.client);
    assert_eq!(talk.says("RESET").last, Last::Reset);
}

#[test]
fn a_transaction_that_was_none_ends_no_watch() {
    for (line, reply) in [
        ("EXEC", "-ERR EXEC without MULTI\r\n"),
        ("DISCARD", "-ERR DISCARD without MULTI\r\n"),
        (
            "UNWATCH now",
            "-ERR wrong number of arguments for 'unwatch' command\r\n",
        ),
    ] {
        let mut talk = Talk::known("safe");
        talk.says("WATCH a");
        talk.redis("+OK\r\n").unwrap();
        talk.says(line);
        talk.redis(reply).unwrap();
        assert_eq!(talk.session.pinned(), Some(PinReason::Watch), "{line}");
        assert!(!talk.session.survives_lane_loss(), "{line}");
        talk.says("MULTI").says("EXEC");
        talk.redis("+OK\r\n*0\r\n").unwrap();
        assert_eq!(talk.session.pinned(), None, "{line}");
    }
    // Redis has refused MULTI itself, and still watches.
    let mut talk = Talk::known("safe");
    talk.says("WATCH a").says("MULTI").says("EXEC");
    talk.redis("+OK\r\n-NOPERM no\r\n-ERR EXEC without MULTI\r\n")
        .unwrap();
    assert_eq!(talk.session.pinned(), Some(PinReason::Transaction));
}

#[test]
fn surprises_end_the_session() {
    let mut talk = Talk::known("safe");
    assert_eq!(talk.redis("+OK\r\n"), Err(Surprise::UnaskedReply));
    talk.says("GET a");
    assert_eq!(
        talk.redis("-NOAUTH Authentication required.\r\n"),
        Err(Surprise::SessionLost)
    );
    let mut talk = Talk::known("safe");
    talk.says("SUBSCRIBE a");
    assert_eq!(talk.redis("+OK\r\n"), Err(Surprise::WrongReply));
}

#[test]
fn replies_that_are_off_are_not_waited_for() {
    let mut talk = Talk::known("+@all ~* &*");
    talk.says("CLIENT REPLY SKIP").says("SET a 1").says("GET a");
    talk.redis("$1\r\n1\r\n").unwrap();
    assert!(talk.session.is_settled());
    talk.says("CLIENT REPLY OFF")
        .says("SET a 2")
        .says("NOSUCH")
        .says("CLIENT REPLY ON")
        .says("GET a");
    talk.redis("+OK\r\n$1\r\n2\r\n").unwrap();
    assert_eq!(talk.heard(), "$1\r\n1\r\n+OK\r\n$1\r\n2\r\n");
    assert!(talk.session.is_settled());
}

#[test]
fn a_refusal_takes_the_place_of_the_reply_that_is_skipped() {
    let mut talk = Talk::known("+@all -keys ~* &*");
    talk.says("CLIENT REPLY SKIP").says("KEYS x").says("GET a");
    assert!(talk.sent().contains("KEYWARD-REFUSED"));
    talk.redis("$-1\r\n").unwrap();
    assert_eq!(talk.heard(), "$-1\r\n");
}

#[test]
fn what_survives_a_lane_is_decided_by_what_was_done_on_it() {
    let survives = |lines: &[(&str, &str)]| {
        let mut talk = Talk::known("+@all ~* &*");
        for (line, reply) in lines {
            talk.says(line);
            talk.redis(reply).unwrap();
        }
        talk.session.survives_lane_loss()
    };
    assert!(survives(&[
        ("SELECT 3", "+OK\r\n"),
        ("CLIENT SETNAME me", "+OK\r\n")
    ]));
    assert!(!survives(&[("WATCH a", "+OK\r\n")]));
    assert!(survives(&[("WATCH a", "+OK\r\n"), ("UNWATCH", "+OK\r\n")]));
    assert!(!survives(&[("MULTI", "+OK\r\n")]));
    assert!(!survives(&[("EVAL return 0", "-ERR wrong number\r\n")]));
    assert!(!survives(&[(
        "SUBSCRIBE a",
        "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"
    )]));
    assert!(!survives(&[("GET a", "")]));
}

#[test]
fn a_monitor_takes_quit_and_reset_alone() {
    let mut talk = Talk::known("+@all ~* &*");
    talk.says("MONITOR");
    talk.redis("+OK\r\n+1.2 [0 127.0.0.1:1] \"GET\" \"a\"\r\n")
        .unwrap();
    talk.says("GET a");
    assert_eq!(talk.last, Last::Answered);
    assert!(talk.heard().ends_with(&format!("-{}\r\n", refusal::MONITORING)));
    talk.says("RESET");
    assert_eq!(talk.last, Last::Reset);
}

#[test]
fn after_a_reload_the_same_client_has_the_new_rules() {
    let mut talk = Talk::known("safe");
    let mut user = rule::parse_user("default", &["+@all", "-get", "~*", "&*"]).unwrap();
    user.add_password(rule::hash_password(b"right"));
    user.enabled = true;
    let users = Users::new(vec![user]);
    let identity = users.refresh(talk.session.identity().unwrap()).unwrap();
    assert!(!Arc::ptr_eq(
        &identity.user,
        &talk.session.identity().unwrap().user
    ));
    assert!(talk.session.refresh_identity(identity));
    talk.says("GET a");
    assert!(talk.heard().starts_with("-NOPERM"));
    let gone = Users::new(vec![]);
    assert!(gone.refresh(talk.session.identity().unwrap()).is_none());
}

#[test]
fn whoami_is_answered_here_when_everything_before_is() {
    let mut talk = Talk::known("safe");
    talk.says("ACL WHOAMI");
    assert_eq!(
        (talk.last, talk.heard().as_str()),
        (Last::Answered, "$7\r\ndefault\r\n")
    );
    talk.says("GET a").says("ACL WHOAMI");
    assert_eq!(talk.last, Last::Wait, "HELLO may be among what is outstanding");
    talk.redis("$-1\r\n").unwrap();
    talk.heard();
    talk.says("KEYWARD WHOAMI");
    let heard = talk.heard();
    assert!(
        heard.starts_with("*8\r\n$4\r\nuser\r\n$7\r\ndefault\r\n"),
        "{heard}"
    );
    assert!(
        heard.contains("$10\r\npassword 1\r\n") && !heard.contains('#'),
        "{heard}"
    );
    talk.says("ACL WHOAMI x");
    assert!(
        talk.heard()
            .starts_with("-ERR wrong number of arguments for 'acl|whoami'")
    );
    // Nothing of it reaches Redis.
    assert_eq!(talk.sent(), "*2\r\n$3\r\nGET\r\n$1\r\na\r\n");
}

#[test]
fn whoami_respects_the_rules_and_the_state_of_the_connection() {
    let mut talk = Talk::known("~* &* +@all -acl");
    talk.says("ACL WHOAMI");
    assert!(talk.heard().starts_with("-NOPERM "));
    talk.says("KEYWARD WHOAMI");
    assert!(talk.heard().starts_with("*8\r\n"), "no rule takes this away");
    let mut stranger = Talk::new("safe");
    stranger.says("KEYWARD WHOAMI");
    assert!(stranger.heard().starts_with("-ERR unknown command"));

    let mut talk = Talk::known("~* &* +@all");
    talk.says("MULTI").says("KEYWARD WHOAMI");
    assert_eq!(talk.last, Last::Substituted, "EXEC must answer EXECABORT");
    let mut talk = Talk::known("~* &* +@all");
    talk.says("CLIENT REPLY SKIP").says("ACL WHOAMI");
    assert_eq!((talk.last, talk.heard().as_str()), (Last::Substituted, ""));
    talk.says("ACL WHOAMI");
    assert_eq!(talk.heard(), "$7\r\ndefault\r\n");
    talk.says("CLIENT REPLY OFF").says("ACL WHOAMI");
    assert_eq!((talk.last, talk.heard().as_str()), (Last::Answered, ""));
    let mut talk = Talk::known("~* &* +@all");
    talk.says("SUBSCRIBE c");
    talk.redis("*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n").unwrap();
    talk.heard();
    talk.says("ACL WHOAMI");
    assert!(talk.heard().starts_with("-ERR Can't execute 'acl|whoami'"));
}

#[test]
fn auth_waits_for_what_is_outstanding_where_users_differ_in_their_login() {
    let mut talk = Talk::known("safe");
    talk.says("GET a").says("AUTH right");
    assert_ne!(talk.last, Last::Wait, "all use the same connection");
    let mut talk = Talk::known("safe");
    talk.session.set_logins_differ(true);
    talk.says("GET a").says("AUTH right");
    assert_eq!(talk.last, Last::Wait);
    talk.redis("$-1\r\n").unwrap();
    talk.says("AUTH right");
    assert_eq!(talk.heard(), "$-1\r\n+OK\r\n");
}

mod late;
mod observe;
