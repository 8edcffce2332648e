//! The lanes that a session has: its place on a shared one, and one of its own.

use std::task::{Context, Poll};

use bytes::BytesMut;

use crate::metrics::{CloseReason, Side, UpstreamClosed};
use crate::resp::ReplyScanner;
use crate::session::Surprise;
use crate::upstream::{Lane, LaneEnd, LaneState, Scratch, Seat};

use super::super::alarms::Alarm;
use super::{Relay, Stop, WRITE_THROUGH};

impl Relay {
    /// The place on the lane that fits the session now.
    pub(super) fn seat(&mut self) -> &Seat {
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

    /// The lane's buffer; a session without a lane gets one, with its state put on it first.
    pub(super) fn open_lane(&mut self) -> &mut BytesMut {
        let Self {
            lane,
            seat,
            session,
            client,
            lane_is_dry,
            ..
        } = self;
        let lane = lane.get_or_insert_with(|| {
            *lane_is_dry = false;
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

    /// A request for the own lane, or part of one: written at once if it is big and nothing is before it.
    pub(super) fn put_on_lane(&mut self, cx: &mut Context<'_>, bytes: &[u8]) {
        let mut rest = bytes;
        self.open_lane();
        if bytes.len() >= WRITE_THROUGH
            && let Some(lane) = &mut self.lane
        {
            let count = lane.write_through(cx, bytes);
            self.client.tally.sent(Side::Upstream, count);
            rest = bytes.get(count..).unwrap_or_default();
        }
        if !rest.is_empty() {
            self.open_lane().extend_from_slice(rest);
        }
    }

    pub(super) fn push_lane(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
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
                Ok(true)
            }
            Poll::Ready(Err(end)) => self.lane_ended(end).map(|()| true),
        }
    }

    /// Gives a lane back that the session needs no longer.
    pub(super) fn release_lane(&mut self) {
        let pinned = self.session.pinned();
        if pinned != self.pinned.as_ref().map(|(pin, _)| *pin) {
            self.pinned = pinned.map(|pin| (pin, self.client.metrics().session_pinned(pin)));
        }
        let idle = self.body.is_none() && self.replies.is_idle() && self.reply_carry.is_empty();
        if self.lane.as_ref().is_some_and(Lane::is_retired) {
            if idle && self.session.survives_lane_loss() && self.is_settled() {
                self.lane = None;
                self.alarms.clear(Alarm::Retirement);
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
        if resp3 {
            self.client.target().upstream.has_spoken_resp3();
        }
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

    /// Gives up the lane of another login. `false`: the session has left something on it that cannot be taken along.
    pub(super) fn leave_lane(&mut self) -> bool {
        let idle = self.body.is_none() && self.replies.is_idle() && self.reply_carry.is_empty();
        let leaves = idle && self.session.survives_lane_loss() && self.is_settled();
        if leaves {
            self.lane = None;
        }
        leaves
    }

    /// The lane is gone: with nothing lost the session goes on and takes another when it needs one (F-3).
    pub(super) fn lane_ended(&mut self, end: LaneEnd) -> Result<(), Stop> {
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

    pub(super) fn surprised(&self, surprise: Surprise) -> Stop {
        self.client.desync(surprise.label());
        match surprise.reply() {
            Some(text) => Stop::saying(CloseReason::UpstreamClosed, text),
            None => Stop::silent(CloseReason::Desync),
        }
    }
}
