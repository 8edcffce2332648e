//! One test per rule of the reply side, named by its id, and what is said of a frame.

use super::*;
use crate::resp::fuzz::{ReplyEvent, check_reply, reply_events};

/// The one frame in `input`, which must be complete and good.
fn frame(input: &[u8]) -> (FrameKind, String, Option<i64>) {
    match &check_reply(input)[..] {
        [
            ReplyEvent::Frame {
                range,
                kind,
                word,
                integer,
                complete: true,
            },
            ReplyEvent::End { idle: true },
        ] => {
            assert_eq!(*range, 0..input.len());
            (*kind, word.escape_ascii().to_string(), *integer)
        }
        other => panic!("{other:?} in {}", input.escape_ascii()),
    }
}

fn kind(input: &[u8]) -> FrameKind {
    frame(input).0
}

fn word(input: &[u8]) -> String {
    frame(input).1
}

/// `input` is refused, and at its last byte: without it, nothing is wrong yet.
fn refused(input: &[u8], error: ReplyError) {
    let shown = input.escape_ascii().to_string();
    assert_eq!(
        check_reply(input).last(),
        Some(&ReplyEvent::Error(error)),
        "{shown}"
    );
    let before = check_reply(&input[..input.len() - 1]);
    assert!(
        matches!(before.last(), Some(ReplyEvent::End { .. })),
        "{shown} is refused too early: {before:?}"
    );
}

#[test]
fn p1_replies_as_deep_as_scripts_make_them_pass_and_deeper_ones_do_not() {
    for opener in [&b"*1\r\n"[..], b"~1\r\n", b"*2\r\n:1\r\n"] {
        let mut input = opener.repeat(8_192);
        input.extend_from_slice(b"-ERR reached lua stack limit\r\n");
        let length = input.len();
        let events = reply_events(&input, &[usize::MAX]);
        assert!(
            matches!(&events[0], ReplyEvent::Frame { range, complete: true, .. } if range.end == length),
            "{:?}",
            events.last()
        );
        assert_eq!(events, reply_events(&input, &[1000, 1]));
        let deeper = [opener, &input].concat();
        for cuts in [&[usize::MAX][..], &[1], &[77]] {
            assert_eq!(
                reply_events(&deeper, cuts).last(),
                Some(&ReplyEvent::Error(ReplyError::TooDeep))
            );
        }
        let mut scanner = ReplyScanner::new();
        assert!(matches!(
            scanner.scan(&input),
            Ok(ReplyScan::Piece { last: true, .. })
        ));
        assert!(
            scanner.outer.capacity() <= KEPT_LEVELS,
            "the stack of a deep reply is not kept"
        );
    }
    let maps = b"%1\r\n+k\r\n".repeat(1_000_000);
    assert_eq!(
        reply_events(&maps, &[4096]).last(),
        Some(&ReplyEvent::Error(ReplyError::TooDeep))
    );
}

#[test]
fn p2_all_types_are_framed() {
    use FrameKind::*;
    for (input, expected) in [
        (&b"+OK\r\n"[..], Simple),
        (b"+\r\n", Simple),
        (b"-ERR no\r\n", Error),
        (b":0\r\n", Integer),
        (b":-9223372036854775808\r\n", Integer),
        (b"$0\r\n\r\n", Bulk),
        (b"$5\r\n\r\n+a\n\r\n", Bulk),
        (b"$-1\r\n", Null),
        (b"*-1\r\n", Null),
        (b"_\r\n", Null),
        (b"*0\r\n", Array),
        (b"*2\r\n$-1\r\n*-1\r\n", Array),
        (b"*2\r\n*2\r\n:1\r\n:2\r\n*0\r\n", Array),
        (b"#t\r\n", Boolean),
        (b"#f\r\n", Boolean),
        (b",1.5\r\n", Double),
        (b",-inf\r\n", Double),
        (b"(-3492890328409238509324850943850943825024385\r\n", BigNumber),
        (b"!5\r\nERR x\r\n", BulkError),
        (b"=6\r\ntxt:hi\r\n", Verbatim),
        (b"%2\r\n+a\r\n:1\r\n+b\r\n%0\r\n", Map),
        (b"~2\r\n:1\r\n:2\r\n", Set),
        (b">2\r\n+invalidate\r\n_\r\n", Push),
        (b"|1\r\n+ttl\r\n:3\r\n$1\r\na\r\n", Bulk),
        (
            b"|0\r\n|1\r\n|1\r\n+x\r\n+y\r\n+ttl\r\n*1\r\n:3\r\n>1\r\n+a\r\n",
            Push,
        ),
        (b"*2\r\n|1\r\n+ttl\r\n:3\r\n:1\r\n|0\r\n:2\r\n", Array),
    ] {
        assert_eq!(kind(input), expected, "{}", input.escape_ascii());
    }
    assert!(Error.is_error() && BulkError.is_error() && !Simple.is_error());
}

