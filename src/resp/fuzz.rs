//! Oracles: what the scanners must agree with, whatever the bytes. The fuzz targets and the property tests
//! share them; no other code of the proxy uses this module.
//!
//! * [`request_events`] and [`reply_events`] feed bytes cut in any way and normalise what comes out, so two
//!   cuts of the same bytes can be compared.
//! * [`redis_reading`] is Redis's own request parser written down from networking.c and sds.c as literally as
//!   Rust allows, with all that it is lenient about. It shares nothing with ours.
//! * [`reference_frames`] finds reply frames by plain recursion over complete data.

use super::{
    Args, FrameKind, ProtocolError, ReplyError, ReplyScan, ReplyScanner, RequestLimits, RequestScanner, Scan,
    encode,
};
use bytes::BytesMut;
use redis::sds_split_args;
use std::ops::Range;

mod redis;

pub use redis::{Reading, redis_reading};

/// One thing found in a client's bytes. Ranges are offsets in the whole input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestEvent {
    Skip(Range<usize>),
    Request {
        range: Range<usize>,
        argc: u32,
    },
    Inline {
        range: Range<usize>,
        argc: u32,
        canonical: Vec<u8>,
    },
    Long {
        head: Range<usize>,
        argc: u32,
        body_end: usize,
        complete: bool,
    },
    Error(ProtocolError),
    /// Always last, unless there was an error.
    End {
        idle: bool,
    },
}

/// One thing found in the upstream's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyEvent {
    Frame {
        range: Range<usize>,
        kind: FrameKind,
        word: Vec<u8>,
        integer: Option<i64>,
        complete: bool,
    },
    Error(ReplyError),
    /// Always last, unless there was an error.
    End {
        idle: bool,
    },
}

/// Random requests, with every cut and every oracle. The first byte chooses the limits.
pub fn fuzz_request(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else {
        return;
    };
    let base = if choice & 1 == 0 {
        RequestLimits::AUTHENTICATED
    } else {
        RequestLimits::UNAUTHENTICATED
    };
    let max_head = match choice >> 2 & 3 {
        0 => base.max_head,
        1 => 0,
        2 => 24,
        _ => 64,
    };
    let limits = RequestLimits {
        inline: choice & 2 == 0,
        max_head,
        max_inline: 512,
        ..base
    };
    check_request(data, limits);
}

/// Random replies, with every cut and the reference parser.
pub fn fuzz_reply(data: &[u8]) {
    check_reply(data);
}

/// One random line as an inline command, against `sdssplitargs`.
pub fn fuzz_inline(data: &[u8]) {
    check_inline(data);
}

/// Asserts all that must hold for a client's bytes, and returns what was found in them.
pub fn check_request(data: &[u8], limits: RequestLimits) -> Vec<RequestEvent> {
    let events = request_events(data, limits, &[usize::MAX]);
    for cuts in CUTS {
        assert_eq!(events, request_events(data, limits, cuts), "cut {cuts:?}");
    }

    let mut forwarded = BytesMut::new();
    let mut requests = Vec::new();
    let mut unfinished = false;
    for event in &events {
        match event {
            RequestEvent::Skip(_) | RequestEvent::Error(_) | RequestEvent::End { .. } => {}
            RequestEvent::Request { range, argc } => {
                let bytes = slice(data, range);
                requests.push(canonical_arguments(bytes, *argc));
                forwarded.extend_from_slice(bytes);
            }
            RequestEvent::Inline { argc, canonical, .. } => {
                requests.push(canonical_arguments(canonical, *argc));
                forwarded.extend_from_slice(canonical);
            }
            RequestEvent::Long {
                head,
                argc,
                body_end,
                complete,
            } => {
                let whole = slice(data, &(head.start..*body_end));
                let in_head: Vec<_> = Args::new(slice(data, head), *argc).iter().collect();
                assert!(Args::new(whole, *argc).iter().zip(&in_head).all(|(a, b)| a == *b));
                assert!(
                    in_head.len() < *argc as usize,
                    "the head lacks the argument that made it one"
                );
                if *complete {
                    requests.push(canonical_arguments(whole, *argc));
                }
                unfinished = !complete;
                forwarded.extend_from_slice(whole);
            }
        }
    }

    // What Redis reads in what we send it is what we decided upon, and nothing is left over.
    let upstream = redis_reading(&forwarded);
    assert_eq!(upstream.requests, requests);
    assert!(!upstream.closed);
    assert!(
        upstream.left == 0 || unfinished,
        "{} bytes left over",
        upstream.left
    );

    // Had the client spoken to Redis itself, Redis would have read the same, and more only if we gave up.
    let direct = redis_reading(data);
    assert!(
        direct.requests.starts_with(&requests),
        "{:?} against {requests:?}",
        direct.requests
    );
    if let Some(RequestEvent::End { idle }) = events.last() {
        assert_eq!(direct.requests.len(), requests.len());
        assert!(!direct.closed);
        assert_eq!(*idle, direct.left == 0);
    }
    events
}

