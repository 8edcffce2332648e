//! A raw client: writes exactly the bytes it is given, reads RESP2 and RESP3 frames, each read with a deadline.
//!
//! Replies are rendered as text, so that a test reads like a conversation: `+OK`, `-ERR no`, `:1`, `$value`, `$-1`,
//! `*[$a, $b]`, `%{$k: :1}`, `~[..]`, `>[..]`, `,1.5`, `#t`, `_`, `(123`, `=txt:..`, `!ERR ..`.

use std::fmt;
use std::io;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::SocketAddr;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::ClientConnection;
use rustls::StreamOwned;
use rustls::pki_types::ServerName;

use super::PATIENCE;
use super::request;
use super::words;

/// One connection.
pub(crate) struct Client {
    wire: Wire,
    buffer: Vec<u8>,
    start: usize,
}

enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Client {
    pub(crate) fn tcp(address: SocketAddr) -> Self {
        Self::from_tcp(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn from_tcp(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self::new(Wire::Tcp(stream))
    }

    pub(crate) fn unix(path: &Path) -> Self {
        Self::new(Wire::Unix(UnixStream::connect(path).unwrap()))
    }

    /// Completes the handshake or gives its error.
    pub(crate) fn tls(address: SocketAddr, config: &Arc<ClientConfig>) -> io::Result<Self> {
        Self::tls_over(TcpStream::connect(address)?, config)
    }

    /// The same over a connection that is already open (behind a PROXY header, for instance).
    pub(crate) fn tls_over(mut stream: TcpStream, config: &Arc<ClientConfig>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Self::new(Wire::Tls(Box::new(StreamOwned::new(
            connection, stream,
        )))))
    }

    fn new(wire: Wire) -> Self {
        let client = Self {
            wire,
            buffer: Vec::new(),
            start: 0,
        };
        client.patience(PATIENCE);
        client
    }

    /// How long a read or a write may take from now on.
    pub(crate) fn patience(&self, limit: Duration) {
        match &self.wire {
            Wire::Tcp(stream) => {
                stream.set_read_timeout(Some(limit)).unwrap();
                stream.set_write_timeout(Some(limit)).unwrap();
            }
            Wire::Unix(stream) => {
                stream.set_read_timeout(Some(limit)).unwrap();
                stream.set_write_timeout(Some(limit)).unwrap();
            }
            Wire::Tls(stream) => {
                stream.sock.set_read_timeout(Some(limit)).unwrap();
                stream.sock.set_write_timeout(Some(limit)).unwrap();
            }
        }
    }

    /// The TLS session, for what was negotiated.
    pub(crate) fn tls_session(&self) -> &ClientConnection {
        match &self.wire {
            Wire::Tls(stream) => &stream.conn,
            Wire::Tcp(_) | Wire::Unix(_) => panic!("not a TLS connection"),
        }
    }

    /// A second handle on the socket, to write from another thread.
    pub(crate) fn socket(&self) -> TcpStream {
        match &self.wire {
            Wire::Tcp(stream) => stream.try_clone().unwrap(),
            Wire::Tls(stream) => stream.sock.try_clone().unwrap(),
            Wire::Unix(_) => panic!("not a TCP connection"),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// Writing may fail when the other side has closed already.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.wire {
            Wire::Tcp(stream) => stream.write_all(bytes),
            Wire::Unix(stream) => stream.write_all(bytes),
            Wire::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Sends a request given as words and reads one reply.
    pub(crate) fn call(&mut self, line: &str) -> String {
        self.send(&words(line));
        self.reply()
    }

    /// Sends a request whose arguments may hold blanks and reads one reply.
    pub(crate) fn call_args(&mut self, args: &[&str]) -> String {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        self.send(&request(&args));
        self.reply()
    }

    /// Logs in and demands `+OK`.
    pub(crate) fn login(mut self, user: &str, password: &str) -> Self {
        assert_eq!(
            self.call_args(&["AUTH", user, password]),
            "+OK",
            "login as {user}"
        );
        self
    }

    /// One reply as text.
    pub(crate) fn reply(&mut self) -> String {
        self.value().to_string()
    }

    /// `count` replies as text.
    pub(crate) fn replies(&mut self, count: usize) -> Vec<String> {
        (0..count).map(|_| self.reply()).collect()
    }

    /// One frame.
    pub(crate) fn value(&mut self) -> Value {
        self.try_value().unwrap_or_else(|error| {
            let seen = self.buffer.get(self.start..).unwrap_or_default();
            panic!("no reply: {error}; unread: {:?}", String::from_utf8_lossy(seen))
        })
    }

    pub(crate) fn try_value(&mut self) -> io::Result<Value> {
        let line = self.line()?;
        let (kind, rest) = line.split_first().ok_or_else(|| bad("empty line"))?;
        let text = || String::from_utf8_lossy(rest).into_owned();
        let number = || {
            text()
                .parse::<i64>()
                .map_err(|_| bad(&format!("number {:?}", text())))
        };
        Ok(match kind {
            b'+' => Value::Simple(text()),
            b'-' => Value::Error(text()),
            b':' => Value::Integer(number()?),
            b',' => Value::Double(text()),
            b'#' => Value::Boolean(rest == b"t"),
            b'(' => Value::BigNumber(text()),
            b'_' => Value::Null,
            b'$' | b'=' | b'!' => {
                let length = number()?;
                if length == -1 {
                    return Ok(Value::NilBulk);
                }
                let length = usize::try_from(length).map_err(|_| bad("negative length"))?;
                let body = self.bytes(length)?;
                if self.bytes(2)? != b"\r\n" {
                    return Err(bad("no CRLF behind a bulk"));
                }
                match kind {
                    b'$' => Value::Bulk(body),
                    b'=' => Value::Verbatim(body),
                    _ => Value::BulkError(body),
                }
            }
            b'*' | b'~' | b'>' => {
                let count = number()?;
                if count == -1 {
                    return Ok(Value::NilArray);
                }
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.try_value()?);
                }
                match kind {
                    b'*' => Value::Array(items),
                    b'~' => Value::Set(items),
                    _ => Value::Push(items),
                }
            }
            b'%' | b'|' => {
                let mut pairs = Vec::new();
                for _ in 0..number()? {
                    pairs.push((self.try_value()?, self.try_value()?));
                }
                match kind {
                    b'%' => Value::Map(pairs),
                    _ => Value::Attribute(pairs, Box::new(self.try_value()?)),
                }
            }
            other => return Err(bad(&format!("type byte {:?}", char::from(*other)))),
        })
    }

    /// Demands that the other side has closed (or reset) the connection, with nothing unread before that.
    pub(crate) fn expect_closed(&mut self) {
        let rest = self.read_to_end();
        assert_eq!(
            String::from_utf8_lossy(&rest),
            "",
            "expected the connection to be closed without more bytes"
        );
    }

    /// Everything that comes until the other side closes; panics when it does not close in time.
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        loop {
            match self.fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if timed_out(&error) => panic!("still open after {PATIENCE:?}"),
                Err(_) => break,
            }
        }
        let rest = self.buffer.split_off(self.start);
        self.buffer.clear();
        self.start = 0;
        rest
    }

    /// Reads and throws away exactly `count` raw bytes without keeping them.
    pub(crate) fn skip_bytes(&mut self, mut count: usize) {
        let have = (self.buffer.len() - self.start).min(count);
        self.start += have;
        count -= have;
        let mut scratch = vec![0; 256 * 1024];
        while count > 0 {
            let room = scratch.len().min(count);
            let read = self.read_some(&mut scratch[..room]).unwrap();
            assert_ne!(read, 0, "closed with {count} bytes to come");
            count -= read;
        }
    }

    /// Exactly `count` raw bytes.
    pub(crate) fn raw(&mut self, count: usize) -> Vec<u8> {
        self.bytes(count).unwrap()
    }

    pub(crate) fn try_raw(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.bytes(count)
    }

    /// One line without its CRLF, raw.
    pub(crate) fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut scanned = 0;
        loop {
            let unread = &self.buffer[self.start..];
            if let Some(at) = unread[scanned..].windows(2).position(|pair| pair == b"\r\n") {
                let line = unread[..scanned + at].to_vec();
                self.start += scanned + at + 2;
                return Ok(line);
            }
            scanned = unread.len().saturating_sub(1);
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() - self.start < count {
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let bytes = self.buffer[self.start..self.start + count].to_vec();
        self.start += count;
        Ok(bytes)
    }

    fn fill(&mut self) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        let mut scratch = [0; 64 * 1024];
        let read = self.read_some(&mut scratch)?;
        self.buffer.extend_from_slice(&scratch[..read]);
        Ok(read)
    }

    fn read_some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match &mut self.wire {
                Wire::Tcp(stream) => stream.read(into),
                Wire::Unix(stream) => stream.read(into),
                Wire::Tls(stream) => stream.read(into),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    /// Half-close: no more requests will come, replies are still read.
    pub(crate) fn finish_sending(&mut self) {
        match &mut self.wire {
            Wire::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Wire::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Wire::Tls(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
                stream.sock.shutdown(Shutdown::Write).unwrap();
            }
        }
    }

    /// Closes with RST instead of FIN.
    pub(crate) fn reset(self) {
        if let Wire::Tcp(stream) = &self.wire {
            socket2::SockRef::from(stream)
                .set_linger(Some(Duration::ZERO))
                .unwrap();
        }
    }
}

