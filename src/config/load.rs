//! Loading: gather the sources, put one over the other, check everything, and only then give out a [`Config`].
//!
//! Precedence: flag, then environment, then file, then default. All faults are reported in one run. Loading reads
//! files and nothing else: it opens no socket and resolves no name, so it is safe to do at every reload.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::context::{Context, Place, Setting};
use super::diagnostic::{Diagnostic, SourceText};
use super::raw::{self, RawConfig, Table};
use super::{
    Admin, Config, Connections, Log, LogFormat, Login, Server, address, code, env, identity, listener,
    upstream, user,
};

/// Where a configuration comes from.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file; `None`: the environment alone.
    pub file: Option<PathBuf>,
    /// The environment. It holds secrets, so `Debug` shows only the names.
    pub env: BTreeMap<String, String>,
    /// Flags of the command line.
    pub overrides: Overrides,
    /// Open files that this process may have (`RLIMIT_NOFILE`); `None`: not known, not checked.
    pub descriptor_limit: Option<u64>,
}

/// What flags override.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `--listen`
    pub listen: Option<String>,
    /// `--admin`
    pub admin: Option<String>,
    /// `--workers`
    pub workers: Option<String>,
    /// `--log`
    pub log: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
}

/// A configuration that holds, and what a person should know about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The result.
    pub config: Config,
    /// Nothing here is an error.
    pub warnings: Vec<Diagnostic>,
    /// Every effective value and where it came from, without secrets.
    pub settings: Vec<Setting>,
}

