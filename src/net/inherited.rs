//! Listening sockets that the service manager has opened beforehand (`sd_listen_fds(3)`), taken by the name of the listener.
//!
//! Whoever connects while Keyward starts or starts anew waits in the socket's queue instead of being refused, and a port below
//! 1024 needs no rights. The configuration stays the law: a socket must be what the listener of its name says, or nothing starts.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use socket2::Socket;

use super::{BindError, Listener};
use crate::config::{self, ListenAddress};

/// The sockets that nobody has taken yet.
#[derive(Debug, Default)]
pub struct Inherited(Vec<Passed>);

#[derive(Debug)]
struct Passed {
    /// `FileDescriptorName=` of the socket unit.
    name: String,
    socket: Socket,
    address: Address,
}

/// What a socket is bound to.
#[derive(Debug)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// No stream of ours: datagrams, an abstract name, a connection instead of a listener.
    Useless(&'static str),
}

impl Inherited {
    /// What this process was given: nothing, unless `LISTEN_PID` is this process. To be called once, before anything else is
    /// opened: the sockets are known by their numbers alone.
    ///
    /// # Errors
    /// The variables do not fit together, or name a descriptor that is not open.
    pub fn from_process() -> Result<Self, BindError> {
        let broken = |problem: String| BindError {
            address: "the sockets of the service manager".to_owned(),
            problem: format!("{problem}; LISTEN_FDS and LISTEN_FDNAMES are for service managers to set"),
            source: None,
        };
        // This one looks whether they are open, and keeps them from child processes; the other one owns them.
        let count = sd_notify::listen_fds()
            .map_err(|error| broken(error.to_string()))?
            .len();
        if count == 0 {
            return Ok(Self::default());
        }
        let passed = sd_listen_fds::get().map_err(|error| broken(error.to_string()))?;
        let passed = passed.into_iter().map(|(name, descriptor)| {
            let socket = Socket::from(descriptor.into_std());
            Passed {
                name: name.unwrap_or_default(),
                address: Address::of(&socket),
                socket,
            }
        });
        Ok(Self(passed.collect()))
    }

    /// The socket of this listener, if it was given; it must be what the configuration says.
    ///
    /// # Errors
    /// It has another address, or a unix socket's file may be opened by more users than `socket_mode` allows.
    pub fn take(&mut self, name: &str, wanted: &ListenAddress) -> Result<Option<Listener>, BindError> {
        let Some(index) = self.0.iter().position(|passed| passed.name == name) else {
            return Ok(None);
        };
        let Passed { socket, address, .. } = self.0.swap_remove(index);
        let fault = |problem: String, source| BindError {
            address: show(wanted),
            problem,
            source,
        };
        if let Some(problem) = mismatch(&address, wanted) {
            return Err(fault(
                format!("the service manager gives listener \"{name}\" {problem}"),
                None,
            ));
        }
        let listener = match address {
            Address::Tcp(address) => Listener::adopt_tcp(socket, address),
            Address::Unix(path) => Listener::adopt_unix(socket, path),
            Address::Useless(_) => return Ok(None),
        };
        listener.map(Some).map_err(|error| {
            fault(
                format!("cannot use the service manager's socket: {error}"),
                Some(error),
            )
        })
    }

    /// Every socket must have been taken: clients of another one would wait for ever.
    ///
    /// # Errors
    /// Names the first one that is left, and the listeners there are.
    pub fn finish(self, listeners: &[config::Listener]) -> Result<(), BindError> {
        let Some(left) = self.0.first() else { return Ok(()) };
        let mut problem = format!("the service manager's socket \"{}\" ", left.name.escape_default());
        if listeners.iter().any(|listener| listener.name == left.name) {
            problem.push_str(
                "is there twice; a listener has one address, so give the other one a listener of its own",
            );
        } else {
            problem.push_str("is for no listener; set FileDescriptorName= in the socket unit to one of:");
            for listener in listeners.iter().take(MOST_NAMED) {
                // Writing to a string cannot fail.
                let _ = write!(problem, " {}", listener.name);
            }
        }
        Err(BindError {
            address: left.address.to_string(),
            problem,
            source: None,
        })
    }
}

impl Address {
    fn of(socket: &Socket) -> Self {
        if !socket.is_listener().unwrap_or(false) {
            return Self::Useless(
                "a descriptor that does not listen for connections (ListenStream=, Accept=no)",
            );
        }
        let Ok(address) = socket.local_addr() else {
            return Self::Useless("a socket without an address");
        };
        match (address.as_socket(), address.as_pathname()) {
            (Some(address), _) => Self::Tcp(address),
            (None, Some(path)) => Self::Unix(path.to_owned()),
            (None, None) => Self::Useless("a socket that is neither TCP nor has a path"),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Useless(what) => f.write_str(what),
        }
    }
}

fn show(address: &ListenAddress) -> String {
    match address {
        ListenAddress::Tcp(address) => address.to_string(),
        ListenAddress::Unix { path, .. } => format!("unix:{}", path.display()),
    }
}

/// What is wrong about a socket, for the operator. The checks of the configuration (no TLS beyond loopback, who may open a
/// socket) were made for the address that stands there, so another one is not taken.
fn mismatch(given: &Address, wanted: &ListenAddress) -> Option<String> {
    match (given, wanted) {
        (Address::Tcp(given), ListenAddress::Tcp(wanted)) => {
            let same = given.ip() == wanted.ip() && (given.port() == wanted.port() || wanted.port() == 0);
            (!same).then(|| format!("{given}; make ListenStream= in the socket unit and `address` equal"))
        }
        (Address::Unix(given), ListenAddress::Unix { path, mode, .. }) if given == path => {
            too_open(path, *mode)
        }
        (Address::Useless(what), _) => Some((*what).to_owned()),
        _ => Some(format!(
            "{given}; make ListenStream= in the socket unit and `address` equal"
        )),
    }
}

fn too_open(path: &Path, mode: u32) -> Option<String> {
    let found = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.mode() & 0o777,
        Err(error) => return Some(format!("a socket whose file cannot be looked at: {error}")),
    };
    (found & !mode != 0).then(|| {
        format!(
            "a socket with mode {found:04o}, and `socket_mode` is {mode:04o}; set SocketMode={mode:04o} in the socket unit"
        )
    })
}

/// In a message.
const MOST_NAMED: usize = 8;
