//! The environment and the flags, laid over the file.
//!
//! Process-wide variables override the file's keys. The variables of a sidecar (`REDIS_URL`, `KEYWARD_LISTEN`, …)
//! make its one upstream, listener and user when the file has none, and override the file's when it has exactly
//! one. With several, nobody could tell which one was meant, and that is said.

use super::code;
use super::context::{Context, Place};
use super::diagnostic::did_you_mean;
use super::load::Overrides;
use super::raw::{Given, Raw, RawConfig, Table};

/// Every variable that is read, with what it is for.
pub const VARIABLES: &[(&str, &str)] = &[
    ("REDIS_URL", "the upstream: redis://, rediss:// or unix://"),
    ("REDIS_PASSWORD", "password of the upstream"),
    ("REDIS_PASSWORD_FILE", "file with the password of the upstream"),
    ("KEYWARD_CONFIG", "the configuration file"),
    ("KEYWARD_LISTEN", "where clients connect"),
    ("KEYWARD_TLS_CERT", "certificate for clients"),
    ("KEYWARD_TLS_KEY", "its private key"),
    (
        "KEYWARD_TLS_CLIENT_CA",
        "CA of client certificates, which are then required",
    ),
    ("KEYWARD_USER", "name that clients log in with"),
    ("KEYWARD_PASSWORD", "password that clients log in with"),
    (
        "KEYWARD_PASSWORD_FILE",
        "file with the password that clients log in with",
    ),
    ("KEYWARD_ACL", "preset or rules for clients"),
    ("KEYWARD_ADMIN", "address for metrics and health, or off"),
    (
        "KEYWARD_CONTROL_SOCKET",
        "unix socket for keyward lockouts and unlock, or off",
    ),
    ("KEYWARD_CONNECTIONS", "how upstream connections are used"),
    ("KEYWARD_LOCKOUT", "on, or off for tests"),
    ("KEYWARD_WORKERS", "worker threads"),
    ("KEYWARD_LOG", "log filter"),
    ("KEYWARD_LOG_FORMAT", "json, human or auto"),
    (
        "KEYWARD_UNSAFE_PLAINTEXT",
        "listener, upstream or both: accept plaintext beyond this host",
    ),
    (
        "KEYWARD_UNSAFE_SKIP_VERIFY",
        "true: do not verify the upstream's certificate",
    ),
];

/// What the environment added.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Implied {
    /// The one listener does not stand in the file.
    pub(super) listener: bool,
}

/// Lays environment and flags over `raw`.
pub(super) fn apply(context: &mut Context<'_>, raw: &mut RawConfig, overrides: &Overrides) -> Implied {
    unknown_variables(context, raw);
    for (variable, section, key) in [
        ("KEYWARD_ADMIN", "admin", "address"),
        ("KEYWARD_CONTROL_SOCKET", "admin", "control_socket"),
        ("KEYWARD_CONNECTIONS", "server", "connections"),
        ("KEYWARD_WORKERS", "server", "workers"),
        ("KEYWARD_LOCKOUT", "login", "lockout"),
        ("KEYWARD_LOG", "log", "filter"),
        ("KEYWARD_LOG_FORMAT", "log", "format"),
    ] {
        if let Some(value) = get(context, variable) {
            raw.section_mut(section)
                .set(key, Raw::Text(value), Place::Environment(variable));
        }
    }
    for (value, flag, section, key) in [
        (&overrides.admin, "--admin", "admin", "address"),
        (&overrides.workers, "--workers", "server", "workers"),
        (&overrides.log, "--log", "log", "filter"),
        (&overrides.log_format, "--log-format", "log", "format"),
    ] {
        if let Some(value) = value {
            raw.section_mut(section)
                .set(key, Raw::Text(value.clone()), Place::Flag(flag));
        }
    }
    apply_upstream(context, raw);
    let implied = apply_listener(context, raw, overrides);
    apply_user(context, raw, implied);
    apply_unsafe(context, raw);
    Implied { listener: implied }
}

