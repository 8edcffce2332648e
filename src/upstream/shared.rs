//! A lane that the sessions of one user share: their requests leave in one batch, their replies come back in order.
//!
//! ```text
//!  session A ──┐                                                    ┌──► inbox of A
//!  session B ──┼──► out: A A B C  ── one write a round ──► Redis ───┼──► inbox of B
//!  session C ──┘    queue: [A×2][B][C]   ◄── one read ──            └──► inbox of C
//! ```
//!
//! A [`Seat`] is one session's place on the lane. It appends whole requests of commands that bring exactly one reply and
//! leave nothing behind (rule 3b); the [`Driver`], a task of its own on the same thread, writes them once a scheduler
//! round and hands each reply to the session whose turn it is. There is no lock and no atomic on this path.
//!
//! | what happens | who notices |
//! |---|---|
//! | a session leaves with replies outstanding | nobody: its replies are dropped when they come (S-16) |
//! | a session does not read | only itself: see [`MAX_BACKLOG`] and [`STALL_BUDGET`] |
//! | Redis sends what nobody asked for, or closes | the sessions with requests in flight; what was not written yet is handed back to be sent again (rule 3d) |

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::resp::{FrameKind, ReplyScan, ReplyScanner, encode};

use super::flight::Flight;
use super::gather::{Crowd, Gather, Next};
use super::{Dial, DialError, Dialed, Target};

/// Requests above this size travel on a lane of their session's own, so that nobody waits behind them.
pub const MAX_SHARED_REQUEST: usize = 16 * 1024;

/// A session that got a larger reply than this takes a lane of its own from then on.
const BIG_REPLY: usize = 64 * 1024;

/// Bytes of replies that a session may leave unread while others wait behind it; then it is disconnected.
const MAX_BACKLOG: usize = 64 * 1024 * 1024;

/// While a session has so many bytes unread, its lane is not read, as far as the [`STALL_BUDGET`] goes.
const STALL_MARK: usize = 512 * 1024;

/// So long may one session in front hold up those behind it because it reads slowly, for each run of its requests.
const STALL_BUDGET: Duration = Duration::from_millis(250);

/// Bytes of requests that may wait for the lane; above it its sessions are not read.
const HIGH_WATER: usize = 256 * 1024;

/// Bytes of requests that do not wait for the replies to the batch before (see [`Flight`]).
const FULL_BATCH: usize = 32 * 1024;

/// Windows that are read in one go before the sessions get a turn.
const READS_PER_TURN: usize = 4;

/// A lane that nobody used for so long is closed.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// What makes connections to Redis differ besides their user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaneState {
    /// Database.
    pub db: u32,
    /// RESP3, else RESP2.
    pub resp3: bool,
}

/// Memory that all lanes and sessions of a thread have in common.
pub trait Scratch {
    /// Lends the read window.
    fn with_window<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T;
    /// An empty buffer with some room.
    fn take_buffer(&self) -> BytesMut;
    /// Takes an empty buffer back.
    fn give_buffer(&self, buffer: BytesMut);
    /// How many pauses the thread has made for its lanes: one serves all of them.
    fn pauses(&self) -> &Cell<u64>;
}

/// What a lane reports; see `metrics`.
pub trait LaneReport {
    /// A batch waited a moment for more requests.
    fn paused(&self);
    /// So many requests left in one write.
    fn flushed(&self, requests: u64, bytes: usize);
    /// So many bytes came, which completed so many replies.
    fn received(&self, bytes: usize, replies: u64);
    /// An error reply passed, with this code.
    fn error_reply(&self, code: &[u8]);
    /// The lane ended with what nobody can attribute.
    fn surprised(&self, what: &'static str);
    /// Redis or the network ended the lane.
    fn lost(&self, when: LostWhen);
    /// A session was told to go because it did not read.
    fn slow_reader(&self);
}

/// What a lane was doing when it was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostWhen {
    /// Nothing.
    Idle,
    /// Waiting for replies.
    Waiting,
    /// In the middle of a reply.
    Reply,
}

/// Why a session's requests on a shared lane will never be answered.
#[derive(Debug, Clone)]
pub enum SeatEnd {
    /// The lane could not be opened.
    Dial(DialError),
    /// The connection broke with requests in flight.
    Lost,
    /// Redis has forgotten our login.
    LoginLost,
    /// The session did not read its replies.
    TooSlow,
}

/// The part of a lane that sessions see.
pub struct SharedLane {
    state: LaneState,
    target: Target,
    queue: RefCell<Queue>,
    /// No further requests: it has ended, or a big reply has it for itself.
    closed: Cell<bool>,
    /// Its task comes for what is in the queue by itself.
    gathers: Cell<bool>,
    task: Task,
}