#[test]
fn p2_streamed_and_unknown_types_are_refused() {
    for input in ["$?", "*?", "%?", "~?", ">?", "|?", ".", ";"] {
        refused(input.as_bytes(), ReplyError::Streamed);
    }
    for byte in [b'H', b'\r', b'\n', 0, 0x16, b' ', b'?'] {
        refused(&[byte], ReplyError::UnknownType(byte));
        refused(
            &[b"*1\r\n+a\r\n", &[byte][..]].concat(),
            ReplyError::UnknownType(byte),
        );
    }
    refused(b"*1\r\n>", ReplyError::NestedPush);
    refused(b"|1\r\n>", ReplyError::NestedPush);
}

#[test]
fn p3_long_values_and_lines_pass_in_pieces() {
    let mut scanner = ReplyScanner::new();
    let piece = vec![b'x'; 65_536];
    assert_eq!(
        scanner.scan(b"$1073741824\r\n"),
        Ok(ReplyScan::Piece {
            len: 13,
            first: true,
            last: false
        })
    );
    for _ in 0..1_073_741_824 / piece.len() {
        assert_eq!(
            scanner.scan(&piece),
            Ok(ReplyScan::Piece {
                len: piece.len(),
                first: false,
                last: false
            })
        );
    }
    assert_eq!(scanner.scan(b"\r"), Ok(ReplyScan::Incomplete));
    assert!(!scanner.is_idle());
    assert_eq!(
        scanner.scan(b"\r\n+"),
        Ok(ReplyScan::Piece {
            len: 2,
            first: false,
            last: true
        })
    );
    assert!(scanner.is_idle());
    assert_eq!(scanner.kind(), FrameKind::Bulk);

    assert_eq!(
        scanner.scan(b"+FULLRESYNC "),
        Ok(ReplyScan::Piece {
            len: 12,
            first: true,
            last: false
        })
    );
    for _ in 0..100 {
        assert_eq!(
            scanner.scan(&piece),
            Ok(ReplyScan::Piece {
                len: piece.len(),
                first: false,
                last: false
            })
        );
    }
    assert_eq!(
        scanner.scan(b"x\r"),
        Ok(ReplyScan::Piece {
            len: 1,
            first: false,
            last: false
        })
    );
    assert_eq!(
        scanner.scan(b"\r\n"),
        Ok(ReplyScan::Piece {
            len: 2,
            first: false,
            last: true
        })
    );
    assert_eq!(scanner.word(), b"FULLRESYNC");
}

#[test]
fn p4_lengths_follow_the_number_rule_and_are_bounded() {
    for kind in ["$", "*", "!", "=", "%", "~", ">", "|"] {
        for bad in ["01", "+", " ", "x", "\r", "1 ", "1\n", "1\rX", "\0"] {
            refused(format!("{kind}{bad}").as_bytes(), ReplyError::BadLength);
        }
        refused(
            format!("{kind}{}", "1".repeat(64)).as_bytes(),
            ReplyError::BadLength,
        );
        refused(
            format!("{kind}18446744073709551616\r\n").as_bytes(),
            ReplyError::LengthOutOfRange,
        );
    }
    for kind in ["!", "=", "%", "~", ">", "|"] {
        refused(format!("{kind}-").as_bytes(), ReplyError::BadLength);
    }
    for kind in ["$", "*"] {
        for bad in ["-2", "-0", "-x", "-\r"] {
            refused(format!("{kind}{bad}").as_bytes(), ReplyError::BadLength);
        }
    }
    refused(b"$1099511627777\r\n", ReplyError::LengthOutOfRange);
    refused(b"*4294967297\r\n", ReplyError::LengthOutOfRange);
    refused(b"%2147483649\r\n", ReplyError::LengthOutOfRange);
    refused(b"=3\r\n", ReplyError::LengthOutOfRange);
    refused(b"~4294967296\r\n|1\r\n", ReplyError::LengthOutOfRange);
    for largest in [
        "$1099511627776\r\n",
        "*4294967296\r\n+a\r\n",
        "%2147483648\r\n",
        "~4294967296\r\n~4294967296\r\n",
    ] {
        let events = check_reply(largest.as_bytes());
        assert!(
            matches!(
                events[..],
                [
                    ReplyEvent::Frame { complete: false, .. },
                    ReplyEvent::End { idle: false }
                ]
            ),
            "{events:?}"
        );
    }
}