/// Asserts all that must hold for the upstream's bytes, and returns what was found in them.
pub fn check_reply(data: &[u8]) -> Vec<ReplyEvent> {
    let events = reply_events(data, &[usize::MAX]);
    for cuts in CUTS {
        assert_eq!(events, reply_events(data, cuts), "cut {cuts:?}");
    }
    let frames: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ReplyEvent::Frame {
                range,
                complete: true,
                ..
            } => Some(range.end),
            _ => None,
        })
        .collect();
    let (reference, good) = reference_frames(data);
    match events.last() {
        // These three are bounds, which the reference has not.
        Some(ReplyEvent::Error(
            ReplyError::TooDeep | ReplyError::AttributesTooLarge | ReplyError::LengthOutOfRange,
        )) => assert!(reference.starts_with(&frames)),
        last => {
            assert_eq!(frames, reference);
            assert_eq!(matches!(last, Some(ReplyEvent::End { .. })), good);
        }
    }
    events
}

/// Asserts that the inline command in `data`, up to its first LF or NUL, is split as Redis splits it.
pub fn check_inline(data: &[u8]) {
    let line = data
        .split(|&byte| matches!(byte, b'\n' | 0))
        .next()
        .unwrap_or_default();
    // A blank in front makes it inline, whatever its first byte.
    let line = [b" ", line].concat();
    let sent = [line.as_slice(), b"\n"].concat();
    let mut scanner = RequestScanner::new(RequestLimits {
        max_inline: usize::MAX - 1,
        ..RequestLimits::AUTHENTICATED
    });
    let found = scanner.scan(&sent);
    match sds_split_args(line.strip_suffix(b"\r").unwrap_or(&line)) {
        None => assert_eq!(found, Err(ProtocolError::UnbalancedQuotes)),
        Some(words) if words.is_empty() => assert_eq!(found, Ok(Scan::Skip { len: sent.len() })),
        Some(words) => {
            let argc = u32::try_from(words.len()).unwrap_or(u32::MAX);
            assert_eq!(
                found,
                Ok(Scan::Inline {
                    len: sent.len(),
                    argc
                })
            );
            assert_eq!(canonical_arguments(scanner.inline_request(), argc), words);
        }
    }
}

