//! Odd and hostile request bytes (rules R-1 to R-32): what is not canonical is refused or re-encoded, never passed on.

use super::support::Client;
use super::support::Keyward;
use super::support::Redis;
use super::support::SAMPLE_VALUE;
use super::support::Setup;
use super::support::eventually;
use super::support::pipeline;
use super::support::request;
use super::support::words;

/// What comes of some bytes.
enum Outcome {
    /// These replies (each is compared up to the given length), then the connection goes on.
    Replies(&'static [&'static str]),
    /// One error that begins like this, then the end.
    Error(&'static str),
    /// The end without a word.
    Silence,
}

use Outcome::Error;
use Outcome::Replies;
use Outcome::Silence;

const MULTIBULK: &str = "-ERR Protocol error: invalid multibulk length";
const BULK: &str = "-ERR Protocol error: invalid bulk length";
const ANY_ERROR: &str = "-ERR Protocol error";

fn examine(client: &mut Client, rule: &str, bytes: &[u8], outcome: &Outcome) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
    // The other side may have closed before everything was written.
    let sent = client.try_send(bytes);
    match outcome {
        Replies(expected) => {
            sent.unwrap();
            for start in *expected {
                let reply = client.reply();
                assert!(
                    reply.starts_with(start),
                    "{rule} {shown:?}: got {reply:?}, expected {start:?}"
                );
                let line_end = reply.contains(['\r', '\n']) && reply.starts_with('-');
                assert!(!line_end, "{rule} {shown:?}: an error is one line: {reply:?}");
            }
            assert_eq!(
                client.call_args(&["ECHO", "in step"]),
                "$in step",
                "{rule} {shown:?}"
            );
        }
        Error(start) => {
            let rest = client.read_to_end();
            let rest = String::from_utf8_lossy(&rest);
            assert!(
                rest.starts_with(start),
                "{rule} {shown:?}: got {rest:?}, expected {start:?}"
            );
            assert_eq!(
                rest.matches("\r\n").count(),
                1,
                "{rule} {shown:?}: one line alone: {rest:?}"
            );
        }
        Silence => client.expect_closed(),
    }
}

