//! What a connection knows of the world around it, and how it reports to it.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use crate::acl::DenyReason;
use crate::audit;
use crate::auth::{AuthFailure, AuthMethod, Evidence, Identity, Proof, Users};
use crate::config;
use crate::limits::{ConnectionPermit, Network, Reject, Throttle};
use crate::metrics::{
    CloseReason, ConnectionGuard, GaugeGuard, LaneKind, ListenerMetrics, PasswordAge, Side, Tally,
    UpstreamClosed, UpstreamMetrics,
};
use crate::net::{Peer, Stream};
use crate::resp::RequestLimits;
use crate::session::{Rules, Session};
use crate::upstream::{Lane, LaneState, MAX_SHARED_REQUEST, Seat, Target};

use super::super::lanes;
use super::super::listener::{Listener, Settings};
use super::super::worker::{Control, Registration, Worker};

/// One connection's surroundings.
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    pub(super) control: Rc<Control>,
    pub(super) permit: ConnectionPermit,
    pub(super) tally: Rc<Tally>,
    listener: Arc<Listener>,
    settings: Arc<Settings>,
    peer: Peer,
    /// Where its requests go, and as whom.
    target: Target,
    open: ConnectionGuard,
    /// Counts the session by the password that it logged in with.
    password: Option<GaugeGuard>,
    evicted: Pin<Box<dyn Future<Output = ()>>>,
}

/// What of it belongs to the connection wherever it is served.
pub(super) struct Belongings {
    pub(super) permit: ConnectionPermit,
    pub(super) listener: Arc<Listener>,
    pub(super) settings: Arc<Settings>,
    pub(super) peer: Peer,
    pub(super) open: ConnectionGuard,
    pub(super) password: Option<GaugeGuard>,
}

impl Client {
    pub(super) fn new(worker: Rc<Worker>, registration: &Registration, belongings: Belongings) -> Self {
        let Belongings {
            permit,
            listener,
            settings,
            peer,
            open,
            password,
        } = belongings;
        let evicted = eviction_of(&permit);
        Self {
            tally: worker.tally(&listener),
            target: settings.target(None),
            worker,
            control: Rc::clone(&registration.control),
            permit,
            listener,
            settings,
            peer,
            open,
            password,
            evicted,
        }
    }

    /// Leaves this worker.
    pub(super) fn pack(self) -> Belongings {
        self.listener.shared.metrics.sessions_moved.inc();
        Belongings {
            permit: self.permit,
            listener: self.listener,
            settings: self.settings,
            peer: self.peer,
            open: self.open,
            password: self.password,
        }
    }

    /// A session as this listener begins it, and what ends it at once if the client may not stay.
    pub(super) fn session(&mut self, stream: &Stream) -> (Session, Option<&'static str>) {
        let evidence = self.evidence(stream);
        let (open, refusal) = match self.settings.open_identity(&evidence) {
            Ok(None) => (None, None),
            Ok(Some(identity)) => {
                let refusal = self.known_by(&identity).err().map(Reject::reply);
                (Some(identity).filter(|_| refusal.is_none()), refusal)
            }
            Err(failure) => {
                self.attempted(&evidence);
                self.auth_failed(&failure, None);
                (None, Some(failure.reply()))
            }
        };
        let mut session = Session::new(self.rules(), open).at_listener(&self.listener.name);
        session.set_logins_differ(self.logins_differ());
        (session, refusal)
    }

    /// The client is this user without AUTH: it leaves the strangers' budget.
    ///
    /// # Errors
    /// The user's limit is reached. There is none for the nameless user of a listener without login.
    pub(super) fn known_by(&mut self, identity: &Identity) -> Result<(), Reject> {
        let name = identity.user.name.as_str();
        let outcome = self.permit.authenticated(name);
        match identity.proof {
            Proof::Certificate => self.metrics().auth_attempt(AuthMethod::ClientCert.label()),
            Proof::UnixUser => self.metrics().auth_attempt(AuthMethod::UnixUser.label()),
            _ => {
                self.open.authenticated();
                return Ok(());
            }
        }
        if let Err(reject) = outcome {
            self.rejected(reject);
            return Err(reject);
        }
        self.open.authenticated();
        Ok(())
    }

    /// Whether users of this listener have logins of their own at Redis.
    pub(super) fn logins_differ(&self) -> bool {
        !self.settings.own_logins.is_empty()
    }

