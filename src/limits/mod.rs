//! What one process, listener, source or user may take: connection permits, the turns of TLS handshakes, and the throttle
//! of failed logins.
//!
//! Everything counted is a guard: a [`ConnectionPermit`] is acquired when a connection is accepted and gives back
//! all that it holds when it is dropped, whatever ended the connection. Nothing here waits: a full proxy refuses at
//! once and visibly (rule L-24), because a client that is told can retry and one that hangs cannot.

mod handshakes;
mod network;
mod permits;
mod throttle;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use handshakes::{Ticket, Turns};
pub use network::{Network, Target};
pub use permits::{ConnectionPermit, Eviction, Limits};
pub use throttle::{
    Attempt, Cause, Counts, InForce, Lifted, Lockout, LockoutEnded, SlowedUser, Throttle, Verdict,
};

/// Who a connection comes from, as far as limits go.
///
/// IPv6 sources are taken by their /64, since that is what one customer is given at least; an IPv4 address in its
/// IPv6-mapped form is the same source as the plain one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// One IPv4 address.
    V4(Ipv4Addr),
    /// One IPv6 /64, its upper 64 bits.
    V6(u64),
    /// A unix socket's peer, by user id; `None` when the system does not say.
    Unix(Option<u32>),
    /// Not known yet: a connection from a trusted proxy whose PROXY header has not been read. Never limited by
    /// source and never locked out; see [`ConnectionPermit::set_source`].
    Pending,
}

impl Source {
    /// Whether limits per source address apply. Unix peers share one machine and one uid means nothing there.
    pub fn is_address(self) -> bool {
        matches!(self, Self::V4(_) | Self::V6(_))
    }
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => address.fmt(f),
            Self::V6(prefix) => write!(f, "{}/64", Ipv6Addr::from_bits(u128::from(*prefix) << 64)),
            Self::Unix(Some(uid)) => write!(f, "unix:uid={uid}"),
            Self::Unix(None) => f.write_str("unix"),
            Self::Pending => f.write_str("unknown"),
        }
    }
}

/// Why a connection, or a login on it, was refused by a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reject {
    /// `server.max_connections` is reached and nobody could be evicted.
    Global,
    /// The listener's `max_connections` is reached and nobody could be evicted.
    Listener,
    /// `max_connections_per_ip`, the server's or the listener's, is reached for this source.
    Source,
    /// The user's `max_connections` is reached.
    User,
    /// The budget of connections that have not logged in is spent, and as many evicted ones are still closing.
    Unauthenticated,
    /// The source is locked out after too many failed logins ([`Throttle`]).
    LockedOut,
    /// The connection was evicted from the unauthenticated budget before its login was decided.
    Evicted,
    /// The proxy is draining and takes no new connections.
    Draining,
}

impl Reject {
    /// Every reason, for pre-created series.
    pub const ALL: [Self; 8] = [
        Self::Global,
        Self::Listener,
        Self::Source,
        Self::User,
        Self::Unauthenticated,
        Self::LockedOut,
        Self::Evicted,
        Self::Draining,
    ];

    /// The metric label and audit word.
    pub fn label(self) -> &'static str {
        match self {
            Self::Global => "global_limit",
            Self::Listener => "listener_limit",
            Self::Source => "source_limit",
            Self::User => "user_limit",
            Self::Unauthenticated => "unauthenticated_limit",
            Self::LockedOut => "locked_out",
            Self::Evicted => "evicted",
            Self::Draining => "draining",
        }
    }

    /// The error line's text without the leading `-`: Redis's own words, which redis-py and go-redis retry on
    /// (rule L-24; `acceptCommonHandler` in Redis's networking.c). One text for all, so that it tells a stranger nothing.
    pub fn reply(self) -> &'static str {
        "ERR max number of clients reached"
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn labels_are_distinct() {
        let labels: HashSet<_> = Reject::ALL.iter().map(|reject| reject.label()).collect();
        assert_eq!(labels.len(), Reject::ALL.len());
    }

    #[test]
    fn sources_are_taken_by_address_or_prefix() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(source("10.0.0.1"), source("::ffff:10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_eq!(source("2001:db8:0:1::9").to_string(), "2001:db8:0:1::/64");
        assert_eq!(Source::Unix(Some(1000)).to_string(), "unix:uid=1000");
    }
}
