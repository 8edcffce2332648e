//! `[[user]]` tables, names, ACL texts and the sources of passwords.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

use super::code;
use super::context::{Context, Place};
use super::credential::{CredentialError, CredentialFault, weakness};
use super::diagnostic::{Location, shown};
use super::files::{self, Content};
use super::identity;
use super::load::{Checked, MOST_CONNECTIONS, to_usize};
use super::raw::{Given, Table};
use super::{AclText, CredentialSource, Listener, RuleMode, Upstream, UserEntry};

/// Checks every table.
pub(super) fn check_all(context: &mut Context<'_>, tables: &[Table]) -> Vec<Checked<UserEntry>> {
    duplicates(context, tables, "user");
    tables.iter().map(|table| check(context, table)).collect()
}

fn check(context: &mut Context<'_>, table: &Table) -> Checked<UserEntry> {
    let name = name(context, table, "user");
    let credential = credential_source(context, table, PASSWORD_KEYS);
    let credential = usable(context, table, credential, "clients", PASSWORD_KEYS);
    let password_hashes = hashes(context, table);
    let acl = acl(context, table);
    let mode = table.has("mode").then(|| rule_mode(context, table));
    let learn = table
        .has("learn")
        .then(|| context.boolean(table, "learn", false).value);
    let databases = databases(context, table);
    let sources = sources(context, table);
    let max_connections = context.integer(table, "max_connections", (1, MOST_CONNECTIONS));
    // A digest in the rules is a password too; `nopass` says in words that there is none.
    let in_rules = acl.as_ref().is_some_and(|acl| {
        acl.text
            .split_whitespace()
            .any(|word| word.starts_with('#') || word.eq_ignore_ascii_case("nopass"))
    });
    // Refused rules may have held one.
    let rules_known = acl.is_some() && !table.refuses_any(&["acl"]);
    let certificates = identity::certificates(context, table);
    let unix_users = identity::unix_users(context, table);
    let shows = certificates.as_ref().is_none_or(|names| !names.is_empty())
        || unix_users.as_ref().is_none_or(|ids| !ids.is_empty());
    let no_password = matches!(credential, Ok(None)) && !table.has("password_hashes") && !in_rules;
    if no_password && !shows && rules_known {
        let title = table.title.clone();
        context
            .error(code::NO_PASSWORD, &table.place, format!("{title} has no password"))
            .label("nobody could log in as this user")
            .help("add password_file, password_env or password_hashes (see keyward gen-password, hash-password)");
    }
    let nopass = acl.as_ref().is_some_and(|acl| {
        acl.text
            .split_whitespace()
            .any(|word| word.eq_ignore_ascii_case("nopass"))
    });
    let certificate_required = identity::certificate_required(
        context,
        table,
        (
            certificates.as_deref().unwrap_or_default(),
            unix_users.as_deref().unwrap_or_default(),
        ),
        (rules_known && credential.is_ok()).then_some(!no_password),
        nopass,
    );
    let upstream_login = identity::upstream_login(context, table);
    let sound = name.is_some()
        && credential.is_ok()
        && password_hashes.is_some()
        && acl.is_some()
        && databases.is_ok()
        && sources.is_some()
        && certificates.is_some()
        && unix_users.is_some()
        && certificate_required.is_ok()
        && upstream_login.is_ok();
    let value = UserEntry {
        name: name_or(name, table),
        credential: credential.unwrap_or_default(),
        password_hashes: password_hashes.unwrap_or_default(),
        acl: acl.unwrap_or_else(default_acl),
        mode,
        learn,
        databases: databases.unwrap_or_default(),
        sources: sources.unwrap_or_default(),
        max_connections: max_connections.map(|given| to_usize(given.value)),
        certificates: certificates.unwrap_or_default(),
        certificate_required: certificate_required.unwrap_or(true),
        unix_users: unix_users.unwrap_or_default(),
        upstream_login: upstream_login.unwrap_or_default(),
    };
    Checked { value, sound }
}

/// The name, or what is near to it where it was refused: no rule about names may find it wrong a second time.
pub(super) fn name_or(name: Option<Given<String>>, table: &Table) -> String {
    if let Some(given) = name {
        return given.value;
    }
    let text = table.text("name").unwrap_or_default();
    let near: String = text.chars().filter(char::is_ascii_graphic).collect();
    if near.is_empty() { "?".to_owned() } else { near }
}