#[test]
fn bytes_after_login_get_what_the_rules_say() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).listener("inline = true").start();
    assert_eq!(redis.client().call_args(&["SET", "canary", SAMPLE_VALUE]), "+OK");
    let ping = "*1\r\n$4\r\nPING\r\n";
    let table: &[(&str, &[u8], Outcome)] = &[
        ("R-2", b"*1\r\n$4\r\nPING\r\n", Replies(&["+PONG"])),
        ("R-3", b"*1\rX$4\r\nPING\r\n", Error(MULTIBULK)),
        ("R-3", b"*1\r\r$4\r\nPING\r\n", Error(MULTIBULK)),
        ("R-4", b"*1\r\n$4\rXPING\r\n", Error(BULK)),
        ("R-4", b"*1\r\n$4\r\0PING\r\n", Error(BULK)),
        (
            "R-5",
            b"*1\r\n$4\r\nPINGxx",
            Error("-ERR Protocol error: expected CRLF after bulk"),
        ),
        ("R-5", b"*1\r\n$4\r\nPING\n\n", Error(ANY_ERROR)),
        ("R-5", b"*1\r\n$4\r\nPING\n\r", Error(ANY_ERROR)),
        ("R-5", b"*2\r\n$3\r\nGET\r\n$6\r\ncanaryxx", Error(ANY_ERROR)),
        (
            "R-6",
            b"*1\r\n$4\r\nPING\n*1\r\n$8\r\nFLUSHALL\r\n",
            Error(ANY_ERROR),
        ),
        ("R-7", b"*1\n$4\r\nPING\r\n", Error(ANY_ERROR)),
        ("R-7", b"*1\r\n$4\nPING\r\n", Error(ANY_ERROR)),
        ("R-8", b"*01\r\n$4\r\nPING\r\n", Error(MULTIBULK)),
        ("R-8", b"*+1\r\n$4\r\nPING\r\n", Error(MULTIBULK)),
        ("R-8", b"*00\r\n", Error(MULTIBULK)),
        ("R-8", b"*-0\r\n", Error(MULTIBULK)),
        ("R-8", b"* 1\r\n$4\r\nPING\r\n", Error(MULTIBULK)),
        ("R-8", b"*1 \r\n$4\r\nPING\r\n", Error(MULTIBULK)),
        ("R-8", b"*1.0\r\n$4\r\nPING\r\n", Error(MULTIBULK)),
        ("R-8", b"*0x1\r\n$4\r\nPING\r\n", Error(MULTIBULK)),
        ("R-8", b"*1e0\r\n$4\r\nPING\r\n", Error(MULTIBULK)),
        ("R-8", b"*\r\n", Error(MULTIBULK)),
        ("R-8", b"*-\r\n", Error(MULTIBULK)),
        ("R-9", b"*1\r\n$04\r\nPING\r\n", Error(BULK)),
        ("R-9", b"*1\r\n$+4\r\nPING\r\n", Error(BULK)),
        ("R-9", b"*1\r\n$00\r\n\r\n", Error(BULK)),
        ("R-9", b"*1\r\n$-0\r\n\r\n", Error(BULK)),
        ("R-9", b"*1\r\n$ 4\r\nPING\r\n", Error(BULK)),
        ("R-9", b"*1\r\n$4 \r\nPING\r\n", Error(BULK)),
        ("R-9", b"*1\r\n$\r\nPING\r\n", Error(BULK)),
        ("R-9", b"*1\r\n$-1\r\n", Error(BULK)),
        ("R-9", b"*1\r\n$-4\r\nPING\r\n", Error(BULK)),
        ("R-10", b"*0\r\n", Replies(&[])),
        ("R-10", b"*-1\r\n*0\r\n*-9223372036854775808\r\n", Replies(&[])),
        ("R-11", b"*-9223372036854775809\r\n", Error(MULTIBULK)),
        ("R-11", b"*2147483648\r\n", Error(MULTIBULK)),
        ("R-11", b"*4294967297\r\n", Error(MULTIBULK)),
        ("R-11", b"*9223372036854775808\r\n", Error(MULTIBULK)),
        (
            "R-11",
            b"*18446744073709551617\r\n$4\r\nPING\r\n",
            Error(MULTIBULK),
        ),
        ("R-12", b"*2147483647\r\n", Error(MULTIBULK)),
        ("R-12", b"*1048577\r\n", Error(MULTIBULK)),
        ("R-14", b"*2\r\n$4\r\nECHO\r\n$536870913\r\n", Error(BULK)),
        ("R-14", b"*1\r\n$4294967300\r\nPING\r\n", Error(BULK)),
        ("R-14", b"*1\r\n$18446744073709551620\r\nPING\r\n", Error(BULK)),
        ("R-15", b"*1\0", Error(ANY_ERROR)),
        ("R-15", b"*1\r\n$4\0\r\nPING\r\n", Error(ANY_ERROR)),
        ("R-15", b"PI\0NG\r\n", Error(ANY_ERROR)),
        (
            "R-17",
            b"*1\r\n+PING\r\n",
            Error("-ERR Protocol error: expected '$', got '+'"),
        ),
        (
            "R-17",
            b"*1\r\n:1\r\n",
            Error("-ERR Protocol error: expected '$', got ':'"),
        ),
        (
            "R-17",
            b"*1\r\n-PING\r\n",
            Error("-ERR Protocol error: expected '$', got '-'"),
        ),
        (
            "R-17",
            b"*1\r\n_\r\n",
            Error("-ERR Protocol error: expected '$', got '_'"),
        ),
        (
            "R-17",
            b"*1\r\n=8\r\ntxt:PING\r\n",
            Error("-ERR Protocol error: expected '$', got '='"),
        ),
        (
            "R-17",
            b"*1\r\n!4\r\nPING\r\n",
            Error("-ERR Protocol error: expected '$', got '!'"),
        ),
        (
            "R-17",
            b"*1\r\n(1\r\n",
            Error("-ERR Protocol error: expected '$', got '('"),
        ),
        (
            "R-17",
            b"*1\r\n,1\r\n",
            Error("-ERR Protocol error: expected '$', got ','"),
        ),
        (
            "R-17",
            b"*1\r\n#t\r\n",
            Error("-ERR Protocol error: expected '$', got '#'"),
        ),
        (
            "R-17",
            b"*1\r\n~1\r\n",
            Error("-ERR Protocol error: expected '$', got '~'"),
        ),
        (
            "R-17",
            b"*1\r\n>1\r\n",
            Error("-ERR Protocol error: expected '$', got '>'"),
        ),
        (
            "R-17",
            b"*1\r\n%1\r\n",
            Error("-ERR Protocol error: expected '$', got '%'"),
        ),
        (
            "R-17",
            b"*1\r\n|1\r\n",
            Error("-ERR Protocol error: expected '$', got '|'"),
        ),
        (
            "R-17",
            b"*1\r\n*1\r\n$4\r\nPING\r\n",
            Error("-ERR Protocol error: expected '$', got '*'"),
        ),
        (
            "R-18",
            b"~1\r\n$4\r\nPING\r\n",
            Replies(&["-ERR unknown command", "-ERR unknown command", "+PONG"]),
        ),
        (
            "R-18",
            b">1\r\nPING\r\n",
            Replies(&["-ERR unknown command", "+PONG"]),
        ),
        (
            "R-18",
            b"$8\r\nFLUSHALL\r\n",
            Replies(&["-ERR unknown command", "-NOPERM "]),
        ),
        ("R-19", b"*?\r\n", Error(MULTIBULK)),
        ("R-19", b"*1\r\n$?\r\n", Error(BULK)),
        ("R-20", b"*1\r\n$0\r\n\r\n", Replies(&["-ERR unknown command ''"])),
        (
            "R-21",
            b"*1\r\n$5\r\nPING\0\r\n",
            Replies(&["-ERR unknown command 'PING"]),
        ),
        (
            "R-21",
            b"*1\r\n$9\r\nFLUSHALL\0\r\n",
            Replies(&["-ERR unknown command 'FLUSHALL"]),
        ),
        (
            "R-21",
            b"*1\r\n$5\r\nPING \r\n",
            Replies(&["-ERR unknown command 'PING '"]),
        ),
        (
            "R-21",
            b"*1\r\n$5\r\n PING\r\n",
            Replies(&["-ERR unknown command ' PING'"]),
        ),
        (
            "R-21",
            b"*1\r\n$10\r\nPING\r\n+INJ\r\n",
            Replies(&["-ERR unknown command 'PING  +INJ'"]),
        ),
        ("R-22", b"*1\r\n$8\r\nFlUsHaLl\r\n", Replies(&["-NOPERM "])),
        (
            "R-22",
            "*1\r\n$9\r\nFLUſHALL\r\n".as_bytes(),
            Replies(&["-ERR unknown command"]),
        ),
        (
            "R-22",
            "*2\r\n$5\r\nPıNG\r\n$1\r\na\r\n".as_bytes(),
            Replies(&["-ERR unknown command"]),
        ),
        (
            "R-22",
            "*1\r\n$12\r\nＰＩＮＧ\r\n".as_bytes(),
            Replies(&["-ERR unknown command"]),
        ),
        (
            "R-22",
            "*2\r\n$6\r\n\u{212a}EYS\r\n$1\r\n*\r\n".as_bytes(),
            Replies(&["-ERR unknown command"]),
        ),
        (
            "R-23",
            b"*2\r\n$10\r\nconfig|get\r\n$1\r\n*\r\n",
            Replies(&["-ERR unknown command 'config|get'"]),
        ),
        ("R-24", b"FLUSHALL\r\n", Replies(&["-NOPERM "])),
        ("R-24", b" FLUSHALL\r\n", Replies(&["-NOPERM "])),
        ("R-24", b"\tflushdb\r\n", Replies(&["-NOPERM "])),
        ("R-24", b"\"FLUSHALL\"\r\n", Replies(&["-NOPERM "])),
        ("R-24", b"'flushall'\r\n", Replies(&["-NOPERM "])),
        ("R-24", b"\"\\x46LUSHALL\"\r\n", Replies(&["-NOPERM "])),
        ("R-24", b"FLUSHALL\n", Replies(&["-NOPERM "])),
        ("R-24", b"\x0bFLUSHALL\r\n", Replies(&["-NOPERM "])),
        ("R-24", b"\x0cFLUSHALL\r\n", Replies(&["-NOPERM "])),
        ("R-24", b"SET inline \"a b\\x00\\n\"\r\n", Replies(&["+OK"])),
        ("R-24", b"GET inline\r\n", Replies(&["$a b\0\n"])),
        (
            "R-25",
            b"SET a \"b\r\n",
            Error("-ERR Protocol error: unbalanced quotes in request"),
        ),
        (
            "R-25",
            b"SET a \"b\"c\r\n",
            Error("-ERR Protocol error: unbalanced quotes in request"),
        ),
        (
            "R-25",
            b"SET a 'b\r\n",
            Error("-ERR Protocol error: unbalanced quotes in request"),
        ),
        ("R-26", b"\r\n\n\r\nPING\r\n", Replies(&["+PONG"])),
        ("R-27", b"   \r\n*1\r\n$4\r\nPING\r\n", Replies(&["+PONG"])),
        ("R-28", b"POST / HTTP/1.1\r\nHost: x\r\n\r\nFLUSHALL\r\n", Silence),
        ("R-28", b"*1\r\n$4\r\npost\r\n*1\r\n$4\r\nPING\r\n", Silence),
        ("R-28", b"*2\r\n$5\r\nhOsT:\r\n$1\r\nx\r\n", Silence),
        ("R-28", b"host: x\r\nPING\r\n", Silence),
    ];
    for (rule, bytes, outcome) in table {
        examine(&mut keyward.app(), rule, bytes, outcome);
    }
    let mut get = keyward.app();
    get.send(b"GET / HTTP/1.1\r\nHost: x\r\nPING\r\n\r\n");
    let rest = String::from_utf8(get.read_to_end()).unwrap();
    assert!(
        !rest.contains("PONG"),
        "R-28: a GET ends at its Host line: {rest:?}"
    );
    // Long and nested input.
    let long = |unit: &str, count: usize| unit.repeat(count).into_bytes();
    let mut digits = b"*".to_vec();
    digits.extend(long("1", 70_000));
    examine(&mut keyward.app(), "R-16", &digits, &Error(ANY_ERROR));
    let mut digits = b"*1\r\n$".to_vec();
    digits.extend(long("1", 70_000));
    examine(&mut keyward.app(), "R-16", &digits, &Error(ANY_ERROR));
    let inline = long("x", 70_000);
    examine(
        &mut keyward.app(),
        "R-16",
        &inline,
        &Error("-ERR Protocol error: too big inline request"),
    );
    let nested = long("*1\r\n", 100_000);
    examine(
        &mut keyward.app(),
        "R-32",
        &nested,
        &Error("-ERR Protocol error: expected '$', got '*'"),
    );
    let mut blank = long("\r\n", 1_000);
    blank.extend_from_slice(ping.as_bytes());
    examine(&mut keyward.app(), "R-26", &blank, &Replies(&["+PONG"]));
    examine(
        &mut keyward.app(),
        "R-26",
        &long("\r\n", 1_001),
        &Error(ANY_ERROR),
    );
    let mut empty = long("*0\r\n", 1_000);
    empty.extend_from_slice(ping.as_bytes());
    examine(&mut keyward.app(), "R-10", &empty, &Replies(&["+PONG"]));
    examine(
        &mut keyward.app(),
        "R-10",
        &long("*-1\r\n", 1_001),
        &Error(ANY_ERROR),
    );
    // Nothing of all this had an effect.
    assert_eq!(redis.client().call("GET canary"), format!("${SAMPLE_VALUE}"));
    assert_eq!(redis.calls("flushall") + redis.calls("flushdb"), 0);
    assert!(keyward.metric("keyward_protocol_errors_total", &[("side", "client")]) > 30.0);
}

