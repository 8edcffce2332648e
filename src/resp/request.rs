//! The request side: finding whole canonical requests in what a client sends.
//!
//! The scanner keeps a position, the number of arguments still to come, and whether the position is the end
//! of an argument's bytes. A length line that has not arrived in full is simply read again from its start
//! next time (it is at most 66 bytes), so there is no state inside a line and nothing that could depend on
//! where the input was cut.
//!
//! ```text
//!           *N⏎                 $L⏎ (end ≤ max_head)
//!   Idle ────────▶ Head ─────────────────┐
//!    ▲  └ *0⏎, *-n⏎, empty: Skip  ▲  bytes⏎ │
//!    │                            └────────┘
//!    │ last bytes⏎: Request         │ $L⏎ (end > max_head): Scan::Head
//!    ├──────────────────────────────┤
//!    │ last bytes⏎: Body{last}      ▼
//!    └──────────────────────────── Body ⟲ $L⏎ bytes⏎: Body
//! ```

use super::{Length, MAX_LENGTH_LINE, REDIS_MAX_ARGS, REDIS_MAX_BULK, RequestLimits, inline, length};
use bytes::BytesMut;

/// Finds the ends of a client's requests, resumable at any byte.
pub struct RequestScanner {
    limits: RequestLimits,
    stage: Stage,
    /// Of the request being read; in `Stage::Idle` its `at` counts the bytes of an inline line that hold no LF.
    cursor: Cursor,
    /// Announced number of arguments.
    argc: u32,
    /// Empty requests in a row.
    empties: u16,
    /// The last answer was `Incomplete` with bytes in the window.
    begun: bool,
    inline: BytesMut,
}

/// What a window begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// Nothing complete yet.
    Incomplete,
    /// An empty line, a line of blanks, `*0` or `*-n`: drop it; Redis would not answer it (rules R-10, R-26).
    Skip {
        /// Bytes to drop.
        len: usize,
    },
    /// `window[..len]` is one whole canonical request.
    Request {
        /// Its bytes.
        len: usize,
        /// Its number of arguments, the name included; at least 1.
        argc: u32,
    },
    /// An inline command: drop `len` bytes and use [`RequestScanner::inline_request`] in their place.
    Inline {
        /// Bytes to drop.
        len: usize,
        /// Its number of arguments, the name included; at least 1.
        argc: u32,
    },
    /// The beginning of a request longer than [`RequestLimits::max_head`]. `window[..len]` is canonical so far
    /// and ends right after the length line of the first argument whose end, CR LF included, lies beyond
    /// `max_head`. The same bytes give the same head however they arrived.
    Head {
        /// Its bytes, at most `max_head` and one length line.
        len: usize,
        /// The announced number of arguments.
        argc: u32,
    },
    /// More bytes of the request that a `Head` began, canonical, to be forwarded as they are.
    Body {
        /// How many; never 0.
        len: usize,
        /// The request ends with these.
        last: bool,
    },
}

/// Why a client's bytes are not a request. The connection must be closed after the [`reply`](Self::reply).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProtocolError {
    /// `*` without a canonical number, or more arguments than allowed (rules R-3, R-8, R-11, R-12).
    InvalidMultibulkLength,
    /// `$` without a canonical number, or a longer argument than allowed (rules R-4, R-9, R-14).
    InvalidBulkLength,
    /// An element of a request that is not a bulk string (rules R-17, R-32).
    ExpectedBulk {
        /// Its type byte.
        got: u8,
    },
    /// More than 10 arguments before login (rule L-1).
    UnauthenticatedMultibulkLength,
    /// An argument over 16 KiB before login (rule L-2).
    UnauthenticatedBulkLength,
    /// A request over `max_head` before login (rule L-22).
    UnauthenticatedRequest,
    /// A `*` line over 64 bytes (rule R-16).
    TooBigMultibulkLine,
    /// A `$` line over 64 bytes (rule R-16).
    TooBigBulkLine,
    /// An inline command over `max_inline` bytes (rule R-16).
    TooBigInline,
    /// NUL in an inline command, where Redis would wait for ever (rule R-15).
    NulInInline,
    /// Unbalanced or glued quotes in an inline command (rule R-25).
    UnbalancedQuotes,
    /// An argument not followed by CR LF; Redis would skip any two bytes (rules R-5, R-6).
    MissingTerminator,
    /// An inline command where they are off (rule R-18).
    InlineOff,
    /// More than 1,000 empty requests in a row (rules R-10, R-26).
    TooManyEmpty,
}

