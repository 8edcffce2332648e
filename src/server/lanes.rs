//! The lanes of one worker: those that sessions share, and idle ones that wait for a session that needs its own.
//!
//! ```text
//!   session ends its transaction ──► put ──┐                       ┌──► take ── a session that needs its own lane
//!   refill, up to pool_min ────────────────┼──► idle, ≤ pool_max ──┼──► take_ready ── who waits for a place, a shared lane
//!                                          │                       └──► closed: by Redis, by age, or because somebody waits
//! ```

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::metrics::{GaugeGuard, LaneKind, Side, Tally, UpstreamClosed, UpstreamMetrics};
use crate::upstream::{Dial, Dialed, Lane, LaneReport, LaneState, LostWhen, SharedLane, Target, Upstream};

use super::listener::{Listener, Settings};
use super::worker::Worker;

/// An upstream that is in use, with what it counts.
#[derive(Clone)]
pub(super) struct Served {
    pub(super) upstream: Arc<Upstream>,
    pub(super) metrics: Arc<UpstreamMetrics>,
}

/// See the module's documentation.
pub(super) struct Lanes {
    /// The worker's number.
    home: usize,
    /// Rings when somebody, on whatever worker, waits for a connection.
    bell: Arc<Notify>,
    shared: RefCell<Vec<Shared>>,
    /// The oldest first.
    idle: RefCell<Vec<Idle>>,
    known: RefCell<Vec<Known>>,
    /// Who looks after the idle ones.
    keeper: RefCell<Option<Waker>>,
}

/// A user is somebody else on another listener, so a lane belongs to both (rule 3a).
struct Shared {
    listener: usize,
    user: String,
    lane: Rc<SharedLane>,
}

struct Idle {
    target: Target,
    state: LaneState,
    lane: Lane,
    since: Instant,
}

/// One login at an upstream that is in use.
struct Known {
    target: Target,
    metrics: Arc<UpstreamMetrics>,
    /// Connections that are being opened ahead of need.
    warming: Rc<Cell<usize>>,
}

impl Lanes {
    pub(super) fn new(home: usize) -> Self {
        Self {
            home,
            bell: Arc::default(),
            shared: RefCell::default(),
            idle: RefCell::default(),
            known: RefCell::default(),
            keeper: RefCell::default(),
        }
    }

    /// The upstreams that are in use from now on. Lanes of others end: idle ones at once, shared ones when what is on
    /// them has been answered.
    pub(super) fn serve(&self, upstreams: &[Served]) {
        let mut known = Vec::new();
        for Served { upstream, metrics } in upstreams {
            upstream.places().register(self.home, &self.bell);
            known.extend(upstream.logins().into_iter().map(|login| Known {
                target: Target {
                    upstream: Arc::clone(upstream),
                    login,
                },
                metrics: Arc::clone(metrics),
                warming: Rc::default(),
            }));
        }
        let mut old = std::mem::replace(&mut *self.known.borrow_mut(), known);
        for known in self.known.borrow_mut().iter_mut() {
            if let Some(index) = old.iter().position(|old| old.target.is_same(&known.target)) {
                known.warming = old.swap_remove(index).warming;
            }
        }
        self.idle.borrow_mut().retain(|idle| !idle.target.is_retired());
        self.shared.borrow_mut().retain(|shared| {
            let retired = shared.lane.target().is_retired();
            if retired {
                shared.lane.retire();
            }
            !retired
        });
    }

