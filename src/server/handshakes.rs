//! The turns of one worker's TLS handshakes (rule L-20): [`Turns`] decides, this counts the rounds and wakes whom it names.
//!
//! Everything here belongs to one thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use crate::limits::{Ticket, Turns};
use crate::metrics::{GaugeGuard, ListenerMetrics};

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Gate {
    turns: RefCell<Turns>,
    /// Who waits for a turn.
    tasks: RefCell<HashMap<Ticket, Waker>>,
    /// Whoever counts the rounds ([`Gate::tend`]), while there is nothing to count.
    tender: RefCell<Option<Waker>>,
}

/// Where one handshake stands.
struct Turn<'a> {
    gate: &'a Gate,
    metrics: &'a ListenerMetrics,
    queued: Option<(Ticket, GaugeGuard)>,
}

impl Gate {
    /// Goes on with a handshake whenever it has something to do and it is its turn; a round has `max` of them.
    pub(super) async fn run<T>(
        &self,
        max: usize,
        metrics: &ListenerMetrics,
        handshake: impl Future<Output = T>,
    ) -> T {
        let _counted = metrics.handshake_in_progress();
        let mut turn = Turn {
            gate: self,
            metrics,
            queued: None,
        };
        let mut handshake = pin!(handshake);
        poll_fn(|cx| {
            ready!(turn.poll(max, cx));
            handshake.as_mut().poll(cx)
        })
        .await
    }

    /// Counts the rounds while turns are taken; never ends.
    pub(super) async fn tend(self: Rc<Self>) {
        loop {
            if self.turns.borrow().is_idle() {
                self.begun().await;
            }
            // Behind everything that is ready now.
            tokio::task::yield_now().await;
            self.turns.borrow_mut().next_round();
            while let Some(ticket) = { self.turns.borrow_mut().admit() } {
                let task = self.tasks.borrow_mut().remove(&ticket);
                if let Some(task) = task {
                    task.wake();
                }
            }
        }
    }

    /// Ready when a turn has been taken.
    async fn begun(&self) {
        poll_fn(|cx| {
            if !self.turns.borrow().is_idle() {
                return Poll::Ready(());
            }
            *self.tender.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Turn<'_> {
    fn poll(&mut self, max: usize, cx: &Context<'_>) -> Poll<()> {
        let gate = self.gate;
        let ticket = match &self.queued {
            None => gate.turns.borrow_mut().take(max).err(),
            Some((ticket, _)) => gate.turns.borrow().is_queued(*ticket).then_some(*ticket),
        };
        if let Some(tender) = gate.tender.borrow_mut().take() {
            tender.wake();
        }
        let Some(ticket) = ticket else {
            self.queued = None;
            return Poll::Ready(());
        };
        gate.tasks.borrow_mut().insert(ticket, cx.waker().clone());
        if self.queued.is_none() {
            self.queued = Some((ticket, self.metrics.handshake_waiting()));
        }
        Poll::Pending
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some((ticket, _)) = &self.queued {
            self.gate.turns.borrow_mut().forget(*ticket);
            self.gate.tasks.borrow_mut().remove(ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;
    use crate::metrics::{Metrics, Shape};

    fn metrics() -> Arc<ListenerMetrics> {
        Metrics::new(&Shape::default()).unwrap().listener("gateway")
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn others_get_their_turn_between_the_rounds_of_a_storm() {
        run(async {
            let (gate, metrics) = (Rc::new(Gate::default()), metrics());
            let tender = spawn_local(Rc::clone(&gate).tend());
            let done = Rc::new(Cell::new(0));
            let storm: Vec<_> = (0..100)
                .map(|_| {
                    let (gate, metrics, done) = (Rc::clone(&gate), Arc::clone(&metrics), Rc::clone(&done));
                    spawn_local(async move {
                        let handshake = async {
                            done.set(done.get() + 1);
                        };
                        gate.run(4, &metrics, handshake).await;
                    })
                })
                .collect();
            // A session that is always ready.
            let mut last = 0;
            while done.get() < 100 {
                yield_now().await;
                let now = done.get();
                assert!(now - last <= 8, "{} in one round", now - last);
                last = now;
            }
            for handshake in storm {
                handshake.await.unwrap();
            }
            assert!(gate.tasks.borrow().is_empty());
            tender.abort();
        });
    }

    #[test]
    fn one_that_waits_for_its_client_keeps_nobody_out() {
        run(async {
            let (gate, metrics) = (Rc::new(Gate::default()), metrics());
            let tender = spawn_local(Rc::clone(&gate).tend());
            for _ in 0..10 {
                let (gate, metrics) = (Rc::clone(&gate), Arc::clone(&metrics));
                spawn_local(async move { gate.run(1, &metrics, std::future::pending::<()>()).await });
            }
            yield_now().await;
            assert_eq!(gate.run(1, &metrics, async { 7 }).await, 7);
            tender.abort();
        });
    }

    #[test]
    fn whoever_gives_up_waiting_is_forgotten() {
        run(async {
            let (gate, metrics) = (Gate::default(), metrics());
            // Nobody counts the rounds: the one turn stays taken.
            gate.run(1, &metrics, async {}).await;
            tokio::select! {
                biased;
                () = gate.run(1, &metrics, async {}) => panic!("there is no turn left"),
                () = yield_now() => {}
            }
            assert!(gate.tasks.borrow().is_empty());
            gate.turns.borrow_mut().next_round();
            assert!(gate.turns.borrow().is_idle());
        });
    }
}
