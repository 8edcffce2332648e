//! Logging in: AUTH and SELECT on a fresh connection, and nothing left over behind them.
//!
//! Every answer is framed by our own bounded scanner first; redis-protocol then decodes one complete, short frame
//! (rule 10). One question at a time, so that an answer is never taken for another's.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Buf, Bytes, BytesMut};
use redis_protocol::resp2::decode::decode_bytes;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use zeroize::Zeroizing;

use super::credential::{CredentialStore, Passwords};
use super::{AuthRefusal, DialError, Login, Upstream};
use crate::net::Stream;
use crate::resp::{ReplyError, ReplyScan, ReplyScanner};
use crate::secret::Secret;
use crate::tls::{ConnectFailure, TlsReason};

/// Logs in and selects the database. TLS, if any, is verified by now; before that nothing of this runs.
pub(super) async fn log_in(upstream: &Upstream, login: &Login, stream: &mut Stream) -> Result<(), DialError> {
    let mut link = Link::new(stream);
    link.check_greeting().await?;
    match &login.store {
        Some(store) => authenticate(upstream, login, store, &mut link).await?,
        None => check_open(&mut link).await?,
    }
    if upstream.database() != 0 {
        select(upstream.database(), &mut link).await?;
    }
    link.finish()
}

/// Sends AUTH once, on a connection that has just been opened: whether Redis took the password.
pub(super) async fn log_in_with(
    stream: &mut Stream,
    user: Option<&str>,
    password: &Secret,
) -> Result<bool, DialError> {
    let mut link = Link::new(stream);
    link.check_greeting().await?;
    let taken = try_password(user, password, &mut link).await?;
    link.finish()?;
    Ok(taken)
}

/// Sends one request; the whole answer, of at most `most` bytes.
pub(super) async fn exchange(
    stream: &mut Stream,
    arguments: &[&[u8]],
    most: usize,
) -> Result<BytesFrame, DialError> {
    let mut link = Link::new(stream);
    let frame = link.ask_frame(arguments, most).await?;
    link.finish()?;
    match decode_bytes(&frame) {
        Ok(Some((frame, _))) => Ok(frame),
        Ok(None) | Err(_) => Err(DialError::Protocol("its answer is malformed")),
    }
}

/// Asks an authenticated connection for a sign of life.
pub(super) async fn ping(stream: &mut Stream) -> Result<Pong, DialError> {
    let mut link = Link::new(stream);
    let reply = link.ask(&[b"PING"]).await?;
    link.finish()?;
    match reply {
        Reply::Simple(text) if text.as_ref() == b"PONG" => Ok(Pong::Ready),
        Reply::Error(code) if code == "NOAUTH" => Err(DialError::Closed),
        // -LOADING, -MASTERDOWN, -BUSY: up, but not ready (F-8 to F-10). Anything else is an answer as well.
        Reply::Error(code) if is_not_ready(&code) => Ok(Pong::NotReady(code)),
        Reply::Error(_) => Ok(Pong::Ready),
        Reply::Simple(_) | Reply::Other => Err(DialError::Protocol("PING was not answered by PONG")),
    }
}

/// What a server that is up said to PING.
pub(super) enum Pong {
    /// It takes commands.
    Ready,
    /// It does not yet, or not now; the code says why.
    NotReady(String),
}