#[test]
fn p4_short_lines_are_exactly_what_they_should_be() {
    for input in [":", ":-", "_", "#", "#t", "$-", "$-1", "*-1\r", "_\r", ":12\r"] {
        let events = check_reply(input.as_bytes());
        assert_eq!(events, [ReplyEvent::End { idle: false }], "{input}");
    }
    for input in [
        ":x",
        ":\r",
        ":-\r",
        ":+",
        ":01",
        ":1.",
        ":1\rX",
        ":9223372036854775808\r\n",
        ":-9223372036854775809\r\n",
        "_x",
        "_\rX",
        "#x",
        "#tr",
        "#t\rX",
    ] {
        refused(input.as_bytes(), ReplyError::BadScalar);
    }
    refused(b"$-12", ReplyError::BadLength);
    refused(b"$-1\rX", ReplyError::BadLength);
    for input in [
        "+OK\rX",
        "-ERR a\r\r",
        ",1\r1",
        "$1\r\naX",
        "$1\r\na\n",
        "=4\r\ntxt:\rX",
    ] {
        refused(input.as_bytes(), ReplyError::MissingTerminator);
    }
}

#[test]
fn p5_whose_turn_it_is_can_be_told_from_the_kind() {
    // Matching replies to requests is not done here; a push is the only frame that needs none.
    assert_eq!(kind(b">1\r\n+x\r\n"), FrameKind::Push);
    assert_eq!(
        kind(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n"),
        FrameKind::Array
    );
}

#[test]
fn the_word_of_a_frame_is_its_first_one() {
    let long = "x".repeat(40);
    for (input, expected) in [
        ("+OK\r\n", "OK"),
        ("+\r\n", ""),
        ("+Background saving started\r\n", "Background"),
        ("-WRONGTYPE Operation against a key\r\n", "WRONGTYPE"),
        ("-NOAUTH\r\n", "NOAUTH"),
        ("!11\r\nNOAUTH a\r\nb\r\n", "NOAUTH"),
        ("!0\r\n\r\n", ""),
        ("$2\r\nab\r\n", ""),
        ("=6\r\ntxt:ab\r\n", ""),
        (":1\r\n", ""),
        ("*2\r\n$7\r\nmessage\r\n+x\r\n", "message"),
        ("*1\r\n+message of mine\r\n", "message"),
        (">1\r\n$10\r\ninvalidate\r\n", "invalidate"),
        (">0\r\n", ""),
        ("*0\r\n", ""),
        ("*2\r\n:1\r\n+a\r\n", ""),
        ("*2\r\n$-1\r\n+a\r\n", ""),
        ("*1\r\n*1\r\n+a\r\n", ""),
        ("*2\r\n-ERR\r\n+a\r\n", ""),
        ("*1\r\n|1\r\n+a\r\n+b\r\n+c\r\n", ""),
        ("%1\r\n+a\r\n+b\r\n", ""),
        ("~1\r\n+a\r\n", ""),
        (
            "*1\r\n$32\r\n12345678901234567890123456789012\r\n",
            "12345678901234567890123456789012",
        ),
        ("*1\r\n$33\r\n123456789012345678901234567890123\r\n", ""),
        ("|1\r\n+a\r\n+b\r\n-MOVED 1 a:1\r\n", "MOVED"),
    ] {
        assert_eq!(word(input.as_bytes()), expected, "{}", input.escape_default());
    }
    for input in [
        format!("+{long}\r\n"),
        format!("-{long} x\r\n"),
        format!("*1\r\n+{long}\r\n"),
        format!("!40\r\n{long}\r\n"),
    ] {
        assert_eq!(word(input.as_bytes()), long[..32]);
    }
}

#[test]
fn the_last_integer_of_a_confirmation_is_its_count() {
    for (input, expected) in [
        (&b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"[..], Some(1)),
        (b">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n", Some(0)),
        (b"*2\r\n:1\r\n:-2\r\n", Some(-2)),
        (b"*2\r\n:1\r\n*1\r\n:2\r\n", Some(1)),
        (b"*1\r\n*1\r\n:2\r\n", None),
        (b"*1\r\n|1\r\n+a\r\n:2\r\n+x\r\n", None),
        (b"|1\r\n+a\r\n:2\r\n*1\r\n+x\r\n", None),
        (b":5\r\n", None),
        (b"*0\r\n", None),
    ] {
        assert_eq!(frame(input).2, expected, "{}", input.escape_ascii());
    }
}

#[test]
fn a_small_frame_comes_as_one_piece_and_the_first_piece_has_its_word() {
    let mut scanner = ReplyScanner::new();
    assert_eq!(
        scanner.scan(b"+OK\r\n+OK\r\n"),
        Ok(ReplyScan::Piece {
            len: 5,
            first: true,
            last: true
        })
    );
    for prefix in [&b"+"[..], b"+O", b"+OK"] {
        assert_eq!(scanner.scan(prefix), Ok(ReplyScan::Incomplete));
        assert!(!scanner.is_idle());
    }
    for prefix in [&b"*"[..], b"*2\r\n", b"*2\r\n$7\r\nmessa"] {
        assert_eq!(ReplyScanner::new().scan(prefix), Ok(ReplyScan::Incomplete));
    }
    assert_eq!(ReplyScanner::new().scan(b""), Ok(ReplyScan::Incomplete));
    let mut scanner = ReplyScanner::new();
    assert_eq!(
        scanner.scan(b"*2\r\n$7\r\nmessage"),
        Ok(ReplyScan::Piece {
            len: 15,
            first: true,
            last: false
        })
    );
    assert_eq!(
        (scanner.kind(), scanner.word()),
        (FrameKind::Array, &b"message"[..])
    );
    assert_eq!(
        scanner.scan(b"\r\n:7\r\n"),
        Ok(ReplyScan::Piece {
            len: 6,
            first: false,
            last: true
        })
    );
    assert_eq!(scanner.last_integer(), Some(7));
}

#[test]
fn attributes_of_a_frame_are_bounded() {
    let attribute = |size: usize| format!("|1\r\n+a\r\n${size}\r\n{}\r\n", "x".repeat(size));
    let overhead = attribute(10_000).len() - 10_000;
    let fits = attribute(16_384 - overhead) + "+OK\r\n";
    assert_eq!(word(fits.as_bytes()), "OK");
    for too_large in [
        attribute(16_385 - overhead) + "+OK\r\n",
        "|1\r\n+a\r\n$16384\r\n".to_owned(),
        "|1\r\n+a\r\n$1099511627776\r\n".to_owned(),
        format!("|1\r\n+{}", "x".repeat(20_000)),
        format!("|100000\r\n{}", "+a\r\n".repeat(10_000)),
        "|0\r\n".repeat(5_000),
        format!("{}\r\n", "|1\r\n+a\r\n+b\r\n".repeat(2_000)),
    ] {
        for cuts in [&[usize::MAX][..], &[1], &[1000, 3]] {
            let events = reply_events(too_large.as_bytes(), cuts);
            assert_eq!(events, [ReplyEvent::Error(ReplyError::AttributesTooLarge)]);
        }
    }
    // Inside a frame they are content like any.
    let inside = format!("*1\r\n{}+OK\r\n", attribute(100_000));
    assert_eq!(word(inside.as_bytes()), "");
}

#[test]
fn nothing_redis_said_is_shown() {
    let mut scanner = ReplyScanner::new();
    assert!(scanner.scan(b"+hunter2\r\n").is_ok());
    assert_eq!(scanner.word(), b"hunter2");
    assert!(!format!("{scanner:?}").contains("104"));
}