#[test]
fn bytes_before_login_get_what_the_rules_say() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).listener("inline = true").start();
    let noauth = "-NOAUTH Authentication required.";
    let table: &[(&str, &[u8], Outcome)] = &[
        ("R-3", b"*1\rX$4\r\nPING\r\n", Error(MULTIBULK)),
        ("R-5", b"*1\r\n$4\r\nPINGxx", Error(ANY_ERROR)),
        ("R-8", b"*01\r\n", Error(MULTIBULK)),
        ("R-9", b"*1\r\n$-1\r\n", Error(BULK)),
        ("R-15", b"*1\0", Error(ANY_ERROR)),
        (
            "R-17",
            b"*1\r\n:1\r\n",
            Error("-ERR Protocol error: expected '$', got ':'"),
        ),
        (
            "L-1",
            b"*11\r\n",
            Error("-ERR Protocol error: unauthenticated multibulk length"),
        ),
        (
            "L-1",
            b"*1000000\r\n",
            Error("-ERR Protocol error: unauthenticated multibulk length"),
        ),
        (
            "L-2",
            b"*1\r\n$16385\r\n",
            Error("-ERR Protocol error: unauthenticated bulk length"),
        ),
        (
            "L-2",
            b"*1\r\n$536870912\r\n",
            Error("-ERR Protocol error: unauthenticated bulk length"),
        ),
        ("R-28", b"POST / HTTP/1.1\r\nHost: x\r\n\r\n", Silence),
        ("R-28", b"*1\r\n$5\r\nHost:\r\n", Silence),
    ];
    for (rule, bytes, outcome) in table {
        examine(&mut keyward.connect(), rule, bytes, outcome);
    }
    let nested = "*1\r\n".repeat(100_000);
    let expected = Error("-ERR Protocol error: expected '$', got '*'");
    examine(&mut keyward.connect(), "R-32", nested.as_bytes(), &expected);
    // In step without login: a blank line, an ignored request, a refused one.
    let mut client = keyward.connect();
    client.send(b"\r\n*0\r\nPING\r\n*1\r\n$4\r\nPING\r\n");
    assert_eq!(client.replies(2), [noauth, noauth]);
}

