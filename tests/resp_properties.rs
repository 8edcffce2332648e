//! The scanners against random bytes: every cut gives the same events, what is forwarded reads the same to Redis, and
//! well-formed frames end where redis-protocol says they end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a failed assumption is a failed test"
)]

use bytes::{Bytes, BytesMut};
use keyward::resp::fuzz::{check_inline, check_reply, check_request};
use keyward::resp::{ReplyScan, ReplyScanner, RequestLimits, RequestScanner, Scan, encode};
use proptest::prelude::*;
use redis_protocol::resp2::decode::decode_bytes as decode_resp2;
use redis_protocol::resp3::decode::complete::decode_bytes as decode_resp3;

/// Bytes that look like requests often enough to get deep.
fn request_like() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"*1\r\n$4\r\nPING\r\n".to_vec()),
        3 => Just(b"*2\r\n$3\r\nGET\r\n".to_vec()),
        3 => (0_u32..40).prop_map(|n| format!("${n}\r\n").into_bytes()),
        2 => (0_u32..12).prop_map(|n| format!("*{n}\r\n").into_bytes()),
        2 => Just(b"\r\n".to_vec()),
        2 => Just(b"SET \"a\\x41\" 'b'\r\n".to_vec()),
        1 => Just(b"$04\r\n".to_vec()),
        1 => Just(b"*-1\r\n".to_vec()),
        1 => Just(b"\0".to_vec()),
        3 => prop::collection::vec(any::<u8>(), 0..40),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// A well-formed reply, not too deep.
fn reply() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        "[a-zA-Z ]{0,20}".prop_map(|text| format!("+{text}\r\n").into_bytes()),
        "[A-Z]{1,10} [a-z]{0,10}".prop_map(|text| format!("-{text}\r\n").into_bytes()),
        any::<i64>().prop_map(|number| format!(":{number}\r\n").into_bytes()),
        prop::collection::vec(any::<u8>(), 0..60).prop_map(|bytes| {
            let mut frame = format!("${}\r\n", bytes.len()).into_bytes();
            frame.extend(bytes);
            frame.extend(b"\r\n");
            frame
        }),
        Just(b"$-1\r\n".to_vec()),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop::collection::vec(inner, 0..8).prop_map(|items| {
            let mut frame = format!("*{}\r\n", items.len()).into_bytes();
            frame.extend(items.concat());
            frame
        })
    })
}

/// The end of the first frame as our scanner finds it in one window.
fn first_end(bytes: &[u8]) -> usize {
    let mut scanner = ReplyScanner::new();
    let mut used = 0;
    loop {
        match scanner.scan(&bytes[used..]).unwrap() {
            ReplyScan::Piece { len, last, .. } => {
                used += len;
                if last {
                    return used;
                }
            }
            ReplyScan::Incomplete => panic!("a whole frame is there"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_client_bytes_pass_every_oracle(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_request(&bytes, RequestLimits::AUTHENTICATED);
        check_request(&bytes, RequestLimits::UNAUTHENTICATED);
    }

    #[test]
    fn bytes_like_requests_pass_every_oracle(bytes in request_like()) {
        let small = RequestLimits { max_head: 64, ..RequestLimits::AUTHENTICATED };
        check_request(&bytes, small);
        check_request(&bytes, RequestLimits::AUTHENTICATED);
        check_request(&bytes, RequestLimits::UNAUTHENTICATED);
        check_request(&bytes, RequestLimits { inline: false, ..RequestLimits::AUTHENTICATED });
    }

    #[test]
    fn any_upstream_bytes_pass_every_oracle(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        check_reply(&bytes);
    }

    #[test]
    fn well_formed_replies_pass_every_oracle(replies in prop::collection::vec(reply(), 1..6)) {
        check_reply(&replies.concat());
    }

    #[test]
    fn any_line_is_split_as_redis_splits_it(line in prop::collection::vec(any::<u8>(), 0..80)) {
        check_inline(&line);
    }

    #[test]
    fn a_reply_ends_where_redis_protocol_says(frame in reply(), rest in prop::collection::vec(any::<u8>(), 0..20)) {
        let whole = [frame.as_slice(), &rest].concat();
        let end = first_end(&whole);
        prop_assert_eq!(end, frame.len());
        let (_, used) = decode_resp2(&Bytes::from(whole.clone())).unwrap().unwrap();
        prop_assert_eq!(end, used);
        // RESP3 has no `$-1`.
        if !frame.windows(3).any(|window| window == b"$-1") {
            let (_, used) = decode_resp3(&Bytes::from(whole)).unwrap().unwrap();
            prop_assert_eq!(end, used);
        }
    }

    #[test]
    fn what_we_encode_is_canonical_and_read_back_whole(
        args in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..20)
    ) {
        let mut bytes = BytesMut::new();
        let slices: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        encode::request(&mut bytes, &slices);
        let mut scanner = RequestScanner::new(RequestLimits::AUTHENTICATED);
        let argc = u32::try_from(args.len()).unwrap();
        prop_assert_eq!(scanner.scan(&bytes), Ok(Scan::Request { len: bytes.len(), argc }));
        let read = keyward::resp::Args::new(&bytes, argc);
        prop_assert!(read.iter().eq(slices.iter().copied()));
    }
}

#[test]
fn nesting_that_overflows_a_recursive_parser_is_only_data_or_an_error() {
    for depth in [8_000_usize, 100_000] {
        let mut bytes = b"*1\r\n".repeat(depth);
        bytes.extend(b":1\r\n");
        let mut scanner = ReplyScanner::new();
        let mut used = 0;
        let outcome = loop {
            match scanner.scan(&bytes[used..]) {
                Ok(ReplyScan::Piece { len, last, .. }) => {
                    used += len;
                    if last {
                        break true;
                    }
                }
                Ok(ReplyScan::Incomplete) => panic!("incomplete at {used}"),
                Err(_) => break false,
            }
        };
        // Lua makes 7,995 levels; nobody makes more (rule P-1).
        assert_eq!(outcome, depth == 8_000, "{depth}");
    }
}