    /// The lane for this user's requests in this state, opened if there is none.
    pub(super) fn shared(
        &self,
        worker: &Rc<Worker>,
        listener: &Arc<Listener>,
        settings: &Settings,
        (target, user): (&Target, &str),
        state: LaneState,
    ) -> Rc<SharedLane> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|shared| shared.lane.is_open());
        let found = shared.iter().find(|shared| {
            shared.listener == listener.index && shared.user == user && shared.lane.fits(target, state)
        });
        if let Some(found) = found {
            return Rc::clone(&found.lane);
        }
        let report = Report {
            tally: worker.tally(listener),
            _open: settings.upstream_metrics.lane_open(LaneKind::Shared),
            upstream: Arc::clone(&settings.upstream_metrics),
            queued: Cell::new(0),
            name: settings.upstream.name().into(),
        };
        let dial = connection(worker, target, state);
        let (lane, driver) = SharedLane::open(target, state, dial, Rc::clone(worker), report);
        tokio::task::spawn_local(driver);
        shared.push(Shared {
            listener: listener.index,
            user: user.to_owned(),
            lane: Rc::clone(&lane),
        });
        lane
    }

    /// An idle connection to there, the best fit first; none while somebody waits for one.
    pub(super) fn take(&self, target: &Target, state: LaneState) -> Option<(Lane, LaneState)> {
        if target.upstream.places().waiting() > 0 || !target.login.is_trusted() {
            return None;
        }
        let mut idle = self.idle.borrow_mut();
        loop {
            let fits = |idle: &Idle| idle.target.is_same(target);
            let index = idle
                .iter()
                .rposition(|idle| fits(idle) && idle.state == state)
                .or_else(|| idle.iter().rposition(fits))?;
            let Idle { mut lane, state, .. } = idle.remove(index);
            // One that Redis has closed in this moment, or that has something to say, is of no use.
            if lane.is_quiet(&mut Context::from_waker(Waker::noop())) {
                return Some((lane, state));
            }
        }
    }

    /// An idle connection that is as good as a fresh one for whoever needs it in this state: asking for RESP3 or a
    /// database again changes nothing. If there is none, and somebody waits, the others are of more use closed.
    fn take_ready(&self, target: &Target, state: LaneState) -> Option<Box<Dialed>> {
        let fresh = fresh(&target.upstream);
        let mut idle = self.idle.borrow_mut();
        let fits = |idle: &Idle| idle.target.is_same(target) && (idle.state == state || idle.state == fresh);
        while let Some(index) = idle.iter().rposition(fits) {
            let Idle { mut lane, .. } = idle.remove(index);
            if lane.is_quiet(&mut Context::from_waker(Waker::noop()))
                && let Some(connection) = lane.into_connection()
            {
                return Some(connection);
            }
        }
        drop(idle);
        self.give_up_idle();
        None
    }

    /// Keeps a clean connection for the next who needs one; the oldest goes when there are too many. Somebody who waits
    /// on this worker takes it over; if it is another worker's turn, it is closed and its place goes there.
    pub(super) fn put(&self, target: &Target, state: LaneState, mut lane: Lane) {
        let places = target.upstream.places();
        if target.is_retired() || places.waiting() > 0 && !places.wake_first_of(self.home) {
            return;
        }
        // From now on the keeper is woken when Redis closes it.
        let quiet = match &*self.keeper.borrow() {
            Some(keeper) => lane.is_quiet(&mut Context::from_waker(keeper)),
            None => lane.is_quiet(&mut Context::from_waker(Waker::noop())),
        };
        if !quiet {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        idle.push(Idle {
            target: target.clone(),
            state,
            lane,
            since: Instant::now(),
        });
        let of_it = |idle: &Idle| idle.target.is_same(target);
        if idle.iter().filter(|idle| of_it(idle)).count() > target.upstream.pool().max
            && let Some(oldest) = idle.iter().position(of_it)
        {
            idle.remove(oldest);
        }
    }

    /// Listens for somebody who waits for a connection that an idle one of this worker stands in the way of.
    pub(super) async fn wanted(&self) {
        self.bell.notified().await;
    }

    /// Closes idle connections of upstreams that somebody waits for, no more than are waited for. Then shared ones that
    /// no session has a seat on; the others are in use, however quiet they are.
    pub(super) fn give_up_idle(&self) {
        self.idle
            .borrow_mut()
            .retain(|idle| idle.target.upstream.places().waiting() == 0);
        self.shared.borrow_mut().retain(|shared| {
            let goes =
                SharedLane::is_unused(&shared.lane) && shared.lane.target().upstream.places().waiting() > 0;
            if goes {
                shared.lane.retire();
            }
            !goes
        });
    }

    /// Throws out idle connections that Redis has closed, as soon as it has.
    pub(super) async fn watch_idle(&self) -> Infallible {
        poll_fn(|cx| {
            *self.keeper.borrow_mut() = Some(cx.waker().clone());
            let known = self.known.borrow();
            self.idle.borrow_mut().retain_mut(|idle| {
                let quiet = idle.lane.is_quiet(cx);
                let of_it = |known: &&Known| known.target.is_same(&idle.target);
                if !quiet && let Some(known) = known.iter().find(of_it) {
                    known.metrics.closed(UpstreamClosed::Idle);
                }
                quiet
            });
            Poll::Pending
        })
        .await
    }

    /// Closes what has been idle too long, beyond the minimum.
    pub(super) fn tidy(&self, now: Instant) {
        let mut idle = self.idle.borrow_mut();
        for known in &*self.known.borrow() {
            let pool = known.target.upstream.pool();
            let of_it = |idle: &Idle| idle.target.is_same(&known.target);
            let mut spare = idle.iter().filter(|idle| of_it(idle)).count();
            idle.retain(|idle| {
                let old = of_it(idle) && now.saturating_duration_since(idle.since) >= pool.idle_time;
                let goes = old && spare > pool.min;
                spare = spare.saturating_sub(usize::from(goes));
                !goes
            });
        }
        drop(idle);
        self.shared.borrow_mut().retain(|shared| shared.lane.is_open());
        // The last session of a shared one may have left since somebody began to wait.
        self.give_up_idle();
    }

    /// Whether there is a minimum to be kept.
    pub(super) fn keeps_minimum(&self) -> bool {
        let known = self.known.borrow();
        known.iter().any(|known| known.target.upstream.pool().min > 0)
    }

    /// Opens a few of the connections that are missing. Not while Redis is away or refuses us, which the health check
    /// finds out, and not while somebody waits for a place.
    pub(super) fn refill(worker: &Rc<Worker>) {
        let lanes = &worker.lanes;
        for Known {
            target,
            metrics,
            warming,
        } in &*lanes.known.borrow()
        {
            let upstream = &target.upstream;
            if upstream.is_failing()
                || !target.login.is_trusted()
                || target.login.is_refused()
                || upstream.places().waiting() > 0
            {
                continue;
            }
            let idle = lanes.idle.borrow();
            let ready = idle.iter().filter(|idle| idle.target.is_same(target));
            let mut missing = upstream
                .pool()
                .min
                .saturating_sub(ready.count().saturating_add(warming.get()));
            while missing > 0
                && warming.get() < MAX_WARMING
                && let Some(place) = upstream.places().take()
            {
                missing = missing.saturating_sub(1);
                warming.set(warming.get().saturating_add(1));
                let (worker, target, warming) = (Rc::clone(worker), target.clone(), Rc::clone(warming));
                let metrics = Arc::clone(metrics);
                tokio::task::spawn_local(async move {
                    let dialed = target.upstream.dial_at(&target.login, place).await;
                    warming.set(warming.get().saturating_sub(1));
                    // A failure has been counted and said; another attempt is made when Redis is back.
                    if let Ok(dialed) = dialed {
                        let mut lane = Lane::over(Box::new(dialed));
                        lane.count_as(Box::new(metrics.lane_open(LaneKind::Idle)));
                        let state = fresh(&target.upstream);
                        worker.lanes.put(&target, state, lane);
                    }
                });
            }
        }
    }
}

