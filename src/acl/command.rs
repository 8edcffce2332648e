//! What one row of the command table says.
//!
//! The rows themselves are in `commands.rs`; this file gives the columns their meaning.

use std::fmt;

use super::keys::{Channels, Keys};

/// Position of a command in the table; stable within one build, usable as an array index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(pub(super) u16);

impl CommandId {
    /// The position as an index into arrays of [`commands().len()`](super::commands) elements.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// One command (`get`) or subcommand (`config|get`).
#[derive(Debug, Clone, Copy)]
pub struct Command {
    /// Position in the table.
    pub id: CommandId,
    /// Lower-case name as Redis's rule language writes it: `get`, `config|get`.
    pub name: &'static str,
    /// Words of a whole request: exactly `n`, or at least `-n`. Subcommands count their container.
    pub arity: i32,
    /// The ACL categories that rules such as `+@read` select by.
    pub categories: Categories,
    /// What the session has to do about it.
    pub role: Role,
    /// Which upstream connection it may travel on.
    pub class: Class,
    /// Whether it has subcommands (`config`).
    pub container: bool,
    /// Where its arguments name keys.
    pub keys: Keys,
    /// Where its arguments name channels to read or to publish to (unsubscribing does neither).
    pub channels: Channels,
    /// Redis's NO_AUTH flag: AUTH, HELLO, QUIT, RESET. No rule can take these away.
    pub always_allowed: bool,
    /// First server versions that know it.
    pub since: Since,
    /// The container of a subcommand.
    pub(super) parent: Option<CommandId>,
    /// Last word of the name: what the client writes at this place.
    pub(super) word: &'static str,
}

impl Command {
    /// The container that this subcommand belongs to.
    pub fn parent(&self) -> Option<&'static Self> {
        self.parent.and_then(|id| super::commands().get(id.index()))
    }

    /// Whether its arguments name keys (Redis: any key specification without NOT_KEY).
    pub fn has_keys(&self) -> bool {
        !matches!(self.keys, Keys::None | Keys::Unnamed)
    }

    /// Whether it reaches keys, named or not: key patterns are about it.
    pub(super) fn touches_keys(&self) -> bool {
        !matches!(self.keys, Keys::None)
    }

    /// Whether its arguments name channels to read or to publish to.
    pub fn has_channels(&self) -> bool {
        !matches!(self.channels, Channels::None)
    }

    /// Whether a request of `argc` words (container and subcommand counted) has a length Redis accepts.
    pub const fn accepts(&self, argc: u32) -> bool {
        if self.arity >= 0 {
            argc == self.arity.unsigned_abs()
        } else {
            argc >= self.arity.unsigned_abs()
        }
    }
}

/// First versions (major, minor) in which a server knows a command; `None`: it never did.
///
/// Module commands carry the version that ships them (Redis 8.0, the Valkey 8.1 bundle), though the module itself
/// may be older and loadable into older servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Since {
    /// Redis.
    pub redis: Option<(u8, u8)>,
    /// Valkey; 7.2 for everything it inherited when it began.
    pub valkey: Option<(u8, u8)>,
}

/// What a command means to the session: everything that is not [`Role::Plain`] changes the connection's state, the
/// number of replies, or the protocol itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// One request, one reply, nothing remembered.
    Plain,
    /// AUTH: answered here, never forwarded (rule 8).
    Auth,
    /// HELLO: answered here with AUTH and SETNAME taken out.
    Hello,
    /// RESET: ends the login (S-5).
    Reset,
    /// QUIT: +OK, then close (C-13).
    Quit,
    /// PING: an array reply while subscribed in RESP2 (S-10).
    Ping,
    /// MULTI.
    Multi,
    /// EXEC.
    Exec,
    /// DISCARD.
    Discard,
    /// WATCH.
    Watch,
    /// UNWATCH.
    Unwatch,
    /// SELECT: the database of the connection (S-17).
    Select,
    /// SUBSCRIBE, PSUBSCRIBE, SSUBSCRIBE: as many replies as names.
    Subscribe(SubKind),
    /// UNSUBSCRIBE, PUNSUBSCRIBE, SUNSUBSCRIBE: replies that only the server can count (S-10).
    Unsubscribe(SubKind),
    /// MONITOR: an endless stream of simple strings.
    Monitor,
    /// CLIENT REPLY: no replies at all (S-12).
    ClientReply,
    /// CLIENT SETNAME: replayed on a new upstream connection.
    ClientSetName,
    /// CLIENT GETNAME: answered here where lanes are shared.
    ClientGetName,
    /// ACL WHOAMI: answered here, since Redis knows only whom we log in as.
    AclWhoAmI,
    /// CLIENT SETINFO: replayed on a new upstream connection.
    ClientSetInfo,
    /// CLIENT TRACKING: invalidation pushes, or another connection's with REDIRECT (K-4).
    ClientTracking,
    /// CLIENT CACHING: about the next command only.
    ClientCaching,
    /// CLIENT NO-EVICT and NO-TOUCH: connection state that is not replayed.
    ClientNo,
    /// EVAL, FCALL, SCRIPT, FUNCTION: pins the session for good (rule 3c).
    Script,
    /// May wait before it answers: BLPOP, XREAD.
    Blocking,
    /// WAIT and WAITAOF: wait too, for what was written on the same connection.
    Fence,
    /// SYNC, PSYNC, REPLCONF, CLUSTER SYNCSLOTS: the connection becomes a replication stream. Never permitted (C-5).
    Replication,
    /// `POST` and `Host:`: not commands but a browser's or attacker's HTTP request. Never permitted.
    Http,
    /// Other connection state that is not replayed: READONLY, ASKING, CLIENT CAPA, HIMPORT.
    ConnectionState,
}

