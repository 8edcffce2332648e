//! `[[listener]]` tables, and what holds between listeners, upstreams and the admin address.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::address::{is_loopback, is_loopback_host, parse_tcp, unix_path, unix_path_fits};
use super::code;
use super::context::{Context, Place};
use super::diagnostic::{did_you_mean, shown};
use super::files::{self, Content};
use super::identity::look_up;
use super::load::{Checked, MOST_CONNECTIONS, seconds, to_u64, to_usize};
use super::raw::{Given, RawConfig, Table};
use super::upstream::certificate_pair;
use super::user::{acl, default_acl, duplicates, name, name_or, parse_networks, rule_mode};
use super::{
    Admin, ClientCertificates, ListenAddress, Listener, ListenerTls, LoginMode, Server, TlsVersion, Upstream,
    UpstreamAddress,
};

/// What all listeners see.
pub(super) struct Shared<'s> {
    pub(super) upstream_names: &'s [String],
    /// These are all: a name that is not among them is wrong.
    pub(super) upstreams_known: bool,
    pub(super) user_names: &'s [String],
    pub(super) users_known: bool,
    pub(super) server: &'s Server,
    /// The one listener was not written by anybody: a sidecar by environment.
    pub(super) implied: bool,
}

/// Checks every table.
pub(super) fn check_all(
    context: &mut Context<'_>,
    tables: &[Table],
    shared: &Shared<'_>,
) -> Vec<Checked<Listener>> {
    duplicates(context, tables, "listener");
    tables.iter().map(|table| check(context, table, shared)).collect()
}

fn check(context: &mut Context<'_>, table: &Table, shared: &Shared<'_>) -> Checked<Listener> {
    let name = name(context, table, "listener");
    let address = address(context, table);
    let upstream = upstream(context, table, shared);
    let tls = match table.table("tls") {
        Some(section) => tls(context, section).map(Some),
        None if table.has("tls") => None,
        None => Some(None),
    };
    let users_file = users_file(context, table);
    let users = users(context, table, shared);
    let errors = context.errors();
    let login = login(context, table, shared);
    // Where the word itself is wrong, nobody knows whether there is to be a login.
    let with_login =
        login == LoginMode::Password && context.errors() == errors && !table.refuses_any(&["login"]);
    let nobody = users.sound && users.value.is_empty() && shared.users_known;
    if with_login && nobody && !table.has("users_file") {
        let title = table.title.clone();
        context
            .error(code::NOBODY, &table.place, format!("nobody can log in to {title}"))
            .label("there is no [[user]] and no users_file")
            .help("add a [[user]] table or users_file; on loopback or a unix socket login = \"none\" is possible");
    }
    let acl = acl(context, table);
    if with_login && table.has("acl") {
        context
            .error(
                code::NO_EFFECT,
                &table.place_of("acl"),
                "`acl` of a listener with login restricts nobody",
            )
            .help("rules belong to users: move it to [[user]] or into users_file");
    }
    let mode = rule_mode(context, table);
    let learn = context.boolean(table, "learn", false).value;
    let no_login_allowed = context.boolean(table, "unsafe_no_login", false).value;
    let plaintext_allowed = context.boolean(table, "unsafe_plaintext", false).value;
    if let Some(address) = &address {
        if login == LoginMode::None {
            without_login(context, table, address, no_login_allowed, shared);
        }
        if !table.has("tls") {
            without_tls(context, table, address, plaintext_allowed);
        }
    }
    let server_max = to_u64(shared.server.max_connections);
    let max_connections = context.integer(table, "max_connections", (1, MOST_CONNECTIONS));
    if let Some(given) = &max_connections
        && given.value > server_max
    {
        context
            .error(
                code::RANGE,
                &given.place,
                "`max_connections` is more than the whole process may have",
            )
            .label(format!("[server] max_connections is {server_max}"))
            .help("raise max_connections in [server] (and the open files allowed), or lower this one");
    }
    let per_ip = context.integer(table, "max_connections_per_ip", (1, MOST_CONNECTIONS));
    let idle_timeout = context.duration_or_off(table, "idle_timeout", (seconds(1), seconds(30 * 86_400)));
    let stall_limits = (Duration::from_millis(100), seconds(86_400));
    let write_stall_timeout = context.duration(table, "write_stall_timeout", seconds(60), stall_limits);
    // R-24, T-8: a browser can be made to send lines to a plaintext port; without login they would be obeyed.
    let exposed =
        !table.has("tls") && login == LoginMode::None && matches!(address, Some(ListenAddress::Tcp(_)));
    let inline = context.boolean(table, "inline", !exposed).value;
    let proxy_protocol_from = networks(context, table, address.as_ref());
    let sound = name.is_some()
        && address.is_some()
        && upstream.is_some()
        && tls.is_some()
        && users_file.is_ok()
        && users.sound
        && acl.is_some()
        && proxy_protocol_from.is_some();
    let value = Listener {
        name: name_or(name, table),
        // Any free port: nothing else has it.
        address: address.unwrap_or_else(|| ListenAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 0)))),
        upstream: upstream.unwrap_or_default(),
        tls: tls.unwrap_or_default(),
        login,
        users_file: users_file.unwrap_or_default(),
        users: users.value,
        acl: acl.unwrap_or_else(default_acl),
        mode,
        learn,
        max_connections: to_usize(max_connections.map_or(server_max, |given| given.value)),
        max_connections_per_ip: per_ip.map(|given| to_usize(given.value)),
        idle_timeout,
        write_stall_timeout,
        inline,
        proxy_protocol_from: proxy_protocol_from.unwrap_or_default(),
    };
    Checked { value, sound }
}

