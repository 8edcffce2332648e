//! From the client's words to a row of the table.
//!
//! An open-addressing table built at compile time: one hash over the word, on average one comparison, no allocation.
//! Case is folded for ASCII letters only, exactly as Redis does, and a subcommand is only found below its
//! container, so that `config|get` sent as one word is an unknown command.

use super::command::{Command, CommandId};
use super::commands::COMMANDS;

/// What the words of a request name.
#[derive(Debug, Clone, Copy)]
pub enum Resolved {
    /// A command, or a subcommand with its container.
    Command(&'static Command),
    /// A container without a subcommand, or with one that is not known. Never executable.
    Container(&'static Command),
    /// No row: refused (rule 4).
    Unknown,
}

/// The whole table, in its order; [`CommandId::index`] is a position in it.
pub fn commands() -> &'static [Command] {
    &COMMANDS
}

/// Finds the command that a request names with its first word and, for containers, its second.
pub fn resolve(name: &[u8], sub: Option<&[u8]>) -> Resolved {
    let Some(command) = find(TOP, name) else {
        return Resolved::Unknown;
    };
    if !command.container {
        return Resolved::Command(command);
    }
    match sub {
        Some(sub) => match find(command.id.0, sub) {
            Some(command) => Resolved::Command(command),
            None => Resolved::Container(command),
        },
        // COMMAND alone is a command; CONFIG alone is not, and its arity says so.
        None if command.accepts(1) => Resolved::Command(command),
        None => Resolved::Container(command),
    }
}

/// Finds a row by its name in the rule language (`get`, `config`, `config|get`), in any case.
pub(super) fn by_rule_name(name: &str) -> Option<&'static Command> {
    match name.split_once('|') {
        None => find(TOP, name.as_bytes()),
        Some((container, sub)) => {
            let container = find(TOP, container.as_bytes()).filter(|command| command.container)?;
            find(container.id.0, sub.as_bytes())
        }
    }
}

/// All subcommands of a container.
pub(super) fn subcommands(container: CommandId) -> impl Iterator<Item = &'static Command> {
    // They stand right behind their container.
    COMMANDS
        .iter()
        .skip(container.index() + 1)
        .take_while(move |command| command.parent == Some(container))
}

fn find(parent: u16, word: &[u8]) -> Option<&'static Command> {
    if word.len() > LONGEST {
        return None;
    }
    let mut slot = hash(parent, word) & MASK;
    loop {
        let command = COMMANDS.get(usize::from(*INDEX.get(slot)?))?;
        if command.parent.map_or(TOP, |id| id.0) == parent
            && command.word.as_bytes().eq_ignore_ascii_case(word)
        {
            return Some(command);
        }
        slot = (slot + 1) & MASK;
    }
}

/// FNV-1a over the word with bit 5 set in every byte: letters of both cases fall together (as do some other characters, which
/// the comparison tells apart).
const fn hash(parent: u16, mut word: &[u8]) -> usize {
    let mut hash: u32 = 0x811c_9dc5 ^ parent as u32;
    while let [byte, rest @ ..] = word {
        hash = (hash ^ (*byte | 0x20) as u32).wrapping_mul(0x0100_0193);
        word = rest;
    }
    // The high bits are the well mixed ones.
    ((hash >> 16) ^ hash) as usize
}

/// Positions in [`COMMANDS`] by hash; every free slot holds [`FREE`], which is no position.
static INDEX: [u16; SLOTS] = build();