/// `mode`: whether rules are kept or only watched.
pub(super) fn rule_mode(context: &mut Context<'_>, table: &Table) -> RuleMode {
    let words = [("enforce", RuleMode::Enforce), ("observe", RuleMode::Observe)];
    let mode = context.choice(table, "mode", &words, ("enforce", RuleMode::Enforce));
    if mode.value == RuleMode::Observe {
        let title = table.title.clone();
        context
            .warning(
                code::OBSERVE,
                &mode.place,
                format!("the rules of {title} refuse nothing: they are only observed"),
            )
            .help("look at keyward_commands_observed_total, then set mode = \"enforce\"");
    }
    mode.value
}

/// The preset `safe`.
pub(super) fn default_acl() -> AclText {
    AclText {
        text: DEFAULT_ACL.to_owned(),
        location: None,
    }
}

/// A name that may be a metric label: it must not need quoting anywhere.
pub(super) fn name(context: &mut Context<'_>, table: &Table, what: &str) -> Option<Given<String>> {
    let given = context.required(table, "name")?;
    if is_name(&given.value, what) {
        return Some(given);
    }
    let more = signs_of(what);
    let article = if what == "upstream" { "an" } else { "a" };
    context
        .error(
            code::BAD_NAME,
            &given.place,
            format!("this cannot be the name of {article} {what}"),
        )
        .label("1 to 64 letters, digits and signs, with a letter or digit first")
        .help(format!(
            "names are metric labels and stand in logs; signs that may be in it: {more}"
        ));
    None
}

/// See [`name`].
pub(super) fn is_name(text: &str, what: &str) -> bool {
    let more = signs_of(what);
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= 64
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || more.contains(c))
}

/// What may be in a name besides letters and digits.
fn signs_of(what: &str) -> &'static str {
    if what == "user" { "_.-@:/+" } else { "_.-" }
}

/// Reports names that occur twice.
pub(super) fn duplicates(context: &mut Context<'_>, tables: &[Table], what: &str) {
    let mut seen: BTreeMap<&str, &Table> = BTreeMap::new();
    for table in tables {
        let Some(name) = table.text("name") else { continue };
        let Some(earlier) = seen.get(name) else {
            seen.insert(name, table);
            continue;
        };
        let first = context.location(&earlier.place_of("name"));
        let message = format!("two [[{what}]] tables have the name \"{}\"", shown(name));
        let message = context
            .error(code::DUPLICATE, &table.place_of("name"), message)
            .label("the second");
        match first {
            Some(first) => message.help(format!("the first is in line {}; names must differ", first.line)),
            None => message.help("names must differ"),
        };
    }
}

/// Users who may not use the database that their connections begin on.
pub(super) fn check_homes(
    context: &mut Context<'_>,
    tables: &[Table],
    users: &[Checked<UserEntry>],
    listeners: &[Checked<Listener>],
    upstreams: &[Checked<Upstream>],
) {
    for (index, (user, table)) in users.iter().zip(tables).enumerate() {
        let Some(databases) = user.value.databases.as_ref().filter(|_| user.sound) else {
            continue;
        };
        let stranded = listeners
            .iter()
            .filter(|listener| listener.sound && listener.value.users.contains(&index))
            .filter_map(|listener| Some((&listener.value.name, upstreams.get(listener.value.upstream)?)))
            .find(|(_, upstream)| upstream.sound && !databases.contains(&upstream.value.database));
        if let Some((listener, upstream)) = stranded {
            let home = upstream.value.database;
            let title = table.title.clone();
            context
                .error(
                    code::RANGE,
                    &table.place_of("databases"),
                    format!("{title} may not use database {home}, which its connections begin on"),
                )
                .label(format!("{home} is missing"))
                .help(format!(
                    "it may log in at listener \"{listener}\", whose upstream's url names database {home}"
                ));
        }
    }
}

/// `databases`. `Err`: reported.
fn databases(context: &mut Context<'_>, table: &Table) -> Result<Option<Vec<u32>>, ()> {
    if !table.has("databases") {
        return Ok(None);
    }
    let items = context.list(table, "databases").ok_or(())?;
    let mut databases = Vec::new();
    for item in &items {
        match item.value.parse().ok().filter(|number| *number <= MOST_DATABASE) {
            Some(number) => databases.push(number),
            None => {
                context
                    .error(code::RANGE, &item.place, "this is not the number of a database")
                    .label(format!("expected a whole number between 0 and {MOST_DATABASE}"));
            }
        }
    }
    let words: Vec<&str> = items.iter().map(|item| item.value.as_str()).collect();
    context.record(table, "databases", words.join(", "), &table.place_of("databases"));
    if databases.len() == items.len() {
        Ok(Some(databases))
    } else {
        Err(())
    }
}

