//! The gate of one worker's TLS handshakes (rule L-20): [`Handshakes`] decides, this wakes whom it names.
//!
//! Everything here belongs to one thread. A silent client is not here yet: it has no place and no turn before the first
//! byte of its ClientHello has come.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::limits::{HandshakeRules, Handshakes, Ticket};
use crate::metrics::{GaugeGuard, ListenerMetrics};

/// See the module's documentation.
pub(super) struct Gate {
    policy: RefCell<Handshakes>,
    /// Who waits for a place, or for the order to give it up.
    tasks: RefCell<HashMap<Ticket, Waker>>,
    /// Whoever minds the grace ([`Gate::tend`]).
    tender: RefCell<Option<Waker>>,
}

/// One connection's turn, then its place; given back on drop.
pub(super) struct Place {
    gate: Rc<Gate>,
    ticket: Ticket,
    counted: Option<GaugeGuard>,
}

impl Gate {
    pub(super) fn new() -> Rc<Self> {
        // No place before somebody comes and brings the rules in force.
        let rules = HandshakeRules {
            max: 0,
            grace: Duration::ZERO,
        };
        Rc::new(Self {
            policy: RefCell::new(Handshakes::new(rules)),
            tasks: RefCell::default(),
            tender: RefCell::default(),
        })
    }

    /// Waits for a place. Cancel-safe: whoever waits no longer has no turn any more.
    pub(super) async fn enter(self: &Rc<Self>, rules: HandshakeRules, metrics: &ListenerMetrics) -> Place {
        let ticket = self.policy.borrow_mut().enter(rules, Instant::now());
        let mut place = Place {
            gate: Rc::clone(self),
            ticket,
            counted: None,
        };
        self.settle();
        if !self.policy.borrow().holds(ticket) {
            place.counted = Some(metrics.handshake_waiting());
            poll_fn(|cx| self.poll(ticket, cx, Handshakes::holds)).await;
            self.policy.borrow_mut().begin(ticket, Instant::now());
            self.settle();
        }
        place.counted = Some(metrics.handshake_in_progress());
        place
    }

    /// A place if one is free at once.
    pub(super) fn try_enter(
        self: &Rc<Self>,
        rules: HandshakeRules,
        metrics: &ListenerMetrics,
    ) -> Option<Place> {
        let ticket = self.policy.borrow_mut().try_enter(rules, Instant::now())?;
        Some(Place {
            gate: Rc::clone(self),
            ticket,
            counted: Some(metrics.handshake_in_progress()),
        })
    }

    /// Asks those to go who keep others waiting too long; never ends.
    pub(super) async fn tend(self: Rc<Self>) {
        loop {
            let next = self.policy.borrow().next_ask();
            match next {
                Some(at) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => self.ask(),
                    () = self.changed() => {}
                },
                None => self.changed().await,
            }
        }
    }

    fn ask(&self) {
        let now = Instant::now();
        while let Some(ticket) = { self.policy.borrow_mut().ask(now) } {
            self.wake(ticket);
        }
    }

    /// Ready when something has happened since the last look.
    async fn changed(&self) {
        let mut registered = false;
        poll_fn(|cx| {
            let mut tender = self.tender.borrow_mut();
            if registered && tender.is_none() {
                return Poll::Ready(());
            }
            registered = true;
            *tender = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Gives free places to those whose turn it is, and has the grace minded anew.
    fn settle(&self) {
        let now = Instant::now();
        while let Some(ticket) = { self.policy.borrow_mut().admit(now) } {
            self.wake(ticket);
        }
        if let Some(tender) = self.tender.borrow_mut().take() {
            tender.wake();
        }
    }

    fn wake(&self, ticket: Ticket) {
        let task = self.tasks.borrow_mut().remove(&ticket);
        if let Some(task) = task {
            task.wake();
        }
    }

    fn poll(
        &self,
        ticket: Ticket,
        cx: &Context<'_>,
        is_so: impl FnOnce(&Handshakes, Ticket) -> bool,
    ) -> Poll<()> {
        if is_so(&self.policy.borrow(), ticket) {
            return Poll::Ready(());
        }
        self.tasks.borrow_mut().insert(ticket, cx.waker().clone());
        Poll::Pending
    }
}

impl Place {
    /// Ready when others have waited for it long enough. Poll the handshake first: what has arrived may complete it.
    pub(super) async fn wanted(&self) {
        poll_fn(|cx| self.gate.poll(self.ticket, cx, Handshakes::must_yield)).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.tasks.borrow_mut().remove(&self.ticket);
        self.gate.policy.borrow_mut().leave(self.ticket);
        self.gate.settle();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::task::LocalSet;

    use super::*;
    use crate::metrics::{Metrics, Shape};

    const RULES: HandshakeRules = HandshakeRules {
        max: 1,
        grace: Duration::from_millis(250),
    };

    fn metrics() -> Arc<ListenerMetrics> {
        Metrics::new(&Shape::default()).unwrap().listener("gateway")
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn a_stalled_holder_is_told_and_the_next_one_gets_its_place() {
        run(async {
            let (gate, metrics) = (Gate::new(), metrics());
            tokio::task::spawn_local(Rc::clone(&gate).tend());
            let stalled = gate.enter(RULES, &metrics).await;
            assert!(gate.try_enter(RULES, &metrics).is_none());
            let next = tokio::task::spawn_local({
                let (gate, metrics) = (Rc::clone(&gate), Arc::clone(&metrics));
                async move { gate.enter(RULES, &metrics).await }
            });
            stalled.wanted().await;
            assert!(!next.is_finished());
            drop(stalled);
            let next = next.await.unwrap();
            // Nobody waits: it may keep the place.
            tokio::select! {
                biased;
                () = next.wanted() => panic!("nobody wants it"),
                () = tokio::task::yield_now() => {}
            }
        });
    }

    #[test]
    fn whoever_gives_up_waiting_is_forgotten() {
        run(async {
            let (gate, metrics) = (Gate::new(), metrics());
            let holder = gate.enter(RULES, &metrics).await;
            {
                let waiting = gate.enter(RULES, &metrics);
                tokio::select! {
                    biased;
                    _ = waiting => panic!("there is no place"),
                    () = tokio::task::yield_now() => {}
                }
            }
            assert!(gate.tasks.borrow().is_empty());
            drop(holder);
            assert!(gate.try_enter(RULES, &metrics).is_some());
            assert!(gate.tasks.borrow().is_empty());
        });
    }
}