#[test]
fn without_inline_every_other_first_byte_ends_the_connection() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis).listener("inline = false").start();
    let lines: &[&[u8]] = &[
        b"PING\r\n",
        b"$4\r\nPING\r\n",
        b"~1\r\n",
        b"GET / HTTP/1.1\r\n",
        b"+OK\r\n",
        b":1\r\n",
        b" \r\n",
    ];
    for line in lines {
        examine(&mut keyward.connect(), "R-18", line, &Error("-ERR "));
        examine(&mut keyward.app(), "R-18", line, &Error("-ERR "));
    }
    for unit in ["%1\r\n", "|1\r\n"] {
        examine(
            &mut keyward.app(),
            "R-32",
            unit.repeat(20_000).as_bytes(),
            &Error("-ERR "),
        );
    }
    // An HTTP request gets no further than its first line, whatever comes behind it.
    let mut client = keyward.app();
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n");
    let rest = String::from_utf8(client.read_to_end()).unwrap();
    assert!(rest.matches("\r\n").count() <= 1, "{rest:?}");
}

#[test]
fn a_listener_without_login_on_plaintext_takes_no_inline_commands_by_default() {
    let redis = Redis::start();
    let keyward = Setup::new(&redis)
        .without_users()
        .listener("login = \"none\"")
        .expect("KW0403")
        .start();
    assert_eq!(keyward.connect().call("PING"), "+PONG");
    examine(&mut keyward.connect(), "R-24", b"PING\r\n", &Error("-ERR "));
}