    /// Counts an attempt that failed before anything was sent.
    fn attempted(&self, evidence: &Evidence) {
        let method = match evidence {
            Evidence::Certificate(_) => AuthMethod::ClientCert,
            Evidence::UnixUser(_) => AuthMethod::UnixUser,
            Evidence::Nothing => return,
        };
        self.metrics().auth_attempt(method.label());
    }

    /// What the connection shows of the client.
    pub(super) fn evidence(&self, stream: &Stream) -> Evidence {
        self.settings.evidence(stream, &self.peer)
    }

    /// Who the client is without AUTH, under the present settings; `Err`: it may not stay.
    pub(super) fn open_identity(&self, evidence: &Evidence) -> Result<Option<Identity>, AuthFailure> {
        self.settings.open_identity(evidence)
    }

    /// Whether this user's requests would go elsewhere, or as somebody else, than those until now.
    pub(super) fn would_move(&self, user: &str) -> bool {
        !self.settings.target(Some(user)).is_same(&self.target)
    }

    /// The session is this user's, or nobody's; `true` if its requests now go elsewhere, or as somebody else.
    pub(super) fn serves(&mut self, user: Option<&str>) -> bool {
        let former = std::mem::replace(&mut self.target, self.settings.target(user));
        !former.is_same(&self.target)
    }

    fn rules(&self) -> Rules {
        Rules {
            max_commands: self.settings.login.max_commands,
            max_failures: self.settings.login.max_failures,
            home_db: self.settings.upstream.database(),
            sharing: self.settings.sharing,
            max_shared: MAX_SHARED_REQUEST,
        }
    }

    pub(super) fn request_limits(&self, known: bool) -> RequestLimits {
        let limits = if known {
            RequestLimits::AUTHENTICATED
        } else {
            RequestLimits::UNAUTHENTICATED
        };
        RequestLimits {
            inline: self.settings.config.inline,
            ..limits
        }
    }

    pub(super) fn listener_config(&self) -> &config::Listener {
        &self.settings.config
    }

    pub(super) fn login_rules(&self) -> &config::Login {
        &self.settings.login
    }

    pub(super) fn users(&self) -> &Users {
        &self.settings.users
    }

    /// Whether the user may log in from where the client is.
    pub(super) fn may_come_as(&self, user: &str) -> bool {
        self.settings.sources.allow(user, self.peer.ip())
    }

    pub(super) fn throttle(&self) -> &Throttle {
        &self.listener.shared.throttle
    }

    pub(super) fn listener_index(&self) -> usize {
        self.listener.index
    }

