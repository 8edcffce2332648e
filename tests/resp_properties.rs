//! Properties of the scanners over random bytes, random requests and random replies.
//!
//! The oracles (every cut gives the same events, Redis's own lenient reading of what we forward, a recursive
//! reference for replies) live beside the scanners and are shared with the fuzz targets; `check_request` and
//! `check_reply` assert them. Here are the generators, the comparisons with the redis-protocol crate, and the
//! bounds on memory.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test ends by panicking; the lints' own exemption covers test functions, not their helpers"
)]

use bytes::{Bytes, BytesMut};
use keyward::resp::fuzz::{
    self, ReplyEvent, RequestEvent, check_inline, check_reply, check_request, redis_reading,
};
use keyward::resp::{
    Args, FrameKind, ProtocolError, ReplyScanner, RequestLimits, RequestScanner, Scan, encode,
};
use proptest::collection::vec;
use proptest::prelude::*;
use redis_protocol::{resp2, resp3};

type Words = Vec<Vec<u8>>;

// ---- requests -----------------------------------------------------------------------------------------

fn limits() -> impl Strategy<Value = RequestLimits> {
    let base = prop_oneof![
        Just(RequestLimits::AUTHENTICATED),
        Just(RequestLimits::UNAUTHENTICATED)
    ];
    (
        base,
        any::<bool>(),
        prop_oneof![Just(0usize), 1..80usize, Just(32_768)],
        1..100usize,
    )
        .prop_map(|(base, inline, max_head, max_inline)| RequestLimits {
            inline,
            max_head,
            max_inline,
            ..base
        })
}

fn words() -> impl Strategy<Value = Words> {
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\r\n*$0123 \0".to_vec())];
    let word = prop_oneof![4 => vec(byte.clone(), 0..12), 1 => vec(byte, 0..300)];
    vec(word, 1..8)
}

fn encoded(requests: &[Words]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for words in requests {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        encode::request(&mut out, &words);
    }
    out.to_vec()
}

/// Protocol fragments in any order: nearly everything goes wrong early, in every way there is.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        8 => prop::sample::select(
            [
                "*1\r\n$4\r\nPING\r\n", "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "PING\r\n", "set k 'v'\n", "*0\r\n", "*-1\r\n",
                "\r\n", "\n", " \r\n", "*1\r\n", "*2\r\n", "*10\r\n", "*11\r\n", "$0\r\n", "$1\r\n", "$4\r\n", "$-1\r\n",
                "$16384\r\n", "$16385\r\n", "*", "$", "\r", "\0", "0", "1", "-", "+", " ", "\"", "'", "\\x41", "PING", "a",
                "*01\r\n", "*1\rX", "$4\rX", "\x0b", "\x0c", "~1\r\n", "%", ":1\r\n",
            ]
            .to_vec()
        )
        .prop_map(|token| token.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..4),
    ];
    vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

/// What happens to one place of a byte string.
#[derive(Debug, Clone)]
enum Damage {
    Replace(u8),
    Insert(u8),
    Delete,
    Cut,
}

fn damage() -> impl Strategy<Value = (prop::sample::Index, Damage)> {
    let byte = prop_oneof![
        prop::sample::select(b"\r\n*$0123456789- \0+:|>%".to_vec()),
        any::<u8>()
    ];
    let damage = prop_oneof![
        4 => byte.clone().prop_map(Damage::Replace),
        4 => byte.prop_map(Damage::Insert),
        3 => Just(Damage::Delete),
        1 => Just(Damage::Cut),
    ];
    (any::<prop::sample::Index>(), damage)
}

