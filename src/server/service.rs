//! What systemd is told (`Type=notify`, `WatchdogSec=`): nothing, where there is no service manager.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// Tells the service manager how the process is.
pub(super) struct Service {
    /// How often it wants to hear that the process is alive; `None`: not at all.
    watchdog: Option<Duration>,
    /// When it was told last.
    heard: Instant,
}

impl Service {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            // Half of its patience, as sd_watchdog_enabled(3) advises.
            watchdog: sd_notify::watchdog_enabled().map(|patience| patience / 2),
            heard: now,
        }
    }

    /// Everything is bound and the first connection may come.
    pub(super) fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// A reload has been tried.
    pub(super) fn reloaded(&self, status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    /// The process drains.
    pub(super) fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    }

    /// To be called about once a second by the main thread, which is what the watchdog watches: accepting, reloading and
    /// signals are its work.
    pub(super) fn alive(&mut self, now: Instant) {
        if let Some(interval) = self.watchdog
            && now.saturating_duration_since(self.heard) + LATE >= interval
        {
            self.heard = now;
            tell(&[NotifyState::Watchdog]);
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(event = "service_manager_not_told", error = %error);
    }
}

/// The next call may be so late.
const LATE: Duration = Duration::from_millis(1_100);
