//! The data path of one connection: client ⇄ session ⇄ lane, as one future that is polled by hand.
//!
//! ```text
//!   client ── read ──► RequestScanner ──► Session ──► lane.buffer ── write ──► Redis
//!   client ◄─ write ── out ◄──────────── Session ◄── ReplyScanner ◄── read ─── Redis
//! ```
//!
//! Every byte is read once into the worker's scratch window, scanned in place and copied once into the buffer of the
//! other side. Both buffers are bounded: above the mark the side that feeds them is not read, so a slow client slows
//! Redis's replies down and not the other way round (F-27). An idle connection holds no buffer at all.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::acl::{Class, Denied, DenyReason, LateLearning, Learned};
use crate::auth::AuthFailure;
use crate::metrics::{CloseReason, GaugeGuard, Side, UpstreamClosed};
use crate::net::Stream;
use crate::resp::{
    Args, ProtocolError, ReplyScan, ReplyScanner, RequestLimits, RequestScanner, Scan, encode,
};
use crate::session::{Action, Closing, Fate, Note, PinReason, Request, Route, Session, Stamp, Surprise};
use crate::upstream::{Lane, LaneEnd, LaneState, Replies, Scratch, Seat, SeatEnd};

use super::super::worker::Colleague;
use super::alarm::Alarm;
use super::client::Client;
use super::login::{self, Verdict};

/// Bytes of replies that may wait for the client; above it Redis is not read (L-27).
const HIGH_WATER: usize = 64 * 1024;

/// Bytes of a request that are held while the keys it hangs on have not come. Behind it the request is forwarded to a lane
/// of its own and judged as it passes; users who may touch all keys never come here.
const HELD_REQUEST: usize = 1024 * 1024;

/// How long a client that has closed its sending half may wait for the replies it is owed (S-15).
const HALF_CLOSE_GRACE: Duration = Duration::from_secs(5);

/// How often a client that is not read from is looked after.
const ABSENCE_CHECK: Duration = Duration::from_secs(1);

/// The same while a blocking command waits, which would take an element that nobody reads any more (S-14).
const BLOCKED_ABSENCE_CHECK: Duration = Duration::from_millis(50);

/// One connection from its first byte of RESP to its last.
pub(super) struct Relay {
    client: Client,
    stream: Stream,
    requests: RequestScanner,
    /// Read from the client and not consumed: at most one window and the head of one request, or [`HELD_REQUEST`].
    carry: BytesMut,
    /// `carry` may hold a whole request that could not be taken yet.
    stalled: bool,
    /// More of a request is held than usual, until its keys are here.
    holding: bool,
    /// Where the rest of a request goes whose head has been decided.
    body: Option<Fate>,
    /// What is to be remembered of it.
    learning: Option<Box<LateLearning>>,
    /// Replies and answers of ours that wait for the client.
    out: BytesMut,
    unflushed: bool,
    /// The client has closed its sending half.
    half_closed: bool,
    session: Session,
    /// Its place on a lane that it shares.
    seat: Option<Seat>,
    /// A lane of its own.
    lane: Option<Lane>,
    /// What it needs that for, counted.
    pinned: Option<(PinReason, GaugeGuard)>,
    replies: ReplyScanner,
    /// Read from Redis and not consumed: the head of one reply.
    reply_carry: BytesMut,
    fate: Fate,
    /// A refused login whose answer is being held back.
    penalty: Option<AuthFailure>,
    penalty_over: Alarm,
    login_deadline: Alarm,
    write_stall: Alarm,
    idle: Alarm,
    grace: Alarm,
    /// Looks after a client that is not read from.
    absence: Alarm,
    /// The lane's upstream was replaced: what still holds the session there must end by then.
    retirement: Alarm,
    last_heard: Instant,
    /// When bytes last went in any direction.
    last_moved: Instant,
    /// Flush what is in `out`, then end.
    ending: Option<CloseReason>,
}

/// The session is over.
struct Stop {
    reason: CloseReason,
    /// A last error line, where it is certain to be in step.
    say: Option<String>,
}

impl Stop {
    fn silent(reason: CloseReason) -> Self {
        Self { reason, say: None }
    }

    fn saying(reason: CloseReason, text: impl Into<String>) -> Self {
        Self {
            reason,
            say: Some(text.into()),
        }
    }
}

/// What happened to a request.
enum Handled {
    /// It is done with; its body, if it has more, goes there.
    Consumed(Fate),
    /// It must be asked about again.
    Wait,
    /// It must be asked about again when more of it is here.
    Hold,
}

/// What is left of a relay when nothing is under way: enough to go on on another thread.
pub(in crate::server) struct AtRest {
    stream: Stream,
    session: Session,
    last_heard: Instant,
}

/// How a relay ended.
pub(super) enum End {
    /// The connection is closed.
    Closed,
    /// The session goes on with another worker.
    Leaving(Colleague, Box<(Client, AtRest)>),
}

/// Why the relay's future is ready.
enum Outcome {
    Ended(CloseReason),
    Leaving(Colleague),
}

