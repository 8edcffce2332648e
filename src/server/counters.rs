//! Connects what an upstream reports to the metrics.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::metrics::{Metrics, UpstreamMetrics};
use crate::upstream::{AuthRefusal, Counters, DialReason, OpenGuard};

/// The metrics of one upstream.
struct UpstreamCounters(Arc<UpstreamMetrics>);

impl Counters for UpstreamCounters {
    fn connecting(&self) {
        self.0.connect_attempt();
    }

    fn connected(&self, took: Duration) -> OpenGuard {
        self.0.connected(took);
        Box::new(self.0.connection_open())
    }

    fn connect_failed(&self, reason: DialReason) {
        self.0.connect_failed(reason.label());
    }

    fn auth_failed(&self, user: &str, reason: AuthRefusal) {
        self.0.auth_failed(user, reason.label());
    }

    fn credential_changed(&self, user: &str, at: SystemTime) {
        self.0.credential_changed(
            user,
            at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64(),
        );
    }

    fn waiting(&self) -> OpenGuard {
        Box::new(self.0.wait())
    }

    fn wait_timed_out(&self) {
        self.0.wait_timed_out();
    }

    fn allowed(&self, max: usize) {
        self.0.connections_max.set(i64::try_from(max).unwrap_or(i64::MAX));
    }

    fn up(&self, up: bool) {
        self.0.up.set(i64::from(up));
    }
}

/// What the upstreams of a configuration count with.
pub(super) fn of(metrics: &Arc<Metrics>) -> impl Fn(&str) -> Arc<dyn Counters> + '_ {
    |name| Arc::new(UpstreamCounters(metrics.upstream(name)))
}
