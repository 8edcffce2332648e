//! The task that serves a shared lane: it writes the batches and hands the replies out.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::resp::{FrameKind, ReplyScan, ReplyScanner};

use super::super::flight::Flight;
use super::super::gather::{Gather, Next};
use super::super::{Dial, DialError, Dialed};
use super::{HIGH_WATER, LaneReport, LostWhen, Queue, STALL_MARK, Scratch, SeatEnd, SharedLane, Slot};

/// Bytes of replies that a session may leave unread while others wait behind it; then it is disconnected.
const MAX_BACKLOG: usize = 64 * 1024 * 1024;

/// So long may one session in front hold up those behind it because it reads slowly, for each run of its requests.
const STALL_BUDGET: Duration = Duration::from_millis(250);

/// Bytes of requests that do not wait for the replies to the batch before (see [`Flight`]).
const FULL_BATCH: usize = 32 * 1024;

/// Windows that are read in one go before the sessions get a turn.
const READS_PER_TURN: usize = 4;

/// A lane that nobody used for so long is closed.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// A session that got a larger reply than this takes a lane of its own from then on.
const BIG_REPLY: usize = 64 * 1024;

/// The task of a lane: a future that ends with it.
pub struct Driver<S, R> {
    lane: Rc<SharedLane>,
    connection: Connection,
    scratch: Rc<S>,
    report: R,
    replies: ReplyScanner,
    /// Read and not consumed: the head of one reply.
    carry: BytesMut,
    /// Bytes so far of the reply that is passing.
    reply_size: usize,
    /// Replies that the last read completed.
    completed: u64,
    /// Position behind the last byte written.
    sent: u64,
    unflushed: bool,
    flight: Flight,
    gather: Gather,
    /// The thread's pauses that this lane knows of.
    pauses: u64,
    /// A turn for everybody else, whose sockets are asked first.
    turn: Option<Pin<Box<dyn Future<Output = ()>>>>,
    stall: Stall,
    idle: Pin<Box<Sleep>>,
    /// Something was sent since the idle time was last looked at.
    busy: bool,
}

enum Connection {
    Dialing(Dial),
    Open(Box<Dialed>),
}

/// How long the slow reader in front has held up the others.
#[derive(Default)]
struct Stall {
    spent: Duration,
    since: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
}

/// Why a lane ends.
enum End {
    Dial(DialError),
    Lost,
    Surprise(&'static str),
    LoginLost,
    Idle,
}

impl<S: Scratch, R: LaneReport> Future for Driver<S, R>
where
    Self: Unpin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let driver = self.get_mut();
        driver.lane.task.register(cx);
        match driver.drive(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(end) => {
                driver.finish(&end);
                Poll::Ready(())
            }
        }
    }
}

