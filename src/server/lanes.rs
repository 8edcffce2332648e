//! The lanes of one worker: those that sessions share, and idle ones that wait for a session that needs its own.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use crate::metrics::{GaugeGuard, LaneKind, Side, Tally, UpstreamClosed, UpstreamMetrics};
use crate::upstream::{Lane, LaneReport, LaneState, LostWhen, SharedLane, Upstream};

use super::listener::{Listener, Settings};
use super::worker::Worker;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Lanes {
    shared: RefCell<Vec<Shared>>,
    idle: RefCell<Vec<Idle>>,
}

/// A user is somebody else on another listener, so a lane belongs to both (rule 3a).
struct Shared {
    listener: usize,
    user: String,
    lane: Rc<SharedLane>,
}

struct Idle {
    upstream: Arc<Upstream>,
    state: LaneState,
    lane: Lane,
    since: Instant,
}

impl Lanes {
    /// The lane for this user's requests in this state, opened if there is none.
    pub(super) fn shared(
        &self,
        worker: &Rc<Worker>,
        listener: &Arc<Listener>,
        settings: &Settings,
        user: &str,
        state: LaneState,
    ) -> Rc<SharedLane> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|shared| shared.lane.is_open());
        let found = shared.iter().find(|shared| {
            shared.listener == listener.index
                && shared.user == user
                && shared.lane.fits(&settings.upstream, state)
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
        let (lane, driver) = SharedLane::open(&settings.upstream, state, Rc::clone(worker), report);
        tokio::task::spawn_local(driver);
        shared.push(Shared {
            listener: listener.index,
            user: user.to_owned(),
            lane: Rc::clone(&lane),
        });
        lane
    }

    /// An idle connection of this upstream, the best fit first.
    pub(super) fn take(&self, upstream: &Arc<Upstream>, state: LaneState) -> Option<(Lane, LaneState)> {
        let mut idle = self.idle.borrow_mut();
        loop {
            let fits = |idle: &Idle| Arc::ptr_eq(&idle.upstream, upstream);
            let index = idle
                .iter()
                .rposition(|idle| fits(idle) && idle.state == state)
                .or_else(|| idle.iter().rposition(fits))?;
            let Idle { mut lane, state, .. } = idle.swap_remove(index);
            // One that Redis has closed meanwhile, or that has something to say, is of no use.
            if lane.is_quiet(&mut Context::from_waker(Waker::noop())) {
                return Some((lane, state));
            }
        }
    }

    /// Keeps a clean connection for the next who needs one; the oldest goes when there are too many.
    pub(super) fn put(&self, upstream: &Arc<Upstream>, state: LaneState, lane: Lane) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= MAX_IDLE {
            idle.remove(0);
        }
        idle.push(Idle {
            upstream: Arc::clone(upstream),
            state,
            lane,
            since: Instant::now(),
        });
    }

    /// Closes what has been idle too long, and what belongs to an upstream that was replaced.
    pub(super) fn tidy(&self, now: Instant) {
        self.idle.borrow_mut().retain(|idle| {
            let replaced = Arc::strong_count(&idle.upstream) == 1;
            !replaced && now.saturating_duration_since(idle.since) < IDLE_TIME
        });
        self.shared.borrow_mut().retain(|shared| shared.lane.is_open());
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

/// Idle connections that a worker keeps.
const MAX_IDLE: usize = 16;

/// How long it keeps one that nobody wants.
const IDLE_TIME: Duration = Duration::from_secs(60);

/// How often it looks.
pub(super) const TIDY_INTERVAL: Duration = Duration::from_secs(15);