#[derive(Default)]
struct Queue {
    /// Requests that have not been written.
    out: BytesMut,
    /// Whose the replies are, oldest first. Bounded by the outstanding requests of each session, `MAX_OUTSTANDING`.
    slots: VecDeque<Slot>,
    /// Position behind the last byte of `out`, counted from the lane's beginning.
    end: u64,
    /// Requests appended since the last write.
    batch: u64,
    /// Requests appended since the lane's beginning, our own included.
    total: u64,
    /// Who waits for room.
    waiting: Vec<Waker>,
    /// How many sessions send something.
    crowd: Crowd,
}

/// Requests of one session that follow each other.
struct Slot {
    /// `None`: our own, whose replies nobody sees.
    inbox: Option<Rc<Inbox>>,
    count: u32,
    /// Position of the first byte.
    start: u64,
}

/// Wakes a task at most once until it runs.
#[derive(Default)]
struct Task {
    waker: RefCell<Option<Waker>>,
    woken: Cell<bool>,
}

/// Replies on their way to one session.
#[derive(Default)]
struct Inbox {
    replies: RefCell<Replies>,
    /// Requests of the session on this lane without a whole reply.
    outstanding: Cell<usize>,
    end: RefCell<Option<SeatEnd>>,
    /// Requests that were never written and have to be sent again.
    returned: RefCell<Option<(BytesMut, u32)>>,
    bulky: Cell<bool>,
    /// See [`Crowd::see`].
    seen: Cell<u64>,
    /// One of these has changed since the session last looked.
    news: Cell<bool>,
    gone: Cell<bool>,
    task: Task,
}

/// Bytes of replies, and where in them each whole one ends.
#[derive(Default)]
pub struct Replies {
    /// In the order of the requests; the last may be incomplete.
    pub bytes: BytesMut,
    /// Positions in `bytes`.
    pub ends: Vec<usize>,
}

/// A session's place on a shared lane; its replies are dropped when it is.
pub struct Seat {
    lane: Rc<SharedLane>,
    inbox: Rc<Inbox>,
}

impl Task {
    fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        self.woken.set(false);
    }

    fn wake(&self) {
        if !self.woken.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }
}

impl SharedLane {
    /// A lane in this state over a connection in the making, and the task that serves it. The connection is either
    /// fresh or in this state already. Nothing happens before the task is polled.
    pub fn open<S: Scratch, R: LaneReport>(
        target: &Target,
        state: LaneState,
        dial: Dial,
        scratch: Rc<S>,
        report: R,
    ) -> (Rc<Self>, Driver<S, R>) {
        let mut queue = Queue::default();
        // A fresh connection is on the URL's database and speaks RESP2.
        if state.resp3 {
            encode::request(&mut queue.out, &[b"HELLO", b"3"]);
            queue.push(None, 1, 0);
        }
        if state.db != target.upstream.database() {
            encode::request(&mut queue.out, &[b"SELECT", state.db.to_string().as_bytes()]);
            queue.push(None, 1, 0);
        }
        queue.end = queue.out.len() as u64;
        let lane = Rc::new(Self {
            state,
            target: target.clone(),
            queue: RefCell::new(queue),
            closed: Cell::new(false),
            gathers: Cell::new(false),
            task: Task::default(),
        });
        let driver = Driver {
            lane: Rc::clone(&lane),
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
        };
        (lane, driver)
    }

    /// Whether new requests may be put on it.
    pub fn is_open(&self) -> bool {
        !self.closed.get()
    }

    /// Closes it to new requests; it ends when those on it have been answered.
    pub fn retire(&self) {
        self.closed.set(true);
        self.task.wake();
    }

    /// Where it leads.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether no session is on it and nothing under way: it is held by its task and by the list of lanes alone.
    pub fn is_unused(lane: &Rc<Self>) -> bool {
        Rc::strong_count(lane) <= 2 && lane.queue.borrow().slots.is_empty()
    }

    /// Whether it is a connection to there in this state.
    pub fn fits(&self, target: &Target, state: LaneState) -> bool {
        self.state == state && self.target.is_same(target)
    }
}

impl Queue {
    fn push(&mut self, inbox: Option<&Rc<Inbox>>, count: u32, start: u64) {
        self.total = self.total.saturating_add(u64::from(count));
        if let (Some(inbox), Some(last)) = (inbox, self.slots.back_mut())
            && last.inbox.as_ref().is_some_and(|last| Rc::ptr_eq(last, inbox))
        {
            last.count = last.count.saturating_add(count);
            return;
        }
        self.slots.push_back(Slot {
            inbox: inbox.map(Rc::clone),
            count,
            start,
        });
    }
}

impl Seat {
    /// A place on this lane.
    pub fn new(lane: &Rc<SharedLane>) -> Self {
        Self {
            lane: Rc::clone(lane),
            inbox: Rc::default(),
        }
    }

    /// The lane it is on.
    pub fn lane(&self) -> &SharedLane {
        &self.lane
    }

    /// Whether more requests may be appended. A lane that has ended must first hand over what it owes.
    pub fn takes_requests(&self) -> bool {
        self.lane.queue.borrow().out.len() < HIGH_WATER && (self.lane.is_open() || self.is_settled())
    }

