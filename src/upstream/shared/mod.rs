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
//! | a session does not read | only itself: see `MAX_BACKLOG` and `STALL_BUDGET` |
//! | Redis sends what nobody asked for, or closes | the sessions with requests in flight; what was not written yet is handed back to be sent again (rule 3d) |

mod driver;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::BytesMut;

use crate::resp::encode;

use super::gather::Crowd;
use super::{Dial, DialError, Target};

use driver::Driver;

/// Requests above this size travel on a lane of their session's own, so that nobody waits behind them.
pub const MAX_SHARED_REQUEST: usize = 16 * 1024;

/// While a session has so many bytes unread, its lane is not read, as far as the `STALL_BUDGET` goes.
const STALL_MARK: usize = 512 * 1024;

/// Bytes of requests that may wait for the lane; above it its sessions are not read.
const HIGH_WATER: usize = 256 * 1024;

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
        let driver = Driver::new(Rc::clone(&lane), dial, scratch, report);
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

/// Ends an idle session keeps room for.
const KEPT_ENDS: usize = 16;
