//! Which arguments of a request name keys and channels, and what is done with them.
//!
//! A row of the command table says it as data ([`Keys`], [`Channels`]); a [`Walk`] goes through the arguments once, from the first to
//! the last, and says of each what it is. It needs the number of arguments beforehand and nothing else, so a request can be
//! judged while it passes. What it does not understand is refused, never guessed (K-2): a wrong number of keys, an option
//! that is none, a command whose arguments nobody here has read.
//!
//! Positions count the command's name as 0, subcommands as Redis does. Redis's own extraction errs in three ways that
//! are put right here (K-1): GEORADIUS stores to its last STORE and checks the first, XREADGROUP takes a consumer called STREAMS for
//! the option, and PFMERGE with a destination alone checks nothing.

pub(super) mod columns;

/// What a command does with a key: the flags of Redis's key specifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyFlags(u8);

impl KeyFlags {
    /// Whether a pattern must permit reading (`%R`): the value, or part of it, comes back or is copied.
    pub const fn reads(self) -> bool {
        self.0 & ACCESS != 0
    }

    /// Whether a pattern must permit writing (`%W`).
    pub const fn writes(self) -> bool {
        self.0 & (INSERT | DELETE | UPDATE) != 0
    }

    /// The names as COMMAND GETKEYSANDFLAGS writes them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        FLAG_NAMES
            .iter()
            .filter(move |(bit, _)| self.0 & bit != 0)
            .map(|(_, name)| *name)
    }
}

/// Where a command's keys are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// It names none.
    None,
    /// At places that the number of arguments and a count among them tell.
    At(&'static [KeySpec]),
    /// `SET key value [GET]`: with GET it reads.
    Set,
    /// BITFIELD key …: with GET alone it only reads.
    Bitfield,
    /// SORT and SORT_RO: BY and GET reach keys that are not named.
    Sort {
        /// With STORE.
        store: bool,
    },
    /// MIGRATE: one key, or all behind KEYS.
    Migrate,
    /// GEORADIUS and GEORADIUSBYMEMBER: the last STORE or STOREDIST counts.
    Georadius {
        /// Position of the first option.
        options: u32,
    },
    /// XREAD and XREADGROUP: half of what stands behind STREAMS.
    Streams {
        /// With GROUP.
        group: bool,
    },
    /// It names keys at places that are not known here: refused to everybody who may not touch all keys.
    Unknown,
    /// It names none and reaches some, as a search does: refused likewise.
    Unnamed,
}

/// A run of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    place: Place,
    flags: KeyFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// From `first` to `last` (counted from the end if negative: -1 is the last argument), every `step`-th.
    Range { first: u32, last: i32, step: u32 },
    /// As many as the argument at `count` says, from `first`, every `step`-th.
    Counted { count: u32, first: u32, step: u32 },
}

/// Where a command's channels are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channels {
    /// It names none.
    None,
    /// The first argument: PUBLISH.
    First,
    /// All arguments: SUBSCRIBE.
    All,
    /// All arguments, which are patterns: PSUBSCRIBE.
    Patterns,
}

/// What an argument is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Nothing that a rule is about.
    Other,
    /// A key.
    Key(KeyFlags),
    /// A key of which a later argument tells what is done with it: the first unless [`Walk::chooses_second`], `None`: nothing.
    Either(KeyFlags, Option<KeyFlags>),
    /// A key that counts unless another such key follows.
    Last(KeyFlags),
    /// A channel.
    Channel {
        /// A pattern, compared as it stands.
        pattern: bool,
    },
}

/// The request is not one that this command takes, or not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUnderstood;

/// Goes through the arguments of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    keys: Keys,
    channels: Channels,
    /// Arguments of the whole request.
    announced: u32,
    /// Position of the next argument.
    at: u32,
    /// From here on nothing can matter any more.
    end: u32,
    /// Arguments of an option that are still to come.
    skip: u32,
    /// The number that [`Place::Counted`] has found.
    count: u32,
    /// Where a run begins and ends that was found on the way.
    run: (u32, u32),
    /// The next argument is this.
    next: Next,
    second: bool,
    reads_all: bool,
    /// MIGRATE's key is empty.
    empty: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Option,
    StoreKey,
    ByPattern,
}