fn apply_upstream(context: &mut Context<'_>, raw: &mut RawConfig) {
    let url = get(context, "REDIS_URL");
    let password = get_secret(context, "REDIS_PASSWORD");
    let password_file = get_secret(context, "REDIS_PASSWORD_FILE");
    if url.is_none() && password.is_none() && password_file.is_none() {
        return;
    }
    let variable = match (&url, &password) {
        (Some(_), _) => "REDIS_URL",
        (None, Some(_)) => "REDIS_PASSWORD",
        _ => "REDIS_PASSWORD_FILE",
    };
    if raw.upstreams.len() > 1 {
        // A gateway may run beside an application that owns these names: nothing breaks, and it is said.
        context
            .warning(
                code::NOT_APPLICABLE,
                &Place::Environment(variable),
                "ignored: the file has several upstreams",
            )
            .help("give each [[upstream]] its url and password_file in the file");
        return;
    }
    if raw.upstreams.is_empty() {
        if url.is_none() {
            context
                .error(
                    code::NOT_APPLICABLE,
                    &Place::Environment(variable),
                    "a password without an upstream",
                )
                .help("set REDIS_URL as well, as in redis://localhost:6379/0");
            return;
        }
        let mut table = Table::new("[[upstream]] \"redis\"", Place::Environment("REDIS_URL"));
        table.set("name", Raw::Text("redis".to_owned()), Place::Default);
        raw.upstreams.push(table);
    }
    let Some(table) = raw.upstreams.first_mut() else {
        return;
    };
    if let Some(url) = url {
        table.set("url", Raw::Text(url), Place::Environment("REDIS_URL"));
    }
    set_password(
        context,
        table,
        ("REDIS_PASSWORD", password),
        ("REDIS_PASSWORD_FILE", password_file),
    );
}

/// Whether the listener is implied.
fn apply_listener(context: &mut Context<'_>, raw: &mut RawConfig, overrides: &Overrides) -> bool {
    let listen = match &overrides.listen {
        Some(listen) => Some((listen.clone(), Place::Flag("--listen"))),
        None => get(context, "KEYWARD_LISTEN").map(|listen| (listen, Place::Environment("KEYWARD_LISTEN"))),
    };
    let files = [
        ("KEYWARD_TLS_CERT", "certificate_file"),
        ("KEYWARD_TLS_KEY", "key_file"),
        ("KEYWARD_TLS_CLIENT_CA", "client_ca_file"),
    ]
    .map(|(variable, key)| (variable, key, get(context, variable)));
    if raw.listeners.len() > 1 {
        let places = listen.iter().map(|(_, place)| place.clone());
        let more = files
            .iter()
            .filter(|(.., value)| value.is_some())
            .map(|(name, ..)| Place::Environment(name));
        for place in places.chain(more).collect::<Vec<_>>() {
            context
                .error(
                    code::NOT_APPLICABLE,
                    &place,
                    "the file has several listeners: it is not clear which is meant",
                )
                .help("set it in the [[listener]] table of the file");
        }
        return false;
    }
    let from_file = context.source().is_some();
    let implied = raw.listeners.is_empty() && (listen.is_some() || !from_file);
    if implied {
        let place = listen.as_ref().map_or(Place::Default, |(_, place)| place.clone());
        let mut table = Table::new("[[listener]] \"sidecar\"", place);
        table.set("name", Raw::Text("sidecar".to_owned()), Place::Default);
        table.set("address", Raw::Text(DEFAULT_LISTEN.to_owned()), Place::Default);
        raw.listeners.push(table);
    }
    let Some(table) = raw.listeners.first_mut() else {
        return false;
    };
    if let Some((listen, place)) = listen {
        table.set("address", Raw::Text(listen), place);
    }
    for (variable, key, value) in files {
        let Some(value) = value else { continue };
        let place = Place::Environment(variable);
        if let Some(tls) = table.table_mut("tls", &place) {
            tls.set(key, Raw::Text(value), place);
        }
    }
    implied
}

