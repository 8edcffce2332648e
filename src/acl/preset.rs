//! The presets `safe` and `strict`: what they refuse, and why.
//!
//! Both start from every command of the table and take away what is listed here (rule C-3); `strict` is `safe` and more.
//! Commands that came after Redis 7.0 are listed by the same reasons. What the server knows and the table does not is refused
//! anyway, and so are, to every user under any rule, SYNC, PSYNC, REPLCONF, `POST` and `HOST:` (their roles say so). `@dangerous` is not the right list (C-4): it holds INFO and CLIENT LIST, and lacks EVAL, SCRIPT KILL and CLIENT REPLY.

use super::command::Command;
use super::lookup;

/// A ready-made set of rules, used as the first word: `safe -publish`. Includes `on ~* &*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// Everything that application libraries use, without administration, mass destruction and other clients' data.
    Safe,
    /// `safe` without scripts, subscriptions, key iteration, database changes and introspection.
    Strict,
}

impl Preset {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Safe, Self::Strict];

    /// The word in rules and configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::Strict => "strict",
        }
    }

    /// The preset of this name, in any case.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|preset| preset.name().eq_ignore_ascii_case(name))
    }

    /// What it changes, from left to right, starting from every command.
    pub fn entries(self) -> impl Iterator<Item = &'static Entry> {
        let more = match self {
            Self::Safe => &[],
            Self::Strict => STRICT,
        };
        SAFE.iter().chain(more)
    }
}

/// One line of a preset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What it does.
    pub effect: Effect,
    /// Why, in one phrase.
    pub reason: &'static str,
}

/// What a line of a preset does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Takes the command away; of a container all subcommands, known or not.
    Block(&'static str),
    /// Gives a subcommand of a blocked container back.
    Allow(&'static str),
    /// Leaves the command, but not with these arguments.
    Restrict(ArgumentRule),
}

/// An argument that a preset refuses; lifted when a later rule names the command or its category, or by `+@all`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArgumentRule {
    /// CLIENT TRACKING with REDIRECT.
    TrackingRedirect,
    /// CLIENT TRACKING with BCAST.
    TrackingBroadcast,
    /// COPY with DB.
    CopyDatabase,
}

impl ArgumentRule {
    /// The command it is about, by its name in the table.
    pub const fn command_name(self) -> &'static str {
        match self {
            Self::TrackingRedirect | Self::TrackingBroadcast => "client|tracking",
            Self::CopyDatabase => "copy",
        }
    }

    /// The row of the command it is about.
    pub(super) fn command(self) -> Option<&'static Command> {
        lookup::by_rule_name(self.command_name())
    }

    /// The word that is refused.
    pub const fn token(self) -> &'static str {
        match self {
            Self::TrackingRedirect => "redirect",
            Self::TrackingBroadcast => "bcast",
            Self::CopyDatabase => "db",
        }
    }

    /// Index of the first argument that can be the refused word: what stands before are command, subcommand and keys.
    pub(super) const fn first(self) -> usize {
        match self {
            Self::TrackingRedirect | Self::TrackingBroadcast => 2,
            Self::CopyDatabase => 3,
        }
    }
}

const fn block(name: &'static str, reason: &'static str) -> Entry {
    Entry {
        effect: Effect::Block(name),
        reason,
    }
}

const fn allow(name: &'static str, reason: &'static str) -> Entry {
    Entry {
        effect: Effect::Allow(name),
        reason,
    }
}

const fn restrict(rule: ArgumentRule, reason: &'static str) -> Entry {
    Entry {
        effect: Effect::Restrict(rule),
        reason,
    }
}

const DESTROYS: &str = "destroys or exchanges all data at once";
const ADMINISTERS: &str = "administration, code loading, crash or file writes";
const CLUSTER_CLIENT: &str = "cluster clients ask for it";
const LOADS: &str = "disk and fork load";
const REPLICATES: &str = "puts a rogue master above the server";
const MOVES_OUT: &str = "sends data to any address, or reads it back from untrusted bytes";
const SHOWS_OTHERS: &str = "shows other clients' arguments, or maintains the server";
const HITS_OTHERS: &str = "kills or stalls other clients";
const SCRIPTS: &str = "stops or removes scripts of others, or changes the protocol (SCRIPT DEBUG)";
const INTERNAL: &str = "internal test command that can block the server";

