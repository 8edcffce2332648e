//! Redis's rule language: `on >password ~app:* &events:* +@all -@dangerous (%R~shared:* +get)`, and ACL files made of such lines.
//!
//! Words count from left to right and each changes what those before it left (`ACLSetUser`, acl.c). One word is ours: a preset,
//! `safe` or `strict`, in the first place.
//!
//! Differences from Redis, all towards refusing:
//! - `+select|0` (a first argument of a command without subcommands) is refused; Redis warns that it may go away.
//! - `db=` and `resetdbs` of Valkey 9.1 are refused: `databases` in a `[[user]]` table says the same for every server.
//! - Quotes inside parentheses are refused, and patterns there that end with one. Redis reads quotes there as on its command line,
//!   and cannot read either again when it has saved it.
//! - An ACL file without the user `default` has none; Redis would make one that needs no password.
//! - User names are not empty and hold no control characters, because they become labels of metrics and logs.

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::digest;

pub(super) use super::access::Access;
use super::command::Categories;
use super::{Preset, User, lookup};

/// A word that could not be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// Position among the words behind the user name, from 0; the number of words when something is missing at the end.
    pub word_index: usize,
    /// Line and column in the file, both from 1; `None` for rules that came as words.
    pub position: Option<(usize, usize)>,
    /// What is wrong, in words for the operator. Quotes no password.
    pub message: String,
    /// What was probably meant, ready to be written instead.
    pub suggestion: Option<String>,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}: ")?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean '{suggestion}'?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for RuleError {}

/// Makes a user from its rules; the first word may be a preset. Reports the first error.
pub fn parse_user(name: &str, words: &[&str]) -> Result<User, RuleError> {
    parse_user_all(name, words).map_err(|mut errors| errors.swap_remove(0))
}

/// As [`parse_user`], with every error at once, up to a hundred; the list is never empty.
pub fn parse_user_all(name: &str, words: &[&str]) -> Result<User, Vec<RuleError>> {
    let error = |word_index, (problem, suggestion): Refusal| RuleError {
        word_index,
        position: None,
        message: problem.to_string(),
        suggestion,
    };
    let mut errors = Vec::new();
    if let Err(problem) = check_name(name) {
        errors.push(error(0, (problem, None)));
    }
    let mut user = User::new(name);
    let mut rest = words.iter().enumerate();
    while let Some((index, word)) = rest.next() {
        if errors.len() >= MOST_ERRORS {
            break;
        }
        let Some(inner) = word.strip_prefix('(') else {
            if let Err(refusal) = apply(&mut user, index, word) {
                errors.push(error(index, refusal));
            }
            continue;
        };
        // A selector may hold blanks: `(+get ~a*)` is one rule.
        let mut selector = Access::default();
        let mut next = Some((index, inner));
        let mut closed = false;
        while let Some((index, word)) = next {
            let last = word.strip_suffix(')');
            if let Err(refusal) = apply_in_selector(&mut selector, last.unwrap_or(word)) {
                errors.push(error(index, refusal));
            }
            closed = last.is_some();
            next = if closed {
                None
            } else {
                rest.next().map(|(at, word)| (at, *word))
            };
        }
        if !closed {
            errors.push(error(index, (Problem::OpenSelector, None)));
        }
        user.selectors.push(selector);
    }
    if errors.is_empty() { Ok(user) } else { Err(errors) }
}

/// An enabled user who could run none of the commands that it has because it may touch no key: Redis takes such rules, and
/// so does [`parse_file`], but whoever writes them by hand forgot something. `words` is their number.
pub fn without_keys(user: &User, words: usize) -> Option<RuleError> {
    let conflict = user.accesses().find_map(Access::keyless_conflict)?;
    let in_vain = user.enabled && !user.accesses().any(Access::touches_keys);
    in_vain.then(|| RuleError {
        word_index: words,
        position: None,
        message: Problem::NoKeys(conflict.name).to_string(),
        suggestion: Some("~*".to_owned()),
    })
}

