//! How fast connections are opened: a bounded number at a time, and after a failure not all at once (F-1).
//!
//! ```text
//!   enter ── no failure lately ───────────────────────────► a slot of MAX_DIALS ──► attempt ──► succeeded ─► all go on
//!     └── failing ── random part of 50 ms … 2 s ──┬── a success meanwhile ──┘           └──► failed ──┐
//!                                                 └── a failure meanwhile ──► that error   ◄──────────┘
//! ```
//!
//! Without a failure nobody waits unless [`MAX_DIALS`] are under way. While Redis is away, whoever waits is told as soon
//! as one attempt has failed, so a server that hangs costs everybody one timeout and not a queue of them.

use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use super::{DialError, lock};

/// Connections of this process that are being opened at once, per upstream. Redis accepts in one thread and hashes
/// our password for each; as many as this keep it busy, more would only keep its clients waiting.
const MAX_DIALS: usize = 64;

/// The longest pause after the first failure; doubles with each further round of failures.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause of all.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long an attempt waits for its turn while others succeed before it.
const TURN_PATIENCE: Duration = Duration::from_secs(30);

/// See the module's documentation.
pub(super) struct Pace {
    slots: Semaphore,
    failing: Mutex<Option<Failing>>,
    /// An attempt has ended, either way.
    settled: Notify,
}

struct Failing {
    /// Attempts that were under way together are one round.
    rounds: u32,
    at: Instant,
    error: DialError,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            slots: Semaphore::new(MAX_DIALS),
            failing: Mutex::default(),
            settled: Notify::new(),
        }
    }

    /// Waits for the turn to make an attempt; what is returned is to be kept until it has ended.
    ///
    /// # Errors
    /// Another's attempt failed meanwhile.
    pub(super) async fn enter(&self) -> Result<SemaphorePermit<'_>, DialError> {
        let arrived = Instant::now();
        // Before the state is looked at: an outcome in between is not missed.
        let settled = self.settled.notified();
        if let Some(pause) = self.pause(arrived) {
            tokio::select! {
                () = sleep(pause) => {}
                () = settled => {}
            }
            self.failed_since(arrived)?;
        }
        // Nobody closes the semaphore.
        let Ok(Ok(slot)) = timeout(TURN_PATIENCE, self.slots.acquire()).await else {
            return Err(DialError::ConnectTimeout(TURN_PATIENCE));
        };
        self.failed_since(arrived)?;
        Ok(slot)
    }

    pub(super) fn succeeded(&self) {
        let was = lock(&self.failing).take();
        if was.is_some() {
            self.settled.notify_waiters();
        }
    }

    /// An attempt that began at `begun` failed at `at`.
    pub(super) fn failed(&self, begun: Instant, at: Instant, error: &DialError) {
        {
            let mut failing = lock(&self.failing);
            let rounds = match failing.as_ref() {
                None => 1,
                Some(before) if before.at >= begun => before.rounds,
                Some(before) => before.rounds.saturating_add(1),
            };
            *failing = Some(Failing {
                rounds,
                at,
                error: error.clone(),
            });
        }
        self.settled.notify_waiters();
    }

    /// A random part of what is left of the pause after the last failure.
    fn pause(&self, now: Instant) -> Option<Duration> {
        let failing = lock(&self.failing);
        let failing = failing.as_ref()?;
        let doublings = failing.rounds.saturating_sub(1).min(16);
        let whole = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        let left = whole.saturating_sub(now.saturating_duration_since(failing.at));
        (!left.is_zero()).then(|| jitter(left))
    }

    fn failed_since(&self, arrived: Instant) -> Result<(), DialError> {
        match &*lock(&self.failing) {
            Some(failing) if failing.at >= arrived => Err(failing.error.clone()),
            _ => Ok(()),
        }
    }
}

