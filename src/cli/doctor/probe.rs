//! The thin shell: files, sockets, `/proc`, the admin pages, Redis. Everything here has a time limit.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::config::{Config, CredentialSource, ListenAddress, Sources, UpstreamAddress, UpstreamTls};
use crate::net;
use crate::server::{Examination, Examined};
use crate::tls::{CertificateRole, TlsReason};
use crate::upstream::{self, DialError, Visit};

use super::super::healthcheck;
use super::local::FileFacts;
use super::ports::{Holder, PROGRAM, PortState, listening};
use super::refusals::Account;
use super::running::AdminFacts;
use super::upstream::{UpstreamFacts, UserFacts};

/// Unix seconds.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Asks the admin listener, which needs no password and changes nothing.
pub(super) fn admin(address: Option<SocketAddr>) -> AdminFacts {
    let Some(address) = address else {
        return AdminFacts::default();
    };
    let ready = healthcheck::ask(address, "/readyz", MAX_PAGE);
    let metrics = match &ready {
        Ok(_) => healthcheck::ask(address, "/metrics", MAX_METRICS).ok(),
        Err(_) => None,
    };
    AdminFacts {
        address: Some(address.to_string()),
        ready: Some(ready.map_err(|error| format!("{error:#}"))),
        metrics,
    }
}

/// The configuration and every file that it names.
pub(super) fn files(sources: &Sources, examined: &Examination) -> Vec<FileFacts> {
    let secrets = secrets(&examined.config);
    let all = sources.file.iter().chain(&examined.files);
    all.filter_map(|path| {
        let metadata = fs::metadata(path).ok()?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let real = fs::canonicalize(path).ok()?;
        Some(FileFacts {
            mode: mode(&metadata),
            directory_mode: mode(&fs::metadata(directory).ok()?),
            secret: secrets.contains(path),
            linked: std::path::absolute(path).ok()? != real,
            path: path.clone(),
        })
    })
    .collect()
}

fn mode(metadata: &fs::Metadata) -> u32 {
    metadata.mode()
}

fn secrets(config: &Config) -> Vec<PathBuf> {
    let of_upstreams = config
        .upstreams
        .iter()
        .filter_map(|upstream| upstream.credential.as_ref());
    let of_users = config.users.iter().filter_map(|user| user.credential.as_ref());
    let of_logins = config
        .users
        .iter()
        .filter_map(|user| user.upstream_login.as_ref());
    let of_logins = of_logins.map(|login| &login.credential);
    let all = of_upstreams.chain(of_users).chain(of_logins);
    all.filter_map(CredentialSource::file)
        .map(Path::to_owned)
        .collect()
}

/// Whether the address can be listened on, by doing so for a moment as the server does.
pub(super) async fn listener(address: &ListenAddress) -> PortState {
    match address {
        ListenAddress::Tcp(tcp) => match net::Listener::bind(address) {
            Ok(_) => PortState::Free,
            Err(error) if in_use(error.source.as_ref()) => PortState::Taken(holders(*tcp)),
            Err(error) => PortState::Unusable(error.to_string()),
        },
        ListenAddress::Unix { path, mode, owner } => {
            let Err(state) = knock(path).await else {
                // Beside it, so that nobody who waits for the path sees one that goes away again.
                let beside = ListenAddress::Unix {
                    path: path.with_extension("doctor"),
                    mode: *mode,
                    owner: *owner,
                };
                return match net::Listener::bind(&beside) {
                    Ok(_) => PortState::Free,
                    Err(error) => PortState::Unusable(error.to_string()),
                };
            };
            state
        }
    }
}

/// The admin listener's address, as the server binds it.
pub(super) fn admin_port(address: SocketAddr) -> PortState {
    match std::net::TcpListener::bind(address) {
        Ok(_) => PortState::Free,
        Err(error) if in_use(Some(&error)) => PortState::Taken(holders(address)),
        Err(error) => PortState::Unusable(format!("cannot listen on {address}: {error}")),
    }
}