/// What kind of name a subscription is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SubKind {
    /// SUBSCRIBE.
    Channel,
    /// PSUBSCRIBE.
    Pattern,
    /// SSUBSCRIBE.
    Shard,
}

/// Which upstream connection a command may travel on (rule 3b).
///
/// Only [`Class::Shareable`] may share a connection with other clients of the same user; everything else takes one
/// that belongs to its session for the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Exactly one reply whatever happens, no connection state, no waiting, no script, no module, and no error text
    /// that quotes enough of the client's bytes to imitate a frame.
    Shareable,
    /// As shareable, but work or reply grow with a whole collection or with the whole key space (KEYS, SORT, SUNION, LCS,
    /// COMMAND DOCS): it would hold up its neighbours.
    Big,
    /// Reads or changes state of the connection (SELECT, MULTI, SUBSCRIBE, CLIENT ID), or answers not exactly once.
    State,
    /// May wait before it answers and would stop everyone behind it.
    Blocking,
    /// Runs, loads or lists scripts; Lua can put frames of its own into the reply stream (P-6).
    Script,
    /// Administration of the server: rare, sometimes without a reply (SHUTDOWN), sometimes ending connections (CLIENT KILL).
    Admin,
    /// Belongs to a module, whose replies and error texts nobody here has read.
    Module,
}

/// A set of ACL categories.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Categories(pub(super) u32);

impl Categories {
    /// No category: such a command is reached by `+@all` or by its name alone.
    pub const NONE: Self = Self(0);

    /// Whether the two sets share a category.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The category of this name, in any case, without the `@`.
    pub fn by_name(name: &str) -> Option<Self> {
        CATEGORY_NAMES
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, bits)| Self(*bits))
    }

    /// The names of the set, in Redis's order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        CATEGORY_NAMES
            .iter()
            .filter(move |(_, bits)| self.0 & bits != 0)
            .map(|(name, _)| *name)
    }

    /// All category names, in Redis's order (`ACL CAT`), those of modules behind.
    pub fn all_names() -> impl Iterator<Item = &'static str> {
        CATEGORY_NAMES.iter().map(|(name, _)| *name)
    }
}

impl fmt::Debug for Categories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.names()).finish()
    }
}

macro_rules! categories {
    ($($constant:ident = $bit:literal, $name:literal;)*) => {
        $(pub(super) const $constant: u32 = 1 << $bit;)*
        /// Name and bit of every category.
        const CATEGORY_NAMES: &[(&str, u32)] = &[$(($name, $constant)),*];
    };
}

// The first 21 in the order of Redis 7.0's `ACL CAT`; `array` came with Redis 8.8; the others belong to modules.
categories! {
    KEYSPACE = 0, "keyspace";
    READ = 1, "read";
    WRITE = 2, "write";
    SET = 3, "set";
    SORTEDSET = 4, "sortedset";
    LIST = 5, "list";
    HASH = 6, "hash";
    STRING = 7, "string";
    BITMAP = 8, "bitmap";
    HYPERLOGLOG = 9, "hyperloglog";
    GEO = 10, "geo";
    STREAM = 11, "stream";
    PUBSUB = 12, "pubsub";
    ADMIN = 13, "admin";
    FAST = 14, "fast";
    SLOW = 15, "slow";
    BLOCKING = 16, "blocking";
    DANGEROUS = 17, "dangerous";
    CONNECTION = 18, "connection";
    TRANSACTION = 19, "transaction";
    SCRIPTING = 20, "scripting";
    ARRAY = 21, "array";
    SEARCH = 22, "search";
    JSON = 23, "json";
    TIMESERIES = 24, "timeseries";
    BLOOM = 25, "bloom";
    CUCKOO = 26, "cuckoo";
    CMS = 27, "cms";
    TOPK = 28, "topk";
    TDIGEST = 29, "tdigest";
}