    /// Has the task of `cx` woken when there is room again.
    pub fn wait_for_room(&self, cx: &Context<'_>) {
        let mut queue = self.lane.queue.borrow_mut();
        if queue.out.len() >= HIGH_WATER && !queue.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            queue.waiting.push(cx.waker().clone());
        }
    }

    /// Appends so many whole requests; they leave with everyone else's at the end of this scheduler round.
    pub fn send(&self, requests: &[u8], count: u32) {
        let mut queue = self.lane.queue.borrow_mut();
        let start = queue.end;
        queue.out.extend_from_slice(requests);
        queue.end = start.saturating_add(requests.len() as u64);
        queue.batch = queue.batch.saturating_add(u64::from(count));
        let mut seen = self.inbox.seen.get();
        queue.crowd.see(&mut seen);
        self.inbox.seen.set(seen);
        queue.push(Some(&self.inbox), count, start);
        self.inbox
            .outstanding
            .set(self.inbox.outstanding.get().saturating_add(count as usize));
        drop(queue);
        if !self.lane.gathers.get() {
            self.lane.task.wake();
        }
    }

    /// Requests that have no whole reply yet.
    pub fn outstanding(&self) -> usize {
        self.inbox.outstanding.get()
    }

    /// Whether the session has taken every reply to what it sent: only then may it give up its place.
    pub fn is_settled(&self) -> bool {
        let replies = self.inbox.replies.borrow();
        self.outstanding() == 0 && replies.bytes.is_empty() && replies.ends.is_empty()
    }

    /// Whether a reply was so big that further requests should take another lane.
    pub fn is_bulky(&self) -> bool {
        self.inbox.bulky.get()
    }

    /// Whether anything has come, or the lane has ended, since [`Seat::clear_news`].
    pub fn has_news(&self) -> bool {
        self.inbox.news.get()
    }

    /// Everything that has come is about to be taken.
    pub fn clear_news(&self) {
        self.inbox.news.set(false);
    }

    /// Has the task of `cx` woken when something comes.
    pub fn register(&self, cx: &Context<'_>) {
        self.inbox.task.register(cx);
    }

    /// What has come: `work` takes it away.
    pub fn take_replies<T>(&self, work: impl FnOnce(&mut Replies) -> T) -> Option<T> {
        let mut replies = self.inbox.replies.borrow_mut();
        if replies.bytes.is_empty() && replies.ends.is_empty() {
            return None;
        }
        let was = replies.bytes.len();
        let result = work(&mut replies);
        replies.bytes.clear();
        replies.ends.clear();
        if replies.ends.capacity() > KEPT_ENDS {
            replies.ends = Vec::new();
        }
        if was >= STALL_MARK {
            self.lane.task.wake();
        }
        Some(result)
    }

    /// An empty buffer that is of no use here any more.
    pub fn take_idle_buffer(&self) -> Option<BytesMut> {
        let mut replies = self.inbox.replies.borrow_mut();
        (replies.bytes.is_empty() && replies.bytes.capacity() > 0).then(|| std::mem::take(&mut replies.bytes))
    }

    /// Requests that the lane never wrote before it ended, and their number: they belong on another lane.
    pub fn take_returned(&self) -> Option<(BytesMut, u32)> {
        let returned = self.inbox.returned.borrow_mut().take();
        if let Some((_, count)) = &returned {
            let left = self.inbox.outstanding.get().saturating_sub(*count as usize);
            self.inbox.outstanding.set(left);
        }
        returned
    }

    /// Why no more replies will come, if the session's requests were in flight then.
    pub fn end(&self) -> Option<SeatEnd> {
        self.inbox.end.borrow().clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.inbox.gone.set(true);
        *self.inbox.replies.borrow_mut() = Replies::default();
        if self.inbox.outstanding.get() > 0 {
            // The lane may be waiting for this session to read.
            self.lane.task.wake();
        }
    }
}

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

impl Inbox {
    fn backlog(&self) -> usize {
        self.replies.borrow().bytes.len()
    }

    fn take_in<S: Scratch>(&self, piece: &[u8], last: bool, scratch: &S) {
        let mut replies = self.replies.borrow_mut();
        if replies.bytes.capacity() == 0 {
            replies.bytes = scratch.take_buffer();
        }
        replies.bytes.extend_from_slice(piece);
        if last {
            let end = replies.bytes.len();
            replies.ends.push(end);
            self.outstanding.set(self.outstanding.get().saturating_sub(1));
        }
        drop(replies);
        self.tell();
    }

    fn tell(&self) {
        self.news.set(true);
        self.task.wake();
    }

    fn fail(&self, end: SeatEnd) {
        self.end.borrow_mut().get_or_insert(end);
        self.tell();
    }

    fn give_back(&self, requests: &[u8], count: u32) {
        let mut returned = self.returned.borrow_mut();
        let (bytes, total) = returned.get_or_insert_with(Default::default);
        bytes.extend_from_slice(requests);
        *total = total.saturating_add(count);
        drop(returned);
        self.tell();
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

/// Ends an idle session keeps room for.
const KEPT_ENDS: usize = 16;
