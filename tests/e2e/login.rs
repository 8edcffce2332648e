//! How clients log in: AUTH, HELLO, RESET, QUIT, and what is bounded before that (rules S-4 to S-9, L-1, L-2, L-21, L-22).

use std::time::Duration;
use std::time::Instant;

use super::support::APP_PASSWORD;
use super::support::APP_PASSWORD_2;
use super::support::Client;
use super::support::DEFAULT_PASSWORD;
use super::support::Keyward;
use super::support::PATIENCE;
use super::support::Redis;
use super::support::SAMPLE_VALUE;
use super::support::Setup;
use super::support::WRONG_PASSWORD;
use super::support::keyward::command_line;
use super::support::request;

const NOAUTH: &str = "-NOAUTH Authentication required.";
const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled.";

/// Replies to a command and to the PING behind it, on a fresh connection.
fn first_words(mut client: Client, args: &[&str]) -> (String, String) {
    (client.call_args(args), client.call("PING"))
}

#[test]
fn what_is_said_before_login_is_what_redis_says() {
    // The same password for `default` on both sides, so that the same bytes can be sent to both.
    let redis = Redis::with_password().start();
    let password = super::support::REDIS_PASSWORD;
    let keyward = Setup::new(&redis)
        .user("default", password, "acl = \"safe\"")
        .start();
    let table: &[&[&str]] = &[
        &["PING"],
        &["GET", "a"],
        &["GET"],
        &["SET", "a"],
        &["AUTH"],
        &["AUTH", "a", "b", "c"],
        &["AUTH", WRONG_PASSWORD],
        &["AUTH", "default", WRONG_PASSWORD],
        &["AUTH", "nobody", WRONG_PASSWORD],
        &["AUTH", ""],
        &["AUTH", password],
        &["AUTH", "default", password],
        &["auth", "DEFAULT", password],
        &["HELLO"],
        &["HELLO", "2"],
        &["HELLO", "3"],
        &["HELLO", "1"],
        &["HELLO", "4"],
        &["HELLO", "99"],
        &["HELLO", "abc"],
        &["HELLO", ""],
        &["HELLO", "3", "AUTH"],
        &["HELLO", "3", "AUTH", "default"],
        &["HELLO", "3", "AUTH", "default", WRONG_PASSWORD],
        &["HELLO", "2", "AUTH", "nobody", WRONG_PASSWORD],
        &["HELLO", "3", "SETNAME", "x"],
        &["HELLO", "3", "NOSUCHOPTION"],
        &["HELLO", "99", "AUTH", "default", password],
        &["MULTI"],
        &["EXEC"],
        &["SUBSCRIBE", "a"],
        &["CLIENT", "ID"],
        &["CLIENT"],
        &["CONFIG", "GET", "maxmemory"],
        &["RESET"],
        &["FLUSHALL"],
    ];
    for &args in table {
        let theirs = first_words(Client::unix(&redis.socket()), args);
        let ours = first_words(keyward.connect(), args);
        assert_eq!(ours, theirs, "{args:?}");
    }
}

#[test]
fn both_forms_of_auth_log_in() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut one = keyward.connect();
    assert_eq!(one.call("PING"), NOAUTH);
    assert_eq!(one.call_args(&["AUTH", DEFAULT_PASSWORD]), "+OK");
    assert_eq!(one.call("PING"), "+PONG");
    let mut two = keyward.connect();
    assert_eq!(two.call_args(&["AUTH", "app", APP_PASSWORD]), "+OK");
    assert_eq!(two.call_args(&["SET", "k", SAMPLE_VALUE]), "+OK");
    assert_eq!(one.call("GET k"), format!("${SAMPLE_VALUE}"));
    // The name decides: the password of one user is none for another.
    assert_eq!(
        keyward.connect().call_args(&["AUTH", "default", APP_PASSWORD]),
        WRONGPASS
    );
    assert_eq!(keyward.connect().call_args(&["AUTH", APP_PASSWORD]), WRONGPASS);
    // User names are compared byte by byte, as in Redis.
    assert_eq!(
        keyward.connect().call_args(&["AUTH", "App", APP_PASSWORD]),
        WRONGPASS
    );
}

