//! The composition root: listeners, workers, upstreams and everything they share, put together here and nowhere else.
//!
//! ```text
//!   Bound::new ── addresses known, nothing accepted ──► run ──► serving ── SIGHUP, changed files ──► reload
//!                                                                  │
//!                                                               SIGTERM ──► drain ──► stopped
//! ```
//!
//! The main thread accepts, checks the upstreams, watches files and listens to signals; sessions run on the workers; the
//! admin listener has a thread of its own. A reload builds and checks everything before it changes anything.

mod acceptor;
mod connection;
mod control;
mod counters;
mod examine;
mod expiry;
mod handshakes;
mod lanes;
mod learning;
mod listener;
mod packing;
mod prepare;
mod privilege;
mod reload;
mod service;
mod status;
mod watch;
mod worker;
mod workers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch as channel;

use crate::admin::{Admin, Pages, Readiness};
use crate::audit::Audit;
use crate::config::{Config, Connections, Diagnostic, Loaded, Sources};
use crate::drain::{self, DrainTrigger, Event};
use crate::limits::{Limits, Throttle};
use crate::metrics::{Labels, Metrics, MetricsError, Shape};
use crate::net::{self, BindError};
use crate::tls::HandshakeFailure;
use crate::upstream::{AuthRefusal, DialReason, Probe, Upstream};

use expiry::Expiries;
use lanes::Served;
use learning::Learning;
use listener::{Listener, Settings, Shared};
use prepare::Built;
use privilege::{Inspection, Plan, Said};
use service::Service;
use workers::{Balance, Workers};

pub use examine::{Examination, Examined, Excess};
pub use prepare::{Environment, ListenerUsers, load, load_users};