/// The arguments of a canonical request, or of the head of one, found by walking its bytes.
///
/// Only arguments that lie in the slice as a whole, CR LF included, are given. The first ones are cheap, the
/// n-th costs n steps; nothing is stored. Bytes that are not canonical end the walk.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    /// From the first argument's length line on.
    rest: &'a [u8],
    announced: u32,
}

/// The arguments in their order.
#[derive(Clone)]
pub struct ArgsIter<'a> {
    rest: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Between requests.
    Idle,
    /// In a request of which nothing has been given to the caller yet.
    Head,
    /// In a request whose head the caller has.
    Body,
}

/// A place between two items of a request.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    /// Offset in the window, possibly beyond its end: of a length line, or of the CR LF behind an argument.
    at: usize,
    /// Arguments whose length line has not been read.
    left: u32,
    /// `at` is the end of an argument's bytes.
    in_bulk: bool,
}

/// Why a walk stopped without an error.
enum Stop {
    /// At the end of the request.
    End,
    /// At the end of the bytes.
    Bytes,
    /// Behind a length line that ends at this offset, of an argument that ends beyond the bound.
    Bound(usize),
}

impl RequestScanner {
    /// A scanner at the start of a connection.
    pub fn new(limits: RequestLimits) -> Self {
        Self {
            limits,
            stage: Stage::Idle,
            cursor: Cursor::START,
            argc: 0,
            empties: 0,
            begun: false,
            inline: BytesMut::new(),
        }
    }

    /// Changes the limits, after a login for example. To be called between requests: one that has begun is
    /// held to the new limits only from its next length line on.
    pub fn set_limits(&mut self, limits: RequestLimits) {
        self.limits = limits;
    }

    /// Forgets a head that was found and could not be taken yet: the same bytes are to be scanned again.
    pub fn rewind(&mut self) {
        self.stage = Stage::Idle;
        self.cursor = Cursor::START;
        self.begun = false;
    }

    /// Looks for the end of the request at the start of `window`, which begins with the first byte that has
    /// not been consumed. See the module's page for the convention.
    ///
    /// # Errors
    /// The offending byte's rule, as soon as that byte is in the window. The state stays, so the same window
    /// gives the same error again.
    #[inline]
    pub fn scan(&mut self, window: &[u8]) -> Result<Scan, ProtocolError> {
        if !self.inline.is_empty() {
            // The caller has used it. Not kept: idle connections own no buffers.
            self.inline = BytesMut::new();
        }
        match self.stage {
            Stage::Idle => match window {
                [b'*', rest @ ..] => match length(rest) {
                    Length::Known(count @ 1.., used) => {
                        let argc = self.limits.check_count(count)?;
                        let start = Cursor {
                            at: 1 + used,
                            left: argc,
                            in_bulk: false,
                        };
                        self.scan_head(window, start, argc)
                    }
                    other => self.no_count(rest, other),
                },
                _ => self.scan_inline(window),
            },
            Stage::Head => self.scan_head(window, self.cursor, self.argc),
            Stage::Body => self.scan_body(window),
        }
    }

    /// The canonical array that stands for the last [`Scan::Inline`], until the next call of `scan`.
    pub fn inline_request(&self) -> &[u8] {
        &self.inline
    }