fn in_use(error: Option<&io::Error>) -> bool {
    error.is_some_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

/// Whether a path is free for a unix socket; else what is there. Connects and says nothing.
pub(super) async fn knock(path: &Path) -> Result<(), PortState> {
    let shown = path.display();
    match timeout(PATIENCE, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => {
            let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
            let pid = pid.and_then(|pid| u32::try_from(pid).ok());
            Err(PortState::Taken(pid.map(process).into_iter().collect()))
        }
        // Nothing there, or the leftover of a process that ended.
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            match fs::symlink_metadata(path) {
                Ok(found) if std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => Ok(()),
                _ => Err(PortState::Unusable(format!("{shown} exists and is no socket"))),
            }
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(PortState::Taken(Vec::new()))
        }
        Ok(Err(error)) => Err(PortState::Unusable(format!("{shown}: {error}"))),
        Err(_) => Err(PortState::Taken(Vec::new())),
    }
}

/// Who has the socket that listens at an address, as far as this user may see it.
fn holders(address: SocketAddr) -> Vec<Holder> {
    let begun = Instant::now();
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let tables = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let wanted: Vec<PathBuf> = tables
        .flat_map(|table| listening(&table, address))
        .map(|inode| PathBuf::from(format!("socket:[{inode}]")))
        .collect();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if begun.elapsed() > PATIENCE {
            break;
        }
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(files) = fs::read_dir(entry.path().join("fd")) else {
            continue;
        };
        let mut links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        if links.any(|link| wanted.contains(&link)) {
            found.push(process(pid));
        }
    }
    found
}

fn process(pid: u32) -> Holder {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.trim().to_owned();
    // Through the link, so that a program is itself by whatever name; only for processes of this user.
    let file = |process: &str| {
        let found = fs::metadata(format!("/proc/{process}/exe")).ok()?;
        Some((found.dev(), found.ino()))
    };
    let is_this_file = file("self").is_some_and(|own| file(&pid.to_string()) == Some(own));
    Holder {
        pid,
        is_keyward: name == PROGRAM || is_this_file,
        name,
    }
}

/// Everything about one upstream, into `facts`; each part has its own time limit.
pub(super) async fn upstream(examined: &Examined, config: &Config, facts: &mut UpstreamFacts) {
    let upstream = &*examined.upstream;
    facts.files = upstream
        .certificates()
        .iter()
        .map(|info| {
            let what = match info.role {
                CertificateRole::UpstreamClient => "client_certificate_file",
                _ => "ca_file",
            };
            (format!("{what} {} ({})", info.name, info.subject), info.not_after)
        })
        .collect();
    visit(upstream, &upstream.own_login(), true, &mut facts.own).await;
    facts.other_way = other_way(upstream, facts).await;
    for login in upstream.logins() {
        if facts.own.logged_in && !login.user().is_empty() {
            let mut own = Visit::default();
            visit(upstream, &login, false, &mut own).await;
            facts.users.push(UserFacts {
                user: login.user().to_owned(),
                account: account(config, login.user()),
                visit: own,
            });
        }
    }
    if facts.own.logged_in {
        let excess = timeout(PATIENCE_LONG, examined.excess()).await;
        facts.excess = Some(excess.unwrap_or(Err(DialError::AuthTimeout(PATIENCE_LONG))));
    }
    if facts.own.steps.secured && facts.other_way != Some(true) {
        let stranger = timeout(PATIENCE_LONG, upstream.as_stranger()).await;
        facts.stranger = Some(stranger.unwrap_or(Err(DialError::AuthTimeout(PATIENCE_LONG))));
        facts.plaintext = plaintext(upstream, facts).await;
        facts.network = network(upstream, facts).await;
    }
}

fn account(config: &Config, user: &str) -> Account {
    let entry = config.users.iter().find(|entry| entry.name == user);
    let login = entry.and_then(|entry| entry.upstream_login.as_ref());
    login.map_or_else(Account::default, |login| Account {
        username: Some(login.username.clone()),
        credential: Some(login.credential.clone()),
    })
}

async fn visit(upstream: &upstream::Upstream, login: &upstream::Login, curious: bool, visit: &mut Visit) {
    if timeout(PATIENCE_LONG, upstream.visit(login, curious, visit))
        .await
        .is_err()
    {
        visit.error = Some(match visit.steps.secured {
            true => DialError::AuthTimeout(PATIENCE_LONG),
            false => DialError::ConnectTimeout(PATIENCE_LONG),
        });
    }
}

