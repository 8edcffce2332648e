//! Which commands a user may run: the command table, the rule language, the verdict.
//!
//! Pure: names and rules in, [`Permit`] or [`Denied`] out. A command that the table does not know is never asked about: the
//! session refuses it (rule 4). [`User::decide`] decides in the order of Redis's own `ACLSelectorCheckCmd` (acl.c): the
//! command, then the arguments that a preset restricts, then keys, then channels; the first refusal is the answer. Roles
//! that would change the protocol of the connection are refused before anything else, whatever the rules say (C-5, R-28).
//!
//! As in Redis, key patterns do not limit KEYS, SCAN, RANDOMKEY and DBSIZE, which name no key: whoever must not learn the names of
//! others' keys must not have these commands (K-2).
//!
//! | file | holds |
//! |---|---|
//! | `commands.rs` | the table as data |
//! | `command.rs` | the meaning of its columns |
//! | `keys.rs` | which arguments are keys and channels |
//! | `glob.rs` | Redis's patterns |
//! | `lookup.rs` | from the client's words to a row |
//! | `rule.rs` | Redis's rule language and ACL files, both directions |
//! | `access.rs` | what the rules of a user or a selector add up to |
//! | `decide.rs` | the verdict on a request |
//! | `late.rs` | the verdict on one that is too long to be held |
//! | `learn.rs` | from what was seen to the least rule that permits it |
//! | `explain.rs` | the verdict in words for the operator |
//! | `upstream.rs` | the rules for Keyward's own user on the server |
//! | `preset.rs` | `safe` and `strict`, with a reason for every entry |

mod access;
mod command;
mod commands;
mod decide;
mod explain;
#[doc(hidden)]
pub mod fuzz;
mod glob;
mod keys;
mod late;
mod learn;
mod lookup;
mod preset;
pub mod rule;
mod upstream;

use std::fmt;

pub use command::{Categories, Class, Command, CommandId, Role, Since, SubKind};
pub use decide::{Decision, Named, names};
pub use keys::{Channels, KeyFlags, Keys};
pub use late::LateCheck;
pub use learn::{LateLearning, Learned};
pub use lookup::{Resolved, commands, resolve};
pub use preset::{ArgumentRule, Effect, Entry, Preset};
pub use upstream::{FENCE_CHANNEL, Target, upstream_rules};

/// A user and what it may do. Made by [`rule::parse_user`]; [`User::to_rule`] writes it back.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// Name for AUTH.
    pub name: String,
    /// `on`: may log in.
    pub enabled: bool,
    /// `nopass`: any password will do.
    pub nopass: bool,
    /// SHA-256 digests of the passwords, in the order in which they were added; every one is valid.
    pub passwords: Vec<[u8; 32]>,
    /// Databases that it may use; `None`: every one. Not part of Redis's rules; see `databases` in the configuration.
    pub databases: Option<Vec<u32>>,
    /// What the rules refuse is forwarded all the same, and told (`mode = "observe"`). Nothing of Redis's rules either; decisions
    /// do not depend on it.
    pub observe: bool,
    /// What is permitted or observed is remembered as a rule (`learn = true`).
    pub learn: bool,
    /// `sanitize-payload` (true) or `skip-sanitize-payload`, if either was said. Means something to RESTORE in Redis alone;
    /// kept so that a rule is written back as it was.
    sanitize: Option<bool>,
    /// What follows the passwords in the rule text.
    access: rule::Access,
    /// Rules in parentheses: what one of these permits as a whole is permitted.
    selectors: Vec<rule::Access>,
}

/// Proof that a command was checked and may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "a permit is the only reason to forward a request"]
pub struct Permit(());

/// A refusal: what was refused, and why. Holds nothing that came from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Name from the command table.
    pub command: &'static str,
    /// The rule that refused.
    pub reason: DenyReason,
    /// Position of the argument that it is about, 0 for the command itself.
    pub argument: u32,
}

/// Why a command was refused; the words of `ACL LOG`, and two more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenyReason {
    /// The user may not run this command.
    Command,
    /// The user may not touch a key that it names.
    Key,
    /// The user may not use a channel that it names.
    Channel,
    /// The user may not use the database that it names.
    Database,
    /// The user may run the command, but not with these arguments, or they cannot be seen in time.
    Argument,
}

impl User {
    /// A user that may do nothing and cannot log in, as `ACL SETUSER name` makes it.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            enabled: false,
            nopass: false,
            passwords: Vec::new(),
            databases: None,
            observe: false,
            learn: false,
            sanitize: None,
            access: rule::Access::default(),
            selectors: Vec::new(),
        }
    }

    /// Whether a refusal of this command is only to be told. Roles that change the protocol of the connection stay refused.
    pub fn observes(&self, command: &Command) -> bool {
        self.observe && !matches!(command.role, Role::Replication | Role::Http)
    }

    /// Adds the SHA-256 digest of a password, once; as in Redis a password ends `nopass`.
    pub fn add_password(&mut self, digest: [u8; 32]) {
        self.nopass = false;
        if !self.passwords.contains(&digest) {
            self.passwords.push(digest);
        }
    }
}

/// Password digests stay out of every debug output.
impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("enabled", &self.enabled)
            .field("nopass", &self.nopass)
            .field("passwords", &self.passwords.len())
            .field("databases", &self.databases)
            .field("access", &self.access.to_string())
            .field("selectors", &self.selectors.len())
            .finish()
    }
}

impl Denied {
    /// The reply of Redis 7.2 and later, without the leading `-` (C-14). Names the table's command, never the client's bytes.
    pub fn reply(&self, user: &str) -> String {
        let command = self.command;
        match self.reason {
            DenyReason::Command | DenyReason::Argument => {
                format!("NOPERM User {user} has no permissions to run the '{command}' command")
            }
            DenyReason::Key => "NOPERM No permissions to access a key".to_owned(),
            DenyReason::Channel => "NOPERM No permissions to access a channel".to_owned(),
            DenyReason::Database => "NOPERM No permissions to access a database".to_owned(),
        }
    }
}

impl DenyReason {
    /// Every reason; metrics are pre-created from it.
    pub const ALL: [Self; 5] = [
        Self::Command,
        Self::Key,
        Self::Channel,
        Self::Database,
        Self::Argument,
    ];

    /// Label of metrics and audit lines.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Key => "key",
            Self::Channel => "channel",
            Self::Database => "database",
            Self::Argument => "argument",
        }
    }
}

/// A set of commands, one bit a row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CommandSet([u64; WORDS]);

impl Default for CommandSet {
    fn default() -> Self {
        Self::EMPTY
    }
}

const WORDS: usize = commands::COMMANDS.len().div_ceil(64);

impl CommandSet {
    const EMPTY: Self = Self([0; WORDS]);
    const FULL: Self = Self([u64::MAX; WORDS]);

    fn contains(&self, id: CommandId) -> bool {
        self.0
            .get(id.index() / 64)
            .is_some_and(|word| word >> (id.index() % 64) & 1 != 0)
    }

    fn add(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(other.0) {
            *word |= other;
        }
    }

    /// Names of the members.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        let members = commands().iter().filter(|command| self.contains(command.id));
        members.map(|command| command.name)
    }

    fn set(&mut self, id: CommandId, member: bool) {
        let bit = 1 << (id.index() % 64);
        if let Some(word) = self.0.get_mut(id.index() / 64) {
            *word = if member { *word | bit } else { *word & !bit };
        }
    }
}

#[cfg(test)]
mod tests;
