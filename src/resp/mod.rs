//! Framing of the Redis protocol: where a request or a reply begins and ends, and nothing more.
//!
//! Bytes from either side pass through here before anybody else looks at them. The scanners find the ends of
//! requests and replies in place, copy nothing, allocate nothing by an announced length, never recurse, and
//! can stop and resume at any byte.
//!
//! ```text
//!            client bytes                                        upstream bytes
//!                 │                                                    │
//!        RequestScanner::scan                                 ReplyScanner::scan
//!         │        │        │                                          │
//!      Request   Inline   Head, Body, Body …                 Piece { first, last } …
//!         │        │        │                                 kind(), word(): what it is
//!         │   inline_request()                                         │
//!         └────────┴────────┤                                          │
//!                     Args (argument by argument)                      │
//!                           │                                          │
//!               verbatim, or not at all                             verbatim
//!                           ▼                                          ▼
//!                       upstream        our own words: encode       client
//! ```
//!
//! **The smuggling rule.** Redis skips the byte after a length line's CR and the two bytes after an argument
//! without looking at them, so two readers can split one stream at different places. What leaves here towards
//! Redis is therefore *canonical* (rule R-1): `*N\r\n`, then N times `$L\r\n<L bytes>\r\n`, decimal lengths
//! without sign or leading zero. A request that is canonical already is forwarded byte for byte; an inline
//! command is written anew as an array; everything else ends the connection with the error text that Redis
//! itself would have sent.
//!
//! **The window convention**, the same for both scanners: the caller passes every byte it has not consumed
//! yet. After `Incomplete` it calls again with the same bytes plus more; after any other answer it removes
//! `len` bytes first. Answers depend on the bytes alone, not on how they were cut into windows (except that
//! a long request or reply comes in as many pieces as there were windows). After an error the connection is
//! lost: there is no way to find the next request again, and none is tried.

pub mod encode;
mod feed;
#[doc(hidden)]
pub mod fuzz;
mod inline;
mod integer;
mod reply;
mod request;

pub use feed::{ArgFeed, ArgSink};
pub use integer::parse_integer;
pub use reply::{FrameKind, ReplyError, ReplyScan, ReplyScanner};
pub use request::{Args, ArgsIter, ProtocolError, RequestScanner, Scan};

/// What a request may announce. Lengths are checked when their line is complete, before anything is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestLimits {
    /// Most arguments of one request, its name included (rules L-1, L-25).
    pub max_args: u32,
    /// Longest argument in bytes (rules L-2, L-6).
    pub max_bulk: u64,
    /// Longest inline command in bytes, without its LF (rules L-7, L-25).
    pub max_inline: usize,
    /// Longest request in bytes that is given whole; a longer one comes as [`Scan::Head`] and [`Scan::Body`],
    /// or is refused before authentication.
    pub max_head: usize,
    /// Whether inline commands are accepted. Off, only `*` may begin a request; empty lines are still dropped.
    pub inline: bool,
    /// Whether the client has logged in. It chooses between Redis's two sets of error texts, and without it
    /// no request is longer than `max_head`.
    pub authenticated: bool,
}

impl RequestLimits {
    /// After login: a million arguments of up to 512 MiB (Redis's `proto-max-bulk-len`), 64 KiB inline (Redis's
    /// `PROTO_INLINE_MAX_SIZE`); rule L-25.
    pub const AUTHENTICATED: Self = Self {
        max_args: 1_048_576,
        max_bulk: REDIS_MAX_BULK,
        max_inline: 65_536,
        max_head: 32_768,
        inline: true,
        authenticated: true,
    };

    /// Before login: Redis's own limits of 10 arguments and 16 KiB each, and 64 KiB for the whole request
    /// (rules L-1, L-2, L-22).
    pub const UNAUTHENTICATED: Self = Self {
        max_args: 10,
        max_bulk: 16_384,
        max_inline: 65_536,
        max_head: 65_536,
        inline: true,
        authenticated: false,
    };
}