#[test]
fn inline_auth_logs_in() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).listener("inline = true").start();
    let mut client = keyward.connect();
    client.send(format!("auth app {APP_PASSWORD}\r\nping\r\n").as_bytes());
    assert_eq!(client.replies(2), ["+OK", "+PONG"]);
}

#[test]
fn unknown_users_disabled_users_and_wrong_passwords_get_the_same_words() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .user("gone", APP_PASSWORD_2, "acl = \"off +@all ~* &*\"")
        .start();
    let mut client = keyward.connect();
    assert_eq!(client.call_args(&["AUTH", "app", WRONG_PASSWORD]), WRONGPASS);
    assert_eq!(client.call_args(&["AUTH", "nobody", APP_PASSWORD]), WRONGPASS);
    assert_eq!(client.call_args(&["AUTH", "gone", APP_PASSWORD_2]), WRONGPASS);
    assert_eq!(client.call("PING"), NOAUTH);
    assert_eq!(
        client.call_args(&["HELLO", "3", "AUTH", "gone", APP_PASSWORD_2]),
        WRONGPASS
    );
    assert_eq!(client.call_args(&["AUTH", "app", APP_PASSWORD]), "+OK");
}

#[test]
fn a_user_may_have_several_passwords_and_hashes() {
    let hash = |password: &str| {
        let (code, out, err) = command_line(&["hash-password"], &[], &format!("{password}\n"));
        assert_eq!(code, 0, "{err}");
        out.trim().to_owned()
    };
    let redis = Redis::start();
    let hashes = format!(
        "password_hashes = [{:?}, {:?}]",
        hash(APP_PASSWORD),
        hash(APP_PASSWORD_2)
    );
    let setup = Setup::new(&redis)
        .user_line("app", "password_file = unset")
        .user_line("app", &hashes);
    let keyward = setup.start();
    for password in [APP_PASSWORD, APP_PASSWORD_2] {
        assert_eq!(keyward.connect().call_args(&["AUTH", "app", password]), "+OK");
    }
    assert_eq!(
        keyward.connect().call_args(&["AUTH", "app", WRONG_PASSWORD]),
        WRONGPASS
    );
    // The digest itself is no password (rule A-1).
    let digest = hash(APP_PASSWORD);
    let digest = digest.trim_start_matches("sha256:");
    assert_eq!(keyward.connect().call_args(&["AUTH", "app", digest]), WRONGPASS);
}

#[test]
fn both_lines_of_a_password_file_are_valid() {
    let redis = Redis::start();
    let setup = Setup::new(&redis);
    setup.write("app.secret", &format!("{APP_PASSWORD}\n{APP_PASSWORD_2}\n"));
    let keyward = setup.start();
    for password in [APP_PASSWORD, APP_PASSWORD_2] {
        assert_eq!(keyward.connect().call_args(&["AUTH", "app", password]), "+OK");
    }
}

#[test]
fn users_come_from_a_redis_acl_file_too() {
    let redis = Redis::start();
    let setup = Setup::new(&redis).without_users();
    let (_, hash, _) = command_line(&["hash-password"], &[], APP_PASSWORD);
    let hash = hash.trim().trim_start_matches("sha256:").to_owned();
    let file = setup.write(
        "users.acl",
        &format!("user app on #{hash} ~* &* +@all -@dangerous +info\n"),
    );
    let keyward = setup.listener(&format!("users_file = {:?}", file)).start();
    let mut client = keyward.app();
    assert_eq!(client.call("SET a 1"), "+OK");
    assert!(client.call("FLUSHALL").starts_with("-NOPERM "));
    assert!(client.call("INFO server").starts_with("$# Server"));
}

