//! A deadline that may or may not be set.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// One deadline of a connection; costs two words while it is not set.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Set since the task was last told of it.
    fresh: bool,
}

impl Alarm {
    /// Sets or moves the deadline. The task must call [`Alarm::register`] before it waits.
    pub(super) fn set(&mut self, deadline: Instant) {
        let deadline = deadline.into();
        self.fresh = true;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(deadline),
            None => self.sleep = Some(Box::pin(sleep_until(deadline))),
        }
    }

    pub(super) fn clear(&mut self) {
        self.sleep = None;
    }

    pub(super) fn is_set(&self) -> bool {
        self.sleep.is_some()
    }

    /// Whether the deadline has come; rings once. Wakes the task later when it has not.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let rung = self
            .sleep
            .as_mut()
            .is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
        self.fresh = false;
        if rung {
            self.sleep = None;
        }
        rung
    }

    /// Makes sure that the task is woken at the deadline.
    pub(super) fn register(&mut self, cx: &mut Context<'_>) {
        if !std::mem::take(&mut self.fresh) {
            return;
        }
        if let Some(sleep) = &mut self.sleep
            && sleep.as_mut().poll(cx).is_ready()
        {
            // Already over: look again at once.
            cx.waker().wake_by_ref();
        }
    }
}
