//! Connections to Redis: dialling, TLS, our credential, and whether the server is there.
//!
//! [`Upstream::dial`] gives a connection on which the next byte written is a client's request: TLS is verified, our
//! credential is accepted, the database is selected, and nothing is left to be read. Whoever asks for one gets
//! either that or a [`DialError`] that knows its metric label, its log line and what a client is told.
//!
//! ```text
//!   resolve ─ TCP or unix ─ TLS ─────▶ AUTH line 1 ─ WRONGPASS ▶ AUTH line 2 ─ WRONGPASS ▶ read the secret again
//!   └─── connect_timeout ──────┘      └──────────────────── auth_timeout ─────────────────────┘   │ changed: AUTH
//!                                        │ +OK                                                     ▼ same: refused
//!                                        ▼                                              1 s … 30 s without attempts
//!                                     SELECT ▶ ready
//! ```
//!
//! Every connection but the health check's own holds a [`Place`]: there are never more than `max_connections` of them,
//! and who finds none free waits in order ([`Upstream::connection`]). How fast they are opened, after a restart of Redis
//! above all, is the matter of [`pace`].

mod credential;
mod dedicated;
mod dial;
mod error;
mod handshake;
mod pace;
mod places;
mod probe;
mod shared;

use std::any::Any;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::config;
use crate::config::{CredentialError, UpstreamAddress, UpstreamPool};
use crate::net::Stream;
use crate::tls::{CertificateInfo, ClientTls, TlsError};

use credential::CredentialStore;
pub use dedicated::{Lane, LaneEnd};
pub use error::{AuthRefusal, DialError, DialReason, SetupError};
use pace::Pace;
pub use places::{Place, Places, Queued};
pub use probe::{Probe, UpstreamHealth};
pub use shared::{
    LaneReport, LaneState, LostWhen, MAX_SHARED_REQUEST, Replies, Scratch, Seat, SeatEnd, SharedLane,
};

/// One `[[upstream]]`: everything that is needed to connect to it. Shared by all workers.
pub struct Upstream {
    /// As configured. Of its timeouts and bounds those of `tuning` are in force.
    section: config::Upstream,
    url: String,
    tuning: ArcSwap<Tuning>,
    tls: Option<TlsSlot>,
    credential: Option<CredentialStore>,
    /// Bounds name resolutions at once: each holds a thread, for as long as a resolver may hang.
    resolver: Arc<Semaphore>,
    refusal: Mutex<Option<Refusal>>,
    report: Mutex<Report>,
    places: Arc<Places>,
    pace: Pace,
    /// Another has taken its place at a reload.
    retired: AtomicBool,
    counters: Arc<dyn Counters>,
}

/// What a reload may change without making another upstream of it.
struct Tuning {
    connect_timeout: Duration,
    auth_timeout: Duration,
    pool: UpstreamPool,
}

/// TLS settings and what is in force of them.
struct TlsSlot {
    section: config::UpstreamTls,
    current: ArcSwap<ClientTls>,
}

/// A connection in the making.
pub type Dial = Pin<Box<dyn Future<Output = Result<Box<Dialed>, DialError>>>>;

/// A connection that is ready for requests: authenticated, database selected, nothing left to be read.
#[derive(Debug)]
pub struct Dialed {
    /// The connection.
    pub stream: Stream,
    /// What [`Counters::connected`] gave; to be kept as long as the connection.
    pub open: OpenGuard,
    /// Its place among `max_connections`; behind the connection, so that it is given on when that is closed. `None`:
    /// the health check's.
    pub place: Option<Place>,
}

/// Counts a connection as open until it is dropped.
pub type OpenGuard = Box<dyn Any + Send + Sync>;