/// Reads an ACL file: lines `user NAME word word …`, blank lines; no comments and no quotes, as in Redis (`ACLLoadFromFile`).
///
/// Gives the users with their line numbers (from 1), or every error in the file, up to some hundred.
pub fn parse_file(text: &str) -> Result<Vec<(usize, User)>, Vec<RuleError>> {
    let (mut users, mut names, mut errors) = (Vec::new(), BTreeSet::new(), Vec::new());
    for (line, raw) in (1..).zip(text.split('\n')) {
        let trimmed = raw.trim_matches(BLANKS);
        if trimmed.is_empty() {
            continue;
        }
        if errors.len() >= MOST_ERRORS {
            break;
        }
        let indent = raw.len() - raw.trim_start_matches(BLANKS).len();
        let columns: Vec<usize> = columns_of(trimmed, indent);
        let words: Vec<&str> = trimmed
            .split(' ')
            .map(|word| word.trim_matches(['\t', '\r']))
            .collect();
        let at = |word: usize| {
            Some((
                line,
                columns.get(word).copied().unwrap_or(indent + trimmed.len() + 1),
            ))
        };
        let whole_line = |word, problem: Problem| RuleError {
            word_index: 0,
            position: at(word),
            message: problem.to_string(),
            suggestion: None,
        };
        let (name, rules) = match words.as_slice() {
            ["user", name, rules @ ..] => (*name, rules),
            _ if trimmed.starts_with('#') => {
                errors.push(whole_line(0, Problem::Comment));
                continue;
            }
            _ => {
                errors.push(whole_line(0, Problem::NotAUser));
                continue;
            }
        };
        if let Err(problem) = check_name(name) {
            errors.push(whole_line(1, problem));
            continue;
        }
        if !names.insert(name) {
            errors.push(whole_line(1, Problem::Duplicate(name.to_owned())));
            continue;
        }
        match parse_user_all(name, rules) {
            Ok(user) => users.push((line, user)),
            Err(found) => errors.extend(found.into_iter().map(|error| {
                let position = at(error.word_index + 2);
                RuleError { position, ..error }
            })),
        }
    }
    if errors.is_empty() { Ok(users) } else { Err(errors) }
}

impl User {
    /// The user as a line of an ACL file, in the order of Redis's `ACL LIST`; passwords as `#` and digest only.
    pub fn to_rule(&self) -> String {
        let mut words = vec!["user".to_owned(), self.name.clone()];
        words.extend(self.access.preset().map(|preset| preset.name().to_owned()));
        words.push(if self.enabled { "on" } else { "off" }.to_owned());
        if self.nopass {
            words.push("nopass".to_owned());
        }
        match self.sanitize {
            Some(true) => words.push("sanitize-payload".to_owned()),
            Some(false) => words.push("skip-sanitize-payload".to_owned()),
            None => {}
        }
        words.extend(self.passwords.iter().map(|digest| format!("#{}", hex(digest))));
        words.push(self.access.to_string());
        words.extend(self.selectors.iter().map(|selector| format!("({selector})")));
        words.join(" ")
    }
}

/// SHA-256 of a password, as Redis stores it.
pub fn hash_password(password: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, password).as_ref());
    bytes
}

type Refusal = (Problem, Option<String>);

fn apply(user: &mut User, index: usize, word: &str) -> Result<(), Refusal> {
    if let Some(preset) = Preset::by_name(word) {
        if index != 0 {
            return Err((Problem::LatePreset(preset.name()), None));
        }
        user.access.set_preset(preset);
        user.enabled = true;
        return Ok(());
    }
    let rest = word.get(1..).unwrap_or_default();
    match word.to_ascii_lowercase().as_str() {
        "" => {}
        "on" => user.enabled = true,
        "off" => user.enabled = false,
        "nopass" => {
            user.nopass = true;
            user.passwords.clear();
        }
        "resetpass" => {
            user.nopass = false;
            user.passwords.clear();
        }
        "reset" => {
            *user = User::new(std::mem::take(&mut user.name));
            user.sanitize = Some(true);
        }
        "sanitize-payload" => user.sanitize = Some(true),
        "skip-sanitize-payload" => user.sanitize = Some(false),
        "clearselectors" => user.selectors.clear(),
        _ => match word.as_bytes().first() {
            Some(b'>') => user.add_password(hash_password(rest.as_bytes())),
            Some(b'#') => user.add_password(digest_of(rest)?),
            Some(b'<') => remove_password(user, &hash_password(rest.as_bytes()))?,
            Some(b'!') => remove_password(user, &digest_of(rest)?)?,
            _ => apply_to_access(&mut user.access, word)?,
        },
    }
    Ok(())
}

/// A word between parentheses: commands, keys and channels.
fn apply_in_selector(selector: &mut Access, word: &str) -> Result<(), Refusal> {
    if word.is_empty() {
        return Ok(());
    }
    let of_users = Preset::by_name(word).is_some()
        || USER_WORDS.iter().any(|known| known.eq_ignore_ascii_case(word))
        || word.starts_with(['>', '<', '#', '!', '(']);
    if of_users {
        return Err((Problem::NotInSelector, None));
    }
    if word.contains(['"', '\'']) || word.ends_with(')') {
        return Err((Problem::Quotes, None));
    }
    apply_to_access(selector, word)
}

