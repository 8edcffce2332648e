//! A look at a server, for `keyward doctor`: how far the way of a client's connection goes, what the server says of
//! itself, and what somebody without a credential is told. Nothing is written, and no connection is kept.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis_protocol::resp2::types::BytesFrame;
use tokio::time::timeout;

use super::dial::Steps;
use super::handshake::{self, Pong};
use super::{AuthRefusal, DialError, Login, NoCounters, Upstream};
use crate::config;
use crate::config::{UpstreamAddress, UpstreamTls};
use crate::net::Stream;
use crate::tls::{CertificateFacts, peer_facts};

/// How far a connection got, and what was learned on it.
#[derive(Debug, Clone, Default)]
pub struct Visit {
    /// The way.
    pub steps: Steps,
    /// What its TLS showed, the leaf first.
    pub certificates: Vec<CertificateFacts>,
    /// Redis took the credential, or needs none, and selected the database.
    pub logged_in: bool,
    /// It answered PING; with the code when it is up but takes no commands (LOADING, MASTERDOWN, BUSY).
    pub pong: Option<Result<(), String>>,
    /// What ended the visit early.
    pub error: Option<DialError>,
    /// What it says of itself.
    pub server: ServerFacts,
}

/// What a server says of itself, as far as the login may ask.
#[derive(Debug, Clone, Default)]
pub struct ServerFacts {
    /// The fields of HELLO (server, version, mode, role), which needs no permission; empty before Redis 6.
    pub hello: BTreeMap<String, String>,
    /// The fields of INFO's sections server, clients, memory, persistence and replication.
    pub info: BTreeMap<String, String>,
    /// Some settings, from CONFIG GET.
    pub settings: BTreeMap<String, String>,
    /// Flags of the user `default`: on, nopass, and so on.
    pub default_user: Option<Vec<String>>,
    /// Its clock against ours.
    pub clock: Option<Skew>,
}

/// One clock against another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Skew {
    /// How far the server's is ahead, in milliseconds; negative: behind.
    pub ahead_ms: i64,
    /// How long the question took, which is how wrong that may be.
    pub round_trip: Duration,
}

/// What happens to those who say nothing about themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    /// They are let in, as the user `default`.
    LetIn(Rights),
    /// They are asked for a password.
    PasswordWanted,
    /// They are sent away, because they are not of the server's own host.
    ProtectedMode,
}

/// What a server would run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights {
    /// GET.
    pub reads: bool,
    /// SET.
    pub writes: bool,
    /// FLUSHALL.
    pub empties: bool,
}

impl Upstream {
    /// Goes the way of a client's connection with this login, within its time limits, and tells in `visit` how far it got;
    /// with `curious`, also what the server says of itself.
    pub async fn visit(&self, login: &Login, curious: bool, visit: &mut Visit) {
        let stream = match self.reach(&mut visit.steps).await {
            Ok(stream) => stream,
            Err(error) => {
                visit.error = Some(error);
                return;
            }
        };
        visit.certificates = peer_facts(&stream);
        let mut stream = match self.log_in(login, stream).await {
            Ok(stream) => stream,
            Err(error) => {
                visit.error = Some(error);
                return;
            }
        };
        visit.logged_in = true;
        match answered(handshake::ping(&mut stream)).await {
            Ok(Pong::Ready) => visit.pong = Some(Ok(())),
            Ok(Pong::NotReady(code)) => visit.pong = Some(Err(code)),
            Err(error) => {
                visit.error = Some(error);
                return;
            }
        }
        if curious {
            // Whatever it does not tell stays unknown.
            let _: Result<(), DialError> = visit.server.ask(&mut stream).await;
        }
    }

    /// What somebody without a credential is told at this address, with the same TLS.
    ///
    /// # Errors
    /// [`DialError`]: nobody got as far as that.
    pub async fn as_stranger(&self) -> Result<Welcome, DialError> {
        let mut stream = self.reach(&mut Steps::default()).await?;
        answered(greet(&mut stream)).await
    }

