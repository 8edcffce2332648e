//! From an address to an authenticated connection: idle or new, after waiting for a place if there are too many.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use super::{DialError, Dialed, Login, Place, Upstream, handshake};
use crate::config::UpstreamAddress;
use crate::net::{Socket, Stream, configure_tcp};
use crate::tls::ConnectFailure;

/// What became of waiting for a connection.
enum Turn {
    Place(Place),
    Idle(Box<Dialed>),
}

/// How far the way to a connection that can be used was gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// What the name resolved to; empty before that, and for a unix socket.
    pub addresses: Vec<SocketAddr>,
    /// Somebody accepted the connection.
    pub connected: bool,
    /// TLS is verified, if it is configured.
    pub secured: bool,
}

impl Upstream {
    /// A connection with this login for whoever needs one: what `idle` has, else a new one as soon as there is a place for it. `home`
    /// is the worker that asks; `idle` is asked again whenever that worker says that it has become idle.
    ///
    /// # Errors
    /// [`DialError`]; [`DialError::Full`] when there was no place within `wait_timeout`.
    pub async fn connection(
        &self,
        login: &Login,
        home: usize,
        mut idle: impl FnMut() -> Option<Box<Dialed>>,
    ) -> Result<Box<Dialed>, DialError> {
        if !login.is_trusted() {
            return Err(DialError::Unproven);
        }
        if self.places.waiting() == 0
            && let Some(idle) = idle()
        {
            return Ok(idle);
        }
        if let Some(place) = self.places.take() {
            return self.dial_at(login, place).await.map(Box::new);
        }
        let waiting = self.counters.waiting();
        let mut queued = self.places.queue(home);
        let pool = self.pool();
        let turn = poll_fn(|cx| match Pin::new(&mut queued).poll(cx) {
            Poll::Ready(place) => Poll::Ready(Turn::Place(place)),
            Poll::Pending => idle().map_or(Poll::Pending, |idle| Poll::Ready(Turn::Idle(idle))),
        });
        let turn = timeout(pool.wait_timeout, turn).await;
        drop((queued, waiting));
        match turn {
            Ok(Turn::Idle(idle)) => Ok(idle),
            Ok(Turn::Place(place)) => self.dial_at(login, place).await.map(Box::new),
            Err(_) => {
                self.counters.wait_timed_out();
                let error = DialError::Full(self.places.max());
                self.note_full(&error);
                Err(error)
            }
        }
    }

    /// A connection of Keyward's own login, without regard to idle ones.
    ///
    /// # Errors
    /// As [`Upstream::connection`].
    pub async fn dial(&self) -> Result<Dialed, DialError> {
        let own = Arc::clone(&self.own);
        self.connection(&own, usize::MAX, || None)
            .await
            .map(|dialed| *dialed)
    }

    /// Opens a connection at this place: resolve, connect, verify TLS, log in, select the database.
    ///
    /// After Redis has refused our credential, further calls fail at once with the same error for a while (1 s,
    /// growing to 30 s), unless [`Upstream::reload_credential`] finds a new one. After other failures they wait a
    /// little, and fail with the others that wait when one of them has tried in vain.
    ///
    /// # Errors
    /// [`DialError`]; logged (once, then every 30 s) and counted here.
    pub async fn dial_at(&self, login: &Login, place: Place) -> Result<Dialed, DialError> {
        let slot = self.pace.enter().await?;
        let begun = Instant::now();
        let dialed = self.dial_now(login, Some(place)).await;
        if let Err(error) = &dialed
            && error.refusal().is_none()
        {
            self.pace.failed(begun, Instant::now(), error);
        }
        drop(slot);
        dialed
    }

    /// Opens a connection at once.
    pub(super) async fn dial_now(&self, login: &Login, place: Option<Place>) -> Result<Dialed, DialError> {
        login.check_refusal()?;
        self.counters.connecting();
        let begun = Instant::now();
        match self.attempt(login).await {
            Ok(stream) => {
                self.note_success(login);
                self.pace.succeeded();
                Ok(Dialed {
                    stream,
                    open: self.counters.connected(begun.elapsed()),
                    place,
                })
            }
            Err(error) => {
                if let Some(refusal) = error.refusal() {
                    self.counters.auth_failed(login.user(), refusal);
                    login.note_refusal(&error, begun);
                }
                self.counters.connect_failed(error.reason());
                self.note_failure(login, &error);
                Err(error)
            }
        }
    }

    /// One attempt, without back-off and without counting.
    pub(super) async fn attempt(&self, login: &Login) -> Result<Stream, DialError> {
        let stream = self.reach(&mut Steps::default()).await?;
        self.log_in(login, stream).await
    }

    /// Logs in on a connection that nothing has been said on.
    pub(super) async fn log_in(&self, login: &Login, mut stream: Stream) -> Result<Stream, DialError> {
        let auth_timeout = self.tuning.load().auth_timeout;
        timeout(auth_timeout, handshake::log_in(self, login, &mut stream))
            .await
            .unwrap_or(Err(DialError::AuthTimeout(auth_timeout)))?;
        Ok(stream)
    }

    /// A connection with TLS verified, if it is configured, and nothing said on it; `steps` tells how far it got.
    pub(super) async fn reach(&self, steps: &mut Steps) -> Result<Stream, DialError> {
        let connect_timeout = self.tuning.load().connect_timeout;
        let deadline = Instant::now() + connect_timeout;
        let (socket, host) = timeout_at(deadline, self.connect(deadline, steps))
            .await
            .unwrap_or(Err(DialError::ConnectTimeout(connect_timeout)))?;
        steps.connected = true;
        let stream = match timeout_at(deadline, self.secure(socket, host)).await {
            Ok(outcome) => outcome?,
            // A plaintext Redis waits for the end of what it takes for a command, so silence has a likely cause.
            Err(_) => return Err(DialError::Tls(ConnectFailure::timeout(connect_timeout))),
        };
        steps.secured = true;
        Ok(stream)
    }

    /// Resolves and connects. Gives the host that TLS has to verify.
    async fn connect(&self, deadline: Instant, steps: &mut Steps) -> Result<(Socket, &str), DialError> {
        match &self.section.address {
            UpstreamAddress::Tcp { host, port } => {
                steps.addresses = self.resolve(host, *port).await?;
                let stream = self.connect_tcp(host, &steps.addresses, deadline).await?;
                Ok((Socket::Tcp(stream), host))
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
    async fn connect_tcp(
        &self,
        host: &str,
        addresses: &[SocketAddr],
        deadline: Instant,
    ) -> Result<TcpStream, DialError> {
        let mut last = DialError::Dns {
            host: host.to_owned(),
            detail: "it has no address".to_owned(),
        };
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        for address in addresses {
            let share = deadline.saturating_duration_since(Instant::now()) / left.max(1);
            left = left.saturating_sub(1);
            last = match timeout(share, TcpStream::connect(*address)).await {
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