impl Relay {
    /// A connection that is ready to speak RESP; `deadline` is the end of its time to log in.
    pub(super) fn new(mut client: Client, stream: Stream, deadline: Instant) -> Self {
        let (session, refusal) = client.session(&stream);
        let mut relay = Self::with(client, stream, session, Instant::now());
        if let Some(text) = refusal {
            relay.session.dismiss(text, Closing::Rejected, &mut relay.out);
        }
        if relay.session.identity().is_none() {
            relay.login_deadline.set(deadline);
        }
        relay
    }

    /// A connection that another worker has served; `None`: the system would not move it, and it is closed.
    pub(super) fn resume(mut client: Client, at_rest: AtRest) -> Option<Self> {
        let AtRest {
            stream,
            session,
            last_heard,
        } = at_rest;
        match stream.unpark() {
            Ok(stream) => Some(Self::with(client, stream, session, last_heard)),
            Err(error) => {
                tracing::error!(event = "session_lost", error = %error, "a connection could not change threads");
                client.close(CloseReason::ClientReset);
                None
            }
        }
    }

    fn with(mut client: Client, stream: Stream, session: Session, last_heard: Instant) -> Self {
        client.serves(session.identity().map(|identity| &*identity.user.name));
        let requests = RequestScanner::new(client.request_limits(session.identity().is_some()));
        let mut idle = Alarm::default();
        if let Some(timeout) = client.listener_config().idle_timeout {
            idle.set(last_heard + timeout);
        }
        Self {
            client,
            stream,
            requests,
            carry: BytesMut::new(),
            stalled: false,
            holding: false,
            body: None,
            learning: None,
            out: BytesMut::new(),
            unflushed: false,
            half_closed: false,
            session,
            seat: None,
            lane: None,
            pinned: None,
            replies: ReplyScanner::new(),
            reply_carry: BytesMut::new(),
            fate: Fate::Deliver,
            penalty: None,
            penalty_over: Alarm::default(),
            login_deadline: Alarm::default(),
            write_stall: Alarm::default(),
            idle,
            grace: Alarm::default(),
            absence: Alarm::default(),
            retirement: Alarm::default(),
            last_heard,
            last_moved: last_heard,
            ending: None,
        }
    }

    /// Runs the connection to its end, then closes it so that the client reads what was written last; or until the session
    /// is at rest and should go on with another worker.
    ///
    /// Boxed, because a future keeps what is moved into it twice, and most connections are idle most of the time.
    pub(super) async fn run(mut self: Box<Self>) -> End {
        let reason = match std::future::poll_fn(|cx| self.poll(cx)).await {
            Outcome::Ended(reason) => reason,
            Outcome::Leaving(to) => return Self::leave(*self, to),
        };
        self.client.close(reason);
        drop(self.lane.take());
        drop(self.seat.take());
        // An evicted stranger's place is taken already: it must not linger.
        if !matches!(
            reason,
            CloseReason::ClientReset | CloseReason::WriteStall | CloseReason::Evicted
        ) {
            Box::pin(self.stream.close_gently(CLOSE_PATIENCE)).await;
        }
        End::Closed
    }

