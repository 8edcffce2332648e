//! Redis's request parser: networking.c, sds.c and util.c, transcribed with all they are lenient about. It must
//! share nothing with the scanner that it is the oracle of.

use super::slice;

/// The requests that Redis finds in a byte stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reading {
    pub requests: Vec<Vec<Vec<u8>>>,
    /// Bytes of an unfinished request at the end.
    pub left: usize,
    /// Redis closes the connection at this point.
    pub closed: bool,
}

/// `processInputBuffer`, for a client that has logged in. A line that Redis would wait for is `left`.
pub fn redis_reading(buffer: &[u8]) -> Reading {
    let mut reading = Reading::default();
    let mut pos = 0;
    while pos < buffer.len() {
        let parsed = match buffer.get(pos) {
            Some(b'*') => process_multibulk(buffer, pos),
            _ => process_inline(buffer, pos),
        };
        match parsed {
            Parsed::Request(next, arguments) => {
                if !arguments.is_empty() {
                    reading.requests.push(arguments);
                }
                pos = next;
            }
            Parsed::Wait => break,
            Parsed::Close => {
                reading.closed = true;
                break;
            }
        }
    }
    reading.left = buffer.len() - pos;
    reading
}

enum Parsed {
    Request(usize, Vec<Vec<u8>>),
    Wait,
    Close,
}

/// `processMultibulkBuffer`.
fn process_multibulk(buffer: &[u8], start: usize) -> Parsed {
    let Some(newline) = strchr(buffer, start, b'\r') else {
        return too_long(buffer, start);
    };
    // "Buffer should also contain \n": one more byte, whichever.
    if newline + 2 > buffer.len() {
        return Parsed::Wait;
    }
    let count = match string2ll(slice(buffer, &(start + 1..newline))) {
        Some(count) if count <= i64::from(i32::MAX) => count,
        _ => return Parsed::Close,
    };
    let mut pos = newline + 2;
    let mut arguments = Vec::new();
    let mut left = count;
    while left > 0 {
        let Some(newline) = strchr(buffer, pos, b'\r') else {
            return too_long(buffer, pos);
        };
        if newline + 2 > buffer.len() {
            return Parsed::Wait;
        }
        if buffer.get(pos) != Some(&b'$') {
            return Parsed::Close;
        }
        let size = string2ll(slice(buffer, &(pos + 1..newline))).and_then(|size| usize::try_from(size).ok());
        let Some(size) = size.filter(|&size| size <= 512 * 1024 * 1024) else {
            return Parsed::Close;
        };
        pos = newline + 2;
        if buffer.len() - pos < size + 2 {
            return Parsed::Wait;
        }
        arguments.push(slice(buffer, &(pos..pos + size)).to_vec());
        pos += size + 2;
        left -= 1;
    }
    Parsed::Request(pos, arguments)
}

/// `processInlineBuffer`.
fn process_inline(buffer: &[u8], start: usize) -> Parsed {
    let Some(newline) = strchr(buffer, start, b'\n') else {
        return too_long(buffer, start);
    };
    let crlf = newline != start && buffer.get(newline - 1) == Some(&b'\r');
    let end = if crlf { newline - 1 } else { newline };
    match sds_split_args(slice(buffer, &(start..end))) {
        Some(arguments) => Parsed::Request(newline + 1, arguments),
        None => Parsed::Close,
    }
}

fn too_long(buffer: &[u8], pos: usize) -> Parsed {
    if buffer.len() - pos > 65_536 {
        Parsed::Close
    } else {
        Parsed::Wait
    }
}

/// C's `strchr` on a buffer with a NUL behind it: blind behind the first NUL.
fn strchr(buffer: &[u8], from: usize, wanted: u8) -> Option<usize> {
    let mut i = from;
    loop {
        match buffer.get(i) {
            Some(&byte) if byte == wanted => return Some(i),
            None | Some(0) => return None,
            Some(_) => i += 1,
        }
    }
}

/// `string2ll` (util.c).
fn string2ll(text: &[u8]) -> Option<i64> {
    if text.is_empty() || text.len() >= 21 {
        return None;
    }
    if text == b"0" {
        return Some(0);
    }
    let (negative, digits) = match text.split_first() {
        Some((b'-', digits)) => (true, digits),
        _ => (false, text),
    };
    if !matches!(digits.first(), Some(b'1'..=b'9')) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0i128, |value, digit| value * 10 + i128::from(digit - b'0'));
    i64::try_from(if negative { -value } else { value }).ok()
}

/// `sdssplitargs` (sds.c), character by character; `None` for unbalanced quotes.
pub(super) fn sds_split_args(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let p = |i: usize| line.get(i).copied().unwrap_or(0);
    let is_space = |c: u8| c == b' ' || (9..=13).contains(&c);
    let digit = |c: u8| {
        char::from(c)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut vector = Vec::new();
    let mut i = 0;
    loop {
        while p(i) != 0 && is_space(p(i)) {
            i += 1;
        }
        if p(i) == 0 {
            return Some(vector);
        }
        let (mut inq, mut insq, mut done) = (false, false, false);
        let mut current = Vec::new();
        while !done {
            let c = p(i);
            if inq {
                if let (b'\\', b'x', Some(high), Some(low)) = (c, p(i + 1), digit(p(i + 2)), digit(p(i + 3)))
                {
                    current.push(high * 16 + low);
                    i += 3;
                } else if c == b'\\' && p(i + 1) != 0 {
                    i += 1;
                    current.push(match p(i) {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'b' => 8,
                        b'a' => 7,
                        other => other,
                    });
                } else if c == b'"' {
                    if p(i + 1) != 0 && !is_space(p(i + 1)) {
                        return None;
                    }
                    done = true;
                } else if c == 0 {
                    return None;
                } else {
                    current.push(c);
                }
            } else if insq {
                if c == b'\\' && p(i + 1) == b'\'' {
                    i += 1;
                    current.push(b'\'');
                } else if c == b'\'' {
                    if p(i + 1) != 0 && !is_space(p(i + 1)) {
                        return None;
                    }
                    done = true;
                } else if c == 0 {
                    return None;
                } else {
                    current.push(c);
                }
            } else {
                match c {
                    b' ' | b'\n' | b'\r' | b'\t' | 0 => done = true,
                    b'"' => inq = true,
                    b'\'' => insq = true,
                    other => current.push(other),
                }
            }
            if p(i) != 0 {
                i += 1;
            }
        }
        vector.push(current);
    }
}