fn apply_user(context: &mut Context<'_>, raw: &mut RawConfig, implied: bool) {
    let user = get(context, "KEYWARD_USER");
    let password = get_secret(context, "KEYWARD_PASSWORD");
    let password_file = get_secret(context, "KEYWARD_PASSWORD_FILE");
    let acl = get(context, "KEYWARD_ACL").map(Raw::Text);
    let place = Place::Environment("KEYWARD_ACL");
    if password.is_none() && password_file.is_none() {
        if user.is_some() {
            context
                .error(
                    code::NOT_APPLICABLE,
                    &Place::Environment("KEYWARD_USER"),
                    "a user without a password",
                )
                .help("set KEYWARD_PASSWORD_FILE or KEYWARD_PASSWORD as well");
        }
        let Some(acl) = acl else { return };
        // Without a user of its own it is for the nameless client of the one listener without login.
        let nameless = implied && raw.users.is_empty();
        match raw.listeners.as_mut_slice() {
            [only] if nameless || only.text("login") == Some("none") => only.set("acl", acl, place),
            _ => {
                context
                    .error(
                        code::NOT_APPLICABLE,
                        &place,
                        "there is no user that it would be for",
                    )
                    .help("set KEYWARD_PASSWORD_FILE as well, or give each [[user]] of the file its acl");
            }
        }
        return;
    }
    let variable = if password_file.is_some() {
        "KEYWARD_PASSWORD_FILE"
    } else {
        "KEYWARD_PASSWORD"
    };
    let name_place = if user.is_some() {
        Place::Environment("KEYWARD_USER")
    } else {
        Place::Default
    };
    let name = user.unwrap_or_else(|| DEFAULT_USER.to_owned());
    if !raw.users.iter().any(|table| table.text("name") == Some(&name)) {
        let mut table = Table::new(format!("[[user]] \"{name}\""), Place::Environment(variable));
        table.set("name", Raw::Text(name.clone()), name_place);
        raw.users.push(table);
    }
    let Some(table) = raw
        .users
        .iter_mut()
        .find(|table| table.text("name") == Some(&name))
    else {
        return;
    };
    set_password(
        context,
        table,
        ("KEYWARD_PASSWORD", password),
        ("KEYWARD_PASSWORD_FILE", password_file),
    );
    table.remove("password_hashes");
    if let Some(acl) = acl {
        table.set("acl", acl, place);
    }
    // A password in the environment means that a login is wanted, and that this user may log in.
    if let [only] = raw.listeners.as_mut_slice() {
        if only.text("login") == Some("none") {
            only.set(
                "login",
                Raw::Text("password".to_owned()),
                Place::Environment(variable),
            );
        }
        if let Some(Given {
            value: Raw::List(users),
            ..
        }) = only.get("users").cloned()
            && !users.iter().any(|given| given.value == name)
        {
            let mut users = users;
            users.push(Given {
                value: name,
                place: Place::Environment(variable),
            });
            only.set("users", Raw::List(users), Place::Environment(variable));
        }
    }
}