/// Why the program cannot start (F-43).
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration names things that cannot be used; every fault is in the list.
    #[error("the configuration cannot be used")]
    Configuration(Vec<Diagnostic>),
    /// An address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The admin address cannot be listened on.
    #[error("cannot listen on the admin address {address}: {source}")]
    Admin {
        /// As configured.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The system gave no thread, signal handler or descriptor.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A mistake of this program.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

/// Everything is bound and nothing accepted yet.
pub struct Bound {
    sources: Sources,
    config: Config,
    sockets: Vec<net::Listener>,
    listeners: Vec<Arc<Listener>>,
    upstreams: Vec<Arc<Upstream>>,
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    learning: Arc<Learning>,
    board: Arc<status::Board>,
    admin: Option<Admin>,
    control: Option<net::Listener>,
    files: watch::Files,
    expiries: Expiries,
    /// What was said about the rights of our users at Redis.
    said: Arc<Said>,
}

/// What runs while serving.
struct Serving {
    bound: Bound,
    drain: DrainTrigger,
    /// What workers serve; a new value tells them of a reload.
    reloads: channel::Sender<Vec<Served>>,
    workers: Arc<Workers>,
    balance: Balance,
    service: Service,
    /// One probe an upstream; aborted when its upstream is replaced.
    probes: Vec<tokio::task::JoinHandle<()>>,
}

/// The metrics of a configuration, for those who need them before [`Bound::new`] (the log counts its lines in them).
///
/// # Errors
/// A mistake in the metrics' own names.
pub fn metrics(config: &Config) -> Result<Arc<Metrics>, MetricsError> {
    Metrics::new(&Shape {
        listeners: config
            .listeners
            .iter()
            .map(|listener| (listener.name.clone(), listener.max_connections))
            .collect(),
        upstreams: config
            .upstreams
            .iter()
            .map(|upstream| upstream.name.clone())
            .collect(),
        commands: crate::acl::commands()
            .iter()
            .map(|command| command.name)
            .collect(),
        labels: Labels {
            connect_failures: DialReason::LABELS,
            upstream_auth_failures: AuthRefusal::LABELS,
            tls_handshake_failures: HandshakeFailure::TLS_LABELS,
            ..Labels::default()
        },
    })
}

impl Bound {
    /// Builds everything and binds every address. Must be called inside a runtime.
    ///
    /// # Errors
    /// A [`StartError`] that names the file, rule or address at fault.
    pub fn new(sources: Sources, loaded: Loaded, metrics: Arc<Metrics>) -> Result<Self, StartError> {
        Self::inheriting(sources, loaded, metrics, net::Inherited::default())
    }

    /// As [`Bound::new`], with sockets that the service manager has opened in place of those listeners' whose names they have.
    ///
    /// # Errors
    /// As [`Bound::new`], and a socket that no listener can use.
    pub fn inheriting(
        sources: Sources,
        loaded: Loaded,
        metrics: Arc<Metrics>,
        mut inherited: net::Inherited,
    ) -> Result<Self, StartError> {
        let config = loaded.config;
        // Looked at before they are read: a change in between is noticed, if anything, once too often.
        let files = watch::Files::new(prepare::watched_files(&config));
        let environment = |name: &str| sources.env.get(name).cloned();
        let audit = Audit::new(metrics.audit_dropped.clone()).map_err(io::Error::other)?;
        let Built {
            listeners: prepared,
            upstreams,
            passwords,
        } = prepare::build(&config, &environment, &counters::of(&metrics, &audit))
            .map_err(StartError::Configuration)?;
        let upstreams: Vec<_> = upstreams.into_iter().map(Arc::new).collect();
        for (section, upstream) in config.upstreams.iter().zip(&upstreams) {
            upstream.allow(section.pool.max_connections);
        }
        let shared = Arc::new(Shared {
            limits: Limits::new(&config),
            throttle: Arc::new(Throttle::new(&config.login)),
            audit,
            metrics: Arc::clone(&metrics),
        });
        reload::tell_metrics(&config, &prepared, &upstreams, &passwords, &metrics);
        let expiries = Expiries::new(&config, &prepared, &upstreams);
        let mut facts = status::facts(&config, &prepared, &upstreams, &sources);
        let mut sockets = Vec::new();
        let mut listeners = Vec::new();
        for (section, prepared) in config.listeners.iter().zip(prepared) {
            sockets.push(match inherited.take(&section.name, &section.address)? {
                Some(socket) => socket,
                None => net::Listener::bind(&section.address)?,
            });
            let settings = Settings::new(
                section,
                &config.server,
                &config.login,
                prepared,
                &upstreams,
                &metrics,
            )?;
            let index = shared.limits.listener(&section.name).unwrap_or(usize::MAX);
            listeners.push(Arc::new(Listener::new(
                index,
                &section.name,
                Arc::clone(&shared),
                settings,
            )));
        }
        inherited.finish(&config.listeners)?;
        let readiness = Readiness::new(config.upstreams.iter().map(|upstream| upstream.name.clone()));
        let learning = Arc::new(Learning::new(listeners.clone()));
        facts.listen_at(sockets.iter().map(net::Listener::address));
        let board = Arc::new(status::Board::new(
            Arc::clone(&shared),
            Arc::clone(&readiness),
            facts,
        ));
        let admin = match config.admin.address {
            Some(address) => {
                let pages = Pages {
                    metrics,
                    readiness: Arc::clone(&readiness),
                    learned: Some(Arc::clone(&learning) as Arc<_>),
                    status: Some(Arc::clone(&board) as Arc<_>),
                };
                let start =
                    std::net::TcpListener::bind(address).and_then(|socket| Admin::start(socket, pages));
                Some(start.map_err(|source| StartError::Admin { address, source })?)
            }
            None => None,
        };
        let control = match &config.admin.control_socket {
            Some(path) => Some(control::bind(path)?),
            None => None,
        };
        Ok(Self {
            sources,
            config,
            sockets,
            listeners,
            upstreams,
            shared,
            readiness,
            learning,
            board,
            admin,
            control,
            files,
            expiries,
            said: Arc::default(),
        })
    }

    /// Where least privilege is demanded, Redis is asked before anybody is served. One that cannot be reached is asked when
    /// it is there, and nobody is served through it before that.
    async fn demand_least_privilege(&self) -> Result<(), StartError> {
        let mut faults = Vec::new();
        for (index, (section, upstream)) in self.config.upstreams.iter().zip(&self.upstreams).enumerate() {
            if !section.require_least_privilege {
                continue;
            }
            let plan = Plan::of_listeners(upstream, index, &self.listeners);
            faults.extend(plan.demand(upstream).await.err());
        }
        if faults.is_empty() {
            Ok(())
        } else {
            Err(StartError::Configuration(faults))
        }
    }

    /// Where it listens: names and real addresses.
    pub fn addresses(&self) -> Vec<(String, String)> {
        let names = self.listeners.iter().map(|listener| listener.name.to_string());
        names
            .zip(self.sockets.iter().map(net::Listener::address))
            .collect()
    }

    /// The upstreams as workers need them.
    fn served(&self) -> Vec<Served> {
        let served = |upstream: &Arc<Upstream>| Served {
            upstream: Arc::clone(upstream),
            metrics: self.shared.metrics.upstream(upstream.name()),
        };
        self.upstreams.iter().map(served).collect()
    }

    /// Where the admin listener is.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Serves until SIGTERM or SIGINT, or until `stop` is ready, then drains.
    ///
    /// # Errors
    /// The system gave no thread or signal handler; nothing has been served then.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), StartError> {
        self.demand_least_privilege().await?;
        let mut signals = drain::signals()?;
        let (drain, watch) = drain::channel();
        let (reloads, reloaded) = channel::channel(self.served());
        let mut workers = Vec::new();
        for index in 0..self.config.server.workers {
            workers.push(worker::Handle::start(index, watch.clone(), reloaded.clone())?);
        }
        let workers = Arc::new(Workers::new(workers, packs(&self.config)));
        self.learning.ask(workers.colleagues());
        self.announce();
        let mut acceptors = tokio::task::JoinSet::new();
        for (socket, listener) in std::mem::take(&mut self.sockets).into_iter().zip(&self.listeners) {
            acceptors.spawn(acceptor::accept(
                socket,
                Arc::clone(listener),
                Arc::clone(&workers),
                watch.clone(),
            ));
        }
        let control = self.control.take().map(|socket| {
            let room = control::Room::new(&self.listeners, &self.shared);
            tokio::spawn(control::serve(socket, room))
        });
        self.readiness.started();
        self.shared.metrics.config_loaded(now_unix());
        tracing::info!(
            event = "ready",
            workers = self.config.server.workers,
            pid = std::process::id()
        );

        let busy = busy_share(&self.config);
        let mut serving = Serving {
            bound: self,
            drain,
            reloads,
            balance: Balance::new(&workers, busy, Instant::now()),
            service: Service::new(Instant::now()),
            workers: Arc::clone(&workers),
            probes: Vec::new(),
        };
        serving.start_probes();
        serving.service.ready("serving");
        serving.serve(&mut signals, stop).await;
        serving.finish(&mut signals).await;

        drop(acceptors);
        if let Some(control) = control {
            control.abort();
            // Its end takes the socket's file away.
            let _ = control.await;
        }
        for probe in serving.probes.drain(..) {
            probe.abort();
        }
        serving.bound.shared.audit.flush();
        drop(serving);
        // The acceptors are gone: this was the last reference, unless one of them has not been dropped yet.
        if let Ok(workers) = Arc::try_unwrap(workers) {
            workers.join();
        }
        tracing::info!(event = "stopped");
        Ok(())
    }

    fn announce(&self) {
        for (listener, (name, address)) in self.listeners.iter().zip(self.addresses()) {
            let settings = listener.settings.load();
            tracing::info!(
                event = "listening",
                listener = name,
                address,
                tls = settings.tls.is_some(),
                login = settings.config.login == crate::config::LoginMode::Password,
                upstream = settings.upstream.name(),
            );
        }
        for listener in &self.listeners {
            listener.warn_of_observing();
        }
        if let Some(address) = self.admin_address() {
            tracing::info!(event = "admin_listening", address = %address);
        }
        if let Some(control) = &self.control {
            tracing::info!(event = "control_listening", address = %control.address());
        }
    }
}

