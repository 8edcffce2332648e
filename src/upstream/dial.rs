//! From an address to an authenticated connection.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::{DialError, Upstream, handshake};
use crate::config::UpstreamAddress;
use crate::net::{Socket, Stream, configure_tcp};
use crate::tls::ConnectFailure;

impl Upstream {
    /// One attempt, without back-off and without counting.
    pub(super) async fn attempt(&self) -> Result<Stream, DialError> {
        let (connect_timeout, auth_timeout) = {
            let tuning = self.tuning.load();
            (tuning.connect_timeout, tuning.auth_timeout)
        };
        let deadline = Instant::now() + connect_timeout;
        let (socket, host) = timeout_at(deadline, self.connect(deadline))
            .await
            .unwrap_or(Err(DialError::ConnectTimeout(connect_timeout)))?;
        let mut stream = match timeout_at(deadline, self.secure(socket, host)).await {
            Ok(outcome) => outcome?,
            // A plaintext Redis waits for the end of what it takes for a command, so silence has a likely cause.
            Err(_) => return Err(DialError::Tls(ConnectFailure::timeout(connect_timeout))),
        };
        timeout(auth_timeout, handshake::log_in(self, &mut stream))
            .await
            .unwrap_or(Err(DialError::AuthTimeout(auth_timeout)))?;
        Ok(stream)
    }

    /// Resolves and connects. Gives the host that TLS has to verify.
    async fn connect(&self, deadline: Instant) -> Result<(Socket, &str), DialError> {
        match &self.section.address {
            UpstreamAddress::Tcp { host, port } => {
                Ok((Socket::Tcp(self.connect_tcp(host, *port, deadline).await?), host))
            }
            UpstreamAddress::Unix(path) => Ok((Socket::Unix(connect_unix(path).await?), "")),
        }
    }

    /// Verifies TLS if it is configured. There is no way from here to plaintext then.
    async fn secure(&self, socket: Socket, host: &str) -> Result<Stream, DialError> {
        let Some(slot) = &self.tls else {
            return Ok(socket.into());
        };
        let tls = slot.current.load_full();
        tls.connect(socket, host).await.map_err(DialError::Tls)
    }

    /// Tries every address of the name (F-2); each gets its share of the time that is left.
    async fn connect_tcp(&self, host: &str, port: u16, deadline: Instant) -> Result<TcpStream, DialError> {
        let addresses = self.resolve(host, port).await?;
        let mut last = DialError::Dns {
            host: host.to_owned(),
            detail: "it has no address".to_owned(),
        };
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        for address in addresses {
            let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            last = match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    configure_tcp(&stream).map_err(|error| DialError::Io(error.to_string()))?;
                    return Ok(stream);
                }
                Ok(Err(error)) => connect_error(&error),
                Err(_) => DialError::ConnectTimeout(self.tuning.load().connect_timeout),
            };
        }
        Err(last)
    }

    /// Resolves at every connect, so that a failover by DNS is followed. Addresses need no resolver.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let failed = |detail: String| DialError::Dns {
            host: host.to_owned(),
            detail,
        };
        let permit = Arc::clone(&self.resolver)
            .acquire_owned()
            .await
            .map_err(|error| failed(error.to_string()))?;
        let name = host.to_owned();
        let lookup = tokio::task::spawn_blocking(move || {
            // Kept until the resolver returns, even when nobody waits for it any more: it holds a thread.
            let _permit = permit;
            (name.as_str(), port).to_socket_addrs().map(Iterator::collect)
        });
        match lookup.await {
            Ok(Ok(addresses)) => Ok(addresses),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

async fn connect_unix(path: &Path) -> Result<UnixStream, DialError> {
    UnixStream::connect(path)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DialError::Refused,
            _ => connect_error(&error),
        })
}

fn connect_error(error: &io::Error) -> DialError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Refused,
        // Reset before the connection was even looked at: what it may have said is lost.
        io::ErrorKind::ConnectionReset => DialError::Closed,
        _ => DialError::Io(error.to_string()),
    }
}