    /// The same server at another address, or with other TLS.
    ///
    /// # Errors
    /// [`DialError::Io`]: the TLS settings cannot be used.
    pub fn elsewhere(&self, address: UpstreamAddress, tls: Option<UpstreamTls>) -> Result<Self, DialError> {
        let section = config::Upstream {
            address,
            tls,
            username: None,
            credential: None,
            connect_timeout: self.section.connect_timeout.min(PATIENCE),
            ..self.section.clone()
        };
        Self::new(&section, &|_| None, Arc::new(NoCounters)).map_err(|error| DialError::Io(error.to_string()))
    }
}

/// What a connection without a credential is told.
async fn greet(stream: &mut Stream) -> Result<Welcome, DialError> {
    match handshake::welcome(stream).await {
        Ok(()) => {}
        Err(DialError::ProtectedMode) => return Ok(Welcome::ProtectedMode),
        Err(DialError::Auth {
            refusal: AuthRefusal::PasswordRequired,
            ..
        }) => return Ok(Welcome::PasswordWanted),
        Err(error) => return Err(error),
    }
    // Queued and dropped; and FLUSHALL with this word would be a syntax error even if it ran.
    let requests = [
        vec![b"GET" as &[u8], FILLER],
        vec![b"SET", FILLER, FILLER],
        vec![b"FLUSHALL", FILLER],
    ];
    let verdicts = handshake::would_run(stream, &requests).await?;
    // A user who may not even open a transaction is restricted by somebody who knows what a user is.
    let may = |number: usize| {
        verdicts
            .as_ref()
            .is_some_and(|verdicts| verdicts.get(number).copied().unwrap_or(false))
    };
    Ok(Welcome::LetIn(Rights {
        reads: may(0),
        writes: may(1),
        empties: may(2),
    }))
}

impl ServerFacts {
    async fn ask(&mut self, stream: &mut Stream) -> Result<(), DialError> {
        if let Some(frame) = told(stream, &[b"HELLO"]).await? {
            self.hello = pairs(frame);
        }
        for section in [
            b"server" as &[u8],
            b"clients",
            b"memory",
            b"persistence",
            b"replication",
        ] {
            // Refused once, refused always: no need to fill ACL LOG.
            let Some(frame) = told(stream, &[b"INFO", section]).await? else {
                break;
            };
            self.info.extend(fields(&text(&frame).unwrap_or_default()));
        }
        let before = SystemTime::now();
        if let Some(frame) = told(stream, &[b"TIME"]).await? {
            self.clock = skew(&frame, before, SystemTime::now());
        }
        for setting in [b"save" as &[u8], b"maxmemory", b"maxmemory-policy"] {
            let Some(frame) = told(stream, &[b"CONFIG", b"GET", setting]).await? else {
                break;
            };
            self.settings.extend(pairs(frame));
        }
        if let Some(BytesFrame::Array(frames)) = told(stream, &[b"ACL", b"GETUSER", b"default"]).await? {
            // Nothing but the flags is looked at: digests of passwords stand beside them.
            let mut frames = frames.into_iter();
            while let (Some(name), Some(value)) = (frames.next(), frames.next()) {
                if text(&name).as_deref() == Some("flags")
                    && let BytesFrame::Array(flags) = value
                {
                    self.default_user = Some(flags.iter().filter_map(text).collect());
                }
            }
        }
        Ok(())
    }
}

/// What it answers; `None` when it refuses to.
async fn told(stream: &mut Stream, arguments: &[&[u8]]) -> Result<Option<BytesFrame>, DialError> {
    let answer = answered(handshake::exchange(stream, arguments, MAX_ANSWER)).await?;
    Ok((!matches!(answer, BytesFrame::Error(_))).then_some(answer))
}

/// With the time limit of one question.
async fn answered<T>(asking: impl Future<Output = Result<T, DialError>>) -> Result<T, DialError> {
    timeout(PATIENCE, asking)
        .await
        .unwrap_or(Err(DialError::AuthTimeout(PATIENCE)))
}

