//! The reply side: finding the ends of replies in what Redis sends.
//!
//! A reply may be as deep and as long as a script makes it (rule P-1), so open aggregates are counts on an
//! explicit stack, and values pass in pieces. As on the request side, an item that is short is read again from
//! its start if it has not arrived in full; only the content of bulk strings and of simple lines is passed on
//! before its end is seen.
//!
//! ```text
//!          ┌───────────── type byte, number or word, ⏎ ─────────────┐
//!          ▼      short items end at once: `:` `#` `_` `$-1` `*0`   │
//!   ┌──▶ Item ──── `+` `-` `,` `(` ────▶ Line ─── CR LF ──▶ end of element ──▶ last of the frame: done
//!   │      │ └──── `$` `!` `=` ────────▶ Bulk ─── CR LF ──▶   ▲  │
//!   │      └ `*` `~` `>` `%` `|`: push a level                │  │ more elements, or pop a level
//!   └─────────────────────────────────────────────────────────┴──┘
//! ```

use super::{Length, length};

/// Finds the ends of replies, resumable at any byte.
pub struct ReplyScanner {
    inside: Inside,
    /// Offset in the window, possibly beyond its end: see [`Inside`].
    at: usize,
    /// Elements still to begin at the innermost open level. Outside any frame: 1, the frame itself.
    left: u64,
    /// The same for the levels around it, outermost first.
    outer: Vec<u32>,
    progress: Progress,
    /// Some bytes of the current frame have been given to the caller.
    given: bool,
    /// The last answer was `Incomplete` with bytes in the window.
    begun: bool,
    kind: FrameKind,
    word: [u8; MAX_WORD],
    word_len: u8,
    last_integer: Option<i64>,
}

/// What a window begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyScan {
    /// Nothing that can be passed on yet.
    Incomplete,
    /// `window[..len]` belongs to one frame, together with the attributes in front of it.
    Piece {
        /// How many bytes; never 0.
        len: usize,
        /// The frame begins with these; `kind` and `word` are known.
        first: bool,
        /// The frame ends with these; `last_integer` is known.
        last: bool,
    },
}

/// What a top-level frame is, by its type byte. Attributes have no kind: they belong to the frame behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// `+`
    Simple,
    /// `-`
    Error,
    /// `:`
    Integer,
    /// `$`
    Bulk,
    /// `_`, `$-1` or `*-1`
    Null,
    /// `*`
    Array,
    /// `%`
    Map,
    /// `~`
    Set,
    /// `>`: not a reply (RESP3 only).
    Push,
    /// `,`
    Double,
    /// `#`
    Boolean,
    /// `(`
    BigNumber,
    /// `!`
    BulkError,
    /// `=`
    Verbatim,
}

/// Why the upstream's bytes are not replies. Nothing after them can be trusted: both connections are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ReplyError {
    /// Not one of the 15 types (rule P-2).
    #[error("byte 0x{0:02x} is not a reply type")]
    UnknownType(u8),
    /// A streamed string or aggregate; neither Redis nor Valkey sends one (rule P-2).
    #[error("streamed types are not supported")]
    Streamed,
    /// A length that is not a canonical number (rule P-4).
    #[error("malformed length")]
    BadLength,
    /// A length over 2^40 bytes or 2^32 elements, or too short for its type (rule P-4).
    #[error("length out of range")]
    LengthOutOfRange,
    /// Something else than CR LF at the end of a line or a bulk string.
    #[error("missing CRLF")]
    MissingTerminator,
    /// An integer, boolean or null that is none.
    #[error("malformed integer, boolean or null")]
    BadScalar,
    /// More than 8,192 aggregates inside one another (rule P-1).
    #[error("nested too deeply")]
    TooDeep,
    /// Attributes of more than 16 KiB in front of a frame.
    #[error("attributes too large")]
    AttributesTooLarge,
    /// A push inside a frame, where clients disagree whether it counts as an element.
    #[error("push inside a reply")]
    NestedPush,
}

/// What the position is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    /// The type byte of the next item.
    Item,
    /// In a line: there is no CR before this position.
    Line,
    /// The CR LF behind the bytes of a bulk string.
    Bulk,
}

/// What is known of the current top-level frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing; it has not begun.
    Ahead,
    /// Nothing; its attributes are being read.
    Attributes,
    /// Its kind. The word is its first element, which comes next.
    Kind,
    /// Kind and word: its bytes may be passed on.
    Word,
}

