//! Listening sockets: TCP and unix.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener, TcpStream as StdTcpStream};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::options::outwait;
use super::{Peer, Socket, canonical, configure_tcp};
use crate::config::ListenAddress;

/// A bound socket that accepts connections. Dropping it closes it, and removes a unix socket's file if it is still
/// the one that was made here.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp {
        listener: TcpListener,
        address: SocketAddr,
    },
    Unix {
        listener: UnixListener,
        path: PathBuf,
        /// Removed with the listener if it was made here.
        _file: Option<SocketFile>,
    },
}

/// An accepted connection that belongs to no runtime yet, so that it can be handed to another thread's.
#[derive(Debug)]
pub enum Accepted {
    /// A TCP connection and the address it came from.
    Tcp(StdTcpStream, SocketAddr),
    /// A unix connection.
    Unix(StdUnixStream),
}

/// Why an address cannot be listened on (F-43): names the address, the reason and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {problem}")]
pub struct BindError {
    /// The address as configured.
    pub address: String,
    /// What went wrong, with the remedy where there is one.
    pub problem: String,
    /// The system's error.
    #[source]
    pub source: Option<io::Error>,
}

impl Listener {
    /// Binds and listens; nothing is accepted before [`Listener::accept`]. Needs a tokio runtime around it.
    ///
    /// `[::]` takes IPv4 clients as well, whatever `bindv6only` says. Port 0 takes any free port. A unix socket
    /// appears at its path with its final mode and owner: it is made inside a fresh directory that only we can
    /// enter, and moved into place (CVE-2023-45145 was the moment in between). A socket file that nobody listens
    /// on any more is replaced; anything else at that path is an error.
    ///
    /// # Errors
    /// [`BindError`] with one line for the operator.
    pub fn bind(address: &ListenAddress) -> Result<Self, BindError> {
        match address {
            ListenAddress::Tcp(address) => bind_tcp(*address),
            ListenAddress::Unix { path, mode, owner } => bind_unix(path, *mode, *owner),
        }
    }

    /// A TCP socket that listens already, opened by somebody else. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// The kernel's, from `setsockopt` and `epoll_ctl`.
    pub(super) fn adopt_tcp(socket: socket2::Socket, address: SocketAddr) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        configure_tcp(&socket)?;
        let listener = TcpListener::from_std(StdTcpListener::from(socket))?;
        Ok(Self(Kind::Tcp { listener, address }))
    }

    /// A unix socket that listens already, opened by somebody else, whose file stays when this ends.
    ///
    /// # Errors
    /// The kernel's, from `epoll_ctl`.
    pub(super) fn adopt_unix(socket: socket2::Socket, path: PathBuf) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(StdUnixListener::from(socket))?;
        Ok(Self(Kind::Unix {
            listener,
            path,
            _file: None,
        }))
    }

    /// The address that is really listened on (with the port that port 0 became); `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp { address, .. } => Some(*address),
            Kind::Unix { .. } => None,
        }
    }

    /// The address for logs: `127.0.0.1:6380` or `unix:/run/keyward.sock`.
    pub fn address(&self) -> String {
        match &self.0 {
            Kind::Tcp { address, .. } => address.to_string(),
            Kind::Unix { path, .. } => format!("unix:{}", path.display()),
        }
    }

    /// Has the kernel leave it to us to end a connection whose client reads nothing: connections from now on wait longer than
    /// this limit.
    ///
    /// # Errors
    /// The kernel's, from `setsockopt`.
    pub fn outwait(&self, limit: Duration) -> io::Result<()> {
        match &self.0 {
            Kind::Tcp { listener, .. } => outwait(listener, limit),
            Kind::Unix { .. } => Ok(()),
        }
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The kernel's: the caller backs off (`EMFILE`, F-25) or goes on at once (`ECONNABORTED`, F-26). The listener
    /// stays usable after every error.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match &self.0 {
            Kind::Tcp { listener, .. } => {
                let (stream, address) = listener.accept().await?;
                // Linux hands the listener's options down to each connection, which saves six system calls here.
                if !cfg!(target_os = "linux") {
                    configure_tcp(&stream)?;
                }
                Ok(Accepted::Tcp(stream.into_std()?, canonical(address)))
            }
            Kind::Unix { listener, .. } => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

impl Accepted {
    /// The source address; `None` for a unix client. Enough for the admission limits.
    pub fn source(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Registers the connection with the current thread's runtime.
    ///
    /// # Errors
    /// The kernel's, from `epoll_ctl`.
    pub fn register(self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(stream, address) => Ok((Socket::Tcp(TcpStream::from_std(stream)?), Peer::Tcp(address))),
            Self::Unix(stream) => {
                let stream = UnixStream::from_std(stream)?;
                let uid = stream.peer_cred().ok().map(|credentials| credentials.uid());
                Ok((Socket::Unix(stream), Peer::Unix { uid }))
            }
        }
    }
}

/// A socket file that is ours as long as its inode says so.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours {
            // Nothing depends on it: a stale socket is replaced at the next start.
            let _: io::Result<()> = fs::remove_file(&self.path);
        }
    }
}

