//! What shows who a user is besides a password: client certificates and users of this host; and what a user is
//! towards Redis.

use super::code;
use super::context::Context;
use super::diagnostic::shown;
use super::load::Checked;
use super::raw::{Given, Table};
use super::user::{credential_source, usable};
use super::{
    CertificateName, ClientCertificates, CredentialSource, ListenAddress, Listener, LoginMode, UpstreamLogin,
    UserEntry,
};

/// The `certificate_…` keys. `None`: reported.
pub(super) fn certificates(context: &mut Context<'_>, table: &Table) -> Option<Vec<CertificateName>> {
    let mut names = Vec::new();
    let mut fine = true;
    for (key, make) in LISTS {
        if !table.has(key) {
            continue;
        }
        let Some(items) = context.list(table, key) else {
            fine = false;
            continue;
        };
        let words: Vec<&str> = items.iter().map(|item| item.value.as_str()).collect();
        context.record(table, key, words.join(", "), &table.place_of(key));
        for item in items {
            fine &= name(context, key, item, make, &mut names);
        }
    }
    if let Some(given) = context.text(table, COMMON_NAME) {
        fine &= name(
            context,
            COMMON_NAME,
            given,
            CertificateName::CommonName,
            &mut names,
        );
    } else {
        fine &= !table.has(COMMON_NAME);
    }
    fine.then_some(names)
}

fn name(
    context: &mut Context<'_>,
    key: &str,
    given: Given<String>,
    make: fn(String) -> CertificateName,
    names: &mut Vec<CertificateName>,
) -> bool {
    let name = make(given.value);
    if let Some(why) = unusable(&name) {
        context
            .error(code::BAD_NAME, &given.place, format!("`{key}` cannot be this"))
            .label(why)
            .help("write the whole value as it stands in the certificate; it is compared byte for byte");
        return false;
    }
    if names.contains(&name) {
        context.error(code::DUPLICATE, &given.place, format!("`{key}` names it twice"));
        return false;
    }
    names.push(name);
    true
}

/// Why no certificate should be known by this.
fn unusable(name: &CertificateName) -> Option<&'static str> {
    let (text, graphic) = match name {
        CertificateName::Uri(text) | CertificateName::DnsName(text) => (text, true),
        CertificateName::CommonName(text) => (text, false),
    };
    if text.is_empty() || text.len() > LONGEST {
        return Some("1 to 2048 bytes");
    }
    if text.chars().any(char::is_control) || graphic && !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("it has characters that such names do not have");
    }
    match name {
        CertificateName::Uri(text) if !text.contains(':') => Some("a URI begins with its scheme and a colon"),
        CertificateName::DnsName(text) if text.contains('*') => {
            Some("a wildcard is no identity: every name is written out")
        }
        _ => None,
    }
}

/// `unix_users`, by number or name. `None`: reported.
pub(super) fn unix_users(context: &mut Context<'_>, table: &Table) -> Option<Vec<u32>> {
    const KEY: &str = "unix_users";
    if !table.has(KEY) {
        return Some(Vec::new());
    }
    let items = context.list(table, KEY)?;
    let words: Vec<&str> = items.iter().map(|item| item.value.as_str()).collect();
    context.record(table, KEY, words.join(", "), &table.place_of(KEY));
    let mut ids = Vec::new();
    for item in &items {
        match item
            .value
            .parse()
            .ok()
            .or_else(|| look_up(&item.value, "/etc/passwd"))
        {
            Some(id) if ids.contains(&id) => {
                context.error(code::DUPLICATE, &item.place, "the same user of this host twice");
            }
            Some(id) => ids.push(id),
            None => {
                let message = format!("this host has no user \"{}\"", shown(&item.value));
                context
                    .error(code::UNKNOWN_NAME, &item.place, message)
                    .help("write the number of the user (`id -u NAME`), or a name from /etc/passwd");
            }
        }
    }
    (ids.len() == items.len()).then_some(ids)
}