fn damaged(mut bytes: Vec<u8>, damages: &[(prop::sample::Index, Damage)]) -> Vec<u8> {
    for (place, damage) in damages {
        if bytes.is_empty() {
            break;
        }
        let at = place.index(bytes.len());
        match damage {
            Damage::Replace(byte) => bytes[at] = *byte,
            Damage::Insert(byte) => bytes.insert(at, *byte),
            Damage::Delete => drop(bytes.remove(at)),
            Damage::Cut => bytes.truncate(at),
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_of_any_bytes_gives_the_same_requests(bytes in soup(), limits in limits(), cuts in vec(1..40usize, 1..6)) {
        let events = check_request(&bytes, limits);
        prop_assert_eq!(events, fuzz::request_events(&bytes, limits, &cuts));
    }

    #[test]
    fn any_cut_of_damaged_requests_gives_the_same_requests(
        requests in vec(words(), 1..4),
        damages in vec(damage(), 0..4),
        limits in limits(),
        cuts in vec(1..40usize, 1..6),
    ) {
        let bytes = damaged(encoded(&requests), &damages);
        let events = check_request(&bytes, limits);
        prop_assert_eq!(events, fuzz::request_events(&bytes, limits, &cuts));
    }

    #[test]
    fn good_requests_are_all_forwarded_as_they_are(requests in vec(words(), 0..6)) {
        let bytes = encoded(&requests);
        let events = check_request(&bytes, RequestLimits::AUTHENTICATED);
        let mut end = 0;
        let mut found = Vec::new();
        for event in &events {
            match event {
                RequestEvent::Request { range, argc } => {
                    prop_assert_eq!(range.start, end);
                    end = range.end;
                    found.push(Args::new(&bytes[range.clone()], *argc).iter().map(<[u8]>::to_vec).collect::<Words>());
                }
                other => prop_assert_eq!(other, &RequestEvent::End { idle: true }),
            }
        }
        prop_assert_eq!(end, bytes.len());
        prop_assert_eq!(found, requests);
    }

    /// Canonical (Redis reads one request with nothing left, and writing it anew gives the same bytes) if and
    /// only if forwarded verbatim.
    #[test]
    fn canonical_is_what_is_forwarded_verbatim(request in words(), damages in vec(damage(), 0..3)) {
        let bytes = damaged(encoded(&[request]), &damages);
        let reading = redis_reading(&bytes);
        let canonical = reading.left == 0 && reading.requests.len() == 1 && encoded(&reading.requests) == bytes;
        let verbatim = matches!(
            RequestScanner::new(RequestLimits::AUTHENTICATED).scan(&bytes),
            Ok(Scan::Request { len, .. }) if len == bytes.len()
        );
        prop_assert_eq!(canonical, verbatim);
    }

    #[test]
    fn inline_commands_are_split_as_redis_splits_them(
        line in vec(prop_oneof![
            prop::sample::select(b"\"'\\ \t\r\x0b\x0cx4aAfFgnrtb".to_vec()),
            any::<u8>(),
        ], 0..40)
    ) {
        check_inline(&line);
    }

    #[test]
    fn requests_agree_with_redis_protocol(requests in vec(words(), 1..4)) {
        let bytes = encoded(&requests);
        let mut scanner = RequestScanner::new(RequestLimits { max_args: 100, ..RequestLimits::AUTHENTICATED });
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let Ok(Scan::Request { len, argc }) = scanner.scan(rest) else { panic!("not a request") };
            let (frame, size) = resp2::decode::decode(rest).unwrap().unwrap();
            prop_assert_eq!(size, len);
            let resp2::types::OwnedFrame::Array(elements) = frame else { panic!("not an array") };
            let theirs: Vec<&[u8]> = elements
                .iter()
                .map(|element| match element {
                    resp2::types::OwnedFrame::BulkString(bytes) => &bytes[..],
                    other => panic!("{other:?}"),
                })
                .collect();
            prop_assert_eq!(Args::new(&rest[..len], argc).iter().collect::<Vec<_>>(), theirs);
            rest = &rest[len..];
        }
    }
}

// ---- replies ------------------------------------------------------------------------------------------

/// A reply, to be written in either protocol version.
#[derive(Debug, Clone)]
enum Reply {
    /// Type byte and text of a line.
    Line(u8, String),
    /// Type byte and content.
    Bulk(u8, Vec<u8>),
    /// Type byte and elements; keys and values in turn for a map.
    Aggregate(u8, Vec<Self>),
    Attribute(Vec<Self>, Box<Self>),
}

impl Reply {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Line(kind, text) => out.extend([&[*kind], text.as_bytes(), b"\r\n"].concat()),
            Self::Bulk(kind, bytes) => {
                out.push(*kind);
                out.extend(format!("{}\r\n", bytes.len()).as_bytes());
                out.extend([bytes, &b"\r\n"[..]].concat());
            }
            Self::Aggregate(kind, elements) => {
                let per = if *kind == b'%' { 2 } else { 1 };
                out.extend([&[*kind], format!("{}\r\n", elements.len() / per).as_bytes()].concat());
                elements.iter().for_each(|element| element.write(out));
            }
            Self::Attribute(pairs, frame) => {
                out.extend(format!("|{}\r\n", pairs.len() / 2).as_bytes());
                pairs.iter().for_each(|element| element.write(out));
                frame.write(out);
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

fn resp2_scalar() -> impl Strategy<Value = Reply> {
    prop_oneof![
        "[ -~]{0,40}".prop_map(|text| Reply::Line(b'+', text)),
        "[A-Z]{1,40} [ -~\n]{0,40}".prop_map(|text| Reply::Line(b'-', text)),
        any::<i64>().prop_map(|value| Reply::Line(b':', value.to_string())),
        vec(any::<u8>(), 0..60).prop_map(|bytes| Reply::Bulk(b'$', bytes)),
        Just(Reply::Line(b'$', "-1".into())),
    ]
}

fn resp2_reply() -> impl Strategy<Value = Reply> {
    prop_oneof![9 => resp2_scalar(), 1 => Just(Reply::Line(b'*', "-1".into()))].prop_recursive(
        5,
        60,
        6,
        |inner| vec(inner, 0..6).prop_map(|elements| Reply::Aggregate(b'*', elements)),
    )
}

/// What may be a map's key to redis-protocol.
fn key() -> impl Strategy<Value = Reply> {
    prop_oneof![
        "[ -~]{0,20}".prop_map(|text| Reply::Line(b'+', text)),
        vec(any::<u8>(), 0..20).prop_map(|bytes| Reply::Bulk(b'$', bytes)),
        any::<i64>().prop_map(|value| Reply::Line(b':', value.to_string())),
    ]
}

fn pairs(value: impl Strategy<Value = Reply>) -> impl Strategy<Value = Vec<Reply>> {
    vec((key(), value), 0..4).prop_map(|pairs| pairs.into_iter().flat_map(|(k, v)| [k, v]).collect())
}

/// A RESP3 value; nulls apart, since redis-protocol attaches no attributes to them.
fn resp3_value() -> impl Strategy<Value = Reply> {
    let scalar = prop_oneof![
        4 => key(),
        1 => "[A-Z]{1,40} [ -~]{0,40}".prop_map(|text| Reply::Line(b'-', text)),
        1 => any::<bool>().prop_map(|value| Reply::Line(b'#', if value { "t" } else { "f" }.into())),
        1 => (-1e9..1e9).prop_map(|value: f64| Reply::Line(b',', value.to_string())),
        1 => prop::sample::select(vec!["inf", "-inf", "1e-7"]).prop_map(|text| Reply::Line(b',', text.into())),
        1 => "-?[1-9][0-9]{20,60}".prop_map(|text| Reply::Line(b'(', text)),
        1 => "[A-Z]{1,40} [ -~\r\n]{0,40}".prop_map(|text| Reply::Bulk(b'!', text.into())),
        1 => "(txt|mkd):[ -~\r\n]{0,40}".prop_map(|text| Reply::Bulk(b'=', text.into())),
    ];
    scalar.prop_recursive(5, 60, 6, |inner| {
        let nullable = prop_oneof![8 => inner.clone(), 1 => Just(Reply::Line(b'_', String::new()))];
        prop_oneof![
            3 => vec(nullable.clone(), 0..6).prop_map(|elements| Reply::Aggregate(b'*', elements)),
            2 => pairs(nullable.clone()).prop_map(|elements| Reply::Aggregate(b'%', elements)),
            1 => vec(key(), 0..4).prop_map(|elements| Reply::Aggregate(b'~', elements)),
            1 => (pairs(nullable), inner).prop_map(|(pairs, frame)| match frame {
                frame @ Reply::Attribute(..) => frame,
                frame => Reply::Attribute(pairs, Box::new(frame)),
            }),
        ]
    })
}

fn resp3_reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        8 => resp3_value(),
        1 => Just(Reply::Line(b'_', String::new())),
        1 => vec(resp3_value(), 1..4).prop_map(|mut elements| {
            elements.insert(0, Reply::Bulk(b'$', b"message".to_vec()));
            Reply::Aggregate(b'>', elements)
        }),
    ]
}

fn resp3_kind(frame: &resp3::types::RangeFrame) -> FrameKind {
    use resp3::types::FrameKind as Theirs;
    match frame.kind() {
        Theirs::Array => FrameKind::Array,
        Theirs::BlobString => FrameKind::Bulk,
        Theirs::SimpleString => FrameKind::Simple,
        Theirs::SimpleError => FrameKind::Error,
        Theirs::Number => FrameKind::Integer,
        Theirs::Null => FrameKind::Null,
        Theirs::Double => FrameKind::Double,
        Theirs::Boolean => FrameKind::Boolean,
        Theirs::BlobError => FrameKind::BulkError,
        Theirs::VerbatimString => FrameKind::Verbatim,
        Theirs::Map => FrameKind::Map,
        Theirs::Set => FrameKind::Set,
        Theirs::Push => FrameKind::Push,
        Theirs::BigNumber => FrameKind::BigNumber,
        other => panic!("{other:?}"),
    }
}

fn resp2_kind(frame: &resp2::types::RangeFrame) -> FrameKind {
    use resp2::types::RangeFrame as Theirs;
    match frame {
        Theirs::SimpleString(_) => FrameKind::Simple,
        Theirs::Error(_) => FrameKind::Error,
        Theirs::Integer(_) => FrameKind::Integer,
        Theirs::BulkString(_) => FrameKind::Bulk,
        Theirs::Array(_) => FrameKind::Array,
        Theirs::Null => FrameKind::Null,
    }
}

/// Our frames of `bytes`, all complete.
fn frames(bytes: &[u8]) -> Vec<(usize, FrameKind)> {
    let mut events = check_reply(bytes);
    assert_eq!(events.pop(), Some(ReplyEvent::End { idle: true }));
    events
        .into_iter()
        .map(|event| match event {
            ReplyEvent::Frame {
                range,
                kind,
                complete: true,
                ..
            } => (range.len(), kind),
            other => panic!("{other:?}"),
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn resp2_replies_agree_with_redis_protocol(replies in vec(resp2_reply(), 1..5)) {
        let bytes: Vec<u8> = replies.iter().flat_map(Reply::bytes).collect();
        let mut at = 0;
        for (len, kind) in frames(&bytes) {
            let (frame, size) = resp2::decode::decode_range(&bytes[at..]).unwrap().unwrap();
            prop_assert_eq!((size, resp2_kind(&frame)), (len, kind));
            prop_assert!(resp2::decode::decode_bytes(&Bytes::copy_from_slice(&bytes[at..at + len])).unwrap().is_some());
            at += len;
        }
        prop_assert_eq!(at, bytes.len());
    }

    #[test]
    fn resp3_replies_agree_with_redis_protocol(replies in vec(resp3_reply(), 1..5)) {
        let bytes: Vec<u8> = replies.iter().flat_map(Reply::bytes).collect();
        let mut at = 0;
        for (len, kind) in frames(&bytes) {
            let (frame, size) = resp3::decode::complete::decode_range(&bytes[at..]).unwrap().unwrap();
            prop_assert_eq!((size, resp3_kind(&frame)), (len, kind));
            at += len;
        }
        prop_assert_eq!(at, bytes.len());
    }

    #[test]
    fn any_cut_of_damaged_replies_gives_the_same_frames(
        replies in vec(prop_oneof![resp2_reply(), resp3_reply()], 1..4),
        damages in vec(damage(), 0..4),
        cuts in vec(1..40usize, 1..6),
    ) {
        let bytes = damaged(replies.iter().flat_map(Reply::bytes).collect(), &damages);
        let events = check_reply(&bytes);
        prop_assert_eq!(events, fuzz::reply_events(&bytes, &cuts));
    }

    #[test]
    fn any_cut_of_any_bytes_gives_the_same_frames(
        tokens in vec(prop::sample::select(vec![
            "+OK\r\n", "-ERR x\r\n", ":1\r\n", "$1\r\n", "$3\r\nabc\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "*1\r\n", "*2\r\n",
            "%1\r\n", "~1\r\n", ">2\r\n", "|1\r\n", "|0\r\n", "_\r\n", "#t\r\n", ",1\r\n", "(1\r\n", "!1\r\n", "=4\r\ntxt:\r\n",
            "a", "\r\n", "\r", "\n", "1", "-", "0", "+", "*", "$", ">", "|", "?", "\0", "b c",
        ]), 0..20),
        cuts in vec(1..10usize, 1..6),
    ) {
        let bytes: Vec<u8> = tokens.concat().into_bytes();
        let events = check_reply(&bytes);
        prop_assert_eq!(events, fuzz::reply_events(&bytes, &cuts));
    }
}

// ---- bounds -------------------------------------------------------------------------------------------

#[test]
fn nested_requests_are_refused_at_the_second_level_however_many_there_are() {
    for opener in [&b"*1\r\n"[..], b"*1\r\n%1\r\n", b"*1\r\n|1\r\n"] {
        let error = match opener.get(4) {
            Some(&got) => ProtocolError::ExpectedBulk { got },
            None => ProtocolError::ExpectedBulk { got: b'*' },
        };
        for limits in [RequestLimits::AUTHENTICATED, RequestLimits::UNAUTHENTICATED] {
            let found = RequestScanner::new(limits).scan(&opener.repeat(100_000));
            assert_eq!(found, Err(error));
        }
    }
}

/// Address space of the process in bytes: what has been allocated, touched or not.
#[cfg(target_os = "linux")]
fn address_space() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_allocated_by_an_announced_length() {
    let before = address_space();
    let mut requests = Vec::new();
    let mut replies = Vec::new();
    for _ in 0..2_000 {
        let mut scanner = RequestScanner::new(RequestLimits::AUTHENTICATED);
        assert!(matches!(
            scanner.scan(b"*1048576\r\n$536870912\r\n"),
            Ok(Scan::Head { .. })
        ));
        requests.push(scanner);
        let mut scanner = ReplyScanner::new();
        assert!(
            scanner
                .scan(b"*4294967296\r\n*4294967296\r\n$1099511627776\r\n")
                .is_ok()
        );
        replies.push(scanner);
    }
    // Other tests run meanwhile; what the 4,000 announced is more than 2^40 bytes each.
    assert!(address_space() - before < 1 << 30);
}

#[test]
fn a_scanner_is_small() {
    assert!(
        size_of::<RequestScanner>() <= 160,
        "{}",
        size_of::<RequestScanner>()
    );
    assert!(size_of::<ReplyScanner>() <= 160, "{}", size_of::<ReplyScanner>());
}
