//! From what a user was seen to do to the least rule that permits it.
//!
//! Keys and channels come from the same [`Walk`] that decides, so the rule permits what was seen, however odd. No key is kept as
//! it is if it can be helped: a name counts up to its first separator ([`SEPARATORS`]) and stands for all that begin alike, one
//! without a separator stands for itself up to [`MOST_PREFIX`] bytes. Everything is bounded: what there is too much of becomes `*`,
//! and the notes say so.

use std::collections::BTreeSet;

use super::decide::refused_database;
use super::keys::{KeyFlags, Part, Walk};
use super::{Command, CommandSet, Effect, Preset, lookup};
use crate::resp::{ArgFeed, ArgSink, Args};

/// What one user was seen to do.
#[derive(Debug, Clone, Default)]
pub struct Learned {
    commands: CommandSet,
    /// Patterns of keys that were only read (or named), only written, or both by one command.
    reads: Patterns,
    writes: Patterns,
    both: Patterns,
    channels: Patterns,
    /// SORT with BY or GET reaches keys that it does not name.
    read_unnamed: bool,
    /// Their keys could not be told.
    opaque: CommandSet,
    databases: BTreeSet<u32>,
    /// FLUSHALL, or more databases than are remembered.
    all_databases: bool,
}

/// Patterns as rules write them, or too many.
#[derive(Debug, Clone, Default)]
struct Patterns {
    known: BTreeSet<Box<[u8]>>,
    all: bool,
}

/// Follows a request that passes in pieces.
#[derive(Debug)]
pub struct LateLearning {
    feed: ArgFeed,
    sink: Sink,
}

#[derive(Debug)]
struct Sink {
    collector: Collector,
    found: Learned,
}

/// Goes through the names of one request.
#[derive(Debug)]
struct Collector {
    command: &'static Command,
    walk: Walk,
    either: Option<(Reduced, KeyFlags, Option<KeyFlags>)>,
    last: Option<(Reduced, KeyFlags)>,
    opaque: bool,
}

/// A name as the pattern that stands for it.
#[derive(Debug, Clone, Copy)]
struct Reduced {
    bytes: [u8; MOST_PREFIX + 1],
    length: usize,
}

impl Learned {
    /// Remembers a whole request that was not refused.
    pub fn see(&mut self, command: &'static Command, args: Args<'_>) {
        self.see_command(command, args);
        if !command.touches_keys() && !command.has_channels() {
            return;
        }
        let mut collector = Collector::new(command, args.announced());
        for argument in args {
            if collector.is_done() {
                break;
            }
            collector.take(Some(argument), self);
        }
        collector.finish(self);
    }

    fn see_command(&mut self, command: &Command, args: Args<'_>) {
        self.commands.set(command.id, true);
        let mut room = MOST_DATABASES.saturating_sub(self.databases.len());
        let databases = &mut self.databases;
        let refused = refused_database(command, args, &mut |number| {
            let fits = databases.contains(&number) || room > 0;
            if fits && databases.insert(number) {
                room -= 1;
            }
            fits
        });
        // A number that is none changes nothing; only these mean more than they name.
        self.all_databases |= refused.is_some() && (command.name == "flushall" || room == 0);
    }

    /// Adds what another worker has seen.
    pub fn merge(&mut self, other: &Self) {
        self.commands.add(&other.commands);
        self.opaque.add(&other.opaque);
        self.reads.merge(&other.reads);
        self.writes.merge(&other.writes);
        self.both.merge(&other.both);
        self.channels.merge(&other.channels);
        self.read_unnamed |= other.read_unnamed;
        self.all_databases |= other.all_databases;
        for database in &other.databases {
            if self.databases.len() < MOST_DATABASES {
                self.databases.insert(*database);
            } else {
                self.all_databases |= !self.databases.contains(database);
            }
        }
    }

