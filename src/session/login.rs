//! AUTH and HELLO as Redis reads them (rules S-6 to S-8); nothing of them reaches Redis as the client sent it (rule 8).

use bytes::{Bytes, BytesMut};

use crate::auth::{AuthFailure, Identity};
use crate::resp::{Args, encode};

use super::client::ReplyMode;
use super::refusal::{self, TOO_LONG};
use super::state::Effect;
use super::{Action, Closing, Expect, Note, Request, Session};

/// Credentials that a client offers.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// User name; `default` when only a password was given.
    pub user: &'a [u8],
    /// The password. Never logged.
    pub password: &'a [u8],
    /// The rest of HELLO, to go on with when the login succeeds.
    pub hello: Option<Hello<'a>>,
}

/// A HELLO that has been read whole and found right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// 2 or 3; `None`: HELLO alone.
    pub version: Option<u8>,
    /// SETNAME.
    pub name: Option<&'a [u8]>,
}

impl Session {
    pub(super) fn auth<'a>(
        &mut self,
        args: Args<'a>,
        out: &mut BytesMut,
        note: &mut Option<Note>,
    ) -> Action<'a> {
        if self.may_be_unsubscribing() {
            return Action::Wait;
        }
        if let Some(refusal) = self.no_login_now("auth") {
            return self.refuse(&refusal, out);
        }
        match read_auth(&args) {
            Ok(login) => Action::Login(login),
            Err(text) => {
                *note = Some(Note::Malformed);
                self.refuse(text, out)
            }
        }
    }

    pub(super) fn hello<'a>(
        &mut self,
        request: Request<'a>,
        out: &mut BytesMut,
        note: &mut Option<Note>,
    ) -> Action<'a> {
        if self.may_be_unsubscribing() {
            return Action::Wait;
        }
        if let Some(refusal) = self.no_login_now("hello") {
            return self.refuse(&refusal, out);
        }
        match read_hello(&request.args, request.whole) {
            Ok((_, Some(login))) => Action::Login(login),
            Ok((hello, None)) if self.identity.is_some() => self.greet(&hello),
            Ok(_) => {
                if !std::mem::replace(&mut self.no_credentials_noted, true) {
                    *note = Some(Note::NoCredentials);
                }
                self.refuse(refusal::HELLO_NOAUTH, out)
            }
            Err(text) => {
                if self.identity.is_none() {
                    *note = Some(Note::Malformed);
                }
                self.refuse(&text, out)
            }
        }
    }

    /// Whether a subscriber may be none any more when all is answered.
    fn may_be_unsubscribing(&self) -> bool {
        self.state.subscribed() && !self.pending.is_empty()
    }

    /// Where AUTH and HELLO are errors although the client may be known: inside MULTI (S-4), for a RESP2 subscriber
    /// (S-10), without replies, and beside a monitor.
    fn no_login_now(&self, name: &str) -> Option<String> {
        if self.state.multi {
            Some(format!(
                "ERR keyward: {} is not allowed inside MULTI",
                name.to_ascii_uppercase()
            ))
        } else if self.reply_mode != ReplyMode::On {
            Some(format!(
                "ERR keyward: {} is not allowed while replies are off",
                name.to_ascii_uppercase()
            ))
        } else if self.state.monitor {
            Some(refusal::MONITORING.to_owned())
        } else if self.state.subscribed() && !self.state.resp3() {
            Some(refusal::subscribed(name))
        } else {
            None
        }
    }

    /// HELLO of a client that is logged in: goes upstream without its AUTH clause, and without a name if the connection
    /// is going to serve others.
    fn greet(&self, hello: &Hello<'_>) -> Action<'static> {
        let request = hello.request(!self.rules.sharing);
        let effect = hello.effect();
        if self.rules.sharing && self.pinned().is_none() && self.pending.is_empty() {
            return Action::Greet { request, effect };
        }
        Action::Substitute {
            request,
            expect: Expect::Reply(effect),
        }
    }

    /// The credentials were right.
    pub fn logged_in(
        &mut self,
        identity: Identity,
        hello: Option<&Hello<'_>>,
        out: &mut BytesMut,
    ) -> Action<'static> {
        if !identity.user.observe && !identity.user.may_use_database(self.state.db()) {
            // The connection works on another user's database, and a login does not change that.
            self.dismiss(refusal::DATABASE, Closing::Rejected, out);
            return Action::Answered;
        }
        self.identity = Some(identity);
        // Whoever is known is no stranger: after a RESET the count begins anew.
        self.commands = 0;
        match hello {
            Some(hello) => self.greet(hello),
            None => {
                self.pending.answer(b"+OK\r\n", out);
                Action::Answered
            }
        }
    }

    /// The credentials were wrong; the connection stays what it was (S-9) unless this was one too many.
    pub fn login_refused(&mut self, failure: &AuthFailure, out: &mut BytesMut) {
        let mut reply = BytesMut::new();
        encode::error(&mut reply, failure.reply());
        self.pending.answer(&reply, out);
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.rules.max_failures {
            self.closing = Some(Closing::Guessing);
        }
    }
}

