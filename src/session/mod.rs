//! One client's conversation, as a state machine without I/O: requests in, decisions out; reply frames in, bytes out.
//!
//! ```text
//!               AUTH, HELLO AUTH                     RESET
//!   ┌─────────────┐ ───────► ┌───────────┐ ◄──────┐ ───────► (waits until nothing is outstanding, then unauthenticated)
//!   │ stranger    │          │ logged in │ ───────┘
//!   └─────────────┘          └───────────┘   QUIT ───────► closing
//! ```
//!
//! For each request the caller asks [`Session::request`] and does what the [`Action`] says; for each frame from upstream it
//! asks [`Session::frame_begins`] and tells [`Session::frame_ends`]. The session knows nothing of sockets or lanes: whether
//! its requests travel on a connection of its own or on a shared one is the caller's choice.
//!
//! Decisions are taken in Redis's order: known command and arity, then authentication, then the ACL.

mod login;
mod pending;
mod refusal;
mod state;
mod whoami;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::acl::{self, Class, Command, Resolved, Role};
use crate::auth::{AuthFailure, Identity};
use crate::resp::{Args, FrameKind, encode};

pub use login::{DEFAULT_USER, Hello, Login};
pub use pending::{Expect, Stamp};
pub use refusal::{Note, Surprise};
pub use state::{Effect, PinReason};

use pending::{Kind, Pending};
use refusal::printable;
use state::State;

/// Requests of one session that may wait for answers; above it no further request is read (L-26).
pub const MAX_OUTSTANDING: usize = 16_384;

/// A request as the scanner found it.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its arguments, as far as they are in the buffer.
    pub args: Args<'a>,
    /// `false`: only the head of a longer request.
    pub whole: bool,
    /// Requests before it have not been handed over to Redis yet.
    pub unsent: bool,
}

/// What to do with a request.
#[derive(Debug)]
pub enum Action<'a> {
    /// Send it upstream, then tell [`Session::forwarded`].
    Forward {
        /// The row of the command table.
        command: &'static Command,
        /// On which kind of lane.
        route: Route,
        /// What it brings.
        expect: Expect,
    },
    /// Drop it, send these bytes upstream instead, then tell [`Session::forwarded`].
    Substitute {
        /// A whole request.
        request: Bytes,
        /// What it brings.
        expect: Expect,
    },
    /// Drop it: it has been answered (or needs no answer).
    Answered,
    /// Drop it, check the credentials, then tell [`Session::logged_in`] or [`Session::login_refused`].
    Login(Login<'a>),
    /// Keep it and ask again when nothing is outstanding.
    Wait,
    /// Drop it and the lane: the client starts anew (the session has forgotten its login already).
    Reset,
    /// Answer nothing more and close.
    Close(Closing),
}

/// Why a session ends of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// QUIT (C-13).
    Quit,
    /// `POST` or `Host:`: a browser was made to speak to us (R-28).
    Http,
    /// Too many failed logins, or too many commands before login, on one connection (L-22).
    Guessing,
    /// A limit was reached at login, or what the connection shows is nobody's.
    Rejected,
    /// What the client sent is not RESP.
    Malformed,
}

/// Which kind of lane a request travels on. Everything outstanding is on one kind: a request for the other waits
/// until the replies before it have come, so that the order holds (DESIGN: order within a session).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// With the requests of other sessions of the same user.
    Shared,
    /// On a connection of the session's own.
    Own,
}

/// What becomes of the frame that begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Its bytes go to the client.
    Deliver,
    /// Its bytes are dropped.
    Drop,
}

/// Limits of a session.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Commands before login (L-22).
    pub max_commands: u32,
    /// Failed logins on this connection (L-22).
    pub max_failures: u32,
    /// Database that a fresh upstream connection is on.
    pub home_db: u32,
    /// Requests that leave nothing behind may travel on lanes that sessions share.
    pub sharing: bool,
    /// Bytes of the largest request that may.
    pub max_shared: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Session {
    rules: Rules,
    identity: Option<Identity>,
    /// Who the client is without AUTH, whom RESET returns to: the user of a listener without login, or the one that the
    /// connection itself shows.
    open: Option<Identity>,
    /// Commands so far of a client that has not logged in.
    commands: u32,
    failures: u32,
    /// A stranger's command before login is counted once a connection.
    no_credentials_noted: bool,
    pending: Pending,
    state: State,
    reply_mode: ReplyMode,
    /// The frame that is passing.
    current: Current,
    closing: Option<Closing>,
    /// Where everything outstanding travels.
    route: Route,
    /// The listener that the client is connected to.
    listener: Arc<str>,
    /// Another user's requests may travel on connections with another login.
    logins_differ: bool,
}