    fn leave(mut self, to: Colleague) -> End {
        let stream = match self.stream.park() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::error!(event = "session_lost", error = %error, "a connection could not change threads");
                self.client.close(CloseReason::ClientReset);
                return End::Closed;
            }
        };
        let at_rest = AtRest {
            stream,
            session: self.session,
            last_heard: self.last_heard,
        };
        End::Leaving(to, Box::new((self.client, at_rest)))
    }

    /// Whether everything that the session is lies in what [`AtRest`] takes along.
    fn is_at_rest(&self) -> bool {
        self.session.identity().is_some()
            && self.session.closing().is_none()
            && self.session.may_release_lane()
            && self.lane.is_none()
            && self.seat.as_ref().is_none_or(Seat::is_settled)
            && self.requests.is_idle()
            && self.carry.is_empty()
            && self.out.is_empty()
            && !self.unflushed
            && !self.stalled
            && self.body.is_none()
            && self.penalty.is_none()
            && !self.half_closed
            && !self.client.control.is_draining()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let now = Instant::now();
        if self.ending.is_none()
            && let Err(stop) = self.poll_alarms(cx, now)
        {
            self.stop(stop);
        }
        let worker = Rc::clone(&self.client.worker);
        worker.with_window(|window| {
            if self.ending.is_none()
                && let Err(stop) = self.drive(cx, window, now)
            {
                self.stop(stop);
            }
        });
        if let Some(reason) = self.ending {
            return self.poll_ending(cx, reason).map(Outcome::Ended);
        }
        self.release_lane();
        if self.client.worker.wants_to_hand_over()
            && self.is_at_rest()
            && let Some(to) = self.client.worker.colleague()
        {
            return Poll::Ready(Outcome::Leaving(to));
        }
        self.give_buffers_back();
        if let Some(seat) = &self.seat {
            seat.register(cx);
        }
        if !self.absence.is_set() && self.is_deaf() {
            let blocking = self.session.has_blocking();
            self.absence.set(
                now + if blocking {
                    BLOCKED_ABSENCE_CHECK
                } else {
                    ABSENCE_CHECK
                },
            );
        }
        for alarm in [
            &mut self.login_deadline,
            &mut self.penalty_over,
            &mut self.write_stall,
            &mut self.idle,
            &mut self.grace,
            &mut self.absence,
            &mut self.retirement,
        ] {
            alarm.register(cx);
        }
        Poll::Pending
    }

    /// Moves bytes in both directions until nothing moves.
    fn drive(&mut self, cx: &mut Context<'_>, window: &mut [u8], now: Instant) -> Result<(), Stop> {
        loop {
            let mut moved = self.pull_shared()?;
            moved |= self.pull_replies(cx, window)?;
            moved |= self.push_out(cx)?;
            moved |= self.pull_requests(cx, window, now)?;
            moved |= self.push_lane(cx)?;
            // An answer of ours to a request that has just been read.
            moved |= self.push_out(cx)?;
            self.check_end(now)?;
            if !moved {
                return Ok(());
            }
            self.last_moved = now;
        }
    }

    /// Whether everything asked for has been answered, or handed over to Redis if it wants no answer.
    fn is_settled(&self) -> bool {
        self.session.is_settled() && self.lane.as_ref().is_none_or(Lane::is_flushed)
    }

    /// Whether the client's leaving would go unnoticed, because nothing is read from it.
    fn is_deaf(&self) -> bool {
        !self.half_closed && (self.stalled || self.session.closing().is_some() || !self.takes_requests())
    }

    /// Ends that are nobody's fault: everything asked for has been answered.
    fn check_end(&mut self, now: Instant) -> Result<(), Stop> {
        if self.half_closed {
            if self.is_settled() && self.out.is_empty() && !self.stalled && self.penalty.is_none() {
                return Err(Stop::silent(CloseReason::ClientClosed));
            }
            if self.body.is_some() || self.session.has_blocking() {
                // Redis drops a partial command, and must forget a client that waits (R-30, S-14).
                return Err(Stop::silent(CloseReason::ClientClosed));
            }
            if !self.grace.is_set() {
                self.grace.set(now + HALF_CLOSE_GRACE);
            }
        }
        if let Some(closing) = self.session.closing()
            && self.is_settled()
        {
            return Err(Stop::silent(close_reason(closing)));
        }
        if self.client.control.is_draining()
            && self.session.may_drain()
            && self.is_settled()
            && self.body.is_none()
            && self.penalty.is_none()
        {
            return Err(Stop::silent(CloseReason::Drain));
        }
        Ok(())
    }

    // --- Redis to client ---------------------------------------------------------------------------------------

    fn pull_replies(&mut self, cx: &mut Context<'_>, window: &mut [u8]) -> Result<bool, Stop> {
        if self.out.len() >= HIGH_WATER {
            return Ok(false);
        }
        let Some(lane) = &mut self.lane else {
            return Ok(false);
        };
        let count = match lane.poll_read(cx, window) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(end)) => return self.lane_ended(end).map(|()| true),
        };
        self.client.tally.received(Side::Upstream, count);
        self.want_out();
        if self.reply_carry.is_empty() {
            let read = window.get(..count).unwrap_or_default();
            let used = self.scan_replies(read)?;
            self.reply_carry
                .extend_from_slice(read.get(used..).unwrap_or_default());
        } else {
            self.reply_carry
                .extend_from_slice(window.get(..count).unwrap_or_default());
            let mut carry = std::mem::take(&mut self.reply_carry);
            let used = self.scan_replies(&carry)?;
            carry.advance(used);
            self.reply_carry = carry;
        }
        Ok(true)
    }

    /// Hands whole pieces of replies to the client; returns how many bytes were used.
    fn scan_replies(&mut self, read: &[u8]) -> Result<usize, Stop> {
        let mut used = 0_usize;
        let mut settled = Settled::default();
        loop {
            let rest = read.get(used..).unwrap_or_default();
            let scan = match self.replies.scan(rest) {
                Ok(scan) => scan,
                Err(error) => {
                    self.client.desync(error.label());
                    return Err(Stop::silent(CloseReason::Desync));
                }
            };
            let ReplyScan::Piece { len, first, last } = scan else {
                break;
            };
            if first {
                let word = self.replies.word();
                let kind = self.replies.kind();
                if kind.is_error() {
                    self.client.upstream_metrics().error_reply(word);
                }
                match self.session.frame_begins(kind, word) {
                    Ok(fate) => self.fate = fate,
                    Err(surprise) => return Err(self.surprised(surprise)),
                }
            }
            if self.fate == Fate::Deliver {
                self.out.extend_from_slice(rest.get(..len).unwrap_or_default());
            }
            if last
                && let Some(stamp) = self
                    .session
                    .frame_ends(self.replies.last_integer(), &mut self.out)
            {
                settled.count(stamp, &self.client);
            }
            used = used.saturating_add(len);
        }
        settled.finish(&self.client);
        // A request may have been waiting for these replies: RESET, or one beyond the limit of outstanding ones.
        self.stalled |= !self.carry.is_empty();
        Ok(used)
    }

    /// Takes what has come on the shared lane.
    fn pull_shared(&mut self) -> Result<bool, Stop> {
        let Some(seat) = self.seat.take() else {
            return Ok(false);
        };
        if let Some(SeatEnd::TooSlow) = seat.end() {
            return Err(Stop::silent(CloseReason::SlowReader));
        }
        if self.out.len() >= HIGH_WATER {
            self.seat = Some(seat);
            return Ok(false);
        }
        let mut moved = seat.take_replies(|replies| self.take_in(replies)).is_some();
        match seat.end() {
            None | Some(SeatEnd::TooSlow) => {}
            Some(SeatEnd::Dial(error)) => return self.lane_ended(LaneEnd::Dial(error)).map(|()| true),
            Some(SeatEnd::Lost) => return Err(Stop::silent(CloseReason::UpstreamClosed)),
            Some(SeatEnd::LoginLost) => return Err(self.surprised(Surprise::SessionLost)),
        }
        if seat.is_bulky() {
            self.session.pin_bulky();
        }
        let returned = seat.take_returned();
        self.seat = Some(seat);
        if let Some((requests, count)) = returned {
            // The lane ended before they were written: nobody has seen them, so they may be sent again.
            self.seat = None;
            self.seat().send(&requests, count);
            moved = true;
        }
        Ok(moved)
    }

    fn take_in(&mut self, replies: &mut Replies) {
        let mut settled = Settled::default();
        let plain = self.session.awaits_plain_replies_only();
        if plain && self.out.is_empty() {
            std::mem::swap(&mut self.out, &mut replies.bytes);
        } else if plain {
            self.out.extend_from_slice(&replies.bytes);
        }
        let mut from = 0;
        for end in &replies.ends {
            if !plain {
                self.out
                    .extend_from_slice(replies.bytes.get(from..*end).unwrap_or_default());
                from = *end;
            }
            if let Some(stamp) = self.session.shared_reply(&mut self.out) {
                settled.count(stamp, &self.client);
            }
        }
        if !plain {
            self.out
                .extend_from_slice(replies.bytes.get(from..).unwrap_or_default());
        }
        settled.finish(&self.client);
        self.stalled |= !self.carry.is_empty();
    }

    /// The place on the lane that fits the session now.
    fn seat(&mut self) -> &Seat {
        let (db, resp3) = self.session.lane_state();
        let state = LaneState { db, resp3 };
        let fits = self.seat.as_ref().is_some_and(|seat| {
            !seat.is_settled() || seat.lane().is_open() && seat.lane().fits(self.client.target(), state)
        });
        if !fits {
            self.seat = None;
        }
        let (client, session) = (&self.client, &self.session);
        self.seat.get_or_insert_with(|| {
            let user = session.identity().map_or("", |identity| &*identity.user.name);
            client.seat(user, state)
        })
    }

    /// Gives a lane back that the session needs no longer.
    fn release_lane(&mut self) {
        let pinned = self.session.pinned();
        if pinned != self.pinned.as_ref().map(|(pin, _)| *pin) {
            self.pinned = pinned.map(|pin| (pin, self.client.metrics().session_pinned(pin)));
        }
        let idle = self.body.is_none() && self.replies.is_idle() && self.reply_carry.is_empty();
        if self.lane.as_ref().is_some_and(Lane::is_retired) {
            if idle && self.session.survives_lane_loss() && self.is_settled() {
                self.lane = None;
                self.retirement.clear();
                // A request may have been waiting for that.
                self.stalled |= !self.carry.is_empty();
                self.client.control.wake();
            }
            return;
        }
        if self.lane.is_none() || !idle || !self.session.may_release_lane() {
            return;
        }
        let (db, resp3) = self.session.lane_state();
        let reusable = self.session.release_lane();
        if let Some(mut lane) = self.lane.take()
            && lane.is_flushed()
            && reusable
        {
            if let Some(buffer) = lane.take_idle_buffer() {
                self.client.worker.give_buffer(buffer);
            }
            self.client.give_lane_back(LaneState { db, resp3 }, lane);
        }
    }

    fn surprised(&self, surprise: Surprise) -> Stop {
        self.client.desync(surprise.label());
        match surprise.reply() {
            Some(text) => Stop::saying(CloseReason::UpstreamClosed, text),
            None => Stop::silent(CloseReason::Desync),
        }
    }

    /// The lane is gone: with nothing lost the session goes on and takes another when it needs one (F-3).
    fn lane_ended(&mut self, end: LaneEnd) -> Result<(), Stop> {
        self.lane = None;
        match end {
            LaneEnd::Dial(error) => {
                let mut out = std::mem::take(&mut self.out);
                self.session.fail(error.client_reply(), &mut out);
                self.out = out;
                Err(Stop::silent(CloseReason::UpstreamUnreachable))
            }
            LaneEnd::Closed | LaneEnd::Broken(_) => {
                let between = self.replies.is_idle() && self.reply_carry.is_empty();
                let idle = between && self.body.is_none() && self.session.survives_lane_loss();
                self.client.lane_closed(match (idle, between) {
                    (true, _) => UpstreamClosed::Idle,
                    (false, true) => UpstreamClosed::Waiting,
                    (false, false) => UpstreamClosed::Reply,
                });
                if idle {
                    self.replies = ReplyScanner::new();
                    return Ok(());
                }
                Err(Stop::silent(CloseReason::UpstreamClosed))
            }
        }
    }

    /// Writes replies to the client.
    fn push_out(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let mut written = 0_usize;
        let mut blocked = false;
        while !self.out.is_empty() && !blocked {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out) {
                Poll::Ready(Ok(0)) => return Err(Stop::silent(CloseReason::ClientReset)),
                Poll::Ready(Ok(count)) => {
                    written = written.saturating_add(count);
                    self.unflushed = true;
                    if count == self.out.len() {
                        self.out.clear();
                    } else {
                        self.out.advance(count);
                    }
                }
                Poll::Ready(Err(_)) => return Err(Stop::silent(CloseReason::ClientReset)),
                Poll::Pending => blocked = true,
            }
        }
        if self.unflushed && !blocked {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(Stop::silent(CloseReason::ClientReset)),
                Poll::Pending => blocked = true,
            }
        }
        if written > 0 {
            self.client.tally.sent(Side::Client, written);
            self.write_stall.clear();
        }
        if blocked {
            if !self.write_stall.is_set() {
                self.write_stall
                    .set(Instant::now() + self.client.listener_config().write_stall_timeout);
            }
        } else {
            self.write_stall.clear();
        }
        Ok(written > 0)
    }

    // --- client to Redis ---------------------------------------------------------------------------------------

    /// Whether requests may be taken now.
    fn takes_requests(&self) -> bool {
        self.penalty.is_none()
            && self.session.takes_requests()
            && self.out.len() < HIGH_WATER
            && self
                .lane
                .as_ref()
                .is_none_or(|lane| lane.has_room() && !(lane.is_retired() && self.session.may_move()))
            && self.seat.as_ref().is_none_or(Seat::takes_requests)
    }

    fn pull_requests(&mut self, cx: &mut Context<'_>, window: &mut [u8], now: Instant) -> Result<bool, Stop> {
        if self.session.closing().is_some() || self.half_closed && !self.stalled {
            return Ok(false);
        }
        if !self.takes_requests() {
            if let Some(seat) = &self.seat {
                seat.wait_for_room(cx);
            }
            return Ok(false);
        }
        let mut moved = false;
        if self.stalled {
            self.stalled = false;
            moved = self.take_carried(now)?;
            if self.stalled || !self.takes_requests() {
                return Ok(moved);
            }
        }
        if self.half_closed {
            return Ok(moved);
        }
        let mut buffer = ReadBuf::new(window);
        let count = match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(moved),
            Poll::Ready(Ok(())) => buffer.filled().len(),
            // Closing without close_notify is what many clients do; only in the middle of a request is it a loss (S-16).
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Poll::Ready(Err(_)) => return Err(Stop::silent(CloseReason::ClientReset)),
        };
        if count == 0 {
            self.half_closed = true;
            return Ok(true);
        }
        self.client.tally.received(Side::Client, count);
        self.last_heard = now;
        self.want_out();
        if self.carry.is_empty() {
            let read = window.get(..count).unwrap_or_default();
            let used = self.scan_requests(read, now)?;
            self.carry.extend_from_slice(read.get(used..).unwrap_or_default());
        } else {
            self.carry
                .extend_from_slice(window.get(..count).unwrap_or_default());
            self.take_carried(now)?;
        }
        Ok(true)
    }

    fn take_carried(&mut self, now: Instant) -> Result<bool, Stop> {
        let mut carry = std::mem::take(&mut self.carry);
        let used = self.scan_requests(&carry, now)?;
        carry.advance(used);
        self.carry = carry;
        Ok(used > 0)
    }

    /// Takes requests out of what was read; returns how many bytes were used.
    fn scan_requests(&mut self, read: &[u8], now: Instant) -> Result<usize, Stop> {
        let mut used = 0_usize;
        loop {
            if !self.takes_requests() {
                self.stalled = true;
                return Ok(used);
            }
            let rest = read.get(used..).unwrap_or_default();
            let scan = match self.requests.scan(rest) {
                Ok(scan) => scan,
                Err(error) => {
                    self.malformed(&error);
                    return Ok(read.len());
                }
            };
            let (len, handled) = match scan {
                Scan::Incomplete => return Ok(used),
                Scan::Skip { len } => (len, Handled::Consumed(Fate::Drop)),
                Scan::Request { len, argc } => (
                    len,
                    self.handle(rest.get(..len).unwrap_or_default(), argc, true, now)?,
                ),
                Scan::Inline { len, argc } => {
                    // Inline is for people at a keyboard: a copy costs nothing that matters.
                    let bytes = BytesMut::from(self.requests.inline_request());
                    (len, self.handle(&bytes, argc, true, now)?)
                }
                Scan::Head { len, argc } => {
                    let handled = self.handle(rest.get(..len).unwrap_or_default(), argc, false, now)?;
                    match handled {
                        Handled::Consumed(fate) => self.body = Some(fate),
                        Handled::Wait => self.requests.rewind(),
                        Handled::Hold => {
                            self.requests.rewind();
                            self.hold(HELD_REQUEST);
                            continue;
                        }
                    }
                    (len, handled)
                }
                Scan::Body { len, last } => {
                    let bytes = rest.get(..len).unwrap_or_default();
                    if self.body == Some(Fate::Deliver) {
                        let mut note = None;
                        match self.session.body(bytes, last, &mut note) {
                            Ok(()) => {
                                self.open_lane().extend_from_slice(bytes);
                                if let Some(learning) = &mut self.learning {
                                    learning.feed(bytes);
                                }
                            }
                            Err(denied) => self.late_denied(denied),
                        }
                        if let Some(note) = note {
                            self.note(&note);
                        }
                    }
                    if last {
                        self.body = None;
                        if let Some(learning) = self.learning.take() {
                            self.learn(|learned| learned.merge(&learning.finish()));
                        }
                    }
                    (len, Handled::Consumed(Fate::Drop))
                }
            };
            if let Handled::Wait = handled {
                self.stalled = true;
                return Ok(used);
            }
            used = used.saturating_add(len);
            if self.holding {
                self.hold(0);
            }
        }
    }

    /// So much of a request may be held until it is decided about; 0: as much as of any.
    fn hold(&mut self, at_least: usize) {
        self.holding = at_least > 0;
        let limits = self.client.request_limits(true);
        self.requests.set_limits(RequestLimits {
            max_head: limits.max_head.max(at_least),
            ..limits
        });
    }

    /// A request is refused of which Redis has the first part: it drops that when the lane closes (R-30).
    fn late_denied(&mut self, denied: Denied) {
        self.lane = None;
        self.learning = None;
        self.replies = ReplyScanner::new();
        self.reply_carry.clear();
        self.session.late_denied(&denied, &mut self.out);
        self.note(&Note::Denied(denied));
        self.body = Some(Fate::Drop);
    }

    /// Bytes that are no request: said in step, then the end (rule 9).
    fn malformed(&mut self, error: &ProtocolError) {
        self.client.protocol_error(error.label());
        self.session
            .dismiss(&error.reply(), Closing::Malformed, &mut self.out);
    }

    /// One request, or the head of one.
    fn handle(&mut self, bytes: &[u8], argc: u32, whole: bool, now: Instant) -> Result<Handled, Stop> {
        let request = Request {
            args: Args::new(bytes, argc),
            whole,
            unsent: self.lane.as_ref().is_some_and(|lane| !lane.is_flushed()),
        };
        let mut note = None;
        let action = self.session.request(request, &mut self.out, &mut note);
        if let Some(note) = note {
            self.note(&note);
        }
        if let Some(command) = self.session.take_learned() {
            if whole {
                self.learn(|learned| learned.see(command, request.args));
            } else if matches!(action, Action::Forward { .. }) {
                self.learning = Some(Box::new(LateLearning::new(command, request.args)));
            }
        }
        match action {
            Action::Forward {
                command,
                route,
                expect,
            } => {
                match route {
                    Route::Shared => self.seat().send(bytes, 1),
                    Route::Own => self.open_lane().extend_from_slice(bytes),
                }
                self.session.forwarded(expect, self.client.worker.stamp(now));
                self.client.tally.command(command.id.index());
                if command.class == Class::Admin {
                    self.admin_command(command.name);
                }
                return Ok(Handled::Consumed(Fate::Deliver));
            }
            Action::Substitute { request, expect } => {
                self.open_lane().extend_from_slice(&request);
                self.session.forwarded(expect, self.client.worker.stamp(now));
            }
            Action::Answered => {}
            Action::Login(login) => self.login(&login, now)?,
            Action::Wait => return Ok(Handled::Wait),
            Action::Hold => return Ok(Handled::Hold),
            Action::Reset => self.reset(now),
            Action::Close(closing) => return Err(Stop::silent(close_reason(closing))),
        }
        Ok(Handled::Consumed(Fate::Drop))
    }

    /// The lane's buffer; a session without a lane gets one, with its state put on it first.
    fn open_lane(&mut self) -> &mut BytesMut {
        let Self {
            lane,
            seat,
            session,
            client,
            ..
        } = self;
        let lane = lane.get_or_insert_with(|| {
            let (db, resp3) = session.lane_state();
            let (mut lane, state) = client.lane(LaneState { db, resp3 });
            if lane.is_connecting() && seat.as_ref().is_some_and(|seat| seat.outstanding() == 0) {
                // If all connections are taken, it must not wait for one that it keeps from being closed itself.
                *seat = None;
            }
            session.replay_from((state.db, state.resp3), lane.buffer());
            lane
        });
        let buffer = lane.buffer();
        if buffer.capacity() == 0 {
            *buffer = client.worker.take_buffer();
        }
        buffer
    }

    fn push_lane(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        let Some(lane) = &mut self.lane else {
            return Ok(false);
        };
        if lane.is_flushed() {
            return Ok(false);
        }
        match lane.poll_write(cx) {
            Poll::Pending => Ok(false),
            Poll::Ready(Ok(count)) => {
                self.client.tally.sent(Side::Upstream, count);
                Ok(count > 0)
            }
            Poll::Ready(Err(end)) => self.lane_ended(end).map(|()| true),
        }
    }

    // --- login -------------------------------------------------------------------------------------------------

    fn login(&mut self, login: &crate::session::Login<'_>, now: Instant) -> Result<(), Stop> {
        let evidence = self.client.evidence(&self.stream);
        match login::judge(&mut self.client, login, &evidence, now) {
            Verdict::Granted(identity) => {
                self.login_deadline.clear();
                let moves = self.client.would_move(&identity.user.name);
                if moves && self.lane.is_some() && !self.leave_lane() {
                    self.session
                        .dismiss(STATE_IS_ANOTHERS, Closing::Rejected, &mut self.out);
                    return Ok(());
                }
                // From here on no lane of the former login is left that could be given back as the new one's.
                self.client.serves(Some(&identity.user.name));
                // Another user's requests never travel on this lane.
                self.seat = None;
                self.requests.set_limits(self.client.request_limits(true));
                self.client.logged_in(&identity);
                let action = self
                    .session
                    .logged_in(identity, login.hello.as_ref(), &mut self.out);
                if let Action::Substitute { request, expect } = action {
                    self.open_lane().extend_from_slice(&request);
                    self.session.forwarded(expect, self.client.worker.stamp(now));
                }
            }
            Verdict::Refused { failure, delay } if delay.is_zero() => {
                self.session.login_refused(&failure, &mut self.out);
            }
            Verdict::Refused { failure, delay } => {
                self.penalty = Some(failure);
                self.penalty_over.set(now + delay);
            }
            Verdict::Rejected(reject) => {
                self.session
                    .dismiss(reject.reply(), Closing::Rejected, &mut self.out);
            }
        }
        Ok(())
    }

    /// Gives up the lane of another login. `false`: the session has left something on it that cannot be taken along.
    fn leave_lane(&mut self) -> bool {
        let idle = self.body.is_none() && self.replies.is_idle() && self.reply_carry.is_empty();
        let leaves = idle && self.session.survives_lane_loss() && self.is_settled();
        if leaves {
            self.lane = None;
        }
        leaves
    }

    fn reset(&mut self, now: Instant) {
        self.lane = None;
        self.seat = None;
        self.replies = ReplyScanner::new();
        self.reply_carry.clear();
        let identity = self.session.identity();
        self.requests
            .set_limits(self.client.request_limits(identity.is_some()));
        let user = identity.map(|identity| &*identity.user.name);
        self.client.serves(user);
        if let Some(identity) = identity {
            if let Err(reject) = self.client.known_by(identity) {
                self.session
                    .dismiss(reject.reply(), Closing::Rejected, &mut self.out);
            }
            return;
        }
        self.client.logged_out();
        if !self.login_deadline.is_set() {
            self.login_deadline.set(now + self.client.login_rules().timeout);
        }
    }

    /// Remembers something of the user's requests.
    fn learn(&self, what: impl FnOnce(&mut Learned)) {
        if let Some(identity) = self.session.identity() {
            self.client.worker.learn(&identity.user.name, what);
        }
    }

    fn note(&self, note: &Note) {
        let user = self.session.identity().map(|identity| &*identity.user.name);
        match note {
            Note::Denied(denied) => {
                self.client
                    .denied(user.unwrap_or_default(), Some(denied.command), denied.reason);
            }
            Note::Observed(denied) => {
                self.client
                    .observed(user.unwrap_or_default(), denied.command, denied.reason);
            }
            Note::Unknown => {
                // A stranger has no rules to break.
                if let Some(user) = user {
                    self.client.denied(user, None, DenyReason::Command);
                }
            }
            Note::NoCredentials => self.client.auth_failed(&AuthFailure::NoCredentials, None),
            Note::Malformed => self.client.auth_failed(&AuthFailure::Malformed, None),
        }
    }

    /// Apart, so that the way of all other commands stays short.
    #[cold]
    fn admin_command(&self, name: &'static str) {
        if let Some(identity) = self.session.identity() {
            self.client.admin_command(&identity.user.name, name);
        }
    }

    // --- time and orders ---------------------------------------------------------------------------------------

    fn poll_alarms(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Stop> {
        self.client.control.watch(cx);
        if self.client.control.is_aborting() {
            return Err(Stop::silent(CloseReason::Drain));
        }
        if self.client.control.take_reload() {
            self.rejudge()?;
        }
        if self.session.identity().is_none() && self.client.is_evicted(cx) {
            return Err(Stop::silent(CloseReason::Evicted));
        }
        if self.login_deadline.poll(cx) {
            self.client.auth_failed(&AuthFailure::Timeout, None);
            return Err(Stop::silent(CloseReason::AuthTimeout));
        }
        if self.penalty_over.poll(cx)
            && let Some(failure) = self.penalty.take()
        {
            self.session.login_refused(&failure, &mut self.out);
            self.stalled = true;
        }
        if self.write_stall.poll(cx) {
            return Err(Stop::silent(CloseReason::WriteStall));
        }
        if self.grace.poll(cx) {
            return Err(Stop::silent(CloseReason::ClientClosed));
        }
        if self.absence.poll(cx) && self.is_deaf() && self.stream.peer_has_closed() {
            // Redis must forget a client that waits (S-14); one that is owed replies may be reading them still (S-15).
            if self.session.has_blocking() || self.last_moved + HALF_CLOSE_GRACE <= now {
                return Err(Stop::silent(CloseReason::ClientClosed));
            }
        }
        if self.retirement.poll(cx) && self.lane.as_ref().is_some_and(Lane::is_retired) {
            return Err(Stop::silent(CloseReason::UpstreamClosed));
        }
        if self.idle.poll(cx)
            && let Some(timeout) = self.client.listener_config().idle_timeout
        {
            let end = self.last_heard + timeout;
            if end <= now && self.is_settled() && !self.session.is_listening() {
                return Err(Stop::silent(CloseReason::IdleTimeout));
            }
            self.idle.set(end.max(now + MIN_IDLE_CHECK));
        }
        Ok(())
    }

    /// After a reload: the same user with new rules, or nobody any more (A-11), or a certificate that is revoked (X-5).
    fn rejudge(&mut self) -> Result<(), Stop> {
        let removed = || Stop::silent(CloseReason::CredentialRemoved);
        if !self.client.reload_settings(&self.stream) {
            return Err(removed());
        }
        let evidence = self.client.evidence(&self.stream);
        let open = self.client.open_identity(&evidence).map_err(|_| removed())?;
        if let Some(identity) = self.session.identity() {
            let moved = self.client.serves(Some(&identity.user.name));
            if moved && let Some(lane) = &mut self.lane {
                lane.retire();
                self.retirement.set(Instant::now() + self.client.drain_timeout());
            }
            let allowed = self
                .client
                .users()
                .refresh_with(identity, &evidence)
                .filter(|identity| self.client.may_come_as(&identity.user.name))
                .is_some_and(|identity| self.session.refresh_identity(identity));
            if !allowed {
                // The credential is gone, or the right to be here or to listen to what the session listens to.
                if let Some(identity) = self.session.identity() {
                    self.client.credential_removed(&identity.user.name);
                }
                return Err(removed());
            }
        } else {
            self.client.serves(None);
        }
        // A password that was the first may be an older one now.
        self.client.count_password(self.session.identity());
        self.session.set_open(open);
        self.session.set_logins_differ(self.client.logins_differ());
        Ok(())
    }

    // --- the end -----------------------------------------------------------------------------------------------

    fn stop(&mut self, stop: Stop) {
        if let Some(text) = stop.say {
            encode::error(&mut self.out, &text);
        }
        self.lane = None;
        self.seat = None;
        self.ending = Some(stop.reason);
    }

    fn poll_ending(&mut self, cx: &mut Context<'_>, reason: CloseReason) -> Poll<CloseReason> {
        if matches!(reason, CloseReason::ClientReset | CloseReason::WriteStall)
            || self.client.control.is_aborting()
        {
            return Poll::Ready(reason);
        }
        self.client.control.watch(cx);
        if self.write_stall.poll(cx) {
            return Poll::Ready(reason);
        }
        match self.push_out(cx) {
            Ok(_) if self.out.is_empty() && !self.unflushed => Poll::Ready(reason),
            Ok(_) => {
                self.write_stall.register(cx);
                Poll::Pending
            }
            Err(stop) => Poll::Ready(stop.reason),
        }
    }

    // --- buffers -----------------------------------------------------------------------------------------------

    /// Takes a buffer for replies if there is none.
    fn want_out(&mut self) {
        if self.out.capacity() == 0 {
            self.out = self.client.worker.take_buffer();
        }
    }

    /// An idle connection holds no buffers.
    fn give_buffers_back(&mut self) {
        let worker = &self.client.worker;
        for buffer in [&mut self.out, &mut self.carry, &mut self.reply_carry] {
            if buffer.is_empty() && buffer.capacity() > 0 {
                worker.give_buffer(std::mem::take(buffer));
            }
        }
        if let Some(buffer) = self.seat.as_ref().and_then(Seat::take_idle_buffer) {
            worker.give_buffer(buffer);
        }
        if let Some(lane) = &mut self.lane
            && let Some(buffer) = lane.take_idle_buffer()
        {
            worker.give_buffer(buffer);
        }
    }
}