/// What happens here, for the metrics; every function does nothing unless implemented.
pub trait Counters: Send + Sync {
    /// A connection is attempted (`keyward_upstream_connects_total`).
    fn connecting(&self) {}
    /// It is ready; so long it took (`keyward_upstream_connect_duration_seconds`). What is returned lives as long as
    /// the connection (`keyward_upstream_connections_open`).
    fn connected(&self, took: Duration) -> OpenGuard {
        let _ = took;
        Box::new(())
    }
    /// It failed (`keyward_upstream_connect_failures_total`).
    fn connect_failed(&self, reason: DialReason) {
        let _ = reason;
    }
    /// Redis refused our credential (`keyward_upstream_auth_failures_total`); counted in addition to the failed
    /// connection.
    fn auth_failed(&self, reason: AuthRefusal) {
        let _ = reason;
    }
    /// The credential was read; so old it is (`keyward_upstream_credential_changed_timestamp_seconds`).
    fn credential_changed(&self, at: SystemTime) {
        let _ = at;
    }
    /// Somebody waits because `max_connections` is reached (`keyward_upstream_waits_total`); until what is returned is
    /// dropped (`keyward_upstream_waiting`).
    fn waiting(&self) -> OpenGuard {
        Box::new(())
    }
    /// It waited in vain (`keyward_upstream_wait_timeouts_total`).
    fn wait_timed_out(&self) {}
    /// Connections allowed (`keyward_upstream_connections_max`).
    fn allowed(&self, max: usize) {
        let _ = max;
    }
    /// Outcome of a check (`keyward_upstream_up`).
    fn up(&self, up: bool) {
        let _ = up;
    }
}

/// Counts nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCounters;

impl Counters for NoCounters {}

/// Redis refused our credential: no attempt before `until`, so that its ACL LOG is not flooded (F-12).
struct Refusal {
    since: Instant,
    until: Instant,
    interval: Duration,
    error: DialError,
}

/// What the log has been told.
#[derive(Default)]
struct Report {
    /// Reason of the last failure while it is down; `None` while it is up or unknown.
    down: Option<DialReason>,
    /// Whether a success was reported since the last failure.
    up: bool,
    /// When the last failure was written.
    last_failure: Option<Instant>,
    /// When it was last written that all places are taken.
    last_full: Option<Instant>,
}

impl Upstream {
    /// Reads certificates and the credential; connects to nothing. `environment` looks up variables.
    ///
    /// # Errors
    /// [`SetupError`]: a file or variable that cannot be used.
    pub fn new(
        section: &config::Upstream,
        environment: &dyn Fn(&str) -> Option<String>,
        counters: Arc<dyn Counters>,
    ) -> Result<Self, SetupError> {
        let tls = match &section.tls {
            Some(section) => Some(TlsSlot {
                section: section.clone(),
                current: ArcSwap::from_pointee(ClientTls::load(section)?),
            }),
            None => None,
        };
        let credential = match &section.credential {
            Some(source) => Some(CredentialStore::load(source, environment)?),
            None => None,
        };
        if let Some(store) = &credential {
            counters.credential_changed(store.changed());
        }
        Ok(Self {
            section: section.clone(),
            url: url(&section.address, section.database),
            tuning: ArcSwap::from_pointee(Tuning::of(section)),
            tls,
            credential,
            resolver: Arc::new(Semaphore::new(MAX_RESOLUTIONS)),
            refusal: Mutex::default(),
            report: Mutex::default(),
            places: Places::new(section.pool.max_connections),
            pace: Pace::new(),
            retired: AtomicBool::new(false),
            counters,
        })
    }

    /// Takes the place of `self` at a reload, or leaves it to `self` with what is new: `self` stays, with all its
    /// connections, while it is the same server with the same login. Certificates and the credential are those that
    /// `next` has read.
    #[must_use]
    pub fn replaced_by(self: &Arc<Self>, mut next: Self) -> Arc<Self> {
        let max = next.section.pool.max_connections;
        self.allow(max);
        if !self.section.is_same_server(&next.section) {
            // The old one's connections count until they are closed.
            next.places = Arc::clone(&self.places);
            self.retired.store(true, Ordering::Release);
            return Arc::new(next);
        }
        self.tuning.store(Arc::new(Tuning::of(&next.section)));
        if let (Some(slot), Some(read)) = (&self.tls, &next.tls) {
            slot.current.store(read.current.load_full());
        }
        if let (Some(store), Some(read)) = (&self.credential, &next.credential)
            && store.adopt(read)
        {
            self.credential_changed(store);
        }
        Arc::clone(self)
    }

