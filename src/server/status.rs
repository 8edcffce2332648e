//! Collects what the status page shows: from the configuration in force, the metrics, the limits and what the parts say.
//!
//! The admin listener's thread asks: every [`SAMPLE_INTERVAL`] for the last hour's sake, and when somebody looks, once a second
//! at most. Sessions are not asked and do not notice; what is read is what a scrape reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use prometheus::proto::MetricFamily;

use crate::admin::{Readiness, StatusSource};
use crate::config::{
    ClientCertificates, Config, CredentialSource, Diagnostic, ListenAddress, LoginMode, Sources,
    UpstreamAddress,
};
use crate::status::facts::{Check, Facts, ListenerFacts, Live, UpstreamFacts, UserFacts};
use crate::status::history::{Now, Ring};
use crate::status::reading::Reading;
use crate::status::{self, Certificate, Lockout, MAX_LOCKOUTS, Phase, SlowedUser, Status};
use crate::tls::CertificateInfo;
use crate::upstream::{Upstream, UpstreamHealth};

use super::listener::Shared;
use super::prepare::Prepared;

/// What is known for the status page.
pub(super) struct Board {
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    facts: ArcSwap<Facts>,
    checks: Mutex<BTreeMap<String, Check>>,
    reload_fault: Mutex<Option<String>>,
    began: Instant,
    memory: Mutex<Memory>,
}

/// What is kept from one look to the next.
#[derive(Default)]
struct Memory {
    ring: Ring,
    last: Option<(Instant, Arc<Status>)>,
}

impl Board {
    pub(super) fn new(shared: Arc<Shared>, readiness: Arc<Readiness>, facts: Facts) -> Self {
        Self {
            shared,
            readiness,
            facts: ArcSwap::from_pointee(facts),
            checks: Mutex::default(),
            reload_fault: Mutex::default(),
            began: Instant::now(),
            memory: Mutex::default(),
        }
    }

    /// A configuration was taken over. Addresses do not change while the process runs.
    pub(super) fn configured(&self, mut facts: Facts) {
        let former = self.facts.load();
        for listener in &mut facts.listeners {
            if let Some(known) = former.listeners.iter().find(|known| known.name == listener.name) {
                listener.address.clone_from(&known.address);
            }
        }
        self.facts.store(Arc::new(facts));
    }

    /// How a reload ended.
    pub(super) fn reloaded(&self, result: &Result<(), Vec<Diagnostic>>) {
        let fault = result.as_ref().err().map(|faults| {
            let first = faults.iter().find(|fault| fault.is_error());
            first.map(told).unwrap_or_default()
        });
        *lock(&self.reload_fault) = fault;
    }

    /// What a check of an upstream found.
    pub(super) fn checked(&self, upstream: &str, found: &UpstreamHealth, ready: bool) {
        let mut checks = lock(&self.checks);
        let before = checks.get(upstream);
        let same = before.filter(|before| (before.up, before.ready) == (found.up, ready));
        let detail = if found.up && found.ready && !ready {
            "it has not shown yet that it refuses what is refused here (require_least_privilege)".to_owned()
        } else {
            found.detail.clone()
        };
        let check = Check {
            up: found.up,
            ready,
            detail,
            ping_seconds: found.ping.map(|ping| ping.as_secs_f64()),
            since: same.map_or_else(unix, |before| before.since),
        };
        checks.insert(upstream.to_owned(), check);
    }

    fn live(&self, facts: &Facts, now: Instant) -> Live {
        let checks = lock(&self.checks).clone();
        let in_force = self.shared.throttle.in_force(MAX_LOCKOUTS, now);
        let name = |index: usize| {
            let mut names = facts.listeners.iter().map(|listener| listener.name.as_str());
            names
                .find(|name| self.shared.limits.listener(name) == Some(index))
                .unwrap_or_default()
                .to_owned()
        };
        let phase = if self.readiness.is_draining() {
            Phase::Draining
        } else if facts
            .upstreams
            .iter()
            .all(|upstream| checks.contains_key(&upstream.name))
        {
            Phase::Serving
        } else {
            Phase::Starting
        };
        Live {
            phase,
            checks,
            connections: self.shared.limits.by_user(),
            lockouts: (in_force.lockouts.iter())
                .map(|lockout| Lockout {
                    source: lockout.network.to_string(),
                    listener: name(lockout.listener),
                    seconds_left: lockout.left.as_secs().saturating_add(1),
                    times: lockout.times,
                })
                .collect(),
            lockouts_total: in_force.total,
            slowed_users: (in_force.slowed.into_iter().take(MAX_LOCKOUTS))
                .map(|slowed| SlowedUser {
                    listener: name(slowed.listener),
                    user: slowed.user,
                    failures: slowed.failures,
                })
                .collect(),
            reload_fault: lock(&self.reload_fault).clone(),
        }
    }
}

impl StatusSource for Board {
    fn status(&self, fresh: bool) -> Arc<Status> {
        let mut memory = lock(&self.memory);
        let Memory { ring, last } = &mut *memory;
        let now = Instant::now();
        if let Some((when, status)) = last
            && !fresh
            && now.saturating_duration_since(*when) < FRESH
        {
            return Arc::clone(status);
        }
        let facts = self.facts.load();
        let live = self.live(&facts, now);
        let reading = read(&self.shared.metrics.gather());
        let moment = Now {
            unix: unix(),
            age: now.saturating_duration_since(self.began).as_secs(),
        };
        let status = Arc::new(status::assemble(&facts, &live, &reading, ring, moment));
        *last = Some((now, Arc::clone(&status)));
        status
    }