#[test]
fn a_request_may_arrive_byte_by_byte() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    let bytes = pipeline(&["SET a 1", "FLUSHALL", "GET a"]);
    for byte in &bytes {
        client.send(&[*byte]);
    }
    assert_eq!(client.reply(), "+OK");
    assert!(client.reply().starts_with("-NOPERM "));
    assert_eq!(client.reply(), "$1");
}

#[test]
fn every_split_of_a_pipeline_gives_the_same_replies() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let bytes = pipeline(&["SET a 1", "FLUSHALL", "GET a", "NOSUCH", "PING"]);
    let mut client = keyward.app();
    for at in 1..bytes.len() {
        client.send(&bytes[..at]);
        client.send(&bytes[at..]);
        let replies = client.replies(5);
        assert_eq!(replies[0], "+OK", "split at {at}");
        assert!(replies[1].starts_with("-NOPERM "), "split at {at}");
        assert_eq!(replies[2], "$1", "split at {at}");
        assert!(replies[3].starts_with("-ERR unknown command"), "split at {at}");
        assert_eq!(replies[4], "+PONG", "split at {at}");
    }
}

#[test]
fn a_value_that_looks_like_commands_is_a_value() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    let value = "\r\n*1\r\n$8\r\nFLUSHALL\r\n*1\r\n$4\r\nPOST\r\n";
    assert_eq!(client.call_args(&["SET", "a", value]), "+OK");
    assert_eq!(client.call("GET a"), format!("${value}"));
    assert_eq!(redis.calls("flushall"), 0);
}