/// CLIENT REPLY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReplyMode {
    On,
    Off,
    /// Nothing for the next command.
    Skip,
}

/// What the frame that is passing belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Current {
    None,
    /// A push or a pub/sub message.
    Async,
    /// A confirmation that nobody asked for (a shard that moved, say).
    Unasked(acl::SubKind),
    /// The front of the queue; `applies`: a success whose effect counts.
    Reply {
        applies: bool,
    },
    /// A confirmation at the front of the queue.
    Confirmation(acl::SubKind),
    /// An error that ends all confirmations of the front.
    NoConfirmation,
}

impl Session {
    /// A session of a client that has said nothing yet; `open` is who it is without AUTH.
    pub fn new(rules: Rules, open: Option<Identity>) -> Self {
        Self {
            rules,
            identity: open.clone(),
            open,
            commands: 0,
            failures: 0,
            no_credentials_noted: false,
            pending: Pending::default(),
            state: State::at(rules.home_db),
            reply_mode: ReplyMode::On,
            current: Current::None,
            closing: None,
            route: Route::Own,
            listener: Arc::default(),
            logins_differ: false,
        }
    }

    /// The same at the listener of this name.
    #[must_use]
    pub fn at_listener(mut self, name: &Arc<str>) -> Self {
        self.listener = Arc::clone(name);
        self
    }

    /// Whether connections to Redis differ in their login, so that another user needs another one.
    pub fn set_logins_differ(&mut self, differ: bool) {
        self.logins_differ = differ;
    }

    /// Whom RESET returns to, after a reload.
    pub fn set_open(&mut self, open: Option<Identity>) {
        self.open = open;
    }

    /// Who the client is, once it has logged in.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Puts the same user's new rules in force after a reload.
    ///
    /// `false`: they do not let the client listen to what it listens to, and it has to go, as in Redis.
    #[must_use]
    pub fn refresh_identity(&mut self, identity: Identity) -> bool {
        if self.state.multi
            && !self
                .identity
                .as_ref()
                .is_some_and(|old| same_rules(old, &identity))
        {
            self.state.stale = true;
        }
        let may_listen = self.state.listens_with().all(|name| {
            matches!(acl::resolve(name, None), Resolved::Command(command) if identity.user.may_run(command))
        });
        self.identity = Some(identity);
        may_listen
    }

    /// Whether every request has been answered.
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether the session may end now without taking anything from the client: nothing is outstanding, no
    /// transaction is open, and it listens to nothing (F-34).
    pub fn may_drain(&self) -> bool {
        self.pending.is_empty() && !self.is_listening() && !self.state.multi
    }

    /// Whether the client listens to messages that come unasked.
    pub fn is_listening(&self) -> bool {
        self.state.subscribed() || self.state.monitor
    }

    /// Whether a blocking command is outstanding: a client that leaves then must take its upstream connection along (S-14).
    pub fn has_blocking(&self) -> bool {
        self.pending.has_blocking()
    }

    /// Whether further requests may be read (L-26), and have not been ended by QUIT.
    pub fn takes_requests(&self) -> bool {
        self.closing.is_none() && self.pending.outstanding() < MAX_OUTSTANDING
    }

    /// Why the session ends once everything before has been answered.
    pub fn closing(&self) -> Option<Closing> {
        self.closing
    }