/// Asks whether the server would run these requests, without having it run any: they are queued in a transaction that is
/// dropped (C-9). `None`: it cannot be asked in this way.
///
/// Nothing that could do harm is sent before a PING has shown that the server queues what comes.
pub(super) async fn would_run(
    stream: &mut Stream,
    requests: &[Vec<&[u8]>],
) -> Result<Option<Vec<bool>>, DialError> {
    let mut link = Link::new(stream);
    match link.ask(&[b"MULTI"]).await? {
        Reply::Simple(text) if text.as_ref() == b"OK" => {}
        _ => return Ok(None),
    }
    match link.ask(&[b"PING"]).await? {
        Reply::Simple(text) if text.as_ref() == b"QUEUED" => {}
        // Who refuses by an ACL inside of a transaction knows both.
        Reply::Error(code) if code == "NOPERM" => {}
        _ => return Ok(None),
    }
    let mut verdicts = Vec::with_capacity(requests.len());
    for batch in requests.chunks(ASKED_AT_ONCE) {
        for reply in link.ask_all(batch).await? {
            verdicts.push(match reply {
                Reply::Simple(text) if text.as_ref() == b"QUEUED" => true,
                Reply::Error(code) => is_behind_the_acl(&code),
                Reply::Simple(_) | Reply::Other => {
                    return Err(DialError::Protocol(
                        "a request inside MULTI was not answered by QUEUED",
                    ));
                }
            });
        }
    }
    // Should it be refused, the end of the connection does the same.
    link.ask(&[b"DISCARD"]).await?;
    Ok(Some(verdicts))
}

/// Errors that a server gives only to those whose permission to run the command it has found.
fn is_behind_the_acl(code: &str) -> bool {
    matches!(
        code,
        KEY_DENIED
            | "READONLY"
            | "MOVED"
            | "ASK"
            | "TRYAGAIN"
            | "CLUSTERDOWN"
            | "CROSSSLOT"
            | "OOM"
            | "MISCONF"
            | "NOREPLICAS"
    ) || is_not_ready(code)
}

/// Sends AUTH with each password until one is taken; reads the secret again once when all are refused (F-16).
async fn authenticate(
    upstream: &Upstream,
    login: &Login,
    store: &CredentialStore,
    link: &mut Link<'_>,
) -> Result<(), DialError> {
    let user = login.username();
    if try_passwords(user, &store.current(), link).await? {
        return Ok(());
    }
    // A credential that cannot be read again is as good as one that has not changed; the refusal says it all.
    let changed = store.reload().await.unwrap_or(false);
    if changed {
        upstream.credential_changed(login, store);
    }
    // Of two, the one that was refused first may have come into force while the other was tried: Redis was being rotated.
    if (changed || store.current().are_two()) && try_passwords(user, &store.current(), link).await? {
        return Ok(());
    }
    Err(DialError::Auth {
        refusal: AuthRefusal::WrongPassword,
        detail: store.describe(),
    })
}

/// `true` when Redis took one of the passwords, `false` when it answered WRONGPASS to all of them.
async fn try_passwords(
    user: Option<&str>,
    passwords: &Passwords,
    link: &mut Link<'_>,
) -> Result<bool, DialError> {
    for (number, password) in passwords.in_order() {
        if try_password(user, password, link).await? {
            passwords.prefer(number);
            return Ok(true);
        }
    }
    Ok(false)
}

/// Sends AUTH: `true` when Redis took the password, `false` when it answered WRONGPASS.
async fn try_password(user: Option<&str>, password: &Secret, link: &mut Link<'_>) -> Result<bool, DialError> {
    let reply = match user {
        Some(user) => link.ask(&[b"AUTH", user.as_bytes(), password.expose()]).await?,
        None => link.ask(&[b"AUTH", password.expose()]).await?,
    };
    let refused = |refusal, detail: &str| DialError::Auth {
        refusal,
        detail: detail.to_owned(),
    };
    match reply {
        Reply::Simple(text) if text.as_ref() == b"OK" => Ok(true),
        Reply::Simple(_) | Reply::Other => Err(DialError::Protocol(
            "AUTH was answered by something else than OK or an error",
        )),
        Reply::Error(code) => match code.as_str() {
            "WRONGPASS" => Ok(false),
            NO_PASSWORD_SET => Err(refused(
                AuthRefusal::NoPasswordSet,
                "it answered AUTH with an error",
            )),
            "NOPERM" => Err(refused(AuthRefusal::NoPermission, "its user needs +auth")),
            code if is_not_ready(code) => Err(DialError::NotReady(code.to_owned())),
            code => Err(refused(AuthRefusal::Other, code)),
        },
    }
}

/// Whether it lets in somebody who says nothing about himself; the error is its refusal.
pub(super) async fn welcome(stream: &mut Stream) -> Result<(), DialError> {
    let mut link = Link::new(stream);
    link.check_greeting().await?;
    check_open(&mut link).await?;
    link.finish()
}