#[test]
fn half_a_request_is_never_executed() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let whole = words("SET half done");
    for cut in [5, whole.len() - 1] {
        let mut client = keyward.app();
        client.send(&whole[..cut]);
        drop(client);
    }
    // The head of a big value has been passed on when the client goes: the connection to Redis goes as well (R-30).
    let mut client = keyward.app();
    assert_eq!(client.call("CLIENT SETNAME half"), "+OK");
    client.send(b"*3\r\n$3\r\nSET\r\n$4\r\nhalf\r\n$8000000\r\n");
    client.send(&vec![b'x'; 3_000_000]);
    drop(client);
    eventually("the end of the half-fed connection", || {
        (!redis.client().call("CLIENT LIST").contains("name=half")).then_some(())
    });
    assert_eq!(redis.client().call("EXISTS half"), ":0");
    assert_eq!(keyward.app().call("SET half whole"), "+OK");
}

#[test]
fn a_refused_command_of_any_size_gets_one_error_and_stays_in_step() {
    let redis = Redis::start();
    let keyward = Keyward::start(&redis);
    let mut client = keyward.app();
    let before = super::support::resident_bytes(keyward.pid());
    let big = vec![b'x'; 4 << 20];
    client.send(&request(&[b"FLUSHALL", &big]));
    assert!(client.reply().starts_with("-NOPERM "));
    client.send(&request(&[b"NOSUCHCOMMAND", &big]));
    assert!(client.reply().starts_with("-ERR unknown command"));
    let many: Vec<&[u8]> = std::iter::once(&b"KEYS"[..])
        .chain(std::iter::repeat_n(&b"k"[..], 49_999))
        .collect();
    client.send(&request(&many));
    assert!(client.reply().starts_with('-'));
    let mut bytes = words("SET a 1");
    bytes.extend(request(&[b"CONFIG", b"SET", b"maxmemory", &big]));
    bytes.extend(words("GET a"));
    client.send(&bytes);
    assert_eq!(client.reply(), "+OK");
    assert!(client.reply().starts_with("-NOPERM "));
    assert_eq!(client.reply(), "$1");
    let grown = super::support::resident_bytes(keyward.pid()).saturating_sub(before);
    assert!(grown < 8 << 20, "grew by {grown} bytes over refused commands");
}