/// `sources`. `None`: reported.
fn sources(context: &mut Context<'_>, table: &Table) -> Option<Vec<IpNet>> {
    if !table.has("sources") {
        return Some(Vec::new());
    }
    let items = context.list(table, "sources")?;
    let words: Vec<&str> = items.iter().map(|item| item.value.as_str()).collect();
    context.record(table, "sources", words.join(", "), &table.place_of("sources"));
    parse_networks(context, &items)
}

/// Networks, or addresses that stand for themselves. `None`: reported.
pub(super) fn parse_networks(context: &mut Context<'_>, items: &[Given<String>]) -> Option<Vec<IpNet>> {
    let mut networks = Vec::new();
    for item in items {
        let network = item
            .value
            .parse()
            .or_else(|_| item.value.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) => networks.push(network),
            Err(_) => {
                context
                    .error(code::ADDRESS, &item.place, "this is not a network")
                    .help("an address with a prefix length, as in \"10.0.0.0/8\" or \"fd00::/8\"");
            }
        }
    }
    (networks.len() == items.len()).then_some(networks)
}

/// `password_file` or `password_env`, or whatever `keys` are. `Err`: reported.
pub(super) fn credential_source(
    context: &mut Context<'_>,
    table: &Table,
    keys: (&'static str, &'static str),
) -> Result<Option<CredentialSource>, ()> {
    let (file_key, env_key) = keys;
    let file = if table.has(file_key) {
        Some(context.path(table, file_key).ok_or(())?)
    } else {
        None
    };
    let variable = context.text_unrecorded(table, env_key);
    match (file, variable) {
        (Some(_), Some(variable)) => {
            let title = table.title.clone();
            context
                .error(
                    code::TWO_SOURCES,
                    &variable.place,
                    format!("{title} has {file_key} and {env_key}"),
                )
                .help("keep one; the file is the better one, since it can be changed without a restart");
            Err(())
        }
        (Some(file), None) => Ok(Some(CredentialSource::File(file.value))),
        (None, Some(variable)) => {
            let shown = if context.env.contains_key(&variable.value) {
                variable.value.as_str()
            } else {
                "***"
            };
            context.record(table, env_key, shown, &variable.place);
            let begins = variable
                .value
                .starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            if begins
                && variable
                    .value
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '_')
            {
                return Ok(Some(CredentialSource::Environment(variable.value)));
            }
            context
                .error(
                    code::INLINE_SECRET,
                    &variable.place,
                    format!("`{env_key}` is not the name of a variable"),
                )
                .help("it takes the name of an environment variable, never the password itself");
            Err(())
        }
        (None, None) => Ok(None),
    }
}

/// The source, if its secret can be used. `whom`: who logs in with it. `Err`: reported.
pub(super) fn usable(
    context: &mut Context<'_>,
    table: &Table,
    source: Result<Option<CredentialSource>, ()>,
    whom: &str,
    keys: (&'static str, &'static str),
) -> Result<Option<CredentialSource>, ()> {
    match source? {
        Some(source) if inspect(context, table, &source, whom, keys) => Ok(Some(source)),
        Some(_) => Err(()),
        None => Ok(None),
    }
}

/// Reads a credential to see that it can be used, and looks at its strength. Whether it can.
fn inspect(
    context: &mut Context<'_>,
    table: &Table,
    source: &CredentialSource,
    whom: &str,
    (file_key, env_key): (&'static str, &'static str),
) -> bool {
    let (key, path): (_, Option<&PathBuf>) = match source {
        CredentialSource::File(path) => (file_key, Some(path)),
        CredentialSource::Environment(_) => (env_key, None),
        CredentialSource::EnvironmentUrl(_) => ("url", None),
    };
    let place = table.place_of(key);
    if let Some(path) = path
        && !files::check(context, &place, "secret file", path, Content::Secret)
    {
        return false;
    }
    let credential = match source.read(&context.lookup()) {
        Ok(credential) => credential,
        Err(CredentialError::Environment(fault)) => {
            let message = context
                .error(
                    code::SECRET_VARIABLE,
                    &place,
                    "the environment variable of the password cannot be used",
                )
                .label(fault.to_string());
            if fault == CredentialFault::NotSet {
                message.help(format!(
                    "{env_key} takes the name of a variable that is set when Keyward starts"
                ));
            }
            return false;
        }
        Err(error) => {
            context.error(code::SECRET_FILE, &place, error.to_string()).help(
                "line 1 is the password in force, line 2 (optional) the other valid one; see gen-password",
            );
            return false;
        }
    };
    let title = table.title.clone();
    for (line, secret) in credential.iter().enumerate() {
        if let Some(why) = weakness(secret) {
            let which = if line == 0 {
                "the password"
            } else {
                "the second password"
            };
            context
                .warning(
                    code::WEAK_PASSWORD,
                    &place,
                    format!("WEAK PASSWORD: {which} of {title} can be guessed"),
                )
                .label(format!("{why}; {whom} log in with it"))
                .help("make one with: keyward gen-password --write FILE");
        }
    }
    true
}

