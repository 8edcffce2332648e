//! The configuration as plain, checked data.
//!
//! Everything here is the *result* of loading: addresses are addresses, durations are durations, and whatever
//! could be wrong has been reported as a [`Diagnostic`] before. Precedence: flag, then environment, then file,
//! then default. Secrets never stand in a configuration; it names files and environment variables that hold them.

mod address;
pub mod code;
mod context;
mod credential;
mod diagnostic;
mod env;
mod files;
#[doc(hidden)]
pub mod fuzz;
mod identity;
mod listener;
mod load;
mod raw;
pub mod schema;
mod upstream;
mod url;
mod user;
mod values;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

pub use context::{Origin, Setting};
pub use credential::{Credential, CredentialError, CredentialFault, MAX_SECRET_FILE};
pub use diagnostic::{Diagnostic, Location, Severity, did_you_mean, may_hold_secret};
pub use env::VARIABLES;
pub use load::{Loaded, Overrides, Sources, admin_section, load, load_and};
pub use url::{RedactedUrl, UrlError};
pub use user::parse_hash;
pub use values::{parse_duration, parse_size, show_duration};

/// The whole configuration of one process.
#[derive(Debug, Clone)]
pub struct Config {
    /// Process-wide settings.
    pub server: Server,
    /// The admin listener (metrics and health).
    pub admin: Admin,
    /// What is logged, and how.
    pub log: Log,
    /// How failed logins are answered.
    pub login: Login,
    /// The Redis or Valkey servers behind us; at least one.
    pub upstreams: Vec<Upstream>,
    /// Where clients connect; at least one.
    pub listeners: Vec<Listener>,
    /// Users from `[[user]]` tables (or `KEYWARD_USER`); users of ACL files are named by each listener.
    pub users: Vec<UserEntry>,
    /// Where files are named, for messages about their content.
    pub named_files: Vec<NamedFile>,
}

/// A file, and where the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// The table that names it, such as `[[listener]] "gateway" tls`.
    pub section: String,
    /// The file, as it is opened.
    pub file: PathBuf,
    /// The place in the configuration file; `None` when a variable names it.
    pub location: Option<Location>,
    /// The environment variable that names it.
    pub variable: Option<String>,
}

impl Config {
    /// Where a table names a file. `kind`: `listener`, `upstream` or `user`.
    pub fn named(&self, kind: &str, name: &str, file: &Path) -> Option<&NamedFile> {
        let title = format!("[[{kind}]] \"{name}\"");
        self.named_files
            .iter()
            .find(|named| named.file == file && named.section.starts_with(&title))
    }
}

/// `[server]`: process-wide settings.
#[derive(Debug, Clone)]
pub struct Server {
    /// Worker threads; default: the number of cores.
    pub workers: usize,
    /// Share of a core, in percent, from which a worker is busy, so that another takes sessions over; default 85. Of
    /// meaning with [`Connections::Shared`] only.
    pub worker_busy_percent: u8,
    /// Client connections of all listeners together; default 10,000.
    pub max_connections: usize,
    /// Connections that have not logged in yet, of all listeners together; default a quarter of `max_connections` (L-23).
    pub max_unauthenticated: usize,
    /// Client connections of one source address over all listeners; default: no limit of its own.
    pub max_connections_per_ip: Option<usize>,
    /// TLS handshakes at work on one worker before its sessions are looked after again; default 64 (L-20).
    pub max_tls_handshakes: usize,
    /// How long blocked sessions may finish after SIGTERM; default 10 s.
    pub drain_timeout: Duration,
    /// How often certificate, secret and ACL files are looked at; default 2 s.
    pub watch_interval: Duration,
    /// How upstream connections are used; default shared.
    pub connections: Connections,
}

/// How client sessions use upstream connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// Sessions of one user share a few; those that need connection state have one of their own meanwhile.
    Shared,
    /// One upstream connection per client.
    Dedicated,
}

/// `[admin]`: metrics and health.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Default `127.0.0.1:6390`; `None` when switched off with `address = "off"`.
    pub address: Option<SocketAddr>,
    /// Unix socket that lockouts are listed and lifted through; default none.
    pub control_socket: Option<PathBuf>,
}

/// `[log]`.
#[derive(Debug, Clone)]
pub struct Log {
    /// JSON lines (default unless standard error is a terminal) or human text.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `keyward=debug`; default `info`.
    pub filter: String,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// Text for people.
    Human,
    /// Human on a terminal, JSON elsewhere.
    Auto,
}