/// The parent of commands that have none.
const TOP: u16 = u16::MAX;
/// An empty slot of [`INDEX`].
const FREE: u16 = u16::MAX;
/// Power of two above three times the table, so that a search ends after one or two slots.
const SLOTS: usize = 2048;
const MASK: usize = SLOTS - 1;
/// No word of the table is longer; a longer one needs no hash.
const LONGEST: usize = 32;

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time only")]
#[expect(
    clippy::cast_possible_truncation,
    reason = "ids are below 65,535, asserted where they are made"
)]
const fn build() -> [u16; SLOTS] {
    assert!(COMMANDS.len() * 3 <= SLOTS, "SLOTS has become too small");
    let mut index = [FREE; SLOTS];
    let mut at = 0;
    while at < COMMANDS.len() {
        let command = &COMMANDS[at];
        assert!(command.word.len() <= LONGEST, "LONGEST has become too short");
        let parent = match command.parent {
            Some(parent) => parent.0,
            None => TOP,
        };
        let mut slot = hash(parent, command.word.as_bytes()) & MASK;
        while index[slot] != FREE {
            slot = (slot + 1) & MASK;
        }
        index[slot] = at as u16;
        at += 1;
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(words: &[&str]) -> Option<&'static str> {
        match resolve(words[0].as_bytes(), words.get(1).map(|word| word.as_bytes())) {
            Resolved::Command(command) => Some(command.name),
            Resolved::Container(_) | Resolved::Unknown => None,
        }
    }

    #[test]
    fn every_row_is_found_by_its_own_words_in_any_case() {
        for command in commands() {
            let words: Vec<String> = command.name.split('|').map(str::to_ascii_uppercase).collect();
            let (first, second) = (words[0].as_bytes(), words.get(1).map(|word| word.as_bytes()));
            match resolve(first, second) {
                Resolved::Command(found) => assert_eq!(found.id, command.id, "{}", command.name),
                Resolved::Container(found) => assert!(command.container && found.id == command.id),
                Resolved::Unknown => panic!("{} is not found", command.name),
            }
            assert_eq!(by_rule_name(command.name).map(|found| found.id), Some(command.id));
        }
    }

    #[test]
    fn names_are_unique_lower_case_and_without_blanks() {
        let mut names: Vec<_> = commands().iter().map(|command| command.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), commands().len());
        assert!(names.iter().all(|name| {
            name.bytes()
                .all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase())
        }));
    }

    #[test]
    fn case_is_folded_for_ascii_letters_only() {
        assert_eq!(name(&["GeT"]), Some("get"));
        assert_eq!(name(&["CONFIG", "gEt"]), Some("config|get"));
        // Dotless i, Kelvin sign, long s, full-width letters; and characters that differ from a name in bit 5 alone.
        for word in [
            "\u{131}nfo",
            "\u{212a}eys",
            "\u{17f}et",
            "\u{ff27}\u{ff25}\u{ff34}",
            "FT_LIST",
            "ft.\u{7f}list",
        ] {
            assert_eq!(name(&[word]), None, "{word:?}");
        }
        for (word, _) in [
            ("GET\0", ()),
            (" get", ()),
            ("get ", ()),
            ("get\r\n", ()),
            ("", ()),
        ] {
            assert_eq!(name(&[word]), None, "{word:?}");
        }
    }

    #[test]
    fn a_bar_in_the_first_or_second_word_never_matches() {
        for command in commands().iter().filter(|command| command.name.contains('|')) {
            assert!(
                matches!(resolve(command.name.as_bytes(), None), Resolved::Unknown),
                "{}",
                command.name
            );
            assert!(matches!(
                resolve(command.name.as_bytes(), Some(b"get")),
                Resolved::Unknown
            ));
        }
        assert!(matches!(
            resolve(b"config", Some(b"config|get")),
            Resolved::Container(_)
        ));
    }

    #[test]
    fn a_container_needs_a_known_subcommand_except_command_itself() {
        assert!(matches!(resolve(b"config", None), Resolved::Container(c) if c.name == "config"));
        assert!(matches!(resolve(b"config", Some(b"nope")), Resolved::Container(c) if c.name == "config"));
        assert!(matches!(resolve(b"config", Some(b"")), Resolved::Container(_)));
        assert!(matches!(resolve(b"command", None), Resolved::Command(c) if c.name == "command"));
        assert!(matches!(
            resolve(b"command", Some(b"nope")),
            Resolved::Container(_)
        ));
        // The second word of a command that is no container is an argument.
        assert!(matches!(resolve(b"get", Some(b"config")), Resolved::Command(c) if c.name == "get"));
        // A subcommand is not found under another container, nor alone.
        assert!(matches!(
            resolve(b"client", Some(b"rewrite")),
            Resolved::Container(_)
        ));
        assert!(matches!(resolve(b"rewrite", None), Resolved::Unknown));
    }

    #[test]
    fn long_words_are_unknown() {
        assert!(matches!(resolve(&[b'a'; 33], None), Resolved::Unknown));
        assert!(matches!(resolve(&[b'a'; 70_000], None), Resolved::Unknown));
    }

    #[test]
    fn subcommands_stand_behind_their_container() {
        let Resolved::Container(config) = resolve(b"config", None) else {
            panic!("config is a container")
        };
        let names: Vec<_> = subcommands(config.id).map(|command| command.name).collect();
        assert_eq!(
            names,
            [
                "config|get",
                "config|help",
                "config|resetstat",
                "config|rewrite",
                "config|set"
            ]
        );
        for command in commands() {
            assert_eq!(
                command.container,
                subcommands(command.id).next().is_some(),
                "{}",
                command.name
            );
        }
    }
}