#[test]
fn users_of_an_acl_file_have_their_series_from_the_start() {
    let redis = Redis::start();
    let setup = Setup::new(&redis);
    let file = setup.write("users.acl", "user filed on >something-long ~* &* +@read\n");
    let keyward = setup.listener(&format!("users_file = {:?}", file)).start();
    for (reason, user) in [("bad_password", "filed"), ("bad_password", "app")] {
        let labels = [("listener", "main"), ("user", user), ("reason", reason)];
        assert_eq!(keyward.metric("keyward_auth_failures_total", &labels), 0.0);
    }
    // The first refusal must be an increase, not a new series.
    for cmd in ["flushall", "config|set", "_other"] {
        let labels = [("user", "filed"), ("cmd", cmd), ("reason", "command")];
        assert_eq!(keyward.metric("keyward_commands_denied_total", &labels), 0.0);
    }
    let guess = keyward.connect().call_args(&["AUTH", "filed", WRONG_PASSWORD]);
    assert!(guess.starts_with("-WRONGPASS "), "{guess}");
    let labels = [("user", "filed"), ("reason", "bad_password")];
    assert_eq!(keyward.metric("keyward_auth_failures_total", &labels), 1.0);
}

#[test]
fn hello_switches_the_protocol_and_logs_in() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.connect();
    let hello = client.call_args(&["HELLO", "3", "AUTH", "app", APP_PASSWORD, "SETNAME", "web-1"]);
    assert!(hello.starts_with("%{$server: $redis, "), "{hello}");
    assert!(hello.contains("$proto: :3"), "{hello}");
    assert_eq!(client.call("GET missing"), "_", "RESP3's null");
    assert_eq!(client.call("CLIENT GETNAME"), "$web-1");
    let hello = client.call("HELLO 2");
    assert!(hello.starts_with("*[$server, $redis, "), "{hello}");
    assert!(hello.contains("$proto, :2"), "{hello}");
    assert_eq!(client.call("GET missing"), "$-1");
    let hello = client.call("HELLO");
    assert!(hello.contains("$proto, :2"), "{hello}");
    // As redis-py says it when only a password is set (rule S-8).
    let mut client = keyward.connect();
    let hello = client.call_args(&["HELLO", "3", "AUTH", "default", DEFAULT_PASSWORD]);
    assert!(hello.contains("$proto: :3"), "{hello}");
    assert_eq!(client.call("CLIENT SETNAME lib"), "+OK");
    assert_eq!(client.call("SELECT 1"), "+OK");
}

#[test]
fn a_hello_that_fails_leaves_everything_as_it_was() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let noproto = "-NOPROTO unsupported protocol version";
    let failing: &[(&[&str], &str)] = &[
        (&["HELLO", "4", "AUTH", "app", APP_PASSWORD], noproto),
        (&["HELLO", "99", "AUTH", "app", APP_PASSWORD], noproto),
        (
            &["HELLO", "abc", "AUTH", "app", APP_PASSWORD],
            "-ERR Protocol version is not an integer or out of range",
        ),
        // S-6: a repeated AUTH clause is refused whole, in any order of right and wrong.
        (
            &[
                "HELLO",
                "3",
                "AUTH",
                "app",
                APP_PASSWORD,
                "AUTH",
                "app",
                WRONG_PASSWORD,
            ],
            "-",
        ),
        (
            &[
                "HELLO",
                "3",
                "AUTH",
                "app",
                WRONG_PASSWORD,
                "AUTH",
                "app",
                APP_PASSWORD,
            ],
            "-",
        ),
        (
            &[
                "HELLO",
                "3",
                "AUTH",
                "app",
                APP_PASSWORD,
                "AUTH",
                "app",
                APP_PASSWORD,
            ],
            "-",
        ),
        // S-7: everything is validated before the login.
        (
            &["HELLO", "3", "AUTH", "app", APP_PASSWORD, "SETNAME", "x y"],
            "-ERR ",
        ),
        (
            &["HELLO", "3", "AUTH", "app", APP_PASSWORD, "SETNAME", "x\ny"],
            "-ERR ",
        ),
        (&["HELLO", "3", "AUTH", "app", APP_PASSWORD, "SETNAME"], "-ERR "),
        (&["HELLO", "3", "AUTH", "app", APP_PASSWORD, "NOSUCH"], "-ERR "),
        (&["HELLO", "3", "AUTH", "app", WRONG_PASSWORD], WRONGPASS),
    ];
    for &(args, start) in failing {
        let mut client = keyward.connect();
        let reply = client.call_args(args);
        assert!(reply.starts_with(start), "{args:?}: {reply}");
        assert_eq!(client.call("PING"), NOAUTH, "{args:?} must not log in");
        let hello = client.call_args(&["HELLO", "2", "AUTH", "app", APP_PASSWORD]);
        assert!(
            hello.contains("$proto, :2"),
            "{args:?}: the connection goes on: {hello}"
        );
    }
    // Logged in already: the failure changes neither the protocol nor the user.
    let mut client = keyward.app();
    for &(args, _) in failing {
        assert!(client.call_args(args).starts_with('-'), "{args:?}");
        assert_eq!(client.call("GET missing"), "$-1", "{args:?} must leave RESP2");
    }
}