/// A connection for whoever needs one that is fresh or in this state: idle, or new, perhaps after waiting for a place.
pub(super) fn connection(worker: &Rc<Worker>, target: &Target, state: LaneState) -> Dial {
    let (worker, target) = (Rc::clone(worker), target.clone());
    Box::pin(async move {
        let lanes = &worker.lanes;
        target
            .upstream
            .connection(&target.login, lanes.home, || lanes.take_ready(&target, state))
            .await
    })
}

/// What state a new connection is in.
pub(super) fn fresh(upstream: &Upstream) -> LaneState {
    LaneState {
        db: upstream.database(),
        resp3: false,
    }
}

/// Counts what a shared lane does.
struct Report {
    tally: Rc<Tally>,
    upstream: Arc<UpstreamMetrics>,
    name: Box<str>,
    _open: GaugeGuard,
    /// This lane's share of the gauge.
    queued: Cell<i64>,
}

impl Report {
    fn queue(&self, change: i64) {
        self.queued.set(self.queued.get().saturating_add(change));
        self.upstream.requests_queued.add(change);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.upstream.requests_queued.sub(self.queued.get());
    }
}

impl LaneReport for Report {
    fn paused(&self) {
        self.upstream.gathers.inc();
    }

    fn flushed(&self, requests: u64, bytes: usize) {
        self.tally.sent(Side::Upstream, bytes);
        #[allow(clippy::cast_precision_loss, reason = "batches are far smaller than 2^52")]
        self.upstream.requests_per_flush.observe(requests as f64);
        self.queue(i64::try_from(requests).unwrap_or(i64::MAX));
    }

    fn received(&self, bytes: usize, replies: u64) {
        self.tally.received(Side::Upstream, bytes);
        self.queue(0_i64.saturating_sub_unsigned(replies));
    }

    fn error_reply(&self, code: &[u8]) {
        self.upstream.error_reply(code);
    }

    fn surprised(&self, what: &'static str) {
        self.upstream.desync.inc();
        tracing::error!(
            event = "desync",
            upstream = &*self.name,
            reason = what,
            help = "the upstream sent what no request asked for; the connection and all sessions waiting on it were closed"
        );
    }

    fn lost(&self, when: LostWhen) {
        let when = match when {
            LostWhen::Idle => UpstreamClosed::Idle,
            LostWhen::Waiting => UpstreamClosed::Waiting,
            LostWhen::Reply => UpstreamClosed::Reply,
        };
        self.upstream.closed(when);
        if when != UpstreamClosed::Idle {
            tracing::warn!(
                event = "upstream_closed",
                upstream = &*self.name,
                when = when.label()
            );
        } else {
            tracing::debug!(
                event = "upstream_closed",
                upstream = &*self.name,
                when = when.label()
            );
        }
    }

    fn slow_reader(&self) {
        tracing::debug!(event = "slow_reader", upstream = &*self.name);
    }
}

/// Connections that a worker opens ahead of need at once.
const MAX_WARMING: usize = 4;

/// How often it looks for what is missing.
pub(super) const REFILL_INTERVAL: Duration = Duration::from_millis(250);

/// How often it looks for what has been idle too long.
pub(super) const TIDY_INTERVAL: Duration = Duration::from_secs(1);