impl Serving {
    /// Until the order to end.
    async fn serve(&mut self, signals: &mut drain::Signals, stop: impl Future<Output = ()>) {
        let mut look = tokio::time::interval(self.bound.config.server.watch_interval);
        let mut second = tokio::time::interval(Duration::from_secs(1));
        let mut balance = tokio::time::interval(packing::LOOK_INTERVAL);
        tokio::pin!(stop);
        loop {
            tokio::select! {
                event = signals.next() => match event {
                    Event::Reload => {
                        self.reload_configuration().await;
                        let wanted = self.bound.config.server.watch_interval;
                        if look.period() != wanted {
                            look = tokio::time::interval(wanted);
                        }
                        self.balance.expect(busy_share(&self.bound.config));
                    }
                    Event::Terminate | Event::Abort => return,
                },
                () = &mut stop => return,
                _ = look.tick() => if self.bound.files.changed() {
                    self.reload_files().await;
                },
                _ = second.tick() => self.tick(),
                now = balance.tick(), if self.bound.config.server.workers > 1 => self.balance(now.into_std()),
            }
        }
    }

    /// Several times a second: who serves whom.
    fn balance(&mut self, now: Instant) {
        self.balance.look(&self.workers, packs(&self.bound.config), now);
        self.bound
            .shared
            .metrics
            .workers_active
            .set(i64::try_from(self.workers.active()).unwrap_or(i64::MAX));
    }