    fn interval(&self) -> Duration {
        SAMPLE_INTERVAL
    }
}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").finish_non_exhaustive()
    }
}

/// What one load says.
pub(super) fn facts(
    config: &Config,
    prepared: &[Prepared],
    upstreams: &[Arc<Upstream>],
    sources: &Sources,
) -> Facts {
    let mut facts = Facts {
        source: (sources.file.as_ref())
            .map_or_else(|| "environment".to_owned(), |file| file.display().to_string()),
        lockout: config.login.lockout,
        ..Facts::default()
    };
    for (section, prepared) in config.listeners.iter().zip(prepared) {
        let (address, local) = match &section.address {
            ListenAddress::Tcp(address) => (address.to_string(), address.ip().to_canonical().is_loopback()),
            ListenAddress::Unix { path, .. } => (path.display().to_string(), true),
        };
        facts.listeners.push(ListenerFacts {
            name: section.name.clone(),
            address,
            upstream: config
                .upstreams
                .get(section.upstream)
                .map(|known| known.name.clone())
                .unwrap_or_default(),
            tls: section.tls.is_some(),
            local,
            client_certificates: match section.tls.as_ref().map(|tls| tls.client_certificates) {
                None | Some(ClientCertificates::Off) => "off",
                Some(ClientCertificates::Optional) => "optional",
                Some(ClientCertificates::Required) => "required",
            },
            login: section.login == LoginMode::Password,
        });
        for name in prepared.users.names() {
            let Some(user) = prepared.users.get(name) else {
                continue;
            };
            let entry = config.users.iter().find(|entry| entry.name == name);
            facts.users.push(UserFacts {
                name: name.to_owned(),
                listener: section.name.clone(),
                enabled: user.enabled,
                observed: user.observe,
                connections_max: entry
                    .and_then(|entry| entry.max_connections)
                    .map(|most| most as u64),
            });
        }
        facts.certificates.extend(
            prepared
                .certificates
                .iter()
                .map(|info| certificate(&section.name, info)),
        );
        let list = section.tls.as_ref().and_then(|tls| tls.client_crl_file.as_ref());
        if let (Some(file), Some(ends)) = (list, prepared.crl_next_update) {
            facts.certificates.push(Certificate {
                role: "revocation_list".to_owned(),
                owner: section.name.clone(),
                file: file.display().to_string(),
                subject: String::new(),
                ends,
            });
        }
    }
    for (section, upstream) in config.upstreams.iter().zip(upstreams) {
        let local = match &section.address {
            UpstreamAddress::Unix(_) => true,
            UpstreamAddress::Tcp { host, .. } => {
                host == "localhost"
                    || host
                        .parse::<IpAddr>()
                        .is_ok_and(|ip| ip.to_canonical().is_loopback())
            }
        };
        facts.upstreams.push(UpstreamFacts {
            name: section.name.clone(),
            address: section.redacted_url().to_string(),
            tls: section.tls.is_some(),
            verified: section.tls.as_ref().is_none_or(|tls| !tls.unsafe_skip_verify),
            local,
            password_file: match &section.credential {
                Some(CredentialSource::File(path)) => Some(path.display().to_string()),
                _ => None,
            },
        });
        facts.certificates.extend(
            upstream
                .certificates()
                .iter()
                .map(|info| certificate(upstream.name(), info)),
        );
    }
    // One file may be named at several places.
    let mut seen = BTreeSet::new();
    facts
        .certificates
        .retain(|known| seen.insert((known.role.clone(), known.owner.clone(), known.file.clone())));
    facts
}

fn certificate(owner: &str, info: &CertificateInfo) -> Certificate {
    Certificate {
        role: info.role.label().to_owned(),
        owner: owner.to_owned(),
        file: info.name.clone(),
        subject: info.subject.clone(),
        ends: info.not_after,
    }
}

/// A fault as one line; its message never holds a secret.
fn told(fault: &Diagnostic) -> String {
    let place = fault
        .location
        .as_ref()
        .map(|place| format!("{place}: "))
        .unwrap_or_default();
    let help = fault
        .help
        .as_deref()
        .map(|help| format!("; {help}"))
        .unwrap_or_default();
    format!("{place}{}{help}", fault.message)
}

/// The metrics as far as the status needs them; buckets count for themselves, not with those below them.
fn read(families: &[MetricFamily]) -> Reading {
    let mut reading = Reading::default();
    for family in families.iter().filter(|family| Reading::wants(family.name())) {
        for metric in family.get_metric() {
            let labels: Vec<(&str, &str)> = metric
                .get_label()
                .iter()
                .map(|label| (label.name(), label.value()))
                .collect();
            let histogram = metric.get_histogram();
            let buckets = histogram.get_bucket();
            if buckets.is_empty() {
                // One of the two is there, and the other nought.
                let value = metric.get_counter().get_value() + metric.get_gauge().get_value();
                reading.add(family.name(), &labels, value);
                continue;
            }
            let mut below = 0;
            let bounds = buckets
                .iter()
                .map(|bucket| (bucket.upper_bound().to_string(), bucket.cumulative_count()));
            let all = bounds.chain([("+Inf".to_owned(), histogram.get_sample_count())]);
            for (bound, count) in all {
                let mut labels = labels.clone();
                labels.push(("le", &bound));
                #[allow(clippy::cast_precision_loss, reason = "a count of commands stays below 2^53")]
                reading.add(family.name(), &labels, count.saturating_sub(below) as f64);
                below = below.max(count);
            }
        }
    }
    reading
}

fn unix() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often the last hour is added to.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(10);
/// Whoever looks within this time sees the same.
const FRESH: Duration = Duration::from_secs(1);