/// Feeds `data` in windows that grow by the sizes in `cuts`, over and over.
pub fn request_events(data: &[u8], limits: RequestLimits, cuts: &[usize]) -> Vec<RequestEvent> {
    let mut scanner = RequestScanner::new(limits);
    let mut events = Vec::new();
    let (mut start, mut end) = (0usize, 0usize);
    for size in cuts.iter().cycle() {
        end = data.len().min(end.saturating_add(*size));
        loop {
            let found = scanner.scan(slice(data, &(start..end)));
            let from = start;
            match found {
                Ok(Scan::Incomplete) => break,
                Ok(Scan::Skip { len }) => {
                    start += len;
                    events.push(RequestEvent::Skip(from..start));
                }
                Ok(Scan::Request { len, argc }) => {
                    start += len;
                    events.push(RequestEvent::Request {
                        range: from..start,
                        argc,
                    });
                }
                Ok(Scan::Inline { len, argc }) => {
                    start += len;
                    let canonical = scanner.inline_request().to_vec();
                    events.push(RequestEvent::Inline {
                        range: from..start,
                        argc,
                        canonical,
                    });
                }
                Ok(Scan::Head { len, argc }) => {
                    start += len;
                    let head = from..start;
                    events.push(RequestEvent::Long {
                        head,
                        argc,
                        body_end: start,
                        complete: false,
                    });
                }
                Ok(Scan::Body { len, last }) => {
                    assert!(len > 0);
                    start += len;
                    match events.last_mut() {
                        Some(RequestEvent::Long {
                            body_end, complete, ..
                        }) if !*complete => {
                            (*body_end, *complete) = (start, last);
                        }
                        _ => unreachable_event(),
                    }
                }
                Err(error) => {
                    assert_eq!(scanner.scan(slice(data, &(start..end))), Err(error));
                    events.push(RequestEvent::Error(error));
                    return events;
                }
            }
            assert!(start <= end, "more was consumed than was there");
        }
        if end == data.len() {
            break;
        }
    }
    events.push(RequestEvent::End {
        idle: scanner.is_idle(),
    });
    events
}

/// Feeds `data` in windows that grow by the sizes in `cuts`, over and over.
pub fn reply_events(data: &[u8], cuts: &[usize]) -> Vec<ReplyEvent> {
    let mut scanner = ReplyScanner::new();
    let mut events = Vec::new();
    let (mut start, mut end) = (0usize, 0usize);
    for size in cuts.iter().cycle() {
        end = data.len().min(end.saturating_add(*size));
        loop {
            match scanner.scan(slice(data, &(start..end))) {
                Ok(ReplyScan::Incomplete) => break,
                Ok(ReplyScan::Piece { len, first, last }) => {
                    assert!(len > 0);
                    let from = start;
                    start += len;
                    let integer = if last { scanner.last_integer() } else { None };
                    if first {
                        events.push(ReplyEvent::Frame {
                            range: from..start,
                            kind: scanner.kind(),
                            word: scanner.word().to_vec(),
                            integer,
                            complete: last,
                        });
                        continue;
                    }
                    match events.last_mut() {
                        Some(ReplyEvent::Frame {
                            range,
                            kind,
                            word,
                            integer: seen,
                            complete,
                        }) if !*complete => {
                            assert_eq!((*kind, word.as_slice()), (scanner.kind(), scanner.word()));
                            (range.end, *seen, *complete) = (start, integer, last);
                        }
                        _ => unreachable_event(),
                    }
                }
                Err(error) => {
                    assert_eq!(scanner.scan(slice(data, &(start..end))), Err(error));
                    events.push(ReplyEvent::Error(error));
                    return events;
                }
            }
            assert!(start <= end, "more was consumed than was there");
        }
        if end == data.len() {
            break;
        }
    }
    events.push(ReplyEvent::End {
        idle: scanner.is_idle(),
    });
    events
}

/// The ends of the complete frames in `data`, and whether nothing in it is wrong.
pub fn reference_frames(data: &[u8]) -> (Vec<usize>, bool) {
    let mut ends = Vec::new();
    let mut pos = 0;
    loop {
        match reference_frame(data, pos, 0) {
            Ok(end) => ends.push(end),
            Err(wrong) => return (ends, !wrong),
        }
        pos = ends.last().copied().unwrap_or_default();
    }
}