    /// Whether no request has begun: every byte seen so far belonged to a complete one.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Idle && !self.begun
    }

    #[inline]
    fn scan_head(&mut self, window: &[u8], start: Cursor, argc: u32) -> Result<Scan, ProtocolError> {
        let mut cursor = start;
        let stop = cursor.walk(window, &self.limits, self.limits.max_head)?;
        if let Stop::End = stop {
            self.finish();
            return Ok(Scan::Request { len: cursor.at, argc });
        }
        self.leave_head(stop, cursor, argc)
    }

    #[cold]
    fn leave_head(&mut self, stop: Stop, cursor: Cursor, argc: u32) -> Result<Scan, ProtocolError> {
        match stop {
            Stop::Bound(_) if !self.limits.authenticated => Err(ProtocolError::UnauthenticatedRequest),
            Stop::Bound(len) => {
                self.stage = Stage::Body;
                self.cursor = cursor.shifted(len);
                self.argc = argc;
                self.begun = false;
                Ok(Scan::Head { len, argc })
            }
            Stop::Bytes | Stop::End => {
                self.stage = Stage::Head;
                self.cursor = cursor;
                self.argc = argc;
                Ok(Scan::Incomplete)
            }
        }
    }

    fn scan_body(&mut self, window: &[u8]) -> Result<Scan, ProtocolError> {
        let mut cursor = self.cursor;
        let stop = cursor.walk(window, &self.limits, usize::MAX);
        if let Ok(Stop::End) = stop {
            self.finish();
            return Ok(Scan::Body {
                len: cursor.at,
                last: true,
            });
        }
        // Good bytes go out even if bad ones follow: they would have gone had they arrived alone. The error
        // is found again at the start of the next window.
        let len = cursor.at.min(window.len());
        self.cursor = cursor.shifted(len);
        if len > 0 {
            return Ok(Scan::Body { len, last: false });
        }
        stop.map(|_| Scan::Incomplete)
    }

    #[inline]
    fn finish(&mut self) {
        self.stage = Stage::Idle;
        self.cursor = Cursor::START;
        self.empties = 0;
        self.begun = false;
    }

    /// What a `*` line means that announces no argument.
    #[cold]
    fn no_count(&mut self, rest: &[u8], found: Length) -> Result<Scan, ProtocolError> {
        let (found, sign) = match rest {
            [b'-', digits @ ..] => (length(digits), 1),
            _ => (found, 0),
        };
        match found {
            // Rule R-10: Redis reads a negative 64-bit count and ignores the request.
            Length::Known(0, used) if sign == 0 => self.skip(1 + used),
            Length::Known(1..=NEGATIVE_MAX, used) if sign == 1 => self.skip(2 + used),
            // `-0` is not a number to Redis, and no continuation makes it one.
            Length::More if sign == 0 || rest.get(1) != Some(&b'0') => Ok(self.incomplete()),
            Length::Long => Err(ProtocolError::TooBigMultibulkLine),
            _ => Err(ProtocolError::InvalidMultibulkLength),
        }
    }

    fn incomplete(&mut self) -> Scan {
        self.begun = true;
        Scan::Incomplete
    }

    fn skip(&mut self, len: usize) -> Result<Scan, ProtocolError> {
        if self.empties >= MAX_EMPTIES {
            return Err(ProtocolError::TooManyEmpty);
        }
        self.empties += 1;
        self.cursor = Cursor::START;
        self.begun = false;
        Ok(Scan::Skip { len })
    }

    #[cold]
    fn scan_inline(&mut self, window: &[u8]) -> Result<Scan, ProtocolError> {
        match window {
            [] => return Ok(Scan::Incomplete),
            [b'\n', ..] => return self.skip(1),
            [b'\r', b'\n', ..] => return self.skip(2),
            [b'\r'] => return Ok(self.incomplete()),
            _ if !self.limits.inline => return Err(ProtocolError::InlineOff),
            _ => {}
        }
        let (searched, max) = (self.cursor.at, self.limits.max_inline);
        let bounded = window.get(..=max).unwrap_or(window);
        let unseen = bounded.get(searched..).unwrap_or_default();
        let Some(end) = unseen
            .iter()
            .position(|byte| matches!(byte, b'\n' | 0))
            .map(|i| searched + i)
        else {
            if window.len() > max {
                return Err(ProtocolError::TooBigInline);
            }
            self.cursor.at = window.len();
            return Ok(self.incomplete());
        };
        if window.get(end) == Some(&0) {
            return Err(ProtocolError::NulInInline);
        }
        let line = window.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.inline.clear();
        let argc = inline::encode_line(line, &self.limits, &mut self.inline)?;
        let len = end + 1;
        if argc == 0 {
            // Rule R-27: Redis and Valkey disagree about what a line of blanks does to the request after it.
            return self.skip(len);
        }
        self.finish();
        Ok(Scan::Inline { len, argc })
    }
}