/// `sha256:<hex>` as `keyward hash-password` prints it, or `#<hex>` as Redis writes it.
fn hashes(context: &mut Context<'_>, table: &Table) -> Option<Vec<[u8; 32]>> {
    if !table.has("password_hashes") {
        return Some(Vec::new());
    }
    let items = context.list(table, "password_hashes")?;
    context.record(
        table,
        "password_hashes",
        "***",
        &table.place_of("password_hashes"),
    );
    let mut hashes = Vec::new();
    for item in &items {
        match parse_hash(&item.value) {
            Some(hash) => hashes.push(hash),
            None => {
                context
                    .error(code::PASSWORD_HASH, &item.place, "this is not a password digest")
                    .label("expected sha256: or # and 64 hexadecimal digits")
                    .help("make one with: keyward hash-password < FILE");
            }
        }
    }
    (hashes.len() == items.len()).then_some(hashes)
}

/// Reads a password digest in either form.
pub fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix("sha256:").or_else(|| text.strip_prefix('#'))?;
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (place, digits) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *place = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// The `acl` of a table; the preset `safe` when there is none.
pub(super) fn acl(context: &mut Context<'_>, table: &Table) -> Option<AclText> {
    let Some(given) = context.text_unrecorded(table, "acl") else {
        if !table.has("acl") {
            context.record(table, "acl", DEFAULT_ACL, &Place::Default);
        }
        return Some(default_acl());
    };
    let words: Vec<&str> = given.value.split_whitespace().collect();
    if words.is_empty() {
        context
            .error(code::EMPTY, &given.place, "`acl` is empty")
            .help("name a preset (safe, strict) or rules such as \"+@read ~* &*\"; without `acl` it is safe");
        return None;
    }
    // Redis's `>password` is a secret in the configuration.
    if words.iter().any(|word| word.starts_with(['>', '<'])) {
        let place = match &given.place {
            Place::File(span) => Place::Secret(span.clone()),
            other => other.clone(),
        };
        context
            .error(
                code::INLINE_SECRET,
                &place,
                "a password must not stand in the rules of the configuration",
            )
            .help("use password_file, password_env, or a digest (#...) from keyward hash-password");
        return None;
    }
    if words.iter().any(|word| word.eq_ignore_ascii_case("nopass")) {
        let title = table.title.clone();
        context
            .warning(
                code::NO_PASSWORD,
                &given.place,
                format!("every password opens {title}"),
            )
            .label("`nopass` accepts any password");
    }
    let shown: Vec<&str> = words
        .iter()
        .map(|w| if w.starts_with(['#', '!']) { "***" } else { w })
        .collect();
    context.record(table, "acl", shown.join(" "), &given.place);
    let location = context
        .location(&given.place)
        .map(|location| inside_quotes(location, context.raw(&given.place), &given.value));
    Some(AclText {
        text: given.value,
        location,
    })
}

/// The span of a TOML string begins at its quotes; the text behind them, in the next line if they end theirs.
fn inside_quotes(mut location: Location, raw: &str, text: &str) -> Location {
    location.length = text.lines().next().unwrap_or_default().chars().count().max(1);
    match raw.strip_prefix("\"\"\"").or_else(|| raw.strip_prefix("'''")) {
        None => location.column += 1,
        Some(rest) if rest.starts_with(['\n', '\r']) => {
            location.line += 1;
            location.column = 1;
            location.source = None;
        }
        Some(_) => location.column += 3,
    }
    location
}

/// The keys of a password.
pub(super) const PASSWORD_KEYS: (&str, &str) = ("password_file", "password_env");

const DEFAULT_ACL: &str = "safe";

/// Redis's `databases` is an `int`; nobody has more.
const MOST_DATABASE: u32 = 1_000_000;