/// The end of the frame at `pos`; `Err(true)` if its bytes are wrong, `Err(false)` if they have not all come.
fn reference_frame(data: &[u8], pos: usize, depth: usize) -> Result<usize, bool> {
    let kind = *data.get(pos).ok_or(false)?;
    if !b"+-:$*_#,(!=%~>|".contains(&kind) || kind == b'>' && depth > 0 {
        return Err(true);
    }
    let rest = slice(data, &(pos + 1..data.len()));
    let cr = rest.iter().position(|&byte| byte == b'\r');
    let line = slice(rest, &(0..cr.unwrap_or(rest.len())));
    let whole = cr.is_some();
    // A prefix of a number is good if some continuation is one.
    let natural = |text: &[u8]| -> Result<Option<u64>, bool> {
        let good = text.iter().all(u8::is_ascii_digit) && (text.len() < 2 || text.first() != Some(&b'0'));
        if !good || text.len() > 63 || whole && text.is_empty() {
            return Err(true);
        }
        let value = text.iter().fold(0u64, |v, d| {
            v.saturating_mul(10).saturating_add(u64::from(d - b'0'))
        });
        Ok(whole.then_some(value))
    };
    let mut null = false;
    let number = match kind {
        b'$' | b'*' if whole && line == b"-1" => {
            null = true;
            None
        }
        b'$' | b'*' if !whole && matches!(line, b"-" | b"-1") => None,
        b'$' | b'!' | b'=' | b'*' | b'%' | b'~' | b'>' | b'|' => natural(line)?,
        b':' => {
            let (digits, most) = match line.split_first() {
                Some((b'-', digits)) => (digits, 1 << 63),
                _ => (line, (1 << 63) - 1),
            };
            let value = natural(digits)?;
            if value.is_some_and(|value| value > most) && terminator(rest, cr)? {
                return Err(true);
            }
            value
        }
        b'_' if !line.is_empty() => return Err(true),
        b'#' if !matches!(line, b"t" | b"f") && (whole || !line.is_empty()) => return Err(true),
        _ => None,
    };
    terminator(rest, cr)?;
    let mut end = pos + 1 + line.len() + 2;
    let (Some(number), false) = (number, null) else {
        return Ok(end);
    };
    match kind {
        b'$' | b'!' | b'=' => {
            if number > 1 << 40 || kind == b'=' && number < 4 {
                return Err(true);
            }
            let bulk = end.saturating_add(usize::try_from(number).unwrap_or(usize::MAX));
            let rest = slice(data, &(bulk.min(data.len())..data.len()));
            terminator(rest, Some(0))?;
            Ok(bulk + 2)
        }
        b'*' | b'%' | b'~' | b'>' | b'|' => {
            let number = if matches!(kind, b'%' | b'|') {
                number.saturating_mul(2)
            } else {
                number
            };
            if number > 1 << 32 {
                return Err(true);
            }
            for _ in 0..number {
                end = reference_frame(data, end, depth + 1)?;
            }
            // An attribute is followed by what it belongs to.
            if kind == b'|' {
                reference_frame(data, end, depth)
            } else {
                Ok(end)
            }
        }
        _ => Ok(end),
    }
}

/// Whether CR LF stands at `at`.
fn terminator(rest: &[u8], at: Option<usize>) -> Result<bool, bool> {
    let at = at.ok_or(false)?;
    match (rest.get(at), rest.get(at + 1)) {
        (Some(b'\r'), Some(b'\n')) => Ok(true),
        (None, _) | (Some(b'\r'), None) => Err(false),
        _ => Err(true),
    }
}

/// The arguments of a request that must be canonical: written anew it is the same bytes.
fn canonical_arguments(bytes: &[u8], argc: u32) -> Vec<Vec<u8>> {
    let arguments: Vec<&[u8]> = Args::new(bytes, argc).iter().collect();
    assert_eq!(arguments.len(), argc as usize);
    let mut again = BytesMut::new();
    encode::request(&mut again, &arguments);
    assert_eq!(again.escape_ascii().to_string(), bytes.escape_ascii().to_string());
    arguments.into_iter().map(<[u8]>::to_vec).collect()
}

fn slice<'a>(data: &'a [u8], range: &Range<usize>) -> &'a [u8] {
    data.get(range.clone()).unwrap_or_default()
}

fn unreachable_event() {
    assert!(std::hint::black_box(false), "a later piece without a first one");
}

/// Window growths to compare with one window of everything.
const CUTS: &[&[usize]] = &[&[1], &[2], &[3], &[5, 1, 9], &[64, 1], &[17, 4, 1, 200]];
