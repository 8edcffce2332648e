//! HTML that cannot be broken out of: what is written as it is must be a literal of this program, everything else is escaped.

use std::fmt::{self, Write as _};

/// A piece of a page.
#[derive(Debug, Default)]
pub(super) struct Markup(String);

impl Markup {
    /// Tags and words of our own.
    pub(super) fn raw(&mut self, literal: &'static str) -> &mut Self {
        self.0.push_str(literal);
        self
    }

    /// Anything, between tags or in a quoted attribute.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for char in text.chars() {
            match char {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                char => self.0.push(visible(char)),
            }
        }
        self
    }

    /// A coordinate, with two digits behind the point.
    pub(super) fn length(&mut self, value: f64) -> &mut Self {
        // A String takes everything.
        let _ = write!(self.0, "{value:.2}");
        self
    }

    pub(super) fn append(&mut self, other: &Self) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl fmt::Display for Markup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The character, or what stands for one that would not be seen: control characters move a terminal's cursor, and those that
/// turn the direction of writing make a name look like another.
pub(super) fn visible(char: char) -> char {
    match char {
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => HIDDEN,
        char if char.is_control() => HIDDEN,
        char => char,
    }
}

/// REPLACEMENT CHARACTER.
const HIDDEN: char = '\u{fffd}';
