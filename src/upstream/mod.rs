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
//! above all, is the matter of `pace`.

mod credential;
mod dedicated;
mod dial;
mod error;
mod examine;
mod flight;
mod gather;
mod handshake;
mod login;
mod operator;
mod pace;
mod places;
mod privilege;
mod probe;
mod shared;

use std::any::Any;
use std::collections::BTreeMap;
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
pub use dial::Steps;
pub use error::{AuthRefusal, DialError, DialReason, SetupError};
pub use examine::{Rights, ServerFacts, Skew, Visit, Welcome};
pub use login::{Login, Target};
pub use operator::{Answer, Operator};
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
    /// Whom Keyward itself logs in as; users without a login of their own use it.
    own: Arc<Login>,
    /// By the users of ours that have one.
    logins: ArcSwap<BTreeMap<String, Arc<Login>>>,
    /// Somebody uses `own` besides the health check.
    own_serves: AtomicBool,
    /// Bounds name resolutions at once: each holds a thread, for as long as a resolver may hang.
    resolver: Arc<Semaphore>,
    report: Mutex<Report>,
    places: Arc<Places>,
    pace: Pace,
    /// Another has taken its place at a reload.
    retired: AtomicBool,
    /// HELLO 3 has been granted once.
    speaks_resp3: AtomicBool,
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
    /// connection. `user`: the user of ours whose it is, empty for Keyward's own.
    fn auth_failed(&self, user: &str, reason: AuthRefusal) {
        let _ = (user, reason);
    }
    /// Another credential than before is in force; so old it is (`keyward_upstream_credential_changed_timestamp_seconds`).
    fn credential_changed(&self, user: &str, at: SystemTime) {
        let _ = (user, at);
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
        let own = Login::own(section, environment)?;
        own.set_trusted(!section.require_least_privilege);
        Ok(Self {
            section: section.clone(),
            url: url(&section.address, section.database),
            tuning: ArcSwap::from_pointee(Tuning::of(section)),
            tls,
            own: Arc::new(own),
            logins: ArcSwap::default(),
            own_serves: AtomicBool::new(true),
            resolver: Arc::new(Semaphore::new(MAX_RESOLUTIONS)),
            report: Mutex::default(),
            places: Places::new(section.pool.max_connections),
            pace: Pace::new(),
            retired: AtomicBool::new(false),
            speaks_resp3: AtomicBool::new(false),
            counters,
        })
    }

    /// The same with logins of users; `own_serves`: there are users without one.
    #[must_use]
    pub fn with_logins(self, logins: Vec<Login>, own_serves: bool) -> Self {
        for login in &logins {
            login.set_trusted(!self.section.require_least_privilege);
        }
        let logins = logins
            .into_iter()
            .map(|login| (login.user().to_owned(), Arc::new(login)))
            .collect();
        self.logins.store(Arc::new(logins));
        self.own_serves.store(own_serves, Ordering::Release);
        self
    }

    /// Whom this user of ours is at Redis.
    pub fn login_of(&self, user: &str) -> Arc<Login> {
        let logins = self.logins.load();
        Arc::clone(logins.get(user).unwrap_or(&self.own))
    }

    /// Whom Keyward itself is at Redis: for the health check, and for users without a login of their own.
    pub fn own_login(&self) -> Arc<Login> {
        Arc::clone(&self.own)
    }

    /// All logins that clients use.
    pub fn logins(&self) -> Vec<Arc<Login>> {
        let own = self
            .own_serves
            .load(Ordering::Acquire)
            .then(|| Arc::clone(&self.own));
        own.into_iter()
            .chain(self.logins.load().values().cloned())
            .collect()
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
        self.adopt(&self.own, &next.own);
        let (former, read) = (self.logins.load_full(), next.logins.load_full());
        let mut logins = BTreeMap::new();
        for (user, read) in &*read {
            let login = match former.get(user).filter(|login| login.is_same(read)) {
                Some(login) => {
                    self.adopt(login, read);
                    login
                }
                None => read,
            };
            logins.insert(user.clone(), Arc::clone(login));
        }
        for (user, login) in &*former {
            if !logins
                .get(user)
                .is_some_and(|present| Arc::ptr_eq(present, login))
            {
                login.retire();
            }
        }
        self.logins.store(Arc::new(logins));
        let own_serves = next.own_serves.load(Ordering::Acquire);
        self.own_serves.store(own_serves, Ordering::Release);
        Arc::clone(self)
    }

    /// Passwords as they were read anew from the same place.
    fn adopt(&self, login: &Login, read: &Login) {
        login.set_trusted(read.is_trusted());
        if let (Some(store), Some(read)) = (&login.store, &read.store)
            && store.adopt(read)
        {
            self.credential_changed(login, store);
        }
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

    /// Looks at the file of Keyward's own secret again; a new credential is used from the next connection on, and existing
    /// connections stay (Redis keeps them, F-16). `true` if it changed.
    ///
    /// # Errors
    /// [`CredentialError`]; the former credential stays in force.
    pub async fn reload_credential(&self) -> Result<bool, CredentialError> {
        let Some(store) = &self.own.store else {
            return Ok(false);
        };
        let changed = store.reload().await?;
        if changed {
            self.credential_changed(&self.own, store);
        }
        Ok(changed)
    }

    /// Whether Keyward itself logs in to both with the same passwords.
    pub fn has_same_credential(&self, other: &Self) -> bool {
        match (&self.own.store, &other.own.store) {
            (Some(ours), Some(theirs)) => ours.is_same(theirs),
            (ours, theirs) => ours.is_none() && theirs.is_none(),
        }
    }

    /// The users of ours whose login at Redis has a password, with the moment when that was changed; an empty name is
    /// Keyward's own login.
    pub fn credentials(&self) -> Vec<(String, SystemTime)> {
        let logins = self.logins.load();
        let all = std::iter::once(&self.own).chain(logins.values());
        all.filter_map(|login| Some((login.user().to_owned(), login.store.as_ref()?.changed())))
            .collect()
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

    fn credential_changed(&self, login: &Login, store: &CredentialStore) {
        login.forget_refusal();
        self.counters.credential_changed(login.user(), store.changed());
        tracing::info!(
            event = "upstream_credential_changed",
            upstream = self.name(),
            user = login.user(),
            source = store.describe(),
            "the credential for Redis was read anew"
        );
    }

    fn note_success(&self, login: &Login) {
        login.forget_refusal();
        let mut report = lock(&self.report);
        if !login.is_own() && report.down.is_some_and(DialReason::is_about_login) {
            // Another's success says nothing about our own login.
            return;
        }
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

    /// One line at once, and again when the reason changes or every 30 s (F-1). That Redis refuses the login of one user
    /// is nothing that others need to care about.
    fn note_failure(&self, login: &Login, error: &DialError) {
        let reason = error.reason();
        if error.refusal().is_some() && !login.is_own() {
            if login.may_say(REPORT_INTERVAL) {
                tracing::error!(event = "redis_login_failed", url = self.url, upstream = self.name(),
                    user = login.user(), reason = reason.label(), %error, "Redis refuses the login of a user");
            }
            return;
        }
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

    /// Whether it is known to speak RESP3. Until it is, a client's HELLO 3 must be able to fail without harm to anybody.
    pub fn speaks_resp3(&self) -> bool {
        self.speaks_resp3.load(Ordering::Relaxed)
    }

    /// HELLO 3 has been granted.
    pub fn has_spoken_resp3(&self) {
        // Looked at first: a store would take the cache line from all others each time.
        if !self.speaks_resp3() {
            self.speaks_resp3.store(true, Ordering::Relaxed);
        }
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
}