impl Walk {
    pub(super) fn new(keys: Keys, channels: Channels, announced: u32) -> Self {
        let end = match (keys, channels) {
            // Refused even without an argument.
            (Keys::Unnamed, _) => return Self::unnamed(announced),
            (Keys::At(specs), Channels::None) => specs
                .iter()
                .map(|spec| match spec.place {
                    Place::Range { last, .. } => end_of(last, announced),
                    // Until it has been read.
                    Place::Counted { count, .. } => count + 1,
                })
                .max()
                .unwrap_or(0),
            (Keys::None, Channels::First) => 2,
            _ => announced,
        };
        Self {
            keys,
            channels,
            announced,
            at: 0,
            end: end.min(announced),
            skip: 0,
            count: 0,
            run: (0, 0),
            next: Next::Option,
            second: false,
            reads_all: false,
            empty: false,
        }
    }

    /// Never done, so that nothing is permitted.
    fn unnamed(announced: u32) -> Self {
        Self {
            end: u32::MAX,
            ..Self::new(Keys::Unknown, Channels::None, announced)
        }
    }

    /// Position of the next argument.
    pub(super) fn at(&self) -> u32 {
        self.at
    }

    /// Whether no further argument can matter.
    pub(super) fn is_done(&self) -> bool {
        self.at >= self.end
    }

    /// Which of the two flags of [`Part::Either`] counts. Final when [`Walk::is_done`].
    pub(super) fn chooses_second(&self) -> bool {
        self.second
    }

    /// SORT reaches keys that it does not name. Final when [`Walk::is_done`].
    pub(super) fn reads_all(&self) -> bool {
        self.reads_all
    }

    /// Whether the arguments that follow can change no more than the answer to [`Walk::chooses_second`].
    pub(super) fn only_choice_is_open(&self) -> bool {
        matches!(self.keys, Keys::Set | Keys::Bitfield) && self.at > 1
    }

    /// Whether the next argument must be seen. Whoever answers no takes `None`.
    pub(super) fn wants(&self) -> bool {
        if self.is_done() || self.at == 0 {
            return false;
        }
        if self.channels != Channels::None {
            return true;
        }
        match self.keys {
            Keys::At(specs) => specs.iter().any(|spec| self.is_in(spec) || self.is_count(spec)),
            Keys::Set => self.at != 2,
            Keys::Migrate => self.skip == 0 && !matches!(self.at, 1 | 2 | 4 | 5),
            Keys::Georadius { options } => self.skip == 0 && (self.at == 1 || self.at >= options),
            Keys::Streams { .. } if self.run.1 > 0 => self.is_in_run(),
            _ => self.skip == 0,
        }
    }

    /// Takes the next argument; `None` if it was not [wanted](Walk::wants).
    pub(super) fn take(&mut self, argument: Option<&[u8]>) -> Result<Part, NotUnderstood> {
        let part = match argument {
            Some(argument) => self.see(argument)?,
            None if self.wants() => return Err(NotUnderstood),
            None => {
                self.skip = self.skip.saturating_sub(u32::from(self.at > 0));
                Part::Other
            }
        };
        self.at += 1;
        Ok(part)
    }

