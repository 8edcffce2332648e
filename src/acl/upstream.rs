//! The rules that Keyward's own user should have on the server: what its users may do together, and what it needs itself (C-8).
//!
//! Each set of rules becomes a selector, so nothing is permitted that no user may do. Commands are named one by one: a list of
//! what is refused would let through what a newer server knows and this table does not.

use std::collections::BTreeSet;

use super::access::Access;
use super::command::{Class, Command, Role, Since};
use super::{User, lookup};

/// The server that the rules are for; it takes no rule about a command that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Redis of this version.
    Redis(u8, u8),
    /// Valkey of this version.
    Valkey(u8, u8),
}

impl Target {
    /// `redis-7.0`, `valkey-8.1`.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, version) = text.split_once('-')?;
        let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
        let (major, minor) = (major.parse().ok()?, minor.parse().ok()?);
        match name.to_ascii_lowercase().as_str() {
            "redis" if major >= 7 => Some(Self::Redis(major, minor)),
            "valkey" => Some(Self::Valkey(major, minor)),
            _ => None,
        }
    }

    fn knows(self, since: Since) -> bool {
        match self {
            Self::Redis(major, minor) => since.redis.is_some_and(|since| since <= (major, minor)),
            Self::Valkey(major, minor) => since.valkey.is_some_and(|since| since <= (major, minor)),
        }
    }
}

/// The words behind `ACL SETUSER name`. Passwords are left as they are. `database`: the one that connections begin on.
pub fn upstream_rules<'a>(
    users: impl Iterator<Item = &'a User>,
    target: Target,
    modules: bool,
    database: u32,
) -> Vec<String> {
    let mut words: Vec<String> = ["on", "resetkeys", "resetchannels", "clearselectors", "-@all"]
        .map(str::to_owned)
        .into();
    let known = |command: &Command| {
        target.knows(command.since)
            && (modules || command.class != Class::Module)
            && !matches!(command.role, Role::Replication | Role::Http)
    };
    let needed = if database == 0 { NEEDED } else { NEEDED_ELSEWHERE };
    for name in needed {
        words.extend(
            lookup::by_rule_name(name)
                .filter(|command| known(command))
                .map(|command| format!("+{}", command.name)),
        );
    }
    let enabled: Vec<&User> = users.filter(|user| user.enabled).collect();
    let mut selectors: BTreeSet<String> = enabled
        .iter()
        .flat_map(|user| user.accesses())
        .filter_map(|access| access.as_selector(&known))
        .collect();
    let fences = ["wait", "waitaof"];
    let may_wait = |user: &&User| {
        let mut commands = fences.iter().filter_map(|name| lookup::by_rule_name(name));
        commands.any(|command| known(command) && user.may_run(command))
    };
    if enabled.iter().any(may_wait) {
        selectors.insert(format!("(resetchannels &{FENCE_CHANNEL} +publish)"));
    }
    words.extend(selectors);
    words
}

impl Access {
    /// The same in parentheses, for a server that knows these commands; `None`: it permits none of them.
    fn as_selector(&self, known: &dyn Fn(&Command) -> bool) -> Option<String> {
        let mut commands = Vec::new();
        for command in lookup::commands().iter().filter(|command| known(command)) {
            if command.parent.is_some() || command.always_allowed {
                continue;
            }
            let subs: Vec<&Command> = lookup::subcommands(command.id).filter(|sub| known(sub)).collect();
            let permitted = |sub: &&&Command| self.commands.contains(sub.id);
            // COMMAND is one itself, all other containers are only names.
            let alone = self.commands.contains(command.id) && (subs.is_empty() || command.accepts(1));
            if alone || (!subs.is_empty() && subs.iter().all(|sub| permitted(&sub))) {
                commands.push(format!("+{}", command.name));
                let refused = subs.iter().filter(|sub| !permitted(sub));
                commands.extend(refused.map(|sub| format!("-{}", sub.name)));
            } else {
                let some = subs.iter().filter(permitted);
                commands.extend(some.map(|sub| format!("+{}", sub.name)));
            }
        }
        if commands.is_empty() {
            return None;
        }
        let (keys, channels) = (self.key_rules().into_iter(), self.channel_rules().into_iter());
        let words: Vec<String> = keys
            .filter(|rule| fits_in_selector(rule))
            .chain(["resetchannels".to_owned()])
            .chain(channels.filter(|rule| fits_in_selector(rule)))
            .chain(commands)
            .collect();
        Some(format!("({})", words.join(" ")))
    }
}

/// Redis reads quotes in a selector, and takes a parenthesis at the end of any word for its end: such a pattern is left out.
fn fits_in_selector(rule: &str) -> bool {
    !rule.contains(['"', '\'']) && !rule.ends_with(')')
}

/// Where Keyward itself publishes, before WAIT and WAITAOF of clients who share connections: see `Session::fence`.
pub const FENCE_CHANNEL: &str = "keyward:fence";

/// Login and probes, and what is put on a new connection for a client: its name and its library's. HELLO and AUTH need no rule.
const NEEDED: &[&str] = &["ping", "client|setname", "client|setinfo"];

/// The same where connections leave database 0.
const NEEDED_ELSEWHERE: &[&str] = &["ping", "client|setname", "client|setinfo", "select"];