/// `ACLSetSelector`.
fn apply_to_access(access: &mut Access, word: &str) -> Result<(), Refusal> {
    let rest = word.get(1..).unwrap_or_default();
    match word.to_ascii_lowercase().as_str() {
        "allkeys" | "~*" => access.set_all_keys(true),
        "resetkeys" => access.set_all_keys(false),
        "allchannels" | "&*" => access.set_all_channels(true),
        "resetchannels" => access.set_all_channels(false),
        "allcommands" | "+@all" => access.set_all(true),
        "nocommands" | "-@all" => access.set_all(false),
        // There are no database rules that this could take away.
        "alldbs" => {}
        "resetdbs" => return Err((Problem::Database, None)),
        lower if lower.starts_with("db=") => return Err((Problem::Database, None)),
        _ => match word.as_bytes().first() {
            Some(b'+') => command_rule(access, rest, true)?,
            Some(b'-') => command_rule(access, rest, false)?,
            Some(b'~') => key_rule(access, rest, true, true)?,
            Some(b'%') => {
                let (signs, pattern) = rest.split_once('~').ok_or((Problem::KeyPermission, None))?;
                let (reads, writes) = match signs.to_ascii_uppercase().as_str() {
                    "R" => (true, false),
                    "W" => (false, true),
                    "RW" | "WR" => (true, true),
                    _ => return Err((Problem::KeyPermission, None)),
                };
                key_rule(access, pattern, reads, writes)?;
            }
            Some(b'&') => {
                if access.all_channels {
                    return Err((Problem::BehindAllChannels, Some("resetchannels".to_owned())));
                }
                check_pattern(rest)?;
                access.add_channel_pattern(rest);
            }
            _ => return Err((Problem::NotARule, suggest(word, KEYWORDS.iter().copied()))),
        },
    }
    Ok(())
}

fn key_rule(access: &mut Access, pattern: &str, reads: bool, writes: bool) -> Result<(), Refusal> {
    if access.all_keys {
        return Err((Problem::BehindAllKeys, Some("resetkeys".to_owned())));
    }
    check_pattern(pattern)?;
    access.add_key_pattern(pattern, reads, writes);
    Ok(())
}

/// What Redis forbids in a pattern (`ACLStringHasSpaces`).
fn check_pattern(pattern: &str) -> Result<(), Refusal> {
    let forbidden = |byte: u8| matches!(byte, b'\t'..=b'\r' | b' ' | 0);
    if pattern.bytes().any(forbidden) {
        return Err((Problem::BlankInPattern, None));
    }
    Ok(())
}

fn command_rule(access: &mut Access, name: &str, allow: bool) -> Result<(), Refusal> {
    let sign = if allow { '+' } else { '-' };
    if let Some(category) = name.strip_prefix('@') {
        let Some(bits) = Categories::by_name(category) else {
            let near = suggest(category, Categories::all_names()).map(|near| format!("{sign}@{near}"));
            return Err((Problem::UnknownCategory(printable(category)), near));
        };
        access.set_category(bits, category, allow);
        return Ok(());
    }
    if let Some(command) = lookup::by_rule_name(name) {
        access.set_command(command, allow);
        return Ok(());
    }
    // From here on it is an error; the rest finds the one that Redis would give, or a better one.
    let (before, sub) = name.rsplit_once('|').unwrap_or((name, ""));
    match lookup::by_rule_name(before) {
        Some(_) if sub.is_empty() => Err((Problem::EmptySubcommand(before.to_ascii_lowercase()), None)),
        Some(command) if command.parent().is_some() => Err((Problem::ThirdLevel(command.name), None)),
        Some(command) if !command.container => Err((Problem::FirstArgument(command.name), None)),
        _ => {
            let names = lookup::commands().iter().map(|command| command.name);
            let near = suggest(name, names).map(|near| format!("{sign}{near}"));
            Err((Problem::UnknownCommand(printable(name)), near))
        }
    }
}

fn remove_password(user: &mut User, digest: &[u8; 32]) -> Result<(), Refusal> {
    let known = user.passwords.iter().position(|password| password == digest);
    let at = known.ok_or((Problem::NoSuchPassword, None))?;
    user.passwords.remove(at);
    Ok(())
}

/// The name of a user: Redis forbids blanks and NUL, we forbid all control characters.
fn check_name(name: &str) -> Result<(), Problem> {
    if name.is_empty() || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Problem::BadName);
    }
    Ok(())
}