    fn see(&mut self, argument: &[u8]) -> Result<Part, NotUnderstood> {
        if self.at == 0 || self.is_done() {
            return Ok(Part::Other);
        }
        match self.channels {
            Channels::None => {}
            Channels::First | Channels::All => return Ok(Part::Channel { pattern: false }),
            Channels::Patterns => return Ok(Part::Channel { pattern: true }),
        }
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(Part::Other);
        }
        match self.keys {
            Keys::None => Ok(Part::Other),
            Keys::At(specs) => self.at_place(specs, argument),
            Keys::Set => Ok(self.set(argument)),
            Keys::Bitfield => Ok(self.bitfield(argument)),
            Keys::Sort { store } => self.sort(store, argument),
            Keys::Migrate => self.migrate(argument),
            Keys::Georadius { options } => self.georadius(options, argument),
            Keys::Streams { group } => self.streams(group, argument),
            Keys::Unknown | Keys::Unnamed => Err(NotUnderstood),
        }
    }

    fn at_place(&mut self, specs: &[KeySpec], argument: &[u8]) -> Result<Part, NotUnderstood> {
        for spec in specs {
            if let Place::Counted { count, first, step } = spec.place
                && count == self.at
            {
                let number = crate::resp::parse_integer(argument).ok_or(NotUnderstood)?;
                let number = u32::try_from(number).map_err(|_| NotUnderstood)?;
                let left = self.announced.saturating_sub(first);
                // The last one needs no full step behind it.
                if number > left.div_ceil(step) {
                    return Err(NotUnderstood);
                }
                self.count = number;
                if number > 0 {
                    self.end = self.end.max(first + (number - 1) * step + 1);
                }
                return Ok(Part::Other);
            }
        }
        let found = specs.iter().find(|spec| self.is_in(spec));
        Ok(found.map_or(Part::Other, |spec| Part::Key(spec.flags)))
    }

    fn is_in(&self, spec: &KeySpec) -> bool {
        match spec.place {
            Place::Range { first, last, step } => {
                let end = end_of(last, self.announced);
                (first..end).contains(&self.at) && (self.at - first).is_multiple_of(step)
            }
            Place::Counted { first, step, .. } => {
                let end = first.saturating_add(self.count.saturating_mul(step));
                (first..end).contains(&self.at) && (self.at - first).is_multiple_of(step)
            }
        }
    }

    fn is_count(&self, spec: &KeySpec) -> bool {
        matches!(spec.place, Place::Counted { count, .. } if count == self.at)
    }

    fn is_in_run(&self) -> bool {
        (self.run.0..self.run.1).contains(&self.at)
    }

    /// Arguments behind this one.
    fn behind(&self) -> u32 {
        self.announced - self.at - 1
    }

    /// The option takes so many arguments.
    fn option(&mut self, arguments: u32) -> Result<Part, NotUnderstood> {
        if self.behind() < arguments {
            return Err(NotUnderstood);
        }
        self.skip = arguments;
        Ok(Part::Other)
    }

    fn set(&mut self, argument: &[u8]) -> Part {
        if self.at == 1 {
            return Part::Either(OVERWRITES, Some(EXCHANGES));
        }
        // IFEQ and its kin tell by their reply what the value is.
        let reads = ["get", "ifeq", "ifne", "ifdeq", "ifdne"];
        self.second |= self.at > 2 && reads.iter().any(|word| is(argument, word));
        Part::Other
    }

    fn bitfield(&mut self, argument: &[u8]) -> Part {
        if self.at == 1 {
            return Part::Either(READS, Some(CHANGES));
        }
        // What is no operation of those known counts as a write, as in Redis.
        self.skip = match self.behind() {
            2.. if is(argument, "get") => 2,
            1.. if is(argument, "overflow") => 1,
            _ => {
                self.second = true;
                self.end = self.at;
                0
            }
        };
        Part::Other
    }

    fn sort(&mut self, store: bool, argument: &[u8]) -> Result<Part, NotUnderstood> {
        if self.at == 1 {
            return Ok(Part::Key(READS));
        }
        match std::mem::replace(&mut self.next, Next::Option) {
            Next::StoreKey => return Ok(Part::Last(OVERWRITES)),
            Next::ByPattern => {
                // A constant means no sorting at all.
                self.reads_all |= c_string(argument).contains(&b'*');
                return Ok(Part::Other);
            }
            Next::Option => {}
        }
        let (word, behind) = (argument, self.behind());
        if is(word, "asc") || is(word, "desc") || is(word, "alpha") {
            Ok(Part::Other)
        } else if is(word, "limit") {
            self.option(2)
        } else if is(word, "store") && store && behind >= 1 {
            self.next = Next::StoreKey;
            Ok(Part::Other)
        } else if is(word, "by") && behind >= 1 {
            self.next = Next::ByPattern;
            Ok(Part::Other)
        } else if is(word, "get") {
            self.reads_all = true;
            self.option(1)
        } else {
            Err(NotUnderstood)
        }
    }

    fn migrate(&mut self, argument: &[u8]) -> Result<Part, NotUnderstood> {
        match self.at {
            1 | 2 | 4 | 5 => Ok(Part::Other),
            3 => {
                self.empty = argument.is_empty();
                Ok(Part::Either(TAKES, None))
            }
            _ if self.second => Ok(Part::Key(TAKES)),
            _ if is(argument, "copy") || is(argument, "replace") => Ok(Part::Other),
            _ if is(argument, "auth") => self.option(1),
            _ if is(argument, "auth2") => self.option(2),
            _ if is(argument, "keys") && self.empty => {
                self.second = true;
                Ok(Part::Other)
            }
            _ => Err(NotUnderstood),
        }
    }

    fn georadius(&mut self, options: u32, argument: &[u8]) -> Result<Part, NotUnderstood> {
        if self.at == 1 {
            return Ok(Part::Key(READS));
        }
        if self.at < options {
            return Ok(Part::Other);
        }
        if std::mem::replace(&mut self.next, Next::Option) == Next::StoreKey {
            return Ok(Part::Last(OVERWRITES));
        }
        let plain = ["withcoord", "withdist", "withhash", "any", "asc", "desc"];
        if plain.iter().any(|word| is(argument, word)) {
            Ok(Part::Other)
        } else if is(argument, "count") {
            self.option(1)
        } else if (is(argument, "store") || is(argument, "storedist")) && self.behind() >= 1 {
            self.next = Next::StoreKey;
            Ok(Part::Other)
        } else {
            Err(NotUnderstood)
        }
    }

    fn streams(&mut self, group: bool, argument: &[u8]) -> Result<Part, NotUnderstood> {
        if self.run.1 > 0 {
            return Ok(if self.is_in_run() {
                Part::Key(READS)
            } else {
                Part::Other
            });
        }
        if is(argument, "block") || is(argument, "count") || group && is(argument, "claim") {
            self.option(1)
        } else if group && is(argument, "group") {
            self.option(2)
        } else if group && is(argument, "noack") {
            Ok(Part::Other)
        } else if is(argument, "streams") {
            let behind = self.behind();
            if behind == 0 || !behind.is_multiple_of(2) {
                return Err(NotUnderstood);
            }
            let first = self.at + 1;
            self.run = (first, first + behind / 2);
            self.end = self.run.1;
            Ok(Part::Other)
        } else {
            Err(NotUnderstood)
        }
    }
}