#[test]
fn a_failed_auth_leaves_a_logged_in_connection_as_it_is() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    assert_eq!(client.call_args(&["AUTH", "root", WRONG_PASSWORD]), WRONGPASS);
    assert_eq!(client.call("PING"), "+PONG");
    assert!(
        client.call("FLUSHALL").starts_with("-NOPERM "),
        "still the user app"
    );
    keyward.wait_metric(
        "keyward_auth_failures_total",
        &[("user", "root"), ("reason", "bad_password")],
        1.0,
    );
}

#[test]
fn another_auth_changes_the_user() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.root();
    assert_eq!(client.call("SET a 1"), "+OK");
    assert!(client.call("CONFIG GET maxmemory").starts_with("*["));
    assert_eq!(client.call_args(&["AUTH", "app", APP_PASSWORD]), "+OK");
    assert!(client.call("CONFIG GET maxmemory").starts_with("-NOPERM "));
    assert_eq!(client.call("GET a"), "$1");
}

#[test]
fn reset_logs_out() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app3();
    assert_eq!(client.call("SELECT 3"), "+OK");
    assert_eq!(client.call("MULTI"), "+OK");
    assert_eq!(client.call("SET a 1"), "+QUEUED");
    assert_eq!(client.call("RESET"), "+RESET");
    assert_eq!(client.call("GET a"), NOAUTH);
    assert_eq!(client.call_args(&["AUTH", "app", APP_PASSWORD]), "+OK");
    assert_eq!(
        client.call("GET a"),
        "$-1",
        "RESP2 and database 0 again, transaction discarded"
    );
    assert_eq!(client.call("EXEC"), "-ERR EXEC without MULTI");
    // Pipelined: every reply in its place.
    client.send(&super::support::pipeline(&["PING", "RESET", "PING"]));
    client.send(&request(&[b"AUTH", b"app", APP_PASSWORD.as_bytes()]));
    client.send(&super::support::words("PING"));
    assert_eq!(client.replies(5), ["+PONG", "+RESET", NOAUTH, "+OK", "+PONG"]);
}

#[test]
fn a_connection_may_be_reset_and_logged_in_again_without_end() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    for round in 0..50 {
        assert_eq!(client.call("RESET"), "+RESET", "round {round}");
        assert_eq!(
            client.call_args(&["AUTH", "app", APP_PASSWORD]),
            "+OK",
            "round {round}"
        );
    }
    assert_eq!(client.call("PING"), "+PONG");
}

#[test]
fn quit_ends_the_connection_and_what_is_behind_it() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    client.send(&super::support::pipeline(&["SET a 1", "QUIT", "SET a 2"]));
    assert_eq!(client.replies(2), ["+OK", "+OK"]);
    client.expect_closed();
    assert_eq!(redis.client().call("GET a"), "$1");
    let mut stranger = keyward.connect();
    assert_eq!(stranger.call("QUIT"), "+OK", "without login as well, as in Redis");
    stranger.expect_closed();
}

