//! The deadlines of one connection, on one timer.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// What a connection waits for besides bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alarm {
    /// The client must have logged in.
    Login,
    /// A refused login is answered.
    Penalty,
    /// The client must have taken some of what is written to it.
    WriteStall,
    /// The client must have said something.
    Idle,
    /// A client that has closed its sending half must have been answered.
    Grace,
    /// A client that is not read from is looked after.
    Absence,
    /// What holds the session at an upstream that was replaced must have ended.
    Retirement,
}

const ALARMS: usize = 7;

/// Which deadlines are set.
///
/// Most are set and cleared many times for each time that one comes, so clearing one leaves the timer alone: it goes off too
/// early once, and is set again for what is left.
#[derive(Debug, Default)]
pub(super) struct Alarms {
    deadlines: [Option<Instant>; ALARMS],
    /// No deadline is earlier; `None`: none is set.
    earliest: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarms {
    /// Sets or moves a deadline. The task must call [`Alarms::register`] before it waits.
    pub(super) fn set(&mut self, alarm: Alarm, deadline: Instant) {
        *self.slot(alarm) = Some(deadline);
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
    }

    pub(super) fn clear(&mut self, alarm: Alarm) {
        *self.slot(alarm) = None;
    }

    /// Clears all but this one.
    pub(super) fn keep_only(&mut self, alarm: Alarm) {
        let kept = self.slot(alarm).take();
        self.deadlines = Default::default();
        *self.slot(alarm) = kept;
    }

    pub(super) fn is_set(&self, alarm: Alarm) -> bool {
        self.deadlines.get(alarm as usize).is_some_and(Option::is_some)
    }

    /// Whether [`Alarms::rings`] is worth asking at all: no deadline has come otherwise.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.earliest.is_some_and(|earliest| earliest <= now)
    }

    /// Whether the deadline has come; rings once.
    pub(super) fn rings(&mut self, alarm: Alarm, now: Instant) -> bool {
        self.slot(alarm).take_if(|deadline| *deadline <= now).is_some()
    }

    /// Makes sure that the task is woken at the next deadline.
    pub(super) fn register(&mut self, cx: &mut Context<'_>) {
        let Some(earliest) = self.earliest else { return };
        match &mut self.timer {
            Some(timer) if timer.deadline() == earliest.into() && !timer.is_elapsed() => {}
            _ => self.wind(cx),
        }
    }

    #[cold]
    fn wind(&mut self, cx: &mut Context<'_>) {
        self.earliest = self.deadlines.iter().flatten().min().copied();
        let Some(earliest) = self.earliest else {
            self.timer = None;
            return;
        };
        let deadline = earliest.into();
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        timer.as_mut().reset(deadline);
        if timer.as_mut().poll(cx).is_ready() {
            // Already over: look again at once.
            cx.waker().wake_by_ref();
        }
    }

    #[allow(clippy::indexing_slicing, reason = "there are as many places as alarms")]
    fn slot(&mut self, alarm: Alarm) -> &mut Option<Instant> {
        &mut self.deadlines[alarm as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Wake, Waker};
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SOON: Duration = Duration::from_millis(5);

    /// A task that can be waited for.
    #[derive(Default)]
    struct Task(Notify);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.notify_one();
        }
    }

    impl Task {
        async fn woken(&self) {
            let woken = tokio::time::timeout(Duration::from_secs(60), self.0.notified()).await;
            assert!(woken.is_ok(), "the task was not woken");
        }
    }

    fn task() -> (Arc<Task>, Waker) {
        let task = Arc::<Task>::default();
        (Arc::clone(&task), Waker::from(task))
    }

    #[tokio::test]
    async fn the_task_is_woken_at_the_earliest_deadline_and_then_at_the_next() {
        let (task, waker) = task();
        let cx = &mut Context::from_waker(&waker);
        let start = Instant::now();
        let mut alarms = Alarms::default();
        alarms.set(Alarm::Absence, start + HOUR);
        alarms.set(Alarm::Idle, start + 4 * SOON);
        alarms.set(Alarm::Login, start + SOON);
        assert!(!alarms.is_due(start));
        alarms.register(cx);
        task.woken().await;
        let first = start + SOON;
        assert!(Instant::now() >= first && alarms.is_due(first));
        assert!(!alarms.rings(Alarm::Idle, first));
        assert!(alarms.rings(Alarm::Login, first));
        assert!(!alarms.rings(Alarm::Login, first), "it rings once");
        alarms.register(cx);
        assert!(!alarms.is_due(first));
        task.woken().await;
        let second = start + 4 * SOON;
        assert!(Instant::now() >= second && alarms.is_due(second));
        assert!(alarms.rings(Alarm::Idle, second));
        alarms.register(cx);
        assert!(!alarms.is_due(second) && alarms.is_set(Alarm::Absence));
    }

    #[tokio::test]
    async fn a_cleared_deadline_does_not_ring_and_hides_none() {
        let (task, waker) = task();
        let cx = &mut Context::from_waker(&waker);
        let start = Instant::now();
        let mut alarms = Alarms::default();
        alarms.set(Alarm::WriteStall, start + SOON);
        alarms.set(Alarm::Idle, start + 4 * SOON);
        alarms.register(cx);
        alarms.clear(Alarm::WriteStall);
        assert!(!alarms.is_set(Alarm::WriteStall) && alarms.is_set(Alarm::Idle));
        // For nothing, once.
        task.woken().await;
        assert!(!alarms.rings(Alarm::WriteStall, start + 2 * SOON));
        alarms.register(cx);
        task.woken().await;
        assert!(Instant::now() >= start + 4 * SOON);
        assert!(alarms.rings(Alarm::Idle, start + 4 * SOON));
    }

    #[tokio::test]
    async fn a_deadline_that_comes_nearer_or_is_over_wakes_in_time() {
        let (task, waker) = task();
        let cx = &mut Context::from_waker(&waker);
        let start = Instant::now();
        let mut alarms = Alarms::default();
        alarms.set(Alarm::Grace, start + HOUR);
        alarms.register(cx);
        alarms.set(Alarm::Absence, start + SOON);
        alarms.register(cx);
        task.woken().await;
        assert!(alarms.rings(Alarm::Absence, start + SOON));
        alarms.set(Alarm::Penalty, start);
        alarms.register(cx);
        task.woken().await;
        assert!(alarms.rings(Alarm::Penalty, start));
    }
}
