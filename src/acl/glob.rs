//! Redis's glob (`stringmatchlen`, util.c), byte for byte, without its recursion.
//!
//! `*` any bytes, `?` one byte, `[a-z]` and `[^a-z]` one byte of a class, `\` takes the next byte as it is. Its oddities are kept,
//! because a rule must mean the same on both sides: a class that is never closed ends with the pattern, `*` does not match the
//! empty string, and a pattern of more than a thousand stars matches nothing.
//!
//! Every element but the star takes exactly one byte. Therefore only the last star ever needs another try, and the work is
//! bounded by the product of both lengths.

/// A pattern of a rule. Most are a prefix and a star, or no pattern at all; these need no matcher.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    text: String,
    shape: Shape,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// No special byte.
    Literal,
    /// So many bytes without a special one, then stars.
    Prefix(usize),
    Glob,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        let prefix = text.trim_end_matches('*');
        let shape = match prefix.contains(['*', '?', '[', '\\']) {
            false if prefix.len() == text.len() => Shape::Literal,
            // A star alone does not match the empty text.
            false if !prefix.is_empty() => Shape::Prefix(prefix.len()),
            _ => Shape::Glob,
        };
        Self {
            text: text.to_owned(),
            shape,
        }
    }

    /// As it was written.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it matches the whole text.
    pub(super) fn matches(&self, text: &[u8]) -> bool {
        let pattern = self.text.as_bytes();
        match self.shape {
            Shape::Literal => pattern == text,
            Shape::Prefix(length) => text.starts_with(pattern.get(..length).unwrap_or(pattern)),
            Shape::Glob => matches(pattern, text),
        }
    }
}

/// Whether the pattern matches the whole text.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last star, and where its text was taken up.
    let mut retry: Option<(usize, usize)> = None;
    let mut stars = 0_u32;
    if text.is_empty() {
        return pattern.is_empty();
    }
    loop {
        let Some(byte) = text.get(seen) else {
            // All that is left must be stars. Another try would have less text for as many elements.
            return pattern.iter().skip(at).all(|byte| *byte == b'*');
        };
        let step = match pattern.get(at) {
            Some(b'*') => {
                while pattern.get(at + 1) == Some(&b'*') {
                    at += 1;
                }
                at += 1;
                if at == pattern.len() {
                    return true;
                }
                stars += 1;
                if stars > MOST_STARS {
                    return false;
                }
                retry = Some((at, seen));
                continue;
            }
            Some(_) => element(pattern.get(at..).unwrap_or_default(), *byte),
            None => None,
        };
        match (step, retry) {
            (Some(length), _) => {
                at += length;
                seen += 1;
            }
            (None, Some((behind, from))) => {
                at = behind;
                seen = from + 1;
                if seen == text.len() {
                    return false;
                }
                retry = Some((behind, seen));
            }
            (None, None) => return false,
        }
    }
}

/// The length of the first element (no star) if it takes this byte.
fn element(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [b'?', ..] => Some(1),
        [b'[', ref class @ ..] => {
            let (takes, length) = in_class(class, byte);
            takes.then_some(length + 1)
        }
        [b'\\', escaped, ..] => (escaped == byte).then_some(2),
        [literal, ..] => (literal == byte).then_some(1),
        [] => None,
    }
}

/// Whether the class, given from behind its bracket, takes the byte, and its length to the closing bracket or the
/// end of the pattern.
fn in_class(class: &[u8], byte: u8) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match *class.get(at..).unwrap_or_default() {
            [b'\\', escaped, ..] => {
                found |= escaped == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [] => break,
            [start, b'-', end, ..] => {
                // Redis compares `char`, which has a sign on the machines that it is built for most.
                let (start, end, byte) = (start.cast_signed(), end.cast_signed(), byte.cast_signed());
                found |= (start.min(end)..=start.max(end)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= literal == byte;
                at += 1;
            }
        }
    }
    (found != negated, at)
}

/// Redis's own bound (CVE-2024-31228).
const MOST_STARS: u32 = 1_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Pattern, matches};

    #[test]
    fn patterns_match_what_they_match_in_redis() {
        let cases: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("", "a", false),
            ("*", "", false),
            ("**", "", false),
            ("*", "a", true),
            ("a*", "a", true),
            ("a**", "a", true),
            ("*a", "a", true),
            ("*a", "ba", true),
            ("a*b", "ab", true),
            ("a*b", "a", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyyd", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "abxab", true),
            ("*ab*ab", "aab", false),
            ("?", "a", true),
            ("?", "", false),
            ("a?c", "abc", true),
            ("[abc]", "b", true),
            ("[abc]", "d", false),
            ("[^abc]", "d", true),
            ("[^abc]", "b", false),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", true),
            // From `a` to `]`, and never closed.
            ("[a-]", "-", false),
            ("[a-]", "_", true),
            ("[a-]x", "x", true),
            ("[a-]x", "b", false),
            ("[\\]]", "]", true),
            ("[\\]", "]", true),
            ("[", "a", false),
            ("[^", "a", true),
            ("[abc", "c", true),
            ("[]", "]", false),
            ("[]a]", "a", false),
            ("[^]a", "xa", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\", "\\", true),
            ("a\\", "a\\", true),
            ("app:*", "app:1", true),
            ("app:*", "app:", true),
            ("app:*", "ap", false),
            ("App:*", "app:1", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                *expected,
                "{pattern:?} {text:?}"
            );
        }
    }

    #[test]
    fn a_thousand_stars_are_the_most() {
        let pattern = |stars: usize| format!("{}b", "*a".repeat(stars));
        let text = format!("{}b", "a".repeat(1_200));
        assert!(matches(pattern(1_000).as_bytes(), text.as_bytes()));
        assert!(!matches(pattern(1_001).as_bytes(), text.as_bytes()));
    }

    #[test]
    fn the_work_is_bounded_by_both_lengths() {
        // By trying every length of every star this would not end before the stars do.
        let pattern = "*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b";
        assert!(!matches(pattern.as_bytes(), &[b'a'; 100_000]));
    }

    /// Every length for every star: slow, and plainly right.
    fn reference(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|from| reference(rest, &text[from..])),
            _ => match text {
                [byte, rest @ ..] => {
                    super::element(pattern, *byte).is_some_and(|length| reference(&pattern[length..], rest))
                }
                [] => false,
            },
        }
    }

    proptest! {
        #[test]
        fn one_retry_is_as_good_as_all(pattern in "[a\\[\\]^\\-b*?\\\\]{0,10}", text in "[ab\\]\\-]{1,10}") {
            prop_assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), reference(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn a_short_way_leads_to_the_same(pattern in "[ab*?\\[\\]\\\\]{0,5}", text in "[ab*\\\\]{0,6}") {
            let (short, long) = (Pattern::new(&pattern), matches(pattern.as_bytes(), text.as_bytes()));
            prop_assert_eq!(short.matches(text.as_bytes()), long);
        }

        #[test]
        fn a_text_matches_itself_escaped(text in proptest::collection::vec(any::<u8>(), 1..40)) {
            let pattern: Vec<u8> = text.iter().flat_map(|byte| [b'\\', *byte]).collect();
            prop_assert!(matches(&pattern, &text));
        }

        #[test]
        fn no_bytes_panic(pattern in proptest::collection::vec(any::<u8>(), 0..40), text in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = matches(&pattern, &text);
        }
    }
}