    /// Decides about one request; answers of ours go to `out` when it is their turn. `note` receives what is to be
    /// counted and audited.
    pub fn request<'a>(
        &mut self,
        request: Request<'a>,
        out: &mut BytesMut,
        note: &mut Option<Note>,
    ) -> Action<'a> {
        if self.identity.is_none() {
            self.commands = self.commands.saturating_add(1);
            if self.commands > self.rules.max_commands {
                return self.close_after_answers(Closing::Guessing);
            }
        }
        let args = request.args;
        let name = args.get(0).unwrap_or_default();
        let command = match acl::resolve(name, args.get(1)) {
            Resolved::Command(command) => command,
            Resolved::Container(container) if args.announced() < 2 => {
                return self.refuse(&refusal::arity(container.name), out);
            }
            Resolved::Container(container) => {
                *note = Some(Note::Unknown);
                return self.refuse(&refusal::unknown_subcommand(container.name, args.get(1)), out);
            }
            Resolved::Unknown if self.identity.is_none() && name == b"PROXY" => {
                // A PROXY header where none is expected: its address must not even look accepted (X-15).
                self.dismiss(refusal::PROXY_HEADER, Closing::Malformed, out);
                return Action::Answered;
            }
            Resolved::Unknown if self.identity.is_some() && name.eq_ignore_ascii_case(whoami::OURS) => {
                return self.ours(args, out);
            }
            Resolved::Unknown => {
                *note = Some(Note::Unknown);
                return self.refuse(&refusal::unknown_command(&args), out);
            }
        };
        if command.role == Role::Http {
            return self.close_now(Closing::Http);
        }
        if command.role == Role::Quit {
            if self.reply_mode == ReplyMode::On {
                self.pending.answer(b"+OK\r\n", out);
            }
            return self.close_after_answers(Closing::Quit);
        }
        let right_arity = right_arity(command.arity, args.announced());
        match command.role {
            // Also these say their arity first, and all three are open to strangers.
            Role::Auth | Role::Hello | Role::Reset if !right_arity => {
                return self.refuse(&refusal::arity(command.name), out);
            }
            // Another user's requests, and another version's, travel on other lanes.
            Role::Auth | Role::Hello if self.must_cross() => return Action::Wait,
            Role::Auth => return self.auth(args, out, note),
            Role::Hello => return self.hello(request, out, note),
            Role::Reset => return self.want_reset(request.unsent, out),
            _ => {}
        }
        let Some(identity) = &self.identity else {
            if !right_arity {
                return self.refuse(&refusal::arity(command.name), out);
            }
            if !std::mem::replace(&mut self.no_credentials_noted, true) {
                *note = Some(Note::NoCredentials);
            }
            // Redis words it differently for EXEC alone (`execCommandAbort`).
            let text = if command.role == Role::Exec {
                refusal::EXEC_NOAUTH
            } else {
                refusal::NOAUTH
            };
            return self.refuse(text, out);
        };
        match identity.user.check(command, args, request.whole) {
            Ok(_permit) => self.permitted(command, request, out),
            Err(_) if !right_arity => self.refuse(&refusal::arity(command.name), out),
            Err(denied) => {
                let reply = denied.reply(&identity.user.name);
                *note = Some(Note::Denied(denied));
                self.refuse(&reply, out)
            }
        }
    }

    /// A command that the ACL allows: what it does to the session.
    fn permitted<'a>(
        &mut self,
        command: &'static Command,
        request: Request<'a>,
        out: &mut BytesMut,
    ) -> Action<'a> {
        if self.state.monitor {
            // Its replies could not be told from the monitor's lines.
            return self.refuse(refusal::MONITORING, out);
        }
        let args = request.args;
        if command.role == Role::AclWhoAmI {
            return self.acl_whoami(args, out);
        }
        if self.rules.sharing {
            if matches!(
                command.role,
                Role::ClientSetName | Role::ClientSetInfo | Role::ClientGetName
            ) && self.route == Route::Own
                && !self.pending.is_empty()
            {
                // HELLO with a name may be among them.
                return Action::Wait;
            }
            if let Some(action) = self.client_names(command, args, out) {
                return action;
            }
            let route = match (self.route, self.route_of(command, &request)) {
                // Behind what is under way on the own lane it need not wait.
                (Route::Own, _) if !self.pending.is_empty() => Route::Own,
                (Route::Shared, Route::Own) if !self.pending.is_empty() => return Action::Wait,
                (_, route) => route,
            };
            self.route = route;
            if route == Route::Shared {
                return Action::Forward {
                    command,
                    route,
                    expect: Expect::Reply(Effect::None),
                };
            }
        }
        let skipped = self.reply_mode == ReplyMode::Skip;
        let mut expect = Expect::Reply(Effect::None);
        match command.role {
            // With arguments too many these are errors that change nothing.
            Role::Multi | Role::Exec | Role::Discard if !right_arity(command.arity, args.announced()) => {}
            Role::Multi => self.state.multi = true,
            Role::Exec | Role::Discard => {
                self.state.multi = false;
                self.state.watching = false;
                expect = Expect::Reply(Effect::EndsTransaction);
                let stale = std::mem::take(&mut self.state.stale);
                if stale && command.role == Role::Exec {
                    return self.abort();
                }
            }
            Role::Watch => self.state.watching = true,
            Role::Unwatch => {
                self.state.watching = false;
                expect = Expect::Reply(Effect::EndsTransaction);
            }
            Role::Subscribe(_) | Role::Unsubscribe(_) if self.state.multi => {
                return self.refuse(refusal::SUBSCRIBE_IN_MULTI, out);
            }
            Role::Subscribe(_) | Role::Unsubscribe(_) if self.reply_mode != ReplyMode::On => {
                return self.refuse(refusal::SUBSCRIBE_WITHOUT_REPLIES, out);
            }
            // Without a channel this is an arity error of Redis: one reply.
            Role::Subscribe(_) if args.announced() < 2 => {}
            Role::Subscribe(kind) => {
                let count = Some(args.announced().saturating_sub(1));
                expect = Expect::Confirmations {
                    kind,
                    unsubscribe: false,
                    count,
                };
            }
            Role::Unsubscribe(kind) => {
                let count = args.announced().checked_sub(1).filter(|count| *count > 0);
                expect = Expect::Confirmations {
                    kind,
                    unsubscribe: true,
                    count,
                };
            }
            Role::Monitor if self.state.multi => return self.refuse(refusal::MONITOR_IN_MULTI, out),
            Role::Monitor => {
                self.state.monitor = true;
                expect = Expect::Reply(Effect::Monitor);
            }
            Role::ClientReply if self.state.multi => return self.refuse(refusal::REPLY_IN_MULTI, out),
            // What it says must be known, or nobody could tell how many replies will come.
            Role::ClientReply if !request.whole => return self.refuse(refusal::TOO_LONG, out),
            // A RESP2 subscriber is refused by Redis, with a reply; who is one shows only when all is answered.
            Role::ClientReply if !self.pending.is_empty() => return Action::Wait,
            Role::ClientReply
                if self.state.subscribed()
                    && !self.state.resp3()
                    && right_arity(command.arity, args.announced()) =>
            {
                return self.refuse(&refusal::subscribed(command.name), out);
            }
            Role::ClientReply => return self.client_reply(command, args),
            // Inside a transaction it answers at once, there and in EXEC's reply.
            Role::Blocking if self.state.multi => {}
            Role::Blocking => expect = Expect::Reply(Effect::Blocking),
            Role::Script => self.state.stick(PinReason::Script),
            Role::ClientTracking => self.state.stick(PinReason::Tracking),
            Role::ClientNo | Role::ConnectionState => self.state.stick(PinReason::ConnectionState),
            // What a transaction does to them shows in EXEC's reply alone; better never replayed than replayed wrong.
            Role::Select | Role::ClientSetName | Role::ClientSetInfo if self.state.multi => {
                self.state.stick(PinReason::ConnectionState);
            }
            Role::Select => {
                if let Some(db) = args.get(1).and_then(crate::resp::parse_integer) {
                    expect = Expect::Reply(u32::try_from(db).map_or(Effect::None, Effect::Select));
                }
            }
            Role::ClientSetName => {
                if let Some(name) = args.get(2).filter(|name| name.len() <= MAX_REPLAYED) {
                    expect = Expect::Reply(Effect::SetName(Bytes::copy_from_slice(name)));
                }
            }
            Role::ClientSetInfo => {
                if let (Some(attribute), Some(value)) = (args.get(2), args.get(3))
                    && attribute.len().saturating_add(value.len()) <= MAX_REPLAYED
                {
                    let (attribute, value) =
                        (Bytes::copy_from_slice(attribute), Bytes::copy_from_slice(value));
                    expect = Expect::Reply(Effect::SetInfo(attribute, value));
                }
            }
            _ => {}
        }
        if self.reply_mode != ReplyMode::On {
            // What it changed cannot be seen, so it cannot be replayed either.
            self.state.stick(PinReason::NoReplies);
            expect = Expect::Nothing;
        }
        if skipped {
            self.reply_mode = ReplyMode::On;
        }
        match command.class {
            Class::Module => self.state.stick(PinReason::Module),
            Class::Admin => self.state.spent = true,
            _ => {}
        }
        Action::Forward {
            command,
            route: Route::Own,
            expect,
        }
    }

    /// Where a request may travel (rule 3b).
    fn route_of(&self, command: &Command, request: &Request<'_>) -> Route {
        let fits = request.whole && request.args.size() <= self.rules.max_shared;
        if command.class == Class::Shareable && fits && self.pinned().is_none() {
            Route::Shared
        } else {
            Route::Own
        }
    }

    /// Why the session needs a lane of its own at present, whatever it asks for next; `None`: it does not.
    pub fn pinned(&self) -> Option<PinReason> {
        if self.reply_mode != ReplyMode::On {
            return Some(PinReason::NoReplies);
        }
        self.state.pinned()
    }

    /// The session needs its own lane no longer: nothing is outstanding and nothing was left behind on it.
    pub fn may_release_lane(&self) -> bool {
        self.rules.sharing && self.pending.is_empty() && self.pinned().is_none()
    }

    /// The own lane is given back. `true`: it may serve another session, in the state of [`Session::lane_state`].
    pub fn release_lane(&mut self) -> bool {
        !std::mem::replace(&mut self.state.spent, false)
    }

    /// From now on the session keeps a lane of its own because its replies are big.
    pub fn pin_bulky(&mut self) {
        self.state.bulky = true;
    }

    /// Database and protocol version that the session's requests need.
    pub fn lane_state(&self) -> (u32, bool) {
        (self.state.db(), self.state.resp3())
    }

    /// CLIENT SETNAME, SETINFO and GETNAME, which would be about a connection that is not the session's: answered here,
    /// as Redis would, where lanes are shared.
    fn client_names(
        &mut self,
        command: &Command,
        args: Args<'_>,
        out: &mut BytesMut,
    ) -> Option<Action<'static>> {
        if self.state.multi
            || self.reply_mode != ReplyMode::On
            || !right_arity(command.arity, args.announced())
        {
            return None;
        }
        let answer = match command.role {
            Role::ClientSetName => self.state.set_name_checked(args.get(2)?),
            Role::ClientSetInfo => self.state.set_info_checked(args.get(2)?, args.get(3)?),
            Role::ClientGetName => Ok(()),
            _ => return None,
        };
        match answer {
            Ok(()) if command.role == Role::ClientGetName => {
                let mut reply = BytesMut::new();
                match self.state.name() {
                    Some(name) => encode::bulk(&mut reply, name),
                    None => encode::null(&mut reply, self.state.resp3()),
                }
                self.pending.answer(&reply, out);
                Some(Action::Answered)
            }
            Ok(()) => {
                self.pending.answer(b"+OK\r\n", out);
                Some(Action::Answered)
            }
            Err(text) => Some(self.refuse(text, out)),
        }
    }

    /// Whether the next request must wait for all replies, because it may need another lane than those before it.
    fn must_cross(&mut self) -> bool {
        let crossing = (self.rules.sharing || self.logins_differ) && !self.pending.is_empty();
        if !crossing {
            self.route = Route::Own;
        }
        crossing
    }

    /// An EXEC of requests that were allowed by rules of the past: Redis, who would check them again, is made to refuse
    /// it.
    fn abort(&mut self) -> Action<'static> {
        // As far as the queue of replies goes, a request of ours before the client's.
        let expect = if self.reply_mode == ReplyMode::On {
            self.pending.swallow(Effect::None);
            Expect::Reply(Effect::None)
        } else {
            Expect::Nothing
        };
        Action::Substitute {
            request: Bytes::from_static(refusal::POISONED_EXEC),
            expect,
        }
    }

    /// CLIENT REPLY ON | OFF | SKIP where an ACL allows it (S-12).
    fn client_reply(&mut self, command: &'static Command, args: Args<'_>) -> Action<'static> {
        self.state.stick(PinReason::NoReplies);
        let was = self.reply_mode;
        let word = args.get(2).filter(|_| args.announced() == 3).unwrap_or_default();
        // Redis compares option words as C strings: `OFF` is one too when a NUL and more follows it.
        let word = word.split(|byte| *byte == 0).next().unwrap_or_default();
        if word.eq_ignore_ascii_case(b"on") {
            self.reply_mode = ReplyMode::On;
            return Action::Forward {
                command,
                route: Route::Own,
                expect: Expect::Reply(Effect::None),
            };
        }
        if word.eq_ignore_ascii_case(b"off") {
            self.reply_mode = ReplyMode::Off;
        } else if word.eq_ignore_ascii_case(b"skip") {
            if was != ReplyMode::Off {
                self.reply_mode = ReplyMode::Skip;
            }
        } else {
            // A syntax error of Redis: one reply, unless replies are off or this is the one to skip.
            let expect = if was == ReplyMode::On {
                Expect::Reply(Effect::None)
            } else {
                Expect::Nothing
            };
            if was == ReplyMode::Skip {
                self.reply_mode = ReplyMode::On;
            }
            return Action::Forward {
                command,
                route: Route::Own,
                expect,
            };
        }
        Action::Forward {
            command,
            route: Route::Own,
            expect: Expect::Nothing,
        }
    }

    fn auth<'a>(&mut self, args: Args<'a>, out: &mut BytesMut, note: &mut Option<Note>) -> Action<'a> {
        if self.may_be_unsubscribing() {
            return Action::Wait;
        }
        if let Some(refusal) = self.no_login_now("auth") {
            return self.refuse(&refusal, out);
        }
        match login::auth(&args) {
            Ok(login) => Action::Login(login),
            Err(text) => {
                *note = Some(Note::Malformed);
                self.refuse(text, out)
            }
        }
    }

    fn hello<'a>(&mut self, request: Request<'a>, out: &mut BytesMut, note: &mut Option<Note>) -> Action<'a> {
        if self.may_be_unsubscribing() {
            return Action::Wait;
        }
        if let Some(refusal) = self.no_login_now("hello") {
            return self.refuse(&refusal, out);
        }
        match login::hello(&request.args, request.whole) {
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
        Action::Substitute {
            request: hello.request(!self.rules.sharing),
            expect: Expect::Reply(hello.effect()),
        }
    }

    /// The credentials were right.
    pub fn logged_in(
        &mut self,
        identity: Identity,
        hello: Option<&Hello<'_>>,
        out: &mut BytesMut,
    ) -> Action<'static> {
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

    /// An answer of ours that ends the session, such as a connection limit reached at login.
    pub fn dismiss(&mut self, text: &str, closing: Closing, out: &mut BytesMut) {
        let mut reply = BytesMut::new();
        encode::error(&mut reply, text);
        self.pending.answer(&reply, out);
        self.closing = Some(closing);
    }

    fn want_reset(&mut self, unsent: bool, out: &mut BytesMut) -> Action<'static> {
        // A monitor has no outstanding replies but its lines; they end with its lane. What was asked for without a
        // reply must not end with it.
        if unsent || !self.pending.is_empty() {
            return Action::Wait;
        }
        // As in Redis, where RESET ends CLIENT REPLY OFF before it answers, but is itself the command that SKIP was about.
        if self.reply_mode != ReplyMode::Skip {
            self.pending.answer(b"+RESET\r\n", out);
        }
        self.identity = self.open.clone();
        self.state = State::at(self.rules.home_db);
        self.reply_mode = ReplyMode::On;
        self.current = Current::None;
        Action::Reset
    }

    /// Answers a request that is not forwarded with an error. Inside MULTI, Redis must know of it so that EXEC
    /// answers EXECABORT: it gets a request that it refuses at queue time, and its reply is replaced by ours (S-1). The same
    /// keeps Redis's count when the next reply is to be skipped (S-12).
    fn refuse(&mut self, text: &str, out: &mut BytesMut) -> Action<'static> {
        let mut reply = BytesMut::new();
        encode::error(&mut reply, text);
        if self.reply_mode == ReplyMode::Skip {
            self.reply_mode = ReplyMode::On;
            return Action::Substitute {
                request: Bytes::from_static(refusal::POISON),
                expect: Expect::Nothing,
            };
        }
        let silent = self.reply_mode == ReplyMode::Off;
        if self.state.multi {
            let request = Bytes::from_static(refusal::POISON);
            let expect = if silent {
                Expect::Nothing
            } else {
                Expect::Replace(reply.freeze())
            };
            return Action::Substitute { request, expect };
        }
        if silent {
            return Action::Answered;
        }
        self.pending.answer(&reply, out);
        Action::Answered
    }

    fn close_after_answers(&mut self, closing: Closing) -> Action<'static> {
        self.closing = Some(closing);
        Action::Answered
    }

    fn close_now(&mut self, closing: Closing) -> Action<'static> {
        self.closing = Some(closing);
        Action::Close(closing)
    }

    /// The request (or what stands for it) has been put on a lane.
    pub fn forwarded(&mut self, expect: Expect, stamp: Stamp) {
        self.pending.expect(expect, stamp);
    }

    /// Writes what a fresh lane needs before the next request, and expects the answers. Ask before [`Session::forwarded`].
    pub fn replay(&mut self, lane: &mut BytesMut) {
        self.replay_from((self.rules.home_db, false), lane);
    }

    /// The same for a lane that is on this database and speaks RESP3 or not.
    pub fn replay_from(&mut self, lane_is: (u32, bool), lane: &mut BytesMut) {
        for effect in self.state.replay(lane_is, !self.rules.sharing, lane) {
            self.pending.swallow(effect);
        }
    }

    /// One whole reply from a shared lane has passed: returns the stamp of its request, and answers of ours that it held
    /// up go to `out`.
    pub fn shared_reply(&mut self, out: &mut BytesMut) -> Option<Stamp> {
        let stamp = self.pending.settle().map(|settled| settled.stamp);
        self.pending.release(out);
        self.pending.shrink();
        stamp
    }

    /// Whether nothing but plain replies is outstanding.
    pub fn awaits_plain_replies_only(&self) -> bool {
        self.pending.is_plain()
    }

    /// Whether the session could go on on another lane as soon as nothing is outstanding.
    pub fn may_move(&self) -> bool {
        self.state.is_replayable() && self.reply_mode == ReplyMode::On
    }

    /// The lane is gone. `true`: nothing was outstanding and all its state can be put on a new one (F-3).
    pub fn survives_lane_loss(&self) -> bool {
        self.pending.is_empty() && self.may_move()
    }

    /// Answers the request that waits longest with an error, before the session is closed because its lane could
    /// not be had (F-1).
    pub fn fail(&mut self, text: &str, out: &mut BytesMut) {
        self.pending.release(out);
        if !self.pending.is_empty() {
            encode::error(out, text);
        }
    }

    /// A frame from upstream begins: `word` is its error code, first word or first element.
    ///
    /// # Errors
    /// A [`Surprise`] ends the session and its lane: nobody could say whose reply this is (rule 9).
    pub fn frame_begins(&mut self, kind: FrameKind, word: &[u8]) -> Result<Fate, Surprise> {
        let subscriber = self.state.subscribed() && !self.state.resp3();
        let confirmation = confirmation_kind(word);
        if kind == FrameKind::Push || (kind == FrameKind::Array && subscriber && is_message(word)) {
            self.current = match (confirmation, self.pending.front()) {
                (
                    Some((kind, unsubscribe)),
                    Some(Kind::Confirmations {
                        kind: k,
                        unsubscribe: u,
                        ..
                    }),
                ) if *k == kind && *u == unsubscribe => Current::Confirmation(kind),
                (Some((kind, _)), _) => Current::Unasked(kind),
                (None, _) => Current::Async,
            };
            return Ok(Fate::Deliver);
        }
        if kind == FrameKind::Error && word == b"NOAUTH" {
            return Err(Surprise::SessionLost);
        }
        let applies = !kind.is_error() && word != b"QUEUED";
        let Some(front) = self.pending.front() else {
            if self.state.monitor && kind == FrameKind::Simple {
                self.current = Current::Async;
                return Ok(Fate::Deliver);
            }
            if let (Some((kind, _)), true, FrameKind::Array) = (confirmation, subscriber, kind) {
                self.current = Current::Unasked(kind);
                return Ok(Fate::Deliver);
            }
            return Err(Surprise::UnaskedReply);
        };
        match front {
            Kind::Reply(Effect::EndsTransaction)
                if kind.is_error() && word != b"EXECABORT" && word != b"ERR" =>
            {
                // Redis may still be inside MULTI or watching (its own ACL refused DISCARD, say).
                self.state.stick(PinReason::Transaction);
                self.current = Current::Reply { applies };
                Ok(Fate::Deliver)
            }
            Kind::Plain(_) | Kind::Reply(_) => {
                self.current = Current::Reply { applies };
                Ok(Fate::Deliver)
            }
            Kind::Replace(_) => {
                self.current = Current::Reply { applies: false };
                Ok(Fate::Drop)
            }
            Kind::Swallow(effect) => {
                if !applies && *effect != Effect::None {
                    return Err(Surprise::ReplayRefused);
                }
                self.current = Current::Reply { applies };
                Ok(Fate::Drop)
            }
            Kind::Confirmations {
                kind: expected,
                unsubscribe,
                ..
            } => match confirmation {
                Some((found, u)) if kind == FrameKind::Array && found == *expected && u == *unsubscribe => {
                    self.current = Current::Confirmation(found);
                    Ok(Fate::Deliver)
                }
                _ if kind.is_error() => {
                    self.current = Current::NoConfirmation;
                    Ok(Fate::Deliver)
                }
                _ => Err(Surprise::WrongReply),
            },
            // Answers of ours never stay at the front.
            Kind::Local(_) => Err(Surprise::UnaskedReply),
        }
    }

    /// The frame has passed whole; answers of ours that it held up go to `out`. Returns the stamp of the request that it
    /// settled. `last_integer` is the count in a confirmation.
    pub fn frame_ends(&mut self, last_integer: Option<i64>, out: &mut BytesMut) -> Option<Stamp> {
        let stamp = match std::mem::replace(&mut self.current, Current::None) {
            Current::None | Current::Async => return None,
            Current::Unasked(kind) => {
                self.state.confirmed(kind, last_integer.unwrap_or(0));
                return None;
            }
            Current::Reply { applies } => self.pending.settle().map(|settled| {
                if let Some(instead) = settled.instead {
                    out.extend_from_slice(&instead);
                } else if applies {
                    self.state.apply(settled.effect);
                } else if settled.effect == Effect::Monitor {
                    self.state.monitor = false;
                }
                settled.stamp
            }),
            Current::NoConfirmation => self.pending.settle().map(|settled| settled.stamp),
            Current::Confirmation(kind) => {
                let before = self.state.subscriptions(kind);
                self.state.confirmed(kind, last_integer.unwrap_or(0));
                match self.pending.front() {
                    Some(Kind::Confirmations { left, .. }) => {
                        let remaining = left.unwrap_or_else(|| before.max(1)).saturating_sub(1);
                        *left = Some(remaining);
                        if remaining > 0 {
                            None
                        } else {
                            self.pending.settle().map(|settled| settled.stamp)
                        }
                    }
                    _ => None,
                }
            }
        };
        self.pending.release(out);
        self.pending.shrink();
        stamp
    }
}

