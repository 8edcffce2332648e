//! One listener as its connections see it: names and counters for life, settings until the next reload.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::acl::DenyReason;
use crate::audit::{self, Audit};
use crate::auth::{AuthFailure, Evidence, Identity, Users};
use crate::config::{self, LoginMode};
use crate::limits::{Limits, Network, Reject, Throttle};
use crate::metrics::{ListenerMetrics, Metrics, PasswordAge, UpstreamMetrics};
use crate::net::{Peer, Stream};
use crate::tls::{self, ClientTrust, FailureKind, HandshakeFailure, Rejected};
use crate::upstream::{Target, Upstream};

use super::prepare::Networks;

/// What all listeners share.
pub(super) struct Shared {
    pub(super) limits: Arc<Limits>,
    pub(super) throttle: Arc<Throttle>,
    pub(super) audit: Arc<Audit>,
    pub(super) metrics: Arc<Metrics>,
}

/// One listener.
pub(super) struct Listener {
    /// Its number in [`Limits`] and [`Metrics`].
    pub(super) index: usize,
    pub(super) name: Arc<str>,
    pub(super) metrics: Arc<ListenerMetrics>,
    pub(super) shared: Arc<Shared>,
    pub(super) settings: ArcSwap<Settings>,
    /// Refused clients that are being told so at present.
    courtesies: Arc<AtomicUsize>,
}

/// What a reload may change.
pub(super) struct Settings {
    pub(super) config: config::Listener,
    pub(super) login: config::Login,
    /// Turns of TLS handshakes in a round of a worker.
    pub(super) max_handshakes: usize,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    /// What client certificates are verified with.
    pub(super) clients: Option<Arc<ClientTrust>>,
    pub(super) users: Arc<Users>,
    pub(super) sources: Arc<Networks>,
    /// Users whose connections to Redis have a login of their own.
    pub(super) own_logins: BTreeSet<String>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) drain_timeout: Duration,
    /// Sessions of one user share connections to Redis.
    pub(super) sharing: bool,
    pub(super) upstream_metrics: Arc<UpstreamMetrics>,
}

/// The right to tell one refused client why; see [`Listener::courtesy`].
pub(super) struct Courtesy(Arc<AtomicUsize>);

impl Listener {
    pub(super) fn new(index: usize, name: &str, shared: Arc<Shared>, settings: Settings) -> Self {
        let metrics = shared.metrics.listener(name);
        Self {
            index,
            name: name.into(),
            metrics,
            shared,
            settings: ArcSwap::from_pointee(settings),
            courtesies: Arc::default(),
        }
    }

    /// A refused client costs a handshake to be told: so many at once, the rest is closed at once.
    pub(super) fn courtesy(&self) -> Option<Courtesy> {
        let courtesy = Courtesy(Arc::clone(&self.courtesies));
        (self.courtesies.fetch_add(1, Ordering::Relaxed) < MAX_COURTESIES).then_some(courtesy)
    }

    /// Counts and audits a failed handshake: a bad client certificate is a failed login, anything else is TLS's.
    pub(super) fn handshake_failed(&self, rejected: &Rejected, peer: &Peer) {
        let failure = rejected.failure;
        match failure.kind() {
            FailureKind::Auth => self.auth_failed(None, audit::User::None, failure.label(), peer),
            FailureKind::Tls => {
                self.metrics.tls_handshake_failed(failure.label());
                if failure == HandshakeFailure::Plaintext {
                    self.shared.audit.plaintext_refused(self.at(peer), Instant::now());
                }
            }
        }
        tracing::debug!(
            event = "tls_handshake_failed", listener = &*self.name, peer = %peer, reason = failure.label(),
            detail = %rejected.detail
        );
    }

    /// Counts and audits a connection that a limit refused.
    pub(super) fn rejected(&self, reject: Reject, peer: &Peer) {
        self.metrics.rejected(reject);
        self.shared
            .audit
            .connection_refused(self.at(peer), reject.label(), Instant::now());
    }

    /// Counts and audits a connection without a valid PROXY header.
    pub(super) fn proxy_header_failed(&self, reason: &'static str, peer: &Peer) {
        self.metrics.rejected_proxy_header();
        self.shared
            .audit
            .connection_refused(self.at(peer), "proxy_header", Instant::now());
        tracing::debug!(event = "proxy_header_refused", listener = &*self.name, peer = %peer, reason);
    }

    /// Counts and audits a login that was refused; `user` is for the metric and therefore a configured name or none.
    pub(super) fn auth_failed(
        &self,
        user: Option<&str>,
        audited: audit::User<'_>,
        reason: &'static str,
        peer: &Peer,
    ) {
        self.metrics.auth_failed(user, reason);
        self.shared
            .audit
            .auth_failed(self.at(peer), audited, reason, Instant::now());
    }

    /// Counts and audits the beginning of a lockout.
    pub(super) fn locked_out(&self, network: Network, lockout: Duration, peer: &Peer) {
        self.metrics.lockout_began();
        self.shared
            .audit
            .source_locked_out(self.at(peer), network, lockout, Instant::now());
    }

