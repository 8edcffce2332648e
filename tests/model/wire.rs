//! One connection's bytes: written in random pieces, read as frames.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Buf;
use bytes::BytesMut;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;

use crate::random::Random;
use crate::support::PATIENCE;
use crate::support::client::Value;

pub(crate) struct Reader {
    half: OwnedReadHalf,
    buffer: BytesMut,
    /// Bytes that must be there before another look at an incomplete frame is worth while.
    needed: usize,
    /// The most that is read at once, and the pause behind it.
    pub(crate) pace: Option<(usize, Duration)>,
}

pub(crate) struct Writer {
    half: OwnedWriteHalf,
}

/// Why no further frame comes.
#[derive(Debug)]
pub(crate) enum NoFrame {
    /// The other side has ended the connection; `true`: in the middle of a frame.
    Ended(bool),
    /// Not a byte came in all the time that anything may take.
    Silent,
    /// Not RESP.
    Malformed(String),
}

pub(crate) async fn connect(address: SocketAddr) -> io::Result<(Reader, Writer)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let reader = Reader {
        half: read,
        buffer: BytesMut::new(),
        needed: 1,
        pace: None,
    };
    Ok((reader, Writer { half: write }))
}

impl Reader {
    pub(crate) async fn frame(&mut self) -> Result<Value, NoFrame> {
        loop {
            if self.buffer.len() >= self.needed {
                match measure(&self.buffer).map_err(NoFrame::Malformed)? {
                    Measured::Whole(len) => {
                        let (value, _) = build(&self.buffer[..len]);
                        self.buffer.advance(len);
                        self.needed = 1;
                        return Ok(value);
                    }
                    Measured::Needs(len) => self.needed = len.max(self.buffer.len() + 1),
                }
            }
            let limit = self.pace.map_or(256 * 1024, |(limit, _)| limit);
            self.buffer.reserve(limit);
            let mut half = (&mut self.half).take(limit as u64);
            let read = tokio::time::timeout(PATIENCE, half.read_buf(&mut self.buffer))
                .await
                .map_err(|_| NoFrame::Silent)?;
            if !matches!(read, Ok(1..)) {
                return Err(NoFrame::Ended(!self.buffer.is_empty()));
            }
            if let Some((_, pause)) = self.pace {
                tokio::time::sleep(pause).await;
            }
        }
    }
}

impl Writer {
    /// Writes all of it in random pieces, `trickling` with pauses between them; what does not get through is seen by the
    /// reader.
    pub(crate) async fn write(&mut self, bytes: &[u8], random: &mut Random, trickling: bool) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let piece = match random.below(8) {
                _ if trickling => random.within(1..bytes.len() / 8 + 2),
                0 => random.within(1..4),
                1 | 2 => random.within(1..200),
                3 => random.within(1..20_000),
                _ => rest.len(),
            };
            let (now, later) = rest.split_at(piece.min(rest.len()));
            if self.half.write_all(now).await.is_err() {
                return;
            }
            rest = later;
            if trickling {
                tokio::time::sleep(Duration::from_millis(random.below(80) as u64)).await;
            } else if random.percent(50) {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Half-close.
    pub(crate) async fn finish(&mut self) {
        let _ = self.half.shutdown().await;
    }

    /// The connection will end with RST.
    pub(crate) fn abort(&self) {
        let _ = socket2::SockRef::from(self.half.as_ref()).set_linger(Some(Duration::ZERO));
    }
}

enum Measured {
    Whole(usize),
    /// At least so many bytes.
    Needs(usize),
}

/// Length of the first frame.
fn measure(bytes: &[u8]) -> Result<Measured, String> {
    let (mut at, mut left) = (0, 1_u64);
    while left > 0 {
        let Some(end) = bytes[at.min(bytes.len())..]
            .windows(2)
            .position(|pair| pair == b"\r\n")
            .map(|end| at + end)
        else {
            return Ok(Measured::Needs(bytes.len() + 1));
        };
        let line = &bytes[at..end];
        at = end + 2;
        left -= 1;
        let number = || {
            std::str::from_utf8(&line[1..])
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .ok_or_else(|| format!("number {:?}", String::from_utf8_lossy(line)))
        };
        match line.first() {
            Some(b'+' | b'-' | b':' | b',' | b'#' | b'(' | b'_') => {}
            Some(b'$' | b'=' | b'!') => {
                let length = number()?;
                if length >= 0 {
                    let end = at + length as usize;
                    if bytes.len() < end + 2 {
                        return Ok(Measured::Needs(end + 2));
                    }
                    if &bytes[end..end + 2] != b"\r\n" {
                        return Err("no CRLF behind a bulk".into());
                    }
                    at = end + 2;
                }
            }
            Some(b'*' | b'~' | b'>') => left += u64::try_from(number()?).unwrap_or(0),
            Some(b'%') => left += 2 * u64::try_from(number()?).unwrap_or(0),
            _ => return Err(format!("line {:?}", String::from_utf8_lossy(line))),
        }
    }
    Ok(Measured::Whole(at))
}

/// The frame at the beginning of bytes that have been measured, and its length.
fn build(bytes: &[u8]) -> (Value, usize) {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n").unwrap();
    let (kind, rest) = bytes[..end].split_first().unwrap();
    let text = || String::from_utf8_lossy(rest).into_owned();
    let number = || text().parse::<i64>().unwrap();
    let mut at = end + 2;
    let value = match kind {
        b'+' => Value::Simple(text()),
        b'-' => Value::Error(text()),
        b':' => Value::Integer(number()),
        b',' => Value::Double(text()),
        b'#' => Value::Boolean(rest == b"t"),
        b'(' => Value::BigNumber(text()),
        b'_' => Value::Null,
        b'$' | b'=' | b'!' if number() < 0 => Value::NilBulk,
        b'$' | b'=' | b'!' => {
            let body = bytes[at..at + number() as usize].to_vec();
            at += body.len() + 2;
            match kind {
                b'$' => Value::Bulk(body),
                b'=' => Value::Verbatim(body),
                _ => Value::BulkError(body),
            }
        }
        _ if number() < 0 => Value::NilArray,
        _ => {
            let mut items = Vec::new();
            for _ in 0..number() * if *kind == b'%' { 2 } else { 1 } {
                let (item, len) = build(&bytes[at..]);
                items.push(item);
                at += len;
            }
            match kind {
                b'*' => Value::Array(items),
                b'~' => Value::Set(items),
                b'>' => Value::Push(items),
                _ => {
                    let mut items = items.into_iter();
                    let mut pairs = Vec::new();
                    while let (Some(key), Some(value)) = (items.next(), items.next()) {
                        pairs.push((key, value));
                    }
                    Value::Map(pairs)
                }
            }
        }
    };
    (value, at)
}
