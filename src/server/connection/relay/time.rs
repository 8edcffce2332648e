//! Deadlines and orders.

use std::task::Context;
use std::time::{Duration, Instant};

use crate::auth::AuthFailure;
use crate::metrics::CloseReason;
use crate::upstream::Lane;

use super::super::alarms::Alarm;
use super::{HALF_CLOSE_GRACE, Relay, Stop};

impl Relay {
    /// What has been ordered, and what is due.
    pub(super) fn poll_orders(&mut self, cx: &mut Context<'_>, now: Instant) -> Result<(), Stop> {
        self.client.control.watch(cx);
        if self.client.control.is_aborting() {
            return Err(Stop::silent(CloseReason::Drain));
        }
        if self.client.control.take_reload() {
            self.rejudge()?;
        }
        if self.session.identity().is_none() && self.client.is_evicted(cx) {
            return Err(Stop::silent(CloseReason::Evicted));
        }
        if self.alarms.is_due(now) {
            self.ring(now)
        } else {
            Ok(())
        }
    }

    fn ring(&mut self, now: Instant) -> Result<(), Stop> {
        if self.alarms.rings(Alarm::Login, now) {
            self.client.auth_failed(&AuthFailure::Timeout, None);
            return Err(Stop::silent(CloseReason::AuthTimeout));
        }
        if self.alarms.rings(Alarm::Penalty, now)
            && let Some(failure) = self.penalty.take()
        {
            self.session.login_refused(&failure, &mut self.out);
            self.stalled = true;
        }
        if self.alarms.rings(Alarm::WriteStall, now) {
            return Err(Stop::silent(CloseReason::WriteStall));
        }
        if self.alarms.rings(Alarm::Grace, now) {
            return Err(Stop::silent(CloseReason::ClientClosed));
        }
        if self.alarms.rings(Alarm::Absence, now) && self.is_deaf() && self.stream.peer_has_closed() {
            // Redis must forget a client that waits (S-14); one that is owed replies may be reading them still (S-15).
            if self.session.has_blocking() || self.last_moved + HALF_CLOSE_GRACE <= now {
                return Err(Stop::silent(CloseReason::ClientClosed));
            }
        }
        if self.alarms.rings(Alarm::Retirement, now) && self.lane.as_ref().is_some_and(Lane::is_retired) {
            return Err(Stop::silent(CloseReason::UpstreamClosed));
        }
        if self.alarms.rings(Alarm::Idle, now)
            && let Some(timeout) = self.client.listener_config().idle_timeout
        {
            let end = self.last_heard + timeout;
            if end <= now && self.is_settled() && !self.session.is_listening() {
                return Err(Stop::silent(CloseReason::IdleTimeout));
            }
            self.alarms.set(Alarm::Idle, end.max(now + MIN_IDLE_CHECK));
        }
        Ok(())
    }

    /// Whether the client's leaving would go unnoticed, because nothing is read from it.
    pub(super) fn is_deaf(&self) -> bool {
        !self.half_closed && (self.stalled || self.session.closing().is_some() || !self.takes_requests())
    }
}

/// An idle check is never set closer than this.
const MIN_IDLE_CHECK: Duration = Duration::from_millis(10);