fn bind_tcp(address: SocketAddr) -> Result<Listener, BindError> {
    let failed = |error: io::Error| BindError {
        address: address.to_string(),
        problem: explain_tcp(&error, address),
        source: Some(error),
    };
    let bind = || {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // A restart must not wait for the connections of the process before (F-35).
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        configure_tcp(&socket)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        let listener = StdTcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok(Listener(Kind::Tcp {
            listener: TcpListener::from_std(listener)?,
            address,
        }))
    };
    bind().map_err(failed)
}

fn explain_tcp(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "the port is in use; `ss -ltnp 'sport = :{}'` shows by whom",
                address.port()
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            "this host has no such address; `ip address` lists those it has".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            format!("port {} needs more rights; take one above 1023", address.port())
        }
        _ => error.to_string(),
    }
}

fn bind_unix(
    path: &Path,
    mode: u32,
    owner: Option<(Option<u32>, Option<u32>)>,
) -> Result<Listener, BindError> {
    let shown = format!("unix:{}", path.display());
    let refuse = |problem: &str, source: Option<io::Error>| BindError {
        address: shown.clone(),
        problem: problem.to_owned(),
        source,
    };
    let failed = |what: &str| {
        let what = what.to_owned();
        let shown = shown.clone();
        move |error: io::Error| BindError {
            address: shown,
            problem: format!("{what}: {error}"),
            source: Some(error),
        }
    };

    let too_long =
        "the path is too long for a unix socket (107 bytes, and room for 13 more while it is made)";
    let final_address = SockAddr::unix(path).map_err(|error| refuse(too_long, Some(error)))?;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("cannot look at the path")(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(refuse(
                "the path exists and is not a socket; remove it or choose another",
                None,
            ));
        }
        Ok(_) => match knock(&final_address) {
            // Refused: nobody listens, a leftover. Moving ours into place replaces it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Any other answer, a full backlog or missing rights included, means that somebody may be there.
            Err(error) => return Err(failed("the path holds a socket that may be in use")(error)),
            Ok(_) => return Err(refuse("another process listens on this socket", None)),
        },
    }

    let nursery = Nursery::make(path).map_err(failed("cannot make a directory beside it"))?;
    let cradle = nursery.0.join("s");
    let unix_address = SockAddr::unix(&cradle).map_err(|error| refuse(too_long, Some(error)))?;
    let listener = (|| {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&unix_address)?;
        Ok(socket)
    })()
    .map_err(failed("cannot bind"))?;
    // Owner before mode: chown may clear bits, and nobody else reaches the file yet.
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(&cradle, uid, gid).map_err(failed("cannot change the socket's owner"))?;
    }
    fs::set_permissions(&cradle, Permissions::from_mode(mode))
        .map_err(failed("cannot set the socket's mode"))?;
    let made = fs::symlink_metadata(&cradle).map_err(failed("cannot look at the socket"))?;
    // Listening before the move: whoever sees the file can connect to it.
    listener.listen(BACKLOG).map_err(failed("cannot listen"))?;
    fs::rename(&cradle, path).map_err(failed("cannot move the socket into place"))?;
    let file = SocketFile {
        path: path.to_owned(),
        device: made.dev(),
        inode: made.ino(),
    };
    drop(nursery);

    let listener =
        UnixListener::from_std(StdUnixListener::from(listener)).map_err(failed("cannot register"))?;
    Ok(Listener(Kind::Unix {
        listener,
        path: path.to_owned(),
        _file: Some(file),
    }))
}

/// Whether somebody listens there. Never waits: a listener whose backlog is full answers `WouldBlock`.
fn knock(address: &SockAddr) -> io::Result<()> {
    let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(address)
}

/// A directory that only we can enter, beside the path so that a rename is possible; removed at drop.
struct Nursery(PathBuf);