/// Whether a failure is that of somebody who speaks plaintext to TLS, or TLS to plaintext.
async fn other_way(upstream: &upstream::Upstream, facts: &UpstreamFacts) -> Option<bool> {
    let other = match (&facts.own.error, &facts.section.tls) {
        // Every other reason comes from somebody who speaks TLS.
        (Some(DialError::Tls(failure)), Some(_))
            if matches!(
                failure.reason,
                TlsReason::NotTls | TlsReason::Eof | TlsReason::Timeout | TlsReason::Other
            ) =>
        {
            None
        }
        (
            Some(
                DialError::Closed
                | DialError::NotRedis { .. }
                | DialError::Protocol(_)
                | DialError::Io(_)
                | DialError::AuthTimeout(_),
            ),
            None,
        ) if facts.own.steps.connected => Some(unverified()),
        _ => return None,
    };
    let elsewhere = upstream.elsewhere(facts.section.address.clone(), other).ok()?;
    Some(match timeout(PATIENCE_LONG, elsewhere.as_stranger()).await {
        Ok(Ok(_)) => true,
        Ok(Err(DialError::Tls(failure))) => failure.reason == TlsReason::ClientCertificate,
        _ => false,
    })
}

/// A port without TLS beside the one with it: what Redis tells, else the usual one.
async fn plaintext(
    upstream: &upstream::Upstream,
    facts: &UpstreamFacts,
) -> Option<(u16, Result<upstream::Welcome, DialError>)> {
    let UpstreamAddress::Tcp { host, port } = &facts.section.address else {
        return None;
    };
    facts.section.tls.as_ref()?;
    let told = facts
        .own
        .server
        .info
        .get("tcp_port")
        .and_then(|port| port.parse().ok());
    let beside = told.unwrap_or(USUAL_PORT);
    if beside == *port || beside == 0 {
        return None;
    }
    let address = UpstreamAddress::Tcp {
        host: host.clone(),
        port: beside,
    };
    Some((beside, ask_as_stranger(upstream, address, None).await))
}

/// The same Redis at an address of this host that is not loopback.
async fn network(
    upstream: &upstream::Upstream,
    facts: &UpstreamFacts,
) -> Option<(String, Result<upstream::Welcome, DialError>)> {
    let UpstreamAddress::Tcp { port, .. } = &facts.section.address else {
        return None;
    };
    let outward = facts.is_local().then(outward_address).flatten()?;
    let address = UpstreamAddress::Tcp {
        host: outward.to_string(),
        port: *port,
    };
    let tls = facts.section.tls.as_ref().map(|_| unverified());
    let shown = SocketAddr::new(outward, *port).to_string();
    Some((shown, ask_as_stranger(upstream, address, tls).await))
}

async fn ask_as_stranger(
    upstream: &upstream::Upstream,
    address: UpstreamAddress,
    tls: Option<UpstreamTls>,
) -> Result<upstream::Welcome, DialError> {
    let elsewhere = upstream.elsewhere(address, tls)?;
    let asking = timeout(PATIENCE_LONG, elsewhere.as_stranger()).await;
    asking.unwrap_or(Err(DialError::AuthTimeout(PATIENCE_LONG)))
}

/// For connections on which nothing is said that anybody may not know.
fn unverified() -> UpstreamTls {
    UpstreamTls {
        unsafe_skip_verify: true,
        ..UpstreamTls::default()
    }
}

/// The address that this host would leave by. No packet is sent.
fn outward_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Of a network that is for documentation: any that is not here will do.
    socket.connect("192.0.2.1:9").ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_loopback() && !ip.is_unspecified()).then_some(ip)
}

/// For what is on this host.
const PATIENCE: Duration = Duration::from_secs(3);
/// For one connection, whatever its configuration allows.
const PATIENCE_LONG: Duration = Duration::from_secs(10);
const MAX_PAGE: u64 = 16 * 1024;
const MAX_METRICS: u64 = 16 * 1024 * 1024;
const USUAL_PORT: u16 = 6379;