/// Without a credential: whether the server wants one shows only in an answer.
async fn check_open(link: &mut Link<'_>) -> Result<(), DialError> {
    match link.ask(&[b"PING"]).await? {
        Reply::Error(code) if code == "NOAUTH" => Err(DialError::Auth {
            refusal: AuthRefusal::PasswordRequired,
            detail: "it answered NOAUTH".to_owned(),
        }),
        // Any other error is for the clients to see, in answer to their own commands.
        Reply::Error(_) => Ok(()),
        Reply::Simple(text) if text.as_ref() == b"PONG" => Ok(()),
        Reply::Simple(_) | Reply::Other => Err(DialError::Protocol("PING was not answered by PONG")),
    }
}

async fn select(database: u32, link: &mut Link<'_>) -> Result<(), DialError> {
    match link.ask(&[b"SELECT", database.to_string().as_bytes()]).await? {
        Reply::Simple(text) if text.as_ref() == b"OK" => Ok(()),
        Reply::Simple(_) | Reply::Other => Err(DialError::Protocol(
            "SELECT was answered by something else than OK or an error",
        )),
        Reply::Error(code) => match code.as_str() {
            "NOPERM" => Err(DialError::Auth {
                refusal: AuthRefusal::NoPermission,
                detail: "its user needs +select, or use database 0".to_owned(),
            }),
            "NOAUTH" => Err(DialError::Auth {
                refusal: AuthRefusal::PasswordRequired,
                detail: "it answered NOAUTH".to_owned(),
            }),
            code if is_not_ready(code) => Err(DialError::NotReady(code.to_owned())),
            _ => Err(DialError::Database(database)),
        },
    }
}

/// States of a server that pass.
fn is_not_ready(code: &str) -> bool {
    matches!(code, "LOADING" | "MASTERDOWN" | "BUSY")
}

/// An answer, as far as the handshake cares. Of an error only its code is kept; see [`DialError`].
enum Reply {
    Simple(Bytes),
    Error(String),
    Other,
}

/// A connection with one question under way at most.
struct Link<'a> {
    stream: &'a mut Stream,
    scanner: ReplyScanner,
    unread: BytesMut,
}

impl<'a> Link<'a> {
    fn new(stream: &'a mut Stream) -> Self {
        Self {
            stream,
            scanner: ReplyScanner::new(),
            unread: BytesMut::new(),
        }
    }

