//! Connects what an upstream reports to the metrics and the audit log.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::audit::Audit;
use crate::metrics::{Metrics, UpstreamMetrics};
use crate::upstream::{AuthRefusal, Counters, DialReason, OpenGuard};

/// What one upstream reports to.
struct UpstreamCounters {
    name: String,
    metrics: Arc<UpstreamMetrics>,
    audit: Arc<Audit>,
}

impl Counters for UpstreamCounters {
    fn connecting(&self) {
        self.metrics.connect_attempt();
    }

    fn connected(&self, took: Duration) -> OpenGuard {
        self.metrics.connected(took);
        Box::new(self.metrics.connection_open())
    }

    fn connect_failed(&self, reason: DialReason) {
        self.metrics.connect_failed(reason.label());
    }

    fn auth_failed(&self, user: &str, reason: AuthRefusal) {
        self.metrics.auth_failed(user, reason.label());
    }

    fn credential_changed(&self, user: &str, at: SystemTime) {
        let age = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.metrics.credential_changed(user, age.as_secs_f64());
        self.audit.upstream_credential_changed(&self.name);
    }

    fn waiting(&self) -> OpenGuard {
        Box::new(self.metrics.wait())
    }

    fn wait_timed_out(&self) {
        self.metrics.wait_timed_out();
    }

    fn allowed(&self, max: usize) {
        self.metrics
            .connections_max
            .set(i64::try_from(max).unwrap_or(i64::MAX));
    }

    fn up(&self, up: bool) {
        self.metrics.up.set(i64::from(up));
    }
}

/// What the upstreams of a configuration count with.
pub(super) fn of<'a>(
    metrics: &'a Arc<Metrics>,
    audit: &'a Arc<Audit>,
) -> impl Fn(&str) -> Arc<dyn Counters> + 'a {
    |name| {
        Arc::new(UpstreamCounters {
            name: name.to_owned(),
            metrics: metrics.upstream(name),
            audit: Arc::clone(audit),
        })
    }
}