fn apply_unsafe(context: &mut Context<'_>, raw: &mut RawConfig) {
    let allow = |tables: &mut Vec<Table>, key, variable| {
        for table in tables {
            table.set(key, Raw::Boolean(true), Place::Environment(variable));
        }
    };
    const PLAINTEXT: &str = "KEYWARD_UNSAFE_PLAINTEXT";
    if let Some(value) = get(context, PLAINTEXT) {
        let (listener, upstream) = match value.as_str() {
            "listener" => (true, false),
            "upstream" => (false, true),
            "both" => (true, true),
            _ => {
                context
                    .error(
                        code::CHOICE,
                        &Place::Environment(PLAINTEXT),
                        "this must say for which side",
                    )
                    .help("possible: listener, upstream, both");
                (false, false)
            }
        };
        if listener && raw.listeners.len() == 1 {
            allow(&mut raw.listeners, "unsafe_plaintext", PLAINTEXT);
        }
        if upstream && raw.upstreams.len() == 1 {
            allow(&mut raw.upstreams, "unsafe_plaintext", PLAINTEXT);
        }
    }
    const SKIP: &str = "KEYWARD_UNSAFE_SKIP_VERIFY";
    if let Some(value) = get(context, SKIP)
        && let [only] = raw.upstreams.as_mut_slice()
    {
        only.set("unsafe_skip_verify", Raw::Text(value), Place::Environment(SKIP));
    }
}

/// Sets the password of a table by one of two variables; both are an error.
fn set_password(
    context: &mut Context<'_>,
    table: &mut Table,
    (variable, value): (&'static str, Option<String>),
    (file_variable, file): (&'static str, Option<String>),
) {
    if value.is_some() && file.is_some() {
        context
            .error(
                code::TWO_SOURCES,
                &Place::Environment(variable),
                format!("{file_variable} is set as well"),
            )
            .help("keep one; a file is better than a variable");
    }
    if let Some(file) = file {
        table.remove("password_env");
        table.set(
            "password_file",
            Raw::Text(file),
            Place::Environment(file_variable),
        );
    } else if value.is_some() {
        table.remove("password_file");
        table.set(
            "password_env",
            Raw::Text(variable.to_owned()),
            Place::Environment(variable),
        );
    }
}

/// The value of a variable; an empty one counts as unset, as compose files and shells write it.
fn get(context: &Context<'_>, variable: &'static str) -> Option<String> {
    context
        .env
        .get(variable)
        .filter(|value| !value.trim().is_empty())
        .cloned()
}

/// As [`get`], but empty is an error: a login that silently is none would be worse than no start.
fn get_secret(context: &mut Context<'_>, variable: &'static str) -> Option<String> {
    let value = context.env.get(variable)?;
    if value.is_empty() {
        context
            .error(
                code::SECRET_VARIABLE,
                &Place::Environment(variable),
                "it is set and empty",
            )
            .help("unset it if no password is meant");
        return None;
    }
    Some(value.clone())
}

/// A misspelt variable must not silently take the login away.
fn unknown_variables(context: &mut Context<'_>, raw: &RawConfig) {
    let named: Vec<&str> = raw
        .upstreams
        .iter()
        .chain(&raw.users)
        .filter_map(|table| table.text("password_env"))
        .collect();
    let strangers: Vec<String> = context
        .env
        .keys()
        .filter(|name| name.starts_with("KEYWARD_") && !named.contains(&name.as_str()))
        .filter(|name| !VARIABLES.iter().any(|(known, _)| known == name))
        // Kubernetes sets KEYWARD_SERVICE_HOST, KEYWARD_PORT_6380_TCP and so on for a Service named keyward.
        .filter(|name| !name.contains("_SERVICE_") && !name.contains("_PORT"))
        .cloned()
        .collect();
    for name in strangers {
        let near = did_you_mean(&name, VARIABLES.iter().map(|(known, _)| *known));
        let message = format!("there is no environment variable {name}");
        match near {
            Some(near) => {
                context
                    .error(code::UNKNOWN_VARIABLE, &Place::Default, message)
                    .help(format!("did you mean {near}?"));
            }
            None => {
                context
                    .warning(code::UNKNOWN_VARIABLE, &Place::Default, message)
                    .help("names that begin with KEYWARD_ are settings; `keyward check --help` lists them");
            }
        }
    }
}

/// Redis's port plus one, on this host only.
const DEFAULT_LISTEN: &str = "127.0.0.1:6380";
/// Redis's user for an AUTH without a name.
const DEFAULT_USER: &str = "default";