    /// Where its requests go, and as whom.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn metrics(&self) -> &ListenerMetrics {
        &self.listener.metrics
    }

    pub(super) fn upstream_metrics(&self) -> &Arc<UpstreamMetrics> {
        &self.settings.upstream_metrics
    }

    /// A place on the lane of this user's requests.
    pub(super) fn seat(&self, user: &str, state: LaneState) -> Seat {
        let lanes = &self.worker.lanes;
        Seat::new(&lanes.shared(
            &self.worker,
            &self.listener,
            &self.settings,
            (&self.target, user),
            state,
        ))
    }

    /// A connection of the session's own, and what state it is in.
    pub(super) fn lane(&self, wanted: LaneState) -> (Lane, LaneState) {
        let (worker, target) = (&self.worker, &self.target);
        let idle = worker.lanes.take(target, wanted);
        let (mut lane, state) = idle.unwrap_or_else(|| {
            let dial = lanes::connection(worker, target, wanted);
            (Lane::dial(dial), lanes::fresh(&target.upstream))
        });
        lane.count_as(Box::new(self.upstream_metrics().lane_open(LaneKind::Own)));
        (lane, state)
    }

    /// Gives a clean connection back.
    pub(super) fn give_lane_back(&self, state: LaneState, mut lane: Lane) {
        lane.count_as(Box::new(self.upstream_metrics().lane_open(LaneKind::Idle)));
        self.worker.lanes.put(&self.target, state, lane);
    }

    /// Takes the listener's present settings; gives whether they let the connection stay, as far as its certificate goes.
    pub(super) fn reload_settings(&mut self, stream: &Stream) -> bool {
        let former = std::mem::replace(&mut self.settings, self.listener.settings.load_full());
        self.settings.still_accepts(&former, stream)
    }

    /// How long a session may go on with what it has begun on a connection that is to end.
    pub(super) fn drain_timeout(&self) -> Duration {
        self.settings.drain_timeout
    }

    /// Whether a newer connection was given this one's place among the strangers (L-23).
    pub(super) fn is_evicted(&mut self, cx: &mut Context<'_>) -> bool {
        self.evicted.as_mut().poll(cx).is_ready()
    }

    /// Counts and audits a login that was refused; `name` is what the client called itself.
    pub(super) fn auth_failed(&self, failure: &AuthFailure, name: Option<&[u8]>) {
        let user = failure.user().map(|user| &**user);
        let audited = match (user, name) {
            (Some(user), _) => audit::User::Configured(user),
            (None, Some(name)) => audit::User::Unknown(name),
            (None, None) => audit::User::None,
        };
        self.listener
            .auth_failed(user, audited, failure.label(), &self.peer);
    }

    /// Counts and audits the beginning of a lockout.
    pub(super) fn locked_out(&self, network: Network, lockout: Duration) {
        self.listener.locked_out(network, lockout, &self.peer);
    }

    /// Counts and audits a limit that was reached at login.
    pub(super) fn rejected(&self, reject: Reject) {
        self.listener.rejected(reject, &self.peer);
    }

    /// Counts and audits a command that was refused; `command` is the table's name, `None` if it is not in it.
    pub(super) fn denied(&self, user: &str, command: Option<&'static str>, reason: DenyReason) {
        self.listener.denied(user, command, reason, &self.peer);
    }

    /// Audits a command that administers the server and was allowed.
    pub(super) fn admin_command(&self, user: &str, command: &'static str) {
        self.listener.admin_command(user, command, &self.peer);
    }

    /// Audits the end of a session whose credential a reload took away.
    pub(super) fn credential_removed(&self, user: &str) {
        self.listener.credential_removed(user, &self.peer);
    }

    /// Counts and audits a command that was forwarded though the user's rules refuse it.
    pub(super) fn observed(&self, user: &str, command: &'static str, reason: DenyReason) {
        self.listener.observed(user, command, reason, &self.peer);
    }

    /// Counts a client that does not speak RESP.
    pub(super) fn protocol_error(&self, label: &'static str) {
        self.listener.metrics.protocol_error(Side::Client);
        tracing::debug!(
            event = "protocol_error",
            listener = &*self.listener.name,
            side = "client",
            reason = label
        );
    }

    /// Counts and logs a reply that nobody could attribute.
    pub(super) fn desync(&self, label: &'static str) {
        self.settings.upstream_metrics.desync.inc();
        self.listener.metrics.protocol_error(Side::Upstream);
        tracing::error!(
            event = "desync",
            listener = &*self.listener.name,
            upstream = self.settings.upstream.name(),
            reason = label,
            help = "the upstream sent what no request asked for; both connections were closed"
        );
    }

    /// Counts and logs a lane that Redis closed.
    pub(super) fn lane_closed(&self, when: UpstreamClosed) {
        self.settings.upstream_metrics.closed(when);
        let upstream = self.settings.upstream.name();
        if when == UpstreamClosed::Idle {
            tracing::debug!(event = "upstream_closed", upstream, when = when.label());
        } else {
            tracing::warn!(event = "upstream_closed", upstream, when = when.label());
        }
    }

    /// The login was right: the connection leaves the strangers' budget.
    pub(super) fn authenticated(&mut self) {
        self.open.authenticated();
    }

    /// The session is this user's from now on: what its password is counted by.
    pub(super) fn logged_in(&mut self, identity: &Identity) {
        if let Proof::Password(position) = identity.proof {
            self.listener
                .password_login(&identity.user.name, position, &self.peer);
        }
        self.count_password(Some(identity));
    }

    /// Which of the user's passwords the session's is, at a login or after a reload.
    pub(super) fn count_password(&mut self, identity: Option<&Identity>) {
        self.password = identity.and_then(|identity| match identity.proof {
            Proof::Password(position) => Some(
                self.listener
                    .metrics
                    .password_session(&identity.user.name, PasswordAge::at(position)),
            ),
            _ => None,
        });
    }

    /// The client is a stranger again (RESET), in the strangers' budget like every other.
    pub(super) fn logged_out(&mut self) {
        self.permit.logged_out();
        self.evicted = eviction_of(&self.permit);
        self.open.logged_out();
        self.password = None;
        // The new eviction is listened to from the next poll on.
        self.control.wake();
    }

    /// Says why the connection ends.
    pub(super) fn close(&mut self, reason: CloseReason) {
        self.open.close(reason);
    }
}

fn eviction_of(permit: &ConnectionPermit) -> Pin<Box<dyn Future<Output = ()>>> {
    let eviction = permit.eviction();
    Box::pin(async move { eviction.evicted().await })
}
