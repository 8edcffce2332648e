//! The data path of one connection: client ⇄ session ⇄ lane, as one future that is polled by hand.
//!
//! ```text
//!   client ── read ──► RequestScanner ──► Session ──► lane.buffer ── write ──► Redis
//!   client ◄─ write ── out ◄──────────── Session ◄── ReplyScanner ◄── read ─── Redis
//! ```
//!
//! Every byte is read once into the worker's scratch window, scanned in place and copied once into the buffer of the
//! other side, or, if it is part of something big, written to it from there. Both buffers are bounded: above the mark the side that feeds them is not read, so a slow client slows
//! Redis's replies down and not the other way round (F-27). An idle connection holds no buffer at all.

mod identity;
mod lanes;
mod replies;
mod requests;
mod time;

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::acl::LateLearning;
use crate::auth::AuthFailure;
use crate::metrics::{CloseReason, GaugeGuard};
use crate::net::Stream;
use crate::resp::{ReplyScanner, RequestScanner, encode};
use crate::session::{Closing, Fate, PinReason, Session, Stamp};
use crate::upstream::{Lane, Scratch, Seat};

use super::super::worker::{Colleague, Worker};
use super::alarms::{Alarm, Alarms};
use super::client::Client;

/// Windows of replies that are read before the client is.
const READS_PER_TURN: usize = 4;

/// Bytes that are worth a system call of their own to save them from being copied.
const WRITE_THROUGH: usize = 16 * 1024;

/// Bytes of replies that may wait for the client; above it Redis is not read (L-27).
const HIGH_WATER: usize = 64 * 1024;

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
    /// Read from the client and not consumed: at most one window and the head of one request, or what [`requests`] holds.
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
    /// The task is woken when something comes on it.
    lane_is_dry: bool,
    /// What it needs that for, counted.
    pinned: Option<(PinReason, GaugeGuard)>,
    replies: ReplyScanner,
    /// Read from Redis and not consumed: the head of one reply.
    reply_carry: BytesMut,
    fate: Fate,
    /// A refused login whose answer is being held back.
    penalty: Option<AuthFailure>,
    alarms: Alarms,
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

/// One poll of the task.
struct Turn<'turn, 'task> {
    cx: &'turn mut Context<'task>,
    /// The clock is read once a turn.
    now: Instant,
    /// The same, for the requests that are forwarded.
    stamp: Stamp,
}

impl<'turn, 'task> Turn<'turn, 'task> {
    fn new(cx: &'turn mut Context<'task>, now: Instant, worker: &Worker) -> Self {
        let stamp = worker.stamp(now);
        Self { cx, now, stamp }
    }
}

/// What came of reading from the client.
struct Taken {
    /// Something was read, or taken out of what had been.
    any: bool,
    /// More could have been, had there been room for it or for its reply.
    held: bool,
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
            relay.alarms.set(Alarm::Login, deadline);
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
        let mut alarms = Alarms::default();
        if let Some(timeout) = client.listener_config().idle_timeout {
            alarms.set(Alarm::Idle, last_heard + timeout);
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
            lane_is_dry: false,
            pinned: None,
            replies: ReplyScanner::new(),
            reply_carry: BytesMut::new(),
            fate: Fate::Deliver,
            penalty: None,
            alarms,
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
            && let Err(stop) = self.poll_orders(cx, now)
        {
            self.stop(stop);
        }
        let worker = Rc::clone(&self.client.worker);
        worker.with_window(|window| {
            if self.ending.is_none()
                && let Err(stop) = self.drive(&mut Turn::new(cx, now, &worker), window)
            {
                self.stop(stop);
            }
        });
        if let Some(reason) = self.ending {
            return self.poll_ending(cx, reason, now).map(Outcome::Ended);
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
        if !self.alarms.is_set(Alarm::Absence) && self.is_deaf() {
            let blocking = self.session.has_blocking();
            let check = if blocking {
                BLOCKED_ABSENCE_CHECK
            } else {
                ABSENCE_CHECK
            };
            self.alarms.set(Alarm::Absence, now + check);
        }
        self.alarms.register(cx);
        Poll::Pending
    }

    /// Moves bytes in both directions until nothing moves any more.
    ///
    /// Each step goes on until it must wait, and then is woken for; another round is due only where a later step made room
    /// for an earlier one that waits for nothing else.
    fn drive(&mut self, turn: &mut Turn<'_, '_>, window: &mut [u8]) -> Result<(), Stop> {
        loop {
            let mut moved = self.pull_shared(turn)?;
            for _ in 0..READS_PER_TURN {
                if !self.pull_replies(turn, window)? {
                    break;
                }
                moved = true;
                self.lane_is_dry = false;
            }
            let full = self.out.len() >= HIGH_WATER;
            let written = self.push_out(turn.cx)?;
            let taken = self.pull_requests(turn, window)?;
            let forwarded = self.push_lane(turn.cx)?;
            // An answer of ours to a request that has just been read.
            let answered = self.push_out(turn.cx)?;
            if moved || written || taken.any || forwarded || answered {
                self.last_moved = turn.now;
            }
            self.check_end(turn.now)?;
            let room_for_replies = full && (written || answered);
            let room_for_requests = taken.held && (forwarded || answered);
            let fresh_lane = !self.lane_is_dry
                && self.out.len() < HIGH_WATER
                && self.lane.as_ref().is_some_and(|lane| !lane.is_connecting());
            if !room_for_replies && !room_for_requests && !fresh_lane {
                return Ok(());
            }
        }
    }

    /// Whether everything asked for has been answered, or handed over to Redis if it wants no answer.
    fn is_settled(&self) -> bool {
        self.session.is_settled() && self.lane.as_ref().is_none_or(Lane::is_flushed)
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
            if !self.alarms.is_set(Alarm::Grace) {
                self.alarms.set(Alarm::Grace, now + HALF_CLOSE_GRACE);
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

    fn stop(&mut self, stop: Stop) {
        if let Some(text) = stop.say {
            encode::error(&mut self.out, &text);
        }
        self.lane = None;
        self.seat = None;
        self.ending = Some(stop.reason);
        self.alarms.keep_only(Alarm::WriteStall);
    }

    fn poll_ending(&mut self, cx: &mut Context<'_>, reason: CloseReason, now: Instant) -> Poll<CloseReason> {
        if matches!(reason, CloseReason::ClientReset | CloseReason::WriteStall)
            || self.client.control.is_aborting()
        {
            return Poll::Ready(reason);
        }
        self.client.control.watch(cx);
        if self.alarms.rings(Alarm::WriteStall, now) {
            return Poll::Ready(reason);
        }
        match self.push_out(cx) {
            Ok(_) if self.out.is_empty() && !self.unflushed => Poll::Ready(reason),
            Ok(_) => {
                self.alarms.register(cx);
                Poll::Pending
            }
            Err(stop) => Poll::Ready(stop.reason),
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

/// How long a closing connection waits for the client to read its last bytes.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);