impl Cursor {
    const START: Self = Self {
        at: 0,
        left: 0,
        in_bulk: false,
    };

    /// Walks over as many items as the window holds. On any stop and on an error the cursor stands at the
    /// first item that is not complete and good.
    #[inline(always)]
    fn walk(&mut self, window: &[u8], limits: &RequestLimits, bound: usize) -> Result<Stop, ProtocolError> {
        loop {
            if self.in_bulk {
                match window.get(self.at..) {
                    Some([b'\r', b'\n', ..]) => {
                        self.at += 2;
                        self.in_bulk = false;
                    }
                    None | Some([] | [b'\r']) => return Ok(Stop::Bytes),
                    Some(_) => return Err(ProtocolError::MissingTerminator),
                }
                if self.left == 0 {
                    return Ok(Stop::End);
                }
            }
            let Some((&kind, rest)) = window.get(self.at..).and_then(<[u8]>::split_first) else {
                return Ok(Stop::Bytes);
            };
            if kind != b'$' {
                return Err(ProtocolError::ExpectedBulk { got: kind });
            }
            let (value, used) = match length(rest) {
                Length::Known(value, used) => (value, used),
                Length::More => return Ok(Stop::Bytes),
                Length::Bad => return Err(ProtocolError::InvalidBulkLength),
                Length::Long => return Err(ProtocolError::TooBigBulkLine),
            };
            let size = limits.check_bulk(value)?;
            let start = self.at + 1 + used;
            self.at = start.saturating_add(size);
            self.left -= 1;
            self.in_bulk = true;
            if self.at > bound.saturating_sub(2) {
                return Ok(Stop::Bound(start));
            }
        }
    }

    /// The same place after `len` bytes have been removed from the window.
    fn shifted(self, len: usize) -> Self {
        Self {
            at: self.at.saturating_sub(len),
            ..self
        }
    }
}

impl RequestLimits {
    /// A number of arguments within the limits.
    #[inline]
    pub(super) fn check_count(&self, count: u64) -> Result<u32, ProtocolError> {
        match u32::try_from(count) {
            Ok(argc) if argc <= self.max_args => Ok(argc),
            _ if !self.authenticated && count <= REDIS_MAX_ARGS => {
                Err(ProtocolError::UnauthenticatedMultibulkLength)
            }
            _ => Err(ProtocolError::InvalidMultibulkLength),
        }
    }

    /// An argument's length within the limits.
    #[inline]
    pub(super) fn check_bulk(&self, size: u64) -> Result<usize, ProtocolError> {
        match usize::try_from(size) {
            Ok(len) if size <= self.max_bulk => Ok(len),
            _ if !self.authenticated && size <= REDIS_MAX_BULK => {
                Err(ProtocolError::UnauthenticatedBulkLength)
            }
            _ => Err(ProtocolError::InvalidBulkLength),
        }
    }
}

impl ProtocolError {
    /// The error line's text, without `-` and CR LF: Redis's own where Redis has one.
    pub fn reply(&self) -> String {
        let what = match *self {
            Self::InvalidMultibulkLength => "invalid multibulk length",
            Self::InvalidBulkLength => "invalid bulk length",
            Self::ExpectedBulk { got } => {
                let shown = match got {
                    b'\r' | b'\n' => ' ',
                    b' '..=b'~' => char::from(got),
                    _ => '?',
                };
                return format!("ERR Protocol error: expected '$', got '{shown}'");
            }
            Self::UnauthenticatedMultibulkLength => "unauthenticated multibulk length",
            Self::UnauthenticatedBulkLength => "unauthenticated bulk length",
            Self::UnauthenticatedRequest => "unauthenticated request too large",
            Self::TooBigMultibulkLine => "too big mbulk count string",
            Self::TooBigBulkLine => "too big bulk count string",
            Self::TooBigInline => "too big inline request",
            Self::NulInInline => "NUL byte in inline request",
            Self::UnbalancedQuotes => "unbalanced quotes in request",
            Self::MissingTerminator => "expected CRLF after bulk",
            Self::InlineOff => "inline commands are off on this listener",
            Self::TooManyEmpty => "too many empty requests",
        };
        format!("ERR Protocol error: {what}")
    }