/// Redis's default `proto-max-bulk-len`. Longer is "invalid" to everybody, so also before login.
const REDIS_MAX_BULK: u64 = 512 * 1024 * 1024;

/// Redis refuses a multibulk count over INT_MAX as invalid, before it looks at who is asking.
const REDIS_MAX_ARGS: u64 = i32::MAX as u64;

/// A length line may be this long, type byte included, CR LF not (rule R-16). The longest legal one has 21.
const MAX_LENGTH_LINE: usize = 64;

/// The decimal number of a length line, as far as it has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    /// A whole line: its value (`u64::MAX` stands for anything larger as well) and the bytes it took, CR LF
    /// included.
    Known(u64, usize),
    /// All bytes so far are good.
    More,
    /// No continuation can make this a number: not a digit, a leading zero, CR without LF, NUL.
    Bad,
    /// The line is longer than [`MAX_LENGTH_LINE`].
    Long,
}

/// Reads `digits CR LF` at the start of `rest`, the bytes behind a type byte.
#[inline(always)]
fn length(rest: &[u8]) -> Length {
    match *rest {
        // One and two digits are nearly all there is, so they take no loop.
        [a @ b'0'..=b'9', b'\r', b'\n', ..] => Length::Known(u64::from(a - b'0'), 3),
        [a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => {
            Length::Known(u64::from(a - b'0') * 10 + u64::from(b - b'0'), 4)
        }
        _ => any_length(rest),
    }
}

#[inline(never)]
fn any_length(rest: &[u8]) -> Length {
    let mut value = 0u64;
    for (i, &byte) in rest.iter().enumerate() {
        match byte {
            // A line that began with 0 has a value of 0 and can only end.
            b'0'..=b'9' if i == 0 || value > 0 => {
                if i + 1 == MAX_LENGTH_LINE {
                    return Length::Long;
                }
                value = value.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
            }
            b'\r' if i > 0 => {
                return match rest.get(i + 1) {
                    Some(b'\n') => Length::Known(value, i + 2),
                    Some(_) => Length::Bad,
                    None => Length::More,
                };
            }
            _ => return Length::Bad,
        }
    }
    Length::More
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_follow_redis_number_rule() {
        let cases: &[(&[u8], Length)] = &[
            (b"0\r\n", Length::Known(0, 3)),
            (b"7\r\nrest", Length::Known(7, 3)),
            (b"42\r\n", Length::Known(42, 4)),
            (b"1048576\r\n", Length::Known(1_048_576, 9)),
            (b"18446744073709551615\r\n", Length::Known(u64::MAX, 22)),
            (b"99999999999999999999999\r\n", Length::Known(u64::MAX, 25)),
            (b"", Length::More),
            (b"1", Length::More),
            (b"12", Length::More),
            (b"12\r", Length::More),
            (b"1\r", Length::More),
            (b"\r\n", Length::Bad),
            (b"01", Length::Bad),
            (b"00\r\n", Length::Bad),
            (b"+1", Length::Bad),
            (b"-", Length::Bad),
            (b" 1", Length::Bad),
            (b"1 \r\n", Length::Bad),
            (b"1\rX", Length::Bad),
            (b"1\n", Length::Bad),
            (b"1\0", Length::Bad),
            (b"0x1", Length::Bad),
            (b"1e0", Length::Bad),
            (b"1.0", Length::Bad),
        ];
        for (input, expected) in cases {
            assert_eq!(length(input), *expected, "{:?}", input.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_length_line_of_64_bytes_is_read_and_one_more_is_not() {
        let mut line = vec![b'1'; MAX_LENGTH_LINE - 1];
        line.extend_from_slice(b"\r\n");
        assert_eq!(length(&line), Length::Known(u64::MAX, MAX_LENGTH_LINE + 1));
        line.insert(0, b'1');
        assert_eq!(length(&line), Length::Long);
        assert_eq!(length(&line[..MAX_LENGTH_LINE - 1]), Length::More);
        assert_eq!(length(&line[..MAX_LENGTH_LINE]), Length::Long);
    }
}
