//! One thread with its own runtime: sessions live and die on it, and their data path takes no lock and crosses no thread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::LocalSet;

use crate::acl::Learned;
use crate::drain::{DrainWatch, Level};
use crate::metrics::{self, Tally};
use crate::session::Stamp;
use crate::upstream::Scratch;

use super::connection::{self, Job, Moved};
use super::handshakes::Gate;
use super::lanes::{self, Lanes, Served};
use super::listener::Listener;

/// The other threads' end of a worker.
pub(super) struct Handle {
    messages: mpsc::UnboundedSender<Message>,
    /// Sessions handed to it that have not ended.
    load: Arc<AtomicUsize>,
    /// The thread's number, 0 as long as it is not known.
    number: Arc<AtomicU32>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What a worker is told. The queue needs no bound of its own: every job holds a connection permit or, if it is only to be
/// told that there is none, one of the listener's few courtesies; every moved session holds a permit, and moves are ordered
/// once a second at most.
enum Message {
    /// Serve this connection.
    Serve(Box<Job>),
    /// Go on with this session.
    Continue(Box<Moved>),
    /// Hand sessions at rest over, in place of every former order of this kind.
    HandOver(Vec<HandOver>),
    /// Say what has been learned of users.
    Learned(oneshot::Sender<Lessons>),
}

/// What a worker has seen of users with `learn = true`. Their names come from the configuration; after a reload one that is there
/// no more is still known.
#[derive(Default, Clone)]
pub(super) struct Lessons {
    pub(super) users: HashMap<String, Learned>,
    /// There were more users than are remembered.
    pub(super) incomplete: bool,
}

/// So many sessions are to go on with another worker.
struct HandOver {
    to: Colleague,
    sessions: usize,
}

/// Another worker, as workers see each other: nobody is kept alive by it.
#[derive(Clone)]
pub(super) struct Colleague {
    messages: mpsc::WeakUnboundedSender<Message>,
    load: Arc<AtomicUsize>,
}

/// What the sessions of one worker share.
pub(super) struct Worker {
    /// Every read goes here first; nobody keeps anything in it.
    window: RefCell<Box<[u8]>>,
    /// Empty buffers for whoever has something to send.
    buffers: RefCell<Vec<BytesMut>>,
    /// Pauses that were made for shared lanes.
    pauses: Cell<u64>,
    /// Stamps count from here.
    epoch: Instant,
    controls: RefCell<HashMap<u64, Rc<Control>>>,
    next_id: Cell<u64>,
    pub(super) lanes: Lanes,
    /// Sessions that should leave.
    leaving: RefCell<Vec<HandOver>>,
    /// Whether there are any, for a look that costs nothing.
    wants_to_hand_over: Cell<bool>,
    /// What it has counted, by listener number.
    tallies: RefCell<Vec<(usize, Rc<Tally>)>>,
    /// What users were seen to do.
    lessons: RefCell<Lessons>,
    /// Whose TLS handshake is gone on with.
    pub(super) handshakes: Rc<Gate>,
}

/// How the worker reaches one of its sessions.
#[derive(Default)]
pub(super) struct Control {
    draining: Cell<bool>,
    aborting: Cell<bool>,
    reload: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Takes the session off its worker's list when dropped.
pub(super) struct Registration {
    worker: Rc<Worker>,
    id: u64,
    /// Shared with the session.
    pub(super) control: Rc<Control>,
}

impl Handle {
    /// Starts a worker; it ends when the handle has been dropped and its sessions are over.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub(super) fn start(
        index: usize,
        drain: DrainWatch,
        upstreams: watch::Receiver<Vec<Served>>,
    ) -> io::Result<Self> {
        let (messages, queue) = mpsc::unbounded_channel();
        let number = Arc::<AtomicU32>::default();
        let told = Arc::clone(&number);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = thread::Builder::new()
            .name(format!("worker-{index}"))
            .spawn(move || {
                told.store(metrics::thread_number().unwrap_or(0), Ordering::Relaxed);
                let local = LocalSet::new();
                local.block_on(&runtime, work(index, queue, drain, upstreams));
            })?;
        Ok(Self {
            messages,
            load: Arc::default(),
            number,
            thread: Some(thread),
        })
    }

    /// Sessions on it at present.
    pub(super) fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Processor time that it has used, in seconds; `None` where that cannot be found out.
    pub(super) fn cpu_seconds(&self) -> Option<f64> {
        match self.number.load(Ordering::Relaxed) {
            0 => None,
            number => metrics::thread_cpu_seconds(number),
        }
    }

    /// Counts a session until dropped.
    pub(super) fn count(&self) -> Load {
        Load::of(&self.load)
    }