fn address(context: &mut Context<'_>, table: &Table) -> Option<ListenAddress> {
    let given = context.required(table, "address")?;
    if let Some(path) = unix_path(&given.value) {
        let mode = socket_mode(context, table);
        let owner = socket_owner(context, table);
        if !unix_path_fits(&path) {
            context.error(
                code::ADDRESS,
                &given.place,
                "the path of the socket is longer than 107 bytes",
            );
            return None;
        }
        let folder = path.parent().unwrap_or_else(|| Path::new("/"));
        if !folder.is_dir() {
            context
                .error(
                    code::FILE,
                    &given.place,
                    format!("the directory {} does not exist", folder.display()),
                )
                .help("make it first; only Keyward's user should be able to write there");
            return None;
        }
        return Some(ListenAddress::Unix {
            path,
            mode: mode?,
            owner: owner.ok()?,
        });
    }
    for key in ["socket_mode", "socket_owner"] {
        if table.has(key) {
            context
                .error(
                    code::NO_EFFECT,
                    &table.place_of(key),
                    format!("`{key}` is for unix sockets"),
                )
                .help("this listener has a TCP address");
        }
    }
    match parse_tcp(&given.value) {
        Ok(address) => Some(ListenAddress::Tcp(address)),
        Err(help) => {
            context
                .error(code::ADDRESS, &given.place, "this is not an address to listen on")
                .help(format!("{help}; or \"unix:/path/to/socket\""));
            None
        }
    }
}

fn socket_mode(context: &mut Context<'_>, table: &Table) -> Option<u32> {
    const DEFAULT: u32 = 0o600;
    let Some(given) = context.text_unrecorded(table, "socket_mode") else {
        context.record(table, "socket_mode", format!("{DEFAULT:04o}"), &Place::Default);
        return Some(DEFAULT);
    };
    let digits = given.value.strip_prefix("0o").unwrap_or(&given.value);
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => {
            context.record(table, "socket_mode", format!("{mode:04o}"), &given.place);
            Some(mode)
        }
        _ => {
            context
                .error(code::RANGE, &given.place, "`socket_mode` is not a file mode")
                .help("octal digits with at least 6 for the owner: \"0600\" or \"0660\"");
            None
        }
    }
}

/// `user`, `user:group` or `:group`, by name or number.
#[expect(clippy::type_complexity, reason = "the type of the configuration's own field")]
fn socket_owner(context: &mut Context<'_>, table: &Table) -> Result<Option<(Option<u32>, Option<u32>)>, ()> {
    let Some(given) = context.text(table, "socket_owner") else {
        return Ok(None);
    };
    let (user, group) = given.value.split_once(':').unwrap_or((&given.value, ""));
    let mut resolve = |text: &str, what: &str, database: &str| {
        if text.is_empty() {
            return Ok(None);
        }
        if let Some(id) = text.parse().ok().or_else(|| look_up(text, database)) {
            return Ok(Some(id));
        }
        context
            .error(
                code::UNKNOWN_NAME,
                &given.place,
                format!("there is no {what} \"{}\"", shown(text)),
            )
            .help("\"user\", \"user:group\" or \":group\", by name or number");
        Err(())
    };
    let user = resolve(user, "user", "/etc/passwd");
    let group = resolve(group, "group", "/etc/group");
    match (user?, group?) {
        (None, None) => Ok(None),
        owner => Ok(Some(owner)),
    }
}