/// Why a walk stopped without an error.
#[derive(Debug, Clone, Copy)]
enum Stop {
    /// At the end of a frame.
    End,
    /// At the end of the bytes.
    Bytes,
    /// Where attributes in front of a frame begin or end: another bound holds from here on.
    Attributes,
}

/// What came of reading an item.
#[derive(Debug, Clone, Copy)]
enum Item {
    /// It has not arrived in full.
    Incomplete,
    /// It is complete.
    Ended,
    /// Its content follows.
    Begun,
    /// It begins attributes in front of a frame.
    Attributes,
}

impl ReplyScanner {
    /// A scanner at the start of a connection. Allocates with the first nested reply.
    pub fn new() -> Self {
        Self {
            inside: Inside::Item,
            at: 0,
            left: 1,
            outer: Vec::new(),
            progress: Progress::Ahead,
            given: false,
            begun: false,
            kind: FrameKind::Null,
            word: [0; MAX_WORD],
            word_len: 0,
            last_integer: None,
        }
    }

    /// Looks for the end of the frame at the start of `window`, which begins with the first byte that has not
    /// been consumed. See the module's page for the convention.
    ///
    /// # Errors
    /// The offending byte's reason, after the good bytes of its frame have been given. The state stays, so the
    /// same window gives the same error again.
    #[inline]
    pub fn scan(&mut self, window: &[u8]) -> Result<ReplyScan, ReplyError> {
        let stop = match self.progress {
            Progress::Attributes => Ok(Stop::Attributes),
            _ => self.walk(window),
        };
        if let Ok(Stop::End) = stop {
            let (len, first) = (self.at, !self.given);
            self.finish();
            return Ok(ReplyScan::Piece {
                len,
                first,
                last: true,
            });
        }
        self.leave(window, stop)
    }

    /// What the current frame is; from its first piece until the first piece of the next one.
    #[inline]
    pub fn kind(&self) -> FrameKind {
        self.kind
    }

    /// The frame's first word, at most 32 bytes; valid as long as [`kind`](Self::kind).
    ///
    /// Of an error (bulk or not) and of a simple string: its bytes up to a blank, cut at 32. Of an array or
    /// push: its first element, if that is a simple string (cut likewise) or a bulk string of at most 32 bytes.
    /// Empty in all other cases.
    #[inline]
    pub fn word(&self) -> &[u8] {
        self.word.get(..usize::from(self.word_len)).unwrap_or_default()
    }

    /// The last integer among the direct elements of the frame that has just ended: the number of
    /// subscriptions in a confirmation. `None` for a frame that is itself an integer.
    #[inline]
    pub fn last_integer(&self) -> Option<i64> {
        self.last_integer
    }

    /// Whether no frame has begun: every byte seen so far belonged to a complete one.
    pub fn is_idle(&self) -> bool {
        self.progress == Progress::Ahead && self.at == 0 && !self.begun
    }

    #[inline]
    fn finish(&mut self) {
        self.at = 0;
        self.left = 1;
        self.progress = Progress::Ahead;
        self.given = false;
        self.begun = false;
        if self.outer.capacity() > KEPT_LEVELS {
            self.outer = Vec::new();
        }
    }

    /// The walk did not reach the end of the frame: gives what may be passed on.
    fn leave(&mut self, window: &[u8], mut stop: Result<Stop, ReplyError>) -> Result<ReplyScan, ReplyError> {
        while let Ok(Stop::Attributes) = stop {
            stop = self.walk_attributes(window);
        }
        if let Ok(Stop::End) = stop {
            let (len, first) = (self.at, !self.given);
            self.finish();
            return Ok(ReplyScan::Piece {
                len,
                first,
                last: true,
            });
        }
        if self.progress == Progress::Word {
            // Good bytes go out even if bad ones follow: they would have gone had they arrived alone. The
            // error is found again at the start of the next window.
            let len = self.at.min(window.len());
            if len > 0 {
                let first = !self.given;
                self.given = true;
                self.at -= len;
                return Ok(ReplyScan::Piece {
                    len,
                    first,
                    last: false,
                });
            }
        }
        stop?;
        self.begun = !window.is_empty();
        Ok(ReplyScan::Incomplete)
    }