    /// A server that turns us away says so before it is asked (P-10). Takes what has arrived without waiting.
    async fn check_greeting(&mut self) -> Result<(), DialError> {
        let mut space = [0u8; 256];
        let mut buffer = ReadBuf::new(&mut space);
        let stream = &mut *self.stream;
        let arrived = poll_fn(|cx| match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending => Poll::Ready(None),
        })
        .await;
        match arrived {
            None => return Ok(()),
            Some(Err(error)) => return Err(io_error(&error)),
            Some(Ok(())) if buffer.filled().is_empty() => return Err(DialError::Closed),
            Some(Ok(())) => self.unread.extend_from_slice(buffer.filled()),
        }
        self.reply().await?;
        Err(DialError::Protocol("it spoke before it was asked"))
    }

    /// Sends requests, if all former ones have been answered and no more than these; the inner outcome is that of writing.
    async fn send(&mut self, requests: &[u8]) -> Result<io::Result<()>, DialError> {
        if !self.unread.is_empty() {
            return Err(DialError::Protocol("it sent more than it was asked for"));
        }
        let writing = async {
            self.stream.write_all(requests).await?;
            self.stream.flush().await
        };
        Ok(writing.await)
    }

    /// Sends one request and waits for its answer.
    async fn ask(&mut self, arguments: &[&[u8]]) -> Result<Reply, DialError> {
        decode(&self.ask_frame(arguments, MAX_REPLY).await?)
    }

    /// As [`Link::ask`], for the frame as it came, of at most so many bytes.
    async fn ask_frame(&mut self, arguments: &[&[u8]], most: usize) -> Result<Bytes, DialError> {
        let written = self.send(&encode(arguments)).await?;
        // Even when writing failed: why we were turned away may be waiting to be read.
        match (self.frame(most).await, written) {
            (Err(DialError::Closed | DialError::Io(_)), Err(error)) => Err(io_error(&error)),
            (frame, _) => frame,
        }
    }

    /// Sends several requests and waits for as many answers.
    async fn ask_all(&mut self, requests: &[Vec<&[u8]>]) -> Result<Vec<Reply>, DialError> {
        let mut bytes = Vec::new();
        for request in requests {
            bytes.extend_from_slice(&encode(request));
        }
        let written = self.send(&bytes).await?;
        written.map_err(|error| io_error(&error))?;
        let mut replies = Vec::with_capacity(requests.len());
        for _ in requests {
            replies.push(self.reply().await?);
        }
        Ok(replies)
    }

    /// Reads an answer of at most [`MAX_REPLY`].
    async fn reply(&mut self) -> Result<Reply, DialError> {
        decode(&self.frame(MAX_REPLY).await?)
    }

    /// Reads exactly one frame of at most `most` bytes.
    async fn frame(&mut self, most: usize) -> Result<Bytes, DialError> {
        let mut frame = BytesMut::new();
        loop {
            match self.scanner.scan(&self.unread) {
                Ok(ReplyScan::Piece { len, last, .. }) => {
                    frame.extend_from_slice(&self.unread.split_to(len.min(self.unread.len())));
                    if frame.len() > most {
                        return Err(DialError::Protocol("its answer is too long"));
                    }
                    if last {
                        return Ok(frame.freeze());
                    }
                }
                Ok(ReplyScan::Incomplete) => {
                    if frame.len().saturating_add(self.unread.len()) > most {
                        return Err(DialError::Protocol("its answer is too long"));
                    }
                    match self.stream.read_buf(&mut self.unread).await {
                        Ok(0) => return Err(DialError::Closed),
                        Ok(_) => {}
                        Err(error) => return Err(io_error(&error)),
                    }
                }
                Err(ReplyError::UnknownType(_)) if frame.is_empty() => {
                    return Err(DialError::NotRedis {
                        first: show_start(&self.unread),
                    });
                }
                Err(_) => return Err(DialError::Protocol("its answer is malformed")),
            }
        }
    }

    /// Nothing may be left when the connection is handed over (P-5, F-44).
    fn finish(self) -> Result<(), DialError> {
        if self.unread.has_remaining() || !self.scanner.is_idle() {
            return Err(DialError::Protocol("it sent more than it was asked for"));
        }
        Ok(())
    }
}

/// Decodes one complete frame. Refusals that have nothing to do with what was asked are errors at once.
fn decode(frame: &Bytes) -> Result<Reply, DialError> {
    let malformed = DialError::Protocol("its answer is malformed");
    match decode_bytes(frame) {
        Ok(Some((BytesFrame::SimpleString(text), _))) => Ok(Reply::Simple(text)),
        Ok(Some((BytesFrame::Error(text), _))) => {
            let text: &str = &text;
            if text.starts_with("ERR max number of clients") {
                return Err(DialError::MaxClients);
            }
            if text.starts_with("DENIED") {
                return Err(DialError::ProtectedMode);
            }
            Ok(Reply::Error(code(text).to_owned()))
        }
        Ok(Some(_)) => Ok(Reply::Other),
        Ok(None) | Err(_) => Err(malformed),
    }
}

/// The code of an error. Texts that Redis sends without a code of their own get one.
pub(super) fn code(text: &str) -> &str {
    let is = |start: &str| text.starts_with(start);
    if is("ERR AUTH <password> called without any password configured")
        // Redis before 6.
        || is("ERR Client sent AUTH, but no password is set")
    {
        return NO_PASSWORD_SET;
    }
    if is("ERR invalid password") || is("ERR invalid username-password pair") {
        return "WRONGPASS";
    }
    if is("NOPERM ") && (text.contains("access a key") || text.contains("one of the keys")) {
        return KEY_DENIED;
    }
    let word = text.split(' ').next().unwrap_or_default();
    let is_code = !word.is_empty() && word.len() <= 32 && word.bytes().all(|byte| byte.is_ascii_uppercase());
    if is_code { word } else { "ERR" }
}

