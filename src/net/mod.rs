//! Sockets: listeners, client and upstream streams, socket options and the PROXY protocol.
//!
//! Everything that touches a socket goes through here, so that the rest of the crate sees one [`Stream`] whether
//! the bytes travel over TCP, a unix socket or TLS. TLS itself (certificates, handshakes) is in `tls`; here it is
//! only one more way to read and write.

mod inherited;
mod listener;
mod options;
mod proxy;
mod stream;
mod tls;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub use inherited::Inherited;
pub use listener::{Accepted, BindError, Listener};
pub use options::configure_tcp;
pub use proxy::{ProxyError, ProxyInfo, read_proxy_header};
pub use stream::{Parked, Socket, Stream};
pub use tls::TlsStream;

/// The other end of an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP client. IPv4 addresses that arrive on an IPv6 socket are given as IPv4.
    Tcp(SocketAddr),
    /// A client of a unix socket.
    Unix {
        /// Effective user of the process that connected, as the kernel tells it (`SO_PEERCRED`).
        uid: Option<u32>,
    },
}

impl Peer {
    /// The address of a TCP client; limits per source go by it.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(address.ip()),
            Self::Unix { .. } => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix { uid: Some(uid) } => write!(f, "unix:uid={uid}"),
            Self::Unix { uid: None } => f.write_str("unix"),
        }
    }
}

/// `::ffff:192.0.2.1` and `192.0.2.1` are one source: networks, limits and logs must not see two.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_ipv4_peer_is_an_ipv4_peer() {
        let mapped = canonical("[::ffff:192.0.2.7]:4000".parse().unwrap());
        assert_eq!(mapped, "192.0.2.7:4000".parse().unwrap());
        assert_eq!(Peer::Tcp(mapped).to_string(), "192.0.2.7:4000");
    }

    #[test]
    fn a_unix_peer_shows_its_user_and_has_no_address() {
        let peer = Peer::Unix { uid: Some(1000) };
        assert_eq!(peer.to_string(), "unix:uid=1000");
        assert_eq!(peer.ip(), None);
        assert_eq!(Peer::Unix { uid: None }.to_string(), "unix");
    }
}