    /// Once a second: what is folded, forgotten or shown late.
    fn tick(&mut self) {
        let now = Instant::now();
        self.service.alive(now);
        self.bound.expiries.tick(now);
        let shared = &self.bound.shared;
        for ended in shared.throttle.sweep(now) {
            let listeners = &self.bound.listeners;
            if let Some(listener) = listeners.iter().find(|known| known.index == ended.listener) {
                shared.audit.lockout_ended(&listener.name, ended.network, now);
            }
        }
        control::tell_metrics(&self.bound.listeners, shared, now);
        shared.audit.tick(now);
    }

    /// Lets sessions end: idle ones at once, the others by the deadline (F-34).
    async fn finish(&self, signals: &mut drain::Signals) {
        let bound = &self.bound;
        bound.readiness.draining();
        bound.shared.metrics.draining.set(1);
        self.service.stopping();
        let timeout = bound.config.server.drain_timeout;
        tracing::info!(
            event = "draining",
            sessions = self.drain.sessions(),
            timeout_s = timeout.as_secs_f64()
        );
        self.drain.drain();
        let left = tokio::select! {
            left = self.drain.idle(tokio::time::Instant::now() + timeout) => left,
            _ = abort(signals) => self.drain.sessions(),
        };
        if left > 0 {
            tracing::info!(event = "drain_cut_short", sessions = left);
            self.drain.abort();
            self.drain
                .idle(tokio::time::Instant::now() + ABORT_PATIENCE)
                .await;
        }
    }

    /// Checks every upstream now and then, for readiness and the metric.
    fn start_probes(&mut self) {
        for probe in self.probes.drain(..) {
            probe.abort();
        }
        let mut probes = Vec::new();
        for (index, upstream) in self.bound.upstreams.iter().enumerate() {
            let mut inspection = Inspection::new(self, index, upstream);
            let upstream = Arc::clone(upstream);
            let health = self.bound.readiness.upstream(upstream.name());
            let board = Arc::clone(&self.bound.board);
            let metrics = self.bound.shared.metrics.upstream(upstream.name());
            let mut probe = Probe::new(Arc::clone(&upstream));
            probes.push(tokio::spawn(async move {
                loop {
                    let found = probe.check().await;
                    metrics.up.set(i64::from(found.up));
                    inspection.after_check(found.up).await;
                    let trusted = upstream.is_trusted();
                    board.checked(upstream.name(), &found, found.ready && trusted);
                    if let Some(health) = &health {
                        health.set(found.up && found.ready && trusted);
                    }
                    let pause = if found.ready && (trusted || !found.up) {
                        PROBE_INTERVAL
                    } else {
                        PROBE_RETRY
                    };
                    tokio::time::sleep(pause).await;
                }
            }));
        }
        self.probes = probes;
    }
}

/// Whether fewer workers make larger batches.
fn packs(config: &Config) -> bool {
    config.server.connections == Connections::Shared
}

/// The share of a core from which a worker is busy.
fn busy_share(config: &Config) -> f64 {
    f64::from(config.server.worker_busy_percent) / 100.0
}

/// Waits for the order to stop draining.
async fn abort(signals: &mut drain::Signals) {
    while signals.next().await != Event::Abort {}
}

/// Now, as Prometheus wants it.
fn now_unix() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
}

/// Sessions that are told to end now are given this long before their threads are left alone.
const ABORT_PATIENCE: Duration = Duration::from_secs(2);

/// A healthy upstream is checked this often, one that is not a little sooner.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
const PROBE_RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_a_refused_certificate_has_its_series_from_the_start() {
        for label in HandshakeFailure::AUTH_LABELS {
            assert!(Labels::default().auth_failures.contains(label), "{label}");
        }
    }
}