fn upstream(context: &mut Context<'_>, table: &Table, shared: &Shared<'_>) -> Option<usize> {
    let names = shared.upstream_names;
    let Some(given) = context.text(table, "upstream") else {
        return match names {
            _ if table.has("upstream") => None,
            [only] => {
                context.record(table, "upstream", only.clone(), &Place::Default);
                Some(0)
            }
            [] => None,
            _ => {
                context.required(table, "upstream");
                None
            }
        };
    };
    let found = names.iter().position(|name| *name == given.value);
    if found.is_none() && shared.upstreams_known {
        let title = table.title.clone();
        let message = context
            .error(
                code::UNKNOWN_NAME,
                &given.place,
                format!("{title} names an upstream that does not exist"),
            )
            .label("no [[upstream]] has this name");
        suggest(message, &given.value, names);
    }
    found
}

fn suggest(message: super::context::Message<'_>, word: &str, names: &[String]) {
    match did_you_mean(word, names.iter().map(String::as_str)) {
        Some(near) => message.help(format!("did you mean \"{near}\"?")),
        None if names.is_empty() => message,
        None if names.len() > 8 => message,
        None => message.help(format!("there are: {}", names.join(", "))),
    };
}

fn tls(context: &mut Context<'_>, table: &Table) -> Option<ListenerTls> {
    let certificate = context.path(table, "certificate_file");
    let key = context.path(table, "key_file");
    let given = table.has("certificate_file") || table.has("key_file");
    let pair = certificate_pair(context, table, certificate, key, "certificate");
    if matches!(pair, Ok(None)) && !given {
        let title = table.title.clone();
        context
            .error(
                code::TLS_INCOMPLETE,
                &table.place,
                format!("{title} has no certificate"),
            )
            .label("certificate_file and key_file are required here")
            .help("for a first try, keyward dev-certs makes them");
    }
    let client_ca = context.path(table, "client_ca_file");
    let client_crl = context.path(table, "client_crl_file");
    let mut fine = true;
    if let Some(file) = &client_ca {
        fine &= files::check(
            context,
            &file.place,
            "client CA file",
            &file.value,
            Content::Public,
        );
    }
    if let Some(file) = &client_crl {
        fine &= files::check(
            context,
            &file.place,
            "revocation list",
            &file.value,
            Content::Public,
        );
    }
    let words = [
        ("off", ClientCertificates::Off),
        ("optional", ClientCertificates::Optional),
        ("required", ClientCertificates::Required),
    ];
    // Whoever names a CA for clients wants certificates.
    let default = if table.has("client_ca_file") {
        ("required", ClientCertificates::Required)
    } else {
        ("off", ClientCertificates::Off)
    };
    let client_certificates = context.choice(table, "client_certificates", &words, default);
    // Rule X-8.
    if client_certificates.value != ClientCertificates::Off && !table.has("client_ca_file") {
        context
            .error(
                code::CLIENT_CA,
                &client_certificates.place,
                "client certificates are asked for, and nothing verifies them",
            )
            .help("add client_ca_file: the CA that signs the clients' certificates");
        fine = false;
    }
    for key in ["client_ca_file", "client_crl_file"] {
        if client_certificates.value == ClientCertificates::Off && table.has(key) {
            context
                .error(
                    code::NO_EFFECT,
                    &table.place_of(key),
                    format!("`{key}` has no effect without client certificates"),
                )
                .help("set client_certificates = \"optional\" or \"required\", or leave this out");
            fine = false;
        }
    }
    let versions = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];
    let min_version = context
        .choice(table, "min_version", &versions, ("1.2", TlsVersion::Tls12))
        .value;
    let certificate = pair.ok()??;
    fine.then_some(ListenerTls {
        certificate,
        client_ca_file: client_ca.map(|given| given.value),
        client_crl_file: client_crl.map(|given| given.value),
        client_certificates: client_certificates.value,
        min_version,
    })
}

fn login(context: &mut Context<'_>, table: &Table, shared: &Shared<'_>) -> LoginMode {
    let words = [("password", LoginMode::Password), ("none", LoginMode::None)];
    let default = if shared.implied && shared.user_names.is_empty() && !table.has("users_file") {
        ("none", LoginMode::None)
    } else {
        ("password", LoginMode::Password)
    };
    let mode = context.choice(table, "login", &words, default).value;
    for key in ["users", "users_file"] {
        if mode == LoginMode::None && table.has(key) {
            context
                .error(
                    code::NO_EFFECT,
                    &table.place_of(key),
                    format!("`{key}` on a listener without login"),
                )
                .help("everybody is the user default here: leave it out, or leave login = \"none\" out");
        }
    }
    mode
}

