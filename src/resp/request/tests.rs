//! One test per rule of the request side, named by its id, and the limits at their edges.

use super::*;
use crate::resp::fuzz::{RequestEvent, check_request};
use ProtocolError::{InvalidBulkLength, InvalidMultibulkLength, MissingTerminator};

const OPEN: RequestLimits = RequestLimits::AUTHENTICATED;
const CLOSED: RequestLimits = RequestLimits::UNAUTHENTICATED;

/// The words of all requests in `input`, which must all be complete and good, after checking every cut of it
/// and Redis's own reading.
fn words_with(limits: RequestLimits, input: &[u8]) -> Vec<Vec<String>> {
    let mut requests = Vec::new();
    let events = check_request(input, limits);
    for event in &events {
        let (bytes, argc) = match event {
            RequestEvent::Request { range, argc } => (&input[range.clone()], *argc),
            RequestEvent::Inline { canonical, argc, .. } => (&canonical[..], *argc),
            RequestEvent::Skip(_) => continue,
            RequestEvent::End { idle: true } => break,
            other => panic!("{other:?} in {}", input.escape_ascii()),
        };
        requests.push(
            Args::new(bytes, argc)
                .iter()
                .map(|word| word.escape_ascii().to_string())
                .collect(),
        );
    }
    requests
}

fn words(input: &[u8]) -> Vec<Vec<String>> {
    words_with(OPEN, input)
}

/// `input` is refused, and at its last byte: without it, nothing is wrong yet.
fn refused_with(limits: RequestLimits, input: &[u8], error: ProtocolError) {
    let shown = input.escape_ascii().to_string();
    assert_eq!(
        check_request(input, limits).last(),
        Some(&RequestEvent::Error(error)),
        "{shown}"
    );
    let before = check_request(&input[..input.len() - 1], limits);
    assert!(
        matches!(before.last(), Some(RequestEvent::End { .. })),
        "{shown} is refused too early: {before:?}"
    );
}

fn refused(input: &[u8], error: ProtocolError) {
    refused_with(OPEN, input, error);
}

fn skipped(input: &[u8]) {
    assert_eq!(
        check_request(input, OPEN),
        [
            RequestEvent::Skip(0..input.len()),
            RequestEvent::End { idle: true }
        ],
        "{}",
        input.escape_ascii()
    );
}

fn waits(input: &[u8]) {
    assert_eq!(
        check_request(input, OPEN),
        [RequestEvent::End { idle: false }],
        "{}",
        input.escape_ascii()
    );
}

#[test]
fn r1_r2_canonical_requests_are_forwarded_as_they_are_whatever_the_packets() {
    assert_eq!(words(b"*1\r\n$4\r\nPING\r\n"), [["PING"]]);
    assert_eq!(
        words(b"*2\r\n$3\r\nGET\r\n$12\r\nabcdefghijkl\r\n*3\r\n$3\r\nSET\r\n$0\r\n\r\n$1\r\n\n\r\n"),
        [vec!["GET", "abcdefghijkl"], vec!["SET", "", r"\n"]]
    );
}

#[test]
fn r3_the_byte_behind_the_counts_cr_is_lf() {
    for byte in [b'X', 0, b'\r', b'*'] {
        refused(&[b"*1\r", &[byte][..]].concat(), InvalidMultibulkLength);
    }
}

#[test]
fn r4_the_byte_behind_the_lengths_cr_is_lf() {
    for byte in [b'X', 0, b'\r', b'P'] {
        refused(&[b"*1\r\n$4\r", &[byte][..]].concat(), InvalidBulkLength);
    }
}

#[test]
fn r5_r6_an_argument_ends_with_cr_lf() {
    refused(b"*1\r\n$4\r\nPINGx", MissingTerminator);
    refused(b"*1\r\n$4\r\nPING\n", MissingTerminator);
    refused(b"*1\r\n$4\r\nPING\r\r", MissingTerminator);
    refused(b"*1\r\n$4\r\nPING\r*", MissingTerminator);
}

#[test]
fn r7_a_length_line_does_not_end_with_lf_alone() {
    refused(b"*1\n", InvalidMultibulkLength);
    refused(b"*1\r\n$4\n", InvalidBulkLength);
}

