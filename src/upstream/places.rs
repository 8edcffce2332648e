//! How many connections to one upstream there may be, and who is next when there are so many.
//!
//! ```text
//!   take ── below the bound, nobody waits ──► Place ── dropped with its connection ──► the next in the queue, else free
//!   queue ─ the bound is reached ─► Queued ─────┘
//! ```
//!
//! One [`Places`] counts for all workers, and for an upstream's successor after a reload as well: connections of the
//! old one count until they are closed. It is asked when a connection is opened or closed, never for a request.
//! The queue needs no bound of its own: whoever stands in it holds a client's connection permit (an own lane), or is
//! the one shared lane of a worker, listener, user, database and protocol version.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use tokio::sync::Notify;

use super::lock;

/// See the module's documentation.
pub struct Places {
    state: Mutex<State>,
    /// Length of the queue, for those who only look.
    waiting: AtomicUsize,
}

#[derive(Default)]
struct State {
    max: usize,
    /// Places that are held, or granted and not fetched yet.
    taken: usize,
    next_id: u64,
    queue: VecDeque<Entry>,
    /// Granted and not fetched yet.
    granted: BTreeSet<u64>,
    /// Workers that may keep idle connections.
    homes: Vec<Home>,
}

struct Entry {
    id: u64,
    /// The worker that waits.
    home: usize,
    waker: Option<Waker>,
}

struct Home {
    index: usize,
    bell: Arc<Notify>,
}

/// The right to one connection; given on or back when dropped.
pub struct Place {
    places: Arc<Places>,
}

/// A position in the queue; given up when dropped.
pub struct Queued {
    places: Arc<Places>,
    id: u64,
    fetched: bool,
}

impl Places {
    /// So many at once.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                max,
                ..State::default()
            }),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Another bound. What is open above a lower one stays open until it is closed by itself.
    pub fn set_max(&self, max: usize) {
        let mut state = lock(&self.state);
        state.max = max;
        self.grant(&mut state);
    }

    /// The bound.
    pub fn max(&self) -> usize {
        lock(&self.state).max
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        lock(&self.state).taken
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Acquire)
    }

    /// A place, if one is free and nobody waits for it.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let mut state = lock(&self.state);
        if state.taken >= state.max || !state.queue.is_empty() {
            return None;
        }
        state.taken = state.taken.saturating_add(1);
        Some(Place {
            places: Arc::clone(self),
        })
    }

    /// Waits for a place behind all who wait already; `home` is the worker that waits. Workers with idle connections
    /// are told.
    pub fn queue(self: &Arc<Self>, home: usize) -> Queued {
        let mut state = lock(&self.state);
        let id = state.next_id;
        state.next_id = id.wrapping_add(1);
        state.queue.push_back(Entry {
            id,
            home,
            waker: None,
        });
        self.grant(&mut state);
        state.ring();
        Queued {
            places: Arc::clone(self),
            id,
            fetched: false,
        }
    }

    /// Has a worker told when somebody waits, because it may keep idle connections.
    pub fn register(&self, home: usize, bell: &Arc<Notify>) {
        let mut state = lock(&self.state);
        if !state.homes.iter().any(|known| known.index == home) {
            state.homes.push(Home {
                index: home,
                bell: Arc::clone(bell),
            });
        }
    }

    /// Wakes the first in the queue if it is of this worker, to take what the worker has become able to give.
    pub fn wake_first_of(&self, home: usize) -> bool {
        let state = lock(&self.state);
        let Some(first) = state.queue.front().filter(|first| first.home == home) else {
            return false;
        };
        if let Some(waker) = &first.waker {
            waker.wake_by_ref();
        }
        true
    }

    /// Gives free places to those who wait longest.
    fn grant(&self, state: &mut State) {
        while state.taken < state.max
            && let Some(first) = state.queue.pop_front()
        {
            state.taken = state.taken.saturating_add(1);
            state.granted.insert(first.id);
            if let Some(waker) = first.waker {
                waker.wake();
            }
        }
        self.waiting.store(state.queue.len(), Ordering::Release);
    }

    fn release(&self) {
        let mut state = lock(&self.state);
        state.taken = state.taken.saturating_sub(1);
        self.grant(&mut state);
    }
}

impl State {
    fn ring(&self) {
        if !self.queue.is_empty() {
            for home in &self.homes {
                home.bell.notify_one();
            }
        }
    }
}

impl Future for Queued {
    type Output = Place;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Place> {
        let places = Arc::clone(&self.places);
        let mut state = lock(&places.state);
        if state.granted.remove(&self.id) {
            drop(state);
            self.fetched = true;
            return Poll::Ready(Place { places });
        }
        if let Some(entry) = state.queue.iter_mut().find(|entry| entry.id == self.id) {
            entry.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if self.fetched {
            return;
        }
        let mut state = lock(&self.places.state);
        if state.granted.remove(&self.id) {
            state.taken = state.taken.saturating_sub(1);
        } else {
            // Those who give up are mostly those who have waited longest: found at once.
            let position = state.queue.iter().position(|entry| entry.id == self.id);
            if let Some(position) = position {
                state.queue.remove(position);
            }
        }
        self.places.grant(&mut state);
        // An idle connection may have been meant for this one.
        state.ring();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.release();
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll(queued: &mut Queued) -> Option<Place> {
        match Pin::new(queued).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(place) => Some(place),
            Poll::Pending => None,
        }
    }

    #[test]
    fn places_are_given_in_order_and_never_too_many() {
        let places = Places::new(2);
        let one = places.take().unwrap();
        let two = places.take().unwrap();
        assert!(places.take().is_none());
        let mut first = places.queue(0);
        let mut second = places.queue(1);
        let mut third = places.queue(0);
        assert_eq!(places.waiting(), 3);
        assert!(poll(&mut first).is_none());
        drop(one);
        assert!(poll(&mut second).is_none(), "it is not its turn");
        let one = poll(&mut first).unwrap();
        assert!(places.take().is_none(), "nobody overtakes the queue");
        drop(second);
        drop(two);
        let two = poll(&mut third).unwrap();
        assert_eq!((places.taken(), places.waiting()), (2, 0));
        drop((one, two));
        assert_eq!(places.taken(), 0);
        assert!(places.take().is_some());
    }

    #[test]
    fn a_place_that_nobody_fetches_goes_to_the_next() {
        let places = Places::new(1);
        let only = places.take().unwrap();
        let first = places.queue(0);
        let mut second = places.queue(0);
        drop(only);
        // Granted to the first, who has left meanwhile.
        drop(first);
        let place = poll(&mut second).unwrap();
        assert_eq!((places.taken(), places.waiting()), (1, 0));
        drop(place);
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn a_bound_that_changes_lets_more_in_or_waits_for_less() {
        let places = Places::new(1);
        let one = places.take().unwrap();
        let mut waiting = places.queue(0);
        places.set_max(2);
        let two = poll(&mut waiting).unwrap();
        places.set_max(1);
        drop(one);
        assert!(places.take().is_none(), "one is still open");
        drop(two);
        assert!(places.take().is_some());
    }

    #[tokio::test]
    async fn workers_with_idle_connections_are_told_that_somebody_waits() {
        let places = Places::new(1);
        let bell = Arc::new(Notify::new());
        places.register(0, &bell);
        places.register(0, &bell);
        let _only = places.take().unwrap();
        let queued = places.queue(1);
        // Kept until it is listened to.
        bell.notified().await;
        assert!(!places.wake_first_of(0));
        assert!(places.wake_first_of(1));
        let _behind = places.queue(0);
        drop(queued);
        assert!(places.wake_first_of(0));
        bell.notified().await;
    }
}