    /// Goes on in the attributes in front of a frame, and then in the frame.
    ///
    /// Attributes are held back until the kind of their frame is known, so they must be short. The walk sees no
    /// byte beyond the bound, which makes the verdict the same however much has arrived.
    fn walk_attributes(&mut self, window: &[u8]) -> Result<Stop, ReplyError> {
        let stop = self.walk(window.get(..MAX_ATTRIBUTES).unwrap_or(window))?;
        if self.progress != Progress::Attributes {
            return self.walk(window);
        }
        if self.at >= MAX_ATTRIBUTES || window.len() >= MAX_ATTRIBUTES {
            return Err(ReplyError::AttributesTooLarge);
        }
        Ok(stop)
    }

    /// Walks over as many items as `window` holds. On any stop and on an error the scanner stands at the first
    /// item that is not complete and good.
    #[inline(always)]
    fn walk(&mut self, window: &[u8]) -> Result<Stop, ReplyError> {
        loop {
            match self.inside {
                Inside::Item => {
                    let Some((&kind, rest)) = window.get(self.at..).and_then(<[u8]>::split_first) else {
                        return Ok(Stop::Bytes);
                    };
                    match self.item(kind, rest)? {
                        Item::Ended => {}
                        Item::Begun => continue,
                        Item::Incomplete => return Ok(Stop::Bytes),
                        Item::Attributes => return Ok(Stop::Attributes),
                    }
                }
                Inside::Line => {
                    let unseen = window.get(self.at..).unwrap_or_default();
                    let Some(line) = unseen.iter().position(|&byte| byte == b'\r') else {
                        self.at = window.len();
                        return Ok(Stop::Bytes);
                    };
                    self.at += line;
                    if !self.terminator(window)? {
                        return Ok(Stop::Bytes);
                    }
                }
                Inside::Bulk => {
                    if !self.terminator(window)? {
                        return Ok(Stop::Bytes);
                    }
                }
            }
            while self.left == 0 {
                match self.outer.pop() {
                    Some(left) => self.left = u64::from(left),
                    None => return Ok(Stop::End),
                }
            }
            if self.progress == Progress::Attributes && self.outer.is_empty() {
                self.progress = Progress::Ahead;
                return Ok(Stop::Attributes);
            }
        }
    }

    /// Steps over the CR LF at the position, if it is there.
    #[inline]
    fn terminator(&mut self, window: &[u8]) -> Result<bool, ReplyError> {
        match window.get(self.at..) {
            Some([b'\r', b'\n', ..]) => {
                self.at += 2;
                self.inside = Inside::Item;
                Ok(true)
            }
            None | Some([] | [b'\r']) => Ok(false),
            Some(_) => Err(ReplyError::MissingTerminator),
        }
    }

    /// Reads the item of type `kind` at the position. Nothing changes unless it is good and has arrived.
    #[inline]
    fn item(&mut self, kind: u8, rest: &[u8]) -> Result<Item, ReplyError> {
        match kind {
            b'$' => self.bulk(FrameKind::Bulk, rest),
            b'+' => self.line(FrameKind::Simple, rest),
            b':' => self.integer(rest),
            b'*' => self.aggregate(FrameKind::Array, 1, rest),
            b'-' => self.line(FrameKind::Error, rest),
            b'_' => self.exactly(FrameKind::Null, rest, 1),
            b',' => self.line(FrameKind::Double, rest),
            b'#' => match rest {
                [] => Ok(Item::Incomplete),
                [b't' | b'f', rest @ ..] => self.exactly(FrameKind::Boolean, rest, 2),
                _ => Err(ReplyError::BadScalar),
            },
            b'%' => self.aggregate(FrameKind::Map, 2, rest),
            b'~' => self.aggregate(FrameKind::Set, 1, rest),
            b'>' if self.progress == Progress::Ahead => self.aggregate(FrameKind::Push, 1, rest),
            b'>' => Err(ReplyError::NestedPush),
            b'=' => self.bulk(FrameKind::Verbatim, rest),
            b'(' => self.line(FrameKind::BigNumber, rest),
            b'!' => self.bulk(FrameKind::BulkError, rest),
            b'|' => self.attribute(rest),
            b'.' | b';' => Err(ReplyError::Streamed),
            other => Err(ReplyError::UnknownType(other)),
        }
    }

