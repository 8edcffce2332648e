//! Messages about a configuration: what is wrong, where, and what to do.
//!
//! A message never shows a secret: a source line whose key names one is left out (see [`may_hold_secret`]), and
//! nothing in `message`, `label` or `help` is ever taken from the value of such a key.

use std::fmt;
use std::ops::Range;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is accepted; a person should look.
    Warning,
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The file as it was named.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// How many characters are meant; at least 1.
    pub length: usize,
    /// The line itself; `None` when it may hold a secret or is too long to help.
    pub source: Option<String>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable code such as `KW0203`.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Where; `None` for what has no place in a file (an environment variable).
    pub location: Option<Location>,
    /// Text beside the caret; may be empty.
    pub label: String,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without a place.
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Error, message)
    }

    /// A warning without a place.
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Warning, message)
    }

    /// A message without a place.
    pub fn new(code: &'static str, severity: Severity, message: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            message: message.into(),
            location: None,
            label: String::new(),
            help: None,
        }
    }

    /// Adds the place.
    #[must_use]
    pub fn at(mut self, location: Option<Location>) -> Self {
        self.location = location;
        self
    }

    /// Adds the text beside the caret.
    #[must_use]
    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// Adds what to do.
    #[must_use]
    pub fn helped(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Whether the configuration is refused because of it.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    /// The form of compilers: heading, place, source line with carets, help. No newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]: ", self.code)?;
        write_clean(f, &self.message)?;
        let mut margin = 1;
        if let Some(location) = &self.location {
            margin = location.line.to_string().len();
            let pad = " ".repeat(margin);
            write!(f, "\n{pad}--> ")?;
            write_clean(f, &location.file)?;
            write!(f, ":{}:{}", location.line, location.column)?;
            match &location.source {
                Some(source) => {
                    write!(f, "\n{pad} |\n{} | ", location.line)?;
                    write_clean(f, source)?;
                    let indent = " ".repeat(location.column.saturating_sub(1));
                    let room = source
                        .chars()
                        .count()
                        .saturating_sub(location.column.saturating_sub(1));
                    let carets = "^".repeat(location.length.clamp(1, room.max(1)));
                    write!(f, "\n{pad} | {indent}{carets}")?;
                    if !self.label.is_empty() {
                        f.write_str(" ")?;
                        write_clean(f, &self.label)?;
                    }
                }
                None => {
                    write!(f, "\n{pad} | (this line is not shown: it may hold a secret)")?;
                    if !self.label.is_empty() {
                        write!(f, "\n{pad} = note: ")?;
                        write_clean(f, &self.label)?;
                    }
                }
            }
            if self.help.is_some() {
                write!(f, "\n{pad} |")?;
            }
        } else if !self.label.is_empty() {
            write!(f, "\n{} = note: ", " ".repeat(margin))?;
            write_clean(f, &self.label)?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n{} = help: ", " ".repeat(margin))?;
            write_clean(f, help)?;
        }
        Ok(())
    }
}

/// Text of a file, with what is needed to name places in it.
#[derive(Debug)]
pub(super) struct SourceText {
    name: String,
    text: String,
    /// Where lines end.
    line_ends: Vec<usize>,
    /// Where the quotes of multi-line strings are, of either kind.
    quotes: [Vec<usize>; 2],
}

impl SourceText {
    pub(super) fn new(name: String, text: String) -> Self {
        let all = |what: &str| text.match_indices(what).map(|(at, _)| at).collect::<Vec<_>>();
        Self {
            line_ends: all("\n"),
            quotes: [all("\"\"\""), all("'''")],
            name,
            text,
        }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Line from 1 of a byte offset.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_ends.partition_point(|end| *end < offset) + 1
    }