/// AUTH [user] password, or the error that Redis answers.
fn read_auth<'a>(args: &Args<'a>) -> Result<Login<'a>, &'static str> {
    let (user, password) = match args.announced() {
        2 => (Some(DEFAULT_USER), args.get(1)),
        3 => (args.get(1), args.get(2)),
        _ => return Err(SYNTAX_ERROR),
    };
    match (user, password) {
        (Some(user), Some(password)) => Ok(Login {
            user,
            password,
            hello: None,
        }),
        // Arguments beyond the head of a request: no such user, no such password.
        _ => Err(TOO_LONG),
    }
}

/// HELLO [version [AUTH user password] [SETNAME name]], whole and checked before anything is done (S-7).
fn read_hello<'a>(args: &Args<'a>, whole: bool) -> Result<(Hello<'a>, Option<Login<'a>>), String> {
    if !whole {
        return Err(TOO_LONG.to_owned());
    }
    let mut words = args.iter().skip(1);
    let mut hello = Hello {
        version: None,
        name: None,
    };
    let Some(version) = words.next() else {
        return Ok((hello, None));
    };
    hello.version = Some(match crate::resp::parse_integer(version) {
        Some(2) => 2,
        Some(3) => 3,
        Some(_) => return Err("NOPROTO unsupported protocol version".to_owned()),
        None => return Err("ERR Protocol version is not an integer or out of range".to_owned()),
    });
    let mut login = None;
    // Arguments behind the version.
    let mut rest = args.announced().saturating_sub(2);
    while let Some(option) = words.next() {
        rest = rest.saturating_sub(1);
        if option.eq_ignore_ascii_case(b"AUTH") && rest >= 2 {
            let (Some(user), Some(password)) = (words.next(), words.next()) else {
                return Err(TOO_LONG.to_owned());
            };
            rest = rest.saturating_sub(2);
            // 7.0 runs the clauses in order and 8.x uses the last: whoever writes two means mischief (S-6).
            if login.replace((user, password)).is_some() {
                return Err("ERR Syntax error in HELLO: AUTH is given twice".to_owned());
            }
        } else if option.eq_ignore_ascii_case(b"SETNAME") && rest >= 1 {
            let Some(name) = words.next() else {
                return Err(TOO_LONG.to_owned());
            };
            rest = rest.saturating_sub(1);
            if !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
                return Err(
                    "ERR Client names cannot contain spaces, newlines or special characters.".to_owned(),
                );
            }
            hello.name = Some(name);
        } else {
            return Err(format!(
                "ERR Syntax error in HELLO option '{}'",
                super::printable(option, 128)
            ));
        }
    }
    Ok((
        hello,
        login.map(|(user, password)| Login {
            user,
            password,
            hello: Some(hello),
        }),
    ))
}

impl Hello<'_> {
    /// The HELLO that goes upstream: never with AUTH.
    pub(super) fn request(&self, named: bool) -> Bytes {
        let mut out = BytesMut::new();
        match (self.version, self.name.filter(|_| named)) {
            (None, _) => encode::request(&mut out, &[b"HELLO"]),
            (Some(version), None) => encode::request(&mut out, &[b"HELLO", version_word(version)]),
            (Some(version), Some(name)) => {
                encode::request(&mut out, &[b"HELLO", version_word(version), b"SETNAME", name]);
            }
        }
        out.freeze()
    }

    pub(super) fn effect(&self) -> Effect {
        Effect::Hello {
            resp3: self.version.map(|version| version == 3),
            name: self.name.map(Bytes::copy_from_slice),
        }
    }
}

fn version_word(version: u8) -> &'static [u8] {
    if version == 3 { b"3" } else { b"2" }
}

/// Who logs in with a password alone (S-8).
pub const DEFAULT_USER: &[u8] = b"default";

const SYNTAX_ERROR: &str = "ERR syntax error";