/// `[login]`: what a client may do before and while it authenticates (L-20 to L-23, L-30).
#[derive(Debug, Clone)]
pub struct Login {
    /// From accept to a successful login, in total; default 10 s.
    pub timeout: Duration,
    /// Failed logins on one connection before it is closed; default 5.
    pub max_failures: u32,
    /// Commands on one connection before it has logged in; default 16.
    pub max_commands: u32,
    /// Throttle and lockout of failed logins per source; off for tests alone (`KEYWARD_LOCKOUT=off`).
    pub lockout: bool,
    /// Failed logins of one source, within `lockout_window`, before it is locked out; default 10.
    pub lockout_after: u32,
    /// How fast a source's failures are forgotten; default 60 s.
    pub lockout_window: Duration,
    /// The first lockout; each further one doubles; default 10 s.
    pub lockout_first: Duration,
    /// The longest lockout; default 15 min.
    pub lockout_max: Duration,
    /// Sources remembered at most; default 65,536.
    pub max_sources: usize,
    /// Sources of one network (IPv4 /24, IPv6 /48) with failures at a time from which it counts as one source; default 16.
    pub aggregate_after: u32,
    /// Wrong passwords of strangers that are told from right ones in a second, over all sources; default 100.
    pub max_failures_per_second: u32,
}

/// `[[upstream]]`: one Redis or Valkey server.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Configured name; a metric label.
    pub name: String,
    /// Where it is.
    pub address: UpstreamAddress,
    /// The database selected on every connection; default 0.
    pub database: u32,
    /// ACL user name for AUTH; `None`: AUTH with the password alone.
    pub username: Option<String>,
    /// Where the password comes from; `None`: the upstream has none (then AUTH is not sent).
    pub credential: Option<CredentialSource>,
    /// TLS towards the upstream (`rediss://`).
    pub tls: Option<UpstreamTls>,
    /// Name resolution, TCP and TLS together; default 2 s (L-28).
    pub connect_timeout: Duration,
    /// AUTH, HELLO, SELECT on a new connection; default 2 s (L-28).
    pub auth_timeout: Duration,
    /// How many connections there may be, and which are kept ready.
    pub pool: UpstreamPool,
    /// Clients are served only after Redis has shown that it refuses what is refused here (C-9); default false.
    pub require_least_privilege: bool,
}

/// Connections to one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamPool {
    /// Connections of this process at once, whatever they are used for; default 9,900: a hundred less than Redis's
    /// default `maxclients`, which its replicas, its operator and our health check need as well.
    pub max_connections: usize,
    /// How long a client may wait for one to become free; default 2 s, less than client libraries wait for a reply.
    pub wait_timeout: Duration,
    /// Idle connections that each worker opens ahead of need; default 0.
    pub min: usize,
    /// Idle connections that each worker keeps at most; default 16.
    pub max: usize,
    /// How long it keeps one above the minimum that nobody wants; default 60 s.
    pub idle_time: Duration,
}

impl Default for UpstreamPool {
    fn default() -> Self {
        Self {
            max_connections: 9_900,
            wait_timeout: Duration::from_secs(2),
            min: 0,
            max: 16,
            idle_time: Duration::from_secs(60),
        }
    }
}

impl Upstream {
    /// Whether connections made for `self` are what the other would make: the same server, login and TLS.
    pub fn is_same_server(&self, other: &Self) -> bool {
        self.address == other.address
            && self.database == other.database
            && self.username == other.username
            && self.credential == other.credential
            && self.tls == other.tls
    }

    /// The address as logs show it: without user and password.
    pub fn redacted_url(&self) -> RedactedUrl {
        RedactedUrl::new(self.address.clone(), self.database)
    }
}

/// Address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// Host name or address, and port.
    Tcp {
        /// Resolved at each connect.
        host: String,
        /// Default 6379.
        port: u16,
    },
    /// Path of a unix socket.
    Unix(PathBuf),
}

/// Where a secret comes from. The values themselves never stand in the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CredentialSource {
    /// First line in force, second line (if any) the other valid one; re-read when the file changes.
    File(PathBuf),
    /// An environment variable of this name, read once; the URL of `REDIS_URL` counts as one.
    Environment(String),
    /// Password part of the URL in this environment variable (percent-decoded).
    EnvironmentUrl(String),
}

/// TLS towards an upstream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamTls {
    /// CA bundle; `None`: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// Name to verify instead of the host of the URL.
    pub server_name: Option<String>,
    /// Client certificate chain and key.
    pub client_certificate: Option<CertificateFiles>,
    /// `unsafe_skip_verify = true`: no verification at all. Said loudly at start.
    pub unsafe_skip_verify: bool,
}

/// A certificate chain and its private key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// Leaf first, then intermediates.
    pub certificate_file: PathBuf,
    /// Must not be readable by others.
    pub key_file: PathBuf,
}