    /// The place of `span`. The line is left out when `secret` says so or when it may hold one.
    pub(super) fn location(&self, span: &Range<usize>, secret: bool) -> Location {
        let start = floor_char(&self.text, span.start);
        let end = floor_char(&self.text, span.end.max(start));
        let before = self.text.get(..start).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = self.text.get(line_start..).unwrap_or_default();
        let line_text = rest.split('\n').next().unwrap_or_default().trim_end_matches('\r');
        let column = self
            .text
            .get(line_start..start)
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        let meant = self.text.get(start..end).unwrap_or_default();
        let length = meant
            .split('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            .max(1);
        let hidden = secret
            || line_text.len() > LONGEST_LINE
            || may_hold_secret(line_text)
            || self.in_multiline_string(line_start);
        Location {
            file: self.name.clone(),
            line: self.line(start),
            column,
            length,
            source: (!hidden).then(|| line_text.to_owned()),
        }
    }

    /// The place of a syntax error. Here nothing is known about the line, so it is shown only when it begins like
    /// a harmless assignment or a table header and no multi-line string can reach into it.
    pub(super) fn syntax_location(&self, span: &Range<usize>) -> Location {
        let mut location = self.location(span, false);
        let harmless = location.source.as_deref().is_some_and(|line| {
            let line = line.trim_start();
            let key = line.split('=').next().unwrap_or_default().trim();
            let bare = !key.is_empty()
                && key
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
            line.starts_with('[') || (bare && line.contains('='))
        });
        if !harmless || self.quotes.iter().any(|quotes| !quotes.is_empty()) {
            location.source = None;
        }
        location
    }

    /// Whether a multi-line string that began above may still be open at `offset`: then the key that tells what
    /// the line holds is elsewhere.
    fn in_multiline_string(&self, offset: usize) -> bool {
        let open = |quotes: &Vec<usize>| quotes.partition_point(|quote| *quote < offset) % 2 == 1;
        self.quotes.iter().any(open)
    }
}

/// Whether a line of a configuration file may hold a secret: an assignment to a key that names one (but not to
/// `…_file` or `…_env`, which name a place), a URL with user information, or an ACL rule with a password.
pub fn may_hold_secret(line: &str) -> bool {
    let lower = line.to_ascii_lowercase();
    if lower.contains("://") && lower.contains('@') {
        return true;
    }
    // ACL words: `>password`, `<password`, `#hash`, `!hash`.
    let acl_word = |word: &str| {
        let word = word.trim_start_matches(['"', '\'', '[', '(', ',']);
        word.len() > 1 && (word.starts_with(['>', '<', '!']) || is_hash_word(word))
    };
    if lower
        .split_whitespace()
        .flat_map(|word| word.split('='))
        .any(acl_word)
    {
        return true;
    }
    let mut rest = lower.as_str();
    while let Some((left, right)) = rest.split_once('=') {
        let key = left.trim_end().trim_end_matches(['"', '\'']);
        let begin = key
            .rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-' || c == '.'))
            .map_or(0, |at| {
                at + key
                    .get(at..)
                    .and_then(|s| s.chars().next())
                    .map_or(1, char::len_utf8)
            });
        if names_secret(key.get(begin..).unwrap_or_default()) {
            return true;
        }
        rest = right;
    }
    // A continuation line of an array: its key stands above.
    let trimmed = lower.trim_start();
    trimmed.starts_with("\"sha256:") || trimmed.starts_with("'sha256:")
}

/// Whether a key of this name holds a secret itself.
pub(super) fn names_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let last = key.rsplit('.').next().unwrap_or_default();
    if last.ends_with("_file") || last.ends_with("-file") || last.ends_with("_files") {
        return false;
    }
    const WORDS: [&str; 9] = [
        "pass",
        "pwd",
        "secret",
        "token",
        "credential",
        "requirepass",
        "masterauth",
        "private",
        "passphrase",
    ];
    WORDS.iter().any(|word| key.contains(word)) || last == "auth" || last == "pw" || last == "key"
}

/// The candidate that was probably meant; `None` when nothing is near.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    if length > LONGEST_WORD {
        return None;
    }
    let word = word.to_ascii_lowercase();
    // One edit in three characters: `cahce` and `adress` are found, `foo` suggests nothing.
    let bound = (length / 3).max(1);
    candidates
        .into_iter()
        .filter(|candidate| candidate.chars().take(2 * LONGEST_WORD).count().abs_diff(length) <= bound)
        .map(|candidate| (edit_distance(&word, &candidate.to_ascii_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= bound)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    let mut previous = None;
    for (i, ca) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let get = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX - 1);
            let mut best = (get(&above, j + 1) + 1)
                .min(get(&row, j) + 1)
                .min(get(&above, j) + usize::from(ca != *cb));
            let swapped = j > 0 && previous == Some(*cb) && b.get(j.wrapping_sub(1)) == Some(&ca);
            if swapped && ca != *cb {
                best = best.min(get(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
        previous = Some(ca);
    }
    above.last().copied().unwrap_or_default()
}

fn is_hash_word(word: &str) -> bool {
    word.strip_prefix('#')
        .is_some_and(|hex| hex.len() >= 32 && hex.chars().take(32).all(|c| c.is_ascii_hexdigit()))
}

/// Largest character boundary at or below `at`.
fn floor_char(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Nobody misspells a longer word into one of ours.
const LONGEST_WORD: usize = 64;
/// A longer line is no help to the eye.
const LONGEST_LINE: usize = 1_000;

/// A word of the file as a message may repeat it. What is long or has several lines is no word: quotes that nobody
/// closed may have swallowed half of the file, with its secrets.
pub(super) fn shown(word: &str) -> &str {
    if word.len() <= LONGEST_WORD && !word.contains(char::is_control) && !may_hold_secret(word) {
        word
    } else {
        "…"
    }
}

/// Control characters (a terminal would obey them) as blanks.
fn write_clean(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    for c in text.chars() {
        fmt::Write::write_char(f, if c.is_control() { ' ' } else { c })?;
    }
    Ok(())
}