#[test]
fn auth_and_hello_inside_multi_are_refused_and_make_exec_abort() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let attempts: &[&[&str]] = &[
        &["AUTH", "app", APP_PASSWORD],
        &["AUTH", "app", WRONG_PASSWORD],
        &["AUTH", DEFAULT_PASSWORD],
        &["HELLO"],
        &["HELLO", "3"],
        &["HELLO", "3", "AUTH", "app", APP_PASSWORD],
    ];
    for &attempt in attempts {
        let mut client = keyward.app();
        assert_eq!(client.call("MULTI"), "+OK");
        let reply = client.call_args(attempt);
        assert!(
            reply.starts_with("-ERR ") && reply.contains("MULTI"),
            "{attempt:?}: {reply}"
        );
        assert_eq!(client.call("PING"), "+QUEUED", "{attempt:?}");
        assert_eq!(
            client.call("EXEC"),
            "-EXECABORT Transaction discarded because of previous errors."
        );
        assert_eq!(client.call("GET missing"), "$-1", "still RESP2, still in step");
    }
}

#[test]
fn eleven_arguments_before_login_end_the_connection() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let ten: Vec<&[u8]> = std::iter::once(&b"DEL"[..])
        .chain(std::iter::repeat_n(&b"k"[..], 9))
        .collect();
    let mut client = keyward.connect();
    client.send(&request(&ten));
    assert_eq!(client.reply(), NOAUTH);
    let mut eleven = ten.clone();
    eleven.push(b"k");
    client.send(&request(&eleven));
    assert_eq!(
        client.reply(),
        "-ERR Protocol error: unauthenticated multibulk length"
    );
    client.expect_closed();
    let mut client = keyward.app();
    client.send(&request(&eleven));
    assert_eq!(client.reply(), ":0", "no such bound behind the login");
}

#[test]
fn arguments_over_16384_bytes_before_login_end_the_connection() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.connect();
    let at_the_limit = vec![b'x'; 16_384];
    client.send(&request(&[b"ECHO", &at_the_limit]));
    assert_eq!(client.reply(), NOAUTH);
    let mut client = keyward.connect();
    client.send(b"*2\r\n$4\r\nECHO\r\n$16385\r\n");
    assert_eq!(client.reply(), "-ERR Protocol error: unauthenticated bulk length");
    client.expect_closed();
}

#[test]
fn bytes_that_trickle_in_do_not_extend_the_login_deadline() {
    let redis = Redis::start();
    let limit = Duration::from_millis(700);
    let keyward = Setup::new(&redis).login("timeout = \"700ms\"").start();
    let began = Instant::now();
    let mut client = keyward.connect();
    client.patience(Duration::from_millis(40));
    let mut closed = false;
    // A slow request, one byte now and then, never complete.
    for byte in b"*2\r\n$4\r\nAUTH\r\n$16000\r\n"
        .iter()
        .copied()
        .chain(std::iter::repeat(b'x'))
    {
        if client.try_send(&[byte]).is_err() || matches!(client.try_value(), Err(error) if is_close(&error)) {
            closed = true;
            break;
        }
        if began.elapsed() > PATIENCE {
            break;
        }
    }
    assert!(closed, "still open after {:?}", began.elapsed());
    assert!(
        began.elapsed() >= limit,
        "closed after {:?} already",
        began.elapsed()
    );
    keyward.wait_metric(
        "keyward_auth_failures_total",
        &[("user", ""), ("reason", "timeout")],
        1.0,
    );
    // Nor does a silent one stay.
    let began = Instant::now();
    let mut silent = keyward.connect();
    silent.expect_closed();
    assert!(began.elapsed() >= limit);
    // One that has logged in does.
    let mut client = keyward.app();
    assert_eq!(client.call("BLPOP none 1.2"), "*-1");
    assert_eq!(client.call("PING"), "+PONG");
}

fn is_close(error: &std::io::Error) -> bool {
    !matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
    )
}

#[test]
fn sixteen_commands_before_login_end_the_connection() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.connect();
    client.send(&super::support::pipeline(&["PING"; 40]));
    let rest = String::from_utf8(client.read_to_end()).unwrap();
    let answered = rest.matches("-NOAUTH Authentication required.\r\n").count();
    assert!((15..=16).contains(&answered), "{answered} answered: {rest:?}");
    // Fifteen are fine, and the login may be the sixteenth.
    let mut client = keyward.connect();
    for _ in 0..15 {
        assert_eq!(client.call("PING"), NOAUTH);
    }
    assert_eq!(client.call_args(&["AUTH", "app", APP_PASSWORD]), "+OK");
}