    /// The rule as a line of a Redis ACL file, without a password, and what there is to say about it.
    pub fn to_rule(&self, user: &str) -> (String, Vec<String>) {
        let mut notes = Vec::new();
        let mut words = vec!["user".to_owned(), user.to_owned(), "on".to_owned()];
        words.push("resetchannels".to_owned());
        words.push("-@all".to_owned());
        self.key_words(&mut words, &mut notes);
        if self.channels.all {
            words.push("&*".to_owned());
            notes.push(too_many("channels", "&*"));
        }
        words.extend(self.channels.texts().map(|pattern| format!("&{pattern}")));
        self.command_words(&mut words);
        if self.all_databases {
            notes.push("it names all databases (FLUSHALL), or more than are remembered".to_owned());
        } else if !self.databases.is_empty() {
            let numbers: Vec<String> = self.databases.iter().map(ToString::to_string).collect();
            notes.push(format!(
                "databases = [{}] in its [[user]] table, and the one that its connections begin on; Redis's rules have no word for it",
                numbers.join(", ")
            ));
        }
        let restricted = Preset::Strict.entries().filter_map(|entry| match entry.effect {
            Effect::Restrict(rule) => rule.command(),
            Effect::Block(_) | Effect::Allow(_) => None,
        });
        let restricted = restricted.filter(|command| self.commands.contains(command.id));
        let restricted: BTreeSet<&str> = restricted.map(|command| command.name).collect();
        for name in restricted {
            notes.push(format!(
                "+{name} permits arguments that the presets refuse; Redis's rules have no word for them"
            ));
        }
        (words.join(" "), notes)
    }

    fn key_words(&self, words: &mut Vec<String>, notes: &mut Vec<String>) {
        if self.opaque != CommandSet::EMPTY {
            let names: Vec<&str> = self.opaque.names().collect();
            notes.push(format!(
                "~*, because the keys of these cannot be told: {}",
                names.join(", ")
            ));
        }
        if self.both.all {
            notes.push(too_many("keys read and written at once", "~*"));
        }
        if self.opaque != CommandSet::EMPTY || self.both.all {
            words.push("~*".to_owned());
            return;
        }
        if self.read_unnamed {
            notes.push("%R~*, because SORT with BY or GET reads keys that it does not name".to_owned());
        }
        if self.reads.all {
            notes.push(too_many("keys read", "%R~*"));
        }
        if self.writes.all {
            notes.push(too_many("keys written", "%W~*"));
        }
        let reads_all = self.reads.all || self.read_unnamed;
        if reads_all && self.writes.all {
            words.push("~*".to_owned());
            return;
        }
        let is_both = |pattern: &[u8]| {
            self.both.known.contains(pattern)
                || self.reads.known.contains(pattern) && self.writes.known.contains(pattern)
        };
        let full: BTreeSet<&[u8]> = (self.both.known.iter().chain(&self.reads.known))
            .map(|pattern| &**pattern)
            .filter(|pattern| is_both(pattern))
            .collect();
        words.extend(full.iter().map(|pattern| format!("~{}", text(pattern))));
        if reads_all {
            words.push("%R~*".to_owned());
        } else {
            let only = self.reads.known.iter().filter(|pattern| !is_both(pattern));
            words.extend(only.map(|pattern| format!("%R~{}", text(pattern))));
        }
        if self.writes.all {
            words.push("%W~*".to_owned());
        } else {
            let only = self.writes.known.iter().filter(|pattern| !is_both(pattern));
            words.extend(only.map(|pattern| format!("%W~{}", text(pattern))));
        }
    }

    fn command_words(&self, words: &mut Vec<String>) {
        for command in lookup::commands() {
            if command.always_allowed || !self.commands.contains(command.id) {
                continue;
            }
            words.push(format!("+{}", command.name));
            // COMMAND is a command itself, and its rule would give every COMMAND something.
            let unseen = lookup::subcommands(command.id).filter(|sub| !self.commands.contains(sub.id));
            words.extend(unseen.map(|sub| format!("-{}", sub.name)));
        }
    }

    fn key(&mut self, pattern: &Reduced, flags: KeyFlags) {
        let patterns = match (flags.reads(), flags.writes()) {
            (true, true) => &mut self.both,
            (false, true) => &mut self.writes,
            // What is only named is permitted by any pattern; reading is the lesser one.
            (_, false) => &mut self.reads,
        };
        patterns.add(pattern.as_bytes());
    }

    fn channel(&mut self, name: &[u8], pattern: bool) {
        if !pattern {
            self.channels.add(Reduced::new(name).as_bytes());
            return;
        }
        // Compared as it stands, so it must be kept as it stands.
        let fits = name.len() <= MOST_PATTERN && name.iter().all(u8::is_ascii_graphic);
        if fits {
            self.channels.add(name);
        } else {
            self.channels.give_up();
        }
    }
}

impl Patterns {
    fn add(&mut self, pattern: &[u8]) {
        if self.all || self.known.contains(pattern) {
            return;
        }
        if self.known.len() >= MOST_PATTERNS {
            self.give_up();
        } else {
            self.known.insert(pattern.into());
        }
    }

    fn give_up(&mut self) {
        self.all = true;
        self.known.clear();
    }

    fn merge(&mut self, other: &Self) {
        if other.all {
            self.give_up();
        }
        for pattern in &other.known {
            self.add(pattern);
        }
    }