/// Latencies of the requests that one read settled: one clock reading for all of them.
#[derive(Default)]
struct Settled {
    now: Option<Instant>,
    last: Option<(Stamp, usize)>,
}

impl Settled {
    fn count(&mut self, stamp: Stamp, client: &Client) {
        match &mut self.last {
            Some((last, count)) if *last == stamp => *count = count.saturating_add(1),
            _ => {
                self.finish(client);
                self.last = Some((stamp, 1));
            }
        }
    }

    fn finish(&mut self, client: &Client) {
        if let Some((stamp, count)) = self.last.take() {
            let now = *self.now.get_or_insert_with(Instant::now);
            let taken = client.worker.since(stamp, now);
            client.tally.observe(taken, count);
        }
    }
}

fn close_reason(closing: Closing) -> CloseReason {
    match closing {
        Closing::Quit => CloseReason::Quit,
        Closing::Http => CloseReason::Http,
        Closing::Guessing => CloseReason::AuthFailures,
        Closing::Rejected => CloseReason::Rejected,
        Closing::Malformed => CloseReason::ProtocolError,
        Closing::LateDenial => CloseReason::LateDenial,
    }
}

/// The answer to a right password of a user whose requests reach Redis as somebody else, where the session cannot go on so.
const STATE_IS_ANOTHERS: &str = "ERR keyward: what this connection has begun cannot go on as another user of Redis; use RESET before AUTH, or a new connection";

/// How long a closing connection waits for the client to read its last bytes.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

/// An idle check is never set closer than this.
const MIN_IDLE_CHECK: Duration = Duration::from_millis(10);