#[test]
fn r8_a_count_is_a_canonical_number() {
    for line in [
        "*01", "*+", "*00", "*-0", "* ", "*1 ", "*1.", "*0x", "*1e", "*\r", "*-\r", "*-+", "*--", "*-01",
        "*-1a",
    ] {
        let line = line.strip_suffix("*-01").map_or(line, |_| "*-0");
        refused(line.as_bytes(), InvalidMultibulkLength);
    }
}

#[test]
fn r9_a_length_is_a_canonical_number() {
    for line in ["$04", "$+", "$00", "$-", "$ ", "$4 ", "$\r", "$4.", "$x"] {
        refused(&[b"*1\r\n", line.as_bytes()].concat(), InvalidBulkLength);
    }
}

#[test]
fn r10_empty_and_negative_counts_are_dropped() {
    for line in ["*0\r\n", "*-1\r\n", "*-20\r\n", "*-9223372036854775808\r\n"] {
        skipped(line.as_bytes());
    }
}

#[test]
fn r10_r26_a_thousand_empties_in_a_row_are_dropped_and_no_more() {
    for empty in [&b"*0\r\n"[..], b"*-1\r\n", b"\r\n", b"\n", b" \t\r\n"] {
        let mut scanner = RequestScanner::new(OPEN);
        let input = [
            empty.repeat(1000),
            b"*1\r\n$4\r\nPING\r\n".to_vec(),
            empty.repeat(1001),
        ]
        .concat();
        let mut window = &input[..];
        let mut skips = Vec::new();
        let error = loop {
            match scanner.scan(window) {
                Ok(Scan::Skip { len }) => {
                    skips.push(len);
                    window = &window[len..];
                }
                Ok(Scan::Request { len, .. }) => window = &window[len..],
                Ok(other) => panic!("{other:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error, ProtocolError::TooManyEmpty);
        assert_eq!(skips, vec![empty.len(); 2000]);
    }
}

#[test]
fn r11_counts_out_of_range_are_refused() {
    for count in [
        "-9223372036854775809",
        "2147483648",
        "4294967297",
        "9223372036854775808",
        "18446744073709551617",
    ] {
        refused(format!("*{count}\r\n").as_bytes(), InvalidMultibulkLength);
        refused_with(CLOSED, format!("*{count}\r\n").as_bytes(), InvalidMultibulkLength);
    }
}

#[test]
fn r12_l25_more_than_max_args_are_refused() {
    waits(b"*1048576\r\n");
    refused(b"*1048577\r\n", InvalidMultibulkLength);
    refused(b"*2147483647\r\n", InvalidMultibulkLength);
}

#[test]
fn r13_the_longest_argument_passes_in_pieces_of_what_has_arrived() {
    let mut scanner = RequestScanner::new(OPEN);
    let head = b"*2\r\n$4\r\nECHO\r\n$536870912\r\n";
    assert_eq!(
        scanner.scan(head),
        Ok(Scan::Head {
            len: head.len(),
            argc: 2
        })
    );
    assert!(!scanner.is_idle());
    let piece = vec![b'x'; 65_536];
    for _ in 0..536_870_912 / piece.len() {
        assert_eq!(
            scanner.scan(&piece),
            Ok(Scan::Body {
                len: piece.len(),
                last: false
            })
        );
    }
    assert_eq!(scanner.scan(b""), Ok(Scan::Incomplete));
    assert_eq!(scanner.scan(b"\r"), Ok(Scan::Incomplete));
    assert!(!scanner.is_idle());
    assert_eq!(scanner.scan(b"\r\n*"), Ok(Scan::Body { len: 2, last: true }));
    assert!(scanner.is_idle());
}

#[test]
fn r14_l6_longer_arguments_are_refused() {
    for length in [
        "536870913",
        "4294967300",
        "18446744073709551620",
        "18446744073709551615",
    ] {
        refused(format!("*1\r\n${length}\r\n").as_bytes(), InvalidBulkLength);
        refused_with(
            CLOSED,
            format!("*1\r\n${length}\r\n").as_bytes(),
            InvalidBulkLength,
        );
    }
}

#[test]
fn r15_nul_in_a_line_is_refused_at_once() {
    refused(b"*\0", InvalidMultibulkLength);
    refused(b"*1\0", InvalidMultibulkLength);
    refused(b"*1\r\n$\0", InvalidBulkLength);
    refused(b"*1\r\n$4\0", InvalidBulkLength);
    refused(b"\0", ProtocolError::NulInInline);
    refused(b"PING\0", ProtocolError::NulInInline);
    refused(b"\"a\0", ProtocolError::NulInInline);
}

#[test]
fn r16_l7_lines_are_bounded() {
    let digits = "1".repeat(64);
    refused(
        format!("*{digits}").as_bytes(),
        ProtocolError::TooBigMultibulkLine,
    );
    refused(
        format!("*-{digits}").as_bytes(),
        ProtocolError::TooBigMultibulkLine,
    );
    refused(
        format!("*1\r\n${digits}").as_bytes(),
        ProtocolError::TooBigBulkLine,
    );
    // 65,536 bytes are a line, the CR included; one more is none, before any LF.
    let line = [vec![b'a'; 65_535], b"\r\n".to_vec()].concat();
    assert_eq!(
        RequestScanner::new(OPEN).scan(&line),
        Ok(Scan::Inline { len: 65_537, argc: 1 })
    );
    let mut scanner = RequestScanner::new(OPEN);
    assert_eq!(scanner.scan(&[b'a'; 65_536]), Ok(Scan::Incomplete));
    assert_eq!(scanner.scan(&[b'a'; 65_537]), Err(ProtocolError::TooBigInline));
    let mut line = vec![b'a'; 65_537];
    line.push(b'\n');
    assert_eq!(
        RequestScanner::new(OPEN).scan(&line),
        Err(ProtocolError::TooBigInline)
    );
}

#[test]
fn r17_r19_r32_elements_are_bulk_strings() {
    for got in *b"+:-_=!(,#~>%|*" {
        refused(
            &[b"*1\r\n", &[got][..]].concat(),
            ProtocolError::ExpectedBulk { got },
        );
    }
    refused(
        b"*2\r\n$4\r\nECHO\r\n*",
        ProtocolError::ExpectedBulk { got: b'*' },
    );
    refused(b"*?", InvalidMultibulkLength);
    refused(b"*1\r\n$?", InvalidBulkLength);
    assert_eq!(
        check_request(&b"*1\r\n".repeat(100_000), OPEN),
        [RequestEvent::Error(ProtocolError::ExpectedBulk { got: b'*' })]
    );
}

#[test]
fn r18_another_first_byte_is_an_inline_command() {
    assert_eq!(words(b"~1\r\n$4\r\nPING\r\n"), [["~1"], ["$4"], ["PING"]]);
    for first in *b"$+:~>%|P \t\0\x80" {
        refused_with(
            RequestLimits {
                inline: false,
                ..OPEN
            },
            &[first],
            ProtocolError::InlineOff,
        );
        refused_with(
            RequestLimits {
                inline: false,
                ..CLOSED
            },
            &[first],
            ProtocolError::InlineOff,
        );
    }
}

#[test]
fn r20_an_empty_name_is_an_argument_like_any() {
    assert_eq!(words(b"*1\r\n$0\r\n\r\n*1\r\n$4\r\nPING\r\n"), [[""], ["PING"]]);
}

#[test]
fn r21_r22_r23_names_are_handed_on_byte_by_byte() {
    for name in [
        "PING\0",
        "PING ",
        " PING",
        "PING\r\n",
        "FlUsHaLl",
        "con\u{17f}ig",
        "config|get",
    ] {
        let request = format!("*1\r\n${}\r\n{name}\r\n", name.len());
        assert_eq!(
            words(request.as_bytes()),
            [[name.as_bytes().escape_ascii().to_string()]]
        );
    }
}

#[test]
fn r24_inline_commands_are_read_as_redis_reads_them_and_written_anew() {
    for line in [
        &b"FLUSHALL\r\n"[..],
        b" FLUSHALL\r\n",
        b"\tFLUSHALL\n",
        b"\"FLUSHALL\"\r\n",
        b"'FLUSHALL'\r\n",
        b"\"\\x46LUSHALL\"\r\n",
        b"FLUSH\"ALL\"\r\n",
        b"FLUSHALL\n",
        b"FLUSHALL\r\r\n",
        b"\x0bFLUSHALL\r\n",
        b"\x0cFLUSHALL\r\n",
    ] {
        assert_eq!(words(line), [["FLUSHALL"]], "{}", line.escape_ascii());
        let mut scanner = RequestScanner::new(OPEN);
        assert_eq!(
            scanner.scan(line),
            Ok(Scan::Inline {
                len: line.len(),
                argc: 1
            })
        );
        assert_eq!(scanner.inline_request(), b"*1\r\n$8\r\nFLUSHALL\r\n");
        assert_eq!(scanner.scan(b""), Ok(Scan::Incomplete));
        assert_eq!(scanner.inline_request(), b"", "no buffer is kept");
    }
    assert_eq!(
        words(b"set k v\n*1\r\n$4\r\nPING\r\nget k\r\n"),
        [vec!["set", "k", "v"], vec!["PING"], vec!["get", "k"]]
    );
}

#[test]
fn r25_unbalanced_or_glued_quotes_are_refused_at_the_end_of_the_line() {
    for line in ["\"a\n", "'a\n", "\"a\"b\n", "'a'b\n", "set k \"v\n"] {
        refused(line.as_bytes(), ProtocolError::UnbalancedQuotes);
    }
}

#[test]
fn r26_empty_lines_are_dropped_with_inline_commands_off_as_well() {
    for inline in [true, false] {
        let limits = RequestLimits { inline, ..OPEN };
        assert_eq!(
            words_with(limits, b"\r\n\n\r\n*1\r\n$4\r\nPING\r\n\n"),
            [["PING"]]
        );
    }
    refused_with(
        RequestLimits {
            inline: false,
            ..OPEN
        },
        b"\rP",
        ProtocolError::InlineOff,
    );
}

#[test]
fn r27_a_line_of_blanks_is_dropped_and_never_forwarded() {
    for line in [" \r\n", "\t\n", "\r\r\n", " \x0b\x0c \r\n"] {
        skipped(line.as_bytes());
        assert_eq!(
            words(format!("{line}*1\r\n$4\r\nPING\r\n").as_bytes()),
            [["PING"]]
        );
    }
}

#[test]
fn r28_words_of_http_are_requests_like_any_and_left_to_the_policy() {
    assert_eq!(
        words(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        [vec!["GET", "/", "HTTP/1.1"], vec!["Host:", "a"]]
    );
}

#[test]
fn r29_a_value_may_look_like_requests() {
    assert_eq!(
        words(b"*2\r\n$4\r\nECHO\r\n$22\r\n\r\n*1\r\n$8\r\nFLUSHALL\r\n\r\n\r\n"),
        [["ECHO", r"\r\n*1\r\n$8\r\nFLUSHALL\r\n\r\n"]]
    );
}

#[test]
fn r30_half_a_request_is_no_request() {
    let request = b"*2\r\n$4\r\nECHO\r\n$3\r\nabc\r\n";
    for end in 1..request.len() {
        waits(&request[..end]);
    }
    let mut scanner = RequestScanner::new(OPEN);
    assert!(scanner.is_idle());
    assert_eq!(scanner.scan(b""), Ok(Scan::Incomplete));
    assert!(scanner.is_idle());
    assert_eq!(scanner.scan(b"*"), Ok(Scan::Incomplete));
    assert!(!scanner.is_idle());
    assert_eq!(
        scanner.scan(request),
        Ok(Scan::Request {
            len: request.len(),
            argc: 2
        })
    );
    assert!(scanner.is_idle());
}

#[test]
fn r31_a_huge_request_can_be_dropped_in_step() {
    let big = vec![b'x'; 4 << 20];
    let input = [
        b"*2\r\n$4\r\nECHO\r\n$4194304\r\n",
        &big[..],
        b"\r\n*50000\r\n",
        &b"$1\r\na\r\n".repeat(50_000),
        b"*1\r\n$4\r\nPING\r\n",
    ]
    .concat();
    let events = crate::resp::fuzz::request_events(&input, OPEN, &[16_384]);
    assert!(
        matches!(
            events[..],
            [
                RequestEvent::Long {
                    argc: 2,
                    complete: true,
                    ..
                },
                RequestEvent::Long {
                    argc: 50_000,
                    complete: true,
                    ..
                },
                RequestEvent::Request { argc: 1, .. },
                RequestEvent::End { idle: true }
            ]
        ),
        "{events:?}"
    );
}

#[test]
fn l1_l2_l22_before_login_redis_limits_hold_with_their_own_texts() {
    use ProtocolError::{UnauthenticatedBulkLength, UnauthenticatedMultibulkLength, UnauthenticatedRequest};
    assert_eq!(
        words_with(CLOSED, &[b"*10\r\n".to_vec(), b"$1\r\na\r\n".repeat(10)].concat())[0].len(),
        10
    );
    refused_with(CLOSED, b"*11\r\n", UnauthenticatedMultibulkLength);
    refused_with(CLOSED, b"*2147483647\r\n", UnauthenticatedMultibulkLength);
    let longest = [b"*1\r\n$16384\r\n", &[b'x'; 16_384][..], b"\r\n"].concat();
    assert_eq!(
        RequestScanner::new(CLOSED).scan(&longest),
        Ok(Scan::Request {
            len: longest.len(),
            argc: 1
        })
    );
    refused_with(CLOSED, b"*1\r\n$16385\r\n", UnauthenticatedBulkLength);
    refused_with(CLOSED, b"*1\r\n$536870912\r\n", UnauthenticatedBulkLength);
    // 65,536 bytes in all pass, one more does not, and nobody waits for it.
    let fill = |last: usize| {
        let arguments = [b"$16384\r\n", &[b'x'; 16_384][..], b"\r\n"].concat().repeat(3);
        [b"*4\r\n", &arguments[..], format!("${last}\r\n").as_bytes()].concat()
    };
    let room = 65_536 - fill(16_384).len() - 2;
    let whole = [&fill(room)[..], &vec![b'x'; room], b"\r\n"].concat();
    assert_eq!(whole.len(), 65_536);
    assert_eq!(
        RequestScanner::new(CLOSED).scan(&whole),
        Ok(Scan::Request { len: 65_536, argc: 4 })
    );
    refused_with(CLOSED, &fill(room + 1), UnauthenticatedRequest);
}

#[test]
fn the_head_ends_behind_the_length_line_that_crosses_the_bound() {
    let limits = RequestLimits { max_head: 24, ..OPEN };
    // Ends at byte 24 exactly: whole.
    assert_eq!(
        words_with(limits, b"*2\r\n$3\r\nGET\r\n$5\r\nabcde\r\n"),
        [["GET", "abcde"]]
    );
    let longer = b"*2\r\n$3\r\nGET\r\n$6\r\nabcdef\r\n";
    assert_eq!(
        check_request(longer, limits),
        [
            RequestEvent::Long {
                head: 0..17,
                argc: 2,
                body_end: longer.len(),
                complete: true
            },
            RequestEvent::End { idle: true }
        ]
    );
    let args = Args::new(&longer[..17], 2);
    assert_eq!(
        (args.announced(), args.get(0), args.get(1)),
        (2, Some(&b"GET"[..]), None)
    );
}

#[test]
fn an_error_behind_a_head_comes_after_the_good_bytes() {
    let limits = RequestLimits { max_head: 0, ..OPEN };
    for (input, good) in [
        (&b"*2\r\n$3\r\nGETx"[..], 11),
        (b"*2\r\n$3\r\nGET\r\n*", 13),
        (b"*2\r\n$3\r\nGET\r\n$01", 13),
        (b"*2\r\n$3\r\nGET\rx", 11),
    ] {
        let events = check_request(input, limits);
        assert!(
            matches!(events[..], [RequestEvent::Long { body_end, complete: false, .. }, RequestEvent::Error(_)] if body_end == good),
            "{events:?}"
        );
    }
}

#[test]
fn new_limits_hold_from_the_next_request_on() {
    let mut scanner = RequestScanner::new(CLOSED);
    assert_eq!(
        scanner.scan(b"*11\r\n"),
        Err(ProtocolError::UnauthenticatedMultibulkLength)
    );
    scanner.set_limits(OPEN);
    assert_eq!(scanner.scan(b"*11\r\n"), Ok(Scan::Incomplete));
}

#[test]
fn arguments_end_where_bytes_are_not_canonical() {
    for (bytes, whole) in [
        (&b"*2\r\n$1\r\na\r\n$1\r\nb\r\n"[..], 2),
        (b"*2\r\n$1\r\na\r\n$1\r\nb\r", 1),
        (b"*2\r\n$1\r\na\r\n$1\r\n", 1),
        (b"*2\r\n$1\r\na\r\n$0\r\n", 1),
        (b"*12\r\n$1\r\na\r\n", 1),
        (b"*2\r\n$99\r\na\r\n", 0),
        (b"*2\r\n:1\r\n", 0),
        (b"*2\r\n", 0),
        (b"*2", 0),
        (b"", 0),
        (b"*2\r\n$18446744073709551615\r\na\r\n", 0),
    ] {
        assert_eq!(
            Args::new(bytes, 2).iter().count(),
            whole,
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn texts_are_redis_own_and_fit_one_line() {
    for (error, text) in [
        (
            InvalidMultibulkLength,
            "ERR Protocol error: invalid multibulk length",
        ),
        (InvalidBulkLength, "ERR Protocol error: invalid bulk length"),
        (
            ProtocolError::ExpectedBulk { got: b'x' },
            "ERR Protocol error: expected '$', got 'x'",
        ),
        (
            ProtocolError::ExpectedBulk { got: b'\n' },
            "ERR Protocol error: expected '$', got ' '",
        ),
        (
            ProtocolError::ExpectedBulk { got: 0 },
            "ERR Protocol error: expected '$', got '?'",
        ),
        (
            ProtocolError::ExpectedBulk { got: 0xff },
            "ERR Protocol error: expected '$', got '?'",
        ),
        (
            ProtocolError::UnauthenticatedMultibulkLength,
            "ERR Protocol error: unauthenticated multibulk length",
        ),
        (
            ProtocolError::UnauthenticatedBulkLength,
            "ERR Protocol error: unauthenticated bulk length",
        ),
        (
            ProtocolError::UnauthenticatedRequest,
            "ERR Protocol error: unauthenticated request too large",
        ),
        (
            ProtocolError::TooBigMultibulkLine,
            "ERR Protocol error: too big mbulk count string",
        ),
        (
            ProtocolError::TooBigBulkLine,
            "ERR Protocol error: too big bulk count string",
        ),
        (
            ProtocolError::TooBigInline,
            "ERR Protocol error: too big inline request",
        ),
        (
            ProtocolError::NulInInline,
            "ERR Protocol error: NUL byte in inline request",
        ),
        (
            ProtocolError::UnbalancedQuotes,
            "ERR Protocol error: unbalanced quotes in request",
        ),
        (MissingTerminator, "ERR Protocol error: expected CRLF after bulk"),
        (
            ProtocolError::InlineOff,
            "ERR Protocol error: inline commands are off on this listener",
        ),
        (
            ProtocolError::TooManyEmpty,
            "ERR Protocol error: too many empty requests",
        ),
    ] {
        assert_eq!(error.reply(), text);
        assert!(
            error
                .label()
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        );
    }
}

#[test]
fn nothing_a_client_said_is_shown() {
    let mut scanner = RequestScanner::new(OPEN);
    assert!(scanner.scan(b"AUTH hunter2\r\n").is_ok());
    let args = Args::new(scanner.inline_request(), 2);
    assert_eq!(args.get(1), Some(&b"hunter2"[..]));
    let shown = format!("{scanner:?} {args:?} {:?}", args.iter());
    assert!(
        !shown.contains("hunter2") && !shown.contains("104, 117"),
        "{shown}"
    );
}