fn users_file(context: &mut Context<'_>, table: &Table) -> Result<Option<std::path::PathBuf>, ()> {
    if !table.has("users_file") {
        return Ok(None);
    }
    let given = context.path(table, "users_file").ok_or(())?;
    let fine = files::check(
        context,
        &given.place,
        "users file",
        &given.value,
        Content::Digests,
    );
    if fine { Ok(Some(given.value)) } else { Err(()) }
}

/// Those who may log in; without those that are refused.
fn users(context: &mut Context<'_>, table: &Table, shared: &Shared<'_>) -> Checked<Vec<usize>> {
    let names = shared.user_names;
    if !table.has("users") {
        return Checked {
            value: (0..names.len()).collect(),
            sound: true,
        };
    }
    let place = table.place_of("users");
    let Some(items) = context.list(table, "users") else {
        return Checked {
            value: Vec::new(),
            sound: false,
        };
    };
    let words: Vec<&str> = items.iter().map(|item| item.value.as_str()).collect();
    context.record(table, "users", words.join(", "), &place);
    let mut indices = Vec::new();
    let mut fine = true;
    for item in &items {
        match names.iter().position(|name| *name == item.value) {
            Some(index) if indices.contains(&index) => {
                context.error(
                    code::DUPLICATE,
                    &item.place,
                    format!("the user \"{}\" is named twice", shown(&item.value)),
                );
                fine = false;
            }
            Some(index) => indices.push(index),
            None if !shared.users_known => fine = false,
            None => {
                let message = format!("there is no user \"{}\"", shown(&item.value));
                let message = context.error(code::UNKNOWN_NAME, &item.place, message);
                suggest(message.label("no [[user]] has this name"), &item.value, names);
                fine = false;
            }
        }
    }
    Checked {
        value: indices,
        sound: fine,
    }
}

/// Rule T-6: whoever reaches a listener without login has the rights that Keyward injects.
fn without_login(
    context: &mut Context<'_>,
    table: &Table,
    address: &ListenAddress,
    allowed: bool,
    shared: &Shared<'_>,
) {
    let title = table.title.clone();
    let (safe, who) = match address {
        ListenAddress::Tcp(address) if is_loopback(address.ip()) => (true, "every process of this host"),
        ListenAddress::Tcp(_) => (false, "everybody who reaches this address"),
        ListenAddress::Unix { mode, .. } if mode & 0o006 == 0 => (true, "everybody who may open the socket"),
        ListenAddress::Unix { .. } => (
            false,
            "every process of this host (socket_mode lets everybody in)",
        ),
    };
    let place = if table.has("login") {
        table.place_of("login")
    } else {
        table.place_of("address")
    };
    let way_out = if shared.implied {
        "set KEYWARD_PASSWORD_FILE (or KEYWARD_PASSWORD): make a password with keyward gen-password --write FILE"
    } else {
        "leave login = \"none\" out and add a [[user]]"
    };
    if safe || allowed {
        context
            .warning(
                code::NO_LOGIN,
                &place,
                format!("{title} has no login: {who} can use Redis through it"),
            )
            .help(way_out);
        return;
    }
    let more = if shared.implied {
        ""
    } else {
        "; or accept it in words: unsafe_no_login = true"
    };
    context
        .error(
            code::NO_LOGIN,
            &place,
            format!("{title} has no login: {who} could use Redis through it"),
        )
        .label("without login only on loopback, or on a unix socket that is not open to everybody")
        .help(format!("{way_out}{more}"));
}

fn without_tls(context: &mut Context<'_>, table: &Table, address: &ListenAddress, allowed: bool) {
    let ListenAddress::Tcp(address) = address else {
        return;
    };
    if is_loopback(address.ip()) {
        return;
    }
    let title = table.title.clone();
    let place = table.place_of("address");
    if allowed {
        let message = format!("{title} is plaintext: the network reads the passwords and the data");
        context
            .warning(code::PLAINTEXT, &place, message)
            .help("give it a certificate: tls = { … }");
        return;
    }
    let (tls, way_out) = match place {
        Place::Environment(_) | Place::Flag(_) => (
            "KEYWARD_TLS_CERT and KEYWARD_TLS_KEY",
            "KEYWARD_UNSAFE_PLAINTEXT=listener",
        ),
        _ => (
            "tls = { certificate_file = …, key_file = … }",
            "unsafe_plaintext = true",
        ),
    };
    context
        .error(
            code::PLAINTEXT,
            &place,
            format!("{title} would be plaintext beyond this host"),
        )
        .label("the network could read the passwords and the data")
        .help(format!("add {tls}; or accept it in words: {way_out}"));
}