    /// Hands a connection over.
    pub(super) fn send(&self, job: Job) {
        // A worker that is gone drops the job, and with it the connection.
        let _ = self.messages.send(Message::Serve(Box::new(job)));
    }

    /// How the other workers reach it.
    pub(super) fn colleague(&self) -> Colleague {
        Colleague {
            messages: self.messages.downgrade(),
            load: Arc::clone(&self.load),
        }
    }

    /// Orders sessions at rest to go on elsewhere; ends every former order of this kind.
    pub(super) fn hand_over(&self, to: impl Iterator<Item = (Colleague, usize)>) {
        let orders = to.map(|(to, sessions)| HandOver { to, sessions }).collect();
        let _ = self.messages.send(Message::HandOver(orders));
    }

    /// Lets the worker finish and waits for its thread.
    pub(super) fn join(mut self) {
        let thread = self.thread.take();
        drop(self);
        if let Some(thread) = thread {
            // It ends by itself; a panic of the thread has been reported by the hook.
            let _ = thread.join();
        }
    }
}

/// One session in a worker's load.
pub(super) struct Load(Arc<AtomicUsize>);

impl Load {
    fn of(load: &Arc<AtomicUsize>) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Colleague {
    /// Passes a session on. A worker that is gone drops it, and with it the connection: the process ends.
    pub(super) fn take_over(&self, moved: impl FnOnce(Load) -> Moved) {
        let load = Load::of(&self.load);
        if let Some(messages) = self.messages.upgrade() {
            let _ = messages.send(Message::Continue(Box::new(moved(load))));
        }
    }
}

impl Colleague {
    /// Asks the worker what it has learned. One that is gone will not say.
    pub(super) fn ask_lessons(&self) -> oneshot::Receiver<Lessons> {
        let (to, lessons) = oneshot::channel();
        if let Some(messages) = self.messages.upgrade() {
            let _ = messages.send(Message::Learned(to));
        }
        lessons
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn work(
    index: usize,
    mut queue: mpsc::UnboundedReceiver<Message>,
    mut drain: DrainWatch,
    mut upstreams: watch::Receiver<Vec<Served>>,
) {
    let worker = Rc::new(Worker {
        window: RefCell::new(vec![0; WINDOW].into_boxed_slice()),
        buffers: RefCell::default(),
        pauses: Cell::default(),
        epoch: Instant::now(),
        controls: RefCell::default(),
        next_id: Cell::new(0),
        lanes: Lanes::new(index),
        leaving: RefCell::default(),
        tallies: RefCell::default(),
        wants_to_hand_over: Cell::new(false),
        lessons: RefCell::default(),
        handshakes: Rc::default(),
    });
    worker.lanes.serve(&upstreams.borrow_and_update());
    tokio::task::spawn_local(Rc::clone(&worker.handshakes).tend());
    let mut tidy = tokio::time::interval(lanes::TIDY_INTERVAL);
    let mut refill = tokio::time::interval(lanes::REFILL_INTERVAL);
    refill.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut level = drain.level();
    loop {
        tokio::select! {
            message = queue.recv() => match message {
                Some(Message::Serve(job)) => {
                    let registration = worker.register(level);
                    tokio::task::spawn_local(connection::serve(Rc::clone(&worker), registration, *job));
                }
                Some(Message::Continue(moved)) => {
                    let registration = worker.register(level);
                    tokio::task::spawn_local(connection::resume(Rc::clone(&worker), registration, *moved));
                }
                Some(Message::HandOver(orders)) => {
                    worker.wants_to_hand_over.set(!orders.is_empty());
                    *worker.leaving.borrow_mut() = orders;
                }
                // Whoever asked may have grown tired of waiting.
                Some(Message::Learned(to)) => drop(to.send(worker.lessons.borrow().clone())),
                None => break,
            },
            () = next_level(&mut drain, level) => {
                level = drain.level();
                worker.tell(|control| control.rise(level));
            }
            now = tidy.tick() => worker.lanes.tidy(now.into_std()),
            _ = refill.tick(), if level == Level::Running && worker.lanes.keeps_minimum() => {
                Lanes::refill(&worker);
            }
            () = worker.lanes.wanted() => worker.lanes.give_up_idle(),
            never = worker.lanes.watch_idle() => match never {},
            Ok(()) = upstreams.changed() => {
                // The sessions look at their new settings before they ask for a lane again.
                worker.tell(Control::reload_settings);
                worker.lanes.serve(&upstreams.borrow_and_update());
            }
        }
    }
}

/// Waits for a level above this one.
async fn next_level(drain: &mut DrainWatch, level: Level) {
    match level {
        Level::Running => drain.draining().await,
        Level::Draining => drain.aborting().await,
        Level::Aborting => std::future::pending().await,
    }
}

impl Worker {
    fn register(self: &Rc<Self>, level: Level) -> Registration {
        let id = self.next_id.get();
        self.next_id.set(id.wrapping_add(1));
        let control = Rc::<Control>::default();
        control.rise(level);
        self.controls.borrow_mut().insert(id, Rc::clone(&control));
        Registration {
            worker: Rc::clone(self),
            id,
            control,
        }
    }

    fn tell(&self, order: impl Fn(&Control)) {
        for control in self.controls.borrow().values() {
            order(control);
            control.wake();
        }
    }

    /// Remembers something of a user's requests.
    pub(super) fn learn(&self, user: &str, what: impl FnOnce(&mut Learned)) {
        let mut lessons = self.lessons.borrow_mut();
        let Lessons { users, incomplete } = &mut *lessons;
        let full = users.len() >= MOST_LEARNERS;
        match users.get_mut(user) {
            Some(learned) => what(learned),
            None if full => *incomplete = true,
            None => what(users.entry(user.to_owned()).or_default()),
        }
    }

    /// What this worker counts for this listener.
    pub(super) fn tally(&self, listener: &Listener) -> Rc<Tally> {
        let mut tallies = self.tallies.borrow_mut();
        if let Some((_, tally)) = tallies.iter().find(|(index, _)| *index == listener.index) {
            return Rc::clone(tally);
        }
        let tally = Rc::new(listener.metrics.tally());
        tallies.push((listener.index, Rc::clone(&tally)));
        tally
    }

    /// Whether a session at rest should ask [`Worker::colleague`] where to go on.
    pub(super) fn wants_to_hand_over(&self) -> bool {
        self.wants_to_hand_over.get()
    }

    /// Where one session should go on.
    pub(super) fn colleague(&self) -> Option<Colleague> {
        let mut leaving = self.leaving.borrow_mut();
        let order = leaving.last_mut()?;
        let to = order.to.clone();
        order.sessions = order.sessions.saturating_sub(1);
        if order.sessions == 0 {
            leaving.pop();
        }
        self.wants_to_hand_over.set(!leaving.is_empty());
        Some(to)
    }

    /// A moment for the session to hand back.
    pub(super) fn stamp(&self, now: Instant) -> Stamp {
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(Stamp::MAX)
    }

    /// Time since a stamp.
    pub(super) fn since(&self, stamp: Stamp, now: Instant) -> Duration {
        Duration::from_nanos(self.stamp(now).saturating_sub(stamp))
    }
}

impl Scratch for Worker {
    /// Lends the window for one read and what is made of it.
    fn with_window<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T {
        work(&mut self.window.borrow_mut())
    }

    /// An empty buffer with some room.
    fn take_buffer(&self) -> BytesMut {
        self.buffers
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| BytesMut::with_capacity(FRESH_BUFFER))
    }

    fn pauses(&self) -> &Cell<u64> {
        &self.pauses
    }

    /// Takes an empty buffer back.
    fn give_buffer(&self, mut buffer: BytesMut) {
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < MAX_SPARE_BUFFERS && (FRESH_BUFFER..=MAX_SPARE_SIZE).contains(&buffer.capacity()) {
            buffer.clear();
            buffers.push(buffer);
        }
    }
}

impl Control {
    fn rise(&self, level: Level) {
        self.draining.set(level >= Level::Draining);
        self.aborting.set(level >= Level::Aborting);
    }

    /// Has the session polled.
    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Remembers whom to wake when an order comes.
    pub(super) fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Close as soon as nothing is outstanding.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Close now.
    pub(super) fn is_aborting(&self) -> bool {
        self.aborting.get()
    }

    /// Has the session look at its settings anew.
    pub(super) fn reload_settings(&self) {
        self.reload.set(true);
    }

    /// Whether settings have changed since the last time this was asked.
    pub(super) fn take_reload(&self) -> bool {
        self.reload.take()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.controls.borrow_mut().remove(&self.id);
    }
}

/// Bytes of one read; also the most that one side's unread backlog grows by at once (L-27).
///
/// A little more than 64 KiB, so that a value of that size, common as a limit of caches, comes in one read with its
/// length and its end.
const WINDOW: usize = 80 * 1024;

/// Room of a fresh buffer: a batch of small requests or replies.
const FRESH_BUFFER: usize = 4 * 1024;

/// Users that a worker learns about, each at most some hundred kilobytes.
const MOST_LEARNERS: usize = 1_000;

/// Spare buffers that a worker keeps, and the largest it keeps: at most 8 MiB a worker.
const MAX_SPARE_BUFFERS: usize = 64;
const MAX_SPARE_SIZE: usize = 128 * 1024;
