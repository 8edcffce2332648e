//! What a user may do, and how each rule changes it.
//!
//! Follows Redis's `aclSelector` (acl.c): a bit for every command, and beside it the rules as text, because the bits alone could
//! not be written back in the order in which they were given; patterns of keys and channels as they were written. A user has one
//! of these, and one more for each rule in parentheses.

use std::fmt;

use super::command::{Categories, Command, CommandId};
use super::glob::Pattern;
use super::keys::{KeyFlags, c_string};
use super::preset::{ArgumentRule, Effect, Entry, Preset};
use super::{CommandSet, lookup};
use crate::resp::Args;

/// Permissions of a user, or of a selector: commands, keys, channels.
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
    /// The others, in the order in which they were given; none beside `~*`.
    keys: Vec<KeyPattern>,
    /// `&*`.
    pub(super) all_channels: bool,
    /// The others, likewise.
    channels: Vec<Pattern>,
}

/// `~pattern`, `%R~pattern`, `%W~pattern`.
#[derive(Clone, PartialEq, Eq)]
struct KeyPattern {
    pattern: Pattern,
    reads: bool,
    writes: bool,
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
            keys: Vec::new(),
            all_channels: false,
            channels: Vec::new(),
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
        self.set_all_keys(true);
        self.set_all_channels(true);
    }

    /// `~*` and `resetkeys`.
    pub(super) fn set_all_keys(&mut self, all: bool) {
        self.all_keys = all;
        self.keys.clear();
    }

    /// `&*` and `resetchannels`.
    pub(super) fn set_all_channels(&mut self, all: bool) {
        self.all_channels = all;
        self.channels.clear();
    }

    /// `~pattern` and its kin. The same pattern twice is one pattern that permits both.
    pub(super) fn add_key_pattern(&mut self, pattern: &str, reads: bool, writes: bool) {
        match self
            .keys
            .iter_mut()
            .find(|known| known.pattern.as_str() == pattern)
        {
            Some(known) => {
                known.reads |= reads;
                known.writes |= writes;
            }
            None => self.keys.push(KeyPattern {
                pattern: Pattern::new(pattern),
                reads,
                writes,
            }),
        }
    }

    /// `&pattern`.
    pub(super) fn add_channel_pattern(&mut self, pattern: &str) {
        if !self.channels.iter().any(|known| known.as_str() == pattern) {
            self.channels.push(Pattern::new(pattern));
        }
    }

    /// Whether the command may run with some arguments.
    pub(super) fn may_run(&self, command: &Command) -> bool {
        self.permits(command)
            && (self.all_keys || !command.touches_keys() || !self.keys.is_empty() && command.has_keys())
            && (self.all_channels || !self.channels.is_empty() || !command.has_channels())
    }

    /// Whether the command itself is permitted.
    pub(super) fn permits(&self, command: &Command) -> bool {
        self.commands.contains(command.id) || command.always_allowed
    }

    /// Whether this may be done with the key: one pattern must permit all of it (`ACLSelectorCheckKey`).
    pub(super) fn allows_key(&self, key: &[u8], flags: KeyFlags) -> bool {
        let mut patterns = self.keys.iter().filter(|pattern| pattern.permits(flags));
        self.all_keys || patterns.any(|pattern| pattern.pattern.matches(key))
    }

    /// Whether every key may be read, as SORT's BY and GET ask for (`ACLSelectorHasUnrestrictedKeyAccess`).
    pub(super) fn reads_all_keys(&self) -> bool {
        let mut patterns = self.keys.iter();
        self.all_keys || patterns.any(|pattern| pattern.reads && pattern.pattern.as_str() == "*")
    }

    /// Whether the channel may be used; a pattern to subscribe by must stand in the rules as it is.
    pub(super) fn allows_channel(&self, channel: &[u8], pattern: bool) -> bool {
        self.all_channels
            || self.channels.iter().any(|known| {
                if pattern {
                    known.as_str().as_bytes() == channel
                } else {
                    known.matches(channel)
                }
            })
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

    /// Command rules behind the base, as they were given.
    pub(super) fn rules(&self) -> &[String] {
        &self.rules
    }

    /// The rules about keys.
    pub(super) fn key_rules(&self) -> Vec<String> {
        let all = self.all_keys.then(|| "~*".to_owned());
        all.into_iter()
            .chain(self.keys.iter().map(ToString::to_string))
            .collect()
    }

    /// The rules that give channels.
    pub(super) fn channel_rules(&self) -> Vec<String> {
        let all = self.all_channels.then(|| "&*".to_owned());
        all.into_iter()
            .chain(
                self.channels
                    .iter()
                    .map(|pattern| format!("&{}", pattern.as_str())),
            )
            .collect()
    }

    /// Whether there is a key that may be touched.
    pub(super) fn touches_keys(&self) -> bool {
        self.all_keys || !self.keys.is_empty()
    }

    /// A command that may run and names keys, of which none may be touched.
    pub(super) fn keyless_conflict(&self) -> Option<&'static Command> {
        if self.touches_keys() {
            return None;
        }
        lookup::commands()
            .iter()
            .find(|command| command.has_keys() && self.commands.contains(command.id))
    }
}

impl KeyPattern {
    fn permits(&self, flags: KeyFlags) -> bool {
        (self.reads || !flags.reads()) && (self.writes || !flags.writes())
    }
}

/// As the rule is written. `~*` alone would come back as all keys, behind which Redis takes no further pattern.
impl fmt::Display for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match (self.reads, self.writes) {
            (true, true) if self.pattern.as_str() == "*" => "%RW~",
            (true, true) => "~",
            (true, false) => "%R~",
            (false, _) => "%W~",
        };
        write!(f, "{sign}{}", self.pattern.as_str())
    }
}

/// Keys, channels and commands in the order of Redis's `ACL LIST`; the preset, if any, is written elsewhere.
impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if !self.all_keys && self.preset().is_some() {
            // A preset brings all keys along.
            words.push("resetkeys".to_owned());
        }
        words.extend(self.key_rules());
        if !self.all_channels {
            words.push("resetchannels".to_owned());
        }
        words.extend(self.channel_rules());
        match self.base {
            Base::Nothing => words.push("-@all".to_owned()),
            Base::Everything => words.push("+@all".to_owned()),
            Base::Preset(_) => {}
        }
        words.extend(self.rules.iter().cloned());
        f.write_str(&words.join(" "))
    }
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
