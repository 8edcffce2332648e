//! Inline commands: one line of words, as a person types them into a terminal.
//!
//! They are split exactly as Redis's `sdssplitargs` (sds.c) splits them and written anew as a canonical array,
//! so Redis never sees the line itself (rules R-24, R-25, R-27).

use super::{ProtocolError, RequestLimits, encode};
use bytes::BytesMut;

/// Splits `line` (without its LF and one CR before it, free of NUL) and appends it to `out` as an array.
/// Returns the number of arguments; with none, nothing is written.
///
/// `out` grows to at most seven times the line, whose length the scanner has bounded.
pub(super) fn encode_line(
    line: &[u8],
    limits: &RequestLimits,
    out: &mut BytesMut,
) -> Result<u32, ProtocolError> {
    let mut arguments = BytesMut::new();
    let mut word = Vec::new();
    let mut argc = 0u32;
    let mut rest = line;
    while let Some(after) = next_word(rest, &mut word)? {
        rest = after;
        argc += 1;
        limits.check_count(u64::from(argc))?;
        limits.check_bulk(word.len() as u64)?;
        encode::bulk(&mut arguments, &word);
    }
    if argc > 0 {
        encode::header(out, b'*', argc as usize);
        out.extend_from_slice(&arguments);
    }
    Ok(argc)
}

/// Reads one word into `word` and returns what follows it, or `None` if only blanks are left.
fn next_word<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<Option<&'a [u8]>, ProtocolError> {
    word.clear();
    while let [byte, after @ ..] = rest
        && is_space(*byte)
    {
        rest = after;
    }
    if rest.is_empty() {
        return Ok(None);
    }
    loop {
        rest = match rest {
            // Outside quotes only these four end a word: VT and FF are skipped before one, but belong to it
            // once it has begun.
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Ok(Some(rest)),
            // A quote may open in the middle of a word, but must end it.
            [b'"', after @ ..] => return double_quoted(after, word).map(Some),
            [b'\'', after @ ..] => return single_quoted(after, word).map(Some),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        rest = match rest {
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                after
            }
            [b'\\', escaped, after @ ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                after
            }
            [b'"', after @ ..] => return closed(after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        rest = match rest {
            [b'\\', b'\'', after @ ..] => {
                word.push(b'\'');
                after
            }
            [b'\'', after @ ..] => return closed(after),
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
    }
}

/// A closing quote must be followed by a blank or by nothing.
fn closed(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest {
        [byte, ..] if !is_space(*byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

/// C's `isspace` in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// The value of a hexadecimal digit.
fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::Args;

    fn words(line: &[u8]) -> Result<Vec<String>, ProtocolError> {
        let mut out = BytesMut::new();
        let argc = encode_line(line, &RequestLimits::AUTHENTICATED, &mut out)?;
        let words: Vec<String> = Args::new(&out, argc)
            .iter()
            .map(|word| word.escape_ascii().to_string())
            .collect();
        assert_eq!(words.len(), argc as usize);
        Ok(words)
    }

    #[test]
    fn words_are_split_like_sdssplitargs() {
        let cases: &[(&[u8], &[&str])] = &[
            (b"", &[]),
            (b" \t\x0b\x0c\r ", &[]),
            (b"PING", &["PING"]),
            (b"  set  a\tb ", &["set", "a", "b"]),
            (b"\x0bPING\x0b", &[r"PING\x0b"]),
            (b"a\x0cb\rc", &[r"a\x0cb", "c"]),
            (b"\"FLUSHALL\"", &["FLUSHALL"]),
            (b"FLUSH\"ALL\"", &["FLUSHALL"]),
            (b"FLUSH'ALL' x", &["FLUSHALL", "x"]),
            (b"\"\\x46LUSHALL\"", &["FLUSHALL"]),
            (b"'\\x46'", &[r"\\x46"]),
            (b"\"\\xg1\\x4\"", &["xg1x4"]),
            (b"\"\\n\\r\\t\\b\\a\\q\\\\\\\"\"", &[r#"\n\r\t\x08\x07q\\\""#]),
            (b"'a\\'b\\n'", &[r"a\'b\\n"]),
            (b"\"\" ''", &["", ""]),
            (b"\"a\"\x0bb", &["a", "b"]),
            (b"\xff\xc2\xa0x", &[r"\xff\xc2\xa0x"]),
            (b"\"\\x00\"", &[r"\x00"]),
        ];
        for (line, expected) in cases {
            let shown = line.escape_ascii().to_string();
            assert_eq!(words(line).unwrap(), *expected, "{shown}");
        }
    }

    #[test]
    fn unbalanced_and_glued_quotes_are_refused() {
        for line in [
            &b"\""[..],
            b"'",
            b"\"a",
            b"'a",
            b"\"a\"b",
            b"'a'b",
            b"\"a\"\"b\"",
            b"\"a\\",
            b"\"a\\\"",
            b"a\"'",
        ] {
            assert_eq!(
                words(line),
                Err(ProtocolError::UnbalancedQuotes),
                "{:?}",
                line.escape_ascii().to_string()
            );
        }
    }

    #[test]
    fn before_login_the_words_obey_the_argument_limits() {
        let encode = |line: &[u8]| encode_line(line, &RequestLimits::UNAUTHENTICATED, &mut BytesMut::new());
        assert_eq!(encode(b"1 2 3 4 5 6 7 8 9 0"), Ok(10));
        assert_eq!(
            encode(b"1 2 3 4 5 6 7 8 9 0 1"),
            Err(ProtocolError::UnauthenticatedMultibulkLength)
        );
        assert_eq!(encode(&[b'a'; 16_384]), Ok(1));
        assert_eq!(
            encode(&[b'a'; 16_385]),
            Err(ProtocolError::UnauthenticatedBulkLength)
        );
    }
}
