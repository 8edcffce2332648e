//! Why a request is refused, in words for the operator: which rule, and which argument.
//!
//! Never for clients or logs: the words quote arguments.

use super::access::Access;
use super::command::{Categories, Command};
use super::decide::{Decision, Named, names};
use super::keys::KeyFlags;
use super::preset::Effect;
use super::{Denied, DenyReason, Role, User, lookup};
use crate::resp::Args;

impl User {
    /// Why a whole request is refused, one sentence for the user's rules and one for each selector; `None`: it is permitted.
    pub fn explain(&self, command: &Command, args: Args<'_>) -> Option<Vec<String>> {
        match self.decide(command, args, true) {
            Decision::Permitted(_) => return None,
            Decision::Denied(denied) if denied.reason == DenyReason::Database => {
                return Some(vec![self.explain_database(&denied, args)]);
            }
            Decision::Denied(_) | Decision::Open => {}
        }
        if matches!(command.role, Role::Replication | Role::Http) {
            let name = command.name;
            return Some(vec![format!(
                "'{name}' would take the connection over; no rule can permit it"
            )]);
        }
        let alone = |access: &Access| {
            let mut user = Self::new("");
            user.access = access.clone();
            user.check(command, args, true).err()
        };
        let sentences = self.accesses().enumerate().filter_map(|(position, access)| {
            let why = access.explain(&alone(access)?, command, args);
            Some(if position == 0 {
                why
            } else {
                format!("selector {position} ({access}): {why}")
            })
        });
        Some(sentences.collect())
    }

    fn explain_database(&self, denied: &Denied, args: Args<'_>) -> String {
        let databases: Vec<String> = (self.databases.iter().flatten())
            .map(ToString::to_string)
            .collect();
        let databases = databases.join(", ");
        if denied.argument == 0 {
            format!(
                "'{}' is about every database; the user may use {databases}",
                denied.command
            )
        } else {
            let argument = argument(args, denied.argument);
            format!("{argument} is not among the databases that the user may use: {databases}")
        }
    }
}

impl Access {
    fn explain(&self, denied: &Denied, command: &Command, args: Args<'_>) -> String {
        let name = denied.command;
        match denied.reason {
            DenyReason::Command | DenyReason::Database => self.explain_command(command),
            DenyReason::Argument => {
                format!(
                    "the preset does not permit these arguments of '{name}'; a rule '+{name}' behind it would"
                )
            }
            DenyReason::Key => self.explain_key(denied, command, args),
            DenyReason::Channel => {
                let argument = argument(args, denied.argument);
                let channels = or_none(self.channel_rules());
                format!("{argument} is a channel that no pattern permits; patterns: {channels}")
            }
        }
    }

    fn explain_command(&self, command: &Command) -> String {
        let name = command.name;
        if let Some(rule) = self.rule_about(command) {
            return format!("'{name}' is taken away by the rule '{rule}'");
        }
        let Some(preset) = self.preset() else {
            return format!("no rule gives '{name}'; '+{name}' would");
        };
        let reason = preset.entries().filter_map(|entry| match entry.effect {
            Effect::Block(blocked)
                if lookup::by_rule_name(blocked).is_some_and(|row| covers(row, command)) =>
            {
                Some(entry.reason)
            }
            _ => None,
        });
        let reason = reason
            .last()
            .map(|reason| format!(": {reason}"))
            .unwrap_or_default();
        format!("'{name}' is taken away by the preset '{}'{reason}", preset.name())
    }

    /// The last rule about the command, if it is one that takes it away.
    fn rule_about(&self, command: &Command) -> Option<&str> {
        let rule = self.rules().iter().rev().find(|rule| {
            let about = rule.get(1..).unwrap_or_default();
            match about.strip_prefix('@') {
                Some(category) => Categories::by_name(category).is_some_and(|category| {
                    command.categories.intersects(category)
                        || command
                            .parent()
                            .is_some_and(|parent| parent.categories.intersects(category))
                }),
                None => lookup::by_rule_name(about).is_some_and(|row| covers(row, command)),
            }
        })?;
        rule.starts_with('-').then_some(rule)
    }

    fn explain_key(&self, denied: &Denied, command: &Command, args: Args<'_>) -> String {
        let Some(names) = names(command, args) else {
            let name = command.name;
            return format!(
                "the keys of '{name}' cannot be told from these arguments (see argument {}), so only who may touch all keys may send them",
                denied.argument
            );
        };
        let argument = argument(args, denied.argument);
        let rules = or_none(self.key_rules());
        let flags = names.iter().find_map(|(at, named)| match named {
            Named::Key(flags) if *at == denied.argument => Some(*flags),
            _ => None,
        });
        match flags {
            Some(flags)
                if args
                    .get(denied.argument as usize)
                    .is_some_and(|key| self.allows_key(key, flags)) =>
            {
                format!("BY and GET read keys that are not named, which takes ~* or %R~*; patterns: {rules}")
            }
            Some(flags) => {
                format!(
                    "{argument} is a key that no pattern permits to {}; patterns: {rules}",
                    verb(flags)
                )
            }
            None => format!("{argument} is a key that no pattern permits; patterns: {rules}"),
        }
    }
}

/// Whether a rule about this row is one about the command.
fn covers(row: &Command, command: &Command) -> bool {
    row.id == command.id || command.parent.is_some_and(|parent| parent == row.id)
}

fn verb(flags: KeyFlags) -> &'static str {
    match (flags.reads(), flags.writes()) {
        (true, true) => "read and write",
        (true, false) => "read",
        (false, true) => "write",
        (false, false) => "name",
    }
}

fn or_none(rules: Vec<String>) -> String {
    if rules.is_empty() {
        "none".to_owned()
    } else {
        rules.join(" ")
    }
}

/// What the operator wrote, with its position.
fn argument(args: Args<'_>, at: u32) -> String {
    let text = args.get(at as usize).unwrap_or_default();
    let shown = text.get(..MOST_SHOWN).unwrap_or(text).escape_ascii();
    format!("argument {at}, '{shown}',")
}

/// Bytes of an argument that are shown.
const MOST_SHOWN: usize = 100;