    /// Allows so many connections.
    pub fn allow(&self, max: usize) {
        self.places.set_max(max);
        self.counters.allowed(max);
    }

    /// Whether another has taken its place: its connections end, and no request of a later reload travels on them.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The configured name; a metric label.
    pub fn name(&self) -> &str {
        &self.section.name
    }

    /// `host:port/database`, without credentials; for logs.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database that new connections are on.
    pub fn database(&self) -> u32 {
        self.section.database
    }

    /// Who may have a connection at all.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Bounds of the idle connections that are kept.
    pub fn pool(&self) -> UpstreamPool {
        self.tuning.load().pool
    }

    /// Looks at the secret's file again; a new credential is used from the next connection on, and existing
    /// connections stay (Redis keeps them, F-16). `true` if it changed.
    ///
    /// # Errors
    /// [`CredentialError`]; the former credential stays in force.
    pub async fn reload_credential(&self) -> Result<bool, CredentialError> {
        let Some(store) = &self.credential else {
            return Ok(false);
        };
        let changed = store.reload().await?;
        if changed {
            self.credential_changed(store);
        }
        Ok(changed)
    }

    /// Whether both log in to Redis with the same passwords.
    pub fn has_same_credential(&self, other: &Self) -> bool {
        match (&self.credential, &other.credential) {
            (Some(ours), Some(theirs)) => ours.is_same(theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }

    /// Reads the certificate files again and uses them from the next connection on.
    ///
    /// # Errors
    /// [`TlsError`]; the former ones stay in force.
    pub fn reload_tls(&self) -> Result<(), TlsError> {
        if let Some(slot) = &self.tls {
            slot.current.store(Arc::new(ClientTls::load(&slot.section)?));
        }
        Ok(())
    }

    /// Expiry of the loaded certificates (X-13).
    pub fn certificates(&self) -> Vec<CertificateInfo> {
        self.tls
            .as_ref()
            .map(|slot| slot.current.load().certificates.clone())
            .unwrap_or_default()
    }

    fn credential_changed(&self, store: &CredentialStore) {
        *lock(&self.refusal) = None;
        self.counters.credential_changed(store.changed());
        tracing::info!(
            event = "upstream_credential_changed",
            upstream = self.name(),
            source = store.describe(),
            "the credential for Redis was read anew"
        );
    }

    /// Fails while a refusal lasts. When its time is over, the first caller may try and all others wait on.
    fn check_refusal(&self) -> Result<(), DialError> {
        let mut refusal = lock(&self.refusal);
        let Some(refusal) = refusal.as_mut() else {
            return Ok(());
        };
        let now = Instant::now();
        if now < refusal.until {
            return Err(refusal.error.clone());
        }
        refusal.until = now + refusal.interval;
        Ok(())
    }

    /// Begins or prolongs the pause, after an attempt that began at `begun`.
    fn note_refusal(&self, error: &DialError, begun: Instant) {
        let mut slot = lock(&self.refusal);
        let interval = match slot.as_ref() {
            None => FIRST_PAUSE,
            // Attempts that were under way together are one refusal.
            Some(former) if former.since >= begun => return,
            Some(former) => former.interval.saturating_mul(2).min(LONGEST_PAUSE),
        };
        let since = Instant::now();
        *slot = Some(Refusal {
            since,
            until: since + interval,
            interval,
            error: error.clone(),
        });
    }

    fn note_success(&self) {
        let mut report = lock(&self.report);
        if !report.up {
            *report = Report {
                up: true,
                last_full: report.last_full,
                ..Report::default()
            };
            drop(report);
            tracing::info!(
                event = "redis_connection_initialized",
                url = self.url,
                upstream = self.name(),
                "connected to Redis"
            );
        }
    }

    /// One line at once, and again when the reason changes or every 30 s (F-1).
    fn note_failure(&self, error: &DialError) {
        let reason = error.reason();
        {
            let mut report = lock(&self.report);
            let recent = report
                .last_failure
                .is_some_and(|at| at.elapsed() < REPORT_INTERVAL);
            if recent && report.down == Some(reason) {
                return;
            }
            *report = Report {
                down: Some(reason),
                up: false,
                last_failure: Some(Instant::now()),
                last_full: report.last_full,
            };
        }
        let (url, upstream, label) = (self.url.as_str(), self.name(), reason.label());
        if error.needs_a_person() {
            tracing::error!(event = "redis_connection_failed", url, upstream, reason = label, %error, "cannot connect to Redis");
        } else {
            tracing::warn!(event = "redis_connection_failed", url, upstream, reason = label, %error, "cannot connect to Redis; retrying");
        }
    }

    /// One line, and again every 30 s while it happens.
    fn note_full(&self, error: &DialError) {
        {
            let mut report = lock(&self.report);
            if report.last_full.is_some_and(|at| at.elapsed() < REPORT_INTERVAL) {
                return;
            }
            report.last_full = Some(Instant::now());
        }
        tracing::warn!(event = "upstream_connections_exhausted", upstream = self.name(), %error,
            "a client was sent away because no connection to Redis became free");
    }

    /// Whether the last attempt to connect failed.
    pub fn is_failing(&self) -> bool {
        lock(&self.report).down.is_some()
    }
}

impl Tuning {
    fn of(section: &config::Upstream) -> Self {
        Self {
            connect_timeout: section.connect_timeout,
            auth_timeout: section.auth_timeout,
            pool: section.pool,
        }
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream")
            .field("name", &self.section.name)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

fn url(address: &UpstreamAddress, database: u32) -> String {
    match address {
        UpstreamAddress::Tcp { host, port } if host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => {
            format!("[{host}]:{port}/{database}")
        }
        UpstreamAddress::Tcp { host, port } => format!("{host}:{port}/{database}"),
        UpstreamAddress::Unix(path) => format!("{}/{database}", path.display()),
    }
}

/// The data behind these locks is whole at every moment, so a panic elsewhere does not make it unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Name resolutions at once, per upstream.
const MAX_RESOLUTIONS: usize = 4;
/// Pause after the first refusal of our credential; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause: a repaired password is noticed within it, even without a reload.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The same failure is written at most so often (F-1).
const REPORT_INTERVAL: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_no_credential_and_keep_ipv6_readable() {
        let tcp = |host: &str| UpstreamAddress::Tcp {
            host: host.to_owned(),
            port: 6379,
        };
        assert_eq!(url(&tcp("redis.test"), 0), "redis.test:6379/0");
        assert_eq!(url(&tcp("::1"), 3), "[::1]:6379/3");
        assert_eq!(
            url(&UpstreamAddress::Unix("/run/redis.sock".into()), 1),
            "/run/redis.sock/1"
        );
    }

    fn idle_upstream() -> Upstream {
        let section = config::Upstream {
            name: "main".to_owned(),
            address: UpstreamAddress::Unix("/nonexistent".into()),
            database: 0,
            username: None,
            credential: None,
            tls: None,
            connect_timeout: Duration::from_secs(2),
            auth_timeout: Duration::from_secs(2),
            pool: UpstreamPool::default(),
        };
        Upstream::new(&section, &|_| None, Arc::new(NoCounters)).unwrap()
    }

    #[tokio::test]
    async fn the_pause_doubles_with_each_refusal_up_to_half_a_minute() {
        let upstream = idle_upstream();
        let error = DialError::Auth {
            refusal: AuthRefusal::WrongPassword,
            detail: String::new(),
        };
        let pause = || lock(&upstream.refusal).as_ref().unwrap().interval;
        upstream.check_refusal().unwrap();
        for expected in [1, 2, 4, 8, 16, 30, 30] {
            let begun = Instant::now();
            // Three that were under way together.
            for _ in 0..3 {
                upstream.note_refusal(&error, begun);
            }
            assert_eq!(pause(), Duration::from_secs(expected));
            assert_eq!(upstream.check_refusal(), Err(error.clone()));
        }
        // When its time is over, one may try and the others wait.
        lock(&upstream.refusal).as_mut().unwrap().until = Instant::now();
        upstream.check_refusal().unwrap();
        assert_eq!(upstream.check_refusal(), Err(error));
    }
}
