//! Redis to client.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Buf;
use tokio::io::AsyncWrite;

use crate::metrics::{CloseReason, Side};
use crate::resp::ReplyScan;
use crate::session::{Fate, Stamp, Surprise};
use crate::upstream::{LaneEnd, Replies, Scratch, SeatEnd};

use super::super::alarms::Alarm;
use super::super::client::Client;
use super::{HIGH_WATER, Relay, Stop, Turn, WRITE_THROUGH};

impl Relay {
    pub(super) fn pull_replies(&mut self, turn: &mut Turn<'_, '_>, window: &mut [u8]) -> Result<bool, Stop> {
        if self.out.len() >= HIGH_WATER {
            return Ok(false);
        }
        let Some(lane) = &mut self.lane else {
            return Ok(false);
        };
        let count = match lane.poll_read(turn.cx, window) {
            Poll::Pending => {
                self.lane_is_dry = !lane.is_connecting();
                return Ok(false);
            }
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(end)) => return self.lane_ended(end).map(|()| true),
        };
        self.client.tally.received(Side::Upstream, count);
        if self.reply_carry.is_empty() {
            let read = window.get(..count).unwrap_or_default();
            let used = self.scan_replies(turn, read)?;
            self.reply_carry
                .extend_from_slice(read.get(used..).unwrap_or_default());
        } else {
            self.reply_carry
                .extend_from_slice(window.get(..count).unwrap_or_default());
            let mut carry = std::mem::take(&mut self.reply_carry);
            let used = self.scan_replies(turn, &carry)?;
            carry.advance(used);
            self.reply_carry = carry;
        }
        Ok(true)
    }

    /// Hands whole pieces of replies to the client; returns how many bytes were used.
    fn scan_replies(&mut self, turn: &mut Turn<'_, '_>, read: &[u8]) -> Result<usize, Stop> {
        let mut used = 0_usize;
        let mut settled = Settled::at(turn.now);
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
                self.deliver(turn.cx, rest.get(..len).unwrap_or_default())?;
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

    /// Part of a reply for the client: written at once if it is big and nothing is before it.
    fn deliver(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Result<(), Stop> {
        let mut rest = piece;
        if self.out.is_empty() && piece.len() >= WRITE_THROUGH {
            match Pin::new(&mut self.stream).poll_write(cx, piece) {
                Poll::Ready(Ok(0) | Err(_)) => return Err(Stop::silent(CloseReason::ClientReset)),
                Poll::Ready(Ok(count)) => {
                    rest = piece.get(count..).unwrap_or_default();
                    self.unflushed = true;
                    self.client.tally.sent(Side::Client, count);
                    self.alarms.clear(Alarm::WriteStall);
                }
                Poll::Pending => {}
            }
        }
        if !rest.is_empty() {
            self.want_out();
            self.out.extend_from_slice(rest);
        }
        Ok(())
    }

    /// Takes what has come on the shared lane.
    pub(super) fn pull_shared(&mut self, turn: &Turn<'_, '_>) -> Result<bool, Stop> {
        let Some(seat) = self.seat.take_if(|seat| seat.has_news()) else {
            return Ok(false);
        };
        if let Some(SeatEnd::TooSlow) = seat.end() {
            return Err(Stop::silent(CloseReason::SlowReader));
        }
        if self.out.len() >= HIGH_WATER {
            self.seat = Some(seat);
            return Ok(false);
        }
        seat.clear_news();
        let mut moved = seat
            .take_replies(|replies| self.take_in(replies, turn.now))
            .is_some();
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

    fn take_in(&mut self, replies: &mut Replies, now: Instant) {
        let mut settled = Settled::at(now);
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

    /// Writes replies to the client.
    pub(super) fn push_out(&mut self, cx: &mut Context<'_>) -> Result<bool, Stop> {
        if self.out.is_empty() && !self.unflushed {
            return Ok(false);
        }
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
            self.alarms.clear(Alarm::WriteStall);
        }
        if blocked {
            if !self.alarms.is_set(Alarm::WriteStall) {
                self.alarms.set(
                    Alarm::WriteStall,
                    Instant::now() + self.client.listener_config().write_stall_timeout,
                );
            }
        } else {
            self.alarms.clear(Alarm::WriteStall);
        }
        Ok(written > 0)
    }

    /// Takes a buffer for replies if there is none.
    fn want_out(&mut self) {
        if self.out.capacity() == 0 {
            self.out = self.client.worker.take_buffer();
        }
    }
}

/// Latencies of the requests that one read settled: one clock reading for all of them.
struct Settled {
    now: Instant,
    last: Option<(Stamp, usize)>,
}

impl Settled {
    fn at(now: Instant) -> Self {
        Self { now, last: None }
    }

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
            let taken = client.worker.since(stamp, self.now);
            client.tally.observe(taken, count);
        }
    }
}