/// Whether two users may do the same, whatever their passwords are.
fn same_rules(one: &Identity, other: &Identity) -> bool {
    let rules = |identity: &Identity| {
        let mut user = acl::User::clone(&identity.user);
        user.passwords.clear();
        user
    };
    rules(one) == rules(other)
}

/// Redis's arity: exactly so many words, or at least so many when negative.
fn right_arity(arity: i32, announced: u32) -> bool {
    if arity < 0 {
        announced >= arity.unsigned_abs()
    } else {
        announced == arity.unsigned_abs()
    }
}

/// `subscribe` and its kin as the first element of a confirmation; the flag says unsubscribe.
fn confirmation_kind(word: &[u8]) -> Option<(acl::SubKind, bool)> {
    Some(match word {
        b"subscribe" => (acl::SubKind::Channel, false),
        b"unsubscribe" => (acl::SubKind::Channel, true),
        b"psubscribe" => (acl::SubKind::Pattern, false),
        b"punsubscribe" => (acl::SubKind::Pattern, true),
        b"ssubscribe" => (acl::SubKind::Shard, false),
        b"sunsubscribe" => (acl::SubKind::Shard, true),
        _ => return None,
    })
}

/// Messages that a RESP2 subscriber receives unasked.
fn is_message(word: &[u8]) -> bool {
    matches!(word, b"message" | b"pmessage" | b"smessage")
}

/// Longest client name or SETINFO value that is remembered for a replay; longer ones pass and are not replayed.
const MAX_REPLAYED: usize = 1024;

#[cfg(test)]
mod tests;