/// A frame of RESP2 or RESP3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    NilBulk,
    NilArray,
    Null,
    Array(Vec<Self>),
    Set(Vec<Self>),
    Push(Vec<Self>),
    Map(Vec<(Self, Self)>),
    Attribute(Vec<(Self, Self)>, Box<Self>),
    Double(String),
    Boolean(bool),
    BigNumber(String),
    Verbatim(Vec<u8>),
    BulkError(Vec<u8>),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simple(text) => write!(f, "+{text}"),
            Self::Error(text) => write!(f, "-{text}"),
            Self::Integer(number) => write!(f, ":{number}"),
            Self::Bulk(bytes) => write!(f, "${}", String::from_utf8_lossy(bytes)),
            Self::NilBulk => f.write_str("$-1"),
            Self::NilArray => f.write_str("*-1"),
            Self::Null => f.write_str("_"),
            Self::Array(items) => list(f, "*[", items),
            Self::Set(items) => list(f, "~[", items),
            Self::Push(items) => list(f, ">[", items),
            Self::Map(pairs) => map(f, "%{", pairs),
            Self::Attribute(pairs, value) => {
                map(f, "|{", pairs)?;
                write!(f, " {value}")
            }
            Self::Double(text) => write!(f, ",{text}"),
            Self::Boolean(yes) => f.write_str(if *yes { "#t" } else { "#f" }),
            Self::BigNumber(text) => write!(f, "({text}"),
            Self::Verbatim(bytes) => write!(f, "={}", String::from_utf8_lossy(bytes)),
            Self::BulkError(bytes) => write!(f, "!{}", String::from_utf8_lossy(bytes)),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, open: &str, items: &[Value]) -> fmt::Result {
    f.write_str(open)?;
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{item}")?;
    }
    f.write_str("]")
}

fn map(f: &mut fmt::Formatter<'_>, open: &str, pairs: &[(Value, Value)]) -> fmt::Result {
    f.write_str(open)?;
    for (index, (key, value)) in pairs.iter().enumerate() {
        if index > 0 {
            f.write_str(", ")?;
        }
        write!(f, "{key}: {value}")?;
    }
    f.write_str("}")
}

fn bad(what: &str) -> io::Error {
    io::Error::other(format!("not RESP: {what}"))
}

fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
