//! The networks that failed logins are counted by, and the words that name them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;

use super::Source;

/// Whom failures are held against: one source, or all of the network around it once many of its sources misbehave.
///
/// In this order the sources of one network stand next to each other, so that they are found without an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Network {
    /// One source alone: an IPv4 address, an IPv6 /64, a user of this machine.
    Host(Source),
    /// An IPv4 /24, its upper 24 bits.
    V4(u32),
    /// An IPv6 /48, its upper 48 bits.
    V6(u64),
}

/// Whom an operator lifts lockouts for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Everybody.
    All,
    /// Every lockout that keeps one of these addresses out. A single address is a network of one.
    Network(IpNet),
    /// A source that has no address, as lists name it (`unix:uid=1000`).
    Unix(Source),
    /// A user whose refusals are slowed down.
    User(String),
}

impl Network {
    /// The network around a source; `None` for a source that has none.
    pub fn around(source: Source) -> Option<Self> {
        match source {
            Source::V4(address) => Some(Self::V4(address.to_bits() >> V4_HOST_BITS)),
            Source::V6(prefix) => Some(Self::V6(prefix >> V6_HOST_BITS)),
            Source::Unix(_) | Source::Pending => None,
        }
    }

    /// Whether it stands for many sources.
    pub fn is_wide(self) -> bool {
        !matches!(self, Self::Host(_))
    }

    /// First and last of its sources.
    pub(super) fn hosts(self) -> RangeInclusive<Source> {
        match self {
            Self::Host(source) => source..=source,
            Self::V4(prefix) => {
                let first = prefix << V4_HOST_BITS;
                let last = first | ((1 << V4_HOST_BITS) - 1);
                Source::V4(Ipv4Addr::from_bits(first))..=Source::V4(Ipv4Addr::from_bits(last))
            }
            Self::V6(prefix) => {
                let first = prefix << V6_HOST_BITS;
                Source::V6(first)..=Source::V6(first | ((1 << V6_HOST_BITS) - 1))
            }
        }
    }

    /// The addresses it stands for; `None` for a unix peer.
    pub fn addresses(self) -> Option<IpNet> {
        let (address, length): (IpAddr, u8) = match self {
            Self::Host(Source::V4(address)) => (address.into(), 32),
            Self::Host(Source::V6(prefix)) => (Ipv6Addr::from_bits(u128::from(prefix) << 64).into(), 64),
            Self::Host(Source::Unix(_) | Source::Pending) => return None,
            Self::V4(prefix) => (Ipv4Addr::from_bits(prefix << V4_HOST_BITS).into(), 24),
            Self::V6(prefix) => {
                let bits = u128::from(prefix << V6_HOST_BITS) << 64;
                (Ipv6Addr::from_bits(bits).into(), 48)
            }
        };
        IpNet::new(address, length).ok()
    }
}

impl Target {
    /// Whether a lockout of this network is meant.
    pub(super) fn covers(&self, network: Network) -> bool {
        match self {
            Self::All => true,
            Self::Network(wanted) => network
                .addresses()
                .is_some_and(|held| held.contains(wanted) || wanted.contains(&held)),
            Self::Unix(source) => network == Network::Host(*source),
            Self::User(_) => false,
        }
    }
}

/// An address, a network in CIDR notation, `unix` or `unix:uid=N`; anything else is the name of a user.
impl From<&str> for Target {
    fn from(text: &str) -> Self {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Self::Network(address.to_canonical().into());
        }
        if let Ok(network) = IpNet::from_str(text) {
            return Self::Network(network.trunc());
        }
        if text == "unix" {
            return Self::Unix(Source::Unix(None));
        }
        if let Some(uid) = text.strip_prefix("unix:uid=").and_then(|uid| uid.parse().ok()) {
            return Self::Unix(Source::Unix(Some(uid)));
        }
        Self::User(text.to_owned())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(source) => source.fmt(f),
            Self::V4(_) | Self::V6(_) => match self.addresses() {
                Some(network) => network.fmt(f),
                None => f.write_str("unknown"),
            },
        }
    }
}

/// A /24: the smallest network that is routed on its own, and what most providers give one customer at most.
const V4_HOST_BITS: u32 = 8;
/// From a /64 to a /48, the largest that one customer is usually given (RFC 6177).
const V6_HOST_BITS: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn networks_hold_their_sources_and_no_others() {
        for (inside, outside, shown) in [
            ("203.0.113.255", "203.0.114.0", "203.0.113.0/24"),
            ("2001:db8:7:ffff::1", "2001:db8:8::1", "2001:db8:7::/48"),
        ] {
            let network = Network::around(source(inside)).unwrap();
            assert_eq!(network.to_string(), shown);
            assert!(network.hosts().contains(&source(inside)));
            assert!(!network.hosts().contains(&source(outside)));
            assert_ne!(Network::around(source(outside)), Some(network));
        }
        assert_eq!(Network::around(Source::Unix(Some(1))), None);
    }

    #[test]
    fn a_target_covers_what_holds_it_and_what_it_holds() {
        let host = |text: &str| Network::Host(source(text));
        let wide = Network::around(source("203.0.113.7")).unwrap();
        let one = Target::from("203.0.113.7");
        assert!(one.covers(host("203.0.113.7")) && one.covers(wide) && !one.covers(host("203.0.113.8")));
        assert!(Target::from("::ffff:203.0.113.7").covers(wide));
        let many = Target::from("203.0.0.0/16");
        assert!(many.covers(wide) && many.covers(host("203.0.9.9")) && !many.covers(host("198.51.100.1")));
        let v6 = Target::from("2001:db8:7:1::9");
        assert!(v6.covers(host("2001:db8:7:1::1")) && !v6.covers(host("2001:db8:7:2::1")));
        assert!(v6.covers(Network::around(source("2001:db8:7:2::1")).unwrap()));
        assert!(Target::from("2001:db8:7:1::/64").covers(host("2001:db8:7:1::1")));
        let unix = Target::from("unix:uid=1000");
        assert!(unix.covers(Network::Host(Source::Unix(Some(1000)))));
        assert!(!unix.covers(Network::Host(Source::Unix(None))));
        assert_eq!(Target::from("app"), Target::User("app".to_owned()));
        assert!(!Target::from("app").covers(wide) && Target::All.covers(wide));
    }
}