fn networks(context: &mut Context<'_>, table: &Table, address: Option<&ListenAddress>) -> Option<Vec<IpNet>> {
    if !table.has("proxy_protocol_from") {
        return Some(Vec::new());
    }
    let place = table.place_of("proxy_protocol_from");
    let items: Vec<Given<String>> = context.list(table, "proxy_protocol_from")?;
    let words: Vec<&str> = items.iter().map(|item| item.value.as_str()).collect();
    context.record(table, "proxy_protocol_from", words.join(", "), &place);
    if matches!(address, Some(ListenAddress::Unix { .. })) {
        context
            .error(
                code::NO_EFFECT,
                &place,
                "`proxy_protocol_from` is for TCP listeners",
            )
            .help("this listener is a unix socket");
        return None;
    }
    parse_networks(context, &items)
}

/// Addresses that cannot be used twice, and upstreams that are one of us (rule F-42).
pub(super) fn check_loops(
    context: &mut Context<'_>,
    raw: &RawConfig,
    listeners: &[Checked<Listener>],
    upstreams: &[Checked<Upstream>],
    admin: &Admin,
) {
    let mut seen: Vec<(&ListenAddress, &Table)> = Vec::new();
    for (listener, table) in listeners.iter().zip(&raw.listeners) {
        let listener = &listener.value;
        let place = table.place_of("address");
        if let Some((_, other)) = seen.iter().find(|(address, _)| same(address, &listener.address)) {
            let message = format!("{} has the address of {}", table.title, other.title);
            context
                .error(code::DUPLICATE, &place, message)
                .help("give it another port or path");
        }
        if let (ListenAddress::Tcp(ours), Some(admin)) = (&listener.address, admin.address)
            && overlap(*ours, admin)
        {
            let message = format!("{} has the admin address", table.title);
            context
                .error(code::DUPLICATE, &place, message)
                .help("give one of them another port ([admin] address)");
        }
        seen.push((&listener.address, table));
    }
    for (upstream, table) in upstreams.iter().zip(&raw.upstreams) {
        let upstream = &upstream.value;
        if let Some((_, listener)) = seen
            .iter()
            .find(|(address, _)| reaches(&upstream.address, address))
        {
            let message = format!("{} is our own {}", table.title, listener.title);
            context
                .error(code::LOOP, &table.place_of("url"), message)
                .label("Keyward would connect to itself without end")
                .help("name the address of Redis here, or let Keyward listen elsewhere");
        }
        let used = listeners.iter().any(|listener| {
            raw.upstreams
                .get(listener.value.upstream)
                .is_some_and(|t| t.title == table.title)
        });
        if !used && listeners.iter().all(|listener| listener.sound) && !listeners.is_empty() {
            context.warning(
                code::NO_EFFECT,
                &table.place,
                format!("no listener uses {}", table.title),
            );
        }
    }
}

fn same(a: &ListenAddress, b: &ListenAddress) -> bool {
    match (a, b) {
        (ListenAddress::Tcp(a), ListenAddress::Tcp(b)) => overlap(*a, *b),
        (ListenAddress::Unix { path: a, .. }, ListenAddress::Unix { path: b, .. }) => a == b,
        _ => false,
    }
}

/// Whether two listening addresses exclude each other. Port 0 is never the same.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let family = a.is_ipv4() == b.is_ipv4();
    let any = family && (a.ip().is_unspecified() || b.ip().is_unspecified());
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || any)
}

/// Whether connecting to `upstream` reaches `listener`, as far as can be told without a resolver.
fn reaches(upstream: &UpstreamAddress, listener: &ListenAddress) -> bool {
    match (upstream, listener) {
        (UpstreamAddress::Unix(a), ListenAddress::Unix { path: b, .. }) => a == b,
        (UpstreamAddress::Tcp { host, port }, ListenAddress::Tcp(listener)) => {
            if *port != listener.port() || *port == 0 {
                return false;
            }
            let ip = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
            let local = is_loopback_host(host) || ip.is_some_and(|ip| ip.is_unspecified());
            ip == Some(listener.ip().to_canonical())
                || (local && listener.ip().is_unspecified())
                || (host.eq_ignore_ascii_case("localhost") && is_loopback(listener.ip()))
        }
        _ => false,
    }
}