    /// Counts and audits a command that was refused; `command` is the table's name, `None` if it is not in it.
    pub(super) fn denied(&self, user: &str, command: Option<&'static str>, reason: DenyReason, peer: &Peer) {
        self.metrics.denied(user, command, reason.label());
        self.shared
            .audit
            .command_denied(self.at(peer), user, command, reason.label(), Instant::now());
    }

    /// Audits a command that administers the server and was allowed.
    pub(super) fn admin_command(&self, user: &str, command: &'static str, peer: &Peer) {
        self.shared
            .audit
            .admin_command(self.at(peer), user, command, Instant::now());
    }

    /// Counts a login with the password at this position among the user's, and audits it unless it is the first.
    pub(super) fn password_login(&self, user: &str, position: usize, peer: &Peer) {
        let age = PasswordAge::at(position);
        self.metrics.password_login(user, age, super::now_unix());
        if age == PasswordAge::Older {
            let credential = position.saturating_add(1);
            self.shared
                .audit
                .older_password_used(self.at(peer), user, credential, Instant::now());
        }
    }

    /// Audits the end of a session whose credential a reload took away.
    pub(super) fn credential_removed(&self, user: &str, peer: &Peer) {
        self.shared
            .audit
            .session_closed(self.at(peer), user, Instant::now());
    }

    /// Counts and audits a command that was forwarded though the user's rules refuse it.
    pub(super) fn observed(&self, user: &str, command: &'static str, reason: DenyReason, peer: &Peer) {
        self.metrics.observed(user, command, reason.label());
        self.shared
            .audit
            .command_observed(self.at(peer), user, command, reason.label(), Instant::now());
    }

    /// Says whose rules are only observed, if anybody's.
    pub(super) fn warn_of_observing(&self) {
        let settings = self.settings.load();
        let names = settings.users.names();
        let users = names.into_iter().filter_map(|name| settings.users.get(name));
        let observed: Vec<&str> = users
            .filter(|user| user.observe)
            .map(|user| &*user.name)
            .collect();
        if !observed.is_empty() {
            tracing::warn!(
                event = "acl_not_enforced",
                listener = &*self.name,
                users = observed.join(","),
                "mode is observe: what the rules of these users refuse is forwarded"
            );
        }
    }

    /// Whether some user's requests are remembered.
    pub(super) fn learns(&self) -> bool {
        let settings = self.settings.load();
        let mut names = settings.users.names().into_iter();
        names.any(|name| settings.users.get(name).is_some_and(|user| user.learn))
    }

    fn at(&self, peer: &Peer) -> audit::At<'_> {
        let peer = match peer {
            Peer::Tcp(address) => audit::Peer::Tcp(*address),
            Peer::Unix { uid } => audit::Peer::Unix(*uid),
        };
        audit::At {
            listener: &self.name,
            peer,
        }
    }
}

impl Settings {
    /// Whether a connection from there begins with a PROXY header.
    pub(super) fn expects_proxy_header(&self, address: IpAddr) -> bool {
        self.config
            .proxy_protocol_from
            .iter()
            .any(|network| network.contains(&address))
    }

    /// Who a client is that has said nothing: nobody, unless the listener asks for no login, or its connection shows it.
    pub(super) fn open_identity(&self, evidence: &Evidence) -> Result<Option<Identity>, AuthFailure> {
        match self.config.login {
            LoginMode::Password => self.users.identify(evidence),
            LoginMode::None => Ok(self.users.open()),
        }
    }

    /// What a connection shows of its client.
    pub(super) fn evidence(&self, stream: &Stream, peer: &Peer) -> Evidence {
        // A certificate from before a reload counts only while they are verified, and is not read in vain.
        let counts = self.clients.is_some() && self.users.maps_certificates();
        match (stream.peer_certificates().and_then(<[_]>::first), peer) {
            (Some(leaf), _) if counts => Evidence::Certificate(tls::certificate_names(leaf)),
            (_, Peer::Unix { uid: Some(uid) }) => Evidence::UnixUser(*uid),
            _ => Evidence::Nothing,
        }
    }

    /// Whether a connection that was accepted under these settings before would be accepted now, as far as its
    /// certificate goes.
    pub(super) fn still_accepts(&self, former: &Self, stream: &Stream) -> bool {
        let (Some(trust), true) = (&self.clients, stream.tls_state().is_some()) else {
            return true;
        };
        let unchanged = former
            .clients
            .as_ref()
            .is_some_and(|former| !trust.differs_from(former));
        match stream.peer_certificates() {
            Some(_) if unchanged => true,
            Some(chain) => trust.accepts(chain),
            None => !trust.is_mandatory(),
        }
    }

    /// The connections to Redis of this user.
    pub(super) fn target(&self, user: Option<&str>) -> Target {
        Target::of(
            &self.upstream,
            user.filter(|user| self.own_logins.contains(*user)),
        )
    }
}

impl Drop for Courtesy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Refused clients that are told why at the same time.
const MAX_COURTESIES: usize = 64;