/// A request in a buffer that is never moved and is wiped at drop: it may hold the password.
fn encode(arguments: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    // A length line has at most 23 bytes.
    let size = arguments
        .iter()
        .map(|argument| argument.len() + 25)
        .sum::<usize>()
        + 23;
    let mut request = Zeroizing::new(Vec::with_capacity(size));
    request.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        request.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        request.extend_from_slice(argument);
        request.extend_from_slice(b"\r\n");
    }
    request
}

/// With TLS 1.3 the server's verdict about our certificate arrives with the first read.
fn io_error(error: &io::Error) -> DialError {
    let failure = ConnectFailure::from_io(error);
    match (failure.reason, error.kind()) {
        (TlsReason::Eof, _) => DialError::Closed,
        (TlsReason::Other, kind) if kind != io::ErrorKind::InvalidData => DialError::Io(error.to_string()),
        _ => DialError::Tls(failure),
    }
}

/// At most 16 bytes, escaped.
fn show_start(bytes: &[u8]) -> String {
    bytes.get(..16).unwrap_or(bytes).escape_ascii().to_string()
}

/// Longest answer to AUTH, SELECT or PING; Redis's have less than 200 bytes.
const MAX_REPLY: usize = 4096;
/// Requests of [`would_run`] under way at once: some 4 KiB, less than any socket buffer.
const ASKED_AT_ONCE: usize = 64;
/// Our own code for a refusal because of a key: the command itself is permitted.
const KEY_DENIED: &str = "no permission for this key";
/// Our own code for Redis's answer to AUTH when it has no password.
const NO_PASSWORD_SET: &str = "no password set";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_known_by_their_code_and_never_quoted() {
        let cases = [
            (
                "WRONGPASS invalid username-password pair or user is disabled.",
                "WRONGPASS",
            ),
            ("ERR invalid password", "WRONGPASS"),
            (
                "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
                NO_PASSWORD_SET,
            ),
            ("ERR Client sent AUTH, but no password is set", NO_PASSWORD_SET),
            (
                "ERR unknown command 'AUTH', with args beginning with: 's3cret'",
                "ERR",
            ),
            ("LOADING Redis is loading the dataset in memory", "LOADING"),
            (
                "NOPERM this user has no permissions to run the 'keys' command",
                "NOPERM",
            ),
            (
                "NOPERM User kw has no permissions to run the 'keys' command",
                "NOPERM",
            ),
            ("NOPERM No permissions to access a key", KEY_DENIED),
            (
                "NOPERM this user has no permissions to access one of the keys used as arguments",
                KEY_DENIED,
            ),
            ("s3cret is wrong", "ERR"),
            ("", "ERR"),
        ];
        for (text, expected) in cases {
            assert_eq!(code(text), expected, "{text}");
        }
    }

    #[test]
    fn requests_are_encoded_without_growing() {
        let request = encode(&[b"AUTH", b"user", b"p\r\nw"]);
        assert_eq!(
            request.as_slice(),
            b"*3\r\n$4\r\nAUTH\r\n$4\r\nuser\r\n$4\r\np\r\nw\r\n"
        );
        let long = vec![b'x'; 5000];
        let arguments: Vec<&[u8]> = vec![b"AUTH", &long, &long];
        let size = arguments
            .iter()
            .map(|argument| argument.len() + 25)
            .sum::<usize>()
            + 23;
        assert!(encode(&arguments).len() <= size);
    }

    #[test]
    fn the_start_of_a_stranger_is_shown_short_and_escaped() {
        assert_eq!(show_start(b"HTTP/1.1 400 Bad Request\r\n"), "HTTP/1.1 400 Bad");
        assert_eq!(show_start(b"\x15\x03\x03\0\x02"), "\\x15\\x03\\x03\\x00\\x02");
    }
}
