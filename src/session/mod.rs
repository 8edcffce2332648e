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

mod client;
mod frames;
mod late;
mod listening;
mod login;
mod pending;
mod refusal;
mod state;
mod whoami;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use crate::acl::{self, Class, Command, Decision, LateCheck, Resolved, Role};
use crate::auth::Identity;
use crate::resp::{Args, encode};

pub use frames::Fate;
pub use login::{DEFAULT_USER, Hello, Login};
pub use pending::{Expect, Stamp};
pub use refusal::{Note, Surprise};
pub use state::{Effect, PinReason};

use client::ReplyMode;
use frames::Current;
use pending::Pending;
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
    /// Drop it and send this HELLO: on a shared lane that speaks its version already, and so is not changed by it, after
    /// [`Session::shares`]; or on the lane that the session still has, then tell [`Session::forwarded`].
    Greet {
        /// A whole request.
        request: Bytes,
        /// What a success changes.
        effect: Effect,
    },
    /// Drop it: it has been answered (or needs no answer).
    Answered,
    /// Drop it, check the credentials, then tell [`Session::logged_in`] or [`Session::login_refused`].
    Login(Login<'a>),
    /// Keep it and ask again when nothing is outstanding.
    Wait,
    /// Keep it and ask again when it is here as a whole, or as much of it as can be held.
    Hold,
    /// Drop it and the lane: the client starts anew (the session has forgotten its login already).
    Reset,
    /// Answer nothing more and close.
    Close(Closing),
}

impl Action<'_> {
    /// Whether the request will not be asked about again.
    fn is_final(&self) -> bool {
        !matches!(self, Self::Wait | Self::Hold)
    }
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
    /// A request was refused after its first bytes, and state that could not be had again went with its lane.
    LateDenial,
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
    /// More of a request was asked for.
    holding: bool,
    /// Judges the request that is passing.
    late: Option<Box<LateCheck>>,
    /// The command of the last request, if it is to be remembered; see [`Session::take_learned`].
    learned: Option<&'static Command>,
    /// Where everything outstanding travels.
    route: Route,
    /// The listener that the client is connected to.
    listener: Arc<str>,
    /// Another user's requests may travel on connections with another login.
    logins_differ: bool,
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
            holding: false,
            late: None,
            learned: None,
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
    /// `false`: they do not let the client listen to what it listens to, or use the database that it uses, and it has
    /// to go, as in Redis.
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
        let may_stay = identity.user.observe
            || self.state.may_listen(&identity.user) && identity.user.may_use_database(self.state.db());
        self.identity = Some(identity);
        may_stay
    }

    /// Whether every request has been answered, and no message has passed in part only.
    pub fn is_settled(&self) -> bool {
        self.pending.is_at_rest()
    }

    /// Whether the session may end now without taking anything from the client: nothing is outstanding, no
    /// transaction is open, and it listens to nothing (F-34).
    pub fn may_drain(&self) -> bool {
        self.pending.is_at_rest() && !self.is_listening() && !self.state.multi
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
                if !refusal::is_mere_offer(container.name, args.get(1)) {
                    *note = Some(Note::Unknown);
                }
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
        let decision = match identity.user.decide(command, args, request.whole) {
            Decision::Permitted(permit) => Ok(permit),
            Decision::Denied(denied) => Err(denied),
            Decision::Open if right_arity && !request.whole => {
                return self.undecided(command, request, out, note);
            }
            Decision::Open => identity.user.check(command, args, request.whole),
        };
        self.holding = false;
        match decision {
            Ok(_permit) => self.permitted(command, request, out),
            Err(denied) if right_arity => self.deny_or_observe(denied, command, request, out, note),
            Err(_) => self.refuse(&refusal::arity(command.name), out),
        }
    }

    /// A command that the ACL allows, or would only observe.
    fn permitted<'a>(
        &mut self,
        command: &'static Command,
        request: Request<'a>,
        out: &mut BytesMut,
    ) -> Action<'a> {
        let action = self.act(command, request, out);
        if self.identity.as_ref().is_some_and(|identity| identity.user.learn) && action.is_final() {
            self.learned = Some(command);
        }
        action
    }

    /// The command of the request just asked about, if its user's requests are to be remembered and it was not refused.
    pub fn take_learned(&mut self) -> Option<&'static Command> {
        self.learned.take()
    }

    /// What a command that may run does to the session.
    fn act<'a>(&mut self, command: &'static Command, request: Request<'a>, out: &mut BytesMut) -> Action<'a> {
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
            Role::Multi | Role::Exec | Role::Discard | Role::Unwatch
                if !right_arity(command.arity, args.announced()) => {}
            Role::Multi => self.state.multi = true,
            // Another error that changes nothing: Redis goes on watching.
            Role::Exec | Role::Discard if !self.state.multi => {}
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
                let listening = self.state.listening.get_or_insert_default();
                listening.add(kind, &args, request.whole);
                let count = Some(args.announced().saturating_sub(1));
                expect = Expect::Confirmations {
                    kind,
                    unsubscribe: false,
                    count,
                };
            }
            Role::Unsubscribe(kind) => {
                if let Some(listening) = &mut self.state.listening {
                    listening.remove(kind, &args);
                }
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
            Role::Blocking | Role::Fence if self.state.multi => {}
            Role::Fence if self.rules.sharing && self.reply_mode == ReplyMode::On => {
                return self.fence(&request, out);
            }
            Role::Blocking | Role::Fence => expect = Expect::Reply(Effect::Blocking),
            Role::Script => self.state.stick(PinReason::Script),
            Role::ClientTracking => self.state.stick(PinReason::Tracking),
            Role::ClientNo | Role::ConnectionState => self.state.stick(PinReason::ConnectionState),
            // What a transaction does to them shows in EXEC's reply alone, and a connection of several clients has no name.
            Role::ClientSetName if self.state.multi && self.rules.sharing => {
                return self.refuse(refusal::NAME_IN_MULTI, out);
            }
            // Better never replayed than replayed wrong.
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

    /// WAIT and WAITAOF ask how far the writes of their own connection have come, and the session's have travelled on
    /// another. They have all been answered (a request for the own lane waits for that), so whatever is written now comes
    /// behind them: a message that nobody listens to, which Redis passes to its replicas like a write.
    fn fence(&mut self, request: &Request<'_>, out: &mut BytesMut) -> Action<'static> {
        if !request.whole {
            return self.refuse(refusal::TOO_LONG, out);
        }
        let mut requests = BytesMut::new();
        encode::request(&mut requests, &[b"PUBLISH", acl::FENCE_CHANNEL.as_bytes(), b""]);
        let words: Vec<&[u8]> = request.args.iter().collect();
        encode::request(&mut requests, &words);
        Action::Substitute {
            request: requests.freeze(),
            expect: Expect::Fenced,
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
        if unsent || !self.pending.is_at_rest() {
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

    /// HELLO travels on a shared lane of the version that it asks for: what it changes holds from now on.
    pub fn shares(&mut self, effect: Effect) {
        self.state.apply(effect);
        self.route = Route::Shared;
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
}

/// Whether two users may do the same, whatever their passwords are.
fn same_rules(one: &Identity, other: &Identity) -> bool {
    let rules = |identity: &Identity| {
        let mut user = acl::User::clone(&identity.user);
        user.passwords.clear();
        user.learn = false;
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

/// Longest client name or SETINFO value that is remembered for a replay; longer ones pass and are not replayed.
const MAX_REPLAYED: usize = 1024;

#[cfg(test)]
mod tests;