impl Nursery {
    fn make(beside: &Path) -> io::Result<Self> {
        let parent = match beside.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        loop {
            let mut random = [0u8; 4];
            getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
            let path = parent.join(format!(".kw{:08x}", u32::from_ne_bytes(random)));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Self(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Nursery {
    fn drop(&mut self) {
        // Only ours and at most one socket in it; a failure leaves an empty directory behind, which harms nobody.
        let _: io::Result<()> = fs::remove_dir_all(&self.0);
    }
}

/// Connections that may wait for accept; the kernel caps it at `net.core.somaxconn` (4096 on current Linux).
const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use socket2::SockRef;
    use std::time::Duration;
    use tempfile::TempDir;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn unix(path: &Path, mode: u32) -> ListenAddress {
        ListenAddress::Unix {
            path: path.to_owned(),
            mode,
            owner: None,
        }
    }

    fn entries(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    async fn echo_once(listener: &Listener, mut client: impl AsyncReadExt + AsyncWriteExt + Unpin) -> Peer {
        let (mut socket, peer) = listener.accept().await.unwrap().register().unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut got = [0u8; 4];
        socket.read_exact(&mut got).await.unwrap();
        socket.write_all(&got).await.unwrap();
        client.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"ping");
        peer
    }

    #[tokio::test]
    async fn tcp_takes_a_free_port_and_connections_have_our_options() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = Listener::bind(&ListenAddress::Tcp(address.parse().unwrap())) else {
                assert!(address.starts_with('['), "IPv4 loopback must work");
                continue;
            };
            let real = listener.local_addr().unwrap();
            assert_ne!(real.port(), 0);
            let client = TcpStream::connect(real).await.unwrap();
            let expected = client.local_addr().unwrap();
            let accepted = listener.accept().await.unwrap();
            assert_eq!(accepted.source(), Some(expected));
            let (socket, peer) = accepted.register().unwrap();
            assert_eq!(peer, Peer::Tcp(expected));
            let Socket::Tcp(stream) = &socket else {
                panic!("not TCP")
            };
            let options = SockRef::from(stream);
            assert!(options.tcp_nodelay().unwrap());
            assert!(options.keepalive().unwrap());
            assert_eq!(options.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
            assert_eq!(options.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
            assert_eq!(options.tcp_keepalive_retries().unwrap(), 3);
            #[cfg(target_os = "linux")]
            assert_eq!(options.tcp_user_timeout().unwrap(), Some(Duration::from_secs(30)));
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_kernel_waits_longer_than_we_do_for_a_client_that_does_not_read() {
        let listener = Listener::bind(&ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        for (limit, kernel) in [(60, 70), (3_600, 3_610), (1, 30)] {
            listener.outwait(Duration::from_secs(limit)).unwrap();
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let Accepted::Tcp(stream, _) = listener.accept().await.unwrap() else {
                panic!("not TCP")
            };
            let waits = SockRef::from(&stream).tcp_user_timeout().unwrap();
            assert_eq!(waits, Some(Duration::from_secs(kernel)));
        }
    }

    #[tokio::test]
    async fn a_port_in_use_is_named_with_the_remedy() {
        let first = Listener::bind(&ListenAddress::Tcp("127.0.0.1:0".parse().unwrap())).unwrap();
        let address = first.local_addr().unwrap();
        let message = Listener::bind(&ListenAddress::Tcp(address))
            .unwrap_err()
            .to_string();
        assert!(message.contains(&address.to_string()), "{message}");
        assert!(message.contains("in use"), "{message}");
    }

    #[tokio::test]
    async fn a_unix_socket_has_its_mode_and_goes_away_with_the_listener() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("kw.sock");
        for mode in [0o600, 0o660, 0o666] {
            let listener = Listener::bind(&unix(&path, mode)).unwrap();
            assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, mode);
            assert_eq!(entries(directory.path()), ["kw.sock"]);
            let client = UnixStream::connect(&path).await.unwrap();
            let me = client.peer_cred().unwrap().uid();
            assert_eq!(echo_once(&listener, client).await, Peer::Unix { uid: Some(me) });
            assert_eq!(listener.address(), format!("unix:{}", path.display()));
            drop(listener);
            assert!(entries(directory.path()).is_empty());
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("kw.sock");
        drop(StdUnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves the file behind");
        let listener = Listener::bind(&unix(&path, 0o600)).unwrap();
        let message = Listener::bind(&unix(&path, 0o600)).unwrap_err().to_string();
        assert!(message.contains("another process listens"), "{message}");
        // The first connection that waits is the question whether somebody listens.
        drop(listener.accept().await.unwrap());
        echo_once(&listener, UnixStream::connect(&path).await.unwrap()).await;
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_socket_is_left_alone() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("kw.sock");
        fs::write(&path, "precious").unwrap();
        let message = Listener::bind(&unix(&path, 0o600)).unwrap_err().to_string();
        assert!(message.contains("is not a socket"), "{message}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let target = directory.path().join("other");
        std::os::unix::fs::symlink(&path, &target).unwrap();
        assert!(Listener::bind(&unix(&target, 0o600)).is_err());
        assert_eq!(entries(directory.path()), ["kw.sock", "other"]);
    }

    #[tokio::test]
    async fn a_socket_that_is_no_longer_ours_stays() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("kw.sock");
        let first = Listener::bind(&unix(&path, 0o600)).unwrap();
        fs::remove_file(&path).unwrap();
        let second = Listener::bind(&unix(&path, 0o600)).unwrap();
        drop(first);
        echo_once(&second, UnixStream::connect(&path).await.unwrap()).await;
    }

    #[tokio::test]
    async fn missing_directories_and_long_paths_are_named() {
        let directory = TempDir::new().unwrap();
        let missing = directory.path().join("no/kw.sock");
        assert!(
            Listener::bind(&unix(&missing, 0o600))
                .unwrap_err()
                .to_string()
                .contains("no/kw.sock")
        );
        let long = directory.path().join("x".repeat(120));
        assert!(Listener::bind(&unix(&long, 0o600)).is_err());
        assert!(entries(directory.path()).is_empty());
    }
}
