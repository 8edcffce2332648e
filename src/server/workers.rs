//! All workers, which of them take new connections, and the sessions that move between them (see `packing`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::packing::{Move, Packing, Work};
use super::worker::{Colleague, Handle};

/// Shared by the acceptors.
pub(super) struct Workers {
    handles: Vec<Handle>,
    /// New connections go to the first so many.
    active: AtomicUsize,
}

/// Watches what the workers do; belongs to the main thread.
pub(super) struct Balance {
    packing: Packing,
    /// Processor time of each worker at the last look.
    before: Vec<f64>,
    looked_at: Instant,
}

impl Workers {
    /// `packed`: one is active until the first [`Balance::look`] finds that it is not enough.
    pub(super) fn new(handles: Vec<Handle>, packed: bool) -> Self {
        let active = if packed { 1 } else { handles.len() };
        Self {
            active: AtomicUsize::new(active),
            handles,
        }
    }

    /// The active worker with the fewest sessions.
    pub(super) fn idlest(&self) -> Option<&Handle> {
        let active = self.active.load(Ordering::Relaxed);
        self.handles
            .iter()
            .take(active)
            .min_by_key(|worker| worker.load())
    }

    /// Workers that take new connections.
    pub(super) fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// How to reach each of them.
    pub(super) fn colleagues(&self) -> Vec<Colleague> {
        self.handles.iter().map(Handle::colleague).collect()
    }

    /// Lets all workers finish and waits for their threads.
    pub(super) fn join(self) {
        for worker in self.handles {
            worker.join();
        }
    }

    fn apply(&self, active: usize, moves: &[Move]) {
        let before = self.active.swap(active, Ordering::Relaxed);
        for (index, worker) in self.handles.iter().enumerate() {
            let orders = || {
                moves
                    .iter()
                    .filter(move |order| order.from == index)
                    .filter_map(|order| Some((self.handles.get(order.to)?.colleague(), order.sessions)))
            };
            // Whoever becomes active keeps what it has.
            if orders().next().is_some() || (before..active).contains(&index) {
                worker.hand_over(orders());
            }
        }
    }
}

impl Balance {
    /// `busy`: share of a core from which a worker is busy.
    pub(super) fn new(workers: &Workers, busy: f64, now: Instant) -> Self {
        Self {
            packing: Packing::new(workers.handles.len(), busy),
            before: workers.handles.iter().map(|_| 0.0).collect(),
            looked_at: now,
        }
    }

    /// Another share of a core from which a worker is busy: the configuration has changed.
    pub(super) fn expect(&mut self, busy: f64) {
        self.packing.expect(busy);
    }

    /// Looks once; `packed`: sessions share connections, so fewer workers make larger batches.
    pub(super) fn look(&mut self, workers: &Workers, packed: bool, now: Instant) {
        let took = now.saturating_duration_since(self.looked_at).as_secs_f64();
        self.looked_at = now;
        let mut work = Vec::with_capacity(workers.handles.len());
        let mut known = took > 0.0;
        for (worker, before) in workers.handles.iter().zip(&mut self.before) {
            let cpu = worker.cpu_seconds();
            known &= cpu.is_some();
            let cpu = cpu.unwrap_or_default();
            work.push(Work {
                sessions: worker.load(),
                busy: (cpu - *before).max(0.0) / took.max(f64::MIN_POSITIVE),
            });
            *before = cpu;
        }
        // Where nobody can say who is busy, all workers serve.
        if !packed || !known {
            self.packing.spread();
            workers.apply(self.packing.active(), &[]);
            return;
        }
        let moves = self.packing.look(now, &work);
        workers.apply(self.packing.active(), &moves);
    }
}
