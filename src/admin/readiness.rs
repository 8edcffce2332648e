//! Whether this process should be sent clients: the state behind `/readyz`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

/// Health of the upstreams, and whether the process has started or drains. Shared by `Arc`.
///
/// Ready means: started, not draining, and at least one upstream healthy. With several upstreams of which some are
/// down the answer is *ready, degraded*: taking the process out of service would also take the healthy ones' clients,
/// and every other replica sees the same upstreams.
#[derive(Debug, Default)]
pub struct Readiness {
    started: AtomicBool,
    draining: AtomicBool,
    upstreams: RwLock<Vec<Arc<UpstreamHealth>>>,
}

/// Health of one upstream; unhealthy until a check has succeeded.
#[derive(Debug)]
pub struct UpstreamHealth {
    name: String,
    up: AtomicBool,
}

/// What `/readyz` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Whether clients should be sent here: status 200 or 503.
    pub ready: bool,
    /// Everything is well: `"status":"ok"`, else `"degraded"`.
    pub ok: bool,
    /// Every upstream is healthy: `"redis":"healthy"`, else `"unhealthy"`.
    pub redis: bool,
}

impl Readiness {
    /// Not started, and no upstream healthy yet.
    pub fn new<S: Into<String>>(upstreams: impl IntoIterator<Item = S>) -> Arc<Self> {
        let readiness = Self::default();
        readiness.set_upstreams(upstreams);
        Arc::new(readiness)
    }

    /// Replaces the list of upstreams after a reload; those that stay keep their health.
    pub fn set_upstreams<S: Into<String>>(&self, names: impl IntoIterator<Item = S>) {
        let mut upstreams = self.upstreams.write().unwrap_or_else(PoisonError::into_inner);
        *upstreams = names
            .into_iter()
            .map(|name| {
                let name = name.into();
                let known = upstreams.iter().find(|upstream| upstream.name == name);
                known.map_or_else(
                    || {
                        Arc::new(UpstreamHealth {
                            name,
                            up: AtomicBool::new(false),
                        })
                    },
                    Arc::clone,
                )
            })
            .collect();
    }

    /// The handle that an upstream's check writes to.
    pub fn upstream(&self, name: &str) -> Option<Arc<UpstreamHealth>> {
        let upstreams = self.upstreams.read().unwrap_or_else(PoisonError::into_inner);
        upstreams
            .iter()
            .find(|upstream| upstream.name == name)
            .map(Arc::clone)
    }

    /// All listeners accept from now on.
    pub fn started(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// The process drains from now on, which is never taken back.
    pub fn draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether the process drains.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The state at present.
    pub fn health(&self) -> Health {
        let upstreams = self.upstreams.read().unwrap_or_else(PoisonError::into_inner);
        let up = upstreams.iter().filter(|upstream| upstream.is_up()).count();
        let redis = up == upstreams.len();
        let serving = self.started.load(Ordering::Acquire) && !self.draining.load(Ordering::Acquire);
        Health {
            ready: serving && (redis || up > 0),
            ok: serving && redis,
            redis,
        }
    }
}

impl UpstreamHealth {
    /// Records the result of a check; true if it differs from the one before, which is worth a log line.
    pub fn set(&self, up: bool) -> bool {
        self.up.swap(up, Ordering::AcqRel) != up
    }

    /// The result of the last check.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }
}

impl Health {
    /// The body of `/readyz`.
    pub fn body(self) -> &'static str {
        match (self.ok, self.redis) {
            (true, _) => r#"{"status":"ok","redis":"healthy"}"#,
            (false, true) => r#"{"status":"degraded","redis":"healthy"}"#,
            (false, false) => r#"{"status":"degraded","redis":"unhealthy"}"#,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_a_start_an_upstream_and_no_drain() {
        let readiness = Readiness::new(["main"]);
        let upstream = readiness.upstream("main").unwrap();
        assert_eq!(
            readiness.health(),
            Health {
                ready: false,
                ok: false,
                redis: false
            }
        );
        assert!(upstream.set(true));
        assert!(!upstream.set(true));
        assert_eq!(
            readiness.health(),
            Health {
                ready: false,
                ok: false,
                redis: true
            }
        );
        readiness.started();
        assert_eq!(
            readiness.health(),
            Health {
                ready: true,
                ok: true,
                redis: true
            }
        );
        upstream.set(false);
        assert_eq!(
            readiness.health(),
            Health {
                ready: false,
                ok: false,
                redis: false
            }
        );
        upstream.set(true);
        readiness.draining();
        assert_eq!(
            readiness.health(),
            Health {
                ready: false,
                ok: false,
                redis: true
            }
        );
    }

    #[test]
    fn one_of_two_upstreams_down_is_ready_and_degraded() {
        let readiness = Readiness::new(["cache", "sessions"]);
        readiness.started();
        readiness.upstream("cache").unwrap().set(true);
        let health = readiness.health();
        assert!(health.ready);
        assert_eq!(health.body(), r#"{"status":"degraded","redis":"unhealthy"}"#);
    }

    #[test]
    fn a_reload_keeps_what_is_known_of_an_upstream() {
        let readiness = Readiness::new(["cache", "sessions"]);
        readiness.started();
        readiness.upstream("cache").unwrap().set(true);
        readiness.set_upstreams(["cache"]);
        assert!(readiness.health().ok);
        assert!(readiness.upstream("sessions").is_none());
    }
}