    /// The word for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::InvalidMultibulkLength => "invalid_multibulk_length",
            Self::InvalidBulkLength => "invalid_bulk_length",
            Self::ExpectedBulk { .. } => "expected_bulk",
            Self::UnauthenticatedMultibulkLength => "unauthenticated_multibulk_length",
            Self::UnauthenticatedBulkLength => "unauthenticated_bulk_length",
            Self::UnauthenticatedRequest => "unauthenticated_request",
            Self::TooBigMultibulkLine => "too_big_multibulk_line",
            Self::TooBigBulkLine => "too_big_bulk_line",
            Self::TooBigInline => "too_big_inline",
            Self::NulInInline => "nul_in_inline",
            Self::UnbalancedQuotes => "unbalanced_quotes",
            Self::MissingTerminator => "missing_terminator",
            Self::InlineOff => "inline_off",
            Self::TooManyEmpty => "too_many_empty",
        }
    }
}

impl<'a> Args<'a> {
    /// The arguments of `canonical`, which announces `argc` of them.
    #[inline]
    pub fn new(canonical: &'a [u8], argc: u32) -> Self {
        let rest = match canonical {
            [b'*', _, b'\r', b'\n', rest @ ..] => rest,
            _ => {
                let line = canonical
                    .iter()
                    .take(MAX_LENGTH_LINE)
                    .position(|&byte| byte == b'\n');
                line.and_then(|end| canonical.get(end + 1..)).unwrap_or_default()
            }
        };
        Self {
            rest,
            announced: argc,
        }
    }

    /// How many arguments the request announces, the name included.
    #[inline]
    pub fn announced(&self) -> u32 {
        self.announced
    }

    /// The argument at `index` (0 is the command's name), if it lies in the slice as a whole.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.iter().nth(index)
    }

    /// Bytes of the request behind its first line, as far as they are in the slice.
    #[inline]
    pub fn size(&self) -> usize {
        self.rest.len()
    }

    /// The bytes of the request behind its first line, as far as they are in the slice.
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        self.rest
    }

    /// The arguments that lie in the slice as a whole.
    #[inline]
    pub fn iter(&self) -> ArgsIter<'a> {
        ArgsIter { rest: self.rest }
    }
}

impl<'a> IntoIterator for Args<'a> {
    type Item = &'a [u8];
    type IntoIter = ArgsIter<'a>;

    fn into_iter(self) -> ArgsIter<'a> {
        self.iter()
    }
}

impl<'a> Iterator for ArgsIter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let [b'$', digits @ ..] = self.rest else {
            return None;
        };
        let Length::Known(size, used) = length(digits) else {
            return None;
        };
        let (argument, rest) = digits
            .get(used..)?
            .split_at_checked(usize::try_from(size).ok()?)?;
        self.rest = rest.strip_prefix(b"\r\n")?;
        Some(argument)
    }
}

/// The inline request is never shown, for the reason that arguments are not.
impl std::fmt::Debug for RequestScanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestScanner")
            .field("stage", &self.stage)
            .field("cursor", &self.cursor)
            .finish_non_exhaustive()
    }
}

/// Arguments are never shown: they are keys, values and passwords.
impl std::fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Args")
            .field("announced", &self.announced)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ArgsIter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArgsIter").finish_non_exhaustive()
    }
}

/// Empty requests in a row that are dropped before the connection is (rules R-10, R-26).
const MAX_EMPTIES: u16 = 1_000;

/// The magnitude of the least 64-bit integer, which Redis still reads as a count.
const NEGATIVE_MAX: u64 = i64::MIN.unsigned_abs();

#[cfg(test)]
mod tests;
