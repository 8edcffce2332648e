//! What is known without the metrics: the configuration in force, and what the parts of the server say themselves.

use std::collections::BTreeMap;

use super::{Lockout, Phase, SlowedUser};

/// The configuration in force, as far as it is shown; made anew at each load.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The file, or `environment`.
    pub source: String,
    /// False: failed logins are neither throttled nor locked out.
    pub lockout: bool,
    /// In the order of the configuration.
    pub listeners: Vec<ListenerFacts>,
    /// In the order of the configuration.
    pub upstreams: Vec<UpstreamFacts>,
    /// One for each user and listener.
    pub users: Vec<UserFacts>,
    /// Loaded certificates and revocation lists.
    pub certificates: Vec<super::Certificate>,
}

impl Facts {
    /// Where the listeners really listen, in their order: a port that the system chose is not in the configuration.
    pub fn listen_at(&mut self, addresses: impl IntoIterator<Item = String>) {
        for (listener, address) in self.listeners.iter_mut().zip(addresses) {
            listener.address = address;
        }
    }
}

/// A listener as configured.
#[derive(Debug, Clone, Default)]
pub struct ListenerFacts {
    /// Name.
    pub name: String,
    /// Where it really listens.
    pub address: String,
    /// Name of its upstream.
    pub upstream: String,
    /// Clients need TLS.
    pub tls: bool,
    /// Nobody on another machine can reach it.
    pub local: bool,
    /// `off`, `optional` or `required`.
    pub client_certificates: &'static str,
    /// Clients log in.
    pub login: bool,
}

/// An upstream as configured.
#[derive(Debug, Clone, Default)]
pub struct UpstreamFacts {
    /// Name.
    pub name: String,
    /// Address without user and password.
    pub address: String,
    /// Connections to it are encrypted.
    pub tls: bool,
    /// Its certificate is verified, or there is none.
    pub verified: bool,
    /// It is on this machine.
    pub local: bool,
    /// File of the password, if it comes from one.
    pub password_file: Option<String>,
}

/// A user at one listener.
#[derive(Debug, Clone, Default)]
pub struct UserFacts {
    /// Name.
    pub name: String,
    /// Name of the listener.
    pub listener: String,
    /// May log in.
    pub enabled: bool,
    /// Its rules are only observed.
    pub observed: bool,
    /// How many connections it may have.
    pub connections_max: Option<u64>,
}

/// What the parts of the server say at the moment.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Whether it serves.
    pub phase: Phase,
    /// What the last check of each upstream found, by name.
    pub checks: BTreeMap<String, Check>,
    /// Connections logged in, by user.
    pub connections: BTreeMap<String, u64>,
    /// Sources locked out; not more than will be shown.
    pub lockouts: Vec<Lockout>,
    /// How many there are.
    pub lockouts_total: usize,
    /// Users whose refusals are held back.
    pub slowed_users: Vec<SlowedUser>,
    /// Why the last reload was refused; `None` if it was not.
    pub reload_fault: Option<String>,
}

/// Outcome of the last check of an upstream.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Check {
    /// It answered, and took our credential.
    pub up: bool,
    /// It takes commands, too.
    pub ready: bool,
    /// One line for people, when it does not.
    pub detail: String,
    /// Time of the PING, in seconds.
    pub ping_seconds: Option<f64>,
    /// When `up` and `ready` last changed, in Unix time.
    pub since: i64,
}