/// The position behind `last`, which counts from the end if it is negative.
fn end_of(last: i32, announced: u32) -> u32 {
    if last < 0 {
        announced.saturating_sub(last.unsigned_abs() - 1)
    } else {
        last.unsigned_abs() + 1
    }
}

/// Whether an argument is this option word to Redis.
pub(super) fn is(argument: &[u8], word: &str) -> bool {
    c_string(argument).eq_ignore_ascii_case(word.as_bytes())
}

/// Redis compares option words as C strings: what follows a NUL does not count for it, so it must not hide a word from us.
pub(super) fn c_string(argument: &[u8]) -> &[u8] {
    argument.split(|byte| *byte == 0).next().unwrap_or_default()
}

const fn range(first: u32, last: i32, step: u32, flags: u8) -> KeySpec {
    KeySpec {
        place: Place::Range { first, last, step },
        flags: KeyFlags(flags),
    }
}

/// One key.
const fn one(at: u32, flags: u8) -> KeySpec {
    range(at, at.cast_signed(), 1, flags)
}

/// All from there to the end.
const fn from(first: u32, flags: u8) -> KeySpec {
    range(first, -1, 1, flags)
}

/// A count, and as many keys behind it.
const fn counted(count: u32, flags: u8) -> KeySpec {
    KeySpec {
        place: Place::Counted {
            count,
            first: count + 1,
            step: 1,
        },
        flags: KeyFlags(flags),
    }
}

// The value as a whole: read only, read and written, overwritten, removed.
const RO: u8 = 1;
const RW: u8 = 2;
const OW: u8 = 4;
const RM: u8 = 8;
// User data: comes back or is copied, changes depending on or regardless of what was there, is added to, is removed.
const ACCESS: u8 = 16;
const UPDATE: u8 = 32;
const INSERT: u8 = 64;
const DELETE: u8 = 128;

const FLAG_NAMES: [(u8, &str); 8] = [
    (RO, "RO"),
    (RW, "RW"),
    (OW, "OW"),
    (RM, "RM"),
    (ACCESS, "access"),
    (UPDATE, "update"),
    (INSERT, "insert"),
    (DELETE, "delete"),
];

const READS: KeyFlags = KeyFlags(RO | ACCESS);
const CHANGES: KeyFlags = KeyFlags(RW | ACCESS | UPDATE);
const EXCHANGES: KeyFlags = KeyFlags(RW | ACCESS | UPDATE);
const OVERWRITES: KeyFlags = KeyFlags(OW | UPDATE);
const TAKES: KeyFlags = KeyFlags(RW | ACCESS | DELETE);

#[cfg(test)]
mod tests;
