//! Writing RESP: our own requests towards Redis, our own answers towards clients.
//!
//! Everything written here is canonical (rule R-1), and no text handed in can end its own line: bytes that
//! could are replaced by blanks, as Redis does with its error texts (rule P-6 shows what happens otherwise).

use bytes::{BufMut, BytesMut};

/// Appends a request as an array of bulk strings. An empty `args` writes nothing, because Redis would ignore
/// `*0` and the caller would wait for a reply for ever (rule R-10).
pub fn request(out: &mut BytesMut, args: &[&[u8]]) {
    if args.is_empty() {
        return;
    }
    header(out, b'*', args.len());
    for arg in args {
        bulk(out, arg);
    }
}

/// Appends an error reply. `text` begins with the error code and carries neither `-` nor CR LF; control
/// characters in it become blanks.
pub fn error(out: &mut BytesMut, text: &str) {
    line(out, b'-', text);
}

/// Appends a simple string; control characters in it become blanks.
pub fn simple(out: &mut BytesMut, text: &str) {
    line(out, b'+', text);
}

/// Appends an integer.
pub fn integer(out: &mut BytesMut, value: i64) {
    out.put_u8(b':');
    if value < 0 {
        out.put_u8(b'-');
    }
    decimal(out, value.unsigned_abs());
    out.put_slice(b"\r\n");
}

/// Appends a bulk string.
pub fn bulk(out: &mut BytesMut, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// Appends a null: `_` in RESP3, the null bulk string in RESP2.
pub fn null(out: &mut BytesMut, resp3: bool) {
    out.put_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" });
}

/// Appends pairs of texts: as a map in RESP3, as an array of names and values in RESP2.
pub fn map(out: &mut BytesMut, pairs: &[(&str, &str)], resp3: bool) {
    if resp3 {
        header(out, b'%', pairs.len());
    } else {
        header(out, b'*', pairs.len().saturating_mul(2));
    }
    for (name, value) in pairs {
        bulk(out, name.as_bytes());
        bulk(out, value.as_bytes());
    }
}

/// Appends the head of an array, push or map: `kind` and the number of what follows.
pub(super) fn header(out: &mut BytesMut, kind: u8, count: usize) {
    out.put_u8(kind);
    decimal(out, count as u64);
    out.put_slice(b"\r\n");
}

fn line(out: &mut BytesMut, kind: u8, text: &str) {
    out.put_u8(kind);
    out.extend(
        text.bytes()
            .map(|byte| if byte.is_ascii_control() { b' ' } else { byte }),
    );
    out.put_slice(b"\r\n");
}

fn decimal(out: &mut BytesMut, mut value: u64) {
    // 20 digits hold u64::MAX; they are found from the last to the first.
    let mut digits = [b'0'; 20];
    let mut used = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        used += 1;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.put_slice(digits.get(digits.len() - used..).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        out.escape_ascii().to_string()
    }

    #[test]
    fn requests_are_canonical_arrays() {
        assert_eq!(written(|o| request(o, &[b"PING"])), r"*1\r\n$4\r\nPING\r\n");
        assert_eq!(
            written(|o| request(o, &[b"SET", b"", b"a\r\nb"])),
            r"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n"
        );
        assert_eq!(written(|o| request(o, &[])), "");
        assert_eq!(
            written(|o| request(o, &[[b'x'; 123].as_slice()])),
            format!(r"*1\r\n$123\r\n{}\r\n", "x".repeat(123))
        );
    }

    #[test]
    fn answers_have_their_redis_form() {
        assert_eq!(written(|o| error(o, "ERR no")), r"-ERR no\r\n");
        assert_eq!(written(|o| simple(o, "OK")), r"+OK\r\n");
        assert_eq!(written(|o| bulk(o, b"\x00\xff")), r"$2\r\n\x00\xff\r\n");
        assert_eq!(written(|o| null(o, false)), r"$-1\r\n");
        assert_eq!(written(|o| null(o, true)), r"_\r\n");
        for value in [0, 7, -7, 10, 99, 100, i64::MAX, i64::MIN] {
            assert_eq!(written(|o| integer(o, value)), format!(r":{value}\r\n"));
        }
    }

    #[test]
    fn pairs_are_a_map_or_an_array() {
        let pairs = [("a", "1"), ("b", "")];
        assert_eq!(
            written(|o| map(o, &pairs, true)),
            r"%2\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$0\r\n\r\n"
        );
        assert!(written(|o| map(o, &pairs, false)).starts_with(r"*4\r\n$1\r\na\r\n"));
    }

    #[test]
    fn a_text_can_not_end_its_line() {
        assert_eq!(
            written(|o| error(o, "ERR a\r\n+INJ\0\x7f\té")),
            r"-ERR a  +INJ   \xc3\xa9\r\n"
        );
        assert_eq!(written(|o| simple(o, "a\nb")), r"+a b\r\n");
    }
}