#[test]
fn five_failed_logins_end_the_connection() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.connect();
    for attempt in 1..=5 {
        assert_eq!(
            client.call_args(&["AUTH", "app", WRONG_PASSWORD]),
            WRONGPASS,
            "attempt {attempt}"
        );
    }
    client.expect_closed();
    let mut client = keyward.connect();
    for _ in 0..4 {
        assert_eq!(
            client.call_args(&["HELLO", "3", "AUTH", "app", WRONG_PASSWORD]),
            WRONGPASS
        );
    }
    assert_eq!(
        client.call_args(&["AUTH", "app", APP_PASSWORD]),
        "+OK",
        "four are forgiven"
    );
}

#[test]
fn the_bounds_before_login_can_be_configured() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .login("max_failures = 2")
        .login("max_commands = 3")
        .start();
    let mut client = keyward.connect();
    for _ in 0..2 {
        assert_eq!(client.call_args(&["AUTH", "app", WRONG_PASSWORD]), WRONGPASS);
    }
    client.expect_closed();
    let mut client = keyward.connect();
    client.send(&super::support::pipeline(&["PING"; 10]));
    assert!(client.read_to_end().len() <= 3 * (NOAUTH.len() + 2) + 64);
}

#[test]
fn strangers_open_no_connection_to_redis() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let strangers: Vec<Client> = (0..30)
        .map(|_| {
            let mut client = keyward.connect();
            assert_eq!(client.call("PING"), NOAUTH);
            assert_eq!(client.call_args(&["AUTH", "app", WRONG_PASSWORD]), WRONGPASS);
            client
        })
        .collect();
    assert!(
        redis.other_clients() <= 2,
        "only the readiness check may be connected"
    );
    drop(strangers);
    assert_eq!(
        redis.info("acl_access_denied_auth").parse::<u64>().unwrap_or(0),
        0,
        "no login was passed on"
    );
}

#[test]
fn pipelined_commands_behind_a_login_are_answered_in_order() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.connect();
    let mut bytes = super::support::words("PING");
    bytes.extend(request(&[b"AUTH", b"app", WRONG_PASSWORD.as_bytes()]));
    bytes.extend(super::support::words("SET a 1"));
    bytes.extend(request(&[b"AUTH", b"app", APP_PASSWORD.as_bytes()]));
    bytes.extend(super::support::pipeline(&["SET a 2", "GET a"]));
    client.send(&bytes);
    assert_eq!(client.replies(6), [NOAUTH, WRONGPASS, NOAUTH, "+OK", "+OK", "$2"]);
}

#[test]
fn a_listener_without_login_serves_everyone_who_reaches_it() {
    let redis = Redis::start();
    let setup = Setup::new(&redis)
        .without_users()
        .listener("login = \"none\"")
        .expect("KW0403");
    let socket = setup.dir().join("local.sock");
    let address = format!("unix:{}", socket.display());
    let keyward = setup
        .add_listener("local", "main", &address)
        .listener_line("local", "login = \"none\"")
        .listener_line("local", "acl = \"strict\"")
        .start();
    keyward.wait_event_where("listening", |line| line["listener"] == "local");
    for mut client in [keyward.connect(), Client::unix(&socket)] {
        assert_eq!(client.call("SET a 1"), "+OK");
        assert_eq!(client.call("GET a"), "$1");
        assert!(client.call("FLUSHALL").starts_with("-NOPERM "));
        assert!(client.call("HELLO 3").starts_with("%{"));
        assert_eq!(client.call("GET a"), "$1");
    }
    let mode = std::fs::metadata(&socket).unwrap();
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777,
        0o600
    );
    // `strict` on the one, `safe` on the other.
    assert_eq!(keyward.connect().call("SELECT 1"), "+OK");
    assert!(Client::unix(&socket).call("SELECT 1").starts_with("-NOPERM "));
}