    #[inline]
    fn bulk(&mut self, kind: FrameKind, rest: &[u8]) -> Result<Item, ReplyError> {
        let (size, used) = match length(rest) {
            Length::Known(size, used) => (size, used),
            other => return self.no_length(kind, rest, other),
        };
        // A verbatim string begins with its three-letter format and a colon.
        if size > MAX_BULK || kind == FrameKind::Verbatim && size < 4 {
            return Err(ReplyError::LengthOutOfRange);
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let word = match (self.progress, kind) {
            (Progress::Ahead, FrameKind::BulkError) => size.min(MAX_WORD),
            (Progress::Kind, FrameKind::Bulk) if size <= MAX_WORD => size,
            _ => 0,
        };
        let Some(word) = rest.get(used..used + word) else {
            return Ok(Item::Incomplete);
        };
        let word = if kind == FrameKind::BulkError {
            until_blank(word)
        } else {
            word
        };
        self.begin(kind, word, Progress::Word);
        self.at = self.at.saturating_add(1 + used).saturating_add(size);
        self.inside = Inside::Bulk;
        Ok(Item::Begun)
    }

    #[inline]
    fn line(&mut self, kind: FrameKind, rest: &[u8]) -> Result<Item, ReplyError> {
        let mut word: &[u8] = &[];
        if matches!(
            (self.progress, kind),
            (Progress::Ahead, FrameKind::Simple | FrameKind::Error) | (Progress::Kind, FrameKind::Simple)
        ) {
            let head = rest.get(..MAX_WORD).unwrap_or(rest);
            word = until_blank(head);
            if word.len() == rest.len() && word.len() < MAX_WORD {
                return Ok(Item::Incomplete);
            }
        }
        let seen = word.len();
        self.begin(kind, word, Progress::Word);
        self.at += 1 + seen;
        self.inside = Inside::Line;
        Ok(Item::Begun)
    }

    #[inline]
    fn integer(&mut self, rest: &[u8]) -> Result<Item, ReplyError> {
        let (negative, digits) = match rest {
            [b'-', digits @ ..] => (true, digits),
            _ => (false, rest),
        };
        let (value, used) = match length(digits) {
            Length::Known(value, used) => (value, used),
            Length::More => return Ok(Item::Incomplete),
            Length::Bad | Length::Long => return Err(ReplyError::BadScalar),
        };
        let value = if negative {
            0i64.checked_sub_unsigned(value)
        } else {
            i64::try_from(value).ok()
        };
        let Some(value) = value else {
            return Err(ReplyError::BadScalar);
        };
        self.begin(FrameKind::Integer, &[], Progress::Word);
        if self.outer.len() == 1 && self.progress == Progress::Word {
            self.last_integer = Some(value);
        }
        self.at += 1 + usize::from(negative) + used;
        Ok(Item::Ended)
    }

    /// An aggregate whose count stands for `per` elements each.
    #[inline]
    fn aggregate(&mut self, kind: FrameKind, per: u64, rest: &[u8]) -> Result<Item, ReplyError> {
        let (count, used) = match length(rest) {
            Length::Known(count, used) => (count, used),
            other => return self.no_length(kind, rest, other),
        };
        let elements = self.elements(count, per)?;
        let has_word = matches!(kind, FrameKind::Array | FrameKind::Push) && elements > 0;
        self.begin(kind, &[], if has_word { Progress::Kind } else { Progress::Word });
        self.at += 1 + used;
        self.open(elements)
    }

    /// An attribute is no element of what it stands in.
    #[cold]
    fn attribute(&mut self, rest: &[u8]) -> Result<Item, ReplyError> {
        let (count, used) = match length(rest) {
            Length::Known(count, used) => (count, used),
            other => return self.no_length(FrameKind::Map, rest, other),
        };
        let elements = self.elements(count, 2)?;
        if self.left >= MAX_ELEMENTS {
            // The first of 2^32 elements has an attribute: one count too much for the stack.
            return Err(ReplyError::LengthOutOfRange);
        }
        let at = self.at + 1 + used;
        match self.progress {
            Progress::Ahead if at > MAX_ATTRIBUTES => return Err(ReplyError::AttributesTooLarge),
            Progress::Ahead if elements > 0 => {
                self.at = at;
                self.progress = Progress::Attributes;
                self.open(elements)?;
                return Ok(Item::Attributes);
            }
            // The word would be the first element, and this is none.
            Progress::Kind => self.progress = Progress::Word,
            Progress::Ahead | Progress::Attributes | Progress::Word => {}
        }
        self.at = at;
        self.open(elements)
    }

    /// The number of elements of an aggregate that may be opened here.
    #[inline]
    fn elements(&self, count: u64, per: u64) -> Result<u64, ReplyError> {
        let elements = count.saturating_mul(per);
        if elements > MAX_ELEMENTS {
            return Err(ReplyError::LengthOutOfRange);
        }
        if elements > 0 && self.outer.len() >= MAX_DEPTH {
            return Err(ReplyError::TooDeep);
        }
        Ok(elements)
    }

    #[inline]
    fn open(&mut self, elements: u64) -> Result<Item, ReplyError> {
        if elements == 0 {
            return Ok(Item::Ended);
        }
        self.outer
            .push(u32::try_from(self.left).map_err(|_| ReplyError::LengthOutOfRange)?);
        self.left = elements;
        Ok(Item::Begun)
    }

    /// An item that must end right behind its first `taken` bytes, the type byte included.
    #[inline]
    fn exactly(&mut self, kind: FrameKind, rest: &[u8], taken: usize) -> Result<Item, ReplyError> {
        match rest {
            [b'\r', b'\n', ..] => {
                self.begin(kind, &[], Progress::Word);
                self.at += taken + 2;
                Ok(Item::Ended)
            }
            [] | [b'\r'] => Ok(Item::Incomplete),
            _ => Err(ReplyError::BadScalar),
        }
    }

    /// A length line that is not a whole number: still coming, a RESP2 null, or wrong.
    #[cold]
    fn no_length(&mut self, kind: FrameKind, rest: &[u8], found: Length) -> Result<Item, ReplyError> {
        let nullable = matches!(kind, FrameKind::Bulk | FrameKind::Array);
        match (rest, found) {
            (_, Length::More) => Ok(Item::Incomplete),
            ([b'-'], _) if nullable => Ok(Item::Incomplete),
            ([b'-', b'1', rest @ ..], _) if nullable => self
                .exactly(FrameKind::Null, rest, 3)
                .map_err(|_| ReplyError::BadLength),
            ([b'?', ..], _) => Err(ReplyError::Streamed),
            _ => Err(ReplyError::BadLength),
        }
    }

    /// Notes that an item has begun. For a frame, `next` is what is known with it; for the first element of
    /// one, `word` is the frame's word.
    #[inline]
    fn begin(&mut self, kind: FrameKind, word: &[u8], next: Progress) {
        self.left -= 1;
        match self.progress {
            Progress::Word | Progress::Attributes => return,
            Progress::Kind => self.progress = Progress::Word,
            Progress::Ahead => {
                self.kind = kind;
                self.last_integer = None;
                self.progress = next;
            }
        }
        self.word_len = 0;
        for (to, &from) in self.word.iter_mut().zip(word) {
            *to = from;
            self.word_len += 1;
        }
    }
}

impl FrameKind {
    /// Whether the frame is an error reply, simple or bulk.
    pub fn is_error(self) -> bool {
        matches!(self, Self::Error | Self::BulkError)
    }
}

impl ReplyError {
    /// The word for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::UnknownType(_) => "unknown_type",
            Self::Streamed => "streamed",
            Self::BadLength => "bad_length",
            Self::LengthOutOfRange => "length_out_of_range",
            Self::MissingTerminator => "missing_terminator",
            Self::BadScalar => "bad_scalar",
            Self::TooDeep => "too_deep",
            Self::AttributesTooLarge => "attributes_too_large",
            Self::NestedPush => "nested_push",
        }
    }
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self::new()
    }
}

/// The word is never shown: it may be data.
impl std::fmt::Debug for ReplyScanner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyScanner")
            .field("inside", &self.inside)
            .field("at", &self.at)
            .field("depth", &self.outer.len())
            .field("progress", &self.progress)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// The bytes in front of the first blank or CR.
#[inline]
fn until_blank(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().position(|byte| matches!(byte, b' ' | b'\r'));
    end.and_then(|end| bytes.get(..end)).unwrap_or(bytes)
}

/// Bytes of a frame's first word that are kept: longer than any error code or kind of message.
const MAX_WORD: usize = 32;

/// Longest string, far above what Redis can store (rule P-4).
const MAX_BULK: u64 = 1 << 40;

/// Most elements of one aggregate (rule P-4), a map's keys and values counted apart.
const MAX_ELEMENTS: u64 = 1 << 32;

/// Levels of nesting: scripts reach 7,995 on a stock Redis (rule P-1).
const MAX_DEPTH: usize = 8_192;

/// Bytes of attributes in front of one frame, which are held back until its kind is known.
const MAX_ATTRIBUTES: usize = 16_384;

/// Levels whose memory is kept from one frame to the next.
const KEPT_LEVELS: usize = 64;

#[cfg(test)]
mod tests;