/// The number of a name in `/etc/passwd` or `/etc/group`: its third field.
pub(super) fn look_up(name: &str, database: &str) -> Option<u32> {
    let text = std::fs::read_to_string(database).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

/// `certificate_required`, and whether what the user has to show makes sense together. `has_password`: `None` when that
/// could not be found out; `nopass`: every password opens it. `Err`: reported.
pub(super) fn certificate_required(
    context: &mut Context<'_>,
    table: &Table,
    user: (&[CertificateName], &[u32]),
    has_password: Option<bool>,
    nopass: bool,
) -> Result<bool, ()> {
    const KEY: &str = "certificate_required";
    let (certificates, unix_users) = user;
    let required = context.boolean(table, KEY, false);
    let title = table.title.clone();
    // whatever else shows who a client is would be worth nothing.
    if nopass && !(certificates.is_empty() && unix_users.is_empty()) {
        context
            .error(
                code::NO_PASSWORD,
                &table.place_of("acl"),
                format!("`nopass` opens {title} to everybody, with a certificate or without"),
            )
            .help("leave nopass out: a certificate or a user of this host needs no password");
        return Err(());
    }
    if required.value && !unix_users.is_empty() {
        context
            .error(
                code::NO_EFFECT,
                &table.place_of("unix_users"),
                "`unix_users` of a user that must show a certificate",
            )
            .help("use two users: one for unix sockets, one for TLS");
        return Err(());
    }
    if certificates.is_empty() {
        // Names that were refused have been reported.
        let named = LISTS.iter().any(|(key, _)| table.has(key)) || table.has(COMMON_NAME);
        if required.value && !named {
            context
                .error(
                    code::CLIENT_CA,
                    &required.place,
                    format!("no certificate belongs to {title}"),
                )
                .help("add certificate_uris, certificate_dns_names or certificate_common_name");
            return Err(());
        }
        return Ok(required.value);
    }
    match has_password {
        Some(false) if required.value => {
            context
                .error(
                    code::NO_PASSWORD,
                    &required.place,
                    "`certificate_required` asks for a password and a certificate, and there is no password",
                )
                .help(
                    "add password_file, or leave it out: without a password the certificate is needed anyway",
                );
            Err(())
        }
        Some(true) if !table.has(KEY) => {
            context
                .error(
                    code::MISSING_KEY,
                    &table.place,
                    format!(
                        "{title} has a password and a certificate, and it is not said whether it needs both"
                    ),
                )
                .help("certificate_required = true: both are needed; false: either of the two is enough");
            Err(())
        }
        _ => Ok(required.value),
    }
}

/// What Keyward logs in to Redis with for this user. `Err`: reported.
pub(super) fn upstream_login(context: &mut Context<'_>, table: &Table) -> Result<Option<UpstreamLogin>, ()> {
    let source = credential_source(context, table, UPSTREAM_KEYS);
    let source = usable(context, table, source, "Keyward", UPSTREAM_KEYS)?;
    let username = context
        .text(table, "upstream_username")
        .filter(|given| !given.value.is_empty());
    if let Some(CredentialSource::Environment(_)) = &source {
        // A-6, as for the upstream's own.
        context
            .warning(
                code::SECRET_IN_ENVIRONMENT,
                &table.place_of(UPSTREAM_KEYS.1),
                "a password of Redis is in an environment variable",
            )
            .label("other processes of this user can read it")
            .help("use upstream_password_file: a file is read again when it changes");
    }
    match (username, source) {
        (Some(username), Some(credential)) => Ok(Some(UpstreamLogin {
            username: username.value,
            credential,
        })),
        (None, None) if !table.has("upstream_username") => Ok(None),
        (Some(username), None) => {
            context
                .error(
                    code::NO_PASSWORD,
                    &username.place,
                    "a Redis user without a password",
                )
                .help("add upstream_password_file or upstream_password_env, or leave the user out");
            Err(())
        }
        (None, _) => {
            context
                .error(
                    code::MISSING_KEY,
                    &table.place_of(UPSTREAM_KEYS.0),
                    "it is not said which Redis user has this password",
                )
                .help("add upstream_username");
            Err(())
        }
    }
}

/// Looks at the users of every listener together: nobody may be two, and what they have to show must be asked for.
pub(super) fn check_together(
    context: &mut Context<'_>,
    tables: &[Table],
    users: &[Checked<UserEntry>],
    listeners: &[Checked<Listener>],
) {
    for listener in listeners {
        let listener = &listener.value;
        let here: Vec<_> = listener
            .users
            .iter()
            .filter_map(|&index| Some((&users.get(index)?.value, tables.get(index)?)))
            .collect();
        for (at, (user, table)) in here.iter().enumerate() {
            for (other, _) in here.iter().take(at) {
                let key = user
                    .certificates
                    .iter()
                    .find(|name| other.certificates.contains(name))
                    .map(key_of)
                    .or_else(|| {
                        let shared = user.unix_users.iter().any(|id| other.unix_users.contains(id));
                        shared.then_some("unix_users")
                    });
                if let Some(key) = key {
                    let message = format!(
                        "at listener \"{}\" the same `{key}` would be user \"{}\" and user \"{}\"",
                        listener.name, other.name, user.name
                    );
                    context
                        .error(code::TWO_USERS, &table.place_of(key), message)
                        .label("the second")
                        .help("give it to one of them, or let them log in at different listeners (`users`)");
                }
            }
        }
    }
    for (index, (user, table)) in users.iter().zip(tables).enumerate() {
        let user = &user.value;
        let anywhere = |fits: &dyn Fn(&Listener) -> bool| {
            listeners.iter().any(|listener| {
                let listener = &listener.value;
                listener.login == LoginMode::Password && listener.users.contains(&index) && fits(listener)
            })
        };
        let sound = listeners.iter().all(|listener| listener.sound);
        let asks = |listener: &Listener| {
            let tls = listener.tls.as_ref();
            tls.is_some_and(|tls| tls.client_certificates != ClientCertificates::Off)
        };
        if let Some(first) = user.certificates.first()
            && sound
            && !anywhere(&asks)
        {
            let message = format!("no listener asks {} for its certificate", table.title);
            context
                .warning(code::NO_EFFECT, &table.place_of(key_of(first)), message)
                .help("set client_ca_file in the tls of a listener");
        }
        let is_unix = |listener: &Listener| matches!(listener.address, ListenAddress::Unix { .. });
        if !user.unix_users.is_empty() && sound && !anywhere(&is_unix) {
            let message = format!("{} cannot be known by `unix_users`", table.title);
            context
                .warning(code::NO_EFFECT, &table.place_of("unix_users"), message)
                .label("it may log in at no listener with a unix socket")
                .help("add a listener with address = \"unix:/path\"");
        }
    }
}

/// The key that gives a user this name.
fn key_of(name: &CertificateName) -> &'static str {
    match name {
        CertificateName::Uri(_) => "certificate_uris",
        CertificateName::DnsName(_) => "certificate_dns_names",
        CertificateName::CommonName(_) => COMMON_NAME,
    }
}

type Make = fn(String) -> CertificateName;

const LISTS: [(&str, Make); 2] = [
    ("certificate_uris", CertificateName::Uri),
    ("certificate_dns_names", CertificateName::DnsName),
];
const COMMON_NAME: &str = "certificate_common_name";

/// The keys of a password towards Redis.
const UPSTREAM_KEYS: (&str, &str) = ("upstream_password_file", "upstream_password_env");

/// SPIFFE IDs are the longest identities in use, and have at most so many bytes.
const LONGEST: usize = 2048;
