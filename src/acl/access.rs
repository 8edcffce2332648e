//! What a user may do, and how each command rule changes it.
//!
//! Follows Redis's `aclSelector` (acl.c): a bit for every command, and beside it the rules as text, because the bits alone could
//! not be written back in the order in which they were given.

use std::fmt;

use super::command::{Categories, Command, CommandId};
use super::preset::{ArgumentRule, Effect, Entry, Preset};
use super::{CommandSet, lookup};
use crate::resp::Args;

/// Permissions of a user: commands, keys, channels.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Access {
    /// Where the command rules start from.
    base: Base,
    /// Command rules since then, without those that a later one made pointless.
    rules: Vec<String>,
    /// The result of both.
    pub(super) commands: CommandSet,
    /// Arguments that the preset refuses.
    pub(super) arguments: Vec<(CommandId, ArgumentRule)>,
    /// `~*`.
    pub(super) all_keys: bool,
    /// `&*`.
    pub(super) all_channels: bool,
    /// `sanitize-payload` (true) or `skip-sanitize-payload`, if either was said. Means something to RESTORE in Redis alone;
    /// kept so that a rule is written back as it was.
    pub(super) sanitize: Option<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
    Nothing,
    Everything,
    Preset(Preset),
}

impl Default for Access {
    /// Nothing at all: `reset` in Redis.
    fn default() -> Self {
        Self {
            base: Base::Nothing,
            rules: Vec::new(),
            commands: CommandSet::EMPTY,
            arguments: Vec::new(),
            all_keys: false,
            all_channels: false,
            sanitize: None,
        }
    }
}

impl Access {
    /// `+@all` and `-@all`: forget every command rule so far.
    pub(super) fn set_all(&mut self, allow: bool) {
        self.base = if allow { Base::Everything } else { Base::Nothing };
        self.commands = if allow {
            CommandSet::FULL
        } else {
            CommandSet::EMPTY
        };
        self.rules.clear();
        self.arguments.clear();
    }

    /// Starts from a preset.
    pub(super) fn set_preset(&mut self, preset: Preset) {
        self.set_entries(preset.entries());
        self.base = Base::Preset(preset);
        self.all_keys = true;
        self.all_channels = true;
    }

    /// Every command, changed by the lines of a preset.
    fn set_entries<'a>(&mut self, entries: impl Iterator<Item = &'a Entry>) {
        self.set_all(true);
        for entry in entries {
            match entry.effect {
                Effect::Block(name) => self.set_named(name, false),
                Effect::Allow(name) => self.set_named(name, true),
                Effect::Restrict(rule) => {
                    self.arguments
                        .extend(rule.command().map(|command| (command.id, rule)));
                }
            }
        }
    }

    /// `+command`, `-command`, `+container|sub`: of a container all subcommands too.
    pub(super) fn set_command(&mut self, command: &Command, allow: bool) {
        self.set_bits(command, allow);
        self.record(command.name, allow);
    }

    /// `+@category`, `-@category`: every command of the category, and of a container in it all subcommands.
    pub(super) fn set_category(&mut self, category: Categories, name: &str, allow: bool) {
        for command in lookup::commands()
            .iter()
            .filter(|command| command.categories.intersects(category))
        {
            self.set_bits(command, allow);
        }
        self.record(&format!("@{}", name.to_ascii_lowercase()), allow);
    }

    fn set_named(&mut self, name: &str, allow: bool) {
        if let Some(command) = lookup::by_rule_name(name) {
            self.set_bits(command, allow);
        }
    }

    fn set_bits(&mut self, command: &Command, allow: bool) {
        self.commands.set(command.id, allow);
        self.arguments.retain(|(id, _)| *id != command.id);
        for sub in lookup::subcommands(command.id) {
            self.commands.set(sub.id, allow);
            self.arguments.retain(|(id, _)| *id != sub.id);
        }
    }

    /// Keeps the rule for printing. An earlier one of the same name, or about a subcommand of it, has no effect any more
    /// (`ACLSelectorRemoveCommandRule`).
    fn record(&mut self, name: &str, allow: bool) {
        self.rules.retain(|rule| {
            let old = rule.get(1..).unwrap_or_default();
            old.strip_prefix(name)
                .is_none_or(|rest| !rest.is_empty() && !rest.starts_with('|'))
        });
        self.rules
            .push(format!("{}{name}", if allow { '+' } else { '-' }));
    }

    /// Whether an argument rule refuses this request of the command: because of an argument, or because not all of them
    /// can be seen.
    pub(super) fn restricts(&self, id: CommandId, args: Args<'_>, whole: bool) -> bool {
        self.arguments
            .iter()
            .filter(|(command, _)| *command == id)
            .any(|(_, rule)| {
                let complete = whole && args.iter().count() as u64 == u64::from(args.announced());
                let named = |arg: &[u8]| c_string(arg).eq_ignore_ascii_case(rule.token().as_bytes());
                !complete || args.iter().skip(rule.first()).any(named)
            })
    }

    /// The preset that the rules start from; it has to be the first word when they are written.
    pub(super) fn preset(&self) -> Option<Preset> {
        match self.base {
            Base::Preset(preset) => Some(preset),
            Base::Nothing | Base::Everything => None,
        }
    }

    /// A command that may run, names keys, and could not because no key may be touched.
    pub(super) fn keyless_conflict(&self) -> Option<&'static Command> {
        if self.all_keys {
            return None;
        }
        lookup::commands()
            .iter()
            .find(|command| command.has_keys && self.commands.contains(command.id))
    }
}

/// Keys, channels and commands in the order of Redis's `ACL LIST`; the preset, if any, is written elsewhere.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        match (self.all_keys, self.preset()) {
            (true, _) => words.push("~*"),
            // A preset brings all keys along.
            (false, Some(_)) => words.push("resetkeys"),
            (false, None) => {}
        }
        words.push(if self.all_channels { "&*" } else { "resetchannels" });
        match self.base {
            Base::Nothing => words.push("-@all"),
            Base::Everything => words.push("+@all"),
            Base::Preset(_) => {}
        }
        words.extend(self.rules.iter().map(String::as_str));
        f.write_str(&words.join(" "))
    }
}

/// Redis compares option words as C strings: what follows a NUL does not count for it, so it must not hide a word from us.
fn c_string(arg: &[u8]) -> &[u8] {
    arg.split(|byte| *byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
impl super::User {
    /// An enabled user with these lines instead of a preset's.
    pub(super) fn with_entries<'a>(entries: impl Iterator<Item = &'a Entry>) -> Self {
        let mut user = Self::new("test");
        user.access.set_entries(entries);
        (user.enabled, user.access.all_keys, user.access.all_channels) = (true, true, true);
        user
    }
}