impl Sources {
    /// The sources of this process: its environment and limits. Without `file`, `KEYWARD_CONFIG` names it.
    pub fn from_process(file: Option<PathBuf>, overrides: Overrides) -> Self {
        let env: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect();
        let named = env
            .get("KEYWARD_CONFIG")
            .filter(|name| !name.is_empty())
            .map(PathBuf::from);
        Self {
            file: file.or(named),
            env,
            overrides,
            descriptor_limit: descriptor_limit(),
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("file", &self.file)
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("overrides", &self.overrides)
            .field("descriptor_limit", &self.descriptor_limit)
            .finish()
    }
}

/// What was made of a table. Where something in it was reported, a harmless value stands for what cannot be used, so
/// that the rest of it can be looked at further.
pub(super) struct Checked<T> {
    pub(super) value: T,
    /// Nothing was replaced.
    pub(super) sound: bool,
}

/// Loads and checks the configuration. The error holds every message, warnings too, errors first.
pub fn load(sources: &Sources) -> Result<Loaded, Vec<Diagnostic>> {
    load_and(sources, |_| Vec::new())
}

/// As [`load`], with the faults that only `further` can find among the others. It gets what is sound in the
/// configuration even if the rest is refused, so that one run reports everything; it must not use it for anything else.
pub fn load_and(
    sources: &Sources,
    further: impl FnOnce(&Config) -> Vec<Diagnostic>,
) -> Result<Loaded, Vec<Diagnostic>> {
    let source = read_source(sources.file.as_deref()).map_err(|fault| vec![*fault])?;
    load_source(sources, source.as_ref(), further)
}

/// As [`load_and`], with the text of the file at hand.
pub(super) fn load_source(
    sources: &Sources,
    source: Option<&SourceText>,
    further: impl FnOnce(&Config) -> Vec<Diagnostic>,
) -> Result<Loaded, Vec<Diagnostic>> {
    let base = sources.file.as_deref().and_then(Path::parent);
    let mut context = Context::new(source, base, &sources.env);
    let (mut raw, sound) = raw::parse(&mut context);
    let built = sound.then(|| {
        let implied = env::apply(&mut context, &mut raw, &sources.overrides);
        build(&mut context, &raw, implied, sources.descriptor_limit)
    });
    // Half a document would give messages about keys that are in the other half.
    let Some(built) = built else {
        return Err(sorted(context.finish().0, source));
    };
    let (mut diagnostics, settings) = context.finish();
    diagnostics.extend(further(&built.value));
    if !built.sound && !diagnostics.iter().any(Diagnostic::is_error) {
        // Nothing is ever replaced in silence; should it happen, nothing runs.
        diagnostics.push(Diagnostic::error(
            code::NOTHING,
            "the configuration gives nothing to run",
        ));
    }
    let diagnostics = sorted(diagnostics, source);
    if diagnostics.iter().any(Diagnostic::is_error) {
        return Err(diagnostics);
    }
    Ok(Loaded {
        config: built.value,
        warnings: diagnostics,
        settings,
    })
}

/// `[admin]` alone, for commands that ask a running process: they must work while the file holds a fault that the
/// process has refused to load.
pub fn admin_section(sources: &Sources) -> Admin {
    let source = read_source(sources.file.as_deref()).ok().flatten();
    let mut context = Context::new(source.as_ref(), None, &sources.env);
    let (mut raw, _) = raw::parse(&mut context);
    env::apply(&mut context, &mut raw, &sources.overrides);
    admin(&mut context, &raw.section("admin"))
}

fn build(
    context: &mut Context<'_>,
    raw: &RawConfig,
    implied: env::Implied,
    descriptor_limit: Option<u64>,
) -> Checked<Config> {
    let server = server(context, raw, descriptor_limit);
    let admin = admin(context, &raw.section("admin"));
    let log = log(context, &raw.section("log"));
    let login = login(context, &raw.section("login"));
    if raw.upstreams.is_empty() && !raw.refused("upstream") {
        let message = context.error(
            code::NOTHING,
            &Place::Default,
            "there is no upstream: no Redis to connect to",
        );
        message
            .help("set REDIS_URL, or add an [[upstream]] table to the file and name the file with --config");
    }
    if raw.listeners.is_empty() && !implied.listener && !raw.refused("listener") {
        let message = context.error(
            code::NOTHING,
            &Place::Default,
            "there is no listener: clients cannot connect",
        );
        message.help("add a [[listener]] table with `name` and `address`, or set KEYWARD_LISTEN");
    }
    let upstreams = upstream::check_all(context, &raw.upstreams);
    let users = user::check_all(context, &raw.users);
    kept_ready(context, raw, &server, (&upstreams, &users), descriptor_limit);
    let shared = listener::Shared {
        upstream_names: &names(&raw.upstreams),
        upstreams_known: raw.knows_all("upstream"),
        user_names: &names(&raw.users),
        users_known: raw.knows_all("user"),
        server: &server,
        implied: implied.listener,
    };
    let listeners = listener::check_all(context, &raw.listeners, &shared);
    identity::check_together(context, &raw.users, &users, &listeners);
    listener::check_loops(context, raw, &listeners, &upstreams, &admin);
    user::check_homes(context, &raw.users, &users, &listeners, &upstreams);
    let sound = upstreams.iter().all(|checked| checked.sound)
        && listeners.iter().all(|checked| checked.sound)
        && users.iter().all(|checked| checked.sound)
        && !upstreams.is_empty()
        && !listeners.is_empty();
    let value = Config {
        server,
        admin,
        log,
        login,
        upstreams: upstreams.into_iter().map(|checked| checked.value).collect(),
        listeners: listeners.into_iter().map(|checked| checked.value).collect(),
        users: users.into_iter().map(|checked| checked.value).collect(),
        named_files: context.named_files.clone(),
    };
    Checked { value, sound }
}

fn names(tables: &[Table]) -> Vec<String> {
    tables
        .iter()
        .map(|table| table.text("name").unwrap_or_default().to_owned())
        .collect()
}

fn server(context: &mut Context<'_>, raw: &RawConfig, descriptor_limit: Option<u64>) -> Server {
    let table = &raw.section("server");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = context.integer_or(table, "workers", to_u64(cores), (1, 1_024));
    let worker_busy = context.integer_or(table, "worker_busy_percent", 85, (1, 100));
    let max_connections = max_connections(context, table, descriptor_limit);
    let unauthenticated_limits = (1, max_connections);
    let max_unauthenticated = context.integer_or(
        table,
        "max_unauthenticated",
        (max_connections / 4).max(1),
        unauthenticated_limits,
    );
    let per_ip = context.integer(table, "max_connections_per_ip", (1, MOST_CONNECTIONS));
    let max_tls_handshakes =
        context.integer_or(table, "max_tls_handshakes", HANDSHAKES, (1, MOST_CONNECTIONS));
    let drain_timeout = context.duration(table, "drain_timeout", seconds(10), (seconds(0), seconds(3_600)));
    let watch_interval = context.duration(
        table,
        "watch_interval",
        seconds(2),
        (Duration::from_millis(50), seconds(3_600)),
    );
    let words = [
        ("shared", Connections::Shared),
        ("dedicated", Connections::Dedicated),
    ];
    let default = ("shared", Connections::Shared);
    let connections = context.choice(table, "connections", &words, default).value;
    Server {
        workers: to_usize(workers),
        worker_busy_percent: u8::try_from(worker_busy).unwrap_or(100),
        max_connections: to_usize(max_connections),
        max_unauthenticated: to_usize(max_unauthenticated),
        max_connections_per_ip: per_ip.map(|given| to_usize(given.value)),
        max_tls_handshakes: to_usize(max_tls_handshakes),
        drain_timeout,
        watch_interval,
        connections,
    }
}

/// Rule L-31: each client takes two descriptors (its own and one towards Redis), and 64 are for everything else.
/// A number that was asked for and does not fit is refused; the default shrinks to what fits and says so.
fn max_connections(context: &mut Context<'_>, table: &Table, descriptor_limit: Option<u64>) -> u64 {
    let given = context.integer(table, "max_connections", (1, MOST_CONNECTIONS));
    if given.is_none() && table.has("max_connections") {
        // Reported; other limits are not to be measured by a number that nobody wrote.
        return MOST_CONNECTIONS;
    }
    let wanted = given.as_ref().map_or(DEFAULT_CONNECTIONS, |given| given.value);
    let needed = wanted * 2 + RESERVE;
    let fits = descriptor_limit.is_none_or(|limit| needed <= limit);
    let limit = descriptor_limit.unwrap_or_default();
    let possible = (limit.saturating_sub(RESERVE) / 2).max(1);
    let raise = format!("`ulimit -n {needed}`, or LimitNOFILE={needed} in a systemd unit");
    match given {
        Some(given) if !fits => {
            context
                .error(
                    code::DESCRIPTORS,
                    &given.place,
                    "`max_connections` does not fit into the open files allowed",
                )
                .label(format!(
                    "needs {needed} open files, {limit} are allowed: {possible} connections at most"
                ))
                .help(format!("allow more with {raise}; or lower max_connections"));
            wanted
        }
        Some(_) => wanted,
        None if fits => {
            context.record(table, "max_connections", wanted.to_string(), &Place::Default);
            wanted
        }
        None => {
            let message =
                format!("only {possible} client connections, because {limit} open files are allowed");
            context
                .warning(code::DESCRIPTORS, &Place::Default, message)
                .help(format!(
                    "allow the default of {wanted} with {raise}; or set max_connections"
                ));
            context.record(table, "max_connections", possible.to_string(), &Place::Default);
            possible
        }
    }
}

/// Rule L-31 once more: what is kept ready comes on top of what clients take.
fn kept_ready(
    context: &mut Context<'_>,
    raw: &RawConfig,
    server: &Server,
    (upstreams, users): (&[Checked<super::Upstream>], &[Checked<super::UserEntry>]),
    descriptor_limit: Option<u64>,
) {
    let own_logins = users.iter().filter(|user| user.value.upstream_login.is_some());
    // For each login, wherever its user may log in: a little too many rather than too few.
    let workers = to_u64(server.workers).saturating_mul(to_u64(own_logins.count()).saturating_add(1));
    let ready: u64 = upstreams
        .iter()
        .map(|upstream| to_u64(upstream.value.pool.min) * workers)
        .sum();
    let needed = to_u64(server.max_connections) * 2 + RESERVE + ready;
    let Some(limit) = descriptor_limit.filter(|limit| ready > 0 && needed > *limit) else {
        return;
    };
    let table = raw.upstreams.iter().find(|table| table.has("pool_min"));
    let place = table.map_or(Place::Default, |table| table.place_of("pool_min"));
    context
        .warning(
            code::DESCRIPTORS,
            &place,
            "`pool_min` and `max_connections` of [server] do not fit into the open files allowed",
        )
        .label(format!(
            "{ready} connections are kept ready; {needed} open files with all clients, {limit} are allowed"
        ))
        .help(format!(
            "allow more with `ulimit -n {needed}`, or LimitNOFILE={needed} in a systemd unit; or lower one of the two"
        ));
}

fn admin(context: &mut Context<'_>, table: &Table) -> Admin {
    Admin {
        address: admin_address(context, table),
        control_socket: control_socket(context, table),
    }
}

fn admin_address(context: &mut Context<'_>, table: &Table) -> Option<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], DEFAULT_ADMIN_PORT));
    let Some(given) = context.text_unrecorded(table, "address") else {
        context.record(table, "address", default.to_string(), &Place::Default);
        return Some(default);
    };
    if given.value == "off" {
        context.record(table, "address", "off", &given.place);
        return None;
    }
    match address::parse_tcp(&given.value) {
        Ok(address) => {
            context.record(table, "address", address.to_string(), &given.place);
            Some(address)
        }
        Err(help) => {
            context
                .error(
                    code::ADDRESS,
                    &given.place,
                    "the admin address is not an address and a port",
                )
                .help(format!("{help}; or \"off\""));
            Some(default)
        }
    }
}

/// Off unless it is named: whoever may open the socket may lift lockouts.
fn control_socket(context: &mut Context<'_>, table: &Table) -> Option<PathBuf> {
    let given = context.text(table, "control_socket")?;
    if given.value == "off" {
        return None;
    }
    let fault = match address::unix_path(&given.value) {
        Some(path) if address::unix_path_fits(&path) => return Some(path),
        Some(_) => "the path of the control socket is longer than 107 bytes",
        None => "the control socket is not an absolute path",
    };
    context
        .error(code::ADDRESS, &given.place, fault)
        .help("for example \"/run/keyward/control.sock\"; or \"off\"");
    None
}

fn log(context: &mut Context<'_>, table: &Table) -> Log {
    let formats = [
        ("json", LogFormat::Json),
        ("human", LogFormat::Human),
        ("auto", LogFormat::Auto),
    ];
    let format = context
        .choice(table, "format", &formats, ("auto", LogFormat::Auto))
        .value;
    let filter = match context.text(table, "filter") {
        Some(given) => {
            if let Err(error) = EnvFilter::builder().parse(&given.value) {
                context
                    .error(code::CHOICE, &given.place, "`filter` is not a log filter")
                    .label(error.to_string())
                    .help(r#"for example "info", "warn", or "info,keyward::upstream=debug""#);
            }
            given.value
        }
        None => {
            context.record(table, "filter", DEFAULT_FILTER, &Place::Default);
            DEFAULT_FILTER.to_owned()
        }
    };
    Log { format, filter }
}

fn login(context: &mut Context<'_>, table: &Table) -> Login {
    let day = seconds(86_400);
    let timeout = context.duration(
        table,
        "timeout",
        seconds(10),
        (Duration::from_millis(100), seconds(600)),
    );
    let max_failures = context.integer_or(table, "max_failures", 5, (1, 1_000));
    let max_commands = context.integer_or(table, "max_commands", 16, (2, 1_000));
    let lockout = context.boolean(table, "lockout", true);
    let lockout_after = context.integer_or(table, "lockout_after", 10, (1, 1_000_000));
    let lockout_window = context.duration(table, "lockout_window", seconds(60), (seconds(1), day));
    let errors = context.errors();
    let lockout_first = context.duration(
        table,
        "lockout_first",
        seconds(10),
        (Duration::from_millis(1), day),
    );
    let lockout_max = context.duration(
        table,
        "lockout_max",
        seconds(900),
        (Duration::from_millis(1), day),
    );
    let lockouts_known = context.errors() == errors && !table.refuses_any(&["lockout_first", "lockout_max"]);
    let max_sources = context.integer_or(table, "max_sources", 65_536, (16, 16_777_216));
    let aggregate_after = context.integer_or(table, "aggregate_after", 16, (2, 65_536));
    let max_failures_per_second = context.integer_or(table, "max_failures_per_second", 100, (1, 1_000_000));
    if !lockout.value {
        context
            .warning(
                code::LOCKOUT_OFF,
                &lockout.place,
                "the lockout of failed logins is off: passwords can be guessed",
            )
            .help("leave `lockout` out; off is for tests alone");
    }
    if lockouts_known && lockout_first > lockout_max {
        context
            .error(
                code::RANGE,
                &table.place_of("lockout_first"),
                "`lockout_first` is longer than `lockout_max`",
            )
            .help("the first lockout doubles until it reaches lockout_max");
    }
    Login {
        timeout,
        max_failures: to_u32(max_failures),
        max_commands: to_u32(max_commands),
        lockout: lockout.value,
        lockout_after: to_u32(lockout_after),
        lockout_window,
        lockout_first,
        lockout_max,
        max_sources: to_usize(max_sources),
        aggregate_after: to_u32(aggregate_after),
        max_failures_per_second: to_u32(max_failures_per_second),
    }
}

fn read_source(path: Option<&Path>) -> Result<Option<SourceText>, Box<Diagnostic>> {
    let Some(path) = path else { return Ok(None) };
    let name = path.display().to_string();
    let fault = |message: String, help: &str| Box::new(Diagnostic::error(code::FILE, message).helped(help));
    let metadata = std::fs::metadata(path).map_err(|error| {
        fault(
            format!("cannot read the configuration file {name}: {error}"),
            "name it with --config or KEYWARD_CONFIG; without a file, REDIS_URL alone makes a sidecar",
        )
    })?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        let help = "a configuration is a regular file of at most 1 MiB";
        return Err(fault(format!("{name} is not a configuration file"), help));
    }
    let bytes = std::fs::read(path).map_err(|error| {
        fault(
            format!("cannot read the configuration file {name}: {error}"),
            "check its owner and mode",
        )
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(SourceText::new(name, text))),
        Err(_) => Err(fault(
            format!("the configuration file {name} is not UTF-8"),
            "save it as UTF-8 text",
        )),
    }
}

/// Errors first; each kind in the order of the configuration file, then those of the files it names, then those that
/// have no place.
fn sorted(mut diagnostics: Vec<Diagnostic>, source: Option<&SourceText>) -> Vec<Diagnostic> {
    diagnostics.sort_by_cached_key(|diagnostic| {
        let place = diagnostic.location.as_ref().map(|place| {
            let elsewhere = source.is_none_or(|source| source.name() != place.file);
            let file = if elsewhere {
                place.file.clone()
            } else {
                String::new()
            };
            (elsewhere, file, place.line, place.column)
        });
        (!diagnostic.is_error(), place.is_none(), place)
    });
    diagnostics
}

/// The soft limit of open files, from `/proc/self/limits`.
fn descriptor_limit() -> Option<u64> {
    parse_descriptor_limit(&std::fs::read_to_string("/proc/self/limits").ok()?)
}

fn parse_descriptor_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

pub(super) fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub(super) fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn to_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn to_u64(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// Open files that are neither a client's nor towards Redis.
const RESERVE: u64 = 64;

/// Above this a typing error is likelier than a machine that can do it.
pub(super) const MOST_CONNECTIONS: u64 = 10_000_000;
/// Redis's own default of `maxclients`.
const DEFAULT_CONNECTIONS: u64 = 10_000;
/// Handshakes at work in one round of a worker (L-20): some 30 ms, which is what a storm of them may delay sessions by.
const HANDSHAKES: u64 = 64;
const DEFAULT_ADMIN_PORT: u16 = 6_390;
const DEFAULT_FILTER: &str = "info";
/// The longest annotated example has 10 KiB.
const MAX_FILE: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_read() {
        let text =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024      524288    files\n";
        assert_eq!(parse_descriptor_limit(text), Some(1_024));
        assert_eq!(
            parse_descriptor_limit("Max open files  unlimited unlimited files"),
            Some(u64::MAX)
        );
        assert_eq!(parse_descriptor_limit(""), None);
        assert!(descriptor_limit().is_some());
    }
}