fn text(frame: &BytesFrame) -> Option<String> {
    match frame {
        BytesFrame::SimpleString(bytes) | BytesFrame::BulkString(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
        BytesFrame::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Names and values by turns; values that are no text are left out.
fn pairs(frame: BytesFrame) -> BTreeMap<String, String> {
    let BytesFrame::Array(frames) = frame else {
        return BTreeMap::new();
    };
    let named = frames.chunks_exact(2).filter_map(|pair| match pair {
        [name, value] => Some((text(name)?, text(value)?)),
        _ => None,
    });
    named.collect()
}

/// The lines `name:value` of INFO.
fn fields(info: &str) -> BTreeMap<String, String> {
    let lines = info.lines().filter_map(|line| line.split_once(':'));
    lines
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

fn skew(frame: &BytesFrame, before: SystemTime, after: SystemTime) -> Option<Skew> {
    let BytesFrame::Array(frames) = frame else {
        return None;
    };
    let number = |frame: Option<&BytesFrame>| text(frame?)?.parse::<i64>().ok();
    let seconds = number(frames.first())?;
    let theirs = seconds
        .checked_mul(1000)?
        .checked_add(number(frames.get(1))? / 1000)?;
    let round_trip = after.duration_since(before).unwrap_or_default();
    let ours = before.duration_since(UNIX_EPOCH).ok()? + round_trip / 2;
    Some(Skew {
        ahead_ms: theirs.checked_sub(i64::try_from(ours.as_millis()).ok()?)?,
        round_trip,
    })
}

/// Longest answer: a section of INFO has some 3 KiB.
const MAX_ANSWER: usize = 64 * 1024;
/// For one question.
const PATIENCE: Duration = Duration::from_secs(3);
/// Neither a number nor an option of anything, and no key that anybody uses.
const FILLER: &[u8] = b"keyward-probe";

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> BytesFrame {
        BytesFrame::BulkString(text.to_owned().into())
    }

    #[test]
    fn clocks_are_compared_at_the_middle_of_the_question() {
        let before = UNIX_EPOCH + Duration::from_secs(1_000);
        let after = before + Duration::from_secs(2);
        let answer = |seconds: &str, micros: &str| BytesFrame::Array(vec![bulk(seconds), bulk(micros)]);
        let found = skew(&answer("1001", "0"), before, after).unwrap();
        assert_eq!((found.ahead_ms, found.round_trip), (0, Duration::from_secs(2)));
        assert_eq!(
            skew(&answer("1011", "500000"), before, after).unwrap().ahead_ms,
            10_500
        );
        assert_eq!(
            skew(&answer("901", "0"), before, after).unwrap().ahead_ms,
            -100_000
        );
        for strange in [
            answer("x", "0"),
            answer("9223372036854775807", "0"),
            BytesFrame::Array(Vec::new()),
            bulk("1001"),
        ] {
            assert_eq!(skew(&strange, before, after), None, "{strange:?}");
        }
    }

    #[test]
    fn answers_of_any_shape_are_read_as_far_as_they_make_sense() {
        let frame = BytesFrame::Array(vec![
            bulk("version"),
            bulk("7.0.15"),
            bulk("proto"),
            BytesFrame::Integer(2),
            bulk("modules"),
            BytesFrame::Array(Vec::new()),
            bulk("alone"),
        ]);
        let read = pairs(frame);
        assert_eq!(read.len(), 2);
        assert_eq!(
            (read["version"].as_str(), read["proto"].as_str()),
            ("7.0.15", "2")
        );
        assert!(pairs(bulk("x")).is_empty());
        let read = fields("# Server\r\nredis_version:7.0.15\r\nexecutable:/usr/bin:x\r\n");
        assert_eq!(read["redis_version"], "7.0.15");
        assert_eq!(read["executable"], "/usr/bin:x");
    }
}