    fn texts(&self) -> impl Iterator<Item = String> {
        self.known.iter().map(|pattern| text(pattern))
    }
}

impl LateLearning {
    /// Follows the request of this head, and takes the head's bytes.
    pub fn new(command: &'static Command, head: Args<'_>) -> Self {
        let mut found = Learned::default();
        found.see_command(command, head);
        let mut late = Self {
            feed: ArgFeed::default(),
            sink: Sink {
                collector: Collector::new(command, head.announced()),
                found,
            },
        };
        late.feed(head.bytes());
        late
    }

    /// Takes further bytes of the request, as they are.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.feed.feed(bytes, &mut self.sink);
    }

    /// The last byte has been taken: what the request comes to.
    pub fn finish(mut self) -> Learned {
        self.sink.collector.finish(&mut self.sink.found);
        self.sink.found
    }
}

impl ArgSink for Sink {
    fn wants(&mut self, length: usize) -> bool {
        // A longer name could not be permitted by a pattern either: see `LateCheck`.
        !self.collector.is_done() && self.collector.walk.wants() && length <= super::late::MOST_NAME
    }

    fn take(&mut self, argument: Option<&[u8]>) {
        if !self.collector.is_done() {
            self.collector.take(argument, &mut self.found);
        }
    }
}

impl Collector {
    fn new(command: &'static Command, announced: u32) -> Self {
        Self {
            command,
            walk: Walk::new(command.keys, command.channels, announced),
            either: None,
            last: None,
            opaque: false,
        }
    }

    fn is_done(&self) -> bool {
        self.opaque || self.walk.is_done()
    }

    fn take(&mut self, argument: Option<&[u8]>, found: &mut Learned) {
        let Ok(part) = self.walk.take(argument) else {
            self.opaque = true;
            return;
        };
        let argument = argument.unwrap_or_default();
        match part {
            Part::Other => {}
            Part::Key(flags) => found.key(&Reduced::new(argument), flags),
            Part::Either(first, second) => self.either = Some((Reduced::new(argument), first, second)),
            Part::Last(flags) => self.last = Some((Reduced::new(argument), flags)),
            Part::Channel { pattern } => found.channel(argument, pattern),
        }
    }

    fn finish(&self, found: &mut Learned) {
        if self.opaque || !self.walk.is_done() {
            if self.command.has_channels() {
                found.channels.give_up();
            } else {
                found.opaque.set(self.command.id, true);
            }
            return;
        }
        if let Some((pattern, first, second)) = &self.either {
            let flags = if self.walk.chooses_second() {
                *second
            } else {
                Some(*first)
            };
            if let Some(flags) = flags {
                found.key(pattern, flags);
            }
        }
        if let Some((pattern, flags)) = &self.last {
            found.key(pattern, *flags);
        }
        found.read_unnamed |= self.walk.reads_all();
    }
}

impl Reduced {
    fn new(name: &[u8]) -> Self {
        let head = name.get(..MOST_PREFIX).unwrap_or(name);
        let separator = head.iter().position(|byte| SEPARATORS.contains(byte));
        let prefix = separator.map_or(head, |at| head.get(..=at).unwrap_or(head));
        let open = separator.is_some() || name.len() > head.len();
        let mut bytes = [b'*'; MOST_PREFIX + 1];
        for (to, from) in bytes.iter_mut().zip(prefix) {
            // Any one byte, where a rule could not hold the byte or would take it for a sign.
            let plain = from.is_ascii_graphic() && !GLOB_SIGNS.contains(from);
            *to = if plain { *from } else { b'?' };
        }
        Self {
            bytes,
            length: prefix.len() + usize::from(open),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// Patterns are ASCII by construction.
fn text(pattern: &[u8]) -> String {
    String::from_utf8_lossy(pattern).into_owned()
}

fn too_many(what: &str, rule: &str) -> String {
    format!("{rule}, because of more than {MOST_PATTERNS} beginnings of {what}")
}

/// A name counts up to the first of these: the separators that people put between the parts of a key, and the brace of a hash tag.
const SEPARATORS: &[u8] = b":/.|#{";

const GLOB_SIGNS: &[u8] = b"*?[]\\^";

/// Bytes of a name that are remembered.
const MOST_PREFIX: usize = 64;

/// Bytes of a pattern that was subscribed by.
const MOST_PATTERN: usize = 256;

/// Patterns of each kind and user.
const MOST_PATTERNS: usize = 256;

/// Databases of each user.
const MOST_DATABASES: usize = 64;

#[cfg(test)]
mod tests;