/// 64 lower-case hexadecimal digits (`ACLCheckPasswordHash`).
fn digest_of(text: &str) -> Result<[u8; 32], Refusal> {
    fn digit(byte: u8) -> Option<u8> {
        match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        }
    }
    let mut bytes = [0; 32];
    let pairs = text.as_bytes().chunks(2);
    if text.len() != 64 {
        return Err((Problem::BadDigest, None));
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let [high, low] = pair else {
            return Err((Problem::BadDigest, None));
        };
        let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
            return Err((Problem::BadDigest, None));
        };
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the operator wrote, fit for a message: no control characters, not endless.
fn printable(word: &str) -> String {
    word.chars().take(64).flat_map(char::escape_debug).collect()
}

/// Columns (from 1) at which the words of a line begin.
fn columns_of(line: &str, indent: usize) -> Vec<usize> {
    let starts = line.match_indices(' ').map(|(at, _)| at + 1);
    std::iter::once(0)
        .chain(starts)
        .map(|at| indent + at + 1)
        .collect()
}

/// The candidate nearest to what was written, if it is near at all: two edits, or one in a short word.
fn suggest<'a>(written: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    let written = written.to_ascii_lowercase();
    let allowed = if written.len() <= 4 { 1 } else { 2 };
    candidates
        .map(|candidate| (edits(&written, candidate), candidate))
        .filter(|(edits, _)| *edits <= allowed)
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein distance in bytes.
fn edits(a: &str, b: &str) -> usize {
    // Rules are short; a long one is near to nothing and not worth the time.
    if a.len().abs_diff(b.len()) > 2 || a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut left = i + 1;
        let mut next = vec![left];
        for (y, pair) in b.bytes().zip(row.windows(2)) {
            let [diagonal, above] = pair else { continue };
            left = (diagonal + usize::from(x != y)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(usize::MAX)
}

/// Why a word was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("this is no rule")]
    NotARule,
    #[error("unknown command '{0}'")]
    UnknownCommand(String),
    #[error("unknown category '@{0}'")]
    UnknownCategory(String),
    #[error("the subcommand behind '{0}|' is missing")]
    EmptySubcommand(String),
    #[error("'{0}' is a subcommand already; there is no third level")]
    ThirdLevel(&'static str),
    #[error("'{0}' has no subcommands, and rules about a first argument are not supported")]
    FirstArgument(&'static str),
    #[error("a key pattern is written ~pattern, %R~pattern, %W~pattern or %RW~pattern")]
    KeyPermission,
    #[error("a key pattern behind '~*' (all keys) has no effect; 'resetkeys' takes all keys away first")]
    BehindAllKeys,
    #[error(
        "a channel pattern behind '&*' (all channels) has no effect; 'resetchannels' takes all channels away first"
    )]
    BehindAllChannels,
    #[error("a pattern holds no blanks")]
    BlankInPattern,
    #[error("the parenthesis is never closed")]
    OpenSelector,
    #[error("parentheses hold rules about commands, keys and channels only")]
    NotInSelector,
    #[error("quotes, and a parenthesis at the end of a pattern, are not supported inside parentheses")]
    Quotes,
    #[error("database rules do not stand among Redis's rules; write `databases` in the [[user]] table")]
    Database,
    #[error(
        "this user may run '{0}' but touch no key, so it could not run it; add '~*' (all keys), or take the commands away that need keys"
    )]
    NoKeys(&'static str),
    #[error("the preset '{0}' must be the first rule")]
    LatePreset(&'static str),
    #[error("a password digest is 64 lower-case hexadecimal digits")]
    BadDigest,
    #[error("the password to be removed is not one of this user's")]
    NoSuchPassword,
    #[error("a user name must not be empty and holds no blanks or control characters")]
    BadName,
    #[error("a user is defined once; '{0}' has a line above")]
    Duplicate(String),
    #[error("a line begins with 'user' and a name")]
    NotAUser,
    #[error("ACL files have no comments (Redis refuses them too); a line begins with 'user' and a name")]
    Comment,
}

/// Nobody reads more at once, and finding what was meant takes its time.
const MOST_ERRORS: usize = 100;

/// What Redis trims from both ends of a line.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

/// Words about users, which selectors do not take.
const USER_WORDS: &[&str] = &[
    "on",
    "off",
    "nopass",
    "resetpass",
    "reset",
    "sanitize-payload",
    "skip-sanitize-payload",
    "clearselectors",
];

/// Words without a sign, for suggestions.
const KEYWORDS: &[&str] = &[
    "on",
    "off",
    "nopass",
    "resetpass",
    "reset",
    "allkeys",
    "resetkeys",
    "allchannels",
    "resetchannels",
    "allcommands",
    "nocommands",
    "sanitize-payload",
    "skip-sanitize-payload",
    "clearselectors",
    "safe",
    "strict",
];

#[cfg(test)]
mod tests;