impl<S: Scratch, R: LaneReport> Driver<S, R> {
    pub(super) fn new(lane: Rc<SharedLane>, dial: Dial, scratch: Rc<S>, report: R) -> Self {
        Self {
            lane,
            connection: Connection::Dialing(dial),
            scratch,
            report,
            replies: ReplyScanner::new(),
            carry: BytesMut::new(),
            reply_size: 0,
            completed: 0,
            sent: 0,
            unflushed: false,
            flight: Flight::default(),
            gather: Gather::default(),
            pauses: 0,
            turn: None,
            stall: Stall::default(),
            idle: Box::pin(tokio::time::sleep(IDLE_TIME)),
            busy: true,
        }
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if let Connection::Dialing(dial) = &mut self.connection {
            match ready!(dial.as_mut().poll(cx)) {
                Ok(dialed) => self.connection = Connection::Open(dialed),
                Err(error) => return Poll::Ready(End::Dial(error)),
            }
        }
        if let Err(end) = self.write(cx) {
            return Poll::Ready(end);
        }
        for _ in 0..READS_PER_TURN {
            if self.is_stalled(cx) {
                return Poll::Pending;
            }
            match self.read(cx) {
                Poll::Pending => return self.check_idle(cx),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
            }
            // What has waited for these replies leaves before the sessions deal with them.
            if let Err(end) = self.write(cx) {
                return Poll::Ready(end);
            }
        }
        // The sessions get a turn before more is read for them.
        self.lane.task.wake();
        Poll::Pending
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        if !matches!(self.connection, Connection::Open(_)) {
            return Ok(());
        }
        let lane = Rc::clone(&self.lane);
        let mut queue = lane.queue.borrow_mut();
        if !self.unflushed && queue.out.len() < FULL_BATCH && self.flight.is_worth_waiting_for() {
            return Ok(());
        }
        if self.gathers(&queue, cx) {
            return Ok(());
        }
        let Connection::Open(dialed) = &mut self.connection else {
            return Ok(());
        };
        let mut written = 0_usize;
        while !queue.out.is_empty() {
            match Pin::new(&mut dialed.stream).poll_write(cx, &queue.out) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(End::Lost),
                Poll::Ready(Ok(count)) => {
                    written = written.saturating_add(count);
                    self.unflushed = true;
                    if count == queue.out.len() {
                        queue.out.clear();
                    } else {
                        queue.out.advance(count);
                    }
                }
                Poll::Pending => break,
            }
        }
        if written > 0 {
            self.sent = self.sent.saturating_add(written as u64);
            self.busy = true;
            self.report.flushed(std::mem::take(&mut queue.batch), written);
            if queue.out.is_empty() {
                self.flight.departs(queue.total, Instant::now);
            }
            if queue.out.is_empty() && queue.out.capacity() > HIGH_WATER {
                queue.out = BytesMut::new();
            }
            if queue.out.len() < HIGH_WATER {
                for waker in queue.waiting.drain(..) {
                    waker.wake();
                }
            }
        }
        if self.unflushed {
            match Pin::new(&mut dialed.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(End::Lost),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Whether the batch waits for more (see [`Gather`]): everybody who has got something takes his turn, then the thread
    /// sleeps for a moment, so that what comes meanwhile wakes nobody, then everybody takes another turn.
    fn gathers(&mut self, queue: &Queue, cx: &mut Context<'_>) -> bool {
        if let Some(turn) = &mut self.turn {
            if turn.as_mut().poll(cx).is_pending() {
                return true;
            }
            self.turn = None;
            self.lane.gathers.set(false);
        }
        let waits = !queue.out.is_empty() && queue.out.len() < FULL_BATCH;
        if !waits || self.unflushed || !self.flight.is_short() {
            return false;
        }
        let pauses = self.scratch.pauses();
        if pauses.get() != self.pauses {
            // Another lane's pause has brought whatever was to be had.
            self.pauses = pauses.get();
            self.gather.give_up();
        }
        match self.gather.next(queue.slots.len(), queue.crowd.size()) {
            Next::Write => return false,
            Next::Turn => {}
            Next::Pause(pause) => {
                self.report.paused();
                self.pauses = self.pauses.wrapping_add(1);
                pauses.set(self.pauses);
                std::thread::sleep(pause);
            }
        }
        let mut turn = Box::pin(tokio::task::yield_now());
        // The runtime wakes us when everybody has had his turn; nobody else needs to.
        let waits = turn.as_mut().poll(cx).is_pending();
        self.lane.gathers.set(waits);
        self.turn = Some(turn);
        waits
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let scratch = Rc::clone(&self.scratch);
        scratch.with_window(|window| {
            let Connection::Open(dialed) = &mut self.connection else {
                return Poll::Pending;
            };
            let mut buffer = ReadBuf::new(window);
            let count = match ready!(Pin::new(&mut dialed.stream).poll_read(cx, &mut buffer)) {
                Ok(()) => buffer.filled().len(),
                Err(_) => return Poll::Ready(Err(End::Lost)),
            };
            if count == 0 {
                return Poll::Ready(Err(End::Lost));
            }
            let read = window.get(..count).unwrap_or_default();
            self.completed = 0;
            let result = if self.carry.is_empty() {
                self.deliver(read).map(|used| {
                    self.carry.extend_from_slice(read.get(used..).unwrap_or_default());
                })
            } else {
                self.carry.extend_from_slice(read);
                let mut carry = std::mem::take(&mut self.carry);
                self.deliver(&carry).map(|used| {
                    carry.advance(used);
                    if !carry.is_empty() {
                        self.carry = carry;
                    }
                })
            };
            self.flight.lands(Instant::now);
            self.report.received(count, self.completed);
            Poll::Ready(result)
        })
    }

    /// Hands replies to those whose turn it is; returns how many bytes were used.
    fn deliver(&mut self, read: &[u8]) -> Result<usize, End> {
        let lane = Rc::clone(&self.lane);
        let mut queue = lane.queue.borrow_mut();
        let mut used = 0_usize;
        loop {
            let rest = read.get(used..).unwrap_or_default();
            let scan = self
                .replies
                .scan(rest)
                .map_err(|error| End::Surprise(error.label()))?;
            let ReplyScan::Piece { len, first, last } = scan else {
                return Ok(used);
            };
            let Some(slot) = queue.slots.front_mut() else {
                return Err(End::Surprise("unasked_reply"));
            };
            if first {
                self.reply_begins(slot)?;
            }
            self.reply_size = self.reply_size.saturating_add(len);
            if let Some(inbox) = &slot.inbox {
                if self.reply_size > BIG_REPLY {
                    inbox.bulky.set(true);
                    // Nobody else gets behind it: those who come now take another lane.
                    lane.closed.set(true);
                }
                if !inbox.gone.get() {
                    let piece = rest.get(..len).unwrap_or_default();
                    inbox.take_in(piece, last, &*self.scratch);
                }
            }
            used = used.saturating_add(len);
            if last {
                self.reply_size = 0;
                self.flight.answered();
                self.completed = self.completed.saturating_add(u64::from(slot.inbox.is_some()));
                slot.count = slot.count.saturating_sub(1);
                if slot.count == 0 {
                    queue.slots.pop_front();
                    self.stall = Stall::default();
                }
            }
        }
    }

    /// Nothing but one reply for each request may come here: no push, no login lost, no refused state of ours.
    fn reply_begins(&self, slot: &Slot) -> Result<(), End> {
        let kind = self.replies.kind();
        if kind == FrameKind::Push {
            return Err(End::Surprise("unasked_push"));
        }
        if !kind.is_error() {
            return Ok(());
        }
        let code = self.replies.word();
        self.report.error_reply(code);
        if code == b"NOAUTH" {
            return Err(End::LoginLost);
        }
        if slot.inbox.is_none() {
            return Err(End::Surprise("replay_refused"));
        }
        Ok(())
    }

    /// Whether the session in front has so much unread that reading on must wait.
    fn is_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        let lane = Rc::clone(&self.lane);
        let queue = lane.queue.borrow();
        let front = queue.slots.front().and_then(|slot| slot.inbox.as_ref());
        let Some(inbox) = front.filter(|inbox| !inbox.gone.get() && inbox.backlog() >= STALL_MARK) else {
            self.stall.ends();
            return false;
        };
        let alone = queue
            .slots
            .iter()
            .all(|slot| slot.inbox.as_ref().is_some_and(|other| Rc::ptr_eq(other, inbox)));
        if alone {
            // As with a big reply.
            self.lane.closed.set(true);
            self.stall.ends();
            return true;
        }
        if self.stall.lasts(cx) {
            return true;
        }
        if inbox.backlog() >= MAX_BACKLOG {
            self.report.slow_reader();
            inbox.fail(SeatEnd::TooSlow);
            inbox.gone.set(true);
        }
        false
    }

    fn check_idle(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.lane.closed.get() && self.lane.queue.borrow().slots.is_empty() {
            return Poll::Ready(End::Idle);
        }
        while self.idle.as_mut().poll(cx).is_ready() {
            if !std::mem::replace(&mut self.busy, false) && SharedLane::is_unused(&self.lane) {
                return Poll::Ready(End::Idle);
            }
            self.idle.as_mut().reset(Instant::now() + IDLE_TIME);
        }
        Poll::Pending
    }

    /// The lane is over: those in flight are told so, the others get their requests back (rule 3d).
    fn finish(&self, end: &End) {
        self.lane.closed.set(true);
        let mut queue = self.lane.queue.borrow_mut();
        let queue = &mut *queue;
        for waker in queue.waiting.drain(..) {
            waker.wake();
        }
        let verdict = match end {
            End::Dial(error) => SeatEnd::Dial(error.clone()),
            End::LoginLost => SeatEnd::LoginLost,
            End::Lost | End::Surprise(_) | End::Idle => SeatEnd::Lost,
        };
        let slots = std::mem::take(&mut queue.slots);
        let in_flight = |slot: &Slot| slot.start < self.sent || matches!(end, End::Dial(_));
        let waiting = slots.iter().any(|slot| slot.inbox.is_some() && in_flight(slot));
        match end {
            End::Surprise(what) => self.report.surprised(what),
            End::LoginLost => self.report.surprised("session_lost"),
            End::Lost => self
                .report
                .lost(match (waiting, self.reply_size > 0 || !self.carry.is_empty()) {
                    (_, true) => LostWhen::Reply,
                    (true, false) => LostWhen::Waiting,
                    (false, false) => LostWhen::Idle,
                }),
            End::Dial(_) | End::Idle => {}
        }
        for slot in slots.iter().filter(|slot| in_flight(slot)) {
            if let Some(inbox) = &slot.inbox {
                inbox.fail(verdict.clone());
            }
        }
        for (index, slot) in slots.iter().enumerate() {
            let Some(inbox) = &slot.inbox else { continue };
            if in_flight(slot) || inbox.end.borrow().is_some() {
                continue;
            }
            let offset =
                |position: u64| usize::try_from(position.saturating_sub(self.sent)).unwrap_or(usize::MAX);
            let from = offset(slot.start);
            let to = slots
                .get(index.saturating_add(1))
                .map_or(queue.out.len(), |next| offset(next.start));
            inbox.give_back(queue.out.get(from..to).unwrap_or_default(), slot.count);
        }
        queue.out = BytesMut::new();
    }
}

impl Stall {
    fn ends(&mut self) {
        if let Some(since) = self.since.take() {
            self.spent = self.spent.saturating_add(since.elapsed());
        }
    }

    /// Whether the budget lasts; the task is woken when it is spent.
    fn lasts(&mut self, cx: &mut Context<'_>) -> bool {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        let left = STALL_BUDGET.saturating_sub(self.spent);
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(since + left)));
        alarm.as_mut().reset(since + left);
        alarm.as_mut().poll(cx).is_pending()
    }
}