/// A random part of a duration, so that those who fail together do not return together.
fn jitter(most: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness there is no jitter, and nothing else is lost.
    if getrandom::fill(&mut random).is_err() {
        return most;
    }
    most.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[tokio::test]
    async fn first_attempts_are_not_delayed_and_never_too_many() {
        let pace = Pace::new();
        let mut slots = Vec::new();
        for _ in 0..MAX_DIALS {
            match poll(pin!(pace.enter())) {
                Poll::Ready(Ok(slot)) => slots.push(slot),
                Poll::Ready(Err(error)) => panic!("{error}"),
                Poll::Pending => panic!("attempt {} waits", slots.len()),
            }
        }
        let (mut next, mut behind) = (pin!(pace.enter()), pin!(pace.enter()));
        assert!(
            poll(next.as_mut()).is_pending(),
            "one more must wait for its turn"
        );
        assert!(poll(behind.as_mut()).is_pending());
        slots.pop();
        assert!(matches!(poll(next.as_mut()), Poll::Ready(Ok(_))));
        // The slot of `next` is free again; one failure is everybody's who waits.
        pace.failed(Instant::now(), Instant::now(), &DialError::Refused);
        assert!(matches!(
            poll(behind.as_mut()),
            Poll::Ready(Err(DialError::Refused))
        ));
    }

    #[test]
    fn the_pause_grows_with_each_round_of_failures_and_is_spread() {
        let pace = Pace::new();
        let mut now = Instant::now();
        for whole in [50, 100, 200, 400, 800, 1_600, 2_000, 2_000] {
            let begun = now + Duration::from_millis(1);
            now = begun + Duration::from_millis(1);
            // Those that were under way together are one round.
            for _ in 0..3 {
                pace.failed(begun, now, &DialError::Refused);
            }
            let whole = Duration::from_millis(whole);
            let pauses: Vec<_> = (0..200).filter_map(|_| pace.pause(now)).collect();
            assert_eq!(pauses.len(), 200);
            assert!(pauses.iter().all(|pause| *pause <= whole), "{whole:?}");
            assert!(pauses.iter().any(|pause| *pause > whole / 2));
            assert!(pauses.iter().any(|pause| *pause < whole / 2));
        }
        assert!(pace.pause(now + LONGEST_PAUSE / 2).unwrap() <= LONGEST_PAUSE / 2);
        assert_eq!(pace.pause(now + LONGEST_PAUSE), None, "the failure is long past");
        pace.succeeded();
        assert_eq!(pace.pause(now), None);
    }

    #[tokio::test]
    async fn who_waits_is_told_of_the_first_outcome() {
        let pace = Arc::new(Pace::new());
        // Enough rounds for the longest pause, the last of them now.
        let now = Instant::now();
        for round in (0..10).rev() {
            let at = now - Duration::from_millis(2 * round);
            pace.failed(at - Duration::from_millis(1), at, &DialError::Refused);
        }
        let tried = Arc::new(AtomicUsize::new(0));
        let herd = |outcome: Result<(), DialError>| {
            let (pace, tried) = (Arc::clone(&pace), Arc::clone(&tried));
            async move {
                let slot = pace.enter().await?;
                let begun = Instant::now();
                tried.fetch_add(1, Ordering::Relaxed);
                match &outcome {
                    Ok(()) => pace.succeeded(),
                    Err(error) => pace.failed(begun, Instant::now(), error),
                }
                drop(slot);
                outcome
            }
        };
        let attempts: Vec<_> = (0..500)
            .map(|_| tokio::spawn(herd(Err(DialError::Closed))))
            .collect();
        for attempt in attempts {
            assert_eq!(attempt.await.unwrap(), Err(DialError::Closed));
        }
        // One attempt answers for all who wait; those who come later may have made another.
        assert!(tried.load(Ordering::Relaxed) <= 10, "{tried:?}");
        let attempts: Vec<_> = (0..500).map(|_| tokio::spawn(herd(Ok(())))).collect();
        for attempt in attempts {
            attempt.await.unwrap().unwrap();
        }
        assert!(matches!(poll(pin!(pace.enter())), Poll::Ready(Ok(_))));
    }
}