const SAFE: &[Entry] = &[
    block("flushall", DESTROYS),
    block("flushdb", DESTROYS),
    block("swapdb", DESTROYS),
    block("trimslots", DESTROYS),
    block(
        "keys",
        "takes as long as there are keys; SCAN does the same in slices",
    ),
    block("config", ADMINISTERS),
    block("debug", ADMINISTERS),
    block("shutdown", ADMINISTERS),
    block("module", ADMINISTERS),
    block("acl", ADMINISTERS),
    allow(
        "acl|whoami",
        "tells a client its own name, and is answered by Keyward",
    ),
    block("failover", ADMINISTERS),
    block("cluster", ADMINISTERS),
    allow("cluster|slots", CLUSTER_CLIENT),
    allow("cluster|shards", CLUSTER_CLIENT),
    allow("cluster|info", CLUSTER_CLIENT),
    allow("cluster|myid", CLUSTER_CLIENT),
    allow("cluster|keyslot", CLUSTER_CLIENT),
    allow("cluster|countkeysinslot", CLUSTER_CLIENT),
    allow("cluster|nodes", CLUSTER_CLIENT),
    block("ft.config", ADMINISTERS),
    block("_ft.config", ADMINISTERS),
    block("_ft.debug", ADMINISTERS),
    block("search.clusterinfo", ADMINISTERS),
    block("search.clusterrefresh", ADMINISTERS),
    block("search.clusterset", ADMINISTERS),
    block("timeseries.clusterset", ADMINISTERS),
    block("timeseries.refreshcluster", ADMINISTERS),
    block("save", LOADS),
    block("bgsave", LOADS),
    block("bgrewriteaof", LOADS),
    block("lastsave", LOADS),
    block("backup", LOADS),
    block("replicaof", REPLICATES),
    block("slaveof", REPLICATES),
    block("monitor", "shows every client's arguments"),
    block("migrate", MOVES_OUT),
    block("restore", MOVES_OUT),
    block("restore-asking", MOVES_OUT),
    block("bf.loadchunk", MOVES_OUT),
    block("bf.load", MOVES_OUT),
    block("cf.loadchunk", MOVES_OUT),
    block("slowlog", SHOWS_OTHERS),
    block("commandlog", SHOWS_OTHERS),
    block("hotkeys", SHOWS_OTHERS),
    block("latency", SHOWS_OTHERS),
    block("memory|doctor", SHOWS_OTHERS),
    block("memory|purge", SHOWS_OTHERS),
    block("memory|malloc-stats", SHOWS_OTHERS),
    block("client|kill", HITS_OTHERS),
    block("client|pause", HITS_OTHERS),
    block("client|unpause", HITS_OTHERS),
    block("client|unblock", HITS_OTHERS),
    block("client|no-evict", "takes its memory out of the server's control"),
    block("client|reply", "breaks the counting of replies"),
    block(
        "client|import-source",
        "switches off expiry for what the client writes",
    ),
    restrict(
        ArgumentRule::TrackingRedirect,
        "sends key names to another connection",
    ),
    block("script|flush", SCRIPTS),
    block("script|kill", SCRIPTS),
    block("script|debug", SCRIPTS),
    block("function|flush", SCRIPTS),
    block("function|delete", SCRIPTS),
    block("function|restore", SCRIPTS),
    block("function|kill", SCRIPTS),
    block("function|dump", SCRIPTS),
    block("pfdebug", INTERNAL),
    block("pfselftest", INTERNAL),
];

const RUNS_CODE: &str = "scripts reach commands that are blocked here (C-7)";
const READS_ELSEWHERE: &str = "reads keys that its arguments do not name (BY, GET)";
const ITERATES: &str = "gives key names away that the client did not know";
const LEAVES_DATABASE: &str = "reaches another database";
const LISTENS: &str = "hears what other clients say";
const INTROSPECTS: &str = "shows how and by whom the server is used";
const WAITS: &str = "waits for replicas or disk, as long as the client says";

/// Beyond [`SAFE`].
const STRICT: &[Entry] = &[
    block(
        "dump",
        "the counterpart of RESTORE: serialised values leave the server",
    ),
    block("client|list", "shows all clients with their addresses and names"),
    block("eval", RUNS_CODE),
    block("evalsha", RUNS_CODE),
    block("eval_ro", RUNS_CODE),
    block("evalsha_ro", RUNS_CODE),
    block("fcall", RUNS_CODE),
    block("fcall_ro", RUNS_CODE),
    block("function|load", RUNS_CODE),
    block("script|load", RUNS_CODE),
    block("sort", READS_ELSEWHERE),
    block("sort_ro", READS_ELSEWHERE),
    block("scan", ITERATES),
    block("clusterscan", ITERATES),
    block("randomkey", ITERATES),
    restrict(
        ArgumentRule::TrackingBroadcast,
        "shows the name of every key that changes",
    ),
    block("select", LEAVES_DATABASE),
    block("move", LEAVES_DATABASE),
    restrict(ArgumentRule::CopyDatabase, LEAVES_DATABASE),
    block("subscribe", LISTENS),
    block("psubscribe", LISTENS),
    block("ssubscribe", LISTENS),
    block("unsubscribe", LISTENS),
    block("punsubscribe", LISTENS),
    block("sunsubscribe", LISTENS),
    block("pubsub", INTROSPECTS),
    block("object", INTROSPECTS),
    block("wait", WAITS),
    block("waitaof", WAITS),
    block(
        "command|getkeys",
        "reads the arguments of other commands, with defects in the past (C-12)",
    ),
    block(
        "command|getkeysandflags",
        "reads the arguments of other commands, with defects in the past (C-12)",
    ),
];