/// `[[listener]]`: where clients connect.
#[derive(Debug, Clone)]
pub struct Listener {
    /// Configured name; a metric label.
    pub name: String,
    /// Where it listens.
    pub address: ListenAddress,
    /// Index into [`Config::upstreams`].
    pub upstream: usize,
    /// TLS; `None` only on loopback, a unix socket, or with `unsafe_plaintext = true`.
    pub tls: Option<ListenerTls>,
    /// How clients log in.
    pub login: LoginMode,
    /// Redis ACL file with this listener's users, if any.
    pub users_file: Option<PathBuf>,
    /// Indices into [`Config::users`]: the `[[user]]`s that may log in here (default: all of them).
    pub users: Vec<usize>,
    /// Rules of the nameless client of a listener without login; default `safe`.
    pub acl: AclText,
    /// What comes of a request that the rules refuse, for users who say nothing else; default enforce.
    pub mode: RuleMode,
    /// Remember what users do as rules, for users who say nothing else; default off.
    pub learn: bool,
    /// Connections of this listener; default: the server's.
    pub max_connections: usize,
    /// Connections from one source address; default: no limit of its own.
    pub max_connections_per_ip: Option<usize>,
    /// Close a logged-in client that sent nothing for so long (and waits for nothing); default off, as Redis.
    pub idle_timeout: Option<Duration>,
    /// Close a client that reads nothing for so long while replies wait; default 60 s.
    pub write_stall_timeout: Duration,
    /// Accept inline commands; default: not on a plaintext TCP listener without login, where a browser could send them.
    pub inline: bool,
    /// PROXY protocol is required from these networks and refused from all others; empty: off.
    pub proxy_protocol_from: Vec<IpNet>,
}

/// Address of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// TCP; port 0 takes any free one.
    Tcp(SocketAddr),
    /// Unix socket.
    Unix {
        /// Path of the socket.
        path: PathBuf,
        /// Permission bits; default 0o600.
        mode: u32,
        /// `(uid, gid)` to hand the socket to; default: unchanged.
        owner: Option<(Option<u32>, Option<u32>)>,
    },
}

/// TLS towards clients.
#[derive(Debug, Clone)]
pub struct ListenerTls {
    /// Server certificate.
    pub certificate: CertificateFiles,
    /// CA bundle that client certificates are verified with.
    pub client_ca_file: Option<PathBuf>,
    /// Certificate revocation lists for client certificates.
    pub client_crl_file: Option<PathBuf>,
    /// Whether clients present a certificate; default: required with a client CA, else off.
    pub client_certificates: ClientCertificates,
    /// Lowest protocol version.
    pub min_version: TlsVersion,
}

/// `client_certificates = "off" | "optional" | "required"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Not asked for.
    Off,
    /// Verified when presented.
    Optional,
    /// No certificate, no connection.
    Required,
}

/// `min_version = "1.2" | "1.3"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2 (default).
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// `login = "password" | "none"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginMode {
    /// AUTH or HELLO AUTH is needed (default).
    Password,
    /// Everyone who reaches the socket is the user `default` with the listener's rules; loopback and unix sockets only.
    None,
}

/// `mode = "enforce" | "observe"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleMode {
    /// It is refused (default).
    Enforce,
    /// It is forwarded, counted and audited.
    Observe,
}

/// A `[[user]]` table.
#[derive(Debug, Clone)]
pub struct UserEntry {
    /// Name for AUTH; `default` answers password-only AUTH.
    pub name: String,
    /// Passwords from a file (two lines: both are accepted) or the environment.
    pub credential: Option<CredentialSource>,
    /// SHA-256 digests given in the configuration (`sha256:<hex>`, as `keyward hash-password` prints).
    pub password_hashes: Vec<[u8; 32]>,
    /// Rules in Redis's ACL language, or a preset; default `safe`.
    pub acl: AclText,
    /// What comes of a request that the rules refuse; default: as the listener says.
    pub mode: Option<RuleMode>,
    /// Remember what it does as rules; default: as the listener says.
    pub learn: Option<bool>,
    /// Databases that it may use; `None`: every one.
    pub databases: Option<Vec<u32>>,
    /// Networks that it may log in from; none: from everywhere.
    pub sources: Vec<IpNet>,
    /// Connections that may be logged in as this user at once; default: no limit of its own.
    pub max_connections: Option<usize>,
    /// What a client certificate may say to be this user's.
    pub certificates: Vec<CertificateName>,
    /// A password alone is not enough, and a certificate alone is not either.
    pub certificate_required: bool,
    /// Processes of these users of this host are this user on unix sockets, without a password.
    pub unix_users: Vec<u32>,
    /// What Keyward logs in to Redis with for this user; `None`: the upstream's own.
    pub upstream_login: Option<UpstreamLogin>,
}

/// A name in a client certificate. Whole values are compared, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// URI in the subject alternative names, such as a SPIFFE ID.
    Uri(String),
    /// DNS name in the subject alternative names.
    DnsName(String),
    /// The one common name of the subject.
    CommonName(String),
}

/// A Redis user of one user's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamLogin {
    /// The name of the Redis user.
    pub username: String,
    /// Its password.
    pub credential: CredentialSource,
}

/// ACL rules as written, with the place they were written at.
#[derive(Debug, Clone)]
pub struct AclText {
    /// The words as one text, e.g. `safe` or `+@all -@dangerous ~* &*`.
    pub text: String,
    /// Where the text begins in the file, for messages.
    pub location: Option<Location>,
}
