//! Client to Redis.

use std::io;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};

use crate::acl::{Class, Denied, LateLearning};
use crate::metrics::{CloseReason, Side};
use crate::resp::{Args, ProtocolError, ReplyScanner, RequestLimits, Scan};
use crate::session::{Action, Closing, Fate, Note, Request, Route};
use crate::upstream::Seat;

use super::{HIGH_WATER, Relay, Stop, Taken, Turn, close_reason};

/// Bytes of a request that are held while the keys it hangs on have not come. Behind it the request is forwarded to a lane
/// of its own and judged as it passes; users who may touch all keys never come here.
const HELD_REQUEST: usize = 1024 * 1024;

impl Relay {
    /// Whether requests may be taken now.
    pub(super) fn takes_requests(&self) -> bool {
        self.penalty.is_none()
            && self.session.takes_requests()
            && self.out.len() < HIGH_WATER
            && self.lane.as_ref().is_none_or(|lane| {
                lane.has_room() && !(lane.is_retired() && self.body.is_none() && self.session.may_move())
            })
            && self.seat.as_ref().is_none_or(Seat::takes_requests)
    }

    /// Takes requests until the client has sent no more, or there is no room.
    pub(super) fn pull_requests(
        &mut self,
        turn: &mut Turn<'_, '_>,
        window: &mut [u8],
    ) -> Result<Taken, Stop> {
        let mut taken = Taken {
            any: false,
            held: false,
        };
        loop {
            if self.session.closing().is_some() || self.half_closed && !self.stalled {
                return Ok(taken);
            }
            if self.stalled && self.takes_requests() {
                self.stalled = false;
                taken.any |= self.take_carried(turn)?;
            }
            if self.stalled || !self.takes_requests() {
                if let Some(seat) = &self.seat {
                    seat.wait_for_room(turn.cx);
                }
                taken.held = true;
                return Ok(taken);
            }
            if self.half_closed {
                continue;
            }
            let mut buffer = ReadBuf::new(window);
            let count = match Pin::new(&mut self.stream).poll_read(turn.cx, &mut buffer) {
                Poll::Pending => return Ok(taken),
                Poll::Ready(Ok(())) => buffer.filled().len(),
                // Closing without close_notify is what many clients do; only in the middle of a request is it a loss (S-16).
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                Poll::Ready(Err(_)) => {
                    // What it sent before, Redis would have executed.
                    let _ = self.push_lane(turn.cx);
                    return Err(Stop::silent(CloseReason::ClientReset));
                }
            };
            taken.any = true;
            if count == 0 {
                self.half_closed = true;
                continue;
            }
            self.client.tally.received(Side::Client, count);
            self.last_heard = turn.now;
            if self.carry.is_empty() {
                let read = window.get(..count).unwrap_or_default();
                let used = self.scan_requests(turn, read)?;
                self.carry.extend_from_slice(read.get(used..).unwrap_or_default());
            } else {
                self.carry
                    .extend_from_slice(window.get(..count).unwrap_or_default());
                self.take_carried(turn)?;
            }
        }
    }

    fn take_carried(&mut self, turn: &mut Turn<'_, '_>) -> Result<bool, Stop> {
        let mut carry = std::mem::take(&mut self.carry);
        let used = self.scan_requests(turn, &carry)?;
        carry.advance(used);
        self.carry = carry;
        Ok(used > 0)
    }

    /// Takes requests out of what was read; returns how many bytes were used.
    fn scan_requests(&mut self, turn: &mut Turn<'_, '_>, read: &[u8]) -> Result<usize, Stop> {
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
                    self.handle(turn, rest.get(..len).unwrap_or_default(), argc, true)?,
                ),
                Scan::Inline { len, argc } => {
                    // Inline is for people at a keyboard: a copy costs nothing that matters.
                    let bytes = BytesMut::from(self.requests.inline_request());
                    (len, self.handle(turn, &bytes, argc, true)?)
                }
                Scan::Head { len, argc } => {
                    let handled = self.handle(turn, rest.get(..len).unwrap_or_default(), argc, false)?;
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
                                self.put_on_lane(turn.cx, bytes);
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

    /// A request is refused of which Redis has the first part: it drops that when the lane closes.
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
    fn handle(
        &mut self,
        turn: &mut Turn<'_, '_>,
        bytes: &[u8],
        argc: u32,
        whole: bool,
    ) -> Result<Handled, Stop> {
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
                    Route::Own => self.put_on_lane(turn.cx, bytes),
                }
                self.session.forwarded(expect, turn.stamp);
                self.client.tally.command(command.id.index());
                if command.class == Class::Admin {
                    self.admin_command(command.name);
                }
                return Ok(Handled::Consumed(Fate::Deliver));
            }
            Action::Substitute { request, expect } => {
                self.open_lane().extend_from_slice(&request);
                self.session.forwarded(expect, turn.stamp);
            }
            Action::Greet { request, effect } => self.greet(turn, &request, effect),
            Action::Answered => {}
            Action::Login(login) => self.login(&login, turn)?,
            Action::Wait => return Ok(Handled::Wait),
            Action::Hold => return Ok(Handled::Hold),
            Action::Reset => self.reset(turn.now),
            Action::Close(closing) => return Err(Stop::silent(close_reason(closing))),
        }
        Ok(Handled::Consumed(Fate::Drop))
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
